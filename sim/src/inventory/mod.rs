//! Inventories: slots with stacks of items.
//!
//! Written by `craft`, `resource`, `build` and, for moves between slots, by this feature. Invariants: a stack is never empty and
//! never larger than its item's stack size; every stack has an id that no other stack ever had; items appear and vanish
//! only together with an entry in the ledger.

mod slots;
#[cfg(test)]
mod tests;

pub use slots::{Slots, Stack};

use crate::ledger::Book;
use crate::registry::{AppDeclare, Declared, Seen};
use crate::world::{GameContent, Ids};
use bevy_app::App;
use bevy_ecs::prelude::*;
use serde::{Deserialize, Serialize};
use vsekai_schema::content::ItemCounts;
use vsekai_schema::id::{EntityId, ItemId};
use vsekai_schema::wire::{ItemChange, Outcome, Rejection};

/// What a player carries.
#[derive(Component, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[component(immutable)]
pub struct Inventory {
    /// The slots, by number.
    pub slots: Slots,
}

impl Declared for Inventory {
    const TAG: u16 = 6;
    const NAME: &'static str = "inventory";
    const SEEN: Seen = Seen::Owner;
}

/// Declares inventories.
pub fn plugin(app: &mut App) {
    app.declare::<Inventory>();
}

/// Uses up `consumed` and makes `minted` in `player`'s inventory and in the ledger: all of it, or nothing.
///
/// # Errors
/// `MissingItems`, `InventoryFull`, or `Busy` when no id is left for a new stack.
pub fn exchange(
    world: &mut World,
    player: Entity,
    consumed: &ItemCounts,
    minted: &ItemCounts,
) -> Result<Vec<ItemChange>, Rejection> {
    let mut slots = world.get::<Inventory>(player).ok_or(Rejection::NoSuchEntity)?.slots.clone();
    for (item, count) in consumed {
        slots.remove(*item, u32::from(*count))?;
    }
    // The ids are taken for good even if the exchange fails below: ids are plenty, and never reused.
    world.resource_scope(|world, mut ids: Mut<'_, Ids>| {
        let content = &world.resource::<GameContent>().0;
        minted.iter().try_for_each(|(item, count)| {
            let stack_size = content.item(*item).map_or(1, |kind| kind.stack_size);
            slots.add(*item, u32::from(*count), stack_size, &mut || ids.allocate())
        })
    })?;
    let mut book = world.resource_mut::<Book>();
    let mut changes = Vec::with_capacity(consumed.len() + minted.len());
    for (item, count) in consumed {
        book.consume(*item, u32::from(*count));
        changes.push(ItemChange { item: *item, count: -i32::from(*count) });
    }
    for (item, count) in minted {
        book.mint(*item, u32::from(*count));
        changes.push(ItemChange { item: *item, count: i32::from(*count) });
    }
    world.entity_mut(player).insert(Inventory { slots });
    Ok(changes)
}

/// Executes a move between two slots.
///
/// # Errors
/// `OutOfRange` for a slot that is not there, `EmptySlot`, `MissingItems`, or `SpaceTaken` when a split meets another item.
pub fn move_items(world: &mut World, player: Entity, from: u8, to: u8, count: u16) -> Result<Outcome, Rejection> {
    let mut slots = world.get::<Inventory>(player).ok_or(Rejection::NoSuchEntity)?.slots.clone();
    let stack = slots.get(from)?.ok_or(Rejection::EmptySlot)?;
    world.resource_scope(|world, mut ids: Mut<'_, Ids>| {
        let stack_size = world.resource::<GameContent>().0.item(stack.item).map_or(1, |kind| kind.stack_size);
        slots.move_items(from, to, count, stack_size, &mut || ids.allocate())
    })?;
    world.entity_mut(player).insert(Inventory { slots });
    Ok(Outcome::Done { items: Vec::new(), entity: EntityId(0) })
}

/// How many items of each kind lie in all inventories, by [`ItemId`].
pub fn live_items(world: &mut World) -> Vec<u64> {
    let mut live = Vec::new();
    for inventory in world.query::<&Inventory>().iter(world) {
        for stack in inventory.slots.stacks() {
            let ItemId(index) = stack.item;
            if live.len() <= usize::from(index) {
                live.resize(usize::from(index) + 1, 0);
            }
            live[usize::from(index)] += u64::from(stack.count);
        }
    }
    live
}
