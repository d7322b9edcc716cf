//! What one plugin call may use. All defaults of the sandbox stand here and nowhere else.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmtime::ResourceLimiter;

use crate::spec::PluginLimits;

/// Bounds of one call, or of one file where a field says so. Each has an error of its own that names it.
///
/// Fuel is the limit that users meet: the same input burns the same fuel on every machine. The deadline is the
/// backstop for what fuel does not count, and it is wide, so that a busy machine does not change a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wasm instructions, about.
    pub fuel: u64,
    /// Wall time in milliseconds.
    pub deadline_ms: u64,
    /// Wall time in milliseconds of the trial call, with which loading a plugin ends.
    pub describe_deadline_ms: u64,
    /// Linear memory in bytes, over all memories of the plugin.
    pub memory_bytes: usize,
    /// Table elements, over all tables of the plugin.
    pub table_elements: usize,
    /// Core instances; Rust and C plugins need 1 to 3, JavaScript 13, Python 38.
    pub instances: usize,
    /// Tables.
    pub tables: usize,
    /// Linear memories.
    pub memories: usize,
    /// Stack of WebAssembly frames in bytes. One value for all plugins of a host.
    pub stack_bytes: usize,
    /// Bytes that one answer, or one log line, may make the host copy.
    pub returned_bytes: usize,
    /// Log lines that reach the run's log; later ones are counted and dropped.
    pub log_lines: usize,
    /// Characters of one log line; the rest is cut.
    pub log_chars: usize,
    /// Size of a plugin file in bytes.
    pub file_bytes: u64,
    /// Bytes of a plugin file that declare something: types, imports, exports and the like, everywhere in it.
    pub declared_bytes: usize,
    /// Address space in bytes of the process that compiles a plugin.
    pub compile_memory_bytes: u64,
    /// CPU time in seconds of the process that compiles a plugin.
    pub compile_cpu_s: u64,
    /// Wall time in milliseconds of the process that compiles a plugin.
    pub compile_deadline_ms: u64,
    /// Calls of `files` in one decision.
    pub file_calls: usize,
    /// Bytes that `files` reads in one decision.
    pub read_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Two to four seconds of one CPU (host/docs/benchmarks.md). Without an end-to-end target select-cost, the most
            // expensive of the bundled ones, stays below a tenth of it up to 100 candidates and 64 GPUs.
            fuel: 10_000_000_000,
            // Ten times as long: on a busy machine too, fuel must run out first.
            deadline_ms: 30_000,
            describe_deadline_ms: 1_000,
            // 64 MiB do for Rust and C; interpreters of Python and JavaScript start with more.
            memory_bytes: 256 << 20,
            table_elements: 50_000,
            instances: 100,
            tables: 100,
            memories: 8,
            stack_bytes: 512 << 10,
            // A full step of 10,000 probes is 320 kB.
            returned_bytes: 4 << 20,
            log_lines: 100,
            log_chars: 400,
            // A Python plugin is 18 MB.
            file_bytes: 32 << 20,
            // A Python plugin has 308 kB of them. They are read before there is a process of its own to bound that: a
            // million exports of 10 MB would take the host's memory by the hundred megabytes.
            declared_bytes: 1 << 20,
            compile_memory_bytes: 4 << 30,
            // A Python plugin of 18 MB takes 8 s in a release build, 22 s in a development build, and less than 1 GiB.
            compile_cpu_s: 120,
            // On a machine that does ten things at once, twice as long as the CPU time.
            compile_deadline_ms: 300_000,
            file_calls: 1_000,
            read_bytes: 16 << 20,
        }
    }
}

impl Limits {
    /// These, with what a job says otherwise of one plugin.
    #[must_use]
    pub fn with(&self, job: &PluginLimits) -> Self {
        let size = |given: Option<NonZeroU32>, unit: usize, default: usize| {
            given.map_or(default, |n| usize::try_from(n.get()).unwrap_or(usize::MAX).saturating_mul(unit))
        };
        let number = |given: Option<NonZeroU32>, unit: u64, default: u64| {
            given.map_or(default, |n| u64::from(n.get()).saturating_mul(unit))
        };
        Self {
            fuel: job.fuel.map_or(self.fuel, NonZeroU64::get),
            deadline_ms: number(job.deadline_ms, 1, self.deadline_ms),
            memory_bytes: size(job.memory_mb, 1 << 20, self.memory_bytes),
            table_elements: size(job.table_elements, 1, self.table_elements),
            instances: size(job.instances, 1, self.instances),
            returned_bytes: size(job.returned_mb, 1 << 20, self.returned_bytes),
            log_lines: size(job.log_lines, 1, self.log_lines),
            file_calls: size(job.file_calls, 1, self.file_calls),
            read_bytes: size(job.read_mb, 1 << 20, self.read_bytes),
            compile_cpu_s: number(job.compile_cpu_s, 1, self.compile_cpu_s),
            compile_memory_bytes: number(job.compile_memory_mb, 1 << 20, self.compile_memory_bytes),
            ..self.clone()
        }
    }

