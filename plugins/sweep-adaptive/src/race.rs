//! What each candidate can bring within the SLA, at worst and at best, in tokens per second and GPU; who cannot win any
//! more; whom to ask for next.

use sla_profiler_plugin::{Candidate, Role, packing};

use crate::Sweep;

/// A candidate that is expected to bring less than this part of the best one waits until more is known.
const WAITS: f64 = 0.7;

/// A smaller engine may be wanted for its size, where the demand is small; it is out only if it brings less than this part.
const SMALLER: f64 = 0.75;

/// Between two loads of one engine, throughput is known to about this.
const SLACK: f64 = 0.02;

/// Tokens per second and GPU within the SLA; 0 where it is missed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chance {
    pub(crate) low: f64,
    pub(crate) expected: f64,
    pub(crate) high: f64,
}

impl Chance {
    /// What orders candidates: what is expected, and among those of which nothing is, what might be.
    fn promise(&self) -> f64 {
        self.expected + 1e-3 * self.high.min(1e12)
    }
}

impl<'a> Sweep<'a> {
    /// `None` where nobody can tell: no prior and no measurement.
    pub(crate) fn chance(&self, candidate: &Candidate<'_>) -> Option<Chance> {
        let all = self.chances.get_or_init(|| self.candidates.rows().map(|c| self.look_up(&c)).collect());
        all.get(candidate.id as usize).copied().flatten()
    }

    fn look_up(&self, candidate: &Candidate<'_>) -> Option<Chance> {
        if self.history.engine_failure(candidate.id).is_some() {
            return Some(Chance::default());
        }
        let measured = match candidate.role {
            Role::Prefill => self.measured_prefill(candidate),
            Role::Decode => self.measured_decode(candidate),
        };
        measured.or_else(|| match candidate.role {
            Role::Prefill => self.expected_prefill(candidate),
            Role::Decode => self.expected_decode(candidate),
        })
    }

    fn measured_prefill(&self, candidate: &Candidate<'_>) -> Option<Chance> {
        let limit_ms = self.limit_ms(Role::Prefill);
        let rows = self.history.measurements.of(candidate.id).filter(|m| m.isl == self.job.workload.isl);
        let best = rows.filter(|m| m.ttft_ms.is_some()).max_by_key(|m| m.samples)?;
        let ttft = best.ttft_ms?;
        let error = ttft.relative_error().unwrap_or(0.0);
        let rate = best.input_tokens_per_second_per_gpu;
        let if_within = |ms: f64, rate: f64| if ms <= limit_ms { rate } else { 0.0 };
        Some(Chance {
            low: if_within(ttft.target * (1.0 + error), rate * (1.0 - error)),
            expected: if_within(ttft.target, rate),
            high: if_within(ttft.target * (1.0 - error), rate * (1.0 + error)),
        })
    }

    fn expected_prefill(&self, candidate: &Candidate<'_>) -> Option<Chance> {
        let (limit_ms, belief) = (self.limit_ms(Role::Prefill), self.belief(candidate));
        let (ms, rate) = (candidate.prior_latency_ms?, candidate.prior_tokens_per_second_per_gpu?);
        let at = |factor: f64| if ms * factor <= limit_ms { rate / factor } else { 0.0 };
        Some(Chance {
            low: at(belief.factor * belief.band),
            expected: at(belief.factor),
            high: at(belief.factor / belief.band),
        })
    }

    fn measured_decode(&self, candidate: &Candidate<'_>) -> Option<Chance> {
        let loads = self.loads(candidate);
        let highest = loads.last()?;
        let limit_ms = self.limit_ms(Role::Decode);
        let over = loads.iter().find(|l| l.itl_ms > limit_ms);
        let within = loads.iter().rev().find(|l| over.is_none_or(|o| l.concurrency < o.concurrency));
        let low = within.map_or(0.0, |l| l.throughput * (1.0 - SLACK));
        let reach = self.reach(candidate, self.job.workload.isl, self.job.workload.osl)?.max(candidate.attention_dp);
        let high = match (within, over) {
            (None, Some(over)) if over.concurrency <= candidate.attention_dp => 0.0,
            // More load brings more, also where it costs more.
            (_, Some(over)) => over.throughput * (1.0 + SLACK),
            (_, None) if highest.concurrency >= reach => highest.throughput * (1.0 + SLACK),
            (_, None) => match self.crossing_from(candidate, highest, limit_ms, f64::from(reach)) {
                Some(n) => highest.throughput * (n * 1.05 / f64::from(highest.concurrency)).max(1.0),
                None => f64::INFINITY,
            },
        };
        Some(Chance { low, expected: low, high })
    }

