//! What a run leaves behind and shows: pure functions from domain data to bytes and strings.

pub mod csv_table;
pub mod npz;
pub mod number;
pub mod plots;
pub mod table;
