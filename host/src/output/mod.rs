//! What people and programs get to see: terminal, tables, pictures, contents of files, errors, exit codes.

pub mod csv_table;
pub mod error;
pub mod exit_code;
pub mod logging;
pub mod npz;
pub mod number;
pub mod plots;
pub mod printer;
pub mod progress;
pub mod result;
pub mod summary;
pub mod table;
