//! Plugins that are not written in Rust: sources in, a component without WASI imports out.
//!
//! Each language's tools are fetched once into a folder of the cache whose name holds the pins, and marked when complete;
//! afterwards nothing is fetched. System packages are unpacked there too, so nothing needs root or changes the system.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::component::{Component, hex_sha256, publish_file};
use crate::process::{output, run};
use crate::python::python_env;
use crate::{Error, Report};

/// Debian's packages of a C compiler for WebAssembly, with the libraries that the compiler itself needs.
const C_PACKAGES: &[&str] = &[
    "clang-14",
    "lld-14",
    "wasi-libc",
    "libclang-rt-14-dev-wasm32",
    "libllvm14",
    "libclang-common-14-dev",
    "libclang-cpp14",
];

/// The file whose presence says that a folder of tools is complete.
const COMPLETE: &str = "complete";

/// A plugin to build.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The folder of its sources.
    pub folder: &'a Path,
    /// The folder of the contract.
    pub wit: &'a Path,
    /// The world, such as `selection-policy`.
    pub world: &'a str,
    /// Where tools are kept.
    pub cache: &'a Path,
    /// Where intermediate files and `<folder's name>.wasm` go.
    pub out_dir: &'a Path,
}

impl Source<'_> {
    /// The name of the folder.
    fn name(&self) -> String {
        self.folder.file_name().map_or_else(|| "plugin".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    fn draft(&self) -> PathBuf {
        self.out_dir.join(format!("{}.draft", self.name()))
    }

    fn publish(&self) -> Result<Component, Error> {
        let draft = self.draft();
        let component = publish_file(&self.name(), &draft, self.out_dir);
        fs::remove_file(&draft).map_err(Error::file("remove", &draft))?;
        component
    }
}

/// Builds `<entry>` with componentize-qjs, at the version of the folder's `package-lock.json`.
///
/// # Errors
/// [`Error::Start`] or [`Error::Failed`] when node or npm is missing or fails; [`Error::File`].
pub fn javascript(source: Source<'_>, entry: &str, report: Report<'_>) -> Result<Component, Error> {
    let lock = source.folder.join("package-lock.json");
    let pins = fs::read(&lock).map_err(Error::file("read", &lock))?;
    let tools = tools(source.cache, "javascript", &pins, |place| {
        report("fetching componentize-qjs from npm");
        for file in ["package.json", "package-lock.json"] {
            let from = source.folder.join(file);
            fs::copy(&from, place.join(file)).map_err(Error::file("copy", &from))?;
        }
        // Not `npm ci`: it wants an entry for each platform's optional package, and some of those were never published.
        output(
            Command::new("npm")
                .args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"])
                .current_dir(place),
        )
        .map(drop)
    })?;
    make_folder(source.out_dir)?;
    let mut build = Command::new(tools.join("node_modules/.bin/componentize-qjs"));
    build.args(["--sync", "--stub-wasi", "--world", source.world]).arg("--wit").arg(source.wit);
    build.arg("--js").arg(source.folder.join(entry)).arg("--output").arg(source.draft());
    output(&mut build)?;
    source.publish()
}

/// Builds the module `module` with componentize-py, at the version of the folder's `requirements.txt`. Also writes the
/// bindings, for native tests, to `<out_dir>/<name>-bindings`.
///
/// # Errors
/// [`Error::Python`] when the tools cannot be had; [`Error::Failed`] when the build fails; [`Error::File`].
pub fn python(source: Source<'_>, module: &str, report: Report<'_>) -> Result<Component, Error> {
    let python = python_env(&source.folder.join("requirements.txt"), &source.cache.join("python"), report)?;
    let tool = python.with_file_name("componentize-py");
    make_folder(source.out_dir)?;
    let command = || {
        let mut command = Command::new(&tool);
        command.arg("-d").arg(source.wit).args(["-w", source.world]).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    let bindings = source.out_dir.join(format!("{}-bindings", source.name()));
    if bindings.exists() {
        fs::remove_dir_all(&bindings).map_err(Error::file("remove", &bindings))?;
    }
    output(command().arg("bindings").arg(&bindings))?;
    let mut build = command();
    build.args(["componentize", "--stub-wasi", module, "-p"]).arg(source.folder).arg("-o").arg(source.draft());
    output(&mut build)?;
    source.publish()
}

/// Builds `files` (with the generated bindings among them) with Debian's clang 14 and wasi-libc; `types` is the object file
/// in which wit-bindgen describes the world.
///
/// # Errors
/// [`Error::Start`] or [`Error::Failed`] when a tool is missing or fails; [`Error::File`].
pub fn c(source: Source<'_>, files: &[&str], types: &str, report: Report<'_>) -> Result<Component, Error> {
    let root = tools(source.cache, "c", C_PACKAGES.join(" ").as_bytes(), |place| {
        report(&format!("fetching Debian packages: {}", C_PACKAGES.join(", ")));
        output(Command::new("apt-get").args(["--quiet", "download"]).args(C_PACKAGES).current_dir(place))?;
        for entry in place.read_dir().map_err(Error::file("read", place))?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "deb") {
                output(Command::new("dpkg-deb").arg("--extract").arg(entry.path()).arg(place))?;
                fs::remove_file(entry.path()).map_err(Error::file("remove", &entry.path()))?;
            }
        }
        Ok(())
    })?;
    let usr = root.join("usr");
    let libraries = usr.join("lib/wasm32-wasi");
    let objects = source.out_dir.join(format!("{}-objects", source.name()));
    make_folder(&objects)?;
    let linker = host_tools()?;
    let mut link = Command::new(linker.join("wasm-component-ld"));
    let path = env::var_os("PATH").unwrap_or_default();
    let path = [linker.join("gcc-ld"), linker].into_iter().chain(env::split_paths(&path));
    let path = env::join_paths(path).unwrap_or_default();
    link.env("PATH", path).args(["--wasi-adapter", "none", "--entry", "_initialize", "--gc-sections", "--strip-all"]);
    link.arg("-o").arg(source.draft()).arg(libraries.join("crt1-reactor.o"));
    for file in files {
        let object = objects.join(format!("{}.o", file.replace(['/', '.'], "-")));
        let mut compile = Command::new(usr.join("lib/llvm-14/bin/clang"));
        compile.env("LD_LIBRARY_PATH", usr.join("lib").join(format!("{}-linux-gnu", env::consts::ARCH)));
        compile.args(["--target=wasm32-wasi", "-std=c11", "-Os", "-Wall", "-c"]);
        compile.arg(format!("--sysroot={}", usr.display()));
        compile.arg("-isystem").arg(usr.join("include/wasm32-wasi"));
        run(compile.arg(source.folder.join(file)).arg("-o").arg(&object))?;
        link.arg(object);
    }
    link.arg(source.folder.join(types)).arg("-L").arg(&libraries).arg("-lc");
    link.arg(usr.join("lib/llvm-14/lib/clang/14.0.6/lib/wasi/libclang_rt.builtins-wasm32.a"));
    output(&mut link)?;
    source.publish()
}

