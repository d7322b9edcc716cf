use proptest::prelude::*;

use super::*;
use crate::domain::{
    Backend, Demand, Dtype, GpuSku, Hardware, Model, Sla, Workload, candidate::Prior, measurement::Measurement,
};

fn job() -> Job {
    Job {
        model: Model {
            name: "meta-llama/Llama-3.1-70B-Instruct".to_owned(),
            architecture: "LlamaForCausalLM".to_owned(),
            layers: 80,
            hidden: 8192,
            heads: 64,
            kv_heads: 8,
            head_dim: 128,
            intermediate: 28_672,
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
                name: "h200_sxm".to_owned(),
                memory_bytes: 141e9,
                bf16_flops: 989e12,
                fp8_flops: None,
                fp4_flops: None,
                memory_bytes_per_second: 4.8e12,
                link_bytes_per_second: 450e9,
                network_bytes_per_second: 50e9,
                gpus_per_node: 8,
                source: String::new(),
            },
            gpus_per_node: 8,
            total_gpus: 16,
        },
        backend: Backend::Vllm,
        workload: Workload { isl: 3000, osl: 150 },
        sla: Sla { ttft_ms: Some(200.0), itl_ms: Some(20.0), e2e_ms: None, quantile: None },
        demand: Demand::Budget,
        max_context_tokens: 16_384,
        seed: 1,
    }
}

fn candidate(role: Role, mapping: Mapping) -> Candidate {
    let prior = Prior { latency_ms: 1.0, tokens_per_second_per_gpu: 1.0, relative_error: 0.0, kv_tokens: 1.0 };
    Candidate { role, mapping, prior }
}

fn stat(mean: f64, relative: f64) -> Stat {
    let (ci_low, ci_high) = (mean * (1.0 - relative), mean * (1.0 + relative));
    Stat { mean, p50: mean, p90: mean * 1.1, p99: mean * 1.3, ci_low, ci_high, target: mean }
}

fn measurement(id: CandidateId, isl: u32, osl: u32, concurrency: u32) -> Measurement {
    Measurement {
        candidate: id,
        isl,
        osl,
        concurrency,
        concurrency_seen: f64::from(concurrency),
        ttft_ms: None,
        itl_ms: None,
        samples: 20,
        failed_requests: 0,
        input_tokens_per_second_per_gpu: 0.0,
        output_tokens_per_second_per_gpu: 0.0,
        kv_usage: 0.0,
        kv_usage_nominal: 0.0,
        duration_s: 1.0,
    }
}

fn prefill(id: CandidateId, isl: u32, gpus: u32, ttft_ms: f64) -> Measurement {
    Measurement {
        ttft_ms: Some(stat(ttft_ms, 0.02)),
        input_tokens_per_second_per_gpu: f64::from(isl) * 1000.0 / ttft_ms / f64::from(gpus),
        ..measurement(id, isl, 5, 1)
    }
}

fn decode(
    id: CandidateId,
    (isl, osl): (u32, u32),
    gpus: u32,
    concurrency: u32,
    itl_ms: f64,
    kv_usage: f64,
) -> Measurement {
    Measurement {
        itl_ms: Some(stat(itl_ms, 0.01)),
        output_tokens_per_second_per_gpu: f64::from(concurrency) * 1000.0 / itl_ms / f64::from(gpus),
        kv_usage,
        kv_usage_nominal: kv_usage,
        ..measurement(id, isl, osl, concurrency)
    }
}

struct World {
    candidates: Vec<Candidate>,
    prefill: Vec<Measurement>,
    decode: Vec<Measurement>,
}

