//! Strangers' plugins are compiled in a process of its own, and what they may cost is bounded; the cache survives
//! several programs at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sla_profiler::plugin::api::Kind;
use sla_profiler::plugin::{CompileLimit, Compiler, HostOptions, Limits, LoadProblem, PluginHost, Problem};
use sla_profiler_tests::{ended, guests, program, root, run, sla_profiler};

/// A sweep strategy with one function of so many steps, each with a branch of its own.
fn one_huge_function(steps: u32) -> Vec<u8> {
    let mut body = String::from("(func (export \"huge\") (param $a i32) (result i32) (local $b i32)\n");
    for step in 0..steps {
        let _ = writeln!(
            body,
            "(if (i32.and (local.get $a) (i32.const {step})) (then (local.set $b (i32.mul (local.get $a) (local.get $b)))) \
             (else (local.set $a (i32.add (local.get $b) (i32.const {step})))))"
        );
    }
    body.push_str("(local.get $b))\n");
    let done = std::fs::read_to_string(root().join("tests/guests/done.wat")).unwrap();
    guests::component(Kind::SweepStrategy, &(body + &done))
}

struct Bench {
    host: PluginHost,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Self::with(Compiler::Program(program()), limits)
    }

    fn with(compiler: Compiler, limits: Limits) -> Self {
        let host = PluginHost::new(HostOptions { cache: None, store: None, limits, compiler }).unwrap();
        Self { host, dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self, wasm: &[u8]) -> PathBuf {
        let path = self.dir.path().join("guest.wasm");
        std::fs::write(&path, wasm).unwrap();
        path
    }

    fn refuses(&self, wasm: &[u8]) -> LoadProblem {
        let error = self.host.inspect(&self.file(wasm)).expect_err("a bomb");
        assert!(error.is_load(), "{error}");
        let described = error.to_string();
        assert!(described.contains("guest.wasm"), "{described}");
        match error.into_problem() {
            Problem::Load(problem) => problem,
            Problem::Call { .. } => panic!("{described}"),
        }
    }

    fn still_compiles(&self) {
        self.host.inspect(&self.file(&guests::sweep("done"))).unwrap();
    }
}

#[test]
fn a_plugin_compiled_in_a_child_is_the_plugin_compiled_here() {
    let wasm = guests::sweep("done");
    let here = Bench::with(Compiler::Here, Limits::default());
    let child = Bench::new(Limits::default());
    let look = |bench: &Bench| {
        let seen = bench.host.inspect(&bench.file(&wasm)).unwrap();
        (seen.identity, seen.imports, seen.exports)
    };
    assert_eq!(look(&here), look(&child));
}

#[test]
fn a_compile_bomb_meets_its_cpu_limit_and_the_host_lives_on() {
    let bench = Bench::new(Limits { compile_cpu_s: 1, ..Limits::default() });
    let problem = bench.refuses(&one_huge_function(100_000));
    assert!(matches!(problem, LoadProblem::CompileLimit(CompileLimit::Cpu(1))), "{problem}");
    bench.still_compiles();
}

#[test]
fn a_compile_bomb_meets_its_wall_limit_and_the_host_lives_on() {
    let bench = Bench::new(Limits { compile_deadline_ms: 300, ..Limits::default() });
    let problem = bench.refuses(&one_huge_function(100_000));
    assert!(matches!(problem, LoadProblem::CompileLimit(CompileLimit::Deadline(300))), "{problem}");
}

#[test]
fn a_compile_bomb_meets_its_memory_limit_and_the_host_lives_on() {
    let bench = Bench::new(Limits { compile_memory_bytes: 300 << 20, ..Limits::default() });
    let problem = bench.refuses(&one_huge_function(100_000));
    assert!(matches!(problem, LoadProblem::CompileLimit(CompileLimit::Memory(_))), "{problem}");
    bench.still_compiles();
}

#[test]
fn a_compiler_that_cannot_be_run_is_not_blamed_on_the_plugin() {
    let dir = tempfile::tempdir().unwrap();
    for program in [dir.path().join("none"), PathBuf::from("/bin/false")] {
        let bench = Bench::with(Compiler::Program(program.clone()), Limits::default());
        let problem = bench.refuses(&guests::sweep("done"));
        assert!(matches!(&problem, LoadProblem::Compiler { program: named, .. } if *named == program), "{problem}");
    }
}

#[test]
fn what_the_engine_does_not_speak_is_the_compilers_refusal() {
    // Valid WebAssembly; 64-bit memories are switched off.
    let done = std::fs::read_to_string(root().join("tests/guests/done.wat")).unwrap();
    let wasm = guests::component(Kind::SweepStrategy, &format!("(memory $wide i64 1)\n{done}"));
    let problem = Bench::new(Limits::default()).refuses(&wasm);
    assert!(matches!(&problem, LoadProblem::Compile(reason) if reason.contains("memory64")), "{problem}");
}

#[test]
fn the_hidden_command_is_nobodys_but_the_programs() {
    let said = run(sla_profiler(["__compile"]));
    assert_eq!((said.code, said.out.as_str()), (10, ""));
    assert!(said.err.contains("plugin check"), "{}", said.err);
    assert!(!run(sla_profiler(["--help"])).out.contains("__compile"));
}

fn inspect(file: &Path, cache: &Path) -> std::process::Command {
    let mut command = sla_profiler(["plugin", "inspect", "--output", "json"]);
    command.arg(file).env("XDG_CACHE_HOME", cache);
    command
}

#[test]
fn programs_that_compile_the_same_plugin_at_once_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    let (file, cache) = (dir.path().join("guest.wasm"), dir.path().join("cache"));
    std::fs::write(&file, guests::sweep("done")).unwrap();
    let start = |_| inspect(&file, &cache).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let children: Vec<_> = (0..4).map(start).collect();
    for child in children {
        let said = ended(child, "sla-profiler");
        assert_eq!(said.code, 0, "{}", said.err);
    }
    let images = std::fs::read_dir(cache.join("sla-profiler")).unwrap().count();
    assert_eq!(images, 1, "one image, no leftovers");
    let last = run(inspect(&file, &cache));
    assert!(last.out.contains("\"cached\": true"), "{}", last.out);
}