/// Where the Rust toolchain keeps `wasm-component-ld` and `wasm-ld`.
fn host_tools() -> Result<PathBuf, Error> {
    let rustc = || Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let libraries = output(rustc().args(["--print", "target-libdir"]))?;
    Ok(Path::new(&libraries).with_file_name("bin"))
}

/// The folder of tools with these pins, filled by `fill` the first time.
fn tools(
    cache: &Path,
    language: &str,
    pins: &[u8],
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<PathBuf, Error> {
    let key: String = hex_sha256(pins).chars().take(16).collect();
    let place = cache.join(format!("{language}-{key}"));
    let complete = place.join(COMPLETE);
    if complete.is_file() {
        return Ok(place);
    }
    if place.exists() {
        fs::remove_dir_all(&place).map_err(Error::file("remove", &place))?;
    }
    make_folder(&place)?;
    fill(&place)?;
    fs::write(&complete, "").map_err(Error::file("write", &complete))?;
    Ok(place)
}

fn make_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::file("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_fetched_once_per_pin_and_again_after_a_failure() {
        let cache = tempfile::tempdir().unwrap();
        let get = |pins: &[u8], fill: &mut dyn FnMut(&Path) -> Result<(), Error>| tools(cache.path(), "x", pins, fill);
        let failed = get(b"1", &mut |_| Err(Error::Python { reason: "no network".into() }));
        assert!(failed.is_err());
        let mut fetched = 0;
        for pins in [b"1", b"1", b"2"] {
            get(pins, &mut |_| {
                fetched += 1;
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(fetched, 2);
    }
}
