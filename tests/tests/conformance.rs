//! `sla-profiler plugin test` and `plugin bench`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use serde_json::Value;
use sla_profiler_tests::guests;
use sla_profiler_tests::{Said, run, sla_profiler};

fn test(args: &[&str]) -> Said {
    let mut command = sla_profiler(["plugin", "test"]);
    command.args(args);
    run(command)
}

fn report(args: &[&str]) -> (i32, Value) {
    let said = test(&[&["--output", "json"], args].concat());
    (said.code, serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{}", said.err)))
}

fn conforms(name: &str, at_least: usize) {
    let (code, report) = report(&[name]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["passed"], true);
    let properties = report["properties"].as_array().unwrap();
    assert!(properties.len() >= at_least, "{report:#}");
    assert!(properties.iter().all(|property| property["cases"].as_u64().unwrap() > 0));
}

#[test]
fn sweep_adaptive_conforms() {
    conforms("sweep-adaptive", 9);
}

#[test]
fn sweep_grid_conforms() {
    conforms("sweep-grid", 9);
}

#[test]
fn select_throughput_conforms() {
    conforms("select-throughput", 9);
}

#[test]
fn select_cost_conforms() {
    conforms("select-cost", 9);
}

#[test]
fn planner_sla_conforms() {
    conforms("planner-sla", 8);
}

#[test]
fn planner_queueing_conforms() {
    conforms("planner-queueing", 8);
}

/// Runs the suite on a component and returns the names of the properties that fail.
fn failing(component: &[u8]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.wasm");
    std::fs::write(&path, component).unwrap();
    let (code, report) = report(&[path.to_str().unwrap()]);
    assert_eq!(code, 5, "{report:#}");
    let failed = report["properties"].as_array().unwrap().iter().filter(|property| property["failed"] != 0);
    failed
        .map(|property| {
            let example = &property["counterexample"];
            assert!(!example["case"].as_str().unwrap().is_empty() && !example["detail"].as_str().unwrap().is_empty());
            property["name"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn holds(found: &[String], what: &str) -> bool {
    found.iter().any(|name| name.contains(what))
}

#[test]
fn a_policy_that_goes_by_numbers_instead_of_measurements_is_found_out() {
    let found = failing(&guests::ranks(&[(0, 1, "1")], &[(1, 1, "1")]));
    assert!(holds(&found, "keeps the contract"), "candidate 1 is not always a decode candidate: {found:?}");
    assert!(holds(&found, "numbering of the candidates"), "{found:?}");
    assert!(holds(&found, "empty history"), "it meets an SLA without a measurement: {found:?}");
}

#[test]
fn a_strategy_that_measures_nothing_and_one_that_never_ends_are_found_out() {
    let found = failing(&guests::sweep("done"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(holds(&found, "measures at least one"), "{found:?}");
    let found = failing(&guests::sweep("endless-loop"));
    assert!(holds(&found, "keeps the contract") && holds(&found, "every sweep ends"), "{found:?}");
}

#[test]
fn a_planner_whose_plan_does_not_follow_the_demand_is_found_out() {
    let plan = guests::Plan { prefill_replicas: 1, decode_replicas: 1, requests_per_second: "1", latency_ms: "1" };
    let found = failing(&guests::plans(plan));
    assert!(holds(&found, "has the capacity for it"), "{found:?}");
}

fn cases(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cases.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

const SELECTION: &str = "
cases:
  - name: the cheaper one wins
    sla: { ttft_ms: 200, itl_ms: 20 }
    engines:
      - { role: prefill, gpus: 1, points: [{ latency_ms: 150 }] }
      - { role: prefill, gpus: 2, points: [{ latency_ms: 90 }] }
      - { role: decode, gpus: 1, points: [{ concurrency: 1, latency_ms: 8 }, { concurrency: 32, latency_ms: 19 }] }
      - { role: decode, gpus: 2, failed: out of memory }
    expect: { prefill: tp1, decode: tp1, decode_concurrency: 32, meets_sla: true }
";

#[test]
fn an_authors_case_passes_where_the_answer_is_the_expected_one() {
    let (_folder, path) = cases(SELECTION);
    let (code, report) = report(&["select-throughput", "--cases", &path]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["cases"][0]["name"], "the cheaper one wins");
}

#[test]
fn an_authors_case_that_fails_says_what_was_expected_and_what_came() {
    let (_folder, path) = cases(&SELECTION.replace("decode: tp1", "decode: tp2"));
    let said = test(&["select-throughput", "--cases", &path]);
    assert_eq!(said.code, 5);
    assert!(said.out.contains("expected \"tp2\", got \"tp1\"") && said.out.contains("FAILED"), "{}", said.out);
}

#[test]
fn cases_of_a_planner_are_understood() {
    let (_folder, path) = cases(
        "
cases:
  - name: twice the traffic
    sla: { ttft_ms: 500, itl_ms: 30 }
    request_rate: 12
    engines:
      - { role: prefill, gpus: 1, points: [{ latency_ms: 150 }] }
      - { role: decode, gpus: 1, points: [{ concurrency: 1, latency_ms: 8 }, { concurrency: 64, latency_ms: 19 }] }
    expect: { prefill_replicas: 2, decode_replicas: 1, meets_sla: true }
  - name: out of bounds
    settings: { max-utilization: '7' }
    engines:
      - { role: prefill, gpus: 1, points: [{ latency_ms: 150 }] }
      - { role: decode, gpus: 1, points: [{ latency_ms: 8 }] }
    expect: { error: max-utilization }
",
    );
    let (code, found) = report(&["planner-sla", "--cases", &path]);
    assert_eq!(code, 0, "{found:#}");
}

#[test]
fn a_case_file_with_a_typo_is_refused_with_its_place() {
    let (_folder, path) = cases(&SELECTION.replace("concurrency: 32,", "concurency: 32,"));
    let said = test(&["select-throughput", "--cases", &path]);
    assert_eq!(said.code, 3);
    assert!(said.err.contains("concurency") && said.err.contains("cases.yaml"), "{}", said.err);
}

#[test]
fn bench_puts_a_plugin_beside_the_bundled_one() {
    let said = run(sla_profiler(["--output", "json", "plugin", "bench", "select-cost"]));
    assert_eq!(said.code, 0, "{}", said.err);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["plugin"]["plugin"]["name"], "select-cost");
    assert_eq!(report["bundled"]["plugin"]["name"], "select-throughput");
    for who in ["plugin", "bundled"] {
        let calls = report[who]["calls"].as_array().unwrap();
        assert_eq!(calls.iter().map(|c| c["size"].as_u64().unwrap()).collect::<Vec<_>>(), [10, 100, 1000]);
        let fuel: Vec<u64> = calls.iter().filter_map(|c| c["fuel"].as_u64()).collect();
        assert!(fuel.is_sorted() && !fuel.is_empty(), "{report:#}");
    }
}
