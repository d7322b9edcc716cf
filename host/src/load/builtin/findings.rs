//! What the requests of a point say, whoever sent them. Pure: from the same requests and slices come the same figures,
//! whether one client saw them or many.

use super::slices::{Rates, Rows};
use crate::domain::stats::{self, MIN_SAMPLES};
use crate::load::stopping::{Rule, figure};
use crate::load::{Estimate, Figure, LoadError, LoadReport, Point, RequestSample, Stopped, Traffic, Watch, steady};

/// Requests that must have ended before their failures say something of the rate; all of them, where all fail.
const ENOUGH_TO_FAIL: u32 = 20;
const ALL_FAIL: u32 = 3;

/// A latency that grows by more than this over the time measured is no steady state.
const STEADY_GROWTH: f64 = 0.25;

/// A request that counts, and what its stream was made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Counted {
    pub(super) sample: RequestSample,
    /// Pieces that carry text.
    pub(super) chunks: u32,
    /// Reads from the connection.
    pub(super) reads: u32,
}

/// How many requests have ended, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcomes {
    pub(super) finished: u32,
    pub(super) failed: u32,
    pub(super) first_failure: Option<String>,
}

impl Outcomes {
    /// Ends a point of which too much fails.
    pub(super) fn check(&self, point: &Point) -> Result<(), LoadError> {
        let rate = f64::from(self.failed) / f64::from(self.finished.max(1));
        let enough = ENOUGH_TO_FAIL.min(point.max_requests.max(ALL_FAIL));
        let all = self.failed == self.finished && self.finished >= ALL_FAIL;
        if all || (rate > point.max_error_rate && self.finished >= enough) { Err(self.error()) } else { Ok(()) }
    }

    fn error(&self) -> LoadError {
        let first = self.first_failure.clone().unwrap_or_default();
        LoadError::Failures { failed: self.failed, sent: self.finished, first }
    }

    /// How far it came, for an error.
    pub(super) fn progress(&self, measured: usize, point: &Point) -> String {
        let first = self.first_failure.as_ref().map(|fault| format!(", first failure: {fault}")).unwrap_or_default();
        format!(
            "{measured} of at most {} requests measured, {} ended, {} failed{first}",
            point.max_requests, self.finished, self.failed
        )
    }
}

/// All that is known of a point at one moment.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    pub(super) point: &'a Point,
    /// In the order of starting.
    pub(super) counted: &'a [Counted],
    pub(super) outcomes: &'a Outcomes,
    pub(super) rows: &'a Rows,
    /// When the clock of the samples' starts begins, on that of the slices, in seconds.
    pub(super) offset_s: f64,
    /// Since when as many requests generate as should be in flight, on the slices' clock; absent: since the first sample.
    pub(super) steady_s: Option<f64>,
    /// Up to when the slices are known, on their clock.
    pub(super) until_s: f64,
}

