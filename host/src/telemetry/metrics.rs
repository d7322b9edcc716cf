//! What a run is doing, as gauges and counters.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::domain::{Candidate, CandidateId, History};
use crate::run::forecast::{Forecast, Tracker};
use crate::run::{Event, Observer, Record};

/// Name and value.
type Labels = Vec<(&'static str, String)>;
type Float = Gauge<f64, AtomicU64>;

/// Follows a run; cheap to clone, all clones are of one run.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    phase: Gauge,
    progress: Float,
    eta: Float,
    clock: Float,
    gpus: Gauge,
    gpus_held: Gauge,
    engines: Family<Labels, Gauge>,
    launches: Counter,
    points: Family<Labels, Counter>,
    samples: Counter,
    retries: Counter,
    failures: Family<Labels, Counter>,
    gpu_seconds: Counter<f64, AtomicU64>,
    finished: Gauge,
    feasible: Gauge,
    state: Arc<Mutex<State>>,
}

struct State {
    tracker: Tracker,
    candidates: Vec<Candidate>,
    /// Since when each engine holds its GPUs, on the cluster's clock, and whether it has answered yet.
    held: BTreeMap<CandidateId, (f64, bool)>,
}

impl Default for Metrics {
    /// Before the first event.
    fn default() -> Self {
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("sla_profiler"))),
            phase: Gauge::default(),
            progress: Float::default(),
            eta: Float::default(),
            clock: Float::default(),
            gpus: Gauge::default(),
            gpus_held: Gauge::default(),
            engines: Family::default(),
            launches: Counter::default(),
            points: Family::default(),
            samples: Counter::default(),
            retries: Counter::default(),
            failures: Family::default(),
            gpu_seconds: Counter::default(),
            finished: Gauge::default(),
            feasible: Gauge::default(),
            state: Arc::new(Mutex::new(State {
                tracker: Tracker::new(Forecast::default()),
                candidates: Vec::new(),
                held: BTreeMap::new(),
            })),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    /// The same, with what the run is expected to take.
    #[must_use]
    pub fn expecting(self, forecast: Forecast) -> Self {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).tracker = Tracker::new(forecast);
        self
    }

    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("phase", "Phase that runs, 1 to 7; 0 between phases", self.phase.clone());
        registry.register("progress_ratio", "Finished part of the forecast, 0 to 1", self.progress.clone());
        let seconds = Unit::Seconds;
        registry.register_with_unit("eta", "Time to go, on the cluster's clock", seconds.clone(), self.eta.clone());
        registry.register_with_unit("elapsed", "Time of the run, on the cluster's clock", seconds, self.clock.clone());
        registry.register("gpus", "GPUs of the job", self.gpus.clone());
        registry.register("gpus_held", "GPUs that engines hold", self.gpus_held.clone());
        registry.register("engines", "Engines that hold GPUs, by state", self.engines.clone());
        registry.register("launches", "Engines that were ordered", self.launches.clone());
        registry.register("points", "Points that were measured, by role", self.points.clone());
        registry.register("samples", "Samples behind these points", self.samples.clone());
        registry.register("retries", "Failures after which an engine was tried again", self.retries.clone());
        registry.register("failures", "Engines and points that failed, by class", self.failures.clone());
        registry.register("gpu_seconds", "GPUs times seconds of engines that are gone", self.gpu_seconds.clone());
        registry.register("finished", "1 once the run came to its end", self.finished.clone());
        registry.register(
            "feasible",
            "1 if a configuration meets the SLA, once the run came to its end",
            self.feasible.clone(),
        );
    }

    /// The text form of OpenMetrics.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }

    fn info(&self, labels: Labels) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("run", "What is profiled", Info::new(labels));
    }

    fn release(&self, state: &mut State, candidate: CandidateId, now_s: f64) {
        if let Some((since_s, _)) = state.held.remove(&candidate) {
            let gpus = state.candidates.get(candidate as usize).map_or(0, Candidate::gpus);
            self.gpu_seconds.inc_by(f64::from(gpus) * (now_s - since_s));
        }
    }

    fn count_engines(&self, state: &State) {
        let in_state = |answered| state.held.values().filter(|(_, a)| *a == answered).count();
        for (name, answered) in [("launching", false), ("running", true)] {
            let count = i64::try_from(in_state(answered)).unwrap_or(i64::MAX);
            self.engines.get_or_create(&vec![("state", name.to_owned())]).set(count);
        }
        let gpus = |id: &CandidateId| state.candidates.get(*id as usize).map_or(0, Candidate::gpus);
        self.gpus_held.set(state.held.keys().map(gpus).map(i64::from).sum());
    }
}

impl Observer for Metrics {
    fn on(&mut self, record: &Record, _: &History) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let standing = state.tracker.on(record);
        self.progress.set(standing.fraction);
        self.eta.set(standing.eta_s.unwrap_or(f64::NAN));
        self.clock.set(record.at_s);
        self.phase.set(state.tracker.phase().map_or(0, |phase| phase.number().into()));
        match &record.event {
            Event::RunStarted(started) => {
                state.candidates.clone_from(&started.candidates);
                self.gpus.set(started.job.hardware.total_gpus.into());
                self.info(vec![
                    ("version", started.version.clone()),
                    ("cluster", started.cluster.clone()),
                    ("model", started.job.model.name.clone()),
                    ("backend", started.job.backend.to_string()),
                    ("gpu", started.job.hardware.gpu.name.clone()),
                ]);
            }
            Event::Launching { candidate } => {
                state.held.insert(*candidate, (record.at_s, false));
                self.launches.inc();
            }
            Event::Launched { facts } => {
                if let Some((_, answered)) = state.held.get_mut(&facts.candidate) {
                    *answered = true;
                }
            }
            Event::Measured { measurement, .. } => {
                let candidate = state.candidates.get(measurement.candidate as usize);
                let role = candidate.map(|candidate| candidate.role.to_string()).unwrap_or_default();
                self.points.get_or_create(&vec![("role", role)]).inc();
                self.samples.inc_by(measurement.samples.into());
            }
            Event::Failed { failure, .. } => {
                self.failures.get_or_create(&vec![("class", failure.class.to_string())]).inc();
                let launching = state.held.get(&failure.candidate).is_some_and(|(_, answered)| !answered);
                if failure.probe.is_none() && launching {
                    self.release(state, failure.candidate, record.at_s);
                }
            }
            Event::Retrying { retry, .. } => {
                self.retries.inc();
                let id = retry.failure.candidate;
                if state.held.get(&id).is_some_and(|(_, answered)| !answered) {
                    self.release(state, id, record.at_s);
                }
            }
            Event::Released { candidate } => self.release(state, *candidate, record.at_s),
            Event::RunFinished { feasible } => {
                self.progress.set(1.0);
                self.eta.set(0.0);
                self.finished.set(1);
                self.feasible.set((*feasible).into());
            }
            _ => {}
        }
        self.count_engines(state);
    }
}
