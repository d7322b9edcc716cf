//! A disaggregated deployment of simulated engines under open load: what users would see.
//!
//! Requests arrive by a Poisson process, go round robin to the prefill replicas, their KV cache crosses the network, and
//! they go round robin to the decode replicas. The first token is the prefill engine's, seen once the cache has
//! arrived; the others are the decode engine's.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;

use super::core::{Core, EngineShape, Prompt};
use super::{Lease, World, launch, seconds};
use crate::dgd::Worker;
use crate::domain::memory::kv_bytes_per_token_per_gpu;
use crate::domain::random::{self, Random};
use crate::domain::roofline::{NETWORK_EFFICIENCY, NETWORK_LATENCY_S};
use crate::domain::{Backend, Mapping, Role, Stat};
use crate::engine::{ApplyError, CheckLoad, CheckReport, Deployment};

/// The first part of the requests fills the deployment and is not counted.
const WARM_UP_FRACTION: f64 = 0.2;

/// Requests keep arriving until the last counted one is done, but at most this many times as many as asked for:
/// otherwise an overloaded deployment would never end.
const MAX_ARRIVALS_FACTOR: usize = 4;

/// One engine of a deployment.
struct Replica {
    mapping: Mapping,
    backend: Backend,
    shape: EngineShape,
}

/// See [`super::SimulatedCluster`].
pub(super) struct SimulatedDeployment {
    world: Arc<World>,
    prefill: Vec<Replica>,
    decode: Vec<Replica>,
    ready_s: f64,
    _lease: Lease,
}

impl SimulatedDeployment {
    /// `workers` has one entry per replica.
    pub(super) fn new(world: Arc<World>, workers: &[&Worker], lease: Lease) -> Result<Self, ApplyError> {
        let job = &world.job;
        let (mut prefill, mut decode, mut ready_s) = (Vec::new(), Vec::new(), 0.0_f64);
        for worker in workers {
            let shape = EngineShape::new(job, worker.backend, &worker.mapping)
                .map_err(|reason| ApplyError::NotReady(format!("{}: {reason}", worker.component)))?;
            ready_s = ready_s.max(launch::expected_s(job, &worker.mapping, &world.simulation));
            let replica = Replica { mapping: worker.mapping, backend: worker.backend, shape };
            match worker.role {
                Role::Prefill => prefill.push(replica),
                Role::Decode => decode.push(replica),
            }
        }
        Ok(Self { world, prefill, decode, ready_s, _lease: lease })
    }

    /// Time from creating to ready, in seconds.
    pub(super) const fn ready_s(&self) -> f64 {
        self.ready_s
    }

    fn core(&self, role: Role, index: usize, replica: &Replica) -> Result<Core> {
        let roofline = self.world.roofline(replica.backend, &replica.mapping);
        let point = [random::text("check"), index as u64];
        let timing = self.world.timing(roofline, role, &replica.mapping, &point);
        match role {
            Role::Prefill => Core::new(replica.shape, timing),
            Role::Decode => Core::receiving_kv(replica.shape, timing),
        }
    }

    /// One prompt's cache over the network, in milliseconds: each GPU of the prefill engine's rank sends its part
    /// through its own NIC.
    fn transfer_ms(&self, prefill: &Replica, isl: u32) -> f64 {
        let bytes = f64::from(isl) * kv_bytes_per_token_per_gpu(&self.world.job.model, &prefill.mapping);
        let bandwidth = self.world.job.hardware.gpu.network_bytes_per_second * NETWORK_EFFICIENCY;
        1e3 * (NETWORK_LATENCY_S + bytes / bandwidth)
    }

    fn run(&self, load: &CheckLoad) -> Result<(CheckReport, f64)> {
        Run::new(self, load)?.until_all_are_counted()?.report(self)
    }
}

#[async_trait]
impl Deployment for SimulatedDeployment {
    async fn check(&mut self, load: &CheckLoad) -> Result<CheckReport, ApplyError> {
        let (report, duration_s) = self.run(load).map_err(|error| ApplyError::Check(format!("{error:#}")))?;
        tokio::time::sleep(seconds(duration_s)).await;
        Ok(report)
    }
}

/// Where a request is.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    arrived_ms: f64,
    first_token_ms: Option<f64>,
    last_token_ms: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    Arrival,
    PassEnds(Role, usize),
    CacheArrives(u64),
}

