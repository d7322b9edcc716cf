//! Running other programs.
//!
//! Children stay in our process group, so Ctrl-C in a terminal ends them together with us.

use std::env;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

/// Lines of a failed program's stderr that an error repeats.
const STDERR_LINES: usize = 12;

/// A `cargo` to run in `dir`, free of what the cargo that started this process set for it.
///
/// `cargo run` describes the package it runs in variables such as `CARGO_PKG_NAME`. Build scripts that watch those would
/// see them change between `cargo build` and `cargo xtask`, and everything after them would be built twice.
#[must_use]
pub fn cargo(dir: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(dir);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_about_the_running_package) {
            command.env_remove(name);
        }
    }
    command
}

fn is_about_the_running_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || matches!(name, "CARGO_CRATE_NAME" | "CARGO_BIN_NAME" | "CARGO_PRIMARY_PACKAGE" | "OUT_DIR")
}

/// Runs to the end with our stdout and stderr.
///
/// # Errors
/// [`Error::Start`] or [`Error::Failed`].
pub fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.status().map_err(|source| Error::Start { command: line(command), source })?;
    if status.success() { Ok(()) } else { Err(failed(command, &status.to_string(), "")) }
}

/// Runs to the end and returns stdout, without the line break at its end.
///
/// # Errors
/// [`Error::Start`] or [`Error::Failed`].
pub fn output(command: &mut Command) -> Result<String, Error> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|source| Error::Start { command: line(command), source })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    } else {
        Err(failed(command, &output.status.to_string(), &String::from_utf8_lossy(&output.stderr)))
    }
}

/// Runs without a terminal, and kills the program after `limit`. Its output is kept for the error.
///
/// # Errors
/// [`Error::Start`], [`Error::Failed`] or [`Error::TimedOut`].
pub fn run_within(command: &mut Command, limit: Duration) -> Result<(), Error> {
    const POLL: Duration = Duration::from_millis(100);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start { command: line(command), source })?;
    let pipe = child.stderr.take();
    // Read beside the wait: a child that fills the pipe would never end.
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut pipe) = pipe {
            // What could be read serves; the exit status decides.
            let _ = pipe.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    let started = Instant::now();
    let status = loop {
        let status = child.try_wait().map_err(|source| Error::Start { command: line(command), source })?;
        match status {
            Some(status) => break status,
            None if started.elapsed() < limit => thread::sleep(POLL),
            None => {
                // It may have ended just now; then there is nothing to kill.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::TimedOut { command: line(command), seconds: limit.as_secs() });
            }
        }
    };
    let stderr = reader.join().unwrap_or_default();
    if status.success() { Ok(()) } else { Err(failed(command, &status.to_string(), &stderr)) }
}

/// The command as a person would type it, for messages.
#[must_use]
pub fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
    let arguments = command.get_args().map(|argument| format!(" {}", argument.to_string_lossy()));
    format!("{name}{}", arguments.collect::<String>())
}

/// Where a program of this name would be found on `PATH`.
#[must_use]
pub fn on_path(name: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(name).is_file()))
}

fn failed(command: &Command, status: &str, stderr: &str) -> Error {
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines.iter().skip(lines.len().saturating_sub(STDERR_LINES)).copied().collect::<Vec<_>>().join("\n");
    Error::Failed { command: line(command), status: status.to_owned(), stderr: tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_killed_and_named() {
        let error = run_within(Command::new("sleep").arg("600"), Duration::ZERO).unwrap_err();
        assert!(matches!(&error, Error::TimedOut { command, .. } if command == "sleep 600"), "{error}");
    }

    #[test]
    fn a_failed_program_is_reported_with_the_end_of_its_stderr() {
        let script = "for i in $(seq 100); do echo line $i >&2; done; exit 3";
        let error = run_within(Command::new("sh").args(["-c", script]), Duration::from_secs(60)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3"), "{text}");
        assert!(text.ends_with("line 100"), "{text}");
        assert!(!text.contains("line 88\n"), "{text}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut Command::new("no-such-program-of-ours")).unwrap_err();
        assert!(error.to_string().contains("no-such-program-of-ours"), "{error}");
    }

    #[test]
    fn variables_about_the_running_package_are_told_from_settings() {
        assert!(is_about_the_running_package("CARGO_PKG_NAME"));
        assert!(is_about_the_running_package("CARGO_MANIFEST_DIR"));
        assert!(!is_about_the_running_package("CARGO_HOME"));
        assert!(!is_about_the_running_package("CARGO_TARGET_DIR"));
    }
}
