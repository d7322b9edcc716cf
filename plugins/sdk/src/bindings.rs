//! The raw bindings, generated from `wit/`. Plugins use the rest of this crate instead; only its macros come here.
//!
//! The worlds of `wit/world.wit` are put together from halves: `about`, which every plugin exports, and one per kind.
//! The linker unites the halves that a plugin exports, and gets one of the three worlds again. Were the worlds
//! bound whole, `about` would be generated three times, under one macro name. The types of `sla-profiler:base` exist
//! once; the kinds borrow them from `about`.

/// What every plugin exports and may import, and the owner of the shared types.
#[allow(missing_docs, reason = "generated: the documentation is in wit/")]
#[allow(unsafe_code, reason = "generated: the canonical ABI is raw memory")]
#[allow(clippy::all, clippy::allow_attributes_without_reason, rust_2018_idioms, reason = "generated")]
pub mod base {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package sla-profiler:guest-base;
            world base {
                import sla-profiler:base/log@0.1.0;
                import sla-profiler:base/types@0.1.0;
                export sla-profiler:base/about@0.1.0;
            }
        ",
        additional_derives: [PartialEq, Clone],
        generate_all,
        generate_unused_types: true,
        pub_export_macro: true,
        export_macro_name: "export_world",
        default_bindings_module: "sla_profiler_plugin::bindings::base",
    });
}

/// What plugins import besides that read granted folders: the linker leaves it out of those that do not.
#[allow(missing_docs, reason = "generated: the documentation is in wit/")]
#[allow(unsafe_code, reason = "generated: the canonical ABI is raw memory")]
#[allow(clippy::all, clippy::allow_attributes_without_reason, rust_2018_idioms, reason = "generated")]
pub mod files {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package sla-profiler:guest-files;
            world files { import sla-profiler:base/files@0.1.0; }
        ",
        generate_all,
    });
}

/// The half of `sweep-strategy` that is not `base`.
#[allow(missing_docs, reason = "generated: the documentation is in wit/")]
#[allow(unsafe_code, reason = "generated: the canonical ABI is raw memory")]
#[allow(clippy::all, clippy::allow_attributes_without_reason, rust_2018_idioms, reason = "generated")]
pub mod sweep {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package sla-profiler:guest-sweep;
            world sweep { export sla-profiler:sweep/strategy@0.1.0; }
        ",
        additional_derives: [PartialEq, Clone],
        with: { "sla-profiler:base/types@0.1.0": super::base::sla_profiler::base::types },
        pub_export_macro: true,
        export_macro_name: "export_world",
        default_bindings_module: "sla_profiler_plugin::bindings::sweep",
    });
}

/// The half of `selection-policy` that is not `base`.
#[allow(missing_docs, reason = "generated: the documentation is in wit/")]
#[allow(unsafe_code, reason = "generated: the canonical ABI is raw memory")]
#[allow(clippy::all, clippy::allow_attributes_without_reason, rust_2018_idioms, reason = "generated")]
pub mod selection {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package sla-profiler:guest-selection;
            world selection { export sla-profiler:selection/policy@0.1.0; }
        ",
        additional_derives: [PartialEq, Clone],
        with: { "sla-profiler:base/types@0.1.0": super::base::sla_profiler::base::types },
        pub_export_macro: true,
        export_macro_name: "export_world",
        default_bindings_module: "sla_profiler_plugin::bindings::selection",
    });
}

/// The half of `planner-model` that is not `base`.
#[allow(missing_docs, reason = "generated: the documentation is in wit/")]
#[allow(unsafe_code, reason = "generated: the canonical ABI is raw memory")]
#[allow(clippy::all, clippy::allow_attributes_without_reason, rust_2018_idioms, reason = "generated")]
pub mod planner {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package sla-profiler:guest-planner;
            world planner { export sla-profiler:planner/model@0.1.0; }
        ",
        additional_derives: [PartialEq, Clone],
        with: { "sla-profiler:base/types@0.1.0": super::base::sla_profiler::base::types },
        pub_export_macro: true,
        export_macro_name: "export_world",
        default_bindings_module: "sla_profiler_plugin::bindings::planner",
    });
}
