//! What the program says: golden files in `tests/golden/cli`, exit codes of bad input, and manners towards pipes,
//! scripts and terminals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::CommandFactory as _;
use serde_json::Value;
use sla_profiler::output::exit_code;
use sla_profiler_tests::runs::{QUICKSTART, SMALL, expect, profile, python};
use sla_profiler_tests::{Said, golden, guests, program, root, run, said, sla_profiler};

fn compare(name: &str, text: &str) {
    golden(&root().join("tests/golden/cli").join(name), text);
}

/// Both streams, without what differs between machines and runs.
fn shown(said: &Said, temporary: &Path) -> String {
    let mut text = said.out.clone();
    if !said.err.is_empty() {
        text = format!("{text}--- standard error\n{}", said.err);
    }
    let text = text.replace(&temporary.display().to_string(), "DIR").replace(&format!("{}/", root().display()), "");
    text.lines().map(redacted).collect::<Vec<_>>().join("\n") + "\n"
}

/// A line without the real time that something took, digests, and sizes of compiled code.
fn redacted(line: &str) -> String {
    let is_digest = |word: &str| word.len() >= 12 && word.chars().all(|c| c.is_ascii_hexdigit());
    if line.trim_start().starts_with("Machine code") || line.trim_start().starts_with("Size") {
        return format!("{}…", line.chars().take(15).collect::<String>());
    }
    let line: String = line
        .split_inclusive([' ', ')', ',', '"'])
        .map(|word| {
            let digest = word.trim_end_matches([' ', ')', ',', '"']);
            if is_digest(digest) { word.replace(digest, "DIGEST") } else { word.to_owned() }
        })
        .collect();
    match line.strip_suffix(" s in reality.").and_then(|rest| rest.rsplit_once(' ')) {
        Some((rest, _)) => format!("{rest} … s in reality."),
        None => line,
    }
}

fn golden_call(name: &str, code: u8, arguments: &[&str]) {
    let said = expect(code, sla_profiler(arguments));
    compare(name, &shown(&said, Path::new("/nowhere")));
}

#[test]
fn the_help_of_every_command() {
    fn walk(command: &clap::Command, path: &[String]) {
        let mut arguments = path.to_vec();
        arguments.push("--help".to_owned());
        let name = if path.is_empty() { "sla-profiler".to_owned() } else { path.join("-") };
        let said = expect(exit_code::OK, sla_profiler(&arguments));
        compare(&format!("help/{name}.txt"), &shown(&said, Path::new("/nowhere")));
        for below in command.get_subcommands() {
            walk(below, &[path, &[below.get_name().to_owned()]].concat());
        }
    }
    walk(&sla_profiler::cli::Cli::command(), &[]);
}

#[test]
fn every_exit_code_is_in_the_help() {
    let help = expect(exit_code::OK, sla_profiler(["help", "profile"])).out;
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for (code, meaning) in exit_code::ALL {
        assert!(words.contains(&format!("{code} {meaning}")), "{code} {meaning}: {help}");
    }
}

#[test]
fn plugins_and_config() {
    golden_call("plugin-list.txt", exit_code::OK, &["plugin", "list"]);
    golden_call("config-show.txt", exit_code::OK, &["config", "show", "-f", QUICKSTART, "--itl", "12"]);
    golden_call("config-show.yaml", exit_code::OK, &["config", "show", "-f", QUICKSTART, "--format", "yaml"]);
    golden_call("config-show.json", exit_code::OK, &["config", "show", "-f", QUICKSTART, "--output", "json"]);
    let dir = tempfile::tempdir().unwrap();
    let plugin = dir.path().join("done.wasm");
    std::fs::write(&plugin, guests::sweep("done")).unwrap();
    let said = expect(exit_code::OK, sla_profiler(["plugin", "inspect", plugin.to_str().unwrap()]));
    compare("plugin-inspect.txt", &shown(&said, dir.path()));
}

#[test]
fn the_printed_schemas_are_the_published_ones() {
    for (arguments, file) in [
        (&["config", "schema"][..], "dgdr"),
        (&["config", "schema", "dgdr"], "dgdr"),
        (&["config", "schema", "result"], "result"),
        (&["config", "schema", "journal"], "journal"),
    ] {
        let said = expect(exit_code::OK, sla_profiler(arguments));
        golden(&root().join(format!("host/schema/{file}.schema.json")), &said.out);
    }
}

