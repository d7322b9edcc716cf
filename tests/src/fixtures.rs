//! A small job with four candidates, as plugins get to see it.

use sla_profiler::domain::candidate::Prior;
use sla_profiler::domain::{
    Backend, Candidate, Demand, Dtype, EngineFacts, GpuSku, Hardware, History, Job, Mapping, Measurement, Model, Role,
    Sla, Stat, Workload,
};

/// An 8B model on 8 GPUs; sequences up to 8192 tokens.
pub fn job() -> Job {
    Job {
        model: Model {
            name: "test/model-8b".into(),
            architecture: "LlamaForCausalLM".into(),
            layers: 32,
            hidden: 4096,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            intermediate: 14336,
            vocabulary: 128_256,
            tied_embeddings: false,
            max_context_tokens: 131_072,
            weight_dtype: Dtype::Bf16,
            kv_dtype: Dtype::Bf16,
            quant_block: None,
            moe: None,
            latent_attention: None,
            source: String::new(),
        },
        hardware: Hardware {
            gpu: GpuSku {
                name: "h200_sxm".into(),
                memory_bytes: 141e9,
                bf16_flops: 989e12,
                fp8_flops: Some(1979e12),
                fp4_flops: None,
                memory_bytes_per_second: 4.8e12,
                link_bytes_per_second: 450e9,
                network_bytes_per_second: 50e9,
                gpus_per_node: 8,
                source: String::new(),
            },
            gpus_per_node: 8,
            total_gpus: 8,
        },
        backend: Backend::Vllm,
        workload: Workload { isl: 3000, osl: 150 },
        sla: Sla { ttft_ms: Some(200.0), itl_ms: Some(20.0), e2e_ms: None, quantile: None },
        demand: Demand::RequestsPerSecond(5.0),
        max_context_tokens: 8192,
        seed: 1,
    }
}

/// Prefill on 1 and 2 GPUs (0, 1), decode on 1 and 2 GPUs (2, 3).
pub fn candidates() -> Vec<Candidate> {
    let of = |role| {
        [1, 2].map(|gpus| Candidate {
            role,
            mapping: Mapping::tensor(gpus),
            prior: Prior {
                latency_ms: 100.0 / f64::from(gpus),
                tokens_per_second_per_gpu: 5000.0,
                relative_error: 0.3,
                kv_tokens: 500_000.0,
            },
        })
    };
    Role::ALL.into_iter().flat_map(of).collect()
}

/// What the candidate's engine says of itself.
pub fn facts(candidate: u32) -> EngineFacts {
    EngineFacts { candidate, kv_tokens: 500_000, max_running: 256, launch_s: 60.0, kv_sources: Vec::new() }
}

/// A point of the candidate, measured.
pub fn measurement(candidate: u32, role: Role, isl: u32, concurrency: u32, latency_ms: f64) -> Measurement {
    let stat = Stat {
        mean: latency_ms,
        p50: latency_ms,
        p90: latency_ms,
        p99: latency_ms,
        ci_low: latency_ms * 0.99,
        ci_high: latency_ms * 1.01,
        target: latency_ms,
    };
    let rate = f64::from(concurrency) * 1000.0 / latency_ms;
    Measurement {
        candidate,
        isl,
        osl: 150,
        concurrency,
        concurrency_seen: f64::from(concurrency),
        ttft_ms: (role == Role::Prefill).then_some(stat),
        itl_ms: (role == Role::Decode).then_some(stat),
        samples: 30,
        failed_requests: 0,
        input_tokens_per_second_per_gpu: if role == Role::Prefill { rate * f64::from(isl) } else { 0.0 },
        output_tokens_per_second_per_gpu: rate,
        kv_usage: 0.1,
        kv_usage_nominal: 0.1,
        duration_s: 10.0,
    }
}

/// One point of each of [`candidates`].
pub fn history() -> History {
    let points = [(0, Role::Prefill, 150.0), (1, Role::Prefill, 90.0), (2, Role::Decode, 15.0), (3, Role::Decode, 9.0)];
    History {
        facts: points.iter().map(|(candidate, ..)| facts(*candidate)).collect(),
        measurements: points
            .iter()
            .map(|(candidate, role, latency_ms)| measurement(*candidate, *role, 3000, 1, *latency_ms))
            .collect(),
        failures: Vec::new(),
    }
}

/// A question with `count` candidates, half of them for each role, each measured: prefill at one point, decode at four.
pub fn question(count: u32, total_gpus: u32, demand: Demand) -> (Job, Vec<Candidate>, History) {
    let mut job = job();
    (job.hardware.total_gpus, job.demand) = (total_gpus, demand);
    let role = |id| if id < count / 2 { Role::Prefill } else { Role::Decode };
    let gpus = |id: u32| 1 << (id % 4);
    let prior = Prior { latency_ms: 50.0, tokens_per_second_per_gpu: 5e3, relative_error: 0.3, kv_tokens: 500_000.0 };
    let candidates: Vec<_> =
        (0..count).map(|id| Candidate { role: role(id), mapping: Mapping::tensor(gpus(id)), prior }).collect();
    let workload = job.workload;
    let points = (0..count).flat_map(|id| {
        // Larger engines are faster, by less than they are larger; no two candidates are alike.
        let faster = f64::from(gpus(id)).powf(0.7) / (1.0 + f64::from(id) / f64::from(count));
        let loads: &[u32] = if role(id) == Role::Prefill { &[1] } else { &[1, 16, 64, 128] };
        loads.iter().map(move |&load| {
            let alone_ms = if role(id) == Role::Prefill { 60.0 } else { 6.0 };
            let latency_ms = alone_ms / faster * (1.0 + f64::from(load - 1) / 64.0);
            let mut point = measurement(id, role(id), workload.isl, load, latency_ms);
            point.input_tokens_per_second_per_gpu /= f64::from(gpus(id));
            point.output_tokens_per_second_per_gpu /= f64::from(gpus(id));
            point
        })
    });
    let history = History { facts: (0..count).map(facts).collect(), measurements: points.collect(), failures: vec![] };
    (job, candidates, history)
}
