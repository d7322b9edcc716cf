//! The builtin load generator and the HTTP client against a server whose schedule and faults are known.
//!
//! What is compared are counts, contents and orders of events, never durations: how well times agree is the benchmark's
//! subject (`host/docs/load-generator.md`).

#![allow(clippy::unwrap_used, reason = "a failure is the message")]

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use sla_profiler::http::{self, HttpError, Origin};
use sla_profiler::load::builtin::{Api, Builtin, Options};
use sla_profiler::load::{
    ApiKey, Endpoint, LoadError, LoadGenerator, LoadReport, Point, Prompts, Stopped, Traffic, Watch,
};
use sla_profiler_tests::openai::{Behaviour, Fault, OpenAi, Record, Timing, word_tokenizer};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Tests share the machine, so whether the client keeps up is not judged.
fn options() -> Options {
    Options { max_client_share: f64::INFINITY, request_deadline: Duration::from_secs(60), ..Options::default() }
}

fn point(concurrency: u32) -> Point {
    Point {
        isl: 40,
        osl: 8,
        traffic: Traffic::Closed { concurrency },
        prompts: Prompts::Unique,
        watch: Watch::Both,
        relative_precision: 0.0,
        ttft_target_ms: None,
        itl_target_ms: None,
        max_requests: 12,
        quantile: None,
        max_error_rate: 0.0,
        seed: 1,
        deadline: Duration::from_secs(120),
        artifacts: None,
    }
}

fn endpoint(server: &OpenAi) -> Endpoint {
    Endpoint::new(server.url.clone(), "tiny")
}

fn measure_with(options: Options, endpoint: &Endpoint, point: &Point) -> Result<LoadReport, LoadError> {
    block_on(Builtin::new(options).measure(endpoint, point))
}

fn measure(server: &OpenAi, point: &Point) -> Result<LoadReport, LoadError> {
    measure_with(options(), &endpoint(server), point)
}

/// What the server noted of the point, without what was sent to find out about it.
fn measured(server: &OpenAi) -> Vec<Record> {
    server.records().into_iter().filter(|r| r.id != "calibration").collect()
}

/// The place of a request in the order of starting.
fn index(record: &Record) -> usize {
    record.id.rsplit('-').next().unwrap().parse().unwrap()
}

fn with_fault(fault: Fault) -> Behaviour {
    // The first two completions find out how the server counts.
    Behaviour { fault: Some(fault), fault_after: 2, ..Behaviour::default() }
}

#[test]
fn prompts_have_the_length_that_was_asked_for_by_the_servers_count() {
    for api in [Api::Chat, Api::Completions] {
        for tokenizer in [None, Some(word_tokenizer().clone())] {
            let server = OpenAi::start(Behaviour::default());
            let endpoint = Endpoint { tokenizer, ..endpoint(&server) };
            let report = measure_with(Options { api, ..options() }, &endpoint, &point(1)).unwrap();
            assert_eq!(report.requests, 12);
            assert!(report.samples.iter().all(|s| s.input_tokens == 40 && s.output_tokens == 8));
            assert!(measured(&server).iter().all(|r| r.isl == 40 && r.path == api.path()));
        }
    }
}

#[test]
fn unique_prompts_share_no_beginning_and_are_new_in_each_run() {
    let server = OpenAi::start(Behaviour::default());
    for _ in 0..2 {
        measure(&server, &point(4)).unwrap();
    }
    let records = measured(&server);
    let beginnings: HashSet<String> =
        records.iter().map(|r| r.prompt.split(' ').take(12).collect::<Vec<_>>().join(" ")).collect();
    assert!(records.len() >= 2 * (4 + 12));
    assert_eq!(beginnings.len(), records.len());
}

