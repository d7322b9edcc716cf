//! What must not get out does not, and what must not get in does not: canaries in the place of secrets through a whole
//! run, and names from elsewhere that would lead out of the run directory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
#![cfg(target_os = "linux")]

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use sla_profiler::output::exit_code;
use sla_profiler::run::{Existing, RunDir};
use sla_profiler_tests::processes::Marked;
use sla_profiler_tests::runs::{SMALL, expect, files, profile};
use sla_profiler_tests::{program, run, sla_profiler};

const CANARIES: [&str; 3] = ["canary-of-the-hub-4711", "canary-of-the-registry-4711", "canary-of-the-key-file-4711"];

/// A job whose engines write their whole environment to their log, as badly made wrappers do.
fn talkative(more: &str) -> String {
    let engine = program().with_file_name("engine");
    let command = format!(
        "env; echo \"retrying with Authorization: Bearer hf_\"'0123456789'\"abcdefghijklmnop\"; exec {} --port {{port}} --model \
         {{served_name}} --kv-tokens 20000 {more}",
        engine.display()
    );
    json!({
        "model": "Qwen/Qwen3-0.6B",
        "hardware": { "gpuSku": "h200_sxm", "numGpusPerNode": 2, "totalGpus": 2 },
        "workload": { "isl": 200, "osl": 20 },
        "sla": { "ttft": 200, "itl": 30 },
        "profiler": {
            "maxContextLength": 600,
            "maxNumGpusPerEngine": 1,
            "sweep": {
                "plugin": "sweep-grid",
                "settings": { "prefill-granularity": 2, "decode-granularity": 2, "samples": 8 },
            },
            "engines": {
                "maxClientShare": 100,
                "kvTokens": 20_000,
                "local": {
                    "graceS": 0.5,
                    "any": {
                        "processes": [{ "name": "worker", "command": ["bash", "-c", command] }],
                        "url": "http://127.0.0.1:{port}",
                    },
                },
            },
        },
    })
    .to_string()
}

fn nothing_of_them(what: &str, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    for canary in CANARIES.into_iter().chain(["hf_0123456789abcdefghijklmnop"]) {
        assert!(!text.contains(canary), "{canary} is in {what}");
    }
}

#[test]
fn no_secret_reaches_any_file_of_a_run_nor_the_terminal() {
    for (more, code) in [("", exit_code::OK), ("--die-loading", exit_code::NOTHING_MEASURED)] {
        let (dir, mark) = (tempfile::tempdir().unwrap(), Marked::new());
        let key = dir.path().join("key");
        std::fs::write(&key, CANARIES[2]).unwrap();
        let out = dir.path().join("out");
        let mut command = sla_profiler(["-vv", "profile", "--cluster", "local", "--config", &talkative(more), "--out"]);
        command.arg(&out).arg("--api-key-file").arg(&key).env_remove("CUDA_VISIBLE_DEVICES");
        command.env("HF_TOKEN", CANARIES[0]).env("REGISTRY_PASSWORD", CANARIES[1]);
        mark.on(&mut command);
        let said = run(command);
        mark.nothing_is_left();
        assert_eq!(said.code, i32::from(code), "{}", said.err);
        nothing_of_them("standard output", said.out.as_bytes());
        nothing_of_them("standard error", said.err.as_bytes());
        let files = files(&out);
        for (name, bytes) in &files {
            nothing_of_them(name, bytes);
        }
        // The engine did say them.
        let log = files.iter().find(|(name, _)| name.ends_with("launch-1/worker.log")).unwrap().1;
        let log = String::from_utf8_lossy(log);
        assert!(log.contains("HF_TOKEN=***") && log.contains("REGISTRY_PASSWORD=***"), "{log}");
        assert!(log.contains("Bearer hf_***"), "{log}");
    }
}

