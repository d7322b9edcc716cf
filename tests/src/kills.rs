//! Runs that are killed, again and again, by whoever watches their journal from outside; and what must hold afterwards.
//!
//! Three ways to kill, none of which the program knows of:
//! - SIGKILL after a time, or once the journal has reached a length. It lands where it lands.
//! - The kernel kills it in the write that would take a file beyond a length (`RLIMIT_FSIZE`, SIGXFSZ, which nobody
//!   handles): exactly at a boundary of the journal, or in the middle of a record, which is then torn.
//! - The same limit with that signal ignored is a disk that is full from that byte on: the write fails (`EFBIG`), and
//!   the program has to deal with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sla_profiler::run::{Durability, Event, Existing, Journal, RunDir, journal};

use crate::runs::{findings, profile};
use crate::{Said, said};

/// No run of a simulated cluster takes so long.
const GIVE_UP: Duration = Duration::from_secs(120);

/// Between two looks at the journal.
const LOOK: Duration = Duration::from_micros(200);

/// A generator of numbers from a seed (splitmix64), which a report can name.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one, below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// When a process is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kill {
    /// SIGKILL after so long.
    After(Duration),
    /// SIGKILL once its journal has so many bytes more than when it started.
    Grown(u64),
    /// By the kernel, in the write that would take the journal beyond so many bytes.
    At(u64),
}

/// A run that is killed and resumed until it comes to its end.
#[derive(Debug)]
pub struct Victim {
    job: String,
    flags: Vec<String>,
    out: PathBuf,
    wrap: fn(&mut Command),
    /// Processes that were started.
    pub starts: u32,
    /// Those that were killed before they came to their end.
    pub killed: u32,
    /// From the start of a process to its `resumed` record, for those that were seen.
    pub ready: Vec<Duration>,
    /// How many measurements were under way at each kill, beyond one per engine: those would be repeated needlessly.
    pub beyond_one: u32,
}

impl Victim {
    /// Nothing has run yet. `wrap` changes each command before it starts.
    pub fn new(job: &str, flags: &[&str], out: &Path, wrap: fn(&mut Command)) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let out = out.to_owned();
        Self { job: job.to_owned(), flags, out, wrap, starts: 0, killed: 0, ready: Vec::new(), beyond_one: 0 }
    }

    /// Its journal.
    pub fn journal(&self) -> PathBuf {
        self.out.join("journal.jsonl")
    }

    /// Bytes of its journal.
    pub fn length(&self) -> u64 {
        std::fs::metadata(self.journal()).map_or(0, |metadata| metadata.len())
    }

    /// The command that starts it, or goes on.
    pub fn command(&self) -> Command {
        let mut flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        // Killed before its first record, it may have left a journal that is empty, or none.
        match (self.journal().exists(), self.out.exists()) {
            (true, _) => flags.push("--resume"),
            (false, true) => flags.push("--force"),
            (false, false) => {}
        }
        let mut command = profile(&self.job, &self.out, &flags);
        (self.wrap)(&mut command);
        command
    }

    /// Starts it and kills it. Whether it was killed: it may have come to its end before.
    pub fn kill(&mut self, when: Kill) -> bool {
        self.starts += 1;
        let (before, resumes) = (self.length(), self.journal().exists());
        let mut command = match when {
            Kill::At(bytes) => limited(&self.command(), bytes, false),
            Kill::After(_) | Kill::Grown(_) => self.command(),
        };
        let since = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut ready = None;
        let ended = loop {
            if let Some(status) = child.try_wait().expect("it is ours") {
                break status;
            }
            let grown = self.length().saturating_sub(before);
            if resumes && ready.is_none() && grown > 0 && self.tail(before).contains("\"event\":{\"resumed\"") {
                ready = Some(since.elapsed());
            }
            let is_time = match when {
                Kill::After(time) => since.elapsed() >= time,
                Kill::Grown(bytes) => grown >= bytes,
                Kill::At(_) => false,
            };
            if is_time {
                let _ = child.kill();
                break child.wait().expect("it ends");
            }
            assert!(since.elapsed() < GIVE_UP, "it does not end");
            std::thread::sleep(LOOK);
        };
        self.ready.extend(ready);
        if ended.code().is_some() {
            let said = said(child.wait_with_output().expect("it has ended"));
            assert!([0, 10].contains(&ended.code().unwrap_or(-1)), "it failed: {ended}\n{}", said.err);
            return false;
        }
        self.killed += 1;
        self.beyond_one += under_way(&self.events());
        true
    }

    /// Lets it come to its end.
    pub fn finish(&mut self) -> Said {
        self.starts += 1;
        crate::run(self.command())
    }

    fn tail(&self, from: u64) -> String {
        let bytes = std::fs::read(self.journal()).unwrap_or_default();
        let from = usize::try_from(from).unwrap_or(0);
        String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
    }

    /// The events of its journal: name and content. A torn last line is none.
    pub fn events(&self) -> Vec<(String, Value)> {
        events(&self.journal())
    }

    /// Everything that must hold once it has come to its end; each sentence is a breach.
    pub fn breaches(&self, undisturbed: &Path) -> Vec<String> {
        let mut breaches = Vec::new();
        let points = |events: &[(String, Value)]| {
            let mut points: BTreeMap<String, u32> = BTreeMap::new();
            for (_, event) in events.iter().filter(|(name, _)| name == "measured") {
                *points.entry(point(event.get("measurement").unwrap_or(&Value::Null))).or_default() += 1;
            }
            points
        };
        let (mine, theirs) = (points(&self.events()), points(&events(&undisturbed.join("journal.jsonl"))));
        let lost: Vec<&String> = mine.iter().filter(|(_, times)| **times > 1).map(|(point, _)| point).collect();
        if !lost.is_empty() {
            breaches.push(format!("points that were paid for twice: {lost:?}"));
        }
        if mine.keys().ne(theirs.keys()) {
            breaches.push("other points than the undisturbed run's were measured".to_owned());
        }
        if self.beyond_one > 0 {
            breaches
                .push(format!("{} measurements more than one per engine were under way at a kill", self.beyond_one));
        }
        let (mine, theirs) = (findings(&self.out), findings(undisturbed));
        for name in mine.keys().chain(theirs.keys()) {
            if mine.get(name) != theirs.get(name) && !breaches.iter().any(|known| known.contains(name.as_str())) {
                let how = match (mine.contains_key(name), theirs.contains_key(name)) {
                    (true, true) => "differs",
                    (true, false) => "is too much",
                    _ => "is missing",
                };
                breaches.push(format!("{name} {how}"));
            }
        }
        breaches
    }
}

