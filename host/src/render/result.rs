//! `result.json`: the whole answer for a program, and the rows of the table for a person.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::certainty::Certainty;
use crate::domain::search_space::{Rejected, SearchSpace};
use crate::domain::{
    Candidate, CandidateId, Choice, Chosen, EngineFacts, History, Job, Mapping, Measurement, Plan, Role, Selection,
};
use crate::engine::CheckReport;
use crate::plugin::api::Identity;
use crate::run::Retry;

/// Raised when a reader of the old form would misread the new one. Additions do not count.
pub const SCHEMA_VERSION: u32 = 1;

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It won.
    Selected,
    /// It meets the SLA, but another one is better.
    MeetsSla,
    /// It was measured and does not meet the SLA.
    MissesSla,
    /// Its engine, or every measurement of it, failed.
    Failed,
    /// The strategy did not ask for it.
    NotMeasured,
}

/// One candidate with all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CandidateRow {
    /// Index in the search space.
    pub id: CandidateId,
    /// Role, mapping, prior.
    pub candidate: Candidate,
    /// `tp4`
    pub label: String,
    /// GPUs of one engine.
    pub gpus: u32,
    /// What its engine said of itself.
    pub facts: Option<EngineFacts>,
    /// The measurement at its operating point.
    pub best: Option<Measurement>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, for a person.
    pub reason: String,
    /// What limits it; empty for nothing.
    pub binding: String,
}

/// `result.json`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResultFile {
    /// [`SCHEMA_VERSION`]
    pub schema_version: u32,
    /// Version of the program.
    pub program_version: String,
    /// Whether the selected engines and the plan meet the SLA.
    pub feasible: bool,
    /// Whether a bundled plugin stood in for one that failed.
    pub degraded: bool,
    /// The question.
    pub job: Job,
    /// Where it was measured, for example `simulated`.
    pub cluster: String,
    /// Who decided.
    pub plugins: Vec<Identity>,
    /// One engine of each role.
    pub selected: Selected,
    /// How many of each, and what they serve.
    pub plan: Plan,
    /// What the deployment did in phase 7, if it ran.
    pub check: Option<CheckReport>,
    /// Why phase 7 was skipped although it was asked for.
    pub not_applied: Option<String>,
    /// Why this is only the best answer so far; absent where the run came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<Incomplete>,
    /// All candidates.
    pub candidates: Vec<CandidateRow>,
    /// Mappings that are not candidates.
    pub rejected: Vec<Rejected>,
    /// The selection policy's remarks.
    pub notes: Vec<String>,
    /// What measuring took, on the cluster's clock.
    pub cost: Cost,
    /// Points that were not measured but taken over from an earlier run (`--reuse`); not part of the cost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reused: Vec<ReusedPoint>,
}

/// A point that was taken over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct ReusedPoint {
    /// Index in `candidates`.
    pub candidate: CandidateId,
    /// Input length in tokens.
    pub isl: u32,
    /// Output length in tokens.
    pub osl: u32,
    /// Requests in flight.
    pub concurrency: u32,
    /// The earlier run's directory.
    pub run: String,
}

/// Points that were taken over, and the history without them.
fn taken_over(history: &History, indices: &[(usize, String)]) -> (Vec<ReusedPoint>, History) {
    let (mut reused, mut own) = (Vec::new(), History::default());
    for (index, m) in history.measurements.iter().enumerate() {
        match indices.iter().find(|(of, _)| *of == index) {
            Some((_, run)) => {
                let (candidate, isl, osl, concurrency) = m.point();
                reused.push(ReusedPoint { candidate, isl, osl, concurrency, run: run.clone() });
            }
            None => own.measurements.push(m.clone()),
        }
    }
    // An engine of which every point was taken over was not launched.
    let launched = |f: &&EngineFacts| {
        own.measurements_of(f.candidate).next().is_some() || history.measurements_of(f.candidate).next().is_none()
    };
    own.facts = history.facts.iter().filter(launched).cloned().collect();
    reused.sort();
    (reused, own)
}

