//! What a load generator answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Stopped;
use crate::domain::Stat;

/// A number with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Lower end of its interval.
    pub ci_low: f64,
    /// Upper end of it.
    pub ci_high: f64,
    /// Samples behind it.
    pub samples: u32,
}

impl Estimate {
    /// Half of the interval as a fraction of the value; infinite where the value is 0.
    pub fn relative_half_width(&self) -> f64 {
        if self.value == 0.0 { f64::INFINITY } else { ((self.ci_high - self.ci_low) / 2.0 / self.value).abs() }
    }
}

/// Summary of one latency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Figure {
    /// Mean with its interval, quantiles (linear interpolation between order statistics), and the statistic that was
    /// asked for.
    pub stat: Stat,
    /// The statistic that was asked for, [`Stat::target`], with its interval.
    pub target: Estimate,
    /// Requests behind it.
    pub samples: u32,
}

/// How well the client kept up. It measures itself while it measures the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClientHealth {
    /// From the moment at which a request should start to the moment at which the client began with it, mean.
    pub send_lateness_mean_ms: f64,
    /// The same, 99 % quantile.
    pub send_lateness_p99_ms: f64,
    /// From a signal to the event loop, due at random moments, to its reaction, mean: how late tokens are seen.
    pub loop_lag_mean_ms: f64,
    /// The same, 99 % quantile.
    pub loop_lag_p99_ms: f64,
    /// How long a first token waits for the event loop, mean: for its thread to get a CPU, and in its queue behind tokens
    /// that came at the same time.
    pub read_lag_mean_ms: f64,
    /// Fraction of the time in which the event loop's thread was running; absent where the system does not say.
    pub cpu_share: Option<f64>,
    /// Fraction of the time in which it could have run but had no CPU.
    pub cpu_wait_share: Option<f64>,
    /// Why the figures are the client's and not the engine's, if they are.
    pub bound: Option<String>,
}

/// What came of a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoadReport {
    /// Time to first token in milliseconds; absent if no request gave one. In an open loop counted from the intended
    /// start, in a closed one from the sending.
    pub ttft_ms: Option<Figure>,
    /// Inter-token latency in milliseconds, `(last - first) / (tokens - 1)` per request; absent with fewer than 2 tokens.
    pub itl_ms: Option<Figure>,
    /// To the last token, in milliseconds, from the same start as the TTFT.
    pub e2e_ms: Option<Figure>,
    /// Requests behind the figures.
    pub requests: u32,
    /// Requests that failed.
    pub failed_requests: u32,
    /// What the first of them said.
    pub first_failure: Option<String>,
    /// Requests whose answer had another length than asked for, by the server's count. They are not in the figures.
    pub wrong_length_requests: u32,
    /// Requests in flight, mean over the time that was measured.
    pub concurrency_seen: Estimate,
    /// Prompt tokens per second.
    pub input_tokens_per_second: Estimate,
    /// Generated tokens per second.
    pub output_tokens_per_second: Estimate,
    /// Completed requests per second.
    pub requests_per_second: Estimate,
    /// Time measured, in seconds; warm-up excluded.
    pub duration_s: f64,
    /// Why measuring ended.
    pub stopped: Stopped,
    /// Why the figures are no steady state, if they are none: in an open loop, mostly a queue that grows.
    pub unsteady: Option<String>,
    /// Generated tokens per piece of the stream that carries text: above 1, pieces were merged and single gaps say little.
    pub tokens_per_chunk: f64,
    /// Pieces of the stream that carry text per read from the connection: above 1, they arrived together.
    pub chunks_per_read: f64,
    /// How well the client kept up; absent where the generator does not say.
    pub client: Option<ClientHealth>,
    /// Clients that sent the requests, each from a process of its own; of several, the worst one's health is told.
    #[serde(default = "one")]
    pub clients: u32,
    /// One entry per request that was measured, in the order of starting, for SLO attainment and for merging.
    pub samples: Vec<RequestSample>,
}

const fn one() -> u32 {
    1
}

/// One measured request.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RequestSample {
    /// Start on the generator's clock, in seconds since measuring began; the intended one in an open loop.
    pub start_s: f64,
    /// From the start to the first token, in milliseconds.
    pub ttft_ms: f64,
    /// Per token after the first, in milliseconds; absent with fewer than 2 tokens.
    pub itl_ms: Option<f64>,
    /// From the start to the last token, in milliseconds.
    pub e2e_ms: f64,
    /// Prompt tokens that the server counted.
    pub input_tokens: u32,
    /// Generated tokens that the server counted.
    pub output_tokens: u32,
}
