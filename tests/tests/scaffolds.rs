//! `plugin new`, `plugin build` and `plugin test`: every kind in every language builds and passes its tests at once.
//!
//! Tools and what projects have in common are kept in the target folder, where `cargo xtask examples` puts them too.

#![allow(clippy::unwrap_used, reason = "a failure is the message")]

use std::path::{Path, PathBuf};
use std::process::Command;

use sla_profiler_tests::{program, run, sla_profiler};

fn target() -> PathBuf {
    program().ancestors().nth(2).unwrap().to_owned()
}

/// A call with the tools and the compiler's intermediate files of all projects.
fn call(arguments: &[&str], folder: &Path) -> Command {
    let mut command = sla_profiler(arguments);
    command.current_dir(folder).env("SLA_PROFILER_PLUGIN_TOOLS", target());
    command.env("CARGO_TARGET_DIR", target().join("scaffolds"));
    command
}

/// Makes, builds and tests a project of each kind, as its README says.
fn works_at_once(language: &str) {
    for kind in ["sweep", "selection", "planner"] {
        let folder = tempfile::tempdir().unwrap();
        let made = run(call(&["plugin", "new", "my-own", "--kind", kind, "--lang", language], folder.path()));
        assert_eq!(made.code, 0, "{language} {kind}: {}", made.err);
        let project = folder.path().join("my-own");
        let built = run(call(&["plugin", "build"], &project));
        assert_eq!(built.code, 0, "{language} {kind}: {}", built.err);
        let tested = run(call(&["plugin", "test", "build/my-own.wasm", "--cases", "cases.yaml"], &project));
        assert_eq!(tested.code, 0, "{language} {kind}:\n{}\n{}", tested.out, tested.err);
        assert!(tested.out.contains("\nCases\n✓"), "{language} {kind}: {}", tested.out);
        let inspected = run(call(&["plugin", "inspect", "build/my-own.wasm"], &project));
        assert!(!inspected.out.contains("wasi:"), "{language} {kind}: {}", inspected.out);
    }
}

#[test]
fn new_projects_in_rust_pass_their_tests_at_once() {
    works_at_once("rust");
}

#[test]
fn new_projects_in_python_pass_their_tests_at_once() {
    works_at_once("python");
}

#[test]
fn new_projects_in_javascript_pass_their_tests_at_once() {
    works_at_once("javascript");
}

#[test]
fn new_projects_in_c_pass_their_tests_at_once() {
    works_at_once("c");
}

/// The project with one file changed, built; what `plugin test` says of it.
fn broken(language: &str, file: &str, old: &str, new: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let made = run(call(&["plugin", "new", "my-own", "--kind", "selection", "--lang", language], folder.path()));
    assert_eq!(made.code, 0, "{}", made.err);
    let project = folder.path().join("my-own");
    let text = std::fs::read_to_string(project.join(file)).unwrap();
    assert!(text.contains(old), "{file} has no `{old}`");
    std::fs::write(project.join(file), text.replacen(old, new, 1)).unwrap();
    let built = run(call(&["plugin", "build"], &project));
    assert_eq!(built.code, 0, "{}", built.err);
    let tested = run(call(&["plugin", "check", "build/my-own.wasm"], &project));
    assert_eq!(tested.code, 5, "{}\n{}", tested.out, tested.err);
    tested.out
}

#[test]
fn an_exception_or_panic_of_a_new_project_comes_with_its_message_and_place() {
    let javascript = broken("javascript", "plugin.js", "const rank =", "job.nothing.at.all;\n  const rank =");
    assert!(javascript.contains("select: TypeError"), "{javascript}");
    let shape = broken("javascript", "plugin.js", "score: meetsSla ?", "points: meetsSla ?");
    assert!(shape.contains(".score is no number: undefined"), "{shape}");
    let shape = broken("python", "plugin.py", "score=rate if", "score=None if");
    assert!(shape.contains(".score is no float: None"), "{shape}");
    let rust =
        broken("rust", "src/lib.rs", "let rank =", "let none: Option<u32> = None; none.unwrap();\n        let rank =");
    assert!(rust.contains("src/lib.rs:") && rust.contains("`Option::unwrap()` on a `None` value"), "{rust}");
    let c = broken("c", "plugin.c", "memset(ret, 0, sizeof *ret);\n  rank(", "fail(\"I give up\");\n  rank(");
    assert!(c.contains("I give up"), "{c}");
}

