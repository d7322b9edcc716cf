//! `resume RUN` goes on without being told how the run was started; `--reuse RUN` takes over what is the same, and
//! nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use serde_json::Value;
use sla_profiler::output::exit_code;
use sla_profiler_tests::kills::events;
use sla_profiler_tests::runs::{SMALL, assert_same_findings, expect, findings, profile};
use sla_profiler_tests::{ended, sla_profiler};
use tempfile::TempDir;

fn undisturbed() -> &'static Path {
    static RUN: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, out) = RUN.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        expect(exit_code::OK, profile(SMALL, &out, &[]));
        (dir, out)
    });
    out
}

fn count(out: &Path, name: &str) -> usize {
    events(&out.join("journal.jsonl")).iter().filter(|(of, _)| of == name).count()
}

/// As if it had been killed after so many measurements.
fn cut(out: &Path, measurements: usize) {
    let journal = out.join("journal.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    let mut seen = 0;
    let kept: Vec<&str> = text
        .lines()
        .take_while(|line| {
            seen += usize::from(line.contains("\"event\":{\"measured\""));
            seen <= measurements
        })
        .collect();
    std::fs::write(journal, kept.join("\n") + "\n").unwrap();
}

#[test]
fn resume_goes_on_with_relative_paths_and_from_another_folder() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("job.json"), SMALL).unwrap();
    let mut start = sla_profiler(["profile", "-f", "job.json", "--out", "runs/one", "--output", "json"]);
    start.current_dir(dir.path());
    expect(exit_code::OK, start);
    let out = dir.path().join("runs/one");
    let (before, points) = (findings(&out), count(&out, "measured"));
    cut(&out, 5);
    std::fs::rename(&out, dir.path().join("moved")).unwrap();
    let out = dir.path().join("moved");
    let said = expect(exit_code::OK, sla_profiler(["resume", out.to_str().unwrap()]));
    assert!(!said.out.starts_with('{'), "how to print is this call's to say: {}", said.out);
    assert!(findings(&out) == before);
    assert_eq!(count(&out, "measured"), points);
    assert!(!dir.path().join("runs/one").exists());
}

#[test]
fn resume_remembers_what_standard_input_said() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut start = sla_profiler(["profile", "-f", "-", "--out", out.to_str().unwrap()]);
    let mut child = start.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(SMALL.as_bytes()).unwrap();
    assert_eq!(ended(child, "profile").code, 0);
    cut(&out, 3);
    expect(exit_code::OK, sla_profiler(["resume", out.to_str().unwrap()]));
    assert_same_findings(undisturbed(), &out);
}

#[test]
fn resume_of_what_is_no_run_says_so_and_creates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let said = expect(exit_code::OUTPUT, sla_profiler(["resume", absent.to_str().unwrap()]));
    assert!(said.err.contains("nothing to resume") && !absent.exists(), "{}", said.err);
    std::fs::write(dir.path().join("command.json"), "{\"version\": 1}").unwrap();
    let said = expect(exit_code::OUTPUT, sla_profiler(["resume", dir.path().to_str().unwrap()]));
    assert!(said.err.contains("does not say how the run was started") && said.err.contains("--resume"), "{}", said.err);
}

#[test]
fn reuse_takes_over_every_point_and_marks_it_in_journal_table_and_result() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let earlier = undisturbed().to_str().unwrap();
    let said = expect(exit_code::OK, profile(SMALL, &out, &["--reuse", earlier]));
    let points = count(undisturbed(), "measured");
    assert!(said.err.contains(&format!("{points} points of {earlier} can be reused")), "{}", said.err);
    assert_eq!((count(&out, "measured"), count(&out, "launched"), count(&out, "reused")), (0, 0, points));
    let journal = events(&out.join("journal.jsonl"));
    let marked = journal.iter().filter(|(name, event)| name == "reused" && event["run"] == earlier).count();
    assert_eq!(marked, points);

    let result: Value = serde_json::from_slice(&findings(&out)["result.json"]).unwrap();
    let reused = result["reused"].as_array().unwrap();
    assert!(reused.len() == points && reused.iter().all(|point| point["run"] == earlier), "{reused:?}");
    assert_eq!(result["cost"]["points"], 0, "nothing was paid for");
    let table = String::from_utf8(findings(&out)["measurements.csv"].clone()).unwrap();
    assert!(table.lines().skip(1).all(|line| line.ends_with(earlier)), "{table}");

    // The deployment is the same, to the byte.
    let (mine, theirs) = (findings(&out), findings(undisturbed()));
    for name in ["final_config.yaml", "config_with_planner.yaml", "selected_decode_interpolation/raw_data.npz"] {
        assert!(mine[name] == theirs[name], "{name} differs");
    }
    // A run that is resumed still knows whose its points are.
    cut(&out, 0);
    let journal = std::fs::read_to_string(out.join("journal.jsonl")).unwrap();
    let lines: Vec<&str> = journal.lines().collect();
    std::fs::write(out.join("journal.jsonl"), lines[..lines.len() / 2].join("\n") + "\n").unwrap();
    expect(exit_code::OK, profile(SMALL, &out, &["--resume"]));
    assert!(findings(&out)["result.json"].len() > 100 && count(&out, "reused") > 0);
    let table = String::from_utf8(findings(&out)["measurements.csv"].clone()).unwrap();
    let taken = table.lines().skip(1).filter(|line| line.ends_with(earlier)).count();
    assert!(
        taken > 0 && taken < points,
        "{taken} of {points}; the rest was measured, since --reuse was not given again"
    );
}

