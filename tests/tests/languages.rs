//! The plugins of `examples/`, in Rust, JavaScript, C and Python: their own tests, and a whole run with each.
//!
//! `cargo xtask examples` (and `cargo xtask test`) builds the components to `<target>/examples` first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failure is the message")]

use std::path::PathBuf;
use std::process::Command;

use sla_profiler_tests::{program, root, run, sla_profiler};

/// A file that `cargo xtask examples` wrote.
fn built(name: &str) -> PathBuf {
    let path = program().ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not built: run `cargo xtask examples`", path.display());
    path
}

/// It asks for the log at most, WASI never, and a run with it ends well without falling back on a bundled plugin.
fn serves(file: &str, flag: &str, name: &str) {
    let file = built(file);
    let inspected = run({
        let mut command = sla_profiler(["plugin", "inspect"]);
        command.arg(&file);
        command
    });
    assert_eq!(inspected.code, 0, "{}", inspected.err);
    assert!(inspected.out.contains(name) && !inspected.out.contains("wasi:"), "{}", inspected.out);

    let out = tempfile::tempdir().unwrap();
    let profiled = run({
        let mut command = sla_profiler(["profile", "-f", "examples/quickstart/dgdr.yaml", "--strict-plugins", flag]);
        command.arg(&file).arg("--out").arg(out.path().join("run"));
        command
    });
    assert_eq!(profiled.code, 0, "{}\n{}", profiled.out, profiled.err);
    let result = std::fs::read_to_string(out.path().join("run/result.json")).unwrap();
    assert!(result.contains(name), "the result does not name {name}");
}

fn passes(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_rust_policy_decides_a_run() {
    serves("select-power.wasm", "--selection", "select-power");
}

#[test]
fn the_c_policy_decides_a_run() {
    serves("select-smallest.wasm", "--selection", "select-smallest");
}

#[test]
fn the_javascript_strategy_measures_a_run() {
    serves("sweep-doubling.wasm", "--sweep", "sweep-doubling");
}

#[test]
fn the_python_model_plans_a_run() {
    serves("planner-linear.wasm", "--planner", "planner-linear");
}

#[test]
fn the_javascript_strategy_passes_its_own_tests() {
    passes(Command::new("node").arg("test.mjs").current_dir(root().join("examples/sweep-javascript")));
}

#[test]
fn the_python_model_passes_its_own_tests() {
    let bindings = built("planner-linear-bindings");
    let mut command = Command::new("python3");
    command.arg("test_app.py").current_dir(root().join("examples/planner-python"));
    passes(command.env("PYTHONPATH", bindings).env("PYTHONDONTWRITEBYTECODE", "1"));
}

#[test]
fn the_c_policy_passes_its_own_tests() {
    let folder = tempfile::tempdir().unwrap();
    let test = folder.path().join("test");
    let mut compile = Command::new("cc");
    compile.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "test.c", "policy.c", "-o"]).arg(&test);
    passes(compile.current_dir(root().join("examples/selection-c")));
    passes(&mut Command::new(test));
}
