//! One file per target.

mod answers;
mod inputs;
mod layout;
mod loader;

use crate::Target;

/// All targets, in the order in which they run.
pub const ALL: &[&Target] = &[
    &loader::TARGET,
    &answers::SWEEP,
    &answers::SELECTION,
    &answers::PLANNER,
    &inputs::DGDR,
    &inputs::JOURNAL,
    &inputs::LOGS,
    &inputs::STREAM,
    &inputs::RECORDS,
];
