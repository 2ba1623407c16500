//! Players: who they are, when they are in the world, and which of their commands was executed last.
//!
//! Writes [`Player`], [`CommandLog`] and presence. Invariants: one entity per key, for ever; a body is in the world exactly
//! while somebody plays it; a command's number is executed at most once, also across restarts.

#[cfg(test)]
mod tests;

use crate::inventory::{Inventory, Slots, exchange};
use crate::movement::{Ground, Walk};
use crate::random::TickRandom;
use crate::registry::{AppDeclare, Declared, IndexWorld, Seen};
use crate::resource::LastHarvest;
use crate::space::{KeyMap, Pose, Present, Space, spawn_with_id};
use crate::world::{GameContent, Ids};
use bevy_app::App;
use bevy_ecs::prelude::*;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use vsekai_schema::codec::{DecodeError, from_bytes, write_postcard};
use vsekai_schema::id::{EntityId, PlayerKey};
use vsekai_schema::units::Position;

/// Who plays this entity.
#[derive(Component, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[component(immutable)]
pub struct Player {
    /// Recognises the player's token. Never leaves the server.
    pub key: PlayerKey,
    /// What others read.
    pub name: String,
}

/// What clients are told of a player.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlayerSeen<'a> {
    /// What others read.
    pub name: &'a str,
}

impl Declared for Player {
    const TAG: u16 = 5;
    const NAME: &'static str = "player";
    const SEEN: Seen = Seen::Nearby;

    /// Only the name.
    fn write_wire(&self, out: &mut Vec<u8>) {
        write_postcard(out, &PlayerSeen { name: &self.name });
    }

    fn read_wire(bytes: &[u8]) -> Result<Self, DecodeError> {
        let PlayerSeen { name } = from_bytes(bytes)?;
        Ok(Player { key: PlayerKey([0; 16]), name: name.into() })
    }

    fn inserted(&self, entity: Entity, world: &IndexWorld<'_>) {
        let key = self.key;
        world.update(move |players: &mut Players| {
            players.by_key.insert(key, entity);
        });
    }
}

/// Sequence of the last command that was executed: what makes a command happen at most once.
#[derive(Component, Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[component(immutable)]
pub struct CommandLog {
    /// 0 before the first.
    pub last: u32,
}

impl Declared for CommandLog {
    const TAG: u16 = 7;
    const NAME: &'static str = "command log";
}

/// All players that ever were, by key.
#[derive(Resource, Debug, Default)]
pub struct Players {
    by_key: KeyMap<PlayerKey, Entity>,
}

/// Where new players appear: within this distance of the origin, millimetres.
#[derive(Resource, Debug, Clone, Copy)]
pub struct SpawnRadius(pub i32);

/// Declares players.
pub fn plugin(app: &mut App) {
    app.init_resource::<Players>();
    app.declare::<Player>().declare::<CommandLog>();
}

/// Brings the player of `key` into the world: the old body where it was left, or a new one. `None` when no id is left.
pub fn join(world: &mut World, key: PlayerKey, name: &str) -> Option<Entity> {
    let known = world.resource::<Players>().by_key.get(&key).copied();
    let entity = match known {
        Some(entity) => entity,
        None => create(world, key, name)?,
    };
    if world.get::<Player>(entity).is_some_and(|player| player.name != name) {
        world.entity_mut(entity).insert(Player { key, name: name.to_string() });
    }
    let slots = world.resource::<GameContent>().0.tuning.inventory_slots;
    if let Some(inventory) = world.get::<Inventory>(entity) {
        let mut grown = inventory.clone();
        grown.slots.grow_to(slots);
        if grown != *inventory {
            world.entity_mut(entity).insert(grown);
        }
    }
    // A new session counts its inputs from the beginning again.
    world.entity_mut(entity).insert((Present, Walk::default()));
    Some(entity)
}

/// Takes the player's body out of the world; the record stays.
pub fn leave(world: &mut World, player: EntityId) {
    if let Some(entity) = world.resource::<Space>().entity(player) {
        world.entity_mut(entity).remove::<(Present, Walk)>();
    }
}

fn create(world: &mut World, key: PlayerKey, name: &str) -> Option<Entity> {
    let id = world.resource_mut::<Ids>().allocate()?;
    let position = spawn_point(world);
    let content = &world.resource::<GameContent>().0;
    let starting_items = content.starting_items.clone();
    let slots = Slots::empty(content.tuning.inventory_slots);
    let entity = spawn_with_id(
        world,
        id,
        (
            Player { key, name: name.to_string() },
            Pose { position, yaw: 0 },
            Inventory { slots },
            CommandLog::default(),
            LastHarvest::default(),
        ),
    );
    // What does not fit, or finds no ids, is not given: a start is no place to fail.
    for items in starting_items {
        let _ = exchange(world, entity, &Vec::new(), &vec![items]);
    }
    Some(entity)
}

/// A dry place near the origin; the origin itself when chance finds none.
fn spawn_point(world: &mut World) -> Position {
    let ground = *world.resource::<Ground>();
    let radius = world.resource::<SpawnRadius>().0.min(ground.half_mm);
    let random = &mut world.resource_mut::<TickRandom>().0;
    for _ in 0..32 {
        let (x, z) = (random.random_range(-radius..=radius), random.random_range(-radius..=radius));
        let place = ground.at(x, z);
        if place.y > 500 {
            return place;
        }
    }
    ground.at(0, 0)
}
