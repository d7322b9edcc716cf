//! Results as ConfigMaps: `dgdr-output-<name>`, as Dynamo's sidecar writes it, and more of them where one is too small.

use std::collections::BTreeMap;

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::connect::Kube;
use super::error::{Action, ClusterError};
use super::owner::Owner;
use super::{FIELD_MANAGER, MANAGED_BY};

/// Most bytes in one ConfigMap: the API server takes 1 MiB, names and managed fields included.
const MOST_BYTES: usize = 900_000;

/// Key that lists the other ConfigMaps.
const PARTS: &str = "parts";

/// Name of the ConfigMap of a request.
pub fn name(request: &str) -> String {
    format!("dgdr-output-{request}")
}

/// One ConfigMap's content.
type Data = BTreeMap<String, String>;

/// Distributes files over ConfigMaps: the first ones into the first, in the order given. A file that fits into none is
/// cut into `name.000`, `name.001`, …, to be put together again with `cat`.
fn split(files: &[(String, String)], most: usize) -> Vec<Data> {
    let mut maps = vec![Data::new()];
    let mut used = 0;
    let mut put = |name: String, text: &str| {
        let size = name.len() + text.len();
        if used + size > most && used > 0 {
            maps.push(Data::new());
            used = 0;
        }
        used += size;
        if let Some(last) = maps.last_mut() {
            last.insert(name, text.to_owned());
        }
    };
    for (name, text) in files {
        let room = most.saturating_sub(name.len() + 4).max(1);
        if text.len() <= room {
            put(name.clone(), text);
            continue;
        }
        let mut rest = text.as_str();
        for part in 0.. {
            if rest.is_empty() {
                break;
            }
            let mut end = room.min(rest.len());
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            // A character is at most four bytes long; a room below that is no room.
            let (head, tail) = if end == 0 { (rest, "") } else { rest.split_at(end) };
            put(format!("{name}.{part:03}"), head);
            rest = tail;
        }
    }
    maps
}

/// The ConfigMaps of a request's results.
pub fn config_maps(owner: &Owner, namespace: &str, files: &[(String, String)]) -> Vec<Value> {
    let first = name(&owner.request);
    let mut maps = split(files, MOST_BYTES);
    let names: Vec<String> =
        (0..maps.len()).map(|n| if n == 0 { first.clone() } else { format!("{first}-{n}") }).collect();
    if names.len() > 1
        && let (Some(map), Some((_, others))) = (maps.first_mut(), names.split_first())
    {
        map.insert(PARTS.to_owned(), others.join("\n"));
    }
    let object = |(name, data): (&String, Data)| {
        let mut map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": name, "labels": { "nvidia.com/managed-by": MANAGED_BY.1 } },
            "data": data,
        });
        owner.mark(&mut map, namespace);
        map
    };
    names.iter().zip(maps).map(object).collect()
}

impl Kube {
    /// Writes a ConfigMap as a whole; fields that others own are taken over, since the name is ours by convention.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn apply_config_map(&self, map: &Value) -> Result<(), ClusterError> {
        let name = map.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let action = Action::on("patch", "configmaps", &self.namespace, name);
        let api = self.config_maps();
        let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
        let patch = Patch::Apply(map);
        self.call(&action, || api.patch(name, &params, &patch)).await.map(|_| ())
    }

    /// Writes a ConfigMap that only we may have; one of the same name whose fields somebody else wrote is left as it is.
    ///
    /// # Errors
    /// [`ClusterError::Foreign`] if it is not ours; else what the API server says.
    pub async fn apply_own_config_map(&self, map: &Value) -> Result<(), ClusterError> {
        let name = map.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let action = Action::on("patch", "configmaps", &self.namespace, name);
        let api = self.config_maps();
        let params = PatchParams::apply(FIELD_MANAGER).validation_strict();
        let patch = Patch::Apply(map);
        match self.call(&action, || api.patch(name, &params, &patch)).await {
            Err(ClusterError::Conflict { message, .. }) => Err(ClusterError::Foreign {
                resource: "configmaps".to_owned(),
                name: name.to_owned(),
                namespace: self.namespace.clone(),
                why: message,
            }),
            other => other.map(|_| ()),
        }
    }

    /// A ConfigMap as it may be applied again, if it is there.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn config_map(&self, name: &str) -> Result<Option<Value>, ClusterError> {
        let action = Action::on("get", "configmaps", &self.namespace, name);
        let api = self.config_maps();
        let Some(map) = self.call(&action, || api.get_opt(name)).await? else { return Ok(None) };
        let metadata = json!({
            "name": name, "namespace": self.namespace,
            "labels": map.metadata.labels, "annotations": map.metadata.annotations,
        });
        let kind = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata });
        let mut value = kind;
        if let (Some(data), Some(value)) = (map.data, value.as_object_mut()) {
            value.insert("data".to_owned(), json!(data));
        }
        Ok(Some(value))
    }

    /// Deletes a ConfigMap; that it is gone already is fine.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn delete_config_map(&self, name: &str) -> Result<(), ClusterError> {
        let action = Action::on("delete", "configmaps", &self.namespace, name);
        let api = self.config_maps();
        let params = DeleteParams::default();
        match self.call(&action, || api.delete(name, &params)).await {
            Ok(_) | Err(ClusterError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes a request's results.
    ///
    /// # Errors
    /// If the API server refuses one of them.
    pub async fn write_output(&self, owner: &Owner, files: &[(String, String)]) -> Result<(), ClusterError> {
        for map in config_maps(owner, &self.namespace, files) {
            self.apply_config_map(&map).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(sizes: &[(&str, usize)]) -> Vec<(String, String)> {
        sizes.iter().map(|(name, size)| ((*name).to_owned(), "é".repeat(size / 2))).collect()
    }

    #[test]
    fn what_fits_stays_in_one_map() {
        let maps = split(&files(&[("a", 10), ("b", 20)]), 100);
        assert_eq!(maps.len(), 1);
        assert_eq!(maps[0].len(), 2);
    }

    #[test]
    fn nothing_is_lost_and_no_map_is_too_large() {
        let files = files(&[("final_config.yaml", 30), ("result.json", 250), ("x", 90)]);
        let maps = split(&files, 100);
        for map in &maps {
            let size: usize = map.iter().map(|(name, text)| name.len() + text.len()).sum();
            assert!(size <= 100, "{size}");
        }
        let all: BTreeMap<&String, &String> = maps.iter().flatten().collect();
        let whole: String =
            all.iter().filter(|(name, _)| name.starts_with("result.json.")).map(|(_, t)| t.as_str()).collect();
        assert_eq!(whole, files[1].1);
        assert!(maps[0].contains_key("final_config.yaml"), "what matters most comes first");
    }

    #[test]
    fn the_first_map_names_the_others() {
        let owner = Owner::new("req", None, "");
        let maps = config_maps(&owner, "ns", &files(&[("a", 600_000), ("b", 600_000)]));
        let names: Vec<_> = maps.iter().map(|map| map["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["dgdr-output-req", "dgdr-output-req-1"]);
        assert_eq!(maps[0]["data"]["parts"], "dgdr-output-req-1");
    }
}
