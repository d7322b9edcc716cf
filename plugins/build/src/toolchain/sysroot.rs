//! A sysroot with the target's standard library, made from a compiler and its library's source.
//!
//! Debian ships no standard library for [`TARGET`], but it ships the source that belongs to its compiler. One cargo
//! build of that source (some 35 s on two cores) gives the rlibs; they are laid out as rustc expects them:
//!
//! ```text
//! <cache>/<key>/bin/rustc                        runs the compiler with --sysroot <cache>/<key>
//!               lib/rustlib/<target>/lib/        the rlibs
//!               lib/rustlib/<host>/lib  -> the compiler's own, for proc macros and build scripts
//!               lib/rustlib/<host>/bin  -> those of rustup's toolchain: rust-lld and wasm-component-ld
//!               stamp
//! ```
//!
//! Afterwards it is a stable compiler like any other: no `-Z` flag is needed to use it, and nothing outside the cache
//! changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Toolchain;
use super::rustc::{Rustc, has_library};
use crate::component::{cargo_registry_sources, hex_sha256};
use crate::process::{cargo, run};
use crate::{Error, LINKER, Report, TARGET};

/// Raise it when what [`make`] writes changes; older sysroots are then made anew.
const LAYOUT: u32 = 1;

const STAMP: &str = "stamp";

/// The sysroot that an earlier run made for `current`, if it is still whole.
pub(super) fn existing(cache: &Path, current: &Rustc) -> Option<Toolchain> {
    let folders = cache.read_dir().ok()?;
    folders.flatten().find_map(|folder| open(&folder.path(), current))
}

/// Makes the sysroot of `compiler`, with the linkers of `current`, unless it is in the cache.
pub(super) fn make(cache: &Path, current: &Rustc, compiler: &Rustc, report: Report<'_>) -> Result<Toolchain, Error> {
    let place = cache.join(key(current, compiler));
    if let Some(made) = open(&place, current) {
        return Ok(made);
    }
    report(&format!("building the standard library for {TARGET} with rustc {} (once)", compiler.release));
    fs::create_dir_all(cache).map_err(Error::file("create", cache))?;
    let draft = Draft::new(cache)?;
    let rlibs = build_library(&draft.0.join("build"), compiler)?;
    let sysroot = draft.0.join("sysroot");
    lay_out(&sysroot, &rlibs, current, compiler)?;
    // What is there is not whole: an interrupted removal, or links to a compiler that has gone.
    if place.exists() {
        fs::remove_dir_all(&place).map_err(Error::file("remove", &place))?;
    }
    let moved = fs::rename(&sysroot, &place).map_err(Error::file("create", &place));
    // Another process may have been faster; its sysroot is as good.
    match (open(&place, current), moved) {
        (Some(made), _) => Ok(made),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => {
            let reason = format!("the sysroot just made in {} is not whole; remove it and try again", place.display());
            Err(Error::NoToolchain { tried: vec![reason] })
        }
    }
}

/// Names everything that the content depends on.
fn key(current: &Rustc, compiler: &Rustc) -> String {
    let inputs = format!("{LAYOUT}\n{}\n{}", compiler.verbose_version, current.sysroot.display());
    hex_sha256(inputs.as_bytes()).chars().take(16).collect()
}

/// A sysroot in `place`, if it is whole and belongs to `current`.
fn open(place: &Path, current: &Rustc) -> Option<Toolchain> {
    let compiler = Rustc::at(&place.join("bin/rustc")).ok()?;
    let whole = place.file_name()?.to_str()? == key(current, &compiler)
        && has_library(place, TARGET)
        && has_library(place, &compiler.host)
        && compiler.has_tool(LINKER);
    let stamp = fs::read_to_string(place.join(STAMP)).ok()?;
    whole.then(|| Toolchain {
        description: format!("rustc {} (Debian) with the sysroot {}", compiler.release, place.display()),
        rustc: Some(compiler.program),
        stamp,
    })
}

