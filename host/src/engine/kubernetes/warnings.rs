//! What stands in Events alone: pods that a quota does not let come to be, and volumes whose secret is not there. The
//! pods themselves say nothing of it.
//!
//! Reading Events takes a right that a run can do without: whoever lacks it waits for the deadline on silence instead.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Event as KubeEvent;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::pods::{Patience, PodView, Problem};
use super::watching::View;
use crate::domain::FailureCause;
use crate::kubernetes::Kube;

/// Events that are listed at once.
const LIST_PAGE: u32 = 500;

/// Pods that have not started after this time make one look at Events.
const UNTIL_ASKED: Duration = Duration::from_secs(5);

/// One of them, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// When it was first said, by the API server's clock; absent where it does not tell.
    pub created: Option<Timestamp>,
    /// What it means.
    pub problem: Problem,
}

/// By the object that they are about.
pub type Warnings = BTreeMap<String, Warning>;

/// Watches Events about the deployment's objects: their names begin with its own.
pub(super) fn watch(kube: &Kube, name: &str, sender: watch::Sender<View>) -> JoinHandle<()> {
    let events: Api<KubeEvent> = Api::namespaced(kube.client.clone(), &kube.namespace);
    let config = watcher::Config::default().fields("type=Warning").page_size(LIST_PAGE);
    let prefix = format!("{name}-");
    tokio::spawn(async move {
        // What starts in time needs none of it.
        tokio::time::sleep(UNTIL_ASKED).await;
        if sender.subscribe().wait_for(is_held_up).await.is_err() {
            return;
        }
        let mut stream = pin!(watcher::watcher(events, config).default_backoff());
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Apply(event) | Event::InitApply(event)) => {
                    let object = event.involved_object.name.as_deref().unwrap_or_default();
                    if object.starts_with(&prefix)
                        && let Some(warning) = warning(&event)
                    {
                        sender.send_if_modified(|view| {
                            // Watches do not wait for each other.
                            if view.pods.values().any(|pod| disproves(pod, object, &warning)) {
                                return false;
                            }
                            let is_new = view.warnings.get(object) != Some(&warning);
                            view.warnings.insert(object.to_owned(), warning);
                            is_new
                        });
                    }
                }
                Ok(_) => {}
                Err(error) if is_forbidden(&error) => {
                    tracing::debug!("events are not ours to read: {error}");
                    return;
                }
                Err(error) => tracing::debug!("watch of events: {error}"),
            }
        }
    })
}

/// Whether anybody has yet to start.
fn is_held_up(view: &View) -> bool {
    let workers = || view.pods.values().filter(|pod| !pod.is_frontend());
    workers().next().is_none() || workers().any(|pod| pod.started.is_empty())
}

fn is_forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 401 | 403),
        _ => false,
    }
}

/// What an Event means, if it is one of those that nothing else tells.
fn warning(event: &KubeEvent) -> Option<Warning> {
    let said = event.message.as_deref().unwrap_or_default();
    let object = event.involved_object.name.as_deref().unwrap_or_default();
    let kind = event.reason.as_deref().unwrap_or_default();
    let is_gone = said.contains("not found");
    let (cause, what, remedy) = match kind {
        "FailedCreate" if said.contains("exceeded quota") => (
            FailureCause::Quota,
            "may not create its pods",
            "raise the namespace's ResourceQuota, or lower hardware.totalGpus",
        ),
        "FailedCreate" if is_gone => {
            (FailureCause::Missing, "cannot create its pods", "create what it names, or correct its name")
        }
        "FailedMount" | "FailedAttachVolume" if is_gone => (
            FailureCause::Missing,
            "cannot mount a volume",
            "the secret, ConfigMap or volume claim that it names must exist",
        ),
        _ => return None,
    };
    let reason = format!("{object} {what}: {said}; {remedy}");
    let problem = Problem { kind: kind.to_owned(), cause, reason, log: None, patience: Patience::Short };
    Some(Warning { created: event.metadata.creation_timestamp.as_ref().map(|time| time.0), problem })
}

/// Whether the pod is, or has come to be since, what the warning says cannot be.
fn disproves(pod: &PodView, object: &str, warning: &Warning) -> bool {
    let is_younger = pod.created.zip(warning.created).is_some_and(|(pod, warning)| pod >= warning);
    let came_to_be = is_younger && pod.name.starts_with(&format!("{object}-"));
    came_to_be || (pod.name == object && !pod.started.is_empty())
}

/// Takes back what a pod that is there, or has started, disproves.
pub(super) fn settle(warnings: &mut Warnings, pod: &PodView, is_new: bool) {
    warnings.retain(|object, _| {
        let came_to_be = is_new && pod.name.starts_with(&format!("{object}-"));
        let started = *object == pod.name && !pod.started.is_empty();
        !came_to_be && !started
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(reason: &str, message: &str) -> KubeEvent {
        serde_json::from_value(json!({
            "metadata": { "name": "e", "namespace": "ns", "creationTimestamp": "2026-01-02T03:04:05Z" },
            "involvedObject": { "kind": "ReplicaSet", "name": "d-worker-1" },
            "reason": reason, "message": message, "type": "Warning",
        }))
        .unwrap()
    }

    #[test]
    fn quota_and_missing_volumes_are_told_apart_and_what_pods_say_themselves_is_left_to_them() {
        let of = |reason: &str, message: &str| warning(&event(reason, message)).map(|w| w.problem.cause);
        let quota = "Error creating: pods \"d-worker-1-x\" is forbidden: exceeded quota: gpus, requested: 8, used: 8";
        assert_eq!(of("FailedCreate", quota), Some(FailureCause::Quota));
        assert_eq!(of("FailedMount", "MountVolume.SetUp failed: secret \"hf\" not found"), Some(FailureCause::Missing));
        for (reason, message) in [
            ("FailedScheduling", "0/3 nodes are available"),
            ("Unhealthy", "Readiness probe failed"),
            ("BackOff", "Back-off restarting failed container"),
            ("FailedMount", "timed out waiting for the condition"),
        ] {
            assert_eq!(of(reason, message), None, "{reason}");
        }
    }

    #[test]
    fn a_pod_that_came_to_be_or_started_takes_the_warning_back() {
        let pod = |name: &str, started: bool| {
            let state = if started { json!({ "running": {} }) } else { json!({ "waiting": {} }) };
            let status = json!({ "containerStatuses": [{ "name": "main", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": state }] });
            let pod = json!({ "metadata": { "name": name }, "status": status });
            PodView::new(&serde_json::from_value(pod).unwrap())
        };
        let known = warning(&event("FailedCreate", "exceeded quota")).unwrap();
        let mut younger = pod("d-worker-1-y", false);
        assert!(!disproves(&younger, "d-worker-1", &known), "nobody knows when it was created");
        younger.created = known.created;
        assert!(disproves(&younger, "d-worker-1", &known));
        let mut warnings = Warnings::from([("d-worker-1".to_owned(), known.clone()), ("d-p".to_owned(), known)]);
        settle(&mut warnings, &pod("d-worker-1-x", false), false);
        settle(&mut warnings, &pod("d-p", false), true);
        assert_eq!(warnings.len(), 2);
        settle(&mut warnings, &pod("d-worker-1-x", false), true);
        assert!(!warnings.contains_key("d-worker-1"));
        settle(&mut warnings, &pod("d-p", true), false);
        assert!(warnings.is_empty());
    }
}
