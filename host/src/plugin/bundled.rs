//! The plugins that this binary carries. They go through the same loader and limits as a stranger's.

/// A component that was embedded when the program was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bundled {
    /// What `--sweep`, `--selection` and `--planner` call it, as in `sweep-grid`.
    pub name: &'static str,
    /// The component.
    pub wasm: &'static [u8],
}

/// Written by `build.rs`, in the order of the names.
static ALL: &[Bundled] = include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// All of them; none when the program was built before `cargo xtask plugins`.
#[must_use]
pub fn all() -> &'static [Bundled] {
    ALL
}

/// The one of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Bundled> {
    ALL.iter().find(|bundled| bundled.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bundled_plugin_is_a_component_and_found_by_its_name() {
        for bundled in all() {
            assert_eq!(bundled.wasm.get(..8), Some(&b"\0asm\x0d\0\x01\0"[..]), "{}", bundled.name);
            assert_eq!(find(bundled.name), Some(bundled));
        }
        assert_eq!(find("no such plugin"), None);
    }

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(all().is_sorted_by(|a, b| a.name < b.name));
    }
}
