//! What happened in equal slices of time, over all requests: the basis of intervals that know how requests depend on
//! each other. All that run at once share the engine's steps, so a hundred of them say little more than one about the
//! next second; batches of consecutive slices do not overlap.

use std::time::Instant;

use crate::domain::stats::{self, MIN_SAMPLES, Sequential};
use crate::load::Estimate;

/// Width of a slice.
const SLICE_S: f64 = 0.02;

/// Batches of slices.
const BATCHES: usize = 20;

/// What one slice saw.
#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    /// Sum of the gaps that ended here.
    gap_s: f64,
    /// Pieces with text at the ends of those gaps.
    gaps: f64,
    /// All pieces with text.
    pieces: f64,
    /// Requests in flight, times seconds.
    in_flight_s: f64,
    /// Requests that were completed.
    completed: f64,
}

/// Slices since a moment.
#[derive(Debug)]
pub(super) struct Slices {
    epoch: Instant,
    slices: Vec<Slice>,
    in_flight: f64,
    /// Up to when requests in flight are accounted for.
    until_s: f64,
}

impl Slices {
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch, slices: Vec::new(), in_flight: 0.0, until_s: 0.0 }
    }

    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.epoch).as_secs_f64()
    }

    fn at(&mut self, seconds: f64) -> Option<&mut Slice> {
        self.slice((seconds / SLICE_S) as usize)
    }

    fn slice(&mut self, index: usize) -> Option<&mut Slice> {
        if index >= self.slices.len() {
            self.slices.resize(index + 1, Slice::default());
        }
        self.slices.get_mut(index)
    }

    /// Pieces with text that came at the same time, the gap before them if it counts.
    pub(super) fn pieces(&mut self, now: Instant, count: u32, gap_s: Option<f64>) {
        let seconds = self.seconds(now);
        if let Some(slice) = self.at(seconds) {
            slice.pieces += f64::from(count);
            if let Some(gap_s) = gap_s {
                slice.gap_s += gap_s;
                slice.gaps += f64::from(count);
            }
        }
    }

    /// A request was sent (+1) or ended (−1).
    pub(super) fn in_flight(&mut self, now: Instant, change: f64, completed: bool) {
        self.account(now);
        self.in_flight += change;
        if completed {
            let seconds = self.seconds(now);
            if let Some(slice) = self.at(seconds) {
                slice.completed += 1.0;
            }
        }
    }

    /// Spreads the requests in flight over the slices up to now.
    fn account(&mut self, now: Instant) {
        let now_s = self.seconds(now);
        let in_flight = self.in_flight;
        while self.until_s < now_s {
            // A border of slices, divided by their width, may come out just below its number.
            let index = (self.until_s / SLICE_S + 1e-6).floor();
            let end = ((index + 1.0) * SLICE_S).min(now_s);
            let seconds = end - self.until_s;
            if let Some(slice) = self.slice(index as usize) {
                slice.in_flight_s += in_flight * seconds;
            }
            self.until_s = end;
        }
    }

    /// Whole slices between two moments, and what they are worth in seconds.
    fn within(&self, from: Instant, to: Instant) -> &[Slice] {
        let first = (self.seconds(from) / SLICE_S).ceil() as usize;
        let last = ((self.seconds(to) / SLICE_S) as usize).min(self.slices.len());
        self.slices.get(first..last.max(first)).unwrap_or_default()
    }

    /// Slices of which any part lies between two moments.
    fn touching(&self, from: Instant, to: Instant) -> &[Slice] {
        let first = (self.seconds(from) / SLICE_S) as usize;
        let last = ((self.seconds(to) / SLICE_S) as usize + 1).min(self.slices.len());
        self.slices.get(first..last.max(first)).unwrap_or_default()
    }

    /// Half width of the 95 % interval of the mean gap per piece, as a fraction of it, by batch means of ratios; how
    /// many gaps are behind it. `None` with too few slices to tell.
    pub(super) fn gap_precision(&self, from: Instant, to: Instant) -> Option<(f64, usize)> {
        let slices = self.within(from, to);
        let batch = slices.len().div_ceil(BATCHES).max(1);
        let ratios: Vec<f64> = slices
            .chunks_exact(batch)
            .filter_map(|batch| {
                let gaps: f64 = batch.iter().map(|s| s.gaps).sum();
                (gaps > 0.0).then(|| batch.iter().map(|s| s.gap_s).sum::<f64>() / gaps)
            })
            .collect();
        if ratios.len() < MIN_SAMPLES {
            return None;
        }
        let (low, high) = stats::mean_interval(&ratios)?;
        let gaps = slices.iter().map(|s| s.gaps).sum::<f64>();
        Some(((high - low) / (high + low), gaps as usize))
    }

    /// Pieces per second, requests in flight and completed requests per second between two moments.
    pub(super) fn rates(&mut self, from: Instant, to: Instant) -> Rates {
        self.account(to);
        let seconds = to.saturating_duration_since(from).as_secs_f64();
        let slices = self.within(from, to);
        let estimate = |what: fn(&Slice) -> f64| {
            let mut sequence = Sequential::dependent();
            slices.iter().for_each(|s| sequence.push(what(s) / SLICE_S));
            let value = match stats::mean(sequence.samples()) {
                Some(mean) if sequence.len() >= MIN_SAMPLES => mean,
                // Too short for whole slices: all that the window touches.
                _ => self.touching(from, to).iter().map(what).sum::<f64>() / seconds.max(SLICE_S / 2.0),
            };
            let (ci_low, ci_high) = match sequence.interval() {
                Some(interval) if sequence.len() >= MIN_SAMPLES => interval,
                _ => (0.0, 2.0 * value),
            };
            Estimate {
                value,
                ci_low: ci_low.max(0.0),
                ci_high,
                samples: u32::try_from(slices.len()).unwrap_or(u32::MAX),
            }
        };
        Rates {
            seconds,
            pieces_per_second: estimate(|s| s.pieces),
            in_flight: estimate(|s| s.in_flight_s),
            completed_per_second: estimate(|s| s.completed),
        }
    }
}

