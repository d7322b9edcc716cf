//! Half of a run, for one engine that already runs in one role: its sweep and its curves. There is nobody to choose from
//! and nothing to deploy, so that phases 3, 6 and 7 do not happen.

use super::{Context, RunError, candidates, decode_interpolation, finish, prefill_interpolation, start, sweep};
use crate::domain::{Choice, Chosen, Goal, History, Role, Selection, Sla};
use crate::run::{Event, Phase};

/// Measures the only candidate and writes its curves in Dynamo's form. Whatever happens, no engine is left running.
///
/// # Errors
/// See [`RunError`].
pub async fn run(context: &mut Context<'_>, role: Role) -> Result<Choice, RunError> {
    let result = both_phases(context, role).await;
    let released = context.scheduler.retain(&[]).await;
    let choice = result?;
    released?;
    context.recorder.record(Event::RunFinished { feasible: choice.meets_sla })?;
    Ok(choice)
}

async fn both_phases(context: &mut Context<'_>, role: Role) -> Result<Choice, RunError> {
    let recorder = context.recorder;
    let (phase, curve, goal) = match role {
        Role::Prefill => (Phase::PrefillSweep, Phase::PrefillInterpolation, Goal::Prefill),
        Role::Decode => (Phase::DecodeSweep, Phase::DecodeInterpolation, Goal::Decode),
    };
    start(recorder, phase)?;
    let why = sweep::run(context, phase, goal).await?;
    finish(recorder, phase, candidates::finish(context, role, &why)?)?;

    let choice = choice(&recorder.history(), &context.spec.job.sla)
        .ok_or(RunError::NothingMeasured { role, failures: Vec::new() })?;
    // Each curve looks at the winner of its own role only.
    let chosen = Chosen { prefill: choice.clone(), decode: choice.clone(), selection: Selection::default() };
    start(recorder, curve)?;
    let summary = match role {
        Role::Prefill => prefill_interpolation::run(context, &chosen).await?,
        Role::Decode => decode_interpolation::run(context, &chosen).await?,
    };
    finish(recorder, curve, summary)?;
    Ok(choice)
}

/// The most requests in flight at which the engine meets its target; the fewest where it never does.
fn choice(history: &History, sla: &Sla) -> Option<Choice> {
    let meets = |stat: Option<crate::domain::Stat>, target: Option<f64>| {
        stat.is_none_or(|stat| target.is_none_or(|target| stat.target <= target))
    };
    let points = history.measurements.iter().map(|m| (m, meets(m.ttft_ms, sla.ttft_ms) && meets(m.itl_ms, sla.itl_ms)));
    let (best, meets_sla) = points
        .max_by_key(|(m, meets)| (*meets, if *meets { i64::from(m.concurrency) } else { -i64::from(m.concurrency) }))?;
    let latency = match (best.ttft_ms, best.itl_ms) {
        (Some(ttft), _) => format!("TTFT {:.1} ms", ttft.target),
        (None, Some(itl)) => format!("ITL {:.2} ms", itl.target),
        (None, None) => "no latency".to_owned(),
    };
    Some(Choice {
        candidate: best.candidate,
        concurrency: best.concurrency,
        meets_sla,
        score: 0.0,
        reason: format!("{latency} at {} in flight", best.concurrency),
        binding: String::new(),
    })
}
