//! How whoever runs an engine tells that it is gone.

use tokio::sync::watch;

use crate::domain::FailureCause;

/// Why an engine is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Where it is known.
    pub cause: Option<FailureCause>,
    /// Exit code and last log lines, or the reason of the pod.
    pub reason: String,
}

impl<T: Into<String>> From<T> for Ended {
    /// Nobody knows the cause.
    fn from(reason: T) -> Self {
        Self { cause: None, reason: reason.into() }
    }
}

/// The end that whoever runs the engine holds.
#[derive(Debug)]
pub struct Keeper(watch::Sender<Option<Ended>>);

impl Keeper {
    /// The engine is gone for good, and why. The first word counts.
    pub fn ended(&self, reason: impl Into<Ended>) {
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(reason.into());
            }
            first
        });
    }
}

/// The end that waits and measures. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Liveness(watch::Receiver<Option<Ended>>);

impl Liveness {
    /// Both ends.
    pub fn new() -> (Keeper, Self) {
        let (sender, receiver) = watch::channel(None);
        (Keeper(sender), Self(receiver))
    }

    /// Why the engine is gone; `None` while it may live.
    pub fn reason(&self) -> Option<Ended> {
        self.0.borrow().clone()
    }

    /// Waits until the engine is gone and says why; for ever where nobody will know.
    pub async fn ended(&self) -> Ended {
        let mut receiver = self.0.clone();
        let reason = receiver.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // Nobody watches the engine any more; that does not end it.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_reason_counts_and_wakes_everybody() {
        let (keeper, liveness) = Liveness::new();
        assert_eq!(liveness.reason(), None);
        let waiting = tokio::spawn({
            let liveness = liveness.clone();
            async move { liveness.ended().await }
        });
        keeper.ended("exit code 3");
        keeper.ended("killed while being ended");
        assert_eq!(waiting.await.unwrap().reason, "exit code 3");
        assert_eq!(liveness.reason(), Some("exit code 3".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_nobody_watches_is_not_dead() {
        let (keeper, liveness) = Liveness::new();
        drop(keeper);
        assert!(tokio::time::timeout(Duration::from_secs(3600), liveness.ended()).await.is_err());
    }
}
