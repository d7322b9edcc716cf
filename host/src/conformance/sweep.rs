//! What every sweep strategy must keep.

use super::world::{World, large, shuffled};
use super::{BOUNDED, Checker, EMPTY, FUEL_SHARE, IDS, KEEPS_CONTRACT, LARGE, ROWS, SAME_TWICE};
use crate::domain::{CandidateId, CurveGoal, Goal, History, Probe, Role, Step};
use crate::plugin::Limits;
use crate::plugin::api::SweepStrategy;

/// Steps and points after which a sweep counts as endless, as in the phases themselves.
const MAX_STEPS: usize = 500;
const MAX_POINTS: usize = 5_000;
/// Steps of a sweep that are asked again in another order; each costs three more calls.
const STEPS_ASKED_AGAIN: usize = 5;

const ENDS: &str = "every sweep ends: at most 500 steps and 5,000 points";
const ENDS_FAILING: &str = "a sweep ends when every engine fails";
const MEASURES: &str = "a sweep over engines that run measures at least one of them";

pub(super) fn check(checker: &mut Checker, worlds: &[World], strategy: &dyn SweepStrategy, limits: &Limits) {
    for world in worlds {
        for goal in goals(world) {
            if checker.given_up() {
                return;
            }
            let case = format!("{}, {}", world.name, name(&goal));
            drive(checker, world, &goal, strategy, &case);
            let mut failing = world.clone();
            failing.broken = (0..failing.candidates.len() as u32).collect();
            let (_, result) = sweep(checker, &failing, &goal, strategy, |_, _, _| {});
            checker.check(ENDS_FAILING, &case, result.map(drop));
            let called = strategy.next(&world.job, &goal, &world.candidates, &world.all_failed());
            let result = checker.graceful(called).map(drop);
            checker.check(EMPTY, &format!("{case}, all failed"), result);
        }
    }
    for count in LARGE {
        let case = format!("{count} candidates");
        let result = large(count).map_err(|error| error.to_string()).and_then(|world| {
            let mut most = 0;
            for history in [History::default(), world.history.clone()] {
                let decided = strategy
                    .next(&world.job, &Goal::Decode, &world.candidates, &history)
                    .map_err(|error| super::describe(&error))?;
                checker.cost(&decided.cost);
                most = most.max(decided.cost.fuel);
            }
            if most <= limits.fuel / FUEL_SHARE { Ok(()) } else { Err(format!("{most} of {} fuel", limits.fuel)) }
        });
        checker.check(BOUNDED, &case, result);
    }
}

fn goals(world: &World) -> Vec<Goal> {
    let first = |role| (0_u32..).zip(&world.candidates).find(|(_, c)| c.role == role).map(|(id, _)| id);
    let curve = |candidate| CurveGoal { candidate, min_isl: 200, max_isl: 6000, concurrency: 32 };
    let mut goals = vec![Goal::Prefill, Goal::Decode];
    goals.extend(first(Role::Prefill).map(|id| Goal::PrefillCurve(curve(id))));
    goals.extend(first(Role::Decode).map(|id| Goal::DecodeCurve(curve(id))));
    goals
}

const fn name(goal: &Goal) -> &'static str {
    match goal {
        Goal::Prefill => "prefill",
        Goal::Decode => "decode",
        Goal::PrefillCurve(_) => "prefill curve",
        Goal::DecodeCurve(_) => "decode curve",
    }
}

/// Runs a sweep as the phases do. `look` sees each question before it is asked.
fn sweep(
    checker: &mut Checker,
    world: &World,
    goal: &Goal,
    strategy: &dyn SweepStrategy,
    mut look: impl FnMut(&mut Checker, usize, &History),
) -> (History, Result<usize, String>) {
    let mut history = History::default();
    let mut points = 0;
    for step in 0..MAX_STEPS {
        look(checker, step, &history);
        let answer = match checker.value(strategy.next(&world.job, goal, &world.candidates, &history)) {
            Ok(answer) => answer,
            Err(error) => return (history, Err(error)),
        };
        let Step::Measure(probes) = answer else { return (history, Ok(points)) };
        points += probes.len();
        if points > MAX_POINTS {
            return (history, Err(format!("{points} points and no end after {step} steps")));
        }
        for probe in probes {
            if history.is_settled(&probe) {
                continue;
            }
            match world.measure(&probe) {
                Ok(measurement) => {
                    if history.facts_of(probe.candidate).is_none() {
                        history.facts.push(world.facts(probe.candidate));
                    }
                    history.measurements.push(measurement);
                }
                Err(failure) => history.failures.push(failure),
            }
        }
    }
    (history, Err(format!("no end after {MAX_STEPS} steps and {points} points")))
}