impl Findings<'_> {
    /// Samples of the steady state.
    fn steady(&self) -> &[Counted] {
        let cut = match self.point.traffic {
            Traffic::Closed { .. } => 0,
            _ => steady::transient(&self.counted.iter().map(|c| c.sample.ttft_ms).collect::<Vec<_>>()),
        };
        self.counted.get(cut..).unwrap_or_default()
    }

    /// The time over which is averaged.
    fn window(&self, steady: &[Counted]) -> (f64, f64) {
        let first = steady.first().map_or(self.until_s, |first| first.sample.start_s + self.offset_s);
        let from = if self.point.watch == Watch::Itl { self.steady_s.unwrap_or(first) } else { first };
        (from, self.until_s)
    }

    /// Whether what was asked is known.
    pub(super) fn verdict(&self) -> Option<Stopped> {
        let samples = self.steady();
        let rule =
            |target| Rule { quantile: self.point.quantile, relative_precision: self.point.relative_precision, target };
        let ttft = || {
            let values: Vec<f64> = samples.iter().map(|c| c.sample.ttft_ms).collect();
            let ttft = figure(&values, self.point.quantile, None)?;
            rule(self.point.ttft_target_ms).verdict(&ttft, samples.len())
        };
        let itl = || {
            let (figure, behind) = self.itl(samples)?;
            rule(self.point.itl_target_ms).verdict(&figure, behind)
        };
        match self.point.watch {
            Watch::Ttft => ttft(),
            Watch::Itl => itl(),
            Watch::Both => match (ttft()?, itl()?) {
                (Stopped::Precise, Stopped::Precise) => Some(Stopped::Precise),
                _ => Some(Stopped::Decided),
            },
        }
    }

    /// The ITL's figure, and how many samples are behind its mean's interval: gaps, where slices of time are known.
    fn itl(&self, samples: &[Counted]) -> Option<(Figure, usize)> {
        let values: Vec<f64> = samples.iter().filter_map(|c| c.sample.itl_ms).collect();
        let (from, to) = self.window(samples);
        let sliced = self.rows.gap_precision(from, to);
        let mean = stats::mean(&values)?;
        let interval = sliced.map(|(precision, _)| (mean * (1.0 - precision), mean * (1.0 + precision)));
        let behind = match sliced {
            Some((_, gaps)) if self.point.quantile.is_none() && gaps >= MIN_SAMPLES => gaps,
            _ => values.len(),
        };
        Some((figure(&values, self.point.quantile, interval)?, behind))
    }

    /// The figures.
    pub(super) fn report(&self, stopped: Stopped) -> Result<LoadReport, LoadError> {
        let Outcomes { finished, failed, first_failure } = self.outcomes;
        if f64::from(*failed) > self.point.max_error_rate * f64::from(*finished) {
            return Err(self.outcomes.error());
        }
        let steady = self.steady();
        let series = |what: fn(&RequestSample) -> Option<f64>| {
            steady.iter().filter_map(|c| what(&c.sample)).collect::<Vec<f64>>()
        };
        let ttft = series(|s| Some(s.ttft_ms));
        let (from, to) = self.window(steady);
        let Rates { seconds, pieces_per_second, in_flight, completed_per_second } = self.rows.rates(from, to);
        let times = |estimate: Estimate, factor: f64| Estimate {
            value: estimate.value * factor,
            ci_low: estimate.ci_low * factor,
            ci_high: estimate.ci_high * factor,
            ..estimate
        };
        let input_tokens: f64 = steady.iter().map(|c| f64::from(c.sample.input_tokens)).sum();
        let total = |what: fn(&Counted) -> u32| self.counted.iter().map(|c| u64::from(what(c))).sum::<u64>() as f64;
        let (tokens, chunks, reads) = (total(|c| c.sample.output_tokens), total(|c| c.chunks), total(|c| c.reads));
        let tokens_per_chunk = tokens / chunks.max(1.0);
        let wrong_length = self.counted.iter().filter(|c| c.sample.output_tokens != self.point.osl).count();
        let unsteady = match self.point.watch {
            Watch::Itl => None,
            _ => steady::growth(&ttft).filter(|growth| *growth > STEADY_GROWTH).map(|growth| {
                format!("TTFT grows by {:.0} % of its mean while measuring: the queue grows", growth * 100.0)
            }),
        };
        Ok(LoadReport {
            ttft_ms: figure(&ttft, self.point.quantile, None),
            itl_ms: self.itl(steady).map(|(figure, _)| figure),
            e2e_ms: figure(&series(|s| Some(s.e2e_ms)), self.point.quantile, None),
            requests: u32::try_from(steady.len()).unwrap_or(u32::MAX),
            failed_requests: *failed,
            first_failure: first_failure.clone(),
            wrong_length_requests: u32::try_from(wrong_length).unwrap_or(u32::MAX),
            concurrency_seen: in_flight,
            input_tokens_per_second: times(completed_per_second, input_tokens / (steady.len() as f64).max(1.0)),
            output_tokens_per_second: times(pieces_per_second, tokens_per_chunk),
            requests_per_second: completed_per_second,
            duration_s: seconds,
            stopped,
            unsteady,
            tokens_per_chunk,
            chunks_per_read: chunks / reads.max(1.0),
            client: None,
            clients: 1,
            samples: steady.iter().map(|c| c.sample).collect(),
        })
    }
}
