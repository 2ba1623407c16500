//! The end of a tick: what changed becomes the frame record, the state hash and the list that net replicates.
//!
//! Invariants: the state hash is the wrapping sum, over all kept components of all entities, of XXH3 of (entity id, tag,
//! disk record); it is kept up incrementally, so it costs what changed. Nothing scans the world: immutable components report
//! themselves, mutable ones are found by change ticks.

use crate::registry::{Gather, Registry};
use crate::schedule::{Tick, TickSet};
use crate::space::{KeyMap, Placement, Space};
use bevy_app::App;
use bevy_ecs::lifecycle::HookContext;
use bevy_ecs::prelude::*;
use bevy_ecs::schedule::SingleThreadedExecutor;
use bevy_ecs::world::{DeferredWorld, EntityRef};
use std::ops::Range;
use vsekai_schema::id::{EntityId, Tag};
use vsekai_schema::record::{FrameWriter, Home};
use vsekai_schema::units::ChunkKey;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Room for marks that is kept from tick to tick.
const RETAINED_MARKS: usize = 8_192;

/// Every entity of the world has one: its lasting id, and what the recorder remembers of it.
#[derive(Component, Debug)]
pub struct Identity {
    /// The lasting id.
    pub id: EntityId,
    /// Sum of the hashes of its kept components that change rarely (immutable ones). That of the others, which few
    /// entities have, is in [`Frame`].
    slow_hash: u64,
    /// Encoded size of its kept immutable components, bytes; only kept up for entities that live in a chunk.
    bytes: u32,
    /// Where the last frame left it; `None` before its first.
    home: Option<Home>,
}

impl Identity {
    /// A new entity's.
    pub fn new(id: EntityId) -> Self {
        Identity { id, slow_hash: 0, bytes: 0, home: None }
    }
}

/// What changed since the last frame.
#[derive(Resource, Default, Debug)]
pub struct Dirty {
    /// Set while a whole world is loaded: nothing of that is a change.
    paused: bool,
    marks: Vec<(Entity, u16)>,
    gone: Vec<(EntityId, Home, u64)>,
}

impl Dirty {
    /// Notes that component `tag` of `entity` was written or removed.
    pub fn mark(&mut self, entity: Entity, tag: u16) {
        if !self.paused {
            self.marks.push((entity, tag));
        }
    }
}

/// Something that happened to an entity in this tick, for replication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityEvent {
    /// Which entity.
    pub id: EntityId,
    /// Where it is kept.
    pub home: Home,
    /// Bits of the changed components (positions in the [`Registry`]); 0 when it is gone.
    pub changed: u64,
    /// True when it is gone.
    pub gone: bool,
    /// True when it is new in this home.
    pub new: bool,
}

/// The frame that the last tick made.
#[derive(Resource, Default, Debug)]
pub struct Frame {
    /// Number of the last frame that was made.
    pub number: u64,
    /// Hash of the whole state after it.
    pub state_hash: u64,
    /// Sum of the hashes of an entity's kept mutable components, for those that have any.
    fast_hashes: KeyMap<EntityId, u64>,
    /// Its changes, in rising order of entity id.
    pub events: Vec<EntityEvent>,
    /// The changes as they go into the record.
    pub writer: FrameWriter,
}

/// Wires the recorder into the tick.
pub fn plugin(app: &mut App) {
    app.init_resource::<Dirty>().init_resource::<Frame>();
    app.world_mut().register_component_hooks::<Identity>().on_discard(note_gone);
    app.add_schedule(Schedule::new(Gather));
    app.edit_schedule(Gather, |schedule| {
        schedule.set_executor(SingleThreadedExecutor::new());
    });
    app.add_systems(Tick, record_frame.in_set(TickSet::Record));
}

/// An entity is despawned: its hash leaves the sum, and the frame says so.
fn note_gone(mut world: DeferredWorld<'_>, context: HookContext) {
    let Some(identity) = world.get::<Identity>(context.entity) else { return };
    let Identity { id, slow_hash, bytes, home } = *identity;
    if let Some(mut space) = world.get_resource_mut::<Space>() {
        space.forget_id(id);
        if let Some(Home::Chunk(key)) = home {
            space.resize_chunk(key, -i64::from(bytes));
        }
    }
    // What no frame has told of need not be told to be gone.
    if let (Some(home), Some(mut dirty)) = (home, world.get_resource_mut::<Dirty>()) {
        dirty.gone.push((id, home, slow_hash));
    }
}

fn home_of(placement: Option<&Placement>) -> Home {
    placement.map_or(Home::Alone, |placement| Home::Chunk(placement.position.chunk()))
}

