//! A headless Chromium for the tests of the report: Debian's package, unpacked, nothing installed.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::languages::{host_libraries, tools};
use crate::process::{on_path, output};
use crate::{Error, Report, debian};

/// The environment variable that names the Chromium of the tests.
pub const CHROMIUM_VARIABLE: &str = "SLA_PROFILER_CHROMIUM";

/// Debian's build without windows: 64 MB, and libraries that servers have not.
const PACKAGE: &str = "chromium-headless-shell";

/// For fetching 95 MB.
const FETCH: Duration = Duration::from_secs(600);

/// A Chromium that starts, with the path of its libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chromium {
    /// The program.
    pub program: PathBuf,
    /// For `LD_LIBRARY_PATH`; empty where the system's libraries do.
    pub libraries: OsString,
}

impl Chromium {
    /// One that is here already: what the variable names, or a program on the path.
    pub fn here() -> Option<Self> {
        let named = env::var_os(CHROMIUM_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        let on_path =
            || ["chromium-headless-shell", "chromium"].into_iter().find(|name| on_path(name)).map(PathBuf::from);
        named.or_else(on_path).map(|program| {
            // One that was unpacked by us has its libraries beside it.
            let libraries = program.ancestors().nth(3).map(libraries_below).unwrap_or_default();
            Self { program, libraries }
        })
    }

    /// A command that starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if !self.libraries.is_empty() {
            command.env("LD_LIBRARY_PATH", &self.libraries);
        }
        command
    }
}

/// One that is here, or Debian's, unpacked once below `cache`.
///
/// # Errors
/// When apt-get is missing or does not reach its archive, in words that say what to do.
pub fn chromium(cache: &Path, report: Report<'_>) -> Result<Chromium, Error> {
    if let Some(here) = Chromium::here() {
        return Ok(here);
    }
    // Without a version: the archive keeps the newest security release only.
    let root = tools(cache, "chromium", PACKAGE.as_bytes(), |place| {
        let packages = missing_packages()?;
        debian::unpack(&packages.iter().map(String::as_str).collect::<Vec<_>>(), place, FETCH, report)
    })?;
    let usr = root.join("usr");
    Ok(Chromium { program: usr.join("lib/chromium/chromium-headless-shell"), libraries: libraries_below(&usr) })
}

/// The package and whatever it needs that is not installed.
fn missing_packages() -> Result<Vec<String>, Error> {
    let simulate = || {
        output(Command::new("apt-get").args(["install", "--simulate", "--quiet=2", "--no-install-recommends", PACKAGE]))
    };
    let said = match simulate() {
        Ok(said) => said,
        Err(_) => {
            // The lists may be empty (container images); without root this fails, and the next line says why.
            let _ = output(Command::new("apt-get").args(["update", "--quiet=2"]));
            simulate()?
        }
    };
    Ok(installed_by(&said))
}

/// The names in apt-get's `Inst name (version …)` lines.
fn installed_by(simulated: &str) -> Vec<String> {
    simulated
        .lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .filter_map(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn libraries_below(usr: &Path) -> OsString {
    let folder = host_libraries(usr);
    // libpulse keeps a part of itself in a folder of its own.
    let folders = [folder.join("pulseaudio"), folder].into_iter().filter(|folder| folder.is_dir());
    env::join_paths(folders).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_from_what_apt_get_would_do() {
        let said =
            "Inst xdg-utils (1.1.3-4.1 Debian:12 [all])\nInst libpulse0 (16.1 Debian [amd64]) []\nConf xdg-utils (1)\n";
        assert_eq!(installed_by(said), ["xdg-utils", "libpulse0"]);
    }

    #[test]
    fn a_program_that_was_not_unpacked_by_us_gets_no_libraries() {
        assert_eq!(libraries_below(Path::new("/nowhere/usr")), OsString::new());
    }
}
