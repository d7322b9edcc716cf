//! The journal: one JSON object per line, append only, each with a checksum of its own.
//!
//! A line that was torn by a crash or a full disk is the last one, fails its checksum, and is cut off when the run is
//! resumed. One process writes at a time; a lock on the file sees to it.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use super::dir::{DirError, RunDir};
use super::event::{Event, JOURNAL_FORMAT, Record, Retry, RunStarted};

/// The journal's file name.
pub const JOURNAL: &str = "journal.jsonl";

/// Whether each record must be on the disk before the run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Handed to the operating system: survives a crash of the program. For points that cost nothing.
    Flush,
    /// On the disk: survives a crash of the machine. For points that were paid for in GPU time.
    Sync,
}

/// The journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be written or read.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// Another process writes it.
    #[error("another process writes to {path}")]
    Locked {
        /// The journal.
        path: String,
    },
    /// A record is broken, and not the last one.
    #[error("{path}:{line}: {reason}; the journal is damaged beyond a torn last line")]
    Damaged {
        /// The journal.
        path: String,
        /// Counts from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// It has another format.
    #[error("{path} has format {format}, this program writes format {JOURNAL_FORMAT}")]
    OtherFormat {
        /// The journal.
        path: String,
        /// What it says.
        format: u64,
    },
    /// The run in the directory is another one.
    #[error("the run in {path} was started for another job, with other plugins or another version of the program")]
    OtherRun {
        /// The run directory.
        path: String,
    },
}

impl JournalError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            JournalError::Dir(error) => error.hint(),
            JournalError::Locked { .. } => Some("wait for it, or end it; or name another --out".to_owned()),
            JournalError::OtherFormat { .. } => {
                Some("go on with the version of the program that wrote it, or start anew with --force".to_owned())
            }
            JournalError::Damaged { .. } => Some("start again with --force, or in another --out".to_owned()),
            JournalError::OtherRun { .. } => {
                Some("give the same job and plugins again, or start anew with --force".to_owned())
            }
        }
    }
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    file: File,
    dir: RunDir,
    /// Length of the records that are whole.
    good_bytes: u64,
    /// A record could not be written whole, nor what there is of it be cut off.
    torn: bool,
    next_seq: u64,
    durability: Durability,
}

impl Journal {
    /// Opens the journal of a run directory and reads what is in it. A torn last line is cut off.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn open(dir: &RunDir, durability: Durability) -> Result<(Self, Vec<Record>), JournalError> {
        let path = || dir.path().join(JOURNAL).display().to_string();
        let mut file = dir.append(JOURNAL)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Locked { path: path() }),
            Err(TryLockError::Error(source)) => return Err(dir.file_error("write", JOURNAL, source).into()),
        }
        let io_error = |source: io::Error| JournalError::from(dir.file_error("read", JOURNAL, source));
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).map_err(io_error)?;
        file.read_to_end(&mut bytes).map_err(io_error)?;
        if let Some(format) = format_of(&bytes).filter(|format| *format != u64::from(JOURNAL_FORMAT)) {
            return Err(JournalError::OtherFormat { path: path(), format });
        }
        let (records, good_bytes) =
            parse(&bytes).map_err(|(line, reason)| JournalError::Damaged { path: path(), line, reason })?;
        if good_bytes < bytes.len() {
            tracing::warn!("the last line of {} was torn and is cut off", path());
            file.set_len(good_bytes as u64).map_err(io_error)?;
        }
        if durability == Durability::Sync {
            // A record that is on the disk is of no use in a file that has no name there.
            dir.sync()?;
        }
        dir.remove_halves();
        let next_seq = records.last().map_or(0, |record| record.seq + 1);
        let journal = Self { file, dir: dir.clone(), good_bytes: good_bytes as u64, torn: false, next_seq, durability };
        Ok((journal, records))
    }

    /// Appends one record.
    ///
    /// # Errors
    /// If the disk does not take it. Then the journal ends with the record before.
    pub fn append(&mut self, at_s: f64, event: Event) -> Result<Record, JournalError> {
        let record = Record { seq: self.next_seq, at_s, event };
        let line = render(&record).map_err(|source| self.dir.file_error("write", JOURNAL, source.into()))?;
        if self.torn {
            // Behind half a record nothing could be read back.
            let source = io::Error::other("an earlier record could not be written whole");
            return Err(self.dir.file_error("write", JOURNAL, source).into());
        }
        let written = self.file.write_all(line.as_bytes()).and_then(|()| match self.durability {
            Durability::Flush => Ok(()),
            Durability::Sync => self.file.sync_data(),
        });
        if let Err(source) = written {
            self.torn = self.file.set_len(self.good_bytes).is_err();
            return Err(self.dir.file_error("write", JOURNAL, source).into());
        }
        self.good_bytes += line.len() as u64;
        self.next_seq += 1;
        Ok(record)
    }
}

/// GPUs times seconds that engines were held by the run that ended with these records. An engine that nobody released
/// was held to the end.
pub fn gpu_seconds(records: &[Record]) -> f64 {
    let Some(started) = started(records) else { return 0.0 };
    let gpus = |id: u32| started.candidates.get(id as usize).map_or(0.0, |c| f64::from(c.gpus()));
    let mut since_s = std::collections::BTreeMap::new();
    let mut sum = 0.0;
    for record in records {
        match &record.event {
            Event::Launching { candidate } => {
                since_s.insert(*candidate, record.at_s);
            }
            Event::Released { candidate } => {
                sum += since_s.remove(candidate).map_or(0.0, |start| gpus(*candidate) * (record.at_s - start));
            }
            Event::Failed { failure, .. } | Event::Retrying { retry: Retry { failure, .. }, .. }
                if failure.probe.is_none() =>
            {
                let start = since_s.remove(&failure.candidate);
                sum += start.map_or(0.0, |start| gpus(failure.candidate) * (record.at_s - start));
            }
            // Whatever ran when the program ended is gone.
            Event::Resumed { .. } => {
                sum += since_s.iter().map(|(id, start)| gpus(*id) * (record.at_s - start)).sum::<f64>();
                since_s.clear();
            }
            _ => {}
        }
    }
    let end_s = records.last().map_or(0.0, |record| record.at_s);
    sum + since_s.iter().map(|(id, start)| gpus(*id) * (end_s - start)).sum::<f64>()
}

