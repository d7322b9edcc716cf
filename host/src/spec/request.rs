//! A DGDR of either version as one set of optional values, each with its path and place.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::document::{Entry, Node, Position, Text, Value};
use super::engines::EnginesSpec;
use super::error::{Place, SpecError};
use super::profiler::{ANNOTATION, BLOCK, Plugin, Profiler};
use super::reader::{Spelling, camel_case, join, read, read_json, snake_case};
use super::run_spec::{DgdApi, ModelCache};
use super::v1beta1::{BackendChoice, SearchStrategy};
use super::{v1alpha1, v1beta1};
use crate::domain::{GpuSku, Model};

/// Kind of the object.
pub(super) const KIND: &str = "DynamoGraphDeploymentRequest";
/// Group and version of the older form.
pub(super) const V1ALPHA1: &str = "nvidia.com/v1alpha1";
/// Group and version of the newer form.
pub(super) const V1BETA1: &str = "nvidia.com/v1beta1";

/// A value that a file gives.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    pub value: T,
    pub path: String,
    pub at: Option<Place>,
}

/// Which defaults apply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Version {
    V1alpha1,
    #[default]
    V1beta1,
}

/// All that a DGDR may say.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub version: Version,
    pub name: Option<Given<String>>,
    pub namespace: Option<Given<String>>,
    pub dgd_name: Option<Given<String>>,
    pub model: Option<Given<String>>,
    pub model_figures: Option<Given<Model>>,
    pub model_cache: Option<Given<PartialModelCache>>,
    pub backend: Option<Given<BackendChoice>>,
    pub search_strategy: Option<SearchStrategy>,
    pub image: Option<Given<String>>,
    pub workers_image: Option<Given<String>>,
    pub gpu_sku: Option<Given<String>>,
    pub gpu_figures: Option<Given<GpuSku>>,
    pub gpus_per_node: Option<Given<u32>>,
    pub total_gpus: Option<Given<u32>>,
    pub min_gpus_per_engine: Option<Given<u32>>,
    pub max_gpus_per_engine: Option<Given<u32>>,
    pub isl: Option<Given<u32>>,
    pub osl: Option<Given<u32>>,
    pub concurrency: Option<Given<f64>>,
    pub request_rate: Option<Given<f64>>,
    pub ttft: Option<Given<f64>>,
    pub itl: Option<Given<f64>>,
    pub e2e: Option<Given<f64>>,
    pub quantile: Option<Given<f64>>,
    pub max_context: Option<Given<u32>>,
    pub min_isl: Option<Given<u32>>,
    pub max_isl: Option<Given<u32>>,
    pub sweep: Option<Given<Plugin>>,
    pub selection: Option<Given<Plugin>>,
    pub planner_plugin: Option<Given<Plugin>>,
    pub strict_plugins: Option<Given<bool>>,
    pub seed: Option<Given<u32>>,
    pub dgd_api: Option<Given<DgdApi>>,
    pub priors: Option<Given<PathBuf>>,
    pub budget: BudgetGiven,
    pub simulation: SimulationGiven,
    pub engines: Option<Given<EnginesSpec>>,
    pub auto_apply: Option<Given<bool>>,
    pub planner_config: Option<Given<Map<String, Json>>>,
    pub kv_router: Option<Given<bool>>,
    pub mocker: Option<Given<bool>>,
    pub trust_remote_code: Option<Given<bool>>,
    pub runtime_version_override: Option<Given<String>>,
    pub labels: Option<Given<BTreeMap<String, String>>>,
    pub annotations: Option<Given<BTreeMap<String, String>>>,
    pub dgd_override: Option<Given<Json>>,
    pub tolerations: Option<Given<Vec<Json>>>,
    pub output_dir: Option<Given<String>>,
    pub warnings: Vec<String>,
}

/// What a file says of the run's cost.
#[derive(Debug, Default)]
pub(super) struct BudgetGiven {
    pub max_gpu_hours: Option<Given<f64>>,
    pub max_wall: Option<Given<String>>,
    pub max_cost: Option<Given<f64>>,
    pub gpu_hour_price: Option<Given<f64>>,
}

