//! What each task does, step by step. A task stops at the first step that fails, and says which.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use sla_profiler_plugin_build::chromium::{self, CHROMIUM_VARIABLE};
use sla_profiler_plugin_build::component::{self, Component, Request};
use sla_profiler_plugin_build::project::{Place, Project};
use sla_profiler_plugin_build::python::{self, INTEROP_VARIABLE, Listed, PYTHON_VARIABLE};
use sla_profiler_plugin_build::toolchain::{self, Toolchain};
use sla_profiler_plugin_build::{Error, process};

use crate::workspace::{Workspace, in_ci};
use crate::{benches, fuzz, kubernetes, licences, registry, say};

/// The packages of the plugins that the program carries.
const BUNDLED: &[&str] = &[
    "sla-profiler-plugin-sweep-grid",
    "sla-profiler-plugin-sweep-adaptive",
    "sla-profiler-plugin-select-throughput",
    "sla-profiler-plugin-select-cost",
    "sla-profiler-plugin-planner-sla",
    "sla-profiler-plugin-planner-queueing",
];

/// Why a task did not succeed.
pub enum Stop {
    /// The command line is wrong.
    Usage(String),
    /// A step failed.
    Failed {
        /// Its name, as printed when it began.
        step: &'static str,
        /// Why.
        reason: String,
    },
    /// The program that the task is about ended with this code and has said why.
    Exit(u8),
}

/// A task: what it works on, and the arguments after its name.
pub type Task = fn(&Workspace, &[String]) -> Result<(), Stop>;

/// The task of this name, which must take the arguments `rest`.
pub fn find(name: &str, rest: &[String]) -> Result<Task, Stop> {
    let task: Task = match name {
        "quickstart" => return Ok(quickstart),
        "plugins" => |workspace, _| plugins(workspace, &Steps::start()),
        "examples" => |workspace, _| examples(workspace, &Steps::start()),
        "test" if rest.iter().all(|flag| WITHOUT.contains(&flag.as_str())) => {
            return Ok(test);
        }
        "test" => test,
        "fuzz" => {
            fuzz::Request::parse(rest).map_err(Stop::Usage)?;
            return Ok(fuzz_targets);
        }
        "kubernetes-assets" => |workspace, _| kubernetes_assets(workspace, &Steps::start()).map(drop),
        "registry" => |workspace, _| oci_registry(workspace, &Steps::start()).map(drop),
        "generate" => |workspace, _| generate(workspace),
        "bench" => {
            benches::check(rest)?;
            return Ok(benches::run);
        }
        "toolchain" => |workspace, _| get_toolchain(workspace, &Steps::start()).map(drop),
        "licences" => |workspace, _| check_licences(workspace, &Steps::start()),
        "" => return Err(Stop::Usage("a task is missing".to_owned())),
        other => return Err(Stop::Usage(format!("there is no task `{other}`"))),
    };
    match rest.first() {
        None => Ok(task),
        Some(extra) => Err(Stop::Usage(format!("`{name}` takes no argument, and `{extra}` was given"))),
    }
}

/// Prints the steps of one task with the time since its start.
pub struct Steps(Instant);

