//! What policies decide. Each type mirrors one of the plugin contract (`wit/`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CandidateId, Probe, Role};

/// The user's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// Arrivals per second.
    RequestsPerSecond(f64),
    /// Requests in flight over the whole deployment.
    Concurrency(u32),
    /// Not said: as much as the GPU budget serves.
    Budget,
}

/// What a sweep is for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Phase 1: how good is each prefill candidate?
    Prefill,
    /// Phase 2: how good is each decode candidate, and up to which concurrency?
    Decode,
    /// Phase 4: TTFT of the winner against input length.
    PrefillCurve(CurveGoal),
    /// Phase 5: ITL and throughput of the winner against load and context.
    DecodeCurve(CurveGoal),
}

impl Goal {
    /// Whose candidates may be probed.
    pub const fn role(&self) -> Role {
        match self {
            Goal::Prefill | Goal::PrefillCurve(_) => Role::Prefill,
            Goal::Decode | Goal::DecodeCurve(_) => Role::Decode,
        }
    }

    /// The curve that is wanted, if one is.
    pub const fn curve(&self) -> Option<CurveGoal> {
        match self {
            Goal::Prefill | Goal::Decode => None,
            Goal::PrefillCurve(curve) | Goal::DecodeCurve(curve) => Some(*curve),
        }
    }
}

/// The engine whose curve is wanted, and how far the curve reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CurveGoal {
    /// Whose.
    pub candidate: CandidateId,
    /// Shortest input in tokens.
    pub min_isl: u32,
    /// Longest input in tokens.
    pub max_isl: u32,
    /// The concurrency that selection chose.
    pub concurrency: u32,
}

/// A sweep strategy's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Measure these, then ask again.
    Measure(Vec<Probe>),
    /// Enough is known, because …
    Done(String),
}

/// One candidate's place in a selection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Choice {
    /// Whose.
    pub candidate: CandidateId,
    /// Requests in flight per engine.
    pub concurrency: u32,
    /// Whether it meets the SLA.
    pub meets_sla: bool,
    /// Higher is better within one role.
    pub score: f64,
    /// For a person, one line.
    pub reason: String,
    /// What limits it: `ttft`, `itl`, `e2e`, `kv-cache`, or empty.
    pub binding: String,
}

/// A selection policy's answer: best first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Selection {
    /// Prefill candidates.
    pub prefill: Vec<Choice>,
    /// Decode candidates.
    pub decode: Vec<Choice>,
    /// For the log and the report.
    pub notes: Vec<String>,
}

impl Selection {
    /// The ranking of one role.
    pub fn ranking(&self, role: Role) -> &[Choice] {
        match role {
            Role::Prefill => &self.prefill,
            Role::Decode => &self.decode,
        }
    }
}

/// What phase 3 decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The prefill winner.
    pub prefill: Choice,
    /// The decode winner.
    pub decode: Choice,
    /// The whole rankings.
    pub selection: Selection,
}

impl Chosen {
    /// Whether both winners meet the SLA.
    pub const fn feasible(&self) -> bool {
        self.prefill.meets_sla && self.decode.meets_sla
    }

    /// The winner of a role.
    pub const fn of(&self, role: Role) -> &Choice {
        match role {
            Role::Prefill => &self.prefill,
            Role::Decode => &self.decode,
        }
    }
}

/// A planner model's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// Prefill engines.
    pub prefill_replicas: u32,
    /// Decode engines.
    pub decode_replicas: u32,
    /// Requests per second that the whole deployment serves within the SLA, …
    pub capacity_requests_per_second: f64,
    /// … and the prefill engines by themselves, …
    pub prefill_requests_per_second: f64,
    /// … and the decode engines by themselves.
    pub decode_requests_per_second: f64,
    /// Requests in flight per decode engine at the planned rate.
    pub decode_concurrency: u32,
    /// TTFT at the planned rate, with waiting, in the SLA's statistic, in milliseconds.
    pub expected_ttft_ms: f64,
    /// ITL at the planned rate, in the SLA's statistic, in milliseconds.
    pub expected_itl_ms: f64,
    /// Whether these meet the SLA.
    pub meets_sla: bool,
    /// Whether the GPU budget reaches for the demand.
    pub meets_demand: bool,
    /// What the figures rest on, for a person.
    pub assumptions: Vec<String>,
}
