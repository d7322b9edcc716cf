//! The program, its plugins, its folders, and tools on this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Finding, Level, Need};
use crate::load::aiperf;
use crate::plugin::default_cache_dir;
use crate::plugin::store::{Store, default_store_dir};
use crate::plugin::{CONTRACT_VERSION, HostOptions, PluginHost};

/// For a tool to say its version.
const TOOL_DEADLINE: Duration = Duration::from_secs(20);

/// Between two looks at a tool.
const TOOL_PAUSE: Duration = Duration::from_millis(20);

/// Below, a run may not find room for its results: journal, pictures and logs of a large one took 60 MB.
const ROOM_BYTES: u64 = 200 << 20;

pub(super) fn look(out: &Path, need: Need) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(
        "program",
        "version",
        format!(
            "sla-profiler {}, plugin contract {CONTRACT_VERSION}, {}",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::ARCH
        ),
    )];
    findings.extend(plugins());
    findings.push(folder("results", out));
    findings.push(match default_cache_dir() {
        Some(dir) => folder("compiled plugins", &dir),
        None => {
            Finding::bad("files", Level::Warning, "compiled plugins", "no cache folder", "set HOME or XDG_CACHE_HOME")
        }
    });
    findings.extend(tools(need));
    findings
}

fn plugins() -> Vec<Finding> {
    const AREA: &str = "plugins";
    let host = match PluginHost::new(HostOptions::default()) {
        Ok(host) => host,
        Err(error) => {
            let remedy = error.hint().unwrap_or_else(|| "this machine cannot run WebAssembly; try another".to_owned());
            return vec![Finding::bad(AREA, Level::Problem, "sandbox", error.to_string(), remedy)];
        }
    };
    let mut findings = Vec::new();
    match host.bundled() {
        Ok(all) => {
            let names: Vec<&str> = all.iter().map(|plugin| plugin.identity.name.as_str()).collect();
            findings.push(Finding::ok(AREA, "bundled", format!("{} load: {}", all.len(), names.join(", "))));
        }
        Err(error) => {
            let remedy = error.hint().unwrap_or_else(|| "install the program again".to_owned());
            findings.push(Finding::bad(AREA, Level::Problem, "bundled", error.to_string(), remedy));
        }
    }
    let Some(dir) = default_store_dir() else {
        findings.push(Finding::bad(
            AREA,
            Level::Warning,
            "store",
            "no folder for added plugins",
            "set HOME or XDG_DATA_HOME",
        ));
        return findings;
    };
    let store = Store::new(dir.clone());
    match store.entries() {
        Ok(entries) if entries.is_empty() => {
            findings.push(Finding::ok(AREA, "store", format!("{}, empty", dir.display())))
        }
        Ok(entries) => {
            let gone: Vec<&str> =
                entries.iter().filter(|e| !store.file(&e.sha256).is_file()).map(|e| e.name.as_str()).collect();
            findings.push(if gone.is_empty() {
                Finding::ok(AREA, "store", format!("{}, {} added", dir.display(), entries.len()))
            } else {
                let detail = format!("the files of {} are gone from {}", gone.join(", "), dir.display());
                Finding::bad(
                    AREA,
                    Level::Problem,
                    "store",
                    detail,
                    "`sla-profiler plugin add` them again, or `plugin remove`",
                )
            });
        }
        Err(error) => {
            let remedy = format!("mend or remove {}", store.lock_path().display());
            findings.push(Finding::bad(AREA, Level::Problem, "store", error.to_string(), remedy));
        }
    }
    findings
}

/// The nearest folder that is there already.
fn existing(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find(|folder| folder.exists()).map(Path::to_owned)
}

