//! The question and the answer as protobuf messages: what the contract's records would be in a `.proto` file. Tables are
//! columns here too, which is the cheapest form that protobuf has for them.

use prost::{Message, Oneof};
use sla_profiler::domain;
use sla_profiler_plugin as sdk;

#[derive(Clone, PartialEq, Message)]
pub struct Question {
    #[prost(message, required, tag = "1")]
    job: Job,
    #[prost(oneof = "Demand", tags = "2, 3, 4")]
    demand: Option<Demand>,
    #[prost(message, required, tag = "5")]
    candidates: Candidates,
    #[prost(message, required, tag = "6")]
    facts: Facts,
    #[prost(message, required, tag = "7")]
    measurements: Measurements,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Demand {
    #[prost(double, tag = "2")]
    RequestsPerSecond(f64),
    #[prost(uint32, tag = "3")]
    Concurrency(u32),
    #[prost(bool, tag = "4")]
    Budget(bool),
}

#[derive(Clone, PartialEq, Message)]
pub struct Job {
    #[prost(message, required, tag = "1")]
    model: Model,
    #[prost(message, required, tag = "2")]
    hardware: Hardware,
    #[prost(string, tag = "3")]
    backend: String,
    #[prost(uint32, tag = "4")]
    isl: u32,
    #[prost(uint32, tag = "5")]
    osl: u32,
    #[prost(double, optional, tag = "6")]
    ttft_ms: Option<f64>,
    #[prost(double, optional, tag = "7")]
    itl_ms: Option<f64>,
    #[prost(double, optional, tag = "8")]
    e2e_ms: Option<f64>,
    #[prost(double, optional, tag = "9")]
    quantile: Option<f64>,
    #[prost(uint32, tag = "10")]
    seed: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Model {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    layers: u32,
    #[prost(uint32, tag = "3")]
    hidden: u32,
    #[prost(uint32, tag = "4")]
    heads: u32,
    #[prost(uint32, tag = "5")]
    kv_heads: u32,
    #[prost(uint32, tag = "6")]
    max_context: u32,
    #[prost(double, tag = "7")]
    weight_bytes: f64,
    #[prost(double, tag = "8")]
    kv_bytes_per_token: f64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Hardware {
    #[prost(string, tag = "1")]
    gpu: String,
    #[prost(double, tag = "2")]
    gpu_memory_bytes: f64,
    #[prost(uint32, tag = "3")]
    gpus_per_node: u32,
    #[prost(uint32, tag = "4")]
    total_gpus: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Candidates {
    #[prost(bool, repeated, tag = "1")]
    decodes: Vec<bool>,
    #[prost(string, repeated, tag = "2")]
    label: Vec<String>,
    #[prost(uint32, repeated, tag = "3")]
    gpus: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    tp: Vec<u32>,
    #[prost(uint32, repeated, tag = "5")]
    pp: Vec<u32>,
    #[prost(uint32, repeated, tag = "6")]
    attention_dp: Vec<u32>,
    #[prost(uint32, repeated, tag = "7")]
    moe_tp: Vec<u32>,
    #[prost(uint32, repeated, tag = "8")]
    moe_ep: Vec<u32>,
    #[prost(double, repeated, tag = "9")]
    prior_latency_ms: Vec<f64>,
    #[prost(double, repeated, tag = "10")]
    prior_tokens_per_second_per_gpu: Vec<f64>,
    #[prost(double, repeated, tag = "11")]
    prior_relative_error: Vec<f64>,
    #[prost(double, repeated, tag = "12")]
    prior_kv_tokens: Vec<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Facts {
    #[prost(uint32, repeated, tag = "1")]
    candidate: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    kv_tokens: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    max_running: Vec<u32>,
    #[prost(double, repeated, tag = "4")]
    launch_seconds: Vec<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Stats {
    #[prost(double, repeated, tag = "1")]
    mean: Vec<f64>,
    #[prost(double, repeated, tag = "2")]
    p50: Vec<f64>,
    #[prost(double, repeated, tag = "3")]
    p90: Vec<f64>,
    #[prost(double, repeated, tag = "4")]
    p99: Vec<f64>,
    #[prost(double, repeated, tag = "5")]
    ci_low: Vec<f64>,
    #[prost(double, repeated, tag = "6")]
    ci_high: Vec<f64>,
    #[prost(double, repeated, tag = "7")]
    target: Vec<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Measurements {
    #[prost(uint32, repeated, tag = "1")]
    candidate: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    isl: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    osl: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    concurrency: Vec<u32>,
    #[prost(double, repeated, tag = "5")]
    concurrency_seen: Vec<f64>,
    #[prost(message, required, tag = "6")]
    ttft_ms: Stats,
    #[prost(message, required, tag = "7")]
    itl_ms: Stats,
    #[prost(uint32, repeated, tag = "8")]
    samples: Vec<u32>,
    #[prost(uint32, repeated, tag = "9")]
    failed_requests: Vec<u32>,
    #[prost(double, repeated, tag = "10")]
    input_tokens_per_second_per_gpu: Vec<f64>,
    #[prost(double, repeated, tag = "11")]
    output_tokens_per_second_per_gpu: Vec<f64>,
    #[prost(double, repeated, tag = "12")]
    kv_usage: Vec<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Selection {
    #[prost(message, repeated, tag = "1")]
    prefill: Vec<Choice>,
    #[prost(message, repeated, tag = "2")]
    decode: Vec<Choice>,
    #[prost(string, repeated, tag = "3")]
    notes: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Choice {
    #[prost(uint32, tag = "1")]
    candidate: u32,
    #[prost(uint32, tag = "2")]
    concurrency: u32,
    #[prost(bool, tag = "3")]
    meets_sla: bool,
    #[prost(double, tag = "4")]
    score: f64,
    #[prost(string, tag = "5")]
    reason: String,
    #[prost(string, tag = "6")]
    binding: String,
}

/// Each column from the same rows.
macro_rules! columns {
    ($table:ident, $rows:expr, |$row:ident| { $($column:ident: $value:expr),+ $(,)? } $($also:tt)*) => {
        $table { $($column: $rows.iter().map(|$row| $value).collect(),)+ $($also)* }
    };
}

impl Question {
    /// What the host would send.
    pub fn new(job: &domain::Job, candidates: &[domain::Candidate], history: &domain::History) -> Self {
        let rows = &history.measurements;
        Self {
            job: Job::new(job),
            demand: Some(match job.demand {
                domain::Demand::RequestsPerSecond(rate) => Demand::RequestsPerSecond(rate),
                domain::Demand::Concurrency(requests) => Demand::Concurrency(requests),
                domain::Demand::Budget => Demand::Budget(true),
            }),
            candidates: columns!(Candidates, candidates, |c| {
                decodes: c.role == domain::Role::Decode,
                label: c.mapping.label(),
                gpus: c.gpus(),
                tp: c.mapping.tp,
                pp: c.mapping.pp,
                attention_dp: c.mapping.attention_dp,
                moe_tp: c.mapping.moe_tp,
                moe_ep: c.mapping.moe_ep,
                prior_latency_ms: c.prior.latency_ms,
                prior_tokens_per_second_per_gpu: c.prior.tokens_per_second_per_gpu,
                prior_relative_error: c.prior.relative_error,
                prior_kv_tokens: c.prior.kv_tokens,
            }),
            facts: columns!(Facts, history.facts, |f| {
                candidate: f.candidate,
                kv_tokens: f.kv_tokens,
                max_running: f.max_running,
                launch_seconds: f.launch_s,
            }),
            measurements: columns!(Measurements, rows, |m| {
                candidate: m.candidate,
                isl: m.isl,
                osl: m.osl,
                concurrency: m.concurrency,
                concurrency_seen: m.concurrency_seen,
                samples: m.samples,
                failed_requests: m.failed_requests,
                input_tokens_per_second_per_gpu: m.input_tokens_per_second_per_gpu,
                output_tokens_per_second_per_gpu: m.output_tokens_per_second_per_gpu,
                kv_usage: m.kv_usage,
            } ttft_ms: Stats::new(rows, |m| m.ttft_ms), itl_ms: Stats::new(rows, |m| m.itl_ms)),
        }
    }

    /// What the policy reads.
    pub fn into_sdk(self) -> (sdk::Job, sdk::Demand, sdk::Candidates, sdk::History) {
        let demand = match self.demand {
            Some(Demand::RequestsPerSecond(rate)) => sdk::Demand::RequestsPerSecond(rate),
            Some(Demand::Concurrency(requests)) => sdk::Demand::Concurrency(requests),
            Some(Demand::Budget(_)) | None => sdk::Demand::Budget,
        };
        let (c, m) = (self.candidates, self.measurements);
        let role = |decodes| if decodes { sdk::Role::Decode } else { sdk::Role::Prefill };
        let candidates = sdk::Candidates {
            role: c.decodes.into_iter().map(role).collect(),
            label: c.label,
            gpus: c.gpus,
            tp: c.tp,
            pp: c.pp,
            attention_dp: c.attention_dp,
            moe_tp: c.moe_tp,
            moe_ep: c.moe_ep,
            prior_latency_ms: c.prior_latency_ms,
            prior_tokens_per_second_per_gpu: c.prior_tokens_per_second_per_gpu,
            prior_relative_error: c.prior_relative_error,
            prior_kv_tokens: c.prior_kv_tokens,
        };
        let facts = sdk::EngineFacts {
            candidate: self.facts.candidate,
            kv_tokens: self.facts.kv_tokens,
            max_running: self.facts.max_running,
            launch_seconds: self.facts.launch_seconds,
        };
        let measurements = sdk::Measurements {
            candidate: m.candidate,
            isl: m.isl,
            osl: m.osl,
            concurrency: m.concurrency,
            concurrency_seen: m.concurrency_seen,
            ttft_ms: m.ttft_ms.into_sdk(),
            itl_ms: m.itl_ms.into_sdk(),
            samples: m.samples,
            failed_requests: m.failed_requests,
            input_tokens_per_second_per_gpu: m.input_tokens_per_second_per_gpu,
            output_tokens_per_second_per_gpu: m.output_tokens_per_second_per_gpu,
            kv_usage: m.kv_usage,
        };
        let history = sdk::History { facts, measurements, failures: sdk::History::empty().failures };
        (self.job.into_sdk(), demand, candidates, history)
    }
}

impl Job {
    fn new(job: &domain::Job) -> Self {
        Self {
            model: Model {
                name: job.model.name.clone(),
                layers: job.model.layers,
                hidden: job.model.hidden,
                heads: job.model.heads,
                kv_heads: job.model.kv_heads,
                max_context: job.max_context_tokens,
                weight_bytes: job.model.weight_bytes(),
                kv_bytes_per_token: job.model.kv_bytes_per_token(),
            },
            hardware: Hardware {
                gpu: job.hardware.gpu.name.clone(),
                gpu_memory_bytes: job.hardware.gpu.memory_bytes,
                gpus_per_node: job.hardware.gpus_per_node,
                total_gpus: job.hardware.total_gpus,
            },
            backend: job.backend.as_str().to_owned(),
            isl: job.workload.isl,
            osl: job.workload.osl,
            ttft_ms: job.sla.ttft_ms,
            itl_ms: job.sla.itl_ms,
            e2e_ms: job.sla.e2e_ms,
            quantile: job.sla.quantile,
            seed: job.seed,
        }
    }

    fn into_sdk(self) -> sdk::Job {
        let (model, hardware) = (self.model, self.hardware);
        sdk::Job {
            model: sdk::Model {
                name: model.name,
                layers: model.layers,
                hidden: model.hidden,
                heads: model.heads,
                kv_heads: model.kv_heads,
                experts: 0,
                experts_per_token: 0,
                max_context: model.max_context,
                weight_bytes: model.weight_bytes,
                kv_bytes_per_token: model.kv_bytes_per_token,
                extra: vec![],
            },
            hardware: sdk::Hardware {
                gpu: hardware.gpu,
                gpu_memory_bytes: hardware.gpu_memory_bytes,
                gpus_per_node: hardware.gpus_per_node,
                total_gpus: hardware.total_gpus,
                extra: vec![],
            },
            backend: self.backend,
            workload: sdk::Workload { isl: self.isl, osl: self.osl },
            sla: sdk::Sla { ttft_ms: self.ttft_ms, itl_ms: self.itl_ms, e2e_ms: self.e2e_ms, quantile: self.quantile },
            seed: self.seed,
            settings: vec![],
            extra: vec![],
        }
    }
}

impl Stats {
    fn new(rows: &[domain::Measurement], stat: fn(&domain::Measurement) -> Option<domain::Stat>) -> Self {
        let column = |value: fn(domain::Stat) -> f64| rows.iter().map(|m| stat(m).map_or(f64::NAN, value)).collect();
        Self {
            mean: column(|s| s.mean),
            p50: column(|s| s.p50),
            p90: column(|s| s.p90),
            p99: column(|s| s.p99),
            ci_low: column(|s| s.ci_low),
            ci_high: column(|s| s.ci_high),
            target: column(|s| s.target),
        }
    }

    fn into_sdk(self) -> sdk::StatColumns {
        let Self { mean, p50, p90, p99, ci_low, ci_high, target } = self;
        sdk::StatColumns { mean, p50, p90, p99, ci_low, ci_high, target }
    }
}

impl From<sdk::Selection> for Selection {
    fn from(selection: sdk::Selection) -> Self {
        let choice = |c: sdk::Choice| Choice {
            candidate: c.candidate,
            concurrency: c.concurrency,
            meets_sla: c.meets_sla,
            score: c.score,
            reason: c.reason,
            binding: c.binding,
        };
        Self {
            prefill: selection.prefill.into_iter().map(choice).collect(),
            decode: selection.decode.into_iter().map(choice).collect(),
            notes: selection.notes,
        }
    }
}

impl From<Selection> for domain::Selection {
    fn from(selection: Selection) -> Self {
        let choice = |c: Choice| domain::Choice {
            candidate: c.candidate,
            concurrency: c.concurrency,
            meets_sla: c.meets_sla,
            score: c.score,
            reason: c.reason,
            binding: c.binding,
        };
        Self {
            prefill: selection.prefill.into_iter().map(choice).collect(),
            decode: selection.decode.into_iter().map(choice).collect(),
            notes: selection.notes,
        }
    }
}
