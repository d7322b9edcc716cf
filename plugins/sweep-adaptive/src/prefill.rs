//! Phase 1: one look at every prefill candidate, and a second where it may change the choice.

use sla_profiler_plugin::{Candidate, Measurement, Probe, Role, Step};

use crate::{PREFILL_OSL, Sweep};

/// The second look is this much more precise, ...
const SECOND_LOOK: f64 = 4.0;
/// ... and takes up to this many prompts.
const SECOND_LOOK_SAMPLES: u32 = 256;

impl Sweep<'_> {
    pub(crate) fn prefill(&self) -> Step {
        let isl = self.job.workload.isl;
        let all: Vec<_> = self.candidates.of(Role::Prefill).collect();
        let first_looks: Vec<_> = all
            .iter()
            .copied()
            .filter(|c| !self.history.is_settled(&self.prefill_probe(c, isl)) && self.out(c).is_none())
            .collect();
        let doubtful: Vec<_> = all
            .iter()
            .filter(|c| self.misses_or_meets_by_chance(c) || (first_looks.is_empty() && self.may_be_the_best(c)))
            .map(|c| self.second_look(c))
            .filter(|probe| !self.history.is_settled(probe))
            .collect();
        let mut probes: Vec<_> = self.next_wave(first_looks).iter().map(|c| self.prefill_probe(c, isl)).collect();
        probes.extend(doubtful);
        if !probes.is_empty() {
            return Step::Measure(probes);
        }
        let again = all.iter().filter(|c| self.history.is_settled(&self.second_look(c))).count();
        let refined = if again > 0 { format!(", {again} of them at length") } else { String::new() };
        Step::Done(self.summary(Role::Prefill, &refined))
    }

    /// A point is measured once, so the second look asks for one more output token: no prefill engine's TTFT depends on
    /// how many come after the first.
    fn second_look(&self, candidate: &Candidate<'_>) -> Probe {
        Probe {
            osl: PREFILL_OSL + 1,
            relative_precision: self.precision / SECOND_LOOK,
            max_samples: SECOND_LOOK_SAMPLES,
            ..self.prefill_probe(candidate, self.job.workload.isl)
        }
    }

    /// The first look, where a second could tell more: quantiles were given all their samples at once.
    fn look(&self, candidate: &Candidate<'_>) -> Option<Measurement> {
        let first = self.prefill_probe(candidate, self.job.workload.isl);
        let point = (first.candidate, first.isl, first.osl, first.concurrency);
        let fits = first.isl.saturating_add(PREFILL_OSL + 1) <= self.job.model.max_context;
        let measured = self.history.measurements.of(candidate.id).find(|m| m.point() == point);
        measured.filter(|_| self.job.sla.quantile.is_none() && fits)
    }

    fn misses_or_meets_by_chance(&self, candidate: &Candidate<'_>) -> bool {
        let ttft = self.look(candidate).and_then(|m| m.ttft_ms);
        let limit = self.job.sla.ttft_ms;
        ttft.zip(limit).is_some_and(|(ttft, limit)| ttft.ci_low <= limit && limit <= ttft.ci_high)
    }

    /// Whether the candidate's throughput cannot be told from that of the best one within the SLA.
    fn may_be_the_best(&self, candidate: &Candidate<'_>) -> bool {
        let interval = |c: &Candidate<'_>| {
            let m = self.look(c)?;
            let ttft = m.ttft_ms?;
            let error = ttft.relative_error()?;
            let meets = self.job.sla.ttft_ms.is_none_or(|limit| ttft.ci_low <= limit);
            let throughput = m.input_tokens_per_second_per_gpu;
            meets.then_some((throughput, throughput * (1.0 - error), throughput * (1.0 + error)))
        };
        let others = self.candidates.of(Role::Prefill).filter(|c| c.id != candidate.id).filter_map(|c| interval(&c));
        let Some((mine, low, high)) = interval(candidate) else { return false };
        let best_other = others.max_by(|a, b| a.0.total_cmp(&b.0));
        best_other
            .is_some_and(|(best, best_low, best_high)| if mine >= best { low <= best_high } else { best_low <= high })
    }
}
