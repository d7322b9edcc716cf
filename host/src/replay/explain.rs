//! Why the run came out as it did, candidate by candidate, and what would have to be asked for it to come out otherwise.
//!
//! "Which SLA would make it win" is not computed from a formula of ours: the run's own policy is asked again at every
//! target at which its answer can change, that is, at each latency that was measured.

use schemars::JsonSchema;
use serde::Serialize;

use super::Recording;
use super::decide::{DecideError, sweep_history};
use super::shortfall::{PlanReport, plan_report};
use crate::domain::{Candidate, CandidateId, History, Job, Measurement, Role, Selection};
use crate::plugin::api::{Identity, PlannerModel, SelectionPolicy};
use crate::run::{Decision, Event, Retry};

/// Most targets that are tried per role; beyond, evenly spaced ones among those measured.
const MAX_TARGETS: usize = 200;

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It won.
    Selected,
    /// It meets the SLA, another one is better.
    Lost,
    /// It was measured and misses the SLA.
    MissesSla,
    /// Its engine, or every measurement of it, failed.
    Failed,
    /// The strategy did not ask for it.
    NotMeasured,
}

/// A range of targets in milliseconds, from the first value up to, but without, the second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Range {
    /// Lowest target.
    pub from_ms: f64,
    /// The next higher target at which somebody else wins; absent: from here on, however loose.
    pub below_ms: Option<f64>,
}

/// One candidate.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Row {
    /// Index in the search space.
    pub candidate: CandidateId,
    /// `tp4`
    pub mapping: String,
    /// GPUs of one engine.
    pub gpus: u32,
    /// What became of it.
    pub status: Status,
    /// Its place in the policy's ranking, from 1.
    pub place: Option<usize>,
    /// Requests in flight at its operating point.
    pub concurrency: Option<u32>,
    /// Latency there, in the SLA's statistic, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Tokens per second and GPU there: prompt tokens (prefill), generated tokens (decode).
    pub tokens_per_second_per_gpu: Option<f64>,
    /// Its throughput per GPU relative to the winner's, minus 1: −0.25 is a quarter less.
    pub throughput_gap: Option<f64>,
    /// Target minus latency as a fraction of the target, at the operating point; negative: it misses.
    pub slack: Option<f64>,
    /// What limits it, in the policy's word; empty for nothing.
    pub binding: String,
    /// Lowest latency that was measured of it, at any load.
    pub lowest_latency_ms: Option<f64>,
    /// Points measured at the job's lengths.
    pub points: usize,
    /// Concurrencies at which it is on the role's Pareto front.
    pub on_front_at: Vec<u32>,
    /// Targets of this role under which it wins, the others being as they are.
    pub wins_under: Vec<Range>,
    /// Why, for a person.
    pub reason: String,
    /// Failures of its engine after which it was tried again, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tried_again: Vec<String>,
}

/// A point that no other beats in both latency and throughput per GPU.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FrontPoint {
    /// Whose.
    pub candidate: CandidateId,
    /// `tp4`
    pub mapping: String,
    /// Requests in flight.
    pub concurrency: u32,
    /// In the SLA's statistic.
    pub latency_ms: f64,
    /// Prompt tokens (prefill) or generated tokens (decode).
    pub tokens_per_second_per_gpu: f64,
}

/// All candidates of one role.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct RoleReport {
    /// Which.
    pub role: Role,
    /// The target that the role has by itself, in milliseconds.
    pub target_ms: Option<f64>,
    /// The target that was scanned: `ttft`, `itl` or `e2e`.
    pub scanned: &'static str,
    /// Best first, then those that are not in the ranking.
    pub rows: Vec<Row>,
    /// Lowest latency first.
    pub front: Vec<FrontPoint>,
    /// Whether the winner meets the SLA.
    pub feasible: bool,
    /// The tightest target under which some candidate meets the SLA, in milliseconds.
    pub nearest_achievable_ms: Option<f64>,
}

/// The whole run.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Explanation {
    /// Who was asked.
    pub policy: Identity,
    /// Whether that is the plugin that the run used, byte by byte.
    pub same_policy: bool,
    /// `mean`, `p95`
    pub statistic: String,
    /// Prefill, then decode.
    pub roles: Vec<RoleReport>,
    /// The plan, and what it would take where it falls short; absent where there is none.
    pub plan: Option<PlanReport>,
    /// Mappings that were no candidates: label and reason.
    pub rejected: Vec<(String, String)>,
    /// The policy's notes.
    pub notes: Vec<String>,
    /// How often the policy was asked.
    pub calls: usize,
}

