//! Decides where and when things run: packs engines into the GPU budget, keeps them alive while they are useful, and
//! turns a batch of probes into measurements.
//!
//! ```text
//! batch of probes --> one task per candidate --acquire--> Engine --measure, measure, …--> back to the idle pool
//!                                              |
//!                        idle engine of that candidate, or free GPUs, or GPUs of idle engines nobody wants, or wait
//! ```
//!
//! Strategies say what to measure; only this module says where. Time is tokio's, so the same code packs engines on a
//! real cluster and on a virtual clock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Notify;

use crate::domain::{Aim, Candidate, CandidateId, Failure, FailureClass, Probe};
use crate::engine::{Cluster, Engine, Launch};
use crate::process::secrets::masked;
use crate::run::{Event, JournalError, Phase, Recorder, RunDir};

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
    pool: Mutex<Pool>,
    /// GPUs became free, or an engine idle.
    changed: Notify,
    stop: Arc<AtomicBool>,
}

struct Pool {
    free_gpus: u32,
    /// Least recently used first.
    idle: Vec<Live>,
    /// GPUs times seconds, of engines that are gone.
    gpu_seconds: f64,
    launches: u32,
}

struct Live {
    candidate: CandidateId,
    engine: Box<dyn Engine>,
    since_s: f64,
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
    /// All GPUs of the cluster are taken to be free.
    pub fn new(
        cluster: Arc<dyn Cluster>,
        candidates: Vec<Candidate>,
        recorder: Recorder,
        logs: Option<RunDir>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let pool = Pool { free_gpus: cluster.gpus(), idle: Vec::new(), gpu_seconds: 0.0, launches: 0 };
        Self { cluster, candidates, recorder, logs, pool: Mutex::new(pool), changed: Notify::new(), stop }
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

    /// Measures all probes that the history does not settle yet. What comes out, failures included, is in the
    /// history afterwards; only the end of the whole run is an error. Engines stay alive for the next batch.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn measure(&self, phase: Phase, probes: &[Probe]) -> Result<(), Halt> {
        let mut groups: Vec<(CandidateId, Vec<Probe>)> = Vec::new();
        for probe in probes {
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
        let mut tasks: FuturesUnordered<_> =
            groups.iter().map(|(candidate, group)| self.serve(phase, *candidate, group)).collect();
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
        let Some(mut live) = self.acquire(phase, id, candidate).await? else { return Ok(()) };
        for probe in probes {
            if self.is_stopped() {
                self.put_back(live);
                return Err(Halt::Interrupted);
            }
            self.recorder.record(Event::Measuring { probe: *probe })?;
            match live.engine.measure(candidate.role, probe, aim(phase)).await {
                Ok(measurement) => self.recorder.record(Event::Measured { phase, measurement })?,
                Err(failure) => {
                    let engine_is_lost = failure.probe.is_none();
                    self.recorder.record(Event::Failed { phase, failure })?;
                    if engine_is_lost {
                        return self.end(live).await;
                    }
                }
            }
        }
        self.put_back(live);
        Ok(())
    }

    fn put_back(&self, live: Live) {
        self.pool().idle.push(live);
        self.changed.notify_waiters();
    }

    /// An engine of the candidate, or `None` if it does not start (which is then in the history).
    async fn acquire(&self, phase: Phase, id: CandidateId, candidate: &Candidate) -> Result<Option<Live>, Halt> {
        let gpus = candidate.gpus();
        if gpus > self.cluster.gpus() {
            let failure = Failure {
                candidate: id,
                class: FailureClass::DoesNotFit,
                probe: None,
                reason: format!("needs {gpus} GPUs, the cluster has {}", self.cluster.gpus()),
            };
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
            let evicted = {
                let mut pool = self.pool();
                if let Some(index) = pool.idle.iter().position(|live| live.candidate == id) {
                    return Ok(Some(pool.idle.remove(index)));
                }
                if pool.free_gpus >= gpus {
                    pool.free_gpus -= gpus;
                    None
                } else {
                    Some(self.take_evictable(&mut pool, gpus))
                }
            };
            match evicted {
                None => return self.launch(phase, id, candidate).await,
                Some(engines) if engines.is_empty() => changed.await,
                Some(engines) => {
                    for live in engines {
                        self.end(live).await?;
                    }
                }
            }
        }
    }

    /// Idle engines, least recently used first, whose GPUs together with the free ones suffice; none if they do not.
    fn take_evictable(&self, pool: &mut Pool, gpus: u32) -> Vec<Live> {
        let size = |live: &Live| self.candidates.get(live.candidate as usize).map_or(0, Candidate::gpus);
        let available: u32 = pool.free_gpus + pool.idle.iter().map(size).sum::<u32>();
        if available < gpus {
            return Vec::new();
        }
        let mut reachable = pool.free_gpus;
        let mut evicted = Vec::new();
        while reachable < gpus && !pool.idle.is_empty() {
            let live = pool.idle.remove(0);
            reachable += size(&live);
            evicted.push(live);
        }
        evicted
    }

    async fn launch(&self, phase: Phase, id: CandidateId, candidate: &Candidate) -> Result<Option<Live>, Halt> {
        let since_s = self.recorder.now_s();
        self.recorder.record(Event::Launching { candidate: id })?;
        self.pool().launches += 1;
        match self.cluster.launch(&Launch { id, candidate: candidate.clone() }).await {
            Ok(engine) => {
                self.recorder.record(Event::Launched { facts: engine.facts().clone() })?;
                Ok(Some(Live { candidate: id, engine, since_s }))
            }
            Err(failure) => {
                self.free(candidate.gpus(), since_s);
                // An engine that is given up because the user asks to stop has not failed: resume launches it again.
                if self.is_stopped() {
                    return Err(Halt::Interrupted);
                }
                self.recorder.record(Event::Failed { phase, failure })?;
                Ok(None)
            }
        }
    }

    fn free(&self, gpus: u32, since_s: f64) {
        let now_s = self.recorder.now_s();
        let mut pool = self.pool();
        pool.free_gpus += gpus;
        pool.gpu_seconds += f64::from(gpus) * (now_s - since_s);
        drop(pool);
        self.changed.notify_waiters();
    }

    /// Keeps an engine's log, ends it, waits until its GPUs are free.
    async fn end(&self, live: Live) -> Result<(), Halt> {
        let Live { candidate: id, engine, since_s } = live;
        let Some(candidate) = self.candidates.get(id as usize) else { return Ok(()) };
        if let Some(logs) = &self.logs {
            let name = format!("{}/engine.log", candidate.dir_name());
            logs.write(&name, masked(&engine.log()).as_bytes()).map_err(JournalError::Dir)?;
        }
        if let Err(failure) = engine.shutdown().await {
            tracing::warn!("{}: {}", candidate.name(), failure.reason);
        }
        self.free(candidate.gpus(), since_s);
        self.recorder.record(Event::Released { candidate: id })?;
        Ok(())
    }

    /// Ends all idle engines but those of the given candidates.
    ///
    /// # Errors
    /// If the journal cannot be written.
    pub async fn retain(&self, keep: &[CandidateId]) -> Result<(), Halt> {
        let gone: Vec<Live> = {
            let mut pool = self.pool();
            let (kept, gone) =
                std::mem::take(&mut pool.idle).into_iter().partition(|live| keep.contains(&live.candidate));
            pool.idle = kept;
            gone
        };
        for live in gone {
            self.end(live).await?;
        }
        Ok(())
    }
}
