//! The logs of all containers of a deployment, followed into the run directory.
//!
//! Every container has a file, `<folder>/<pod>.<container>.log`; a file that grows too large is moved to `….log.1`, over
//! the one before, so that the end is always there. In memory the beginning is kept, where engines tell how large their
//! KV cache is, and the end, where they tell why they died.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::io::AsyncBufReadExt as _;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::LogParams;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::watching::View;
use crate::kubernetes::Kube;
use crate::process::secrets::masked;
use crate::run::RunDir;

/// Largest file.
const FILE_BYTES: u64 = 8 << 20;
/// How much of a log's beginning is kept in memory.
const HEAD_BYTES: usize = 256 << 10;
/// How much of its end.
const TAIL_BYTES: usize = 64 << 10;
/// Pause before a stream that broke off is opened again.
const PAUSE: Duration = Duration::from_secs(2);
/// A log that says nothing for so long has nothing more to say of how the engine came up.
const QUIET: Duration = Duration::from_millis(200);
/// It is read in any case after this.
const LATEST: Duration = Duration::from_secs(5);
/// Most containers that are followed at once.
const MOST_CONTAINERS: usize = 128;

/// One container's log, as far as it is kept.
#[derive(Debug, Default)]
struct Kept {
    head: String,
    tail: VecDeque<String>,
    tail_bytes: usize,
    left_out: bool,
}

impl Kept {
    fn push(&mut self, line: &str) {
        if self.tail.is_empty() && self.head.len() + line.len() < HEAD_BYTES {
            self.head.push_str(line);
            self.head.push('\n');
            return;
        }
        self.tail_bytes += line.len() + 1;
        self.tail.push_back(line.to_owned());
        while self.tail_bytes > TAIL_BYTES {
            let Some(old) = self.tail.pop_front() else { break };
            self.tail_bytes -= old.len() + 1;
            self.left_out = true;
        }
    }

    fn text(&self) -> String {
        let gap = if self.left_out { "[… left out; the file beside this one has more]\n" } else { "" };
        let tail: String = self.tail.iter().map(|line| format!("{line}\n")).collect();
        format!("{}{gap}{tail}", self.head)
    }
}

/// Pod and container.
type Place = (String, String);

#[derive(Debug, Default)]
struct Shared {
    kept: BTreeMap<Place, Kept>,
    /// When the last line came.
    heard: Option<Instant>,
    /// Why a log is not there.
    trouble: Option<String>,
}

/// The logs of one deployment. Following ends when this is dropped.
pub struct Logs {
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logs {
    /// Follows every container that starts, as the view tells.
    pub fn follow(kube: Kube, view: watch::Receiver<View>, files: Option<(RunDir, String)>) -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let task = tokio::spawn(follow_all(kube, view, files, Arc::clone(&shared)));
        Self { shared, task }
    }

    /// When anything was heard last.
    pub fn heard(&self) -> Option<Instant> {
        lock(&self.shared).heard
    }

    /// What is kept of all logs, each under a heading, those of workers first.
    pub fn text(&self) -> String {
        let shared = lock(&self.shared);
        let is_frontend = |place: &Place| place.0.contains("frontend");
        let mut places: Vec<_> = shared.kept.iter().collect();
        places.sort_by_key(|(place, _)| is_frontend(place));
        places.iter().map(|((pod, container), kept)| format!("==> {pod} {container} <==\n{}", kept.text())).collect()
    }

    /// The same, or why there is none; lines that are on their way are waited for, but not for long.
    ///
    /// # Errors
    /// If no line came from anywhere.
    pub async fn read(&self) -> Result<String, String> {
        let since = Instant::now();
        while since.elapsed() < LATEST && self.heard().is_none_or(|heard| heard.elapsed() < QUIET) {
            tokio::time::sleep(QUIET / 4).await;
        }
        let text = self.text();
        if text.is_empty() {
            return Err(lock(&self.shared).trouble.clone().unwrap_or_else(|| "no pod has written a log".to_owned()));
        }
        Ok(text)
    }

    /// The last lines of one container.
    pub fn last_lines(&self, pod: &str, container: &str, lines: usize) -> Vec<String> {
        let shared = lock(&self.shared);
        let Some(kept) = shared.kept.get(&(pod.to_owned(), container.to_owned())) else { return Vec::new() };
        let text = kept.text();
        let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        all.iter().skip(all.len().saturating_sub(lines)).map(|line| (*line).to_owned()).collect()
    }
}

async fn follow_all(
    kube: Kube,
    mut view: watch::Receiver<View>,
    files: Option<(RunDir, String)>,
    shared: Arc<Mutex<Shared>>,
) {
    // Ends all streams with itself.
    let mut streams = tokio::task::JoinSet::new();
    let mut followed: BTreeMap<Place, i32> = BTreeMap::new();
    loop {
        let started: Vec<(Place, i32)> = {
            let view = view.borrow_and_update();
            let of = |pod: &super::pods::PodView| {
                pod.started
                    .iter()
                    .map(|(name, restarts)| ((pod.name.clone(), name.clone()), *restarts))
                    .collect::<Vec<_>>()
            };
            view.pods.values().flat_map(of).collect()
        };
        for (place, restarts) in started {
            // A container that was started again has a new stream; the old one ends by itself.
            if followed.get(&place).is_some_and(|known| *known >= restarts) || streams.len() >= MOST_CONTAINERS {
                continue;
            }
            followed.insert(place.clone(), restarts);
            let follower =
                Follower { kube: kube.clone(), place, restarts, files: files.clone(), shared: Arc::clone(&shared) };
            streams.spawn(follower.run(view.clone()));
        }
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return },
            Some(_) = streams.join_next(), if !streams.is_empty() => {}
        }
    }
}

