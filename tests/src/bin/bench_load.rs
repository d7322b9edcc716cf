//! `cargo xtask bench load`: what the builtin load generator and AIPerf cost, and how far they are off.
//!
//! Each case has a server of its own in a process of its own, which emits tokens on a schedule and notes when it did;
//! each client is a process, too. CPU time is that of all processes of a client, as the kernel accounts it to this one
//! when they end (grain 10 ms). Started by hand, the program takes names of tables: `bench_load rates stalls`.
//! The figures of a client are compared with what the server noted of the same requests.
//! Nothing here passes or fails. `host/docs/load-generator.md` keeps a report and says how to read it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement, not the program: a failure is the message"
)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sla_profiler::domain::stats::quantile;
use sla_profiler::load::builtin::{Builtin, Options};
use sla_profiler::load::{Endpoint, LoadError, LoadGenerator, LoadReport, Point, Prompts, Traffic, Watch};
use sla_profiler_tests::openai::{Behaviour, OpenAi, Timing, word_tokenizer};
use sla_profiler_tests::root;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("serve") => serve(&arguments[1]),
        Some("client") => client(&arguments[1]),
        _ => report(&arguments),
    }
}

// ---------------------------------------------------------------------------------------------------- the other side

/// A server until standard input closes.
fn serve(settings: &str) {
    let settings: Value = serde_json::from_str(settings).unwrap();
    let number = |name: &str| settings[name].as_f64().unwrap_or(0.0);
    let pause = settings["pause_s"].as_array().map(|p| {
        let second = |i: usize| Duration::from_secs_f64(p[i].as_f64().unwrap());
        (second(0), second(1))
    });
    let server = OpenAi::start(Behaviour {
        timing: Timing { ttft_spread: number("spread"), ..Timing::fixed(number("ttft_ms"), number("itl_ms")) },
        nagle: settings["nagle"] == true,
        added_tokens: 0,
        watches_itself: true,
        pause,
        ..Behaviour::default()
    });
    println!("{}", server.url);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// A server in a process.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(settings: &Value) -> Self {
        Self::start_behind(&[], settings)
    }

    /// Started by another program, such as `taskset`.
    fn start_behind(prefix: &[&str], settings: &Value) -> Self {
        let mut child = behind(prefix, &["serve", &settings.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { child, url: url.trim().to_owned() }
    }

    /// What it noted, by the name of the request.
    fn truth(&self) -> HashMap<String, Truth> {
        let origin = self.url.parse().unwrap();
        let answer =
            block_on(sla_profiler::http::Client::default().get(&origin, "/truth", None, Duration::from_secs(60)));
        let rows: Vec<(String, f64, f64, f64, u32, f64)> = serde_json::from_slice(&answer.unwrap().body).unwrap();
        rows.into_iter()
            .map(|(id, received_s, first_s, last_s, tokens, lag_ms)| {
                (id, Truth { received_s, first_s, last_s, tokens, lag_ms })
            })
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().expect("the server ends");
    }
}

#[derive(Debug, Clone, Copy)]
struct Truth {
    received_s: f64,
    first_s: f64,
    last_s: f64,
    tokens: u32,
    /// How late the server's event loop was when the request came.
    lag_ms: f64,
}

impl Truth {
    fn ttft_ms(&self) -> f64 {
        (self.first_s - self.received_s) * 1e3
    }

    fn itl_ms(&self) -> f64 {
        (self.last_s - self.first_s) * 1e3 / f64::from(self.tokens - 1)
    }
}

/// One point of the builtin generator, as often as asked; prints what came of the last.
fn client(settings: &str) {
    let settings: Value = serde_json::from_str(settings).unwrap();
    let whole = |name: &str| settings[name].as_u64().map(|n| u32::try_from(n).unwrap());
    let traffic = match (whole("concurrency"), settings["rate"].as_f64()) {
        (Some(concurrency), _) => Traffic::Closed { concurrency },
        (None, Some(requests_per_second)) if settings["poisson"] == true => Traffic::Poisson { requests_per_second },
        (None, rate) => Traffic::Constant { requests_per_second: rate.unwrap() },
    };
    let point = Point {
        isl: whole("isl").unwrap_or(64),
        osl: whole("osl").unwrap(),
        traffic,
        prompts: Prompts::Unique,
        watch: Watch::Both,
        relative_precision: 0.0,
        ttft_target_ms: None,
        itl_target_ms: None,
        max_requests: whole("requests").unwrap(),
        quantile: None,
        max_error_rate: 0.05,
        seed: 1,
        deadline: Duration::from_secs(300),
        artifacts: None,
    };
    let tokenizer = (settings["tokenizer"] != false).then(|| word_tokenizer().clone());
    let endpoint = Endpoint { tokenizer, ..Endpoint::new(settings["url"].as_str().unwrap(), "tiny") };
    let generator = Builtin::new(Options::default());
    let mut result = Err(LoadError::Setup("not one point".to_owned()));
    for _ in 0..whole("points").unwrap_or(1) {
        result = block_on(generator.measure(&endpoint, &point));
    }
    let (report, bound): (LoadReport, Option<String>) = match result {
        Ok(report) => (report, None),
        Err(LoadError::ClientBound { reason, report }) => (*report, Some(reason)),
        Err(other) => panic!("{other}"),
    };
    println!("{}", json!({"report": report, "bound": bound}));
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// This program in another mode, started by what the prefix names, if anything.
fn behind(prefix: &[&str], arguments: &[&str]) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut command = match prefix.split_first() {
        None => Command::new(this),
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest).arg(this);
            command
        }
    };
    command.args(arguments);
    command
}

