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
use crate::domain::{Backend, FailureClass, Mapping};
use crate::kubernetes::Kube;

/// The operator says `failed` of an error that it tries to mend, too.
const FAILED_PATIENCE: Duration = Duration::from_secs(20);
/// How often deadlines are looked at while nothing happens.
const LOOK: Duration = Duration::from_secs(1);
/// Lines of a log in a reason.
const LINES: usize = 8;
/// Longest line of a log in a reason, in characters.
const LINE_CHARS: usize = 300;

/// Why a deployment will not be ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    /// For the history.
    pub class: FailureClass,
    /// The thing, the place, the next step.
    pub reason: String,
}

/// Words of engines that say that GPU memory does not suffice.
const DOES_NOT_FIT: [&str; 6] = [
    "CUDA out of memory",
    "torch.OutOfMemoryError",
    "No available memory for the cache blocks",
    "Not enough memory. Please try to increase --mem-fraction-static",
    "is larger than the maximum number of tokens that can be stored in KV cache",
    "Free memory on device",
];

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
    let mut problems: BTreeMap<String, Instant> = BTreeMap::new();
    let mut failed_since: Option<Instant> = None;
    let mut seen = false;
    loop {
        let now = Instant::now();
        let current = view.borrow_and_update().clone();
        seen |= current.dgd.is_some();
        match judge(&current, deadlines, &mut problems, &mut failed_since, seen, launched, logs.heard(), now) {
            Judgement::Ready => return Ok(()),
            Judgement::Wait => {}
            Judgement::Hopeless { class, reason, of } => {
                let words = match of {
                    Some((pod, problem)) => words_of(kube, logs, &pod, &problem).await,
                    None => String::new(),
                };
                let class =
                    if DOES_NOT_FIT.iter().any(|word| words.contains(word)) { FailureClass::DoesNotFit } else { class };
                return Err(NotReady { class, reason: format!("{reason}{words}") });
            }
        }
        tokio::select! {
            changed = view.changed() => if changed.is_err() {
                return Err(NotReady { class: FailureClass::Other, reason: "nobody watches it any more".to_owned() });
            },
            () = sleep_until(now + LOOK) => {}
        }
    }
}

enum Judgement {
    Ready,
    Wait,
    Hopeless { class: FailureClass, reason: String, of: Option<(String, Problem)> },
}

#[expect(clippy::too_many_arguments, reason = "it is a pure function of everything that is known")]
fn judge(
    view: &View,
    deadlines: &Deadlines,
    problems: &mut BTreeMap<String, Instant>,
    failed_since: &mut Option<Instant>,
    seen: bool,
    launched: Instant,
    heard: Option<Instant>,
    now: Instant,
) -> Judgement {
    let hopeless = |class, reason| Judgement::Hopeless { class, reason, of: None };
    let Some(dgd) = &view.dgd else {
        // One that was deleted before the first list is never seen.
        let gone = seen || now.duration_since(untroubled(view, launched, now)) >= deadlines.operator;
        if gone && view.dgd_listed {
            return hopeless(FailureClass::Launch, "its deployment was deleted by somebody else".to_owned());
        }
        return deadline(view, deadlines, launched, heard, now);
    };
    if dgd.terminating {
        return hopeless(FailureClass::Launch, "its deployment is being deleted by somebody else".to_owned());
    }
    if dgd.is_ready() {
        return Judgement::Ready;
    }
    // Each problem has its time, counted from when it was first seen.
    let here: Vec<(&String, &Problem)> =
        view.pods.iter().filter_map(|(name, pod)| Some((name, pod.problem.as_ref()?))).collect();
    let key = |name: &str, problem: &Problem| format!("{name}/{:?}", problem.patience);
    problems.retain(|known, _| here.iter().any(|(name, problem)| *known == key(name, problem)));
    for (name, problem) in here {
        let since = *problems.entry(key(name, problem)).or_insert_with(|| {
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
            let reason = format!("{}{waited}", problem.reason);
            return Judgement::Hopeless { class: problem.class, reason, of: Some((name.clone(), problem.clone())) };
        }
    }
    if dgd.state == "failed" {
        let since = *failed_since.get_or_insert(now);
        if now.duration_since(since) >= FAILED_PATIENCE {
            let said = dgd.complaints();
            let said = if said.is_empty() { "and does not say why".to_owned() } else { said };
            return hopeless(FailureClass::Launch, format!("Dynamo's operator calls the deployment failed: {said}"));
        }
    } else {
        *failed_since = None;
    }
    let untouched = dgd.state.is_empty() && view.pods.is_empty();
    if untouched && now.duration_since(untroubled(view, launched, now)) >= deadlines.operator {
        return hopeless(
            FailureClass::Launch,
            format!(
                "Dynamo's operator has not touched the deployment for {} s; is it running, and does it watch this namespace?",
                deadlines.operator.as_secs()
            ),
        );
    }
    deadline(view, deadlines, launched, heard, now)
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
        class: FailureClass::Timeout,
        reason: format!("{what}; {}", standing.join("; ")),
        of: view.pods.values().find(|pod| !pod.ready && !pod.running.is_empty()).map(|pod| {
            let log = pod.running.first().map(|container| (container.clone(), false));
            let kind = "not ready".to_owned();
            let none =
                Problem { kind, class: FailureClass::Timeout, reason: String::new(), log, patience: Patience::None };
            (pod.name.clone(), none)
        }),
    }
}

