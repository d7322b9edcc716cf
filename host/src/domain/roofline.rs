//! How long a forward pass takes: the analytic model behind priors and the simulated cluster.
//!
//! Each part of a pass takes the longer of its arithmetic and its memory traffic, each at a fraction of the GPU's
//! published peak that is one named constant for all models, GPUs and sizes; parts, collectives and launch overhead
//! add up. The form is the roofline of Williams, Waterman and Patterson (CACM 52, 2009). What it leaves out, and how
//! far it is off published measurements, is in `docs/simulated-cluster.md`; the tests below hold it to that.
//!
//! A pass is that of one attention-DP rank; where ranks share experts, every rank is taken to run the same batch.

use super::memory::{attention_parameters_per_gpu, kv_bytes_per_token_per_gpu};
use super::{Backend, Dtype, GpuSku, Hardware, Mapping, Model};

/// Fraction of peak that matrix products with weights reach. Fitted to TTFT of Llama-3.1-8B FP8 on an H200 (see the
/// tests); NVIDIA reports 0.6 to 0.8 for GEMM kernels alone, and here the element-wise kernels between them count in.
pub const GEMM_EFFICIENCY: f64 = 0.50;

/// Fraction of 16-bit peak that attention scores reach. Fitted to the same curve's quadratic part; FlashAttention-3
/// (Shah et al., arXiv 2407.08608) reaches 0.5 to 0.75 on an H100.
pub const ATTENTION_EFFICIENCY: f64 = 0.55;

/// Fraction of peak memory bandwidth, for weights and KV cache. Fitted to ITL of the same profile.
pub const MEMORY_EFFICIENCY: f64 = 0.85;

/// Fraction of link bandwidth that a collective within a node reaches. Assumed; NCCL's own tables show 0.7 to 0.85 of an
/// NVLink direction for large messages.
pub const LINK_EFFICIENCY: f64 = 0.75;

/// The same between nodes. DeepEP's README reports 43 to 47 GB/s on 50 GB/s NICs.
pub const NETWORK_EFFICIENCY: f64 = 0.85;

/// Floor of one collective within a node, in seconds. Assumed: one-shot all-reduce kernels take 5 to 10 µs.
pub const LINK_LATENCY_S: f64 = 8e-6;

/// Floor of one collective between nodes, in seconds. Assumed.
pub const NETWORK_LATENCY_S: f64 = 30e-6;

/// Launching and synchronising one layer's kernels, in seconds, with CUDA graphs where engines use them. Fitted to ITL
/// at one request.
pub const LAYER_OVERHEAD_S: f64 = 50e-6;

/// Scheduling and input preparation of one pass, in seconds. Fitted together with [`LAYER_OVERHEAD_S`].
pub const STEP_OVERHEAD_S: f64 = 0.8e-3;

/// How much longer the busiest expert rank takes than the mean one. Assumed: experts are never chosen evenly, and the
/// slowest rank holds up all.
pub const EXPERT_IMBALANCE: f64 = 1.2;

/// Host-side cost that depends on the engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostCost {
    /// Per sequence and pass: sampling, detokenising, streaming, in seconds.
    pub per_sequence_s: f64,
    /// Per request, outside the engine's passes: HTTP, tokenising, routing, first response, in seconds.
    pub per_request_s: f64,
}

impl HostCost {
    /// vLLM's are fitted to the H200 profile of the tests; SGLang is taken to be like it, for want of data;
    /// TensorRT-LLM's (C++ runtime) follow from NVIDIA's NIM figures, where one request's TTFT has about 4 ms to spare.
    pub const fn of(backend: Backend) -> Self {
        match backend {
            Backend::Vllm | Backend::Sglang => Self { per_sequence_s: 25e-6, per_request_s: 14e-3 },
            Backend::Trtllm => Self { per_sequence_s: 8e-6, per_request_s: 4e-3 },
        }
    }
}

/// What one rank prefills in one pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefillBatch {
    /// Requests.
    pub requests: f64,
    /// Tokens of each to compute.
    pub new_tokens: f64,
    /// Tokens of each that are in the cache already.
    pub prefix_tokens: f64,
}

