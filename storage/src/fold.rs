//! Folds frames into what they did to each home, and that into the home's entity list. No I/O.
//!
//! Each home is folded by itself: an entity that moves from one home to another is despawned from the old one and written
//! whole to the new one by the same frame. A write to an entity that a home does not hold makes it there; it stays, even
//! without components, until it is despawned.

use std::collections::{BTreeMap, HashMap};
use vsekai_schema::codec::DecodeError;
use vsekai_schema::id::{EntityId, Tag};
use vsekai_schema::record::{EntitiesReader, EntitiesWriter, EntityRecord, FrameHead, FrameReader, Home};
use vsekai_schema::units::ChunkKey;

/// What some frames did, by home.
#[derive(Debug, Default)]
pub(crate) struct Fold<'f> {
    /// To the entities in chunks.
    pub(crate) chunks: HashMap<ChunkKey, Changes<'f>>,
    /// To the entities kept by themselves.
    pub(crate) alone: Changes<'f>,
}

/// What some frames did to the entities of one home.
pub(crate) type Changes<'f> = BTreeMap<EntityId, Change<'f>>;

/// What some frames did to one entity in one home.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Change<'f> {
    /// It was despawned on the way: nothing of what is stored remains.
    replaces: bool,
    /// It was despawned last.
    gone: bool,
    /// The latest bytes per component, in order of tag; empty bytes are a removal.
    components: Vec<(Tag, &'f [u8])>,
}

impl<'f> Fold<'f> {
    /// How many entities were changed, each counted once per home.
    pub(crate) fn entity_count(&self) -> usize {
        self.alone.len() + self.chunks.values().map(BTreeMap::len).sum::<usize>()
    }

    /// Adds the changes of the next frame and returns its head.
    pub(crate) fn add(&mut self, frame: &'f [u8]) -> Result<FrameHead, DecodeError> {
        let mut reader = FrameReader::new(frame)?;
        while let Some(change) = reader.next_change()? {
            let home = match change.home {
                Home::Chunk(chunk) => self.chunks.entry(chunk).or_default(),
                Home::Alone => &mut self.alone,
            };
            let folded = home.entry(change.entity).or_default();
            match change.components {
                None => *folded = Change { replaces: true, gone: true, components: Vec::new() },
                Some(components) => {
                    folded.gone = false;
                    for (tag, bytes) in components {
                        match folded.components.binary_search_by_key(&tag, |(tag, _)| *tag) {
                            Ok(at) => folded.components[at].1 = bytes,
                            Err(at) => folded.components.insert(at, (tag, bytes)),
                        }
                    }
                }
            }
        }
        Ok(reader.head)
    }
}

/// The entity list of a home after `changes`, which come in order of id, or `None` when nothing is left in it.
pub(crate) fn merge<'c, 'f: 'c>(
    stored: Option<&[u8]>,
    changes: impl Iterator<Item = (&'c EntityId, &'c Change<'f>)>,
) -> Result<Option<Vec<u8>>, DecodeError> {
    let mut writer = EntitiesWriter::new();
    let mut changes = changes.peekable();
    if let Some(stored) = stored {
        let mut reader = EntitiesReader::new(stored)?;
        let mut record = EntityRecord { id: EntityId(0), components: Vec::new() };
        while reader.next_into(&mut record)? {
            while let Some((id, change)) = changes.next_if(|(id, _)| **id < record.id) {
                push(&mut writer, *id, &[], change);
            }
            match changes.next_if(|(id, _)| **id == record.id) {
                Some((_, change)) => push(&mut writer, record.id, &record.components, change),
                None => writer.push(record.id, record.components.iter().copied()),
            }
        }
    }
    for (id, change) in changes {
        push(&mut writer, *id, &[], change);
    }
    Ok((writer.count() > 0).then(|| writer.finish()))
}

/// Writes one changed entity, unless it is gone.
fn push(writer: &mut EntitiesWriter, id: EntityId, stored: &[(Tag, &[u8])], change: &Change<'_>) {
    if change.gone {
        return;
    }
    let stored = if change.replaces { &[] } else { stored };
    let written = |tag: Tag| change.components.binary_search_by_key(&tag, |(tag, _)| *tag).is_ok();
    let mut merged: Vec<(Tag, &[u8])> = stored.iter().copied().filter(|(tag, _)| !written(*tag)).collect();
    merged.extend(change.components.iter().filter(|(_, bytes)| !bytes.is_empty()));
    merged.sort_unstable_by_key(|(tag, _)| *tag);
    writer.push(id, merged.into_iter());
}

#[cfg(test)]
mod tests;
