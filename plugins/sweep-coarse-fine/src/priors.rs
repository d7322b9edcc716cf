//! Candidates that need no look: their prior rules them out even if it is as wrong as it may be.
//!
//! A prior may order and prune, never decide: it prunes only what no policy could want, and only once something that was
//! measured is there to take its place.

use sla_profiler_plugin::{Candidate, Measurement, Role};

use crate::Sweep;

impl<'a> Sweep<'a> {
    /// The role's candidates, the most promising by their priors first.
    pub(crate) fn by_promise(&self, role: Role) -> Vec<Candidate<'a>> {
        let mut all: Vec<_> = self.candidates.of(role).collect();
        let promise = |c: &Candidate<'_>| c.prior_tokens_per_second_per_gpu.unwrap_or(f64::NEG_INFINITY);
        all.sort_by(|a, b| promise(b).total_cmp(&promise(a)));
        all
    }

    /// Why the candidate needs no look, if it needs none. One that ran already is looked at to the end.
    pub(crate) fn pruned(&self, candidate: &Candidate<'_>) -> Option<&'static str> {
        if !self.prune || self.history.facts_of(candidate.id).is_some() {
            return None;
        }
        let role = candidate.role;
        let error = candidate.prior_relative_error.filter(|e| (0.0..1.0).contains(e))?;
        let at_best_ms = candidate.prior_latency_ms? * (1.0 - error);
        let limit_ms = self.limit_ms(role);
        let measured = |m: &Measurement| self.candidates.get(m.candidate).filter(|c| c.role == role);
        let rows = || {
            let at_job = self.history.measurements.rows().filter(|m| m.isl == self.job.workload.isl);
            at_job.filter_map(|m| Some((measured(&m)?, m, m.latency_ms(role)?)))
        };
        if limit_ms.is_some_and(|limit| at_best_ms > limit && rows().any(|(_, _, l)| l.target <= limit)) {
            return Some("it misses the SLA");
        }
        // At other loads than the prior's, nothing is known about a decode engine's throughput.
        let at_best_throughput = candidate.prior_tokens_per_second_per_gpu? * (1.0 + error);
        let dominated = role == Role::Prefill
            && rows().any(|(other, m, latency)| {
                let slack = 1.0 - latency.relative_error().unwrap_or(1.0);
                other.gpus <= candidate.gpus
                    && latency.target.max(latency.ci_high) <= at_best_ms
                    && m.tokens_per_second_per_gpu(role) * slack >= at_best_throughput
            });
        dominated.then_some("one that was measured is better in TTFT, throughput and GPUs")
    }

    /// Whether the prior says that the candidate misses the SLA. Such ones wait until it is clear that others meet it.
    pub(crate) fn is_hopeless(&self, candidate: &Candidate<'_>) -> bool {
        let at_best_ms = candidate
            .prior_latency_ms
            .zip(candidate.prior_relative_error)
            .map(|(latency_ms, error)| latency_ms * (1.0 - error));
        let misses = self.limit_ms(candidate.role).zip(at_best_ms).is_some_and(|(limit, best)| best > limit);
        self.prune && misses && self.history.facts_of(candidate.id).is_none()
    }

    /// Candidates to go on with, out of those that are not finished: the hopeless ones only when nobody else is left.
    pub(crate) fn next_wave(&self, unfinished: Vec<Candidate<'a>>) -> Vec<Candidate<'a>> {
        let wanted: Vec<_> = unfinished.into_iter().filter(|c| self.pruned(c).is_none()).collect();
        let hopeful: Vec<_> = wanted.iter().copied().filter(|c| !self.is_hopeless(c)).collect();
        let chosen = if hopeful.is_empty() { wanted } else { hopeful };
        sla_profiler_plugin::packing::together(chosen, self.history, self.job.hardware.total_gpus)
    }

    /// What the log should say at the end of a role's sweep.
    pub(crate) fn summary(&self, role: Role, refined: &str) -> String {
        let all: Vec<_> = self.candidates.of(role).collect();
        let measured = |c: &Candidate<'_>| self.history.measurements.of(c.id).next().is_some();
        let mut text =
            format!("{} of {} candidates measured{refined}", all.iter().filter(|c| measured(c)).count(), all.len());
        for c in all.iter().filter(|c| !measured(c)) {
            if let Some(failure) = self.history.failures.rows().find(|f| f.candidate == c.id) {
                text.push_str(&format!("; {} failed: {}", c.label, failure.reason));
            } else if let Some(why) = self.pruned(c) {
                text.push_str(&format!("; {} skipped: even if its prior is as wrong as it may be, {why}", c.label));
            }
        }
        text
    }
}
