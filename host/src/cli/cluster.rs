//! `--cluster`: where engines run, and everything that is needed before the first of them can be asked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::drop_in;
use super::gc;
use super::kubernetes::{Connection, Held, KubernetesArgs};
use crate::backends;
use crate::dgd;
use crate::domain::search_space::{self, SearchSpace};
use crate::domain::{Candidate, Mapping, Role};
use crate::engine::Cluster;
use crate::engine::endpoint::EndpointCluster;
use crate::engine::kubernetes::{self, KubernetesCluster};
use crate::engine::local::{self, LocalCluster};
use crate::engine::served::{Bench, Settings, Site, Stop, TOLERANCE};
use crate::engine::simulated::SimulatedCluster;
use crate::http::{Client, Options, Origin};
use crate::load::aiperf::Aiperf;
use crate::load::builtin::{self, Builtin};
use crate::load::{ApiKey, Endpoint, LoadGenerator};
use crate::output::error::AppError;
use crate::process::leftovers;
use crate::process::owner::Owner;
use crate::run::RunDir;
use crate::spec::{EngineFlags, LoadClients, LoadKind, LocalSpec, RunSpec};

/// Where engines run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClusterKind {
    /// Simulated engines on a virtual clock: no GPU, no network
    #[default]
    Simulated,
    /// Processes of this machine, started from templates
    Local,
    /// One engine that already runs
    Endpoint,
    /// DynamoGraphDeployments of a Kubernetes cluster
    Kubernetes,
}

impl ClusterKind {
    /// What is meant where nothing is said: Dynamo's operator, which starts its profiler in a Job, means its cluster.
    fn here() -> Self {
        if drop_in::is_on() { Self::Kubernetes } else { Self::Simulated }
    }
}

/// As what a running engine is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RoleChoice {
    /// TTFT of prompts that nobody has seen
    Prefill,
    /// ITL of prompts that are cached
    Decode,
    /// One after the other
    #[default]
    Both,
}

/// Where engines run, and what is to be said of one that already does.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct ClusterArgs {
    /// Where engines run
    #[arg(long, value_enum, default_value_t = ClusterKind::here(), value_name = "KIND")]
    pub cluster: ClusterKind,
    /// Which Kubernetes cluster, and which request of it.
    #[command(flatten)]
    #[serde(skip)]
    pub kubernetes: KubernetesArgs,
    /// Where the engine answers, for --cluster endpoint
    #[arg(long, value_name = "URL", help_heading = "A running engine")]
    pub url: Option<String>,
    /// Another server with metrics of the engine, such as a worker behind a frontend; may be repeated
    #[arg(long, value_name = "URL", help_heading = "A running engine")]
    pub metrics_url: Vec<String>,
    /// As what it is measured
    #[arg(long, value_enum, default_value_t, value_name = "ROLE", help_heading = "A running engine")]
    pub role: RoleChoice,
    /// Its tensor parallel size
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "A running engine")]
    pub tp: u32,
    /// Its pipeline parallel size
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "A running engine")]
    pub pp: u32,
    /// Its attention data parallel ranks
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "A running engine")]
    pub dp: u32,
    /// Its expert parallel size
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "A running engine")]
    pub ep: u32,
}

fn usage(message: impl Into<String>, hint: impl Into<String>) -> AppError {
    AppError::Usage { message: message.into(), hint: Some(hint.into()) }
}

fn setup(message: impl Into<String>, hint: impl Into<String>) -> AppError {
    AppError::Setup { message: message.into(), hint: hint.into() }
}

/// The first contact with a running engine may take so long.
const FIRST_CONTACT: Duration = Duration::from_secs(10);

impl ClusterArgs {
    /// Whether engines are real, with their time.
    pub const fn is_real(&self) -> bool {
        !matches!(self.cluster, ClusterKind::Simulated)
    }

    /// The only role that is measured, if it is one.
    pub const fn only_role(&self) -> Option<Role> {
        match (self.cluster, self.role) {
            (ClusterKind::Endpoint, RoleChoice::Prefill) => Some(Role::Prefill),
            (ClusterKind::Endpoint, RoleChoice::Decode) => Some(Role::Decode),
            _ => None,
        }
    }

