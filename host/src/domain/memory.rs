//! What fits: weights and KV cache on the GPUs of one engine.
//!
//! Everything is per GPU and for the fullest GPU of the engine, since that one decides.

use std::fmt;

use super::{Dtype, GpuSku, Mapping, Model};

/// Fraction of a GPU's memory that an engine takes: vLLM's default `--gpu-memory-utilization`, and the factor by which
/// NVIDIA's profiler computes the fewest GPUs.
pub const USABLE_MEMORY_FRACTION: f64 = 0.9;

/// CUDA context, NCCL buffers and captured graphs. Chosen so that the KV capacity of NVIDIA's H200 profile comes out (see
/// the tests); vLLM logs 0.5 to 2 GiB for graph capture alone, depending on the model.
pub const FIXED_RESERVE_BYTES: f64 = 1.5e9;

/// Copies of the residual stream that are alive at the peak of a pass: input, residual, norm, attention output, Q, K, V.
const LIVE_HIDDEN_COPIES: f64 = 8.0;

/// Copies of the feed-forward block's inner state alive at once: gate and up projection.
const LIVE_INTERMEDIATE_COPIES: f64 = 2.0;

/// Tokens that one forward pass may hold, if nothing else is said: vLLM's default on data-centre GPUs.
pub const DEFAULT_BATCHED_TOKENS: u32 = 8192;

/// Memory of one GPU of an engine, in bytes, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryPlan {
    /// What the engine may use: [`USABLE_MEMORY_FRACTION`] of the GPU's memory.
    pub usable_bytes: f64,
    /// Weights.
    pub weight_bytes: f64,
    /// Activations, graphs, buffers.
    pub reserve_bytes: f64,
    /// KV cache of one token.
    pub kv_bytes_per_token: f64,
    /// Attention-DP ranks of the engine.
    pub ranks: u32,
}

impl MemoryPlan {
    /// For an engine of the model in the given mapping on the given GPU, whose forward passes hold up to
    /// `batched_tokens` tokens.
    pub fn new(model: &Model, mapping: &Mapping, gpu: &GpuSku, batched_tokens: u32) -> Self {
        Self {
            usable_bytes: USABLE_MEMORY_FRACTION * gpu.memory_bytes,
            weight_bytes: weight_bytes_per_gpu(model, mapping),
            reserve_bytes: reserve_bytes_per_gpu(model, mapping, batched_tokens),
            kv_bytes_per_token: kv_bytes_per_token_per_gpu(model, mapping),
            ranks: mapping.attention_dp.max(1),
        }
    }

    /// KV capacity of one attention-DP rank in tokens; 0 where the weights leave nothing.
    pub fn kv_tokens_per_rank(&self) -> f64 {
        let free = self.usable_bytes - self.weight_bytes - self.reserve_bytes;
        if free > 0.0 && self.kv_bytes_per_token > 0.0 { (free / self.kv_bytes_per_token).floor() } else { 0.0 }
    }

    /// KV capacity of the engine in tokens, over all ranks.
    pub fn kv_tokens(&self) -> f64 {
        self.kv_tokens_per_rank() * f64::from(self.ranks)
    }

    /// Whether the weights fit, and the KV cache of one sequence of `sequence_tokens`.
    ///
    /// # Errors
    /// Says what does not fit, with figures.
    pub fn check(&self, sequence_tokens: u32) -> Result<(), DoesNotFit> {
        let free = self.usable_bytes - self.weight_bytes - self.reserve_bytes;
        if free <= 0.0 {
            return Err(DoesNotFit::Weights {
                weight_bytes: self.weight_bytes,
                reserve_bytes: self.reserve_bytes,
                usable_bytes: self.usable_bytes,
            });
        }
        let kv_tokens = self.kv_tokens_per_rank();
        if kv_tokens < f64::from(sequence_tokens) {
            return Err(DoesNotFit::Cache { kv_tokens, sequence_tokens, free_bytes: free });
        }
        Ok(())
    }
}

