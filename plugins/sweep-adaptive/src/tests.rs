use proptest::prelude::*;
use sla_profiler_plugin::testing::{Random, SyntheticEngine, World, candidate, job};

use super::*;

fn engine() -> SyntheticEngine {
    SyntheticEngine {
        launch_fails: false,
        fails_above: u32::MAX,
        kv_tokens: 1_000_000,
        max_running: 256,
        ttft: [20.0, 0.03, 3e-6],
        itl: [6.0, 0.05, 1e-5, 0.0],
    }
}

fn world(engines: Vec<(Candidate<'_>, SyntheticEngine)>, noise: f64, seed: u64) -> World {
    let mut candidates = Candidates::empty();
    engines.iter().for_each(|(c, _)| candidates.push(*c));
    World {
        job: job(),
        candidates,
        engines: engines.into_iter().map(|(_, e)| e).collect(),
        history: History::empty(),
        noise,
        random: Random::new(seed),
        probes: vec![],
    }
}

fn with_prior<'a>(c: Candidate<'a>, latency_ms: f64, throughput: f64, error: f64) -> Candidate<'a> {
    Candidate {
        prior_latency_ms: Some(latency_ms),
        prior_tokens_per_second_per_gpu: Some(throughput),
        prior_relative_error: Some(error),
        ..c
    }
}

/// The largest load that truly meets the job's ITL target, among multiples of `dp` that fit.
fn true_crossing(e: &SyntheticEngine, dp: u32, job: &Job) -> u32 {
    let (isl, osl) = (job.workload.isl, job.workload.osl);
    let most = (e.kv_tokens / (isl + osl)).min(e.max_running) / dp;
    let context = f64::from(isl) + f64::from(osl) / 2.0;
    let meets = |n: &u32| e.itl_ms(f64::from(n * dp), context) <= job.sla.itl_ms.unwrap();
    (1..=most).rev().find(meets).unwrap_or(0) * dp
}

#[test]
fn decode_finds_the_sla_crossing_with_few_points() {
    // 6 + 0.08075·n = 20 at n = 173.4
    let mut world = world(vec![(candidate(Role::Decode, "tp1", 1), engine())], 0.0, 1);
    let why = world.run::<SweepAdaptive>(&Goal::Decode);
    let loads: Vec<_> = world.probes.iter().map(|p| p.concurrency).collect();
    assert_eq!(loads[..5], [1, 4, 16, 64, 256], "rising by four");
    let best =
        world.history.measurements.rows().filter(|m| m.itl_ms.unwrap().target <= 20.0).map(|m| m.concurrency).max();
    assert!((165..=173).contains(&best.unwrap()), "{loads:?}");
    assert!(loads.len() <= 11, "{loads:?}");
    assert_eq!(why, "1 of 1 candidates measured, SLA crossings to within 2 %");
}

#[test]
fn decode_stops_at_the_lowest_load_that_misses() {
    let slow = SyntheticEngine { itl: [25.0, 0.1, 0.0, 0.0], ..engine() };
    let mut world = world(vec![(candidate(Role::Decode, "tp1", 1), slow)], 0.0, 1);
    world.run::<SweepAdaptive>(&Goal::Decode);
    assert_eq!(world.probes.len(), 1);
}

#[test]
fn decode_goes_to_the_reachable_maximum_where_nothing_misses() {
    let fast = SyntheticEngine { itl: [1.0, 0.001, 0.0, 0.0], kv_tokens: 100 * 3150 + 17, ..engine() };
    let mut world = world(vec![(candidate(Role::Decode, "tp1", 1), fast)], 0.0, 1);
    world.run::<SweepAdaptive>(&Goal::Decode);
    assert_eq!(world.probes.iter().map(|p| p.concurrency).max(), Some(100));
}

#[test]
fn candidates_are_measured_in_waves_that_fit_the_gpus() {
    let all = [("tp1", 1), ("tp2", 2), ("tp4", 4), ("tp8", 8)];
    let mut world = world(all.map(|(label, gpus)| (candidate(Role::Decode, label, gpus), engine())).into(), 0.01, 1);
    let Ok(Step::Measure(first)) = SweepAdaptive::next(&world.job, &Goal::Decode, &world.candidates, &world.history)
    else {
        panic!("nothing asked")
    };
    assert_eq!(first.iter().map(|p| p.candidate).collect::<Vec<_>>(), [0, 1, 2], "1 + 2 + 4 of 8 GPUs");
    world.run::<SweepAdaptive>(&Goal::Decode);
    let order: Vec<_> = world.probes.iter().map(|p| p.candidate == 3).collect();
    assert!(order.windows(2).all(|w| w[0] <= w[1]), "tp8 comes when the others are done");
}

