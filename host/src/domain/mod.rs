//! What the profiler talks about: models, GPUs, mappings, measurements, decisions.
//!
//! Pure: nothing here knows of Wasm, Kubernetes, HTTP or the clock. Everything else may depend on this module; it
//! depends on nothing else of the crate (`tests/tests/layers.rs` keeps it so).
//!
//! Units stand in names: `_ms` milliseconds, `_s` seconds, `_bytes`, `_tokens`. A number that was not measured is
//! `None`, or NaN where a table has to stay rectangular.

pub mod candidate;
pub mod decision;
pub mod hardware;
pub mod job;
pub mod measurement;
pub mod memory;
pub mod model;
pub mod prior_table;

pub(crate) mod random;
pub mod roofline;
#[cfg(test)]
pub(crate) mod samples;
pub mod search_space;
pub mod stats;

pub use candidate::{Candidate, CandidateId, Mapping, Role};
pub use decision::{Choice, Chosen, CurveGoal, Demand, Goal, Plan, Selection, Step};
pub use hardware::{GpuSku, Hardware};
pub use job::{Backend, Job, Sla, Workload};
pub use measurement::{
    Aim, EngineFacts, Failure, FailureCause, FailureClass, History, KvSource, Measurement, Probe, Stat,
};
pub use model::{Dtype, Model, MoeShape};
