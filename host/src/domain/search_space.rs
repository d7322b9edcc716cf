//! Which mappings are legal for a model, an engine and the hardware, and why the others are not.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Candidate, Mapping, Role};

/// What the user restricts beyond what the hardware does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Fewest GPUs of one engine; absent: what memory needs.
    pub min_gpus_per_engine: Option<u32>,
    /// Most GPUs of one engine; absent: one node, or more for a MoE model that needs it.
    pub max_gpus_per_engine: Option<u32>,
}

/// A mapping that may not be deployed, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rejected {
    /// In which role; absent: in both.
    pub role: Option<Role>,
    /// Which mapping.
    pub mapping: Mapping,
    /// For a person.
    pub reason: String,
}

/// All candidates of a run. A candidate's id is its index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SearchSpace {
    /// Prefill candidates first, then decode candidates, each by GPUs, then label.
    pub candidates: Vec<Candidate>,
    /// What was left out.
    pub rejected: Vec<Rejected>,
}