/// Explains a recorded run; `policy` is the run's own, or another one.
///
/// # Errors
/// If a role was not measured at all, or the policy fails.
pub fn explain(
    recording: &Recording,
    policy: &dyn SelectionPolicy,
    planner: Option<&dyn PlannerModel>,
) -> Result<Explanation, DecideError> {
    let job = &recording.started().job;
    let history = sweep_history(recording, job)?;
    let identity = policy.identity().clone();
    let same_policy = recording.identity(identity.kind).is_some_and(|recorded| recorded.sha256 == identity.sha256);
    let asked = policy.select(job, &recording.started().candidates, &history)?.value;
    // What the run decided is the truth about it; asking again serves runs that were cut off before.
    let selection = match recording.selection() {
        Some((_, recorded)) if same_policy => recorded,
        _ => asked,
    };
    let mut calls = 1;
    let roles = Role::ALL
        .into_iter()
        .map(|role| {
            let scan = Scan::run(recording, job, &history, role, policy)?;
            calls += scan.answers.len();
            Ok(role_report(recording, job, &history, &selection, role, &scan))
        })
        .collect::<Result<Vec<_>, DecideError>>()?;
    let rejected = recording.started().rejected.iter().map(|rejected| {
        let role = rejected.role.map_or(String::new(), |role| format!("{role} "));
        (format!("{role}{}", rejected.mapping), rejected.reason.clone())
    });
    Ok(Explanation {
        policy: identity,
        same_policy,
        statistic: job.sla.statistic(),
        roles,
        plan: planner.map(|planner| plan_report(recording, policy, planner)).transpose()?.flatten(),
        rejected: rejected.collect(),
        notes: selection.notes,
        calls,
    })
}

/// The latency that the role's target is about.
fn latency_ms(role: Role, measurement: &Measurement) -> Option<f64> {
    let stat = match role {
        Role::Prefill => measurement.ttft_ms,
        Role::Decode => measurement.itl_ms,
    };
    stat.map(|stat| stat.target).filter(|latency| latency.is_finite())
}

fn throughput(role: Role, measurement: &Measurement) -> f64 {
    match role {
        Role::Prefill => measurement.input_tokens_per_second_per_gpu,
        Role::Decode => measurement.output_tokens_per_second_per_gpu,
    }
}

/// The role's points at the job's lengths.
fn points<'a>(
    recording: &'a Recording,
    job: &'a Job,
    history: &'a History,
    role: Role,
) -> impl Iterator<Item = &'a Measurement> {
    let of_role = move |id| recording.candidate(id).is_some_and(|candidate| candidate.role == role);
    history.measurements.iter().filter(move |m| {
        of_role(m.candidate)
            && m.isl == job.workload.isl
            && (role == Role::Prefill || m.osl == job.workload.osl)
            && latency_ms(role, m).is_some()
    })
}

/// Up, so that the value itself meets the target that is written down.
fn round_up(ms: f64) -> f64 {
    (ms * 1e3).ceil() / 1e3
}

/// The policy's answers under one target after the other, tightest first.
struct Scan {
    target: &'static str,
    answers: Vec<(f64, Option<(CandidateId, bool)>)>,
}

impl Scan {
    fn run(
        recording: &Recording,
        job: &Job,
        history: &History,
        role: Role,
        policy: &dyn SelectionPolicy,
    ) -> Result<Self, DecideError> {
        let own = |role| points(recording, job, history, role).filter_map(move |m| latency_ms(role, m));
        let mut targets: Vec<f64> = match job.sla.e2e_ms {
            None => own(role).map(round_up).collect(),
            Some(_) => {
                let tokens = f64::from(job.workload.osl.saturating_sub(1));
                let decode: Vec<f64> = own(Role::Decode).collect();
                own(Role::Prefill)
                    .flat_map(|ttft| decode.iter().map(move |itl| round_up(ttft + itl * tokens)))
                    .collect()
            }
        };
        targets.sort_by(f64::total_cmp);
        targets.dedup();
        let count = targets.len();
        if count > MAX_TARGETS {
            let kept = (0..MAX_TARGETS).filter_map(|n| targets.get(n * (count - 1) / (MAX_TARGETS - 1)).copied());
            targets = kept.collect();
        }
        let mut answers = Vec::with_capacity(targets.len());
        for target in targets {
            let mut asked = job.clone();
            match (job.sla.e2e_ms, role) {
                (Some(_), _) => asked.sla.e2e_ms = Some(target),
                (None, Role::Prefill) => asked.sla.ttft_ms = Some(target),
                (None, Role::Decode) => asked.sla.itl_ms = Some(target),
            }
            let selection = policy.select(&asked, &recording.started().candidates, history)?.value;
            answers.push((target, selection.ranking(role).first().map(|c| (c.candidate, c.meets_sla))));
        }
        let target = match (job.sla.e2e_ms, role) {
            (Some(_), _) => "e2e",
            (None, Role::Prefill) => "ttft",
            (None, Role::Decode) => "itl",
        };
        Ok(Self { target, answers })
    }

