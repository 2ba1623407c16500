//! Building: structure pieces in a grid, bought with items.
//!
//! Writes [`Structure`] with its `Placement`, and through `inventory` the builder's items. Invariants: one piece per place of the
//! grid (an edge between two cells is one place); no piece stands on nothing when it is built, and none that carries
//! another is taken down; a structure and the items it cost change in the same frame.

mod grid;
#[cfg(test)]
mod tests;

pub use grid::{Cell, NEIGHBOUR_CELLS, Place};

use crate::inventory::exchange;
use crate::movement::Ground;
use crate::registry::{AppDeclare, Declared, Seen};
use crate::space::{Placement, Pose, Space, spawn_with_id};
use crate::world::{GameContent, Ids};
use bevy_app::App;
use bevy_ecs::prelude::*;
use serde::{Deserialize, Serialize};
use vsekai_schema::content::{Slot, Support, Tuning};
use vsekai_schema::id::{EntityId, PieceId};
use vsekai_schema::units::Position;
use vsekai_schema::wire::{Outcome, Rejection};

/// A built piece.
#[derive(Component, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[component(immutable)]
pub struct Structure {
    /// Which kind.
    pub piece: PieceId,
    /// Grid column eastwards.
    pub column: i32,
    /// Grid row southwards.
    pub row: i32,
    /// Storey.
    pub level: u8,
    /// Quarter turns clockwise, 0–3; for an edge: 0 north, 1 east, 2 south, 3 west.
    pub turn: u8,
    /// The player who built it.
    pub owner: EntityId,
    /// Strength left.
    pub health: u16,
}

impl Declared for Structure {
    const TAG: u16 = 4;
    const NAME: &'static str = "structure";
    const SEEN: Seen = Seen::Nearby;
}

/// Declares structures.
pub fn plugin(app: &mut App) {
    app.declare::<Structure>();
}

/// What a player asks to have built.
#[derive(Debug, Clone, Copy)]
pub struct BuildRequest {
    /// Which piece.
    pub piece: PieceId,
    /// Grid column.
    pub column: i32,
    /// Grid row.
    pub row: i32,
    /// Storey.
    pub level: u8,
    /// Quarter turns, 0–3.
    pub turn: u8,
}

/// A structure near by, as the rules see it.
#[derive(Debug, Clone, Copy)]
struct Neighbour {
    entity: Entity,
    place: Place,
    needs: Support,
    y: i32,
}

/// All structures within [`NEIGHBOUR_CELLS`] of `cell`.
fn neighbours(world: &World, cell: Cell, tuning: &Tuning) -> Vec<Neighbour> {
    let space = world.resource::<Space>();
    let content = &world.resource::<GameContent>().0;
    let mut found = Vec::new();
    for key in cell.chunks_around(tuning.grid_mm) {
        for entity in space.standing(key) {
            let Some(structure) = world.get::<Structure>(*entity) else { continue };
            let apart = |a: i32, b: i32| a.abs_diff(b) > NEIGHBOUR_CELLS as u32;
            if apart(structure.column, cell.column) || apart(structure.row, cell.row) {
                continue;
            }
            // A piece that the files no longer define still takes its cell.
            let kind = content.piece(structure.piece).map(|piece| &piece.kind);
            let slot = kind.map_or(Slot::Inside, |kind| kind.slot);
            let needs = kind.map_or(Support::Ground, |kind| kind.needs);
            let cell = Cell { column: structure.column, row: structure.row };
            let y = world.get::<Placement>(*entity).map_or(0, |placement| placement.position.y);
            found.push(Neighbour {
                entity: *entity,
                place: Place::new(cell, structure.level, slot, structure.turn),
                needs,
                y,
            });
        }
    }
    found
}

