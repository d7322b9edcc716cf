//! Python environments: for the tests that read our files with numpy, and for those against NVIDIA's packages.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::component::hex_sha256;
use crate::process::{output, run_within};
use crate::{Error, Report, debian};

/// The file whose presence says that the environment is complete.
const COMPLETE: &str = "complete";

/// What a file of requirements holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// What is wanted; pip adds what that requires.
    Wanted,
    /// Everything; pip adds nothing and does not ask whether it fits together.
    All,
}

/// Installing may take so long: 1.4 GB over a slow line.
const INSTALL_LIMIT: Duration = Duration::from_secs(1800);

/// The Python of an environment with the packages of `requirements` (pip's format, pinned), made under `cache` once.
///
/// # Errors
/// [`Error::Python`] when python3, `venv` or a package cannot be had; [`Error::File`].
pub fn python_env(requirements: &Path, listed: Listed, cache: &Path, report: Report<'_>) -> Result<PathBuf, Error> {
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
    install(&python, requirements, listed, report)?;
    let complete = place.join(COMPLETE);
    fs::write(&complete, "").map_err(Error::file("write", &complete))?;
    Ok(python)
}

/// Packages come over a network, which may be back at the second try.
fn install(python: &Path, requirements: &Path, listed: Listed, report: Report<'_>) -> Result<(), Error> {
    let pip = || {
        let mut pip = Command::new(python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
        // Python compiles what it imports; most of it is not imported.
        pip.arg("--no-compile");
        if listed == Listed::All {
            pip.arg("--no-deps");
        }
        run_within(pip.arg("--requirement").arg(requirements), INSTALL_LIMIT)
    };
    let Err(first) = pip() else { return Ok(()) };
    report(&format!("{first}\ntrying once more"));
    pip().map_err(|error| Error::Python {
        reason: format!("{error}; the packages come from PyPI, or from where pip's configuration says"),
    })
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

/// The variable that carries the Python with numpy to the tests.
pub const PYTHON_VARIABLE: &str = "SLA_PROFILER_PYTHON";

/// The variable that carries the Python with NVIDIA's packages to the tests.
pub const INTEROP_VARIABLE: &str = "SLA_PROFILER_INTEROP_PYTHON";

/// The Python that the caller chose with the variable, if any.
#[must_use]
pub fn chosen(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
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
        let error = python_env(&folder.path().join("none.txt"), Listed::Wanted, folder.path(), &|_| {}).unwrap_err();
        assert!(error.to_string().contains("none.txt"), "{error}");
    }

    #[test]
    fn a_package_that_cannot_be_had_is_tried_twice_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let requirements = folder.path().join("requirements.txt");
        // No index is asked: the file names a wheel that is not there.
        fs::write(&requirements, "--no-index\nsla-profiler-no-such-package==1\n").unwrap();
        let said = std::cell::RefCell::new(Vec::new());
        let report = |line: &str| said.borrow_mut().push(line.to_owned());
        let error = python_env(&requirements, Listed::All, folder.path(), &report).unwrap_err().to_string();
        assert!(error.contains("sla-profiler-no-such-package") && error.contains("PyPI"), "{error}");
        assert!(said.borrow().iter().any(|line| line.ends_with("trying once more")), "{said:?}");
        let environments = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        assert!(!environments.into_iter().any(|place| place.join(COMPLETE).exists()), "half of it is not all of it");
    }
}
