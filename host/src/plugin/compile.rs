//! Component in, machine code out, through a cache on disk.
//!
//! A cached image is machine code: whoever can write it runs code as this user. So the folder is the user's alone, its
//! path never comes from a plugin or a job, and an image carries its own digest, since wasmtime checks an image's
//! header but not its body.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::error::LoadProblem;

const DIGEST_BYTES: usize = 32;

/// Where compiled plugins are kept: `$XDG_CACHE_HOME/sla-profiler`, else `~/.cache/sla-profiler`; nowhere without a
/// home.
pub fn default_cache_dir() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("sla-profiler"))
}

/// A compiled component, and how it came to be.
pub(super) struct Compiled {
    pub component: Component,
    /// Whether the image was there already.
    pub cached: bool,
    /// For compiling, or for loading what was compiled.
    pub elapsed: Duration,
}

/// Compiles, or takes what an earlier run has compiled.
///
/// # Errors
/// When the compiler does not take the component. Trouble with the cache is no error: it costs time only.
pub(super) fn component(
    engine: &Engine,
    cache: Option<&Path>,
    wasm: &[u8],
    sha256: &str,
) -> Result<Compiled, LoadProblem> {
    let started = Instant::now();
    let entry = cache.map(|dir| Entry::new(dir, engine, sha256));
    if let Some(component) = entry.as_ref().and_then(|entry| entry.load(engine)) {
        return Ok(Compiled { component, cached: true, elapsed: started.elapsed() });
    }
    let image = compile(engine, wasm)?;
    let component = load_image(engine, &image).map_err(|error| LoadProblem::Compile(format!("{error:#}")))?;
    let elapsed = started.elapsed();
    if let Some(entry) = entry
        && let Err(error) = entry.store(&image)
    {
        tracing::warn!(path = %entry.path.display(), %error, "a compiled plugin cannot be kept; the next run compiles again");
    }
    Ok(Compiled { component, cached: false, elapsed })
}

/// Machine code of a component, as `load_image` takes it. Bytes in, bytes out: this is what can move to a process of
/// its own, since no limit of a store bounds the compiler.
fn compile(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>, LoadProblem> {
    // wasmtime is known to panic on rare components that its own validation lets through.
    panic::catch_unwind(AssertUnwindSafe(|| engine.precompile_component(wasm)))
        .map_err(|_| LoadProblem::Compile("the compiler panicked".to_owned()))?
        .map_err(|error| LoadProblem::Compile(format!("{error:#}")))
}

#[allow(unsafe_code, reason = "wasmtime cannot tell forged machine code from its own; the two callers can")]
fn load_image(engine: &Engine, image: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the image was made by `compile` in this process, or was read by `Entry::load` from a folder that is this
    // user's alone and still has the digest with which this program wrote it. wasmtime itself refuses images of other
    // versions and other engine settings.
    unsafe { Component::deserialize(engine, image) }
}

/// One component's place in the cache.
struct Entry {
    dir: PathBuf,
    path: PathBuf,
}

impl Entry {
    fn new(dir: &Path, engine: &Engine, sha256: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let path = dir.join(format!("{sha256}-{:016x}.cwasm", hasher.finish()));
        Self { dir: dir.to_owned(), path }
    }

    /// Nothing where there is no image, or one that is damaged or foreign.
    fn load(&self, engine: &Engine) -> Option<Component> {
        if !is_private(&self.dir) {
            return None;
        }
        let file = fs::read(&self.path).ok()?;
        let (digest, image) = file.split_at_checked(DIGEST_BYTES)?;
        let intact = Sha256::digest(image).as_slice() == digest;
        let component = if intact { load_image(engine, image).ok() } else { None };
        if component.is_none() {
            tracing::debug!(path = %self.path.display(), "a cached plugin is damaged or of another version: compiling again");
        }
        component
    }

    /// Other processes may do the same at the same time: each writes a file of its own and renames it.
    fn store(&self, image: &[u8]) -> io::Result<()> {
        create_private_dir(&self.dir)?;
        if !is_private(&self.dir) {
            return Err(io::Error::other("the folder can be written by others"));
        }
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let mut name = self.path.file_name().map(OsString::from).unwrap_or_default();
        name.push(format!(".{}-{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
        let temporary = self.dir.join(name);
        let written = (|| {
            let mut file = fs::File::create_new(&temporary)?;
            file.write_all(&Sha256::digest(image))?;
            file.write_all(image)?;
            drop(file);
            fs::rename(&temporary, &self.path)
        })();
        if written.is_err() {
            // A leftover is harmless: nothing reads that name.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

#[cfg(unix)]
fn create_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(not(unix))]
fn create_private_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)
}

/// Whether nobody but its owner can put files into the folder.
#[cfg(unix)]
fn is_private(dir: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.permissions().mode() & 0o022 == 0)
}

#[cfg(not(unix))]
fn is_private(dir: &Path) -> bool {
    dir.is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::limits::Limits;

    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    fn engine() -> Engine {
        crate::plugin::engine::new(&Limits::default()).expect("wasmtime runs here")
    }

    fn only_file(dir: &Path) -> PathBuf {
        let files: Vec<_> = fs::read_dir(dir).expect("exists").map(|f| f.expect("readable").path()).collect();
        assert_eq!(files.len(), 1, "one image and no leftovers: {files:?}");
        files[0].clone()
    }

    fn load(engine: &Engine, dir: &Path) -> Compiled {
        component(engine, Some(dir), EMPTY, "digest").unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_second_load_comes_from_the_cache() {
        let (engine, dir) = (engine(), tempfile::tempdir().expect("writable"));
        let dir = dir.path().join("cache");
        assert!(!load(&engine, &dir).cached);
        only_file(&dir);
        assert!(load(&engine, &dir).cached);
    }

    #[test]
    fn a_damaged_image_is_compiled_again() {
        let (engine, dir) = (engine(), tempfile::tempdir().expect("writable"));
        let dir = dir.path().join("cache");
        load(&engine, &dir);
        let path = only_file(&dir);
        let good = fs::read(&path).expect("readable");
        let mut flipped = good.clone();
        *flipped.last_mut().expect("not empty") ^= 1;
        for bad in
            [&[][..], &good[..10], &good[..good.len() - 1], &flipped, b"not an image, but longer than a digest....."]
        {
            fs::write(&path, bad).expect("writable");
            assert!(!load(&engine, &dir).cached);
            assert!(load(&engine, &dir).cached, "it was mended");
        }
    }

    #[test]
    fn an_image_of_another_engine_is_not_used() {
        let dir = tempfile::tempdir().expect("writable");
        let dir = dir.path().join("cache");
        load(&engine(), &dir);
        let other = Engine::default();
        let image = fs::read(only_file(&dir)).expect("readable");
        assert!(load_image(&other, &image[DIGEST_BYTES..]).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_can_write_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt;
        let (engine, dir) = (engine(), tempfile::tempdir().expect("writable"));
        let dir = dir.path().join("cache");
        load(&engine, &dir);
        assert_eq!(fs::metadata(&dir).expect("exists").permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("ours");
        assert!(!load(&engine, &dir).cached);
    }

    #[test]
    fn a_cache_that_cannot_be_written_only_costs_time() {
        let (engine, dir) = (engine(), tempfile::tempdir().expect("writable"));
        let file = dir.path().join("file");
        fs::write(&file, "").expect("writable");
        assert!(!load(&engine, &file.join("cache")).cached);
    }
}
