//! Against NVIDIA's released packages (`tests/interop/requirements.txt`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failure is the message"
)]

mod dgdr;
#[cfg(target_os = "linux")]
mod mocker;
mod profile_data;