/// A dense 70B as it might be measured.
fn world() -> World {
    let gpus = [2, 4, 8];
    let of = |role| gpus.map(|n| candidate(role, Mapping::tensor(n)));
    let candidates = [of(Role::Prefill), of(Role::Decode)].concat();
    let ttft = |n: u32| 22.0 + 640.0 / f64::from(n).powf(0.82);
    let prefill = gpus.iter().zip(0..).map(|(n, id)| prefill(id, 3000, *n, ttft(*n))).collect();
    let decode = gpus
        .iter()
        .zip(3..)
        .flat_map(|(n, id)| {
            let n = *n;
            let kv = 140_000.0 * f64::from(n);
            [1, 4, 8, 16, 32, 64, 96, 128, 192, 256].into_iter().filter_map(move |c| {
                let usage = f64::from(c) * 3075.0 / kv;
                let itl = 3.0 + 36.0 / f64::from(n) + 0.19 * f64::from(c) / f64::from(n).powf(0.7);
                (usage < 0.97).then(|| self::decode(id, (3000, 150), n, c, itl, usage))
            })
        })
        .collect();
    World { candidates, prefill, decode }
}

impl World {
    fn samples<'a>(&'a self, measurements: &'a [Measurement]) -> Vec<Sample<'a>> {
        measurements
            .iter()
            .map(|m| Sample { candidate: &self.candidates[m.candidate as usize], measurement: m })
            .collect()
    }
}

/// A MoE with many mappings.
fn moe_world() -> World {
    let sizes = [8, 16, 32];
    let mappings: Vec<Mapping> =
        sizes.iter().flat_map(|n| [Mapping::tensor_expert(*n), Mapping::data_expert(*n)]).collect();
    let of = |role| mappings.iter().map(move |m| candidate(role, *m));
    let candidates: Vec<_> = of(Role::Prefill).chain(of(Role::Decode)).collect();
    let n = mappings.len() as u32;
    let prefill = mappings
        .iter()
        .zip(0..)
        .map(|(m, id)| {
            let penalty = if m.attention_dp > 1 { 1.6 } else { 1.0 };
            prefill(id, 3000, m.gpus(), penalty * (60.0 + 1500.0 / f64::from(m.gpus()).powf(0.9)))
        })
        .collect();
    let decode = mappings
        .iter()
        .zip(n..)
        .flat_map(|(m, id)| {
            let m = *m;
            [8, 32, 64, 128, 256, 512, 1024, 2048].into_iter().map(move |c| {
                let slope = if m.attention_dp > 1 { 0.16 } else { 0.3 };
                let base = if m.attention_dp > 1 { 9.0 } else { 7.0 };
                let knee = if c > 1024 && m.gpus() < 16 { 9.0 } else { 1.0 };
                let itl = (base + slope * f64::from(c) / f64::from(m.gpus()).powf(0.85)) * knee;
                self::decode(id, (3000, 150), m.gpus(), c, itl, 0.5)
            })
        })
        .collect();
    World { candidates, prefill, decode }
}

fn tables() -> (PrefillTable, DecodeTable) {
    let prefill_points: Vec<_> = [100, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 10_000, 12_000, 14_000, 16_000]
        .into_iter()
        .map(|isl: u32| {
            let x = f64::from(isl);
            let wobble = 1.0 + 0.03 * (x * 0.37).sin();
            prefill(1, isl, 4, (21.0 + 0.041 * x + 9e-7 * x * x) * wobble)
        })
        .collect();
    let decode_points: Vec<_> = [100, 2000, 4000, 7000, 10_000, 15_000]
        .into_iter()
        .flat_map(|isl: u32| {
            let context = f64::from(isl) + 250.0;
            [1, 8, 32, 64, 96, 128, 192, 256].into_iter().filter_map(move |c| {
                let usage = f64::from(c) * context / 560_000.0;
                let itl = 11.0 + 0.06 * f64::from(c) + 14.0 * usage + 6.0 * usage.powi(4);
                (usage < 0.98).then(|| decode(4, (isl, 500), 4, c, itl, usage))
            })
        })
        .collect();
    (PrefillTable::new(&prefill_points), DecodeTable::new(&decode_points, 560_000))
}

fn choice(candidate: CandidateId, concurrency: u32) -> Choice {
    let (reason, binding) = (String::new(), String::new());
    Choice { candidate, concurrency, meets_sla: true, score: 1.0, reason, binding }
}

