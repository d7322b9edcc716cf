//! The benchmark reports: each is a program that this builds, with what it needs, and runs.

use super::tasks::{Steps, Stop, build_program, kubernetes_assets, locked, plugins};
use crate::kubernetes;
use crate::workspace::Workspace;

/// A report.
struct Report {
    /// The argument of `bench`; empty for the one without.
    name: &'static str,
    /// The program that makes it.
    program: Program,
    /// What has to be built besides.
    needs: &'static [Need],
}

enum Program {
    /// A binary of the tests' package.
    Binary(&'static str),
    /// An example of a plugin's package.
    Example(&'static str),
}

#[derive(PartialEq, Eq)]
enum Need {
    /// The bundled plugins.
    Plugins,
    /// `sla-profiler` itself.
    Profiler,
    /// The Kubernetes servers.
    Servers,
}

const REPORTS: &[Report] = &[
    Report { name: "", program: Program::Binary("bench"), needs: &[Need::Plugins] },
    Report { name: "load", program: Program::Binary("bench_load"), needs: &[] },
    Report {
        name: "kubernetes",
        program: Program::Binary("bench_kubernetes"),
        needs: &[Need::Servers, Need::Plugins, Need::Profiler],
    },
    Report { name: "kills", program: Program::Binary("bench_kills"), needs: &[Need::Plugins, Need::Profiler] },
    Report { name: "faults", program: Program::Binary("bench_faults"), needs: &[] },
    Report { name: "report", program: Program::Binary("bench_report"), needs: &[Need::Plugins, Need::Profiler] },
    Report { name: "planner", program: Program::Example("bench_planner"), needs: &[] },
    Report { name: "worlds", program: Program::Binary("bench_worlds"), needs: &[Need::Plugins] },
];

/// The report that `arguments` name, and what is passed on to its program.
fn find(arguments: &[String]) -> Option<(&'static Report, &[String])> {
    let named = arguments.split_first().and_then(|(name, rest)| Some((by_name(name)?, rest)));
    // The report without a name takes flags only, so that a misspelt name is not taken for one.
    let flags_only = arguments.iter().all(|argument| argument.starts_with('-'));
    named.or_else(|| Some((by_name("").filter(|_| flags_only)?, arguments)))
}

fn by_name(name: &str) -> Option<&'static Report> {
    REPORTS.iter().find(|report| report.name == name)
}

/// Whether `arguments` name a report; its program judges the rest.
pub fn check(arguments: &[String]) -> Result<(), Stop> {
    let names: Vec<&str> = REPORTS.iter().map(|report| report.name).filter(|name| !name.is_empty()).collect();
    find(arguments).map(drop).ok_or_else(|| {
        let given = arguments.join(" ");
        Stop::Usage(format!("there is no report `{given}`; there are {}, and one without a name", names.join(", ")))
    })
}

/// Builds and runs the report that `arguments` name.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Stop> {
    check(arguments)?;
    let Some((report, rest)) = find(arguments) else { return Ok(()) };
    let steps = Steps::start();
    let assets = if report.needs.contains(&Need::Servers) { kubernetes_assets(workspace, &steps)? } else { None };
    if report.needs.contains(&Need::Plugins) {
        plugins(workspace, &steps)?;
    }
    if report.needs.contains(&Need::Profiler) {
        build_program(workspace, &steps, "sla-profiler")?;
    }
    let mut program = match report.program {
        Program::Binary(name) => {
            build_program(workspace, &steps, name)?;
            workspace.program(name)
        }
        Program::Example(name) => {
            steps.command("build", locked(workspace.cargo(), "build").args(["--workspace", "--example", name]))?;
            workspace.program(&format!("examples/{name}"))
        }
    };
    if let Some(assets) = assets {
        program.env(kubernetes::ASSETS_VARIABLE, assets);
    }
    steps.command("bench", program.args(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(arguments: &[&str]) -> Option<(&'static str, usize)> {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        find(&arguments).map(|(report, rest)| (report.name, rest.len()))
    }

    #[test]
    fn a_report_has_a_name_and_passes_on_what_follows() {
        assert_eq!(name(&[]), Some(("", 0)));
        assert_eq!(name(&["load"]), Some(("load", 0)));
        assert_eq!(name(&["worlds", "--all"]), Some(("worlds", 1)));
        assert_eq!(name(&["--fast"]), Some(("", 1)));
        assert_eq!(name(&["lode"]), None);
    }
}
