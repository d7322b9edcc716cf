//! `sla-profiler profile`: the main job.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::subscriber::NoSubscriber;

use super::Session;
use super::cluster::{ClusterArgs, ClusterKind, Equipment};
use super::config::InputArgs;
use super::drop_in;
use super::kubernetes::{Connection, Held};
use super::reuse;
use super::watch::{WatchArgs, Watching};
use crate::domain::search_space::{self, Cause, SearchSpace};
use crate::domain::{Candidate, Choice, Role};
use crate::engine::Cluster;
use crate::engine::served::Stop;
use crate::kubernetes;
use crate::kubernetes::lease::Loss;
use crate::output::error::AppError;
use crate::output::progress::Progress;
use crate::output::summary::Took;
use crate::output::{exit_code, summary};
use crate::phases::artifacts::Artifacts;
use crate::phases::dry_run::{self, Prediction};
use crate::phases::estimate;
use crate::phases::policies::{Policies, Slot};
use crate::phases::{self, Context, Outcome, RunError};
use crate::plugin::api::Kind;
use crate::plugin::{HostOptions, PluginError, PluginHost, default_choice};
use crate::render::result::ResultFile;
use crate::run::event::{JOURNAL_FORMAT, RecordedChoice, RunStarted};
use crate::run::forecast::Forecast;
use crate::run::reuse::{Earlier, Identity};
use crate::run::status::{self, StatusWriter};
use crate::run::timeline::{LOG, Timeline};
use crate::run::{
    Durability, Event, Existing, Journal, JournalError, Observer, Record, Recorder, RunDir, command, journal,
};
use crate::scheduler::budget::Budget;
use crate::scheduler::{Scheduler, Scheduling};
use crate::spec::{self, BudgetSpec, Flags, PluginChoice, PluginSource, Plugins, RunSpec};

/// Run the seven phases.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    input: InputArgs,
    /// Directory for all artifacts
    #[arg(long, visible_alias = "output-dir", value_name = "DIR", default_value = "profiling_results")]
    out: PathBuf,
    /// Replace the run that is in the output directory
    #[arg(long, conflicts_with = "resume")]
    force: bool,
    /// Go on with the run that is in the output directory; what was measured is not measured again
    #[arg(long)]
    resume: bool,
    /// Take over what an earlier run measured with the same engine, image, flags and GPU; may be repeated
    #[arg(long, value_name = "RUN", conflicts_with = "dry_run")]
    reuse: Vec<PathBuf>,
    /// Print what would be launched and measured, with time and GPU-hours; create nothing
    #[arg(long, conflicts_with_all = ["force", "resume"])]
    dry_run: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    watch: WatchArgs,
    #[command(flatten)]
    flags: Flags,
    /// JSON whatever the printer says.
    #[arg(skip)]
    json: bool,
}

impl Args {
    /// A dry run.
    pub fn dry(input: InputArgs, cluster: ClusterArgs, flags: Flags, json: bool) -> Self {
        let (out, watch, reuse) = (PathBuf::new(), WatchArgs::default(), Vec::new());
        Self { input, out, force: false, resume: false, reuse, dry_run: true, cluster, watch, flags, json }
    }

    /// Runs it and says with which code to exit.
    ///
    /// # Errors
    /// See [`AppError`].
    pub fn run(mut self, session: &Session) -> Result<u8, AppError> {
        if !self.in_the_place_of_dynamos() {
            return self.run_here(session);
        }
        let source = self.input.source().kept()?;
        let out = self.out.clone();
        let result = spec::peek(&source, &self.flags).map_err(AppError::from).and_then(|peek| {
            if peek.rapid {
                self.cluster.cluster = ClusterKind::Simulated;
            }
            self.run_here(session)
        });
        if let Err(error) = &result {
            // Also what failed before there was a run: the sidecar waits for a word.
            drop_in::told_in(&out, &error.to_string());
        }
        result
    }

