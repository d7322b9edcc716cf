//! A Python environment for the tests that read our files with numpy.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::component::hex_sha256;
use crate::process::{output, run};
use crate::{Error, Report, debian};

/// The file whose presence says that the environment is complete.
const COMPLETE: &str = "complete";

/// The Python of an environment with the packages of `requirements` (pip's format, pinned), made under `cache` once.
///
/// # Errors
/// [`Error::Python`] when python3, `venv` or a package cannot be had; [`Error::File`].
pub fn python_env(requirements: &Path, cache: &Path, report: Report<'_>) -> Result<PathBuf, Error> {
    let wanted = fs::read(requirements).map_err(Error::file("read", requirements))?;
    let version = output(Command::new("python3").arg("-c").arg("import sys; print(sys.version, sys.executable)"))
        .map_err(|error| Error::Python {
            reason: format!("{error}; install python3, it runs the checks with numpy"),
        })?;
    let place = cache.join(key(&wanted, &version));
    let python = place.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if place.join(COMPLETE).is_file() && python.exists() {
        return Ok(python);
    }

    // In place and marked at the end: an environment holds its own path, so that it cannot be made elsewhere and moved.
    if place.exists() {
        fs::remove_dir_all(&place).map_err(Error::file("remove", &place))?;
    }
    fs::create_dir_all(cache).map_err(Error::file("create", cache))?;
    report(&format!("making a Python environment with {}", requirements.display()));
    create(&place, report)?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
    install.arg("--requirement").arg(requirements);
    run(&mut install).map_err(|error| Error::Python {
        reason: format!("{error}; the packages come from PyPI, or from where pip's configuration says"),
    })?;
    let complete = place.join(COMPLETE);
    fs::write(&complete, "").map_err(Error::file("write", &complete))?;
    Ok(python)
}

/// Names the packages and the interpreter, whose replacement leaves an environment of dead links.
fn key(requirements: &[u8], version: &str) -> String {
    hex_sha256(&[requirements, version.as_bytes()].concat()).chars().take(16).collect()
}

/// `python3 -m venv`, which Debian and Ubuntu keep in a package of its own.
fn create(place: &Path, report: Report<'_>) -> Result<(), Error> {
    let venv = || output(Command::new("python3").args(["-m", "venv"]).arg(place)).map(drop);
    let Err(first) = venv() else { return Ok(()) };
    debian::install(&["python3-venv"], report)
        .and_then(|()| venv().map_err(|error| error.to_string()))
        .map_err(|reason| Error::Python { reason: format!("{first}\npython3 needs its venv module: {reason}") })
}

/// The variable that carries the environment's Python to the tests.
pub const PYTHON_VARIABLE: &str = "SLA_PROFILER_PYTHON";

/// The Python that the caller chose with [`PYTHON_VARIABLE`], if any.
#[must_use]
pub fn chosen() -> Option<PathBuf> {
    env::var_os(PYTHON_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_pin_or_interpreter_is_another_environment() {
        let same = key(b"numpy==1\n", "3.11");
        assert_eq!(same, key(b"numpy==1\n", "3.11"));
        assert_ne!(same, key(b"numpy==2\n", "3.11"));
        assert_ne!(same, key(b"numpy==1\n", "3.12"));
    }

    #[test]
    fn a_missing_requirements_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = python_env(&folder.path().join("none.txt"), folder.path(), &|_| {}).unwrap_err();
        assert!(error.to_string().contains("none.txt"), "{error}");
    }
}
