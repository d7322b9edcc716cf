//! The one place that configures wasmtime.

use std::thread;
use std::time::{Duration, Instant};

use wasmtime::{Config, Engine};

use super::limits::Limits;

/// Granularity of deadlines.
pub(super) const TICK: Duration = Duration::from_millis(5);

/// An engine whose results do not depend on the machine, and whose guests can be stopped.
///
/// # Errors
/// When wasmtime does not know this machine, or no thread can be started.
pub(super) fn new(limits: &Limits) -> wasmtime::Result<Engine> {
    let engine = for_compiling(limits)?;
    tick(&engine)?;
    Ok(engine)
}

/// The same, but nothing can run in it: deadlines do not come.
///
/// # Errors
/// When wasmtime does not know this machine.
pub(super) fn for_compiling(limits: &Limits) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        // Both meters: host/docs/plugin-limits.md.
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(limits.stack_bytes)
        // The same bits on every CPU.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        // Less to attack. Threads, GC and async are not even compiled in. Several memories in one module must stay
        // allowed: wasmtime 48 panics on components within components otherwise.
        .wasm_memory64(false)
        .concurrency_support(false)
        // Plugins are stripped: a trace would be a list of numbers.
        .wasm_backtrace_max_frames(None);
    Engine::new(&config)
}

/// How many ticks a deadline is: one more than fits, since the tick that is under way is not a whole one.
pub(super) fn ticks(deadline: Duration) -> u64 {
    let whole = deadline.as_nanos().div_ceil(TICK.as_nanos());
    u64::try_from(whole).unwrap_or(u64::MAX).saturating_add(1).min(u64::MAX / 2)
}

/// Advances the engine's epoch until the engine is gone. A thread of the system, since a guest may hold up all others.
/// The clock counts, not the sleeps: on a busy machine each of those is longer, and a deadline is hundreds of them.
fn tick(engine: &Engine) -> wasmtime::Result<()> {
    let engine = engine.weak();
    thread::Builder::new().name("plugin-epoch".to_owned()).spawn(move || {
        let (started, mut ticked) = (Instant::now(), 0);
        loop {
            thread::sleep(TICK);
            let Some(engine) = engine.upgrade() else { break };
            let due = started.elapsed().as_nanos() / TICK.as_nanos();
            (ticked..due).for_each(|_| engine.increment_epoch());
            ticked = due;
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_shortened_to_the_tick() {
        assert_eq!(ticks(Duration::ZERO), 1);
        assert_eq!(ticks(Duration::from_millis(1)), 2);
        assert_eq!(ticks(Duration::from_millis(20)), 5);
        assert!(ticks(Duration::MAX) <= u64::MAX / 2, "the current epoch is added to it");
    }
}
