//! A plugin's folder of sources, as `plugin.toml` in it describes it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::component::{self, Component, Request};
use crate::languages::{self, Source};
use crate::toolchain;
use crate::{Error, Report};

/// The file that makes a folder a project.
pub const FILE: &str = "plugin.toml";

/// What a plugin decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What to measure.
    Sweep,
    /// Who wins.
    Selection,
    /// How many.
    Planner,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sweep, Self::Selection, Self::Planner];

    /// `sweep`
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sweep => "sweep",
            Self::Selection => "selection",
            Self::Planner => "planner",
        }
    }

    /// The world of `wit/` that such a plugin has.
    #[must_use]
    pub const fn world(self) -> &'static str {
        match self {
            Self::Sweep => "sweep-strategy",
            Self::Selection => "selection-policy",
            Self::Planner => "planner-model",
        }
    }
}

/// What a plugin is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Through the guest SDK.
    Rust,
    /// CPython, through componentize-py.
    Python,
    /// QuickJS, through componentize-qjs.
    JavaScript,
    /// Clang and wasi-libc, with bindings by wit-bindgen.
    C,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rust, Self::Python, Self::JavaScript, Self::C];

    /// As in `plugin.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::JavaScript => "javascript",
            Self::C => "c",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "Rust",
            Self::Python => "Python",
            Self::JavaScript => "JavaScript",
            Self::C => "C",
        })
    }
}

/// A plugin to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// The folder.
    pub folder: PathBuf,
    /// Name of the component that comes out; in Rust also of the package.
    pub name: String,
    /// What it is written in.
    pub language: Language,
    /// The world; Rust plugins say it in their code.
    pub world: String,
    /// Files from the folder; Rust has cargo for that.
    pub sources: Vec<String>,
    /// The folder of the contract, `wit` where nothing else is said.
    pub wit: PathBuf,
    /// C: the folder of the generated bindings, `bindings` where nothing else is said.
    pub bindings: PathBuf,
    /// Rust: the cargo profile, `release` where nothing else is said.
    pub profile: String,
}

/// Where to build.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Tools are kept here.
    pub cache: &'a Path,
    /// Intermediate files and `<name>.wasm` go here.
    pub out_dir: &'a Path,
    /// Rust: cargo's intermediate files go here.
    pub build_dir: &'a Path,
    /// Refuse to change Cargo.lock.
    pub locked: bool,
    /// Is told about steps that take a while.
    pub report: Report<'a>,
}

