//! How whoever runs an engine tells that it is gone.

use tokio::sync::watch;

/// The end that whoever runs the engine holds.
#[derive(Debug)]
pub struct Keeper(watch::Sender<Option<String>>);

impl Keeper {
    /// The engine is gone for good, and why: exit code and last log lines, or the reason of the pod. The first word
    /// counts.
    pub fn ended(&self, reason: impl Into<String>) {
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
pub struct Liveness(watch::Receiver<Option<String>>);

impl Liveness {
    /// Both ends.
    pub fn new() -> (Keeper, Self) {
        let (sender, receiver) = watch::channel(None);
        (Keeper(sender), Self(receiver))
    }

    /// Why the engine is gone; `None` while it may live.
    pub fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Waits until the engine is gone and says why; for ever where nobody will know.
    pub async fn ended(&self) -> String {
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
        assert_eq!(waiting.await.unwrap(), "exit code 3");
        assert_eq!(liveness.reason().as_deref(), Some("exit code 3"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_nobody_watches_is_not_dead() {
        let (keeper, liveness) = Liveness::new();
        drop(keeper);
        assert!(tokio::time::timeout(Duration::from_secs(3600), liveness.ended()).await.is_err());
    }
}
