use super::*;
use crate::Workload;
use crate::testing::{decode_point, prefill_point};

fn sla(ttft_ms: f64, itl_ms: f64) -> Sla {
    Sla { ttft_ms: Some(ttft_ms), itl_ms: Some(itl_ms), e2e_ms: None, quantile: None }
}

fn prefill() -> PrefillEngine {
    PrefillEngine::from_measurements([prefill_point(0, 3000, 1, 100.0)], 3000, 1, 1).unwrap()
}

/// ITL = 5 + 0.1·n, measured at 1, 50 and 200 requests.
fn decode() -> DecodeEngine {
    let rows = [1, 50, 200].map(|n| decode_point(1, 3000, 150, n, 5.0 + 0.1 * f64::from(n)));
    DecodeEngine::from_measurements(rows, Workload { isl: 3000, osl: 150 }, 2, 1_000_000, 256).unwrap()
}

fn sizing(ttft_ms: f64, itl_ms: f64) -> Sizing {
    Sizing::new(prefill(), decode(), &sla(ttft_ms, itl_ms), MAX_UTILIZATION, 50)
}

#[test]
fn ttft_between_measured_lengths_is_interpolated() {
    let rows = [prefill_point(0, 1000, 1, 40.0), prefill_point(0, 3000, 1, 100.0), prefill_point(0, 3000, 4, 900.0)];
    let engine = PrefillEngine::from_measurements(rows, 2000, 1, 1).unwrap();
    assert_eq!(engine.service.mean_ms, 70.0, "and a burst's waiting does not count");
    assert_eq!(PrefillEngine::from_measurements([decode_point(0, 1, 1, 1, 1.0)], 2000, 1, 1), None);
}

#[test]
fn itl_is_straight_between_loads_and_contexts_and_bounded_by_memory() {
    let workload = Workload { isl: 3000, osl: 150 };
    let far = [(1000, 10, 6.0), (1000, 20, 8.0), (4925, 10, 12.0), (4925, 20, 16.0)];
    let rows = far.map(|(isl, n, ms)| decode_point(1, isl, 150, n, ms));
    let engine = DecodeEngine::from_measurements(rows, workload, 1, 3075 * 15, 256).unwrap();
    // Context 3075 lies at (3075 − 1075) / (5000 − 1075) = 0.5096 between the two.
    let part = 2000.0 / 3925.0;
    assert!((engine.itl_at(10.0).mean_ms - (6.0 + 6.0 * part)).abs() < 1e-9);
    assert!((engine.itl_at(15.0).mean_ms - (7.0 + 7.0 * part)).abs() < 1e-9);
    assert_eq!(engine.limit(), 15);
    assert_eq!(decode().limit(), 256, "by what the engine runs");
}

#[test]
fn a_lone_prefill_engine_is_run_at_the_utilisation_that_its_ttft_allows() {
    // M/D/1: 100 + 100·ρ / (2·(1 − ρ)) ≤ 150 ⇔ ρ ≤ 1/2, so 5 requests/s.
    let capacity = sizing(150.0, 20.0).role_capacity(Role::Prefill, 1);
    assert!((capacity - 5.0).abs() < 1e-3, "{capacity}");
}

#[test]
fn decode_capacity_leaves_room_for_swings_of_the_load() {
    // Without swings: 150 requests at 20 ms: 150 / (150 · 0.02) = 50 requests/s.
    let mean = sizing(150.0, 20.0).role_capacity(Role::Decode, 1);
    assert!(mean < 50.0 && mean > 48.0, "{mean}");
    let p99 = Sla { quantile: Some(0.99), ..sla(150.0, 20.0) };
    let p99 = Sizing::new(prefill(), decode(), &p99, MAX_UTILIZATION, 50).role_capacity(Role::Decode, 1);
    assert!(p99 < mean, "{p99} {mean}");
}

