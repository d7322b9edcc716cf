//! What is the matter with a pod, told apart by what one does about it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;

use crate::domain::FailureCause;
use crate::kubernetes::{COMPONENT_LABEL, COMPONENT_TYPE_LABEL};

/// What stands in a pod's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its kind, as Kubernetes calls it: `ImagePullBackOff`, `OOMKilled`, …
    pub kind: String,
    /// For the history.
    pub cause: FailureCause,
    /// The thing, what Kubernetes says of it, and the next step.
    pub reason: String,
    /// Whose log tells more: a container's name, and whether it is that of its previous life.
    pub log: Option<(String, bool)>,
    /// How long it may last before it counts as final: some pass by themselves.
    pub patience: Patience,
}

/// How long a problem may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It will not pass.
    None,
    /// It may pass when what it waits for arrives: a registry, a secret that is created at this moment.
    Short,
    /// It passes when GPUs become free, or nodes are added.
    Scheduling,
}

/// For [`Patience::Short`].
pub const SHORT_PATIENCE: Duration = Duration::from_secs(60);

/// How a kubelet says that it pulls an image no longer so often.
const BACK_OFF: &str = "cannot be pulled: Back-off pulling image";

/// States in which an image is not there yet.
const PULLING: [&str; 2] = ["ErrImagePull", "ImagePullBackOff"];

/// One pod, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// When it was created, by the API server's clock.
    pub created: Option<Timestamp>,
    /// Its component's name, by Dynamo's label.
    pub component: String,
    /// Its component's type, by Dynamo's label: `frontend`, `worker`, ….
    pub component_type: String,
    /// Whether it serves.
    pub ready: bool,
    /// Whether it is about to go.
    pub terminating: bool,
    /// Address within the cluster, once it has one.
    pub ip: Option<String>,
    /// `Pending`, `Running`, ….
    pub phase: String,
    /// How often each container was started again; a container that has not started yet is not there.
    pub started: BTreeMap<String, i32>,
    /// Containers that run now.
    pub running: Vec<String>,
    /// What is the matter with it.
    pub problem: Option<Problem>,
}

impl PodView {
    /// The part of a pod that matters.
    pub fn new(pod: &Pod) -> Self {
        let label = |key: &str| {
            let labels = pod.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(key)).cloned().unwrap_or_default()
        };
        let status = pod.status.clone().unwrap_or_default();
        let condition = |kind: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        let containers = || status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        let began = |container: &&ContainerStatus| {
            let state = container.state.as_ref();
            container.restart_count > 0 || state.is_some_and(|s| s.running.is_some() || s.terminated.is_some())
        };
        let runs = |container: &&ContainerStatus| container.state.as_ref().is_some_and(|s| s.running.is_some());
        Self {
            name: pod.metadata.name.clone().unwrap_or_default(),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            component: label(COMPONENT_LABEL),
            component_type: label(COMPONENT_TYPE_LABEL),
            ready: condition("Ready").is_some_and(|condition| condition.status == "True"),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            ip: status.pod_ip.clone().filter(|ip| !ip.is_empty()),
            phase: status.phase.clone().unwrap_or_default(),
            started: containers().filter(began).map(|c| (c.name.clone(), c.restart_count)).collect(),
            running: containers().filter(runs).map(|c| c.name.clone()).collect(),
            problem: diagnose(pod, &status),
        }
    }

    /// The same, after what was seen of the pod before: a kubelet that backs off no longer says why.
    #[must_use]
    pub fn after(mut self, before: Option<&Self>) -> Self {
        let known = before.and_then(|before| before.problem.as_ref());
        if let (Some(problem), Some(known)) = (&mut self.problem, known)
            && problem.kind == "ImagePullBackOff"
            && problem.reason.contains(BACK_OFF)
            && !problem.reason.contains("ErrImagePull: ")
            && PULLING.contains(&known.kind.as_str())
        {
            *problem = Problem { kind: problem.kind.clone(), ..known.clone() };
        }
        self
    }

    /// Whether it is one of the frontend's.
    pub fn is_frontend(&self) -> bool {
        self.component_type == "frontend" || self.component.eq_ignore_ascii_case("frontend")
    }

    /// All restarts.
    pub fn restarts(&self) -> i32 {
        self.started.values().sum()
    }

    /// For the message of a deadline that has passed.
    pub fn standing(&self) -> String {
        let containers = || self.running.join(", ");
        match (self.ready, &self.problem) {
            (true, _) => format!("pod {} is ready", self.name),
            (false, Some(problem)) => format!("pod {}: {}", self.name, problem.kind),
            (false, None) if self.running.is_empty() => format!("pod {} is {}", self.name, self.phase.to_lowercase()),
            (false, None) => format!("pod {} runs ({}) but its readiness probe fails", self.name, containers()),
        }
    }
}

