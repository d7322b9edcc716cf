//! Waiting until a deployment is ready, or knowing early that it will not be.
//!
//! Nothing that makes progress is given up: the deadline that counts is the one on silence. What cannot get better
//! (an image that does not exist, a crash that repeats) ends the wait within seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::LogParams;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Deadlines;
use super::logs::Logs;
use super::pods::{Patience, Problem, SHORT_PATIENCE};
use super::watching::View;
use crate::backends::flags::Flags;
use crate::backends::trouble;
use crate::domain::{Backend, FailureCause, FailureClass, Mapping};
use crate::engine::served::Ended;
use crate::kubernetes::Kube;

/// The operator says `failed` of an error that it tries to mend, too.
const FAILED_PATIENCE: Duration = Duration::from_secs(20);
/// How often deadlines are looked at while nothing happens.
const LOOK: Duration = Duration::from_secs(1);
/// An operator that has not touched a deployment for so long is spoken of; it may still be starting.
const SILENCE_IS_TOLD: Duration = Duration::from_secs(8);
/// Last lines of a log in which the cause is looked for.
const TELLING_LINES: usize = 300;
/// Lines of a log in a reason.
const LINES: usize = 8;
/// Longest line of a log in a reason, in characters.
const LINE_CHARS: usize = 300;

/// Why a deployment will not be ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    /// For the history.
    pub class: FailureClass,
    /// What exactly, where it is known.
    pub cause: Option<FailureCause>,
    /// The thing, the place, the next step.
    pub reason: String,
    /// Since when it was known, and said in the log: what may pass has its time before it is given up.
    pub known: Instant,
}

/// Waits until the operator says that the deployment is ready.
///
/// # Errors
/// If it is hopeless, or a deadline passes.
pub async fn until_ready(
    kube: &Kube,
    mut view: watch::Receiver<View>,
    logs: &Logs,
    deadlines: &Deadlines,
    launched: Instant,
) -> Result<(), NotReady> {
    let mut memory = Memory::default();
    loop {
        let now = Instant::now();
        let current = view.borrow_and_update().clone();
        match judge(&current, deadlines, &mut memory, launched, logs.heard(), now) {
            Judgement::Ready => return Ok(()),
            Judgement::Wait => {}
            Judgement::Hopeless { cause, reason, known, of } => {
                let words = match of {
                    Some((pod, problem)) => words_of(kube, logs, &pod, &problem).await,
                    None => Words::default(),
                };
                // A container that ends again and again says in its log why.
                let cause = match words.cause {
                    Some(told) if matches!(cause, FailureCause::CrashLoop | FailureCause::NotReady) => told,
                    _ => cause,
                };
                let class = class(cause);
                return Err(NotReady { class, cause: Some(cause), reason: format!("{reason}{}", words.text), known });
            }
        }
        tokio::select! {
            changed = view.changed() => if changed.is_err() {
                let (class, reason) = (FailureClass::Other, "nobody watches it any more".to_owned());
                return Err(NotReady { class, cause: None, reason, known: now });
            },
            () = sleep_until(now + LOOK) => {}
        }
    }
}

/// What policies see of a cause.
const fn class(cause: FailureCause) -> FailureClass {
    match cause {
        FailureCause::GpuMemory => FailureClass::DoesNotFit,
        FailureCause::NotReady => FailureClass::Timeout,
        _ => FailureClass::Launch,
    }
}

/// Since when things are as they are.
#[derive(Debug, Default)]
struct Memory {
    /// Each problem, counted from when it was first seen.
    problems: BTreeMap<String, Instant>,
    /// The operator calls the deployment failed.
    failed: Option<Instant>,
    /// The operator's silence was spoken of.
    silent: Option<Instant>,
    /// The deployment was seen.
    seen: bool,
}

enum Judgement {
    Ready,
    Wait,
    Hopeless {
        cause: FailureCause,
        reason: String,
        known: Instant,
        /// Whose log tells more.
        of: Option<(String, Problem)>,
    },
}

