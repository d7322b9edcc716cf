//! Engines that fail and are tried again, on a cluster that fails as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::*;

use super::*;
use crate::domain::{FailureCause, Mapping, Measurement, search_space};
use crate::engine::{ApplyError, ApplyRequest, Deployment};
use crate::run::{Observer, Record};

/// How launches and measurements end, in order; afterwards all is well.
#[derive(Debug, Default)]
struct Fates {
    launches: Mutex<Vec<Option<FailureCause>>>,
    /// A measurement that ends its engine.
    crashes: Mutex<Vec<bool>>,
}

struct Moody {
    fates: Arc<Fates>,
    gpus: u32,
    serves_both_roles: bool,
}

fn next<T: Default>(of: &Mutex<Vec<T>>) -> T {
    let mut of = of.lock().unwrap_or_else(PoisonError::into_inner);
    if of.is_empty() { T::default() } else { of.remove(0) }
}

#[async_trait]
impl Cluster for Moody {
    fn kind(&self) -> &'static str {
        "moody"
    }

    fn gpus(&self) -> u32 {
        self.gpus
    }

    fn serves_both_roles(&self) -> bool {
        self.serves_both_roles
    }

    fn expected_launch(&self, _: &Launch) -> Duration {
        Duration::from_secs(40)
    }

    fn expected_measure(&self, _: &Launch, _: &Probe) -> Duration {
        Duration::from_secs(10)
    }

    async fn launch(&self, launch: &Launch) -> Result<Box<dyn Engine>, Failure> {
        tokio::time::sleep(Duration::from_secs(40)).await;
        match next(&self.fates.launches) {
            Some(cause) => Err(Failure {
                candidate: launch.id,
                class: FailureClass::Launch,
                cause: Some(cause),
                probe: None,
                reason: format!("launch after {} failures", launch.failed),
            }),
            None => Ok(Box::new(MoodyEngine { facts: facts(launch.id), fates: Arc::clone(&self.fates) })),
        }
    }

    async fn apply(&self, _: &ApplyRequest) -> Result<Box<dyn Deployment>, ApplyError> {
        Err(ApplyError::Invalid("no".to_owned()))
    }
}

fn facts(candidate: CandidateId) -> EngineFacts {
    EngineFacts { candidate, kv_tokens: 1000, max_running: 8, launch_s: 40.0, kv_sources: Vec::new() }
}

struct MoodyEngine {
    facts: EngineFacts,
    fates: Arc<Fates>,
}

#[async_trait]
impl Engine for MoodyEngine {
    fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    async fn measure(&mut self, _: Role, probe: &Probe, _: Aim) -> Result<Measurement, Failure> {
        tokio::time::sleep(Duration::from_secs(10)).await;
        if next(&self.fates.crashes) {
            return Err(Failure {
                candidate: probe.candidate,
                class: FailureClass::Crash,
                cause: None,
                probe: None,
                reason: "exit code 139".to_owned(),
            });
        }
        Ok(Measurement {
            candidate: probe.candidate,
            isl: probe.isl,
            osl: probe.osl,
            concurrency: probe.concurrency,
            concurrency_seen: 1.0,
            ttft_ms: None,
            itl_ms: None,
            samples: 1,
            failed_requests: 0,
            input_tokens_per_second_per_gpu: 1.0,
            output_tokens_per_second_per_gpu: 1.0,
            kv_usage: 0.0,
            kv_usage_nominal: 0.0,
            duration_s: 10.0,
        })
    }

    fn log(&self) -> String {
        String::new()
    }

    async fn shutdown(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Record>>>);

impl Observer for Seen {
    fn on(&mut self, record: &Record, _: &crate::domain::History) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record.clone());
    }
}

struct World {
    scheduler: Scheduler,
    recorder: Recorder,
    seen: Seen,
    stop: Arc<AtomicBool>,
}

impl World {
    fn new(launches: &[Option<FailureCause>], crashes: &[bool], past: &[Record]) -> Self {
        let fates = Fates { launches: Mutex::new(launches.to_vec()), crashes: Mutex::new(crashes.to_vec()) };
        Self::on(Moody { fates: Arc::new(fates), gpus: 1, serves_both_roles: true }, &[Mapping::tensor(1)], past)
    }

    /// Candidates are each mapping for prefill, then for decode, and so on.
    fn on(cluster: Moody, mappings: &[Mapping], past: &[Record]) -> Self {
        use crate::domain::samples::{h100, hardware, job, llama_8b_fp8};
        let job = job(llama_8b_fp8(), hardware(h100(), cluster.gpus));
        let both = mappings.iter().flat_map(|mapping| Role::ALL.map(|role| (role, *mapping)));
        let candidates: Vec<Candidate> = both
            .map(|(role, mapping)| Candidate { role, mapping, prior: search_space::prior(&job, role, &mapping) })
            .collect();
        let seen = Seen::default();
        let recorder = Recorder::new(None, past, vec![Box::new(seen.clone())]);
        let stop = Arc::new(AtomicBool::new(false));
        let cluster = Arc::new(cluster);
        let scheduler = Scheduler::new(cluster, candidates, recorder.clone(), None, Arc::clone(&stop));
        Self { scheduler, recorder, seen, stop }
    }

