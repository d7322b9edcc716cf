//! `cargo xtask bench`: what the plugins and the program cost, as a Markdown report on stdout.
//!
//! Nothing here passes or fails: figures depend on the machine and its load, so the report names both. What is compared
//! takes turns within one run, A B, B A, ..., and the comparison is made within each turn: a slow moment of the machine
//! hits both sides. Medians, with the quartiles in brackets. `host/docs/benchmarks.md` keeps a report and says how to
//! read it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement, not the program: a failure is the message"
)]

mod decisions;
mod figures;
mod grpc;
mod plugins;
mod program;
mod question;

fn main() {
    if std::env::args().any(|argument| argument == grpc::SERVE) {
        return grpc::serve();
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let cache = dir.path().join("cache");
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!("Profile {profile}, {cpus} CPUs, load average {} at the start.\n", load_average());
    program::start(&cache);
    plugins::load(&cache);
    decisions::decisions(&cache);
    plugins::stop(&cache);
    plugins::fuel(&cache);
    program::quickstart(dir.path());
    println!("Load average {} at the end.", load_average());
}

/// Of the last minute.
fn load_average() -> String {
    let all = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    all.split(' ').next().filter(|first| !first.is_empty()).unwrap_or("unknown").to_owned()
}