#[test]
fn a_policy_in_rust_reads_the_folder_that_the_user_grants() {
    let folder = tempfile::tempdir().unwrap();
    // A name of its own: what cargo builds lies in one folder, by name.
    let made = run(call(&["plugin", "new", "my-reader", "--kind", "selection", "--lang", "rust"], folder.path()));
    assert_eq!(made.code, 0, "{}", made.err);
    let project = folder.path().join("my-reader");
    let code = std::fs::read_to_string(project.join("src/lib.rs")).unwrap();
    let reads = "let data = sla_profiler_plugin::files::Folder::granted(\"data\");
        let least: f64 = data.text(\"least\")?.trim().parse().map_err(|_| Error::Other(\"no number\".to_owned()))?;
        assert_eq!(data.entries(\"\")?, [\"least\"]);
        let rank =";
    let code = code.replacen("let rank =", reads, 1).replacen(
        "score: if meets_sla { rate }",
        "score: if meets_sla { rate.max(least) }",
        1,
    );
    std::fs::write(project.join("src/lib.rs"), code).unwrap();
    let built = run(call(&["plugin", "build"], &project));
    assert_eq!(built.code, 0, "{}", built.err);

    std::fs::create_dir(project.join("empty")).unwrap();
    std::fs::create_dir(project.join("data")).unwrap();
    std::fs::write(project.join("data/least"), "1.5\n").unwrap();
    let check = |grant: &[&str]| run(call(&[&["plugin", "check", "build/my-reader.wasm"], grant].concat(), &project));
    let refused = check(&[]);
    assert_eq!(refused.code, 4, "{}", refused.out);
    assert!(refused.err.contains("files@0.1.0") && refused.err.contains("--selection-grant"), "{}", refused.err);
    let missing = check(&["--grant", "data=empty"]);
    assert!(missing.out.contains("\"least\" in the folder `data`: there is no such file"), "{}", missing.out);
    let other = check(&["--grant", "prices=data"]);
    assert!(other.out.contains("granted: prices") && other.out.contains("--selection-grant data=DIR"), "{}", other.out);
    let granted = check(&["--grant", "data=data"]);
    assert_eq!(granted.code, 0, "{}\n{}", granted.out, granted.err);
    let bench = run(call(&["plugin", "bench", "build/my-reader.wasm", "--grant", "data=data"], &project));
    assert_eq!(bench.code, 0, "{}\n{}", bench.out, bench.err);
}

#[test]
fn what_stands_against_building_is_said_with_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let none = run(call(&["plugin", "build"], folder.path()));
    assert_eq!(none.code, 3, "{}", none.err);
    assert!(none.err.contains("plugin.toml") && none.err.contains("plugin new"), "{}", none.err);

    let made = run(call(&["plugin", "new", "Bad_Name", "--kind", "sweep", "--lang", "c"], folder.path()));
    assert_eq!(made.code, 3, "{}", made.err);
    assert!(made.err.contains("Bad_Name") && made.err.contains("lower case"), "{}", made.err);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);

    for (language, needs) in [("javascript", "nodejs npm"), ("python", "python3-venv"), ("c", "apt-get")] {
        let made = run(call(&["plugin", "new", language, "--kind", "sweep", "--lang", language], folder.path()));
        assert_eq!(made.code, 0, "{}", made.err);
        let mut build = call(&["plugin", "build", language], folder.path());
        // A machine on which nothing is installed.
        build.env("PATH", folder.path()).env("SLA_PROFILER_PLUGIN_TOOLS", folder.path().join("tools"));
        let built = run(build);
        assert_eq!(built.code, 4, "{language}: {}", built.err);
        assert!(built.err.contains("Next:") && built.err.contains(needs), "{language}: {}", built.err);
    }
}
