//! One of several clients: sends its share until it is ended from outside, and says what comes of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::line::{Line, MARK, PER_LINE, Trouble};
use super::{Work, unix_s};
use crate::load::builtin::collect::Collector;
use crate::load::builtin::prompts::Prompter;
use crate::load::builtin::run::{Happened, Lane, Running};
use crate::load::builtin::session::Session;
use crate::load::builtin::slices::Slice;
use crate::load::{Endpoint, LoadError};

/// Between two lines.
const EVERY: Duration = Duration::from_millis(500);

/// Sends the share of the client with that number, and gives each line to `say`. Ends with an error only; the caller ends
/// it when it is asked to.
///
/// # Errors
/// If it cannot go on, or the point's deadline has passed and nobody has ended it. What it was is in the last line, too.
pub async fn run(work: &Work, client: u32, say: impl FnMut(String) + Send) -> Result<(), LoadError> {
    let mut speaker = Speaker { say, next: Line::default() };
    let outcome = tokio::time::timeout(work.longest(), share(work, client, &mut speaker)).await;
    let error = match outcome {
        Ok(Ok(never)) => match never {},
        Ok(Err(error)) => error,
        Err(_) => LoadError::Deadline {
            deadline_s: work.longest().as_secs_f64(),
            progress: "nobody has ended this client".to_owned(),
        },
    };
    let message = error.to_string();
    speaker.next.trouble = Some(Trouble::from(error));
    speaker.speak();
    Err(LoadError::Setup(message))
}

/// The zero of all clients on this process' clock.
fn epoch(work: &Work) -> Result<Instant, LoadError> {
    let age = Duration::try_from_secs_f64(unix_s() - work.epoch_s).ok();
    age.and_then(|age| Instant::now().checked_sub(age))
        .ok_or_else(|| LoadError::Setup("this node's clock is before that of whoever started the client".to_owned()))
}

async fn share(
    work: &Work,
    client: u32,
    speaker: &mut Speaker<impl FnMut(String) + Send>,
) -> Result<std::convert::Infallible, LoadError> {
    let (point, options) = (work.share(client), work.options());
    let prompter = Prompter::of_vocabulary(work.words.clone(), work.around);
    let endpoint = Endpoint::new(work.url.clone(), work.model.clone());
    let session = Arc::new(Session::open_with(&endpoint, &options, prompter).await?);
    let nonce = super::Random::new(&[unix_s().to_bits(), u64::from(std::process::id()), u64::from(client)]).next();
    let epoch = epoch(work)?;
    let mut running = Running::start(session, &point, &options, nonce, epoch).await?;
    let lane = running.lane();
    let mut collector = Collector::new(&point, lane.board(), epoch);
    let mut tick = tokio::time::interval(EVERY);
    let mut said = 0;
    loop {
        tokio::select! {
            happened = running.next(collector.first_index()) => match happened? {
                Happened::Counting => {
                    speaker.next.from_s = Some(epoch.elapsed().as_secs_f64());
                }
                Happened::Ended(ended) => {
                    collector.absorb(ended);
                }
                Happened::Limit(reason) => return Err(LoadError::ClientBound {
                    reason,
                    report: Box::new(collector.report(crate::load::Stopped::MostRequests)?),
                }),
            },
            _ = tick.tick() => {
                // In an open loop everything counts from the first request on.
                if lane.board().steady().is_some() && collector.first_index() == 0 {
                    let now = epoch.elapsed().as_secs_f64();
                    speaker.next.from_s.get_or_insert(now);
                }
                speaker.next.health = Some(running.health());
                said = speaker.tell(&lane, &mut collector, said);
            }
        }
    }
}

/// Writes lines.
struct Speaker<S> {
    say: S,
    next: Line,
}

impl<S: FnMut(String) + Send> Speaker<S> {
    fn speak(&mut self) {
        self.next.at_s = unix_s();
        // Figures are finite and keys are text: it is JSON.
        if let Ok(text) = serde_json::to_string(&self.next) {
            (self.say)(format!("{MARK}{text}"));
        }
        self.next.n += 1;
        self.next.set_requests(&[]);
        self.next.set_slices(&[]);
    }

    /// What is new since slice `said`; returns up to which slice it is told now.
    fn tell(&mut self, lane: &Lane, collector: &mut Collector<'_>, said: usize) -> usize {
        let now = Instant::now();
        let (slices, until): (Vec<(usize, Slice)>, usize) = lane.board().slices(|slices| {
            let until = slices.complete(now);
            let new = slices.rows(now).between(said, until).map(|(index, slice)| (index, *slice));
            (new.collect(), until)
        });
        let settled_s = collector.settled_s();
        let counted = collector.drain();
        self.next.set_outcomes(collector.outcomes());
        let (mut counted, mut slices) = (counted.chunks(PER_LINE), slices.chunks(PER_LINE));
        loop {
            let (some, more) = (counted.next(), slices.next());
            self.next.set_requests(some.unwrap_or_default());
            self.next.set_slices(more.unwrap_or_default());
            if counted.len() == 0 && slices.len() == 0 {
                // Only now all of it is told.
                (self.next.settled_s, self.next.until) = (settled_s, until);
                self.speak();
                return until;
            }
            self.speak();
        }
    }
}
