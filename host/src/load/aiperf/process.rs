//! AIPerf as a child: it starts eight processes of its own, so all of them are one group that ends together.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::process::log;
use crate::process::owner::Owner;
use crate::process::supervise::{self, Supervised};

/// A group that is asked to end has so long before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// Lines of the console that a reason repeats.
const LAST_LINES: usize = 12;

/// How much of the console is read for that, in bytes.
const LAST_BYTES: usize = 8 << 10;

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With success.
    Well,
    /// With a failure, in words.
    Badly(String),
    /// It did not, and was killed.
    Late,
}

/// Kills the group when dropped, whoever stops waiting for it; then nothing of it outlives the run. The number of a
/// group that has just ended is not given to another before all other numbers have been.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // All of them may have ended.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs to the end, with everything it says in the file. A supervisor stands above it where this program has one, so that
/// it ends with the program, however that ends.
///
/// # Errors
/// If it does not start or the file cannot be made.
pub(super) async fn run(
    command: Command,
    console: &Path,
    deadline: Duration,
    owner: Option<&Owner>,
) -> io::Result<Ended> {
    if supervise::is_available() {
        supervised(&command, console, deadline, owner).await
    } else {
        alone(command, console, deadline).await
    }
}

async fn supervised(command: &Command, console: &Path, deadline: Duration, owner: Option<&Owner>) -> io::Result<Ended> {
    let of = command.as_std();
    let text = |word: &OsStr| word.to_str().map(str::to_owned).ok_or_else(|| io::Error::other("a word is not UTF-8"));
    let supervised = Supervised {
        command: std::iter::once(of.get_program()).chain(of.get_args()).map(text).collect::<io::Result<_>>()?,
        env: BTreeMap::new(),
        working_dir: of.get_current_dir().map(Path::to_owned),
        log: console.to_owned(),
        log_bytes: log::LOG_BYTES,
        grace: GRACE,
    };
    if let Some(owner) = owner {
        owner.starts("aiperf")?;
    }
    let mut command = supervised.command(owner);
    for (name, value) in of.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut child = command.spawn()?;
    // Closed on any way out of here, which asks the supervisor to end everything.
    let pipe = child.stdin.take();
    let ended = match timeout(deadline, child.wait()).await {
        Ok(status) => supervisors_words(status?),
        Err(_) => {
            drop(pipe);
            let _ = timeout(GRACE + OVERDUE, child.wait()).await;
            Ended::Late
        }
    };
    match ended {
        Ended::Badly(_) => {
            // Its own words, where it could not even start the command; the command's go to the console.
            let mut trouble = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                let _ = stderr.read_to_string(&mut trouble).await;
            }
            let cannot = trouble.trim().starts_with("cannot run");
            if cannot { Err(io::Error::other(trouble.trim().to_owned())) } else { Ok(ended) }
        }
        ended => Ok(ended),
    }
}

/// A supervisor that has not ended so long after the grace waits for a device.
const OVERDUE: Duration = Duration::from_secs(15);

/// A supervisor passes signals on as shells do.
fn supervisors_words(status: ExitStatus) -> Ended {
    match status.code().map(|code| code - 128) {
        Some(9) => Ended::Badly(KILLED.to_owned()),
        Some(signal @ 1..=64) => Ended::Badly(format!("signal {signal} ended it")),
        _ => in_words(status),
    }
}

const KILLED: &str = "it was killed (signal 9: perhaps out of memory)";

async fn alone(mut command: Command, console: &Path, deadline: Duration) -> io::Result<Ended> {
    let output = File::create(console)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn()?;
    let group = Group(child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw));
    let ended = match timeout(deadline, child.wait()).await {
        Ok(status) => in_words(status?),
        Err(_) => {
            group.signal(Signal::TERM);
            let _ = timeout(GRACE, child.wait()).await;
            Ended::Late
        }
    };
    drop(group);
    if ended == Ended::Late {
        // Reaps what the kill has left.
        child.wait().await?;
    }
    Ok(ended)
}

