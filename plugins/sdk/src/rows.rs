//! Rows over the contract's columns.
//!
//! Tables cross the border as columns because that is several times faster; policies think in rows. In a row a number
//! that was not measured is `None`, where its column holds NaN.

use crate::{Candidates, EngineFacts, FailureClass, Failures, History, Measurements, Probe, Role, Sla, StatColumns};

/// One statistic of one point, in milliseconds. Only `mean` and `target` are always numbers: few samples have no
/// interval, and NaN stands in its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stat {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 % quantile.
    pub p90: f64,
    /// 99 % quantile.
    pub p99: f64,
    /// Lower end of the mean's 95 % confidence interval.
    pub ci_low: f64,
    /// Upper end of it.
    pub ci_high: f64,
    /// The SLA's statistic: the mean, or the quantile that the job names.
    pub target: f64,
}

impl Stat {
    /// Half the width of the mean's confidence interval as a fraction of the mean, or `None` where there is none.
    pub fn relative_error(&self) -> Option<f64> {
        Some((self.ci_high - self.ci_low) / 2.0 / self.mean).filter(|e| e.is_finite() && *e >= 0.0)
    }

    /// The same value in every field, with an interval of ± `relative_error`. For tests.
    pub fn flat(value: f64, relative_error: f64) -> Self {
        Self {
            mean: value,
            p50: value,
            p90: value,
            p99: value,
            ci_low: value * (1.0 - relative_error),
            ci_high: value * (1.0 + relative_error),
            target: value,
        }
    }
}

/// One measured point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measurement {
    /// Whose.
    pub candidate: u32,
    /// Input length in tokens.
    pub isl: u32,
    /// Output length in tokens.
    pub osl: u32,
    /// Requests in flight that were asked for, over all attention-DP ranks.
    pub concurrency: u32,
    /// Mean number of requests that the engine really ran at once.
    pub concurrency_seen: f64,
    /// Time to first token; absent on decode engines.
    pub ttft_ms: Option<Stat>,
    /// Inter-token latency; absent on prefill engines.
    pub itl_ms: Option<Stat>,
    /// Samples behind the latency.
    pub samples: u32,
    /// Requests that failed.
    pub failed_requests: u32,
    /// Prompt tokens per second and GPU.
    pub input_tokens_per_second_per_gpu: f64,
    /// Generated tokens per second and GPU.
    pub output_tokens_per_second_per_gpu: f64,
    /// Mean fraction of the KV cache in use, 0 to 1, or NaN.
    pub kv_usage: f64,
}

impl Measurement {
    /// What the role's SLA target is about: TTFT of prefill engines, ITL of decode engines.
    pub const fn latency_ms(&self, role: Role) -> Option<Stat> {
        match role {
            Role::Prefill => self.ttft_ms,
            Role::Decode => self.itl_ms,
        }
    }

    /// What the role produces: input tokens (prefill) or output tokens (decode) per second and GPU.
    pub const fn tokens_per_second_per_gpu(&self, role: Role) -> f64 {
        match role {
            Role::Prefill => self.input_tokens_per_second_per_gpu,
            Role::Decode => self.output_tokens_per_second_per_gpu,
        }
    }

    /// What makes two points the same.
    pub const fn point(&self) -> (u32, u32, u32, u32) {
        (self.candidate, self.isl, self.osl, self.concurrency)
    }
}

/// What a running engine said of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Facts {
    /// Whose.
    pub candidate: u32,
    /// KV capacity in tokens, over all attention-DP ranks.
    pub kv_tokens: u32,
    /// Most requests that it runs at once, over all ranks.
    pub max_running: u32,
    /// From the order to the first answer, in seconds.
    pub launch_seconds: f64,
}

/// Something that went wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Failure<'a> {
    /// Whose.
    pub candidate: u32,
    /// What kind.
    pub class: FailureClass,
    /// Input length of the point that failed, …
    pub isl: u32,
    /// … its output length, …
    pub osl: u32,
    /// … and its concurrency: 0 where the engine itself failed, so that there is no use in asking for more.
    pub concurrency: u32,
    /// For a person.
    pub reason: &'a str,
}

