//! The programs of a real Kubernetes control plane, built from the Go modules that `tests/kubernetes/assets` names.
//!
//! They are built once and kept in the target folder, under a stamp of everything that they depend on.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use sla_profiler_plugin_build::process;

use crate::workspace::Workspace;

/// Names a folder that holds the programs already, as for the tests of Go operators.
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// The programs and their packages.
const PROGRAMS: &[(&str, &str)] = &[
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
];

/// Files of kwok's module that the tests install: its CRDs, and how its nodes live.
const KWOK_FOLDERS: &[&str] =
    &["kustomize/crd/bases", "kustomize/stage/node/fast", "kustomize/stage/node/heartbeat-with-lease"];

/// Whether the user named the programs, so that nothing is built.
pub fn given() -> bool {
    env::var_os(ASSETS_VARIABLE).is_some_and(|value| !value.is_empty())
}

/// Builds what is missing; returns the folder with the programs and whether anything was built.
///
/// # Errors
/// Go is missing, its module proxy does not answer, or a program does not compile; as text that names the way out.
pub fn ensure(workspace: &Workspace, say: &dyn Fn(&str)) -> Result<(PathBuf, bool), String> {
    let module = workspace.root.join("tests/kubernetes/assets");
    let out = workspace.target.join("kubernetes-assets");
    let version = process::output(go(&module).arg("version")).map_err(|error| {
        format!(
            "{error}\nGo builds the Kubernetes servers for the tests: install Go 1.26 or newer (https://go.dev/dl), name a \
             folder with etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl and kwok in \
             {ASSETS_VARIABLE}, or leave these tests out with `cargo xtask test --without-kubernetes`"
        )
    })?;
    let stamp = stamp(&module, &version)?;
    let stamp_file = out.join("stamp");
    if fs::read_to_string(&stamp_file).is_ok_and(|kept| kept == stamp) {
        return Ok((out, false));
    }
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    fs::create_dir_all(&out).map_err(|error| failed(&out, error))?;
    // A build that breaks off leaves no stamp, so that the next one takes it up; Go's own cache keeps what was done.
    let _ = fs::remove_file(&stamp_file);

    say("fetching Go modules, then building; a first build takes some ten minutes of both cores");
    let kubernetes = go_list(&module, "{{.Version}}", "k8s.io/kubernetes")?;
    for (name, package) in PROGRAMS {
        let mut build = go(&module);
        build.args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &linker_flags(&kubernetes), "-o"]);
        build.arg(out.join(name)).arg(package);
        say(&format!("building {name}"));
        process::run(&mut build).map_err(|error| error.to_string())?;
    }
    let kwok = PathBuf::from(go_list(&module, "{{.Dir}}", "sigs.k8s.io/kwok")?);
    let kept = out.join("kwok.d");
    fs::create_dir_all(&kept).map_err(|error| failed(&kept, error))?;
    for folder in KWOK_FOLDERS {
        copy_yaml(&kwok.join(folder), &kept)?;
    }
    fs::write(&stamp_file, &stamp).map_err(|error| failed(&stamp_file, error))?;
    Ok((out, true))
}

/// What the programs depend on: the modules, their checksums, and the compiler.
fn stamp(module: &Path, go_version: &str) -> Result<String, String> {
    let mut digest = Sha256::new();
    for name in ["go.mod", "go.sum"] {
        let path = module.join(name);
        digest.update(fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?);
        digest.update([0]);
    }
    digest.update(go_version);
    for (_, package) in PROGRAMS {
        digest.update(package);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A Go that changes neither go.mod nor go.sum, and needs no C compiler.
fn go(module: &Path) -> Command {
    let mut command = Command::new("go");
    command.current_dir(module).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly").env("GOWORK", "off");
    command
}

fn go_list(module: &Path, template: &str, of: &str) -> Result<String, String> {
    process::output(go(module).args(["list", "-m", "-f", template, of])).map_err(|error| error.to_string())
}

/// A server says which version it is; without these flags it would say v0.0.0.
fn linker_flags(version: &str) -> String {
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let set = |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
    format!("-s -w{}{}{}", set("gitVersion", version), set("gitMajor", major), set("gitMinor", minor))
}

fn copy_yaml(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    for entry in fs::read_dir(from).map_err(|error| failed(from, error))? {
        let path = entry.map_err(|error| failed(from, error))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.ends_with(".yaml") && name != "kustomization.yaml" {
            // Files in the module cache are read-only; what is copied here must be replaceable.
            let text = fs::read(&path).map_err(|error| failed(&path, error))?;
            fs::write(to.join(name), text).map_err(|error| failed(to, error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_told_its_version() {
        let flags = linker_flags("v1.36.3");
        assert!(flags.contains("gitVersion=v1.36.3"), "{flags}");
        assert!(flags.contains("gitMajor=1 "), "{flags}");
        assert!(flags.ends_with("gitMinor=36"), "{flags}");
    }

    #[test]
    fn another_module_or_compiler_is_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("go.mod"), "module a").unwrap();
        fs::write(folder.path().join("go.sum"), "").unwrap();
        let first = stamp(folder.path(), "go version go1.26.8 linux/amd64").unwrap();
        assert_eq!(first, stamp(folder.path(), "go version go1.26.8 linux/amd64").unwrap());
        assert_ne!(first, stamp(folder.path(), "go version go1.26.9 linux/amd64").unwrap());
        fs::write(folder.path().join("go.sum"), "x").unwrap();
        assert_ne!(first, stamp(folder.path(), "go version go1.26.8 linux/amd64").unwrap());
    }

    #[test]
    fn every_program_is_a_tool_of_the_module() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kubernetes/assets/go.mod");
        let module = fs::read_to_string(root).unwrap();
        for (_, package) in PROGRAMS {
            assert!(module.contains(&format!("\t{package}\n")), "{package}");
        }
    }
}