fn judge(
    view: &View,
    deadlines: &Deadlines,
    memory: &mut Memory,
    launched: Instant,
    heard: Option<Instant>,
    now: Instant,
) -> Judgement {
    let hopeless = |cause, reason, known| Judgement::Hopeless { cause, reason, known, of: None };
    memory.seen |= view.dgd.is_some();
    let Some(dgd) = &view.dgd else {
        // One that was deleted before the first list is never seen.
        let gone = memory.seen || now.duration_since(untroubled(view, launched, now)) >= deadlines.operator;
        if gone && view.dgd_listed {
            return hopeless(FailureCause::Deleted, "its deployment was deleted by somebody else".to_owned(), now);
        }
        return deadline(view, deadlines, launched, heard, now);
    };
    if dgd.terminating {
        return hopeless(FailureCause::Deleted, "its deployment is being deleted by somebody else".to_owned(), now);
    }
    if dgd.is_ready() {
        return Judgement::Ready;
    }
    if let Some(judgement) = troubled(view, deadlines, memory, now) {
        return judgement;
    }
    if dgd.state == "failed" {
        let since = *memory.failed.get_or_insert(now);
        if now.duration_since(since) >= FAILED_PATIENCE {
            let said = dgd.complaints();
            let cause =
                if said.contains("exceeded quota") { FailureCause::Quota } else { FailureCause::OperatorFailed };
            let said = if said.is_empty() { "and does not say why".to_owned() } else { said };
            return hopeless(cause, format!("Dynamo's operator calls the deployment failed: {said}"), since);
        }
    } else {
        memory.failed = None;
    }
    let untouched = dgd.state.is_empty() && view.pods.is_empty();
    let silence = now.duration_since(untroubled(view, launched, now));
    if untouched && silence >= SILENCE_IS_TOLD {
        let since = *memory.silent.get_or_insert_with(|| {
            tracing::warn!("Dynamo's operator has not touched the deployment for {} s", silence.as_secs());
            now
        });
        if silence >= deadlines.operator {
            let reason = format!(
                "Dynamo's operator has not touched the deployment for {} s; is it running, and does it watch this namespace?",
                deadlines.operator.as_secs()
            );
            return hopeless(FailureCause::OperatorSilent, reason, since);
        }
    } else {
        memory.silent = None;
    }
    deadline(view, deadlines, launched, heard, now)
}

/// What pods and Events complain of: each problem has its time, counted from when it was first seen.
fn troubled(view: &View, deadlines: &Deadlines, memory: &mut Memory, now: Instant) -> Option<Judgement> {
    let created = view.dgd.as_ref().and_then(|dgd| dgd.created);
    let pods = view.pods.iter().filter_map(|(name, pod)| Some((name, pod.problem.as_ref()?)));
    // Events of an earlier deployment of the same name are still there.
    let is_ours = |since| created.zip(since).is_none_or(|(created, since)| since >= created);
    let warnings = view.warnings.iter().filter(|(_, warning)| is_ours(warning.created));
    let here: Vec<(&String, &Problem)> =
        pods.chain(warnings.map(|(object, warning)| (object, &warning.problem))).collect();
    let key = |name: &str, problem: &Problem| format!("{name}/{:?}", problem.patience);
    memory.problems.retain(|known, _| here.iter().any(|(name, problem)| *known == key(name, problem)));
    for (name, problem) in here {
        let since = *memory.problems.entry(key(name, problem)).or_insert_with(|| {
            tracing::warn!("{}", problem.reason);
            now
        });
        let patience = match problem.patience {
            Patience::None => Duration::ZERO,
            Patience::Short => SHORT_PATIENCE,
            Patience::Scheduling => deadlines.scheduling,
        };
        if now.duration_since(since) >= patience {
            let waited = match problem.patience {
                Patience::None => String::new(),
                _ => format!(" (for {} s)", patience.as_secs()),
            };
            return Some(Judgement::Hopeless {
                cause: problem.cause,
                reason: format!("{}{waited}", problem.reason),
                known: since,
                of: Some((name.clone(), problem.clone())),
            });
        }
    }
    None
}

/// Since when the API server answers: one that was away was away for the operator, too.
fn untroubled(view: &View, launched: Instant, now: Instant) -> Instant {
    if view.trouble.is_some() { now } else { view.recovered.map_or(launched, |at| at.max(launched)) }
}

fn deadline(view: &View, deadlines: &Deadlines, launched: Instant, heard: Option<Instant>, now: Instant) -> Judgement {
    let sign = [Some(launched), heard, view.changed].into_iter().flatten().max().unwrap_or(launched);
    let (total, silent) = (now.duration_since(launched), now.duration_since(sign));
    let what = if total >= deadlines.launch {
        format!("it is not ready after {} s", deadlines.launch.as_secs())
    } else if silent >= deadlines.silence {
        format!("it is not ready after {} s, and gave no sign of life for {} s", total.as_secs(), silent.as_secs())
    } else {
        return Judgement::Wait;
    };
    let mut standing: Vec<String> = view.pods.values().map(super::pods::PodView::standing).collect();
    if standing.is_empty() {
        standing.push("it has no pods".to_owned());
    }
    standing.extend(view.dgd.as_ref().map(|dgd| format!("the operator says {:?}: {}", dgd.state, dgd.complaints())));
    standing.extend(view.trouble.as_ref().map(|trouble| format!("the API server: {trouble}")));
    Judgement::Hopeless {
        cause: FailureCause::NotReady,
        reason: format!("{what}; {}", standing.join("; ")),
        known: now,
        of: view.pods.values().find(|pod| !pod.ready && !pod.running.is_empty()).map(|pod| {
            let log = pod.running.first().map(|container| (container.clone(), false));
            let kind = "not ready".to_owned();
            let cause = FailureCause::NotReady;
            let none = Problem { kind, cause, reason: String::new(), log, patience: Patience::None };
            (pod.name.clone(), none)
        }),
    }
}

