//! In the place of Dynamo's profiler: what its operator's Job starts, with its arguments, and what the Job's sidecar reads.
//!
//! ```text
//! python -m dynamo.profiler --config '{"model": …}' --output-dir /data      DGDR_NAME, DGDR_NAMESPACE, DGDR_UID
//!   = profile --config '{"model": …}' --output-dir /data                    --> profiler_status.yaml, final_config.yaml
//! ```
//!
//! The operator applies the result itself and writes the request's status from the status file, so that neither is done
//! here. `searchStrategy: thorough` measures on the cluster; `rapid`, which costs no GPU there, is simulated here too.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::output::exit_code;
use crate::run::{Existing, JOURNAL, RunDir, status};

/// The modules that Dynamo's operators have started: 1.x, and 0.7 to 0.9.
const MODULES: [&str; 3] = ["dynamo.profiler", "dynamo.profiler.profile_sla", "benchmarks.profiler.profile_sla"];

/// Flags of Dynamo's profiler, with a value each, that have no meaning here: sweep plugins have settings of their own.
const WITHOUT_MEANING: [&str; 2] = ["--prefill-interpolation-granularity", "--decode-interpolation-granularity"];

/// Whether Dynamo's operator started us.
pub fn is_on() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    set("DGDR_NAME") && set("KUBERNETES_SERVICE_HOST")
}

/// Arguments as this program has them. A container whose `python` is this program is started as Dynamo's is.
pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let given: Vec<OsString> = given.into_iter().collect();
    let is = |at: usize, words: &[&str]| given.get(at).and_then(|a| a.to_str()).is_some_and(|a| words.contains(&a));
    if !(is(1, &["-m"]) && is(2, &MODULES)) {
        return given;
    }
    let mut arguments: Vec<OsString> = given.first().cloned().into_iter().collect();
    arguments.push("profile".into());
    let mut rest = given.into_iter().skip(3);
    while let Some(argument) = rest.next() {
        let (name, has_value) = match argument.to_str().and_then(|text| text.split_once('=')) {
            Some((name, _)) => (name.to_owned(), true),
            None => (argument.to_string_lossy().into_owned(), false),
        };
        if WITHOUT_MEANING.contains(&name.as_str()) {
            if !has_value {
                rest.next();
            }
        } else if name == "--deployment-timeout" {
            // The name of the same thing here.
            match argument.to_str().and_then(|text| text.split_once('=')) {
                Some((_, value)) => arguments.push(format!("--launch-deadline={value}").into()),
                None => arguments.push("--launch-deadline".into()),
            }
        } else {
            arguments.push(argument);
        }
    }
    arguments
}

/// Where the sidecar looks, from arguments that could not be read as a whole.
fn output_dir() -> Option<PathBuf> {
    let mut arguments = std::env::args_os();
    while let Some(argument) = arguments.next() {
        if argument == "--output-dir" || argument == "--out" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some((name, value)) = argument.to_str().and_then(|text| text.split_once('='))
            && (name == "--output-dir" || name == "--out")
        {
            return Some(PathBuf::from(value));
        }
    }
    None
}

/// Tells the sidecar of a failure before there was a run, which it would wait for else.
pub fn told(error: &str) {
    if !is_on() {
        return;
    }
    if let Some(path) = output_dir() {
        told_in(&path, error);
    }
}

/// As [`told`], where the folder is known.
pub fn told_in(path: &Path, error: &str) {
    // Without taking anything away: an earlier run's results are not ours to remove for a mistake on a command line.
    match RunDir::shared(path) {
        Ok(dir) => status::write_failure(&dir, error),
        Err(error) => tracing::warn!("{error}"),
    }
}

/// What to do with results of before, which a PVC may hold: go on if it is the same run, else begin anew.
pub fn existing(path: &Path) -> Existing {
    if path.join(JOURNAL).exists() { Existing::Resume } else { Existing::Replace }
}

/// The code that the Job understands: 0 if there is a deployment that may be applied.
pub fn exit_code(code: u8, will_be_applied: bool) -> u8 {
    match code {
        exit_code::INFEASIBLE if will_be_applied => code,
        exit_code::INFEASIBLE | exit_code::CHECK_MISSED => exit_code::OK,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Vec<String> {
        arguments(words.iter().map(OsString::from)).into_iter().map(|a| a.into_string().unwrap()).collect()
    }

    #[test]
    fn started_as_dynamos_profiler_it_is_profile() {
        assert_eq!(
            of(&["python", "-m", "dynamo.profiler", "--config", "{}", "--output-dir", "/data"]),
            ["python", "profile", "--config", "{}", "--output-dir", "/data"]
        );
        assert_eq!(
            of(&["python3", "-m", "benchmarks.profiler.profile_sla", "--profile-config", "x: 1"]),
            ["python3", "profile", "--profile-config", "x: 1"]
        );
        assert_eq!(
            of(&[
                "python",
                "-m",
                "dynamo.profiler",
                "--deployment-timeout",
                "3600",
                "--prefill-interpolation-granularity",
                "16",
                "--decode-interpolation-granularity=6",
                "--dry-run",
            ]),
            ["python", "profile", "--launch-deadline", "3600", "--dry-run"]
        );
        let ours = ["sla-profiler", "profile", "--config", "x"];
        assert_eq!(of(&ours), ours);
    }

    #[test]
    fn the_job_succeeds_with_a_result_that_nobody_applies_unasked() {
        assert_eq!(exit_code(exit_code::INFEASIBLE, false), exit_code::OK);
        assert_eq!(exit_code(exit_code::INFEASIBLE, true), exit_code::INFEASIBLE);
        assert_eq!(exit_code(exit_code::NOTHING_MEASURED, false), exit_code::NOTHING_MEASURED);
    }
}
