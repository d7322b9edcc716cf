//! Embeds what `plugin new` writes: the templates, the contract and the guest SDK. It only reads files.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Name of a tree in the table, and its folder from here.
const TREES: [(&str, &str); 3] = [("template", "../template"), ("wit", "../../wit"), ("sdk", "../sdk/src")];

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts")?);
    let mut table = String::from("&[\n");
    let mut instructions = String::new();
    for (name, folder) in TREES {
        let folder = here.join(folder);
        writeln!(instructions, "cargo::rerun-if-changed={}", folder.display())?;
        add(name, &folder, &mut table)?;
    }
    table.push(']');
    fs::write(out_dir.join("files.rs"), table)?;
    io::stdout().write_all(instructions.as_bytes())?;
    Ok(())
}

/// The files under `folder` in the order of their names.
fn add(name: &str, folder: &Path, table: &mut String) -> Result<(), Box<dyn Error>> {
    let mut entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        let file = path.file_name().and_then(|file| file.to_str()).ok_or("a template's name is not UTF-8")?;
        let name = format!("{name}/{file}");
        if path.is_dir() {
            // What running a template in place leaves behind.
            if file != "__pycache__" {
                add(&name, &path, table)?;
            }
        } else {
            let path = path.to_str().ok_or("a template's path is not UTF-8")?;
            writeln!(table, "    ({name:?}, include_bytes!({path:?})),")?;
        }
    }
    Ok(())
}
