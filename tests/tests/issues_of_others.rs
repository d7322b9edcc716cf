//! What users filed against NVIDIA's profiler, planner and DGDR, one test for each: the name says which. Numbers are
//! those of github.com/ai-dynamo/dynamo unless a name says otherwise; what each is about stands above its test.
//!
//! Where the cause lies in pods, `kubernetes_engine.rs` plays it against a real API server as well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sla_profiler::dgd;
use sla_profiler::output::exit_code;
use sla_profiler_tests::kills::events;
use sla_profiler_tests::processes::Marked;
use sla_profiler_tests::recorded::{INFEASIBLE, QUICKSTART};
use sla_profiler_tests::runs::{expect, files, profile};
use sla_profiler_tests::{Said, run, sla_profiler};
use tempfile::TempDir;

/// A job on the simulated cluster, with more fields merged over it.
fn job(more: Value) -> String {
    let mut job = json!({
        "model": "Qwen/Qwen3-0.6B",
        "hardware": { "gpuSku": "h200_sxm", "numGpusPerNode": 8, "totalGpus": 8 },
        "workload": { "isl": 500, "osl": 50 },
        "sla": { "ttft": 500, "itl": 30 },
        "autoApply": false,
        "profiler": { "maxContextLength": 4096, "maxNumGpusPerEngine": 2 },
    });
    merge(&mut job, more);
    job.to_string()
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            more.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, more) => *into = more,
    }
}

struct Run {
    dir: TempDir,
    said: Said,
}

impl Run {
    fn of(code: u8, job: &str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let said = expect(code, profile(job, &dir.path().join("out"), flags));
        Self { dir, said }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.out().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn result(&self) -> Value {
        serde_json::from_str(&self.text("result.json")).unwrap()
    }

    fn deployment(&self) -> Value {
        dgd::deployment_in(&self.text("final_config.yaml")).unwrap()
    }

    fn events(&self, kind: &str) -> Vec<Value> {
        events(&self.out().join("journal.jsonl")).into_iter().filter(|(name, _)| name == kind).map(|e| e.1).collect()
    }
}

/// A job on engines of this machine, which are `tests/src/bin/engine.rs` with these flags.
fn local(prefill: &str, decode: &str, more: Value) -> (Run, Marked) {
    let engine = sla_profiler_tests::program().with_file_name("engine");
    let template = |flags: &str| {
        json!({
            "processes": [{
                "name": "worker",
                "command": format!("{} --port {{port}} --model {{served_name}} --speed 1 {flags}", engine.display()),
            }],
            "url": "http://127.0.0.1:{port}",
        })
    };
    let mut job = json!({
        "model": "Qwen/Qwen3-0.6B",
        "hardware": { "gpuSku": "h200_sxm", "numGpusPerNode": 2, "totalGpus": 2 },
        "workload": { "isl": 200, "osl": 20 },
        "sla": { "ttft": 200, "itl": 30 },
        "profiler": {
            "maxContextLength": 600,
            "maxNumGpusPerEngine": 1,
            "sweep": {
                "plugin": "sweep-grid",
                "settings": { "prefill-granularity": 3, "decode-granularity": 2, "samples": 8 },
            },
            "engines": {
                "maxClientShare": 100,
                "kvTokens": 20_000,
                "pointDeadlineS": 60,
                // An hour, as Dynamo's is: what is found out at once is not waited for.
                "launchDeadlineS": 3600,
                "local": { "prefill": template(prefill), "decode": template(decode), "graceS": 0.5 },
            },
        },
    });
    merge(&mut job, more);
    let (dir, mark) = (tempfile::tempdir().unwrap(), Marked::new());
    let job = job.to_string();
    let mut command = sla_profiler(["profile", "--cluster", "local", "--config", &job, "--out"]);
    command.arg(dir.path().join("out")).env_remove("CUDA_VISIBLE_DEVICES");
    mark.on(&mut command);
    let said = run(command);
    mark.nothing_is_left();
    (Run { dir, said }, mark)
}

const KV: &str = "--kv-tokens 20000";

fn failures(run: &Run) -> Vec<Value> {
    run.events("failed").into_iter().map(|event| event["failure"].clone()).collect()
}

// ------------------------------------------------------------------------------------------- the maintainers' group #8469

/// MoE models crashed while their curves were measured.
#[test]
fn dynamo_8273_curves_of_a_moe_model_are_measured() {
    for backend in ["vllm", "sglang"] {
        let wanted = job(json!({
            "model": "Qwen/Qwen3-30B-A3B", "backend": backend, "profiler": { "maxNumGpusPerEngine": 4 },
        }));
        let run = Run::of(exit_code::OK, &wanted, &[]);
        for curve in ["selected_prefill_interpolation", "selected_decode_interpolation"] {
            assert!(run.out().join(curve).join("raw_data.npz").exists(), "{backend}: {curve}");
        }
        let of_phase = |phase: &str| run.events("measured").iter().filter(|event| event["phase"] == phase).count();
        assert!(of_phase("prefill_interpolation") > 2 && of_phase("decode_interpolation") > 2, "{backend}");
    }
}

/// Names of pods became longer than the 45 characters that Grove admits, which was found out by the operator.
#[test]
fn dynamo_8480_and_8566_a_name_that_is_too_long_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let long = ["--name", "a-name-that-is-far-too-long-for-any-pod-of-dynamo-or-grove"];
    let said = expect(exit_code::INPUT, profile(&job(json!({})), &out, &long));
    assert!(said.err.contains("pods may have 45") && said.err.contains("shorten it by"), "{}", said.err);
    assert!(!out.exists());
}

