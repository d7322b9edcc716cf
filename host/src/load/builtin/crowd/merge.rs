//! From the lines of all clients to one report.

use super::line::{LONGEST, Line, MARK, Trouble};
use super::{Work, unix_s};
use crate::load::builtin::collect::round;
use crate::load::builtin::findings::{Counted, Findings, Outcomes};
use crate::load::builtin::slices::{Rows, begins_s};
use crate::load::builtin::{Options, health};
use crate::load::stopping::next_look;
use crate::load::{ClientHealth, LoadError, LoadReport, Stopped, Watch};

/// Clocks of nodes that differ by more than this, in seconds, are told of.
const CLOCKS_AGREE_S: f64 = 2.0;

/// What is known of one client.
#[derive(Debug, Clone, Default)]
struct Client {
    /// Lines taken.
    lines: u32,
    from_s: Option<f64>,
    settled_s: f64,
    until: usize,
    outcomes: Outcomes,
    health: Option<ClientHealth>,
    /// Shortest time from writing a line to taking it, by both clocks.
    lag_s: Option<f64>,
}

/// Takes the lines of all clients of a point.
#[derive(Debug)]
pub struct Merge {
    work: Work,
    clients: Vec<Client>,
    /// Of which it is not known yet whether they count.
    pending: Vec<Counted>,
    /// In the order of starting.
    counted: Vec<Counted>,
    outcomes: Outcomes,
    rows: Rows,
    next_look: usize,
}

impl Merge {
    /// Of nothing so far.
    pub fn new(work: &Work) -> Self {
        Self {
            work: work.clone(),
            clients: vec![Client::default(); work.clients as usize],
            pending: Vec::new(),
            counted: Vec::new(),
            outcomes: Outcomes::default(),
            rows: Rows::default(),
            next_look: 1,
        }
    }

    /// Takes a line of a client's output, whichever; says whether the point is at its end. A line that came before is
    /// passed over: a stream that broke off begins anew.
    ///
    /// # Errors
    /// If the client cannot go on, lines are missing, or too many requests fail.
    pub fn take(&mut self, client: u32, text: &str) -> Result<Option<Stopped>, LoadError> {
        let Some(json) = text.strip_prefix(MARK) else { return Ok(None) };
        let setup = |reason: String| LoadError::Setup(format!("client {client} of the load: {reason}"));
        if json.len() > LONGEST {
            return Err(setup(format!("a line of {} bytes", json.len())));
        }
        let line: Line = serde_json::from_str(json).map_err(|error| setup(format!("a line that is none: {error}")))?;
        let known = self.clients.get_mut(client as usize).ok_or_else(|| setup("there is no such client".to_owned()))?;
        if line.n < known.lines {
            return Ok(None);
        }
        if line.n > known.lines {
            return Err(setup(format!("lines {} to {} of its log are lost", known.lines, line.n - 1)));
        }
        if let Some(trouble) = line.trouble {
            return Err(self.error(client, trouble));
        }
        known.lines += 1;
        let lag_s = unix_s() - line.at_s;
        known.lag_s = Some(known.lag_s.map_or(lag_s, |least| least.min(lag_s)));
        known.from_s = known.from_s.or(line.from_s);
        known.settled_s = line.settled_s.max(known.settled_s);
        known.until = line.until.max(known.until);
        known.outcomes = line.outcomes();
        self.pending.extend(line.requests());
        line.slices().for_each(|(index, slice)| self.rows.add(index, &slice));
        known.health = line.health.or_else(|| known.health.take());
        self.sum_outcomes();
        self.outcomes.check(&self.work.point)?;
        self.settle();
        Ok(self.end())
    }

