//! Who holds a lease, and whether that one still lives.
//!
//! Clocks of machines differ, so nobody reads another one's times. What tells is, in this order: the process itself, where
//! it is one of this machine; its pod, where it ran in one; and whether the record changes while we look.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease as Object;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::kubernetes::call::Patience;
use crate::kubernetes::connect::Kube;
use crate::kubernetes::error::{Action, ClusterError};
use crate::process::who::Process;

/// Annotation of a lease: its [`Holder`] as JSON.
const ANNOTATION: &str = "sla-profiler.dev/holder";

/// A holder that does not say for how long it may be silent. client-go's default.
const UNSAID_DURATION: Duration = Duration::from_secs(15);

/// Between two looks that count as one unbroken look: an API server that is away is away for the holder, too.
const LONGEST_GAP: Duration = Duration::from_secs(5);

/// For what a lease is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// A run.
    Profile,
    /// Removing what a run has left.
    Gc,
    /// A controller's replica.
    Controller,
}

/// A pod of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// As `spec.holderIdentity` has it: no two processes have the same.
    pub identity: String,
    /// For what.
    pub work: Work,
    /// The machine's name, or the pod's.
    pub host: String,
    /// Which process of it.
    pub process: Process,
    /// The pod in which it runs, if that is known.
    pub pod: Option<PodName>,
}

impl Holder {
    /// This process: `HOST_PROCESS_DIGEST`, of which the last part tells it from others of that number.
    ///
    /// # Errors
    /// If the API server does not answer. Where it does not let us look for our pod, none is named.
    pub async fn this(kube: &Kube, work: Work) -> Result<Self, ClusterError> {
        // Empty where there is no such file.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = Some(host.trim()).filter(|host| !host.is_empty()).unwrap_or("unknown").to_owned();
        let process = Process::this();
        let Process { place, pid, started_ticks } = &process;
        let digest = Sha256::digest(format!("{place}\0{pid}\0{started_ticks}"));
        let digest: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let pod = match kube.own_pod().await {
            Ok(pod) => pod.and_then(|pod| {
                let (name, uid) = (pod.metadata.name?, pod.metadata.uid?);
                Some(PodName { namespace: kube.namespace.clone(), name, uid })
            }),
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                tracing::debug!("{error}");
                None
            }
        };
        Ok(Self { identity: format!("{host}_{pid}_{digest}"), work, host, process, pod })
    }

    /// For the lease's annotations.
    pub(super) fn annotation(&self) -> (String, String) {
        (ANNOTATION.to_owned(), serde_json::to_string(self).unwrap_or_default())
    }

    /// The holder that a lease names; nobody if there is none. One who did not leave more than a name is named by that.
    pub fn of(lease: &Object) -> Option<Result<Self, String>> {
        let identity = lease.spec.as_ref()?.holder_identity.clone().filter(|identity| !identity.is_empty())?;
        let annotation = lease.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ANNOTATION));
        let holder = annotation.and_then(|text| serde_json::from_str::<Self>(text).ok());
        // An annotation that an earlier holder left is about that one.
        Some(holder.filter(|holder| holder.identity == identity).ok_or(identity))
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.work {
            Work::Profile => "",
            Work::Gc => "sla-profiler gc, ",
            Work::Controller => "the controller, ",
        };
        match &self.pod {
            Some(pod) => write!(f, "{what}pod {}, process {}", pod.name, self.process.pid),
            None => write!(f, "{what}process {} on {}", self.process.pid, self.host),
        }
    }
}

/// The holder of a lease for a person.
pub fn holder_text(lease: &Object) -> String {
    match Holder::of(lease) {
        None => "nobody".to_owned(),
        Some(Ok(holder)) => holder.to_string(),
        Some(Err(identity)) => identity,
    }
}

/// Whether a holder lives, and by what that is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// It is gone.
    Gone(String),
    /// It lives.
    Lives(String),
    /// It lives, and is about to end.
    Ending(String),
    /// Not known yet: whoever goes on looking will know within that time.
    Unknown(Duration),
}

/// What was seen of a lease so far, by our own clock.
#[derive(Debug, Default)]
pub struct Seen {
    first: Option<String>,
    newest: String,
    looked: Option<Instant>,
    unchanged: Duration,
}

