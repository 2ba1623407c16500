//! What the frame, the hash and the payloads promise, for any component; and a component added in the way that
//! ARCHITECTURE.md shows, found on disk and on the wire.

use super::*;
use crate::port::Wanted;
use crate::scenario::{ID_BLOCK, Scenario, content};
use crate::schedule::{Tick, TickSet};
use crate::space::{Placement, Pose, Present, spawn_with_id};
use crate::world::Ids;
use crate::{SimConfig, Simulation};
use serde::Deserialize;
use std::collections::BTreeMap;
use vsekai_schema::id::EntityId;
use vsekai_schema::record::{FrameReader, Home, IdBlock};
use vsekai_schema::units::Position;
use vsekai_schema::wire::view::{ComponentsWriter, Operation, ViewWriter, decode_view};

/// The whole of a new feature, as in ARCHITECTURE.md.
mod warmth {
    use super::*;

    #[derive(Component, Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub(super) struct Warmth {
        pub(super) decidegrees: i16,
    }

    impl Declared for Warmth {
        const TAG: u16 = 900;
        const NAME: &'static str = "warmth";
        const SEEN: Seen = Seen::Nearby;
    }

    pub(super) fn plugin(app: &mut App) {
        app.declare::<Warmth>();
        app.add_systems(Tick, cool_down.in_set(TickSet::Live).before(crate::resource::RegrowSet));
    }

    fn cool_down(mut warm: Query<'_, '_, &mut Warmth, With<Present>>) {
        for mut warmth in &mut warm {
            warmth.decidegrees = warmth.decidegrees.saturating_sub(1);
        }
    }
}

fn config() -> SimConfig {
    SimConfig { half_m: 64, ..SimConfig::default() }
}

/// The components of `entity` that a frame record writes.
fn written(record: &[u8], entity: EntityId) -> BTreeMap<u16, Vec<u8>> {
    let mut reader = FrameReader::new(record).unwrap();
    let mut found = BTreeMap::new();
    while let Some(change) = reader.next_change().unwrap() {
        if change.entity == entity {
            found.extend(change.components.unwrap().into_iter().map(|(tag, bytes)| (tag.0, bytes.to_vec())));
        }
    }
    found
}

#[test]
fn a_component_declared_in_one_place_is_on_disk_and_on_the_wire() {
    let mut scene = Scenario::of(Simulation::create_with(&config(), &content(), |app| {
        app.add_plugins(warmth::plugin);
    }));
    let player = scene.join("anna");
    let entity = scene.entity(player);
    scene.world().entity_mut(entity).insert(warmth::Warmth { decidegrees: 365 });
    scene.tick();
    let expected = [&[1u8][..], &postcard_of(&warmth::Warmth { decidegrees: 364 })].concat();
    assert_eq!(written(&scene.last.record, player)[&900], expected, "in the journal");

    let event = scene.last.events.iter().find(|event| event.id == player).unwrap();
    let view = scene.simulation.view();
    assert!(view.audience(event.changed).nearby);
    let (mut message, mut components) = (ViewWriter::default(), ComponentsWriter::default());
    view.write(player, Wanted { mask: event.changed, owner: false, nearby: true, fast: false }, &mut components);
    message.change(player, &components);
    let payload = message.finish(1);
    let warmth = postcard_of(&warmth::Warmth { decidegrees: 364 });
    let expected = Operation::Change { id: player, components: vec![(Tag(900), &warmth[..])] };
    assert_eq!(decode_view(&payload).unwrap().operations, [expected]);

    let saved = scene.simulation.payloads();
    let payloads = saved.chunks.iter().map(|(_, p)| &p[..]).chain(saved.alone.iter().map(|(_, p)| &p[..]));
    let ids = IdBlock { next: saved.ids_used_to, end: saved.ids_used_to + ID_BLOCK };
    let restore = |extra: fn(&mut App)| {
        Simulation::restore_with(&config(), &content(), saved.frame, saved.state_hash, ids, payloads.clone(), extra)
    };
    let mut restored = restore(|app| {
        app.add_plugins(warmth::plugin);
    })
    .unwrap();
    let mut lines = Vec::new();
    restored.dump(|id, name, text| lines.push(format!("{id} {name} {text}")));
    assert!(lines.contains(&format!("{player} warmth Warmth {{ decidegrees: 364 }}")), "in the dump");
    let unknown = restore(|_| {}).err().unwrap().to_string();
    assert!(unknown.contains("tag 900"), "{unknown}");
}