/// Builds the standard library in `folder` and returns its rlibs.
fn build_library(folder: &Path, compiler: &Rustc) -> Result<Vec<PathBuf>, Error> {
    // build-std builds the library as a dependency of something; this is the least something.
    let manifest = "[package]\nname = \"sysroot\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[lib]\n[workspace]\n\
                    [profile.release]\npanic = \"abort\"\ndebug = 0\n";
    write(&folder.join("Cargo.toml"), manifest)?;
    write(&folder.join("src/lib.rs"), "#![no_std]\n")?;

    let target_dir = folder.join("target");
    let source = compiler.sysroot.join("lib/rustlib/src/rust");
    let name = format!("/rustc/{}", compiler.commit());
    let mut remaps = vec![(source.clone(), name.clone())];
    // Debian's is a link; rustc may see either path.
    remaps.extend(source.canonicalize().ok().map(|real| (real, name)));
    remaps.push((cargo_registry_sources(), "/cargo".to_owned()));
    // Plugins are built with lto = true, which needs the bitcode.
    let mut flags = vec!["-Cembed-bitcode=yes".to_owned()];
    flags.extend(remaps.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())));

    let mut command = cargo(folder);
    command.args(["build", "--quiet", "--release", "--target", TARGET]);
    // Unstable options of both, here and nowhere else: the sysroot is then used by a compiler that knows no -Z.
    command.args(["-Zbuild-std=std,panic_abort", "-Zbuild-std-features=default"]).env("RUSTC_BOOTSTRAP", "1");
    // Goes into the crates' hashes. Without it the library's cfg-if and hashbrown would clash with a plugin's own.
    command.env("__CARGO_DEFAULT_LIB_METADATA", "sla-profiler-sysroot");
    command.env("RUSTC", &compiler.program).env("CARGO_TARGET_DIR", &target_dir).env("CARGO_INCREMENTAL", "0");
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    run(&mut command)?;

    let mut rlibs = Vec::new();
    collect_rlibs(&target_dir.join(TARGET).join("release"), &mut rlibs)?;
    Ok(rlibs)
}

/// The library's rlibs, each once, wherever this cargo puts them.
fn collect_rlibs(folder: &Path, rlibs: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in folder.read_dir().map_err(Error::file("read", folder))?.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let is_rlib = path.extension().is_some_and(|extension| extension == "rlib");
        if path.is_dir() {
            collect_rlibs(&path, rlibs)?;
        } else if is_rlib && !name.to_string_lossy().starts_with("libsysroot") {
            rlibs.push(path);
        }
    }
    Ok(())
}

fn lay_out(sysroot: &Path, rlibs: &[PathBuf], current: &Rustc, compiler: &Rustc) -> Result<(), Error> {
    let library = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    fs::create_dir_all(&library).map_err(Error::file("create", &library))?;
    for rlib in rlibs {
        let to = library.join(rlib.file_name().unwrap_or_default());
        fs::copy(rlib, &to).map_err(Error::file("write", &to))?;
    }
    let host = sysroot.join("lib/rustlib").join(&compiler.host);
    fs::create_dir_all(&host).map_err(Error::file("create", &host))?;
    link(&compiler.libraries().join("lib"), &host.join("lib"))?;
    link(&current.tools(), &host.join("bin"))?;

    let program = sysroot.join("bin/rustc");
    write(&program, &wrapper(&compiler.program))?;
    make_executable(&program)?;

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    write(&sysroot.join(STAMP), &format!("{} {}", now.as_nanos(), process::id()))
}

/// A rustc that takes its sysroot from its own place, so that the folder can be renamed and moved.
fn wrapper(compiler: &Path) -> String {
    let quoted = compiler.display().to_string().replace('\'', r"'\''");
    format!("#!/bin/sh\nexec '{quoted}' --sysroot \"${{0%/bin/rustc}}\" \"$@\"\n")
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    }
    fs::write(path, text).map_err(Error::file("write", path))
}

#[cfg(unix)]
fn link(to: &Path, at: &Path) -> Result<(), Error> {
    std::os::unix::fs::symlink(to, at).map_err(Error::file("create", at))
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(Error::file("make executable", path))
}

