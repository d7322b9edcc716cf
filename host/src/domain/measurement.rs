//! What is asked of an engine and what comes back.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CandidateId;

/// One point to measure.
///
/// Prefill engines are measured with prompts that share nothing, decode engines with prompts that are in the prefix
/// cache already, so that only decoding is timed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// Whose.
    pub candidate: CandidateId,
    /// Input length in tokens.
    pub isl: u32,
    /// Output length in tokens.
    pub osl: u32,
    /// Requests in flight, over all attention-DP ranks of the engine.
    pub concurrency: u32,
    /// Stop when the 95 % confidence interval of the mean is within ± this fraction of the mean, …
    pub relative_precision: f64,
    /// … or after this many samples.
    pub max_samples: u32,
}

impl Probe {
    /// What makes two probes the same point, however precisely they ask.
    pub const fn point(&self) -> (CandidateId, u32, u32, u32) {
        (self.candidate, self.isl, self.osl, self.concurrency)
    }
}

/// What a point is measured for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// To compare: it is enough when it is clear on which side of the SLA it lies.
    Compare,
    /// For its value: curves are read between their points.
    Value,
}

/// Summary of one quantity's samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stat {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 % quantile.
    pub p90: f64,
    /// 99 % quantile.
    pub p99: f64,
    /// Lower end of the mean's 95 % confidence interval.
    pub ci_low: f64,
    /// Upper end of it.
    pub ci_high: f64,
    /// The SLA's statistic: the mean, or the quantile that the job names.
    pub target: f64,
}

/// One point, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measurement {
    /// Whose.
    pub candidate: CandidateId,
    /// Input length in tokens.
    pub isl: u32,
    /// Output length in tokens.
    pub osl: u32,
    /// Requests in flight that were asked for.
    pub concurrency: u32,
    /// Mean number of requests that the engine really ran at once.
    pub concurrency_seen: f64,
    /// Time to first token in milliseconds; absent on decode engines, whose prompts are cached.
    pub ttft_ms: Option<Stat>,
    /// Inter-token latency in milliseconds; absent on prefill engines.
    pub itl_ms: Option<Stat>,
    /// Samples behind the latency: requests (prefill) or decode steps (decode).
    pub samples: u32,
    /// Requests that failed.
    pub failed_requests: u32,
    /// Prompt tokens per second and GPU; 0 on decode engines.
    pub input_tokens_per_second_per_gpu: f64,
    /// Generated tokens per second and GPU.
    pub output_tokens_per_second_per_gpu: f64,
    /// Mean fraction of the KV cache in use as the engine reported it, 0 to 1.
    pub kv_usage: f64,
    /// The same by arithmetic, `(isl + osl/2) · concurrency / kv_tokens`, as NVIDIA's profiler reports it. May exceed 1.
    pub kv_usage_nominal: f64,
    /// How long measuring took on the cluster's clock, in seconds.
    pub duration_s: f64,
}

impl Measurement {
    /// See [`Probe::point`].
    pub const fn point(&self) -> (CandidateId, u32, u32, u32) {
        (self.candidate, self.isl, self.osl, self.concurrency)
    }
}

/// What a running engine says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EngineFacts {
    /// Whose.
    pub candidate: CandidateId,
    /// KV capacity in tokens, over all attention-DP ranks.
    pub kv_tokens: u32,
    /// Most requests that it runs at once, over all ranks.
    pub max_running: u32,
    /// From the order to the first answer, on the cluster's clock, in seconds.
    pub launch_s: f64,
    /// Who says how large its KV cache is; empty where that is not in question, as on simulated engines. The first one
    /// that has a number is whose number it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kv_sources: Vec<KvSource>,
}

/// One source's word on an engine's KV capacity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KvSource {
    /// `metrics`, `log`, `given` or `formula`.
    pub source: String,
    /// Tokens, over all attention-DP ranks; absent where it does not know.
    pub kv_tokens: Option<u64>,
    /// Where the number is from, or why there is none.
    pub detail: String,
}

