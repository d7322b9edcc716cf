//! The contract's versions: what was released does not change, and a plugin of any released version loads.

#![allow(clippy::unwrap_used, reason = "a failure is the message")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sla_profiler::plugin::api::Kind;
use sla_profiler::plugin::{HostOptions, PluginHost};
use sla_profiler_tests::guests::Contract;
use sla_profiler_tests::{root, run, sla_profiler};

/// What `sha256sum` would write of every file below the folder, by its path from `from`.
fn digests(folder: &Path, from: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            digests(&path, from, found);
        } else {
            let name = path.strip_prefix(from).unwrap().to_str().unwrap().to_owned();
            found.insert(name, sla_profiler::plugin::sha256(&fs::read(&path).unwrap()));
        }
    }
}

#[test]
fn released_contracts_and_what_is_generated_from_them_never_change() {
    let mut found = BTreeMap::new();
    digests(&root().join("wit/deps"), &root(), &mut found);
    digests(&root().join("plugins/template/c/bindings"), &root(), &mut found);
    let text = fs::read_to_string(root().join("tests/released.sha256")).unwrap();
    let released: BTreeMap<String, String> = text
        .lines()
        .map(|line| line.split_once("  ").unwrap())
        .map(|(digest, name)| (name.to_owned(), digest.to_owned()))
        .collect();
    for (name, digest) in &released {
        let now = found.remove(name);
        assert_eq!(now.as_ref(), Some(digest), "{name} was released: copy its folder under the next version instead");
    }
    let new: String = found.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
    assert!(new.is_empty(), "add to tests/released.sha256 what is released from now on:\n{new}");
}

fn host() -> PluginHost {
    PluginHost::new(HostOptions { cache: None, store: None, ..HostOptions::default() }).unwrap()
}

/// The kind's interface without its version, the package's folder, a world, and a guest of it.
fn of(kind: Kind) -> (&'static str, &'static str, &'static str, String) {
    let (interface, package, world, function) = match kind {
        Kind::SweepStrategy => ("sla-profiler:sweep/strategy", "sla-profiler-sweep", "sweep-strategy", "next"),
        Kind::SelectionPolicy => {
            ("sla-profiler:selection/policy", "sla-profiler-selection", "selection-policy", "select")
        }
        Kind::PlannerModel => ("sla-profiler:planner/model", "sla-profiler-planner", "planner-model", "plan"),
    };
    let body = format!("(func (export \"{interface}@0.1.0#{function}\") (param i32) (result i32) (unreachable))");
    (interface, package, world, body)
}

#[test]
fn a_plugin_built_against_any_released_contract_loads() {
    let mut loaded = 0;
    for kind in Kind::ALL {
        let (interface, package, world, body) = of(kind);
        for folder in fs::read_dir(root().join("wit/deps")).unwrap() {
            let folder = folder.unwrap().file_name().into_string().unwrap();
            let (name, version) = folder.split_once('@').unwrap();
            if name != package {
                continue;
            }
            let contract =
                Contract::default().replacing(&format!("{interface}@0.1.0"), &format!("{interface}@{version}"));
            let inspection = host().inspect_bytes(&folder, &contract.component(world, &body)).unwrap();
            assert_eq!((inspection.identity.kind, inspection.contract_version.as_str()), (kind, version));
            loaded += 1;
        }
    }
    assert!(loaded >= 3);
}

/// A sweep strategy that was built against a contract of another version throughout.
fn built_against(version: &str) -> Vec<u8> {
    let (_, _, world, body) = of(Kind::SweepStrategy);
    Contract::default().replacing("@0.1.0", &format!("@{version}")).component(world, &body)
}

#[test]
fn a_contract_that_is_too_new_or_too_old_is_refused_with_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.wasm");
    for version in ["0.2.0", "1.0.0", "0.0.9"] {
        fs::write(&file, built_against(version)).unwrap();
        let mut check = sla_profiler(["plugin", "check"]);
        check.arg(&file);
        let said = run(check);
        assert_eq!(said.code, 4, "{version}: {}", said.err);
        let err = said.err.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(err.contains(&format!("version {version}")) && err.contains("0.1.0"), "{version}: {}", said.err);
    }
}

#[test]
fn a_patch_of_the_contract_changes_nothing_for_plugins() {
    let inspection = host().inspect_bytes("patched", &built_against("0.1.7")).unwrap();
    assert_eq!(inspection.contract_version, "0.1.7");
}
