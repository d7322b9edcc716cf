//! System packages on Debian and its relatives.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::{on_path, output, run, run_within};
use crate::{Error, Report};

/// Whether `apt-get` and `dpkg-query` are here.
pub(crate) fn is_debian() -> bool {
    on_path("apt-get") && on_path("dpkg-query")
}

/// Makes sure that all `packages` are installed.
///
/// Never removes a package: `rustc-web` conflicts with Debian's `rustc` and `rustup`, and which of them stays is the
/// user's choice.
///
/// # Errors
/// What to do by hand, in words, when the packages are missing and cannot be installed.
pub(crate) fn install(packages: &[&str], report: Report<'_>) -> Result<(), String> {
    if !is_debian() {
        return Err(format!("{} are Debian packages, and this is not Debian", packages.join(" and ")));
    }
    if packages.iter().all(|package| is_installed(package)) {
        return Ok(());
    }
    if !is_root() {
        return Err(format!("installing Debian packages needs root: run `{}`", install_command(packages)));
    }
    report(&format!("installing Debian packages: {}", packages.join(", ")));
    // The lists may be empty (container images) or old. A failure shows again, with a better message, in the install.
    let _ = apt(&["update"]);
    let mut arguments = vec!["install", "--yes", "--no-install-recommends", "--no-remove"];
    arguments.extend(packages);
    apt(&arguments).map_err(|error| format!("{error}; to see it by hand: `{}`", install_command(packages)))
}

/// Fetches packages and unpacks them to `place`: nothing is installed, and no root is needed.
///
/// # Errors
/// When apt-get is missing, or does not know a package, or the archive cannot be reached within `limit`.
pub(crate) fn unpack(packages: &[&str], place: &Path, limit: Duration, report: Report<'_>) -> Result<(), Error> {
    report(&format!("fetching Debian packages: {}", packages.join(", ")));
    let fetch = || {
        let mut download = Command::new("apt-get");
        download.args(["--quiet", "-o", "Acquire::http::Timeout=30", "download"]).args(packages).current_dir(place);
        run_within(&mut download, limit)
    };
    if let Err(error) = fetch() {
        // The lists may be empty (container images) or old.
        if !is_root() {
            return Err(error);
        }
        apt(&["update"])?;
        fetch()?;
    }
    for entry in place.read_dir().map_err(Error::file("read", place))?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            output(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(place))?;
            fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
    }
    Ok(())
}

/// What a person would type to get `packages`.
pub(crate) fn install_command(packages: &[&str]) -> String {
    format!("apt-get update && apt-get install --no-install-recommends {}", packages.join(" "))
}

/// The path that ends with `suffix` in an installed package.
pub(crate) fn file_of(package: &str, suffix: &str) -> Option<String> {
    let files = output(Command::new("dpkg-query").args(["--listfiles", package])).ok()?;
    files.lines().find(|path| path.ends_with(suffix)).map(str::to_owned)
}

fn is_installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|uid| uid == "0")
}

fn apt(arguments: &[&str]) -> Result<(), Error> {
    let mut command = Command::new("apt-get");
    command
        .args([
            "--quiet=2",
            "-o",
            "Dpkg::Use-Pty=0",
            "-o",
            "Acquire::http::Timeout=30",
            "-o",
            "DPkg::Lock::Timeout=120",
        ])
        .args(arguments);
    // What it does, package by package, is of no interest; what goes wrong is on stderr.
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
    run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_a_person_names_every_package() {
        assert_eq!(install_command(&["a", "b"]), "apt-get update && apt-get install --no-install-recommends a b");
    }
}
