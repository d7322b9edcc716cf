//! AIPerf's records as a report. Pure.
//!
//! TTFT and latency are AIPerf's, from its worker's start. In an open loop the time from the intended start, at which
//! the timing manager told the worker to send, comes on top: it is waiting that a user would have done. ITL is theirs
//! too, `(latency - TTFT) / (tokens - 1)` with the server's count.
//!
//! Throughput and requests in flight are one number a run, and AIPerf gives no interval. In a closed loop the number in
//! flight is given, so that throughput varies as the inverse of the latency (Little's law): its interval has the relative
//! width of that of the mean latency. In an open loop it is the arrivals' own, 1.96 / √n of a Poisson process.

use super::records::{Export, Request};
use crate::load::stopping::{Rule, figure};
use crate::load::{
    Endpoint, Estimate, Figure, LoadError, LoadReport, Point, RequestSample, Stopped, Traffic, Watch, steady,
};

/// Growth of the TTFT over an open loop's run, as a fraction of its mean, above which the queue is not in balance.
const UNSTEADY: f64 = 0.5;

/// Mean lateness of requests, as a fraction of the mean TTFT, of which the user is told.
const LATE: f64 = 0.1;

/// Requests of the length that was asked for.
fn measured<'a>(point: &Point, export: &'a Export) -> impl Iterator<Item = &'a Request> {
    let osl = point.osl;
    export.requests.iter().filter(move |request| request.output_tokens == osl)
}

/// From the intended start to the worker's, in milliseconds.
fn lateness_ms(request: &Request) -> f64 {
    request.started_ns.saturating_sub(request.issued_ns) as f64 / 1e6
}

fn sample(point: &Point, origin_ns: u64, request: &Request) -> RequestSample {
    let (start_ns, late_ms) = match point.traffic {
        Traffic::Closed { .. } => (request.started_ns, 0.0),
        Traffic::Poisson { .. } | Traffic::Constant { .. } => (request.issued_ns, lateness_ms(request)),
    };
    let gaps = request.output_tokens.saturating_sub(1);
    let itl_ms = (request.latency_ms - request.ttft_ms).max(0.0) / f64::from(gaps.max(1));
    RequestSample {
        start_s: start_ns.saturating_sub(origin_ns) as f64 / 1e9,
        ttft_ms: request.ttft_ms + late_ms,
        itl_ms: (gaps > 0).then_some(itl_ms),
        e2e_ms: request.latency_ms + late_ms,
        input_tokens: request.input_tokens,
        output_tokens: request.output_tokens,
    }
}

/// One latency of each measured request, in the order of their starts.
pub(super) fn samples(point: &Point, export: &Export, watch: Watch) -> Vec<f64> {
    let of = |request| match (watch, sample(point, 0, request)) {
        (Watch::Itl, sample) => sample.itl_ms,
        (Watch::Ttft | Watch::Both, sample) => Some(sample.ttft_ms),
    };
    measured(point, export).filter_map(of).collect()
}

/// Why this is enough, if it is: for each latency that is watched.
pub(super) fn verdict(point: &Point, export: &Export) -> Option<Stopped> {
    let judge = |watch, target| {
        let rule = Rule { quantile: point.quantile, relative_precision: point.relative_precision, target };
        let samples = samples(point, export, watch);
        rule.verdict(&figure(&samples, point.quantile, None)?, samples.len())
    };
    let ttft = || judge(Watch::Ttft, point.ttft_target_ms);
    let itl = || judge(Watch::Itl, point.itl_target_ms);
    match point.watch {
        Watch::Ttft => ttft(),
        Watch::Itl => itl(),
        Watch::Both => match (ttft()?, itl()?) {
            (Stopped::Precise, Stopped::Precise) => Some(Stopped::Precise),
            _ => Some(Stopped::Decided),
        },
    }
}

