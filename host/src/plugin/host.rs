//! The registry: finds plugins, loads each once, and hands them out as the traits that phases know.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use schemars::JsonSchema;
use serde::Serialize;
use wasmtime::Engine;
use wasmtime::component::Linker;

use crate::spec::{PluginChoice, PluginSource};

use super::adapters::Wasm;
use super::api::{Identity, Kind, PlannerModel, SelectionPolicy, Setting, SweepStrategy};
use super::bindings::{planner::PlannerModelPre, selection::SelectionPolicyPre, sweep::SweepStrategyPre};
use super::bundled::{self, Bundled};
use super::compile::Compiler;
use super::error::{LoadProblem, Origin, Subject};
use super::grants::Grants;
use super::guest::GuestState;
use super::loader::{self, Loaded, Loader};
use super::store::{self, Entry, Store, StoreError};
use super::surface::Item;
use super::text;
use super::{Limits, PluginError, compile, engine};

/// How to set up a [`PluginHost`].
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Folder for compiled plugins; `None` compiles at every start.
    pub cache: Option<PathBuf>,
    /// What each call may use.
    pub limits: Limits,
    /// Where plugins that do not come with the program are compiled.
    pub compiler: Compiler,
    /// Folder of the plugins that the user added; `None`: there are none.
    pub store: Option<PathBuf>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            cache: compile::default_cache_dir(),
            limits: Limits::default(),
            compiler: Compiler::default(),
            store: store::default_store_dir(),
        }
    }
}

/// Loads and runs plugins. One for a whole run; plugins keep it alive as far as they need it.
pub struct PluginHost {
    engine: Engine,
    linker: Linker<GuestState>,
    limits: Limits,
    cache: Option<PathBuf>,
    compiler: Compiler,
    store: Option<Store>,
    /// By kind, digest and origin, so that one file is compiled once.
    loaded: Mutex<HashMap<(Kind, String, Origin), Arc<Loaded>>>,
}

/// A plugin that can be called, with the user's settings.
#[derive(Clone)]
pub struct Plugin {
    loaded: Arc<Loaded>,
    limits: Arc<Limits>,
    grants: Grants,
    settings: Vec<(String, String)>,
}

/// What a plugin is loaded for.
#[derive(Clone, Copy)]
struct How<'a> {
    wanted: Option<Kind>,
    limits: &'a Limits,
    /// The only digest that will do.
    pin: Option<&'a str>,
}

impl Plugin {
    /// Which plugin.
    pub fn identity(&self) -> &Identity {
        &self.loaded.identity
    }

    /// One sentence.
    pub fn summary(&self) -> &str {
        &self.loaded.summary
    }

    /// The settings that it understands.
    pub fn settings(&self) -> &[Setting] {
        &self.loaded.settings
    }
}

/// A bundled plugin, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Listed {
    /// Which plugin.
    #[serde(flatten)]
    pub identity: Identity,
    /// Whether it is what its kind is when the user says nothing.
    pub default: bool,
    /// One sentence.
    pub summary: String,
    /// The settings that it understands.
    pub settings: Vec<Setting>,
}

/// All about a plugin file.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Inspection {
    /// Which plugin.
    #[serde(flatten)]
    pub identity: Identity,
    /// One sentence.
    pub summary: String,
    /// The settings that it understands.
    pub settings: Vec<Setting>,
    /// The version of the contract that it was built against.
    pub contract_version: String,
    /// Interfaces that it asks for, with the functions among them; types ask for nothing and have none.
    pub imports: Vec<Interface>,
    /// Interfaces that it offers.
    pub exports: Vec<Interface>,
    /// Size of the file.
    pub file_bytes: u64,
    /// Compiling it, or loading what an earlier run compiled, took so long.
    pub compile_ms: f64,
    /// Whether an earlier run had compiled it.
    pub cached: bool,
}

/// An interface that a component imports or exports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Interface {
    /// With its version.
    pub name: String,
    /// Its functions.
    pub functions: Vec<String>,
}