    fn wins(&self, candidate: CandidateId) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        let mut open = false;
        for (target, first) in &self.answers {
            // A least bad one that misses the target has not won.
            let wins = *first == Some((candidate, true));
            match (open, wins) {
                (false, true) => ranges.push(Range { from_ms: *target, below_ms: None }),
                (true, false) => {
                    if let Some(range) = ranges.last_mut() {
                        range.below_ms = Some(*target);
                    }
                }
                _ => {}
            }
            open = wins;
        }
        ranges
    }

    fn nearest_achievable_ms(&self) -> Option<f64> {
        self.answers.iter().find(|(_, first)| first.is_some_and(|(_, meets)| meets)).map(|(target, _)| *target)
    }
}

fn front(recording: &Recording, role: Role, points: &[&Measurement]) -> Vec<FrontPoint> {
    let value = |m: &Measurement| (latency_ms(role, m).unwrap_or(f64::INFINITY), throughput(role, m));
    let beats = |a: &Measurement, b: &Measurement| {
        let ((la, ta), (lb, tb)) = (value(a), value(b));
        la <= lb && ta >= tb && (la < lb || ta > tb)
    };
    let mut front: Vec<FrontPoint> = points
        .iter()
        .filter(|m| !points.iter().any(|other| beats(other, m)))
        .map(|m| FrontPoint {
            candidate: m.candidate,
            mapping: recording.candidate(m.candidate).map(|c| c.mapping.label()).unwrap_or_default(),
            concurrency: m.concurrency,
            latency_ms: value(m).0,
            tokens_per_second_per_gpu: value(m).1,
        })
        .collect();
    front.sort_by(|a, b| a.latency_ms.total_cmp(&b.latency_ms));
    front
}

fn role_report(
    recording: &Recording,
    job: &Job,
    history: &History,
    selection: &Selection,
    role: Role,
    scan: &Scan,
) -> RoleReport {
    let points: Vec<&Measurement> = points(recording, job, history, role).collect();
    let front = front(recording, role, &points);
    let ranking = selection.ranking(role);
    let at = |candidate: CandidateId, concurrency: u32| {
        points.iter().copied().find(|m| (m.candidate, m.concurrency) == (candidate, concurrency))
    };
    let winner = ranking.first().and_then(|choice| at(choice.candidate, choice.concurrency));
    let target_ms = match role {
        Role::Prefill => job.sla.ttft_ms,
        Role::Decode => job.sla.itl_ms,
    };
    let row = |id: CandidateId, candidate: &Candidate| {
        let place = ranking.iter().position(|choice| choice.candidate == id);
        let choice = place.and_then(|place| ranking.get(place));
        let operating = choice.and_then(|choice| at(id, choice.concurrency));
        let mine = || points.iter().filter(|m| m.candidate == id);
        let status = match (choice, place) {
            (Some(choice), Some(0)) if choice.meets_sla => Status::Selected,
            (Some(choice), _) if choice.meets_sla => Status::Lost,
            (Some(_), _) => Status::MissesSla,
            (None, _) if mine().next().is_some() => Status::Lost,
            (None, _) if history.failures.iter().any(|failure| failure.candidate == id) => Status::Failed,
            (None, _) => Status::NotMeasured,
        };
        let latency = operating.and_then(|m| latency_ms(role, m));
        let tokens = operating.map(|m| throughput(role, m));
        let reason = match (choice, status) {
            (Some(choice), _) => choice.reason.clone(),
            (None, Status::Failed) => failure(history, id),
            (None, Status::NotMeasured) => not_measured(recording, role),
            (None, _) => "measured, but not in the policy's ranking".to_owned(),
        };
        Row {
            candidate: id,
            mapping: candidate.mapping.label(),
            gpus: candidate.gpus(),
            status,
            place: place.map(|place| place + 1),
            concurrency: choice.map(|choice| choice.concurrency),
            latency_ms: latency,
            tokens_per_second_per_gpu: tokens,
            throughput_gap: winner
                .map(|winner| throughput(role, winner))
                .filter(|best| *best > 0.0)
                .and_then(|best| Some(tokens? / best - 1.0)),
            slack: target_ms.and_then(|target| Some((target - latency?) / target)),
            binding: choice.map(|choice| choice.binding.clone()).unwrap_or_default(),
            lowest_latency_ms: mine().filter_map(|m| latency_ms(role, m)).min_by(f64::total_cmp),
            points: mine().count(),
            on_front_at: front.iter().filter(|p| p.candidate == id).map(|p| p.concurrency).collect(),
            wins_under: scan.wins(id),
            reason,
            tried_again: tried_again(recording, id),
        }
    };
    let mut rows: Vec<Row> = (0_u32..)
        .zip(&recording.started().candidates)
        .filter(|(_, candidate)| candidate.role == role)
        .map(|(id, candidate)| row(id, candidate))
        .collect();
    rows.sort_by_key(|row| (row.place.unwrap_or(usize::MAX), row.candidate));
    RoleReport {
        role,
        target_ms,
        scanned: scan.target,
        rows,
        front,
        feasible: ranking.first().is_some_and(|choice| choice.meets_sla),
        nearest_achievable_ms: scan.nearest_achievable_ms(),
    }
}