#[test]
fn reuse_measures_what_the_earlier_run_does_not_have() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let more = SMALL.replace("\"decode-granularity\": 2", "\"decode-granularity\": 3");
    assert_ne!(more, SMALL);
    let fresh = dir.path().join("fresh");
    expect(exit_code::OK, profile(&more, &fresh, &[]));
    expect(exit_code::OK, profile(&more, &out, &["--reuse", undisturbed().to_str().unwrap()]));
    assert!(count(&out, "reused") > 0 && count(&out, "measured") > 0);
    assert_eq!(count(&out, "reused") + count(&out, "measured"), count(&fresh, "measured"));
}

#[test]
fn reuse_is_refused_with_every_reason_where_anything_differs_and_nothing_is_created() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let earlier = undisturbed().to_str().unwrap();
    let refused = |job: &str, flags: &[&str], says: &[&str]| {
        let flags = [&["--reuse", earlier], flags].concat();
        let said = expect(exit_code::INPUT, profile(job, &out, &flags));
        assert!(says.iter().all(|says| said.err.contains(says)), "{says:?}: {}", said.err);
        assert!(!out.exists());
    };
    refused(SMALL, &["--gpu-sku", "h100_sxm"], &["gpu: then", "h200"]);
    refused(SMALL, &["--image", "registry.example/vllm-runtime:2"], &["image: then", "registry.example"]);
    refused(SMALL, &["--backend", "sglang", "--seed", "7"], &["backend: then vllm, now sglang", "seed: then"]);
    refused(&SMALL.replace("Qwen3-0.6B", "Qwen3-8B"), &[], &["model: then"]);
    // Longer prompts are other flags.
    refused(&SMALL.replace("\"isl\": 500", "\"isl\": 2000"), &[], &["engine "]);

    let old = dir.path().join("old");
    std::fs::create_dir(&old).unwrap();
    let said = expect(exit_code::OUTPUT, profile(SMALL, &out, &["--reuse", old.to_str().unwrap()]));
    assert!(said.err.contains("journal.jsonl"), "{}", said.err);
}

/// Nobody asked for it.
#[test]
fn without_reuse_nothing_is_taken_over_even_from_the_same_parent_folder() {
    let dir = tempfile::tempdir().unwrap();
    expect(exit_code::OK, profile(SMALL, &dir.path().join("a"), &[]));
    expect(exit_code::OK, profile(SMALL, &dir.path().join("b"), &[]));
    assert_eq!(count(&dir.path().join("b"), "reused"), 0);
    assert_eq!(count(&dir.path().join("b"), "measured"), count(undisturbed(), "measured"));
}

/// Engines whose first launch fails of something that passes: in the journal, in the cost, and in no artifact's way.
#[test]
fn a_fault_that_passed_is_counted_once_wherever_the_run_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--passing-fault-rate", "1"];
    let whole = dir.path().join("whole");
    expect(exit_code::OK, profile(SMALL, &whole, &flags));
    let retries = count(&whole, "retrying");
    assert!(retries > 0 && count(&whole, "failed") == 0);
    let result: Value = serde_json::from_slice(&findings(&whole)["result.json"]).unwrap();
    assert_eq!(result["cost"]["retries"], retries);
    let undisturbed: Value = serde_json::from_slice(&findings(undisturbed())["result.json"]).unwrap();
    assert_eq!(result["selected"], undisturbed["selected"], "what passed changes no answer");
    assert!(result["cost"]["gpu_seconds"].as_f64() > undisturbed["cost"]["gpu_seconds"].as_f64());

    let journal = std::fs::read_to_string(whole.join("journal.jsonl")).unwrap();
    let lines: Vec<&str> = journal.lines().collect();
    let at = lines.iter().position(|line| line.contains("\"event\":{\"retrying\"")).unwrap();
    for kept in [at, at + 1, at + 2, at + 3] {
        let out = dir.path().join(format!("cut-{kept}"));
        expect(exit_code::OK, profile(SMALL, &out, &flags));
        std::fs::write(out.join("journal.jsonl"), lines[..kept].join("\n") + "\n").unwrap();
        expect(exit_code::OK, profile(SMALL, &out, &[&flags[..], &["--resume"]].concat()));
        assert_eq!(count(&out, "retrying"), retries, "cut after {kept} records");
        assert_same_findings(&whole, &out);
    }
    let said = expect(exit_code::OK, sla_profiler(["explain", whole.to_str().unwrap()]));
    assert!(said.out.contains("tried again after"), "{}", said.out);
}