/// Plugins get no environment and no clock; what they are told of failures comes from the same masked history, which a
/// plugin that writes its input to its log would show.
#[test]
fn what_plugins_see_of_failures_is_masked() {
    let (dir, mark) = (tempfile::tempdir().unwrap(), Marked::new());
    let out = dir.path().join("out");
    let mut command = sla_profiler(["profile", "--cluster", "local", "--config", &talkative("--die-loading"), "--out"]);
    command.arg(&out).env("HF_TOKEN", CANARIES[0]).env_remove("CUDA_VISIBLE_DEVICES");
    mark.on(&mut command);
    assert_eq!(run(command).code, i32::from(exit_code::NOTHING_MEASURED));
    mark.nothing_is_left();
    let journal = std::fs::read(out.join("journal.jsonl")).unwrap();
    let text = String::from_utf8_lossy(&journal);
    assert!(text.contains("worker ended"), "the reason is there: {text}");
    nothing_of_them("the journal, from which plugins get their history", &journal);
}

#[test]
fn a_run_directory_that_others_prepared_does_not_lead_outside() {
    let dir = tempfile::tempdir().unwrap();
    let (out, outside) = (dir.path().join("out"), dir.path().join("outside"));
    std::fs::create_dir_all(&out).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    let target = outside.join("target");
    std::fs::write(&target, "mine").unwrap();
    let run = RunDir::open(&out, Existing::Replace).unwrap();

    symlink(&target, out.join("result.json")).unwrap();
    run.write("result.json", b"ours").unwrap();
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "mine", "a link is replaced, not followed");
    assert_eq!(std::fs::read_to_string(out.join("result.json")).unwrap(), "ours");

    symlink(&outside, out.join("folder")).unwrap();
    assert!(run.write("folder/file", b"x").is_err());
    assert!(run.append("folder/file").is_err());
    symlink("/dev/null", out.join("profile_sla.log")).unwrap();
    assert!(run.append("profile_sla.log").is_err(), "a device by a link");
    for name in ["../escaped", "/tmp/sla-profiler-escaped", "a/../../escaped", "folder/../../escaped"] {
        assert!(run.write(name, b"x").is_err() && run.append(name).is_err() && run.read(name).is_err(), "{name}");
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    assert!(!dir.path().join("escaped").exists() && !Path::new("/tmp/sla-profiler-escaped").exists());
}

/// A journal that is a device or a pipe would hold the program up, or swallow what is written.
#[test]
fn a_journal_that_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    std::fs::create_dir_all(&out).unwrap();
    symlink("/dev/zero", out.join("journal.jsonl")).unwrap();
    let said = expect(exit_code::OUTPUT, profile(SMALL, &out, &["--resume"]));
    assert!(said.err.contains("journal.jsonl"), "{}", said.err);
    let other = dir.path().join("other");
    std::fs::create_dir_all(&other).unwrap();
    let made = std::process::Command::new("mkfifo").arg(other.join("journal.jsonl")).status().unwrap();
    assert!(made.success());
    let said = expect(exit_code::OUTPUT, profile(SMALL, &other, &["--resume"]));
    assert!(said.err.contains("journal.jsonl"), "{}", said.err);
}

/// Folders of engines are made beside cap-std, since supervisors write there by path.
#[test]
fn an_engines_folder_that_is_a_link_is_refused() {
    let (dir, mark) = (tempfile::tempdir().unwrap(), Marked::new());
    let (out, outside) = (dir.path().join("out"), dir.path().join("outside"));
    std::fs::create_dir_all(&out).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    symlink(&outside, out.join("notes")).unwrap();
    symlink(&outside, out.join("decode_1gpus_tp1")).unwrap();
    symlink(&outside, out.join("prefill_1gpus_tp1")).unwrap();
    let mut command = sla_profiler(["profile", "--cluster", "local", "--config", &talkative(""), "--force", "--out"]);
    command.arg(&out).env_remove("CUDA_VISIBLE_DEVICES");
    mark.on(&mut command);
    let said = run(command);
    mark.nothing_is_left();
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{}", said.err);
}
