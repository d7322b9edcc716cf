//! `load::aiperf`. Most tests run NVIDIA's AIPerf against a server with a known schedule; those of AIPerf's own failures
//! use a script in its place.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failure is the message"
)]
#![cfg(unix)]

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use sla_profiler::load::aiperf::Aiperf;
use sla_profiler::load::{
    ApiKey, Endpoint, LoadError, LoadGenerator as _, LoadReport, Point, Prompts, Stopped, Traffic, Watch,
};
use sla_profiler_tests::nvidia;
use sla_profiler_tests::openai::{Behaviour, Fault, OpenAi, Timing};
use sla_profiler_tests::runs::files;
use tempfile::TempDir;

/// As fast as AIPerf can follow, whatever else the machine does.
fn behaviour() -> Behaviour {
    Behaviour { timing: Timing::fixed(20.0, 4.0), ..Behaviour::default() }
}

fn point() -> Point {
    Point {
        isl: 60,
        osl: 10,
        traffic: Traffic::Closed { concurrency: 1 },
        prompts: Prompts::Unique,
        watch: Watch::Ttft,
        relative_precision: 0.05,
        ttft_target_ms: None,
        itl_target_ms: None,
        // One run: a second one depends on how quiet the machine is.
        max_requests: 8,
        quantile: None,
        max_error_rate: 0.05,
        seed: 7,
        deadline: Duration::from_secs(600),
        artifacts: None,
    }
}

fn measure(aiperf: &Aiperf, endpoint: &Endpoint, point: &Point) -> Result<LoadReport, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(aiperf.measure(endpoint, point))
}

/// AIPerf against a server, with its files in a folder that stays.
struct Bench {
    server: OpenAi,
    folder: TempDir,
    endpoint: Endpoint,
    aiperf: Aiperf,
}

impl Bench {
    fn new(behaviour: Behaviour) -> Self {
        let server = OpenAi::start(behaviour);
        let mut endpoint = Endpoint::new(server.url.clone(), "tiny");
        endpoint.tokenizer = Some(nvidia::tiny_model().to_owned());
        let aiperf = Aiperf::at(nvidia::program("aiperf")).trusting(server.ca_file.clone());
        Self { server, folder: tempfile::tempdir().unwrap(), endpoint, aiperf }
    }

    fn measure(&self, point: &Point) -> Result<LoadReport, LoadError> {
        let point = Point { artifacts: Some(self.folder.path().to_owned()), ..point.clone() };
        let outcome = measure(&self.aiperf, &self.endpoint, &point);
        nobody_works_in(self.folder.path());
        outcome
    }

