//! The simulation as its owner sees it: made new or restored, fed, ticked, read.

use crate::command::CommandQueue;
use crate::inventory::live_items;
use crate::ledger::{Book, Ledger};
use crate::movement::{Ground, Walk, take_input};
use crate::player::{CommandLog, Player, SpawnRadius};
use crate::port::{InputQueue, Joined, QueueFull, TickOutput, WorldView};
use crate::random::TickRandom;
use crate::record::{Frame, Identity, begin_loading, finish_loading, for_each_kept};
use crate::registry::Registry;
use crate::resource::{ResourceNode, scatter};
use crate::schedule::{Tick, TickSet};
use crate::space::{Placement, Present, Space, spawn_with_id};
use crate::terrain::Terrain;
use crate::world::{CurrentFrame, GameContent, Ids, TickRate, WorldRecord};
use crate::{build, command, inventory, ledger, movement, player, record, resource, schedule, space, world};
use bevy_app::App;
use bevy_ecs::prelude::*;
use std::collections::BTreeMap;
use thiserror::Error;
use vsekai_schema::codec::DecodeError;
use vsekai_schema::content::{Catalogue, ContentFiles, Palette};
use vsekai_schema::id::{EntityId, Tag};
use vsekai_schema::record::{EntitiesReader, EntitiesWriter, EntityRecord, Home, IdBlock};
use vsekai_schema::units::{CHUNK_MM, ChunkKey};
use vsekai_schema::wire::{Input, PlayerInput};

/// How a world runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimConfig {
    /// Ticks per second, 10–120.
    pub tick_hz: u32,
    /// Seed of a new world; a stored world keeps its own.
    pub seed: u64,
    /// Half of a new world's side in metres, 32–8,000 (some three million nodes); a stored world keeps its own.
    pub half_m: u32,
    /// New players appear within this distance of the origin, metres, 1–8,000.
    pub spawn_radius_m: u32,
}

impl Default for SimConfig {
    fn default() -> Self {
        SimConfig { tick_hz: 60, seed: 122, half_m: 512, spawn_radius_m: 24 }
    }
}

/// A value of [`SimConfig`] that is out of range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{key}` is {value}, it must be from {min} to {max}")]
pub struct ConfigError {
    /// Which one.
    pub key: &'static str,
    /// What was given.
    pub value: u64,
    /// Smallest allowed.
    pub min: u64,
    /// Largest allowed.
    pub max: u64,
}

impl SimConfig {
    /// Checks all ranges.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ranges = [
            ("tick_hz", self.tick_hz, 10, 120),
            ("half_m", self.half_m, 32, 8_000),
            ("spawn_radius_m", self.spawn_radius_m, 1, 8_000),
        ];
        for (key, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                return Err(ConfigError { key, value: value.into(), min: min.into(), max: max.into() });
            }
        }
        Ok(())
    }
}

/// Why a stored world cannot be restored. The shard stops and says so; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// A payload cannot be read.
    #[error("a stored entity list")]
    Payload(#[source] DecodeError),
    /// A component cannot be read.
    #[error("component `{component}` of entity {entity}")]
    Component {
        /// Which component.
        component: String,
        /// Of which entity.
        entity: EntityId,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// A component that this build does not know.
    #[error(
        "entity {entity} has a component with tag {tag}, which this build does not know: it was written by a newer one"
    )]
    UnknownTag {
        /// Which tag.
        tag: u16,
        /// Of which entity.
        entity: EntityId,
    },
    /// The same id twice.
    #[error("entity {0} is stored twice")]
    Doubled(EntityId),
    /// The world's own entity is missing.
    #[error("the world's own record is missing")]
    NoWorldRecord,
    /// The loaded state is not the one that was stored.
    #[error("the state hash is {found:016x}, but frame {frame} was stored with {expected:016x}")]
    HashMismatch {
        /// The frame.
        frame: u64,
        /// Computed from what was loaded.
        found: u64,
        /// As stored.
        expected: u64,
    },
}

/// A whole world in encoded form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorldPayloads {
    /// Frame it was taken after.
    pub frame: u64,
    /// Hash of the whole state.
    pub state_hash: u64,
    /// Entity lists by chunk.
    pub chunks: Vec<(ChunkKey, Vec<u8>)>,
    /// Entity lists of one, by entity.
    pub alone: Vec<(EntityId, Vec<u8>)>,
    /// Every id so far is below this.
    pub ids_used_to: u64,
}

/// One world, and what it takes to run it.
pub struct Simulation {
    app: App,
    seed: u64,
}

