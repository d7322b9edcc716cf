//! Which failures of engines are tried again, how often and after what pause. The table is all of it; whatever is not in
//! it is the last word: what does not fit now will not fit in a minute.
//!
//! Counted is the engine, not the candidate: both roles may wait for the same one. What earlier parts of a run saw counts
//! too, so that a run that is resumed does not begin to count anew.

use std::time::Duration;

use tokio::time::Instant;

use super::pool::Key;
use crate::domain::{Failure, FailureCause, FailureClass};

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// For a person.
    pub what: &'static str,
    /// Of which cause; absent: an engine that came up and ended in use, of a cause that nobody knows.
    pub cause: Option<FailureCause>,
    /// How often it is tried again.
    pub again: u32,
    /// Before the first of these tries, in seconds; twice as long before each further one.
    pub pause_s: u64,
}

/// What passes by itself. `docs/safety.md` shows it, and `tests/tests/docs.rs` compares.
pub const RULES: [Rule; 6] = [
    Rule { what: "pod evicted or preempted", cause: Some(FailureCause::Evicted), again: 3, pause_s: 30 },
    Rule { what: "node lost", cause: Some(FailureCause::NodeLost), again: 2, pause_s: 60 },
    Rule {
        what: "image registry out of order: 5xx, rate limit, timeout",
        cause: Some(FailureCause::Registry),
        again: 3,
        pause_s: 60,
    },
    Rule {
        what: "connection broken while it was loading",
        cause: Some(FailureCause::Connection),
        again: 2,
        pause_s: 15,
    },
    Rule { what: "GPUs taken by somebody else", cause: Some(FailureCause::GpusTaken), again: 2, pause_s: 60 },
    Rule { what: "first crash in use, out of memory excepted", cause: None, again: 1, pause_s: 2 },
];

/// Of all causes together: an engine that fails in ever new ways is given up.
pub const MOST_TRIES: u32 = 5;

/// The rule for a failure, by its place in the table; none: it is not tried again.
fn rule(failure: &Failure) -> Option<usize> {
    if failure.probe.is_some() {
        return None;
    }
    let in_use = failure.class == FailureClass::Crash;
    let cause = match failure.cause {
        // These are words for what happens while an engine comes up; in use they are a crash.
        None | Some(FailureCause::CrashLoop | FailureCause::Connection) if in_use => None,
        None => return None,
        known => known,
    };
    RULES.iter().position(|rule| rule.cause == cause)
}

/// What becomes of an engine that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is tried again.
    Again {
        /// Tries so far.
        tried: u32,
        /// Until then.
        pause: Duration,
    },
    /// That was it.
    GivenUp {
        /// Tries so far.
        tried: u32,
    },
}

/// Failures of engines that were not the last word.
#[derive(Debug, Default)]
pub(super) struct Tries(Vec<Try>);

#[derive(Debug)]
struct Try {
    key: Key,
    rule: usize,
    not_before: Option<Instant>,
}

impl Tries {
    /// How often the engine failed without that being the last word.
    pub(super) fn of(&self, key: Key) -> u32 {
        self.0.iter().filter(|tried| tried.key == key).count() as u32
    }

    /// Until when the engine has to wait; none: it need not.
    pub(super) fn not_before(&self, key: Key, now: Instant) -> Option<Instant> {
        let of_engine = self.0.iter().filter(|tried| tried.key == key);
        of_engine.filter_map(|tried| tried.not_before).max().filter(|at| *at > now)
    }

    /// What an earlier part of the run saw. The pause is over: starting again took longer than that, or nearly.
    pub(super) fn recall(&mut self, key: Key, failure: &Failure) {
        self.0.extend(rule(failure).map(|rule| Try { key, rule, not_before: None }));
    }

    /// Takes note of a failure.
    pub(super) fn failed(&mut self, key: Key, failure: &Failure, now: Instant) -> Next {
        let before = self.of(key);
        let tried = before + 1;
        let Some((index, rule)) = rule(failure).and_then(|index| Some((index, RULES.get(index)?))) else {
            return Next::GivenUp { tried };
        };
        let likewise = self.0.iter().filter(|tried| tried.key == key && tried.rule == index).count() as u32;
        if likewise >= rule.again || tried >= MOST_TRIES {
            return Next::GivenUp { tried };
        }
        let pause = Duration::from_secs(rule.pause_s.saturating_mul(1 << likewise.min(16)));
        self.0.push(Try { key, rule: index, not_before: Some(now + pause) });
        Next::Again { tried, pause }
    }
}