#[test]
fn a_failing_load_is_bracketed_without_many_failures() {
    let frail = SyntheticEngine { fails_above: 50, itl: [1.0, 0.001, 0.0, 0.0], ..engine() };
    let mut world = world(vec![(candidate(Role::Decode, "tp1", 1), frail)], 0.0, 1);
    world.run::<SweepAdaptive>(&Goal::Decode);
    let failures = world.history.failures.rows().count();
    assert!(failures <= 2, "{failures}");
    assert!(world.probes.len() < 16);
}

#[test]
fn prefill_looks_again_only_where_it_matters() {
    // 0: just at the target. 1: far above. 2: far below, best. 3: as good as 2.
    let at = |ms: f64| SyntheticEngine { ttft: [ms, 0.0, 0.0], ..engine() };
    let c = |label, gpus| candidate(Role::Prefill, label, gpus);
    let engines = vec![(c("a", 1), at(199.5)), (c("b", 1), at(400.0)), (c("c", 2), at(60.0)), (c("d", 2), at(60.3))];
    let mut world = world(engines, 0.0, 1);
    let why = world.run::<SweepAdaptive>(&Goal::Prefill);
    let again: Vec<_> = world.probes.iter().filter(|p| p.osl == 6).map(|p| p.candidate).collect();
    assert_eq!(again, [0, 2, 3]);
    assert_eq!(why, "4 of 4 candidates measured, 3 of them at length");
}

#[test]
fn a_quantile_is_given_enough_samples() {
    let mut world = world(vec![(candidate(Role::Prefill, "tp1", 1), engine())], 0.01, 1);
    world.job.sla.quantile = Some(0.99);
    world.run::<SweepAdaptive>(&Goal::Prefill);
    assert_eq!(world.probes.iter().map(|p| p.max_samples).collect::<Vec<_>>(), [299]);
}

#[test]
fn priors_prune_what_cannot_win_and_say_so() {
    let hopeless = with_prior(candidate(Role::Prefill, "tp1", 1), 400.0, 7500.0, 0.25);
    let fine = with_prior(candidate(Role::Prefill, "tp2", 2), 150.0, 10_000.0, 0.25);
    let dominated = with_prior(candidate(Role::Prefill, "tep8", 8), 190.0, 1000.0, 0.25);
    let engines = || vec![(hopeless, engine()), (fine, engine()), (dominated, engine())];
    let mut world = world(engines(), 0.0, 1);
    world.job.hardware.total_gpus = 2;
    let why = world.run::<SweepAdaptive>(&Goal::Prefill);
    assert!(world.probes.iter().all(|p| p.candidate == 1), "{:?}", world.probes);
    assert!(
        why.contains("tp1 skipped: even at the best end of the prior's band, it misses the SLA, which tp2 meets"),
        "{why}"
    );
    assert!(
        why.contains("tep8 skipped") && why.contains("tp2 brings more per GPU") && why.contains("learnt from 1"),
        "{why}"
    );

    world.job.settings = vec![("prune".into(), "false".into())];
    world.run::<SweepAdaptive>(&Goal::Prefill);
    assert_eq!(
        world.history.measurements.rows().map(|m| m.candidate).collect::<std::collections::BTreeSet<_>>().len(),
        3
    );
}

#[test]
fn hopeless_candidates_are_measured_where_nobody_meets_the_sla() {
    let c = |label, gpus, ms| with_prior(candidate(Role::Decode, label, gpus), ms, 1.0, 0.25);
    let slow = SyntheticEngine { itl: [40.0, 0.1, 0.0, 0.0], ..engine() };
    let mut world = world(vec![(c("tp1", 1, 40.0), slow.clone()), (c("tp2", 2, 22.0), slow)], 0.0, 1);
    world.job.extra = vec![("prior-itl-ms".into(), "tp1:1=40,64=50;tp2:1=22,64=30".into())];
    world.run::<SweepAdaptive>(&Goal::Decode);
    assert_eq!(world.probes.iter().map(|p| p.candidate).collect::<Vec<_>>(), [1, 0], "the one with a chance first");
}

