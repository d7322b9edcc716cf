//! Whose the things are that a run creates.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{MANAGED_BY, REQUEST_LABEL, RUN_LABEL};

/// The object for which a run works. What the run creates in the same namespace goes away with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerObject {
    /// `nvidia.com/v1beta1`
    pub api_version: String,
    /// `DynamoGraphDeploymentRequest`
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
}

/// Identity of a run in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the request.
    pub request: String,
    /// Short, the same when the run is resumed: so that a resumed run finds what a killed one left.
    pub run: String,
    /// The object for which it works, if any.
    pub object: Option<OwnerObject>,
}

impl Owner {
    /// `seed`: whatever makes the run the same run. The object's uid if there is one; else host and folder.
    pub fn new(request: &str, object: Option<OwnerObject>, seed: &str) -> Self {
        let seed = object.as_ref().map_or(seed, |object| object.uid.as_str());
        let hash = Sha256::digest(format!("{request}\0{seed}"));
        let run: String = hash.iter().take(3).map(|byte| format!("{byte:02x}")).collect();
        Self { request: request.to_owned(), run, object }
    }

    /// The DGDR that Dynamo's operator started us for, by the environment of its Job.
    pub fn from_environment(api_version: &str) -> Option<OwnerObject> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Some(OwnerObject {
            api_version: api_version.to_owned(),
            kind: super::resources::DGDR_KIND.to_owned(),
            name: variable("DGDR_NAME")?,
            namespace: variable("DGDR_NAMESPACE")?,
            uid: variable("DGDR_UID")?,
        })
    }

    /// Labels of everything that is the run's.
    pub fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned()),
            (RUN_LABEL.to_owned(), self.run.clone()),
            (REQUEST_LABEL.to_owned(), self.request.clone()),
        ])
    }

    /// Selects what is the run's.
    pub fn selector(&self) -> String {
        format!("{RUN_LABEL}={},{}={}", self.run, MANAGED_BY.0, MANAGED_BY.1)
    }

    /// Puts namespace and labels into an object's metadata.
    pub fn label(&self, object: &mut Value, namespace: &str) {
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        metadata.insert("namespace".to_owned(), namespace.into());
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.extend(self.labels().into_iter().map(|(key, value)| (key, value.into())));
        }
    }

    /// The same, and the owner reference where it crosses no namespace: the object goes when its owner goes.
    pub fn mark(&self, object: &mut Value, namespace: &str) {
        self.label(object, namespace);
        if let Some(reference) = self.reference(namespace)
            && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.insert("ownerReferences".to_owned(), json!([reference]));
        }
    }

    /// The owner reference for an object in that namespace.
    pub fn reference(&self, namespace: &str) -> Option<Value> {
        let owner = self.object.as_ref().filter(|owner| owner.namespace == namespace)?;
        Some(json!({
            "apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid,
            // Blocking would need the right to change the owner's finalizers.
            "controller": false, "blockOwnerDeletion": false,
        }))
    }
}

/// Whether an object carries our label and that of the request.
pub fn is_of_request(object: &Value, request: &str) -> bool {
    let label =
        |key: &str| object.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str);
    label(MANAGED_BY.0) == Some(MANAGED_BY.1) && label(REQUEST_LABEL) == Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(namespace: &str) -> OwnerObject {
        OwnerObject {
            api_version: "nvidia.com/v1beta1".to_owned(),
            kind: "DynamoGraphDeploymentRequest".to_owned(),
            name: "r".to_owned(),
            namespace: namespace.to_owned(),
            uid: "u-1".to_owned(),
        }
    }

    #[test]
    fn a_resumed_run_has_the_same_name_and_another_folder_another_one() {
        let of = |seed: &str| Owner::new("r", None, seed).run;
        assert_eq!(of("host:/data"), of("host:/data"));
        assert_ne!(of("host:/data"), of("host:/other"));
        // Pods of one Job differ in their host name; the DGDR is the same.
        let owned = |seed: &str| Owner::new("r", Some(object("ns")), seed).run;
        assert_eq!(owned("pod-1"), owned("pod-2"));
    }

    #[test]
    fn an_owner_reference_crosses_no_namespace() {
        let mut here = json!({ "metadata": { "name": "x", "labels": { "mine": "1" } } });
        let owner = Owner::new("r", Some(object("ns")), "");
        owner.mark(&mut here, "ns");
        assert_eq!(here.pointer("/metadata/ownerReferences/0/uid"), Some(&json!("u-1")));
        assert_eq!(here.pointer("/metadata/labels/mine"), Some(&json!("1")));
        assert!(is_of_request(&here, "r") && !is_of_request(&here, "other"));
        let mut elsewhere = json!({ "metadata": { "name": "x" } });
        owner.mark(&mut elsewhere, "other");
        assert_eq!(elsewhere.pointer("/metadata/ownerReferences"), None);
    }
}
