//! Servers that end with the test, however it ends.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, ChildStdin, Command, Stdio};

/// Starts the program and kills it when its own stdin closes: the kernel closes that when we end, SIGKILL included.
/// `$1`: the log. `$2`: a folder to remove at the end, or nothing. The rest: the command.
const SUPERVISOR: &str = r#"
trap '' INT TERM HUP
log=$1 folder=$2
shift 2
"$@" </dev/null >>"$log" 2>&1 &
child=$!
read -r _
kill -9 "$child" 2>/dev/null
wait "$child" 2>/dev/null
test -z "$folder" || rm -rf "$folder"
"#;

/// A running server.
pub struct Child {
    supervisor: Process,
    lifeline: Option<ChildStdin>,
    log: PathBuf,
}

impl Child {
    /// Starts it with its output in `<folder>/<name>.log`. With `owns_folder` the folder goes with it.
    pub fn start<I: IntoIterator<Item = A>, A: AsRef<OsStr>>(
        name: &str,
        arguments: I,
        folder: &Path,
        owns_folder: bool,
    ) -> Self {
        let log = folder.join(format!("{name}.log"));
        let owned = if owns_folder { folder.as_os_str().to_owned() } else { OsString::new() };
        let mut supervisor = Command::new("/bin/sh")
            .args(["-c", SUPERVISOR, "supervisor"])
            .args([log.as_os_str(), &owned])
            .arg(super::assets::program(name))
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::piped())
            // A Ctrl-C in the terminal is for the test; this follows it.
            .process_group(0)
            .spawn()
            .expect("/bin/sh starts");
        let lifeline = supervisor.stdin.take();
        Self { supervisor, lifeline, log }
    }

    /// Kills the server and nothing else: it can be started again in the same folder.
    pub fn kill(&self) {
        let supervisor = self.supervisor.id();
        let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"));
        for pid in children.expect("Linux says which children there are").split_whitespace() {
            let killed = Command::new("kill").args(["-9", pid]).status();
            assert!(killed.is_ok_and(|status| status.success()), "{pid} is ours");
        }
    }

    /// What it wrote last, for a message.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(20)).copied().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.supervisor.wait();
    }
}
