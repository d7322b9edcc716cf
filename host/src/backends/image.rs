//! Which container image runs what.
//!
//! NVIDIA publishes one image per engine and one with the planner (which also holds frontend and mocker) under one
//! registry path and one tag, so that one given image names all of them.

use crate::domain::Backend;

/// Dynamo release whose images are used when the user names none.
pub const DEFAULT_VERSION: &str = "1.6.1";

/// Where these images are.
pub const DEFAULT_REGISTRY: &str = "nvcr.io/nvidia/ai-dynamo";

/// Last path component of the image with planner and mocker.
const PLANNER: &str = "dynamo-planner";

/// Another image cannot be named by this one's digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image '{image}' is pinned by a digest, which {wanted} does not share; name it by a tag instead{hint}")]
pub struct DigestError {
    /// As given.
    pub image: String,
    /// The image that is needed.
    pub wanted: String,
    /// What else helps.
    pub hint: &'static str,
}

/// Last path component of an engine's image.
const fn runtime(backend: Backend) -> &'static str {
    match backend {
        Backend::Vllm => "vllm-runtime",
        Backend::Sglang => "sglang-runtime",
        Backend::Trtllm => "tensorrtllm-runtime",
    }
}

/// NVIDIA's image of an engine, for when none is given.
pub fn default_worker(backend: Backend) -> String {
    format!("{DEFAULT_REGISTRY}/{}:{DEFAULT_VERSION}", runtime(backend))
}

/// NVIDIA's image of the planner, for when none is given.
pub fn default_planner() -> String {
    format!("{DEFAULT_REGISTRY}/{PLANNER}:{DEFAULT_VERSION}")
}

/// The engine's image beside the given one: same registry path, same tag.
///
/// # Errors
/// If the given one is pinned by a digest and is not that image already.
pub fn worker(image: &str, backend: Backend) -> Result<String, DigestError> {
    sibling(image, runtime(backend), " or give the workers' image")
}

/// The planner's image beside the given one: same registry path, same tag.
///
/// # Errors
/// As [`worker`].
pub fn planner(image: &str) -> Result<String, DigestError> {
    sibling(image, PLANNER, "")
}

fn sibling(image: &str, name: &str, hint: &'static str) -> Result<String, DigestError> {
    let (path, last) = image.rsplit_once('/').map_or((None, image), |(path, last)| (Some(path), last));
    let end = last.find([':', '@']).unwrap_or(last.len());
    let (own, version) = last.split_at(end);
    if own == name {
        return Ok(image.to_owned());
    }
    if version.contains('@') {
        return Err(DigestError { image: image.to_owned(), wanted: name.to_owned(), hint });
    }
    Ok(path.map_or_else(|| format!("{name}{version}"), |path| format!("{path}/{name}{version}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_and_tag_are_kept() {
        let cases = [
            ("nvcr.io/nvidia/ai-dynamo/dynamo-planner:1.1.1", "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.1.1"),
            ("localhost:5000/sglang-runtime:dev", "localhost:5000/vllm-runtime:dev"),
            ("localhost:5000/team/dynamo", "localhost:5000/team/vllm-runtime"),
            ("dynamo:1", "vllm-runtime:1"),
        ];
        for (given, wanted) in cases {
            assert_eq!(worker(given, Backend::Vllm).unwrap(), wanted);
        }
        assert_eq!(planner("r/trtllm:7").unwrap(), "r/dynamo-planner:7");
    }

    #[test]
    fn a_digest_names_one_image_only() {
        let pinned = "r/vllm-runtime:1@sha256:00ff";
        assert_eq!(worker(pinned, Backend::Vllm).unwrap(), pinned);
        let error = worker(pinned, Backend::Trtllm).unwrap_err().to_string();
        assert!(error.contains(pinned) && error.contains("tensorrtllm-runtime"), "{error}");
    }
}
