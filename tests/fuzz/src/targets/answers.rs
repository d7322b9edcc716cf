//! Bytes as a guest's answer: through wasmtime's reading of the guest's memory, our conversions and checks. What comes
//! out is a decision that the host could have made itself, or an error of the guest.
//!
//! One guest per kind is compiled once. It finds the input in a column of the tables that it is given, copies it to
//! [`BASE`] and returns that as its answer.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::LazyLock;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sla_profiler::domain::{
    Candidate, Choice, CurveGoal, Demand, EngineFacts, Goal, History, Job, Measurement, Plan, Role, Selection, Step,
};
use sla_profiler::plugin::api::{Decided, Kind, PlannedEngine, PlannerModel, SelectionPolicy, SweepStrategy};
use sla_profiler::plugin::{CallProblem, Compiler, HostOptions, Limits, PluginError, PluginHost, Problem};
use sla_profiler::spec::{PluginChoice, PluginSource};
use sla_profiler_tests::{fixtures, guests};

use super::layout::{self, WORDS};
use crate::{Target, signal};

/// Marks the column with the input.
const MAGIC: u32 = 0x5eed_f00d;

/// Longest sentence, and longest binding, that a decision holds, in characters.
const MAX_SENTENCE: usize = 400;
const MAX_BINDING: usize = 40;

pub const SWEEP: Target = Target {
    name: "sweep-answer",
    about: "whatever memory a sweep strategy returns, it is a step that can be measured, or an error",
    seeds: layout::seeds,
    run: |data| {
        check(HOST.sweep.next(&WORLD.job, goal(data), &WORLD.candidates, &told(layout::step(data))), |step| {
            good_step(step, goal(data));
        })
    },
};

pub const SELECTION: Target = Target {
    name: "selection-answer",
    about: "whatever memory a selection policy returns, it is a ranking of the candidates, or an error",
    seeds: layout::seeds,
    run: |data| {
        check(HOST.selection.select(&WORLD.job, &WORLD.candidates, &told(layout::selection(data))), good_selection);
    },
};

pub const PLANNER: Target = Target {
    name: "planner-answer",
    about: "whatever memory a planner model returns, it is a plan within the budget, or an error",
    seeds: layout::seeds,
    run: |data| {
        let row = |word: u32| Measurement {
            candidate: word,
            isl: word,
            osl: word,
            concurrency: word,
            samples: word,
            failed_requests: word,
            ..fixtures::measurement(0, Role::Prefill, 1, 1, 1.0)
        };
        let rows: Vec<Measurement> = column(layout::plan(data)).map(row).collect();
        let engine = |id: usize| PlannedEngine {
            candidate: WORLD.candidates.get(id).expect("four candidates"),
            facts: &WORLD.facts,
            concurrency: 8,
            curve: rows.iter().collect(),
        };
        let demand = Demand::RequestsPerSecond(5.0);
        check(HOST.planner.plan(&WORLD.job, &engine(0), &engine(3), demand), good_plan);
    },
};

struct Host {
    sweep: Box<dyn SweepStrategy>,
    selection: Box<dyn SelectionPolicy>,
    planner: Box<dyn PlannerModel>,
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let limits = Limits { fuel: 10_000_000, deadline_ms: 20_000, returned_bytes: 1 << 20, ..Limits::default() };
    let options = HostOptions { cache: None, limits, store: None, compiler: Compiler::Here };
    let host = PluginHost::new(options).expect("wasmtime runs here");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let guest = |kind, export: &str| {
        let file = folder.path().join("guest.wasm");
        std::fs::write(&file, guests::component(kind, &guest(export))).expect("writable");
        PluginChoice::new(PluginSource::File(file))
    };
    let loads = "the guest is a good one";
    Host {
        sweep: host.sweep(&guest(Kind::SweepStrategy, "sla-profiler:sweep/strategy@0.1.0#next")).expect(loads),
        selection: host
            .selection(&guest(Kind::SelectionPolicy, "sla-profiler:selection/policy@0.1.0#select"))
            .expect(loads),
        planner: host.planner(&guest(Kind::PlannerModel, "sla-profiler:planner/model@0.1.0#plan")).expect(loads),
    }
});

struct World {
    job: Job,
    candidates: Vec<Candidate>,
    history: History,
    facts: EngineFacts,
}

static WORLD: LazyLock<World> = LazyLock::new(|| World {
    job: fixtures::job(),
    candidates: fixtures::candidates(),
    history: fixtures::history(),
    facts: fixtures::facts(0),
});

/// A guest that answers with what stands behind the magic word in what it is given.
fn guest(export: &str) -> String {
    let (base, bytes) = (layout::BASE, WORDS * 4);
    format!(
        "(func (export \"{export}\") (param i32) (result i32) (local $at i32)
           (local.set $at (i32.const 1048576))
           (loop $search
             (if (i32.ne (i32.load (local.get $at)) (i32.const {MAGIC}))
               (then (local.set $at (i32.add (local.get $at) (i32.const 4))) (br $search))))
           (memory.copy (i32.const {base}) (i32.add (local.get $at) (i32.const 4)) (i32.const {bytes}))
           (i32.const {base}))"
    )
}

fn column(words: [u32; WORDS]) -> impl Iterator<Item = u32> {
    std::iter::once(MAGIC).chain(words)
}