/// Ordered by time, then by the order of scheduling, so that a run is the same on every machine.
struct Timed {
    at_ms: f64,
    order: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    /// The heap's greatest is the soonest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at_ms.total_cmp(&self.at_ms).then_with(|| other.order.cmp(&self.order))
    }
}

/// One check run.
struct Run {
    load: CheckLoad,
    random: Random,
    events: BinaryHeap<Timed>,
    scheduled: u64,
    prefill: Vec<Core>,
    decode: Vec<Core>,
    transfer_ms: Vec<f64>,
    host_ms: f64,
    requests: Vec<Progress>,
    warm_up: usize,
    uncounted: usize,
    now_ms: f64,
}

impl Run {
    fn new(deployment: &SimulatedDeployment, load: &CheckLoad) -> Result<Self> {
        let rate = load.requests_per_second;
        ensure!(rate.is_finite() && rate > 0.0, "{rate} requests per second are no load");
        ensure!(load.requests > 0 && load.isl > 0, "there is nothing to send");
        ensure!(load.osl >= 2, "an inter-token latency needs at least two output tokens, not {}", load.osl);
        let sequence = load.isl.saturating_add(load.osl);
        let context = deployment.world.job.max_context_tokens;
        ensure!(sequence <= context, "{sequence} tokens per request exceed the deployment's context of {context}");
        for replica in deployment.prefill.iter().chain(&deployment.decode) {
            let capacity = replica.shape.kv_tokens_per_rank();
            ensure!(sequence <= capacity, "{sequence} tokens exceed the KV cache of {} ({capacity})", replica.mapping);
        }
        let cores = |role, replicas: &[Replica]| {
            replicas.iter().enumerate().map(|(index, r)| deployment.core(role, index, r)).collect::<Result<Vec<_>>>()
        };
        let host = deployment.prefill.first().context("no prefill engine")?;
        let host = deployment.world.roofline(host.backend, &host.mapping).host();
        let warm_up = (f64::from(load.requests) * WARM_UP_FRACTION).floor() as usize;
        let mut run = Self {
            load: *load,
            random: Random::new(&[
                u64::from(deployment.world.job.seed),
                random::text("arrivals"),
                u64::from(load.isl),
                u64::from(load.osl),
                rate.to_bits(),
            ]),
            events: BinaryHeap::new(),
            scheduled: 0,
            prefill: cores(Role::Prefill, &deployment.prefill)?,
            decode: cores(Role::Decode, &deployment.decode)?,
            transfer_ms: deployment.prefill.iter().map(|r| deployment.transfer_ms(r, load.isl)).collect(),
            host_ms: 1e3 * host.per_request_s,
            requests: Vec::new(),
            warm_up,
            uncounted: load.requests as usize - warm_up,
            now_ms: 0.0,
        };
        run.schedule(0.0, Event::Arrival);
        Ok(run)
    }

    fn schedule(&mut self, at_ms: f64, event: Event) {
        self.events.push(Timed { at_ms, order: self.scheduled, event });
        self.scheduled += 1;
    }

    fn until_all_are_counted(mut self) -> Result<Self> {
        while self.uncounted > 0 {
            let Some(Timed { at_ms, event, .. }) = self.events.pop() else {
                bail!("the deployment stopped with {} requests under way", self.uncounted)
            };
            self.now_ms = at_ms;
            match event {
                Event::Arrival => self.arrive()?,
                Event::PassEnds(role, replica) => self.end_pass(role, replica)?,
                Event::CacheArrives(request) => self.start_decoding(request)?,
            }
        }
        Ok(self)
    }

    fn arrive(&mut self) -> Result<()> {
        let id = self.requests.len() as u64;
        self.requests.push(Progress { arrived_ms: self.now_ms, ..Progress::default() });
        let prompt = Prompt { id, seed: self.random.next(), tokens: self.load.isl, outputs: 1 };
        self.enqueue(Role::Prefill, id, prompt)?;
        if self.requests.len() < MAX_ARRIVALS_FACTOR * self.load.requests as usize {
            let gap_ms = self.random.exponential(1e3 / self.load.requests_per_second);
            self.schedule(self.now_ms + gap_ms, Event::Arrival);
        }
        Ok(())
    }

    fn start_decoding(&mut self, id: u64) -> Result<()> {
        if let Some(request) = self.requests.get_mut(id as usize) {
            request.first_token_ms = Some(self.now_ms + self.host_ms);
        }
        let prompt = Prompt { id, seed: id, tokens: self.load.isl + 1, outputs: self.load.osl - 1 };
        self.enqueue(Role::Decode, id, prompt)
    }

