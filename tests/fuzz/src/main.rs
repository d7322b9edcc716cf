//! libFuzzer with one of the targets, which `SLA_PROFILER_FUZZ` names. `cargo xtask fuzz` builds and calls this.

#![no_main]
#![allow(unsafe_code, clippy::expect_used, clippy::panic, reason = "the macro's entry point; a failure is a message")]

use std::env;
use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sla_profiler_fuzz::{ALL, Target};

static TARGET: OnceLock<&Target> = OnceLock::new();

/// The target; its seeds are written to the folder that `SLA_PROFILER_FUZZ_SEEDS` names.
fn target() -> &'static Target {
    let name = env::var("SLA_PROFILER_FUZZ").unwrap_or_default();
    let target = sla_profiler_fuzz::find(&name).unwrap_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|target| target.name).collect();
        panic!("SLA_PROFILER_FUZZ: there is no target `{name}`, only {}", names.join(", "))
    });
    if let Some(folder) = env::var_os("SLA_PROFILER_FUZZ_SEEDS") {
        target.write_seeds(Path::new(&folder)).expect("the folder of the seeds is writable");
    }
    target
}

fuzz_target!(
    init: {
        // Twice cannot be.
        let _ = TARGET.set(target());
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(data);
        }
    }
);
