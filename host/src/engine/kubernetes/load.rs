//! Load from pods of the cluster, where one client is not enough.
//!
//! ```text
//! measure: Indexed Job, a client in each pod  --its log, followed--> Merge --enough?--> delete the Job, wait for its pods
//! ```
//!
//! Pods need no rights and no storage: what they are to do is in their environment, what comes of it in their logs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::io::AsyncBufReadExt as _;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::api::LogParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::pods::{Patience as PodPatience, PodView, SHORT_PATIENCE};
use crate::kubernetes::call::Patience;
use crate::kubernetes::lease;
use crate::kubernetes::{ClusterError, JOB_POD_LABEL, Kube, LOAD_LABEL, Owner};
use crate::load::builtin::Options;
use crate::load::builtin::crowd::{MOST_CLIENTS, Merge, Vocabulary, Work};
use crate::load::{Endpoint, LoadError, LoadGenerator, LoadReport, Point, Traffic};
use crate::spec::LoadClients;

/// The hidden command that a client's pod runs.
pub const COMMAND: &str = "__load-client";
/// Environment of a client: its [`Work`] as JSON.
pub const WORK_VARIABLE: &str = "SLA_PROFILER_LOAD";
/// Environment of a client: its number. Kubernetes sets it in pods of Indexed Jobs.
pub const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// Annotation of a pod of an Indexed Job, set by Kubernetes.
const INDEX_ANNOTATION: &str = "batch.kubernetes.io/job-completion-index";
const CONTAINER: &str = "client";

/// Pods get so long to go after they were told to: they end at once.
const GRACE_S: u32 = 5;
const UNTIL_GONE: Duration = Duration::from_secs(60);
/// Pause before a log that broke off is read again.
const PAUSE: Duration = Duration::from_millis(500);
/// How often deadlines are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A client that has ended may have said why; its log is on its way.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Lines of a log in a reason.
const LINES: usize = 5;
/// Lines that wait to be merged.
const WAITING: usize = 1024;

/// What clients are made of.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientPods {
    /// How many.
    pub clients: LoadClients,
    /// Image of this program; absent: nobody knows it.
    pub image: Option<String>,
    /// The pod in which this program runs: clients go to such nodes as it, with its pull secrets.
    pub like: Option<PodSpec>,
    /// What counts as the client being the bottleneck.
    pub options: Options,
}

/// Jobs of one run, and what was learned by them.
pub(super) struct Crowd {
    kube: Kube,
    owner: Owner,
    /// Name of the run's lease, if there is one.
    lease: Option<String>,
    pods: ClientPods,
    scheduling: Duration,
    /// Jobs that were created and not seen to go.
    live: Mutex<BTreeSet<String>>,
    count: AtomicU32,
    vocabulary: OnceCell<Vocabulary>,
    /// Load (requests in flight, or per second) from which so many clients were needed.
    needed: Mutex<BTreeMap<u64, u32>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How heavy a point is, for what was learned of others of its kind.
fn weight(traffic: Traffic) -> u64 {
    match traffic {
        Traffic::Closed { concurrency } => u64::from(concurrency),
        Traffic::Poisson { requests_per_second } | Traffic::Constant { requests_per_second } => {
            // Two kinds that are not compared: rates come after all numbers in flight.
            u64::from(u32::MAX) + requests_per_second.max(0.0) as u64
        }
    }
}

impl Crowd {
    pub(super) fn new(options: &super::Options, pods: ClientPods) -> Self {
        Self {
            kube: options.kube.clone(),
            owner: options.owner.clone(),
            lease: options.lease.as_ref().map(|lease| lease.name().to_owned()),
            pods,
            scheduling: options.deadlines.scheduling,
            live: Mutex::default(),
            count: AtomicU32::new(0),
            vocabulary: OnceCell::new(),
            needed: Mutex::default(),
        }
    }

    /// Deletes what is still there; for the end of the process.
    pub(super) async fn remove_all(&self) {
        let names: Vec<String> = lock(&self.live).iter().cloned().collect();
        for name in names {
            match self.kube.delete_job(&name, None, Patience::SHORT).await {
                Ok(()) => drop(lock(&self.live).remove(&name)),
                Err(error) => tracing::error!("{error}"),
            }
        }
    }

    /// Deletes what an earlier process of the same run left behind. One client leaves nothing behind.
    pub(super) async fn remove_leftovers(&self) -> Result<usize, ClusterError> {
        if self.pods.clients == LoadClients::Exactly(1) {
            return Ok(0);
        }
        let left = self.kube.jobs_with(&format!("{},{LOAD_LABEL}", self.owner.selector())).await?;
        for name in &left {
            tracing::warn!("an earlier process of this run left the Job {name} behind; it is deleted");
            self.kube.delete_job(name, None, Patience::LONG).await?;
        }
        Ok(left.len())
    }

