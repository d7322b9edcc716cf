//! Phase 2: up to which load does each decode candidate meet the ITL target, and what does it bring there?

use sla_profiler_plugin::{Candidate, Role, Step};

use crate::{Sweep, geometric_middle};

/// The coarse ladder: each load is this many times the one before.
const RUNG: u32 = 4;
/// Throughput this far off a straight line between its neighbours is a bend.
const BEND: f64 = 0.05;
/// Loads closer together than this have nothing worth knowing between them.
const CLOSE: f64 = 2.0;

/// Guesses at the crossing before it is bisected, the two ends of the rung among them.
const MOST_GUESSES: usize = 5;
/// A failed point may have taken the engine with it; after this many more than one, what works is good enough.
const MOST_FAILURES: usize = 1;

/// The highest load that meets the target, and what is known above it.
struct Bracket {
    within: Load,
    /// The lowest load that misses the target.
    over: Option<Load>,
    /// The lowest load that failed, and how many did.
    failed: Option<(u32, usize)>,
}

impl Bracket {
    /// The lowest load that is no good.
    fn top(&self) -> Option<u32> {
        let over = self.over.map(|l| l.concurrency);
        over.into_iter().chain(self.failed.map(|(n, _)| n)).min()
    }
}

/// A measured load of one candidate at the job's lengths.
#[derive(Clone, Copy)]
struct Load {
    concurrency: u32,
    /// In the SLA's statistic.
    itl_ms: f64,
    throughput: f64,
}

