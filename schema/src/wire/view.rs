//! What a client sees come, change and go, in order and reliably; and the answer to a ping.
//!
//! A view is `tick varint` and operations up to its end, each a byte and its fields. Applied in order, the views of a connection
//! say exactly what the client knows; how movers move comes by [`super::motion`] packets.
//!
//! | byte | operation | fields |
//! |---|---|---|
//! | 0 | chunk: what is introduced next stands there | x, z zigzag |
//! | 1 | enter: something that stands comes into view | id, components |
//! | 2 | spawn: the same, and it is new in the world | id, components |
//! | 3 | enter of a mover | id, slot, components |
//! | 4 | spawn of a mover | id, slot, components |
//! | 5 | the player's own entity | id, components |
//! | 6 | change | id, components |
//! | 7 | despawn: gone from the world | id |
//! | 8 | leave: out of view | id |
//! | 9 | leave of a chunk with all that stands in it; keep it in mind | x, z zigzag |
//! | 10 | recall: the chunk is in view again, as it was when it left | x, z zigzag |
//! | 11 | forget a chunk that was kept in mind | x, z zigzag |
//!
//! Ids and slots are varints; components are `count varint`, then `tag varint · length varint · wire bytes` each.
//!
//! The answer to a ping, unreliable: `kind u8 = 2 · nonce varint · tick varint`.

use super::motion::{MOTION_KIND, MotionHead, Update, decode_motion};
use crate::codec::{DecodeError, Reader, from_bytes, write_bytes, write_postcard, write_varint};
use crate::id::{EntityId, Tag};
use crate::units::ChunkKey;
use serde::{Deserialize, Serialize};

/// First byte of the answer to a ping.
pub const PONG_KIND: u8 = 2;

/// Most chunks that a client keeps in mind. The shard says which to forget before there are more.
pub const CHUNKS_IN_MIND_MAX: usize = 256;

/// How something comes into view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// It was in the world before.
    Enter,
    /// It is new in the world.
    Spawn,
}

/// Writes components as a view holds them: [`ComponentsWriter::bytes`].
#[derive(Debug, Default, Clone)]
pub struct ComponentsWriter {
    count: u64,
    parts: Vec<u8>,
}

impl ComponentsWriter {
    /// Adds one.
    pub fn push(&mut self, tag: Tag, bytes: &[u8]) {
        self.count += 1;
        write_varint(&mut self.parts, u64::from(tag.0));
        write_bytes(&mut self.parts, bytes);
    }

    /// True before the first.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Starts anew.
    pub fn clear(&mut self) {
        self.count = 0;
        self.parts.clear();
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        write_varint(out, self.count);
        out.extend_from_slice(&self.parts);
    }
}

/// Writes a view message's payload.
#[derive(Debug, Default, Clone)]
pub struct ViewWriter {
    operations: Vec<u8>,
}

impl ViewWriter {
    /// What [`ViewWriter::standing`] introduces from here on stands in `key`.
    pub fn chunk(&mut self, key: ChunkKey) {
        self.of_chunk(0, key);
    }

    /// Something that stands.
    pub fn standing(&mut self, how: Entrance, id: EntityId, components: &ComponentsWriter) {
        self.of_entity(if how == Entrance::Enter { 1 } else { 2 }, id);
        components.append_to(&mut self.operations);
    }

    /// A mover, whose motion will be told under `slot`.
    pub fn mover(&mut self, how: Entrance, id: EntityId, slot: u16, components: &ComponentsWriter) {
        self.of_entity(if how == Entrance::Enter { 3 } else { 4 }, id);
        write_varint(&mut self.operations, u64::from(slot));
        components.append_to(&mut self.operations);
    }

    /// The player's own entity.
    pub fn own(&mut self, id: EntityId, components: &ComponentsWriter) {
        self.of_entity(5, id);
        components.append_to(&mut self.operations);
    }

