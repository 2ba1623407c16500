//! The land: a heightfield computed from the world's seed, never stored.
//!
//! Integer value noise in four octaves (K. Perlin's smoothing polynomial 3t² − 2t³), specified to the millimetre so that every
//! client computes the same land: all intermediate values stay below 2⁵³, so JavaScript numbers and GDScript integers
//! give these bits. `tests.rs` holds the golden heights that clients test against.
//!
//! Invariant: `height` is a pure function of seed and place.

#[cfg(test)]
mod tests;

/// Octaves: log2 of the lattice's side in millimetres, and the amplitude in millimetres.
pub const OCTAVES: [(u32, i64); 4] = [(18, 40_000), (16, 12_000), (14, 2_500), (12, 400)];

/// Subtracted from the sum of the octaves, millimetres: the sea is at height 0.
pub const SEA_OFFSET_MM: i64 = 18_000;

/// The land of one world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terrain {
    seed: u64,
}

impl Terrain {
    /// The land that `seed` gives.
    pub fn new(seed: u64) -> Self {
        Terrain { seed }
    }

    /// Height of the ground at (`x`, `z`), all in millimetres; from −18,000 to 36,900.
    pub fn height(&self, x: i32, z: i32) -> i32 {
        let mut sum = 0;
        for (number, (shift, amplitude)) in OCTAVES.into_iter().enumerate() {
            sum += (octave(self.octave_seed(number as u32), x, z, shift) * amplitude) >> 16;
        }
        (sum - SEA_OFFSET_MM) as i32
    }

    /// True when the ground between two points rises by no more than `climb_mm_per_m` millimetres a metre. Walking down is
    /// always possible.
    pub fn can_climb(&self, from: (i32, i32), to: (i32, i32), climb_mm_per_m: i32) -> bool {
        let rise = i64::from(self.height(to.0, to.1)) - i64::from(self.height(from.0, from.1));
        if rise <= 0 {
            return true;
        }
        let (dx, dz) = (i64::from(to.0) - i64::from(from.0), i64::from(to.1) - i64::from(from.1));
        let run_squared = dx * dx + dz * dz;
        // rise / run ≤ climb / 1000, squared, to stay in integers.
        rise * rise * 1_000_000 <= run_squared * i64::from(climb_mm_per_m) * i64::from(climb_mm_per_m)
    }

    fn octave_seed(&self, number: u32) -> u32 {
        (self.seed as u32) ^ ((self.seed >> 32) as u32).rotate_left(16) ^ number.wrapping_mul(0x9e37_79b9)
    }
}

/// 32-bit mix of a lattice point (constants from xxHash32 and from C. Wellons' hash-prospector).
fn lattice(seed: u32, x: i32, z: i32) -> i64 {
    let mut h = seed ^ (x as u32).wrapping_mul(0x9e37_79b1) ^ (z as u32).wrapping_mul(0x85eb_ca77);
    h ^= h >> 15;
    h = h.wrapping_mul(0x2c1b_3c6d);
    h ^= h >> 12;
    h = h.wrapping_mul(0x297a_2d39);
    h ^= h >> 15;
    i64::from(h >> 16)
}

/// One octave of value noise, 0..65,536.
fn octave(seed: u32, x: i32, z: i32, shift: u32) -> i64 {
    let (cell_x, cell_z) = (x >> shift, z >> shift);
    // The place inside the cell, 0..65,536.
    let fraction = |v: i32| {
        let inside = i64::from(v) & ((1 << shift) - 1);
        if shift >= 16 { inside >> (shift - 16) } else { inside << (16 - shift) }
    };
    let smooth = |f: i64| (f * f * (3 * 65_536 - 2 * f)) >> 32;
    let (tx, tz) = (smooth(fraction(x)), smooth(fraction(z)));
    let mix = |a: i64, b: i64, t: i64| a + (((b - a) * t) >> 16);
    let north = mix(lattice(seed, cell_x, cell_z), lattice(seed, cell_x + 1, cell_z), tx);
    let south = mix(lattice(seed, cell_x, cell_z + 1), lattice(seed, cell_x + 1, cell_z + 1), tx);
    mix(north, south, tz)
}
