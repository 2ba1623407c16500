//! How rigid bodies move: vehicles, and what was thrown. Packets like those of [`motion`](super::motion), with the same slots, ages and
//! acknowledgements, but for bodies that turn about every axis, fly and come to rest.
//!
//! A [`Body`] is quantised: a place to [`QUANTUM_MM`] (at most 2 mm off in each axis) and a rotation as in [`pose`](super::pose) (at
//! most 0.25° off). The codec itself loses nothing. What has not changed since the state that the client is known to have, and no
//! other state is on the way, is not in a packet at all.
//!
//! A difference is not told from the old state but from where the body would be by now ([`Baseline::expected`]): the client has, with each state, the one
//! that it was told against, and from these two the body goes on as it went. So what flies or slides costs what it is braked, bumped and
//! pulled, and neither side needs any other knowledge of the game; the two states are of packets that arrived, so losses
//! spoil nothing. Measured with `vsekai-bench bodies`, this saves a fifth of the bytes where bodies bump all the time and two thirds where they
//! fly. To let the writer choose for each body whether to expect it would save less than the bit that says so.
//!
//! A difference depends on the body and three ticks only (the new state's, the base's, and that of the state before it), so it can be encoded once for all clients
//! whose acknowledgements take equally long.
//!
//! Numbers of these packets are of the same row as those of motion packets: one [`Acks`](super::motion::Acks) tells of both.
//!
//! Bits, least significant first (`schema/docs/wire.md` has the prose); gap and base are those of [`slots`](super::slots):
//!
//! ```text
//! packet   = kind 8 = 5 · number 16 · tick 16 · count 10 · rice 4 · count × entity
//! entity   = gap · base · state
//! state    = age 0, absolute: at rest 1 · place whole · rotation whole
//!            else: how · what changed
//! how      = 0: it moves · 1 0: exactly as the base, nothing follows · 1 1: it is at rest now
//! changed  = place · rotation
//! place    = 0: three fine numbers, to be added to what is expected · 1 0: three coarse ones · 1 1: place whole
//! rotation = the same; if the left-out part is another than expected, whole
//! number   = folded (0, −1, 1, −2 … as 0, 1, 2, 3 …) to f, of which the lowest 0 (fine) or 3 bits (coarse) are r, the others q:
//!            u ones, a zero; q = u if u < 4, else u − 4 bits b and q = 3 + 2^(u − 4) + b; r
//! whole    = place: east 30 · up 21 · south 30; rotation: left-out part 2 · three parts of 11 bits, all signed but the first
//! ```

mod expected;
#[cfg(test)]
mod tests;

pub use super::slots::{BASE_AGE_MAX, ENTITIES_MAX};
pub use expected::{Baseline, Before, EXPECT_TICKS_MAX, Expected};

use super::pose::{Rotation, others};
use super::slots::{PacketHead, SlotWriter, read_entities};
use crate::bits::{BitReader, BitWriter, Packed, fits};
use crate::codec::DecodeError;
use crate::units::Position;

/// First byte of a packet of bodies.
pub const BODY_KIND: u8 = 5;
/// Millimetres of a quantum of place: errors are at most half of it in each axis.
pub const QUANTUM_MM: i32 = 4;
/// Bits of a packet before its entities.
pub const HEAD_BITS: usize = 8 + 16 + 16 + 10 + 4;

const COORDINATE_BITS: u32 = 30;
const HEIGHT_BITS: u32 = 21;
/// Of each axis of a place, in the order of the wire.
const PLACE_BITS: [u32; 3] = [COORDINATE_BITS, HEIGHT_BITS, COORDINATE_BITS];
const LEFT_OUT_BITS: u32 = 2;
const PART_BITS: u32 = 11;
/// Lowest bits of a number that are written as they are: of a fine one, and of a coarse one.
const FINE: u32 = 0;
const COARSE: u32 = 3;
/// What is left of a number is so many ones and a zero, when it is less than this.
const ONES: u32 = 4;
/// More ones than this are none of ours: the whole state is shorter.
const ONES_MAX: u32 = 16;

/// A quantised state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Body {
    place: [i32; 3],
    rotation: Rotation,
    at_rest: bool,
}

impl Body {
    /// Quantises. A height beyond ±4 km is cut off.
    pub fn of(position: Position, rotation: Rotation, at_rest: bool) -> Self {
        // Half a quantum less at the far end: the coordinate must stay in its bits.
        let quantum = |mm: i32| mm.saturating_add(QUANTUM_MM / 2).div_euclid(QUANTUM_MM);
        let most = (1 << (HEIGHT_BITS - 1)) - 1;
        let place = [quantum(position.x), quantum(position.y).clamp(-most, most), quantum(position.z)];
        Body { place, rotation, at_rest }
    }

    /// The place that the quanta stand for.
    pub fn position(self) -> Position {
        let [x, y, z] = self.place.map(|quanta| quanta.saturating_mul(QUANTUM_MM));
        Position { x, y, z }
    }

