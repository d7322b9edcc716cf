//! What a selection policy costs: `cargo run -p sla-profiler-tests --example plugin_cost -- FILE.wasm`.
//!
//! Prints medians of compiling, of loading from the cache in a new host, and of fresh calls over 100 candidates.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement, not the program"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sla_profiler::domain::{History, Role};
use sla_profiler::plugin::{HostOptions, PluginHost};
use sla_profiler::spec::{PluginChoice, PluginSource};
use sla_profiler_tests::fixtures::{candidates, facts, job, measurement};
use sla_profiler_tests::guests;

fn median(rounds: u32, mut run: impl FnMut() -> Duration) -> f64 {
    let mut times: Vec<Duration> = (0..rounds).map(|_| run()).collect();
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn main() {
    let file: PathBuf = std::env::args_os().nth(1).expect("the path of a selection policy").into();
    let choice = PluginChoice::new(PluginSource::File(file));
    let dir = tempfile::tempdir().unwrap();
    let host = |cache| PluginHost::new(HostOptions { cache, ..HostOptions::default() }).unwrap();
    let load = |cache: Option<PathBuf>| {
        let started = Instant::now();
        let policy = host(cache).selection(&choice).unwrap();
        (started.elapsed(), policy)
    };
    let cache = Some(dir.path().join("cache"));
    let compile = median(5, || load(None).0);
    load(cache.clone());
    let cached = median(51, || load(cache.clone()).0);

    let all: Vec<_> = candidates().into_iter().cycle().take(100).collect();
    let rows = all.iter().zip(0..).map(|(c, id)| {
        let isl = if c.role == Role::Prefill { 3000 } else { 256 };
        measurement(id, c.role, isl, 1 + id % 7, 5.0 + f64::from(id))
    });
    let history = History { facts: (0..100).map(facts).collect(), measurements: rows.collect(), failures: vec![] };
    let policy = load(cache).1;
    let mut cost = Default::default();
    let call = median(1001, || {
        let decided = policy.select(&job(), &all, &history).unwrap();
        cost = decided.cost;
        decided.cost.elapsed
    });
    // A guest that always gives the same answer: what is left is the host's part and the copying.
    let idle_file = dir.path().join("idle.wasm");
    std::fs::write(&idle_file, guests::ranks(&[(0, 1, "1")], &[(2, 1, "1")])).unwrap();
    let idle = host(None).selection(&PluginChoice::new(PluginSource::File(idle_file))).unwrap();
    let overhead = median(1001, || idle.select(&job(), &all, &history).unwrap().cost.elapsed);
    println!(
        "compile and load {compile:.0} us; host and load from cache {cached:.0} us; fresh call over 100 candidates \
         {call:.1} us ({} instructions, {} kB), {overhead:.1} us with a guest that does nothing",
        cost.fuel,
        cost.peak_memory_bytes / 1000
    );
}
