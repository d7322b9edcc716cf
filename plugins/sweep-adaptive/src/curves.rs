//! Phases 4 and 5: the winners' curves, dense where they bend and nowhere else.

use std::collections::BTreeMap;

use sla_profiler_plugin::{Candidate, Curve, Measurement, Probe, Step};

use crate::{PREFILL_OSL, Sweep, geometric_middle};

/// Input lengths of the first, coarse look at the prefill curve.
const COARSE_LENGTHS: u32 = 5;
/// Contexts of the decode curve, the job's aside.
const CONTEXTS: u32 = 3;
/// Lengths closer together than this many tokens are one to us.
const CLOSE_TOKENS: u32 = 16;

impl Sweep<'_> {
    pub(crate) fn prefill_curve(&self, candidate: &Candidate<'_>, curve: &Curve) -> Step {
        let end = curve.max_isl.min(self.job.model.max_context.saturating_sub(PREFILL_OSL));
        let mut lengths = spread(curve.min_isl, end, COARSE_LENGTHS);
        lengths.push(self.job.workload.isl.clamp(curve.min_isl.min(end), end));
        lengths.sort_unstable();
        lengths.dedup();
        let probes: Vec<_> = self.open(lengths.into_iter().map(|isl| self.prefill_probe(candidate, isl)));
        if !probes.is_empty() {
            return Step::Measure(probes);
        }
        let of_curve =
            |m: &Measurement| m.concurrency == candidate.attention_dp && (curve.min_isl..=end).contains(&m.isl);
        let rows = self.history.measurements.of(candidate.id).filter(of_curve);
        let points: BTreeMap<u32, f64> = rows.filter_map(|m| Some((m.isl, m.ttft_ms?.mean))).collect();
        let tried = points.len() + self.failures_of(candidate.id);
        let points: Vec<_> = points.into_iter().collect();
        let close = |a: u32, b: u32| b - a >= 2 * CLOSE_TOKENS;
        let next = (tried < self.prefill_curve_points).then(|| {
            self.worst_gap(&points, by_parabola, |a, b| {
                let middle = geometric_middle(a, b);
                (close(a, b) && !self.history.is_settled(&self.prefill_probe(candidate, middle))).then_some(middle)
            })
        });
        match next.flatten() {
            Some((_, isl)) => Step::Measure(vec![self.prefill_probe(candidate, isl)]),
            None => Step::Done(format!("{} input lengths measured", points.len())),
        }
    }

    pub(crate) fn decode_curve(&self, candidate: &Candidate<'_>, curve: &Curve) -> Step {
        let (job_isl, osl, dp) = (self.job.workload.isl, self.job.workload.osl, candidate.attention_dp);
        let Some(facts) = self.history.facts_of(candidate.id) else {
            let first = self.open([self.decode_probe(candidate, job_isl, osl, dp)].into_iter());
            return if first.is_empty() { Step::Done("the engine never ran".to_owned()) } else { Step::Measure(first) };
        };
        // What one request per rank leaves room for.
        let by_memory = (facts.kv_tokens / dp).saturating_sub(osl);
        let end = curve.max_isl.min(self.job.model.max_context.saturating_sub(osl)).min(by_memory);
        let lengths = spread(curve.min_isl, end, CONTEXTS);

        let mut wanted = Vec::new();
        for &isl in lengths.iter().filter(|isl| **isl != job_isl) {
            let most = self.reach(candidate, isl, osl).unwrap_or(0);
            let middle = geometric_middle(dp, most) / dp * dp;
            wanted.extend([dp, middle, most].into_iter().map(|n| (isl, n)));
        }
        let around = self.around_the_operating_point(candidate, curve.concurrency);
        let middle = geometric_middle(dp, around.iter().copied().max().unwrap_or(dp)) / dp * dp;
        wanted.extend([dp, middle].into_iter().chain(around).map(|n| (job_isl, n)));
        wanted.retain(|(_, n)| *n >= dp);
        wanted.sort_unstable();
        wanted.dedup();
        let probes = self.open(wanted.into_iter().map(|(isl, n)| self.decode_probe(candidate, isl, osl, n)));
        if !probes.is_empty() {
            return Step::Measure(probes);
        }

        let mut worst: Option<(f64, u32, u32)> = None;
        let mut measured = 0;
        let mut paid = self.failures_of(candidate.id);
        let job_too = (!lengths.contains(&job_isl)).then_some(job_isl);
        for isl in lengths.iter().copied().chain(job_too) {
            let rows = self.history.measurements.of(candidate.id).filter(|m| (m.isl, m.osl) == (isl, osl));
            let points: BTreeMap<u32, f64> = rows.filter_map(|m| Some((m.concurrency, m.itl_ms?.mean))).collect();
            let points: Vec<_> = points.into_iter().collect();
            measured += points.len();
            // At the job's own length the sweep measured too, which is not the curve's to pay. Half of its points there are
            // enough, whoever paid.
            let own = isl == job_isl;
            paid += if own { points.len().min(self.decode_curve_points / 4) } else { points.len() };
            if own && points.len() >= self.decode_curve_points / 2 {
                continue;
            }
            let found = self.worst_gap(&points, by_line, |a, b| {
                let middle = geometric_middle(a, b) / dp * dp;
                let new = middle > a && middle < b;
                (new && !self.history.is_settled(&self.decode_probe(candidate, isl, osl, middle))).then_some(middle)
            });
            if let Some((error, n)) = found.filter(|(error, _)| worst.is_none_or(|(most, ..)| *error > most)) {
                worst = Some((error, isl, n));
            }
        }
        match worst.filter(|_| paid < self.decode_curve_points) {
            Some((_, isl, n)) => Step::Measure(vec![self.decode_probe(candidate, isl, osl, n)]),
            None => Step::Done(format!("{measured} points measured at {} contexts, and the job's own", lengths.len())),
        }
    }

    /// The load that selection chose, and one on each side of it where none within twice the load was measured.
    fn around_the_operating_point(&self, candidate: &Candidate<'_>, chosen: u32) -> Vec<u32> {
        let (isl, osl, dp) = (self.job.workload.isl, self.job.workload.osl, candidate.attention_dp);
        let most = self.reach(candidate, isl, osl).unwrap_or(0);
        let chosen = chosen.min(most) / dp * dp;
        let rows = self.history.measurements.of(candidate.id).filter(|m| (m.isl, m.osl) == (isl, osl));
        let known: Vec<_> = rows.map(|m| m.concurrency).collect();
        let mut wanted = vec![chosen];
        if !known.iter().any(|n| *n < chosen && n.saturating_mul(2) >= chosen) {
            wanted.push(chosen.saturating_mul(2) / 3 / dp * dp);
        }
        if !known.iter().any(|n| *n > chosen && *n <= chosen.saturating_mul(2)) {
            wanted.push((chosen.saturating_mul(3) / 2).min(most) / dp * dp);
        }
        wanted
    }

    /// Where the next point helps most: beside the point that its neighbours foretell worst, in the wider gap of the two
    /// that `middle` allows. With the error; `None` if all are foretold to within the tolerance.
    fn worst_gap(
        &self,
        points: &[(u32, f64)],
        foretell: impl Fn(&[(u32, f64)], usize) -> Option<f64>,
        middle: impl Fn(u32, u32) -> Option<u32>,
    ) -> Option<(f64, u32)> {
        let mut worst: Option<(f64, u32)> = None;
        for i in 1..points.len().saturating_sub(1) {
            let (Some(&(a, _)), Some(&(b, y)), Some(&(c, _))) = (points.get(i - 1), points.get(i), points.get(i + 1))
            else {
                continue;
            };
            let Some(error) = foretell(points, i).map(|told| ((told - y) / y).abs()) else { continue };
            let ratio = |l: u32, h: u32| f64::from(h) / f64::from(l.max(1));
            let mut gaps = [(a, b), (b, c)];
            gaps.sort_by(|g, h| ratio(h.0, h.1).total_cmp(&ratio(g.0, g.1)));
            let next = gaps.into_iter().find_map(|(low, high)| middle(low, high));
            if let Some(next) =
                next.filter(|_| error > self.curve_tolerance && worst.is_none_or(|(most, _)| error > most))
            {
                worst = Some((error, next));
            }
        }
        worst
    }

    fn open(&self, probes: impl Iterator<Item = Probe>) -> Vec<Probe> {
        probes.filter(|probe| !self.history.is_settled(probe)).collect()
    }

    fn failures_of(&self, candidate: u32) -> usize {
        self.history.failures.rows().filter(|f| f.candidate == candidate).count()
    }
}

