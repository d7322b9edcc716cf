//! Phase 3: who wins?

use super::{Context, RunError};
use crate::domain::Chosen;
use crate::domain::Role;
use crate::run::{Decision, Event, Phase};

/// Asks the policy. Where it finds nobody who meets the SLA, the least bad one wins and the result says so.
///
/// # Errors
/// If the policy fails and nobody stands in for it.
pub async fn run(context: &mut Context<'_>) -> Result<(Chosen, String), RunError> {
    let history = context.recorder.history();
    let made = context.policies.select(context.recorder, &context.spec.job, &context.space.candidates, &history)?;
    let selection = made.decided.value;
    context.recorder.record(Event::Decided {
        phase: Phase::Selection,
        plugin: made.plugin,
        cost: made.decided.cost,
        decision: Decision::Selection(selection.clone()),
    })?;
    let (Some(prefill), Some(decode)) = (selection.prefill.first().cloned(), selection.decode.first().cloned()) else {
        return Err(RunError::NothingMeasured { role: Role::Prefill, failures: Vec::new() });
    };
    for (role, choice) in [(Role::Prefill, &prefill), (Role::Decode, &decode)] {
        if !choice.meets_sla {
            let reason = format!("no {role} candidate meets the SLA; the least bad one is taken: {}", choice.reason);
            tracing::warn!("{reason}");
            context.recorder.record(Event::Infeasible { reason })?;
        }
    }
    context.scheduler.retain(&[prefill.candidate, decode.candidate]).await?;
    let chosen = Chosen { prefill, decode, selection };
    if let Some(artifacts) = context.artifacts {
        artifacts.selection(context, &chosen)?;
    }
    let name =
        |id: u32| context.space.candidates.get(id as usize).map(crate::domain::Candidate::name).unwrap_or_default();
    let summary = format!("{} and {}", name(chosen.prefill.candidate), name(chosen.decode.candidate));
    Ok((chosen, summary))
}