/// The plan asked for more GPUs than there are, or than a node has: 50 of 32 (#8583), and pods that no node takes.
#[test]
fn dynamo_8567_and_8576_and_8583_no_answer_needs_more_gpus_than_there_are() {
    let wanted = job(json!({
        "model": "meta-llama/Llama-3.1-70B-Instruct",
        "hardware": { "numGpusPerNode": 4, "totalGpus": 12 },
        "workload": { "isl": 3000, "osl": 500, "requestRate": 500 },
        "profiler": { "maxNumGpusPerEngine": 8, "maxContextLength": 8192 },
    }));
    let run = Run::of(exit_code::OK, &wanted, &[]);
    let result = run.result();
    let gpus = |role: &str| {
        result["selected"][role]["gpus"].as_u64().unwrap()
            * result["plan"][format!("{role}_replicas")].as_u64().unwrap()
    };
    assert!(gpus("prefill") + gpus("decode") <= 12, "{}", result["plan"]);
    assert_eq!(result["plan"]["meets_demand"], false, "what cannot be served is said");
    assert!(run.said.out.contains("does not reach for the demand"), "{}", run.said.out);
    // A dense engine lies within one node.
    assert!(result["candidates"].as_array().unwrap().iter().all(|c| c["gpus"].as_u64().unwrap() <= 4));
}

/// The path of the weights within their volume was put in front of itself.
#[test]
fn dynamo_8568_the_path_of_the_weights_is_joined_once() {
    for path in ["hub/qwen", "/opt/model-cache/hub/qwen", "/hub/qwen"] {
        let wanted = job(json!({
            "modelCache": { "pvcName": "weights", "pvcModelPath": path, "pvcMountPath": "/opt/model-cache" },
        }));
        let deployment = Run::of(exit_code::OK, &wanted, &[]).deployment().to_string();
        assert!(deployment.contains("/opt/model-cache/hub/qwen"), "{path}: {deployment}");
        assert!(!deployment.contains("hub/qwen/") && !deployment.contains("cache/opt"), "{path}: {deployment}");
    }
}

/// Candidates of DeepSeek-R1 that do not fit were deployed and ran out of memory, one after the other.
#[test]
fn dynamo_8571_what_does_not_fit_is_not_deployed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let wanted = job(json!({
        "model": "deepseek-ai/DeepSeek-V3", "hardware": { "gpuSku": "h100_sxm" }, "profiler": { "maxNumGpusPerEngine": 8 },
    }));
    let said = expect(exit_code::NO_CANDIDATE, profile(&wanted, &out, &[]));
    assert!(said.err.contains("tep8: 85.0 GB of weights") && said.err.contains("exceed the usable"), "{}", said.err);
    assert!(said.err.contains("more GPUs"), "with a way out: {}", said.err);
    assert!(!out.exists(), "nothing was launched");
}

