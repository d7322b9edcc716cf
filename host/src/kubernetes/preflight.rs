//! What a cluster lacks for a run, found out before anything is created, and all of it at once.
//!
//! Rights are asked for by `SelfSubjectAccessReview`, which everybody may do. Secrets, volume claims, quotas and nodes
//! are looked at where we may; where we may not, a note says so, since a run does not need to.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, ResourceQuota, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::Value;

use super::FIELD_MANAGER;
use super::call::Patience;
use super::connect::Kube;
use super::error::{Action, ClusterError};
use super::resources::DGDS;
use crate::spec::DgdApi;

/// Something that stands in a run's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The thing and its place.
    pub what: String,
    /// The next step.
    pub remedy: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preflight {
    /// With any of these a run cannot succeed.
    pub findings: Vec<Finding>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Whether there is no right to hold a lease; a run goes on without one.
    pub no_leases: bool,
}

/// What a run is about to do.
#[derive(Debug, Clone)]
pub struct Intention<'a> {
    /// Version in which deployments are written.
    pub api: DgdApi,
    /// Deployments of candidates.
    pub deployments: &'a [Value],
    /// GPUs of the smallest engine, and of all that may run at once.
    pub gpus: (u32, u32),
    /// GPUs that the smallest engine takes of one node.
    pub gpus_of_node: u32,
    /// Whether the status of a request is written.
    pub has_request: bool,
    /// Whether engines are reached through the API server.
    pub port_forward: bool,
}

/// A right, as RBAC has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    group: &'static str,
    resource: &'static str,
    verb: &'static str,
    /// Of the whole cluster.
    everywhere: bool,
}

const fn right(group: &'static str, resource: &'static str, verb: &'static str) -> Right {
    Right { group, resource, verb, everywhere: false }
}

const DGD: &str = "dynamographdeployments";
const NVIDIA: &str = "nvidia.com";

/// Without these there is no run.
fn needed(intention: &Intention<'_>) -> Vec<Right> {
    let mut rights: Vec<Right> =
        ["create", "get", "list", "watch", "patch", "delete"].map(|verb| right(NVIDIA, DGD, verb)).to_vec();
    rights.extend([right("", "pods", "list"), right("", "pods", "watch"), right("", "pods/log", "get")]);
    if intention.has_request {
        rights.push(right(NVIDIA, "dynamographdeploymentrequests/status", "patch"));
    }
    if intention.port_forward {
        rights.extend(["get", "create"].map(|verb| right("", "pods/portforward", verb)));
    }
    rights
}

/// To hold a lease.
const LEASES: [Right; 4] = [
    right("coordination.k8s.io", "leases", "get"),
    right("coordination.k8s.io", "leases", "create"),
    right("coordination.k8s.io", "leases", "update"),
    right("coordination.k8s.io", "leases", "delete"),
];

const SECRETS: Right = right("", "secrets", "get");
const CLAIMS: Right = right("", "persistentvolumeclaims", "get");
const QUOTAS: Right = right("", "resourcequotas", "list");
const NODES: Right = Right { group: "", resource: "nodes", verb: "list", everywhere: true };

/// Resource of GPUs in a quota.
const GPU_QUOTA: &str = "requests.nvidia.com/gpu";

impl Kube {
    /// Looks for everything that stands in the way.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn preflight(&self, intention: &Intention<'_>) -> Result<Preflight, ClusterError> {
        let mut found = Preflight::default();
        let needed = needed(intention);
        let asked: Vec<Right> = needed.iter().copied().chain(LEASES).chain([SECRETS, CLAIMS, QUOTAS, NODES]).collect();
        let answers = join_all(asked.iter().map(|right| self.may(*right))).await;
        let mut may = BTreeSet::new();
        for (right, answer) in asked.iter().zip(answers) {
            match answer {
                Ok(true) => drop(may.insert(*right)),
                Ok(false) => {}
                Err(error) if error.is_transient() => return Err(error),
                // A cluster that does not tell: then the run itself will.
                Err(error) => {
                    found.notes.push(format!("which rights there are was not found out: {error}"));
                    return Ok(found);
                }
            }
        }
        found.findings.extend(missing(&self.namespace, &needed, &may));
        found.no_leases = LEASES.iter().any(|right| !may.contains(right));

