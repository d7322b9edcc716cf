//! Component in, machine code out, through a cache on disk. A stranger's component is compiled in a process of its own
//! (`child`): no limit of a store bounds the compiler, and one function of a few megabytes keeps it busy for minutes.
//! A bundled plugin is as trusted as the program that carries it, and is compiled here.

mod cache;
pub(crate) mod child;

use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::{Duration, Instant};

use wasmtime::Engine;
use wasmtime::component::Component;

use super::error::LoadProblem;
use super::limits::Limits;
use super::text;
use cache::Entry;
pub use cache::default_cache_dir;
pub(super) use cache::user_dir;
pub use child::{CompileLimit, Compiler};

/// A compiled component, and how it came to be.
pub(super) struct Compiled {
    pub component: Component,
    /// Whether the image was there already.
    pub cached: bool,
    /// For compiling, or for loading what was compiled.
    pub elapsed: Duration,
}

/// What compiling needs besides the component.
pub(super) struct Setup<'a> {
    pub engine: &'a Engine,
    pub limits: &'a Limits,
    pub cache: Option<&'a Path>,
    pub compiler: &'a Compiler,
}

impl Setup<'_> {
    /// Compiles, or takes what an earlier run has compiled.
    ///
    /// # Errors
    /// When the compiler does not take the component, or meets a limit. Trouble with the cache is no error: it costs
    /// time only.
    pub(super) fn component(&self, wasm: &[u8], sha256: &str) -> Result<Compiled, LoadProblem> {
        let started = Instant::now();
        let entry = self.cache.map(|dir| Entry::new(dir, self.engine, sha256));
        if let Some(component) = entry.as_ref().and_then(|entry| entry.load(self.engine)) {
            return Ok(Compiled { component, cached: true, elapsed: started.elapsed() });
        }
        let image = match self.compiler {
            Compiler::Here => compile(self.engine, wasm)?,
            Compiler::Program(program) => child::compile(program, wasm, self.limits)?,
        };
        let component = load_image(self.engine, &image).map_err(|error| LoadProblem::Compile(text::reason(&error)))?;
        let elapsed = started.elapsed();
        if let Some(entry) = entry
            && let Err(error) = entry.store(&image)
        {
            let path = entry.path().display().to_string();
            tracing::warn!(path, %error, "a compiled plugin cannot be kept; the next run compiles again");
        }
        Ok(Compiled { component, cached: false, elapsed })
    }
}

/// Machine code of a component, as `load_image` takes it. Bytes in, bytes out.
fn compile(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>, LoadProblem> {
    // wasmtime is known to panic on rare components that its own validation lets through.
    panic::catch_unwind(AssertUnwindSafe(|| engine.precompile_component(wasm)))
        .map_err(|_| LoadProblem::Compile("the compiler panicked".to_owned()))?
        .map_err(|error| LoadProblem::Compile(text::reason(&error)))
}

#[allow(unsafe_code, reason = "wasmtime cannot tell forged machine code from its own; the callers can")]
fn load_image(engine: &Engine, image: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the image was made by `compile`, in this process or in a child that runs this program and nothing else, or
    // it was read by `Entry::load` from a file and a folder that are this user's alone, and still has the digest with
    // which this program wrote it. wasmtime itself refuses images of other versions and other engine settings.
    unsafe { Component::deserialize(engine, image) }
}
