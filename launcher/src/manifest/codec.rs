//! Numbers and texts in bytes, as manifests and deltas have them: a number is a varint (7 bits a byte, the lowest first, at most ten
//! bytes, the shortest form only), a text is its length in bytes and UTF-8.

/// Why bytes are not a manifest or a delta.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: {fault}")]
pub struct FormatError {
    /// Where the field at fault begins.
    pub offset: usize,
    /// What is wrong with it.
    pub fault: String,
}

/// Reads fields from front to back. Nothing is allocated that the bytes themselves do not justify.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub fn position(&self) -> usize {
        self.position
    }

    pub fn fault<T>(&self, offset: usize, fault: impl Into<String>) -> Result<T, FormatError> {
        Err(FormatError { offset, fault: fault.into() })
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let rest = &self.bytes[self.position..];
        if rest.len() < count {
            return self.fault(self.position, format!("ends here, {count} more bytes were expected"));
        }
        self.position += count;
        Ok(&rest[..count])
    }

    pub fn id(&mut self) -> Result<[u8; 32], FormatError> {
        Ok(self.bytes(32)?.try_into().expect("32 bytes"))
    }

    pub fn byte(&mut self) -> Result<u8, FormatError> {
        Ok(self.bytes(1)?[0])
    }

    pub fn number(&mut self) -> Result<u64, FormatError> {
        let begin = self.position;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // One number, one form: what is decoded and encoded again is the same bytes.
                return if byte == 0 && shift > 0 { self.fault(begin, "number is padded") } else { Ok(value) };
            }
        }
        self.fault(begin, "number has more than 64 bits")
    }

    /// A number of at most `max`, called `name` in the error.
    pub fn number_to(&mut self, name: &str, max: u64) -> Result<u64, FormatError> {
        let begin = self.position;
        let value = self.number()?;
        if value > max { self.fault(begin, format!("{name} is {value}, at most {max} is allowed")) } else { Ok(value) }
    }

    /// A number that fits 32 bits.
    pub fn small(&mut self, name: &str, max: u32) -> Result<u32, FormatError> {
        Ok(u32::try_from(self.number_to(name, u64::from(max))?).expect("checked"))
    }

    /// How many elements follow, each of at least `element` bytes: more than the rest can hold are refused before anything is made.
    pub fn count(&mut self, name: &str, max: usize, element: usize) -> Result<usize, FormatError> {
        let room = (self.bytes.len() - self.position) / element;
        let count = self.number_to(name, max.min(room) as u64)?;
        Ok(usize::try_from(count).expect("checked"))
    }

    pub fn text(&mut self, name: &str, max: usize) -> Result<String, FormatError> {
        let length = self.number_to(name, max as u64)?;
        let begin = self.position;
        let bytes = self.bytes(usize::try_from(length).expect("checked"))?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => self.fault(begin, format!("{name} is not UTF-8")),
        }
    }

    pub fn end(&self) -> Result<(), FormatError> {
        if self.position == self.bytes.len() { Ok(()) } else { self.fault(self.position, "something follows the end") }
    }
}

/// Appends a number.
pub(crate) fn put_number(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Appends a text.
pub(crate) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_number(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

/// Small differences of either sign become small numbers: 0, -1, 1, -2, … as 0, 1, 2, 3, …
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
