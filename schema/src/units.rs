//! Units of the world. Everything that outlives a tick is an integer, so memory, disk, wire and hash hold the same bits.

use crate::codec::{DecodeError, Reader, write_zigzag};
use serde::{Deserialize, Serialize};

/// Side of a chunk column in millimetres: 32 m.
pub const CHUNK_MM: i32 = 32_000;

/// Largest encoded size of one chunk in bytes; enforced when state changes, never when it is saved.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// A point in the world, millimetres. `y` is up. Range ±2,147 km.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    /// East.
    pub x: i32,
    /// Up.
    pub y: i32,
    /// South.
    pub z: i32,
}

impl Position {
    /// From millimetres.
    pub const fn new(x: i32, y: i32, z: i32) -> Self {
        Position { x, y, z }
    }

    /// Square of the horizontal distance, mm².
    pub fn horizontal_distance_squared(self, other: Position) -> i64 {
        let dx = i64::from(self.x) - i64::from(other.x);
        let dz = i64::from(self.z) - i64::from(other.z);
        dx * dx + dz * dz
    }

    /// True when `other` is no further than `reach_mm` in the horizontal plane.
    pub fn within(self, other: Position, reach_mm: i32) -> bool {
        self.horizontal_distance_squared(other) <= i64::from(reach_mm) * i64::from(reach_mm)
    }

    /// The chunk column that holds this point.
    pub fn chunk(self) -> ChunkKey {
        ChunkKey { x: self.x.div_euclid(CHUNK_MM), z: self.z.div_euclid(CHUNK_MM) }
    }
}

/// A direction in the horizontal plane: 65,536 steps to a turn, 0 looks along −z (north), growing clockwise seen from above.
pub type Yaw = u16;

/// A chunk column, 32 m × 32 m.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ChunkKey {
    /// Column number eastwards.
    pub x: i32,
    /// Column number southwards.
    pub z: i32,
}

impl ChunkKey {
    /// Interleaves both coordinates (offset to be unsigned, x in the even bits): neighbours in the world are near in key
    /// order. (G. M. Morton, 1966.)
    pub fn morton(self) -> u64 {
        fn spread(value: u32) -> u64 {
            let mut v = u64::from(value);
            v = (v | v << 16) & 0x0000_ffff_0000_ffff;
            v = (v | v << 8) & 0x00ff_00ff_00ff_00ff;
            v = (v | v << 4) & 0x0f0f_0f0f_0f0f_0f0f;
            v = (v | v << 2) & 0x3333_3333_3333_3333;
            (v | v << 1) & 0x5555_5555_5555_5555
        }
        let unsigned = |v: i32| (v as u32) ^ 0x8000_0000;
        spread(unsigned(self.x)) | spread(unsigned(self.z)) << 1
    }

    /// The chunk that [`ChunkKey::morton`] made `code` of.
    pub fn from_morton(code: u64) -> Self {
        fn gather(code: u64) -> u32 {
            let mut v = code & 0x5555_5555_5555_5555;
            v = (v | v >> 1) & 0x3333_3333_3333_3333;
            v = (v | v >> 2) & 0x0f0f_0f0f_0f0f_0f0f;
            v = (v | v >> 4) & 0x00ff_00ff_00ff_00ff;
            v = (v | v >> 8) & 0x0000_ffff_0000_ffff;
            (v | v >> 16) as u32
        }
        let signed = |v: u32| (v ^ 0x8000_0000) as i32;
        ChunkKey { x: signed(gather(code)), z: signed(gather(code >> 1)) }
    }

    /// The chunks no more than `radius` columns away, this one included, row by row.
    pub fn around(self, radius: i32) -> impl Iterator<Item = ChunkKey> {
        (-radius..=radius).flat_map(move |dz| {
            (-radius..=radius)
                .filter_map(move |dx| Some(ChunkKey { x: self.x.checked_add(dx)?, z: self.z.checked_add(dz)? }))
        })
    }

    /// Appends both coordinates in zigzag form.
    pub fn write(self, out: &mut Vec<u8>) {
        write_zigzag(out, i64::from(self.x));
        write_zigzag(out, i64::from(self.z));
    }

    /// Reads what [`ChunkKey::write`] wrote.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(ChunkKey { x: reader.zigzag_i32()?, z: reader.zigzag_i32()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn morton_codes_are_unique_and_reversible(x: i32, z: i32) {
            let key = ChunkKey { x, z };
            prop_assert_eq!(ChunkKey::from_morton(key.morton()), key);
        }
    }

    #[test]
    fn chunks_are_half_open_on_both_sides_of_zero() {
        assert_eq!(Position::new(0, 0, -1).chunk(), ChunkKey { x: 0, z: -1 });
        assert_eq!(Position::new(31_999, 0, 32_000).chunk(), ChunkKey { x: 0, z: 1 });
        assert_eq!(Position::new(i32::MIN, 0, i32::MAX).chunk(), ChunkKey { x: -67_109, z: 67_108 });
    }

    #[test]
    fn neighbours_of_the_last_chunk_do_not_overflow() {
        let corner = ChunkKey { x: i32::MAX, z: i32::MIN };
        assert_eq!(corner.around(1).count(), 4);
    }
}
