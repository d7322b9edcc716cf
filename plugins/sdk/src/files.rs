//! Files of the folders that the user granted, with `--selection-grant NAME=DIR` and its like, or under `grants` in the job.
//!
//! A plugin that uses this is loaded only where a folder is granted. It can read that folder and nothing else, and neither
//! links nor `..` lead out of it.
//!
//! ```
//! use sla_profiler_plugin::Error;
//! use sla_profiler_plugin::files::Folder;
//!
//! /// Price of a GPU for an hour, from a table with lines such as `h200_sxm,3.10`.
//! fn gpu_hour_price(gpu: &str) -> Result<f64, Error> {
//!     let table = Folder::granted("data").text("prices.csv")?;
//!     let mut rows = table.lines().filter_map(|line| line.split_once(','));
//!     let price = rows.find(|(name, _)| *name == gpu).and_then(|(_, price)| price.trim().parse().ok());
//!     price.ok_or_else(|| Error::Other(format!("prices.csv has no price of {gpu}")))
//! }
//!
//! // Here nothing is granted.
//! assert!(gpu_hour_price("h200_sxm").is_err());
//! ```
//!
//! On native targets nothing is granted, except for what a test grants itself with `testing::grant`.

use std::fmt;

use crate::Error;

/// A granted folder, by the name under which the plugin asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Folder<'a> {
    name: &'a str,
}

impl<'a> Folder<'a> {
    /// The folder that was granted under this name. Whether there is one shows when it is read.
    pub const fn granted(name: &'a str) -> Self {
        Self { name }
    }

    /// A regular file's whole content. `path` is relative to the folder, with `/` between its parts.
    ///
    /// # Errors
    /// [`Unread`], which says why; `?` makes an [`Error`] of it.
    pub fn read(self, path: &str) -> Result<Vec<u8>, Unread> {
        source::read(self.name, path).map_err(|reason| self.unread(path, reason))
    }

    /// The same as text.
    ///
    /// # Errors
    /// As [`Folder::read`], and for a file that is not UTF-8.
    pub fn text(self, path: &str) -> Result<String, Unread> {
        String::from_utf8(self.read(path)?).map_err(|_| self.unread(path, Reason::NotText))
    }

    /// Names of the regular files and, with a `/` at the end, of the folders in a folder, sorted; `""` is the granted folder.
    ///
    /// # Errors
    /// As [`Folder::read`].
    pub fn entries(self, path: &str) -> Result<Vec<String>, Unread> {
        source::entries(self.name, path).map_err(|reason| self.unread(path, reason))
    }

    fn unread(self, path: &str, reason: Reason) -> Unread {
        Unread { folder: self.name.to_owned(), path: path.to_owned(), reason }
    }
}

/// Something in a granted folder that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The folder's name.
    pub folder: String,
    /// The path in it.
    pub path: String,
    /// Why.
    pub reason: Reason,
}

