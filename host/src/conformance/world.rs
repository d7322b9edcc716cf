//! Made-up clusters: jobs, candidates and what measuring them would give, all from a seed.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::ConformanceError;
use crate::domain::candidate::Prior;
use crate::domain::search_space::{self, Limits};
use crate::domain::{
    Backend, Candidate, CandidateId, Demand, EngineFacts, Failure, FailureClass, Hardware, History, Job, Mapping,
    Measurement, Probe, Role, Sla, Stat, Workload,
};
use crate::engine::simulated::SimulatedCluster;
use crate::run::{Phase, Recorder};
use crate::scheduler::Scheduler;
use crate::spec::{SimulationSpec, find_gpu, find_model};

/// Seeds of the random worlds.
const SEEDS: std::ops::Range<u64> = 1..13;

/// SplitMix64: the same numbers on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [low, high).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * ((self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T], otherwise: T) -> T {
        let index = self.next() % (of.len().max(1) as u64);
        of.get(index as usize).copied().unwrap_or(otherwise)
    }

    /// Fisher and Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = (self.next() % (last as u64 + 1)) as usize;
            items.swap(last, other);
        }
    }
}

/// A job, candidates, and what was measured of them.
#[derive(Debug, Clone)]
pub struct World {
    /// For a person; holds the seed.
    pub name: String,
    pub seed: u64,
    pub job: Job,
    pub candidates: Vec<Candidate>,
    /// Everything at the job's lengths, and some of the curves.
    pub history: History,
    /// Candidates whose engines do not start.
    pub broken: Vec<CandidateId>,
}

impl World {
    /// How hard it is to look at: candidates and points.
    fn size(&self) -> usize {
        self.candidates.len() * 1000 + self.history.measurements.len()
    }

    /// The same with the rows of the history in another order.
    pub fn shuffled_history(&self) -> History {
        shuffled(&self.history, self.seed)
    }

    /// The same with other ids, and the new id of each old one.
    pub fn renumbered(&self) -> (Self, Vec<CandidateId>) {
        let mut old: Vec<CandidateId> = (0..self.candidates.len() as u32).collect();
        Random::new(self.seed ^ 0x5eed).shuffle(&mut old);
        let mut new = vec![0; old.len()];
        for (place, id) in (0_u32..).zip(&old) {
            if let Some(slot) = new.get_mut(*id as usize) {
                *slot = place;
            }
        }
        let map = |id: CandidateId| new.get(id as usize).copied().unwrap_or(id);
        let mut world = self.clone();
        world.candidates = old.iter().filter_map(|id| self.candidates.get(*id as usize).cloned()).collect();
        world.history.facts.iter_mut().for_each(|facts| facts.candidate = map(facts.candidate));
        world.history.measurements.iter_mut().for_each(|m| m.candidate = map(m.candidate));
        for failure in &mut world.history.failures {
            failure.candidate = map(failure.candidate);
            if let Some(probe) = &mut failure.probe {
                probe.candidate = map(probe.candidate);
            }
        }
        world.broken.iter_mut().for_each(|id| *id = map(*id));
        (world, new)
    }

    /// A history in which every engine failed to start.
    pub fn all_failed(&self) -> History {
        let failures = (0..self.candidates.len() as u32).map(|id| broken(id, &self.candidates)).collect();
        History { failures, ..History::default() }
    }

    /// What launching the candidate would give.
    pub fn facts(&self, id: CandidateId) -> EngineFacts {
        facts(id, self.candidates.get(id as usize))
    }

    /// What measuring the point would give.
    pub fn measure(&self, probe: &Probe) -> Result<Measurement, Failure> {
        match self.candidates.get(probe.candidate as usize) {
            Some(candidate) if !self.broken.contains(&probe.candidate) => {
                Ok(measure(self.seed, &self.job, candidate, probe))
            }
            _ => Err(broken(probe.candidate, &self.candidates)),
        }
    }
}

