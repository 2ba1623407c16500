//! Resource nodes: trees, rocks, ore. They are harvested until they are depleted, and regrow after a time.
//!
//! Writes [`ResourceNode`], and through `inventory` the harvester's items. Invariants: `left` never exceeds the kind's
//! harvests; a node has a `regrow_at` exactly while it is depleted; the timers follow from the nodes, so they need no
//! record of their own.

mod scatter;
#[cfg(test)]
mod tests;

pub use scatter::scatter;

use crate::inventory::exchange;
use crate::random::TickRandom;
use crate::registry::{AppDeclare, Declared, IndexWorld, Seen};
use crate::schedule::{Tick, TickSet};
use crate::space::{Placement, Pose, Space};
use crate::world::{CurrentFrame, GameContent, TickRate};
use bevy_app::App;
use bevy_ecs::prelude::*;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use vsekai_schema::id::{EntityId, NodeId};
use vsekai_schema::wire::{Outcome, Rejection};

/// Something that can be harvested.
#[derive(Component, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[component(immutable)]
pub struct ResourceNode {
    /// Which kind.
    pub kind: NodeId,
    /// Harvests left; 0 = depleted.
    pub left: u16,
    /// The frame in which it is whole again; 0 unless depleted.
    pub regrow_at: u64,
}

impl Declared for ResourceNode {
    const TAG: u16 = 3;
    const NAME: &'static str = "resource";
    const SEEN: Seen = Seen::Nearby;

    fn inserted(&self, entity: Entity, world: &IndexWorld<'_>) {
        let at = self.regrow_at;
        if at > 0 {
            world.update(move |timers: &mut RegrowTimers| timers.0.push(Reverse((at, entity))));
        }
    }
}

/// Depleted nodes by the frame in which they regrow.
#[derive(Resource, Debug, Default)]
pub struct RegrowTimers(BinaryHeap<Reverse<(u64, Entity)>>);

/// When a player harvested last. Never kept.
#[derive(Component, Debug, Clone, Copy, Default)]
pub struct LastHarvest {
    /// The first frame in which the next harvest may happen.
    pub next_at: u64,
}

/// Regrowing, for other features of `TickSet::Live` to stand before or after.
#[derive(SystemSet, Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegrowSet;

/// Wires nodes into the game.
pub fn plugin(app: &mut App) {
    app.init_resource::<RegrowTimers>();
    app.declare::<ResourceNode>();
    app.add_systems(Tick, regrow.in_set(RegrowSet));
    app.configure_sets(Tick, RegrowSet.in_set(TickSet::Live));
}

/// Executes a harvest command.
///
/// # Errors
/// `NoSuchEntity`, `NotHarvestable`, `TooFar`, `TooSoon`, `Depleted`, or why the items found no place.
pub fn harvest(world: &mut World, player: Entity, node_id: EntityId) -> Result<Outcome, Rejection> {
    let frame = world.resource::<CurrentFrame>().0;
    let rate = *world.resource::<TickRate>();
    let entity = world.resource::<Space>().entity(node_id).ok_or(Rejection::NoSuchEntity)?;
    let node = world.get::<ResourceNode>(entity).ok_or(Rejection::NotHarvestable)?.clone();
    let content = &world.resource::<GameContent>().0;
    let kind = content.node(node.kind).ok_or(Rejection::NotHarvestable)?;
    let tuning = &content.tuning;
    let at = world.get::<Placement>(entity).ok_or(Rejection::NotHarvestable)?.position;
    let from = world.get::<Pose>(player).ok_or(Rejection::NoSuchEntity)?.position;
    if !from.within(at, tuning.reach_mm) {
        return Err(Rejection::TooFar);
    }
    if world.get::<LastHarvest>(player).is_some_and(|last| last.next_at > frame) {
        return Err(Rejection::TooSoon);
    }
    if node.left == 0 {
        return Err(Rejection::Depleted);
    }
    let (item, yields) = (kind.item, kind.kind.yield_min..=kind.kind.yield_max);
    let regrow_ticks = rate.ticks_of_ms(u64::from(kind.kind.regrow_s) * 1_000);
    let next_at = frame + rate.ticks_of_ms(u64::from(tuning.harvest_interval_ms));
    let count = world.resource_mut::<TickRandom>().0.random_range(yields);
    let items = exchange(world, player, &Vec::new(), &vec![(item, count)])?;
    let left = node.left - 1;
    let regrow_at = if left == 0 { frame + regrow_ticks } else { 0 };
    world.entity_mut(entity).insert(ResourceNode { left, regrow_at, ..node });
    world.entity_mut(player).insert(LastHarvest { next_at });
    Ok(Outcome::Done { items, entity: node_id })
}

fn regrow(world: &mut World) {
    let frame = world.resource::<CurrentFrame>().0;
    let retry_ticks = world.resource::<TickRate>().ticks_of_ms(3_600_000);
    while let Some(Reverse((at, entity))) = world.resource::<RegrowTimers>().0.peek().copied() {
        if at > frame {
            break;
        }
        world.resource_mut::<RegrowTimers>().0.pop();
        // The timer may be stale: the node is gone, or was made whole otherwise.
        let Some(node) = world.get::<ResourceNode>(entity).filter(|node| node.regrow_at == at).cloned() else {
            continue;
        };
        let left = world.resource::<GameContent>().0.node(node.kind).map_or(0, |kind| kind.kind.harvests);
        // A kind that the files no longer define stays depleted; perhaps it comes back.
        let regrow_at = if left == 0 { frame + retry_ticks } else { 0 };
        world.entity_mut(entity).insert(ResourceNode { left, regrow_at, ..node });
    }
}