/// A reason that says how often it was tried.
pub(super) fn with_tries(reason: &str, tried: u32) -> String {
    if tried > 1 { format!("{reason}; tried {tried} times") } else { reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Mapping;

    fn failure(class: FailureClass, cause: Option<FailureCause>) -> Failure {
        Failure { candidate: 0, class, cause, probe: None, reason: "no".to_owned() }
    }

    fn key(tp: u32) -> Key {
        Key { mapping: Mapping::tensor(tp), role: None }
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_tried_again_so_often_with_growing_pauses_and_each_engine_counts_for_itself() {
        let mut tries = Tries::default();
        let evicted = failure(FailureClass::Launch, Some(FailureCause::Evicted));
        let now = Instant::now();
        let mut pauses = Vec::new();
        while let Next::Again { tried, pause } = tries.failed(key(1), &evicted, now) {
            assert_eq!(tried as usize, pauses.len() + 1);
            assert_eq!(tries.not_before(key(1), now), Some(now + pause));
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [30, 60, 120]);
        assert_eq!(tries.failed(key(1), &evicted, now), Next::GivenUp { tried: 4 });
        assert_eq!(tries.not_before(key(2), now), None);
        assert!(matches!(tries.failed(key(2), &evicted, now), Next::Again { tried: 1, .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_pass_is_the_last_word_at_once() {
        let mut tries = Tries::default();
        for cause in [
            FailureCause::GpuMemory,
            FailureCause::HostMemory,
            FailureCause::CrashLoop,
            FailureCause::CommandLine,
            FailureCause::ImageMissing,
            FailureCause::ImageDenied,
            FailureCause::Missing,
            FailureCause::Quota,
            FailureCause::Unschedulable,
            FailureCause::NotReady,
            FailureCause::OperatorSilent,
            FailureCause::OperatorFailed,
            FailureCause::Deleted,
        ] {
            let next = tries.failed(key(1), &failure(FailureClass::Launch, Some(cause)), Instant::now());
            assert_eq!(next, Next::GivenUp { tried: 1 }, "{cause}");
        }
        for class in [FailureClass::Launch, FailureClass::DoesNotFit, FailureClass::Timeout, FailureClass::Other] {
            assert_eq!(tries.failed(key(1), &failure(class, None), Instant::now()), Next::GivenUp { tried: 1 });
        }
        let out_of_memory = failure(FailureClass::Crash, Some(FailureCause::GpuMemory));
        assert_eq!(tries.failed(key(1), &out_of_memory, Instant::now()), Next::GivenUp { tried: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_crash_in_use_is_forgiven_and_a_mixture_ends_too() {
        let mut tries = Tries::default();
        let crash = failure(FailureClass::Crash, None);
        assert!(matches!(tries.failed(key(1), &crash, Instant::now()), Next::Again { tried: 1, .. }));
        assert_eq!(tries.failed(key(1), &crash, Instant::now()), Next::GivenUp { tried: 2 });

        let mut tries = Tries::default();
        let passing = RULES.iter().cycle().map(|rule| failure(FailureClass::Crash, rule.cause));
        let tried =
            passing.take_while(|failure| matches!(tries.failed(key(1), failure, Instant::now()), Next::Again { .. }));
        assert_eq!(tried.count() as u32, MOST_TRIES - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_earlier_part_of_the_run_saw_counts_and_its_pause_is_over() {
        let mut tries = Tries::default();
        let crash = failure(FailureClass::Crash, None);
        tries.recall(key(1), &crash);
        tries.recall(key(1), &failure(FailureClass::Launch, None));
        assert_eq!((tries.of(key(1)), tries.not_before(key(1), Instant::now())), (1, None));
        assert_eq!(tries.failed(key(1), &crash, Instant::now()), Next::GivenUp { tried: 2 });
    }
}
