//! The first replication: what each client is told of the world, and when. The one place that decides it; the full design
//! (budgets, priorities, baselines per client) replaces this file and nothing else.
//!
//! - Area of interest: the chunks within a radius of the player's. What stands there is told reliably when it comes into
//!   view, changes or goes; so is who moves there.
//! - Fast components (poses) go by snapshots, which hold everything that changed since the last snapshot the client
//!   acknowledged: a lost one does no harm.
//! - Every entity's fast components are encoded once per tick, and copied for each client that sees them.
//!
//! Invariant: a client knows exactly the entities of its chunks, as of the last view message it read.

use std::collections::{BTreeSet, VecDeque};
use vsekai_schema::id::EntityId;
use vsekai_schema::units::ChunkKey;
use vsekai_schema::wire::view::{EntitiesPart, ViewWriter, write_snapshot};
use vsekai_schema::wire::{RELIABLE_BYTES_MAX, SNAPSHOT_BYTES_MAX, ServerMessage, encode};
use vsekai_schema::record::Home;
use vsekai_sim::port::{TickOutput, Wanted, WorldView};
use vsekai_sim::space::KeyMap;

/// How far and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicationConfig {
    /// Chunks seen in each direction, 1–16.
    pub view_radius_chunks: i32,
    /// Every how many ticks a client gets a snapshot, at least 1.
    pub snapshot_interval_ticks: u64,
}

/// For how many ticks an entity that just came into view is in every snapshot: the reliable message that introduces it may
/// arrive later than the first snapshots, which the client then ignores as far as that entity goes.
const INTRODUCTION_TICKS: u64 = 60;

/// How many unacknowledged snapshots are remembered.
const UNACKNOWLEDGED_MAX: usize = 256;

/// What one client was told.
#[derive(Debug)]
pub struct Viewer {
    player: EntityId,
    centre: Option<ChunkKey>,
    chunks: BTreeSet<ChunkKey>,
    /// Movers that the client knows, with the tick in which it was told.
    movers: KeyMap<EntityId, u64>,
    acknowledged: u64,
    sent: VecDeque<u64>,
    introduced: bool,
    view: ViewWriter,
}

impl Viewer {
    /// A client that knows nothing yet.
    pub fn new(player: EntityId) -> Self {
        Viewer {
            player,
            centre: None,
            chunks: BTreeSet::new(),
            movers: KeyMap::default(),
            acknowledged: 0,
            sent: VecDeque::new(),
            introduced: false,
            view: ViewWriter::default(),
        }
    }

    /// The client has the whole snapshot of `tick`. Ticks that were never sent are ignored.
    pub fn acknowledge(&mut self, tick: u64) {
        if tick > self.acknowledged && self.sent.contains(&tick) {
            self.acknowledged = tick;
            self.sent.retain(|sent| *sent > tick);
        }
    }
}

/// One mover's fast components, encoded for all.
#[derive(Debug)]
struct Mover {
    changed_at: u64,
    encoded_at: u64,
    bytes: Vec<(vsekai_schema::id::Tag, Vec<u8>)>,
}

/// What is shared by all clients.
#[derive(Debug)]
pub struct Replication {
    config: ReplicationConfig,
    movers: KeyMap<EntityId, Mover>,
}

impl Replication {
    /// Nothing seen yet.
    pub fn new(config: ReplicationConfig) -> Self {
        Replication { config, movers: KeyMap::default() }
    }

    /// Notes what a tick changed. Call once per tick, before [`Replication::update`].
    pub fn note(&mut self, view: &WorldView<'_>, output: &TickOutput) {
        for event in &output.events {
            if event.home == Home::Alone && view.audience(event.changed).fast {
                let mover = self.movers.entry(event.id).or_insert(Mover { changed_at: 0, encoded_at: 0, bytes: Vec::new() });
                mover.changed_at = output.frame;
            }
        }
        // Forget who is no longer there, now and then.
        if output.frame.is_multiple_of(600) {
            self.movers.retain(|id, _| view.is_visible(*id));
        }
    }

    /// Tells one client what this tick changed for it: appends messages by `send(channel is reliable, bytes)`.
    pub fn update(
        &mut self,
        view: &WorldView<'_>,
        output: &TickOutput,
        viewer: &mut Viewer,
        newest_input: u32,
        send: &mut dyn FnMut(bool, Vec<u8>),
    ) {
        let tick = output.frame;
        for event in &output.events {
            let own = event.id == viewer.player;
            let seen = own
                || match event.home {
                    Home::Chunk(key) => viewer.chunks.contains(&key),
                    Home::Alone => viewer.movers.contains_key(&event.id),
                };
            if !seen || (own && !viewer.introduced) {
                continue;
            }
            if event.gone {
                viewer.view.leave(event.id);
                viewer.movers.remove(&event.id);
                continue;
            }
            let standing = event.home != Home::Alone;
            let wanted = Wanted { mask: event.changed, owner: own, nearby: true, fast: standing };
            view.write(event.id, wanted, &mut viewer.view.entities);
            flush_if_full(viewer, tick, send);
        }
        if !viewer.introduced {
            viewer.introduced = true;
            view.write(viewer.player, Wanted::OWN, &mut viewer.view.entities);
            viewer.movers.insert(viewer.player, tick);
        }
        self.follow_player(view, tick, viewer, send);
        // Clients take turns, so that no tick has to serve all.
        let due = (tick + viewer.player.0).is_multiple_of(self.config.snapshot_interval_ticks);
        if due {
            self.meet_movers(view, tick, viewer, send);
        }
        flush(viewer, tick, send);
        if due {
            self.snapshot(view, tick, viewer, newest_input, send);
        }
    }

