//! What a run would launch and measure, and how long it would take: phases 1 to 5 with the same policies and the same
//! scheduler, on engines that answer what the roofline predicts. Nothing is created or written. The same prediction
//! is the forecast that a real run's progress is measured by.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use schemars::JsonSchema;
use serde::Serialize;

use super::policies::Policies;
use super::{Context, RunError};
use crate::domain::search_space::SearchSpace;
use crate::domain::{CandidateId, History, Role};
use crate::engine::Cluster;
use crate::engine::predicted::PredictedCluster;
use crate::run::forecast::Forecast;
use crate::run::{Event, Observer, Phase, Record, Recorder};
use crate::scheduler::{Scheduler, Scheduling, Usage};
use crate::spec::RunSpec;

/// What would happen.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Prediction {
    /// Engines, in the order of launching.
    pub launches: Vec<PredictedLaunch>,
    /// Time per phase on the cluster's clock.
    pub phases: Vec<PredictedPhase>,
    /// The whole run on the cluster's clock, in seconds.
    pub total_s: f64,
    /// GPUs times hours that engines would be held.
    pub gpu_hours: f64,
    /// The same run if only the winners' engines were launched.
    #[serde(skip)]
    pub winners_alone: WinnersAlone,
    /// What comes after measuring: bringing up and checking the deployment, in seconds; 0 where that does not happen.
    #[serde(skip)]
    pub rollout_s: f64,
}

/// A strategy may leave out everybody but the winners, once it has seen how they do.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct WinnersAlone {
    /// Engines.
    pub launches: u32,
    /// From start to end, without the time in which only others launch or are measured, in seconds.
    pub wall_s: f64,
    /// GPUs times hours that engines would be held.
    pub gpu_hours: f64,
}

/// One engine.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct PredictedLaunch {
    /// Whose.
    pub candidate: CandidateId,
    /// `prefill tp4`
    pub name: String,
    /// Candidates of the other role that would be measured on it too.
    pub also_for: Vec<CandidateId>,
    /// GPUs of one engine.
    pub gpus: u32,
    /// When, from the start of the run, in seconds.
    pub at_s: f64,
    /// From the order to the first answer, in seconds.
    pub launch_s: f64,
    /// How many points would be measured on it.
    pub points: u32,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct PredictedPhase {
    /// Which.
    pub phase: Phase,
    /// How long, in seconds.
    pub seconds: f64,
    /// How many points.
    pub points: u32,
}

impl Prediction {
    /// For a run's progress display.
    pub fn forecast(&self) -> Forecast {
        let mut forecast = Forecast::default();
        self.phases.iter().for_each(|phase| forecast.add(phase.phase, phase.seconds));
        forecast.add(Phase::AutoApply, self.rollout_s);
        forecast
    }
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Record>>>);

impl Observer for Seen {
    fn on(&mut self, record: &Record, _history: &History) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record.clone());
    }
}

/// Predicts a run, or half of one (see [`super::one_role`]). To be called on a paused clock.
///
/// # Errors
/// As the run itself would fail, as far as that can be told without measuring.
pub async fn predict(
    spec: &RunSpec,
    space: &SearchSpace,
    policies: &mut Policies,
    cluster: Arc<dyn Cluster>,
    only_role: Option<Role>,
) -> Result<Prediction, RunError> {
    let seen = Seen::default();
    let recorder = Recorder::new(None, &[], vec![Box::new(seen.clone())]);
    let predicted: Arc<dyn Cluster> = Arc::new(PredictedCluster::new(&spec.job, cluster));
    let stop = Arc::new(AtomicBool::new(false));
    let scheduler = Scheduler::new(predicted, space.candidates.clone(), recorder.clone(), None, stop)
        .with(Scheduling::launching_at_most(spec.engines.max_launches));
    let mut context = Context { spec, space, policies, scheduler: &scheduler, recorder: &recorder, artifacts: None };
    let rollout_s = match only_role {
        Some(role) => super::one_role::run(&mut context, role).await.map(|_| 0.0)?,
        None => {
            let chosen = super::measure(&mut context).await?;
            super::auto_apply::expected_s(&context, &chosen)
        }
    };
    scheduler.retain(&[]).await?;
    let records = seen.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Prediction { rollout_s, ..summarise(space, &records, recorder.now_s(), scheduler.usage()) })
}

