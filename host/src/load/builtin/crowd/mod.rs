//! Several clients on one point, where one is not enough.
//!
//! ```text
//! Work (the point, for N clients) --share--> client 0 … N-1, each a process of its own, sending until it is ended
//!                                              '--Line, twice a second: requests that ended, slices of time, health
//! Merge <---------------------------------------'
//!   '--> enough? the clients are ended, and the report is that of one client which saw it all
//! ```
//!
//! Exact: what crosses is each request with its times, and slices in whole numbers. Statistics, intervals and the rule
//! for stopping are taken over all of them together; nothing is averaged over clients. Requests count from the moment
//! at which every client has its share in flight, up to the last one before which all have ended everywhere; the load
//! stays on meanwhile.
//!
//! Clients share a clock, that of their nodes. An error of it shifts a client's requests against those of others, which
//! moves the edges of the time that is averaged over, and no latency.

mod client;
mod line;
mod merge;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use client::run;
pub use merge::Merge;

use super::prompts::Prompter;
use super::{Api, Options};
use crate::domain::random::Random;
use crate::load::{Endpoint, LoadError, Point, Traffic};

/// Most clients: each is a pod, and a stream of lines through the API server.
pub const MOST_CLIENTS: u32 = 64;

/// What all clients of a point are told; one text for all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Where the engine answers, as seen by clients.
    pub url: String,
    /// Name of the model there.
    pub model: String,
    /// Words of which prompts are made.
    words: Vec<String>,
    /// Tokens that the tokenizer puts around a text.
    around: u32,
    /// The whole point.
    pub point: Point,
    /// How many clients.
    pub clients: u32,
    /// Zero of everybody's times, in seconds of Unix time.
    epoch_s: f64,
}

fn unix_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Words of a tokenizer, for clients that have none.
#[derive(Debug, Clone, PartialEq)]
pub struct Vocabulary {
    words: Vec<String>,
    around: u32,
}

impl Vocabulary {
    /// Of a `tokenizer.json`, or of common words where there is none.
    ///
    /// # Errors
    /// If the file is none.
    pub fn of(tokenizer: Option<&Path>) -> Result<Self, LoadError> {
        let prompter = match tokenizer {
            Some(path) => Prompter::from_file(path).map_err(LoadError::Setup)?,
            None => Prompter::of_common_words(),
        };
        let (words, around) = prompter.vocabulary();
        Ok(Self { words, around })
    }
}

impl Work {
    /// The point for `clients` clients, fewer where it has less to share.
    ///
    /// # Errors
    /// If the point makes no sense, or cannot be shared.
    pub fn new(endpoint: &Endpoint, vocabulary: &Vocabulary, point: &Point, clients: u32) -> Result<Self, LoadError> {
        if let Some(fault) = point.fault() {
            return Err(LoadError::Setup(fault));
        }
        let most = match point.traffic {
            Traffic::Closed { concurrency } => concurrency,
            Traffic::Poisson { .. } => point.max_requests,
            Traffic::Constant { .. } => {
                return Err(LoadError::Setup("arrivals at equal distances come from one client only".to_owned()));
            }
        };
        Ok(Self {
            url: endpoint.url.clone(),
            model: endpoint.model.clone(),
            words: vocabulary.words.clone(),
            around: vocabulary.around,
            point: Point { artifacts: None, ..point.clone() },
            clients: clients.clamp(1, most.clamp(1, MOST_CLIENTS)),
            epoch_s: unix_s(),
        })
    }

    /// What one client sends: its part of the requests in flight, or of the rate (the sum of Poisson processes is one).
    fn share(&self, client: u32) -> Point {
        let clients = self.clients.max(1);
        let traffic = match self.point.traffic {
            Traffic::Closed { concurrency } => {
                Traffic::Closed { concurrency: concurrency / clients + u32::from(client < concurrency % clients) }
            }
            Traffic::Poisson { requests_per_second } => {
                Traffic::Poisson { requests_per_second: requests_per_second / f64::from(clients) }
            }
            constant @ Traffic::Constant { .. } => constant,
        };
        // Other prompts and other arrivals for each.
        let seed = Random::new(&[self.point.seed, u64::from(client) + 1]).next();
        Point { traffic, seed, ..self.point.clone() }
    }

    fn options(&self) -> Options {
        Options { api: Api::default(), ..Options::default() }
    }

    /// How long a client goes on at most: nobody may be left to end it.
    pub fn longest(&self) -> Duration {
        self.point.deadline + Duration::from_secs(60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Aim, Probe, Role, Sla};

    pub(super) fn point(concurrency: u32) -> Point {
        let sla = Sla { ttft_ms: None, itl_ms: None, e2e_ms: None, quantile: None };
        let probe = Probe { candidate: 0, isl: 9, osl: 5, concurrency, relative_precision: 0.1, max_samples: 100 };
        Point::of(Role::Prefill, &probe, Aim::Value, &sla, 7)
    }

    fn work(point: &Point, clients: u32) -> Result<Work, LoadError> {
        Work::new(&Endpoint::new("http://x", "m"), &Vocabulary::of(None).unwrap(), point, clients)
    }

    #[test]
    fn shares_are_the_whole_and_differ_in_their_prompts() {
        for (concurrency, clients) in [(10, 3), (7, 7), (3, 8), (1000, 64)] {
            let work = work(&point(concurrency), clients).unwrap();
            let shares: Vec<Point> = (0..work.clients).map(|client| work.share(client)).collect();
            let sum: u32 = shares
                .iter()
                .map(|share| match share.traffic {
                    Traffic::Closed { concurrency } => concurrency,
                    _ => panic!("it is closed"),
                })
                .sum();
            assert_eq!(sum, concurrency);
            assert!(shares.iter().all(|share| share.traffic != Traffic::Closed { concurrency: 0 }));
            let seeds: std::collections::BTreeSet<u64> = shares.iter().map(|share| share.seed).collect();
            assert_eq!(seeds.len(), shares.len());
        }
    }

    #[test]
    fn a_rate_is_shared_and_equal_distances_are_not() {
        let poisson = Point { traffic: Traffic::Poisson { requests_per_second: 9.0 }, ..point(1) };
        assert_eq!(work(&poisson, 3).unwrap().share(2).traffic, Traffic::Poisson { requests_per_second: 3.0 });
        let constant = Point { traffic: Traffic::Constant { requests_per_second: 9.0 }, ..point(1) };
        assert!(work(&constant, 3).unwrap_err().to_string().contains("one client"));
        assert!(work(&Point { osl: 0, ..poisson }, 3).is_err());
    }

    #[test]
    fn the_work_survives_its_way_to_a_client_and_fits_into_a_variable() {
        let work = work(&point(3), 2).unwrap();
        let text = serde_json::to_string(&work).unwrap();
        assert_eq!(serde_json::from_str::<Work>(&text).unwrap(), work);
        assert!(text.len() < 64 << 10);
    }
}
