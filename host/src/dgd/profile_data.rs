//! The curves of the chosen engines, in the columns that Dynamo's planner and mocker read.

use serde_json::{Value, json};

use crate::domain::{Measurement, Stat};

/// Fewest points of each curve from which Dynamo's planner draws a model (`load_min_observations`, 1.6.1).
pub const PLANNER_MIN_POINTS: usize = 5;

/// Both curves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProfileData {
    /// TTFT against input length.
    pub prefill: PrefillTable,
    /// ITL against load and context.
    pub decode: DecodeTable,
}

/// One point of the prefill curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefillPoint {
    /// Input length in tokens.
    pub isl: u32,
    /// Requests in flight that were asked for.
    pub concurrency: u32,
    /// Requests in flight that were seen.
    pub concurrency_seen: f64,
    /// Time to first token in milliseconds.
    pub ttft_ms: Stat,
    /// Input tokens per second and GPU.
    pub tokens_per_second_per_gpu: f64,
    /// Requests behind the figures.
    pub samples: u32,
}

/// The prefill curve by input length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PrefillTable {
    /// Ascending in input length.
    pub points: Vec<PrefillPoint>,
}

/// One point of the decode surface.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecodePoint {
    /// Input length in tokens.
    pub isl: u32,
    /// Output length in tokens.
    pub osl: u32,
    /// Requests in flight that were asked for.
    pub concurrency: u32,
    /// Requests that the engine ran at once.
    pub concurrency_seen: f64,
    /// Fraction of the KV cache in use, as the engine reported it.
    pub kv_usage: f64,
    /// The same by arithmetic from what was asked for.
    pub kv_usage_nominal: f64,
    /// Inter-token latency in milliseconds.
    pub itl_ms: Stat,
    /// Output tokens per second and GPU.
    pub tokens_per_second_per_gpu: f64,
    /// Decode steps behind the figures.
    pub samples: u32,
}

impl DecodePoint {
    /// Mean context of a running request, in tokens: the input and half of the output.
    pub fn context_tokens(&self) -> f64 {
        f64::from(self.isl) + f64::from(self.osl) / 2.0
    }
}

/// The decode surface.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DecodeTable {
    /// Ascending in context length, then in concurrency.
    pub points: Vec<DecodePoint>,
    /// KV capacity of the engine in tokens.
    pub max_kv_tokens: u32,
}

impl PrefillTable {
    /// From measurements of one prefill engine. Points without a finite TTFT and throughput are left out: loaders accept
    /// NaN and fail later, when they fit.
    pub fn new<'a>(measurements: impl IntoIterator<Item = &'a Measurement>) -> Self {
        let mut points: Vec<_> = measurements
            .into_iter()
            .filter_map(|m| {
                let ttft_ms = m.ttft_ms?;
                finite([ttft_ms.mean, m.input_tokens_per_second_per_gpu]).then_some(PrefillPoint {
                    isl: m.isl,
                    concurrency: m.concurrency,
                    concurrency_seen: m.concurrency_seen,
                    ttft_ms,
                    tokens_per_second_per_gpu: m.input_tokens_per_second_per_gpu,
                    samples: m.samples,
                })
            })
            .collect();
        points.sort_by_key(|p| (p.isl, p.concurrency));
        Self { points }
    }

    /// The JSON twin of the NPZ file: lists under Dynamo's keys.
    pub fn to_json(&self) -> Value {
        let column = |of: fn(&PrefillPoint) -> f64| self.points.iter().map(of).collect::<Vec<_>>();
        json!({
            "prefill_isl": self.points.iter().map(|p| p.isl).collect::<Vec<_>>(),
            "prefill_ttft": column(|p| p.ttft_ms.mean),
            "prefill_thpt_per_gpu": column(|p| p.tokens_per_second_per_gpu),
        })
    }
}

impl DecodeTable {
    /// From measurements of one decode engine with the given KV capacity. Points without finite figures are left out, as
    /// in [`PrefillTable::new`].
    pub fn new<'a>(measurements: impl IntoIterator<Item = &'a Measurement>, max_kv_tokens: u32) -> Self {
        let mut points: Vec<_> = measurements
            .into_iter()
            .filter_map(|m| {
                let itl_ms = m.itl_ms?;
                finite([itl_ms.mean, m.output_tokens_per_second_per_gpu, m.kv_usage]).then_some(DecodePoint {
                    isl: m.isl,
                    osl: m.osl,
                    concurrency: m.concurrency,
                    concurrency_seen: m.concurrency_seen,
                    kv_usage: m.kv_usage,
                    kv_usage_nominal: m.kv_usage_nominal,
                    itl_ms,
                    tokens_per_second_per_gpu: m.output_tokens_per_second_per_gpu,
                    samples: m.samples,
                })
            })
            .collect();
        points
            .sort_by(|a, b| a.context_tokens().total_cmp(&b.context_tokens()).then(a.concurrency.cmp(&b.concurrency)));
        Self { points, max_kv_tokens }
    }

    /// The JSON twin of the NPZ file. Here the capacity is a number, there an array of one.
    pub fn to_json(&self) -> Value {
        let column = |of: fn(&DecodePoint) -> f64| self.points.iter().map(of).collect::<Vec<_>>();
        json!({
            "x_kv_usage": column(|p| p.kv_usage),
            "y_context_length": column(DecodePoint::context_tokens),
            "z_itl": column(|p| p.itl_ms.mean),
            "z_thpt_per_gpu": column(|p| p.tokens_per_second_per_gpu),
            "max_kv_tokens": self.max_kv_tokens,
        })
    }
}

impl ProfileData {
    /// What Dynamo will not be able to do with these data, for a person; empty if all is well.
    pub fn shortcomings(&self) -> Vec<String> {
        [("prefill", self.prefill.points.len()), ("decode", self.decode.points.len())]
            .into_iter()
            .filter(|(_, n)| *n < PLANNER_MIN_POINTS)
            .map(|(role, n)| {
                format!("the {role} curve has {n} points; Dynamo's planner fits a model from {PLANNER_MIN_POINTS} on")
            })
            .collect()
    }
}

fn finite<const N: usize>(figures: [f64; N]) -> bool {
    figures.iter().all(|f| f.is_finite())
}