    /// The same run, gone on with in that directory.
    pub(super) fn going_on(mut self, out: PathBuf, standard_input: Option<String>) -> Self {
        (self.out, self.force, self.resume, self.dry_run) = (out, false, true, false);
        self.input.standard_input = standard_input;
        self
    }

    /// With `--dgdr` the request is ours altogether, also in a Job.
    fn in_the_place_of_dynamos(&self) -> bool {
        drop_in::is_on() && self.cluster.kubernetes.dgdr.is_none()
    }

    /// So that `resume` can go on.
    fn remember(&self, source: &spec::Source, dir: &RunDir) -> Result<(), AppError> {
        let input = match source {
            spec::Source::Read(text) => Some(text.clone()),
            _ => None,
        };
        let arguments = drop_in::arguments(std::env::args_os());
        match command::Command::of_this_process(arguments, input) {
            Some(command) => Ok(command.write(dir)?),
            None => {
                tracing::warn!("the command is not kept, since a word of it is not UTF-8; `resume` needs it");
                Ok(())
            }
        }
    }

    fn run_here(mut self, session: &Session) -> Result<u8, AppError> {
        let real_start = Instant::now();
        let printer = &session.printer;
        let drop_in = self.in_the_place_of_dynamos();
        self.cluster.check()?;
        self.flags.one_role = self.cluster.only_role().is_some();
        let real = self.cluster.is_real().then(real_runtime).transpose()?;
        if let (Some(runtime), Some(_), None) = (&real, &self.cluster.url, &self.flags.model)
            && self.input.is_empty()
        {
            self.flags.model = Some(runtime.block_on(self.cluster.only_model(&self.flags.engines))?);
        }
        let source = self.input.source().kept()?;
        let mut connection = match (&real, self.cluster.cluster) {
            (Some(runtime), ClusterKind::Kubernetes) => {
                Some(runtime.block_on(self.cluster.kubernetes.connect(&self.flags))?)
            }
            _ => None,
        };
        let resolved = match (&real, &mut connection) {
            (Some(runtime), Some(connection)) => runtime.block_on(connection.load(source.clone(), &self.flags))?,
            _ => spec::load(&source, &self.flags)?,
        };
        resolved.warnings.iter().for_each(|warning| printer.note(&format!("note: {warning}")));
        let mut spec = resolved.spec;
        let will_be_applied = spec.auto_apply;
        // Dynamo's operator applies the result itself.
        spec.auto_apply &= !drop_in;
        let space = self.cluster.space(&spec)?;
        let only_role = self.cluster.only_role();
        if only_role.is_none() {
            refuse_empty(&spec, &space)?;
        }
        let host = PluginHost::new(HostOptions::default())?;
        let mut policies = load_policies(&host, &spec)?;
        let plugins = policies.identities();
        let spec_sha256 = fingerprint(&spec, &plugins, &self.cluster)?;
        let identity = reuse::identity(&spec, &self.cluster, &space)?;
        let (earlier, notes) = reuse::earlier(&self.reuse, &spec, &identity, &space)?;
        notes.iter().for_each(|note| printer.note(&format!("note: {note}")));
        // Whatever is missing is found out before anything of an earlier run is replaced.
        let equipment = match self.dry_run {
            false if real.is_some() => Some(self.cluster.equipment(&spec, &self.out)?),
            _ => None,
        };
        if self.dry_run {
            let mut predicting = load_policies(&host, &spec)?;
            let expected = self.cluster.estimate(&spec);
            let estimate = estimate::estimate(&spec, &space, &mut predicting, expected, only_role);
            let estimate = simulated_runtime()?.block_on(estimate)?;
            let text = if printer.is_json() || self.json {
                json(&estimate)?
            } else {
                summary::dry_run(printer, &spec.job, &space, &estimate)
            };
            return write_out(session, &text).map(|()| exit_code::OK);
        }
        let mut no_leases = false;
        if let (Some(runtime), Some(connection)) = (&real, &connection) {
            let reach = self.cluster.kubernetes.reach.as_ref();
            let found = runtime.block_on(connection.preflight(&spec, &space, reach))?;
            found.notes.iter().for_each(|note| printer.note(&format!("note: {note}")));
            no_leases = found.no_leases;
        }
        let watching = self.watch.start(printer)?;
        let predicting = load_policies(&host, &spec)?;
        // Engines that are real take real time; a simulated run has a clock of its own, which starts at 0.
        let runtime = match real {
            Some(runtime) => runtime,
            None => simulated_runtime()?,
        };
        // Before the cluster is told of the run: from then on somebody must be there to take it back.
        let mut signals = runtime.block_on(async { Signals::listen() });
        let held = match &connection {
            Some(connection) => {
                let holding = connection.hold(&spec, &self.out, no_leases);
                Some(runtime.block_on(unless_asked_to_stop(&mut signals, holding))??)
            }
            None => None,
        };
        let place = connection.as_ref().zip(held.as_ref());
        let prepared = Prepared {
            session,
            source,
            spec: &spec,
            space: &space,
            policies: &mut policies,
            predicting,
            spec_sha256,
            identity,
            earlier,
            equipment,
            place,
            watching,
            signals,
        };
        let measured = self.measure(&runtime, prepared);
        if let Some((connection, held)) = place {
            runtime.block_on(connection.let_go(held));
        }
        // Whatever still waits for a process of an engine is not waited for.
        runtime.shutdown_timeout(Duration::from_secs(1));
        let (done, dir) = measured?;
        let Done { found, cluster_s, gpu_seconds } = done;
        let took = Took { cluster_s, gpu_seconds, real: real_start.elapsed() };
        let (outcome, result) = match found {
            Found::Role(role, choice) => {
                let text = if printer.is_json() {
                    json(&choice)?
                } else {
                    summary::one_role(printer, &spec.job, role, &choice, dir.path(), &took)
                };
                write_out(session, &text)?;
                return Ok(if choice.meets_sla { exit_code::OK } else { exit_code::INFEASIBLE });
            }
            Found::All(outcome, result) => (outcome, result),
        };
        let text =
            if printer.is_json() { json(&result)? } else { summary::result(printer, &result, dir.path(), &took) };
        write_out(session, &text)?;
        let code = match (&outcome.check, outcome.feasible()) {
            (_, false) => exit_code::INFEASIBLE,
            (Some(check), true) if !check.meets_sla => exit_code::CHECK_MISSED,
            _ => exit_code::OK,
        };
        if !drop_in {
            return Ok(code);
        }
        let code = drop_in::exit_code(code, will_be_applied);
        if code == exit_code::INFEASIBLE {
            // The operator would apply it without a word.
            let error =
                "no configuration meets the SLA; the least bad one is in final_config.yaml, to be applied by hand";
            status::write_failure(&dir, error);
        }
        Ok(code)
    }