/// What one rank decodes in one pass: one token of each sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecodeBatch {
    /// Sequences.
    pub sequences: f64,
    /// Mean length of each so far, in tokens.
    pub context_tokens: f64,
}

/// One pass, by parts, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PassTime {
    /// Projections of attention.
    pub projections_s: f64,
    /// Scores and weighted sums of attention, or reading the KV cache for them.
    pub attention_s: f64,
    /// Dense feed-forward blocks, shared and routed experts.
    pub ffn_s: f64,
    /// Output head.
    pub head_s: f64,
    /// All-reduce of tensor parallelism, all-to-all of expert parallelism.
    pub communication_s: f64,
    /// Launches and the host.
    pub overhead_s: f64,
}

impl PassTime {
    /// The whole pass.
    pub fn total_s(&self) -> f64 {
        self.projections_s + self.attention_s + self.ffn_s + self.head_s + self.communication_s + self.overhead_s
    }
}

#[derive(Clone, Copy)]
enum Phase {
    Prefill,
    Decode,
}

/// The analytic model of one engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Roofline {
    mapping: Mapping,
    host: HostCost,
    gpus_per_node: u32,
    network_bytes_per_second: f64,
    link_bytes_per_second: f64,
    memory_bytes_per_second: f64,
    attention_flops: f64,
    weight_flops: f64,
    head_flops: f64,
    weight_dtype_bytes: f64,
    layers: f64,
    dense_layers: f64,
    hidden: f64,
    projection_parameters: f64,
    dense_ffn_parameters: f64,
    head_parameters: f64,
    kv_bytes_per_token: f64,
    prefill_flops_per_pair: f64,
    decode_flops_per_pair: f64,
    experts: Option<Experts>,
}

/// Per MoE layer.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Experts {
    local: f64,
    all: f64,
    per_token: f64,
    parameters: f64,
    shared_parameters: f64,
}

impl Roofline {
    /// For an engine of the model in the given mapping.
    pub fn new(model: &Model, hardware: &Hardware, mapping: &Mapping, backend: Backend) -> Self {
        let gpu = &hardware.gpu;
        let tp = f64::from(mapping.tp.max(1));
        let heads = f64::from(model.heads) / tp;
        // Multiply-adds of one query token with one key token of its context in one layer, times two.
        let (prefill_flops_per_pair, decode_flops_per_pair) = match model.latent_attention {
            None => {
                let both = 4.0 * heads * f64::from(model.head_dim);
                (both, both)
            }
            Some(mla) => {
                let rank = f64::from(mla.kv_lora_rank);
                let expanded = f64::from(mla.nope_head_dim + mla.rope_head_dim + mla.v_head_dim);
                // Decoding works on the latent vectors themselves (weight absorption, DeepSeek-V2, arXiv 2405.04434).
                let absorbed = 2.0 * rank + f64::from(mla.rope_head_dim);
                (2.0 * heads * expanded, 2.0 * heads * absorbed)
            }
        };
        let experts = model.moe.as_ref().map(|moe| Experts {
            local: f64::from(moe.experts.div_ceil(mapping.moe_ep.max(1))),
            all: f64::from(moe.experts.max(1)),
            per_token: f64::from(moe.experts_per_token),
            parameters: model.parameters_per_expert() / f64::from(mapping.moe_tp.max(1)),
            shared_parameters: f64::from(moe.shared_experts) * model.parameters_per_expert() / tp,
        });
        Self {
            mapping: *mapping,
            host: HostCost::of(backend),
            gpus_per_node: hardware.gpus_per_node.max(1),
            network_bytes_per_second: gpu.network_bytes_per_second * NETWORK_EFFICIENCY,
            link_bytes_per_second: gpu.link_bytes_per_second * LINK_EFFICIENCY,
            memory_bytes_per_second: gpu.memory_bytes_per_second * MEMORY_EFFICIENCY,
            attention_flops: gpu.bf16_flops * ATTENTION_EFFICIENCY,
            weight_flops: peak_flops(gpu, model.weight_dtype) * GEMM_EFFICIENCY,
            head_flops: gpu.bf16_flops * GEMM_EFFICIENCY,
            weight_dtype_bytes: model.weight_dtype.bytes(),
            layers: f64::from(model.layers),
            dense_layers: f64::from(model.dense_layers()),
            hidden: f64::from(model.hidden),
            projection_parameters: attention_parameters_per_gpu(model, mapping.tp),
            dense_ffn_parameters: model.dense_ffn_parameters_per_layer() / tp,
            head_parameters: f64::from(model.vocabulary) * f64::from(model.hidden) / tp,
            kv_bytes_per_token: kv_bytes_per_token_per_gpu(model, &Mapping { pp: 1, ..*mapping })
                / f64::from(model.layers.max(1)),
            prefill_flops_per_pair,
            decode_flops_per_pair,
            experts,
        }
    }

