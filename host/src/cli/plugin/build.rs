//! `sla-profiler plugin build`.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sla_profiler_plugin_build::component::Component;
use sla_profiler_plugin_build::project::{Place, Project};

use super::PluginCommandError;
use super::view::{SCHEMA_VERSION, write_json};

/// Flags of `plugin build`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// Folder of the project: one with a plugin.toml
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Where the component goes [default: the folder `build` in the project]
    #[arg(long, value_name = "DIR")]
    pub out_dir: Option<PathBuf>,
    /// Where compilers and packages are kept [default: `tools` in the program's cache folder]
    #[arg(long, value_name = "DIR", env = "SLA_PROFILER_PLUGIN_TOOLS")]
    pub tools: Option<PathBuf>,
}

#[derive(Serialize)]
struct Output<'a> {
    schema_version: u32,
    name: &'a str,
    path: &'a Path,
    file_bytes: usize,
    sha256: &'a str,
}

impl Args {
    pub(super) fn run(
        self,
        cache: Option<&Path>,
        note: &dyn Fn(&str),
        out: &mut dyn Write,
        json: bool,
    ) -> Result<(), PluginCommandError> {
        let project = Project::open(&self.dir)?;
        let out_dir = self.out_dir.unwrap_or_else(|| self.dir.join("build"));
        // Tools run in folders of their own.
        let out_dir = std::path::absolute(out_dir)?;
        let tools = self.tools.or_else(|| Some(cache?.join("tools"))).unwrap_or_else(|| out_dir.join("tools"));
        let tools = std::path::absolute(tools)?;
        // cargo's own variable, so that projects can share what they have in common.
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.dir.join("target"), PathBuf::from);
        let build_dir = std::path::absolute(target)?.join("plugin");
        let place = Place { cache: &tools, out_dir: &out_dir, build_dir: &build_dir, locked: false, report: note };
        let Component { name, path, bytes, sha256, .. } = &project.build(place)?;
        if json {
            let schema_version = SCHEMA_VERSION;
            write_json(out, &Output { schema_version, name, path, file_bytes: *bytes, sha256 })?;
        } else {
            writeln!(
                out,
                "{}\n{} B, sha256 {sha256}",
                path.display(),
                crate::render::number::grouped(*bytes as f64, 0)
            )?;
        }
        Ok(())
    }
}
