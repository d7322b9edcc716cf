//! One point: clients of a closed loop, arrivals of an open one, until the collector has enough.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::board::{Board, Ended, Message, Spectator};
use super::collect::Collector;
use super::exchange::{Connection, Fault};
use super::health::{self, Watch};
use super::options::Options;
use super::pace;
use super::session::Session;
use super::supply::Supply;
use crate::http::HttpError;
use crate::load::{ClientHealth, LoadError, LoadReport, Point, Prompts, Stopped, Traffic};

/// Connections that are opened at the same time: servers queue 128 of them at least.
const CONNECTING: usize = 64;

/// After a failure, a client waits before its next request, twice as long each time.
const BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// Files that the process needs besides connections.
const OTHER_FILES: u64 = 128;

/// What all requests of a point need.
pub(super) struct Lane {
    session: Arc<Session>,
    board: Board,
    supply: Supply,
    /// Part of the name of each request.
    nonce: u64,
    next_index: AtomicUsize,
    idle: Mutex<Vec<Connection>>,
    /// Connections that may be open.
    most_open: usize,
}

impl Lane {
    /// The next request's place in the order of starting.
    fn take_index(&self) -> usize {
        let index = self.next_index.fetch_add(1, Ordering::Relaxed);
        self.board.begin(index);
        index
    }

    /// Sends a request, on the given connection or a new one; the connection is there again if it can be used again.
    async fn request(
        &self,
        connection: &mut Option<Connection>,
        body: &[u8],
        index: usize,
        spectator: &mut Spectator<'_>,
    ) -> Result<super::exchange::Answer, Fault> {
        let id = format!("{:016x}-{index}", self.nonce);
        let mut retried = false;
        loop {
            let mut open = match connection.take() {
                Some(open) => open,
                None => self.session.connect().await.map_err(|e| match e {
                    HttpError::Deadline { .. } => Fault::Deadline(e.to_string()),
                    _ => Fault::Connection(e.to_string()),
                })?,
            };
            let result = self.session.ask(&mut open, body, &id, self.board.deadline(), spectator).await;
            match result {
                Ok(answer) => {
                    *connection = answer.keep_alive.then_some(open);
                    return Ok(answer);
                }
                // The server was free to close it; nothing has been lost.
                Err(Fault::Stale(_)) if !retried => retried = true,
                Err(fault) => return Err(fault),
            }
        }
    }

