//! Where engines run. Phases and scheduler know these traits; each backend of them is a folder.
//!
//! ```text
//! Cluster --launch--> Engine --measure--> Measurement
//!    |                  '---- shutdown
//!    '----apply----> Deployment --check--> CheckReport
//! ```
//!
//! Time is tokio's: a cluster that is simulated runs on a paused clock, which jumps whenever everybody waits, so the
//! same scheduler code serves real and virtual time.

pub mod endpoint;
pub mod kubernetes;
pub mod local;
pub mod predicted;
pub mod served;
pub mod simulated;

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::{Aim, Candidate, CandidateId, EngineFacts, Failure, Measurement, Probe, Role};

/// An engine to bring up.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// For facts and failures.
    pub id: CandidateId,
    /// Role and mapping.
    pub candidate: Candidate,
    /// How often this engine was brought up in vain, or lost, before.
    pub failed: u32,
}

/// Where candidates are launched.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// `simulated`, `kubernetes`, …; for messages and provenance.
    fn kind(&self) -> &'static str;

    /// GPUs that may be in use at once.
    fn gpus(&self) -> u32;

    /// GPUs in one node; an engine that fits into a node is not spread.
    fn gpus_per_node(&self) -> u32 {
        self.gpus()
    }

    /// Whether an engine answers for either role, whichever it was launched for: prompts that share nothing for prefill,
    /// cached ones for decode. It is then launched once for both candidates of its mapping.
    fn serves_both_roles(&self) -> bool {
        false
    }

    /// Whether dropping the future of a launch ends it, so that its GPUs are free at once.
    fn can_abandon_launches(&self) -> bool {
        false
    }

    /// How long launching the candidate should take, for `--dry-run` and the ETA.
    fn expected_launch(&self, launch: &Launch) -> Duration;

    /// How long the probe should take on a running engine, for `--dry-run` and the ETA.
    fn expected_measure(&self, launch: &Launch, probe: &Probe) -> Duration;

    /// Brings an engine up and waits until it answers. A failure leaves nothing behind.
    async fn launch(&self, launch: &Launch) -> Result<Box<dyn Engine>, Failure>;

    /// Creates the deployment and waits until it is ready. Phase 7.
    async fn apply(&self, request: &ApplyRequest) -> Result<Box<dyn Deployment>, ApplyError>;

    /// Removes what launches and rollouts left behind that were cut off; quickly, since the process is about to end.
    async fn clean_up(&self) {}

    /// Why phase 7 cannot happen here, where that is known beforehand; it is then skipped with these words.
    fn cannot_apply(&self) -> Option<&'static str> {
        None
    }
}

/// A running engine.
#[async_trait]
pub trait Engine: Send {
    /// What it said of itself when it came up.
    fn facts(&self) -> &EngineFacts;

    /// Measures one point in the given role. Takes time on the cluster's clock. Dropping the future ends it and leaves
    /// the engine usable.
    async fn measure(&mut self, role: Role, probe: &Probe, aim: Aim) -> Result<Measurement, Failure>;

    /// What the engine wrote to its log so far.
    fn log(&self) -> String;

    /// Ends it; returns when its GPUs are free.
    async fn shutdown(self: Box<Self>) -> Result<(), Failure>;
}

/// What phase 7 deploys.
#[derive(Debug, Clone, PartialEq)]
pub struct ApplyRequest {
    /// The generated DynamoGraphDeployment.
    pub dgd: serde_json::Value,
    /// ConfigMaps that go with it.
    pub config_maps: Vec<serde_json::Value>,
}

/// A deployment that is ready.
#[async_trait]
pub trait Deployment: Send {
    /// Sends the job's requests at the given rate and reports what users would see.
    async fn check(&mut self, load: &CheckLoad) -> Result<CheckReport, ApplyError>;

    /// Puts back what ran before, after a check that missed the SLA, and says what it did; `None` where nothing did, and
    /// the deployment stays.
    async fn roll_back(&mut self) -> Result<Option<String>, ApplyError> {
        Ok(None)
    }
}

/// What to send to a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckLoad {
    /// Poisson arrivals per second.
    pub requests_per_second: f64,
    /// How many requests.
    pub requests: u32,
    /// Input length in tokens.
    pub isl: u32,
    /// Output length in tokens.
    pub osl: u32,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckReport {
    /// What was sent.
    pub load: CheckLoad,
    /// Completed requests per second.
    pub requests_per_second: f64,
    /// Time to first token, waiting and KV transfer included, in milliseconds.
    pub ttft_ms: crate::domain::Stat,
    /// Inter-token latency in milliseconds.
    pub itl_ms: crate::domain::Stat,
    /// Fraction of requests that met every target of the SLA by themselves.
    pub slo_attainment: f64,
    /// Requests that failed.
    pub failed_requests: u32,
    /// Whether the SLA's statistic met the targets.
    pub meets_sla: bool,
    /// Time from creating to ready, in seconds.
    pub ready_s: f64,
}

/// Phase 7 went wrong.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The deployment is not one that this cluster can run.
    #[error("the deployment cannot be applied: {0}")]
    Invalid(String),
    /// It did not become ready.
    #[error("the deployment did not become ready: {0}")]
    NotReady(String),
    /// The check run failed.
    #[error("the check run failed: {0}")]
    Check(String),
}
