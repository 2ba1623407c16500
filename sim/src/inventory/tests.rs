use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const STACK: u16 = 10;
const ITEM: ItemId = ItemId(3);

fn ids() -> impl FnMut() -> Option<EntityId> {
    let mut next = 0;
    move || {
        next += 1;
        Some(EntityId(next))
    }
}

#[test]
fn adding_fills_stacks_then_slots_and_refuses_the_rest() {
    let mut new_id = ids();
    let mut slots = Slots::empty(2);
    slots.add(ITEM, 7, STACK, &mut new_id).unwrap();
    slots.add(ITEM, 7, STACK, &mut new_id).unwrap();
    assert_eq!(slots.get(0).unwrap().unwrap(), Stack { id: EntityId(1), item: ITEM, count: 10 });
    assert_eq!(slots.get(1).unwrap().unwrap(), Stack { id: EntityId(2), item: ITEM, count: 4 });
    assert_eq!(slots.clone().add(ITEM, 7, STACK, &mut new_id), Err(Rejection::InventoryFull));
    assert_eq!(Slots::empty(1).add(ITEM, 1, STACK, &mut || None), Err(Rejection::Busy));
}

#[test]
fn a_split_makes_a_new_id_and_a_merge_ends_one() {
    let mut new_id = ids();
    let mut slots = Slots::empty(3);
    slots.add(ITEM, 8, STACK, &mut new_id).unwrap();
    slots.move_items(0, 2, 3, STACK, &mut new_id).unwrap();
    assert_eq!(slots.get(2).unwrap().unwrap(), Stack { id: EntityId(2), item: ITEM, count: 3 });
    slots.move_items(0, 2, 0, STACK, &mut new_id).unwrap();
    assert_eq!(slots.get(2).unwrap().unwrap(), Stack { id: EntityId(2), item: ITEM, count: 8 });
    assert_eq!(slots.get(0).unwrap(), None);
    assert_eq!(slots.move_items(0, 1, 0, STACK, &mut new_id), Err(Rejection::EmptySlot));
    assert_eq!(slots.move_items(2, 9, 0, STACK, &mut new_id), Err(Rejection::OutOfRange));
    assert_eq!(slots.move_items(2, 1, 9, STACK, &mut new_id), Err(Rejection::MissingItems));
}

proptest! {
    /// Whatever is moved, nothing is lost or doubled, no stack is empty or too large, and no id stands twice.
    #[test]
    fn moves_keep_every_item(
        start in proptest::collection::vec((0u16..3, 1u32..30), 1..6),
        moves in proptest::collection::vec((0u8..9, 0u8..9, 0u16..12), 0..60),
    ) {
        let mut new_id = ids();
        let mut slots = Slots::empty(8);
        for (item, count) in start {
            let mut tried = slots.clone();
            if tried.add(ItemId(item), count, STACK, &mut new_id).is_ok() {
                slots = tried;
            }
        }
        let totals = |slots: &Slots| [0, 1, 2].map(|item| slots.count(ItemId(item)));
        let before = totals(&slots);
        for (from, to, count) in moves {
            let snapshot = slots.clone();
            if slots.move_items(from, to, count, STACK, &mut new_id).is_err() {
                prop_assert_eq!(&slots, &snapshot);
            }
            prop_assert_eq!(totals(&slots), before);
            prop_assert!(slots.stacks().all(|stack| (1..=STACK).contains(&stack.count)));
            let distinct: BTreeSet<_> = slots.stacks().map(|stack| stack.id).collect();
            prop_assert_eq!(distinct.len(), slots.stacks().count());
        }
    }
}