    /// New values of something that is known.
    pub fn change(&mut self, id: EntityId, components: &ComponentsWriter) {
        self.of_entity(6, id);
        components.append_to(&mut self.operations);
    }

    /// The entity is gone from the world.
    pub fn despawn(&mut self, id: EntityId) {
        self.of_entity(7, id);
    }

    /// The entity is out of view.
    pub fn leave(&mut self, id: EntityId) {
        self.of_entity(8, id);
    }

    /// A chunk is out of view; the client keeps it in mind.
    pub fn leave_chunk(&mut self, key: ChunkKey) {
        self.of_chunk(9, key);
    }

    /// A chunk that the client has in mind is in view again, unchanged.
    pub fn recall_chunk(&mut self, key: ChunkKey) {
        self.of_chunk(10, key);
    }

    /// The client need not keep the chunk in mind any more.
    pub fn forget_chunk(&mut self, key: ChunkKey) {
        self.of_chunk(11, key);
    }

    /// Appends the operations of another writer.
    pub fn append(&mut self, operations: &[u8]) {
        self.operations.extend_from_slice(operations);
    }

    /// The operations so far.
    pub fn operations(&self) -> &[u8] {
        &self.operations
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// True when there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The payload; the writer is empty afterwards.
    pub fn finish(&mut self, tick: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() + 10);
        write_varint(&mut out, tick);
        out.append(&mut self.operations);
        out
    }

    fn of_entity(&mut self, operation: u8, id: EntityId) {
        self.operations.push(operation);
        write_varint(&mut self.operations, id.0);
    }

    fn of_chunk(&mut self, operation: u8, key: ChunkKey) {
        self.operations.push(operation);
        key.write(&mut self.operations);
    }
}

/// What is introduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Something that stands in this chunk.
    Chunk(ChunkKey),
    /// A mover, by its slot.
    Slot(u16),
    /// The player's own entity.
    Own,
}

