//! Folders that a plugin may read: the host's side of `sla-profiler:base/files`.
//!
//! A folder is opened once, when the plugin is loaded; every path is resolved within that handle, so that neither `..`, nor
//! an absolute path, nor a link leads out of it. Only regular files are read: a pipe would block, and no deadline
//! interrupts the host.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};

use super::bindings::files::FileError;
use super::error::LoadProblem;
use super::limits::Limits;

/// Most names that `entries` returns.
const MAX_ENTRIES: usize = 10_000;

/// Open folders by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Grants(Arc<Vec<(String, Dir)>>);

impl Grants {
    /// Opens the folders.
    ///
    /// # Errors
    /// [`LoadProblem::Grant`] for the first that cannot be opened.
    pub(super) fn open(folders: &[(String, PathBuf)]) -> Result<Self, LoadProblem> {
        let open = |(name, path): &(String, PathBuf)| {
            let dir = Dir::open_ambient_dir(path, ambient_authority());
            let dir = dir.and_then(|dir| dir.entries().map(|_| dir));
            dir.map(|dir| (name.clone(), dir)).map_err(|source| LoadProblem::Grant {
                name: name.clone(),
                path: path.clone(),
                source,
            })
        };
        folders.iter().map(open).collect::<Result<_, _>>().map(|dirs| Self(Arc::new(dirs)))
    }

    fn find(&self, name: &str) -> Result<&Dir, FileError> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found
            .map(|(_, dir)| dir)
            .ok_or_else(|| FileError::NotGranted(self.0.iter().map(|(name, _)| name.clone()).collect()))
    }
}

/// What one decision may still read.
#[derive(Debug)]
pub(super) struct Files {
    grants: Grants,
    calls: usize,
    bytes: usize,
}

impl Files {
    pub(super) fn new(grants: Grants, limits: &Limits) -> Self {
        Self { grants, calls: limits.file_calls, bytes: limits.read_bytes }
    }

    pub(super) fn read(&mut self, grant: &str, path: &str) -> Result<Vec<u8>, FileError> {
        self.count_call()?;
        let dir = self.grants.find(grant)?;
        // Asked before opening, since to open a device may do something; and once more after it, in case that the file was
        // exchanged in between: that open does not wait.
        if !dir.metadata(path).map_err(|error| in_words(&error))?.is_file() {
            return Err(FileError::NotAllowed);
        }
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = dir.open_with(path, OpenOptions::new().read(true).custom_flags(nonblocking));
        let file = file.map_err(|error| in_words(&error))?;
        if !file.metadata().map_err(|error| in_words(&error))?.is_file() {
            return Err(FileError::NotAllowed);
        }
        let mut bytes = Vec::new();
        let limit = u64::try_from(self.bytes).unwrap_or(u64::MAX);
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| in_words(&error))?;
        self.bytes = self.bytes.checked_sub(bytes.len()).ok_or_else(|| FileError::TooMuch("read_bytes".to_owned()))?;
        Ok(bytes)
    }

    pub(super) fn entries(&mut self, grant: &str, path: &str) -> Result<Vec<String>, FileError> {
        self.count_call()?;
        let dir = self.grants.find(grant)?;
        let path = if path.is_empty() { "." } else { path };
        if !dir.metadata(path).map_err(|error| in_words(&error))?.is_dir() {
            return Err(FileError::NotAllowed);
        }
        let mut names = Vec::new();
        for entry in dir.read_dir(Path::new(path)).map_err(|error| in_words(&error))? {
            let entry = entry.map_err(|error| in_words(&error))?;
            let Ok(mut name) = entry.file_name().into_string() else { continue };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => name.push('/'),
                Ok(kind) if kind.is_file() => {}
                _ => continue,
            }
            if names.len() == MAX_ENTRIES {
                return Err(FileError::TooMuch(format!("{MAX_ENTRIES} entries")));
            }
            names.push(name);
        }
        names.sort();
        Ok(names)
    }

    fn count_call(&mut self) -> Result<(), FileError> {
        self.calls = self.calls.checked_sub(1).ok_or_else(|| FileError::TooMuch("file_calls".to_owned()))?;
        Ok(())
    }
}