    async fn measure(&self, concurrencies: &[u32]) -> Result<(), Halt> {
        let probes: Vec<Probe> = concurrencies.iter().map(|concurrency| probe(0, *concurrency)).collect();
        self.scheduler.measure(Phase::PrefillSweep, &probes).await
    }

    fn records(&self) -> Vec<Record> {
        self.seen.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn names(&self) -> Vec<&'static str> {
        let name = |record: &Record| match &record.event {
            Event::Launching { .. } => "launching",
            Event::Launched { .. } => "launched",
            Event::Retrying { .. } => "retrying",
            Event::Measuring { .. } => "measuring",
            Event::Measured { .. } => "measured",
            Event::Failed { .. } => "failed",
            Event::Released { .. } => "released",
            Event::Joined { .. } => "joined",
            _ => "other",
        };
        self.records().iter().map(name).collect()
    }
}

const fn probe(candidate: CandidateId, concurrency: u32) -> Probe {
    Probe { candidate, isl: 100, osl: 10, concurrency, relative_precision: 0.1, max_samples: 10 }
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_is_evicted_is_tried_again_after_a_pause_and_policies_are_not_told() {
    let world = World::new(&[Some(FailureCause::Evicted)], &[], &[]);
    world.measure(&[1]).await.unwrap();
    assert_eq!(world.names(), ["launching", "retrying", "launching", "launched", "measuring", "measured"]);
    let records = world.records();
    assert_eq!(records[2].at_s - records[1].at_s, 30.0);
    let history = world.recorder.history();
    assert!(history.failures.is_empty() && history.measurements.len() == 1);
    world.scheduler.retain(&[]).await.unwrap();
    let usage = world.scheduler.usage();
    assert_eq!((usage.launches, usage.gpu_seconds), (2, 90.0), "the pause costs nothing, the launch in vain does");
}

#[tokio::test(start_paused = true)]
async fn the_last_word_says_how_often_it_was_tried_and_holds_for_the_other_role_too() {
    let world = World::new(&[Some(FailureCause::GpusTaken); 9], &[], &[]);
    world.measure(&[1]).await.unwrap();
    world.scheduler.measure(Phase::DecodeSweep, &[probe(1, 1)]).await.unwrap();
    let failures = world.recorder.history().failures;
    assert_eq!(failures.len(), 2);
    assert!(failures[0].reason.ends_with("launch after 2 failures; tried 3 times"), "{}", failures[0].reason);
    assert_eq!(failures[1].reason, failures[0].reason);
    assert_eq!(world.names().iter().filter(|name| **name == "launching").count(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_is_not_tried_again() {
    let world = World::new(&[Some(FailureCause::ImageMissing)], &[], &[]);
    world.measure(&[1]).await.unwrap();
    assert_eq!(world.names(), ["launching", "failed"]);
    assert_eq!(world.recorder.history().failures[0].reason, "launch after 0 failures");
}

#[tokio::test(start_paused = true)]
async fn after_a_first_crash_in_use_what_is_left_is_measured_on_a_new_engine_and_a_second_one_ends_it() {
    let world = World::new(&[], &[false, true], &[]);
    world.measure(&[1, 2, 3]).await.unwrap();
    let wanted = [
        "launching",
        "launched",
        "measuring",
        "measured",
        "measuring",
        "retrying",
        "released",
        "launching",
        "launched",
        "measuring",
        "measured",
        "measuring",
        "measured",
    ];
    assert_eq!(world.names(), wanted);
    assert_eq!(world.recorder.history().measurements.len(), 3);

    let world = World::new(&[], &[false, true, true], &[]);
    world.measure(&[1, 2, 3]).await.unwrap();
    let history = world.recorder.history();
    assert_eq!((history.measurements.len(), history.failures.len()), (1, 1));
    assert_eq!(history.failures[0].reason, "exit code 139; tried 2 times");
}

#[tokio::test(start_paused = true)]
async fn both_roles_wait_for_the_same_engine_through_its_pause() {
    let world = World::new(&[Some(FailureCause::Registry)], &[], &[]);
    let (prefill, decode) = ([probe(0, 1)], [probe(1, 1)]);
    let (one, other) = tokio::join!(
        world.scheduler.measure(Phase::PrefillSweep, &prefill),
        world.scheduler.measure(Phase::DecodeSweep, &decode)
    );
    one.and(other).unwrap();
    let names = world.names();
    assert_eq!(names.iter().filter(|name| **name == "launching").count(), 2, "{names:?}");
    assert_eq!(world.recorder.history().measurements.len(), 2);
}

/// Two GPUs for engines of one and of two, of both roles: whoever waits for GPUs gets those of engines that nobody waits for.
#[tokio::test(start_paused = true)]
async fn on_few_gpus_both_roles_get_through() {
    for (serves_both_roles, launches) in [(false, 4), (true, 2)] {
        let cluster = Moody { fates: Arc::default(), gpus: 2, serves_both_roles };
        let world = World::on(cluster, &[Mapping::tensor(1), Mapping::tensor(2)], &[]);
        let scheduler = &world.scheduler;
        let sweep = |role, phase, candidates: [CandidateId; 2]| async move {
            scheduler.measure(phase, &candidates.map(|candidate| probe(candidate, 1))).await?;
            scheduler.finished(role).await
        };
        let both = futures::future::join(
            sweep(Role::Prefill, Phase::PrefillSweep, [0, 2]),
            sweep(Role::Decode, Phase::DecodeSweep, [1, 3]),
        );
        let (prefill, decode) = tokio::time::timeout(Duration::from_secs(3600), both).await.expect("it ends");
        prefill.and(decode).unwrap();
        assert_eq!(world.recorder.history().measurements.len(), 4);
        assert_eq!(scheduler.usage().launches, launches, "shared: {serves_both_roles}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_stop_ends_the_pause_at_once() {
    let world = World::new(&[Some(FailureCause::NodeLost)], &[], &[]);
    let started = Instant::now();
    let stopping = async {
        tokio::time::sleep(Duration::from_secs(50)).await;
        world.stop.store(true, Ordering::Relaxed);
    };
    let (measured, ()) = tokio::join!(world.measure(&[1]), stopping);
    assert!(matches!(measured, Err(Halt::Interrupted)));
    assert!(started.elapsed() < Duration::from_secs(51), "{:?}", started.elapsed());
    assert!(world.recorder.history().failures.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_resumed_does_not_begin_to_count_anew() {
    let world = World::new(&[Some(FailureCause::GpusTaken); 9], &[], &[]);
    world.measure(&[1]).await.unwrap();
    let all = world.records();
    let undisturbed = world.recorder.history().failures;
    for cut in 1..all.len() {
        let resumed = World::new(&[Some(FailureCause::GpusTaken); 9], &[], &all[..cut]);
        resumed.measure(&[1]).await.unwrap();
        assert_eq!(resumed.recorder.history().failures, undisturbed, "cut after {cut} records");
    }
}

/// What one role's strategy asks for, batch after batch: places in its list of candidates.
type Asked = Vec<Vec<usize>>;

fn asked() -> impl Strategy<Value = Asked> {
    prop::collection::vec(prop::collection::vec(0..3_usize, 1..4), 1..5)
}

fn fates() -> impl Strategy<Value = Fates> {
    let cause = prop::option::weighted(
        0.3,
        prop::sample::select(vec![FailureCause::Evicted, FailureCause::Registry, FailureCause::ImageMissing]),
    );
    let launches = prop::collection::vec(cause, 0..8);
    let crashes = prop::collection::vec(prop::bool::weighted(0.15), 0..12);
    (launches, crashes).prop_map(|(launches, crashes)| Fates { launches: launches.into(), crashes: crashes.into() })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A scheduler that waits for what never comes would hold its GPUs for ever.
    #[test]
    fn every_batch_ends_settles_its_points_and_gives_all_gpus_back(
        fates in fates(),
        gpus in prop::sample::select(vec![1, 2, 4, 8]),
        serves_both_roles: bool,
        both in [asked(), asked()],
        most in (1..4_usize, 1..3_usize),
        likely in prop::collection::vec(0..6_u32, 0..3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let cluster = Moody { fates: Arc::new(fates), gpus, serves_both_roles };
            let mappings = [1, 2, 4].map(Mapping::tensor);
            let mut world = World::on(cluster, &mappings, &[]);
            world.scheduler.scheduling = Scheduling { most_engines: most.0, most_launches: most.1 };
            let scheduler = &world.scheduler;
            scheduler.expect_winners(likely);
            // Each batch has points of its own.
            let batch = |role: usize, number: usize, places: &[usize]| -> Vec<Probe> {
                places.iter().map(|place| probe((2 * place + role) as CandidateId, 1 + number as u32)).collect()
            };
            let sweep = |role: usize, asked: Asked| async move {
                let phase = [Phase::PrefillSweep, Phase::DecodeSweep][role];
                for (number, places) in asked.iter().enumerate() {
                    scheduler.measure(phase, &batch(role, number, places)).await.unwrap();
                }
                scheduler.finished(Role::ALL[role]).await.unwrap();
            };
            let [prefill, decode] = both.clone();
            let sweeps = futures::future::join(sweep(0, prefill), sweep(1, decode));
            tokio::time::timeout(Duration::from_secs(7 * 86_400), sweeps).await.expect("it ends");
            let history = world.recorder.history();
            for (role, asked) in both.iter().enumerate() {
                let probes = asked.iter().enumerate().flat_map(|(number, places)| batch(role, number, places));
                probes.for_each(|probe| assert!(history.is_settled(&probe), "{probe:?}"));
            }
            scheduler.retain(&[]).await.unwrap();
            let pool = scheduler.pool();
            assert_eq!((pool.engines(), pool.nodes.clone().take(gpus).is_some()), (0, true));
        });
    }
}
