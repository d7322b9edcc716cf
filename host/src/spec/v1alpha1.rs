//! Dynamo's DGDR `nvidia.com/v1alpha1`, as a file writes it, and its profiler configuration.
//!
//! Dynamo's profiler reads its keys in camelCase and in snake_case; so does this one. Fields marked "No effect here."
//! are Dynamo's; they are accepted and reported.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::profiler::Profiler;
use super::v1beta1::BackendChoice;

/// What to deploy and how to profile it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Spec {
    /// Hugging Face id of the model.
    pub model: Option<String>,
    /// Inference engine.
    pub backend: Option<BackendChoice>,
    /// Deploy the mocker instead of real engines.
    pub use_mocker: Option<bool>,
    /// How to profile.
    pub profiling_config: Option<ProfilingConfig>,
    /// No effect here: say which GPUs in `profilingConfig.config.hardware`.
    pub enable_gpu_discovery: Option<bool>,
    /// Deploy the result (default false).
    pub auto_apply: Option<bool>,
    /// Name, namespace, labels and image of the deployment.
    pub deployment_overrides: Option<DeploymentOverrides>,
}

/// How to profile.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ProfilingConfig {
    /// Settings of the profiler.
    pub config: Option<Config>,
    /// No effect here: the deployment is generated.
    pub config_map_ref: Option<ConfigMapRef>,
    /// Image of Dynamo's profiler; here the image of frontend and planner, unless `config.deployment.dgdImage` is given.
    pub profiler_image: Option<String>,
    /// No effect here.
    #[serde(rename = "outputPVC")]
    pub output_pvc: Option<String>,
    /// No effect here: they are meant for the profiler's own pod.
    pub resources: Option<Map<String, Value>>,
    /// No effect here: they are meant for the profiler's own pod.
    pub tolerations: Option<Vec<Value>>,
}

/// A key of a ConfigMap.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ConfigMapRef {
    /// Name of the ConfigMap.
    pub name: Option<String>,
    /// Key within it.
    pub key: Option<String>,
}

/// Name, namespace, labels and image of the deployment.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct DeploymentOverrides {
    /// Name of the DynamoGraphDeployment.
    pub name: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its annotations.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Image of the workers.
    pub workers_image: Option<String>,
}

/// Settings of Dynamo's `profile_sla`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(transform = both_spellings)]
pub(super) struct Config {
    /// Where the results go.
    pub output_dir: Option<String>,
    /// Model and image.
    pub deployment: Option<Deployment>,
    /// Inference engine.
    pub engine: Option<Engine>,
    /// The GPUs.
    pub hardware: Option<Hardware>,
    /// Dynamo's sweep.
    pub sweep: Option<Sweep>,
    /// Requests and targets.
    pub sla: Option<Sla>,
    /// Settings of Dynamo's planner, passed through.
    pub planner: Option<Map<String, Value>>,
    /// No effect here.
    #[serde(rename = "deployment_ready_timeout_s")]
    pub deployment_ready_timeout_s: Option<f64>,
    /// Settings of this profiler.
    pub profiler: Option<Profiler>,
}

/// Model and image.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(transform = both_spellings)]
pub(super) struct Deployment {
    /// Same as `spec.model`.
    pub model: Option<String>,
    /// Namespace of the deployment.
    pub namespace: Option<String>,
    /// No effect here.
    pub service_name: Option<String>,
    /// Image of the deployment.
    pub dgd_image: Option<String>,
    /// No effect here.
    pub deployment_timeout: Option<f64>,
    /// PVC with the weights.
    pub model_cache: Option<ModelCache>,
}

/// PVC with the weights.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(transform = both_spellings)]
pub(super) struct ModelCache {
    /// Name of the PVC.
    pub pvc_name: Option<String>,
    /// Path of the model within it.
    pub pvc_path: Option<String>,
    /// Where it is mounted (default `/opt/model-cache`).
    pub mount_path: Option<String>,
}

/// Inference engine.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(transform = both_spellings)]
pub(super) struct Engine {
    /// Same as `spec.backend`.
    pub backend: Option<BackendChoice>,
    /// No effect here: the deployment is generated.
    pub config: Option<String>,
    /// Longest sequence that the deployment admits, in tokens; 0 or absent: the model's own limit.
    pub max_context_length: Option<u32>,
    /// No effect here: the model's figures say so.
    pub is_moe_model: Option<bool>,
}

/// The GPUs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(transform = both_spellings)]
pub(super) struct Hardware {
    /// Fewest GPUs of one engine; 0 or absent: what memory needs.
    pub min_num_gpus_per_engine: Option<u32>,
    /// Most GPUs of one engine; 0 or absent: one node, or more for a MoE model that needs it.
    pub max_num_gpus_per_engine: Option<u32>,
    /// GPUs in one node; 0 or absent: what is usual for the kind.
    pub num_gpus_per_node: Option<u32>,
    /// GPU budget over all nodes; absent: one node. Not a field of Dynamo's.
    pub total_gpus: Option<u32>,
    /// Kind of GPU, for example `h200_sxm`; `system` comes first.
    pub gpu_model: Option<String>,
    /// No effect here: the kind of GPU settles it.
    pub gpu_vram_mib: Option<f64>,
    /// Kind of GPU as AIConfigurator calls it, for example `h200_sxm`.
    pub system: Option<String>,
    /// No effect here.
    pub enable_gpu_discovery: Option<bool>,
}

/// Dynamo's sweep. Here a plugin decides what to measure: `profiler.sweep`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(transform = both_spellings)]
pub(super) struct Sweep {
    /// No effect here: a setting of the sweep plugin.
    pub prefill_interpolation_granularity: Option<u32>,
    /// No effect here: a setting of the sweep plugin.
    pub decode_interpolation_granularity: Option<u32>,
    /// No effect here: this profiler measures.
    pub use_ai_configurator: Option<bool>,
    /// Kind of GPU, if `hardware` does not say it.
    pub aic_system: Option<String>,
    /// No effect here.
    pub aic_hf_id: Option<String>,
    /// No effect here.
    pub aic_backend: Option<String>,
    /// No effect here.
    pub aic_backend_version: Option<String>,
    /// No effect here: use `--dry-run`.
    pub dry_run: Option<bool>,
    /// No effect here.
    pub pick_with_webui: Option<bool>,
    /// No effect here.
    pub webui_port: Option<u32>,
}

/// Requests and targets.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Sla {
    /// Input length in tokens (default 3000).
    pub isl: Option<u32>,
    /// Output length in tokens (default 500).
    pub osl: Option<u32>,
    /// Time to first token in milliseconds (default 50).
    pub ttft: Option<f64>,
    /// Inter-token latency in milliseconds (default 10).
    pub itl: Option<f64>,
    /// Quantile that must meet the targets, between 0 and 1; absent: the mean. Not a field of Dynamo's.
    pub quantile: Option<f64>,
}

/// Adds the snake_case spelling of every property to a schema.
fn both_spellings(schema: &mut Schema) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    let other: Vec<(String, Value)> = properties
        .keys()
        .map(|key| (key.clone(), super::reader::snake_case(key)))
        .filter(|(key, snake)| key != snake)
        .map(|(key, snake)| (snake, serde_json::json!({ "description": format!("Same as `{key}`.") })))
        .collect();
    properties.extend(other);
}