// ---------------------------------------------------------------------------------------------------------- contestants

/// What a client measured and what it cost.
struct Outcome {
    ttft_ms: f64,
    itl_ms: f64,
    true_ttft_ms: f64,
    true_itl_ms: f64,
    tokens: f64,
    cpu_s: f64,
    /// How late the server itself was when requests came, mean in milliseconds: by so much TTFT is longer than it knows.
    server_lag_ms: f64,
    bound: Option<String>,
    report: Option<LoadReport>,
}

impl Outcome {
    fn ttft_bias(&self) -> f64 {
        self.ttft_ms / self.true_ttft_ms - 1.0
    }

    fn itl_bias(&self) -> f64 {
        self.itl_ms / self.true_itl_ms - 1.0
    }
}

/// CPU seconds of all children that have ended, and theirs.
fn children_cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("the system accounts for processes");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Fields 16 and 17 of proc(5), counted from the state, in ticks of 10 ms.
    (fields[13].parse::<f64>().unwrap() + fields[14].parse::<f64>().unwrap()) / 100.0
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.into_iter().collect();
    values.iter().sum::<f64>() / values.len() as f64
}

fn ours(server: &Server, settings: &Value, prefix: &[&str]) -> Outcome {
    let mut settings = settings.clone();
    settings["url"] = json!(server.url);
    let before = children_cpu_s();
    let text = settings.to_string();
    let mut command = behind(prefix, &["client", &text]);
    let output = command.stderr(Stdio::inherit()).output().expect("the client starts");
    let cpu_s = children_cpu_s() - before;
    let answer: Value = serde_json::from_slice(&output.stdout).expect("the client prints its report");
    let report: LoadReport = serde_json::from_value(answer["report"].clone()).unwrap();
    // Samples are consecutive requests; those before them filled the queue or were cut off as transient.
    let last = |id: &str| id.rsplit('-').next().and_then(|n| n.parse::<usize>().ok());
    let noted = server.truth();
    let tokens = noted.values().map(|t| f64::from(t.tokens)).sum();
    let mut truth: Vec<(usize, Truth)> =
        noted.into_iter().filter_map(|(id, truth)| Some((last(&id)?, truth))).collect();
    truth.sort_by_key(|(index, _)| *index);
    let n = report.samples.len();
    let first = settings["concurrency"].as_u64().map_or(0, |c| usize::try_from(c).unwrap());
    let truth: Vec<Truth> = truth.into_iter().filter(|(i, _)| (first..first + n).contains(i)).map(|(_, t)| t).collect();
    Outcome {
        server_lag_ms: mean(truth.iter().map(|t| t.lag_ms)),
        ttft_ms: report.ttft_ms.unwrap().stat.mean,
        itl_ms: report.itl_ms.unwrap().stat.mean,
        true_ttft_ms: mean(truth.iter().map(Truth::ttft_ms)),
        true_itl_ms: mean(truth.iter().map(Truth::itl_ms)),
        tokens,
        cpu_s,
        bound: answer["bound"].as_str().map(str::to_owned),
        report: Some(report),
    }
}

