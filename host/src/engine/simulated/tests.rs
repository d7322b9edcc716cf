use std::time::Instant;

use super::*;
use crate::domain::samples::{deepseek_v3, h100, h200, hardware, job, llama_8b_fp8, llama_70b_fp8, qwen3_235b};
use crate::domain::{Aim, Backend, Candidate, search_space};
use crate::engine::CheckLoad;

fn simulation() -> SimulationSpec {
    SimulationSpec {
        noise_cv: 0.03,
        model_error: 0.1,
        fault_rate: 0.0,
        passing_fault_rate: 0.0,
        load_bytes_per_second: 2e9,
        compile_s: 40.0,
        warmup_s: 10.0,
    }
}

/// Runs on a paused clock: virtual time.
fn virtually<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
}

fn launch_of(job: &Job, id: CandidateId, role: Role, mapping: Mapping) -> Launch {
    Launch { id, candidate: Candidate { role, mapping, prior: search_space::prior(job, role, &mapping) }, failed: 0 }
}

fn probe(isl: u32, osl: u32, concurrency: u32) -> Probe {
    Probe { candidate: 0, isl, osl, concurrency, relative_precision: 0.02, max_samples: 200 }
}

async fn measure_with(
    cluster: &SimulatedCluster,
    role: Role,
    mapping: Mapping,
    probe: Probe,
) -> Result<Measurement, Failure> {
    let launch = launch_of(&cluster.world.job, probe.candidate, role, mapping);
    let mut engine = cluster.launch(&launch).await?;
    let result = engine.measure(role, &probe, Aim::Value).await;
    engine.shutdown().await.unwrap();
    result
}

fn measure(job: &Job, role: Role, mapping: Mapping, probe: Probe) -> Result<Measurement, Failure> {
    virtually(measure_with(&SimulatedCluster::new(job, &simulation()), role, mapping, probe))
}

fn quiet(job: &Job, role: Role, mapping: Mapping, probe: Probe) -> Measurement {
    let simulation = SimulationSpec { noise_cv: 0.0, model_error: 0.0, ..simulation() };
    virtually(measure_with(&SimulatedCluster::new(job, &simulation), role, mapping, probe)).unwrap()
}

#[test]
fn without_noise_one_request_is_the_roofline() {
    let job = job(llama_8b_fp8(), hardware(h200(), 8));
    let mapping = Mapping::tensor(1);
    let roofline = Roofline::new(&job.model, &job.hardware, &mapping, job.backend);
    let m = quiet(&job, Role::Prefill, mapping, probe(3000, 150, 1));
    let ttft = m.ttft_ms.unwrap();
    assert!((ttft.mean / (1e3 * roofline.ttft_s(3000, 8192)) - 1.0).abs() < 0.01, "{ttft:?}");
    assert!(m.itl_ms.is_none());
    assert!((m.input_tokens_per_second_per_gpu / (3e6 / ttft.mean) - 1.0).abs() < 0.02, "{m:?}");
    let m = quiet(&job, Role::Decode, mapping, probe(3000, 150, 1));
    let step = roofline.decode_step(DecodeBatch { sequences: 1.0, context_tokens: 3075.0 });
    assert!((m.itl_ms.unwrap().mean / (1e3 * step.total_s()) - 1.0).abs() < 0.01, "{m:?}");
    assert!(m.ttft_ms.is_none());
}

#[test]
fn decode_points_report_what_ran_and_what_the_cache_held() {
    let job = job(llama_8b_fp8(), hardware(h200(), 8));
    let m = quiet(&job, Role::Decode, Mapping::tensor(1), probe(3000, 150, 128));
    assert_eq!(m.concurrency_seen, 128.0);
    assert!((m.kv_usage - m.kv_usage_nominal).abs() < 0.01, "{} {}", m.kv_usage, m.kv_usage_nominal);
    let itl = m.itl_ms.unwrap();
    assert!((m.output_tokens_per_second_per_gpu / (128e3 / itl.mean) - 1.0).abs() < 0.01);
}

