//! Which rights requests need, and which ones a Role gives.

use std::collections::BTreeSet;

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::proxy::Asked;

/// `apiGroup resource verb`, the resource with its subresource.
pub type Rights = BTreeSet<String>;

/// What the requests needed in a namespace or cluster, as the API server derives it from path and method.
pub fn used(asked: &[Asked]) -> Rights {
    let mut rights = Rights::new();
    for asked in asked {
        let Some((group, resource, named)) = object(&asked.path) else { continue };
        let watch = asked.is_watch();
        let verb = match (&asked.method, named) {
            (&Method::GET, true) => "get",
            (&Method::GET, false) if watch => "watch",
            (&Method::GET, false) => "list",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::PATCH, _) => "patch",
            (&Method::DELETE, _) => "delete",
            (method, _) => panic!("{method} {}", asked.path),
        };
        rights.insert(format!("{group} {resource} {verb}"));
        // Server-side apply of what is not there yet.
        if asked.method == Method::PATCH && asked.status == Some(StatusCode::CREATED) {
            rights.insert(format!("{group} {resource} create"));
        }
    }
    rights
}

/// Group, resource with subresource, and whether one object is meant; nothing for discovery and health.
fn object(path: &str) -> Option<(String, String, bool)> {
    let path = path.split('?').next()?;
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let group = match *parts.first()? {
        "api" => "".to_owned(),
        "apis" => (*parts.get(1)?).to_owned(),
        _ => return None,
    };
    parts.drain(..if group.is_empty() { 2 } else { 3 }.min(parts.len()));
    if parts.first() == Some(&"namespaces") && parts.len() > 2 {
        parts.drain(..2);
    }
    let resource = *parts.first()?;
    let subresource = parts.get(2).map(|subresource| format!("/{subresource}")).unwrap_or_default();
    Some((group, format!("{resource}{subresource}"), parts.len() > 1))
}

/// What a Role gives.
pub fn given(role: &Value) -> Rights {
    let mut rights = Rights::new();
    let texts = |rule: &Value, key: &str| -> Vec<String> {
        let list = rule.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    for rule in role.get("rules").and_then(Value::as_array).expect("rules") {
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                for verb in texts(rule, "verbs") {
                    assert!(![&group, &resource, &verb].contains(&&"*".to_owned()), "a Role names what it gives");
                    rights.insert(format!("{group} {resource} {verb}"));
                }
            }
        }
    }
    rights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, path: &str, status: u16) -> Asked {
        Asked { method, path: path.to_owned(), status: StatusCode::from_u16(status).ok() }
    }

    #[test]
    fn rights_are_read_from_requests() {
        let rights = used(&[
            asked(Method::GET, "/version", 200),
            asked(Method::GET, "/apis/nvidia.com/v1beta1", 200),
            asked(Method::GET, "/api/v1/namespaces/a/pods?labelSelector=x&watch=true", 200),
            asked(Method::GET, "/api/v1/namespaces/a/pods/p/log?follow=true", 200),
            asked(Method::PATCH, "/apis/nvidia.com/v1beta1/namespaces/a/dynamographdeployments/d?fieldManager=x", 201),
            asked(Method::GET, "/api/v1/nodes", 403),
        ]);
        let expected = [
            " nodes list",
            " pods watch",
            " pods/log get",
            "nvidia.com dynamographdeployments create",
            "nvidia.com dynamographdeployments patch",
        ];
        assert_eq!(rights.into_iter().collect::<Vec<_>>(), expected);
    }
}