/// The system's own words would differ between machines.
fn in_words(error: &io::Error) -> FileError {
    match error.kind() {
        io::ErrorKind::NotFound => FileError::NotFound,
        // cap-std: a path that leads out; the system: no permission, a file in a folder's place, a loop of links.
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::InvalidInput => FileError::NotAllowed,
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => FileError::NotAllowed,
        kind => FileError::Other(kind.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    /// A granted folder with a file, a folder and links; beside it a secret.
    fn bench(limits: &Limits) -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().expect("writable");
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("sub")).expect("writable");
        fs::write(dir.path().join("secret"), "secret").expect("writable");
        fs::write(data.join("prices.csv"), "gpu,eur\n").expect("writable");
        fs::write(data.join("sub/more"), "more").expect("writable");
        symlink("../secret", data.join("out")).expect("writable");
        symlink(dir.path().join("secret"), data.join("absolute")).expect("writable");
        symlink("..", data.join("up")).expect("writable");
        symlink("loop", data.join("loop")).expect("writable");
        symlink("/dev/zero", data.join("zero")).expect("writable");
        symlink("prices.csv", data.join("inside")).expect("writable");
        let grants = Grants::open(&[("data".into(), data)]).expect("it is there");
        let files = Files::new(grants, limits);
        (dir, files)
    }

    #[test]
    fn what_is_granted_can_be_read() {
        let (_dir, mut files) = bench(&Limits::default());
        for (path, content) in [("prices.csv", "gpu,eur\n"), ("./sub/../sub/more", "more"), ("inside", "gpu,eur\n")] {
            assert_eq!(files.read("data", path).expect(path), content.as_bytes());
        }
        assert_eq!(files.entries("data", "").expect("a folder"), ["prices.csv", "sub/"]);
        assert_eq!(files.entries("data", "sub").expect("a folder"), ["more"]);
    }

    #[test]
    fn no_path_leads_out() {
        let (dir, mut files) = bench(&Limits::default());
        let absolute = dir.path().join("secret").display().to_string();
        let paths = [
            "../secret",
            "sub/../../secret",
            "/etc/passwd",
            &absolute,
            "out",
            "absolute",
            "up/secret",
            "loop",
            "zero",
            "sub",
            "",
            ".",
            "..",
            "prices.csv/x",
            "a\0b",
        ];
        for path in paths {
            let answer = files.read("data", path);
            assert!(matches!(answer, Err(FileError::NotAllowed | FileError::NotFound)), "{path:?}: {answer:?}");
        }
        for path in ["..", "up", "/", "sub/../..", "prices.csv", "none"] {
            let answer = files.entries("data", path);
            assert!(matches!(answer, Err(FileError::NotAllowed | FileError::NotFound)), "{path:?}: {answer:?}");
        }
    }

    #[test]
    fn a_pipe_does_not_block() {
        let (dir, mut files) = bench(&Limits::default());
        let made = Command::new("mkfifo").arg(dir.path().join("data/pipe")).status().expect("mkfifo is there");
        assert!(made.success());
        assert!(matches!(files.read("data", "pipe"), Err(FileError::NotAllowed)));
        assert!(!files.entries("data", "").expect("a folder").contains(&"pipe".to_owned()));
    }

    #[test]
    fn another_name_is_told_the_names_that_there_are() {
        let (_dir, mut files) = bench(&Limits::default());
        let answer = files.read("prices", "prices.csv");
        assert!(matches!(&answer, Err(FileError::NotGranted(names)) if names == &["data"]), "{answer:?}");
    }

    #[test]
    fn calls_and_bytes_are_bounded() {
        let (_dir, mut files) = bench(&Limits { file_calls: 2, ..Limits::default() });
        assert!(files.read("data", "sub/more").is_ok() && files.entries("data", "").is_ok());
        assert!(matches!(files.read("data", "sub/more"), Err(FileError::TooMuch(limit)) if limit == "file_calls"));
        let (_dir, mut files) = bench(&Limits { read_bytes: 10, ..Limits::default() });
        assert!(files.read("data", "prices.csv").is_ok(), "8 of 10");
        assert!(matches!(files.read("data", "sub/more"), Err(FileError::TooMuch(limit)) if limit == "read_bytes"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().expect("writable");
        let path = dir.path().join("none");
        let problem = Grants::open(&[("data".into(), path.clone())]).expect_err("not there");
        assert!(matches!(&problem, LoadProblem::Grant { name, path: named, .. } if name == "data" && *named == path));
    }
}