/// Mappings of a MoE model on TensorRT-LLM ended in a `NotImplementedError`.
#[test]
fn dynamo_8579_a_moe_model_on_tensorrt_llm_is_deployed_with_its_experts_spread() {
    let wanted = job(json!({
        "model": "Qwen/Qwen3-30B-A3B", "backend": "trtllm", "profiler": { "maxNumGpusPerEngine": 4 },
    }));
    let run = Run::of(exit_code::OK, &wanted, &[]);
    let configs: Vec<String> = files(&run.out()).into_keys().filter(|name| name.ends_with("config.yaml")).collect();
    let spread: Vec<&String> = configs.iter().filter(|name| name.contains("tep") || name.contains("dep")).collect();
    assert!(!spread.is_empty(), "{configs:?}");
    for name in spread {
        let text = run.text(name);
        assert!(text.contains("moe") || text.contains("expert"), "{name}: {text}");
    }
}

/// Decode benchmarking failed as a whole where some of its requests did.
#[test]
fn dynamo_8638_a_decode_point_that_fails_is_a_row_and_the_others_are_measured() {
    // Contexts above 220 tokens fail: those of the curve's far end.
    let (run, _mark) = local(KV, &format!("{KV} --longest-prompt 220"), json!({}));
    assert_eq!(run.said.code, 0, "{}", run.said.err);
    let failed = failures(&run);
    assert!(
        !failed.is_empty() && failed.iter().all(|failure| failure["probe"]["isl"].as_u64() > Some(220)),
        "{failed:?}"
    );
    assert!(failed.iter().all(|failure| failure["class"] == "measurement"), "the engine is fine: {failed:?}");
    let measured = run.events("measured");
    assert!(measured.iter().any(|event| event["phase"] == "decode_interpolation"));
}

// -------------------------------------------------------------------------------------------------------- fail fast

/// A candidate whose pod crashes again and again was waited for until its time-out, an hour. (On Kubernetes:
/// `engines_that_cannot_come_up_are_told_apart_with_a_remedy_and_leave_nothing`.)
#[test]
fn dynamo_9213_an_engine_that_crashes_while_it_loads_is_not_waited_for() {
    let (run, _mark) = local(KV, &format!("{KV} --die-loading"), json!({}));
    // With a deadline of an hour, that this test ends is what it tests.
    assert_eq!(run.said.code, i32::from(exit_code::NOTHING_MEASURED), "{}", run.said.err);
    let failed = failures(&run);
    assert_eq!(failed[0]["class"], "does-not-fit", "{failed:?}");
    assert!(failed[0]["reason"].as_str().unwrap().contains("CUDA out of memory"), "{failed:?}");
}

