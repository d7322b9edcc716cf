//! Who sends requests to a real engine and takes the time. Engines know this trait; each generator is a folder.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::Stat;

/// An OpenAI-compatible server.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// `http://host:port` or `https://…`, without `/v1` and without a slash at the end.
    pub url: String,
    /// The name under which the server knows the model.
    pub model: String,
}

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
    /// A small set, sent once before measuring: prompts are in the prefix cache and only decoding is timed.
    Shared,
}

/// One point to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Prompt length in tokens.
    pub isl: u32,
    /// Tokens to generate per request.
    pub osl: u32,
    /// How requests arrive.
    pub traffic: Traffic,
    /// Which prompts.
    pub prompts: Prompts,
    /// Stop when the 95 % confidence interval of the mean latency is within ± this fraction of it, …
    pub relative_precision: f64,
    /// … or after so many requests.
    pub max_requests: u32,
    /// The quantile that [`Stat::target`] holds; the mean if absent.
    pub quantile: Option<f64>,
    /// Seed of prompts and arrivals.
    pub seed: u64,
    /// The point fails when it takes longer.
    pub deadline: Duration,
}

/// What came of a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoadReport {
    /// Time to first token in milliseconds, from the intended start; absent if no request gave one.
    pub ttft_ms: Option<Stat>,
    /// Inter-token latency in milliseconds, `(last - first) / (tokens - 1)` per request; absent with fewer than 2 tokens.
    pub itl_ms: Option<Stat>,
    /// Requests behind the figures.
    pub requests: u32,
    /// Requests that failed.
    pub failed_requests: u32,
    /// Requests in flight, mean over the time that was measured.
    pub concurrency_seen: f64,
    /// Prompt tokens per second.
    pub input_tokens_per_second: f64,
    /// Generated tokens per second.
    pub output_tokens_per_second: f64,
    /// Completed requests per second.
    pub requests_per_second: f64,
    /// Time measured, in seconds.
    pub duration_s: f64,
    /// One entry per request that was measured, for SLO attainment and for merging.
    pub samples: Vec<RequestSample>,
}

/// One measured request.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RequestSample {
    /// From the intended start to the first token, in milliseconds.
    pub ttft_ms: f64,
    /// Per token after the first, in milliseconds; absent with fewer than 2 tokens.
    pub itl_ms: Option<f64>,
    /// From the intended start to the last token, in milliseconds.
    pub e2e_ms: f64,
    /// Prompt tokens that the server counted.
    pub input_tokens: u32,
    /// Generated tokens that the server counted.
    pub output_tokens: u32,
}

/// Sends requests and takes the time.
#[async_trait]
pub trait LoadGenerator: Send + Sync {
    /// `builtin`, `aiperf`; for messages and provenance.
    fn name(&self) -> &'static str;

    /// Measures one point.
    ///
    /// # Errors
    /// See [`LoadError`]; never hangs longer than the point's deadline.
    async fn measure(&self, endpoint: &Endpoint, point: &Point) -> Result<LoadReport, LoadError>;
}

/// Why a point has no figures.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Nobody answers.
    #[error("{url} does not answer: {reason}")]
    Unreachable {
        /// Which server.
        url: String,
        /// What the connection said.
        reason: String,
    },
    /// The server answers with an error.
    #[error("{url} refused the request with status {status}: {body}")]
    Refused {
        /// Which server.
        url: String,
        /// HTTP status.
        status: u16,
        /// The start of what it said.
        body: String,
    },
    /// Too many requests failed.
    #[error("{failed} of {sent} requests failed, first: {first}")]
    Failures {
        /// How many.
        failed: u32,
        /// Of how many.
        sent: u32,
        /// What the first one said.
        first: String,
    },
    /// The client could not keep up, so the figures are its own, not the engine's.
    #[error("the load generator was the bottleneck: {0}")]
    ClientBound(String),
    /// The point's deadline passed.
    #[error("not done after {deadline_s} s: {progress}")]
    Deadline {
        /// The deadline.
        deadline_s: f64,
        /// How far it came.
        progress: String,
    },
    /// The generator cannot work: no tokenizer, no `aiperf`, ….
    #[error("{0}")]
    Setup(String),
}
