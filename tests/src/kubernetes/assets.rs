//! Where the servers' programs lie.

use std::path::PathBuf;

/// `KUBEBUILDER_ASSETS` where it is given, else what `cargo xtask kubernetes-assets` built.
pub fn folder() -> PathBuf {
    match std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) {
        Some(folder) => folder.into(),
        // The program lies in <target>/<profile>.
        None => crate::program().ancestors().nth(2).expect("a target folder").join("kubernetes-assets"),
    }
}

/// One program.
///
/// # Panics
/// When it is missing, with the ways to get it.
pub fn program(name: &str) -> PathBuf {
    let path = folder().join(name);
    assert!(
        path.is_file(),
        "{} is missing: build it with `cargo xtask kubernetes-assets`, name a folder that has it in KUBEBUILDER_ASSETS, or \
         leave these tests out with `cargo xtask test --without-kubernetes`",
        path.display()
    );
    path
}

/// The YAML files of kwok that lie beside the programs; those whose name starts with `prefix`.
pub fn kwok_files(prefix: &str) -> Vec<PathBuf> {
    let folder = folder().join("kwok.d");
    let entries = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask kubernetes-assets`", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    files.sort();
    files
}
