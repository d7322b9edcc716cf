//! NVIDIA's AIPerf as load generator: one `aiperf profile` for a look at a point, its records in, a report out.
//!
//! ```text
//! Point -> plan.rs      how many requests in the next run
//!       -> command.rs   the flags that Dynamo's profiler uses, and which differ
//!       -> process.rs   supervised, deadline, output to a file
//!       -> records.rs   profile_export.jsonl and profile_export_aiperf.json
//!       -> report.rs    figures with intervals
//! ```
//!
//! What AIPerf cannot do: stop when an interval is tight enough (runs are repeated, and their records pooled), leave out
//! ramp-up and ramp-down, say whether its own event loop was late ([`LoadReport::client`] is absent), and tell intervals
//! of throughputs (they are derived, see `report.rs`). Starting it takes about five seconds, whatever is measured.

mod command;
mod plan;
mod process;
mod records;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs, io};

use async_trait::async_trait;
use tokio::time::Instant;

use self::command::Run;
use self::process::Ended;
use self::records::Export;
use super::{Endpoint, LoadError, LoadGenerator, LoadReport, Point, Traffic};
use crate::process::owner::Owner;

/// The version that this was written for and is tested with.
pub const VERSION: &str = "0.13.0";

/// The name of the program.
const PROGRAM: &str = "aiperf";

/// Measures with the `aiperf` that is installed.
#[derive(Debug)]
pub struct Aiperf {
    program: PathBuf,
    /// Certificates (PEM) that AIPerf trusts, instead of the system's.
    ca_file: Option<PathBuf>,
    /// The server does not take `ignore_eos` and `min_tokens`.
    plain: AtomicBool,
    /// The user knows of AIPerf's busy wait.
    warned: AtomicBool,
    /// What leads whoever comes next to processes that are left.
    owner: Option<Arc<Owner>>,
}

impl Aiperf {
    /// The first `aiperf` on `PATH`.
    ///
    /// # Errors
    /// [`LoadError::Setup`] with the command that installs it.
    pub fn find() -> Result<Self, LoadError> {
        let folders = env::var_os("PATH").unwrap_or_default();
        let program = env::split_paths(&folders).map(|folder| folder.join(PROGRAM)).find(|path| path.is_file());
        program.map(Self::at).ok_or_else(|| {
            LoadError::Setup(format!(
                "there is no `{PROGRAM}` on PATH: `pip install {PROGRAM}=={VERSION}`, or use the builtin load generator"
            ))
        })
    }

    /// The program at a path.
    #[must_use]
    pub const fn at(program: PathBuf) -> Self {
        Self { program, ca_file: None, plain: AtomicBool::new(false), warned: AtomicBool::new(false), owner: None }
    }

    /// With certificates (PEM) to trust, which take the place of the system's: AIPerf has no setting for them, and its
    /// Python reads one file.
    #[must_use]
    pub fn trusting(mut self, ca_file: Option<PathBuf>) -> Self {
        self.ca_file = ca_file;
        self
    }

    /// With somebody to whom its processes are put down.
    #[must_use]
    pub fn owned_by(mut self, owner: Option<Arc<Owner>>) -> Self {
        self.owner = owner;
        self
    }

    /// One run: its records, or why there are none.
    async fn run(&self, run: &Run<'_>, deadline: Duration) -> Result<Export, LoadError> {
        fresh(run.folder).map_err(|error| setup(&format!("cannot make {}: {error}", run.folder.display())))?;
        let mut command = run.command(&self.program).map_err(|error| setup(&error))?;
        if let Some(ca_file) = &self.ca_file {
            command.env("SSL_CERT_FILE", std::path::absolute(ca_file).unwrap_or_else(|_| ca_file.clone()));
        }
        let console = run.folder.join("console.log");
        let ended = process::run(command, &console, deadline, self.owner.as_deref())
            .await
            .map_err(|error| self.cannot_start(&error))?;
        let said = match ended {
            Ended::Late => {
                let (done, of) = (records::count(run.folder), run.requests);
                return Err(LoadError::Deadline {
                    deadline_s: run.point.deadline.as_secs_f64(),
                    progress: format!("aiperf had {done} of {of} answers in this run ({})", console.display()),
                });
            }
            Ended::Well => None,
            Ended::Badly(how) => Some(format!("{how}; {}", process::last_words(&console))),
        };
        match (Export::read(run.folder), said) {
            (Ok(export), None) => export.complete(run.folder, run.requests).map_err(|error| setup(&error)),
            // AIPerf calls it a failure of its own when every request failed. The records say how they did.
            (Ok(export), Some(_)) if export.requests.is_empty() && !export.failures.is_empty() => Ok(export),
            (Ok(_) | Err(_), Some(said)) => Err(setup(&format!("aiperf failed: {said}"))),
            (Err(error), None) => Err(setup(&error)),
        }
    }

