//! What goes in: golden files for good and bad DGDRs, the published schema, the examples.
//!
//! `tests/golden/input/valid` and `invalid` are listed, so that a file dropped there is a test; what is expected stands in
//! `<name>.expected`. `SLA_PROFILER_UPDATE=1 cargo test --test input` writes it anew.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may fail by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sla_profiler::spec::{ErrorKind, Flags, PluginSource, Source, dgdr_schema, load};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn update() -> bool {
    std::env::var_os("SLA_PROFILER_UPDATE").is_some_and(|value| value == "1")
}

/// Compares with the file, or writes it.
fn expect(path: &Path, actual: &str, failures: &mut Vec<String>) {
    if update() {
        std::fs::write(path, actual).unwrap();
        return;
    }
    match std::fs::read_to_string(path) {
        Ok(expected) if expected == actual => {}
        Ok(expected) => failures.push(format!("{}\n--- expected\n{expected}\n--- actual\n{actual}", path.display())),
        Err(error) => failures.push(format!("{}: {error}\n--- actual\n{actual}", path.display())),
    }
}

/// Inputs of a folder, by name.
fn inputs(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "json"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    files
}

/// Errors and paths name files relative to the repository, whatever machine this runs on.
fn relative(text: &str) -> String {
    text.replace(&format!("{}/", repository().display()), "")
}

/// One value a line, then the warnings.
fn snapshot(path: &Path) -> String {
    let resolved = load(&Source::File(path.to_owned()), &Flags::default())
        .unwrap_or_else(|error| panic!("{}: {}", path.display(), error.render()));
    let mut out = String::new();
    for entry in &resolved.origins {
        writeln!(out, "{} = {} ({})", entry.path, entry.value, entry.origin).unwrap();
    }
    for warning in &resolved.warnings {
        writeln!(out, "warning: {warning}").unwrap();
    }
    relative(&out)
}

fn finish(failures: &[String]) {
    assert!(failures.is_empty(), "SLA_PROFILER_UPDATE=1 rewrites these:\n{}", failures.join("\n\n"));
}

#[test]
fn valid_inputs_resolve_to_what_is_expected() {
    let mut failures = Vec::new();
    for path in inputs(&repository().join("tests/golden/input/valid")) {
        expect(&path.with_extension("expected"), &snapshot(&path), &mut failures);
    }
    finish(&failures);
}

#[test]
fn invalid_inputs_give_one_clear_error_each() {
    let mut failures = Vec::new();
    for path in inputs(&repository().join("tests/golden/input/invalid")) {
        let error = match load(&Source::File(path.clone()), &Flags::default()) {
            Ok(_) => {
                failures.push(format!("{} was accepted", path.display()));
                continue;
            }
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::Config, "{}", path.display());
        expect(&path.with_extension("expected"), &relative(&format!("{}\n", error.render())), &mut failures);
    }
    finish(&failures);
}

#[test]
fn examples_are_valid_without_a_warning() {
    for name in ["quickstart", "dense-70b", "moe-multinode", "seed"] {
        let folder = repository().join("examples").join(name);
        assert!(folder.join("README.md").is_file());
        let resolved = load(&Source::File(folder.join("dgdr.yaml")), &Flags::default()).unwrap();
        assert_eq!(resolved.warnings, Vec::<String>::new(), "{name}");
        assert_eq!(resolved.spec.deployment.dgdr_name, name);
        assert!(resolved.spec.deployment.planner, "{name}");
    }
}

#[test]
fn the_seed_example_asks_what_the_seed_document_asks() {
    let path = repository().join("examples/seed/dgdr.yaml");
    let spec = load(&Source::File(path), &Flags::default()).unwrap().spec;
    assert_eq!((spec.job.workload.isl, spec.job.workload.osl), (3000, 150));
    assert_eq!((spec.job.sla.ttft_ms, spec.job.sla.itl_ms), (Some(200.0), Some(20.0)));
    assert!(spec.auto_apply);
    assert_eq!(spec.plugins.sweep.source, PluginSource::Named("sweep-grid".into()));
}

#[test]
fn the_published_schema_is_the_generated_one() {
    let mut failures = Vec::new();
    let schema = format!("{:#}\n", dgdr_schema());
    expect(&repository().join("host/schema/dgdr.schema.json"), &schema, &mut failures);
    finish(&failures);
}

#[test]
fn all_sources_of_one_text_give_one_job() {
    let path = repository().join("tests/golden/input/valid/bare-spec.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let inline = load(&Source::from_arg(&text), &Flags::default()).unwrap();
    let mut from_file = load(&Source::File(path), &Flags::default()).unwrap();
    // Only the name differs: it comes from the file.
    assert_eq!(from_file.spec.deployment.dgdr_name, "bare-spec");
    from_file.spec.deployment.dgdr_name.clone_from(&inline.spec.deployment.dgdr_name);
    from_file.spec.deployment.name.clone_from(&inline.spec.deployment.name);
    assert_eq!(from_file.spec, inline.spec);
}