#[test]
fn more_requests_than_the_engine_runs_are_not_reported_as_running() {
    let job = job(llama_8b_fp8(), hardware(h200(), 8));
    // 3600 tokens each: about 260 fit.
    let m = quiet(&job, Role::Decode, Mapping::tensor(1), probe(3500, 200, 1000));
    assert!((200.0..300.0).contains(&m.concurrency_seen), "{}", m.concurrency_seen);
    assert!(m.kv_usage > 0.9 && m.kv_usage <= 1.0, "{}", m.kv_usage);
    assert!(m.kv_usage_nominal > 3.0);
    // Short requests: the limit on running sequences binds.
    let m = quiet(&job, Role::Decode, Mapping::tensor(1), probe(50, 100, 1500));
    assert_eq!(m.concurrency_seen, 1024.0);
}

#[test]
fn prefill_requests_queue_behind_each_other() {
    let job = job(llama_8b_fp8(), hardware(h200(), 8));
    let one = quiet(&job, Role::Prefill, Mapping::tensor(1), probe(6000, 150, 1));
    let four = quiet(&job, Role::Prefill, Mapping::tensor(1), probe(6000, 150, 4));
    let ratio = four.ttft_ms.unwrap().mean / one.ttft_ms.unwrap().mean;
    assert!((3.0..4.1).contains(&ratio), "{ratio}");
    // The engine never waits for the client any more.
    assert!(four.input_tokens_per_second_per_gpu > 1.05 * one.input_tokens_per_second_per_gpu);
}

#[test]
fn attention_dp_ranks_prefill_side_by_side() {
    let job = job(deepseek_v3(), hardware(h200(), 8));
    let mapping = Mapping::data_expert(8);
    let one = quiet(&job, Role::Prefill, mapping, probe(3000, 150, 1));
    let eight = quiet(&job, Role::Prefill, mapping, probe(3000, 150, 8));
    assert!((eight.ttft_ms.unwrap().mean / one.ttft_ms.unwrap().mean - 1.0).abs() < 0.05);
    assert!((eight.input_tokens_per_second_per_gpu / one.input_tokens_per_second_per_gpu / 8.0 - 1.0).abs() < 0.05);
    assert_eq!(eight.concurrency_seen, 8.0);
}

#[test]
fn every_backend_measures_both_roles() {
    for backend in [Backend::Vllm, Backend::Sglang, Backend::Trtllm] {
        let mut job = job(qwen3_235b(), hardware(h200(), 8));
        job.backend = backend;
        for mapping in [Mapping::tensor_expert(4), Mapping::data_expert(8)] {
            let prefill = measure(&job, Role::Prefill, mapping, probe(9000, 150, 8)).unwrap();
            assert!(prefill.ttft_ms.unwrap().mean > 100.0, "{backend} {prefill:?}");
            let decode = measure(&job, Role::Decode, mapping, probe(3000, 150, 64)).unwrap();
            assert!((decode.concurrency_seen - 64.0).abs() < 1e-6, "{backend} {mapping} {decode:?}");
            assert!((decode.kv_usage / decode.kv_usage_nominal - 1.0).abs() < 0.2, "{backend} {mapping} {decode:?}");
        }
    }
}

#[test]
fn sampling_stops_at_the_precision_asked_for() {
    let job = job(llama_8b_fp8(), hardware(h200(), 8));
    for (role, point) in [(Role::Prefill, probe(2000, 100, 1)), (Role::Decode, probe(2000, 300, 16))] {
        let coarse = Probe { relative_precision: 0.2, ..point };
        let fine = Probe { relative_precision: 0.005, max_samples: 2000, ..point };
        let (coarse, fine) = (
            measure(&job, role, Mapping::tensor(1), coarse).unwrap(),
            measure(&job, role, Mapping::tensor(1), fine).unwrap(),
        );
        assert!(coarse.samples < fine.samples, "{role}: {} {}", coarse.samples, fine.samples);
        let stat = fine.ttft_ms.or(fine.itl_ms).unwrap();
        assert!((stat.ci_high - stat.ci_low) / 2.0 / stat.mean <= 0.005, "{stat:?}");
        let capped = measure(&job, role, Mapping::tensor(1), Probe { max_samples: 3, ..point }).unwrap();
        assert_eq!(capped.samples, 3);
    }
}

