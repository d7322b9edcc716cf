//! What the tests of this package share.

pub mod fixtures;
pub mod guests;
