//! `sla-profiler replay` and `plugin diff`: recorded runs, asked again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use sla_profiler_tests::recorded::{INFEASIBLE, QUICKSTART};
use sla_profiler_tests::{Said, run, sla_profiler};

fn replay(run_dir: &str, more: &[&str]) -> Value {
    let said = text(run_dir, &[&["--output", "json"], more].concat());
    assert_eq!(said.code, 0, "{}", said.err);
    serde_json::from_str(&said.out).unwrap()
}

fn text(run_dir: &str, more: &[&str]) -> Said {
    let mut command = sla_profiler(["replay", run_dir]);
    command.args(more);
    run(command)
}

/// Every file below a folder with its content.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.display().to_string(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn the_runs_own_plugins_decide_as_they_did_and_nothing_in_the_run_changes() {
    let before = content(&QUICKSTART.path);
    let answer = replay(QUICKSTART.arg(), &[]);
    assert_eq!(answer["changed"], false, "{answer:#}");
    let result: Value = serde_json::from_slice(&std::fs::read(QUICKSTART.path.join("result.json")).unwrap()).unwrap();
    let plan = &answer["answer"]["plan"];
    for what in ["prefill_replicas", "decode_replicas", "decode_concurrency", "assumptions"] {
        assert_eq!(plan[what], result["plan"][what], "{what}");
    }
    for what in ["capacity_requests_per_second", "expected_ttft_ms", "expected_itl_ms"] {
        let (a, b) = (plan[what].as_f64().unwrap(), result["plan"][what].as_f64().unwrap());
        assert!((a - b).abs() <= 1e-12 * a.abs(), "{what}: {a}, {b}");
    }
    assert!(text(QUICKSTART.arg(), &[]).out.contains("Nothing changes."));
    assert_eq!(content(&QUICKSTART.path), before);
}

#[test]
fn a_tighter_target_changes_the_winner_and_says_why() {
    let answer = replay(QUICKSTART.arg(), &["--itl", "5"]);
    let decode = &answer["roles"][1];
    assert_eq!(decode["changed"], true, "{answer:#}");
    assert_eq!((&decode["winner"]["before"], &decode["winner"]["after"]), (&"tp1".into(), &"tp2".into()));
    assert_eq!(answer["targets"]["itl_ms"], 5.0);
    assert_eq!(answer["recorded_targets"]["itl_ms"], 10.0);
    let said = text(QUICKSTART.arg(), &["--itl", "5"]);
    assert!(said.out.contains("was measured in the sweep only"), "{}", said.out);
}

#[test]
fn another_policy_is_named_and_may_decide_otherwise() {
    let answer = replay(QUICKSTART.arg(), &["--selection", "select-cost", "--itl", "6"]);
    assert_eq!(answer["answer"]["selected_by"]["name"], "select-cost");
    let (before, after) = (&answer["gpus"]["before"], &answer["gpus"]["after"]);
    assert!(before.is_u64() && after.is_u64(), "{answer:#}");
    let setting = replay(QUICKSTART.arg(), &["--planner-setting", "max-utilization=0.3"]);
    let replicas = |answer: &Value, when: &str| answer["replicas"][1][when].as_u64().unwrap();
    assert!(replicas(&setting, "after") > replicas(&setting, "before"), "{setting:#}");
}

#[test]
fn more_traffic_takes_more_engines() {
    let answer = replay(QUICKSTART.arg(), &["--request-rate", "60"]);
    let engines =
        |when: &str| answer["replicas"].as_array().unwrap().iter().map(|r| r[when].as_u64().unwrap()).sum::<u64>();
    assert!(engines("after") > engines("before"), "{answer:#}");
}

#[test]
fn only_statistics_that_the_journal_keeps_can_be_asked_for() {
    let mean = replay(QUICKSTART.arg(), &["--sla-quantile", "mean"]);
    assert_eq!(mean["changed"], false);
    let p99 = replay(QUICKSTART.arg(), &["--sla-quantile", "0.99"]);
    assert_eq!(p99["targets"]["quantile"], 0.99);
    let said = text(QUICKSTART.arg(), &["--sla-quantile", "0.95"]);
    assert_eq!(said.code, 3);
    assert!(said.err.contains("p95") && said.err.contains("0.99"), "{}", said.err);
}

