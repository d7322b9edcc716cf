//! Another strategy on a recorded run: it gets the recorded measurement where the point was measured, and what it would
//! have cost is counted beside what the run did cost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Recording, RecordingError};
use crate::domain::{
    Aim, Candidate, CandidateId, CurveGoal, EngineFacts, Failure, FailureClass, Goal, History, Job, Measurement, Probe,
    Role, Selection, Step,
};
use crate::engine::simulated::SimulatedCluster;
use crate::engine::{ApplyError, ApplyRequest, Cluster, Deployment, Engine, Launch};
use crate::plugin::PluginError;
use crate::plugin::api::{SelectionPolicy, SweepStrategy};
use crate::run::{Event, Phase, Recorder, Retry};
use crate::scheduler::side_by_side::{Strategist, Sweeping, independent, pursue};
use crate::scheduler::{Halt, Scheduler};

/// What phases 1 to 5 take with a strategy.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct SweepUse {
    /// Points that were measured.
    pub measurements: usize,
    /// Of these, taken from the recording.
    pub from_recording: usize,
    /// Of these, made up by the simulated cluster that the run was made on.
    pub from_simulation: usize,
    /// Points that the strategy asked for and that nobody could tell.
    pub unknown: usize,
    /// Engines that were launched.
    pub launches: u32,
    /// GPUs times seconds that engines held, launching included.
    pub gpu_seconds: f64,
    /// On the cluster's clock, in seconds.
    pub wall_s: f64,
    /// Calls of the strategy.
    pub steps: usize,
    /// Winners: prefill, decode, as mapping and concurrency.
    pub winners: Vec<String>,
}

/// A strategy cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// A plugin failed.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The recording does not hold what is needed.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The scheduler stopped.
    #[error(transparent)]
    Halt(#[from] Halt),
}

/// What the recorded run itself took for phases 1 to 5.
pub fn recorded_use(recording: &Recording) -> SweepUse {
    let mut using = SweepUse {
        measurements: recording.full_history().measurements.len(),
        from_recording: recording.full_history().measurements.len(),
        from_simulation: 0,
        unknown: 0,
        launches: 0,
        gpu_seconds: 0.0,
        wall_s: 0.0,
        steps: 0,
        winners: recording.selection().map_or_else(Vec::new, |(_, selection)| winners(recording, &selection)),
    };
    let gpus = |id: CandidateId| recording.candidate(id).map_or(0.0, |candidate| f64::from(candidate.gpus()));
    let mut since: HashMap<CandidateId, f64> = HashMap::new();
    for record in recording.records() {
        let gone = match &record.event {
            Event::PhaseStarted { phase: Phase::Generation } => break,
            Event::Launching { candidate } => {
                using.launches += 1;
                since.insert(*candidate, record.at_s);
                None
            }
            Event::Decided { decision: crate::run::Decision::Sweep { .. }, .. } => {
                using.steps += 1;
                None
            }
            Event::Released { candidate } => Some(*candidate),
            Event::Failed { failure, .. } | Event::Retrying { retry: Retry { failure, .. }, .. }
                if failure.probe.is_none() =>
            {
                Some(failure.candidate)
            }
            // Engines of the part that was cut off are gone.
            Event::Resumed { .. } => {
                for (candidate, from) in since.drain() {
                    using.gpu_seconds += gpus(candidate) * (record.at_s - from);
                }
                None
            }
            _ => None,
        };
        if let Some((candidate, from)) = gone.and_then(|id| since.remove_entry(&id)) {
            using.gpu_seconds += gpus(candidate) * (record.at_s - from);
        }
        using.wall_s = record.at_s;
    }
    for (candidate, from) in since {
        using.gpu_seconds += gpus(candidate) * (using.wall_s - from);
    }
    using
}

fn winners(recording: &Recording, selection: &Selection) -> Vec<String> {
    let name = |role: Role| {
        let choice = selection.ranking(role).first()?;
        let candidate = recording.candidate(choice.candidate)?;
        Some(format!("{} at {}", candidate.name(), choice.concurrency))
    };
    Role::ALL.into_iter().filter_map(name).collect()
}