    /// Everything from the run directory to the last phase.
    fn measure(&self, runtime: &Runtime, prepared: Prepared<'_>) -> Result<(Done, RunDir), AppError> {
        let Prepared {
            session,
            source,
            spec,
            space,
            policies,
            mut predicting,
            spec_sha256,
            equipment,
            mut signals,
            ..
        } = prepared;
        let (is_real, only_role) = (self.cluster.is_real(), self.cluster.only_role());
        let existing = match (self.force, self.resume) {
            (true, _) => Existing::Replace,
            (_, true) => Existing::Resume,
            _ if drop_in::is_on() => drop_in::existing(&self.out),
            _ => Existing::Refuse,
        };
        let dir = RunDir::open(&self.out, existing)?;
        let predict = dry_run::predict(spec, space, &mut predicting, self.cluster.estimate(spec), only_role);
        // Simulated points cost nothing but electricity; nobody is hurt if a power cut takes the last ones.
        let durability = if is_real { Durability::Sync } else { Durability::Flush };
        let (mut journal, mut past) = Journal::open(&dir, durability)?;
        if journal::started(&past).is_some_and(|started| started.spec_sha256 != spec_sha256) {
            if !drop_in::is_on() {
                return Err(JournalError::OtherRun { path: dir.path().display().to_string() }.into());
            }
            // Another request's results on the same volume: as Dynamo's profiler, begin anew.
            drop(journal);
            (journal, past) = Journal::open(&RunDir::open(&self.out, Existing::Replace)?, durability)?;
        }
        if past.is_empty() {
            self.remember(&source, &dir)?;
        }
        // The prediction calls the user's plugins; where they fail, the run itself deals with it and says so.
        let on_a_clock_of_its_own = simulated_runtime()?;
        let prediction =
            tracing::subscriber::with_default(NoSubscriber::new(), || on_a_clock_of_its_own.block_on(predict)).ok();
        drop(on_a_clock_of_its_own);

        let stop = Stop::default();
        let opening = self.cluster.open(spec, equipment, &stop, &dir, prepared.place);
        let cluster = match runtime.block_on(unless_asked_to_stop(&mut signals, opening)) {
            Ok(cluster) => cluster,
            Err(interrupted) => Err(interrupted.into()),
        };
        if let Err(error) = &cluster {
            status::write_failure(&dir, &error.to_string());
        }
        let run = Run {
            session,
            spec,
            space,
            cluster: cluster?,
            dir: &dir,
            spec_sha256,
            identity: prepared.identity,
            earlier: prepared.earlier,
            stop,
            place: prepared.place,
        };
        let going = run.go(policies, prediction.as_ref(), journal, past, only_role, prepared.watching, signals);
        let outcome = runtime.block_on(going);
        if let Err(error) = &outcome {
            // From here on the directory is this run's; before, it may have held another one's success.
            status::write_failure(&dir, &error.to_string());
        }
        Ok((outcome?, dir))
    }
}

