//! Decides where and when things run: packs engines into the GPUs of each node, keeps them alive while they are useful,
//! and turns batches of probes into measurements.
//!
//! ```text
//! batch of probes --> one task per candidate --acquire--> Engine --measure, measure, …--> idle
//!                                              |
//!         idle engine of that mapping, or free GPUs of a node, or GPUs of idle engines that matter less, or wait
//! ```
//!
//! - Where the cluster allows it, one engine serves both roles: whoever comes first has it launched.
//! - Both roles' batches run at the same time. An engine that a batch asked for stays up until the next batch leaves it
//!   out; then it goes, unless it will probably win ([`likely`]) and its GPUs are not needed.
//! - An engine that fails of something that passes is brought up again ([`retry`]); until then nobody is told.
//! - A launch that takes far longer than the others did is given up, where that leaves nothing behind.
//!
//! Strategies say what to measure; only this module says where. Time is tokio's, so the same code packs engines on a
//! real cluster and on a virtual clock.

pub mod budget;
pub mod likely;
mod pool;
pub mod retry;
pub mod side_by_side;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::budget::{Action, Budget};
use self::pool::{Batch, Key, Live, Nodes, Place, Pool};
use self::retry::{Next, with_tries};
use crate::domain::{Aim, Candidate, CandidateId, EngineFacts, Failure, FailureClass, Probe, Role};
use crate::engine::served::Stop;
use crate::engine::{Cluster, Engine, Launch};
use crate::process::secrets::masked;
use crate::run::{Event, JournalError, Phase, Recorder, Retry, RunDir};

/// Bounds on what runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduling {
    /// Engines that may be up at once.
    pub most_engines: usize,
    /// Engines that may be coming up at once: weights come over the same network, from the same storage.
    pub most_launches: usize,
}

impl Default for Scheduling {
    fn default() -> Self {
        Self { most_engines: usize::MAX, most_launches: 8 }
    }
}

impl Scheduling {
    /// The default, but for the launches at once where the user says how many.
    pub fn launching_at_most(launches: Option<NonZeroU32>) -> Self {
        let default = Self::default();
        Self { most_launches: launches.map_or(default.most_launches, |n| n.get() as usize), ..default }
    }
}

/// A launch is given up after this many times what the slowest one took that worked, ...
const PATIENCE: f64 = 2.0;

/// ... and this long, in seconds: quick launches differ by more.
const LEAST_PATIENCE_S: f64 = 30.0;

/// Before any launch worked, the slowest one is taken to take so many times its forecast.
const DOUBT: f64 = 1.5;

/// Why measuring ended before it was done.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// The user asked.
    #[error("interrupted")]
    Interrupted,
    /// What was measured cannot be kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// See the module's text.
pub struct Scheduler {
    cluster: Arc<dyn Cluster>,
    candidates: Vec<Candidate>,
    recorder: Recorder,
    /// Where engines' logs go; none in a dry run.
    logs: Option<RunDir>,
    scheduling: Scheduling,
    pool: Mutex<Pool>,
    /// GPUs became free, or an engine idle, or it became clearer how long launches take.
    changed: Notify,
    stop: Arc<AtomicBool>,
    budget: Option<Budget>,
}

/// What a run has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Usage {
    /// Engines that were launched, failed ones included.
    pub launches: u32,
    /// GPUs times seconds that engines held, launching included, on the cluster's clock.
    pub gpu_seconds: f64,
}

/// Sweeps compare candidates, curves are for their values.
const fn aim(phase: Phase) -> Aim {
    match phase {
        Phase::PrefillSweep | Phase::DecodeSweep => Aim::Compare,
        _ => Aim::Value,
    }
}

impl Scheduler {
    /// All GPUs of the cluster are taken to be free. What an earlier part of the run knows of engines that failed is known.
    pub fn new(
        cluster: Arc<dyn Cluster>,
        candidates: Vec<Candidate>,
        recorder: Recorder,
        logs: Option<RunDir>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let mut pool = Pool::new(Nodes::new(cluster.gpus(), cluster.gpus_per_node()));
        let key = |failure: &Failure| {
            let candidate = candidates.get(failure.candidate as usize)?;
            Some(pool::key(candidate, cluster.serves_both_roles()))
        };
        for Retry { failure, .. } in recorder.retries() {
            if let Some(key) = key(&failure) {
                pool.tries.recall(key, &failure);
            }
        }
        // One that ended in use may work for the other role.
        for failure in recorder.known_engine_failures().into_iter().filter(|f| f.class != FailureClass::Crash) {
            pool.failed.extend(key(&failure).map(|key| (key, failure)));
        }
        let pool = Mutex::new(pool);
        let scheduling = Scheduling::default();
        Self { cluster, candidates, recorder, logs, scheduling, pool, changed: Notify::new(), stop, budget: None }
    }

