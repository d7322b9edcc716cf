//! One request and its answer, timed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::sse;
use super::tokens::{Event, Stream as Tokens, Usage};
use super::wire;
use crate::http;

/// Read at once; several events of one stream arrive together only when the client is late.
const BUFFER_BYTES: usize = 8 << 10;

/// Pieces per read from which they come together. A client that is late now and then stays below.
const TOGETHER: f64 = 1.3;

/// How long to wait for the body's end after `[DONE]`.
const BODY_END: Duration = Duration::from_millis(200);

/// How much of an error's text is kept.
const ERROR_BYTES: usize = 600;

/// Why a request has no figures.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    /// The server answered with an error status.
    Status {
        /// HTTP status.
        status: u16,
        /// The start of what it said.
        body: String,
    },
    /// Connecting, sending or receiving failed.
    Connection(String),
    /// The server had closed a connection that was kept for another request; a new one will do.
    Stale(String),
    /// It took too long.
    Deadline(String),
    /// The answer is whole and has no text: nothing was generated, or only tokens that are no text.
    NoText,
    /// The answer came but makes no sense.
    Answer(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Status { status, body } => write!(f, "status {status}: {body}"),
            Fault::Connection(reason) | Fault::Stale(reason) | Fault::Deadline(reason) | Fault::Answer(reason) => {
                f.write_str(reason)
            }
            Fault::NoText => f.write_str("the answer has no text: no token was generated"),
        }
    }
}

impl From<wire::Malformed> for Fault {
    fn from(wire::Malformed(reason): wire::Malformed) -> Self {
        Fault::Answer(format!("the answer is no HTTP: {reason}"))
    }
}

impl From<sse::Malformed> for Fault {
    fn from(sse::Malformed(reason): sse::Malformed) -> Self {
        Fault::Answer(format!("the answer is no event stream: {reason}"))
    }
}

/// A connection and the buffer that it reads into.
#[derive(Debug)]
pub(super) struct Connection {
    stream: http::Stream,
    buffer: Box<[u8]>,
    /// Whether an answer was read from it before.
    used: bool,
}

impl Connection {
    pub(super) fn new(stream: http::Stream) -> Self {
        Self { stream, buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), used: false }
    }
}

/// An answer, timed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// When the request was handed to the system.
    pub(super) sent: Instant,
    /// When the first piece with text was read.
    pub(super) first: Instant,
    /// When the last one was.
    pub(super) last: Instant,
    /// Pieces with text.
    pub(super) chunks: u32,
    /// Reads that brought at least one of them.
    pub(super) reads: u32,
    /// What the server counted.
    pub(super) usage: Option<Usage>,
    /// Why generating ended, as the server says.
    pub(super) finish_reason: Option<String>,
    /// Whether the connection may be used again.
    pub(super) keep_alive: bool,
}

/// Called with each read that brought pieces with text: when, and how many.
pub(super) trait Observer {
    /// Pieces arrived.
    fn pieces(&mut self, now: Instant, count: u32);
}

/// Nobody looks.
impl Observer for () {
    fn pieces(&mut self, _: Instant, _: u32) {}
}

/// The state of an answer that is being read.
#[derive(Default)]
struct Reading {
    http: wire::Reader,
    events: sse::Parser,
    tokens: Tokens,
    /// The body of an error.
    error: Vec<u8>,
    /// Pieces with text in the last read.
    pieces: u32,
    /// `[DONE]` came.
    ended: bool,
}

impl Reading {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let Self { http, events, tokens, error, pieces, ended } = self;
        http.feed(bytes, |head, body| {
            if head.status != 200 || !head.is_event_stream {
                let room = ERROR_BYTES.saturating_sub(error.len());
                error.extend_from_slice(body.get(..room.min(body.len())).unwrap_or_default());
                return Ok(());
            }
            events.feed(body, |data, is_error| {
                match tokens.read(data, is_error) {
                    Event::Text => *pieces += 1,
                    Event::Other => {}
                    Event::End => *ended = true,
                    Event::Error(reason) => {
                        return Err(Fault::Answer(format!("the server broke the answer off: {reason}")));
                    }
                    Event::Malformed(reason) => return Err(Fault::Answer(reason)),
                }
                Ok(())
            })
        })
    }

    /// The answer is complete, and it is none that counts.
    fn refusal(&self) -> Option<Fault> {
        let body = || String::from_utf8_lossy(&self.error).trim().to_owned();
        match self.http.status {
            200 if self.http.is_event_stream => None,
            200 => Some(Fault::Answer(format!("the answer is no event stream: {}", body()))),
            status => Some(Fault::Status { status, body: body() }),
        }
    }
}

