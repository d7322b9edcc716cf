//! `cargo xtask bench`: what the plugins and the program cost, as a Markdown report on stdout.
//!
//! Nothing here passes or fails: figures depend on the machine and its load, so the report names both. What is compared
//! takes turns within one run, A B, B A, ..., and the comparison is made within each turn: a slow moment of the machine
//! hits both sides. Medians, with the quartiles in brackets. `host/docs/benchmarks.md` keeps a report and says how to
//! read it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement, not the program: a failure is the message"
)]

use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sla_profiler::domain::candidate::Prior;
use sla_profiler::domain::{Candidate, Demand, EngineFacts, Goal, History, Job, Mapping, Role};
use sla_profiler::plugin::api::SelectionPolicy;
use sla_profiler::plugin::{HostOptions, Limits, PluginHost};
use sla_profiler::spec::{PluginChoice, PluginSource};
use sla_profiler_plugin as sdk;
use sla_profiler_plugin::SelectionPolicy as _;
use sla_profiler_plugin_select_cost::SelectCost;
use sla_profiler_plugin_select_throughput::SelectThroughput;
use sla_profiler_tests::{fixtures, guests, program, root};

fn main() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let cache = dir.path().join("cache");
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!("Profile {profile}, {cpus} CPUs, load average {} at the start.\n", load_average());
    start(&cache);
    load(&cache);
    select("select-throughput", throughput, &cache, &[(10, 1001), (100, 1001), (1_000, 101), (10_000, 11)]);
    select("select-cost", cost, &cache, &[(10, 201), (100, 21), (1_000, 3)]);
    stop(&cache);
    fuel(&cache);
    quickstart(dir.path());
    println!("Load average {} at the end.", load_average());
}

/// Of the last minute.
fn load_average() -> String {
    let all = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    all.split(' ').next().filter(|first| !first.is_empty()).unwrap_or("unknown").to_owned()
}

/// First quartile, median and third quartile.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

