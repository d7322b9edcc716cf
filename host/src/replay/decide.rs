//! The recorded measurements, and another question or another judge.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Recording, RecordingError};
use crate::domain::{CandidateId, Choice, Demand, History, Job, Plan, Role, Selection, Stat};
use crate::plugin::PluginError;
use crate::plugin::api::{Identity, PlannedEngine, PlannerModel, SelectionPolicy};

/// What is asked differently; whatever is absent stays as recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Targets {
    /// Time to first token in milliseconds.
    pub ttft_ms: Option<f64>,
    /// Inter-token latency in milliseconds.
    pub itl_ms: Option<f64>,
    /// Whole answer in milliseconds, instead of the other two.
    pub e2e_ms: Option<f64>,
    /// Which statistic must meet them: a quantile, or (`Some(None)`) the mean.
    pub quantile: Option<Option<f64>>,
    /// The traffic.
    pub demand: Option<Demand>,
    /// GPU budget.
    pub total_gpus: Option<u32>,
}

impl Targets {
    /// The recorded job, asked so.
    pub fn job(&self, recorded: &Job) -> Job {
        let mut job = recorded.clone();
        if self.e2e_ms.is_some() {
            (job.sla.ttft_ms, job.sla.itl_ms, job.sla.e2e_ms) = (None, None, self.e2e_ms);
        } else if self.ttft_ms.is_some() || self.itl_ms.is_some() {
            job.sla.e2e_ms = None;
            job.sla.ttft_ms = self.ttft_ms.or(job.sla.ttft_ms);
            job.sla.itl_ms = self.itl_ms.or(job.sla.itl_ms);
        }
        job.sla.quantile = self.quantile.unwrap_or(job.sla.quantile);
        job.demand = self.demand.unwrap_or(job.demand);
        job.hardware.total_gpus = self.total_gpus.unwrap_or(job.hardware.total_gpus);
        job
    }
}

/// Puts the statistic of `wanted` where measurements made for `recorded` hold theirs.
///
/// # Errors
/// If the journal does not keep that statistic.
fn restate(mut history: History, recorded: &Job, wanted: &Job) -> Result<History, RecordingError> {
    if wanted.sla.quantile == recorded.sla.quantile {
        return Ok(history);
    }
    let same = |q: f64, kept: f64| (q - kept).abs() < 1e-9;
    let of: fn(&Stat) -> f64 = match wanted.sla.quantile {
        None => |stat| stat.mean,
        Some(q) if same(q, 0.5) => |stat| stat.p50,
        Some(q) if same(q, 0.9) => |stat| stat.p90,
        Some(q) if same(q, 0.99) => |stat| stat.p99,
        Some(_) => {
            let (wanted, own) = (wanted.sla.statistic(), recorded.sla.statistic());
            return Err(RecordingError::Statistic { wanted, own });
        }
    };
    for measurement in &mut history.measurements {
        for stat in [&mut measurement.ttft_ms, &mut measurement.itl_ms].into_iter().flatten() {
            stat.target = of(stat);
        }
    }
    Ok(history)
}

/// What selection knew, in the statistic of `job`.
///
/// # Errors
/// If the journal does not keep that statistic, or a role was not measured.
pub(super) fn sweep_history(recording: &Recording, job: &Job) -> Result<History, RecordingError> {
    let history = restate(recording.sweep_history(), &recording.started().job, job)?;
    for role in Role::ALL {
        let measured = |id| recording.candidate(id).is_some_and(|candidate| candidate.role == role);
        if !history.measurements.iter().any(|m| measured(m.candidate)) {
            return Err(RecordingError::NothingMeasured { path: recording.path().to_owned(), role });
        }
    }
    Ok(history)
}

/// Who wins, and how many of each.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Answer {
    /// Who selected.
    pub selected_by: Identity,
    /// The rankings.
    pub selection: Selection,
    /// Who planned.
    pub planned_by: Identity,
    /// The plan; absent where there is none, see `plan_error`.
    pub plan: Option<Plan>,
    /// Why there is no plan.
    pub plan_error: Option<String>,
    /// Points that the plan rests on: prefill, decode.
    pub curve_points: [usize; 2],
}

