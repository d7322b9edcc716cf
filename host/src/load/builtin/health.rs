//! The client watches itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::options::Options;
use crate::domain::random::Random;
use crate::domain::stats;
use crate::load::{ClientHealth, LoadReport, Point, Traffic};

/// Mean distance of the signals: a hundred a second cost a thousandth of a CPU.
const SIGNAL_EVERY: Duration = Duration::from_millis(10);

/// Latencies are never told apart more finely than this on a shared machine, so no lag below it is held against the client.
const NEGLIGIBLE_MS: f64 = 0.5;

/// Above this fraction of the time, running or waiting for a CPU, an event loop has a queue of its own.
const BUSY: f64 = 0.9;

/// Times of the event loop's thread as the system counts them.
#[derive(Debug, Clone, Copy)]
struct ThreadTimes {
    running: Duration,
    waiting: Duration,
    /// Times that it was given a CPU.
    turns: f64,
}

/// Of the calling thread; Linux only.
fn thread_times() -> Option<ThreadTimes> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_ascii_whitespace().map(|n| n.parse::<u64>().ok());
    Some(ThreadTimes {
        running: Duration::from_nanos(numbers.next()??),
        waiting: Duration::from_nanos(numbers.next()??),
        turns: numbers.next()?? as f64,
    })
}

/// Watches the thread that it was made on.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    lags_ms: Arc<Mutex<Vec<f64>>>,
    echoes_ms: Arc<Mutex<Vec<f64>>>,
    since: Instant,
    times: Option<ThreadTimes>,
    lateness_ms: Vec<f64>,
}