impl From<&Item> for Interface {
    fn from(item: &Item) -> Self {
        Self { name: item.name.clone(), functions: item.abilities.clone() }
    }
}

/// What decides when the user says nothing.
pub fn default_choice(kind: Kind) -> PluginChoice {
    let name = match kind {
        Kind::SweepStrategy => "sweep-adaptive",
        Kind::SelectionPolicy => "select-throughput",
        Kind::PlannerModel => "planner-sla",
    };
    PluginChoice::new(PluginSource::Named(name.to_owned()))
}

impl PluginHost {
    /// Sets up the engine; loads nothing yet.
    ///
    /// # Errors
    /// When wasmtime does not run on this machine.
    pub fn new(options: HostOptions) -> Result<Self, PluginError> {
        let failed = |error: wasmtime::Error| {
            PluginError::new(Subject::new(None, Origin::Host), LoadProblem::Engine(format!("{error:#}")))
        };
        let engine = engine::new(&options.limits).map_err(failed)?;
        let linker = loader::linker(&engine).map_err(failed)?;
        let HostOptions { cache, limits, compiler, store } = options;
        let store = store.map(Store::new);
        Ok(Self { engine, linker, limits, cache, compiler, store, loaded: Mutex::default() })
    }

    /// Loads a plugin and checks the names of the user's settings.
    ///
    /// # Errors
    /// Whenever [`PluginError::is_load`] says so.
    pub fn load(&self, kind: Kind, choice: &PluginChoice) -> Result<Plugin, PluginError> {
        let limits = Arc::new(self.limits.with(&choice.limits));
        let how = How { wanted: Some(kind), limits: &limits, pin: choice.sha256.as_deref() };
        let mut grants = choice.grants.clone();
        let loaded = match &choice.source {
            PluginSource::Named(name) => match bundled::find(name) {
                Some(plugin) => self.load_bundled(how, plugin)?,
                None => {
                    let entry = self.added(kind, name)?;
                    let loaded = self.load_added(how, &entry)?;
                    if grants.is_empty() {
                        grants.extend(entry.grants);
                    }
                    loaded
                }
            },
            PluginSource::File(path) => self.load_file(how, path)?,
        };
        let failed = |problem| PluginError::new(loaded.subject.clone(), problem);
        let known = |name: &String| loaded.settings.iter().any(|setting| setting.name == *name);
        if let Some((name, _)) = choice.settings.iter().find(|(name, _)| !known(name)) {
            let known = loaded.settings.iter().map(|setting| setting.name.clone()).collect();
            return Err(failed(LoadProblem::UnknownSetting { name: name.clone(), known }));
        }
        let grants = match loaded.surface.files() {
            Some(import) if grants.is_empty() => {
                return Err(failed(LoadProblem::NotGranted { import: import.to_owned() }));
            }
            Some(_) => Grants::open(&grants).map_err(failed)?,
            None => {
                for (name, _) in &grants {
                    tracing::warn!(
                        plugin = loaded.identity.name,
                        grant = name,
                        "the plugin does not ask to read files"
                    );
                }
                Grants::default()
            }
        };
        Ok(Plugin { loaded, limits, grants, settings: choice.settings.clone() })
    }

    /// A sweep strategy.
    ///
    /// # Errors
    /// See [`Self::load`].
    pub fn sweep(&self, choice: &PluginChoice) -> Result<Box<dyn SweepStrategy>, PluginError> {
        let plugin = self.load(Kind::SweepStrategy, choice)?;
        Ok(Box::new(self.adapter(plugin, SweepStrategyPre::new)?))
    }

    /// A selection policy.
    ///
    /// # Errors
    /// See [`Self::load`].
    pub fn selection(&self, choice: &PluginChoice) -> Result<Box<dyn SelectionPolicy>, PluginError> {
        let plugin = self.load(Kind::SelectionPolicy, choice)?;
        Ok(Box::new(self.adapter(plugin, SelectionPolicyPre::new)?))
    }

