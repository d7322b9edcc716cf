//! What a run may cost, and whether it can afford what it is about to do.
//!
//! ```text
//! events --> what engines hold, how far forecasts were off
//!                 |
//! launch, point --> forecast at its worst, with everything that is up kept until then --> begun, or the run ends
//!                                                                                          |
//! a forecast that was too hopeful --> broken off just before the limit <-------------------'
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::domain::{Candidate, CandidateId, History};
use crate::run::{Event, Observer, Record, Retry};
use crate::spec::BudgetSpec;

/// A launch or a point may take this many times its forecast, before this run has seen any.
const DOUBT: f64 = 1.5;

/// Once it has: this many times the worst that it saw, relative to the forecast.
const CAUTION: f64 = 1.25;

/// Engines take a while to go; this long is kept for it, in seconds.
const RELEASE_S: f64 = 15.0;

/// What is about to begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// An engine of so many GPUs comes up.
    Launch {
        /// GPUs.
        gpus: u32,
    },
    /// A point is measured on an engine that is up.
    Measure,
}

/// The limits of a run and what it has used of them. Cheap to clone; an observer of the run's events.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    gpu_seconds: Option<f64>,
    wall_s: Option<f64>,
    gpus: Vec<u32>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// GPUs times seconds of engines that are gone.
    spent: f64,
    held: Vec<Held>,
    /// Ends of what was begun, at its worst, by candidate.
    busy: Vec<(CandidateId, f64)>,
    /// How long things take at their worst, relative to the forecast.
    launch_doubt: f64,
    measure_doubt: f64,
    seen: [bool; 2],
    /// Forecasts of what was begun: candidate, start, seconds.
    forecasts: Vec<(CandidateId, f64, f64)>,
    ended_by: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    candidate: CandidateId,
    gpus: f64,
    since_s: f64,
    is_up: bool,
}

impl State {
    fn used_at(&self, at_s: f64) -> f64 {
        self.spent + self.held.iter().map(|h| h.gpus * (at_s - h.since_s).max(0.0)).sum::<f64>()
    }

    fn forget(&mut self, candidate: CandidateId) {
        self.busy.retain(|(id, _)| *id != candidate);
        self.forecasts.retain(|(id, ..)| *id != candidate);
    }

    fn let_go(&mut self, candidate: CandidateId, at_s: f64) {
        if let Some(index) = self.held.iter().position(|h| h.candidate == candidate) {
            let held = self.held.swap_remove(index);
            self.spent += held.gpus * (at_s - held.since_s).max(0.0);
        }
    }

    /// Compares what is over with its forecast.
    fn learn(&mut self, candidate: CandidateId, at_s: f64, is_launch: bool) {
        let forecast = self.forecasts.iter().find(|(id, ..)| *id == candidate).copied();
        if let Some((_, since_s, expected_s)) = forecast.filter(|(.., expected_s)| *expected_s > 0.0) {
            let ratio = CAUTION * ((at_s - since_s) / expected_s).max(1.0);
            let (doubt, seen) = match (is_launch, &mut self.seen) {
                (true, [seen, _]) => (&mut self.launch_doubt, seen),
                (false, [_, seen]) => (&mut self.measure_doubt, seen),
            };
            *doubt = if *seen { doubt.max(ratio) } else { ratio };
            *seen = true;
        }
        self.forget(candidate);
    }
}

