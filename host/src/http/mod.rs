//! HTTP/1.1 to engines: completions, model lists, metrics. Every wait has a deadline.
//!
//! [`Client::connect`] gives the bare connection to whoever times bytes; [`Client::get`] and [`Client::post_json`] are
//! for everything else, and [`Client::open`] for a body that is read piece by piece.

mod connect;
mod origin;
mod request;

use std::path::PathBuf;
use std::time::Duration;

pub use connect::{Client, Stream};
pub use hyper::Method;
pub use origin::Origin;
pub use request::{Ask, Body, Response};

/// How to connect.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// TCP and TLS handshakes, together.
    pub connect_deadline: Duration,
    /// Certificates (PEM) that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { connect_deadline: Duration::from_secs(10), ca_file: None }
    }
}

/// What went wrong between us and a server.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HttpError {
    /// The URL is none.
    #[error("`{url}` is no URL of an HTTP server: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file of certificates is no good.
    #[error("certificates from {path}: {reason}")]
    Certificates {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody listens, or the name is unknown.
    #[error("could not connect to {origin}: {reason}")]
    Connect {
        /// `http://host:port`
        origin: String,
        /// What the system said.
        reason: String,
    },
    /// The other side is not who it should be, or does not speak TLS.
    #[error("no TLS connection with {origin}: {reason}")]
    Tls {
        /// `https://host:port`
        origin: String,
        /// What TLS said.
        reason: String,
    },
    /// It took too long.
    #[error("{what} of {origin} took longer than {seconds} s")]
    Deadline {
        /// `connecting`, `the answer`, …
        what: &'static str,
        /// `http://host:port`
        origin: String,
        /// The deadline.
        seconds: f64,
    },
    /// The connection ended or was no HTTP.
    #[error("the connection with {origin} broke: {reason}")]
    Broken {
        /// `http://host:port`
        origin: String,
        /// What happened.
        reason: String,
    },
    /// More than anybody expects.
    #[error("the answer of {origin} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// `http://host:port`
        origin: String,
        /// The limit.
        limit_bytes: usize,
    },
}
