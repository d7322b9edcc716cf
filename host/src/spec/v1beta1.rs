//! Dynamo's DGDR `nvidia.com/v1beta1`, as a file writes it.
//!
//! Fields marked "No effect here." are Dynamo's; they are accepted and reported.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::profiler::Profiler;
use crate::domain::Backend;

/// What to deploy, for which requests, under which targets, on which GPUs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Spec {
    /// Hugging Face id of the model, or a path at which the engines find it.
    pub model: Option<String>,
    /// Inference engine; `auto` (the default) picks vLLM.
    pub backend: Option<BackendChoice>,
    /// Image of frontend and planner; worker images are derived from it.
    pub image: Option<String>,
    /// PVC with the weights.
    pub model_cache: Option<ModelCache>,
    /// The GPUs.
    pub hardware: Option<Hardware>,
    /// The requests.
    pub workload: Option<Workload>,
    /// The targets.
    pub sla: Option<Sla>,
    /// What the deployment has beside its engines.
    pub features: Option<Features>,
    /// Changes to what is generated.
    pub overrides: Option<Overrides>,
    /// Both measure here; Dynamo's `rapid` only simulates.
    pub search_strategy: Option<SearchStrategy>,
    /// Deploy the result (default true).
    pub auto_apply: Option<bool>,
    /// Version of Dynamo's runtime, copied onto every component.
    pub runtime_version_override: Option<String>,
    /// Settings of this profiler.
    pub profiler: Option<Profiler>,
}

/// Inference engine, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// Left to the profiler, which picks vLLM.
    Auto,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM.
    Trtllm,
    /// vLLM.
    Vllm,
}

impl BackendChoice {
    /// The engine; absent for `auto`.
    pub(super) fn backend(self) -> Option<Backend> {
        match self {
            BackendChoice::Auto => None,
            BackendChoice::Sglang => Some(Backend::Sglang),
            BackendChoice::Trtllm => Some(Backend::Trtllm),
            BackendChoice::Vllm => Some(Backend::Vllm),
        }
    }
}

/// PVC with the weights.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ModelCache {
    /// Name of the PVC.
    pub pvc_name: Option<String>,
    /// Path of the model within it.
    pub pvc_model_path: Option<String>,
    /// Where it is mounted (default `/opt/model-cache`).
    pub pvc_mount_path: Option<String>,
}

/// The GPUs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Hardware {
    /// Kind of GPU, for example `h200_sxm`.
    pub gpu_sku: Option<String>,
    /// GPUs in one node; absent: what is usual for the kind.
    pub num_gpus_per_node: Option<u32>,
    /// GPU budget over all nodes; absent: one node.
    pub total_gpus: Option<u32>,
    /// No effect here.
    pub vram_mb: Option<f64>,
    /// No effect here.
    pub interconnect: Option<String>,
    /// No effect here.
    pub rdma: Option<bool>,
}

/// The requests.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Workload {
    /// Input length in tokens (default 4000).
    pub isl: Option<u32>,
    /// Output length in tokens (default 1000).
    pub osl: Option<u32>,
    /// Requests in flight; not together with `requestRate`.
    pub concurrency: Option<f64>,
    /// Requests per second; not together with `concurrency`.
    pub request_rate: Option<f64>,
}

/// The targets: `ttft` and `itl` (default 2000 and 30), or `e2eLatency`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Sla {
    /// Time to first token in milliseconds.
    pub ttft: Option<f64>,
    /// Inter-token latency in milliseconds.
    pub itl: Option<f64>,
    /// Whole answer in milliseconds.
    pub e2e_latency: Option<f64>,
    /// Quantile that must meet the targets, between 0 and 1; absent: the mean. Not a field of Dynamo's CRD: see
    /// `profiler.slaQuantile`.
    pub quantile: Option<f64>,
    /// No effect here, nor in Dynamo.
    pub optimization_type: Option<OptimizationType>,
}

/// Dynamo accepts it and does not use it.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OptimizationType {
    /// Lowest latency.
    Latency,
    /// Highest throughput.
    Throughput,
}

/// What the deployment has beside its engines.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Features {
    /// Adds Dynamo's planner; its settings are passed through.
    pub planner: Option<Map<String, Value>>,
    /// Routing by KV cache.
    pub kv_router: Option<Toggle>,
    /// Mocked engines.
    pub mocker: Option<Toggle>,
}

/// On or off.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Toggle {
    /// On or off (default off).
    pub enabled: Option<bool>,
}

/// Changes to what is generated.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Overrides {
    /// A batch/v1 JobSpec; only `template.spec.tolerations` has an effect here: it is copied onto every component.
    pub profiling_job: Option<Map<String, Value>>,
    /// A partial DynamoGraphDeployment, merged over the generated one.
    pub dgd: Option<Map<String, Value>>,
    /// Adds `--trust-remote-code` to the workers.
    pub trust_remote_code: Option<bool>,
}

/// How Dynamo searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SearchStrategy {
    /// Dynamo: simulate.
    Rapid,
    /// Dynamo: measure.
    Thorough,
}