pub fn shuffled(history: &History, seed: u64) -> History {
    let mut random = Random::new(seed ^ 0xface);
    let mut history = history.clone();
    random.shuffle(&mut history.facts);
    random.shuffle(&mut history.measurements);
    random.shuffle(&mut history.failures);
    history
}

fn broken(candidate: CandidateId, candidates: &[Candidate]) -> Failure {
    let name = candidates.get(candidate as usize).map(Candidate::name).unwrap_or_default();
    Failure {
        candidate,
        class: FailureClass::Launch,
        cause: None,
        probe: None,
        reason: format!("{name}: out of memory"),
    }
}

fn facts(candidate: CandidateId, of: Option<&Candidate>) -> EngineFacts {
    let gpus = of.map_or(1, Candidate::gpus);
    EngineFacts {
        candidate,
        kv_tokens: gpus.saturating_mul(400_000),
        max_running: 256,
        launch_s: 60.0,
        kv_sources: Vec::new(),
    }
}

/// Speed of a candidate: GPUs with losses, and a factor of its own that no prior knows.
fn speed(seed: u64, candidate: &Candidate) -> f64 {
    let gpus = candidate.gpus();
    let own = Random::new(seed ^ u64::from(gpus) << 8 ^ u64::from(candidate.mapping.attention_dp)).between(0.85, 1.15);
    f64::from(gpus).powf(0.75) * own
}

fn measure(seed: u64, job: &Job, candidate: &Candidate, probe: &Probe) -> Measurement {
    let Probe { candidate: id, isl, osl, concurrency, .. } = *probe;
    let (speed, gpus) = (speed(seed, candidate), f64::from(candidate.gpus()));
    let kv_tokens = f64::from(facts(id, Some(candidate)).kv_tokens);
    let running = f64::from(concurrency).min(kv_tokens / (f64::from(isl) + f64::from(osl))).clamp(1.0, 256.0);
    let spread = if job.sla.quantile.is_some() { 1.1 } else { 1.0 };
    let stat = |mean: f64| Stat {
        mean,
        p50: mean * 0.99,
        p90: mean * 1.1,
        p99: mean * 1.3,
        ci_low: mean * 0.99,
        ci_high: mean * 1.01,
        target: mean * spread,
    };
    let (isl_tokens, dp) = (f64::from(isl), f64::from(candidate.mapping.attention_dp.max(1)));
    let prompt_ms = (5.0 + isl_tokens * 0.02 + isl_tokens * isl_tokens * 4e-7) / speed;
    let context = isl_tokens + f64::from(osl) / 2.0;
    let step_ms = (6.0 + running * (0.02 + context * 4e-6)) / speed + 1.0;
    let is_prefill = candidate.role == Role::Prefill;
    let ttft_ms = prompt_ms * (f64::from(concurrency) / dp).max(1.0);
    Measurement {
        candidate: id,
        isl,
        osl,
        concurrency,
        concurrency_seen: running,
        ttft_ms: is_prefill.then(|| stat(ttft_ms)),
        itl_ms: (!is_prefill).then(|| stat(step_ms)),
        samples: 30,
        failed_requests: 0,
        input_tokens_per_second_per_gpu: if is_prefill { isl_tokens * 1e3 / prompt_ms / gpus } else { 0.0 },
        output_tokens_per_second_per_gpu: if is_prefill { 0.0 } else { running * 1e3 / step_ms / gpus },
        kv_usage: (running * context / kv_tokens).min(1.0),
        kv_usage_nominal: f64::from(concurrency) * context / kv_tokens,
        duration_s: 5.0,
    }
}

