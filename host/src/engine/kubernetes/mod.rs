//! Engines as DynamoGraphDeployments of a Kubernetes cluster.
//!
//! ```text
//! launch: DGD of the candidate --apply--> operator --> pods
//!           |  watching.rs   deployment and pods, watched         pods.rs   what is the matter with a pod
//!           |  logs.rs       all containers, followed             waiting.rs until it is ready, or hopeless
//!           '--reach.rs----> served: one real completion, facts, measuring
//! measure:  from here, or from pods of a Job                      load.rs
//! shutdown: delete, wait until deployment and pods are gone       lifetime.rs
//! apply:    ConfigMaps, DGD, rollout, check, the one before back  deployment.rs
//! ```
//!
//! Whatever this run creates carries its label. What carries another one, or none, is never touched.

mod deployment;
mod lifetime;
pub mod load;
mod logs;
mod pods;
mod reach;
mod waiting;
mod warnings;
mod watching;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use reach::Reach;
pub use waiting::NotReady;

use self::deployment::Rollout;
pub use self::load::ClientPods;
use self::load::Crowd;
use self::logs::Logs;
use self::reach::Way;
use self::watching::Watching;
use super::served::{Bench, Keeper, Liveness, Served, Site};
use super::{ApplyError, ApplyRequest, Cluster, Deployment, Engine, Launch};
use crate::dgd;
use crate::domain::{Aim, EngineFacts, Failure, FailureCause, FailureClass, Measurement, Probe, Role};
use crate::kubernetes::deployments::mark_candidate;
use crate::kubernetes::lease::{self, Lease};
use crate::kubernetes::{CANDIDATE_ANNOTATION, ClusterError, Kube, Owner};
use crate::load::Endpoint;
use crate::run::RunDir;
use crate::spec::{DgdApi, RunSpec};

/// How long things may take that nobody can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Without any sign of life (a log line, a change of a pod or of the deployment) a launch is given up after this.
    pub silence: Duration,
    /// And in any case after this.
    pub launch: Duration,
    /// How long pods may wait for GPUs.
    pub scheduling: Duration,
    /// How long pods may take to go away.
    pub removal: Duration,
    /// How long the operator may take to say anything at all.
    pub operator: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            silence: minutes(20),
            launch: minutes(120),
            scheduling: minutes(5),
            removal: minutes(5),
            operator: minutes(1),
        }
    }
}

/// What a cluster is made from.
pub struct Options {
    /// The cluster.
    pub kube: Kube,
    /// Whose run it is.
    pub owner: Owner,
    /// That the run lives, for others to see; absent where there is no right to leases.
    pub lease: Option<Lease>,
    /// How to reach engines.
    pub reach: Reach,
    /// How long to wait.
    pub deadlines: Deadlines,
    /// Where logs go.
    pub dir: Option<RunDir>,
    /// Model, key and tokenizer; the URL is each engine's own.
    pub endpoint: Endpoint,
    /// Says how long launching and measuring may take, for forecasts.
    pub estimate: Arc<dyn Cluster>,
    /// Pods that send requests; absent where this process alone does.
    pub client_pods: Option<ClientPods>,
}

/// What the cluster and its engines share.
struct Inner {
    spec: RunSpec,
    bench: Bench,
    options: Options,
    /// Name and uid of the candidates' deployments that this process created and has not seen go.
    live: Mutex<BTreeMap<String, Option<String>>>,
    /// Phase 7, until its outcome is settled.
    rollout: Mutex<Option<Rollout>>,
    crowd: Option<Arc<Crowd>>,
}

/// See the module's text.
#[derive(Clone)]
pub struct KubernetesCluster(Arc<Inner>);