#[test]
fn a_target_out_of_reach_is_put_aside_and_named() {
    let sizing = sizing(90.0, 4.0);
    assert_eq!(sizing.out_of_reach(), ["ttft", "itl"]);
    let most = sizing.role_capacity(Role::Prefill, 1);
    assert!((most - 9.5).abs() < 1e-3, "utilisation is all that bounds it: {most}");
    assert!(sizing.decode.limit() == 50);
}

#[test]
fn the_budget_is_split_where_both_roles_keep_up() {
    let sizing = sizing(150.0, 20.0);
    let (replicas, capacity) = sizing.within(16).unwrap();
    assert!(sizing.gpus(replicas) <= 16);
    // Against trying all splits.
    let best =
        (1..=14).map(|prefill| sizing.capacity(Replicas { prefill, decode: (16 - prefill) / 2 })).fold(0.0, f64::max);
    assert!(capacity >= best * 0.999, "{capacity} {best}");
    assert_eq!(sizing.within(2), None);
    assert_eq!(sizing.within(3).unwrap().0, Replicas { prefill: 1, decode: 1 });
}

#[test]
fn an_end_to_end_target_trades_one_role_for_the_other() {
    let sla = Sla { ttft_ms: None, itl_ms: None, e2e_ms: Some(100.0 + 149.0 * 8.0), quantile: None };
    let sizing = Sizing::new(prefill(), decode(), &sla, MAX_UTILIZATION, 50);
    let found = sizing.replicas(40.0).unwrap();
    // Against trying all.
    let all = (1..40).flat_map(|prefill| (1..40).map(move |decode| Replicas { prefill, decode }));
    let best = all.filter(|r| sizing.keeps_up(*r, 40.0)).map(|r| sizing.gpus(r)).min().unwrap();
    assert!(sizing.keeps_up(found, 40.0));
    assert_eq!(sizing.gpus(found), best);
    let (split, capacity) = sizing.within(24).unwrap();
    let best =
        (1..=22).map(|prefill| sizing.capacity(Replicas { prefill, decode: (24 - prefill) / 2 })).fold(0.0, f64::max);
    assert!(capacity >= best * 0.999, "{split:?} {capacity} {best}");
}

#[test]
fn concurrency_becomes_a_rate_by_littles_law() {
    let sizing = sizing(150.0, 20.0);
    let rate = sizing.rate_of(200).unwrap();
    let expected = sizing.expected(sizing.replicas(rate).unwrap(), rate);
    let in_flight = rate * (expected.ttft.mean_ms + 149.0 * expected.itl.mean_ms) / 1e3;
    assert!(in_flight <= 200.0 && in_flight > 150.0, "{in_flight}");
    assert_eq!(sizing.rate_of(0), None);
}

#[test]
fn demands_that_are_no_numbers_have_no_deployment() {
    for rate in [f64::NAN, f64::INFINITY, -1.0] {
        let answer = sizing(150.0, 20.0).deployment(&Demand::RequestsPerSecond(rate), 64);
        assert!(answer.is_none() || rate < 0.0, "{rate}");
    }
}

#[test]
fn a_demand_beyond_the_budget_gets_the_best_within_it() {
    let sizing = sizing(150.0, 20.0);
    let answer = sizing.deployment(&Demand::RequestsPerSecond(1000.0), 8).unwrap();
    assert!(!answer.meets_demand && answer.gpus <= 8);
    assert_eq!(answer.requests_per_second, sizing.capacity(answer.replicas));
}

#[test]
fn a_budget_below_one_engine_of_each_role_gets_those_two_and_is_not_met() {
    for demand in [Demand::Budget, Demand::RequestsPerSecond(1.0)] {
        let answer = sizing(150.0, 20.0).deployment(&demand, 2).unwrap();
        assert_eq!((answer.replicas, answer.gpus, answer.meets_demand), (Replicas { prefill: 1, decode: 1 }, 3, false));
    }
}
