//! A run that is stopped, killed, or out of disk can be resumed, and finds what an undisturbed one finds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use sla_profiler::output::exit_code;
use sla_profiler_tests::runs::{QUICKSTART, assert_same_findings, expect, files, profile};
use sla_profiler_tests::{Said, said};
use tempfile::TempDir;

/// Tighter intervals make a job of some seconds; the answer is not what counts here.
const SLOW: &[&str] = &["--sweep-setting", "precision=0.008", "--no-auto-apply"];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    [SLOW, more].concat()
}

/// What nobody disturbed.
fn undisturbed() -> &'static Path {
    static RUN: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, out) = RUN.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        expect(exit_code::OK, profile(QUICKSTART, &out, SLOW));
        (dir, out)
    });
    out
}

fn journal(out: &Path) -> String {
    std::fs::read_to_string(out.join("journal.jsonl")).unwrap_or_default()
}

fn count(out: &Path, event: &str) -> usize {
    journal(out).matches(&format!("\"event\":{{\"{event}\":")).count()
}

/// Starts a run and waits until it has measured some points, but by far not all.
fn in_the_middle(out: &Path, flags: &[&str]) -> Child {
    let mut command = profile(QUICKSTART, out, flags);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while count(out, "measured") < 12 {
        assert_eq!(child.try_wait().unwrap(), None, "it ended early");
        std::thread::sleep(Duration::from_millis(3));
    }
    child
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn wait(child: Child) -> Said {
    said(child.wait_with_output().unwrap())
}

/// Resumes, and compares with what nobody disturbed. Nothing that was measured is measured again.
fn resumes(out: &Path) -> Said {
    let before = count(out, "measured");
    let said = expect(exit_code::OK, profile(QUICKSTART, out, &with(&["--resume"])));
    assert_same_findings(undisturbed(), out);
    assert!(before > 0 && count(out, "resumed") > 0);
    assert_eq!(count(out, "measured"), count(undisturbed(), "measured"), "{before} were known");
    said
}

#[test]
fn ctrl_c_releases_the_engines_and_resume_finds_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let child = in_the_middle(dir.path(), SLOW);
    signal(&child, "-INT");
    let said = wait(child);
    assert_eq!(said.code, i32::from(exit_code::INTERRUPTED), "{}", said.err);
    assert!(said.err.contains("--resume"), "says how to go on: {}", said.err);
    assert!(said.out.is_empty() || said.out.contains("Only the best answer so far: interrupted"), "{}", said.out);
    assert_eq!(count(dir.path(), "launched"), count(dir.path(), "released"), "no engine is left");
    assert!(count(dir.path(), "measured") < count(undisturbed(), "measured"));
    resumes(dir.path());
}

#[test]
fn a_killed_run_is_resumed_and_finds_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let child = in_the_middle(dir.path(), SLOW);
    signal(&child, "-KILL");
    assert_eq!(wait(child).code, -1);
    // As if the power had gone in the middle of a line.
    let file = dir.path().join("journal.jsonl");
    let mut text = journal(dir.path());
    text.push_str("{\"seq\":99,\"at_s\":1.5,\"ev");
    std::fs::write(&file, text).unwrap();
    let said = resumes(dir.path());
    assert!(said.err.contains("torn"), "{}", said.err);
}

#[test]
fn a_second_process_is_refused_and_the_first_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let child = in_the_middle(dir.path(), SLOW);
    for flag in ["--resume", "--force"] {
        let said = expect(exit_code::OUTPUT, profile(QUICKSTART, dir.path(), &with(&[flag])));
        assert!(said.err.contains("another process"), "{flag}: {}", said.err);
    }
    assert_eq!(wait(child).code, 0);
    assert_same_findings(undisturbed(), dir.path());
    let status = std::fs::read_to_string(dir.path().join("profiler_status.yaml")).unwrap();
    assert!(status.contains("status: success"), "{status}");
}

/// A disk of 100 kB, which goes away with the shell's mount namespace; what was on it is copied off first.
const SMALL_DISK: &str =
    r#"mount -t tmpfs -o size=100k none "$DISK" && "$@"; code=$?; cp -r "$DISK/out" "$COPY"; exit $code"#;

/// Needs the right to mount, which test machines give and some desks do not.
#[test]
fn a_full_disk_is_said_and_resume_finds_the_same_once_there_is_room() {
    if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("not tested: this user may not mount a disk");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (disk, copy) = (dir.path().join("disk"), dir.path().join("copy"));
    std::fs::create_dir(&disk).unwrap();
    let command = profile(QUICKSTART, &disk.join("out"), SLOW);
    let mut on_disk = Command::new("unshare");
    on_disk.args(["-m", "bash", "-c", SMALL_DISK, "bash"]).arg(command.get_program()).args(command.get_args());
    on_disk.current_dir(command.get_current_dir().unwrap()).env("DISK", &disk).env("COPY", &copy);
    on_disk.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = expect(exit_code::OUTPUT, on_disk);
    assert!(said.err.contains("cannot write") && said.err.contains("--resume"), "{}", said.err);
    assert!(!copy.join("result.json").exists());
    assert!(files(&copy).keys().all(|name| !name.ends_with(".part")), "{:?}", files(&copy).keys());
    resumes(&copy);
}

#[test]
fn a_finished_run_is_resumed_without_measuring_anything() {
    let dir = tempfile::tempdir().unwrap();
    copy(undisturbed(), dir.path());
    let said = resumes(dir.path());
    assert!(!said.out.contains(" 0.00 GPU-hours"), "what it took is not forgotten: {}", said.out);
}

#[test]
fn resume_refuses_what_is_not_this_run_and_leaves_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let said = expect(exit_code::OUTPUT, profile(QUICKSTART, &absent, &["--resume"]));
    assert!(said.err.contains("nothing to resume"), "{}", said.err);
    assert!(!absent.exists());

    let out = dir.path().join("out");
    copy(undisturbed(), &out);
    let refused = |flags: &[&str], says: &str| {
        let before = files(&out);
        let said = expect(exit_code::OUTPUT, profile(QUICKSTART, &out, flags));
        assert!(said.err.contains(says), "{says}: {}", said.err);
        assert_eq!(before, files(&out), "{says}");
    };
    refused(&with(&["--resume", "--itl", "9"]), "another job");
    refused(&with(&["--resume", "--selection", "select-cost"]), "other plugins");
    refused(SLOW, "not empty");

    let text = journal(&out);
    std::fs::write(out.join("journal.jsonl"), text.replacen("\"format\":1", "\"format\":2", 1)).unwrap();
    refused(&with(&["--resume"]), "format 2");
    let mut lines: Vec<&str> = text.lines().collect();
    lines[3] = "{}";
    std::fs::write(out.join("journal.jsonl"), lines.join("\n") + "\n").unwrap();
    refused(&with(&["--resume"]), "journal.jsonl:4");
}

#[test]
fn force_replaces_the_run_and_keeps_what_is_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    copy(undisturbed(), dir.path());
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    std::fs::create_dir(dir.path().join("prefill_64gpus_tp64")).unwrap();
    expect(exit_code::OK, profile(QUICKSTART, dir.path(), &with(&["--force"])));
    assert_eq!(std::fs::read_to_string(dir.path().join("notes.txt")).unwrap(), "mine");
    assert!(!dir.path().join("prefill_64gpus_tp64").exists(), "of an earlier run");
    std::fs::remove_file(dir.path().join("notes.txt")).unwrap();
    assert_same_findings(undisturbed(), dir.path());
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}
