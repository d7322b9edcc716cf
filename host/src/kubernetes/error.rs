//! What can go wrong with an API server, told apart by what one does about it.

use std::time::Duration;

use kube::core::Status;

/// What was tried, for messages: `create dynamographdeployments.nvidia.com "x" in namespace "y"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// As RBAC calls it: `get`, `list`, `watch`, `create`, `patch`, `delete`.
    pub verb: &'static str,
    /// As RBAC calls it: plural, with the group after a dot.
    pub resource: String,
    /// Of one object.
    pub name: Option<String>,
    /// Where; none for what belongs to the whole cluster.
    pub namespace: Option<String>,
}

impl Action {
    /// On one object.
    pub fn on(verb: &'static str, resource: &str, namespace: &str, name: &str) -> Self {
        Self { verb, resource: resource.to_owned(), name: Some(name.to_owned()), namespace: Some(namespace.to_owned()) }
    }

    /// On all objects of a namespace.
    pub fn all(verb: &'static str, resource: &str, namespace: &str) -> Self {
        Self { verb, resource: resource.to_owned(), name: None, namespace: Some(namespace.to_owned()) }
    }

    /// On what belongs to the whole cluster.
    pub fn cluster(verb: &'static str, resource: &str) -> Self {
        Self { verb, resource: resource.to_owned(), name: None, namespace: None }
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if let Some(name) = &self.name {
            write!(f, " \"{name}\"")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace \"{namespace}\""),
            None => Ok(()),
        }
    }
}

/// Why the cluster did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// No kubeconfig, no pod's service account, or one that makes no sense.
    #[error("no way to a cluster: {0}")]
    NotConfigured(String),
    /// Nobody answers.
    #[error("cannot {action}: the API server {server} does not answer: {reason}")]
    Unreachable {
        /// What was tried.
        action: Action,
        /// Its address.
        server: String,
        /// What the connection said.
        reason: String,
    },
    /// It answers too late, again and again.
    #[error("cannot {action}: no answer within {} s", .within.as_secs())]
    Timeout {
        /// What was tried.
        action: Action,
        /// All attempts together.
        within: Duration,
    },
    /// It answers that it is busy or broken, again and again.
    #[error("cannot {action}: the API server says {code}: {message}")]
    Busy {
        /// What was tried.
        action: Action,
        /// 429, 500, 503, …
        code: u16,
        /// What it said.
        message: String,
    },
    /// Who are you?
    #[error("cannot {action}: the API server does not know us: {message}")]
    Unauthorized {
        /// What was tried.
        action: Action,
        /// What it said.
        message: String,
    },
    /// RBAC.
    #[error("not allowed to {action}: {message}")]
    Forbidden {
        /// What was tried; its verb and resource are what a Role must name.
        action: Action,
        /// What the API server said.
        message: String,
    },
    /// It is not there.
    #[error("cannot {action}: it does not exist")]
    NotFound {
        /// What was tried.
        action: Action,
    },
    /// The kind itself is not there.
    #[error("cannot {action}: the cluster has no such kind")]
    KindMissing {
        /// What was tried.
        action: Action,
    },
    /// The kind is there, in versions that this program does not know.
    #[error("cannot {action}: the cluster serves it as {served}, and this program knows {known}")]
    VersionUnknown {
        /// What was tried.
        action: Action,
        /// Versions, separated by commas.
        served: String,
        /// Likewise.
        known: String,
    },
    /// The namespace is not there.
    #[error("cannot {action}: there is no such namespace")]
    NamespaceMissing {
        /// What was tried.
        action: Action,
    },
    /// The namespace is being deleted.
    #[error("cannot {action}: the namespace is being deleted")]
    NamespaceTerminating {
        /// What was tried.
        action: Action,
    },
    /// Somebody else owns it, or changed it.
    #[error("cannot {action}: {message}")]
    Conflict {
        /// What was tried.
        action: Action,
        /// What the API server said.
        message: String,
    },
    /// The object is wrong.
    #[error("cannot {action}: the API server refuses it: {message}")]
    Invalid {
        /// What was tried.
        action: Action,
        /// What the API server, its schema or a webhook said.
        message: String,
    },
    /// An object of that name is there, and it is not ours.
    #[error("{resource} \"{name}\" in namespace \"{namespace}\" exists already and is not ours: {why}")]
    Foreign {
        /// Plural, with the group.
        resource: String,
        /// Its name.
        name: String,
        /// Where.
        namespace: String,
        /// By what one sees that.
        why: String,
    },
    /// Somebody else has what only one process may have.
    #[error("another process holds the lease {lease} in namespace \"{namespace}\": {by} ({why})")]
    Held {
        /// Name of the lease.
        lease: String,
        /// Where.
        namespace: String,
        /// Who has it.
        by: String,
        /// By what one sees that they live.
        why: String,
    },
    /// An object lacks what it must have.
    #[error("{0}")]
    Unusable(String),
    /// Anything else.
    #[error("cannot {action}: {message}")]
    Other {
        /// What was tried.
        action: Action,
        /// What was said.
        message: String,
    },
}

impl ClusterError {
    /// What an answer of the API server, or the lack of one, means.
    pub fn of(action: &Action, server: &str, error: &kube::Error) -> Self {
        let action = action.clone();
        match error {
            kube::Error::Api(status) => Self::of_status(action, status),
            kube::Error::Auth(error) => Self::Unauthorized { action, message: chain(error) },
            kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => {
                Self::Unreachable { action, server: server.to_owned(), reason: chain(error) }
            }
            other => Self::Other { action, message: chain(other) },
        }
    }

