//! DynamoGraphDeployments: applied, read, deleted; ours only.

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

use super::call::Patience;
use super::connect::Kube;
use super::error::{Action, ClusterError};
use super::owner::{Owner, is_of_request};
use super::resources::DGDS;
use super::{DGDR_NAME_LABEL, FIELD_MANAGER, MANAGED_BY, RUN_LABEL};
use crate::spec::DgdApi;

fn name_of(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// A whole object as JSON.
fn json_of(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

impl Kube {
    /// Applies a deployment that only this run may have, and gives its uid. It does not take fields from other managers,
    /// so that a deployment of the same name that somebody else wrote is left as it is.
    ///
    /// # Errors
    /// [`ClusterError::Foreign`] if it is not ours; else what the API server says.
    pub async fn apply_own_dgd(&self, dgd: &Value, api: DgdApi, owner: &Owner) -> Result<String, ClusterError> {
        let name = name_of(dgd);
        let action = Action::on("patch", DGDS, &self.namespace, name);
        let deployments = self.dgds(api);
        let params = PatchParams::apply(FIELD_MANAGER).validation_strict();
        let patch = Patch::Apply(dgd);
        let applied = self.call(&action, || deployments.patch(name, &params, &patch)).await;
        let object = match applied {
            Err(ClusterError::Conflict { message, .. }) => return Err(self.foreign(name, &message)),
            other => other?,
        };
        let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(RUN_LABEL));
        if label != Some(&owner.run) {
            return Err(self.foreign(name, "it carries the label of another run"));
        }
        if object.metadata.deletion_timestamp.is_some() {
            return Err(ClusterError::Unusable(format!("a deployment {name} is still being deleted")));
        }
        object.metadata.uid.ok_or_else(|| ClusterError::Unusable(format!("the API server gave {name} no uid")))
    }

    fn foreign(&self, name: &str, why: &str) -> ClusterError {
        ClusterError::Foreign {
            resource: DGDS.to_owned(),
            name: name.to_owned(),
            namespace: self.namespace.clone(),
            why: why.to_owned(),
        }
    }

    /// A deployment, if it is there.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn dgd(&self, name: &str, api: DgdApi) -> Result<Option<Value>, ClusterError> {
        let action = Action::on("get", DGDS, &self.namespace, name);
        let deployments = self.dgds(api);
        let found = self.call(&action, || deployments.get_opt(name)).await?;
        Ok(found.as_ref().map(json_of))
    }

    /// The deployment of that name if it is the request's, to be put back when its successor fails.
    ///
    /// # Errors
    /// [`ClusterError::Foreign`] if there is one that is not the request's.
    pub async fn predecessor(&self, name: &str, api: DgdApi, request: &str) -> Result<Option<Value>, ClusterError> {
        let Some(found) = self.dgd(name, api).await? else { return Ok(None) };
        let label =
            |key: &str| found.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str);
        // Dynamo's operator made it for the same request.
        let by_operator = label(DGDR_NAME_LABEL) == Some(request);
        if !is_of_request(&found, request) && !by_operator {
            let why =
                format!("it lacks the labels {}={} and that of the request {request}", MANAGED_BY.0, MANAGED_BY.1);
            return Err(self.foreign(name, &why));
        }
        Ok(Some(restorable(found)))
    }

    /// Applies a deployment as a whole; fields of others are taken over, since [`Kube::predecessor`] has said that it
    /// is ours.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn replace_dgd(&self, dgd: &Value, api: DgdApi) -> Result<String, ClusterError> {
        let name = name_of(dgd);
        let action = Action::on("patch", DGDS, &self.namespace, name);
        let deployments = self.dgds(api);
        let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
        let patch = Patch::Apply(dgd);
        let object = self.call(&action, || deployments.patch(name, &params, &patch)).await?;
        object.metadata.uid.ok_or_else(|| ClusterError::Unusable(format!("the API server gave {name} no uid")))
    }

    /// Deletes a deployment, only if it has that uid; that it is gone already is fine. Does not wait until it is gone.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn delete_dgd(&self, name: &str, api: DgdApi, uid: &str, patience: Patience) -> Result<(), ClusterError> {
        let action = Action::on("delete", DGDS, &self.namespace, name);
        let deployments = self.dgds(api);
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.call_within(&action, patience, || deployments.delete(name, &params)).await {
            // Another one of that name is not ours to delete.
            Ok(_) | Err(ClusterError::NotFound { .. } | ClusterError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The uid of a deployment, if it is there and is that run's.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn own_uid(&self, name: &str, api: DgdApi, run: &str) -> Result<Option<String>, ClusterError> {
        let found = self.dgd(name, api).await?;
        let text = |pointer: &str| found.as_ref()?.pointer(pointer)?.as_str();
        // `/` is written `~1` in a pointer.
        let label = text(&format!("/metadata/labels/{}", RUN_LABEL.replace('/', "~1")));
        Ok(text("/metadata/uid").filter(|_| label == Some(run)).map(str::to_owned))
    }
}

/// `status.deploymentInfo` of a request: replicas of all components together, as the operator counts them.
pub fn deployment_info(dgd: Option<&Value>) -> Value {
    // v1alpha1 calls components services.
    let status = dgd.and_then(|dgd| dgd.get("status"));
    let components = status.and_then(|status| status.get("components").or_else(|| status.get("services")));
    let sum = |keys: &[&str]| -> i64 {
        let components = components.and_then(Value::as_object).into_iter().flat_map(serde_json::Map::values);
        components.filter_map(|component| keys.iter().find_map(|key| component.get(*key)?.as_i64())).sum()
    };
    json!({ "replicas": sum(&["replicas"]), "availableReplicas": sum(&["availableReplicas", "readyReplicas"]) })
}

/// Label of what measures a candidate, as opposed to what is deployed in the end.
pub const CANDIDATE: &str = "sla-profiler.dev/measures-candidate";

/// An object as it may be applied again: without what the API server and the operator add.
fn restorable(mut object: Value) -> Value {
    const SERVERS: [&str; 8] = [
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "managedFields",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, _| !SERVERS.contains(&key.as_str()));
        // Hashes of the operator's are of the spec that it applied last.
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations
                .retain(|key, _| !key.starts_with("nvidia.com/current-worker-hash") && !key.starts_with("kubectl."));
        }
        metadata.remove("finalizers");
    }
    object
}

/// Marks a deployment as one that measures.
pub fn mark_candidate(dgd: &mut Value) {
    if let Some(metadata) = dgd.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(labels) = metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut()
    {
        labels.insert(CANDIDATE.to_owned(), "true".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_back_is_without_what_others_add() {
        let back = restorable(json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment",
            "metadata": {
                "name": "d", "uid": "u", "resourceVersion": "1", "managedFields": [], "finalizers": ["x"],
                "annotations": { "nvidia.com/current-worker-hash": "1", "mine": "2" }, "labels": { "a": "b" },
            },
            "spec": { "components": [] }, "status": { "state": "successful" },
        }));
        assert_eq!(
            back,
            json!({
                "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment",
                "metadata": { "name": "d", "annotations": { "mine": "2" }, "labels": { "a": "b" } },
                "spec": { "components": [] },
            })
        );
    }
}
