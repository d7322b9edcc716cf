//! WebAssembly components behind the traits of `api`. Each decision gets a store and an instance of its own: a plugin
//! keeps nothing from one call to the next, so a recorded run replays exactly, and a crash costs one call.

use std::sync::Arc;

use wasmtime::{Engine, Store};

use crate::domain::{Candidate, Demand, Goal, History, Job, Plan, Selection, Step};

use super::PluginError;
use super::api::{Decided, Identity, PlannedEngine, PlannerModel, SelectionPolicy, SweepStrategy};
use super::bindings::planner::exports::sla_profiler::planner::model as planner;
use super::bindings::{planner::PlannerModelPre, selection::SelectionPolicyPre, sweep::SweepStrategyPre, types};
use super::convert::{from_guest, to_guest};
use super::error::{CallProblem, Subject};
use super::grants::Grants;
use super::guest::{Caller, GuestState};
use super::limits::Limits;

/// A plugin with the typed form `P` of its world.
pub(super) struct Wasm<P> {
    pub engine: Engine,
    pub limits: Arc<Limits>,
    pub grants: Grants,
    pub identity: Identity,
    pub subject: Subject,
    pub settings: Vec<(String, String)>,
    pub pre: P,
}

impl<P> Wasm<P> {
    /// One decision: call, then check what came back.
    fn decide<A, T>(
        &self,
        export: &'static str,
        call: impl FnOnce(&P, &mut Store<GuestState>) -> wasmtime::Result<Result<A, types::Error>>,
        check: impl FnOnce(A) -> Result<T, CallProblem>,
    ) -> Result<Decided<T>, PluginError> {
        let caller = Caller {
            engine: &self.engine,
            limits: &self.limits,
            grants: &self.grants,
            deadline: self.limits.deadline(),
            subject: &self.subject,
            export,
        };
        let (answer, cost) = caller.call(|store| call(&self.pre, store))?;
        let value = answer.map_err(from_guest::error).and_then(check).map_err(|problem| caller.rejected(problem))?;
        tracing::debug!(
            plugin = self.identity.name,
            call = export,
            fuel = cost.fuel,
            peak_memory_bytes = cost.peak_memory_bytes,
            elapsed_us = u64::try_from(cost.elapsed.as_micros()).unwrap_or(u64::MAX),
            "plugin decided"
        );
        Ok(Decided { value, cost })
    }
}

impl SweepStrategy for Wasm<SweepStrategyPre<GuestState>> {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn next(
        &self,
        job: &Job,
        goal: &Goal,
        candidates: &[Candidate],
        history: &History,
    ) -> Result<Decided<Step>, PluginError> {
        self.decide(
            "next",
            |pre, store| {
                let mut guest_job = to_guest::job(job, &self.settings);
                guest_job.extra.push(to_guest::prior_itl(job, candidates));
                pre.instantiate(&mut *store)?.sla_profiler_sweep_strategy().call_next(
                    store,
                    &guest_job,
                    to_guest::goal(goal),
                    &to_guest::candidates(candidates),
                    &to_guest::history(history),
                )
            },
            |step| from_guest::step(step, job, goal, candidates, history),
        )
    }
}

impl SelectionPolicy for Wasm<SelectionPolicyPre<GuestState>> {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn select(
        &self,
        job: &Job,
        candidates: &[Candidate],
        history: &History,
    ) -> Result<Decided<Selection>, PluginError> {
        self.decide(
            "select",
            |pre, store| {
                pre.instantiate(&mut *store)?.sla_profiler_selection_policy().call_select(
                    store,
                    &to_guest::job(job, &self.settings),
                    to_guest::demand(job.demand),
                    &to_guest::candidates(candidates),
                    &to_guest::history(history),
                )
            },
            |selection| from_guest::selection(selection, candidates),
        )
    }
}

impl PlannerModel for Wasm<PlannerModelPre<GuestState>> {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn plan(
        &self,
        job: &Job,
        prefill: &PlannedEngine<'_>,
        decode: &PlannedEngine<'_>,
        demand: Demand,
    ) -> Result<Decided<Plan>, PluginError> {
        let engines = planner::Engines { prefill: to_guest::engine(prefill), decode: to_guest::engine(decode) };
        let curves = planner::Curves {
            prefill: to_guest::measurements(prefill.curve.iter().copied()),
            decode: to_guest::measurements(decode.curve.iter().copied()),
        };
        self.decide(
            "plan",
            |pre, store| {
                let job = to_guest::job(job, &self.settings);
                let demand = to_guest::demand(demand);
                pre.instantiate(&mut *store)?
                    .sla_profiler_planner_model()
                    .call_plan(store, &job, &engines, &curves, demand)
            },
            |plan| from_guest::plan(plan, job, prefill, decode),
        )
    }
}