fn postcard_of<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    write_postcard(&mut out, value);
    out
}

#[test]
fn the_incremental_hash_is_the_hash_computed_from_scratch() {
    let mut scene = Scenario::new();
    let player = scene.join("anna");
    let node = scene.node_beside(player, "pine", 3);
    for round in 0..200u32 {
        use vsekai_schema::wire::{Command, Input, MoveInput};
        let step =
            MoveInput { sequence: round + 1, direction_x: 100, direction_z: (round % 255) as i8, yaw: 9, sprint: true };
        scene.submit(player, Input::Move(step));
        scene.queue(player, Command::Harvest { node });
        scene.queue(player, Command::MoveItems { from: (round % 5) as u8, to: (round % 7) as u8, count: 1 });
        scene.tick();
    }
    let incremental = scene.simulation.state_hash();
    // `restart` refuses a world whose hash from scratch is another.
    scene.restart();
    assert_eq!(scene.simulation.state_hash(), incremental);
    let entity = scene.entity(node);
    scene.world().despawn(entity);
    scene.tick();
    assert_ne!(scene.simulation.state_hash(), incremental);
    scene.restart();
}

#[test]
fn an_entity_that_changes_its_chunk_leaves_the_old_one() {
    let mut scene = Scenario::new();
    let player = scene.join("anna");
    let node = scene.node_beside(player, "pine", 3);
    scene.tick();
    let old = scene.get::<Placement>(node).position.chunk();
    let entity = scene.entity(node);
    let position = Position::new(old.x * 32_000 + 32_500, 0, old.z * 32_000);
    scene.world().entity_mut(entity).insert(Placement { position, yaw: 0 });
    scene.tick();
    let mut reader = FrameReader::new(&scene.last.record).unwrap();
    let mut changes = Vec::new();
    while let Some(change) = reader.next_change().unwrap() {
        if change.entity == node {
            changes.push((change.home, change.components.map(|c| c.len())));
        }
    }
    assert_eq!(changes, [(Home::Chunk(old), None), (Home::Chunk(position.chunk()), Some(2))]);
    scene.restart();
}

#[test]
fn however_a_home_changes_the_stored_world_is_the_same() {
    let mut scene = Scenario::new();
    let player = scene.join("anna");
    let ids: Vec<EntityId> = (0..5).map(|_| scene.node_beside(player, "pine", 3)).collect();
    let body = scene.entity(player);
    scene.tick();
    let at = scene.get::<Placement>(ids[0]).position;
    let away = Placement { position: Position { x: at.x + 40_000, ..at }, yaw: 0 };
    let entities: Vec<_> = ids.iter().map(|id| scene.entity(*id)).collect();
    let world = scene.world();
    // Moved and gone in one tick; taken up and gone; taken up; taken up and put elsewhere; somebody alone gets a place.
    world.entity_mut(entities[0]).insert(away.clone());
    world.despawn(entities[0]);
    world.entity_mut(entities[1]).remove::<Placement>();
    world.despawn(entities[1]);
    world.entity_mut(entities[2]).remove::<Placement>();
    world.entity_mut(entities[3]).remove::<Placement>();
    world.entity_mut(entities[3]).insert(away.clone());
    world.entity_mut(body).insert(away.clone());
    scene.tick();
    scene.world().entity_mut(body).remove::<Placement>();
    let mut reader = FrameReader::new(&scene.last.record).unwrap();
    let mut changes: BTreeMap<u64, Vec<(Home, bool)>> = BTreeMap::new();
    while let Some(change) = reader.next_change().unwrap() {
        changes.entry(change.entity.0).or_default().push((change.home, change.components.is_some()));
    }
    let (old, new) = (Home::Chunk(at.chunk()), Home::Chunk(away.position.chunk()));
    let of = |id: EntityId| changes.get(&id.0).cloned().unwrap_or_default();
    assert_eq!(of(ids[0]), [(old, false)]);
    assert_eq!(of(ids[1]), [(old, false)]);
    assert_eq!(of(ids[2]), [(old, false), (Home::Alone, true)]);
    assert_eq!(of(ids[3]), [(old, false), (new, true)]);
    assert_eq!(of(player), [(Home::Alone, false), (new, true)]);
    assert_eq!(of(ids[4]), []);
    scene.tick();
    scene.restart();
    assert_eq!(scene.tick().events, [], "a restored world changes nothing by itself");
}