        let needs = Needs::of(intention.deployments);
        if may.contains(&SECRETS) {
            for name in &needs.secrets {
                self.must_exist::<Secret>("secrets", name, "create it, or correct its name in the request", &mut found)
                    .await?;
            }
        } else if !needs.secrets.is_empty() {
            found.notes.push(not_looked(&needs.secrets, "secrets"));
        }
        if may.contains(&CLAIMS) {
            for name in &needs.claims {
                let remedy = "create it, or correct modelCache.pvcName";
                self.must_exist::<PersistentVolumeClaim>("persistentvolumeclaims", name, remedy, &mut found).await?;
            }
        } else if !needs.claims.is_empty() {
            found.notes.push(not_looked(&needs.claims, "volume claims"));
        }
        if may.contains(&QUOTAS) {
            self.quotas(intention, &mut found).await?;
        }
        if may.contains(&NODES) {
            self.shape(intention, &mut found).await?;
        }
        let writes = [right(NVIDIA, DGD, "create"), right(NVIDIA, DGD, "patch")];
        if writes.iter().all(|right| may.contains(right)) {
            for deployment in intention.deployments.iter().take(1) {
                self.rehearse(deployment, intention.api, &mut found).await?;
            }
        }
        Ok(found)
    }

    async fn may(&self, right: Right) -> Result<bool, ClusterError> {
        let (resource, subresource) = match right.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (right.resource, None),
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(right.group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource,
                    verb: Some(right.verb.to_owned()),
                    namespace: (!right.everywhere).then(|| self.namespace.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let action = Action::cluster("create", "selfsubjectaccessreviews.authorization.k8s.io");
        let params = PostParams::default();
        let answer = self.call_within(&action, Patience::SHORT, || api.create(&params, &review)).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// Only that it is there; what is in it is thrown away unread.
    async fn must_exist<K>(
        &self,
        resource: &str,
        name: &str,
        remedy: &str,
        found: &mut Preflight,
    ) -> Result<(), ClusterError>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + std::fmt::Debug,
        K: serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let action = Action::on("get", resource, &self.namespace, name);
        let object = self.call_within(&action, Patience::SHORT, || api.get_metadata_opt(name)).await?;
        if object.is_none() {
            found.findings.push(Finding {
                what: format!("there is no \"{name}\" among the {resource} of namespace \"{}\"", self.namespace),
                remedy: remedy.to_owned(),
            });
        }
        Ok(())
    }

    async fn quotas(&self, intention: &Intention<'_>, found: &mut Preflight) -> Result<(), ClusterError> {
        let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &self.namespace);
        let action = Action::all("list", "resourcequotas", &self.namespace);
        let params = ListParams::default();
        let quotas = self.call_within(&action, Patience::SHORT, || api.list(&params)).await?;
        for quota in quotas.items {
            let name = quota.metadata.name.unwrap_or_default();
            let Some(status) = quota.status else { continue };
            let count = |of: Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
                of.and_then(|of| of.get(GPU_QUOTA)?.0.parse::<u32>().ok())
            };
            let Some(hard) = count(status.hard) else { continue };
            let left = hard.saturating_sub(count(status.used).unwrap_or(0));
            let (least, most) = intention.gpus;
            if left < least {
                found.findings.push(Finding {
                    what: format!(
                        "the quota \"{name}\" leaves {left} of its {hard} GPUs, and the smallest engine has {least}"
                    ),
                    remedy: "free GPUs of the namespace, or have the quota raised".to_owned(),
                });
            } else if left < most {
                found.notes.push(format!(
                    "the quota \"{name}\" leaves {left} GPUs, and the budget is {most}: engines beyond it will wait"
                ));
            }
        }
        Ok(())
    }

    async fn shape(&self, intention: &Intention<'_>, found: &mut Preflight) -> Result<(), ClusterError> {
        let inventory = self.gpus().await?;
        let largest = inventory.kinds.iter().flat_map(|kind| kind.nodes.keys()).max();
        match largest {
            // Nodes without labels: whoever gave the hardware knows better.
            None => {}
            Some(gpus) if *gpus < intention.gpus_of_node => found.findings.push(Finding {
                what: format!(
                    "the smallest engine takes {} GPUs of one node, and the largest node has {gpus}",
                    intention.gpus_of_node
                ),
                remedy: "give hardware.numGpusPerNode as it is, or a smaller or quantised model".to_owned(),
            }),
            Some(_) => {}
        }
        Ok(())
    }

    /// A deployment is written, and not kept: its schema, admission webhooks and names are checked by whoever has the
    /// last word on them.
    async fn rehearse(&self, deployment: &Value, api: DgdApi, found: &mut Preflight) -> Result<(), ClusterError> {
        let name = deployment.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let action = Action::on("patch", DGDS, &self.namespace, name);
        let deployments = self.dgds(api);
        let params = PatchParams { dry_run: true, ..PatchParams::apply(FIELD_MANAGER).validation_strict() };
        let patch = Patch::Apply(deployment);
        match self.call_within(&action, Patience::SHORT, || deployments.patch(name, &params, &patch)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                let remedy = error.hint().unwrap_or_else(|| {
                    "what is refused stems from the request (overrides.dgd), or the CRDs are of another version"
                        .to_owned()
                });
                found.findings.push(Finding { what: error.to_string(), remedy });
                Ok(())
            }
        }
    }
}