fn summarise(space: &SearchSpace, records: &[Record], total_s: f64, usage: Usage) -> Prediction {
    let mut launches: Vec<PredictedLaunch> = Vec::new();
    let mut phases: Vec<PredictedPhase> = Vec::new();
    let mut points: Vec<Phase> = Vec::new();
    // Whose engine a candidate that has none of its own is measured on.
    let mut hosts: HashMap<CandidateId, CandidateId> = HashMap::new();
    let mapping = |id: CandidateId| space.candidates.get(id as usize).map(|candidate| candidate.mapping);
    for record in records {
        match &record.event {
            Event::Launching { candidate } => {
                let known = space.candidates.get(*candidate as usize);
                launches.push(PredictedLaunch {
                    candidate: *candidate,
                    name: known.map(crate::domain::Candidate::name).unwrap_or_default(),
                    also_for: Vec::new(),
                    gpus: known.map_or(0, crate::domain::Candidate::gpus),
                    at_s: record.at_s,
                    launch_s: 0.0,
                    points: 0,
                });
            }
            Event::Launched { facts } => {
                if let Some(launch) = launches.iter_mut().rfind(|l| l.candidate == facts.candidate) {
                    launch.launch_s = facts.launch_s;
                }
            }
            Event::Joined { facts } => {
                let host = launches.iter_mut().rfind(|launch| mapping(launch.candidate) == mapping(facts.candidate));
                if let Some(launch) = host {
                    launch.also_for.push(facts.candidate);
                    hosts.insert(facts.candidate, launch.candidate);
                }
            }
            Event::Measured { phase, measurement } => {
                let host = hosts.get(&measurement.candidate).copied().unwrap_or(measurement.candidate);
                if let Some(launch) = launches.iter_mut().rfind(|l| l.candidate == host) {
                    launch.points += 1;
                }
                points.push(*phase);
            }
            Event::PhaseStarted { phase } => {
                // Holds the start until the phase is over.
                phases.push(PredictedPhase { phase: *phase, seconds: record.at_s, points: 0 });
            }
            Event::PhaseFinished { .. } => {
                if let Some(phase) = phases.last_mut() {
                    phase.seconds = record.at_s - phase.seconds;
                }
            }
            _ => {}
        }
    }
    for phase in &mut phases {
        phase.points = points.iter().filter(|of| **of == phase.phase).count() as u32;
    }
    let winners_alone = winners_alone(space, records, &hosts, total_s);
    Prediction { launches, phases, total_s, gpu_hours: usage.gpu_seconds / 3600.0, winners_alone, rollout_s: 0.0 }
}

/// Winners are those that a curve is drawn of.
fn winners_alone(
    space: &SearchSpace,
    records: &[Record],
    hosts: &HashMap<CandidateId, CandidateId>,
    total_s: f64,
) -> WinnersAlone {
    let host = |id: CandidateId| hosts.get(&id).copied().unwrap_or(id);
    let winners: HashSet<CandidateId> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Measured { phase: Phase::PrefillInterpolation | Phase::DecodeInterpolation, measurement } => {
                Some(host(measurement.candidate))
            }
            _ => None,
        })
        .collect();
    let gpus = |id: CandidateId| space.candidates.get(id as usize).map_or(0.0, |candidate| f64::from(candidate.gpus()));
    let (mut launches, mut wall_s, mut gpu_seconds, mut last_s) = (0, total_s, 0.0, 0.0);
    let (mut busy, mut held) = (HashSet::new(), HashSet::new());
    for record in records {
        // What others did since the record before is time that nobody would have spent.
        let since_s = record.at_s - last_s;
        if busy.is_disjoint(&winners) && !busy.is_empty() {
            wall_s -= since_s;
        } else {
            gpu_seconds += since_s * held.intersection(&winners).map(|id| gpus(*id)).sum::<f64>();
        }
        last_s = record.at_s;
        match &record.event {
            Event::Launching { candidate } => {
                launches += u32::from(winners.contains(candidate));
                busy.insert(*candidate);
                held.insert(*candidate);
            }
            Event::Launched { facts } => {
                busy.remove(&facts.candidate);
            }
            Event::Measuring { probe } => {
                busy.insert(host(probe.candidate));
            }
            Event::Measured { measurement, .. } => {
                busy.remove(&host(measurement.candidate));
            }
            Event::Released { candidate } => {
                held.remove(candidate);
            }
            _ => {}
        }
    }
    WinnersAlone { launches, wall_s, gpu_hours: gpu_seconds / 3600.0 }
}