/// Each MoE candidate without enough memory cost an hour.
#[test]
fn dynamo_7027_a_moe_candidate_without_memory_is_named_and_the_others_are_measured() {
    let wanted = job(json!({
        "model": "deepseek-ai/DeepSeek-V3",
        "hardware": { "gpuSku": "h200_sxm", "totalGpus": 32 },
        "workload": { "isl": 3000, "osl": 150 },
        "sla": { "ttft": 5000, "itl": 100 },
        "profiler": { "maxNumGpusPerEngine": 16 },
    }));
    let dir = tempfile::tempdir().unwrap();
    let said = run(profile(&wanted, &dir.path().join("out"), &[]));
    let run = Run { dir, said };
    assert!([0, 10].contains(&run.said.code), "{}", run.said.err);
    let result = run.result();
    let without_memory: Vec<&str> = result["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|rejected| rejected["cause"] == "weights" || rejected["cause"] == "kv_cache")
        .filter_map(|rejected| rejected["reason"].as_str())
        .collect();
    assert!(!without_memory.is_empty() && !run.events("launched").is_empty());
    assert!(run.events("failed").is_empty(), "none of them was tried");
}

/// One failed measurement of a prefill engine ended the whole profile by an `assert`.
#[test]
fn dynamo_14322_a_failed_prefill_measurement_is_a_row_and_no_abort() {
    let (run, _mark) = local(&format!("{KV} --longest-prompt 350"), KV, json!({}));
    assert_eq!(run.said.code, 0, "{}", run.said.err);
    let failed = failures(&run);
    assert!(!failed.is_empty(), "else this tests nothing");
    assert!(failed[0]["reason"].as_str().unwrap().contains("500"), "{failed:?}");
    let table = run.text("measurements.csv");
    assert!(table.contains("prefill") && table.contains("decode"));
}

/// Errors while curves were measured were swallowed, and a deployment without data was written.
#[test]
fn dynamo_12118_no_deployment_is_written_without_data() {
    let (run, _mark) = local(KV, &format!("{KV} --fails-after 1"), json!({}));
    assert_eq!(run.said.code, i32::from(exit_code::NOTHING_MEASURED), "{}", run.said.err);
    assert!(run.said.err.contains("not one decode candidate could be measured"), "{}", run.said.err);
    for name in ["final_config.yaml", "config_with_planner.yaml", "result.json", "selected_decode_interpolation"] {
        assert!(!run.out().join(name).exists(), "{name} was written");
    }
    assert!(run.text("profiler_status.yaml").contains("failed"), "whoever waits is told");
}

/// Servers that do not know `ignore_eos` answered 400, and the warm-up's failure was ignored.
#[test]
fn dynamo_11629_a_server_that_refuses_ignore_eos_is_measured_without_it() {
    let (run, _mark) = local(&format!("{KV} --refuses ignore_eos"), &format!("{KV} --refuses ignore_eos"), json!({}));
    assert_eq!(run.said.code, 0, "{}", run.said.err);
    assert!(failures(&run).is_empty(), "{:?}", failures(&run));
    let measured = run.events("measured");
    assert!(measured.iter().all(|event| event["measurement"]["failed_requests"] == 0));
}

/// AIPerf ended with 0 although many requests were answered with 500. Its own case is in `aiperf.rs`.
#[test]
fn tensorrt_llm_17427_answers_of_500_make_no_measurement() {
    let (run, _mark) = local(&format!("{KV} --fails-after 1"), KV, json!({}));
    assert_eq!(run.said.code, i32::from(exit_code::NOTHING_MEASURED), "{}", run.said.err);
    let measured = run.events("measured");
    let prefill = measured.iter().filter(|event| event["phase"] == "prefill_sweep");
    assert_eq!(prefill.count(), 0, "half of the requests were answered, and no figure was made of them");
    assert!(failures(&run).iter().all(|failure| failure["reason"].as_str().unwrap().contains("500")));
}

// ------------------------------------------------------------------------------------------------- what engines say

/// Where the KV cache holds hardly more than one context, too few points were measured to draw anything.
#[test]
fn dynamo_2654_a_kv_cache_of_about_one_context_still_gives_curves() {
    let small = "--kv-tokens 1300";
    let (run, _mark) = local(small, small, json!({ "profiler": { "engines": { "kvTokens": 1300 } } }));
    assert_eq!(run.said.code, 0, "{}", run.said.err);
    let decode: Vec<Value> =
        run.events("measured").into_iter().filter(|event| !event["measurement"]["itl_ms"].is_null()).collect();
    let distinct = |name: &str| {
        let values = decode.iter().filter_map(|event| event["measurement"][name].as_u64());
        values.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert!(distinct("isl") >= 2 && distinct("concurrency") >= 2, "{decode:?}");
    for event in &decode {
        let m = &event["measurement"];
        let tokens = (m["isl"].as_f64().unwrap() + m["osl"].as_f64().unwrap()) * m["concurrency"].as_f64().unwrap();
        assert!(tokens <= 1300.0, "more than the cache holds was asked for: {m}");
    }
}

/// Names of services were taken for granted, so that a worker of another name had no log.
#[test]
fn dynamo_6112_a_worker_is_known_by_its_type_and_not_by_its_name() {
    let arguments = |worker: &str| {
        let deployment = json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "metadata": { "name": "d" },
            "spec": { "components": [
                { "name": "web", "type": "frontend", "podTemplate": { "spec": { "containers": [{ "name": "main" }] } } },
                { "name": worker, "type": "worker", "podTemplate": { "spec": { "containers": [
                    { "name": "main", "command": ["python3"], "args": ["-m", "dynamo.vllm", "--max-num-seqs", "48"] },
                ] } } },
            ] },
        });
        dgd::component_args(&deployment, |kind| kind != "frontend").unwrap_or_default()
    };
    for name in ["VllmDecodeWorker", "anything-at-all", "Frontend"] {
        assert!(arguments(name).contains(&"48".to_owned()), "{name}");
    }
}

// --------------------------------------------------------------------------------------------------- what is deployed

/// Weights on a volume were downloaded again, or the volume was not mounted.
#[test]
fn dynamo_5467_and_4980_weights_on_a_volume_are_mounted_in_every_worker() {
    let wanted = job(json!({ "modelCache": { "pvcName": "weights", "pvcModelPath": "hub/qwen" } }));
    let run = Run::of(exit_code::OK, &wanted, &[]);
    let measured: Value = serde_yaml::from_str(&run.text("decode_1gpus_tp1/config.yaml")).unwrap();
    for deployment in [run.deployment(), measured] {
        let components = deployment["spec"]["components"].as_array().unwrap();
        let workers = components.iter().filter(|component| component.to_string().contains("--model"));
        let mut count = 0;
        for worker in workers {
            count += 1;
            let text = worker.to_string();
            assert!(text.contains("\"weights\"") && text.contains("/opt/model-cache/hub/qwen"), "{text}");
        }
        assert!(count > 0, "{deployment}");
        assert!(deployment.to_string().contains("\"claimName\":\"weights\"") || deployment.to_string().contains("pvc"));
    }
}