/// Runs phases 1 to 5 with `strategy` on the recording. Needs a runtime with a paused clock.
///
/// # Errors
/// See [`SweepError`].
pub async fn replay_sweep(
    recording: &Recording,
    strategy: &dyn SweepStrategy,
    policy: &dyn SelectionPolicy,
) -> Result<SweepUse, SweepError> {
    let started = recording.started();
    let (job, candidates) = (&started.job, &started.candidates);
    let cluster = Arc::new(RecordedCluster::new(recording));
    let recorder = Recorder::new(None, &[], Vec::new());
    let scheduler = Scheduler::new(
        Arc::clone(&cluster) as Arc<dyn Cluster>,
        candidates.clone(),
        recorder.clone(),
        None,
        Arc::new(AtomicBool::new(false)),
    );
    let sweeping = Sweeping { scheduler: &scheduler, recorder: &recorder, job, candidates };
    let mut asking = Asking { strategy, job, candidates, steps: 0 };
    let goals = recording.goals();
    let is_curve = |goal: &&Goal| matches!(goal, Goal::PrefillCurve(_) | Goal::DecodeCurve(_));
    let sweeps: Vec<(Phase, Goal)> =
        goals.iter().filter(|goal| !is_curve(goal)).map(|goal| (phase(goal), *goal)).collect();
    for at_once in sweeps.chunks(if independent(job) { 2 } else { 1 }) {
        pursue(sweeping, &mut asking, at_once).await?;
    }
    let curves: Vec<Goal> = goals.iter().filter(is_curve).copied().collect();
    let mut chosen: Option<Selection> = None;
    if !curves.is_empty() {
        let selection = select(&scheduler, &recorder, recording, policy).await?;
        let of_winner = |curve: CurveGoal, role| match selection.ranking(role).first() {
            Some(choice) => CurveGoal { candidate: choice.candidate, concurrency: choice.concurrency, ..curve },
            None => curve,
        };
        let of_winners = curves.into_iter().map(|goal| match goal {
            Goal::PrefillCurve(of) => Goal::PrefillCurve(of_winner(of, Role::Prefill)),
            Goal::DecodeCurve(of) => Goal::DecodeCurve(of_winner(of, Role::Decode)),
            other => other,
        });
        let goals: Vec<(Phase, Goal)> = of_winners.map(|goal| (phase(&goal), goal)).collect();
        pursue(sweeping, &mut asking, &goals).await?;
        chosen = Some(selection);
    }
    let steps = asking.steps;
    let selection = match chosen {
        Some(selection) => selection,
        None => select(&scheduler, &recorder, recording, policy).await?,
    };
    // What shutting down takes counts, as it does in the run.
    scheduler.retain(&[]).await?;
    let usage = scheduler.usage();
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    Ok(SweepUse {
        measurements: recorder.with_history(|history| history.measurements.len()),
        from_recording: count(&cluster.tally.recorded),
        from_simulation: count(&cluster.tally.simulated),
        unknown: count(&cluster.tally.unknown),
        launches: usage.launches,
        gpu_seconds: usage.gpu_seconds,
        wall_s: recorder.now_s(),
        steps,
        winners: winners(recording, &selection),
    })
}

const fn phase(goal: &Goal) -> Phase {
    match goal {
        Goal::Prefill => Phase::PrefillSweep,
        Goal::Decode => Phase::DecodeSweep,
        Goal::PrefillCurve(_) => Phase::PrefillInterpolation,
        Goal::DecodeCurve(_) => Phase::DecodeInterpolation,
    }
}

/// Asks the strategy and counts.
struct Asking<'a> {
    strategy: &'a dyn SweepStrategy,
    job: &'a Job,
    candidates: &'a [Candidate],
    steps: usize,
}

impl Strategist for Asking<'_> {
    type Error = SweepError;

    fn next(&mut self, _: Phase, goal: &Goal, history: &History) -> Result<Step, SweepError> {
        self.steps += 1;
        Ok(self.strategy.next(self.job, goal, self.candidates, history)?.value)
    }

    fn reached(&mut self, _: Phase, _: &str) -> Result<(), SweepError> {
        Ok(())
    }
}

async fn select(
    scheduler: &Scheduler,
    recorder: &Recorder,
    recording: &Recording,
    policy: &dyn SelectionPolicy,
) -> Result<Selection, SweepError> {
    let started = recording.started();
    let selection = policy.select(&started.job, &started.candidates, &recorder.history())?.value;
    let keep: Vec<CandidateId> =
        Role::ALL.into_iter().filter_map(|role| Some(selection.ranking(role).first()?.candidate)).collect();
    scheduler.retain(&keep).await?;
    Ok(selection)
}

#[derive(Default)]
struct Tally {
    recorded: AtomicUsize,
    simulated: AtomicUsize,
    unknown: AtomicUsize,
}

