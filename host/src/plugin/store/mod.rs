//! Plugins that the user added: files by their digest, and a lock file that names them.
//!
//! ```text
//! $XDG_DATA_HOME/sla-profiler/plugins/   (else ~/.local/share/…)
//!   plugins.lock        name -> digest, kind, contract version, imports, grants, source, signature's key
//!   <sha256>.wasm       the components
//! ```
//!
//! A run takes a plugin by its name, and refuses a file whose digest is not the one in the lock file.

pub mod fetch;
pub mod oci;
pub mod signature;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::Kind;
use super::{bundled, compile};

const LOCK_FILE: &str = "plugins.lock";

/// Held while the lock file is changed.
const GUARD: &str = ".guard";

/// Another process holds the guard for milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Version of the lock file's form.
const SCHEMA_VERSION: u32 = 1;

/// Where added plugins are kept; nowhere without a home.
pub fn default_store_dir() -> Option<PathBuf> {
    Some(compile::user_dir("XDG_DATA_HOME", ".local/share")?.join("sla-profiler/plugins"))
}

/// An added plugin, as the lock file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What job files and flags call it: what it calls itself.
    pub name: String,
    /// What it decides.
    pub kind: Kind,
    /// Its own version.
    pub version: String,
    /// SHA-256 in hex of the only file that will do.
    pub sha256: String,
    /// The version of the contract that it was built against.
    pub contract_version: String,
    /// Interfaces with functions that it asks for.
    pub imports: Vec<String>,
    /// Folders that it may read, by the name under which it asks for them.
    #[serde(default)]
    pub grants: BTreeMap<String, PathBuf>,
    /// Where it came from.
    pub source: String,
    /// The trusted key (minisign's form) whose signature it carried.
    #[serde(default)]
    pub signed_by: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LockFile {
    schema_version: u32,
    plugins: Vec<Entry>,
}

