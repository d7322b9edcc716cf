//! Which GPUs the cluster has, from the labels that NVIDIA's GPU feature discovery puts on nodes.
//!
//! All kinds are looked at and nothing is capped. Where there is more than one kind, somebody has to say which; what
//! is left out, and where nodes differ, is said.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};

use super::connect::Kube;
use super::error::{Action, ClusterError};
use crate::spec::{Discovered, find_gpu};

/// Label with the GPU's name.
const PRODUCT: &str = "nvidia.com/gpu.product";
/// Label with the number of GPUs.
const COUNT: &str = "nvidia.com/gpu.count";
/// Label with the memory of one GPU, MiB.
const MEMORY: &str = "nvidia.com/gpu.memory";
/// Resource that pods ask for.
const RESOURCE: &str = "nvidia.com/gpu";
/// Nodes per request.
const PAGE: u32 = 250;

/// One kind of GPU in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuKind {
    /// As the label says, `NVIDIA-H200`.
    pub product: String,
    /// As the catalog calls it, if it knows it.
    pub sku: Option<String>,
    /// GPUs of a node, and how many nodes have so many.
    pub nodes: BTreeMap<u32, u32>,
    /// Memory of one GPU in MiB, if the label is there.
    pub memory_mib: Option<u64>,
}

impl GpuKind {
    /// All of them.
    pub fn total(&self) -> u32 {
        self.nodes.iter().map(|(gpus, nodes)| gpus * nodes).sum()
    }

    /// The node size that holds most of the GPUs; the larger one of two.
    pub fn per_node(&self) -> u32 {
        self.nodes.iter().max_by_key(|(gpus, nodes)| (*gpus * *nodes, **gpus)).map_or(0, |(gpus, _)| *gpus)
    }
}

impl std::fmt::Display for GpuKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sizes: Vec<String> = self.nodes.iter().rev().map(|(gpus, nodes)| format!("{nodes} x {gpus}")).collect();
        let nodes: u32 = self.nodes.values().sum();
        write!(f, "{} {} in {nodes} node(s) ({})", self.total(), self.product, sizes.join(", "))
    }
}

/// What nodes say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// By product.
    pub kinds: Vec<GpuKind>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Kube {
    /// Looks at all nodes.
    ///
    /// # Errors
    /// If they cannot be listed; nodes belong to the whole cluster, so a namespaced Role does not allow it.
    pub async fn gpus(&self) -> Result<Inventory, ClusterError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let action = Action::cluster("list", "nodes");
        let mut found = Vec::new();
        let mut params = ListParams::default().labels(PRODUCT).limit(PAGE);
        loop {
            let page = self.call(&action, || nodes.list(&params)).await?;
            found.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(inventory(&found)),
            }
        }
    }
}

fn inventory(nodes: &[Node]) -> Inventory {
    let mut kinds: BTreeMap<String, GpuKind> = BTreeMap::new();
    let mut notes = Vec::new();
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or("?");
        let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
        let Some(product) = label(PRODUCT) else { continue };
        if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
            notes.push(format!("node {name} is left out: it is cordoned"));
            continue;
        }
        let status = node.status.as_ref();
        let ready = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        if ready.filter(|condition| condition.type_ == "Ready").any(|condition| condition.status != "True") {
            notes.push(format!("node {name} is left out: it is not ready"));
            continue;
        }
        // What pods can get: device plugins know of broken GPUs and of MIG, labels do not.
        let allocatable = status.and_then(|s| s.allocatable.as_ref()).and_then(|all| all.get(RESOURCE));
        let allocatable = allocatable.and_then(|quantity| quantity.0.parse::<u32>().ok());
        let labelled = label(COUNT).and_then(|count| count.parse::<u32>().ok());
        let gpus = match (allocatable, labelled) {
            (Some(allocatable), Some(labelled)) if allocatable != labelled => {
                notes
                    .push(format!("node {name} has {labelled} GPUs by its label and gives pods {allocatable} of them"));
                allocatable
            }
            (Some(gpus), _) | (None, Some(gpus)) => gpus,
            (None, None) => {
                notes.push(format!("node {name} is left out: it does not say how many GPUs it has ({COUNT})"));
                continue;
            }
        };
        if gpus == 0 {
            notes.push(format!("node {name} is left out: it gives pods no GPU"));
            continue;
        }
        let kind = kinds.entry(product.to_owned()).or_insert_with(|| GpuKind {
            product: product.to_owned(),
            sku: find_gpu(product).ok().map(|gpu| gpu.name),
            nodes: BTreeMap::new(),
            memory_mib: label(MEMORY).and_then(|mib| mib.parse().ok()),
        });
        *kind.nodes.entry(gpus).or_default() += 1;
    }
    Inventory { kinds: kinds.into_values().collect(), notes }
}