fn failure(history: &History, id: CandidateId) -> String {
    let failure = history.engine_failure(id).or_else(|| history.failures.iter().find(|f| f.candidate == id));
    failure.map(|failure| format!("{}: {}", failure.class, failure.reason)).unwrap_or_default()
}

fn tried_again(recording: &Recording, id: CandidateId) -> Vec<String> {
    let retry = |record: &crate::run::Record| match &record.event {
        Event::Retrying { retry, .. } if retry.failure.candidate == id => Some(retry_text(retry)),
        _ => None,
    };
    recording.records().iter().filter_map(retry).collect()
}

/// `evicted: …; tried again after 30 s`
fn retry_text(retry: &Retry) -> String {
    let Retry { failure, pause_s, .. } = retry;
    let what = failure.cause.map_or_else(|| failure.class.to_string(), |cause| cause.to_string());
    format!("{what}: {}; tried again after {pause_s:.0} s", failure.reason)
}

/// The strategy's own word on why it stopped, since it alone knows why it did not ask.
fn not_measured(recording: &Recording, role: Role) -> String {
    let said = recording.records().iter().find_map(|record| match &record.event {
        Event::Decided { plugin, decision: Decision::Sweep { goal, step: crate::domain::Step::Done(why) }, .. }
            if matches!(
                (goal, role),
                (crate::domain::Goal::Prefill, Role::Prefill) | (crate::domain::Goal::Decode, Role::Decode)
            ) =>
        {
            Some(format!("{} did not ask for it: {why}", plugin.name))
        }
        _ => None,
    });
    said.unwrap_or_else(|| "the run ended before it was measured".to_owned())
}

impl Explanation {
    /// Why a mapping was no candidate, where it was looked at and is none: `tp3`, `decode tp3`.
    pub fn rejection(&self, wanted: &str) -> Option<&str> {
        let wanted = wanted.trim().to_ascii_lowercase();
        let is_it = |label: &str| label == wanted || label.rsplit(' ').next() == Some(wanted.as_str());
        let ends_alike = |label: &str| !label.contains(' ') && wanted.rsplit(' ').next() == Some(label);
        let found = self.rejected.iter().find(|(label, _)| is_it(label) || ends_alike(label));
        found.map(|(_, reason)| reason.as_str())
    }

    /// The row of a candidate by role and mapping (`decode tp4`, `decode_4gpus_tp4`) or by number.
    ///
    /// # Errors
    /// What there is instead.
    pub fn find(&self, wanted: &str) -> Result<Vec<(&RoleReport, &Row)>, Vec<String>> {
        let wanted = wanted.trim().to_ascii_lowercase();
        let names = |role: Role, row: &Row| {
            [
                format!("{role} {}", row.mapping),
                format!("{role}-{}", row.mapping),
                format!("{role}_{}gpus_{}", row.gpus, row.mapping),
                row.mapping.clone(),
                row.candidate.to_string(),
            ]
        };
        let all = || self.roles.iter().flat_map(|role| role.rows.iter().map(move |row| (role, row)));
        let found: Vec<_> = all().filter(|(role, row)| names(role.role, row).contains(&wanted)).collect();
        if found.is_empty() {
            return Err(all().map(|(role, row)| format!("{} {}", role.role, row.mapping)).collect());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::api::Kind;

    #[test]
    fn a_mapping_that_was_no_candidate_is_found_with_and_without_its_role() {
        let policy = Identity {
            kind: Kind::SelectionPolicy,
            name: String::new(),
            version: String::new(),
            sha256: String::new(),
            bundled: true,
        };
        let rejected = vec![
            ("decode tp1".to_owned(), "its KV cache holds no request".to_owned()),
            ("tp3".to_owned(), "32 heads".to_owned()),
        ];
        let explanation = Explanation {
            policy,
            same_policy: true,
            statistic: "mean".to_owned(),
            roles: Vec::new(),
            plan: None,
            rejected,
            notes: Vec::new(),
            calls: 0,
        };
        assert_eq!(explanation.rejection("Decode TP1"), Some("its KV cache holds no request"));
        assert_eq!(explanation.rejection("tp1"), Some("its KV cache holds no request"));
        assert_eq!(explanation.rejection("prefill tp1"), None);
        assert_eq!(explanation.rejection("prefill tp3"), Some("32 heads"));
        assert_eq!(explanation.rejection("tp4"), None);
    }
}
