//! What a job says of one plugin: which file it must be, what it may use, which folders it may read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::num::NonZeroU64;
use std::path::PathBuf;

use sla_profiler::domain::{Goal, Step};
use sla_profiler::plugin::{CallProblem, HostOptions, LoadProblem, PluginError, PluginHost, Problem};
use sla_profiler::spec::{self, Flags, PluginChoice, PluginLimits, PluginSource, Source};
use sla_profiler_tests::fixtures::{candidates, history, job};
use sla_profiler_tests::guests::{self, Contract};

/// A sweep strategy whose answer is the file's content, or the number of the error's case.
fn reads(path: &str) -> Vec<u8> {
    let import = "(import \"sla-profiler:base/files@0.1.0\" \"read\" (func $read (param i32 i32 i32 i32 i32)))";
    let body = format!(
        r#"(data (i32.const 4096) "\00\00\00\00\01\00\00\00")
        (data (i32.const 4200) "data")
        (data (i32.const 4300) "01234")
        (data (i32.const 5000) "{path}")
        (func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32)
          (call $read (i32.const 4200) (i32.const 4) (i32.const 5000) (i32.const {length}) (i32.const 4400))
          (if (i32.load8_u (i32.const 4400))
            (then
              (i32.store (i32.const 4104) (i32.add (i32.const 4300) (i32.load8_u (i32.const 4404))))
              (i32.store (i32.const 4108) (i32.const 1)))
            (else
              (i32.store (i32.const 4104) (i32.load (i32.const 4404)))
              (i32.store (i32.const 4108) (i32.load (i32.const 4408)))))
          (i32.const 4096))"#,
        length = path.len()
    );
    Contract::default().component_with_imports("sweep-strategy-with-files", import, &body)
}

struct Bench {
    host: PluginHost,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let host = PluginHost::new(HostOptions { cache: None, ..HostOptions::default() }).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("data/prices"), "2.50").unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink("../secret", dir.path().join("data/out")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), dir.path().join("data/absolute")).unwrap();
        std::os::unix::fs::symlink("..", dir.path().join("data/up")).unwrap();
        Self { host, dir }
    }

    fn choice(&self, wasm: &[u8]) -> PluginChoice {
        let path = self.dir.path().join("guest.wasm");
        std::fs::write(&path, wasm).unwrap();
        PluginChoice::new(PluginSource::File(path))
    }

    fn granted(&self, wasm: &[u8]) -> PluginChoice {
        let grants = vec![("data".to_owned(), self.dir.path().join("data"))];
        PluginChoice { grants, ..self.choice(wasm) }
    }

    fn answer(&self, choice: &PluginChoice) -> Result<String, PluginError> {
        let step = self.host.sweep(choice)?.next(&job(), &Goal::Decode, &candidates(), &history())?.value;
        match step {
            Step::Done(text) => Ok(text),
            Step::Measure(_) => panic!("the guest only reads"),
        }
    }

    fn refused(&self, choice: &PluginChoice) -> PluginError {
        let error = self.answer(choice).expect_err("refused");
        assert!(error.is_load(), "{error}");
        error
    }
}

#[test]
fn a_granted_folder_can_be_read_and_nothing_beside_it() {
    let bench = Bench::new();
    assert_eq!(bench.answer(&bench.granted(&reads("prices"))).unwrap(), "2.50");
    for (path, case) in [
        ("none", "1"),
        ("../secret", "2"),
        ("./../data/../secret", "2"),
        ("/etc/passwd", "2"),
        ("/proc/self/environ", "2"),
        ("out", "2"),
        ("absolute", "2"),
        ("up/secret", "2"),
        ("", "1"),
    ] {
        assert_eq!(bench.answer(&bench.granted(&reads(path))).unwrap(), case, "{path}");
    }
}

#[test]
fn a_plugin_that_asks_to_read_without_a_grant_is_refused_with_the_import_and_the_way_out() {
    let bench = Bench::new();
    let error = bench.refused(&bench.choice(&reads("prices")));
    assert!(error.to_string().contains("sla-profiler:base/files@0.1.0"), "{error}");
    assert!(error.hint().unwrap().contains("--selection-grant"), "{:?}", error.hint());
}

