//! `cargo xtask bench worlds`: how much time and GPU time an answer costs, and how good it is, in simulated worlds whose
//! truth is known. A Markdown report on stdout; `host/docs/worlds.md` keeps one and says how to read it.
//!
//! Nothing here passes or fails. All times are of the virtual clock, so that the report depends on no machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement, not the program: a failure is the message"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use clap::Parser;
use sla_profiler::scheduler::Scheduling;
use sla_profiler_tests::worlds::ours::Entry;
use sla_profiler_tests::worlds::score::{Score, lower_bound, score};
use sla_profiler_tests::worlds::{Outcome, Setting, World, matrix, ours, peer, sample};

/// Compare strategies in simulated worlds.
#[derive(Debug, Parser)]
struct Args {
    /// All worlds instead of a sample
    #[arg(long)]
    all: bool,
    /// How many worlds make the sample
    #[arg(long, default_value_t = 54)]
    worlds: usize,
    /// Seeds of the matrix; each makes 162 worlds
    #[arg(long, default_value_t = 3)]
    seeds: u32,
    /// How far priors are off, as a fraction, beyond the 15 % by which engines differ from the roofline anyway
    #[arg(long, default_value_t = 0.0)]
    prior_error: f64,
    /// Also the default with packing, sharing, adaptive points and pruning switched off, one at a time
    #[arg(long)]
    gains: bool,
    /// Other strategies to run, by name
    #[arg(long)]
    sweep: Vec<String>,
    /// Only the n-th world of the matrix, with every contestant's figures
    #[arg(long)]
    only: Option<usize>,
}

enum Contestant {
    Peer { name: &'static str, client_s: f64 },
    Ours(Entry),
}

impl Contestant {
    const fn name(&self) -> &'static str {
        match self {
            Contestant::Peer { name, .. } => name,
            Contestant::Ours(entry) => entry.name,
        }
    }
}

const DEFAULT: &str = "default";

fn contestants(args: &Args) -> Vec<Contestant> {
    // As the program has it, whatever that is.
    let default = World::new(matrix(1, 0.0)[0]).spec.plugins.sweep;
    let sla_profiler::spec::PluginSource::Named(default) = default.source else {
        unreachable!("the default has a name")
    };
    let default: &'static str = default.leak();
    let plain =
        |name, sweep| Entry { name, sweep, settings: Vec::new(), shares: true, scheduling: Scheduling::default() };
    let mut all = vec![
        Contestant::Peer { name: "peer", client_s: 0.0 },
        Contestant::Peer { name: "peer, 10 s a client", client_s: 10.0 },
        Contestant::Ours(plain("sweep-grid", "sweep-grid")),
        Contestant::Ours(plain(DEFAULT, default)),
    ];
    for name in &args.sweep {
        let name: &'static str = name.clone().leak();
        all.push(Contestant::Ours(plain(name, name)));
    }
    if args.gains {
        let one = Scheduling { most_engines: 1, ..Scheduling::default() };
        all.push(Contestant::Ours(Entry { name: "one engine at a time", scheduling: one, ..plain("", default) }));
        all.push(Contestant::Ours(Entry { name: "an engine for each role", shares: false, ..plain("", default) }));
        all.push(Contestant::Ours(Entry {
            name: "no pruning",
            settings: vec![("prune".to_owned(), "false".to_owned())],
            ..plain("", default)
        }));
    }
    all
}

struct Row {
    setting: Setting,
    bound: (f64, f64),
    /// By contestant.
    results: Vec<(Outcome, Score)>,
}

fn main() {
    let args = Args::parse();
    let everything = matrix(args.seeds, args.prior_error);
    let settings = match args.only {
        Some(n) => vec![everything[n]],
        None if args.all => everything,
        None => sample(&everything, args.worlds),
    };
    let contestants = contestants(&args);
    let rows = run(&settings, &contestants);
    println!("{} worlds of {}.\n", rows.len(), matrix(args.seeds, 0.0).len());
    report(&contestants, &rows);
    if args.only.is_some() {
        details(&contestants, &rows[0]);
    }
}

