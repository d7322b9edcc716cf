//! `cargo xtask bench kubernetes`: what the profiler adds to a candidate on a Kubernetes cluster, and what it takes to
//! watch a thousand pods, as a Markdown report on stdout.
//!
//! The API server, its controllers and scheduler are real; nodes are kwok's, the operator is the stand-in of the tests,
//! and engines are HTTP servers that answer at once. Nothing here passes or fails. `host/docs/benchmarks.md` keeps a
//! report and says how to read it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement, not the program: a failure is the message"
)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use serde_json::json;
use sla_profiler::domain::{Aim, Probe, Role, search_space};
use sla_profiler::engine::kubernetes::{Deadlines, KubernetesCluster, Options, Reach};
use sla_profiler::engine::served::{Bench, Settings, Stop};
use sla_profiler::engine::simulated::SimulatedCluster;
use sla_profiler::engine::{Cluster, Launch};
use sla_profiler::http;
use sla_profiler::kubernetes::{Access, Kube, Owner};
use sla_profiler::load::{Endpoint as Served, LoadError, LoadGenerator, LoadReport, Point};
use sla_profiler::spec::{Flags, Source, load};
use sla_profiler_tests::kubernetes::operator::{DGD_LABEL, log_line};
use sla_profiler_tests::kubernetes::{ControlPlane, Endpoint, Namespace, Operator, Proxy, block_on, nodes};
use sla_profiler_tests::openai::{Behaviour, OpenAi, Timing, word_tokenizer};
use sla_profiler_tests::sla_profiler;

const MODEL: &str = "Qwen/Qwen3-0.6B";
const CANDIDATES: usize = 20;
const MANY_PODS: i64 = 999;

fn main() {
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!("Profile {profile}, {cpus} CPUs, load average {} at the start.\n", load_average());
    block_on(overhead());
    println!(
        "| pods of an engine | requests through | resident at rest, MB | most, MB | of it the program's file, MB |"
    );
    println!("|---|---|---|---|---|");
    for (pods, reach) in [(1, Way::Url), (MANY_PODS, Way::Url), (1, Way::PortForward)] {
        block_on(memory(pods, reach));
    }
    println!("\nLoad average {} at the end.", load_average());
}

/// Of the last minute.
fn load_average() -> String {
    let all = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    all.split(' ').next().unwrap_or_default().to_owned()
}

/// First quartile, median and third quartile.
fn quartiles(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let [low, median, high] = [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4]);
    format!("{median:.2} ({low:.2} to {high:.2}), at most {:.2}", values.last().unwrap())
}

/// Measures nothing and takes no time: measuring is not in question here.
struct Nothing;

#[async_trait]
impl LoadGenerator for Nothing {
    fn name(&self) -> &'static str {
        "stand-in"
    }

    async fn measure(&self, _: &Served, _: &Point) -> Result<LoadReport, LoadError> {
        let estimate = json!({ "value": 1.0, "ci_low": 1.0, "ci_high": 1.0, "samples": 9 });
        let report = json!({
            "ttft_ms": null, "itl_ms": null, "e2e_ms": null, "requests": 9, "failed_requests": 0,
            "wrong_length_requests": 0, "concurrency_seen": estimate, "input_tokens_per_second": estimate,
            "output_tokens_per_second": estimate, "requests_per_second": estimate, "duration_s": 1.0,
            "stopped": "most-requests", "tokens_per_chunk": 1.0, "chunks_per_read": 1.0, "samples": [],
        });
        Ok(serde_json::from_value(report).unwrap())
    }
}

/// When things happened to the newest deployment, as a bystander sees it.
#[derive(Default, Clone, Copy)]
struct Seen {
    created: Option<Instant>,
    ready: Option<Instant>,
    deleted: Option<Instant>,
    last_pod_gone: Option<Instant>,
}

async fn look(dgds: Api<DynamicObject>, pods: Api<Pod>, seen: Arc<Mutex<Seen>>) {
    let mut dgds = pin!(watcher::watcher(dgds, watcher::Config::default()).default_backoff());
    let mut pods = pin!(watcher::watcher(pods, watcher::Config::default().labels(DGD_LABEL)).default_backoff());
    loop {
        tokio::select! {
            Some(Ok(event)) = dgds.next() => {
                let mut seen = seen.lock().unwrap();
                match event {
                    Event::Apply(dgd) => {
                        seen.created.get_or_insert_with(Instant::now);
                        if dgd.data["status"]["state"] == "successful" {
                            seen.ready.get_or_insert_with(Instant::now);
                        }
                    }
                    Event::Delete(_) => seen.deleted = Some(Instant::now()),
                    _ => {}
                }
            }
            Some(Ok(event)) = pods.next() => if matches!(event, Event::Delete(_)) {
                seen.lock().unwrap().last_pod_gone = Some(Instant::now());
            },
            else => return,
        }
    }
}

