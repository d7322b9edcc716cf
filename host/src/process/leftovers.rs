//! Processes that outlived their program: found by the token in their environment, never by name, and ended.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
#[cfg(target_os = "linux")]
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::Serialize;

use super::owner::{self, VARIABLE};

/// Between SIGTERM and SIGKILL: what is left has nobody to answer to, but may hold GPUs that want to be freed in order.
const GRACE: Duration = Duration::from_secs(5);

/// Processes that survive SIGKILL for so long wait for a device.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// What a program that is gone has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Left {
    /// Its run directory.
    pub run: std::path::PathBuf,
    /// Its process number, when it lived.
    pub pid: u32,
    /// When its record was written.
    pub since: String,
    /// What it had started.
    pub started: Vec<String>,
    /// Number and command of what is left of it.
    pub processes: Vec<(i32, String)>,
    /// Whether nothing is left any more.
    pub gone: bool,
}

/// Finds what programs that are gone have left, by the records in the folder, and ends it. With `dry_run` only looks.
pub(crate) fn clean_up(folder: &Path, dry_run: bool) -> Vec<Left> {
    let clean = |abandoned: owner::Abandoned| {
        let token = abandoned.record.token.clone();
        let found = processes(&token);
        let mut left = Left {
            run: abandoned.record.run.clone(),
            pid: abandoned.record.pid,
            since: abandoned.record.written_at.clone(),
            started: abandoned.started.clone(),
            processes: found.iter().map(|pid| (pid.as_raw_nonzero().get(), command(*pid))).collect(),
            gone: found.is_empty(),
        };
        if !dry_run {
            left.gone = left.gone || end(&token);
            if left.gone {
                abandoned.forget();
            }
        }
        left
    };
    owner::abandoned(folder).into_iter().map(clean).collect()
}

/// Ends everything that carries the token. Whether nothing is left.
fn end(token: &str) -> bool {
    let since = Instant::now();
    let mut asked = Vec::new();
    loop {
        let left = processes(token);
        if left.is_empty() {
            return true;
        }
        let is_over = since.elapsed() >= GRACE;
        for pid in left {
            if is_over {
                signal(pid, token, Signal::KILL);
            } else if !asked.contains(&pid) {
                signal(pid, token, Signal::TERM);
                asked.push(pid);
            }
        }
        if since.elapsed() >= GRACE + GIVE_UP {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// Sends the signal to the process that carries the token, and to no other that may have got its number meanwhile.
#[cfg(target_os = "linux")]
fn signal(pid: Pid, token: &str, signal: Signal) {
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    // The handle is of one process for ever: if that one carries the token, it is the right one.
    if carries(pid.as_raw_nonzero().get(), token) {
        let _ = pidfd_send_signal(handle, signal);
    }
}

/// Without `/proc` nothing is found that could be signalled.
#[cfg(not(target_os = "linux"))]
const fn signal(_pid: Pid, _token: &str, _signal: Signal) {}

/// Processes that carry the token, zombies excepted.
pub(crate) fn processes(token: &str) -> Vec<Pid> {
    let own = i32::try_from(std::process::id()).ok();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| Some(*pid) != own && carries(*pid, token))
        .filter_map(Pid::from_raw)
        .collect()
}

fn carries(pid: i32, token: &str) -> bool {
    let entry = format!("{VARIABLE}={token}");
    // Of somebody else's process there is nothing to be read. A zombie's environment is empty.
    let environment: io::Result<Vec<u8>> = fs::read(format!("/proc/{pid}/environ"));
    environment.is_ok_and(|bytes| bytes.split(|byte| *byte == 0).any(|variable| variable == entry.as_bytes()))
}

fn command(pid: Pid) -> String {
    let bytes = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let words: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let line: String = words.join(" ").chars().filter(|c| !c.is_control()).take(200).collect();
    line
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::super::owner::Owner;
    use super::*;

    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn sleeper((name, value): (&str, &str)) -> Sleeper {
        let mut command = Command::new("sleep");
        let spawned = command.arg("600").env(name, value).stdin(Stdio::null()).spawn();
        Sleeper(spawned.unwrap_or_else(|error| unreachable!("sleep starts: {error}")))
    }

    #[test]
    fn what_a_program_that_is_gone_has_left_is_ended_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (gone, lives) = (Owner::begin(folder.path(), Path::new("a")), Owner::begin(folder.path(), Path::new("b")));
        let (gone, lives) = (gone.unwrap(), lives.unwrap());
        gone.starts("decode tp1").unwrap();
        let mut orphan = sleeper(gone.variable());
        let mut owned = sleeper(lives.variable());
        // Of the same name, of the same user, and with a token that nobody has a record of.
        let mut stranger = sleeper((VARIABLE, "0123456789abcdef0123456789abcdef"));
        // With somebody left, the record stays.
        drop(gone);

        let seen = clean_up(folder.path(), true);
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].processes, [(orphan.0.id() as i32, "sleep 600".to_owned())]);
        assert!(!seen[0].gone && orphan.0.try_wait().unwrap().is_none(), "it only looks");

        // The test is its parent and has to collect it.
        let waiting = std::thread::spawn(move || orphan.0.wait().unwrap());
        let ended = clean_up(folder.path(), false);
        assert!(ended.len() == 1 && ended[0].gone && ended[0].started == ["decode tp1"], "{ended:?}");
        assert!(waiting.join().unwrap().code().is_none(), "a signal ended it");
        assert!(owned.0.try_wait().unwrap().is_none() && stranger.0.try_wait().unwrap().is_none());
        assert!(clean_up(folder.path(), false).is_empty(), "the record is gone");
    }
}