fn not_looked(names: &BTreeSet<String>, what: &str) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    format!("whether the {what} {} exist was not looked at: there is no right to", names.join(", "))
}

/// One finding for each resource of which a right is missing.
fn missing(namespace: &str, needed: &[Right], may: &BTreeSet<Right>) -> Vec<Finding> {
    let mut verbs: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for right in needed.iter().filter(|right| !may.contains(right)) {
        verbs.entry((right.group, right.resource)).or_default().push(right.verb);
    }
    let finding = |((group, resource), verbs): ((&str, &str), Vec<&str>)| {
        let full = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let quoted: Vec<String> = verbs.iter().map(|verb| format!("\"{verb}\"")).collect();
        Finding {
            what: format!("not allowed to {} {full} in namespace \"{namespace}\"", verbs.join(", ")),
            remedy: format!(
                "a Role must allow apiGroups: [\"{group}\"], resources: [\"{resource}\"], verbs: [{}]; the Role in \
                 examples/kubernetes has all that is needed",
                quoted.join(", ")
            ),
        }
    };
    verbs.into_iter().map(finding).collect()
}

/// What deployments name that must be there already.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    secrets: BTreeSet<String>,
    claims: BTreeSet<String>,
}

impl Needs {
    fn of(deployments: &[Value]) -> Self {
        let mut needs = Self::default();
        deployments.iter().for_each(|deployment| needs.walk(deployment));
        needs
    }

