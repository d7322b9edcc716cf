//! Checks of single values.

use crate::domain::model::LatentAttention;
use crate::domain::{GpuSku, Model, MoeShape};

/// More than any real figure, and small enough that sums and products of a few stay within 32 bits or exact doubles.
const MOST: u32 = 1 << 24;

/// What a number has to be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Range {
    /// Greater than 0.
    Positive,
    /// At least 0.
    NotNegative,
    /// From 0 to 1.
    Fraction,
    /// At least 0 and below 1.
    BelowOne,
    /// Between 0 and 1, both left out.
    Quantile,
}

impl Range {
    /// What `value` should be, if it is not; in words that follow "must be".
    pub fn problem(self, value: f64) -> Option<&'static str> {
        let (fits, wanted) = match self {
            Range::Positive => (value > 0.0, "greater than 0"),
            Range::NotNegative => (value >= 0.0, "0 or more"),
            Range::Fraction => ((0.0..=1.0).contains(&value), "from 0 to 1"),
            Range::BelowOne => ((0.0..1.0).contains(&value), "at least 0 and below 1"),
            Range::Quantile => (value > 0.0 && value < 1.0, "between 0 and 1, for example 0.95"),
        };
        (!fits || !value.is_finite()).then_some(wanted)
    }
}

/// What is wrong with a model's figures.
pub(super) fn model_problem(model: &Model) -> Option<String> {
    let mut figures = vec![
        ("layers", model.layers),
        ("hidden", model.hidden),
        ("heads", model.heads),
        ("kv_heads", model.kv_heads),
        ("head_dim", model.head_dim),
        ("intermediate", model.intermediate),
        ("vocabulary", model.vocabulary),
        ("max_context_tokens", model.max_context_tokens),
    ];
    figures.extend(model.quant_block.map(|block| ("quant_block", block)));
    // What may be 0.
    let mut optional = Vec::new();
    if let Some(MoeShape { experts, experts_per_token, expert_intermediate, shared_experts, dense_layers }) = model.moe
    {
        figures.extend([
            ("moe.experts", experts),
            ("moe.experts_per_token", experts_per_token),
            ("moe.expert_intermediate", expert_intermediate),
        ]);
        optional.extend([("moe.shared_experts", shared_experts), ("moe.dense_layers", dense_layers)]);
        if experts_per_token > experts {
            return Some(format!("experts_per_token ({experts_per_token}) is above experts ({experts})"));
        }
        if dense_layers > model.layers {
            return Some(format!("dense_layers ({dense_layers}) is above layers ({})", model.layers));
        }
    }
    if let Some(LatentAttention { kv_lora_rank, q_lora_rank, rope_head_dim, nope_head_dim, v_head_dim }) =
        model.latent_attention
    {
        figures.extend([("kv_lora_rank", kv_lora_rank), ("nope_head_dim", nope_head_dim), ("v_head_dim", v_head_dim)]);
        optional.extend([("q_lora_rank", q_lora_rank), ("rope_head_dim", rope_head_dim)]);
    }
    if let Some((name, _)) = figures.iter().find(|(_, value)| *value == 0) {
        return Some(format!("{name} is 0"));
    }
    if let Some((name, value)) = figures.iter().chain(&optional).find(|(_, value)| *value > MOST) {
        return Some(format!("{name} is {value}, more than any model has"));
    }
    if !model.heads.is_multiple_of(model.kv_heads) {
        return Some(format!("heads ({}) is no multiple of kv_heads ({})", model.heads, model.kv_heads));
    }
    if model.name.trim().is_empty() {
        return Some("name is empty".to_owned());
    }
    None
}

/// What is wrong with a GPU's figures.
pub(super) fn gpu_problem(gpu: &GpuSku) -> Option<String> {
    let figures = [
        ("memory_bytes", Some(gpu.memory_bytes)),
        ("bf16_flops", Some(gpu.bf16_flops)),
        ("fp8_flops", gpu.fp8_flops),
        ("fp4_flops", gpu.fp4_flops),
        ("memory_bytes_per_second", Some(gpu.memory_bytes_per_second)),
        ("link_bytes_per_second", Some(gpu.link_bytes_per_second)),
        ("network_bytes_per_second", Some(gpu.network_bytes_per_second)),
    ];
    for (name, value) in figures {
        if let Some(value) = value
            && let Some(wanted) = Range::Positive.problem(value)
        {
            return Some(format!("{name} must be {wanted}, not {value}"));
        }
    }
    if gpu.gpus_per_node == 0 || gpu.gpus_per_node > MAX_GPUS {
        return Some(format!("gpus_per_node must be from 1 to {MAX_GPUS}, not {}", gpu.gpus_per_node));
    }
    None
}

/// Most GPUs that a job may speak of.
pub(super) const MAX_GPUS: u32 = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_range_takes_nan_or_infinity() {
        for range in [Range::Positive, Range::NotNegative, Range::Fraction, Range::BelowOne, Range::Quantile] {
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
                assert!(range.problem(value).is_some(), "{range:?} took {value}");
            }
        }
        assert_eq!(Range::Positive.problem(0.1), None);
        assert!(Range::Positive.problem(0.0).is_some());
        assert_eq!(Range::NotNegative.problem(0.0), None);
        assert!(Range::BelowOne.problem(1.0).is_some());
        assert!(Range::Quantile.problem(1.0).is_some());
        assert!(Range::Quantile.problem(0.0).is_some());
        assert_eq!(Range::Fraction.problem(1.0), None);
    }
}