    /// Refuses flags that do not go together.
    ///
    /// # Errors
    /// Names the flag that is missing or has no meaning here.
    pub fn check(&self) -> Result<(), AppError> {
        let of_endpoint = self.url.is_some() || !self.metrics_url.is_empty() || self.role != RoleChoice::Both;
        let mapping = [self.tp, self.pp, self.dp, self.ep];
        if mapping.contains(&0) {
            return Err(usage(
                "--tp, --pp, --dp and --ep must be at least 1",
                "leave out those that the engine has not",
            ));
        }
        if self.cluster != ClusterKind::Kubernetes && self.kubernetes.is_given() {
            return Err(usage(
                "--dgdr, --kubeconfig, --context, --reach and the deadlines of pods are about Kubernetes",
                "add --cluster kubernetes, or leave them out",
            ));
        }
        match self.cluster {
            ClusterKind::Endpoint if self.url.is_none() => {
                Err(usage("--cluster endpoint needs --url", "for example --url http://localhost:8000"))
            }
            ClusterKind::Simulated | ClusterKind::Local | ClusterKind::Kubernetes
                if of_endpoint || mapping != [1; 4] =>
            {
                Err(usage(
                    "--url, --metrics-url, --role, --tp, --pp, --dp and --ep describe an engine that already runs",
                    "add --cluster endpoint, or leave them out",
                ))
            }
            _ => Ok(()),
        }
    }

    /// The mapping of a running engine.
    fn mapping(&self) -> Result<Mapping, AppError> {
        let stage = self.tp.saturating_mul(self.dp);
        if !stage.is_multiple_of(self.ep) {
            return Err(usage(
                format!("--ep {} does not divide --tp × --dp = {stage}", self.ep),
                "give the engine's own",
            ));
        }
        Ok(Mapping { tp: self.tp, pp: self.pp, attention_dp: self.dp, moe_tp: stage / self.ep, moe_ep: self.ep })
    }

    /// The candidates: all that are legal, or the one that already runs.
    ///
    /// # Errors
    /// If the running engine cannot have the mapping.
    pub fn space(&self, spec: &RunSpec) -> Result<SearchSpace, AppError> {
        if self.cluster != ClusterKind::Endpoint {
            let mut space = search_space::build(&spec.job, &spec.limits);
            know_beforehand(spec, &mut space.candidates)?;
            return Ok(space);
        }
        let mapping = self.mapping()?;
        backends::check(spec.job.backend, mapping)
            .map_err(|error| usage(error.to_string(), "--tp, --pp, --dp and --ep are those of the engine at --url"))?;
        let roles = self.only_role().map_or_else(|| Role::ALL.to_vec(), |role| vec![role]);
        let candidate = |role: Role| Candidate { role, mapping, prior: search_space::prior(&spec.job, role, &mapping) };
        let mut candidates: Vec<Candidate> = roles.into_iter().map(candidate).collect();
        know_beforehand(spec, &mut candidates)?;
        Ok(SearchSpace { candidates, rejected: Vec::new() })
    }

    /// A cluster that nothing is launched on: it says how many GPUs there are and how long things should take.
    pub fn estimate(&self, spec: &RunSpec) -> Arc<dyn Cluster> {
        let (mut job, mut simulation) = (spec.job.clone(), spec.simulation.clone());
        match self.cluster {
            ClusterKind::Simulated | ClusterKind::Kubernetes => {}
            ClusterKind::Local => job.hardware.total_gpus = devices(spec).len().try_into().unwrap_or(u32::MAX),
            ClusterKind::Endpoint => {
                job.hardware.total_gpus = self.tp.saturating_mul(self.pp).saturating_mul(self.dp);
                (simulation.compile_s, simulation.warmup_s) = (0.0, 0.0);
                simulation.load_bytes_per_second = f64::MAX;
            }
        }
        Arc::new(SimulatedCluster::new(&job, &simulation).sharing(self.shares(spec)))
    }

    /// Whether an engine of this cluster is measured as both candidates of its mapping.
    fn shares(&self, spec: &RunSpec) -> bool {
        let told_apart = match (self.cluster, &spec.engines.local) {
            (ClusterKind::Local, Some(local)) => local.tells_roles_apart(),
            (ClusterKind::Endpoint, _) => true,
            _ => false,
        };
        !told_apart && dgd::shares_engines(spec)
    }