/// One configuration that may be deployed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate<'a> {
    /// Index in all tables.
    pub id: u32,
    /// Which half of a deployment.
    pub role: Role,
    /// `tp4`, `tep8`, `dep16`
    pub label: &'a str,
    /// GPUs of one engine.
    pub gpus: u32,
    /// Tensor parallel size of attention.
    pub tp: u32,
    /// Pipeline parallel size.
    pub pp: u32,
    /// Data parallel ranks of attention.
    pub attention_dp: u32,
    /// Tensor parallel size within an expert.
    pub moe_tp: u32,
    /// Expert parallel size.
    pub moe_ep: u32,
    /// A guess: TTFT of one request (prefill), ITL at the lowest load (decode).
    pub prior_latency_ms: Option<f64>,
    /// A guess: tokens per second and GPU at that point.
    pub prior_tokens_per_second_per_gpu: Option<f64>,
    /// How wrong the guesses may be, as a fraction.
    pub prior_relative_error: Option<f64>,
    /// KV capacity in tokens by the memory formula.
    pub prior_kv_tokens: Option<f64>,
}

// What follows is inlined into the policy's loop, so that columns it does not look at cost nothing: a tenth of a decision.
#[inline(always)]
fn at<T: Copy>(column: &[T], row: usize, absent: T) -> T {
    column.get(row).copied().unwrap_or(absent)
}

#[inline(always)]
fn number(column: &[f64], row: usize) -> Option<f64> {
    column.get(row).copied().filter(|x| x.is_finite())
}

impl StatColumns {
    /// One row, or `None` where nothing was measured.
    #[inline(always)]
    pub fn row(&self, row: usize) -> Option<Stat> {
        let column = |c: &[f64]| at(c, row, f64::NAN);
        let mean = number(&self.mean, row)?;
        Some(Stat {
            mean,
            p50: column(&self.p50),
            p90: column(&self.p90),
            p99: column(&self.p99),
            ci_low: column(&self.ci_low),
            ci_high: column(&self.ci_high),
            target: number(&self.target, row).unwrap_or(mean),
        })
    }

    /// Appends a row; `None` as NaN.
    pub fn push(&mut self, stat: Option<Stat>) {
        let nan = Stat::flat(f64::NAN, f64::NAN);
        let s = stat.unwrap_or(nan);
        self.mean.push(s.mean);
        self.p50.push(s.p50);
        self.p90.push(s.p90);
        self.p99.push(s.p99);
        self.ci_low.push(s.ci_low);
        self.ci_high.push(s.ci_high);
        self.target.push(s.target);
    }

    fn empty() -> Self {
        Self { mean: vec![], p50: vec![], p90: vec![], p99: vec![], ci_low: vec![], ci_high: vec![], target: vec![] }
    }
}

impl Measurements {
    /// All rows, in the order of measuring.
    #[inline(always)]
    pub fn rows(&self) -> impl Iterator<Item = Measurement> + '_ {
        (0..self.candidate.len()).map(|row| self.row(row))
    }

    #[inline(always)]
    fn row(&self, row: usize) -> Measurement {
        Measurement {
            candidate: at(&self.candidate, row, u32::MAX),
            isl: at(&self.isl, row, 0),
            osl: at(&self.osl, row, 0),
            concurrency: at(&self.concurrency, row, 0),
            concurrency_seen: number(&self.concurrency_seen, row)
                .unwrap_or_else(|| f64::from(at(&self.concurrency, row, 0))),
            ttft_ms: self.ttft_ms.row(row),
            itl_ms: self.itl_ms.row(row),
            samples: at(&self.samples, row, 0),
            failed_requests: at(&self.failed_requests, row, 0),
            input_tokens_per_second_per_gpu: number(&self.input_tokens_per_second_per_gpu, row).unwrap_or(0.0),
            output_tokens_per_second_per_gpu: number(&self.output_tokens_per_second_per_gpu, row).unwrap_or(0.0),
            kv_usage: at(&self.kv_usage, row, f64::NAN),
        }
    }

    /// One row.
    #[inline(always)]
    pub fn get(&self, row: usize) -> Option<Measurement> {
        (row < self.candidate.len()).then(|| self.row(row))
    }

    /// The rows of one candidate.
    pub fn of(&self, candidate: u32) -> impl Iterator<Item = Measurement> + '_ {
        // Looks at one column and puts only those rows together: a policy asks for every candidate.
        let rows = self.candidate.iter().enumerate().filter(move |(_, c)| **c == candidate);
        rows.map(|(row, _)| self.row(row))
    }

    /// Appends a row.
    pub fn push(&mut self, m: Measurement) {
        self.candidate.push(m.candidate);
        self.isl.push(m.isl);
        self.osl.push(m.osl);
        self.concurrency.push(m.concurrency);
        self.concurrency_seen.push(m.concurrency_seen);
        self.ttft_ms.push(m.ttft_ms);
        self.itl_ms.push(m.itl_ms);
        self.samples.push(m.samples);
        self.failed_requests.push(m.failed_requests);
        self.input_tokens_per_second_per_gpu.push(m.input_tokens_per_second_per_gpu);
        self.output_tokens_per_second_per_gpu.push(m.output_tokens_per_second_per_gpu);
        self.kv_usage.push(m.kv_usage);
    }

    /// A table without rows.
    pub fn empty() -> Self {
        Self {
            candidate: vec![],
            isl: vec![],
            osl: vec![],
            concurrency: vec![],
            concurrency_seen: vec![],
            ttft_ms: StatColumns::empty(),
            itl_ms: StatColumns::empty(),
            samples: vec![],
            failed_requests: vec![],
            input_tokens_per_second_per_gpu: vec![],
            output_tokens_per_second_per_gpu: vec![],
            kv_usage: vec![],
        }
    }
}

