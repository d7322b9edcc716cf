//! What hostile plugins cost the host. One test, in a process of its own: it looks at the process's memory.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use sla_profiler::domain::Goal;
use sla_profiler::plugin::api::Kind;
use sla_profiler::plugin::{Compiler, HostOptions, Limits, PluginHost};
use sla_profiler::spec::{PluginChoice, PluginSource};
use sla_profiler_tests::fixtures::{candidates, history, job};
use sla_profiler_tests::{guests, program};

/// Takes all the memory that it gets, and writes to all of it.
const FILLS: &str = r#"(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32)
  (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
  (memory.fill (i32.const 1048576) (i32.const 1)
    (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1048576)))
  unreachable)"#;

/// Most resident memory of this process so far, bytes.
fn peak_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn hostile_plugins_grow_the_host_by_their_limit_and_5_mb_at_most() {
    let limits = Limits { fuel: 500_000_000, deadline_ms: 2_000, memory_bytes: 64 << 20, ..Limits::default() };
    let limit = u64::try_from(limits.memory_bytes).unwrap();
    let compiler = Compiler::Program(program());
    let host = PluginHost::new(HostOptions { cache: None, store: None, limits, compiler }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, wasm: Vec<u8>| std::fs::write(dir.path().join(name), wasm).unwrap();
    let mut names = guests::sweeps();
    for name in &names {
        file(name, guests::sweep(name));
    }
    for (name, wasm) in [
        ("fills", guests::component(Kind::SweepStrategy, FILLS)),
        ("a-million-exports", guests::exports(1_000_000)),
        ("a-hundred-thousand-exports", guests::exports(100_000)),
        ("nested", (0..1_000).fold(guests::exports(1), |inner, _| guests::around(&inner))),
        ("not-a-plugin", b"\0asm".repeat(5_000_000)),
    ] {
        file(name, wasm);
        names.push(name.to_owned());
    }
    file("a-note-again-and-again", guests::repeats_a_note(100_000));
    assert!(names.len() > 35, "{}", names.len());
    let call = |name: &str| {
        let choice = PluginChoice::new(PluginSource::File(dir.path().join(name)));
        host.sweep(&choice).and_then(|sweep| sweep.next(&job(), &Goal::Decode, &candidates(), &history()))
    };
    call("done").expect("a good guest works");
    let before = peak_resident();
    for name in &names {
        for _ in 0..2 {
            // Whether it answers or fails is sandbox.rs's business.
            let _ = call(name);
        }
        let grown = peak_resident() - before;
        assert!(grown <= limit + 5_000_000, "{name}: grown by {grown}");
    }
    let choice = PluginChoice::new(PluginSource::File(dir.path().join("a-note-again-and-again")));
    let _ = host.selection(&choice).and_then(|policy| policy.select(&job(), &candidates(), &history()));
    let grown = peak_resident() - before;
    assert!(grown > limit / 2, "the bombs went off: {grown}");
    assert!(grown <= limit + 5_000_000, "grown by {grown}");
}
