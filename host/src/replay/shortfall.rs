//! The plan of a run, and what it would take where it falls short: more GPUs, or looser targets.
//!
//! Neither is computed from a formula of ours: the run's own policies are asked under larger budgets and looser
//! targets until they answer well.

use schemars::JsonSchema;
use serde::Serialize;

use super::Recording;
use super::decide::{Answer, DecideError, answer};
use crate::domain::{Candidate, Job, Role, Sla};
use crate::plugin::api::{Identity, PlannerModel, SelectionPolicy};

/// Budgets are tried up to this multiple of the run's.
const MOST_GPUS: u32 = 64;

/// Targets are loosened up to this factor, …
const MOST_FACTOR: f64 = 64.0;

/// … and the factor is found to within this fraction.
const FACTOR_STEP: f64 = 0.005;

/// The plan at the run's own question.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct PlanReport {
    /// Who was asked.
    pub planner: Identity,
    /// Engines: prefill, decode.
    pub replicas: [u32; 2],
    /// Mappings of these: prefill, decode.
    pub mappings: [String; 2],
    /// GPUs of the plan.
    pub gpus: u32,
    /// GPUs that may be used.
    pub total_gpus: u32,
    /// Requests per second that it serves.
    pub capacity_requests_per_second: f64,
    /// In the SLA's statistic, in milliseconds.
    pub expected_ttft_ms: f64,
    /// Likewise.
    pub expected_itl_ms: f64,
    /// Whether winners and plan meet the SLA.
    pub meets_sla: bool,
    /// Whether the budget reaches for the demand.
    pub meets_demand: bool,
    /// Where the budget does not reach: the smallest that does, targets being as they are. Absent also where none up to
    /// 64 times the run's does.
    pub gpus_needed: Option<u32>,
    /// Where the SLA is not met: all its targets, loosened by the smallest common factor under which it is.
    pub loosened: Option<Loosened>,
}

/// Targets that would have been met.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Loosened {
    /// Of all targets.
    pub factor: f64,
    /// The targets.
    pub targets: Sla,
}

/// Asks for the plan and, where it falls short, for what would do.
///
/// # Errors
/// If a role was not measured at all, or the selection policy fails; a planner that has no plan gives `None`.
pub fn plan_report(
    recording: &Recording,
    policy: &dyn SelectionPolicy,
    planner: &dyn PlannerModel,
) -> Result<Option<PlanReport>, DecideError> {
    let job = &recording.started().job;
    let own = answer(recording, job, policy, planner)?;
    let Some(plan) = own.plan.clone() else { return Ok(None) };
    let Some([prefill, decode]) = winners(recording, &own) else { return Ok(None) };
    let verdict = Verdict::of(recording, job, &own);
    let ask = |job: &Job| answer(recording, job, policy, planner).map(|given| Verdict::of(recording, job, &given));
    // How many GPUs serve a rate is a question only where they can serve it within the SLA.
    let gpus_needed = if verdict.within_budget || !verdict.meets_sla { None } else { smallest_budget(job, &ask)? };
    let loosened = if verdict.meets_sla { None } else { loosest(job, &ask)? };
    Ok(Some(PlanReport {
        planner: own.planned_by.clone(),
        replicas: [plan.prefill_replicas, plan.decode_replicas],
        mappings: [prefill.mapping.label(), decode.mapping.label()],
        gpus: prefill.gpus() * plan.prefill_replicas + decode.gpus() * plan.decode_replicas,
        total_gpus: job.hardware.total_gpus,
        capacity_requests_per_second: plan.capacity_requests_per_second,
        expected_ttft_ms: plan.expected_ttft_ms,
        expected_itl_ms: plan.expected_itl_ms,
        meets_sla: verdict.meets_sla,
        meets_demand: plan.meets_demand,
        gpus_needed,
        loosened,
    }))
}

fn winners<'a>(recording: &'a Recording, given: &Answer) -> Option<[&'a Candidate; 2]> {
    let winner = |role: Role| recording.candidate(given.selection.ranking(role).first()?.candidate);
    Some([winner(Role::Prefill)?, winner(Role::Decode)?])
}

/// What matters of an answer.
#[derive(Clone, Copy)]
struct Verdict {
    meets_sla: bool,
    within_budget: bool,
}

impl Verdict {
    fn of(recording: &Recording, job: &Job, given: &Answer) -> Self {
        let (Some(plan), Some([prefill, decode])) = (&given.plan, winners(recording, given)) else {
            return Self { meets_sla: false, within_budget: false };
        };
        let all_meet = Role::ALL.iter().all(|role| given.selection.ranking(*role).first().is_some_and(|c| c.meets_sla));
        let gpus = prefill.gpus() * plan.prefill_replicas + decode.gpus() * plan.decode_replicas;
        Self {
            meets_sla: all_meet && plan.meets_sla,
            within_budget: plan.meets_demand && gpus <= job.hardware.total_gpus,
        }
    }
}

/// The smallest budget within which the demand is served.
fn smallest_budget(job: &Job, ask: &impl Fn(&Job) -> Result<Verdict, DecideError>) -> Result<Option<u32>, DecideError> {
    let reaches = |gpus: u32| {
        let mut asked = job.clone();
        asked.hardware.total_gpus = gpus;
        ask(&asked).map(|verdict| verdict.within_budget)
    };
    let own = job.hardware.total_gpus;
    let (mut short, mut enough) = (own, own.saturating_mul(2));
    while !reaches(enough)? {
        if enough >= own.saturating_mul(MOST_GPUS) {
            return Ok(None);
        }
        (short, enough) = (enough, enough.saturating_mul(2));
    }
    while enough - short > 1 {
        let middle = short + (enough - short) / 2;
        if reaches(middle)? { enough = middle } else { short = middle }
    }
    Ok(Some(enough))
}

/// All targets, loosened as little as does.
fn loosest(job: &Job, ask: &impl Fn(&Job) -> Result<Verdict, DecideError>) -> Result<Option<Loosened>, DecideError> {
    let loosened = |factor: f64| {
        let scaled = |ms: Option<f64>| ms.map(|ms| (ms * factor * 1e3).ceil() / 1e3);
        let Sla { ttft_ms, itl_ms, e2e_ms, quantile } = job.sla;
        Sla { ttft_ms: scaled(ttft_ms), itl_ms: scaled(itl_ms), e2e_ms: scaled(e2e_ms), quantile }
    };
    let meets = |factor: f64| {
        let mut asked = job.clone();
        asked.sla = loosened(factor);
        ask(&asked).map(|verdict| verdict.meets_sla)
    };
    let (mut misses, mut enough) = (1.0, 2.0);
    while !meets(enough)? {
        if enough >= MOST_FACTOR {
            return Ok(None);
        }
        (misses, enough) = (enough, enough * 2.0);
    }
    while enough / misses > 1.0 + FACTOR_STEP {
        let middle = f64::sqrt(misses * enough);
        if meets(middle)? { enough = middle } else { misses = middle }
    }
    Ok(Some(Loosened { factor: enough, targets: loosened(enough) }))
}