/// Every picture of a realistic run.
fn figures() -> Vec<(&'static str, Figure)> {
    let (job, world, moe) = (job(), world(), moe_world());
    let (prefill_table, decode_table) = tables();
    let (p, d) = (choice(2, 1), choice(4, 96));
    let operating = world.decode.iter().find(|m| m.candidate == 4 && m.concurrency == 96);
    let (prefills, decodes) = (world.samples(&world.prefill), world.samples(&world.decode));
    let mut moe_job = job.clone();
    moe_job.model.name = "deepseek-ai/DeepSeek-V3".to_owned();
    moe_job.hardware.total_gpus = 64;
    moe_job.sla.quantile = Some(0.95);
    let (moe_prefills, moe_decodes) = (moe.samples(&moe.prefill), moe.samples(&moe.decode));
    vec![
        ("prefill_performance", prefill_performance(&job, &prefills, Some(&p))),
        ("decode_performance", decode_performance(&job, &decodes, Some(&d))),
        ("prefill_performance_moe", prefill_performance(&moe_job, &moe_prefills, Some(&choice(2, 1)))),
        ("decode_performance_moe", decode_performance(&moe_job, &moe_decodes, Some(&choice(9, 512)))),
        ("prefill_ttft_interpolation", prefill_ttft_interpolation(&job, &world.candidates[1], &prefill_table)),
        (
            "prefill_throughput_interpolation",
            prefill_throughput_interpolation(&job, &world.candidates[1], &prefill_table),
        ),
        ("decode_itl_interpolation", decode_itl_interpolation(&job, &world.candidates[4], &decode_table, operating)),
        (
            "decode_throughput_interpolation",
            decode_throughput_interpolation(&job, &world.candidates[4], &decode_table, operating),
        ),
        ("cost_sla", cost_sla(&job, &prefills, &decodes, Some((&p, &d)))),
        ("cost_sla_moe", cost_sla(&moe_job, &moe_prefills, &moe_decodes, Some((&choice(2, 1), &choice(9, 512))))),
    ]
}

/// `SLA_PROFILER_PLOTS=folder` keeps the pictures, to be looked at.
#[test]
fn a_realistic_run_gives_pictures_of_the_promised_size() {
    for (name, figure) in figures() {
        let png = figure.png().unwrap();
        let reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
        assert_eq!((reader.info().width, reader.info().height), canvas::SIZE, "{name}");
        assert!(figure.svg().unwrap().contains("</svg>"), "{name}");
        if let Some(folder) = std::env::var_os("SLA_PROFILER_PLOTS") {
            let path = std::path::Path::new(&folder).join(name);
            std::fs::write(path.with_extension("png"), png).unwrap();
            std::fs::write(path.with_extension("svg"), figure.svg().unwrap()).unwrap();
        }
    }
}

fn assert_apart(name: &str, figure: &Figure) {
    let boxes = figure.text_boxes();
    for (i, a) in boxes.iter().enumerate() {
        for b in boxes.iter().skip(i + 1) {
            assert!(!a.intersects(b), "{name}: {a:?} and {b:?}");
        }
    }
}

#[test]
fn no_text_covers_another_and_the_chosen_point_is_named() {
    for (name, figure) in figures() {
        assert_apart(name, &figure);
        let chosen: Vec<_> = figure.series.iter().flat_map(|s| &s.points).filter(|p| p.chosen).collect();
        let curve = name.starts_with("prefill_t");
        assert_eq!(chosen.len(), usize::from(!curve), "{name}");
        let texts = figure.text_boxes().len();
        assert!(texts >= chosen.len() + figure.limits.len(), "{name}: {texts} texts");
    }
}

#[test]
fn costs_are_gpu_hours_of_both_halves() {
    let (job, world) = (job(), world());
    let prefill = [prefill(0, 3000, 1, 100.0)];
    let decode = [decode(3, (3000, 150), 1, 10, 20.0, 0.1)];
    let figure = cost_sla(&job, &world.samples(&prefill), &world.samples(&decode), None);
    let point = &figure.series[0].points[0];
    // 3000 tokens at 30,000 tokens/s/GPU and 150 at 500 tokens/s/GPU: 0.1 s + 0.3 s of a GPU.
    assert!((point.y - 400.0 / 3600.0).abs() < 1e-9, "{}", point.y);
    assert!((point.x - 50.0).abs() < 1e-9);
}

