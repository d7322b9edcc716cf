//! A process of this program between the profiler and one process of an engine, so that whatever becomes of the
//! profiler, nothing of the engine is left.
//!
//! ```text
//! profiler --pipe--> supervisor --parent-death signal--> command ---> its children, wherever they went
//!                        '---- its output, bounded, to a file
//! ```
//!
//! The supervisor holds the reading end of a pipe. When the profiler closes it, or is gone (`kill -9` closes it too),
//! the supervisor ends the command and everything that came of it: SIGTERM, and SIGKILL after a grace. It is their
//! subreaper, so that no double fork and no session of its own lets a process get away. Should somebody kill the
//! supervisor itself, the kernel kills the command.
//!
//! The hidden command is trusted like the program itself; its arguments are not an interface.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, getppid, kill_process, kill_process_group, wait};

use super::log::BoundedLog;
use super::owner::Owner;
use super::secrets::Lines;

/// The hidden command.
pub(crate) const COMMAND: &str = "__supervise";

/// Exit code of a supervisor that could not do its work; the reason is on its standard error. The command's own codes
/// are passed on, and 128 and its number for a signal, as shells do.
const BROKEN: u8 = 125;

/// Between two rounds of SIGKILL: a process may be born between looking and killing.
const KILL_AGAIN: Duration = Duration::from_millis(50);

/// Processes that survive SIGKILL for so long wait for a device; nobody can end them.
const GIVE_UP: Duration = Duration::from_secs(10);

/// A supervised process to start.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Supervised {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Added to the profiler's own environment.
    pub env: BTreeMap<String, String>,
    /// Where it runs; the profiler's own directory if absent.
    pub working_dir: Option<PathBuf>,
    /// Where its output goes.
    pub log: PathBuf,
    /// Most bytes of output that are kept.
    pub log_bytes: u64,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
}

impl Supervised {
    /// The command that starts the supervisor. Its standard input is the pipe.
    pub fn command(&self, owner: Option<&Owner>) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(own_program());
        command
            .args([COMMAND, "run"])
            .arg(self.grace.as_millis().to_string())
            .arg(self.log_bytes.to_string())
            .arg(&self.log)
            .args(&self.command)
            .envs(&self.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is the profiler's alone.
            .process_group(0);
        if let Some(dir) = &self.working_dir {
            command.current_dir(dir);
        }
        // Last, so that no template hides what is ours.
        if let Some((name, token)) = owner.map(Owner::variable) {
            command.env(name, token);
        }
        command
    }
}

static AVAILABLE: OnceLock<()> = OnceLock::new();

/// Says that this process runs the program that has the hidden command. Its `main` says so; a test or another program
/// that uses the library does not.
pub(crate) fn this_program_supervises() {
    // Said twice is said once.
    let _ = AVAILABLE.set(());
}

/// Whether supervisors can be started.
pub(crate) fn is_available() -> bool {
    AVAILABLE.get().is_some()
}

/// The running file, also when an update has replaced it meanwhile.
fn own_program() -> PathBuf {
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() { link } else { std::env::current_exe().unwrap_or(link) }
}

/// What the hidden command does.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.collect();
    let outcome = match arguments.split_first() {
        Some((mode, rest)) if mode == "run" => run(rest),
        Some((mode, rest)) if mode == "exec" => exec(rest),
        _ => Err("this command is the program's own".to_owned()),
    };
    outcome.unwrap_or_else(|reason| {
        let _ = writeln!(io::stderr(), "{reason}");
        BROKEN
    })
}

/// Becomes the command, after the kernel was told to kill it with its parent.
fn exec(arguments: &[OsString]) -> Result<u8, String> {
    let [parent, program, rest @ ..] = arguments else { return Err("no command".to_owned()) };
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| e.to_string())?;
    // Between fork and here nobody would have told us.
    let current = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if cfg!(target_os = "linux") && current.as_deref() != parent.to_str() {
        return Err("the supervisor is gone".to_owned());
    }
    let error = Command::new(program).args(rest).exec();
    Err(format!("cannot run {}: {error}", program.display()))
}

enum Event {
    /// The command ended, with this code.
    Ended(u8),
    /// Neither it nor anything that came of it is left.
    AllGone,
    /// The profiler closed the pipe or is gone.
    Unwanted,
}