async fn overhead() {
    let job = json!({
        "model": MODEL, "hardware": { "gpuSku": "h200_sxm", "numGpusPerNode": 8, "totalGpus": 8 },
        "workload": { "isl": 500, "osl": 50 }, "sla": { "ttft": 200, "itl": 20 }, "profiler": { "maxNumGpusPerEngine": 8 },
    });
    let plane = ControlPlane::shared();
    let namespace = Namespace::create(plane, "overhead").await;
    nodes::add_node(plane, "overhead-0", "NVIDIA-H200", 8).await;
    let server = OpenAi::start(Behaviour { model: MODEL.to_owned(), kv_tokens: 643_891, ..Behaviour::default() });
    let (port, log_file) = (port(&server), Some(engine_log("overhead")));
    let engines = move |_: &DynamicObject, _: &Pod| Some(Endpoint { port, log_file: log_file.clone() });
    let _operator = Operator::start(plane, namespace.name(), Arc::new(engines));
    let proxy = Proxy::start(plane);
    let access = Access { kubeconfig: Some(namespace.admin_kubeconfig(proxy.port())), ..Access::default() };
    let kube = Kube::connect(&access).await.unwrap();
    let mut spec = load(&Source::Inline(job.to_string()), &Flags::default()).unwrap().spec;
    spec.deployment.namespace = Some(namespace.name().to_owned());
    let bench = Bench {
        job: Arc::new(spec.job.clone()),
        generator: Arc::new(Nothing),
        settings: Settings { kv_tolerance: 10.0, ..Settings::default() },
        http: http::Client::new(http::Options::default()),
        stop: Stop::default(),
        reports: None,
    };
    let options = Options {
        kube,
        owner: Owner::new("req", None, "overhead"),
        lease: None,
        reach: Reach::Url(server.url.clone()),
        deadlines: Deadlines::default(),
        dir: None,
        endpoint: Served::new("", MODEL),
        estimate: Arc::new(SimulatedCluster::new(&spec.job, &spec.simulation)),
        client_pods: None,
    };
    let space = search_space::build(&spec.job, &spec.limits);
    let cluster = KubernetesCluster::new(spec, bench, options);
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let looking = tokio::spawn(look(namespace.dgds(), namespace.api(), Arc::clone(&seen)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut own, mut asked, mut watches) = (Vec::new(), Vec::new(), Vec::new());
    for (candidate, id) in space.candidates.iter().cycle().take(CANDIDATES).zip(0..) {
        *seen.lock().unwrap() = Seen::default();
        proxy.forget();
        let started = Instant::now();
        let launch = Launch { id, candidate: candidate.clone(), failed: 0 };
        let mut engine = cluster.launch(&launch).await.unwrap_or_else(|failure| panic!("{failure:?}"));
        let probe = Probe { candidate: id, isl: 500, osl: 50, concurrency: 1, relative_precision: 0.1, max_samples: 9 };
        engine.measure(Role::Decode, &probe, Aim::Value).await.unwrap_or_else(|failure| panic!("{failure:?}"));
        engine.shutdown().await.unwrap_or_else(|failure| panic!("{failure:?}"));
        let total = started.elapsed();
        let requests = proxy.asked();
        let control = requests.iter().filter(|asked| !asked.path.contains("portforward"));
        watches.push(control.clone().filter(|asked| asked.is_watch()).count() as f64);
        asked.push(control.count() as f64);
        // The bystander's watch may be a moment behind.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let Seen { created, ready, deleted, last_pod_gone } = *seen.lock().unwrap();
        let between = |from: Option<Instant>, to: Option<Instant>| to.unwrap().saturating_duration_since(from.unwrap());
        let cluster_s = between(created, ready) + between(deleted, last_pod_gone);
        own.push(total.saturating_sub(cluster_s).as_secs_f64());
    }
    looking.abort();
    println!("| for one of {CANDIDATES} candidates, one after the other | median (quartiles), most |\n|---|---|");
    println!("| own overhead: all but launching and measuring, s | {} |", quartiles(own));
    println!("| requests to the API server, those that open watches and logs included | {} |", quartiles(asked));
    println!("| of these, requests that open a watch | {} |\n", quartiles(watches));
}

fn port(server: &OpenAi) -> u16 {
    server.url.rsplit(':').next().unwrap().parse().unwrap()
}

fn engine_log(name: &str) -> PathBuf {
    let log = ControlPlane::shared().folder().join(format!("{name}.engine.log"));
    std::fs::write(&log, format!("{}\n", log_line("GPU KV cache size: 643,891 tokens"))).unwrap();
    log
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Url,
    PortForward,
}

/// A field of `/proc/PID/status`, in MB.
fn status(pid: u32, field: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kb| kb * 1024.0 / 1e6)
}