/// What a file says of the simulated cluster.
#[derive(Debug, Default)]
pub(super) struct SimulationGiven {
    pub noise_cv: Option<Given<f64>>,
    pub model_error: Option<Given<f64>>,
    pub fault_rate: Option<Given<f64>>,
    pub passing_fault_rate: Option<Given<f64>>,
    pub load_bytes_per_second: Option<Given<f64>>,
    pub compile_s: Option<Given<f64>>,
    pub warmup_s: Option<Given<f64>>,
}

/// A PVC of which the name may still be missing.
#[derive(Debug, Clone)]
pub(super) struct PartialModelCache {
    pub pvc_name: Option<String>,
    pub model_path: Option<String>,
    pub mount_path: Option<String>,
}

impl PartialModelCache {
    pub fn complete(self, default_mount: &str) -> Option<ModelCache> {
        Some(ModelCache {
            pvc_name: self.pvc_name.filter(|name| !name.is_empty())?,
            pvc_model_path: self.model_path.unwrap_or_default(),
            mount_path: self.mount_path.unwrap_or_else(|| default_mount.to_owned()),
        })
    }
}

/// Kubernetes' object metadata.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Metadata {
    /// Name of the request; the deployment is called `<name>-dgd`.
    pub name: Option<String>,
    /// Namespace of the deployment.
    pub namespace: Option<String>,
    /// Labels of the request.
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations of the request; `sla-profiler.dev/profiler` may hold the `profiler` block as text.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Set by Kubernetes.
    pub generate_name: Option<String>,
    /// Set by Kubernetes.
    pub uid: Option<String>,
    /// Set by Kubernetes.
    pub resource_version: Option<String>,
    /// Set by Kubernetes.
    pub generation: Option<u64>,
    /// Set by Kubernetes.
    pub creation_timestamp: Option<String>,
    /// Set by Kubernetes.
    pub deletion_timestamp: Option<String>,
    /// Set by Kubernetes.
    pub deletion_grace_period_seconds: Option<u64>,
    /// Set by Kubernetes.
    pub self_link: Option<String>,
    /// Set by Kubernetes.
    pub finalizers: Option<Vec<String>>,
    /// Set by Kubernetes.
    pub owner_references: Option<Vec<Json>>,
    /// Set by Kubernetes.
    pub managed_fields: Option<Vec<Json>>,
}

/// Reads a text that holds one DGDR, whole or as a bare spec.
pub(super) fn parse(text: &Text) -> Result<Request, SpecError> {
    parse_node(text.dgdr()?, text)
}

/// As [`parse`], for an object that an API server has checked: what is unknown here is a newer field, left out with a
/// warning.
pub(super) fn parse_tolerant(text: &Text) -> Result<Request, SpecError> {
    let mut unknown: Vec<Place> = Vec::new();
    let mut warnings = Vec::new();
    loop {
        let mut node = text.dgdr()?;
        unknown.iter().for_each(|place| without(&mut node, place));
        match parse_node(node, text) {
            Ok(mut request) => {
                request.warnings.append(&mut warnings);
                return Ok(request);
            }
            Err(error) => match error.unknown_field() {
                // The same one again: it stands where nothing can be left out.
                Some(place) if !unknown.contains(place) => {
                    warnings.push(format!(
                        "{}:{}: {error}: left out, it is newer than this program",
                        place.source, place.line
                    ));
                    unknown.push(place.clone());
                }
                _ => return Err(error),
            },
        }
    }
}

/// Takes the entry away whose key stands there.
fn without(node: &mut Node, place: &Place) {
    match &mut node.value {
        Value::Map(entries) => {
            entries.retain(|entry| (entry.key_at.line, entry.key_at.column) != (place.line, place.column));
            entries.iter_mut().for_each(|entry| without(&mut entry.node, place));
        }
        Value::List(items) => items.iter_mut().for_each(|item| without(item, place)),
        _ => {}
    }
}

fn parse_node(mut node: Node, text: &Text) -> Result<Request, SpecError> {
    if !matches!(node.value, Value::Map(_)) {
        return Err(SpecError::config(format!("a {KIND} must be a map, not {}", node.describe()))
            .at(text.place(node.at))
            .with_hint("`sla-profiler config schema` prints its fields"));
    }
    if node.get("apiVersion").is_some() || node.get("kind").is_some() || node.get("metadata").is_some() {
        whole_object(&mut node, text)
    } else {
        bare_spec(node, text)
    }
}

