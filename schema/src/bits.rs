//! Bit-packed values, least significant bit first: the first value written fills the lowest bits of the first byte.

use crate::codec::DecodeError;

/// Most bits of one value.
pub const VALUE_BITS_MAX: u32 = 32;

/// Appends values bit by bit.
#[derive(Debug, Default, Clone)]
pub struct BitWriter {
    bytes: Vec<u8>,
    /// What is not in `bytes` yet, in the lowest `held` bits; fewer than 64 between two writes.
    rest: u128,
    held: u32,
}

impl BitWriter {
    /// Appends behind `bytes`.
    pub fn behind(bytes: Vec<u8>) -> Self {
        BitWriter { bytes, rest: 0, held: 0 }
    }

    /// Appends the lowest `bits` bits of `value`, at most [`VALUE_BITS_MAX`]; the others must be zero.
    pub fn write(&mut self, value: u32, bits: u32) {
        debug_assert!(bits <= VALUE_BITS_MAX);
        self.long(u64::from(value), bits);
    }

    /// Appends the lowest `bits` bits of `value`, at most 64; the others must be zero.
    #[inline]
    pub fn long(&mut self, value: u64, bits: u32) {
        debug_assert!(bits <= 64 && (bits == 64 || value >> bits == 0), "{value} in {bits} bits");
        self.rest |= u128::from(value) << self.held;
        self.held += bits;
        if self.held >= 64 {
            self.bytes.extend_from_slice(&(self.rest as u64).to_le_bytes());
            self.rest >>= 64;
            self.held -= 64;
        }
    }

    /// Appends one bit.
    pub fn flag(&mut self, value: bool) {
        self.write(u32::from(value), 1);
    }

    /// Appends `value` as `bits` bits of two's complement; see [`fits`].
    pub fn signed(&mut self, value: i32, bits: u32) {
        debug_assert!(fits(value, bits), "{value} in {bits} signed bits");
        self.write(value as u32 & mask(bits), bits);
    }

    /// Appends what another writer has encoded.
    pub fn packed(&mut self, packed: Packed) {
        self.long(packed.bits as u64, packed.len.min(64));
        if packed.len > 64 {
            self.long((packed.bits >> 64) as u64, packed.len - 64);
        }
    }

    /// Bits so far, those of `behind` included.
    pub fn len(&self) -> usize {
        self.bytes.len() * 8 + self.held as usize
    }

    /// True before the first bit.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes; the last one is filled up with zeros.
    pub fn finish(mut self) -> Vec<u8> {
        let left = self.held.div_ceil(8) as usize;
        self.bytes.extend_from_slice(&self.rest.to_le_bytes()[..left]);
        self.bytes
    }
}

/// Up to 128 bits, encoded once and appended to many writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packed {
    bits: u128,
    len: u32,
}

impl Packed {
    /// Appends like [`BitWriter::write`]. All values together must fit 128 bits.
    pub fn write(&mut self, value: u32, bits: u32) {
        debug_assert!(self.len + bits <= 128 && (bits == 32 || value >> bits == 0), "{value} in {bits} bits");
        self.bits |= u128::from(value) << self.len;
        self.len += bits;
    }

    /// Appends like [`BitWriter::flag`].
    pub fn flag(&mut self, value: bool) {
        self.write(u32::from(value), 1);
    }

    /// Appends like [`BitWriter::signed`].
    pub fn signed(&mut self, value: i32, bits: u32) {
        debug_assert!(fits(value, bits), "{value} in {bits} signed bits");
        self.write(value as u32 & mask(bits), bits);
    }

    /// The bits in one word, when they are at most 64.
    pub fn word(&self) -> Option<u64> {
        (self.len <= 64).then_some(self.bits as u64)
    }

    /// Bits so far.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// True before the first bit.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A cursor over bits that come from outside; every read is checked.
#[derive(Debug, Clone)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    /// Starts at the first bit.
    pub fn new(bytes: &'a [u8]) -> Self {
        BitReader { bytes, at: 0 }
    }

