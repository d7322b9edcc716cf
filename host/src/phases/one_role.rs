//! Half of a run, for one engine that already runs in one role: its sweep and its curves. There is nobody to choose
//! from and nothing to deploy, so that phases 3, 6 and 7 do not happen.

use super::{
    Context, RunError, candidates, decode_interpolation, decode_sweep, prefill_interpolation, prefill_sweep, sweep,
};
use crate::domain::{Choice, Chosen, History, Role, Selection, Sla};
use crate::run::Event;

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
    let goal = match role {
        Role::Prefill => prefill_sweep::GOAL,
        Role::Decode => decode_sweep::GOAL,
    };
    let finish = |context: &Context<'_>, _, why: &str| candidates::finish(context, role, why);
    sweep::run(context, &[goal], &finish).await?;

    let choice = choice(&recorder.history(), &context.spec.job.sla)
        .ok_or(RunError::NothingMeasured { role, failures: Vec::new() })?;
    // Each curve looks at the winner of its own role only.
    let chosen = Chosen { prefill: choice.clone(), decode: choice.clone(), selection: Selection::default() };
    let curve = match role {
        Role::Prefill => prefill_interpolation::goal(context.spec, &chosen),
        Role::Decode => decode_interpolation::goal(context.spec, &chosen),
    };
    let finish = |context: &Context<'_>, _, why: &str| match role {
        Role::Prefill => prefill_interpolation::finish(context, &chosen, why),
        Role::Decode => decode_interpolation::finish(context, &chosen, why),
    };
    sweep::run(context, &[curve], &finish).await?;
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
