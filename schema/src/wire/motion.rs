//! How movers move: packets of bit-packed, quantised states, each against a state that the client is known to have.
//!
//! A mover has a **slot**, a small number that the view gives it when it comes into sight. A packet lists slots in rising
//! order with their new states; a state is absolute, or the difference from the state that the client has of an earlier
//! tick. The difference depends on the mover and the two ticks only, so it is encoded once for all clients.
//!
//! The client acknowledges packets by number ([`Acks`]). It keeps the states of the last [`HISTORY_TICKS`] ticks per slot, also of slots
//! that no view has introduced yet: the view may arrive later.
//!
//! Bits, least significant first (`schema/docs/wire.md` has the prose):
//!
//! ```text
//! packet  = kind 8 = 1 · number 16 · tick 16 · newest input 16 · own 1 [own pose] · count 10 · [rice 4 · count × entity]
//! own     = x 32 · z 32 · yaw 16 · grounded 1 [y 32]                      millimetres, exact
//! entity  = gap · base · state
//! gap     = slots skipped since the last one: q ones, a zero, `rice` bits; or 15 ones and the slot itself in 16 bits
//! base    = 1: as the entity before · 0: age 7, in ticks; 0 = absolute
//! state   = absolute: x 29 · z 29 · yaw 8 · height
//!           else: class 2 (0: at the same place; 1, 2, 3: dx and dz in 5, 8, 12 bits) · turned 1 [yaw 8] · height
//! height  = 1: on the ground · 0: y 20
//! ```

use super::slots::{PacketHead, SlotWriter, read_entities};
use crate::bit_layout;
use crate::bits::{BitReader, BitWriter, Packed};
use crate::codec::DecodeError;
use crate::units::{Position, Yaw};
use serde::{Deserialize, Serialize};

pub use super::slots::{BASE_AGE_MAX, ENTITIES_MAX};

/// First byte of a motion packet.
pub const MOTION_KIND: u8 = 1;
/// Millimetres of a quantum of position: errors are at most half of it.
pub const QUANTUM_MM: i32 = 8;
/// How far back a client keeps states: the packet that names one may be as late as the oldest that still counts.
pub const HISTORY_TICKS: u32 = 2 * BASE_AGE_MAX;
/// Bits of a packet before its entities, without the own pose.
pub const HEAD_BITS: usize = 8 + 16 + 16 + 16 + 1 + 10 + 4;

/// Bits of each axis of a difference, by class.
pub(super) const STEP_BITS: [u32; 4] = [0, 5, 8, 12];

/// The largest height, in quanta.
const HEIGHT_MAX: i32 = (1 << 19) - 1;

/// A quantised state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Motion {
    /// East, in quanta of [`QUANTUM_MM`].
    pub x: i32,
    /// South, in quanta.
    pub z: i32,
    /// 256 steps to a turn.
    pub yaw: u8,
    /// Height in quanta; `None`: on the ground.
    pub y: Option<i32>,
}

bit_layout! { Motion { x: signed 29, z: signed 29, yaw: unsigned 8, y: unless signed 20 } }

impl Motion {
    /// Quantises. A height beyond ±4 km is cut off.
    pub fn of(position: Position, yaw: Yaw, on_ground: bool) -> Self {
        Motion {
            x: quantum(position.x),
            z: quantum(position.z),
            yaw: ((u32::from(yaw) + 128) >> 8) as u8,
            y: (!on_ground).then(|| quantum(position.y).clamp(-HEIGHT_MAX, HEIGHT_MAX)),
        }
    }

    /// The place that the quanta stand for; `ground(x, z)` is the height of the ground, all in millimetres.
    pub fn position(self, ground: impl FnOnce(i32, i32) -> i32) -> Position {
        let (x, z) = (millimetres(self.x), millimetres(self.z));
        Position { x, y: self.y.map_or_else(|| ground(x, z), millimetres), z }
    }

    /// Where it looks.
    pub fn look(self) -> Yaw {
        u16::from(self.yaw) << 8
    }

    /// The whole state.
    pub fn absolute(self) -> Packed {
        let mut packed = Packed::default();
        self.write_bits(&mut packed);
        packed
    }

    /// The difference from `base`; `None` when only the whole state says it.
    pub fn since(self, base: Motion) -> Option<Packed> {
        let step = Step {
            dx: self.x.wrapping_sub(base.x),
            dz: self.z.wrapping_sub(base.z),
            yaw: (self.yaw != base.yaw).then_some(self.yaw),
            y: self.y,
        };
        let mut packed = Packed::default();
        step.write_bits(&mut packed)?;
        Some(packed)
    }
}

fn quantum(mm: i32) -> i32 {
    // Half a quantum less at the far end: the coordinate must stay in its bits.
    mm.saturating_add(QUANTUM_MM / 2).div_euclid(QUANTUM_MM)
}

fn millimetres(quanta: i32) -> i32 {
    quanta.saturating_mul(QUANTUM_MM)
}

/// What changed since a state that the client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// East, in quanta.
    pub dx: i32,
    /// South, in quanta.
    pub dz: i32,
    /// Where it looks now, if that changed.
    pub yaw: Option<u8>,
    /// Height in quanta; `None`: on the ground.
    pub y: Option<i32>,
}