#[test]
fn curves_interpolate_well_at_lengths_that_were_not_measured() {
    let both = || vec![(candidate(Role::Prefill, "tp1", 1), engine()), (candidate(Role::Decode, "tp1", 1), engine())];
    let mut world = world(both(), 0.0, 1);
    world.run::<SweepAdaptive>(&Goal::Decode);
    let before = world.probes.len();
    let curve = |candidate| Curve { candidate, min_isl: 100, max_isl: 30_000, concurrency: 170 };
    world.run::<SweepAdaptive>(&Goal::PrefillCurve(curve(0)));
    let prefill = world.probes.len() - before;
    assert!((6..=10).contains(&prefill), "{prefill}");
    world.run::<SweepAdaptive>(&Goal::DecodeCurve(curve(1)));
    let decode = world.probes.len() - before - prefill;
    assert!((9..=24).contains(&decode), "{decode}");
    let of_job = |p: &&Probe| p.candidate == 1 && p.isl == 3000 && p.concurrency == 170;
    assert_eq!(world.probes.iter().filter(of_job).count(), 1, "the operating point is part of it");

    let points = world.history.measurements.of(0).map(|m| (f64::from(m.isl), m.ttft_ms.unwrap().mean, 1.0));
    let fit = sla_profiler_plugin::sizing::Curve::isotonic(points).unwrap();
    let mut errors: Vec<_> = (100..30_000)
        .step_by(37)
        .map(|isl| (fit.smooth_at(f64::from(isl)) / world.engines[0].ttft_ms(f64::from(isl)) - 1.0).abs())
        .collect();
    errors.sort_by(f64::total_cmp);
    let p95 = errors[errors.len() * 95 / 100];
    println!("monotone cubic through {prefill} points: p95 error {p95:.3}");
    assert!(p95 < 0.05, "{p95}");
}

#[test]
fn the_decode_curve_foretells_itl_at_contexts_that_were_not_measured() {
    use sla_profiler_plugin::Workload;
    use sla_profiler_plugin::sizing::DecodeEngine;

    let bent = SyntheticEngine { itl: [6.0, 0.02, 5e-6, 0.09], max_running: 400, ..engine() };
    let mut world = world(vec![(candidate(Role::Decode, "tp1", 1), bent.clone())], 0.0, 1);
    world.run::<SweepAdaptive>(&Goal::Decode);
    let curve = Curve { candidate: 0, min_isl: 100, max_isl: 30_000, concurrency: 170 };
    world.run::<SweepAdaptive>(&Goal::DecodeCurve(curve));
    let mut errors = Vec::new();
    for isl in [200, 700, 1700, 2500, 4000, 9000, 20_000] {
        let workload = Workload { isl, osl: 150 };
        let fit = DecodeEngine::from_measurements(world.history.measurements.of(0), workload, 1, bent.kv_tokens, 400);
        let fit = fit.unwrap();
        errors.extend((1..=fit.limit()).map(|n| {
            let truth = bent.itl_ms(f64::from(n), f64::from(isl) + 75.0);
            (fit.itl_at(f64::from(n)).mean_ms / truth - 1.0).abs()
        }));
    }
    errors.sort_by(f64::total_cmp);
    let p95 = errors[errors.len() * 95 / 100];
    println!("decode curve of {} points: p95 error {p95:.3}", world.probes.len());
    assert!(p95 < 0.05, "{p95}");
}

#[test]
fn a_curve_of_an_unknown_candidate_and_bad_settings_are_errors() {
    let mut world = world(vec![], 0.0, 1);
    let curve = Goal::DecodeCurve(Curve { candidate: 7, min_isl: 1, max_isl: 2, concurrency: 1 });
    let next = |world: &World, goal| SweepAdaptive::next(&world.job, goal, &world.candidates, &world.history);
    assert!(matches!(next(&world, &curve), Err(Error::Other(text)) if text.contains("candidate 7")));
    for (name, value) in
        [("tolerance", "0"), ("prune", "yes"), ("decode-points", "-1"), ("speed", "1"), ("precision", "NaN")]
    {
        world.job.settings = vec![(name.into(), value.into())];
        assert!(matches!(next(&world, &Goal::Prefill), Err(Error::BadSetting(_))), "{name}");
    }
}

