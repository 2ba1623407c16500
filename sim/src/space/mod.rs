//! Where things are: ids to entities, and chunks to what stands or walks in them.
//!
//! Invariants: every entity with an [`Identity`](crate::record::Identity) is in the id index from the moment it was spawned; every entity with a
//! [`Placement`] is in exactly one chunk's list; movers are indexed anew in each tick.

mod ids;

use crate::record::Identity;
use crate::registry::{AppDeclare, Declared, IndexWorld, Seen};
use crate::schedule::{Tick, TickSet};
use bevy_app::App;
use bevy_ecs::prelude::*;
use ids::IdIndex;
use serde::{Deserialize, Serialize};
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use vsekai_schema::id::EntityId;
use vsekai_schema::units::{CHUNK_BYTES_MAX, ChunkKey, Position, Yaw};

/// A chunk takes no new entity once its content is this large; the rest up to [`CHUNK_BYTES_MAX`] is for what is there to grow.
pub const CHUNK_BYTES_FULL: usize = CHUNK_BYTES_MAX * 7 / 8;

/// What an entity counts for in its chunk until the frame that places it is made, bytes; more than any structure takes.
const FRESH_BYTES: u32 = 128;

/// Where something stands that does not move by itself. Whatever has it is kept in its chunk.
#[derive(Component, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[component(immutable)]
pub struct Placement {
    /// Its foot.
    pub position: Position,
    /// Which way it is turned.
    pub yaw: Yaw,
}

impl Declared for Placement {
    const TAG: u16 = 1;
    const NAME: &'static str = "placement";
    const SEEN: Seen = Seen::Nearby;

    fn inserted(&self, entity: Entity, world: &IndexWorld<'_>) {
        let key = self.position.chunk();
        world.update(move |space: &mut Space| space.stand(key, entity));
    }

    fn discarded(&self, entity: Entity, world: &IndexWorld<'_>) {
        let key = self.position.chunk();
        world.update(move |space: &mut Space| space.remove_standing(key, entity));
    }
}

/// Where somebody is who moves by itself. Whatever has it is kept by itself.
#[derive(Component, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pose {
    /// The feet.
    pub position: Position,
    /// Where it looks.
    pub yaw: Yaw,
}

impl Declared for Pose {
    const TAG: u16 = 2;
    const NAME: &'static str = "pose";
    const SEEN: Seen = Seen::Fast;
}

/// In the world now: others see it, and it is in the movers' index. Never kept: after a restart nobody is present.
#[derive(Component, Debug, Clone, Copy)]
pub struct Present;

/// Hasher for keys that are already well mixed after one multiplication. (Fibonacci hashing, D. Knuth, TAOCP 6.4.)
#[derive(Default, Clone)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn write_i32(&mut self, value: i32) {
        self.write_u64(u64::from(value as u32));
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// A hash map without ambient randomness. Nothing may depend on its order all the same.
pub type KeyMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<KeyHasher>>;

/// What one chunk holds.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Entities with a [`Placement`] here, in no particular order.
    pub standing: Vec<Entity>,
    /// Encoded size of what stands here after the last frame, bytes.
    pub bytes: u32,
}

/// The indexes.
#[derive(Resource, Default, Debug)]
pub struct Space {
    ids: IdIndex,
    chunks: KeyMap<ChunkKey, Chunk>,
    /// What was placed in each chunk since the last frame, by estimate.
    fresh: KeyMap<ChunkKey, u32>,
    movers: KeyMap<ChunkKey, Vec<(EntityId, Entity)>>,
}

impl Space {
    /// The entity of `id`.
    pub fn entity(&self, id: EntityId) -> Option<Entity> {
        self.ids.get(id)
    }

    /// The chunk of `key`, if anything ever stood there.
    pub fn chunk(&self, key: ChunkKey) -> Option<&Chunk> {
        self.chunks.get(&key)
    }

    /// What stands in chunk `key`.
    pub fn standing(&self, key: ChunkKey) -> &[Entity] {
        self.chunks.get(&key).map_or(&[], |chunk| &chunk.standing)
    }

    /// Who moves about in chunk `key`, in rising order of id.
    pub fn movers(&self, key: ChunkKey) -> &[(EntityId, Entity)] {
        self.movers.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The chunks in which somebody moves about, in no particular order.
    pub fn lively_chunks(&self) -> impl Iterator<Item = ChunkKey> + '_ {
        self.movers.keys().copied()
    }

    /// True when `key` takes another entity.
    pub fn has_room(&self, key: ChunkKey) -> bool {
        let settled = self.chunks.get(&key).map_or(0, |chunk| chunk.bytes as usize);
        let fresh = self.fresh.get(&key).copied().unwrap_or(0) as usize;
        settled + fresh < CHUNK_BYTES_FULL
    }

    fn chunk_mut(&mut self, key: ChunkKey) -> &mut Chunk {
        self.chunks.entry(key).or_default()
    }

    fn remove_standing(&mut self, key: ChunkKey, entity: Entity) {
        if let Entry::Occupied(mut chunk) = self.chunks.entry(key) {
            let standing = &mut chunk.get_mut().standing;
            if let Some(at) = standing.iter().position(|e| *e == entity) {
                standing.swap_remove(at);
            }
        }
    }

    fn stand(&mut self, key: ChunkKey, entity: Entity) {
        self.chunk_mut(key).standing.push(entity);
        *self.fresh.entry(key).or_default() += FRESH_BYTES;
    }

    /// The sizes of what was placed in this tick are known now.
    pub(crate) fn settle_fresh(&mut self) {
        self.fresh.clear();
    }

    pub(crate) fn resize_chunk(&mut self, key: ChunkKey, by: i64) {
        let chunk = self.chunk_mut(key);
        chunk.bytes =
            u32::try_from(i64::from(chunk.bytes) + by).expect("a chunk's size is the sum of its entities' sizes");
    }

    pub(crate) fn forget_id(&mut self, id: EntityId) {
        self.ids.remove(id);
    }
}

/// Spawns an entity with lasting id `id`. All features spawn through this, so that the index is never behind.
///
/// # Panics
/// When the id is taken: ids come from blocks and are never reused, so this is a broken invariant.
pub fn spawn_with_id(world: &mut World, id: EntityId, components: impl Bundle) -> Entity {
    assert!(world.resource::<Space>().entity(id).is_none(), "entity id {id} is used twice");
    let entity = world.spawn(Identity::new(id)).id();
    world.resource_mut::<Space>().ids.insert(id, entity);
    world.entity_mut(entity).insert(components);
    entity
}

/// Wires placements, poses and indexes into the game.
pub fn plugin(app: &mut App) {
    app.init_resource::<Space>();
    app.declare::<Placement>().declare::<Pose>();
    app.add_systems(Tick, index_movers.in_set(TickSet::Index));
}

fn index_movers(mut space: ResMut<'_, Space>, movers: Query<'_, '_, (Entity, &Identity, &Pose), With<Present>>) {
    for list in space.movers.values_mut() {
        list.clear();
    }
    for (entity, identity, pose) in &movers {
        space.movers.entry(pose.position.chunk()).or_default().push((identity.id, entity));
    }
    space.movers.retain(|_, list| {
        list.sort_unstable_by_key(|(id, _)| *id);
        !list.is_empty()
    });
}
