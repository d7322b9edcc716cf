//! Which requests count, and when there are enough.

use std::time::Instant;

use super::board::{Board, Ended, Mark};
use super::exchange::{Answer, Fault};
use super::findings::{Counted, Findings, Outcomes};
use crate::load::stopping::next_look;
use crate::load::{LoadError, LoadReport, Point, RequestSample, Stopped, Traffic, Watch};

/// Takes the requests of one point as they end.
#[derive(Debug)]
pub(super) struct Collector<'a> {
    point: &'a Point,
    board: &'a Board,
    /// Since when starts are counted.
    epoch: Instant,
    /// Requests that have ended, by index; `None` while in flight. Only those before the first that is in flight are
    /// looked at: otherwise a point would end with its fastest requests.
    ended: Vec<Option<Box<Ended>>>,
    settled: usize,
    /// When the last of the settled began.
    settled_at: Instant,
    counted: Vec<Counted>,
    outcomes: Outcomes,
    next_look: usize,
}

impl<'a> Collector<'a> {
    pub(super) fn new(point: &'a Point, board: &'a Board, epoch: Instant) -> Self {
        Self {
            point,
            board,
            epoch,
            ended: Vec::new(),
            settled: 0,
            settled_at: epoch,
            counted: Vec::new(),
            outcomes: Outcomes::default(),
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
        self.outcomes.progress(self.counted.len(), self.point)
    }

    /// How many have ended, and how.
    pub(super) const fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    /// All requests that began up to then have ended, in seconds.
    pub(super) fn settled_s(&self) -> f64 {
        self.settled_at.saturating_duration_since(self.epoch).as_secs_f64()
    }

    /// Those that count and were not drained yet, in the order of starting.
    pub(super) fn drain(&mut self) -> Vec<Counted> {
        std::mem::take(&mut self.counted)
    }

    /// Takes one; says whether it failed.
    pub(super) fn absorb(&mut self, mut ended: Box<Ended>) -> bool {
        self.outcomes.finished += 1;
        if let Ok(answer) = &ended.result
            && let Err(fault) = tokens(answer, self.point)
        {
            ended.result = Err(fault);
        }
        let failed = ended.result.is_err();
        if let Err(fault) = &ended.result {
            self.outcomes.failed += 1;
            self.outcomes.first_failure.get_or_insert_with(|| fault.to_string());
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
            self.settled_at = self.settled_at.max(ended.begun);
            self.settled += 1;
        }
        failed
    }

    /// Takes one; says whether the point is at its end.
    pub(super) fn take(&mut self, ended: Box<Ended>) -> Result<Option<Stopped>, LoadError> {
        if self.absorb(ended) {
            self.outcomes.check(self.point)?;
        }
        let n = self.counted.len();
        let most = self.point.max_requests as usize;
        if n == 0 || (n < self.next_look && n < most) || (self.settled < round(self.point) && n < most) {
            return Ok(None);
        }
        self.next_look = next_look(n);
        Ok(self.findings(|findings| findings.verdict()).or((n >= most).then_some(Stopped::MostRequests)))
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
        let sample = RequestSample {
            start_s: start.saturating_duration_since(self.epoch).as_secs_f64(),
            ttft_ms: ms(start, answer.first),
            itl_ms,
            e2e_ms: ms(start, answer.last),
            input_tokens,
            output_tokens,
        };
        self.counted.push(Counted { sample, chunks: answer.chunks, reads: answer.reads });
    }

    fn findings<T>(&self, look: impl FnOnce(&Findings<'_>) -> T) -> T {
        let now = Instant::now();
        let steady = self.board.steady();
        self.board.slices(|slices| {
            let zero = slices.epoch();
            let since = |at: Instant| at.saturating_duration_since(zero).as_secs_f64();
            look(&Findings {
                point: self.point,
                counted: &self.counted,
                outcomes: &self.outcomes,
                offset_s: since(self.epoch),
                steady_s: steady.map(since),
                until_s: since(now),
                rows: slices.rows(now),
            })
        })
    }

    /// The figures.
    pub(super) fn report(&self, stopped: Stopped) -> Result<LoadReport, LoadError> {
        self.findings(|findings| findings.report(stopped))
    }
}

/// Requests of one round: an answer of each that is in flight, so that the whole range of context lengths is covered.
pub(super) const fn round(point: &Point) -> usize {
    match point.traffic {
        Traffic::Closed { concurrency: 0 | 1 } => 2,
        Traffic::Closed { concurrency } => concurrency as usize,
        _ => 1,
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