/// Why a deployment that was ready no longer serves; `None` while it does.
pub fn lost(view: &View, pods: usize) -> Option<Ended> {
    let deleted = |reason: &str| Some(Ended { cause: Some(FailureCause::Deleted), reason: reason.to_owned() });
    match &view.dgd {
        None if view.dgd_listed => return deleted("its deployment was deleted by somebody else"),
        Some(dgd) if dgd.terminating => return deleted("its deployment is being deleted by somebody else"),
        _ => {}
    }
    if let Some(problem) = view.pods.values().find_map(|pod| pod.problem.as_ref()) {
        return Some(Ended { cause: Some(problem.cause), reason: problem.reason.clone() });
    }
    let alive = view.pods.values().filter(|pod| !pod.terminating).count();
    (view.pods_listed && alive < pods).then(|| format!("{} of its {pods} pods are gone", pods - alive).into())
}

/// The last words of whoever is in trouble, for a reason, and what they mean.
pub async fn last_words(kube: &Kube, logs: &Logs, view: &View) -> Words {
    match view.pods.iter().find_map(|(name, pod)| Some((name, pod.problem.as_ref()?))) {
        Some((name, problem)) => words_of(kube, logs, name, problem).await,
        None => Words::default(),
    }
}

/// What a container wrote at its end.
#[derive(Debug, Default)]
pub struct Words {
    /// For a reason; empty where there is nothing.
    pub text: String,
    /// What it means, where that is known.
    pub cause: Option<FailureCause>,
}

async fn words_of(kube: &Kube, logs: &Logs, pod: &str, problem: &Problem) -> Words {
    let Some((container, previous)) = &problem.log else { return Words::default() };
    let mut lines = logs.last_lines(pod, container, TELLING_LINES);
    if lines.is_empty() {
        // It ended before anybody could follow it.
        let params = LogParams {
            container: Some(container.clone()),
            previous: *previous,
            tail_lines: Some(TELLING_LINES as i64),
            limit_bytes: Some(64 << 10),
            ..LogParams::default()
        };
        let pods = kube.pods();
        let reading = tokio::time::timeout(Duration::from_secs(10), pods.logs(pod, &params));
        if let Ok(Ok(text)) = reading.await {
            lines = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        }
    }
    if lines.is_empty() {
        return Words::default();
    }
    let all = lines.join("\n");
    let told = trouble::cause(&all);
    let short = |line: &str| line.chars().take(LINE_CHARS).collect::<String>();
    let last = lines.iter().skip(lines.len().saturating_sub(LINES)).map(|line| short(line)).collect::<Vec<_>>();
    let mut text = format!("; its log ends with:\n  {}", last.join("\n  "));
    // Tracebacks of whoever noticed may follow the line that matters.
    if let Some((_, line)) = told
        && !last.iter().any(|known| *known == short(line))
    {
        text.push_str(&format!("\n  and says before: {}", short(line)));
    }
    Words { text, cause: told.map(|(cause, _)| cause) }
}

/// The limit on running requests of a candidate's worker, over all attention-DP ranks, as its command line has it.
pub fn max_running(dgd: &Value, backend: Backend, mapping: &Mapping) -> Option<u32> {
    let names: &[&str] = match backend {
        Backend::Vllm => &["--max-num-seqs"],
        Backend::Sglang => &["--max-running-requests"],
        Backend::Trtllm => &["--max-batch-size", "--trtllm.max_batch_size"],
    };
    let args = crate::dgd::component_args(dgd, |kind| kind != "frontend")?;
    let value = Flags::new(&args).optional_size(names).ok().flatten()?;
    Some(value.saturating_mul(mapping.attention_dp.max(1)))
}

#[cfg(test)]
mod tests {
    use super::super::pods::PodView;
    use super::super::watching::DgdView;
    use super::*;

