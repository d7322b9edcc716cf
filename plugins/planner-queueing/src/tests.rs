use proptest::prelude::*;
use sla_profiler_plugin::testing::{decode_point, job, prefill_point};
use sla_profiler_plugin::{Measurements, Sla};

use super::*;

/// TTFT 100 ms at 3000 input tokens, ITL = 6 ms + 0.1 ms per request, 256 requests at most; 1 and 2 GPUs.
fn engines() -> Engines {
    let engine = |label: &str, gpus, concurrency| Engine {
        label: label.into(),
        gpus,
        attention_dp: 1,
        kv_tokens: 256 * 3150,
        max_running: 256,
        launch_seconds: 120.0,
        concurrency,
    };
    Engines { prefill: engine("tp1", 1, 1), decode: engine("tp2", 2, 8) }
}

fn curves() -> Curves {
    let ttft_ms = |isl: u32| f64::from(isl) / 30.0;
    Curves {
        prefill: [500, 1000, 3000, 6000, 12_000]
            .map(|isl| prefill_point(0, isl, 1, ttft_ms(isl)))
            .into_iter()
            .collect(),
        decode: [1, 4, 16, 64, 256]
            .map(|n| decode_point(1, 3000, 150, n, 6.0 + 0.1 * f64::from(n)))
            .into_iter()
            .collect(),
    }
}

fn job_with(settings: &[(&str, &str)], total_gpus: u32) -> Job {
    let mut job = job();
    job.sla = Sla { ttft_ms: Some(400.0), itl_ms: Some(15.0), e2e_ms: None, quantile: Some(0.95) };
    job.hardware.total_gpus = total_gpus;
    job.settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    job
}

fn plan(settings: &[(&str, &str)], demand: Demand) -> Plan {
    PlannerQueueing::plan(&job_with(settings, 1000), &engines(), &curves(), &demand).unwrap()
}

fn at(rate: f64, settings: &[(&str, &str)]) -> (u32, u32) {
    let plan = plan(settings, Demand::RequestsPerSecond(rate));
    assert!(plan.meets_demand && plan.capacity_requests_per_second >= rate, "{plan:?}");
    (plan.prefill_replicas, plan.decode_replicas)
}

#[test]
fn prompts_of_different_lengths_wait_longer_than_equal_ones() {
    let equal = at(60.0, &[]);
    let mixed = at(60.0, &[("traffic", "short 0.8 1500/150; long 0.2 9000/150")]);
    assert!(mixed.0 > equal.0, "{mixed:?} {equal:?}: the same tokens, unevenly spread");
}

#[test]
fn each_class_gets_what_it_was_promised() {
    let patient = at(60.0, &[("traffic", "chat 0.5 1500/150 ttft=400 itl=15; batch 0.5 4500/150 ttft=20000 itl=30")]);
    let strict = at(60.0, &[("traffic", "chat 0.5 1500/150 ttft=100 itl=15; batch 0.5 4500/150 ttft=20000 itl=30")]);
    assert!(strict.0 > patient.0 && strict.1 == patient.1, "{strict:?} {patient:?}");
    let said = plan(
        &[("traffic", "chat 1 3000/150 ttft=400 itl=15; batch 1 3000/150 ttft=9000")],
        Demand::RequestsPerSecond(20.0),
    );
    assert!(said.assumptions.iter().any(|a| a.starts_with("batch: TTFT")), "{:?}", said.assumptions);
}

#[test]
fn headroom_growth_and_spare_engines_add_engines() {
    let plain = at(60.0, &[]);
    let more = |settings: &[(&str, &str)]| {
        let with = at(60.0, settings);
        assert!(with.0 > plain.0 && with.1 >= plain.1, "{settings:?}: {with:?} {plain:?}");
        with
    };
    let by_headroom = more(&[("headroom", "0.5")]);
    // Engines take 120 s to start: 25 % a minute is half more by then.
    assert_eq!(more(&[("growth-per-minute", "0.25")]), by_headroom);
    let by_spare = at(60.0, &[("spare", "1")]);
    assert_eq!(by_spare, (plain.0 + 1, plain.1 + 1));
}

#[test]
fn roles_with_gpus_of_their_own_stay_within_them() {
    let settings = [("prefill-gpus", "6"), ("decode-gpus", "4")];
    let plan = plan(&settings, Demand::RequestsPerSecond(500.0));
    assert!(!plan.meets_demand && plan.prefill_replicas <= 6 && plan.decode_replicas <= 2, "{plan:?}");
    assert!(plan.assumptions.iter().any(|a| a.contains("6 for prefill, 4 for decode")), "{:?}", plan.assumptions);
}

