//! The world as one client knows it, put together from views (reliable) and motion packets (unreliable).
//!
//! Invariants: a value is never replaced by an older tick's; what has left comes back by a view only; bounded by what the
//! shard says is in view, and by [`CHUNKS_IN_MIND_MAX`] chunks that left it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use vsekai_schema::id::{EntityId, Tag};
use vsekai_schema::units::{ChunkKey, Position};
use vsekai_schema::wire::motion::{Acks, HISTORY_TICKS, Motion, MotionHead, Update, widen};
use vsekai_schema::wire::view::{CHUNKS_IN_MIND_MAX, Operation, Place, View};
use vsekai_sim::port::{Declared, Pose, Terrain};

/// States kept of one slot.
const STATES_MAX: usize = 128;
/// Slots are looked through after so many packets.
const SWEEP_PACKETS: u16 = 1_024;

/// One entity as the client knows it: wire bytes by tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownEntity {
    components: BTreeMap<u16, (u64, Vec<u8>)>,
    chunk: Option<ChunkKey>,
}

impl KnownEntity {
    /// A component, decoded. `None` when it has none, or it cannot be read.
    pub fn get<C: Declared>(&self) -> Option<C> {
        C::read_wire(&self.components.get(&C::TAG)?.1).ok()
    }

    /// The wire bytes of a component.
    pub fn bytes(&self, tag: Tag) -> Option<&[u8]> {
        self.components.get(&tag.0).map(|(_, bytes)| &bytes[..])
    }

    /// The chunk that it stands in; `None` for what moves.
    pub fn chunk(&self) -> Option<ChunkKey> {
        self.chunk
    }

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

    fn take_pose(&mut self, tick: u64, pose: Pose) {
        let mut bytes = Vec::with_capacity(16);
        pose.write_wire(&mut bytes);
        self.take(tick, Tag(Pose::TAG), &bytes);
    }
}

/// What packets say of one slot.
#[derive(Debug, Default)]
struct Slot {
    /// Who has it, and since which tick.
    holder: Option<(EntityId, u64)>,
    /// States by tick, in rising order.
    states: VecDeque<(u64, Motion)>,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct KnownWorld {
    pub(super) entities: BTreeMap<EntityId, KnownEntity>,
    chunks: BTreeMap<ChunkKey, BTreeSet<EntityId>>,
    in_mind: BTreeMap<ChunkKey, BTreeMap<EntityId, KnownEntity>>,
    slots: BTreeMap<u16, Slot>,
    pub(super) acks: Option<Acks>,
    pub(super) newest_tick: u64,
    /// States that named one which the client did not have.
    pub(super) undecodable: u64,
}

impl KnownWorld {
    /// Nothing is known yet; it is about `tick`.
    pub(super) fn at(tick: u64) -> Self {
        KnownWorld { newest_tick: tick, ..KnownWorld::default() }
    }

    /// Takes one view. `ground`: the land.
    pub(super) fn take_view(&mut self, view: &View<'_>, ground: &Terrain) {
        self.newest_tick = self.newest_tick.max(view.tick);
        for operation in &view.operations {
            self.take_operation(view.tick, operation, ground);
        }
    }

    fn take_operation(&mut self, tick: u64, operation: &Operation<'_>, ground: &Terrain) {
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
                        let slot = self.slots.entry(*slot).or_default();
                        slot.holder = Some((*id, tick));
                        // Packets may have been faster.
                        if let Some((at, motion)) = slot.states.back().filter(|(at, _)| *at >= tick) {
                            entity.take_pose(*at, pose_of(*motion, ground));
                        }
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

    /// Takes one motion packet. `ground`: the land; `player`: whose own pose the packet may hold.
    pub(super) fn take_motion(
        &mut self,
        head: &MotionHead,
        updates: &[(u16, Update)],
        ground: &Terrain,
        player: EntityId,
    ) {
        let tick = self.note_packet(head);
        if let Some(own) = head.own
            && let Some(entity) = self.entities.get_mut(&player)
        {
            let y = own.y.unwrap_or_else(|| ground.height(own.x, own.z));
            entity.take_pose(tick, Pose { position: Position { x: own.x, y, z: own.z }, yaw: own.yaw });
        }
        if head.number.is_multiple_of(SWEEP_PACKETS) {
            self.sweep();
        }
        for (number, update) in updates {
            let slot = self.slots.entry(*number).or_default();
            let Some(motion) = slot.resolve(tick, *update) else {
                self.undecodable += 1;
                continue;
            };
            let is_newest = slot.note(tick, motion);
            if let Some((id, since)) = slot.holder
                && is_newest
                && since <= tick
                && let Some(entity) = self.entities.get_mut(&id)
            {
                entity.take_pose(tick, pose_of(motion, ground));
            }
        }
    }

    /// Forgets the slots that nobody has any more, now and then.
    fn sweep(&mut self) {
        let oldest = self.newest_tick.saturating_sub(u64::from(HISTORY_TICKS));
        let entities = &self.entities;
        self.slots.retain(|_, slot| {
            slot.holder.is_some_and(|(id, _)| entities.contains_key(&id))
                || slot.states.back().is_some_and(|(tick, _)| *tick >= oldest)
        });
    }

    fn remove(&mut self, id: EntityId) {
        if let Some(entity) = self.entities.remove(&id)
            && let Some(members) = entity.chunk.and_then(|key| self.chunks.get_mut(&key))
        {
            members.remove(&id);
        }
    }
}

impl Slot {
    /// The state that `update` in a packet of `tick` stands for; `None` when it names one that never came.
    fn resolve(&self, tick: u64, update: Update) -> Option<Motion> {
        match update {
            Update::Absolute(motion) => Some(motion),
            Update::Since { age, step } => {
                let base = tick.checked_sub(u64::from(age))?;
                let (_, motion) = self.states.iter().rev().find(|(at, _)| *at == base)?;
                Some(step.from(*motion))
            }
        }
    }

    /// Keeps a state; true when it is the newest.
    fn note(&mut self, tick: u64, motion: Motion) -> bool {
        // Nearly always it is the newest.
        let is_newest = self.states.back().is_none_or(|(known, _)| *known < tick);
        let at = if is_newest { self.states.len() } else { self.states.partition_point(|(known, _)| *known < tick) };
        if self.states.get(at).is_some_and(|(known, _)| *known == tick) {
            self.states[at].1 = motion;
        } else {
            self.states.insert(at, (tick, motion));
        }
        let oldest = self.states.back().map_or(0, |(newest, _)| newest.saturating_sub(u64::from(HISTORY_TICKS)));
        while self.states.len() > STATES_MAX || self.states.front().is_some_and(|(known, _)| *known < oldest) {
            self.states.pop_front();
        }
        self.states.back().is_some_and(|(newest, _)| *newest == tick)
    }
}

fn pose_of(motion: Motion, ground: &Terrain) -> Pose {
    Pose { position: motion.position(|x, z| ground.height(x, z)), yaw: motion.look() }
}
