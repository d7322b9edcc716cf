//! GPUs and how they are put together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One kind of GPU, with published peak figures (dense, without sparsity).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuSku {
    /// As in `hardware.gpuSku`, for example `h200_sxm`.
    pub name: String,
    /// Memory in bytes.
    pub memory_bytes: f64,
    /// 16-bit tensor FLOP/s.
    pub bf16_flops: f64,
    /// 8-bit floating point tensor FLOP/s; absent where the GPU has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fp8_flops: Option<f64>,
    /// 4-bit floating point tensor FLOP/s; absent where the GPU has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fp4_flops: Option<f64>,
    /// Memory bandwidth in bytes per second.
    pub memory_bytes_per_second: f64,
    /// To other GPUs of the node (NVLink or PCIe), one direction, bytes per second and GPU.
    pub link_bytes_per_second: f64,
    /// To GPUs of other nodes (one NIC per GPU), one direction, bytes per second and GPU.
    pub network_bytes_per_second: f64,
    /// GPUs in one node, where the SKU settles it.
    pub gpus_per_node: u32,
    /// Where the figures come from.
    #[serde(default)]
    pub source: String,
}

/// What the job may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hardware {
    /// The one kind of GPU.
    pub gpu: GpuSku,
    /// GPUs in one node.
    pub gpus_per_node: u32,
    /// GPU budget over all nodes, for profiling and for the plan.
    pub total_gpus: u32,
}
