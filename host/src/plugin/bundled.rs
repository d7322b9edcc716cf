//! The plugins that came with this build.

/// One of them.
#[derive(Debug)]
pub struct Bundled {
    /// As in `--sweep NAME`.
    pub name: &'static str,
    /// The component.
    pub wasm: &'static [u8],
}

static TABLE: &[Bundled] = &[];

/// All of them.
pub fn all() -> &'static [Bundled] {
    TABLE
}

/// The one of that name.
pub fn find(name: &str) -> Option<&'static Bundled> {
    all().iter().find(|plugin| plugin.name == name)
}
