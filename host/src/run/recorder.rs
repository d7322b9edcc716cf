//! The one place that events go to: journal first, then everybody who watches.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::reuse::{Earlier, Known};
use super::{Event, Journal, JournalError, Phase, Record, Retry};
use crate::domain::{Aim, Failure, History, Probe};
use crate::process::secrets::masked;

/// Somebody who watches a run: progress display, status file, log.
pub trait Observer: Send {
    /// Called after the record is in the journal, in order.
    fn on(&mut self, record: &Record, history: &History);
}

/// Appends events to the journal, keeps the history that policies see, tells observers. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Mutex<Inner>>,
    started: Instant,
    /// Seconds that an earlier part of this run took.
    offset_s: f64,
}

struct Inner {
    /// None in a dry run.
    journal: Option<Journal>,
    history: History,
    /// In which phase each measurement of the history was asked for, and from which earlier run it was taken over.
    phases: Vec<(Phase, Option<String>)>,
    /// What an earlier part of this run found out; a point moves to `history` when it is asked for again.
    known: History,
    /// Failures that were not the last word, of this part of the run and of earlier ones.
    retries: Vec<Retry>,
    /// Of those, points that were taken over from an earlier run.
    taken_over: Vec<(Point, String)>,
    /// What earlier runs found out.
    earlier: Earlier,
    observers: Vec<Box<dyn Observer>>,
}

type Point = (crate::domain::CandidateId, u32, u32, u32);

impl Recorder {
    /// Starts the run's clock. `past` is what an earlier part of this run recorded.
    pub fn new(journal: Option<Journal>, past: &[Record], observers: Vec<Box<dyn Observer>>) -> Self {
        let mut known = History::default();
        past.iter().for_each(|record| apply(&mut known, &record.event));
        let taken_over = |record: &Record| match &record.event {
            Event::Reused { measurement, run, .. } => Some((measurement.point(), run.clone())),
            _ => None,
        };
        let taken_over = past.iter().filter_map(taken_over).collect();
        let retry = |record: &Record| match &record.event {
            Event::Retrying { retry, .. } => Some(retry.clone()),
            _ => None,
        };
        let retries = past.iter().filter_map(retry).collect();
        Self {
            inner: Arc::new(Mutex::new(Inner {
                journal,
                history: History::default(),
                phases: Vec::new(),
                known,
                retries,
                taken_over,
                earlier: Earlier::default(),
                observers,
            })),
            started: Instant::now(),
            offset_s: past.last().map_or(0.0, |record| record.at_s),
        }
    }

    /// Seconds since the run started, on the cluster's clock, rounded to microseconds so that they print exactly.
    pub fn now_s(&self) -> f64 {
        let seconds = self.offset_s + self.started.elapsed().as_secs_f64();
        (seconds * 1e6).round() / 1e6
    }

    /// Records an event.
    ///
    /// # Errors
    /// If the journal cannot be written. Then nobody is told.
    pub fn record(&self, event: Event) -> Result<(), JournalError> {
        // What went wrong is told in the words of engines, which may hold anything.
        let event = match event {
            Event::Failed { phase, mut failure } => {
                failure.reason = masked(&failure.reason).into_owned();
                Event::Failed { phase, failure }
            }
            Event::Retrying { phase, mut retry } => {
                retry.failure.reason = masked(&retry.failure.reason).into_owned();
                Event::Retrying { phase, retry }
            }
            other => other,
        };
        let at_s = self.now_s();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { journal, history, phases, retries, observers, .. } = &mut *inner;
        let record = match journal {
            Some(journal) => journal.append(at_s, event)?,
            None => Record { seq: 0, at_s, event },
        };
        apply(history, &record.event);
        match &record.event {
            Event::Measured { phase, .. } => phases.push((*phase, None)),
            Event::Reused { phase, run, .. } => phases.push((*phase, Some(run.clone()))),
            Event::Retrying { retry, .. } => retries.push(retry.clone()),
            _ => {}
        }
        observers.iter_mut().for_each(|observer| observer.on(&record, history));
        Ok(())
    }

    /// Takes a point over from an earlier part of this run, where it is known from there: then it is in the history, as
    /// if it had just been measured (or had just failed), and nobody is told.
    pub fn recall(&self, phase: Phase, probe: &Probe) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { history, phases, known, taken_over, .. } = &mut *inner;
        let measurement = known.measurements.iter().find(|m| m.point() == probe.point());
        let failure = known.failures.iter().find(|failure| {
            failure.candidate == probe.candidate && failure.probe.is_none_or(|p| p.point() == probe.point())
        });
        if measurement.is_none() && failure.is_none() {
            return false;
        }
        if history.facts_of(probe.candidate).is_none() {
            history.facts.extend(known.facts_of(probe.candidate).cloned());
        }
        match measurement {
            Some(measurement) => {
                history.measurements.push(measurement.clone());
                let run = taken_over.iter().find(|(point, _)| *point == measurement.point());
                phases.push((phase, run.map(|(_, run)| run.clone())));
            }
            None => history.failures.extend(failure.cloned()),
        }
        true
    }

    /// Failures that were not the last word, those of earlier parts of this run included.
    pub fn retries(&self) -> Vec<Retry> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).retries.clone()
    }

    /// Failures of whole engines that earlier parts of this run found.
    pub fn known_engine_failures(&self) -> Vec<Failure> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.known.failures.iter().filter(|failure| failure.probe.is_none()).cloned().collect()
    }

    /// Points of earlier runs that may be taken over.
    pub fn reusing(&self, earlier: Earlier) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).earlier = earlier;
    }

    /// Takes a point over from an earlier run, where one is known that is good enough. It is recorded as such.
    ///
    /// # Errors
    /// If the journal cannot be written.
    pub fn reuse(&self, phase: Phase, probe: &Probe, aim: Aim) -> Result<bool, JournalError> {
        let found = self.inner.lock().unwrap_or_else(PoisonError::into_inner).earlier.find(probe, aim).cloned();
        let Some(Known { measurement, facts, run }) = found else { return Ok(false) };
        self.record(Event::Reused { phase, measurement, facts, run })?;
        Ok(true)
    }

    /// Points of the history that were taken over from an earlier run, and from which.
    pub fn taken_over(&self) -> Vec<(usize, String)> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let run = |(index, (_, run)): (usize, &(Phase, Option<String>))| Some((index, run.clone()?));
        inner.phases.iter().enumerate().filter_map(run).collect()
    }

    /// Runs `read` on all that is known so far.
    pub fn with_history<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&self.inner.lock().unwrap_or_else(PoisonError::into_inner).history)
    }

    /// In which phase each measurement of the history was asked for.
    pub fn phases(&self) -> Vec<Phase> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.phases.iter().map(|(phase, _)| *phase).collect()
    }

    /// A copy of all that is known so far.
    pub fn history(&self) -> History {
        self.with_history(History::clone)
    }
}

/// Adds to the history what the event tells of candidates.
pub fn apply(history: &mut History, event: &Event) {
    match event {
        // An engine that is launched again says the same; the first word counts.
        Event::Launched { facts } | Event::Joined { facts } if history.facts_of(facts.candidate).is_none() => {
            history.facts.push(facts.clone());
        }
        Event::Reused { measurement, facts, .. } => {
            if history.facts_of(facts.candidate).is_none() {
                history.facts.push(facts.clone());
            }
            history.measurements.push(measurement.clone());
        }
        Event::Measured { measurement, .. } => history.measurements.push(measurement.clone()),
        Event::Failed { failure, .. } => history.failures.push(failure.clone()),
        _ => {}
    }
}
