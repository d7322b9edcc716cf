//! Priors from a table: what somebody knows of candidates before this run measures them.
//!
//! A row may have been measured with another workload. What counts is by how much it differs from the roofline at its
//! own point; by as much the candidate's prior is corrected at the job's point.

use serde::Serialize;

use super::candidate::Prior;
use super::memory::DEFAULT_BATCHED_TOKENS;
use super::roofline::{DecodeBatch, Roofline};
use super::search_space::{self, PRIOR_RELATIVE_ERROR};
use super::{Candidate, Job, Mapping, Role};

/// One known latency.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KnownLatency {
    /// Whose half.
    pub role: Role,
    /// Label of the mapping: `tp4`.
    pub mapping: String,
    /// TTFT of a prefill engine, ITL of a decode engine, in milliseconds.
    pub latency_ms: f64,
    /// Input length, in tokens; absent: the job's.
    pub isl: Option<u32>,
    /// Output length, in tokens; absent: the job's.
    pub osl: Option<u32>,
    /// Requests at once on one engine; absent: one for each attention-DP rank.
    pub concurrency: Option<u32>,
    /// How wrong it may be, as a fraction; absent: as much as the roofline.
    pub relative_error: Option<f64>,
    /// KV capacity of one engine in tokens; absent: by the memory formula.
    pub kv_tokens: Option<f64>,
}

/// Everything that is known beforehand.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PriorTable {
    /// In the order of the table.
    pub rows: Vec<KnownLatency>,
}

impl PriorTable {
    /// Corrects the priors of the candidates that the table knows; returns how many.
    pub fn apply(&self, job: &Job, candidates: &mut [Candidate]) -> usize {
        let mut known = 0;
        for candidate in candidates {
            if let Some(prior) = self.prior(job, candidate.role, &candidate.mapping) {
                candidate.prior = prior;
                known += 1;
            }
        }
        known
    }

    /// The candidate's prior by the row that is nearest to the job's point; `None` where there is none.
    fn prior(&self, job: &Job, role: Role, mapping: &Mapping) -> Option<Prior> {
        let label = mapping.label();
        let row = self
            .rows
            .iter()
            .filter(|row| row.role == role && row.mapping == label)
            // A prefill engine with several prompts has some of them wait.
            .filter(|row| role == Role::Decode || row.concurrency.is_none_or(|n| n <= mapping.attention_dp))
            .min_by(|a, b| a.distance(job, mapping).total_cmp(&b.distance(job, mapping)))?;
        let roofline = search_space::prior(job, role, mapping);
        let off_by = row.latency_ms / row.roofline_ms(job, mapping);
        Some(Prior {
            latency_ms: roofline.latency_ms * off_by,
            tokens_per_second_per_gpu: roofline.tokens_per_second_per_gpu / off_by,
            relative_error: row.relative_error.unwrap_or(PRIOR_RELATIVE_ERROR),
            kv_tokens: row.kv_tokens.unwrap_or(roofline.kv_tokens),
        })
    }
}

impl KnownLatency {
    fn concurrency(&self, mapping: &Mapping) -> f64 {
        f64::from(self.concurrency.unwrap_or(mapping.attention_dp).max(1))
    }

    /// How far from the prior's point, in factors of load and length.
    fn distance(&self, job: &Job, mapping: &Mapping) -> f64 {
        let load = self.concurrency(mapping) / f64::from(mapping.attention_dp.max(1));
        let length = f64::from(self.isl.unwrap_or(job.workload.isl)) / f64::from(job.workload.isl.max(1));
        load.ln().abs() + length.ln().abs()
    }