    /// Whatever the shape of a deployment, these fields mean the same in every pod.
    fn walk(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    // A reference that says so itself may lead nowhere.
                    let is_optional = value.get("optional") == Some(&Value::Bool(true));
                    let named = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
                    match key.as_str() {
                        "secretKeyRef" | "secretRef" if !is_optional => self.secrets.extend(named("name")),
                        "secret" if !is_optional => self.secrets.extend(named("secretName")),
                        "envFromSecret" => self.secrets.extend(value.as_str().map(str::to_owned)),
                        "persistentVolumeClaim" => self.claims.extend(named("claimName")),
                        "imagePullSecrets" => self.secrets.extend(
                            value
                                .as_array()
                                .into_iter()
                                .flatten()
                                .filter_map(|s| Some(s.get("name")?.as_str()?.to_owned())),
                        ),
                        // Dynamo's own form: a claim that the operator makes is not there yet.
                        "pvcs" => self.claims.extend(value.as_array().into_iter().flatten().filter_map(|pvc| {
                            let made = pvc.get("create") == Some(&Value::Bool(true));
                            Some(pvc.get("name")?.as_str()?.to_owned()).filter(|_| !made)
                        })),
                        _ => self.walk(value),
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scripted::{Answer, failure};
    use super::*;

    fn deployment() -> Value {
        json!({
            "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "metadata": { "name": "d" },
            "spec": { "components": [{ "name": "w", "podTemplate": { "spec": {
                "imagePullSecrets": [{ "name": "registry" }],
                "volumes": [{ "name": "m", "persistentVolumeClaim": { "claimName": "weights" } },
                            { "name": "s", "secret": { "secretName": "maybe", "optional": true } }],
                "containers": [{ "name": "main", "envFrom": [{ "secretRef": { "name": "hf-token-secret" } }],
                    "env": [{ "name": "K", "valueFrom": { "secretKeyRef": { "name": "key", "key": "k" } } }] }],
            } } }] },
        })
    }

    fn intention(deployments: &[Value]) -> Intention<'_> {
        Intention {
            api: DgdApi::V1beta1,
            deployments,
            gpus: (2, 8),
            gpus_of_node: 2,
            has_request: false,
            port_forward: false,
        }
    }

    fn allowed(allowed: bool) -> Answer {
        Answer::Json(
            201,
            json!({ "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {},
                    "spec": {}, "status": { "allowed": allowed } }),
        )
    }

    #[test]
    fn what_a_deployment_names_is_found_wherever_it_stands() {
        let needs = Needs::of(&[deployment()]);
        assert_eq!(needs.secrets, ["hf-token-secret", "key", "registry"].map(str::to_owned).into());
        assert_eq!(needs.claims, ["weights"].map(str::to_owned).into());
    }

    #[tokio::test(start_paused = true)]
    async fn every_right_that_is_missing_is_named_at_once_and_nothing_is_written() {
        let deployments = [deployment()];
        let (kube, asked) = super::super::scripted::kube(vec![allowed(false)]);
        let found = kube.preflight(&intention(&deployments)).await.unwrap();
        let what: Vec<&str> = found.findings.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(what.len(), 3, "{what:?}");
        assert!(found.no_leases, "and a run can do without");
        assert!(
            what.iter().any(|what| what.contains("create, get, list, watch, patch, delete dynamographdeployments"))
        );
        assert!(
            found.findings.iter().all(|f| f.remedy.contains("a Role must allow") && f.remedy.contains("verbs: [\""))
        );
        assert!(found.notes.iter().any(|note| note.contains("registry")), "{:?}", found.notes);
        assert!(
            asked
                .lock()
                .unwrap()
                .iter()
                .all(|(method, path, _)| { method == "POST" && path.contains("selfsubjectaccessreviews") })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn secrets_claims_quotas_and_the_schema_are_looked_at_and_every_trouble_is_told() {
        let deployments = [deployment()];
        let rights = needed(&intention(&deployments)).len() + LEASES.len() + 4;
        let mut script: Vec<Answer> = (0..rights).map(|_| allowed(true)).collect();
        let gone = || failure(404, "NotFound", "secrets \"x\" not found");
        let meta = || {
            Answer::Json(
                200,
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {} }),
            )
        };
        // hf-token-secret is there, key and registry are not, nor is the claim.
        script.extend([meta(), gone(), gone(), gone()]);
        script.push(Answer::Json(
            200,
            json!({ "kind": "ResourceQuotaList", "apiVersion": "v1", "metadata": {}, "items": [{
                "metadata": { "name": "team" },
                "status": { "hard": { "requests.nvidia.com/gpu": "4" }, "used": { "requests.nvidia.com/gpu": "3" } },
            }] }),
        ));
        script.push(Answer::Json(
            200,
            json!({ "kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": [{
                "metadata": { "name": "n", "labels": { "nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.count": "1" } },
            }] }),
        ));
        script.push(failure(422, "Invalid", "spec.components[0].replicas: must be positive"));
        let (kube, asked) = super::super::scripted::kube(script);
        let found = kube.preflight(&intention(&deployments)).await.unwrap();
        let text = format!("{:?}", found.findings);
        for part in [
            "\\\"key\\\"",
            "\\\"registry\\\"",
            "\\\"weights\\\"",
            "leaves 1 of its 4",
            "largest node has 1",
            "must be positive",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(found.findings.len(), 6, "{text}");
        assert!(!found.no_leases);
        let asked = asked.lock().unwrap();
        let (method, path, _) = asked.last().unwrap();
        assert!(method == "PATCH" && path.contains("dryRun=All"), "nothing is kept: {method} {path}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_does_not_tell_rights_is_no_reason_to_stop() {
        let (kube, _) = super::super::scripted::kube(vec![failure(403, "Forbidden", "no")]);
        let found = kube.preflight(&intention(&[])).await.unwrap();
        assert!(found.findings.is_empty() && found.notes[0].contains("rights"), "{found:?}");
        assert!(!found.no_leases, "it is tried");
    }
}
