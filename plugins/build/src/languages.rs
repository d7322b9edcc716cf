//! Plugins that are not written in Rust: sources in, a component without WASI imports out.
//!
//! Each language's tools are fetched once into a folder of the cache whose name holds the pins, and marked when complete;
//! afterwards nothing is fetched. System packages are unpacked there too, so nothing needs root or changes the system.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::component::{Component, hex_sha256, publish_file};
use crate::process::{output, run, run_within};
use crate::project::Project;
use crate::python::{Listed, python_env};
use crate::{Error, LINKER, Report, debian};

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

/// Most time for fetching a language's tools; the largest are 50 MB.
const FETCH: Duration = Duration::from_secs(600);

/// Most time for one step of a build. Python takes 10 s on a machine at rest.
const BUILD: Duration = Duration::from_secs(300);

/// A plugin to build, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub project: &'a Project,
    /// Where tools are kept.
    pub cache: &'a Path,
    /// Where intermediate files and `<name>.wasm` go.
    pub out_dir: &'a Path,
}

impl Source<'_> {
    fn draft(&self) -> PathBuf {
        self.out_dir.join(format!("{}.draft", self.project.name))
    }

    fn publish(&self) -> Result<Component, Error> {
        let draft = self.draft();
        let component = publish_file(&self.project.name, &draft, self.out_dir);
        fs::remove_file(&draft).map_err(Error::file("remove", &draft))?;
        component
    }

    /// An empty folder for intermediate files.
    fn stage(&self) -> Result<PathBuf, Error> {
        let stage = self.out_dir.join(format!("{}-build", self.project.name));
        if stage.exists() {
            fs::remove_dir_all(&stage).map_err(Error::file("remove", &stage))?;
        }
        make_folder(&stage)?;
        Ok(stage)
    }

    fn first(&self) -> &str {
        self.project.sources.first().map_or("", String::as_str)
    }
}

/// Tools that a language needs and that could not be had.
fn unavailable(needs: &str, error: &Error, next: &str) -> Error {
    Error::Tools { reason: format!("{needs}: {error}\nNext: {next}") }
}

/// Builds the first source with componentize-qjs, at the version of the folder's `package-lock.json`.
pub(crate) fn javascript(source: Source<'_>, report: Report<'_>) -> Result<Component, Error> {
    let project = source.project;
    let lock = project.folder.join("package-lock.json");
    let pins = fs::read(&lock).map_err(Error::file("read", &lock))?;
    let tools = tools(source.cache, "javascript", &pins, |place| {
        report("fetching componentize-qjs from npm");
        for file in ["package.json", "package-lock.json"] {
            let from = project.folder.join(file);
            fs::copy(&from, place.join(file)).map_err(Error::file("copy", &from))?;
        }
        // Not `npm ci`: it wants an entry for each platform's optional package, and some of those were never published.
        let mut install = Command::new("npm");
        install.args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(place);
        run_within(&mut install, FETCH).map_err(|error| {
            let next = "install Node.js 18 or newer with npm (on Debian, as root: `apt-get install nodejs npm`); the package \
                        comes from registry.npmjs.org, or from where npm's configuration says";
            unavailable("plugins in JavaScript are built with componentize-qjs, which npm fetches", &error, next)
        })
    })?;
    make_folder(source.out_dir)?;
    let mut build = Command::new(tools.join("node_modules/.bin/componentize-qjs"));
    build.args(["--sync", "--stub-wasi", "--world", &project.world]).arg("--wit").arg(&project.wit);
    build.arg("--js").arg(project.folder.join(source.first())).arg("--output").arg(source.draft());
    run_within(&mut build, BUILD)?;
    source.publish()
}

