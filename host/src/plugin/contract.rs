//! Names and versions of the contract, as they stand in a component's imports and exports.

use super::api::Kind;

/// The version of `wit/` that this program speaks.
pub const VERSION: &str = "0.1.0";

/// The interface that every plugin exports besides the one of its kind.
pub(super) const ABOUT: &str = "sla-profiler:base/about";

/// Writes to the run's log; every plugin may.
pub(super) const LOG: (&str, &[&str]) = ("sla-profiler:base/log", &["write"]);

/// Reads granted folders; a plugin may where the user grants one.
pub(super) const FILES: (&str, &[&str]) = ("sla-profiler:base/files", &["read", "entries"]);

/// The interfaces with functions that a plugin may import, and their functions.
pub(super) const IMPORTS: [(&str, &[&str]); 2] = [LOG, FILES];

/// What all our interfaces' names begin with.
pub(super) const NAMESPACE: &str = "sla-profiler:";

/// The interface that makes a component a plugin of the kind.
pub(super) const fn interface(kind: Kind) -> &'static str {
    match kind {
        Kind::SweepStrategy => "sla-profiler:sweep/strategy",
        Kind::SelectionPolicy => "sla-profiler:selection/policy",
        Kind::PlannerModel => "sla-profiler:planner/model",
    }
}

/// Splits `sla-profiler:sweep/strategy@0.1.0` at the `@`; the version is empty where there is none.
pub(super) fn split_version(name: &str) -> (&str, &str) {
    name.split_once('@').unwrap_or((name, ""))
}

/// Whether a plugin that was built against the version works with this program: the same major version, and below 1.0
/// the same minor version. Pre-releases never match. This is wasmtime's own rule when it links.
pub(super) fn is_compatible(version: &str) -> bool {
    match (numbers(version), numbers(VERSION)) {
        (Some((0, minor, _)), Some((0, ours, _))) => minor == ours,
        (Some((major, ..)), Some((ours, ..))) => major == ours && major > 0,
        _ => false,
    }
}

/// `major.minor.patch`; nothing where it is anything else.
fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let found = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_compatible_and_minors_are_not() {
        for version in ["0.1.0", "0.1.1", "0.1.20"] {
            assert!(is_compatible(version), "{version}");
        }
        for version in ["0.2.0", "0.0.1", "1.0.0", "1.1.0", "0.1.0-rc.1", "0.1", "0.1.0.0", "", "a.b.c"] {
            assert!(!is_compatible(version), "{version}");
        }
    }

    #[test]
    fn the_generated_bindings_speak_the_version_that_messages_name() {
        let world = include_str!("../../../wit/world.wit");
        for name in Kind::ALL.map(interface).into_iter().chain([ABOUT, LOG.0, FILES.0]) {
            assert!(world.contains(&format!("{name}@{VERSION}")), "{name}");
        }
    }
}
