//! The run directory. Every file of a run is written through one [`cap_std::fs::Dir`], so that no name, however odd,
//! leads outside, and each atomically, so that a reader never sees half a file.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};

/// The run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// It cannot be created or opened.
    #[error("cannot use {path} as the output directory: {source}")]
    Unusable {
        /// As the user gave it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something, and nobody said what to do with it.
    #[error("the output directory {path} is not empty")]
    NotEmpty {
        /// As the user gave it.
        path: PathBuf,
    },
    /// `--force` on a directory that another process writes to.
    #[error("another process is writing to {path}")]
    InUse {
        /// As the user gave it.
        path: PathBuf,
    },
    /// `--resume` on a directory without a journal.
    #[error("nothing to resume in {path}: it holds no {}", super::JOURNAL)]
    NothingToResume {
        /// As the user gave it.
        path: PathBuf,
    },
    /// A file cannot be written, or read back.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// `write` or `read`.
        action: &'static str,
        /// With the run directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DirError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            DirError::NotEmpty { .. } => {
                Some("--resume goes on with the run in it, --force replaces it, --out names another".to_owned())
            }
            DirError::NothingToResume { .. } => Some("leave --resume out to start a new run".to_owned()),
            DirError::InUse { .. } => Some("wait for it, or end it; or name another --out".to_owned()),
            DirError::Unusable { .. } => Some("--out names another directory".to_owned()),
            DirError::File { .. } => {
                Some("what was measured so far is in the journal; --resume goes on once there is room".to_owned())
            }
        }
    }
}

/// What to do with a directory that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Refuse,
    /// Remove what an earlier run wrote; files that are not ours stay.
    Replace,
    /// Go on with the run that is in it.
    Resume,
}

/// An open run directory.
#[derive(Debug, Clone)]
pub struct RunDir {
    dir: Arc<Dir>,
    path: PathBuf,
}

/// What a run writes at the top of its directory; `--force` removes these and nothing else.
const OURS: &[&str] = &[
    super::JOURNAL,
    super::command::COMMAND,
    "profile_sla.log",
    "profiler_status.yaml",
    "measurements.csv",
    "result.json",
    "prefill_performance.png",
    "decode_performance.png",
    "cost_sla.png",
    "config_with_planner.yaml",
    "mocker_config_with_planner.yaml",
    "final_config.yaml",
    "report.html",
    "selected_prefill_interpolation",
    "selected_decode_interpolation",
    "deployment",
];

fn is_ours(name: &str) -> bool {
    let candidate = |role: &str| {
        name.strip_prefix(role)
            .and_then(|rest| rest.split_once("gpus_"))
            .is_some_and(|(gpus, _)| gpus.parse::<u32>().is_ok())
    };
    OURS.contains(&name) || candidate("prefill_") || candidate("decode_")
}

