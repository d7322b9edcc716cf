use proptest::prelude::*;
use sla_profiler_plugin::testing::{candidate, decode_point, job, prefill_point};
use sla_profiler_plugin::{Facts, Measurements, Sla};

use super::*;

/// Prefill tp1 (0) and tp4 (1), decode tp1 (2) and tp4 (3). tp4 is three times as fast on four times the GPUs.
fn candidates() -> Candidates {
    let mut all = Candidates::empty();
    for role in [Role::Prefill, Role::Decode] {
        all.push(candidate(role, "tp1", 1));
        all.push(candidate(role, "tp4", 4));
    }
    all
}

fn history(ttft_ms: [f64; 2], itl_ms: [f64; 2]) -> History {
    let mut rows: Vec<_> = (0..2u32).map(|id| prefill_point(id, 3000, 1, ttft_ms[id as usize])).collect();
    for id in 2..4u32 {
        rows.extend(
            [1u32, 8, 32, 64, 128]
                .map(|n| decode_point(id, 3000, 150, n, itl_ms[id as usize - 2] * (1.0 + f64::from(n) / 40.0))),
        );
    }
    let mut history = History { measurements: rows.into_iter().collect::<Measurements>(), ..History::empty() };
    for candidate in 0..4 {
        history.facts.push(Facts { candidate, kv_tokens: 1_000_000, max_running: 128, launch_seconds: 60.0 });
    }
    history
}

fn select(job: &Job, demand: &Demand, history: &History) -> Selection {
    SelectCost::select(job, demand, &candidates(), history).unwrap()
}

fn roomy() -> Job {
    let mut job = job();
    job.hardware.total_gpus = 64;
    job
}

#[test]
fn fewest_gpus_win_and_small_engines_waste_none_of_them() {
    let selection = select(&roomy(), &Demand::RequestsPerSecond(5.0), &history([120.0, 40.0], [6.0, 2.0]));
    assert_eq!((selection.prefill[0].candidate, selection.decode[0].candidate), (0, 2));
    assert_eq!(selection.prefill.len(), 2, "each candidate once");
    let reason = &selection.prefill[0].reason;
    assert!(reason.contains("× tp1 and decode 1 × tp1") && reason.contains("GPUs for 5.00 requests/s"), "{reason}");
    assert!(selection.notes.is_empty(), "{:?}", selection.notes);
}

#[test]
fn a_tight_target_makes_the_larger_engine_the_cheaper_one() {
    // At 190 of 200 ms tp1 has no time left to wait: one engine serves next to nothing.
    let selection = select(&roomy(), &Demand::RequestsPerSecond(15.0), &history([190.0, 50.0], [6.0, 2.0]));
    assert_eq!(selection.prefill[0].candidate, 1, "{:?}", selection.prefill);
    assert_eq!(selection.prefill[1].binding, "ttft");
}

#[test]
fn without_a_demand_the_greatest_rate_within_the_budget_wins() {
    let selection = select(&roomy(), &Demand::Budget, &history([120.0, 40.0], [6.0, 2.0]));
    assert_eq!((selection.prefill[0].candidate, selection.decode[0].candidate), (0, 2));
    assert!(selection.prefill[0].score > selection.prefill[1].score);
}

#[test]
fn the_operating_point_is_a_measured_one_within_the_target() {
    let history = history([120.0, 40.0], [6.0, 2.0]);
    for demand in [Demand::Budget, Demand::RequestsPerSecond(40.0), Demand::Concurrency(100)] {
        let best = select(&roomy(), &demand, &history).decode[0].clone();
        let at = history.measurements.of(best.candidate).find(|m| m.concurrency == best.concurrency).unwrap();
        assert!(at.itl_ms.unwrap().target <= 20.0, "{best:?}");
    }
}

#[test]
fn a_role_that_misses_its_target_does_not_condemn_the_other() {
    let selection = select(&roomy(), &Demand::RequestsPerSecond(5.0), &history([120.0, 40.0], [60.0, 30.0]));
    assert!(selection.prefill[0].meets_sla);
    assert!(
        !selection.decode[0].meets_sla && selection.decode[0].candidate == 3,
        "the lowest latency is the least bad"
    );
    assert_eq!(selection.decode[0].binding, "itl");
    assert!(selection.notes[0].contains("no decode candidate meets the SLA"));
}

#[test]
fn an_end_to_end_target_is_met_by_pairs() {
    let mut job = roomy();
    job.sla = Sla { ttft_ms: None, itl_ms: None, e2e_ms: Some(700.0), quantile: None };
    let selection = select(&job, &Demand::RequestsPerSecond(5.0), &history([120.0, 40.0], [6.0, 2.0]));
    assert_eq!(selection.decode[0].candidate, 3, "tp1 takes 149 · 6 ms");
    assert!(selection.decode[0].meets_sla && !selection.decode[1].meets_sla);
}

