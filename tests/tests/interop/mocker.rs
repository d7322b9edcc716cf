//! Whole runs against Dynamo's frontend and mocker as processes of this machine, with either load generator.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sla_profiler::output::exit_code;
use sla_profiler::spec::LocalSpec;
use sla_profiler_tests::processes::Marked;
use sla_profiler_tests::runs::expect;
use sla_profiler_tests::{nvidia, sla_profiler};
use tempfile::TempDir;

/// KV capacity of the mockers in blocks of 16 tokens: ten requests of the job. The formula knows nothing of it.
const KV_BLOCKS: u32 = 140;

/// Requests that a mocker runs at once.
const MAX_RUNNING: u32 = 16;

/// The bundled template, with an engine that is small enough for two cores.
fn template() -> Value {
    let mut local = serde_json::to_value(LocalSpec::bundled("dynamo-mocker").unwrap()).unwrap();
    let small = |word: &Value| match word.as_str().unwrap() {
        "{kv_blocks}" => json!(KV_BLOCKS.to_string()),
        "{max_running}" => json!(MAX_RUNNING.to_string()),
        other => json!(other),
    };
    for process in local["any"]["processes"].as_array_mut().unwrap() {
        let words = process["command"].as_array().unwrap().iter().map(small).collect();
        process["command"] = Value::Array(words);
    }
    local["modelPath"] = json!(nvidia::tiny_model());
    local
}

/// One candidate for each role, and few points.
fn job() -> String {
    json!({
        "model": "Qwen/Qwen3-0.6B",
        "hardware": { "gpuSku": "h200_sxm", "numGpusPerNode": 2, "totalGpus": 2 },
        "workload": { "isl": 200, "osl": 20 },
        // What is tested is whether they understand each other, on whatever machine: no target is missed.
        "sla": { "ttft": 20000, "itl": 2000 },
        "features": { "planner": { "optimization_target": "sla" } },
        "autoApply": false,
        "profiler": {
            "maxContextLength": 600,
            "maxNumGpusPerEngine": 1,
            "sweep": {
                "plugin": "sweep-grid",
                "settings": { "prefill-granularity": 2, "decode-granularity": 2, "samples": 1 },
            },
            "engines": {
                // Whether the client keeps up on this machine is not what is tested.
                "maxClientShare": 100,
                "servedName": "tiny",
                "tokenizer": nvidia::tiny_model(),
                "kvTokens": KV_BLOCKS * 16,
                "launchDeadlineS": 120,
                "pointDeadlineS": 300,
                "local": template(),
            },
        },
    })
    .to_string()
}

/// What a run leaves in its directory, with nothing left running.
fn run(load: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (out, mark) = (folder.path().join("out"), Marked::new());
    let mut command = sla_profiler(["profile", "--cluster", "local", "--load", load, "--config", &job(), "--out"]);
    command.arg(&out).env_remove("CUDA_VISIBLE_DEVICES");
    // `python3` and `aiperf` of NVIDIA's environment; the frontend keeps model cards in the home directory.
    let own = nvidia::python().parent().unwrap().to_owned();
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [own].into_iter().chain(env::split_paths(&path));
    command.env("PATH", env::join_paths(folders).unwrap()).env("HOME", folder.path()).env("HF_HUB_OFFLINE", "1");
    mark.on(&mut command);
    expect(exit_code::OK, command);
    mark.nothing_is_left();
    (folder, out)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

/// What must be so whoever sends the requests.
fn check(out: &Path) {
    let result = read(&out.join("result.json"));
    assert_eq!((&result["cluster"], &result["feasible"]), (&json!("local"), &json!(true)));
    for candidate in result["candidates"].as_array().unwrap() {
        let facts = &candidate["facts"];
        assert_eq!(facts["kv_tokens"], KV_BLOCKS * 16, "by the frontend's metrics: {facts}");
        assert_eq!(facts["max_running"], MAX_RUNNING, "{facts}");
        assert_eq!(candidate["best"]["failed_requests"], 0, "{candidate}");
    }
    // The curves go back into the mocker, and into the planner's ConfigMap.
    for name in ["selected_prefill_interpolation/raw_data.npz", "selected_decode_interpolation/raw_data.npz"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let mut command = nvidia::script("load_profile.py");
    command.arg("--planner-only").arg(out);
    let said: Value = serde_json::from_str(&nvidia::expect(command, "").out).unwrap();
    for (role, columns) in [("prefill", 2), ("decode", 3)] {
        let points = said[role].as_array().unwrap();
        assert!(!points.is_empty() && points.iter().all(|point| point.as_array().unwrap().len() == columns), "{said}");
    }
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn a_whole_run_on_dynamos_mocker_with_the_builtin_generator() {
    let (_folder, out) = run("builtin");
    check(&out);
    let report = read(&out.join("decode_1gpus_tp1/load/decode_isl200_osl20_n1.json"));
    assert!(report["client"].is_object(), "it watches itself: {report}");
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn a_whole_run_on_dynamos_mocker_with_aiperf() {
    let (_folder, out) = run("aiperf");
    check(&out);
    let summary = read(&out.join("prefill_1gpus_tp1/aiperf_isl200/profile_export_aiperf.json"));
    let report = read(&out.join("prefill_1gpus_tp1/load/prefill_isl200_osl5_n1.json"));
    let (theirs, ours) = (&summary["time_to_first_token"]["avg"], &report["ttft_ms"]["stat"]["mean"]);
    let (theirs, ours) = (theirs.as_f64().unwrap(), ours.as_f64().unwrap());
    assert!((theirs - ours).abs() <= 1e-6 * theirs, "theirs {theirs}, ours {ours}");
    assert!(out.join("decode_1gpus_tp1/aiperf_request10_isl200_osl20_n10/profile_export.jsonl").is_file());
}