/// Builds the first source, with the others beside it, with componentize-py at the version of the folder's
/// `requirements.txt`. Also writes the bindings, for native tests, to `<out_dir>/<name>-bindings`.
pub(crate) fn python(source: Source<'_>, report: Report<'_>) -> Result<Component, Error> {
    let project = source.project;
    let requirements = project.folder.join("requirements.txt");
    let python = python_env(&requirements, Listed::Wanted, &source.cache.join("python"), report).map_err(|error| {
        let next = "install Python 3.10 or newer with pip (on Debian, as root: `apt-get install python3-venv`)";
        unavailable("plugins in Python are built with componentize-py, which pip fetches", &error, next)
    })?;
    let tool = python.with_file_name("componentize-py");
    make_folder(source.out_dir)?;
    let command = || {
        let mut command = Command::new(&tool);
        command.arg("-d").arg(&project.wit).args(["-w", &project.world]).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    let bindings = source.out_dir.join(format!("{}-bindings", project.name));
    if bindings.exists() {
        fs::remove_dir_all(&bindings).map_err(Error::file("remove", &bindings))?;
    }
    run_within(command().arg("bindings").arg(&bindings), BUILD)?;
    // componentize-py takes the whole folder of the module along: it is to hold the sources and nothing else.
    let stage = source.stage()?;
    for file in &project.sources {
        let from = project.folder.join(file);
        fs::copy(&from, stage.join(file)).map_err(Error::file("copy", &from))?;
    }
    let module = source.first().trim_end_matches(".py");
    let mut build = command();
    build.args(["componentize", "--stub-wasi", module, "-p"]).arg(&stage).arg("-o").arg(source.draft());
    run_within(&mut build, BUILD)?;
    source.publish()
}

/// Builds the sources and the world's bindings with Debian's clang 14 and wasi-libc.
pub(crate) fn c(source: Source<'_>, report: Report<'_>) -> Result<Component, Error> {
    let project = source.project;
    let root = tools(source.cache, "c", C_PACKAGES.join(" ").as_bytes(), |place| {
        debian::unpack(C_PACKAGES, place, FETCH, report).map_err(|error| {
            let next = "run this on Debian 12 or a relative with those packages; where the lists of packages are missing or \
                        old, as root: `apt-get update`";
            unavailable("plugins in C are built with Debian's clang 14 and wasi-libc, which apt-get fetches", &error, next)
        })
    })?;
    let usr = root.join("usr");
    let libraries = usr.join("lib/wasm32-wasi");
    let linker = host_tools().map_err(|error| {
        let next = "install Rust (https://rustup.rs)";
        unavailable("plugins in C are linked by wasm-component-ld, which comes with Rust", &error, next)
    })?;
    let stage = source.stage()?;
    let mut link = Command::new(linker.join(LINKER));
    let path = env::var_os("PATH").unwrap_or_default();
    let path = [linker.join("gcc-ld"), linker].into_iter().chain(env::split_paths(&path));
    let path = env::join_paths(path).unwrap_or_default();
    link.env("PATH", path).args(["--wasi-adapter", "none", "--entry", "_initialize", "--gc-sections", "--strip-all"]);
    link.arg("-o").arg(source.draft()).arg(libraries.join("crt1-reactor.o"));
    let bindings = project.world.replace('-', "_");
    let generated = project.bindings.join(format!("{bindings}.c"));
    for file in project.sources.iter().map(|file| project.folder.join(file)).chain([generated]) {
        let object = stage.join(file.file_name().unwrap_or_default()).with_extension("o");
        let mut compile = Command::new(usr.join("lib/llvm-14/bin/clang"));
        compile.env("LD_LIBRARY_PATH", host_libraries(&usr));
        compile.args(["--target=wasm32-wasi", "-std=c11", "-Os", "-Wall", "-c"]);
        compile.arg(format!("--sysroot={}", usr.display()));
        compile.arg("-isystem").arg(usr.join("include/wasm32-wasi"));
        compile.arg("-I").arg(&project.folder).arg("-I").arg(&project.bindings);
        run(compile.arg(file).arg("-o").arg(&object))?;
        link.arg(object);
    }
    link.arg(project.bindings.join(format!("{bindings}_component_type.o"))).arg("-L").arg(&libraries).arg("-lc");
    link.arg(usr.join("lib/llvm-14/lib/clang/14.0.6/lib/wasi/libclang_rt.builtins-wasm32.a"));
    run_within(&mut link, BUILD)?;
    source.publish()
}

/// Where the Rust toolchain keeps `wasm-component-ld` and `wasm-ld`.
fn host_tools() -> Result<PathBuf, Error> {
    let rustc = || Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let libraries = output(rustc().args(["--print", "target-libdir"]))?;
    Ok(Path::new(&libraries).with_file_name("bin"))
}

/// Where Debian's packages put their libraries, below an unpacked `usr`.
pub(crate) fn host_libraries(usr: &Path) -> PathBuf {
    usr.join("lib").join(format!("{}-linux-gnu", env::consts::ARCH))
}

/// The folder of tools with these pins, filled by `fill` the first time.
pub(crate) fn tools(
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
