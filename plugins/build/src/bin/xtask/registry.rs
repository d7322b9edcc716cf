//! The OCI registry that tests start for themselves, built from the Go module `tests/registry`. Go keeps what it has
//! built, so that this takes a moment the second time.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use sla_profiler_plugin_build::process;

use crate::workspace::Workspace;

/// Names the program, instead of building it.
pub const VARIABLE: &str = "SLA_PROFILER_REGISTRY";

const PACKAGE: &str = "github.com/google/go-containerregistry/cmd/registry";

/// The program: the one that the environment names, or one that is built here.
///
/// # Errors
/// Go is missing, its module proxy does not answer, or the program does not compile; as text that names the way out.
pub fn ensure(workspace: &Workspace) -> Result<PathBuf, String> {
    if let Some(program) = env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(program.into());
    }
    let out = workspace.target.join("registry/registry");
    let mut go = Command::new("go");
    go.current_dir(workspace.root.join("tests/registry"))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        .env("GOWORK", "off")
        .args(["build", "-trimpath", "-buildvcs=false", "-o"])
        .arg(&out)
        .arg(PACKAGE);
    process::run(&mut go).map_err(|error| {
        format!(
            "{error}\nGo builds the registry for the tests: install Go 1.26 or newer (https://go.dev/dl), name the program of \
             {PACKAGE} in {VARIABLE}, or leave these tests out with `cargo xtask test --without-kubernetes`"
        )
    })?;
    Ok(out)
}
