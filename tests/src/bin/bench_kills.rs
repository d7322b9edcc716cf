//! `cargo xtask bench kills [SEED] [PART…]`: the program is killed some hundred times and resumed each time; what broke, as a
//! Markdown report on stdout. `host/docs/safety.md` keeps a report.
//!
//! Parts are `random`, `boundaries`, `disk` and `faults`; all of them, where none is named. Nothing here passes or fails by itself; a line with anything but 0 under "breaches" is a bug. Kills are SIGKILL by an
//! observer outside, or the kernel's at an exact byte of the journal (see `tests/src/kills.rs`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement, not the program: a failure is the message"
)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sla_profiler::domain::stats::quantile;
use sla_profiler_tests::kills::{self, Kill, Random, Victim, boundaries, limited};
use sla_profiler_tests::runs::{QUICKSTART, SMALL, files, profile};
use sla_profiler_tests::{run, sla_profiler};

/// Tighter intervals make the quickstart measure longer.
const SEVERAL_ENGINES: &[&str] = &["--sweep-setting", "precision=0.008", "--no-auto-apply"];

/// Half of the engines fail at first of something that passes.
const FAILING_ENGINES: &[&str] =
    &["--sweep-setting", "precision=0.008", "--no-auto-apply", "--passing-fault-rate", "0.5"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seed = arguments.iter().find_map(|seed| seed.parse().ok()).unwrap_or(20_261_124);
    let parts: Vec<&String> = arguments.iter().filter(|part| part.parse::<u64>().is_err()).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| *wanted == part);
    let dir = tempfile::tempdir().expect("a temporary folder");
    println!("Seed {seed}, load average {} at the start.\n", load_average());
    let mut ready = Vec::new();
    let heading =
        "| kills | what | runs | SIGKILL | by the kernel | torn records | breaches |\n|---|---|---|---|---|---|---|";
    if wanted("random") || wanted("boundaries") {
        println!("{heading}");
    }
    if wanted("random") {
        at_random("one engine at a time", SMALL, &[], 250, &mut Random::new(seed), dir.path(), &mut ready);
        let (job, flags) = (QUICKSTART, SEVERAL_ENGINES);
        at_random("several engines at once", job, flags, 250, &mut Random::new(seed), dir.path(), &mut ready);
        let what = "several engines, first launches fail";
        at_random(what, job, FAILING_ENGINES, 100, &mut Random::new(seed), dir.path(), &mut ready);
    }
    if wanted("boundaries") {
        at_every_boundary(dir.path(), &mut ready);
    }
    if wanted("disk") {
        println!();
        full_disk(dir.path());
    }
    if !ready.is_empty() {
        println!();
        resume(&ready);
    }
    if wanted("faults") {
        println!();
        faults(dir.path());
    }
    println!("\nLoad average {} at the end.", load_average());
}

/// Of the last minute.
fn load_average() -> String {
    let all = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    all.split(' ').next().filter(|first| !first.is_empty()).unwrap_or("unknown").to_owned()
}

fn undisturbed(job: &str, flags: &[&str], out: &Path) {
    let said = run(profile(job, out, flags));
    assert!([0, 10].contains(&said.code), "{}", said.err);
}

fn plain(_: &mut Command) {}

/// Ends the victim's life and says what is wrong with it.
fn judge(mut victim: Victim, undisturbed: &Path) -> Vec<String> {
    let said = victim.finish();
    if ![0, 10].contains(&said.code) {
        return vec![format!("it does not go on: {}", said.err)];
    }
    victim.breaches(undisturbed)
}

