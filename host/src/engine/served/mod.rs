//! Engines that answer over HTTP, wherever they run. A cluster brings one up and tells here where it answers and how it
//! is known to be dead; waiting for it, its facts and its measurements are the same everywhere.
//!
//! ```text
//! local, endpoint, … --Site, Liveness--> Served --first_answer--> ready.rs     one real completion
//!                                           |----facts-----> capacity.rs  <- metrics.rs, log lines, formula
//!                                           '----measure---> load::LoadGenerator, and watch.rs meanwhile
//! ```

mod capacity;
mod check;
mod exposition;
mod liveness;
mod metrics;
mod ready;
mod watch;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

pub use capacity::TOLERANCE;
pub use check::check;
pub use liveness::{Ended, Keeper, Liveness};
pub use metrics::Look;

use self::capacity::Words;
use self::watch::Looks;
use super::Launch;
use crate::backends;
use crate::domain::memory::{DEFAULT_BATCHED_TOKENS, MemoryPlan};
use crate::domain::{Aim, Candidate, EngineFacts, Failure, FailureClass, Job, Measurement, Probe, Role};
use crate::http::{Client, Origin};
use crate::load::{Endpoint, LoadError, LoadGenerator, LoadReport, Point};
use crate::run::RunDir;

/// An engine whose requests break off has this long to be found dead, so that the row says why.
const GRACE_OF_DEATH: Duration = Duration::from_secs(3);

/// A look at the metrics may take so long.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);

