//! Well-known models and GPUs for tests. The program's own catalog is a file that users see; tests pin their figures.

use super::hardware::{GpuSku, Hardware};
use super::job::{Backend, Job, Sla, Workload};
use super::model::{Dtype, LatentAttention, Model, MoeShape};
use super::{Demand, model};

/// `nvidia/Llama-3.1-8B-Instruct-FP8`: config.json of meta-llama/Llama-3.1-8B-Instruct; weights FP8, cache 16-bit.
pub fn llama_8b_fp8() -> Model {
    Model {
        name: "nvidia/Llama-3.1-8B-Instruct-FP8".into(),
        architecture: "LlamaForCausalLM".into(),
        layers: 32,
        hidden: 4096,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        intermediate: 14_336,
        vocabulary: 128_256,
        tied_embeddings: false,
        max_context_tokens: 131_072,
        weight_dtype: Dtype::Fp8,
        kv_dtype: Dtype::Bf16,
        quant_block: None,
        moe: None,
        latent_attention: None,
        source: String::new(),
    }
}

/// config.json of meta-llama/Llama-3.3-70B-Instruct; weights FP8.
pub fn llama_70b_fp8() -> Model {
    Model {
        name: "nvidia/Llama-3.3-70B-Instruct-FP8".into(),
        layers: 80,
        hidden: 8192,
        heads: 64,
        intermediate: 28_672,
        ..llama_8b_fp8()
    }
}

/// config.json of deepseek-ai/DeepSeek-V3.
pub fn deepseek_v3() -> Model {
    Model {
        name: "deepseek-ai/DeepSeek-V3".into(),
        architecture: "DeepseekV3ForCausalLM".into(),
        layers: 61,
        hidden: 7168,
        heads: 128,
        kv_heads: 128,
        head_dim: 192,
        intermediate: 18_432,
        vocabulary: 129_280,
        max_context_tokens: 163_840,
        quant_block: Some(128),
        moe: Some(MoeShape {
            experts: 256,
            experts_per_token: 8,
            expert_intermediate: 2048,
            shared_experts: 1,
            dense_layers: 3,
        }),
        latent_attention: Some(LatentAttention {
            kv_lora_rank: 512,
            q_lora_rank: 1536,
            rope_head_dim: 64,
            nope_head_dim: 128,
            v_head_dim: 128,
        }),
        ..llama_8b_fp8()
    }
}

/// config.json of Qwen/Qwen3-235B-A22B-FP8.
pub fn qwen3_235b() -> Model {
    Model {
        name: "Qwen/Qwen3-235B-A22B-FP8".into(),
        architecture: "Qwen3MoeForCausalLM".into(),
        layers: 94,
        hidden: 4096,
        heads: 64,
        kv_heads: 4,
        head_dim: 128,
        intermediate: 12_288,
        vocabulary: 151_936,
        max_context_tokens: 40_960,
        quant_block: Some(128),
        moe: Some(MoeShape {
            experts: 128,
            experts_per_token: 8,
            expert_intermediate: 1536,
            shared_experts: 0,
            dense_layers: 0,
        }),
        ..llama_8b_fp8()
    }
}

/// NVIDIA H100 SXM data sheet; memory as the driver reports it (81 559 MiB); one 400 Gb/s NIC per GPU (DGX H100).
pub fn h100() -> GpuSku {
    GpuSku {
        name: "h100_sxm".into(),
        memory_bytes: 81_559.0 * 1_048_576.0,
        bf16_flops: 989e12,
        fp8_flops: Some(1979e12),
        fp4_flops: None,
        memory_bytes_per_second: 3.35e12,
        link_bytes_per_second: 450e9,
        network_bytes_per_second: 50e9,
        gpus_per_node: 8,
        source: String::new(),
    }
}

/// NVIDIA H200 SXM data sheet; memory as the driver reports it (143 771 MiB).
pub fn h200() -> GpuSku {
    GpuSku { name: "h200_sxm".into(), memory_bytes: 143_771.0 * 1_048_576.0, memory_bytes_per_second: 4.8e12, ..h100() }
}

/// Nodes of the given GPU, of eight each.
pub fn hardware(gpu: GpuSku, total_gpus: u32) -> Hardware {
    Hardware { gpus_per_node: gpu.gpus_per_node, gpu, total_gpus }
}

/// A job of the seed document's shape (isl 3000, osl 150, TTFT 200 ms, ITL 20 ms).
pub fn job(model: model::Model, hardware: Hardware) -> Job {
    Job {
        max_context_tokens: model.max_context_tokens,
        model,
        hardware,
        backend: Backend::Vllm,
        workload: Workload { isl: 3000, osl: 150 },
        sla: Sla { ttft_ms: Some(200.0), itl_ms: Some(20.0), e2e_ms: None, quantile: None },
        demand: Demand::Budget,
        seed: 1,
    }
}