/// SIGKILL at random: after a time, or once the journal has grown by so many bytes. Each run is killed up to ten times.
fn at_random(
    what: &str,
    job: &str,
    flags: &[&str],
    wanted: u32,
    random: &mut Random,
    dir: &Path,
    ready: &mut Vec<Duration>,
) {
    let reference = dir.join("reference");
    undisturbed(job, flags, &reference);
    let length = *boundaries(&reference.join("journal.jsonl")).last().unwrap();
    let (mut kills, mut runs, mut torn, mut breaches) = (0, 0, 0, Vec::new());
    while kills < wanted {
        let out = dir.join("victim");
        let mut victim = Victim::new(job, flags, &out, plain);
        for _ in 0..10 {
            let when = match random.below(4) {
                0 => Kill::After(Duration::from_millis(random.below(1000))),
                1 => Kill::Grown(1),
                _ => Kill::Grown(1 + random.below(length / 3)),
            };
            if !victim.kill(when) {
                break;
            }
            torn += u32::from(!std::fs::read(victim.journal()).unwrap_or_default().ends_with(b"\n"));
        }
        kills += victim.killed;
        runs += 1;
        ready.append(&mut victim.ready);
        breaches.extend(judge(victim, &reference));
        std::fs::remove_dir_all(&out).expect("it is ours");
    }
    std::fs::remove_dir_all(&reference).expect("it is ours");
    println!("| {kills} | at random, {what} | {runs} | {kills} | 0 | {torn} | {} |", said(&breaches));
}

/// Exactly at the end of each record, and 9 bytes before it.
fn at_every_boundary(dir: &Path, ready: &mut Vec<Duration>) {
    let reference = dir.join("reference");
    undisturbed(SMALL, &[], &reference);
    let base = dir.join("base");
    let mut grown = kills::grown(SMALL, &dir.join("grown"), plain);
    let start = grown.length();
    copy(&dir.join("grown"), &base);
    assert_eq!(grown.finish().code, 0);
    let ends: Vec<u64> = boundaries(&grown.journal()).into_iter().filter(|end| *end > start).collect();
    let (mut kills, mut torn, mut runs, mut breaches) = (0, 0, 0, Vec::new());
    // After the last record there is nothing left to interrupt.
    for bytes in ends.iter().take(ends.len() - 1).flat_map(|end| [*end, end - 9]) {
        let out = dir.join("victim");
        copy(&base, &out);
        let mut victim = Victim::new(SMALL, &[], &out, plain);
        runs += 1;
        if victim.kill(Kill::At(bytes)) {
            kills += 1;
            torn += u32::from(!std::fs::read(victim.journal()).unwrap_or_default().ends_with(b"\n"));
        }
        ready.append(&mut victim.ready);
        breaches.extend(judge(victim, &reference));
        std::fs::remove_dir_all(&out).expect("it is ours");
    }
    let what = format!("at each of {} boundaries of the journal, and within the record before it", ends.len() - 1);
    println!("| {kills} | {what} | {runs} | 0 | {kills} | {torn} | {} |", said(&breaches));
    for folder in ["reference", "base", "grown"] {
        std::fs::remove_dir_all(dir.join(folder)).expect("it is ours");
    }
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).expect("it can be made");
        std::fs::write(path, bytes).expect("it can be written");
    }
}

fn said(breaches: &[String]) -> String {
    match breaches.first() {
        None => "0".to_owned(),
        Some(first) => format!("{}: {first}", breaches.len()),
    }
}

/// Every write of a file beyond so many bytes fails: small limits meet the first files, larger ones pictures and journal.
fn full_disk(dir: &Path) {
    let reference = dir.join("reference");
    undisturbed(SMALL, &[], &reference);
    let base = dir.join("base");
    let mut grown = kills::grown(SMALL, &dir.join("grown"), plain);
    let start = grown.length();
    copy(&dir.join("grown"), &base);
    assert_eq!(grown.finish().code, 0);
    let ends: Vec<u64> = boundaries(&grown.journal()).into_iter().filter(|end| *end > start).collect();
    let (mut runs, mut ended_well, mut breaches) = (0, 0, Vec::new());
    for bytes in ends.iter().take(ends.len() - 1).map(|end| end - 5) {
        let out = dir.join("victim");
        copy(&base, &out);
        let victim = Victim::new(SMALL, &[], &out, plain);
        let said = run(limited(&victim.command(), bytes, true));
        runs += 1;
        match said.code {
            9 => ended_well += 1,
            code => breaches.push(format!("full at byte {bytes}: exit code {code}")),
        }
        breaches.extend(judge(victim, &reference));
        std::fs::remove_dir_all(&out).expect("it is ours");
    }
    println!("| disk full at a record | exit code 9, with the reason | breaches after resuming |\n|---|---|---|");
    println!("| {runs} | {ended_well} | {} |", said(&breaches));
    for folder in ["reference", "base", "grown"] {
        std::fs::remove_dir_all(dir.join(folder)).expect("it is ours");
    }
}

