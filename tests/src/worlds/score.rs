//! How good an answer is, and the lower bound.

use sla_profiler::domain::Role;

use super::truth::mean_context;
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
        let at_best = truth.best_within(job, world.limit_ms(role)).map_or(0.0, |(_, rate)| rate);
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

/// At lengths and loads that nobody measured, spread evenly in their ratio over what the curves are for.
fn interpolation(world: &World, outcome: &Outcome) -> [Vec<f64>; 2] {
    let mut errors = [Vec::new(), Vec::new()];
    let (start, end) = (f64::from(world.spec.curve.min_isl), f64::from(world.spec.curve.max_isl));
    let lengths: Vec<f64> = (0..23).map(|i| start * (end / start).powf((f64::from(i) + 0.5) / 23.0)).collect();
    let prefill = &world.truths[outcome.chosen[0].candidate as usize];
    let mut ttft = outcome.ttft.clone();
    ttft.sort_by(|a, b| a.0.total_cmp(&b.0));
    ttft.dedup_by(|later, kept| later.0 == kept.0);
    for isl in &lengths {
        let isl = isl.round();
        errors[0].push((cubic(&ttft, isl) / prefill.ttft_ms(isl) - 1.0).abs());
    }
    let decode = &world.truths[outcome.chosen[1].candidate as usize];
    let osl = world.spec.job.workload.osl;
    for isl in lengths.iter().step_by(3).map(|isl| isl.round() as u32) {
        let reach = f64::from(decode.reach(isl, osl));
        for part in [0.1, 0.3, 0.5, 0.7, 0.9] {
            let (n, context) = (reach.powf(part).max(f64::from(decode.ranks)), mean_context(isl, osl));
            let told = surface(&outcome.itl, f64::from(decode.kv_tokens), context, n);
            errors[1].push((told / decode.itl_ms(context, n) - 1.0).abs());
        }
    }
    errors
}

fn p95(errors: &mut [f64]) -> f64 {
    errors.sort_by(f64::total_cmp);
    errors[(errors.len() - 1) * 95 / 100]
}

/// Through the four nearest points, as SciPy's cubic `interp1d` does in Dynamo's planner; there, the length is kept in range.
fn cubic(points: &[(f64, f64)], x: f64) -> f64 {
    let Some((first, last)) = points.first().zip(points.last()) else { return f64::NAN };
    let x = x.clamp(first.0, last.0);
    let above = points.partition_point(|p| p.0 < x).clamp(2.min(points.len()), points.len().saturating_sub(2).max(2).min(points.len()));
    let support = &points[above.saturating_sub(2)..(above + 2).min(points.len())];
    let term = |p: &(f64, f64)| {
        support.iter().filter(|q| q.0 != p.0).fold(p.1, |product, q| product * (x - q.0) / (p.0 - q.0))
    };
    support.iter().map(term).sum()
}

/// Linear in KV usage within a context, linear between the two nearest contexts, as Dynamo's planner reads the file.
fn surface(points: &[(u32, u32, f64, f64)], kv_tokens: f64, context: f64, requests: f64) -> f64 {
    let usage = requests * context / kv_tokens;
    let mut rows: Vec<(f64, Vec<(f64, f64)>)> = Vec::new();
    for (isl, osl, n, itl_ms) in points {
        let at = mean_context(*isl, *osl);
        let point = (n * at / kv_tokens, *itl_ms);
        match rows.iter_mut().find(|row| row.0 == at) {
            Some(row) => row.1.push(point),
            None => rows.push((at, vec![point])),
        }
    }
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    rows.iter_mut().for_each(|row| {
        row.1.sort_by(|a, b| a.0.total_cmp(&b.0));
        row.1.dedup_by(|later, kept| (later.0 - kept.0).abs() < 1e-9);
    });
    let told = |row: &(f64, Vec<(f64, f64)>)| linear(&row.1, usage);
    let above = rows.partition_point(|row| row.0 < context);
    match (above.checked_sub(1).and_then(|i| rows.get(i)), rows.get(above)) {
        (Some(low), Some(high)) => {
            let part = (context - low.0) / (high.0 - low.0);
            told(low) * (1.0 - part) + told(high) * part
        }
        (Some(only), None) | (None, Some(only)) => told(only),
        (None, None) => f64::NAN,
    }
}

/// Between the two nearest points; beyond the ends, along the last piece.
fn linear(points: &[(f64, f64)], x: f64) -> f64 {
    if points.len() < 2 {
        return points.first().map_or(f64::NAN, |p| p.1);
    }
    let above = points.partition_point(|p| p.0 < x).clamp(1, points.len() - 1);
    let (a, b) = (points[above - 1], points[above]);
    a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0)
}

/// Least wall time and GPU-seconds for whoever knows the answer beforehand and only has to show it: the winners' engines
/// are launched, one for both roles where they are the same, and measured at eight samples a point: the chosen
/// points, 5 input lengths, 3 loads at 3 contexts.
pub fn lower_bound(world: &World) -> (f64, f64) {
    let job = &world.spec.job;
    let (isl, osl) = (job.workload.isl, job.workload.osl);
    let mut engines: Vec<(String, u32, f64)> = Vec::new();
    let (start, end) = (f64::from(world.spec.curve.min_isl), f64::from(world.spec.curve.max_isl));
    let spread = |count: u32| {
        (0..count).map(move |i| (start * (end / start).powf(f64::from(i) / f64::from(count - 1))) as u32)
    };
    for role in Role::ALL {
        let limit_ms = world.limit_ms(role);
        let rated = world.runnable(role).filter_map(|t| Some((t, t.best_within(job, limit_ms)?)));
        let Some((truth, (n, _))) = rated.max_by(|a, b| a.1.1.total_cmp(&b.1.1)) else { continue };
        let busy_s: f64 = match role {
            Role::Prefill => std::iter::once(isl).chain(spread(5)).map(|l| 8.0 * truth.ttft_ms(f64::from(l)) / 1e3).sum(),
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