    /// The same with other bounds.
    #[must_use]
    pub fn with(mut self, scheduling: Scheduling) -> Self {
        self.scheduling = scheduling;
        self
    }

    /// The same within a budget: what it cannot afford is not begun, and ends the run as the user's wish would.
    #[must_use]
    pub fn within(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Whether the budget is enough for this. If not, everything stops.
    fn affords(&self, action: Action, id: CandidateId, candidate: &Candidate, probe: Option<&Probe>) -> bool {
        let Some(budget) = &self.budget else { return true };
        let launch = Launch { id, candidate: candidate.clone(), failed: 0 };
        let expected = match probe {
            Some(probe) => self.cluster.expected_measure(&launch, probe),
            None => self.cluster.expected_launch(&launch),
        };
        let affords = budget.affords(action, id, expected, self.recorder.now_s());
        if !affords {
            self.stop.store(true, Ordering::Relaxed);
            self.changed.notify_waiters();
        }
        affords
    }

    /// The cluster that it schedules.
    pub fn cluster(&self) -> &Arc<dyn Cluster> {
        &self.cluster
    }

    /// What was used by engines that are gone.
    pub fn usage(&self) -> Usage {
        let pool = self.pool();
        Usage { launches: pool.launches, gpu_seconds: pool.gpu_seconds }
    }

    /// Whether the user asked to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, id: CandidateId) -> Option<Key> {
        Some(pool::key(self.candidates.get(id as usize)?, self.cluster.serves_both_roles()))
    }

    fn gpus(&self, id: CandidateId) -> u32 {
        self.candidates.get(id as usize).map_or(0, Candidate::gpus)
    }

    /// Says whose engines should stay up although nobody waits for them.
    pub fn expect_winners(&self, likely: Vec<CandidateId>) {
        self.pool().likely = likely;
    }

