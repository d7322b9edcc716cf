//! Simulated worlds for `cargo xtask bench worlds`: a job, engines whose true speed is known in closed form, launches that
//! take their time or fail. The truth is the host's roofline, bent by factors that no prior knows; a measurement is the
//! truth with noise. Nothing in the host knows that its cluster is one of these.
//!
//! ```text
//! World::new(Setting) --> truth.rs    what an engine does without noise, and which choice is best
//!                    |--> cluster.rs  the same as a `Cluster`, on a virtual clock     --> ours.rs  phases 1 to 5
//!                    '--> peer.rs     the peer's loop, by arithmetic
//!                                                 both end as an Outcome --> score.rs
//! ```

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a measurement, not the program")]

pub mod cluster;
pub mod ours;
pub mod peer;
pub mod random;
pub mod score;
pub mod truth;

use sla_profiler::domain::search_space::{self, SearchSpace};
use sla_profiler::domain::{Mapping, Role};
use sla_profiler::spec::{self, Flags, RunSpec, Source};

use random::Random;
use truth::EngineTruth;

/// Model families of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Llama 3.1 8B, FP8.
    Dense8b,
    /// Llama 3.3 70B, FP8.
    Dense70b,
    /// Qwen3 235B with 128 experts, FP8.
    Moe,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Dense8b, Kind::Dense70b, Kind::Moe];

    const fn model(self) -> &'static str {
        match self {
            Kind::Dense8b => "nvidia/Llama-3.1-8B-Instruct-FP8",
            Kind::Dense70b => "nvidia/Llama-3.3-70B-Instruct-FP8",
            Kind::Moe => "Qwen/Qwen3-235B-A22B-FP8",
        }
    }
}

/// One cell of the matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// Of everything that is random.
    pub seed: u32,
    /// Which model.
    pub kind: Kind,
    /// H200s, eight to a node.
    pub gpus: u32,
    /// Coefficient of variation of one sample.
    pub noise: f64,
    /// From the order to the first answer, in seconds, give or take a tenth.
    pub launch_s: f64,
    /// Probability that a mapping does not come up.
    pub fault_rate: f64,
    /// How far priors are off beyond what they are anyway, as a fraction.
    pub prior_error: f64,
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Setting { seed, kind, gpus, noise, launch_s, fault_rate, .. } = self;
        let kind = match kind {
            Kind::Dense8b => "8B",
            Kind::Dense70b => "70B",
            Kind::Moe => "MoE",
        };
        write!(f, "seed {seed} {kind} {gpus} GPUs {:.0} % {launch_s:.0} s {:.0} %", noise * 100.0, fault_rate * 100.0)
    }
}

/// All worlds of so many seeds.
pub fn matrix(seeds: u32, prior_error: f64) -> Vec<Setting> {
    let mut all = Vec::new();
    for seed in 1..=seeds {
        for kind in Kind::ALL {
            for gpus in [8, 32] {
                for noise in [0.03, 0.05, 0.10] {
                    for launch_s in [120.0, 300.0, 600.0] {
                        for fault_rate in [0.0, 0.1, 0.3] {
                            all.push(Setting { seed, kind, gpus, noise, launch_s, fault_rate, prior_error });
                        }
                    }
                }
            }
        }
    }
    all
}

/// So many of them, spread over the matrix.
pub fn sample(all: &[Setting], count: usize) -> Vec<Setting> {
    // A stride that shares no factor with the matrix visits all values of all axes evenly.
    const STRIDE: usize = 61;
    (0..count.min(all.len())).map(|i| all[i * STRIDE % all.len()]).collect()
}

/// What becomes of a launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fate {
    /// Time until it is known, in seconds.
    pub after_s: f64,
    /// None: it comes up. Some: it does not, and whether somebody notices before the deadline.
    pub fault: Option<Fault>,
}

/// Ways not to come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A state from which there is no return: crash loop, out of memory.
    Terminal,
    /// Pending until somebody loses patience.
    Hangs,
}

/// When a deployment that hangs is given up: the peer's default up to 0.9, in seconds. (1.6.1 waits twice as long.)
pub const READY_TIMEOUT_S: f64 = 1800.0;

/// A job, and the truth about everything in it.
#[derive(Debug)]
pub struct World {
    /// Which.
    pub setting: Setting,
    /// As the program would have it.
    pub spec: RunSpec,
    /// The candidates.
    pub space: SearchSpace,
    /// Of each candidate.
    pub truths: Vec<EngineTruth>,
}

/// How far an engine's true speed lies from the roofline: uniformly, ...
const BIAS: f64 = 0.15;

