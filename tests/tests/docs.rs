//! What the documents say is true: links, commands, tables and the output that they show.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failure is the message")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;

use sla_profiler_tests::{Said, root, run, said, sla_profiler};

/// One fenced block of a document.
struct Block {
    language: String,
    text: String,
}

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The document without its fenced blocks, and the blocks.
fn parts(document: &str) -> (String, Vec<Block>) {
    let (mut prose, mut blocks) = (String::new(), Vec::new());
    let mut open: Option<Block> = None;
    for line in document.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => open = Some(Block { language: language.to_owned(), text: String::new() }),
            (None, Some(block)) => block.text.extend([line, "\n"]),
            (None, None) => prose.extend([line, "\n"]),
        }
    }
    assert!(open.is_none(), "a fence is not closed:\n{document}");
    (prose, blocks)
}

/// Documents of the repository; nothing that was built or fetched.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && !["target", "node_modules", "shared"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn every_relative_link_leads_somewhere() {
    let documents = documents();
    assert!(documents.len() > 10, "only {documents:?}");
    let mut dead = Vec::new();
    for path in documents {
        let (prose, _) = parts(&fs::read_to_string(&path).unwrap());
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            let elsewhere = link.contains("://") || link.starts_with("mailto:");
            if !elsewhere && !target.is_empty() && !path.parent().unwrap().join(target).exists() {
                dead.push(format!("{}: {link}", path.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(dead.is_empty(), "links to nothing:\n{}", dead.join("\n"));
}

/// Documents whose commands a reader is meant to type at the root of the repository.
const TYPED: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "examples/quickstart/README.md",
    "examples/seed/README.md",
    "examples/dense-70b/README.md",
    "examples/moe-multinode/README.md",
    "examples/kubernetes/README.md",
    "host/docs/real-engines.md",
];

/// The commands in shell blocks, without prompts and comments.
fn commands(name: &str) -> Vec<String> {
    let (_, blocks) = parts(&text(name));
    let shell = blocks.iter().filter(|block| ["sh", "console"].contains(&block.language.as_str()));
    shell
        .flat_map(|block| block.text.lines())
        .map(|line| line.trim_start_matches("$ ").split(" #").next().unwrap().trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

#[test]
fn commands_of_the_program_work() {
    let mut count = 0;
    for name in TYPED {
        for line in commands(name).iter().filter(|line| line.starts_with("sla-profiler ")) {
            count += 1;
            let mut words: Vec<&str> = line.split_whitespace().skip(1).collect();
            if words.first() == Some(&"resume") {
                // Of a run that dry runs do not leave; `resume.rs` does it.
                continue;
            }
            // A whole run takes seconds to a minute, which tests of the examples spend. A dry run does the same up to
            // the first launch: flags, file, catalog, search space, plugins.
            if words.first() == Some(&"profile") && !words.contains(&"--dry-run") {
                words.retain(|word| !["--force", "--resume"].contains(word)); // they are about a run's files
                // Files of a run that was not; `--priors` has a test of its own in `input.rs`.
                for of_a_run in ["--reuse", "--priors"] {
                    if let Some(at) = words.iter().position(|word| *word == of_a_run) {
                        words.drain(at..at + 2);
                    }
                }
                words.push("--dry-run");
            }
            let mut command = sla_profiler(&words);
            if words.contains(&"kubernetes") {
                // As far as the way to a cluster, which is not there.
                command.env("KUBECONFIG", "/nowhere");
                let Said { code, out, err } = run(command);
                assert!(code == 6 && err.contains("no way to a cluster"), "{name}: {line}\n{out}\n{err}");
                continue;
            }
            let Said { code, out, err } = run(command);
            assert_eq!(code, 0, "{name}: {line}\n{out}\n{err}");
            assert!(!out.is_empty(), "{name}: {line} says nothing");
        }
    }
    assert!(count > 8, "only {count} commands were found");
}

#[test]
fn tasks_that_are_named_exist() {
    let help = text("plugins/build/src/bin/xtask/main.rs");
    let mut count = 0;
    for name in TYPED {
        for line in commands(name).iter().filter_map(|line| line.strip_prefix("cargo xtask ")) {
            count += 1;
            let task = line.split_whitespace().next().unwrap();
            let known = task == "--help" || help.lines().any(|line| line.starts_with(&format!("  {task} ")));
            assert!(known, "{name}: cargo xtask {line}");
        }
    }
    assert!(count > 2, "only {count} tasks were found");
}

#[test]
fn the_least_job_of_the_readme_is_a_job() {
    let (_, blocks) = parts(&text("README.md"));
    let job = blocks.iter().find(|block| block.language == "yaml").unwrap();
    let mut command = sla_profiler(["config", "show", "-f", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(job.text.as_bytes()).unwrap();
    let Said { code, out, err } = said(child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("mine-dgd"), "{out}");
}

/// Cells of the table's rows whose heading is this.
fn table(document: &str, heading: &str) -> Vec<(String, String)> {
    let rows = document.lines().skip_while(|line| *line != heading).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').splitn(2, " | ").map(str::trim).collect();
        (cells[0].to_owned(), cells[1].to_owned())
    })
    .collect()
}

#[test]
fn exit_codes_of_the_readme_are_those_of_the_program() {
    let expected: Vec<(String, String)> = sla_profiler::output::exit_code::ALL
        .iter()
        .map(|(code, meaning)| (code.to_string(), (*meaning).to_owned()))
        .collect();
    assert_eq!(table(&text("README.md"), "| code | meaning |"), expected);
}

#[test]
fn what_is_tried_again_stands_in_the_documents_as_in_the_code() {
    use sla_profiler::scheduler::retry::{MOST_TRIES, RULES};
    let safety = text("host/docs/safety.md");
    let row =
        |rule: &sla_profiler::scheduler::retry::Rule| format!("| {} | {} | {} |", rule.what, rule.again, rule.pause_s);
    let rows: Vec<String> = RULES.iter().map(row).collect();
    let head = "| cause | tried again | first pause, s |\n| --- | --- | --- |\n";
    assert!(safety.contains(&format!("{head}{}\n\n", rows.join("\n"))), "{rows:#?}");
    assert!(safety.contains(&format!("No engine is tried more than {MOST_TRIES} times")));
}

#[test]
fn the_plugin_of_the_readme_is_the_one_that_the_sdk_compiles() {
    let code = |name: &str| {
        let (_, blocks) = parts(&text(name));
        blocks.into_iter().find(|block| block.language == "rust").unwrap().text
    };
    assert_eq!(code("README.md"), code("plugins/README.md"));
}

/// One run of the quickstart: what it said, and the files that it wrote.
static QUICKSTART: LazyLock<(Said, BTreeSet<String>)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let shown = out.to_str().unwrap();
    let mut said = run(sla_profiler(["profile", "-f", "examples/quickstart/dgdr.yaml", "--out", shown]));
    assert_eq!(said.code, 0, "{}", said.err);
    said.out = said.out.replace(shown, "target/quickstart");
    let mut files = BTreeSet::new();
    collect(&out, &out, &mut files);
    (said, files)
});

fn collect(folder: &Path, base: &Path, files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, base, files);
        } else {
            files.insert(path.strip_prefix(base).unwrap().to_string_lossy().replace('\\', "/"));
        }
    }
}