#[test]
fn the_runs_own_strategy_costs_what_it_did_cost() {
    let sweep = &replay(QUICKSTART.arg(), &["--sweep", "sweep-adaptive"])["sweep"];
    let (recorded, replayed) = (&sweep["recorded"], &sweep["replayed"]);
    assert_eq!(sweep["same_selection"], true);
    for what in ["measurements", "launches", "steps", "winners"] {
        assert_eq!(recorded[what], replayed[what], "{what}");
    }
    assert_eq!(replayed["from_recording"], recorded["measurements"]);
    assert_eq!((&replayed["from_simulation"], &replayed["unknown"]), (&0.into(), &0.into()));
    for what in ["gpu_seconds", "wall_s"] {
        let (a, b) = (recorded[what].as_f64().unwrap(), replayed[what].as_f64().unwrap());
        assert!((a - b).abs() <= 0.01 * a, "{what}: {a} recorded, {b} replayed");
    }
}

#[test]
fn another_strategy_gets_what_the_recording_lacks_from_the_simulated_cluster() {
    let sweep = &replay(QUICKSTART.arg(), &["--sweep", "sweep-grid"])["sweep"];
    let count = |what: &str| sweep["replayed"][what].as_u64().unwrap();
    assert!(count("from_recording") > 0 && count("from_simulation") > 0, "{sweep:#}");
    assert_eq!(count("from_recording") + count("from_simulation") + count("unknown"), count("measurements"));
    assert_eq!(count("unknown"), 0);
}

#[test]
fn without_a_simulation_points_that_were_never_measured_are_counted_as_unknown() {
    // As a run on real GPUs would have it; checksums are made anew.
    let folder = QUICKSTART.with_journal(|journal| {
        let mut lines = journal.lines();
        let first = lines.next().unwrap();
        let mut record: Value = serde_json::from_str(first).unwrap();
        record["event"]["run_started"].as_object_mut().unwrap().remove("simulation").expect("it was recorded");
        record.as_object_mut().unwrap().remove("sum");
        let rest: Vec<&str> = lines.collect();
        format!("{}\n{}\n", sealed(&record), rest.join("\n"))
    });
    let sweep = &replay(folder.path().to_str().unwrap(), &["--sweep", "sweep-grid"])["sweep"];
    assert!(sweep["replayed"]["unknown"].as_u64().unwrap() > 0, "{sweep:#}");
    assert_eq!(sweep["replayed"]["from_simulation"], 0);
}

/// The record with its checksum, as the journal writes it.
fn sealed(record: &Value) -> String {
    let json = record.to_string();
    let body = json.strip_suffix('}').unwrap();
    format!("{body},\"sum\":\"{:08x}\"}}", crc32(body.as_bytes()))
}

/// CRC-32 (IEEE), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[test]
fn a_run_that_found_nothing_good_enough_can_be_asked_for_something_looser() {
    let same = replay(INFEASIBLE.arg(), &[]);
    assert_eq!((&same["changed"], &same["meets_sla"]["after"]), (&false.into(), &false.into()));
    let looser = replay(INFEASIBLE.arg(), &["--itl", "10"]);
    assert_eq!(looser["meets_sla"]["after"], true, "{looser:#}");
}

#[test]
fn a_torn_last_line_is_left_out_and_a_broken_one_before_it_is_named() {
    let torn = QUICKSTART.with_journal(|journal| {
        let cut = journal.trim_end().len() - 7;
        journal[..cut].to_owned()
    });
    assert_eq!(replay(torn.path().to_str().unwrap(), &[])["changed"], false);
    let broken = QUICKSTART.with_journal(|journal| {
        let mut lines: Vec<String> = journal.lines().map(str::to_owned).collect();
        lines[4] = lines[4].replacen("at_s", "at_S", 1);
        lines.join("\n") + "\n"
    });
    let said = text(broken.path().to_str().unwrap(), &[]);
    assert_eq!(said.code, 9);
    assert!(said.err.contains("journal.jsonl:5"), "{}", said.err);
}

