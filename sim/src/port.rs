//! The world's edge: what goes in before a tick and what comes out after it. Plain data and bounded queues; net and storage
//! see the simulation through this module only.

pub use crate::movement::{Gait, Ground, step};
pub use crate::record::EntityEvent;
pub use crate::registry::Declared;
pub use crate::space::{KeyMap, Pose};
pub use crate::terrain::Terrain;
pub use crate::world::TickRate;

use crate::movement::Walk;
use crate::record::Identity;
use crate::registry::{Registry, Seen};
use crate::space::{Present, Space};
use bevy_ecs::prelude::*;
use bevy_ecs::world::EntityRef;
use vsekai_schema::id::{EntityId, PlayerKey, Tag};
use vsekai_schema::units::{ChunkKey, Position};
use vsekai_schema::wire::motion::{Motion, OwnPose};
use vsekai_schema::wire::view::ComponentsWriter;
use vsekai_schema::wire::{Input, Outcome, PlayerInput};

/// Most inputs that wait for one tick. A movement input that finds the queue full is dropped; anything else is refused and
/// the caller answers "busy".
pub const INPUTS_MAX: usize = 65_536;

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

/// Inputs that wait for the next tick.
#[derive(Resource, Debug, Default)]
pub struct InputQueue {
    waiting: Vec<PlayerInput>,
}

impl InputQueue {
    /// Queues one input; it keeps its place in the order of arrival.
    ///
    /// # Errors
    /// When [`INPUTS_MAX`] wait already.
    pub fn push(&mut self, input: PlayerInput) -> Result<(), QueueFull> {
        // World inputs (join, leave, ids) are few and must not be lost to a flood of movement.
        let reserve = if matches!(input.input, Input::Move(_) | Input::Command { .. }) { 0 } else { 4_096 };
        if self.waiting.len() >= INPUTS_MAX + reserve {
            return Err(QueueFull);
        }
        self.waiting.push(input);
        Ok(())
    }

    pub(crate) fn take(&mut self) -> Vec<PlayerInput> {
        std::mem::take(&mut self.waiting)
    }
}

/// The result of one command, to be told once its frame is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandResult {
    /// Whose command.
    pub player: EntityId,
    /// Which one.
    pub sequence: u32,
    /// What came of it.
    pub outcome: Outcome,
}

/// A player entered the world; `player` is `None` when no id was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Who.
    pub key: PlayerKey,
    /// The player's entity.
    pub player: Option<EntityId>,
    /// Sequence of the last command executed in the player's life.
    pub last_command: u32,
}

/// What one tick gave.
#[derive(Debug, Clone, Default)]
pub struct TickOutput {
    /// The frame's number.
    pub frame: u64,
    /// Hash of the whole state after it.
    pub state_hash: u64,
    /// The frame record, for storage.
    pub record: Vec<u8>,
    /// Results of this frame's commands.
    pub results: Vec<CommandResult>,
    /// Who entered.
    pub joined: Vec<Joined>,
    /// What changed, in rising order of entity id, departures first.
    pub events: Vec<EntityEvent>,
}

/// Read access for replication, between two ticks.
#[derive(Clone, Copy)]
pub struct WorldView<'w> {
    world: &'w World,
    registry: &'w Registry,
    space: &'w Space,
}