impl FromIterator<Measurement> for Measurements {
    fn from_iter<I: IntoIterator<Item = Measurement>>(rows: I) -> Self {
        let mut table = Self::empty();
        rows.into_iter().for_each(|row| table.push(row));
        table
    }
}

impl EngineFacts {
    /// All rows, in the order of launching.
    pub fn rows(&self) -> impl Iterator<Item = Facts> + '_ {
        (0..self.candidate.len()).map(|row| self.row(row))
    }

    fn row(&self, row: usize) -> Facts {
        Facts {
            candidate: at(&self.candidate, row, u32::MAX),
            kv_tokens: at(&self.kv_tokens, row, 0),
            max_running: at(&self.max_running, row, 0),
            launch_seconds: at(&self.launch_seconds, row, f64::NAN),
        }
    }

    /// Appends a row.
    pub fn push(&mut self, facts: Facts) {
        self.candidate.push(facts.candidate);
        self.kv_tokens.push(facts.kv_tokens);
        self.max_running.push(facts.max_running);
        self.launch_seconds.push(facts.launch_seconds);
    }
}

impl Failures {
    /// All rows, in the order of failing.
    pub fn rows(&self) -> impl Iterator<Item = Failure<'_>> {
        self.candidate.iter().enumerate().map(|(row, &candidate)| Failure {
            candidate,
            class: at(&self.class, row, FailureClass::Other),
            isl: at(&self.isl, row, 0),
            osl: at(&self.osl, row, 0),
            concurrency: at(&self.concurrency, row, 0),
            reason: self.reason.get(row).map_or("", String::as_str),
        })
    }

    /// Appends a row.
    pub fn push(&mut self, failure: Failure<'_>) {
        self.candidate.push(failure.candidate);
        self.class.push(failure.class);
        self.isl.push(failure.isl);
        self.osl.push(failure.osl);
        self.concurrency.push(failure.concurrency);
        self.reason.push(failure.reason.to_owned());
    }
}

impl History {
    /// Nothing is known yet.
    pub fn empty() -> Self {
        Self {
            facts: EngineFacts { candidate: vec![], kv_tokens: vec![], max_running: vec![], launch_seconds: vec![] },
            measurements: Measurements::empty(),
            failures: Failures {
                candidate: vec![],
                class: vec![],
                isl: vec![],
                osl: vec![],
                concurrency: vec![],
                reason: vec![],
            },
        }
    }

    /// What the candidate's engine said of itself, if it ever ran.
    pub fn facts_of(&self, candidate: u32) -> Option<Facts> {
        self.facts.candidate.iter().position(|c| *c == candidate).map(|row| self.facts.row(row))
    }

