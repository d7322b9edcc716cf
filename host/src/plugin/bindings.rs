//! The contract in Rust: everything that `wit/` says, generated. No other module calls `bindgen!`, and only `convert`
//! and the adapters name what is generated here.

#![allow(missing_docs, reason = "the documentation of generated items is in wit/")]

/// `world sweep-strategy`, and the interfaces that all worlds share.
pub mod sweep {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "sla-profiler:plugins/sweep-strategy",
        require_store_data_send: true,
    });
}

/// `world selection-policy`.
pub mod selection {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "sla-profiler:plugins/selection-policy",
        with: {
            "sla-profiler:base/types@0.1.0": super::types,
            "sla-profiler:base/log@0.1.0": super::log,
        },
    });
}

/// `world planner-model`.
pub mod planner {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "sla-profiler:plugins/planner-model",
        with: {
            "sla-profiler:base/types@0.1.0": super::types,
            "sla-profiler:base/log@0.1.0": super::log,
        },
    });
}

/// `interface about` alone: what every plugin exports, whatever its kind.
pub mod about {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package sla-profiler:host@0.1.0;
            world described { export sla-profiler:base/about@0.1.0; }
        ",
        world: "sla-profiler:host/described",
    });
}

/// `interface files` alone: the one ability that the user can grant.
pub mod granted {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package sla-profiler:host@0.1.0;
            world granted { import sla-profiler:base/files@0.1.0; }
        ",
        world: "sla-profiler:host/granted",
    });
}

pub use granted::sla_profiler::base::files;
pub use sweep::sla_profiler::base::{log, types};
