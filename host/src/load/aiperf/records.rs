//! What AIPerf writes: `profile_export.jsonl`, one request a line, and `profile_export_aiperf.json`, its own summary.
//!
//! The records are the source; the summary is compared with them. Fields that are not needed are not looked at: AIPerf
//! adds some with each version.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use super::VERSION;

/// One line a request.
pub(super) const RECORDS: &str = "profile_export.jsonl";

/// AIPerf's own summary. Phases have files of the same name in folders of their own; this is the one in the root.
const SUMMARY: &str = "profile_export_aiperf.json";

/// A line of records holds each gap between tokens; a longer one is not read into memory.
const LONGEST_LINE: u64 = 64 << 20;

/// Longest text of a server that is kept.
const LONGEST_TEXT: usize = 300;

/// The requests of one or more runs, without those of the warm-up.
#[derive(Debug, Clone, Default)]
pub(super) struct Export {
    /// Answered, in the order of their starts.
    pub requests: Vec<Request>,
    /// Not answered.
    pub failures: Vec<Trouble>,
    /// Time measured, in seconds: of each run, from the first start to the last end.
    pub duration_s: f64,
}

/// A request that was answered. Times are AIPerf's, on the system's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Request {
    /// AIPerf's timing manager told a worker to send it: its intended start.
    pub issued_ns: u64,
    /// The worker began to.
    pub started_ns: u64,
    /// From `started_ns`.
    pub ttft_ms: f64,
    /// From `started_ns` to the last token.
    pub latency_ms: f64,
    /// The server's count.
    pub input_tokens: u32,
    /// The server's count.
    pub output_tokens: u32,
    /// Pieces of the stream that carried text.
    pub chunks: u32,
    /// Reads from the connection.
    pub reads: u32,
}

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// HTTP status, where the server answered.
    pub status: Option<u16>,
    /// What went wrong.
    pub message: String,
}

impl Export {
    /// The records of a run in its folder.
    ///
    /// # Errors
    /// In words, with file and line, if they cannot be read or lack what is needed.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let path = folder.join(RECORDS);
        let wrong = |reason: String| format!("{}: {reason}", path.display());
        let file = File::open(&path).map_err(|error| wrong(error.to_string()))?;
        let mut export = Self::default();
        let (mut first, mut last) = (u64::MAX, 0);
        for (number, line) in lines(BufReader::new(file)).enumerate() {
            let at = |reason: String| wrong(format!("line {}: {reason}", number + 1));
            let line = line.map_err(at)?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let record: Record = serde_json::from_slice(&line).map_err(|error| at(error.to_string()))?;
            if record.metadata.benchmark_phase == "warmup" {
                // A server that is broken breaks in the warm-up already, and then nothing is measured.
                continue;
            }
            first = first.min(record.metadata.request_start_ns);
            last = last.max(record.metadata.request_end_ns);
            match record.outcome().map_err(at)? {
                Ok(request) => export.requests.push(request),
                Err(trouble) => export.failures.push(trouble),
            }
        }
        export.requests.sort_by_key(|request| request.started_ns);
        export.duration_s = last.saturating_sub(first) as f64 / 1e9;
        Ok(export)
    }

    /// This, if it holds as many requests as were asked for and as AIPerf's summary speaks of.
    ///
    /// # Errors
    /// In words.
    pub fn complete(self, folder: &Path, asked: u32) -> Result<Self, String> {
        let path = folder.join(SUMMARY);
        let wrong = |reason: String| format!("{}: {reason}", path.display());
        let text = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
        let summary: Summary = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if series(&summary.aiperf_version) != series(VERSION) {
            tracing::warn!("aiperf {} was not tried; {VERSION} was", summary.aiperf_version);
        }
        if summary.was_cancelled {
            return Err(wrong("the run was cancelled".to_owned()));
        }
        let (answered, all) = (self.requests.len(), self.requests.len() + self.failures.len());
        if summary.request_count.avg != answered as f64 {
            // AIPerf is told to count by the server's figures, and leaves out the answers that come without.
            return Err(wrong(format!(
                "{} answers, and {RECORDS} has {answered}: does the server send no `usage`?",
                summary.request_count.avg
            )));
        }
        if all != asked as usize {
            return Err(wrong(format!("{all} requests of {asked} were sent")));
        }
        Ok(self)
    }

    /// Puts the requests of another run behind these.
    pub fn add(&mut self, other: Self) {
        self.requests.extend(other.requests);
        self.failures.extend(other.failures);
        self.duration_s += other.duration_s;
    }

    /// Whether no request was answered, and each was refused with this HTTP status.
    pub fn refused_with(&self, status: u16) -> bool {
        self.requests.is_empty()
            && !self.failures.is_empty()
            && self.failures.iter().all(|trouble| trouble.status == Some(status))
    }
}