impl Simulation {
    fn assemble(config: &SimConfig, extra: impl FnOnce(&mut App)) -> Self {
        let mut app = App::empty();
        app.add_plugins((
            schedule::plugin,
            record::plugin,
            space::plugin,
            world::plugin,
            player::plugin,
            movement::plugin,
            command::plugin,
            resource::plugin,
            inventory::plugin,
            build::plugin,
            ledger::plugin,
        ));
        app.init_resource::<InputQueue>().init_resource::<JoinedList>();
        app.add_systems(Tick, admit.in_set(TickSet::Admit));
        extra(&mut app);
        app.insert_resource(TickRate(config.tick_hz));
        app.insert_resource(SpawnRadius(config.spawn_radius_m as i32 * 1_000));
        Simulation { app, seed: config.seed }
    }

    /// A new world: the land of the seed with its resource nodes. `config` must be valid.
    pub fn create(config: &SimConfig, content: &ContentFiles) -> Self {
        Self::create_with(config, content, |_| {})
    }

    /// As [`Simulation::create`], with features added by `extra`.
    pub fn create_with(config: &SimConfig, content: &ContentFiles, extra: impl FnOnce(&mut App)) -> Self {
        let mut simulation = Self::assemble(config, extra);
        let half_mm = config.half_m as i32 * 1_000;
        let content = content.resolve(&Palette::default());
        let ground = Ground { terrain: Terrain::new(config.seed), half_mm };
        let world = simulation.app.world_mut();
        begin_loading(world);
        let record = WorldRecord { seed: config.seed, half_mm, palette: content.palette().clone() };
        spawn_with_id(world, EntityId::WORLD, (record, Ledger::default()));
        let mut next = EntityId::FIRST_FREE.0;
        let edge = half_mm.div_euclid(CHUNK_MM) + i32::from(half_mm % CHUNK_MM != 0);
        for key in (-edge..edge).flat_map(|z| (-edge..edge).map(move |x| ChunkKey { x, z })) {
            for (kind, position, yaw) in scatter(config.seed, &ground, &content, key) {
                let left = content.node(kind).map_or(0, |node| node.kind.harvests);
                let node = ResourceNode { kind, left, regrow_at: 0 };
                spawn_with_id(world, EntityId(next), (Placement { position, yaw }, node));
                next += 1;
            }
        }
        // Until the store grants a block, nothing can be made: see `grant_ids`.
        world.insert_resource(Ids::new(IdBlock { next, end: next }));
        world.insert_resource(ground);
        world.insert_resource(GameContent(content));
        finish_loading(world, 0);
        simulation
    }

