//! Our contestants: phases 1 to 5 as a run has them, with plugins as a user would name them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sla_profiler::domain::{History, Role};
use sla_profiler::engine::Cluster;
use sla_profiler::phases::policies::{Policies, Slot};
use sla_profiler::phases::{self, Context};
use sla_profiler::plugin::PluginHost;
use sla_profiler::run::Recorder;
use sla_profiler::scheduler::{Scheduler, Scheduling};
use sla_profiler::spec::{PluginChoice, PluginSource};

use super::cluster::WorldCluster;
use super::{Outcome, Pick, World};

/// How a contestant differs from a plain run.
#[derive(Debug, Clone)]
pub struct Entry {
    /// For the table.
    pub name: &'static str,
    /// Bundled strategy.
    pub sweep: &'static str,
    /// Its settings.
    pub settings: Vec<(String, String)>,
    /// One engine serves both roles.
    pub shares: bool,
    /// The scheduler's bounds.
    pub scheduling: Scheduling,
}

/// Runs it.
///
/// # Panics
/// If a bundled plugin is missing.
pub fn run(world: &Arc<World>, host: &PluginHost, entry: &Entry) -> Outcome {
    let named = |name: &str| {
        let source = match name.strip_suffix(".wasm") {
            Some(_) => PluginSource::File(name.into()),
            None => PluginSource::Named(name.to_owned()),
        };
        PluginChoice::new(source)
    };
    let mut sweep = named(entry.sweep);
    sweep.settings.clone_from(&entry.settings);
    let plugins = &world.spec.plugins;
    let mut policies = Policies::new(
        Slot::new(host.sweep(&sweep).expect("bundled"), None),
        Slot::new(host.selection(&plugins.selection).expect("bundled"), None),
        Slot::new(host.planner(&plugins.planner).expect("bundled"), None),
        true,
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let cluster: Arc<dyn Cluster> = Arc::new(WorldCluster::new(Arc::clone(world), entry.shares));
        let recorder = Recorder::new(None, &[], Vec::new());
        let stop = Arc::new(AtomicBool::new(false));
        let scheduler = Scheduler::new(cluster, world.space.candidates.clone(), recorder.clone(), None, stop)
            .with(entry.scheduling);
        let mut context = Context {
            spec: &world.spec,
            space: &world.space,
            policies: &mut policies,
            scheduler: &scheduler,
            recorder: &recorder,
            artifacts: None,
        };
        let chosen = phases::measure(&mut context).await;
        let released = scheduler.retain(&[]).await;
        let usage = scheduler.usage();
        let history = recorder.history();
        let mut outcome = Outcome {
            wall_s: recorder.now_s(),
            gpu_s: usage.gpu_seconds,
            launches: usage.launches,
            measurements: history.measurements.len() as u32,
            covered: covered(world, &history),
            ..Outcome::default()
        };
        match chosen.map_err(|e| e.to_string()).and_then(|c| released.map(|()| c).map_err(|e| e.to_string())) {
            Ok(chosen) => {
                outcome.chosen = Role::ALL
                    .map(|role| chosen.of(role))
                    .map(|c| Pick { candidate: c.candidate, concurrency: c.concurrency, meets_sla: c.meets_sla })
                    .to_vec();
                curves(&mut outcome, &history);
            }
            Err(error) => outcome.failed = Some(error),
        }
        outcome
    })
}

fn covered(world: &World, history: &History) -> (u32, u32) {
    let mut count = (0, 0);
    for m in &history.measurements {
        let truth = &world.truths[m.candidate as usize];
        let exact = truth.latency_ms(m.isl, m.osl, m.concurrency);
        // Fewer than three samples make no interval.
        let Some(stat) = m.ttft_ms.or(m.itl_ms).filter(|_| m.samples >= 3) else { continue };
        count.1 += 1;
        count.0 += u32::from(stat.ci_low <= exact && exact <= stat.ci_high);
    }
    count
}

fn curves(outcome: &mut Outcome, history: &History) {
    let (prefill, decode) = (outcome.chosen[0].candidate, outcome.chosen[1].candidate);
    for m in &history.measurements {
        if let (Some(ttft), true) = (m.ttft_ms, m.candidate == prefill) {
            outcome.ttft.push((f64::from(m.isl), ttft.mean));
        }
        if let (Some(itl), true) = (m.itl_ms, m.candidate == decode) {
            outcome.itl.push((m.isl, m.osl, m.concurrency_seen, itl.mean));
        }
    }
    outcome.curve_points = (outcome.ttft.len() + outcome.itl.len()) as u32;
}

/// Compiled once for all worlds.
///
/// # Panics
/// If the host does not start.
pub fn host() -> PluginHost {
    PluginHost::new(sla_profiler::plugin::HostOptions::default()).expect("a plugin host")
}