fn run(arguments: &[OsString]) -> Result<u8, String> {
    let [grace_ms, log_bytes, log, command @ ..] = arguments else { return Err("arguments are missing".to_owned()) };
    let number = |text: &OsString| text.to_str().and_then(|t| t.parse::<u64>().ok()).ok_or("a number is none");
    let (grace, log_bytes) = (Duration::from_millis(number(grace_ms)?), number(log_bytes)?);
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(getpid())).map_err(|e| e.to_string())?;

    let mut log = BoundedLog::create(Path::new(log), log_bytes).map_err(|e| format!("{}: {e}", log.display()))?;
    let (mut output, writer) = io::pipe().map_err(|e| e.to_string())?;
    let child = {
        let mut starter = Command::new(own_program());
        starter
            .args([COMMAND, "exec"])
            .arg(getpid().as_raw_nonzero().to_string())
            .args(command)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(|e| e.to_string())?)
            .stderr(writer)
            .process_group(0);
        // The command keeps writing ends of the pipe; they go with it.
        starter.spawn().map_err(|e| e.to_string())?
    };
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("no process id")?;

    let (events, happened) = mpsc::channel();
    let reaped = events.clone();
    thread::spawn(move || reap(group, &reaped));
    thread::spawn(move || {
        // Nothing is ever sent; what counts is the end.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = events.send(Event::Unwanted);
    });
    let (written, all_written) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        // A full disk ends the log, not the engine: its output has to be read on.
        let mut keep = true;
        let mut lines = Lines::default();
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            keep = keep && buffer.get(..count).is_some_and(|bytes| log.write(&lines.push(bytes)).is_ok());
        }
        if keep {
            let _ = log.write(&lines.end());
        }
        let _ = written.send(());
    });

    let (mut code, mut gone) = (None, false);
    match happened.recv() {
        Ok(Event::Ended(ended)) => code = Some(ended),
        Ok(Event::AllGone) => gone = true,
        Ok(Event::Unwanted) | Err(_) => {}
    }
    if !gone {
        end(group, grace, &happened, &mut code);
    }
    // All writers are gone, so that this is a matter of microseconds.
    let _ = all_written.recv_timeout(Duration::from_secs(1));
    Ok(code.unwrap_or(128 + Signal::KILL.as_raw() as u8))
}

/// Collects everything that ends, also orphans that the kernel gave to us.
fn reap(child: Pid, events: &mpsc::Sender<Event>) {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                let code = status.exit_status().or(signal).unwrap_or_default();
                let _ = events.send(Event::Ended(code as u8));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => {
                let _ = events.send(Event::AllGone);
                return;
            }
        }
    }
}

/// Ends whatever is left: SIGTERM, and SIGKILL after the grace.
fn end(group: Pid, grace: Duration, happened: &Receiver<Event>, code: &mut Option<u8>) {
    // Whoever left the group gets a signal of its own.
    let _ = kill_process_group(group, Signal::TERM);
    let left: Vec<Pid> = descendants();
    left.iter().filter(|pid| **pid != group).for_each(|pid| {
        let _ = kill_process(*pid, Signal::TERM);
    });
    if !is_all_gone(Instant::now() + grace, happened, code) {
        let give_up = Instant::now() + GIVE_UP;
        while Instant::now() < give_up {
            let _ = kill_process_group(group, Signal::KILL);
            descendants().into_iter().for_each(|pid| {
                let _ = kill_process(pid, Signal::KILL);
            });
            if is_all_gone(Instant::now() + KILL_AGAIN, happened, code) {
                return;
            }
        }
    }
}

fn is_all_gone(until: Instant, happened: &Receiver<Event>, code: &mut Option<u8>) -> bool {
    loop {
        match happened.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Event::AllGone) | Err(RecvTimeoutError::Disconnected) => return true,
            Ok(Event::Ended(ended)) => *code = Some(ended),
            Ok(Event::Unwanted) => {}
            Err(RecvTimeoutError::Timeout) => return false,
        }
    }
}

/// All processes below this one, by `/proc`; none where there is no such thing.
fn descendants() -> Vec<Pid> {
    let mut parents: Vec<(i32, i32)> = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // `pid (name, which may hold anything) state parent …`
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let mut found: Vec<i32> = Vec::new();
    let mut front = vec![getpid().as_raw_nonzero().get()];
    while let Some(parent) = front.pop() {
        for (pid, _) in parents.iter().filter(|(_, of)| *of == parent) {
            found.push(*pid);
            front.push(*pid);
        }
    }
    found.into_iter().filter_map(Pid::from_raw).collect()
}
