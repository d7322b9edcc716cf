//! What every plugin of a kind must keep, tried on made-up and on simulated clusters; and an author's own cases.
//!
//! ```text
//! worlds (seeded; small ones first) --> selection | sweep | planner: the properties of the kind --> Report
//! cases.yaml (author)               --> the expected answer of each                            --^
//! ```
//!
//! Small worlds come first, so that the first counterexample of a property is the smallest that was found.

pub mod author;
pub mod bench;
mod planner;
mod selection;
mod sweep;
mod world;

use schemars::JsonSchema;
use serde::Serialize;

use crate::plugin::api::{CallCost, Decided, Identity, Kind};
use crate::plugin::{CallProblem, Limits, PluginError, PluginHost, Problem};
use crate::spec::PluginChoice;

/// A case that a property does not hold for.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Counterexample {
    /// Which world, with its seed where it has one.
    pub case: String,
    /// What the plugin did.
    pub detail: String,
}

/// One property and whether it holds.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Property {
    /// As a sentence.
    pub name: String,
    /// How many cases were tried.
    pub cases: usize,
    /// How many of them failed.
    pub failed: usize,
    /// The smallest case that failed.
    pub counterexample: Option<Counterexample>,
}

/// What the suite found.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Report {
    /// Whose.
    pub plugin: Identity,
    /// In the order of trying.
    pub properties: Vec<Property>,
    /// How often the plugin was called.
    pub calls: usize,
    /// Most fuel of one call.
    pub max_fuel: u64,
    /// What one call may use.
    pub fuel_limit: u64,
    /// Largest linear memory of one call, in bytes.
    pub max_memory_bytes: u64,
}

impl Report {
    /// Whether all properties hold.
    pub fn passed(&self) -> bool {
        self.properties.iter().all(|property| property.failed == 0)
    }
}

/// Collects results and costs.
#[derive(Debug, Default)]
struct Checker {
    properties: Vec<Property>,
    calls: usize,
    max_fuel: u64,
    max_memory_bytes: u64,
    /// Calls that ran into the limit of fuel or time.
    runaways: usize,
}

impl Checker {
    /// Whether there is no point in going on: calls that never end cost seconds each.
    const fn given_up(&self) -> bool {
        self.runaways >= MAX_RUNAWAYS
    }

    /// One case of one property.
    fn check(&mut self, name: &str, case: &str, result: Result<(), String>) {
        let index = self.properties.iter().position(|property| property.name == name).unwrap_or_else(|| {
            let name = name.to_owned();
            self.properties.push(Property { name, cases: 0, failed: 0, counterexample: None });
            self.properties.len() - 1
        });
        let Some(property) = self.properties.get_mut(index) else { return };
        property.cases += 1;
        if let Err(detail) = result {
            property.failed += 1;
            property.counterexample.get_or_insert_with(|| Counterexample { case: case.to_owned(), detail });
        }
    }

    fn cost(&mut self, cost: &CallCost) {
        self.calls += 1;
        self.max_fuel = self.max_fuel.max(cost.fuel);
        self.max_memory_bytes = self.max_memory_bytes.max(cost.peak_memory_bytes);
    }

    /// The value, or what went wrong.
    fn value<T>(&mut self, called: Result<Decided<T>, PluginError>) -> Result<T, String> {
        let decided = called.map_err(|error| {
            self.runaways += usize::from(ran_away(&error));
            describe(&error)
        })?;
        self.cost(&decided.cost);
        Ok(decided.value)
    }

    /// The same where a plugin may as well decline: its own error is `None`. A trap or a broken answer is a fault.
    fn graceful<T>(&mut self, called: Result<Decided<T>, PluginError>) -> Result<Option<T>, String> {
        match called {
            Err(error) if declined(&error) => {
                self.calls += 1;
                Ok(None)
            }
            other => self.value(other).map(Some),
        }
    }
}

/// So many calls that do not end are enough to know.
const MAX_RUNAWAYS: usize = 3;

fn ran_away(error: &PluginError) -> bool {
    matches!(
        error.problem(),
        Problem::Call { problem: CallProblem::OutOfFuel { .. } | CallProblem::Deadline { .. }, .. }
    )
}

/// Whether the plugin said no in its own words.
fn declined(error: &PluginError) -> bool {
    matches!(error.problem(), Problem::Call { problem: CallProblem::Returned(_), .. })
}