    fn error(&self, client: u32, trouble: Trouble) -> LoadError {
        match trouble {
            Trouble::Unreachable { url, reason } => LoadError::Unreachable { url, reason },
            Trouble::Refused { url, status, body } => LoadError::Refused { url, status, body },
            Trouble::Failures { failed, sent, first } => LoadError::Failures { failed, sent, first },
            Trouble::Limit(reason) => match self.findings().map(|f| f.report(Stopped::MostRequests)) {
                Some(Ok(report)) => LoadError::ClientBound { reason, report: Box::new(report) },
                _ => LoadError::Setup(format!("client {client} of the load: {reason}")),
            },
            Trouble::Setup(reason) => LoadError::Setup(format!("client {client} of the load: {reason}")),
        }
    }

    fn sum_outcomes(&mut self) {
        let all = || self.clients.iter().map(|client| &client.outcomes);
        self.outcomes = Outcomes {
            finished: all().map(|outcomes| outcomes.finished).sum(),
            failed: all().map(|outcomes| outcomes.failed).sum(),
            first_failure: all().find_map(|outcomes| outcomes.first_failure.clone()),
        };
    }

    /// Since when all clients have their share in flight.
    fn from_s(&self) -> Option<f64> {
        self.clients.iter().map(|client| client.from_s).try_fold(0.0, |latest: f64, from| Some(latest.max(from?)))
    }

    /// Moves what is known to count from the pending ones.
    fn settle(&mut self) {
        let Some(from_s) = self.from_s() else { return };
        let settled_s = self.clients.iter().map(|client| client.settled_s).fold(f64::INFINITY, f64::min);
        self.pending.retain(|counted| counted.sample.start_s >= from_s);
        let mut new: Vec<Counted> = self.pending.extract_if(.., |c| c.sample.start_s <= settled_s).collect();
        // All that began before have come already, so that the order is that of starting over all lines.
        new.sort_by(|a, b| a.sample.start_s.total_cmp(&b.sample.start_s));
        self.counted.append(&mut new);
    }

