//! A run on disk: its directory, its journal, and what is made from the journal while it grows.

pub mod command;
pub mod dir;
pub mod event;
pub mod forecast;
pub mod journal;
pub mod recorder;
pub mod reuse;
pub mod status;
pub mod timeline;

pub use dir::{DirError, Existing, RunDir};
pub use event::{Decision, Event, Phase, Record, RecordedChoice, Retry, RunStarted};
pub use journal::{Durability, JOURNAL, Journal, JournalError};
pub use recorder::{Observer, Recorder};
