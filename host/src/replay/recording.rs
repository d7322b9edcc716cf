//! A run directory, read back. Nothing in it is ever written or locked, so that a run can be looked at while it goes on.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use crate::domain::{Candidate, CandidateId, Goal, History, Plan, Selection};
use crate::plugin::api::{Identity, Kind};
use crate::run::event::JOURNAL_FORMAT;
use crate::run::recorder::apply;
use crate::run::{Decision, Event, JOURNAL, Phase, Record, RecordedChoice, RunStarted, journal};

/// A recorded run cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The directory or its journal cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The directory, or the journal in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is broken, and not the last one.
    #[error("{path}:{line}: {reason}; the journal is damaged beyond a torn last line")]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// Counts from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// It was written by a program of another version.
    #[error("{path} has journal format {found}; this program reads format {JOURNAL_FORMAT}")]
    OtherFormat {
        /// The journal.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// There is nothing in it.
    #[error("{path} holds no run: {reason}")]
    NoRun {
        /// The journal.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// A role was not measured, so there is nothing to decide.
    #[error("{path}: no {role} candidate was measured")]
    NothingMeasured {
        /// The run.
        path: PathBuf,
        /// Which.
        role: crate::domain::Role,
    },
    /// The journal keeps mean, p50, p90 and p99 of each point; others cannot be told from these.
    #[error(
        "the recording does not hold the {wanted} of its points, only mean, p50, p90 and p99, and the run's own statistic, which is {own}"
    )]
    Statistic {
        /// The statistic that was asked for.
        wanted: String,
        /// The statistic that the run was made for.
        own: String,
    },
    /// The run does not say how it asked for the plugin, or its plugin is another one now.
    #[error("the run's {kind} {name} is not at hand: {reason}")]
    PluginGone {
        /// Of which kind.
        kind: Kind,
        /// As it called itself.
        name: String,
        /// Why not.
        reason: String,
    },
}

impl RecordingError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { .. } => Some("name the directory that `profile --out` wrote".to_owned()),
            Self::Damaged { .. } => {
                Some("what stands above that line may be saved by cutting the file there".to_owned())
            }
            Self::OtherFormat { .. } => Some("use the version of sla-profiler that wrote it".to_owned()),
            Self::NoRun { .. } | Self::NothingMeasured { .. } => {
                Some("`profile --resume` goes on with a run".to_owned())
            }
            Self::Statistic { .. } => {
                Some("--sla-quantile takes 0.5, 0.9 or 0.99 here, or none for the mean".to_owned())
            }
            Self::PluginGone { .. } => Some("name a plugin: --sweep, --selection or --planner NAME|FILE".to_owned()),
        }
    }
}

/// A run as its journal tells it.
#[derive(Debug, Clone)]
pub struct Recording {
    path: PathBuf,
    started: RunStarted,
    records: Vec<Record>,
}