impl Inner {
    fn live(&self) -> MutexGuard<'_, BTreeMap<String, Option<String>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rollout(&self) -> MutexGuard<'_, Option<Rollout>> {
        self.rollout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KubernetesCluster {
    /// `spec.deployment.api` is the version in which deployments are written.
    pub fn new(spec: RunSpec, bench: Bench, options: Options) -> Self {
        let crowd = options.client_pods.clone().map(|pods| Arc::new(Crowd::new(&options, pods)));
        Self(Arc::new(Inner { spec, bench, options, live: Mutex::default(), rollout: Mutex::default(), crowd }))
    }

    /// What measures the deployment of that name.
    fn bench(&self, dgd: &str, port: u16) -> Bench {
        let Inner { bench, options, crowd, .. } = &*self.0;
        let Some(crowd) = crowd else { return bench.clone() };
        let single = Arc::clone(&bench.generator);
        let inside_url = reach::from_inside(&options.kube, &options.reach, dgd, port);
        let generator = Arc::new(load::Scaled { single, crowd: Arc::clone(crowd), inside_url });
        Bench { generator, ..bench.clone() }
    }

    /// The deployment of a candidate, with everything that says whose it is.
    fn candidate(&self, launch: &Launch) -> Result<(String, Value), String> {
        let Inner { spec, options, .. } = &*self.0;
        let mut dgd = dgd::generate_candidate(spec, &launch.candidate).map_err(|error| error.to_string())?;
        let plain = dgd.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let name = candidate_name(plain, &options.owner.run);
        if let Some(metadata) = dgd.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("name".to_owned(), name.clone().into());
            let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.insert(CANDIDATE_ANNOTATION.to_owned(), launch.candidate.name().into());
            }
        }
        options.owner.mark(&mut dgd, &options.kube.namespace);
        mark_candidate(&mut dgd);
        if let Some(lease) = &options.lease {
            lease::run::mark(&mut dgd, lease.name());
        }
        Ok((name, dgd))
    }

    /// Everything up to the first answer. What was created is in `self.0.live`, whatever comes of it.
    async fn bring_up(&self, launch: &Launch) -> Result<KubernetesEngine, Failure> {
        let Inner { spec, bench, options, .. } = &*self.0;
        let Options { kube, reach, deadlines, dir, .. } = options;
        let failure = |class: FailureClass, reason: String| Failure {
            candidate: launch.id,
            class,
            cause: None,
            probe: None,
            reason: format!("{}: {reason}", launch.candidate.name()),
        };
        let refused = |error: ClusterError| {
            let hint = error.hint().map_or_else(String::new, |hint| format!("; {hint}"));
            failure(FailureClass::Launch, format!("{error}{hint}"))
        };
        let launched = Instant::now();
        let (name, dgd) = self.candidate(launch).map_err(|reason| failure(FailureClass::Launch, reason))?;
        // Whoever has the run's lease may have a deployment of the same name.
        if let Some(lease) = &options.lease {
            tokio::select! {
                biased;
                () = bench.stop.requested() => {
                    return Err(failure(FailureClass::Other, "given up: the run was asked to stop".to_owned()));
                }
                confirmed = lease.confirm() => confirmed.map_err(refused)?,
            }
        }
        // Before the request: one that is cut off may have worked.
        self.0.live().insert(name.clone(), None);
        let applied = kube.apply_own_dgd(&dgd, spec.deployment.api, &options.owner).await;
        let uid = match applied {
            Ok(uid) => uid,
            Err(error) => {
                if !error.is_transient() {
                    self.0.live().remove(&name);
                }
                return Err(refused(error));
            }
        };
        self.0.live().insert(name.clone(), Some(uid));

        let watching = Watching::start(kube, spec.deployment.api, &name);
        let files = dir.clone().map(|dir| (dir, launch.candidate.dir_name()));
        let logs = Logs::follow(kube.clone(), watching.subscribe(), files);
        tokio::select! {
            biased;
            () = bench.stop.requested() => {
                return Err(failure(FailureClass::Other, "given up: the run was asked to stop".to_owned()));
            }
            ready = waiting::until_ready(kube, watching.subscribe(), &logs, deadlines, launched) => {
                ready.map_err(|not_ready| {
                    Failure { cause: not_ready.cause, ..failure(not_ready.class, not_ready.reason) }
                })?;
            }
        }
        // The operator may have seen pods before we do.
        let seen = |view: &watching::View| view.pods.values().any(|pod| !pod.is_frontend());
        let _ = tokio::time::timeout(PODS_ARE_SEEN, watching.subscribe().wait_for(seen)).await;
        let port = reach::frontend_port(&dgd);
        let way = reach::open(kube, reach, &dgd, &watching.subscribe())
            .await
            .map_err(|error| failure(FailureClass::Other, format!("no local port for port-forward: {error}")))?;
        let (keeper, liveness) = Liveness::new();
        let guard = Guard::start(watching.subscribe(), keeper);
        let endpoint = Endpoint { url: way.url.clone(), ..options.endpoint.clone() };
        let site = Site { endpoint, metrics_urls: way.metrics_urls.clone() };
        // An engine that loaded for long, and is ready, has some minutes for its first answer all the same.
        let mut bench = self.bench(&name, port);
        bench.settings.launch_deadline = bench.settings.launch_deadline.max(launched.elapsed() + FIRST_ANSWER);
        let served = Served::connect(
            &bench,
            launch.clone(),
            site,
            liveness,
            launched,
            logs.read(),
            waiting::max_running(&dgd, spec.job.backend, &launch.candidate.mapping),
        )
        .await?;
        Ok(KubernetesEngine {
            cluster: self.clone(),
            name,
            served,
            launch: launch.clone(),
            logs,
            watching,
            _way: way,
            _guard: guard,
        })
    }
}

