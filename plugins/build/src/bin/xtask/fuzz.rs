//! Coverage-guided fuzzing with libFuzzer, on a stable compiler.
//!
//! cargo calls this program in place of rustc for the packages of this workspace and adds the flags that count edges.
//! Dependencies are those of every other build, so wasmtime is not built twice, and cargo keeps apart what was built
//! with the flags and without.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use sla_profiler_plugin_build::process;

use crate::workspace::{Workspace, in_ci};

/// Set for the cargo that builds the fuzzer, so that this program knows what it is called for.
const WRAPPER: &str = "SLA_PROFILER_XTASK_IS_RUSTC";

/// The flags with which cargo-fuzz has LLVM count edges, all of them stable; behind cargo's own, since the last one holds.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // Our packages compile in a quarter of the time, and most of a target's time is spent in dependencies.
    "-Copt-level=0",
    "-Cdebuginfo=0",
];

/// Seconds that an input may take before it counts as a fault.
const INPUT_SECONDS: u32 = 60;

/// Resident memory in MB that counts as a fault.
const MEMORY_MB: u32 = 3000;

/// Lines of a fuzzer's output that are shown when it fails.
const TAIL: usize = 60;

/// The cargo feature without which the program `fuzz` is not built.
pub const FEATURE: &str = "sla-profiler-fuzz/libfuzzer";

/// What `cargo xtask fuzz` was asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The targets; empty means all.
    pub targets: Vec<String>,
    /// How long each runs.
    pub seconds: u32,
    /// An input to run once, instead.
    pub replay: Option<PathBuf>,
    /// The seed of the fuzzer's own choices; another one each time where nothing is said.
    pub seed: Option<u32>,
}

impl Default for Request {
    fn default() -> Self {
        Self { targets: Vec::new(), seconds: 60, replay: None, seed: None }
    }
}

impl Request {
    /// What CI runs: all targets for a short time, with the same choices each time as far as time allows.
    pub fn brief() -> Self {
        Self { seconds: 20, seed: Some(1), ..Self::default() }
    }

    /// From the arguments after `fuzz`.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut request = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| format!("`{argument}` needs a value"));
            let number = |text: &String| text.parse().map_err(|_| format!("`{argument} {text}` is not a number"));
            match argument.as_str() {
                "--seconds" => request.seconds = number(value()?)?,
                "--seed" => request.seed = Some(number(value()?)?),
                "--replay" => request.replay = Some(PathBuf::from(value()?)),
                flag if flag.starts_with('-') => return Err(format!("`fuzz` has no option `{flag}`")),
                target => request.targets.push(target.to_owned()),
            }
        }
        if request.replay.is_some() && request.targets.len() != 1 {
            return Err("`--replay FILE` needs one target".to_owned());
        }
        Ok(request)
    }
}

/// Runs rustc in place of this program, where cargo calls it for that.
pub fn as_rustc() -> Option<ExitCode> {
    env::var_os(WRAPPER)?;
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    let mut command = Command::new(rustc);
    command.args(&arguments);
    if counts_edges(&arguments) {
        command.args(COVERAGE);
    }
    let code = command.status().ok().and_then(|status| status.code()).unwrap_or(1);
    Some(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Not build scripts and macros: they run in the compiler, where nobody counts.
fn counts_edges(arguments: &[OsString]) -> bool {
    let value = |name: &str| {
        let mut pairs = arguments.iter().zip(arguments.iter().skip(1));
        pairs.find(|(flag, _)| *flag == OsStr::new(name)).and_then(|(_, value)| value.to_str())
    };
    value("--crate-name").is_some_and(|name| name != "___" && !name.starts_with("build_script"))
        && value("--crate-type") != Some("proc-macro")
}

/// Builds the fuzzer; returns the command that builds it, for messages, and the program.
pub fn build(workspace: &Workspace) -> Result<(Command, PathBuf), String> {
    let own = env::current_exe().map_err(|error| format!("this program's path is unknown: {error}"))?;
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "--workspace", "--bin", "fuzz", "--features", FEATURE])
        .env("RUSTC_WORKSPACE_WRAPPER", own)
        .env(WRAPPER, "1")
        // What incremental compiling keeps would be as large as the build, and serve only those who change targets.
        .env("CARGO_INCREMENTAL", "0");
    if in_ci() {
        cargo.arg("--locked");
    }
    let program = workspace.program("fuzz");
    Ok((cargo, PathBuf::from(program.get_program())))
}

