//! `my-plugin`: replicas in proportion to the demand, without queues.

use sla_profiler_plugin::{
    About, Curves, Demand, Engines, Error, Job, Measurement, Measurements, Plan, PlannerModel, Role, Settings,
};

/// The model.
#[derive(Debug)]
pub struct MyPlugin;

sla_profiler_plugin::export_planner!(MyPlugin);

impl PlannerModel for MyPlugin {
    fn about() -> About {
        let summary = "Replicas in proportion to the demand, without queues.";
        About::new("my-plugin", env!("CARGO_PKG_VERSION"), summary).setting(
            "headroom",
            "0.8",
            "highest load of an engine, as a fraction of what it could do, 0.05 to 1",
        )
    }

    fn plan(job: &Job, engines: &Engines, curves: &Curves, demand: &Demand) -> Result<Plan, Error> {
        let share: f64 = Settings::new(Self::about(), job)?.number("headroom", 0.05..=1.0)?;
        let (isl, osl) = (job.workload.isl, f64::from(job.workload.osl));
        let nothing = |role| Error::Other(format!("nothing was measured of the {role} engine"));

        let prefill = nearest(&curves.prefill, Role::Prefill, isl, None);
        let &(first, ttft_ms) = prefill.first().ok_or_else(|| nothing("prefill"))?;
        let ttft_ms = ttft_ms * f64::from(isl) / f64::from(first.isl.max(1));
        let decode = nearest(&curves.decode, Role::Decode, isl, Some(job.workload.osl));
        let within = |(_, ms): &&(Measurement, f64)| job.sla.itl_ms.is_none_or(|limit| *ms <= limit);
        let highest = decode.iter().rfind(within).or(decode.first());
        let &(load, itl_ms) = highest.ok_or_else(|| nothing("decode"))?;
        // Requests per second that one engine of each role takes.
        let prefill_rate = share * 1e3 * f64::from(engines.prefill.attention_dp.max(1)) / ttft_ms;
        let decode_rate = share * 1e3 * f64::from(load.concurrency) / (itl_ms * osl);

        let e2e_ms = ttft_ms + itl_ms * osl;
        let wanted = match demand {
            Demand::RequestsPerSecond(rate) => *rate,
            Demand::Concurrency(n) => f64::from(*n) * 1e3 / e2e_ms, // Little's law
            Demand::Budget => f64::INFINITY,
        };
        let capacity = |(p, d): (u32, u32)| (f64::from(p) * prefill_rate).min(f64::from(d) * decode_rate);
        let gpus = |(p, d): (u32, u32)| p * engines.prefill.gpus + d * engines.decode.gpus;
        // The fewest GPUs that serve the demand; where none do, the most that the budget serves.
        let total = job.hardware.total_gpus;
        let mut best = (1, 1);
        for p in 1..=total {
            for d in (1..=total).take_while(|d| gpus((p, *d)) <= total) {
                let (new, old) = (capacity((p, d)).min(wanted), capacity(best).min(wanted));
                if new > old || (new >= old && gpus((p, d)) < gpus(best)) {
                    best = (p, d);
                }
            }
        }
        let (p, d) = best;
        let served = capacity(best).min(wanted);
        let meets = |value: f64, limit: Option<f64>| limit.is_none_or(|limit| value <= limit);
        let sla = &job.sla;
        Ok(Plan {
            prefill_replicas: p,
            decode_replicas: d,
            capacity_requests_per_second: capacity(best),
            prefill_requests_per_second: f64::from(p) * prefill_rate,
            decode_requests_per_second: f64::from(d) * decode_rate,
            decode_concurrency: (served * itl_ms * osl / 1e3 / f64::from(d)).ceil().max(1.0) as u32,
            expected_ttft_ms: ttft_ms,
            expected_itl_ms: itl_ms,
            meets_sla: meets(ttft_ms, sla.ttft_ms) && meets(itl_ms, sla.itl_ms) && meets(e2e_ms, sla.e2e_ms),
            meets_demand: wanted.is_infinite() || capacity(best) >= wanted,
            assumptions: vec![format!("Engines run at {share} of what they could do; waiting is not modelled.")],
            extra: Vec::new(),
        })
    }
}

/// Points of a curve with their latency, at the lengths nearest to the job's, in the order of load.
fn nearest(curve: &Measurements, role: Role, isl: u32, osl: Option<u32>) -> Vec<(Measurement, f64)> {
    let distance = |m: &Measurement| m.isl.abs_diff(isl) + osl.map_or(0, |osl| m.osl.abs_diff(osl));
    let mut points: Vec<_> = curve
        .rows()
        .filter_map(|m| Some((m, m.latency_ms(role)?.target)))
        .filter(|(_, ms)| ms.is_finite() && *ms > 0.0)
        .collect();
    let least = points.iter().map(|(m, _)| distance(m)).min();
    points.retain(|(m, _)| Some(distance(m)) == least);
    points.sort_by(|(a, x), (b, y)| (a.concurrency, a.isl).cmp(&(b.concurrency, b.isl)).then(x.total_cmp(y)));
    points
}