impl Sweep<'_> {
    pub(crate) fn decode(&self) -> Step {
        let (isl, osl) = (self.job.workload.isl, self.job.workload.osl);
        let open = |c: &Candidate<'_>| -> Vec<_> {
            let wanted = self.wanted_loads(c).into_iter().map(|n| self.decode_probe(c, isl, osl, n));
            wanted.filter(|probe| !self.history.is_settled(probe)).collect()
        };
        let unfinished: Vec<_> = self.by_promise(Role::Decode).into_iter().filter(|c| !open(c).is_empty()).collect();
        let probes: Vec<_> = self.next_wave(unfinished).iter().flat_map(open).collect();
        if probes.is_empty() {
            let refined = format!(", SLA crossings to within {} %", self.tolerance * 100.0);
            return Step::Done(self.summary(Role::Decode, &refined));
        }
        Step::Measure(probes)
    }

    /// The next loads of one candidate; none if enough is known of it.
    fn wanted_loads(&self, candidate: &Candidate<'_>) -> Vec<u32> {
        let (isl, osl, dp) = (self.job.workload.isl, self.job.workload.osl, candidate.attention_dp);
        let Some(most) = self.reach(candidate, isl, osl) else { return vec![dp] };
        let most = most.max(dp);
        let loads = self.loads(candidate);
        let Some(highest) = loads.last() else { return vec![dp] };

        let limit_ms = self.itl_limit_ms().unwrap_or(f64::INFINITY);
        let over = loads.iter().find(|l| l.itl_ms > limit_ms);
        let within = over.map_or(Some(highest), |o| loads.iter().rev().find(|l| l.concurrency < o.concurrency));
        // Missed at the lowest load: no other load is better.
        let Some(within) = within else { return vec![] };
        let end =
            Bracket { within: *within, over: over.copied(), failed: self.failed_above(candidate, within.concurrency) };
        let next = match end.top() {
            Some(_) => self.crossing(&loads, &end, limit_ms, dp),
            // Rising: the target still holds, and nothing broke.
            None => (highest.concurrency < most).then(|| highest.concurrency.saturating_mul(RUNG).min(most)),
        };
        next.map_or_else(|| self.bends(&loads, dp), |n| vec![n])
    }

    /// The lowest load above this one that failed, and how many did.
    fn failed_above(&self, candidate: &Candidate<'_>, concurrency: u32) -> Option<(u32, usize)> {
        let (isl, osl) = (self.job.workload.isl, self.job.workload.osl);
        let failures = self.history.failures.rows().filter(|f| (f.candidate, f.isl, f.osl) == (candidate.id, isl, osl));
        let loads: Vec<_> = failures.map(|f| f.concurrency).filter(|n| *n > concurrency).collect();
        Some((*loads.iter().min()?, loads.len()))
    }

    fn loads(&self, candidate: &Candidate<'_>) -> Vec<Load> {
        let at_job =
            |m: &sla_profiler_plugin::Measurement| (m.isl, m.osl) == (self.job.workload.isl, self.job.workload.osl);
        let rows = self.history.measurements.of(candidate.id).filter(at_job);
        let mut loads: Vec<_> = rows
            .filter_map(|m| {
                let throughput = m.output_tokens_per_second_per_gpu;
                Some(Load { concurrency: m.concurrency, itl_ms: m.itl_ms?.target, throughput })
            })
            .collect();
        loads.sort_by_key(|l| l.concurrency);
        loads
    }

    /// The next load to bracket the crossing of the target, or what fails, until it is known to within the tolerance or
    /// to within one request per rank.
    fn crossing(&self, loads: &[Load], bracket: &Bracket, limit_ms: f64, dp: u32) -> Option<u32> {
        let top = bracket.top()?;
        let (low, high) = (f64::from(bracket.within.concurrency), f64::from(top));
        let (above, below) = (bracket.within.concurrency / dp + 1, top.div_ceil(dp).saturating_sub(1));
        let failures = bracket.failed.map_or(0, |(_, n)| n);
        if high / low <= 1.0 + self.tolerance || above > below || failures > MOST_FAILURES {
            return None;
        }
        // Where a power law through both ends would cross. It may lie at one end and shrink the bracket by little, so it
        // is kept from the ends by most of the tolerance, and after a few attempts the middle is taken.
        let rung = f64::from(RUNG);
        let in_rung = |l: &&Load| f64::from(l.concurrency) * rung > high && f64::from(l.concurrency) < low * rung;
        let attempts = loads.iter().filter(in_rung).count();
        let part = bracket
            .over
            .filter(|o| o.concurrency == top)
            .map(|over| (limit_ms / bracket.within.itl_ms).ln() / (over.itl_ms / bracket.within.itl_ms).ln());
        let inner = 1.0 + 0.8 * self.tolerance;
        let guess = match part.filter(|p| p.is_finite()) {
            Some(part) if attempts <= MOST_GUESSES && high / low > inner * inner => {
                (low * (high / low).powf(part.clamp(0.0, 1.0))).clamp(low * inner, high / inner)
            }
            _ => (low * high).sqrt(),
        };
        Some(((guess / f64::from(dp)).round() as u32).clamp(above, below) * dp)
    }

    /// Loads around the sharpest bend of throughput, so that the curve is well drawn where it flattens.
    fn bends(&self, loads: &[Load], dp: u32) -> Vec<u32> {
        if loads.len() >= self.decode_points {
            return vec![];
        }
        let mut sharpest: Option<(f64, Vec<u32>)> = None;
        for triple in loads.windows(3) {
            let [a, b, c] = triple else { continue };
            let [x0, x1, x2] = [a, b, c].map(|l| f64::from(l.concurrency));
            let straight = a.throughput + (c.throughput - a.throughput) * (x1 - x0) / (x2 - x0);
            let off = ((b.throughput - straight) / b.throughput).abs();
            let gaps: Vec<_> = [(a, b), (b, c)]
                .into_iter()
                .filter(|(l, h)| f64::from(h.concurrency) > CLOSE * f64::from(l.concurrency))
                .map(|(l, h)| geometric_middle(l.concurrency, h.concurrency) / dp * dp)
                .filter(|n| *n > 0 && loads.iter().all(|l| l.concurrency != *n))
                .collect();
            if off > BEND && !gaps.is_empty() && sharpest.as_ref().is_none_or(|(most, _)| off > *most) {
                sharpest = Some((off, gaps));
            }
        }
        let room = self.decode_points - loads.len();
        sharpest.map_or_else(Vec::new, |(_, gaps)| gaps.into_iter().take(room).collect())
    }
}