/// AIPerf where `SLA_PROFILER_AIPERF` says, else in an environment that `cargo xtask test` has made.
fn aiperf_program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SLA_PROFILER_AIPERF") {
        return Some(path.into());
    }
    let environments = std::fs::read_dir(root().join("target/python")).ok()?;
    environments.filter_map(Result::ok).map(|e| e.path().join("bin/aiperf")).find(|path| path.exists())
}

/// `None` where AIPerf gives up.
fn aiperf(program: &Path, server: &Server, settings: &Value) -> Option<Outcome> {
    let dir = tempfile::tempdir().unwrap();
    let number = |name: &str| settings[name].as_u64().unwrap().to_string();
    let osl = number("osl");
    let tokenizer = dir.path().join("tokenizer");
    hugging_face_folder(&tokenizer);
    let before = children_cpu_s();
    let output = Command::new(program)
        .arg("profile")
        .args(["--model", "tiny", "--endpoint-type", "chat", "--endpoint", "/v1/chat/completions", "--streaming"])
        .args(["--url", &server.url, "--tokenizer"])
        .arg(&tokenizer)
        .args(["--synthetic-input-tokens-mean", "64", "--synthetic-input-tokens-stddev", "0"])
        .args(["--output-tokens-mean", &osl, "--output-tokens-stddev", "0"])
        .args(["--extra-inputs", &format!("max_tokens:{osl}"), "--extra-inputs", &format!("min_tokens:{osl}")])
        .args(["--extra-inputs", "ignore_eos:true", "--warmup-request-count", "3", "--random-seed", "100"])
        .args(["--concurrency", &number("concurrency"), "--request-count", &number("requests")])
        .args(["--use-server-token-count", "--no-server-metrics", "--no-gpu-telemetry", "--ui", "none"])
        .arg("--artifact-dir")
        .arg(dir.path().join("out"))
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("TRANSFORMERS_OFFLINE")
        .output()
        .expect("AIPerf starts");
    let cpu_s = children_cpu_s() - before;
    let file = |name: &str| std::fs::read_to_string(dir.path().join("out").join(name)).ok();
    let Some(export) = file("profile_export_aiperf.json") else {
        let said = String::from_utf8_lossy(&output.stdout);
        println!("AIPerf gave no figures: {}", said.lines().rev().take(5).collect::<Vec<_>>().join(" | "));
        return None;
    };
    let export: Value = serde_json::from_str(&export).unwrap();
    let truth = server.truth();
    let rows: Vec<Truth> = file("profile_export.jsonl")
        .unwrap()
        .lines()
        .filter_map(|line| {
            let row: Value = serde_json::from_str(line).ok()?;
            truth.get(row["metadata"]["x_request_id"].as_str()?).copied()
        })
        .collect();
    Some(Outcome {
        server_lag_ms: mean(rows.iter().map(|t| t.lag_ms)),
        ttft_ms: export["time_to_first_token"]["avg"].as_f64().unwrap(),
        itl_ms: export["inter_token_latency"]["avg"].as_f64().unwrap(),
        true_ttft_ms: mean(rows.iter().map(Truth::ttft_ms)),
        true_itl_ms: mean(rows.iter().map(Truth::itl_ms)),
        tokens: truth.values().map(|t| f64::from(t.tokens)).sum(),
        cpu_s,
        bound: None,
        report: None,
    })
}

/// As `transformers` wants it: the tokenizer and the name of its class.
fn hugging_face_folder(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::copy(word_tokenizer(), folder.join("tokenizer.json")).unwrap();
    let config =
        json!({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "model_max_length": 100_000});
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    let model = json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"]});
    std::fs::write(folder.join("config.json"), model.to_string()).unwrap();
}

// --------------------------------------------------------------------------------------------------------------- report

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or("unknown").to_owned()
}