/// Sends the request, which is a whole HTTP message, and reads the answer. The connection is spent unless the answer
/// says otherwise; the caller sets the deadline.
///
/// Whether the server holds packets back until earlier ones are acknowledged is not known at first: `holds_back` says
/// whether the pieces of an answer came together, here or on another connection. From then on each read is acknowledged
/// at once, at a cost; before, only those up to the first text are.
pub(super) async fn exchange(
    connection: &mut Connection,
    request: &[u8],
    observer: &mut impl Observer,
    holds_back: &AtomicBool,
) -> Result<Answer, Fault> {
    let Connection { stream, buffer, used } = connection;
    let was_used = std::mem::replace(used, true);
    let lost = |reason: String, answered: bool| {
        if was_used && !answered { Fault::Stale(reason) } else { Fault::Connection(reason) }
    };
    let broken = |doing: &str, e: std::io::Error| lost(format!("{doing} failed: {e}"), false);
    let sent = Instant::now();
    stream.write_all(request).await.map_err(|e| broken("sending", e))?;
    stream.flush().await.map_err(|e| broken("sending", e))?;

    let mut reading = Reading::default();
    let (mut times, mut chunks, mut reads) = (None, 0, 0);
    loop {
        if chunks == 0 || holds_back.load(Ordering::Relaxed) {
            stream.acknowledge(true);
        }
        let answered = reading.http.status != 0;
        let n = stream.read(buffer).await.map_err(|e| lost(format!("receiving failed: {e}"), answered))?;
        let now = Instant::now();
        let bytes = buffer.get(..n).unwrap_or_default();
        reading.feed(bytes)?;
        let pieces = std::mem::take(&mut reading.pieces);
        if pieces > 0 {
            let (first, _) = times.unwrap_or((now, now));
            times = Some((first, now));
            chunks += pieces;
            reads += 1;
            observer.pieces(now, pieces);
            if reads == 1 && !holds_back.load(Ordering::Relaxed) {
                stream.acknowledge(false);
            }
        }
        let closed = n == 0;
        let complete = reading.http.is_done() || (closed && reading.http.is_done_at_close());
        if complete && let Some(fault) = reading.refusal() {
            return Err(fault);
        }
        // `[DONE]` says that all is there, even where the body's end is not.
        if complete || reading.ended {
            break;
        }
        if closed {
            return Err(match answered {
                false => lost("the server closed the connection without an answer".to_owned(), false),
                true => {
                    lost(format!("the connection was closed within the answer, after {chunks} pieces with text"), true)
                }
            });
        }
    }
    if !reading.ended && (!reading.events.is_between_events() || reading.tokens.finish_reason.is_none()) {
        return Err(Fault::Answer(format!("the answer ends without [DONE], after {chunks} pieces with text")));
    }
    if reading.ended && !reading.http.is_done() {
        // The body's end mostly comes a moment later; without it the connection could not be used again.
        let _ = timeout(BODY_END, async {
            while let Ok(n @ 1..) = stream.read(buffer).await {
                let fed = reading.feed(buffer.get(..n).unwrap_or_default());
                if fed.is_err() || reading.http.is_done() {
                    break;
                }
            }
        })
        .await;
    }
    if f64::from(chunks) > TOGETHER * f64::from(reads) {
        holds_back.store(true, Ordering::Relaxed);
    }
    let Some((first, last)) = times else {
        return Err(Fault::NoText);
    };
    Ok(Answer {
        sent,
        first,
        last,
        chunks,
        reads,
        usage: reading.tokens.usage,
        finish_reason: reading.tokens.finish_reason,
        keep_alive: reading.http.is_done() && reading.http.keep_alive,
    })
}
