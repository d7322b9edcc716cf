//! Lines for the run's log. The host cuts a line at 400 characters, counts lines, and drops those past its limit.
//!
//! On native targets lines go nowhere: a test looks at what a policy decides.

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For the plugin's author.
    Debug,
    /// For the user.
    Info,
    /// Something is odd but the answer stands.
    Warn,
    /// Why there is no answer.
    Error,
}

/// Writes a line.
pub fn write(level: Level, message: &str) {
    #[cfg(target_family = "wasm")]
    {
        use crate::bindings::base::sla_profiler::base::log;
        let level = match level {
            Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        log::write(level, message);
    }
    #[cfg(not(target_family = "wasm"))]
    let _ = (level, message);
}

/// [`write`] at [`Level::Debug`].
pub fn debug(message: &str) {
    write(Level::Debug, message);
}

/// [`write`] at [`Level::Info`].
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// [`write`] at [`Level::Warn`].
pub fn warn(message: &str) {
    write(Level::Warn, message);
}

/// [`write`] at [`Level::Error`].
pub fn error(message: &str) {
    write(Level::Error, message);
}
