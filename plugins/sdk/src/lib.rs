//! Guest SDK of `sla-profiler`: write a policy as a sandboxed WebAssembly component.
//!
//! A plugin is one type that implements one trait, and one line that exports it:
//!
//! ```
//! use sla_profiler_plugin::{About, Candidates, Choice, Demand, Error, History, Job, Role, Selection, SelectionPolicy};
//!
//! /// Whoever answers fastest wins, whatever it costs.
//! struct Fastest;
//!
//! impl SelectionPolicy for Fastest {
//!     fn about() -> About {
//!         About::new("fastest", "0.1.0", "Lowest latency, whatever it costs.")
//!     }
//!
//!     fn select(job: &Job, _: &Demand, all: &Candidates, history: &History) -> Result<Selection, Error> {
//!         let rank = |role| {
//!             let points = history.measurements.rows().filter(|m| all.role_of(m.candidate) == Some(role));
//!             let choices = points.filter_map(|m| {
//!                 let latency_ms = m.latency_ms(role)?.target;
//!                 Some(Choice {
//!                     candidate: m.candidate,
//!                     concurrency: m.concurrency,
//!                     meets_sla: job.sla.limit_ms(role).is_none_or(|limit| latency_ms <= limit),
//!                     score: -latency_ms,
//!                     reason: format!("{latency_ms:.1} ms"),
//!                     binding: String::new(),
//!                 })
//!             });
//!             sla_profiler_plugin::best_per_candidate(choices)
//!         };
//!         Ok(Selection { prefill: rank(Role::Prefill), decode: rank(Role::Decode), notes: vec![] })
//!     }
//! }
//!
//! sla_profiler_plugin::export_selection!(Fastest);
//! ```
//!
//! Natively the export line exports nothing and the type is an ordinary one, to be tested and benchmarked like any
//! other; hence `crate-type = ["cdylib", "rlib"]`. `plugins/README.md` says how to build the component, what the sandbox
//! allows, and which plugins come with the program; `wit/` is the contract itself.

mod about;
pub mod files;
pub mod log;
pub mod packing;
pub mod queueing;
mod rows;
mod settings;
pub mod sizing;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;

#[doc(hidden)]
pub mod bindings;
#[doc(hidden)]
pub mod guest;

pub use about::{About, Setting};
pub use rows::{Candidate, Facts, Failure, Measurement, Stat, best_per_candidate, best_standing};
pub use settings::Settings;

pub use bindings::base::sla_profiler::base::types::{
    Candidates, Demand, EngineFacts, Error, FailureClass, Failures, Hardware, History, Job, Measurements, Model, Probe,
    Role, Sla, StatColumns, Workload,
};
pub use bindings::planner::exports::sla_profiler::planner::model::{Curves, DeploymentPlan as Plan, Engine, Engines};
pub use bindings::selection::exports::sla_profiler::selection::policy::{Choice, Selection};
pub use bindings::sweep::exports::sla_profiler::sweep::strategy::{Curve, Goal, Step};

/// Compiles what `plugins/README.md` shows.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// Decides what to measure next, in phases 1, 2, 4 and 5. Export it with [`export_sweep!`].
pub trait SweepStrategy {
    /// Who this is and which settings it understands. Quick, and always the same.
    fn about() -> About;

    /// The next step. Called again and again with a growing history until it says [`Step::Done`]; the same input must
    /// give the same answer. See `wit/deps/sla-profiler-sweep@0.1.0`.
    ///
    /// # Errors
    /// [`Error`], whose text the user gets to read.
    fn next(job: &Job, goal: &Goal, candidates: &Candidates, history: &History) -> Result<Step, Error>;
}

/// Decides which candidates win, in phase 3. Export it with [`export_selection!`].
pub trait SelectionPolicy {
    /// See [`SweepStrategy::about`].
    fn about() -> About;

    /// Ranks the candidates of both roles, best first. See `wit/deps/sla-profiler-selection@0.1.0`.
    ///
    /// # Errors
    /// [`Error`], whose text the user gets to read.
    fn select(job: &Job, demand: &Demand, candidates: &Candidates, history: &History) -> Result<Selection, Error>;
}

/// Computes replicas and capacity, in phase 6. Export it with [`export_planner!`].
pub trait PlannerModel {
    /// See [`SweepStrategy::about`].
    fn about() -> About;

    /// Sizes a deployment of the two engines for the demand. See `wit/deps/sla-profiler-planner@0.1.0`.
    ///
    /// # Errors
    /// [`Error`], whose text the user gets to read.
    fn plan(job: &Job, engines: &Engines, curves: &Curves, demand: &Demand) -> Result<Plan, Error>;
}

/// Makes the type the component's `sweep-strategy`. Once per crate; on native targets it exports nothing.
#[macro_export]
macro_rules! export_sweep {
    ($strategy:ty) => {
        $crate::__export!($strategy, SweepStrategy, SweepGuest, sweep);
    };
}

/// Makes the type the component's `selection-policy`. Once per crate; on native targets it exports nothing.
#[macro_export]
macro_rules! export_selection {
    ($policy:ty) => {
        $crate::__export!($policy, SelectionPolicy, SelectionGuest, selection);
    };
}

/// Makes the type the component's `planner-model`. Once per crate; on native targets it exports nothing.
#[macro_export]
macro_rules! export_planner {
    ($model:ty) => {
        $crate::__export!($model, PlannerModel, PlannerGuest, planner);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($plugin:ty, $trait:ident, $guest:ident, $kind:ident) => {
        const _: fn() -> $crate::About = <$plugin as $crate::$trait>::about;

        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "exports of the component, generated by wit-bindgen")]
        const _: () = {
            type Guest = $crate::guest::$guest<$plugin>;
    $crate::bindings::base::export_world!(Guest with_types_in $crate::bindings::base);
    $crate::bindings::$kind::export_world!(Guest with_types_in $crate::bindings::$kind);
        };
    };
}