    fn expected_decode(&self, candidate: &Candidate<'_>) -> Option<Chance> {
        let (limit_ms, belief) = (self.limit_ms(Role::Decode), self.belief(candidate));
        let most = self.expected_reach(candidate);
        let at = |factor: f64| {
            let n = self.expected_crossing(candidate, factor, limit_ms, most)?;
            let itl_ms = self.expected_itl_ms(candidate, n.max(1.0))? * factor;
            Some(1e3 * n / itl_ms / f64::from(candidate.gpus.max(1)))
        };
        Some(Chance {
            low: at(belief.factor * belief.band)?,
            expected: at(belief.factor)?,
            high: at(belief.factor / belief.band)?,
        })
    }

    /// Why the candidate cannot win any more, if it cannot.
    pub(crate) fn out(&self, candidate: &Candidate<'_>) -> Option<String> {
        let launched = self.history.facts_of(candidate.id).is_some();
        if !(if launched { self.race } else { self.prune }) {
            return None;
        }
        let mine = self.chance(candidate)?;
        // A prior loses only to what was measured.
        let measured = |c: &Candidate<'_>| self.history.measurements.of(c.id).next().is_some();
        self.candidates
            .of(candidate.role)
            .filter(|other| other.id != candidate.id && measured(other))
            .filter_map(|other| Some((other, self.chance(&other)?)))
            .find(|(other, theirs)| {
                let part = if candidate.gpus >= other.gpus { 1.0 } else { SMALLER };
                theirs.low > 0.0 && mine.high < part * theirs.low
            })
            .map(|(other, _)| match mine.high {
                0.0 => format!("it misses the SLA, which {} meets", other.label),
                _ => format!("{} brings more per GPU", other.label),
            })
    }

    /// Candidates to go on with, out of those that are not finished: the promising ones first, the others only when
    /// nobody else is left.
    pub(crate) fn next_wave(&self, unfinished: Vec<Candidate<'a>>) -> Vec<Candidate<'a>> {
        let promise = |c: &Candidate<'_>| self.chance(c).map_or(f64::INFINITY, |chance| chance.promise());
        let mut wanted: Vec<_> = unfinished.into_iter().filter(|c| self.out(c).is_none()).collect();
        wanted.sort_by(|a, b| promise(b).total_cmp(&promise(a)));
        let Some(role) = wanted.first().map(|c| c.role) else { return wanted };
        let best = self.candidates.of(role).filter_map(|c| self.chance(&c)).map(|c| c.promise()).fold(0.0, f64::max);
        let running = |c: &Candidate<'_>| self.history.facts_of(c.id).is_some();
        let hopeful: Vec<_> =
            wanted.iter().copied().filter(|c| !self.prune || running(c) || promise(c) >= WAITS * best).collect();
        let chosen = if hopeful.is_empty() { wanted } else { hopeful };
        packing::together(chosen, self.history, self.job.hardware.total_gpus)
    }

    /// What the log should say at the end of a role's sweep.
    pub(crate) fn summary(&self, role: Role, refined: &str) -> String {
        let all: Vec<_> = self.candidates.of(role).collect();
        let measured = |c: &Candidate<'_>| self.history.measurements.of(c.id).next().is_some();
        let count = all.iter().filter(|c| measured(c)).count();
        let mut text = format!("{count} of {} candidates measured{refined}", all.len());
        let mut learnt = None;
        let mut skipped: Vec<(String, Vec<&str>)> = Vec::new();
        for c in all.iter().filter(|c| !measured(c)) {
            if let Some(failure) = self.history.failures.rows().find(|f| f.candidate == c.id) {
                text.push_str(&format!("; {} failed: {}", c.label, failure.reason));
            } else if let Some(why) = self.out(c) {
                learnt = Some(self.belief(c));
                match skipped.iter_mut().find(|(reason, _)| *reason == why) {
                    Some((_, labels)) => labels.push(c.label),
                    None => skipped.push((why, vec![c.label])),
                }
            }
        }
        for (why, labels) in skipped {
            let labels = labels.join(", ");
            text.push_str(&format!("; {labels} skipped: even at the best end of the prior's band, {why}"));
        }
        if let Some(belief) = learnt {
            text.push_str(&format!("; {}", belief.text()));
        }
        text
    }
}