    /// Why the candidate's engine as a whole is out of the question, if it is.
    pub fn engine_failure(&self, candidate: u32) -> Option<Failure<'_>> {
        self.failures.rows().find(|f| f.candidate == candidate && f.concurrency == 0)
    }

    /// Whether asking for the point again is pointless: it was measured, or it or its engine failed.
    pub fn is_settled(&self, probe: &Probe) -> bool {
        let point = (probe.candidate, probe.isl, probe.osl, probe.concurrency);
        let failed = |f: Failure<'_>| {
            f.candidate == probe.candidate
                && (f.concurrency == 0 || (f.candidate, f.isl, f.osl, f.concurrency) == point)
        };
        self.measurements.rows().any(|m| m.point() == point) || self.failures.rows().any(failed)
    }
}

impl Candidates {
    /// All rows; a candidate's id is its place.
    pub fn rows(&self) -> impl Iterator<Item = Candidate<'_>> {
        (0u32..).zip(&self.role).map(|(id, &role)| self.row(id, role))
    }

    /// The candidates of one role.
    pub fn of(&self, role: Role) -> impl Iterator<Item = Candidate<'_>> {
        self.rows().filter(move |c| c.role == role)
    }

    /// One candidate.
    #[inline(always)]
    pub fn get(&self, id: u32) -> Option<Candidate<'_>> {
        self.role_of(id).map(|role| self.row(id, role))
    }

    /// The candidate's role, or `None` if there is no such candidate.
    pub fn role_of(&self, id: u32) -> Option<Role> {
        self.role.get(id as usize).copied()
    }

    #[inline(always)]
    fn row(&self, id: u32, role: Role) -> Candidate<'_> {
        let row = id as usize;
        Candidate {
            id,
            role,
            label: self.label.get(row).map_or("", String::as_str),
            gpus: at(&self.gpus, row, 1).max(1),
            tp: at(&self.tp, row, 1),
            pp: at(&self.pp, row, 1),
            attention_dp: at(&self.attention_dp, row, 1).max(1),
            moe_tp: at(&self.moe_tp, row, 1),
            moe_ep: at(&self.moe_ep, row, 1),
            prior_latency_ms: number(&self.prior_latency_ms, row),
            prior_tokens_per_second_per_gpu: number(&self.prior_tokens_per_second_per_gpu, row),
            prior_relative_error: number(&self.prior_relative_error, row),
            prior_kv_tokens: number(&self.prior_kv_tokens, row),
        }
    }

    /// A table without rows.
    pub fn empty() -> Self {
        Self {
            role: vec![],
            label: vec![],
            gpus: vec![],
            tp: vec![],
            pp: vec![],
            attention_dp: vec![],
            moe_tp: vec![],
            moe_ep: vec![],
            prior_latency_ms: vec![],
            prior_tokens_per_second_per_gpu: vec![],
            prior_relative_error: vec![],
            prior_kv_tokens: vec![],
        }
    }

    /// Appends a row; its `id` is ignored.
    pub fn push(&mut self, c: Candidate<'_>) {
        self.role.push(c.role);
        self.label.push(c.label.to_owned());
        self.gpus.push(c.gpus);
        self.tp.push(c.tp);
        self.pp.push(c.pp);
        self.attention_dp.push(c.attention_dp);
        self.moe_tp.push(c.moe_tp);
        self.moe_ep.push(c.moe_ep);
        self.prior_latency_ms.push(c.prior_latency_ms.unwrap_or(f64::NAN));
        self.prior_tokens_per_second_per_gpu.push(c.prior_tokens_per_second_per_gpu.unwrap_or(f64::NAN));
        self.prior_relative_error.push(c.prior_relative_error.unwrap_or(f64::NAN));
        self.prior_kv_tokens.push(c.prior_kv_tokens.unwrap_or(f64::NAN));
    }
}

impl Sla {
    /// The target of one role by itself: TTFT for prefill, ITL for decode. `None` where an end-to-end target rules both.
    pub const fn limit_ms(&self, role: Role) -> Option<f64> {
        match role {
            Role::Prefill => self.ttft_ms,
            Role::Decode => self.itl_ms,
        }
    }

    /// `mean`, `p95`
    pub fn statistic(&self) -> String {
        self.quantile.map_or_else(|| "mean".to_owned(), |q| format!("p{}", (q * 1e5).round() / 1e3))
    }
}

/// The best choice of each candidate, best first: those that meet the SLA before those that do not, then by score. Equal
/// ones keep the order in which they come. A score that is no number counts as the worst.
pub fn best_per_candidate(choices: impl IntoIterator<Item = crate::Choice>) -> Vec<crate::Choice> {
    best_standing(choices, |c| (c.candidate, c.meets_sla, c.score))
}