/// Whether a process is writing to the run that is in the directory.
fn is_locked(dir: &Dir) -> io::Result<bool> {
    // Opening a pipe would wait for whoever writes to it.
    if !dir.symlink_metadata(super::JOURNAL)?.is_file() {
        return Ok(false);
    }
    match dir.open(super::JOURNAL)?.into_std().try_lock() {
        // Given back at once: the file goes away.
        Ok(()) => Ok(false),
        Err(std::fs::TryLockError::WouldBlock) => Ok(true),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Writes a file that the user named, whole or not at all.
///
/// # Errors
/// If its folder is not there or does not take it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), DirError> {
    let failed = |source| DirError::File { action: "write", path: path.to_owned(), source };
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| failed(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file")))?;
    let dir = Dir::open_ambient_dir(folder, ambient_authority()).map_err(failed)?;
    RunDir { dir: Arc::new(dir), path: folder.to_owned() }.write(name, bytes)
}

impl RunDir {
    /// Creates or opens the directory.
    ///
    /// # Errors
    /// If it cannot be written to, or is not empty and `existing` does not say what then.
    pub fn open(path: &Path, existing: Existing) -> Result<Self, DirError> {
        let unusable = |source| DirError::Unusable { path: path.to_owned(), source };
        if existing == Existing::Resume && !path.exists() {
            return Err(DirError::NothingToResume { path: path.to_owned() });
        }
        std::fs::create_dir_all(path).map_err(unusable)?;
        let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(unusable)?;
        let names: Vec<String> =
            dir.entries().map_err(unusable)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        match existing {
            Existing::Refuse if !names.is_empty() => return Err(DirError::NotEmpty { path: path.to_owned() }),
            Existing::Resume if !names.iter().any(|name| name == super::JOURNAL) => {
                return Err(DirError::NothingToResume { path: path.to_owned() });
            }
            Existing::Replace => {
                if names.iter().any(|name| name == super::JOURNAL) && is_locked(&dir).map_err(unusable)? {
                    return Err(DirError::InUse { path: path.to_owned() });
                }
                for name in names.iter().filter(|name| is_ours(name)) {
                    // A link goes itself, and not what it leads to.
                    let removed = if dir.symlink_metadata(name).map_err(unusable)?.is_dir() {
                        dir.remove_dir_all(name)
                    } else {
                        dir.remove_file(name)
                    };
                    removed.map_err(unusable)?;
                }
            }
            Existing::Refuse | Existing::Resume => {}
        }
        // Found out now, not after an hour of measuring.
        let probe = ".writable";
        dir.write(probe, b"").and_then(|()| dir.remove_file(probe)).map_err(unusable)?;
        Ok(Self { dir: Arc::new(dir), path: path.to_owned() })
    }

    /// Creates or opens the directory, whatever is in it and whoever else writes there.
    ///
    /// # Errors
    /// If it cannot be created or opened.
    pub fn shared(path: &Path) -> Result<Self, DirError> {
        let unusable = |source| DirError::Unusable { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(unusable)?;
        let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(unusable)?;
        Ok(Self { dir: Arc::new(dir), path: path.to_owned() })
    }

    /// Makes sure that the names of files are on the disk, too.
    ///
    /// # Errors
    /// If the disk does not take them.
    pub fn sync(&self) -> Result<(), DirError> {
        let synced = self.dir.open(".").and_then(|dir| dir.sync_all());
        synced.map_err(|source| self.file_error("write", ".", source))
    }

    /// As the user gave it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file as a whole or not at all; makes its folders.
    ///
    /// # Errors
    /// If the disk does not take it. Then the old content, if any, is still there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DirError> {
        let attempt = || -> io::Result<()> {
            let path = Path::new(name);
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                self.dir.create_dir_all(parent)?;
            }
            let temporary = format!("{name}.part");
            let result = (|| {
                let mut file = self.dir.create(&temporary)?;
                file.write_all(bytes)?;
                file.sync_data()?;
                self.dir.rename(&temporary, &self.dir, name)
            })();
            if result.is_err() {
                // Best effort: the error that matters is the first one.
                let _ = self.dir.remove_file(&temporary);
            }
            result
        };
        attempt().map_err(|source| self.file_error("write", name, source))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it is not there or not readable.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, DirError> {
        self.dir.read(name).map_err(|source| self.file_error("read", name, source))
    }

    /// Gives a file another name, over a file of that name.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn rename(&self, name: &str, to: &str) -> Result<(), DirError> {
        self.dir.rename(name, &self.dir, to).map_err(|source| self.file_error("write", to, source))
    }

    /// Opens a file to append to it, creating it and its folders where needed.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn append(&self, name: &str) -> Result<std::fs::File, DirError> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true);
        if let Some(parent) = Path::new(name).parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.dir.create_dir_all(parent).map_err(|source| self.file_error("write", name, source))?;
        }
        let file = self.dir.open_with(name, &options).map_err(|source| self.file_error("write", name, source))?;
        // A pipe or a device, put there by somebody else, would swallow it or never give it back.
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(self.file_error("write", name, io::Error::other("it is no file")));
        }
        Ok(file.into_std())
    }

    /// Makes a folder for a program that takes a path, and gives that path.
    ///
    /// # Errors
    /// If the disk does not take it, or its name leads outside.
    pub fn folder(&self, name: &Path) -> Result<PathBuf, DirError> {
        let failed = |source| self.file_error("write", &name.display().to_string(), source);
        self.dir.create_dir_all(name).map_err(failed)?;
        std::path::absolute(self.path.join(name)).map_err(failed)
    }

    pub(super) fn file_error(&self, action: &'static str, name: &str, source: io::Error) -> DirError {
        DirError::File { action, path: self.path.join(name), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_holds_something_is_refused_unless_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        assert!(matches!(RunDir::open(dir.path(), Existing::Refuse), Err(DirError::NotEmpty { .. })));
        assert!(matches!(RunDir::open(dir.path(), Existing::Resume), Err(DirError::NothingToResume { .. })));
        let absent = dir.path().join("absent");
        assert!(matches!(RunDir::open(&absent, Existing::Resume), Err(DirError::NothingToResume { .. })));
        assert!(!absent.exists());
        RunDir::open(dir.path(), Existing::Replace).unwrap();
    }

    #[test]
    fn force_removes_what_a_run_wrote_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path(), Existing::Refuse).unwrap();
        for name in ["result.json", "prefill_4gpus_tp4/engine.log", "decode_16gpus_dep16/engine.log"] {
            run.write(name, b"old").unwrap();
        }
        for mine in ["notes.txt", "prefill_notes", "decode_xgpus_tp4"] {
            std::fs::write(dir.path().join(mine), "mine").unwrap();
        }
        RunDir::open(dir.path(), Existing::Replace).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["decode_xgpus_tp4", "notes.txt", "prefill_notes"]);
    }

    #[test]
    fn no_name_leads_outside() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(&dir.path().join("run"), Existing::Refuse).unwrap();
        assert!(run.write("../escaped", b"x").is_err());
        assert!(run.write("/tmp/escaped", b"x").is_err());
        assert!(!dir.path().join("escaped").exists());
    }

    #[test]
    fn a_file_where_a_directory_should_be_is_a_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = RunDir::open(&file, Existing::Refuse).unwrap_err();
        assert!(error.to_string().contains("cannot use"), "{error}");
    }
}