    /// Host-side cost of this engine.
    pub const fn host(&self) -> HostCost {
        self.host
    }

    /// One prefill pass of one rank.
    pub fn prefill_pass(&self, batch: PrefillBatch) -> PassTime {
        if batch.requests <= 0.0 || batch.new_tokens <= 0.0 {
            return PassTime::default();
        }
        let tokens = batch.requests * batch.new_tokens;
        // Causal: each new token attends to the whole prefix and, on average, to half of the new tokens.
        let pairs = tokens * (batch.prefix_tokens + batch.new_tokens / 2.0);
        let cached = batch.requests * (batch.prefix_tokens + batch.new_tokens);
        let attention_s = (self.prefill_flops_per_pair * pairs / self.attention_flops)
            .max(self.kv_bytes_per_token * cached / self.memory_bytes_per_second);
        self.pass(Phase::Prefill, tokens, batch.requests, attention_s)
    }

    /// One decode step of one rank.
    pub fn decode_step(&self, batch: DecodeBatch) -> PassTime {
        if batch.sequences <= 0.0 {
            return PassTime::default();
        }
        let pairs = batch.sequences * batch.context_tokens;
        let attention_s = (self.decode_flops_per_pair * pairs / self.attention_flops)
            .max(self.kv_bytes_per_token * pairs / self.memory_bytes_per_second);
        self.pass(Phase::Decode, batch.sequences, batch.sequences, attention_s)
    }

    /// TTFT of one request alone, in seconds, prefilled in chunks of at most `batched_tokens`; host cost included.
    pub fn ttft_s(&self, isl: u32, batched_tokens: u32) -> f64 {
        let chunk = batched_tokens.max(1);
        let mut prefix = 0;
        let mut total = self.host.per_request_s;
        while prefix < isl {
            let new = chunk.min(isl - prefix);
            let batch = PrefillBatch { requests: 1.0, new_tokens: f64::from(new), prefix_tokens: f64::from(prefix) };
            total += self.prefill_pass(batch).total_s();
            prefix += new;
        }
        total
    }

    /// `tokens` and `sequences` are those of one rank; `attention_s` is that of one layer.
    fn pass(&self, phase: Phase, tokens: f64, sequences: f64, attention_s: f64) -> PassTime {
        let moe_layers = self.layers - self.dense_layers;
        PassTime {
            projections_s: self.layers * self.gemm_s(tokens, self.projection_parameters),
            attention_s: self.layers * attention_s,
            ffn_s: self.dense_layers * self.gemm_s(tokens, self.dense_ffn_parameters)
                + moe_layers * self.experts.map_or(0.0, |e| self.experts_s(tokens, &e)),
            head_s: (2.0 * sequences * self.head_parameters / self.head_flops)
                .max(self.head_parameters * Dtype::Bf16.bytes() / self.memory_bytes_per_second),
            communication_s: self.communication_s(phase, tokens, moe_layers),
            overhead_s: STEP_OVERHEAD_S + self.layers * LAYER_OVERHEAD_S + sequences * self.host.per_sequence_s,
        }
    }