fn report(tables: &[String]) {
    let all = ["cost", "nagle", "rates", "overload", "stalls"];
    assert!(tables.iter().all(|t| all.contains(&t.as_str())), "the tables are {all:?}");
    let wanted = |name: &str| tables.is_empty() || tables.iter().any(|table| table == name);
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let short = std::env::var_os("SLA_PROFILER_BENCH_SHORT").is_some();
    println!("Profile {profile}, {cpus} CPUs, load average {} at the start.\n", load_average());
    let rival = aiperf_program();
    match &rival {
        Some(path) => println!("AIPerf: {}\n", version(path)),
        None => {
            println!("AIPerf is left out: there is none; `cargo xtask test` installs it, or set SLA_PROFILER_AIPERF.\n")
        }
    }
    if wanted("cost") {
        let fixed = fixed_cost(rival.as_deref());
        accuracy(rival.as_deref(), fixed, short);
    }
    if wanted("nagle") {
        nagle(rival.as_deref());
    }
    if wanted("rates") {
        rates(short);
    }
    if wanted("overload") {
        overload();
    }
    if wanted("stalls") {
        stalls();
    }
    println!("Load average {} at the end.", load_average());
}

fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output().expect("AIPerf starts");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// CPU seconds of a point of one request: ours, and AIPerf's.
fn fixed_cost(rival: Option<&Path>) -> (f64, f64) {
    let schedule = json!({"ttft_ms": 20.0, "itl_ms": 5.0});
    let run = |points: u32| {
        let server = Server::start(&schedule);
        ours(&server, &json!({"concurrency": 1, "requests": 1, "osl": 20, "points": points}), &[]).cpu_s
    };
    const MORE: u32 = 50;
    let first = run(1);
    let each = ((run(MORE + 1) - first) / f64::from(MORE)).max(0.0);
    println!("| a point of one request | CPU seconds |\n|---|---|");
    println!("| builtin, the process and its first point | {first:.2} |");
    println!("| builtin, each further point | {each:.4} |");
    let server = Server::start(&schedule);
    let theirs = rival
        .and_then(|program| aiperf(program, &server, &json!({"concurrency": 1, "requests": 1, "osl": 20})))
        .map_or(f64::NAN, |outcome| outcome.cpu_s);
    if theirs.is_finite() {
        println!("| AIPerf | {theirs:.2} |");
        println!("\nA further point costs {:.3} % of AIPerf's.", each / theirs * 100.0);
    }
    println!();
    (first, theirs)
}

fn accuracy(rival: Option<&Path>, fixed: (f64, f64), short: bool) {
    println!(
        "Closed loop; the server's schedule has TTFT 200 ms ± 50 %, evenly spread. Tokens per CPU-second: of the whole process, and without \
         what a point of one request costs.\n"
    );
    println!(
        "| requests in flight | ITL ms | tokens | client | TTFT bias | ITL bias | tokens per CPU-s | marginal | server lag ms | client bound |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let cases: &[(u32, f64, u32)] = if short {
        &[(1, 5.0, 8), (256, 20.0, 512)]
    } else {
        &[(1, 5.0, 20), (32, 5.0, 320), (256, 20.0, 1024), (1000, 50.0, 3000)]
    };
    for (concurrency, itl_ms, requests) in cases {
        let schedule = json!({"ttft_ms": 200.0, "itl_ms": itl_ms, "spread": 0.5});
        let settings = json!({"concurrency": concurrency, "requests": requests, "osl": 100});
        let row = |name: &str, outcome: &Outcome, fixed: f64| {
            println!(
                "| {concurrency} | {itl_ms} | {} | {name} | {:+.2} ms, {:+.2} % | {:+.4} ms, {:+.2} % | {:.0} | {:.0} | {:.2} | {} |",
                outcome.tokens,
                outcome.ttft_ms - outcome.true_ttft_ms,
                outcome.ttft_bias() * 100.0,
                outcome.itl_ms - outcome.true_itl_ms,
                outcome.itl_bias() * 100.0,
                outcome.tokens / outcome.cpu_s,
                outcome.tokens / (outcome.cpu_s - fixed).max(0.01),
                outcome.server_lag_ms,
                outcome.bound.as_deref().unwrap_or("no"),
            );
        };
        let outcome = ours(&Server::start(&schedule), &settings, &[]);
        row("builtin", &outcome, fixed.0);
        if let Some(outcome) = rival.and_then(|program| aiperf(program, &Server::start(&schedule), &settings)) {
            row("AIPerf", &outcome, fixed.1);
        }
    }
    println!();
}

