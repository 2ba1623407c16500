//! What packets of movers and of bodies have in common: **slots**, small numbers by which a view introduces what moves, in rising
//! order with gaps in Rice's code, and for each the age of the state that the client has and that the new one is told against.
//!
//! ```text
//! packet  = head · count 10 · rice 4 · count × entity
//! entity  = gap · base · state
//! gap     = slots skipped since the last one: q ones, a zero, `rice` bits; or 15 ones and the slot itself in 16 bits
//! base    = 1: as the entity before · 0: age 7, in ticks; 0 = absolute
//! ```

use crate::bits::{BitReader, BitWriter, Packed};
use crate::codec::DecodeError;

/// A difference names a state at most so many ticks back.
pub const BASE_AGE_MAX: u32 = 127;
/// Most entities of one packet.
pub const ENTITIES_MAX: usize = 1_023;

/// Bits of an age.
pub(super) const AGE_BITS: u32 = 7;
/// Bits of a packet's count of entities.
pub(super) const COUNT_BITS: u32 = 10;
/// Bits of the gaps' parameter.
pub(super) const RICE_BITS: u32 = 4;
/// Bits of a slot that is told whole.
pub(super) const SLOT_BITS: u32 = 16;
/// So many ones in a gap mean that the slot itself follows.
pub(super) const GAP_ONES_MAX: u32 = 15;

/// What stands before a packet's entities, its kind included.
pub trait PacketHead {
    /// Appends it.
    fn write(&self, bits: &mut BitWriter);
}

/// Writes one packet. Entities come in rising order of slot.
#[derive(Debug)]
pub struct SlotWriter {
    bits: BitWriter,
    /// Where the count goes, in bits from the start.
    count_at: usize,
    count: u32,
    rice: u32,
    next_slot: u32,
    age: Option<u32>,
}

impl SlotWriter {
    /// Begins a packet of about `bytes` bytes, whose entities will be about `gap` slots apart.
    pub fn new(head: impl PacketHead, gap: usize, bytes: usize) -> Self {
        let mut bits = BitWriter::behind(Vec::with_capacity(bytes));
        head.write(&mut bits);
        let rice = gap.max(1).ilog2().min((1 << RICE_BITS) - 1);
        let count_at = bits.len();
        bits.write(0, COUNT_BITS);
        bits.write(rice, RICE_BITS);
        SlotWriter { bits, count_at, count: 0, rice, next_slot: 0, age: None }
    }

    /// Adds a slot with its `state`, which is the difference from the state `age` ticks ago, or absolute with age 0.
    pub fn push(&mut self, slot: u16, age: u32, state: Packed) {
        if let Some(word) = state.word() {
            return self.push_word(slot, age, word, state.len());
        }
        let (front, len) = self.front(slot, age);
        self.bits.long(front, len);
        self.bits.packed(state);
    }

    /// The same with a state of `bits` bits, at most 64, in one word.
    #[inline]
    pub fn push_word(&mut self, slot: u16, age: u32, word: u64, bits: u32) {
        let (front, len) = self.front(slot, age);
        if len + bits <= 64 {
            return self.bits.long(front | word << len, len + bits);
        }
        self.bits.long(front, len);
        self.bits.long(word, bits);
    }

    /// Gap and base of the next entity, at most 39 bits.
    #[inline]
    fn front(&mut self, slot: u16, age: u32) -> (u64, u32) {
        debug_assert!(u32::from(slot) >= self.next_slot && age <= BASE_AGE_MAX && self.has_room());
        let gap = u32::from(slot) - self.next_slot;
        let ones = gap >> self.rice;
        let (mut front, mut len) = if ones < GAP_ONES_MAX {
            let rest = gap & ((1 << self.rice) - 1);
            (u64::from(((1 << ones) - 1) | rest << (ones + 1)), ones + 1 + self.rice)
        } else {
            (((1 << GAP_ONES_MAX) - 1) | u64::from(slot) << GAP_ONES_MAX, GAP_ONES_MAX + SLOT_BITS)
        };
        if self.age == Some(age) {
            front |= 1 << len;
            len += 1;
        } else {
            front |= u64::from(age) << (len + 1);
            len += 1 + AGE_BITS;
            self.age = Some(age);
        }
        self.next_slot = u32::from(slot) + 1;
        self.count += 1;
        (front, len)
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bits.len().div_ceil(8)
    }

    /// How many entities it has.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// True before the first entity.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// False when it has as many entities as a packet can have.
    pub fn has_room(&self) -> bool {
        (self.count as usize) < ENTITIES_MAX
    }

    /// The packet.
    pub fn finish(self) -> Vec<u8> {
        let mut bytes = self.bits.finish();
        let (first, shift) = (self.count_at / 8, self.count_at % 8);
        for (offset, byte) in (self.count << shift).to_le_bytes().into_iter().take(3).enumerate() {
            if let Some(place) = bytes.get_mut(first + offset) {
                *place |= byte;
            }
        }
        bytes
    }
}

/// Reads count and entities behind a head. `read_state` reads a state of the age that it is given.
///
/// # Errors
/// When the bytes are no such list, or what `read_state` says.
pub(super) fn read_entities<State>(
    reader: &mut BitReader<'_>,
    mut read_state: impl FnMut(&mut BitReader<'_>, u32) -> Result<State, DecodeError>,
) -> Result<Vec<(u16, State)>, DecodeError> {
    let count = reader.read(COUNT_BITS)? as usize;
    let rice = reader.read(RICE_BITS)?;
    let mut states = Vec::with_capacity(count);
    let (mut next_slot, mut age) = (0u32, None);
    for _ in 0..count {
        let mut ones = 0;
        while ones < GAP_ONES_MAX && reader.flag()? {
            ones += 1;
        }
        let slot = if ones < GAP_ONES_MAX {
            next_slot + ((ones << rice) | reader.read(rice)?)
        } else {
            reader.read(SLOT_BITS)?
        };
        let slot = u16::try_from(slot).ok().filter(|slot| u32::from(*slot) >= next_slot);
        let slot = slot.ok_or(DecodeError::Invalid("slot"))?;
        next_slot = u32::from(slot) + 1;
        if !reader.flag()? {
            age = Some(reader.read(AGE_BITS)?);
        }
        let age = age.ok_or(DecodeError::Invalid("age"))?;
        states.push((slot, read_state(reader, age)?));
    }
    Ok(states)
}
