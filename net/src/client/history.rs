//! The states that motion packets gave, by tick: what later packets build on.
//!
//! States lie as they came, a packet's beside each other in rising order of slot, and a packet builds on one or two earlier ones: taking one
//! in walks along two or three lists instead of looking into as many places as there are movers.
//!
//! Invariant: no state is older than [`HISTORY_TICKS`] before the newest, and there are no more than [`STATES_MAX`].

use std::collections::VecDeque;
use vsekai_schema::wire::motion::{HISTORY_TICKS, Motion, Update};

/// States kept; with more, the oldest packets go. A thousand movers at 60 Hz have half of that.
const STATES_MAX: usize = 1 << 19;
/// Lists kept to be used again.
const SPARE_MAX: usize = 4;

/// One tick: slots in rising order, and their states.
type States = Vec<(u16, Motion)>;

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct History {
    /// In rising order of tick.
    ticks: VecDeque<(u64, States)>,
    count: usize,
    spare: Vec<States>,
}

/// Where the last update found what it builds on: the next one's is nearly always right behind.
struct Place {
    age: u32,
    tick: Option<usize>,
    at: usize,
}

impl History {
    /// Takes the updates of a packet of `tick`, slots in rising order. `each` gets every slot with its state; `None` when that builds on
    /// one which never came.
    pub(super) fn take(&mut self, tick: u64, updates: &[(u16, Update)], mut each: impl FnMut(u16, Option<Motion>)) {
        let mut states = self.spare.pop().unwrap_or_default();
        let mut place = Place { age: 0, tick: None, at: 0 };
        for (slot, update) in updates {
            let state = match update {
                Update::Absolute(motion) => Some(*motion),
                Update::Since { age, step } => self.find(tick, *age, *slot, &mut place).map(|base| step.from(base)),
            };
            each(*slot, state);
            states.extend(state.map(|state| (*slot, state)));
        }
        self.keep(tick, states);
    }

    fn find(&self, tick: u64, age: u32, slot: u16, place: &mut Place) -> Option<Motion> {
        if place.age != age {
            let base = tick.checked_sub(u64::from(age));
            let tick = self.ticks.iter().rposition(|(at, _)| Some(*at) == base);
            *place = Place { age, tick, at: 0 };
        }
        let (_, states) = &self.ticks[place.tick?];
        if states.get(place.at).is_none_or(|(at, _)| *at != slot) {
            place.at = states.partition_point(|(at, _)| *at < slot);
        }
        let (_, motion) = states.get(place.at).filter(|(at, _)| *at == slot)?;
        place.at += 1;
        Some(*motion)
    }

    fn keep(&mut self, tick: u64, mut states: States) {
        self.count += states.len();
        let at = self.ticks.partition_point(|(known, _)| *known < tick);
        match self.ticks.get_mut(at) {
            // One tick may take several packets, and the network may double any.
            Some((known, others)) if *known == tick => {
                self.count -= others.len() + states.len();
                others.append(&mut states);
                others.sort_by_key(|(slot, _)| *slot);
                others.dedup_by_key(|(slot, _)| *slot);
                self.count += others.len();
                self.spare.push(states);
            }
            _ => self.ticks.insert(at, (tick, states)),
        }
        let oldest = self.ticks.back().map_or(0, |(newest, _)| newest.saturating_sub(u64::from(HISTORY_TICKS)));
        while let Some((_, mut states)) =
            self.ticks.pop_front_if(|(known, _)| *known < oldest || self.count > STATES_MAX)
        {
            self.count -= states.len();
            states.clear();
            self.spare.push(states);
        }
        self.spare.truncate(SPARE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use vsekai_schema::wire::motion::Step;

    proptest! {
        /// As one map of slot and tick would have it.
        #[test]
        fn states_are_found_by_slot_and_tick(
            packets in proptest::collection::vec(
                (0u64..600, proptest::collection::btree_map(0u16..40, (0u32..128, -9i32..9), 0..30)), 1..60),
        ) {
            let mut history = History::default();
            let mut model: BTreeMap<(u16, u64), Motion> = BTreeMap::new();
            let mut newest = 0;
            for (tick, entries) in packets {
                let updates: Vec<_> = entries.iter().map(|(slot, (age, number))| (*slot, match *age {
                    0 => Update::Absolute(Motion { x: *number, ..Motion::default() }),
                    age => Update::Since { age, step: Step { dx: *number, dz: 1, yaw: None, y: None } },
                })).collect();
                let mut found = Vec::new();
                history.take(tick, &updates, |slot, state| found.push((slot, state)));
                let wanted: Vec<_> = updates.iter().map(|(slot, update)| (*slot, match *update {
                    Update::Absolute(motion) => Some(motion),
                    Update::Since { age, step } =>
                        tick.checked_sub(age.into()).and_then(|base| model.get(&(*slot, base))).map(|base| step.from(*base)),
                })).collect();
                prop_assert_eq!(&found, &wanted);
                for (slot, state) in found {
                    // Which of two different packets of one tick counts is not said; the shard sends none.
                    if let Some(state) = state { model.entry((slot, tick)).or_insert(state); }
                }
                newest = newest.max(tick);
                model.retain(|(_, at), _| *at + u64::from(HISTORY_TICKS) >= newest);
                prop_assert_eq!(history.count, model.len());
            }
        }
    }

    #[test]
    fn no_more_states_than_allowed() {
        let mut history = History::default();
        let all: Vec<_> = (0..=u16::MAX).map(|slot| (slot, Update::Absolute(Motion::default()))).collect();
        for tick in 0..20 {
            history.take(tick, &all, |_, _| {});
            assert_eq!(history.count, ((tick as usize + 1) << 16).min(STATES_MAX));
        }
    }
}