#[test]
fn short_answers_are_measured_over_several_waves() {
    let job = job(llama_8b_fp8(), hardware(h200(), 8));
    for osl in [2, 3, 6] {
        let exacting = Probe { relative_precision: 0.001, ..probe(500, osl, 8) };
        let m = measure(&job, Role::Decode, Mapping::tensor(1), exacting).unwrap();
        assert_eq!((m.samples, m.concurrency_seen), (200, 8.0), "osl {osl}");
    }
}

#[test]
fn measurements_do_not_depend_on_the_order_of_measuring() {
    let job = job(llama_8b_fp8(), hardware(h200(), 8));
    let points = [
        (Role::Prefill, Mapping::tensor(1), probe(3000, 150, 1)),
        (Role::Decode, Mapping::tensor(1), probe(3000, 150, 32)),
        (Role::Decode, Mapping::tensor(2), probe(3000, 150, 32)),
        (Role::Decode, Mapping::tensor(2), probe(3000, 150, 64)),
        (Role::Prefill, Mapping::tensor(4), probe(1000, 150, 2)),
    ];
    let run = |order: &[usize]| {
        let cluster = SimulatedCluster::new(&job, &simulation());
        let mut results = virtually(async {
            let mut results = Vec::new();
            for &index in order {
                let (role, mapping, probe) = points[index];
                results.push((index, measure_with(&cluster, role, mapping, probe).await.unwrap()));
            }
            results
        });
        results.sort_by_key(|(index, _)| *index);
        results
    };
    let forwards = run(&[0, 1, 2, 3, 4]);
    assert_eq!(forwards, run(&[4, 2, 0, 3, 1]));
    // One engine for both roles gives the same as two engines.
    let cluster = SimulatedCluster::new(&job, &simulation());
    let shared = virtually(async {
        let mut engine = cluster.launch(&launch_of(&job, 0, Role::Prefill, Mapping::tensor(1))).await.unwrap();
        let decode = engine.measure(Role::Decode, &points[1].2, Aim::Value).await.unwrap();
        (engine.measure(Role::Prefill, &points[0].2, Aim::Value).await.unwrap(), decode)
    });
    assert_eq!((&forwards[0].1, &forwards[1].1), (&shared.0, &shared.1));
}

#[test]
fn another_seed_gives_another_cluster_within_the_model_error() {
    let mut job = job(llama_8b_fp8(), hardware(h200(), 8));
    let exact = quiet(&job, Role::Decode, Mapping::tensor(1), probe(3000, 150, 32)).itl_ms.unwrap().mean;
    let ratios: Vec<f64> = (0..20)
        .map(|seed| {
            job.seed = seed;
            measure(&job, Role::Decode, Mapping::tensor(1), probe(3000, 150, 32)).unwrap().itl_ms.unwrap().mean / exact
        })
        .collect();
    assert!(ratios.iter().all(|r| (0.87..1.13).contains(r)), "{ratios:?}");
    let spread = ratios.iter().copied().fold(f64::MIN, f64::max) - ratios.iter().copied().fold(f64::MAX, f64::min);
    assert!(spread > 0.1, "{ratios:?}");
}

#[test]
fn launching_and_measuring_take_virtual_time_and_hold_gpus() {
    let job = job(llama_70b_fp8(), hardware(h100(), 8));
    let cluster = SimulatedCluster::new(&job, &simulation());
    virtually(async {
        let launch = launch_of(&job, 7, Role::Decode, Mapping::tensor(4));
        let start = tokio::time::Instant::now();
        let mut engine = cluster.launch(&launch).await.unwrap();
        let expected = cluster.expected_launch(&launch).as_secs_f64();
        let took = start.elapsed().as_secs_f64();
        assert!((took / expected - 1.0).abs() < 0.11, "{took} {expected}");
        assert!((engine.facts().launch_s - took).abs() < 0.01);
        assert_eq!(cluster.free_gpus(), 4);
        let probe = Probe { candidate: 7, ..probe(3000, 150, 64) };
        let before = start.elapsed().as_secs_f64();
        let m = engine.measure(Role::Decode, &probe, Aim::Value).await.unwrap();
        let took = start.elapsed().as_secs_f64() - before;
        assert!((took - m.duration_s).abs() < 0.01, "{took} {}", m.duration_s);
        let expected = cluster.expected_measure(&launch, &probe).as_secs_f64();
        assert!((0.4..2.5).contains(&(took / expected)), "{took} {expected}");
        engine.shutdown().await.unwrap();
        assert_eq!(cluster.free_gpus(), 8);
    });
}