/// The targets that the request names, or all.
pub fn targets(workspace: &Workspace, request: &Request) -> Result<Vec<String>, String> {
    let all = known(&workspace.root)?;
    if let Some(unknown) = request.targets.iter().find(|name| !all.contains(name)) {
        return Err(format!("there is no target `{unknown}`; there are {}", all.join(", ")));
    }
    Ok(if request.targets.is_empty() { all } else { request.targets.clone() })
}

/// The names of all targets, from their files.
fn known(root: &Path) -> Result<Vec<String>, String> {
    let folder = root.join("tests/fuzz/src/targets");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let text = fs::read_to_string(entry.map_err(failed)?.path()).map_err(failed)?;
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("name: \"")?.strip_suffix("\","));
        names.extend(lines.map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Runs one input once, with its output.
pub fn replay(workspace: &Workspace, program: &Path, target: &str, input: &Path) -> Result<(), String> {
    let input = env::current_dir().map(|folder| folder.join(input)).map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg(input).env("SLA_PROFILER_FUZZ", target).current_dir(&workspace.root);
    process::run(&mut command).map_err(|error| error.to_string())
}

/// Runs the targets, as many at once as there are CPUs. Every target gets its time, whatever becomes of others.
pub fn run(
    workspace: &Workspace,
    program: &Path,
    targets: &[String],
    request: &Request,
    say: &(dyn Fn(&str) + Sync),
) -> Result<(), String> {
    let queue = Mutex::new(targets.iter());
    let failures = Mutex::new(Vec::new());
    let lock = |queue: &Mutex<std::slice::Iter<'_, String>>| {
        queue.lock().unwrap_or_else(PoisonError::into_inner).next().cloned()
    };
    let workers = thread::available_parallelism().map_or(1, usize::from).min(targets.len());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(target) = lock(&queue) {
                    match one(workspace, program, &target, request) {
                        Ok(summary) => say(&format!("{target}: {summary}")),
                        Err(failure) => {
                            failures
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push(format!("{target}: {failure}"));
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n\n")) }
}

/// One target for its time: what it did, or what it found and how to run that again.
fn one(workspace: &Workspace, program: &Path, target: &str, request: &Request) -> Result<String, String> {
    let folder = workspace.target.join("fuzz").join(target);
    let [seeds, corpus, crashes] = ["seeds", "corpus", "crashes"].map(|name| folder.join(name));
    // Seeds of an older program would stay for ever.
    let _ = fs::remove_dir_all(&seeds);
    for folder in [&seeds, &corpus, &crashes] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let log = folder.join("output");
    let file = fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let output = file.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
    let mut command = Command::new(program);
    command
        .arg(format!("-max_total_time={}", request.seconds))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MB}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args(["-print_final_stats=1", "-use_value_profile=0"])
        .args(request.seed.map(|seed| format!("-seed={seed}")))
        .arg(&corpus)
        .arg(&seeds)
        .env("SLA_PROFILER_FUZZ", target)
        .env("SLA_PROFILER_FUZZ_SEEDS", &seeds)
        .current_dir(&workspace.root)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(file);
    let mut child = command.spawn().map_err(|error| format!("could not start the fuzzer: {error}"))?;
    let status = child.wait().map_err(|error| error.to_string())?;
    let said = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    if status.success() {
        return Ok(summary(&said));
    }
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with('#')).collect();
    let tail = lines.iter().skip(lines.len().saturating_sub(TAIL)).copied().collect::<Vec<_>>().join("\n");
    let found = said.lines().find_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path.trim()));
    let next = match found {
        Some(path) => format!(
            "the input is kept; run it again with\n  cargo xtask fuzz {target} --replay {path}\nand when it is mended, keep \
             it as tests/fuzz/crashes/{target}/NAME, which every later run starts with"
        ),
        None => format!("no input was written; the whole output is in {}", log.display()),
    };
    Err(format!("{status}\n{tail}\n{next}"))
}