/// Tolerations of the request got lost, and pods found no node.
#[test]
fn dynamo_6947_tolerations_reach_every_pod_that_is_measured_or_deployed() {
    let toleration = json!({ "key": "gpu-only", "operator": "Exists", "effect": "NoSchedule" });
    let wanted = job(json!({
        "overrides": { "profilingJob": { "template": { "spec": { "tolerations": [toleration], "containers": [] } } } },
    }));
    let run = Run::of(exit_code::OK, &wanted, &[]);
    let measured: Value = serde_yaml::from_str(&run.text("prefill_1gpus_tp1/config.yaml")).unwrap();
    for deployment in [run.deployment(), measured] {
        let components = deployment["spec"]["components"].as_array().unwrap();
        assert!(components.len() >= 2);
        for component in components {
            assert_eq!(component["podTemplate"]["spec"]["tolerations"], json!([toleration]), "{component}");
        }
    }
}

/// An SLA that nothing meets was relaxed according to the documents, and in fact ended without a word or a deployment.
#[test]
fn dynamo_12774_an_sla_that_nothing_meets_gives_the_least_bad_answer_and_says_so() {
    let text = std::fs::read_to_string(INFEASIBLE.path.join("result.json")).unwrap();
    let result: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(result["feasible"], false);
    assert_eq!(result["job"]["sla"]["itl_ms"], 1.0, "the target is the one that was asked for");
    let yaml = std::fs::read_to_string(INFEASIBLE.path.join("final_config.yaml")).unwrap();
    assert!(yaml.contains("does NOT meet the SLA"));
    let said = expect(exit_code::OK, sla_profiler(["explain", INFEASIBLE.arg()]));
    assert!(said.out.contains("nearest achievable"), "{}", said.out);
}

/// A kind of GPU that a list does not know could not be profiled at all.
#[test]
fn dynamo_10072_an_unknown_gpu_is_profiled_with_figures_of_its_own() {
    let unknown = job(json!({ "hardware": { "gpuSku": "NVIDIA A40" } }));
    let dir = tempfile::tempdir().unwrap();
    let said = expect(exit_code::INPUT, profile(&unknown, &dir.path().join("out"), &[]));
    assert!(said.err.contains("A40") && said.err.contains("profiler.gpu"), "{}", said.err);
    let known = job(json!({
        "hardware": { "gpuSku": "NVIDIA A40" },
        "profiler": { "gpu": {
            "name": "NVIDIA A40", "memory_bytes": 48.3e9, "bf16_flops": 149.7e12, "memory_bytes_per_second": 696e9,
            "link_bytes_per_second": 32e9, "network_bytes_per_second": 12.5e9, "gpus_per_node": 8, "source": "data sheet",
        } },
    }));
    let run = run(profile(&known, &dir.path().join("known"), &[]));
    assert!([0, 10].contains(&run.code), "{}", run.err);
}

/// Code of a model's repository was run without being asked for, or could not be asked for.
#[test]
fn dynamo_10106_remote_code_is_trusted_only_where_the_request_says_so() {
    let of = |more: Value| Run::of(exit_code::OK, &job(more), &[]).deployment().to_string();
    assert!(!of(json!({})).contains("trust-remote-code"));
    assert!(of(json!({ "overrides": { "trustRemoteCode": true } })).contains("--trust-remote-code"));
}

// --------------------------------------------------------------------------------------------------------- the planner

/// The plan of the recorded run at another rate: replicas of both roles, and whether it meets the SLA.
fn plan(rate: f64) -> (u64, u64, Value) {
    let rate = rate.to_string();
    let said =
        expect(exit_code::OK, sla_profiler(["--output", "json", "replay", QUICKSTART.arg(), "--request-rate", &rate]));
    let report: Value = serde_json::from_str(&said.out).unwrap();
    let replicas = |role: usize| report["replicas"][role]["after"].as_u64().unwrap();
    (replicas(0), replicas(1), report)
}