    /// A product of `tokens` rows with weights of the model's format.
    fn gemm_s(&self, tokens: f64, parameters: f64) -> f64 {
        (2.0 * tokens * parameters / self.weight_flops)
            .max(parameters * self.weight_dtype_bytes / self.memory_bytes_per_second)
    }

    /// Routed and shared experts of one layer. The GPUs of all ranks share the routed ones.
    fn experts_s(&self, tokens: f64, experts: &Experts) -> f64 {
        let all_tokens = tokens * f64::from(self.mapping.attention_dp.max(1));
        let visits = all_tokens * experts.per_token * experts.local / experts.all;
        // Of the local experts, those that any token visits are read from memory.
        let coverage = 1.0 - (1.0 - experts.per_token / experts.all).powf(all_tokens);
        let imbalance = if self.mapping.moe_ep > 1 { EXPERT_IMBALANCE } else { 1.0 };
        let routed = (2.0 * visits * experts.parameters * imbalance / self.weight_flops).max(
            experts.local * coverage * experts.parameters * self.weight_dtype_bytes / self.memory_bytes_per_second,
        );
        let shared = if experts.shared_parameters > 0.0 { self.gemm_s(tokens, experts.shared_parameters) } else { 0.0 };
        routed + shared
    }

    fn communication_s(&self, phase: Phase, tokens: f64, moe_layers: f64) -> f64 {
        let message = tokens * self.hidden * Dtype::Bf16.bytes();
        let all_reduce = self.all_reduce_s(message);
        let exchanges_experts = self.mapping.attention_dp > 1;
        // After attention and after the feed-forward block; where ranks exchange tokens, the latter is that exchange.
        let moe = if exchanges_experts { all_reduce + self.all_to_all_s(phase, tokens) } else { 2.0 * all_reduce };
        let stages = f64::from(self.mapping.pp.saturating_sub(1));
        self.dense_layers * 2.0 * all_reduce
            + moe_layers * moe
            + stages * (LINK_LATENCY_S + message / self.link_bytes_per_second)
    }

    /// Ring within a node; between nodes hierarchical: each GPU's NIC carries the node's message divided by its GPUs.
    fn all_reduce_s(&self, message_bytes: f64) -> f64 {
        let tp = self.mapping.tp.max(1);
        if tp == 1 {
            return 0.0;
        }
        let ring = |n: f64| 2.0 * (n - 1.0) / n;
        let in_node = f64::from(tp.min(self.gpus_per_node));
        let nodes = f64::from(tp.div_ceil(self.gpus_per_node));
        let within = LINK_LATENCY_S + ring(in_node) * message_bytes / self.link_bytes_per_second;
        if nodes <= 1.0 {
            return within;
        }
        within + NETWORK_LATENCY_S + ring(nodes) * message_bytes / in_node / self.network_bytes_per_second
    }

    /// Dispatch and combine of one MoE layer, as DeepEP does: prefill sends one copy of a token to each node (or GPU,
    /// within a node) that holds one of its experts; decode's low-latency kernels send one copy per expert. Dispatch
    /// is 8-bit where the weights are, combine is 16-bit.
    fn all_to_all_s(&self, phase: Phase, tokens: f64) -> f64 {
        let Some(experts) = self.experts else { return 0.0 };
        let gpus = self.mapping.gpus().max(1);
        let nodes = gpus.div_ceil(self.gpus_per_node);
        let (places, bandwidth, latency) = if nodes > 1 {
            (f64::from(nodes), self.network_bytes_per_second, NETWORK_LATENCY_S)
        } else {
            (f64::from(gpus), self.link_bytes_per_second, LINK_LATENCY_S)
        };
        let copies = match phase {
            Phase::Prefill => (places - 1.0) * (1.0 - (1.0 - 1.0 / places).powf(experts.per_token)),
            Phase::Decode => experts.per_token * (places - 1.0) / places,
        };
        let bytes_per_number = self.weight_dtype_bytes.clamp(1.0, 2.0) + Dtype::Bf16.bytes();
        // Each GPU of a tensor parallel group sends its part of the tokens.
        let sent = tokens / f64::from(self.mapping.tp.max(1)) * copies * self.hidden * bytes_per_number;
        2.0 * latency + sent / bandwidth
    }
}