impl Inventory {
    /// The hardware of a job: the one kind that there is, or the one that `sku` names.
    ///
    /// # Errors
    /// If there is none, several and nobody chose, or one that the catalog does not know.
    pub fn hardware(&self, sku: Option<&str>) -> Result<Discovered, ClusterError> {
        let all = self.kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let wanted = sku.and_then(|sku| find_gpu(sku).ok()).map(|gpu| gpu.name);
        let fitting: Vec<&GpuKind> = match &wanted {
            Some(wanted) => self.kinds.iter().filter(|kind| kind.sku.as_ref() == Some(wanted)).collect(),
            None => self.kinds.iter().collect(),
        };
        let mut notes = self.notes.clone();
        let kind = match (fitting.as_slice(), &wanted) {
            ([kind], _) => *kind,
            ([], Some(wanted)) if self.kinds.is_empty() => {
                return Err(ClusterError::Unusable(format!(
                    "the request is for {wanted}, and no usable node carries the label {PRODUCT}; {}",
                    "say how many there are: hardware.totalGpus and hardware.numGpusPerNode"
                )));
            }
            ([], Some(wanted)) => {
                return Err(ClusterError::Unusable(format!("the request is for {wanted}, and the cluster has {all}")));
            }
            ([], None) => {
                return Err(ClusterError::Unusable(format!(
                    "no usable node carries the label {PRODUCT}; install NVIDIA's GPU feature discovery, or say which \
                     GPUs there are: hardware.gpuSku, numGpusPerNode and totalGpus"
                )));
            }
            // The same kind under several product names: SXM boards differ in them.
            (several, Some(_)) => {
                let kind = several.iter().max_by_key(|kind| kind.total());
                notes.push(format!("several products are that kind: {all}; the most frequent one counts"));
                kind.copied().ok_or_else(|| ClusterError::Unusable(all.clone()))?
            }
            (_, None) => {
                return Err(ClusterError::Unusable(format!(
                    "the cluster has several kinds of GPU: {all}; say which one with hardware.gpuSku (--gpu-sku)"
                )));
            }
        };
        let Some(sku) = wanted.or_else(|| kind.sku.clone()) else {
            return Err(ClusterError::Unusable(format!(
                "the catalog does not know the GPU {}; give its figures in profiler.gpu",
                kind.product
            )));
        };
        if self.kinds.len() > 1 {
            notes.push(format!("only {} is used of what the cluster has: {all}", kind.product));
        }
        if kind.nodes.len() > 1 {
            notes.push(format!("nodes differ: {kind}; an engine may use up to {} GPUs of one node", kind.per_node()));
        }
        Ok(Discovered {
            gpu_sku: sku,
            gpus_per_node: kind.per_node(),
            total_gpus: kind.total(),
            from: kind.to_string(),
            notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, product: &str, labelled: u32, allocatable: Option<u32>) -> Node {
        let allocatable = allocatable.map(|gpus| json!({ RESOURCE: gpus.to_string() }));
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { PRODUCT: product, COUNT: labelled.to_string(), MEMORY: "143771" } },
            "status": { "allocatable": allocatable, "conditions": [{ "type": "Ready", "status": "True" }] },
        }))
        .unwrap()
    }

    #[test]
    fn one_kind_is_taken_whole_without_a_cap() {
        let nodes: Vec<Node> = (0..9).map(|n| node(&format!("n{n}"), "NVIDIA-H200", 8, Some(8))).collect();
        let hardware = inventory(&nodes).hardware(None).unwrap();
        assert_eq!((hardware.gpu_sku.as_str(), hardware.gpus_per_node, hardware.total_gpus), ("h200_sxm", 8, 72));
        assert!(hardware.notes.is_empty(), "{:?}", hardware.notes);
    }

    #[test]
    fn of_several_kinds_somebody_must_choose_and_the_others_are_named() {
        let nodes = [node("a", "NVIDIA-H200", 8, Some(8)), node("b", "NVIDIA-H100-80GB-HBM3", 8, None)];
        let inventory = inventory(&nodes);
        let error = inventory.hardware(None).unwrap_err().to_string();
        assert!(error.contains("NVIDIA-H200") && error.contains("NVIDIA-H100-80GB-HBM3"), "{error}");
        let hardware = inventory.hardware(Some("h100_sxm")).unwrap();
        assert_eq!((hardware.gpu_sku.as_str(), hardware.total_gpus), ("h100_sxm", 8));
        assert!(hardware.notes.iter().any(|note| note.contains("only NVIDIA-H100")), "{:?}", hardware.notes);
        let error = inventory.hardware(Some("l40s")).unwrap_err().to_string();
        assert!(error.contains("the request is for l40s"), "{error}");
    }

    #[test]
    fn what_pods_cannot_get_does_not_count_and_is_named() {
        let mut cordoned = node("cordoned", "NVIDIA-H200", 8, Some(8));
        cordoned.spec = Some(serde_json::from_value(json!({ "unschedulable": true })).unwrap());
        let nodes = [node("a", "NVIDIA-H200", 8, Some(7)), node("b", "NVIDIA-H200", 8, Some(8)), cordoned];
        let hardware = inventory(&nodes).hardware(None).unwrap();
        assert_eq!((hardware.gpus_per_node, hardware.total_gpus), (8, 15));
        for said in ["cordoned is left out", "gives pods 7", "nodes differ"] {
            assert!(hardware.notes.iter().any(|note| note.contains(said)), "{said}: {:?}", hardware.notes);
        }
    }

    #[test]
    fn an_unknown_gpu_and_no_gpu_at_all_say_what_to_give() {
        let odd = inventory(&[node("a", "NVIDIA-Z9", 8, None)]).hardware(None).unwrap_err().to_string();
        assert!(odd.contains("NVIDIA-Z9") && odd.contains("profiler.gpu"), "{odd}");
        let none = inventory(&[]).hardware(None).unwrap_err().to_string();
        assert!(none.contains(PRODUCT), "{none}");
    }
}
