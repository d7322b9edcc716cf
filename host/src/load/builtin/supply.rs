//! Bodies of requests, made before they are needed.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

use super::session::Session;
use crate::domain::random::Random;
use crate::load::{LoadError, Point, Prompts};

/// Bytes of bodies that wait, at most; a token is about 6 bytes.
const MOST_BYTES: usize = 64 << 20;

/// Bodies that wait, at least: the maker must not be woken for each.
const FEWEST: usize = 16;

/// The bodies of one point.
#[derive(Debug)]
pub(super) enum Supply {
    /// One for each client, and the same for one token.
    Shared { bodies: Vec<Arc<[u8]>>, warm_up: Vec<Arc<[u8]>> },
    /// A new one for each request, from a thread that makes them.
    Unique(Mutex<mpsc::Receiver<Arc<[u8]>>>),
}

impl Supply {
    /// Makes those of a shared set, of the given size; begins to make unique ones.
    pub(super) fn start(session: Arc<Session>, point: &Point, set: u32, nonce: u64) -> Result<Self, LoadError> {
        let tokens = session.text_tokens(point.isl)?;
        let osl = point.osl;
        let prompt = move |session: &Session, parts: &[u64]| {
            session.prompter.prompt(tokens, &mut Random::new(parts)).map_err(LoadError::Setup)
        };
        if point.prompts == Prompts::Shared {
            let (mut bodies, mut warm_up) = (Vec::new(), Vec::new());
            for client in 0..u64::from(set) {
                let prompt = prompt(&session, &[point.seed, client])?;
                bodies.push(session.body(&prompt, osl).into());
                warm_up.push(session.body(&prompt, 1).into());
            }
            return Ok(Supply::Shared { bodies, warm_up });
        }
        // The first here, so that what is wrong with the length is said.
        let seed = point.seed;
        let unique = move |session: &Session, index: u64| -> Result<Arc<[u8]>, LoadError> {
            // The nonce: an engine may have the prompts of an earlier run in its cache.
            Ok(session.body(&prompt(session, &[seed, nonce, index])?, osl).into())
        };
        let first = unique(&session, 0)?;
        let waiting = (set as usize * 2).clamp(FEWEST, (MOST_BYTES / first.len().max(1)).max(FEWEST));
        let (sender, receiver) = mpsc::channel(waiting);
        std::thread::Builder::new()
            .name("load-prompts".to_owned())
            .spawn(move || {
                let mut next = Ok(first);
                for index in 1.. {
                    // What was possible once is possible again; an error ends the supply and the point with it.
                    let Ok(body) = next else { return };
                    if sender.blocking_send(body).is_err() {
                        return;
                    }
                    next = unique(&session, index);
                }
            })
            .map_err(|e| LoadError::Setup(format!("no thread for making prompts: {e}")))?;
        Ok(Supply::Unique(Mutex::new(receiver)))
    }

    /// The body of a client's next request, or of an arrival.
    pub(super) async fn body(&self, client: usize) -> Arc<[u8]> {
        match self {
            Supply::Shared { bodies, .. } => at(bodies, client),
            Supply::Unique(receiver) => match receiver.lock().await.recv().await {
                Some(body) => body,
                // The point's deadline ends the wait.
                None => std::future::pending().await,
            },
        }
    }

    /// The body of a prompt of the set, for one token.
    pub(super) fn warm_up_body(&self, client: usize) -> Arc<[u8]> {
        match self {
            Supply::Shared { warm_up, .. } => at(warm_up, client),
            Supply::Unique(_) => Arc::default(),
        }
    }
}

fn at(bodies: &[Arc<[u8]>], client: usize) -> Arc<[u8]> {
    bodies.get(client % bodies.len().max(1)).cloned().unwrap_or_default()
}