impl Seen {
    /// What another look at the lease tells.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn judge(&mut self, kube: &Kube, lease: &Object) -> Result<Life, ClusterError> {
        if let Some(known) = at_once(kube, lease).await? {
            return Ok(known);
        }
        Ok(self.record(lease))
    }

    /// What is known by looking for long.
    fn record(&mut self, lease: &Object) -> Life {
        let spec = lease.spec.clone().unwrap_or_default();
        let record = format!("{:?}", (&spec.holder_identity, &spec.renew_time, &lease.metadata.resource_version));
        let now = Instant::now();
        let gap = self.looked.replace(now).map_or(Duration::ZERO, |looked| now.saturating_duration_since(looked));
        let first = self.first.get_or_insert_with(|| record.clone());
        if record != *first {
            return Life::Lives("it renewed the lease while we looked".to_owned());
        }
        // The time between two looks counts, but not that of an API server that was away.
        if self.newest == record {
            self.unchanged += gap.min(LONGEST_GAP);
        }
        self.newest = record;
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let duration = seconds.map_or(UNSAID_DURATION, Duration::from_secs);
        match duration.checked_sub(self.unchanged).filter(|left| !left.is_zero()) {
            Some(left) => Life::Unknown(left),
            None => Life::Gone(format!("it has not renewed the lease for {} s", duration.as_secs())),
        }
    }
}

/// What can be told of a holder at once, if anything: nobody holds it, the process is one of this machine, or its pod has
/// ended.
///
/// # Errors
/// If the API server does not answer.
pub async fn at_once(kube: &Kube, lease: &Object) -> Result<Option<Life>, ClusterError> {
    let holder = match Holder::of(lease) {
        None => return Ok(Some(Life::Gone("nobody holds its lease any more".to_owned()))),
        Some(Ok(holder)) => holder,
        Some(Err(_)) => return Ok(None),
    };
    match holder.process.lives() {
        Some(true) => return Ok(Some(Life::Lives("the process is one of this machine, and it lives".to_owned()))),
        Some(false) => return Ok(Some(Life::Gone("the process was one of this machine, and it has ended".to_owned()))),
        None => {}
    }
    let Some(named) = &holder.pod else { return Ok(None) };
    let pod = match kube.pod_of(named).await {
        Ok(pod) => pod,
        Err(error) if error.is_transient() => return Err(error),
        // Then the record has to do.
        Err(error) => {
            tracing::debug!("{error}");
            return Ok(None);
        }
    };
    let Some(pod) = pod else {
        return Ok(Some(Life::Gone(format!("its pod {} is not there any more", named.name))));
    };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    Ok(match phase {
        Some("Succeeded" | "Failed") => Some(Life::Gone(format!("its pod {} has ended", named.name))),
        _ if pod.metadata.deletion_timestamp.is_some() => {
            Some(Life::Ending(format!("its pod {} is about to go", named.name)))
        }
        _ => None,
    })
}

