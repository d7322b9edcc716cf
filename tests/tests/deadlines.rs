//! `host/docs/deadlines.md` lists every wait of the code. `cargo xtask generate` (SLA_PROFILER_UPDATE) makes its tables.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use sla_profiler::engine::kubernetes::Deadlines;
use sla_profiler::engine::served::Settings;
use sla_profiler::plugin::Limits;
use sla_profiler_tests::runs::expect;
use sla_profiler_tests::{golden, root, sla_profiler};

const PAGE: &str = "host/docs/deadlines.md";
const BEGIN: &str = "<!-- generated from the code -->\n";
const END: &str = "<!-- end -->";

/// A `Duration` in the code.
struct Wait {
    place: String,
    name: Option<String>,
    value: String,
    what: String,
}

impl Wait {
    /// Between two looks or tries, and not the end of a wait.
    fn is_pause(&self) -> bool {
        let words = ["PAUSE", "EVERY", "NAP", "BACKOFF", "TICK", "LOOK", "AGAIN", "BETWEEN", "AGE", "AFTER_FAILURE"];
        let name = self.name.as_deref().unwrap_or_default();
        let is_deadline = name.ends_with("DEADLINE");
        !is_deadline && (words.iter().any(|word| name.contains(word)) || self.what.contains("sleep("))
    }
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// `300 s` of `Duration::from_secs(300)`; nothing where it is not a number.
fn value(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("Duration::from_")?;
    let (unit, rest) = rest.split_once('(')?;
    let number = rest.split(')').next()?.replace('_', "");
    let number: u64 = number.parse().ok()?;
    let unit = match unit {
        "secs" => "s",
        "millis" => "ms",
        _ => return None,
    };
    Some(format!("{number} {unit}"))
}

/// The comment that ends above a line, as one sentence or more.
fn comment(lines: &[&str], at: usize) -> Option<String> {
    let above = lines[..at].iter().rev().map(|line| line.trim());
    let above = above.skip_while(|line| line.starts_with("#["));
    let mut words: Vec<&str> =
        above.take_while(|line| line.starts_with("//")).map(|line| line.trim_start_matches('/').trim()).collect();
    words.reverse();
    let text = words.join(" ").replace("[`", "`").replace("`]", "`").replace('|', "\\|");
    (!text.is_empty()).then_some(text)
}

/// All of production code's.
fn waits() -> Vec<Wait> {
    let source = root().join("host/src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let place = file.strip_prefix(&source).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        // Modules that are compiled for tests only.
        if place.ends_with("tests.rs") || text.contains("#![cfg(test)]") || place.ends_with("scripted.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap();
        let lines: Vec<&str> = code.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let trimmed = line.trim();
            let Some(value) = value(line).filter(|_| !trimmed.starts_with("//")) else { continue };
            let name =
                line.split_once("const ").and_then(|(_, rest)| rest.split_once(':')).map(|(name, _)| name.to_owned());
            // The second of two constants under one comment.
            let above = comment(&lines, at).or_else(|| comment(&lines, at.saturating_sub(1)));
            let what = match (&name, above) {
                (Some(_), Some(text)) => text,
                _ => format!("`{}`", trimmed.replace('|', "\\|")),
            };
            found.push(Wait { place: place.clone(), name, value, what });
        }
    }
    found
}

fn table(title: &str, waits: &[&Wait]) -> String {
    let mut text = format!("\n## {title}\n\n| | what | where |\n| --- | --- | --- |\n");
    for Wait { place, name, value, what } in waits {
        let name = name.as_ref().map_or(String::new(), |name| format!(" `{name}`"));
        text.push_str(&format!("| {value} | {what} | `{place}`{name} |\n"));
    }
    text
}

/// As it was before any of these tests wrote it.
fn page() -> &'static str {
    static PAGE_BEFORE: LazyLock<String> = LazyLock::new(|| std::fs::read_to_string(root().join(PAGE)).unwrap());
    &PAGE_BEFORE
}

#[test]
fn every_wait_of_the_code_is_on_the_page() {
    let waits = waits();
    assert!(waits.len() > 50, "{}", waits.len());
    let (pauses, deadlines): (Vec<&Wait>, Vec<&Wait>) = waits.iter().partition(|wait| wait.is_pause());
    let page = page();
    let (head, rest) = page.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let tables = table("Deadlines in the code", &deadlines) + &table("Pauses, between two looks or tries", &pauses);
    golden(&root().join(PAGE), &format!("{head}{BEGIN}{tables}\n{END}{tail}"));
}

#[test]
fn the_defaults_that_the_page_gives_are_the_programs() {
    let page = page();
    let row = |words: &str| {
        let line = page.lines().find(|line| line.starts_with("| ") && line.contains(words));
        line.unwrap_or_else(|| panic!("no row with {words}")).split('|').nth(2).unwrap().trim().to_owned()
    };
    let (cluster, served, limits) = (Deadlines::default(), Settings::default(), Limits::default());
    for (words, seconds) in [
        ("from ordering an engine", served.launch_deadline.as_secs()),
        ("the same on Kubernetes", cluster.launch.as_secs()),
        ("without a log line", cluster.silence.as_secs()),
        ("wait for GPUs", cluster.scheduling.as_secs()),
        ("are to go away", cluster.removal.as_secs()),
        ("the operator's first word", cluster.operator.as_secs()),
        ("one point", served.point_deadline.as_secs()),
        ("one decision", limits.deadline_ms / 1000),
        ("a plugin's word", limits.describe_deadline_ms / 1000),
        ("compiling a plugin", limits.compile_deadline_ms / 1000),
    ] {
        assert_eq!(row(words), format!("{seconds} s"), "{words}");
    }
}

#[test]
fn every_flag_and_setting_of_the_page_exists() {
    let page = page();
    let help = expect(0, sla_profiler(["profile", "--help"])).out;
    let schema = expect(0, sla_profiler(["config", "schema"])).out;
    let quoted = page.split(BEGIN).next().unwrap().split('`').skip(1).step_by(2);
    let mut flags = 0;
    for word in quoted {
        if word.starts_with("--") {
            assert!(help.contains(word.split(' ').next().unwrap()), "{word}");
            flags += 1;
        } else if let Some((_, key)) = word.rsplit_once('.').filter(|_| !word.ends_with(".rs")) {
            assert!(schema.contains(&format!("\"{key}\"")), "{word}");
        }
    }
    assert!(flags >= 4);
}
