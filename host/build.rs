//! Embeds the plugins that `cargo xtask plugins` built. It only reads files: it starts no cargo, so that checking and
//! building the host never waits for another build, and works (with an empty table) before any plugin exists.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A folder with the plugins to embed, instead of the one in cargo's target folder.
const FOLDER_VARIABLE: &str = "SLA_PROFILER_PLUGINS";

fn main() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts")?);
    let folder = match env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()) {
        Some(folder) if Path::new(&folder).is_dir() => PathBuf::from(folder),
        Some(folder) => return Err(format!("{FOLDER_VARIABLE}: there is no folder {}", folder.display()).into()),
        None => {
            let folder = target_dir(&out_dir).join("plugins");
            // cargo takes a path that is missing for one that changed, and would build the host anew every time. Where
            // the folder cannot be made, that is all that happens.
            let _ = fs::create_dir_all(&folder);
            folder
        }
    };

    let mut table = String::from("&[\n");
    let mut instructions = format!("cargo::rerun-if-env-changed={FOLDER_VARIABLE}\n");
    writeln!(instructions, "cargo::rerun-if-changed={}", folder.display())?;
    for file in components(&folder)? {
        let name = file.file_stem().and_then(|stem| stem.to_str()).ok_or("a plugin's file name is not UTF-8")?;
        let path = file.to_str().ok_or("the path of the plugins is not UTF-8")?;
        writeln!(table, "    Bundled {{ name: {name:?}, wasm: include_bytes!({path:?}) }},")?;
        writeln!(instructions, "cargo::rerun-if-changed={path}")?;
    }
    table.push(']');
    fs::write(out_dir.join("bundled.rs"), table)?;
    io::stdout().write_all(instructions.as_bytes())?;
    Ok(())
}

/// The folder that cargo marked as its target folder, above `OUT_DIR`.
///
/// cargo tells build scripts no such path. Counting folders upwards would depend on the profile, on `--target` and on
/// cargo's version.
fn target_dir(out_dir: &Path) -> PathBuf {
    let marked = out_dir.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    // Absolute in both cases: include_bytes! counts from the generated file.
    marked.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), Path::to_owned)
}

/// The `.wasm` files of a folder in the order of their names; none when it is missing.
fn components(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    if folder.is_dir() {
        for entry in fs::read_dir(folder)? {
            let path = fs::canonicalize(entry?.path())?;
            if path.extension().is_some_and(|extension| extension == "wasm") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
