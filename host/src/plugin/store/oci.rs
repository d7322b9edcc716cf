//! Plugins in OCI registries, in the layout that the CNCF's Wasm working group gives them: a manifest with one
//! configuration that names the component's imports and exports, and one layer, the component itself.
//!
//! What is pulled is named by the digest of its manifest, which holds the digest of the layer: both are compared, so it
//! does not matter who stands between. The few requests of the distribution protocol are made by the program's own HTTP
//! client; `oci-client` would bring 149 packages along.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::http::{Ask, Body, Client, HttpError, Method, Origin};
use crate::plugin::{Inspection, sha256};

/// Media types of the layout.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";

/// For one request, redirections included.
const DEADLINE: Duration = Duration::from_secs(120);

/// Longest manifest, and longest other answer that is not the component. Registries admit 4 MiB.
const MAX_DOCUMENT: u64 = 4 << 20;

/// Layers are often kept one redirection away.
const MAX_REDIRECTS: usize = 3;

/// `user:password` for registries that ask who it is.
pub const LOGIN_VARIABLE: &str = "SLA_PROFILER_REGISTRY_LOGIN";

/// An image in a registry: `oci://registry/repository`, then `@sha256:…` or `:tag`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Host, and port if it is not the usual one.
    pub registry: String,
    /// With slashes.
    pub repository: String,
    /// Which of the repository's images.
    pub image: Image,
}

/// Which image of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// By the SHA-256 of its manifest, in lower-case hex.
    Digest(String),
    /// By a name that can be moved.
    Tag(String),
    /// Not said.
    Any,
}

/// A registry does not do what is wanted.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The reference is none.
    #[error("`{reference}` names no image: {reason}")]
    Reference {
        /// As given.
        reference: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The registry cannot be reached, or breaks off.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It has an answer, but not the one that is wanted.
    #[error("{registry} answers {doing} with status {status}{}", if .says.is_empty() { String::new() } else { format!(": {}", .says) })]
    Status {
        /// The registry.
        registry: String,
        /// As in "the manifest's upload".
        doing: &'static str,
        /// HTTP status.
        status: u16,
        /// What it says of it.
        says: String,
    },
    /// It wants to know who it is.
    #[error("{registry} does not let this user in")]
    Denied {
        /// The registry.
        registry: String,
    },
    /// What came is not what the digest names.
    #[error("{what} of {reference} has the SHA-256 {found}")]
    Digest {
        /// The manifest, or the layer.
        what: &'static str,
        /// The image.
        reference: String,
        /// Of what came.
        found: String,
    },
    /// An image of something else.
    #[error("{reference} is no Wasm plugin: {reason}")]
    Layout {
        /// The image.
        reference: String,
        /// What is missing.
        reason: String,
    },
    /// It is too long.
    #[error("{what} of {reference} is longer than {limit} bytes")]
    TooLarge {
        /// The manifest, or the layer.
        what: &'static str,
        /// The image.
        reference: String,
        /// The limit.
        limit: u64,
    },
}

impl OciError {
    /// What to do about it, where that can be said.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Denied { .. } => Some("put `user:password` (or `user:token`) into SLA_PROFILER_REGISTRY_LOGIN"),
            Self::Reference { .. } => Some(
                "it looks like oci://registry.example/team/policy@sha256:…; `plugin push` prints it, and `oras resolve` \
                 or `crane digest` finds the digest of a tag",
            ),
            _ => None,
        }
    }
}

impl FromStr for Reference {
    type Err = OciError;

    fn from_str(text: &str) -> Result<Self, OciError> {
        let wrong = |reason| OciError::Reference { reference: text.to_owned(), reason };
        let rest = text.strip_prefix("oci://").ok_or_else(|| wrong("it does not begin with oci://"))?;
        let (registry, rest) = rest.split_once('/').ok_or_else(|| wrong("the repository is missing"))?;
        let (repository, image) = match rest.split_once('@') {
            Some((repository, digest)) => {
                let hex =
                    digest.strip_prefix("sha256:").ok_or_else(|| wrong("the digest does not begin with sha256:"))?;
                if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                    return Err(wrong("the digest is not 64 digits of lower-case hex"));
                }
                // A tag beside a digest says nothing more.
                let repository = repository.split(':').next().unwrap_or_default();
                (repository, Image::Digest(hex.to_owned()))
            }
            None => match rest.split_once(':') {
                Some((repository, tag)) => (repository, Image::Tag(tag.to_owned())),
                None => (rest, Image::Any),
            },
        };
        let is_name = |text: &str, extra: &[u8]| {
            let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b) || extra.contains(&b);
            !text.is_empty() && text.len() <= 255 && text.bytes().all(good)
        };
        let parts_are_names = repository.split('/').all(|part| is_name(part, b"") && !part.starts_with('.'));
        if !parts_are_names || repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(wrong("a repository is made of lower-case words with slashes between them"));
        }
        if !is_name(registry, b":[]") {
            return Err(wrong("the registry is no host name"));
        }
        if matches!(&image, Image::Tag(tag) if !is_name(tag, b"") || tag.len() > 128) {
            return Err(wrong("the tag is no word"));
        }
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), image })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}/{}", self.registry, self.repository)?;
        match &self.image {
            Image::Digest(digest) => write!(f, "@sha256:{digest}"),
            Image::Tag(tag) => write!(f, ":{tag}"),
            Image::Any => Ok(()),
        }
    }
}

