//! What a run reads besides plugins: the request, its own journal, engines' logs, event streams, AIPerf's records.

use sla_profiler::backends;
use sla_profiler::domain::Backend;
use sla_profiler::load::{aiperf, builtin};
use sla_profiler::run::journal;
use sla_profiler::spec::{self, Flags, Source};

use crate::{Target, signal};

pub const DGDR: Target = Target {
    name: "dgdr",
    about: "a request makes a job, or is refused with a message of bounded length",
    seeds: || {
        let spec = r#"{"model":"Qwen/Qwen3-0.6B","backend":"vllm","hardware":{"gpuSku":"h200_sxm","numGpusPerNode":8,"totalGpus":8},
            "workload":{"isl":3000,"osl":150,"requestRate":5.5},"sla":{"ttft":200,"itl":20},"autoApply":false}"#;
        let object = "apiVersion: nvidia.com/v1beta1\nkind: DynamoGraphDeploymentRequest\nmetadata: {name: a}\nspec:\n  model: \
                      Qwen/Qwen3-0.6B\n  hardware: {gpuSku: h100_sxm, numGpusPerNode: 8, totalGpus: 16}\n  workload: {isl: 100, osl: \
                      10}\n  sla: {e2eLatency: 900}\n  overrides: {trustRemoteCode: true, dgd: {spec: {components: []}}}\n";
        let old = "apiVersion: nvidia.com/v1alpha1\nkind: DynamoGraphDeploymentRequest\nmetadata: {name: a}\nspec:\n  model: m\n  \
                   backend: sglang\n  profilingConfig:\n    config:\n      sla: {isl: 3000, osl: 150, ttft: 200.0, itl: 20.0}\n";
        [spec, object, old, "{}", "a: &a [*a]", "- 1"].map(|text| text.as_bytes().to_vec()).to_vec()
    },
    run: |data| {
        let Ok(text) = std::str::from_utf8(data) else { return };
        // A file that it names would be looked for on this machine.
        if text.contains("outputDir") || text.contains("/") && text.contains("plugin") {
            return;
        }
        match spec::load(&Source::Inline(text.to_owned()), &Flags::default()) {
            Ok(resolved) => {
                let job = &resolved.spec.job;
                assert!(job.hardware.total_gpus > 0 && job.workload.isl > 0, "{job:?}");
                signal::outcome("a job");
            }
            Err(error) => {
                let shown = error.to_string();
                assert!(!shown.is_empty() && shown.chars().count() < 10_000, "{shown}");
                signal::outcome(&shown);
            }
        }
    },
};

