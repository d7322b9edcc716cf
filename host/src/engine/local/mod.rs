//! Engines as processes of this machine, started from templates.
//!
//! ```text
//! template.rs --command lines--> process.rs --spawn--> a supervisor (crate::process) --> vllm, dynamo.mocker, …
//! ports.rs    --free ports---'       '--Liveness--> served: readiness, facts, measuring
//! ```
//!
//! A machine is one node: GPUs are numbers in `CUDA_VISIBLE_DEVICES`. It runs no DynamoGraphDeployment, so that phase 7
//! is skipped, with the reason.

mod ports;
mod process;
mod template;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use self::ports::{Leased, Ports};
use self::process::Group;
use self::template::{Values, port_names};
use super::served::{Bench, Served, Site};
use super::{ApplyError, ApplyRequest, Cluster, Deployment, Engine, Launch};
use crate::backends::{self, EngineLimits, Mode, Serves, Worker};
use crate::domain::memory::{DEFAULT_BATCHED_TOKENS, MemoryPlan};
use crate::domain::{Aim, Backend, Candidate, EngineFacts, Failure, FailureClass, Job, Measurement, Probe, Role};
use crate::load::Endpoint;
use crate::process::log;
use crate::process::owner::Owner;
use crate::process::supervise::Supervised;
use crate::run::RunDir;
use crate::spec::{EngineTemplate, LocalSpec};

/// Between asking a process to end and ending it, if nothing else is said: vLLM frees its GPUs in 2 to 5 seconds.
const GRACE: Duration = Duration::from_secs(10);

/// An engine's output may be so late in its log.
const LOG_LAGS: Duration = Duration::from_secs(2);

/// Tokens of a block, for engines whose cache is given in blocks.
const BLOCK_TOKENS: f64 = 16.0;

/// Why phase 7 does not happen here.
pub const CANNOT_APPLY: &str = "a DynamoGraphDeployment needs Kubernetes, and this cluster is one machine; kubectl \
                                apply final_config.yaml where it is to run";

/// This machine.
pub struct LocalCluster {
    bench: Bench,
    spec: LocalSpec,
    /// Model, key, tokenizer; the URL is each engine's own.
    endpoint: Endpoint,
    gpus: u32,
    devices: Arc<Mutex<Vec<String>>>,
    ports: Ports,
    /// Stands in for this machine's engines in forecasts.
    estimate: Arc<dyn Cluster>,
    /// Whether an engine is measured as both candidates of its mapping.
    shares: bool,
    dir: RunDir,
    owner: Option<Arc<Owner>>,
}

/// The GPUs of a machine, as `CUDA_VISIBLE_DEVICES` names them: those that the user lists; else those that the profiler
/// itself was given, or the first ones of a node.
pub fn devices(job: &Job, spec: &LocalSpec, visible: Option<&str>) -> Vec<String> {
    let node = job.hardware.gpus_per_node;
    let all = match (&spec.devices, visible) {
        (Some(listed), _) => listed.iter().map(u32::to_string).collect(),
        (None, Some(visible)) => {
            visible.split(',').map(str::trim).filter(|device| !device.is_empty()).map(str::to_owned).collect()
        }
        (None, None) => (0..node).map(|device| device.to_string()).collect::<Vec<_>>(),
    };
    all.into_iter().take(job.hardware.total_gpus.min(node) as usize).collect()
}

/// GPUs of an engine, given back on drop.
struct Lease {
    devices: Vec<String>,
    free: Arc<Mutex<Vec<String>>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.append(&mut self.devices);
        free.sort();
    }
}

impl LocalCluster {
    /// This machine with the given GPUs. `endpoint` is what all engines have in common; `estimate` says how long things
    /// may take; logs go to `dir`; `owner` is what leads whoever comes next to processes that are left.
    pub fn new(
        bench: Bench,
        spec: LocalSpec,
        endpoint: Endpoint,
        devices: Vec<String>,
        estimate: Arc<dyn Cluster>,
        dir: RunDir,
        owner: Option<Arc<Owner>>,
    ) -> Self {
        let gpus = u32::try_from(devices.len()).unwrap_or(u32::MAX);
        let devices = Arc::new(Mutex::new(devices));
        let (ports, shares) = (Ports::default(), false);
        Self { bench, spec, endpoint, gpus, devices, ports, estimate, shares, dir, owner }
    }

    /// The same, whose engines are measured as both candidates of their mapping.
    #[must_use]
    pub const fn sharing(mut self, shares: bool) -> Self {
        self.shares = shares;
        self
    }

    const fn serves(&self, role: Role) -> Serves {
        if self.shares { Serves::Both } else { Serves::One(role) }
    }

    fn lease(&self, gpus: u32) -> Result<Lease, String> {
        let mut free = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if (free.len() as u64) < u64::from(gpus) {
            return Err(format!("needs {gpus} GPUs, {} of {} are free", free.len(), self.gpus));
        }
        let devices = free.drain(..gpus as usize).collect();
        Ok(Lease { devices, free: Arc::clone(&self.devices) })
    }