/// Waits for a deployment as a launch does, without creating it and without talking to its engine.
///
/// # Errors
/// If it is hopeless, or a deadline passes.
pub async fn until_ready(kube: &Kube, api: DgdApi, name: &str, deadlines: &Deadlines) -> Result<(), NotReady> {
    let watching = Watching::start(kube, api, name);
    let logs = Logs::follow(kube.clone(), watching.subscribe(), None);
    waiting::until_ready(kube, watching.subscribe(), &logs, deadlines, Instant::now()).await
}

/// Pods of a deployment that is ready are seen after this, or carry other labels than ours knows of.
const PODS_ARE_SEEN: Duration = Duration::from_secs(5);

/// Longest name of a deployment beside the component `Frontend`; pods are called after both.
const LONGEST_NAME: usize = 37;

/// What a candidate's deployment is called in a run; a long mapping is shortened to its checksum.
fn candidate_name(plain: &str, run: &str) -> String {
    let whole = format!("{plain}-{run}");
    if whole.len() <= LONGEST_NAME {
        return whole;
    }
    let room = LONGEST_NAME.saturating_sub(run.len() + 10);
    // Names are ASCII.
    let start = plain.get(..room).unwrap_or_default().trim_end_matches('-');
    format!("{start}-{:08x}-{run}", crc32fast::hash(plain.as_bytes()))
}

/// From ready to the first answer, at least.
const FIRST_ANSWER: Duration = Duration::from_secs(300);

#[async_trait]
impl Cluster for KubernetesCluster {
    fn kind(&self) -> &'static str {
        "kubernetes"
    }

    fn gpus(&self) -> u32 {
        self.0.spec.job.hardware.total_gpus
    }

    fn gpus_per_node(&self) -> u32 {
        self.0.spec.job.hardware.gpus_per_node
    }

    fn serves_both_roles(&self) -> bool {
        dgd::shares_engines(&self.0.spec)
    }

    fn expected_launch(&self, launch: &Launch) -> Duration {
        self.0.options.estimate.expected_launch(launch)
    }

    fn expected_measure(&self, launch: &Launch, probe: &Probe) -> Duration {
        self.0.options.estimate.expected_measure(launch, probe)
    }

    async fn launch(&self, launch: &Launch) -> Result<Box<dyn Engine>, Failure> {
        match self.bring_up(launch).await {
            Ok(engine) => Ok(Box::new(engine)),
            Err(failure) => {
                if let Ok((name, _)) = self.candidate(launch)
                    && let Err(error) = self.remove(&name, None).await
                {
                    tracing::warn!("{}: {error}", launch.candidate.name());
                }
                Err(failure)
            }
        }
    }

    async fn apply(&self, request: &ApplyRequest) -> Result<Box<dyn Deployment>, ApplyError> {
        self.deploy(request).await.map(|deployment| Box::new(deployment) as Box<dyn Deployment>)
    }

    async fn clean_up(&self) {
        let rolling_back = async {
            match self.roll_back_rollout().await {
                Ok(Some(what)) => tracing::warn!("{what}"),
                Ok(None) => {}
                Err(error) => tracing::error!("what was deployed before could not be put back: {error}"),
            }
        };
        let jobs = async {
            if let Some(crowd) = &self.0.crowd {
                crowd.remove_all().await;
            }
        };
        let (rolled_back, (), ()) =
            tokio::join!(tokio::time::timeout(lifetime::LAST_CHANCE, rolling_back), self.remove_all(), jobs);
        if rolled_back.is_err() {
            tracing::error!("what was deployed before could not be put back in time");
        }
    }
}

