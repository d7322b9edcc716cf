//! Whole runs: the same seed gives the same bytes, every artifact is there, every plugin can decide, and a plugin that
//! fails costs no result.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use sla_profiler::output::exit_code;
use sla_profiler::plugin::api::Kind;
use sla_profiler_tests::guests;
use sla_profiler_tests::runs::{QUICKSTART, SMALL, assert_same_findings, expect, files, profile, python, validate};
use tempfile::TempDir;

fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// One run of the quickstart for all tests that only look.
fn quickstart() -> &'static Path {
    static RUN: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, out) = RUN.get_or_init(|| {
        let dir = temp();
        let out = dir.path().join("out");
        expect(exit_code::OK, profile(QUICKSTART, &out, &[]));
        (dir, out)
    });
    out
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn result(out: &Path) -> Value {
    json(&out.join("result.json"))
}

fn journal(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join("journal.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let dir = temp();
    expect(exit_code::OK, profile(QUICKSTART, &dir.path().join("again"), &[]));
    assert_same_findings(quickstart(), &dir.path().join("again"));
}

#[test]
fn another_seed_gives_other_figures_in_the_same_form() {
    let dir = temp();
    expect(exit_code::OK, profile(QUICKSTART, dir.path(), &["--seed", "7"]));
    let (one, other) = (result(quickstart()), result(dir.path()));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&one), keys(&other));
    assert_ne!(one["candidates"][0]["best"]["ttft_ms"], other["candidates"][0]["best"]["ttft_ms"]);
    assert_ne!(one["cost"], other["cost"]);
}

#[test]
fn what_an_earlier_run_measured_is_the_prior_of_the_next_and_a_table_of_others_is_refused() {
    let dir = temp();
    let measured = quickstart().join("measurements.csv");
    expect(exit_code::OK, profile(QUICKSTART, dir.path(), &["--priors", measured.to_str().unwrap()]));
    let prior = |out: &Path, name: &str| {
        let started = journal(out)[0]["event"]["run_started"].clone();
        let candidates = started["candidates"].as_array().unwrap();
        let named = |c: &&Value| c["role"] == "prefill" && c["mapping"]["tp"] == name.parse::<u32>().unwrap();
        candidates.iter().find(named).unwrap()["prior"]["latency_ms"].as_f64().unwrap()
    };
    let best = result(quickstart())["candidates"][0]["best"]["ttft_ms"]["mean"].as_f64().unwrap();
    assert!((prior(dir.path(), "1") / best - 1.0).abs() < 0.01, "{} for {best}", prior(dir.path(), "1"));
    assert_ne!(prior(dir.path(), "1"), prior(quickstart(), "1"));
    // It was not measured, so nothing is known of it.
    assert_eq!(prior(dir.path(), "8"), prior(quickstart(), "8"));

    let others = dir.path().join("others.csv");
    std::fs::write(&others, "role,mapping,latency_ms\ndecode,tp64,3\n").unwrap();
    let out = dir.path().join("none");
    let said = expect(exit_code::USAGE, profile(QUICKSTART, &out, &["--priors", others.to_str().unwrap()]));
    assert!(
        said.err.contains("knows none of this job's candidates") && said.err.contains("decode tp4"),
        "{}",
        said.err
    );
}

#[test]
fn result_and_journal_fit_their_published_schemas() {
    let text = result(quickstart()).to_string();
    validate("result.schema.json", &text).unwrap();
    let wrong = text.replacen("\"verdict\":\"selected\"", "\"verdict\":\"chosen\"", 1);
    assert_ne!(text, wrong);
    validate("result.schema.json", &wrong).expect_err("a verdict that the schema does not know");

    // Without the checksum, which is the line's and not the record's.
    let records: Vec<String> = journal(quickstart())
        .into_iter()
        .map(|mut record| {
            record.as_object_mut().unwrap().remove("sum").expect("every line has one");
            record.to_string()
        })
        .collect();
    assert!(records.len() > 100);
    validate("journal.schema.json", &records.join("\n")).unwrap();
    validate("journal.schema.json", "{\"seq\": 0, \"at_s\": 0.0, \"event\": \"nothing\"}").expect_err("no such event");
}

