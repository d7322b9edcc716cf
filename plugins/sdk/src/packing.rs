//! Which candidates to measure at the same time.

use std::cmp::Reverse;

use crate::{Candidate, History};

/// The candidates to ask for in one step: as many as fit the GPU budget together, those that already run or ran first,
/// then in the given order. At least one, if there is any.
///
/// The host measures a step's probes, and only then asks again. Asking for more candidates than fit at once would make it
/// stop engines and start them again at every step, and starting is what costs; a strategy that stays with a few until
/// they are finished starts each engine once.
pub fn together<'a>(unfinished: Vec<Candidate<'a>>, history: &History, total_gpus: u32) -> Vec<Candidate<'a>> {
    let mut ordered = unfinished;
    ordered.sort_by_key(|c| Reverse(history.facts_of(c.id).is_some()));
    let mut free = total_gpus;
    let mut chosen: Vec<Candidate<'a>> = Vec::new();
    for candidate in ordered {
        match free.checked_sub(candidate.gpus) {
            Some(left) => free = left,
            None if chosen.is_empty() => free = 0,
            None => continue,
        }
        chosen.push(candidate);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::candidate;
    use crate::{Facts, Role};

    fn ids(gpus: &[u32], running: &[u32], total_gpus: u32) -> Vec<u32> {
        let mut history = History::empty();
        for &candidate in running {
            history.facts.push(Facts { candidate, kv_tokens: 1, max_running: 1, launch_seconds: 1.0 });
        }
        let all = gpus.iter().zip(0..).map(|(&gpus, id)| Candidate { id, ..candidate(Role::Decode, "x", gpus) });
        together(all.collect(), &history, total_gpus).iter().map(|c| c.id).collect()
    }

    #[test]
    fn running_engines_stay_and_gaps_are_filled() {
        assert_eq!(ids(&[4, 8, 2, 1], &[2], 8), [2, 0, 3]);
        assert_eq!(ids(&[4, 2], &[], 8), [0, 1]);
    }

    #[test]
    fn one_is_asked_for_even_if_it_is_too_large() {
        assert_eq!(ids(&[16, 1], &[], 8), [0]);
        assert!(ids(&[], &[], 8).is_empty());
    }
}