/// The i-th point by a straight line through its neighbours.
fn by_line(points: &[(u32, f64)], i: usize) -> Option<f64> {
    let (&(a, ya), &(b, _), &(c, yc)) = (points.get(i.checked_sub(1)?)?, points.get(i)?, points.get(i + 1)?);
    Some(ya + (yc - ya) * (f64::from(b) - f64::from(a)) / (f64::from(c) - f64::from(a)))
}

/// The i-th point by a parabola through its neighbours and the nearest other point: TTFT is about quadratic in length.
fn by_parabola(points: &[(u32, f64)], i: usize) -> Option<f64> {
    let at = |j: usize| points.get(j).map(|(x, y)| (f64::from(*x), *y));
    let (left, here, right) = (at(i.checked_sub(1)?)?, at(i)?, at(i + 1)?);
    let distance = |p: &(f64, f64)| (p.0.max(1.0) / here.0.max(1.0)).ln().abs();
    let further = [i.checked_sub(2).and_then(at), at(i + 2)].into_iter().flatten();
    let Some(third) = further.min_by(|a, b| distance(a).total_cmp(&distance(b))) else { return by_line(points, i) };
    let support = [left, right, third];
    let term = |&(xj, yj): &(f64, f64)| {
        let others = support.iter().filter(|(x, _)| *x != xj);
        others.fold(yj, |product, (x, _)| product * (here.0 - x) / (xj - x))
    };
    Some(support.iter().map(term).sum())
}

/// So many lengths from `start` to `end`, both included, evenly spaced in their ratio.
fn spread(start: u32, end: u32, count: u32) -> Vec<u32> {
    let start = start.max(1);
    if end < start {
        return vec![];
    }
    let ratio = f64::from(end) / f64::from(start);
    let last = f64::from(count.max(2) - 1);
    let inner = (0..count).map(|i| (f64::from(start) * ratio.powf(f64::from(i) / last)).round() as u32);
    let mut lengths: Vec<_> = inner.map(|n| n.clamp(start, end)).collect();
    lengths.dedup();
    lengths
}
