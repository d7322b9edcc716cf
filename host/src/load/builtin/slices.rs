//! What happened in equal slices of time, over all requests: the basis of intervals that know how requests depend on
//! each other. All that run at once share the engine's steps, so a hundred of them say little more than one about the
//! next second; batches of consecutive slices do not overlap.
//!
//! Everything is counted in whole numbers, so that slices of several clients add up to exactly what one would have seen.

use std::time::{Duration, Instant};

use crate::domain::stats::{self, MIN_SAMPLES, Sequential};
use crate::load::Estimate;

/// Width of a slice.
const SLICE: Duration = Duration::from_millis(20);
const SLICE_S: f64 = 0.02;
const SLICE_NS: u64 = 20_000_000;

/// Batches of slices.
const BATCHES: usize = 20;

/// What one slice saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Slice {
    /// Sum of the gaps that ended here, in nanoseconds.
    pub(super) gap_ns: u64,
    /// Pieces with text at the ends of those gaps.
    pub(super) gaps: u32,
    /// All pieces with text.
    pub(super) pieces: u32,
    /// Requests in flight, times nanoseconds.
    pub(super) in_flight_ns: u64,
    /// Requests that were completed.
    pub(super) completed: u32,
}

impl Slice {
    fn add(&mut self, other: &Self) {
        self.gap_ns += other.gap_ns;
        self.gaps += other.gaps;
        self.pieces += other.pieces;
        self.in_flight_ns += other.in_flight_ns;
        self.completed += other.completed;
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Consecutive slices; times are seconds since the beginning of the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rows(Vec<Slice>);

impl Rows {
    fn slice(&mut self, index: usize) -> Option<&mut Slice> {
        if index >= self.0.len() {
            self.0.resize(index + 1, Slice::default());
        }
        self.0.get_mut(index)
    }

    /// Adds what another client saw in that slice.
    pub(super) fn add(&mut self, index: usize, seen: &Slice) {
        if let Some(slice) = self.slice(index) {
            slice.add(seen);
        }
    }

    /// Slices from the first index to before the second, with their indices, but for those in which nothing happened.
    pub(super) fn between(&self, from: usize, to: usize) -> impl Iterator<Item = (usize, &Slice)> {
        let all = self.0.iter().enumerate().take(to).skip(from);
        all.filter(|(_, slice)| **slice != Slice::default())
    }

    /// Whole slices between two moments.
    fn within(&self, from_s: f64, to_s: f64) -> &[Slice] {
        let first = (from_s / SLICE_S).ceil() as usize;
        let last = ((to_s / SLICE_S) as usize).min(self.0.len());
        self.0.get(first..last.max(first)).unwrap_or_default()
    }

    /// Slices of which any part lies between two moments.
    fn touching(&self, from_s: f64, to_s: f64) -> &[Slice] {
        let first = (from_s / SLICE_S) as usize;
        let last = ((to_s / SLICE_S) as usize + 1).min(self.0.len());
        self.0.get(first..last.max(first)).unwrap_or_default()
    }

    /// Half width of the 95 % interval of the mean gap per piece, as a fraction of it, by batch means of ratios; how
    /// many gaps are behind it. `None` with too few slices to tell.
    pub(super) fn gap_precision(&self, from_s: f64, to_s: f64) -> Option<(f64, usize)> {
        let slices = self.within(from_s, to_s);
        let batch = slices.len().div_ceil(BATCHES).max(1);
        let gaps = |slices: &[Slice]| slices.iter().map(|s| u64::from(s.gaps)).sum::<u64>();
        let ratios: Vec<f64> = slices
            .chunks_exact(batch)
            .filter_map(|batch| {
                let gaps = gaps(batch);
                (gaps > 0).then(|| seconds(batch.iter().map(|s| s.gap_ns).sum()) / gaps as f64)
            })
            .collect();
        if ratios.len() < MIN_SAMPLES {
            return None;
        }
        let (low, high) = stats::mean_interval(&ratios)?;
        Some(((high - low) / (high + low), gaps(slices) as usize))
    }

    /// Pieces per second, requests in flight and completed requests per second between two moments.
    pub(super) fn rates(&self, from_s: f64, to_s: f64) -> Rates {
        let duration_s = (to_s - from_s).max(0.0);
        let slices = self.within(from_s, to_s);
        let estimate = |what: fn(&Slice) -> f64| {
            let mut sequence = Sequential::dependent();
            slices.iter().for_each(|s| sequence.push(what(s) / SLICE_S));
            let value = match stats::mean(sequence.samples()) {
                Some(mean) if sequence.len() >= MIN_SAMPLES => mean,
                // Too short for whole slices: all that the window touches.
                _ => self.touching(from_s, to_s).iter().map(what).sum::<f64>() / duration_s.max(SLICE_S / 2.0),
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
            seconds: duration_s,
            pieces_per_second: estimate(|s| f64::from(s.pieces)),
            in_flight: estimate(|s| seconds(s.in_flight_ns)),
            completed_per_second: estimate(|s| f64::from(s.completed)),
        }
    }
}

/// Slices since a moment, as things happen.
#[derive(Debug)]
pub(super) struct Slices {
    epoch: Instant,
    rows: Rows,
    in_flight: u32,
    /// Up to when requests in flight are accounted for.
    until_ns: u64,
}

impl Slices {
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch, rows: Rows::default(), in_flight: 0, until_ns: 0 }
    }

    /// When the first slice begins.
    pub(super) const fn epoch(&self) -> Instant {
        self.epoch
    }

    fn ns(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    fn at(&mut self, at: Instant) -> Option<&mut Slice> {
        let index = self.ns(at) / SLICE_NS;
        self.rows.slice(usize::try_from(index).ok()?)
    }

    /// Pieces with text that came at the same time, the gap before them if it counts.
    pub(super) fn pieces(&mut self, now: Instant, count: u32, gap: Option<Duration>) {
        if let Some(slice) = self.at(now) {
            slice.pieces += count;
            if let Some(gap) = gap {
                slice.gap_ns += u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX);
                slice.gaps += count;
            }
        }
    }

    /// A request was sent.
    pub(super) fn sent(&mut self, now: Instant) {
        self.account(now);
        self.in_flight += 1;
    }

    /// A request has ended.
    pub(super) fn ended(&mut self, now: Instant, completed: bool) {
        self.account(now);
        self.in_flight = self.in_flight.saturating_sub(1);
        if completed && let Some(slice) = self.at(now) {
            slice.completed += 1;
        }
    }

    /// Spreads the requests in flight over the slices up to now.
    fn account(&mut self, now: Instant) {
        let (now_ns, in_flight) = (self.ns(now), u64::from(self.in_flight));
        while self.until_ns < now_ns {
            let index = self.until_ns / SLICE_NS;
            let end = ((index + 1) * SLICE_NS).min(now_ns);
            let ns = end - self.until_ns;
            if in_flight > 0
                && let Ok(index) = usize::try_from(index)
                && let Some(slice) = self.rows.slice(index)
            {
                slice.in_flight_ns += in_flight * ns;
            }
            self.until_ns = end;
        }
        // So that silence counts as slices, too.
        if let Ok(index) = usize::try_from(now_ns / SLICE_NS) {
            self.rows.slice(index);
        }
    }

    /// All slices up to now.
    pub(super) fn rows(&mut self, now: Instant) -> &Rows {
        self.account(now);
        &self.rows
    }

    /// Index before which nothing of the slices will change any more: what is read now is written within a slice's time.
    pub(super) fn complete(&self, now: Instant) -> usize {
        usize::try_from(self.ns(now.checked_sub(SLICE).unwrap_or(self.epoch)) / SLICE_NS).unwrap_or(0)
    }
}

/// When the slice of that index begins.
pub(super) fn begins_s(index: usize) -> f64 {
    index as f64 * SLICE_S
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
    use super::*;

    #[test]
    fn rates_and_gaps_are_those_of_the_window() {
        let epoch = Instant::now();
        let at = |ms: u64| epoch + Duration::from_millis(ms);
        let mut slices = Slices::new(epoch);
        // Two streams with a piece each 10 ms from 0 to 2 s, after a first second of one.
        slices.sent(at(0));
        slices.sent(at(1000));
        for ms in (0..2000).step_by(10) {
            let streams = if ms < 1000 { 1 } else { 2 };
            (0..streams).for_each(|_| slices.pieces(at(ms), 1, Some(Duration::from_millis(10))));
        }
        slices.ended(at(2000), true);
        let rows = slices.rows(at(2000));
        let rates = rows.rates(1.0, 2.0);
        assert!((rates.pieces_per_second.value - 200.0).abs() < 5.0, "{rates:?}");
        assert!((rates.in_flight.value - 2.0).abs() < 0.05, "{rates:?}");
        let (precision, gaps) = rows.gap_precision(1.0, 2.0).unwrap();
        assert!(precision < 1e-9 && (190..=200).contains(&gaps), "{precision} {gaps}");
        assert!(rows.gap_precision(1.0, 1.1).is_none());
    }

    #[test]
    fn requests_in_flight_are_spread_over_every_slice_of_a_long_point() {
        let epoch = Instant::now();
        let mut slices = Slices::new(epoch);
        (0..7).for_each(|_| slices.sent(epoch));
        let rows = slices.rows(epoch + Duration::from_secs(100));
        assert!((rows.rates(60.0, 100.0).in_flight.value - 7.0).abs() < 1e-9);
        assert!(rows.0.iter().all(|s| s.in_flight_ns <= 7 * SLICE_NS));
    }

    #[test]
    fn a_short_window_claims_nothing() {
        let epoch = Instant::now();
        let mut slices = Slices::new(epoch);
        slices.pieces(epoch, 3, None);
        let rates = slices.rows(epoch + Duration::from_millis(60)).rates(0.0, 0.06);
        assert_eq!(rates.pieces_per_second.ci_low, 0.0);
        assert!(rates.pieces_per_second.ci_high >= 2.0 * rates.pieces_per_second.value);
    }
}