/// Hash of one component record of one entity.
pub fn component_hash(id: EntityId, tag: Tag, record: &[u8]) -> u64 {
    xxh3_64_with_seed(record, id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(tag.0) << 48 | u64::from(tag.0)))
}

/// The kept components of one entity in encoded form; reused so that a tick allocates little.
#[derive(Default)]
struct Encoded {
    bytes: Vec<u8>,
    parts: Vec<(Tag, Range<usize>)>,
}

impl Encoded {
    fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
    }

    fn components(&self) -> impl ExactSizeIterator<Item = (Tag, &[u8])> {
        self.parts.iter().map(|(tag, range)| (*tag, &self.bytes[range.clone()]))
    }

    /// Encodes the kept components whose bit is in `mask`; those that are missing become empty when `removed` is set.
    fn encode(&mut self, registry: &Registry, entity: EntityRef<'_>, mask: u64, removed: bool) {
        self.clear();
        for (position, entry) in registry.entries().iter().enumerate() {
            if mask & 1 << position == 0 || !entry.kept {
                continue;
            }
            let start = self.bytes.len();
            if entry.write_record(entity, &mut self.bytes) || removed {
                self.parts.push((entry.tag, start..self.bytes.len()));
            }
        }
    }

    fn hash(&self, id: EntityId) -> u64 {
        self.components().fold(0, |sum, (tag, record)| sum.wrapping_add(component_hash(id, tag, record)))
    }
}

fn masks(registry: &Registry) -> (u64, u64) {
    let mut slow = 0;
    let mut fast = 0;
    for (position, entry) in registry.entries().iter().enumerate() {
        if entry.kept {
            *(if entry.mutable { &mut fast } else { &mut slow }) |= 1 << position;
        }
    }
    (slow, fast)
}

fn record_frame(world: &mut World) {
    world.run_schedule(Gather);
    world.resource_scope(|world, mut frame: Mut<'_, Frame>| {
        world.resource_scope(|world, registry: Mut<'_, Registry>| {
            let dirty = std::mem::take(&mut *world.resource_mut::<Dirty>());
            record_dirty(world, &mut frame, &registry, dirty);
        });
    });
}

fn record_dirty(world: &mut World, frame: &mut Frame, registry: &Registry, mut dirty: Dirty) {
    frame.number += 1;
    frame.events.clear();
    let mut changes: Vec<(EntityId, Entity, u64)> = Vec::with_capacity(dirty.marks.len());
    for (entity, tag) in dirty.marks.drain(..) {
        // A despawned entity has no identity any more: its marks mean nothing.
        let (Some(identity), Some((position, _))) = (world.get::<Identity>(entity), registry.entry(Tag(tag))) else {
            continue;
        };
        changes.push((identity.id, entity, 1 << position));
    }
    changes.sort_unstable_by_key(|(id, ..)| *id);
    changes.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.2 |= next.2;
        }
        same
    });
    dirty.gone.sort_unstable_by_key(|(id, ..)| *id);
    for (id, home, hash) in dirty.gone.drain(..) {
        let fast_hash = frame.fast_hashes.remove(&id).unwrap_or(0);
        frame.state_hash = frame.state_hash.wrapping_sub(hash).wrapping_sub(fast_hash);
        frame.writer.despawn(id, home);
        frame.events.push(EntityEvent { id, home, changed: 0, gone: true, new: false });
    }
    let (slow, fast) = masks(registry);
    let mut encoded = Encoded::default();
    let mut resized: Vec<(ChunkKey, i64)> = Vec::new();
    for (id, entity, mut changed) in changes {
        let entity_ref = world.entity(entity);
        let home = home_of(entity_ref.get::<Placement>());
        let mut identity = world.get_mut::<Identity>(entity).expect("changes lists entities with an identity");
        let before = identity.home.replace(home);
        let new = before != Some(home);
        if let Some(old) = before.filter(|_| new) {
            // It moved: gone from its old home, and written whole in its new one.
            frame.writer.despawn(id, old);
            frame.events.push(EntityEvent { id, home: old, changed: 0, gone: true, new: false });
            if let Home::Chunk(key) = old {
                resized.push((key, -i64::from(identity.bytes)));
            }
            identity.bytes = 0;
            changed = u64::MAX;
        }
        let entity_ref = world.entity(entity);
        encoded.encode(registry, entity_ref, changed, changed != u64::MAX);
        if encoded.parts.is_empty() {
            frame.events.push(EntityEvent { id, home, changed, gone: false, new });
            continue;
        }
        frame.writer.write(id, home, encoded.components());

        let mut slow_hash = None;
        let mut fast_hash = None;
        let mut bytes = 0;
        if changed & slow != 0 {
            encoded.encode(registry, entity_ref, slow, false);
            slow_hash = Some(encoded.hash(id));
            bytes = encoded.bytes.len() as u32 + 4 * encoded.parts.len() as u32;
        }
        if changed & fast != 0 {
            encoded.encode(registry, entity_ref, fast, false);
            fast_hash = Some(encoded.hash(id));
        }
        if let Some(hash) = slow_hash {
            let mut identity = world.get_mut::<Identity>(entity).expect("changes lists entities with an identity");
            frame.state_hash = frame.state_hash.wrapping_sub(identity.slow_hash).wrapping_add(hash);
            identity.slow_hash = hash;
            if let Home::Chunk(key) = home {
                resized.push((key, i64::from(bytes) - i64::from(identity.bytes)));
                identity.bytes = bytes;
            }
        }
        if let Some(hash) = fast_hash {
            let before = frame.fast_hashes.insert(id, hash).unwrap_or(0);
            frame.state_hash = frame.state_hash.wrapping_sub(before).wrapping_add(hash);
        }
        frame.events.push(EntityEvent { id, home, changed, gone: false, new });
    }
    let mut space = world.resource_mut::<Space>();
    for (key, by) in resized {
        space.resize_chunk(key, by);
    }
    space.settle_fresh();
    // Give the vectors back, so that the next tick need not allocate; but not what only an exceptional tick needed.
    dirty.marks.shrink_to(RETAINED_MARKS);
    *world.resource_mut::<Dirty>() = dirty;
}

