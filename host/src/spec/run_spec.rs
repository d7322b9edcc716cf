//! What a run needs to know, after all sources were merged and checked.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::engines::EnginesSpec;
use crate::domain::{Job, prior_table::PriorTable, search_space::Limits};

/// Everything that a run needs to know, checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSpec {
    /// The question, as policies see it.
    pub job: Job,
    /// Bounds on engine sizes.
    pub limits: Limits,
    /// Range of input lengths for the curves, in tokens.
    pub curve: CurveRange,
    /// What is known of candidates beforehand.
    pub priors: Option<PriorTable>,
    /// Who decides.
    pub plugins: Plugins,
    /// What is deployed.
    pub deployment: DeploymentSpec,
    /// Whether phase 7 runs.
    pub auto_apply: bool,
    /// What the run may cost.
    pub budget: BudgetSpec,
    /// The simulated cluster's make-up.
    pub simulation: SimulationSpec,
    /// How real engines are brought up and measured.
    pub engines: EnginesSpec,
    /// Where the results go, if the DGDR says so (`outputDir`); the command line's `--out` comes first.
    pub output_dir: Option<PathBuf>,
}

/// What a run may cost; nothing is limited unless it is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct BudgetSpec {
    /// GPUs times hours that engines hold, launching included.
    pub max_gpu_hours: Option<f64>,
    /// Seconds from start to end, on the cluster's clock.
    pub max_wall_s: Option<f64>,
    /// Money; only with `gpu_hour_price`.
    pub max_cost: Option<f64>,
    /// Price of one GPU for one hour.
    pub gpu_hour_price: Option<f64>,
}

impl BudgetSpec {
    /// GPUs times seconds that may be used, where that is limited: the lesser of what is given in hours and in money.
    pub fn gpu_seconds(&self) -> Option<f64> {
        let by_cost = self.max_cost.zip(self.gpu_hour_price).map(|(cost, price)| cost / price);
        let hours = self.max_gpu_hours.into_iter().chain(by_cost).reduce(f64::min)?;
        Some(hours * 3600.0)
    }

    /// What so many GPU-hours cost.
    pub fn cost(&self, gpu_hours: f64) -> Option<f64> {
        self.gpu_hour_price.map(|price| price * gpu_hours)
    }
}

/// What a deployment is written from; the journal keeps both, so that others can be written from a recorded run.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The question.
    pub job: &'a Job,
    /// The user's wishes.
    pub deployment: &'a DeploymentSpec,
}

impl<'a> From<&'a RunSpec> for Wanted<'a> {
    fn from(spec: &'a RunSpec) -> Self {
        Self { job: &spec.job, deployment: &spec.deployment }
    }
}

/// Range of input lengths in tokens, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CurveRange {
    /// Shortest.
    pub min_isl: u32,
    /// Longest.
    pub max_isl: u32,
}

/// Who decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plugins {
    /// What to measure.
    pub sweep: PluginChoice,
    /// Who wins.
    pub selection: PluginChoice,
    /// How many.
    pub planner: PluginChoice,
    /// Stop when a plugin fails, instead of falling back to the bundled one of its kind.
    pub strict: bool,
}

/// One plugin with its settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PluginChoice {
    /// Which.
    pub source: PluginSource,
    /// Name and value, as the user gave them.
    pub settings: Vec<(String, String)>,
    /// Limits that differ from the defaults.
    pub limits: PluginLimits,
    /// The only file that will do: SHA-256 in lower-case hex.
    pub sha256: Option<String>,
    /// Folders that it may read, by the name under which it asks for them.
    pub grants: Vec<(String, PathBuf)>,
}

impl PluginChoice {
    /// The plugin with its own settings and all defaults.
    pub fn new(source: PluginSource) -> Self {
        Self { source, settings: Vec::new(), limits: PluginLimits::default(), sha256: None, grants: Vec::new() }
    }
}

