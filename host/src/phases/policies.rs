//! The three policies of a run, and what happens when one of them fails: the bundled default of its kind takes over
//! for the rest of the run and the result is marked as degraded, or the run stops (`--strict-plugins`).

use std::fmt::Display;

use super::RunError;
use crate::domain::{Candidate, Choice, Goal, History, Job, Plan, Role, Selection, Step};
use crate::plugin::PluginError;
use crate::plugin::api::{Decided, Identity, PlannedEngine, PlannerModel, SelectionPolicy, SweepStrategy};
use crate::run::{Event, Phase, Recorder};

/// One policy and who stands in for it.
pub struct Slot<T: ?Sized> {
    primary: Box<T>,
    /// None where the primary is the bundled default itself.
    fallback: Option<Box<T>>,
    degraded: bool,
}

impl<T: ?Sized> Slot<T> {
    /// `fallback` is the bundled default of the kind, unless `primary` is just that.
    pub const fn new(primary: Box<T>, fallback: Option<Box<T>>) -> Self {
        Self { primary, fallback, degraded: false }
    }
}

/// Who decides.
pub struct Policies {
    sweep: Slot<dyn SweepStrategy>,
    selection: Slot<dyn SelectionPolicy>,
    planner: Slot<dyn PlannerModel>,
    strict: bool,
}

/// A decision and who made it.
pub struct Made<T> {
    /// The decision and its cost.
    pub decided: Decided<T>,
    /// Who.
    pub plugin: Identity,
}

impl Policies {
    /// With `strict`, a plugin that fails ends the run.
    pub const fn new(
        sweep: Slot<dyn SweepStrategy>,
        selection: Slot<dyn SelectionPolicy>,
        planner: Slot<dyn PlannerModel>,
        strict: bool,
    ) -> Self {
        Self { sweep, selection, planner, strict }
    }

    /// The plugins that the user chose.
    pub fn identities(&self) -> Vec<Identity> {
        vec![
            self.sweep.primary.identity().clone(),
            self.selection.primary.identity().clone(),
            self.planner.primary.identity().clone(),
        ]
    }

    /// Whether a bundled default stands in for any of them.
    pub const fn degraded(&self) -> bool {
        self.sweep.degraded || self.selection.degraded || self.planner.degraded
    }

    /// The sweep strategy's next step. `faulty` looks at the answer and says what is wrong with it, if anything.
    ///
    /// # Errors
    /// If the plugin fails and nobody stands in for it.
    pub fn next(
        &mut self,
        recorder: &Recorder,
        phase: Phase,
        job: &Job,
        goal: &Goal,
        candidates: &[Candidate],
        history: &History,
    ) -> Result<Made<Step>, RunError> {
        decide(
            &mut self.sweep,
            self.strict,
            recorder,
            phase,
            |plugin| plugin.identity(),
            |plugin| plugin.next(job, goal, candidates, history),
            |step| match step {
                Step::Measure(probes) if probes.iter().all(|probe| history.is_settled(probe)) => {
                    Some("it asks for nothing that is not known already, so the sweep would never end".to_owned())
                }
                _ => None,
            },
        )
    }

    /// The selection policy's rankings.
    ///
    /// # Errors
    /// If the plugin fails and nobody stands in for it.
    pub fn select(
        &mut self,
        recorder: &Recorder,
        job: &Job,
        candidates: &[Candidate],
        history: &History,
    ) -> Result<Made<Selection>, RunError> {
        let unmeasured = |choice: &Choice| history.measurements_of(choice.candidate).next().is_none();
        decide(
            &mut self.selection,
            self.strict,
            recorder,
            Phase::Selection,
            |plugin| plugin.identity(),
            |plugin| plugin.select(job, candidates, history),
            |selection| {
                Role::ALL.into_iter().find_map(|role| match selection.ranking(role).first() {
                    None => Some(format!("it ranks no {role} candidate although some were measured")),
                    Some(first) if unmeasured(first) => {
                        Some(format!("its first {role} choice, candidate {}, was never measured", first.candidate))
                    }
                    Some(_) => None,
                })
            },
        )
    }

    /// The planner model's plan.
    ///
    /// # Errors
    /// If the plugin fails and nobody stands in for it.
    pub fn plan(
        &mut self,
        recorder: &Recorder,
        job: &Job,
        prefill: &PlannedEngine<'_>,
        decode: &PlannedEngine<'_>,
    ) -> Result<Made<Plan>, RunError> {
        let budget = job.hardware.total_gpus;
        decide(
            &mut self.planner,
            self.strict,
            recorder,
            Phase::Generation,
            |plugin| plugin.identity(),
            |plugin| plugin.plan(job, prefill, decode, job.demand),
            |plan| {
                let gpus = |replicas: u32, engine: &PlannedEngine<'_>| {
                    u64::from(replicas) * u64::from(engine.candidate.gpus())
                };
                let used = gpus(plan.prefill_replicas, prefill) + gpus(plan.decode_replicas, decode);
                // One engine of each role is the least there is, even if the budget is smaller.
                let least = gpus(1, prefill) + gpus(1, decode);
                (used > u64::from(budget).max(least))
                    .then(|| format!("its plan uses {used} GPUs, the budget is {budget}"))
            },
        )
    }
}

fn decide<P: ?Sized, T>(
    slot: &mut Slot<P>,
    strict: bool,
    recorder: &Recorder,
    phase: Phase,
    identity: impl Fn(&P) -> &Identity,
    call: impl Fn(&P) -> Result<Decided<T>, PluginError>,
    faulty: impl Fn(&T) -> Option<String>,
) -> Result<Made<T>, RunError> {
    loop {
        let plugin = identity(&slot.primary).clone();
        let failed = |error: &dyn Display, fallback: Option<&P>| {
            recorder.record(Event::PluginFailed {
                phase,
                plugin: plugin.clone(),
                error: error.to_string(),
                fallback: fallback.map(|fallback| identity(fallback).clone()),
            })
        };
        let error = match call(&slot.primary) {
            Ok(decided) => match faulty(&decided.value) {
                None => return Ok(Made { decided, plugin }),
                Some(reason) => RunError::BadDecision { plugin: plugin.name.clone(), reason },
            },
            Err(error) => RunError::Plugin(error),
        };
        match slot.fallback.take_if(|_| !strict) {
            None => {
                failed(&error, None)?;
                return Err(error);
            }
            Some(fallback) => {
                tracing::warn!("{error}; {} decides from here on", identity(&fallback).name);
                failed(&error, Some(&fallback))?;
                slot.primary = fallback;
                slot.degraded = true;
            }
        }
    }
}