/// An engine that one GPU's memory does not hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DoesNotFit {
    /// Not even the weights.
    Weights {
        /// Weights per GPU.
        weight_bytes: f64,
        /// Activations, graphs, buffers.
        reserve_bytes: f64,
        /// What the engine may use.
        usable_bytes: f64,
    },
    /// Less than one sequence.
    Cache {
        /// KV capacity of one rank.
        kv_tokens: f64,
        /// What one sequence needs.
        sequence_tokens: u32,
        /// Left for the KV cache.
        free_bytes: f64,
    },
}

impl fmt::Display for DoesNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gb = |bytes: f64| bytes / 1e9;
        match *self {
            DoesNotFit::Weights { weight_bytes, reserve_bytes, usable_bytes } => write!(
                f,
                "{:.1} GB of weights and {:.1} GB of activations and buffers exceed the usable {:.1} GB of a GPU",
                gb(weight_bytes),
                gb(reserve_bytes),
                gb(usable_bytes)
            ),
            DoesNotFit::Cache { kv_tokens, sequence_tokens, free_bytes } => write!(
                f,
                "the {:.1} GB left per GPU hold the KV cache of {kv_tokens:.0} tokens, one request needs {sequence_tokens}",
                gb(free_bytes)
            ),
        }
    }
}

impl std::error::Error for DoesNotFit {}

/// Attention parameters of one layer that one GPU holds.
///
/// Heads are divided by tensor parallelism. KV heads are too, until each GPU has one; then they are replicated. Of
/// latent attention the down projections are replicated, since every head needs the whole latent vector.
pub fn attention_parameters_per_gpu(model: &Model, tp: u32) -> f64 {
    let tp = f64::from(tp.max(1));
    let (hidden, heads) = (f64::from(model.hidden), f64::from(model.heads));
    match model.latent_attention {
        None => {
            let head_dim = f64::from(model.head_dim);
            2.0 * hidden * heads * head_dim / tp + 2.0 * hidden * kv_heads_per_gpu(model, tp) * head_dim
        }
        Some(mla) => {
            let (rank, q_rank) = (f64::from(mla.kv_lora_rank), f64::from(mla.q_lora_rank));
            let qk = f64::from(mla.nope_head_dim + mla.rope_head_dim);
            let value = f64::from(mla.v_head_dim);
            let q = if q_rank > 0.0 { q_rank * hidden + q_rank * heads * qk / tp } else { hidden * heads * qk / tp };
            let kv_down = hidden * (rank + f64::from(mla.rope_head_dim));
            let kv_up = rank * heads * (f64::from(mla.nope_head_dim) + value) / tp;
            q + kv_down + kv_up + heads * value * hidden / tp
        }
    }
}

fn kv_heads_per_gpu(model: &Model, tp: f64) -> f64 {
    (f64::from(model.kv_heads) / tp).max(1.0)
}

/// Weights on one GPU, in bytes.
///
/// Attention and dense feed-forward blocks are divided by `tp` and replicated over attention-DP ranks, as vLLM does;
/// experts are divided over `moe_ep` (rounded up) and each by `moe_tp`; embedding and output head are 16-bit and divided by
/// `tp`. With pipeline parallelism the fullest stage has the rounded-up share of layers and one of the two embeddings.
pub fn weight_bytes_per_gpu(model: &Model, mapping: &Mapping) -> f64 {
    let (tp, pp) = (mapping.tp.max(1), mapping.pp.max(1));
    let stage_layers = f64::from(model.layers.div_ceil(pp));
    let dense_layers = f64::from(model.dense_layers()).min(stage_layers);
    let moe_layers = stage_layers - dense_layers;
    let mut parameters = stage_layers * attention_parameters_per_gpu(model, tp)
        + dense_layers * model.dense_ffn_parameters_per_layer() / f64::from(tp);
    if let Some(moe) = &model.moe {
        let local = f64::from(moe.experts.div_ceil(mapping.moe_ep.max(1))) / f64::from(mapping.moe_tp.max(1));
        let shared = f64::from(moe.shared_experts) / f64::from(tp);
        let router = f64::from(moe.experts) * f64::from(model.hidden);
        parameters += moe_layers * ((local + shared) * model.parameters_per_expert() + router);
    }
    let embedding = if pp > 1 && !model.tied_embeddings { 0.5 } else { 1.0 } * model.embedding_parameters();
    parameters * model.weight_dtype.bytes() + embedding / f64::from(tp) * Dtype::Bf16.bytes()
}

