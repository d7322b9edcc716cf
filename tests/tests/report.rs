//! `sla-profiler report`: one file that convinces, in a real browser.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::path::Path;

use serde_json::Value;
use sla_profiler::replay::Recording;
use sla_profiler::run::{Durability, Event, Existing, Journal, RunDir};
use sla_profiler_tests::chromium::Page;
use sla_profiler_tests::recorded::{INFEASIBLE, QUICKSTART, Recorded};
use sla_profiler_tests::{run, sla_profiler};

/// The report of a run, as a file in a folder of its own.
fn report(run_dir: &Path) -> (tempfile::TempDir, std::path::PathBuf, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    let mut command = sla_profiler(["report"]);
    command.arg(run_dir).arg("--to").arg(&file);
    let said = run(command);
    assert_eq!(said.code, 0, "{}", said.err);
    let html = std::fs::read_to_string(&file).unwrap();
    (folder, file, html)
}

/// The data that a page carries.
fn data(html: &str) -> Value {
    let (_, rest) = html.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

/// The answer at the run's own SLA, with its YAML.
fn own(data: &Value) -> (Value, String) {
    let picks = &data["picks"];
    let mut index = 0;
    for axis in picks["axes"].as_array().unwrap() {
        index = index * axis["lines_ms"].as_array().unwrap().len().max(1) + axis["own"].as_u64().unwrap_or(0) as usize;
    }
    let answer = picks["answers"][index].clone();
    let lines: Vec<&str> = answer["yaml"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| picks["yaml_lines"][n.as_u64().unwrap() as usize].as_str().unwrap())
        .collect();
    let yaml = lines.join("\n");
    (answer, yaml)
}

/// A run whose records are those of another one, changed.
fn rewritten(of: &Recorded, mut change: impl FnMut(Event) -> Vec<Event>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::open(&folder.path().join("run"), Existing::Refuse).unwrap();
    let (mut journal, _) = Journal::open(&dir, Durability::Flush).unwrap();
    for record in Recording::open(&of.path).unwrap().records() {
        for event in change(record.event.clone()) {
            journal.append(record.at_s, event).unwrap();
        }
    }
    folder
}

#[test]
fn at_the_runs_own_sla_the_picker_gives_the_runs_answer_and_its_very_file() {
    for recorded in [&*QUICKSTART, &*INFEASIBLE] {
        let (_folder, _, html) = report(&recorded.path);
        let data = data(&html);
        let (answer, yaml) = own(&data);
        let result: Value = serde_json::from_slice(&std::fs::read(recorded.path.join("result.json")).unwrap()).unwrap();
        for role in ["prefill", "decode"] {
            assert_eq!(answer[role]["candidate"], result["selected"][role]["id"]);
            assert_eq!(answer[role]["replicas"], result["plan"][format!("{role}_replicas")]);
        }
        assert_eq!(answer["capacity_requests_per_second"], result["plan"]["capacity_requests_per_second"]);
        assert_eq!(answer["meets_sla"], result["feasible"]);
        assert_eq!(data["picks"]["same_as_recorded"], true);
        assert_eq!(yaml, std::fs::read_to_string(recorded.path.join("final_config.yaml")).unwrap());
    }
}

#[test]
fn every_answer_of_the_picker_is_what_replay_says_under_these_targets() {
    let (_folder, _, html) = report(&QUICKSTART.path);
    let data = data(&html);
    let axes = &data["picks"]["axes"];
    let lines = |axis: usize| axes[axis]["lines_ms"].as_array().unwrap().clone();
    let (ttft, itl) = (lines(0), lines(1));
    assert!(ttft.len() > 8 && itl.len() > 15, "{} and {} lines", ttft.len(), itl.len());
    for (t, i) in [(0, 0), (0, itl.len() - 1), (ttft.len() - 1, itl.len() / 2), (ttft.len() / 2, itl.len() / 3)] {
        let answer = &data["picks"]["answers"][t * itl.len() + i];
        let mut command = sla_profiler(["replay", QUICKSTART.arg(), "--output", "json"]);
        command.arg("--ttft").arg(ttft[t].to_string()).arg("--itl").arg(itl[i].to_string());
        let said = run(command);
        assert_eq!(said.code, 0, "{}", said.err);
        let replayed: Value = serde_json::from_str(&said.out).unwrap();
        for (n, role) in ["prefill", "decode"].into_iter().enumerate() {
            assert_eq!(answer[role]["mapping"], replayed["roles"][n]["winner"]["after"], "{t} {i}");
            assert_eq!(answer[role]["replicas"], replayed["replicas"][n]["after"], "{t} {i}");
        }
        assert_eq!(answer["meets_sla"], replayed["meets_sla"]["after"]);
    }
}

#[test]
fn gpus_over_time_add_up_to_what_the_run_used() {
    let (_folder, _, html) = report(&QUICKSTART.path);
    let time = data(&html)["tenancy"].clone();
    let number = |value: &Value| value.as_f64().unwrap();
    let sum: f64 = ["launching", "measuring", "idle", "free"].iter().map(|name| number(&time["totals"][*name])).sum();
    assert!((sum - number(&time["end_s"]) * number(&time["gpus"])).abs() < 1e-6 * sum, "{time:#}");
    let tenures = time["tenures"].as_array().unwrap();
    // Each point was measured on some engine that was there.
    let measured = |t: &Value| t["measuring"].as_array().unwrap().len();
    let points = Recording::open(&QUICKSTART.path).unwrap().measurements().count();
    assert_eq!(tenures.iter().map(measured).sum::<usize>(), points);
    // No GPU is held by two engines at once.
    for a in tenures {
        for b in tenures.iter().filter(|b| number(&b["from_s"]) > number(&a["from_s"])) {
            let apart = number(&a["to_s"]) <= number(&b["from_s"]);
            let gpus = |t: &Value| -> Vec<u64> {
                let lanes = t["lanes"].as_array().unwrap().clone();
                lanes
                    .iter()
                    .flat_map(|l| (0..l[1].as_u64().unwrap()).map(|n| l[0].as_u64().unwrap() + n).collect::<Vec<_>>())
                    .collect()
            };
            assert!(apart || gpus(a).iter().all(|gpu| !gpus(b).contains(gpu)), "{a} {b}");
        }
    }
}

#[tokio::test]
async fn a_browser_shows_it_without_a_word_of_complaint_and_re_selects_under_another_sla() {
    let (folder, file, html) = report(&QUICKSTART.path);
    for scheme in ["light", "dark"] {
        let mut page = Page::open(&file, 1240, 1000, scheme).await;
        assert_eq!(page.evaluate("document.documentElement.dataset.ready").await, "yes");
        let text = |id: &str| format!("document.querySelector('{id}').textContent");
        let heading = page.evaluate(&text("h1")).await;
        assert_eq!(page.evaluate(&text("#pick-result h3")).await, heading);
        assert_eq!(page.evaluate(&text("#pick-yaml")).await, own(&data(&html)).1.as_str());
        for chart in ["prefill", "decode", "cost", "ttft", "itl", "gpus"] {
            let marks = page.evaluate(&format!("document.querySelectorAll('#chart-{chart} .mark').length")).await;
            assert!(marks.as_u64().unwrap() > 0, "{chart}: {marks}");
        }
        // Each picture has a name, each mark says what it is, and nothing overflows the page.
        let unnamed = "[...document.querySelectorAll('svg.plot')].filter((svg) => !document.getElementById(svg.getAttribute('aria-labelledby'))).length + document.querySelectorAll('.mark:not([aria-label])').length";
        assert_eq!(page.evaluate(unnamed).await, 0);
        assert_eq!(page.evaluate("document.documentElement.scrollWidth <= innerWidth").await, true);

        // A tighter ITL: other engines, another file. Far tighter ones need engines that this run left out.
        page.evaluate("(() => { const n = document.getElementById('pick-itl'); n.value = '9'; n.dispatchEvent(new Event('input', { bubbles: true })); })()").await;
        assert_ne!(page.evaluate(&text("#pick-result h3")).await, heading);
        let yaml = page.evaluate(&text("#pick-yaml")).await;
        let target: f64 =
            yaml.as_str().unwrap().split("\"itl_ms\": ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        assert!(target <= 9.0 && target > 7.0, "the next tighter line: {target}");
        // One that nothing meets.
        page.evaluate("(() => { const n = document.getElementById('pick-itl'); n.value = '0.1'; n.dispatchEvent(new Event('input', { bubbles: true })); })()").await;
        assert_eq!(page.evaluate(&text("#pick-result h3")).await, "No answer");
        page.evaluate("document.getElementById('pick-reset').click()").await;
        assert_eq!(page.evaluate(&text("#pick-result h3")).await, heading);

        let picture = page.screenshot().await;
        assert!(picture.starts_with(b"\x89PNG"));
        std::fs::write(folder.path().join(format!("{scheme}.png")), &picture).unwrap();
        assert_eq!(page.said, Vec::<String>::new(), "{scheme}");
    }
    let picture = |scheme: &str| std::fs::read(folder.path().join(format!("{scheme}.png"))).unwrap();
    assert_ne!(picture("light"), picture("dark"));
}

#[tokio::test]
async fn everything_can_be_done_by_keyboard() {
    let (_folder, file, _) = report(&QUICKSTART.path);
    let mut page = Page::open(&file, 1240, 1000, "light").await;
    let focused = "(() => { const a = document.activeElement; return a.id || a.getAttribute('href') || (a.closest('.chart') || {}).id || a.parentElement.textContent || a.tagName; })()";
    let mut order = Vec::new();
    for _ in 0..70 {
        page.press("Tab").await;
        order.push(page.evaluate(focused).await.as_str().unwrap_or_default().to_owned());
        if order.last().is_some_and(|last| last == "chart-gpus") {
            break;
        }
    }
    // In the order in which they are read.
    let wanted = [
        "#main",
        "#pick",
        "pick-ttft",
        "pick-itl",
        "pick-reset",
        "pick-copy",
        "pick-download",
        "pick-yaml",
        "chart-prefill",
        "chart-decode",
        "chart-cost",
        "chart-ttft",
        "chart-itl",
        "filter-role",
        "filter-text",
        "chart-gpus",
    ];
    let places: Vec<Option<usize>> = wanted.iter().map(|name| order.iter().position(|id| id == name)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{wanted:?} at {places:?} of {order:?}");

    // Within a chart the arrows go on, and each mark says what it is.
    let said = "document.activeElement.getAttribute('aria-label')";
    let first = page.evaluate(said).await;
    assert!(first.as_str().unwrap().contains(" tp"), "{first}");
    page.press("ArrowRight").await;
    assert_ne!(page.evaluate(said).await, first);
    let shown =
        "[...document.querySelectorAll('#chart-gpus .tip')].map((tip) => tip.hidden ? '' : tip.textContent).join('')";
    assert!(page.evaluate(shown).await.as_str().unwrap().contains("launching"));
    page.press("Escape").await;
    assert_eq!(page.evaluate(shown).await, "");
    page.press("End").await;
    assert_ne!(page.evaluate(said).await, first);

    // The table filters and sorts.
    let rows = "[...document.querySelectorAll('#candidate-table tbody tr:not([hidden])')].map((row) => row.cells[0].textContent)";
    page.evaluate("(() => { const f = document.getElementById('filter-role'); f.value = 'decode'; f.dispatchEvent(new Event('input', { bubbles: true })); })()").await;
    let shown = page.evaluate(rows).await;
    assert_eq!(shown.as_array().unwrap().len(), 4);
    assert!(shown.as_array().unwrap().iter().all(|name| name.as_str().unwrap().starts_with("decode ")), "{shown}");
    page.evaluate("document.querySelectorAll('#candidate-table th button')[5].focus()").await;
    let throughputs = "[...document.querySelectorAll('#candidate-table tbody tr:not([hidden])')].map((row) => row.cells[5].dataset.value).filter((value) => value !== '').map(Number)";
    page.press("Enter").await;
    let numbers =
        |value: Value| -> Vec<f64> { value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect() };
    let rising = numbers(page.evaluate(throughputs).await);
    assert!(rising.len() > 1 && rising.is_sorted(), "{rising:?}");
    page.press("Enter").await;
    let falling = numbers(page.evaluate(throughputs).await);
    assert!(falling.iter().rev().eq(&rising), "{falling:?}");
    page.evaluate("document.getElementById('points-details').open = true").await;
    let points = page.evaluate("new Promise((done) => setTimeout(() => done(document.querySelectorAll('#points-table tbody tr').length), 100))").await;
    assert_eq!(points.as_u64().unwrap() as usize, Recording::open(&QUICKSTART.path).unwrap().measurements().count());
    assert_eq!(page.said, Vec::<String>::new());
}

const EVIL: &str =
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">{{data}}";

#[tokio::test]
async fn no_text_of_a_run_becomes_markup_or_runs() {
    let evil = rewritten(&QUICKSTART, |event| match event {
        Event::RunStarted(mut started) => {
            EVIL.clone_into(&mut started.job.model.name);
            EVIL.clone_into(&mut started.job.hardware.gpu.name);
            EVIL.clone_into(&mut started.cluster);
            started.plugin_choices[1].settings.clear();
            for plugin in &mut started.plugins {
                EVIL.clone_into(&mut plugin.version);
            }
            vec![Event::RunStarted(started)]
        }
        Event::Measured { phase, measurement } => {
            let failure = sla_profiler::domain::Failure {
                candidate: measurement.candidate,
                class: sla_profiler::domain::FailureClass::Measurement,
                cause: None,
                probe: None,
                reason: format!("the last lines of its log: {EVIL}"),
            };
            vec![Event::Measured { phase, measurement }, Event::Failed { phase, failure }]
        }
        Event::PhaseStarted { phase } => {
            vec![Event::PhaseStarted { phase }, Event::Infeasible { reason: EVIL.to_owned() }]
        }
        other => vec![other],
    });
    let (_folder, file, html) = report(&evil.path().join("run"));
    assert_eq!(html.matches("<script").count(), 2, "the data and our own");
    assert!(!html.contains("<img"));
    let mut page = Page::open(&file, 1240, 1000, "light").await;
    assert_eq!(page.evaluate("document.documentElement.dataset.ready").await, "yes");
    assert!(page.evaluate("document.title").await.as_str().unwrap().contains("</script>"), "it is shown as text");
    assert!(page.evaluate("document.body.textContent").await.as_str().unwrap().contains("its log: </script><script>"));
    assert_eq!(page.evaluate("document.querySelectorAll('img').length").await, 0);
    assert_eq!(page.said, Vec::<String>::new());
}

#[tokio::test]
async fn a_thousand_points_are_less_than_two_megabytes_and_all_are_shown() {
    let copies =
        1000_u32.div_ceil(u32::try_from(Recording::open(&QUICKSTART.path).unwrap().measurements().count()).unwrap());
    let large = rewritten(&QUICKSTART, |event| match &event {
        Event::Measured { phase, measurement } => {
            let mut events = vec![event.clone()];
            for n in 1..copies {
                let mut other = measurement.clone();
                other.concurrency += 1000 * n;
                for stat in [&mut other.ttft_ms, &mut other.itl_ms].into_iter().flatten() {
                    let factor = 1.0 + f64::from(n) / 37.0;
                    for value in [&mut stat.mean, &mut stat.target, &mut stat.ci_low, &mut stat.ci_high] {
                        *value *= factor;
                    }
                }
                events.push(Event::Measured { phase: *phase, measurement: other });
            }
            events
        }
        _ => vec![event],
    });
    let (_folder, file, html) = report(&large.path().join("run"));
    assert!(html.len() <= 2_000_000, "{} bytes", html.len());
    let mut page = Page::open(&file, 1240, 1000, "light").await;
    assert_eq!(page.evaluate("document.documentElement.dataset.ready").await, "yes");
    let points = page.evaluate("DATA.points.length").await.as_u64().unwrap();
    assert!(points >= 1000, "{points}");
    // No assertion: machines differ. The figure is in host/docs/report.md.
    let opened = "new Promise((done) => new PerformanceObserver((list) => done(list.getEntries()[0].loadEventEnd)).observe({ type: 'navigation', buffered: true }))";
    println!("opened in {} ms, {} bytes", page.evaluate(opened).await, html.len());
    assert_eq!(page.said, Vec::<String>::new());
}

#[test]
fn a_run_that_was_cut_off_has_a_report_that_says_so() {
    let mut cut = false;
    let torn = rewritten(&QUICKSTART, |event| {
        cut |= matches!(event, Event::Measured { .. });
        if cut { Vec::new() } else { vec![event] }
    });
    let (_folder, _, html) = report(&torn.path().join("run"));
    assert!(html.contains("No plan yet") && html.contains("did not come to its end"), "{html}");
    assert_eq!(data(&html)["picks"], Value::Null);
}

#[test]
fn it_goes_beside_the_run_unless_told_otherwise_and_says_where() {
    let folder = QUICKSTART.with_journal(|journal| journal);
    let mut command = sla_profiler(["report", "--output", "json"]);
    command.arg(folder.path());
    let said = run(command);
    assert_eq!(said.code, 0, "{}", said.err);
    let answer: Value = serde_json::from_str(&said.out).unwrap();
    let path = folder.path().join("report.html");
    assert_eq!(answer["report"], path.to_str().unwrap());
    assert_eq!(answer["bytes"], std::fs::read(&path).unwrap().len());

    let mut command = sla_profiler(["report", "--to", "-"]);
    command.arg(folder.path());
    assert_eq!(run(command).out.into_bytes(), std::fs::read(&path).unwrap(), "the same journal, the same page");
    let said = run(sla_profiler(["report", "/nowhere"]));
    assert_eq!(said.code, 9, "{}", said.err);
}
