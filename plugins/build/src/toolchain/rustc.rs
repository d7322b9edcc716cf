//! What a rustc says about itself.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::process::output;

/// One compiler.
#[derive(Debug, Clone)]
pub(super) struct Rustc {
    /// What `rustc -vV` prints: names the exact build.
    pub verbose_version: String,
    /// As in `1.95.0`.
    pub release: String,
    /// The triple that it runs on.
    pub host: String,
    /// Where its libraries and tools are.
    pub sysroot: PathBuf,
    /// The program.
    pub program: PathBuf,
}

impl Rustc {
    /// The rustc that cargo would use in `dir`.
    pub fn current(dir: &Path) -> Result<Self, Error> {
        Self::ask(env::var_os("RUSTC").filter(|path| !path.is_empty()).unwrap_or_else(|| "rustc".into()), dir)
    }

    /// The rustc at `path`.
    pub fn at(path: &Path) -> Result<Self, Error> {
        Self::ask(path.into(), Path::new("/"))
    }

    fn ask(program: OsString, dir: &Path) -> Result<Self, Error> {
        let verbose_version = output(Command::new(&program).arg("-vV").current_dir(dir))?;
        let sysroot = output(Command::new(&program).args(["--print", "sysroot"]).current_dir(dir))?;
        let field = |name| field(&verbose_version, name).unwrap_or_default().to_owned();
        Ok(Self {
            release: field("release"),
            host: field("host"),
            sysroot: sysroot.into(),
            program: program.into(),
            verbose_version,
        })
    }

    /// Whether the standard library of `target` is there, and not only its folder.
    pub fn has_library(&self, target: &str) -> bool {
        has_library(&self.sysroot, target)
    }

    /// Whether `name` is among the tools that rustc puts on the linker's `PATH`.
    pub fn has_tool(&self, name: &str) -> bool {
        self.tools().join(name).is_file()
    }

    /// The folder of the linkers.
    pub fn tools(&self) -> PathBuf {
        self.libraries().join("bin")
    }

    /// The folder of what belongs to the host's triple.
    pub fn libraries(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib").join(&self.host)
    }

    /// The hash of the commit it was built from; empty where the build did not record it.
    pub fn commit(&self) -> &str {
        field(&self.verbose_version, "commit-hash").unwrap_or_default()
    }
}

/// Whether `sysroot` holds a `libstd` and a `libcore` for `target`.
pub(super) fn has_library(sysroot: &Path, target: &str) -> bool {
    let Ok(entries) = sysroot.join("lib/rustlib").join(target).join("lib").read_dir() else { return false };
    let names: Vec<OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
    ["libcore-", "libstd-"].iter().all(|crate_| {
        names.iter().filter_map(|name| name.to_str()).any(|name| name.starts_with(crate_) && name.ends_with(".rlib"))
    })
}

fn field<'a>(verbose_version: &'a str, name: &str) -> Option<&'a str> {
    verbose_version.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Whether the version `have` (as in `1.96.0-nightly`) is `need` (as in `1.95`) or newer.
pub(super) fn at_least(have: &str, need: &str) -> bool {
    let numbers =
        |version: &str| -> Vec<u32> { version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect() };
    let have = numbers(have);
    !have.is_empty() && have >= numbers(need)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const VERSION: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
        commit-hash: ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\n";

    #[test]
    fn fields_of_the_verbose_version_are_found_by_name() {
        assert_eq!(field(VERSION, "host"), Some("x86_64-unknown-linux-gnu"));
        assert_eq!(field(VERSION, "release"), Some("1.96.0"));
        assert_eq!(field(VERSION, "no such field"), None);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(at_least("1.96.0", "1.95"));
        assert!(at_least("1.100.0", "1.95"));
        assert!(at_least("1.95.0", "1.95"));
        assert!(!at_least("1.85.0", "1.95"));
        assert!(at_least("1.97.0-nightly", "1.95"));
        assert!(!at_least("unknown", "1.95"));
    }

    #[test]
    fn an_empty_library_folder_is_no_standard_library() {
        let sysroot = tempfile::tempdir().unwrap();
        let library = sysroot.path().join("lib/rustlib/some-target/lib");
        assert!(!has_library(sysroot.path(), "some-target"));
        fs::create_dir_all(&library).unwrap();
        fs::write(library.join("libcore-1.rlib"), "").unwrap();
        assert!(!has_library(sysroot.path(), "some-target"));
        fs::write(library.join("libstd-1.rlib"), "").unwrap();
        assert!(has_library(sysroot.path(), "some-target"));
    }

    #[test]
    fn the_compiler_of_this_test_describes_itself() {
        let rustc = Rustc::current(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(at_least(&rustc.release, env!("CARGO_PKG_RUST_VERSION")));
        assert!(rustc.has_library(&rustc.host));
    }
}