/// One operation of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Something comes into view.
    Introduce {
        /// Whether it is new in the world.
        how: Entrance,
        /// Which entity.
        id: EntityId,
        /// Where it is.
        place: Place,
        /// Its components' wire bytes.
        components: Vec<(Tag, &'a [u8])>,
    },
    /// New values.
    Change {
        /// Of which entity.
        id: EntityId,
        /// The components' wire bytes.
        components: Vec<(Tag, &'a [u8])>,
    },
    /// Gone from the world.
    Despawn(EntityId),
    /// Out of view.
    Leave(EntityId),
    /// A chunk is out of view, to be kept in mind.
    LeaveChunk(ChunkKey),
    /// A chunk is in view again as it was.
    RecallChunk(ChunkKey),
    /// A chunk need not be kept in mind.
    ForgetChunk(ChunkKey),
}

/// The operations as they stand in a view, which is postcard: the place in this list is the operation's byte. [`ViewWriter`] writes the same
/// without making one of these first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ViewOperation<'a> {
    /// What is introduced next stands there.
    Chunk(ChunkKey),
    /// Something that stands comes into view.
    Enter {
        /// Which entity.
        id: EntityId,
        /// Its components' wire bytes.
        #[serde(borrow)]
        components: Vec<(Tag, &'a [u8])>,
    },
    /// The same, and it is new in the world.
    Spawn {
        /// Which entity.
        id: EntityId,
        /// Its components' wire bytes.
        components: Vec<(Tag, &'a [u8])>,
    },
    /// A mover comes into view.
    EnterMover {
        /// Which entity.
        id: EntityId,
        /// Under which its motion is told.
        slot: u16,
        /// Its components' wire bytes.
        components: Vec<(Tag, &'a [u8])>,
    },
    /// The same, and it is new in the world.
    SpawnMover {
        /// Which entity.
        id: EntityId,
        /// Under which its motion is told.
        slot: u16,
        /// Its components' wire bytes.
        components: Vec<(Tag, &'a [u8])>,
    },
    /// The player's own entity.
    Own {
        /// Which entity.
        id: EntityId,
        /// Its components' wire bytes.
        components: Vec<(Tag, &'a [u8])>,
    },
    /// New values.
    Change {
        /// Of which entity.
        id: EntityId,
        /// The components' wire bytes.
        components: Vec<(Tag, &'a [u8])>,
    },
    /// Gone from the world.
    Despawn(EntityId),
    /// Out of view.
    Leave(EntityId),
    /// The chunk and what stands in it are out of view, to be kept in mind.
    LeaveChunk(ChunkKey),
    /// A chunk is in view again as it was.
    RecallChunk(ChunkKey),
    /// A chunk need not be kept in mind.
    ForgetChunk(ChunkKey),
}

/// The answer to a ping, behind [`PONG_KIND`]: postcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// From the ping.
    pub nonce: u32,
    /// The shard's tick.
    pub tick: u64,
}

/// A decoded view message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View<'a> {
    /// The tick it describes.
    pub tick: u64,
    /// In order.
    pub operations: Vec<Operation<'a>>,
}

/// Decodes a view message's payload.
pub fn decode_view(bytes: &[u8]) -> Result<View<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let tick = reader.varint()?;
    let mut operations = Vec::new();
    let mut scope = None;
    while !reader.is_empty() {
        use ViewOperation as Told;
        let (enter, spawn) = (Entrance::Enter, Entrance::Spawn);
        let standing = || scope.map(Place::Chunk).ok_or(DecodeError::Invalid("introduction without a chunk"));
        let introduce = |how, id, place, components| Operation::Introduce { how, id, place, components };
        operations.push(match reader.postcard::<Told<'_>>()? {
            Told::Chunk(key) => {
                scope = Some(key);
                continue;
            }
            Told::Enter { id, components } => introduce(enter, id, standing()?, components),
            Told::Spawn { id, components } => introduce(spawn, id, standing()?, components),
            Told::EnterMover { id, slot, components } => introduce(enter, id, Place::Slot(slot), components),
            Told::SpawnMover { id, slot, components } => introduce(spawn, id, Place::Slot(slot), components),
            Told::Own { id, components } => introduce(enter, id, Place::Own, components),
            Told::Change { id, components } => Operation::Change { id, components },
            Told::Despawn(id) => Operation::Despawn(id),
            Told::Leave(id) => Operation::Leave(id),
            Told::LeaveChunk(key) => Operation::LeaveChunk(key),
            Told::RecallChunk(key) => Operation::RecallChunk(key),
            Told::ForgetChunk(key) => Operation::ForgetChunk(key),
        });
    }
    Ok(View { tick, operations })
}

/// Writes the answer to a ping.
pub fn write_pong(nonce: u32, tick: u64) -> Vec<u8> {
    let mut out = vec![PONG_KIND];
    write_postcard(&mut out, &Pong { nonce, tick });
    out
}

/// A decoded datagram from the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerDatagram {
    /// How movers move.
    Motion {
        /// What stands before the entities.
        head: MotionHead,
        /// Each slot's new state, in rising order of slot.
        updates: Vec<(u16, Update)>,
    },
    /// The answer to a ping.
    Pong {
        /// From the ping.
        nonce: u32,
        /// The shard's tick.
        tick: u64,
    },
}

/// Decodes what the shard sent on the state channel.
pub fn decode_server_datagram(bytes: &[u8]) -> Result<ServerDatagram, DecodeError> {
    let mut reader = Reader::new(bytes);
    match reader.byte()? {
        MOTION_KIND => decode_motion(bytes).map(|(head, updates)| ServerDatagram::Motion { head, updates }),
        PONG_KIND => {
            let Pong { nonce, tick } = from_bytes(reader.rest())?;
            Ok(ServerDatagram::Pong { nonce, tick })
        }
        _ => Err(DecodeError::Invalid("datagram kind")),
    }
}
