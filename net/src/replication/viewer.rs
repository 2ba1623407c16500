//! What one client knows, and what it is told next.

use super::chunks::Chunks;
use super::movers::Movers;
use super::rate::Rate;
use super::{Counts, Delivery, ReplicationConfig};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use vsekai_schema::id::EntityId;
use vsekai_schema::record::Home;
use vsekai_schema::units::ChunkKey;
use vsekai_schema::wire::motion::{Acks, MotionHead, MotionWriter, OwnPose, QUANTUM_MM};
use vsekai_schema::wire::view::{CHUNKS_IN_MIND_MAX, ComponentsWriter, Entrance, ViewWriter};
use vsekai_schema::wire::{MOTION_BYTES_MAX, RELIABLE_BYTES_MAX, ServerMessage, encode};
use vsekai_sim::port::{TickOutput, Wanted, WorldView};

/// Packets that wait for their acknowledgement; older ones count as lost.
const IN_FLIGHT_MAX: usize = 128;
/// So many emptied lists are kept.
const SPARE_MAX: usize = 4;
/// A packet that so many later ones have overtaken is lost.
const OVERTAKEN_MAX: u16 = 8;
/// So many of the nearest movers are in every packet.
const NEAREST: u32 = 8;
/// Who comes and goes is looked at so often, in milliseconds, even when nobody changed chunks.
const MEET_MS: u32 = 200;
/// When the budget does not reach for all, it is measured so often how far away they are, in milliseconds; the nearer ones each time.
const MEASURE_MS: u32 = 200;
/// Nobody in view is told of more seldom than this, in milliseconds, however small the budget: half of what players notice.
const STALE_MS: u32 = 500;
/// A packet with nothing in it goes out this often, in milliseconds.
const IDLE_MS: u32 = 250;
/// A mover leaves the view this many times further away than it enters it, in hundredths.
const LEAVE_PERCENT: i64 = 120;
/// How fast the score of the nearest grows.
const NEAR_WEIGHT: u8 = 16;
/// What one entity of a packet takes, bits, before that was measured.
const ENTITY_BITS: f64 = 24.0;
/// And at most, bytes: gap, base and the whole state.
const ENTITY_BYTES_MAX: usize = 16;
/// The estimate of how many entities fit a budget is so much too careful, in hundredths: who is left out at the end of a packet
/// has a high slot, and is not the one that matters least.
const CARE_PERCENT: f64 = 103.0;

/// What one client was told.
#[derive(Debug)]
pub struct Viewer {
    player: EntityId,
    introduced: bool,
    centre: Option<ChunkKey>,
    /// Chunks that the client has in view.
    chunks: BTreeSet<ChunkKey>,
    /// Chunks that are to come, the nearest last.
    coming: Vec<ChunkKey>,
    /// Chunks that the client keeps in mind, with the tick in which it last saw them.
    in_mind: BTreeMap<ChunkKey, u64>,
    bulk_tokens: f64,
    /// Movers that the client knows, in rising order of slot.
    known: Vec<Known>,
    /// Bit per slot: is it in `known`?
    known_slots: Vec<u64>,
    membership: u64,
    meet_at: u32,
    measure_at: u32,
    /// Who was so near, or nearer, may soon be among the nearest: they are measured each time.
    watched: u8,
    next_number: u16,
    in_flight: VecDeque<Sent>,
    newest_ack: Option<u16>,
    own_known: Option<(u16, OwnPose)>,
    rate: Rate,
    entity_bits: f64,
    sent_at: u32,
    sent_input: u32,
    /// Of the update under way.
    now: u32,
    view: ViewWriter,
    /// Emptied lists of packets that arrived, for the next ones.
    spare: Vec<Vec<u16>>,
}

/// A mover that the client knows.
#[derive(Debug, Clone, Copy)]
struct Known {
    slot: u16,
    /// How far away it was when that was measured last, see [`distance_class`].
    distance: u8,
    /// How fast its score grows, for that distance.
    weight: u8,
    /// The client has its state of this tick; 0 = none.
    acked: u32,
    /// It was last in a packet in this tick; 0 = never.
    sent: u32,
}

/// A packet on its way.
#[derive(Debug)]
struct Sent {
    number: u16,
    tick: u32,
    own: Option<OwnPose>,
    slots: Vec<u16>,
}