/// Executes a build command.
///
/// # Errors
/// `UnknownPiece`, `OutOfRange`, `OutsideWorld`, `TooFar`, `SpaceTaken`, `NotSupported`, `GroundTooSteep`, `ChunkFull`, `MissingItems`, `Busy`.
pub fn build(
    world: &mut World,
    player: Entity,
    player_id: EntityId,
    request: BuildRequest,
) -> Result<Outcome, Rejection> {
    let content = &world.resource::<GameContent>().0;
    let piece = content.piece(request.piece).ok_or(Rejection::UnknownPiece)?.clone();
    let tuning = content.tuning.clone();
    if request.turn > 3 || request.level > tuning.storey_max {
        return Err(Rejection::OutOfRange);
    }
    let ground = *world.resource::<Ground>();
    let cell = Cell { column: request.column, row: request.row };
    let (x, z) = cell.centre(tuning.grid_mm).ok_or(Rejection::OutsideWorld)?;
    if !ground.contains(x, z) {
        return Err(Rejection::OutsideWorld);
    }
    let from = world.get::<Pose>(player).ok_or(Rejection::NoSuchEntity)?.position;
    if !from.within(Position::new(x, 0, z), tuning.reach_mm + tuning.grid_mm) {
        return Err(Rejection::TooFar);
    }
    let near = neighbours(world, cell, &tuning);
    let place = Place::new(cell, request.level, piece.kind.slot, request.turn);
    if near.iter().any(|other| other.place == place) {
        return Err(Rejection::SpaceTaken);
    }
    let y = match piece.kind.needs {
        Support::Ground => ground_height(&ground, cell, request.level, &tuning)?,
        Support::Floor => {
            let floor = near.iter().find(|other| other.place.is_floor_of(cell, request.level));
            floor.ok_or(Rejection::NotSupported)?.y
        }
        Support::Walls => {
            let below = request.level.checked_sub(1).ok_or(Rejection::NotSupported)?;
            let wall = near.iter().find(|other| other.place.is_edge_of(cell, below));
            wall.ok_or(Rejection::NotSupported)?.y + tuning.storey_mm
        }
    };
    let position = Position::new(x, y, z);
    if !world.resource::<Space>().has_room(position.chunk()) {
        return Err(Rejection::ChunkFull);
    }
    if world.resource::<Ids>().left() == 0 {
        return Err(Rejection::Busy);
    }
    let items = exchange(world, player, &piece.cost, &Vec::new())?;
    let id = world.resource_mut::<Ids>().allocate().expect("an id was left, and taking items needs none");
    let structure = Structure {
        piece: request.piece,
        column: request.column,
        row: request.row,
        level: request.level,
        turn: request.turn,
        owner: player_id,
        health: piece.kind.health,
    };
    let yaw = u16::from(request.turn) << 14;
    spawn_with_id(world, id, (Placement { position, yaw }, structure));
    Ok(Outcome::Done { items, entity: id })
}

/// Height of a piece on the ground: the highest corner of its cell.
fn ground_height(ground: &Ground, cell: Cell, level: u8, tuning: &Tuning) -> Result<i32, Rejection> {
    if level != 0 {
        return Err(Rejection::NotSupported);
    }
    let corners = cell.corners(tuning.grid_mm).map(|(x, z)| ground.terrain.height(x, z));
    let highest = corners.into_iter().fold(i32::MIN, i32::max);
    let lowest = corners.into_iter().fold(i32::MAX, i32::min);
    if highest - lowest > tuning.uneven_ground_mm {
        return Err(Rejection::GroundTooSteep);
    }
    Ok(highest)
}

/// Executes a demolish command: the piece vanishes, and a part of its cost comes back.
///
/// # Errors
/// `NoSuchEntity`, `NotYours`, `TooFar`, `SupportsOthers`, `InventoryFull`.
pub fn demolish(
    world: &mut World,
    player: Entity,
    player_id: EntityId,
    structure_id: EntityId,
) -> Result<Outcome, Rejection> {
    let entity = world.resource::<Space>().entity(structure_id).ok_or(Rejection::NoSuchEntity)?;
    let structure = world.get::<Structure>(entity).ok_or(Rejection::NoSuchEntity)?.clone();
    let at = world.get::<Placement>(entity).ok_or(Rejection::NoSuchEntity)?.position;
    let from = world.get::<Pose>(player).ok_or(Rejection::NoSuchEntity)?.position;
    let content = &world.resource::<GameContent>().0;
    let tuning = content.tuning.clone();
    if structure.owner != player_id {
        return Err(Rejection::NotYours);
    }
    if !from.within(at, tuning.reach_mm + tuning.grid_mm) {
        return Err(Rejection::TooFar);
    }
    let refund = content.piece(structure.piece).map_or(Vec::new(), |piece| {
        let part = |count: u16| (u32::from(count) * u32::from(piece.kind.refund_percent) / 100) as u16;
        piece.cost.iter().map(|(item, count)| (*item, part(*count))).filter(|(_, count)| *count > 0).collect()
    });
    let cell = Cell { column: structure.column, row: structure.row };
    let near = neighbours(world, cell, &tuning);
    let this = near.iter().find(|other| other.entity == entity).ok_or(Rejection::NoSuchEntity)?.place;
    let stands_without = |other: &Neighbour| {
        let others = || near.iter().filter(|n| n.entity != entity);
        match other.needs {
            Support::Ground => true,
            Support::Floor => others().any(|n| other.place.can_stand_on_floor(&n.place)),
            Support::Walls => others().any(|n| other.place.can_stand_on_wall(&n.place)),
        }
    };
    let carried = |other: &&Neighbour| {
        other.entity != entity
            && match other.needs {
                Support::Ground => false,
                Support::Floor => other.place.can_stand_on_floor(&this),
                Support::Walls => other.place.can_stand_on_wall(&this),
            }
    };
    if near.iter().filter(carried).any(|other| !stands_without(other)) {
        return Err(Rejection::SupportsOthers);
    }
    let items = exchange(world, player, &Vec::new(), &refund)?;
    world.despawn(entity);
    Ok(Outcome::Done { items, entity: structure_id })
}
