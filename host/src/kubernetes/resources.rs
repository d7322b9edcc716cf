//! The kinds that are used. They are named here, not discovered: discovery asks every API service of the cluster, and
//! one that is dead holds it up.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, ApiResource, DynamicObject};

use super::connect::Kube;
use super::error::{Action, ClusterError};
use crate::spec::DgdApi;

/// NVIDIA's API group.
pub const GROUP: &str = "nvidia.com";
/// Kind of a request.
pub const DGDR_KIND: &str = "DynamoGraphDeploymentRequest";
/// Kind of a deployment.
pub const DGD_KIND: &str = "DynamoGraphDeployment";
/// Deployments, as RBAC calls them.
pub const DGDS: &str = "dynamographdeployments.nvidia.com";
/// Requests, as RBAC calls them.
pub const DGDRS: &str = "dynamographdeploymentrequests.nvidia.com";

const DGD_PLURAL: &str = "dynamographdeployments";
const DGDR_PLURAL: &str = "dynamographdeploymentrequests";

fn resource(kind: &str, plural: &str, version: DgdApi) -> ApiResource {
    let version = version_name(version);
    ApiResource {
        group: GROUP.to_owned(),
        version: version.to_owned(),
        api_version: format!("{GROUP}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// `v1alpha1` or `v1beta1`.
pub const fn version_name(version: DgdApi) -> &'static str {
    match version {
        DgdApi::V1alpha1 => "v1alpha1",
        DgdApi::V1beta1 => "v1beta1",
    }
}

/// Deployments of a version.
pub fn dgd(version: DgdApi) -> ApiResource {
    resource(DGD_KIND, DGD_PLURAL, version)
}

/// Requests of a version.
pub fn dgdr(version: DgdApi) -> ApiResource {
    resource(DGDR_KIND, DGDR_PLURAL, version)
}

/// The version in an object's `apiVersion`, if it is one of the two.
pub fn version_of(object: &serde_json::Value) -> Option<DgdApi> {
    match object.get("apiVersion")?.as_str()? {
        "nvidia.com/v1alpha1" => Some(DgdApi::V1alpha1),
        "nvidia.com/v1beta1" => Some(DgdApi::V1beta1),
        _ => None,
    }
}

impl Kube {
    /// Deployments of the namespace.
    pub fn dgds(&self, version: DgdApi) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &dgd(version))
    }

    /// Requests of the namespace.
    pub fn dgdrs(&self, version: DgdApi) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &dgdr(version))
    }

    /// Pods of the namespace.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// ConfigMaps of the namespace.
    pub fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The newest version in which the cluster serves deployments and requests. Both readers know both versions, and
    /// `v1alpha1` alone is served by operators before 1.0.
    ///
    /// # Errors
    /// If it serves none, or does not say.
    pub async fn served_version(&self) -> Result<DgdApi, ClusterError> {
        let known = [DgdApi::V1beta1, DgdApi::V1alpha1];
        for version in known {
            if self.serves_deployments(version_name(version)).await? {
                return Ok(version);
            }
        }
        let action = Action::all("list", DGDS, &self.namespace);
        let known = known.map(version_name);
        let groups = match self.call(&Action::cluster("get", "API groups"), || self.client.list_api_groups()).await {
            Ok(list) => list.groups,
            Err(ClusterError::NotFound { .. } | ClusterError::KindMissing { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let ours = groups.into_iter().filter(|group| group.name == GROUP).flat_map(|group| group.versions);
        let mut served = Vec::new();
        for version in ours.map(|version| version.version).filter(|version| !known.contains(&version.as_str())) {
            if self.serves_deployments(&version).await? {
                served.push(version);
            }
        }
        Err(match served.is_empty() {
            true => ClusterError::KindMissing { action },
            false => ClusterError::VersionUnknown { action, served: served.join(", "), known: known.join(", ") },
        })
    }

    async fn serves_deployments(&self, version: &str) -> Result<bool, ClusterError> {
        let group_version = format!("{GROUP}/{version}");
        let action = Action::cluster("get", &group_version);
        match self.call(&action, || self.client.list_api_group_resources(&group_version)).await {
            Ok(list) => Ok(list.resources.iter().any(|resource| resource.name == DGD_PLURAL)),
            Err(ClusterError::NotFound { .. } | ClusterError::KindMissing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
