//! What a plugin answered to our types. Everything is checked here: past this module a decision is one that the host
//! could have made itself.

use std::collections::HashSet;

use crate::domain::{
    Candidate, CandidateId, Choice, CurveGoal, Goal, History, Job, Plan, Probe, Role, Selection, Step,
};
use crate::plugin::api::PlannedEngine;
use crate::plugin::bindings::planner::exports::sla_profiler::planner::model as planner;
use crate::plugin::bindings::selection::exports::sla_profiler::selection::policy as selection;
use crate::plugin::bindings::sweep::exports::sla_profiler::sweep::strategy as sweep;
use crate::plugin::bindings::types;
use crate::plugin::error::{CallProblem, Returned};
use crate::plugin::text::one_line;

/// Most points in one step.
pub const MAX_PROBES: usize = 10_000;
/// Most requests in flight that an engine can be asked to serve.
pub const MAX_CONCURRENCY: u32 = 1_000_000;
/// Most samples of one point.
pub const MAX_SAMPLES: u32 = 1_000_000;
/// Most sentences in notes and assumptions.
const MAX_SENTENCES: usize = 100;
/// Longest sentence in characters.
const MAX_SENTENCE: usize = 400;

type Checked<T> = Result<T, CallProblem>;

fn bad<T>(why: impl Into<String>) -> Checked<T> {
    Err(CallProblem::BadOutput(why.into()))
}

/// A plugin's own error.
pub fn error(error: types::Error) -> CallProblem {
    let text = |text: String| one_line(&text, MAX_SENTENCE);
    CallProblem::Returned(match error {
        types::Error::BadSetting(why) => Returned::BadSetting(text(why)),
        types::Error::Unsupported(why) => Returned::Unsupported(text(why)),
        types::Error::Other(why) => Returned::Other(text(why)),
    })
}

/// A sweep's next step. A point that stands in it twice is kept once.
///
/// # Errors
/// Points that cannot be measured, too many of them, or a step that would go on for ever: one without a point that is
/// not in the history already, since the same question would follow.
pub fn step(step: sweep::Step, job: &Job, goal: &Goal, candidates: &[Candidate], history: &History) -> Checked<Step> {
    let asked = match step {
        sweep::Step::Done(reason) => return Ok(Step::Done(one_line(&reason, MAX_SENTENCE))),
        sweep::Step::Measure(asked) => asked,
    };
    if asked.len() > MAX_PROBES {
        return bad(format!("{} points in one step; at most {MAX_PROBES} are allowed", asked.len()));
    }
    let mut seen = HashSet::new();
    let mut probes = Vec::with_capacity(asked.len());
    for (place, asked) in asked.into_iter().enumerate() {
        let probe =
            probe(asked, job, goal, candidates).or_else(|why| bad(format!("point {place} of the step: {why}")))?;
        if seen.insert(probe.point()) {
            probes.push(probe);
        }
    }
    if probes.iter().all(|probe| history.is_settled(probe)) {
        return bad("a step without any new point, which would go on for ever; it should say `done`");
    }
    Ok(Step::Measure(probes))
}

fn probe(asked: types::Probe, job: &Job, goal: &Goal, candidates: &[Candidate]) -> Result<Probe, String> {
    let types::Probe { candidate, isl, osl, concurrency, relative_precision, max_samples } = asked;
    of_role(candidate, goal.role(), candidates)?;
    if let Goal::PrefillCurve(CurveGoal { candidate: wanted, .. })
    | Goal::DecodeCurve(CurveGoal { candidate: wanted, .. }) = *goal
        && candidate != wanted
    {
        return Err(format!("candidate {candidate}, but the curve of candidate {wanted} is wanted"));
    }
    if isl == 0 || osl == 0 {
        return Err(format!("isl {isl}, osl {osl}; both must be at least 1"));
    }
    let (tokens, context) = (u64::from(isl) + u64::from(osl), job.max_context_tokens);
    if tokens > u64::from(context) {
        return Err(format!("isl {isl} and osl {osl} make {tokens} tokens; the deployment admits {context}"));
    }
    if !(1..=MAX_CONCURRENCY).contains(&concurrency) {
        return Err(format!("concurrency {concurrency}; it must be between 1 and {MAX_CONCURRENCY}"));
    }
    if !(relative_precision.is_finite() && relative_precision >= 0.0) {
        return Err(format!("relative-precision {relative_precision}; it must be a number and not negative"));
    }
    if !(1..=MAX_SAMPLES).contains(&max_samples) {
        return Err(format!("max-samples {max_samples}; it must be between 1 and {MAX_SAMPLES}"));
    }
    Ok(Probe { candidate, isl, osl, concurrency, relative_precision, max_samples })
}

