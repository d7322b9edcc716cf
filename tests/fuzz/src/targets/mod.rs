//! One file per target.

mod answers;
mod layout;
mod loader;

use crate::Target;

/// All targets, in the order in which they run.
pub const ALL: &[&Target] = &[&loader::TARGET, &answers::SWEEP, &answers::SELECTION, &answers::PLANNER];