/// How many records there are so far, of a run that was broken off.
pub(super) fn count(folder: &Path) -> usize {
    Export::read(folder).map_or(0, |export| export.requests.len())
}

/// Lines, none of which may be endless.
fn lines(mut reader: impl BufRead) -> impl Iterator<Item = Result<Vec<u8>, String>> {
    use std::io::Read as _;
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        match reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(n) if n as u64 == LONGEST_LINE => Some(Err(format!("is longer than {LONGEST_LINE} bytes"))),
            Ok(_) => Some(Ok(line)),
            Err(error) => Some(Err(error.to_string())),
        }
    })
}

/// `0.13` of `0.13.0`.
fn series(version: &str) -> Option<(&str, &str)> {
    let mut parts = version.split('.');
    Some((parts.next()?, parts.next()?))
}

#[derive(Debug, Deserialize)]
struct Summary {
    #[serde(default)]
    aiperf_version: String,
    #[serde(default)]
    was_cancelled: bool,
    request_count: Average,
}

#[derive(Debug, Deserialize)]
struct Average {
    avg: f64,
}

#[derive(Debug, Deserialize)]
struct Record {
    metadata: Metadata,
    #[serde(default)]
    metrics: Metrics,
    error: Option<RecordError>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    benchmark_phase: String,
    /// Absent in records of versions before 0.13.
    credit_issued_ns: Option<u64>,
    request_start_ns: u64,
    request_end_ns: u64,
    #[serde(default)]
    was_cancelled: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Metrics {
    time_to_first_token: Option<Metric<f64>>,
    request_latency: Option<Metric<f64>>,
    usage_prompt_tokens: Option<Metric<f64>>,
    usage_completion_tokens: Option<Metric<f64>>,
    inter_chunk_latency: Option<Metric<Vec<f64>>>,
    http_req_chunks_received: Option<Metric<f64>>,
}

#[derive(Debug, Deserialize)]
struct Metric<T> {
    value: T,
}

#[derive(Debug, Deserialize)]
struct RecordError {
    code: Option<i64>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl Record {
    /// What came of the request; the outer error says what the record lacks.
    fn outcome(self) -> Result<Result<Request, Trouble>, String> {
        if let Some(error) = self.error {
            return Ok(Err(error.trouble()));
        }
        if self.metadata.was_cancelled {
            return Ok(Err(Trouble { status: None, message: "aiperf cancelled it".to_owned() }));
        }
        let Metrics { usage_prompt_tokens, usage_completion_tokens, .. } = &self.metrics;
        let (Some(input), Some(output)) = (usage_prompt_tokens, usage_completion_tokens) else {
            let message = "the server did not count its tokens: its stream has no `usage`".to_owned();
            return Ok(Err(Trouble { status: None, message }));
        };
        let (input_tokens, output_tokens) = (tokens(input.value)?, tokens(output.value)?);
        let time = |metric: Option<Metric<f64>>, name: &str| match metric.map(|metric| metric.value) {
            Some(ms) if ms.is_finite() && ms >= 0.0 => Ok(ms),
            Some(ms) => Err(format!("`{name}` is {ms}")),
            None => Err(format!("`{name}` is missing")),
        };
        let gaps = self.metrics.inter_chunk_latency.map_or(0, |metric| metric.value.len());
        let chunks = u32::try_from(gaps + 1).unwrap_or(u32::MAX);
        let reads = self.metrics.http_req_chunks_received.ok_or("`http_req_chunks_received` is missing")?;
        Ok(Ok(Request {
            issued_ns: self.metadata.credit_issued_ns.unwrap_or(self.metadata.request_start_ns),
            started_ns: self.metadata.request_start_ns,
            ttft_ms: time(self.metrics.time_to_first_token, "time_to_first_token")?,
            latency_ms: time(self.metrics.request_latency, "request_latency")?,
            input_tokens,
            output_tokens,
            chunks,
            reads: tokens(reads.value)?,
        }))
    }
}

/// A count, which AIPerf writes as an integer or a float.
fn tokens(value: f64) -> Result<u32, String> {
    if value >= 0.0 && value <= f64::from(u32::MAX) && value.fract() == 0.0 {
        Ok(value as u32)
    } else {
        Err(format!("{value} is no count"))
    }
}

impl RecordError {
    fn trouble(self) -> Trouble {
        let status = self.code.and_then(|code| u16::try_from(code).ok()).filter(|code| (100..600).contains(code));
        let (kind, message) = (self.kind.unwrap_or_default(), self.message.unwrap_or_default());
        let message = if message.is_empty() { kind } else { message };
        Trouble { status, message: message.chars().take(LONGEST_TEXT).collect() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Requests one after the other with these TTFTs and 5 ms per further token.
    pub fn exported(ttfts_ms: &[f64], output_tokens: u32) -> Export {
        let requests = ttfts_ms.iter().zip(0..).map(|(ttft_ms, n): (&f64, u64)| Request {
            issued_ns: n * 1_000_000_000,
            started_ns: n * 1_000_000_000 + 1_000_000,
            ttft_ms: *ttft_ms,
            latency_ms: ttft_ms + 5.0 * f64::from(output_tokens - 1),
            input_tokens: 3000,
            output_tokens,
            chunks: output_tokens,
            reads: output_tokens,
        });
        Export { requests: requests.collect(), failures: Vec::new(), duration_s: ttfts_ms.len() as f64 }
    }

    /// As AIPerf 0.13.0 writes it, without what is not read.
    fn record(start_s: u64) -> Value {
        json!({
            "metadata": {
                "session_num": 2, "credit_issued_ns": start_s * 1_000_000_000, "benchmark_phase": "profiling",
                "request_start_ns": start_s * 1_000_000_000 + 2_000_000, "request_ack_ns": 0,
                "request_end_ns": start_s * 1_000_000_000 + 218_000_000, "was_cancelled": false,
            },
            "metrics": {
                "time_to_first_token": {"value": 93.25, "unit": "ms"},
                "request_latency": {"value": 216.0, "unit": "ms"},
                "usage_prompt_tokens": {"value": 1006, "unit": "tokens"},
                "usage_completion_tokens": {"value": 20, "unit": "tokens"},
                "inter_chunk_latency": {"value": [0.0, 5.5, 6.0], "unit": "ms"},
                "http_req_chunks_received": {"value": 3, "unit": "count"},
            },
        })
    }

    fn read(lines: &[String]) -> Result<Export, String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(RECORDS), lines.join("\n")).unwrap();
        Export::read(folder.path())
    }

