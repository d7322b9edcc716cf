//! What a run may cost: budgets are kept, the best answer so far is given, a larger budget goes on, and `plan` says before
//! what it would take.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::path::Path;

use serde_json::Value;
use sla_profiler::output::exit_code;
use sla_profiler::run::journal;
use sla_profiler::run::{Durability, Existing, Journal, RunDir};
use sla_profiler_tests::runs::{QUICKSTART, assert_same_findings, expect, profile};
use sla_profiler_tests::{run, sla_profiler};

const FLAGS: &[&str] = &["--no-auto-apply"];

fn result(out: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(out.join("result.json")).ok()?).ok()
}

/// GPU-hours that engines held, and the last moment in minutes, as the journal tells.
fn used(out: &Path) -> (f64, f64) {
    let (_, records) = Journal::open(&RunDir::open(out, Existing::Resume).unwrap(), Durability::Flush).unwrap();
    let last_s = records.last().map_or(0.0, |record| record.at_s);
    (journal::gpu_seconds(&records) / 3600.0, last_s / 60.0)
}

#[test]
fn budgets_are_never_exceeded_and_a_larger_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let undisturbed = dir.path().join("undisturbed");
    expect(exit_code::OK, profile(QUICKSTART, &undisturbed, FLAGS));
    let (whole_hours, whole_minutes) = used(&undisturbed);
    let (mut answers, mut none) = (0, 0);
    for percent in [3, 15, 30, 45, 60, 75, 90] {
        let part = f64::from(percent) / 100.0;
        for limit in ["--max-gpu-hours", "--max-wall", "--max-cost"] {
            let out = dir.path().join(format!("{percent}{limit}"));
            let (hours, minutes) = (whole_hours * part, whole_minutes * part);
            let value = match limit {
                "--max-gpu-hours" => hours.to_string(),
                "--max-wall" => format!("{minutes}m"),
                _ => (hours * 2.5).to_string(),
            };
            let said = run(profile(QUICKSTART, &out, &[FLAGS, &[limit, &value, "--gpu-hour-price", "2.5"]].concat()));
            let (used_hours, used_minutes) = used(&out);
            assert!(
                if limit == "--max-wall" { used_minutes <= minutes } else { used_hours <= hours },
                "{limit} {value}: {used_hours} GPU-hours, {used_minutes} minutes"
            );
            match u8::try_from(said.code).unwrap() {
                exit_code::OUT_OF_BUDGET => {
                    none += 1;
                    assert!(said.err.contains("larger budget and --resume"), "{}", said.err);
                    assert!(result(&out).is_none());
                }
                exit_code::OK | exit_code::INFEASIBLE => {
                    answers += 1;
                    let result = result(&out).unwrap();
                    if !result["incomplete"].is_null() {
                        assert!(said.out.contains("Only the best answer so far"), "{}", said.out);
                        assert!(!result["incomplete"]["not_looked_at"].as_array().unwrap().is_empty());
                    }
                }
                other => panic!("{other}: {}{}", said.out, said.err),
            }
            if percent == 45 {
                expect(
                    exit_code::OK,
                    profile(QUICKSTART, &out, &[FLAGS, &["--resume", "--max-gpu-hours", "9"]].concat()),
                );
                assert_same_findings(&undisturbed, &out);
            }
        }
    }
    assert!(answers > 0 && none > 0, "{answers} with an answer, {none} without");
}

#[test]
fn plan_says_before_what_a_run_takes() {
    let dir = tempfile::tempdir().unwrap();
    for seed in ["1", "2", "3"] {
        let plan =
            sla_profiler(["plan", QUICKSTART, "--json", "--gpu-hour-price", "3", "--seed", seed, "--max-wall", "1m"]);
        let plan: Value = serde_json::from_str(&expect(exit_code::OK, plan).out).unwrap();
        let out = dir.path().join(seed);
        run(profile(QUICKSTART, &out, &[FLAGS, &["--seed", seed]].concat()));
        let (hours, minutes) = used(&out);
        let range = |key: &str| (plan["low"][key].as_f64().unwrap(), plan["high"][key].as_f64().unwrap());
        for (key, truth) in [("gpu_hours", hours), ("wall_s", minutes * 60.0), ("cost", hours * 3.0)] {
            let (low, high) = range(key);
            assert!((low..=high).contains(&truth), "seed {seed}: {key} {truth} is not in {low} to {high}");
        }
        assert!(plan["rests_on"].as_array().unwrap().len() >= 2);
        assert!(plan["budget"].as_str().unwrap().contains("will not do"), "{}", plan["budget"]);
    }
    assert!(!Path::new("profiling_results").exists(), "nothing is created");
}

#[test]
fn budgets_that_make_no_sense_are_refused() {
    for (flags, says) in [
        (vec!["--max-cost", "3"], "needs the price of a GPU"),
        (vec!["--max-wall", "soon"], "40m, 1.5h or 90s"),
        (vec!["--max-gpu-hours", "-1"], "--max-gpu-hours"),
    ] {
        let mut command = sla_profiler(["plan", QUICKSTART]);
        command.args(flags);
        let said = expect(exit_code::USAGE, command);
        assert!(said.err.contains(says), "{}", said.err);
    }
}