#[test]
fn a_dear_gpu_is_spared_where_the_roles_share_a_target() {
    let cost = |prefill_price: &str| {
        let mut job = job_with(&[("prefill-gpu-price", prefill_price)], 1000);
        job.sla = Sla { ttft_ms: None, itl_ms: None, e2e_ms: Some(1500.0), quantile: Some(0.9) };
        let plan = PlannerQueueing::plan(&job, &engines(), &curves(), &Demand::RequestsPerSecond(80.0)).unwrap();
        assert!(plan.meets_demand && plan.meets_sla);
        (plan.prefill_replicas, plan.decode_replicas)
    };
    let (cheap, dear) = (cost("0.2"), cost("5"));
    assert!(cheap.0 > dear.0 && cheap.1 < dear.1, "{cheap:?} {dear:?}");
}

#[test]
fn targets_out_of_reach_are_named_with_their_class() {
    let traffic = "chat 0.5 1500/150 ttft=10 itl=15; batch 0.5 4500/150 itl=30";
    let plan = plan(&[("traffic", traffic)], Demand::RequestsPerSecond(20.0));
    assert!(!plan.meets_sla && plan.meets_demand);
    assert!(plan.assumptions.iter().any(|a| a.contains("miss the chat TTFT target")), "{:?}", plan.assumptions);
}

#[test]
fn wrong_settings_say_what_is_wrong() {
    for (text, says) in [
        ("chat", "a name, a share and lengths"),
        ("chat zero 3000/150", "share must be"),
        ("chat 1 3000", "lengths must be like"),
        ("chat 1 3000/150 speed=3", "no target \"speed\""),
        ("chat 1 3000/150 ttft=fast", "\"ttft=fast\" is no target"),
        ("chat 1 3000/150 ttft=-1", "above 0"),
        ("chat 1 3000/150 quantile=1.5", "between 0 and 1"),
        ("a 1 3000/150; a 1 2000/150", "given before"),
    ] {
        let job = job_with(&[("traffic", text)], 64);
        match PlannerQueueing::plan(&job, &engines(), &curves(), &Demand::Budget) {
            Err(Error::BadSetting(message)) => assert!(message.contains(says), "{message}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    let nothing = Curves { prefill: Measurements::empty(), decode: Measurements::empty() };
    let answer = PlannerQueueing::plan(&job_with(&[], 64), &engines(), &nothing, &Demand::Budget);
    assert!(matches!(answer, Err(Error::Other(text)) if text.contains("prefill tp1")));
    for demand in [Demand::RequestsPerSecond(f64::NAN), Demand::Concurrency(0)] {
        let answer = PlannerQueueing::plan(&job_with(&[], 64), &engines(), &curves(), &demand);
        assert!(matches!(answer, Err(Error::Unsupported(_))), "{demand:?}");
    }
}

#[test]
fn concurrency_and_budget_are_planned() {
    let by_concurrency = plan(&[], Demand::Concurrency(100));
    assert!(by_concurrency.meets_demand && by_concurrency.assumptions.iter().any(|a| a.contains("Little")));
    let job = job_with(&[("spare", "1")], 16);
    let by_budget = PlannerQueueing::plan(&job, &engines(), &curves(), &Demand::Budget).unwrap();
    assert!(by_budget.meets_demand && by_budget.prefill_replicas + 2 * by_budget.decode_replicas <= 16);
    assert!(by_budget.capacity_requests_per_second > 0.0);
    let least = PlannerQueueing::plan(&job_with(&[], 2), &engines(), &curves(), &Demand::Budget).unwrap();
    assert_eq!((least.prefill_replicas, least.decode_replicas, least.meets_demand), (1, 1, false));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn promises_hold_together(
        share in 0.05f64..0.95,
        long in 2000u32..12_000,
        osl in 10u32..800,
        rate in 0.01f64..200.0,
        gpus in 10u32..128,
        quantile in prop_oneof![Just(String::new()), (0.5f64..0.995).prop_map(|q| format!(" quantile={q}"))],
    ) {
        let traffic = format!("a {share} 1000/150 ttft=500 itl=12{quantile}; b {} {long}/{osl} ttft=3000 itl=25", 1.0 - share);
        let job = job_with(&[("traffic", &traffic)], gpus);
        let ask = |job: &Job, demand| PlannerQueueing::plan(job, &engines(), &curves(), &demand).unwrap();
        let plan = ask(&job, Demand::RequestsPerSecond(rate));
        prop_assert!(plan.prefill_replicas + 2 * plan.decode_replicas <= gpus);
        prop_assert!(plan.prefill_replicas >= 1 && plan.decode_replicas >= 1 && plan.decode_concurrency >= 1);
        if plan.meets_demand {
            prop_assert!(plan.capacity_requests_per_second >= rate * 0.999);
        }
        let roles = plan.prefill_requests_per_second.min(plan.decode_requests_per_second);
        prop_assert!(plan.capacity_requests_per_second <= roles * 1.000_1);
        let wide = job_with(&[("traffic", &traffic)], 100_000);
        let (less, more) = (ask(&wide, Demand::RequestsPerSecond(rate)), ask(&wide, Demand::RequestsPerSecond(rate * 1.5)));
        prop_assert!(less.prefill_replicas <= more.prefill_replicas && less.decode_replicas <= more.decode_replicas);
    }
}
