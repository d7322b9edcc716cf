//! `--cluster kubernetes`: which cluster, which request, and what becomes of both in the end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cluster::builtin_options;
use crate::dgd;
use crate::engine::kubernetes::{ClientPods, Deadlines, Reach};
use crate::kubernetes::deployments::deployment_info;
use crate::kubernetes::dgdr::Dgdr;
use crate::kubernetes::lease::{Holder, Lease, Loss, Work};
use crate::kubernetes::status::{Report, Stage};
use crate::kubernetes::{Access, ClusterError, Kube, Owner, RUN_LABEL};
use crate::output::error::AppError;
use crate::phases::{Outcome, RunError, generation};
use crate::run::RunDir;
use crate::spec::{self, DgdApi, Discovered, Flags, LoadClients, RunSpec, Source};

/// Which cluster, which request, and how to reach engines.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesArgs {
    /// Read the DynamoGraphDeploymentRequest from the cluster, and write its status
    #[arg(long, value_name = "NAME", conflicts_with_all = ["file", "config"])]
    pub dgdr: Option<String>,
    /// Kubeconfig to use
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// How requests reach engines: service (in the cluster), port-forward (outside), or a URL, in which {namespace} and
    /// {service} stand for the deployment's
    #[arg(long, value_name = "HOW")]
    pub reach: Option<Reach>,
    /// Give a launch up after so long without a log line or a change of its pods [default: 1200]
    #[arg(long, value_name = "SECONDS")]
    pub silence_deadline: Option<u64>,
    /// How long pods may wait for GPUs [default: 300]
    #[arg(long, value_name = "SECONDS")]
    pub scheduling_deadline: Option<u64>,
}

impl KubernetesArgs {
    /// Whether any of them is given.
    pub fn is_given(&self) -> bool {
        let Self { dgdr, kubeconfig, context, reach, silence_deadline, scheduling_deadline } = self;
        dgdr.is_some()
            || kubeconfig.is_some()
            || context.is_some()
            || reach.is_some()
            || silence_deadline.is_some()
            || scheduling_deadline.is_some()
    }

    /// Deadlines, with the launch deadline that all real engines share.
    pub fn deadlines(&self, spec: &RunSpec) -> Deadlines {
        let default = Deadlines::default();
        let seconds = |given: Option<u64>, default| given.map_or(default, Duration::from_secs);
        let launch = spec.engines.launch_deadline_s.and_then(|s| Duration::try_from_secs_f64(s).ok());
        Deadlines {
            silence: seconds(self.silence_deadline, default.silence),
            scheduling: seconds(self.scheduling_deadline, default.scheduling),
            launch: launch.unwrap_or(default.launch),
            ..default
        }
    }

    /// Connects, and reads the request if one is named.
    ///
    /// # Errors
    /// If the cluster does not answer, lacks Dynamo, or has no such request.
    pub async fn connect(&self, flags: &Flags) -> Result<Connection, AppError> {
        let access = Access {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            namespace: flags
                .namespace
                .clone()
                .or_else(|| std::env::var("DGDR_NAMESPACE").ok().filter(|n| !n.is_empty())),
        };
        let kube = Kube::connect(&access).await?;
        let api = kube.served_version().await?;
        let dgdr = match &self.dgdr {
            Some(name) => Some(kube.read_dgdr(name, api).await?),
            None => None,
        };
        Ok(Connection { kube, api, dgdr })
    }
}

impl From<ClusterError> for AppError {
    fn from(error: ClusterError) -> Self {
        let hint = error.hint().unwrap_or_else(|| "the API server's own words say more".to_owned());
        AppError::Cluster { message: error.to_string(), hint }
    }
}

/// A cluster, and what is to be done there.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The cluster.
    pub kube: Kube,
    /// The newest version of Dynamo's kinds that it serves.
    pub api: DgdApi,
    /// The request, if it was read from the cluster.
    pub dgdr: Option<Dgdr>,
}

