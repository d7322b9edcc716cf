//! Whole runs of the program: how to start one, and what to look at afterwards.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Said, run, sla_profiler};

/// The job that most tests run.
pub const QUICKSTART: &str = "examples/quickstart/dgdr.yaml";

/// A job on one engine of each role with fixed grids and no deployment: the least that goes through all phases.
pub const SMALL: &str = r#"{"model": "Qwen/Qwen3-0.6B", "hardware": {"gpuSku": "h200_sxm", "numGpusPerNode": 2, "totalGpus": 2},
    "workload": {"isl": 500, "osl": 50}, "sla": {"ttft": 200, "itl": 20}, "autoApply": false,
    "profiler": {"maxContextLength": 4096, "maxNumGpusPerEngine": 1,
        "sweep": {"plugin": "sweep-grid", "settings": {"prefill-granularity": 3, "decode-granularity": 2}}}}"#;

/// `profile` on a DGDR (a file, or JSON), with its results in `out`.
pub fn profile(dgdr: &str, out: &Path, flags: &[&str]) -> Command {
    let mut command = sla_profiler(["profile", "--config", dgdr, "--out"]);
    command.arg(out).args(flags);
    command
}

/// Runs it; it must end with that code.
pub fn expect(code: u8, command: Command) -> Said {
    let shown = format!("{command:?}");
    let said = run(command);
    assert_eq!(said.code, i32::from(code), "{shown}\n{}\n{}", said.out, said.err);
    said
}

/// Every file below a folder, by its path in it.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                let name = path.strip_prefix(root).expect("below it").to_string_lossy().into_owned();
                found.insert(name, std::fs::read(&path).expect("readable"));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

/// What a run found, without what tells how and when it happened: the command, the journal, the log, the
/// status, and the engines' logs.
pub fn findings(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = files(folder);
    files.retain(|name, _| {
        !["command.json", "journal.jsonl", "profile_sla.log", "profiler_status.yaml"].contains(&name.as_str())
            && !name.ends_with("engine.log")
    });
    files
}

/// Compares two runs file by file, and names the files that differ.
pub fn assert_same_findings(one: &Path, other: &Path) {
    let (one, other) = (findings(one), findings(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    let differ: Vec<&String> =
        one.iter().filter(|(name, bytes)| other.get(*name) != Some(bytes)).map(|f| f.0).collect();
    assert!(differ.is_empty(), "these differ: {differ:?}");
}

/// A Python with `tests/requirements.txt`: the one that `SLA_PROFILER_PYTHON` names, as `cargo xtask test` does.
pub fn python(script: &str) -> Command {
    let python: OsString = std::env::var_os("SLA_PROFILER_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script));
    command
}

/// Checks documents, one a line, against a published schema; the reason if one does not fit.
///
/// # Errors
/// What the validator says.
pub fn validate(schema: &str, lines: &str) -> Result<(), String> {
    let mut command = python("validate.py");
    command.arg(crate::root().join("host/schema").join(schema));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("python3 is installed");
    // A validator that has seen enough closes its input.
    let _ = child.stdin.take().expect("piped").write_all(lines.as_bytes());
    let said = crate::ended(child, "validate.py");
    if said.code == 0 { Ok(()) } else { Err(said.err) }
}
