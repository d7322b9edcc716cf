//! Guidance where code is not instrumented: dependencies are built as always, so that wasmtime is not built twice.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

const SIZE: usize = 4096;

/// libFuzzer reads this section as further counters and sets them to zero before each input.
#[allow(
    unsafe_code,
    reason = "libFuzzer finds its counters by the section's name; a section of counters harms nothing"
)]
#[unsafe(link_section = "__libfuzzer_extra_counters")]
static OUTCOMES: [AtomicU8; SIZE] = [const { AtomicU8::new(0) }; SIZE];

/// Tells the fuzzer how an input ended, in words: an ending that has not been seen is as good as new code. Only words
/// outside of quotes count, and only the first of them, since names, places and sizes would make every input a new one.
pub fn outcome(words: &str) {
    let unquoted = words.split(['`', '"', '\'']).step_by(2).flat_map(str::bytes);
    // FNV-1a
    let hash = unquoted
        .filter(u8::is_ascii_alphabetic)
        .take(80)
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let place = usize::try_from(hash % SIZE as u64).unwrap_or_default();
    if let Some(counter) = OUTCOMES.get(place) {
        counter.store(1, Relaxed);
    }
}
