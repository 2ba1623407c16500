//! The world as one client knows it, put together from views (reliable) and motion packets (unreliable).
//!
//! Invariants: a value is never replaced by an older tick's; what has left comes back by a view only; bounded by what the
//! shard says is in view, and by [`CHUNKS_IN_MIND_MAX`] chunks that left it.

use super::history::History;
use super::player::Playback;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use vsekai_schema::id::{EntityId, Tag};
use vsekai_schema::units::{ChunkKey, Position};
use vsekai_schema::wire::motion::{Acks, HISTORY_TICKS, Motion, MotionHead, OwnPose, Update, widen};
use vsekai_schema::wire::view::{CHUNKS_IN_MIND_MAX, Operation, Place, View};
use vsekai_sim::port::{Declared, Pose, Terrain};

/// Slots are looked through after so many packets.
const SWEEP_PACKETS: u16 = 1_024;

/// One entity as the client knows it. What packets said of its place is looked up only when somebody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownEntity<'a> {
    stored: &'a Stored,
    /// The newest place that packets gave, when that is younger than the components.
    moved: Option<Pose>,
}

impl KnownEntity<'_> {
    /// A component, decoded. `None` when it has none, or it cannot be read.
    pub fn get<C: Declared>(&self) -> Option<C> {
        C::read_wire(&self.bytes(Tag(C::TAG))?).ok()
    }

    /// The wire bytes of a component.
    pub fn bytes(&self, tag: Tag) -> Option<Cow<'_, [u8]>> {
        if let Some(pose) = self.moved.filter(|_| tag.0 == Pose::TAG) {
            let mut bytes = Vec::with_capacity(16);
            pose.write_wire(&mut bytes);
            return Some(Cow::Owned(bytes));
        }
        self.stored.components.get(&tag.0).map(|(_, bytes)| Cow::Borrowed(&bytes[..]))
    }

    /// The chunk that it stands in; `None` for what moves.
    pub fn chunk(&self) -> Option<ChunkKey> {
        self.stored.chunk
    }
}

/// What views said of an entity: wire bytes by tag, with their tick.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stored {
    components: BTreeMap<u16, (u64, Vec<u8>)>,
    chunk: Option<ChunkKey>,
    slot: Option<u16>,
}

impl Stored {
    /// Newer values win: a view may arrive behind a packet that is younger.
    fn take(&mut self, tick: u64, tag: Tag, bytes: &[u8]) {
        let known = self.components.entry(tag.0).or_default();
        if known.0 <= tick {
            known.0 = tick;
            known.1.clear();
            known.1.extend_from_slice(bytes);
        }
    }

    fn take_all(&mut self, tick: u64, components: &[(Tag, &[u8])]) {
        for (tag, bytes) in components {
            self.take(tick, *tag, bytes);
        }
    }
}

/// What packets say of one slot.
#[derive(Debug, Clone, Default)]
struct Slot {
    /// Who has it, and since which tick.
    holder: Option<(EntityId, u64)>,
    /// Its newest state, and of which tick.
    newest: Option<(u64, Motion)>,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct KnownWorld {
    entities: BTreeMap<EntityId, Stored>,
    chunks: BTreeMap<ChunkKey, BTreeSet<EntityId>>,
    in_mind: BTreeMap<ChunkKey, BTreeMap<EntityId, Stored>>,
    /// By number; the shard gives out the lowest that are free.
    slots: Vec<Slot>,
    history: History,
    /// The player's own state in the newest packet that had one.
    own: Option<(u64, OwnPose)>,
    pub(super) acks: Option<Acks>,
    pub(super) newest_tick: u64,
    /// States that named one which the client did not have.
    pub(super) undecodable: u64,
    /// How others are drawn, by who draws.
    pub(super) playback: Option<Playback>,
}

impl KnownWorld {
    /// Nothing is known yet; it is about `tick`.
    pub(super) fn at(tick: u64) -> Self {
        KnownWorld { newest_tick: tick, ..KnownWorld::default() }
    }

    /// An entity in view. `ground`: the land; `player`: whose own pose packets hold.
    pub(super) fn entity(&self, id: EntityId, ground: &Terrain, player: EntityId) -> Option<KnownEntity<'_>> {
        self.entities.get(&id).map(|stored| self.known(id, stored, ground, player))
    }

    /// Everything in view, in rising order of id.
    pub(super) fn entities(
        &self,
        ground: Terrain,
        player: EntityId,
    ) -> impl Iterator<Item = (EntityId, KnownEntity<'_>)> {
        self.entities.iter().map(move |(id, stored)| (*id, self.known(*id, stored, &ground, player)))
    }

    fn known<'a>(&'a self, id: EntityId, stored: &'a Stored, ground: &Terrain, player: EntityId) -> KnownEntity<'a> {
        let told = stored.components.get(&Pose::TAG).map_or(0, |(tick, _)| *tick);
        let moved = if id == player {
            self.own.filter(|(tick, _)| *tick >= told).map(|(_, own)| own_pose(own, ground))
        } else {
            let slot = stored.slot.and_then(|slot| self.slots.get(usize::from(slot)));
            let slot = slot.filter(|slot| slot.holder.is_some_and(|(holder, _)| holder == id));
            let newest = slot.and_then(|slot| slot.newest.filter(|(at, _)| *at >= slot.since()));
            newest.filter(|(at, _)| *at >= told).map(|(_, motion)| pose_of(motion, ground))
        };
        KnownEntity { stored, moved }
    }

