//! Where others were when a player aimed at them.
//!
//! A client sees others late; who aims at what it sees must not miss because of that. The shard keeps where everybody was in the last
//! ticks and looks there. How far back is bounded, so that a bad connection is no weapon: who is hit behind a wall was never
//! behind it for longer than that.

use std::collections::VecDeque;
use thiserror::Error;
use vsekai_schema::id::EntityId;
use vsekai_schema::units::Position;
use vsekai_sim::port::KeyMap;

/// Furthest look back, milliseconds.
pub const REWIND_MAX_MS: u64 = 200;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RewindRefusal {
    /// The tick has not been yet.
    #[error("tick {asked} has not been yet, the newest is {newest}")]
    Future {
        /// The tick asked for.
        asked: u64,
        /// The newest tick.
        newest: u64,
    },
    /// The tick is too long ago.
    #[error("tick {asked} is too long ago, the oldest is {oldest}")]
    TooLongAgo {
        /// The tick asked for.
        asked: u64,
        /// The oldest tick that is answered.
        oldest: u64,
    },
    /// The entity was not there.
    #[error("the entity was not there")]
    NotThere,
}

/// Where everybody was in the last ticks.
#[derive(Debug)]
pub struct Rewind {
    limit_ticks: u64,
    newest: u64,
    ways: KeyMap<EntityId, VecDeque<(u64, Position)>>,
    /// When each was last mentioned.
    seen: KeyMap<EntityId, u64>,
}

impl Rewind {
    /// For a shard with `tick_hz` ticks a second; looks back [`REWIND_MAX_MS`].
    pub fn new(tick_hz: u8) -> Self {
        let limit_ticks = (REWIND_MAX_MS * u64::from(tick_hz)).div_ceil(1_000).max(1);
        Rewind { limit_ticks, newest: 0, ways: KeyMap::default(), seen: KeyMap::default() }
    }

    /// Where everybody is at the end of `tick`. Ticks grow; who is not mentioned has left.
    pub fn record(&mut self, tick: u64, places: impl IntoIterator<Item = (EntityId, Position)>) {
        self.newest = self.newest.max(tick);
        for (id, place) in places {
            let way = self.ways.entry(id).or_default();
            let before = self.seen.insert(id, tick);
            // Who was away and comes back did not walk from there to here.
            if before.is_some_and(|before| before + 1 < tick) {
                way.clear();
            }
            if way.back().is_none_or(|(_, last)| *last != place) {
                way.push_back((tick, place));
            }
            // The one that was valid at the oldest tick has to stay.
            while way.len() > 1 && way[1].0 + self.limit_ticks <= tick {
                way.pop_front();
            }
        }
        let (newest, limit) = (self.newest, self.limit_ticks);
        self.seen.retain(|_, seen| *seen + limit >= newest);
        let seen = &self.seen;
        self.ways.retain(|id, _| seen.contains_key(id));
    }

    /// The tick that a viewer saw, who says that it saw `claimed`: no later than now, and no further back than is allowed.
    pub fn tick_seen(&self, claimed: u64) -> u64 {
        claimed.clamp(self.newest.saturating_sub(self.limit_ticks), self.newest)
    }

    /// Where the entity was at the end of `tick`.
    ///
    /// # Errors
    /// When the tick is out of bounds, or the entity was not in the world then.
    pub fn place_at(&self, id: EntityId, tick: u64) -> Result<Position, RewindRefusal> {
        let oldest = self.newest.saturating_sub(self.limit_ticks);
        if tick > self.newest {
            return Err(RewindRefusal::Future { asked: tick, newest: self.newest });
        }
        if tick < oldest {
            return Err(RewindRefusal::TooLongAgo { asked: tick, oldest });
        }
        let way = self.ways.get(&id).filter(|_| self.seen.get(&id).is_some_and(|seen| *seen >= tick));
        let place = way.and_then(|way| way.iter().rev().find(|(at, _)| *at <= tick));
        place.map(|(_, place)| *place).ok_or(RewindRefusal::NotThere)
    }
}
