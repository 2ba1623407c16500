//! Primitives of every container format: LEB128 variable-length integers, zigzag for signed ones, and length-prefixed
//! bytes. They are those of postcard's wire specification, so a postcard decoder in any language reads them too.

use thiserror::Error;

/// Why bytes were refused. The caller drops the message, or names the damaged record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The input ended inside a value.
    #[error("ends too early, {needed} more bytes expected")]
    Truncated {
        /// How many bytes were missing, at least.
        needed: usize,
    },
    /// A variable-length integer does not fit its type.
    #[error("holds an integer out of range")]
    IntegerRange,
    /// Bytes are left over behind the value.
    #[error("has {0} bytes too many")]
    TrailingBytes(usize),
    /// A count or length is larger than what the format allows.
    #[error("{what} is {found}, at most {limit} is allowed")]
    TooLarge {
        /// Which field.
        what: &'static str,
        /// The value found.
        found: u64,
        /// The largest value allowed.
        limit: u64,
    },
    /// A version that this build does not know.
    #[error("{what} has version {found}, this build knows up to {newest}")]
    UnknownVersion {
        /// What kind of record.
        what: String,
        /// The version found.
        found: u32,
        /// The newest version known.
        newest: u32,
    },
    /// The value itself is not one of the format.
    #[error("holds an invalid {0}")]
    Invalid(&'static str),
}

impl From<postcard::Error> for DecodeError {
    fn from(error: postcard::Error) -> Self {
        match error {
            postcard::Error::DeserializeUnexpectedEnd => DecodeError::Truncated { needed: 1 },
            postcard::Error::DeserializeBadVarint => DecodeError::IntegerRange,
            postcard::Error::DeserializeBadBool => DecodeError::Invalid("bool"),
            postcard::Error::DeserializeBadUtf8 => DecodeError::Invalid("UTF-8 text"),
            postcard::Error::DeserializeBadEnum => DecodeError::Invalid("enum variant"),
            _ => DecodeError::Invalid("value"),
        }
    }
}

/// Appends `value` as an LEB128 variable-length integer, 1 to 10 bytes.
pub fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value` in zigzag form, so that small negative numbers stay short.
pub fn write_zigzag(out: &mut Vec<u8>, value: i64) {
    write_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends the length of `bytes` and then `bytes`.
pub fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A cursor over bytes that come from outside; every read is checked.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// The bytes not yet read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// True when everything was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated { needed: 1 })?;
        self.rest = rest;
        Ok(*first)
    }

    /// `count` bytes, borrowed.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        if count > self.rest.len() {
            return Err(DecodeError::Truncated { needed: count - self.rest.len() });
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    /// An 8-byte little-endian integer.
    pub fn u64_le(&mut self) -> Result<u64, DecodeError> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("take returned 8 bytes")))
    }

    /// A variable-length integer of up to 64 bits.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::IntegerRange);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::IntegerRange)
    }

    /// A zigzag integer that fits 32 bits.
    pub fn zigzag_i32(&mut self) -> Result<i32, DecodeError> {
        let raw = self.varint()?;
        let value = (raw >> 1) as i64 ^ -((raw & 1) as i64);
        i32::try_from(value).map_err(|_| DecodeError::IntegerRange)
    }

    /// A variable-length integer that fits 16 bits.
    pub fn varint_u16(&mut self) -> Result<u16, DecodeError> {
        u16::try_from(self.varint()?).map_err(|_| DecodeError::IntegerRange)
    }

    /// A count that can be no larger than the bytes that are left, since each counted thing takes at least one.
    pub fn count(&mut self) -> Result<usize, DecodeError> {
        let count = self.varint()?;
        if count > self.rest.len() as u64 {
            return Err(DecodeError::TooLarge { what: "count", found: count, limit: self.rest.len() as u64 });
        }
        Ok(count as usize)
    }

    /// Length-prefixed bytes, borrowed.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.count()?;
        self.take(length)
    }

    /// A value in postcard's form, which may borrow from the input.
    pub fn postcard<T: serde::Deserialize<'a>>(&mut self) -> Result<T, DecodeError> {
        let (value, rest) = postcard::take_from_bytes(self.rest)?;
        self.rest = rest;
        Ok(value)
    }

    /// Refuses bytes left over.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes(self.rest.len())) }
    }
}

/// Decodes a whole message: postcard, and nothing behind it.
pub fn from_bytes<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    let (value, rest) = postcard::take_from_bytes::<T>(bytes)?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::TrailingBytes(rest.len())) }
}

/// Appends the postcard form of `value`.
///
/// # Panics
/// Never for the types of this workspace: writing to a `Vec` cannot fail, and none of them has an unsized sequence.
pub fn write_postcard<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let taken = std::mem::take(out);
    *out = postcard::to_extend(value, taken).expect("a Vec grows and all sequences have a length");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_and_bytes_come_back(value: u64, small: i32, bytes: Vec<u8>) {
            let mut out = Vec::new();
            write_varint(&mut out, value);
            write_zigzag(&mut out, i64::from(small));
            write_bytes(&mut out, &bytes);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint().unwrap(), value);
            prop_assert_eq!(reader.zigzag_i32().unwrap(), small);
            prop_assert_eq!(reader.bytes().unwrap(), &bytes[..]);
            prop_assert!(reader.finish().is_ok());
            prop_assert_eq!(&postcard::to_allocvec(&value).unwrap()[..], &out[..postcard::to_allocvec(&value).unwrap().len()]);
        }
    }

    #[test]
    fn an_eleven_byte_integer_is_refused() {
        assert_eq!(Reader::new(&[0xff; 11]).varint(), Err(DecodeError::IntegerRange));
        assert_eq!(Reader::new(&[0x80]).varint(), Err(DecodeError::Truncated { needed: 1 }));
    }

    #[test]
    fn a_count_beyond_the_input_is_refused_before_anything_is_allocated() {
        let mut out = Vec::new();
        write_varint(&mut out, 1 << 40);
        assert!(matches!(Reader::new(&out).count(), Err(DecodeError::TooLarge { .. })));
    }
}