    /// The area of interest moves with the player.
    fn follow_player(&self, view: &WorldView<'_>, tick: u64, viewer: &mut Viewer, send: &mut dyn FnMut(bool, Vec<u8>)) {
        let Some(centre) = view.position(viewer.player).map(|position| position.chunk()) else { return };
        if viewer.centre == Some(centre) {
            return;
        }
        viewer.centre = Some(centre);
        let wanted: BTreeSet<ChunkKey> = centre.around(self.config.view_radius_chunks).collect();
        let left: Vec<ChunkKey> = viewer.chunks.difference(&wanted).copied().collect();
        for key in left {
            viewer.chunks.remove(&key);
            for id in view.standing(key) {
                viewer.view.leave(id);
            }
            flush_if_full(viewer, tick, send);
        }
        let mut entered: Vec<ChunkKey> = wanted.difference(&viewer.chunks).copied().collect();
        // Nearest first: what one stands before must not wait for the horizon.
        entered.sort_by_key(|key| (key.x - centre.x).abs().max((key.z - centre.z).abs()));
        for key in entered {
            viewer.chunks.insert(key);
            for id in view.standing(key) {
                view.write(id, Wanted::ENTERING, &mut viewer.view.entities);
                flush_if_full(viewer, tick, send);
            }
        }
    }

    /// Movers that came into the area, and those that left it or the world.
    fn meet_movers(&self, view: &WorldView<'_>, tick: u64, viewer: &mut Viewer, send: &mut dyn FnMut(bool, Vec<u8>)) {
        let mut here = 0;
        let mut fresh = Vec::new();
        for key in &viewer.chunks {
            for id in view.movers(*key) {
                if viewer.movers.contains_key(&id) {
                    here += 1;
                } else {
                    fresh.push(id);
                }
            }
        }
        // The player itself is always known. Only when somebody is missing, look for who.
        if viewer.movers.len() > here {
            let present: BTreeSet<EntityId> = viewer.chunks.iter().flat_map(|key| view.movers(*key)).collect();
            let (player, gone) = (viewer.player, &mut Vec::new());
            viewer.movers.retain(|id, _| {
                let stays = *id == player || present.contains(id);
                if !stays {
                    gone.push(*id);
                }
                stays
            });
            gone.sort_unstable();
            for id in gone.drain(..) {
                viewer.view.leave(id);
            }
        }
        for id in fresh {
            viewer.movers.insert(id, tick);
            view.write(id, Wanted::ENTERING, &mut viewer.view.entities);
            flush_if_full(viewer, tick, send);
        }
    }

    fn snapshot(
        &mut self,
        view: &WorldView<'_>,
        tick: u64,
        viewer: &mut Viewer,
        newest_input: u32,
        send: &mut dyn FnMut(bool, Vec<u8>),
    ) {
        let mut parts: Vec<EntitiesPart> = Vec::new();
        for key in &viewer.chunks {
            for id in view.movers(*key) {
                let introduced_at = viewer.movers.get(&id).copied().unwrap_or(tick);
                let Some(mover) = self.movers.get_mut(&id) else { continue };
                if mover.changed_at <= viewer.acknowledged && introduced_at + INTRODUCTION_TICKS < tick {
                    continue;
                }
                if mover.encoded_at != tick {
                    mover.encode(view, id, tick);
                }
                let full = parts.last().is_none_or(|part| part.len() >= SNAPSHOT_BYTES_MAX - 64);
                if full && parts.len() < usize::from(u8::MAX) {
                    parts.push(EntitiesPart::default());
                }
                let last = parts.last_mut().expect("a part was pushed when there was none");
                last.push(id, mover.bytes.iter().map(|(tag, bytes)| (*tag, &bytes[..])));
            }
        }
        // An empty snapshot still says which input was processed and lets the client acknowledge.
        if parts.is_empty() {
            parts.push(EntitiesPart::default());
        }
        let count = parts.len() as u8;
        for (number, mut part) in parts.into_iter().enumerate() {
            send(false, write_snapshot(tick, number as u8, count, newest_input, &mut part));
        }
        viewer.sent.push_back(tick);
        if viewer.sent.len() > UNACKNOWLEDGED_MAX {
            viewer.sent.pop_front();
        }
    }
}

impl Mover {
    fn encode(&mut self, view: &WorldView<'_>, id: EntityId, tick: u64) {
        self.encoded_at = tick;
        self.bytes.clear();
        view.for_each(id, Wanted::FAST, |tag, bytes| self.bytes.push((tag, bytes.to_vec())));
    }
}

fn flush_if_full(viewer: &mut Viewer, tick: u64, send: &mut dyn FnMut(bool, Vec<u8>)) {
    if viewer.view.len() > RELIABLE_BYTES_MAX - 2_048 {
        flush(viewer, tick, send);
    }
}

fn flush(viewer: &mut Viewer, tick: u64, send: &mut dyn FnMut(bool, Vec<u8>)) {
    if !viewer.view.is_empty() {
        send(true, encode(&ServerMessage::View(viewer.view.finish(tick))));
    }
}
