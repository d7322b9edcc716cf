//! Bytes as a plugin file: looked at, compiled, linked, asked who it is.

use std::sync::{Mutex, PoisonError};

use sla_profiler::plugin::api::Kind;
use sla_profiler::plugin::{Compiler, HostOptions, Limits, PluginHost, Problem};
use sla_profiler_tests::guests;

use crate::{Target, signal};

/// A host keeps every plugin that it has loaded; after so many inputs there is a new one.
const INPUTS_PER_HOST: usize = 500;

pub const TARGET: Target = Target {
    name: "loader",
    about: "a plugin file is loaded, or refused with the reason; nothing else happens",
    seeds,
    run,
};

fn seeds() -> Vec<Vec<u8>> {
    let core = "(module (memory (export \"memory\") 1) (func (export \"f\") (result i32) (i32.const 7)))";
    let nested = "(component (core module $m (func (export \"f\"))) (core instance $i (instantiate $m))
        (component $c (import \"a:b/c@1.0.0\" (instance (export \"f\" (func))))) (type $t (record (field \"a\" u32)))
        (import \"sla-profiler:base/log@0.1.0\" (instance (export \"write\" (func)))))";
    let texts = [core, nested, "(component)"].map(guests::assemble);
    let plan = guests::Plan { prefill_replicas: 1, decode_replicas: 1, requests_per_second: "1", latency_ms: "1" };
    let mut seeds = vec![
        guests::sweep("done"),
        guests::sweep("log-flood"),
        guests::sweep("memory-at-start"),
        guests::sweep("describe-nonsense"),
        guests::ranks(&[(0, 1, "1")], &[(1, 1, "1")]),
        guests::plans(plan),
        guests::component(
            Kind::SelectionPolicy,
            "(func (export \"sla-profiler:selection/policy@0.1.0#select\") (param i32) (result i32) unreachable)",
        ),
        Vec::new(),
        b"\0asm".to_vec(),
        b"\x7fELF".to_vec(),
    ];
    seeds.extend(texts);
    seeds
}

fn new_host() -> PluginHost {
    let limits = Limits {
        fuel: 10_000_000,
        memory_bytes: 8 << 20,
        // Far from what any input needs: a busy machine must not change a result.
        describe_deadline_ms: 10_000,
        ..Limits::default()
    };
    let options = HostOptions { cache: None, limits, store: None, compiler: Compiler::Here };
    PluginHost::new(options).expect("wasmtime runs here")
}

fn run(data: &[u8]) {
    static HOST: Mutex<Option<(PluginHost, usize)>> = Mutex::new(None);
    let mut slot = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    let (host, inputs) = slot.get_or_insert_with(|| (new_host(), 0));
    match host.inspect_bytes("fuzz", data) {
        Ok(found) => {
            assert!(!found.identity.name.is_empty() && found.identity.sha256.len() == 64, "{found:?}");
            assert_eq!(found.file_bytes, data.len() as u64);
            signal::outcome("loaded");
        }
        Err(error) => {
            let text = error.to_string();
            assert!(error.is_load(), "only loading can fail here: {text}");
            assert!(!text.contains("panicked"), "{text}");
            let hint = error.hint().unwrap_or_default();
            for text in [&text, &hint] {
                assert!(text.chars().count() < 4_000, "{text}");
                assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
            }
            match error.problem() {
                Problem::Load(problem) => signal::outcome(&problem.to_string()),
                Problem::Call { problem, .. } => signal::outcome(&problem.to_string()),
            }
        }
    }
    *inputs += 1;
    if *inputs == INPUTS_PER_HOST {
        *slot = None;
    }
}