/// A whole run of the program with so many worker pods in each deployment.
async fn memory(pods: i64, way: Way) {
    let plane = ControlPlane::shared();
    let name = format!("memory-{pods}-{}", format!("{way:?}").to_lowercase());
    let namespace = Namespace::create(plane, &name).await;
    for node in 0..2 {
        nodes::add_node(plane, &format!("{name}-{node}"), "NVIDIA-H200", 8000).await;
    }
    // Few requests in flight: what load takes is in host/docs/load-generator.md.
    let server = OpenAi::start(Behaviour {
        model: MODEL.to_owned(),
        timing: Timing::fixed(4.0, 2.0),
        kv_tokens: 12_000,
        ..Behaviour::default()
    });
    let (port, log_file) = (port(&server), Some(engine_log(&name)));
    let played: Mutex<HashMap<String, u32>> = Mutex::default();
    // A few pods of each deployment answer; the others only are.
    let engines = move |dgd: &DynamicObject, _: &Pod| {
        let mut played = played.lock().unwrap();
        let count = played.entry(dgd.name_any()).or_default();
        *count += 1;
        (*count <= 8).then(|| Endpoint { port, log_file: log_file.clone() })
    };
    let _operator = Operator::with_pods(plane, namespace.name(), Arc::new(engines), pods);
    let job = json!({
        "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeploymentRequest", "metadata": { "name": "chat" },
        "spec": {
            "model": MODEL, "backend": "vllm", "image": "registry.example/dynamo-planner:1.4.0",
            "hardware": { "gpuSku": "h200_sxm", "numGpusPerNode": 8, "totalGpus": 8 },
            "workload": { "isl": 100, "osl": 20, "requestRate": 5 }, "sla": { "ttft": 500, "itl": 50 },
            "profiler": { "maxNumGpusPerEngine": 1, "maxContextLength": 200 },
        },
    });
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("dgdr.json");
    std::fs::write(&file, job.to_string()).unwrap();
    let mut command = sla_profiler(["profile", "--cluster", "kubernetes", "--load", "builtin", "-f"]);
    command.arg(&file).arg("--kubeconfig").arg(namespace.admin_kubeconfig(plane.port()));
    command.args(["--namespace", namespace.name()]);
    command.args(["--reach", if way == Way::Url { &server.url } else { "port-forward" }]);
    command.args(["--kv-tolerance", "0.999", "--max-client-share", "inf", "--tokenizer"]).arg(word_tokenizer());
    command.arg("--out").arg(out.path().join("run")).stdout(Stdio::null());
    command.stderr(std::fs::File::create(out.path().join("err")).unwrap());
    let mut child = command.spawn().unwrap();
    let (mut at_rest, mut most, mut file_backed) = (f64::INFINITY, 0.0_f64, 0.0_f64);
    let mut answered = 0;
    let status_of_child = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        let pid = child.id();
        if let (Some(now), Some(peak)) = (status(pid, "VmRSS"), status(pid, "VmHWM")) {
            most = most.max(peak);
            file_backed = file_backed.max(status(pid, "RssFile").unwrap_or(0.0));
            // While nothing is sent, all pods are there, and the first engine has come up.
            let completions = server.completions();
            if completions > 0 && completions == answered {
                at_rest = at_rest.min(now);
            }
            answered = completions;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    if !status_of_child.success() {
        println!("{}", std::fs::read_to_string(out.path().join("err")).unwrap_or_default());
    }
    println!("| {pods} | {way:?} | {at_rest:.0} | {most:.0} | {file_backed:.0} |");
}