/// What a thorough sweep would have found.
fn swept(seed: u64, job: &Job, candidates: &[Candidate], failing: &[CandidateId]) -> History {
    let mut history = History::default();
    for (id, candidate) in (0_u32..).zip(candidates) {
        if failing.contains(&id) {
            history.failures.push(broken(id, candidates));
            continue;
        }
        history.facts.push(facts(id, Some(candidate)));
        let Workload { isl, osl } = job.workload;
        let points: &[(u32, u32)] = match candidate.role {
            Role::Prefill => &[(isl, 1), (isl / 2, 1), (isl * 2, 1)],
            Role::Decode => &[(isl, 1), (isl, 8), (isl, 32), (isl, 96), (isl, 200), (isl * 2, 32)],
        };
        let dp = candidate.mapping.attention_dp.max(1);
        let point = |(isl, concurrency): &(u32, u32)| {
            let osl = if candidate.role == Role::Prefill { 2 } else { osl };
            let probe = Probe {
                candidate: id,
                isl: *isl,
                osl,
                concurrency: concurrency * dp,
                relative_precision: 0.02,
                max_samples: 100,
            };
            measure(seed, job, candidate, &probe)
        };
        history.measurements.extend(points.iter().map(point));
    }
    history
}

pub fn candidate(role: Role, mapping: Mapping) -> Candidate {
    // No two candidates look alike: which of two equals comes first is nobody's business.
    let gpus = f64::from(mapping.gpus()) + if mapping.attention_dp > 1 { 0.3 } else { 0.0 };
    Candidate {
        role,
        mapping,
        prior: Prior {
            latency_ms: if role == Role::Prefill { 80.0 / gpus.powf(0.7) } else { 7.0 / gpus.powf(0.7) },
            tokens_per_second_per_gpu: if role == Role::Prefill { 40_000.0 } else { 200.0 } / gpus.powf(0.3),
            relative_error: 0.3,
            kv_tokens: gpus * 400_000.0,
        },
    }
}

fn job() -> Result<Job, ConformanceError> {
    let failed = |error: crate::spec::SpecError| ConformanceError::World(error.to_string());
    Ok(Job {
        model: find_model("nvidia/Llama-3.1-8B-Instruct-FP8").map_err(failed)?,
        hardware: Hardware { gpu: find_gpu("h200_sxm").map_err(failed)?, gpus_per_node: 8, total_gpus: 16 },
        backend: Backend::Vllm,
        workload: Workload { isl: 3000, osl: 150 },
        sla: Sla { ttft_ms: Some(100.0), itl_ms: Some(12.0), e2e_ms: None, quantile: None },
        demand: Demand::RequestsPerSecond(10.0),
        max_context_tokens: 16_384,
        seed: 1,
    })
}

/// As many candidates as asked for; mappings repeat beyond the first few, as no search space would have it.
pub fn large(count: usize) -> Result<World, ConformanceError> {
    let job = job()?;
    let candidates: Vec<Candidate> = (0..count)
        .map(|n| {
            let role = if n % 2 == 0 { Role::Prefill } else { Role::Decode };
            // Data parallel sizes of their own keep them apart.
            let mapping = Mapping { pp: 1 + (n / 8) as u32, ..Mapping::tensor(1 << (n / 2 % 4)) };
            candidate(role, mapping)
        })
        .collect();
    let history = swept(1, &job, &candidates, &[]);
    Ok(World { name: format!("{count} candidates"), seed: 1, job, candidates, history, broken: Vec::new() })
}

