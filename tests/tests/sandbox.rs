//! Hostile and broken plugins: each limit is met, each broken file is told apart, and the host goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::path::PathBuf;

use sla_profiler::domain::{CurveGoal, Demand, Goal, History, Plan, Selection, Step};
use sla_profiler::plugin::api::{Decided, Kind, PlannedEngine};
use sla_profiler::plugin::{CallProblem, HostOptions, Limits, LoadProblem, PluginError, PluginHost, Problem, Returned};
use sla_profiler::spec::{PluginChoice, PluginSource};
use sla_profiler_tests::fixtures::{candidates, facts, history, job, measurement};
use sla_profiler_tests::guests::{self, Contract, Probe};

/// Small enough that every limit is met at once.
fn limits() -> Limits {
    Limits {
        fuel: 50_000_000,
        memory_bytes: 64 << 20,
        table_elements: 10_000,
        returned_bytes: 1 << 20,
        log_lines: 10,
        ..Limits::default()
    }
}

/// A host, and a folder for the files that it loads.
struct Bench {
    host: PluginHost,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(limits())
    }

    fn with(limits: Limits) -> Self {
        let host = PluginHost::new(HostOptions { cache: None, limits, ..HostOptions::default() }).unwrap();
        Self { host, dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self, wasm: &[u8]) -> PathBuf {
        let path = self.dir.path().join("guest.wasm");
        std::fs::write(&path, wasm).unwrap();
        path
    }

    fn choice(&self, wasm: &[u8]) -> PluginChoice {
        PluginChoice::new(PluginSource::File(self.file(wasm)))
    }

    fn next_for(&self, wasm: &[u8], goal: &Goal) -> Result<Decided<Step>, PluginError> {
        self.host.sweep(&self.choice(wasm))?.next(&job(), goal, &candidates(), &history())
    }

    fn next(&self, wasm: &[u8]) -> Result<Decided<Step>, PluginError> {
        self.next_for(wasm, &Goal::Decode)
    }

    fn select(&self, wasm: &[u8]) -> Result<Selection, PluginError> {
        let policy = self.host.selection(&self.choice(wasm))?;
        Ok(policy.select(&job(), &candidates(), &history())?.value)
    }

    fn plan(&self, wasm: &[u8]) -> Result<Plan, PluginError> {
        let (all, history) = (candidates(), history());
        let (prefill_facts, decode_facts) = (facts(0), facts(2));
        let engine = |index: usize, facts| PlannedEngine {
            candidate: &all[index],
            facts,
            concurrency: 1,
            curve: history.measurements_of(u32::try_from(index).unwrap()).collect(),
        };
        let planner = self.host.planner(&self.choice(wasm))?;
        Ok(planner.plan(&job(), &engine(0, &prefill_facts), &engine(2, &decode_facts), Demand::Budget)?.value)
    }

    /// The call fails, is a failed call and no broken file, and the host serves the next plugin as if nothing had been.
    fn fails(&self, wasm: &[u8]) -> CallProblem {
        let error = self.next(wasm).expect_err("the guest is hostile");
        assert!(!error.is_load(), "{error}");
        assert!(error.to_string().starts_with("sweep strategy `guest` 0.0.1 ("), "names the plugin: {error}");
        self.still_serves();
        match error.problem() {
            Problem::Call { export: "next", problem, .. } => problem.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// The file is refused when it is loaded.
    fn refuses(&self, wasm: &[u8]) -> PluginError {
        let Err(error) = self.host.load(Kind::SweepStrategy, &self.choice(wasm)) else { panic!("was loaded") };
        assert!(error.is_load(), "{error}");
        assert!(error.to_string().contains("guest.wasm"), "names the file: {error}");
        self.still_serves();
        error
    }

    fn still_serves(&self) {
        let step = self.next(&guests::sweep("done")).expect("a good guest works").value;
        assert_eq!(step, Step::Done("enough".into()));
    }
}

fn load_problem(error: &PluginError) -> &LoadProblem {
    match error.problem() {
        Problem::Load(problem) => problem,
        Problem::Call { .. } => panic!("{error}"),
    }
}

fn bad_output(error: &PluginError) -> &str {
    match error.problem() {
        Problem::Call { problem: CallProblem::BadOutput(why), .. } => why,
        other => panic!("{other:?}"),
    }
}

// Limits of a call.

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    let problem = Bench::new().fails(&guests::sweep("endless-loop"));
    assert_eq!(problem, CallProblem::OutOfFuel { limit: 50_000_000 });
}

#[test]
fn an_endless_loop_with_endless_fuel_meets_the_deadline() {
    let bench = Bench::with(Limits { fuel: u64::MAX, deadline_ms: 50, ..limits() });
    let problem = bench.fails(&guests::sweep("endless-loop"));
    assert!(matches!(problem, CallProblem::Deadline { limit } if limit.as_millis() == 50), "{problem}");
}

#[test]
fn a_flood_of_host_calls_meets_the_deadline() {
    let bench = Bench::with(Limits { fuel: u64::MAX, deadline_ms: 50, ..limits() });
    assert!(matches!(bench.fails(&guests::sweep("endless-log")), CallProblem::Deadline { .. }));
}

#[test]
fn a_guest_that_only_moves_memory_meets_the_deadline() {
    let bench = Bench::with(Limits { fuel: u64::MAX, deadline_ms: 50, ..limits() });
    assert!(matches!(bench.fails(&guests::sweep("bulk-fill")), CallProblem::Deadline { .. }));
}

#[test]
fn large_log_lines_in_masses_are_bounded() {
    let bench = Bench::with(Limits { fuel: u64::MAX, deadline_ms: 50, ..limits() });
    let problem = bench.fails(&guests::sweep("log-overlapping"));
    assert!(matches!(problem, CallProblem::Deadline { .. } | CallProblem::TooMuchData { .. }), "{problem:?}");
}

#[test]
fn tidying_up_that_never_ends_runs_out_of_fuel() {
    assert!(matches!(Bench::new().fails(&guests::sweep("endless-cleanup")), CallProblem::OutOfFuel { .. }));
}

#[test]
fn a_flood_of_host_calls_while_starting_up_is_a_plugin_that_cannot_be_loaded() {
    let error = Bench::with(Limits { fuel: 1_000_000, ..limits() }).refuses(&guests::sweep("log-at-start"));
    assert!(matches!(error.problem(), Problem::Call { export: "describe", .. }), "{error}");
}

#[test]
fn an_allocator_that_never_answers_runs_out_of_fuel() {
    assert!(matches!(Bench::new().fails(&guests::sweep("realloc-loops")), CallProblem::OutOfFuel { .. }));
}

#[test]
fn a_loop_while_starting_up_runs_out_of_fuel() {
    let error = Bench::new().refuses(&guests::sweep("endless-start"));
    assert!(matches!(error.problem(), Problem::Call { problem: CallProblem::OutOfFuel { .. }, .. }), "{error}");
}

#[test]
fn a_trap_while_starting_up_is_a_plugin_that_cannot_be_loaded() {
    let next = "(func (export \"sla-profiler:sweep/strategy@0.1.0#next\") (param i32) (result i32) (i32.const 4096))";
    let body = format!("(func $trap unreachable)\n(start $trap)\n{next}");
    let error = Bench::new().refuses(&guests::component(Kind::SweepStrategy, &body));
    assert!(matches!(error.problem(), Problem::Call { problem: CallProblem::Trap { .. }, .. }), "{error}");
}

#[test]
fn a_describe_that_does_not_end_is_a_plugin_that_cannot_be_loaded() {
    let error = Bench::new().refuses(&guests::sweep("describe-loop"));
    assert!(matches!(
        error.problem(),
        Problem::Call { export: "describe", problem: CallProblem::OutOfFuel { .. }, .. }
    ));

    let bench = Bench::with(Limits { fuel: u64::MAX, describe_deadline_ms: 50, ..limits() });
    let error = bench.refuses(&guests::sweep("describe-loop"));
    assert!(matches!(error.problem(), Problem::Call { problem: CallProblem::Deadline { .. }, .. }), "{error}");
}

#[test]
fn memory_stops_at_its_limit() {
    let problem = Bench::new().fails(&guests::sweep("memory-bomb"));
    assert!(matches!(problem, CallProblem::Memory { asked, limit } if asked > limit && limit == 64 << 20), "{problem}");
}

#[test]
fn a_plugin_that_copes_without_more_memory_may_answer() {
    let decided = Bench::new().next(&guests::sweep("memory-polite")).unwrap();
    assert_eq!(decided.value, Step::Done("full".into()));
    assert_eq!(decided.cost.peak_memory_bytes, 64 << 20, "what was refused does not count");
}

#[test]
fn memory_that_is_too_large_from_the_start_is_refused_at_load() {
    let error = Bench::new().refuses(&guests::sweep("memory-at-start"));
    let expected = CallProblem::Memory { asked: 1 << 30, limit: 64 << 20 };
    assert!(matches!(error.problem(), Problem::Call { problem, .. } if *problem == expected), "{error}");
}

#[test]
fn tables_stop_at_their_limit() {
    let problem = Bench::new().fails(&guests::sweep("table-bomb"));
    assert!(matches!(problem, CallProblem::Table { asked, limit } if asked > limit && limit == 10_000), "{problem}");
    let error = Bench::new().refuses(&guests::sweep("table-at-start"));
    assert!(matches!(error.problem(), Problem::Call { problem: CallProblem::Table { asked: 10_000_000.., .. }, .. }));
}

#[test]
fn instances_and_memories_are_counted() {
    for limits in [Limits { instances: 0, ..limits() }, Limits { memories: 0, ..limits() }] {
        let bench = Bench::with(limits);
        let error = bench.next(&guests::sweep("done")).expect_err("not even one");
        assert!(matches!(error.problem(), Problem::Call { problem: CallProblem::Parts { .. }, .. }), "{error}");
    }
}

#[test]
fn recursion_stops_at_the_stack_limit() {
    assert_eq!(Bench::new().fails(&guests::sweep("recursion")), CallProblem::Stack { limit: 512 << 10 });
}

#[test]
fn a_huge_answer_is_not_copied() {
    let problem = Bench::new().fails(&guests::sweep("huge-list"));
    assert_eq!(problem, CallProblem::TooMuchData { limit: 1 << 20 });
}

#[test]
fn strings_that_lie_on_each_other_are_counted_each_time() {
    let error = Bench::new().select(&guests::repeats_a_note(100_000)).expect_err("100 GB");
    assert!(matches!(error.problem(), Problem::Call { problem: CallProblem::TooMuchData { .. }, .. }), "{error}");
}

#[test]
fn a_huge_description_is_not_copied() {
    let error = Bench::new().refuses(&guests::sweep("describe-settings"));
    assert!(matches!(error.problem(), Problem::Call { problem: CallProblem::TooMuchData { .. }, .. }), "{error}");
}

#[test]
fn a_huge_log_line_is_not_copied() {
    let problem = Bench::new().fails(&guests::sweep("log-huge-line"));
    assert_eq!(problem, CallProblem::TooMuchData { limit: 1 << 20 });
}

#[test]
fn a_log_flood_is_bounded_and_the_panic_message_at_its_end_is_kept() {
    let bench = Bench::new();
    let error = bench.next(&guests::sweep("log-flood")).expect_err("it panics");
    assert!(error.log().len() <= 8, "{}", error.log().len());
    let text = error.to_string();
    assert!(text.ends_with("panicked at lib.rs:3: [31mindex out of bounds"), "in one line, no escape: {text:?}");
    bench.still_serves();
}

// Crashes.

#[test]
fn a_crash_costs_one_call() {
    for (name, words) in
        [("trap", "unreachable"), ("divide-by-zero", "divide by zero"), ("wild-pointer", "out of bounds")]
    {
        let problem = Bench::new().fails(&guests::sweep(name));
        assert!(matches!(&problem, CallProblem::Trap { message } if message.contains(words)), "{name}: {problem}");
    }
}

#[test]
fn answers_that_are_no_values_of_their_types_are_errors() {
    let guests = [
        "list-past-the-end",
        "result-past-the-end",
        "unknown-case",
        "not-utf8",
        "log-past-the-end",
        "log-unknown-level",
        "realloc-lies",
    ];
    for name in guests {
        let problem = Bench::new().fails(&guests::sweep(name));
        assert!(matches!(problem, CallProblem::BadOutput(_)), "{name}: {problem:?}");
    }
}

#[test]
fn a_plugins_own_error_is_shown_in_one_line() {
    let problem = Bench::new().fails(&guests::sweep("bad-setting"));
    assert_eq!(problem, CallProblem::Returned(Returned::BadSetting("depth must be a number".into())));
}

// Determinism.

#[test]
fn a_plugin_remembers_nothing_between_calls() {
    let bench = Bench::new();
    let sweep = bench.host.sweep(&bench.choice(&guests::sweep("remembers"))).unwrap();
    for _ in 0..3 {
        let step = sweep.next(&job(), &Goal::Decode, &candidates(), &history()).unwrap().value;
        assert_eq!(step, Step::Done("x".into()), "each call is the first");
    }
}

#[test]
fn the_same_call_costs_the_same_fuel_in_every_host() {
    let wasm = guests::sweep("memory-polite");
    let cost = |bench: &Bench| bench.next(&wasm).unwrap().cost.fuel;
    let (one, other) = (Bench::new(), Bench::new());
    let fuel = cost(&one);
    assert!(fuel > 0);
    assert_eq!([cost(&one), cost(&other)], [fuel, fuel]);
}

// Answers that break the contract.

const GOOD: Probe =
    Probe { candidate: 2, isl: 3000, osl: 150, concurrency: 8, relative_precision: "0.05", max_samples: 100 };

#[test]
fn a_good_step_arrives_as_it_was_sent_and_without_duplicates() {
    let other = Probe { concurrency: 16, ..GOOD };
    let step = Bench::new().next(&guests::measures(&[GOOD, other, GOOD])).unwrap().value;
    let Step::Measure(probes) = step else { panic!("{step:?}") };
    assert_eq!(probes.iter().map(|p| p.point()).collect::<Vec<_>>(), [(2, 3000, 150, 8), (2, 3000, 150, 16)]);
    assert_eq!((probes[0].relative_precision, probes[0].max_samples), (0.05, 100));
}

#[test]
fn points_that_cannot_be_measured_are_refused_with_the_reason() {
    let cases = [
        (Probe { candidate: 4, ..GOOD }, "candidate 4 does not exist; there are 4"),
        (Probe { candidate: u32::MAX, ..GOOD }, "does not exist"),
        (Probe { candidate: 0, ..GOOD }, "candidate 0 is a prefill candidate; decode is wanted"),
        (Probe { isl: 0, ..GOOD }, "must be at least 1"),
        (Probe { osl: 0, ..GOOD }, "must be at least 1"),
        (Probe { isl: 8100, ..GOOD }, "make 8250 tokens; the deployment admits 8192"),
        (Probe { isl: u32::MAX, osl: u32::MAX, ..GOOD }, "make 8589934590 tokens"),
        (Probe { concurrency: 0, ..GOOD }, "concurrency 0"),
        (Probe { concurrency: u32::MAX, ..GOOD }, "concurrency 4294967295"),
        (Probe { relative_precision: "nan", ..GOOD }, "relative-precision NaN"),
        (Probe { relative_precision: "inf", ..GOOD }, "relative-precision inf"),
        (Probe { relative_precision: "-0.1", ..GOOD }, "relative-precision -0.1"),
        (Probe { max_samples: 0, ..GOOD }, "max-samples 0"),
        (Probe { max_samples: u32::MAX, ..GOOD }, "max-samples 4294967295"),
    ];
    let bench = Bench::new();
    for (probe, words) in cases {
        let error = bench.next(&guests::measures(&[GOOD, probe])).expect_err(words);
        let why = bad_output(&error);
        assert!(why.starts_with("point 1 of the step: ") && why.contains(words), "{words}: {why}");
    }
    bench.still_serves();
}

#[test]
fn a_curve_is_drawn_of_its_own_engine_only() {
    let goal = Goal::DecodeCurve(CurveGoal { candidate: 3, min_isl: 128, max_isl: 4096, concurrency: 8 });
    let error = Bench::new().next_for(&guests::measures(&[GOOD]), &goal).expect_err("candidate 2");
    assert!(bad_output(&error).contains("the curve of candidate 3 is wanted"), "{error}");
}

#[test]
fn a_step_that_would_go_on_for_ever_is_refused() {
    let bench = Bench::new();
    let known = Probe { isl: 3000, osl: 150, concurrency: 1, ..GOOD };
    for probes in [&[][..], &[known]] {
        let error = bench.next(&guests::measures(probes)).expect_err("nothing new is asked");
        assert!(bad_output(&error).contains("for ever"), "{error}");
    }
    assert!(bench.next(&guests::measures(&[known, GOOD])).is_ok(), "one new point is progress");
}

#[test]
fn a_step_has_a_largest_number_of_points() {
    let probes: Vec<Probe> = (1..=10_001).map(|concurrency| Probe { concurrency, ..GOOD }).collect();
    let bench = Bench::new();
    assert!(bench.next(&guests::measures(&probes[1..])).is_ok());
    let error = bench.next(&guests::measures(&probes)).expect_err("one too many");
    assert!(bad_output(&error).contains("10001 points"), "{error}");
}

#[test]
fn a_good_selection_arrives_as_it_was_sent() {
    let selection = Bench::new().select(&guests::ranks(&[(1, 1, "2"), (0, 1, "-1.5")], &[(3, 8, "0")])).unwrap();
    let order = |choices: &[sla_profiler::domain::Choice]| {
        choices.iter().map(|c| (c.candidate, c.concurrency, c.score)).collect::<Vec<_>>()
    };
    assert_eq!(order(&selection.prefill), [(1, 1, 2.0), (0, 1, -1.5)]);
    assert_eq!(order(&selection.decode), [(3, 8, 0.0)]);
}

#[test]
fn rankings_that_make_no_sense_are_refused_with_the_reason() {
    let bench = Bench::new();
    let good = (2, 8, "1");
    let cases: [(&[guests::Choice], &str); 7] = [
        (&[good, (9, 8, "0")], "place 1 of the decode ranking: candidate 9 does not exist"),
        (&[(0, 8, "0")], "candidate 0 is a prefill candidate; decode is wanted"),
        (&[good, (3, 8, "0"), good], "place 2 of the decode ranking: candidate 2 comes a second time"),
        (&[(2, 8, "nan")], "score NaN"),
        (&[(2, 8, "inf")], "score inf"),
        (&[(2, 0, "1")], "concurrency 0"),
        (&[(2, u32::MAX, "1")], "concurrency 4294967295"),
    ];
    for (decode, words) in cases {
        let error = bench.select(&guests::ranks(&[(0, 1, "1")], decode)).expect_err(words);
        assert!(bad_output(&error).contains(words), "{words}: {error}");
    }
    bench.still_serves();
}

const PLAN: guests::Plan =
    guests::Plan { prefill_replicas: 2, decode_replicas: 3, requests_per_second: "7.5", latency_ms: "12" };

#[test]
fn a_good_plan_arrives_as_it_was_sent() {
    let plan = Bench::new().plan(&guests::plans(PLAN)).unwrap();
    assert_eq!((plan.prefill_replicas, plan.decode_replicas, plan.decode_concurrency), (2, 3, 8));
    assert_eq!((plan.capacity_requests_per_second, plan.expected_itl_ms), (7.5, 12.0));
    assert!(plan.meets_sla && plan.meets_demand);
}

#[test]
fn plans_that_cannot_be_deployed_are_refused_with_the_reason() {
    let cases = [
        (guests::Plan { prefill_replicas: 0, ..PLAN }, "without any prefill engine"),
        (guests::Plan { decode_replicas: 0, ..PLAN }, "without any decode engine"),
        (guests::Plan { decode_replicas: 7, ..PLAN }, "on 9 GPUs; the budget is 8"),
        (guests::Plan { prefill_replicas: u32::MAX, decode_replicas: u32::MAX, ..PLAN }, "8589934590 GPUs"),
        (guests::Plan { requests_per_second: "nan", ..PLAN }, "capacity-requests-per-second NaN"),
        (guests::Plan { requests_per_second: "-1", ..PLAN }, "capacity-requests-per-second -1"),
        (guests::Plan { latency_ms: "inf", ..PLAN }, "expected-ttft-ms inf"),
    ];
    let bench = Bench::new();
    for (plan, words) in cases {
        let error = bench.plan(&guests::plans(plan)).expect_err(words);
        assert!(bad_output(&error).contains(words), "{words}: {error}");
    }
    bench.still_serves();
}

// Files that are no plugin for the place.

#[test]
fn a_file_that_is_not_there_says_so() {
    let bench = Bench::new();
    let choice = PluginChoice::new(PluginSource::File(bench.dir.path().join("none.wasm")));
    let Err(error) = bench.host.load(Kind::SweepStrategy, &choice) else { panic!("there is no file") };
    assert!(matches!(load_problem(&error), LoadProblem::NotFound), "{error}");
}

#[test]
fn files_that_are_no_component_are_told_apart() {
    let bench = Bench::new();
    assert!(matches!(load_problem(&bench.refuses(b"")), LoadProblem::Empty));
    assert!(matches!(load_problem(&bench.refuses(b"apiVersion: v1\n")), LoadProblem::NotWasm));
    let error = bench.refuses(&guests::core_module("done"));
    assert!(matches!(load_problem(&error), LoadProblem::CoreModule));
    assert!(error.hint().unwrap().contains("wasm-component-ld"), "says how to mend it");
    let good = guests::sweep("done");
    assert!(matches!(load_problem(&bench.refuses(&good[..good.len() / 2])), LoadProblem::Malformed(_)));
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let bench = Bench::with(Limits { file_bytes: 100, ..limits() });
    let Err(error) = bench.host.sweep(&bench.choice(&guests::sweep("done"))) else { panic!("too large") };
    assert!(matches!(load_problem(&error), LoadProblem::TooLarge { limit: 100, .. }), "{error}");
}

#[test]
fn a_plugin_of_another_kind_is_named_for_what_it_is() {
    let error = Bench::new().refuses(&guests::plans(PLAN));
    assert!(error.to_string().ends_with("is a planner model, but a sweep strategy is needed here"), "{error}");
    assert_eq!(error.hint().as_deref(), Some("give it with `--planner`"));
}

#[test]
fn a_plugin_of_another_contract_version_names_both() {
    let body = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/guests/done.wat")).unwrap();
    let newer = Contract::default().replacing("@0.1.0", "@0.2.0").component("sweep-strategy", &body);
    let error = Bench::new().refuses(&newer).to_string();
    assert!(error.contains("version 0.2.0") && error.contains("this program speaks 0.1.0"), "{error}");

    let patch = Contract::default().replacing("@0.1.0", "@0.1.7").component("sweep-strategy", &body);
    let step = Bench::new().next(&patch).expect("a patch is compatible").value;
    assert_eq!(step, Step::Done("enough".into()));
}

#[test]
fn a_component_of_some_other_program_is_no_plugin() {
    let other = wat::parse_str(r#"(component (component $c) (export "greet" (component $c)))"#).unwrap();
    let error = Bench::new().refuses(&other);
    assert!(matches!(load_problem(&error), LoadProblem::NotAPlugin { exports } if exports == &["greet"]), "{error}");
}

#[test]
fn every_refused_import_is_named_at_once() {
    let world = "world sweep-strategy {";
    let asking = "world sweep-strategy {
        import clock: interface { now: func() -> u32; }
        import files: interface { read: func(path: string) -> string; }
        import exit: func();";
    let body = r#"
        (import "clock" "now" (func (result i32)))
        (import "files" "read" (func (param i32 i32 i32)))
        (import "$root" "exit" (func))
        (func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32) unreachable)"#;
    // Imports come first in a module.
    let contract = Contract::default().replacing(world, asking);
    let (imports, rest) = body.split_at(body.find("(func (export").unwrap());
    let wasm = contract.component_with_imports("sweep-strategy", imports, rest);
    let error = Bench::new().refuses(&wasm);
    assert!(
        matches!(load_problem(&error), LoadProblem::RefusedImports(names) if names == &["clock", "files", "exit"]),
        "{error}"
    );
}

#[test]
fn exports_with_the_right_names_and_the_wrong_types_do_not_load() {
    let contract = Contract::default().replacing(
        "next: func(job: job, goal: goal, candidates: candidates, history: history) -> result<step, error>;",
        "next: func(answer: u32) -> u32;",
    );
    let body = r#"(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32) (i32.const 42))"#;
    let error = Bench::new().refuses(&contract.component("sweep-strategy", body));
    assert!(matches!(load_problem(&error), LoadProblem::Contract { .. }), "{error}");
}

#[test]
fn a_description_that_would_spoil_a_terminal_is_refused() {
    let error = Bench::new().refuses(&guests::sweep("describe-nonsense"));
    assert!(matches!(load_problem(&error), LoadProblem::Description(_)), "{error}");
    assert!(!error.to_string().contains('\x1b'));
}

#[test]
fn settings_that_the_plugin_does_not_have_are_refused_at_load() {
    let bench = Bench::new();
    let mut choice = bench.choice(&guests::sweep("done"));
    choice.settings = vec![("depth".into(), "3".into()), ("dept".into(), "3".into())];
    let Err(error) = bench.host.load(Kind::SweepStrategy, &choice) else { panic!("`dept` is no setting") };
    assert!(error.to_string().ends_with("has no setting `dept`; it takes depth"), "{error}");
    assert_eq!(error.hint().as_deref(), Some("did you mean `depth`?"));
    choice.settings.pop();
    assert!(bench.host.load(Kind::SweepStrategy, &choice).is_ok());
}

#[test]
fn a_name_that_is_not_bundled_says_what_to_do() {
    let choice = PluginChoice::new(PluginSource::Named("sweep-nothing".into()));
    let Err(error) = Bench::new().host.load(Kind::SweepStrategy, &choice) else { panic!("no such plugin") };
    assert!(error.is_load());
    assert!(matches!(load_problem(&error), LoadProblem::BundledMissing | LoadProblem::UnknownName { .. }), "{error}");
}

#[test]
fn no_damaged_file_brings_the_host_down() {
    let bench = Bench::new();
    let good = guests::sweep("done");
    for cut in (0..good.len()).step_by(61) {
        bench.refuses_or_runs(&good[..cut]);
    }
    // A linear congruential generator: the same damage in every run.
    let mut state = 7_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        usize::try_from(state >> 8).unwrap()
    };
    for _ in 0..300 {
        let mut bad = good.clone();
        let place = random() % bad.len();
        bad[place] ^= 1 << (random() % 8);
        bench.refuses_or_runs(&bad);
    }
    bench.still_serves();
}