/// Answers from a recording; points that it lacks come from the simulated cluster that it was made on, if it was.
struct RecordedCluster {
    history: Arc<History>,
    simulated: Option<SimulatedCluster>,
    gpus: u32,
    gpus_per_node: u32,
    /// The run measured candidates on engines of the other role.
    shares: bool,
    tally: Arc<Tally>,
}

impl RecordedCluster {
    fn new(recording: &Recording) -> Self {
        let started = recording.started();
        Self {
            history: Arc::new(recording.full_history()),
            simulated: started.simulation.as_ref().map(|spec| SimulatedCluster::new(&started.job, spec)),
            gpus: started.job.hardware.total_gpus,
            gpus_per_node: started.job.hardware.gpus_per_node,
            shares: recording.records().iter().any(|record| matches!(record.event, Event::Joined { .. })),
            tally: Arc::default(),
        }
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

#[async_trait]
impl Cluster for RecordedCluster {
    fn kind(&self) -> &'static str {
        "recorded"
    }

    fn gpus(&self) -> u32 {
        self.gpus
    }

    fn gpus_per_node(&self) -> u32 {
        self.gpus_per_node
    }

    fn serves_both_roles(&self) -> bool {
        self.shares
    }

    fn expected_launch(&self, launch: &Launch) -> Duration {
        self.history.facts_of(launch.id).map_or(Duration::ZERO, |facts| seconds(facts.launch_s))
    }

    fn expected_measure(&self, _: &Launch, _: &Probe) -> Duration {
        Duration::ZERO
    }

    async fn launch(&self, launch: &Launch) -> Result<Box<dyn Engine>, Failure> {
        let recorded = self.history.facts_of(launch.id).cloned();
        // The simulated engine comes up in the recorded time, or fails in the recorded way: its fate is the seed's.
        let inner = match &self.simulated {
            Some(cluster) => Some(cluster.launch(launch).await?),
            None => None,
        };
        if inner.is_none() {
            if let Some(failure) = self.history.engine_failure(launch.id) {
                return Err(failure.clone());
            }
            tokio::time::sleep(self.expected_launch(launch)).await;
        }
        let facts =
            recorded.or_else(|| inner.as_ref().map(|engine| engine.facts().clone())).ok_or_else(|| Failure {
                candidate: launch.id,
                class: FailureClass::Other,
                cause: None,
                probe: None,
                reason: format!("{}: the recording never launched it", launch.candidate.name()),
            })?;
        let (history, tally) = (Arc::clone(&self.history), Arc::clone(&self.tally));
        Ok(Box::new(RecordedEngine { facts, history, tally, inner }))
    }

    async fn apply(&self, _: &ApplyRequest) -> Result<Box<dyn Deployment>, ApplyError> {
        Err(ApplyError::Invalid("a recording deploys nothing".to_owned()))
    }
}

struct RecordedEngine {
    facts: EngineFacts,
    history: Arc<History>,
    tally: Arc<Tally>,
    /// For points that the recording lacks.
    inner: Option<Box<dyn Engine>>,
}

#[async_trait]
impl Engine for RecordedEngine {
    fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    async fn measure(&mut self, role: Role, probe: &Probe, aim: Aim) -> Result<Measurement, Failure> {
        if let Some(found) = self.history.measurements.iter().find(|m| m.point() == probe.point()) {
            self.tally.recorded.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(seconds(found.duration_s)).await;
            return Ok(found.clone());
        }
        let same = |failure: &&Failure| failure.probe.is_some_and(|failed| failed.point() == probe.point());
        if let Some(failure) = self.history.failures.iter().find(same) {
            self.tally.recorded.fetch_add(1, Ordering::Relaxed);
            return Err(failure.clone());
        }
        match &mut self.inner {
            Some(engine) => {
                self.tally.simulated.fetch_add(1, Ordering::Relaxed);
                engine.measure(role, probe, aim).await
            }
            None => {
                self.tally.unknown.fetch_add(1, Ordering::Relaxed);
                let Probe { isl, osl, concurrency, .. } = probe;
                Err(Failure {
                    candidate: probe.candidate,
                    class: FailureClass::Other,
                    cause: None,
                    probe: Some(*probe),
                    reason: format!("the recording has no point at isl {isl}, osl {osl}, concurrency {concurrency}"),
                })
            }
        }
    }

    fn log(&self) -> String {
        String::new()
    }

    async fn shutdown(self: Box<Self>) -> Result<(), Failure> {
        match self.inner {
            Some(engine) => engine.shutdown().await,
            None => Ok(()),
        }
    }
}
