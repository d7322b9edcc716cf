//! What happens in a run, as data. The journal keeps it, progress display, status file and log are made from it, and
//! resume and replay read it back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::search_space::Rejected;
use crate::domain::{Candidate, CandidateId, EngineFacts, Failure, Goal, Job, Measurement, Plan, Selection, Step};
use crate::engine::CheckReport;
use crate::plugin::api::{CallCost, Identity, Kind};
use crate::spec::{DeploymentSpec, SimulationSpec};

/// Format of the journal; raised when a reader of the old one would misread the new one.
pub const JOURNAL_FORMAT: u32 = 1;

/// The seven phases, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// 1: how good is each prefill candidate?
    PrefillSweep,
    /// 2: how good is each decode candidate, and up to which concurrency?
    DecodeSweep,
    /// 3: who wins?
    Selection,
    /// 4: TTFT of the winner against input length.
    PrefillInterpolation,
    /// 5: ITL and throughput of the winner against load and context.
    DecodeInterpolation,
    /// 6: replicas, capacity, and the deployment's YAML.
    Generation,
    /// 7: deploy and check.
    AutoApply,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 7] = [
        Phase::PrefillSweep,
        Phase::DecodeSweep,
        Phase::Selection,
        Phase::PrefillInterpolation,
        Phase::DecodeInterpolation,
        Phase::Generation,
        Phase::AutoApply,
    ];

    /// 1 to 7.
    pub const fn number(self) -> u32 {
        self as u32 + 1
    }

    /// For a person.
    pub const fn title(self) -> &'static str {
        match self {
            Phase::PrefillSweep => "prefill sweep",
            Phase::DecodeSweep => "decode sweep",
            Phase::Selection => "selection",
            Phase::PrefillInterpolation => "prefill interpolation",
            Phase::DecodeInterpolation => "decode interpolation",
            Phase::Generation => "plan and deployment",
            Phase::AutoApply => "auto-apply",
        }
    }

    /// The value of `profilingPhase` that Dynamo's tools know (dynamo-profiler 1.x, `ProfilingPhase`).
    pub const fn dynamo_name(self) -> &'static str {
        match self {
            Phase::PrefillSweep => "SweepingPrefill",
            Phase::DecodeSweep => "SweepingDecode",
            Phase::Selection => "SelectingConfig",
            Phase::PrefillInterpolation | Phase::DecodeInterpolation => "BuildingCurves",
            Phase::Generation => "GeneratingDGD",
            Phase::AutoApply => "Done",
        }
    }
}