/// `prefill_4gpus_tp4/x` as `prefill_<N>gpus_<mapping>/x`.
fn general(file: &str) -> String {
    for role in ["prefill", "decode"] {
        if file.starts_with(&format!("{role}_")) && file.contains("gpus_") {
            let name = file.split_once('/').unwrap().1;
            return format!("{role}_<N>gpus_<mapping>/{name}");
        }
    }
    file.to_owned()
}

#[test]
fn the_table_of_artifacts_names_every_file_of_a_run_and_no_other() {
    let quoted = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let mut named = BTreeSet::new();
    for (names, about) in table(&text("README.md"), "| file | what it holds |") {
        for name in quoted(&names) {
            if name.ends_with('/') {
                named.extend(quoted(&about).iter().map(|file| format!("{name}{file}")));
            } else {
                named.insert(name);
            }
        }
    }
    let written: BTreeSet<String> = QUICKSTART.1.iter().map(|file| general(file)).collect();
    assert_eq!(named, written);
}

/// Without the real time, which differs from run to run.
fn timeless(text: &str) -> String {
    let without = |line: &str| match line.rsplit_once(" cluster, ") {
        Some((before, after)) if after.ends_with(" in reality.") => before.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(without).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_output_in_the_readme_is_that_of_the_program() {
    let readme = text("README.md");
    let (_, blocks) = parts(&readme);
    let shown = &blocks.iter().find(|block| block.text.starts_with("✓ 1 prefill sweep")).unwrap().text;
    let said = &QUICKSTART.0;
    let actual = format!("{}{}", said.err, said.out);
    if timeless(shown) == timeless(&actual) {
        return;
    }
    if std::env::var_os("SLA_PROFILER_UPDATE").is_some() {
        fs::write(root().join("README.md"), readme.replace(shown.as_str(), &actual)).unwrap();
        return;
    }
    panic!(
        "README.md shows other output; if that is intended, run \
         `SLA_PROFILER_UPDATE=1 cargo test --workspace --test docs`.\n{actual}"
    );
}
