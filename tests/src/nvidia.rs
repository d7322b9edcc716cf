//! NVIDIA's released packages: the Python that has them, and a model for them without weights.
//!
//! Tests that use this are `#[ignore]`d: `cargo test` names each as left out, and `cargo xtask test` runs them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use crate::{Said, ended};

/// Why tests are ignored; the attribute takes literals only, so each repeats it.
pub const NEEDS: &str = "needs NVIDIA's packages: cargo xtask test";

/// The Python that `cargo xtask test` made, with `tests/interop/requirements.txt`.
pub fn python() -> PathBuf {
    let python = std::env::var_os("SLA_PROFILER_INTEROP_PYTHON").map(PathBuf::from);
    python.expect("SLA_PROFILER_INTEROP_PYTHON names a Python with tests/interop/requirements.txt: `cargo xtask test`")
}

/// A program of NVIDIA's packages: they lie beside the Python.
pub fn program(name: &str) -> PathBuf {
    python().with_file_name(name)
}

/// A script of `tests/interop`, with warnings of its libraries on stderr and nothing fetched from anywhere.
pub fn script(name: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(name));
    command.env("HF_HUB_OFFLINE", "1").env("DYN_SDK_DISABLE_ANSI_LOGGING", "1");
    command
}

/// Runs it with the text on stdin; it must succeed.
pub fn expect(mut command: Command, input: &str) -> Said {
    let shown = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    // Beside the reading: both pipes may fill.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let said = ended(child, &shown);
    // A script that failed has closed its input; what it said says why.
    let _ = writer.join();
    assert_eq!(said.code, 0, "{shown}\n{}", said.err);
    said
}

/// A folder with a tokenizer and a configuration, made once per test binary.
pub fn tiny_model() -> &'static Path {
    static MODEL: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = script("make_tiny_model.py");
        command.arg(folder.path());
        expect(command, "");
        folder
    });
    MODEL.path()
}
