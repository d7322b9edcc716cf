//! What a load generator is asked.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::{Aim, Probe, Role, Sla};

/// How requests arrive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// So many in flight: the next one starts when one ends.
    Closed {
        /// Requests in flight.
        concurrency: u32,
    },
    /// Poisson arrivals, whether or not earlier ones have ended.
    Poisson {
        /// Mean rate.
        requests_per_second: f64,
    },
    /// Arrivals at equal distances, whether or not earlier ones have ended.
    Constant {
        /// Rate.
        requests_per_second: f64,
    },
}

/// Which prompts are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Prompts {
    /// No two share a prefix: every prompt is computed.
    Unique,
    /// One per request in flight, sent once before measuring: prompts are in the prefix cache and only decoding is timed.
    /// They differ from each other, so that each takes its own place in the KV cache.
    Shared,
}

/// Which latency has to be known precisely before a point ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Watch {
    /// Time to first token: prefill.
    Ttft,
    /// Inter-token latency: decode.
    Itl,
    /// Each of them.
    Both,
}

/// One point to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Prompt length in tokens, as the server counts them.
    pub isl: u32,
    /// Tokens to generate per request.
    pub osl: u32,
    /// How requests arrive.
    pub traffic: Traffic,
    /// Which prompts.
    pub prompts: Prompts,
    /// Which latency decides when to stop.
    pub watch: Watch,
    /// Stop when the 95 % confidence interval of the watched statistic is within ± this fraction of it, …
    pub relative_precision: f64,
    /// … or it lies on one side of the target, …
    pub ttft_target_ms: Option<f64>,
    /// … of either latency, …
    pub itl_target_ms: Option<f64>,
    /// … or after so many requests were measured.
    pub max_requests: u32,
    /// The statistic: a quantile, or the mean if absent. [`crate::domain::Stat::target`] holds it.
    pub quantile: Option<f64>,
    /// The point fails when more than this fraction of its requests fail.
    pub max_error_rate: f64,
    /// Seed of prompts and arrivals.
    pub seed: u64,
    /// The point fails when it takes longer, warm-up included.
    pub deadline: Duration,
    /// The candidate's folder in the run directory: a generator that writes files makes one of its own in it.
    pub artifacts: Option<PathBuf>,
}

/// Half width of an interval that is precise enough, as a fraction, unless the job says otherwise.
pub const RELATIVE_PRECISION: f64 = 0.05;

/// Fraction of requests that may fail.
pub const MAX_ERROR_RATE: f64 = 0.05;

/// A point takes minutes at most; NVIDIA's profiler gives each request half an hour.
pub const DEADLINE: Duration = Duration::from_secs(1800);

impl Point {
    /// What an engine is asked in the given role: prefill engines for the TTFT of unique prompts, decode engines for the
    /// ITL of shared ones.
    ///
    /// A probe counts samples of a decode engine in decode steps; requests are asked for that have as many, and one
    /// answer of each that is in flight at least.
    pub fn of(role: Role, probe: &Probe, aim: Aim, sla: &Sla, seed: u64) -> Self {
        let target = |ms: Option<f64>| ms.filter(|_| aim == Aim::Compare);
        let (prompts, watch, max_requests) = match role {
            Role::Prefill => (Prompts::Unique, Watch::Ttft, probe.max_samples),
            Role::Decode => {
                let rounds = probe.max_samples.div_ceil(probe.osl.saturating_sub(1).max(1)).max(1);
                (Prompts::Shared, Watch::Itl, probe.concurrency.saturating_mul(rounds))
            }
        };
        Self {
            isl: probe.isl,
            osl: probe.osl,
            traffic: Traffic::Closed { concurrency: probe.concurrency },
            prompts,
            watch,
            relative_precision: probe.relative_precision,
            ttft_target_ms: target(sla.ttft_ms),
            itl_target_ms: target(sla.itl_ms),
            max_requests: max_requests.max(1),
            quantile: sla.quantile,
            max_error_rate: MAX_ERROR_RATE,
            seed,
            deadline: DEADLINE,
            artifacts: None,
        }
    }

    /// What users would see: both latencies of unique prompts that arrive by chance.
    pub fn open_loop(isl: u32, osl: u32, requests_per_second: f64, requests: u32, sla: &Sla, seed: u64) -> Self {
        Self {
            isl,
            osl,
            traffic: Traffic::Poisson { requests_per_second },
            prompts: Prompts::Unique,
            watch: Watch::Both,
            relative_precision: RELATIVE_PRECISION,
            ttft_target_ms: sla.ttft_ms,
            itl_target_ms: sla.itl_ms,
            max_requests: requests.max(1),
            quantile: sla.quantile,
            max_error_rate: MAX_ERROR_RATE,
            seed,
            deadline: DEADLINE,
            artifacts: None,
        }
    }

    /// Why the point makes no sense, if it makes none.
    pub fn fault(&self) -> Option<String> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let rate = match self.traffic {
            Traffic::Closed { .. } => 1.0,
            Traffic::Poisson { requests_per_second } | Traffic::Constant { requests_per_second } => requests_per_second,
        };
        if self.isl == 0 {
            Some("a prompt needs at least one token".to_owned())
        } else if self.osl == 0 {
            Some("an answer needs at least one token".to_owned())
        } else if self.watch != Watch::Ttft && self.osl < 2 {
            Some(format!("an inter-token latency needs at least two output tokens, not {}", self.osl))
        } else if matches!(self.traffic, Traffic::Closed { concurrency: 0 }) {
            Some("no request in flight measures nothing".to_owned())
        } else if !positive(rate) {
            Some(format!("{rate} requests per second is no rate"))
        } else if self.max_requests == 0 {
            Some("no request measures nothing".to_owned())
        } else if !(self.relative_precision.is_finite() && self.relative_precision >= 0.0) {
            Some(format!("{} is no precision", self.relative_precision))
        } else if self.quantile.is_some_and(|q| !(q > 0.0 && q < 1.0)) {
            Some("a quantile lies between 0 and 1".to_owned())
        } else {
            None
        }
    }
}