/// What is known before the run directory is touched.
struct Prepared<'a> {
    session: &'a Session,
    source: spec::Source,
    spec: &'a RunSpec,
    space: &'a SearchSpace,
    policies: &'a mut Policies,
    /// The same plugins again, for a forecast.
    predicting: Policies,
    spec_sha256: String,
    identity: Identity,
    earlier: Earlier,
    equipment: Option<Equipment>,
    /// The run's place in a Kubernetes cluster.
    place: Option<(&'a Connection, &'a Held)>,
    watching: Watching,
    signals: Option<Signals>,
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<String, AppError> {
    serde_json::to_string_pretty(value)
        .map_err(|error| AppError::Io { action: "put the answer into JSON", source: error.into() })
}

pub(super) fn write_out(session: &Session, text: &str) -> Result<(), AppError> {
    session.printer.answer(format!("{}\n", text.trim_end()).as_bytes())
}

fn refuse_empty(spec: &RunSpec, space: &SearchSpace) -> Result<(), AppError> {
    if Role::ALL.iter().all(|role| space.candidates.iter().any(|candidate| candidate.role == *role)) {
        return Ok(());
    }
    let line = |rejected: &search_space::Rejected| {
        let role = rejected.role.map_or(String::new(), |role| format!("{role} "));
        format!("\n  {role}{}: {}", rejected.mapping, rejected.reason)
    };
    let rejected: String = space.rejected.iter().map(line).collect();
    // Then it is the requests that are too long, not the model that is too large.
    if space.rejected.iter().any(|rejected| rejected.cause == Cause::KvCache) {
        return Err(AppError::KvTooSmall {
            tokens: spec.job.workload.isl.saturating_add(spec.job.workload.osl),
            gpus: spec.job.hardware.total_gpus,
            gpu: spec.job.hardware.gpu.name.clone(),
            rejected,
        });
    }
    Err(AppError::NoCandidate {
        model: spec.job.model.name.clone(),
        gpus: spec.job.hardware.total_gpus,
        gpu: spec.job.hardware.gpu.name.clone(),
        rejected,
    })
}