impl Project {
    /// Reads the folder's `plugin.toml`: lines of `key = "value"`, and comments.
    ///
    /// # Errors
    /// [`Error::Project`] for a file that is not there or says something else.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path).map_err(|error| {
            let next = "`sla-profiler plugin new` writes one";
            Error::Project { reason: format!("{} cannot be read ({error}); {next}", path.display()) }
        })?;
        Self::parse(folder, &text).map_err(|reason| Error::Project { reason: format!("{}: {reason}", path.display()) })
    }

    fn parse(folder: &Path, text: &str) -> Result<Self, String> {
        let (mut name, mut language, mut world) = (None, None, None);
        let (mut sources, mut wit, mut bindings, mut profile) = (None, None, None, None);
        for (number, line) in (1..).zip(text.lines()) {
            let Some((key, value)) = pair(line).map_err(|reason| format!("line {number}: {reason}"))? else { continue };
            let place = match key {
                "name" => &mut name,
                "language" => &mut language,
                "world" => &mut world,
                "sources" => &mut sources,
                "wit" => &mut wit,
                "bindings" => &mut bindings,
                "profile" => &mut profile,
                other => {
                    let known = "name, language, world, sources, wit, bindings and profile";
                    return Err(format!("line {number}: there is no key `{other}`; there are {known}"));
                }
            };
            if place.replace(value).is_some() {
                return Err(format!("line {number}: `{key}` comes twice"));
            }
        }
        let required = |value: Option<&str>, key| value.map(str::to_owned).ok_or(format!("`{key}` is missing"));
        let language = required(language, "language")?;
        let language = Language::ALL.into_iter().find(|known| known.name() == language).ok_or_else(|| {
            let known = Language::ALL.map(Language::name).join(", ");
            format!("`language` is `{language}`, but must be one of {known}")
        })?;
        let is_rust = language == Language::Rust;
        let sources: Vec<String> = sources.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        if sources.is_empty() && !is_rust {
            return Err("`sources` is missing: the files to build, with spaces between them".to_owned());
        }
        Ok(Self {
            name: required(name, "name")?,
            world: if is_rust { world.unwrap_or_default().to_owned() } else { required(world, "world")? },
            language,
            sources,
            wit: folder.join(wit.unwrap_or("wit")),
            bindings: folder.join(bindings.unwrap_or("bindings")),
            profile: profile.unwrap_or("release").to_owned(),
            folder: folder.to_owned(),
        })
    }

    /// Builds it to `<out_dir>/<name>.wasm`.
    ///
    /// # Errors
    /// When tools cannot be had, or do not take the sources.
    pub fn build(&self, place: Place<'_>) -> Result<Component, Error> {
        let source = Source { project: self, cache: place.cache, out_dir: place.out_dir };
        match self.language {
            Language::Rust => self.build_rust(place),
            Language::Python => languages::python(source, place.report),
            Language::JavaScript => languages::javascript(source, place.report),
            Language::C => languages::c(source, place.report),
        }
    }

    fn build_rust(&self, place: Place<'_>) -> Result<Component, Error> {
        let toolchain = toolchain::ensure(&self.folder, &place.cache.join("wasm-toolchain"), place.report)?;
        fs::create_dir_all(place.out_dir).map_err(Error::file("create", place.out_dir))?;
        let request = Request {
            workspace: &self.folder,
            packages: &[&self.name],
            profile: &self.profile,
            build_dir: place.build_dir,
            out_dir: place.out_dir,
            locked: place.locked,
        };
        let missing = || Error::NoArtifact { package: self.name.clone(), path: place.out_dir.to_owned() };
        component::build(&toolchain, &request)?.into_iter().next().ok_or_else(missing)
    }
}

/// `key = "value"`; nothing for a comment or an empty line.
fn pair(line: &str) -> Result<Option<(&str, &str)>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let malformed = || format!("`{line}` is not of the form key = \"value\"");
    let (key, rest) = line.split_once('=').ok_or_else(malformed)?;
    let (value, rest) = rest.trim().strip_prefix('"').and_then(|rest| rest.split_once('"')).ok_or_else(malformed)?;
    match rest.trim() {
        rest if rest.is_empty() || rest.starts_with('#') => Ok(Some((key.trim(), value))),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Project, String> {
        Project::parse(Path::new("x"), text)
    }

    #[test]
    fn a_project_says_what_to_build_and_leaves_the_rest_to_convention() {
        let text = "# c\nname = \"a\" # n\nlanguage=\"c\"\n\nworld = \"planner-model\"\nsources = \"a.c b.c\"\n";
        let project = parse(text).unwrap();
        assert_eq!((project.name.as_str(), project.language), ("a", Language::C));
        assert_eq!(project.sources, ["a.c", "b.c"]);
        assert_eq!((project.wit, project.bindings), ("x/wit".into(), "x/bindings".into()));
        assert_eq!(parse("name = \"a\"\nlanguage = \"rust\"").unwrap().profile, "release");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, words) in [
            ("name = \"a\"\nfoo = \"b\"", "line 2: there is no key `foo`"),
            ("name = \"a\"\nname = \"b\"", "line 2: `name` comes twice"),
            ("name = a", "line 1: `name = a` is not of the form"),
            ("name = \"a\" b", "line 1"),
            ("name = \"a\"", "`language` is missing"),
            ("name = \"a\"\nlanguage = \"go\"", "`go`, but must be one of rust, python, javascript, c"),
            ("name = \"a\"\nlanguage = \"c\"", "`sources` is missing"),
            ("name = \"a\"\nlanguage = \"c\"\nsources = \"a.c\"", "`world` is missing"),
        ] {
            let reason = parse(text).unwrap_err();
            assert!(reason.contains(words), "{text:?}: {reason}");
        }
    }

    #[test]
    fn a_folder_without_the_file_is_told_how_to_get_one() {
        let folder = tempfile::tempdir().unwrap();
        let error = Project::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("plugin.toml") && error.contains("plugin new"), "{error}");
    }
}