impl Reference {
    /// https, but for this machine itself, where registries of tests are.
    fn origin(&self) -> Result<Origin, HttpError> {
        let https: Origin = format!("https://{}", self.registry).parse()?;
        let here = https.host == "localhost" || https.host == "::1" || https.host.starts_with("127.");
        if here { format!("http://{}", self.registry).parse() } else { Ok(https) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Descriptor {
    fn of(media_type: &str, content: &[u8]) -> Self {
        let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
        Self { media_type: media_type.to_owned(), digest: format!("sha256:{}", sha256(content)), size }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// One registry, as one user.
struct Registry<'a> {
    client: &'a Client,
    origin: Origin,
    reference: &'a Reference,
    login: Option<&'a str>,
    /// What the registry has let us in with.
    authorization: Option<String>,
}

/// The component of an image that is named by its digest, of which there may be `limit` bytes.
///
/// # Errors
/// See [`OciError`].
pub async fn pull(
    client: &Client,
    reference: &Reference,
    login: Option<&str>,
    limit: u64,
) -> Result<Vec<u8>, OciError> {
    let named = reference.to_string();
    let Image::Digest(digest) = &reference.image else {
        return Err(OciError::Reference {
            reference: named,
            reason: "only a digest says for good which plugin is meant",
        });
    };
    let mut registry = Registry::new(client, reference, login)?;
    let path = format!("/v2/{}/manifests/sha256:{digest}", reference.repository);
    let manifest = registry.get("the manifest", &path, MANIFEST, MAX_DOCUMENT).await?;
    let differs = |what, content: &[u8]| OciError::Digest { what, reference: named.clone(), found: sha256(content) };
    if sha256(&manifest) != *digest {
        return Err(differs("the manifest", &manifest));
    }
    let layout = |reason: String| OciError::Layout { reference: named.clone(), reason };
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|error| layout(error.to_string()))?;
    let kind = manifest.config.map(|config| config.media_type).unwrap_or_default();
    if kind != CONFIG {
        return Err(layout(format!("its configuration is not {CONFIG}")));
    }
    let [layer] = manifest.layers.as_slice() else {
        return Err(layout(format!("it has {} layers instead of one", manifest.layers.len())));
    };
    if layer.media_type != LAYER {
        return Err(layout(format!("its layer is not {LAYER}")));
    }
    // It becomes a part of a path.
    let is_digest = |hex: &str| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let Some(wanted) = layer.digest.strip_prefix("sha256:").filter(|hex| is_digest(hex)) else {
        return Err(layout("its layer has no SHA-256".to_owned()));
    };
    let path = format!("/v2/{}/blobs/sha256:{wanted}", reference.repository);
    let wasm = registry.get("the layer", &path, "*/*", limit).await?;
    if sha256(&wasm) != wanted {
        return Err(differs("the layer", &wasm));
    }
    Ok(wasm)
}

/// Puts a plugin into a registry, under the reference's tag, or the plugin's own version. Returns what to pull it by.
///
/// The same plugin makes the same image each time: nothing in it depends on when and where.
///
/// # Errors
/// See [`OciError`].
pub async fn push(
    client: &Client,
    reference: &Reference,
    login: Option<&str>,
    plugin: &Inspection,
    wasm: &[u8],
) -> Result<Reference, OciError> {
    let tag = match &reference.image {
        Image::Tag(tag) => tag.clone(),
        Image::Any => plugin.identity.version.chars().map(|c| if is_tag(c) { c } else { '_' }).take(128).collect(),
        Image::Digest(_) => {
            let reason = "the digest follows from the plugin; give a tag, or none";
            return Err(OciError::Reference { reference: reference.to_string(), reason });
        }
    };
    let layer = Descriptor::of(LAYER, wasm);
    let names = |items: &[crate::plugin::Interface]| items.iter().map(|item| item.name.clone()).collect::<Vec<_>>();
    let config = json!({
        // When it was made is nobody's business, and would make each image another one.
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        // The layout's word for a component, whether it asks for WASI or not.
        "os": "wasip2",
        "layerDigests": [layer.digest],
        "component": { "exports": names(&plugin.exports), "imports": names(&plugin.imports) },
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": Descriptor::of(CONFIG, &config),
        "layers": [layer],
        "annotations": {
            "org.opencontainers.image.title": plugin.identity.name,
            "org.opencontainers.image.version": plugin.identity.version,
            "org.opencontainers.image.description": plugin.summary,
        },
    });
    let manifest = manifest.to_string().into_bytes();
    let mut registry = Registry::new(client, reference, login)?;
    registry.upload(wasm).await?;
    registry.upload(&config).await?;
    let path = format!("/v2/{}/manifests/{tag}", reference.repository);
    let content = Some((MANIFEST, manifest.clone()));
    let body = registry.ask(Method::PUT, &path, "*/*", content).await?;
    registry.expect("the manifest's upload", body, &[201]).await?;
    Ok(Reference { image: Image::Digest(sha256(&manifest)), ..reference.clone() })
}

const fn is_tag(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

impl<'a> Registry<'a> {
    fn new(client: &'a Client, reference: &'a Reference, login: Option<&'a str>) -> Result<Self, OciError> {
        Ok(Self { client, origin: reference.origin()?, reference, login, authorization: None })
    }

    /// One request; a second one where the registry first wants to know who asks.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        accept: &str,
        content: Option<(&str, Vec<u8>)>,
    ) -> Result<Body, OciError> {
        let body = self.once(method.clone(), path, accept, content.clone()).await?;
        if body.status != 401 {
            return Ok(body);
        }
        self.authorization = Some(self.introduce(&body.challenge.unwrap_or_default()).await?);
        let body = self.once(method, path, accept, content).await?;
        if matches!(body.status, 401 | 403) { Err(self.denied()) } else { Ok(body) }
    }

    async fn once(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content: Option<(&str, Vec<u8>)>,
    ) -> Result<Body, HttpError> {
        let ask = Ask { method, path, authorization: self.authorization.as_deref(), accept, content };
        self.client.send(&self.origin, ask, DEADLINE).await
    }

    fn denied(&self) -> OciError {
        OciError::Denied { registry: self.origin.to_string() }
    }

    /// What to show the registry, by the challenge that it answered with.
    async fn introduce(&self, challenge: &str) -> Result<String, OciError> {
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        let basic = self.login.map(|login| format!("Basic {}", base64(login.as_bytes())));
        if scheme.eq_ignore_ascii_case("basic") {
            return basic.ok_or_else(|| self.denied());
        }
        let parameter = |name: &str| {
            let at = parameters.find(&format!("{name}=\""))? + name.len() + 2;
            parameters.get(at..)?.split('"').next()
        };
        let Some(realm) = parameter("realm").filter(|_| scheme.eq_ignore_ascii_case("bearer")) else {
            return Err(self.denied());
        };
        let (server, path) = super::fetch::split(realm).map_err(|_| self.denied())?;
        // A password, or a token for one, is not sent in the clear over a network.
        if !server.tls && self.origin.tls {
            return Err(self.denied());
        }
        let mut query = vec![];
        for name in ["service", "scope"] {
            query.extend(parameter(name).map(|value| format!("{name}={}", percent(value))));
        }
        let path = format!("{path}{}{}", if path.contains('?') { '&' } else { '?' }, query.join("&"));
        let ask =
            Ask { method: Method::GET, path: &path, authorization: basic.as_deref(), accept: "*/*", content: None };
        let answer = self.client.send(&server, ask, DEADLINE).await?.whole().await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let token = ["token", "access_token"].iter().find_map(|name| answer.get(name)?.as_str());
        token.map(|token| format!("Bearer {token}")).ok_or_else(|| self.denied())
    }

    /// The content, redirections followed; to another server nothing is shown.
    async fn get(&mut self, what: &'static str, path: &str, accept: &str, limit: u64) -> Result<Vec<u8>, OciError> {
        let mut body = self.ask(Method::GET, path, accept, None).await?;
        for _ in 0..MAX_REDIRECTS {
            if !matches!(body.status, 301 | 302 | 303 | 307 | 308) {
                break;
            }
            let (server, path) = self.follow(body.location.take().unwrap_or_default().as_str())?;
            let authorization = self.authorization.as_deref().filter(|_| server == self.origin);
            let ask = Ask { method: Method::GET, path: &path, authorization, accept, content: None };
            body = self.client.send(&server, ask, DEADLINE).await?;
        }
        if body.status != 200 {
            let what = if what == "the layer" { "the request for the layer" } else { "the request for the manifest" };
            return Err(self.status(what, body).await);
        }
        let mut content = Vec::new();
        while let Some(piece) = body.next().await? {
            content.extend_from_slice(&piece);
            if u64::try_from(content.len()).unwrap_or(u64::MAX) > limit {
                return Err(OciError::TooLarge { what, reference: self.reference.to_string(), limit });
            }
        }
        Ok(content)
    }

    /// Where a `Location` leads: on this server, or on another one over https.
    fn follow(&self, location: &str) -> Result<(Origin, String), OciError> {
        if location.starts_with('/') {
            return Ok((self.origin.clone(), location.to_owned()));
        }
        let layout = || OciError::Layout {
            reference: self.reference.to_string(),
            reason: format!("{} leads to `{}`", self.origin, super::super::text::one_line(location, 200)),
        };
        let (server, path) = super::fetch::split(location).map_err(|_| layout())?;
        if server.tls || server == self.origin { Ok((server, path)) } else { Err(layout()) }
    }

    /// A blob, unless the registry has it.
    async fn upload(&mut self, content: &[u8]) -> Result<(), OciError> {
        let (repository, digest) = (&self.reference.repository, format!("sha256:{}", sha256(content)));
        let known = self.ask(Method::HEAD, &format!("/v2/{repository}/blobs/{digest}"), "*/*", None).await?;
        if known.status == 200 {
            return Ok(());
        }
        let doing = "the upload";
        let mut begun = self.ask(Method::POST, &format!("/v2/{repository}/blobs/uploads/"), "*/*", None).await?;
        let location = begun.location.take().unwrap_or_default();
        self.expect(doing, begun, &[202]).await?;
        let (server, path) = self.follow(&location)?;
        let path = format!("{path}{}digest={digest}", if path.contains('?') { '&' } else { '?' });
        let authorization = self.authorization.as_deref().filter(|_| server == self.origin);
        let content = Some(("application/octet-stream", content.to_owned()));
        let ask = Ask { method: Method::PUT, path: &path, authorization, accept: "*/*", content };
        let done = self.client.send(&server, ask, DEADLINE).await?;
        self.expect(doing, done, &[201]).await
    }

    async fn expect(&self, doing: &'static str, body: Body, good: &[u16]) -> Result<(), OciError> {
        if good.contains(&body.status) { Ok(()) } else { Err(self.status(doing, body).await) }
    }

    async fn status(&self, doing: &'static str, body: Body) -> OciError {
        let status = body.status;
        if matches!(status, 401 | 403) {
            return self.denied();
        }
        // The status says enough where the rest does not come.
        let says = body.whole().await.map(|answer| answer.text()).unwrap_or_default();
        let says = super::super::text::one_line(&says, 300);
        OciError::Status { registry: self.origin.to_string(), doing, status, says }
    }
}

/// For a query.
fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0_usize, |word, at| (word << 8) | usize::from(chunk.get(at).copied().unwrap_or(0)));
        for place in 0..4 {
            let digit = DIGITS.get((word >> (18 - 6 * place)) & 63).copied().unwrap_or(b'=');
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_registry_repository_and_image() {
        let digest = "a".repeat(64);
        let given = format!("oci://example.org:5000/team/policy:1.0@sha256:{digest}");
        let reference: Reference = given.parse().unwrap();
        assert_eq!((reference.registry.as_str(), reference.repository.as_str()), ("example.org:5000", "team/policy"));
        assert_eq!(reference.image, Image::Digest(digest.clone()));
        assert_eq!(reference.to_string(), format!("oci://example.org:5000/team/policy@sha256:{digest}"));
        assert_eq!("oci://a/b:1".parse::<Reference>().unwrap().image, Image::Tag("1".into()));
        assert_eq!("oci://a/b".parse::<Reference>().unwrap().image, Image::Any);
    }

    #[test]
    fn what_names_no_image_is_refused() {
        for reference in [
            "oci://example.org",
            "oci:///a",
            "oci://example.org/",
            "oci://example.org/A",
            "oci://example.org/a/../b",
            "oci://user@example.org/a",
            "oci://example.org/a?x",
            "oci://example.org/a:",
            "oci://example.org/a@sha512:00",
            "oci://example.org/a@sha256:00",
        ] {
            assert!(matches!(reference.parse::<Reference>(), Err(OciError::Reference { .. })), "{reference}");
        }
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        for (registry, tls) in [
            ("localhost:5000", false),
            ("127.0.0.1:5000", false),
            ("[::1]:5000", false),
            ("localhost.example.org", true),
            ("example.org:80", true),
        ] {
            let reference: Reference = format!("oci://{registry}/a").parse().unwrap();
            assert_eq!(reference.origin().unwrap().tls, tls, "{registry}");
        }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
