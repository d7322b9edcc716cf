//! Against NVIDIA's released packages (`tests/interop/requirements.txt`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failure is the message"
)]

mod dgdr;
mod profile_data;
