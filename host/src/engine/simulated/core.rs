//! One `aisimulate` engine, driven pass by pass in its own simulated time.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use aisimulate_core::engine::generalized::{EngineIdentity, PassId, SchedulerCommand};
use aisimulate_core::engine::{
    Backend as SimulatedBackend, Command, Engine, EngineConfig, EngineFactory, Request, SglangConfig, WorkerType,
};
use anyhow::{Context, Result, bail, ensure};
use uuid::Uuid;

use super::timing::EngineTiming;
use crate::domain::memory::{DEFAULT_BATCHED_TOKENS, DoesNotFit, MemoryPlan};
use crate::domain::random::Random;
use crate::domain::{Backend, Job, Mapping};

/// Most sequences that one attention-DP rank runs at once: what NVIDIA's profiler sets for decode engines, and vLLM's own
/// default on data-centre GPUs.
pub(super) const MAX_RUNNING_PER_RANK: u32 = 1024;

/// Tokens of one KV block. Engines use 16 (vLLM), 32 (TensorRT-LLM) or 1 (SGLang); larger blocks make the simulation
/// cheaper and cost at most 63 tokens of capacity per request.
pub(super) const BLOCK_TOKENS: u32 = 64;

/// Passes in a row that may take no time before the engine counts as stuck.
const MAX_IDLE_PASSES: u32 = 1000;

/// What an engine's flags would say, and what follows from its memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct EngineShape {
    pub(super) backend: Backend,
    pub(super) ranks: u32,
    pub(super) blocks_per_rank: u32,
    pub(super) batched_tokens: u32,
}

impl EngineShape {
    pub(super) fn new(job: &Job, backend: Backend, mapping: &Mapping) -> Result<Self, DoesNotFit> {
        let plan = MemoryPlan::new(&job.model, mapping, &job.hardware.gpu, DEFAULT_BATCHED_TOKENS);
        plan.check(BLOCK_TOKENS)?;
        // Beyond 4 billion tokens nothing changes any more.
        let blocks = (plan.kv_tokens_per_rank() / f64::from(BLOCK_TOKENS)).min(f64::from(u32::MAX / BLOCK_TOKENS));
        Ok(Self {
            backend,
            ranks: mapping.attention_dp.max(1),
            blocks_per_rank: blocks as u32,
            batched_tokens: DEFAULT_BATCHED_TOKENS,
        })
    }

    pub(super) const fn kv_tokens_per_rank(&self) -> u32 {
        self.blocks_per_rank.saturating_mul(BLOCK_TOKENS)
    }

    pub(super) const fn kv_tokens(&self) -> u32 {
        self.kv_tokens_per_rank().saturating_mul(self.ranks)
    }

    pub(super) const fn max_running(&self) -> u32 {
        MAX_RUNNING_PER_RANK.saturating_mul(self.ranks)
    }

    /// `receives_kv`: prompts arrive with their KV cache, as on the decode side of a disaggregated deployment.
    fn config(&self, receives_kv: bool) -> EngineConfig {
        let backend = match self.backend {
            Backend::Vllm => SimulatedBackend::Vllm,
            Backend::Sglang => SimulatedBackend::Sglang,
            Backend::Trtllm => SimulatedBackend::Trtllm,
        };
        // A prompt that arrives with its cache does not count against the tokens that a pass computes.
        let batched_tokens = if receives_kv { usize::MAX / 4096 } else { self.batched_tokens as usize };
        let batched_tokens = batched_tokens - batched_tokens % BLOCK_TOKENS as usize;
        EngineConfig {
            block_size: BLOCK_TOKENS as usize,
            num_gpu_blocks: self.blocks_per_rank as usize,
            max_num_seqs: MAX_RUNNING_PER_RANK as usize,
            max_num_batched_tokens: batched_tokens,
            enable_prefix_caching: !receives_kv,
            worker_type: if receives_kv { WorkerType::Decode } else { WorkerType::Aggregated },
            sglang: SglangConfig {
                max_prefill_tokens: batched_tokens,
                // The simulator divides it among the ranks.
                chunked_prefill_size: batched_tokens.saturating_mul(self.ranks as usize),
                ..SglangConfig::default()
            },
            ..EngineConfig::for_backend(backend)
        }
    }
}