bit_layout! { Step { by STEP_BITS: dx, dz; yaw: when unsigned 8, y: unless signed 20 } }

impl Step {
    /// The new state.
    pub fn from(self, base: Motion) -> Motion {
        Motion {
            x: base.x.wrapping_add(self.dx),
            z: base.z.wrapping_add(self.dz),
            yaw: self.yaw.unwrap_or(base.yaw),
            y: self.y,
        }
    }
}

/// The player's own state, exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnPose {
    /// East, millimetres.
    pub x: i32,
    /// South, millimetres.
    pub z: i32,
    /// Where it looks.
    pub yaw: Yaw,
    /// Height, millimetres; `None`: on the ground.
    pub y: Option<i32>,
}

bit_layout! { OwnPose { x: signed 32, z: signed 32, yaw: unsigned 16, y: unless signed 32 } }

/// What stands before a packet's entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MotionHead {
    /// Number of the packet, by which it is acknowledged; wraps.
    pub number: u16,
    /// Lowest bits of the tick that it describes.
    pub tick: u16,
    /// Lowest bits of the newest movement input that this tick had processed.
    pub newest_input: u16,
    /// The own pose, when it changed since the client last acknowledged one.
    pub own: Option<OwnPose>,
}

// Behind the packet's kind.
bit_layout! { MotionHead { number: unsigned 16, tick: unsigned 16, newest_input: unsigned 16, own: when record OwnPose } }

impl PacketHead for MotionHead {
    fn write(&self, bits: &mut BitWriter) {
        bits.write(u32::from(MOTION_KIND), 8);
        self.write_bits(bits);
    }
}

/// Writes one packet; its head is a [`MotionHead`].
pub type MotionWriter = SlotWriter;

/// A state as it stands in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// The whole state.
    Absolute(Motion),
    /// The difference from the state `age` ticks before the packet's.
    Since {
        /// 1 to [`BASE_AGE_MAX`].
        age: u32,
        /// What changed.
        step: Step,
    },
}

/// Reads a packet: the head, and each slot with its update.
///
/// # Errors
/// When the bytes are not a motion packet.
pub fn decode_motion(bytes: &[u8]) -> Result<(MotionHead, Vec<(u16, Update)>), DecodeError> {
    let mut reader = BitReader::new(bytes);
    let head = read_head(&mut reader)?;
    let updates = read_entities(&mut reader, |reader, age| {
        Ok(match age {
            0 => Update::Absolute(Motion::read_bits(reader)?),
            age => Update::Since { age, step: Step::read_bits(reader)? },
        })
    })?;
    reader.finish()?;
    Ok((head, updates))
}

/// Reads the head of a packet only: enough to acknowledge it.
///
/// # Errors
/// When the bytes do not begin as a motion packet.
pub fn decode_motion_head(bytes: &[u8]) -> Result<MotionHead, DecodeError> {
    read_head(&mut BitReader::new(bytes))
}

fn read_head(reader: &mut BitReader<'_>) -> Result<MotionHead, DecodeError> {
    if reader.read(8)? != u32::from(MOTION_KIND) {
        return Err(DecodeError::Invalid("datagram kind"));
    }
    MotionHead::read_bits(reader)
}

/// Which packets a client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acks {
    /// The newest, by number.
    pub newest: u16,
    /// Bit n: the packet n + 1 before that arrived, too.
    pub before: u32,
}

impl Acks {
    /// The first packet arrived.
    pub fn first(number: u16) -> Self {
        Acks { newest: number, before: 0 }
    }

    /// One more packet arrived. One too old to be told is forgotten.
    pub fn add(&mut self, number: u16) {
        let ahead = number.wrapping_sub(self.newest);
        if ahead == 0 {
            return;
        }
        if ahead < 1 << 15 {
            let shift = u32::from(ahead);
            self.before = self.before.checked_shl(shift).unwrap_or(0) | 1u32.checked_shl(shift - 1).unwrap_or(0);
            self.newest = number;
        } else {
            let behind = u32::from(self.newest.wrapping_sub(number));
            self.before |= 1u32.checked_shl(behind - 1).unwrap_or(0);
        }
    }

    /// Did packet `number` arrive, as far as this tells?
    pub fn has(self, number: u16) -> bool {
        match self.newest.wrapping_sub(number) {
            0 => true,
            behind @ 1..=32 => self.before & 1 << (behind - 1) != 0,
            _ => false,
        }
    }
}