/// Why a deployment that was ready no longer serves; `None` while it does.
pub fn lost(view: &View, pods: usize) -> Option<String> {
    match &view.dgd {
        None if view.dgd_listed => return Some("its deployment was deleted by somebody else".to_owned()),
        Some(dgd) if dgd.terminating => return Some("its deployment is being deleted by somebody else".to_owned()),
        _ => {}
    }
    if let Some(problem) = view.pods.values().find_map(|pod| pod.problem.as_ref()) {
        return Some(problem.reason.clone());
    }
    let alive = view.pods.values().filter(|pod| !pod.terminating).count();
    (view.pods_listed && alive < pods).then(|| format!("{} of its {pods} pods are gone", pods - alive))
}

/// The last words of whoever is in trouble, for a reason.
pub async fn last_words(kube: &Kube, logs: &Logs, view: &View) -> String {
    match view.pods.iter().find_map(|(name, pod)| Some((name, pod.problem.as_ref()?))) {
        Some((name, problem)) => words_of(kube, logs, name, problem).await,
        None => String::new(),
    }
}

async fn words_of(kube: &Kube, logs: &Logs, pod: &str, problem: &Problem) -> String {
    let Some((container, previous)) = &problem.log else { return String::new() };
    let mut lines = logs.last_lines(pod, container, LINES);
    if lines.is_empty() {
        // It ended before anybody could follow it.
        let params = LogParams {
            container: Some(container.clone()),
            previous: *previous,
            tail_lines: Some(LINES as i64),
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
        return String::new();
    }
    let short = |line: &String| line.chars().take(LINE_CHARS).collect::<String>();
    format!("; its log ends with:\n  {}", lines.iter().map(short).collect::<Vec<_>>().join("\n  "))
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
        seen: bool,
        problems: BTreeMap<String, Instant>,
        failed_since: Option<Instant>,
        launched: Instant,
        heard: Option<Instant>,
    }

    impl World {
        fn new() -> Self {
            let dgd = DgdView { uid: "u".to_owned(), state: "pending".to_owned(), current: true, ..DgdView::default() };
            let view = View { dgd: Some(dgd), dgd_listed: true, ..View::default() };
            let launched = Instant::now();
            Self { view, seen: true, problems: BTreeMap::new(), failed_since: None, launched, heard: None }
        }

        /// Class and reason if it is hopeless that many seconds after the launch.
        fn at(&mut self, seconds: u64) -> Option<(FailureClass, String)> {
            let now = self.launched + Duration::from_secs(seconds);
            let deadlines = Deadlines::default();
            match judge(
                &self.view,
                &deadlines,
                &mut self.problems,
                &mut self.failed_since,
                self.seen,
                self.launched,
                self.heard,
                now,
            ) {
                Judgement::Hopeless { class, reason, .. } => Some((class, reason)),
                Judgement::Wait | Judgement::Ready => None,
            }
        }

        fn pod(&mut self, problem: Option<Problem>) {
            let pod = PodView {
                name: "p".to_owned(),
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
            class: FailureClass::Launch,
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
        world.seen = false;
        assert_eq!(world.at(59), None, "its first list may have been made before");
        assert!(world.at(60).unwrap().1.contains("was deleted by somebody else"));
    }

    #[test]
    fn a_deployment_that_somebody_deletes_is_lost() {
        let mut view = World::new().view;
        view.pods_listed = true;
        assert_eq!(lost(&view, 0), None);
        assert!(lost(&view, 2).unwrap().contains("2 of its 2 pods"));
        view.dgd.as_mut().unwrap().terminating = true;
        assert!(lost(&view, 0).unwrap().contains("being deleted"));
        view.dgd = None;
        assert!(lost(&view, 0).unwrap().contains("was deleted"));
    }
}
