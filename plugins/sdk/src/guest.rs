//! Between the generated exports and the traits; the export macros name these types.

use std::marker::PhantomData;

use crate::bindings::base::exports::sla_profiler::base::about;
use crate::bindings::planner::exports::sla_profiler::planner::model;
use crate::bindings::selection::exports::sla_profiler::selection::policy;
use crate::bindings::sweep::exports::sla_profiler::sweep::strategy;
use crate::{
    About, Candidates, Curves, Demand, Engines, Error, Goal, History, Job, Plan, PlannerModel, Selection,
    SelectionPolicy, Step, SweepStrategy,
};

/// Exports a [`SweepStrategy`].
#[derive(Debug)]
pub struct SweepGuest<P>(PhantomData<P>);

/// Exports a [`SelectionPolicy`].
#[derive(Debug)]
pub struct SelectionGuest<P>(PhantomData<P>);

/// Exports a [`PlannerModel`].
#[derive(Debug)]
pub struct PlannerGuest<P>(PhantomData<P>);

impl<P: SweepStrategy> about::Guest for SweepGuest<P> {
    fn describe() -> about::Description {
        describe(P::about)
    }
}

impl<P: SweepStrategy> strategy::Guest for SweepGuest<P> {
    fn next(job: Job, goal: Goal, candidates: Candidates, history: History) -> Result<Step, Error> {
        explain_panics();
        P::next(&job, &goal, &candidates, &history)
    }
}

impl<P: SelectionPolicy> about::Guest for SelectionGuest<P> {
    fn describe() -> about::Description {
        describe(P::about)
    }
}

impl<P: SelectionPolicy> policy::Guest for SelectionGuest<P> {
    fn select(job: Job, demand: Demand, candidates: Candidates, history: History) -> Result<Selection, Error> {
        explain_panics();
        P::select(&job, &demand, &candidates, &history)
    }
}

impl<P: PlannerModel> about::Guest for PlannerGuest<P> {
    fn describe() -> about::Description {
        describe(P::about)
    }
}

impl<P: PlannerModel> model::Guest for PlannerGuest<P> {
    fn plan(job: Job, engines: Engines, curves: Curves, demand: Demand) -> Result<Plan, Error> {
        explain_panics();
        P::plan(&job, &engines, &curves, &demand)
    }
}

fn describe(about: fn() -> About) -> about::Description {
    explain_panics();
    let About { name, version, summary, settings } = about();
    let settings =
        settings.into_iter().map(|s| about::Setting { name: s.name, default: s.default, help: s.help }).collect();
    about::Description { name, version, summary, settings }
}

/// A trap alone says "unreachable"; this puts the panic's message and place in the log before.
fn explain_panics() {
    #[cfg(target_family = "wasm")]
    std::panic::set_hook(Box::new(|panic| crate::log::error(&panic.to_string())));
}