fn diagnose(pod: &Pod, status: &PodStatus) -> Option<Problem> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        return disrupted(name, status);
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    containers
        .filter_map(|container| container_problem(pod, name, container))
        .chain(pod_problem(name, status))
        .chain(unschedulable(name, status))
        // The one that is surest.
        .min_by_key(|problem| match problem.patience {
            Patience::None => 0,
            Patience::Short => 1,
            Patience::Scheduling => 2,
        })
}

/// What a container's state says.
fn container_problem(pod: &Pod, pod_name: &str, container: &ContainerStatus) -> Option<Problem> {
    let name = &container.name;
    let place = format!("container {name} of pod {pod_name}");
    let ended = |state: &Option<ContainerState>| state.as_ref().and_then(|state| state.terminated.clone());
    let (now, before) = (ended(&container.state), ended(&container.last_state));
    let last = now.as_ref().or(before.as_ref());
    let log = Some((name.clone(), now.is_none()));
    if let Some(last) = last.filter(|last| last.reason.as_deref() == Some("OOMKilled")) {
        let limit = memory_limit(pod, name).map_or_else(String::new, |limit| format!(" (limit {limit})"));
        return Some(Problem {
            kind: "OOMKilled".to_owned(),
            cause: FailureCause::HostMemory,
            reason: format!(
                "{place} was killed for using more host memory than it may{limit}, exit code {}; raise its memory limit \
                 with overrides.dgd (resources.limits.memory), or use more GPUs per engine",
                last.exit_code
            ),
            log,
            patience: Patience::None,
        });
    }
    if let Some(waiting) = container.state.as_ref().and_then(|state| state.waiting.as_ref()) {
        let kind = waiting.reason.as_deref().unwrap_or_default();
        let said = waiting.message.as_deref().unwrap_or("it gives no message");
        match kind {
            "ImagePullBackOff"
            | "ErrImagePull"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable" => {
                let (cause, patience) = pull_trouble(kind, said, &container.image);
                return Some(Problem {
                    kind: kind.to_owned(),
                    cause,
                    reason: format!(
                        "the image {} for {place} cannot be pulled: {said}; check the image's name (spec.image, --image) \
                         and the pull secret of the namespace",
                        container.image
                    ),
                    log: None,
                    patience,
                });
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                // A program that is not in the image will not come; a secret may be created at this moment.
                let no_program = ["executable file not found", "no such file or directory", "permission denied"];
                let is_command = kind != "CreateContainerConfigError" && no_program.iter().any(|no| said.contains(no));
                let (cause, patience) = if is_command {
                    (FailureCause::CommandLine, Patience::None)
                } else {
                    (FailureCause::Missing, Patience::Short)
                };
                return Some(Problem {
                    kind: kind.to_owned(),
                    cause,
                    reason: format!(
                        "{place} cannot be created: {said}; the secret, ConfigMap, volume or command that it names must exist"
                    ),
                    log: None,
                    patience,
                });
            }
            // Before the first restart it has ended once only.
            "CrashLoopBackOff" if container.restart_count > 0 => {
                return Some(crash(&place, last, container.restart_count, log));
            }
            _ => {}
        }
    }
    // Kubernetes starts it again at once after the first end; a second one is a habit.
    (last.is_some_and(|last| last.exit_code != 0) && container.restart_count >= 2)
        .then(|| crash(&place, last, container.restart_count, log))
}

fn crash(
    place: &str,
    last: Option<&k8s_openapi::api::core::v1::ContainerStateTerminated>,
    restarts: i32,
    log: Option<(String, bool)>,
) -> Problem {
    let exit = last.map_or_else(
        || "no exit code is known".to_owned(),
        |last| match last.signal.filter(|signal| *signal != 0) {
            Some(signal) => format!("signal {signal}"),
            None => format!("exit code {}", last.exit_code),
        },
    );
    let said = last.and_then(|last| last.message.as_deref()).map(|message| format!(": {}", message.trim()));
    Problem {
        kind: "CrashLoopBackOff".to_owned(),
        cause: FailureCause::CrashLoop,
        reason: format!("{place} ends again and again ({restarts} restarts, {exit}){}", said.unwrap_or_default()),
        log,
        patience: Patience::None,
    }
}

