//! Recorded runs, asked again without measuring.
//!
//! ```text
//! RUN/journal.jsonl --> Recording --> history, decisions
//!                                        |--> decide:  another policy, another SLA: who wins, how many?
//!                                        |--> explain: each candidate, and the SLA that would make it win
//!                                        |--> sweep:   another strategy, fed from the recording
//!                                        |--> picks:   the run's own policies under many an SLA, for the report
//!                                        '--> tenures: which engine held which GPUs when
//! ```
//!
//! A plugin keeps nothing between calls and gets no clock, so the same question gives the recorded answer again; what
//! differs is due to what was asked differently.

mod decide;
mod explain;
mod picks;
mod recording;
mod sweep;
mod tenures;

pub use decide::{Answer, Change, Comparison, DecideError, RoleChange, Targets, answer, compare};
pub use explain::{Explanation, FrontPoint, Range, RoleReport, Row, Status, explain};
pub use picks::{Axis, Pick, Picks, Winner, picks};
pub use recording::{Recording, RecordingError};
pub use sweep::{SweepError, SweepUse, recorded_use, replay_sweep};
pub use tenures::{PhaseSpan, Tenancy, Tenure, Totals, tenancy};