/// Tells a running engine's measurements that it is gone.
struct Guard(tokio::task::JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Guard {
    fn start(mut view: tokio::sync::watch::Receiver<watching::View>, keeper: Keeper) -> Self {
        let restarts = |view: &watching::View| view.pods.values().map(pods::PodView::restarts).sum::<i32>();
        let (before, pods) = {
            let view = view.borrow();
            (restarts(&view), view.pods.len())
        };
        Self(tokio::spawn(async move {
            loop {
                let reason = {
                    let view = view.borrow_and_update();
                    waiting::lost(&view, pods).or_else(|| {
                        (restarts(&view) > before).then(|| {
                            let who = view.pods.values().filter(|pod| pod.restarts() > 0).map(|pod| pod.name.clone());
                            format!("a container was restarted: {}", who.collect::<Vec<_>>().join(", ")).into()
                        })
                    })
                };
                if let Some(reason) = reason {
                    keeper.ended(reason);
                    return;
                }
                if view.changed().await.is_err() {
                    return;
                }
            }
        }))
    }
}

/// A deployment that answers.
struct KubernetesEngine {
    cluster: KubernetesCluster,
    name: String,
    served: Served,
    launch: Launch,
    logs: Logs,
    watching: Watching,
    _way: Way,
    _guard: Guard,
}

#[async_trait]
impl Engine for KubernetesEngine {
    fn facts(&self) -> &EngineFacts {
        self.served.facts()
    }

    async fn measure(&mut self, role: Role, probe: &Probe, aim: Aim) -> Result<Measurement, Failure> {
        let mut measured = self.served.measure(role, probe, aim).await;
        // Who died of what is in its log.
        if let Err(failure) = &mut measured
            && failure.class == FailureClass::Crash
        {
            let why = waiting::last_words(&self.cluster.0.options.kube, &self.logs, &self.watching.view()).await;
            failure.reason.push_str(&why.text);
            if matches!(failure.cause, None | Some(FailureCause::CrashLoop)) {
                failure.cause = why.cause;
            }
        }
        measured
    }

    fn log(&self) -> String {
        self.logs.text()
    }

    async fn shutdown(self: Box<Self>) -> Result<(), Failure> {
        let Self { cluster, name, launch, watching, .. } = *self;
        cluster.remove(&name, Some(watching)).await.map_err(|error| Failure {
            candidate: launch.id,
            class: FailureClass::Other,
            cause: None,
            probe: None,
            reason: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_candidates_fit_into_names_of_pods_and_differ() {
        assert_eq!(candidate_name("vllm-decode-tp4", "a1b2c3"), "vllm-decode-tp4-a1b2c3");
        let long = |last: &str| candidate_name(&format!("trtllm-prefill-tp2-dp16-etp4-ep8-pp{last}"), "a1b2c3");
        assert!(long("2").len() <= LONGEST_NAME, "{}", long("2"));
        assert_ne!(long("2"), long("4"));
        assert!(long("2").starts_with("trtllm-prefill-") && long("2").ends_with("-a1b2c3"), "{}", long("2"));
    }
}
