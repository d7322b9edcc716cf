//! Runs on the simulated cluster, recorded once per test binary.

use std::path::PathBuf;
use std::sync::LazyLock;

use crate::{root, run, sla_profiler};

/// A small run with the bundled defaults: a dense 8B on 8 GPUs.
pub static QUICKSTART: LazyLock<Recorded> =
    LazyLock::new(|| Recorded::new(&["--request-rate", "20", "--no-auto-apply"], 0));

/// The same job under an ITL that nothing meets.
pub static INFEASIBLE: LazyLock<Recorded> =
    LazyLock::new(|| Recorded::new(&["--itl", "1", "--request-rate", "20", "--no-auto-apply"], 10));

/// A run directory that lives as long as the test binary.
#[derive(Debug)]
pub struct Recorded {
    /// Held so that it is not removed.
    _folder: tempfile::TempDir,
    /// The run directory.
    pub path: PathBuf,
}

impl Recorded {
    /// Profiles the quickstart with more flags and expects the exit code.
    pub fn new(flags: &[&str], code: i32) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("run");
        let job = root().join("examples/quickstart/dgdr.yaml");
        let mut command = sla_profiler(["--quiet", "profile", "-f"]);
        command.arg(job).arg("--out").arg(&path).args(flags);
        let said = run(command);
        assert_eq!(said.code, code, "{}", said.err);
        Self { _folder: folder, path }
    }

    /// As an argument.
    pub fn arg(&self) -> &str {
        self.path.to_str().expect("a plain path")
    }

    /// A copy of its journal in another folder, changed.
    pub fn with_journal(&self, change: impl FnOnce(String) -> String) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = std::fs::read_to_string(self.path.join("journal.jsonl")).expect("a journal");
        std::fs::write(folder.path().join("journal.jsonl"), change(text)).expect("it can be written");
        folder
    }
}
