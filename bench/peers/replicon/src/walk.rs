//! How one walks: straight on for a while, then somewhere else, as fast as people do. The same numbers give the same walks.

use crate::{HZ, Position};
use std::f32::consts::TAU;

/// Metres in a tick.
const STRIDE_M: f32 = 4.0 / HZ as f32;

/// One that walks.
pub struct Walk {
    at: Position,
    heading: f32,
    ticks_left: u32,
    random: u64,
}

impl Walk {
    /// Begins somewhere within `radius_m` of the origin.
    pub fn new(number: u32, radius_m: f32) -> Walk {
        let at = Position { x: 0.0, y: 0.0, z: 0.0, sequence: 0 };
        let mut walk = Walk { at, heading: 0.0, ticks_left: 0, random: u64::from(number) };
        // The root spreads them evenly over the disc.
        let (distance, angle) = (radius_m * walk.random().sqrt(), TAU * walk.random());
        (walk.at.x, walk.at.z) = (distance * angle.cos(), distance * angle.sin());
        walk
    }

    /// One tick on. The ground is level.
    pub fn step(&mut self) -> Position {
        if self.ticks_left == 0 {
            self.ticks_left = 6 + (self.random() * 54.0) as u32;
            self.heading = TAU * self.random();
        }
        self.ticks_left -= 1;
        self.at.x += STRIDE_M * self.heading.cos();
        self.at.z += STRIDE_M * self.heading.sin();
        self.at.sequence = self.at.sequence.wrapping_add(1);
        self.at
    }

    /// From 0 to 1: `SplitMix64` (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    fn random(&mut self) -> f32 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) as f32 / u64::MAX as f32
    }
}