/// KV cache of one token on one GPU of its attention-DP rank, in bytes.
///
/// KV heads are divided by `tp` until each GPU has one; the latent vector of MLA is replicated on all of them.
pub fn kv_bytes_per_token_per_gpu(model: &Model, mapping: &Mapping) -> f64 {
    let share = match model.latent_attention {
        Some(_) => 1.0,
        None => kv_heads_per_gpu(model, f64::from(mapping.tp.max(1))) / f64::from(model.kv_heads.max(1)),
    };
    let stage = f64::from(model.layers.div_ceil(mapping.pp.max(1))) / f64::from(model.layers.max(1));
    model.kv_bytes_per_token() * share * stage
}

/// Activations of the largest forward pass, plus [`FIXED_RESERVE_BYTES`].
pub fn reserve_bytes_per_gpu(model: &Model, mapping: &Mapping, batched_tokens: u32) -> f64 {
    let tp = f64::from(mapping.tp.max(1));
    let inner = model.moe.as_ref().map_or_else(
        || f64::from(model.intermediate) / tp,
        |moe| {
            f64::from(moe.expert_intermediate) * f64::from(moe.experts_per_token + moe.shared_experts)
                / f64::from(mapping.moe_tp.max(1))
        },
    );
    let numbers = LIVE_HIDDEN_COPIES * f64::from(model.hidden) + LIVE_INTERMEDIATE_COPIES * inner;
    FIXED_RESERVE_BYTES + f64::from(batched_tokens) * numbers * Dtype::Bf16.bytes()
}

