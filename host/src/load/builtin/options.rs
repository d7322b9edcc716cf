//! How the generator behaves, whatever the point.

use std::path::PathBuf;
use std::time::Duration;

/// Which of OpenAI's interfaces is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Api {
    /// `/v1/completions`: the prompt is what was asked for, to the token.
    Completions,
    /// `/v1/chat/completions`: the server wraps the prompt in the model's template, whose tokens are part of the length.
    #[default]
    Chat,
}

impl Api {
    /// Below the endpoint's URL.
    pub const fn path(self) -> &'static str {
        match self {
            Api::Completions => "/v1/completions",
            Api::Chat => "/v1/chat/completions",
        }
    }
}

/// Settings of [`super::Builtin`].
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Which interface.
    pub api: Api,
    /// Certificates (PEM) that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// TCP and TLS handshakes, together.
    pub connect_deadline: Duration,
    /// From sending to the last byte.
    pub request_deadline: Duration,
    /// How large the client's own share of a latency may be before it counts as the bottleneck, as a fraction. From 1
    /// on nothing is judged.
    pub max_client_share: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            api: Api::default(),
            ca_file: None,
            connect_deadline: Duration::from_secs(10),
            request_deadline: Duration::from_secs(600),
            max_client_share: 0.01,
        }
    }
}