fn whole_object(object: &mut Node, text: &Text) -> Result<Request, SpecError> {
    if let Value::Map(entries) = &object.value {
        const KNOWN: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
        if let Some(entry) = entries.iter().find(|entry| !KNOWN.contains(&entry.key.as_str())) {
            let hint = match super::error::nearest(&entry.key, KNOWN) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}; a job's settings stand in `spec`", KNOWN.join(", ")),
            };
            return Err(SpecError::config(format!("unknown field `{}`", entry.key))
                .at(text.place(entry.key_at))
                .with_hint(hint));
        }
    }
    let version = version(object, text)?;
    let (name, namespace) = metadata(object, version, text)?;
    let Some(spec) = object.get("spec").filter(|spec| !spec.is_null()) else {
        return Err(SpecError::config("`spec` is missing").at(text.place(object.at)));
    };
    let view = View { text, root: spec, prefix: "spec" };
    let mut request = match version {
        Version::V1beta1 => from_v1beta1(read(spec, "spec", Spelling::Exact, text)?, &view),
        Version::V1alpha1 => from_v1alpha1(read(spec, "spec", Spelling::Both, text)?, &view),
    }?;
    request.name = name;
    request.namespace = request.namespace.or(namespace);
    Ok(request)
}

/// The spec alone, as Dynamo's operator passes it to the profiler: of v1beta1, or of v1alpha1, or the configuration of
/// v1alpha1's `profile_sla`.
fn bare_spec(node: Node, text: &Text) -> Result<Request, SpecError> {
    const ONLY_IN_SPEC: [&str; 5] =
        ["profilingConfig", "profiling_config", "useMocker", "deploymentOverrides", "enableGpuDiscovery"];
    const ONLY_IN_CONFIG: [&str; 7] =
        ["deployment", "engine", "sweep", "planner", "outputDir", "output_dir", "deployment_ready_timeout_s"];
    let has = |keys: &[&str]| keys.iter().any(|key| node.get(key).is_some());
    if has(&ONLY_IN_SPEC) {
        let view = View { text, root: &node, prefix: "" };
        return from_v1alpha1(read(&node, "", Spelling::Both, text)?, &view);
    }
    if has(&ONLY_IN_CONFIG) {
        let config: v1alpha1::Config = read(&node, "", Spelling::Both, text)?;
        let mut request = Request { version: Version::V1alpha1, ..Request::default() };
        from_config(config, &View { text, root: &node, prefix: "" }, &mut request)?;
        return Ok(request);
    }
    let view = View { text, root: &node, prefix: "" };
    from_v1beta1(read(&node, "", Spelling::Exact, text)?, &view)
}

fn version(object: &Node, text: &Text) -> Result<Version, SpecError> {
    let field = |key: &str| -> Result<(&Node, &str), SpecError> {
        let node = object
            .get(key)
            .ok_or_else(|| SpecError::config(format!("`{key}` is missing")).at(text.place(object.at)))?;
        let value = node.text().ok_or_else(|| {
            SpecError::config(format!("`{key}` must be text, not {}", node.describe())).at(text.place(node.at))
        })?;
        Ok((node, value))
    };
    let (kind_node, kind) = field("kind")?;
    if kind != KIND {
        return Err(SpecError::config(format!("`kind` must be {KIND}, not {kind}")).at(text.place(kind_node.at)));
    }
    let (node, value) = field("apiVersion")?;
    match value {
        V1ALPHA1 => Ok(Version::V1alpha1),
        V1BETA1 => Ok(Version::V1beta1),
        other => Err(SpecError::config(format!("`apiVersion` must be {V1ALPHA1} or {V1BETA1}, not {other}"))
            .at(text.place(node.at))),
    }
}

type Names = (Option<Given<String>>, Option<Given<String>>);