/// The engine's true ITL times `factor`, as the host would tell it.
fn told(label: &str, truth: &SyntheticEngine, factor: f64) -> String {
    let points = [1.0, 4.0, 16.0, 64.0, 256.0].map(|n| format!("{n}={:.4}", truth.itl_ms(n, 3075.0) * factor));
    format!("{label}:{}", points.join(","))
}

#[test]
fn with_a_prior_the_crossing_is_found_in_a_few_looks_also_where_the_prior_is_far_off() {
    for factor in [1.0, 0.7, 1.5] {
        let c = with_prior(candidate(Role::Decode, "tp1", 1), 6.0 * factor, 1.0, 0.25);
        let mut world = world(vec![(Candidate { prior_kv_tokens: Some(1e6), ..c }, engine())], 0.0, 1);
        world.job.extra = vec![("prior-itl-ms".into(), told("tp1", &engine(), factor))];
        world.run::<SweepAdaptive>(&Goal::Decode);
        let looks = world.probes.len();
        assert!(looks <= 4, "off by {factor}: {:?}", world.probes);
        let met = world.history.measurements.rows().filter(|m| m.itl_ms.unwrap().target <= 20.0);
        let best = met.map(|m| m.concurrency).max().unwrap();
        assert!((170..=173).contains(&best), "off by {factor}: {best}");
    }
}

#[test]
fn what_was_measured_corrects_the_prior_of_what_was_not() {
    // All engines take half as long again as their priors say: tp8 is within the SLA by its prior only.
    let labels = [("tp1", 1), ("tp2", 2), ("tp4", 4), ("tp8", 8), ("tp16", 16)];
    let truth = |itl: f64| SyntheticEngine { itl: [itl, 0.05, 0.0, 0.0], ..engine() };
    let itls = [8.0, 7.0, 6.5, 6.0, 14.0];
    let of = |(label, gpus), itl: f64| {
        let c = with_prior(candidate(Role::Decode, label, gpus), itl / 1.5, 1.0, 0.25);
        (Candidate { prior_kv_tokens: Some(1e6), ..c }, truth(itl))
    };
    let mut world = world(labels.into_iter().zip(itls).map(|(l, itl)| of(l, itl)).collect(), 0.0, 1);
    world.job.hardware.total_gpus = 16;
    let rows: Vec<String> = labels.iter().zip(itls).map(|((l, _), itl)| told(l, &truth(itl), 1.0 / 1.5)).collect();
    world.job.extra = vec![("prior-itl-ms".into(), rows.join(";"))];
    let why = world.run::<SweepAdaptive>(&Goal::Decode);
    assert!(world.probes.iter().all(|p| p.candidate != 4), "tp16 cannot win");
    assert!(why.contains("tp16 skipped") && why.contains("prior off by +49 %"), "{why}");
}

#[test]
fn a_prior_table_is_read_or_refused() {
    let mut world = world(vec![(candidate(Role::Decode, "tp1", 1), engine())], 0.0, 1);
    for wrong in ["tp1", "tp1:", "tp1:1", "tp1:0=5", "tp1:1=-5", "tp1:1=x", "tp1:1=5;tp2"] {
        world.job.settings = vec![("prior-table".into(), wrong.into())];
        let next = SweepAdaptive::next(&world.job, &Goal::Decode, &world.candidates, &world.history);
        assert!(matches!(next, Err(Error::BadSetting(text)) if text.contains("LABEL:REQUESTS=ITL")), "{wrong}");
    }
    world.job.settings = vec![("prior-table".into(), format!(" {} ;", told("tp1", &engine(), 1.0)))];
    world.run::<SweepAdaptive>(&Goal::Decode);
    assert!(world.probes.len() <= 5, "{:?}", world.probes);
}

#[test]
fn the_race_ends_for_candidates_that_cannot_win() {
    let slow = SyntheticEngine { itl: [6.0, 0.3, 0.0, 0.0], ..engine() };
    let pair = |race: &str| {
        let engines =
            vec![(candidate(Role::Decode, "tp1", 1), engine()), (candidate(Role::Decode, "tp2", 2), slow.clone())];
        let mut world = world(engines, 0.0, 1);
        world.job.settings = vec![("race".into(), race.into())];
        world.run::<SweepAdaptive>(&Goal::Decode);
        world.probes.iter().filter(|p| p.candidate == 1).count()
    };
    let (with, without) = (pair("true"), pair("false"));
    assert!(with < without, "{with} of {without}");
}