/// The whole number whose lowest bits are `low`, nearest to `near`.
pub fn widen(low: u16, near: u64) -> u64 {
    let ahead = low.wrapping_sub(near as u16) as i16;
    near.saturating_add_signed(i64::from(ahead))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn motion() -> impl Strategy<Value = Motion> {
        // What is in the packet lies up to 2,100 beside it, and must have room, too.
        let coordinate = || -(1 << 28) + 2_100..(1 << 28) - 2_100;
        let y = proptest::option::of(-(1 << 19)..(1 << 19));
        (coordinate(), coordinate(), any::<u8>(), y).prop_map(|(x, z, yaw, y)| Motion { x, z, yaw, y })
    }

    fn head() -> MotionHead {
        MotionHead { number: 65_535, tick: 7, newest_input: 9, own: None }
    }

    proptest! {
        #[test]
        fn a_packet_says_what_was_put_in(
            entities in proptest::collection::btree_map(any::<u16>(), (motion(), (-2100i32..2100, -2100i32..2100), 0u32..=127, any::<bool>()), 0..200),
            gap in 0usize..70_000,
            own in proptest::option::of((any::<i32>(), any::<i32>(), any::<u16>(), proptest::option::of(any::<i32>()))),
        ) {
            let own = own.map(|(x, z, yaw, y)| OwnPose { x, z, yaw, y });
            let head = MotionHead { own, ..head() };
            let mut writer = MotionWriter::new(head, gap, 0);
            let mut expected = Vec::new();
            for (slot, (base, (dx, dz), age, turns)) in &entities {
                let new = Motion { x: base.x + dx, z: base.z + dz, yaw: base.yaw ^ u8::from(*turns), y: base.y };
                let wide = !(-2048..2048).contains(dx) || !(-2048..2048).contains(dz);
                prop_assert_eq!(new.since(*base).is_none(), wide);
                match new.since(*base).filter(|_| *age > 0) {
                    Some(packed) => writer.push(*slot, *age, packed),
                    None => writer.push(*slot, 0, new.absolute()),
                }
                expected.push((*slot, *base, new));
            }
            let bytes = writer.finish();
            let (found, updates) = decode_motion(&bytes).unwrap();
            prop_assert_eq!(found, head);
            prop_assert_eq!(updates.len(), expected.len());
            for ((slot, update), (wanted, base, new)) in updates.into_iter().zip(expected) {
                let motion = match update {
                    Update::Absolute(motion) => motion,
                    Update::Since { step, .. } => step.from(base),
                };
                prop_assert_eq!((slot, motion), (wanted, new));
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_motion(&bytes);
            let _ = decode_motion(&[&[MOTION_KIND][..], &bytes].concat());
        }

        #[test]
        fn quantised_places_are_half_a_quantum_off_at_most(x: i32, y in -4_000_000..4_000_000, z: i32, yaw: u16) {
            let position = Position { x: x / 2, y, z: z / 2 };
            let motion = Motion::of(position, yaw, false);
            let back = motion.position(|_, _| 0);
            for (a, b) in [(position.x, back.x), (y, back.y), (position.z, back.z)] {
                prop_assert!((a - b).abs() <= QUANTUM_MM / 2, "{a} and {b}");
            }
            prop_assert!(i32::from(motion.look().wrapping_sub(yaw) as i16).abs() <= 128);
        }

        #[test]
        fn acknowledgements_tell_the_last_33(numbers in proptest::collection::vec(0u16..80, 1..60), from: u16) {
            let mut acks = Acks::first(from.wrapping_add(numbers[0]));
            for number in &numbers[1..] {
                acks.add(from.wrapping_add(*number));
            }
            let newest = numbers.iter().max().unwrap();
            prop_assert_eq!(acks.newest, from.wrapping_add(*newest));
            for number in newest.saturating_sub(32)..=*newest {
                // One that came when it was too old already may be forgotten, but none is made up.
                let has = acks.has(from.wrapping_add(number));
                prop_assert!(!has || numbers.contains(&number), "{number}");
                let in_time = numbers.iter().position(|n| *n == number).is_some();
                prop_assert_eq!(has, in_time, "{}", number);
            }
        }
    }

    #[test]
    fn a_walker_costs_few_bits() {
        let base = Motion { x: 1_000, z: -500, yaw: 3, y: None };
        let stands = base.since(base).unwrap();
        let walks = Motion { x: 1_010, z: -512, ..base }.since(base).unwrap();
        let runs = Motion { x: 1_100, yaw: 9, ..base }.since(base).unwrap();
        assert_eq!((stands.len(), walks.len(), runs.len(), base.absolute().len()), (4, 14, 28, 67));
    }

    #[test]
    fn numbers_are_widened_around_what_is_known() {
        assert_eq!(widen(5, 65_530), 65_541);
        assert_eq!(widen(65_535, 65_541), 65_535);
        assert_eq!(widen(9, 0), 9);
        assert_eq!(widen(65_535, 3), 0, "nothing is before the first");
    }

    #[test]
    fn what_is_not_a_packet_is_refused_by_name() {
        let mut writer = MotionWriter::new(head(), 1, 0);
        writer.push(65_535, 0, Motion::default().absolute());
        let bytes = writer.finish();
        assert!(decode_motion(&bytes).is_ok());
        assert_eq!(decode_motion(&[2]), Err(DecodeError::Invalid("datagram kind")));
        assert!(matches!(decode_motion(&bytes[..bytes.len() - 1]), Err(DecodeError::Truncated { .. })));
        assert_eq!(decode_motion(&[&bytes[..], &[0]].concat()), Err(DecodeError::TrailingBytes(1)));
    }
}