/// Kinds of failure that call for different remedies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// Weights or one request's KV cache do not fit.
    DoesNotFit,
    /// The engine did not start.
    Launch,
    /// The engine ended while it was in use.
    Crash,
    /// A deadline passed.
    Timeout,
    /// The engine lives but the measurement is no good.
    Measurement,
    /// Anything else.
    Other,
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FailureClass::DoesNotFit => "does not fit",
            FailureClass::Launch => "launch failed",
            FailureClass::Crash => "crashed",
            FailureClass::Timeout => "timed out",
            FailureClass::Measurement => "measurement failed",
            FailureClass::Other => "failed",
        })
    }
}

/// What stood in an engine's way, where that is known. It is finer than the class, which is all that policies see, and
/// decides whether trying again may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCause {
    /// GPU memory does not suffice.
    GpuMemory,
    /// It used more host memory than it may.
    HostMemory,
    /// It ends by itself, again and again.
    CrashLoop,
    /// Its command line: a flag that it does not take, a program that is not there.
    CommandLine,
    /// There is no such image.
    ImageMissing,
    /// The registry does not let it have the image.
    ImageDenied,
    /// The registry, or the way to it, is out of order.
    Registry,
    /// A secret, ConfigMap, volume or volume claim that it names is not there.
    Missing,
    /// The namespace's quota.
    Quota,
    /// No node takes it, not for want of GPUs.
    Unschedulable,
    /// Somebody else holds the GPUs.
    GpusTaken,
    /// It had to give way: evicted or preempted.
    Evicted,
    /// Its node is gone.
    NodeLost,
    /// A connection broke while it was loading.
    Connection,
    /// It runs, but never became ready.
    NotReady,
    /// Nobody acts on its deployment.
    OperatorSilent,
    /// Dynamo's operator gave its deployment up.
    OperatorFailed,
    /// Somebody else deleted it.
    Deleted,
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FailureCause::GpuMemory => "out of GPU memory",
            FailureCause::HostMemory => "out of host memory",
            FailureCause::CrashLoop => "crash loop",
            FailureCause::CommandLine => "wrong command line",
            FailureCause::ImageMissing => "no such image",
            FailureCause::ImageDenied => "image refused",
            FailureCause::Registry => "registry out of order",
            FailureCause::Missing => "something it needs is missing",
            FailureCause::Quota => "quota",
            FailureCause::Unschedulable => "unschedulable",
            FailureCause::GpusTaken => "GPUs taken by others",
            FailureCause::Evicted => "evicted",
            FailureCause::NodeLost => "node lost",
            FailureCause::Connection => "connection broken",
            FailureCause::NotReady => "never ready",
            FailureCause::OperatorSilent => "operator silent",
            FailureCause::OperatorFailed => "given up by the operator",
            FailureCause::Deleted => "deleted by others",
        })
    }
}

/// Something went wrong with a candidate; the run goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// Whose.
    pub candidate: CandidateId,
    /// What kind.
    pub class: FailureClass,
    /// What exactly, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<FailureCause>,
    /// The point that failed; absent where the engine itself failed, so that there is no use in asking for more.
    pub probe: Option<Probe>,
    /// For a person: the thing, the place, the next step.
    pub reason: String,
}

/// All that is known so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// In the order of launching; one entry per candidate.
    pub facts: Vec<EngineFacts>,
    /// In the order of measuring.
    pub measurements: Vec<Measurement>,
    /// In the order of failing.
    pub failures: Vec<Failure>,
}

impl History {
    /// What the candidate's engine said of itself.
    pub fn facts_of(&self, candidate: CandidateId) -> Option<&EngineFacts> {
        self.facts.iter().find(|f| f.candidate == candidate)
    }

    /// The candidate's measurements.
    pub fn measurements_of(&self, candidate: CandidateId) -> impl Iterator<Item = &Measurement> {
        self.measurements.iter().filter(move |m| m.candidate == candidate)
    }

    /// The failure of the candidate's engine as a whole, if it failed.
    pub fn engine_failure(&self, candidate: CandidateId) -> Option<&Failure> {
        self.failures.iter().find(|f| f.candidate == candidate && f.probe.is_none())
    }

    /// Whether the point was measured, or failed for good.
    pub fn is_settled(&self, probe: &Probe) -> bool {
        self.measurements.iter().any(|m| m.point() == probe.point())
            || self
                .failures
                .iter()
                .any(|f| f.candidate == probe.candidate && f.probe.is_none_or(|p| p.point() == probe.point()))
    }
}