/// Name and namespace; moves the annotation with the `profiler` block to where the block belongs.
fn metadata(object: &mut Node, version: Version, text: &Text) -> Result<Names, SpecError> {
    let Some(node) = object.get("metadata").filter(|node| !node.is_null()) else { return Ok((None, None)) };
    let metadata: Metadata = read(node, "metadata", Spelling::Exact, text)?;
    let view = View { text, root: node, prefix: "metadata" };
    let names = (view.given("name", metadata.name), view.given("namespace", metadata.namespace));
    let annotation = node.get("annotations").and_then(|a| a.get(ANNOTATION)).cloned();
    if let (Some(annotation), Some(content)) = (&annotation, annotation.as_ref().and_then(Node::text)) {
        let inner = Text { name: format!("the annotation {ANNOTATION}"), text: content.to_owned() };
        let mut block = inner.single().map_err(|error| {
            let at = error.place().map_or(annotation.at, |place| {
                let at = Position { line: place.line, column: place.column, width: place.width };
                text.within(annotation.at, &inner, at)
            });
            SpecError::config(error.to_string()).at(text.place(at))
        })?;
        block.relocate(&|at| text.within(annotation.at, &inner, at));
        let path: &[&str] = match version {
            Version::V1beta1 => &["spec"],
            Version::V1alpha1 => &["spec", "profilingConfig", "config"],
        };
        graft(object, path, block).map_err(|()| {
            SpecError::config(format!("`{BLOCK}` is given twice: in the spec and in the annotation {ANNOTATION}"))
                .at(text.place(annotation.at))
                .with_hint("keep one of them")
        })?;
    }
    Ok(names)
}

/// Puts `block` under `path`, which is made where it does not exist; fails if there is one already.
fn graft(mut node: &mut Node, path: &[&str], block: Node) -> Result<(), ()> {
    let at = block.at;
    for key in path {
        if node.get(key).is_none_or(Node::is_null)
            && let Value::Map(entries) = &mut node.value
        {
            entries.retain(|entry| entry.key != *key);
            let empty = Node { value: Value::Map(Vec::new()), at };
            entries.push(Entry { key: (*key).to_owned(), key_at: at, node: empty });
        }
        match node.get_mut(key) {
            Some(child) => node = child,
            // Not a map: reading it will say so.
            None => return Ok(()),
        }
    }
    if node.get(BLOCK).is_some() {
        return Err(());
    }
    if let Value::Map(entries) = &mut node.value {
        entries.push(Entry { key: BLOCK.to_owned(), key_at: at, node: block });
    }
    Ok(())
}

/// Finds where a value stands.
struct View<'a> {
    text: &'a Text,
    root: &'a Node,
    prefix: &'a str,
}

impl View<'_> {
    fn path(&self, path: &str) -> String {
        path.split('.').fold(self.prefix.to_owned(), |so_far, key| join(&so_far, key))
    }

    fn node(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(self.root, |node, key| {
            node.get(key).or_else(|| node.get(&snake_case(key))).or_else(|| node.get(&camel_case(key)))
        })
    }

    fn given<T>(&self, path: &str, value: Option<T>) -> Option<Given<T>> {
        let value = value?;
        let at = self.node(path).and_then(|node| self.text.place(node.at));
        Some(Given { value, path: self.path(path), at })
    }

    /// Warnings for those of `paths` that the file has.
    fn without_effect(&self, paths: &[(&str, &str)], warnings: &mut Vec<String>) {
        for (path, why) in paths {
            if let Some(node) = self.node(path).filter(|node| !node.is_null()) {
                let place = self.text.place(node.at).map(|p| format!("{}:{}: ", p.source, p.line)).unwrap_or_default();
                warnings.push(format!("{place}`{}` has no effect here: {why}", self.path(path)));
            }
        }
    }

    fn once<T: PartialEq>(&self, a: Option<Given<T>>, b: Option<Given<T>>) -> Result<Option<Given<T>>, SpecError> {
        match (a, b) {
            (Some(a), Some(b)) if a.value != b.value => {
                Err(SpecError::config(format!("`{}` and `{}` say different things", a.path, b.path))
                    .at(b.at)
                    .with_hint("they mean the same; keep one of them"))
            }
            (a, b) => Ok(a.or(b)),
        }
    }
}