#[test]
fn answers_of_whole_runs() {
    let dir = tempfile::tempdir().unwrap();
    for (name, code, flags) in [
        ("run-quickstart.txt", exit_code::OK, &[][..]),
        ("run-infeasible.txt", exit_code::INFEASIBLE, &["--itl", "1"]),
        ("run-dry.txt", exit_code::OK, &["--dry-run"]),
    ] {
        let out = dir.path().join(name);
        let said = expect(code, profile(QUICKSTART, &out, flags));
        compare(name, &shown(&said, dir.path()));
        assert_eq!(out.exists(), name != "run-dry.txt");
    }
}

/// A bad input: name of the golden file, exit code, DGDR, flags.
type Bad<'a> = (&'a str, u8, &'a str, &'a [&'a str]);

#[test]
fn bad_input_is_one_clear_error_and_leaves_nothing_behind() {
    use exit_code::{INPUT, KV_TOO_SMALL, NO_CANDIDATE, USAGE};
    let invalid = |name: &str| format!("tests/golden/input/invalid/{name}.yaml");
    let files = ["unknown-field", "wrong-type-text-for-number", "negative-sla", "e2e-and-ttft", "rate-and-concurrency"];
    let paths = files.map(invalid);
    let mut table: Vec<Bad<'_>> =
        files.iter().zip(&paths).map(|(name, path)| (*name, INPUT, path.as_str(), &[][..])).collect();
    table.extend::<[Bad<'_>; 11]>([
        ("no-such-file", INPUT, "no/such/file.yaml", &[]),
        ("inline-unknown-field", INPUT, r#"{"model": "qwen3-8b", "wrkload": {}}"#, &[]),
        ("flag-negative-sla", USAGE, QUICKSTART, &["--ttft=-5"]),
        ("flag-no-number", USAGE, QUICKSTART, &["--ttft", "fast"]),
        ("flag-e2e-and-ttft", USAGE, QUICKSTART, &["--ttft", "100", "--e2e-latency", "900"]),
        ("flag-rate-and-concurrency", USAGE, QUICKSTART, &["--concurrency", "4", "--request-rate", "4"]),
        ("flag-unknown", USAGE, QUICKSTART, &["--itll", "4"]),
        ("flag-unknown-model", USAGE, QUICKSTART, &["--model", "nobody/nothing-7b"]),
        ("model-fits-nowhere", NO_CANDIDATE, QUICKSTART, &["--model", "deepseek-ai/DeepSeek-R1", "--gpu-sku", "l40s"]),
        (
            "no-room-for-one-request",
            KV_TOO_SMALL,
            QUICKSTART,
            &[
                "--model",
                "meta-llama/Llama-3.1-8B-Instruct",
                "--gpu-sku",
                "l4",
                "--isl",
                "128000",
                "--max-num-gpus-per-engine",
                "1",
            ],
        ),
        ("force-and-resume", USAGE, QUICKSTART, &["--force", "--resume"]),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    for (name, code, dgdr, flags) in table {
        let said = run(profile(dgdr, &out, flags));
        assert_eq!(said.code, i32::from(code), "{name}: {}", said.err);
        assert!(said.out.is_empty(), "{name}: {}", said.out);
        assert!(!out.exists(), "{name}");
        compare(&format!("bad/{name}.txt"), &shown(&said, dir.path()));
    }
    for name in files {
        let text = std::fs::read_to_string(root().join(format!("tests/golden/cli/bad/{name}.txt"))).unwrap();
        assert!(text.contains(&format!("{name}.yaml:")), "{name} names the line: {text}");
    }
}

#[test]
fn an_output_directory_that_cannot_be_used_is_told_before_anything_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let full = dir.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("notes.txt"), "mine").unwrap();
    for (out, says) in [
        (file.clone(), "cannot use"),
        (file.join("below"), "cannot use"),
        (PathBuf::from("/proc/sla-profiler"), "cannot use"),
        (full.clone(), "not empty"),
    ] {
        let said = expect(exit_code::OUTPUT, profile(SMALL, &out, &[]));
        assert!(said.err.contains(says) && said.err.contains(&out.display().to_string()), "{}", said.err);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(std::fs::read_dir(&full).unwrap().count(), 1);
}

#[test]
fn a_job_comes_from_a_file_from_standard_input_or_inline() {
    let text = std::fs::read_to_string(root().join(QUICKSTART)).unwrap();
    let spec = |said: &Said| {
        let mut value: Value = serde_json::from_str(&said.out).unwrap();
        value["spec"]["job"].take()
    };
    let from_file = expect(0, sla_profiler(["config", "show", "--output", "json", "-f", QUICKSTART]));
    let mut piped = sla_profiler(["config", "show", "--output", "json", "-f", "-"]);
    piped.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let from_stdin = said(child.wait_with_output().unwrap());
    assert_eq!(spec(&from_file), spec(&from_stdin));
    let inline = expect(0, sla_profiler(["config", "show", "--output", "json", "--config", SMALL]));
    assert_eq!(spec(&inline)["workload"]["isl"], 500);
}

#[test]
fn json_output_is_one_document_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = dir.path().join("done.wasm");
    std::fs::write(&plugin, guests::sweep("done")).unwrap();
    let file = plugin.to_str().unwrap();
    for arguments in [
        &["config", "show", "-f", QUICKSTART][..],
        &["config", "schema"],
        &["plugin", "list"],
        &["plugin", "inspect", file],
        &["profile", "-f", QUICKSTART, "--dry-run"],
    ] {
        let said = expect(0, sla_profiler([arguments, &["--output", "json"]].concat()));
        serde_json::from_str::<Value>(&said.out).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    }
    let out = dir.path().join("out");
    let said = expect(0, profile(SMALL, &out, &["--output", "json", "--quiet"]));
    let printed: Value = serde_json::from_str(&said.out).unwrap();
    let written: Value = serde_json::from_slice(&std::fs::read(out.join("result.json")).unwrap()).unwrap();
    assert_eq!(printed, written);
    assert_eq!(said.err, "", "quiet is quiet");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    for arguments in ["config schema", "plugin list", "config show -f examples/quickstart/dgdr.yaml", "help profile"] {
        let mut command = sla_profiler(arguments.split(' '));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let said = said(child.wait_with_output().unwrap());
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{arguments}");
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = sla_profiler(["plugin", "list"]);
    let said = said(command.stdout(full).stderr(Stdio::piped()).output().unwrap());
    assert_eq!(said.code, i32::from(exit_code::UNEXPECTED));
    assert!(said.err.contains("standard output"), "{}", said.err);
}

#[test]
fn tables_keep_to_the_width_that_columns_says_and_carry_no_escapes() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = profile(SMALL, &dir.path().join("out"), &[]);
    command.env("COLUMNS", "80").env_remove("NO_COLOR").env_remove("CI");
    let said = expect(0, command);
    assert!(!said.out.contains('\x1b') && !said.err.contains('\x1b'), "{}{}", said.out, said.err);
    let table = said.out.lines().filter(|line| line.contains('─') || line.contains("★"));
    assert!(table.clone().count() >= 2);
    table.for_each(|line| assert!(line.chars().count() <= 80, "{line}"));
}

/// What a run writes to a terminal.
fn on_terminal(flags: &[&str], no_color: bool) -> String {
    let dir = tempfile::tempdir().unwrap();
    let run = profile(SMALL, &dir.path().join("out"), flags);
    let mut command = python("on_terminal.py");
    command.arg(program()).args(run.get_args()).current_dir(root()).env("TERM", "xterm-256color").env_remove("CI");
    command.env("XDG_CACHE_HOME", sla_profiler_tests::cache()).env_remove("NO_COLOR").env_remove("COLUMNS");
    if no_color {
        command.env("NO_COLOR", "1");
    }
    expect(0, command).out
}

#[test]
fn a_terminal_gets_a_progress_bar_with_phase_candidate_and_eta() {
    let seen = on_terminal(&[], false);
    for part in ["━", "decode sweep", "launching", "ETA", "best tp1", "✓", "\x1b["] {
        assert!(seen.contains(part), "{part:?} is missing of {seen:?}");
    }
    assert!(!on_terminal(&["--no-progress"], false).contains("ETA"));
    let plain = on_terminal(&[], true);
    // Colours and bold; moving the cursor is what a bar is.
    assert!(plain.contains("ETA") && !plain.contains("\x1b[3") && !plain.contains("\x1b[1m"), "{plain:?}");
}
