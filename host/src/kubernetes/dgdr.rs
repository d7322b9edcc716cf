//! The request, as the cluster holds it.

use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::FIELD_MANAGER;
use super::connect::Kube;
use super::error::{Action, ClusterError};
use super::owner::OwnerObject;
use super::resources::{self, DGDR_KIND, DGDRS};
use super::status::{Conditions, Report};
use crate::dgd;
use crate::spec::{DgdApi, Source};

/// Annotation that `kubectl apply` leaves; it repeats the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A DynamoGraphDeploymentRequest of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Dgdr {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// Counts changes of the spec.
    pub generation: i64,
    /// In which version it was read.
    pub api: DgdApi,
    /// `apiVersion`, `kind`, name, namespace, labels, annotations and spec, without what the API server adds.
    pub object: Value,
    /// The conditions of its status, whoever wrote them.
    pub conditions: Conditions,
}

impl Dgdr {
    fn new(object: DynamicObject, api: DgdApi) -> Result<Self, ClusterError> {
        let lacks = |what: &str| ClusterError::Unusable(format!("the API server sent a {DGDR_KIND} without {what}"));
        let metadata = object.metadata;
        let name = metadata.name.ok_or_else(|| lacks("a name"))?;
        let namespace = metadata.namespace.ok_or_else(|| lacks("a namespace"))?;
        let uid = metadata.uid.ok_or_else(|| lacks("a uid"))?;
        if metadata.deletion_timestamp.is_some() {
            return Err(ClusterError::Unusable(format!("the request {namespace}/{name} is being deleted")));
        }
        let mut annotations = metadata.annotations.unwrap_or_default();
        annotations.remove(LAST_APPLIED);
        let mut kept = serde_json::Map::new();
        kept.insert("name".to_owned(), name.as_str().into());
        kept.insert("namespace".to_owned(), namespace.as_str().into());
        for (key, map) in [("labels", metadata.labels.unwrap_or_default()), ("annotations", annotations)] {
            if !map.is_empty() {
                kept.insert(key.to_owned(), json!(map));
            }
        }
        let conditions = object.data.pointer("/status/conditions").cloned().unwrap_or_default();
        let spec = object.data.get("spec").cloned().unwrap_or_else(|| json!({}));
        let object = json!({
            "apiVersion": resources::dgdr(api).api_version, "kind": DGDR_KIND, "metadata": kept, "spec": spec,
        });
        let generation = metadata.generation.unwrap_or_default();
        Ok(Self { name, namespace, uid, generation, api, object, conditions: Conditions::read(&conditions) })
    }

    /// For reading the job.
    ///
    /// # Errors
    /// If the object cannot be written as YAML, which does not happen.
    pub fn source(&self) -> Result<Source, ClusterError> {
        let text = dgd::to_yaml(&self.object).map_err(|error| ClusterError::Unusable(error.to_string()))?;
        Ok(Source::Cluster { name: format!("dgdr/{}", self.name), text })
    }

    /// For owner references and events.
    pub fn owner(&self) -> OwnerObject {
        OwnerObject {
            api_version: resources::dgdr(self.api).api_version,
            kind: DGDR_KIND.to_owned(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            uid: self.uid.clone(),
        }
    }
}

impl Kube {
    /// Reads a request.
    ///
    /// # Errors
    /// If it or its kind is not there, or may not be read.
    pub async fn read_dgdr(&self, name: &str, api: DgdApi) -> Result<Dgdr, ClusterError> {
        let action = Action::on("get", DGDRS, &self.namespace, name);
        let requests = self.dgdrs(api);
        Dgdr::new(self.call(&action, || requests.get(name)).await?, api)
    }

    /// Writes the request's status.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn write_status(
        &self,
        dgdr: &Dgdr,
        report: &Report,
        conditions: &Conditions,
    ) -> Result<(), ClusterError> {
        let action = Action::on("patch", &format!("{DGDRS}/status"), &self.namespace, &dgdr.name);
        let requests = self.dgdrs(dgdr.api);
        let body = json!({
            "apiVersion": resources::dgdr(dgdr.api).api_version,
            "kind": DGDR_KIND,
            // With the uid, a request that was deleted and made anew is not taken for this one.
            "metadata": { "name": dgdr.name, "uid": dgdr.uid },
            "status": report.status(dgdr.api, dgdr.generation, &dgdr.name, conditions),
        });
        let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
        let patch = Patch::Apply(body);
        self.call(&action, || requests.patch_status(&dgdr.name, &params, &patch)).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Flags, load};

    fn of(value: Value) -> Dgdr {
        Dgdr::new(serde_json::from_value(value).unwrap(), DgdApi::V1beta1).unwrap()
    }

    fn request() -> Value {
        json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeploymentRequest",
            "metadata": {
                "name": "chat", "namespace": "llm", "uid": "u", "generation": 3, "resourceVersion": "77",
                "managedFields": [{ "manager": "kubectl" }], "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": { LAST_APPLIED: "{}" },
            },
            "spec": {
                "model": "Qwen/Qwen3-8B", "hardware": { "gpuSku": "h200_sxm", "someday": { "deep": 1 } },
                "novelty": [1, 2], "sla": { "ttft": 300, "itl": 20 },
            },
            "status": { "phase": "Pending" },
        })
    }

    #[test]
    fn a_request_of_the_cluster_is_a_job_and_newer_fields_are_warnings() {
        let dgdr = of(request());
        assert_eq!((dgdr.generation, dgdr.owner().uid.as_str()), (3, "u"));
        let resolved = load(&dgdr.source().unwrap(), &Flags::default()).unwrap();
        assert_eq!(resolved.spec.deployment.dgdr_name, "chat");
        assert_eq!(resolved.spec.deployment.namespace.as_deref(), Some("llm"));
        for field in ["someday", "novelty"] {
            assert!(
                resolved.warnings.iter().any(|w| w.contains(field) && w.contains("newer")),
                "{:?}",
                resolved.warnings
            );
        }
    }

    #[test]
    fn what_is_wrong_is_still_an_error_with_its_line() {
        let mut wrong = request();
        wrong["spec"]["sla"]["ttft"] = json!(-5);
        let error = load(&of(wrong).source().unwrap(), &Flags::default()).unwrap_err();
        assert!(error.render().contains("dgdr/chat:"), "{}", error.render());
    }
}
