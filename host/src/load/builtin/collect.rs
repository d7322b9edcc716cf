//! From requests to figures: which count, when there are enough, and what they say.

use std::time::Instant;

use super::board::{Board, Ended, Mark};
use super::exchange::{Answer, Fault};
use super::slices::Rates;
use crate::domain::stats::MIN_SAMPLES;
use crate::load::stopping::{Rule, figure, next_look};
use crate::load::{Estimate, LoadError, LoadReport, Point, RequestSample, Stopped, Traffic, Watch, steady};

/// Requests that must have ended before their failures say something of the rate; all of them, where all fail.
const ENOUGH_TO_FAIL: u32 = 20;
const ALL_FAIL: u32 = 3;

/// A latency that grows by more than this over the time measured is no steady state.
const STEADY_GROWTH: f64 = 0.25;

/// Sum of what the samples' streams were made of.
#[derive(Debug, Clone, Copy, Default)]
struct Pieces {
    tokens: f64,
    chunks: f64,
    reads: f64,
}

/// Takes the requests of one point as they end.
#[derive(Debug)]
pub(super) struct Collector<'a> {
    point: &'a Point,
    board: &'a Board,
    /// Since when in seconds samples are counted.
    epoch: Instant,
    /// Requests that have ended, by index; `None` while in flight. Only those before the first that is in flight are
    /// looked at: otherwise a point would end with its fastest requests.
    ended: Vec<Option<Box<Ended>>>,
    settled: usize,
    samples: Vec<RequestSample>,
    pieces: Pieces,
    wrong_length: u32,
    finished: u32,
    failed: u32,
    first_failure: Option<Fault>,
    next_look: usize,
}

impl<'a> Collector<'a> {
    pub(super) fn new(point: &'a Point, board: &'a Board) -> Self {
        Self {
            point,
            board,
            epoch: Instant::now(),
            ended: Vec::new(),
            settled: 0,
            samples: Vec::new(),
            pieces: Pieces::default(),
            wrong_length: 0,
            finished: 0,
            failed: 0,
            first_failure: None,
            next_look: 1,
        }
    }

    /// Index of the first request that counts: in a closed loop all requests start at once, and the first round fills
    /// the queue. Where only decoding is watched, it fills nothing, and the part of it in steady state counts.
    pub(super) fn first_index(&self) -> usize {
        match (self.point.traffic, self.point.watch) {
            (Traffic::Closed { concurrency }, Watch::Ttft | Watch::Both) => concurrency as usize,
            _ => 0,
        }
    }

    /// How far it came, for an error.
    pub(super) fn progress(&self) -> String {
        let first = self.first_failure.as_ref().map(|fault| format!(", first failure: {fault}")).unwrap_or_default();
        format!(
            "{} of at most {} requests measured, {} ended, {} failed{first}",
            self.samples.len(),
            self.point.max_requests,
            self.finished,
            self.failed
        )
    }

    /// Takes one; says whether the point is at its end.
    pub(super) fn take(&mut self, mut ended: Box<Ended>) -> Result<Option<Stopped>, LoadError> {
        self.finished += 1;
        if let Ok(answer) = &ended.result
            && let Err(fault) = tokens(answer, self.point)
        {
            ended.result = Err(fault);
        }
        if let Err(fault) = &ended.result {
            self.failed += 1;
            self.first_failure.get_or_insert_with(|| fault.clone());
            self.check_failures()?;
        }
        let index = ended.index;
        if index >= self.ended.len() {
            self.ended.resize_with(index + 1, || None);
        }
        if let Some(place) = self.ended.get_mut(index) {
            *place = Some(ended);
        }
        while let Some(ended) = self.ended.get_mut(self.settled).and_then(Option::take) {
            self.settle(&ended);
            self.settled += 1;
        }
        // One answer of each that is in flight, so that the whole range of context lengths is covered.
        let round = match self.point.traffic {
            Traffic::Closed { concurrency } => concurrency.max(2) as usize,
            _ => 1,
        };
        let n = self.samples.len();
        let most = self.point.max_requests as usize;
        if n == 0 || (n < self.next_look && n < most) || (self.settled < round && n < most) {
            return Ok(None);
        }
        self.next_look = next_look(n);
        Ok(self.verdict().or((n >= most).then_some(Stopped::MostRequests)))
    }

    fn check_failures(&self) -> Result<(), LoadError> {
        let rate = f64::from(self.failed) / f64::from(self.finished.max(1));
        let enough = ENOUGH_TO_FAIL.min(self.point.max_requests.max(ALL_FAIL));
        let all = self.failed == self.finished && self.finished >= ALL_FAIL;
        if all || (rate > self.point.max_error_rate && self.finished >= enough) { Err(self.failures()) } else { Ok(()) }
    }

    fn failures(&self) -> LoadError {
        let first = self.first_failure.as_ref().map(ToString::to_string).unwrap_or_default();
        LoadError::Failures { failed: self.failed, sent: self.finished, first }
    }

