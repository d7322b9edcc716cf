//! What an engine says of itself while it is measured.

use std::time::Duration;

use tokio::time::sleep;

use super::Served;
use super::metrics::Look;

/// Between two looks. Short points need the first one early; a look costs the engine some milliseconds of a CPU core,
/// so that long ones are left in peace.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LONGEST_BETWEEN: Duration = Duration::from_secs(1);

/// Looks at one point.
#[derive(Debug, Default)]
pub(super) struct Looks(Vec<Look>);

impl Looks {
    pub(super) fn push(&mut self, look: Look) {
        self.0.push(look);
    }

    /// Mean of requests that ran and of KV usage while the load was on: looks with less than half of the most requests
    /// seen are of warming up, filling and draining, and are left out.
    pub(super) fn under_load(&self) -> (Option<f64>, Option<f64>) {
        let most = self.0.iter().filter_map(|look| look.running).fold(0.0, f64::max);
        let loaded: Vec<&Look> = self
            .0
            .iter()
            .filter(|look| look.running.is_none_or(|running| running > 0.0 && running >= most / 2.0))
            .collect();
        let mean = |of: fn(&Look) -> Option<f64>| {
            let values: Vec<f64> = loaded.iter().filter_map(|look| of(look)).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        (mean(|look| look.running), mean(|look| look.kv_usage))
    }
}

impl Served {
    /// Looks until it is dropped. An engine that is too busy to answer, or has no metrics, is measured all the same.
    pub(super) async fn watch(&self, looks: &mut Looks) {
        let mut pause = FIRST_LOOK;
        loop {
            if self.is_silent() {
                return std::future::pending().await;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_BETWEEN);
            if let Ok(look) = self.look().await {
                looks.push(look);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(running: f64, kv_usage: f64) -> Look {
        Look { running: Some(running), kv_usage: Some(kv_usage), ..Look::default() }
    }

    #[test]
    fn ramps_are_left_out_and_the_rest_is_averaged() {
        let looks = Looks(vec![look(0.0, 0.0), look(10.0, 0.01), look(60.0, 0.3), look(64.0, 0.5), look(3.0, 0.1)]);
        let (running, usage) = looks.under_load();
        assert_eq!(running, Some(62.0));
        assert!((usage.unwrap() - 0.4).abs() < 1e-9);
    }

    #[test]
    fn an_engine_that_says_nothing_gives_nothing() {
        assert_eq!(Looks::default().under_load(), (None, None));
        assert_eq!(Looks(vec![Look::default()]).under_load(), (None, None));
        assert_eq!(Looks(vec![look(0.0, 0.2)]).under_load(), (None, None), "idle");
    }
}
