//! The fast path of poses: from receipt to those near without waiting for the tick. Bytes and time in, bytes out; no I/O.
//!
//! Once per tick the owner says who is where ([`PoseRelay::set_places`]); for each pose that arrives it calls
//! [`PoseRelay::receive`], and after each batch of arrivals [`PoseRelay::take_datagrams`].
//!
//! A pose is decoded once, to judge it, and handed on as it came: its layer (`schema::wire::pose`) says to whom. Who is near gets
//! all layers, who is farther fewer, and beyond the last distance nobody gets any. A viewer's budget is a bucket; the fuller it is,
//! the farther and the less important a pose may be to be let through. So under load the farthest lose first.
//!
//! Invariants: a viewer is never sent a pose that refers to one it was not sent; nobody is sent more than the budget; a
//! player's poses cannot cost others more than its rate allows.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;
use thiserror::Error;
use vsekai_schema::id::EntityId;
use vsekai_schema::units::Position;
use vsekai_schema::wire::pose::{
    BodyPose, Layer, POSES_BYTES_MAX, PoseDecoder, PoseError, PoseRefusal, ReceivedPose, SERVER_POSES, SLOTS_PER_S,
    check_reach, check_speed, write_pose_entry,
};
use vsekai_sim::port::KeyMap;

/// How far poses go, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoseRelayConfig {
    /// Up to which distance viewers get each layer and those below it, millimetres; rising from full to key.
    pub full_mm: i32,
    /// See `full_mm`.
    pub half_mm: i32,
    /// See `full_mm`.
    pub anchor_mm: i32,
    /// See `full_mm`; beyond this distance nobody gets anything.
    pub key_mm: i32,
    /// What one viewer is sent at most, bytes a second.
    pub viewer_bytes_per_s: u32,
}

impl Default for PoseRelayConfig {
    /// 10, 20, 40 and 64 m; 128 kbit/s.
    fn default() -> Self {
        PoseRelayConfig {
            full_mm: 10_000,
            half_mm: 20_000,
            anchor_mm: 40_000,
            key_mm: 64_000,
            viewer_bytes_per_s: 16_000,
        }
    }
}

/// Why a pose was not handed on. None of these is a reason to end the connection; all are worth counting.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PoseDropped {
    /// The player is not in the world.
    #[error("the player is not in the world")]
    NotPlaced,
    /// More poses than there are slots.
    #[error("more than {SLOTS_PER_S} poses a second")]
    TooFrequent,
    /// It cannot be read, or what it refers to was lost.
    #[error(transparent)]
    Unreadable(#[from] PoseError),
    /// A newer one came before it.
    #[error("slot {slot} came behind slot {newest}")]
    Overtaken {
        /// Its slot.
        slot: u16,
        /// The newest one.
        newest: u16,
    },
    /// No body can do that.
    #[error(transparent)]
    Impossible(#[from] PoseRefusal),
}

/// Most viewers of one player; with more, the nearest.
pub const AUDIENCE_MAX: usize = 512;
/// A player's audience is looked up again after this time.
const AUDIENCE_AGE: Duration = Duration::from_millis(100);
/// Side of a cell of the grid in which viewers are looked up, millimetres.
const CELL_MM: i32 = 16_000;
/// Poses that a sender may be ahead of its rate.
const BURST: u32 = 30;
/// A viewer's bucket holds what it may get in this part of a second.
const BUCKET_PARTS: u32 = 4;

/// So many per second on average, some at once. Whole numbers: a unit is a billionth of what is counted.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: u64,
    at: Duration,
}

impl Bucket {
    const UNIT: u64 = 1_000_000_000;

    fn fill(&mut self, now: Duration, per_s: u32, capacity: u32) {
        let gained = now.saturating_sub(self.at).as_nanos().saturating_mul(u128::from(per_s));
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        self.level = self.level.saturating_add(gained).min(u64::from(capacity) * Self::UNIT);
        self.at = self.at.max(now);
    }

    /// Takes `count` when at least `needed` are there.
    fn take(&mut self, count: u32, needed: u32) -> bool {
        let enough = self.level >= u64::from(needed.max(count)) * Self::UNIT;
        if enough {
            self.level -= u64::from(count) * Self::UNIT;
        }
        enough
    }
}

/// One who sees another's poses.
#[derive(Debug, Clone, Copy)]
struct Listener {
    viewer: EntityId,
    distance_mm: i32,
    /// The highest layer that it gets.
    highest: Layer,
    /// The lowest layer of which it was not sent a pose that others refer to.
    missing: Option<Layer>,
}

impl Listener {
    fn can_read(&self, layer: Layer) -> bool {
        match self.missing {
            None | Some(Layer::Full) => true,
            Some(Layer::Half) => layer <= Layer::Half,
            Some(Layer::Anchor | Layer::Key) => layer == Layer::Key,
        }
    }

