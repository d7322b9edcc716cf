//! Compiled components on disk.
//!
//! A cached image is machine code: whoever can write it runs code as this user. So the folder and each file are the
//! user's alone, the path never comes from a plugin or a job, and an image carries its own digest, since wasmtime checks
//! an image's header but not its body. The folder is opened once, and what is checked is what is read.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use std::{env, fs, process};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::load_image;

const DIGEST_BYTES: usize = 32;

/// Ends the name of an image.
const IMAGE: &str = ".cwasm";

/// Ends the name of a file that is being written.
const TEMPORARY: &str = ".tmp";

/// A temporary file of this age was left behind by a crash.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// All images together. A Rust plugin's is 0.2 to 1 MB, a Python plugin's 60 MB.
const MAX_BYTES: u64 = 512 << 20;

/// Where compiled plugins are kept: `$XDG_CACHE_HOME/sla-profiler`, else `~/.cache/sla-profiler`; nowhere without a
/// home.
pub fn default_cache_dir() -> Option<PathBuf> {
    Some(user_dir("XDG_CACHE_HOME", ".cache")?.join("sla-profiler"))
}

/// The folder that a variable of the XDG base directory specification names, else the one in the user's home.
pub(crate) fn user_dir(variable: &str, in_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(in_home)))
}

/// One component's place in the cache.
pub(super) struct Entry {
    dir: PathBuf,
    /// Digest of the component, and of the engine with its settings.
    name: String,
}

