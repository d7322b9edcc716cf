//! The embedded cluster: simulated engines on a virtual clock.
//!
//! ```text
//! SimulatedCluster --launch--> SimulatedEngine --measure--> measure.rs --> core.rs (aisimulate) --> timing.rs (roofline)
//!        '-----------apply---> SimulatedDeployment --check--> deployment.rs --^
//! ```
//!
//! Whatever is random comes from the job's seed and from what is measured, never from the order of measuring. Waiting
//! is `tokio::time::sleep`; on a paused clock the runtime jumps over it. `docs/simulated-cluster.md` says what is
//! modelled and how far it is from reality.

mod core;
mod deployment;
mod launch;
mod measure;
mod timing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use self::core::{Core, EngineShape};
use self::deployment::SimulatedDeployment;
use self::measure::MAX_POINT_TOKENS;
use self::timing::EngineTiming;
use super::{ApplyError, ApplyRequest, Cluster, Deployment, Engine, Launch};
use crate::dgd::{self, Worker};
use crate::domain::memory::DEFAULT_BATCHED_TOKENS;
use crate::domain::random::{self, Random};
use crate::domain::roofline::{DecodeBatch, Roofline};
use crate::domain::stats::MIN_SAMPLES;
use crate::domain::{Aim, CandidateId, EngineFacts, Failure, FailureClass, Job, Mapping, Measurement, Probe, Role};
use crate::spec::SimulationSpec;

/// A cluster of the job's hardware that exists only in this process.
pub struct SimulatedCluster {
    world: Arc<World>,
    gpus_in_use: Arc<AtomicU32>,
    shares: bool,
}

/// What all engines of a cluster share.
struct World {
    job: Job,
    simulation: SimulationSpec,
}

impl World {
    fn roofline(&self, worker_backend: crate::domain::Backend, mapping: &Mapping) -> Roofline {
        Roofline::new(&self.job.model, &self.job.hardware, mapping, worker_backend)
    }

    /// The clock of an engine; `point` names what is measured on it.
    fn timing(&self, roofline: Roofline, role: Role, mapping: &Mapping, point: &[u64]) -> EngineTiming {
        let bias = timing::bias(self.job.seed, role, mapping, self.simulation.model_error);
        EngineTiming::new(roofline, bias, self.simulation.noise_cv, self.seed(role, mapping, point))
    }

    fn seed(&self, role: Role, mapping: &Mapping, point: &[u64]) -> u64 {
        let mut parts = vec![u64::from(self.job.seed), random::text(role.as_str()), random::text(&mapping.label())];
        parts.extend_from_slice(point);
        Random::new(&parts).next()
    }
}

/// GPUs in use, given back on drop: also when a launch is cancelled half-way.
struct Lease {
    gpus: u32,
    in_use: Arc<AtomicU32>,
}

impl Lease {
    fn take(in_use: &Arc<AtomicU32>, gpus: u32, total: u32) -> Result<Self, String> {
        in_use
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(gpus).filter(|sum| *sum <= total)
            })
            .map(|_| Self { gpus, in_use: Arc::clone(in_use) })
            .map_err(|used| format!("needs {gpus} GPUs, {} of {total} are free", total.saturating_sub(used)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.in_use.fetch_sub(self.gpus, Ordering::AcqRel);
    }
}

impl SimulatedCluster {
    /// A cluster of `job.hardware` that runs `job.model`, and is made up as `simulation` says.
    pub fn new(job: &Job, simulation: &SimulationSpec) -> Self {
        let world = World { job: job.clone(), simulation: simulation.clone() };
        Self { world: Arc::new(world), gpus_in_use: Arc::new(AtomicU32::new(0)), shares: true }
    }

    /// The same, with whether an engine answers for both roles.
    #[must_use]
    pub const fn sharing(mut self, shares: bool) -> Self {
        self.shares = shares;
        self
    }

    /// GPUs that no engine holds.
    pub fn free_gpus(&self) -> u32 {
        self.gpus().saturating_sub(self.gpus_in_use.load(Ordering::Acquire))
    }

