//! The one place that events go to: journal first, then everybody who watches.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::{Event, Journal, JournalError, Phase, Record};
use crate::domain::{History, Probe};

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
    /// In which phase each measurement of the history was asked for.
    phases: Vec<Phase>,
    /// What an earlier part of this run found out; a point moves to `history` when it is asked for again.
    known: History,
    observers: Vec<Box<dyn Observer>>,
}

impl Recorder {
    /// Starts the run's clock. `past` is what an earlier part of this run recorded.
    pub fn new(journal: Option<Journal>, past: &[Record], observers: Vec<Box<dyn Observer>>) -> Self {
        let mut known = History::default();
        past.iter().for_each(|record| apply(&mut known, &record.event));
        Self {
            inner: Arc::new(Mutex::new(Inner {
                journal,
                history: History::default(),
                phases: Vec::new(),
                known,
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
        let at_s = self.now_s();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { journal, history, phases, observers, .. } = &mut *inner;
        let record = match journal {
            Some(journal) => journal.append(at_s, event)?,
            None => Record { seq: 0, at_s, event },
        };
        apply(history, &record.event);
        if let Event::Measured { phase, .. } = record.event {
            phases.push(phase);
        }
        observers.iter_mut().for_each(|observer| observer.on(&record, history));
        Ok(())
    }

    /// Takes a point over from an earlier part of this run, where it is known from there: then it is in the history, as
    /// if it had just been measured (or had just failed), and nobody is told.
    pub fn recall(&self, phase: Phase, probe: &Probe) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { history, phases, known, .. } = &mut *inner;
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
                phases.push(phase);
            }
            None => history.failures.extend(failure.cloned()),
        }
        true
    }

    /// Runs `read` on all that is known so far.
    pub fn with_history<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&self.inner.lock().unwrap_or_else(PoisonError::into_inner).history)
    }

    /// In which phase each measurement of the history was asked for.
    pub fn phases(&self) -> Vec<Phase> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).phases.clone()
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
            history.facts.push(facts.clone())
        }
        Event::Measured { measurement, .. } => history.measurements.push(measurement.clone()),
        Event::Failed { failure, .. } => history.failures.push(failure.clone()),
        _ => {}
    }
}
