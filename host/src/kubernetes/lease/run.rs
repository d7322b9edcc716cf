//! The lease of a run, and the mark of what is made under it.

use std::time::Duration;

use kube::api::ObjectMeta;
use serde_json::{Value, json};

use super::{Claim, Holder, Terms};
use crate::kubernetes::{Kube, Owner};

/// Label of what a run makes while it holds its lease: the lease's name. Whether the run of something without it lives
/// cannot be told.
pub const LEASE_LABEL: &str = "sla-profiler.dev/lease";

/// A run whose lease was not renewed for so long is gone. Longer than a run itself waits for an API server that is away,
/// so that what a run survives does not end it; short enough for a person who waits for `gc` after a `kill -9`.
const DURATION: Duration = Duration::from_secs(240);
/// How often a run says that it lives.
const RENEW_EVERY: Duration = Duration::from_secs(15);

/// Terms of a run's lease.
pub const TERMS: Terms = Terms { duration: DURATION, renew_every: RENEW_EVERY, give_up_after: None };

/// Name of a run's lease. A run's identity is the same when it goes on, so that two processes of it meet.
pub fn name(run: &str) -> String {
    format!("sla-profiler-run-{run}")
}

/// Whether a label's value is a run's identity, as [`Owner::new`] makes it.
pub fn is_run(text: &str) -> bool {
    text.len() == 6 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Owner {
    /// A claim to the run's lease, in the namespace of its deployments.
    pub fn claim(&self, kube: &Kube, holder: Holder) -> Claim {
        let mut object = json!({ "metadata": { "name": name(&self.run) } });
        self.mark(&mut object, &kube.namespace);
        let metadata = object.get_mut("metadata").map(Value::take).unwrap_or_default();
        // An object reference and two maps of texts.
        let metadata: ObjectMeta = serde_json::from_value(metadata).unwrap_or_default();
        Claim { kube: kube.clone(), metadata, holder, terms: TERMS }
    }
}

/// Marks an object as made under that lease.
pub fn mark(object: &mut Value, lease: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(labels) = metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut()
    {
        labels.insert(LEASE_LABEL.to_owned(), lease.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::owner::OwnerObject;
    use crate::kubernetes::scripted;
    use crate::process::who::Process;

    #[tokio::test]
    async fn a_runs_lease_carries_its_labels_and_goes_with_its_request() {
        let request = OwnerObject {
            api_version: "nvidia.com/v1beta1".to_owned(),
            kind: "DynamoGraphDeploymentRequest".to_owned(),
            name: "r".to_owned(),
            namespace: "ns".to_owned(),
            uid: "u-1".to_owned(),
        };
        let owner = Owner::new("r", Some(request), "");
        assert!(is_run(&owner.run) && !is_run("controller") && !is_run("A1B2C3"));
        let (kube, _) = scripted::kube(vec![scripted::Answer::Silence]);
        let process = Process { place: String::new(), pid: 1, started_ticks: 0 };
        let holder = Holder {
            identity: "h".to_owned(),
            work: super::super::Work::Profile,
            host: "h".to_owned(),
            process,
            pod: None,
        };
        let claim = owner.claim(&kube, holder);
        assert_eq!(claim.metadata.name.as_deref(), Some(format!("sla-profiler-run-{}", owner.run).as_str()));
        assert_eq!(claim.metadata.labels, Some(owner.labels()));
        assert_eq!(claim.metadata.owner_references.unwrap()[0].uid, "u-1");
        assert!(DURATION > crate::kubernetes::call::Patience::LONG.0, "an outage that a run survives");
    }
}