    /// Takes one view.
    pub(super) fn take_view(&mut self, view: &View<'_>) {
        self.newest_tick = self.newest_tick.max(view.tick);
        for operation in &view.operations {
            self.take_operation(view.tick, operation);
        }
    }

    fn take_operation(&mut self, tick: u64, operation: &Operation<'_>) {
        match operation {
            Operation::Introduce { id, place, components, .. } => {
                let entity = self.entities.entry(*id).or_default();
                entity.take_all(tick, components);
                match place {
                    Place::Chunk(key) => {
                        entity.chunk = Some(*key);
                        self.chunks.entry(*key).or_default().insert(*id);
                    }
                    Place::Slot(slot) => {
                        entity.slot = Some(*slot);
                        slot_of(&mut self.slots, *slot).holder = Some((*id, tick));
                    }
                    Place::Own => {}
                }
            }
            Operation::Change { id, components } => {
                // A change of something unknown is of something that left meanwhile.
                if let Some(entity) = self.entities.get_mut(id) {
                    entity.take_all(tick, components);
                }
            }
            Operation::Despawn(id) | Operation::Leave(id) => self.remove(*id),
            Operation::LeaveChunk(key) => {
                let members = self.chunks.remove(key).unwrap_or_default();
                let kept = members.into_iter().filter_map(|id| Some((id, self.entities.remove(&id)?)));
                let kept = kept.collect();
                if self.in_mind.len() < CHUNKS_IN_MIND_MAX + 1 {
                    self.in_mind.insert(*key, kept);
                }
            }
            Operation::RecallChunk(key) => {
                let members = self.in_mind.remove(key).unwrap_or_default();
                self.chunks.insert(*key, members.keys().copied().collect());
                self.entities.extend(members);
            }
            Operation::ForgetChunk(key) => drop(self.in_mind.remove(key)),
        }
    }

    /// Notes that a motion packet came, to be acknowledged. Gives its tick.
    pub(super) fn note_packet(&mut self, head: &MotionHead) -> u64 {
        let tick = widen(head.tick, self.newest_tick);
        self.newest_tick = self.newest_tick.max(tick);
        match &mut self.acks {
            Some(acks) => acks.add(head.number),
            None => self.acks = Some(Acks::first(head.number)),
        }
        tick
    }

    /// Takes one motion packet, which came at `now`.
    pub(super) fn take_motion(
        &mut self,
        now: Duration,
        ground: &Terrain,
        head: &MotionHead,
        updates: &[(u16, Update)],
    ) {
        let tick = self.note_packet(head);
        if let Some(playback) = &mut self.playback {
            playback.arrived(now, tick);
        }
        if let Some(own) = head.own
            && self.own.is_none_or(|(known, _)| known <= tick)
        {
            self.own = Some((tick, own));
        }
        if head.number.is_multiple_of(SWEEP_PACKETS) {
            self.sweep();
        }
        let KnownWorld { slots, history, undecodable, playback, entities, .. } = self;
        history.take(tick, updates, |number, state| match state {
            Some(motion) => {
                let slot = slot_of(slots, number);
                if let Some(playback) = playback
                    && let Some((holder, _)) =
                        slot.holder.filter(|(id, since)| *since <= tick && entities.contains_key(id))
                {
                    playback.moved(holder, tick, pose_of(motion, ground));
                }
                if slot.newest.is_none_or(|(known, _)| known <= tick) {
                    slot.newest = Some((tick, motion));
                }
            }
            None => *undecodable += 1,
        });
    }

    /// Forgets the slots that nobody has any more, now and then.
    fn sweep(&mut self) {
        let oldest = self.newest_tick.saturating_sub(u64::from(HISTORY_TICKS));
        for slot in &mut self.slots {
            let is_held = slot.holder.is_some_and(|(id, _)| self.entities.contains_key(&id));
            if !is_held && slot.newest.is_none_or(|(tick, _)| tick < oldest) {
                *slot = Slot::default();
            }
        }
    }

    fn remove(&mut self, id: EntityId) {
        if let Some(playback) = &mut self.playback {
            playback.left(id);
        }
        if let Some(entity) = self.entities.remove(&id)
            && let Some(members) = entity.chunk.and_then(|key| self.chunks.get_mut(&key))
        {
            members.remove(&id);
        }
    }
}

impl Slot {
    /// From which tick on its states are the holder's.
    fn since(&self) -> u64 {
        self.holder.map_or(0, |(_, since)| since)
    }
}

fn slot_of(slots: &mut Vec<Slot>, number: u16) -> &mut Slot {
    let number = usize::from(number);
    if number >= slots.len() {
        slots.resize(number + 1, Slot::default());
    }
    &mut slots[number]
}

/// Where a packet has the own player.
pub(super) fn own_pose(own: OwnPose, ground: &Terrain) -> Pose {
    let y = own.y.unwrap_or_else(|| ground.height(own.x, own.z));
    Pose { position: Position { x: own.x, y, z: own.z }, yaw: own.yaw }
}

fn pose_of(motion: Motion, ground: &Terrain) -> Pose {
    Pose { position: motion.position(|x, z| ground.height(x, z)), yaw: motion.look() }
}