#[test]
fn all_artifacts_are_there_and_hold_something() {
    let files = files(quickstart());
    let of = |name: &str| files.get(name).unwrap_or_else(|| panic!("{name} is missing of {:?}", files.keys()));
    for name in [
        "prefill_performance.png",
        "decode_performance.png",
        "cost_sla.png",
        "selected_prefill_interpolation/prefill_ttft_interpolation.png",
        "selected_prefill_interpolation/prefill_throughput_interpolation.png",
        "selected_decode_interpolation/decode_itl_interpolation.png",
        "selected_decode_interpolation/decode_throughput_interpolation.png",
    ] {
        assert!(of(name).starts_with(b"\x89PNG\r\n\x1a\n"), "{name}");
        assert!(of(name).len() > 20_000, "{name} is {} bytes", of(name).len());
    }
    for name in ["selected_prefill_interpolation/raw_data.npz", "selected_decode_interpolation/raw_data.npz"] {
        assert!(of(name).starts_with(b"PK\x03\x04"), "{name}");
    }
    for name in ["config_with_planner.yaml", "mocker_config_with_planner.yaml", "final_config.yaml"] {
        let text = String::from_utf8(of(name).clone()).unwrap();
        assert!(text.contains("kind: DynamoGraphDeployment\n") && text.contains("kind: ConfigMap\n"), "{name}");
    }
    // Of each candidate that was measured; the strategy leaves out those that cannot win.
    let measured: BTreeSet<&str> =
        files.keys().filter_map(|name| name.split_once("gpus_tp").map(|_| name.split('/').next().unwrap())).collect();
    for role in ["prefill", "decode"] {
        let folders = measured.iter().filter(|folder| folder.starts_with(role));
        assert!(folders.clone().count() >= 2, "{measured:?}");
        for folder in folders {
            for file in ["config.yaml", "measurements.json", "engine.log"] {
                assert!(of(&format!("{folder}/{file}")).len() > 100);
            }
        }
    }
    let csv = String::from_utf8(of("measurements.csv").clone()).unwrap();
    let points = result(quickstart())["cost"]["points"].as_u64().unwrap();
    assert_eq!(csv.lines().count() as u64, points + 1, "a head and a line for each point");
    let log = String::from_utf8(of("profile_sla.log").clone()).unwrap();
    for phase in 1..=7 {
        assert!(log.contains(&format!("Phase {phase}: ")), "{log}");
    }
    let status = String::from_utf8(of("profiler_status.yaml").clone()).unwrap();
    assert!(status.contains("status: success") && status.contains("final_config: final_config.yaml"), "{status}");
    assert!(files.keys().all(|name| !name.ends_with(".part")), "{:?}", files.keys());
}

#[test]
fn numpy_reads_the_curves_that_a_run_wrote() {
    for (file, keys) in [
        ("selected_prefill_interpolation", &["prefill_isl", "prefill_ttft", "prefill_thpt_per_gpu"][..]),
        (
            "selected_decode_interpolation",
            &["x_kv_usage", "y_context_length", "z_itl", "z_thpt_per_gpu", "max_kv_tokens"],
        ),
    ] {
        let mut command = python("read_npz.py");
        command.arg(quickstart().join(file).join("raw_data.npz"));
        let arrays: Value = serde_json::from_str(&expect(0, command).out).unwrap();
        for key in keys {
            let least = if *key == "max_kv_tokens" { 1 } else { 4 };
            assert!(arrays[key]["shape"][0].as_u64().unwrap() >= least, "{key}: {}", arrays[key]);
        }
    }
}

#[test]
fn every_engine_that_was_launched_was_released() {
    let count = |name: &str| journal(quickstart()).iter().filter(|r| !r["event"][name].is_null()).count();
    assert_eq!(count("launched"), count("released"));
    assert!(count("launched") >= 3 && count("joined") >= 1, "one engine serves both roles");
}

