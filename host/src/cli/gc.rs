//! `sla-profiler gc`: what programs that are gone have left, found by what they own, and removed.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::Session;
use super::profile::{json, real_runtime, write_out};
use crate::engine::kubernetes::Deadlines;
use crate::kubernetes::deployments::CANDIDATE;
use crate::kubernetes::gc::{Found, Outcome, Sweep};
use crate::kubernetes::{Access, ClusterError, Kube, RUN_LABEL};
use crate::output::error::AppError;
use crate::output::exit_code;
use crate::plugin::compile::user_dir;
use crate::process::leftovers::{self, Left};

/// Remove what killed runs have left.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Looks at this machine, and at a Kubernetes cluster if a flag says which. What a run owns it has put \
    down before it made it, and its record or lease is held for as long as it lives: nothing is found by its name, \
    nothing of a run that lives is touched, and nothing that somebody else made.\n\nOf a run on another machine it may \
    take as long as its lease lasts (240 s) to see that it is gone.\n\nExamples:\n  sla-profiler gc\n  sla-profiler gc -n \
    inference --dry-run\n  sla-profiler gc --all-namespaces --output json\n\nExit code: 0 if nothing is left."
)]
pub struct Args {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Where to look: this machine, and with `kubernetes` also at the kubeconfig's cluster, as the flags below imply
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    cluster: Place,
    /// Kubeconfig to use
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Namespace to look at; else that of the context or the pod
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Look at all namespaces, which takes rights in the whole cluster
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

/// Where to look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Place {
    /// This machine
    #[default]
    Local,
    /// A Kubernetes cluster, too
    Kubernetes,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    /// Runs of this machine that are gone, and what they have left.
    local: Vec<Left>,
    /// Absent where no cluster was looked at.
    cluster: Option<OfCluster>,
}

/// What was found in a cluster.
#[derive(Debug, Serialize)]
struct OfCluster {
    /// Its API server.
    server: String,
    /// Absent where all were looked at.
    namespace: Option<String>,
    /// Runs of which there is something.
    runs: Vec<Found>,
}

/// Where records of owners are: `$XDG_STATE_HOME/sla-profiler/owners`, else in `~/.local/state`; without a home, in a
/// folder for temporary files that is the user's own.
pub(super) fn records() -> PathBuf {
    user_dir("XDG_STATE_HOME", ".local/state").map_or_else(
        || std::env::temp_dir().join(format!("sla-profiler-owners-{}", rustix::process::getuid().as_raw())),
        |state| state.join("sla-profiler/owners"),
    )
}

/// Says what was found at the start of a run.
pub(super) fn warn_of(left: &[Left]) {
    for left in left.iter().filter(|left| !left.processes.is_empty()) {
        let what = if left.gone { "ended" } else { "could not be ended and may hold GPUs" };
        tracing::warn!("{}", line(left, what));
    }
}

fn line(left: &Left, what: &str) -> String {
    let processes: Vec<String> = left.processes.iter().map(|(pid, command)| format!("{pid} ({command})")).collect();
    format!(
        "the run in {} (process {}, since {}) is gone and has left {}: {what}",
        left.run.display(),
        left.pid,
        left.since,
        processes.join(", ")
    )
}

impl Args {
    /// Looks, removes, and says so.
    ///
    /// # Errors
    /// If something is left all the same.
    pub fn run(self, session: &Session) -> Result<u8, AppError> {
        let local = leftovers::clean_up(&records(), self.dry_run);
        let looked = match self.is_about_a_cluster() {
            true => real_runtime()?.block_on(self.look_at_cluster(session)).map(Some),
            false => Ok(None),
        };
        let (cluster, trouble) = match looked {
            Ok(cluster) => (cluster, None),
            Err(trouble) => (None, Some(trouble)),
        };
        let report = Report { dry_run: self.dry_run, local, cluster };
        // What was done here is said, whatever the cluster says.
        let text = if session.printer.is_json() { json(&report)? } else { text(&report, self.is_about_a_cluster()) };
        write_out(session, &text)?;
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        if self.dry_run {
            return Ok(exit_code::OK);
        }
        let stuck = report.local.iter().filter(|left| !left.gone);
        let pids: Vec<String> = stuck.flat_map(|left| left.processes.iter().map(|p| p.0.to_string())).collect();
        if !pids.is_empty() {
            return Err(AppError::Cluster {
                message: format!("processes {} do not end, not even by SIGKILL", pids.join(", ")),
                hint: "they wait for a device; `nvidia-smi` shows which GPUs they hold".to_owned(),
            });
        }
        let runs = report.cluster.iter().flat_map(|cluster| &cluster.runs);
        let failed: Vec<&str> =
            runs.filter(|found| found.outcome == Outcome::Failed).map(|found| found.run.as_str()).collect();
        if !failed.is_empty() {
            return Err(AppError::Cluster {
                message: format!("not all is gone of what these runs left: {}", failed.join(", ")),
                hint: "above is why; `kubectl get dgd,pods -l sla-profiler.dev/run=RUN -o yaml` shows finalizers and events"
                    .to_owned(),
            });
        }
        Ok(exit_code::OK)
    }

