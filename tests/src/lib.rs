//! Helpers for the tests of this package: where things are, and how to run the program as a user would.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests: a failure is the message"
)]

pub mod chromium;
pub mod faults;
pub mod fixtures;
pub mod guests;
pub mod kills;
pub mod kubernetes;
pub mod nvidia;
pub mod openai;
pub mod processes;
pub mod recorded;
pub mod runs;
pub mod worlds;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// The program, built from this workspace. Test binaries lie in `<profile>/deps`, it lies one above.
pub fn program() -> PathBuf {
    let mut path = std::env::current_exe().expect("a test knows its own path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    let program = path.join(format!("sla-profiler{}", std::env::consts::EXE_SUFFIX));
    assert!(program.exists(), "{} is not built; run the tests with `cargo xtask test`", program.display());
    program
}

/// A call of the program in the repository's root, without colour and with a plugin cache of the tests' own.
pub fn sla_profiler<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(args: I) -> Command {
    let mut command = Command::new(program());
    command
        .args(args)
        .current_dir(root())
        .env("NO_COLOR", "1")
        .env("COLUMNS", "120")
        .env("CI", "true")
        .env("XDG_CACHE_HOME", cache())
        // Nothing that whoever runs the tests has added or trusts.
        .env("XDG_DATA_HOME", cache().join("data"))
        .env("XDG_CONFIG_HOME", cache().join("config"))
        .env("XDG_STATE_HOME", cache().join("state"));
    command
}

/// Shared by all tests, so that each plugin is compiled once.
pub fn cache() -> PathBuf {
    let mut path = program();
    path.pop();
    path.join("test-cache")
}

/// What a call said and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A call that has not ended by then hangs. It is no measure of anything: the longest takes a tenth of it.
const HANGS: Duration = Duration::from_secs(900);

/// Runs to the end, without anything on its standard input.
pub fn run(mut command: Command) -> Said {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ended(command.spawn().expect("the program starts"), &format!("{command:?}"))
}

/// Waits for the end of a call, and says what it said. One that hangs is killed, and the test fails with its name: the
/// others go on.
pub fn ended(child: Child, name: &str) -> Said {
    let pid = child.id().to_string();
    let (sender, done) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let output = done.recv_timeout(HANGS).unwrap_or_else(|_| {
        // It may have ended just now.
        let _ = Command::new("kill").args(["-KILL", &pid]).status();
        panic!("{name} did not end within {HANGS:?}")
    });
    said(output.expect("its output can be read"))
}

/// What an ended call said.
pub fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Compares with a committed file. With `SLA_PROFILER_UPDATE=1` the file is rewritten instead.
pub fn golden(path: &Path, actual: &str) {
    if std::env::var_os("SLA_PROFILER_UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().expect("a golden file lies in a folder"))
            .expect("the folder can be made");
        std::fs::write(path, actual).expect("the golden file can be written");
        return;
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        expected == actual,
        "{} differs; if that is intended, run `cargo xtask generate`.\n--- expected\n{expected}\n--- actual\n{actual}",
        path.display()
    );
}