/// From the start of a process to its `resumed` record.
fn resume(ready: &[Duration]) {
    let mut ms: Vec<f64> = ready.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    let of = |q| quantile(&ms, q).unwrap_or(f64::NAN);
    let late = ms.iter().filter(|ms| **ms > 100.0).count();
    println!("| resumes seen | median, ms | p90, ms | p99, ms | above 100 ms |\n|---|---|---|---|---|");
    println!("| {} | {:.0} | {:.0} | {:.0} | {late} |", ms.len(), of(0.5), of(0.9), of(0.99));
}

/// Wall time on the cluster's clock with 30 % faulty launches against none, by seed: those that fail for good, and those
/// of which the first fails of something that passes.
fn faults(dir: &Path) {
    println!(
        "| launches that fail | seeds | launches | failed or tried again | wall time with / without, median | p90 | worst (seed) |\n|---|---|---|---|---|---|---|"
    );
    for (what, lasting, passing) in [("30 % for good", 0.3, 0.0), ("30 % at first", 0.0, 0.3)] {
        let mut ratios = Vec::new();
        let (mut slowest, mut launches, mut failed) = ((0.0, 0), 0, 0);
        for seed in 0..40_u32 {
            let Some((without, ..)) = time(dir, &faulty(0.0, 0.0, seed)) else { continue };
            let Some((with, all, bad)) = time(dir, &faulty(lasting, passing, seed)) else { continue };
            let ratio = with / without;
            if ratio > slowest.0 {
                slowest = (ratio, seed);
            }
            launches += all;
            failed += bad;
            ratios.push(ratio);
        }
        ratios.sort_by(f64::total_cmp);
        let of = |q| quantile(&ratios, q).unwrap_or(f64::NAN);
        let (worst, seed) = slowest;
        let (median, p90) = (of(0.5), of(0.9));
        println!(
            "| {what} | {} | {launches} | {failed} | {median:.2} | {p90:.2} | {worst:.2} ({seed}) |",
            ratios.len()
        );
    }
}

/// Seconds on the cluster's clock, launches and failures of a run; nothing where every candidate of a role is faulty, so
/// that there is no answer to compare.
fn time(dir: &Path, dgdr: &str) -> Option<(f64, usize, usize)> {
    let out = dir.join("faults");
    let mut command = sla_profiler(["-q", "profile", "--config", dgdr, "--out"]);
    command.arg(&out);
    let said = run(command);
    let events = kills::events(&out.join("journal.jsonl"));
    let text = std::fs::read_to_string(out.join("journal.jsonl")).unwrap_or_default();
    let last: Option<Value> = text.lines().last().and_then(|line| serde_json::from_str(line).ok());
    let seconds = last.and_then(|record| record["at_s"].as_f64()).unwrap_or(0.0);
    let count = |name: &str| events.iter().filter(|(of, _)| of == name).count();
    std::fs::remove_dir_all(&out).expect("it is ours");
    ([0, 10].contains(&said.code)).then(|| (seconds, count("launching"), count("failed") + count("retrying")))
}

fn faulty(lasting: f64, passing: f64, seed: u32) -> String {
    serde_json::json!({
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "hardware": { "gpuSku": "h200_sxm", "numGpusPerNode": 8, "totalGpus": 8 },
        "workload": { "isl": 3000, "osl": 150 },
        "sla": { "ttft": 300, "itl": 20 },
        "autoApply": false,
        "profiler": { "seed": seed, "simulation": { "faultRate": lasting, "passingFaultRate": passing } },
    })
    .to_string()
}