/// `12.3 (11.9 to 13.0)`
fn spread(values: Vec<f64>) -> String {
    if values.iter().any(|value| value.is_nan()) {
        return "not taken".to_owned();
    }
    let [low, median, high] = quartiles(values);
    let text = |x: f64| {
        let digits = if x.abs() < 10.0 {
            2
        } else if x.abs() < 100.0 {
            1
        } else {
            0
        };
        format!("{x:.digits$}")
    };
    format!("{} ({} to {})", text(median), text(low), text(high))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn timed<T>(run: impl FnOnce() -> T) -> f64 {
    let started = Instant::now();
    black_box(run());
    micros(started.elapsed())
}

/// Starting the program, until it has written something.
fn start(cache: &Path) {
    println!("| start to first output | ms |\n|---|---|");
    for arguments in [&["--version"][..], &["plugin", "list"]] {
        let once = || {
            let started = Instant::now();
            let mut child = Command::new(program())
                .args(arguments)
                .env("XDG_CACHE_HOME", cache)
                .stdout(Stdio::piped())
                .spawn()
                .expect("the program starts");
            let mut out = child.stdout.take().expect("it is piped");
            out.read_exact(&mut [0]).expect("it says something");
            let elapsed = micros(started.elapsed()) / 1e3;
            out.read_to_end(&mut Vec::new()).expect("readable");
            child.wait().expect("it ends");
            elapsed
        };
        once();
        println!("| `sla-profiler {}` | {} |", arguments.join(" "), spread((0..21).map(|_| once()).collect()));
    }
    println!();
}

fn bundled(name: &str) -> PluginChoice {
    PluginChoice::new(PluginSource::Named(name.to_owned()))
}

fn host(cache: Option<PathBuf>) -> PluginHost {
    PluginHost::new(HostOptions { cache, ..HostOptions::default() }).expect("wasmtime runs here")
}

/// Loading each bundled plugin: compiled anew, and from the cache, always by a host that has loaded nothing yet.
fn load(cache: &Path) {
    println!("| plugin | compiled and loaded, ms | loaded from the cache, ms |\n|---|---|---|");
    for listed in host(Some(cache.to_owned())).bundled().expect("`cargo xtask plugins` came first") {
        let choice = bundled(&listed.identity.name);
        let once = |cache: Option<&Path>| {
            let host = host(cache.map(Path::to_owned));
            timed(|| host.load(listed.identity.kind, &choice).expect("loads")) / 1e3
        };
        let (compiled, cached): (Vec<f64>, Vec<f64>) = (0..7).map(|_| (once(None), once(Some(cache)))).unzip();
        println!("| {} | {} | {} |", listed.identity.name, spread(compiled), spread(cached));
    }
    println!();
}

/// A question with `count` candidates, half of them for each role, each measured: prefill at one point, decode at four.
/// For the host, and as the SDK has it.
struct Question {
    job: Job,
    candidates: Vec<Candidate>,
    history: History,
    native: (sdk::Job, sdk::Demand, sdk::Candidates, sdk::History),
}

impl Question {
    fn new(count: u32, total_gpus: u32, demand: Demand) -> Self {
        let mut job = fixtures::job();
        (job.hardware.total_gpus, job.demand) = (total_gpus, demand);
        let role = |id| if id < count / 2 { Role::Prefill } else { Role::Decode };
        let gpus = |id: u32| 1 << (id % 4);
        let prior =
            Prior { latency_ms: 50.0, tokens_per_second_per_gpu: 5e3, relative_error: 0.3, kv_tokens: 500_000.0 };
        let candidates: Vec<_> =
            (0..count).map(|id| Candidate { role: role(id), mapping: Mapping::tensor(gpus(id)), prior }).collect();
        let workload = job.workload;
        let points = (0..count).flat_map(|id| {
            // Larger engines are faster, by less than they are larger; no two candidates are alike.
            let faster = f64::from(gpus(id)).powf(0.7) / (1.0 + f64::from(id) / f64::from(count));
            let loads: &[u32] = if role(id) == Role::Prefill { &[1] } else { &[1, 16, 64, 128] };
            loads.iter().map(move |&load| {
                let alone_ms = if role(id) == Role::Prefill { 60.0 } else { 6.0 };
                let latency_ms = alone_ms / faster * (1.0 + f64::from(load - 1) / 64.0);
                let mut point = fixtures::measurement(id, role(id), workload.isl, load, latency_ms);
                point.input_tokens_per_second_per_gpu /= f64::from(gpus(id));
                point.output_tokens_per_second_per_gpu /= f64::from(gpus(id));
                point
            })
        });
        let history = History {
            facts: (0..count).map(fixtures::facts).collect(),
            measurements: points.collect(),
            failures: vec![],
        };
        let native = (sdk_job(&job), sdk_demand(demand), sdk_candidates(&candidates), sdk_history(&history));
        Self { job, candidates, history, native }
    }

    fn ask(&self, policy: &dyn SelectionPolicy) -> sla_profiler::plugin::api::Decided<sla_profiler::domain::Selection> {
        policy.select(&self.job, &self.candidates, &self.history).expect("an answer")
    }
}

/// A policy as a function of this program: what its component is compared with.
type Native = fn(&Question) -> sdk::Selection;

fn throughput(question: &Question) -> sdk::Selection {
    let (job, demand, candidates, history) = &question.native;
    SelectThroughput::select(job, demand, candidates, history).expect("an answer")
}

fn cost(question: &Question) -> sdk::Selection {
    let (job, demand, candidates, history) = &question.native;
    SelectCost::select(job, demand, candidates, history).expect("an answer")
}

/// One policy as a component, with a store of its own for every decision as in every run, against the same code in this
/// program (on input that is there already), and against a component that always gives the same answer: what is left there is the host's part.
fn select(name: &str, native: Native, cache: &Path, sizes: &[(u32, usize)]) {
    let host = host(Some(cache.to_owned()));
    let component = host.selection(&bundled(name)).expect("a bundled policy");
    println!("Decisions of {name}, in µs; the last column counts instructions.\n");
    println!("| candidates | native | component | more | ratio | component that does nothing | fuel |");
    println!("|---|---|---|---|---|---|---|");
    for &(count, rounds) in sizes {
        let question = Question::new(count, 64, Demand::RequestsPerSecond(5.0));
        let file = cache.join(format!("idle-{count}.wasm"));
        std::fs::write(&file, guests::ranks(&[(0, 1, "1")], &[(count - 1, 1, "1")])).expect("writable");
        let choice = PluginChoice::new(PluginSource::File(file));
        // The hand-written guest has 1 MB of memory.
        let idle = (count <= 1_000).then(|| host.selection(&choice).expect("a policy"));
        let fuel = question.ask(component.as_ref()).cost.fuel;
        let (ours, theirs) = (native(&question), question.ask(component.as_ref()).value);
        let ours: Vec<_> = ours.decode.iter().map(|c| (c.candidate, c.concurrency, c.reason.as_str())).collect();
        let theirs: Vec<_> = theirs.decode.iter().map(|c| (c.candidate, c.concurrency, c.reason.as_str())).collect();
        assert_eq!(ours, theirs, "both sides do the same work");
        let mut rows: Vec<[f64; 3]> = Vec::with_capacity(rounds);
        for round in 0..rounds {
            let a = || timed(|| native(&question));
            let b = || timed(|| question.ask(component.as_ref()));
            let c = || idle.as_ref().map_or(f64::NAN, |idle| timed(|| question.ask(idle.as_ref())));
            rows.push(if round % 2 == 0 {
                [a(), b(), c()]
            } else {
                let (c, b, a) = (c(), b(), a());
                [a, b, c]
            });
        }
        let column = |value: fn(&[f64; 3]) -> f64| spread(rows.iter().map(value).collect());
        println!(
            "| {count} | {} | {} | {} | {} | {} | {fuel} |",
            column(|[a, _, _]| *a),
            column(|[_, b, _]| *b),
            column(|[a, b, _]| b - a),
            column(|[a, b, _]| b / a),
            column(|[_, _, c]| *c),
        );
    }
    println!();
}

/// How long after its deadline a guest is stopped that loops for ever, by its own code and in calls of the host.
fn stop(cache: &Path) {
    const DEADLINE_MS: u64 = 100;
    let limits = Limits { fuel: u64::MAX / 2, deadline_ms: DEADLINE_MS, ..Limits::default() };
    let options = HostOptions { cache: Some(cache.to_owned()), limits, ..HostOptions::default() };
    let host = PluginHost::new(options).expect("wasmtime runs here");
    let (job, candidates, history) = (fixtures::job(), fixtures::candidates(), fixtures::history());
    println!("| a guest with a deadline of {DEADLINE_MS} ms | stopped so much later, ms |\n|---|---|");
    for (name, about) in [("endless-loop", "loops for ever"), ("endless-log", "writes to the log for ever")] {
        let file = cache.join(name);
        std::fs::write(&file, guests::sweep(name)).expect("writable");
        let strategy = host.sweep(&PluginChoice::new(PluginSource::File(file))).expect("a strategy");
        let late = || {
            let ask = || strategy.next(&job, &Goal::Decode, &candidates, &history).expect_err("it is stopped");
            timed(ask) / 1e3 - DEADLINE_MS as f64
        };
        println!("| {about} | {} |", spread((0..21).map(|_| late()).collect()));
    }
    println!();
}

/// What `select-cost` burns, against the default limit: it sizes pairs, so its work grows faster than its input.
fn fuel(cache: &Path) {
    let host = host(Some(cache.to_owned()));
    let policy = host.selection(&bundled("select-cost")).expect("a bundled policy");
    let limit = Limits::default().fuel as f64;
    let (mut burnt, mut seconds) = (0.0, 0.0);
    println!("Fuel of select-cost in millions of instructions, and the share of the default limit.\n");
    println!(
        "| candidates | GPUs | no demand | 5 requests/s | 500 requests/s | 500 at once |\n|---|---|---|---|---|---|"
    );
    for count in [10, 100, 400] {
        for gpus in [8, 64, 512] {
            let demands = [
                Demand::Budget,
                Demand::RequestsPerSecond(5.0),
                Demand::RequestsPerSecond(500.0),
                Demand::Concurrency(500),
            ];
            let cells = demands.map(|demand| {
                let question = Question::new(count, gpus, demand);
                match policy.select(&question.job, &question.candidates, &question.history) {
                    Ok(decided) => {
                        let fuel = decided.cost.fuel as f64;
                        (burnt, seconds) = (burnt + fuel, seconds + decided.cost.elapsed.as_secs_f64());
                        format!("{:.1} ({:.1} %)", fuel / 1e6, fuel / limit * 100.0)
                    }
                    Err(error) => format!("{error}"),
                }
            });
            println!("| {count} | {gpus} | {} |", cells.join(" | "));
        }
    }
    println!("\nAll of it burnt {:.2} billion instructions a second.\n", burnt / seconds / 1e9);
}

/// The quickstart's run, and how much of it is decisions.
fn quickstart(dir: &Path) {
    let mut wall = Vec::new();
    let (mut decisions, mut share) = (Vec::new(), Vec::new());
    for round in 0..5 {
        let started = Instant::now();
        let output = Command::new(program())
            .args(["-vv", "profile", "-f", "examples/quickstart/dgdr.yaml", "--no-progress", "--out"])
            .arg(dir.join(format!("run-{round}")))
            .current_dir(root())
            .env("XDG_CACHE_HOME", dir)
            .output()
            .expect("the program starts");
        let elapsed = micros(started.elapsed());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let log = String::from_utf8_lossy(&output.stderr);
        let of_plugins: Vec<f64> = log
            .split("elapsed_us=")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .collect();
        decisions.push(of_plugins.len() as f64);
        share.push(of_plugins.iter().sum::<f64>() / elapsed * 100.0);
        wall.push(elapsed / 1e6);
    }
    println!(
        "Quickstart: {} s; {:.0} decisions of plugins take {} % of it.\n",
        spread(wall),
        quartiles(decisions)[1],
        spread(share)
    );
}

fn sdk_job(job: &Job) -> sdk::Job {
    sdk::Job {
        model: sdk::Model {
            name: job.model.name.clone(),
            layers: job.model.layers,
            hidden: job.model.hidden,
            heads: job.model.heads,
            kv_heads: job.model.kv_heads,
            experts: 0,
            experts_per_token: 0,
            max_context: job.max_context_tokens,
            weight_bytes: job.model.weight_bytes(),
            kv_bytes_per_token: job.model.kv_bytes_per_token(),
            extra: vec![],
        },
        hardware: sdk::Hardware {
            gpu: job.hardware.gpu.name.clone(),
            gpu_memory_bytes: job.hardware.gpu.memory_bytes,
            gpus_per_node: job.hardware.gpus_per_node,
            total_gpus: job.hardware.total_gpus,
            extra: vec![],
        },
        backend: job.backend.as_str().to_owned(),
        workload: sdk::Workload { isl: job.workload.isl, osl: job.workload.osl },
        sla: sdk::Sla {
            ttft_ms: job.sla.ttft_ms,
            itl_ms: job.sla.itl_ms,
            e2e_ms: job.sla.e2e_ms,
            quantile: job.sla.quantile,
        },
        seed: job.seed,
        settings: vec![],
        extra: vec![],
    }
}

const fn sdk_demand(demand: Demand) -> sdk::Demand {
    match demand {
        Demand::RequestsPerSecond(rate) => sdk::Demand::RequestsPerSecond(rate),
        Demand::Concurrency(requests) => sdk::Demand::Concurrency(requests),
        Demand::Budget => sdk::Demand::Budget,
    }
}

const fn sdk_role(role: Role) -> sdk::Role {
    match role {
        Role::Prefill => sdk::Role::Prefill,
        Role::Decode => sdk::Role::Decode,
    }
}

fn sdk_candidates(candidates: &[Candidate]) -> sdk::Candidates {
    let mut table = sdk::Candidates::empty();
    for candidate in candidates {
        let (mapping, prior) = (&candidate.mapping, &candidate.prior);
        table.push(sdk::Candidate {
            id: 0,
            role: sdk_role(candidate.role),
            label: &mapping.label(),
            gpus: candidate.gpus(),
            tp: mapping.tp,
            pp: mapping.pp,
            attention_dp: mapping.attention_dp,
            moe_tp: mapping.moe_tp,
            moe_ep: mapping.moe_ep,
            prior_latency_ms: Some(prior.latency_ms),
            prior_tokens_per_second_per_gpu: Some(prior.tokens_per_second_per_gpu),
            prior_relative_error: Some(prior.relative_error),
            prior_kv_tokens: Some(prior.kv_tokens),
        });
    }
    table
}

fn sdk_history(history: &History) -> sdk::History {
    let mut tables = sdk::History::empty();
    for &EngineFacts { candidate, kv_tokens, max_running, launch_s, .. } in &history.facts {
        tables.facts.push(sdk::Facts { candidate, kv_tokens, max_running, launch_seconds: launch_s });
    }
    let stat = |stat: sla_profiler::domain::Stat| sdk::Stat {
        mean: stat.mean,
        p50: stat.p50,
        p90: stat.p90,
        p99: stat.p99,
        ci_low: stat.ci_low,
        ci_high: stat.ci_high,
        target: stat.target,
    };
    for m in &history.measurements {
        tables.measurements.push(sdk::Measurement {
            candidate: m.candidate,
            isl: m.isl,
            osl: m.osl,
            concurrency: m.concurrency,
            concurrency_seen: m.concurrency_seen,
            ttft_ms: m.ttft_ms.map(stat),
            itl_ms: m.itl_ms.map(stat),
            samples: m.samples,
            failed_requests: m.failed_requests,
            input_tokens_per_second_per_gpu: m.input_tokens_per_second_per_gpu,
            output_tokens_per_second_per_gpu: m.output_tokens_per_second_per_gpu,
            kv_usage: m.kv_usage,
        });
    }
    tables
}