impl Recording {
    /// Reads the journal of a run directory. A torn last line is left out.
    ///
    /// # Errors
    /// See [`RecordingError`].
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let unreadable = |path: &Path, source| RecordingError::Unreadable { path: path.to_owned(), source };
        let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(|error| unreadable(path, error))?;
        let journal = path.join(JOURNAL);
        // A pipe or a device would be read for ever.
        let metadata = dir.metadata(JOURNAL).map_err(|error| unreadable(&journal, error))?;
        if !metadata.is_file() {
            return Err(unreadable(&journal, io::Error::other("it is no file")));
        }
        let bytes = dir.read(JOURNAL).map_err(|error| unreadable(&journal, error))?;
        Self::parse(path, &bytes)
    }

    /// The same from a journal in memory; `path` is for messages.
    ///
    /// # Errors
    /// See [`RecordingError`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, RecordingError> {
        let journal = path.join(JOURNAL);
        // Before anything else is understood: lines of another format may look like damage.
        if let Some(found) = format_of(bytes).filter(|found| *found != u64::from(JOURNAL_FORMAT)) {
            return Err(RecordingError::OtherFormat { path: journal, found });
        }
        let records = journal::read(bytes).map_err(|(line, reason)| RecordingError::Damaged {
            path: journal.clone(),
            line,
            reason,
        })?;
        let started = journal::started(&records)
            .cloned()
            .ok_or(RecordingError::NoRun { path: journal, reason: "the journal does not begin with a run" })?;
        Ok(Self { path: path.to_owned(), started, records })
    }

    /// The run directory, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the run started from.
    pub const fn started(&self) -> &RunStarted {
        &self.started
    }

    /// All records, in order.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The candidate of an id.
    pub fn candidate(&self, id: CandidateId) -> Option<&Candidate> {
        self.started.candidates.get(id as usize)
    }

    /// What selection knew: facts, measurements and failures of the sweeps (phases 1 and 2).
    pub fn sweep_history(&self) -> History {
        self.history(|phase| phase <= Phase::DecodeSweep)
    }

    /// What the planner knew: everything before phase 6.
    pub fn full_history(&self) -> History {
        self.history(|phase| phase <= Phase::DecodeInterpolation)
    }

    /// Each point once: a run that was resumed may hold a point twice, where it was cut between measuring and noting.
    fn history(&self, wanted: impl Fn(Phase) -> bool) -> History {
        let mut history = History::default();
        let mut seen = HashSet::new();
        for record in &self.records {
            match &record.event {
                Event::Measured { phase, measurement } | Event::Reused { phase, measurement, .. }
                    if !wanted(*phase) || !seen.insert(measurement.point()) => {}
                Event::Failed { phase, .. } if !wanted(*phase) => {}
                event => apply(&mut history, event),
            }
        }
        history
    }

    /// Measurements with the phase that asked for each, in the order of measuring.
    pub fn measurements(&self) -> impl Iterator<Item = (Phase, &crate::domain::Measurement)> {
        self.records.iter().filter_map(|record| match &record.event {
            Event::Measured { phase, measurement } | Event::Reused { phase, measurement, .. } => {
                Some((*phase, measurement))
            }
            _ => None,
        })
    }

    /// The last decision that `pick` takes.
    fn decision<T>(&self, pick: impl Fn(&Decision) -> Option<T>) -> Option<(&Identity, T)> {
        self.records.iter().rev().find_map(|record| match &record.event {
            Event::Decided { plugin, decision, .. } => Some((plugin, pick(decision)?)),
            _ => None,
        })
    }

    /// The selection, and who made it; absent where the run did not come so far.
    pub fn selection(&self) -> Option<(&Identity, Selection)> {
        self.decision(|decision| match decision {
            Decision::Selection(selection) => Some(selection.clone()),
            _ => None,
        })
    }

    /// The plan, and who made it; absent where the run did not come so far.
    pub fn plan(&self) -> Option<(&Identity, Plan)> {
        self.decision(|decision| match decision {
            Decision::Plan(plan) => Some(plan.clone()),
            _ => None,
        })
    }

    /// The goals that the sweep strategy was given, each once, in order.
    pub fn goals(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        for record in &self.records {
            if let Event::Decided { decision: Decision::Sweep { goal, .. }, .. } = &record.event
                && !goals.contains(goal)
            {
                goals.push(*goal);
            }
        }
        goals
    }

    /// The plugin of a kind that the user had chosen.
    pub fn identity(&self, kind: Kind) -> Option<&Identity> {
        self.started.plugins.iter().find(|plugin| plugin.kind == kind)
    }

    /// How the plugin of a kind was asked for; absent in journals that do not say.
    pub fn choice(&self, kind: Kind) -> Option<&RecordedChoice> {
        self.started.plugin_choices.iter().find(|choice| choice.kind == kind)
    }
}

/// The format that the first line claims, whatever else stands in it.
fn format_of(bytes: &[u8]) -> Option<u64> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value.pointer("/event/run_started/format")?.as_u64()
}