#[test]
fn a_launch_beyond_the_gpus_fails_and_a_cancelled_one_leaves_nothing() {
    let job = job(llama_8b_fp8(), hardware(h100(), 8));
    let cluster = SimulatedCluster::new(&job, &simulation());
    virtually(async {
        let _held = cluster.launch(&launch_of(&job, 0, Role::Prefill, Mapping::tensor(8))).await.unwrap();
        let failure = cluster.launch(&launch_of(&job, 1, Role::Prefill, Mapping::tensor(1))).await.err().unwrap();
        assert_eq!(failure.class, FailureClass::Launch);
        assert_eq!(failure.reason, "prefill tp1: needs 1 GPUs, 0 of 8 are free");
        drop(_held);
        let launch = launch_of(&job, 1, Role::Prefill, Mapping::tensor(4));
        let cancelled = tokio::time::timeout(Duration::from_secs(1), cluster.launch(&launch)).await;
        assert!(cancelled.is_err());
        assert_eq!(cluster.free_gpus(), 8);
    });
}

#[test]
fn faults_are_failures_of_the_whole_engine_and_free_its_gpus() {
    let job = job(llama_8b_fp8(), hardware(h100(), 8));
    let cluster = SimulatedCluster::new(&job, &SimulationSpec { fault_rate: 1.0, ..simulation() });
    virtually(async {
        let failure = cluster.launch(&launch_of(&job, 3, Role::Decode, Mapping::tensor(2))).await.err().unwrap();
        assert_eq!((failure.candidate, failure.probe), (3, None));
        assert!(failure.reason.contains("simulated fault"), "{}", failure.reason);
        assert_eq!(cluster.free_gpus(), 8);
    });
}

#[test]
fn points_that_no_engine_would_take_are_failures_with_a_reason() {
    let job = job(llama_8b_fp8(), hardware(h100(), 8));
    let fail = |role, probe| measure(&job, role, Mapping::tensor(1), probe).unwrap_err();
    for (role, point, class, text) in [
        (Role::Prefill, probe(3000, 150, 0), FailureClass::Measurement, "concurrency must be at least 1"),
        (Role::Prefill, probe(0, 150, 1), FailureClass::Measurement, "input length"),
        (Role::Decode, probe(3000, 1, 1), FailureClass::Measurement, "at least two output tokens"),
        (Role::Prefill, probe(131_000, 150, 1), FailureClass::Measurement, "exceed the deployment's context of 131072"),
        (Role::Prefill, probe(100_000, 150, 100_000), FailureClass::Measurement, "more than the simulation takes"),
    ] {
        let failure = fail(role, point);
        assert_eq!(failure.class, class);
        assert_eq!(failure.probe, Some(point));
        assert!(failure.reason.contains(text), "{}", failure.reason);
    }
    let mut tight = job.clone();
    tight.hardware.gpu.memory_bytes = 15e9;
    let failure = measure(&tight, Role::Decode, Mapping::tensor(1), probe(30_000, 150, 1)).unwrap_err();
    assert_eq!(failure.class, FailureClass::DoesNotFit);
    assert!(failure.reason.contains("exceed the KV cache"), "{}", failure.reason);
    tight.hardware.gpu.memory_bytes = 10e9;
    let failure = measure(&tight, Role::Decode, Mapping::tensor(1), probe(100, 150, 1)).unwrap_err();
    assert_eq!((failure.class, failure.probe), (FailureClass::DoesNotFit, None));
}

fn worker(role: Role, mapping: Mapping, replicas: u32) -> Worker {
    Worker { component: role.to_string(), role, backend: Backend::Vllm, mapping, replicas }
}

