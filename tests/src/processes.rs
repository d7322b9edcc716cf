//! Which processes of a test are alive: all that carry its mark in their environment, whoever started them.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const VARIABLE: &str = "SLA_PROFILER_TEST_MARK";

/// A failing test gives up after this long. It is no measure of anything.
const GIVE_UP: Duration = Duration::from_secs(60);

/// The mark of one test. What still carries it when it is dropped is killed.
#[derive(Debug)]
pub struct Marked(String);

impl Default for Marked {
    fn default() -> Self {
        Self::new()
    }
}

impl Marked {
    /// A mark that nobody has.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self(format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Its text.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Puts it on the command and whatever that starts.
    pub fn on<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env(VARIABLE, &self.0)
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let since = Instant::now();
        while !is_so() {
            assert!(since.elapsed() < GIVE_UP, "in vain: {what}; alive are {:?}", described(&self.0));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until no process carries it.
    pub fn nothing_is_left(&self) {
        self.until("nothing is left", || alive(&self.0).is_empty());
    }

    /// Kills what carries it.
    pub fn kill(&self) {
        for pid in alive(&self.0) {
            // It may have ended meanwhile.
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Processes that carry the mark and are no zombies.
pub fn alive(mark: &str) -> Vec<u32> {
    let entry = format!("{VARIABLE}={mark}");
    let carries = |pid: &u32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let zombie = stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'));
        !zombie && environ.split(|byte| *byte == 0).any(|variable| variable == entry.as_bytes())
    };
    let all = std::fs::read_dir("/proc").expect("Linux").flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(carries).collect()
}

fn described(mark: &str) -> Vec<String> {
    let line =
        |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
    alive(mark).into_iter().map(|pid| format!("{pid} {}", line(pid))).collect()
}
