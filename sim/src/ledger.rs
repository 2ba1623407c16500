//! The ledger: how many of each item were ever made and used up. The proof that nothing is doubled or lost is the equation
//! `minted − consumed = live` over all inventories, so every feature that makes or uses up items says so here.

use crate::registry::{AppDeclare, Declared, IndexWorld};
use crate::schedule::{Tick, TickSet};
use crate::space::Space;
use bevy_app::App;
use bevy_ecs::prelude::*;
use serde::{Deserialize, Serialize};
use vsekai_schema::id::{EntityId, ItemId};

/// Totals since the world was born, by [`ItemId`].
#[derive(Component, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[component(immutable)]
pub struct Ledger {
    /// Items made: harvested, crafted, refunded, given to a new player.
    pub minted: Vec<u64>,
    /// Items used up: crafted with, built with.
    pub consumed: Vec<u64>,
}

impl Declared for Ledger {
    const TAG: u16 = 8;
    const NAME: &'static str = "ledger";

    fn inserted(&self, _entity: Entity, world: &IndexWorld<'_>) {
        let totals = self.clone();
        world.update(move |book: &mut Book| *book = Book { totals, changed: false });
    }
}

/// The ledger while a tick runs; written back once per tick.
#[derive(Resource, Debug, Default)]
pub struct Book {
    totals: Ledger,
    changed: bool,
}

fn add(totals: &mut Vec<u64>, item: ItemId, count: u32) {
    if totals.len() <= item.index() {
        totals.resize(item.index() + 1, 0);
    }
    totals[item.index()] += u64::from(count);
}

impl Book {
    /// `count` of `item` came into being.
    pub fn mint(&mut self, item: ItemId, count: u32) {
        add(&mut self.totals.minted, item, count);
        self.changed = true;
    }

    /// `count` of `item` ceased to be.
    pub fn consume(&mut self, item: ItemId, count: u32) {
        add(&mut self.totals.consumed, item, count);
        self.changed = true;
    }

    /// The totals so far.
    pub fn totals(&self) -> &Ledger {
        &self.totals
    }
}

/// Wires the ledger into the tick.
pub fn plugin(app: &mut App) {
    app.init_resource::<Book>();
    app.declare::<Ledger>();
    app.add_systems(Tick, write_back.in_set(TickSet::Account));
}

fn write_back(world: &mut World) {
    if !world.resource::<Book>().changed {
        return;
    }
    let ledger = world.resource::<Book>().totals.clone();
    if let Some(entity) = world.resource::<Space>().entity(EntityId::WORLD) {
        world.entity_mut(entity).insert(ledger);
    }
}
