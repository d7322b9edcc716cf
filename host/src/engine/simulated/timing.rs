//! The clock of the simulated engines: the roofline, off by what a prior cannot know, disturbed pass by pass.

use std::sync::atomic::{AtomicU64, Ordering};

use aisimulate_core::engine::TimingModel;
use anyhow::Result;

use crate::domain::random::{self, Random};
use crate::domain::roofline::{DecodeBatch, PrefillBatch, Roofline};
use crate::domain::{Mapping, Role};

/// How far the true speed of engines in this mapping and role lies from the roofline: uniform within
/// 1 ± `model_error`, the same for every engine of the run.
pub(super) fn bias(seed: u32, role: Role, mapping: &Mapping, model_error: f64) -> f64 {
    let error = model_error.clamp(0.0, 0.95);
    Random::new(&[u64::from(seed), random::text("bias"), random::text(role.as_str()), random::text(&mapping.label())])
        .around_one(error)
}

/// Times one engine's passes.
pub(super) struct EngineTiming {
    roofline: Roofline,
    bias: f64,
    noise_cv: f64,
    /// Seed of this engine and point.
    seed: u64,
    /// Passes timed so far; numbers the disturbances.
    passes: AtomicU64,
}

impl EngineTiming {
    pub(super) fn new(roofline: Roofline, bias: f64, noise_cv: f64, seed: u64) -> Self {
        Self { roofline, bias, noise_cv, seed, passes: AtomicU64::new(0) }
    }

    fn disturbed_ms(&self, seconds: f64) -> f64 {
        let pass = self.passes.fetch_add(1, Ordering::Relaxed);
        1e3 * seconds * self.bias * Random::new(&[self.seed, pass]).disturbance(self.noise_cv)
    }
}

impl TimingModel for EngineTiming {
    fn prefill_batch_validation_can_fail(&self) -> bool {
        false
    }

    fn prefill_prediction_can_fail(&self) -> bool {
        false
    }

    fn predict_prefill_ms(&self, batch_size: usize, mean_isl: usize, mean_prefix: usize) -> Result<f64> {
        let batch = PrefillBatch {
            requests: batch_size as f64,
            new_tokens: mean_isl.saturating_sub(mean_prefix) as f64,
            prefix_tokens: mean_prefix as f64,
        };
        Ok(self.disturbed_ms(self.roofline.prefill_pass(batch).total_s()))
    }

    fn predict_decode_ms(
        &self,
        batch_size: usize,
        active_kv_tokens: usize,
        _mean_context_length: usize,
        _total_kv_tokens: usize,
    ) -> Result<f64> {
        if batch_size == 0 {
            return Ok(0.0);
        }
        let sequences = batch_size as f64;
        // The mean that the engine passes is rounded down.
        let batch = DecodeBatch { sequences, context_tokens: active_kv_tokens as f64 / sequences };
        Ok(self.disturbed_ms(self.roofline.decode_step(batch).total_s()))
    }
}