impl Answer {
    fn of(recording: &Recording) -> Option<Self> {
        let (selected_by, selection) = recording.selection()?;
        let (planned_by, plan) = recording.plan().map_or_else(
            || (recording.identity(crate::plugin::api::Kind::PlannerModel).cloned(), None),
            |(identity, plan)| (Some(identity.clone()), Some(plan)),
        );
        let history = recording.full_history();
        let points = |role: Role| {
            selection.ranking(role).first().map_or(0, |choice| history.measurements_of(choice.candidate).count())
        };
        Some(Self {
            selected_by: selected_by.clone(),
            curve_points: Role::ALL.map(points),
            selection,
            planned_by: planned_by?,
            plan_error: plan.is_none().then(|| "the run did not come so far".to_owned()),
            plan,
        })
    }
}

/// Asks both policies about the recording, in the statistic and with the targets of `job`.
///
/// # Errors
/// If the recording does not hold what is asked for, or the selection policy fails. A planner that fails is part of
/// the answer.
pub fn answer(
    recording: &Recording,
    job: &Job,
    policy: &dyn SelectionPolicy,
    planner: &dyn PlannerModel,
) -> Result<Answer, DecideError> {
    let selection = policy.select(job, &recording.started().candidates, &sweep_history(recording, job)?)?.value;
    let history = restate(recording.full_history(), &recording.started().job, job)?;
    let engine = |role: Role| {
        let choice = selection.ranking(role).first()?;
        Some(PlannedEngine {
            candidate: recording.candidate(choice.candidate)?,
            facts: history.facts_of(choice.candidate)?,
            concurrency: choice.concurrency,
            curve: history.measurements_of(choice.candidate).collect(),
        })
    };
    let engines = [engine(Role::Prefill), engine(Role::Decode)];
    let curve_points = engines.each_ref().map(|engine| engine.as_ref().map_or(0, |engine| engine.curve.len()));
    let (plan, plan_error) = match &engines {
        [Some(prefill), Some(decode)] => match planner.plan(job, prefill, decode, job.demand) {
            Ok(decided) => (Some(decided.value), None),
            Err(error) => (None, Some(error.to_string())),
        },
        _ => (None, Some("the selection names no measured engine for each role".to_owned())),
    };
    Ok(Answer {
        selected_by: policy.identity().clone(),
        selection,
        planned_by: planner.identity().clone(),
        plan,
        plan_error,
        curve_points,
    })
}

/// Asking again failed.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// The recording does not hold what is asked for.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The policy failed.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

/// One figure, before and after.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Change<T> {
    /// As recorded; absent where the run did not come so far.
    pub before: Option<T>,
    /// As asked now.
    pub after: Option<T>,
}

/// The winner of one role, before and after.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct RoleChange {
    /// Which role.
    pub role: Role,
    /// Mapping of the winner.
    pub winner: Change<String>,
    /// The winner's place in its ranking.
    pub choice: Change<Choice>,
    /// Whether another candidate wins, or the same one at another load.
    pub changed: bool,
    /// How far the winner is ahead of the second in the policy's own score, as a fraction of the winner's; absent
    /// without a second that meets the SLA just as well.
    pub margin: Option<f64>,
    /// Why, for a person.
    pub why: String,
}

/// A recorded run beside the same run judged again.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Comparison {
    /// Winners.
    pub roles: Vec<RoleChange>,
    /// Prefill engines, decode engines.
    pub replicas: [Change<u32>; 2],
    /// Requests per second that the plan serves.
    pub capacity_requests_per_second: Change<f64>,
    /// GPUs of the plan.
    pub gpus: Change<u32>,
    /// Whether the winners and the plan meet the SLA.
    pub meets_sla: Change<bool>,
    /// Whether anything changed.
    pub changed: bool,
    /// What to keep in mind, for a person.
    pub notes: Vec<String>,
}