impl Steps {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// One line to stderr, then the work.
    fn run<T, E: ToString>(
        &self,
        step: &'static str,
        about: &str,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, Stop> {
        self.say(&format!("{step}: {about}"));
        work().map_err(|error| Stop::Failed { step, reason: error.to_string() })
    }

    /// A step that is one command.
    pub fn command(&self, step: &'static str, command: &mut Command) -> Result<(), Stop> {
        self.run(step, &process::line(command), || process::run(command))
    }

    fn say(&self, message: &str) {
        say(&format!("[{:6.1} s] {message}", self.0.elapsed().as_secs_f64()));
    }
}

fn get_toolchain(workspace: &Workspace, steps: &Steps) -> Result<Toolchain, Stop> {
    let toolchain = steps.run("toolchain", "looking for a compiler of WebAssembly", || {
        toolchain::ensure(&workspace.root, &workspace.target.join("wasm-toolchain"), &|line| steps.say(line))
    })?;
    steps.say(&format!("toolchain: {}", toolchain.description));
    Ok(toolchain)
}

pub fn plugins(workspace: &Workspace, steps: &Steps) -> Result<(), Stop> {
    let toolchain = get_toolchain(workspace, steps)?;
    let out_dir = workspace.target.join("plugins");
    let request = Request {
        workspace: &workspace.root,
        packages: BUNDLED,
        profile: "plugin",
        build_dir: &workspace.target.join("plugin-build"),
        out_dir: &out_dir,
        locked: in_ci(),
    };
    let built = steps.run("plugins", &format!("building {}", BUNDLED.len()), || {
        let built = component::build(&toolchain, &request)?;
        component::remove_others(&out_dir, &built)?;
        Ok::<_, Error>(built)
    })?;
    for Component { name, path, bytes, sha256, changed } in built {
        let state = if changed { "" } else { " (unchanged)" };
        steps.say(&format!("plugins: {name}, {bytes} B, sha256 {sha256}, {}{state}", workspace.shown(&path)));
    }
    Ok(())
}

/// The plugins of `examples/`, each with its folder's `plugin.toml`.
const EXAMPLES: &[&str] = &["custom-selection-policy", "sweep-javascript", "selection-c", "planner-python"];

/// The plugins of `examples/`, one per language, to `<target>/examples`.
fn examples(workspace: &Workspace, steps: &Steps) -> Result<(), Stop> {
    let out_dir = workspace.target.join("examples");
    let build_dir = workspace.target.join("plugin-build");
    // Their tools lie beside the toolchain of the bundled plugins, which Rust's share.
    let cache = &workspace.target;
    for example in EXAMPLES {
        let place =
            Place { cache, out_dir: &out_dir, build_dir: &build_dir, locked: in_ci(), report: &|line| steps.say(line) };
        let built = steps.run("examples", &format!("building examples/{example}"), || {
            Project::open(&workspace.root.join("examples").join(example))?.build(place)
        })?;
        let Component { name, path, bytes, sha256, .. } = built;
        steps.say(&format!("examples: {name}, {bytes} B, sha256 {sha256}, {}", workspace.shown(&path)));
    }
    Ok(())
}

fn quickstart(workspace: &Workspace, flags: &[String]) -> Result<(), Stop> {
    let steps = Steps::start();
    plugins(workspace, &steps)?;
    build_program(workspace, &steps, "sla-profiler")?;

    let out = workspace.shown(&workspace.target.join("quickstart"));
    let mut command = workspace.program("sla-profiler");
    command.args(["profile", "-f", "examples/quickstart/dgdr.yaml", "--out", &out, "--force"]).args(flags);
    steps.say(&format!("run: {}", process::line(&command)));
    let status = command
        .status()
        .map_err(|error| Stop::Failed { step: "run", reason: format!("could not start it: {error}") })?;
    steps.say(&format!("run: ended with {status}"));
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Stop::Exit(u8::try_from(code).unwrap_or(1))),
        None => Err(Stop::Failed { step: "run", reason: format!("sla-profiler was ended by a {status}") }),
    }
}

/// Leaves out the tests that need Kubernetes servers, which Go builds.
const WITHOUT_KUBERNETES: &str = "--without-kubernetes";

/// The module that holds, in each file, the tests that need a cluster: a part of their names.
const KUBERNETES_TESTS: &str = "on_a_cluster::";

/// Likewise, the tests that need an OCI registry. Go builds it too, so the same flag leaves them out.
const REGISTRY_TESTS: &str = "in_a_registry::";

/// The flag of `test` that leaves out the tests against NVIDIA's packages.
const WITHOUT_INTEROP: &str = "--without-interop";

/// The flag of `test` that leaves out fuzzing.
const WITHOUT_FUZZ: &str = "--without-fuzz";

/// All that can be left out.
const WITHOUT: [&str; 3] = [WITHOUT_KUBERNETES, WITHOUT_INTEROP, WITHOUT_FUZZ];

/// The test targets that need NVIDIA's packages. Their tests are marked `#[ignore]`, so that `cargo test` names each of
/// them as left out, and run in a step of their own.
const INTEROP_TESTS: &[&str] = &["aiperf", "interop"];