pub const JOURNAL: Target = Target {
    name: "journal",
    about: "whatever stands in a journal, it is read or refused with its line, and what was read before a torn line stays",
    seeds: || {
        let line = |body: &str| format!("{body},\"sum\":\"{:08x}\"}}\n", crc32(body.as_bytes()));
        let one = line(r#"{"seq":0,"at_s":0.5,"event":{"phase_started":{"phase":"selection"}}"#);
        let two = line(r#"{"seq":1,"at_s":1.5,"event":{"wrote":{"path":"a"}}"#);
        let three = line(r#"{"seq":2,"at_s":2.5,"event":{"resumed":{"measurements":3}}"#);
        [
            one.clone(),
            format!("{one}{two}{three}"),
            format!("{one}{}", two.trim_end()),
            "{}\n".to_owned(),
            String::new(),
        ]
        .map(String::into_bytes)
        .to_vec()
    },
    run: |data| match journal::read(data) {
        Ok(records) => {
            // A line that is torn later takes no other with it.
            let mut torn = data.to_vec();
            torn.extend_from_slice(b"{\"seq\":9,\"at_");
            if data.is_empty() || data.ends_with(b"\n") {
                match journal::read(&torn) {
                    Ok(again) => assert_eq!(again, records),
                    // Then the line before was broken, and passed as the last one.
                    Err((line, _)) => assert!(line > records.len(), "line {line}"),
                }
            }
            signal::outcome(match records.len() {
                0 => "none",
                1 => "one",
                _ => "some",
            });
        }
        Err((line, reason)) => {
            assert!(line >= 1 && line <= data.iter().filter(|byte| **byte == b'\n').count().max(1), "line {line}");
            signal::outcome(&reason);
        }
    },
};

/// CRC-32 (IEEE), bit by bit: seeds must not come from the code that reads them.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !bytes.iter().fold(u32::MAX, byte)
}

pub const LOGS: Target = Target {
    name: "engine-log",
    about: "an engine's log tells a capacity above 0, or none",
    seeds: || {
        [
            "INFO GPU KV cache size: 643,891 tokens\nINFO Maximum concurrency for 131,072 tokens per request: 4.91x\n",
            "KV Cache is allocated. #tokens: 482731, K size: 29.46 GB\nmax_running_requests=4096\n",
            "[TRT-LLM] [I] [MemUsageChange] Allocated 60.33 GiB for max tokens in paged KV cache (1976832).\n",
            "non-default args: {'max_num_seqs': 256, 'x': 1}\n",
            "# tokens: 99999999999999999999999999\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    run: |data| {
        let text = String::from_utf8_lossy(data);
        for backend in [Backend::Vllm, Backend::Sglang, Backend::Trtllm] {
            for ranks in [1, 8] {
                let capacity = backends::kv_capacity_from_log(backend, &text, ranks);
                let running = backends::max_running_from_log(backend, &text);
                signal::outcome(match (capacity.is_some(), running.is_some()) {
                    (true, true) => "both",
                    (true, false) => "capacity",
                    (false, true) => "running",
                    (false, false) => "neither",
                });
            }
        }
    },
};

pub const STREAM: Target = Target {
    name: "event-stream",
    about: "a stream gives the same events in whatever pieces it arrives",
    seeds: || {
        [
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n",
            "event: error\r\ndata: one\r\ndata: two\r\n\r\n: comment\r\n\r\n",
            "\u{feff}data:x\r\rdata\n\nid: 1\ndata: y",
            "data: a\n\n\n\ndata: b\n\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    run: |data| {
        let whole = builtin::events(data, usize::MAX);
        for piece in [1, 2, 7] {
            assert_eq!(builtin::events(data, piece), whole, "in pieces of {piece}");
        }
        signal::outcome(match &whole {
            Ok(events) => match events.len() {
                0 => "none",
                1 => "one",
                2 => "two",
                _ => "many",
            },
            Err(_) => "malformed",
        });
    },
};

pub const RECORDS: Target = Target {
    name: "aiperf-records",
    about: "AIPerf's records are counted, or refused with file and line",
    seeds: || {
        let metadata = r#""metadata":{"benchmark_phase":"profiling","request_start_ns":1000,"request_ack_ns":1100,"request_end_ns":9000,
            "was_cancelled":false,"x_request_id":"a"}"#
            .replace("\n            ", "");
        let metrics = r#""metrics":{"time_to_first_token":{"value":1.5,"unit":"ms"},"inter_token_latency":{"value":0.5,"unit":"ms"},
            "input_sequence_length":{"value":100,"unit":"tokens"},"output_sequence_length":{"value":10,"unit":"tokens"},
            "request_latency":{"value":6.0,"unit":"ms"}}"#
            .replace("\n            ", "");
        let error = r#""error":{"code":500,"type":"x","message":"no"}"#;
        [
            format!("{{{metadata},{metrics},\"error\":null}}\n"),
            format!("{{{metadata},\"metrics\":{{}},{error}}}\n"),
            "\n{}\n".into(),
        ]
        .map(String::into_bytes)
        .to_vec()
    },
    run: |data| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        match aiperf::count_records(folder.path(), data) {
            Ok((answers, failures)) => {
                assert!(answers + failures <= data.iter().filter(|byte| **byte == b'\n').count() + 1);
                signal::outcome(if failures > 0 {
                    "failures"
                } else if answers > 0 {
                    "answers"
                } else {
                    "none"
                });
            }
            Err(error) => {
                assert!(error.contains("line ") || error.contains("profile_export"), "{error}");
                signal::outcome(&error);
            }
        }
    },
};