/// The error with the last words of the plugin, which hold a panic's message.
fn describe(error: &PluginError) -> String {
    let crashed = matches!(error.problem(), Problem::Call { problem: CallProblem::Trap { .. }, .. });
    match error.log().last() {
        // A crash quotes them itself.
        Some(line) if !crashed => format!("{error}; its last words: {line}"),
        None if crashed => format!(
            "{error}, without a word in the log. In JavaScript and Python an answer ends so that lacks a field or has one \
             of another type: compare it with wit/"
        ),
        _ => error.to_string(),
    }
}

/// A large input may take one part in so many of the fuel; more is too close to the limit.
const FUEL_SHARE: u64 = 2;

/// Candidates of the large inputs. No search space comes near the last: 16 GPUs allow a dozen mappings per role.
/// `plugin bench` shows what 1,000 would take.
const LARGE: [usize; 3] = [10, 30, 100];

const KEEPS_CONTRACT: &str = "every answer keeps the contract: known candidates, numbers that are numbers";
const SAME_TWICE: &str = "the same question gets the same answer";
const ROWS: &str = "the order of the rows changes nothing";
const IDS: &str = "the numbering of the candidates changes nothing";
const BOUNDED: &str = "work is bounded: large inputs take at most half of the fuel";
const EMPTY: &str = "an empty history, or one of failures only, is no accident";
const UNKNOWN_SETTING: &str = "a setting that it does not list is refused";
const NONSENSE: &str = "a setting with a value that makes no sense is no accident";

/// Runs the suite of the plugin's kind.
///
/// # Errors
/// If the plugin cannot be loaded, or the worlds cannot be made up.
pub fn run(host: &PluginHost, limits: &Limits, kind: Kind, choice: &PluginChoice) -> Result<Report, ConformanceError> {
    let plugin = host.load(kind, choice)?;
    let mut checker = Checker::default();
    let worlds = world::all()?;
    match kind {
        Kind::SelectionPolicy => selection::check(&mut checker, &worlds, host.selection(choice)?.as_ref(), limits),
        Kind::SweepStrategy => sweep::check(&mut checker, &worlds, host.sweep(choice)?.as_ref(), limits),
        Kind::PlannerModel => planner::check(&mut checker, &worlds, host.planner(choice)?.as_ref(), limits),
    }
    let with = |name: &str, value: &str| {
        let mut settings = choice.settings.clone();
        settings.retain(|(known, _)| known != name);
        settings.push((name.to_owned(), value.to_owned()));
        PluginChoice { settings, ..choice.clone() }
    };
    let unknown = "no-such-setting-of-any-plugin";
    let refused = match host.load(kind, &with(unknown, "1")) {
        Ok(_) => Err(format!("{unknown}=1 was taken")),
        Err(_) => Ok(()),
    };
    checker.check(UNKNOWN_SETTING, "any", refused);
    for setting in plugin.settings() {
        for value in ["", "nonsense", "-1", "1e999", "NaN"] {
            let choice = with(&setting.name, value);
            let case = format!("{}={value}", setting.name);
            let result = match (kind, worlds.first()) {
                (_, None) => Ok(()),
                (Kind::SelectionPolicy, Some(world)) => {
                    let policy = host.selection(&choice)?;
                    let called = policy.select(&world.job, &world.candidates, &world.history);
                    checker.graceful(called).map(drop)
                }
                (Kind::SweepStrategy, Some(world)) => {
                    let strategy = host.sweep(&choice)?;
                    let goal = crate::domain::Goal::Decode;
                    let called =
                        strategy.next(&world.job, &goal, &world.candidates, &crate::domain::History::default());
                    checker.graceful(called).map(drop)
                }
                (Kind::PlannerModel, Some(world)) => {
                    let planner = host.planner(&choice)?;
                    planner::ask(&mut checker, planner.as_ref(), world, world.job.demand).map(drop)
                }
            };
            checker.check(NONSENSE, &case, result);
        }
    }
    Ok(Report {
        plugin: plugin.identity().clone(),
        properties: checker.properties,
        calls: checker.calls,
        max_fuel: checker.max_fuel,
        fuel_limit: limits.fuel,
        max_memory_bytes: checker.max_memory_bytes,
    })
}

/// The suite cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    /// The plugin cannot be loaded.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A world cannot be made up.
    #[error("cannot make up the cases: {0}")]
    World(String),
    /// The author's cases cannot be read.
    #[error("{path}: {reason}")]
    Cases {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong, with its place.
        reason: String,
    },
}