    fn sent(&mut self, layer: Layer) {
        if layer == Layer::Key || self.missing == Some(Layer::Half) {
            self.missing = None;
        }
    }

    fn not_sent(&mut self, layer: Layer) {
        // Nothing refers to a full one.
        if layer != Layer::Full {
            self.missing = Some(self.missing.map_or(layer, |missing| missing.min(layer)));
        }
    }
}

/// A player in the world: both one who is seen and one who sees.
#[derive(Debug)]
struct Player {
    place: Position,
    /// From the first pose on: most players have no trackers.
    decoder: Option<Box<PoseDecoder>>,
    rate: Bucket,
    newest: Option<ReceivedPose>,
    /// In rising order of the viewers' ids.
    audience: Vec<Listener>,
    audience_until: Option<Duration>,
    budget: Bucket,
    /// What this player is to be sent next.
    pending: Vec<u8>,
    /// Of the call that mentioned the player last.
    mentioned: u64,
}

/// The relay of one shard.
#[derive(Debug)]
pub struct PoseRelay {
    config: PoseRelayConfig,
    players: BTreeMap<EntityId, Player>,
    cells: KeyMap<(i32, i32), Vec<(EntityId, Position)>>,
    /// Whom there is something to send to.
    waiting: Vec<EntityId>,
    datagrams: Vec<(EntityId, Vec<u8>)>,
    calls: u64,
}

impl PoseRelay {
    /// Without players.
    pub fn new(config: PoseRelayConfig) -> Self {
        PoseRelay {
            config,
            players: BTreeMap::new(),
            cells: KeyMap::default(),
            waiting: Vec::new(),
            datagrams: Vec::new(),
            calls: 0,
        }
    }

    /// Says who is in the world, and where. Who is not mentioned is forgotten.
    pub fn set_places(&mut self, now: Duration, places: impl IntoIterator<Item = (EntityId, Position)>) {
        self.calls += 1;
        for list in self.cells.values_mut() {
            list.clear();
        }
        for (id, place) in places {
            let player = self.players.entry(id).or_insert_with(|| Player {
                place,
                decoder: None,
                rate: Bucket { level: u64::from(BURST) * Bucket::UNIT, at: now },
                newest: None,
                audience: Vec::new(),
                audience_until: None,
                budget: Bucket { level: u64::MAX, at: now },
                pending: Vec::new(),
                mentioned: 0,
            });
            player.place = place;
            player.mentioned = self.calls;
            self.cells.entry(cell(place)).or_default().push((id, place));
        }
        self.players.retain(|_, player| player.mentioned == self.calls);
        self.cells.retain(|_, list| !list.is_empty());
    }

    /// A player's newest pose that was believed.
    pub fn newest(&self, player: EntityId) -> Option<&BodyPose> {
        self.players.get(&player)?.newest.as_ref().map(|newest| &newest.pose)
    }

    /// Takes one pose of `player` and hands it on. The answer is how many viewers it goes to.
    ///
    /// # Errors
    /// Why it goes to nobody.
    pub fn receive(&mut self, now: Duration, player: EntityId, bytes: &[u8]) -> Result<usize, PoseDropped> {
        let Some(sender) = self.players.get_mut(&player) else { return Err(PoseDropped::NotPlaced) };
        sender.rate.fill(now, SLOTS_PER_S, BURST);
        if !sender.rate.take(1, 1) {
            // Later ones may refer to it.
            if let Some(layer) = Layer::of(bytes) {
                sender.audience.iter_mut().for_each(|listener| listener.not_sent(layer));
            }
            return Err(PoseDropped::TooFrequent);
        }
        let received = sender.decoder.get_or_insert_default().decode(now, bytes)?;
        if let Err(dropped) = sender.judge(&received) {
            sender.audience.iter_mut().for_each(|listener| listener.not_sent(received.layer));
            return Err(dropped);
        }
        sender.newest = Some(received);
        let stale = sender.audience_until.is_none_or(|until| now >= until);
        let place = sender.place;
        let mut audience = std::mem::take(&mut sender.audience);
        if stale {
            audience = self.audience(player, place, audience);
        }
        let mut entry = Vec::with_capacity(bytes.len() + 11);
        write_pose_entry(&mut entry, player, bytes);
        let mut count = 0;
        for listener in &mut audience {
            let wanted = received.layer <= listener.highest && listener.can_read(received.layer);
            if wanted && self.forward(now, listener, received.layer, &entry) {
                listener.sent(received.layer);
                count += 1;
            } else {
                listener.not_sent(received.layer);
            }
        }
        if let Some(sender) = self.players.get_mut(&player) {
            sender.audience = audience;
            if stale {
                sender.audience_until = Some(now + AUDIENCE_AGE);
            }
        }
        Ok(count)
    }

