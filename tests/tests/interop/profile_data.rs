//! What a run writes, read by Dynamo's planner, mocker and profiler.

use std::collections::BTreeMap;
use std::fs;
use std::sync::LazyLock;

use serde_json::{Value, json};
use sla_profiler_tests::nvidia;
use sla_profiler_tests::recorded::QUICKSTART;

/// What NVIDIA's packages said of the run.
static SAID: LazyLock<Value> = LazyLock::new(|| {
    let mut command = nvidia::script("load_profile.py");
    command.arg(&QUICKSTART.path);
    serde_json::from_str(&nvidia::expect(command, "").out).unwrap()
});

/// Both forms: NPZ files in the run directory, and the JSON of the ConfigMap.
const FORMS: [&str; 2] = ["npz", "json"];

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn near(one: f64, other: f64, relative: f64) -> bool {
    (one - other).abs() <= relative * other.abs()
}

/// The row of measurements.csv whose column holds the value, which went through seconds and back.
fn measured(column: &str, ms: f64) -> BTreeMap<String, String> {
    let text = fs::read_to_string(QUICKSTART.path.join("measurements.csv")).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let mut rows = lines.map(|line| -> BTreeMap<String, String> {
        names.iter().map(|name| (*name).to_owned()).zip(line.split(',').map(str::to_owned)).collect()
    });
    rows.find(|row| row[column].parse().is_ok_and(|value| near(value, ms, 1e-9))).expect("it was measured")
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn the_profiler_loads_the_curves_with_every_column() {
    let said = &SAID["profiler"];
    for (role, columns) in [
        ("prefill", &["prefill_isl", "prefill_ttft", "prefill_thpt_per_gpu"][..]),
        ("decode", &["x_kv_usage", "y_context_length", "z_itl", "z_thpt_per_gpu"]),
    ] {
        let lengths: Vec<usize> = columns.iter().map(|column| numbers(&said[role][column]).len()).collect();
        assert!(lengths[0] >= 5 && lengths.iter().all(|length| *length == lengths[0]), "{role}: {lengths:?}");
    }
    assert!(said["decode"]["max_kv_tokens"].as_u64().unwrap() > 100_000);
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn the_planner_finds_the_prefill_points_that_were_measured() {
    for form in FORMS {
        let points = SAID[form]["planner"]["prefill"].as_array().unwrap();
        for point in points {
            let point = numbers(point);
            let row = measured("ttft_ms_mean", point[1]);
            assert_eq!(row["isl_tokens"].parse(), Ok(point[0]), "{form}");
        }
        assert_eq!(points.len(), numbers(&SAID["profiler"]["prefill"]["prefill_isl"]).len(), "{form}");
    }
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn the_planner_derives_the_number_of_requests_that_ran() {
    for form in FORMS {
        let points = SAID[form]["planner"]["decode"].as_array().unwrap();
        for point in points {
            let point = numbers(point);
            let seen: f64 = measured("itl_ms_mean", point[2])["concurrency_seen"].parse().unwrap();
            // The KV cache counts whole blocks, and requests are in the middle of their answers on average only.
            assert!((point[0] - seen).abs() <= 1.0 + 0.1 * seen, "{form}: {} requests, {seen} were seen", point[0]);
        }
        assert_eq!(points.len(), numbers(&SAID["profiler"]["decode"]["z_itl"]).len(), "{form}");
    }
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn the_planners_regressions_fit_and_agree_with_our_plan() {
    let result: Value = serde_json::from_slice(&fs::read(QUICKSTART.path.join("result.json")).unwrap()).unwrap();
    let plan = &result["plan"];
    let of_one = |role: &str| {
        let all = plan[format!("{role}_requests_per_second")].as_f64().unwrap();
        all / plan[format!("{role}_replicas")].as_f64().unwrap()
    };
    for form in FORMS {
        let fit = &SAID[form]["planner"]["fit"];
        for role in ["prefill", "decode"] {
            let theirs = fit[format!("{role}_rps")].as_f64().unwrap();
            // A straight line through a bent curve: theirs, too, is an estimate.
            assert!(near(theirs, of_one(role), 0.2), "{form} {role}: theirs {theirs}, ours {}", of_one(role));
        }
        assert!(fit["itl_ms"].as_f64().unwrap() <= 10.0 && fit["ttft_ms"].as_f64().unwrap() <= 300.0, "{fit}");
    }
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn the_mocker_makes_its_table_of_both_forms_and_runs_on_it() {
    let shape = |shape: Value| json!(["float64", shape]);
    for form in FORMS {
        let said = &SAID[form]["mocker"];
        assert_eq!(
            said["shapes"],
            json!({
                "prefill_isl": shape(json!([100])), "prefill_ttft_ms": shape(json!([100])),
                "decode_active_kv_tokens": shape(json!([100])), "decode_context_length": shape(json!([100])),
                "decode_itl": shape(json!([100, 100])),
            })
        );
        assert_eq!(said["finite"], true, "{form}");
        let number = |key: &str| said[key].as_f64().unwrap();
        // The table has steps; the one above is up to a hundredth of the longest prompt away.
        assert!(near(number("replayed_ttft_ms"), number("ttft_in_table_ms"), 0.05), "{form}: {said}");
        assert!(number("replayed_itl_ms") > 1.0 && number("replayed_itl_ms") < 10.0, "{form}: {said}");
    }
    assert_eq!(SAID["npz"]["mocker"], SAID["json"]["mocker"], "both forms hold the same");
}

#[test]
#[ignore = "needs NVIDIA's packages: cargo xtask test"]
fn generated_command_lines_and_settings_are_taken_by_the_programs_that_they_are_for() {
    for (name, backend) in [("planner_config", "vllm"), ("mocker_planner_config", "mocker")] {
        let config = &SAID[name];
        assert_eq!(config["backend"], backend, "{config}");
        assert_eq!((&config["ttft_ms"], &config["itl_ms"]), (&json!(300.0), &json!(10.0)), "{config}");
        assert_eq!(config["pre_deployment_sweeping_mode"], "thorough", "{config}");
    }
    let deployment = &SAID["mocker_deployment"];
    for (role, mode) in [("prefill", "prefill"), ("decode", "decode")] {
        assert_eq!(deployment[role]["disaggregation_mode"], mode, "{deployment}");
        assert_eq!(deployment[role]["engine_type"], "vllm", "{deployment}");
    }
    let blocks = ["num_gpu_blocks", "block_size"].map(|key| deployment["decode"][key].as_u64().unwrap());
    let capacity = SAID["profiler"]["decode"]["max_kv_tokens"].as_u64().unwrap();
    assert!(blocks[0] * blocks[1] <= capacity && capacity < (blocks[0] + 1) * blocks[1], "{blocks:?} {capacity}");
}