impl Watch {
    /// Signals begin at once; to be called on the event loop. Whoever reads a first token sends the moment to `echoes`:
    /// it comes back after all that was in the loop's queue, so its way takes as long as that token waited.
    pub(super) fn start(mut echoes: mpsc::UnboundedReceiver<Instant>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let lags_ms = Arc::new(Mutex::new(Vec::new()));
        let (sender, mut receiver) = mpsc::unbounded_channel::<Instant>();
        let ended = stop.clone();
        // A thread of its own: the loop's own timers have a grain of a millisecond, and share its delays.
        let signals = std::thread::Builder::new().name("load-watch".to_owned()).spawn(move || {
            let mut random = Random::new(&[2]);
            // When the signal should be given, not when it is: where the loop gets no CPU, this thread gets none either.
            let mut due = Instant::now();
            while !ended.load(Ordering::Relaxed) && sender.send(due).is_ok() {
                // Random distances, so that the signals keep no step with an engine's.
                due += SIGNAL_EVERY.mul_f64(random.exponential(1.0).min(5.0));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        });
        if let Err(error) = signals {
            tracing::warn!("the event loop is not watched: {error}");
        }
        let lags = lags_ms.clone();
        tokio::spawn(async move {
            while let Some(sent) = receiver.recv().await {
                let lag = sent.elapsed().as_secs_f64() * 1e3;
                lags.lock().unwrap_or_else(PoisonError::into_inner).push(lag);
            }
        });
        let echoes_ms = Arc::new(Mutex::new(Vec::new()));
        let echoed = echoes_ms.clone();
        tokio::spawn(async move {
            while let Some(sent) = echoes.recv().await {
                let lag = sent.elapsed().as_secs_f64() * 1e3;
                echoed.lock().unwrap_or_else(PoisonError::into_inner).push(lag);
            }
        });
        Self { stop, lags_ms, echoes_ms, since: Instant::now(), times: thread_times(), lateness_ms: Vec::new() }
    }

    /// What was seen so far belongs to the warm-up.
    pub(super) fn restart(&mut self) {
        self.lags_ms.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.echoes_ms.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.lateness_ms.clear();
        self.since = Instant::now();
        self.times = thread_times();
    }

    /// A request should have begun at the one moment and did at the other.
    pub(super) fn sent(&mut self, intended: Instant, begun: Instant) {
        self.lateness_ms.push(begun.saturating_duration_since(intended).as_secs_f64() * 1e3);
    }

    /// What was seen since the restart; `bound` is for [`judge`].
    pub(super) fn health(&self) -> ClientHealth {
        let lags = self.lags_ms.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let wall = self.since.elapsed().as_secs_f64();
        let share = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / wall.max(1e-9);
        let times = self.times.zip(thread_times());
        let or_zero = |x: Option<f64>| x.unwrap_or(0.0);
        let queued = or_zero(stats::mean(&self.echoes_ms.lock().unwrap_or_else(PoisonError::into_inner)));
        let waited = times.map_or(0.0, |(then, now)| {
            now.waiting.saturating_sub(then.waiting).as_secs_f64() * 1e3 / (now.turns - then.turns).max(1.0)
        });
        ClientHealth {
            read_lag_mean_ms: queued + waited,
            send_lateness_mean_ms: or_zero(stats::mean(&self.lateness_ms)),
            send_lateness_p99_ms: or_zero(stats::quantile(&self.lateness_ms, 0.99)),
            loop_lag_mean_ms: or_zero(stats::mean(&lags)),
            loop_lag_p99_ms: or_zero(stats::quantile(&lags, 0.99)),
            cpu_share: times.map(|(then, now)| share(now.running, then.running)),
            cpu_wait_share: times.map(|(then, now)| share(now.waiting, then.waiting)),
            bound: None,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Why the report's figures are the client's and not the engine's, if they are: its own share of a latency is more than
/// the options allow, or its event loop was busy all the time.
///
/// Tokens are seen `read_lag` late on average, or `loop_lag` where that is more. TTFT has all of it, and in an open loop
/// the sending's lateness too. ITL has the difference of two lags over all tokens: nothing on average, and for a quantile
/// of it the 99 % quantile of the lag is a bound that is met by chance only.
pub(super) fn judge(report: &LoadReport, health: &ClientHealth, point: &Point, options: &Options) -> Option<String> {
    let is_open = !matches!(point.traffic, Traffic::Closed { .. });
    let share = options.max_client_share;
    if share >= 1.0 {
        return None;
    }
    let busy = health.cpu_share.unwrap_or(0.0) + health.cpu_wait_share.unwrap_or(0.0);
    if busy > BUSY {
        return Some(format!(
            "its event loop was running, or waiting for a CPU, for {:.0} % of the time",
            busy * 100.0
        ));
    }
    let too_much = |own_ms: f64, of_ms: f64| own_ms > (share * of_ms).max(NEGLIGIBLE_MS);
    let percent = share * 100.0;
    if let Some(ttft) = report.ttft_ms {
        let own = health.loop_lag_mean_ms.max(health.read_lag_mean_ms)
            + if is_open { health.send_lateness_mean_ms } else { 0.0 };
        if too_much(own, ttft.stat.mean) {
            return Some(format!(
                "{own:.2} ms of a mean TTFT of {:.2} ms are its own, more than {percent:.1} %",
                ttft.stat.mean
            ));
        }
    }
    if let Some(itl) = report.itl_ms {
        let tokens = report.samples.iter().map(|s| f64::from(s.output_tokens)).sum::<f64>();
        let answer_ms = itl.stat.mean * (tokens / f64::from(report.requests.max(1)) - 1.0).max(1.0);
        let lag_ms = if point.quantile.is_some() { health.loop_lag_p99_ms } else { health.loop_lag_mean_ms };
        if too_much(lag_ms, answer_ms) {
            return Some(format!(
                "it saw tokens {lag_ms:.2} ms late, more than {percent:.1} % of an answer's {answer_ms:.2} ms"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::stopping::figure;
    use crate::load::{Estimate, RequestSample, Stopped};

    /// TTFT 100 ms, ITL 10 ms, 50 tokens.
    fn report() -> LoadReport {
        let nothing = Estimate { value: 0.0, ci_low: 0.0, ci_high: 0.0, samples: 0 };
        let sample = RequestSample {
            start_s: 0.0,
            ttft_ms: 100.0,
            itl_ms: Some(10.0),
            e2e_ms: 590.0,
            input_tokens: 9,
            output_tokens: 50,
        };
        LoadReport {
            ttft_ms: figure(&[100.0; 20], None, None),
            itl_ms: figure(&[10.0; 20], None, None),
            e2e_ms: figure(&[590.0; 20], None, None),
            requests: 20,
            failed_requests: 0,
            first_failure: None,
            wrong_length_requests: 0,
            concurrency_seen: nothing,
            input_tokens_per_second: nothing,
            output_tokens_per_second: nothing,
            requests_per_second: nothing,
            duration_s: 1.0,
            stopped: Stopped::Precise,
            unsteady: None,
            tokens_per_chunk: 1.0,
            chunks_per_read: 1.0,
            client: None,
            samples: vec![sample; 20],
        }
    }

    fn well() -> ClientHealth {
        ClientHealth {
            send_lateness_mean_ms: 0.05,
            send_lateness_p99_ms: 0.2,
            loop_lag_mean_ms: 0.1,
            loop_lag_p99_ms: 1.0,
            read_lag_mean_ms: 0.1,
            cpu_share: Some(0.3),
            cpu_wait_share: Some(0.1),
            bound: None,
        }
    }

    fn point(traffic: Traffic, quantile: Option<f64>) -> Point {
        let sla = crate::domain::Sla { ttft_ms: None, itl_ms: None, e2e_ms: None, quantile };
        Point { traffic, ..Point::open_loop(9, 50, 1.0, 20, &sla, 1) }
    }

    const CLOSED: Traffic = Traffic::Closed { concurrency: 1 };
    const OPEN: Traffic = Traffic::Poisson { requests_per_second: 1.0 };

    #[test]
    fn a_client_that_keeps_up_is_not_the_bottleneck() {
        let point = point(OPEN, Some(0.99));
        assert_eq!(judge(&report(), &well(), &point, &Options::default()), None);
        let elsewhere = ClientHealth { cpu_share: None, cpu_wait_share: None, ..well() };
        assert_eq!(judge(&report(), &elsewhere, &point, &Options::default()), None);
    }

    #[test]
    fn each_way_of_being_late_is_named_with_its_share() {
        let point = point(CLOSED, Some(0.99));
        let rows = [
            (ClientHealth { loop_lag_mean_ms: 1.2, ..well() }, "1.20 ms of a mean TTFT of 100.00 ms"),
            (ClientHealth { read_lag_mean_ms: 3.0, ..well() }, "3.00 ms of a mean TTFT"),
            (ClientHealth { loop_lag_p99_ms: 6.0, ..well() }, "6.00 ms late, more than 1.0 % of an answer's 490.00 ms"),
            (ClientHealth { cpu_share: Some(0.6), cpu_wait_share: Some(0.35), ..well() }, "for 95 % of the time"),
        ];
        for (health, reason) in rows {
            let said = judge(&report(), &health, &point, &Options::default()).unwrap();
            assert!(said.contains(reason), "{said}");
            let indifferent = Options { max_client_share: 1.0, ..Options::default() };
            assert_eq!(judge(&report(), &health, &point, &indifferent), None);
        }
    }

    #[test]
    fn now_and_then_a_late_token_matters_to_a_quantile_and_not_to_the_mean() {
        let late = ClientHealth { loop_lag_p99_ms: 6.0, ..well() };
        assert_eq!(judge(&report(), &late, &point(CLOSED, None), &Options::default()), None);
    }

    #[test]
    fn sending_late_counts_where_latency_is_from_the_intended_start() {
        let late = ClientHealth { send_lateness_mean_ms: 2.0, ..well() };
        assert!(judge(&report(), &late, &point(OPEN, None), &Options::default()).is_some());
        assert_eq!(judge(&report(), &late, &point(CLOSED, None), &Options::default()), None);
    }
}