#[test]
fn every_bundled_plugin_decides_a_run_by_name() {
    let dir = temp();
    for (n, [sweep, selection, planner]) in
        [["sweep-adaptive", "select-throughput", "planner-sla"], ["sweep-grid", "select-cost", "planner-sla"]]
            .iter()
            .enumerate()
    {
        let out = dir.path().join(n.to_string());
        let flags = ["--sweep", sweep, "--selection", selection, "--planner", planner, "--strict-plugins"];
        let dgdr =
            SMALL.replace(r#""settings": {"prefill-granularity": 3, "decode-granularity": 2}"#, r#""settings": {}"#);
        expect(exit_code::OK, profile(&dgdr, &out, &flags));
        let names: Vec<String> = result(&out)["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, [*sweep, *selection, *planner]);
        for name in names {
            assert!(
                journal(&out).iter().any(|record| record["event"]["decided"]["plugin"]["name"] == name),
                "{name} decided nothing"
            );
        }
    }
}

/// A plugin that fails in the way that its name says, in a file.
fn broken(dir: &Path, kind: Kind, how: &str) -> String {
    let (export, answer) = match kind {
        Kind::SweepStrategy => ("sweep:sla-profiler:sweep/strategy@0.1.0#next", ""),
        Kind::SelectionPolicy => ("", "sla-profiler:selection/policy@0.1.0#select"),
        Kind::PlannerModel => ("", "sla-profiler:planner/model@0.1.0#plan"),
    };
    let export = export.strip_prefix("sweep:").unwrap_or(answer);
    let body = match how {
        "trap" => "unreachable",
        "loop" => "(loop $again (br $again)) unreachable",
        // A result with a case that the contract does not have.
        "nonsense" => "(i32.store8 (i32.const 4096) (i32.const 77)) (i32.const 4096)",
        other => panic!("{other}"),
    };
    let wasm = guests::component(kind, &format!("(func (export \"{export}\") (param i32) (result i32) {body})"));
    let path = dir.join(format!("{how}-{}.wasm", kind.as_str().replace(' ', "-")));
    std::fs::write(&path, wasm).unwrap();
    path.display().to_string()
}

const FLAGS: [(Kind, &str); 3] =
    [(Kind::SweepStrategy, "--sweep"), (Kind::SelectionPolicy, "--selection"), (Kind::PlannerModel, "--planner")];

#[test]
fn a_plugin_that_fails_is_replaced_and_the_result_says_so() {
    let dir = temp();
    // Each way to fail, once for each kind in turn: the sandbox tests have the whole table.
    for ((kind, flag), how) in FLAGS.into_iter().zip(["trap", "loop", "nonsense"]) {
        let out = dir.path().join(how);
        let plugin = broken(dir.path(), kind, how);
        let dgdr =
            SMALL.replace(r#""settings": {"prefill-granularity": 3, "decode-granularity": 2}"#, r#""settings": {}"#);
        let said = expect(exit_code::OK, profile(&dgdr, &out, &[flag, &plugin]));
        assert_eq!(result(&out)["degraded"], true, "{how}");
        assert!(said.out.contains("Degraded"), "{}", said.out);
        assert_eq!(
            said.err.matches("decides from here on").count(),
            1,
            "said once, not for the forecast: {}",
            said.err
        );
        let failed: Vec<Value> = journal(&out).into_iter().filter(|r| !r["event"]["plugin_failed"].is_null()).collect();
        assert_eq!(failed.len(), 1, "{how}");
        assert!(failed[0]["event"]["plugin_failed"]["fallback"]["name"].is_string());
    }
}

#[test]
fn with_strict_plugins_a_plugin_that_fails_ends_the_run() {
    let dir = temp();
    for ((kind, flag), how) in FLAGS.into_iter().zip(["loop", "nonsense", "trap"]) {
        let out = dir.path().join(how);
        let plugin = broken(dir.path(), kind, how);
        let dgdr =
            SMALL.replace(r#""settings": {"prefill-granularity": 3, "decode-granularity": 2}"#, r#""settings": {}"#);
        let said = expect(exit_code::PLUGIN_FAILED, profile(&dgdr, &out, &[flag, &plugin, "--strict-plugins"]));
        assert!(said.err.contains("guest") && said.err.contains(kind.as_str()), "{}", said.err);
        assert!(!out.join("result.json").exists());
        let status = std::fs::read_to_string(out.join("profiler_status.yaml")).unwrap();
        assert!(status.contains("status: failed"), "{status}");
    }
}

#[test]
fn a_plugin_that_cannot_be_loaded_leaves_nothing_behind() {
    let dir = temp();
    let out = dir.path().join("out");
    let no_wasm = dir.path().join("text.wasm");
    std::fs::write(&no_wasm, "this is no component").unwrap();
    let planner = broken(dir.path(), Kind::PlannerModel, "trap");
    for (flag, plugin, says) in [
        ("--selection", "planner-sla", "--planner"),
        ("--selection", planner.as_str(), "--planner"),
        ("--sweep", "no-such-plugin", "sweep-adaptive"),
        ("--planner", no_wasm.to_str().unwrap(), "text.wasm"),
        ("--planner", "/no/such/file.wasm", "/no/such/file.wasm"),
    ] {
        let said = expect(exit_code::PLUGIN_LOAD, profile(SMALL, &out, &[flag, plugin]));
        assert!(said.err.contains(says), "{flag} {plugin}: {}", said.err);
        assert!(!out.exists(), "{flag} {plugin}");
    }
}

#[test]
fn an_answer_beyond_the_budget_is_shown_as_infeasible_and_not_applied() {
    let dir = temp();
    let said = expect(exit_code::INFEASIBLE, profile(QUICKSTART, dir.path(), &["--itl", "1"]));
    let result = result(dir.path());
    assert_eq!(result["feasible"], false);
    assert_eq!(result["check"], Value::Null);
    assert!(said.out.contains("Infeasible"), "{}", said.out);
    assert!(said.err.contains("9 GPUs, the budget is 8"), "{}", said.err);
    for (file, word) in [("profile_sla.log", "WARNING"), ("profiler_status.yaml", "no configuration meets the SLA")] {
        assert!(std::fs::read_to_string(dir.path().join(file)).unwrap().contains(word), "{file}");
    }
}