    fn with(path: &str, value: Value) -> String {
        let mut record = record(1);
        *record.pointer_mut(path).unwrap() = value;
        record.to_string()
    }

    #[test]
    fn records_are_read_in_the_order_of_their_starts_without_the_warm_up() {
        let warm_up = with("/metadata/benchmark_phase", json!("warmup"));
        let export = read(&[record(7).to_string(), warm_up, String::new(), record(5).to_string()]).unwrap();
        assert_eq!(export.requests.iter().map(|r| r.issued_ns / 1_000_000_000).collect::<Vec<_>>(), [5, 7]);
        let expected = Request {
            issued_ns: 5_000_000_000,
            started_ns: 5_002_000_000,
            ttft_ms: 93.25,
            latency_ms: 216.0,
            input_tokens: 1006,
            output_tokens: 20,
            chunks: 4,
            reads: 3,
        };
        assert_eq!(export.requests[0], expected);
        assert!((export.duration_s - 2.216).abs() < 1e-9, "{}", export.duration_s);
    }

    #[test]
    fn failed_requests_keep_their_status_and_words() {
        let failed = |error: Value| {
            let mut record = record(1);
            record["metrics"] = json!({});
            record["error"] = error;
            record.to_string()
        };
        let export = read(&[
            failed(json!({"code": 404, "type": "Not Found", "message": "{\"message\":\"Model not found\"}"})),
            failed(json!({"type": "ClientConnectorError", "message": "refused", "cause_chain": []})),
            failed(json!({"code": -1, "type": "Odd"})),
            with("/metadata/was_cancelled", json!(true)),
        ])
        .unwrap();
        assert!(export.requests.is_empty());
        let found: Vec<_> = export.failures.iter().map(|t| (t.status, t.message.as_str())).collect();
        let expected = [
            (Some(404), "{\"message\":\"Model not found\"}"),
            (None, "refused"),
            (None, "Odd"),
            (None, "aiperf cancelled it"),
        ];
        assert_eq!(found, expected);
        assert!(!export.refused_with(404));
        let refused = read(&[failed(json!({"code": 400, "message": "ignore_eos"}))]).unwrap();
        assert!(refused.refused_with(400) && !refused.refused_with(404));
    }