#[test]
fn pictures_without_data_say_so() {
    let (job, world) = (job(), world());
    let nothing = [
        prefill_performance(&job, &[], None),
        decode_performance(&job, &[], None),
        prefill_ttft_interpolation(&job, &world.candidates[0], &PrefillTable::default()),
        prefill_throughput_interpolation(&job, &world.candidates[0], &PrefillTable::default()),
        decode_itl_interpolation(&job, &world.candidates[3], &DecodeTable::default(), None),
        decode_throughput_interpolation(&job, &world.candidates[3], &DecodeTable::default(), None),
        cost_sla(&job, &[], &[], None),
    ];
    for figure in nothing {
        assert!(figure.svg().unwrap().contains("Nothing was measured"));
        assert!(!figure.png().unwrap().is_empty());
    }
}

fn odd() -> impl Strategy<Value = f64> {
    prop_oneof![
        proptest::num::f64::ANY,
        proptest::sample::select(vec![0.0, -1.0, 1.0, 1.0, 1e300, 1e-300, f64::NAN, f64::INFINITY]),
        0.1..1000.0,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn odd_data_never_panic_and_texts_stay_apart(
        figures in proptest::collection::vec((0u32..3, any::<u32>(), any::<u32>(), odd(), odd(), odd()), 0..12),
        targets in (odd(), odd()),
        seen in any::<bool>(),
    ) {
        let (mut job, world) = (job(), world());
        job.sla.ttft_ms = Some(targets.0);
        job.sla.itl_ms = Some(targets.1);
        let odd_stat = |v: f64, w: f64| Stat { mean: v, p50: v, p90: v, p99: v, ci_low: w, ci_high: v, target: v };
        let make = |offset: u32| -> Vec<Measurement> {
            figures
                .iter()
                .map(|(id, isl, concurrency, latency, rate, usage)| Measurement {
                    ttft_ms: (offset == 0).then(|| odd_stat(*latency, *usage)),
                    itl_ms: (offset > 0).then(|| odd_stat(*latency, *usage)),
                    input_tokens_per_second_per_gpu: *rate,
                    output_tokens_per_second_per_gpu: *rate,
                    kv_usage: *usage,
                    ..measurement(id + offset, *isl, 500, *concurrency)
                })
                .collect()
        };
        let (prefill, decode) = (make(0), make(3));
        let chosen = prefill.first().map(|m| choice(m.candidate, m.concurrency));
        let chosen_decode = decode.first().filter(|_| seen);
        let decode_choice = chosen_decode.map(|m| choice(m.candidate, m.concurrency));
        let (prefill_table, decode_table) = (PrefillTable::new(&prefill), DecodeTable::new(&decode, 1000));
        let (prefills, decodes) = (world.samples(&prefill), world.samples(&decode));
        let all = [
            prefill_performance(&job, &prefills, chosen.as_ref()),
            decode_performance(&job, &decodes, decode_choice.as_ref()),
            prefill_ttft_interpolation(&job, &world.candidates[0], &prefill_table),
            prefill_throughput_interpolation(&job, &world.candidates[0], &prefill_table),
            decode_itl_interpolation(&job, &world.candidates[3], &decode_table, chosen_decode),
            decode_throughput_interpolation(&job, &world.candidates[3], &decode_table, chosen_decode),
            cost_sla(&job, &prefills, &decodes, chosen.as_ref().zip(decode_choice.as_ref())),
        ];
        for figure in all {
            assert_apart("odd", &figure);
            prop_assert!(figure.svg().is_ok());
        }
    }
}

#[test]
fn odd_data_can_be_drawn_as_png_too() {
    let (mut job, world) = (job(), world());
    for (latency, rate) in [(0.0, 0.0), (1e300, 1e-300), (5.0, 5.0), (-1.0, f64::NAN)] {
        job.sla.ttft_ms = Some(latency);
        let odd: Vec<_> = (0..3)
            .map(|id| Measurement { input_tokens_per_second_per_gpu: rate, ..prefill(id, 3000, 1, latency) })
            .collect();
        assert!(prefill_performance(&job, &world.samples(&odd), None).png().is_ok());
    }
}
