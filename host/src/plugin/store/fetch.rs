//! Plugins and signatures from where they are: a file, an https server, or a registry (`oci`).

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::oci::{self, OciError, Reference};
use crate::http::{Client, HttpError, Origin};

/// For one file, redirections included.
const DEADLINE: Duration = Duration::from_secs(120);

/// Releases on code hosts are one redirection away from where they are.
const MAX_REDIRECTS: usize = 5;

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// On this machine.
    File(PathBuf),
    /// On an https server: the whole URL.
    Https(String),
    /// In a registry.
    Oci(Reference),
}

/// The file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A scheme that would not keep the file from being exchanged on its way, or that nobody here speaks.
    #[error("`{scheme}://` is not supported")]
    Scheme {
        /// As given.
        scheme: String,
    },
    /// The server cannot be reached, or breaks off.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A registry does not have it, or not as it should be.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// The server has an answer, but not the file.
    #[error("{url} answers with status {status}")]
    Status {
        /// The URL, after redirections.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// A redirection leads to another scheme, nowhere, or on and on.
    #[error("{url} redirects to {to}")]
    Redirect {
        /// The URL.
        url: String,
        /// Where it leads.
        to: String,
    },
    /// It is too long.
    #[error("{location} is longer than {limit} bytes")]
    TooLarge {
        /// Where it is.
        location: Location,
        /// The limit.
        limit: u64,
    },
    /// A local file cannot be read.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl FetchError {
    /// What to do about it, where that can be said.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Scheme { .. } => Some("give a path, or a URL that begins with https:// or oci://"),
            Self::Oci(error) => error.hint(),
            _ => None,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Https(url) => f.write_str(url),
            Self::Oci(reference) => reference.fmt(f),
        }
    }
}

impl FromStr for Location {
    type Err = FetchError;

    fn from_str(text: &str) -> Result<Self, FetchError> {
        match text.split_once("://") {
            Some(("https", _)) => Ok(Self::Https(text.to_owned())),
            Some(("oci", _)) => Ok(Self::Oci(text.parse()?)),
            Some((scheme, _)) => Err(FetchError::Scheme { scheme: scheme.to_owned() }),
            None => Ok(Self::File(PathBuf::from(text))),
        }
    }
}

impl Location {
    /// The same with more at its end: `x.wasm` and `.minisig`. Nothing in a registry, where names have no ends.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> Option<Self> {
        match self {
            Self::File(path) => {
                let mut name = path.clone().into_os_string();
                name.push(suffix);
                Some(Self::File(name.into()))
            }
            Self::Https(url) => Some(Self::Https(match url.split_once('?') {
                Some((path, query)) => format!("{path}{suffix}?{query}"),
                None => format!("{url}{suffix}"),
            })),
            Self::Oci(_) => None,
        }
    }

    /// The content, of which there may be `limit` bytes.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch(&self, client: &Client, limit: u64) -> Result<Vec<u8>, FetchError> {
        let too_large = || FetchError::TooLarge { location: self.clone(), limit };
        match self {
            Self::File(path) => {
                let failed = |source| FetchError::File { path: path.clone(), source };
                let meta = fs::metadata(path).map_err(failed)?;
                if !meta.is_file() {
                    return Err(failed(std::io::Error::other("is not a file")));
                }
                if meta.len() > limit { Err(too_large()) } else { fs::read(path).map_err(failed) }
            }
            Self::Oci(reference) => {
                let login = std::env::var(oci::LOGIN_VARIABLE).ok();
                Ok(oci::pull(client, reference, login.as_deref(), limit).await?)
            }
            Self::Https(url) => {
                let download = download(client, url, limit);
                match tokio::time::timeout(DEADLINE, download).await {
                    Ok(content) => content?.ok_or_else(too_large),
                    Err(_) => {
                        let (origin, _) = split(url)?;
                        let seconds = DEADLINE.as_secs_f64();
                        Err(HttpError::Deadline { what: "the download", origin: origin.to_string(), seconds }.into())
                    }
                }
            }
        }
    }
}

/// Server, and path with query.
pub(super) fn split(url: &str) -> Result<(Origin, String), FetchError> {
    let start = url.find("://").map_or(0, |at| at + 3);
    let at = url.get(start..).and_then(|rest| rest.find(['/', '?', '#'])).map_or(url.len(), |at| start + at);
    let (server, path) = url.split_at_checked(at).unwrap_or((url, ""));
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok((server.parse()?, path))
}

/// Nothing where it is longer than the limit.
async fn download(client: &Client, url: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchError> {
    let mut url = url.to_owned();
    for _ in 0..=MAX_REDIRECTS {
        let (origin, path) = split(&url)?;
        let mut body = client.open(&origin, &path, None, None, DEADLINE).await?;
        match body.status {
            200 => {
                let mut content = Vec::new();
                while let Some(piece) = body.next().await? {
                    content.extend_from_slice(&piece);
                    if u64::try_from(content.len()).unwrap_or(u64::MAX) > limit {
                        return Ok(None);
                    }
                }
                return Ok(Some(content));
            }
            301 | 302 | 303 | 307 | 308 => {
                let to = body.location.take().unwrap_or_default();
                let next = if to.starts_with('/') { format!("{origin}{to}") } else { to.clone() };
                if !next.starts_with("https://") {
                    return Err(FetchError::Redirect { url, to });
                }
                url = next;
            }
            status => return Err(FetchError::Status { url, status }),
        }
    }
    Err(FetchError::Redirect { url, to: format!("itself, or one of more than {MAX_REDIRECTS}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_an_https_url_are_told_apart_and_all_else_is_refused() {
        assert_eq!("a/b.wasm".parse::<Location>().unwrap(), Location::File("a/b.wasm".into()));
        let https: Location = "https://example.org/a.wasm?x=1".parse().unwrap();
        assert_eq!(https.with_suffix(".minisig").unwrap().to_string(), "https://example.org/a.wasm.minisig?x=1");
        for url in ["http://example.org/a.wasm", "file:///a.wasm"] {
            let error = url.parse::<Location>().unwrap_err();
            assert!(matches!(error, FetchError::Scheme { .. }) && error.hint().is_some(), "{url}");
        }
        let error = "oci://example.org/a@sha256:1".parse::<Location>().unwrap_err();
        assert!(matches!(error, FetchError::Oci(_)) && error.hint().is_some());
    }

    #[test]
    fn a_url_is_split_into_server_and_target() {
        let (origin, path) = split("https://example.org:8443/a/b?c=/d#e").unwrap();
        assert_eq!((origin.to_string().as_str(), path.as_str()), ("https://example.org:8443", "/a/b?c=/d"));
        assert_eq!(split("https://example.org").unwrap().1, "/");
        assert!(split("https://user:word@example.org/a").is_err());
    }
}