#[test]
fn shared_prompts_are_one_per_client_and_in_the_cache_before_measuring() {
    let server = OpenAi::start(Behaviour::default());
    let point = Point { prompts: Prompts::Shared, watch: Watch::Itl, ..point(4) };
    measure(&server, &point).unwrap();
    let mut by_prompt: HashMap<String, Vec<Record>> = HashMap::new();
    for record in measured(&server) {
        by_prompt.entry(record.prompt.clone()).or_default().push(record);
    }
    assert_eq!(by_prompt.len(), 4);
    let mut all: Vec<&Record> = by_prompt.values().flatten().collect();
    all.sort_by(|a, b| a.received_s.total_cmp(&b.received_s));
    let (warm_up, rest) = all.split_at(4);
    assert!(warm_up.iter().all(|r| r.osl == 1) && rest.iter().all(|r| r.osl == 8));
    assert!(warm_up.iter().all(|w| rest.iter().all(|r| w.last_s < r.received_s)));
    // The seed names them: a second run finds them in the cache.
    let before: HashSet<String> = by_prompt.into_keys().collect();
    measure(&server, &point).unwrap();
    assert!(measured(&server).iter().all(|r| before.contains(&r.prompt)));
}

#[test]
fn a_closed_loop_has_as_many_requests_in_flight_as_was_asked() {
    let server = OpenAi::start(Behaviour { timing: Timing::fixed(20.0, 5.0), ..Behaviour::default() });
    let report = measure(&server, &Point { max_requests: 40, ..point(16) }).unwrap();
    let most = measured(&server).iter().map(|r| r.running).max().unwrap();
    // One more where the server has sent all, the client has begun the next, and the server has yet to count.
    assert!((15..=17).contains(&most), "{most}");
    assert!(report.concurrency_seen.value > 8.0, "{:?}", report.concurrency_seen);
    // Clients keep their connections; one more found out how the server counts.
    assert_eq!(server.connections(), 17);
}

#[test]
fn the_client_sees_nothing_before_the_server_has_sent_it() {
    let server = OpenAi::start(Behaviour { timing: Timing::fixed(10.0, 3.0), ..Behaviour::default() });
    let report = measure(&server, &point(1)).unwrap();
    let mut records = measured(&server);
    records.sort_by_key(index);
    // The first request fills the queue and does not count.
    assert_eq!(report.samples.len(), 12);
    for (sample, record) in report.samples.iter().zip(&records[1..]) {
        assert!(sample.ttft_ms >= record.ttft_ms() && record.ttft_ms() >= 10.0, "{sample:?} {record:?}");
        assert!(sample.e2e_ms >= record.ttft_ms() + 7.0 * record.itl_ms(), "{sample:?} {record:?}");
        assert!(sample.itl_ms.unwrap() > 0.0);
    }
}

#[test]
fn a_point_ends_at_its_cap_and_says_so() {
    let server = OpenAi::start(Behaviour::default());
    let report = measure(&server, &point(3)).unwrap();
    assert_eq!((report.stopped, report.requests), (Stopped::MostRequests, 12));
    for figure in [report.ttft_ms, report.itl_ms, report.e2e_ms].map(Option::unwrap) {
        assert_eq!(figure.samples, 12);
        assert!(figure.stat.ci_low <= figure.stat.mean && figure.stat.mean <= figure.stat.ci_high);
    }
}

#[test]
fn a_point_ends_when_it_is_precise_enough_or_the_side_of_the_target_is_clear() {
    let server = OpenAi::start(Behaviour::default());
    let long = Point { max_requests: 2000, watch: Watch::Ttft, ..point(1) };
    let report = measure(&server, &Point { relative_precision: 10.0, ..long.clone() }).unwrap();
    assert_eq!(report.stopped, Stopped::Precise);
    assert!((8..20).contains(&report.requests), "{}", report.requests);

    let report = measure(&server, &Point { ttft_target_ms: Some(1e9), ..long.clone() }).unwrap();
    assert_eq!(report.stopped, Stopped::Decided);
    assert!((16..2000).contains(&report.requests), "{}", report.requests);

    // A quantile takes as many samples as it takes.
    let report = measure(&server, &Point { quantile: Some(0.95), relative_precision: 10.0, ..long }).unwrap();
    assert_eq!(report.stopped, Stopped::Precise);
    assert!((72..150).contains(&report.requests), "{}", report.requests);
    let ttft = report.ttft_ms.unwrap();
    assert_eq!((ttft.target.value, ttft.target.samples), (ttft.stat.target, report.requests));
}

