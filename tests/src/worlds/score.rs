//! How good an answer is, and the lower bound.

use sla_profiler::domain::Role;
use sla_profiler_plugin::sizing::{Curve, DecodeEngine};
use sla_profiler_plugin::{Measurement, Stat, Workload};

use super::truth::{EngineTruth, mean_context};
use super::{Outcome, World};

/// Figures of one contestant in one world.
#[derive(Debug, Clone, Default)]
pub struct Score {
    /// Cost of a request in GPU-seconds, over that of the best choice, minus one. None where there is no answer.
    pub regret: Option<f64>,
    /// The same if the chosen mappings were run at the best load for them.
    pub mapping_regret: Option<f64>,
    /// Roles that are said to meet their target and do not, and by how much at most.
    pub false_accepts: u32,
    /// See there.
    pub overrun: f64,
    /// Roles that are said to miss their target although some engine meets it.
    pub false_rejects: u32,
    /// 95 % quantile of the relative error between the points of the curves.
    pub interpolation: f64,
    /// The same of TTFT and of ITL alone.
    pub by_curve: [f64; 2],
}

/// Scores it.
pub fn score(world: &World, outcome: &Outcome) -> Score {
    let mut score = Score::default();
    if outcome.failed.is_some() {
        return score;
    }
    let job = &world.spec.job;
    let (isl, osl) = (job.workload.isl, job.workload.osl);
    let (mut cost, mut mapping_cost, mut best_cost) = (0.0, 0.0, 0.0);
    for (role, pick) in Role::ALL.into_iter().zip(&outcome.chosen) {
        let truth = &world.truths[pick.candidate as usize];
        let over = truth.latency_ms(isl, osl, pick.concurrency) / world.limit_ms(role) - 1.0;
        if pick.meets_sla && over > 0.0 {
            score.false_accepts += 1;
            score.overrun = score.overrun.max(over);
        }
        let Some(best) = world.best(role) else { continue };
        score.false_rejects += u32::from(!pick.meets_sla);
        let tokens = f64::from(if role == Role::Prefill { isl } else { osl });
        cost += tokens / truth.rate(isl, osl, pick.concurrency);
        // A mapping that meets the target at no load is a false accept; it is counted there.
        let at_best = truth.best_within(job, world.limit_ms(role)).map(|(_, rate)| rate);
        let at_best = at_best.unwrap_or_else(|| truth.rate(isl, osl, pick.concurrency));
        mapping_cost += tokens / at_best;
        best_cost += tokens / best;
    }
    // More than the best is possible only beyond the target, which counts as a false accept.
    score.regret = Some((cost / best_cost - 1.0).max(0.0));
    score.mapping_regret = Some(mapping_cost / best_cost - 1.0);
    score.by_curve = interpolation(world, outcome).map(|mut errors| p95(&mut errors));
    score.interpolation = p95(&mut interpolation(world, outcome).concat());
    score
}

/// At lengths and loads that nobody measured, spread evenly in their ratio over what the curves are for; read as our own
/// planners read them, whoever measured.
fn interpolation(world: &World, outcome: &Outcome) -> [Vec<f64>; 2] {
    let mut errors = [Vec::new(), Vec::new()];
    let (start, end) = (f64::from(world.spec.curve.min_isl), f64::from(world.spec.curve.max_isl));
    let lengths: Vec<f64> = (0..23).map(|i| start * (end / start).powf((f64::from(i) + 0.5) / 23.0)).collect();
    let prefill = &world.truths[outcome.chosen[0].candidate as usize];
    let ttft = Curve::isotonic(outcome.ttft.iter().map(|(isl, ms)| (*isl, *ms, 1.0)));
    for isl in &lengths {
        let isl = isl.round();
        errors[0].push(ttft.as_ref().map_or(1.0, |c| (c.smooth_at(isl) / prefill.ttft_ms(isl) - 1.0).abs()));
    }
    let decode = &world.truths[outcome.chosen[1].candidate as usize];
    let osl = world.spec.job.workload.osl;
    let rows: Vec<Measurement> = outcome.itl.iter().map(|point| measurement(decode, *point)).collect();
    for isl in lengths.iter().step_by(3).map(|isl| isl.round() as u32) {
        let workload = Workload { isl, osl };
        let fit = DecodeEngine::from_measurements(
            rows.iter().copied(),
            workload,
            decode.gpus,
            decode.kv_tokens,
            decode.max_running,
        );
        let reach = f64::from(decode.reach(isl, osl));
        for part in [0.1, 0.3, 0.5, 0.7, 0.9] {
            let n = reach.powf(part).max(f64::from(decode.ranks)).round();
            let exact = decode.itl_ms(mean_context(isl, osl), n);
            errors[1].push(fit.as_ref().map_or(1.0, |fit| (fit.itl_at(n).mean_ms / exact - 1.0).abs()));
        }
    }
    errors
}