fn check(job: &Job, workers: &[Worker], load: CheckLoad) -> crate::engine::CheckReport {
    let cluster = SimulatedCluster::new(job, &SimulationSpec { noise_cv: 0.0, model_error: 0.0, ..simulation() });
    virtually(async { cluster.deploy(workers).await.unwrap().check(&load).await.unwrap() })
}

#[test]
fn a_lightly_loaded_deployment_serves_at_the_roofline() {
    let job = job(llama_8b_fp8(), hardware(h200(), 8));
    let workers = [worker(Role::Prefill, Mapping::tensor(1), 1), worker(Role::Decode, Mapping::tensor(1), 1)];
    let load = CheckLoad { requests_per_second: 0.2, requests: 500, isl: 3000, osl: 150 };
    let report = check(&job, &workers, load);
    let roofline = Roofline::new(&job.model, &job.hardware, &Mapping::tensor(1), Backend::Vllm);
    let ttft = 1e3 * roofline.ttft_s(3000, 8192);
    // The transfer of 393 MB over 50 GB/s at 85 % takes 9 ms.
    assert!((report.ttft_ms.p50 - ttft - 9.3).abs() < 1.0, "{} {ttft}", report.ttft_ms.p50);
    let itl = 1e3 * roofline.decode_step(DecodeBatch { sequences: 1.0, context_tokens: 3075.0 }).total_s();
    assert!((report.itl_ms.p50 / itl - 1.0).abs() < 0.03, "{} {itl}", report.itl_ms.p50);
    assert!(report.meets_sla && report.slo_attainment > 0.9, "{report:?}");
    // The mean of 400 Poisson gaps is within 15 % but for one seed in 400.
    assert!((report.requests_per_second / 0.2 - 1.0).abs() < 0.15, "{}", report.requests_per_second);
}

#[test]
fn waiting_shows_in_ttft_before_the_prefill_engine_is_full_and_a_second_one_helps() {
    let job = job(llama_8b_fp8(), hardware(h200(), 8));
    let deployment =
        |prefill| [worker(Role::Prefill, Mapping::tensor(1), prefill), worker(Role::Decode, Mapping::tensor(1), 1)];
    // 3000 tokens take about 52 ms of the engine: 19 requests per second fill it.
    let load = |rate| CheckLoad { requests_per_second: rate, requests: 400, isl: 3000, osl: 20 };
    let (light, busy) = (check(&job, &deployment(1), load(2.0)), check(&job, &deployment(1), load(16.0)));
    assert!(busy.ttft_ms.mean > 1.5 * light.ttft_ms.mean, "{} {}", light.ttft_ms.mean, busy.ttft_ms.mean);
    assert!((busy.requests_per_second / 16.0 - 1.0).abs() < 0.15, "{}", busy.requests_per_second);
    let two = check(&job, &deployment(2), load(16.0));
    assert!(two.ttft_ms.mean < 0.8 * busy.ttft_ms.mean);
    let over = check(&job, &deployment(1), load(40.0));
    assert!(!over.meets_sla && over.slo_attainment < 0.5, "{over:?}");
    assert!((14.0..25.0).contains(&over.requests_per_second), "{}", over.requests_per_second);
}

#[test]
fn checks_are_repeatable_and_serve_data_parallel_engines() {
    let job = job(qwen3_235b(), hardware(h200(), 16));
    let workers =
        [worker(Role::Prefill, Mapping::tensor_expert(4), 1), worker(Role::Decode, Mapping::data_expert(8), 1)];
    let load = CheckLoad { requests_per_second: 3.0, requests: 60, isl: 2000, osl: 100 };
    let cluster = SimulatedCluster::new(&job, &simulation());
    let run = || virtually(async { cluster.deploy(&workers).await.unwrap().check(&load).await.unwrap() });
    let first = run();
    assert_eq!(first, run());
    assert_eq!(cluster.free_gpus(), 16);
    assert!((2.0..4.0).contains(&first.requests_per_second), "{first:?}");
}