impl Budget {
    /// `spent_gpu_seconds` is what an earlier part of this run used.
    pub fn new(spec: &BudgetSpec, candidates: &[Candidate], spent_gpu_seconds: f64) -> Self {
        let state = State {
            spent: spent_gpu_seconds,
            held: Vec::new(),
            busy: Vec::new(),
            launch_doubt: DOUBT,
            measure_doubt: DOUBT,
            seen: [false; 2],
            forecasts: Vec::new(),
            ended_by: None,
        };
        Self(Arc::new(Shared {
            gpu_seconds: spec.gpu_seconds(),
            wall_s: spec.max_wall_s,
            gpus: candidates.iter().map(Candidate::gpus).collect(),
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }

    /// Whether anything is limited.
    pub fn is_limited(&self) -> bool {
        self.0.gpu_seconds.is_some() || self.0.wall_s.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the run ends, if the budget is the reason.
    pub fn ended_by(&self) -> Option<String> {
        self.state().ended_by.clone()
    }

    /// GPUs times seconds that were used until then.
    pub fn used_gpu_seconds(&self, now_s: f64) -> f64 {
        self.state().used_at(now_s)
    }

    /// Whether the run can afford it, were it to take the worst of its forecast and every engine that is up stayed until
    /// the last action ends. If not, the run is over.
    pub fn affords(&self, action: Action, candidate: CandidateId, expected: Duration, now_s: f64) -> bool {
        if !self.is_limited() {
            return true;
        }
        let mut state = self.state();
        if state.ended_by.is_some() {
            return false;
        }
        let (doubt, new_gpus) = match action {
            Action::Launch { gpus } => (state.launch_doubt, f64::from(gpus)),
            Action::Measure => (state.measure_doubt, 0.0),
        };
        let until_s = now_s + expected.as_secs_f64() * doubt;
        let end_s = state.busy.iter().map(|(_, s)| *s).fold(until_s, f64::max) + RELEASE_S;
        let gpu_seconds = state.used_at(end_s) + new_gpus * (end_s - now_s);
        let what = match action {
            Action::Launch { .. } => "launch",
            Action::Measure => "point",
        };
        let over = |limit: Option<f64>, needed: f64, unit: &str, per: f64| {
            let limit = limit.filter(|limit| needed > *limit)?;
            Some(format!(
                "the next {what} could bring the run to {:.2} {unit}, and {:.2} are allowed",
                needed / per,
                limit / per
            ))
        };
        let reason = over(self.0.gpu_seconds, gpu_seconds, "GPU-hours", 3600.0)
            .or_else(|| over(self.0.wall_s, end_s, "minutes", 60.0));
        if let Some(reason) = reason {
            state.ended_by = Some(reason);
            return false;
        }
        state.busy.push((candidate, until_s));
        state.forecasts.push((candidate, now_s, expected.as_secs_f64()));
        true
    }

    /// Waits until going on would exceed a limit, although nothing was begun that was forecast to. `now_s` is the run's
    /// clock.
    pub async fn used_up(&self, now_s: impl Fn() -> f64) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = now_s();
            let left = {
                let state = self.state();
                let holding: f64 = state.held.iter().map(|h| h.gpus).sum();
                let by_gpus = self.0.gpu_seconds.filter(|_| holding > 0.0);
                let by_gpus = by_gpus.map(|limit| (limit - state.used_at(now)) / holding);
                let by_wall = self.0.wall_s.map(|limit| limit - now);
                by_gpus.into_iter().chain(by_wall).reduce(f64::min)
            };
            // Half of what is kept for releasing engines; the other half is theirs.
            let left_s = left.map(|s| s - RELEASE_S / 2.0);
            if left_s.is_some_and(|s| s <= 0.0) {
                self.state().ended_by.get_or_insert_with(|| {
                    "it took longer than forecast, and the measurement under way was broken off".to_owned()
                });
                return;
            }
            match left_s.and_then(|s| Duration::try_from_secs_f64(s).ok()) {
                Some(left) => {
                    tokio::select! {
                        () = tokio::time::sleep(left) => {}
                        () = changed => {}
                    }
                }
                None => changed.await,
            }
        }
    }
}

impl Observer for Budget {
    fn on(&mut self, record: &Record, _history: &History) {
        let at_s = record.at_s;
        let mut state = self.state();
        match &record.event {
            Event::Launching { candidate } => {
                let gpus = self.0.gpus.get(*candidate as usize).map_or(0.0, |gpus| f64::from(*gpus));
                state.held.push(Held { candidate: *candidate, gpus, since_s: at_s, is_up: false });
            }
            Event::Launched { facts } => {
                state.held.iter_mut().filter(|h| h.candidate == facts.candidate).for_each(|h| h.is_up = true);
                state.learn(facts.candidate, at_s, true);
            }
            Event::Measured { measurement, .. } => state.learn(measurement.candidate, at_s, false),
            Event::Failed { failure, .. } | Event::Retrying { retry: Retry { failure, .. }, .. } => {
                // A launch that failed has freed its GPUs; an engine that is lost is released by itself.
                let is_up = state.held.iter().any(|h| h.candidate == failure.candidate && h.is_up);
                if failure.probe.is_none() && !is_up {
                    state.let_go(failure.candidate, at_s);
                }
                state.forget(failure.candidate);
            }
            Event::Released { candidate } => {
                state.let_go(*candidate, at_s);
                state.forget(*candidate);
            }
            _ => return,
        }
        drop(state);
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Without candidates: what an event's engine holds is added by hand.
    fn budget(max_gpu_hours: Option<f64>, max_wall_s: Option<f64>) -> Budget {
        Budget::new(&BudgetSpec { max_gpu_hours, max_wall_s, ..BudgetSpec::default() }, &[], 0.0)
    }

    fn hold(budget: &Budget, candidate: u32, gpus: f64, since_s: f64) {
        budget.state().held.push(Held { candidate, gpus, since_s, is_up: true });
    }

    #[test]
    fn without_limits_everything_is_affordable() {
        let budget = budget(None, None);
        assert!(!budget.is_limited());
        assert!(budget.affords(Action::Launch { gpus: 1 << 20 }, 0, MINUTE * 1_000_000, 0.0));
    }

    #[test]
    fn the_worst_of_the_forecast_counts_and_the_time_to_release() {
        // 60 s at their worst are 90 s, and 15 s to go: 105 s on 4 GPUs are 0.1167 GPU-hours.
        assert!(budget(Some(0.117), None).affords(Action::Launch { gpus: 4 }, 0, MINUTE, 0.0));
        let short = budget(Some(0.116), None);
        assert!(!short.affords(Action::Launch { gpus: 4 }, 0, MINUTE, 0.0));
        assert!(short.ended_by().unwrap().contains("0.12 GPU-hours"), "{:?}", short.ended_by());
        assert!(!short.affords(Action::Measure, 0, Duration::ZERO, 0.0), "what is over is over");
        assert!(budget(None, Some(105.0)).affords(Action::Launch { gpus: 4 }, 0, MINUTE, 0.0));
        assert!(!budget(None, Some(104.0)).affords(Action::Launch { gpus: 4 }, 0, MINUTE, 0.0));
    }

    #[test]
    fn engines_that_are_up_are_paid_for_until_the_last_action_ends() {
        let budget = budget(Some(1.0), None);
        hold(&budget, 0, 8.0, 0.0);
        // 8 GPUs for 420 s are 3360 of 3600 GPU-seconds; 30 more on them are too many with what is kept.
        assert!(budget.affords(Action::Measure, 0, Duration::from_secs(10), 410.0));
        assert!(!budget.affords(Action::Measure, 0, Duration::from_secs(20), 420.0));
    }

    #[test]
    fn a_launch_that_took_twice_its_forecast_makes_the_next_one_dearer() {
        let mut budget = budget(None, Some(1e4));
        assert!(budget.affords(Action::Launch { gpus: 1 }, 0, MINUTE, 0.0));
        let facts = crate::domain::EngineFacts {
            candidate: 0,
            kv_tokens: 1,
            max_running: 1,
            launch_s: 120.0,
            kv_sources: Vec::new(),
        };
        let event = Event::Launched { facts };
        budget.on(&Record { seq: 0, at_s: 120.0, event }, &History::default());
        assert!((budget.state().launch_doubt - 2.5).abs() < 1e-9);
        assert!(budget.affords(Action::Launch { gpus: 1 }, 0, MINUTE, 1e4 - 166.0));
        assert!(!budget.affords(Action::Launch { gpus: 1 }, 0, MINUTE, 1e4 - 164.0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_too_hopeful_is_broken_off_before_the_limit() {
        let budget = budget(Some(1.0), None);
        let start = tokio::time::Instant::now();
        hold(&budget, 0, 4.0, 0.0);
        budget.used_up(|| start.elapsed().as_secs_f64()).await;
        let used = budget.used_gpu_seconds(start.elapsed().as_secs_f64());
        assert!((3560.0..=3600.0).contains(&used), "{used}");
        assert!(budget.ended_by().unwrap().contains("broken off"));
    }
}
