//! Phase 6: the planner says how many of each, and the deployment is written.

use super::{Context, RunError};
use crate::dgd::{self, DecodeTable, Generated, PrefillTable, ProfileData};
use crate::domain::Chosen;
use crate::domain::{Candidate, Plan, Role};
use crate::plugin::api::PlannedEngine;
use crate::run::{Decision, Event, Phase};

/// What is applied: the file that Dynamo's operator and sidecar look for.
pub const FINAL_CONFIG: &str = "final_config.yaml";

/// Asks the planner and writes the deployment's files.
///
/// # Errors
/// If the planner fails and nobody stands in for it, or the deployment cannot be generated.
pub fn run(context: &mut Context<'_>, chosen: &Chosen) -> Result<(Generated, Plan, String), RunError> {
    decided(context, chosen, true)
}

/// The same for an answer that does not stand: the journal does not hear of it.
///
/// # Errors
/// As [`run`].
pub fn without_record(context: &mut Context<'_>, chosen: &Chosen) -> Result<(Generated, Plan, String), RunError> {
    decided(context, chosen, false)
}

fn decided(
    context: &mut Context<'_>,
    chosen: &Chosen,
    is_recorded: bool,
) -> Result<(Generated, Plan, String), RunError> {
    let history = context.recorder.history();
    let candidates = &context.space.candidates;
    let engine = |role: Role| {
        let choice = chosen.of(role);
        let missing = || RunError::NothingMeasured { role, failures: Vec::new() };
        Ok::<_, RunError>(PlannedEngine {
            candidate: candidates.get(choice.candidate as usize).ok_or_else(missing)?,
            facts: history.facts_of(choice.candidate).ok_or_else(missing)?,
            concurrency: choice.concurrency,
            curve: history.measurements_of(choice.candidate).collect(),
        })
    };
    let (prefill, decode) = (engine(Role::Prefill)?, engine(Role::Decode)?);
    let made = context.policies.plan(context.recorder, &context.spec.job, &prefill, &decode)?;
    let plan = made.decided.value;
    if is_recorded {
        context.recorder.record(Event::Decided {
            phase: Phase::Generation,
            plugin: made.plugin,
            cost: made.decided.cost,
            decision: Decision::Plan(plan.clone()),
        })?;
    }
    if is_recorded && !plan.meets_sla {
        let reason = format!(
            "the plan does not meet the SLA: TTFT {:.0} ms, ITL {:.1} ms",
            plan.expected_ttft_ms, plan.expected_itl_ms
        );
        context.recorder.record(Event::Infeasible { reason })?;
    }

    let profile = ProfileData {
        prefill: PrefillTable::new(prefill.curve.iter().copied()),
        decode: DecodeTable::new(decode.curve.iter().copied(), decode.facts.kv_tokens),
    };
    profile.shortcomings().iter().for_each(|shortcoming| tracing::warn!("{shortcoming}"));
    let files = dgd::generate_files(&dgd::Request {
        spec: context.spec,
        prefill: prefill.candidate.mapping,
        decode: decode.candidate.mapping,
        plan: &plan,
        profile: Some(&profile),
    })?;
    let name = |candidate: &Candidate| candidate.mapping.label();
    let summary = format!(
        "{} x {} prefill + {} x {} decode, {:.2} requests/s",
        plan.prefill_replicas,
        name(prefill.candidate),
        plan.decode_replicas,
        name(decode.candidate),
        plan.capacity_requests_per_second
    );
    if let Some(artifacts) = context.artifacts {
        artifacts.deployment(context, &files, chosen.feasible() && plan.meets_sla, &summary)?;
    }
    Ok((files.final_config, plan, summary))
}