/// The folder of added plugins; it need not exist.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// The store cannot be used, or does not hold what is asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or a file in it.
    #[error("cannot {doing} {}: {source}", .path.display())]
    Io {
        /// As in "write".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The lock file does not have its form.
    #[error("{} cannot be understood: {reason}", .path.display())]
    LockFile {
        /// The lock file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another process does not let go.
    #[error("another process has been changing {} for {} s", .path.display(), PATIENCE.as_secs())]
    Busy {
        /// The store.
        path: PathBuf,
    },
    /// A plugin that comes with the program has that name.
    #[error("calls itself `{name}`, which is the name of a plugin that comes with the program")]
    Reserved {
        /// The name.
        name: String,
    },
    /// Nothing of that name was added.
    #[error("no plugin called `{name}` was added{}", or_those(.known))]
    Unknown {
        /// As given.
        name: String,
        /// Those that were.
        known: Vec<String>,
    },
}

fn or_those(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; there are {}", super::text::list(names, 40)) }
}

impl StoreError {
    fn io<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}

impl Store {
    /// The store in that folder.
    pub const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The lock file.
    pub fn lock_path(&self) -> PathBuf {
        self.dir.join(LOCK_FILE)
    }

    /// Where the component of that digest lies.
    pub fn file(&self, sha256: &str) -> PathBuf {
        self.dir.join(format!("{sha256}.wasm"))
    }

    /// All plugins that were added, by name.
    ///
    /// # Errors
    /// If the lock file cannot be read or understood. None at all is an empty store.
    pub fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let path = self.lock_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let wrong = |reason: String| StoreError::LockFile { path: path.clone(), reason };
        let file: LockFile = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if file.schema_version != SCHEMA_VERSION {
            return Err(wrong(format!(
                "its form has version {}, this program knows {SCHEMA_VERSION}",
                file.schema_version
            )));
        }
        // A digest names a file: nothing else may lead out of the folder.
        let is_digest = |hex: &str| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Some(entry) = file.plugins.iter().find(|entry| !is_digest(&entry.sha256)) {
            return Err(wrong(format!("`{}` has no SHA-256", entry.name)));
        }
        Ok(file.plugins)
    }

    /// The plugin of that name.
    ///
    /// # Errors
    /// As [`Self::entries`].
    pub fn find(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.entries()?.into_iter().find(|entry| entry.name == name))
    }

    /// Keeps a plugin under its name. Returns the one that had the name before.
    ///
    /// # Errors
    /// If a bundled plugin has the name, or the store cannot be written.
    pub fn add(&self, entry: Entry, wasm: &[u8]) -> Result<Option<Entry>, StoreError> {
        if bundled::find(&entry.name).is_some() {
            return Err(StoreError::Reserved { name: entry.name });
        }
        let _guard = self.guard()?;
        let mut plugins = self.entries()?;
        self.write(&format!("{}.wasm", entry.sha256), wasm)?;
        let before = plugins.iter().position(|known| known.name == entry.name).map(|at| plugins.remove(at));
        plugins.push(entry);
        plugins.sort_by(|a, b| a.name.cmp(&b.name));
        self.commit(plugins)?;
        Ok(before)
    }

    /// Forgets a plugin, and its file where no other name has it.
    ///
    /// # Errors
    /// If there is none of that name, or the store cannot be written.
    pub fn remove(&self, name: &str) -> Result<Entry, StoreError> {
        let unknown = |plugins: &[Entry]| StoreError::Unknown {
            name: name.to_owned(),
            known: plugins.iter().map(|entry| entry.name.clone()).collect(),
        };
        if !self.dir.is_dir() {
            return Err(unknown(&[]));
        }
        let _guard = self.guard()?;
        let mut plugins = self.entries()?;
        let at = plugins.iter().position(|entry| entry.name == name).ok_or_else(|| unknown(&plugins))?;
        let removed = plugins.remove(at);
        self.commit(plugins)?;
        Ok(removed)
    }

    /// Writes the lock file, then removes the files that it does not name.
    fn commit(&self, plugins: Vec<Entry>) -> Result<(), StoreError> {
        let file = LockFile { schema_version: SCHEMA_VERSION, plugins };
        let wrong =
            |error: serde_json::Error| StoreError::LockFile { path: self.lock_path(), reason: error.to_string() };
        let mut text = serde_json::to_vec_pretty(&file).map_err(wrong)?;
        text.push(b'\n');
        self.write(LOCK_FILE, &text)?;
        for found in fs::read_dir(&self.dir).map_err(StoreError::io("read", &self.dir))?.flatten() {
            let path = found.path();
            let kept = file.plugins.iter().any(|entry| self.file(&entry.sha256) == path);
            if !kept && path.extension().is_some_and(|extension| extension == "wasm") {
                // It costs space and nothing else; the next change tries again.
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }

    /// Whole or not at all.
    fn write(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let (path, draft) = (self.dir.join(name), self.dir.join(format!("{name}.draft")));
        let write = || {
            let mut file = fs::File::create(&draft)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        };
        write().map_err(StoreError::io("write", &path))
    }

    /// Nobody else changes the store while this lives; the system lets go when the process ends.
    fn guard(&self) -> Result<fs::File, StoreError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let create = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        create.map_err(StoreError::io("create", &self.dir))?;
        let path = self.dir.join(GUARD);
        let file = fs::File::create(&path).map_err(StoreError::io("create", &path))?;
        let started = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) if started.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::Busy { path: self.dir.clone() }),
                Err(error) => return Err(StoreError::io("lock", &path)(error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, digit: char) -> Entry {
        Entry {
            name: name.to_owned(),
            kind: Kind::SelectionPolicy,
            version: "1.0.0".to_owned(),
            sha256: digit.to_string().repeat(64),
            contract_version: "0.1.0".to_owned(),
            imports: Vec::new(),
            grants: BTreeMap::new(),
            source: "x.wasm".to_owned(),
            signed_by: None,
        }
    }

    fn names(store: &Store) -> Vec<String> {
        store.entries().unwrap().into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn what_is_added_is_found_until_it_is_removed_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("not/there/yet"));
        assert_eq!(names(&store), [""; 0]);
        assert_eq!(store.add(entry("b", '1'), b"one").unwrap(), None);
        assert_eq!(store.add(entry("a", '2'), b"two").unwrap(), None);
        assert_eq!(store.add(entry("c", '1'), b"one").unwrap(), None);
        assert_eq!(names(&store), ["a", "b", "c"]);
        assert_eq!(store.find("b").unwrap(), Some(entry("b", '1')));
        store.remove("b").unwrap();
        assert_eq!(fs::read(store.file(&"1".repeat(64))).unwrap(), b"one", "another name has it");
        store.remove("c").unwrap();
        assert!(!store.file(&"1".repeat(64)).exists());
        assert_eq!(names(&store), ["a"]);
    }

    #[test]
    fn a_new_version_takes_the_place_of_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        store.add(entry("a", '1'), b"one").unwrap();
        assert_eq!(store.add(entry("a", '2'), b"two").unwrap(), Some(entry("a", '1')));
        assert_eq!(names(&store), ["a"]);
        assert!(!store.file(&"1".repeat(64)).exists());
    }

    #[test]
    fn an_unknown_name_is_told_those_that_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        store.add(entry("a", '1'), b"one").unwrap();
        let error = store.remove("z").unwrap_err().to_string();
        assert_eq!(error, "no plugin called `z` was added; there are a");
    }

    #[test]
    fn a_lock_file_of_another_form_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        for text in ["{", "{\"schema_version\": 2, \"plugins\": []}"] {
            fs::write(store.lock_path(), text).unwrap();
            assert!(matches!(store.add(entry("a", '1'), b"one"), Err(StoreError::LockFile { .. })), "{text}");
            assert_eq!(fs::read_to_string(store.lock_path()).unwrap(), text);
        }
        let mut out = entry("a", '1');
        out.sha256 = "../../secret".to_owned();
        let file = LockFile { schema_version: 1, plugins: vec![out] };
        fs::write(store.lock_path(), serde_json::to_vec(&file).unwrap()).unwrap();
        assert!(store.entries().unwrap_err().to_string().contains("no SHA-256"));
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        thread::scope(|scope| {
            for n in 0..8 {
                let store = &store;
                let add = move || store.add(entry(&format!("p{n}"), char::from(b'0' + n)), b"x").unwrap();
                scope.spawn(add);
            }
        });
        assert_eq!(names(&store).len(), 8);
    }
}
