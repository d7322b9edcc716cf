//! Policies as sandboxed WebAssembly components.
//!
//! ```text
//! PluginChoice -> host::PluginHost -> loader: surface -> compile (cache) -> link -> trial `describe`
//!                      |
//!                      '-> adapters (the traits of `api`)
//!                              per decision: guest (store, limits, log) -> convert -> component -> convert, checked
//! ```
//!
//! `engine` is the only place that configures wasmtime, `bindings` the only `bindgen!`, `convert` the only conversions,
//! `limits` the only defaults. A plugin that comes with the program goes the same way as a stranger's. Why two meters,
//! and why guests keep nothing: `host/docs/`.

mod adapters;
pub mod api;
mod bindings;
pub mod bundled;
pub(crate) mod compile;
mod contract;
mod convert;
mod engine;
mod error;
mod grants;
mod guest;
mod host;
mod limits;
mod loader;
pub mod store;
mod surface;
mod text;

pub use compile::{CompileLimit, Compiler, default_cache_dir};
pub use contract::VERSION as CONTRACT_VERSION;
pub use error::{CallProblem, LoadProblem, Origin, PluginError, Problem, Returned, Subject};
pub use host::{HostOptions, Inspection, Interface, Listed, Plugin, PluginHost, default_choice};
pub use limits::Limits;
pub use loader::sha256;
