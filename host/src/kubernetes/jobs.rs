//! Jobs: created, deleted, found again; and the pod in which this program itself runs.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions, PropagationPolicy};
use serde_json::Value;

use super::call::Patience;
use super::connect::Kube;
use super::error::{Action, ClusterError};

/// Jobs, as RBAC calls them.
const JOBS: &str = "jobs.batch";

impl Kube {
    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates a Job.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn create_job(&self, job: &Value) -> Result<(), ClusterError> {
        let name = job.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let action = Action::on("create", JOBS, &self.namespace, name);
        let job: Job = serde_json::from_value(job.clone())
            .map_err(|error| ClusterError::Unusable(format!("the Job {name}: {error}")))?;
        let (jobs, params) = (self.jobs(), PostParams::default());
        match self.call(&action, || jobs.create(&params, &job)).await {
            // An attempt that was cut off has worked; the name is of this process alone.
            Err(ClusterError::Conflict { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Deletes a Job, only if it has that uid where one is given; its pods follow. That it is gone already is fine.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn delete_job(&self, name: &str, uid: Option<&str>, patience: Patience) -> Result<(), ClusterError> {
        let action = Action::on("delete", JOBS, &self.namespace, name);
        let preconditions = uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let propagation_policy = Some(PropagationPolicy::Background);
        let (jobs, params) =
            (self.jobs(), DeleteParams { propagation_policy, preconditions, ..DeleteParams::default() });
        match self.call_within(&action, patience, || jobs.delete(name, &params)).await {
            // Another one of that name is not ours to delete.
            Ok(_) | Err(ClusterError::NotFound { .. } | ClusterError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Names of the Jobs that carry these labels.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn jobs_with(&self, selector: &str) -> Result<Vec<String>, ClusterError> {
        let action = Action::all("list", JOBS, &self.namespace);
        let (jobs, params) = (self.jobs(), ListParams::default().labels(selector));
        let list = self.call(&action, || jobs.list_metadata(&params)).await?;
        Ok(list.items.into_iter().filter_map(|item| item.metadata.name).collect())
    }

    /// The pod in which this program runs, if it runs in one of this namespace.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn own_pod(&self) -> Result<Option<Pod>, ClusterError> {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        if !self.inside || name.trim().is_empty() {
            return Ok(None);
        }
        // A list of one: the Role has `list` anyway, and no `get`.
        let action = Action::all("list", "pods", &self.namespace);
        let params = ListParams::default().fields(&format!("metadata.name={}", name.trim()));
        let pods: Api<Pod> = self.pods();
        let list = self.call(&action, || pods.list(&params)).await?;
        Ok(list.items.into_iter().next())
    }
}
