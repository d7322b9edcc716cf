//! What every selection policy must keep.

use super::world::{World, large};
use super::{BOUNDED, Checker, EMPTY, FUEL_SHARE, IDS, KEEPS_CONTRACT, LARGE, ROWS, SAME_TWICE};
use crate::domain::{CandidateId, Choice, History, Role, Selection};
use crate::plugin::api::SelectionPolicy;
use crate::plugin::{CallProblem, Limits, PluginError, Problem, Returned};

const RANKS: &str = "each role that was measured has a winner, and the winner was measured";
const ANSWERS: &str = "it answers most jobs; one that it has no answer for, it declines as `unsupported`";
const ONLY_ONE: &str = "a candidate that is alone in its role wins";

pub(super) fn check(checker: &mut Checker, worlds: &[World], policy: &dyn SelectionPolicy, limits: &Limits) {
    let mut declined = 0;
    for world in worlds {
        if checker.given_up() {
            return;
        }
        let case = &world.name;
        if is_declined(&policy.select(&world.job, &world.candidates, &world.history)) {
            declined += 1;
            continue;
        }
        let ask = |checker: &mut Checker, world: &World, history: &History| {
            checker.value(policy.select(&world.job, &world.candidates, history))
        };
        let answer = match ask(checker, world, &world.history) {
            Ok(answer) => answer,
            Err(error) => {
                checker.check(KEEPS_CONTRACT, case, Err(error));
                continue;
            }
        };
        checker.check(KEEPS_CONTRACT, case, Ok(()));
        checker.check(RANKS, case, has_winners(&answer, world));
        for role in Role::ALL {
            let alone: Vec<CandidateId> = of_role(world, role);
            if let [only] = alone.as_slice() {
                let first = answer.ranking(role).first().map(|choice| choice.candidate);
                let result = if first == Some(*only) { Ok(()) } else { Err(format!("the {role} winner is {first:?}")) };
                checker.check(ONLY_ONE, case, result);
            }
        }

        let again = ask(checker, world, &world.history);
        let same = |other: Result<Selection, String>, ids: &dyn Fn(CandidateId) -> CandidateId| {
            same_selection(&answer, &other?, ids)
        };
        let exactly = again.and_then(|again| match again == answer {
            true => Ok(()),
            false => Err(first_difference(&answer, &again)),
        });
        checker.check(SAME_TWICE, case, exactly);
        let shuffled = ask(checker, world, &world.shuffled_history());
        checker.check(ROWS, case, same(shuffled, &|id| id));
        let (renumbered, new) = world.renumbered();
        let other = ask(checker, &renumbered, &renumbered.history);
        checker.check(IDS, case, same(other, &|id| new.get(id as usize).copied().unwrap_or(id)));

        for (what, history) in [("nothing measured", History::default()), ("all failed", world.all_failed())] {
            let called = policy.select(&world.job, &world.candidates, &history);
            let result = checker.graceful(called).and_then(|answer| match answer {
                Some(answer) => match Role::ALL.into_iter().flat_map(|r| answer.ranking(r)).find(|c| c.meets_sla) {
                    Some(choice) => Err(format!("candidate {} meets the SLA, unmeasured", choice.candidate)),
                    None => Ok(()),
                },
                None => Ok(()),
            });
            checker.check(EMPTY, &format!("{case}, {what}"), result);
        }
    }
    let most = if declined * 2 <= worlds.len() { Ok(()) } else { Err(format!("it declines {declined}")) };
    checker.check(ANSWERS, &format!("{} clusters", worlds.len()), most);
    for count in LARGE {
        let case = format!("{count} candidates");
        let result = large(count).map_err(|error| error.to_string()).and_then(|world| {
            let decided = policy
                .select(&world.job, &world.candidates, &world.history)
                .map_err(|error| super::describe(&error))?;
            checker.cost(&decided.cost);
            let fuel = decided.cost.fuel;
            if fuel <= limits.fuel / FUEL_SHARE { Ok(()) } else { Err(format!("{fuel} of {} fuel", limits.fuel)) }
        });
        checker.check(BOUNDED, &case, result);
    }
}

/// A policy may know no end-to-end target, say. To say so is honest; to ignore the target would not be.
fn is_declined<T>(called: &Result<T, PluginError>) -> bool {
    let problem = called.as_ref().err().map(PluginError::problem);
    matches!(problem, Some(Problem::Call { problem: CallProblem::Returned(Returned::Unsupported(_)), .. }))
}

fn of_role(world: &World, role: Role) -> Vec<CandidateId> {
    (0_u32..).zip(&world.candidates).filter(|(_, candidate)| candidate.role == role).map(|(id, _)| id).collect()
}

fn has_winners(answer: &Selection, world: &World) -> Result<(), String> {
    for role in Role::ALL {
        let measured = |id: CandidateId| world.history.measurements_of(id).next().is_some();
        match answer.ranking(role).first() {
            None if of_role(world, role).into_iter().any(measured) => {
                return Err(format!("no {role} candidate is ranked"));
            }
            Some(first) if !measured(first.candidate) => {
                return Err(format!("{role} candidate {} was never measured", first.candidate));
            }
            _ => {}
        }
    }
    Ok(())
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * a.abs().max(b.abs())
}

/// Equal, but for the order of those that are exactly as good, and for rounding of sums.
fn same_selection(a: &Selection, b: &Selection, ids: &dyn Fn(CandidateId) -> CandidateId) -> Result<(), String> {
    for role in Role::ALL {
        let (left, right) = (a.ranking(role), b.ranking(role));
        if left.len() != right.len() {
            return Err(format!("{} {role} candidates are ranked, then {}", left.len(), right.len()));
        }
        for (place, (x, y)) in (1_usize..).zip(left.iter().zip(right)) {
            if !close(x.score, y.score) {
                return Err(format!("{role}, place {place}: score {} becomes {}", x.score, y.score));
            }
        }
        for x in left {
            let Some(y) = right.iter().find(|y| y.candidate == ids(x.candidate)) else {
                return Err(format!("{role} candidate {} is not ranked any more", x.candidate));
            };
            let key = |c: &Choice| (c.concurrency, c.meets_sla, c.binding.clone());
            if key(x) != key(y) || !close(x.score, y.score) {
                return Err(format!(
                    "{role} candidate {}: at {} with score {} becomes at {} with score {}",
                    x.candidate, x.concurrency, x.score, y.concurrency, y.score
                ));
            }
        }
    }
    Ok(())
}

fn first_difference(a: &Selection, b: &Selection) -> String {
    match same_selection(a, b, &|id| id) {
        Err(difference) => difference,
        Ok(()) => "its words change from call to call".to_owned(),
    }
}
