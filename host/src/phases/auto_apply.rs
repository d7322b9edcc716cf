//! Phase 7: deploy, wait until it is ready, and measure it against what the plan promised.

use super::{Context, Outcome, RunError};
use crate::dgd::Generated;
use crate::domain::{CandidateId, Chosen, Demand, Plan};
use crate::engine::{ApplyRequest, CheckLoad, CheckReport, Launch};
use crate::run::Event;

/// Requests of the check run: enough for a 99 % quantile to be confirmed (the largest of n samples bounds the q-quantile
/// from above with 95 % confidence from n ≥ ln 0.05 / ln q on, which is 299 for q = 0.99), few enough to be over in minutes.
const CHECK_REQUESTS: u32 = 600;

/// Why this outcome should not be deployed without a person having looked at it; `None` if nothing speaks against it.
pub fn objection(context: &Context<'_>, outcome: &Outcome) -> Option<String> {
    if let Some(reason) = context.scheduler.cluster().cannot_apply() {
        return Some(reason.to_owned());
    }
    let budget = context.spec.job.hardware.total_gpus;
    let gpus = |replicas: u32, id: CandidateId| {
        u64::from(replicas) * context.space.candidates.get(id as usize).map_or(0, |c| u64::from(c.gpus()))
    };
    let needed = gpus(outcome.plan.prefill_replicas, outcome.chosen.prefill.candidate)
        + gpus(outcome.plan.decode_replicas, outcome.chosen.decode.candidate);
    if needed > u64::from(budget) {
        return Some(format!("the plan needs {needed} GPUs, the budget is {budget}"));
    }
    (!outcome.feasible()).then(|| "it does not meet the SLA; kubectl apply it by hand if it will do".to_owned())
}

/// How long this should take with these winners, in seconds: engines come up beside each other, and as many requests are
/// sent as often as the user says. Where only a plan will say how often, that part is left out.
pub fn expected_s(context: &Context<'_>, chosen: &Chosen) -> f64 {
    let cluster = context.scheduler.cluster();
    if !context.spec.auto_apply || cluster.cannot_apply().is_some() {
        return 0.0;
    }
    let launch_s = |id: CandidateId| {
        let candidate = context.space.candidates.get(id as usize)?.clone();
        Some(cluster.expected_launch(&Launch { id, candidate, failed: 0 }).as_secs_f64())
    };
    let launches = [chosen.prefill.candidate, chosen.decode.candidate].into_iter().filter_map(launch_s);
    let check_s = match context.spec.job.demand {
        Demand::RequestsPerSecond(rate) if rate > 0.0 => f64::from(CHECK_REQUESTS) / rate,
        _ => 0.0,
    };
    launches.fold(0.0, f64::max) + check_s
}

/// Applies the deployment and checks it at the planned rate. Gives the report, what was put back, and a summary.
///
/// # Errors
/// If the deployment does not become ready or the check run itself fails. A promise that is not kept is no error
/// here; the report says so.
pub async fn run(
    context: &Context<'_>,
    generated: &Generated,
    plan: &Plan,
) -> Result<(CheckReport, Option<String>, String), RunError> {
    let request = ApplyRequest { dgd: generated.dgd.clone(), config_maps: generated.config_maps.clone() };
    // A rollout that is given up because the user asks to stop has not failed.
    let or_stopped =
        |error| if context.scheduler.is_stopped() { RunError::Interrupted } else { RunError::Apply(error) };
    let mut deployment = context.scheduler.cluster().apply(&request).await.map_err(or_stopped)?;
    let job = &context.spec.job;
    let load = CheckLoad {
        requests_per_second: planned_rate(context, plan),
        requests: CHECK_REQUESTS,
        isl: job.workload.isl,
        osl: job.workload.osl,
    };
    let report = deployment.check(&load).await?;
    context.recorder.record(Event::Checked { report: report.clone() })?;
    let mut verdict = if report.meets_sla { "within the SLA" } else { "NOT within the SLA" }.to_owned();
    let rolled_back = if report.meets_sla { None } else { deployment.roll_back().await? };
    if let Some(what) = &rolled_back {
        verdict = format!("{verdict}; {what}");
        context.recorder.record(Event::RolledBack { what: what.clone() })?;
    }
    let summary = format!(
        "{:.2} requests/s: TTFT {:.0} ms, ITL {:.1} ms ({}), {verdict}",
        report.requests_per_second,
        report.ttft_ms.target,
        report.itl_ms.target,
        job.sla.statistic(),
    );
    Ok((report, rolled_back, summary))
}

/// The rate that the plan is for: the user's, as far as the plan serves it, or the plan's capacity.
fn planned_rate(context: &Context<'_>, plan: &Plan) -> f64 {
    match context.spec.job.demand {
        Demand::RequestsPerSecond(rate) => rate.min(plan.capacity_requests_per_second),
        Demand::Concurrency(_) | Demand::Budget => plan.capacity_requests_per_second,
    }
}
