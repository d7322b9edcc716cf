//! A rustc that can build [`TARGET`], from the first of these sources that serves:
//!
//! 1. the current rustc, when the target's standard library is in its sysroot;
//! 2. a sysroot that an earlier run made (see 4);
//! 3. `rustup target add`, where rustup's server can be reached;
//! 4. Debian's `rustc-web` and `rust-web-src`: the compiler and the library's source, from which [`sysroot`] makes the
//!    standard library once. Debian packages none for this target.
//!
//! The variable [`SOURCE_VARIABLE`] narrows this to one source, for tests and for CI that must be reproducible: rustup's
//! and Debian's compilers of one version write different bytes.

mod rustc;
mod sysroot;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{on_path, run_within};
use crate::{Error, LINKER, Report, TARGET, debian};
use rustc::Rustc;

/// What source 4 installs.
pub const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "rust-web-src"];

/// `installed`, `rustup` or `debian`: use this source or fail.
pub const SOURCE_VARIABLE: &str = "SLA_PROFILER_WASM_TOOLCHAIN";

/// `rustup target add` downloads 20 MB; it gets this long before it counts as unreachable.
const RUSTUP_LIMIT: Duration = Duration::from_secs(180);

/// A compiler that builds [`TARGET`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// What `RUSTC` must be set to; `None`: the current rustc serves as it is.
    pub rustc: Option<PathBuf>,
    /// One line for people: which compiler, and from where.
    pub description: String,
    /// Differs between two makings of the same sysroot, which cargo does not notice by itself.
    pub stamp: String,
}

/// Finds a toolchain, or makes one under `cache`. `workspace` decides which rustc is the current one.
///
/// # Errors
/// [`Error::NoToolchain`] with what was tried; [`Error::Start`] when there is no rustc at all.
pub fn ensure(workspace: &Path, cache: &Path, report: Report<'_>) -> Result<Toolchain, Error> {
    let only = env::var(SOURCE_VARIABLE).ok().filter(|source| !source.is_empty());
    let wanted = |source: &str| only.as_deref().is_none_or(|only| only == source);
    let current = Rustc::current(workspace)?;
    let mut tried = Vec::new();
    if let Some(source) = &only {
        tried.push(format!("only `{source}`, as {SOURCE_VARIABLE} says (it can be installed, rustup or debian)"));
    }

    if wanted("installed") || wanted("rustup") {
        match missing(&current) {
            None => return Ok(installed(&current)),
            Some(reason) => tried.push(reason),
        }
    }
    if wanted("debian")
        && let Some(made) = sysroot::existing(cache, &current)
    {
        return Ok(made);
    }
    if wanted("rustup") {
        match add_with_rustup(workspace, &current, report) {
            Ok(toolchain) => return Ok(toolchain),
            Err(reason) => tried.push(reason),
        }
    }
    if wanted("debian") {
        match make_from_debian(cache, &current, report) {
            Ok(toolchain) => return Ok(toolchain),
            Err(reason) => tried.push(reason),
        }
    }
    Err(Error::NoToolchain { tried })
}

fn installed(rustc: &Rustc) -> Toolchain {
    Toolchain {
        rustc: None,
        description: format!("rustc {} in {}", rustc.release, rustc.sysroot.display()),
        stamp: "installed".to_owned(),
    }
}

/// What keeps `rustc` from building the target.
fn missing(rustc: &Rustc) -> Option<String> {
    let sysroot = rustc.sysroot.display();
    if !rustc.has_library(TARGET) {
        Some(format!("rustc {} in {sysroot} has no standard library for {TARGET}", rustc.release))
    } else if !rustc.has_tool(LINKER) && !on_path(LINKER) {
        Some(format!("rustc {} in {sysroot} has no {LINKER} (`cargo install {LINKER}` adds it)", rustc.release))
    } else {
        None
    }
}

fn add_with_rustup(workspace: &Path, current: &Rustc, report: Report<'_>) -> Result<Toolchain, String> {
    if env::var_os("RUSTC").is_some() || !on_path("rustup") {
        return Err("rustup does not manage the current rustc".to_owned());
    }
    report(&format!("rustup target add {TARGET}"));
    let mut command = Command::new("rustup");
    command.args(["target", "add", TARGET]).current_dir(workspace);
    run_within(&mut command, RUSTUP_LIMIT).map_err(|error| error.to_string())?;
    match missing(current) {
        None => Ok(installed(current)),
        Some(reason) => Err(format!("`rustup target add {TARGET}` succeeded, but {reason}")),
    }
}

fn make_from_debian(cache: &Path, current: &Rustc, report: Report<'_>) -> Result<Toolchain, String> {
    if !current.has_tool(LINKER) {
        return Err(format!("Debian has no {LINKER}, and neither has {}", current.sysroot.display()));
    }
    debian::install(DEBIAN_PACKAGES, report)?;
    let path = debian::file_of("rustc-web", "/bin/rustc").ok_or("the package rustc-web holds no bin/rustc")?;
    let compiler = Rustc::at(Path::new(&path)).map_err(|error| error.to_string())?;
    let needed = env!("CARGO_PKG_RUST_VERSION");
    if !rustc::at_least(&compiler.release, needed) {
        return Err(format!(
            "Debian's rustc-web is {}, older than the {needed} that this workspace needs: enable the newer one in \
             /etc/apt/sources.list.d (Debian 12: the suite bookworm-security) and `{}`",
            compiler.release,
            debian::install_command(DEBIAN_PACKAGES)
        ));
    }
    sysroot::make(cache, current, &compiler, report).map_err(|error| error.to_string())
}
