//! `raw_data.npz` read with numpy, as Dynamo's planner and mocker do.
//!
//! Needs a Python with numpy (`tests/requirements.txt`): the one that `SLA_PROFILER_PYTHON` names, which
//! `cargo xtask test` sets up, else `python3`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failure is the message"
)]

use std::{ffi::OsString, path::Path, process::Command};

use serde_json::{Value, json};
use sla_profiler::{
    dgd::{DecodeTable, PrefillTable},
    domain::{Measurement, Stat},
    render::npz,
};

fn python() -> OsString {
    let python = std::env::var_os("SLA_PROFILER_PYTHON").unwrap_or_else(|| "python3".into());
    let numpy = Command::new(&python).args(["-c", "import numpy"]).output();
    assert!(
        numpy.is_ok_and(|o| o.status.success()),
        "{} has no numpy: run `cargo xtask test`, or let SLA_PROFILER_PYTHON name a Python that has it",
        python.display()
    );
    python
}

fn read(npz: &[u8]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("raw_data.npz");
    std::fs::write(&file, npz).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/read_npz.py");
    let output = Command::new(python()).arg(script).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn stat(mean: f64) -> Stat {
    Stat { mean, p50: 2.0, p90: 3.0, p99: 4.0, ci_low: mean - 0.5, ci_high: mean + 0.5, target: 9.0 }
}

fn measurement(isl: u32, osl: u32, concurrency: u32) -> Measurement {
    Measurement {
        candidate: 0,
        isl,
        osl,
        concurrency,
        concurrency_seen: 230.5,
        ttft_ms: None,
        itl_ms: None,
        samples: 12,
        failed_requests: 0,
        input_tokens_per_second_per_gpu: 4000.0,
        output_tokens_per_second_per_gpu: 500.0,
        kv_usage: 0.125,
        kv_usage_nominal: 0.58,
        duration_s: 1.0,
    }
}

fn array(dtype: &str, values: Value) -> Value {
    json!({ "dtype": dtype, "shape": [values.as_array().unwrap().len()], "values": values })
}

#[test]
fn numpy_reads_the_prefill_curve_with_dynamos_keys_types_and_shapes() {
    let ttft = |isl, mean| Measurement { ttft_ms: Some(stat(mean)), ..measurement(isl, 5, 1) };
    let failed = Measurement { ttft_ms: None, ..measurement(50, 5, 1) };
    let table = PrefillTable::new(&[ttft(4000, 250.5), ttft(100, 20.25), failed, ttft(70, f64::NAN)]);
    let file = read(&npz::prefill(&table).unwrap());
    assert_eq!(file["prefill_isl"], array("int64", json!([100, 4000])), "ascending, and without what was not measured");
    assert_eq!(file["prefill_ttft"], array("float64", json!([20.25, 250.5])));
    assert_eq!(file["prefill_thpt_per_gpu"], array("float64", json!([4000.0, 4000.0])));
    assert_eq!(file["prefill_ttft_ci_low"], array("float64", json!([19.75, 250.0])));
    assert_eq!(file["prefill_samples"], array("int64", json!([12, 12])));
}

#[test]
fn numpy_reads_the_decode_surface_with_the_kv_usage_that_was_measured() {
    let itl = |isl, concurrency, mean| Measurement { itl_ms: Some(stat(mean)), ..measurement(isl, 500, concurrency) };
    let table =
        DecodeTable::new(&[itl(6843, 1, 11.0), itl(100, 858, 25.5), itl(100, 1, 10.0), itl(1, 1, f64::NAN)], 643_891);
    let file = read(&npz::decode(&table).unwrap());
    assert_eq!(file["x_kv_usage"], array("float64", json!([0.125, 0.125, 0.125])));
    assert_eq!(file["y_context_length"], array("float64", json!([350.0, 350.0, 7093.0])));
    assert_eq!(file["z_itl"], array("float64", json!([10.0, 25.5, 11.0])));
    assert_eq!(file["z_thpt_per_gpu"], array("float64", json!([500.0, 500.0, 500.0])));
    assert_eq!(file["max_kv_tokens"], array("int64", json!([643_891])), "shape (1,), of which the planner takes [0]");
    assert_eq!(file["x_kv_usage_nominal"], array("float64", json!([0.58, 0.58, 0.58])));
    assert_eq!(file["z_concurrency"], array("int64", json!([1, 858, 1])));
    assert_eq!(file["z_concurrency_seen"], array("float64", json!([230.5, 230.5, 230.5])));
    assert_eq!(file["z_itl_p99"], array("float64", json!([4.0, 4.0, 4.0])));
}

#[test]
fn every_column_is_as_long_as_the_curve_even_without_points() {
    let file = read(&npz::decode(&DecodeTable { points: Vec::new(), max_kv_tokens: 7 }).unwrap());
    for (key, column) in file.as_object().unwrap() {
        assert_eq!(column["shape"], json!([u8::from(key == "max_kv_tokens")]), "{key}");
    }
}

#[test]
fn the_json_twins_hold_the_same_columns() {
    let ttft = |isl, mean| Measurement { ttft_ms: Some(stat(mean)), ..measurement(isl, 5, 1) };
    let itl = |isl, mean| Measurement { itl_ms: Some(stat(mean)), ..measurement(isl, 500, 8) };
    let (prefill, decode) =
        (PrefillTable::new(&[ttft(100, 20.25)]), DecodeTable::new(&[itl(100, 10.0), itl(2000, 12.0)], 643_891));
    for (twin, file) in [
        (prefill.to_json(), read(&npz::prefill(&prefill).unwrap())),
        (decode.to_json(), read(&npz::decode(&decode).unwrap())),
    ] {
        for (key, values) in twin.as_object().unwrap() {
            let column = &file[key]["values"];
            // The capacity is a number there and an array of one here.
            assert!(values == column || json!([values]) == *column, "{key}: {values} {column}");
        }
    }
}