/// Whether a failure is worth ending the point, and which.
///
/// # Errors
/// [`LoadError::Unreachable`] or [`LoadError::Refused`] if no request got through, and all for the same reason;
/// [`LoadError::Failures`] above the rate that the point admits.
pub(super) fn too_many_failures(endpoint: &Endpoint, point: &Point, export: &Export) -> Result<(), LoadError> {
    let Some(first) = export.failures.first() else { return Ok(()) };
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (failed, sent) = (export.failures.len(), export.failures.len() + export.requests.len());
    let all_alike = export.requests.is_empty() && export.failures.iter().all(|trouble| trouble.status == first.status);
    let url = endpoint.url.clone();
    match first.status {
        Some(status) if all_alike => Err(LoadError::Refused { url, status, body: first.message.clone() }),
        None if all_alike && first.message.contains("Connect") => {
            Err(LoadError::Unreachable { url, reason: first.message.clone() })
        }
        _ if failed as f64 > point.max_error_rate * sent as f64 => {
            Err(LoadError::Failures { failed: count(failed), sent: count(sent), first: first.message.clone() })
        }
        _ => Ok(()),
    }
}

/// The report; none if no request was answered in the length that was asked for.
pub(super) fn report(point: &Point, export: &Export) -> Option<LoadReport> {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let origin_ns = export.requests.iter().map(|request| request.issued_ns).min().unwrap_or_default();
    let samples: Vec<RequestSample> =
        measured(point, export).map(|request| sample(point, origin_ns, request)).collect();
    let of = |pick: fn(&RequestSample) -> Option<f64>| -> Option<Figure> {
        let values: Vec<f64> = samples.iter().filter_map(pick).collect();
        figure(&values, point.quantile, None)
    };
    let (ttft_ms, itl_ms) = (of(|s| Some(s.ttft_ms)), of(|s| s.itl_ms));
    let e2e_ms = of(|s| Some(s.e2e_ms))?;
    warn_of_lateness(point, export, ttft_ms.as_ref());

    // What was answered in another length was work all the same.
    let seconds = export.duration_s.max(1e-9);
    let total = |pick: fn(&Request) -> f64| export.requests.iter().map(pick).sum::<f64>();
    let answered = export.requests.len() as f64;
    let relative = match point.traffic {
        Traffic::Closed { .. } => relative_half_width_of_mean(&e2e_ms),
        Traffic::Poisson { .. } | Traffic::Constant { .. } => 1.96 / answered.sqrt(),
    };
    let estimate = |value: f64| Estimate {
        value,
        ci_low: value * (1.0 - relative).max(0.0),
        ci_high: value * (1.0 + relative),
        samples: count(export.requests.len()),
    };
    let per_second = |pick: fn(&Request) -> f64| estimate(total(pick) / seconds);
    Some(LoadReport {
        ttft_ms,
        itl_ms,
        e2e_ms: Some(e2e_ms),
        requests: count(samples.len()),
        failed_requests: count(export.failures.len()),
        first_failure: export.failures.first().map(|trouble| trouble.message.clone()),
        wrong_length_requests: count(export.requests.len() - samples.len()),
        concurrency_seen: per_second(|request| request.latency_ms / 1e3),
        input_tokens_per_second: per_second(|request| f64::from(request.input_tokens)),
        output_tokens_per_second: per_second(|request| f64::from(request.output_tokens)),
        requests_per_second: per_second(|_| 1.0),
        duration_s: export.duration_s,
        stopped: verdict(point, export).unwrap_or(Stopped::MostRequests),
        unsteady: unsteady(point, &samples),
        tokens_per_chunk: ratio(total(|r| f64::from(r.output_tokens)), total(|r| f64::from(r.chunks))),
        chunks_per_read: ratio(total(|r| f64::from(r.chunks)), total(|r| f64::from(r.reads))),
        client: None,
        clients: 1,
        samples,
    })
}

fn ratio(of: f64, to: f64) -> f64 {
    if to > 0.0 { of / to } else { 0.0 }
}

