//! `sla-profiler plugin push`.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::PluginCommandError;
use super::view::{SCHEMA_VERSION, write_json};
use crate::http::{self, Client};
use crate::plugin::store::fetch::Location;
use crate::plugin::store::oci::{self, Reference};
use crate::plugin::{HostOptions, Inspection, PluginHost};

/// Flags of `plugin push`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// A WebAssembly component
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where to: oci://registry/repository, and :tag if it is not to be the plugin's version
    ///
    /// `user:password` for the registry is read from SLA_PROFILER_REGISTRY_LOGIN.
    #[arg(value_name = "REFERENCE")]
    pub reference: String,
    /// Certificates (PEM) to trust besides the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Output<'a> {
    schema_version: u32,
    reference: String,
    plugin: &'a Inspection,
}

impl Args {
    pub(super) fn run(self, options: &HostOptions, out: &mut dyn Write, json: bool) -> Result<(), PluginCommandError> {
        let reference: Reference = self.reference.parse().map_err(PluginCommandError::Push)?;
        let client = Client::new(http::Options { ca_file: self.ca_file, ..http::Options::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let file = Location::File(self.file);
        let wasm = runtime.block_on(file.fetch(&client, options.limits.file_bytes))?;
        // What nobody could run does not go to others.
        let plugin = PluginHost::new(options.clone())?.inspect_bytes(&file.to_string(), &wasm)?;
        let login = std::env::var(oci::LOGIN_VARIABLE).ok();
        let pushed = oci::push(&client, &reference, login.as_deref(), &plugin, &wasm);
        let reference = runtime.block_on(pushed).map_err(PluginCommandError::Push)?.to_string();
        match json {
            true => write_json(out, &Output { schema_version: SCHEMA_VERSION, reference, plugin: &plugin })?,
            false => {
                let identity = &plugin.identity;
                writeln!(out, "Pushed {} {}, {}", identity.name, identity.version, identity.kind)?;
                writeln!(out, "\nOthers add it with: sla-profiler plugin add {reference}")?;
            }
        }
        Ok(())
    }
}
