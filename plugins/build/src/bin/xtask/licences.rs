//! The licences and sources of all dependencies, checked against deny.toml without a network.
//!
//! deny.toml is cargo-deny's own file, and `cargo deny check` does more: advisories (which need the RustSec database),
//! licence texts, duplicates. This covers what a machine without network and without that program can know.

use std::collections::BTreeSet;
use std::fs;

use sla_profiler_plugin_build::process;

use crate::workspace::Workspace;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Returns how many packages were checked, or what is wrong with each that fails.
pub fn check(workspace: &Workspace) -> Result<usize, String> {
    let read = |name: &str| {
        fs::read_to_string(workspace.root.join(name)).map_err(|error| format!("could not read {name}: {error}"))
    };
    let allowed = allowed(&read("deny.toml")?)?;
    let mut problems = foreign_sources(&read("Cargo.lock")?);

    let mut tree = workspace.cargo();
    // Dependencies of this platform only: those of others need not be on this machine.
    tree.args(["tree", "--offline", "--workspace", "--edges", "normal,build,dev", "--prefix", "none"]);
    tree.args(["--features", crate::fuzz::FEATURE, "--format", "{p}|{l}"]);
    let tree = process::output(&mut tree).map_err(|error| format!("{error}\nbuild the workspace or `cargo fetch`"))?;
    let packages = packages(&tree);
    for (package, licence) in &packages {
        match satisfied(licence, &allowed) {
            Ok(true) => {}
            Ok(false) => problems.push(format!("{package}: `{licence}` is not allowed by deny.toml")),
            Err(reason) => problems.push(format!("{package}: {reason}")),
        }
    }
    if problems.is_empty() { Ok(packages.len()) } else { Err(problems.join("\n")) }
}

/// Packages with their licence expressions, from `cargo tree --format "{p}|{l}"`.
fn packages(tree: &str) -> BTreeSet<(&str, &str)> {
    let lines = tree.lines().filter_map(|line| line.rsplit_once('|'));
    // " (*)": its dependencies stand elsewhere in the tree. " (path)", " (proc-macro)": not part of the name.
    let name = |package: &'_ str| package.find(" (").unwrap_or(package.len());
    lines
        .map(|(package, licence)| {
            let licence = licence.strip_suffix(" (*)").unwrap_or(licence);
            (package.get(..name(package)).unwrap_or(package), licence.trim())
        })
        .collect()
}

/// Dependencies that do not come from crates.io.
fn foreign_sources(lock: &str) -> Vec<String> {
    let sources = lock.lines().filter_map(|line| line.strip_prefix("source = "));
    let foreign: BTreeSet<&str> = sources.map(|source| source.trim_matches('"')).filter(|s| *s != CRATES_IO).collect();
    foreign.into_iter().map(|source| format!("Cargo.lock: `{source}` is not crates.io")).collect()
}

/// The list `allow` in the section `[licenses]` of deny.toml.
fn allowed(deny: &str) -> Result<BTreeSet<String>, String> {
    // No string in that file holds a `#`, so that a comment can be cut off without a TOML parser.
    let mut lines = deny.lines().map(|line| line.split_once('#').map_or(line, |(code, _)| code).trim());
    lines.by_ref().find(|line| *line == "[licenses]").ok_or("deny.toml has no section [licenses]")?;
    let section: Vec<&str> = lines.take_while(|line| !line.starts_with('[')).collect();
    let section = section.join(" ");
    let list = section.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = list.ok_or("deny.toml has no list `allow` in [licenses]")?;
    Ok(list.split('"').skip(1).step_by(2).map(str::to_owned).collect())
}

/// Whether a choice of the licences in an SPDX expression is in `allowed`.
///
/// `/` is what crates.io used for OR before SPDX.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> Result<bool, String> {
    if expression.is_empty() {
        return Err("no licence is declared".to_owned());
    }
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { tokens: &tokens, allowed };
    match (reader.any_of(), reader.tokens) {
        (Some(satisfied), []) => Ok(satisfied),
        _ => Err(format!("`{expression}` is not a licence expression")),
    }
}