fn load_policies(host: &PluginHost, spec: &RunSpec) -> Result<Policies, AppError> {
    let Plugins { sweep, selection, planner, strict } = &spec.plugins;
    Ok(Policies::new(
        slot(Kind::SweepStrategy, sweep, |choice| host.sweep(choice))?,
        slot(Kind::SelectionPolicy, selection, |choice| host.selection(choice))?,
        slot(Kind::PlannerModel, planner, |choice| host.planner(choice))?,
        *strict,
    ))
}

/// The chosen plugin, and the bundled default to stand in for it. The default itself has nobody: the same code would
/// fail in the same way.
fn slot<T: ?Sized>(
    kind: Kind,
    choice: &PluginChoice,
    load: impl Fn(&PluginChoice) -> Result<Box<T>, PluginError>,
) -> Result<Slot<T>, PluginError> {
    let default = default_choice(kind);
    let fallback = if choice.source == default.source { None } else { Some(load(&default)?) };
    Ok(Slot::new(load(choice)?, fallback))
}

/// What must be the same for a run to be resumed.
fn fingerprint(
    spec: &RunSpec,
    plugins: &[crate::plugin::api::Identity],
    cluster: &ClusterArgs,
) -> Result<String, AppError> {
    // A run may go on with another budget.
    let spec = RunSpec { budget: BudgetSpec::default(), ..spec.clone() };
    let bytes = serde_json::to_vec(&(env!("CARGO_PKG_VERSION"), &spec, plugins, cluster))
        .map_err(|error| AppError::Io { action: "put the job into JSON", source: error.into() })?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn recorded_choices(plugins: &Plugins) -> Vec<RecordedChoice> {
    let recorded = |kind, choice: &PluginChoice| RecordedChoice {
        kind,
        plugin: match &choice.source {
            PluginSource::Named(name) => name.clone(),
            PluginSource::File(path) => path.display().to_string(),
        },
        settings: choice.settings.clone(),
    };
    vec![
        recorded(Kind::SweepStrategy, &plugins.sweep),
        recorded(Kind::SelectionPolicy, &plugins.selection),
        recorded(Kind::PlannerModel, &plugins.planner),
    ]
}

/// A runtime whose clock jumps ahead whenever everybody waits.
pub(super) fn simulated_runtime() -> Result<Runtime, AppError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .map_err(|source| AppError::Io { action: "start the runtime", source })
}

/// A runtime on the clock on the wall.
pub(super) fn real_runtime() -> Result<Runtime, AppError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AppError::Io { action: "start the runtime", source })
}

/// What a run found.
enum Found {
    /// All phases.
    All(Box<Outcome>, Box<ResultFile>),
    /// One role of an engine that runs.
    Role(Role, Choice),
}

/// A run that came to its end.
struct Done {
    found: Found,
    cluster_s: f64,
    gpu_seconds: f64,
}

/// Everything that one run needs, put together.
struct Run<'a> {
    session: &'a Session,
    spec: &'a RunSpec,
    space: &'a SearchSpace,
    cluster: Arc<dyn Cluster>,
    dir: &'a RunDir,
    spec_sha256: String,
    identity: Identity,
    earlier: Earlier,
    stop: Stop,
    place: Option<(&'a Connection, &'a Held)>,
}