/// Why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// No folder of that name was granted; the names that were.
    NotGranted(Vec<String>),
    /// It is not there.
    NotFound,
    /// The path leads out of the folder, or to something that is neither a regular file nor a folder.
    NotAllowed,
    /// A limit of one decision is met; which one.
    TooMuch(String),
    /// The file is not UTF-8.
    NotText,
    /// Anything else.
    Other(String),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, path, reason } = self;
        write!(f, "cannot read {path:?} in the folder `{folder}`: ")?;
        match reason {
            Reason::NotGranted(granted) => {
                let granted = if granted.is_empty() { "none".to_owned() } else { granted.join(", ") };
                write!(f, "no folder is granted under that name (granted: {granted}); ")?;
                write!(f, "grant it with `--selection-grant {folder}=DIR`, `--sweep-grant` or `--planner-grant`")
            }
            Reason::NotFound => f.write_str("there is no such file; put it there, or grant another folder"),
            Reason::NotAllowed => {
                f.write_str("the path leads out of the folder, or to what is no regular file or folder")
            }
            Reason::TooMuch(limit) => write!(f, "more than the limit `{limit}` lets a decision read"),
            Reason::NotText => f.write_str("it is not UTF-8"),
            Reason::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Unread {}

impl From<Unread> for Error {
    fn from(unread: Unread) -> Self {
        Error::Other(unread.to_string())
    }
}

/// The host.
#[cfg(target_family = "wasm")]
mod source {
    use super::Reason;
    use crate::bindings::files::sla_profiler::base::files::{self, FileError};

    pub(super) fn read(folder: &str, path: &str) -> Result<Vec<u8>, Reason> {
        files::read(folder, path).map_err(Reason::from)
    }

    pub(super) fn entries(folder: &str, path: &str) -> Result<Vec<String>, Reason> {
        files::entries(folder, path).map_err(Reason::from)
    }

    impl From<FileError> for Reason {
        fn from(error: FileError) -> Self {
            match error {
                FileError::NotGranted(granted) => Reason::NotGranted(granted),
                FileError::NotFound => Reason::NotFound,
                FileError::NotAllowed => Reason::NotAllowed,
                FileError::TooMuch(limit) => Reason::TooMuch(limit),
                FileError::Other(why) => Reason::Other(why),
            }
        }
    }
}

/// What a test granted, in its own thread.
#[cfg(not(target_family = "wasm"))]
pub(crate) mod source {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    use super::Reason;

    /// Files by their path.
    type Files = BTreeMap<String, Vec<u8>>;

    thread_local! {
        static GRANTED: RefCell<BTreeMap<String, Files>> = const { RefCell::new(BTreeMap::new()) };
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn grant(folder: &str, files: &[(&str, &str)]) {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_owned())).collect();
        GRANTED.with_borrow_mut(|granted| granted.insert(folder.to_owned(), files));
    }

    fn in_folder<T>(folder: &str, look: impl FnOnce(&Files) -> Result<T, Reason>) -> Result<T, Reason> {
        GRANTED.with_borrow(|granted| match granted.get(folder) {
            Some(files) => look(files),
            None => Err(Reason::NotGranted(granted.keys().cloned().collect())),
        })
    }

    pub(super) fn read(folder: &str, path: &str) -> Result<Vec<u8>, Reason> {
        in_folder(folder, |files| files.get(path).cloned().ok_or(Reason::NotFound))
    }

    pub(super) fn entries(folder: &str, path: &str) -> Result<Vec<String>, Reason> {
        let prefix = if path.is_empty() { String::new() } else { format!("{}/", path.trim_end_matches('/')) };
        in_folder(folder, |files| {
            let below = files.keys().filter_map(|file| file.strip_prefix(&prefix));
            let names: BTreeSet<String> = below
                .map(|rest| rest.split_once('/').map_or_else(|| rest.to_owned(), |(folder, _)| format!("{folder}/")))
                .collect();
            if names.is_empty() && !path.is_empty() { Err(Reason::NotFound) } else { Ok(names.into_iter().collect()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_test_reads_what_it_granted_itself() {
        testing::grant("data", &[("prices.csv", "h200_sxm,3.10\n"), ("old/2024.csv", "")]);
        let folder = Folder::granted("data");
        assert_eq!(folder.text("prices.csv").as_deref(), Ok("h200_sxm,3.10\n"));
        assert_eq!(folder.entries(""), Ok(vec!["old/".to_owned(), "prices.csv".to_owned()]));
        assert_eq!(folder.entries("old"), Ok(vec!["2024.csv".to_owned()]));
        assert_eq!(folder.read("none").map_err(|unread| unread.reason), Err(Reason::NotFound));
    }

    #[test]
    fn the_error_names_the_folder_the_file_and_the_way_out() {
        testing::grant("other", &[]);
        let Err(Error::Other(text)) = Folder::granted("data").text("prices.csv").map_err(Error::from) else {
            panic!("nothing is granted under that name")
        };
        for words in ["\"prices.csv\"", "`data`", "granted: other", "--selection-grant data=DIR"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
