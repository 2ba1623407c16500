//! Bits in a row, the lowest of a byte first, and the code for small signed numbers.

use crate::codec::DecodeError;

/// A number's high part is written as so many ones at most; a longer one is written plainly.
pub(in crate::wire) const ONES_MAX: u32 = 12;
/// Bits of a number that is written plainly.
pub(in crate::wire) const PLAIN_BITS: u32 = 17;
/// The code's parameters that a 3-bit field can name.
pub const PARAMETERS: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 8];

/// Appends bits.
#[derive(Debug, Default)]
pub struct BitWriter {
    bytes: Vec<u8>,
    used: u32,
}

impl BitWriter {
    /// The lowest `count` bits of `value`, at most 32.
    pub fn write(&mut self, value: u32, count: u32) {
        for bit in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.last_mut().expect("a byte was pushed when the last was full");
            *last |= ((value >> bit & 1) as u8) << (self.used % 8);
            self.used += 1;
        }
    }

    /// A signed number in the code with parameter `PARAMETERS[index]` (R. F. Rice, 1979).
    pub fn write_signed(&mut self, value: i32, index: usize) {
        let (folded, low) = (fold(value), PARAMETERS[index]);
        let ones = folded >> low;
        if ones >= ONES_MAX {
            self.write(u32::MAX, ONES_MAX);
            self.write(folded, PLAIN_BITS);
        } else {
            // The ones and a zero behind them.
            self.write((1 << ones) - 1, ones + 1);
            self.write(folded, low);
        }
    }

    /// How many bits there are.
    pub fn len(&self) -> u32 {
        self.used
    }

    /// The bytes, the last one filled up with zeros.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The bits that [`BitWriter::write_signed`] would write.
pub fn signed_length(value: i32, index: usize) -> u32 {
    let (folded, low) = (fold(value), PARAMETERS[index]);
    match folded >> low {
        ones if ones >= ONES_MAX => ONES_MAX + PLAIN_BITS,
        ones => ones + 1 + low,
    }
}

/// 0, −1, 1, −2, … as 0, 1, 2, 3, ….
fn fold(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

/// Reads what a [`BitWriter`] wrote; every read is checked.
#[derive(Debug)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    at: u32,
}

impl<'a> BitReader<'a> {
    /// Starts at the first bit.
    pub fn new(bytes: &'a [u8]) -> Self {
        BitReader { bytes, at: 0 }
    }

    /// `count` bits, at most 32.
    pub fn read(&mut self, count: u32) -> Result<u32, DecodeError> {
        let mut value = 0;
        for bit in 0..count {
            let byte = self.bytes.get((self.at / 8) as usize).ok_or(DecodeError::Truncated { needed: 1 })?;
            value |= u32::from(byte >> (self.at % 8) & 1) << bit;
            self.at += 1;
        }
        Ok(value)
    }

    /// A signed number in the code with parameter `PARAMETERS[index]`.
    pub fn read_signed(&mut self, index: usize) -> Result<i32, DecodeError> {
        let low = PARAMETERS[index];
        let mut ones = 0;
        while ones < ONES_MAX && self.read(1)? == 1 {
            ones += 1;
        }
        let folded = if ones == ONES_MAX { self.read(PLAIN_BITS)? } else { ones << low | self.read(low)? };
        Ok((folded >> 1) as i32 ^ -((folded & 1) as i32))
    }

    /// Refuses bytes left over, and bits other than zero in the last one.
    pub fn finish(mut self) -> Result<(), DecodeError> {
        let bytes = self.at.div_ceil(8) as usize;
        if bytes < self.bytes.len() {
            return Err(DecodeError::TrailingBytes(self.bytes.len() - bytes));
        }
        match self.read((8 - self.at % 8) % 8)? {
            0 => Ok(()),
            _ => Err(DecodeError::Invalid("filling of the last byte")),
        }
    }
}
