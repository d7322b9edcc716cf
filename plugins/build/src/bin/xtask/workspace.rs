//! Where things are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use sla_profiler_plugin_build::process;

/// The folders of this checkout.
pub struct Workspace {
    /// Holds the root Cargo.toml.
    pub root: PathBuf,
    /// cargo's target folder, wherever the user put it.
    pub target: PathBuf,
    /// Where cargo puts programs of the dev profile: this one, and so the others.
    programs: PathBuf,
}

impl Workspace {
    /// The workspace that this program was built in.
    pub fn find() -> Result<Self, String> {
        // Set by `cargo run`; the compiled-in path serves when the binary is started by hand.
        let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let package = package.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let root = package.ancestors().nth(2).filter(|root| root.join("Cargo.lock").is_file());
        let root = root.ok_or_else(|| format!("{} is not in a workspace: use `cargo xtask`", package.display()))?;
        let program = env::current_exe().map_err(|error| format!("this program's path is unknown: {error}"))?;
        let target = target_of(&program).unwrap_or_else(|| root.join("target"));
        let programs = program.parent().unwrap_or(&target).to_owned();
        Ok(Self { root: root.to_owned(), target, programs })
    }

    /// A cargo in the workspace, with the same target folder as the one that started us.
    pub fn cargo(&self) -> Command {
        let mut command = process::cargo(&self.root);
        // Absolute: CARGO_TARGET_DIR may be relative to where the user stood.
        command.env("CARGO_TARGET_DIR", &self.target);
        if in_ci() {
            command.env("CARGO_INCREMENTAL", "0");
        }
        command
    }

    /// A program of the workspace that has been built, to run in the workspace's root.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(format!("{name}{}", env::consts::EXE_SUFFIX)));
        command.current_dir(&self.root);
        command
    }

    /// As people would type it in the workspace's root.
    pub fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

/// The folder above `program` that cargo marked as its target folder: right for `CARGO_TARGET_DIR`, for
/// `build.target-dir` in any configuration file, and for a profile or target triple in between.
fn target_of(program: &Path) -> Option<PathBuf> {
    program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).map(Path::to_owned)
}

/// Whether this runs in continuous integration, by the variable that all such services set.
pub fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_target_folder_is_found_above_profile_and_triple() {
        let folder = tempfile::tempdir().unwrap();
        let profile = folder.path().join("x86_64-unknown-linux-gnu/debug");
        fs::create_dir_all(&profile).unwrap();
        fs::write(folder.path().join("CACHEDIR.TAG"), "").unwrap();
        assert_eq!(target_of(&profile.join("xtask")).as_deref(), Some(folder.path()));
    }
}