#[test]
fn nothing_happens_at_no_cost() {
    let mut scene = Scenario::new();
    scene.join("anna");
    scene.tick();
    let hash = scene.simulation.state_hash();
    scene.tick();
    assert_eq!(scene.last.events, []);
    assert_eq!(scene.simulation.state_hash(), hash);
    assert!(scene.last.record.len() < 16, "an empty frame has {} bytes", scene.last.record.len());
}

#[test]
#[should_panic(expected = "share a tag or name")]
fn a_tag_given_twice_is_refused_at_start() {
    #[derive(Component, Debug, Serialize, Deserialize)]
    struct Impostor;
    impl Declared for Impostor {
        const TAG: u16 = Pose::TAG;
        const NAME: &'static str = "impostor";
    }
    Simulation::create_with(&config(), &content(), |app| {
        app.declare::<Impostor>();
    });
}

#[test]
#[should_panic(expected = "ambigu")]
fn an_ambiguous_system_order_is_refused_at_start() {
    fn left(_: ResMut<'_, Ids>) {}
    fn right(_: ResMut<'_, Ids>) {}
    let mut simulation = Simulation::create_with(&config(), &content(), |app| {
        app.add_systems(Tick, (left, right).in_set(TickSet::Move));
    });
    simulation.tick();
}

#[test]
fn an_id_twice_in_a_world_is_a_broken_invariant() {
    let mut scene = Scenario::new();
    let player = scene.join("anna");
    let twice = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| spawn_with_id(scene.world(), player, ())));
    assert!(twice.is_err());
    let mut part = ComponentsWriter::default();
    assert!(scene.simulation.view().write(player, Wanted::OWN, &mut part), "the first one is still there");
}

mod random_bytes {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// Any bytes as the disk record of any component, and as a whole payload: a component or an error, never a panic.
        #[test]
        fn no_record_panics(records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..8)) {
            let mut world = World::new();
            let mut app = App::empty();
            app.add_plugins((
                crate::schedule::plugin,
                crate::record::plugin,
                crate::space::plugin,
                crate::world::plugin,
                crate::player::plugin,
                crate::resource::plugin,
                crate::inventory::plugin,
                crate::build::plugin,
                crate::ledger::plugin,
            ));
            std::mem::swap(&mut world, app.world_mut());
            world.resource_scope(|world, registry: Mut<'_, Registry>| {
                for record in &records {
                    for entry in registry.entries() {
                        for record in [&record[..], &[&[1u8][..], record].concat()] {
                            let mut entity = world.spawn_empty();
                            if entry.insert_record(&mut entity, record).is_ok() {
                                // What was accepted can be shown, and written again in the same form.
                                let id = entity.id();
                                prop_assert!(entry.describe(world.entity(id)).is_some());
                                let mut again = Vec::new();
                                prop_assert!(entry.write_record(world.entity(id), &mut again));
                            }
                        }
                    }
                }
                Ok(())
            })?;
        }
    }
}