impl Connection {
    /// The job, with the cluster's own hardware where nothing else is said.
    ///
    /// # Errors
    /// If the request makes no job, or the hardware is not given and cannot be found out.
    pub async fn load(&mut self, source: Source, flags: &Flags) -> Result<spec::Resolved, AppError> {
        let source = match &self.dgdr {
            Some(dgdr) => dgdr.source()?,
            None => source.kept()?,
        };
        let given = spec::peek(&source, flags)?;
        let (discovered, trouble) =
            if given.hardware_complete { (None, None) } else { self.discover(given.gpu_sku.as_deref()).await? };
        let mut resolved = spec::load_on(&source, flags, discovered.as_ref())?;
        resolved.warnings.extend(trouble);
        let deployment = &mut resolved.spec.deployment;
        if self.dgdr.is_none()
            && let Some(namespace) = &deployment.namespace
        {
            self.kube.namespace.clone_from(namespace);
        }
        deployment.namespace = Some(self.kube.namespace.clone());
        if self.api == DgdApi::V1alpha1 && deployment.api == DgdApi::V1beta1 {
            deployment.api = DgdApi::V1alpha1;
            resolved.warnings.push("the cluster serves v1alpha1 only; deployments are written in that form".to_owned());
        }
        Ok(resolved)
    }

