//! Seeded randomness: a stream per frame, so that a restored world goes on as an uninterrupted one would.

use bevy_ecs::prelude::Resource;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The randomness of the current tick. Systems draw from it in schedule order; nothing else in `sim` may be random.
#[derive(Resource, Debug)]
pub struct TickRandom(pub ChaCha8Rng);

impl TickRandom {
    /// The randomness of `frame` in the world that `seed` made.
    pub fn of_frame(seed: u64, frame: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(frame);
        TickRandom(rng)
    }
}