    /// East, up and south, in quanta of [`QUANTUM_MM`].
    pub fn place(self) -> [i32; 3] {
        self.place
    }

    /// How it is turned.
    pub fn rotation(self) -> Rotation {
        self.rotation
    }

    /// It lies still and goes on so until it is told otherwise: a client need not guess where it is by now.
    pub fn at_rest(self) -> bool {
        self.at_rest
    }

    /// The whole state: 117 bits.
    pub fn absolute(self) -> Packed {
        let mut packed = Packed::default();
        packed.flag(self.at_rest);
        pack_place(&mut packed, self.place);
        pack_rotation(&mut packed, self.rotation);
        packed
    }

    /// The state `age` ticks after that of `base`: 2 bits when nothing changed, at most 122.
    pub fn since(self, base: &Baseline, age: u32) -> Packed {
        let mut packed = Packed::default();
        if self == base.state {
            packed.write(0b01, 2);
            return packed;
        }
        if self.at_rest {
            packed.write(0b11, 2);
        } else {
            packed.flag(false);
        }
        let expected = base.expected(age);
        let step = [0, 1, 2].map(|axis| self.place[axis].wrapping_sub(expected.place[axis]));
        if !pack_step(&mut packed, step, PLACE_BITS.iter().sum()) {
            pack_place(&mut packed, self.place);
        }
        let told = self.rotation.parts().map(i32::from);
        let step = [0, 1, 2].map(|part| told[part] - expected.parts()[part]);
        // A step of another left-out part than the client expects would mean nothing to it.
        let whole_bits = if self.rotation.largest() == expected.largest() { LEFT_OUT_BITS + 3 * PART_BITS } else { 0 };
        if !pack_step(&mut packed, step, whole_bits) {
            pack_rotation(&mut packed, self.rotation);
        }
        packed
    }

    fn read_absolute(reader: &mut BitReader<'_>) -> Result<Self, DecodeError> {
        Ok(Body { at_rest: reader.flag()?, place: read_place(reader)?, rotation: read_rotation(reader)? })
    }
}

/// Writes the three numbers, or, when they are longer than the whole in `whole_bits` bits, that the whole follows, and gives false.
fn pack_step(packed: &mut Packed, step: [i32; 3], whole_bits: u32) -> bool {
    let bits = |low: u32| step.iter().map(|number| number_bits(*number, low)).sum::<u32>();
    let (fine, coarse) = (bits(FINE), bits(COARSE) + 1);
    if fine.min(coarse) > whole_bits {
        packed.write(0b11, 2);
        return false;
    }
    let low = if fine <= coarse { FINE } else { COARSE };
    if low == FINE {
        packed.flag(false);
    } else {
        packed.write(0b01, 2);
    }
    for number in step {
        pack_number(packed, number, low);
    }
    true
}

/// The three numbers; `None` when the whole follows.
fn read_step(reader: &mut BitReader<'_>) -> Result<Option<[i32; 3]>, DecodeError> {
    let low = if !reader.flag()? {
        FINE
    } else if !reader.flag()? {
        COARSE
    } else {
        return Ok(None);
    };
    Ok(Some([read_number(reader, low)?, read_number(reader, low)?, read_number(reader, low)?]))
}

/// 0, −1, 1, −2, … as 0, 1, 2, 3, …: R. F. Rice's code (1979) for what is nearly right, P. Elias's (1975) for what is far off.
fn pack_number(packed: &mut Packed, number: i32, low: u32) {
    let folded = ((number << 1) ^ (number >> 31)) as u32;
    let high = folded >> low;
    if high < ONES {
        packed.write((1 << high) - 1, high + 1);
    } else {
        let rest = high - (ONES - 1);
        let more = rest.ilog2();
        packed.write((1 << (ONES + more)) - 1, ONES + more + 1);
        packed.write(rest - (1 << more), more);
    }
    packed.write(folded & ((1 << low) - 1), low);
}

/// The bits of [`pack_number`]; more than any whole has when there are too many ones.
fn number_bits(number: i32, low: u32) -> u32 {
    let folded = ((number << 1) ^ (number >> 31)) as u32;
    match folded >> low {
        high if high < ONES => high + 1 + low,
        high => match (high - (ONES - 1)).ilog2() {
            more if ONES + more > ONES_MAX => 1 << 10,
            more => ONES + more + 1 + more + low,
        },
    }
}

fn read_number(reader: &mut BitReader<'_>, low: u32) -> Result<i32, DecodeError> {
    let mut ones = 0;
    while reader.flag()? {
        ones += 1;
        if ones > ONES_MAX {
            return Err(DecodeError::Invalid("number"));
        }
    }
    let high = match ones.checked_sub(ONES) {
        None => ones,
        Some(more) => (ONES - 1) + (1 << more) + reader.read(more)?,
    };
    let folded = high << low | reader.read(low)?;
    Ok((folded >> 1) as i32 ^ -((folded & 1) as i32))
}

