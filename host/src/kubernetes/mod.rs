//! The Kubernetes cluster: what is read from it and written to it, apart from running engines.
//!
//! ```text
//! connect -> Kube (client, namespace) --call--> API server      every request has a deadline, transient errors are retried
//!              |-- resources   static kinds and versions; nothing is discovered but which version is served
//!              |-- dgdr        the request: read, status by server-side apply
//!              |-- events      what a person would want to know, as Events on the request
//!              |-- output      results as ConfigMaps
//!              |-- nodes       GPUs, from node labels
//!              |-- jobs        created, deleted, found again
//!              |-- lease       that a process lives, for others to see
//!              |-- gc          what runs that are gone have left
//!              |-- preflight   what a run will lack, all at once
//!              '-- controller  works off requests, a Job each
//! ```
//!
//! One field manager, [`FIELD_MANAGER`], owns all that is written.

#![allow(clippy::result_large_err, reason = "an error ends a command or a candidate; none is on a hot path")]

pub mod call;
pub mod connect;
pub mod controller;
pub mod deployments;
pub mod dgdr;
pub mod error;
pub mod events;
pub mod gc;
pub mod jobs;
pub mod lease;
pub mod nodes;
pub mod output;
pub mod owner;
pub mod preflight;
pub mod resources;
pub mod status;

#[cfg(test)]
pub(crate) mod scripted;

pub use connect::{Access, Kube};
pub use error::ClusterError;
pub use owner::Owner;

/// The one field manager of server-side apply.
pub const FIELD_MANAGER: &str = "sla-profiler";

/// Label of everything that this program creates.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "sla-profiler");

/// Label: which run created it.
pub const RUN_LABEL: &str = "sla-profiler.dev/run";

/// Label: for which request (name of the DGDR).
pub const REQUEST_LABEL: &str = "sla-profiler.dev/request";

/// Label of everything that sends load.
pub const LOAD_LABEL: &str = "sla-profiler.dev/load";

/// Annotation: which candidate it measures.
pub const CANDIDATE_ANNOTATION: &str = "sla-profiler.dev/candidate";

/// Label of Dynamo's operator on every pod of a deployment: the deployment's name.
pub const DGD_POD_LABEL: &str = "nvidia.com/dynamo-graph-deployment-name";

/// Label of Dynamo's operator on every pod: the component's type.
pub const COMPONENT_TYPE_LABEL: &str = "nvidia.com/dynamo-component-type";

/// Label of Dynamo's operator on every pod: the component's name.
pub const COMPONENT_LABEL: &str = "nvidia.com/dynamo-component";

/// Label of Kubernetes on the pods of a Job: the Job's name.
pub const JOB_POD_LABEL: &str = "batch.kubernetes.io/job-name";

/// Labels of Dynamo's operator on what it makes for a DGDR: the DGDR's name.
pub const DGDR_NAME_LABEL: &str = "dgdr.nvidia.com/name";