/// [`best_per_candidate`] of anything that has a candidate, a verdict and a score; for policies that put the ranking into
/// words only when it stands.
pub fn best_standing<T>(items: impl IntoIterator<Item = T>, standing: impl Fn(&T) -> (u32, bool, f64)) -> Vec<T> {
    // With what they are compared by: verdict, score, and place among the items.
    let mut ranked: Vec<((bool, f64, usize), T)> = Vec::new();
    let score_of = |score: f64| if score.is_nan() { f64::NEG_INFINITY } else { score };
    let compare =
        |a: &(bool, f64, usize), b: &(bool, f64, usize)| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2));
    // Only the best of each candidate is sorted.
    let mut place_of = std::collections::BTreeMap::new();
    // A candidate's items mostly come one after the other.
    let mut last = None;
    for (number, item) in items.into_iter().enumerate() {
        let (candidate, meets_sla, score) = standing(&item);
        let rank = (meets_sla, score_of(score), number);
        let place = match last {
            Some((of, place)) if of == candidate => place,
            _ => *place_of.entry(candidate).or_insert(ranked.len()),
        };
        last = Some((candidate, place));
        match ranked.get_mut(place) {
            None => ranked.push((rank, item)),
            Some(best) if compare(&rank, &best.0).is_lt() => *best = (rank, item),
            Some(_) => {}
        }
    }
    ranked.sort_unstable_by(|(a, _), (b, _)| compare(a, b));
    ranked.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn rows_and_columns_are_inverse() {
        let a = testing::prefill_point(0, 1000, 1, 80.0);
        let b = testing::decode_point(1, 1000, 200, 8, 12.5);
        let table: Measurements = [a, b].into_iter().collect();
        assert!(table.itl_ms.mean.first().unwrap().is_nan(), "NaN in a column");
        let rows: Vec<_> = table.rows().collect();
        assert_eq!((rows[0].ttft_ms, rows[0].itl_ms), (a.ttft_ms, None), "none in a row");
        assert_eq!(rows[1].point(), b.point());
        assert_eq!(table.of(1).count(), 1);
    }

    #[test]
    fn short_columns_read_as_not_measured() {
        let mut table: Measurements = [testing::decode_point(1, 1000, 200, 8, 12.5)].into_iter().collect();
        table.itl_ms.target.clear();
        table.kv_usage.clear();
        table.osl.clear();
        let row = table.rows().next().unwrap();
        assert_eq!(row.itl_ms.unwrap().target, 12.5, "the mean stands in");
        assert!(row.kv_usage.is_nan());
        assert_eq!(row.osl, 0);
    }

    #[test]
    fn an_engine_failure_settles_every_point_and_a_point_failure_one() {
        let mut history = History::empty();
        let failure = |candidate, concurrency| Failure {
            candidate,
            class: FailureClass::Crash,
            isl: 10,
            osl: 5,
            concurrency,
            reason: "x",
        };
        history.failures.push(failure(0, 0));
        history.failures.push(failure(1, 4));
        let probe = |candidate, concurrency| Probe {
            candidate,
            isl: 10,
            osl: 5,
            concurrency,
            relative_precision: 0.1,
            max_samples: 1,
        };
        assert!(history.is_settled(&probe(0, 9)));
        assert!(history.is_settled(&probe(1, 4)));
        assert!(!history.is_settled(&probe(1, 5)));
        assert_eq!(history.engine_failure(1), None);
    }

    #[test]
    fn meeting_the_sla_beats_any_score_and_nan_loses() {
        let choice = |candidate, meets_sla, score| crate::Choice {
            candidate,
            concurrency: 1,
            meets_sla,
            score,
            reason: String::new(),
            binding: String::new(),
        };
        let ranked = best_per_candidate([
            choice(0, false, 9.0),
            choice(1, true, f64::NAN),
            choice(2, true, 1.0),
            choice(2, true, 3.0),
        ]);
        let order: Vec<_> = ranked.iter().map(|c| (c.candidate, c.score.to_bits())).collect();
        assert_eq!(order, [(2, 3f64.to_bits()), (1, f64::NAN.to_bits()), (0, 9f64.to_bits())]);
    }
}