// Debian is a Unix; elsewhere this module compiles and is never reached.
#[cfg(not(unix))]
fn link(_to: &Path, at: &Path) -> Result<(), Error> {
    Err(std::io::Error::from(std::io::ErrorKind::Unsupported)).map_err(Error::file("create", at))
}

#[cfg(not(unix))]
fn make_executable(_path: &Path) -> Result<(), Error> {
    Ok(())
}

/// A folder that is gone when its maker is done, and after an interruption when the next one starts.
struct Draft(PathBuf);

impl Draft {
    fn new(cache: &Path) -> Result<Self, Error> {
        for entry in cache.read_dir().map_err(Error::file("read", cache))?.flatten() {
            if owner(&entry.file_name().to_string_lossy()).is_some_and(|pid| !is_running(pid)) {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?;
            }
        }
        let place = cache.join(format!("draft-{}", process::id()));
        fs::create_dir_all(&place).map_err(Error::file("create", &place))?;
        Ok(Self(place))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Left-overs cost space and nothing else; the next maker removes them.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn owner(folder: &str) -> Option<u32> {
    folder.strip_prefix("draft-")?.parse().ok()
}

fn is_running(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rustc(verbose_version: &str, sysroot: &str) -> Rustc {
        Rustc {
            verbose_version: verbose_version.to_owned(),
            release: "1.96.0".to_owned(),
            host: "x86_64-unknown-linux-gnu".to_owned(),
            sysroot: sysroot.into(),
            program: "/usr/bin/rustc".into(),
        }
    }

    #[test]
    fn the_key_follows_both_compilers_and_nothing_else() {
        let (current, compiler) = (rustc("1.95", "/rustup/stable"), rustc("1.96", "/usr"));
        let same = key(&current, &compiler);
        assert_eq!(same, key(&current, &compiler));
        assert_eq!(same.len(), 16);
        assert_ne!(same, key(&current, &rustc("1.96.1", "/usr")));
        assert_ne!(same, key(&rustc("1.95", "/rustup/nightly"), &compiler));
    }

    #[test]
    fn the_wrapper_survives_odd_paths() {
        let text = wrapper(Path::new("/o'neil/rustc"));
        assert_eq!(text, "#!/bin/sh\nexec '/o'\\''neil/rustc' --sysroot \"${0%/bin/rustc}\" \"$@\"\n");
    }

    #[test]
    fn drafts_of_dead_processes_are_removed_and_of_living_ones_kept() {
        let cache = tempfile::tempdir().unwrap();
        // Above the largest process number that Linux gives.
        let dead = cache.path().join("draft-4194999");
        let living = cache.path().join("draft-1");
        let other = cache.path().join("0123456789abcdef");
        for folder in [&dead, &living, &other] {
            fs::create_dir(folder).unwrap();
        }
        let draft = Draft::new(cache.path()).unwrap();
        assert!(!dead.exists());
        assert!(living.exists() && other.exists());
        let place = draft.0.clone();
        assert!(place.is_dir());
        drop(draft);
        assert!(!place.exists());
    }

    #[test]
    fn a_folder_that_is_not_whole_is_no_sysroot() {
        let cache = tempfile::tempdir().unwrap();
        let current = Rustc::current(cache.path()).unwrap();
        let place = cache.path().join(key(&current, &current));
        lay_out(&place, &[], &current, &current).unwrap();
        assert_eq!(existing(cache.path(), &current), None, "no rlib was copied");
        let library = place.join("lib/rustlib").join(TARGET).join("lib");
        fs::write(library.join("libcore-0.rlib"), "").unwrap();
        fs::write(library.join("libstd-0.rlib"), "").unwrap();
        let made = existing(cache.path(), &current).unwrap();
        assert_eq!(made.rustc, Some(place.join("bin/rustc")));
        // The wrapper really is a rustc with that sysroot.
        assert_eq!(Rustc::at(&place.join("bin/rustc")).unwrap().sysroot, place);
    }
}
