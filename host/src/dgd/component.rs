//! A deployment's parts, before they take the shape of an API version.

use std::collections::BTreeMap;

use super::{DgdError, Request, Shape};
use crate::{
    backends::{self, EngineLimits, Mode, Serves, image},
    domain::{Mapping, Role},
    spec::{ModelCache, Wanted},
};

/// Name of the frontend, as in Dynamo's own deployments.
pub(super) const FRONTEND: &str = "Frontend";

/// Name of the planner, likewise.
pub(super) const PLANNER: &str = "Planner";

/// Module of the mocker.
pub(super) const MOCKER_MODULE: &str = "dynamo.mocker";

/// Annotation on a mocker's pods: backend and mapping of the engine that it stands for, as JSON.
pub(super) const STANDS_FOR: &str = "sla-profiler/stands-for";

/// Tokens in a KV block of a mocker, of every engine type.
const MOCKER_BLOCK_TOKENS: u32 = 64;

/// What a component is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Frontend,
    /// An engine; without a role it serves whole requests.
    Worker(Option<Role>),
    Planner,
}

/// Where a volume's files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    ConfigMap,
    Pvc,
}

/// Files in a container. The volume is called like what it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mount {
    pub(super) name: String,
    pub(super) source: Source,
    pub(super) path: String,
}

/// One component, in terms that both API versions know.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Component {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) replicas: u32,
    pub(super) image: String,
    /// After `python3 -m`.
    pub(super) module: &'static str,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(&'static str, String)>,
    /// Whether it may fetch the model from Hugging Face.
    pub(super) fetches_model: bool,
    /// GPUs of one pod; 0: none.
    pub(super) gpus_per_pod: u32,
    /// Pods of one replica.
    pub(super) nodes: u32,
    pub(super) mounts: Vec<Mount>,
    /// Whether the planner sets its replicas.
    pub(super) scaled: bool,
    pub(super) annotations: BTreeMap<&'static str, String>,
}

impl Component {
    fn new(name: &str, kind: Kind, image: String, module: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            replicas: 1,
            image,
            module,
            args: Vec::new(),
            env: Vec::new(),
            fetches_model: true,
            gpus_per_pod: 0,
            nodes: 1,
            mounts: Vec::new(),
            scaled: false,
            annotations: BTreeMap::new(),
        }
    }

    /// The planner itself; its settings come with [`super::planner::add`].
    pub(super) fn planner(image: String) -> Self {
        Self { fetches_model: false, ..Self::new(PLANNER, Kind::Planner, image, "dynamo.planner") }
    }

    pub(super) fn pair(&mut self, flag: &str, value: impl ToString) {
        self.args.extend([flag.to_owned(), value.to_string()]);
    }

    /// Puts weights from a PVC where the engine looks for them.
    fn mount_cache(&mut self, cache: Option<&ModelCache>) {
        let Some(cache) = cache else { return };
        self.mounts.push(Mount { name: cache.pvc_name.clone(), source: Source::Pvc, path: cache.mount_path.clone() });
        if model_path_in(cache).is_none() {
            // No path: the volume is a Hugging Face cache.
            self.env.push(("HF_HOME", cache.mount_path.clone()));
        }
    }
}

/// Path of the model in the container, where the PVC holds it in a folder.
///
/// As in Dynamo, a path that begins with the mount path is one in the container already; any other is relative to the
/// volume, with or without a leading slash.
fn model_path_in(cache: &ModelCache) -> Option<String> {
    let mount = cache.mount_path.trim_end_matches('/');
    let path = cache.pvc_model_path.trim();
    if path.is_empty() {
        return None;
    }
    let absolute = path.trim_end_matches('/');
    if !mount.is_empty() && absolute.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Some(absolute.to_owned());
    }
    Some(format!("{mount}/{}", path.trim_matches('/')))
}

/// Where engines find the weights.
fn model_path(spec: Wanted<'_>) -> String {
    let cached = spec.deployment.model_cache.as_ref().and_then(model_path_in);
    cached.unwrap_or_else(|| spec.job.model.name.clone())
}

/// Image of engines: given apart, else beside the given one, else NVIDIA's.
fn worker_image(spec: Wanted<'_>) -> Result<String, DgdError> {
    let backend = spec.job.backend;
    match (&spec.deployment.workers_image, &spec.deployment.image) {
        (Some(workers), _) => Ok(workers.clone()),
        (None, Some(image)) => Ok(image::worker(image, backend)?),
        (None, None) => Ok(image::default_worker(backend)),
    }
}

/// Image of planner and mockers: beside the given one, else NVIDIA's.
pub(super) fn planner_image(spec: Wanted<'_>) -> Result<String, DgdError> {
    match &spec.deployment.image {
        Some(image) => Ok(image::planner(image)?),
        None => Ok(image::default_planner()),
    }
}

fn frontend(spec: Wanted<'_>, image: String) -> Component {
    let mut frontend = Component::new(FRONTEND, Kind::Frontend, image, "dynamo.frontend");
    let cache = spec.deployment.model_cache.as_ref();
    if let Some(path) = cache.and_then(model_path_in) {
        frontend.pair("--model-name", &spec.job.model.name);
        frontend.pair("--model-path", path);
    }
    if spec.deployment.kv_router {
        // By environment, so that a user's `--router-mode` wins.
        frontend.env.push(("DYN_ROUTER_MODE", "kv".to_owned()));
    }
    frontend.mount_cache(cache);
    frontend
}

