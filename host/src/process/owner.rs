//! Whose a process is. Before the program starts the first process of somebody else, it writes a record with a token
//! that nobody can guess; each process inherits the token in its environment. The record is locked for as long as the
//! program lives, by the kernel: that is its lease, which no crash and no reused process number can fake.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::who::{place, started_ticks};

/// The variable that carries the token.
pub(crate) const VARIABLE: &str = "SLA_PROFILER_OWNER";

/// Largest record that is read: some bytes for each process that was started.
const MAX_BYTES: u64 = 4 << 20;

/// First line of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// In the environment of everything that it owns.
    pub token: String,
    /// Where process numbers mean what they mean here: the machine's boot, and the namespace.
    pub place: String,
    /// The program's process number …
    pub pid: u32,
    /// … and when that process started, in clock ticks since the boot.
    pub started_ticks: u64,
    /// The run directory.
    pub run: PathBuf,
    /// For a person.
    pub written_at: String,
}

/// A process that is about to be started: the other lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Started {
    starts: String,
}

/// A record of this program's, open and locked. Dropping it is the end.
#[derive(Debug)]
pub struct Owner {
    record: Record,
    path: PathBuf,
    file: Mutex<File>,
}

impl Owner {
    /// Writes a record into the folder, which is made.
    ///
    /// # Errors
    /// If the disk does not take it, or the folder is somebody else's. Then nothing may be started.
    pub fn begin(folder: &Path, run: &Path) -> io::Result<Arc<Self>> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        if fs::metadata(folder)?.uid() != rustix::process::getuid().as_raw() {
            return Err(io::Error::other("it belongs to another user"));
        }
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let record = Record {
            token,
            place: place(),
            pid: std::process::id(),
            started_ticks: started_ticks(std::process::id()).unwrap_or(0),
            run: std::path::absolute(run).unwrap_or_else(|_| run.to_owned()),
            written_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        let path = folder.join(format!("{}.jsonl", record.token));
        let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            // A file system without locks: the process number and its start have to do.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(error) => return Err(error.into()),
        }
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        file.write_all(&line)?;
        file.sync_all()?;
        // Also its name has to be on the disk.
        File::open(folder)?.sync_all()?;
        Ok(Arc::new(Self { record, path, file: Mutex::new(file) }))
    }

    /// Name and value of the variable for what it owns.
    pub fn variable(&self) -> (&'static str, &str) {
        (VARIABLE, &self.record.token)
    }

    /// Notes that this process is about to be started.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn starts(&self, what: &str) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Started { starts: what.to_owned() })?;
        line.push(b'\n');
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }

    /// The record goes, unless there is somebody left, whom it will lead to.
    fn end(&self) {
        if super::leftovers::processes(&self.record.token).is_empty()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!("{}: {error}", self.path.display());
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.end();
    }
}

/// A record of a program that is gone.
#[derive(Debug)]
pub(crate) struct Abandoned {
    /// What it says.
    pub record: Record,
    /// What was started, for a person.
    pub started: Vec<String>,
    path: PathBuf,
    /// Held, so that two cleaners do not meet.
    _lock: File,
}

impl Abandoned {
    /// Nothing is left of it.
    pub fn forget(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!("{}: {error}", self.path.display());
        }
    }
}

/// Records in the folder whose program is gone, of this machine and its namespace of processes. What cannot be read is
/// no record of ours and is left alone.
pub(crate) fn abandoned(folder: &Path) -> Vec<Abandoned> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<Abandoned> = entries.filter_map(|entry| open(&entry.path())).collect();
    found.sort_by(|a, b| a.record.written_at.cmp(&b.record.written_at));
    found
}

fn open(path: &Path) -> Option<Abandoned> {
    let name = path.file_stem()?.to_str()?;
    if path.extension().is_none_or(|extension| extension != "jsonl") || !fs::symlink_metadata(path).ok()?.is_file() {
        return None;
    }
    let mut file = OpenOptions::new().read(true).append(true).open(path).ok()?;
    let has_locks = match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => return None,
        Err(TryLockError::Error(_)) => false,
    };
    let mut text = String::new();
    (&mut file).take(MAX_BYTES).read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    let record: Record = serde_json::from_str(lines.next()?).ok()?;
    let alive = !has_locks && started_ticks(record.pid) == Some(record.started_ticks);
    // Processes of another machine, container or boot are not to be seen from here.
    if record.token != name || !is_token(&record.token) || record.place != place() || alive {
        return None;
    }
    let started = lines.filter_map(|line| serde_json::from_str::<Started>(line).ok()).map(|line| line.starts).collect();
    Some(Abandoned { record, started, path: path.to_owned(), _lock: file })
}

/// Short ones could stand in anybody's environment.
fn is_token(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if the program had ended without a word: the record stays, its lock goes.
    fn crash(owner: Arc<Owner>) {
        let (text, path) = (fs::read(&owner.path).unwrap(), owner.path.clone());
        drop(owner);
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_record_of_a_living_program_is_not_abandoned_and_of_one_that_is_gone_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("owners");
        let owner = Owner::begin(&records, Path::new("out")).unwrap();
        owner.starts("decode tp1: worker").unwrap();
        assert!(abandoned(&records).is_empty(), "it is locked");
        let token = owner.record.token.clone();
        crash(owner);
        let found = abandoned(&records);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].record.token.clone(), found[0].started.clone()),
            (token, vec!["decode tp1: worker".into()])
        );
        assert!(abandoned(&records).is_empty(), "whoever looks first has it");
    }

    #[test]
    fn a_record_is_gone_after_a_normal_end() {
        let folder = tempfile::tempdir().unwrap();
        let owner = Owner::begin(folder.path(), Path::new("out")).unwrap();
        drop(owner);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_a_record_of_this_machine_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let owner = Owner::begin(folder.path(), Path::new("out")).unwrap();
        let (record, path) = (owner.record.clone(), owner.path.clone());
        crash(owner);
        let put = |name: &str, record: &Record| {
            fs::write(folder.path().join(name), serde_json::to_string(record).unwrap() + "\n").unwrap();
        };
        fs::remove_file(path).unwrap();
        let token = "0123456789abcdef0123456789abcdef".to_owned();
        put(
            &format!("{token}.jsonl"),
            &Record { place: "another boot".into(), token: token.clone(), ..record.clone() },
        );
        put("PATH.jsonl", &Record { token: "PATH".into(), ..record.clone() });
        put("notes.txt", &record);
        fs::write(folder.path().join("broken.jsonl"), "{").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link.jsonl")).unwrap();
        assert!(abandoned(folder.path()).is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5);
    }
}
