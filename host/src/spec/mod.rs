//! DGDR in, checked job out.
//!
//! ```text
//! file | stdin | inline ──► document   text to a tree in which every value knows its line
//!                              │
//!                     v1alpha1 │ v1beta1   reader: the tree to typed fields; unknown ones are errors
//!                              ▼
//!   flags ──────────────►  resolve  ◄── defaults.yaml, catalog, config.json
//!                              ▼
//!                          RunSpec + where each value came from
//! ```
//!
//! Precedence: flag, then file, then default. No input is guessed at: what is not understood is an error with its
//! place, and what is understood but has no effect here is a warning.

mod catalog;
mod check;
mod defaults;
mod document;
mod engines;
mod error;
mod flags;
mod model_config;
mod names;
mod priors;
mod profiler;
mod reader;
mod request;
mod resolve;
mod run_spec;
mod schema;
mod source;
mod v1alpha1;
mod v1beta1;

pub use catalog::{Catalog, find_gpu, find_model};
pub use engines::{EngineFlags, EngineTemplate, EnginesSpec, LoadClients, LoadKind, LocalSpec, ProcessTemplate, Words};
pub use error::{ErrorKind, Place, SpecError};
pub use flags::{Flags, key_value};
pub use model_config::read_model_config;
pub use names::{LONGEST_COMPONENT, MAX_POD_NAME};
pub use resolve::{Origin, OriginEntry, Peek, Resolved, load, load_on, peek, plugin_source};
pub use run_spec::*;
pub use schema::dgdr_schema;
pub use source::Source;
pub use v1beta1::BackendChoice;