    fn is_about_a_cluster(&self) -> bool {
        self.cluster == Place::Kubernetes
            || self.kubeconfig.is_some()
            || self.context.is_some()
            || self.namespace.is_some()
            || self.all_namespaces
    }

    async fn look_at_cluster(&self, session: &Session) -> Result<OfCluster, AppError> {
        let access = Access {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            namespace: self.namespace.clone(),
        };
        let kube = Kube::connect(&access).await?;
        let api = match kube.served_version().await {
            Ok(api) => Some(api),
            // Then there are no deployments.
            Err(ClusterError::KindMissing { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let everywhere = self.all_namespaces;
        let sweep = Sweep { kube: kube.clone(), api, everywhere, removal: Deadlines::default().removal };
        let runs = sweep.go(self.dry_run, &|what| session.printer.note(&format!("note: {what}"))).await?;
        Ok(OfCluster { server: kube.server, namespace: (!everywhere).then_some(kube.namespace), runs })
    }
}

/// `asked`: whether a cluster was to be looked at.
fn text(report: &Report, asked: bool) -> String {
    let mut text = String::new();
    let with_processes = report.local.iter().filter(|left| !left.processes.is_empty());
    for left in with_processes {
        let what = match (report.dry_run, left.gone) {
            (true, _) => "would be ended",
            (false, true) => "ended",
            (false, false) => "still there",
        };
        let _ = writeln!(text, "{}", line(left, what));
    }
    for found in report.cluster.iter().flat_map(|cluster| &cluster.runs) {
        let _ = writeln!(text, "{}", line_of(found));
    }
    let is_left = !text.is_empty();
    match &report.cluster {
        None if is_left => {}
        None => {
            let hint = if asked { "" } else { "; -n NAMESPACE looks at a cluster, too" };
            let _ = writeln!(text, "nothing is left of any run on this machine{hint}");
        }
        Some(cluster) if cluster.runs.is_empty() => {
            let place = cluster.namespace.as_ref().map_or("any namespace".to_owned(), |n| format!("namespace {n}"));
            let _ = writeln!(text, "nothing is left of any run in {place} of {}", cluster.server);
        }
        Some(_) => {}
    }
    text
}

fn line_of(found: &Found) -> String {
    let Found { namespace, run, request, holder, outcome, why, things, .. } = found;
    let request = request.as_ref().map_or_else(String::new, |request| format!(" of request {request}"));
    let holder = holder.as_ref().map_or_else(String::new, |holder| format!(" ({holder})"));
    let names: Vec<String> = things.iter().map(ToString::to_string).collect();
    let names = if names.is_empty() { "its lease".to_owned() } else { names.join(", ") };
    let who = format!("the run {run}{request} in namespace {namespace}{holder}");
    match outcome {
        Outcome::Lives => format!("{who} lives: {why}; left alone"),
        Outcome::LeftAlone => format!(
            "{who} has {names}: {why}; left alone, and `kubectl delete dgd -n {namespace} -l {RUN_LABEL}={run},{CANDIDATE}` \
             deletes it once you know"
        ),
        Outcome::WouldBeRemoved => format!("{who} is gone: {why}; would be removed: {names}"),
        Outcome::Removed => format!("{who} is gone: {why}; removed: {names}"),
        Outcome::Failed => format!("{who} is gone, and not all of it could be removed: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn no_cluster_is_looked_at_unless_a_flag_is_about_one() {
        let of = |words: &[&str]| {
            let words = ["gc"].into_iter().chain(words.iter().copied());
            Program::parse_from(words).args.is_about_a_cluster()
        };
        assert!(!of(&[]) && !of(&["--dry-run"]) && !of(&["--cluster", "local"]));
        for words in
            [&["-n", "x"][..], &["-A"], &["--context", "c"], &["--kubeconfig", "f"], &["--cluster", "kubernetes"]]
        {
            assert!(of(words), "{words:?}");
        }
    }
}
