//! The first replication: what each client is told of the world, and when. The one place that decides it; the full design
//! (budgets, priorities, baselines per client) replaces this file and nothing else.
//!
//! - Area of interest: the chunks within a radius of the player's. What stands there is told reliably when it comes into
//!   view, changes or goes; so is who moves there.
//! - Fast components (poses) go by snapshots, which hold everything that changed since the last snapshot the client
//!   acknowledged: a lost one does no harm.
//! - A player's own belongings are told once their frame is durable; what everybody sees is told at once.
//! - Every entity's fast components are encoded once per change, and copied for each client that sees them.
//!
//! Invariant: a client knows exactly the entities of its chunks, as of the last view message it read.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use vsekai_schema::id::EntityId;
use vsekai_schema::record::Home;
use vsekai_schema::units::ChunkKey;
use vsekai_schema::wire::view::{EntitiesPart, ViewWriter, write_snapshot};
use vsekai_schema::wire::{RELIABLE_BYTES_MAX, SNAPSHOT_BYTES_MAX, ServerMessage, encode};
use vsekai_sim::port::{EntityEvent, KeyMap, TickOutput, Wanted, WorldView};
use xxhash_rust::xxh3::xxh3_64;

/// How a message is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// At once, and it may be lost.
    Datagram,
    /// At once, and it arrives.
    Reliable,
    /// Reliably, once the tick's frame is durable.
    WhenDurable,
}

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

/// What a snapshot has before its entities, at most.
const HEAD_BYTES: usize = 32;

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
    /// Sum of the memberships of its chunks when `movers` was last brought up to date.
    membership: u64,
    /// Until this tick somebody may need to be introduced again.
    introducing_until: u64,
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
            membership: 0,
            introducing_until: 0,
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
    encoded: EntitiesPart,
}

/// Who moves about in one chunk in this tick.
#[derive(Debug, Default)]
struct LivelyChunk {
    /// Sum of a hash of each mover: equal sums mean equal movers, as surely as 64 bits can.
    membership: u64,
    /// Each mover with the tick of its last change and its place in `Replication::encoded`.
    movers: Vec<(EntityId, u64, Range<usize>)>,
}

/// What is shared by all clients.
#[derive(Debug)]
pub struct Replication {
    config: ReplicationConfig,
    movers: KeyMap<EntityId, Mover>,
    lively: KeyMap<ChunkKey, LivelyChunk>,
    encoded: Vec<u8>,
    /// This tick's events that somebody is told of reliably.
    told: Vec<EntityEvent>,
}

