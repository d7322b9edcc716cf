//! Candidates: which role, mapped how onto how many GPUs.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an engine does in a disaggregated deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Computes the prompt's KV cache and the first token.
    Prefill,
    /// Generates the other tokens.
    Decode,
}

impl Role {
    /// Both, in the order of the phases.
    pub const ALL: [Role; 2] = [Role::Prefill, Role::Decode];

    /// `"prefill"` or `"decode"`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Prefill => "prefill",
            Role::Decode => "decode",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How one engine spreads over its GPUs.
///
/// `tp · attention_dp = moe_tp · moe_ep` for a MoE model; a dense model has `moe_tp = tp` and `moe_ep = 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Mapping {
    /// Tensor parallel size of attention.
    pub tp: u32,
    /// Pipeline parallel size.
    pub pp: u32,
    /// Data parallel ranks of attention; each has a scheduler and a KV cache of its own.
    pub attention_dp: u32,
    /// Tensor parallel size within an expert.
    pub moe_tp: u32,
    /// Expert parallel size.
    pub moe_ep: u32,
}

impl Mapping {
    /// Tensor parallel over `gpus`: dense models, and MoE models that split every expert.
    pub const fn tensor(gpus: u32) -> Self {
        Self { tp: gpus, pp: 1, attention_dp: 1, moe_tp: gpus, moe_ep: 1 }
    }

    /// TEP: tensor parallel attention, experts spread over the GPUs.
    pub const fn tensor_expert(gpus: u32) -> Self {
        Self { tp: gpus, pp: 1, attention_dp: 1, moe_tp: 1, moe_ep: gpus }
    }

    /// DEP: data parallel attention, experts spread over the GPUs.
    pub const fn data_expert(gpus: u32) -> Self {
        Self { tp: 1, pp: 1, attention_dp: gpus, moe_tp: 1, moe_ep: gpus }
    }

    /// GPUs of one engine.
    pub const fn gpus(&self) -> u32 {
        self.tp * self.pp * self.attention_dp
    }

    /// Short and unique within a search space: `tp4`, `tep8`, `dep16`; with a suffix for whatever fits none of these.
    pub fn label(&self) -> String {
        let pp = if self.pp > 1 { format!("-pp{}", self.pp) } else { String::new() };
        match self {
            Self { attention_dp: 1, moe_ep: 1, tp, .. } => format!("tp{tp}{pp}"),
            Self { attention_dp: 1, moe_tp: 1, tp, moe_ep, .. } if tp == moe_ep => format!("tep{tp}{pp}"),
            Self { tp: 1, moe_tp: 1, attention_dp, moe_ep, .. } if attention_dp == moe_ep => {
                format!("dep{attention_dp}{pp}")
            }
            m => format!("tp{}{pp}-dp{}-moetp{}-moeep{}", m.tp, m.attention_dp, m.moe_tp, m.moe_ep),
        }
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label())
    }
}

/// Index of a candidate in the run's search space; stable over the run.
pub type CandidateId = u32;

/// One configuration of one role that may be deployed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Candidate {
    /// Which half of a deployment.
    pub role: Role,
    /// How it spreads over GPUs.
    pub mapping: Mapping,
    /// What a model expects of it before anything was measured.
    pub prior: Prior,
}

impl Candidate {
    /// GPUs of one engine.
    pub const fn gpus(&self) -> u32 {
        self.mapping.gpus()
    }

    /// `prefill tp4`
    pub fn name(&self) -> String {
        format!("{} {}", self.role, self.mapping)
    }

    /// Folder of its artifacts, as in the seed document: `prefill_4gpus_tp4`.
    pub fn dir_name(&self) -> String {
        format!("{}_{}gpus_{}", self.role, self.gpus(), self.mapping)
    }
}

/// A guess about a candidate. It may order and prune, never decide.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Prior {
    /// TTFT of one request of the job's ISL (prefill), ITL at one request per attention-DP rank (decode).
    pub latency_ms: f64,
    /// Input tokens (prefill) or output tokens (decode) per second and GPU, at that point.
    pub tokens_per_second_per_gpu: f64,
    /// How wrong the guess may be, as a fraction of it.
    pub relative_error: f64,
    /// KV capacity of one engine in tokens, by the memory formula.
    pub kv_tokens: f64,
}
