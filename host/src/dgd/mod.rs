//! DynamoGraphDeployments: generated from a decision, and read back.

use serde_json::Value;

use crate::domain::{Backend, Mapping, Role};

/// One worker component of a deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Name of the component.
    pub component: String,
    /// What it does.
    pub role: Role,
    /// Which engine.
    pub backend: Backend,
    /// How one replica spreads over GPUs, as its flags say.
    pub mapping: Mapping,
    /// How many.
    pub replicas: u32,
}

/// The deployment cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("{component}: {reason}")]
pub struct ReadError {
    /// Which component, or `spec`.
    pub component: String,
    /// What is wrong.
    pub reason: String,
}

/// The workers of a DGD of either API version, by reading the flags that their engines would read.
///
/// # Errors
/// If a worker's flags say something that no engine understands.
pub fn workers(_dgd: &Value) -> Result<Vec<Worker>, ReadError> {
    Ok(Vec::new())
}
