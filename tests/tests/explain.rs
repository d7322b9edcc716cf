//! `sla-profiler explain`: why a run came out as it did.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use serde_json::Value;
use sla_profiler_tests::recorded::{INFEASIBLE, QUICKSTART, Recorded};
use sla_profiler_tests::{Said, run, sla_profiler};

fn text(run_dir: &str, more: &[&str]) -> Said {
    let mut command = sla_profiler(["explain", run_dir]);
    command.args(more);
    run(command)
}

fn explain(run_dir: &str) -> Value {
    let said = text(run_dir, &["--output", "json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    serde_json::from_str(&said.out).unwrap()
}

fn winner_under(run_dir: &str, flag: &str, ms: f64, role: usize) -> (String, bool) {
    let mut command = sla_profiler(["replay", run_dir, "--output", "json", flag]);
    command.arg(ms.to_string());
    let said = run(command);
    assert_eq!(said.code, 0, "{}", said.err);
    let answer: Value = serde_json::from_str(&said.out).unwrap();
    let role = &answer["roles"][role];
    (role["winner"]["after"].as_str().unwrap().to_owned(), role["choice"]["after"]["meets_sla"].as_bool().unwrap())
}

#[test]
fn the_target_that_would_make_a_candidate_win_does_make_it_win() {
    let explained = explain(QUICKSTART.arg());
    let mut tried = 0;
    for (role, flag) in [(0, "--ttft"), (1, "--itl")] {
        for row in explained["roles"][role]["rows"].as_array().unwrap() {
            for range in row["wins_under"].as_array().unwrap() {
                let mapping = row["mapping"].as_str().unwrap();
                let from = range["from_ms"].as_f64().unwrap();
                assert_eq!(winner_under(QUICKSTART.arg(), flag, from, role), (mapping.to_owned(), true));
                if let Some(below) = range["below_ms"].as_f64() {
                    assert_ne!(winner_under(QUICKSTART.arg(), flag, below, role).0, mapping);
                    let inside = (from + below) / 2.0;
                    assert_eq!(winner_under(QUICKSTART.arg(), flag, inside, role).0, mapping);
                }
                tried += 1;
            }
        }
    }
    assert!(tried >= 4, "several candidates win under some target: {explained:#}");
}

#[test]
fn the_winner_of_the_run_is_selected_and_its_own_target_lies_in_its_range() {
    let explained = explain(QUICKSTART.arg());
    let result: Value = serde_json::from_slice(&std::fs::read(QUICKSTART.path.join("result.json")).unwrap()).unwrap();
    for (role, target) in [(0, 300.0), (1, 10.0)] {
        let report = &explained["roles"][role];
        let first = &report["rows"][0];
        assert_eq!(first["status"], "selected");
        let selected = result["candidates"].as_array().unwrap().iter().filter(|row| row["verdict"] == "selected");
        assert!(selected.map(|row| &row["id"]).any(|id| *id == first["candidate"]), "{first:#}");
        let within = |range: &Value| {
            range["from_ms"].as_f64().unwrap() <= target && range["below_ms"].as_f64().is_none_or(|b| target < b)
        };
        assert!(first["wins_under"].as_array().unwrap().iter().any(within), "{first:#}");
        assert!(first["slack"].as_f64().unwrap() >= 0.0);
    }
}

#[test]
fn no_point_of_the_pareto_front_is_beaten_and_every_other_point_is() {
    let explained = explain(QUICKSTART.arg());
    let journal = std::fs::read_to_string(QUICKSTART.path.join("journal.jsonl")).unwrap();
    let mut points: Vec<(u64, u64, f64, f64)> = Vec::new();
    for line in journal.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let measured = &record["event"]["measured"];
        let m = &measured["measurement"];
        if measured["phase"] == "decode_sweep" {
            points.push((
                m["candidate"].as_u64().unwrap(),
                m["concurrency"].as_u64().unwrap(),
                m["itl_ms"]["target"].as_f64().unwrap(),
                m["output_tokens_per_second_per_gpu"].as_f64().unwrap(),
            ));
        }
    }
    let front: Vec<(u64, u64)> = explained["roles"][1]["front"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["candidate"].as_u64().unwrap(), p["concurrency"].as_u64().unwrap()))
        .collect();
    assert!(front.len() > 3 && points.len() > front.len());
    for (candidate, concurrency, itl, tokens) in &points {
        let beaten = points.iter().any(|(_, _, i, t)| i <= itl && t >= tokens && (i < itl || t > tokens));
        assert_eq!(front.contains(&(*candidate, *concurrency)), !beaten, "{candidate} at {concurrency}");
    }
}