    /// Whoever measures real engines. Also a check of everything that can be wrong before anything is launched.
    ///
    /// # Errors
    /// What is missing: the tokenizer, `aiperf`, the key's file, …
    pub fn equipment(&self, spec: &RunSpec, run: &Path) -> Result<Equipment, AppError> {
        let engines = &spec.engines;
        let defaults = Settings::default();
        if engines.load_clients.is_some_and(|clients| clients != LoadClients::Exactly(1)) {
            if self.cluster != ClusterKind::Kubernetes {
                return Err(usage(
                    "more than one client of the load needs --cluster kubernetes",
                    "leave out --load-clients (profiler.engines.loadClients)",
                ));
            }
            if engines.load == Some(LoadKind::Aiperf) {
                return Err(usage("AIPerf has one client", "use --load builtin with --load-clients"));
            }
        }
        let seconds = |given: Option<f64>, default: Duration| {
            given.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or(default)
        };
        let settings = Settings {
            launch_deadline: seconds(engines.launch_deadline_s, defaults.launch_deadline),
            point_deadline: seconds(engines.point_deadline_s, defaults.point_deadline),
            kv_tolerance: engines.kv_tolerance.unwrap_or(TOLERANCE),
            kv_tokens: engines.kv_tokens,
            max_running: engines.max_running,
        };
        let api_key = engines
            .api_key_file
            .as_ref()
            .map(|path| {
                std::fs::read_to_string(path).map(|key| ApiKey::new(&key)).map_err(|error| {
                    setup(format!("cannot read the key in {}: {error}", path.display()), "--api-key-file names a file")
                })
            })
            .transpose()?;
        let tokenizer = engines.tokenizer.clone().or_else(|| {
            // Where the weights are a folder, the tokenizer lies there.
            let path = engines.local.as_ref().and_then(|local| local.model_path.clone());
            [path, Some(spec.job.model.name.clone())]
                .into_iter()
                .flatten()
                .map(Into::into)
                .find(|path: &std::path::PathBuf| path.is_absolute() && path.join("tokenizer.json").is_file())
        });
        let options = Options { ca_file: engines.ca_file.clone(), ..Options::default() };
        let served = engines.served_name.clone();
        let endpoint = Endpoint {
            tokenizer,
            api_key,
            ..Endpoint::new(
                self.url.as_deref().unwrap_or_default().trim_end_matches('/'),
                served.clone().unwrap_or_else(|| spec.job.model.name.clone()),
            )
        };
        let owner = self.owner(spec, run)?;
        let generator = generator(spec, &endpoint, &options, owner.as_ref())?;
        let http = Client::new(options);
        Ok(Equipment { settings, generator, endpoint, http, names_its_model: served.is_some(), owner })
    }

    /// Whose the processes are that this run starts, if it starts any: put down before the first of them. What earlier
    /// programs have left is ended here, so that it is in nobody's way.
    fn owner(&self, spec: &RunSpec, run: &Path) -> Result<Option<Arc<Owner>>, AppError> {
        if self.cluster != ClusterKind::Local && spec.engines.load != Some(LoadKind::Aiperf) {
            return Ok(None);
        }
        let folder = gc::records();
        gc::warn_of(&leftovers::clean_up(&folder, false));
        Owner::begin(&folder, run).map(Some).map_err(|error| {
            let message = format!("cannot put down in {} what is about to be started: {error}", folder.display());
            setup(message, "XDG_STATE_HOME names a folder that can be written to")
        })
    }

    /// The cluster.
    ///
    /// # Errors
    /// If a running engine does not answer or does not know the model.
    pub async fn open(
        &self,
        spec: &RunSpec,
        equipment: Option<Equipment>,
        stop: &Stop,
        dir: &RunDir,
        connection: Option<(&Connection, &Held)>,
    ) -> Result<Arc<dyn Cluster>, AppError> {
        let Some(equipment) = equipment else { return Ok(self.estimate(spec)) };
        let Equipment { settings, generator, mut endpoint, http, names_its_model, owner } = equipment;
        if self.cluster == ClusterKind::Endpoint && !names_its_model {
            let listed = models(&http, &endpoint).await?;
            endpoint.model = pick(listed, &endpoint.model, &endpoint.url)?;
        }
        let bench = Bench {
            job: Arc::new(spec.job.clone()),
            generator,
            settings,
            http,
            stop: stop.clone(),
            reports: Some(dir.clone()),
        };
        let estimate = self.estimate(spec);
        if let Some((connection, held)) = connection {
            let cluster = KubernetesCluster::new(
                spec.clone(),
                bench,
                kubernetes::Options {
                    kube: connection.kube.clone(),
                    owner: held.owner.clone(),
                    lease: held.lease.clone(),
                    reach: connection.reach(self.kubernetes.reach.as_ref()),
                    deadlines: self.kubernetes.deadlines(spec),
                    dir: Some(dir.clone()),
                    endpoint,
                    estimate,
                    client_pods: connection.client_pods(spec).await?,
                },
            );
            cluster.remove_leftovers().await?;
            return Ok(Arc::new(cluster));
        }
        if self.cluster == ClusterKind::Local {
            let local = match &spec.engines.local {
                Some(local) => local.clone(),
                None => LocalSpec::bundled(spec.job.backend.as_str())?,
            };
            let devices = devices(spec);
            let cluster = LocalCluster::new(bench, local, endpoint, devices, estimate, dir.clone(), owner);
            return Ok(Arc::new(cluster.sharing(self.shares(spec))));
        }
        let gpus = estimate.gpus();
        let metrics_urls = std::iter::once(endpoint.url.clone())
            .chain(self.metrics_url.iter().map(|url| url.trim_end_matches('/').to_owned()))
            .collect();
        Ok(Arc::new(EndpointCluster::new(bench, Site { endpoint, metrics_urls }, gpus, estimate)))
    }

