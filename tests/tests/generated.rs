//! Files that are made by the program and committed are what the program makes. `cargo xtask generate` makes them anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use sla_profiler::cli::config::SchemaOf;
use sla_profiler_tests::{golden, root};

#[test]
fn every_published_schema_is_the_generated_one() {
    let schemas = [("dgdr", SchemaOf::Dgdr), ("result", SchemaOf::Result), ("journal", SchemaOf::Journal)];
    for (name, of) in schemas {
        golden(&root().join(format!("host/schema/{name}.schema.json")), &format!("{:#}\n", of.schema()));
    }
}

#[test]
fn every_schema_that_is_published_is_generated() {
    let committed = std::fs::read_dir(root().join("host/schema")).unwrap().count();
    assert_eq!(committed, 3);
}
