//! The two bulk messages from shard to client.
//!
//! **View** (reliable): `tick varint · left count varint · left × id varint · entity count varint · entities`.
//! An entity that the client does not know enters with these components; one that it knows is changed by them.
//!
//! **Snapshot** (unreliable): `kind u8 = 1 · tick varint · part u8 · parts u8 · newest input sequence varint · entity count
//! varint · entities`: the fast components of everything near that changed since the last snapshot the client acknowledged. A
//! snapshot is whole when all its parts arrived; only then may its tick be acknowledged. **Pong**: `kind u8 = 2 · nonce
//! varint · tick varint`.
//!
//! An entity is `id varint · component count varint · components × (tag varint · length varint · wire bytes)`.

use crate::codec::{DecodeError, Reader, write_bytes, write_varint};
use crate::id::{EntityId, Tag};

/// First byte of a snapshot.
pub const SNAPSHOT_STATE: u8 = 1;
/// First byte of the answer to a ping.
pub const SNAPSHOT_PONG: u8 = 2;

/// Writes the entities of a view or snapshot.
#[derive(Debug, Default)]
pub struct EntitiesPart {
    bytes: Vec<u8>,
    count: u64,
}

impl EntitiesPart {
    /// Adds one entity with its components' wire bytes.
    pub fn push<'c>(&mut self, id: EntityId, components: impl ExactSizeIterator<Item = (Tag, &'c [u8])>) {
        self.count += 1;
        write_varint(&mut self.bytes, id.0);
        write_varint(&mut self.bytes, components.len() as u64);
        for (tag, bytes) in components {
            write_varint(&mut self.bytes, u64::from(tag.0));
            write_bytes(&mut self.bytes, bytes);
        }
    }

    /// Adds an entity that another part encoded alone: what [`EntitiesPart::encoded`] gave.
    pub fn push_encoded(&mut self, entity: &[u8]) {
        self.count += 1;
        self.bytes.extend_from_slice(entity);
    }

    /// The entities so far, without their count.
    pub fn encoded(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True before the first entity.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn append_to(&mut self, out: &mut Vec<u8>) {
        write_varint(out, self.count);
        out.extend_from_slice(&self.bytes);
        self.bytes.clear();
        self.count = 0;
    }
}

/// Writes a view message's payload.
#[derive(Debug, Default)]
pub struct ViewWriter {
    /// What entered or changed.
    pub entities: EntitiesPart,
    left: Vec<u8>,
    left_count: u64,
}

impl ViewWriter {
    /// The entity is out of view or gone.
    pub fn leave(&mut self, id: EntityId) {
        self.left_count += 1;
        write_varint(&mut self.left, id.0);
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.entities.len() + self.left.len()
    }

    /// True when there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.entities.is_empty() && self.left_count == 0
    }

    /// The payload; the writer is empty afterwards.
    pub fn finish(&mut self, tick: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() + 16);
        write_varint(&mut out, tick);
        write_varint(&mut out, self.left_count);
        out.extend_from_slice(&self.left);
        self.left.clear();
        self.left_count = 0;
        self.entities.append_to(&mut out);
        out
    }
}

/// Writes one part of a snapshot.
pub fn write_snapshot(tick: u64, part: u8, parts: u8, newest_input: u32, entities: &mut EntitiesPart) -> Vec<u8> {
    let mut out = Vec::with_capacity(entities.len() + 24);
    out.push(SNAPSHOT_STATE);
    write_varint(&mut out, tick);
    out.push(part);
    out.push(parts);
    write_varint(&mut out, u64::from(newest_input));
    entities.append_to(&mut out);
    out
}

/// Writes the answer to a ping.
pub fn write_pong(nonce: u32, tick: u64) -> Vec<u8> {
    let mut out = vec![SNAPSHOT_PONG];
    write_varint(&mut out, u64::from(nonce));
    write_varint(&mut out, tick);
    out
}

/// One entity as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityView<'a> {
    /// Which entity.
    pub id: EntityId,
    /// Its components' wire bytes.
    pub components: Vec<(Tag, &'a [u8])>,
}

/// A decoded view message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View<'a> {
    /// The tick it describes.
    pub tick: u64,
    /// Out of view or gone.
    pub left: Vec<EntityId>,
    /// Entered or changed.
    pub entities: Vec<EntityView<'a>>,
}

/// A decoded datagram from the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerDatagram<'a> {
    /// One part of a snapshot.
    Snapshot {
        /// The tick it describes.
        tick: u64,
        /// Which part, from 0.
        part: u8,
        /// How many parts this snapshot has, 1 or more.
        parts: u8,
        /// The newest movement input that this tick had processed.
        newest_input: u32,
        /// The entities with their fast components.
        entities: Vec<EntityView<'a>>,
    },
    /// The answer to a ping.
    Pong {
        /// From the ping.
        nonce: u32,
        /// The shard's tick.
        tick: u64,
    },
}

fn read_entities<'a>(reader: &mut Reader<'a>) -> Result<Vec<EntityView<'a>>, DecodeError> {
    let count = reader.count()?;
    let mut entities = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let id = EntityId(reader.varint()?);
        let component_count = reader.count()?;
        let mut components = Vec::with_capacity(component_count.min(16));
        for _ in 0..component_count {
            components.push((Tag(reader.varint_u16()?), reader.bytes()?));
        }
        entities.push(EntityView { id, components });
    }
    Ok(entities)
}

/// Decodes a view message's payload.
pub fn decode_view(bytes: &[u8]) -> Result<View<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let tick = reader.varint()?;
    let left_count = reader.count()?;
    let mut left = Vec::with_capacity(left_count.min(1024));
    for _ in 0..left_count {
        left.push(EntityId(reader.varint()?));
    }
    let entities = read_entities(&mut reader)?;
    reader.finish()?;
    Ok(View { tick, left, entities })
}

/// Decodes what the shard sent on the state channel.
pub fn decode_server_datagram(bytes: &[u8]) -> Result<ServerDatagram<'_>, DecodeError> {
    let narrow = |value: u64| u32::try_from(value).map_err(|_| DecodeError::IntegerRange);
    let mut reader = Reader::new(bytes);
    let datagram = match reader.byte()? {
        SNAPSHOT_STATE => {
            let tick = reader.varint()?;
            let (part, parts) = (reader.byte()?, reader.byte()?);
            if part >= parts {
                return Err(DecodeError::Invalid("snapshot part"));
            }
            let newest_input = narrow(reader.varint()?)?;
            ServerDatagram::Snapshot { tick, part, parts, newest_input, entities: read_entities(&mut reader)? }
        }
        SNAPSHOT_PONG => ServerDatagram::Pong { nonce: narrow(reader.varint()?)?, tick: reader.varint()? },
        _ => return Err(DecodeError::Invalid("datagram kind")),
    };
    reader.finish()?;
    Ok(datagram)
}