    /// [`Self::deadline_ms`] as a duration.
    pub const fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    /// [`Self::describe_deadline_ms`] as a duration.
    pub const fn describe_deadline(&self) -> Duration {
        Duration::from_millis(self.describe_deadline_ms)
    }
}

/// Something that a plugin asked for and did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// So many bytes of linear memory in all.
    Memory(usize),
    /// So many table elements in all.
    Table(usize),
}

/// One quantity that grows up to a limit.
#[derive(Debug)]
struct Gauge {
    limit: usize,
    used: usize,
    peak: usize,
    /// What the growth that is under way has added, in case that it fails after all.
    pending: usize,
}

impl Gauge {
    const fn new(limit: usize) -> Self {
        Self { limit, used: 0, peak: 0, pending: 0 }
    }

    /// Grows by `desired - current`; otherwise the total that was asked for.
    fn grow(&mut self, current: usize, desired: usize) -> Result<(), usize> {
        let more = desired.saturating_sub(current);
        let total = self.used.saturating_add(more);
        if total > self.limit {
            self.pending = 0;
            return Err(total);
        }
        self.used = total;
        self.pending = more;
        self.peak = self.peak.max(total);
        Ok(())
    }

    fn undo(&mut self) {
        self.used = self.used.saturating_sub(self.pending);
        self.pending = 0;
    }
}

/// Counts what one store uses, over all its memories and tables, and refuses growth past the limits.
///
/// Growth is refused, not trapped, as WebAssembly has it: a plugin may cope. Where it does not, the refusal explains the
/// trap that follows.
#[derive(Debug)]
pub(super) struct Meter {
    memory: Gauge,
    table: Gauge,
    instances: usize,
    tables: usize,
    memories: usize,
    refusal: Option<Refusal>,
}

impl Meter {
    pub(super) const fn new(limits: &Limits) -> Self {
        Self {
            memory: Gauge::new(limits.memory_bytes),
            table: Gauge::new(limits.table_elements),
            instances: limits.instances,
            tables: limits.tables,
            memories: limits.memories,
            refusal: None,
        }
    }

    pub(super) fn peak_memory_bytes(&self) -> u64 {
        u64::try_from(self.memory.peak).unwrap_or(u64::MAX)
    }

    /// The last thing that was refused.
    pub(super) const fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.memory.grow(current, desired);
        self.refusal = grown.err().map(Refusal::Memory).or(self.refusal);
        Ok(grown.is_ok())
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory.undo();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.table.grow(current, desired);
        self.refusal = grown.err().map(Refusal::Table).or(self.refusal);
        Ok(grown.is_ok())
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.table.undo();
        Ok(())
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn tables(&self) -> usize {
        self.tables
    }

    fn memories(&self) -> usize {
        self.memories
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_over_all_memories_of_a_plugin() {
        let limits = Limits { memory_bytes: 100, ..Limits::default() };
        let mut meter = Meter::new(&limits);
        assert!(meter.memory_growing(0, 60, None).expect("never an error"));
        assert!(!meter.memory_growing(0, 60, None).expect("never an error"), "a second memory does not get 100 more");
        assert_eq!(meter.refusal(), Some(Refusal::Memory(120)));
        assert!(meter.memory_growing(0, 40, None).expect("never an error"));
        assert_eq!(meter.peak_memory_bytes(), 100);
    }

    #[test]
    fn growth_that_the_system_refuses_is_given_back() {
        let mut meter = Meter::new(&Limits { memory_bytes: 100, ..Limits::default() });
        assert!(meter.memory_growing(0, 80, None).expect("never an error"));
        meter.memory_grow_failed(wasmtime::Error::msg("no memory")).expect("never an error");
        assert!(meter.memory_growing(0, 80, None).expect("never an error"));
    }

    #[test]
    fn limits_read_from_a_file_keep_the_defaults_of_what_is_not_said() {
        let limits: Limits = serde_json::from_str(r#"{"fuel": 5}"#).expect("valid");
        assert_eq!(limits, Limits { fuel: 5, ..Limits::default() });
        assert!(serde_json::from_str::<Limits>(r#"{"feul": 5}"#).is_err(), "a typo must not pass");
    }
}