/// A request before its tokens exist: they are made when the engine takes it, so that a long queue costs no memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prompt {
    /// The caller's name for it.
    pub(super) id: u64,
    /// What its tokens are: prompts of one seed are equal.
    pub(super) seed: u64,
    /// How many.
    pub(super) tokens: u32,
    /// Tokens to generate.
    pub(super) outputs: u32,
}

/// What one pass did, over all ranks.
#[derive(Debug, Clone, Default)]
pub(super) struct Pass {
    pub(super) duration_ms: f64,
    pub(super) prefill_requests: u32,
    pub(super) decode_requests: u32,
    /// Tokens whose KV cache the pass worked on.
    pub(super) context_tokens: u64,
    /// Mean of the ranks' KV usage as they report it, after the pass.
    pub(super) kv_usage: f64,
    /// Requests that got all their tokens.
    pub(super) finished: Vec<u64>,
    /// Requests that the engine refused.
    pub(super) rejected: Vec<u64>,
}

/// Requests of one rank that the engine does not have yet, and what it has.
#[derive(Debug, Clone, Default)]
struct Rank {
    queue: VecDeque<Prompt>,
    requests: u32,
    tokens: u64,
    kv_usage: f64,
}

/// An engine and its clock.
pub(super) struct Core {
    engine: Engine,
    shape: EngineShape,
    ranks: Vec<Rank>,
    /// Requests and tokens that a rank is given at once; the rest waits here. Engines serve first come, first served,
    /// so that it makes no difference where a request waits.
    rank_requests: u32,
    rank_tokens: u64,
    /// Rank and length of what the engine has, by request.
    inside: HashMap<u64, (usize, u32)>,
    in_flight: Option<(PassId, f64, f64)>,
    idle_passes: u32,
    now_ms: f64,
}

impl Core {
    /// An engine that computes prompts itself.
    pub(super) fn new(shape: EngineShape, timing: EngineTiming) -> Result<Self> {
        Self::build(shape, timing, false)
    }

    /// An engine whose prompts arrive with their KV cache.
    pub(super) fn receiving_kv(shape: EngineShape, timing: EngineTiming) -> Result<Self> {
        Self::build(shape, timing, true)
    }

    fn build(shape: EngineShape, timing: EngineTiming, receives_kv: bool) -> Result<Self> {
        let ranks = NonZeroU32::new(shape.ranks).context("an engine has at least one rank")?;
        let factory = EngineFactory::with_timing_model(shape.config(receives_kv), Arc::new(timing))?;
        Ok(Self {
            engine: factory.build(EngineIdentity::new(0), ranks)?,
            shape,
            ranks: vec![Rank::default(); shape.ranks as usize],
            rank_requests: MAX_RUNNING_PER_RANK.saturating_add(2),
            rank_tokens: u64::from(shape.kv_tokens_per_rank()),
            inside: HashMap::new(),
            in_flight: None,
            idle_passes: 0,
            now_ms: 0.0,
        })
    }

    /// Time on the engine's clock, in milliseconds.
    pub(super) const fn now_ms(&self) -> f64 {
        self.now_ms
    }

    pub(super) const fn shape(&self) -> &EngineShape {
        &self.shape
    }

    /// Lets an idle engine's clock go on.
    pub(super) fn wait_until(&mut self, time_ms: f64) {
        self.now_ms = self.now_ms.max(time_ms);
    }

    /// Queues a request on rank `index` modulo the number of ranks: a load balancer that goes round robin.
    pub(super) fn enqueue(&mut self, index: u64, prompt: Prompt) {
        let rank = (index % self.ranks.len().max(1) as u64) as usize;
        if let Some(rank) = self.ranks.get_mut(rank) {
            rank.queue.push_back(prompt);
        }
    }

    /// Whether a pass is under way.
    pub(super) const fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Starts a pass and returns when it will end; `None` where there is nothing to do.
    pub(super) fn start(&mut self) -> Result<Option<f64>> {
        self.feed()?;
        let Some(started) = self.engine.execute_pass(self.now_ms)? else { return Ok(None) };
        self.in_flight = Some((started.pass_id, started.started_at_ms, started.end_ms));
        Ok(Some(started.end_ms))
    }