impl Run<'_> {
    /// The run, and what the cluster is told of it.
    #[expect(clippy::too_many_arguments, reason = "one caller, and each is a thing of its own")]
    async fn go(
        &self,
        policies: &mut Policies,
        prediction: Option<&Prediction>,
        journal: Journal,
        past: Vec<Record>,
        only_role: Option<Role>,
        watching: Watching,
        signals: Option<Signals>,
    ) -> Result<Done, RunError> {
        let forecast = prediction.map(Prediction::forecast).unwrap_or_default();
        let mut others: Vec<Box<dyn Observer>> = watching.observers(forecast).collect();
        let request = self.place.and_then(|(connection, held)| Some((connection, held, connection.dgdr.clone()?)));
        let Some((connection, held, dgdr)) = request else {
            return self.phases(policies, forecast, journal, past, only_role, others, signals).await;
        };
        let (observer, task) = kubernetes::status::follow(connection.kube.clone(), dgdr, forecast);
        others.push(Box::new(observer));
        let done = self.phases(policies, forecast, journal, past, only_role, others, signals).await;
        let outcome = match &done {
            Ok(Done { found: Found::All(outcome, _), .. }) => Ok(outcome.as_ref()),
            Err(error) => Err(error),
            // Only an engine that runs already is measured in one role, and it has no request.
            Ok(Done { found: Found::Role(..), .. }) => return done,
        };
        if let Some(Loss::Taken { by_run: true, .. }) = held.loss() {
            // The request's status is that of the other process.
            task.abandon();
            return done;
        }
        let phase = task.profiling_phase();
        if let Err(error) = outcome {
            status::write_failure(self.dir, &error.to_string());
        }
        let report = connection.report(outcome, phase, self.dir, &held.owner, self.spec.auto_apply).await;
        task.finish(report).await;
        done
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, and each is a thing of its own")]
    async fn phases(
        &self,
        policies: &mut Policies,
        forecast: Forecast,
        journal: Journal,
        past: Vec<Record>,
        only_role: Option<Role>,
        others: Vec<Box<dyn Observer>>,
        signals: Option<Signals>,
    ) -> Result<Done, RunError> {
        let log = Arc::new(Mutex::new(self.dir.append(LOG)?));
        self.session.log_file.attach(Arc::clone(&log));
        let candidates: Vec<Candidate> = self.space.candidates.clone();
        let mut observers: Vec<Box<dyn Observer>> =
            vec![Box::new(Timeline::new(log)), Box::new(StatusWriter::new(self.dir.clone(), forecast))];
        let budget = Budget::new(&self.spec.budget, &candidates, journal::gpu_seconds(&past));
        observers.push(Box::new(budget.clone()));
        observers.extend(others);
        if !self.session.printer.is_quiet() {
            observers.push(Box::new(Progress::new(
                self.session.terminal.clone(),
                forecast,
                self.spec.job.clone(),
                candidates.clone(),
            )));
        }
        let recorder = Recorder::new(Some(journal), &past, observers);
        let measurements =
            past.iter().filter(|record| matches!(record.event, Event::Measured { .. } | Event::Reused { .. })).count();
        recorder.record(Event::RunStarted(Box::new(RunStarted {
            format: JOURNAL_FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: self.cluster.kind().to_owned(),
            job: self.spec.job.clone(),
            candidates: candidates.clone(),
            rejected: self.space.rejected.clone(),
            plugins: policies.identities(),
            plugin_choices: recorded_choices(&self.spec.plugins),
            simulation: (self.cluster.kind() == "simulated").then(|| self.spec.simulation.clone()),
            deployment: Some(self.spec.deployment.clone()),
            identity: self.identity.clone(),
            spec_sha256: self.spec_sha256.clone(),
        })))?;
        recorder.reusing(self.earlier.clone());
        if !past.is_empty() {
            recorder.record(Event::Resumed { measurements })?;
        }

        let stop = self.stop.flag();
        let scheduler = Scheduler::new(
            Arc::clone(&self.cluster),
            candidates,
            recorder.clone(),
            Some(self.dir.clone()),
            Arc::clone(&stop),
        )
        .with(Scheduling::launching_at_most(self.spec.engines.max_launches))
        .within(budget.clone());
        let artifacts = Artifacts::new(self.dir.clone());
        let mut context = Context {
            spec: self.spec,
            space: self.space,
            policies,
            scheduler: &scheduler,
            recorder: &recorder,
            artifacts: Some(&artifacts),
        };
        let (abort, aborted) = tokio::sync::oneshot::channel();
        let is_real = self.cluster.kind() != "simulated";
        let held = self.place.map(|(_, held)| held.clone());
        let interrupts = tokio::spawn(watch_interrupts(signals, held, stop, abort, is_real, self.session.printer));
        let running = async {
            match only_role {
                Some(role) => phases::one_role::run(&mut context, role).await.map(|choice| Found::Role(role, choice)),
                None => phases::run(&mut context).await.map(|(outcome, result)| Found::All(Box::new(outcome), result)),
            }
        };
        let found = tokio::select! {
            biased;
            Ok(()) = aborted => Err(RunError::Interrupted),
            () = budget.used_up(|| recorder.now_s()) => Err(RunError::Interrupted),
            found = released_on_panic(running, async || self.release().await) => found,
        };
        self.cluster.clean_up().await;
        interrupts.abort();
        let found = match found {
            Err(RunError::Interrupted) if only_role.is_none() => self.conclude(&mut context, &budget)?,
            Err(RunError::Interrupted) => {
                return Err(budget.ended_by().map_or_else(|| self.interrupted(), RunError::OutOfBudget));
            }
            found => found?,
        };
        let gpu_seconds = journal::gpu_seconds(&past) + scheduler.usage().gpu_seconds;
        Ok(Done { found, cluster_s: recorder.now_s(), gpu_seconds })
    }
}