fn pack_place(packed: &mut Packed, place: [i32; 3]) {
    for (quanta, bits) in place.into_iter().zip(PLACE_BITS) {
        packed.signed(quanta, bits);
    }
}

fn read_place(reader: &mut BitReader<'_>) -> Result<[i32; 3], DecodeError> {
    let [east, up, south] = PLACE_BITS;
    Ok([reader.signed(east)?, reader.signed(up)?, reader.signed(south)?])
}

fn pack_rotation(packed: &mut Packed, rotation: Rotation) {
    packed.write(rotation.largest() as u32, LEFT_OUT_BITS);
    for part in rotation.parts() {
        packed.signed(part.into(), PART_BITS);
    }
}

fn read_rotation(reader: &mut BitReader<'_>) -> Result<Rotation, DecodeError> {
    let left_out = reader.read(LEFT_OUT_BITS)? as usize;
    let mut part = || reader.signed(PART_BITS);
    Rotation::from_parts(left_out, [part()?, part()?, part()?])
}

/// What changed since a state that the client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Same,
    /// Something.
    Moved {
        /// See [`Body::at_rest`].
        at_rest: bool,
        /// Where it is now.
        place: PlaceChange,
        /// How it is turned now.
        rotation: RotationChange,
    },
}

/// Where a body is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceChange {
    /// So many quanta from where it was expected.
    By([i32; 3]),
    /// There.
    To([i32; 3]),
}

/// How a body is turned now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationChange {
    /// The same part is left out as expected, the others differ so.
    By([i32; 3]),
    /// So.
    To(Rotation),
}

impl Change {
    /// The new state, `age` ticks after `base`.
    ///
    /// # Errors
    /// When it is none that a body can have: what was told was not told against this base.
    pub fn from(self, base: &Baseline, age: u32) -> Result<Body, DecodeError> {
        let Change::Moved { at_rest, place, rotation } = self else { return Ok(base.state) };
        let expected = base.expected(age);
        let place = match place {
            PlaceChange::To(place) => place,
            PlaceChange::By(step) => [0, 1, 2].map(|axis| expected.place[axis].saturating_add(step[axis])),
        };
        if place.iter().zip(PLACE_BITS).any(|(quanta, bits)| !fits(*quanta, bits)) {
            return Err(DecodeError::Invalid("place"));
        }
        let rotation = match rotation {
            RotationChange::To(rotation) => rotation,
            RotationChange::By(step) => {
                let parts = [0, 1, 2].map(|part| expected.parts()[part].saturating_add(step[part]));
                Rotation::from_parts(expected.largest(), parts)?
            }
        };
        Ok(Body { place, rotation, at_rest })
    }

    fn read(reader: &mut BitReader<'_>) -> Result<Self, DecodeError> {
        let at_rest = reader.flag()?;
        if at_rest && !reader.flag()? {
            return Ok(Change::Same);
        }
        let place = match read_step(reader)? {
            Some(step) => PlaceChange::By(step),
            None => PlaceChange::To(read_place(reader)?),
        };
        let rotation = match read_step(reader)? {
            Some(step) => RotationChange::By(step),
            None => RotationChange::To(read_rotation(reader)?),
        };
        Ok(Change::Moved { at_rest, place, rotation })
    }
}

/// What stands before a packet's bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHead {
    /// Number of the packet, by which it is acknowledged; wraps. Motion packets and these count on together.
    pub number: u16,
    /// Lowest bits of the tick that it describes.
    pub tick: u16,
}

impl PacketHead for BodyHead {
    fn write(&self, bits: &mut BitWriter) {
        bits.write(u32::from(BODY_KIND), 8);
        bits.write(u32::from(self.number), 16);
        bits.write(u32::from(self.tick), 16);
    }
}

/// Writes one packet; its head is a [`BodyHead`].
pub type BodyWriter = SlotWriter;

/// A state as it stands in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// The whole state.
    Absolute(Body),
    /// The difference from the state `age` ticks before the packet's.
    Since {
        /// 1 to [`BASE_AGE_MAX`].
        age: u32,
        /// What changed.
        change: Change,
    },
}

/// Reads a packet: the head, and each slot with its update.
///
/// # Errors
/// When the bytes are not a packet of bodies.
pub fn decode_bodies(bytes: &[u8]) -> Result<(BodyHead, Vec<(u16, Update)>), DecodeError> {
    let mut reader = BitReader::new(bytes);
    if reader.read(8)? != u32::from(BODY_KIND) {
        return Err(DecodeError::Invalid("datagram kind"));
    }
    let head = BodyHead { number: reader.read(16)? as u16, tick: reader.read(16)? as u16 };
    let updates = read_entities(&mut reader, |reader, age| {
        Ok(match age {
            0 => Update::Absolute(Body::read_absolute(reader)?),
            age => Update::Since { age, change: Change::read(reader)? },
        })
    })?;
    reader.finish()?;
    Ok((head, updates))
}
