//! Who sends requests to a real engine and takes the time. Engines know this trait; each generator is a folder.
//!
//! ```text
//! Endpoint + Point --measure--> LoadReport   figures with interval and count, health of the client, every sample
//!                       '-----> LoadError    why there are no figures
//! ```

pub mod aiperf;
pub mod builtin;
mod point;
mod report;
pub mod steady;
pub mod stopping;

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;

pub use point::{Point, Prompts, Traffic, Watch};
pub use report::{ClientHealth, Estimate, Figure, LoadReport, RequestSample};
pub use stopping::Stopped;

/// An OpenAI-compatible server.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// `http://host:port` or `https://…`, without `/v1` and without a slash at the end.
    pub url: String,
    /// The name under which the server knows the model.
    pub model: String,
    /// The model's `tokenizer.json`, or the folder that holds it; absent where there is none at hand.
    pub tokenizer: Option<PathBuf>,
    /// Sent as `Authorization: Bearer …`.
    pub api_key: Option<ApiKey>,
}

impl Endpoint {
    /// A server without key and tokenizer.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        Self { url: url.into(), model: model.into(), tokenizer: None, api_key: None }
    }
}

/// A secret: it has no `Display` and is not serialised, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Surrounding white space, as files have it, is dropped.
    pub fn new(key: &str) -> Self {
        Self(key.trim().to_owned())
    }

    /// For the request's header, and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}

/// Sends requests and takes the time.
#[async_trait]
pub trait LoadGenerator: Send + Sync {
    /// `builtin`, `aiperf`; for messages and provenance.
    fn name(&self) -> &'static str;

    /// Measures one point. Dropping the future ends all requests.
    ///
    /// # Errors
    /// See [`LoadError`]; never takes much longer than the point's deadline.
    async fn measure(&self, endpoint: &Endpoint, point: &Point) -> Result<LoadReport, LoadError>;
}

/// Why a point has no figures.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Nobody answers.
    #[error("{url} does not answer: {reason}")]
    Unreachable {
        /// Which server.
        url: String,
        /// What the connection said.
        reason: String,
    },
    /// The server answers with an error.
    #[error("{url} refused the request with status {status}: {body}")]
    Refused {
        /// Which server.
        url: String,
        /// HTTP status.
        status: u16,
        /// The start of what it said.
        body: String,
    },
    /// Too many requests failed.
    #[error("{failed} of {sent} requests failed, first: {first}")]
    Failures {
        /// How many.
        failed: u32,
        /// Of how many.
        sent: u32,
        /// What the first one said.
        first: String,
    },
    /// The client could not keep up, so the figures are its own, not the engine's.
    #[error("the load generator was the bottleneck: {reason}")]
    ClientBound {
        /// Which limit, and how far beyond it.
        reason: String,
        /// The figures, for whoever wants to see how bad it was.
        report: Box<LoadReport>,
    },
    /// The point's deadline passed.
    #[error("not done after {deadline_s} s: {progress}")]
    Deadline {
        /// The deadline.
        deadline_s: f64,
        /// How far it came.
        progress: String,
    },
    /// The generator cannot work: no tokenizer, no `aiperf`, ….
    #[error("{0}")]
    Setup(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_printed() {
        let endpoint = Endpoint { api_key: Some(ApiKey::new(" secret-42\n")), ..Endpoint::new("http://x", "m") };
        assert!(!format!("{endpoint:?}").contains("secret"));
        assert_eq!(endpoint.api_key.unwrap().expose(), "secret-42");
    }
}