    #[test]
    fn an_answer_whose_tokens_the_server_did_not_count_is_a_failure() {
        let mut uncounted = record(1);
        uncounted["metrics"].as_object_mut().unwrap().remove("usage_completion_tokens");
        let export = read(&[uncounted.to_string()]).unwrap();
        assert!(export.failures[0].message.contains("usage"), "{:?}", export.failures);
    }

    #[test]
    fn what_is_broken_is_named_with_its_line() {
        for (path, value, part) in [
            ("/metrics/time_to_first_token", Value::Null, "`time_to_first_token` is missing"),
            ("/metrics/request_latency/value", json!(-1.0), "`request_latency` is -1"),
            ("/metrics/usage_completion_tokens/value", json!(2.5), "2.5 is no count"),
            ("/metrics/usage_completion_tokens/value", json!(1e12), "is no count"),
            ("/metrics/http_req_chunks_received", Value::Null, "`http_req_chunks_received` is missing"),
            ("/metadata/request_start_ns", json!("soon"), "invalid type"),
            ("/metadata", json!([]), "invalid"),
        ] {
            let error = read(&[record(1).to_string(), with(path, value)]).unwrap_err();
            assert!(error.contains("line 2") && error.contains(part) && error.contains(RECORDS), "{error}");
        }
        let error = read(&[record(1).to_string()[..99].to_owned()]).unwrap_err();
        assert!(error.contains("line 1"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        assert!(Export::read(folder.path()).unwrap_err().contains(RECORDS));
    }

    #[test]
    fn records_and_summary_have_to_agree() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(RECORDS), record(1).to_string()).unwrap();
        let complete = |summary: Value, asked: u32| {
            fs::write(folder.path().join(SUMMARY), summary.to_string()).unwrap();
            Export::read(folder.path()).unwrap().complete(folder.path(), asked).map(|export| export.requests.len())
        };
        let good = json!({"aiperf_version": "0.13.0", "was_cancelled": false, "request_count": {"unit": "requests", "avg": 1.0}});
        assert_eq!(complete(good.clone(), 1), Ok(1));
        assert!(complete(good, 2).unwrap_err().contains("1 requests of 2"));
        assert!(complete(json!({"request_count": {"avg": 2.0}}), 1).unwrap_err().contains("2 answers"));
        assert!(
            complete(json!({"request_count": {"avg": 1.0}, "was_cancelled": true}), 1)
                .unwrap_err()
                .contains("cancelled")
        );
        assert!(complete(json!({}), 1).unwrap_err().contains("request_count"));
    }

    proptest! {
        #[test]
        fn no_text_is_too_broken_to_be_refused_calmly(text in any::<Vec<u8>>()) {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(RECORDS), &text).unwrap();
            fs::write(folder.path().join(SUMMARY), &text).unwrap();
            if let Ok(export) = Export::read(folder.path()) {
                let _ = export.complete(folder.path(), 1);
            }
        }

        /// A record with a part cut out, doubled or overwritten: it is read or refused, and what is read makes sense.
        #[test]
        fn no_change_of_a_record_gives_senseless_requests(
            from in 0_usize..900, length in 0_usize..60, put in "[-0-9.eE\"{}\\[\\],:nulltrue ]{0,20}",
        ) {
            let mut text = record(1).to_string();
            let (from, to) = (from.min(text.len()), (from + length).min(text.len()));
            text.replace_range(from..to, &put);
            if let Ok(export) = read(&[text]) {
                for request in export.requests {
                    prop_assert!(request.ttft_ms.is_finite() && request.ttft_ms >= 0.0);
                    prop_assert!(request.latency_ms.is_finite() && request.latency_ms >= 0.0);
                }
                prop_assert!(export.duration_s.is_finite() && export.duration_s >= 0.0);
            }
        }
    }
}
