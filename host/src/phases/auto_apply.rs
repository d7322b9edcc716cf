//! Phase 7: deploy, wait until it is ready, and measure it against what the plan promised.

use super::{Context, RunError};
use crate::dgd::Generated;
use crate::domain::{CandidateId, Chosen, Plan};
use crate::engine::{ApplyRequest, CheckLoad, CheckReport};
use crate::run::Event;

/// Requests of the check run: enough for a 99 % quantile to be confirmed (users-and-anchors §3.2: n ≥ ln 0.05 / ln q,
/// which is 299 for q = 0.99), few enough to be over in minutes.
const CHECK_REQUESTS: u32 = 600;

/// Applies the deployment and checks it at the planned rate.
///
/// A plan that needs more GPUs than there are is not applied: the answer of an infeasible run is to be looked at, not to
/// wait for GPUs that never come.
///
/// # Errors
/// If the deployment does not become ready or the check run itself fails. A promise that is not kept is no error
/// here; the report says so.
pub async fn run(
    context: &Context<'_>,
    generated: &Generated,
    chosen: &Chosen,
    plan: &Plan,
) -> Result<(Option<CheckReport>, String), RunError> {
    let budget = context.spec.job.hardware.total_gpus;
    let needed = gpus(context, chosen, plan);
    if needed > u64::from(budget) {
        let reason = format!("the deployment needs {needed} GPUs, the budget is {budget}");
        tracing::warn!("{reason}; it is not applied");
        context.recorder.record(Event::Infeasible { reason: reason.clone() })?;
        return Ok((None, format!("not applied: {reason}")));
    }
    let request = ApplyRequest { dgd: generated.dgd.clone(), config_maps: generated.config_maps.clone() };
    let mut deployment = context.scheduler.cluster().apply(&request).await?;
    let job = &context.spec.job;
    let load = CheckLoad {
        requests_per_second: planned_rate(context, plan),
        requests: CHECK_REQUESTS,
        isl: job.workload.isl,
        osl: job.workload.osl,
    };
    let report = deployment.check(&load).await?;
    context.recorder.record(Event::Checked { report: report.clone() })?;
    let verdict = if report.meets_sla { "within the SLA" } else { "NOT within the SLA" };
    let summary = format!(
        "{:.2} requests/s: TTFT {:.0} ms, ITL {:.1} ms ({}), {verdict}",
        report.requests_per_second,
        report.ttft_ms.target,
        report.itl_ms.target,
        job.sla.statistic(),
    );
    Ok((Some(report), summary))
}

/// GPUs that the plan takes.
fn gpus(context: &Context<'_>, chosen: &Chosen, plan: &Plan) -> u64 {
    let engine = |id: CandidateId| context.space.candidates.get(id as usize).map_or(0, |c| u64::from(c.gpus()));
    u64::from(plan.prefill_replicas) * engine(chosen.prefill.candidate)
        + u64::from(plan.decode_replicas) * engine(chosen.decode.candidate)
}

/// The rate that the plan is for: the user's, as far as the plan serves it, or the plan's capacity.
fn planned_rate(context: &Context<'_>, plan: &Plan) -> f64 {
    match context.spec.job.demand {
        crate::domain::Demand::RequestsPerSecond(rate) => rate.min(plan.capacity_requests_per_second),
        crate::domain::Demand::Concurrency(_) | crate::domain::Demand::Budget => plan.capacity_requests_per_second,
    }
}