/// Makes a run as if it had been killed right after it said what it is, so often that its journal is longer than any
/// other file (pictures, and the memory images that wasmtime keeps as files): then a limit on the length of files is one
/// on the journal alone. The first process is a real one; the others' words are its own again.
pub fn grown(job: &str, out: &Path, wrap: fn(&mut Command)) -> Victim {
    let mut victim = Victim::new(job, &[], out, wrap);
    assert_eq!(victim.finish().code, 0);
    let first = std::fs::read(victim.journal()).expect("a journal");
    let first = journal::read(&first).expect("it is whole").swap_remove(0);
    let dir = RunDir::open(out, Existing::Replace).expect("it is ours");
    let (mut journal, _) = Journal::open(&dir, Durability::Flush).expect("it is new");
    let mut say = |event: &Event| journal.append(0.0, event.clone()).expect("there is room");
    say(&first.event);
    for _ in 0..LONGEST_FILE / 2500 {
        say(&first.event);
        say(&Event::Resumed { measurements: 0 });
    }
    drop(journal);
    assert!(victim.length() > LONGEST_FILE);
    victim
}

/// Longer than any file of the runs here but their journals, and than wasmtime's memory images.
const LONGEST_FILE: u64 = 200 << 10;

/// The command, with a limit on the length of every file that it writes. With `is_full` the write fails; without, the
/// kernel kills the process.
pub fn limited(command: &Command, bytes: u64, is_full: bool) -> Command {
    let trap = if is_full { "trap '' XFSZ; " } else { "" };
    let mut limited = Command::new("bash");
    // No core files: they would fall under the limit too, and nobody wants them.
    limited.args(["-c", &format!("{trap}ulimit -c 0; exec prlimit --fsize={bytes}:{bytes} \"$@\""), "bash"]);
    limited.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

/// Where each record of a journal ends, in bytes.
pub fn boundaries(journal: &Path) -> Vec<u64> {
    let bytes = std::fs::read(journal).unwrap_or_default();
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at as u64 + 1).collect()
}

/// Name and content of each whole record's event.
pub fn events(journal: &Path) -> Vec<(String, Value)> {
    let text = std::fs::read_to_string(journal).unwrap_or_default();
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let event = |record: Value| {
        let (name, content) = record.get("event")?.as_object()?.iter().next()?;
        Some((name.clone(), content.clone()))
    };
    records.filter_map(event).collect()
}

fn point(of: &Value) -> String {
    let part = |name: &str| of.get(name).and_then(Value::as_u64).unwrap_or(u64::MAX);
    format!("{}/{}/{}/{}", part("candidate"), part("isl"), part("osl"), part("concurrency"))
}

/// Measurements under way at the end, beyond one for each candidate.
fn under_way(events: &[(String, Value)]) -> u32 {
    let mut open: BTreeMap<u64, u32> = BTreeMap::new();
    for (name, event) in events {
        let candidate = |of: &str| event.get(of).and_then(|of| of.get("candidate")).and_then(Value::as_u64);
        match name.as_str() {
            "resumed" => open.clear(),
            "measuring" => *open.entry(candidate("probe").unwrap_or(u64::MAX)).or_default() += 1,
            "measured" => drop(open.remove(&candidate("measurement").unwrap_or(u64::MAX))),
            "failed" => drop(open.remove(&candidate("failure").unwrap_or(u64::MAX))),
            "retrying" => {
                let of = event.pointer("/retry/failure/candidate").and_then(Value::as_u64);
                open.remove(&of.unwrap_or(u64::MAX));
            }
            _ => {}
        }
    }
    open.values().map(|count| count.saturating_sub(1)).sum()
}