/// The first record's content, where the journal is one of ours.
pub fn started(records: &[Record]) -> Option<&RunStarted> {
    match records.first() {
        Some(Record { event: Event::RunStarted(started), .. }) => Some(started),
        _ => None,
    }
}

const SUM: &str = ",\"sum\":\"";

fn render(record: &Record) -> serde_json::Result<String> {
    let json = serde_json::to_string(record)?;
    let body = json.strip_suffix('}').unwrap_or(&json);
    let sum = crc32fast::hash(body.as_bytes());
    Ok(format!("{body}{SUM}{sum:08x}\"}}\n"))
}

fn parse_line(line: &str) -> Result<Record, String> {
    let (body, sum) = line.rsplit_once(SUM).ok_or("no checksum")?;
    let sum = sum.strip_suffix("\"}").ok_or("no checksum")?;
    if u32::from_str_radix(sum, 16).ok() != Some(crc32fast::hash(body.as_bytes())) {
        return Err("the checksum does not fit".to_owned());
    }
    serde_json::from_str(&format!("{body}}}")).map_err(|error| error.to_string())
}

/// The format that the first record names, whatever else is in it: records of another format may not even parse.
fn format_of(bytes: &[u8]) -> Option<u64> {
    let first = bytes.split(|&byte| byte == b'\n').next()?;
    let record: serde_json::Value = serde_json::from_slice(first).ok()?;
    record.pointer("/event/run_started/format")?.as_u64()
}

/// Records and the number of bytes that hold them; a broken last line is not an error.
fn parse(bytes: &[u8]) -> Result<(Vec<Record>, usize), (usize, String)> {
    let mut records = Vec::new();
    let mut good = 0;
    for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let is_last = good + line.len() == bytes.len();
        let parsed = match line.strip_suffix(b"\n") {
            None => Err("the line does not end".to_owned()),
            Some(text) => std::str::from_utf8(text).map_err(|e| e.to_string()).and_then(parse_line),
        };
        match parsed {
            Ok(record) => records.push(record),
            Err(_) if is_last => break,
            Err(reason) => return Err((index + 1, reason)),
        }
        good += line.len();
    }
    Ok((records, good))
}

/// Reads a journal without opening it for writing.
///
/// # Errors
/// If a line other than the last is broken: its number and why.
pub fn read(bytes: &[u8]) -> Result<Vec<Record>, (usize, String)> {
    parse(bytes).map(|(records, _)| records)
}

#[cfg(test)]
mod tests {
    use super::super::dir::Existing;
    use super::super::event::Phase;
    use super::*;

    fn event(n: usize) -> Event {
        Event::Wrote { path: format!("file-{n}-\"quoted\",\"sum\":\"x\"") }
    }

    fn open(path: &std::path::Path) -> Result<(Journal, Vec<Record>), JournalError> {
        Journal::open(&RunDir::open(path, Existing::Replace).unwrap_or_else(|_| unreachable!()), Durability::Flush)
    }

    fn reopen(path: &std::path::Path) -> Result<(Journal, Vec<Record>), JournalError> {
        Journal::open(&RunDir::open(path, Existing::Resume).unwrap(), Durability::Sync)
    }

    #[test]
    fn what_was_appended_is_read_back_and_numbering_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, records) = open(dir.path()).unwrap();
        assert!(records.is_empty());
        let written: Vec<_> = (0..3).map(|n| journal.append(n as f64 * 0.1, event(n)).unwrap()).collect();
        drop(journal);
        let (mut journal, records) = reopen(dir.path()).unwrap();
        assert_eq!(records, written);
        assert_eq!(journal.append(9.0, Event::PhaseStarted { phase: Phase::Selection }).unwrap().seq, 3);
    }

    #[test]
    fn a_line_torn_at_any_byte_costs_that_line_only() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path()).unwrap();
        for n in 0..3 {
            journal.append(0.0, event(n)).unwrap();
        }
        drop(journal);
        let file = dir.path().join(JOURNAL);
        let whole = std::fs::read(&file).unwrap();
        let last_start = whole[..whole.len() - 1].iter().rposition(|&b| b == b'\n').unwrap() + 1;
        for cut in last_start..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            let (mut journal, records) = reopen(dir.path()).unwrap();
            assert_eq!(records.len(), 2, "cut at {cut}");
            journal.append(0.0, event(7)).unwrap();
            drop(journal);
            let (_, records) = reopen(dir.path()).unwrap();
            assert_eq!(records.len(), 3, "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_before_the_last_line_is_damage_and_names_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path()).unwrap();
        for n in 0..3 {
            journal.append(0.0, event(n)).unwrap();
        }
        drop(journal);
        let file = dir.path().join(JOURNAL);
        let mut bytes = std::fs::read(&file).unwrap();
        let second = bytes.iter().position(|&b| b == b'\n').unwrap() + 5;
        bytes[second] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        assert!(matches!(reopen(dir.path()), Err(JournalError::Damaged { line: 2, .. })));
    }

    #[test]
    fn a_second_writer_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, _) = open(dir.path()).unwrap();
        assert!(matches!(reopen(dir.path()), Err(JournalError::Locked { .. })));
    }
}
