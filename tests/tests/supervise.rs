//! Nothing of an engine is left, whatever becomes of whoever started it: the supervisor by itself, with shells that do
//! their worst. Whole runs are in `local.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
#![cfg(target_os = "linux")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use sla_profiler_tests::processes::{Marked, alive};
use sla_profiler_tests::program;
use tempfile::TempDir;

struct Supervisor {
    child: Child,
    /// Apart from the child, whose `wait` would close it.
    pipe: Option<ChildStdin>,
    mark: Marked,
    dir: TempDir,
}

impl Supervisor {
    fn log(&self) -> PathBuf {
        self.dir.path().join("worker.log")
    }

    fn read(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Waits for the line in the log.
    fn says(&self, line: &str) {
        self.mark.until(&format!("the log says {line}"), || self.read().lines().any(|l| l == line));
    }

    fn ends(mut self) -> (i32, String) {
        drop(self.pipe.take());
        let status = self.child.wait().unwrap();
        self.mark.nothing_is_left();
        (status.code().unwrap_or(-1), self.read())
    }
}

/// Supervises a shell with that script.
fn supervise(grace_ms: u32, script: &str) -> Supervisor {
    supervise_command(grace_ms, &["sh", "-c", script])
}

fn supervise_command(grace_ms: u32, words: &[&str]) -> Supervisor {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("worker.log");
    let mark = Marked::new();
    let mut command = Command::new(program());
    command.args(["__supervise", "run", &grace_ms.to_string(), "100000"]).arg(&log).args(words);
    mark.on(&mut command).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    Supervisor { pipe: child.stdin.take(), child, mark, dir }
}

#[test]
fn exit_code_and_output_are_passed_on() {
    let mut quick = supervise(1000, "echo out; echo err >&2; exit 7");
    assert_eq!(quick.child.wait().unwrap().code(), Some(7), "without being asked to end");
    assert_eq!(quick.ends(), (7, "out\nerr\n".to_owned()));
    let killed = supervise(1000, "echo up; kill -KILL $$");
    killed.says("up");
    assert_eq!(killed.ends().0, 128 + 9);
}

#[test]
fn a_command_that_does_not_exist_says_so() {
    let mut absent = supervise_command(1000, &["no-such-engine"]);
    assert_eq!(absent.child.wait().unwrap().code(), Some(125));
    assert!(absent.ends().1.contains("cannot run no-such-engine: No such file"));
}

#[test]
fn closing_the_pipe_ends_the_command_politely() {
    let polite = supervise(60_000, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done");
    polite.says("up");
    let (code, log) = polite.ends();
    assert_eq!(code, 0);
    assert!(log.starts_with("up\n") && log.ends_with("bye\n"), "{log}");
}

/// Deaf to SIGTERM, with a child in its group, one in a session of its own, and an orphan.
const STUBBORN: &str = "trap '' TERM; sleep 1000 & setsid sleep 1000 & (setsid sh -c 'sleep 1000 & sleep 1000' &) ; \
                        sleep 0.2; echo up; wait; sleep 1000";

#[test]
fn whatever_ignores_sigterm_or_leaves_its_group_is_killed_all_the_same() {
    let stubborn = supervise(200, STUBBORN);
    stubborn.says("up");
    assert!(alive(stubborn.mark.name()).len() >= 6, "{:?}", alive(stubborn.mark.name()));
    assert_eq!(stubborn.ends().0, 128 + 9);
}

#[test]
fn children_do_not_outlive_a_command_that_ends_by_itself() {
    let mut leaving = supervise(200, "setsid sleep 1000 & echo up; exit 3");
    assert_eq!(leaving.child.wait().unwrap().code(), Some(3));
    leaving.mark.nothing_is_left();
}

#[test]
fn killing_whoever_holds_the_pipe_ends_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mark) = (dir.path().join("worker.log"), Marked::new());
    // The shell stands for the profiler: it alone holds the pipe's writing end, and says who it is.
    let script = format!(
        "sleep 1000 | {} __supervise run 200 100000 {} sh -c \"{STUBBORN}\" & echo $!; wait",
        program().display(),
        log.display()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]);
    let mut holder = mark.on(&mut command).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut first).unwrap();
    mark.until("it is up", || std::fs::read_to_string(&log).is_ok_and(|log| log == "up\n"));
    // The writer of the pipe, which is the first `sleep` of the pipeline.
    let writer = writer_of_the_pipe(mark.name(), &log);
    assert!(Command::new("kill").args(["-KILL", &writer.to_string()]).status().unwrap().success());
    mark.until("only the shell is left", || alive(mark.name()).iter().all(|pid| *pid == holder.id()));
    holder.kill().unwrap();
    holder.wait().unwrap();
    mark.nothing_is_left();
}

/// The `sleep` that is no descendant of the supervisor.
fn writer_of_the_pipe(mark: &str, log: &Path) -> u32 {
    let cmdline = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let parent = |pid: u32| -> u32 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    };
    let supervisor = alive(mark)
        .into_iter()
        .find(|pid| cmdline(*pid).contains("__supervise\0run") && cmdline(*pid).contains(&log.display().to_string()))
        .unwrap();
    let shell = parent(supervisor);
    alive(mark).into_iter().find(|pid| cmdline(*pid).starts_with("sleep\0") && parent(*pid) == shell).unwrap()
}

#[test]
fn killing_the_supervisor_kills_the_command() {
    let mut orphaned = supervise(200, "echo up; sleep 1000");
    orphaned.says("up");
    orphaned.child.kill().unwrap();
    orphaned.child.wait().unwrap();
    // The shell is killed by the kernel; its `sleep` is what it takes a live supervisor for.
    orphaned.mark.until("the shell is gone", || {
        alive(orphaned.mark.name())
            .iter()
            .all(|pid| !std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().starts_with("sh\0"))
    });
    orphaned.mark.kill();
}

#[test]
fn output_is_bounded() {
    let chatty =
        supervise(200, "yes 'a line that is written again and again' | head -c 5000000; echo last; sleep 1000");
    chatty.mark.until("it wrote all", || {
        let newer = chatty.dir.path().join("worker.log.newer");
        std::fs::read_to_string(newer).is_ok_and(|text| text.ends_with("last\n"))
    });
    let bytes: u64 = std::fs::read_dir(chatty.dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 100_000, "{bytes}");
    chatty.ends();
}
