//! Tables of single plugins: loading, stopping, fuel.

use std::path::{Path, PathBuf};

use sla_profiler::domain::{Demand, Goal};
use sla_profiler::plugin::{HostOptions, Limits, PluginHost};
use sla_profiler::spec::{PluginChoice, PluginSource};
use sla_profiler_tests::{fixtures, guests};

use crate::figures::{spread, timed};
use crate::question::Question;

/// The plugin of that name.
pub fn bundled(name: &str) -> PluginChoice {
    PluginChoice::new(PluginSource::Named(name.to_owned()))
}

/// A host under the default limits.
pub fn host(cache: Option<PathBuf>) -> PluginHost {
    PluginHost::new(HostOptions { cache, ..HostOptions::default() }).expect("wasmtime runs here")
}

/// Loading each bundled plugin: compiled anew, and from the cache, always by a host that has loaded nothing yet.
pub fn load(cache: &Path) {
    println!("| plugin | compiled and loaded, ms | loaded from the cache, ms |\n|---|---|---|");
    for listed in host(Some(cache.to_owned())).bundled().expect("`cargo xtask plugins` came first") {
        let choice = bundled(&listed.identity.name);
        let once = |cache: Option<&Path>| {
            let host = host(cache.map(Path::to_owned));
            timed(|| host.load(listed.identity.kind, &choice).expect("loads")) / 1e3
        };
        let (compiled, cached): (Vec<f64>, Vec<f64>) = (0..7).map(|_| (once(None), once(Some(cache)))).unzip();
        println!("| {} | {} | {} |", listed.identity.name, spread(compiled), spread(cached));
    }
    println!();
}

/// How long after its deadline a guest is stopped that loops for ever, by its own code and in calls of the host.
pub fn stop(cache: &Path) {
    const DEADLINE_MS: u64 = 100;
    let limits = Limits { fuel: u64::MAX / 2, deadline_ms: DEADLINE_MS, ..Limits::default() };
    let options = HostOptions { cache: Some(cache.to_owned()), limits, ..HostOptions::default() };
    let host = PluginHost::new(options).expect("wasmtime runs here");
    let (job, candidates, history) = (fixtures::job(), fixtures::candidates(), fixtures::history());
    println!("| a guest with a deadline of {DEADLINE_MS} ms | stopped so much later, ms |\n|---|---|");
    for (name, about) in [
        ("endless-loop", "loops for ever"),
        ("endless-log", "writes to the log for ever"),
        ("bulk-fill", "fills 36 MB for ever, as one instruction"),
    ] {
        let file = cache.join(name);
        std::fs::write(&file, guests::sweep(name)).expect("writable");
        let strategy = host.sweep(&PluginChoice::new(PluginSource::File(file))).expect("a strategy");
        let late = || {
            let ask = || strategy.next(&job, &Goal::Decode, &candidates, &history).expect_err("it is stopped");
            timed(ask) / 1e3 - DEADLINE_MS as f64
        };
        println!("| {about} | {} |", spread((0..21).map(|_| late()).collect()));
    }
    println!();
}

/// What `select-cost` burns, against the default limit: it sizes pairs, so its work grows faster than its input.
pub fn fuel(cache: &Path) {
    let host = host(Some(cache.to_owned()));
    let policy = host.selection(&bundled("select-cost")).expect("a bundled policy");
    let limit = Limits::default().fuel as f64;
    let (mut burnt, mut seconds) = (0.0, 0.0);
    println!("Fuel of select-cost in millions of instructions, and the share of the default limit.\n");
    println!(
        "| candidates | GPUs | no demand | 5 requests/s | 500 requests/s | 500 at once |\n|---|---|---|---|---|---|"
    );
    for count in [10, 100, 400] {
        for gpus in [8, 64, 512] {
            let demands = [
                Demand::Budget,
                Demand::RequestsPerSecond(5.0),
                Demand::RequestsPerSecond(500.0),
                Demand::Concurrency(500),
            ];
            let cells = demands.map(|demand| {
                let question = Question::new(count, gpus, demand);
                match policy.select(&question.job, &question.candidates, &question.history) {
                    Ok(decided) => {
                        let fuel = decided.cost.fuel as f64;
                        (burnt, seconds) = (burnt + fuel, seconds + decided.cost.elapsed.as_secs_f64());
                        format!("{:.1} ({:.1} %)", fuel / 1e6, fuel / limit * 100.0)
                    }
                    Err(error) => format!("{error}"),
                }
            });
            println!("| {count} | {gpus} | {} |", cells.join(" | "));
        }
    }
    println!("\nAll of it burnt {:.2} billion instructions a second.\n", burnt / seconds / 1e9);
}
