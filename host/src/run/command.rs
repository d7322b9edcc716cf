//! `command.json`: how a run was started, so that it can go on without anybody remembering.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::dir::{DirError, RunDir};

/// The file's name.
pub const COMMAND: &str = "command.json";

/// How a run was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Version of the program.
    pub version: String,
    /// The words after the program's name.
    pub arguments: Vec<String>,
    /// Where it was started; relative paths are relative to it.
    pub folder: PathBuf,
    /// What it read from standard input, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_input: Option<String>,
}

/// A run's command cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The file cannot be read.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// It is not one of ours.
    #[error("{path} does not say how the run was started: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl Command {
    /// This process's own. Words that are not UTF-8 cannot be kept.
    pub fn of_this_process(arguments: Vec<std::ffi::OsString>, standard_input: Option<String>) -> Option<Self> {
        let words = arguments.into_iter().skip(1).map(|word| word.into_string().ok());
        Some(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            arguments: words.collect::<Option<_>>()?,
            folder: std::env::current_dir().ok()?,
            standard_input,
        })
    }

    /// Writes it into a run directory.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn write(&self, dir: &RunDir) -> Result<(), DirError> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| dir.file_error("write", COMMAND, error.into()))?;
        dir.write(COMMAND, &json)
    }

    /// Reads it from a run directory.
    ///
    /// # Errors
    /// If it is not there, or not one of ours.
    pub fn read(dir: &RunDir) -> Result<Self, CommandError> {
        let bytes = dir.read(COMMAND)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| CommandError::Unreadable { path: dir.path().join(COMMAND), reason: error.to_string() })
    }
}