fn random(seed: u64) -> Result<World, ConformanceError> {
    let mut random = Random::new(seed);
    let mut job = job()?;
    job.seed = seed as u32;
    job.workload =
        Workload { isl: random.pick(&[500, 1000, 3000, 4000], 3000), osl: random.pick(&[50, 150, 500], 150) };
    job.hardware.total_gpus = random.pick(&[8, 16, 64], 8);
    let (ttft_ms, itl_ms) = (random.between(20.0, 300.0), random.between(3.0, 25.0));
    job.sla = match seed % 4 {
        0 => Sla {
            ttft_ms: None,
            itl_ms: None,
            e2e_ms: Some(ttft_ms + itl_ms * f64::from(job.workload.osl)),
            quantile: None,
        },
        1 => Sla { ttft_ms: Some(ttft_ms), itl_ms: Some(itl_ms), e2e_ms: None, quantile: Some(0.9) },
        2 => Sla { ttft_ms: None, itl_ms: Some(itl_ms), e2e_ms: None, quantile: None },
        _ => Sla { ttft_ms: Some(ttft_ms), itl_ms: Some(itl_ms), e2e_ms: None, quantile: None },
    };
    job.demand = match seed % 3 {
        0 => Demand::Budget,
        1 => Demand::RequestsPerSecond(random.between(0.5, 40.0)),
        _ => Demand::Concurrency(random.between(1.0, 500.0) as u32),
    };
    let mut candidates = Vec::new();
    for role in Role::ALL {
        let most = 1 + (random.next() % 4) as u32;
        candidates.extend((0..most).map(|power| candidate(role, Mapping::tensor(1 << power))));
        if random.next().is_multiple_of(2) {
            candidates.push(candidate(role, Mapping::data_expert(8)));
        }
    }
    // Never the first of its role, so that something is left to decide about.
    let roles: Vec<Role> = candidates.iter().map(|candidate| candidate.role).collect();
    let mut failing = Vec::new();
    for (id, pair) in (1_u32..).zip(roles.windows(2)) {
        if pair.first() == pair.last() && random.next().is_multiple_of(5) {
            failing.push(id);
        }
    }
    let history = swept(seed, &job, &candidates, &failing);
    Ok(World { name: format!("random cluster, seed {seed}"), seed, job, candidates, history, broken: failing })
}

/// Measured on the simulated cluster, with its noise.
fn simulated(seed: u32) -> Result<World, ConformanceError> {
    let failed = |error: &dyn std::fmt::Display| ConformanceError::World(error.to_string());
    let mut job = job()?;
    job.hardware.total_gpus = 8;
    job.seed = seed;
    let candidates = search_space::build(&job, &Limits::default()).candidates;
    let simulation = SimulationSpec {
        noise_cv: 0.03,
        model_error: 0.15,
        fault_rate: 0.0,
        passing_fault_rate: 0.0,
        load_bytes_per_second: 5e9,
        compile_s: 60.0,
        warmup_s: 10.0,
    };
    let probes = swept(0, &job, &candidates, &[]).measurements.into_iter().map(|m| Probe {
        candidate: m.candidate,
        isl: m.isl,
        osl: m.osl,
        concurrency: m.concurrency,
        relative_precision: 0.05,
        max_samples: 16,
    });
    let recorder = Recorder::new(None, &[], Vec::new());
    let cluster = Arc::new(SimulatedCluster::new(&job, &simulation));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| failed(&error))?;
    let scheduler =
        Scheduler::new(cluster, candidates.clone(), recorder.clone(), None, Arc::new(AtomicBool::new(false)));
    let (prefill, decode): (Vec<Probe>, Vec<Probe>) = probes.partition(|probe| {
        candidates.get(probe.candidate as usize).is_some_and(|candidate| candidate.role == Role::Prefill)
    });
    runtime
        .block_on(async {
            scheduler.measure(Phase::PrefillSweep, &prefill).await?;
            scheduler.measure(Phase::DecodeSweep, &decode).await?;
            scheduler.retain(&[]).await
        })
        .map_err(|error| failed(&error))?;
    let history = recorder.history();
    Ok(World {
        name: format!("simulated cluster, seed {seed}"),
        seed: u64::from(seed),
        job,
        candidates,
        history,
        broken: Vec::new(),
    })
}

/// All worlds of the suite, small ones first.
pub fn all() -> Result<Vec<World>, ConformanceError> {
    let mut worlds = Vec::new();
    let job = job()?;
    let candidates: Vec<Candidate> = Role::ALL.into_iter().map(|role| candidate(role, Mapping::tensor(1))).collect();
    let history = swept(0, &job, &candidates, &[]);
    let name = "one candidate of each role".to_owned();
    worlds.push(World { name, seed: 0, job, candidates, history, broken: Vec::new() });
    for seed in SEEDS {
        worlds.push(random(seed)?);
    }
    for seed in [1, 2] {
        worlds.push(simulated(seed)?);
    }
    worlds.sort_by_key(World::size);
    Ok(worlds)
}