impl Bench {
    /// Whatever happens, it is a result.
    fn refuses_or_runs(&self, wasm: &[u8]) {
        if let Err(error) = self.next(wasm) {
            assert!(!error.to_string().is_empty());
        }
    }
}

// The tables that plugins see.

#[test]
fn inspecting_a_file_shows_what_it_asks_for_and_offers() {
    let bench = Bench::new();
    let inspection = bench.host.inspect(&bench.file(&guests::sweep("log-flood"))).unwrap();
    assert_eq!((inspection.identity.name.as_str(), inspection.identity.kind), ("guest", Kind::SweepStrategy));
    assert_eq!((inspection.contract_version.as_str(), inspection.cached), ("0.1.0", false));
    let functions = |name: &str| {
        let all = inspection.imports.iter().chain(&inspection.exports);
        all.filter(|i| i.name == name).map(|i| i.functions.clone()).collect::<Vec<_>>()
    };
    assert_eq!(functions("sla-profiler:base/log@0.1.0"), [["write"]]);
    assert_eq!(functions("sla-profiler:sweep/strategy@0.1.0"), [["next"]]);
    assert_eq!(inspection.settings[0].name, "depth");
}

#[test]
fn a_long_history_fits_through_the_default_limits() {
    let bench = Bench::with(Limits::default());
    let measurements =
        (0..5_000).map(|i| measurement(2, sla_profiler::domain::Role::Decode, 3000, i + 1, 10.0)).collect();
    let history = History { measurements, ..history() };
    let sweep = bench.host.sweep(&bench.choice(&guests::measures(&[Probe { concurrency: 9_999, ..GOOD }]))).unwrap();
    assert!(sweep.next(&job(), &Goal::Decode, &candidates(), &history).is_ok());
}