    struct World {
        view: View,
        memory: Memory,
        launched: Instant,
        heard: Option<Instant>,
    }

    impl World {
        fn new() -> Self {
            let dgd = DgdView { uid: "u".to_owned(), state: "pending".to_owned(), current: true, ..DgdView::default() };
            let view = View { dgd: Some(dgd), dgd_listed: true, ..View::default() };
            let launched = Instant::now();
            Self { view, memory: Memory { seen: true, ..Memory::default() }, launched, heard: None }
        }

        /// Class and reason if it is hopeless that many seconds after the launch.
        fn at(&mut self, seconds: u64) -> Option<(FailureClass, String)> {
            let now = self.launched + Duration::from_secs(seconds);
            let deadlines = Deadlines::default();
            match judge(&self.view, &deadlines, &mut self.memory, self.launched, self.heard, now) {
                Judgement::Hopeless { cause, reason, .. } => Some((class(cause), reason)),
                Judgement::Wait | Judgement::Ready => None,
            }
        }

        fn pod(&mut self, problem: Option<Problem>) {
            let pod = PodView {
                name: "p".to_owned(),
                created: None,
                component: "worker".to_owned(),
                component_type: "worker".to_owned(),
                ready: false,
                terminating: false,
                ip: None,
                phase: "Running".to_owned(),
                started: BTreeMap::from([("main".to_owned(), 0)]),
                running: vec!["main".to_owned()],
                problem,
            };
            self.view.pods.insert("p".to_owned(), pod);
        }
    }

    fn problem(patience: Patience) -> Problem {
        Problem {
            kind: "K".to_owned(),
            cause: FailureCause::CrashLoop,
            reason: "the reason".to_owned(),
            log: None,
            patience,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_load_that_gives_signs_of_life_is_not_given_up() {
        let mut world = World::new();
        world.pod(None);
        for minute in 1..100 {
            world.heard = Some(world.launched + Duration::from_secs(60 * minute));
            assert_eq!(world.at(60 * minute + 30), None, "minute {minute}");
        }
        let (class, reason) = world.at(60 * 99 + 1201).unwrap();
        assert_eq!(class, FailureClass::Timeout);
        assert!(reason.contains("no sign of life") && reason.contains("readiness probe"), "{reason}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_pass_ends_the_wait_at_once_and_what_may_pass_has_its_time() {
        let mut world = World::new();
        world.pod(Some(problem(Patience::None)));
        assert!(world.at(1).is_some());
        let mut world = World::new();
        world.pod(Some(problem(Patience::Short)));
        assert_eq!(world.at(1), None);
        assert_eq!(world.at(60), None);
        assert!(world.at(61).unwrap().1.contains("for 60 s"));
        let mut world = World::new();
        world.pod(Some(problem(Patience::Scheduling)));
        assert_eq!(world.at(1), None);
        assert_eq!(world.at(299), None);
        // It found a node and lost it again: the time starts anew.
        world.pod(None);
        assert_eq!(world.at(300), None);
        world.pod(Some(problem(Patience::Scheduling)));
        assert_eq!(world.at(400), None);
        assert!(world.at(701).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_operator_that_is_not_there_and_one_that_gives_up_are_told_apart() {
        let mut world = World::new();
        world.view.dgd.as_mut().unwrap().state = String::new();
        assert_eq!(world.at(59), None);
        assert!(world.at(60).unwrap().1.contains("operator has not touched"));
        let mut world = World::new();
        world.view.dgd.as_mut().unwrap().state = "failed".to_owned();
        assert_eq!(world.at(5), None, "it may mend it");
        assert!(world.at(26).unwrap().1.contains("calls the deployment failed"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deployment_that_is_gone_before_it_is_seen_is_not_waited_for() {
        let mut world = World::new();
        world.view.dgd = None;
        assert!(world.at(0).unwrap().1.contains("was deleted by somebody else"), "it was seen");
        world.memory.seen = false;
        assert_eq!(world.at(59), None, "its first list may have been made before");
        assert!(world.at(60).unwrap().1.contains("was deleted by somebody else"));
    }

    #[test]
    fn a_deployment_that_somebody_deletes_is_lost() {
        let mut view = World::new().view;
        view.pods_listed = true;
        assert_eq!(lost(&view, 0), None);
        assert!(lost(&view, 2).unwrap().reason.contains("2 of its 2 pods"));
        view.dgd.as_mut().unwrap().terminating = true;
        assert!(lost(&view, 0).unwrap().reason.contains("being deleted"));
        view.dgd = None;
        assert!(lost(&view, 0).unwrap().reason.contains("was deleted"));
    }
}