#[test]
fn an_sla_that_nothing_meets_comes_with_the_nearest_that_something_does() {
    let explained = explain(INFEASIBLE.arg());
    let decode = &explained["roles"][1];
    assert_eq!(decode["feasible"], false);
    let nearest = decode["nearest_achievable_ms"].as_f64().unwrap();
    assert!(winner_under(INFEASIBLE.arg(), "--itl", nearest, 1).1, "{nearest} ms is achievable");
    assert!(!winner_under(INFEASIBLE.arg(), "--itl", nearest * 0.99, 1).1, "and less is not");
    let said = text(INFEASIBLE.arg(), &[]);
    assert!(said.out.contains("nearest achievable target is ITL"), "{}", said.out);
}

#[test]
fn one_candidate_can_be_asked_about_in_several_spellings() {
    for name in ["decode tp4", "decode_4gpus_tp4", "DECODE TP4"] {
        let said = text(QUICKSTART.arg(), &[name]);
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(said.out.starts_with("decode tp4 (4 GPUs): lost"), "{}", said.out);
    }
    let both = text(QUICKSTART.arg(), &["tp4"]).out;
    assert!(both.contains("prefill tp4") && both.contains("decode tp4"), "{both}");
    let said = text(QUICKSTART.arg(), &["decode tp3"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("prefill tp1"), "{}", said.err);
}

#[test]
fn failed_and_unmeasured_candidates_say_so() {
    let run = Recorded::new(&["--fault-rate", "0.4", "--seed", "3", "--request-rate", "5", "--no-auto-apply"], 0);
    let explained = explain(run.arg());
    let rows: Vec<&Value> =
        explained["roles"].as_array().unwrap().iter().flat_map(|role| role["rows"].as_array().unwrap()).collect();
    let failed: Vec<_> = rows.iter().filter(|row| row["status"] == "failed").collect();
    assert!(!failed.is_empty(), "with this seed some launches fail: {explained:#}");
    for row in failed {
        assert!(!row["reason"].as_str().unwrap().is_empty() && row["points"] == 0, "{row:#}");
        assert_eq!(row["wins_under"], Value::Array(Vec::new()));
    }
}

#[test]
fn what_an_infeasible_sla_would_take_is_asked_and_true() {
    let plan = explain(INFEASIBLE.arg())["plan"].clone();
    assert_eq!(plan["meets_sla"], false);
    let loosened = &plan["loosened"];
    let replay = |factor: f64| {
        let mut command = sla_profiler(["replay", INFEASIBLE.arg(), "--output", "json"]);
        let ms = |name: &str| (loosened["targets"][name].as_f64().unwrap() * factor).to_string();
        command.args(["--ttft", &ms("ttft_ms"), "--itl", &ms("itl_ms")]);
        let said = run(command);
        assert_eq!(said.code, 0, "{}", said.err);
        serde_json::from_str::<Value>(&said.out).unwrap()["meets_sla"]["after"].as_bool().unwrap()
    };
    assert!(replay(1.0) && !replay(0.98), "{loosened:#}");
    let said = text(INFEASIBLE.arg(), &[]);
    assert!(said.out.contains("It does not meet the SLA.") && said.out.contains("times as loose"), "{}", said.out);
}

#[test]
fn a_budget_that_does_not_reach_comes_with_the_smallest_that_does() {
    let run_dir = Recorded::new(&["--request-rate", "200", "--no-auto-apply"], 0);
    let plan = explain(run_dir.arg())["plan"].clone();
    assert_eq!(plan["meets_demand"], false);
    let needed = plan["gpus_needed"].as_u64().unwrap();
    let gpus = |total: u64| {
        let mut command = sla_profiler(["replay", run_dir.arg(), "--output", "json", "--total-gpus"]);
        command.arg(total.to_string());
        let answer: Value = serde_json::from_str(&run(command).out).unwrap();
        answer["answer"]["plan"]["meets_demand"].as_bool().unwrap()
    };
    assert!(gpus(needed) && !gpus(needed - 1), "{needed}");
}