    /// Brings up the workers of a deployment; all of them at once, the slowest decides.
    async fn deploy(&self, workers: &[Worker]) -> Result<SimulatedDeployment, ApplyError> {
        let replicas: Vec<&Worker> =
            workers.iter().flat_map(|worker| std::iter::repeat_n(worker, worker.replicas as usize)).collect();
        for role in Role::ALL {
            if !replicas.iter().any(|worker| worker.role == role) {
                return Err(ApplyError::Invalid(format!("it has no {role} worker with at least one replica")));
            }
        }
        let gpus = replicas.iter().fold(0_u32, |sum, worker| sum.saturating_add(worker.mapping.gpus()));
        let lease = Lease::take(&self.gpus_in_use, gpus, self.gpus())
            .map_err(|reason| ApplyError::NotReady(format!("unschedulable: it {reason}")))?;
        let deployment = SimulatedDeployment::new(Arc::clone(&self.world), &replicas, lease)?;
        tokio::time::sleep(Duration::from_secs_f64(deployment.ready_s())).await;
        Ok(deployment)
    }
}

#[async_trait]
impl Cluster for SimulatedCluster {
    fn kind(&self) -> &'static str {
        "simulated"
    }

    fn gpus(&self) -> u32 {
        self.world.job.hardware.total_gpus
    }

    fn gpus_per_node(&self) -> u32 {
        self.world.job.hardware.gpus_per_node
    }

    fn serves_both_roles(&self) -> bool {
        self.shares
    }

    fn can_abandon_launches(&self) -> bool {
        true
    }

    fn expected_launch(&self, launch: &Launch) -> Duration {
        seconds(launch::expected_s(&self.world.job, &launch.candidate.mapping, &self.world.simulation))
    }

    fn expected_measure(&self, launch: &Launch, probe: &Probe) -> Duration {
        let job = &self.world.job;
        let mapping = &launch.candidate.mapping;
        let roofline = self.world.roofline(job.backend, mapping);
        let (ranks, concurrency) = (f64::from(mapping.attention_dp.max(1)), f64::from(probe.concurrency));
        let one_prompt_s = roofline.ttft_s(probe.isl, DEFAULT_BATCHED_TOKENS);
        // Ranks prefill side by side.
        let prompts_s = |prompts: f64| one_prompt_s * (prompts / ranks).ceil();
        let needed = (2.0 * self.world.simulation.noise_cv / probe.relative_precision.max(1e-3)).powi(2);
        let samples = needed.max(MIN_SAMPLES as f64).min(f64::from(probe.max_samples.max(1)));
        seconds(match launch.candidate.role {
            Role::Prefill => prompts_s(concurrency + samples),
            Role::Decode => {
                let context_tokens = f64::from(probe.isl) + f64::from(probe.osl) / 2.0;
                let step = DecodeBatch { sequences: (concurrency / ranks).ceil(), context_tokens };
                let steps = samples + f64::from(probe.osl) / 2.0;
                prompts_s(concurrency) + steps * roofline.decode_step(step).total_s()
            }
        })
    }

    async fn launch(&self, launch: &Launch) -> Result<Box<dyn Engine>, Failure> {
        let (job, simulation) = (&self.world.job, &self.world.simulation);
        let mapping = launch.candidate.mapping;
        let fail = |class, reason: String| Failure {
            candidate: launch.id,
            class,
            cause: None,
            probe: None,
            reason: format!("{}: {reason}", launch.candidate.name()),
        };
        let lease = Lease::take(&self.gpus_in_use, mapping.gpus(), self.gpus())
            .map_err(|reason| fail(FailureClass::Launch, reason))?;
        let shape = EngineShape::new(job, job.backend, &mapping)
            .map_err(|reason| fail(FailureClass::DoesNotFit, reason.to_string()))?;
        let fate = launch::fate(job, &mapping, simulation, launch.failed);
        tokio::time::sleep(seconds(fate.after_s)).await;
        if let Some(launch::Fault { class, cause, reason }) = fate.fault {
            return Err(Failure { cause, ..fail(class, reason) });
        }
        Ok(Box::new(SimulatedEngine {
            world: Arc::clone(&self.world),
            mapping,
            shape,
            facts: EngineFacts {
                candidate: launch.id,
                kv_tokens: shape.kv_tokens(),
                max_running: shape.max_running(),
                launch_s: fate.after_s,
                kv_sources: Vec::new(),
            },
            log: launch::log(job, job.backend, &mapping, &shape, fate.after_s),
            _lease: lease,
        }))
    }

    async fn apply(&self, request: &ApplyRequest) -> Result<Box<dyn Deployment>, ApplyError> {
        let workers = dgd::workers(&request.dgd).map_err(|error| ApplyError::Invalid(error.to_string()))?;
        Ok(Box::new(self.deploy(&workers).await?))
    }
}

