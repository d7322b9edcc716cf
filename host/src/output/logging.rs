//! The program's own log: warnings to standard error (more with `-v`), and everything from info up to the run's
//! `profile_sla.log` once there is one.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::progress::Terminal;

/// Where log lines go besides standard error.
#[derive(Clone, Default)]
pub struct LogFile(Arc<Mutex<Option<Arc<Mutex<File>>>>>);

impl LogFile {
    /// From now on log lines go there too.
    pub fn attach(&self, file: Arc<Mutex<File>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }
}

/// Sets logging up, once per process.
pub fn init(verbose: u8, quiet: bool, terminal: &Terminal) -> LogFile {
    let log_file = LogFile::default();
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::from_level(Level::ERROR),
        (false, 0) => LevelFilter::from_level(Level::WARN),
        (false, 1) => LevelFilter::from_level(Level::INFO),
        (false, 2) => LevelFilter::from_level(Level::DEBUG),
        (false, _) => LevelFilter::from_level(Level::TRACE),
    };
    // What the client of Kubernetes calls an error is one to us only where we say so: many are tried again.
    let without_noise = |level: LevelFilter| {
        let targets = Targets::new().with_default(level);
        if verbose > 1 { targets } else { targets.with_target("kube_client", LevelFilter::OFF) }
    };
    let stderr = tracing_subscriber::fmt::layer()
        .without_time()
        .with_target(verbose > 1)
        .with_ansi(false)
        .with_writer(terminal.clone())
        .with_filter(without_noise(level));
    let file = tracing_subscriber::fmt::layer()
        .without_time()
        .with_ansi(false)
        .with_writer(log_file.clone())
        .with_filter(without_noise(LevelFilter::from_level(Level::INFO)));
    // A second call (tests in one process) keeps the first subscriber.
    let _ = tracing_subscriber::registry().with(stderr).with(file).try_init();
    log_file
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = LogFileWriter;

    fn make_writer(&'a self) -> Self::Writer {
        LogFileWriter(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// One log line's way to the file, if there is one.
pub struct LogFileWriter(Option<Arc<Mutex<File>>>);

impl Write for LogFileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Some(file) => file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