    /// A stored world, exactly as it was after `frame`. `config` must be valid.
    ///
    /// # Errors
    /// When anything cannot be read, or the result's hash is not `state_hash`.
    pub fn restore<'p>(
        config: &SimConfig,
        content: &ContentFiles,
        frame: u64,
        state_hash: u64,
        ids: IdBlock,
        payloads: impl Iterator<Item = &'p [u8]>,
    ) -> Result<Self, RestoreError> {
        Self::restore_with(config, content, frame, state_hash, ids, payloads, |_| {})
    }

    /// As [`Simulation::restore`], with features added by `extra`.
    ///
    /// # Errors
    /// As [`Simulation::restore`].
    pub fn restore_with<'p>(
        config: &SimConfig,
        content: &ContentFiles,
        frame: u64,
        state_hash: u64,
        ids: IdBlock,
        payloads: impl Iterator<Item = &'p [u8]>,
        extra: impl FnOnce(&mut App),
    ) -> Result<Self, RestoreError> {
        let mut simulation = Self::assemble(config, extra);
        let world = simulation.app.world_mut();
        begin_loading(world);
        world.resource_scope(|world, registry: Mut<'_, Registry>| {
            payloads.into_iter().try_for_each(|payload| load_payload(world, &registry, payload))
        })?;
        let own = world.resource::<Space>().entity(EntityId::WORLD).ok_or(RestoreError::NoWorldRecord)?;
        let record = world.get::<WorldRecord>(own).ok_or(RestoreError::NoWorldRecord)?.clone();
        world.insert_resource(Ids::new(ids));
        world.insert_resource(Ground { terrain: Terrain::new(record.seed), half_mm: record.half_mm });
        finish_loading(world, frame);
        let found = world.resource::<Frame>().state_hash;
        if found != state_hash {
            return Err(RestoreError::HashMismatch { frame, found, expected: state_hash });
        }
        let content = content.resolve(&record.palette);
        if *content.palette() != record.palette {
            // New words in the files: the palette grows, as a change of the next frame.
            let palette = content.palette().clone();
            world.entity_mut(own).insert(WorldRecord { palette, ..record.clone() });
        }
        world.insert_resource(GameContent(content));
        simulation.seed = record.seed;
        Ok(simulation)
    }

    /// Queues an input for the next tick.
    ///
    /// # Errors
    /// When the queue is full: the caller tells the player, or drops a movement.
    pub fn submit(&mut self, input: PlayerInput) -> Result<(), QueueFull> {
        self.app.world_mut().resource_mut::<InputQueue>().push(input)
    }

    /// Runs one tick.
    pub fn tick(&mut self) -> TickOutput {
        let seed = self.seed;
        let world = self.app.world_mut();
        let frame = world.resource::<Frame>().number + 1;
        world.resource_mut::<CurrentFrame>().0 = frame;
        world.insert_resource(TickRandom::of_frame(seed, frame));
        let inputs = world.resource_mut::<InputQueue>().take();
        world.insert_resource(TickInputs(inputs));
        world.run_schedule(Tick);
        world.increment_change_tick();
        world.clear_trackers();
        let inputs = std::mem::take(&mut world.resource_mut::<TickInputs>().0);
        let results = std::mem::take(&mut world.resource_mut::<CommandQueue>().results);
        let joined = std::mem::take(&mut world.resource_mut::<JoinedList>().0);
        let mut made = world.resource_mut::<Frame>();
        debug_assert_eq!(made.number, frame);
        let state_hash = made.state_hash;
        let record = made.writer.finish(frame, state_hash, &inputs);
        let events = std::mem::take(&mut made.events);
        TickOutput { frame, state_hash, record, results, joined, events }
    }

    /// Read access for replication.
    pub fn view(&self) -> WorldView<'_> {
        WorldView::new(self.app.world())
    }

    /// Number of the last frame.
    pub fn frame(&self) -> u64 {
        self.app.world().resource::<Frame>().number
    }

    /// Hash of the whole state after the last frame.
    pub fn state_hash(&self) -> u64 {
        self.app.world().resource::<Frame>().state_hash
    }

    /// Seed of the world.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Half of the world's side, millimetres.
    pub fn half_mm(&self) -> i32 {
        self.app.world().resource::<Ground>().half_mm
    }

    /// The land and its limits.
    pub fn ground(&self) -> Ground {
        *self.app.world().resource::<Ground>()
    }

    /// Ticks per second.
    pub fn tick_hz(&self) -> u32 {
        self.app.world().resource::<TickRate>().0
    }

    /// Ids left to hand out: the owner asks the store for more in good time.
    pub fn ids_left(&self) -> u64 {
        self.app.world().resource::<Ids>().left()
    }

    /// Makes a granted block available at once, before the first tick. Later grants go in as [`Input::GrantIds`].
    pub fn grant_ids(&mut self, block: IdBlock) -> bool {
        self.app.world_mut().resource_mut::<Ids>().grant(block)
    }

    /// The content for clients.
    pub fn catalogue(&self) -> Catalogue {
        self.app.world().resource::<GameContent>().0.catalogue()
    }

    /// Items made and used up since the world was born, and items in inventories now, each by item number.
    pub fn item_totals(&mut self) -> (Vec<u64>, Vec<u64>, Vec<u64>) {
        let totals = self.app.world().resource::<Book>().totals().clone();
        (totals.minted, totals.consumed, live_items(self.app.world_mut()))
    }

    /// How many entities have each declared component, by the component's name.
    pub fn entity_counts(&mut self) -> BTreeMap<&'static str, usize> {
        let world = self.app.world_mut();
        let mut counts = BTreeMap::new();
        counts.insert("resource", world.query_filtered::<(), With<ResourceNode>>().iter(world).len());
        counts.insert("structure", world.query_filtered::<(), With<build::Structure>>().iter(world).len());
        counts.insert("player", world.query_filtered::<(), With<Player>>().iter(world).len());
        counts.insert("present", world.query_filtered::<(), With<Present>>().iter(world).len());
        counts
    }

    /// The whole world in encoded form, sorted: chunks by Morton code, lone entities by id.
    pub fn payloads(&mut self) -> WorldPayloads {
        type Entities = BTreeMap<EntityId, Vec<(Tag, Vec<u8>)>>;
        let mut homes: BTreeMap<(u64, u64), (Home, Entities)> = BTreeMap::new();
        for_each_kept(self.app.world_mut(), |id, home, components| {
            let order = match home {
                Home::Chunk(key) => (0, key.morton()),
                Home::Alone => (1, id.0),
            };
            let components = components.map(|(tag, bytes)| (tag, bytes.to_vec())).collect();
            homes.entry(order).or_insert_with(|| (home, Entities::new())).1.insert(id, components);
        });
        let mut payloads = WorldPayloads {
            frame: self.frame(),
            state_hash: self.state_hash(),
            ids_used_to: self.app.world().resource::<Ids>().next_id(),
            ..WorldPayloads::default()
        };
        for (home, entities) in homes.into_values() {
            let mut writer = EntitiesWriter::new();
            for (id, components) in &entities {
                writer.push(*id, components.iter().map(|(tag, bytes)| (*tag, &bytes[..])));
            }
            match home {
                Home::Chunk(key) => payloads.chunks.push((key, writer.finish())),
                Home::Alone => {
                    let id = entities.keys().next().copied().unwrap_or_default();
                    payloads.alone.push((id, writer.finish()));
                }
            }
        }
        payloads
    }

    /// One readable line per component, in rising order of entity id: `entity component value`.
    pub fn dump(&mut self, mut line: impl FnMut(EntityId, &str, String)) {
        self.app.world_mut().resource_scope(|world, registry: Mut<'_, Registry>| {
            let mut entities: Vec<(EntityId, Entity)> = world
                .query::<(&Identity, Entity)>()
                .iter(world)
                .map(|(identity, entity)| (identity.id, entity))
                .collect();
            entities.sort_unstable();
            for (id, entity) in entities {
                for entry in registry.entries() {
                    if let Some(text) = entry.describe(world.entity(entity)) {
                        line(id, entry.name, text);
                    }
                }
            }
        });
    }

    /// The world itself, for tests and benchmarks of features.
    pub fn world_mut(&mut self) -> &mut World {
        self.app.world_mut()
    }
}

