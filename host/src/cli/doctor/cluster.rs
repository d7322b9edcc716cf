//! The cluster: whether it answers, what it serves, what we may do there.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::{Api, PostParams};

use super::{Args, Finding, Level, Need};
use crate::kubernetes::{Access, ClusterError, Kube};

const AREA: &str = "cluster";

/// For everything that is asked of a cluster.
const CLUSTER_DEADLINE: Duration = Duration::from_secs(60);

const LEASE_GROUP: &str = "coordination.k8s.io";

/// What a run does: verb, group, resource, and for what.
const RIGHTS: &[(&str, &str, &str, &str)] = &[
    ("create", "nvidia.com", "dynamographdeployments", "engines"),
    ("delete", "nvidia.com", "dynamographdeployments", "engines"),
    ("get", "nvidia.com", "dynamographdeploymentrequests", "--dgdr"),
    ("patch", "nvidia.com", "dynamographdeploymentrequests/status", "--dgdr"),
    ("list", "", "pods", "engines"),
    ("watch", "", "pods", "engines"),
    ("get", "", "pods/log", "engines' logs, KV capacity"),
    ("patch", "", "configmaps", "results in the cluster"),
    ("create", "events.k8s.io", "events", "Events"),
    ("create", LEASE_GROUP, "leases", "`sla-profiler gc`"),
    ("update", LEASE_GROUP, "leases", "`sla-profiler gc`"),
    ("delete", LEASE_GROUP, "leases", "`sla-profiler gc`"),
];

pub(super) async fn look(args: &Args) -> Vec<Finding> {
    let mut findings = Vec::new();
    let looking = tokio::time::timeout(CLUSTER_DEADLINE, look_at(args, &mut findings)).await;
    if looking.is_err() {
        let detail = format!("no end within {} s", CLUSTER_DEADLINE.as_secs());
        findings.push(Finding::bad(AREA, level(args), "answers", detail, "see whether the API server is overloaded"));
    }
    findings
}

/// What a lack is here.
fn level(args: &Args) -> Level {
    let asked = args.kubeconfig.is_some() || args.context.is_some() || args.namespace.is_some();
    if asked || args.cluster == Need::Kubernetes { Level::Problem } else { Level::Absent }
}

fn lack(args: &Args, what: &str, error: &ClusterError) -> Finding {
    let remedy = error.hint().unwrap_or_else(|| "--kubeconfig and --context name a cluster".to_owned());
    Finding::bad(AREA, level(args), what, error.to_string(), remedy)
}

async fn look_at(args: &Args, findings: &mut Vec<Finding>) {
    let access = Access {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
        namespace: args.namespace.clone(),
    };
    let kube = match Kube::connect(&access).await {
        Ok(kube) => kube,
        Err(error) => return findings.push(lack(args, "answers", &error)),
    };
    findings.push(Finding::ok(AREA, "answers", format!("{}, namespace {}", kube.server, kube.namespace)));
    match kube.served_version().await {
        Ok(api) => findings.push(Finding::ok(AREA, "Dynamo's kinds", format!("{api:?}").to_lowercase())),
        Err(error) => findings.push(lack(args, "Dynamo's kinds", &error)),
    }
    match kube.gpus().await {
        Ok(inventory) => match inventory.hardware(None) {
            Ok(found) => {
                let detail = format!("{} × {}, {} in a node", found.total_gpus, found.gpu_sku, found.gpus_per_node);
                findings.push(Finding::ok(AREA, "GPUs", detail));
            }
            Err(error) => findings.push(lack(args, "GPUs", &error)),
        },
        // Known GPUs can be given instead.
        Err(error) => {
            let remedy = "give the right to list nodes, or say what there is: --gpu, --total-gpus, --num-gpus-per-node";
            findings.push(Finding::bad(AREA, Level::Warning, "GPUs", error.to_string(), remedy));
        }
    }
    for (verb, group, resource, purpose) in RIGHTS {
        findings.push(right(args, &kube, verb, group, resource, purpose).await);
    }
}

async fn right(args: &Args, kube: &Kube, verb: &str, group: &str, resource: &str, purpose: &str) -> Finding {
    let (name, subresource) = resource.split_once('/').map_or((resource, None), |(r, s)| (r, Some(s.to_owned())));
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(kube.namespace.clone()),
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(name.to_owned()),
                subresource,
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(kube.client.clone());
    let what = format!("may {verb} {resource}");
    match api.create(&PostParams::default(), &review).await {
        Ok(answer) if answer.status.as_ref().is_some_and(|status| status.allowed) => Finding::ok(AREA, what, "yes"),
        Ok(answer) => {
            let reason = answer.status.and_then(|status| status.reason).filter(|reason| !reason.is_empty());
            let detail = format!("no; for {purpose}{}", reason.map(|r| format!(" ({r})")).unwrap_or_default());
            let remedy = format!("a Role in {} with that right; examples/kubernetes has one", kube.namespace);
            // A run goes on without a lease.
            let level = if group == LEASE_GROUP { level(args).min(Level::Warning) } else { level(args) };
            Finding::bad(AREA, level, what, detail, remedy)
        }
        Err(error) => Finding::bad(AREA, Level::Warning, what, error.to_string(), "ask whoever runs the cluster"),
    }
}
