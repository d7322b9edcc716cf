//! Runs that are watched: metrics that are scraped, traces that a collector receives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::Value;
use sla_profiler::domain::History;
use sla_profiler::replay::Recording;
use sla_profiler::run::Observer as _;
use sla_profiler::telemetry::{Metrics, serve};
use sla_profiler_tests::recorded::QUICKSTART;
use sla_profiler_tests::runs::{SMALL, expect, profile};

/// Head and body of an answer.
fn get(address: std::net::SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// Each sample's value, by its name with its labels in braces.
fn scraped(body: &str) -> BTreeMap<String, f64> {
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = if name.contains('{') { name.replace('"', "") } else { format!("{name}{{}}") };
            (name, value.parse().unwrap())
        })
        .collect()
}

#[test]
fn a_scrape_says_what_the_run_is_doing() {
    let recording = Recording::open(&QUICKSTART.path).unwrap();
    let metrics = Metrics::default();
    let address = serve("127.0.0.1:0".parse().unwrap(), metrics.clone()).unwrap();
    let mut observer = metrics;
    let mut seen_launching = 0.0_f64;
    for record in recording.records() {
        observer.on(record, &History::default());
        if matches!(record.event, sla_profiler::run::Event::Launching { .. }) {
            let now = scraped(&get(address, "GET /metrics").1);
            seen_launching = seen_launching.max(now["sla_profiler_engines{state=launching}"]);
            assert!(now["sla_profiler_gpus_held{}"] > 0.0 && now["sla_profiler_gpus_held{}"] <= 8.0, "{now:#?}");
        }
    }
    assert!(seen_launching >= 1.0, "{seen_launching}");
    let (head, body) = get(address, "GET /metrics");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let now = scraped(&body);
    let points = recording.measurements().count() as f64;
    let of = |role: &str| now[&format!("sla_profiler_points_total{{role={role}}}")];
    assert_eq!(of("prefill") + of("decode"), points);
    assert_eq!(now["sla_profiler_finished{}"], 1.0);
    assert_eq!(now["sla_profiler_feasible{}"], 1.0);
    assert_eq!(now["sla_profiler_progress_ratio{}"], 1.0);
    assert_eq!(now["sla_profiler_gpus_held{}"], 0.0);
    assert!(body.contains("model=\"nvidia/Llama-3.1-8B-Instruct-FP8\""), "{body}");
    let used = sla_profiler::run::journal::gpu_seconds(recording.records());
    assert!(
        (now["sla_profiler_gpu_seconds_total{}"] - used).abs() < 1e-6 * used,
        "{} and {used}",
        now["sla_profiler_gpu_seconds_total{}"]
    );
    assert!(get(address, "GET /").0.contains("404"));
    assert!(get(address, "POST /metrics").0.contains("405"));
}

/// Takes OTLP over HTTP until it is dropped; what came, in order.
fn collector() -> (String, std::sync::mpsc::Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while reader.read_line(&mut head).unwrap() > 2 {}
            let length = head
                .lines()
                .find_map(|l| l.to_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            let mut body = vec![0; length.unwrap()];
            reader.read_exact(&mut body).unwrap();
            write!(
                reader.get_mut(),
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
            )
            .unwrap();
            if sender.send((head, serde_json::from_slice(&body).unwrap())).is_err() {
                return;
            }
        }
    });
    (url, receiver)
}

#[test]
fn a_collector_receives_the_run_its_phases_its_engines_and_its_measurements() {
    let (url, received) = collector();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let said = expect(0, profile(SMALL, &out, &["--otlp", &url, "--metrics-listen", "127.0.0.1:0"]));
    assert!(said.err.contains("metrics at http://127.0.0.1:"), "{}", said.err);
    let mut spans = Vec::new();
    while let Ok((head, body)) = received.recv_timeout(Duration::from_millis(500)) {
        assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
        for resource in body["resourceSpans"].as_array().unwrap() {
            assert!(resource["resource"].to_string().contains("sla-profiler"), "{resource}");
            for scope in resource["scopeSpans"].as_array().unwrap() {
                spans.extend(scope["spans"].as_array().unwrap().clone());
            }
        }
    }
    let named = |name: &str| spans.iter().filter(|span| span["name"] == name).collect::<Vec<_>>();
    let recording = Recording::open(&out).unwrap();
    assert_eq!(named("measure").len(), recording.measurements().count());
    assert_eq!(named("profile").len(), 1);
    for phase in ["prefill sweep", "decode sweep", "selection", "plan and deployment"] {
        assert_eq!(named(phase).len(), 1, "{phase}");
        assert_eq!(named(phase)[0]["parentSpanId"], named("profile")[0]["spanId"]);
    }
    let is_engine = |span: &&Value| span["name"].as_str().unwrap().starts_with("engine ");
    let engines: Vec<&Value> = spans.iter().filter(is_engine).collect();
    let of_an_engine = |span: &Value| engines.iter().any(|engine| engine["spanId"] == span["parentSpanId"]);
    assert!(named("measure").iter().all(|span| of_an_engine(span)), "{spans:#?}");
    assert!(spans.iter().all(|span| span["traceId"] == named("profile")[0]["traceId"]));
    // On the cluster's clock, though the run took a moment.
    let time = |span: &Value, what: &str| span[what].as_str().unwrap().parse::<f64>().unwrap() / 1e9;
    let whole = named("profile")[0];
    let took = time(whole, "endTimeUnixNano") - time(whole, "startTimeUnixNano");
    let end_s = recording.records().last().unwrap().at_s;
    assert!((took - end_s).abs() < 1e-3, "{took} and {end_s}");
}

#[test]
fn a_collector_that_is_not_there_costs_the_run_nothing_but_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    // A port that nobody listens at: it was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    expect(0, profile(SMALL, &out, &["--otlp", &format!("http://{free}")]));
    assert!(out.join("result.json").exists());
}

#[test]
fn an_address_or_a_url_that_is_none_is_told_before_anything_is_created() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = expect(2, profile(SMALL, &out, &["--metrics-listen", &address]));
    assert!(said.err.contains("cannot listen for scrapes"), "{}", said.err);
    let said = expect(2, profile(SMALL, &out, &["--otlp", "localhost:4318"]));
    assert!(said.err.contains("--otlp takes http://"), "{}", said.err);
    assert!(!out.exists());
}
