//! `doctor`, completions and manual pages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::process::{Command, Stdio};

use serde_json::Value;
use sla_profiler::output::exit_code;
use sla_profiler_tests::runs::expect;
use sla_profiler_tests::{run, sla_profiler};

fn doctor(flags: &[&str], code: u8) -> Vec<Value> {
    let mut command = sla_profiler(["doctor", "--output", "json"]);
    command.args(flags).env("KUBECONFIG", "/nowhere/kubeconfig").env_remove("KUBERNETES_SERVICE_HOST");
    let answer: Value = serde_json::from_str(&expect(code, command).out).unwrap();
    answer["findings"].as_array().unwrap().clone()
}

fn of<'a>(findings: &'a [Value], what: &str) -> &'a Value {
    findings.iter().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("{what}: {findings:#?}"))
}

#[test]
fn what_is_missing_comes_with_a_remedy_and_stops_only_who_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("results").display().to_string();
    let findings = doctor(&["--out", &out], exit_code::OK);
    assert_eq!(of(&findings, "bundled")["level"], "ok");
    assert_eq!(of(&findings, "results")["level"], "ok");
    assert_eq!(of(&findings, "answers")["level"], "absent", "no cluster is needed");
    for finding in &findings {
        assert_eq!(finding["level"] == "ok", finding["remedy"].is_null(), "{finding:#}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves nothing");

    let findings = doctor(&["--out", &out, "--cluster", "kubernetes"], exit_code::UNWELL);
    assert_eq!(of(&findings, "answers")["level"], "problem");
}

#[test]
fn a_results_folder_that_cannot_be_is_a_problem() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let below = file.path().join("results").display().to_string();
    let findings = doctor(&["--out", &below], exit_code::UNWELL);
    let results = of(&findings, "results");
    assert!(results["detail"].as_str().unwrap().contains("cannot write"), "{results:#}");
}

#[test]
fn the_text_says_what_to_do() {
    let mut command = sla_profiler(["doctor"]);
    command.env("KUBECONFIG", "/nowhere/kubeconfig").env("PATH", "");
    let said = expect(exit_code::OK, command);
    assert!(said.out.contains("aiperf") && said.out.contains("→ pip install aiperf=="), "{}", said.out);
    assert!(said.out.contains("Nothing stands in the way"), "{}", said.out);
}

#[test]
fn bash_takes_the_completions_and_offers_commands() {
    let script = expect(exit_code::OK, sla_profiler(["completions", "bash"])).out;
    let asked = format!(
        "{script}\nCOMP_WORDS=(sla-profiler exp)\nCOMP_CWORD=1\n_sla-profiler sla-profiler exp sla-profiler\necho \"${{COMPREPLY[@]}}\""
    );
    let mut bash = Command::new("bash");
    let output = bash.arg("-c").arg(asked).stdin(Stdio::null()).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "explain",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for shell in ["zsh", "fish", "powershell", "elvish"] {
        assert!(expect(exit_code::OK, sla_profiler(["completions", shell])).out.contains("explain"), "{shell}");
    }
    assert_eq!(run(sla_profiler(["completions", "tcsh"])).code, 2);
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = sla_profiler(["man"]);
    command.arg(dir.path());
    expect(exit_code::OK, command);
    let mut pages: Vec<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    pages.sort();
    for page in ["sla-profiler.1", "sla-profiler-profile.1", "sla-profiler-plugin-add.1", "sla-profiler-report.1"] {
        assert!(pages.iter().any(|name| name == page), "{page}: {pages:?}");
    }
    let profile = std::fs::read_to_string(dir.path().join("sla-profiler-profile.1")).unwrap();
    assert!(profile.contains("metrics\\-listen") && profile.contains(".TH"), "{}", &profile[..400]);
}
