//! The examples, and every command that a README shows, do what they say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::path::{Path, PathBuf};

use sla_profiler_tests::openai::word_tokenizer;
use sla_profiler_tests::runs::expect;
use sla_profiler_tests::{root, sla_profiler};

/// READMEs whose commands are run here: those of the program and its examples.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("README.md"))
        .filter(|path| path.is_file())
        .collect();
    assert!(found.len() >= 4);
    found.extend(["README.md", "host/README.md"].map(|name| root().join(name)).into_iter().filter(|p| p.is_file()));
    found.sort();
    found
}

/// Calls of `sla-profiler` in the document's `console` and `sh` blocks, a trailing `\` joined with the next line.
fn commands(document: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(document).unwrap().replace("\\\n", " ");
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            inside = ["console", "sh", "bash"].contains(&language.trim());
        } else if inside {
            let command = line.strip_prefix("$ ").unwrap_or(line).split(" #").next().unwrap_or_default().trim();
            // What only shows a way to build or to look is not ours to run.
            let command =
                command.strip_prefix("target/debug/").or(command.strip_prefix("target/release/")).unwrap_or(command);
            if command.starts_with("sla-profiler ") && !command.contains(['|', '<', '>', '$', '…']) {
                found.push(command.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_example_has_a_readme_whose_command_runs_it() {
    for entry in std::fs::read_dir(root().join("examples")).unwrap() {
        let folder = entry.unwrap().path();
        let dgdr = folder.join("dgdr.yaml");
        if !dgdr.is_file() {
            continue;
        }
        let name = dgdr.strip_prefix(root()).unwrap().display().to_string();
        let runs = commands(&folder.join("README.md"));
        assert!(runs.iter().any(|command| command.contains(&name)), "{name}: {runs:?}");
    }
}

#[test]
fn the_commands_of_the_readmes_work() {
    let dir = tempfile::tempdir().unwrap();
    let mut done: Vec<Vec<String>> = Vec::new();
    for (number, document) in documents().iter().enumerate() {
        let mut outs: Vec<String> = Vec::new();
        for command in commands(document) {
            let mut arguments: Vec<String> = command.split_whitespace().skip(1).map(str::to_owned).collect();
            // Not into the reader's folders; one place for each document's results.
            if let Some(at) = arguments.iter().position(|argument| argument == "--out") {
                outs.push(arguments[at + 1].clone());
            }
            // Later commands name a run that an earlier one made.
            for argument in &mut arguments {
                let run = |out: &str| dir.path().join(format!("{number}-{}", out.replace('/', "-")));
                // A run, or a file of one.
                let file =
                    outs.iter().find_map(|out| Some((out, argument.strip_prefix(out.as_str())?.strip_prefix('/')?)));
                if outs.contains(argument) {
                    *argument = run(argument).display().to_string();
                } else if let Some((out, file)) = file {
                    *argument = run(out).join(file).display().to_string();
                }
            }
            // Engines take GPUs, or a server that runs: what they would be asked is told all the same. A cluster is asked in
            // `kubernetes_run.rs`.
            if arguments.iter().any(|argument| argument == "kubernetes") {
                continue;
            }
            if arguments.iter().any(|argument| argument == "--cluster") {
                arguments.push("--dry-run".to_owned());
            }
            if let Some(tokenizer) = arguments.iter_mut().find(|argument| argument.starts_with("/models/")) {
                *tokenizer = word_tokenizer().display().to_string();
            }
            if done.contains(&arguments) {
                continue;
            }
            let said = expect(0, sla_profiler(&arguments));
            assert!(!said.out.trim().is_empty(), "{}: {command}", document.display());
            done.push(arguments);
        }
    }
    assert!(done.len() >= 4, "{done:?}");
}
