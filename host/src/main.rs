//! The binary: parse, set up, run, map the error to an exit code.

fn main() {}