fn run(settings: &[Setting], contestants: &[Contestant]) -> Vec<Row> {
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<(usize, Row)>> = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let host = ours::host();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(setting) = settings.get(i) else { break };
                    let row = row(*setting, contestants, &host);
                    rows.lock().unwrap().push((i, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|(i, _)| *i);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn row(setting: Setting, contestants: &[Contestant], host: &sla_profiler::plugin::PluginHost) -> Row {
    let world = Arc::new(World::new(setting));
    let results = contestants.iter().map(|contestant| {
        let outcome = match contestant {
            Contestant::Peer { client_s, .. } => peer::run(&world, *client_s),
            Contestant::Ours(entry) => ours::run(&world, host, entry),
        };
        let score = score(&world, &outcome);
        (outcome, score)
    });
    let results = results.collect();
    Row { setting, bound: lower_bound(&world), results }
}

/// `q` of 0 to 1.
fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(((values.len().max(1) - 1) as f64 * q).round() as usize).copied().unwrap_or(f64::NAN)
}

fn report(contestants: &[Contestant], rows: &[Row]) {
    println!(
        "| contestant | wall, min | wall / peer | with 8 GPUs | GPU-h | GPU-s / peer | GPU-s / bound | launches | points | \
         regret p95 | worst | regret <= 2 % | mapping's regret p95 | false accepts | false rejects | coverage | interpolation p95 | failed |"
    );
    println!("|{}", "---|".repeat(18));
    for (c, contestant) in contestants.iter().enumerate() {
        let of = |f: &dyn Fn(&Row) -> f64| -> Vec<f64> { rows.iter().map(f).collect() };
        let wall = |r: &Row| r.results[c].0.wall_s / r.results[0].0.wall_s;
        let gpu = |r: &Row| r.results[c].0.gpu_s / r.results[0].0.gpu_s;
        let mut small: Vec<f64> = rows.iter().filter(|r| r.setting.gpus == 8).map(wall).collect();
        let mut large: Vec<f64> = rows.iter().filter(|r| r.setting.gpus != 8).map(wall).collect();
        let median = |values: &mut Vec<f64>| quantile(values, 0.5);
        let spread = |values: &mut Vec<f64>| format!("{:.2} ({:.2})", quantile(values, 0.5), quantile(values, 1.0));
        let mut regrets: Vec<f64> = rows.iter().filter_map(|r| r.results[c].1.regret).collect();
        let low = regrets.iter().filter(|r| **r <= 0.02).count() as f64 / regrets.len().max(1) as f64;
        let decisions = 2.0 * regrets.len().max(1) as f64;
        let sum = |f: &dyn Fn(&Row) -> u32| rows.iter().map(f).sum::<u32>();
        let (inside, all) = (sum(&|r| r.results[c].0.covered.0), sum(&|r| r.results[c].0.covered.1));
        let coverage =
            if all == 0 { "none".to_owned() } else { format!("{:.1} %", 100.0 * f64::from(inside) / f64::from(all)) };
        println!(
            "| {} | {:.0} | {} | {} | {:.2} | {} | {} | {:.0} | {:.0} | {:.1} % | {:.1} % | {:.0} % | {:.1} % | {:.1} % | {:.1} % | {} | {:.1} % | {} |",
            contestant.name(),
            median(&mut of(&|r| r.results[c].0.wall_s / 60.0)),
            spread(&mut large),
            spread(&mut small),
            median(&mut of(&|r| r.results[c].0.gpu_s / 3600.0)),
            spread(&mut of(&gpu)),
            spread(&mut of(&|r| r.results[c].0.gpu_s / r.bound.1)),
            median(&mut of(&|r| f64::from(r.results[c].0.launches))),
            median(&mut of(&|r| f64::from(r.results[c].0.measurements))),
            100.0 * quantile(&mut regrets.clone(), 0.95),
            100.0 * quantile(&mut regrets, 1.0),
            100.0 * low,
            100.0 * quantile(&mut rows.iter().filter_map(|r| r.results[c].1.mapping_regret).collect::<Vec<_>>(), 0.95),
            100.0 * f64::from(sum(&|r| r.results[c].1.false_accepts)) / decisions,
            100.0 * f64::from(sum(&|r| r.results[c].1.false_rejects)) / decisions,
            coverage,
            100.0 * quantile(&mut of(&|r| r.results[c].1.interpolation), 0.5),
            rows.iter().filter(|r| r.results[c].0.failed.is_some()).count(),
        );
    }
    println!("\nMedians; the worst world in brackets. The worst worlds of each:\n");
    println!("| contestant | wall / peer | GPU-s / peer | regret |\n|---|---|---|---|");
    for (c, contestant) in contestants.iter().enumerate().skip(2) {
        let worst = |f: &dyn Fn(&Row) -> f64| {
            let row = rows.iter().max_by(|a, b| f(a).total_cmp(&f(b))).expect("a world");
            format!("{:.2}: {}", f(row), row.setting)
        };
        println!(
            "| {} | {} | {} | {} |",
            contestant.name(),
            worst(&|r| r.results[c].0.wall_s / r.results[0].0.wall_s),
            worst(&|r| r.results[c].0.gpu_s / r.results[0].0.gpu_s),
            worst(&|r| r.results[c].1.regret.unwrap_or(0.0)),
        );
    }
    let (mut wall, mut gpu): (Vec<f64>, Vec<f64>) = rows.iter().map(|r| (r.bound.0 / 60.0, r.bound.1 / 3600.0)).unzip();
    println!("\nLower bound: {:.0} min, {:.2} GPU-h (medians).", quantile(&mut wall, 0.5), quantile(&mut gpu, 0.5));
}

fn details(contestants: &[Contestant], row: &Row) {
    println!("\n{}; lower bound {:.0} s, {:.0} GPU-s", row.setting, row.bound.0, row.bound.1);
    for (contestant, (outcome, score)) in contestants.iter().zip(&row.results) {
        println!(
            "{}: {:.0} s, {:.0} GPU-s, {} launches, {} points ({} of the winners), {:?}\n  {score:?} {}",
            contestant.name(),
            outcome.wall_s,
            outcome.gpu_s,
            outcome.launches,
            outcome.measurements,
            outcome.curve_points,
            outcome.chosen,
            outcome.failed.as_deref().unwrap_or_default(),
        );
    }
}
