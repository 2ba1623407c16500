//! Who moves, for all clients: a slot for each mover, its quantised states of the last ticks, and their differences, each encoded
//! once however many clients get it.

use std::collections::VecDeque;
use vsekai_schema::bits::Packed;
use vsekai_schema::id::EntityId;
use vsekai_schema::units::ChunkKey;
use vsekai_schema::wire::motion::{BASE_AGE_MAX, HISTORY_TICKS, Motion};
use vsekai_sim::port::{KeyMap, TickOutput, WorldView};
use xxhash_rust::xxh3::xxh3_64;

/// A slot is not given again for so long: by then no packet on the way and no client speaks of its last holder.
const QUARANTINE_TICKS: u32 = 2 * HISTORY_TICKS;
/// Most slots: their numbers have 16 bits.
const SLOTS_MAX: usize = 1 << 16;
/// So many ticks' states are remembered to encode against; clients that lag differently, or have little room, want others.
const BASES_MAX: usize = 48;
/// A difference has at most so many bits; its length stands above them in its word.
const DIFFERENCE_BITS: u32 = 56;
/// Only the whole state says it.
const NO_DIFFERENCE: u64 = u64::MAX;

/// A difference: its bits, and how many they are.
pub(super) type Difference = (u64, u32);

/// One mover, or nobody.
#[derive(Debug, Default)]
struct Slot {
    id: EntityId,
    /// In the world in this tick.
    present: bool,
    /// The tick in which it was last in the world.
    seen: u32,
    /// Since when it has the slot.
    since: u32,
    /// Each state with the tick from which on it holds; the last is the newest.
    states: VecDeque<(u32, Motion)>,
    /// The newest state, whole.
    absolute: Packed,
}

/// The newest states against those of one tick, encoded when the first client wants them: a word per slot, 0 while it was not
/// wanted, [`NO_DIFFERENCE`], or the bits with their length above them.
#[derive(Debug, Default)]
struct Base {
    tick: u32,
    words: Vec<u64>,
}

/// Who moves about in one chunk.
#[derive(Debug, Default)]
pub(super) struct Lively {
    /// Sum of a hash of each mover: equal sums mean equal movers, as surely as 64 bits can.
    pub(super) membership: u64,
    pub(super) slots: Vec<u16>,
}

/// The movers.
#[derive(Debug, Default)]
pub(super) struct Movers {
    slots: Vec<Slot>,
    by_id: KeyMap<EntityId, u16>,
    free: VecDeque<(u32, u16)>,
    lively: KeyMap<ChunkKey, Lively>,
    /// Per slot, for what every client looks at in every tick: place, and the tick of the last change.
    places: Vec<(i32, i32)>,
    changed_at: Vec<u32>,
    /// Of this tick: the first `bases_used`. The others keep their room.
    bases: Vec<Base>,
    bases_used: usize,
    warned: bool,
}

impl Movers {
    /// Takes in who moves in tick `now`, and where.
    pub(super) fn begin_tick(&mut self, view: &WorldView<'_>, output: &TickOutput, now: u32) {
        self.lively.clear();
        self.bases_used = 0;
        for key in view.lively_chunks() {
            let lively = self.lively.entry(key).or_default();
            for id in view.movers(key) {
                let known = self.by_id.get(&id).copied();
                let Some(number) = known.or_else(|| take_slot(&mut self.slots, &mut self.free, now)) else {
                    if !std::mem::replace(&mut self.warned, true) {
                        tracing::warn!("more than {SLOTS_MAX} movers: some are shown to nobody");
                    }
                    continue;
                };
                let at = usize::from(number);
                if known.is_none() {
                    self.by_id.insert(id, number);
                    self.places.resize(self.slots.len(), (0, 0));
                    self.changed_at.resize(self.slots.len(), 0);
                    self.slots[at] = Slot { id, since: now, ..Slot::default() };
                }
                let slot = &mut self.slots[at];
                // One that comes back while it still has its slot may have been elsewhere.
                if known.is_none() || !slot.present {
                    slot.present = true;
                    slot.note(view.motion(id).unwrap_or_default(), now, &mut self.places[at], &mut self.changed_at[at]);
                }
                slot.seen = now;
                lively.slots.push(number);
                lively.membership = lively.membership.wrapping_add(xxh3_64(&id.0.to_le_bytes()));
            }
        }
        for event in &output.events {
            let Some(number) = self.by_id.get(&event.id).copied() else { continue };
            let at = usize::from(number);
            if !event.gone
                && view.audience(event.changed).fast
                && let Some(motion) = view.motion(event.id)
            {
                self.slots[at].note(motion, now, &mut self.places[at], &mut self.changed_at[at]);
            }
        }
        for (number, slot) in self.slots.iter_mut().enumerate() {
            if slot.present && slot.seen != now {
                slot.present = false;
                self.by_id.remove(&slot.id);
                self.free.push_back((now, number as u16));
            }
        }
    }

