//! Our own additions to a DGDR: the `profiler` block.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::engines::EnginesSpec;
use super::run_spec::{DgdApi, PluginLimits};
use crate::domain::{GpuSku, Model};

/// Key of the block.
pub(super) const BLOCK: &str = "profiler";

/// Annotation that holds the block as YAML or JSON text, for a DGDR that has to pass Dynamo's CRD.
pub(super) const ANNOTATION: &str = "sla-profiler.dev/profiler";

/// What Dynamo's DGDR has no field for.
///
/// In a v1beta1 object it stands in `spec.profiler`, in a v1alpha1 object in `spec.profilingConfig.config.profiler`;
/// or, in either, as YAML or JSON text in the annotation `sla-profiler.dev/profiler`, which passes Dynamo's CRD.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Profiler {
    /// Decides what to measure.
    pub sweep: Option<Plugin>,
    /// Decides which configurations win.
    pub selection: Option<Plugin>,
    /// Decides how many replicas are needed.
    pub planner: Option<Plugin>,
    /// Stop when a plugin fails, instead of falling back to the bundled one of its kind.
    pub strict_plugins: Option<bool>,
    /// The only source of randomness.
    pub seed: Option<u32>,
    /// Quantile of TTFT and ITL that must meet the targets, between 0 and 1; absent: the mean. Same as `sla.quantile`.
    pub sla_quantile: Option<f64>,
    /// Longest sequence that the deployment admits, in tokens; absent: the model's own limit.
    pub max_context_length: Option<u32>,
    /// Shortest input of the curves, in tokens.
    pub min_isl: Option<u32>,
    /// Longest input of the curves, in tokens.
    pub max_isl: Option<u32>,
    /// Fewest GPUs of one engine; absent: what memory needs.
    pub min_num_gpus_per_engine: Option<u32>,
    /// Most GPUs of one engine; absent: one node, or more for a MoE model that needs it.
    pub max_num_gpus_per_engine: Option<u32>,
    /// Form of the generated DynamoGraphDeployment.
    pub dgd_api: Option<DgdApi>,
    /// What the run may cost.
    pub budget: Option<Budget>,
    /// CSV file (relative to this file) of latencies that are known beforehand, in place of the built-in estimate: columns
    /// `role`, `mapping` and `latency_ms` (TTFT or ITL), and where known `isl_tokens`, `osl_tokens`, `concurrency`,
    /// `relative_error`, `kv_tokens`. A run's `measurements.csv` will do. It orders and prunes, and decides nothing.
    pub priors: Option<PathBuf>,
    /// Make-up of the simulated cluster.
    pub simulation: Option<Simulation>,
    /// How real engines are brought up and measured.
    pub engines: Option<EnginesSpec>,
    /// Figures of a model that the catalog lacks.
    pub model: Option<Model>,
    /// Figures of a GPU that the catalog lacks.
    pub gpu: Option<GpuSku>,
}

/// What the run may cost. It ends with the best answer so far before any of these is exceeded.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Budget {
    /// GPUs times hours that engines hold, launching included.
    pub max_gpu_hours: Option<f64>,
    /// Time from start to end, such as `40m`, `1.5h` or `90s`.
    pub max_wall: Option<String>,
    /// Money; needs `gpuHourPrice`.
    pub max_cost: Option<f64>,
    /// Price of one GPU for one hour, in the currency of `maxCost`.
    pub gpu_hour_price: Option<f64>,
}

/// One plugin with its settings.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Plugin {
    /// Name of a plugin that is bundled or was added, or path of a `.wasm` file (relative to this file).
    pub plugin: Option<String>,
    /// Settings that the plugin knows.
    pub settings: BTreeMap<String, Setting>,
    /// Limits that differ from the defaults.
    pub limits: PluginLimits,
    /// The only file that will do: its SHA-256 in hex. `sla-profiler plugin inspect` shows it.
    pub sha256: Option<Digest>,
    /// Folders that the plugin may read (relative to this file), by the name under which it asks for them.
    pub grants: BTreeMap<String, PathBuf>,
}

/// SHA-256 in hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest(pub String);

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hex = text.strip_prefix("sha256:").unwrap_or(&text);
        if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self(hex.to_ascii_lowercase()));
        }
        Err(serde::de::Error::custom(format!("must be a SHA-256 in hex (64 digits), not {text:?}")))
    }
}

impl JsonSchema for Digest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "SHA-256 in hex.", "type": "string", "pattern": "^(sha256:)?[0-9A-Fa-f]{64}$" })
    }
}

/// Make-up of the simulated cluster.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Simulation {
    /// Coefficient of variation of a forward pass's time, 0 to 1.
    pub noise_cv: Option<f64>,
    /// How far each candidate's true speed may lie from the roofline, as a fraction below 1.
    pub model_error: Option<f64>,
    /// Probability that a launch fails for good, 0 to 1.
    pub fault_rate: Option<f64>,
    /// Probability that an engine's first launch fails of something that passes, and the next one works, 0 to 1.
    pub passing_fault_rate: Option<f64>,
    /// Weights are loaded at this rate, bytes per second and node.
    pub load_bytes_per_second: Option<f64>,
    /// Compilation and graph capture, seconds.
    pub compile_s: Option<f64>,
    /// From loaded to the first answer, seconds.
    pub warmup_s: Option<f64>,
}

/// A setting's value; plugins get it as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting(pub String);

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SettingVisitor)
    }
}

struct SettingVisitor;

impl Visitor<'_> for SettingVisitor {
    type Value = Setting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true or false")
    }

    fn visit_str<E>(self, value: &str) -> Result<Setting, E> {
        Ok(Setting(value.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Setting, E> {
        Ok(Setting(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Setting, E> {
        Ok(Setting(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Setting, E> {
        Ok(Setting(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Setting, E> {
        Ok(Setting(value.to_string()))
    }
}

impl JsonSchema for Setting {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Setting".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "A setting's value; plugins get it as text.", "type": ["string", "number", "boolean"] })
    }
}