fn drive(checker: &mut Checker, world: &World, goal: &Goal, strategy: &dyn SweepStrategy, case: &str) {
    let (renumbered, new) = world.renumbered();
    let map = |id: CandidateId| new.get(id as usize).copied().unwrap_or(id);
    let (history, result) = sweep(checker, world, goal, strategy, |checker, step, history| {
        if step >= STEPS_ASKED_AGAIN {
            return;
        }
        let mut ask = |goal: &Goal, world: &World, history: &History| {
            checker.value(strategy.next(&world.job, goal, &world.candidates, history))
        };
        let Ok(first) = ask(goal, world, history) else { return };
        let place = format!("{case}, step {}", step + 1);
        let again = ask(goal, world, history);
        let rows = ask(goal, world, &shuffled(history, world.seed));
        let ids = ask(&map_goal(goal, map), &renumbered, &map_history(history, map));
        let exactly = again.and_then(|again| if again == first { Ok(()) } else { Err("another step".to_owned()) });
        checker.check(SAME_TWICE, &place, exactly);
        checker.check(ROWS, &place, rows.and_then(|other| same_step(&first, &other, |id| id)));
        checker.check(IDS, &place, ids.and_then(|other| same_step(&first, &other, map)));
    });
    checker.check(KEEPS_CONTRACT, case, result.as_ref().map(drop).map_err(Clone::clone));
    checker.check(ENDS, case, result.map(drop));
    let wanted = |id: CandidateId| match goal {
        Goal::PrefillCurve(curve) | Goal::DecodeCurve(curve) => curve.candidate == id,
        Goal::Prefill | Goal::Decode => {
            world.candidates.get(id as usize).is_some_and(|candidate| candidate.role == goal.role())
        }
    };
    let runs = (0..world.candidates.len() as u32).any(|id| wanted(id) && !world.broken.contains(&id));
    let result = if runs && history.measurements.is_empty() { Err("it measures nothing".to_owned()) } else { Ok(()) };
    checker.check(MEASURES, case, result);
}

fn map_goal(goal: &Goal, map: impl Fn(CandidateId) -> CandidateId) -> Goal {
    let of = |curve: &CurveGoal| CurveGoal { candidate: map(curve.candidate), ..*curve };
    match goal {
        Goal::PrefillCurve(curve) => Goal::PrefillCurve(of(curve)),
        Goal::DecodeCurve(curve) => Goal::DecodeCurve(of(curve)),
        other => *other,
    }
}

fn map_history(history: &History, map: impl Fn(CandidateId) -> CandidateId) -> History {
    let mut history = history.clone();
    history.facts.iter_mut().for_each(|facts| facts.candidate = map(facts.candidate));
    history.measurements.iter_mut().for_each(|m| m.candidate = map(m.candidate));
    history.failures.iter_mut().for_each(|failure| failure.candidate = map(failure.candidate));
    history
}

/// The same points, in whatever order.
fn same_step(a: &Step, b: &Step, map: impl Fn(CandidateId) -> CandidateId) -> Result<(), String> {
    let points = |probes: &[Probe], map: &dyn Fn(CandidateId) -> CandidateId| {
        let mut points: Vec<_> =
            probes.iter().map(|p| (map(p.candidate), p.isl, p.osl, p.concurrency, p.max_samples)).collect();
        points.sort_unstable();
        points
    };
    match (a, b) {
        (Step::Done(_), Step::Done(_)) => Ok(()),
        (Step::Measure(a), Step::Measure(b)) => {
            let (a, b) = (points(a, &map), points(b, &|id| id));
            match a.iter().find(|point| !b.contains(point)).or_else(|| b.iter().find(|point| !a.contains(point))) {
                None => Ok(()),
                Some((candidate, isl, osl, concurrency, _)) => Err(format!(
                    "{} points become {}; they differ in candidate {candidate} at isl {isl}, osl {osl}, concurrency \
                     {concurrency}",
                    a.len(),
                    b.len()
                )),
            }
        }
        _ => Err("one of the two answers is done, the other is not".to_owned()),
    }
}
