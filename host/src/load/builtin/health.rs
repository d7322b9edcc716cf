//! The client watches itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::options::Options;
use super::random::Random;
use crate::domain::stats;
use crate::load::{ClientHealth, LoadReport};

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
}

/// Of the calling thread; Linux only.
fn thread_times() -> Option<ThreadTimes> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut nanoseconds = text.split_ascii_whitespace().map(|n| n.parse().ok().map(Duration::from_nanos));
    Some(ThreadTimes { running: nanoseconds.next()??, waiting: nanoseconds.next()?? })
}

/// Watches the thread that it was made on.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    lags_ms: Arc<Mutex<Vec<f64>>>,
    since: Instant,
    times: Option<ThreadTimes>,
    lateness_ms: Vec<f64>,
}

impl Watch {
    /// Signals begin at once; to be called on the event loop.
    pub(super) fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let lags_ms = Arc::new(Mutex::new(Vec::new()));
        let (sender, mut receiver) = mpsc::unbounded_channel::<Instant>();
        let ended = stop.clone();
        // A thread of its own: the loop's own timers have a grain of a millisecond, and share its delays.
        let signals = std::thread::Builder::new().name("load-watch".to_owned()).spawn(move || {
            let mut random = Random::new(&[2]);
            while !ended.load(Ordering::Relaxed) && sender.send(Instant::now()).is_ok() {
                // Random distances, so that the signals keep no step with an engine's.
                std::thread::sleep(SIGNAL_EVERY.mul_f64(random.exponential().min(5.0)));
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
        Self { stop, lags_ms, since: Instant::now(), times: thread_times(), lateness_ms: Vec::new() }
    }

    /// What was seen so far belongs to the warm-up.
    pub(super) fn restart(&mut self) {
        self.lags_ms.lock().unwrap_or_else(PoisonError::into_inner).clear();
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
        ClientHealth {
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
/// Every token is seen `loop_lag` late on average. TTFT has all of it, and in an open loop the sending's lateness too;
/// ITL has the difference of two lags over all tokens, for which the 99 % quantile is a bound that is met by chance only.
pub(super) fn judge(report: &LoadReport, health: &ClientHealth, is_open: bool, options: &Options) -> Option<String> {
    let share = options.max_client_share;
    if share.is_infinite() {
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
        let own = health.loop_lag_mean_ms + if is_open { health.send_lateness_mean_ms } else { 0.0 };
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
        if too_much(health.loop_lag_p99_ms, answer_ms) {
            return Some(format!(
                "it saw tokens up to {:.2} ms late, more than {percent:.1} % of an answer's {answer_ms:.2} ms",
                health.loop_lag_p99_ms
            ));
        }
    }
    None
}