    /// Ends the pass under way.
    pub(super) fn finish(&mut self) -> Result<Pass> {
        let (id, started_ms, end_ms) = self.in_flight.take().context("no pass is under way")?;
        let completed = self.engine.complete_pass(id, end_ms)?;
        self.now_ms = end_ms;
        let mut pass = Pass { duration_ms: end_ms - started_ms, ..Pass::default() };
        for rank in completed.effects.into_by_rank() {
            let forward = &rank.effects.forward_pass_metrics;
            pass.prefill_requests += forward.num_prefill_requests;
            pass.decode_requests += forward.num_decode_requests;
            pass.context_tokens +=
                forward.sum_prefill_tokens + forward.sum_prefill_kv_tokens + forward.sum_decode_kv_tokens;
            if let Some(known) = self.ranks.get_mut(rank.dp_rank as usize) {
                known.kv_usage = rank.effects.metrics.cache_usage;
            }
            for output in rank.effects.outputs.into_iter().filter(|output| output.completed) {
                let id = output.request_id.as_u128() as u64;
                self.forget(id);
                if output.rejected { &mut pass.rejected } else { &mut pass.finished }.push(id);
            }
        }
        pass.kv_usage = self.ranks.iter().map(|r| r.kv_usage).sum::<f64>() / self.ranks.len().max(1) as f64;
        let did_something = pass.duration_ms > 0.0 || !pass.finished.is_empty() || !pass.rejected.is_empty();
        self.idle_passes = if did_something { 0 } else { self.idle_passes + 1 };
        ensure!(self.idle_passes < MAX_IDLE_PASSES, "the engine's scheduler makes no progress");
        Ok(pass)
    }

    /// One whole pass; `None` where there is nothing to do.
    pub(super) fn step(&mut self) -> Result<Option<Pass>> {
        match self.start()? {
            Some(_) => self.finish().map(Some),
            None => Ok(None),
        }
    }

    fn forget(&mut self, id: u64) {
        if let Some((rank, tokens)) = self.inside.remove(&id)
            && let Some(rank) = self.ranks.get_mut(rank)
        {
            rank.requests = rank.requests.saturating_sub(1);
            rank.tokens = rank.tokens.saturating_sub(u64::from(tokens));
        }
    }

    /// Gives each rank as much as it can make use of, and a little more, so that it has something to choose from.
    fn feed(&mut self) -> Result<()> {
        for index in 0..self.ranks.len() {
            while let Some(prompt) = self.next_prompt(index) {
                self.submit(index, prompt)?;
            }
        }
        Ok(())
    }

    fn next_prompt(&mut self, index: usize) -> Option<Prompt> {
        let rank = self.ranks.get_mut(index)?;
        let next = rank.queue.front()?;
        let full = rank.requests >= self.rank_requests || rank.tokens > self.rank_tokens + u64::from(next.tokens);
        if full && rank.requests > 0 { None } else { rank.queue.pop_front() }
    }

    fn submit(&mut self, index: usize, prompt: Prompt) -> Result<()> {
        let Some(rank) = self.ranks.get_mut(index) else { bail!("the engine has no rank {index}") };
        rank.requests += 1;
        rank.tokens += u64::from(prompt.tokens);
        self.inside.insert(prompt.id, (index, prompt.tokens));
        let request = Request {
            request_id: Uuid::from_u128(u128::from(prompt.id)),
            tokens: tokens(prompt.seed, prompt.tokens),
            max_output_tokens: prompt.outputs as usize,
            output_token_ids: None,
        };
        self.engine
            .apply_command_effects(SchedulerCommand::new(index as u32, Command::Submit(request)), self.now_ms)?;
        Ok(())
    }
}

/// Random token ids; prompts of different seeds share no prefix.
fn tokens(seed: u64, count: u32) -> Vec<u32> {
    let mut random = Random::new(&[seed]);
    std::iter::repeat_with(|| (random.next() >> 33) as u32).take(count as usize).collect()
}
