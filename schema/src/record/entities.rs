//! A list of whole entities, sorted by id. Layout:
//! `version u8 · count varint · count × (id varint, as difference from the one before · components varint ·
//! components × (tag varint · length varint · bytes))`. A component's bytes begin with that component's own version.

use crate::codec::{DecodeError, Reader, write_bytes, write_varint};
use crate::id::{EntityId, Tag};

/// The version this build writes.
pub const ENTITIES_VERSION: u8 = 1;

/// One entity as it lies in a list: its id and its component records, borrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityRecord<'a> {
    /// Whose components these are.
    pub id: EntityId,
    /// In rising order of tag. The first byte of each is the component's version.
    pub components: Vec<(Tag, &'a [u8])>,
}

/// Writes a list. Entities must be pushed in rising order of id.
#[derive(Debug, Default)]
pub struct EntitiesWriter {
    body: Vec<u8>,
    count: u64,
    last: u64,
}

impl EntitiesWriter {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one entity.
    ///
    /// # Panics
    /// When `id` is not larger than the one before: a list out of order is a bug of the caller.
    pub fn push<'c>(&mut self, id: EntityId, components: impl ExactSizeIterator<Item = (Tag, &'c [u8])>) {
        assert!(self.count == 0 || id.0 > self.last, "entity {id} is not behind {}", self.last);
        write_varint(&mut self.body, id.0 - self.last);
        self.last = id.0;
        self.count += 1;
        write_varint(&mut self.body, components.len() as u64);
        for (tag, bytes) in components {
            write_varint(&mut self.body, u64::from(tag.0));
            write_bytes(&mut self.body, bytes);
        }
    }

    /// How many were pushed.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The finished payload.
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 6);
        out.push(ENTITIES_VERSION);
        write_varint(&mut out, self.count);
        out.extend_from_slice(&self.body);
        out
    }
}

/// Reads a list, one entity at a time.
#[derive(Debug)]
pub struct EntitiesReader<'a> {
    reader: Reader<'a>,
    left: usize,
    last: u64,
    first: bool,
}

impl<'a> EntitiesReader<'a> {
    /// Checks the version and the count.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.byte()?;
        if version != ENTITIES_VERSION {
            return Err(DecodeError::UnknownVersion {
                what: "entity list".into(),
                found: version.into(),
                newest: ENTITIES_VERSION.into(),
            });
        }
        let left = reader.count()?;
        Ok(EntitiesReader { reader, left, last: 0, first: true })
    }

    /// The next entity, or `None` at the end, where nothing may be left over. `record` is overwritten: its vector is
    /// reused, so that reading a million entities allocates nothing.
    pub fn next_into(&mut self, record: &mut EntityRecord<'a>) -> Result<bool, DecodeError> {
        if self.left == 0 {
            return self.reader.clone().finish().map(|()| false);
        }
        self.left -= 1;
        let step = self.reader.varint()?;
        if step == 0 && !self.first {
            return Err(DecodeError::Invalid("entity order"));
        }
        self.first = false;
        self.last = self.last.checked_add(step).ok_or(DecodeError::IntegerRange)?;
        record.id = EntityId(self.last);
        record.components.clear();
        let count = self.reader.count()?;
        for _ in 0..count {
            let tag = Tag(self.reader.varint_u16()?);
            if record.components.last().is_some_and(|(before, _)| *before >= tag) {
                return Err(DecodeError::Invalid("component order"));
            }
            record.components.push((tag, self.reader.bytes()?));
        }
        Ok(true)
    }

    /// The rest of the list.
    pub fn collect(mut self) -> Result<Vec<EntityRecord<'a>>, DecodeError> {
        let mut all = Vec::new();
        let mut record = EntityRecord { id: EntityId(0), components: Vec::new() };
        while self.next_into(&mut record)? {
            all.push(record.clone());
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_list_comes_back(entities: BTreeMap<u64, BTreeMap<u16, Vec<u8>>>) {
            let mut writer = EntitiesWriter::new();
            for (id, components) in &entities {
                writer.push(EntityId(*id), components.iter().map(|(tag, bytes)| (Tag(*tag), &bytes[..])));
            }
            let bytes = writer.finish();
            let read = EntitiesReader::new(&bytes).unwrap().collect().unwrap();
            prop_assert_eq!(read.len(), entities.len());
            for (record, (id, components)) in read.iter().zip(&entities) {
                prop_assert_eq!(record.id.0, *id);
                let read: BTreeMap<u16, Vec<u8>> =
                    record.components.iter().map(|(tag, bytes)| (tag.0, bytes.to_vec())).collect();
                prop_assert_eq!(&read, components);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(reader) = EntitiesReader::new(&bytes) {
                let _ = reader.collect();
            }
        }
    }

    #[test]
    fn bytes_behind_the_list_and_a_newer_version_are_refused() {
        let mut bytes = EntitiesWriter::new().finish();
        bytes.push(0);
        assert_eq!(EntitiesReader::new(&bytes).unwrap().collect(), Err(DecodeError::TrailingBytes(1)));
        bytes[0] = 9;
        assert!(EntitiesReader::new(&bytes).unwrap_err().to_string().contains("version 9"));
    }
}