/// Whether files can be written there, and whether there is room.
fn folder(what: &'static str, path: &Path) -> Finding {
    const AREA: &str = "files";
    let shown = path.display();
    let elsewhere = "name another folder (--out, XDG_CACHE_HOME), or give this user the right to write there";
    let problem = |detail: String| Finding::bad(AREA, Level::Problem, what, detail, elsewhere);
    let Some(there) = existing(path) else { return problem(format!("{shown}: no such place")) };
    if let Err(error) = tempfile_in(&there) {
        return problem(format!("{shown}: cannot write to {}: {error}", there.display()));
    }
    match rustix::fs::statvfs(&there) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let room = format!("{shown}, {:.1} GB free", free as f64 / 1e9);
            if free < ROOM_BYTES {
                Finding::bad(
                    AREA,
                    Level::Problem,
                    what,
                    room,
                    "free some space; a run that fills the disk can be resumed",
                )
            } else {
                Finding::ok(AREA, what, room)
            }
        }
        Err(error) => {
            Finding::bad(AREA, Level::Warning, what, format!("{shown}: {error}"), "look how much room there is")
        }
    }
}

/// Writes a file of its own name and removes it.
fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".sla-profiler-doctor-{}", std::process::id()));
    std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)
}

/// What a tool says, within the deadline; none where it is not there.
fn said(program: &str, arguments: &[&str]) -> Option<Result<String, String>> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(error.to_string())),
    };
    let end = Instant::now() + TOOL_DEADLINE;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > end {
            // Best effort: the finding is that it hangs.
            let _ = child.kill().and_then(|()| child.wait());
            return Some(Err(format!("says nothing within {} s", TOOL_DEADLINE.as_secs())));
        }
        std::thread::sleep(TOOL_PAUSE);
    }
    let output = match child.wait_with_output() {
        Ok(output) => output,
        Err(error) => return Some(Err(error.to_string())),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned();
    Some(if output.status.success() { Ok(first) } else { Err(format!("ended with {}", output.status)) })
}

/// A tool, how it is asked, what it is for, how to get it, and whether something that must work needs it.
struct Tool {
    program: &'static str,
    arguments: &'static [&'static str],
    purpose: &'static str,
    remedy: String,
    needed: bool,
}

fn tools(need: Need) -> Vec<Finding> {
    let tools = [
        Tool {
            program: "nvidia-smi",
            arguments: &["--query-gpu=name,driver_version", "--format=csv,noheader"],
            purpose: "engines on this machine (--cluster local)",
            remedy: "install NVIDIA's driver, or measure elsewhere".to_owned(),
            needed: need == Need::Local,
        },
        Tool {
            program: "aiperf",
            arguments: &["--version"],
            purpose: "NVIDIA's load generator (--load aiperf); the builtin one needs nothing",
            remedy: format!("pip install aiperf=={}", aiperf::VERSION),
            needed: false,
        },
        Tool {
            program: "cargo",
            arguments: &["--version"],
            purpose: "building plugins in Rust (`plugin build`)",
            remedy: "https://rustup.rs".to_owned(),
            needed: false,
        },
        Tool {
            program: "kubectl",
            arguments: &["version", "--client"],
            purpose: "applying a deployment by hand",
            remedy: "https://kubernetes.io/docs/tasks/tools".to_owned(),
            needed: false,
        },
    ];
    tools
        .into_iter()
        .map(|Tool { program, arguments, purpose, remedy, needed }| match said(program, arguments) {
            Some(Ok(version)) => Finding::ok("tools", program, version),
            Some(Err(reason)) => {
                let level = if needed { Level::Problem } else { Level::Warning };
                Finding::bad("tools", level, program, reason, remedy)
            }
            None => {
                let level = if needed { Level::Problem } else { Level::Absent };
                Finding::bad("tools", level, program, format!("not on PATH; for {purpose}"), remedy)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_is_looked_at_through_the_one_that_is() {
        let dir = tempfile::tempdir().unwrap();
        let finding = folder("results", &dir.path().join("a/b/c"));
        assert_eq!(finding.level, Level::Ok, "{finding:?}");
        assert!(finding.detail.contains("GB free"), "{finding:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn a_file_where_a_folder_should_be_is_a_problem_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let finding = folder("results", &file);
        assert_eq!(finding.level, Level::Problem);
        assert!(finding.remedy.is_some());
    }

    #[test]
    fn a_tool_is_told_apart_as_absent_failing_or_there() {
        assert_eq!(said("no-such-tool-anywhere", &[]), None);
        assert!(said("false", &[]).unwrap().is_err());
        assert_eq!(said("echo", &["1.2"]), Some(Ok("1.2".to_owned())));
    }
}
