//! From bytes to a plugin that can be called: look, compile, link, one trial call.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime::component::{HasSelf, InstancePre, Linker};
use wasmtime::{Engine, Store};

use super::api::{Identity, Kind, Setting};
use super::bindings::about::exports::sla_profiler::base::about;
use super::bindings::{about as described, files, log, planner, selection, sweep};
use super::compile::{self, Compiler};
use super::error::{LoadProblem, Origin, Subject};
use super::grants::Grants;
use super::guest::{Caller, GuestState};
use super::limits::Limits;
use super::surface::Surface;
use super::{PluginError, text};

/// Most settings of one plugin.
const MAX_SETTINGS: usize = 100;

/// A plugin that was compiled, linked and asked who it is.
pub(super) struct Loaded {
    pub identity: Identity,
    pub summary: String,
    pub settings: Vec<Setting>,
    pub subject: Subject,
    pub surface: Surface,
    pub pre: InstancePre<GuestState>,
    pub bytes: u64,
    pub cached: bool,
    pub compile: Duration,
}

/// What loading needs.
pub(super) struct Loader<'a> {
    pub engine: &'a Engine,
    pub linker: &'a Linker<GuestState>,
    pub limits: &'a Limits,
    pub cache: Option<&'a Path>,
    pub compiler: &'a Compiler,
}

/// All that a plugin can reach: the log, and the folders that its call is given.
///
/// # Errors
/// Never in practice: the names are ours.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    log::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut GuestState| state)?;
    files::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut GuestState| state)?;
    Ok(linker)
}

/// Reads a plugin file.
///
/// # Errors
/// Not there, not readable, not a file, too large.
pub(super) fn read(path: &Path, limits: &Limits) -> Result<Vec<u8>, LoadProblem> {
    let problem = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => LoadProblem::NotFound,
        _ => LoadProblem::Unreadable(error),
    };
    let too_large = |bytes| LoadProblem::TooLarge { bytes, limit: limits.file_bytes };
    // Asked before opening: to open a pipe would wait for its other end.
    let meta = fs::metadata(path).map_err(problem)?;
    if !meta.is_file() {
        return Err(LoadProblem::NotAFile);
    }
    if meta.len() > limits.file_bytes {
        return Err(too_large(meta.len()));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(problem)?;
    let read = file.take(limits.file_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(problem)?;
    match u64::try_from(read) {
        Ok(read) if read <= limits.file_bytes => Ok(bytes),
        _ => Err(too_large(meta.len())),
    }
}

/// SHA-256 in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

impl Loader<'_> {
    /// Loads a plugin of the wanted kind, or of whichever it is.
    ///
    /// # Errors
    /// Every [`LoadProblem`] about the file's content, and a failed trial call.
    pub(super) fn load(
        &self,
        wanted: Option<Kind>,
        origin: Origin,
        wasm: &[u8],
        sha256: String,
    ) -> Result<Loaded, PluginError> {
        let bundled = matches!(origin, Origin::Bundled(_));
        let mut subject = Subject::new(wanted, origin);
        subject.sha256 = Some(sha256.clone());
        let failed = |problem: LoadProblem| PluginError::new(subject.clone(), problem);

        let surface = Surface::read(wasm, self.limits.declared_bytes).map_err(failed)?;
        let kind = surface.check(wanted).map_err(failed)?;
        // What comes with the program is as trusted as the program.
        let compiler = if bundled { &Compiler::Here } else { self.compiler };
        let setup = compile::Setup { engine: self.engine, limits: self.limits, cache: self.cache, compiler };
        let compiled = setup.component(wasm, &sha256).map_err(failed)?;
        let contract = |error: wasmtime::Error| failed(LoadProblem::Contract { reason: text::reason(&error) });
        let pre = self.linker.instantiate_pre(&compiled.component).map_err(contract)?;
        let about = self.describe(kind, &subject, &pre)?;
        let (about, settings) = check_description(about).map_err(|why| failed(LoadProblem::Description(why)))?;

        let identity = Identity { kind, name: about.name, version: about.version, sha256, bundled };
        Ok(Loaded {
            summary: about.summary,
            settings,
            subject: subject.identified(&identity),
            identity,
            surface,
            pre,
            bytes: u64::try_from(wasm.len()).unwrap_or(u64::MAX),
            cached: compiled.cached,
            compile: compiled.elapsed,
        })
    }

    /// The trial call. It also finds exports that have the right names and the wrong types.
    fn describe(
        &self,
        kind: Kind,
        subject: &Subject,
        pre: &InstancePre<GuestState>,
    ) -> Result<about::Description, PluginError> {
        let caller = Caller {
            engine: self.engine,
            limits: self.limits,
            grants: &Grants::default(),
            deadline: self.limits.describe_deadline(),
            subject,
            export: "describe",
        };
        let (answer, _) = caller.call(|store| {
            let instance = pre.instantiate(&mut *store)?;
            let about = described::Described::new(&mut *store, &instance)
                .and_then(|about| exports_kind(kind, store, &instance).map(|()| about));
            match about {
                Ok(about) => Ok(Ok(about.sla_profiler_base_about().call_describe(store)?)),
                Err(error) => Ok(Err(text::reason(&error))),
            }
        })?;
        answer.map_err(|reason| PluginError::new(subject.clone(), LoadProblem::Contract { reason }))
    }
}