impl Kube {
    /// A pod, if it is still there.
    async fn pod_of(&self, named: &PodName) -> Result<Option<Pod>, ClusterError> {
        // A list of one, as in `own_pod`.
        let action = Action::all("list", "pods", &named.namespace);
        let params = ListParams::default().fields(&format!("metadata.name={}", named.name));
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &named.namespace);
        let list = self.call_within(&action, Patience::SHORT, || pods.list(&params)).await?;
        Ok(list.items.into_iter().find(|pod| pod.metadata.uid.as_ref() == Some(&named.uid)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::time::advance;

    use super::super::super::scripted::{Answer, failure, kube};
    use super::*;

    fn holder(place: &str) -> Holder {
        Holder {
            identity: "box_12_ab".to_owned(),
            work: Work::Profile,
            host: "box".to_owned(),
            process: Process { place: place.to_owned(), pid: 12, started_ticks: 5 },
            pod: Some(PodName { namespace: "ns".to_owned(), name: "p".to_owned(), uid: "u".to_owned() }),
        }
    }

    fn lease(holder: &Holder, version: &str) -> Object {
        let (key, value) = holder.annotation();
        serde_json::from_value(json!({
            "metadata": { "name": "l", "resourceVersion": version, "annotations": { key: value } },
            "spec": { "holderIdentity": holder.identity, "leaseDurationSeconds": 60 },
        }))
        .unwrap()
    }

    fn pods(items: Value) -> Answer {
        Answer::Json(200, json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_does_not_change_is_stale_after_its_own_duration_by_our_clock() {
        let mut seen = Seen::default();
        let silent = lease(&holder("elsewhere"), "1");
        assert_eq!(seen.record(&silent), Life::Unknown(Duration::from_secs(60)));
        for _ in 0..14 {
            advance(Duration::from_secs(4)).await;
            assert!(matches!(seen.record(&silent), Life::Unknown(_)));
        }
        advance(Duration::from_secs(4)).await;
        assert!(matches!(seen.record(&silent), Life::Gone(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_an_api_server_that_was_away_counts_for_nobody() {
        let mut seen = Seen::default();
        let silent = lease(&holder("elsewhere"), "1");
        seen.record(&silent);
        advance(Duration::from_secs(3600)).await;
        assert_eq!(seen.record(&silent), Life::Unknown(Duration::from_secs(60) - LONGEST_GAP));
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_changes_is_of_a_holder_that_lives() {
        let mut seen = Seen::default();
        seen.record(&lease(&holder("elsewhere"), "1"));
        advance(Duration::from_secs(4)).await;
        assert!(matches!(seen.record(&lease(&holder("elsewhere"), "2")), Life::Lives(_)));
        assert!(matches!(seen.record(&lease(&holder("elsewhere"), "2")), Life::Lives(_)), "and stays one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_has_ended_or_is_another_one_by_now_tells_at_once_and_one_that_runs_does_not() {
        let lease = lease(&holder("elsewhere"), "1");
        let pod = |uid: &str, phase: &str, deleted: bool| {
            let mut pod = json!({ "metadata": { "name": "p", "uid": uid }, "status": { "phase": phase } });
            if deleted {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            pods(json!([pod]))
        };
        let cases = [
            (pods(json!([])), Some("gone")),
            (pod("other", "Running", false), Some("gone")),
            (pod("u", "Failed", false), Some("gone")),
            (pod("u", "Running", true), Some("ending")),
            (pod("u", "Running", false), None),
            (failure(403, "Forbidden", "no"), None),
        ];
        for (answer, expected) in cases {
            let (kube, _) = kube(vec![answer.clone()]);
            let known = at_once(&kube, &lease).await.unwrap();
            let known = known.map(|life| match life {
                Life::Gone(_) => "gone",
                Life::Ending(_) => "ending",
                Life::Lives(_) | Life::Unknown(_) => "else",
            });
            assert_eq!(known, expected, "{answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_gone_and_an_annotation_of_an_earlier_holder_is_not_believed() {
        let (kube, asked) = kube(vec![pods(json!([]))]);
        let mut given_back = lease(&holder("elsewhere"), "1");
        given_back.spec.as_mut().unwrap().holder_identity = None;
        assert!(matches!(at_once(&kube, &given_back).await.unwrap(), Some(Life::Gone(_))));
        let mut taken = lease(&holder("elsewhere"), "1");
        taken.spec.as_mut().unwrap().holder_identity = Some("another".to_owned());
        assert_eq!(at_once(&kube, &taken).await.unwrap(), None);
        assert!(asked.lock().unwrap().is_empty(), "nothing was asked of the earlier one's pod");
        assert_eq!(holder_text(&taken), "another");
        assert_eq!(holder_text(&lease(&holder("x"), "1")), "pod p, process 12");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test(start_paused = true)]
    async fn a_process_of_this_machine_is_looked_for_itself() {
        let (kube, asked) = kube(vec![pods(json!([]))]);
        let mut here = holder("elsewhere");
        here.process = Process::this();
        assert!(matches!(at_once(&kube, &lease(&here, "1")).await.unwrap(), Some(Life::Lives(_))));
        here.process.started_ticks += 1;
        assert!(matches!(at_once(&kube, &lease(&here, "1")).await.unwrap(), Some(Life::Gone(_))));
        assert!(asked.lock().unwrap().is_empty());
    }
}