#[test]
fn a_demand_beyond_the_budget_is_ranked_by_what_is_served() {
    let selection = select(&job(), &Demand::RequestsPerSecond(500.0), &history([120.0, 40.0], [6.0, 2.0]));
    assert!(selection.notes.iter().any(|n| n.contains("no pair serves the demand with 8 GPUs")));
    assert!(selection.prefill[0].reason.contains("% of the demand"), "{}", selection.prefill[0].reason);
}

#[test]
fn a_pair_beyond_the_budget_comes_last() {
    let mut job = job();
    job.hardware.total_gpus = 1;
    let selection = select(&job, &Demand::Budget, &history([120.0, 40.0], [6.0, 2.0]));
    assert_eq!((selection.prefill[0].candidate, selection.decode[0].candidate), (0, 2), "the smallest pair");
    assert!(
        selection.notes.iter().any(|n| n.contains("no pair serves the demand with 1 GPU")),
        "{:?}",
        selection.notes
    );
    job.hardware.total_gpus = 5;
    let selection = select(&job, &Demand::Budget, &history([120.0, 40.0], [6.0, 2.0]));
    assert_eq!(selection.prefill.len(), 2);
    assert!(selection.notes.is_empty(), "{:?}", selection.notes);
}

#[test]
fn the_price_is_said_where_it_is_given() {
    let mut job = roomy();
    job.settings = vec![("gpu-hour-price".into(), "2.5".into())];
    let selection = select(&job, &Demand::RequestsPerSecond(5.0), &history([120.0, 40.0], [6.0, 2.0]));
    assert!(selection.prefill[0].reason.contains("per hour"));
    job.settings = vec![("gpu-hour-price".into(), "cheap".into())];
    let answer = SelectCost::select(&job, &Demand::Budget, &candidates(), &History::empty());
    assert!(matches!(answer, Err(Error::BadSetting(_))));
}

#[test]
fn nothing_measured_is_an_empty_ranking_with_a_note() {
    let selection = select(&roomy(), &Demand::Budget, &History::empty());
    assert!(selection.prefill.is_empty() && selection.decode.is_empty());
    assert_eq!(selection.notes.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Leaving out pairs that cannot win does not change who wins.
    #[test]
    fn without_a_demand_the_winners_serve_most(a in 30.0f64..190.0, b in 20.0f64..150.0, c in 2.0f64..15.0, d in 1.0f64..8.0, gpus in 8u32..64) {
        let (mut job, history) = (roomy(), history([a, b], [c, d]));
        job.hardware.total_gpus = gpus;
        let selection = select(&job, &Demand::Budget, &history);
        let all = candidates();
        let rate = |p: u32, d: u32| {
            let (p, d) = (prefill_option(&job, all.get(p)?, &history)?, decode_option(&job, all.get(d)?, &history)?);
            Some(Sizing::new(p.engine, d.engine, &job.sla, MAX_UTILIZATION, 1).within(gpus)?.1)
        };
        let best = [(0, 2), (0, 3), (1, 2), (1, 3)].into_iter().filter_map(|(p, d)| rate(p, d)).fold(0.0, f64::max);
        prop_assert_eq!(rate(selection.prefill[0].candidate, selection.decode[0].candidate), Some(best));
        prop_assert_eq!((selection.prefill.len(), selection.decode.len()), (2, 2));
    }

    /// Against sizing every pair: the winners are those of the pair with the fewest GPUs.
    #[test]
    fn the_winning_pair_needs_the_fewest_gpus(a in 30.0f64..250.0, b in 20.0f64..150.0, c in 2.0f64..15.0, d in 1.0f64..8.0, rate in 0.5f64..60.0) {
        let (job, history) = (roomy(), history([a, b], [c, d]));
        let demand = Demand::RequestsPerSecond(rate);
        let selection = select(&job, &demand, &history);
        let all = candidates();
        let gpus = |p: u32, d: u32| {
            let (p, d) = (prefill_option(&job, all.get(p)?, &history)?, decode_option(&job, all.get(d)?, &history)?);
            let sizing = Sizing::new(p.engine, d.engine, &job.sla, MAX_UTILIZATION, 1);
            let deployment = sizing.deployment(&demand, 64)?;
            (sizing.out_of_reach().is_empty() && deployment.meets_demand).then_some(deployment.gpus)
        };
        let best = [(0, 2), (0, 3), (1, 2), (1, 3)].into_iter().filter_map(|(p, d)| gpus(p, d)).min();
        if let Some(best) = best {
            let (p, d) = (&selection.prefill[0], &selection.decode[0]);
            prop_assert!(p.meets_sla && d.meets_sla);
            prop_assert_eq!(gpus(p.candidate, d.candidate), Some(best));
        }
    }
}
