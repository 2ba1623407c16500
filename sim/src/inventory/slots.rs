//! The arithmetic of slots and stacks, without a world.

use serde::{Deserialize, Serialize};
use vsekai_schema::id::{EntityId, ItemId};
use vsekai_schema::wire::Rejection;

/// Some items of one kind in one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Names this stack for ever; a split makes a new id, a merge ends one.
    pub id: EntityId,
    /// Which item.
    pub item: ItemId,
    /// How many, at least 1.
    pub count: u16,
}

/// The slots of one inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slots {
    slots: Vec<Option<Stack>>,
}

/// Where ids of new stacks come from; `None` when there is none.
pub(super) type NewId<'a> = &'a mut dyn FnMut() -> Option<EntityId>;

impl Slots {
    /// `count` empty slots.
    pub fn empty(count: u8) -> Self {
        Slots { slots: vec![None; usize::from(count)] }
    }

    /// All stacks.
    pub fn stacks(&self) -> impl Iterator<Item = &Stack> {
        self.slots.iter().flatten()
    }

    /// The content of slot `slot`.
    ///
    /// # Errors
    /// `OutOfRange` when there is no such slot.
    pub fn get(&self, slot: u8) -> Result<Option<Stack>, Rejection> {
        self.slots.get(usize::from(slot)).copied().ok_or(Rejection::OutOfRange)
    }

    /// How many of `item` there are.
    pub fn count(&self, item: ItemId) -> u32 {
        self.stacks().filter(|stack| stack.item == item).map(|stack| u32::from(stack.count)).sum()
    }

    /// Takes `count` of `item` out, from the last slot backwards.
    ///
    /// # Errors
    /// `MissingItems`, and then nothing was taken.
    pub fn remove(&mut self, item: ItemId, mut count: u32) -> Result<(), Rejection> {
        if self.count(item) < count {
            return Err(Rejection::MissingItems);
        }
        for slot in self.slots.iter_mut().rev() {
            let Some(stack) = slot.as_mut().filter(|stack| stack.item == item) else { continue };
            let taken = count.min(u32::from(stack.count)) as u16;
            stack.count -= taken;
            count -= u32::from(taken);
            if stack.count == 0 {
                *slot = None;
            }
        }
        Ok(())
    }

    /// Puts `count` of `item` in: onto equal stacks first, then into empty slots.
    ///
    /// # Errors
    /// `InventoryFull`, or `Busy` when no id is left; the slots are then undefined and must be thrown away.
    pub fn add(&mut self, item: ItemId, mut count: u32, stack_size: u16, new_id: NewId<'_>) -> Result<(), Rejection> {
        for stack in self.slots.iter_mut().flatten().filter(|stack| stack.item == item) {
            let put = count.min(u32::from(stack_size.saturating_sub(stack.count))) as u16;
            stack.count += put;
            count -= u32::from(put);
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.is_none()) {
            if count == 0 {
                break;
            }
            let put = count.min(u32::from(stack_size)) as u16;
            *slot = Some(Stack { id: new_id().ok_or(Rejection::Busy)?, item, count: put });
            count -= u32::from(put);
        }
        if count == 0 { Ok(()) } else { Err(Rejection::InventoryFull) }
    }

    /// Moves `count` items (0 = all) from one slot to another: merges, moves, splits or swaps.
    ///
    /// # Errors
    /// `OutOfRange`, `EmptySlot`, `MissingItems` (fewer than `count` there), `SpaceTaken` (part of a stack onto another item, or
    /// onto a full stack), `Busy` (no id for a split); nothing has moved then.
    pub fn move_items(
        &mut self,
        from: u8,
        to: u8,
        count: u16,
        stack_size: u16,
        new_id: NewId<'_>,
    ) -> Result<(), Rejection> {
        let stack = self.get(from)?.ok_or(Rejection::EmptySlot)?;
        let target = self.get(to)?;
        let count = if count == 0 { stack.count } else { count };
        if count > stack.count {
            return Err(Rejection::MissingItems);
        }
        if from == to {
            return Ok(());
        }
        let whole = count == stack.count;
        let (left, put) = match target {
            None if whole => (None, stack),
            None => {
                let id = new_id().ok_or(Rejection::Busy)?;
                (Some(Stack { count: stack.count - count, ..stack }), Stack { id, count, ..stack })
            }
            Some(target) if target.item == stack.item => {
                let moved = count.min(stack_size.saturating_sub(target.count));
                if moved == 0 {
                    return Err(Rejection::SpaceTaken);
                }
                let left = Stack { count: stack.count - moved, ..stack };
                (Some(left).filter(|left| left.count > 0), Stack { count: target.count + moved, ..target })
            }
            Some(target) if whole => (Some(target), stack),
            Some(_) => return Err(Rejection::SpaceTaken),
        };
        self.slots[usize::from(from)] = left;
        self.slots[usize::from(to)] = Some(put);
        Ok(())
    }

    /// Grows to `count` slots; never shrinks, since items could be lost.
    pub fn grow_to(&mut self, count: u8) {
        if self.slots.len() < usize::from(count) {
            self.slots.resize(usize::from(count), None);
        }
    }
}