    /// AIPerf's own summary of the run in this folder.
    fn summary(&self, folder: &str) -> Value {
        let path = self.folder.path().join(folder).join("profile_export_aiperf.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }
}

/// No process is left whose working directory is below the folder, where AIPerf and all of its children run.
fn nobody_works_in(folder: &Path) {
    let folder = folder.canonicalize().unwrap();
    let at_work = || -> Vec<PathBuf> {
        let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        let folders =
            processes.filter_map(|process| Some((process.path(), fs::read_link(process.path().join("cwd")).ok()?)));
        folders.filter(|(_, cwd)| cwd.starts_with(&folder)).map(|(process, _)| process).collect()
    };
    // What was killed takes a moment to go.
    for _ in 0..1000 {
        if at_work().is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("left behind: {:?}", at_work());
}

fn near(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-6 * other.abs()
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn figures_are_those_of_aiperf_and_counts_those_of_the_server() {
    let bench = Bench::new(behaviour());
    let report = bench.measure(&point()).unwrap();
    assert_eq!((report.requests, report.failed_requests, report.wrong_length_requests), (8, 0, 0));
    assert!(matches!(report.stopped, Stopped::Precise | Stopped::MostRequests));
    let summary = bench.summary("aiperf_isl60");
    let theirs = |metric: &str| summary[metric]["avg"].as_f64().unwrap();
    let (ttft, itl, e2e) = (report.ttft_ms.unwrap(), report.itl_ms.unwrap(), report.e2e_ms.unwrap());
    assert!(near(ttft.stat.mean, theirs("time_to_first_token")), "{ttft:?}");
    assert!(near(itl.stat.mean, theirs("inter_token_latency")), "{itl:?}");
    assert!(near(e2e.stat.mean, theirs("request_latency")), "{e2e:?}");
    assert!(ttft.stat.ci_low < ttft.stat.mean && ttft.stat.mean < ttft.stat.ci_high && ttft.samples == 8);
    // Three of the warm-up came first.
    let records = bench.server.records();
    assert_eq!(records.len(), 11);
    assert!(records.iter().all(|record| record.path == "/v1/chat/completions" && record.osl == 10));
    for sample in &report.samples {
        assert_eq!(sample.output_tokens, 10);
        assert!(records.iter().any(|record| record.isl == sample.input_tokens), "{sample:?}");
    }
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn prompts_of_prefill_points_are_unique_and_those_of_decode_points_warm() {
    let bench = Bench::new(behaviour());
    bench.measure(&point()).unwrap();
    let prompts: Vec<String> = bench.server.records().into_iter().map(|record| record.prompt).collect();
    assert_eq!(prompts.iter().collect::<HashSet<_>>().len(), prompts.len(), "no prompt is sent twice");

    let bench = Bench::new(behaviour());
    let decode =
        Point { prompts: Prompts::Shared, watch: Watch::Itl, traffic: Traffic::Closed { concurrency: 8 }, ..point() };
    assert_eq!(bench.measure(&decode).unwrap().requests, 8);
    let records = bench.server.records();
    assert_eq!(records.len(), 16);
    let mut seen = HashSet::new();
    for (number, record) in records.iter().enumerate() {
        assert_eq!(
            seen.insert(record.prompt.clone()),
            number < 8,
            "the warm-up sends each prompt once, the wave again"
        );
    }
    assert!(bench.folder.path().join("aiperf_request8_isl60_osl10_n8/profile_export.jsonl").is_file());
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn an_open_loop_sends_at_the_rate_and_counts_waiting() {
    let bench = Bench::new(behaviour());
    let open = Point { traffic: Traffic::Constant { requests_per_second: 20.0 }, watch: Watch::Both, ..point() };
    let report = bench.measure(&open).unwrap();
    assert_eq!(report.requests, 8);
    let theirs = bench.summary("aiperf_isl60_osl10_rate20")["time_to_first_token"]["avg"].as_f64().unwrap();
    assert!(report.ttft_ms.unwrap().stat.mean > theirs, "from the intended start, not from the worker's");
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn the_key_reaches_the_server_over_tls_and_is_written_nowhere() {
    let key = "secret-4711";
    let mut bench = Bench::new(Behaviour { api_key: Some(key.to_owned()), tls: true, ..behaviour() });
    bench.endpoint.api_key = Some(ApiKey::new(key));
    assert_eq!(bench.measure(&point()).unwrap().requests, 8);
    let written = files(bench.folder.path());
    assert!(written.contains_key("aiperf_isl60/profile_export.jsonl"), "{:?}", written.keys());
    for (name, bytes) in written {
        assert!(!String::from_utf8_lossy(&bytes).contains(key), "{name}");
    }
    bench.endpoint.api_key = None;
    let error = bench.measure(&point()).unwrap_err();
    assert!(matches!(error, LoadError::Refused { status: 401, .. }), "{error}");
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn a_server_that_does_not_know_ignore_eos_is_asked_without() {
    let bench = Bench::new(Behaviour { refuses: vec!["ignore_eos", "min_tokens"], ..behaviour() });
    assert_eq!(bench.measure(&point()).unwrap().requests, 8);
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn what_servers_do_wrong_is_told_apart() {
    let mut bench = Bench::new(behaviour());
    bench.endpoint.model = "other".to_owned();
    let error = bench.measure(&point()).unwrap_err();
    assert!(matches!(error, LoadError::Refused { status: 404, .. }), "{error}");

    let bench = Bench::new(Behaviour { fault: Some(Fault::Status(500)), fault_every: 3, ..behaviour() });
    let error = bench.measure(&point()).unwrap_err();
    assert!(matches!(error, LoadError::Failures { failed: 2..=4, sent: 8, .. }), "{error}");

    let mut bench = Bench::new(behaviour());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bench.endpoint.url = format!("http://{free}");
    let error = bench.measure(&point()).unwrap_err();
    assert!(matches!(error, LoadError::Unreachable { .. }), "{error}");

    let bench = Bench::new(Behaviour { fault: Some(Fault::EndsEarly(4)), ..behaviour() });
    let error = bench.measure(&point()).unwrap_err();
    assert!(matches!(&error, LoadError::Setup(reason) if reason.contains("10 tokens")), "{error}");

    let bench = Bench::new(Behaviour { usage: false, ..behaviour() });
    let error = bench.measure(&point()).unwrap_err();
    assert!(error.to_string().contains("usage"), "{error}");
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn a_server_that_never_answers_costs_the_deadline_and_leaves_no_process() {
    let bench = Bench::new(Behaviour { fault: Some(Fault::NeverAnswers), ..behaviour() });
    let error = bench.measure(&Point { deadline: Duration::from_secs(15), ..point() }).unwrap_err();
    assert!(matches!(&error, LoadError::Deadline { progress, .. } if progress.contains("0 of 8")), "{error}");
}

/// A script in AIPerf's place. It stands for AIPerf's own failures, which nobody can provoke in the real one.
fn fake(script: &str) -> (TempDir, Aiperf, Endpoint) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("aiperf");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let mut endpoint = Endpoint::new("http://127.0.0.1:9", "tiny");
    endpoint.tokenizer = Some(folder.path().to_owned());
    (folder, Aiperf::at(program), endpoint)
}

#[test]
fn without_aiperf_the_error_says_how_to_install_it() {
    let (folder, _, endpoint) = fake("");
    let error = measure(&Aiperf::at(folder.path().join("none")), &endpoint, &point()).unwrap_err();
    assert!(matches!(&error, LoadError::Setup(reason) if reason.contains("pip install aiperf==0.13.0")), "{error}");
}

#[test]
fn aiperf_that_fails_is_quoted() {
    let (_folder, aiperf, endpoint) = fake("echo '│ no such flag │' >&2; exit 2");
    let error = measure(&aiperf, &endpoint, &point()).unwrap_err().to_string();
    assert!(error.contains("exit status: 2") && error.ends_with("no such flag"), "{error}");
}

#[test]
fn aiperf_that_succeeds_without_records_or_with_broken_ones_is_not_believed() {
    for (script, part) in [
        ("exit 0", "profile_export.jsonl"),
        ("echo '{\"metadata\"' > profile_export.jsonl", "line 1"),
        ("touch profile_export.jsonl", "profile_export_aiperf.json"),
        (
            "touch profile_export.jsonl; echo '{\"request_count\": {\"avg\": 8}}' > profile_export_aiperf.json",
            "8 answers",
        ),
    ] {
        let (_folder, aiperf, endpoint) = fake(script);
        let error = measure(&aiperf, &endpoint, &point()).unwrap_err();
        assert!(matches!(&error, LoadError::Setup(reason) if reason.contains(part)), "{script}: {error}");
    }
}

#[test]
fn a_missing_tokenizer_is_said_before_aiperf_starts() {
    let (_folder, aiperf, mut endpoint) = fake("exit 0");
    endpoint.tokenizer = None;
    let error = measure(&aiperf, &endpoint, &point()).unwrap_err().to_string();
    assert!(error.contains("--tokenizer"), "{error}");
}
