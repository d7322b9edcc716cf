//! `cargo xtask bench planner`: planners against deployments that are simulated event by event, over seeds and kinds of
//! traffic. Nothing here passes or fails; `host/docs/planner.md` keeps a report and says how to read it.
//!
//! Started by hand it takes the number of seeds and of requests: `bench_planner 20 20000`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement, not the program"
)]

#[path = "../tests/world/mod.rs"]
mod world;

use sla_profiler_plugin::PlannerModel;
use sla_profiler_plugin_planner_queueing::PlannerQueueing;
use sla_profiler_plugin_planner_sla::PlannerSla;
use world::{Kind, Score, World};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().unwrap());
    let (seeds, requests) = (arguments.next().unwrap_or(100), arguments.next().unwrap_or(100_000));
    println!("{seeds} seeds, {requests} requests a world; % of roles, and of worlds where it says so\n");
    println!(
        "| planner | traffic | measured within | equal | within one | fewer | worlds attained | GPUs of the truth | worst (seed) |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for kind in Kind::ALL {
        for within in [0.0, 0.01] {
            row::<PlannerQueueing>("planner-queueing", kind, within, true, seeds, requests as usize);
            row::<PlannerSla>("planner-sla", kind, within, false, seeds, requests as usize);
        }
    }
}

fn row<P: PlannerModel>(name: &str, kind: Kind, within: f64, knows: bool, seeds: u64, requests: usize) {
    let mut score = Score::default();
    for seed in 1000..1000 + seeds {
        let world = World::new(seed, kind, within);
        score.add(&world, &world.plan::<P>(knows), requests);
    }
    println!(
        "| {name} | {kind:?} | {:.0} % | {:.1} | {:.1} | {:.1} | {:.1} | {:.3} | {:+} ({}) |",
        within * 100.0,
        Score::percent(score.equal, score.roles),
        Score::percent(score.within_one, score.roles),
        Score::percent(score.fewer, score.roles),
        Score::percent(score.attained, score.worlds),
        f64::from(score.planned_gpus) / f64::from(score.true_gpus),
        score.worst.1,
        score.worst.0,
    );
}