/// Fewest GPUs, a power of two up to `max_gpus`, that hold the weights and one sequence when both are divided as far as
/// the kind of model allows (tensor parallel, or tensor-expert parallel with experts). `None` if `max_gpus` are too few.
pub fn min_gpus(model: &Model, gpu: &GpuSku, sequence_tokens: u32, max_gpus: u32) -> Option<u32> {
    std::iter::successors(Some(1_u32), |n| n.checked_mul(2)).take_while(|n| *n <= max_gpus).find(|&n| {
        let mapping = if model.is_moe() { Mapping::tensor_expert(n) } else { Mapping::tensor(n) };
        MemoryPlan::new(model, &mapping, gpu, DEFAULT_BATCHED_TOKENS).check(sequence_tokens).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{deepseek_v3, h100, h200, llama_8b_fp8, llama_70b_fp8, qwen3_235b};
    use super::*;

    #[test]
    fn weights_on_one_gpu_are_all_of_the_model() {
        for model in [llama_8b_fp8(), llama_70b_fp8(), deepseek_v3(), qwen3_235b()] {
            let all = model.weight_bytes();
            let one = weight_bytes_per_gpu(&model, &Mapping::tensor(1));
            assert!((one / all - 1.0).abs() < 1e-9, "{}: {one} != {all}", model.name);
        }
    }

    #[test]
    fn kv_heads_are_replicated_once_each_gpu_has_one() {
        let model = llama_8b_fp8();
        let per_gpu = |tp| kv_bytes_per_token_per_gpu(&model, &Mapping::tensor(tp));
        assert_eq!(per_gpu(1), 131_072.0);
        assert_eq!(per_gpu(8), 16_384.0);
        assert_eq!(per_gpu(16), 16_384.0);
    }

    #[test]
    fn the_latent_cache_is_replicated_over_tensor_parallel_gpus() {
        let model = deepseek_v3();
        assert_eq!(kv_bytes_per_token_per_gpu(&model, &Mapping::tensor_expert(8)), model.kv_bytes_per_token());
        assert_eq!(kv_bytes_per_token_per_gpu(&model, &Mapping::data_expert(8)), model.kv_bytes_per_token());
    }

    #[test]
    fn data_parallel_attention_multiplies_the_cache_but_replicates_attention() {
        let (model, gpu) = (deepseek_v3(), h200());
        let plan = |m| MemoryPlan::new(&model, &m, &gpu, DEFAULT_BATCHED_TOKENS);
        let (tep, dep) = (plan(Mapping::tensor_expert(8)), plan(Mapping::data_expert(8)));
        assert!(dep.weight_bytes > tep.weight_bytes);
        assert!(dep.kv_tokens() > 4.0 * tep.kv_tokens());
    }

    /// NVIDIA's profile of Llama-3.1-8B-Instruct-FP8 on one H200, in the `ai-dynamo` 1.6.1 wheel
    /// (`dynamo/planner/tests/data/profiling_results/H200_TP1P_TP1D`): `max_kv_tokens` is 945 029.
    #[test]
    fn kv_capacity_of_an_8b_model_on_an_h200_is_within_3_percent_of_nvidias_measurement() {
        let plan = MemoryPlan::new(&llama_8b_fp8(), &Mapping::tensor(1), &h200(), DEFAULT_BATCHED_TOKENS);
        let error = plan.kv_tokens() / 945_029.0 - 1.0;
        println!("{:.0} tokens, {:+.1} %", plan.kv_tokens(), 100.0 * error);
        assert!(error.abs() < 0.03, "{:.1} %", 100.0 * error);
    }

    #[test]
    fn fewest_gpus_are_what_practice_needs() {
        assert_eq!(min_gpus(&llama_8b_fp8(), &h100(), 4000, 8), Some(1));
        // 72 GB of weights: more than the usable part of one H100, less than that of one H200.
        assert_eq!(min_gpus(&llama_70b_fp8(), &h100(), 4000, 8), Some(2));
        assert_eq!(min_gpus(&llama_70b_fp8(), &h200(), 4000, 8), Some(1));
        // 671 GB: one node of H200 (8 · 141 GB), two of H100.
        assert_eq!(min_gpus(&deepseek_v3(), &h200(), 4000, 64), Some(8));
        assert_eq!(min_gpus(&deepseek_v3(), &h100(), 4000, 64), Some(16));
        assert_eq!(min_gpus(&deepseek_v3(), &h100(), 4000, 8), None);
    }

    #[test]
    fn a_model_that_does_not_fit_is_told_with_figures() {
        let plan = MemoryPlan::new(&deepseek_v3(), &Mapping::tensor_expert(4), &h100(), DEFAULT_BATCHED_TOKENS);
        let reason = plan.check(4000).unwrap_err().to_string();
        assert!(reason.contains("GB of weights") && reason.contains("exceed the usable"), "{reason}");
        assert_eq!(plan.kv_tokens(), 0.0);
        let plan = MemoryPlan::new(&llama_70b_fp8(), &Mapping::tensor(2), &h100(), DEFAULT_BATCHED_TOKENS);
        let reason = plan.check(10_000_000).unwrap_err().to_string();
        assert!(reason.contains("one request needs 10000000"), "{reason}");
    }

    proptest! {
        #[test]
        fn more_tensor_parallelism_never_needs_more_memory_per_gpu(log_tp in 0_u32..6) {
            for model in [llama_8b_fp8(), deepseek_v3(), qwen3_235b()] {
                let (one, two) = (Mapping::tensor_expert(1 << log_tp), Mapping::tensor_expert(2 << log_tp));
                prop_assert!(weight_bytes_per_gpu(&model, &two) <= weight_bytes_per_gpu(&model, &one));
                prop_assert!(kv_bytes_per_token_per_gpu(&model, &two) <= kv_bytes_per_token_per_gpu(&model, &one));
            }
        }

        #[test]
        fn an_engine_holds_at_least_the_whole_model(log in 0_u32..6, expert in any::<bool>()) {
            let gpus = 1 << log;
            let mapping = if expert { Mapping::data_expert(gpus) } else { Mapping::tensor(gpus) };
            for model in [deepseek_v3(), qwen3_235b()] {
                let all = weight_bytes_per_gpu(&model, &mapping) * f64::from(gpus);
                prop_assert!(all >= model.weight_bytes() * (1.0 - 1e-9));
            }
        }
    }
}