    /// `bits` bits, at most [`VALUE_BITS_MAX`].
    pub fn read(&mut self, bits: u32) -> Result<u32, DecodeError> {
        debug_assert!(bits <= VALUE_BITS_MAX);
        let end = self.at + bits as usize;
        if end > self.bytes.len() * 8 {
            return Err(DecodeError::Truncated { needed: end.div_ceil(8) - self.bytes.len() });
        }
        let first = self.at / 8;
        let mut window = [0; 8];
        let have = (self.bytes.len() - first).min(8);
        window[..have].copy_from_slice(&self.bytes[first..first + have]);
        self.at = end;
        Ok((u64::from_le_bytes(window) >> ((end - bits as usize) % 8)) as u32 & mask(bits))
    }

    /// One bit.
    pub fn flag(&mut self) -> Result<bool, DecodeError> {
        Ok(self.read(1)? == 1)
    }

    /// `bits` bits of two's complement, 1 to 32.
    pub fn signed(&mut self, bits: u32) -> Result<i32, DecodeError> {
        let unused = 32 - bits;
        Ok((self.read(bits)? << unused) as i32 >> unused)
    }

    /// Requires that nothing but the zeros that fill the last byte is left.
    pub fn finish(mut self) -> Result<(), DecodeError> {
        let left = self.bytes.len() * 8 - self.at;
        if left >= 8 {
            return Err(DecodeError::TrailingBytes(left / 8));
        }
        if self.read(left as u32)? == 0 { Ok(()) } else { Err(DecodeError::Invalid("padding")) }
    }
}

/// True when `value` can be written as `bits` bits of two's complement, 1 to 32.
pub fn fits(value: i32, bits: u32) -> bool {
    let unused = 32 - bits;
    (value << unused) >> unused == value
}

fn mask(bits: u32) -> u32 {
    if bits >= 32 { u32::MAX } else { (1 << bits) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(values in proptest::collection::vec((any::<u32>(), 1u32..=32), 0..60)) {
            let mut writer = BitWriter::default();
            for (value, bits) in &values {
                writer.write(value & mask(*bits), *bits);
            }
            let length = writer.len();
            let bytes = writer.finish();
            prop_assert_eq!(bytes.len(), length.div_ceil(8));
            let mut reader = BitReader::new(&bytes);
            for (value, bits) in &values {
                prop_assert_eq!(reader.read(*bits).unwrap(), value & mask(*bits));
            }
            prop_assert!(reader.finish().is_ok());
        }

        #[test]
        fn packed_bits_are_those_of_a_writer(values in proptest::collection::vec((any::<i32>(), 1u32..=32), 0..=4), before in 0u32..32) {
            let (mut straight, mut through, mut packed) = (BitWriter::default(), BitWriter::default(), Packed::default());
            straight.write(0, before);
            through.write(0, before);
            for (value, bits) in &values {
                let value = value >> (32 - bits);
                straight.signed(value, *bits);
                packed.signed(value, *bits);
            }
            through.packed(packed);
            prop_assert_eq!(straight.len(), through.len());
            let bytes = straight.finish();
            prop_assert_eq!(&bytes, &through.finish());
            let mut reader = BitReader::new(&bytes);
            reader.read(before).unwrap();
            for (value, bits) in &values {
                prop_assert_eq!(reader.signed(*bits).unwrap(), value >> (32 - bits));
            }
        }
    }

    #[test]
    fn the_first_value_is_in_the_lowest_bits() {
        let mut writer = BitWriter::behind(vec![7]);
        writer.write(0b101, 3);
        writer.flag(true);
        writer.write(0xabc, 12);
        assert_eq!(writer.finish(), [7, 0b1100_1101, 0xab]);
    }

    #[test]
    fn the_end_is_checked() {
        assert_eq!(BitReader::new(&[1]).read(9), Err(DecodeError::Truncated { needed: 1 }));
        assert_eq!(BitReader::new(&[1, 2]).finish(), Err(DecodeError::TrailingBytes(2)));
        let mut reader = BitReader::new(&[0b1000_0001]);
        assert_eq!(reader.read(4), Ok(1));
        assert_eq!(reader.finish(), Err(DecodeError::Invalid("padding")));
    }
}
