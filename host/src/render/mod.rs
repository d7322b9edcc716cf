//! Contents of files and tables: pure functions from what a run knows to bytes and strings. Where they go is the
//! business of `phases` (the run directory) and `output` (the terminal).

pub mod certainty;
pub mod csv_table;
pub mod npz;
pub mod number;
pub mod plots;
pub mod result;
pub mod table;