/// The winners.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Selected {
    /// Prefill.
    pub prefill: SelectedEngine,
    /// Decode.
    pub decode: SelectedEngine,
}

/// A winner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SelectedEngine {
    /// Index in `candidates`.
    pub id: CandidateId,
    /// `tp4`
    pub label: String,
    /// Sizes.
    pub mapping: Mapping,
    /// GPUs of one engine.
    pub gpus: u32,
    /// Requests in flight per engine.
    pub concurrency: u32,
    /// Whether it meets the SLA.
    pub meets_sla: bool,
    /// Why it won, for a person.
    pub reason: String,
    /// What limits it; empty for nothing.
    pub binding: String,
    /// Against its target and the runner-up.
    #[serde(default)]
    pub certainty: Certainty,
}

/// Why a run ended before it was done, with the best answer so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Incomplete {
    /// For a person.
    pub reason: String,
    /// Candidates and curves that were to come.
    pub not_looked_at: Vec<String>,
}

/// What measuring took. Counts what engines did, not how long they were kept, so that it does not depend on when the
/// run was interrupted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cost {
    /// Engines that came up.
    pub launches: u32,
    /// Failures after which an engine was tried again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// Points that were measured.
    pub points: u32,
    /// Samples behind them.
    pub samples: u64,
    /// GPUs times seconds of launching and measuring, launches included that were tried again.
    pub gpu_seconds: f64,
}

/// Of a reference, as serde wants it.
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Cost {
    /// Of all that is known.
    pub fn of(history: &History, retries: &[Retry], candidates: &[Candidate]) -> Self {
        let gpus = |id: CandidateId| candidates.get(id as usize).map_or(0.0, |c| f64::from(c.gpus()));
        let launching: f64 = history.facts.iter().map(|f| gpus(f.candidate) * f.launch_s).sum();
        let measuring: f64 = history.measurements.iter().map(|m| gpus(m.candidate) * m.duration_s).sum();
        let in_vain: f64 = retries.iter().map(|retry| gpus(retry.failure.candidate) * retry.held_s).sum();
        Self {
            retries: u32::try_from(retries.len()).unwrap_or(u32::MAX),
            launches: u32::try_from(history.facts.len()).unwrap_or(u32::MAX),
            points: u32::try_from(history.measurements.len()).unwrap_or(u32::MAX),
            samples: history.measurements.iter().map(|m| u64::from(m.samples)).sum(),
            gpu_seconds: ((launching + measuring + in_vain) * 1e3).round() / 1e3,
        }
    }
}

/// Each candidate's row, in the order of the search space.
pub fn rows(job: &Job, candidates: &[Candidate], history: &History, selection: &Selection) -> Vec<CandidateRow> {
    candidates
        .iter()
        .zip(0..)
        .map(|(candidate, id)| {
            let ranking = selection.ranking(candidate.role);
            let choice = ranking.iter().find(|choice| choice.candidate == id);
            let is_first = ranking.first().is_some_and(|first| first.candidate == id);
            let best = operating_point(job, history, id, choice);
            let failure = history.failures.iter().find(|f| f.candidate == id);
            let (verdict, reason, binding) = match (choice, failure) {
                (Some(choice), _) => {
                    let verdict = match (is_first, choice.meets_sla) {
                        (true, _) => Verdict::Selected,
                        (false, true) => Verdict::MeetsSla,
                        (false, false) => Verdict::MissesSla,
                    };
                    (verdict, choice.reason.clone(), choice.binding.clone())
                }
                (None, Some(failure)) => {
                    (Verdict::Failed, format!("{}: {}", failure.class, failure.reason), String::new())
                }
                (None, None) if best.is_some() => {
                    (Verdict::MissesSla, "not ranked by the selection policy".to_owned(), String::new())
                }
                (None, None) => {
                    (Verdict::NotMeasured, "the sweep strategy did not ask for it".to_owned(), String::new())
                }
            };
            CandidateRow {
                id,
                label: candidate.mapping.label(),
                gpus: candidate.gpus(),
                candidate: candidate.clone(),
                facts: history.facts_of(id).cloned(),
                best,
                verdict,
                reason,
                binding,
            }
        })
        .collect()
}