/// The planner went from 2 to 1 replicas and back while the load stayed the same.
#[test]
fn dynamo_9294_the_same_load_gives_the_same_plan_and_more_load_never_fewer_replicas() {
    let rates = [4.0, 8.0, 11.9, 12.0, 12.1, 16.0, 12.1, 12.0, 11.9, 8.0, 4.0];
    let plans: Vec<(u64, u64)> = rates.iter().map(|rate| plan(*rate)).map(|(p, d, _)| (p, d)).collect();
    let (up, down) = (&plans[..6], plans[5..].iter().rev().copied().collect::<Vec<_>>());
    assert_eq!(up, down, "what a load gets does not depend on what was before");
    assert!(up.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1), "{up:?}");
}

/// Replicas that still load were counted as if they served: how long an engine takes to come up has to be known.
#[test]
fn dynamo_8187_how_long_an_engine_takes_to_start_is_measured_and_part_of_the_result() {
    let text = std::fs::read_to_string(QUICKSTART.path.join("result.json")).unwrap();
    let result: Value = serde_json::from_str(&text).unwrap();
    for role in ["prefill", "decode"] {
        let id = result["selected"][role]["id"].as_u64().unwrap() as usize;
        let seconds = result["candidates"][id]["facts"]["launch_s"].as_f64().unwrap();
        assert!(seconds > 10.0, "{role}: {seconds}");
    }
}

/// Waiting was no part of the plan: engines that are busy all the time met the SLA on paper.
#[test]
fn dynamo_10528_waiting_is_part_of_what_a_plan_promises() {
    let text = std::fs::read_to_string(QUICKSTART.path.join("result.json")).unwrap();
    let result: Value = serde_json::from_str(&text).unwrap();
    let id = result["selected"]["prefill"]["id"].as_u64().unwrap() as usize;
    let alone = result["candidates"][id]["best"]["ttft_ms"]["target"].as_f64().unwrap();
    let planned = result["plan"]["expected_ttft_ms"].as_f64().unwrap();
    assert!(planned > alone * 1.01, "planned {planned} ms, one request alone {alone} ms");
    // And a plan is not filled to the brim.
    let rate = result["plan"]["capacity_requests_per_second"].as_f64().unwrap();
    assert!(rate > 20.0, "capacity for the demand of 20/s, with room for waiting: {rate}");
}

/// Milliseconds were compared with seconds.
#[test]
fn dynamo_2505_every_latency_and_duration_carries_its_unit_in_its_name() {
    let wanted = ["ttft", "itl", "e2e", "latency", "launch", "duration", "ready"];
    fn walk(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| walk(value, &format!("{path}/{name}"), found))
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, path, found)),
            Value::Number(_) => found.push(path.to_owned()),
            _ => {}
        }
    }
    let text = std::fs::read_to_string(QUICKSTART.path.join("result.json")).unwrap();
    let mut numbers = Vec::new();
    walk(&serde_json::from_str(&text).unwrap(), "", &mut numbers);
    let about_time: Vec<&String> =
        numbers.iter().filter(|path| wanted.iter().any(|word| path.contains(word))).collect();
    assert!(about_time.len() > 20, "{about_time:?}");
    for path in about_time {
        let units = ["_ms", "_s", "launches", "per_second"];
        assert!(path.split('/').any(|part| units.iter().any(|unit| part.ends_with(unit))), "{path} has no unit");
    }
    // A target in seconds is a thousandth of what was meant, and it is the latency itself that tells: nothing meets it.
    let seconds = job(json!({ "sla": { "ttft": 0.5, "itl": 0.03 } }));
    let run = Run::of(exit_code::INFEASIBLE, &seconds, &[]);
    assert_eq!(run.result()["feasible"], false);
    assert!(run.said.out.contains("ms"), "the answer says in which unit it compares: {}", run.said.out);
}

#[test]
fn the_list_of_issues_is_whole() {
    let source =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/issues_of_others.rs")).unwrap();
    let names: String = source.lines().filter(|line| line.starts_with("fn ")).collect();
    for issue in [
        8273, 8480, 8566, 8567, 8568, 8571, 8576, 8579, 8583, 8638, 9213, 7027, 14322, 12118, 11629, 17427, 2654, 6112,
        5467, 4980, 6947, 12774, 10072, 10106, 9294, 8187, 10528, 2505,
    ] {
        assert!(names.contains(&format!("_{issue}_")), "#{issue} has no test");
    }
}
