//! Engines that answer at once what the roofline predicts. They stand for another cluster's engines in a dry run and in
//! a run's forecast; launching and measuring take the time that the other cluster expects.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{ApplyError, ApplyRequest, Cluster, Deployment, Engine, Launch};
use crate::backends::{EngineLimits, Serves};
use crate::domain::memory::{DEFAULT_BATCHED_TOKENS, MemoryPlan};
use crate::domain::roofline::{DecodeBatch, Roofline};
use crate::domain::{Aim, EngineFacts, Failure, Job, Measurement, Probe, Role, Stat};

/// Predicts what another cluster would measure.
pub struct PredictedCluster {
    job: Job,
    other: Arc<dyn Cluster>,
}

impl PredictedCluster {
    /// Predicts for the job on the other cluster. Nothing is launched there.
    pub fn new(job: &Job, other: Arc<dyn Cluster>) -> Self {
        Self { job: job.clone(), other }
    }
}

#[async_trait]
impl Cluster for PredictedCluster {
    fn kind(&self) -> &'static str {
        "predicted"
    }

    fn gpus(&self) -> u32 {
        self.other.gpus()
    }

    fn gpus_per_node(&self) -> u32 {
        self.other.gpus_per_node()
    }

    fn serves_both_roles(&self) -> bool {
        self.other.serves_both_roles()
    }

    fn expected_launch(&self, launch: &Launch) -> Duration {
        self.other.expected_launch(launch)
    }

    fn expected_measure(&self, launch: &Launch, probe: &Probe) -> Duration {
        self.other.expected_measure(launch, probe)
    }

    async fn launch(&self, launch: &Launch) -> Result<Box<dyn Engine>, Failure> {
        let takes = self.other.expected_launch(launch);
        tokio::time::sleep(takes).await;
        let Job { model, hardware, backend, workload, .. } = &self.job;
        let mapping = &launch.candidate.mapping;
        let limits = EngineLimits::of(*backend, Serves::One(Role::Decode), workload.isl);
        let memory = MemoryPlan::new(model, mapping, &hardware.gpu, DEFAULT_BATCHED_TOKENS);
        Ok(Box::new(PredictedEngine {
            launch: launch.clone(),
            facts: EngineFacts {
                candidate: launch.id,
                kv_tokens: memory.kv_tokens() as u32,
                max_running: limits.max_running.saturating_mul(mapping.attention_dp),
                launch_s: takes.as_secs_f64(),
                kv_sources: Vec::new(),
            },
            roofline: Roofline::new(model, hardware, mapping, *backend),
            other: Arc::clone(&self.other),
        }))
    }

    async fn apply(&self, _request: &ApplyRequest) -> Result<Box<dyn Deployment>, ApplyError> {
        Err(ApplyError::Invalid("a prediction deploys nothing".to_owned()))
    }
}

struct PredictedEngine {
    launch: Launch,
    facts: EngineFacts,
    roofline: Roofline,
    other: Arc<dyn Cluster>,
}

/// A figure without spread.
const fn exactly(value: f64) -> Stat {
    Stat { mean: value, p50: value, p90: value, p99: value, ci_low: value, ci_high: value, target: value }
}

#[async_trait]
impl Engine for PredictedEngine {
    fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    async fn measure(&mut self, role: Role, probe: &Probe, _aim: Aim) -> Result<Measurement, Failure> {
        let takes = self.other.expected_measure(&self.launch, probe);
        tokio::time::sleep(takes).await;
        let candidate = &self.launch.candidate;
        let ranks = f64::from(candidate.mapping.attention_dp.max(1));
        let gpus = f64::from(candidate.gpus().max(1));
        let context_tokens = f64::from(probe.isl) + f64::from(probe.osl) / 2.0;
        let kv_tokens = f64::from(self.facts.kv_tokens.max(1));
        let fits = (kv_tokens / context_tokens).min(f64::from(self.facts.max_running)).max(1.0);
        let running = f64::from(probe.concurrency).min(fits);
        let mut measurement = Measurement {
            candidate: probe.candidate,
            isl: probe.isl,
            osl: probe.osl,
            concurrency: probe.concurrency,
            concurrency_seen: running,
            ttft_ms: None,
            itl_ms: None,
            samples: probe.max_samples,
            failed_requests: 0,
            input_tokens_per_second_per_gpu: 0.0,
            output_tokens_per_second_per_gpu: 0.0,
            kv_usage: (running * context_tokens / kv_tokens).min(1.0),
            kv_usage_nominal: f64::from(probe.concurrency) * context_tokens / kv_tokens,
            duration_s: takes.as_secs_f64(),
        };
        match role {
            Role::Prefill => {
                // A rank computes one prompt after the other; with several in flight each waits for those before it.
                let service_s = self.roofline.ttft_s(probe.isl, DEFAULT_BATCHED_TOKENS);
                let in_flight = (f64::from(probe.concurrency) / ranks).max(1.0);
                measurement.ttft_ms = Some(exactly(service_s * in_flight * 1e3));
                measurement.input_tokens_per_second_per_gpu = f64::from(probe.isl) * ranks / service_s / gpus;
            }
            Role::Decode => {
                let sequences = (running / ranks).max(1.0);
                let itl_s = self.roofline.decode_step(DecodeBatch { sequences, context_tokens }).total_s();
                measurement.itl_ms = Some(exactly(itl_s * 1e3));
                measurement.output_tokens_per_second_per_gpu = running / itl_s / gpus;
            }
        }
        Ok(measurement)
    }

    fn log(&self) -> String {
        String::new()
    }

    async fn shutdown(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}

/// Another cluster's expectations, taken so many times as long: for the ends of a range. Nothing can be launched on it.
pub struct Paced {
    other: Arc<dyn Cluster>,
    launch: f64,
    measure: f64,
}

impl Paced {
    /// Factors on the time of launches and of points.
    pub fn new(other: Arc<dyn Cluster>, launch: f64, measure: f64) -> Self {
        Self { other, launch, measure }
    }
}

#[async_trait]
impl Cluster for Paced {
    fn kind(&self) -> &'static str {
        self.other.kind()
    }

    fn gpus(&self) -> u32 {
        self.other.gpus()
    }

    fn gpus_per_node(&self) -> u32 {
        self.other.gpus_per_node()
    }

    fn serves_both_roles(&self) -> bool {
        self.other.serves_both_roles()
    }

    fn can_abandon_launches(&self) -> bool {
        self.other.can_abandon_launches()
    }

    fn expected_launch(&self, launch: &Launch) -> Duration {
        self.other.expected_launch(launch).mul_f64(self.launch)
    }

    fn expected_measure(&self, launch: &Launch, probe: &Probe) -> Duration {
        self.other.expected_measure(launch, probe).mul_f64(self.measure)
    }

    async fn launch(&self, launch: &Launch) -> Result<Box<dyn Engine>, Failure> {
        Err(Failure {
            candidate: launch.id,
            class: crate::domain::FailureClass::Other,
            cause: None,
            probe: None,
            reason: "an expectation launches nothing".to_owned(),
        })
    }

    async fn apply(&self, _request: &ApplyRequest) -> Result<Box<dyn Deployment>, ApplyError> {
        Err(ApplyError::Invalid("an expectation deploys nothing".to_owned()))
    }
}