/// The measurement that a choice rests on: at the job's lengths, at the chosen concurrency or next to it, and of two
/// looks at that the one with more samples.
pub fn operating_point(job: &Job, history: &History, id: CandidateId, choice: Option<&Choice>) -> Option<Measurement> {
    let at_job_lengths = || history.measurements_of(id).filter(|m| m.isl == job.workload.isl);
    match choice {
        Some(choice) => at_job_lengths()
            .min_by_key(|m| (m.concurrency.abs_diff(choice.concurrency), std::cmp::Reverse(m.samples)))
            .cloned(),
        None => at_job_lengths().next().cloned(),
    }
}

fn selected(job: &Job, space: &SearchSpace, history: &History, role: Role, chosen: &Chosen) -> Option<SelectedEngine> {
    let choice = chosen.of(role);
    let candidate = space.candidates.get(choice.candidate as usize)?;
    Some(SelectedEngine {
        id: choice.candidate,
        label: candidate.mapping.label(),
        mapping: candidate.mapping,
        gpus: candidate.gpus(),
        concurrency: choice.concurrency,
        meets_sla: choice.meets_sla,
        reason: choice.reason.clone(),
        binding: choice.binding.clone(),
        certainty: Certainty::of(job, &space.candidates, history, role, chosen.selection.ranking(role)),
    })
}

/// What a run found.
#[derive(Debug, Clone, Copy)]
pub struct Findings<'a> {
    /// Who won.
    pub chosen: &'a Chosen,
    /// How many of each.
    pub plan: &'a Plan,
    /// What the deployment did in phase 7, if it ran.
    pub check: Option<&'a CheckReport>,
    /// Why phase 7 was skipped although it was asked for.
    pub not_applied: Option<&'a str>,
    /// Whether a bundled plugin stood in for one that failed.
    pub degraded: bool,
    /// Why it is only the best answer so far.
    pub incomplete: Option<&'a Incomplete>,
    /// Which measurements of the history were taken over, by index, and from which run.
    pub taken_over: &'a [(usize, String)],
    /// Failures of engines that were tried again.
    pub retries: &'a [Retry],
}

/// Puts the answer together; `None` if the outcome names a candidate that does not exist.
pub fn result_file(
    job: &Job,
    cluster: &str,
    plugins: Vec<Identity>,
    space: &SearchSpace,
    history: &History,
    findings: Findings<'_>,
) -> Option<ResultFile> {
    let Findings { chosen, plan, check, not_applied, degraded, incomplete, taken_over: indices, retries } = findings;
    let (reused, own) = taken_over(history, indices);
    let selection = &chosen.selection;
    let selected = |role| selected(job, space, history, role, chosen);
    Some(ResultFile {
        schema_version: SCHEMA_VERSION,
        program_version: env!("CARGO_PKG_VERSION").to_owned(),
        feasible: chosen.feasible() && plan.meets_sla,
        degraded,
        job: job.clone(),
        cluster: cluster.to_owned(),
        plugins,
        selected: Selected { prefill: selected(Role::Prefill)?, decode: selected(Role::Decode)? },
        plan: plan.clone(),
        check: check.cloned(),
        not_applied: not_applied.map(str::to_owned),
        incomplete: incomplete.cloned(),
        candidates: rows(job, &space.candidates, history, selection),
        rejected: space.rejected.clone(),
        notes: selection.notes.clone(),
        cost: Cost::of(&own, retries, &space.candidates),
        reused,
    })
}
