//! New projects: a plugin of each kind in each language that builds and passes its tests at once.
//!
//! A project stands on its own: it carries the contract (`wit/`) and, in Rust, the SDK that belongs to it, since neither is in
//! a registry. The templates in `plugins/template` are such projects by the name `my-plugin`.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::Path;

use crate::Error;
use crate::project::{FILE, Kind, Language};

/// Path, as in `template/c/sweep.c`, and content.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Scaffold<'a> {
    /// The plugin's name: lower case letters, digits and dashes.
    pub name: &'a str,
    /// What it decides.
    pub kind: Kind,
    /// What it is written in.
    pub language: Language,
}

impl Scaffold<'_> {
    /// Writes the project into a folder that is empty or not there. Returns the files' paths in it.
    ///
    /// # Errors
    /// [`Error::Project`] for a name that does not serve, or a folder that holds something; [`Error::File`].
    pub fn write(&self, folder: &Path) -> Result<Vec<String>, Error> {
        check_name(self.name).map_err(|reason| Error::Project { reason })?;
        match folder.read_dir().map(Iterator::count) {
            Ok(1..) => {
                let reason = format!(
                    "{} holds something already; choose another folder with --dir, or another name",
                    folder.display()
                );
                return Err(Error::Project { reason });
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                let reason = format!("{} is no folder; choose another one with --dir", folder.display());
                return Err(Error::Project { reason });
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("read", folder)(error));
            }
            _ => {}
        }
        let files = self.files();
        for (name, content) in &files {
            let path = folder.join(name);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
            fs::write(&path, content).map_err(Error::file("write", &path))?;
        }
        Ok(files.into_iter().map(|(name, _)| name).collect())
    }

    /// Paths in the project, and contents.
    fn files(&self) -> Vec<(String, Cow<'static, [u8]>)> {
        let (kind, language) = (self.kind.name(), self.language.name());
        let bindings = self.kind.world().replace('-', "_");
        let mut files = vec![(FILE.to_owned(), Cow::Owned(self.project_file().into_bytes()))];
        let readme = text(&format!("template/notes/{language}.md"));
        let readme = text("template/README.md")
            .replace("KIND", kind_in_words(self.kind))
            .replace("LANGUAGE", &self.language.to_string())
            .replace("FLAG", kind)
            .replace("NOTES\n", &readme);
        files.push(("README.md".to_owned(), Cow::Owned(self.named(&readme))));
        for (path, content) in FILES {
            let plain = Cow::Borrowed(*content);
            let named = || Cow::Owned(self.named(&String::from_utf8_lossy(content)));
            let parts: Vec<&str> = path.split('/').collect();
            let file = match parts.as_slice() {
                ["wit", rest @ ..] => (format!("wit/{}", rest.join("/")), plain),
                ["template", "gitignore"] => (".gitignore".to_owned(), plain),
                ["template", "cases", file] if file.strip_suffix(".yaml") == Some(kind) => {
                    ("cases.yaml".to_owned(), plain)
                }
                ["sdk", rest @ ..] if self.language == Language::Rust => {
                    (format!("vendor/sla-profiler-plugin/src/{}", rest.join("/")), plain)
                }
                ["template", of, rest @ ..] if *of == language => match (self.language, rest) {
                    (Language::Rust, ["sdk.toml"]) => ("vendor/sla-profiler-plugin/Cargo.toml".to_owned(), plain),
                    (Language::Rust, ["Cargo.toml"]) => ("Cargo.toml".to_owned(), named()),
                    (Language::C, ["bindings", file]) if !file.starts_with(&bindings) => continue,
                    // The wrapper has to stand in the same module as what it wraps.
                    (Language::JavaScript, ["guarded.js"]) => continue,
                    (_, [file]) => match file.split_once('.') {
                        Some((stem, "rs")) if stem == kind => ("src/lib.rs".to_owned(), named()),
                        Some((stem, "js")) if stem == kind => {
                            let code = text("template/javascript/guarded.js") + &String::from_utf8_lossy(content);
                            ("plugin.js".to_owned(), Cow::Owned(self.named(&code)))
                        }
                        Some((stem, extension)) if stem == kind => (format!("plugin.{extension}"), named()),
                        Some((stem, _)) if Kind::ALL.iter().any(|kind| kind.name() == stem) => continue,
                        _ => ((*file).to_owned(), plain),
                    },
                    (_, rest) => (rest.join("/"), plain),
                },
                _ => continue,
            };
            files.push(file);
        }
        files
    }

    fn project_file(&self) -> String {
        let mut text = format!(
            "# Read by `sla-profiler plugin build`.\nname = \"{}\"\nlanguage = \"{}\"\n",
            self.name,
            self.language.name()
        );
        let sources = match self.language {
            Language::Rust => return text,
            Language::Python => "plugin.py guarded.py",
            Language::JavaScript => "plugin.js",
            Language::C => "plugin.c",
        };
        text.push_str(&format!("world = \"{}\" # of wit/world.wit\nsources = \"{sources}\"\n", self.kind.world()));
        text
    }

    /// The template under this project's name.
    fn named(&self, text: &str) -> Vec<u8> {
        text.replace("my-plugin", self.name).replace("MyPlugin", &pascal(self.name)).into_bytes()
    }
}