/// A mover that the next packet may be about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Index in `known`.
    at: u32,
    score: u8,
    distance: u8,
    /// It is told of even when the budget turns out too small.
    certain: bool,
}

/// What all clients share in one tick.
pub(super) struct Shared<'a, 'w> {
    pub(super) config: &'a ReplicationConfig,
    pub(super) view: &'a WorldView<'w>,
    pub(super) output: &'a TickOutput,
    /// The tick, counted from the start of the process.
    pub(super) now: u32,
    pub(super) movers: &'a mut Movers,
    pub(super) chunks: &'a mut Chunks,
    pub(super) counts: &'a mut Counts,
    /// Of the packet being made.
    pub(super) candidates: &'a mut Vec<Candidate>,
}

impl Viewer {
    /// A client that knows nothing yet.
    pub fn new(player: EntityId, config: &ReplicationConfig) -> Self {
        Viewer {
            player,
            introduced: false,
            centre: None,
            chunks: BTreeSet::new(),
            coming: Vec::new(),
            in_mind: BTreeMap::new(),
            bulk_tokens: 0.0,
            known: Vec::new(),
            known_slots: Vec::new(),
            membership: 0,
            meet_at: 0,
            measure_at: 0,
            watched: u8::MAX,
            next_number: 0,
            in_flight: VecDeque::new(),
            newest_ack: None,
            own_known: None,
            rate: Rate::new(f64::from(config.motion_kbit_s) * 125.0, config.tick_hz),
            entity_bits: ENTITY_BITS,
            sent_at: 0,
            sent_input: 0,
            now: 0,
            view: ViewWriter::default(),
            spare: Vec::new(),
        }
    }

    /// How many movers it knows.
    pub fn known_count(&self) -> usize {
        self.known.len()
    }

    /// Bytes of motion a second that it may get now.
    pub fn budget_bytes_per_s(&self) -> f64 {
        self.rate.bytes_per_s()
    }