/// Means over a window, by slices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    pub(super) seconds: f64,
    pub(super) pieces_per_second: Estimate,
    pub(super) in_flight: Estimate,
    pub(super) completed_per_second: Estimate,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_and_gaps_are_those_of_the_window() {
        let epoch = Instant::now();
        let at = |ms: u64| epoch + Duration::from_millis(ms);
        let mut slices = Slices::new(epoch);
        // Two streams with a piece each 10 ms from 0 to 2 s, after a first second of one.
        slices.in_flight(at(0), 1.0, false);
        slices.in_flight(at(1000), 1.0, false);
        for ms in (0..2000).step_by(10) {
            let streams = if ms < 1000 { 1 } else { 2 };
            (0..streams).for_each(|_| slices.pieces(at(ms), 1, Some(0.01)));
        }
        slices.in_flight(at(2000), -1.0, true);
        let rates = slices.rates(at(1000), at(2000));
        assert!((rates.pieces_per_second.value - 200.0).abs() < 5.0, "{rates:?}");
        assert!((rates.in_flight.value - 2.0).abs() < 0.05, "{rates:?}");
        let (precision, gaps) = slices.gap_precision(at(1000), at(2000)).unwrap();
        assert!(precision < 1e-9 && (190..=200).contains(&gaps), "{precision} {gaps}");
        assert!(slices.gap_precision(at(1000), at(1100)).is_none());
    }

    #[test]
    fn requests_in_flight_are_spread_over_every_slice_of_a_long_point() {
        let epoch = Instant::now();
        let mut slices = Slices::new(epoch);
        slices.in_flight(epoch, 7.0, false);
        let rates = slices.rates(epoch + Duration::from_secs(60), epoch + Duration::from_secs(100));
        assert!((rates.in_flight.value - 7.0).abs() < 1e-6, "{rates:?}");
        assert!(slices.slices.iter().all(|s| s.in_flight_s <= 7.0 * SLICE_S + 1e-9));
    }

    #[test]
    fn a_short_window_claims_nothing() {
        let epoch = Instant::now();
        let mut slices = Slices::new(epoch);
        slices.pieces(epoch, 3, None);
        let rates = slices.rates(epoch, epoch + Duration::from_millis(60));
        assert_eq!(rates.pieces_per_second.ci_low, 0.0);
        assert!(rates.pieces_per_second.ci_high >= 2.0 * rates.pieces_per_second.value);
    }
}
