//! `cargo xtask bench report`: a run of some 1,000 points, its report in a headless Chromium, and how that compares with
//! an empty page in the same browser and minute; as a Markdown report on stdout. `host/docs/report.md` keeps one.
//!
//! Times are the browser's own (`performance`): from navigating to the first paint, to the page being interactive, and to
//! the script having drawn everything.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    reason = "a measurement, not the program: a failure is the message"
)]

use std::path::Path;

use serde_json::Value;
use sla_profiler_tests::chromium::Page;
use sla_profiler_tests::runs::profile;
use sla_profiler_tests::{run, sla_profiler};

/// Each page is opened so often, the two in turns.
const TRIES: usize = 11;

/// A run whose grids are so fine that it measures some 1,000 points.
const MANY_POINTS: &str = r#"{"model": "nvidia/Llama-3.1-8B-Instruct-FP8",
    "hardware": {"gpuSku": "h200_sxm", "numGpusPerNode": 8, "totalGpus": 8},
    "workload": {"isl": 3000, "osl": 300, "requestRate": 40}, "sla": {"ttft": 300, "itl": 10}, "autoApply": false,
    "profiler": {"sweep": {"plugin": "sweep-grid",
        "settings": {"prefill-granularity": PREFILL, "decode-granularity": DECODE}}}}"#;

/// What decides whether a page is there, in milliseconds after navigating began.
const TIMES: &str = "(() => { const n = performance.getEntriesByType('navigation')[0]; \
    const p = performance.getEntriesByType('paint').find((e) => e.name === 'first-contentful-paint'); \
    return [p ? p.startTime : n.domInteractive, n.domInteractive, n.loadEventEnd]; })()";

fn main() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (report, points) = report(dir.path());
    let bytes = std::fs::metadata(&report).expect("it is there").len();
    let empty = dir.path().join("empty.html");
    std::fs::write(&empty, "<!doctype html><title>empty</title><p>nothing").expect("it can be written");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut full, mut blank) = (Vec::new(), Vec::new());
    for _ in 0..TRIES {
        full.push(runtime.block_on(times(&report, true)));
        blank.push(runtime.block_on(times(&empty, false)));
    }
    println!("{points} points, {:.2} MB; load average {}.\n", bytes as f64 / 1e6, load_average());
    println!(
        "| page | first paint, ms: median | worst | interactive | worst | all drawn | worst |\n|---|---|---|---|---|---|---|"
    );
    row("report", &full);
    row("empty page", &blank);
    let of = |times: &[[f64; 3]]| spread(times, 2).0;
    println!("\nAll drawn: {:.1} times the empty page.", of(&full) / of(&blank));
}

/// Of the last minute.
fn load_average() -> String {
    let all = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    all.split(' ').next().unwrap_or("unknown").to_owned()
}

fn report(dir: &Path) -> (std::path::PathBuf, usize) {
    let out = dir.join("run");
    let job = MANY_POINTS.replace("PREFILL", "60").replace("DECODE", "29");
    let said = run(profile(&job, &out, &[]));
    assert!([0, 10].contains(&said.code), "{}", said.err);
    let points = sla_profiler_tests::kills::events(&out.join("journal.jsonl"));
    let points = points.iter().filter(|(name, _)| name == "measured").count();
    let file = dir.join("report.html");
    let mut command = sla_profiler(["report"]);
    command.arg(&out).arg("--to").arg(&file);
    let said = run(command);
    assert_eq!(said.code, 0, "{}", said.err);
    (file, points)
}

async fn times(file: &Path, is_report: bool) -> [f64; 3] {
    let mut page = Page::open(file, 1240, 1000, "light").await;
    if is_report {
        assert_eq!(page.evaluate("document.documentElement.dataset.ready").await, "yes");
    }
    // The load event's end is noted after its listeners.
    page.evaluate("new Promise((done) => setTimeout(done, 100))").await;
    let times = page.evaluate(TIMES).await;
    let ms = |index: usize| times.get(index).and_then(Value::as_f64).expect("a time");
    [ms(0), ms(1), ms(2)]
}

/// Median and largest.
fn spread(times: &[[f64; 3]], index: usize) -> (f64, f64) {
    let mut ms: Vec<f64> = times.iter().map(|of| of[index]).collect();
    ms.sort_by(f64::total_cmp);
    (ms[ms.len() / 2], ms[ms.len() - 1])
}

fn row(name: &str, times: &[[f64; 3]]) {
    let cells: Vec<String> = (0..3)
        .map(|index| {
            let (median, worst) = spread(times, index);
            format!("{median:.0} | {worst:.0}")
        })
        .collect();
    println!("| {name} | {} |", cells.join(" | "));
}