/// What a kubelet's words on an image mean, and how long they may stand. It says `Back-off` without a reason after it has
/// given one, which [`PodView::after`] remembers.
fn pull_trouble(kind: &str, said: &str, image: &str) -> (FailureCause, Patience) {
    // Names and digests hold any digits and words.
    let said = said.replace(image, "").to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if matches!(kind, "InvalidImageName" | "ErrImageNeverPull")
        || says(&["not found", "manifest unknown", "invalid reference", "no such host", "no match for platform"])
    {
        return (FailureCause::ImageMissing, Patience::None);
    }
    if says(&[
        "unauthorized",
        "denied",
        "forbidden",
        "authentication required",
        "no basic auth",
        "authorization failed",
    ]) {
        return (FailureCause::ImageDenied, Patience::None);
    }
    let passing = [
        "timeout",
        "timed out",
        "deadline exceeded",
        "connection",
        "i/o",
        "temporar",
        "too many requests",
        "toomanyrequests",
        "rate limit",
        "429",
        "500",
        "502",
        "503",
        "504",
        "unavailable",
        "unexpected eof",
        ": eof",
    ];
    if kind == "RegistryUnavailable" || says(&passing) {
        return (FailureCause::Registry, Patience::Short);
    }
    let says_nothing = said.starts_with("back-off pulling image") && !said.contains("errimagepull");
    (FailureCause::ImageMissing, if says_nothing { Patience::Short } else { Patience::None })
}

fn memory_limit(pod: &Pod, container: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let container = spec.containers.iter().find(|c| c.name == container)?;
    container.resources.as_ref()?.limits.as_ref()?.get("memory").map(|quantity| quantity.0.clone())
}

/// What the pod as a whole says.
fn pod_problem(name: &str, status: &PodStatus) -> Option<Problem> {
    let is_lost = status.reason.as_deref() == Some("NodeLost");
    if status.phase.as_deref() != Some("Failed") && !is_lost {
        return None;
    }
    let kind = status.reason.clone().unwrap_or_else(|| "Failed".to_owned());
    let said = status.message.as_deref().map_or_else(String::new, |message| format!(": {message}"));
    let (cause, remedy) = match kind.as_str() {
        "Evicted" => (FailureCause::Evicted, "; its node ran out of memory or disk"),
        "Preempting" | "Preempted" => (FailureCause::Evicted, "; a pod of a higher priority took its place"),
        "NodeLost" | "NodeShutdown" | "NodeAffinity" | "Shutdown" | "Terminated" => {
            (FailureCause::NodeLost, "; its node went away")
        }
        "UnexpectedAdmissionError" => {
            (FailureCause::GpusTaken, "; the node's device plugin could not give it its GPUs")
        }
        kind if kind.starts_with("OutOf") => (FailureCause::GpusTaken, "; somebody else was faster on its node"),
        _ => (disruption(status).unwrap_or(FailureCause::CrashLoop), ""),
    };
    let reason = format!("pod {name} has failed ({kind}){said}{remedy}");
    Some(Problem { kind, cause, reason, log: None, patience: Patience::None })
}

/// Who ends the pod, as the condition `DisruptionTarget` tells; nobody, where it is not there.
fn disruption(status: &PodStatus) -> Option<FailureCause> {
    let mut conditions = status.conditions.iter().flatten();
    let target = conditions.find(|c| c.type_ == "DisruptionTarget" && c.status == "True")?;
    match target.reason.as_deref()? {
        "PreemptionByScheduler" | "EvictionByEvictionAPI" | "TerminationByKubelet" => Some(FailureCause::Evicted),
        "DeletionByTaintManager" | "DeletionByPodGC" => Some(FailureCause::NodeLost),
        _ => None,
    }
}

/// A pod that has to go, and not because somebody deleted it.
fn disrupted(name: &str, status: &PodStatus) -> Option<Problem> {
    let is_lost = status.reason.as_deref() == Some("NodeLost");
    let cause = disruption(status).or_else(|| is_lost.then_some(FailureCause::NodeLost))?;
    let target = status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget");
    let said = target.and_then(|c| c.message.as_deref()).or(status.message.as_deref()).unwrap_or("no message");
    let reason = format!("pod {name} has to go ({cause}): {said}");
    Some(Problem { kind: cause.to_string(), cause, reason, log: None, patience: Patience::None })
}