impl<'w> WorldView<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        WorldView { world, registry: world.resource(), space: world.resource() }
    }

    /// What each bit of a change mask means to clients.
    pub fn audience(&self, changed: u64) -> Audience {
        let mut audience = Audience::default();
        for (position, entry) in self.registry.entries().iter().enumerate() {
            if changed & 1 << position != 0 {
                match entry.seen {
                    Seen::Never => {}
                    Seen::Owner => audience.owner = true,
                    Seen::Nearby => audience.nearby = true,
                    Seen::Fast => audience.fast = true,
                }
            }
        }
        audience
    }

    /// Where the entity is.
    pub fn position(&self, id: EntityId) -> Option<Position> {
        Some(self.entity(id)?.get::<Pose>()?.position)
    }

    /// How the entity moves, as others see it. `None` for what does not move by itself.
    pub fn motion(&self, id: EntityId) -> Option<Motion> {
        let pose = self.entity(id)?.get::<Pose>()?;
        Some(Motion::of(pose.position, pose.yaw, self.is_on_ground(pose.position)))
    }

    /// How the entity moves, exactly, as its player sees it.
    pub fn own_pose(&self, id: EntityId) -> Option<OwnPose> {
        let Pose { position, yaw } = *self.entity(id)?.get::<Pose>()?;
        let y = (!self.is_on_ground(position)).then_some(position.y);
        Some(OwnPose { x: position.x, z: position.z, yaw, y })
    }

    fn is_on_ground(&self, position: Position) -> bool {
        self.world.get_resource::<Ground>().is_some_and(|ground| ground.at(position.x, position.z) == position)
    }

    /// What stands in `chunk`, in no particular order.
    pub fn standing(&self, chunk: ChunkKey) -> impl Iterator<Item = EntityId> + use<'w> {
        let world = self.world;
        self.space.standing(chunk).iter().filter_map(move |entity| Some(world.get::<Identity>(*entity)?.id))
    }

    /// Who moves about in `chunk`, in rising order of id.
    pub fn movers(&self, chunk: ChunkKey) -> impl Iterator<Item = EntityId> + use<'w> {
        self.space.movers(chunk).iter().map(|(id, _)| *id)
    }

    /// The chunks in which somebody moves about, in no particular order.
    pub fn lively_chunks(&self) -> impl Iterator<Item = ChunkKey> + use<'w> {
        self.space.lively_chunks()
    }

    /// True when the entity can be seen: it stands somewhere, or is present.
    pub fn is_visible(&self, id: EntityId) -> bool {
        self.entity(id).is_some_and(|entity| !entity.contains::<Pose>() || entity.contains::<Present>())
    }

    /// The newest movement input that was taken from the player; 0 before the first.
    pub fn newest_input(&self, player: EntityId) -> u32 {
        let walk = self.entity(player).and_then(|entity| entity.get::<Walk>());
        walk.and_then(|walk| walk.input).map_or(0, |input| input.sequence)
    }

    /// Gives the entity's components that `wanted` asks for, in the form that clients get.
    pub fn for_each(&self, id: EntityId, wanted: Wanted, mut component: impl FnMut(Tag, &[u8])) {
        let Some(entity) = self.entity(id) else { return };
        let mut bytes = Vec::with_capacity(64);
        for (position, entry) in self.registry.entries().iter().enumerate() {
            if wanted.mask & 1 << position != 0 && wanted.matches(entry.seen) && entry.write_wire(entity, &mut bytes) {
                component(entry.tag, &bytes);
                bytes.clear();
            }
        }
    }

    /// The entity's components that `wanted` asks for, as clients see them, instead of what is in `out`. False when there is
    /// none.
    pub fn write(&self, id: EntityId, wanted: Wanted, out: &mut ComponentsWriter) -> bool {
        out.clear();
        self.for_each(id, wanted, |tag, component| out.push(tag, component));
        !out.is_empty()
    }

    fn entity(&self, id: EntityId) -> Option<EntityRef<'w>> {
        self.world.get_entity(self.space.entity(id)?).ok()
    }
}

/// Which kinds of receivers a change concerns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Audience {
    /// The player whose entity it is.
    pub owner: bool,
    /// Everybody near, reliably.
    pub nearby: bool,
    /// Everybody near, by motion packets.
    pub fast: bool,
}

/// Which components to write.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Bits of the components; `u64::MAX` for all.
    pub mask: u64,
    /// Those for the owner.
    pub owner: bool,
    /// Those for everybody near that change rarely.
    pub nearby: bool,
    /// Those that change all the time.
    pub fast: bool,
}

impl Wanted {
    /// Everything that somebody near sees of an entity that comes into view.
    pub const ENTERING: Wanted = Wanted { mask: u64::MAX, owner: false, nearby: true, fast: true };
    /// Everything that players see of themselves.
    pub const OWN: Wanted = Wanted { mask: u64::MAX, owner: true, nearby: true, fast: true };

    fn matches(self, seen: Seen) -> bool {
        match seen {
            Seen::Never => false,
            Seen::Owner => self.owner,
            Seen::Nearby => self.nearby,
            Seen::Fast => self.fast,
        }
    }
}