#[test]
fn a_journal_of_another_format_a_missing_one_and_an_empty_one_are_told_apart() {
    let newer = QUICKSTART.with_journal(|journal| journal.replacen("\"format\":1", "\"format\":7", 1));
    let said = text(newer.path().to_str().unwrap(), &[]);
    assert_eq!(said.code, 9);
    assert!(said.err.contains("format 7"), "{}", said.err);
    let empty = QUICKSTART.with_journal(|_| String::new());
    assert!(text(empty.path().to_str().unwrap(), &[]).err.contains("holds no run"));
    let nothing = tempfile::tempdir().unwrap();
    assert!(text(nothing.path().to_str().unwrap(), &[]).err.contains("journal.jsonl"));
    let said = text("no/such/run", &[]);
    assert_eq!(said.code, 9);
    assert!(said.err.contains("no/such/run"), "{}", said.err);
}

#[test]
fn a_run_that_was_cut_off_before_it_measured_decode_has_nothing_to_decide() {
    let early = QUICKSTART.with_journal(|journal| {
        let kept = journal.lines().take_while(|line| !line.contains("\"measured\":{\"phase\":\"decode_sweep\""));
        kept.map(|line| format!("{line}\n")).collect()
    });
    let said = text(early.path().to_str().unwrap(), &[]);
    assert_eq!(said.code, 8);
    assert!(said.err.contains("no decode candidate was measured"), "{}", said.err);
}

#[test]
fn a_run_that_was_cut_off_before_selection_can_be_decided_now() {
    let early = QUICKSTART.with_journal(|journal| {
        let kept = journal.lines().take_while(|line| !line.contains("\"phase_started\":{\"phase\":\"selection\""));
        kept.map(|line| format!("{line}\n")).collect()
    });
    let answer = replay(early.path().to_str().unwrap(), &[]);
    assert_eq!(answer["roles"][1]["winner"]["before"], Value::Null);
    assert_eq!(answer["roles"][1]["winner"]["after"], "tp1");
}

#[test]
fn plugin_diff_says_where_two_policies_part_and_that_one_agrees_with_itself() {
    let runs = [QUICKSTART.arg(), INFEASIBLE.arg()];
    let diff = |a: &str, b: &str| {
        let mut command = sla_profiler(["--output", "json", "plugin", "diff", a, b]);
        command.args(runs);
        let said = run(command);
        assert_eq!(said.code, 0, "{}", said.err);
        serde_json::from_str::<Value>(&said.out).unwrap()
    };
    let same = diff("select-throughput", "select-throughput");
    assert_eq!((&same["agree"], &same["differ"]), (&2.into(), &0.into()));
    let other = diff("select-throughput", "select-cost");
    assert_eq!(other["agree"].as_u64().unwrap() + other["differ"].as_u64().unwrap(), 2);
    let said = run(sla_profiler(["plugin", "diff", "select-throughput", "planner-sla", runs[0]]));
    assert_eq!(said.code, 4, "two kinds cannot be compared: {}", said.err);
}

#[test]
fn plugin_diff_says_what_two_strategies_find_and_take() {
    let said =
        run(sla_profiler(["--output", "json", "plugin", "diff", "sweep-adaptive", "sweep-grid", QUICKSTART.arg()]));
    assert_eq!(said.code, 0, "{}", said.err);
    let output: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(output["agree"].as_u64().unwrap() + output["differ"].as_u64().unwrap(), 1);
    let row = &output["runs"][0];
    assert_eq!(row["a"]["from_simulation"], 0, "the run's own strategy asks for what was recorded: {row}");
    // As `replay --sweep` has it.
    assert_eq!(row["b"], replay(QUICKSTART.arg(), &["--sweep", "sweep-grid"])["sweep"]["replayed"], "{row}");
    let shown = run(sla_profiler(["plugin", "diff", "sweep-grid", "sweep-grid", QUICKSTART.arg()]));
    assert!(shown.out.contains("same winners in 1 of 1 runs"), "{}", shown.out);
    assert!(shown.out.contains("takes 1.00 of the points"), "{}", shown.out);
}