#[test]
fn a_decode_point_has_an_answer_of_each_client() {
    let server = OpenAi::start(Behaviour { timing: Timing::fixed(5.0, 4.0), ..Behaviour::default() });
    let point = Point {
        osl: 60,
        prompts: Prompts::Shared,
        watch: Watch::Itl,
        relative_precision: 10.0,
        max_requests: 800,
        ..point(8)
    };
    let report = measure(&server, &point).unwrap();
    assert_eq!(report.stopped, Stopped::Precise);
    assert!((8..16).contains(&report.requests), "{}", report.requests);
    assert!(report.itl_ms.unwrap().stat.mean > 0.0);
    let rate = report.output_tokens_per_second;
    assert!(rate.ci_low <= rate.value && rate.value <= rate.ci_high && rate.value > 0.0, "{rate:?}");
}

#[test]
fn an_open_loop_does_not_wait_for_a_server_that_stands_still() {
    let pause = (Duration::from_millis(700), Duration::from_millis(1900));
    let run = |traffic| {
        let server = OpenAi::start(Behaviour { pause: Some(pause), ..Behaviour::default() });
        let began = Instant::now();
        let report = measure(&server, &Point { traffic, max_requests: 200, ..point(1) }).unwrap();
        let inside = |r: &&Record| (pause.0.as_secs_f64()..pause.1.as_secs_f64() - 0.1).contains(&r.received_s);
        (measured(&server).iter().filter(inside).count(), report, began)
    };
    let (open, report, _) = run(Traffic::Constant { requests_per_second: 80.0 });
    // About 88 by the schedule.
    assert!(open > 40, "{open}");
    // Those that arrived while it stood still waited for it, each for the rest of the pause.
    let waited = report.samples.iter().filter(|s| s.ttft_ms > 300.0).count();
    assert!(waited > 20, "{waited}");
    assert!(run(Traffic::Closed { concurrency: 1 }).0 <= 2);
}

#[test]
fn arrivals_by_chance_come_at_the_rate_that_was_asked() {
    let server = OpenAi::start(Behaviour::default());
    let traffic = Traffic::Poisson { requests_per_second: 200.0 };
    let report = measure(&server, &Point { traffic, max_requests: 100, ..point(1) }).unwrap();
    // The transient's requests are cut off.
    assert!((50..=100).contains(&report.requests), "{}", report.requests);
    let starts: Vec<f64> = report.samples.iter().map(|s| s.start_s).collect();
    assert!(starts.is_sorted());
    // Intended starts, which no delay of the machine moves: 1 s ± 0.1 s for 200 of them.
    let rate = (starts.len() - 1) as f64 / (starts.last().unwrap() - starts[0]);
    assert!((130.0..300.0).contains(&rate), "{rate}");
}

#[test]
fn pieces_that_arrive_together_are_counted() {
    let alone = OpenAi::start(Behaviour { timing: Timing::fixed(5.0, 5.0), ..Behaviour::default() });
    let together = OpenAi::start(Behaviour { coalesce: 4, ..Behaviour::default() });
    let pieces = |server| measure(server, &point(1)).map(|r| (r.tokens_per_chunk, r.chunks_per_read)).unwrap();
    let (tokens, per_read) = pieces(&alone);
    assert!(tokens == 1.0 && per_read < 1.5, "{tokens} {per_read}");
    let (tokens, per_read) = pieces(&together);
    assert!(tokens == 1.0 && per_read > 2.0, "{tokens} {per_read}");
}

