//! What people and programs get to see: terminal, tables, plots, files' contents, errors, exit codes.

pub mod error;
pub mod exit_code;
pub mod logging;
pub mod printer;
pub mod progress;
pub mod result;
pub mod summary;
