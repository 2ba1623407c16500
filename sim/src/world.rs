//! What belongs to the world as a whole: its seed and size, its palette, its content, and the ids it may hand out.

use crate::registry::{AppDeclare, Declared};
use bevy_app::App;
use bevy_ecs::prelude::*;
use serde::{Deserialize, Serialize};
use vsekai_schema::content::{Content, Palette};
use vsekai_schema::id::EntityId;
use vsekai_schema::record::IdBlock;

/// The world's own record, on the entity [`EntityId::WORLD`].
#[derive(Component, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[component(immutable)]
pub struct WorldRecord {
    /// Seed of terrain and randomness.
    pub seed: u64,
    /// Half of the world's side, millimetres.
    pub half_mm: i32,
    /// Which content word has which number.
    pub palette: Palette,
}

impl Declared for WorldRecord {
    const TAG: u16 = 9;
    const NAME: &'static str = "world";
}

/// The content that the tick reads.
#[derive(Resource, Debug)]
pub struct GameContent(pub Content);

/// Ticks per second, as a resource for systems that turn seconds into ticks.
#[derive(Resource, Debug, Clone, Copy)]
pub struct TickRate(pub u32);

impl TickRate {
    /// Ticks in `ms` milliseconds, rounded up.
    pub fn ticks_of_ms(self, ms: u64) -> u64 {
        (ms * u64::from(self.0)).div_ceil(1_000)
    }
}

/// The frame that the current tick is making.
#[derive(Resource, Debug, Clone, Copy, Default)]
pub struct CurrentFrame(pub u64);

/// Ids that may be handed out: blocks that the store has durably reserved.
#[derive(Resource, Debug)]
pub struct Ids {
    current: IdBlock,
    next: Option<IdBlock>,
}

impl Ids {
    /// Hands out of `block`.
    pub fn new(block: IdBlock) -> Self {
        Ids { current: block, next: None }
    }

    /// A fresh id, or `None` when no reserved id is left: the caller rejects what it was asked for.
    pub fn allocate(&mut self) -> Option<EntityId> {
        if self.current.next >= self.current.end {
            self.current = self.next.take()?;
        }
        let id = self.current.next;
        self.current.next += 1;
        Some(EntityId(id))
    }

    /// How many ids are left.
    pub fn left(&self) -> u64 {
        let left = |block: &IdBlock| block.end - block.next;
        left(&self.current) + self.next.as_ref().map_or(0, left)
    }

    /// One behind the largest id handed out so far from the current block.
    pub fn next_id(&self) -> u64 {
        self.current.next
    }

    /// Takes a granted block; refused while another one waits, or when it does not lie behind the current one.
    pub fn grant(&mut self, block: IdBlock) -> bool {
        let fits = self.next.is_none() && block.next >= self.current.end && block.end > block.next;
        if fits {
            self.next = Some(block);
        }
        fits
    }
}

/// Declares the world record.
pub fn plugin(app: &mut App) {
    app.declare::<WorldRecord>();
    app.init_resource::<CurrentFrame>();
}
