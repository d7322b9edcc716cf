//! How sure an answer is: each winner against its target and against the runner-up, with the 95 % intervals of what was
//! measured.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::result::operating_point;
use crate::domain::{Candidate, CandidateId, Choice, History, Job, Measurement, Role, Stat};

/// The next best candidate of the role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunnerUp {
    /// Index in `candidates`.
    pub id: CandidateId,
    /// `tp4`
    pub label: String,
    /// Whether it meets the SLA.
    pub meets_sla: bool,
    /// By which fraction the winner's throughput per GPU is above its own, both at their operating points; negative where
    /// the policy had another reason to prefer the winner.
    pub lead: f64,
    /// Half of the 95 % interval of `lead`; absent where an interval is not known.
    pub lead_error: Option<f64>,
    /// Whether the interval leaves out zero.
    pub distinguishable: bool,
    /// What the policy said of it.
    pub reason: String,
}

/// A winner's latency and its target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgainstTarget {
    /// `ttft` or `itl`.
    pub target: String,
    /// In milliseconds.
    pub limit_ms: f64,
    /// In the SLA's statistic, in milliseconds, without waiting.
    pub measured_ms: f64,
    /// Half of its 95 % interval in milliseconds, as wide in proportion as that of the mean; absent where not known.
    pub error_ms: Option<f64>,
    /// Whether the whole interval is on one side of the target.
    pub certain: bool,
}

/// Both, for one role.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Certainty {
    /// Absent where nobody else was measured, or nothing can be compared.
    pub runner_up: Option<RunnerUp>,
    /// Absent where the role has no target of its own.
    pub against_target: Option<AgainstTarget>,
}

const fn latency(role: Role, m: &Measurement) -> Option<Stat> {
    match role {
        Role::Prefill => m.ttft_ms,
        Role::Decode => m.itl_ms,
    }
}

/// Half of the mean's interval as a fraction of it.
fn relative_error(stat: &Stat) -> Option<f64> {
    Some((stat.ci_high - stat.ci_low) / 2.0 / stat.mean).filter(|error| error.is_finite() && *error >= 0.0)
}

impl Certainty {
    /// Of the first of a ranking.
    pub fn of(job: &Job, candidates: &[Candidate], history: &History, role: Role, ranking: &[Choice]) -> Self {
        let at = |choice: &Choice| operating_point(job, history, choice.candidate, Some(choice));
        let Some((first, best)) = ranking.first().and_then(|first| Some((first, at(first)?))) else {
            return Self::default();
        };
        let rate = |m: &Measurement| match role {
            Role::Prefill => m.input_tokens_per_second_per_gpu,
            Role::Decode => m.output_tokens_per_second_per_gpu,
        };
        let error = |m: &Measurement| latency(role, m).as_ref().and_then(relative_error);
        let runner_up = ranking.iter().find(|choice| choice.candidate != first.candidate).and_then(|second| {
            let other = at(second)?;
            let ratio = Some(rate(&best) / rate(&other)).filter(|ratio| ratio.is_finite() && *ratio > 0.0)?;
            // Throughput at a given load goes as one over latency, so that its relative error is the same.
            let lead_error = error(&best).zip(error(&other)).map(|(a, b)| ratio * a.hypot(b));
            Some(RunnerUp {
                id: second.candidate,
                label: candidates.get(second.candidate as usize)?.mapping.label(),
                meets_sla: second.meets_sla,
                lead: ratio - 1.0,
                lead_error,
                distinguishable: lead_error.is_some_and(|error| (ratio - 1.0).abs() > error),
                reason: second.reason.clone(),
            })
        });
        let (target, limit_ms) = match role {
            Role::Prefill => ("ttft", job.sla.ttft_ms),
            Role::Decode => ("itl", job.sla.itl_ms),
        };
        let against_target = limit_ms.zip(latency(role, &best)).map(|(limit_ms, stat)| {
            let error_ms = relative_error(&stat).map(|error| error * stat.target);
            AgainstTarget {
                target: target.to_owned(),
                limit_ms,
                measured_ms: stat.target,
                error_ms,
                certain: error_ms.is_some_and(|error| (limit_ms - stat.target).abs() > error),
            }
        });
        Self { runner_up, against_target }
    }

    /// For a person: one sentence about each.
    pub fn sentences(&self, role: Role, label: &str, binding: &str) -> Vec<String> {
        let percent = |fraction: f64| format!("{:.1} %", fraction * 100.0);
        let mut said = Vec::new();
        if let Some(AgainstTarget { target, limit_ms, measured_ms, error_ms, certain }) = &self.against_target {
            let within = error_ms.map_or_else(String::new, |error| format!(" ± {error:.2}"));
            let side = match (measured_ms <= limit_ms, certain) {
                (true, true) => "within",
                (false, true) => "over",
                (true, false) => "within, but not for certain,",
                (false, false) => "over, but not for certain,",
            };
            let binds = if binding.is_empty() { String::new() } else { format!("; {} binds", binding.to_uppercase()) };
            let target = target.to_uppercase();
            said.push(format!("{role} {label}: {target} {measured_ms:.1}{within} ms, {side} {limit_ms} ms{binds}."));
        }
        if let Some(RunnerUp { label: other, meets_sla, lead, lead_error, distinguishable, .. }) = &self.runner_up {
            let error = lead_error.map_or_else(String::new, |error| format!(" ± {}", percent(error)));
            let sign = if *lead < 0.0 { "less" } else { "more" };
            let misses = if *meets_sla { "" } else { ", which misses the SLA" };
            let alike = if *distinguishable { "" } else { ": not distinguishable" };
            said.push(format!(
                "{role} runner-up is {other}{misses}: {label} has {}{error} {sign} throughput per GPU{alike}.",
                percent(lead.abs())
            ));
        }
        said
    }
}