const fn kind_in_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Sweep => "a sweep strategy",
        Kind::Selection => "a selection policy",
        Kind::Planner => "a planner model",
    }
}

/// An embedded text; empty where there is none of that name, which a test excludes.
fn text(path: &str) -> String {
    let found = FILES.iter().find(|(name, _)| *name == path);
    found.map(|(_, content)| String::from_utf8_lossy(content).into_owned()).unwrap_or_default()
}

fn check_name(name: &str) -> Result<(), String> {
    let is_fine = name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !name.ends_with('-');
    if is_fine {
        return Ok(());
    }
    let rule = "lower case letters, digits and dashes, a letter first, at most 64";
    let near = nearest_name(name).map(|near| format!("; for example `{near}`")).unwrap_or_default();
    Err(format!("`{name}` is no name for a plugin: {rule}{near}"))
}

/// The same name with everything out of place gone.
fn nearest_name(name: &str) -> Option<String> {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    (1..=64).contains(&name.len()).then(|| name.to_owned())
}

/// `my-plugin` as `MyPlugin`.
fn pascal(name: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    name.split('-').map(capital).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Project;

    #[test]
    fn every_kind_in_every_language_is_a_whole_project_under_its_own_name() {
        for kind in Kind::ALL {
            for language in Language::ALL {
                let folder = tempfile::tempdir().unwrap();
                let folder = folder.path().join("new");
                let files = Scaffold { name: "cheap-first", kind, language }.write(&folder).unwrap();
                let project = Project::open(&folder).unwrap();
                assert_eq!((project.name.as_str(), project.language), ("cheap-first", language));
                for file in
                    project.sources.iter().map(String::as_str).chain(["cases.yaml", "wit/world.wit", ".gitignore"])
                {
                    assert!(files.iter().any(|written| written == file), "{file} is not among {files:?}");
                }
                for file in files.iter().filter(|file| !file.ends_with(".o")) {
                    let text = fs::read_to_string(folder.join(file)).unwrap();
                    let left =
                        ["my-plugin", "MyPlugin", "KIND", "NOTES", "FLAG"].iter().find(|word| text.contains(**word));
                    assert_eq!(
                        left.filter(|_| !file.starts_with("vendor/") && !file.starts_with("wit/")),
                        None,
                        "{file}"
                    );
                    assert!(!text.is_empty(), "{file}");
                }
            }
        }
    }

    #[test]
    fn a_folder_that_holds_something_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "").unwrap();
        let scaffold = Scaffold { name: "a", kind: Kind::Sweep, language: Language::C };
        assert!(scaffold.write(folder.path()).unwrap_err().to_string().contains("holds something"));
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_name_that_a_component_could_not_have_is_refused() {
        for name in ["", "A", "1a", "a b", "a_b", "-a", "a-", "../a", "ä"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("a-1").is_ok());
        assert!(check_name("Bad_Name").unwrap_err().ends_with("for example `bad-name`"));
        assert_eq!(pascal("cheap-first-2"), "CheapFirst2");
    }

    #[test]
    fn the_examples_have_the_wrappers_that_new_projects_get() {
        let example = |file: &str| {
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(file)).unwrap()
        };
        assert_eq!(example("planner-python/guarded.py"), text("template/python/guarded.py"));
        let wrapper = text("template/javascript/guarded.js");
        let (import, wrapper) = wrapper.split_once('\n').unwrap();
        let sweep = example("sweep-javascript/sweep.js");
        assert!(sweep.contains(import) && sweep.contains(wrapper), "sweep.js");
    }
}
