//! Puts resource nodes into a new world, chunk by chunk, from its seed.

use crate::movement::Ground;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vsekai_schema::content::Content;
use vsekai_schema::id::NodeId;
use vsekai_schema::units::{CHUNK_MM, ChunkKey, Position, Yaw};

/// Least distance between two nodes of one chunk, millimetres.
const NODE_SPACING_MM: i32 = 1_200;

/// The nodes that a new world has in `chunk`. Depends on the seed, the chunk and the content only, so chunks can be made in
/// any order.
pub fn scatter(seed: u64, ground: &Ground, content: &Content, chunk: ChunkKey) -> Vec<(NodeId, Position, Yaw)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5ca7_7e12);
    rng.set_stream(chunk.morton());
    let mut placed: Vec<(NodeId, Position, Yaw)> = Vec::new();
    for (index, node) in content.nodes.iter().enumerate() {
        let Some(node) = node else { continue };
        // `per_chunk` nodes on average: the whole part always, the rest by chance.
        let thousandths = (node.kind.per_chunk * 1_000.0) as u32;
        let count = thousandths / 1_000 + u32::from(rng.random_range(0..1_000) < thousandths % 1_000);
        for _ in 0..count {
            let x = chunk.x * CHUNK_MM + rng.random_range(0..CHUNK_MM);
            let z = chunk.z * CHUNK_MM + rng.random_range(0..CHUNK_MM);
            let yaw = rng.random::<u16>();
            let position = ground.at(x, z);
            let suits = (node.kind.ground_min_mm..=node.kind.ground_max_mm).contains(&position.y);
            let free = || placed.iter().all(|(_, other, _)| !other.within(position, NODE_SPACING_MM));
            if ground.contains(x, z) && suits && free() {
                placed.push((NodeId(index as u16), position, yaw));
            }
        }
    }
    placed
}