impl World {
    /// Makes it up.
    ///
    /// # Panics
    /// If the job is not one, which a test would find.
    pub fn new(setting: Setting) -> Self {
        let mut random = Random::new(&[u64::from(setting.seed), setting.kind as u64, u64::from(setting.gpus)]);
        let (isl, osl) = [(3000, 500), (4000, 1000), (1500, 300)][random.below(3)];
        let job = format!(
            r#"{{"model": "{}", "hardware": {{"gpuSku": "h200_sxm", "numGpusPerNode": 8, "totalGpus": {}}},
                "workload": {{"isl": {isl}, "osl": {osl}}}, "sla": {{"ttft": 1000, "itl": 50}}, "autoApply": false}}"#,
            setting.kind.model(),
            setting.gpus
        );
        let mut spec = spec::load(&Source::Inline(job), &Flags::default()).expect("a job").spec;
        spec.job.seed = setting.seed;
        let mut space = search_space::build(&spec.job, &spec.limits);
        let truths: Vec<_> =
            space.candidates.iter().map(|c| EngineTruth::new(&spec.job, c, setting.seed, BIAS)).collect();
        let mut world = Self { setting, spec, space: SearchSpace::default(), truths };
        for candidate in &mut space.candidates {
            let factor = random.around_one(setting.prior_error);
            candidate.prior.latency_ms *= factor;
            candidate.prior.tokens_per_second_per_gpu /= factor;
        }
        world.space = space;
        world.draw_sla(&mut random);
        world
    }

    /// Targets that some engines meet and some do not.
    fn draw_sla(&mut self, random: &mut Random) {
        let job = &self.spec.job;
        let (isl, osl) = (job.workload.isl, job.workload.osl);
        let latencies = |role: Role| -> Vec<f64> {
            let mut all: Vec<_> = self.runnable(role).map(|t| t.latency_ms(isl, osl, t.ranks)).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let (prefill, decode) = (latencies(Role::Prefill), latencies(Role::Decode));
        let reach = (prefill[prefill.len() - 1] / prefill[0]).max(1.3);
        let ttft_ms = prefill[0] * 1.1 * reach.powf(random.uniform());
        let itl_ms = decode[0] * 1.2 * (4.0_f64 / 1.2).powf(random.uniform());
        (self.spec.job.sla.ttft_ms, self.spec.job.sla.itl_ms) = (Some(ttft_ms), Some(itl_ms));
    }

    /// The truth of the role's candidates that come up.
    pub fn runnable(&self, role: Role) -> impl Iterator<Item = &EngineTruth> {
        self.truths.iter().filter(move |t| t.role == role && self.fate(&t.mapping).fault.is_none())
    }

    /// The same for every launch of a mapping: trying again does not help.
    pub fn fate(&self, mapping: &Mapping) -> Fate {
        let Setting { seed, launch_s, fault_rate, .. } = self.setting;
        let mut random = Random::new(&[u64::from(seed), random::text("launch"), random::text(&mapping.label())]);
        let after_s = launch_s * random.around_one(0.1);
        // One mapping always comes up, or there would be nothing to compare.
        let spared = self.truths.iter().map(|t| t.mapping).nth(seed as usize % (self.truths.len() / 2).max(1));
        if random.uniform() >= fault_rate || spared == Some(*mapping) {
            return Fate { after_s, fault: None };
        }
        match random.below(4) {
            0 => Fate { after_s: 0.2 * after_s, fault: Some(Fault::Terminal) },
            1 | 2 => Fate { after_s: 0.9 * after_s, fault: Some(Fault::Terminal) },
            _ => Fate { after_s: READY_TIMEOUT_S, fault: Some(Fault::Hangs) },
        }
    }

    /// The best that anyone could choose for the role: tokens per second and GPU within the target.
    pub fn best(&self, role: Role) -> Option<f64> {
        let limit_ms = self.limit_ms(role);
        self.runnable(role)
            .filter_map(|t| t.best_within(&self.spec.job, limit_ms))
            .map(|(_, rate)| rate)
            .max_by(f64::total_cmp)
    }

    /// The role's target.
    pub fn limit_ms(&self, role: Role) -> f64 {
        let sla = &self.spec.job.sla;
        if role == Role::Prefill { sla.ttft_ms } else { sla.itl_ms }.unwrap_or(f64::INFINITY)
    }
}

/// What a contestant did and came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// On the virtual clock.
    pub wall_s: f64,
    /// GPUs times seconds that engines held.
    pub gpu_s: f64,
    /// Engines launched, failed ones included.
    pub launches: u32,
    /// Points measured.
    pub measurements: u32,
    /// Points of the winners' curves.
    pub curve_points: u32,
    /// Prefill and decode.
    pub chosen: Vec<Pick>,
    /// Input length and TTFT of the prefill winner, in ms.
    pub ttft: Vec<(f64, f64)>,
    /// Input length, output length, requests, ITL of the decode winner, in ms.
    pub itl: Vec<(u32, u32, f64, f64)>,
    /// 95 % intervals that hold the truth, of how many.
    pub covered: (u32, u32),
    /// Why there is no answer.
    pub failed: Option<String>,
}

/// A choice for one role.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pick {
    /// Whose.
    pub candidate: u32,
    /// Requests in flight.
    pub concurrency: u32,
    /// What the contestant says of it.
    pub meets_sla: bool,
}
