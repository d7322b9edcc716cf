//! The plugins that come with the program, through the same door as a stranger's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use sla_profiler::plugin::api::Kind;
use sla_profiler::plugin::{HostOptions, PluginHost, bundled, default_choice};
use sla_profiler::spec::{PluginChoice, PluginSource};

fn host(cache: &std::path::Path) -> PluginHost {
    PluginHost::new(HostOptions { cache: Some(cache.to_owned()), ..HostOptions::default() }).unwrap()
}

#[test]
fn every_bundled_plugin_fits_its_world_and_says_who_it_is() {
    assert!(!bundled::all().is_empty(), "this build carries no plugins: run `cargo xtask plugins` and build again");
    let cache = tempfile::tempdir().unwrap();
    let host = host(&cache.path().join("cache"));
    let listed = host.bundled().unwrap();
    for (plugin, file) in listed.iter().zip(bundled::all()) {
        assert_eq!(plugin.identity.name, file.name, "the name that the user gives is the plugin's own");
        assert!(plugin.identity.bundled && !plugin.summary.is_empty());
        let source = PluginSource::Named(file.name.to_owned());
        let settings = plugin.settings.iter().map(|s| (s.name.clone(), s.default.clone())).collect();
        let choice = PluginChoice { settings, ..PluginChoice::new(source) };
        host.load(plugin.identity.kind, &choice).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn there_is_a_default_of_each_kind() {
    let cache = tempfile::tempdir().unwrap();
    let host = host(&cache.path().join("cache"));
    for kind in Kind::ALL {
        let plugin = host.load(kind, &default_choice(kind)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(plugin.identity().kind, kind);
    }
    let defaults = host.bundled().unwrap().into_iter().filter(|plugin| plugin.default).count();
    assert_eq!(defaults, Kind::ALL.len());
}