/// Follows one container from its start to its end.
struct Follower {
    kube: Kube,
    place: Place,
    restarts: i32,
    files: Option<(RunDir, String)>,
    shared: Arc<Mutex<Shared>>,
}

impl Follower {
    async fn run(self, view: watch::Receiver<View>) {
        let mut sink = self
            .files
            .as_ref()
            .map(|(dir, folder)| Sink::new(dir.clone(), format!("{folder}/{}.{}.log", self.place.0, self.place.1)));
        let mut last: Option<String> = None;
        loop {
            if let Err(error) = self.stream(&mut last, &mut sink).await {
                lock(&self.shared).trouble = Some(format!("the log of pod {}: {error}", self.place.0));
                tracing::debug!("log of {} {}: {error}", self.place.0, self.place.1);
            }
            // A stream that ends while its container runs was cut off by somebody in between.
            let goes_on = view.borrow().pods.get(&self.place.0).is_some_and(|pod| {
                pod.running.contains(&self.place.1) && pod.started.get(&self.place.1) == Some(&self.restarts)
            });
            if !goes_on {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn stream(&self, last: &mut Option<String>, sink: &mut Option<Sink>) -> kube::Result<()> {
        let (pod, container) = &self.place;
        let since_time = last.as_deref().and_then(|stamp| stamp.parse::<k8s_openapi::jiff::Timestamp>().ok());
        let params = LogParams {
            container: Some(container.clone()),
            follow: true,
            timestamps: true,
            since_time,
            ..LogParams::default()
        };
        let known = last.clone();
        let stream = self.kube.pods().log_stream(pod, &params).await?;
        let mut lines = stream.lines().map_err(kube::Error::ReadEvents);
        while let Some(line) = lines.next().await {
            let line = line?;
            let (stamp, text) = split_stamp(&line);
            let text = &*masked(text);
            if let Some(stamp) = stamp {
                // What came before the stream broke off comes once more.
                if known.as_deref().is_some_and(|known| stamp <= known) {
                    continue;
                }
                *last = Some(stamp.to_owned());
            }
            let mut shared = lock(&self.shared);
            shared.heard = Some(Instant::now());
            shared.kept.entry(self.place.clone()).or_default().push(text);
            drop(shared);
            if let Some(sink) = sink {
                sink.write(text);
            }
        }
        Ok(())
    }
}

/// Time stamp and text of a line; kubelets write the stamp as asked, others may not.
fn split_stamp(line: &str) -> (Option<&str>, &str) {
    match line.split_once(' ') {
        Some((stamp, text)) if stamp.len() >= 20 && stamp.as_bytes().get(10) == Some(&b'T') && stamp.ends_with('Z') => {
            (Some(stamp), text)
        }
        _ => (None, line),
    }
}

/// A file that does not grow without end.
struct Sink {
    dir: RunDir,
    name: String,
    file: Option<std::fs::File>,
    bytes: u64,
    failed: bool,
}

impl Sink {
    const fn new(dir: RunDir, name: String) -> Self {
        Self { dir, name, file: None, bytes: 0, failed: false }
    }

    fn write(&mut self, line: &str) {
        if self.failed {
            return;
        }
        if let Err(error) = self.try_write(line) {
            // A full disk is for the journal to notice.
            tracing::warn!("{} is not kept any further: {error}", self.name);
            self.failed = true;
        }
    }

    fn try_write(&mut self, line: &str) -> Result<(), Box<dyn std::error::Error>> {
        if self.bytes > FILE_BYTES {
            self.file = None;
            self.dir.rename(&self.name, &format!("{}.1", self.name))?;
            self.bytes = 0;
        }
        if self.file.is_none() {
            self.file = Some(self.dir.append(&self.name)?);
        }
        if let Some(file) = &mut self.file {
            file.write_all(format!("{line}\n").as_bytes())?;
            self.bytes += line.len() as u64 + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Existing;

    #[test]
    fn the_beginning_and_the_end_are_kept() {
        let mut kept = Kept::default();
        for n in 0..40_000 {
            kept.push(&format!("line {n} of an engine that talks"));
        }
        let text = kept.text();
        assert!(text.len() < HEAD_BYTES + TAIL_BYTES + 100);
        assert!(text.starts_with("line 0 ") && text.ends_with("line 39999 of an engine that talks\n"));
        assert!(text.contains("left out"));
    }

    #[test]
    fn a_stamp_is_taken_off_and_a_line_without_one_stays() {
        assert_eq!(split_stamp("2026-01-02T03:04:05.678Z INFO x"), (Some("2026-01-02T03:04:05.678Z"), "INFO x"));
        assert_eq!(split_stamp("INFO 2026 x"), (None, "INFO 2026 x"));
    }

    #[test]
    fn a_file_does_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path(), Existing::Refuse).unwrap();
        let mut sink = Sink::new(run, "f/p.main.log".to_owned());
        let line = "x".repeat(1 << 20);
        (0..20).for_each(|_| sink.write(&line));
        assert!(!sink.failed);
        let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("f/p.main.log") <= FILE_BYTES + (2 << 20));
        assert!(size("f/p.main.log.1") <= FILE_BYTES + (2 << 20));
    }
}