    fn of_status(action: Action, status: &Status) -> Self {
        let message = status.message.clone();
        let about = status.details.as_ref().map(|details| details.kind.as_str()).unwrap_or_default();
        match status.code {
            401 => Self::Unauthorized { action, message },
            403 if message.contains("being terminated") => Self::NamespaceTerminating { action },
            403 => Self::Forbidden { action, message },
            404 if about == "namespaces" => Self::NamespaceMissing { action },
            // A path that no kind answers to: plain text, without details.
            404 if action.name.is_none() || message.contains("the server could not find the requested resource") => {
                Self::KindMissing { action }
            }
            404 if message.contains("404 page not found") => Self::KindMissing { action },
            404 => Self::NotFound { action },
            409 => Self::Conflict { action, message },
            400 | 422 => Self::Invalid { action, message },
            // Server-side apply says so of a field that the schema does not have.
            500 if message.contains("field not declared in schema")
                || message.contains("failed to create typed patch") =>
            {
                Self::Invalid { action, message }
            }
            code @ (429 | 500..=599) => Self::Busy { action, code, message },
            _ => Self::Other { action, message },
        }
    }

    /// Whether the same request may work in a moment.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. } | Self::Busy { .. })
    }

    /// Whether the thing is just not there.
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotConfigured(_) => {
                Some("give --kubeconfig, set KUBECONFIG, or run in a pod with a service account".to_owned())
            }
            Self::Unreachable { .. } | Self::Timeout { .. } => Some(
                "--context and --kubeconfig say which cluster; `kubectl version` tells whether it answers".to_owned(),
            ),
            Self::Unauthorized { .. } => {
                Some("log in to the cluster again; `kubectl auth whoami` shows as whom".to_owned())
            }
            Self::Forbidden { action, .. } => {
                let (resource, group) = action.resource.split_once('.').unwrap_or((action.resource.as_str(), ""));
                let role = if action.namespace.is_some() { "Role" } else { "ClusterRole" };
                Some(format!(
                    "a {role} must allow apiGroups: [\"{group}\"], resources: [\"{resource}\"], verbs: [\"{}\"]; \
                     the Role in examples/kubernetes has all that is needed",
                    action.verb
                ))
            }
            Self::KindMissing { action } => Some(if action.resource.ends_with("nvidia.com") {
                "install NVIDIA Dynamo's operator and its CRDs".to_owned()
            } else {
                "the cluster is too old or lacks an API; `kubectl api-resources` lists what it has".to_owned()
            }),
            Self::VersionUnknown { .. } => {
                Some("take a version of sla-profiler that fits the cluster's Dynamo, or the other way round".to_owned())
            }
            Self::NamespaceMissing { action } => {
                let namespace = action.namespace.as_deref().unwrap_or_default();
                Some(format!("`kubectl create namespace {namespace}`, or name another with --namespace"))
            }
            Self::NamespaceTerminating { .. } => {
                Some("wait until it is gone, or name another with --namespace".to_owned())
            }
            Self::Foreign { .. } => Some("give the request another name (--name), or delete that object".to_owned()),
            Self::Held { lease, namespace, .. } => Some(format!(
                "a run has one process at a time: wait for that one, or end it; `kubectl get lease -n {namespace} {lease} \
                 -o yaml` shows it"
            )),
            Self::NotFound { .. }
            | Self::Busy { .. }
            | Self::Conflict { .. }
            | Self::Invalid { .. }
            | Self::Unusable(_)
            | Self::Other { .. } => None,
        }
    }
}

/// An error with what caused it, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str, kind: &str) -> Status {
        let details = serde_json::json!({ "kind": kind });
        serde_json::from_value(serde_json::json!({ "code": code, "message": message, "details": details })).unwrap()
    }

    fn of(code: u16, message: &str, kind: &str) -> ClusterError {
        let action = Action::on("patch", "dynamographdeployments.nvidia.com", "ns", "d");
        ClusterError::of_status(action, &status(code, message, kind))
    }

    #[test]
    fn each_answer_is_told_apart_by_what_one_does_about_it() {
        assert!(matches!(of(403, "User \"x\" cannot patch", ""), ClusterError::Forbidden { .. }));
        let terminating = "unable to create new content in namespace ns because it is being terminated";
        assert!(matches!(of(403, terminating, ""), ClusterError::NamespaceTerminating { .. }));
        assert!(matches!(of(404, "namespaces \"ns\" not found", "namespaces"), ClusterError::NamespaceMissing { .. }));
        assert!(matches!(of(404, "404 page not found", ""), ClusterError::KindMissing { .. }));
        assert!(matches!(of(404, "\"d\" not found", "dynamographdeployments"), ClusterError::NotFound { .. }));
        assert!(matches!(of(409, "conflict", ""), ClusterError::Conflict { .. }));
        assert!(matches!(of(422, "bad", ""), ClusterError::Invalid { .. }));
        let typed = "failed to create typed patch object: .spec.x: field not declared in schema";
        assert!(matches!(of(500, typed, ""), ClusterError::Invalid { .. }));
        for code in [429, 500, 502, 503, 504] {
            assert!(of(code, "later", "").is_transient(), "{code}");
        }
    }

    #[test]
    fn what_rbac_lacks_is_named_as_a_role_names_it() {
        let hint = of(403, "no", "").hint().unwrap();
        assert!(hint.contains(r#"apiGroups: ["nvidia.com"], resources: ["dynamographdeployments"], verbs: ["patch"]"#));
        let nodes = ClusterError::Forbidden { action: Action::cluster("list", "nodes"), message: String::new() };
        assert!(
            nodes.hint().unwrap().starts_with("a ClusterRole must allow apiGroups: [\"\"], resources: [\"nodes\"]")
        );
    }
}