fn test(workspace: &Workspace, flags: &[String]) -> Result<(), Stop> {
    let with = |flag: &str| !flags.iter().any(|given| given == flag);
    let (with_kubernetes, interop) = (with(WITHOUT_KUBERNETES), with(WITHOUT_INTEROP));
    let steps = Steps::start();
    steps.command("format", workspace.cargo().args(["fmt", "--all", "--check"]))?;
    plugins(workspace, &steps)?;
    examples(workspace, &steps)?;
    let mut lints = locked(workspace.cargo(), "clippy");
    // With the fuzzer, which is not built otherwise.
    lints.args(["--workspace", "--all-targets", "--features", fuzz::FEATURE, "--", "-D", "warnings"]);
    steps.command("lints", &mut lints)?;
    check_licences(workspace, &steps)?;
    let python = numpy(workspace, &steps)?;
    let chromium = steps.run("chromium", "a headless Chromium for the tests of the report", || {
        chromium::chromium(&workspace.target, &|line| steps.say(line))
    })?;
    let assets = if with_kubernetes { kubernetes_assets(workspace, &steps)? } else { None };
    let registry = with_kubernetes.then(|| oci_registry(workspace, &steps)).transpose()?;
    let nvidia = interop.then(|| nvidia(workspace, &steps)).transpose()?;
    // Which tests call, and `cargo test` does not build for tests of another package.
    build_program(workspace, &steps, "sla-profiler")?;
    let mut tests = locked(workspace.cargo(), "test");
    tests.args(["--workspace", "--no-fail-fast"]).env(PYTHON_VARIABLE, python);
    tests.env(CHROMIUM_VARIABLE, chromium.program);
    if let Some(assets) = assets {
        tests.env(kubernetes::ASSETS_VARIABLE, assets);
    }
    if let Some(registry) = registry {
        tests.env(registry::VARIABLE, registry);
    } else {
        steps.say(&format!("tests: those named {KUBERNETES_TESTS} or {REGISTRY_TESTS} are left out"));
        tests.args(["--", "--skip", KUBERNETES_TESTS, "--skip", REGISTRY_TESTS]);
    }
    steps.command("tests", &mut tests)?;
    if with(WITHOUT_FUZZ) {
        run_fuzz(workspace, &steps, &fuzz::Request::brief())?;
    }
    let Some(nvidia) = nvidia else {
        steps.say(&format!("interop: left out by {WITHOUT_INTEROP}; the tests above name what did not run"));
        return Ok(());
    };
    let mut tests = locked(workspace.cargo(), "test");
    tests.args(["--workspace", "--no-fail-fast"]);
    INTEROP_TESTS.iter().for_each(|target| {
        tests.args(["--test", target]);
    });
    // One at a time: they measure latencies, of servers on the same cores.
    tests.args(["--", "--ignored", "--test-threads", "1"]).env(INTEROP_VARIABLE, nvidia);
    steps.command("interop", &mut tests)
}

fn fuzz_targets(workspace: &Workspace, arguments: &[String]) -> Result<(), Stop> {
    let request = fuzz::Request::parse(arguments).map_err(Stop::Usage)?;
    run_fuzz(workspace, &Steps::start(), &request)
}

fn run_fuzz(workspace: &Workspace, steps: &Steps, request: &fuzz::Request) -> Result<(), Stop> {
    let step = "fuzz";
    let failed = |reason| Stop::Failed { step, reason };
    let targets = fuzz::targets(workspace, request).map_err(Stop::Usage)?;
    let (mut build, program) = fuzz::build(workspace).map_err(failed)?;
    steps.command(step, &mut build)?;
    if let (Some(input), [target]) = (&request.replay, targets.as_slice()) {
        return fuzz::replay(workspace, &program, target, input).map_err(failed);
    }
    let seconds = fuzz::time(targets.len(), request.seconds).as_secs();
    steps.say(&format!("{step}: {} for {} s each, {seconds} s in all", targets.join(", "), request.seconds));
    fuzz::run(workspace, &program, &targets, request, &|line| steps.say(&format!("{step}: {line}"))).map_err(failed)
}

/// The folder with the servers, or nothing where the user named another.
pub fn kubernetes_assets(workspace: &Workspace, steps: &Steps) -> Result<Option<PathBuf>, Stop> {
    let step = "kubernetes-assets";
    if kubernetes::given() {
        steps.say(&format!("{step}: as the environment says, nothing is built"));
        return Ok(None);
    }
    let (folder, built) = steps.run(step, "the servers that the tests start", || {
        kubernetes::ensure(workspace, &|line| steps.say(&format!("{step}: {line}")))
    })?;
    let state = if built { "built" } else { "kept" };
    steps.say(&format!("{step}: {state} in {}", workspace.shown(&folder)));
    Ok(Some(folder))
}

fn oci_registry(workspace: &Workspace, steps: &Steps) -> Result<PathBuf, Stop> {
    let step = "registry";
    let program = steps.run(step, "the OCI registry that the tests start", || registry::ensure(workspace))?;
    steps.say(&format!("{step}: {}", workspace.shown(&program)));
    Ok(program)
}

/// With this variable set, tests write the files that they otherwise compare with.
const UPDATE_VARIABLE: &str = "SLA_PROFILER_UPDATE";

fn generate(workspace: &Workspace) -> Result<(), Stop> {
    let steps = Steps::start();
    plugins(workspace, &steps)?;
    build_program(workspace, &steps, "sla-profiler")?;
    let targets = golden_targets(&workspace.root.join("tests/tests"))
        .map_err(|reason| Stop::Failed { step: "generate", reason })?;
    let mut command = locked(workspace.cargo(), "test");
    command.arg("--workspace").env(UPDATE_VARIABLE, "1");
    targets.iter().for_each(|target| {
        command.args(["--test", target]);
    });
    steps.command("generate", &mut command)
}