    /// How many clients to begin with.
    fn begin_with(&self, point: &Point) -> u32 {
        match self.pods.clients {
            LoadClients::Exactly(clients) => clients,
            LoadClients::Auto => {
                let (needed, weight) = (lock(&self.needed), weight(point.traffic));
                let same_kind = |known: &u64| (*known >= u64::from(u32::MAX)) == (weight >= u64::from(u32::MAX));
                needed.range(..=weight).filter(|(known, _)| same_kind(known)).map(|(_, n)| *n).max().unwrap_or(1)
            }
        }
    }

    /// One point by that many clients, in a Job.
    async fn by_job(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        point: &Point,
        clients: u32,
    ) -> Result<LoadReport, LoadError> {
        let image = self.pods.image.as_deref().ok_or_else(|| {
            LoadError::Setup("no image for the pods that send requests; --load-image names this program's".to_owned())
        })?;
        if endpoint.api_key.is_some() {
            return Err(LoadError::Setup(
                "clients in pods cannot have the key of --api-key-file; --load-clients 1 sends from here".to_owned(),
            ));
        }
        let tokenizer = endpoint.tokenizer.clone();
        let reading = self.vocabulary.get_or_try_init(|| async {
            let read = tokio::task::spawn_blocking(move || Vocabulary::of(tokenizer.as_deref())).await;
            read.map_err(|error| LoadError::Setup(error.to_string()))?
        });
        let work = Work::new(endpoint, reading.await?, point, clients)?;
        let name =
            format!("load-{}-{:x}-{}", self.owner.run, std::process::id(), self.count.fetch_add(1, Ordering::Relaxed));
        let mut job = job(&name, image, self.pods.like.as_ref(), &work)?;
        self.owner.mark(&mut job, &self.kube.namespace);
        if let Some(lease) = &self.lease {
            lease::run::mark(&mut job, lease);
        }
        // Before the request: one that is cut off may have worked.
        lock(&self.live).insert(name.clone());
        let guard = Guard { crowd: Arc::clone(self), name: Some(name.clone()) };
        self.kube.create_job(&job).await.map_err(|error| refused(&error))?;
        let mut following = Following::start(&self.kube, &name);
        let mut merge = Merge::new(&work);
        let within = point.deadline + self.scheduling;
        let outcome = timeout(within, self.follow(&mut following, &mut merge)).await.unwrap_or_else(|_| {
            Err(LoadError::Deadline { deadline_s: within.as_secs_f64(), progress: merge.progress() })
        });
        guard.end(&mut following).await;
        outcome
    }