/// Frontend, prefill and decode workers.
pub(super) fn disaggregated(request: &Request<'_>, shape: Shape) -> Result<Vec<Component>, DgdError> {
    let spec = request.spec;
    let role = |role: Role| match role {
        Role::Prefill => (request.prefill, request.plan.prefill_replicas),
        Role::Decode => (request.decode, request.plan.decode_replicas),
    };
    let front_image = if shape.mocker {
        planner_image(spec)?
    } else {
        spec.deployment.image.clone().map_or_else(|| worker_image(spec), Ok)?
    };
    let mut components = vec![frontend(spec, front_image)];
    for r in Role::ALL {
        let (mapping, replicas) = role(r);
        let mut worker = if shape.mocker {
            mocker(request, r, mapping)?
        } else {
            let mode = Mode::Disaggregated { role: r, kv_events: spec.deployment.kv_router };
            engine(spec, r.as_str(), Kind::Worker(Some(r)), mapping, mode)?
        };
        worker.replicas = replicas.max(1);
        worker.scaled = shape.planner && super::planner::scales(&spec.deployment.planner_config, r);
        components.push(worker);
    }
    Ok(components)
}

/// Frontend and one worker that answers whole requests.
pub(super) fn alone(spec: Wanted<'_>, mapping: Mapping, serves: Serves) -> Result<Vec<Component>, DgdError> {
    let worker = engine(spec, super::measured::WORKER, Kind::Worker(None), mapping, Mode::Alone { serves })?;
    let image = spec.deployment.image.clone().unwrap_or_else(|| worker.image.clone());
    Ok(vec![frontend(spec, image), worker])
}

fn engine(spec: Wanted<'_>, name: &str, kind: Kind, mapping: Mapping, mode: Mode) -> Result<Component, DgdError> {
    let (job, backend) = (&spec.job, spec.job.backend);
    let mut worker = Component::new(name, kind, worker_image(spec)?, backends::module(backend));
    worker.args = backends::args(
        backend,
        &backends::Worker {
            mapping,
            model_path: &model_path(spec),
            served_name: &job.model.name,
            max_context_tokens: job.max_context_tokens,
            limits: EngineLimits::of(backend, mode.serves(), job.workload.isl),
            trust_remote_code: spec.deployment.trust_remote_code,
            mode,
        },
    )?;
    let (gpus, per_node) = (mapping.gpus(), job.hardware.gpus_per_node.max(1));
    worker.nodes = gpus.div_ceil(per_node).max(1);
    worker.gpus_per_pod = gpus.div_ceil(worker.nodes);
    worker.mount_cache(spec.deployment.model_cache.as_ref());
    Ok(worker)
}

/// A mocker that behaves like the measured engine. It needs no GPU; the profile data arrive with
/// [`super::planner::add_profile`].
fn mocker(request: &Request<'_>, role: Role, mapping: Mapping) -> Result<Component, DgdError> {
    let spec = request.spec;
    let profile = request.profile.ok_or(DgdError::MockerWithoutProfile)?;
    let (job, backend) = (&spec.job, spec.job.backend);
    backends::check(backend, mapping)?;
    let limits = EngineLimits::of(backend, Serves::One(role), job.workload.isl);
    let mut mocker = Component::new(role.as_str(), Kind::Worker(Some(role)), planner_image(spec)?, MOCKER_MODULE);
    mocker.pair("--model-path", model_path(spec));
    mocker.pair("--model-name", &job.model.name);
    mocker.pair("--engine-type", backend);
    mocker.pair("--speedup-ratio", "1.0");
    mocker.pair("--data-parallel-size", mapping.attention_dp);
    mocker.pair("--max-model-len", job.max_context_tokens);
    mocker.pair("--max-num-seqs", limits.max_running);
    mocker.pair("--max-num-batched-tokens", limits.max_batched_tokens);
    mocker.pair("--disaggregation-mode", role);
    if role == Role::Decode {
        let blocks = profile.decode.max_kv_tokens / mapping.attention_dp.max(1) / MOCKER_BLOCK_TOKENS;
        mocker.pair("--block-size", MOCKER_BLOCK_TOKENS);
        mocker.pair("--num-gpu-blocks-override", blocks.max(1));
    }
    let stands_for = serde_json::json!({ "backend": backend, "mapping": mapping });
    mocker.annotations.insert(STANDS_FOR, stands_for.to_string());
    mocker.mount_cache(spec.deployment.model_cache.as_ref());
    Ok(mocker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_paths_are_relative_to_the_volume_unless_they_start_with_the_mount() {
        let at = |path: &str| {
            model_path_in(&ModelCache {
                pvc_name: "weights".to_owned(),
                pvc_model_path: path.to_owned(),
                mount_path: "/opt/model-cache/".to_owned(),
            })
        };
        assert_eq!(at(""), None);
        assert_eq!(at("llama/8b/").as_deref(), Some("/opt/model-cache/llama/8b"));
        assert_eq!(at("/llama").as_deref(), Some("/opt/model-cache/llama"));
        assert_eq!(at("/opt/model-cache/llama").as_deref(), Some("/opt/model-cache/llama"));
        assert_eq!(at("/opt/model-cache-2").as_deref(), Some("/opt/model-cache/opt/model-cache-2"));
    }
}