    fn findings(&self) -> Option<Findings<'_>> {
        let from_s = self.from_s()?;
        let until = self.clients.iter().map(|client| client.until).min()?;
        Some(Findings {
            point: &self.work.point,
            counted: &self.counted,
            outcomes: &self.outcomes,
            rows: &self.rows,
            offset_s: 0.0,
            steady_s: (self.work.point.watch == Watch::Itl).then_some(from_s),
            until_s: begins_s(until),
        })
    }

    /// Whether it is enough.
    fn end(&mut self) -> Option<Stopped> {
        let point = &self.work.point;
        let (n, most) = (self.counted.len(), point.max_requests as usize);
        if n == 0 || (n < self.next_look && n < most) || (n < round(point) && n < most) {
            return None;
        }
        // Requests come before the slices of their last moments; the window must hold all that counts.
        let last = self.counted.iter().map(|c| c.sample.start_s + c.sample.e2e_ms / 1e3).fold(0.0, f64::max);
        let findings = self.findings()?;
        if findings.until_s < last && n < most {
            return None;
        }
        let verdict = findings.verdict().or((n >= most).then_some(Stopped::MostRequests));
        self.next_look = next_look(n);
        verdict
    }

    /// Whether all clients have their share in flight.
    pub fn is_counting(&self) -> bool {
        self.from_s().is_some()
    }

    /// How far it came, for an error.
    pub fn progress(&self) -> String {
        let silent = self.clients.iter().filter(|client| client.lines == 0).count();
        let filling = self.clients.iter().filter(|client| client.from_s.is_none()).count();
        let all = self.clients.len();
        let how = match (silent, filling) {
            (0, 0) => String::new(),
            (0, filling) => format!("; {filling} of {all} clients have not their share in flight yet"),
            (silent, _) => format!("; {silent} of {all} clients have said nothing yet"),
        };
        format!("{}{how}", self.outcomes.progress(self.counted.len(), &self.work.point))
    }

    /// The figures, with the health of the worst client.
    ///
    /// # Errors
    /// If too many requests failed, or clients were the bottleneck.
    pub fn report(&self, stopped: Stopped, options: &Options) -> Result<LoadReport, LoadError> {
        let findings =
            self.findings().ok_or_else(|| LoadError::Setup("not every client has its share in flight".to_owned()))?;
        let lags = || self.clients.iter().filter_map(|client| client.lag_s);
        let apart = lags().fold(f64::NEG_INFINITY, f64::max) - lags().fold(f64::INFINITY, f64::min);
        if apart > CLOCKS_AGREE_S {
            tracing::warn!("clocks of the load's nodes seem to differ by {apart:.1} s; latencies do not depend on it");
        }
        let mut report = findings.report(stopped)?;
        report.clients = self.work.clients;
        let all = self.clients.iter().filter_map(|client| client.health.clone());
        match all.reduce(|a, b| health::worst(&a, &b)) {
            Some(worst) => health::judged(report, worst, &self.work.point, options),
            None => Ok(report),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::point;
    use super::super::{Vocabulary, Work};
    use super::*;
    use crate::load::builtin::slices::Slice;
    use crate::load::{Endpoint, Point, RequestSample, Traffic};

    /// What one client saw.
    #[derive(Debug, Clone)]
    struct Saw {
        from_s: f64,
        counted: Vec<Counted>,
        slices: Vec<(usize, Slice)>,
        failed: u32,
    }

    const UNTIL: usize = 1500;

    fn request() -> impl Strategy<Value = Counted> {
        (0.0..20.0_f64, 1.0..900.0_f64, 0.5..40.0_f64, 2..6_u32, 1..6_u32).prop_map(
            |(start_s, ttft_ms, itl, out, chunks)| {
                let itl_ms = (chunks > 1).then_some(itl);
                let e2e_ms = ttft_ms + itl * f64::from(out - 1);
                let sample = RequestSample { start_s, ttft_ms, itl_ms, e2e_ms, input_tokens: 9, output_tokens: out };
                Counted { sample, chunks, reads: chunks.div_ceil(2) }
            },
        )
    }

    fn slice() -> impl Strategy<Value = (usize, Slice)> {
        (0..UNTIL, 1..90_000_000_u64, 1..9_u32, 0..9_u32, 0..60_000_000_u64).prop_map(
            |(index, gap_ns, gaps, completed, in_flight_ns)| {
                (index, Slice { gap_ns, gaps, pieces: gaps + completed, in_flight_ns, completed })
            },
        )
    }

    fn saw() -> impl Strategy<Value = Saw> {
        let requests = prop::collection::vec(request(), 0..200);
        let slices = prop::collection::vec(slice(), 0..300);
        (0.0..3.0_f64, requests, slices, 0..2_u32).prop_map(|(from_s, mut counted, slices, failed)| {
            counted.sort_by(|a, b| a.sample.start_s.total_cmp(&b.sample.start_s));
            Saw { from_s, counted, slices, failed }
        })
    }

    /// A client's lines, with so many requests in each.
    fn lines(saw: &Saw, each: usize) -> Vec<String> {
        let requests: Vec<&[Counted]> = saw.counted.chunks(each).collect();
        let slices: Vec<&[(usize, Slice)]> = saw.slices.chunks(each).collect();
        let all = requests.len().max(slices.len()) + 1;
        (0..all)
            .map(|n| {
                let mut line = Line { n: n as u32, at_s: unix_s(), from_s: Some(saw.from_s), ..Line::default() };
                let counted = requests.get(n).copied().unwrap_or_default();
                line.set_requests(counted);
                line.set_slices(slices.get(n).copied().unwrap_or_default());
                let last = n + 1 == all;
                // The last line says that all is told; those before say what has begun and ended so far.
                line.settled_s = if last { 30.0 } else { counted.last().map_or(0.0, |c| c.sample.start_s) };
                line.until = if last { UNTIL } else { 0 };
                let failed = if last { saw.failed } else { 0 };
                let finished = saw.counted.len() as u32 + failed;
                line.set_outcomes(&Outcomes { finished, failed, first_failure: (failed > 0).then(|| "x".to_owned()) });
                format!("{MARK}{}", serde_json::to_string(&line).unwrap())
            })
            .collect()
    }

    fn work(point: &Point, clients: usize) -> Work {
        let vocabulary = Vocabulary::of(None).unwrap();
        Work::new(&Endpoint::new("http://x", "m"), &vocabulary, point, clients as u32).unwrap()
    }

    fn generous(point: Point) -> Point {
        Point { max_error_rate: 1.0, max_requests: 1_000_000, relative_precision: 0.0, ..point }
    }

    /// The report of one client that saw all of it.
    fn by_one(point: &Point, all: &[Saw]) -> Option<LoadReport> {
        let from_s = all.iter().map(|saw| saw.from_s).fold(0.0, f64::max);
        let mut counted: Vec<Counted> = all.iter().flat_map(|saw| saw.counted.clone()).collect();
        counted.retain(|c| c.sample.start_s >= from_s);
        counted.sort_by(|a, b| a.sample.start_s.total_cmp(&b.sample.start_s));
        let mut rows = Rows::default();
        all.iter().flat_map(|saw| &saw.slices).for_each(|(index, slice)| rows.add(*index, slice));
        let failed: u32 = all.iter().map(|saw| saw.failed).sum();
        let outcomes = Outcomes {
            finished: all.iter().map(|saw| saw.counted.len() as u32).sum::<u32>() + failed,
            failed,
            first_failure: (failed > 0).then(|| "x".to_owned()),
        };
        let findings = Findings {
            point,
            counted: &counted,
            outcomes: &outcomes,
            rows: &rows,
            offset_s: 0.0,
            steady_s: (point.watch == Watch::Itl).then_some(from_s),
            until_s: begins_s(UNTIL),
        };
        findings.report(Stopped::Precise).ok()
    }

    proptest! {
        #[test]
        fn what_several_clients_saw_is_reported_as_if_one_had_seen_it(
            all in prop::collection::vec(saw(), 1..6), each in 1..40_usize, watch in 0..3, order in any::<u64>(),
        ) {
            let watch = [Watch::Ttft, Watch::Itl, Watch::Both][watch as usize];
            let traffic = if watch == Watch::Both { Traffic::Poisson { requests_per_second: 9.0 } } else {
                Traffic::Closed { concurrency: 12 }
            };
            let point = generous(Point { watch, traffic, quantile: (order % 2 == 0).then_some(0.9), ..point(12) });
            let mut merge = Merge::new(&work(&point, all.len()));
            let mut waiting: Vec<_> = all.iter().map(|saw| lines(saw, each).into_iter()).collect();
            let mut random = super::super::Random::new(&[order]);
            while waiting.iter().any(|lines| lines.len() > 0) {
                let client = random.next() as usize % waiting.len();
                if let Some(line) = waiting[client].next() {
                    merge.take(client as u32, &line).unwrap();
                    // A stream that broke off begins anew.
                    if random.next() % 4 == 0 {
                        prop_assert_eq!(merge.take(client as u32, &line).unwrap(), None);
                    }
                }
            }
            let merged = merge.report(Stopped::Precise, &Options::default()).ok();
            let one = by_one(&point, &all).map(|report| LoadReport { clients: all.len() as u32, ..report });
            prop_assert_eq!(merged, one);
        }
    }

    fn steady(from_s: f64, n: usize) -> Saw {
        let counted = (0..n)
            .map(|i| {
                let sample = RequestSample {
                    start_s: i as f64 / 10.0,
                    ttft_ms: 50.0,
                    itl_ms: Some(5.0),
                    e2e_ms: 70.0,
                    input_tokens: 9,
                    output_tokens: 5,
                };
                Counted { sample, chunks: 5, reads: 5 }
            })
            .collect();
        Saw { from_s, counted, slices: Vec::new(), failed: 0 }
    }

    #[test]
    fn a_point_ends_only_when_every_client_has_told_of_the_same_time() {
        let point = Point { relative_precision: 0.5, max_requests: 1000, ..point(4) };
        let mut merge = Merge::new(&work(&point, 2));
        for line in lines(&steady(1.0, 90), 64) {
            assert_eq!(merge.take(0, &line).unwrap(), None, "the other one may have none of its share in flight");
        }
        assert!(!merge.is_counting() && merge.progress().contains("1 of 2 clients have said nothing"));
        let last: Vec<_> = lines(&steady(5.0, 90), 64).iter().map(|line| merge.take(1, line).unwrap()).collect();
        assert_eq!(last.last(), Some(&Some(Stopped::Precise)));
        let report = merge.report(Stopped::Precise, &Options::default()).unwrap();
        // Both have 40 that began from the fifth second on.
        assert_eq!((report.requests, report.clients), (80, 2));
        assert!(report.samples.iter().all(|sample| sample.start_s >= 5.0));
    }

    #[test]
    fn lines_that_are_lost_or_none_and_a_client_that_gives_up_end_the_point() {
        let merge = || Merge::new(&work(&point(4), 2));
        let all = lines(&steady(1.0, 90), 10);
        let mut lossy = merge();
        lossy.take(1, &all[0]).unwrap();
        assert_eq!(lossy.take(1, "some warning").unwrap(), None);
        let lost = lossy.take(1, &all[3]).unwrap_err().to_string();
        assert!(lost.contains("client 1") && lost.contains("lines 1 to 2"), "{lost}");
        assert!(merge().take(0, "#load {\"n\": ").unwrap_err().to_string().contains("a line that is none"));
        assert!(merge().take(2, &all[0]).is_err(), "there are two");
        let trouble = Trouble::Refused { url: "http://x".to_owned(), status: 404, body: "no model".to_owned() };
        let line = Line { trouble: Some(trouble), ..Line::default() };
        let refused = merge().take(0, &format!("{MARK}{}", serde_json::to_string(&line).unwrap())).unwrap_err();
        assert!(matches!(refused, LoadError::Refused { status: 404, .. }), "{refused}");
    }

    #[test]
    fn too_many_failures_over_all_clients_end_the_point() {
        let mut merge = Merge::new(&work(&Point { max_error_rate: 0.1, max_requests: 100, ..point(4) }, 2));
        let mut line = Line::default();
        line.set_outcomes(&Outcomes { finished: 30, failed: 2, first_failure: Some("status 500".to_owned()) });
        let text = format!("{MARK}{}", serde_json::to_string(&line).unwrap());
        merge.take(0, &text).unwrap();
        line.set_outcomes(&Outcomes { finished: 10, failed: 9, first_failure: None });
        let error = merge.take(1, &format!("{MARK}{}", serde_json::to_string(&line).unwrap())).unwrap_err();
        assert_eq!(error.to_string(), "11 of 40 requests failed, first: status 500");
    }

    #[test]
    fn the_health_is_that_of_the_worst_client() {
        let health = |lag: f64| ClientHealth {
            send_lateness_mean_ms: 0.1,
            send_lateness_p99_ms: 0.1,
            loop_lag_mean_ms: lag,
            loop_lag_p99_ms: lag,
            read_lag_mean_ms: 0.1,
            cpu_share: Some(0.1),
            cpu_wait_share: None,
            bound: None,
        };
        let mut merge = Merge::new(&work(&Point { max_requests: 1000, ..point(4) }, 2));
        for (client, lag) in [(0, 0.1), (1, 30.0)] {
            let mut all = lines(&steady(1.0, 90), 64);
            let last = all.pop().unwrap();
            let mut line: Line = serde_json::from_str(last.strip_prefix(MARK).unwrap()).unwrap();
            line.health = Some(health(lag));
            all.push(format!("{MARK}{}", serde_json::to_string(&line).unwrap()));
            for line in &all {
                merge.take(client, line).unwrap();
            }
        }
        let error = merge.report(Stopped::Precise, &Options::default()).unwrap_err();
        assert!(matches!(&error, LoadError::ClientBound { .. }), "{error}");
        assert!(error.to_string().contains("30.00 ms of a mean TTFT of 50.00 ms"), "{error}");
    }
}
