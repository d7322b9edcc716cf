//! What all requests of a point write to while they run, and what they tell the collector.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::exchange::{Answer, Fault, Observer};
use super::slices::Slices;

/// No deadline of a single request is shorter than this, however fast the others were.
const SHORTEST_DEADLINE: Duration = Duration::from_secs(30);

/// A request that takes so many times as long as the longest so far is hung.
const HUNG: u32 = 20;

/// A request that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// In the order of starting, from 0.
    pub(super) index: usize,
    /// When it should have begun.
    pub(super) intended: Instant,
    /// When the client began with it.
    pub(super) begun: Instant,
    /// Where the part of the answer begins that is in steady state.
    pub(super) steady: Option<Mark>,
    /// What came of it.
    pub(super) result: Result<Answer, Fault>,
}

/// A place in an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mark {
    /// When it was read.
    pub(super) at: Instant,
    /// Pieces with text up to there.
    pub(super) chunks: u32,
    /// Whether the answer began there.
    pub(super) is_first: bool,
}

/// What the collector learns.
#[derive(Debug)]
pub(super) enum Message {
    /// A request begins.
    Begun {
        /// Its index.
        index: usize,
    },
    /// As many requests generate as should be in flight.
    Steady,
    /// A request has ended.
    Ended(Box<Ended>),
    /// The client has come to a limit of its own.
    Limit(String),
}

/// Shared by all requests of a point.
#[derive(Debug)]
pub(super) struct Board {
    slices: Mutex<Slices>,
    /// Those that generate, and as many as it takes.
    generating: AtomicU32,
    concurrency: u32,
    steady: OnceLock<Instant>,
    longest_ms: AtomicU64,
    request_deadline: Duration,
    sender: UnboundedSender<Message>,
    echoes: UnboundedSender<Instant>,
}

impl Board {
    /// Steady state begins when `concurrency` requests generate; at once with 0.
    pub(super) fn new(
        concurrency: u32,
        request_deadline: Duration,
        sender: UnboundedSender<Message>,
        echoes: UnboundedSender<Instant>,
    ) -> Self {
        Self::since(Instant::now(), concurrency, request_deadline, sender, echoes)
    }

    /// The same with slices that begin at another moment, one that several clients share.
    pub(super) fn since(
        epoch: Instant,
        concurrency: u32,
        request_deadline: Duration,
        sender: UnboundedSender<Message>,
        echoes: UnboundedSender<Instant>,
    ) -> Self {
        let steady = OnceLock::new();
        if concurrency == 0 {
            let _ = steady.set(Instant::now());
        }
        Self {
            slices: Mutex::new(Slices::new(epoch)),
            generating: AtomicU32::new(0),
            concurrency,
            steady,
            longest_ms: AtomicU64::new(0),
            request_deadline,
            sender,
            echoes,
        }
    }

    /// For the collector.
    pub(super) fn slices<T>(&self, read: impl FnOnce(&mut Slices) -> T) -> T {
        read(&mut self.slices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Since when as many requests generate as should be in flight.
    pub(super) fn steady(&self) -> Option<Instant> {
        self.steady.get().copied()
    }

    /// How long the next request may take.
    pub(super) fn deadline(&self) -> Duration {
        match self.longest_ms.load(Ordering::Relaxed) {
            0 => self.request_deadline,
            ms => (Duration::from_millis(ms) * HUNG).max(SHORTEST_DEADLINE).min(self.request_deadline),
        }
    }

    /// Tells the collector. When nobody listens, all is over anyway.
    pub(super) fn tell(&self, message: Message) {
        let _ = self.sender.send(message);
    }

    pub(super) fn begin(&self, index: usize) {
        self.slices(|slices| slices.sent(Instant::now()));
        self.tell(Message::Begun { index });
    }

    pub(super) fn end(&self, ended: Ended) {
        let completed = ended.result.is_ok();
        self.slices(|slices| slices.ended(Instant::now(), completed));
        if completed {
            let ms = u64::try_from(ended.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.longest_ms.fetch_max(ms.max(1), Ordering::Relaxed);
        }
        self.tell(Message::Ended(Box::new(ended)));
    }
}

/// Watches one answer.
#[derive(Debug)]
pub(super) struct Spectator<'a> {
    board: &'a Board,
    /// Whether its client has had an answer before.
    generates: &'a mut bool,
    previous: Option<Instant>,
    chunks: u32,
    /// Where steady state begins in this answer.
    pub(super) steady: Option<Mark>,
}

impl<'a> Spectator<'a> {
    pub(super) fn new(board: &'a Board, generates: &'a mut bool) -> Self {
        Self { board, generates, previous: None, chunks: 0, steady: None }
    }
}

impl Observer for Spectator<'_> {
    fn pieces(&mut self, now: Instant, count: u32) {
        let gap = self.previous.map(|previous| now.saturating_duration_since(previous));
        self.board.slices(|slices| slices.pieces(now, count, gap));
        if self.chunks == 0 {
            let _ = self.board.echoes.send(now);
        }
        self.chunks += count;
        if !*self.generates {
            *self.generates = true;
            if self.board.generating.fetch_add(1, Ordering::Relaxed) + 1 == self.board.concurrency
                && self.board.steady.set(now).is_ok()
            {
                self.board.tell(Message::Steady);
            }
        }
        if self.steady.is_none() && self.board.steady.get().is_some() {
            self.steady = Some(Mark { at: now, chunks: self.chunks, is_first: self.previous.is_none() });
        }
        self.previous = Some(now);
    }
}