#[test]
fn the_inspect_command_prints_a_table_or_json() {
    use sla_profiler::cli::plugin::{PluginCommand, inspect};

    let bench = Bench::new();
    let file = bench.file(&guests::sweep("done"));
    let print = |json| {
        let mut out = Vec::new();
        let options = HostOptions { cache: None, limits: limits(), ..HostOptions::default() };
        PluginCommand::Inspect(inspect::Args { file: file.clone() }).run_with(options, &mut out, json).unwrap();
        String::from_utf8(out).unwrap()
    };
    let table = print(false);
    for words in ["sweep strategy", "guest", "0.0.1", "sla-profiler:sweep/strategy@0.1.0 (next)", "depth", "How deep."]
    {
        assert!(table.contains(words), "{words}\n{table}");
    }
    let json: serde_json::Value = serde_json::from_str(&print(true)).unwrap();
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["kind"], "sweep-strategy");
    assert_eq!(json["settings"][0]["name"], "depth");
}

// More shapes of files.

#[test]
fn a_trap_at_the_17th_host_call_costs_one_decision_each_time() {
    let log = "(call $log (i32.const 1) (i32.const 4096) (i32.const 4))\n".repeat(16);
    let body = format!(
        "(data (i32.const 4096) \"call\")\n(func (export \"sla-profiler:sweep/strategy@0.1.0#next\") (param i32) (result \
         i32)\n{log} unreachable)"
    );
    let bench = Bench::new();
    let wasm = guests::component(Kind::SweepStrategy, &body);
    for _ in 0..17 {
        assert!(matches!(bench.fails(&wasm), CallProblem::Trap { .. }));
    }
}

