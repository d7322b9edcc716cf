//! What an engine does without noise.

use sla_profiler::domain::memory::{DEFAULT_BATCHED_TOKENS, MemoryPlan};
use sla_profiler::domain::roofline::{DecodeBatch, Roofline};
use sla_profiler::domain::{Candidate, Job, Mapping, Role};

use super::random::{Random, text};

/// Most requests that one rank runs at once.
const MAX_RUNNING_PER_RANK: u32 = 1024;

/// An engine in one role.
#[derive(Debug, Clone)]
pub struct EngineTruth {
    /// In which role.
    pub role: Role,
    /// Its mapping.
    pub mapping: Mapping,
    /// GPUs.
    pub gpus: u32,
    /// Attention-DP ranks.
    pub ranks: u32,
    /// KV cache in tokens, over all ranks.
    pub kv_tokens: u32,
    /// Most requests at once, over all ranks.
    pub max_running: u32,
    roofline: Roofline,
    /// True over modelled time at the job's point.
    bias: f64,
    /// By how much that changes where the load, or the length, is a hundred times as large.
    bend: f64,
    isl: f64,
}

impl EngineTruth {
    /// Of the candidate.
    pub fn new(job: &Job, candidate: &Candidate, seed: u32, spread: f64) -> Self {
        let mapping = candidate.mapping;
        let key = [u64::from(seed), text("bias"), text(candidate.role.as_str()), text(&mapping.label())];
        let mut random = Random::new(&key);
        let plan = MemoryPlan::new(&job.model, &mapping, &job.hardware.gpu, DEFAULT_BATCHED_TOKENS);
        let ranks = mapping.attention_dp.max(1);
        Self {
            role: candidate.role,
            mapping,
            gpus: mapping.gpus(),
            ranks,
            kv_tokens: plan.kv_tokens() as u32,
            max_running: MAX_RUNNING_PER_RANK * ranks,
            roofline: Roofline::new(&job.model, &job.hardware, &mapping, job.backend),
            bias: random.around_one(spread),
            bend: spread * (2.0 * random.uniform() - 1.0),
            isl: f64::from(job.workload.isl),
        }
    }

    fn bent(&self, modelled_s: f64, times: f64) -> f64 {
        1e3 * modelled_s * self.bias * (1.0 + self.bend * times.max(1e-3).ln() / 100.0_f64.ln())
    }

    /// TTFT of one request alone.
    pub fn ttft_ms(&self, isl: f64) -> f64 {
        self.bent(self.roofline.ttft_s(isl as u32, DEFAULT_BATCHED_TOKENS), isl / self.isl)
    }

    /// ITL of so many requests of that mean context.
    pub fn itl_ms(&self, context: f64, requests: f64) -> f64 {
        let sequences = (requests / f64::from(self.ranks)).max(1.0);
        let step = DecodeBatch { sequences, context_tokens: context };
        self.bent(self.roofline.decode_step(step).total_s(), sequences)
    }

    /// How many of so many requests run at once.
    pub fn running(&self, isl: u32, osl: u32, concurrency: u32) -> f64 {
        f64::from(concurrency.min(self.reach(isl, osl)))
    }

    /// Most requests at once.
    pub fn reach(&self, isl: u32, osl: u32) -> u32 {
        (self.kv_tokens / (isl + osl).max(1)).min(self.max_running).max(1)
    }

    /// TTFT or ITL, by the role.
    pub fn latency_ms(&self, isl: u32, osl: u32, concurrency: u32) -> f64 {
        match self.role {
            // One prompt per rank at a time; with several in flight each waits for those before it.
            Role::Prefill => self.ttft_ms(f64::from(isl)) * f64::from(concurrency.div_ceil(self.ranks).max(1)),
            Role::Decode => self.itl_ms(mean_context(isl, osl), self.running(isl, osl, concurrency)),
        }
    }

    /// Input or output tokens per second and GPU, by the role.
    pub fn rate(&self, isl: u32, osl: u32, concurrency: u32) -> f64 {
        let per_second = match self.role {
            Role::Prefill => f64::from(isl) * f64::from(self.ranks) / self.ttft_ms(f64::from(isl)),
            Role::Decode => self.running(isl, osl, concurrency) / self.latency_ms(isl, osl, concurrency),
        };
        1e3 * per_second / f64::from(self.gpus)
    }

    /// The load of the highest rate within the limit, by trying every load.
    pub fn best_within(&self, job: &Job, limit_ms: f64) -> Option<(u32, f64)> {
        let (isl, osl) = (job.workload.isl, job.workload.osl);
        let most = if self.role == Role::Prefill { self.ranks } else { self.reach(isl, osl) };
        (1..=most / self.ranks)
            .map(|n| n * self.ranks)
            .filter(|n| self.latency_ms(isl, osl, *n) <= limit_ms)
            .map(|n| (n, self.rate(isl, osl, n)))
            .max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Time of a decode point: prompts go into the prefix cache, the requests start, the steps are timed.
    pub fn decode_point_s(&self, isl: u32, osl: u32, concurrency: u32, steps: f64) -> f64 {
        let running = self.running(isl, osl, concurrency);
        let prompts_s = (running / f64::from(self.ranks)).ceil() * self.ttft_ms(f64::from(isl)) / 1e3;
        prompts_s + (steps + f64::from(osl) / 2.0) * self.latency_ms(isl, osl, concurrency) / 1e3
    }
}

/// Of a request, while its answer is generated.
pub fn mean_context(isl: u32, osl: u32) -> f64 {
    f64::from(isl) + f64::from(osl) / 2.0
}
