//! Faults are taken for what they are, and nothing healthy is given up: a few scripts of each kind; `cargo xtask bench
//! faults` plays hundreds (`host/docs/safety.md`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::time::Duration;

use sla_profiler_tests::faults::play;
use sla_profiler_tests::faults::scripts::{self, FAULTS, HEALTHY};

#[test]
fn each_kind_of_fault_is_taken_for_what_it_is_within_ten_simulated_seconds() {
    for (number, case) in FAULTS.iter().enumerate() {
        for seed in 0..3 {
            let script = scripts::draw(*case, seed + 1000 * number as u64);
            let outcome = play(&script);
            assert_eq!(outcome.cause, script.wanted, "{}, seed {seed}: {}", case.0, outcome.reason);
            assert!(outcome.known <= Duration::from_secs(10), "{}, seed {seed}: {:?}", case.0, outcome.known);
        }
    }
}

#[test]
fn nothing_that_is_healthy_is_given_up_however_slow_it_is() {
    for (number, case) in HEALTHY.iter().enumerate() {
        for seed in 0..3 {
            let outcome = play(&scripts::draw(*case, seed + 1000 * number as u64));
            assert_eq!(outcome.reason, "", "{}, seed {seed}", case.0);
        }
    }
}
