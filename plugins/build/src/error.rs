//! Everything that can go wrong here. Written by hand: a derive would cost more to compile than the rest of the crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::{LINKER, TARGET};

/// Why a toolchain, a plugin or an environment could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A program could not be started at all.
    Start {
        /// The command line.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program ran and failed.
    Failed {
        /// The command line.
        command: String,
        /// Its exit status in words.
        status: String,
        /// The end of what it wrote to stderr; empty when that went to the terminal.
        stderr: String,
    },
    /// A program did not end in time and was killed.
    TimedOut {
        /// The command line.
        command: String,
        /// The time it had, in seconds.
        seconds: u64,
    },
    /// A file or folder could not be read, written or removed.
    File {
        /// What was being done, as in "write".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No compiler can build [`TARGET`].
    NoToolchain {
        /// What was tried, and why it did not serve.
        tried: Vec<String>,
    },
    /// cargo succeeded, but the file is not where it should be.
    NoArtifact {
        /// The package that was built.
        package: String,
        /// The file that was expected.
        path: PathBuf,
    },
    /// cargo wrote something that is not a component.
    NotAComponent {
        /// The package that was built.
        package: String,
        /// What the file is instead.
        found: &'static str,
    },
    /// A plugin's folder does not say how to build it, or cannot be made.
    Project {
        /// What is wrong, with its place, and the next step.
        reason: String,
    },
    /// The tools of a language cannot be had.
    Tools {
        /// What is missing, why, and the next step.
        reason: String,
    },
    /// Python, its `venv` module or a package is missing.
    Python {
        /// What is missing, why, and the next step.
        reason: String,
    },
}

impl Error {
    pub(crate) fn file<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::File { doing, path: path.to_owned(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { command, source } => write!(f, "could not start `{command}`: {source}"),
            Self::Failed { command, status, stderr } if stderr.is_empty() => write!(f, "`{command}` failed ({status})"),
            Self::Failed { command, status, stderr } => write!(f, "`{command}` failed ({status}): {stderr}"),
            Self::TimedOut { command, seconds } => {
                write!(f, "`{command}` did not end within {seconds} s and was killed")
            }
            Self::File { doing, path, source } => write!(f, "could not {doing} {}: {source}", path.display()),
            Self::NoToolchain { tried } => {
                writeln!(f, "no Rust compiler on this machine builds {TARGET}. Tried:")?;
                for reason in tried {
                    writeln!(f, "  - {reason}")?;
                }
                write!(
                    f,
                    "Next: `rustup target add {TARGET}` where static.rust-lang.org or a mirror can be reached, or on \
                     Debian, as root, `{}`; then run this again",
                    crate::debian::install_command(crate::toolchain::DEBIAN_PACKAGES)
                )
            }
            Self::NoArtifact { package, path } => write!(
                f,
                "cargo built `{package}` but wrote no {}; its Cargo.toml needs `crate-type = [\"cdylib\"]` and no \
                 `name` under [lib]",
                path.display()
            ),
            Self::NotAComponent { package, found } => write!(
                f,
                "`{package}` came out as {found}, not as a WebAssembly component; {TARGET} must be linked by {LINKER}"
            ),
            Self::Project { reason } | Self::Tools { reason } | Self::Python { reason } => f.write_str(reason),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { source, .. } | Self::File { source, .. } => Some(source),
            _ => None,
        }
    }
}