/// Starts loading: until [`finish_loading`], nothing that is inserted counts as a change.
pub(crate) fn begin_loading(world: &mut World) {
    world.resource_mut::<Dirty>().paused = true;
}

/// Ends loading: computes every entity's hash and size from scratch, and with them the state hash.
pub(crate) fn finish_loading(world: &mut World, frame_number: u64) {
    world.resource_scope(|world, registry: Mut<'_, Registry>| {
        let (slow, fast) = masks(&registry);
        let mut sum = 0u64;
        let mut fast_hashes = KeyMap::default();
        let mut resized: Vec<(ChunkKey, i64)> = Vec::new();
        let mut encoded = Encoded::default();
        let entities: Vec<Entity> = world.query_filtered::<Entity, With<Identity>>().iter(world).collect();
        for entity in entities {
            let entity_ref = world.entity(entity);
            let id = entity_ref.get::<Identity>().map(|identity| identity.id).unwrap_or_default();
            encoded.encode(&registry, entity_ref, slow, false);
            let slow_hash = encoded.hash(id);
            let bytes = encoded.bytes.len() as u32 + 4 * encoded.parts.len() as u32;
            encoded.encode(&registry, entity_ref, fast, false);
            let fast_hash = encoded.hash(id);
            let home = home_of(entity_ref.get::<Placement>());
            if let Home::Chunk(key) = home {
                match resized.last_mut() {
                    Some((last, by)) if *last == key => *by += i64::from(bytes),
                    _ => resized.push((key, i64::from(bytes))),
                }
            }
            sum = sum.wrapping_add(slow_hash).wrapping_add(fast_hash);
            if let Some(mut identity) = world.get_mut::<Identity>(entity) {
                (identity.slow_hash, identity.bytes) = (slow_hash, bytes);
                identity.home = Some(home);
            }
            if fast_hash != 0 {
                fast_hashes.insert(id, fast_hash);
            }
        }
        let mut space = world.resource_mut::<Space>();
        for (key, by) in resized {
            space.resize_chunk(key, by);
        }
        space.settle_fresh();
        // A system that never ran takes everything for changed: let that be now.
        world.run_schedule(Gather);
        *world.resource_mut::<Dirty>() = Dirty::default();
        let mut frame = world.resource_mut::<Frame>();
        frame.number = frame_number;
        frame.fast_hashes = fast_hashes;
        frame.state_hash = sum;
    });
}

/// Encodes the kept components of every entity: `visit(id, home, components)` in no particular order.
pub(crate) fn for_each_kept(
    world: &mut World,
    mut visit: impl FnMut(EntityId, Home, &mut dyn ExactSizeIterator<Item = (Tag, &[u8])>),
) {
    world.resource_scope(|world, registry: Mut<'_, Registry>| {
        let mut encoded = Encoded::default();
        let mut entities = world.query::<(EntityRef<'_>, &Identity)>();
        for (entity, identity) in entities.iter(world) {
            encoded.encode(&registry, entity, u64::MAX, false);
            visit(identity.id, home_of(entity.get::<Placement>()), &mut encoded.components());
        }
    });
}
