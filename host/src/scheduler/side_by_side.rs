//! The loop that phases 1, 2, 4 and 5 share: ask the strategy, measure, ask again; for both roles at the same time.
//!
//! Each role's strategy sees its own role as it is when its batch is done, and the other role as it was when both began.
//! So what it decides does not depend on how far the other role is, and a run that is resumed decides as it would have
//! without the interruption.

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::likely::likely_winners;
use super::{Halt, Scheduler};
use crate::domain::{Candidate, CandidateId, Goal, History, Job, Role, Step};
use crate::run::{Phase, Recorder};

/// A strategy that takes more steps than this has lost its way; the points it asked for are kept.
const MAX_STEPS: usize = 500;

/// Whose engines stay up for the curves: of each role, so many of the most promising ones while it is not clear yet.
const KEPT: usize = 2;

/// Who is asked, and who is told.
pub trait Strategist {
    /// Why it ends early.
    type Error: From<Halt>;

    /// The next step towards the goal.
    ///
    /// # Errors
    /// Whatever keeps it from having one.
    fn next(&mut self, phase: Phase, goal: &Goal, history: &History) -> Result<Step, Self::Error>;

    /// The goal is reached, for that reason. Called in the order of the goals.
    ///
    /// # Errors
    /// Whatever should end the run.
    fn reached(&mut self, phase: Phase, why: &str) -> Result<(), Self::Error>;
}

/// Whether both roles can be swept at the same time: unless what a decode engine may take is what the best prefill engine
/// leaves of it.
pub const fn independent(job: &Job) -> bool {
    job.sla.e2e_ms.is_none()
}

/// What there is to schedule.
#[derive(Clone, Copy)]
pub struct Sweeping<'a> {
    /// Who measures.
    pub scheduler: &'a Scheduler,
    /// Who remembers.
    pub recorder: &'a Recorder,
    /// The question.
    pub job: &'a Job,
    /// The candidates.
    pub candidates: &'a [Candidate],
}

type Round<'a> = LocalBoxFuture<'a, (usize, Result<(), Halt>)>;

struct Track {
    phase: Phase,
    goal: Goal,
    steps: usize,
    why: Option<String>,
}

/// Pursues the goals, which are of different roles, at the same time.
///
/// # Errors
/// The strategist's, and those of [`Scheduler::measure`]. Measurements that are under way are finished before.
pub async fn pursue<S: Strategist>(
    sweeping: Sweeping<'_>,
    strategist: &mut S,
    goals: &[(Phase, Goal)],
) -> Result<(), S::Error> {
    let mut tracks: Vec<Track> =
        goals.iter().map(|(phase, goal)| Track { phase: *phase, goal: *goal, steps: 0, why: None }).collect();
    // Alone, a goal's strategy sees everything.
    let before = (goals.len() > 1).then(|| sweeping.recorder.history());
    let mut rounds: FuturesUnordered<Round<'_>> = FuturesUnordered::new();
    let mut result = Ok(());
    for index in 0..tracks.len() {
        match ask(sweeping, strategist, &mut tracks, index, before.as_ref()) {
            Ok(round) => rounds.extend(round),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    let mut told = 0;
    while let Some((index, measured)) = rounds.next().await {
        if let (Err(halt), true) = (measured, result.is_ok()) {
            result = Err(halt.into());
        }
        if result.is_err() {
            continue;
        }
        match ask(sweeping, strategist, &mut tracks, index, before.as_ref()) {
            Ok(round) => rounds.extend(round),
            Err(error) => result = Err(error),
        }
        while let Some((phase, why)) = tracks.get(told).and_then(|track| Some((track.phase, track.why.as_deref()?))) {
            if result.is_ok() {
                result = strategist.reached(phase, why);
            }
            told += 1;
        }
    }
    result
}

/// Asks for the next step of a track and starts it. Once there is none, what starts is the end of engines that are of no
/// more use; after that, nothing.
fn ask<'a, S: Strategist>(
    sweeping: Sweeping<'a>,
    strategist: &mut S,
    tracks: &mut [Track],
    index: usize,
    before: Option<&History>,
) -> Result<Option<Round<'a>>, S::Error> {
    let Sweeping { scheduler, recorder, job, candidates } = sweeping;
    let history = recorder.history();
    // What other curves are drawn of; their strategy may not have been asked yet.
    let others = tracks.iter().enumerate().filter(|(other, track)| *other != index && track.why.is_none());
    let drawn: Vec<CandidateId> = others.filter_map(|(_, track)| track.goal.curve()).map(|c| c.candidate).collect();
    let Some(track) = tracks.get_mut(index).filter(|track| track.why.is_none()) else { return Ok(None) };
    scheduler.expect_winners(match track.goal {
        Goal::PrefillCurve(_) | Goal::DecodeCurve(_) => drawn,
        Goal::Prefill | Goal::Decode => {
            Role::ALL.iter().flat_map(|role| likely_winners(job, candidates, &history, *role, KEPT)).collect()
        }
    });
    let (phase, goal) = (track.phase, track.goal);
    let step = if track.steps < MAX_STEPS {
        let seen = match before {
            Some(before) => seen(history, before, candidates, goal.role()),
            None => history,
        };
        strategist.next(phase, &goal, &seen)?
    } else {
        tracing::warn!("the sweep strategy was cut off after {MAX_STEPS} steps in phase {}", phase.number());
        Step::Done(format!("cut off after {MAX_STEPS} steps"))
    };
    track.steps += 1;
    Ok(Some(match step {
        Step::Measure(probes) => async move { (index, scheduler.measure(phase, &probes).await) }.boxed_local(),
        Step::Done(why) => {
            track.why = Some(why);
            async move { (index, scheduler.finished(goal.role()).await) }.boxed_local()
        }
    }))
}

/// The role's own rows of now, the other's of then.
fn seen(mut now: History, before: &History, candidates: &[Candidate], role: Role) -> History {
    let own = |id: CandidateId| candidates.get(id as usize).is_some_and(|candidate| candidate.role == role);
    now.facts.retain(|facts| own(facts.candidate));
    now.measurements.retain(|measurement| own(measurement.candidate));
    now.failures.retain(|failure| own(failure.candidate));
    now.facts.extend(before.facts.iter().filter(|facts| !own(facts.candidate)).cloned());
    now.measurements.extend(before.measurements.iter().filter(|m| !own(m.candidate)).cloned());
    now.failures.extend(before.failures.iter().filter(|failure| !own(failure.candidate)).cloned());
    now
}
