//! What a plugin says of itself.

/// A setting that the user may give, as `--sweep-setting name=value` and its like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Lower case, words joined by dashes.
    pub name: String,
    /// What applies when the user says nothing; [`Settings`](crate::Settings) reads it from here.
    pub default: String,
    /// One line for the user.
    pub help: String,
}

/// Who the plugin is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Short name, as in `--selection NAME`: lower case, digits and dashes.
    pub name: String,
    /// `env!("CARGO_PKG_VERSION")` is a good choice.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// All that it understands; the host refuses others before the run starts.
    pub settings: Vec<Setting>,
}

impl About {
    /// A plugin without settings.
    pub fn new(name: &str, version: &str, summary: &str) -> Self {
        Self { name: name.into(), version: version.into(), summary: summary.into(), settings: Vec::new() }
    }

    /// With one more setting.
    #[must_use]
    pub fn setting(mut self, name: &str, default: &str, help: &str) -> Self {
        self.settings.push(Setting { name: name.into(), default: default.into(), help: help.into() });
        self
    }
}