    fn cannot_start(&self, error: &io::Error) -> LoadError {
        setup(&format!("cannot run {}: {error}; `pip install {PROGRAM}=={VERSION}`", self.program.display()))
    }

    /// AIPerf's timing manager polls without pause while it waits for a request to end that must end before the next.
    fn warn_of_busy_wait(&self, run: &Run<'_>) {
        let Traffic::Closed { concurrency } = run.point.traffic else { return };
        if run.requests > concurrency && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "aiperf keeps one core busy whenever it has more requests to send than may be in flight ({} and \
                 {concurrency} here); an engine on the same cores is slower for it",
                run.requests
            );
        }
    }

    /// Runs until the figures are as good as the point asks.
    async fn looks(&self, endpoint: &Endpoint, point: &Point, folder: &Path) -> Result<LoadReport, LoadError> {
        let until = Instant::now() + point.deadline;
        let mut pooled = Export::default();
        for look in 0..plan::MOST_RUNS {
            let Some(requests) = plan::next(point, &pooled) else { break };
            let place = match look {
                0 => folder.to_owned(),
                _ => folder.with_file_name(format!("{}_run{}", name_of(folder), look + 1)),
            };
            let run = |plain| Run { endpoint, point, folder: &place, requests, look, plain };
            let plain = self.plain.load(Ordering::Relaxed);
            self.warn_of_busy_wait(&run(plain));
            let mut export = self.run(&run(plain), until - Instant::now()).await?;
            if !plain && export.refused_with(400) {
                tracing::info!("{} does not take ignore_eos and min_tokens; going on without", endpoint.url);
                self.plain.store(true, Ordering::Relaxed);
                export = self.run(&run(true), until - Instant::now()).await?;
            }
            pooled.add(export);
            report::too_many_failures(endpoint, point, &pooled)?;
        }
        report::report(point, &pooled).ok_or_else(|| {
            setup(&format!("no answer had {} tokens and the server's count of them ({})", point.osl, folder.display()))
        })
    }
}

#[async_trait]
impl LoadGenerator for Aiperf {
    fn name(&self) -> &'static str {
        "aiperf"
    }

    async fn measure(&self, endpoint: &Endpoint, point: &Point) -> Result<LoadReport, LoadError> {
        if let Some(fault) = point.fault() {
            return Err(setup(&fault));
        }
        match &point.artifacts {
            Some(candidate) => self.looks(endpoint, point, &candidate.join(plan::folder(point))).await,
            None => {
                let folder = Scratch::new().map_err(|error| setup(&format!("cannot make a folder: {error}")))?;
                self.looks(endpoint, point, &folder.0.join(plan::folder(point))).await
            }
        }
    }
}

/// Reads records as AIPerf writes them: how many answers and how many failures there are. For tests of the reader.
///
/// # Errors
/// In words, with file and line.
pub fn count_records(folder: &Path, records: &[u8]) -> Result<(usize, usize), String> {
    fs::write(folder.join(records::RECORDS), records).map_err(|error| error.to_string())?;
    Export::read(folder).map(|export| (export.requests.len(), export.failures.len()))
}

fn setup(reason: &str) -> LoadError {
    LoadError::Setup(reason.to_owned())
}

fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// An empty folder: AIPerf adds to records of an earlier run.
fn fresh(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(folder)
}

/// A folder of the system's temporary ones, removed when dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("sla-profiler-aiperf-{}-{number}", std::process::id()));
        // Not `create_dir_all`: what is there already belongs to somebody else.
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::debug!("{}: {error}", self.0.display());
        }
    }
}