#[test]
fn fields_that_a_server_refuses_are_left_out() {
    for refuses in [vec!["min_tokens"], vec!["ignore_eos"], vec!["stream_options", "ignore_eos"]] {
        let server = OpenAi::start(Behaviour { refuses: refuses.clone(), ..Behaviour::default() });
        let endpoint = Endpoint { tokenizer: Some(word_tokenizer().clone()), ..endpoint(&server) };
        // Without usage nobody says what the server adds, so the prompt is as long as the tokenizer says.
        let added = if refuses.contains(&"stream_options") { 3 } else { 0 };
        measure_with(options(), &endpoint, &point(2)).unwrap();
        assert!(measured(&server).iter().all(|r| r.isl == 40 + added && r.tokens == 8), "{refuses:?}");
    }
    let server = OpenAi::start(Behaviour { refuses: vec!["stream"], ..Behaviour::default() });
    match measure(&server, &point(1)).unwrap_err() {
        LoadError::Refused { status: 400, body, .. } => assert!(body.contains("parameter: stream"), "{body}"),
        other => panic!("{other}"),
    }
}

#[test]
fn an_answer_without_counts_has_as_many_tokens_as_its_end_proves() {
    let server = OpenAi::start(Behaviour { usage: false, ..Behaviour::default() });
    let endpoint = Endpoint { tokenizer: Some(word_tokenizer().clone()), ..endpoint(&server) };
    let report = measure_with(options(), &endpoint, &point(1)).unwrap();
    assert!(report.samples.iter().all(|s| s.output_tokens == 8));

    let server = OpenAi::start(Behaviour { usage: false, ..with_fault(Fault::EndsEarly(5)) });
    let endpoint = Endpoint { url: server.url.clone(), ..endpoint };
    let error = measure_with(options(), &endpoint, &point(1)).unwrap_err().to_string();
    assert!(error.contains("no token counts"), "{error}");
}

#[test]
fn answers_that_the_model_ends_early_are_counted_apart() {
    let server = OpenAi::start(with_fault(Fault::EndsEarly(5)));
    let report = measure(&server, &point(1)).unwrap();
    assert_eq!(report.wrong_length_requests, 12);
    assert!(report.samples.iter().all(|s| s.output_tokens == 5));
}

#[test]
fn a_server_that_closes_each_connection_is_measured_all_the_same() {
    let server = OpenAi::start(Behaviour { closes: true, ..Behaviour::default() });
    let report = measure(&server, &point(2)).unwrap();
    assert_eq!((report.requests, report.failed_requests), (12, 0));
    assert!(server.connections() > 12);
}

