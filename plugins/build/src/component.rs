//! Cargo packages in, components out.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::process::{cargo, run};
use crate::toolchain::Toolchain;
use crate::{Error, LINKER, TARGET};

/// The package `sla-profiler-plugin-<name>` holds the plugin `<name>`.
pub const PACKAGE_PREFIX: &str = "sla-profiler-plugin-";

/// How a WebAssembly component starts: magic, version 13, layer 1.
const COMPONENT: [u8; 8] = [0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00];
/// How a core module starts: magic, version 1, layer 0.
const CORE_MODULE: [u8; 8] = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];

/// What to build, and where to put it.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The folder of the workspace or package.
    pub workspace: &'a Path,
    /// Names of packages with `crate-type = ["cdylib"]`.
    pub packages: &'a [&'a str],
    /// The cargo profile; must exist in the workspace.
    pub profile: &'a str,
    /// Folder for cargo's intermediate files. Not the host's target folder: two compilers would take turns in it.
    pub build_dir: &'a Path,
    /// Where `<name>.wasm` goes.
    pub out_dir: &'a Path,
    /// Refuse to change Cargo.lock.
    pub locked: bool,
}

/// A component that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// The package's name without [`PACKAGE_PREFIX`].
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: usize,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// Whether the file was written. One with the same content is left alone, so that nothing that embeds it is rebuilt.
    pub changed: bool,
}

/// Builds every package of `request` with `toolchain`. cargo's progress goes to stderr.
///
/// The bytes depend on the compiler, the sources and Cargo.lock, not on the folders of the machine: flags from the
/// environment and from cargo's configuration are replaced, and the registry's path is mapped to `/cargo`.
///
/// # Errors
/// [`Error::Failed`] when cargo fails, [`Error::NoArtifact`] or [`Error::NotAComponent`] when what it wrote is not a
/// component, [`Error::File`] for the file system.
pub fn build(toolchain: &Toolchain, request: &Request<'_>) -> Result<Vec<Component>, Error> {
    discard_other_toolchains_work(request.build_dir, &toolchain.stamp)?;
    run(&mut command(toolchain, request))?;
    request.packages.iter().map(|package| publish(request, package)).collect()
}

/// Removes the components in `out_dir` that are not among `kept`: those of plugins that were renamed or removed.
///
/// # Errors
/// [`Error::File`].
pub fn remove_others(out_dir: &Path, kept: &[Component]) -> Result<(), Error> {
    for entry in out_dir.read_dir().map_err(Error::file("read", out_dir))?.flatten() {
        let path = entry.path();
        let is_component = path.extension().is_some_and(|extension| extension == "wasm");
        if is_component && !kept.iter().any(|component| component.path == path) {
            fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
    }
    Ok(())
}

fn command(toolchain: &Toolchain, request: &Request<'_>) -> std::process::Command {
    let mut command = cargo(request.workspace);
    command.args(["build", "--lib", "--target", TARGET, "--profile", request.profile]);
    for package in request.packages {
        command.args(["--package", package]);
    }
    if request.locked {
        command.arg("--locked");
    }
    if let Some(rustc) = &toolchain.rustc {
        command.env("RUSTC", rustc);
    }
    command.env("CARGO_TARGET_DIR", request.build_dir);
    // Takes precedence over RUSTFLAGS and over every `rustflags` in cargo's configuration.
    let remap = format!("--remap-path-prefix={}=/cargo", cargo_registry_sources().display());
    command.env("CARGO_ENCODED_RUSTFLAGS", remap);
    // For packages outside this workspace, whose cargo configuration does not name the linker.
    command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", LINKER);
    // Incompatible with link-time optimisation.
    command.env("CARGO_INCREMENTAL", "0");
    command
}

/// cargo keeps apart what different compilers built, but takes a sysroot that was made anew for the old one.
fn discard_other_toolchains_work(build_dir: &Path, stamp: &str) -> Result<(), Error> {
    let marker = build_dir.join("toolchain-stamp");
    if fs::read_to_string(&marker).is_ok_and(|found| found == stamp) {
        return Ok(());
    }
    if build_dir.exists() {
        fs::remove_dir_all(build_dir).map_err(Error::file("remove", build_dir))?;
    }
    fs::create_dir_all(build_dir).map_err(Error::file("create", build_dir))?;
    fs::write(&marker, stamp).map_err(Error::file("write", &marker))
}

fn publish(request: &Request<'_>, package: &str) -> Result<Component, Error> {
    // cargo's one exception to "the folder has the profile's name".
    let folder = if request.profile == "dev" { "debug" } else { request.profile };
    let built = request.build_dir.join(TARGET).join(folder).join(format!("{}.wasm", package.replace('-', "_")));
    let name = package.strip_prefix(PACKAGE_PREFIX).unwrap_or(package);
    publish_file(name, &built, request.out_dir).map_err(|error| {
        if built.is_file() { error } else { Error::NoArtifact { package: package.to_owned(), path: built } }
    })
}

/// Copies the component `built` to `<out_dir>/<name>.wasm`, unless that is the same already.
pub(crate) fn publish_file(name: &str, built: &Path, out_dir: &Path) -> Result<Component, Error> {
    let wasm = fs::read(built).map_err(Error::file("read", built))?;
    check_header(name, &wasm)?;
    let path = out_dir.join(format!("{name}.wasm"));
    let changed = write_if_different(&path, &wasm)?;
    Ok(Component { name: name.to_owned(), path, bytes: wasm.len(), sha256: hex_sha256(&wasm), changed })
}

fn check_header(package: &str, wasm: &[u8]) -> Result<(), Error> {
    let found = if wasm.starts_with(&COMPONENT) {
        return Ok(());
    } else if wasm.starts_with(&CORE_MODULE) {
        "a core WebAssembly module"
    } else {
        "something that is not WebAssembly"
    };
    Err(Error::NotAComponent { package: package.to_owned(), found })
}

/// Leaves a file with this content, and its time, as it is. Whoever reads at this moment sees the old or the new file.
fn write_if_different(path: &Path, content: &[u8]) -> Result<bool, Error> {
    if fs::read(path).is_ok_and(|found| found == content) {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    }
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&draft, content).map_err(Error::file("write", &draft))?;
    fs::rename(&draft, path).map_err(Error::file("write", path))?;
    Ok(true)
}

