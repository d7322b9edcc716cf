//! Whole runs on real processes of this machine: engines that come up, die, hang, and engines that run already. Nothing
//! of them is ever left.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
#![cfg(target_os = "linux")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sla_profiler::output::exit_code;
use sla_profiler_tests::processes::{Marked, alive};
use sla_profiler_tests::runs::{expect, files};
use sla_profiler_tests::{Said, ended, sla_profiler};
use tempfile::TempDir;

/// KV capacity of the engines of these tests, of which the formula knows nothing.
const KV_TOKENS: u64 = 20_000;

/// The engine of `tests/src/bin/engine.rs`.
fn engine() -> PathBuf {
    let path = sla_profiler_tests::program().with_file_name("engine");
    assert!(path.exists(), "{} is not built; run the tests with `cargo xtask test`", path.display());
    path
}

/// A template that starts the engine of these tests; `more` are its flags.
fn template(more: &str) -> Value {
    json!({
        "processes": [{
            "name": "worker",
            "command": format!(
                "{} --port {{port}} --model {{served_name}} --kv-tokens {KV_TOKENS} --speed {{speed}} {more}",
                engine().display()
            ),
        }],
        "url": "http://127.0.0.1:{port}",
    })
}

/// An engine that tells nobody how large it is.
fn silent() -> Value {
    let mut silent = template("--silent");
    silent["metrics"] = json!([]);
    silent
}

/// A small job on one or two engines of each role, which are started from this block of the DGDR.
fn dgdr(local: &Value, max_gpus: u32) -> String {
    let mut local = local.clone();
    local["values"] = json!({ "speed": "{gpus}" });
    local["graceS"] = json!(0.5);
    json!({
        "model": "Qwen/Qwen3-0.6B",
        "hardware": { "gpuSku": "h200_sxm", "numGpusPerNode": 2, "totalGpus": 2 },
        "workload": { "isl": 200, "osl": 20 },
        "sla": { "ttft": 200, "itl": 30 },
        "profiler": {
            "maxContextLength": 600,
            "maxNumGpusPerEngine": max_gpus,
            "sweep": {
                "plugin": "sweep-grid",
                "settings": { "prefill-granularity": 3, "decode-granularity": 2, "samples": 8 },
            },
            // Machines that run tests are busy; whether figures are good is tested elsewhere.
            "engines": {
                "maxClientShare": 100,
                "kvTokens": KV_TOKENS,
                "launchDeadlineS": 30,
                "pointDeadlineS": 60,
                "local": local,
            },
        },
    })
    .to_string()
}

struct Run {
    dir: TempDir,
    mark: Marked,
    dgdr: String,
}

