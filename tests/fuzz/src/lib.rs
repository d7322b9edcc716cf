//! Fuzz targets. Each is one small file in `targets/`, listed in [`ALL`]; `cargo xtask fuzz` runs them.
//!
//! A target panics where an input breaks what the target states; everything else is fine. `main.rs` hands the inputs
//! over, which libFuzzer makes: those that reach new code of this workspace, or that [`signal::outcome`] tells apart,
//! are kept and changed further.

#![allow(clippy::expect_used, clippy::panic, reason = "a failure is what a fuzz target reports")]

pub mod signal;
mod targets;

use std::fs;
use std::io;
use std::path::Path;

pub use targets::ALL;

/// Something that takes bytes from outside.
pub struct Target {
    /// In lower case, with dashes.
    pub name: &'static str,
    /// What it feeds with the bytes, and what must hold; one sentence.
    pub about: &'static str,
    /// Inputs to start from: small, and as different from each other as can be. No input gets longer than the longest, or 4 KiB. Files in `crashes/NAME/` join them.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Runs one input. Panics where it finds a fault.
    pub run: fn(&[u8]),
}

/// The target of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    ALL.iter().copied().find(|target| target.name == name)
}

impl Target {
    /// Writes what the fuzzer starts from into a folder: the seeds, and inputs that failed once.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write_seeds(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        for (number, seed) in (self.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:03}")), seed)?;
        }
        let failed_once = Path::new(env!("CARGO_MANIFEST_DIR")).join("crashes").join(self.name);
        if failed_once.is_dir() {
            for entry in fs::read_dir(failed_once)? {
                let entry = entry?;
                fs::copy(entry.path(), folder.join(entry.file_name()))?;
            }
        }
        Ok(())
    }
}
