//! The best answer so far, where a run ends before it is done: because its budget is used up, or because the user asks.
//!
//! Nothing is measured here, and nothing is decided for good: the journal keeps only what was measured, so that a run that is
//! resumed decides again, with more.

use super::{Context, Outcome, RunError, generation, result};
use crate::domain::{Candidate, Chosen, History, Role};
use crate::render::result::{Incomplete, ResultFile};
use crate::run::Phase;

/// Selects and plans with what is known; writes the result and the deployment. `None` if that is not enough for an
/// answer: then nothing of a role was measured at the job's lengths, or a policy has none.
pub fn run(context: &mut Context<'_>, why: String) -> Option<(Outcome, Box<ResultFile>)> {
    let history = context.recorder.history();
    let has = |role: Role| {
        let mut of_role = history.measurements.iter().filter(|m| {
            context.space.candidates.get(m.candidate as usize).is_some_and(|candidate| candidate.role == role)
        });
        of_role.any(|m| m.isl == context.spec.job.workload.isl)
    };
    if !Role::ALL.into_iter().all(has) {
        return None;
    }
    match answer(context, &history, why) {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::warn!("there is no answer with what was measured so far: {error}");
            None
        }
    }
}

fn answer(context: &mut Context<'_>, history: &History, why: String) -> Result<(Outcome, Box<ResultFile>), RunError> {
    let (job, candidates) = (&context.spec.job, &context.space.candidates);
    let selection = context.policies.select(context.recorder, job, candidates, history)?.decided.value;
    let nobody = |role| RunError::NothingMeasured { role, failures: Vec::new() };
    let prefill = selection.prefill.first().cloned().ok_or_else(|| nobody(Role::Prefill))?;
    let decode = selection.decode.first().cloned().ok_or_else(|| nobody(Role::Decode))?;
    let chosen = Chosen { prefill, decode, selection };
    if let Some(artifacts) = context.artifacts {
        artifacts.selection(context, &chosen)?;
    }
    let (_, plan, _) = generation::without_record(context, &chosen)?;
    let mut outcome = Outcome {
        chosen,
        plan,
        check: None,
        not_applied: None,
        rolled_back: None,
        degraded: context.policies.degraded(),
        incomplete: Some(Incomplete { reason: why, not_looked_at: not_looked_at(context, history) }),
    };
    if context.spec.auto_apply {
        outcome.not_applied = Some("the run ended before it was done; --resume goes on".to_owned());
    }
    let file = result(context, &outcome)?;
    Ok((outcome, file))
}

/// Candidates without a measurement or a failure, and curves without points besides those of the sweeps.
fn not_looked_at(context: &Context<'_>, history: &History) -> Vec<String> {
    let seen = |id: u32| {
        history.measurements_of(id).next().is_some() || history.failures.iter().any(|failure| failure.candidate == id)
    };
    let candidates = (0_u32..).zip(&context.space.candidates).filter(|(id, _)| !seen(*id));
    let mut names: Vec<String> = candidates.map(|(_, candidate)| Candidate::name(candidate)).collect();
    let phases = context.recorder.phases();
    for phase in [Phase::PrefillInterpolation, Phase::DecodeInterpolation] {
        if !phases.contains(&phase) {
            names.push(format!("{} (curves beyond what the sweeps measured)", phase.title()));
        }
    }
    names
}