    async fn follow(&self, following: &mut Following, merge: &mut Merge) -> Result<LoadReport, LoadError> {
        let mut problems: BTreeMap<String, Instant> = BTreeMap::new();
        let mut gone: Option<(Instant, String)> = None;
        loop {
            tokio::select! {
                heard = following.next() => match heard {
                    Heard::Line(client, line) => {
                        if let Some(stopped) = merge.take(client, &line)? {
                            return merge.report(stopped, &self.pods.options);
                        }
                    }
                    Heard::Gone(pod) => {
                        gone.get_or_insert((Instant::now() + LAST_WORDS, format!("pod {pod} is gone")));
                    }
                    Heard::Changed => {}
                },
                () = sleep(LOOK) => {}
            }
            for (name, view) in &following.pods {
                let Some(problem) = &view.problem else {
                    problems.remove(name);
                    continue;
                };
                let since = problems.entry(name.clone()).or_insert_with(Instant::now).elapsed();
                let patience = match problem.patience {
                    PodPatience::None => LAST_WORDS,
                    PodPatience::Short => SHORT_PATIENCE,
                    PodPatience::Scheduling => self.scheduling,
                };
                if since >= patience {
                    gone = Some((Instant::now(), problem.reason.clone()));
                }
            }
            if let Some((when, reason)) = &gone
                && Instant::now() >= *when
            {
                let words = following.last_words();
                return Err(LoadError::Setup(format!("a client of the load has ended: {reason}{words}")));
            }
        }
    }
}

fn refused(error: &ClusterError) -> LoadError {
    let hint = error.hint().map_or_else(String::new, |hint| format!("; {hint}"));
    LoadError::Setup(format!("{error}{hint}; examples/kubernetes/load has what load from pods needs"))
}

/// Deletes a Job when the measurement is dropped.
struct Guard {
    crowd: Arc<Crowd>,
    name: Option<String>,
}

impl Guard {
    /// Deletes it and waits until nobody sends any more.
    async fn end(mut self, following: &mut Following) {
        let Some(name) = self.name.clone() else { return };
        if let Err(error) = self.crowd.kube.delete_job(&name, None, Patience::LONG).await {
            // What is live is deleted again at the end.
            tracing::warn!("{error}");
            self.name = None;
            return;
        }
        if timeout(UNTIL_GONE, following.until_gone()).await.is_err() {
            let left: Vec<&str> = following.pods.keys().map(String::as_str).collect();
            tracing::warn!("pods of the load are not gone after {} s: {}", UNTIL_GONE.as_secs(), left.join(", "));
        }
        lock(&self.crowd.live).remove(&name);
        self.name = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (Some(name), Ok(runtime)) = (self.name.take(), tokio::runtime::Handle::try_current()) else { return };
        let crowd = Arc::clone(&self.crowd);
        runtime.spawn(async move {
            if crowd.kube.delete_job(&name, None, Patience::SHORT).await.is_ok() {
                lock(&crowd.live).remove(&name);
            }
        });
    }
}

/// The pods of a Job and their logs, as they come.
struct Following {
    pods: BTreeMap<String, PodView>,
    events: mpsc::Receiver<Event<Pod>>,
    lines: mpsc::Receiver<(u32, String)>,
    sender: mpsc::Sender<(u32, String)>,
    kube: Kube,
    followed: BTreeSet<String>,
    listing: BTreeSet<String>,
    /// What clients say to people, the newest lines.
    words: VecDeque<String>,
    tasks: JoinSet<()>,
}

enum Heard {
    Line(u32, String),
    /// A pod that was there.
    Gone(String),
    Changed,
}

impl Following {
    fn start(kube: &Kube, job: &str) -> Self {
        let config = watcher::Config::default().labels(&format!("{JOB_POD_LABEL}={job}"));
        let watching = watcher::watcher(kube.pods(), config);
        let (event_sender, events) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut stream = pin!(watching.default_backoff());
            while let Some(event) = stream.next().await {
                match event {
                    Ok(event) => {
                        if event_sender.send(event).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::debug!("watch: {error}"),
                }
            }
        });
        let (sender, lines) = mpsc::channel(WAITING);
        Self {
            pods: BTreeMap::new(),
            events,
            lines,
            sender,
            kube: kube.clone(),
            followed: BTreeSet::new(),
            listing: BTreeSet::new(),
            words: VecDeque::new(),
            tasks,
        }
    }

    async fn next(&mut self) -> Heard {
        tokio::select! {
            biased;
            Some((client, line)) = self.lines.recv() => {
                if !line.starts_with('#') {
                    self.words.push_back(line.clone());
                    if self.words.len() > LINES {
                        self.words.pop_front();
                    }
                }
                Heard::Line(client, line)
            }
            Some(event) = self.events.recv() => self.see(event),
            else => std::future::pending().await,
        }
    }

    fn see(&mut self, event: Event<Pod>) -> Heard {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(pod) => {
                self.listing.extend(pod.metadata.name.clone());
                self.apply(&pod);
            }
            Event::Apply(pod) => self.apply(&pod),
            Event::InitDone => {
                let lost = self.pods.keys().find(|name| !self.listing.contains(*name)).cloned();
                self.pods.retain(|name, _| self.listing.contains(name));
                if let Some(lost) = lost {
                    return Heard::Gone(lost);
                }
            }
            Event::Delete(pod) => {
                let name = pod.metadata.name.unwrap_or_default();
                self.pods.remove(&name);
                return Heard::Gone(name);
            }
        }
        Heard::Changed
    }

    fn apply(&mut self, pod: &Pod) {
        let view = PodView::new(pod);
        let index = pod.metadata.annotations.as_ref().and_then(|all| all.get(INDEX_ANNOTATION)?.parse::<u32>().ok());
        if let Some(index) = index
            && view.started.contains_key(CONTAINER)
            && self.followed.insert(view.name.clone())
        {
            let (kube, name, sender) = (self.kube.clone(), view.name.clone(), self.sender.clone());
            self.tasks.spawn(async move {
                loop {
                    match read(&kube, &name, index, &sender).await {
                        Ok(()) => tracing::debug!("the log of pod {name} has ended"),
                        Err(error) => tracing::debug!("the log of pod {name}: {error}"),
                    }
                    if sender.is_closed() {
                        return;
                    }
                    sleep(PAUSE).await;
                }
            });
        }
        self.pods.insert(view.name.clone(), view);
    }

    async fn until_gone(&mut self) {
        while !self.pods.is_empty() {
            let Some(event) = self.events.recv().await else { return };
            self.see(event);
        }
    }

    fn last_words(&self) -> String {
        if self.words.is_empty() {
            return String::new();
        }
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        format!("; the last lines of its log:\n{}", words.join("\n"))
    }
}

