//! What nobody wrote by hand: damaged components at the loader, and arbitrary bytes where a guest's answer should be.
//!
//! Bounded and seeded, so that a failure repeats. `tests/fuzz` does the same guided by coverage.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure is the message")]

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};
use sla_profiler::plugin::api::Kind;
use sla_profiler::plugin::{HostOptions, Limits, PluginHost};
use sla_profiler::spec::{PluginChoice, PluginSource};
use sla_profiler_tests::{fixtures, guests};

fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(Config { rng_algorithm: RngAlgorithm::ChaCha, rng_seed: RngSeed::Fixed(5), ..config })
}

fn host() -> PluginHost {
    let limits = Limits { fuel: 10_000_000, memory_bytes: 8 << 20, deadline_ms: 5_000, ..Limits::default() };
    PluginHost::new(HostOptions { cache: None, limits, store: None, ..HostOptions::default() }).unwrap()
}

/// One way to damage a file.
#[derive(Debug, Clone)]
enum Damage {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Repeat(prop::sample::Index, prop::sample::Index),
    Remove(prop::sample::Index, u8),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        match self {
            Self::Set(at, value) => bytes[at.index(len)] = *value,
            Self::Flip(at, bit) => bytes[at.index(len)] ^= 1 << (bit % 8),
            Self::Cut(at) => bytes.truncate(at.index(len)),
            Self::Repeat(from, at) => {
                let from = from.index(len);
                let piece = bytes[from..len.min(from + 64)].to_vec();
                let at = at.index(len);
                bytes.splice(at..at, piece);
            }
            Self::Remove(at, count) => {
                let at = at.index(len);
                bytes.drain(at..len.min(at + usize::from(*count)));
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (index(), any::<u8>()).prop_map(|(at, value)| Damage::Set(at, value)),
        4 => (index(), any::<u8>()).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => index().prop_map(Damage::Cut),
        1 => (index(), index()).prop_map(|(from, at)| Damage::Repeat(from, at)),
        1 => (index(), any::<u8>()).prop_map(|(at, count)| Damage::Remove(at, count)),
    ]
}

#[test]
fn a_damaged_component_is_refused_or_loads_and_nothing_else() {
    let seeds = [guests::sweep("done"), guests::sweep("log-flood"), guests::ranks(&[(0, 1, "1")], &[(1, 1, "1")])];
    let host = host();
    let (refused, loaded) = (Cell::new(0), Cell::new(0));
    let cases = (0..seeds.len(), prop::collection::vec(damage(), 1..4));
    let outcome = runner(3_000).run(&cases, |(seed, damages)| {
        let mut wasm = seeds[seed].clone();
        damages.iter().for_each(|damage| damage.apply(&mut wasm));
        match host.inspect_bytes("damaged", &wasm) {
            Ok(_) => loaded.set(loaded.get() + 1),
            Err(error) => {
                prop_assert!(error.is_load(), "{error}");
                prop_assert!(!error.to_string().contains("panicked"), "{error}");
                refused.set(refused.get() + 1);
            }
        }
        Ok(())
    });
    outcome.unwrap();
    let (refused, loaded) = (refused.get(), loaded.get());
    assert!(refused > 1_000 && loaded > 10, "{refused} refused, {loaded} loaded: the damage is of one kind only");
}

/// Words as a guest's answer might hold them: mostly small, since large ones are refused for their size alone.
///
/// `start` is what they begin with: nothing, or the right words for one of the two steps.
fn words(start: &'static [&'static [u32]]) -> impl Strategy<Value = Vec<u32>> {
    let word = prop_oneof![
        6 => 0_u32..4,
        3 => prop::sample::select(vec![8192_u32, 8196, 16384, 65_535, 65_536, u32::MAX, 0x7ff0_0000, 0x3fa9_9999]),
        2 => any::<u32>(),
    ];
    (prop::sample::select(start), prop::collection::vec(word, 64)).prop_map(|(start, words)| [start, &words].concat())
}

#[test]
fn arbitrary_bytes_for_an_answer_are_an_answer_or_an_error() {
    let host = host();
    let folder = tempfile::tempdir().unwrap();
    let (job, candidates, history) = (fixtures::job(), fixtures::candidates(), fixtures::history());
    let (answers, errors) = (Cell::new(0), Cell::new(0));
    // Success; points or words; their place and number.
    let starts: &'static [&'static [u32]] = &[&[], &[0, 0, 8192, 2], &[0, 1, 8192, 3]];
    let outcome = runner(400).run(&(words(starts), words(&[&[]])), |(head, tail)| {
        let data = |words: &[u32]| words.iter().map(|word| format!(" {word}")).collect::<String>();
        let body = format!(
            "(data (i32.const 4096) (i32{}))\n(data (i32.const 8192) (i32{}))\n(func (export \
             \"sla-profiler:sweep/strategy@0.1.0#next\") (param i32) (result i32) (i32.const 4096))",
            data(&head),
            data(&tail)
        );
        let file = folder.path().join("p.wasm");
        std::fs::write(&file, guests::component(Kind::SweepStrategy, &body)).unwrap();
        let strategy = host.sweep(&PluginChoice::new(PluginSource::File(file))).unwrap();
        match strategy.next(&job, &sla_profiler::domain::Goal::Decode, &candidates, &history) {
            Ok(_) => answers.set(answers.get() + 1),
            Err(error) => {
                prop_assert!(!error.is_load(), "{error}");
                errors.set(errors.get() + 1);
            }
        }
        Ok(())
    });
    outcome.unwrap();
    let (answers, errors) = (answers.get(), errors.get());
    assert!(answers > 10 && errors > 10, "{answers} answers, {errors} errors: the bytes are of one kind only");
}