/// The history, with the words in columns of the engines' facts.
fn told(words: [u32; WORDS]) -> History {
    let fact = |word| EngineFacts { kv_tokens: word, max_running: word, ..fixtures::facts(word) };
    History { facts: column(words).map(fact).collect(), ..WORLD.history.clone() }
}

/// What the sweep is for, by the input's last byte.
fn goal(data: &[u8]) -> &'static Goal {
    const CURVE: CurveGoal = CurveGoal { candidate: 2, min_isl: 1, max_isl: 4000, concurrency: 8 };
    match data.last().map_or(0, |byte| byte % 4) {
        0 => &Goal::Decode,
        1 => &Goal::Prefill,
        2 => &Goal::DecodeCurve(CURVE),
        _ => &Goal::PrefillCurve(CurveGoal { candidate: 1, ..CURVE }),
    }
}

/// An answer passes the check and survives the journal; an error is the guest's fault, and can be shown.
fn check<T>(answer: Result<Decided<T>, PluginError>, good: impl FnOnce(&T))
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    match answer {
        Ok(Decided { value, .. }) => {
            good(&value);
            let json = serde_json::to_string(&value).expect("a decision can be written");
            let back: T = serde_json::from_str(&json).expect("a decision can be read back");
            assert_eq!(back, value);
            signal::outcome("a decision");
        }
        Err(error) => {
            let Problem::Call { problem, .. } = error.problem() else { panic!("loading failed: {error}") };
            assert!(
                matches!(
                    problem,
                    CallProblem::BadOutput(_) | CallProblem::Returned(_) | CallProblem::TooMuchData { .. }
                ),
                "the guest does not trap: {problem:?}"
            );
            let text = error.to_string();
            assert!(printable(&text.replace('\n', " "), 2_000), "{text:?}");
            signal::outcome(&problem.to_string());
        }
    }
}

/// One line that does nothing to a terminal.
fn printable(text: &str, chars: usize) -> bool {
    text.chars().count() <= chars && !text.chars().any(char::is_control)
}

fn role_of(candidate: u32) -> Role {
    WORLD.candidates.get(candidate as usize).expect("the candidate exists").role
}

fn good_step(step: &Step, goal: &Goal) {
    let probes = match step {
        Step::Done(reason) => return assert!(printable(reason, MAX_SENTENCE), "{reason:?}"),
        Step::Measure(probes) => probes,
    };
    assert!(!probes.is_empty() && probes.len() <= 10_000);
    let mut points = HashSet::new();
    for probe in probes {
        assert_eq!(role_of(probe.candidate), goal.role(), "{probe:?}");
        if let Goal::PrefillCurve(curve) | Goal::DecodeCurve(curve) = goal {
            assert_eq!(probe.candidate, curve.candidate);
        }
        assert!(probe.isl >= 1 && probe.osl >= 1, "{probe:?}");
        assert!(u64::from(probe.isl) + u64::from(probe.osl) <= u64::from(WORLD.job.max_context_tokens), "{probe:?}");
        assert!((1..=1_000_000).contains(&probe.concurrency), "{probe:?}");
        assert!((1..=1_000_000).contains(&probe.max_samples), "{probe:?}");
        assert!(probe.relative_precision >= 0.0 && probe.relative_precision < f64::INFINITY, "{probe:?}");
        assert!(points.insert((probe.candidate, probe.isl, probe.osl, probe.concurrency)), "twice: {probe:?}");
    }
    let known = |p: &sla_profiler::domain::Probe| WORLD.history.measurements.iter().any(|m| m.point() == p.point());
    assert!(!probes.iter().all(known), "nothing new, for ever: {probes:?}");
}

fn good_selection(selection: &Selection) {
    for role in Role::ALL {
        let mut seen = HashSet::new();
        for Choice { candidate, concurrency, score, reason, binding, .. } in selection.ranking(role) {
            assert_eq!(role_of(*candidate), role);
            assert!(seen.insert(candidate), "candidate {candidate} twice");
            assert!((1..=1_000_000).contains(concurrency), "{concurrency}");
            assert!(score.is_finite());
            assert!(printable(reason, MAX_SENTENCE) && printable(binding, MAX_BINDING), "{reason:?} {binding:?}");
        }
    }
    assert!(selection.notes.len() <= 100 && selection.notes.iter().all(|note| printable(note, MAX_SENTENCE)));
}

fn good_plan(plan: &Plan) {
    // Candidates 0 and 3 have 1 and 2 GPUs, the budget is 8.
    assert!(plan.prefill_replicas >= 1 && plan.decode_replicas >= 1);
    assert!(u64::from(plan.prefill_replicas) + 2 * u64::from(plan.decode_replicas) <= 8, "{plan:?}");
    let figures = [
        plan.capacity_requests_per_second,
        plan.prefill_requests_per_second,
        plan.decode_requests_per_second,
        plan.expected_ttft_ms,
        plan.expected_itl_ms,
    ];
    assert!(figures.iter().all(|figure| *figure >= 0.0 && *figure < f64::INFINITY), "{plan:?}");
    assert!(plan.decode_concurrency <= 1_000_000);
    assert!(plan.assumptions.len() <= 100 && plan.assumptions.iter().all(|text| printable(text, MAX_SENTENCE)));
}
