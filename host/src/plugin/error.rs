//! What can go wrong with a plugin. Every error names the plugin, what happened, and the limit where it is one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::api::{Identity, Kind};
use super::compile::CompileLimit;
use super::store::StoreError;
use super::{contract, text};

/// Something went wrong with a plugin: it could not be loaded ([`Problem::Load`]), or a call of it failed
/// ([`Problem::Call`]).
#[derive(Debug)]
pub struct PluginError {
    // Boxed: results that carry the error stay small.
    inner: Box<(Subject, Problem)>,
}

impl PluginError {
    pub(super) fn new(subject: Subject, problem: impl Into<Problem>) -> Self {
        Self { inner: Box::new((subject, problem.into())) }
    }

    /// Which plugin.
    pub fn subject(&self) -> &Subject {
        &self.inner.0
    }

    /// What happened.
    pub fn problem(&self) -> &Problem {
        &self.inner.1
    }

    /// The same, to keep.
    pub fn into_problem(self) -> Problem {
        self.inner.1
    }

    /// Whether the plugin could not be loaded (the user named the wrong file, or a broken one). Otherwise it was
    /// loaded and a decision failed, for which another plugin can stand in.
    pub fn is_load(&self) -> bool {
        matches!(self.problem(), Problem::Load(_) | Problem::Call { export: "describe", .. })
    }

    /// What to do about it, where that can be said.
    pub fn hint(&self) -> Option<String> {
        match self.problem() {
            Problem::Load(problem) => problem.hint(),
            Problem::Call { problem, .. } => problem.hint(),
        }
    }

    /// The last lines that the plugin logged before its call failed, oldest first.
    pub fn log(&self) -> &[String] {
        match self.problem() {
            Problem::Call { log, .. } => log,
            Problem::Load(_) => &[],
        }
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject(), self.problem())
    }
}

impl std::error::Error for PluginError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.problem() {
            Problem::Load(LoadProblem::Unreadable(error)) => Some(error),
            _ => None,
        }
    }
}

/// Which plugin an error is about, as far as it was known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What it was to do.
    pub kind: Option<Kind>,
    /// Where it came from.
    pub origin: Origin,
    /// What it says of itself: name and version.
    pub described: Option<(String, String)>,
    /// SHA-256 of the file in hex.
    pub sha256: Option<String>,
}

/// Where a plugin comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// This program, under that name.
    Bundled(String),
    /// A file.
    File(PathBuf),
    /// Added by the user, under that name.
    Added(String),
    /// A server, or wherever else it is being added from.
    Elsewhere(String),
    /// None yet: the host itself failed.
    Host,
}

impl Subject {
    pub(super) fn new(kind: Option<Kind>, origin: Origin) -> Self {
        Self { kind, origin, described: None, sha256: None }
    }

    pub(super) fn identified(mut self, identity: &Identity) -> Self {
        self.kind = Some(identity.kind);
        self.described = Some((identity.name.clone(), identity.version.clone()));
        self.sha256 = Some(identity.sha256.clone());
        self
    }

