//! What phases see of a plugin. In production a Wasm component stands behind each trait; tests may use native fakes.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::{Candidate, Demand, Goal, History, Job, Measurement, Plan, Selection, Step};

/// The three kinds; the same words in WIT, traits, folder prefixes and flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Decides what to measure next.
    SweepStrategy,
    /// Decides which candidates win.
    SelectionPolicy,
    /// Computes replicas and capacity.
    PlannerModel,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::SweepStrategy, Kind::SelectionPolicy, Kind::PlannerModel];

    /// `sweep strategy`, `selection policy`, `planner model`
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::SweepStrategy => "sweep strategy",
            Kind::SelectionPolicy => "selection policy",
            Kind::PlannerModel => "planner model",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which plugin exactly; goes into every decision's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// What it does.
    pub kind: Kind,
    /// As it says of itself.
    pub name: String,
    /// As it says of itself.
    pub version: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Whether it came with the program.
    pub bundled: bool,
}

/// A setting that a plugin understands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Setting {
    /// Name, as in `--sweep-setting name=value`.
    pub name: String,
    /// What applies when nothing is said.
    pub default: String,
    /// For a person.
    pub help: String,
}

/// A decision and what it cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided<T> {
    /// The decision, already checked against the contract.
    pub value: T,
    /// What the call cost.
    pub cost: CallCost,
}

/// What one plugin call cost. Fuel is the same on every machine, time is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallCost {
    /// Wasm instructions, about.
    pub fuel: u64,
    /// Largest linear memory in bytes.
    pub peak_memory_bytes: u64,
    /// Wall time.
    #[serde(skip)]
    #[schemars(skip)]
    pub elapsed: Duration,
}

/// Decides what to measure next.
pub trait SweepStrategy: Send + Sync {
    /// Which plugin.
    fn identity(&self) -> &Identity;
    /// The next step. Every probe in it names a candidate of the goal's role.
    ///
    /// # Errors
    /// Whatever can go wrong with a plugin: limits, traps, its own errors, answers that break the contract.
    fn next(
        &self,
        job: &Job,
        goal: &Goal,
        candidates: &[Candidate],
        history: &History,
    ) -> Result<Decided<Step>, super::PluginError>;
}

/// Decides which candidates win.
pub trait SelectionPolicy: Send + Sync {
    /// Which plugin.
    fn identity(&self) -> &Identity;
    /// Ranks the candidates of both roles.
    ///
    /// # Errors
    /// See [`SweepStrategy::next`].
    fn select(
        &self,
        job: &Job,
        candidates: &[Candidate],
        history: &History,
    ) -> Result<Decided<Selection>, super::PluginError>;
}

/// One of the two selected engines, as a planner sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedEngine<'a> {
    /// The candidate.
    pub candidate: &'a Candidate,
    /// What its engine said.
    pub facts: &'a crate::domain::EngineFacts,
    /// The operating point that selection chose.
    pub concurrency: u32,
    /// All that was measured of it.
    pub curve: Vec<&'a Measurement>,
}

/// Computes replicas and capacity.
pub trait PlannerModel: Send + Sync {
    /// Which plugin.
    fn identity(&self) -> &Identity;
    /// Sizes a deployment of the two engines for the demand (`job.demand`; given apart so that a caller can ask "what if").
    ///
    /// # Errors
    /// See [`SweepStrategy::next`].
    fn plan(
        &self,
        job: &Job,
        prefill: &PlannedEngine<'_>,
        decode: &PlannedEngine<'_>,
        demand: Demand,
    ) -> Result<Decided<Plan>, super::PluginError>;
}
