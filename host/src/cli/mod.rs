//! cli

pub mod plugin;