    fn idle<T>(&self, with: impl FnOnce(&mut Vec<Connection>) -> T) -> T {
        with(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A point under load.
pub(super) struct Running {
    lane: Arc<Lane>,
    messages: mpsc::UnboundedReceiver<Message>,
    watch: Watch,
    /// Dropping the set ends all requests.
    _tasks: JoinSet<()>,
    measuring: bool,
}

impl Running {
    /// Warms up and begins to send. Slices of time are counted from `epoch`.
    pub(super) async fn start(
        session: Arc<Session>,
        point: &Point,
        options: &Options,
        nonce: u64,
        epoch: Instant,
    ) -> Result<Self, LoadError> {
        let set = match point.traffic {
            Traffic::Closed { concurrency } => concurrency,
            _ => point.max_requests.min(64),
        };
        let (sender, messages) = mpsc::unbounded_channel();
        let (echo, echoes) = mpsc::unbounded_channel();
        let steady_at = if let Traffic::Closed { concurrency } = point.traffic { concurrency } else { 0 };
        let request_deadline = options.request_deadline.min(point.deadline / 2);
        let supply = Supply::start(session.clone(), point, set, nonce)?;
        let lane = Arc::new(Lane {
            session,
            board: Board::since(epoch, steady_at, request_deadline, sender, echo),
            supply,
            nonce,
            next_index: AtomicUsize::new(0),
            idle: Mutex::new(Vec::new()),
            most_open: open_files().map_or(usize::MAX, |n| usize::try_from(n.saturating_sub(OTHER_FILES)).unwrap_or(0)),
        });
        if set as usize > lane.most_open && matches!(point.traffic, Traffic::Closed { .. }) {
            return Err(LoadError::Setup(format!(
                "{set} requests in flight take as many connections, and this process may open {}: raise `ulimit -n`",
                lane.most_open
            )));
        }
        if point.prompts == Prompts::Shared {
            warm_up(&lane, point, set).await?;
        }
        let watch = Watch::start(echoes);
        let mut tasks = JoinSet::new();
        start(&lane, point, &mut tasks).await?;
        Ok(Self { lane, messages, watch, _tasks: tasks, measuring: false })
    }

    /// What requests write to.
    pub(super) fn lane(&self) -> Arc<Lane> {
        Arc::clone(&self.lane)
    }

    /// The next thing that happens. What the client sees of itself is counted from the first request that counts, which
    /// has the given index.
    pub(super) async fn next(&mut self, first_index: usize) -> Result<Happened, LoadError> {
        loop {
            let Some(message) = self.messages.recv().await else {
                return Err(LoadError::Setup("the load generator's clients have ended; this is a defect".to_owned()));
            };
            let begins = match message {
                Message::Begun { index } => first_index > 0 && index == first_index,
                Message::Steady => first_index == 0 && !self.measuring,
                Message::Limit(reason) => return Ok(Happened::Limit(reason)),
                Message::Ended(ended) => {
                    self.watch.sent(ended.intended, ended.begun);
                    return Ok(Happened::Ended(ended));
                }
            };
            if begins {
                self.measuring = true;
                self.watch.restart();
                return Ok(Happened::Counting);
            }
        }
    }

    /// What the client saw of itself.
    pub(super) fn health(&self) -> ClientHealth {
        self.watch.health()
    }
}

impl Lane {
    /// What requests write to.
    pub(super) const fn board(&self) -> &Board {
        &self.board
    }
}

/// What happens to a point under load.
pub(super) enum Happened {
    /// From here on requests count.
    Counting,
    /// A request has ended.
    Ended(Box<Ended>),
    /// The client has come to a limit of its own.
    Limit(String),
}

/// Measures the point on an open session.
pub(super) async fn run(
    session: Arc<Session>,
    point: &Point,
    options: &Options,
    nonce: u64,
    progress: &Mutex<String>,
) -> Result<LoadReport, LoadError> {
    let mut running = Running::start(session, point, options, nonce, Instant::now()).await?;
    let lane = running.lane();
    let mut collector = Collector::new(point, lane.board(), Instant::now());
    let stopped = loop {
        match running.next(collector.first_index()).await? {
            Happened::Counting => {}
            Happened::Limit(reason) => {
                let report = Box::new(collector.report(Stopped::MostRequests)?);
                return Err(LoadError::ClientBound { reason, report });
            }
            Happened::Ended(ended) => {
                let stopped = collector.take(ended)?;
                *progress.lock().unwrap_or_else(PoisonError::into_inner) = collector.progress();
                if let Some(stopped) = stopped {
                    break stopped;
                }
            }
        }
    };
    let client = running.health();
    health::judged(collector.report(stopped)?, client, point, options)
}

/// Sends each prompt of the set once, for one token, so that the prefix cache has it.
async fn warm_up(lane: &Arc<Lane>, point: &Point, set: u32) -> Result<(), LoadError> {
    let at_once = match point.traffic {
        Traffic::Closed { concurrency } => concurrency as usize,
        _ => 8,
    };
    stream::iter(0..set as usize)
        .map(|index| async move {
            let body = lane.supply.warm_up_body(index);
            let mut connection = lane.idle(Vec::pop);
            let mut generates = true;
            // Its own board: nothing of this counts.
            let (sender, _messages) = mpsc::unbounded_channel();
            let board = Board::new(1, lane.board.deadline(), sender, mpsc::unbounded_channel().0);
            let mut spectator = Spectator::new(&board, &mut generates);
            let id = usize::MAX - index;
            let result = lane.request(&mut connection, &body, id, &mut spectator).await;
            if let Some(connection) = connection {
                lane.idle(|idle| idle.push(connection));
            }
            match result {
                // The prompt was computed; that its one token is no text does not matter.
                Ok(_) | Err(Fault::NoText) => Ok(()),
                Err(fault) => Err(fault),
            }
        })
        .buffer_unordered(at_once.clamp(1, CONNECTING))
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
        .map_err(|fault| LoadError::Failures { failed: 1, sent: 1, first: format!("while warming up: {fault}") })
}

async fn start(lane: &Arc<Lane>, point: &Point, tasks: &mut JoinSet<()>) -> Result<(), LoadError> {
    match point.traffic {
        Traffic::Closed { concurrency } => {
            // First all connections, then all requests.
            let missing = (concurrency as usize).saturating_sub(lane.idle(|idle| idle.len()));
            let opened: Vec<Connection> = stream::iter(0..missing)
                .map(|_| lane.session.connect())
                .buffer_unordered(CONNECTING)
                .try_collect()
                .await
                .map_err(|e| lane.session.unreachable(&e.to_string()))?;
            lane.idle(|idle| idle.extend(opened));
            for client in 0..concurrency as usize {
                tasks.spawn(closed(lane.clone(), client));
            }
        }
        Traffic::Poisson { .. } | Traffic::Constant { .. } => {
            let Some(arrivals) = pace::start(point.traffic, point.seed) else { return Ok(()) };
            tasks.spawn(open(lane.clone(), arrivals));
        }
    }
    Ok(())
}

/// A client of a closed loop: one request after the other.
async fn closed(lane: Arc<Lane>, client: usize) {
    let mut connection = lane.idle(Vec::pop);
    let mut generates = false;
    let mut backoff = BACKOFF;
    let mut body = lane.supply.body(client).await;
    let mut intended = Instant::now();
    loop {
        let index = lane.take_index();
        let begun = Instant::now();
        let mut spectator = Spectator::new(&lane.board, &mut generates);
        let result = lane.request(&mut connection, &body, index, &mut spectator).await;
        let (failed, steady) = (result.is_err(), spectator.steady);
        let ended_at = Instant::now();
        lane.board.end(Ended { index, intended, begun, steady, result });
        if failed {
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        } else {
            backoff = BACKOFF;
        }
        intended = if failed { Instant::now() } else { ended_at };
        body = lane.supply.body(client).await;
    }
}

/// Begins a request at each arrival.
async fn open(lane: Arc<Lane>, mut arrivals: mpsc::UnboundedReceiver<Instant>) {
    // Dropped with this task, and all requests with it.
    let mut requests = JoinSet::new();
    while let Some(intended) = arrivals.recv().await {
        while requests.try_join_next().is_some() {}
        if requests.len() >= lane.most_open {
            lane.board.tell(Message::Limit(format!(
                "{} requests are in flight, as many as this process may have connections (`ulimit -n`)",
                requests.len()
            )));
            return;
        }
        let index = lane.take_index();
        let body = lane.supply.body(index).await;
        let lane = lane.clone();
        requests.spawn(async move {
            let begun = Instant::now();
            let mut connection = lane.idle(Vec::pop);
            let mut generates = true;
            let mut spectator = Spectator::new(&lane.board, &mut generates);
            let result = lane.request(&mut connection, &body, index, &mut spectator).await;
            let steady = spectator.steady;
            if let Some(connection) = connection {
                lane.idle(|idle| idle.push(connection));
            }
            lane.board.end(Ended { index, intended, begun, steady, result });
        });
    }
}

/// Files that this process may have open, after raising the limit as far as it may be raised.
fn open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Absent: no limit.
    let current = limit.current?;
    if limit.maximum.is_none_or(|maximum| maximum > current) {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            return limit.maximum;
        }
    }
    Some(current)
}