    /// Measures all probes that the history does not settle yet; all are of the same role. What comes out, failures
    /// included, is in the history afterwards; only the end of the whole run is an error. Engines stay alive for the next
    /// batch of the role.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn measure(&self, phase: Phase, probes: &[Probe]) -> Result<(), Halt> {
        let mut groups: Vec<(CandidateId, Vec<Probe>)> = Vec::new();
        let mut role = None;
        for probe in probes {
            role = role.or(self.candidates.get(probe.candidate as usize).map(|candidate| candidate.role));
            if self.recorder.with_history(|history| history.is_settled(probe))
                || self.recorder.recall(phase, probe)
                || self.recorder.reuse(phase, probe, aim(phase))?
            {
                continue;
            }
            match groups.iter_mut().find(|(candidate, _)| *candidate == probe.candidate) {
                Some((_, group)) if group.iter().any(|known| known.point() == probe.point()) => {}
                Some((_, group)) => group.push(*probe),
                None => groups.push((probe.candidate, vec![*probe])),
            }
        }
        let Some(role) = role else { return Ok(()) };
        let open: Vec<CandidateId> = groups.iter().map(|(id, _)| *id).collect();
        let needed = open.iter().fold(0_u32, |sum, id| sum.saturating_add(self.gpus(*id)));
        let unwanted = {
            let mut pool = self.pool();
            let oversized = needed > self.cluster.gpus() || open.len() > self.scheduling.most_engines;
            *pool.batch(role) = Batch { open, through: Vec::new(), oversized };
            pool.take_unwanted(&|id| self.key(id))
        };
        let mut tasks: FuturesUnordered<LocalBoxFuture<'_, Result<(), Halt>>> = FuturesUnordered::new();
        tasks.extend(unwanted.into_iter().map(|live| self.end(live).boxed_local()));
        tasks.extend(groups.iter().map(|(candidate, group)| self.serve(phase, *candidate, group).boxed_local()));
        self.changed.notify_waiters();
        self.all(tasks).await
    }

    /// Nothing more is asked for the role; engines that nobody else waits for go, but for the likely winners'.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn finished(&self, role: Role) -> Result<(), Halt> {
        let unwanted = {
            let mut pool = self.pool();
            *pool.batch(role) = Batch::default();
            pool.take_unwanted(&|id| self.key(id))
        };
        self.changed.notify_waiters();
        self.all(unwanted.into_iter().map(|live| self.end(live).boxed_local()).collect()).await
    }

    async fn all(&self, mut tasks: FuturesUnordered<LocalBoxFuture<'_, Result<(), Halt>>>) -> Result<(), Halt> {
        let mut result = Ok(());
        while let Some(done) = tasks.next().await {
            // The others finish their current measurement; nothing that was paid for is thrown away.
            if done.is_err() && result.is_ok() {
                self.stop.store(true, Ordering::Relaxed);
                self.changed.notify_waiters();
                result = done;
            }
        }
        result
    }

    async fn serve(&self, phase: Phase, id: CandidateId, probes: &[Probe]) -> Result<(), Halt> {
        let Some(candidate) = self.candidates.get(id as usize) else { return Ok(()) };
        let mut left = probes;
        while let Some(live) = self.acquire(phase, id, candidate).await? {
            left = self.measure_on(live, phase, id, candidate, left).await?;
            if left.is_empty() {
                return Ok(());
            }
        }
        self.through(candidate.role, id);
        Ok(())
    }

    /// Measures on an engine. What is left is to be measured on another one, since this one was lost and is tried again.
    async fn measure_on<'a>(
        &self,
        mut live: Live,
        phase: Phase,
        id: CandidateId,
        candidate: &Candidate,
        probes: &'a [Probe],
    ) -> Result<&'a [Probe], Halt> {
        for (index, probe) in probes.iter().enumerate() {
            if self.is_stopped() || !self.affords(Action::Measure, id, candidate, Some(probe)) {
                self.put_back(live);
                return Err(Halt::Interrupted);
            }
            self.recorder.record(Event::Measuring { probe: *probe })?;
            match live.engine.measure(candidate.role, probe, aim(phase)).await {
                Ok(measurement) => self.recorder.record(Event::Measured { phase, measurement })?,
                Err(mut failure) => {
                    // The engine may know itself by the name of the candidate that it was launched for.
                    failure.candidate = id;
                    if failure.probe.is_some() {
                        self.recorder.record(Event::Failed { phase, failure })?;
                        continue;
                    }
                    let is_tried_again = self.lost(phase, live.key, failure, Duration::ZERO)?;
                    {
                        let mut pool = self.pool();
                        pool.remove_busy(live.key);
                        pool.ending.push(live.key);
                    }
                    if !is_tried_again {
                        self.through(candidate.role, id);
                    }
                    self.end(live).await?;
                    let left = if is_tried_again { probes.get(index..) } else { None };
                    return Ok(left.unwrap_or_default());
                }
            }
        }
        self.through(candidate.role, id);
        self.put_back(live);
        Ok(&[])
    }

    /// Records that an engine failed: for good, or until it is tried again. Whether it is.
    fn lost(&self, phase: Phase, key: Key, mut failure: Failure, held: Duration) -> Result<bool, JournalError> {
        let next = self.pool().tries.failed(key, &failure, Instant::now());
        match next {
            Next::Again { tried, pause } => {
                let retry = Retry { failure, tried, pause_s: pause.as_secs_f64(), held_s: held.as_secs_f64() };
                self.recorder.record(Event::Retrying { phase, retry })?;
                Ok(true)
            }
            Next::GivenUp { tried } => {
                failure.reason = with_tries(&failure.reason, tried);
                if failure.class != FailureClass::Crash {
                    self.pool().failed.push((key, failure.clone()));
                }
                self.recorder.record(Event::Failed { phase, failure })?;
                Ok(false)
            }
        }
    }

    fn through(&self, role: Role, id: CandidateId) {
        let mut pool = self.pool();
        let batch = pool.batch(role);
        batch.open.retain(|open| *open != id);
        batch.through.push(id);
    }

    fn put_back(&self, live: Live) {
        let mut pool = self.pool();
        pool.remove_busy(live.key);
        pool.idle.push(live);
        drop(pool);
        self.changed.notify_waiters();
    }

    /// An engine of the candidate, or `None` if it does not start (which is then in the history).
    async fn acquire(&self, phase: Phase, id: CandidateId, candidate: &Candidate) -> Result<Option<Live>, Halt> {
        let gpus = candidate.gpus();
        let key = pool::key(candidate, self.cluster.serves_both_roles());
        if gpus > self.cluster.gpus() {
            let reason = format!("needs {gpus} GPUs, the cluster has {}", self.cluster.gpus());
            let failure = Failure { candidate: id, class: FailureClass::DoesNotFit, cause: None, probe: None, reason };
            self.recorder.record(Event::Failed { phase, failure })?;
            return Ok(None);
        }
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no notification is missed, also not between looking and waiting.
            changed.as_mut().enable();
            if self.is_stopped() {
                return Err(Halt::Interrupted);
            }
            match self.find(id, key, gpus, candidate.role) {
                Found::Up(live) => return self.join(id, live).map(Some),
                Found::Failed(failure) => {
                    self.recorder.record(Event::Failed { phase, failure: Failure { candidate: id, ..failure } })?;
                    return Ok(None);
                }
                Found::Room(place) => match self.launch(phase, id, candidate, key, place).await? {
                    Launched::Up(live) => return Ok(Some(live)),
                    Launched::Failed => return Ok(None),
                    Launched::Again => {}
                },
                Found::Later(at) => {
                    let stop = Stop::new(Arc::clone(&self.stop));
                    // Whichever comes first.
                    let _ = tokio::time::timeout_at(at, stop.requested()).await;
                }
                Found::Evicted(engines) => {
                    futures::future::join_all(engines.into_iter().map(|live| self.end(live)))
                        .await
                        .into_iter()
                        .collect::<Result<(), Halt>>()?;
                }
                Found::Nothing => changed.await,
            }
        }
    }

    fn find(&self, id: CandidateId, key: Key, gpus: u32, role: Role) -> Found {
        let mut pool = self.pool();
        if let Some(index) = pool.idle.iter().position(|live| live.key == key) {
            pool.busy.push(key);
            return Found::Up(pool.idle.remove(index));
        }
        // One that is ending has the names that the next one would have.
        if [&pool.busy, &pool.launching, &pool.ending].iter().any(|keys| keys.contains(&key)) {
            return Found::Nothing;
        }
        let failed = pool.failed.iter().find(|(of, failure)| *of == key && failure.candidate != id);
        if let Some((_, failure)) = failed {
            return Found::Failed(failure.clone());
        }
        if let Some(at) = pool.tries.not_before(key, Instant::now()) {
            return Found::Later(at);
        }
        if pool.launching.len() >= self.scheduling.most_launches {
            return Found::Nothing;
        }
        if pool.engines() < self.scheduling.most_engines
            && let Some(place) = pool.nodes.take(gpus)
        {
            pool.launching.push(key);
            pool.keeps_all |= pool.let_go.contains(&key);
            return Found::Room(place);
        }
        let evicted = pool.make_room(gpus, self.scheduling.most_engines, role, &|id| self.key(id));
        if evicted.is_empty() { Found::Nothing } else { Found::Evicted(evicted) }
    }

    /// The candidate's first use of an engine that was launched for another one.
    fn join(&self, id: CandidateId, mut live: Live) -> Result<Live, Halt> {
        if !live.users.contains(&id) {
            live.users.push(id);
        }
        if self.recorder.with_history(|history| history.facts_of(id).is_none()) {
            let facts = EngineFacts { candidate: id, ..live.engine.facts().clone() };
            if let Err(error) = self.recorder.record(Event::Joined { facts }) {
                self.put_back(live);
                return Err(error.into());
            }
        }
        Ok(live)
    }

    async fn launch(
        &self,
        phase: Phase,
        id: CandidateId,
        candidate: &Candidate,
        key: Key,
        place: Place,
    ) -> Result<Launched, Halt> {
        let since_s = self.recorder.now_s();
        if !self.affords(Action::Launch { gpus: candidate.gpus() }, id, candidate, None) {
            self.pool().remove_launching(key);
            self.free(&place, since_s);
            return Err(Halt::Interrupted);
        }
        if let Err(error) = self.recorder.record(Event::Launching { candidate: id }) {
            self.pool().remove_launching(key);
            self.free(&place, since_s);
            return Err(error.into());
        }
        let failed = {
            let mut pool = self.pool();
            pool.launches += 1;
            pool.tries.of(key)
        };
        let began = Instant::now();
        let launched = self.patiently(&Launch { id, candidate: candidate.clone(), failed }).await;
        self.pool().remove_launching(key);
        match launched {
            Ok(engine) => {
                self.pool().busy.push(key);
                let facts = engine.facts().clone();
                let live = Live { key, users: vec![id], engine, place, since_s };
                if let Err(error) = self.recorder.record(Event::Launched { facts }) {
                    self.put_back(live);
                    return Err(error.into());
                }
                self.changed.notify_waiters();
                Ok(Launched::Up(live))
            }
            Err(failure) => {
                self.free(&place, since_s);
                // An engine that is given up because the user asks to stop has not failed: resume launches it again.
                if self.is_stopped() {
                    return Err(Halt::Interrupted);
                }
                let is_tried_again = self.lost(phase, key, failure, began.elapsed())?;
                self.changed.notify_waiters();
                Ok(if is_tried_again { Launched::Again } else { Launched::Failed })
            }
        }
    }

    /// Launches; gives up where others took a fraction of the time.
    async fn patiently(&self, launch: &Launch) -> Result<Box<dyn Engine>, Failure> {
        let expected_s = self.cluster.expected_launch(launch).as_secs_f64();
        let started = Instant::now();
        let mut launching = self.cluster.launch(launch);
        loop {
            let changed = self.changed.notified();
            let slowest = self.cluster.can_abandon_launches().then(|| self.pool().slowest.unwrap_or(DOUBT));
            let patience_s = slowest.map(|ratio| PATIENCE * ratio * expected_s + LEAST_PATIENCE_S);
            let deadline = patience_s.and_then(|s| Duration::try_from_secs_f64(s).ok()).map(|s| started + s);
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                launched = &mut launching => {
                    if launched.is_ok() && expected_s > 0.0 {
                        let ratio = started.elapsed().as_secs_f64() / expected_s;
                        let mut pool = self.pool();
                        pool.slowest = Some(pool.slowest.map_or(ratio, |slowest| slowest.max(ratio)));
                    }
                    return launched;
                }
                () = late => {
                    return Err(Failure {
                        candidate: launch.id,
                        class: FailureClass::Timeout,
                        cause: None,
                        probe: None,
                        reason: format!(
                            "{}: given up after {:.0} s, over {PATIENCE} times what launches take here",
                            launch.candidate.name(),
                            started.elapsed().as_secs_f64(),
                        ),
                    });
                }
                () = changed => {}
            }
        }
    }

    fn free(&self, place: &Place, since_s: f64) {
        let now_s = self.recorder.now_s();
        let gpus: u32 = place.iter().map(|(_, part)| part).sum();
        let mut pool = self.pool();
        pool.nodes.give_back(place);
        pool.gpu_seconds += f64::from(gpus) * (now_s - since_s);
        drop(pool);
        self.changed.notify_waiters();
    }

    /// Keeps an engine's log, ends it, waits until its GPUs are free. It was counted among those that are ending.
    async fn end(&self, live: Live) -> Result<(), Halt> {
        let Live { key, users, engine, place, since_s } = live;
        let log = engine.log();
        let log = masked(&log);
        let mut kept = Ok(());
        for candidate in users.iter().filter_map(|id| self.candidates.get(*id as usize)) {
            if let Some(logs) = &self.logs {
                let name = format!("{}/engine.log", candidate.dir_name());
                kept = kept.and(logs.write(&name, log.as_bytes()).map(drop).map_err(JournalError::Dir));
            }
        }
        // The log may be lost; the engine must go all the same.
        if let Err(failure) = engine.shutdown().await {
            tracing::warn!("{}: {}", key.mapping, failure.reason);
        }
        self.pool().remove_ending(key);
        self.free(&place, since_s);
        kept?;
        if let Some(first) = users.first() {
            self.recorder.record(Event::Released { candidate: *first })?;
        }
        Ok(())
    }

    /// Ends all idle engines but those of the given candidates.
    ///
    /// # Errors
    /// If the journal cannot be written.
    pub async fn retain(&self, keep: &[CandidateId]) -> Result<(), Halt> {
        let gone: Vec<Live> = {
            let mut pool = self.pool();
            let keep: Vec<Key> = keep.iter().filter_map(|id| self.key(*id)).collect();
            let (kept, gone): (Vec<Live>, Vec<Live>) =
                std::mem::take(&mut pool.idle).into_iter().partition(|live| keep.contains(&live.key));
            pool.idle = kept;
            pool.ending.extend(gone.iter().map(|live| live.key));
            gone
        };
        self.all(gone.into_iter().map(|live| self.end(live).boxed_local()).collect()).await
    }
}

/// What a candidate that needs an engine finds.
enum Found {
    /// An idle one.
    Up(Live),
    /// It did not come up for another candidate either.
    Failed(Failure),
    /// Free GPUs.
    Room(Place),
    /// It is to be tried again, but not before then.
    Later(Instant),
    /// Idle ones that have to go.
    Evicted(Vec<Live>),
    /// It has to wait.
    Nothing,
}

/// How a launch ended.
enum Launched {
    /// Well.
    Up(Live),
    /// For good.
    Failed,
    /// It is tried again.
    Again,
}