/// A server that holds small packets back until the one before is acknowledged.
fn nagle(rival: Option<&Path>) {
    println!("A server without TCP_NODELAY, TTFT 10 ms and ITL 5 ms by its schedule, one request in flight.\n");
    println!("| client | TTFT ms | ITL ms |\n|---|---|---|");
    let schedule = json!({"ttft_ms": 10.0, "itl_ms": 5.0, "nagle": true});
    let settings = json!({"concurrency": 1, "requests": 20, "osl": 20});
    let row = |name: &str, o: &Outcome| println!("| {name} | {:.2} | {:.2} |", o.ttft_ms, o.itl_ms);
    row("builtin", &ours(&Server::start(&schedule), &settings, &[]));
    if let Some(outcome) = rival.and_then(|program| aiperf(program, &Server::start(&schedule), &settings)) {
        row("AIPerf", &outcome);
    }
    println!();
}

fn rates(short: bool) {
    println!("Open loop, constant arrivals, 2 tokens per answer; server and client share the CPUs.\n");
    println!(
        "| requests per second | reached | send lateness mean, p99 ms | loop lag mean, p99 ms | CPU running, waiting | client bound |"
    );
    println!("|---|---|---|---|---|---|");
    let measure = |rate: f64| {
        let requests = (rate * if short { 1.0 } else { 3.0 }) as u64;
        let server = Server::start(&json!({"ttft_ms": 2.0, "itl_ms": 1.0}));
        let settings = json!({"rate": rate, "requests": requests, "osl": 2, "tokenizer": false});
        let outcome = ours(&server, &settings, &[]);
        let report = outcome.report.unwrap();
        // Of a point that came to a limit, health is not reported.
        let Some(health) = report.client else {
            println!(
                "| {rate} | {:.0} | | | | {} |",
                report.requests_per_second.value,
                outcome.bound.unwrap_or_default()
            );
            return false;
        };
        let percent = |share: Option<f64>| share.map_or("?".to_owned(), |s| format!("{:.0} %", s * 100.0));
        println!(
            "| {rate} | {:.0} | {:.3}, {:.3} | {:.3}, {:.3} | {}, {} | {} |",
            report.requests_per_second.value,
            health.send_lateness_mean_ms,
            health.send_lateness_p99_ms,
            health.loop_lag_mean_ms,
            health.loop_lag_p99_ms,
            percent(health.cpu_share),
            percent(health.cpu_wait_share),
            outcome.bound.as_deref().unwrap_or("no"),
        );
        outcome.bound.is_none() && report.requests_per_second.value > 0.95 * rate
    };
    let mut most: f64 = 0.0;
    for rate in [500.0, 1000.0, 2000.0, 3000.0, 4000.0, 6000.0, 8000.0, 12_000.0] {
        if measure(rate) {
            most = rate;
        } else if rate > most * 2.0 && most > 0.0 {
            break;
        }
    }
    if most == 0.0 {
        println!("\nNot one rate was reached without a remark: the machine is too busy for this table.\n");
        return;
    }
    println!("\nThe most that was reached without a remark is {most}; half of it again:\n");
    println!(
        "| requests per second | reached | send lateness mean, p99 ms | loop lag mean, p99 ms | CPU running, waiting | client bound |"
    );
    println!("|---|---|---|---|---|---|");
    for _ in 0..3 {
        measure(most / 2.0);
    }
    println!();
}

