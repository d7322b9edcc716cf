//! The question that a run answers.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Demand, Hardware, Model};

/// Inference engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM.
    Trtllm,
}

impl Backend {
    /// `"vllm"`, `"sglang"` or `"trtllm"`, as in Dynamo's module and image names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Backend::Vllm => "vllm",
            Backend::Sglang => "sglang",
            Backend::Trtllm => "trtllm",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Targets. Either `e2e_ms`, or `ttft_ms` and/or `itl_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sla {
    /// Time to first token in milliseconds.
    pub ttft_ms: Option<f64>,
    /// Inter-token latency in milliseconds.
    pub itl_ms: Option<f64>,
    /// Whole answer in milliseconds: TTFT + ITL · (OSL − 1).
    pub e2e_ms: Option<f64>,
    /// Which statistic must meet them: a quantile (0.95), or the mean where absent.
    pub quantile: Option<f64>,
}

impl Sla {
    /// `mean`, `p95`, `p99.9`
    pub fn statistic(&self) -> String {
        self.quantile.map_or_else(|| "mean".to_owned(), |q| format!("p{}", (q * 1e5).round() / 1e3))
    }
}

/// Shape of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Workload {
    /// Input sequence length in tokens.
    pub isl: u32,
    /// Output sequence length in tokens.
    pub osl: u32,
}

/// What policies get to see of the question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// The model.
    pub model: Model,
    /// The GPUs.
    pub hardware: Hardware,
    /// The engine.
    pub backend: Backend,
    /// The requests.
    pub workload: Workload,
    /// The targets.
    pub sla: Sla,
    /// The traffic.
    pub demand: Demand,
    /// Longest sequence that the deployment admits, in tokens; at most the model's.
    pub max_context_tokens: u32,
    /// The only source of randomness.
    pub seed: u32,
}