impl Entry {
    pub(super) fn new(dir: &Path, engine: &Engine, sha256: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self { dir: dir.to_owned(), name: format!("{sha256}-{:016x}{IMAGE}", hasher.finish()) }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// Nothing where there is no image, or one that is damaged or foreign.
    pub(super) fn load(&self, engine: &Engine) -> Option<Component> {
        let dir = self.open_dir().ok()?;
        let component = self.read(&dir).and_then(|image| load_image(engine, image.get(DIGEST_BYTES..)?).ok());
        if component.is_none() && dir.symlink_metadata(&self.name).is_ok() {
            tracing::debug!(path = %self.path().display(), "a cached plugin is damaged, foreign or of another version: compiling again");
        }
        component
    }

    /// Digest and image.
    fn read(&self, dir: &Dir) -> Option<Vec<u8>> {
        // A link could lead to a file of ours that is no image; asked before opening, since a pipe would block.
        if !dir.symlink_metadata(&self.name).is_ok_and(|meta| meta.is_file()) {
            return None;
        }
        let mut file = dir.open(&self.name).ok()?;
        if !is_private(&file.metadata().ok()?, own_uid()) {
            return None;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let (digest, image) = bytes.split_at_checked(DIGEST_BYTES)?;
        if Sha256::digest(image).as_slice() != digest {
            return None;
        }
        // Pruning goes by the time of last use; a cache on a read-only disk works as well.
        let _ = file.into_std().set_modified(SystemTime::now());
        Some(bytes)
    }

    /// Other processes may do the same at the same time: each writes a file of its own and renames it.
    pub(super) fn store(&self, image: &[u8]) -> io::Result<()> {
        create_private_dir(&self.dir)?;
        let dir = self.open_dir()?;
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{}.{}-{count}{TEMPORARY}", self.name, process::id());
        let written = (|| {
            let mut file = dir.open_with(&temporary, OpenOptions::new().write(true).create_new(true).mode(0o600))?;
            file.write_all(&Sha256::digest(image))?;
            file.write_all(image)?;
            drop(file);
            dir.rename(&temporary, &dir, &self.name)
        })();
        if written.is_err() {
            // A leftover is harmless: nothing reads that name.
            let _ = dir.remove_file(&temporary);
        }
        written?;
        prune(&dir, MAX_BYTES, &self.name)
    }

    fn open_dir(&self) -> io::Result<Dir> {
        let dir = Dir::open_ambient_dir(&self.dir, ambient_authority())?;
        if is_private(&dir.dir_metadata()?, own_uid()) {
            Ok(dir)
        } else {
            Err(io::Error::other("the folder is not this user's, or can be written by others"))
        }
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Ours, and nobody else can write it.
fn is_private(meta: &Metadata, uid: u32) -> bool {
    meta.uid() == uid && meta.mode() & 0o022 == 0
}

fn create_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Removes the images that were not used for longest, until the rest fits, and what crashes left. `keep` stays.
fn prune(dir: &Dir, max_bytes: u64, keep: &str) -> io::Result<()> {
    let mut images = Vec::new();
    for entry in dir.entries()? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Another process may have removed it just now.
        let Ok(meta) = entry.metadata() else { continue };
        let Ok(used) = meta.modified().map(cap_std::time::SystemTime::into_std) else { continue };
        if name.ends_with(TEMPORARY) {
            if used.elapsed().is_ok_and(|age| age > LEFTOVER_AGE) {
                let _ = dir.remove_file(&name);
            }
        } else if name.ends_with(IMAGE) {
            images.push((used, meta.len(), name));
        }
    }
    images.sort();
    let mut total: u64 = images.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, name) in images.iter().filter(|(.., name)| name != keep) {
        if total <= max_bytes {
            break;
        }
        if dir.remove_file(name).is_ok() {
            total = total.saturating_sub(*bytes);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use std::path::PathBuf;

    use crate::plugin::compile::{Compiled, Compiler, Setup, load_image};
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
        let setup = Setup { engine, limits: &Limits::default(), cache: Some(dir), compiler: &Compiler::Here };
        setup.component(EMPTY, "digest").unwrap_or_else(|error| panic!("{error}"))
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

    #[test]
    fn a_folder_that_others_can_write_is_not_trusted() {
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

    #[test]
    fn a_file_that_others_can_write_is_not_used() {
        let (engine, dir) = (engine(), tempfile::tempdir().expect("writable"));
        let dir = dir.path().join("cache");
        load(&engine, &dir);
        let path = only_file(&dir);
        assert_eq!(fs::metadata(&path).expect("exists").mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("ours");
        assert!(!load(&engine, &dir).cached);
        assert!(load(&engine, &dir).cached, "it was replaced by one of our own");
    }

    #[test]
    fn a_link_in_place_of_an_image_is_not_followed() {
        let (engine, dir) = (engine(), tempfile::tempdir().expect("writable"));
        let (cache, elsewhere) = (dir.path().join("cache"), dir.path().join("elsewhere"));
        load(&engine, &cache);
        let path = only_file(&cache);
        fs::rename(&path, &elsewhere).expect("ours");
        symlink(&elsewhere, &path).expect("ours");
        assert!(!load(&engine, &cache).cached);
        assert!(elsewhere.exists(), "what the link named is left alone");
    }

    #[test]
    fn what_another_user_owns_is_not_ours() {
        let dir = tempfile::tempdir().expect("writable");
        let path = dir.path().join("file");
        fs::write(&path, "").expect("writable");
        let meta = cap_std::fs::Metadata::from_just_metadata(fs::metadata(&path).expect("exists"));
        let uid = fs::metadata(&path).expect("exists").uid();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
        let meta_private = cap_std::fs::Metadata::from_just_metadata(fs::metadata(&path).expect("exists"));
        assert!(is_private(&meta_private, uid));
        assert!(!is_private(&meta, uid.wrapping_add(1)) && !is_private(&meta_private, uid.wrapping_add(1)));
    }

    #[test]
    fn many_at_once_leave_one_whole_image() {
        let dir = tempfile::tempdir().expect("writable");
        let dir = dir.path().join("cache");
        let (engine, barrier) = (engine(), Barrier::new(8));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    load(&engine, &dir);
                });
            }
        });
        only_file(&dir);
        assert!(load(&engine, &dir).cached);
    }

    #[test]
    fn a_crash_in_the_middle_leaves_nothing_that_is_read_and_the_leftover_is_swept_up() {
        let (engine, dir) = (engine(), tempfile::tempdir().expect("writable"));
        let dir = dir.path().join("cache");
        load(&engine, &dir);
        let whole = only_file(&dir);
        let half = dir.join(format!("{}.1-0{TEMPORARY}", whole.file_name().expect("named").display()));
        fs::rename(&whole, &half).expect("ours");
        assert!(!load(&engine, &dir).cached, "a half-written image has another name");
        assert!(half.exists(), "it may belong to a process that is still writing");
        let old = std::time::SystemTime::now() - 2 * LEFTOVER_AGE;
        fs::File::options().write(true).open(&half).expect("ours").set_modified(old).expect("ours");
        fs::remove_file(&whole).expect("ours");
        load(&engine, &dir);
        only_file(&dir);
    }

    #[test]
    fn the_cache_forgets_what_was_not_used_for_longest() {
        let dir = tempfile::tempdir().expect("writable");
        let now = std::time::SystemTime::now();
        for (name, age_s, bytes) in [("old", 30, 40), ("used", 20, 40), ("new", 10, 40)] {
            let path = dir.path().join(format!("{name}{IMAGE}"));
            fs::write(&path, vec![0; bytes]).expect("writable");
            let file = fs::File::options().write(true).open(&path).expect("ours");
            file.set_modified(now - Duration::from_secs(age_s)).expect("ours");
        }
        fs::write(dir.path().join("not-ours.txt"), "x").expect("writable");
        let handle = Dir::open_ambient_dir(dir.path(), ambient_authority()).expect("exists");
        prune(&handle, 100, "new.cwasm").expect("ours");
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).expect("ours").map(|f| f.expect("readable").file_name()).collect();
        left.sort();
        assert_eq!(left, ["new.cwasm", "not-ours.txt", "used.cwasm"]);
        prune(&handle, 0, "new.cwasm").expect("ours");
        assert!(dir.path().join("new.cwasm").exists(), "what was just written stays, however large");
    }
}
