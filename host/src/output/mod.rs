//! What the terminal gets to see: progress, log lines, the summary at the end, errors and their exit codes.

pub mod error;
pub mod exit_code;
pub mod logging;
pub mod printer;
pub mod progress;
pub mod summary;