#[test]
fn a_plugin_within_a_component_is_no_plugin() {
    let error = Bench::new().refuses(&guests::around(&guests::sweep("done")));
    assert!(matches!(load_problem(&error), LoadProblem::NotAPlugin { exports } if exports.is_empty()), "{error}");
}

#[test]
fn components_nested_a_thousand_deep_are_refused() {
    let nested = (0..1_000).fold(b"\0asm\x0d\0\x01\0".to_vec(), |inner, _| guests::around(&inner));
    let error = Bench::new().refuses(&nested);
    assert!(matches!(load_problem(&error), LoadProblem::Malformed(_) | LoadProblem::NotAPlugin { .. }), "{error}");
}

#[test]
fn exports_in_masses_do_not_fill_the_message() {
    let exports: String = (0..10_000).map(|i| format!("(export \"x{i}\" (instance $e))")).collect();
    let error = Bench::new().refuses(&wat::parse_str(format!("(component (instance $e) {exports})")).unwrap());
    assert!(error.to_string().len() < 2_000, "{}", error.to_string().len());
}

#[test]
fn a_million_exports_are_refused_before_they_are_kept() {
    let error = Bench::new().refuses(&guests::exports(1_000_000));
    assert!(matches!(load_problem(&error), LoadProblem::DeclaresTooMuch { limit: 1_048_576 }), "{error}");
    let error = Bench::new().refuses(&guests::exports(10_000));
    assert!(matches!(load_problem(&error), LoadProblem::NotAPlugin { .. }), "a few are read: {error}");
}

#[test]
fn memories_that_other_threads_or_64_bits_could_reach_are_refused() {
    for memory in ["(memory 1 1 shared)", "(memory i64 1)"] {
        let core = format!("(component (core module {memory}))");
        let error = Bench::new().refuses(&guests::assemble(&core));
        assert!(!error.to_string().is_empty(), "{memory}");
    }
}

#[test]
fn every_cut_of_a_good_plugin_is_refused() {
    let bench = Bench::new();
    let wasm = guests::sweep("done");
    for length in (0..wasm.len()).step_by(97) {
        let path = bench.file(&wasm[..length]);
        let error = bench.host.inspect(&path).expect_err("cut short");
        assert!(error.is_load(), "{length}: {error}");
    }
}
