//! From lasting ids to entities. Ids come in blocks, so they are dense: pages of a thousand take eight bytes an id, where a
//! hash map of a million takes thirty-six.

use super::KeyMap;
use bevy_ecs::prelude::Entity;
use vsekai_schema::id::EntityId;

const PAGE_BITS: u32 = 10;
const PAGE_LEN: usize = 1 << PAGE_BITS;

#[derive(Debug)]
struct Page {
    slots: Box<[Option<Entity>; PAGE_LEN]>,
    used: usize,
}

/// The index. A page lives as long as one of its ids does.
#[derive(Debug, Default)]
pub(super) struct IdIndex {
    pages: KeyMap<u64, Page>,
}

fn place(id: EntityId) -> (u64, usize) {
    (id.0 >> PAGE_BITS, (id.0 as usize) & (PAGE_LEN - 1))
}

impl IdIndex {
    pub(super) fn get(&self, id: EntityId) -> Option<Entity> {
        let (page, slot) = place(id);
        self.pages.get(&page)?.slots[slot]
    }

    /// Sets what `id` stands for; an id that stood for something is overwritten.
    pub(super) fn insert(&mut self, id: EntityId, entity: Entity) {
        let (page, slot) = place(id);
        let page = self.pages.entry(page).or_insert_with(|| Page { slots: Box::new([None; PAGE_LEN]), used: 0 });
        page.used += usize::from(page.slots[slot].is_none());
        page.slots[slot] = Some(entity);
    }

    pub(super) fn remove(&mut self, id: EntityId) {
        let (number, slot) = place(id);
        let Some(page) = self.pages.get_mut(&number) else { return };
        page.used -= usize::from(page.slots[slot].take().is_some());
        if page.used == 0 {
            self.pages.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bevy_ecs::prelude::World;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((any::<bool>(), prop_oneof![0u64..3_000, any::<u64>()]), 0..200)) {
            let mut world = World::new();
            let mut index = IdIndex::default();
            let mut model = BTreeMap::new();
            for (insert, id) in steps {
                if insert {
                    let entity = world.spawn_empty().id();
                    index.insert(EntityId(id), entity);
                    model.insert(id, entity);
                } else {
                    index.remove(EntityId(id));
                    model.remove(&id);
                }
                prop_assert_eq!(index.get(EntityId(id)), model.get(&id).copied());
            }
            for (id, entity) in &model {
                prop_assert_eq!(index.get(EntityId(*id)), Some(*entity));
            }
            let pages: std::collections::BTreeSet<u64> = model.keys().map(|id| id >> PAGE_BITS).collect();
            prop_assert_eq!(index.pages.len(), pages.len(), "empty pages are given back");
        }
    }
}
