//! The one scene that feature tests set up: a small world with ids granted, players that join by name, commands with outcomes.

use crate::inventory::Inventory;
use crate::port::TickOutput;
use crate::space::{Placement, Pose, Space, spawn_with_id};
use crate::world::{GameContent, Ids};
use crate::{SimConfig, Simulation};
use bevy_ecs::prelude::*;
use std::collections::BTreeMap;
use vsekai_schema::content::{ContentFiles, ItemCounts};
use vsekai_schema::id::{EntityId, ItemId, NodeId, PieceId, PlayerKey, RecipeId};
use vsekai_schema::record::IdBlock;
use vsekai_schema::units::Position;
use vsekai_schema::wire::{Command, Input, Outcome, PlayerInput, Rejection};

pub(crate) fn content() -> ContentFiles {
    ContentFiles::parse(crate::SHIPPED_CONTENT).expect("the shipped content is valid")
}

pub(crate) const ID_BLOCK: u64 = 1 << 20;

pub(crate) struct Scenario {
    pub(crate) simulation: Simulation,
    pub(crate) last: TickOutput,
    sequences: BTreeMap<EntityId, u32>,
}

impl Scenario {
    pub(crate) fn new() -> Self {
        Self::with(SimConfig { half_m: 64, ..SimConfig::default() })
    }

    pub(crate) fn with(config: SimConfig) -> Self {
        Self::of(Simulation::create(&config, &content()))
    }

    pub(crate) fn of(mut simulation: Simulation) -> Self {
        let next = simulation.world_mut().resource::<Ids>().next_id();
        assert!(simulation.grant_ids(IdBlock { next, end: next + ID_BLOCK }));
        Scenario { simulation, last: TickOutput::default(), sequences: BTreeMap::new() }
    }

    /// As after a restart: everything encoded, everything loaded from that, ids from a fresh block.
    pub(crate) fn restart(&mut self) {
        let saved = self.simulation.payloads();
        let payloads = saved.chunks.iter().map(|(_, p)| &p[..]).chain(saved.alone.iter().map(|(_, p)| &p[..]));
        let ids = IdBlock { next: saved.ids_used_to + ID_BLOCK, end: saved.ids_used_to + 2 * ID_BLOCK };
        let config = SimConfig { half_m: 64, ..SimConfig::default() };
        self.simulation =
            Simulation::restore(&config, &content(), saved.frame, saved.state_hash, ids, payloads).unwrap();
    }

    pub(crate) fn world(&mut self) -> &mut World {
        self.simulation.world_mut()
    }

    pub(crate) fn tick(&mut self) -> &TickOutput {
        self.last = self.simulation.tick();
        &self.last
    }

    pub(crate) fn submit(&mut self, player: EntityId, input: Input) {
        self.simulation.submit(PlayerInput { player, input }).unwrap();
    }

    pub(crate) fn join(&mut self, token: &str) -> EntityId {
        let key = PlayerKey::from_secret(token);
        self.submit(EntityId::WORLD, Input::Join { key, name: token.into() });
        let joined = self.tick().joined[0].clone();
        let player = joined.player.unwrap();
        self.sequences.insert(player, joined.last_command);
        player
    }

    pub(crate) fn queue(&mut self, player: EntityId, command: Command) {
        let sequence = self.sequences.get_mut(&player).unwrap();
        *sequence += 1;
        let sequence = *sequence;
        self.submit(player, Input::Command { sequence, command });
    }

    /// Runs one command in one tick.
    pub(crate) fn run(&mut self, player: EntityId, command: Command) -> Outcome {
        self.queue(player, command);
        self.tick().results[0].outcome.clone()
    }

    pub(crate) fn rejected(&mut self, player: EntityId, command: Command) -> Rejection {
        match self.run(player, command) {
            Outcome::Rejected(rejection) => rejection,
            done => panic!("was executed: {done:?}"),
        }
    }

    /// The entity that a command made or touched.
    pub(crate) fn done(&mut self, player: EntityId, command: Command) -> EntityId {
        match self.run(player, command) {
            Outcome::Done { entity, .. } => entity,
            Outcome::Rejected(rejection) => panic!("was rejected: {rejection}"),
        }
    }

    fn number(&mut self, sort: fn(&vsekai_schema::content::Palette) -> &Vec<String>, word: &str) -> u16 {
        let content = &self.world().resource::<GameContent>().0;
        sort(content.palette()).iter().position(|w| w == word).unwrap() as u16
    }

    pub(crate) fn item(&mut self, word: &str) -> ItemId {
        ItemId(self.number(|palette| &palette.items, word))
    }

    pub(crate) fn piece(&mut self, word: &str) -> PieceId {
        PieceId(self.number(|palette| &palette.pieces, word))
    }

    pub(crate) fn node_kind(&mut self, word: &str) -> NodeId {
        NodeId(self.number(|palette| &palette.nodes, word))
    }

    pub(crate) fn recipe(&mut self, word: &str) -> RecipeId {
        RecipeId(self.number(|palette| &palette.recipes, word))
    }

    pub(crate) fn entity(&mut self, id: EntityId) -> Entity {
        self.world().resource::<Space>().entity(id).unwrap()
    }

    pub(crate) fn get<C: Component + Clone>(&mut self, id: EntityId) -> C {
        let entity = self.entity(id);
        self.world().get::<C>(entity).unwrap().clone()
    }

    pub(crate) fn count(&mut self, player: EntityId, word: &str) -> u32 {
        let item = self.item(word);
        self.get::<Inventory>(player).slots.count(item)
    }

    pub(crate) fn give(&mut self, player: EntityId, word: &str, count: u16) {
        let (item, entity) = (self.item(word), self.entity(player));
        crate::inventory::exchange(self.world(), entity, &ItemCounts::new(), &vec![(item, count)]).unwrap();
    }

    pub(crate) fn place(&mut self, player: EntityId, position: Position) {
        let entity = self.entity(player);
        self.world().get_mut::<Pose>(entity).unwrap().position = position;
    }

    /// A node of `kind`, right beside the player.
    pub(crate) fn node_beside(&mut self, player: EntityId, kind: &str, left: u16) -> EntityId {
        let kind = self.node_kind(kind);
        let position = self.get::<Pose>(player).position;
        let id = self.world().resource_mut::<Ids>().allocate().unwrap();
        let node = crate::resource::ResourceNode { kind, left, regrow_at: 0 };
        spawn_with_id(self.world(), id, (Placement { position, yaw: 0 }, node));
        id
    }

    /// Items made − used up = items in inventories, for every kind.
    pub(crate) fn check_ledger(&mut self) {
        let (mut minted, mut consumed, mut live) = self.simulation.item_totals();
        let longest = minted.len().max(consumed.len()).max(live.len());
        for totals in [&mut minted, &mut consumed, &mut live] {
            totals.resize(longest, 0);
        }
        for item in 0..longest {
            assert_eq!(minted[item] - consumed[item], live[item], "item {item} was lost or doubled");
        }
    }
}