/// Reads an expression from left to right; `None` where it is malformed.
struct Reader<'a> {
    tokens: &'a [&'a str],
    allowed: &'a BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn any_of(&mut self) -> Option<bool> {
        let mut satisfied = self.all_of()?;
        while self.take("OR") {
            satisfied |= self.all_of()?;
        }
        Some(satisfied)
    }

    fn all_of(&mut self) -> Option<bool> {
        let mut satisfied = self.licence()?;
        while self.take("AND") {
            satisfied &= self.licence()?;
        }
        Some(satisfied)
    }

    fn licence(&mut self) -> Option<bool> {
        if self.take("(") {
            let satisfied = self.any_of()?;
            return self.take(")").then_some(satisfied);
        }
        let name = self.next_name()?;
        // As cargo-deny has it, a licence with an exception is one of its own.
        if self.take("WITH") {
            let exception = self.next_name()?;
            return Some(self.allowed.contains(&format!("{name} WITH {exception}")));
        }
        Some(self.allowed.contains(name))
    }

    fn next_name(&mut self) -> Option<&'a str> {
        let (name, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        (!matches!(*name, "OR" | "AND" | "WITH" | "(" | ")")).then_some(*name)
    }

    fn take(&mut self, token: &str) -> bool {
        match self.tokens.split_first() {
            Some((first, rest)) if *first == token => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_alternative_needs_one_allowed_licence_and_a_sum_all() {
        let mit = allow(&["MIT"]);
        assert_eq!(satisfied("MIT", &mit), Ok(true));
        assert_eq!(satisfied("GPL-3.0-only", &mit), Ok(false));
        assert_eq!(satisfied("GPL-3.0-only OR MIT", &mit), Ok(true));
        assert_eq!(satisfied("Apache-2.0/MIT", &mit), Ok(true));
        assert_eq!(satisfied("MIT AND Unicode-3.0", &mit), Ok(false));
        assert_eq!(satisfied("(GPL-3.0-only OR MIT) AND Unicode-3.0", &allow(&["MIT", "Unicode-3.0"])), Ok(true));
    }

    #[test]
    fn and_binds_tighter_than_or() {
        assert_eq!(satisfied("MIT OR Zlib AND ISC", &allow(&["MIT"])), Ok(true));
        assert_eq!(satisfied("MIT AND Zlib OR ISC", &allow(&["MIT"])), Ok(false));
    }

    #[test]
    fn an_exception_belongs_to_its_licence() {
        let expression = "Apache-2.0 WITH LLVM-exception";
        assert_eq!(satisfied(expression, &allow(&[expression])), Ok(true));
        assert_eq!(satisfied(expression, &allow(&["Apache-2.0"])), Ok(false));
        assert_eq!(satisfied("Apache-2.0", &allow(&[expression])), Ok(false));
        assert_eq!(satisfied(expression, &allow(&["MIT", "LLVM-exception"])), Ok(false));
    }

    #[test]
    fn a_malformed_or_missing_licence_is_an_error() {
        for expression in ["", "MIT OR", "(MIT", "MIT)", "MIT Zlib", "AND MIT", "MIT WITH", "()"] {
            assert!(satisfied(expression, &allow(&["MIT"])).is_err(), "{expression}");
        }
    }

    #[test]
    fn the_allow_list_is_read_from_its_own_section_only() {
        let deny = "[bans]\nallow = [\"no\"]\n\n[licenses]\n# allow = [\"no\"]\nconfidence-threshold = 0.9\nallow = [\n    \
                    \"MIT\", # why\n    \"Apache-2.0 WITH LLVM-exception\",\n]\n[sources]\nallow = [\"no\"]\n";
        assert_eq!(allowed(deny), Ok(allow(&["MIT", "Apache-2.0 WITH LLVM-exception"])));
        assert!(allowed("[bans]\n").unwrap_err().contains("[licenses]"));
        assert!(allowed("[licenses]\n[bans]\nallow = []\n").unwrap_err().contains("`allow`"));
    }

    #[test]
    fn packages_of_a_tree_are_counted_once() {
        let tree = "a v1.0.0 (/some/path)|Apache-2.0\nb v2.0.0 (proc-macro)|MIT/Apache-2.0\n\nb v2.0.0 (proc-macro)\
                    |MIT/Apache-2.0 (*)\nc v0.1.0|\n";
        let expected = [("a v1.0.0", "Apache-2.0"), ("b v2.0.0", "MIT/Apache-2.0"), ("c v0.1.0", "")];
        assert_eq!(packages(tree).into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_dependency_from_elsewhere_is_named_once() {
        let git = "source = \"git+https://example.org/x#1\"\n";
        let lock = format!("source = \"{CRATES_IO}\"\n{git}{git}");
        assert_eq!(foreign_sources(&lock), ["Cargo.lock: `git+https://example.org/x#1` is not crates.io"]);
    }
}
