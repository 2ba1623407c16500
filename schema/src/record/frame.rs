//! The frame record: one tick, as the journal keeps it. Layout:
//! `version u8 · frame varint · state hash u64 little-endian · inputs: postcard of [PlayerInput] · change count varint ·
//! changes`. A change is `entity varint · home (0 | 1 chunk) · op (0 write | 1 despawn) · for a write: count varint,
//! count × (tag varint · length varint · bytes)`; a component of length 0 was removed (a record always has its version byte).
//!
//! The state after frame N is the fold of the changes of frames 1..=N over the world's birth; an input stands in exactly
//! one frame.

use crate::codec::{DecodeError, Reader, write_bytes, write_postcard, write_varint};
use crate::id::{EntityId, Tag};
use crate::units::ChunkKey;
use crate::wire::PlayerInput;

/// The version this build writes.
pub const FRAME_VERSION: u8 = 1;

/// Where an entity is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Home {
    /// By itself: players, vehicles, whatever moves, and the world's own entity.
    Alone,
    /// In the payload of its chunk: whatever stands still.
    Chunk(ChunkKey),
}

/// What a frame did to one entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityChange<'a> {
    /// Which entity.
    pub entity: EntityId,
    /// Where it is kept after the frame (for a despawn: where it was).
    pub home: Home,
    /// The components written or removed (empty bytes), or `None` when the entity is gone.
    pub components: Option<Vec<(Tag, &'a [u8])>>,
}

/// The head of a frame, without its changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameHead {
    /// Frame number; the world is born at 0.
    pub frame: u64,
    /// Hash of the whole state after this frame.
    pub state_hash: u64,
    /// The inputs that this frame processed, in the order in which it did.
    pub inputs: Vec<PlayerInput>,
}

/// Memory that a writer keeps between frames, bytes.
const RETAINED_BYTES: usize = 128 << 10;

/// Writes one frame record without intermediate allocations per change.
#[derive(Debug, Default)]
pub struct FrameWriter {
    changes: Vec<u8>,
    count: u64,
}

impl FrameWriter {
    /// A frame without changes.
    pub fn new() -> Self {
        Self::default()
    }

    fn begin(&mut self, entity: EntityId, home: Home) {
        self.count += 1;
        write_varint(&mut self.changes, entity.0);
        match home {
            Home::Alone => self.changes.push(0),
            Home::Chunk(key) => {
                self.changes.push(1);
                key.write(&mut self.changes);
            }
        }
    }

    /// The entity was written: `components` are `(tag, record)`, an empty record meaning "removed".
    pub fn write<'c>(
        &mut self,
        entity: EntityId,
        home: Home,
        components: impl ExactSizeIterator<Item = (Tag, &'c [u8])>,
    ) {
        self.begin(entity, home);
        self.changes.push(0);
        write_varint(&mut self.changes, components.len() as u64);
        for (tag, bytes) in components {
            write_varint(&mut self.changes, u64::from(tag.0));
            write_bytes(&mut self.changes, bytes);
        }
    }

    /// The entity is gone from `home`.
    pub fn despawn(&mut self, entity: EntityId, home: Home) {
        self.begin(entity, home);
        self.changes.push(1);
    }

    /// How many changes were written.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The finished record. The writer is empty afterwards and keeps its memory.
    pub fn finish(&mut self, frame: u64, state_hash: u64, inputs: &[PlayerInput]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.changes.len() + 32 + inputs.len() * 16);
        out.push(FRAME_VERSION);
        write_varint(&mut out, frame);
        out.extend_from_slice(&state_hash.to_le_bytes());
        write_postcard(&mut out, inputs);
        write_varint(&mut out, self.count);
        out.extend_from_slice(&self.changes);
        self.changes.clear();
        self.changes.shrink_to(RETAINED_BYTES);
        self.count = 0;
        out
    }
}

/// Reads one frame record.
#[derive(Debug)]
pub struct FrameReader<'a> {
    /// Number, hash and inputs.
    pub head: FrameHead,
    reader: Reader<'a>,
    left: usize,
}

impl<'a> FrameReader<'a> {
    /// Decodes the head and checks the version.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.byte()?;
        if version != FRAME_VERSION {
            return Err(DecodeError::UnknownVersion {
                what: "frame record".into(),
                found: version.into(),
                newest: FRAME_VERSION.into(),
            });
        }
        let frame = reader.varint()?;
        let state_hash = reader.u64_le()?;
        let (inputs, rest) = postcard::take_from_bytes::<Vec<PlayerInput>>(reader.rest())?;
        let mut reader = Reader::new(rest);
        let left = reader.count()?;
        Ok(FrameReader { head: FrameHead { frame, state_hash, inputs }, reader, left })
    }

    /// The next change, or `None` at the end, where nothing may be left over.
    pub fn next_change(&mut self) -> Result<Option<EntityChange<'a>>, DecodeError> {
        if self.left == 0 {
            return self.reader.clone().finish().map(|()| None);
        }
        self.left -= 1;
        let entity = EntityId(self.reader.varint()?);
        let home = match self.reader.byte()? {
            0 => Home::Alone,
            1 => Home::Chunk(ChunkKey::read(&mut self.reader)?),
            _ => return Err(DecodeError::Invalid("home")),
        };
        let components = match self.reader.byte()? {
            0 => {
                let count = self.reader.count()?;
                let mut components = Vec::with_capacity(count.min(64));
                for _ in 0..count {
                    components.push((Tag(self.reader.varint_u16()?), self.reader.bytes()?));
                }
                Some(components)
            }
            1 => None,
            _ => return Err(DecodeError::Invalid("change")),
        };
        Ok(Some(EntityChange { entity, home, components }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Input, MoveInput};
    use proptest::prelude::*;

    #[test]
    fn a_frame_comes_back() {
        let mut writer = FrameWriter::new();
        let chunk = Home::Chunk(ChunkKey { x: -3, z: 70_000 });
        writer.write(EntityId(7), Home::Alone, [(Tag(1), &[1u8, 2, 3][..]), (Tag(300), &[][..])].into_iter());
        writer.despawn(EntityId(1 << 50), chunk);
        let inputs = vec![PlayerInput {
            player: EntityId(7),
            input: Input::Move(MoveInput {
                sequence: 9,
                direction_x: -128,
                direction_z: 127,
                yaw: 65535,
                sprint: true,
            }),
        }];
        let bytes = writer.finish(42, 0xdead_beef_0123_4567, &inputs);
        let mut reader = FrameReader::new(&bytes).unwrap();
        assert_eq!(reader.head, FrameHead { frame: 42, state_hash: 0xdead_beef_0123_4567, inputs });
        assert_eq!(
            reader.next_change().unwrap(),
            Some(EntityChange {
                entity: EntityId(7),
                home: Home::Alone,
                components: Some(vec![(Tag(1), &[1, 2, 3][..]), (Tag(300), &[][..])]),
            })
        );
        assert_eq!(
            reader.next_change().unwrap(),
            Some(EntityChange { entity: EntityId(1 << 50), home: chunk, components: None })
        );
        assert_eq!(reader.next_change().unwrap(), None);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            for prefix in [&[][..], &[FRAME_VERSION][..]] {
                let bytes = [prefix, &bytes].concat();
                if let Ok(mut reader) = FrameReader::new(&bytes) {
                    while let Ok(Some(_)) = reader.next_change() {}
                }
            }
        }
    }
}