/// Where cargo unpacks the sources of dependencies.
pub(crate) fn cargo_registry_sources() -> PathBuf {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    home.unwrap_or_else(|| PathBuf::from(".cargo")).join("registry/src")
}

/// SHA-256 in hexadecimal.
#[must_use]
pub fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn only_a_component_passes_and_the_error_says_what_else_it_is() {
        assert!(check_header("p", &COMPONENT).is_ok());
        let core = check_header("p", &CORE_MODULE).unwrap_err().to_string();
        assert!(core.contains("a core WebAssembly module") && core.contains(LINKER), "{core}");
        let other = check_header("p", b"\x7fELF").unwrap_err().to_string();
        assert!(other.contains("`p`") && other.contains("not WebAssembly"), "{other}");
    }

    #[test]
    fn a_file_with_the_same_content_keeps_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/a.wasm");
        assert!(write_if_different(&path, b"one").unwrap());
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        fs::File::open(&path).unwrap().set_modified(long_ago).unwrap();
        assert!(!write_if_different(&path, b"one").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
        assert!(write_if_different(&path, b"two").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn work_of_another_toolchain_is_discarded_and_of_the_same_kept() {
        let folder = tempfile::tempdir().unwrap();
        let build_dir = folder.path().join("build");
        discard_other_toolchains_work(&build_dir, "first").unwrap();
        fs::write(build_dir.join("artifact"), "").unwrap();
        discard_other_toolchains_work(&build_dir, "first").unwrap();
        assert!(build_dir.join("artifact").exists());
        discard_other_toolchains_work(&build_dir, "second").unwrap();
        assert!(!build_dir.join("artifact").exists());
    }

    #[test]
    fn the_build_is_shielded_from_flags_of_the_environment() {
        let toolchain =
            Toolchain { rustc: Some("/made/bin/rustc".into()), description: String::new(), stamp: String::new() };
        let request = Request {
            workspace: Path::new("/w"),
            packages: &["a", "b"],
            profile: "plugin",
            build_dir: Path::new("/t/plugin-build"),
            out_dir: Path::new("/t/plugins"),
            locked: false,
        };
        let command = command(&toolchain, &request);
        let line = crate::process::line(&command);
        assert!(line.ends_with("build --lib --target wasm32-unknown-unknown --profile plugin --package a --package b"));
        let value = |name: &str| {
            let found = command.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value);
            found.map(|value| value.to_string_lossy().into_owned())
        };
        assert_eq!(value("RUSTC").as_deref(), Some("/made/bin/rustc"));
        assert!(value("CARGO_ENCODED_RUSTFLAGS").unwrap().ends_with("registry/src=/cargo"));
        assert_eq!(value("CARGO_TARGET_DIR").as_deref(), Some("/t/plugin-build"));
    }

    #[test]
    fn components_of_plugins_that_are_gone_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["kept.wasm", "gone.wasm", "notes.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let path = folder.path().join("kept.wasm");
        let kept = Component { name: "kept".into(), path, bytes: 0, sha256: String::new(), changed: false };
        remove_others(folder.path(), &[kept]).unwrap();
        assert!(folder.path().join("kept.wasm").exists());
        assert!(folder.path().join("notes.txt").exists());
        assert!(!folder.path().join("gone.wasm").exists());
    }

    #[test]
    fn a_digest_is_written_in_hexadecimal() {
        assert_eq!(hex_sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