    /// All before it have ended as well.
    fn settle(&mut self, ended: &Ended) {
        let Ok(answer) = &ended.result else { return };
        if ended.index < self.first_index() {
            return;
        }
        let Ok((input_tokens, output_tokens)) = tokens(answer, self.point) else { return };
        let is_open = !matches!(self.point.traffic, Traffic::Closed { .. });
        let start = if is_open { ended.intended } else { answer.sent };
        let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
        let itl_ms = itl_ms(answer, output_tokens, ended.steady);
        if self.point.watch == Watch::Itl && itl_ms.is_none() {
            return;
        }
        self.wrong_length += u32::from(output_tokens != self.point.osl);
        self.pieces.tokens += f64::from(output_tokens);
        self.pieces.chunks += f64::from(answer.chunks);
        self.pieces.reads += f64::from(answer.reads);
        self.samples.push(RequestSample {
            start_s: start.saturating_duration_since(self.epoch).as_secs_f64(),
            ttft_ms: ms(start, answer.first),
            itl_ms,
            e2e_ms: ms(start, answer.last),
            input_tokens,
            output_tokens,
        });
    }

    /// Samples of the steady state.
    fn steady_samples(&self) -> &[RequestSample] {
        let cut = match self.point.traffic {
            Traffic::Closed { .. } => 0,
            _ => steady::transient(&self.samples.iter().map(|s| s.ttft_ms).collect::<Vec<_>>()),
        };
        self.samples.get(cut..).unwrap_or_default()
    }

    fn window(&self, samples: &[RequestSample]) -> (Instant, Instant) {
        let now = Instant::now();
        let first = samples.first().map_or(now, |s| self.epoch + std::time::Duration::from_secs_f64(s.start_s));
        let from = if self.point.watch == Watch::Itl { self.board.steady().unwrap_or(first) } else { first };
        (from, now)
    }