/// The instance's functions have the types of the kind's world.
fn exports_kind(
    kind: Kind,
    store: &mut Store<GuestState>,
    instance: &wasmtime::component::Instance,
) -> wasmtime::Result<()> {
    match kind {
        Kind::SweepStrategy => sweep::SweepStrategy::new(store, instance).map(drop),
        Kind::SelectionPolicy => selection::SelectionPolicy::new(store, instance).map(drop),
        Kind::PlannerModel => planner::PlannerModel::new(store, instance).map(drop),
    }
}

fn check_description(about: about::Description) -> Result<(about::Description, Vec<Setting>), String> {
    let is_word = |word: &str| {
        (1..=64).contains(&word.len())
            && word.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !word.starts_with('-')
    };
    if !is_word(&about.name) {
        return Err(format!(
            "the name `{}` is not made of lower case letters, digits and dashes",
            text::one_line(&about.name, 64)
        ));
    }
    let version = text::one_line(&about.version, 40);
    if version.is_empty() || version != about.version {
        return Err(format!("the version `{version}` is empty, or too long, or not one line"));
    }
    if about.settings.len() > MAX_SETTINGS {
        return Err(format!("{} settings; at most {MAX_SETTINGS} are allowed", about.settings.len()));
    }
    let mut names = HashSet::new();
    let mut settings = Vec::new();
    for setting in &about.settings {
        let name = &setting.name;
        if !is_word(name) {
            let name = text::one_line(name, 64);
            return Err(format!("the setting `{name}` is not made of lower case letters, digits and dashes"));
        }
        if !names.insert(name) {
            return Err(format!("the setting `{name}` comes twice"));
        }
        settings.push(Setting {
            name: name.clone(),
            default: text::one_line(&setting.default, 200),
            help: text::one_line(&setting.help, 400),
        });
    }
    let summary = text::one_line(&about.summary, 400);
    Ok((about::Description { summary, ..about }, settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(name: &str, version: &str, settings: &[&str]) -> about::Description {
        about::Description {
            name: name.into(),
            version: version.into(),
            summary: "Sums\nup.".into(),
            settings: settings
                .iter()
                .map(|name| about::Setting { name: (*name).into(), default: "1".into(), help: "Helps.".into() })
                .collect(),
        }
    }

    #[test]
    fn a_description_that_could_not_be_typed_or_shown_is_refused() {
        for (name, version, settings) in [
            ("", "1", &[][..]),
            ("Has Space", "1", &[]),
            ("-x", "1", &[]),
            ("x\x1b[2J", "1", &[]),
            ("x", "", &[]),
            ("x", "1\n2", &[]),
            ("x", "1", &["a=b"]),
            ("x", "1", &["a", "a"]),
        ] {
            assert!(
                check_description(description(name, version, settings)).is_err(),
                "{name:?} {version:?} {settings:?}"
            );
        }
        let (about, settings) = check_description(description("my-policy", "0.1.0", &["a", "b"])).expect("fine");
        assert_eq!((about.summary.as_str(), settings.len()), ("Sums up.", 2));
    }

    #[test]
    fn files_that_cannot_be_plugins_are_told_apart_before_they_are_read() {
        let dir = tempfile::tempdir().expect("writable");
        let limits = Limits { file_bytes: 10, ..Limits::default() };
        assert!(matches!(read(&dir.path().join("none"), &limits), Err(LoadProblem::NotFound)));
        assert!(matches!(read(dir.path(), &limits), Err(LoadProblem::NotAFile)));
        let file = dir.path().join("f.wasm");
        fs::write(&file, [0; 11]).expect("writable");
        assert!(matches!(read(&file, &limits), Err(LoadProblem::TooLarge { bytes: 11, limit: 10 })));
        fs::write(&file, [0; 10]).expect("writable");
        assert_eq!(read(&file, &limits).expect("fits").len(), 10);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_endless_device_is_not_read() {
        assert!(matches!(read(Path::new("/dev/zero"), &Limits::default()), Err(LoadProblem::NotAFile)));
    }

    #[test]
    fn the_digest_is_what_sha256sum_prints() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