#[test]
fn deployments_that_cannot_be_are_refused_with_a_reason() {
    let job = job(llama_8b_fp8(), hardware(h200(), 8));
    let cluster = SimulatedCluster::new(&job, &simulation());
    let refuse = |workers: &[Worker]| virtually(cluster.deploy(workers)).err().unwrap().to_string();
    let (prefill, decode) = (worker(Role::Prefill, Mapping::tensor(4), 1), worker(Role::Decode, Mapping::tensor(4), 2));
    assert!(refuse(std::slice::from_ref(&prefill)).contains("no decode worker"));
    assert!(refuse(&[prefill, decode]).contains("needs 12 GPUs, 8 of 8 are free"));
    assert_eq!(cluster.free_gpus(), 8);
    let load = CheckLoad { requests_per_second: 0.0, requests: 10, isl: 100, osl: 10 };
    let workers = [worker(Role::Prefill, Mapping::tensor(1), 1), worker(Role::Decode, Mapping::tensor(1), 1)];
    let error = virtually(async { cluster.deploy(&workers).await.unwrap().check(&load).await.unwrap_err() });
    assert!(error.to_string().contains("no load"), "{error}");
}

#[test]
fn a_deployment_without_workers_cannot_be_applied() {
    let cluster = SimulatedCluster::new(&job(llama_8b_fp8(), hardware(h200(), 8)), &simulation());
    let request = ApplyRequest { dgd: serde_json::json!({}), config_maps: Vec::new() };
    let error = virtually(cluster.apply(&request)).err().unwrap();
    assert!(matches!(error, ApplyError::Invalid(_)), "{error}");
}

#[test]
fn a_precision_out_of_reach_ends_all_the_same() {
    let job = job(llama_8b_fp8(), hardware(h200(), 8));
    let greedy = Probe { relative_precision: 0.0, max_samples: u32::MAX, ..probe(20, 50, 1) };
    for role in Role::ALL {
        assert_eq!(measure(&job, role, Mapping::tensor(1), greedy).unwrap().samples, 10_000);
    }
}

/// Not a test of speed: prints what points cost in real time. `cargo test -p sla-profiler points_cost -- --ignored --nocapture`
#[test]
#[ignore = "prints real times"]
fn points_cost_real_time() {
    let dense = job(llama_8b_fp8(), hardware(h200(), 8));
    let wide = job(deepseek_v3(), hardware(h200(), 64));
    for (job, role, mapping, point) in [
        (&dense, Role::Prefill, Mapping::tensor(1), probe(3000, 150, 1)),
        (&dense, Role::Prefill, Mapping::tensor(1), probe(130_000, 150, 1)),
        (&dense, Role::Prefill, Mapping::tensor(1), probe(3000, 150, 64)),
        (&dense, Role::Decode, Mapping::tensor(1), probe(3000, 150, 1)),
        (&dense, Role::Decode, Mapping::tensor(1), probe(3000, 150, 64)),
        (&dense, Role::Decode, Mapping::tensor(1), probe(3000, 150, 256)),
        (&dense, Role::Decode, Mapping::tensor(1), probe(350, 5000, 1024)),
        (&dense, Role::Decode, Mapping::tensor(1), probe(100_000, 20_000, 1000)),
        (&wide, Role::Decode, Mapping::data_expert(64), probe(3000, 150, 2000)),
        (&wide, Role::Prefill, Mapping::data_expert(32), probe(3000, 150, 32)),
    ] {
        let start = Instant::now();
        let m = measure(job, role, mapping, point).unwrap();
        let cost = start.elapsed().as_secs_f64();
        println!(
            "{role} {mapping} isl {} osl {} c {}: {:.1} ms real, {:.1} s virtual, {} samples",
            point.isl,
            point.osl,
            point.concurrency,
            1e3 * cost,
            m.duration_s,
            m.samples
        );
    }
    let workers = [worker(Role::Prefill, Mapping::tensor(1), 4), worker(Role::Decode, Mapping::tensor(1), 4)];
    let load = CheckLoad { requests_per_second: 40.0, requests: 500, isl: 3000, osl: 150 };
    let start = Instant::now();
    let report = check(&dense, &workers, load);
    println!("check of 500 requests: {:.1} ms real; {report:?}", 1e3 * start.elapsed().as_secs_f64());
}