    /// Whether what was asked is known.
    fn verdict(&self) -> Option<Stopped> {
        let samples = self.steady_samples();
        let rule =
            |target| Rule { quantile: self.point.quantile, relative_precision: self.point.relative_precision, target };
        let ttft = || {
            let ttft = figure(&samples.iter().map(|s| s.ttft_ms).collect::<Vec<_>>(), self.point.quantile, None)?;
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
    fn itl(&self, samples: &[RequestSample]) -> Option<(crate::load::Figure, usize)> {
        let values: Vec<f64> = samples.iter().filter_map(|s| s.itl_ms).collect();
        let (from, to) = self.window(samples);
        let sliced = self.board.slices(|slices| slices.gap_precision(from, to));
        let mean = crate::domain::stats::mean(&values)?;
        let interval = sliced.map(|(precision, _)| (mean * (1.0 - precision), mean * (1.0 + precision)));
        let behind = match sliced {
            Some((_, gaps)) if self.point.quantile.is_none() && gaps >= MIN_SAMPLES => gaps,
            _ => values.len(),
        };
        Some((figure(&values, self.point.quantile, interval)?, behind))
    }

    /// The figures.
    pub(super) fn report(&self, stopped: Stopped) -> Result<LoadReport, LoadError> {
        if f64::from(self.failed) > self.point.max_error_rate * f64::from(self.finished) {
            return Err(self.failures());
        }
        let samples = self.steady_samples();
        let series = |what: fn(&RequestSample) -> Option<f64>| samples.iter().filter_map(what).collect::<Vec<f64>>();
        let ttft = series(|s| Some(s.ttft_ms));
        let (from, to) = self.window(samples);
        let Rates { seconds, pieces_per_second, in_flight, completed_per_second } =
            self.board.slices(|slices| slices.rates(from, to));
        let times = |estimate: Estimate, factor: f64| Estimate {
            value: estimate.value * factor,
            ci_low: estimate.ci_low * factor,
            ci_high: estimate.ci_high * factor,
            ..estimate
        };
        let input_tokens: f64 = samples.iter().map(|s| f64::from(s.input_tokens)).sum();
        let tokens_per_chunk = self.pieces.tokens / self.pieces.chunks.max(1.0);
        let unsteady = match self.point.watch {
            Watch::Itl => None,
            _ => steady::growth(&ttft).filter(|growth| *growth > STEADY_GROWTH).map(|growth| {
                format!("TTFT grows by {:.0} % of its mean while measuring: the queue grows", growth * 100.0)
            }),
        };
        Ok(LoadReport {
            ttft_ms: figure(&ttft, self.point.quantile, None),
            itl_ms: self.itl(samples).map(|(figure, _)| figure),
            e2e_ms: figure(&series(|s| Some(s.e2e_ms)), self.point.quantile, None),
            requests: u32::try_from(samples.len()).unwrap_or(u32::MAX),
            failed_requests: self.failed,
            first_failure: self.first_failure.as_ref().map(ToString::to_string),
            wrong_length_requests: self.wrong_length,
            concurrency_seen: in_flight,
            input_tokens_per_second: times(completed_per_second, input_tokens / (samples.len() as f64).max(1.0)),
            output_tokens_per_second: times(pieces_per_second, tokens_per_chunk),
            requests_per_second: completed_per_second,
            duration_s: seconds,
            stopped,
            unsteady,
            tokens_per_chunk,
            chunks_per_read: self.pieces.chunks / self.pieces.reads.max(1.0),
            client: None,
            samples: samples.to_vec(),
        })
    }
}

/// Prompt and generated tokens, by the server's count where it gives one.
///
/// Without a count, an answer that ended because of its length has as many tokens as were asked for.
fn tokens(answer: &Answer, point: &Point) -> Result<(u32, u32), Fault> {
    let wrong = |reason: String| Err(Fault::Answer(reason));
    let Some(usage) = answer.usage else {
        return match answer.finish_reason.as_deref() {
            Some("length") => Ok((point.isl, point.osl)),
            other => wrong(format!(
                "the server gives no token counts, and an answer that ended with {} may have any number",
                other.unwrap_or("no reason")
            )),
        };
    };
    let (input, output) = (usage.prompt_tokens, usage.completion_tokens);
    // One more piece than tokens: some servers send text that they held back with the finish reason.
    if output == 0 || output > point.osl || answer.chunks > output + 1 {
        return wrong(format!(
            "the server's usage cannot be: {output} generated tokens in {} pieces with text, at most {} asked for",
            answer.chunks, point.osl
        ));
    }
    if input.abs_diff(point.isl) > 1.max(point.isl / 100) {
        return wrong(format!("the server counts {input} prompt tokens where {} were made", point.isl));
    }
    Ok((input, output))
}

/// `(last - first) / (tokens - 1)`, over the part of the answer that is in steady state, which must be half of it.
///
/// How many tokens a part has is known by the server's count for the whole and by the pieces for the part.
fn itl_ms(answer: &Answer, tokens: u32, steady: Option<Mark>) -> Option<f64> {
    let mark = steady?;
    let gaps = if mark.is_first {
        f64::from(tokens) - 1.0
    } else {
        f64::from(answer.chunks - mark.chunks.min(answer.chunks)) * f64::from(tokens) / f64::from(answer.chunks.max(1))
    };
    let enough = gaps >= 1.0 && gaps >= f64::from(tokens) / 2.0 - 1.0;
    enough.then(|| answer.last.saturating_duration_since(mark.at).as_secs_f64() * 1e3 / gaps)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tokens::Usage;
    use super::*;

    /// 11 tokens, 10 ms apart, in as many pieces.
    fn answer(usage: Option<(u32, u32)>, finish: &str) -> Answer {
        let sent = Instant::now();
        Answer {
            sent,
            first: sent + Duration::from_millis(100),
            last: sent + Duration::from_millis(200),
            chunks: 11,
            reads: 11,
            usage: usage.map(|(prompt_tokens, completion_tokens)| Usage { prompt_tokens, completion_tokens }),
            finish_reason: Some(finish.to_owned()),
            keep_alive: true,
        }
    }

    fn point() -> Point {
        let sla = crate::domain::Sla { ttft_ms: None, itl_ms: None, e2e_ms: None, quantile: None };
        Point::open_loop(500, 11, 1.0, 10, &sla, 1)
    }

    fn mark(answer: &Answer, ms: u64, chunks: u32) -> Option<Mark> {
        Some(Mark { at: answer.first + Duration::from_millis(ms), chunks, is_first: ms == 0 })
    }

    #[test]
    fn itl_is_per_token_by_the_servers_count() {
        let answer = answer(None, "length");
        assert!((itl_ms(&answer, 11, mark(&answer, 0, 1)).unwrap() - 10.0).abs() < 1e-9);
        // Two tokens in each piece.
        assert!((itl_ms(&answer, 21, mark(&answer, 0, 1)).unwrap() - 5.0).abs() < 1e-9);
        assert_eq!(itl_ms(&answer, 1, mark(&answer, 0, 1)), None);
    }

    #[test]
    fn of_an_answer_that_began_before_steady_state_the_rest_counts_if_it_is_half() {
        let answer = answer(None, "length");
        assert!((itl_ms(&answer, 11, mark(&answer, 40, 5)).unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(itl_ms(&answer, 11, mark(&answer, 70, 8)), None);
        assert_eq!(itl_ms(&answer, 11, None), None);
    }

    #[test]
    fn counts_that_cannot_be_are_told() {
        let point = point();
        for (usage, finish, expected) in [
            (Some((500, 11)), "length", Ok((500, 11))),
            (Some((503, 11)), "stop", Ok((503, 11))),
            (Some((500, 10)), "length", Ok((500, 10))),
            (None, "length", Ok((500, 11))),
            (None, "stop", Err("ended with stop")),
            (Some((500, 9)), "length", Err("cannot be: 9 generated tokens in 11 pieces")),
            (Some((500, 12)), "length", Err("at most 11 asked for")),
            (Some((500, 0)), "length", Err("0 generated tokens")),
            (Some((700, 11)), "length", Err("700 prompt tokens where 500")),
        ] {
            match (tokens(&answer(usage, finish), &point), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(fault), Err(expected)) => assert!(fault.to_string().contains(expected), "{fault}"),
                (found, expected) => panic!("{found:?}, not {expected:?}"),
            }
        }
    }
}