    /// What nodes have; where a Role does not let us look and the kind of GPU is known, a note instead.
    async fn discover(&self, sku: Option<&str>) -> Result<(Option<Discovered>, Option<String>), AppError> {
        match self.kube.gpus().await {
            Ok(inventory) => Ok((Some(inventory.hardware(sku)?), None)),
            Err(error @ ClusterError::Forbidden { .. }) if sku.is_some() => {
                let note = format!("nodes cannot be looked at, so the budget is one node: {error}");
                Ok((None, Some(note)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whose run it is. `out` is where its results go, whether it is there yet or not.
    fn owner(&self, spec: &RunSpec, out: &Path) -> Owner {
        let object = match &self.dgdr {
            Some(dgdr) => Some(dgdr.owner()),
            None => Owner::from_environment(&crate::kubernetes::resources::dgdr(self.api).api_version),
        };
        // Empty where there is no such file: then the folder alone tells runs apart.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let out = canonical(&std::path::absolute(out).unwrap_or_else(|_| out.to_owned()));
        Owner::new(&spec.deployment.dgdr_name, object, &format!("{}:{}", host.trim(), out.display()))
    }

    /// Takes the run's place in the cluster, before anything is created there: nobody else may be at the same run. Where
    /// there is no right to leases, the run goes on without.
    ///
    /// # Errors
    /// [`ClusterError::Held`] if another process is at it; or if the API server does not answer.
    pub async fn hold(&self, spec: &RunSpec, out: &Path, no_leases: bool) -> Result<Held, ClusterError> {
        let (kube, owner) = (&self.kube, self.owner(spec, out));
        let without = |owner: Owner| {
            tracing::warn!(
                "there is no right to hold a lease in namespace {0}, so that a second process of this run is not refused, \
                 and `sla-profiler gc` will leave its deployments alone: `kubectl get dgd -n {0} -l {RUN_LABEL}={1}` shows \
                 them; a Role must allow apiGroups: [\"coordination.k8s.io\"], resources: [\"leases\"], verbs: [\"get\", \
                 \"create\", \"update\", \"delete\"]",
                kube.namespace,
                owner.run
            );
            Held { owner, lease: None }
        };
        if no_leases {
            return Ok(without(owner));
        }
        let claim = owner.claim(kube, Holder::this(kube, Work::Profile).await?);
        match claim.take_or_refuse(|what| tracing::warn!("{what}")).await {
            Ok((lease, before)) => {
                if let Some(before) = before {
                    tracing::warn!("this run had another process, which is gone: {before}");
                }
                Ok(Held { owner, lease: Some(lease) })
            }
            Err(ClusterError::Forbidden { .. }) => Ok(without(owner)),
            Err(error) => Err(error),
        }
    }

    /// The end of the run, after everything of it was deleted. Where something is left, the lease stays, and leads `gc` to
    /// it.
    pub async fn let_go(&self, held: &Held) {
        let Some(lease) = held.lease.as_ref().filter(|lease| lease.loss().is_none()) else { return };
        let letting_go = async {
            match self.kube.is_all_gone(self.api, &held.owner.run).await {
                Ok(true) => lease.delete().await,
                Ok(false) => {
                    let namespace = &self.kube.namespace;
                    tracing::warn!(
                        "not everything of this run is gone; `sla-profiler gc --namespace {namespace}` removes it"
                    );
                    lease.give_back().await
                }
                Err(error) => Err(error),
            }
        };
        match tokio::time::timeout(LAST_WORD, letting_go).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the lease {} stays, and runs out by itself: {error}", lease.name()),
            Err(_) => tracing::warn!("the lease {} stays: the API server does not answer", lease.name()),
        }
    }

    /// How to reach engines: as the user says, or as is possible from here.
    pub fn reach(&self, wanted: Option<&Reach>) -> Reach {
        let reach = wanted.cloned().unwrap_or(if self.kube.inside { Reach::Service } else { Reach::PortForward });
        if reach == Reach::PortForward {
            tracing::warn!(
                "requests go through the API server (port-forward), whose time is part of every latency; run in the \
                 cluster, or give --reach a URL, for figures that count"
            );
        }
        reach
    }

    /// Pods that send requests, where more than this process is to.
    ///
    /// # Errors
    /// If nobody knows the image of this program.
    pub async fn client_pods(&self, spec: &RunSpec) -> Result<Option<ClientPods>, AppError> {
        let clients = spec.engines.load_clients.unwrap_or(LoadClients::Exactly(1));
        if clients == LoadClients::Exactly(1) {
            return Ok(None);
        }
        let like = self.kube.own_pod().await?.and_then(|pod| pod.spec);
        let named = std::env::var("SLA_PROFILER_IMAGE").ok().filter(|image| !image.is_empty());
        let own = || like.as_ref().and_then(|pod| pod.containers.first()?.image.clone());
        let image = spec.engines.load_image.clone().or(named).or_else(own).ok_or_else(|| AppError::Usage {
            message: "--load-clients: nobody knows the image of this program".to_owned(),
            hint: Some("--load-image names it; in a pod of the cluster it is that pod's".to_owned()),
        })?;
        let options = builtin_options(spec, &crate::http::Options::default());
        Ok(Some(ClientPods { clients, image: Some(image), like, options }))
    }

    /// The last word on the request: its output, then its status.
    pub async fn report(
        &self,
        outcome: Result<&Outcome, &RunError>,
        phase: &'static str,
        dir: &RunDir,
        owner: &Owner,
        auto_apply: bool,
    ) -> Report {
        let mut report = last_word(outcome, phase, dir, &self.kube.namespace, auto_apply);
        if report.stage == Stage::Deployed
            && let Some(name) = report.selected.as_ref().and_then(|dgd| dgd.pointer("/metadata/name")?.as_str())
        {
            let reading = tokio::time::timeout(LAST_WORD, self.kube.dgd(name, self.api));
            if let Ok(Ok(dgd)) = reading.await {
                report.deployment_info = Some(deployment_info(dgd.as_ref()));
            }
        }
        let files = output_files(dir, &report);
        let writing = tokio::time::timeout(LAST_WORD, self.kube.write_output(owner, &files));
        match writing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the results are not in the cluster: {error}"),
            Err(_) => tracing::warn!("the results are not in the cluster: the API server does not answer"),
        }
        report
    }
}

/// A run's place in the cluster.
#[derive(Debug, Clone)]
pub struct Held {
    /// Whose everything is.
    pub owner: Owner,
    /// That it lives, for others to see; absent where there is no right to leases.
    pub lease: Option<Lease>,
}

impl Held {
    /// Why the run is not this process's any more, if that is so.
    pub fn loss(&self) -> Option<Loss> {
        self.lease.as_ref().and_then(Lease::loss)
    }

    /// Waits until it is not this process's any more; for ever where there is no lease.
    pub async fn lost(&self) -> Loss {
        match &self.lease {
            Some(lease) => lease.lost().await,
            None => std::future::pending().await,
        }
    }
}

/// The path without links, as it will be once its last folders are made.
fn canonical(path: &Path) -> PathBuf {
    match (std::fs::canonicalize(path), path.parent(), path.file_name()) {
        (Ok(path), ..) => path,
        (Err(_), Some(parent), Some(name)) => canonical(parent).join(name),
        (Err(_), ..) => path.to_owned(),
    }
}

/// How long to try to write results: they are in the run directory all the same.
const LAST_WORD: Duration = Duration::from_secs(20);

/// Files of a run that go into the output ConfigMap, the most important one first.
const OUTPUT: [&str; 6] = [
    generation::FINAL_CONFIG,
    crate::run::status::STATUS,
    "config_with_planner.yaml",
    "result.json",
    "mocker_config_with_planner.yaml",
    "measurements.csv",
];

fn output_files(dir: &RunDir, report: &Report) -> Vec<(String, String)> {
    let mut files =
        vec![("phase".to_owned(), report.profiling_phase.to_owned()), ("message".to_owned(), report.message.clone())];
    if report.stage == Stage::Failed {
        files.push(("profiler_error".to_owned(), report.message.clone()));
    }
    for name in OUTPUT {
        if let Ok(bytes) = dir.read(name)
            && let Ok(text) = String::from_utf8(bytes)
        {
            files.push((name.to_owned(), text));
        }
    }
    files
}

/// The deployment in `final_config.yaml`.
fn selected(dir: &RunDir) -> Option<serde_json::Value> {
    let bytes = dir.read(generation::FINAL_CONFIG).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    dgd::deployment_in(&text)
}

fn last_word(
    outcome: Result<&Outcome, &RunError>,
    phase: &'static str,
    dir: &RunDir,
    namespace: &str,
    auto_apply: bool,
) -> Report {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            let applying = phase == crate::run::Phase::AutoApply.dynamo_name();
            let reason = match error {
                RunError::Interrupted => "Interrupted".to_owned(),
                RunError::LeaseLost(_) => "LeaseLost".to_owned(),
                RunError::OutOfBudget(_) => "OutOfBudget".to_owned(),
                RunError::Apply(_) => "DeploymentFailed".to_owned(),
                _ => format!("{phase}Failed"),
            };
            return Report {
                stage: Stage::Failed,
                profiling_phase: phase,
                reason,
                message: error.to_string(),
                selected: if applying { selected(dir) } else { None },
                succeeded: Some(false),
                deployment_ready: applying.then_some(false),
                deployment_info: None,
            };
        }
    };
    let by_hand = format!("kubectl apply --server-side -n {namespace} -f {}", generation::FINAL_CONFIG);
    let done = |stage, succeeded, reason: &str, message: String| Report {
        stage,
        profiling_phase: "Done",
        reason: reason.to_owned(),
        message,
        selected: selected(dir),
        succeeded: Some(succeeded),
        deployment_ready: (stage == Stage::Deployed).then_some(true),
        deployment_info: None,
    };
    match (&outcome.check, &outcome.not_applied) {
        (Some(check), _) if check.meets_sla => done(
            Stage::Deployed,
            true,
            "Deployed",
            format!(
                "it serves {:.2} requests/s within the SLA: TTFT {:.0} ms, ITL {:.1} ms",
                check.requests_per_second, check.ttft_ms.target, check.itl_ms.target
            ),
        ),
        (Some(check), _) => {
            let figures = format!("TTFT {:.0} ms, ITL {:.1} ms", check.ttft_ms.target, check.itl_ms.target);
            match &outcome.rolled_back {
                Some(what) => Report {
                    deployment_ready: Some(false),
                    ..done(Stage::Failed, false, "SLANotMet", format!("the SLA is not met ({figures}); {what}"))
                },
                None => {
                    done(Stage::Deployed, false, "SLANotMet", format!("it runs, but the SLA is not met: {figures}"))
                }
            }
        }
        (None, Some(why)) => {
            done(Stage::Ready, outcome.feasible(), "NotApplied", format!("not applied: {why}; {by_hand}"))
        }
        (None, None) if !outcome.feasible() => {
            done(Stage::Ready, false, "Infeasible", format!("no configuration meets the SLA; if it will do: {by_hand}"))
        }
        (None, None) => {
            let why = if auto_apply { "" } else { "autoApply is off; " };
            done(Stage::Ready, true, "ProfilingCompleted", format!("{why}to deploy it: {by_hand}"))
        }
    }
}
