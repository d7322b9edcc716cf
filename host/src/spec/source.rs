//! Where a DGDR comes from.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::SpecError;

/// Where a DGDR comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file, YAML or JSON.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// What standard input said.
    Read(String),
    /// The text itself, as Dynamo's operator passes it.
    Inline(String),
    /// An object that was read from a cluster. Its API server has checked it, so that a field unknown here is a newer
    /// one of Dynamo's and no mistake.
    Cluster {
        /// `dgdr/NAME`, for messages.
        name: String,
        /// YAML.
        text: String,
    },
}

/// Larger than any object that Kubernetes stores (1.5 MiB in etcd).
const MAX_BYTES: u64 = 2 << 20;

impl Source {
    /// `-` is standard input, what begins with `{` is the text itself, and anything else a path.
    pub fn from_arg(arg: &str) -> Self {
        match arg {
            "-" => Source::Stdin,
            text if text.trim_start().starts_with('{') => Source::Inline(text.to_owned()),
            path => Source::File(PathBuf::from(path)),
        }
    }

    /// As errors call it.
    pub fn name(&self) -> String {
        match self {
            Source::File(path) => path.display().to_string(),
            Source::Stdin | Source::Read(_) => "<stdin>".to_owned(),
            Source::Inline(_) => "<inline>".to_owned(),
            Source::Cluster { name, .. } => name.clone(),
        }
    }

    /// Folder to which paths in the file are relative.
    pub(super) fn folder(&self) -> Option<&Path> {
        match self {
            Source::File(path) => path.parent(),
            Source::Stdin | Source::Read(_) | Source::Inline(_) | Source::Cluster { .. } => None,
        }
    }

    /// The same, such that it can be read more than once: standard input can not.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn kept(self) -> Result<Self, SpecError> {
        match self {
            Source::Stdin => Ok(Source::Read(Source::Stdin.read()?)),
            other => Ok(other),
        }
    }

    pub(super) fn read(&self) -> Result<String, SpecError> {
        match self {
            Source::File(path) => read_file(path),
            Source::Stdin => read_all(std::io::stdin().lock(), "standard input"),
            Source::Read(text) | Source::Inline(text) | Source::Cluster { text, .. } => Ok(text.clone()),
        }
    }
}

/// The text of a small file.
pub(super) fn read_file(path: &Path) -> Result<String, SpecError> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|error| cannot_read(&name, &error))?;
    read_all(file, &name)
}

fn read_all(from: impl Read, name: &str) -> Result<String, SpecError> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| cannot_read(name, &error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(SpecError::config(format!("{name} is larger than {} MiB", MAX_BYTES >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| SpecError::config(format!("{name} is not text in UTF-8")))
}

fn cannot_read(name: &str, error: &std::io::Error) -> SpecError {
    SpecError::config(format!("cannot read {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_stdin_inline_or_a_path() {
        assert_eq!(Source::from_arg("-"), Source::Stdin);
        assert_eq!(Source::from_arg(" {\"model\": \"m\"}"), Source::Inline(" {\"model\": \"m\"}".into()));
        assert_eq!(Source::from_arg("a/b.yaml"), Source::File("a/b.yaml".into()));
    }

    #[test]
    fn a_folder_cannot_be_read_as_a_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Source::File(folder.path().into()).read().unwrap_err().to_string().starts_with("cannot read"));
    }
}
