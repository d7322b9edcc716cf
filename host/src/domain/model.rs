//! The shape of a language model, as far as memory and time depend on it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Number format of weights or KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 4-bit floating point (NVFP4, MXFP4), with its block scales counted in.
    Fp4,
    /// 8-bit floating point.
    Fp8,
    /// 8-bit integer.
    Int8,
    /// 16-bit: bfloat16 or float16, which count the same here.
    Bf16,
}

impl Dtype {
    /// Bytes of one number.
    pub const fn bytes(self) -> f64 {
        match self {
            // 4 bits and one 8-bit scale for each 16 numbers (NVFP4).
            Dtype::Fp4 => 0.5 + 1.0 / 16.0,
            Dtype::Fp8 | Dtype::Int8 => 1.0,
            Dtype::Bf16 => 2.0,
        }
    }
}

/// Mixture of experts: what replaces the feed-forward block in most layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MoeShape {
    /// Routed experts per layer.
    pub experts: u32,
    /// Routed experts that each token visits.
    pub experts_per_token: u32,
    /// Inner size of one expert.
    pub expert_intermediate: u32,
    /// Experts that every token visits.
    #[serde(default)]
    pub shared_experts: u32,
    /// Layers at the start that stay dense.
    #[serde(default)]
    pub dense_layers: u32,
}

/// Multi-head latent attention: the cache holds one compressed vector per token, shared by all heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatentAttention {
    /// Rank of the compressed keys and values.
    pub kv_lora_rank: u32,
    /// Rank of the compressed queries; 0 where queries are not compressed.
    pub q_lora_rank: u32,
    /// Part of each head that carries the position.
    pub rope_head_dim: u32,
    /// Part of each head that does not.
    pub nope_head_dim: u32,
    /// Size of one head's values.
    pub v_head_dim: u32,
}

/// A decoder-only transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// As the user wrote it, for example `meta-llama/Llama-3.1-8B-Instruct`.
    pub name: String,
    /// Hugging Face architecture, for example `LlamaForCausalLM`; decides which mappings an engine knows.
    pub architecture: String,
    /// Transformer layers.
    pub layers: u32,
    /// Model dimension.
    pub hidden: u32,
    /// Attention heads.
    pub heads: u32,
    /// KV heads (GQA); equal to `heads` without grouping.
    pub kv_heads: u32,
    /// Size of one head.
    pub head_dim: u32,
    /// Inner size of the dense feed-forward block.
    pub intermediate: u32,
    /// Vocabulary size.
    pub vocabulary: u32,
    /// Whether input embedding and output head share their weights.
    #[serde(default)]
    pub tied_embeddings: bool,
    /// Longest sequence, prompt and answer, in tokens.
    pub max_context_tokens: u32,
    /// Format of the weights.
    pub weight_dtype: Dtype,
    /// Format of the KV cache.
    pub kv_dtype: Dtype,
    /// Block size of a quantised format; tensor parallel slices must be multiples of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant_block: Option<u32>,
    /// Experts, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moe: Option<MoeShape>,
    /// Latent attention, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent_attention: Option<LatentAttention>,
    /// Where the figures come from.
    #[serde(default)]
    pub source: String,
}

impl Model {
    /// Whether it has experts.
    pub const fn is_moe(&self) -> bool {
        self.moe.is_some()
    }

    /// Parameters of attention in one layer.
    pub fn attention_parameters_per_layer(&self) -> f64 {
        let (hidden, heads) = (f64::from(self.hidden), f64::from(self.heads));
        match self.latent_attention {
            None => {
                let q_and_o = 2.0 * hidden * heads * f64::from(self.head_dim);
                let k_and_v = 2.0 * hidden * f64::from(self.kv_heads) * f64::from(self.head_dim);
                q_and_o + k_and_v
            }
            Some(mla) => {
                let qk = f64::from(mla.nope_head_dim + mla.rope_head_dim);
                let q = if mla.q_lora_rank == 0 {
                    hidden * heads * qk
                } else {
                    f64::from(mla.q_lora_rank) * (hidden + heads * qk)
                };
                let kv_down = hidden * f64::from(mla.kv_lora_rank + mla.rope_head_dim);
                let kv_up = f64::from(mla.kv_lora_rank) * heads * f64::from(mla.nope_head_dim + mla.v_head_dim);
                q + kv_down + kv_up + heads * f64::from(mla.v_head_dim) * hidden
            }
        }
    }

    /// Parameters of one expert (gate, up and down projection).
    pub fn parameters_per_expert(&self) -> f64 {
        self.moe.as_ref().map_or(0.0, |moe| 3.0 * f64::from(self.hidden) * f64::from(moe.expert_intermediate))
    }

    /// Layers whose feed-forward block is dense.
    pub fn dense_layers(&self) -> u32 {
        self.moe.as_ref().map_or(self.layers, |moe| moe.dense_layers.min(self.layers))
    }

    /// Parameters of one dense feed-forward block (gate, up and down projection).
    pub fn dense_ffn_parameters_per_layer(&self) -> f64 {
        3.0 * f64::from(self.hidden) * f64::from(self.intermediate)
    }

    /// Parameters of the input embedding and the output head.
    pub fn embedding_parameters(&self) -> f64 {
        let one = f64::from(self.vocabulary) * f64::from(self.hidden);
        if self.tied_embeddings { one } else { 2.0 * one }
    }

    /// All parameters.
    pub fn parameters(&self) -> f64 {
        let moe_layers = f64::from(self.layers - self.dense_layers());
        let experts = self.moe.as_ref().map_or(0.0, |moe| f64::from(moe.experts + moe.shared_experts));
        let router = self.moe.as_ref().map_or(0.0, |moe| f64::from(moe.experts) * f64::from(self.hidden));
        f64::from(self.layers) * self.attention_parameters_per_layer()
            + f64::from(self.dense_layers()) * self.dense_ffn_parameters_per_layer()
            + moe_layers * (experts * self.parameters_per_expert() + router)
            + self.embedding_parameters()
    }

    /// Bytes of all weights. Embedding and output head stay 16-bit in quantised checkpoints.
    pub fn weight_bytes(&self) -> f64 {
        let embedding = self.embedding_parameters();
        (self.parameters() - embedding) * self.weight_dtype.bytes() + embedding * Dtype::Bf16.bytes()
    }

    /// KV cache of one token over all layers, stored once (not replicated), in bytes.
    pub fn kv_bytes_per_token(&self) -> f64 {
        let numbers = match self.latent_attention {
            None => 2.0 * f64::from(self.kv_heads) * f64::from(self.head_dim),
            Some(mla) => f64::from(mla.kv_lora_rank + mla.rope_head_dim),
        };
        f64::from(self.layers) * numbers * self.kv_dtype.bytes()
    }
}
