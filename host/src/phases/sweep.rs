//! The loop that phases 1, 2, 4 and 5 share: ask the strategy, measure, ask again.

use super::{Context, RunError};
use crate::domain::{Goal, Step};
use crate::run::{Decision, Event, Phase};

/// A strategy that takes more steps than this has lost its way; the points it asked for are kept.
const MAX_STEPS: usize = 500;

/// Runs the strategy until it is done. Returns why it stopped, in its own words.
///
/// # Errors
/// If a plugin fails and nobody stands in for it, or the run is interrupted.
pub async fn run(context: &mut Context<'_>, phase: Phase, goal: Goal) -> Result<String, RunError> {
    for _ in 0..MAX_STEPS {
        let history = context.recorder.history();
        let made = context.policies.next(
            context.recorder,
            phase,
            &context.spec.job,
            &goal,
            &context.space.candidates,
            &history,
        )?;
        context.recorder.record(Event::Decided {
            phase,
            plugin: made.plugin,
            cost: made.decided.cost,
            decision: Decision::Sweep { goal, step: made.decided.value.clone() },
        })?;
        match made.decided.value {
            Step::Done(why) => return Ok(why),
            Step::Measure(probes) => context.scheduler.measure(phase, &probes).await?,
        }
    }
    tracing::warn!("the sweep strategy was cut off after {MAX_STEPS} steps in phase {}", phase.number());
    Ok(format!("cut off after {MAX_STEPS} steps"))
}