    /// A planner model.
    ///
    /// # Errors
    /// See [`Self::load`].
    pub fn planner(&self, choice: &PluginChoice) -> Result<Box<dyn PlannerModel>, PluginError> {
        let plugin = self.load(Kind::PlannerModel, choice)?;
        Ok(Box::new(self.adapter(plugin, PlannerModelPre::new)?))
    }

    /// The plugins that came with this build.
    ///
    /// # Errors
    /// When the build carries none, or one cannot be loaded.
    pub fn bundled(&self) -> Result<Vec<Listed>, PluginError> {
        if bundled::all().is_empty() {
            return Err(PluginError::new(Subject::new(None, Origin::Host), LoadProblem::BundledMissing));
        }
        let list = |plugin: &'static Bundled| {
            let loaded = self.load_bundled(self.looking(), plugin)?;
            let default = default_choice(loaded.identity.kind).source == PluginSource::Named(plugin.name.to_owned());
            Ok(Listed {
                identity: loaded.identity.clone(),
                default,
                summary: loaded.summary.clone(),
                settings: loaded.settings.clone(),
            })
        };
        bundled::all().iter().map(list).collect()
    }

    /// All about a file, whatever kind of plugin it is.
    ///
    /// # Errors
    /// As when it is loaded to be used.
    pub fn inspect(&self, path: &Path) -> Result<Inspection, PluginError> {
        let loaded = self.load_file(self.looking(), path)?;
        Ok(Self::inspection(&loaded))
    }

    fn inspection(loaded: &Loaded) -> Inspection {
        let contract_version = loaded.surface.contract_version(loaded.identity.kind).unwrap_or_default().to_owned();
        Inspection {
            identity: loaded.identity.clone(),
            summary: loaded.summary.clone(),
            settings: loaded.settings.clone(),
            contract_version,
            imports: loaded.surface.imports.iter().map(Interface::from).collect(),
            exports: loaded.surface.exports.iter().map(Interface::from).collect(),
            file_bytes: loaded.bytes,
            compile_ms: loaded.compile.as_secs_f64() * 1e3,
            cached: loaded.cached,
        }
    }

    /// All about a plugin that is not a file yet. `elsewhere` says where it came from.
    ///
    /// # Errors
    /// As when it is loaded to be used.
    pub fn inspect_bytes(&self, elsewhere: &str, wasm: &[u8]) -> Result<Inspection, PluginError> {
        let loaded = self.load_once(self.looking(), Origin::Elsewhere(elsewhere.to_owned()), wasm)?;
        Ok(Self::inspection(&loaded))
    }

    /// The plugins that the user added.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn added_plugins(&self) -> Result<Vec<Entry>, PluginError> {
        let failed = |error: StoreError| PluginError::new(Subject::new(None, Origin::Host), LoadProblem::from(error));
        self.store.as_ref().map_or_else(|| Ok(Vec::new()), |store| store.entries().map_err(failed))
    }

    /// What a choice comes to, to pin it: nothing for a bundled plugin, which belongs to the program; else the SHA-256 in
    /// hex.
    ///
    /// # Errors
    /// If there is no such plugin, or its file cannot be read.
    pub fn digest(&self, kind: Kind, choice: &PluginChoice) -> Result<Option<String>, PluginError> {
        match &choice.source {
            PluginSource::Named(name) if bundled::find(name).is_some() => Ok(None),
            PluginSource::Named(name) => Ok(Some(self.added(kind, name)?.sha256)),
            PluginSource::File(path) => {
                let failed = |problem| PluginError::new(Subject::new(Some(kind), Origin::File(path.clone())), problem);
                Ok(Some(loader::sha256(&loader::read(path, &self.limits).map_err(failed)?)))
            }
        }
    }

    /// The added plugin of that name.
    fn added(&self, kind: Kind, name: &str) -> Result<Entry, PluginError> {
        let failed =
            |problem: LoadProblem| PluginError::new(Subject::new(Some(kind), Origin::Added(name.to_owned())), problem);
        let entries = self.store.as_ref().map_or_else(|| Ok(Vec::new()), Store::entries);
        let entries = entries.map_err(|error| failed(error.into()))?;
        if let Some(entry) = entries.iter().find(|entry| entry.name == name) {
            return Ok(entry.clone());
        }
        if bundled::all().is_empty() {
            return Err(failed(LoadProblem::BundledMissing));
        }
        let bundled = bundled::all().iter().map(|plugin| plugin.name.to_owned());
        let known = bundled.chain(entries.into_iter().map(|entry| entry.name)).collect();
        Err(failed(LoadProblem::UnknownName { known, name: name.to_owned() }))
    }

    fn load_added(&self, how: How<'_>, entry: &Entry) -> Result<Arc<Loaded>, PluginError> {
        let origin = Origin::Added(entry.name.clone());
        let failed = |problem| PluginError::new(Subject::new(how.wanted, origin.clone()), problem);
        let path = self.store.as_ref().map(|store| store.file(&entry.sha256)).unwrap_or_default();
        let wasm = loader::read(&path, &self.limits).map_err(failed)?;
        let found = loader::sha256(&wasm);
        if found != entry.sha256 {
            return Err(failed(LoadProblem::Changed { found, locked: entry.sha256.clone() }));
        }
        self.load_once(how, origin, &wasm)
    }

    /// To look at it, whatever it is.
    fn looking(&self) -> How<'_> {
        How { wanted: None, limits: &self.limits, pin: None }
    }

    fn load_file(&self, how: How<'_>, path: &Path) -> Result<Arc<Loaded>, PluginError> {
        let origin = Origin::File(path.to_owned());
        let bytes = loader::read(path, &self.limits)
            .map_err(|problem| PluginError::new(Subject::new(how.wanted, origin.clone()), problem))?;
        self.load_once(how, origin, &bytes)
    }

    fn load_bundled(&self, how: How<'_>, plugin: &'static Bundled) -> Result<Arc<Loaded>, PluginError> {
        let origin = Origin::Bundled(plugin.name.to_owned());
        self.load_once(how, origin, plugin.wasm)
    }

    fn load_once(&self, how: How<'_>, origin: Origin, wasm: &[u8]) -> Result<Arc<Loaded>, PluginError> {
        let How { wanted, limits, pin } = how;
        let lock = || self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let sha256 = loader::sha256(wasm);
        if let Some(pinned) = pin.filter(|pinned| *pinned != sha256) {
            let problem = LoadProblem::Pinned { found: sha256, pinned: pinned.to_owned() };
            return Err(PluginError::new(Subject::new(wanted, origin), problem));
        }
        let key = |kind| (kind, sha256.clone(), origin.clone());
        if let Some(found) = wanted.and_then(|kind| lock().get(&key(kind)).cloned()) {
            return Ok(found);
        }
        let loader = Loader {
            engine: &self.engine,
            linker: &self.linker,
            limits,
            cache: self.cache.as_deref(),
            compiler: &self.compiler,
        };
        let loaded = Arc::new(loader.load(wanted, origin.clone(), wasm, sha256.clone())?);
        lock().insert(key(loaded.identity.kind), Arc::clone(&loaded));
        Ok(loaded)
    }

    fn adapter<P>(
        &self,
        plugin: Plugin,
        pre: impl FnOnce(wasmtime::component::InstancePre<GuestState>) -> wasmtime::Result<P>,
    ) -> Result<Wasm<P>, PluginError> {
        let Plugin { loaded, limits, grants, settings } = plugin;
        // The trial call has been through the same checks.
        let pre = pre(loaded.pre.clone()).map_err(|error| {
            PluginError::new(loaded.subject.clone(), LoadProblem::Contract { reason: text::reason(&error) })
        })?;
        Ok(Wasm {
            engine: self.engine.clone(),
            limits,
            grants,
            identity: loaded.identity.clone(),
            subject: loaded.subject.clone(),
            settings,
            pre,
        })
    }
}
