//! Detached signatures in minisign's form, by keys that the user trusts.
//!
//! Where a key is trusted, every plugin that is added has to be signed by one: a list of keys that some plugins can do
//! without would protect nobody.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use minisign_verify::{PublicKey, Signature};

use super::super::compile;

/// Ends the name of a signature: `x.wasm.minisig`.
pub const SUFFIX: &str = ".minisig";

/// A signature has four lines.
pub const MAX_BYTES: u64 = 4096;

/// Where trusted keys are: `$XDG_CONFIG_HOME/sla-profiler/trusted-keys`, else in `~/.config`; nowhere without a home.
pub fn default_keys_file() -> Option<PathBuf> {
    Some(compile::user_dir("XDG_CONFIG_HOME", ".config")?.join("sla-profiler/trusted-keys"))
}

/// Keys and signatures that do not serve.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The file of keys cannot be read.
    #[error("{}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a public key of minisign's.
    #[error("{place}: `{key}` is no public key of minisign's")]
    Key {
        /// File and line, or flag.
        place: String,
        /// As given.
        key: String,
    },
    /// Not a signature of minisign's.
    #[error("{place} is no signature of minisign's")]
    Form {
        /// Where it came from.
        place: String,
    },
    /// A signature, but of another file or by another key.
    #[error("is not signed by any of the {keys} trusted keys: {place} was made by another key, or for another file")]
    Untrusted {
        /// Where the signature came from.
        place: String,
        /// How many keys were tried.
        keys: usize,
    },
    /// There is none.
    #[error("is not signed: {reason}")]
    Missing {
        /// Where it was looked for.
        reason: String,
    },
}

/// Keys, in minisign's base64 form.
#[derive(Debug, Default)]
pub struct TrustedKeys(Vec<(String, PublicKey)>);

impl TrustedKeys {
    /// The keys of a file: one per line, as minisign writes them; lines with `#` and comments of minisign's are skipped.
    /// No file, no keys.
    ///
    /// # Errors
    /// If the file cannot be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self, SignatureError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(SignatureError::Unreadable { path: path.to_owned(), source }),
        };
        let mut keys = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if !(line.is_empty() || line.starts_with('#') || line.starts_with("untrusted comment:")) {
                keys.add(line, &format!("{}:{number}", path.display()))?;
            }
        }
        Ok(keys)
    }

    /// One more; `place` says where it comes from.
    ///
    /// # Errors
    /// If it is no key.
    pub fn add(&mut self, key: &str, place: &str) -> Result<(), SignatureError> {
        let wrong = |_| SignatureError::Key { place: place.to_owned(), key: key.to_owned() };
        self.0.push((key.to_owned(), PublicKey::from_base64(key).map_err(wrong)?));
        Ok(())
    }

    /// Whether nobody is trusted, so that nothing has to be signed.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key that signed the content.
    ///
    /// # Errors
    /// If none of the keys did, or the text is no signature.
    pub fn verify(&self, content: &[u8], signature: &str, place: &str) -> Result<&str, SignatureError> {
        let wrong = |_| SignatureError::Form { place: place.to_owned() };
        let signature = Signature::decode(signature).map_err(wrong)?;
        // Not the old form, whose signature is over the content itself; minisign has written the other one since 2019.
        let signer = self.0.iter().find(|(_, key)| key.verify(content, &signature, false).is_ok());
        let untrusted = || SignatureError::Untrusted { place: place.to_owned(), keys: self.0.len() };
        signer.map(|(key, _)| key.as_str()).ok_or_else(untrusted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the documentation of minisign itself.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
        RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
        trusted comment: timestamp:1633700835\tfile:test\tprehashed\n\
        wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==";

    #[test]
    fn a_signature_of_minisigns_own_is_accepted_for_its_file_only() {
        let mut keys = TrustedKeys::default();
        keys.add(KEY, "--trusted-key").unwrap();
        assert_eq!(keys.verify(b"test", SIGNATURE, "x").unwrap(), KEY);
        assert!(matches!(keys.verify(b"Test", SIGNATURE, "x"), Err(SignatureError::Untrusted { keys: 1, .. })));
        assert!(matches!(keys.verify(b"test", "nonsense", "x"), Err(SignatureError::Form { .. })));
        let nobody = TrustedKeys::default();
        assert!(matches!(nobody.verify(b"test", SIGNATURE, "x"), Err(SignatureError::Untrusted { keys: 0, .. })));
    }

    #[test]
    fn a_file_of_keys_is_read_line_by_line_and_a_wrong_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trusted-keys");
        assert!(TrustedKeys::read(&path).unwrap().is_empty());
        fs::write(&path, format!("# ours\nuntrusted comment: minisign public key\n{KEY}\n\n")).unwrap();
        assert_eq!(TrustedKeys::read(&path).unwrap().0.len(), 1);
        fs::write(&path, format!("{KEY}\nnot a key\n")).unwrap();
        let error = TrustedKeys::read(&path).unwrap_err().to_string();
        assert!(error.contains("trusted-keys:2") && error.contains("not a key"), "{error}");
    }
}
