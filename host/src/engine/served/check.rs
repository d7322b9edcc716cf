//! Phase 7's check run on a deployment that answers over HTTP.

use std::time::Duration;

use super::Bench;
use crate::domain::{Job, Sla};
use crate::engine::{ApplyError, CheckLoad, CheckReport};
use crate::load::{Endpoint, Point, RequestSample};

/// Sends the job's requests at the given rate, by chance and with unique prompts, and reports what users would see.
///
/// # Errors
/// If the load generator finds no figures.
pub async fn check(
    bench: &Bench,
    endpoint: &Endpoint,
    load: &CheckLoad,
    ready: Duration,
) -> Result<CheckReport, ApplyError> {
    let Job { sla, seed, .. } = &*bench.job;
    let point = Point {
        // The whole sample is wanted: attainment is about single requests.
        relative_precision: 0.0,
        ttft_target_ms: None,
        itl_target_ms: None,
        ..Point::open_loop(load.isl, load.osl, load.requests_per_second, load.requests, sla, u64::from(*seed))
    };
    let report =
        bench.generator.measure(endpoint, &point).await.map_err(|error| ApplyError::Check(error.to_string()))?;
    let (Some(ttft), Some(itl)) = (report.ttft_ms, report.itl_ms) else {
        return Err(ApplyError::Check("no request gave a latency of both kinds".to_owned()));
    };
    let met = report.samples.iter().filter(|sample| meets(sla, sample)).count();
    let total = report.samples.len() + report.failed_requests as usize;
    let e2e = report.e2e_ms.map(|figure| figure.stat.target);
    let within = |target: Option<f64>, seen: Option<f64>| target.is_none_or(|t| seen.is_some_and(|seen| seen <= t));
    Ok(CheckReport {
        load: *load,
        requests_per_second: report.requests_per_second.value,
        ttft_ms: ttft.stat,
        itl_ms: itl.stat,
        slo_attainment: met as f64 / total.max(1) as f64,
        failed_requests: report.failed_requests,
        meets_sla: within(sla.ttft_ms, Some(ttft.stat.target))
            && within(sla.itl_ms, Some(itl.stat.target))
            && within(sla.e2e_ms, e2e),
        ready_s: ready.as_secs_f64(),
    })
}

/// Whether the request met every target by itself.
fn meets(sla: &Sla, sample: &RequestSample) -> bool {
    sla.ttft_ms.is_none_or(|target| sample.ttft_ms <= target)
        && sla.itl_ms.is_none_or(|target| sample.itl_ms.is_none_or(|itl| itl <= target))
        && sla.e2e_ms.is_none_or(|target| sample.e2e_ms <= target)
}
