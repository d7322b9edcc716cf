//! One call of one plugin: a fresh store with its limits, its log, and the account of what it cost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use wasmtime::{Engine, Store, Trap};

use super::PluginError;
use super::api::CallCost;
use super::bindings::files::{self, FileError};
use super::bindings::log::{Host, Level};
use super::error::{CallProblem, Problem, Subject};
use super::grants::{Files, Grants};
use super::limits::{Limits, Meter, Refusal};
use super::{engine, text};

/// Lines kept for the error message of a call that fails.
const LAST_LINES: usize = 8;

/// What belongs to one call.
pub(super) struct GuestState {
    meter: Meter,
    log: GuestLog,
    files: Files,
}

/// The host's side of `sla-profiler:base/log`.
struct GuestLog {
    plugin: String,
    export: &'static str,
    max_lines: usize,
    max_chars: usize,
    lines: usize,
    /// Kept past the limit as well: a panic message comes last.
    last: VecDeque<String>,
}

impl Host for GuestState {
    fn write(&mut self, level: Level, message: String) {
        self.log.write(level, &message);
    }
}

impl files::Host for GuestState {
    fn read(&mut self, grant: String, path: String) -> Result<Vec<u8>, FileError> {
        self.files.read(&grant, &path)
    }

    fn entries(&mut self, grant: String, path: String) -> Result<Vec<String>, FileError> {
        self.files.entries(&grant, &path)
    }
}

impl GuestLog {
    fn write(&mut self, level: Level, message: &str) {
        let line = text::one_line(message, self.max_chars);
        self.lines = self.lines.saturating_add(1);
        if self.lines <= self.max_lines {
            let (plugin, call) = (self.plugin.as_str(), self.export);
            match level {
                Level::Debug => tracing::debug!(plugin, call, "{line}"),
                Level::Info => tracing::info!(plugin, call, "{line}"),
                Level::Warn => tracing::warn!(plugin, call, "{line}"),
                Level::Error => tracing::error!(plugin, call, "{line}"),
            }
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    fn finish(&self) {
        let dropped = self.lines.saturating_sub(self.max_lines);
        if dropped > 0 {
            tracing::warn!(
                plugin = self.plugin.as_str(),
                call = self.export,
                dropped,
                "log lines past the limit `log_lines` ({}) were dropped",
                self.max_lines
            );
        }
    }
}

/// What is needed to call a plugin.
pub(super) struct Caller<'a> {
    pub engine: &'a Engine,
    pub limits: &'a Limits,
    pub grants: &'a Grants,
    pub deadline: Duration,
    pub subject: &'a Subject,
    /// The exported function, for messages.
    pub export: &'static str,
}

impl Caller<'_> {
    /// Runs the body in a store of its own, which ends with it.
    ///
    /// # Errors
    /// Whatever stopped the guest, named.
    pub(super) fn call<T>(
        &self,
        body: impl FnOnce(&mut Store<GuestState>) -> wasmtime::Result<T>,
    ) -> Result<(T, CallCost), PluginError> {
        let started = Instant::now();
        let log = GuestLog {
            plugin: self.subject.name(),
            export: self.export,
            max_lines: self.limits.log_lines,
            max_chars: self.limits.log_chars,
            lines: 0,
            last: VecDeque::new(),
        };
        let mut store = Store::new(
            self.engine,
            GuestState { meter: Meter::new(self.limits), log, files: Files::new(self.grants.clone(), self.limits) },
        );
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(self.limits.returned_bytes);
        store.set_epoch_deadline(engine::ticks(self.deadline));
        let result = store.set_fuel(self.limits.fuel).and_then(|()| body(&mut store));
        let elapsed = started.elapsed();
        let fuel = self.limits.fuel.saturating_sub(store.get_fuel().unwrap_or_default());
        let state = store.data();
        state.log.finish();
        match result {
            Ok(value) => Ok((value, CallCost { fuel, peak_memory_bytes: state.meter.peak_memory_bytes(), elapsed })),
            Err(error) => Err(self.error(self.classify(&error, state.meter.refusal()), &state.log.last)),
        }
    }

    /// An answer that breaks the contract, or that is the plugin's own error.
    pub(super) fn rejected(&self, problem: CallProblem) -> PluginError {
        self.error(problem, &VecDeque::new())
    }

    fn error(&self, problem: CallProblem, log: &VecDeque<String>) -> PluginError {
        let log = log.iter().cloned().collect();
        PluginError::new(self.subject.clone(), Problem::Call { export: self.export, problem, log })
    }

    fn classify(&self, error: &wasmtime::Error, refusal: Option<Refusal>) -> CallProblem {
        let limits = self.limits;
        let trap = error.downcast_ref::<Trap>().copied();
        match trap {
            Some(Trap::OutOfFuel) => return CallProblem::OutOfFuel { limit: limits.fuel },
            Some(Trap::Interrupt) => return CallProblem::Deadline { limit: self.deadline },
            Some(Trap::StackOverflow) => return CallProblem::Stack { limit: limits.stack_bytes },
            _ => {}
        }
        let cause = error.root_cause().to_string();
        // These two have no type of their own in wasmtime; a test of each limit keeps the words.
        if cause.contains("fuel allocated for hostcalls has been exhausted") {
            return CallProblem::TooMuchData { limit: limits.returned_bytes };
        }
        if cause.contains("resource limit exceeded") {
            return CallProblem::Parts {
                reason: cause,
                instances: limits.instances,
                tables: limits.tables,
                memories: limits.memories,
            };
        }
        match (refusal, trap) {
            (Some(Refusal::Memory(asked)), _) => CallProblem::Memory { asked, limit: limits.memory_bytes },
            (Some(Refusal::Table(asked)), _) => CallProblem::Table { asked, limit: limits.table_elements },
            (None, Some(trap)) => CallProblem::Trap { message: trap.to_string() },
            // No trap: the host could not make sense of what the guest handed over.
            (None, None) => CallProblem::BadOutput(text::one_line(&cause, 400)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what tracing writes.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_runs_log_gets_bounded_lines_of_bounded_length_and_the_count_of_the_rest() {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .with_max_level(tracing::Level::DEBUG)
            .finish();
        let mut log = GuestLog {
            plugin: "noisy".into(),
            export: "next",
            max_lines: 3,
            max_chars: 20,
            lines: 0,
            last: VecDeque::new(),
        };
        tracing::subscriber::with_default(subscriber, || {
            for level in [Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Error] {
                log.write(level, &format!("\x1b[31m{}\n", "x".repeat(1000)));
            }
            log.finish();
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "three lines and the count: {text}");
        assert!(!text.contains('\x1b') && lines.iter().all(|line| line.len() < 200), "{text}");
        for (line, level) in lines.iter().zip(["DEBUG", "INFO", "WARN", "WARN"]) {
            assert!(line.contains(level) && line.contains("noisy") && line.contains("next"), "{line}");
        }
        assert!(lines[3].contains("dropped=2"), "{text}");
    }
}