/// What a plugin was asked and what it answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// A sweep strategy's next step.
    Sweep {
        /// What for.
        goal: Goal,
        /// What next.
        step: Step,
    },
    /// A selection policy's rankings.
    Selection(Selection),
    /// A planner model's plan.
    Plan(Plan),
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// First record of every journal.
    RunStarted(Box<RunStarted>),
    /// The run goes on after it had stopped; points that are in the journal already are not measured again.
    Resumed {
        /// Measurements that were taken over.
        measurements: usize,
    },
    /// A phase begins.
    PhaseStarted {
        /// Which.
        phase: Phase,
    },
    /// A plugin decided.
    Decided {
        /// In which phase.
        phase: Phase,
        /// Who.
        plugin: Identity,
        /// What the call cost.
        cost: CallCost,
        /// What.
        decision: Decision,
    },
    /// A plugin failed.
    PluginFailed {
        /// In which phase.
        phase: Phase,
        /// Who.
        plugin: Identity,
        /// How.
        error: String,
        /// Who decides from here on; absent: nobody, the run stops.
        fallback: Option<Identity>,
    },
    /// An engine is being brought up.
    Launching {
        /// Whose.
        candidate: CandidateId,
    },
    /// It answers.
    Launched {
        /// What it says of itself.
        facts: EngineFacts,
    },
    /// A candidate is measured on an engine that was launched for the other role.
    Joined {
        /// What the engine says of itself, for this candidate.
        facts: EngineFacts,
    },
    /// A point is being measured.
    Measuring {
        /// Which.
        probe: crate::domain::Probe,
    },
    /// It is measured.
    Measured {
        /// In which phase.
        phase: Phase,
        /// What came out.
        measurement: Measurement,
    },
    /// A point was taken over from an earlier run, which measured the same thing.
    Reused {
        /// In which phase.
        phase: Phase,
        /// What came out then.
        measurement: Measurement,
        /// What that run's engine said of itself.
        facts: EngineFacts,
        /// That run's directory.
        run: String,
    },
    /// An engine or a measurement failed; the run goes on.
    Failed {
        /// In which phase.
        phase: Phase,
        /// What, how, why.
        failure: Failure,
    },
    /// An engine failed of something that may pass, and is brought up again. Policies are not told: it has not failed yet.
    Retrying {
        /// In which phase.
        phase: Phase,
        /// What, and when again.
        retry: Retry,
    },
    /// An engine is gone and its GPUs are free.
    Released {
        /// Whose.
        candidate: CandidateId,
    },
    /// No candidate of some role meets the SLA; the result is the least bad one.
    Infeasible {
        /// For a person.
        reason: String,
    },
    /// A file was written.
    Wrote {
        /// Path within the run directory.
        path: String,
    },
    /// The deployment was created and measured.
    Checked {
        /// What users would see.
        report: CheckReport,
    },
    /// The deployment missed the SLA, and what ran before it runs again.
    RolledBack {
        /// For a person.
        what: String,
    },
    /// A phase is over.
    PhaseFinished {
        /// Which.
        phase: Phase,
        /// For a person: what came out.
        summary: String,
    },
    /// A phase that was asked for does not happen.
    PhaseSkipped {
        /// Which.
        phase: Phase,
        /// Why, for a person.
        reason: String,
    },
    /// Last record of a journal whose run came to its end.
    RunFinished {
        /// Whether there is a deployment that meets the SLA.
        feasible: bool,
    },
}

/// What a run started from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunStarted {
    /// [`JOURNAL_FORMAT`]
    pub format: u32,
    /// Version of the program.
    pub version: String,
    /// Which backend of engines, for example `simulated`.
    pub cluster: String,
    /// The question.
    pub job: Job,
    /// A candidate's id is its index.
    pub candidates: Vec<Candidate>,
    /// Mappings that are not candidates.
    pub rejected: Vec<Rejected>,
    /// Who decides.
    pub plugins: Vec<Identity>,
    /// How each of them was asked for, so that replay can ask for the same; in the same order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugin_choices: Vec<RecordedChoice>,
    /// How the simulated cluster was made up; absent where engines were real.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulation: Option<SimulationSpec>,
    /// What the deployment looks like; absent in journals of older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentSpec>,
    /// What makes its measurements what they are, by name; `--reuse` takes over where all of it is the same.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub identity: super::reuse::Identity,
    /// SHA-256 of everything that was asked for, in hex; resume refuses another one.
    pub spec_sha256: String,
}

/// A failure of an engine that is not the last word on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Retry {
    /// What, how, why; of the engine as a whole.
    pub failure: Failure,
    /// How often the engine was tried so far.
    pub tried: u32,
    /// Until it is tried again, in seconds on the cluster's clock.
    pub pause_s: f64,
    /// How long its launch had held GPUs, in seconds; 0 of an engine that had come up.
    pub held_s: f64,
}

/// How the user asked for a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecordedChoice {
    /// Of which kind.
    pub kind: Kind,
    /// Name of a bundled plugin, or path of a file as it was given.
    pub plugin: String,
    /// Name and value of each setting.
    pub settings: Vec<(String, String)>,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Counts from 0.
    pub seq: u64,
    /// Seconds since the run started, on the cluster's clock.
    pub at_s: f64,
    /// What happened.
    pub event: Event,
}