    fn template(&self, role: Role) -> Result<&EngineTemplate, String> {
        let own = match role {
            Role::Prefill => &self.spec.prefill,
            Role::Decode => &self.spec.decode,
        };
        own.as_ref()
            .or(self.spec.any.as_ref())
            .ok_or_else(|| format!("there is no template for {role} engines; give `any` or `{role}` in --local"))
    }

    /// Starts the engine's processes. What goes wrong from here on is theirs to say.
    fn start(&self, candidate: &Candidate, lease: &Lease) -> Result<(Group, Site, Leased), String> {
        let template = self.template(candidate.role)?;
        let leased = self.ports.lease(&port_names(template, &self.spec.values), &template.ports)?;
        let folder = self.folder(candidate)?;
        let values = self.values(candidate, lease, &leased, &folder)?;
        let plan = values.fill(template)?;
        if plan.processes.is_empty() {
            return Err("its template starts nothing".to_owned());
        }
        ports::check_own(&plan.url, &leased)?;
        let grace = self.spec.grace_s.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or(GRACE);
        let mut group = Group::new(grace);
        for process in plan.processes {
            let devices = if process.gpus { lease.devices.join(",") } else { String::new() };
            let mut env = BTreeMap::from([("CUDA_VISIBLE_DEVICES".to_owned(), devices)]);
            env.extend(process.env);
            let supervised = Supervised {
                command: process.command,
                env,
                working_dir: process.working_dir.map(PathBuf::from),
                log: folder.join(format!("{}.log", process.name)),
                log_bytes: self.spec.log_mb.map_or(log::LOG_BYTES, |mb| u64::from(mb) << 20),
                grace,
            };
            if let Some(owner) = &self.owner {
                let what = format!("{}: {}", candidate.name(), process.name);
                owner.starts(&what).map_err(|error| format!("cannot note whose it is: {error}"))?;
            }
            group.start(&process.name, &supervised, self.owner.as_deref())?;
        }
        let endpoint = Endpoint { url: plan.url, ..self.endpoint.clone() };
        Ok((group, Site { endpoint, metrics_urls: plan.metrics }, leased))
    }

    /// A new folder for this launch, next to those of earlier ones.
    fn folder(&self, candidate: &Candidate) -> Result<PathBuf, String> {
        let base = PathBuf::from(candidate.dir_name());
        let path = self.dir.folder(&base).map_err(|error| error.to_string())?;
        // Only a thousand launches of one candidate would get here in vain.
        for number in 1..1000 {
            let name = format!("launch-{number}");
            if path.join(&name).symlink_metadata().is_err() {
                return self.dir.folder(&base.join(name)).map_err(|error| error.to_string());
            }
        }
        Err(format!("{} is full of launches", path.display()))
    }

