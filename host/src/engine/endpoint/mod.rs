//! One engine that already runs. Nothing is launched or ended; its mapping is what the user says it is.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::served::{Bench, Keeper, Liveness, Served, Site};
use super::{ApplyError, ApplyRequest, Cluster, Deployment, Engine, Launch};
use crate::domain::{EngineFacts, Failure, Measurement, Probe, Role};

/// Why phase 7 does not happen here.
pub const CANNOT_APPLY: &str = "only an engine that already runs was measured; kubectl apply final_config.yaml where it \
                                is to run";

/// The engine at one URL.
pub struct EndpointCluster {
    bench: Bench,
    site: Site,
    /// GPUs of the engine: both of its candidates are the same engine, and are measured one after the other.
    gpus: u32,
    estimate: Arc<dyn Cluster>,
}

impl EndpointCluster {
    /// The engine at `site`, of so many GPUs; `estimate` says how long measuring may take.
    pub fn new(bench: Bench, site: Site, gpus: u32, estimate: Arc<dyn Cluster>) -> Self {
        Self { bench, site, gpus, estimate }
    }
}

#[async_trait]
impl Cluster for EndpointCluster {
    fn kind(&self) -> &'static str {
        "endpoint"
    }

    fn gpus(&self) -> u32 {
        self.gpus
    }

    fn expected_launch(&self, _launch: &Launch) -> Duration {
        Duration::ZERO
    }

    fn expected_measure(&self, launch: &Launch, probe: &Probe) -> Duration {
        self.estimate.expected_measure(launch, probe)
    }

    async fn launch(&self, launch: &Launch) -> Result<Box<dyn Engine>, Failure> {
        let (keeper, liveness) = Liveness::new();
        let log = async { Err("the log of an engine that runs elsewhere is not at hand".to_owned()) };
        let site = self.site.clone();
        let served = Served::connect(&self.bench, launch.clone(), site, liveness, Instant::now(), log, None).await?;
        Ok(Box::new(EndpointEngine { served, _keeper: keeper }))
    }

    async fn apply(&self, _request: &ApplyRequest) -> Result<Box<dyn Deployment>, ApplyError> {
        Err(ApplyError::Invalid(CANNOT_APPLY.to_owned()))
    }

    fn cannot_apply(&self) -> Option<&'static str> {
        Some(CANNOT_APPLY)
    }
}

struct EndpointEngine {
    served: Served,
    _keeper: Keeper,
}

#[async_trait]
impl Engine for EndpointEngine {
    fn facts(&self) -> &EngineFacts {
        self.served.facts()
    }

    async fn measure(&mut self, role: Role, probe: &Probe) -> Result<Measurement, Failure> {
        self.served.measure(role, probe).await
    }

    fn log(&self) -> String {
        format!("the engine at {} was running already; its log is where it runs\n", self.served.site().endpoint.url)
    }

    async fn shutdown(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}