fn engines() -> impl Strategy<Value = SyntheticEngine> {
    let fails_above = prop_oneof![6 => Just(u32::MAX), 1 => 0u32..300];
    (
        (prop::bool::weighted(0.1), fails_above, 500u32..4_000_000, 1u32..1500),
        (1.0f64..300.0, 0.0f64..0.1, 0.0f64..1e-5),
        (0.5f64..30.0, 0.0f64..0.5, 0.0f64..1e-4, 0.0f64..0.3),
    )
        .prop_map(|((launch_fails, fails_above, kv_tokens, max_running), (a, b, c), (d, e, f, g))| {
            SyntheticEngine { launch_fails, fails_above, kv_tokens, max_running, ttft: [a, b, c], itl: [d, e, f, g] }
        })
}

fn slas() -> impl Strategy<Value = sla_profiler_plugin::Sla> {
    let sla = |ttft_ms, itl_ms, e2e_ms, quantile| sla_profiler_plugin::Sla { ttft_ms, itl_ms, e2e_ms, quantile };
    prop_oneof![
        Just(sla(Some(200.0), Some(20.0), None, None)),
        Just(sla(Some(200.0), None, None, Some(0.95))),
        Just(sla(None, Some(5.0), None, Some(0.99))),
        Just(sla(None, None, Some(2000.0), None)),
        Just(sla(None, None, Some(1.0), None)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Legality, determinism and new points only are asserted by `World::run` at every step.
    #[test]
    fn every_sweep_ends_with_a_bounded_number_of_legal_points(
        truths in prop::collection::vec((engines(), 1u32..9, prop::option::of((1.0f64..500.0, 1.0f64..20_000.0, 0.0f64..1.5))), 2..8),
        sla in slas(), noise in prop_oneof![Just(0.0), 0.0f64..0.3], seed in any::<u64>(), total_gpus in 1u32..32,
        (isl, osl) in (1u32..30_000, 1u32..2_000), (min_isl, max_isl) in (1u32..5_000, 1u32..60_000), chosen in 0u32..2_000,
    ) {
        let with = |role, i: usize| {
            let (engine, dp, prior) = &truths[i];
            let c = Candidate { attention_dp: *dp, ..candidate(role, "x", *dp) };
            (prior.map_or(c, |(ms, tps, error)| with_prior(c, ms, tps, error)), engine.clone())
        };
        let all = (0..truths.len()).flat_map(|i| [with(Role::Prefill, i), with(Role::Decode, i)]).collect();
        let mut world = world(all, noise, seed);
        world.job.sla = sla;
        world.job.hardware.total_gpus = total_gpus;
        world.job.workload = sla_profiler_plugin::Workload { isl, osl };
        let curve = |candidate| Curve { candidate, min_isl, max_isl, concurrency: chosen };
        for (goal, most) in [
            (Goal::Prefill, 2 * truths.len()),
            (Goal::Decode, 24 * truths.len()),
            (Goal::PrefillCurve(curve(0)), 10),
            (Goal::DecodeCurve(curve(1)), 30),
        ] {
            let before = world.probes.len();
            world.run::<SweepAdaptive>(&goal);
            prop_assert!(world.probes.len() - before <= most, "{goal:?}: {}", world.probes.len() - before);
        }
    }

    #[test]
    fn the_crossing_is_found_to_within_the_tolerance(truth in engines(), dp in 1u32..5, tolerance in 0.01f64..0.2) {
        let truth = SyntheticEngine { launch_fails: false, fails_above: u32::MAX, ..truth };
        let c = Candidate { attention_dp: dp, ..candidate(Role::Decode, "x", dp) };
        let mut world = world(vec![(c, truth.clone())], 0.0, 1);
        world.job.settings = vec![("tolerance".into(), tolerance.to_string())];
        world.run::<SweepAdaptive>(&Goal::Decode);
        let crossing = true_crossing(&truth, dp, &world.job);
        let found = world.history.measurements.rows().filter(|m| m.itl_ms.unwrap().target <= 20.0).map(|m| m.concurrency).max();
        if crossing > 0 {
            let found = found.unwrap_or(0);
            prop_assert!(f64::from(found) * (1.0 + tolerance) >= f64::from(crossing) || found + dp > crossing, "{found} of {crossing}");
        }
    }
}
