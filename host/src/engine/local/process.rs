//! The processes of one engine: started together, watched, ended for sure.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStdin};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::backends::trouble;
use crate::engine::served::{Ended, Keeper, Liveness};
use crate::process::log;
use crate::process::owner::Owner;
use crate::process::supervise::Supervised;

/// Last lines of a dead process that go into the reason.
const LAST_LINES: usize = 8;

/// Last lines in which the cause is looked for.
const TELLING_LINES: usize = 300;

/// Longest reason: a log line may be anything.
const LONGEST_REASON: usize = 2000;

/// A supervisor that has not ended so long after the grace is ended itself; the kernel then ends its command.
const OVERDUE: Duration = Duration::from_secs(15);

/// A process and its supervisor.
struct Running {
    /// Closing it asks the supervisor to end everything.
    pipe: Option<ChildStdin>,
    /// Ends when the supervisor has.
    watcher: JoinHandle<()>,
    supervisor: Option<u32>,
}

/// The processes of one engine. Dropping it ends them, too, but does not wait.
pub(super) struct Group {
    running: Vec<Running>,
    logs: Vec<(String, PathBuf)>,
    keeper: Arc<Keeper>,
    liveness: Liveness,
    grace: Duration,
}

impl Group {
    pub fn new(grace: Duration) -> Self {
        let (keeper, liveness) = Liveness::new();
        Self { running: Vec::new(), logs: Vec::new(), keeper: Arc::new(keeper), liveness, grace }
    }

    /// The engine is gone when the first of its processes is.
    pub fn liveness(&self) -> Liveness {
        self.liveness.clone()
    }

    /// Starts one more.
    ///
    /// # Errors
    /// If not even its supervisor starts. What the command itself has to say comes through [`Self::liveness`].
    pub fn start(&mut self, name: &str, supervised: &Supervised, owner: Option<&Owner>) -> Result<(), String> {
        let shown = supervised.command.join(" ");
        tracing::debug!("{name}: {shown}");
        let mut child =
            supervised.command(owner).spawn().map_err(|error| format!("cannot start {name} ({shown}): {error}"))?;
        self.logs.push((name.to_owned(), supervised.log.clone()));
        let (pipe, supervisor) = (child.stdin.take(), child.id());
        let watcher = tokio::spawn(watch(child, name.to_owned(), supervised.log.clone(), Arc::clone(&self.keeper)));
        self.running.push(Running { pipe, watcher, supervisor });
        Ok(())
    }

    /// What all of them wrote.
    pub fn logs(&self) -> String {
        self.logs
            .iter()
            .map(|(name, path)| {
                let text = log::read(path).unwrap_or_else(|error| format!("({}: {error})\n", path.display()));
                if self.logs.len() == 1 { text } else { format!("==> {name} <==\n{text}\n") }
            })
            .collect()
    }

    /// Ends all of them and returns when nothing is left.
    ///
    /// # Errors
    /// If something is left all the same.
    pub async fn end(mut self) -> Result<(), String> {
        self.keeper.ended("it was ended by the profiler");
        self.running.iter_mut().for_each(|running| drop(running.pipe.take()));
        let mut left = Vec::new();
        for running in &mut self.running {
            if timeout(self.grace + OVERDUE, &mut running.watcher).await.is_err() {
                left.extend(running.supervisor);
            }
        }
        for pid in &left {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(rustix::process::Pid::from_raw) {
                // Its command dies with it.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "processes under {left:?} did not end within {} s and may still hold GPUs",
                (self.grace + OVERDUE).as_secs()
            ))
        }
    }
}

/// Waits for the supervisor and says how the command ended.
async fn watch(mut child: Child, name: String, path: PathBuf, keeper: Arc<Keeper>) {
    let mut trouble = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // The supervisor's own words; the command's go to the log.
        let _ = stderr.read_to_string(&mut trouble).await;
    }
    let how = match child.wait().await {
        Ok(status) => match (status.code(), trouble.trim()) {
            (Some(code), "") => ending(code),
            (_, "") => "its supervisor was killed".to_owned(),
            (_, trouble) => trouble.to_owned(),
        },
        Err(error) => format!("nobody knows how: {error}"),
    };
    keeper.ended(epitaph(&name, &how, &path));
}

/// A supervisor's exit code in words.
fn ending(code: i32) -> String {
    match code - 128 {
        9 => "it was killed (signal 9: perhaps out of memory)".to_owned(),
        signal @ 1..=64 => format!("signal {signal} ended it"),
        _ => format!("exit code {code}"),
    }
}

fn epitaph(name: &str, how: &str, path: &Path) -> Ended {
    let text = log::read(path).unwrap_or_default();
    let said = log::last_lines(&text, TELLING_LINES).join("\n");
    let cause = trouble::cause(&said);
    let lines = log::last_lines(&text, LAST_LINES).join("\n");
    let words = if lines.is_empty() {
        format!("{name} ended: {how}; it wrote nothing ({})", path.display())
    } else {
        format!("{name} ended: {how}; its last lines ({}):\n{lines}", path.display())
    };
    let reason = match words.char_indices().nth(LONGEST_REASON) {
        Some((at, _)) => format!("{}…", words.get(..at).unwrap_or_default()),
        None => words,
    };
    match cause {
        // Tracebacks of whoever noticed may follow.
        Some((cause, line)) if !reason.contains(line) => {
            let line: String = line.chars().take(LONGEST_REASON / 4).collect();
            Ended { cause: Some(cause), reason: format!("{reason}\nbefore that: {line}") }
        }
        known => Ended { cause: known.map(|(cause, _)| cause), reason },
    }
}