fn in_words(status: ExitStatus) -> Ended {
    match (status.success(), status.signal()) {
        (true, _) => Ended::Well,
        (false, Some(9)) => Ended::Badly(KILLED.to_owned()),
        (false, Some(signal)) => Ended::Badly(format!("signal {signal} ended it")),
        (false, None) => Ended::Badly(status.to_string()),
    }
}

/// The end of what it said, without the frames around it.
pub(super) fn last_words(console: &Path) -> String {
    let text = match std::fs::read(console) {
        Ok(bytes) => {
            String::from_utf8_lossy(bytes.get(bytes.len().saturating_sub(LAST_BYTES)..).unwrap_or(&bytes)).into_owned()
        }
        Err(error) => return format!("{}: {error}", console.display()),
    };
    let is_frame = |c: char| c.is_whitespace() || ('\u{2500}'..='\u{257f}').contains(&c);
    let lines: Vec<&str> =
        text.lines().map(|line| line.trim_matches(is_frame)).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n");
    let place = console.display();
    if last.is_empty() { format!("it said nothing ({place})") } else { format!("its last words ({place}):\n{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    async fn ended(script: &str, deadline: Duration) -> (Ended, String) {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("console.log");
        let ended = run(shell(script), &console, deadline, None).await.unwrap();
        (ended, std::fs::read_to_string(console).unwrap())
    }

    const PLENTY: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn success_and_failure_are_told_apart() {
        assert_eq!(ended("echo all is well", PLENTY).await, (Ended::Well, "all is well\n".to_owned()));
        let (badly, said) = ended("echo no >&2; exit 3", PLENTY).await;
        assert!(matches!(&badly, Ended::Badly(how) if how.contains('3')), "{badly:?}");
        assert_eq!(said, "no\n");
        let (badly, _) = ended("kill -9 $$", PLENTY).await;
        assert!(matches!(&badly, Ended::Badly(how) if how.contains("out of memory")), "{badly:?}");
    }

    /// Whether the process runs: not gone, and no zombie.
    fn runs(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
    }

    /// Kills are asynchronous; a process that is not killed sleeps longer than this waits.
    async fn ends(pid: &str) -> bool {
        for _ in 0..3000 {
            if !runs(pid) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_late_run_is_ended_with_its_children_even_if_they_do_not_listen() {
        let script = "trap '' TERM; (trap '' TERM; echo $BASHPID $$; exec sleep 600) & wait; sleep 600";
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("console.log");
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        let ended = run(command, &console, Duration::from_secs(1), None).await.unwrap();
        assert_eq!(ended, Ended::Late);
        let said = std::fs::read_to_string(console).unwrap();
        let pids: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(pids.len(), 2, "{said}");
        for pid in pids {
            assert!(ends(pid).await, "{pid} is left");
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn whoever_stops_waiting_ends_the_run_and_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("console.log");
        let running = tokio::spawn({
            let console = console.clone();
            async move { run(shell("sleep 600 & echo $! $$; wait"), &console, PLENTY, None).await }
        });
        let pids = loop {
            let said = std::fs::read_to_string(&console).unwrap_or_default();
            if said.ends_with('\n') {
                break said;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        running.abort();
        for pid in pids.split_whitespace() {
            assert!(ends(pid).await, "{pid} is left");
        }
    }

    #[test]
    fn last_words_are_few_and_without_frames() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("console.log");
        assert!(last_words(&console).contains("console.log"));
        std::fs::write(&console, "").unwrap();
        assert!(last_words(&console).starts_with("it said nothing"));
        let lines: String = (0..5000).map(|n| format!("│ line {n} │\n╰────╯\n\n")).collect();
        std::fs::write(&console, lines).unwrap();
        let words = last_words(&console);
        assert!(words.ends_with("line 4998\nline 4999") && !words.contains("line 4987\n"), "{words}");
    }
}