/// One stream of a log, from its beginning: whoever merges knows which lines it has.
async fn read(kube: &Kube, pod: &str, client: u32, sender: &mpsc::Sender<(u32, String)>) -> kube::Result<()> {
    let params = LogParams { container: Some(CONTAINER.to_owned()), follow: true, ..LogParams::default() };
    let mut lines = kube.pods().log_stream(pod, &params).await?.lines().map_err(kube::Error::ReadEvents);
    while let Some(line) = lines.next().await {
        if sender.send((client, line?)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The Job of a point.
fn job(name: &str, image: &str, like: Option<&PodSpec>, work: &Work) -> Result<Value, LoadError> {
    let work_json = serde_json::to_string(work).map_err(|error| LoadError::Setup(error.to_string()))?;
    let labels = json!({ LOAD_LABEL: "true" });
    let mut pod = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "seccompProfile": { "type": "RuntimeDefault" },
        },
        // Clients that share a node share its network card and its CPUs.
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": { LOAD_LABEL: "true" } },
        }],
        "containers": [{
            "name": CONTAINER,
            "image": image,
            "args": [COMMAND],
            "env": [{ "name": WORK_VARIABLE, "value": work_json }],
            // An event loop, its watch, and the thread that makes prompts.
            "resources": { "requests": { "cpu": "1", "memory": "128Mi" }, "limits": { "memory": "1Gi" } },
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
            },
        }],
    });
    if let (Some(like), Some(pod)) = (like.and_then(|like| serde_json::to_value(like).ok()), pod.as_object_mut()) {
        for key in ["imagePullSecrets", "nodeSelector", "tolerations"] {
            if let Some(value) = like.get(key) {
                pod.insert(key.to_owned(), value.clone());
            }
        }
    }
    Ok(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": name, "labels": labels },
        "spec": {
            "completionMode": "Indexed",
            "completions": work.clients,
            "parallelism": work.clients,
            // A client that ended has left a hole in the load: the point is lost.
            "backoffLimit": 0,
            // Should nobody be left to delete it.
            "activeDeadlineSeconds": work.longest().as_secs() + 600,
            "ttlSecondsAfterFinished": 300,
            "template": { "metadata": { "labels": labels }, "spec": pod },
        },
    }))
}

/// The load generator of one engine: this process alone, or clients in pods.
pub(super) struct Scaled {
    /// This process.
    pub(super) single: Arc<dyn LoadGenerator>,
    pub(super) crowd: Arc<Crowd>,
    /// Where the engine answers as seen from a pod.
    pub(super) inside_url: String,
}

#[async_trait]
impl LoadGenerator for Scaled {
    fn name(&self) -> &'static str {
        self.single.name()
    }

    async fn measure(&self, endpoint: &Endpoint, point: &Point) -> Result<LoadReport, LoadError> {
        let mut clients = self.crowd.begin_with(point);
        loop {
            let measured = if clients <= 1 {
                self.single.measure(endpoint, point).await
            } else {
                let inside = Endpoint { url: self.inside_url.clone(), ..endpoint.clone() };
                self.crowd.by_job(&inside, point, clients).await
            };
            let more = (clients * 2).min(MOST_CLIENTS);
            let can_grow = match point.traffic {
                Traffic::Closed { concurrency } => concurrency > clients,
                _ => true,
            };
            match measured {
                Err(LoadError::ClientBound { reason, .. })
                    if self.crowd.pods.clients == LoadClients::Auto && more > clients && can_grow =>
                {
                    tracing::info!("{clients} clients of the load were the bottleneck ({reason}); now {more} pods");
                    lock(&self.crowd.needed).insert(weight(point.traffic), more);
                    clients = more;
                }
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_flight_and_rates_are_weighed_apart_and_in_order() {
        let closed = |concurrency| weight(Traffic::Closed { concurrency });
        let rate = |requests_per_second| weight(Traffic::Poisson { requests_per_second });
        assert!(closed(3) < closed(1000) && closed(u32::MAX) <= rate(0.1) && rate(3.0) < rate(40.0));
    }
}
