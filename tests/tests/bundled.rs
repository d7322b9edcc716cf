//! The plugins that come with the program, through the same door as a stranger's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use sla_profiler::domain::{Demand, History};
use sla_profiler::plugin::api::Kind;
use sla_profiler::plugin::{HostOptions, PluginHost, bundled, default_choice};
use sla_profiler::replay::{Recording, answer};
use sla_profiler::spec::{PluginChoice, PluginSource};
use sla_profiler_tests::fixtures::question;
use sla_profiler_tests::recorded::QUICKSTART;

fn host(cache: &std::path::Path) -> PluginHost {
    PluginHost::new(HostOptions { cache: Some(cache.to_owned()), ..HostOptions::default() }).unwrap()
}

#[test]
fn every_bundled_plugin_fits_its_world_and_says_who_it_is() {
    assert!(!bundled::all().is_empty(), "this build carries no plugins: run `cargo xtask plugins` and build again");
    let cache = tempfile::tempdir().unwrap();
    let host = host(&cache.path().join("cache"));
    let listed = host.bundled().unwrap();
    for (plugin, file) in listed.iter().zip(bundled::all()) {
        assert_eq!(plugin.identity.name, file.name, "the name that the user gives is the plugin's own");
        assert!(plugin.identity.bundled && !plugin.summary.is_empty());
        let source = PluginSource::Named(file.name.to_owned());
        let settings = plugin.settings.iter().map(|s| (s.name.clone(), s.default.clone())).collect();
        let choice = PluginChoice { settings, ..PluginChoice::new(source) };
        host.load(plugin.identity.kind, &choice).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_work_of_select_throughput_grows_little_faster_than_its_input() {
    let cache = tempfile::tempdir().unwrap();
    let host = host(&cache.path().join("cache"));
    let policy = host.selection(&PluginChoice::new(PluginSource::Named("select-throughput".to_owned()))).unwrap();
    for e2e_ms in [None, Some(3_000.0)] {
        let fuel = |count| {
            let (mut job, candidates, history) = question(count, 64, Demand::Budget);
            job.sla.e2e_ms = e2e_ms;
            policy.select(&job, &candidates, &history).unwrap().cost.fuel as f64
        };
        // n log n: 2.15 from 1,000 to 2,000. A quadratic part shows as 4.
        let growth = fuel(2_000) / fuel(1_000);
        assert!(growth < 2.4, "{growth} with an end-to-end target of {e2e_ms:?}");
    }
}

#[test]
fn there_is_a_default_of_each_kind() {
    let cache = tempfile::tempdir().unwrap();
    let host = host(&cache.path().join("cache"));
    for kind in Kind::ALL {
        let plugin = host.load(kind, &default_choice(kind)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(plugin.identity().kind, kind);
    }
    let defaults = host.bundled().unwrap().into_iter().filter(|plugin| plugin.default).count();
    assert_eq!(defaults, Kind::ALL.len());
}

#[test]
fn a_thousand_repeats_on_a_recorded_run_give_identical_answers_at_identical_fuel() {
    const REPEATS: usize = 1000;
    let cache = tempfile::tempdir().unwrap();
    let host = host(&cache.path().join("cache"));
    let recording = Recording::open(&QUICKSTART.path).unwrap();
    let (job, candidates) = (&recording.started().job, &recording.started().candidates);
    let choice = |name: &str| PluginChoice::new(PluginSource::Named(name.to_owned()));
    let of_kind = |kind: Kind| {
        let listed = host.bundled().unwrap().into_iter().filter(move |plugin| plugin.identity.kind == kind);
        listed.map(|plugin| choice(&plugin.identity.name))
    };

    let whole = recording.full_history();
    let half = History { measurements: whole.measurements[..whole.measurements.len() / 2].to_vec(), ..whole.clone() };
    for name in of_kind(Kind::SweepStrategy) {
        let strategy = host.sweep(&name).unwrap();
        let questions: Vec<_> =
            recording.goals().into_iter().flat_map(|goal| [(goal, &half), (goal, &whole)]).collect();
        let ask = |(goal, history): &(_, &History)| {
            let decided = strategy.next(job, goal, candidates, history).unwrap();
            (decided.value, decided.cost.fuel)
        };
        let first: Vec<_> = questions.iter().map(ask).collect();
        for number in 0..REPEATS {
            let at = number % questions.len();
            assert_eq!(ask(&questions[at]), first[at], "{:?}", strategy.identity());
        }
    }
    for name in of_kind(Kind::SelectionPolicy) {
        let policy = host.selection(&name).unwrap();
        let ask = || policy.select(job, candidates, &whole).map(|decided| (decided.value, decided.cost.fuel)).unwrap();
        let first = ask();
        (0..REPEATS).for_each(|_| assert_eq!(ask(), first, "{:?}", policy.identity()));
    }
    let policy = host.selection(&default_choice(Kind::SelectionPolicy)).unwrap();
    for name in of_kind(Kind::PlannerModel) {
        let planner = host.planner(&name).unwrap();
        let ask = || answer(&recording, job, policy.as_ref(), planner.as_ref()).unwrap();
        let first = ask();
        assert!(first.plan.is_some(), "{first:?}");
        (0..REPEATS).for_each(|_| assert_eq!(ask(), first));
    }
}