/// Puts the recorded answer and the new one side by side.
pub fn compare(recording: &Recording, after: &Answer) -> Comparison {
    let before = Answer::of(recording);
    let label = |id: CandidateId| recording.candidate(id).map(|candidate| candidate.mapping.label());
    let roles: Vec<RoleChange> =
        Role::ALL.into_iter().map(|role| role_change(role, before.as_ref(), after, &label)).collect();
    let plan = |answer: &Answer| answer.plan.clone();
    let plans = Change { before: before.as_ref().and_then(plan), after: plan(after) };
    let figure =
        |of: fn(&Plan) -> u32| Change { before: plans.before.as_ref().map(of), after: plans.after.as_ref().map(of) };
    let gpus_of = |answer: &Answer| {
        let plan = answer.plan.as_ref()?;
        let gpus = |role: Role| {
            let choice = answer.selection.ranking(role).first()?;
            recording.candidate(choice.candidate).map(crate::domain::Candidate::gpus)
        };
        Some(plan.prefill_replicas * gpus(Role::Prefill)? + plan.decode_replicas * gpus(Role::Decode)?)
    };
    let meets = |answer: &Answer| {
        let winners = Role::ALL.iter().all(|role| answer.selection.ranking(*role).first().is_some_and(|c| c.meets_sla));
        winners && answer.plan.as_ref().is_some_and(|plan| plan.meets_sla)
    };
    let replicas = [figure(|plan| plan.prefill_replicas), figure(|plan| plan.decode_replicas)];
    let capacity = |plan: &Plan| plan.capacity_requests_per_second;
    let capacity = Change { before: plans.before.as_ref().map(capacity), after: plans.after.as_ref().map(capacity) };
    let meets_sla = Change { before: before.as_ref().map(meets), after: Some(meets(after)) };
    let mut notes: Vec<String> = after.selection.notes.clone();
    notes.extend(after.plan_error.iter().map(|error| format!("no plan: {error}")));
    let recorded_points = before.as_ref().map_or([0; 2], |before| before.curve_points);
    for ((role, points), had) in Role::ALL.into_iter().zip(after.curve_points).zip(recorded_points) {
        let winner = roles.iter().find(|change| change.role == role).and_then(|change| change.winner.after.clone());
        let other = before.as_ref().is_some_and(|before| {
            let of = |answer: &Answer| answer.selection.ranking(role).first().map(|choice| choice.candidate);
            of(before) != of(after)
        });
        if other && points < had {
            let winner = winner.unwrap_or_default();
            notes.push(format!(
                "{role} {winner} was measured in the sweep only: the plan rests on {points} of its points, the recorded \
                 one on {had}"
            ));
        }
    }
    let changed = roles.iter().any(|role| role.changed)
        || replicas.iter().any(|figure| figure.before != figure.after)
        || capacity.before != capacity.after
        || meets_sla.before != meets_sla.after;
    Comparison {
        changed,
        gpus: Change { before: before.as_ref().and_then(gpus_of), after: gpus_of(after) },
        roles,
        replicas,
        capacity_requests_per_second: capacity,
        meets_sla,
        notes,
    }
}

fn role_change(
    role: Role,
    before: Option<&Answer>,
    after: &Answer,
    label: &impl Fn(CandidateId) -> Option<String>,
) -> RoleChange {
    let first = |answer: &Answer| answer.selection.ranking(role).first().cloned();
    let choice = Change { before: before.and_then(first), after: first(after) };
    let winner = Change {
        before: choice.before.as_ref().and_then(|c| label(c.candidate)),
        after: choice.after.as_ref().and_then(|c| label(c.candidate)),
    };
    let key = |choice: &Choice| (choice.candidate, choice.concurrency, choice.meets_sla);
    let changed = choice.before.as_ref().map(key) != choice.after.as_ref().map(key);
    let ranking = after.selection.ranking(role);
    let margin = match ranking {
        [first, second, ..] if first.meets_sla == second.meets_sla && first.score != 0.0 => {
            Some((first.score - second.score) / first.score.abs())
        }
        _ => None,
    };
    let new_reason = choice.after.as_ref().map(|c| c.reason.clone()).unwrap_or_default();
    let why = match (&choice.before, &winner.before) {
        (Some(old), Some(name)) if changed => {
            let fate = match ranking.iter().position(|c| c.candidate == old.candidate) {
                None => format!("{name} is not in the ranking any more"),
                // The same engine at another load.
                Some(0) => format!("before, {name} was to run {} at once", old.concurrency),
                Some(place) => {
                    let reason = ranking.get(place).map(|c| c.reason.clone()).unwrap_or_default();
                    format!("{name} comes {}: {reason}", ordinal(place + 1))
                }
            };
            format!("{new_reason}; {fate}")
        }
        _ => new_reason,
    };
    RoleChange { role, winner, choice, changed, margin, why }
}

fn ordinal(place: usize) -> String {
    match place {
        2 => "second".to_owned(),
        3 => "third".to_owned(),
        n => format!("at place {n}"),
    }
}