    /// What is to be sent now, on the state channel.
    pub fn take_datagrams(&mut self) -> Vec<(EntityId, Vec<u8>)> {
        for viewer in self.waiting.drain(..) {
            if let Some(player) = self.players.get_mut(&viewer).filter(|player| !player.pending.is_empty()) {
                self.datagrams.push((viewer, std::mem::take(&mut player.pending)));
            }
        }
        std::mem::take(&mut self.datagrams)
    }

    /// True when the viewer's budget lets it through.
    fn forward(&mut self, now: Duration, listener: &Listener, layer: Layer, entry: &[u8]) -> bool {
        let Some(viewer) = self.players.get_mut(&listener.viewer) else { return false };
        let capacity = self.config.viewer_bytes_per_s / BUCKET_PARTS;
        viewer.budget.fill(now, self.config.viewer_bytes_per_s, capacity);
        // The farther and the finer, the fuller the bucket must be.
        let distance = u64::from(listener.distance_mm.clamp(0, self.config.key_mm) as u32);
        let whole = u64::from(self.config.key_mm.max(1) as u32) * 4;
        let needed = u64::from(capacity) * distance * (layer as u64 + 1) / whole;
        if !viewer.budget.take(entry.len() as u32, needed as u32) {
            return false;
        }
        if viewer.pending.len() + entry.len() > POSES_BYTES_MAX {
            self.datagrams.push((listener.viewer, std::mem::take(&mut viewer.pending)));
        }
        if viewer.pending.is_empty() {
            viewer.pending.push(SERVER_POSES);
            self.waiting.push(listener.viewer);
        }
        viewer.pending.extend_from_slice(entry);
        true
    }

    /// Who sees a player at `place`, in rising order of id. Who saw it before goes on where it was.
    fn audience(&self, player: EntityId, place: Position, before: Vec<Listener>) -> Vec<Listener> {
        let reach = self.config.key_mm / CELL_MM + 1;
        let (column, row) = cell(place);
        let mut audience = Vec::with_capacity(before.len() + 8);
        let cells = (-reach..=reach).flat_map(|dz| (-reach..=reach).map(move |dx| (column + dx, row + dz)));
        for (viewer, at) in cells.filter_map(|key| self.cells.get(&key)).flatten().copied() {
            // The farthest that matters is far below what an integer holds.
            let distance = (place.horizontal_distance_squared(at) as u64).isqrt().min(i32::MAX as u64) as i32;
            if viewer == player || distance > self.grown(self.config.key_mm) {
                continue;
            }
            let known = before.binary_search_by_key(&viewer, |listener| listener.viewer).ok().map(|at| before[at]);
            let Some(highest) = self.highest_layer(distance, known.map(|known| known.highest)) else { continue };
            // Who comes new has no key pose yet.
            let missing = known.map_or(Some(Layer::Key), |known| known.missing);
            audience.push(Listener { viewer, distance_mm: distance, highest, missing });
        }
        if audience.len() > AUDIENCE_MAX {
            audience.select_nth_unstable_by_key(AUDIENCE_MAX, |listener| (listener.distance_mm, listener.viewer));
            audience.truncate(AUDIENCE_MAX);
        }
        audience.sort_unstable_by_key(|listener| listener.viewer);
        audience
    }

    /// Who had a layer keeps it up to a tenth farther away, so that nobody flickers at a border.
    fn highest_layer(&self, distance: i32, before: Option<Layer>) -> Option<Layer> {
        let PoseRelayConfig { full_mm, half_mm, anchor_mm, key_mm, .. } = self.config;
        let limits = [(Layer::Full, full_mm), (Layer::Half, half_mm), (Layer::Anchor, anchor_mm), (Layer::Key, key_mm)];
        let within = |(layer, limit): &(Layer, i32)| {
            let had = before.is_some_and(|before| *layer <= before);
            distance <= if had { self.grown(*limit) } else { *limit }
        };
        limits.iter().find(|limit| within(limit)).map(|(layer, _)| *layer)
    }

    fn grown(&self, limit: i32) -> i32 {
        limit.saturating_add(limit / 10)
    }
}

impl Player {
    fn judge(&self, received: &ReceivedPose) -> Result<(), PoseDropped> {
        check_reach(&received.pose)?;
        if let Some(newest) = &self.newest {
            let slots = received.slot.wrapping_sub(newest.slot);
            // A key pose far off begins anew.
            if slots == 0 || slots > u16::MAX - SLOTS_PER_S as u16 {
                return Err(PoseDropped::Overtaken { slot: received.slot, newest: newest.slot });
            }
            check_speed(&newest.pose, &received.pose, slots)?;
        }
        Ok(())
    }
}

fn cell(place: Position) -> (i32, i32) {
    (place.x.div_euclid(CELL_MM), place.z.div_euclid(CELL_MM))
}