fn relative_half_width_of_mean(figure: &Figure) -> f64 {
    let stat = figure.stat;
    if stat.mean > 0.0 { (stat.ci_high - stat.ci_low) / 2.0 / stat.mean } else { 1.0 }
}

/// A queue that grows has no steady state, however narrow an interval is.
fn unsteady(point: &Point, samples: &[RequestSample]) -> Option<String> {
    if matches!(point.traffic, Traffic::Closed { .. }) {
        return None;
    }
    let ttfts: Vec<f64> = samples.iter().map(|sample| sample.ttft_ms).collect();
    let growth = steady::growth(&ttfts).filter(|growth| *growth > UNSTEADY)?;
    Some(format!("TTFT grew by {:.0} % of its mean while measuring: more arrives than is served", growth * 100.0))
}

/// AIPerf counts from the moment at which its worker begins, which under load is later than it should be.
fn warn_of_lateness(point: &Point, export: &Export, ttft_ms: Option<&Figure>) {
    let late: Vec<f64> = export.requests.iter().map(lateness_ms).collect();
    let mean_ms = late.iter().sum::<f64>() / late.len().max(1) as f64;
    if point.watch != Watch::Itl && ttft_ms.is_some_and(|figure| mean_ms > LATE * figure.stat.mean) {
        tracing::warn!(
            "aiperf began with each request {mean_ms:.1} ms late on average, as far as it tells: its TTFT is not \
             to be trusted to more than that"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Probe, Role, Sla};
    use crate::load::aiperf::records::Trouble;
    use crate::load::aiperf::records::tests::exported;

    fn sla() -> Sla {
        Sla { ttft_ms: Some(200.0), itl_ms: Some(20.0), e2e_ms: None, quantile: None }
    }

    fn point(role: Role) -> Point {
        let probe =
            Probe { candidate: 0, isl: 3000, osl: 21, concurrency: 1, relative_precision: 0.05, max_samples: 500 };
        Point::of(role, &probe, crate::domain::Aim::Compare, &sla(), 1)
    }

    fn near(one: f64, other: f64) -> bool {
        (one - other).abs() <= 1e-9 * other.abs()
    }

    const STEADY: [f64; 8] = [100.0, 101.0, 99.0, 100.0, 101.0, 99.0, 100.0, 100.0];

    #[test]
    fn figures_are_those_of_the_records() {
        let export = exported(&STEADY, 21);
        let report = report(&point(Role::Prefill), &export).unwrap();
        let (ttft, itl, e2e) = (report.ttft_ms.unwrap(), report.itl_ms.unwrap(), report.e2e_ms.unwrap());
        assert!(near(ttft.stat.mean, 100.0) && ttft.samples == 8 && ttft.stat.ci_low < 100.0);
        assert!(near(itl.stat.mean, 5.0) && near(e2e.stat.mean, 200.0));
        assert_eq!((report.requests, report.failed_requests, report.wrong_length_requests), (8, 0, 0));
        assert_eq!(report.stopped, Stopped::Precise);
        // Eight requests of 200 ms in eight seconds.
        assert!(near(report.concurrency_seen.value, 0.2), "{:?}", report.concurrency_seen);
        assert!(near(report.output_tokens_per_second.value, 21.0));
        assert!(near(report.input_tokens_per_second.value, 3000.0));
        let rate = report.requests_per_second;
        assert!(near(rate.value, 1.0) && near(rate.ci_high - 1.0, 1.0 - rate.ci_low));
        assert!(near(rate.ci_high - 1.0, (e2e.stat.ci_high - e2e.stat.ci_low) / 2.0 / 200.0));
        assert_eq!((report.tokens_per_chunk, report.chunks_per_read), (1.0, 1.0));
        assert!(report.client.is_none(), "AIPerf does not say how well it kept up");
        assert!(report.samples[3].start_s > report.samples[2].start_s);
    }

    #[test]
    fn an_open_loop_counts_from_the_intended_start() {
        let export = exported(&STEADY, 21);
        let open = Point::open_loop(3000, 21, 1.0, 8, &sla(), 1);
        let report = report(&open, &export).unwrap();
        // `exported` begins each request a millisecond late.
        assert!(near(report.ttft_ms.unwrap().stat.mean, 101.0));
        assert!(near(report.e2e_ms.unwrap().stat.mean, 201.0));
        assert!(near(report.itl_ms.unwrap().stat.mean, 5.0));
        assert!(near(report.requests_per_second.ci_high, 1.0 + 1.96 / 8.0_f64.sqrt()));
    }

    #[test]
    fn answers_of_another_length_are_counted_and_left_out() {
        let mut export = exported(&STEADY, 21);
        export.requests[0].output_tokens = 7;
        let found = report(&point(Role::Prefill), &export).unwrap();
        assert_eq!((found.requests, found.wrong_length_requests), (7, 1));
        export.requests.iter_mut().for_each(|request| request.output_tokens = 7);
        assert!(report(&point(Role::Prefill), &export).is_none());
    }

    #[test]
    fn a_point_is_decided_when_its_interval_lies_on_one_side_of_the_target() {
        // Neither constant nor alternating: means of batches have to vary as well.
        let noise = |n: u32| f64::from(n * n * 37 % 61);
        let spread: Vec<f64> = (0..40).map(|n| 40.0 + noise(n)).collect();
        assert_eq!(verdict(&point(Role::Prefill), &exported(&spread, 21)), Some(Stopped::Decided));
        let about_the_target: Vec<f64> = (0..40).map(|n| 100.0 + 200.0 * noise(n) / 61.0).collect();
        assert_eq!(verdict(&point(Role::Prefill), &exported(&about_the_target, 21)), None);
        assert_eq!(verdict(&point(Role::Decode), &exported(&spread, 21)), Some(Stopped::Precise), "ITL is constant");
    }

    #[test]
    fn a_queue_that_grows_is_no_steady_state() {
        let open = Point::open_loop(3000, 21, 1.0, 40, &sla(), 1);
        let growing: Vec<f64> = (0..40).map(|n| 100.0 + 50.0 * f64::from(n)).collect();
        assert!(report(&open, &exported(&growing, 21)).unwrap().unsteady.unwrap().contains("grew"));
        assert_eq!(report(&open, &exported(&[100.0; 40], 21)).unwrap().unsteady, None);
    }

    #[test]
    fn failures_are_told_apart() {
        let endpoint = Endpoint::new("http://h:1", "m");
        let judge = |failures: &[(Option<u16>, &str)], answered: usize| {
            let mut export = exported(&STEADY.iter().cycle().take(answered).copied().collect::<Vec<_>>(), 21);
            export.failures = failures
                .iter()
                .map(|(status, text)| Trouble { status: *status, message: (*text).to_owned() })
                .collect();
            too_many_failures(&endpoint, &point(Role::Prefill), &export)
        };
        assert!(judge(&[], 0).is_ok());
        assert!(judge(&[(None, "reset")], 99).is_ok(), "one in a hundred");
        let refused = judge(&[(Some(404), "no such model"); 3], 0);
        assert!(matches!(&refused, Err(LoadError::Refused { status: 404, body, .. }) if body == "no such model"));
        let down = judge(&[(None, "ClientConnectorError(refused)"); 3], 0);
        assert!(matches!(&down, Err(LoadError::Unreachable { url, .. }) if url == "http://h:1"));
        let some = judge(&[(Some(500), "overloaded")], 8);
        assert!(matches!(&some, Err(LoadError::Failures { failed: 1, sent: 9, first }) if first == "overloaded"));
        let mixed = judge(&[(Some(500), "overloaded"), (Some(429), "slow down")], 0);
        assert!(matches!(&mixed, Err(LoadError::Failures { failed: 2, sent: 2, .. })), "{mixed:?}");
    }
}