    fn cores(&mut self, role: Role) -> &mut Vec<Core> {
        match role {
            Role::Prefill => &mut self.prefill,
            Role::Decode => &mut self.decode,
        }
    }

    /// Round robin over replicas, and over the ranks of each.
    fn enqueue(&mut self, role: Role, id: u64, prompt: Prompt) -> Result<()> {
        let cores = self.cores(role);
        let replicas = cores.len().max(1) as u64;
        let replica = (id % replicas) as usize;
        let core = cores.get_mut(replica).context("no such replica")?;
        core.enqueue(id / replicas, prompt);
        self.start_pass(role, replica)
    }

    fn start_pass(&mut self, role: Role, replica: usize) -> Result<()> {
        let now_ms = self.now_ms;
        let core = self.cores(role).get_mut(replica).context("no such replica")?;
        if core.is_busy() {
            return Ok(());
        }
        core.wait_until(now_ms);
        if let Some(end_ms) = core.start()? {
            self.schedule(end_ms, Event::PassEnds(role, replica));
        }
        Ok(())
    }

    fn end_pass(&mut self, role: Role, replica: usize) -> Result<()> {
        let pass = self.cores(role).get_mut(replica).context("no such replica")?.finish()?;
        ensure!(pass.rejected.is_empty(), "a {role} engine refused a request");
        for id in pass.finished {
            match role {
                Role::Prefill => {
                    let transfer_ms = self.transfer_ms.get(replica).copied().unwrap_or(0.0);
                    self.schedule(self.now_ms + transfer_ms, Event::CacheArrives(id));
                }
                Role::Decode => {
                    let end_ms = self.now_ms + self.host_ms;
                    let counted = (self.warm_up..self.load.requests as usize).contains(&(id as usize));
                    if let Some(request) = self.requests.get_mut(id as usize) {
                        request.last_token_ms = Some(end_ms);
                        self.uncounted -= usize::from(counted);
                    }
                }
            }
        }
        self.start_pass(role, replica)
    }

    /// The report, and how long the run took in seconds.
    fn report(self, deployment: &SimulatedDeployment) -> Result<(CheckReport, f64)> {
        let sla = &deployment.world.job.sla;
        let answers = f64::from(self.load.osl - 1);
        let counted = self.requests.iter().take(self.load.requests as usize).skip(self.warm_up);
        let (mut ttft_ms, mut itl_ms, mut e2e_ms) = (Vec::new(), Vec::new(), Vec::new());
        let (mut first_ms, mut last_ms) = (f64::INFINITY, 0.0_f64);
        for request in counted {
            let (Some(first), Some(last)) = (request.first_token_ms, request.last_token_ms) else { continue };
            ttft_ms.push(first - request.arrived_ms);
            itl_ms.push((last - first) / answers);
            e2e_ms.push(last - request.arrived_ms);
            first_ms = first_ms.min(last);
            last_ms = last_ms.max(last);
        }
        let meets = |target: Option<f64>, value: f64| target.is_none_or(|target| value <= target);
        let good = ttft_ms
            .iter()
            .zip(&itl_ms)
            .zip(&e2e_ms)
            .filter(|((ttft, itl), e2e)| {
                meets(sla.ttft_ms, **ttft) && meets(sla.itl_ms, **itl) && meets(sla.e2e_ms, **e2e)
            })
            .count();
        let stat = |samples: &[f64]| Stat::from_samples(samples, sla.quantile).context("no request was completed");
        let (ttft, itl, e2e) = (stat(&ttft_ms)?, stat(&itl_ms)?, stat(&e2e_ms)?);
        let completed = ttft_ms.len() as f64;
        let report = CheckReport {
            load: self.load,
            // From the first to the last completion, so that the time of a single request does not count as idle.
            requests_per_second: if last_ms > first_ms { 1e3 * (completed - 1.0) / (last_ms - first_ms) } else { 0.0 },
            ttft_ms: ttft,
            itl_ms: itl,
            slo_attainment: good as f64 / completed,
            failed_requests: 0,
            meets_sla: meets(sla.ttft_ms, ttft.target)
                && meets(sla.itl_ms, itl.target)
                && meets(sla.e2e_ms, e2e.target),
            ready_s: deployment.ready_s,
        };
        Ok((report, self.now_ms / 1e3))
    }
}