/// The candidate exists and has the role.
fn of_role(candidate: CandidateId, role: Role, candidates: &[Candidate]) -> Result<(), String> {
    let index = usize::try_from(candidate).unwrap_or(usize::MAX);
    match candidates.get(index) {
        None => Err(format!("candidate {candidate} does not exist; there are {}", candidates.len())),
        Some(found) if found.role != role => {
            Err(format!("candidate {candidate} is a {} candidate; {role} is wanted", found.role))
        }
        Some(_) => Ok(()),
    }
}

/// A selection.
///
/// # Errors
/// Candidates that do not exist, have the other role or come twice; scores that cannot be compared.
pub fn selection(answer: selection::Selection, candidates: &[Candidate]) -> Checked<Selection> {
    Ok(Selection {
        prefill: ranking(answer.prefill, Role::Prefill, candidates)?,
        decode: ranking(answer.decode, Role::Decode, candidates)?,
        notes: sentences(answer.notes),
    })
}

fn ranking(choices: Vec<selection::Choice>, role: Role, candidates: &[Candidate]) -> Checked<Vec<Choice>> {
    let mut seen = HashSet::new();
    // Not reserved ahead: the length is the plugin's word, and it ends at the first that comes twice.
    let mut ranking = Vec::new();
    for (place, choice) in choices.into_iter().enumerate() {
        let refuse = |why: String| bad(format!("place {place} of the {role} ranking: {why}"));
        if let Err(why) = of_role(choice.candidate, role, candidates) {
            return refuse(why);
        }
        if !seen.insert(choice.candidate) {
            return refuse(format!("candidate {} comes a second time", choice.candidate));
        }
        if !choice.score.is_finite() {
            return refuse(format!("score {}, which cannot be compared", choice.score));
        }
        if !(1..=MAX_CONCURRENCY).contains(&choice.concurrency) {
            let concurrency = choice.concurrency;
            return refuse(format!("concurrency {concurrency}; it must be between 1 and {MAX_CONCURRENCY}"));
        }
        ranking.push(Choice {
            candidate: choice.candidate,
            concurrency: choice.concurrency,
            meets_sla: choice.meets_sla,
            score: choice.score,
            reason: one_line(&choice.reason, MAX_SENTENCE),
            binding: one_line(&choice.binding, 40),
        });
    }
    Ok(ranking)
}

/// A plan.
///
/// # Errors
/// No replica of a role, more GPUs than the budget (one engine of each role is always allowed: less cannot be
/// deployed), or figures that are no rates or times.
pub fn plan(
    plan: planner::DeploymentPlan,
    job: &Job,
    prefill: &PlannedEngine<'_>,
    decode: &PlannedEngine<'_>,
) -> Checked<Plan> {
    let replicas = [(plan.prefill_replicas, prefill), (plan.decode_replicas, decode)];
    if let Some((_, engine)) = replicas.iter().find(|(replicas, _)| *replicas == 0) {
        return bad(format!("a plan without any {} engine", engine.candidate.role));
    }
    let gpus: u64 = replicas.iter().map(|(n, engine)| u64::from(*n) * u64::from(engine.candidate.gpus())).sum();
    let least = u64::from(prefill.candidate.gpus()) + u64::from(decode.candidate.gpus());
    let budget = job.hardware.total_gpus;
    if gpus > u64::from(budget).max(least) {
        return bad(format!(
            "a plan of {} prefill and {} decode engines on {gpus} GPUs; the budget is {budget}",
            plan.prefill_replicas, plan.decode_replicas
        ));
    }
    let figures = [
        ("capacity-requests-per-second", plan.capacity_requests_per_second),
        ("prefill-requests-per-second", plan.prefill_requests_per_second),
        ("decode-requests-per-second", plan.decode_requests_per_second),
        ("expected-ttft-ms", plan.expected_ttft_ms),
        ("expected-itl-ms", plan.expected_itl_ms),
    ];
    if let Some((name, figure)) = figures.iter().find(|(_, figure)| !(figure.is_finite() && *figure >= 0.0)) {
        return bad(format!("{name} {figure}; it must be a number and not negative"));
    }
    if plan.decode_concurrency > MAX_CONCURRENCY {
        return bad(format!("decode-concurrency {}; at most {MAX_CONCURRENCY} is allowed", plan.decode_concurrency));
    }
    Ok(Plan {
        prefill_replicas: plan.prefill_replicas,
        decode_replicas: plan.decode_replicas,
        capacity_requests_per_second: plan.capacity_requests_per_second,
        prefill_requests_per_second: plan.prefill_requests_per_second,
        decode_requests_per_second: plan.decode_requests_per_second,
        decode_concurrency: plan.decode_concurrency,
        expected_ttft_ms: plan.expected_ttft_ms,
        expected_itl_ms: plan.expected_itl_ms,
        meets_sla: plan.meets_sla,
        meets_demand: plan.meets_demand,
        assumptions: sentences(plan.assumptions),
    })
}

fn sentences(sentences: Vec<String>) -> Vec<String> {
    sentences.iter().take(MAX_SENTENCES).map(|sentence| one_line(sentence, MAX_SENTENCE)).collect()
}