    /// The name that the plugin gives itself; before it is known, the name or path that the user gave.
    pub fn name(&self) -> String {
        match (&self.described, &self.origin) {
            (Some((name, _)), _) | (None, Origin::Bundled(name) | Origin::Added(name) | Origin::Elsewhere(name)) => {
                name.clone()
            }
            (None, Origin::File(path)) => path.display().to_string(),
            (None, Origin::Host) => "plugin host".to_owned(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin == Origin::Host {
            return f.write_str("plugin host");
        }
        f.write_str(self.kind.map_or("plugin", Kind::as_str))?;
        write!(f, " `{}`", self.name())?;
        if let Some((_, version)) = &self.described {
            write!(f, " {version}")?;
        }
        let digest = self.sha256.as_ref().map(|hex| format!("sha256 {}", hex.get(..12).unwrap_or(hex)));
        let path = match (&self.origin, &self.described) {
            (Origin::File(path), Some(_)) => Some(path.display().to_string()),
            _ => None,
        };
        match (path, digest) {
            (Some(path), Some(digest)) => write!(f, " ({path}, {digest})"),
            (Some(only), None) | (None, Some(only)) => write!(f, " ({only})"),
            (None, None) => Ok(()),
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Problem {
    /// The plugin could not be loaded.
    Load(LoadProblem),
    /// A call of a loaded plugin failed.
    Call {
        /// The exported function.
        export: &'static str,
        /// How.
        problem: CallProblem,
        /// The last lines that the plugin logged, oldest first; a Rust plugin's panic message is among them.
        log: Vec<String>,
    },
}

impl From<LoadProblem> for Problem {
    fn from(problem: LoadProblem) -> Self {
        Problem::Load(problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Load(problem) => problem.fmt(f),
            Problem::Call { export, problem, log } => {
                write!(f, "`{export}` {problem}")?;
                // What the plugin said last explains a trap, and nothing else.
                match (problem, log.last()) {
                    (CallProblem::Trap { .. }, Some(last)) => write!(f, "; its last log line: {last}"),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// The ways in which a file can be wrong, told apart before anything is compiled, except for the last few.
#[derive(Debug, thiserror::Error)]
pub enum LoadProblem {
    /// There is no such file.
    #[error("no such file")]
    NotFound,
    /// There is something, but it cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] std::io::Error),
    /// A folder, a pipe, a device.
    #[error("is not a regular file")]
    NotAFile,
    /// Larger than [`super::Limits::file_bytes`].
    #[error("is {bytes} bytes long; the limit `file_bytes` is {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Declares more than [`super::Limits::declared_bytes`].
    #[error("declares types, imports and exports on more than {limit} bytes, the limit `declared_bytes`")]
    DeclaresTooMuch {
        /// The limit.
        limit: usize,
    },
    /// Nothing in it.
    #[error("is empty")]
    Empty,
    /// No WebAssembly.
    #[error("is not WebAssembly")]
    NotWasm,
    /// Machine code that wasmtime made; running it would mean to trust it like this program.
    #[error("is precompiled machine code (`.cwasm`), which cannot be sandboxed")]
    Precompiled,
    /// WebAssembly, but without the component wrapper.
    #[error("is a core WebAssembly module, not a component")]
    CoreModule,
    /// A component that breaks the format's rules.
    #[error("is a malformed WebAssembly component: {0}")]
    Malformed(String),
    /// A plugin, of another kind.
    #[error("is a {found}, but a {wanted} is needed here")]
    WrongKind {
        /// What it is.
        found: Kind,
        /// What was wanted.
        wanted: Kind,
    },
    /// A plugin of another version of the contract.
    #[error(
        "was built against version {plugin} of the contract (it exports `{interface}@{plugin}`); this program speaks {}",
        contract::VERSION
    )]
    WrongVersion {
        /// The interface.
        interface: String,
        /// The plugin's version of it.
        plugin: String,
    },
    /// A component, but no plugin of this program.
    #[error("exports none of this program's interfaces ({})", exported(.exports))]
    NotAPlugin {
        /// What it exports.
        exports: Vec<String>,
    },
    /// One of the two interfaces of a plugin is not there.
    #[error("does not export `{interface}@{}`", contract::VERSION)]
    Incomplete {
        /// The missing one.
        interface: &'static str,
    },
    /// It asks for what no plugin is given; all of it.
    #[error("asks for {} that no plugin is given: {}", counted(.0.len()), text::list(.0, 40))]
    RefusedImports(Vec<String>),
    /// The compiler does not take it.
    #[error("cannot be compiled: {0}")]
    Compile(String),
    /// Compiling it takes too much.
    #[error(transparent)]
    CompileLimit(CompileLimit),
    /// The process that compiles plugins failed, for a reason that is not the plugin's.
    #[error("cannot be compiled: the compiler ({}) {reason}", .program.display())]
    Compiler {
        /// What was run.
        program: PathBuf,
        /// What happened to it.
        reason: String,
    },
    /// The right names with the wrong types behind them.
    #[error("does not keep to version {} of the contract: {reason}", contract::VERSION)]
    Contract {
        /// What is different.
        reason: String,
    },
    /// What it says of itself makes no sense.
    #[error("describes itself badly: {0}")]
    Description(String),
    /// It is another file than the one that was pinned.
    #[error("has the SHA-256 {found}, but {pinned} is pinned")]
    Pinned {
        /// Of the file.
        found: String,
        /// In the job or the lock file.
        pinned: String,
    },
    /// The store of added plugins cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An added plugin's file is not the one that was added.
    #[error("is not the file that was added: it has the SHA-256 {found}, the lock file has {locked}")]
    Changed {
        /// Of the file.
        found: String,
        /// In the lock file.
        locked: String,
    },
    /// It asks to read files, and the user granted no folder.
    #[error("asks to read files (`{import}`), but no folder is granted to it")]
    NotGranted {
        /// The import.
        import: String,
    },
    /// A granted folder cannot be opened.
    #[error("is granted `{name}`, but {} cannot be read: {source}", .path.display())]
    Grant {
        /// The name.
        name: String,
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The user gave a setting that the plugin does not have.
    #[error("has no setting `{name}`; {}", settings(.known))]
    UnknownSetting {
        /// As given.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// No plugin that is bundled or was added has that name.
    #[error("no plugin has this name; there are {}", text::list(.known, 40))]
    UnknownName {
        /// Those that there are, bundled and added.
        known: Vec<String>,
        /// As given.
        name: String,
    },
    /// The program was built before its plugins.
    #[error("this build carries no plugins")]
    BundledMissing,
    /// wasmtime does not run here.
    #[error("cannot start: {0}")]
    Engine(String),
}

fn counted(interfaces: usize) -> String {
    if interfaces == 1 { "an import".to_owned() } else { format!("{interfaces} imports") }
}

fn exported(exports: &[String]) -> String {
    if exports.is_empty() { "it exports nothing".to_owned() } else { format!("it exports {}", text::list(exports, 10)) }
}

fn settings(known: &[String]) -> String {
    if known.is_empty() { "it takes none".to_owned() } else { format!("it takes {}", text::list(known, 40)) }
}

impl LoadProblem {
    /// See [`PluginError::hint`].
    fn hint(&self) -> Option<String> {
        let build = "build it with `sla-profiler plugin build`, or with `cargo build --target wasm32-unknown-unknown`";
        let hint = match self {
            Self::NotFound => {
                "a plugin is a name from `sla-profiler plugin list` or the path of a `.wasm` file; `sla-profiler plugin \
                 build DIR` makes one of a project"
                    .into()
            }
            Self::NotAFile => {
                "give a `.wasm` file; `sla-profiler plugin build DIR` makes one of a project: DIR/build/NAME.wasm".into()
            }
            Self::TooLarge { .. } => "strip it of debug information, or raise the limit".into(),
            Self::DeclaresTooMuch { .. } => "export only what the plugin's world has".into(),
            Self::Empty | Self::NotWasm => format!("give a WebAssembly component; {build}"),
            Self::Precompiled => "give the `.wasm` file that it was made of".into(),
            Self::CoreModule => {
                "set `linker = \"wasm-component-ld\"` for the target wasm32-unknown-unknown in the plugin's \
                                 `.cargo/config.toml` and build again, or wrap it with `wasm-tools component new`"
                    .into()
            }
            Self::Malformed(_) => "the file may have been cut short; build or download it again".into(),
            Self::WrongKind { found, .. } => format!("give it with `--{}`", flag(*found)),
            Self::WrongVersion { .. } | Self::Contract { .. } => {
                format!("build it with the SDK of this program's version ({})", contract::VERSION)
            }
            Self::NotAPlugin { .. } | Self::Incomplete { .. } => {
                "export one of the worlds of `wit/world.wit`; the guest SDK does that for you".into()
            }
            Self::RefusedImports(names) if names.iter().any(|name| name.starts_with("wasi:")) => format!(
                "plugins have no files, clock or network. Rust: {build}, not for a wasi target. Python and JavaScript: \
                 add `--stub-wasi`"
            ),
            Self::RefusedImports(_) => {
                let [log, files] = contract::IMPORTS.map(|(interface, _)| interface);
                format!("a plugin may import `{log}@{0}` and `{files}@{0}`", contract::VERSION)
            }
            Self::Pinned { .. } => {
                "if the new file is the one that you want, put its digest (`sla-profiler plugin inspect` shows it) into the \
                 job file; otherwise bring the old one back"
                    .into()
            }
            Self::Changed { .. } => "add it again: `sla-profiler plugin add`".into(),
            Self::Store(StoreError::LockFile { path, .. }) => {
                format!("repair {}, or remove it and add the plugins again", path.display())
            }
            Self::Store(StoreError::Reserved { .. }) => "give the plugin another name and build it again".into(),
            Self::Store(_) => return None,
            Self::NotGranted { .. } => {
                "grant it one: `--sweep-grant NAME=DIR`, `--selection-grant`, `--planner-grant`, or \
                 `grants: {NAME: DIR}` in the job file; its own documentation says which names it asks for"
                    .into()
            }
            Self::Grant { .. } => "a grant is NAME=DIR, a folder that you can read".into(),
            Self::UnknownSetting { name, known } => {
                let near = text::nearest(name, known.iter().map(String::as_str))?;
                format!("did you mean `{near}`?")
            }
            // Also a project's folder: the next error then says how to build it.
            Self::UnknownName { name, .. } if Path::new(name).exists() => {
                "to give what lies in this folder, write `./` before its name".into()
            }
            Self::UnknownName { name, known } => {
                let near = text::nearest(name, known.iter().map(String::as_str))?;
                format!("did you mean `{near}`?")
            }
            Self::BundledMissing => "run `cargo xtask plugins` and build again".into(),
            Self::CompileLimit(_) => {
                "split the plugin's largest function, or build it without what it does not need".into()
            }
            Self::Compiler { .. }
            | Self::Unreadable(_)
            | Self::Compile(_)
            | Self::Description(_)
            | Self::Engine(_) => {
                return None;
            }
        };
        Some(hint)
    }
}

/// The flag that names a plugin of the kind.
const fn flag(kind: Kind) -> &'static str {
    match kind {
        Kind::SweepStrategy => "sweep",
        Kind::SelectionPolicy => "selection",
        Kind::PlannerModel => "planner",
    }
}

/// The ways in which a call can fail.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CallProblem {
    /// Too much work.
    #[error("used up its fuel (limit `fuel`: {limit} instructions)")]
    OutOfFuel {
        /// [`super::Limits::fuel`]
        limit: u64,
    },
    /// Too slow.
    #[error("was not done in time (limit `deadline_ms`: {} ms)", .limit.as_millis())]
    Deadline {
        /// [`super::Limits::deadline_ms`]
        limit: Duration,
    },
    /// Too much memory.
    #[error("asked for {asked} bytes of memory and ended when it did not get them (limit `memory_bytes`: {limit})")]
    Memory {
        /// How much in all.
        asked: usize,
        /// [`super::Limits::memory_bytes`]
        limit: usize,
    },
    /// Too large tables.
    #[error("asked for {asked} table elements and ended when it did not get them (limit `table_elements`: {limit})")]
    Table {
        /// How many in all.
        asked: usize,
        /// [`super::Limits::table_elements`]
        limit: usize,
    },
    /// Too many instances, tables or memories.
    #[error(
        "is made of too many parts: {reason} (limits `instances`: {instances}, `tables`: {tables}, `memories`: {memories})"
    )]
    Parts {
        /// wasmtime's words.
        reason: String,
        /// [`super::Limits::instances`]
        instances: usize,
        /// [`super::Limits::tables`]
        tables: usize,
        /// [`super::Limits::memories`]
        memories: usize,
    },
    /// Too much to copy.
    #[error("returned more data than the host takes (limit `returned_bytes`: {limit})")]
    TooMuchData {
        /// [`super::Limits::returned_bytes`]
        limit: usize,
    },
    /// Too deep.
    #[error("called itself too deeply (limit `stack_bytes`: {limit})")]
    Stack {
        /// [`super::Limits::stack_bytes`]
        limit: usize,
    },
    /// It stopped in a way that WebAssembly does not recover from; a panic ends so.
    #[error("crashed: {message}")]
    Trap {
        /// wasmtime's words.
        message: String,
    },
    /// It returned an error of its own.
    #[error("said: {0}")]
    Returned(#[from] Returned),
    /// Its answer breaks the contract.
    #[error("gave an answer that cannot be used: {0}")]
    BadOutput(String),
}

impl CallProblem {
    /// See [`PluginError::hint`].
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::OutOfFuel { .. }
            | Self::Deadline { .. }
            | Self::Memory { .. }
            | Self::Table { .. }
            | Self::Parts { .. }
            | Self::TooMuchData { .. }
            | Self::Stack { .. } => {
                "raise the limit if the job is that large; otherwise the plugin has an error, and its author should hear of it"
            }
            Self::Trap { .. } | Self::BadOutput(_) => "the plugin has an error, and its author should hear of it",
            Self::Returned(Returned::BadSetting(_)) => "`sla-profiler plugin inspect FILE` shows a plugin's settings",
            Self::Returned(Returned::Unsupported(_)) => {
                "choose another plugin; `sla-profiler plugin list` names those at hand"
            }
            Self::Returned(Returned::Other(_)) => return None,
        };
        Some(hint.to_owned())
    }
}

/// A plugin's own error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Returned {
    /// The user gave a setting that makes no sense.
    #[error("bad setting: {0}")]
    BadSetting(String),
    /// It has no answer for such a job.
    #[error("no answer for such a job: {0}")]
    Unsupported(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            kind: Some(Kind::SelectionPolicy),
            origin: Origin::File("my/policy.wasm".into()),
            described: Some(("my-policy".into(), "0.3.1".into())),
            sha256: Some("0123456789abcdef".repeat(4)),
        }
    }

    #[test]
    fn a_failed_call_names_plugin_version_digest_export_and_limit() {
        let problem = Problem::Call { export: "select", problem: CallProblem::OutOfFuel { limit: 77 }, log: vec![] };
        let error = PluginError::new(subject(), problem);
        assert_eq!(
            error.to_string(),
            "selection policy `my-policy` 0.3.1 (my/policy.wasm, sha256 0123456789ab): `select` used up its fuel (limit \
             `fuel`: 77 instructions)"
        );
        assert!(!error.is_load());
    }

    #[test]
    fn a_trap_shows_the_panic_message_that_came_through_the_log() {
        let problem = Problem::Call {
            export: "select",
            problem: CallProblem::Trap { message: "unreachable".into() },
            log: vec!["ranking".into(), "panicked at lib.rs:3: index out of bounds".into()],
        };
        let text = PluginError::new(subject(), problem).to_string();
        assert!(
            text.ends_with("crashed: unreachable; its last log line: panicked at lib.rs:3: index out of bounds"),
            "{text}"
        );
    }

    #[test]
    fn all_refused_imports_stand_in_one_message() {
        let problem =
            LoadProblem::RefusedImports(vec!["wasi:io/streams@0.2.6".into(), "wasi:clocks/wall-clock@0.2.6".into()]);
        let error = PluginError::new(Subject::new(None, Origin::File("a.wasm".into())), problem);
        assert_eq!(
            error.to_string(),
            "plugin `a.wasm`: asks for 2 imports that no plugin is given: wasi:io/streams@0.2.6, wasi:clocks/wall-clock@0.2.6"
        );
        assert!(error.hint().expect("there is a way out").contains("--stub-wasi"));
        assert!(error.is_load());
    }

    #[test]
    fn a_describe_that_fails_is_a_problem_of_loading() {
        let problem = Problem::Call { export: "describe", problem: CallProblem::Stack { limit: 1 }, log: vec![] };
        assert!(PluginError::new(subject(), problem).is_load());
    }

    #[test]
    fn unknown_names_and_settings_suggest_the_near_one() {
        let setting = LoadProblem::UnknownSetting { name: "max-round".into(), known: vec!["max-rounds".into()] };
        assert_eq!(setting.hint().as_deref(), Some("did you mean `max-rounds`?"));
        let known = vec!["sweep-grid".into(), "planner-sla".into()];
        let name = LoadProblem::UnknownName { name: "sweep-grids".into(), known };
        assert_eq!(name.hint().as_deref(), Some("did you mean `sweep-grid`?"));
    }
}
