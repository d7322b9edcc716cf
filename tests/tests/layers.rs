//! The arrow of dependency, kept by looking at what each layer names:
//! `domain` <- {`plugin`, `engine`, `backends`, `dgd`} <- `scheduler` <- `phases` <- `cli`.

#![allow(clippy::unwrap_used, reason = "a failure is the message")]

use std::path::{Path, PathBuf};

/// A layer and what none of its files may name.
const RULES: &[(&str, &[&str])] = &[
    (
        "domain",
        &[
            "wasmtime",
            "tokio",
            "kube",
            "aisimulate_core",
            "cap_std",
            "std::fs",
            "std::net",
            "std::process",
            "std::env",
            "std::time",
            "reqwest",
            "hyper",
            "clap",
            "crate::engine",
            "crate::plugin",
            "crate::run",
            "crate::scheduler",
            "crate::phases",
            "crate::output",
            "crate::cli",
            "crate::spec",
            "crate::backends",
            "crate::dgd",
        ],
    ),
    (
        "plugin",
        &[
            "kube",
            "aisimulate_core",
            "crate::engine",
            "crate::scheduler",
            "crate::phases",
            "crate::output",
            "crate::cli",
        ],
    ),
    ("engine", &["wasmtime", "crate::plugin", "crate::scheduler", "crate::phases", "crate::output", "crate::cli"]),
    ("http", &["wasmtime", "kube", "crate::domain", "crate::engine", "crate::load", "crate::phases", "crate::cli"]),
    (
        "load",
        &[
            "wasmtime",
            "kube",
            "aisimulate_core",
            "crate::engine",
            "crate::plugin",
            "crate::scheduler",
            "crate::phases",
            "crate::output",
            "crate::cli",
        ],
    ),
    (
        "process",
        &[
            "wasmtime",
            "kube",
            "aisimulate_core",
            "crate::domain",
            "crate::engine",
            "crate::load",
            "crate::plugin",
            "crate::run",
            "crate::scheduler",
            "crate::phases",
            "crate::output",
            "crate::cli",
        ],
    ),
    ("kubernetes", &["wasmtime", "crate::engine", "crate::plugin", "crate::scheduler", "crate::phases", "crate::cli"]),
    ("backends", &["wasmtime", "tokio", "crate::engine", "crate::plugin", "crate::phases", "crate::cli"]),
    ("render", &["wasmtime", "tokio", "crate::phases", "crate::output", "crate::scheduler", "crate::cli"]),
    ("dgd", &["wasmtime", "tokio", "crate::engine", "crate::plugin", "crate::phases", "crate::cli"]),
    ("replay", &["tokio::net", "kube", "aisimulate_core", "crate::phases", "crate::output", "crate::cli"]),
    (
        "telemetry",
        &["wasmtime", "kube", "crate::engine", "crate::plugin", "crate::scheduler", "crate::phases", "crate::cli"],
    ),
    ("scheduler", &["wasmtime", "kube", "aisimulate_core", "crate::engine::simulated", "crate::phases", "crate::cli"]),
    ("phases", &["wasmtime", "kube", "aisimulate_core", "crate::engine::simulated", "crate::cli"]),
];

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Lines of code, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn names(line: &str, what: &str) -> bool {
    line.match_indices(what).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + what.len()..].chars().next();
        let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        // A crate is named where a path begins; a module path may also go on.
        !is_word(before)
            && before != Some(':')
            && before != Some('.')
            && !is_word(after)
            && (what.contains("::") || line[at + what.len()..].starts_with("::"))
    })
}

#[test]
fn data_flows_one_way() {
    let source = sla_profiler_tests::root().join("host/src");
    let mut broken = Vec::new();
    for (layer, forbidden) in RULES {
        let mut files = Vec::new();
        rust_files(&source.join(layer), &mut files);
        assert!(!files.is_empty(), "the layer {layer} is gone; mend this test");
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for (number, line) in code(&text) {
                for name in forbidden.iter().filter(|name| names(line, name)) {
                    broken.push(format!("{}:{}: {layer} names {name}", file.display(), number + 1));
                }
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_check_itself_can_fail() {
    assert!(names("use tokio::time::Instant;", "tokio"));
    assert!(names("    let x = crate::phases::run();", "crate::phases"));
    assert!(!names("use crate::plugin_kind;", "crate::plugin"));
    assert!(!names("use mytokio::x;", "tokio"));
}
