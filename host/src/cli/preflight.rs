//! What a cluster lacks for a run, told before anything is created.

use super::kubernetes::Connection;
use crate::dgd;
use crate::domain::search_space::SearchSpace;
use crate::engine::kubernetes::Reach;
use crate::kubernetes::preflight::{Intention, Preflight};
use crate::output::error::AppError;
use crate::spec::RunSpec;

/// What a deployment is called that is only rehearsed.
const REHEARSAL: &str = "sla-profiler-preflight";

impl Connection {
    /// Looks for everything that stands in the way of a run with these candidates. What is worth knowing is returned, and
    /// no finding.
    ///
    /// # Errors
    /// With all that stands in the way, each with its next step; or if the API server does not answer.
    pub async fn preflight(
        &self,
        spec: &RunSpec,
        space: &SearchSpace,
        reach: Option<&Reach>,
    ) -> Result<Preflight, AppError> {
        let deployments: Vec<serde_json::Value> = space
            .candidates
            .iter()
            .map(|candidate| {
                let mut dgd = dgd::generate_candidate(spec, candidate).map_err(crate::phases::RunError::from)?;
                if let Some(metadata) = dgd.get_mut("metadata").and_then(serde_json::Value::as_object_mut) {
                    metadata.insert("namespace".to_owned(), self.kube.namespace.clone().into());
                    // Nobody else's: it is written for a rehearsal only.
                    metadata.insert("name".to_owned(), REHEARSAL.into());
                }
                Ok::<_, AppError>(dgd)
            })
            .collect::<Result<_, _>>()?;
        let least = space.candidates.iter().map(crate::domain::Candidate::gpus).min().unwrap_or(1);
        let reach = reach.cloned().unwrap_or(if self.kube.inside { Reach::Service } else { Reach::PortForward });
        let intention = Intention {
            api: spec.deployment.api,
            deployments: &deployments,
            gpus: (least, spec.job.hardware.total_gpus),
            gpus_of_node: least.min(spec.job.hardware.gpus_per_node),
            has_request: self.dgdr.is_some(),
            port_forward: reach == Reach::PortForward,
        };
        let found = self.kube.preflight(&intention).await?;
        if found.findings.is_empty() {
            return Ok(found);
        }
        let line =
            |finding: &crate::kubernetes::preflight::Finding| format!("\n  {}\n    {}", finding.what, finding.remedy);
        let lines: String = found.findings.iter().map(line).collect();
        Err(AppError::Cluster {
            message: format!("the cluster is not ready for this run, and nothing was created:{lines}"),
            hint: "mend all of it and start again".to_owned(),
        })
    }
}
