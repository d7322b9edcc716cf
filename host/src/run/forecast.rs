//! How far a run is, from how long each phase was predicted to take.

use super::{Event, Phase, Record};

/// Predicted seconds of each phase, on the cluster's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Forecast {
    seconds: [f64; Phase::ALL.len()],
}

impl Forecast {
    /// Adds predicted seconds to a phase.
    pub fn add(&mut self, phase: Phase, seconds: f64) {
        if let Some(slot) = self.seconds.get_mut(phase as usize) {
            *slot += seconds.max(0.0);
        }
    }

    /// Predicted seconds of a phase.
    pub fn of(&self, phase: Phase) -> f64 {
        self.seconds.get(phase as usize).copied().unwrap_or(0.0)
    }

    /// Predicted seconds of the whole run.
    pub fn total_s(&self) -> f64 {
        self.seconds.iter().sum()
    }
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Finished part of the forecast, 0 to 1.
    pub fraction: f64,
    /// Seconds to go, on the cluster's clock; `None` before there is something to go by.
    pub eta_s: Option<f64>,
}

/// Follows a run's events and compares them with the forecast.
#[derive(Debug, Clone)]
pub struct Tracker {
    forecast: Forecast,
    phase: Option<Phase>,
    phase_started_s: f64,
    /// Predicted and real seconds of the phases that are over.
    done_predicted_s: f64,
    done_real_s: f64,
}

impl Tracker {
    /// Before the first event.
    pub const fn new(forecast: Forecast) -> Self {
        Self { forecast, phase: None, phase_started_s: 0.0, done_predicted_s: 0.0, done_real_s: 0.0 }
    }

    /// The phase that the run is in.
    pub const fn phase(&self) -> Option<Phase> {
        self.phase
    }

    /// Takes note of an event; says where the run stands after it.
    pub fn on(&mut self, record: &Record) -> Standing {
        match record.event {
            Event::PhaseStarted { phase } => {
                self.phase = Some(phase);
                self.phase_started_s = record.at_s;
            }
            Event::PhaseFinished { phase, .. } => {
                self.done_predicted_s += self.forecast.of(phase);
                self.done_real_s += record.at_s - self.phase_started_s;
                self.phase = None;
            }
            _ => {}
        }
        self.standing(record.at_s)
    }

    fn standing(&self, now_s: f64) -> Standing {
        let total_s = self.forecast.total_s();
        if total_s <= 0.0 {
            return Standing { fraction: 0.0, eta_s: None };
        }
        let phase_predicted_s = self.phase.map_or(0.0, |phase| self.forecast.of(phase));
        let elapsed_s = self.phase.map_or(0.0, |_| now_s - self.phase_started_s);
        // A phase that outlasts its forecast creeps towards its end instead of passing it.
        let in_phase_s = if elapsed_s <= 0.9 * phase_predicted_s {
            elapsed_s
        } else {
            let over_s = elapsed_s - 0.9 * phase_predicted_s;
            phase_predicted_s * (0.9 + 0.1 * over_s / (over_s + phase_predicted_s.max(1e-9)))
        };
        let done_s = self.done_predicted_s + in_phase_s;
        let pace = if self.done_predicted_s > 0.0 { self.done_real_s / self.done_predicted_s } else { 1.0 };
        let eta_s = (total_s - done_s).max(0.0) * pace;
        Standing { fraction: (done_s / total_s).clamp(0.0, 1.0), eta_s: Some(eta_s) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at_s: f64, event: Event) -> Record {
        Record { seq: 0, at_s, event }
    }

    #[test]
    fn fraction_rises_to_one_and_the_eta_learns_the_pace() {
        let mut forecast = Forecast::default();
        forecast.add(Phase::PrefillSweep, 100.0);
        forecast.add(Phase::DecodeSweep, 300.0);
        let mut tracker = Tracker::new(forecast);
        tracker.on(&at(0.0, Event::PhaseStarted { phase: Phase::PrefillSweep }));
        let half = tracker.on(&at(50.0, Event::Wrote { path: String::new() }));
        assert!((half.fraction - 0.125).abs() < 1e-9);
        assert_eq!(half.eta_s, Some(350.0));
        // It took twice as long as predicted, so the rest probably will too.
        let late = tracker.on(&at(200.0, Event::PhaseFinished { phase: Phase::PrefillSweep, summary: String::new() }));
        assert!((late.fraction - 0.25).abs() < 1e-9);
        assert_eq!(late.eta_s, Some(600.0));
        tracker.on(&at(200.0, Event::PhaseStarted { phase: Phase::DecodeSweep }));
        let mut last = 0.25;
        for t in [300.0, 500.0, 900.0, 9000.0] {
            let now = tracker.on(&at(t, Event::Wrote { path: String::new() })).fraction;
            assert!(now > last && now < 1.0, "{now} after {last}");
            last = now;
        }
        let end = tracker.on(&at(9001.0, Event::PhaseFinished { phase: Phase::DecodeSweep, summary: String::new() }));
        assert_eq!(end.fraction, 1.0);
    }

    #[test]
    fn without_a_forecast_nothing_is_claimed() {
        let standing = Tracker::new(Forecast::default()).on(&at(5.0, Event::Wrote { path: String::new() }));
        assert_eq!(standing, Standing { fraction: 0.0, eta_s: None });
    }
}