impl Run<'_> {
    /// The best answer so far of a run that was stopped. Where the budget did it, that is the run's answer; where the user
    /// did, it is written and shown, and the run is interrupted all the same.
    fn conclude(&self, context: &mut Context<'_>, budget: &Budget) -> Result<Found, RunError> {
        let by_budget = budget.ended_by();
        let why = by_budget.clone().unwrap_or_else(|| match self.interrupted() {
            RunError::LeaseLost(loss) => format!("the lease is lost: {loss}"),
            _ => "interrupted".to_owned(),
        });
        let concluded = phases::conclude::run(context, why);
        match (by_budget, concluded) {
            (Some(_), Some((outcome, result))) => Ok(Found::All(Box::new(outcome), result)),
            (Some(reason), None) => Err(RunError::OutOfBudget(reason)),
            (None, concluded) => {
                if let Some((_, result)) = concluded {
                    let now_s = context.recorder.now_s();
                    let took = Took {
                        cluster_s: now_s,
                        gpu_seconds: budget.used_gpu_seconds(now_s),
                        real: Duration::from_secs_f64(now_s),
                    };
                    let printer = &self.session.printer;
                    let text = if printer.is_json() {
                        json(&result)
                    } else {
                        Ok(summary::result(printer, &result, self.dir.path(), &took))
                    };
                    if let Err(error) = text.and_then(|text| write_out(self.session, &text)) {
                        tracing::warn!("{error}");
                    }
                }
                Err(self.interrupted())
            }
        }
    }

    /// Why the run was stopped, where it was not for its budget.
    fn interrupted(&self) -> RunError {
        let loss = self.place.and_then(|(_, held)| held.loss());
        loss.map_or(RunError::Interrupted, |loss| RunError::LeaseLost(loss.to_string()))
    }

    /// For the end of a process that cannot go on.
    async fn release(&self) {
        self.cluster.clean_up().await;
        if let Some((connection, held)) = self.place {
            connection.let_go(held).await;
        }
    }
}

/// A panic is a bug of ours, and must leave no engine behind all the same. It goes on afterwards.
async fn released_on_panic<T>(work: impl Future<Output = T>, release: impl AsyncFnOnce()) -> T {
    match std::panic::AssertUnwindSafe(work).catch_unwind().await {
        Ok(done) => done,
        Err(panic) => {
            release().await;
            std::panic::resume_unwind(panic)
        }
    }
}

/// A measurement that is under way when SIGTERM comes may go on so long: Kubernetes kills the process 30 s after it.
const LAST_MEASUREMENT: Duration = Duration::from_secs(5);

/// Ctrl-C and SIGTERM, which do not end the process any more.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// What comes from now on is kept until somebody looks.
    fn listen() -> Option<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        let Some((interrupt, terminate)) = interrupt.ok().zip(terminate.ok()) else {
            tracing::warn!("cannot watch for signals; Ctrl-C ends the program at once");
            return None;
        };
        Some(Self { interrupt, terminate })
    }

    /// Waits for one; whether it was SIGTERM.
    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.interrupt.recv() => false,
            _ = self.terminate.recv() => true,
        }
    }
}