/// The inputs of the running tick.
#[derive(Resource, Default)]
struct TickInputs(Vec<PlayerInput>);

/// Who entered in the running tick.
#[derive(Resource, Default)]
struct JoinedList(Vec<Joined>);

fn admit(world: &mut World) {
    let mut inputs = std::mem::take(&mut world.resource_mut::<TickInputs>().0);
    for PlayerInput { player, input } in &mut inputs {
        match input {
            Input::Join { key, name } => {
                let entity = player::join(world, *key, name);
                let id = entity.and_then(|entity| world.get::<Identity>(entity)).map(|identity| identity.id);
                let log = entity.and_then(|entity| world.get::<CommandLog>(entity).copied()).unwrap_or_default();
                world.resource_mut::<JoinedList>().0.push(Joined { key: *key, player: id, last_command: log.last });
            }
            Input::Leave => player::leave(world, *player),
            Input::GrantIds(block) => {
                world.resource_mut::<Ids>().grant(*block);
            }
            Input::Move(step) => {
                let (frame, rate) = (world.resource::<CurrentFrame>().0, *world.resource::<TickRate>());
                let entity = world.resource::<Space>().entity(*player);
                if let Some(mut walk) = entity.and_then(|entity| world.get_mut::<Walk>(entity)) {
                    take_input(&mut walk, *step, frame, rate);
                }
            }
            Input::Command { sequence, command } => {
                let command = command.clone();
                world.resource_mut::<CommandQueue>().waiting.push((*player, *sequence, command));
            }
        }
    }
    world.resource_mut::<TickInputs>().0 = inputs;
}

fn load_payload(world: &mut World, registry: &Registry, payload: &[u8]) -> Result<(), RestoreError> {
    let mut reader = EntitiesReader::new(payload).map_err(RestoreError::Payload)?;
    let mut record = EntityRecord { id: EntityId(0), components: Vec::new() };
    while reader.next_into(&mut record).map_err(RestoreError::Payload)? {
        let id = record.id;
        if world.resource::<Space>().entity(id).is_some() {
            return Err(RestoreError::Doubled(id));
        }
        let entity = spawn_with_id(world, id, ());
        let mut entity = world.entity_mut(entity);
        for (tag, bytes) in &record.components {
            let (_, entry) = registry.entry(*tag).ok_or(RestoreError::UnknownTag { tag: tag.0, entity: id })?;
            entry.insert_record(&mut entity, bytes).map_err(|source| RestoreError::Component {
                component: entry.name.to_string(),
                entity: id,
                source,
            })?;
        }
    }
    Ok(())
}
