//! The load generator of the house: in this process, on a thread and an event loop of its own.
//!
//! ```text
//! session    what the server takes and how it counts            once per endpoint
//! supply     bodies of requests, made ahead <- prompts
//! run        clients (closed loop) or arrivals (open) <- pace
//!   exchange   one request, timed: wire (HTTP) -> sse (events) -> tokens (which carry text)
//!   board      what requests write to while they run -> slices (what happened when, over all of them)
//!   collect    which requests count, when there are enough, what they say -> stopping, steady
//! health     was the client the bottleneck?
//! ```

mod board;
mod collect;
mod exchange;
mod health;
mod options;
mod pace;
mod prompts;
mod run;
mod session;
mod slices;
mod sse;
mod supply;
mod tokens;
mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::{Endpoint, LoadError, LoadGenerator, LoadReport, Point};
use crate::domain::random::Random;
pub use options::{Api, Options};
use session::Session;

/// What is known of servers.
type Sessions = Mutex<Vec<(Endpoint, Arc<Session>)>>;

/// Sends requests from this process.
#[derive(Debug)]
pub struct Builtin {
    options: Options,
    /// So that it is asked once.
    sessions: Arc<Sessions>,
    /// Names of points: no two are the same, nor those of two runs.
    nonce: AtomicU64,
}

impl Default for Builtin {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl Builtin {
    /// A generator with the given settings.
    pub fn new(options: Options) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        let nonce = Random::new(&[now, u64::from(std::process::id())]).next();
        Self { options, sessions: Arc::default(), nonce: AtomicU64::new(nonce) }
    }
}

#[async_trait]
impl LoadGenerator for Builtin {
    fn name(&self) -> &'static str {
        "builtin"
    }

    async fn measure(&self, endpoint: &Endpoint, point: &Point) -> Result<LoadReport, LoadError> {
        if let Some(fault) = point.fault() {
            return Err(LoadError::Setup(fault));
        }
        let nonce = self.nonce.fetch_add(1, Ordering::Relaxed);
        let (endpoint, point, options) = (endpoint.clone(), point.clone(), self.options.clone());
        let sessions = self.sessions.clone();
        let (result_sender, result) = oneshot::channel();
        // Dropped with this future, and everything ends.
        let (_alive, cancelled) = oneshot::channel::<()>();
        let on_thread = move || {
            let outcome = on_own_loop(&sessions, &endpoint, &point, &options, nonce, cancelled);
            // Nobody waits any more when this was cancelled.
            let _ = result_sender.send(outcome);
        };
        std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(on_thread)
            .map_err(|e| LoadError::Setup(format!("no thread for the load generator: {e}")))?;
        result.await.unwrap_or_else(|_| {
            Err(LoadError::Setup("the load generator's thread has ended; this is a defect".to_owned()))
        })
    }
}

/// The whole measurement, on the calling thread: nothing else of the program delays what is timed.
fn on_own_loop(
    sessions: &Sessions,
    endpoint: &Endpoint,
    point: &Point,
    options: &Options,
    nonce: u64,
    cancelled: oneshot::Receiver<()>,
) -> Result<LoadReport, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| LoadError::Setup(format!("no event loop for the load generator: {e}")))?;
    let progress = Mutex::new("not one request has ended".to_owned());
    let work = async {
        let session = match known(sessions, endpoint) {
            Some(session) => session,
            None => {
                let session = Arc::new(Session::open(endpoint, options).await?);
                sessions.lock().unwrap_or_else(PoisonError::into_inner).push((endpoint.clone(), session.clone()));
                session
            }
        };
        run::run(session, point, options, nonce, &progress).await
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = tokio::time::timeout(point.deadline, work) => outcome.unwrap_or_else(|_| {
                let progress = progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
                Err(LoadError::Deadline { deadline_s: point.deadline.as_secs_f64(), progress })
            }),
            _ = cancelled => Err(LoadError::Setup("cancelled".to_owned())),
        }
    });
    // A name that is still being looked up must not hold the end up.
    runtime.shutdown_background();
    outcome
}

fn known(sessions: &Sessions, endpoint: &Endpoint) -> Option<Arc<Session>> {
    let sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
    sessions.iter().find(|(known, _)| known == endpoint).map(|(_, session)| session.clone())
}
