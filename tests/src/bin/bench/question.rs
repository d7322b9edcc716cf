//! The question that all sides of a comparison are asked, for the host and as the SDK has it.

use sla_profiler::domain::{Candidate, Demand, EngineFacts, History, Job, Role, Selection};
use sla_profiler::plugin::api::{Decided, SelectionPolicy};
use sla_profiler_plugin as sdk;
use sla_profiler_tests::fixtures;

/// [`fixtures::question`] for the host, and as the SDK has it.
pub struct Question {
    pub job: Job,
    pub candidates: Vec<Candidate>,
    pub history: History,
    pub native: (sdk::Job, sdk::Demand, sdk::Candidates, sdk::History),
}

impl Question {
    pub fn new(count: u32, total_gpus: u32, demand: Demand) -> Self {
        let (job, candidates, history) = fixtures::question(count, total_gpus, demand);
        let native = (sdk_job(&job), sdk_demand(demand), sdk_candidates(&candidates), sdk_history(&history));
        Self { job, candidates, history, native }
    }

    pub fn ask(&self, policy: &dyn SelectionPolicy) -> Decided<Selection> {
        policy.select(&self.job, &self.candidates, &self.history).expect("an answer")
    }
}

fn sdk_job(job: &Job) -> sdk::Job {
    sdk::Job {
        model: sdk::Model {
            name: job.model.name.clone(),
            layers: job.model.layers,
            hidden: job.model.hidden,
            heads: job.model.heads,
            kv_heads: job.model.kv_heads,
            experts: 0,
            experts_per_token: 0,
            max_context: job.max_context_tokens,
            weight_bytes: job.model.weight_bytes(),
            kv_bytes_per_token: job.model.kv_bytes_per_token(),
            extra: vec![],
        },
        hardware: sdk::Hardware {
            gpu: job.hardware.gpu.name.clone(),
            gpu_memory_bytes: job.hardware.gpu.memory_bytes,
            gpus_per_node: job.hardware.gpus_per_node,
            total_gpus: job.hardware.total_gpus,
            extra: vec![],
        },
        backend: job.backend.as_str().to_owned(),
        workload: sdk::Workload { isl: job.workload.isl, osl: job.workload.osl },
        sla: sdk::Sla {
            ttft_ms: job.sla.ttft_ms,
            itl_ms: job.sla.itl_ms,
            e2e_ms: job.sla.e2e_ms,
            quantile: job.sla.quantile,
        },
        seed: job.seed,
        settings: vec![],
        extra: vec![],
    }
}

const fn sdk_demand(demand: Demand) -> sdk::Demand {
    match demand {
        Demand::RequestsPerSecond(rate) => sdk::Demand::RequestsPerSecond(rate),
        Demand::Concurrency(requests) => sdk::Demand::Concurrency(requests),
        Demand::Budget => sdk::Demand::Budget,
    }
}

const fn sdk_role(role: Role) -> sdk::Role {
    match role {
        Role::Prefill => sdk::Role::Prefill,
        Role::Decode => sdk::Role::Decode,
    }
}

fn sdk_candidates(candidates: &[Candidate]) -> sdk::Candidates {
    let mut table = sdk::Candidates::empty();
    for candidate in candidates {
        let (mapping, prior) = (&candidate.mapping, &candidate.prior);
        table.push(sdk::Candidate {
            id: 0,
            role: sdk_role(candidate.role),
            label: &mapping.label(),
            gpus: candidate.gpus(),
            tp: mapping.tp,
            pp: mapping.pp,
            attention_dp: mapping.attention_dp,
            moe_tp: mapping.moe_tp,
            moe_ep: mapping.moe_ep,
            prior_latency_ms: Some(prior.latency_ms),
            prior_tokens_per_second_per_gpu: Some(prior.tokens_per_second_per_gpu),
            prior_relative_error: Some(prior.relative_error),
            prior_kv_tokens: Some(prior.kv_tokens),
        });
    }
    table
}

fn sdk_history(history: &History) -> sdk::History {
    let mut tables = sdk::History::empty();
    for &EngineFacts { candidate, kv_tokens, max_running, launch_s, .. } in &history.facts {
        tables.facts.push(sdk::Facts { candidate, kv_tokens, max_running, launch_seconds: launch_s });
    }
    let stat = |stat: sla_profiler::domain::Stat| sdk::Stat {
        mean: stat.mean,
        p50: stat.p50,
        p90: stat.p90,
        p99: stat.p99,
        ci_low: stat.ci_low,
        ci_high: stat.ci_high,
        target: stat.target,
    };
    for m in &history.measurements {
        tables.measurements.push(sdk::Measurement {
            candidate: m.candidate,
            isl: m.isl,
            osl: m.osl,
            concurrency: m.concurrency,
            concurrency_seen: m.concurrency_seen,
            ttft_ms: m.ttft_ms.map(stat),
            itl_ms: m.itl_ms.map(stat),
            samples: m.samples,
            failed_requests: m.failed_requests,
            input_tokens_per_second_per_gpu: m.input_tokens_per_second_per_gpu,
            output_tokens_per_second_per_gpu: m.output_tokens_per_second_per_gpu,
            kv_usage: m.kv_usage,
        });
    }
    tables
}