#[test]
fn whoever_is_not_there_is_unreachable() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = Endpoint::new(format!("http://127.0.0.1:{port}"), "tiny");
    match measure_with(options(), &endpoint, &point(1)).unwrap_err() {
        LoadError::Unreachable { url, reason } => {
            assert!(url == endpoint.url && reason.contains("refused"), "{reason}")
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_certificate_must_be_one_that_is_trusted() {
    let server = OpenAi::start(Behaviour { tls: true, ..Behaviour::default() });
    match measure(&server, &point(1)).unwrap_err() {
        LoadError::Unreachable { reason, .. } => assert!(reason.contains("certificate"), "{reason}"),
        other => panic!("{other}"),
    }
    let trusting = Options { ca_file: server.ca_file.clone(), ..options() };
    assert_eq!(measure_with(trusting, &endpoint(&server), &point(2)).unwrap().requests, 12);

    let missing = Options { ca_file: Some("no/such.pem".into()), ..options() };
    let error = measure_with(missing, &endpoint(&server), &point(1)).unwrap_err().to_string();
    assert!(error.contains("no/such.pem"), "{error}");
    // Plain HTTP where TLS is spoken, and the other way round.
    let plain = Endpoint::new(server.url.replace("https", "http"), "tiny");
    assert!(matches!(measure_with(options(), &plain, &point(1)), Err(LoadError::Unreachable { .. })));
    let server = OpenAi::start(Behaviour::default());
    let tls = Endpoint::new(server.url.replace("http", "https"), "tiny");
    let quick = Options { connect_deadline: Duration::from_millis(500), ..options() };
    assert!(matches!(measure_with(quick, &tls, &point(1)), Err(LoadError::Unreachable { .. })));
}

#[test]
fn a_key_opens_the_door_and_its_lack_is_named() {
    let server = OpenAi::start(Behaviour { api_key: Some("k-1".to_owned()), ..Behaviour::default() });
    let with = |key: Option<&str>| {
        let endpoint = Endpoint { api_key: key.map(ApiKey::new), ..endpoint(&server) };
        measure_with(options(), &endpoint, &point(1))
    };
    for (key, hint) in [(None, "no API key was given"), (Some("k-2"), "may be wrong")] {
        match with(key).unwrap_err() {
            LoadError::Refused { status: 401, body, .. } => {
                assert!(body.contains(hint) && !body.contains("k-2"), "{body}")
            }
            other => panic!("{other}"),
        }
    }
    assert!(matches!(with(Some("a\nb")), Err(LoadError::Setup(_))));
    assert_eq!(with(Some("k-1")).unwrap().requests, 12);
}

#[test]
fn a_model_that_is_not_there_is_refused_with_those_that_are() {
    let server = OpenAi::start(Behaviour::default());
    let endpoint = Endpoint::new(server.url.clone(), "huge");
    match measure_with(options(), &endpoint, &point(1)).unwrap_err() {
        LoadError::Refused { status: 404, body, .. } => {
            assert!(body.contains("huge") && body.contains("server has tiny"))
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_server_that_refuses_from_the_start_is_named_with_its_status() {
    for status in [429, 500, 503] {
        let server = OpenAi::start(Behaviour { fault: Some(Fault::Status(status)), ..Behaviour::default() });
        match measure(&server, &point(1)).unwrap_err() {
            LoadError::Refused { status: seen, body, .. } => assert!(seen == status && body.contains("on demand")),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn every_fault_of_an_answer_is_told_with_its_reason() {
    let rows = [
        (Fault::Status(500), "status 500"),
        (Fault::Status(429), "status 429"),
        (Fault::Cut(3), "closed within the answer, after 3 pieces"),
        (Fault::HalfClosed(0), "closed within the answer, after 0 pieces"),
        (Fault::Malformed(2), "no event of a completion"),
        (Fault::Html, "no event stream: <html>"),
        (Fault::ErrorEvent(2), "CUDA out of memory"),
        (Fault::NoTokens, "no token was generated"),
        (Fault::WrongUsage(-4), "4 generated tokens in 8 pieces"),
        (Fault::WrongUsage(100), "108 generated tokens"),
        (Fault::ZeroUsage, "0 generated tokens"),
    ];
    for (fault, reason) in rows {
        let server = OpenAi::start(with_fault(fault.clone()));
        match measure(&server, &point(2)).unwrap_err() {
            LoadError::Failures { failed, sent, first } => {
                assert!(first.contains(reason), "{fault:?}: {first}");
                assert!(failed == sent && failed >= 3, "{fault:?}: {failed} of {sent}");
            }
            other => panic!("{fault:?}: {other}"),
        }
    }
}

#[test]
fn some_failures_are_counted_and_too_many_end_the_point() {
    let behaviour = || Behaviour { fault_every: 5, ..with_fault(Fault::Status(500)) };
    let server = OpenAi::start(behaviour());
    let report = measure(&server, &Point { max_error_rate: 0.5, max_requests: 30, ..point(2) }).unwrap();
    assert_eq!(report.requests, 30);
    assert!((5..=9).contains(&report.failed_requests), "{}", report.failed_requests);
    assert!(report.first_failure.unwrap().contains("status 500"));

    let server = OpenAi::start(behaviour());
    match measure(&server, &Point { max_error_rate: 0.05, max_requests: 300, ..point(2) }).unwrap_err() {
        LoadError::Failures { failed, sent, .. } => assert!(sent < 40 && failed >= 3, "{failed} of {sent}"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_request_that_hangs_fails_alone() {
    for fault in [Fault::Stalls(3), Fault::NeverAnswers] {
        let server = OpenAi::start(Behaviour { fault_after: 8, fault_every: 1_000_000, ..with_fault(fault) });
        let server_with_one = OpenAi::start(Behaviour {
            fault_after: 8,
            fault_every: 1,
            fault: Some(Fault::NeverAnswers),
            ..Behaviour::default()
        });
        let quick = Options { request_deadline: Duration::from_millis(400), ..options() };
        let some = Point { max_error_rate: 0.5, ..point(2) };
        assert_eq!(measure_with(quick.clone(), &endpoint(&server), &some).unwrap().requests, 12);
        // From there on all hang.
        match measure_with(quick, &endpoint(&server_with_one), &some).unwrap_err() {
            LoadError::Failures { first, .. } => assert!(first.contains("no complete answer within 0.4 s"), "{first}"),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_point_ends_at_its_deadline_with_what_it_came_to() {
    let server = OpenAi::start(Behaviour { fault_after: 6, fault_every: 1, ..with_fault(Fault::NeverAnswers) });
    let point = Point { deadline: Duration::from_secs(2), ..point(1) };
    // Half of the point's deadline is the most that a request gets, so one fails before.
    match measure(&server, &point).unwrap_err() {
        LoadError::Deadline { deadline_s, progress } => {
            assert_eq!(deadline_s, 2.0);
            assert!(progress.contains("of at most 12 requests measured"), "{progress}");
        }
        other => panic!("{other}"),
    }
    // A server that accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::new(format!("http://{}", silent.local_addr().unwrap()), "tiny");
    assert!(matches!(measure_with(options(), &endpoint, &point), Err(LoadError::Deadline { .. })));
}

#[test]
fn whoever_stops_waiting_ends_all_requests() {
    let server = OpenAi::start(Behaviour { timing: Timing::fixed(1.0, 10.0), ..Behaviour::default() });
    let endpoint = endpoint(&server);
    let point = Point { osl: 100_000, ..point(8) };
    block_on(async {
        let generator = Builtin::new(options());
        let mut measuring = Box::pin(generator.measure(&endpoint, &point));
        // Until all requests are there, and then no longer.
        while server.running() < 8 {
            tokio::select! {
                result = &mut measuring => panic!("{result:?}"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
        drop(measuring);
        // The server notices at its next token.
        tokio::time::timeout(Duration::from_secs(60), async {
            while server.running() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
    });
}

#[test]
fn a_tokenizer_that_is_missing_broken_or_another_models_is_named() {
    let server = OpenAi::start(Behaviour::default());
    let setup = |tokenizer: &Path, server: &OpenAi| {
        let endpoint = Endpoint { tokenizer: Some(tokenizer.to_owned()), ..endpoint(server) };
        match measure_with(options(), &endpoint, &point(1)).unwrap_err() {
            LoadError::Setup(reason) => reason,
            other => panic!("{other}"),
        }
    };
    let missing = setup(Path::new("no/such/tokenizer.json"), &server);
    assert!(missing.contains("no/such/tokenizer.json does not exist"), "{missing}");
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("tokenizer.json");
    std::fs::write(&broken, "{}").unwrap();
    // The folder stands for the file in it.
    assert!(setup(dir.path(), &server).contains("tokenizer.json"));
    let other = OpenAi::start(Behaviour { tokens_per_word: 2, ..Behaviour::default() });
    let reason = setup(word_tokenizer(), &other);
    assert!(reason.contains("the tokenizer is not that of its model"), "{reason}");
    let reason = measure(&other, &point(1)).unwrap_err().to_string();
    assert!(reason.contains("give the model's tokenizer.json"), "{reason}");
    let silent = OpenAi::start(Behaviour { usage: false, ..Behaviour::default() });
    let reason = measure(&silent, &point(1)).unwrap_err().to_string();
    assert!(reason.contains("`usage`") && reason.contains("tokenizer.json"), "{reason}");
}

#[test]
fn a_point_that_makes_no_sense_is_refused_before_anything_is_sent() {
    let server = OpenAi::start(Behaviour::default());
    let rows = [
        (Point { isl: 0, ..point(1) }, "at least one token"),
        (Point { osl: 0, ..point(1) }, "at least one token"),
        (Point { osl: 1, ..point(1) }, "two output tokens"),
        (point(0), "no request in flight"),
        (Point { max_requests: 0, ..point(1) }, "no request measures"),
        (Point { traffic: Traffic::Poisson { requests_per_second: 0.0 }, ..point(1) }, "no rate"),
        (Point { traffic: Traffic::Constant { requests_per_second: f64::NAN }, ..point(1) }, "no rate"),
        (Point { quantile: Some(1.0), ..point(1) }, "between 0 and 1"),
    ];
    for (point, reason) in rows {
        let error = measure(&server, &point).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(server.completions(), 0);
    // What the server adds leaves no room; only it can say so.
    let error = measure(&server, &Point { isl: 3, ..point(1) }).unwrap_err().to_string();
    assert!(error.contains("adds 3 tokens"), "{error}");
    let error = measure_with(options(), &Endpoint::new("localhost:8000", "tiny"), &point(1)).unwrap_err().to_string();
    assert!(error.contains("http://"), "{error}");
}

#[test]
fn a_server_is_asked_once_how_it_counts() {
    let server = OpenAi::start(Behaviour::default());
    let generator = Builtin::new(options());
    block_on(async {
        for _ in 0..3 {
            generator.measure(&endpoint(&server), &point(1)).await.unwrap();
        }
    });
    assert_eq!(server.records().iter().filter(|r| r.id == "calibration").count(), 2);
}

#[test]
fn the_http_client_reads_whole_answers_and_pieces() {
    let server = OpenAi::start(Behaviour::default());
    let (client, origin) = (http::Client::default(), server.url.parse::<Origin>().unwrap());
    let deadline = Duration::from_secs(30);
    block_on(async {
        let metrics = client.get(&origin, "/metrics", None, deadline).await.unwrap();
        assert!(metrics.is_success() && metrics.text().contains("vllm:num_requests_running"));
        assert_eq!(client.get(&origin, "/nothing", None, deadline).await.unwrap().status, 404);
        let body = br#"{"model": "tiny", "prompt": "a b", "max_tokens": 3, "stream": true}"#.to_vec();
        let whole = client.post_json(&origin, "/v1/completions", None, body.clone(), deadline).await.unwrap();
        assert!(whole.is_success() && whole.text().trim_end().ends_with("[DONE]"));
        let mut stream = client.open(&origin, "/v1/completions", None, Some(body), deadline).await.unwrap();
        let mut text = Vec::new();
        while let Some(piece) = stream.next().await.unwrap() {
            text.extend(piece);
        }
        assert_eq!(String::from_utf8(text).unwrap().matches(" word").count(), 3);
    });
}

#[test]
fn the_http_client_waits_no_longer_than_it_may() {
    let server = OpenAi::start(Behaviour { fault: Some(Fault::NeverAnswers), ..Behaviour::default() });
    let (client, origin) = (http::Client::default(), server.url.parse::<Origin>().unwrap());
    let body = br#"{"model": "tiny", "prompt": "a", "stream": true}"#.to_vec();
    let result = block_on(client.post_json(&origin, "/v1/completions", None, body, Duration::from_millis(300)));
    assert!(matches!(result, Err(HttpError::Deadline { what: "the answer", .. })), "{result:?}");
}