/// Limits of one plugin; those not given keep their defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginLimits {
    /// Wasm instructions of one decision.
    pub fuel: Option<NonZeroU64>,
    /// Wall time of one decision, milliseconds.
    pub deadline_ms: Option<NonZeroU32>,
    /// Linear memory, MiB.
    pub memory_mb: Option<NonZeroU32>,
    /// Table elements.
    pub table_elements: Option<NonZeroU32>,
    /// Core instances.
    pub instances: Option<NonZeroU32>,
    /// What one answer may make the host copy, MiB.
    pub returned_mb: Option<NonZeroU32>,
    /// Lines that reach the run's log, per decision.
    pub log_lines: Option<NonZeroU32>,
    /// Calls of `files`, per decision.
    pub file_calls: Option<NonZeroU32>,
    /// What `files` reads, MiB per decision.
    pub read_mb: Option<NonZeroU32>,
    /// CPU time for compiling it, seconds.
    pub compile_cpu_s: Option<NonZeroU32>,
    /// Address space for compiling it, MiB.
    pub compile_memory_mb: Option<NonZeroU32>,
}

/// Where a plugin comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginSource {
    /// By name, among those that come with the program or that the user added.
    Named(String),
    /// A `.wasm` file.
    File(PathBuf),
}

/// Which form of DynamoGraphDeployment to write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, clap::ValueEnum)]
pub enum DgdApi {
    /// `spec.services`
    #[serde(rename = "v1alpha1")]
    #[value(name = "v1alpha1")]
    V1alpha1,
    /// `spec.components`
    #[default]
    #[serde(rename = "v1beta1")]
    #[value(name = "v1beta1")]
    V1beta1,
}

/// What the generated deployment looks like, apart from what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeploymentSpec {
    /// Name of the DGDR, or of the file it came from; the DGD is called `<name>-dgd` unless overridden.
    pub dgdr_name: String,
    /// Name of the DGD.
    pub name: String,
    /// Namespace, if given.
    pub namespace: Option<String>,
    /// Form to write.
    pub api: DgdApi,
    /// Image of frontend and planner as given; worker images are derived from it.
    pub image: Option<String>,
    /// Image of the workers, where it is given apart.
    pub workers_image: Option<String>,
    /// PVC with the weights.
    pub model_cache: Option<ModelCache>,
    /// Add Dynamo's planner component and the profile data.
    pub planner: bool,
    /// Dynamo's planner settings, passed through.
    pub planner_config: serde_json::Map<String, serde_json::Value>,
    /// Route by KV cache.
    pub kv_router: bool,
    /// Deploy the mocker instead of real engines.
    pub mocker: bool,
    /// Add `--trust-remote-code` to the workers.
    pub trust_remote_code: bool,
    /// Copied onto every component.
    pub runtime_version_override: Option<String>,
    /// Labels for the DGD.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Annotations for the DGD.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// A partial DGD that is merged over the generated one.
    pub overrides: Option<serde_json::Value>,
    /// Tolerations for every component, from `overrides.profilingJob`.
    pub tolerations: Vec<serde_json::Value>,
}

/// Hardware that a cluster was found to have; counts where neither file nor flag says anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    /// Kind of GPU, as the catalog calls it.
    pub gpu_sku: String,
    /// GPUs in one node.
    pub gpus_per_node: u32,
    /// All of them.
    pub total_gpus: u32,
    /// Where it was read, for a person.
    pub from: String,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// PVC with the weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ModelCache {
    /// Name of the PVC.
    pub pvc_name: String,
    /// Path of the model within it.
    pub pvc_model_path: String,
    /// Where it is mounted.
    pub mount_path: String,
}

/// How the simulated cluster behaves beyond the roofline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SimulationSpec {
    /// Coefficient of variation of a forward pass's time.
    pub noise_cv: f64,
    /// How far each candidate's true speed may lie from the roofline, as a fraction; drawn from the seed.
    pub model_error: f64,
    /// Probability that a launch fails for good.
    pub fault_rate: f64,
    /// Probability that an engine's first launch fails of something that passes, and the next one works.
    #[serde(default)]
    pub passing_fault_rate: f64,
    /// Weights are loaded at this rate, bytes per second and node.
    pub load_bytes_per_second: f64,
    /// Compilation and graph capture, seconds.
    pub compile_s: f64,
    /// From loaded to the first answer, seconds.
    pub warmup_s: f64,
}
