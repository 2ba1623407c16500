//! The codecs that are made from the Rust types are those that are committed, and leave no component out.

use std::collections::BTreeSet;
use std::path::Path;
use vsekai_bench::world;
use vsekai_sim::registry::{Registry, Seen};
use vsekai_sim::{SimConfig, Simulation};
use vsekai_tests::codecs::{model, stale};

#[test]
fn committed_codecs_are_what_the_types_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    assert_eq!(stale(root).unwrap(), Vec::<&str>::new(), "not what the Rust types say: run `cargo xtask codecs`");
}

#[test]
fn every_component_that_clients_are_told_has_a_codec() {
    let mut simulation = Simulation::create(&SimConfig { half_m: 64, ..SimConfig::default() }, &world::content());
    let registry: &Registry = simulation.world_mut().get_resource().unwrap();
    let told = registry.entries().iter().filter(|entry| entry.seen != Seen::Never);
    let told: BTreeSet<_> = told.map(|entry| (entry.tag.0, entry.name)).collect();
    let model = model::of_the_wire().unwrap();
    assert_eq!(model.components.iter().map(|component| (component.tag, component.name)).collect::<BTreeSet<_>>(), told);
}