/// A client that is starved of CPU, more and more.
fn overload() {
    println!(
        "The client on one CPU with others that never rest; the server on another. 128 requests in flight, ITL 10 ms, TTFT 100 ms.\n"
    );
    if Command::new("taskset").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("Left out: there is no `taskset`.\n");
        return;
    }
    println!("| others | TTFT bias | ITL bias | read lag, loop lag mean ms | server lag ms | client bound |");
    println!("|---|---|---|---|---|---|");
    let (mut overloaded, mut reported) = (0, 0);
    for others in [0, 1, 2, 4, 8, 16] {
        let mut burners: Vec<Child> = (0..others)
            .map(|_| Command::new("taskset").args(["-c", "0", "sh", "-c", "while :; do :; done"]).spawn().unwrap())
            .collect();
        let schedule = json!({"ttft_ms": 100.0, "itl_ms": 10.0, "spread": 0.5});
        let server = Server::start_behind(&["taskset", "-c", "1"], &schedule);
        let settings = json!({"concurrency": 128, "requests": 512, "osl": 50});
        let outcome = ours(&server, &settings, &["taskset", "-c", "0"]);
        for burner in &mut burners {
            burner.kill().unwrap();
            burner.wait().unwrap();
        }
        // What the server itself was late is no fault of the client's.
        let ttft_bias = (outcome.ttft_ms - outcome.true_ttft_ms - outcome.server_lag_ms) / outcome.true_ttft_ms;
        let off = ttft_bias.max(outcome.itl_bias().abs()) > 0.01;
        overloaded += u32::from(off);
        reported += u32::from(off && outcome.bound.is_some());
        println!(
            "| {others} | {:+.2} % | {:+.2} % | {} | {:.2} | {} |",
            outcome.ttft_bias() * 100.0,
            outcome.itl_bias() * 100.0,
            outcome.report.and_then(|r| r.client).map_or("?".to_owned(), |client| format!(
                "{:.2}, {:.2}",
                client.read_lag_mean_ms, client.loop_lag_mean_ms
            )),
            outcome.server_lag_ms,
            outcome.bound.as_deref().unwrap_or("no")
        );
    }
    println!(
        "\nOff by more than 1 % beyond what the server was late: {overloaded} cases, of which {reported} were reported.\n"
    );
}

fn stalls() {
    const RATE: f64 = 100.0;
    println!(
        "A server that stands still from 2 s to 3 s after its start; {RATE} requests per second, TTFT 20 ms by the schedule.\n"
    );
    println!("| | mean TTFT ms | p99 TTFT ms | requests |\n|---|---|---|---|");
    let schedule = json!({"ttft_ms": 20.0, "itl_ms": 1.0, "pause_s": [2.0, 3.0]});
    let began = Instant::now();
    let server = Server::start(&schedule);
    let open = ours(&server, &json!({"rate": RATE, "requests": 400, "osl": 2, "tokenizer": false}), &[]);
    let report = open.report.unwrap();
    let row = |name: &str, ttft: &[f64]| {
        println!(
            "| {name} | {:.1} | {:.1} | {} |",
            mean(ttft.iter().copied()),
            quantile(ttft, 0.99).unwrap(),
            ttft.len()
        );
    };
    // The schedule's k-th request should have come k / rate after the first; the earliest of all tells the first.
    let mut truth: Vec<(f64, Truth)> = server
        .truth()
        .into_iter()
        .filter_map(|(id, t)| Some((id.rsplit('-').next()?.parse::<f64>().ok()?, t)))
        .collect();
    truth.sort_by(|a, b| a.0.total_cmp(&b.0));
    let origin = truth.iter().map(|(k, t)| t.received_s - k / RATE).fold(f64::INFINITY, f64::min);
    let by_schedule: Vec<f64> = truth.iter().take(400).map(|(k, t)| (t.first_s - (origin + k / RATE)) * 1e3).collect();
    row("server, from the intended start", &by_schedule);
    row("builtin, open loop", &report.samples.iter().map(|s| s.ttft_ms).collect::<Vec<_>>());
    drop(server);
    let server = Server::start(&schedule);
    let closed = ours(&server, &json!({"concurrency": 2, "requests": 400, "osl": 2, "tokenizer": false}), &[]);
    row("builtin, closed loop of 2", &closed.report.unwrap().samples.iter().map(|s| s.ttft_ms).collect::<Vec<_>>());
    println!("\n({:.0} s.)\n", began.elapsed().as_secs_f64());
}