    /// What the roofline says at the row's point, in milliseconds.
    fn roofline_ms(&self, job: &Job, mapping: &Mapping) -> f64 {
        let roofline = Roofline::new(&job.model, &job.hardware, mapping, job.backend);
        let isl = self.isl.unwrap_or(job.workload.isl);
        let seconds = match self.role {
            Role::Prefill => roofline.ttft_s(isl, DEFAULT_BATCHED_TOKENS),
            Role::Decode => {
                let context_tokens = f64::from(isl) + f64::from(self.osl.unwrap_or(job.workload.osl)) / 2.0;
                let sequences = self.concurrency(mapping) / f64::from(mapping.attention_dp.max(1));
                roofline.decode_step(DecodeBatch { sequences, context_tokens }).total_s()
            }
        };
        1e3 * seconds
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{h200, hardware, job, llama_8b_fp8};
    use super::super::search_space::{Limits, build};
    use super::*;

    fn row(role: Role, mapping: &str, latency_ms: f64) -> KnownLatency {
        KnownLatency {
            role,
            mapping: mapping.to_owned(),
            latency_ms,
            isl: None,
            osl: None,
            concurrency: None,
            relative_error: None,
            kv_tokens: None,
        }
    }

    fn prior_of(table: PriorTable, role: Role, mapping: u32) -> (Prior, Prior, usize) {
        let job = job(llama_8b_fp8(), hardware(h200(), 8));
        let mut candidates = build(&job, &Limits::default()).candidates;
        let index = candidates.iter().position(|c| c.role == role && c.mapping == Mapping::tensor(mapping)).unwrap();
        let before = candidates[index].prior;
        let known = table.apply(&job, &mut candidates);
        (before, candidates[index].prior, known)
    }

    #[test]
    fn a_row_at_the_jobs_own_point_is_the_prior() {
        let known = KnownLatency { kv_tokens: Some(7e5), relative_error: Some(0.05), ..row(Role::Decode, "tp2", 4.0) };
        let (before, after, count) = prior_of(PriorTable { rows: vec![known] }, Role::Decode, 2);
        assert!((after.latency_ms - 4.0).abs() < 1e-9 && count == 1);
        assert_eq!((after.relative_error, after.kv_tokens), (0.05, 7e5));
        let speed = |prior: Prior| prior.latency_ms * prior.tokens_per_second_per_gpu;
        assert!((speed(before) / speed(after) - 1.0).abs() < 1e-9, "one is the other's inverse");
    }

    #[test]
    fn a_row_of_another_workload_corrects_by_as_much_as_it_differs_from_the_roofline() {
        let job = job(llama_8b_fp8(), hardware(h200(), 8));
        let mut known = KnownLatency { isl: Some(12_000), ..row(Role::Prefill, "tp1", 1.0) };
        known.latency_ms = 1.3 * known.roofline_ms(&job, &Mapping::tensor(1));
        let (before, after, _) = prior_of(PriorTable { rows: vec![known] }, Role::Prefill, 1);
        assert!((after.latency_ms / before.latency_ms - 1.3).abs() < 1e-9);
    }

    #[test]
    fn the_nearest_row_counts_and_prompts_that_wait_do_not() {
        let far = KnownLatency { concurrency: Some(64), ..row(Role::Decode, "tp1", 90.0) };
        let near = KnownLatency { concurrency: Some(2), ..row(Role::Decode, "tp1", 5.0) };
        let alone = PriorTable { rows: vec![near.clone()] };
        let both = PriorTable { rows: vec![far, near] };
        assert_eq!(prior_of(both, Role::Decode, 1).1, prior_of(alone, Role::Decode, 1).1);
        let waiting = KnownLatency { concurrency: Some(8), ..row(Role::Prefill, "tp1", 900.0) };
        let (before, after, known) = prior_of(PriorTable { rows: vec![waiting] }, Role::Prefill, 1);
        assert_eq!((before, known), (after, 0));
    }

    #[test]
    fn who_is_not_in_the_table_keeps_the_roofline() {
        let (before, after, known) =
            prior_of(PriorTable { rows: vec![row(Role::Decode, "tp64", 1.0)] }, Role::Decode, 4);
        assert_eq!((before, known), (after, 0));
    }
}
