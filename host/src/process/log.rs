//! What an engine's process writes, kept within bounds: the beginning, which tells how it was built, and the end, which
//! tells why it died.
//!
//! ```text
//! worker.log          the first half of the bound
//! worker.log.older    }
//! worker.log.newer    }  the last quarter to half of it, where there is more
//! ```

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Bytes kept of one process, if nothing else is said.
pub(crate) const LOG_BYTES: u64 = 16 << 20;

/// Writes it.
pub(crate) struct BoundedLog {
    path: PathBuf,
    file: File,
    /// Bytes of `file` so far.
    written: u64,
    /// Where `file` is full.
    room: u64,
    bound: u64,
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

impl BoundedLog {
    /// An empty log.
    pub fn create(path: &Path, bound: u64) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: File::create(path)?, written: 0, room: bound / 2, bound })
    }

    /// Appends.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.written >= self.room {
                self.turn()?;
            }
            let count = usize::try_from(self.room - self.written).unwrap_or(usize::MAX).clamp(1, bytes.len());
            let (now, later) = bytes.split_at(count);
            self.file.write_all(now)?;
            self.written += count as u64;
            bytes = later;
        }
        Ok(())
    }

    /// The next file. What was newer is now older; what was older is forgotten.
    fn turn(&mut self) -> io::Result<()> {
        let newer = with_ending(&self.path, ".newer");
        if newer.exists() {
            fs::rename(&newer, with_ending(&self.path, ".older"))?;
        }
        self.file = File::create(newer)?;
        self.written = 0;
        self.room = (self.bound / 4).max(1);
        Ok(())
    }
}

/// All that was kept. What is not UTF-8 is replaced.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    let more = [".older", ".newer"].map(|ending| fs::read(with_ending(path, ending)).ok());
    if more.iter().any(Option::is_some) {
        text.push_str("\n… lines may be missing here …\n");
    }
    more.iter().flatten().for_each(|bytes| text.push_str(&String::from_utf8_lossy(bytes)));
    Ok(text)
}

/// The last lines that say something, for a person.
pub(crate) fn last_lines(text: &str, count: usize) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(count).collect();
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(dir: &Path) -> u64 {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn a_log_within_its_bound_is_kept_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.log");
        let mut log = BoundedLog::create(&path, 1000).unwrap();
        log.write(b"first line\n").unwrap();
        log.write(b"second line\n").unwrap();
        assert_eq!(read(&path).unwrap(), "first line\nsecond line\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_endless_log_keeps_its_beginning_and_its_end_and_no_more_than_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.log");
        let mut log = BoundedLog::create(&path, 4000).unwrap();
        for number in 0..10_000 {
            log.write(format!("line {number}\n").as_bytes()).unwrap();
        }
        assert!(size(dir.path()) <= 4000, "{}", size(dir.path()));
        let text = read(&path).unwrap();
        assert!(text.starts_with("line 0\nline 1\n"));
        assert_eq!(last_lines(&text, 2), ["line 9998", "line 9999"]);
        assert!(text.contains("missing here"));
    }

    #[test]
    fn one_huge_write_is_split() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.log");
        let mut log = BoundedLog::create(&path, 400).unwrap();
        log.write(&[b'x'; 5000]).unwrap();
        assert!(size(dir.path()) <= 400);
    }
}
