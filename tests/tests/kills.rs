//! The program is killed where it hurts and resumed: at boundaries of its journal, in the middle of records, at random;
//! and its disk is full from any byte on. `cargo xtask bench kills` does it hundreds of times (`host/docs/safety.md`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use sla_profiler::output::exit_code;
use sla_profiler_tests::kills::{self, Kill, Random, Victim, boundaries, limited};
use sla_profiler_tests::run;
use sla_profiler_tests::runs::{SMALL, expect, files, profile};
use tempfile::TempDir;

fn undisturbed() -> &'static Path {
    static RUN: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, out) = RUN.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        expect(exit_code::OK, profile(SMALL, &out, &[]));
        (dir, out)
    });
    out
}

fn victim(dir: &TempDir) -> Victim {
    Victim::new(SMALL, &[], &dir.path().join("out"), |_| {})
}

fn holds(mut victim: Victim, what: &str) {
    let said = victim.finish();
    assert_eq!(said.code, 0, "{what}: {}", said.err);
    let breaches = victim.breaches(undisturbed());
    assert!(breaches.is_empty(), "{what}: {breaches:?}");
}

/// A run whose journal is longer than all its other files will be, and where each record of its journal ends once it
/// has come to its end undisturbed. The virtual clock makes all of that the same each time.
struct Grown {
    _dir: TempDir,
    out: PathBuf,
    boundaries: Vec<u64>,
}

fn grown() -> &'static Grown {
    static RUN: OnceLock<Grown> = OnceLock::new();
    RUN.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut grown = kills::grown(SMALL, &dir.path().join("out"), |_| {});
        let base = grown.length();
        let out = dir.path().join("base");
        copy(&dir.path().join("out"), &out);
        assert_eq!(grown.finish().code, 0);
        assert_eq!(grown.breaches(undisturbed()), Vec::<String>::new(), "killed {} times", grown.killed);
        let boundaries = boundaries(&grown.journal()).into_iter().filter(|end| *end > base).collect();
        Grown { _dir: dir, out, boundaries }
    })
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// A boundary of the journal, and a byte within the record before it, in turns: each fifth of both.
/// `cargo xtask bench kills` takes all of them.
fn places() -> impl Iterator<Item = (u64, bool)> {
    grown().boundaries.iter().enumerate().step_by(5).map(|(number, end)| match number % 2 {
        0 => (*end, true),
        _ => (end - 9, false),
    })
}

#[test]
fn a_run_that_is_killed_exactly_between_two_records_or_within_one_goes_on_there() {
    for (bytes, is_boundary) in places() {
        let dir = tempfile::tempdir().unwrap();
        let mut victim = victim(&dir);
        copy(&grown().out, &dir.path().join("out"));
        if !victim.kill(Kill::At(bytes)) {
            // Nothing is written after the last record.
            assert_eq!(Some(&bytes), grown().boundaries.last());
            continue;
        }
        assert_eq!(victim.length(), bytes);
        let whole = std::fs::read(victim.journal()).unwrap().ends_with(b"\n");
        assert_eq!(whole, is_boundary, "the kill came at another place");
        holds(victim, &format!("killed at byte {bytes}"));
    }
}

#[test]
fn sigkill_at_any_time_costs_no_point() {
    let (seed, mut kills) = (20_261_124, 0);
    println!("seed {seed}");
    let mut random = Random::new(seed);
    while kills < 20 {
        let dir = tempfile::tempdir().unwrap();
        let mut victim = victim(&dir);
        for _ in 0..5 {
            let when = match random.below(3) {
                0 => Kill::After(Duration::from_millis(random.below(800))),
                _ => Kill::Grown(1 + random.below(12_000)),
            };
            if !victim.kill(when) {
                break;
            }
        }
        kills += victim.killed.max(1);
        holds(victim, &format!("seed {seed}, {kills} kills"));
    }
}

#[test]
fn a_disk_that_is_full_at_any_write_ends_the_run_with_its_reason_and_costs_no_point() {
    for (bytes, _) in places() {
        let dir = tempfile::tempdir().unwrap();
        let victim = victim(&dir);
        copy(&grown().out, &dir.path().join("out"));
        let said = run(limited(&victim.command(), bytes, true));
        if Some(&bytes) == grown().boundaries.last() {
            continue;
        }
        assert_eq!(said.code, i32::from(exit_code::OUTPUT), "full at byte {bytes}: {}", said.err);
        assert!(said.err.contains("cannot write") && said.err.contains("--resume"), "{bytes}: {}", said.err);
        // What was half written is cut off by the process itself.
        let journal = std::fs::read(victim.journal()).unwrap();
        assert!(journal.ends_with(b"\n") && journal.len() as u64 <= bytes, "full at byte {bytes}");
        holds(victim, &format!("full at byte {bytes}"));
    }
}

/// Longer than what wasmtime writes while it loads plugins, shorter than any picture and longer than the journal.
const PICTURE: u64 = 66_000;

#[test]
fn half_a_file_is_not_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let victim = victim(&dir);
    let said = expect(exit_code::OUTPUT, limited(&victim.command(), PICTURE, true));
    assert!(said.err.contains(".png"), "{}", said.err);
    let parts = |out: &Path| files(out).into_keys().filter(|name| name.ends_with(".part")).collect::<Vec<_>>();
    assert_eq!(parts(&dir.path().join("out")), Vec::<String>::new());
    holds(victim, "a disk without room for a picture");

    let dir = tempfile::tempdir().unwrap();
    let mut victim = self::victim(&dir);
    assert!(victim.kill(Kill::At(PICTURE)));
    assert_eq!(parts(&dir.path().join("out")).len(), 1, "killed while it wrote a picture");
    holds(victim, "killed while it wrote a picture");
}
