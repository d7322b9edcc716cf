//! Policies as sandboxed WebAssembly components.

pub mod api;
pub mod bundled;

/// What can go wrong with a plugin. Always names the plugin; see `error.rs`.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// Placeholder until the loader exists.
    #[error("{0}")]
    Other(String),
}