/// Does it, unless Ctrl-C or SIGTERM comes first.
async fn unless_asked_to_stop<T>(signals: &mut Option<Signals>, work: impl Future<Output = T>) -> Result<T, RunError> {
    tokio::select! {
        biased;
        _ = asked(signals) => Err(RunError::Interrupted),
        done = work => Ok(done),
    }
}

/// Waits for a signal, for ever where none is heard; whether it was SIGTERM.
async fn asked(signals: &mut Option<Signals>) -> bool {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

/// The first Ctrl-C lets the current measurement finish and releases the engines. SIGTERM, a second Ctrl-C and a lost lease
/// end the measurement too; engines that are real are still released. A third one leaves at once.
async fn watch_interrupts(
    mut signals: Option<Signals>,
    held: Option<Held>,
    stop: Arc<AtomicBool>,
    abort: tokio::sync::oneshot::Sender<()>,
    is_real: bool,
    printer: crate::output::printer::Printer,
) {
    let lost = async {
        match &held {
            Some(held) => held.lost().await,
            None => std::future::pending().await,
        }
    };
    let soon = tokio::select! {
        by_terminate = asked(&mut signals) => {
            let once_more = if is_real { "breaks it off" } else { "leaves at once" };
            printer.note(&format!("stopping after the current measurement; once more {once_more}"));
            by_terminate
        }
        loss = lost => {
            tracing::error!("the lease of this run is lost: {loss}; stopping, since it is not this process's run any more");
            true
        }
    };
    stop.store(true, Ordering::Relaxed);
    let patience = async {
        if is_real && soon { tokio::time::sleep(LAST_MEASUREMENT).await } else { std::future::pending().await }
    };
    tokio::select! {
        _ = asked(&mut signals) => {}
        () = patience => {}
    }
    if !is_real {
        std::process::exit(exit_code::INTERRUPTED.into());
    }
    printer.note("the measurement is broken off; engines are released; once more leaves them");
    // Whoever listens is at its end if this fails.
    let _ = abort.send(());
    asked(&mut signals).await;
    std::process::exit(exit_code::INTERRUPTED.into());
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use async_trait::async_trait;

    use super::*;
    use crate::domain::{Failure, Probe};
    use crate::engine::{ApplyError, ApplyRequest, Deployment, Engine, Launch};

    /// A cluster that counts how often it was cleaned up; nothing is launched on it.
    #[derive(Default)]
    struct Counting(AtomicU32);

    #[async_trait]
    impl Cluster for Counting {
        fn kind(&self) -> &'static str {
            "counting"
        }
        fn gpus(&self) -> u32 {
            0
        }
        fn expected_launch(&self, _: &Launch) -> Duration {
            Duration::ZERO
        }
        fn expected_measure(&self, _: &Launch, _: &Probe) -> Duration {
            Duration::ZERO
        }
        async fn launch(&self, _: &Launch) -> Result<Box<dyn Engine>, Failure> {
            unreachable!("nothing is launched")
        }
        async fn apply(&self, _: &ApplyRequest) -> Result<Box<dyn Deployment>, ApplyError> {
            unreachable!("nothing is applied")
        }
        async fn clean_up(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_panic_in_the_middle_of_a_run_cleans_up_and_goes_on() {
        let cluster = Counting::default();
        let release = async || cluster.clean_up().await;
        assert_eq!(released_on_panic(async { 7 }, release).await, 7);
        assert_eq!(cluster.0.load(Ordering::Relaxed), 0);
        let work = released_on_panic(async { panic!("a bug") }, release);
        let outcome: Result<(), _> = std::panic::AssertUnwindSafe(work).catch_unwind().await;
        assert!(outcome.is_err());
        assert_eq!(cluster.0.load(Ordering::Relaxed), 1);
    }
}