impl Run {
    fn new(local: Value, max_gpus: u32) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), mark: Marked::new(), dgdr: dgdr(&local, max_gpus) }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = sla_profiler(["profile", "--cluster", "local", "--config", &self.dgdr, "--out"]);
        command.arg(self.out()).args(flags).env_remove("CUDA_VISIBLE_DEVICES");
        self.mark.on(&mut command);
        command
    }

    /// Runs to the end, which must be this; nothing may be left.
    fn expect(&self, code: u8, flags: &[&str]) -> Said {
        let said = expect(code, self.command(flags));
        self.mark.nothing_is_left();
        said
    }

    fn start(&self) -> Child {
        self.command(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.out().join(name)).unwrap_or_default()
    }

    fn events(&self, kind: &str) -> Vec<Value> {
        let lines = self.text("journal.jsonl");
        let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter_map(|record| record["event"].get(kind).cloned()).collect()
    }

    fn failures(&self) -> Vec<String> {
        let reasons = self.events("failed").into_iter();
        reasons.map(|event| event["failure"]["reason"].as_str().unwrap().to_owned()).collect()
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_whole_run_on_local_engines_measures_selects_and_writes_the_deployment() {
    let run = Run::new(json!({ "any": template("") }), 2);
    let said = run.expect(exit_code::OK, &[]);
    assert!(said.out.contains("Not applied") && said.out.contains("needs Kubernetes"), "{}", said.out);

    let result: Value = serde_json::from_str(&run.text("result.json")).unwrap();
    assert_eq!(result["cluster"], "local");
    let facts = run.events("launched");
    // One GPU and two, each for both roles, on two GPUs: whoever makes room is launched again for the next batch, or for
    // its curve.
    assert!((2..=6).contains(&facts.len()), "{} launches", facts.len());
    assert!(!run.events("joined").is_empty());
    for event in &facts {
        let facts = &event["facts"];
        assert_eq!((facts["kv_tokens"].as_u64(), facts["max_running"].as_u64()), (Some(KV_TOKENS), Some(64)));
        let sources: Vec<&str> =
            facts["kv_sources"].as_array().unwrap().iter().map(|s| s["source"].as_str().unwrap()).collect();
        assert_eq!(sources, ["metrics", "log", "given"]);
    }
    // What the engine was seen to run. It ends a request a moment after the client has begun the next.
    for event in run.events("measured") {
        let m = &event["measurement"];
        let (asked, seen) = (m["concurrency"].as_f64().unwrap(), m["concurrency_seen"].as_f64().unwrap());
        assert!(seen > 0.0 && seen <= 2.0 * asked, "asked {asked}, seen {seen}");
        assert!(m["kv_usage"].as_f64().unwrap() > 0.0);
    }
    let names: Vec<String> = files(&run.out()).into_keys().collect();
    for name in [
        "prefill_1gpus_tp1/launch-1/worker.log",
        "prefill_1gpus_tp1/engine.log",
        "decode_2gpus_tp2/load/decode_isl200_osl20_n1.json",
        "selected_decode_interpolation/raw_data.npz",
        "final_config.yaml",
    ] {
        assert!(names.iter().any(|known| known == name), "{name} is missing of {names:?}");
    }
    let log = run.text("decode_2gpus_tp2/engine.log");
    assert!(log.contains("on GPUs Ok(\"0,1\")"), "{log}");
    assert!(run.text("profile_sla.log").contains("KV cache 20000 tokens (metrics)"));
}

#[test]
fn engines_of_one_gpu_each_run_side_by_side_on_gpus_of_their_own() {
    let run = Run::new(json!({ "any": template("--load-ms 300"), "devices": [5, 7] }), 1);
    run.expect(exit_code::OK, &["--share-engines", "false"]);
    assert!(run.events("joined").is_empty());
    let gpus = |name: &str| run.text(&format!("{name}_1gpus_tp1/engine.log")).lines().next().unwrap().to_owned();
    let seen = [gpus("prefill"), gpus("decode")];
    assert!(seen.iter().all(|line| line.contains("\"5\"") || line.contains("\"7\"")), "{seen:?}");
}

#[test]
fn an_engine_that_dies_while_loading_is_a_row_with_its_last_words() {
    let run = Run::new(json!({ "any": template(""), "decode": template("--die-loading") }), 1);
    let said = run.expect(exit_code::NOTHING_MEASURED, &[]);
    let failures = run.failures();
    assert_eq!(failures.len(), 1);
    for part in ["decode tp1: worker ended: exit code 3", "CUDA out of memory", "launch-1/worker.log"] {
        assert!(failures[0].contains(part) && said.err.contains("CUDA out of memory"), "{part}: {failures:?}");
    }
}

#[test]
fn a_program_that_is_not_there_is_a_row_that_names_it() {
    let template = json!({
        "processes": [{ "name": "server", "command": "no-such-engine --port {port}" }],
        "url": "http://127.0.0.1:{port}",
    });
    let run = Run::new(json!({ "any": template }), 1);
    let said = run.expect(exit_code::NOTHING_MEASURED, &[]);
    assert!(said.err.contains("cannot run no-such-engine: No such file"), "{}", said.err);
}

#[test]
fn an_engine_that_dies_under_load_is_a_row_and_the_run_goes_on_without_it() {
    let run = Run::new(json!({ "any": template(""), "decode": template("--die-after 2") }), 1);
    run.expect(exit_code::NOTHING_MEASURED, &[]);
    let failures = run.failures();
    assert!(failures[0].contains("exit code 9") && failures[0].contains("illegal memory access"), "{failures:?}");
    assert!(run.events("failed")[0]["failure"]["probe"].is_null(), "the engine is lost, not the point");
    assert!(run.events("retrying").len() == 1 && failures[0].ends_with("tried 2 times"), "{failures:?}");
    assert!(!run.events("measured").is_empty(), "the prefill engine was measured");
}

#[test]
fn an_engine_that_never_answers_is_given_up_at_the_deadline() {
    let run = Run::new(json!({ "any": template("--never-ready") }), 1);
    run.expect(exit_code::NOTHING_MEASURED, &["--launch-deadline", "1"]);
    let failures = run.failures();
    for part in ["within 1 s (--launch-deadline)", "answers 503"] {
        assert!(failures[0].contains(part), "{part}: {failures:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let mut template = template("");
    template["ports"] = json!({ "http": port });
    let run = Run::new(json!({ "any": template }), 1);
    run.expect(exit_code::NOTHING_MEASURED, &[]);
    let failures = run.failures();
    assert!(failures[0].contains(&format!("port {port} (http) is taken by another process")), "{failures:?}");
}

#[test]
fn a_kv_cache_that_nobody_tells_or_two_dispute_is_a_row_with_all_values() {
    let unknown = Run::new(json!({ "any": silent() }), 1);
    unknown.expect(exit_code::OK, &[]);
    assert_eq!(unknown.events("launched")[0]["facts"]["kv_sources"][2]["source"], "given");

    let disputed = Run::new(json!({ "any": template("--log-factor 1.3") }), 1);
    disputed.expect(exit_code::NOTHING_MEASURED, &[]);
    let failures = disputed.failures();
    for part in ["20000 tokens by the metrics and 26000 by the log, 23 % apart", "--kv-tolerance"] {
        assert!(failures[0].contains(part), "{part}: {failures:?}");
    }
    let tolerated = Run::new(json!({ "any": template("--log-factor 1.3") }), 1);
    tolerated.expect(exit_code::OK, &["--kv-tolerance", "0.3"]);
}

#[test]
fn without_a_word_from_the_engine_the_formula_is_not_believed() {
    let run = Run::new(json!({ "any": silent() }), 1);
    let dgdr: Value = serde_json::from_str(&run.dgdr).unwrap();
    let mut dgdr = dgdr;
    dgdr["profiler"]["engines"].as_object_mut().unwrap().remove("kvTokens");
    let run = Run { dgdr: dgdr.to_string(), ..run };
    run.expect(exit_code::NOTHING_MEASURED, &[]);
    let failures = run.failures();
    assert!(failures[0].contains("nobody says how large the KV cache is"), "{failures:?}");
}

/// Deaf to SIGTERM, slow, and with a child in a session of its own.
fn stubborn() -> Run {
    Run::new(json!({ "any": template("--stubborn") }), 1)
}

/// Waits until it has measured something.
fn in_the_middle(run: &Run) -> Child {
    let child = run.start();
    run.mark.until("a point is measured", || !run.events("measured").is_empty());
    child
}

#[test]
fn ctrl_c_finishes_the_measurement_ends_the_engines_and_resume_goes_on() {
    let run = stubborn();
    let child = in_the_middle(&run);
    signal(&child, "-INT");
    let said = ended(child, "sla-profiler");
    assert_eq!(said.code, i32::from(exit_code::INTERRUPTED), "{}", said.err);
    run.mark.nothing_is_left();
    let before = run.events("measured").len();
    run.expect(exit_code::OK, &["--resume"]);
    let points = |events: Vec<Value>| -> Vec<String> {
        let point = |e: &Value| {
            let m = &e["measurement"];
            format!("{} {} {} {}", m["candidate"], m["isl"], m["osl"], m["concurrency"])
        };
        events.iter().map(point).collect()
    };
    let mut all = points(run.events("measured"));
    assert!(all.len() > before);
    all.sort();
    let count = all.len();
    all.dedup();
    assert_eq!(all.len(), count, "no point was measured twice");
}

#[test]
fn ctrl_c_while_an_engine_loads_does_not_wait_for_it_and_is_no_failure_of_it() {
    let run = Run::new(json!({ "any": template("--load-ms 600000") }), 1);
    let child = run.start();
    run.mark.until("an engine loads", || alive(run.mark.name()).len() >= 3);
    signal(&child, "-INT");
    let said = ended(child, "sla-profiler");
    assert_eq!(said.code, i32::from(exit_code::INTERRUPTED), "{}", said.err);
    run.mark.nothing_is_left();
    assert!(run.failures().is_empty(), "{:?}", run.failures());
}

#[test]
fn a_killed_profiler_leaves_no_engine_behind_and_resume_goes_on() {
    let run = stubborn();
    let child = in_the_middle(&run);
    signal(&child, "-KILL");
    assert_eq!(ended(child, "sla-profiler").code, -1);
    run.mark.nothing_is_left();
    run.expect(exit_code::OK, &["--resume"]);
}

/// Records of owners, where nobody else's are.
fn with_records(run: &Run, command: &mut Command) -> PathBuf {
    let state = run.dir.path().join("state");
    command.env("XDG_STATE_HOME", &state);
    state.join("sla-profiler/owners")
}

fn gc(run: &Run, flags: &[&str]) -> Said {
    let mut command = sla_profiler(["gc"]);
    command.args(flags);
    with_records(run, &mut command);
    expect(exit_code::OK, command)
}

/// Kills the profiler and its supervisors at once, so that nobody ends the engines; gives what is left of them.
fn killed_with_its_supervisors(run: &Run) -> (PathBuf, Vec<u32>) {
    let mut command = run.command(&[]);
    let records = with_records(run, &mut command);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    run.mark.until("a point is measured", || !run.events("measured").is_empty());
    assert_eq!(std::fs::read_dir(&records).unwrap().count(), 1, "whose they are was put down before");
    let cmdline = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let supervisors: Vec<u32> =
        alive(run.mark.name()).into_iter().filter(|pid| cmdline(pid).contains("__supervise\0run")).collect();
    assert!(!supervisors.is_empty());
    let mut words = vec!["-KILL".to_owned(), child.id().to_string()];
    words.extend(supervisors.iter().map(u32::to_string));
    assert!(Command::new("kill").args(words).status().unwrap().success());
    assert_eq!(ended(child, "sla-profiler").code, -1);
    run.mark.until("its supervisors are gone", || alive(run.mark.name()).iter().all(|pid| !supervisors.contains(pid)));
    (records, alive(run.mark.name()))
}

#[test]
fn what_is_left_of_a_run_that_was_killed_with_its_supervisors_is_found_by_gc_and_ended() {
    let run = stubborn();
    let (records, left) = killed_with_its_supervisors(&run);
    // The engine's child in a session of its own, which no parent and no group leads to.
    assert!(!left.is_empty(), "else there is nothing to clean up, and this tests nothing");
    // Of the same name and the same user, and nobody's.
    let mark = Marked::new();
    let stranger = running(&mark, "Qwen/Qwen3-0.6B", &["--stubborn"]);

    let said = gc(&run, &["--dry-run"]);
    assert!(said.out.contains("would be ended") && said.out.contains(run.out().to_str().unwrap()), "{}", said.out);
    assert!(!alive(run.mark.name()).is_empty(), "it only looks");
    let said = gc(&run, &[]);
    assert!(said.out.contains(": ended"), "{}", said.out);
    run.mark.nothing_is_left();
    assert_eq!(std::fs::read_dir(&records).unwrap().count(), 0);
    assert!(gc(&run, &[]).out.contains("nothing is left"));
    assert!(alive(mark.name()).contains(&stranger.child.id()), "somebody else's");
}

#[test]
fn the_next_start_ends_what_a_killed_run_has_left_and_goes_on() {
    let run = stubborn();
    let (records, left) = killed_with_its_supervisors(&run);
    assert!(!left.is_empty());
    let mut command = run.command(&["--resume"]);
    with_records(&run, &mut command);
    let said = expect(exit_code::OK, command);
    assert!(said.err.contains("is gone and has left"), "{}", said.err);
    run.mark.nothing_is_left();
    assert_eq!(std::fs::read_dir(&records).unwrap().count(), 0, "a normal end leaves no record");
}

#[test]
fn gc_leaves_a_run_that_lives_alone() {
    let run = stubborn();
    let mut command = run.command(&[]);
    let records = with_records(&run, &mut command);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    run.mark.until("a point is measured", || !run.events("measured").is_empty());
    let before = alive(run.mark.name()).len();
    assert!(gc(&run, &[]).out.contains("nothing is left"));
    assert!(alive(run.mark.name()).len() >= before.min(3) && std::fs::read_dir(&records).unwrap().count() == 1);
    signal(&child, "-TERM");
    let said = ended(child, "sla-profiler");
    assert_eq!(said.code, i32::from(exit_code::INTERRUPTED), "{}", said.err);
    run.mark.nothing_is_left();
    assert_eq!(std::fs::read_dir(&records).unwrap().count(), 0);
}

#[test]
fn templates_that_make_no_sense_are_refused_before_anything_starts() {
    let cases = [
        (json!({ "template": "ollama" }), exit_code::INPUT, "there is no bundled template `ollama`"),
        (json!({ "any": { "process": [] } }), exit_code::INPUT, "unknown field `process`"),
        (json!({ "any": { "processes": [{ "name": "w" }], "url": "x" } }), exit_code::INPUT, "command"),
    ];
    for (local, code, says) in cases {
        let run = Run::new(local, 1);
        let said = run.expect(code, &[]);
        assert!(said.err.contains(says), "{says}: {}", said.err);
        assert!(!run.out().exists());
    }
    let run = Run::new(json!({ "any": template("{prot}") }), 1);
    run.expect(exit_code::NOTHING_MEASURED, &[]);
    assert!(run.failures()[0].contains("`{prot}` is none of the placeholders"), "{:?}", run.failures());
}

/// An engine that runs, as if somebody else had started it.
struct Running {
    child: Child,
    url: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn running(mark: &Marked, model: &str, flags: &[&str]) -> Running {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(engine());
    command.args(["--port", &port.to_string(), "--model", model, "--kv-tokens", &KV_TOKENS.to_string()]).args(flags);
    let child = mark.on(&mut command).stdout(Stdio::null()).spawn().unwrap();
    mark.until("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    Running { child, url: format!("http://127.0.0.1:{port}") }
}

fn endpoint(engine: &Running, out: &Path, flags: &[&str]) -> Command {
    let mut command = sla_profiler(["profile", "--cluster", "endpoint", "--url", &engine.url, "--out"]);
    let job = [
        "--gpu-sku",
        "h200_sxm",
        "--isl",
        "200",
        "--osl",
        "20",
        "--ttft",
        "200",
        "--itl",
        "30",
        "--max-context-length",
        "600",
        "--kv-tokens",
        "20000",
        "--sweep",
        "sweep-grid",
        "--sweep-setting",
        "prefill-granularity=3",
        "--sweep-setting",
        "decode-granularity=2",
        "--max-client-share",
        "100",
        "--sweep-setting",
        "samples=8",
        "--point-deadline",
        "60",
    ];
    command.arg(out).args(job).args(flags);
    command
}

#[test]
fn an_engine_that_runs_is_measured_in_both_roles_and_left_alone() {
    let (mark, dir) = (Marked::new(), tempfile::tempdir().unwrap());
    let engine = running(&mark, "Qwen/Qwen3-0.6B", &[]);
    let said = expect(exit_code::OK, endpoint(&engine, dir.path(), &[]));
    assert!(said.out.contains("Qwen/Qwen3-0.6B"), "the model is the one that the engine lists: {}", said.out);
    assert!(dir.path().join("final_config.yaml").exists());
    assert_eq!(alive(mark.name()).len(), 1, "it still runs");
}

#[test]
fn an_engine_that_runs_is_measured_in_one_role() {
    let (mark, dir) = (Marked::new(), tempfile::tempdir().unwrap());
    let engine = running(&mark, "Qwen/Qwen3-0.6B", &[]);
    for (role, curve, other) in [
        ("prefill", "selected_prefill_interpolation", "selected_decode_interpolation"),
        ("decode", "selected_decode_interpolation", "selected_prefill_interpolation"),
    ] {
        let out = dir.path().join(role);
        let said = expect(exit_code::OK, endpoint(&engine, &out, &["--role", role]));
        assert!(said.out.contains(&format!("{role} engine: ")), "{}", said.out);
        assert!(out.join(curve).join("raw_data.npz").exists());
        assert!(!out.join(other).exists() && !out.join("final_config.yaml").exists());
    }
}

#[test]
fn an_endpoint_that_is_not_there_or_not_the_right_one_is_a_clear_error() {
    let (mark, dir) = (Marked::new(), tempfile::tempdir().unwrap());
    let mut engine = running(&mark, "other/model", &[]);
    let out = dir.path().join("out");
    let said = expect(exit_code::USAGE, endpoint(&engine, &out, &[]));
    assert!(said.err.contains("other/model"), "a model that the catalog does not know: {}", said.err);
    // The name is the engine's own business: what counts is whose figures are used.
    expect(exit_code::OK, endpoint(&engine, &out, &["--model", "Qwen/Qwen3-0.6B", "--role", "prefill"]));

    engine.child.kill().unwrap();
    engine.child.wait().unwrap();
    let said = expect(exit_code::CLUSTER, endpoint(&engine, &dir.path().join("gone"), &[]));
    assert!(said.err.contains("could not connect") && said.err.contains("--url"), "{}", said.err);

    let cases: [(&[&str], &str); 3] = [
        (&["--cluster", "endpoint"], "needs --url"),
        (&["--url", "http://localhost:1"], "--cluster endpoint"),
        (&["--cluster", "endpoint", "--url", "http://localhost:1", "--tp", "3", "--ep", "2"], "does not divide"),
    ];
    for (flags, says) in cases {
        let mut words = vec!["profile", "--model", "Qwen/Qwen3-0.6B", "--gpu-sku", "h200_sxm", "--dry-run"];
        words.extend(flags);
        let said = expect(exit_code::USAGE, sla_profiler(words));
        assert!(said.err.contains(says), "{says}: {}", said.err);
    }
}

#[test]
fn a_dry_run_of_real_engines_starts_and_needs_nothing() {
    let run = Run::new(json!({ "any": template("--die-loading") }), 2);
    let said = run.expect(exit_code::OK, &["--dry-run"]);
    assert!(said.out.contains("prefill tp1") && said.out.contains("decode tp2"), "{}", said.out);
    assert!(!run.out().exists());
}

#[test]
fn the_template_of_the_documentation_is_one() {
    let document = std::fs::read_to_string(sla_profiler_tests::root().join("host/docs/real-engines.md")).unwrap();
    let yaml = document.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("engines.yaml");
    std::fs::write(&file, yaml).unwrap();
    let mut command =
        sla_profiler(["profile", "-f", "examples/quickstart/dgdr.yaml", "--cluster", "local", "--dry-run"]);
    command.arg("--local").arg(&file);
    expect(exit_code::OK, command);
}
