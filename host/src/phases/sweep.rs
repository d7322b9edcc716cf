//! Phases 1, 2, 4 and 5 as the run tells of them. Both sweeps run at the same time, and so do both curves; they are told of
//! one after the other, so that the phases of a run are in order: phase 2 begins, for whoever watches, when phase 1 ends,
//! and some of its points are known by then.

use super::{Context, RunError, finish, start};
use crate::domain::{Goal, History, Step};
use crate::run::{Decision, Event, Phase};
use crate::scheduler::side_by_side::{self, Strategist, Sweeping};

/// What is left to do when a goal is reached: write artifacts, and sum it up for a person.
pub type Finish<'f> = dyn Fn(&Context<'_>, Phase, &str) -> Result<String, RunError> + 'f;

struct Told<'t, 'c, 'f> {
    context: &'t mut Context<'c>,
    /// Those that have not begun yet, the next one last.
    later: Vec<Phase>,
    finish: &'t Finish<'f>,
}

impl Strategist for Told<'_, '_, '_> {
    type Error = RunError;

    fn next(&mut self, phase: Phase, goal: &Goal, history: &History) -> Result<Step, RunError> {
        let Context { recorder, spec, space, policies, .. } = &mut *self.context;
        let made = policies.next(recorder, phase, &spec.job, goal, &space.candidates, history)?;
        recorder.record(Event::Decided {
            phase,
            plugin: made.plugin,
            cost: made.decided.cost,
            decision: Decision::Sweep { goal: *goal, step: made.decided.value.clone() },
        })?;
        Ok(made.decided.value)
    }

    fn reached(&mut self, phase: Phase, why: &str) -> Result<(), RunError> {
        let summary = (self.finish)(self.context, phase, why)?;
        finish(self.context.recorder, phase, summary)?;
        if let Some(next) = self.later.pop() {
            start(self.context.recorder, next)?;
        }
        Ok(())
    }
}

/// Pursues the goals, which are of different roles.
///
/// # Errors
/// If a plugin fails and nobody stands in for it, if `finish` fails, or if the run is interrupted.
pub async fn run(context: &mut Context<'_>, goals: &[(Phase, Goal)], finish: &Finish<'_>) -> Result<(), RunError> {
    let mut later: Vec<Phase> = goals.iter().rev().map(|(phase, _)| *phase).collect();
    if let Some(first) = later.pop() {
        start(context.recorder, first)?;
    }
    let sweeping = Sweeping {
        scheduler: context.scheduler,
        recorder: context.recorder,
        job: &context.spec.job,
        candidates: &context.space.candidates,
    };
    side_by_side::pursue(sweeping, &mut Told { context, later, finish }, goals).await
}