fn unschedulable(name: &str, status: &PodStatus) -> Option<Problem> {
    let scheduled = status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled")?;
    if scheduled.status != "False" || scheduled.reason.as_deref() != Some("Unschedulable") {
        return None;
    }
    let said = scheduled.message.as_deref().unwrap_or("the scheduler gives no reason");
    let mut remedies = Vec::new();
    for (word, remedy) in [
        ("nvidia.com/gpu", "free GPUs, or lower hardware.totalGpus to what is there"),
        ("taint", "add tolerations (overrides.profilingJob or overrides.dgd)"),
        ("affinity", "correct the node selector in overrides.dgd"),
        ("persistentvolumeclaim", "create the PVC of modelCache, or correct its name"),
        ("PersistentVolumeClaim", "bind the PVC of modelCache"),
        ("memory", "lower the memory request, or add nodes"),
    ] {
        if said.contains(word) {
            remedies.push(remedy);
        }
    }
    let remedy = if remedies.is_empty() { String::new() } else { format!("; {}", remedies.join("; ")) };
    // A claim that does not exist is not waited for; everything else may become free.
    let gone = said.contains("persistentvolumeclaim") && said.contains("not found");
    let cause = if gone || said.contains("unbound immediate PersistentVolumeClaims") {
        FailureCause::Missing
    } else if said.contains("Insufficient nvidia.com/gpu") {
        FailureCause::GpusTaken
    } else {
        FailureCause::Unschedulable
    };
    Some(Problem {
        kind: "Unschedulable".to_owned(),
        cause,
        reason: format!("pod {name} finds no node: {said}{remedy}"),
        log: None,
        patience: if gone { Patience::Short } else { Patience::Scheduling },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> PodView {
        let pod = json!({
            "metadata": { "name": "p", "labels": { COMPONENT_LABEL: "worker", COMPONENT_TYPE_LABEL: "worker" } },
            "spec": { "containers": [{ "name": "main", "resources": { "limits": { "memory": "64Gi" } } }] },
            "status": status,
        });
        PodView::new(&serde_json::from_value(pod).unwrap())
    }

    fn container(state: Value, last: Value, restarts: i32) -> Value {
        json!({ "phase": "Running", "containerStatuses": [{
            "name": "main", "image": "nvcr.io/x:1", "imageID": "", "ready": false, "restartCount": restarts,
            "state": state, "lastState": last,
        }] })
    }

    fn waiting(reason: &str, message: &str) -> Value {
        json!({ "waiting": { "reason": reason, "message": message } })
    }

    fn ended(code: i32, reason: &str) -> Value {
        json!({ "terminated": { "exitCode": code, "reason": reason } })
    }

    #[test]
    fn a_healthy_pod_that_takes_long_has_no_problem() {
        let loading = pod(container(json!({ "running": {} }), json!({}), 0));
        assert_eq!(loading.problem, None);
        assert!(!loading.ready);
        assert!(loading.standing().contains("readiness probe"), "{}", loading.standing());
        let creating = pod(container(waiting("ContainerCreating", ""), json!({}), 0));
        assert_eq!(creating.problem, None);
        assert!(creating.started.is_empty());
    }

    #[test]
    fn each_trouble_is_told_apart_with_its_remedy() {
        let cases = [
            (
                container(waiting("ImagePullBackOff", "not found"), json!({}), 0),
                "ImagePullBackOff",
                "pull secret",
                Patience::None,
            ),
            (
                container(waiting("ErrImagePull", "i/o timeout"), json!({}), 0),
                "ErrImagePull",
                "nvcr.io/x:1",
                Patience::Short,
            ),
            (
                container(waiting("InvalidImageName", "timeout"), json!({}), 0),
                "InvalidImageName",
                "--image",
                Patience::None,
            ),
            (
                container(waiting("CrashLoopBackOff", "back-off"), ended(3, "Error"), 1),
                "CrashLoopBackOff",
                "exit code 3",
                Patience::None,
            ),
            (container(ended(137, "OOMKilled"), json!({}), 0), "OOMKilled", "limit 64Gi", Patience::None),
            (
                container(waiting("CrashLoopBackOff", ""), ended(137, "OOMKilled"), 4),
                "OOMKilled",
                "resources.limits.memory",
                Patience::None,
            ),
            (
                container(waiting("CreateContainerConfigError", "secret \"x\" not found"), json!({}), 0),
                "CreateContainerConfigError",
                "secret \"x\" not found",
                Patience::Short,
            ),
            (
                json!({ "phase": "Failed", "reason": "Evicted", "message": "disk pressure" }),
                "Evicted",
                "ran out of memory or disk",
                Patience::None,
            ),
            (
                json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False",
                    "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu." }] }),
                "Unschedulable",
                "free GPUs",
                Patience::Scheduling,
            ),
        ];
        for (status, kind, said, patience) in cases {
            let problem = pod(status.clone()).problem.unwrap_or_else(|| panic!("{kind}: {status}"));
            assert_eq!((problem.kind.as_str(), problem.patience), (kind, patience), "{status}");
            assert!(problem.reason.contains(said), "{kind}: {}", problem.reason);
        }
    }

    #[test]
    fn one_restart_is_forgiven_and_a_gated_pod_is_waited_for() {
        assert_eq!(pod(container(json!({ "running": {} }), ended(1, "Error"), 1)).problem, None);
        assert!(pod(container(json!({ "running": {} }), ended(1, "Error"), 2)).problem.is_some());
        let gated = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "SchedulingGated" }] });
        assert_eq!(pod(gated).problem, None);
    }
}