    /// The client has these packets. Numbers that were never sent are ignored.
    pub(super) fn acknowledge(&mut self, acks: Acks, now: u32) {
        // Only what was sent can have arrived, and only what is newer says anything new.
        let ahead = self.next_number.wrapping_sub(acks.newest);
        if ahead == 0 || ahead > IN_FLIGHT_MAX as u16 * 2 {
            return;
        }
        let is_newer = self.newest_ack.is_none_or(|newest| acks.newest.wrapping_sub(newest) < 1 << 15);
        if is_newer {
            self.newest_ack = Some(acks.newest);
        }
        let mut at = 0;
        while at < self.in_flight.len() {
            let number = self.in_flight[at].number;
            if acks.has(number) {
                let Some(sent) = self.in_flight.remove(at) else { break };
                self.rate.arrived(now.saturating_sub(sent.tick));
                if let Some(own) = sent.own
                    && self.own_known.is_none_or(|(known, _)| number.wrapping_sub(known) < 1 << 15)
                {
                    self.own_known = Some((number, own));
                }
                note_arrived(&mut self.known, &sent);
                if self.spare.len() < SPARE_MAX {
                    self.spare.push(sent.slots);
                }
            } else if acks.newest.wrapping_sub(number).wrapping_sub(OVERTAKEN_MAX) < 1 << 14 {
                self.rate.lost();
                self.in_flight.remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Tells the client what this tick changed for it, message by message.
    pub(super) fn update(
        &mut self,
        shared: &mut Shared<'_, '_>,
        newest_input: u32,
        send: &mut dyn FnMut(Delivery, Vec<u8>),
    ) {
        let tick = shared.output.frame;
        self.now = shared.now;
        self.tell_changes(shared, send);
        if !self.introduced {
            self.introduced = true;
            let mut components = ComponentsWriter::default();
            shared.view.write(self.player, Wanted::OWN, &mut components);
            self.view.own(self.player, &components);
        }
        self.follow_player(shared);
        self.stream_chunks(shared, tick, send);
        // Clients take turns, so that no tick has to serve all.
        let due = (tick + self.player.0).is_multiple_of(shared.config.snapshot_interval_ticks);
        if due {
            self.meet(shared, send);
        }
        self.flush(tick, send);
        if due {
            self.rate.adapt(shared.now);
            self.tell_motion(shared, newest_input, send);
        }
    }

    fn tell_changes(&mut self, shared: &mut Shared<'_, '_>, send: &mut dyn FnMut(Delivery, Vec<u8>)) {
        let tick = shared.output.frame;
        for told in shared.chunks.told() {
            let own = told.id == self.player;
            let seen = own
                || match told.home {
                    Home::Chunk(key) => self.chunks.contains(&key),
                    Home::Alone => shared.movers.slot(told.id).is_some_and(|slot| self.knows(slot)),
                };
            if !seen || (own && !self.introduced) {
                continue;
            }
            // A mover that is gone leaves with the others, by its slot.
            if !(told.gone && told.home == Home::Alone) {
                self.view.append(&told.operations);
                self.flush_if_full(tick, send);
            }
            let mut belongings = ComponentsWriter::default();
            let wanted = Wanted { mask: told.changed, owner: true, nearby: false, fast: false };
            if own && !told.gone && shared.view.write(told.id, wanted, &mut belongings) {
                let mut view = ViewWriter::default();
                view.change(told.id, &belongings);
                let message = encode(&ServerMessage::View(view.finish(tick)));
                self.rate.spend_views(message.len(), self.now);
                send(Delivery::WhenDurable, message);
            }
        }
    }

    /// The area of interest moves with the player. A chunk leaves it one column later than it came in, so that walking along a
    /// border costs nothing.
    fn follow_player(&mut self, shared: &mut Shared<'_, '_>) {
        let Some(centre) = shared.view.position(self.player).map(|position| position.chunk()) else { return };
        if self.centre == Some(centre) {
            return;
        }
        self.centre = Some(centre);
        let radius = shared.config.view_radius_chunks;
        let far = |key: &ChunkKey| distance(*key, centre);
        let left: Vec<ChunkKey> = self.chunks.iter().filter(|key| far(key) > radius + 1).copied().collect();
        for key in left {
            self.chunks.remove(&key);
            self.view.leave_chunk(key);
            self.in_mind.insert(key, shared.output.frame);
            if self.in_mind.len() > CHUNKS_IN_MIND_MAX {
                // The one not seen for longest.
                let oldest = self.in_mind.iter().min_by_key(|(_, seen)| **seen).map(|(key, _)| *key);
                if let Some(oldest) = oldest {
                    self.in_mind.remove(&oldest);
                    self.view.forget_chunk(oldest);
                }
            }
        }
        self.coming = centre.around(radius).filter(|key| !self.chunks.contains(key)).collect();
        // What one stands before must not wait for the horizon.
        self.coming.sort_by_key(|key| std::cmp::Reverse(far(key)));
    }

    /// Brings chunks into view, nearest first, as fast as the bulk rate allows. A chunk that did not change since the
    /// client saw it is recalled.
    fn stream_chunks(&mut self, shared: &mut Shared<'_, '_>, tick: u64, send: &mut dyn FnMut(Delivery, Vec<u8>)) {
        let per_tick = f64::from(shared.config.bulk_kbit_s) * 125.0 / f64::from(shared.config.tick_hz.max(1));
        self.bulk_tokens = (self.bulk_tokens + per_tick).min(per_tick * 4.0);
        while self.bulk_tokens > 0.0
            && let Some(key) = self.coming.pop()
        {
            self.chunks.insert(key);
            if let Some(seen) = self.in_mind.remove(&key) {
                if shared.chunks.changed_at(key) <= seen {
                    self.view.recall_chunk(key);
                    continue;
                }
                self.view.forget_chunk(key);
            }
            for piece in shared.chunks.content(shared.view, key).iter() {
                self.bulk_tokens -= piece.len() as f64;
                shared.counts.bulk_bytes += piece.len() as u64;
                if self.view.len() + piece.len() > RELIABLE_BYTES_MAX - 64 {
                    self.flush(tick, send);
                }
                self.view.append(piece);
            }
        }
    }

    /// Movers that came near, and those that went away or left the world.
    fn meet(&mut self, shared: &mut Shared<'_, '_>, send: &mut dyn FnMut(Delivery, Vec<u8>)) {
        let Some(centre) = self.centre else { return };
        let enter_mm = i64::from(shared.config.interest_mm);
        let columns = (enter_mm * LEAVE_PERCENT / 100 / i64::from(vsekai_schema::units::CHUNK_MM)) as i32 + 1;
        let mut membership = 0u64;
        shared.movers.each_lively(centre, columns, |lively| membership = membership.wrapping_add(lively.membership));
        if membership == self.membership && shared.now < self.meet_at {
            return;
        }
        self.membership = membership;
        self.meet_at = shared.now + ticks(MEET_MS, shared.config);
        let Some(here) = shared.movers.slot(self.player).map(|slot| shared.movers.place(slot)) else { return };
        let quanta = |mm: i64| mm / i64::from(QUANTUM_MM);
        let within = |slot: u16, mm: i64, movers: &Movers| squared(here, movers.place(slot)) <= quanta(mm) * quanta(mm);
        // Who went.
        let (view, known_slots, movers) = (&mut self.view, &mut self.known_slots, &*shared.movers);
        self.known.retain(|known| {
            let stays = movers.is_present(known.slot) && within(known.slot, enter_mm * LEAVE_PERCENT / 100, movers);
            if !stays {
                let id = movers.id(known.slot);
                if movers.is_present(known.slot) {
                    view.leave(id)
                } else {
                    view.despawn(id)
                }
                set(known_slots, known.slot, false);
            }
            stays
        });
        // Who came, nearest first; each takes its part of the bulk rate.
        let own = shared.movers.slot(self.player);
        let mut fresh: Vec<(i64, u16)> = Vec::new();
        shared.movers.each_lively(centre, columns, |lively| {
            for slot in &lively.slots {
                if Some(*slot) != own && !self.knows(*slot) && within(*slot, enter_mm, shared.movers) {
                    fresh.push((squared(here, shared.movers.place(*slot)), *slot));
                }
            }
        });
        if fresh.is_empty() {
            return;
        }
        fresh.sort_unstable();
        let mut components = ComponentsWriter::default();
        for (_, slot) in fresh {
            if self.bulk_tokens <= 0.0 {
                // The others at the next look.
                self.meet_at = shared.now;
                break;
            }
            let id = shared.movers.id(slot);
            let is_new = shared.movers.since(slot) + ticks(MEET_MS, shared.config) > shared.now;
            shared.view.write(id, Wanted::ENTERING, &mut components);
            let before = self.view.len();
            self.view.mover(if is_new { Entrance::Spawn } else { Entrance::Enter }, id, slot, &components);
            self.bulk_tokens -= (self.view.len() - before) as f64;
            set(&mut self.known_slots, slot, true);
            self.known.push(Known { slot, distance: 0, weight: NEAR_WEIGHT, acked: 0, sent: 0 });
            self.measure_at = 0;
            self.flush_if_full(shared.output.frame, send);
        }
        self.known.sort_unstable_by_key(|known| known.slot);
    }

    fn tell_motion(&mut self, shared: &mut Shared<'_, '_>, newest_input: u32, send: &mut dyn FnMut(Delivery, Vec<u8>)) {
        let interval = shared.config.snapshot_interval_ticks as u32;
        let budget = self.rate.earn(interval, shared.now);
        let own =
            shared.view.own_pose(self.player).filter(|pose| self.own_known.is_none_or(|(_, known)| known != *pose));
        self.choose(shared, budget);
        let idle = shared.candidates.is_empty() && own.is_none() && newest_input == self.sent_input;
        if idle && shared.now < self.sent_at + ticks(IDLE_MS, shared.config) {
            return;
        }
        self.sent_at = shared.now;
        self.sent_input = newest_input;
        let mut candidates = std::mem::take(shared.candidates);
        let gap = match (candidates.first(), candidates.last()) {
            (Some(first), Some(last)) => {
                let span = self.known[last.at as usize].slot - self.known[first.at as usize].slot;
                usize::from(span) / candidates.len()
            }
            _ => 0,
        };
        let mut own = own;
        let mut left = candidates.iter();
        let mut is_first = true;
        let (mut bits, mut count) = (0, 0);
        let mut left_bytes = budget.max(0.0) as usize;
        while is_first || !left.as_slice().is_empty() {
            is_first = false;
            let head = MotionHead {
                number: self.next_number,
                tick: shared.output.frame as u16,
                newest_input: newest_input as u16,
                own,
            };
            self.next_number = self.next_number.wrapping_add(1);
            let mut writer = MotionWriter::new(head, gap, (left.len() * 5 + 32).min(MOTION_BYTES_MAX));
            let before = writer.len();
            let mut slots = self.spare.pop().unwrap_or_default();
            slots.clear();
            // Most clients have most states of the same tick.
            let (mut acked, mut base) = (0, None);
            for candidate in left.by_ref() {
                if !candidate.certain && writer.len() + ENTITY_BYTES_MAX > left_bytes {
                    continue;
                }
                let known = &mut self.known[candidate.at as usize];
                if known.acked != acked {
                    acked = known.acked;
                    base = shared.movers.base(acked, shared.now);
                }
                match base.and_then(|base| shared.movers.difference(base, known.slot)) {
                    Some((word, bits)) => writer.push_word(known.slot, shared.now - acked, word, bits),
                    None => writer.push(known.slot, 0, shared.movers.absolute(known.slot)),
                }
                known.sent = shared.now;
                slots.push(known.slot);
                if writer.len() > MOTION_BYTES_MAX - 24 || !writer.has_room() {
                    break;
                }
            }
            bits += (writer.len() - before) * 8;
            count += slots.len();
            let packet = writer.finish();
            shared.counts.motion_packets += 1;
            shared.counts.motion_updates += slots.len() as u64;
            shared.counts.motion_bytes += packet.len() as u64;
            self.rate.spend(packet.len(), shared.now);
            left_bytes = left_bytes.saturating_sub(packet.len());
            if self.in_flight.len() == IN_FLIGHT_MAX {
                self.in_flight.pop_front();
                self.rate.lost();
            }
            self.in_flight.push_back(Sent { number: head.number, tick: shared.now, own: own.take(), slots });
            send(Delivery::Datagram, packet);
        }
        if count > 0 {
            self.entity_bits += (bits as f64 / count as f64 - self.entity_bits) / 8.0;
        }
        candidates.clear();
        *shared.candidates = candidates;
    }

    /// The movers that the next packet is about, in rising order of slot: all with news, or those with the highest scores
    /// when the budget does not reach for all. Scores grow with time, the faster the nearer: nobody is forgotten.
    fn choose(&mut self, shared: &mut Shared<'_, '_>, budget: f64) {
        let (candidates, movers) = (&mut *shared.candidates, &*shared.movers);
        candidates.clear();
        let Some(here) = movers.slot(self.player).map(|slot| movers.place(slot)) else { return };
        let now = shared.now;
        let patience = self.rate.round_trip_ticks() + 2 * shared.config.snapshot_interval_ticks as u32;
        for (at, known) in self.known.iter().enumerate() {
            let changed_at = movers.changed_at(known.slot);
            // The client has the newest state, or it is on its way.
            if known.acked >= changed_at || (known.sent >= changed_at && now < known.sent + patience) {
                continue;
            }
            candidates.push(Candidate { at: at as u32, score: 0, distance: 0, certain: true });
        }
        let most = ((budget - 16.0).max(0.0) * 800.0 / (self.entity_bits * CARE_PERCENT)) as usize;
        if candidates.len() <= most {
            return;
        }
        let all = now >= self.measure_at;
        let stale = ticks(STALE_MS, shared.config);
        let mut by_distance = [0u32; 256];
        for candidate in candidates.iter_mut() {
            let known = &mut self.known[candidate.at as usize];
            if all || known.distance <= self.watched {
                let squared = squared(here, movers.place(known.slot));
                (known.distance, known.weight) = (distance_class(squared), weight(squared));
            }
            candidate.distance = known.distance;
            by_distance[usize::from(candidate.distance)] += 1;
            let waited = now - known.sent;
            candidate.score = if waited >= stale { 255 } else { (waited * u32::from(known.weight)).min(254) as u8 };
        }
        let class_of_nearest = |count: u32| {
            let mut sum = 0;
            let found = by_distance.iter().position(|more| {
                sum += more;
                sum >= count
            });
            found.map_or(255, |class| class as u8)
        };
        let nearest = class_of_nearest(NEAREST);
        if all {
            self.measure_at = now + ticks(MEASURE_MS, shared.config);
            self.watched = class_of_nearest(4 * NEAREST);
        }
        let mut by_score = [0u32; 256];
        let mut certain = 0;
        for candidate in candidates.iter_mut() {
            candidate.certain = candidate.distance <= nearest;
            if candidate.certain {
                certain += 1;
            } else {
                by_score[usize::from(candidate.score)] += 1;
            }
        }
        // The lowest score that still gets in, and how many of those that have it.
        let mut room = (most as u32).saturating_sub(certain);
        let mut lowest = 256;
        while lowest > 0 && by_score[lowest - 1] <= room {
            lowest -= 1;
            room -= by_score[lowest];
        }
        // Of those with the score below, some: another place to begin in each tick, so that no slot is preferred.
        let at_border = if lowest > 0 { by_score[lowest - 1] } else { 0 };
        let skip = if at_border > 0 { now.wrapping_mul(0x9e37_79b9) % at_border } else { 0 };
        let mut seen = 0;
        candidates.retain(|candidate| {
            let score = usize::from(candidate.score);
            if candidate.certain || score >= lowest {
                return true;
            }
            if score + 1 != lowest {
                return false;
            }
            seen += 1;
            (seen + at_border - 1 - skip) % at_border < room
        });
    }

    fn knows(&self, slot: u16) -> bool {
        let word = self.known_slots.get(usize::from(slot) / 64);
        word.is_some_and(|word| word & 1 << (slot % 64) != 0)
    }

    fn flush_if_full(&mut self, tick: u64, send: &mut dyn FnMut(Delivery, Vec<u8>)) {
        if self.view.len() > RELIABLE_BYTES_MAX - 2_048 {
            self.flush(tick, send);
        }
    }

    fn flush(&mut self, tick: u64, send: &mut dyn FnMut(Delivery, Vec<u8>)) {
        if !self.view.is_empty() {
            let message = encode(&ServerMessage::View(self.view.finish(tick)));
            self.rate.spend_views(message.len(), self.now);
            send(Delivery::Reliable, message);
        }
    }
}

/// Both lists are in rising order of slot.
fn note_arrived(known: &mut [Known], sent: &Sent) {
    let mut at = 0;
    for slot in &sent.slots {
        while at < known.len() && known[at].slot < *slot {
            at += 1;
        }
        // One that came into view after the packet was made has another state.
        if let Some(known) = known.get_mut(at).filter(|known| known.slot == *slot && known.sent >= sent.tick) {
            known.acked = known.acked.max(sent.tick);
        }
    }
}

fn set(slots: &mut Vec<u64>, slot: u16, value: bool) {
    let (word, bit) = (usize::from(slot) / 64, 1 << (slot % 64));
    if slots.len() <= word {
        slots.resize(word + 1, 0);
    }
    if value { slots[word] |= bit } else { slots[word] &= !bit }
}

fn ticks(ms: u32, config: &ReplicationConfig) -> u32 {
    (ms * u32::from(config.tick_hz)).div_ceil(1_000).max(1)
}

fn distance(a: ChunkKey, b: ChunkKey) -> i32 {
    (a.x - b.x).abs().max((a.z - b.z).abs())
}

fn squared(a: (i32, i32), b: (i32, i32)) -> i64 {
    let (dx, dz) = (i64::from(a.0) - i64::from(b.0), i64::from(a.1) - i64::from(b.1));
    dx * dx + dz * dz
}

/// Four classes to a doubling of the squared distance.
fn distance_class(squared: i64) -> u8 {
    let squared = squared.max(4) as u64;
    let doublings = squared.ilog2();
    (doublings * 4 + (squared >> (doublings - 2) & 3) as u32) as u8
}

/// How fast a mover's score grows, by the square of its distance in quanta.
fn weight(squared: i64) -> u8 {
    const fn metres(m: i64) -> i64 {
        let quanta = m * 1_000 / QUANTUM_MM as i64;
        quanta * quanta
    }
    match squared {
        near if near < metres(8) => NEAR_WEIGHT,
        near if near < metres(16) => 8,
        near if near < metres(32) => 4,
        near if near < metres(64) => 2,
        _ => 1,
    }
}