fn from_v1beta1(spec: v1beta1::Spec, view: &View<'_>) -> Result<Request, SpecError> {
    let mut request = Request { version: Version::V1beta1, ..Request::default() };
    view.without_effect(
        &[
            ("hardware.vramMb", "the kind of GPU settles it"),
            ("hardware.interconnect", "the kind of GPU settles it"),
            ("hardware.rdma", "the network is part of the GPU's figures"),
            ("sla.optimizationType", "the selection plugin decides; Dynamo does not use it either"),
        ],
        &mut request.warnings,
    );
    if spec.search_strategy == Some(SearchStrategy::Rapid) {
        view.without_effect(
            &[("searchStrategy", "rapid and thorough both measure; on the simulated cluster both take seconds")],
            &mut request.warnings,
        );
    }
    request.search_strategy = spec.search_strategy;
    request.model = view.given("model", spec.model);
    request.backend = view.given("backend", spec.backend);
    request.image = view.given("image", spec.image);
    request.model_cache = view.given(
        "modelCache",
        spec.model_cache.map(|cache| PartialModelCache {
            pvc_name: cache.pvc_name,
            model_path: cache.pvc_model_path,
            mount_path: cache.pvc_mount_path,
        }),
    );
    let hardware = spec.hardware.unwrap_or_default();
    request.gpu_sku = view.given("hardware.gpuSku", hardware.gpu_sku);
    request.gpus_per_node = view.given("hardware.numGpusPerNode", hardware.num_gpus_per_node);
    request.total_gpus = view.given("hardware.totalGpus", hardware.total_gpus);
    let workload = spec.workload.unwrap_or_default();
    request.isl = view.given("workload.isl", workload.isl);
    request.osl = view.given("workload.osl", workload.osl);
    request.concurrency = view.given("workload.concurrency", workload.concurrency);
    request.request_rate = view.given("workload.requestRate", workload.request_rate);
    let sla = spec.sla.unwrap_or_default();
    request.ttft = view.given("sla.ttft", sla.ttft);
    request.itl = view.given("sla.itl", sla.itl);
    request.e2e = view.given("sla.e2eLatency", sla.e2e_latency);
    request.quantile = view.given("sla.quantile", sla.quantile);
    if let (Some(one), None) | (None, Some(one)) = (&request.ttft, &request.itl)
        && request.e2e.is_none()
    {
        request.warnings.push(format!("`{}` is given alone: the other target is the default", one.path));
    }
    let features = spec.features.unwrap_or_default();
    request.planner_config = view.given("features.planner", features.planner);
    request.kv_router = view.given("features.kvRouter.enabled", features.kv_router.and_then(|toggle| toggle.enabled));
    request.mocker = view.given("features.mocker.enabled", features.mocker.and_then(|toggle| toggle.enabled));
    let overrides = spec.overrides.unwrap_or_default();
    request.trust_remote_code = view.given("overrides.trustRemoteCode", overrides.trust_remote_code);
    request.tolerations = tolerations(view, overrides.profiling_job.is_some(), &mut request.warnings)?;
    request.dgd_override = view.given("overrides.dgd", overrides.dgd.map(Json::Object));
    request.dgd_name = view.given("overrides.dgd.metadata.name", dgd_metadata(request.dgd_override.as_ref(), "name"));
    request.namespace =
        view.given("overrides.dgd.metadata.namespace", dgd_metadata(request.dgd_override.as_ref(), "namespace"));
    request.auto_apply = view.given("autoApply", spec.auto_apply);
    request.runtime_version_override = view.given("runtimeVersionOverride", spec.runtime_version_override);
    ours(spec.profiler, view, &mut request)?;
    Ok(request)
}

fn dgd_metadata(dgd: Option<&Given<Json>>, key: &str) -> Option<String> {
    dgd?.value.get("metadata")?.get(key)?.as_str().map(str::to_owned)
}