/// Peak of products with weights of a format. A GPU without arithmetic of that format widens the weights to 16-bit.
fn peak_flops(gpu: &GpuSku, dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Bf16 => gpu.bf16_flops,
        Dtype::Fp8 | Dtype::Int8 => gpu.fp8_flops.unwrap_or(gpu.bf16_flops),
        Dtype::Fp4 => gpu.fp4_flops.unwrap_or(gpu.bf16_flops),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{deepseek_v3, h100, h200, hardware, llama_8b_fp8, llama_70b_fp8, qwen3_235b};
    use super::*;

    fn mape(pairs: impl IntoIterator<Item = (f64, f64)>) -> f64 {
        let errors: Vec<f64> = pairs.into_iter().map(|(model, measured)| (model / measured - 1.0).abs()).collect();
        errors.iter().sum::<f64>() / errors.len() as f64
    }

    fn itl_ms(roofline: &Roofline, sequences: f64, context_tokens: f64) -> f64 {
        1e3 * roofline.decode_step(DecodeBatch { sequences, context_tokens }).total_s()
    }

    // NVIDIA's own profile of nvidia/Llama-3.1-8B-Instruct-FP8, vLLM, one H200, TP1: package `ai-dynamo` 1.6.1 (PyPI,
    // Apache-2.0), dynamo/planner/tests/data/profiling_results/H200_TP1P_TP1D/*/raw_data.npz; model and hardware by
    // dynamo/planner/tests/manual/README.md.

    /// ISL in tokens, TTFT in ms.
    const H200_TTFT: [(u32, f64); 17] = [
        (100, 19.53),
        (1117, 38.49),
        (2134, 49.97),
        (3151, 63.21),
        (4168, 87.34),
        (5185, 104.89),
        (6202, 123.24),
        (7219, 143.29),
        (8236, 171.03),
        (9253, 194.53),
        (10270, 232.07),
        (11287, 240.38),
        (12304, 262.46),
        (13321, 296.15),
        (14338, 313.34),
        (15355, 354.09),
        (16372, 375.48),
    ];

    /// Context in tokens, requests in flight (throughput times ITL: what ran, not what was asked), ITL in ms.
    const H200_ITL: [(f64, f64, f64); 41] = [
        (350.0, 1.0, 4.38),
        (350.0, 257.0, 19.11),
        (350.0, 513.0, 31.07),
        (350.0, 768.0, 42.49),
        (350.0, 900.0, 46.65),
        (350.0, 788.0, 40.96),
        (350.0, 808.0, 42.58),
        (2997.0, 1.0, 4.43),
        (2997.0, 48.0, 9.94),
        (2997.0, 94.0, 15.48),
        (2997.0, 141.0, 22.13),
        (2997.0, 188.0, 26.76),
        (2997.0, 235.0, 31.80),
        (2997.0, 283.0, 41.71),
        (5644.0, 1.0, 4.51),
        (5644.0, 26.0, 10.13),
        (5644.0, 52.0, 15.12),
        (5644.0, 77.0, 19.67),
        (5644.0, 98.0, 24.90),
        (5644.0, 128.0, 31.10),
        (5644.0, 154.0, 35.80),
        (8291.0, 1.0, 4.62),
        (8291.0, 19.0, 11.73),
        (8291.0, 36.0, 15.58),
        (8291.0, 54.0, 19.83),
        (8291.0, 71.0, 24.87),
        (8291.0, 89.0, 29.30),
        (8291.0, 106.0, 33.72),
        (10938.0, 1.0, 4.70),
        (10938.0, 15.0, 9.73),
        (10938.0, 28.0, 14.92),
        (10938.0, 42.0, 19.47),
        (10938.0, 56.0, 24.70),
        (10938.0, 70.0, 30.77),
        (13585.0, 1.0, 4.83),
        (13585.0, 12.0, 9.84),
        (13585.0, 23.0, 15.79),
        (13585.0, 33.0, 21.68),
        (13585.0, 44.0, 23.54),
        (13585.0, 55.0, 29.34),
        (13585.0, 64.0, 36.17),
    ];

    #[test]
    fn ttft_follows_nvidias_h200_profile_within_5_percent_on_average() {
        let roofline = Roofline::new(&llama_8b_fp8(), &hardware(h200(), 8), &Mapping::tensor(1), Backend::Vllm);
        let error = mape(H200_TTFT.map(|(isl, ttft)| (1e3 * roofline.ttft_s(isl, 8192), ttft)));
        println!("TTFT MAPE {:.1} %", 100.0 * error);
        assert!(error < 0.05, "{error}");
    }

    #[test]
    fn itl_follows_nvidias_h200_profile_within_5_percent_on_average() {
        let roofline = Roofline::new(&llama_8b_fp8(), &hardware(h200(), 8), &Mapping::tensor(1), Backend::Vllm);
        let error = mape(H200_ITL.map(|(context, n, itl)| (itl_ms(&roofline, n, context), itl)));
        println!("ITL MAPE {:.1} %", 100.0 * error);
        assert!(error < 0.05, "{error}");
    }

    /// Nothing was fitted to this one but TensorRT-LLM's cost per request. NVIDIA, "NIM LLMs Benchmarking" 1.0.0,
    /// Performance (docs.nvidia.com/nim/benchmarking/llm/1.0.0/performance): Llama-3.3-70b-instruct, version 1.8.0,
    /// 2 x H100 80G, fp8 TP2, concurrency 1.
    #[test]
    fn a_70b_model_on_two_h100_is_within_10_percent_of_nvidias_nim_table() {
        let roofline = Roofline::new(&llama_70b_fp8(), &hardware(h100(), 8), &Mapping::tensor(2), Backend::Trtllm);
        for (what, model, measured) in [
            ("TTFT 5000/500", 1e3 * roofline.ttft_s(5000, 8192), 406.77),
            ("TTFT 500/2000", 1e3 * roofline.ttft_s(500, 8192), 47.77),
            ("ITL 5000/500", itl_ms(&roofline, 1.0, 5250.0), 18.58),
            ("ITL 500/2000", itl_ms(&roofline, 1.0, 1500.0), 18.91),
        ] {
            let error = model / measured - 1.0;
            println!("{what}: {model:.2} ms, measured {measured} ms, {:+.1} %", 100.0 * error);
            assert!(error.abs() < 0.10, "{what}: {model} against {measured}");
        }
    }

    /// Nothing was fitted to this one. LMSYS, "Deploying DeepSeek with PD Disaggregation and Large-Scale Expert
    /// Parallelism on 96 H100 GPUs" (lmsys.org/blog/2025-05-05-large-scale-ep): 52.3k input and 22.3k output tokens per
    /// second and node of 8 at 2000 input tokens; prefill on 4 nodes, decode on 9. The published commands
    /// (sgl-project/sglang issue 6017) give the batches: `--chunked-prefill-size 524288` over 32 GPUs,
    /// `--max-running-requests 18432` over 72. It overlaps two half batches, which the roofline does not know.
    #[test]
    fn wide_expert_parallel_deepseek_is_within_25_percent_of_the_sglang_teams_figures() {
        let (model, cluster) = (deepseek_v3(), hardware(h100(), 96));
        let prefill = Roofline::new(&model, &cluster, &Mapping::data_expert(32), Backend::Sglang);
        let pass = prefill.prefill_pass(PrefillBatch { requests: 8.0, new_tokens: 2048.0, prefix_tokens: 0.0 });
        let input_rate = 16_384.0 / pass.total_s() * 8.0;
        let decode = Roofline::new(&model, &cluster, &Mapping::data_expert(72), Backend::Sglang);
        let step = decode.decode_step(DecodeBatch { sequences: 256.0, context_tokens: 2050.0 });
        let output_rate = 256.0 / step.total_s() * 8.0;
        for (what, rate, measured, pass) in
            [("prefill", input_rate, 52_300.0, pass), ("decode", output_rate, 22_300.0, step)]
        {
            println!(
                "{what}: {rate:.0} tokens/s/node, measured {measured}, {:+.0} %; {pass:?}",
                100.0 * (rate / measured - 1.0)
            );
            assert!((rate / measured - 1.0).abs() < 0.25, "{what}: {rate} against {measured}");
        }
    }

    #[test]
    fn tensor_parallelism_shortens_a_pass_but_costs_throughput_per_gpu() {
        let cluster = hardware(h100(), 8);
        let pass = |tp| {
            let roofline = Roofline::new(&llama_70b_fp8(), &cluster, &Mapping::tensor(tp), Backend::Vllm);
            roofline.ttft_s(3000, 8192)
        };
        for tp in [2, 4] {
            let (one, two) = (pass(tp), pass(2 * tp));
            assert!(two < one && two > one / 2.0, "tp{tp}: {one} s, twice: {two} s");
        }
    }

    #[test]
    fn tensor_parallelism_across_nodes_pays_for_the_network() {
        let cluster = hardware(h100(), 32);
        let pass = |tp| {
            Roofline::new(&qwen3_235b(), &cluster, &Mapping::tensor_expert(tp), Backend::Vllm)
                .decode_step(DecodeBatch { sequences: 64.0, context_tokens: 3000.0 })
                .communication_s
        };
        assert!(pass(16) > 2.0 * pass(8));
    }

    #[test]
    fn few_tokens_do_not_read_all_experts() {
        let roofline = Roofline::new(&qwen3_235b(), &hardware(h200(), 8), &Mapping::tensor_expert(4), Backend::Vllm);
        let ffn = |sequences| roofline.decode_step(DecodeBatch { sequences, context_tokens: 1000.0 }).ffn_s;
        assert!(ffn(1.0) < 0.1 * ffn(64.0));
        // Once all are read anyway, more tokens are nearly free until arithmetic takes over.
        assert!(ffn(128.0) < 1.1 * ffn(64.0));
    }

    #[test]
    fn an_empty_pass_takes_no_time() {
        let roofline = Roofline::new(&llama_8b_fp8(), &hardware(h200(), 8), &Mapping::tensor(1), Backend::Vllm);
        assert_eq!(roofline.decode_step(DecodeBatch { sequences: 0.0, context_tokens: 0.0 }).total_s(), 0.0);
        let nothing = PrefillBatch { requests: 1.0, new_tokens: 0.0, prefix_tokens: 100.0 };
        assert_eq!(roofline.prefill_pass(nothing).total_s(), 0.0);
    }

    proptest! {
        #[test]
        fn more_work_never_takes_less_time(
            sequences in 1.0_f64..512.0, context in 1.0_f64..100_000.0, new in 1.0_f64..16_384.0, factor in 1.0_f64..4.0,
        ) {
            for (model, mapping) in [
                (llama_8b_fp8(), Mapping::tensor(2)),
                (deepseek_v3(), Mapping::data_expert(16)),
                (qwen3_235b(), Mapping::tensor_expert(8)),
            ] {
                let roofline = Roofline::new(&model, &hardware(h200(), 64), &mapping, Backend::Vllm);
                let step = |s, c| roofline.decode_step(DecodeBatch { sequences: s, context_tokens: c }).total_s();
                prop_assert!(step(sequences, context) <= step(sequences * factor, context) * (1.0 + 1e-12));
                prop_assert!(step(sequences, context) <= step(sequences, context * factor) * (1.0 + 1e-12));
                let pass = |n, p| {
                    let batch = PrefillBatch { requests: 1.0, new_tokens: n, prefix_tokens: p };
                    roofline.prefill_pass(batch).total_s()
                };
                prop_assert!(pass(new, 0.0) <= pass(new * factor, 0.0) * (1.0 + 1e-12));
                prop_assert!(pass(new, context) <= pass(new, context * factor) * (1.0 + 1e-12));
                prop_assert!(step(sequences, context).is_finite());
            }
        }
    }
}