/// From libFuzzer's last lines: inputs run, edges reached, inputs kept.
fn summary(said: &str) -> String {
    let stat = |name: &str| {
        let value = said.lines().find_map(|line| line.strip_prefix("stat::")?.trim_start().strip_prefix(name));
        value.map_or("?", |value| value.trim_start_matches(':').trim()).to_owned()
    };
    let last = said.lines().rfind(|line| line.starts_with('#') && line.contains(" cov: ")).unwrap_or_default();
    let field = |name: &str| {
        let mut words = last.split_whitespace();
        words.find(|word| *word == name);
        words.next().unwrap_or("?").split('/').next().unwrap_or("?").to_owned()
    };
    format!(
        "{} inputs, {} a second; {} edges reached, {} inputs kept",
        stat("number_of_executed_units"),
        stat("average_exec_per_sec"),
        field("cov:"),
        field("corp:")
    )
}

/// How long all of it takes at most, for the message that it begins with.
pub fn time(targets: usize, seconds: u32) -> Duration {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(targets.max(1));
    let rounds = u32::try_from(targets.div_ceil(workers)).unwrap_or(u32::MAX);
    Duration::from_secs(u64::from(seconds) * u64::from(rounds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Request, String> {
        Request::parse(&arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_says_what_and_how_long() {
        assert_eq!(parse(&[]).unwrap(), Request::default());
        let request = parse(&["loader", "--seconds", "5", "--seed", "7"]).unwrap();
        assert_eq!((request.targets, request.seconds, request.seed), (vec!["loader".to_owned()], 5, Some(7)));
        assert!(parse(&["--seconds"]).unwrap_err().contains("needs a value"));
        assert!(parse(&["--seconds", "long"]).unwrap_err().contains("`--seconds long`"));
        assert!(parse(&["--fast"]).unwrap_err().contains("`--fast`"));
        assert!(parse(&["--replay", "x"]).unwrap_err().contains("one target"));
    }

    #[test]
    fn edges_are_counted_in_libraries_and_programs_only() {
        let counts = |arguments: &[&str]| counts_edges(&arguments.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(counts(&["--crate-name", "sla_profiler", "--edition=2024", "--crate-type", "lib"]));
        assert!(counts(&["--crate-name", "fuzz", "--crate-type", "bin"]));
        assert!(!counts(&["--crate-name", "build_script_build", "--crate-type", "bin"]));
        assert!(!counts(&["--crate-name", "___", "--print=file-names"]));
        assert!(!counts(&["-vV"]));
        assert!(!counts(&["--crate-name", "derive", "--crate-type", "proc-macro"]));
    }

    #[test]
    fn all_targets_are_found_by_name() {
        let names = known(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap();
        for known in ["loader", "planner-answer", "selection-answer", "sweep-answer"] {
            assert!(names.iter().any(|name| name == known), "{names:?}");
        }
    }

    #[test]
    fn the_summary_is_read_from_the_fuzzers_last_lines() {
        let said = "#2\tINITED cov: 5 ft: 6 corp: 1/1b\n#90\tNEW    cov: 512 ft: 700 corp: 33/9Kb lim: 4 exec/s: 0\nDone 99 \
                    runs in 2 second(s)\nstat::number_of_executed_units: 99\nstat::average_exec_per_sec:     49\n";
        assert_eq!(summary(said), "99 inputs, 49 a second; 512 edges reached, 33 inputs kept");
    }
}