#[test]
fn a_plugin_that_does_not_ask_gets_no_folder() {
    let bench = Bench::new();
    assert_eq!(bench.answer(&bench.granted(&guests::sweep("done"))).unwrap(), "enough");
}

#[test]
fn a_grant_of_a_folder_that_is_not_there_is_refused() {
    let bench = Bench::new();
    let grants = vec![("data".to_owned(), PathBuf::from("/no/such/folder"))];
    let error = bench.refused(&PluginChoice { grants, ..bench.choice(&reads("prices")) });
    assert!(matches!(error.problem(), Problem::Load(LoadProblem::Grant { .. })), "{error}");
}

#[test]
fn a_changed_file_is_refused_with_both_digests() {
    let bench = Bench::new();
    let good = bench.choice(&guests::sweep("done"));
    let digest = bench.host.sweep(&good).unwrap().identity().sha256.clone();
    let pinned = |choice| PluginChoice { sha256: Some(digest.clone()), ..choice };
    assert!(bench.answer(&pinned(good)).is_ok());
    let error = bench.refused(&pinned(bench.choice(&guests::sweep("trap"))));
    let Problem::Load(LoadProblem::Pinned { found, pinned }) = error.problem() else { panic!("{error}") };
    assert!(*pinned == digest && found != pinned);
    let text = error.to_string();
    assert!(text.contains(found) && text.contains(pinned), "{text}");
}

#[test]
fn a_limit_of_the_job_holds_for_its_plugin_only() {
    let bench = Bench::new();
    let loops = bench.choice(&guests::sweep("endless-loop"));
    let limits = PluginLimits { fuel: NonZeroU64::new(1_000_000), ..PluginLimits::default() };
    let error = bench.answer(&PluginChoice { limits, ..loops }).expect_err("out of fuel");
    let expected = CallProblem::OutOfFuel { limit: 1_000_000 };
    assert!(matches!(error.problem(), Problem::Call { problem, .. } if *problem == expected), "{error}");
    assert!(bench.answer(&bench.choice(&guests::sweep("done"))).is_ok());
}

const JOB: &str = r#"
model: Qwen/Qwen3-8B
hardware: {gpuSku: h200_sxm}
profiler:
  selection:
    plugin: ./mine.wasm
    settings: {a: 1}
    limits: {fuel: 5, deadline_ms: 70, memoryMb: 64}
    sha256: SHA
    grants: {data: prices}
"#;

#[test]
fn a_job_file_says_limits_pin_and_grants_of_a_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("job.yaml");
    std::fs::write(&path, JOB.replace("SHA", &"Ab".repeat(32))).unwrap();
    let source = Source::File(path);
    let choice = spec::load(&source, &Flags::default()).unwrap().spec.plugins.selection;
    assert_eq!(choice.sha256, Some("ab".repeat(32)));
    assert_eq!(choice.grants, [("data".to_owned(), dir.path().join("prices"))], "relative to the job");
    let limits = serde_json::to_value(&choice.limits).unwrap();
    assert_eq!((&limits["fuel"], &limits["deadlineMs"], &limits["memoryMb"]), (&5.into(), &70.into(), &64.into()));

    let flags = Flags { selection_grant: vec![("data".into(), "/other".into())], ..Flags::default() };
    let choice = spec::load(&source, &flags).unwrap().spec.plugins.selection;
    assert_eq!(choice.grants, [("data".to_owned(), PathBuf::from("/other"))], "a flag comes before the file");

    let flags = Flags { selection: Some("select-cost".into()), ..Flags::default() };
    let resolved = spec::load(&source, &flags).unwrap();
    let other = PluginChoice::new(PluginSource::Named("select-cost".into()));
    assert_eq!(resolved.spec.plugins.selection, other, "another plugin gets nothing of it");
    let warning =
        "the settings, limits, sha256, grants in `profiler.selection` are left aside: they are not of select-cost";
    assert!(resolved.warnings.iter().any(|said| said == warning), "{:?}", resolved.warnings);
}
