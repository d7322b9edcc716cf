//! SLA profiler: finds the prefill and decode configuration that meets an SLA at the least cost, by measuring.
//!
//! `README.md` beside this crate is the tour. The arrow of dependency: `domain` <- {`plugin`, `engine`, `backends`} <-
//! `scheduler` <- `phases` <- `cli`.

pub mod backends;
pub mod cli;
pub mod conformance;
pub mod dgd;
pub mod domain;
pub mod engine;
pub mod http;
pub mod kubernetes;
pub mod load;
pub mod output;
pub mod phases;
pub mod plugin;
pub mod process;
pub mod render;
pub mod replay;
pub mod run;
pub mod scheduler;
pub mod spec;
pub mod telemetry;
