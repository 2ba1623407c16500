//! What stands, for all clients: each chunk's content and each tick's changes, encoded once however many clients get them.

use std::sync::Arc;
use vsekai_schema::id::EntityId;
use vsekai_schema::record::Home;
use vsekai_schema::units::ChunkKey;
use vsekai_schema::wire::view::{ComponentsWriter, Entrance, ViewWriter};
use vsekai_sim::port::{KeyMap, TickOutput, Wanted, WorldView};

/// A piece of a chunk's content has about so many bytes: it fits a reliable message together with others.
const PIECE_BYTES: usize = 12 * 1024;
/// Contents that are kept; beyond this all are forgotten and made anew as they are wanted.
const CONTENTS_MAX: usize = 4_096;

/// One entity's change, as operations of a view.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) id: EntityId,
    pub(super) home: Home,
    pub(super) gone: bool,
    pub(super) changed: u64,
    /// Empty when nobody but the owner is told.
    pub(super) operations: Vec<u8>,
}

/// A chunk's content in pieces, each operations of a view.
pub(super) type Content = Arc<[Vec<u8>]>;

/// What stands.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    contents: KeyMap<ChunkKey, Content>,
    /// The tick of the last change of each chunk that changed since the start.
    changed_at: KeyMap<ChunkKey, u64>,
    told: Vec<Told>,
}

impl Chunks {
    /// Takes in what tick `output` changed.
    pub(super) fn begin_tick(&mut self, view: &WorldView<'_>, output: &TickOutput) {
        self.told.clear();
        let mut components = ComponentsWriter::default();
        for event in &output.events {
            let audience = view.audience(event.changed);
            let standing = event.home != Home::Alone;
            if !(event.gone || audience.nearby || audience.owner || (audience.fast && standing)) {
                continue;
            }
            let mut writer = ViewWriter::default();
            let wanted = Wanted { mask: event.changed, owner: false, nearby: true, fast: standing };
            if event.gone {
                writer.despawn(event.id);
            } else if let Home::Chunk(key) = event.home
                && event.new
            {
                view.write(event.id, Wanted::ENTERING, &mut components);
                writer.chunk(key);
                writer.standing(Entrance::Spawn, event.id, &components);
            } else if view.write(event.id, wanted, &mut components) {
                writer.change(event.id, &components);
            }
            if let Home::Chunk(key) = event.home {
                self.changed_at.insert(key, output.frame);
                self.contents.remove(&key);
            }
            self.told.push(Told {
                id: event.id,
                home: event.home,
                gone: event.gone,
                changed: event.changed,
                operations: writer.operations().to_vec(),
            });
        }
    }

    /// This tick's changes.
    pub(super) fn told(&self) -> &[Told] {
        &self.told
    }

    /// The tick of the chunk's last change; 0 when it did not change since the start.
    pub(super) fn changed_at(&self, key: ChunkKey) -> u64 {
        self.changed_at.get(&key).copied().unwrap_or(0)
    }

    /// All that stands in the chunk.
    pub(super) fn content(&mut self, view: &WorldView<'_>, key: ChunkKey) -> Content {
        if let Some(content) = self.contents.get(&key) {
            return content.clone();
        }
        let mut pieces = Vec::new();
        let mut writer = ViewWriter::default();
        let mut components = ComponentsWriter::default();
        for id in view.standing(key) {
            if writer.len() > PIECE_BYTES {
                pieces.push(writer.operations().to_vec());
                writer = ViewWriter::default();
            }
            if writer.is_empty() {
                writer.chunk(key);
            }
            view.write(id, Wanted::ENTERING, &mut components);
            writer.standing(Entrance::Enter, id, &components);
        }
        if !writer.is_empty() {
            pieces.push(writer.operations().to_vec());
        }
        if self.contents.len() >= CONTENTS_MAX {
            self.contents.clear();
        }
        let content: Content = pieces.into();
        self.contents.insert(key, content.clone());
        content
    }
}
