//! One request, with a deadline, again while its failure may pass.
//!
//! Kube's own client waits for an answer for ever and retries only what the server answered. Here every attempt has a
//! deadline, and refused connections (an API server that restarts) are retried too, until the patience is at an end.

use std::time::Duration;

use tokio::time::Instant;

use super::error::{Action, ClusterError};

/// How long one attempt may take; kube's retries after 429 and 503, which honour `Retry-After`, are part of it.
const ATTEMPT: Duration = Duration::from_secs(30);
/// First pause between attempts; doubled after each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// How long to go on trying while failures are of the kind that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience(pub Duration);

impl Patience {
    /// For what a run depends on: an API server may take minutes to come back.
    pub const LONG: Self = Self(Duration::from_secs(180));
    /// For what somebody waits for, and what may go missing.
    pub const SHORT: Self = Self(Duration::from_secs(10));
}

/// Does it, again while the failure may pass.
///
/// # Errors
/// The last failure.
pub async fn call<T, F>(
    action: &Action,
    server: &str,
    patience: Patience,
    mut attempt: impl FnMut() -> F,
) -> Result<T, ClusterError>
where
    F: Future<Output = kube::Result<T>>,
{
    let end = Instant::now() + patience.0;
    let mut pause = FIRST_PAUSE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let error = match tokio::time::timeout(ATTEMPT.min(left.max(FIRST_PAUSE)), attempt()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => ClusterError::of(action, server, &error),
            Err(_) => ClusterError::Timeout { action: action.clone(), within: patience.0 },
        };
        if !error.is_transient() || Instant::now() + pause >= end {
            return Err(error);
        }
        tracing::debug!("{error}; again in {} ms", pause.as_millis());
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
