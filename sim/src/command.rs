//! Commands: each is handed to the feature it belongs to, one after the other, and gets exactly one outcome.
//!
//! Writes [`CommandLog`]. Invariant: a command whose number is not larger than the player's last is refused without effect,
//! so a command that arrives twice is executed once. Numbers may be skipped (a command that was refused at the door keeps
//! its number), but not by so much that a player could use them up.

use crate::build::{self, BuildRequest};
use crate::craft;
use crate::inventory;
use crate::player::CommandLog;
use crate::port::CommandResult;
use crate::resource;
use crate::schedule::{Tick, TickSet};
use crate::space::{Present, Space};
use bevy_app::App;
use bevy_ecs::prelude::*;
use vsekai_schema::id::EntityId;
use vsekai_schema::wire::{Command, Outcome, Rejection};

/// How far a command's number may lie ahead of the player's last.
pub const SEQUENCE_STEP_MAX: i64 = 1_024;

/// Commands of this tick, in the order in which they arrived, and their results so far.
#[derive(Resource, Debug, Default)]
pub struct CommandQueue {
    /// To execute.
    pub waiting: Vec<(EntityId, u32, Command)>,
    /// Executed.
    pub results: Vec<CommandResult>,
}

/// Wires commands into the tick.
pub fn plugin(app: &mut App) {
    app.init_resource::<CommandQueue>();
    app.add_systems(Tick, execute_commands.in_set(TickSet::Act));
}

fn execute_commands(world: &mut World) {
    let mut waiting = std::mem::take(&mut world.resource_mut::<CommandQueue>().waiting);
    let mut results = Vec::with_capacity(waiting.len());
    for (player, sequence, command) in waiting.drain(..) {
        let outcome = take_turn(world, player, sequence, &command).unwrap_or_else(Outcome::Rejected);
        results.push(CommandResult { player, sequence, outcome });
    }
    let mut queue = world.resource_mut::<CommandQueue>();
    queue.waiting = waiting;
    queue.results = results;
}

fn take_turn(world: &mut World, id: EntityId, sequence: u32, command: &Command) -> Result<Outcome, Rejection> {
    let player = world.resource::<Space>().entity(id).ok_or(Rejection::NoSuchEntity)?;
    let log = *world.get::<CommandLog>(player).ok_or(Rejection::NoSuchEntity)?;
    if world.get::<Present>(player).is_none() {
        return Err(Rejection::NoSuchEntity);
    }
    if !(1..=SEQUENCE_STEP_MAX).contains(&i64::from(sequence).wrapping_sub(log.last.into())) {
        return Err(Rejection::OutOfTurn);
    }
    world.entity_mut(player).insert(CommandLog { last: sequence });
    match *command {
        Command::Harvest { node } => resource::harvest(world, player, node),
        Command::Craft { recipe } => craft::craft(world, player, recipe),
        Command::Build { piece, column, row, level, turn } => {
            build::build(world, player, id, BuildRequest { piece, column, row, level, turn })
        }
        Command::Demolish { structure } => build::demolish(world, player, id, structure),
        Command::MoveItems { from, to, count } => inventory::move_items(world, player, from, to, count),
    }
}
