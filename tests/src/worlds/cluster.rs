//! A world as a cluster: what phases and scheduler see of it is what they see of any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sla_profiler::domain::stats::Sequential;
use sla_profiler::domain::{Aim, Candidate, EngineFacts, Failure, FailureClass, Measurement, Probe, Role, Stat};
use sla_profiler::engine::{ApplyError, ApplyRequest, Cluster, Deployment, Engine, Launch};

use super::random::{Random, text};
use super::truth::{EngineTruth, mean_context};
use super::{Fault, World};

/// Ending an engine, in seconds.
pub const SHUTDOWN_S: f64 = 5.0;

/// Engines of a world.
pub struct WorldCluster {
    world: Arc<World>,
    in_use: Arc<AtomicU32>,
    shares: bool,
}

impl WorldCluster {
    /// With `shares`, one engine serves both roles.
    pub fn new(world: Arc<World>, shares: bool) -> Self {
        Self { world, in_use: Arc::new(AtomicU32::new(0)), shares }
    }
}

/// GPUs that are in use, until it is dropped.
struct Lease(Arc<AtomicU32>, u32);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Cluster for WorldCluster {
    fn kind(&self) -> &'static str {
        "world"
    }

    fn gpus(&self) -> u32 {
        self.world.setting.gpus
    }

    fn gpus_per_node(&self) -> u32 {
        self.world.spec.job.hardware.gpus_per_node
    }

    fn serves_both_roles(&self) -> bool {
        self.shares
    }

    fn can_abandon_launches(&self) -> bool {
        true
    }

    fn expected_launch(&self, _launch: &Launch) -> Duration {
        Duration::from_secs_f64(self.world.setting.launch_s)
    }

    fn expected_measure(&self, _launch: &Launch, _probe: &Probe) -> Duration {
        Duration::from_secs(20)
    }

    async fn launch(&self, launch: &Launch) -> Result<Box<dyn Engine>, Failure> {
        let gpus = launch.candidate.gpus();
        let lease = Lease(Arc::clone(&self.in_use), gpus);
        let used = self.in_use.fetch_add(gpus, Ordering::Relaxed) + gpus;
        assert!(used <= self.gpus(), "{used} GPUs of {} are in use", self.gpus());
        let fate = self.world.fate(&launch.candidate.mapping);
        tokio::time::sleep(Duration::from_secs_f64(fate.after_s)).await;
        if let Some(fault) = fate.fault {
            let class = if fault == Fault::Hangs { FailureClass::Timeout } else { FailureClass::Launch };
            return Err(Failure {
                candidate: launch.id,
                class,
                cause: None,
                probe: None,
                reason: "it does not come up".to_owned(),
            });
        }
        let truth = &self.world.truths[launch.id as usize];
        Ok(Box::new(WorldEngine {
            world: Arc::clone(&self.world),
            candidate: launch.candidate.clone(),
            facts: EngineFacts {
                candidate: launch.id,
                kv_tokens: truth.kv_tokens,
                max_running: truth.max_running,
                launch_s: fate.after_s,
                kv_sources: Vec::new(),
            },
            _lease: lease,
        }))
    }

    async fn apply(&self, _request: &ApplyRequest) -> Result<Box<dyn Deployment>, ApplyError> {
        Err(ApplyError::Invalid("nothing is deployed here".to_owned()))
    }
}

struct WorldEngine {
    world: Arc<World>,
    candidate: Candidate,
    facts: EngineFacts,
    _lease: Lease,
}

impl WorldEngine {
    fn truth(&self, role: Role) -> &EngineTruth {
        let same = |t: &&EngineTruth| t.role == role && t.mapping == self.candidate.mapping;
        self.world.truths.iter().find(same).expect("the mapping is a candidate of the role")
    }
}

#[async_trait]
impl Engine for WorldEngine {
    fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    async fn measure(&mut self, role: Role, probe: &Probe, _aim: Aim) -> Result<Measurement, Failure> {
        let measurement = measured(&self.world, self.truth(role), probe);
        tokio::time::sleep(Duration::from_secs_f64(measurement.duration_s)).await;
        Ok(measurement)
    }

    fn log(&self) -> String {
        String::new()
    }

    async fn shutdown(self: Box<Self>) -> Result<(), Failure> {
        tokio::time::sleep(Duration::from_secs_f64(SHUTDOWN_S)).await;
        Ok(())
    }
}

/// The truth with noise, until it is known as precisely as asked.
fn measured(world: &World, truth: &EngineTruth, probe: &Probe) -> Measurement {
    let Probe { isl, osl, concurrency, .. } = *probe;
    let mut random = Random::new(&[
        u64::from(world.setting.seed),
        text(truth.role.as_str()),
        text(&truth.mapping.label()),
        u64::from(isl),
        u64::from(osl),
        u64::from(concurrency),
    ]);
    let mut samples = Sequential::dependent();
    loop {
        samples.push(truth.latency_ms(isl, osl, concurrency) * random.disturbance(world.setting.noise));
        let n = samples.len();
        if n >= probe.max_samples.max(1) as usize
            || n.is_multiple_of(1 + n / 20) && samples.is_precise(probe.relative_precision)
        {
            break;
        }
    }
    let quantile = world.spec.job.sla.quantile;
    let stat = Stat::from_samples(samples.samples(), quantile).map(|s| s.with_interval(samples.interval()));
    let mean_ms = stat.map_or(f64::NAN, |s| s.mean);
    let (n, running, gpus) = (samples.len() as f64, truth.running(isl, osl, concurrency), f64::from(truth.gpus));
    let prefill = truth.role == Role::Prefill;
    let rate = |tokens: f64| 1e3 * tokens / mean_ms / gpus;
    Measurement {
        candidate: probe.candidate,
        isl,
        osl,
        concurrency,
        concurrency_seen: running,
        ttft_ms: stat.filter(|_| prefill),
        itl_ms: stat.filter(|_| !prefill),
        samples: samples.len() as u32,
        failed_requests: 0,
        input_tokens_per_second_per_gpu: if prefill { rate(f64::from(isl * concurrency)) } else { 0.0 },
        output_tokens_per_second_per_gpu: if prefill { rate(f64::from(concurrency)) } else { rate(running) },
        kv_usage: (running * mean_context(isl, osl) / f64::from(truth.kv_tokens)).min(1.0),
        kv_usage_nominal: f64::from(concurrency) * mean_context(isl, osl) / f64::from(truth.kv_tokens),
        duration_s: if prefill {
            // A first round that fills the queue, then as many rounds as it takes.
            (1.0 + (n / f64::from(concurrency)).ceil()) * mean_ms / 1e3
        } else {
            truth.decode_point_s(isl, osl, concurrency, n)
        },
    }
}