    /// Visits the lively chunks up to `radius` columns from `centre`, in no particular order.
    pub(super) fn each_lively(&self, centre: ChunkKey, radius: i32, mut visit: impl FnMut(&Lively)) {
        let side = 2 * radius as usize + 1;
        if side.saturating_mul(side) < self.lively.len() {
            centre.around(radius).filter_map(|key| self.lively.get(&key)).for_each(visit);
            return;
        }
        for (key, lively) in &self.lively {
            if key.x.abs_diff(centre.x) <= radius as u32 && key.z.abs_diff(centre.z) <= radius as u32 {
                visit(lively);
            }
        }
    }

    /// The slot of a mover that is in the world.
    pub(super) fn slot(&self, id: EntityId) -> Option<u16> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn id(&self, slot: u16) -> EntityId {
        self.slots[usize::from(slot)].id
    }

    pub(super) fn is_present(&self, slot: u16) -> bool {
        self.slots[usize::from(slot)].present
    }

    /// Since which tick its holder has the slot.
    pub(super) fn since(&self, slot: u16) -> u32 {
        self.slots[usize::from(slot)].since
    }

    /// Where it is, in quanta.
    pub(super) fn place(&self, slot: u16) -> (i32, i32) {
        self.places[usize::from(slot)]
    }

    /// The tick of its last change.
    pub(super) fn changed_at(&self, slot: u16) -> u32 {
        self.changed_at[usize::from(slot)]
    }

    /// The newest state, whole.
    pub(super) fn absolute(&self, slot: u16) -> Packed {
        self.slots[usize::from(slot)].absolute
    }

    /// Where the differences from the states of tick `tick` are, for [`Movers::difference`]; `None` when that is too long ago.
    pub(super) fn base(&mut self, tick: u32, now: u32) -> Option<usize> {
        if tick == 0 || now - tick > BASE_AGE_MAX {
            return None;
        }
        let used = &self.bases[..self.bases_used];
        if let Some(number) = used.iter().position(|base| base.tick == tick) {
            return Some(number);
        }
        // When there are too many, the last one makes room.
        let number = self.bases_used.min(BASES_MAX - 1);
        if self.bases.len() == number {
            self.bases.push(Base::default());
        }
        let base = &mut self.bases[number];
        base.tick = tick;
        base.words.clear();
        base.words.resize(self.slots.len(), 0);
        self.bases_used = number + 1;
        Some(number)
    }

    /// The newest state against that of the tick that [`Movers::base`] was asked for last with this number; `None` when only the
    /// whole state says it.
    #[inline]
    pub(super) fn difference(&mut self, base: usize, slot: u16) -> Option<Difference> {
        let base = &mut self.bases[base];
        let word = &mut base.words[usize::from(slot)];
        if *word == 0 {
            *word = self.slots[usize::from(slot)].difference(base.tick);
        }
        (*word != NO_DIFFERENCE).then_some((*word & ((1 << DIFFERENCE_BITS) - 1), (*word >> DIFFERENCE_BITS) as u32))
    }
}

impl Slot {
    fn note(&mut self, motion: Motion, now: u32, place: &mut (i32, i32), changed_at: &mut u32) {
        *place = (motion.x, motion.z);
        let newest = self.states.back().copied();
        if newest.is_some_and(|(_, newest)| newest == motion) && *changed_at >= self.since {
            return;
        }
        *changed_at = now;
        if newest.is_some_and(|(tick, _)| tick == now) {
            self.states.pop_back();
        }
        self.states.push_back((now, motion));
        // The state that held at the oldest tick that can be named stays.
        let oldest = now.saturating_sub(BASE_AGE_MAX);
        while self.states.get(1).is_some_and(|(tick, _)| *tick <= oldest) {
            self.states.pop_front();
        }
        self.absolute = motion.absolute();
    }

    /// The newest state against that of tick `base`, as a [`Base`] has it.
    fn difference(&self, base: u32) -> u64 {
        if base < self.since {
            return NO_DIFFERENCE;
        }
        let packed = self.state_at(base).and_then(|state| self.newest().since(state));
        let word = packed.and_then(|packed| Some((packed.word()?, packed.len())));
        match word {
            Some((word, len)) if len <= DIFFERENCE_BITS => word | u64::from(len) << DIFFERENCE_BITS,
            _ => NO_DIFFERENCE,
        }
    }

    fn newest(&self) -> Motion {
        self.states.back().map(|(_, motion)| *motion).unwrap_or_default()
    }

    fn state_at(&self, tick: u32) -> Option<Motion> {
        self.states.iter().rev().find(|(from, _)| *from <= tick).map(|(_, motion)| *motion)
    }
}

fn take_slot(slots: &mut Vec<Slot>, free: &mut VecDeque<(u32, u16)>, now: u32) -> Option<u16> {
    if let Some((_, number)) = free.pop_front_if(|(since, _)| *since + QUARANTINE_TICKS < now) {
        return Some(number);
    }
    let number = u16::try_from(slots.len()).ok()?;
    slots.push(Slot::default());
    Some(number)
}
