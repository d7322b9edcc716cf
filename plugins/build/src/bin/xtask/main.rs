//! `cargo xtask`: the tasks of this workspace. `cargo xtask --help` lists them.

mod benches;
mod fuzz;
mod kubernetes;
mod licences;
mod registry;
mod tasks;
mod workspace;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use tasks::Stop;
use workspace::Workspace;

const HELP: &str = "\
Tasks of the sla-profiler workspace

Usage: cargo xtask <TASK>

Tasks:
  quickstart [FLAGS]  Build everything and run the quickstart example; FLAGS go to `sla-profiler profile`
  plugins             Get the Wasm toolchain and build the bundled plugins to <target>/plugins
  examples            Build the example plugins in Rust, JavaScript, C and Python to <target>/examples
  test [--without-kubernetes] [--without-interop] [--without-fuzz]
                      Plugins, format, lints, licences, Kubernetes servers, NVIDIA's packages, all tests, 20 s of fuzzing each
  fuzz [TARGET...] [--seconds N] [--seed N] [--replay FILE]
                      Run the fuzz targets of tests/fuzz, guided by coverage; 60 s each
  generate            Rewrite the generated files that the tests compare with
  bench [REPORT] [FLAGS]
                      Build and run a benchmark report: without a name the plugins' and phases'; `load`: the load generator's,
                      with AIPerf if it is there; `kubernetes`: what a candidate costs on a cluster of kwok nodes; `kills`:
                      hundreds of kills, each resumed; `planner`: planners against simulated deployments; `worlds`: sweeps
                      and NVIDIA's loop in simulated worlds
  toolchain           Get the Wasm toolchain only
  kubernetes-assets   Build the Kubernetes servers that the tests start, with Go
  registry            Build the OCI registry that the tests start, with Go
  licences            Check every dependency's licence and source against deny.toml, offline

Environment:
  SLA_PROFILER_WASM_TOOLCHAIN  installed, rustup or debian: use this Wasm toolchain or fail
  SLA_PROFILER_PYTHON          a Python with the packages of tests/requirements.txt, instead of one made here
  KUBEBUILDER_ASSETS           a folder with etcd, kube-apiserver and the others, instead of building them
  SLA_PROFILER_CHROMIUM        a headless Chromium, instead of Debian's unpacked here
  SLA_PROFILER_REGISTRY        the program of that registry, instead of building it
  SLA_PROFILER_INTEROP_PYTHON  a Python with the packages of tests/interop/requirements.txt, likewise
  CI                           when set, Cargo.lock must be current and nothing is compiled incrementally

Exit status: 0; 1 when a step failed; 2 for a wrong command line; quickstart passes on that of sla-profiler.
";

fn main() -> ExitCode {
    if let Some(code) = fuzz::as_rustc() {
        return code;
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (task, rest) = match arguments.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => ("", &[][..]),
    };
    match start(task, rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Usage(message)) => {
            say(&format!("{message}\n\n{HELP}"));
            ExitCode::from(2)
        }
        Err(Stop::Failed { step, reason }) => {
            say(&format!("xtask: step `{step}` failed: {reason}"));
            ExitCode::FAILURE
        }
        Err(Stop::Exit(code)) => ExitCode::from(code),
    }
}

fn start(task: &str, rest: &[String]) -> Result<(), Stop> {
    if matches!(task, "help" | "--help" | "-h") {
        // Nobody is left to tell when stdout is closed.
        let _ = io::stdout().lock().write_all(HELP.as_bytes());
        return Ok(());
    }
    let task = tasks::find(task, rest)?;
    let workspace = Workspace::find().map_err(|reason| Stop::Failed { step: "workspace", reason })?;
    task(&workspace, rest)
}

/// One message to stderr. Nothing can be done when that is closed.
fn say(message: &str) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}