/// Not negative, not NaN, not endless.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

struct SimulatedEngine {
    world: Arc<World>,
    mapping: Mapping,
    shape: EngineShape,
    facts: EngineFacts,
    log: String,
    _lease: Lease,
}

impl SimulatedEngine {
    fn candidate(&self) -> CandidateId {
        self.facts.candidate
    }

    /// What no engine would take.
    fn refuse(&self, role: Role, probe: &Probe) -> Result<(), (FailureClass, String)> {
        let reject = |reason: String| Err((FailureClass::Measurement, reason));
        if probe.isl == 0 || probe.osl == 0 || probe.concurrency == 0 {
            return reject("input length, output length and concurrency must be at least 1".to_owned());
        }
        if role == Role::Decode && probe.osl < 2 {
            return reject("an inter-token latency needs at least two output tokens".to_owned());
        }
        let (sequence, context) = (probe.isl.saturating_add(probe.osl), self.world.job.max_context_tokens);
        if sequence > context {
            return reject(format!("{sequence} tokens per request exceed the deployment's context of {context}"));
        }
        let capacity = self.shape.kv_tokens_per_rank();
        if sequence > capacity {
            let reason = format!("{sequence} tokens per request exceed the KV cache of {capacity} tokens");
            return Err((FailureClass::DoesNotFit, reason));
        }
        if role == Role::Prefill && u64::from(probe.isl) * u64::from(probe.concurrency) > u64::from(MAX_POINT_TOKENS) {
            return reject(format!(
                "{} requests of {} tokens are more than the simulation takes in one point ({MAX_POINT_TOKENS} tokens)",
                probe.concurrency, probe.isl
            ));
        }
        Ok(())
    }

    fn run(&self, role: Role, probe: &Probe) -> anyhow::Result<Measurement> {
        let (job, world) = (&self.world.job, &self.world);
        let point = [u64::from(probe.isl), u64::from(probe.osl), u64::from(probe.concurrency)];
        let roofline = world.roofline(job.backend, &self.mapping);
        let host = roofline.host();
        let seed = world.seed(role, &self.mapping, &point);
        let mut core = Core::new(self.shape, world.timing(roofline, role, &self.mapping, &point))?;
        let (gpus, kv_tokens, quantile) = (self.mapping.gpus(), self.shape.kv_tokens(), job.sla.quantile);
        Ok(match role {
            Role::Prefill => {
                measure::prefill(&mut core, host, probe, seed)?.into_prefill(probe, gpus, kv_tokens, quantile)
            }
            Role::Decode => measure::decode(&mut core, probe, world.simulation.noise_cv, seed)?
                .into_decode(probe, gpus, kv_tokens, quantile),
        })
    }
}

#[async_trait]
impl Engine for SimulatedEngine {
    fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    async fn measure(&mut self, role: Role, probe: &Probe, _aim: Aim) -> Result<Measurement, Failure> {
        let fail = |class, reason: String| Failure {
            candidate: self.candidate(),
            class,
            cause: None,
            probe: Some(*probe),
            reason: format!(
                "{role} {} at isl {}, osl {}, concurrency {}: {reason}",
                self.mapping, probe.isl, probe.osl, probe.concurrency
            ),
        };
        self.refuse(role, probe).map_err(|(class, reason)| fail(class, reason))?;
        let measurement =
            self.run(role, probe).map_err(|error| fail(FailureClass::Measurement, format!("{error:#}")))?;
        tokio::time::sleep(seconds(measurement.duration_s)).await;
        Ok(measurement)
    }

    fn log(&self) -> String {
        self.log.clone()
    }

    async fn shutdown(self: Box<Self>) -> Result<(), Failure> {
        tokio::time::sleep(seconds(launch::SHUTDOWN_S)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
