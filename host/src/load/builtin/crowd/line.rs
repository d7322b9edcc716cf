//! What a client says, one line at a time.

use serde::{Deserialize, Serialize};

use crate::load::builtin::findings::{Counted, Outcomes};
use crate::load::builtin::slices::Slice;
use crate::load::{ClientHealth, LoadError, RequestSample};

/// Before each line: a pod's log mixes it with what the program says to people.
pub(super) const MARK: &str = "#load ";

/// Requests in one line, and slices: container runtimes cut lines at 16 KiB.
pub(super) const PER_LINE: usize = 64;

/// Longest line that is read.
pub(super) const LONGEST: usize = 64 << 10;

/// A request: start, TTFT, ITL, whole time, prompt tokens, generated tokens, pieces, reads.
type Request = (f64, f64, Option<f64>, f64, u32, u32, u32, u32);

/// A slice: index, gaps in nanoseconds, gaps, pieces, requests in flight in nanoseconds, completed.
type Row = (usize, u64, u32, u32, u64, u32);

/// One line. Times are seconds since the common zero.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    /// Number of the line, from 0.
    pub(super) n: u32,
    /// When it was written.
    pub(super) at_s: f64,
    /// Since when this client's requests count; absent while it fills the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) from_s: Option<f64>,
    /// All its requests that began up to then have ended, and are in this line or an earlier one.
    pub(super) settled_s: f64,
    /// Slices before this index will not change any more, and are in this line or an earlier one.
    pub(super) until: usize,
    pub(super) finished: u32,
    pub(super) failed: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) first_failure: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) requests: Vec<Request>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) slices: Vec<Row>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) health: Option<ClientHealth>,
    /// Why it cannot go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trouble: Option<Trouble>,
}

impl Line {
    pub(super) fn set_outcomes(&mut self, outcomes: &Outcomes) {
        (self.finished, self.failed) = (outcomes.finished, outcomes.failed);
        self.first_failure = outcomes.first_failure.clone();
    }

    pub(super) fn outcomes(&self) -> Outcomes {
        Outcomes { finished: self.finished, failed: self.failed, first_failure: self.first_failure.clone() }
    }

    pub(super) fn set_requests(&mut self, counted: &[Counted]) {
        let request = |counted: &Counted| {
            let RequestSample { start_s, ttft_ms, itl_ms, e2e_ms, input_tokens, output_tokens } = counted.sample;
            (start_s, ttft_ms, itl_ms, e2e_ms, input_tokens, output_tokens, counted.chunks, counted.reads)
        };
        self.requests = counted.iter().map(request).collect();
    }

    pub(super) fn requests(&self) -> impl Iterator<Item = Counted> {
        self.requests.iter().map(|&(start_s, ttft_ms, itl_ms, e2e_ms, input_tokens, output_tokens, chunks, reads)| {
            let sample = RequestSample { start_s, ttft_ms, itl_ms, e2e_ms, input_tokens, output_tokens };
            Counted { sample, chunks, reads }
        })
    }

    pub(super) fn set_slices(&mut self, slices: &[(usize, Slice)]) {
        let row = |(index, s): &(usize, Slice)| (*index, s.gap_ns, s.gaps, s.pieces, s.in_flight_ns, s.completed);
        self.slices = slices.iter().map(row).collect();
    }

    pub(super) fn slices(&self) -> impl Iterator<Item = (usize, Slice)> {
        self.slices.iter().map(|&(index, gap_ns, gaps, pieces, in_flight_ns, completed)| {
            (index, Slice { gap_ns, gaps, pieces, in_flight_ns, completed })
        })
    }
}

/// A [`LoadError`] that ends a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Trouble {
    Unreachable { url: String, reason: String },
    Refused { url: String, status: u16, body: String },
    Failures { failed: u32, sent: u32, first: String },
    Limit(String),
    Setup(String),
}

impl From<LoadError> for Trouble {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Unreachable { url, reason } => Self::Unreachable { url, reason },
            LoadError::Refused { url, status, body } => Self::Refused { url, status, body },
            LoadError::Failures { failed, sent, first } => Self::Failures { failed, sent, first },
            LoadError::ClientBound { reason, .. } => Self::Limit(reason),
            other => Self::Setup(other.to_string()),
        }
    }
}