/// The one part of `overrides.profilingJob` that reaches the deployment.
fn tolerations(
    view: &View<'_>,
    given: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<Given<Vec<Json>>>, SpecError> {
    const PATH: &str = "overrides.profilingJob.template.spec.tolerations";
    if !given {
        return Ok(None);
    }
    let Some(node) = view.node(PATH) else {
        view.without_effect(&[("overrides.profilingJob", "only its tolerations matter, and it has none")], warnings);
        return Ok(None);
    };
    match read_json(node, &view.path(PATH), view.text)? {
        Json::Array(items) => Ok(view.given(PATH, Some(items))),
        _ => Err(SpecError::config(format!("`{}` must be a list, not {}", view.path(PATH), node.describe()))
            .at(view.text.place(node.at))),
    }
}

fn from_v1alpha1(spec: v1alpha1::Spec, view: &View<'_>) -> Result<Request, SpecError> {
    let mut request = Request { version: Version::V1alpha1, ..Request::default() };
    view.without_effect(
        &[
            ("enableGpuDiscovery", "say which GPUs in `hardware`"),
            ("profilingConfig.configMapRef", "the deployment is generated"),
            ("profilingConfig.outputPVC", "results go to the run directory"),
            ("profilingConfig.resources", "they are meant for the profiler's own pod"),
            ("profilingConfig.tolerations", "they are meant for the profiler's own pod"),
        ],
        &mut request.warnings,
    );
    let profiling = spec.profiling_config.unwrap_or_default();
    if let Some(config) = profiling.config
        && let Some(node) = view.node("profilingConfig.config")
    {
        let prefix = view.path("profilingConfig.config");
        from_config(config, &View { text: view.text, root: node, prefix: &prefix }, &mut request)?;
    }
    request.model = view.once(view.given("model", spec.model), request.model)?;
    request.backend = view.once(view.given("backend", spec.backend), request.backend)?;
    request.image = request.image.or(view.given("profilingConfig.profilerImage", profiling.profiler_image));
    request.mocker = view.given("useMocker", spec.use_mocker);
    request.auto_apply = view.given("autoApply", spec.auto_apply);
    let overrides = spec.deployment_overrides.unwrap_or_default();
    request.dgd_name = view.given("deploymentOverrides.name", overrides.name);
    request.namespace = view.given("deploymentOverrides.namespace", overrides.namespace).or(request.namespace);
    request.labels = view.given("deploymentOverrides.labels", overrides.labels);
    request.annotations = view.given("deploymentOverrides.annotations", overrides.annotations);
    request.workers_image = view.given("deploymentOverrides.workersImage", overrides.workers_image);
    Ok(request)
}

fn from_config(config: v1alpha1::Config, view: &View<'_>, request: &mut Request) -> Result<(), SpecError> {
    view.without_effect(
        &[
            ("deployment_ready_timeout_s", "the simulated cluster does not wait"),
            ("deployment.deploymentTimeout", "the simulated cluster does not wait"),
            ("deployment.serviceName", "the simulated cluster has no services"),
            ("engine.config", "the deployment is generated"),
            ("engine.isMoeModel", "the model's figures say so"),
            ("hardware.gpuVramMib", "the kind of GPU settles it"),
            ("hardware.enableGpuDiscovery", "say which GPUs in `hardware.system`"),
            ("sweep.prefillInterpolationGranularity", "the sweep plugin has settings of its own"),
            ("sweep.decodeInterpolationGranularity", "the sweep plugin has settings of its own"),
            ("sweep.useAiConfigurator", "this profiler measures"),
            ("sweep.aicHfId", "this profiler measures"),
            ("sweep.aicBackend", "this profiler measures"),
            ("sweep.aicBackendVersion", "this profiler measures"),
            ("sweep.dryRun", "use `--dry-run`"),
            ("sweep.pickWithWebui", "the report shows all candidates"),
            ("sweep.webuiPort", "the report shows all candidates"),
        ],
        &mut request.warnings,
    );
    let deployment = config.deployment.unwrap_or_default();
    request.model = view.given("deployment.model", deployment.model);
    request.namespace = view.given("deployment.namespace", deployment.namespace);
    request.image = view.given("deployment.dgdImage", deployment.dgd_image.filter(|image| !image.is_empty()));
    request.model_cache = view.given(
        "deployment.modelCache",
        deployment.model_cache.map(|cache| PartialModelCache {
            pvc_name: cache.pvc_name,
            model_path: cache.pvc_path,
            mount_path: cache.mount_path,
        }),
    );
    // Zero means "find out" in this version.
    let set = |value: Option<u32>| value.filter(|n| *n != 0);
    let engine = config.engine.unwrap_or_default();
    request.backend = view.given("engine.backend", engine.backend);
    request.max_context = view.given("engine.maxContextLength", set(engine.max_context_length));
    let hardware = config.hardware.unwrap_or_default();
    request.min_gpus_per_engine = view.given("hardware.minNumGpusPerEngine", set(hardware.min_num_gpus_per_engine));
    request.max_gpus_per_engine = view.given("hardware.maxNumGpusPerEngine", set(hardware.max_num_gpus_per_engine));
    request.gpus_per_node = view.given("hardware.numGpusPerNode", set(hardware.num_gpus_per_node));
    request.total_gpus = view.given("hardware.totalGpus", hardware.total_gpus);
    let text = |value: Option<String>| value.filter(|text| !text.is_empty());
    request.gpu_sku = view
        .given("hardware.system", text(hardware.system))
        .or(view.given("hardware.gpuModel", text(hardware.gpu_model)))
        .or(view.given("sweep.aicSystem", text(config.sweep.and_then(|sweep| sweep.aic_system))));
    let sla = config.sla.unwrap_or_default();
    request.isl = view.given("sla.isl", sla.isl);
    request.osl = view.given("sla.osl", sla.osl);
    request.ttft = view.given("sla.ttft", sla.ttft);
    request.itl = view.given("sla.itl", sla.itl);
    request.quantile = view.given("sla.quantile", sla.quantile);
    request.planner_config = view.given("planner", config.planner);
    request.output_dir = view.given("outputDir", config.output_dir);
    ours(config.profiler, view, request)
}

fn ours(profiler: Option<Profiler>, view: &View<'_>, request: &mut Request) -> Result<(), SpecError> {
    let profiler = profiler.unwrap_or_default();
    let path = |key: &str| format!("{BLOCK}.{key}");
    request.sweep = view.given(&path("sweep"), profiler.sweep);
    request.selection = view.given(&path("selection"), profiler.selection);
    request.planner_plugin = view.given(&path("planner"), profiler.planner);
    request.strict_plugins = view.given(&path("strictPlugins"), profiler.strict_plugins);
    request.seed = view.given(&path("seed"), profiler.seed);
    request.dgd_api = view.given(&path("dgdApi"), profiler.dgd_api);
    request.priors = view.given(&path("priors"), profiler.priors);
    let budget = profiler.budget.unwrap_or_default();
    request.budget = BudgetGiven {
        max_gpu_hours: view.given(&path("budget.maxGpuHours"), budget.max_gpu_hours),
        max_wall: view.given(&path("budget.maxWall"), budget.max_wall),
        max_cost: view.given(&path("budget.maxCost"), budget.max_cost),
        gpu_hour_price: view.given(&path("budget.gpuHourPrice"), budget.gpu_hour_price),
    };
    let simulation = profiler.simulation.unwrap_or_default();
    let part = |key: &str, value: Option<f64>| view.given(&path(&format!("simulation.{key}")), value);
    request.simulation = SimulationGiven {
        noise_cv: part("noiseCv", simulation.noise_cv),
        model_error: part("modelError", simulation.model_error),
        fault_rate: part("faultRate", simulation.fault_rate),
        passing_fault_rate: part("passingFaultRate", simulation.passing_fault_rate),
        load_bytes_per_second: part("loadBytesPerSecond", simulation.load_bytes_per_second),
        compile_s: part("compileS", simulation.compile_s),
        warmup_s: part("warmupS", simulation.warmup_s),
    };
    request.engines = view.given(&path("engines"), profiler.engines);
    request.model_figures = view.given(&path("model"), profiler.model);
    request.gpu_figures = view.given(&path("gpu"), profiler.gpu);
    request.min_isl = view.given(&path("minIsl"), profiler.min_isl);
    request.max_isl = view.given(&path("maxIsl"), profiler.max_isl);
    request.max_context =
        view.once(request.max_context.take(), view.given(&path("maxContextLength"), profiler.max_context_length))?;
    request.min_gpus_per_engine = view.once(
        request.min_gpus_per_engine.take(),
        view.given(&path("minNumGpusPerEngine"), profiler.min_num_gpus_per_engine),
    )?;
    request.max_gpus_per_engine = view.once(
        request.max_gpus_per_engine.take(),
        view.given(&path("maxNumGpusPerEngine"), profiler.max_num_gpus_per_engine),
    )?;
    request.quantile = view.once(request.quantile.take(), view.given(&path("slaQuantile"), profiler.sla_quantile))?;
    Ok(())
}
