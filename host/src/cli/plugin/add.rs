//! `sla-profiler plugin add`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::PluginCommandError;
use super::view::{SCHEMA_VERSION, write_json};
use crate::http::{self, Client};
use crate::plugin::api::Kind;
use crate::plugin::store::fetch::{FetchError, Location};
use crate::plugin::store::signature::{self, SignatureError, TrustedKeys};
use crate::plugin::store::{Entry, Store};
use crate::plugin::{HostOptions, Inspection, PluginHost};
use crate::spec::key_value;

/// Flags of `plugin add`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// A WebAssembly component: a path, or a URL that begins with https:// or oci://
    ///
    /// An image in a registry is named by its digest: oci://registry/repository@sha256:...
    #[arg(value_name = "PATH|URL")]
    pub source: String,
    /// The only content that will do
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<String>,
    /// Folder that it may read in every run, by the name under which it asks for it
    #[arg(long = "grant", value_name = "NAME=DIR", value_parser = key_value)]
    pub grants: Vec<(String, String)>,
    /// Its signature in minisign's form [default: the source with .minisig at its end]
    #[arg(long, value_name = "PATH|URL", help_heading = "Signature")]
    pub signature: Option<String>,
    /// A public key of minisign's, besides those in trusted-keys in the program's configuration folder
    #[arg(long = "trusted-key", value_name = "KEY", help_heading = "Signature")]
    pub trusted_keys: Vec<String>,
    /// Add it without a signature, though there are trusted keys
    #[arg(long, help_heading = "Signature", conflicts_with = "signature")]
    pub allow_unsigned: bool,
    /// Certificates (PEM) to trust besides the system's, for https
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Output<'a> {
    schema_version: u32,
    lock_file: PathBuf,
    added: &'a Entry,
    replaced: Option<Entry>,
}

impl Args {
    pub(super) fn run(self, options: &HostOptions, out: &mut dyn Write, json: bool) -> Result<(), PluginCommandError> {
        let store = Store::new(super::store_dir(options)?);
        let limit = options.limits.file_bytes;
        let client = Client::new(http::Options { ca_file: self.ca_file.clone(), ..http::Options::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

        let location: Location = self.source.parse()?;
        let wasm = runtime.block_on(location.fetch(&client, limit))?;
        if let Some(wanted) = &self.sha256 {
            check_digest(&location, wanted, &wasm)?;
        }
        let signed_by = match self.trusted_keys()? {
            keys if keys.is_empty() || self.allow_unsigned => None,
            keys => {
                let place = match &self.signature {
                    Some(place) => place.parse()?,
                    None => location.with_suffix(signature::SUFFIX).ok_or_else(|| {
                        let reason = "a registry keeps none beside an image".to_owned();
                        signed(&location, SignatureError::Missing { reason })
                    })?,
                };
                let found = runtime.block_on(place.fetch(&client, signature::MAX_BYTES));
                let text =
                    found.map_err(|error| signed(&location, SignatureError::Missing { reason: error.to_string() }))?;
                let text = String::from_utf8_lossy(&text);
                let key = keys.verify(&wasm, &text, &place.to_string()).map_err(|error| signed(&location, error))?;
                Some(key.to_owned())
            }
        };

        // As strict as a run: what it would refuse is not kept.
        let plugin = PluginHost::new(options.clone())?.inspect_bytes(&self.source, &wasm)?;
        let entry = self.entry(&location, plugin, signed_by)?;
        let replaced = store.add(entry.clone(), &wasm)?;
        if json {
            let schema_version = SCHEMA_VERSION;
            write_json(out, &Output { schema_version, lock_file: store.lock_path(), added: &entry, replaced })?;
        } else {
            write_added(out, &entry, replaced.as_ref())?;
        }
        Ok(())
    }

    /// Those of the configuration, and those of the flags.
    fn trusted_keys(&self) -> Result<TrustedKeys, PluginCommandError> {
        let file = signature::default_keys_file();
        let mut keys = file.map_or_else(|| Ok(TrustedKeys::default()), |path| TrustedKeys::read(&path))?;
        for key in &self.trusted_keys {
            keys.add(key, "--trusted-key")?;
        }
        Ok(keys)
    }

    fn entry(
        &self,
        location: &Location,
        plugin: Inspection,
        signed_by: Option<String>,
    ) -> Result<Entry, PluginCommandError> {
        let mut grants = BTreeMap::new();
        for (name, folder) in &self.grants {
            // A run may stand elsewhere.
            grants.insert(name.clone(), std::path::absolute(folder)?);
        }
        let source = match location {
            Location::File(path) => std::path::absolute(path)?.display().to_string(),
            Location::Https(url) => without_query(url),
            Location::Oci(reference) => reference.to_string(),
        };
        let asks = plugin.imports.into_iter().filter(|import| !import.functions.is_empty());
        Ok(Entry {
            name: plugin.identity.name,
            kind: plugin.identity.kind,
            version: plugin.identity.version,
            sha256: plugin.identity.sha256,
            contract_version: plugin.contract_version,
            imports: asks.map(|import| import.name).collect(),
            grants,
            source,
            signed_by,
        })
    }
}

/// Queries of signed URLs hold secrets.
fn without_query(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().to_owned()
}

fn signed(location: &Location, error: SignatureError) -> PluginCommandError {
    PluginCommandError::Unsigned { location: location.to_string(), error }
}

fn check_digest(location: &Location, wanted: &str, wasm: &[u8]) -> Result<(), PluginCommandError> {
    let found = crate::plugin::sha256(wasm);
    if wanted.strip_prefix("sha256:").unwrap_or(wanted).eq_ignore_ascii_case(&found) {
        return Ok(());
    }
    Err(PluginCommandError::Digest { location: location.to_string(), found, wanted: wanted.to_owned() })
}

fn write_added(out: &mut dyn Write, entry: &Entry, replaced: Option<&Entry>) -> std::io::Result<()> {
    let Entry { name, version, kind, sha256, .. } = entry;
    writeln!(out, "Added {name} {version}, {kind}, sha256 {sha256}")?;
    match replaced {
        Some(old) if old.sha256 == *sha256 => writeln!(out, "It was there already; what was said of it now holds.")?,
        Some(old) => writeln!(out, "It takes the place of {} {}, sha256 {}", old.name, old.version, old.sha256)?,
        None => {}
    }
    if let Some(key) = &entry.signed_by {
        writeln!(out, "Signed by {key}")?;
    }
    let asks_for_files = entry.imports.iter().any(|import| import.starts_with("sla-profiler:base/files"));
    match (asks_for_files, entry.grants.is_empty()) {
        (true, true) => {
            writeln!(out, "It reads files: grant it folders in the job, or add it again with --grant NAME=DIR")?
        }
        (false, false) => writeln!(out, "It does not ask to read files; its grants are of no use")?,
        _ => {}
    }
    writeln!(out, "\nUse it by its name: --{} {name}", flag(*kind))
}

const fn flag(kind: Kind) -> &'static str {
    match kind {
        Kind::SweepStrategy => "sweep",
        Kind::SelectionPolicy => "selection",
        Kind::PlannerModel => "planner",
    }
}

/// What a missing file of keys is called, for the error's hint.
pub(super) fn keys_file() -> String {
    signature::default_keys_file()
        .as_deref()
        .map_or_else(|| "trusted-keys".to_owned(), |path: &Path| path.display().to_string())
}

/// What to do about a source that cannot be had.
pub(super) fn hint(error: &FetchError) -> Option<String> {
    error.hint().map(str::to_owned)
}
