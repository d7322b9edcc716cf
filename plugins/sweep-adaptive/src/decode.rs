//! Phase 2: up to which load does each decode candidate meet the ITL target, and what does it bring there?
//!
//! The first look goes where the prior expects the crossing. From then on the prior's shape, moved so that it runs through
//! what was measured, says where the crossing is; once there is a load on either side, the power law between them does.

use sla_profiler_plugin::{Candidate, Measurement, Probe, Role, Step};

use crate::Sweep;

/// Without a prior, each load is this many times the one before.
const RUNG: f64 = 4.0;

/// Looks at one candidate before the bracket is halved instead, and at most.
const GUESSES: usize = 4;
const MOST_LOOKS: usize = 24;

/// A failed point may have taken the engine with it; after this many, what works is good enough.
const MOST_FAILURES: usize = 2;

/// How much more precise looks at the crossing are than the first one.
const CLOSER: f64 = 4.0;

/// Samples of such a look at most.
const CLOSER_SAMPLES: u32 = 1024;

/// A measured load of one candidate at the job's lengths.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) concurrency: u32,
    /// In the SLA's statistic.
    pub(crate) itl_ms: f64,
    pub(crate) throughput: f64,
}

impl Sweep<'_> {
    pub(crate) fn decode(&self) -> Step {
        let open = |c: &Candidate<'_>| self.next_look(c).filter(|probe| !self.history.is_settled(probe));
        let unfinished: Vec<_> = self.candidates.of(Role::Decode).filter(|c| open(c).is_some()).collect();
        let probes: Vec<_> = self.next_wave(unfinished).iter().filter_map(open).collect();
        if probes.is_empty() {
            let refined = format!(", SLA crossings to within {} %", self.tolerance * 100.0);
            return Step::Done(self.summary(Role::Decode, &refined));
        }
        Step::Measure(probes)
    }

    /// What the candidate's prior says that it holds at the job's lengths.
    pub(crate) fn expected_reach(&self, candidate: &Candidate<'_>) -> f64 {
        let tokens = f64::from(self.job.workload.isl) + f64::from(self.job.workload.osl);
        let dp = f64::from(candidate.attention_dp);
        // Not quite all of it: the formula may be off, and requests that do not fit only wait.
        candidate.prior_kv_tokens.map_or(dp, |kv| (0.8 * kv / tokens.max(1.0)).min(1024.0 * dp).max(dp))
    }

    /// The most requests within `aim_ms` by the prior's shape, moved to run through a measured load; `None` without a prior.
    pub(crate) fn crossing_from(&self, candidate: &Candidate<'_>, load: &Load, aim_ms: f64, most: f64) -> Option<f64> {
        let factor = load.itl_ms / self.expected_itl_ms(candidate, f64::from(load.concurrency))?;
        self.expected_crossing(candidate, factor, aim_ms, most)
    }

    /// Just below the target, so that a look at it can tell that it is met.
    fn aim_ms(&self) -> f64 {
        self.limit_ms(Role::Decode) * (1.0 - 1.2 * self.precision / CLOSER)
    }

    /// The next look at one candidate; none if enough is known of it.
    fn next_look(&self, candidate: &Candidate<'_>) -> Option<Probe> {
        let (isl, osl, dp) = (self.job.workload.isl, self.job.workload.osl, candidate.attention_dp);
        let loads = self.loads(candidate);
        let failed = self.failed_loads(candidate);
        let reach = self.reach(candidate, isl, osl).map(|most| most.max(dp));
        if loads.is_empty() {
            // Down to the lowest load, should what the prior said be too much.
            let first = match failed.iter().min() {
                Some(lowest) if *lowest <= dp => return None,
                Some(_) => dp,
                None => self.first_load(candidate).min(reach.unwrap_or(u32::MAX)),
            };
            return Some(self.decode_probe(candidate, isl, osl, first));
        }
        let most = reach?;
        if loads.len() >= MOST_LOOKS || failed.len() >= MOST_FAILURES {
            return None;
        }
        let limit_ms = self.limit_ms(Role::Decode);
        let over = loads.iter().find(|l| l.itl_ms > limit_ms);
        let within = loads.iter().rev().find(|l| over.is_none_or(|o| l.concurrency < o.concurrency));
        let top = over.map(|o| o.concurrency).into_iter().chain(failed).min();
        let guess = match (within, top) {
            (Some(within), None) if within.concurrency >= most => return None,
            (Some(within), None) => {
                let n = f64::from(within.concurrency);
                let told = |aim_ms| self.crossing_from(candidate, within, aim_ms, f64::from(most));
                // Nearer the target than a look can tell.
                if within.itl_ms > self.aim_ms() && told(limit_ms).is_some_and(|end| end <= n * (1.0 + self.tolerance))
                {
                    return None;
                }
                // If the last such guess was short, so may be the next: it grows with every look.
                let bold = if loads.len() > 1 { 1.0 + self.tolerance * loads.len() as f64 } else { 1.0 };
                told(self.aim_ms()).map_or(n * RUNG, |told| told.max(n * (1.0 + self.tolerance / 2.0)) * bold)
            }
            (None, Some(top)) if top <= dp => return None,
            (None, Some(top)) => {
                let told = loads.first().and_then(|l| self.crossing_from(candidate, l, self.aim_ms(), f64::from(top)));
                // Only a load that was too much is known: less than one per rank means that even that is.
                told.map_or(f64::from(top) / RUNG, |n| n.min(f64::from(top) / (1.0 + self.tolerance / 2.0)))
            }
            (None, None) => return None,
            (Some(within), Some(top)) => {
                self.between(&loads, within, over.filter(|o| o.concurrency == top), top, dp)?
            }
        };
        let (above, below) =
            (within.map_or(dp, |w| w.concurrency / dp * dp + dp), top.map_or(most, |t| (t.div_ceil(dp) - 1) * dp));
        if above > below {
            return None;
        }
        let n = ((guess / f64::from(dp)).round() as u32).saturating_mul(dp).clamp(above, below);
        Some(self.probe(candidate.id, isl, osl, n, self.precision / CLOSER, CLOSER_SAMPLES))
    }

    /// Where the prior expects the crossing.
    fn first_load(&self, candidate: &Candidate<'_>) -> u32 {
        let (dp, belief) = (candidate.attention_dp, self.belief(candidate));
        let most = self.expected_reach(candidate);
        let told = self.expected_crossing(candidate, belief.factor, self.aim_ms(), most);
        // With a prior, but no limit, the most that fits; without a prior, the least.
        told.map_or(dp, |n| ((n / f64::from(dp)).floor() as u32).max(1).saturating_mul(dp))
    }

    /// A load between two that bracket the crossing; none if they are close enough.
    fn between(&self, loads: &[Load], within: &Load, over: Option<&Load>, top: u32, dp: u32) -> Option<f64> {
        let (low, high) = (f64::from(within.concurrency), f64::from(top));
        if high / low <= 1.0 + self.tolerance || within.concurrency + dp >= top {
            return None;
        }
        // Where a power law through both reaches a latency.
        let reaches = |aim_ms: f64| {
            let part = over.map(|over| (aim_ms / within.itl_ms).ln() / (over.itl_ms / within.itl_ms).ln())?;
            part.is_finite().then(|| low * (high / low).powf(part.clamp(0.0, 1.0)))
        };
        let (aim_ms, limit_ms) = (self.aim_ms(), self.limit_ms(Role::Decode));
        // A power law comes too early where most of a latency does not depend on the load; there a line is right.
        let by_line =
            over.map_or(0.0, |o| low + (high - low) * (limit_ms - within.itl_ms) / (o.itl_ms - within.itl_ms));
        if within.itl_ms > aim_ms
            && reaches(limit_ms).is_some_and(|end| end.max(by_line) <= low * (1.0 + self.tolerance))
        {
            return None;
        }
        Some(match reaches(aim_ms).filter(|n| *n > low) {
            Some(n) if loads.len() <= GUESSES => n,
            _ => (low * high).sqrt(),
        })
    }

    fn failed_loads(&self, candidate: &Candidate<'_>) -> Vec<u32> {
        let (isl, osl) = (self.job.workload.isl, self.job.workload.osl);
        let failures = self.history.failures.rows().filter(|f| (f.candidate, f.isl, f.osl) == (candidate.id, isl, osl));
        failures.map(|f| f.concurrency).collect()
    }

    pub(crate) fn loads(&self, candidate: &Candidate<'_>) -> Vec<Load> {
        let at_job = |m: &Measurement| (m.isl, m.osl) == (self.job.workload.isl, self.job.workload.osl);
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
}