    /// The log, once it says how large the engine is. What an engine writes goes through its supervisor, so that it may
    /// answer before its log is there.
    async fn settled_log(&self, group: &Group, ranks: u32) -> Result<String, String> {
        let backend = self.bench.job.backend;
        let until = Instant::now() + LOG_LAGS;
        loop {
            let log = group.logs();
            let is_complete = backends::kv_capacity_from_log(backend, &log, ranks).is_some()
                && backends::max_running_from_log(backend, &log).is_some();
            if is_complete || Instant::now() >= until {
                return Ok(log);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn values(&self, candidate: &Candidate, lease: &Lease, ports: &Leased, folder: &Path) -> Result<Values, String> {
        let Job { model, hardware, backend, workload, max_context_tokens, .. } = &*self.bench.job;
        let mapping = candidate.mapping;
        let serves = self.serves(candidate.role);
        let limits = EngineLimits::of(*backend, serves, workload.isl);
        let model_path = self.spec.model_path.clone().unwrap_or_else(|| model.name.clone());
        let worker = Worker {
            mapping,
            model_path: &model_path,
            served_name: &self.endpoint.model,
            max_context_tokens: *max_context_tokens,
            limits,
            trust_remote_code: false,
            mode: Mode::Alone { serves },
        };
        let flags = backends::args(*backend, &worker).map_err(|error| error.to_string())?;
        let rank_tokens = MemoryPlan::new(model, &mapping, &hardware.gpu, DEFAULT_BATCHED_TOKENS).kv_tokens_per_rank();
        let caching = if serves.decode() { "--enable-prefix-caching" } else { "--no-enable-prefix-caching" };
        let texts: [(&str, String); 23] = [
            ("role", candidate.role.to_string()),
            ("label", mapping.label()),
            ("gpus", candidate.gpus().to_string()),
            ("devices", lease.devices.join(",")),
            ("tp", mapping.tp.to_string()),
            ("pp", mapping.pp.to_string()),
            ("dp", mapping.attention_dp.to_string()),
            ("moe_tp", mapping.moe_tp.to_string()),
            ("moe_ep", mapping.moe_ep.to_string()),
            ("backend", backend.to_string()),
            ("model", model.name.clone()),
            ("model_path", model_path.clone()),
            ("served_name", self.endpoint.model.clone()),
            ("isl", workload.isl.to_string()),
            ("osl", workload.osl.to_string()),
            ("max_context", max_context_tokens.to_string()),
            ("max_running", limits.max_running.to_string()),
            ("max_batched_tokens", limits.max_batched_tokens.to_string()),
            ("prefix_caching_flag", caching.to_owned()),
            ("kv_tokens", rank_tokens.to_string()),
            ("kv_blocks", (rank_tokens / BLOCK_TOKENS).floor().to_string()),
            ("dir", folder.display().to_string()),
            ("seed", self.bench.job.seed.to_string()),
        ];
        let ports = ports.by_name.iter().map(|(name, port)| (format!("port.{name}"), port.to_string()));
        Ok(Values {
            texts: texts.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(ports).collect(),
            flags: without_model(*backend, flags),
            own: self.spec.values.clone(),
        })
    }
}

/// The flags without those that name the model, which servers spell in their own ways.
fn without_model(backend: Backend, flags: Vec<String>) -> Vec<String> {
    let model = match backend {
        Backend::Vllm => "--model",
        Backend::Sglang | Backend::Trtllm => "--model-path",
    };
    let mut words = flags.into_iter();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word == model || word == "--served-model-name" {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept
}

#[async_trait]
impl Cluster for LocalCluster {
    fn kind(&self) -> &'static str {
        "local"
    }

    fn gpus(&self) -> u32 {
        self.gpus
    }

    fn serves_both_roles(&self) -> bool {
        self.shares
    }

    fn expected_launch(&self, launch: &Launch) -> Duration {
        self.estimate.expected_launch(launch)
    }

    fn expected_measure(&self, launch: &Launch, probe: &Probe) -> Duration {
        self.estimate.expected_measure(launch, probe)
    }

    async fn launch(&self, launch: &Launch) -> Result<Box<dyn Engine>, Failure> {
        let launched = Instant::now();
        let fail = |class, reason: String| Failure {
            candidate: launch.id,
            class,
            cause: None,
            probe: None,
            reason: format!("{}: {reason}", launch.candidate.name()),
        };
        let lease = self.lease(launch.candidate.gpus()).map_err(|reason| fail(FailureClass::Launch, reason))?;
        let (group, site, ports) =
            self.start(&launch.candidate, &lease).map_err(|reason| fail(FailureClass::Launch, reason))?;
        let backend = self.bench.job.backend;
        let serves = self.serves(launch.candidate.role);
        let limit = EngineLimits::of(backend, serves, self.bench.job.workload.isl).max_running;
        let asked = limit.saturating_mul(launch.candidate.mapping.attention_dp);
        let log = self.settled_log(&group, launch.candidate.mapping.attention_dp);
        let served =
            Served::connect(&self.bench, launch.clone(), site, group.liveness(), launched, log, Some(asked)).await;
        match served {
            Ok(served) => Ok(Box::new(LocalEngine { served, group, _lease: lease, _ports: ports })),
            Err(failure) => {
                if let Err(left) = group.end().await {
                    tracing::warn!("{}: {left}", launch.candidate.name());
                }
                Err(failure)
            }
        }
    }

    async fn apply(&self, _request: &ApplyRequest) -> Result<Box<dyn Deployment>, ApplyError> {
        Err(ApplyError::Invalid(CANNOT_APPLY.to_owned()))
    }

    fn cannot_apply(&self) -> Option<&'static str> {
        Some(CANNOT_APPLY)
    }
}

struct LocalEngine {
    served: Served,
    group: Group,
    _lease: Lease,
    _ports: Leased,
}

#[async_trait]
impl Engine for LocalEngine {
    fn facts(&self) -> &EngineFacts {
        self.served.facts()
    }

    async fn measure(&mut self, role: Role, probe: &Probe, aim: Aim) -> Result<Measurement, Failure> {
        self.served.measure(role, probe, aim).await
    }

    fn log(&self) -> String {
        self.group.logs()
    }

    async fn shutdown(self: Box<Self>) -> Result<(), Failure> {
        let candidate = self.served.facts().candidate;
        self.group.end().await.map_err(|reason| Failure {
            candidate,
            class: FailureClass::Other,
            cause: None,
            probe: None,
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::samples::{h100, hardware, job, llama_8b_fp8};

    #[test]
    fn devices_are_those_listed_or_given_or_the_first_of_the_node() {
        let job = job(llama_8b_fp8(), hardware(h100(), 4));
        let list = |spec: &LocalSpec, visible| devices(&job, spec, visible).join(" ");
        assert_eq!(list(&LocalSpec::default(), None), "0 1 2 3");
        assert_eq!(list(&LocalSpec::default(), Some("4, GPU-a,6")), "4 GPU-a 6");
        let listed = LocalSpec { devices: Some(vec![7, 6]), ..LocalSpec::default() };
        assert_eq!(list(&listed, Some("0")), "7 6");
    }

    #[test]
    fn flags_do_without_the_model() {
        let flags = ["--model", "a", "--served-model-name", "b", "--tensor-parallel-size", "2", "--model-x"];
        let kept = without_model(Backend::Vllm, flags.map(str::to_owned).to_vec());
        assert_eq!(kept, ["--tensor-parallel-size", "2", "--model-x"]);
    }
}
