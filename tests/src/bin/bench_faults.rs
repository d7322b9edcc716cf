//! `cargo xtask bench faults [SEED]`: scripts of what Kubernetes says of deployments that fail, or are healthy and slow,
//! played to the program's own watches on a paused clock; what it took them for and when, as a Markdown report on stdout.
//! `host/docs/safety.md` keeps a report.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::print_stderr, reason = "a measurement, not the program")]

use std::time::Duration;

use sla_profiler_tests::faults::scripts::{self, Case};
use sla_profiler_tests::faults::{Outcome, play};

/// Scripts of each kind.
const SCRIPTS: u64 = 100;

fn main() {
    let seed: u64 = std::env::args().nth(1).and_then(|seed| seed.parse().ok()).unwrap_or(20_261_130);
    println!("Seed {seed}, {SCRIPTS} scripts of each kind, times in simulated seconds.\n");
    println!("| fault | scripts | right cause | known after: median | worst | given up after: median | worst |");
    println!("|---|---|---|---|---|---|---|");
    let (mut all, mut right, mut late) = (0, 0, 0);
    for (number, case) in scripts::FAULTS.iter().enumerate() {
        let outcomes = outcomes(*case, seed, number);
        let good = outcomes.iter().filter(|(wanted, outcome)| outcome.cause == *wanted).count();
        let known: Vec<f64> = outcomes.iter().map(|(_, outcome)| seconds(outcome.known)).collect();
        let over: Vec<f64> = outcomes.iter().map(|(_, outcome)| seconds(outcome.over)).collect();
        all += outcomes.len();
        right += good;
        late += known.iter().filter(|s| **s > 10.0).count();
        let ((known, worst), (over, longest)) = (spread(known), spread(over));
        println!("| {} | {} | {good} | {known:.1} | {worst:.1} | {over:.0} | {longest:.0} |", case.0, outcomes.len());
        if let Some((wanted, outcome)) = outcomes.iter().find(|(wanted, outcome)| outcome.cause != *wanted) {
            eprintln!("{}: wanted {wanted:?}, took it for {:?}: {}", case.0, outcome.cause, outcome.reason);
        }
    }
    let share = 100.0 * right as f64 / all as f64;
    println!("\nOf {all} faults {right} had the right cause ({share:.2} %); {late} were known after more than 10 s.\n");
    println!("| healthy | scripts | given up | ready after: median | worst |\n|---|---|---|---|---|");
    let (mut all, mut killed) = (0, 0);
    for (number, case) in scripts::HEALTHY.iter().enumerate() {
        let outcomes = outcomes(*case, seed, number + scripts::FAULTS.len());
        let bad: Vec<&Outcome> = outcomes.iter().map(|(_, o)| o).filter(|o| !o.reason.is_empty()).collect();
        let (over, longest) = spread(outcomes.iter().map(|(_, outcome)| seconds(outcome.over)).collect());
        all += outcomes.len();
        killed += bad.len();
        println!("| {} | {} | {} | {over:.0} | {longest:.0} |", case.0, outcomes.len(), bad.len());
        if let Some(outcome) = bad.first() {
            eprintln!("{}: given up: {}", case.0, outcome.reason);
        }
    }
    println!("\nOf {all} healthy deployments {killed} were given up.");
}

fn outcomes(case: Case, seed: u64, number: usize) -> Vec<(Option<sla_profiler::domain::FailureCause>, Outcome)> {
    let seeds = (0..SCRIPTS).map(|n| seed.wrapping_add(n + 1_000_000 * number as u64));
    seeds
        .map(|seed| {
            let script = scripts::draw(case, seed);
            let outcome = play(&script);
            (script.wanted, outcome)
        })
        .collect()
}

fn seconds(of: Duration) -> f64 {
    of.as_secs_f64()
}

/// Median and largest.
fn spread(mut of: Vec<f64>) -> (f64, f64) {
    of.sort_by(f64::total_cmp);
    (of.get(of.len() / 2).copied().unwrap_or(f64::NAN), of.last().copied().unwrap_or(f64::NAN))
}