fn measurement(truth: &EngineTruth, (isl, osl, requests, itl_ms): (u32, u32, f64, f64)) -> Measurement {
    Measurement {
        candidate: 0,
        isl,
        osl,
        concurrency: requests as u32,
        concurrency_seen: truth.running(isl, osl, requests as u32),
        ttft_ms: None,
        itl_ms: Some(Stat::flat(itl_ms, 0.01)),
        samples: 100,
        failed_requests: 0,
        input_tokens_per_second_per_gpu: 0.0,
        output_tokens_per_second_per_gpu: 1e3 * requests / itl_ms / f64::from(truth.gpus),
        kv_usage: requests * mean_context(isl, osl) / f64::from(truth.kv_tokens),
    }
}

fn p95(errors: &mut [f64]) -> f64 {
    errors.sort_by(f64::total_cmp);
    errors[(errors.len() - 1) * 95 / 100]
}

/// Least wall time and GPU-seconds for whoever knows the answer beforehand and only has to show it: the winners' engines
/// are launched, one for both roles where they are the same, and measured at eight samples a point: the chosen
/// points, 5 input lengths, 3 loads at 3 contexts.
pub fn lower_bound(world: &World) -> (f64, f64) {
    let job = &world.spec.job;
    let (isl, osl) = (job.workload.isl, job.workload.osl);
    let mut engines: Vec<(String, u32, f64)> = Vec::new();
    let (start, end) = (f64::from(world.spec.curve.min_isl), f64::from(world.spec.curve.max_isl));
    let spread =
        |count: u32| (0..count).map(move |i| (start * (end / start).powf(f64::from(i) / f64::from(count - 1))) as u32);
    for role in Role::ALL {
        let limit_ms = world.limit_ms(role);
        let rated = world.runnable(role).filter_map(|t| Some((t, t.best_within(job, limit_ms)?)));
        let Some((truth, (n, _))) = rated.max_by(|a, b| a.1.1.total_cmp(&b.1.1)) else { continue };
        let busy_s: f64 = match role {
            Role::Prefill => {
                std::iter::once(isl).chain(spread(5)).map(|l| 8.0 * truth.ttft_ms(f64::from(l)) / 1e3).sum()
            }
            Role::Decode => {
                let curve = spread(3).flat_map(|l| {
                    let most = f64::from(truth.reach(l, osl));
                    [0.0, 0.5, 1.0].map(|part| truth.decode_point_s(l, osl, most.powf(part) as u32, 8.0))
                });
                truth.decode_point_s(isl, osl, n, 8.0) + curve.sum::<f64>()
            }
        };
        let label = truth.mapping.label();
        match engines.iter_mut().find(|e| e.0 == label) {
            Some(engine) => engine.2 += busy_s,
            None => engines.push((label, truth.gpus, world.fate(&truth.mapping).after_s + busy_s)),
        }
    }
    let wall_s = engines.iter().map(|e| e.2).fold(0.0, f64::max);
    (wall_s, engines.iter().map(|e| f64::from(e.1) * e.2).sum())
}
