//! Large worlds, for measurements.

use anyhow::{Context, Result};
use std::path::Path;
use vsekai_schema::content::ContentFiles;
use vsekai_schema::id::{EntityId, PieceId};
use vsekai_schema::record::IdBlock;
use vsekai_schema::units::{CHUNK_MM, ChunkKey};
use vsekai_sim::build::Structure;
use vsekai_sim::space::{Placement, spawn_with_id};
use vsekai_sim::world::Ids;
use vsekai_sim::{SimConfig, Simulation};
use vsekai_storage::NewWorld;

/// The content that the project ships.
pub fn content() -> ContentFiles {
    ContentFiles::parse(vsekai_sim::SHIPPED_CONTENT).expect("the shipped content is valid: its crate tests that")
}

/// Resource nodes in a chunk of a new world with the shipped content, about.
const NODES_PER_CHUNK: f64 = 11.8;

/// A world with `entities` things that stand in it: half of them resource nodes, as a new world has them, half structures.
/// Players appear all over it when `spread` is set, else near the origin.
pub fn large(entities: usize, tick_hz: u32, seed: u64, spread: bool) -> Simulation {
    let chunks = entities as f64 / 2.0 / NODES_PER_CHUNK;
    let half_m = ((chunks.sqrt() / 2.0 * f64::from(CHUNK_MM) / 1_000.0) as u32).max(64);
    let spawn_radius_m = if spread { half_m } else { 24 };
    let config = SimConfig { tick_hz, seed, half_m, spawn_radius_m };
    let mut simulation = Simulation::create(&config, &content());
    let first = grant_ids(&mut simulation);
    let missing = entities.saturating_sub((first - EntityId::FIRST_FREE.0) as usize);
    let edge = (half_m / 32) as i32;
    let side = (2 * edge) as usize;
    let ground = simulation.ground();
    for number in 0..missing {
        // Row by row over all chunks, again and again: an even spread of foundations.
        let chunk = number % (side * side);
        let key = ChunkKey { x: (chunk % side) as i32 - edge, z: (chunk / side) as i32 - edge };
        let place = (number / (side * side)) as i32;
        let (column, row) = (key.x * 16 + place % 16, key.z * 16 + place / 16 % 16);
        let position = ground.at(column * 2_000 + 1_000, row * 2_000 + 1_000);
        let id = simulation.world_mut().resource_mut::<Ids>().allocate().expect("the block is large");
        let structure = Structure {
            piece: PieceId(3),
            column,
            row,
            level: 0,
            turn: 0,
            owner: EntityId(EntityId::FIRST_FREE.0),
            health: 400,
        };
        spawn_with_id(simulation.world_mut(), id, (Placement { position, yaw: 0 }, structure));
    }
    // The first tick records all of them; what is measured comes after it.
    simulation.tick();
    simulation
}

/// Gives a world without a store more ids than it can use; says where they begin.
pub fn grant_ids(simulation: &mut Simulation) -> u64 {
    let next = simulation.world_mut().resource::<Ids>().next_id();
    assert!(simulation.grant_ids(IdBlock { next, end: next + (1 << 32) }), "a fresh world takes its first block");
    next
}

/// Writes a world of `entities` into `data`, as a shard would have left it.
///
/// # Errors
/// When the store refuses.
pub fn store(entities: usize, seed: u64, data: &Path) -> Result<(u64, u64)> {
    let mut simulation = large(entities, 60, seed, true);
    let payloads = simulation.payloads();
    let config = storage_config(data);
    let opened = vsekai_storage::Storage::open(config, std::sync::Arc::new(|_| {})).context("cannot open the store")?;
    let (frame, state_hash) = (payloads.frame, payloads.state_hash);
    opened.storage.create(NewWorld {
        frame,
        state_hash,
        chunks: payloads.chunks,
        alone: payloads.alone,
        ids_used_to: payloads.ids_used_to,
    })?;
    opened.storage.close()?;
    Ok((frame, state_hash))
}

/// The storage of a shard with `--data DATA` and nothing else said.
pub fn storage_config(data: &Path) -> vsekai_storage::Config {
    vsekai_storage::Config::new(format!("local:{}", data.join("store").display()), data.join("journal"))
}

/// Memory of this process that is in use, bytes.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    pages * 4_096
}
