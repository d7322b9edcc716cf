//! Which process somebody is, in words by which another process can see later whether it still lives.

use std::fs;

use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// A process, told apart from every other one of its machine's boot: numbers are used again, starts are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Where process numbers mean what they mean there: the machine's boot, and the namespace.
    pub place: String,
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the boot.
    pub started_ticks: u64,
}

impl Process {
    /// This one.
    pub fn this() -> Self {
        let pid = std::process::id();
        Self { place: place(), pid, started_ticks: started_ticks(pid).unwrap_or(0) }
    }

    /// Whether it lives; `None` where that is not to be seen from here.
    pub fn lives(&self) -> Option<bool> {
        if self.place != place() || self.place.trim().is_empty() || self.started_ticks == 0 {
            return None;
        }
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        if test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
            return Some(false);
        }
        match stat(self.pid) {
            // Its parent has not asked how it ended; it holds nothing any more.
            Some(('Z' | 'X', _)) => Some(false),
            Some((_, started)) => Some(started == self.started_ticks),
            // There is one of that number, and `/proc` does not show other users' processes.
            None => None,
        }
    }
}

/// The boot of the machine and the namespace of process numbers; blank where there is no `/proc`.
pub(super) fn place() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}

/// When a process started, in clock ticks since the boot; `None` if there is no such process.
pub(super) fn started_ticks(pid: u32) -> Option<u64> {
    stat(pid).map(|(_, started)| started)
}

/// State and start of a process.
fn stat(pid: u32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `pid (name, which may hold anything) state …`; the start is the 22nd field.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_lives_until_it_has_ended_and_another_of_its_number_is_another() {
        let this = Process::this();
        assert_eq!(this.lives(), Some(true));
        let earlier = Process { started_ticks: this.started_ticks - 1, ..this.clone() };
        assert_eq!(earlier.lives(), Some(false), "its number is used again");
        let elsewhere = Process { place: "another boot".into(), ..this };
        assert_eq!(elsewhere.lives(), None);

        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let started_ticks = started_ticks(child.id()).unwrap();
        let of_child = Process { place: place(), pid: child.id(), started_ticks };
        assert_eq!(of_child.lives(), Some(true));
        child.kill().unwrap();
        // A zombie until somebody waits for it.
        while of_child.lives() == Some(true) {
            std::thread::yield_now();
        }
        assert_eq!(of_child.lives(), Some(false));
        child.wait().unwrap();
        assert_eq!(of_child.lives(), Some(false));
    }
}