/// The user's wish to stop, which ends waiting for engines at once; measurements are finished.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Over the flag that the scheduler looks at.
    pub const fn new(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    /// The flag itself.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Waits until the user asks.
    pub async fn requested(&self) {
        while !self.0.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Where an engine answers.
#[derive(Debug, Clone)]
pub struct Site {
    /// Completions.
    pub endpoint: Endpoint,
    /// Servers with a `/metrics` page that are part of it: a frontend's and its workers' together describe the engine.
    /// The same form as [`Endpoint::url`].
    pub metrics_urls: Vec<String>,
}

/// How engines are waited for and measured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// From the order to the first answer.
    pub launch_deadline: Duration,
    /// For one point, warming up included.
    pub point_deadline: Duration,
    /// Sources of the KV capacity may differ by this fraction.
    pub kv_tolerance: f64,
    /// KV capacity in tokens that the user vouches for.
    pub kv_tokens: Option<u64>,
    /// Most requests that an engine runs at once, where the user says so.
    pub max_running: Option<u32>,
}

impl Default for Settings {
    /// Half an hour each, as NVIDIA's profiler gives a deployment and a request.
    fn default() -> Self {
        let half_an_hour = Duration::from_secs(1800);
        Self {
            launch_deadline: half_an_hour,
            point_deadline: half_an_hour,
            kv_tolerance: TOLERANCE,
            kv_tokens: None,
            max_running: None,
        }
    }
}

/// What all engines of a cluster share.
#[derive(Clone)]
pub struct Bench {
    /// The question.
    pub job: Arc<Job>,
    /// Who measures.
    pub generator: Arc<dyn LoadGenerator>,
    /// Deadlines and what the user knows.
    pub settings: Settings,
    /// For everything but load.
    pub http: Client,
    /// The user's wish to stop.
    pub stop: Stop,
    /// Where each point's report goes; none where nothing is to be written.
    pub reports: Option<RunDir>,
}

/// See the module's text.
pub struct Served {
    job: Arc<Job>,
    generator: Arc<dyn LoadGenerator>,
    settings: Settings,
    http: Client,
    stop: Stop,
    reports: Option<RunDir>,
    launch: Launch,
    site: Site,
    liveness: Liveness,
    facts: EngineFacts,
    /// Servers that have said that they have no metrics; they are not asked again.
    without_metrics: Mutex<BTreeSet<String>>,
}

/// What a server without metrics answers: there is no such page, or nothing to be got from it.
const NO_SUCH_PAGE: [u16; 4] = [404, 405, 410, 501];

impl Served {
    /// An engine that has been told to start at `launched`, answers at `site` and lives as long as `liveness` says.
    /// Waits for its first completion, then asks everybody how large it is.
    ///
    /// `log` is awaited once the engine answers, for the lines that tell of its capacity; `Err` says why there is no
    /// log. `asked_max_running` is the limit on its command line, over all attention-DP ranks, if there is one.
    ///
    /// # Errors
    /// If it does not answer within the deadline, ends before that, or its capacity is unknown or disputed. Ending
    /// what is left of it is up to the caller.
    pub async fn connect(
        bench: &Bench,
        launch: Launch,
        site: Site,
        liveness: Liveness,
        launched: Instant,
        log: impl Future<Output = Result<String, String>> + Send,
        asked_max_running: Option<u32>,
    ) -> Result<Self, Failure> {
        let facts =
            EngineFacts { candidate: launch.id, kv_tokens: 0, max_running: 0, launch_s: 0.0, kv_sources: Vec::new() };
        let Bench { job, generator, settings, http, stop, reports } = bench.clone();
        let without_metrics = Mutex::default();
        let mut served =
            Self { job, generator, settings, http, stop, reports, launch, site, liveness, facts, without_metrics };
        let left = served.settings.launch_deadline.saturating_sub(launched.elapsed());
        served.first_answer(left, &served.stop).await.map_err(|not_ready| {
            let class = not_ready.class;
            Failure { cause: not_ready.cause, ..served.failure(class, None, &not_ready.reason) }
        })?;
        let launch_s = launched.elapsed().as_secs_f64();
        let facts = served.settle(&log.await, asked_max_running, launch_s).await;
        served.facts = facts.map_err(|reason| served.failure(FailureClass::Launch, None, &reason))?;
        Ok(served)
    }

    /// What it said of itself when it came up.
    pub const fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// Where it answers.
    pub const fn site(&self) -> &Site {
        &self.site
    }

    /// Role, mapping, and who it is.
    fn failure(&self, class: FailureClass, probe: Option<&Probe>, reason: &str) -> Failure {
        let candidate = &self.launch.candidate;
        let place = match probe {
            Some(p) => format!("{} at isl {}, osl {}, concurrency {}", candidate.name(), p.isl, p.osl, p.concurrency),
            None => candidate.name(),
        };
        Failure {
            candidate: self.launch.id,
            class,
            cause: None,
            probe: probe.copied(),
            reason: format!("{place}: {reason}"),
        }
    }

    /// It is gone.
    fn lost(&self, ended: &Ended) -> Failure {
        Failure { cause: ended.cause, ..self.failure(FailureClass::Crash, None, &ended.reason) }
    }

    const fn ranks(&self) -> u32 {
        self.launch.candidate.mapping.attention_dp
    }

    /// One look at its metrics.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn look(&self) -> Result<Look, String> {
        let mut samples = Vec::new();
        let mut trouble = "it has no metrics endpoint".to_owned();
        for url in &self.site.metrics_urls {
            if self.without_metrics().contains(url) {
                trouble = format!("{url} has no metrics");
                continue;
            }
            let origin: Origin = url.parse().map_err(|error: crate::http::HttpError| error.to_string())?;
            let key = self.site.endpoint.api_key.as_ref().map(crate::load::ApiKey::expose);
            match self.http.get(&origin, "/metrics", key, LOOK_DEADLINE).await {
                Ok(page) if page.is_success() => samples.extend(exposition::parse(&page.text())),
                Ok(page) => {
                    trouble = format!("{url}/metrics answers {}", page.status);
                    if NO_SUCH_PAGE.contains(&page.status) {
                        self.without_metrics().insert(url.clone());
                    }
                }
                Err(error) => trouble = error.to_string(),
            }
        }
        if samples.is_empty() {
            return Err(trouble);
        }
        Ok(metrics::look(&samples, &self.site.endpoint.model, self.ranks()))
    }

    fn without_metrics(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.without_metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody has metrics.
    fn is_silent(&self) -> bool {
        let without = self.without_metrics();
        self.site.metrics_urls.iter().all(|url| without.contains(url))
    }

    async fn settle(
        &self,
        log: &Result<String, String>,
        asked_max_running: Option<u32>,
        launch_s: f64,
    ) -> Result<EngineFacts, String> {
        let Job { model, hardware, backend, .. } = &*self.job;
        let mapping = &self.launch.candidate.mapping;
        let look = self.look().await;
        let words = Words {
            given: self.settings.kv_tokens,
            metrics: look.clone().and_then(|look| {
                look.kv_tokens.map(|tokens| tokens as u64).ok_or_else(|| "its metrics do not tell".to_owned())
            }),
            log: log.clone().and_then(|log| {
                backends::kv_capacity_from_log(*backend, &log, self.ranks())
                    .map(|capacity| (capacity.kv_tokens, capacity.line))
                    .ok_or_else(|| format!("no line of {backend}'s in its log tells"))
            }),
            formula: MemoryPlan::new(model, mapping, &hardware.gpu, DEFAULT_BATCHED_TOKENS).kv_tokens() as u64,
        };
        let (kv_tokens, kv_sources) = words.settle(self.settings.kv_tolerance)?;
        let logged = log.as_deref().ok().and_then(|log| backends::max_running_from_log(*backend, log));
        let max_running = (look.ok().and_then(|look| look.max_running).map(|n| n as u32))
            .or_else(|| logged.map(|n| n.saturating_mul(self.ranks().max(1))))
            .or(self.settings.max_running)
            .or(asked_max_running);
        let kv_tokens = u32::try_from(kv_tokens).unwrap_or(u32::MAX);
        if max_running.is_none() {
            tracing::info!(
                "{}: nobody says how many requests it runs at once; only its KV cache bounds them",
                self.launch.candidate.name()
            );
        }
        Ok(EngineFacts {
            candidate: self.launch.id,
            kv_tokens,
            // Every request holds a token at least.
            max_running: max_running.unwrap_or(kv_tokens),
            launch_s,
            kv_sources,
        })
    }

    /// Measures one point. What the engine says of itself meanwhile goes into the measurement: the requests that it
    /// ran, and how full its KV cache was. Where it does not tell, the first is what the client had in flight, and the
    /// second that many requests with half of their answer.
    ///
    /// # Errors
    /// Without a probe: the engine is gone. With one: this point is no good, and why.
    pub async fn measure(&self, role: Role, probe: &Probe, aim: Aim) -> Result<Measurement, Failure> {
        if let Some(ended) = self.liveness.reason() {
            return Err(self.lost(&ended));
        }
        let point = Point {
            deadline: self.settings.point_deadline,
            artifacts: self.reports.as_ref().and_then(|dir| {
                // Where that is no folder of the run's, nothing is kept.
                dir.folder(std::path::Path::new(&self.folder(role))).ok()
            }),
            ..Point::of(role, probe, aim, &self.job.sla, self.seed(role, probe))
        };
        let started = Instant::now();
        let mut looks = Looks::default();
        let outcome = tokio::select! {
            biased;
            ended = self.liveness.ended() => return Err(self.lost(&ended)),
            outcome = self.generator.measure(&self.site.endpoint, &point) => outcome,
            // Never ends.
            () = self.watch(&mut looks) => Err(LoadError::Setup("the engine's metrics ended".to_owned())),
        };
        let report = match outcome {
            Ok(report) => report,
            Err(error) => return Err(self.load_failure(probe, error).await),
        };
        if let Some(trouble) = &report.unsteady {
            tracing::warn!("{}: {trouble}", self.failure(FailureClass::Measurement, Some(probe), "unsteady").reason);
        }
        self.keep(role, probe, &report);
        Ok(self.measurement(role, probe, &report, &looks, started.elapsed()))
    }

    /// What a generator's error means for the engine.
    async fn load_failure(&self, probe: &Probe, error: LoadError) -> Failure {
        // A dying engine breaks its connections before anybody finds it dead.
        if let Ok(ended) = timeout(GRACE_OF_DEATH, self.liveness.ended()).await {
            return self.lost(&ended);
        }
        let reason = error.to_string();
        match error {
            LoadError::Unreachable { .. } => self.failure(FailureClass::Crash, None, &reason),
            LoadError::Deadline { .. } => self.failure(FailureClass::Timeout, Some(probe), &reason),
            _ => self.failure(FailureClass::Measurement, Some(probe), &reason),
        }
    }

    /// Of the candidate that is measured in this role, whomever the engine was launched for.
    fn folder(&self, role: Role) -> String {
        Candidate { role, ..self.launch.candidate.clone() }.dir_name()
    }

    /// Different for every point, the same when a point is measured again.
    fn seed(&self, role: Role, probe: &Probe) -> u64 {
        let parts = [
            u64::from(self.job.seed),
            role as u64,
            u64::from(probe.candidate),
            u64::from(probe.isl),
            u64::from(probe.osl),
            u64::from(probe.concurrency),
        ];
        // FNV-1a over the words; the generator spreads it further.
        parts.iter().fold(0xcbf2_9ce4_8422_2325, |hash, part| (hash ^ part).wrapping_mul(0x0100_0000_01b3))
    }

    /// The whole report, for who wants to know more than the measurement tells.
    fn keep(&self, role: Role, probe: &Probe, report: &LoadReport) {
        let Some(dir) = &self.reports else { return };
        let name =
            format!("{}/load/{role}_isl{}_osl{}_n{}.json", self.folder(role), probe.isl, probe.osl, probe.concurrency);
        // A report that cannot be kept costs no measurement; a full disk is the journal's to report.
        match serde_json::to_vec(report).map_err(|error| error.to_string()) {
            Ok(json) => {
                if let Err(error) = dir.write(&name, &json) {
                    tracing::warn!("{error}");
                }
            }
            Err(error) => tracing::warn!("{name}: {error}"),
        }
    }

    fn measurement(
        &self,
        role: Role,
        probe: &Probe,
        report: &LoadReport,
        looks: &Looks,
        took: Duration,
    ) -> Measurement {
        let gpus = f64::from(self.launch.candidate.gpus().max(1));
        let kv_tokens = f64::from(self.facts.kv_tokens.max(1));
        let context_tokens = f64::from(probe.isl) + f64::from(probe.osl) / 2.0;
        let (running, kv_usage) = looks.under_load();
        let concurrency_seen = running.unwrap_or(report.concurrency_seen.value);
        let figure = match role {
            Role::Prefill => report.ttft_ms,
            Role::Decode => report.itl_ms,
        };
        let of = |wanted: Role| figure.filter(|_| role == wanted).map(|figure| figure.stat);
        Measurement {
            candidate: probe.candidate,
            isl: probe.isl,
            osl: probe.osl,
            concurrency: probe.concurrency,
            concurrency_seen,
            ttft_ms: of(Role::Prefill),
            itl_ms: of(Role::Decode),
            samples: figure.map_or(0, |figure| figure.samples),
            failed_requests: report.failed_requests,
            input_tokens_per_second_per_gpu: match role {
                Role::Prefill => report.input_tokens_per_second.value / gpus,
                // Prompts come from the cache.
                Role::Decode => 0.0,
            },
            output_tokens_per_second_per_gpu: report.output_tokens_per_second.value / gpus,
            kv_usage: kv_usage.unwrap_or((concurrency_seen * context_tokens / kv_tokens).min(1.0)),
            kv_usage_nominal: f64::from(probe.concurrency) * context_tokens / kv_tokens,
            duration_s: took.as_secs_f64(),
        }
    }
}