    /// The model of a running engine, for a job that names none.
    ///
    /// # Errors
    /// If the engine does not answer, or lists another number of models than one.
    pub async fn only_model(&self, flags: &EngineFlags) -> Result<String, AppError> {
        let options = Options { ca_file: flags.ca_file.clone(), ..Options::default() };
        let key = flags.api_key_file.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let url = self.url.as_deref().unwrap_or_default().trim_end_matches('/');
        let endpoint = Endpoint { api_key: key.map(|key| ApiKey::new(&key)), ..Endpoint::new(url, "") };
        let listed = models(&Client::new(options), &endpoint).await?;
        pick(listed, "", url)
    }
}

/// Priors from the user's table.
fn know_beforehand(spec: &RunSpec, candidates: &mut [Candidate]) -> Result<(), AppError> {
    let Some(table) = &spec.priors else { return Ok(()) };
    if table.apply(&spec.job, candidates) == 0 && !candidates.is_empty() {
        let known: Vec<String> = candidates.iter().map(Candidate::name).collect();
        return Err(usage(
            "the table of --priors (profiler.priors) knows none of this job's candidates",
            format!("its columns role and mapping name some of: {}", known.join(", ")),
        ));
    }
    Ok(())
}

/// What measures real engines, checked.
pub struct Equipment {
    settings: Settings,
    generator: Arc<dyn LoadGenerator>,
    endpoint: Endpoint,
    http: Client,
    names_its_model: bool,
    owner: Option<Arc<Owner>>,
}

fn devices(spec: &RunSpec) -> Vec<String> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let local = spec.engines.local.clone().unwrap_or_default();
    local::devices(&spec.job, &local, visible.as_deref())
}

fn generator(
    spec: &RunSpec,
    endpoint: &Endpoint,
    options: &Options,
    owner: Option<&Arc<Owner>>,
) -> Result<Arc<dyn LoadGenerator>, AppError> {
    if let Some(path) = &endpoint.tokenizer {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.clone() };
        if !file.is_file() {
            return Err(setup(
                format!("there is no tokenizer at {}", file.display()),
                "--tokenizer names the model's tokenizer.json, or the folder that holds it",
            ));
        }
    }
    match spec.engines.load.unwrap_or_default() {
        LoadKind::Builtin => Ok(Arc::new(Builtin::new(builtin_options(spec, options)))),
        LoadKind::Aiperf => {
            let aiperf =
                Aiperf::find().map_err(|error| setup(error.to_string(), "--load builtin needs nothing else"))?;
            Ok(Arc::new(aiperf.trusting(options.ca_file.clone()).owned_by(owner.cloned())))
        }
    }
}

/// Settings of the built-in load generator.
pub(super) fn builtin_options(spec: &RunSpec, options: &Options) -> builtin::Options {
    let defaults = builtin::Options::default();
    builtin::Options {
        ca_file: options.ca_file.clone(),
        max_client_share: spec.engines.max_client_share.unwrap_or(defaults.max_client_share),
        ..defaults
    }
}

/// Names under `/v1/models`.
async fn models(http: &Client, endpoint: &Endpoint) -> Result<Vec<String>, AppError> {
    let unreachable = |message: String| AppError::Cluster {
        message,
        hint: format!("--url is the address before /v1, and `curl {}/v1/models` must answer", endpoint.url),
    };
    let origin: Origin = endpoint
        .url
        .parse()
        .map_err(|error: crate::http::HttpError| usage(error.to_string(), "--url is like http://localhost:8000"))?;
    let key = endpoint.api_key.as_ref().map(ApiKey::expose);
    let answer =
        http.get(&origin, "/v1/models", key, FIRST_CONTACT).await.map_err(|error| unreachable(error.to_string()))?;
    if !answer.is_success() {
        let start: String = answer.text().chars().take(300).collect();
        return Err(unreachable(format!("{}/v1/models answers {}: {}", endpoint.url, answer.status, start.trim())));
    }
    let list: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    let list = list.and_then(|list| list.get("data").and_then(|data| data.as_array().cloned()));
    let list = list.ok_or_else(|| unreachable(format!("{}/v1/models lists no models", endpoint.url)))?;
    Ok(list.iter().filter_map(|model| model.get("id")?.as_str().map(str::to_owned)).collect())
}

/// The one that the job names, or the only one.
fn pick(listed: Vec<String>, wanted: &str, url: &str) -> Result<String, AppError> {
    if let Some(same) = listed.iter().find(|name| name.eq_ignore_ascii_case(wanted)) {
        return Ok(same.clone());
    }
    match <[String; 1]>::try_from(listed) {
        Ok([only]) => Ok(only),
        Err(listed) => Err(AppError::Cluster {
            message: format!("{url} serves {} models: {}", listed.len(), listed.join(", ")),
            hint: "--served-name says which of them to measure".to_owned(),
        }),
    }
}