/// The test targets that compare with committed files: those that speak of the variable, or call `golden`, which does.
fn golden_targets(tests: &Path) -> Result<Vec<String>, String> {
    let unreadable = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let mut targets = Vec::new();
    for entry in fs::read_dir(tests).map_err(|error| unreadable(tests, error))? {
        let path = entry.map_err(|error| unreadable(tests, error))?.path();
        let (Some(stem), Some("rs")) = (path.file_stem(), path.extension().and_then(|e| e.to_str())) else { continue };
        let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
        if text.contains(UPDATE_VARIABLE) || text.contains("golden(") {
            targets.push(stem.to_string_lossy().into_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

fn check_licences(workspace: &Workspace, steps: &Steps) -> Result<(), Stop> {
    let step = "licences";
    let count = steps.run(step, "comparing every dependency with deny.toml", || licences::check(workspace))?;
    steps.say(&format!("{step}: {count} packages are in order"));
    Ok(())
}

fn numpy(workspace: &Workspace, steps: &Steps) -> Result<PathBuf, Stop> {
    let about = "an environment with tests/requirements.txt";
    steps.run("python", about, || environment(workspace, steps, PYTHON_VARIABLE, "requirements.txt", Listed::Wanted))
}

fn nvidia(workspace: &Workspace, steps: &Steps) -> Result<PathBuf, Stop> {
    let about = "an environment with NVIDIA's packages, tests/interop/requirements.txt: 1.4 GB";
    steps.run("interop", about, || {
        environment(workspace, steps, INTEROP_VARIABLE, "interop/requirements.txt", Listed::All)
            .map_err(|error| format!("{error}\n`cargo xtask test {WITHOUT_INTEROP}` does without"))
    })
}

/// The Python that the variable names, or one with the packages of a file in `tests`.
fn environment(
    workspace: &Workspace,
    steps: &Steps,
    variable: &str,
    requirements: &str,
    listed: Listed,
) -> Result<PathBuf, Error> {
    if let Some(python) = python::chosen(variable) {
        return Ok(python);
    }
    let requirements = workspace.root.join("tests").join(requirements);
    python::python_env(&requirements, listed, &workspace.target.join("python"), &|line| steps.say(line))
}

/// Builds one program, with `--workspace` as every task does: with `--package`, cargo would choose other features for
/// some dependencies than it does for the tests, and build wasmtime once for each.
pub fn build_program(workspace: &Workspace, steps: &Steps, name: &str) -> Result<(), Stop> {
    steps.command("build", locked(workspace.cargo(), "build").args(["--workspace", "--bin", name]))
}

/// Where nobody can commit it, a Cargo.lock that would have to change is an error.
pub fn locked(mut cargo: Command, verb: &str) -> Command {
    cargo.arg(verb);
    if in_ci() {
        cargo.arg("--locked");
    }
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(name: &str, rest: &[&str]) -> Option<String> {
        let rest: Vec<String> = rest.iter().map(|argument| (*argument).to_owned()).collect();
        match find(name, &rest) {
            Err(Stop::Usage(message)) => Some(message),
            _ => None,
        }
    }

    #[test]
    fn a_wrong_command_line_is_told_apart_and_named() {
        assert!(usage("", &[]).unwrap().contains("missing"));
        assert!(usage("tests", &[]).unwrap().contains("`tests`"));
        assert!(usage("plugins", &["--fast"]).unwrap().contains("`--fast`"));
        assert_eq!(usage("plugins", &[]), None);
    }

    #[test]
    fn generate_runs_every_test_that_compares_with_a_committed_file() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tests");
        let targets = golden_targets(&tests).unwrap();
        for known in ["cli", "dgd", "generated", "input"] {
            assert!(targets.iter().any(|target| target == known), "{targets:?}");
        }
        assert!(!targets.iter().any(|target| target == "sandbox"), "{targets:?}");
    }

    #[test]
    fn only_quickstart_passes_flags_on() {
        assert_eq!(usage("quickstart", &["--dry-run"]), None);
        assert!(usage("test", &["--dry-run"]).is_some());
        assert_eq!(usage("test", &[WITHOUT_KUBERNETES]), None);
        assert_eq!(usage("test", &[WITHOUT_INTEROP, WITHOUT_KUBERNETES]), None);
        assert_eq!(usage("test", &WITHOUT), None);
        assert_eq!(usage("fuzz", &["loader", "--seconds", "5"]), None);
        assert!(usage("fuzz", &["--second"]).is_some());
        assert_eq!(usage("bench", &["load"]), None);
        assert!(usage("bench", &["lode"]).unwrap().contains("`lode`"));
        assert!(usage("plugins", &[WITHOUT_INTEROP]).is_some());
    }

    #[test]
    fn every_task_of_the_help_exists() {
        let tasks = crate::HELP.split("Tasks:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap();
        let names = tasks.lines().filter(|line| !line.starts_with("    "));
        let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(names.len(), 11);
        assert!(names.iter().all(|name| usage(name, &[]).is_none()), "{names:?}");
    }
}