impl Replication {
    /// Nothing seen yet.
    pub fn new(config: ReplicationConfig) -> Self {
        Replication {
            config,
            movers: KeyMap::default(),
            lively: KeyMap::default(),
            encoded: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Takes in what a tick changed. Call once per tick, before [`Replication::update`].
    pub fn begin_tick(&mut self, view: &WorldView<'_>, output: &TickOutput) {
        self.told.clear();
        for event in &output.events {
            let audience = view.audience(event.changed);
            if event.gone || audience.nearby || audience.owner || (audience.fast && event.home != Home::Alone) {
                self.told.push(event.clone());
            }
            if audience.fast && event.home == Home::Alone {
                let mover = self.movers.entry(event.id).or_insert_with(Mover::new);
                mover.encode(view, event.id, output.frame);
            }
        }
        self.lively.clear();
        self.encoded.clear();
        for key in view.lively_chunks() {
            let chunk = self.lively.entry(key).or_default();
            for id in view.movers(key) {
                let mover = self.movers.entry(id).or_insert_with(Mover::new);
                if mover.encoded.is_empty() {
                    mover.encode(view, id, output.frame);
                }
                let start = self.encoded.len();
                self.encoded.extend_from_slice(mover.encoded.encoded());
                chunk.movers.push((id, mover.changed_at, start..self.encoded.len()));
                chunk.membership = chunk.membership.wrapping_add(xxh3_64(&id.0.to_le_bytes()));
            }
        }
        // Forget who is no longer there, now and then.
        if output.frame.is_multiple_of(600) {
            self.movers.retain(|id, _| view.is_visible(*id));
        }
    }

    /// Tells one client what this tick changed for it, message by message.
    pub fn update(
        &self,
        view: &WorldView<'_>,
        output: &TickOutput,
        viewer: &mut Viewer,
        newest_input: u32,
        send: &mut dyn FnMut(Delivery, Vec<u8>),
    ) {
        let tick = output.frame;
        for event in &self.told {
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
            let mut wanted = Wanted { mask: event.changed, owner: false, nearby: true, fast: standing };
            view.write(event.id, wanted, &mut viewer.view.entities);
            flush_if_full(viewer, tick, send);
            wanted = Wanted { mask: event.changed, owner: own, nearby: false, fast: false };
            let mut belongings = ViewWriter::default();
            if own && view.write(event.id, wanted, &mut belongings.entities) {
                send(Delivery::WhenDurable, encode(&ServerMessage::View(belongings.finish(tick))));
            }
        }
        // Clients read a view's departures first: what changed above must not come behind the departures below.
        flush(viewer, tick, send);
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
            self.snapshot(tick, viewer, newest_input, send);
        }
    }

    /// The area of interest moves with the player.
    fn follow_player(
        &self,
        view: &WorldView<'_>,
        tick: u64,
        viewer: &mut Viewer,
        send: &mut dyn FnMut(Delivery, Vec<u8>),
    ) {
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
    fn meet_movers(
        &self,
        view: &WorldView<'_>,
        tick: u64,
        viewer: &mut Viewer,
        send: &mut dyn FnMut(Delivery, Vec<u8>),
    ) {
        let chunks = || viewer.chunks.iter().filter_map(|key| self.lively.get(key));
        let membership = chunks().fold(0u64, |sum, chunk| sum.wrapping_add(chunk.membership));
        if membership == viewer.membership {
            return;
        }
        let mut here = 0;
        let mut fresh = Vec::new();
        for (id, ..) in chunks().flat_map(|chunk| &chunk.movers) {
            if viewer.movers.contains_key(id) {
                here += 1;
            } else {
                fresh.push(*id);
            }
        }
        viewer.membership = membership;
        // The player itself is always known. Only when somebody is missing, look for who.
        if viewer.movers.len() > here {
            let lively = viewer.chunks.iter().filter_map(|key| self.lively.get(key));
            let present: BTreeSet<EntityId> = lively.flat_map(|chunk| &chunk.movers).map(|(id, ..)| *id).collect();
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
            viewer.introducing_until = tick + INTRODUCTION_TICKS;
            view.write(id, Wanted::ENTERING, &mut viewer.view.entities);
            flush_if_full(viewer, tick, send);
        }
    }

    fn snapshot(&self, tick: u64, viewer: &mut Viewer, newest_input: u32, send: &mut dyn FnMut(Delivery, Vec<u8>)) {
        let introducing = tick <= viewer.introducing_until;
        let mut parts: Vec<EntitiesPart> = Vec::new();
        for (id, changed_at, range) in
            viewer.chunks.iter().filter_map(|key| self.lively.get(key)).flat_map(|c| &c.movers)
        {
            let fresh = || viewer.movers.get(id).is_some_and(|since| since + INTRODUCTION_TICKS >= tick);
            if *changed_at <= viewer.acknowledged && !(introducing && fresh()) {
                continue;
            }
            let full = parts.last().is_none_or(|part| part.len() + range.len() > SNAPSHOT_BYTES_MAX - HEAD_BYTES);
            if full && parts.len() < usize::from(u8::MAX) {
                parts.push(EntitiesPart::default());
            }
            let last = parts.last_mut().expect("a part was pushed when there was none");
            last.push_encoded(&self.encoded[range.clone()]);
        }
        // An empty snapshot still says which input was processed and lets the client acknowledge.
        if parts.is_empty() {
            parts.push(EntitiesPart::default());
        }
        let count = parts.len() as u8;
        for (number, mut part) in parts.into_iter().enumerate() {
            send(Delivery::Datagram, write_snapshot(tick, number as u8, count, newest_input, &mut part));
        }
        viewer.sent.push_back(tick);
        if viewer.sent.len() > UNACKNOWLEDGED_MAX {
            viewer.sent.pop_front();
        }
    }
}

impl Mover {
    fn new() -> Self {
        Mover { changed_at: 0, encoded: EntitiesPart::default() }
    }

    fn encode(&mut self, view: &WorldView<'_>, id: EntityId, tick: u64) {
        self.changed_at = tick;
        self.encoded = EntitiesPart::default();
        view.write(id, Wanted::FAST, &mut self.encoded);
    }
}

fn flush_if_full(viewer: &mut Viewer, tick: u64, send: &mut dyn FnMut(Delivery, Vec<u8>)) {
    if viewer.view.len() > RELIABLE_BYTES_MAX - 2_048 {
        flush(viewer, tick, send);
    }
}

fn flush(viewer: &mut Viewer, tick: u64, send: &mut dyn FnMut(Delivery, Vec<u8>)) {
    if !viewer.view.is_empty() {
        send(Delivery::Reliable, encode(&ServerMessage::View(viewer.view.finish(tick))));
    }
}
