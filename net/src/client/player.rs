//! What a client needs that draws: the own player ahead of the shard, and others between two snapshots. The parts are
//! [`crate::prediction`]'s; this puts them together.

use crate::prediction::input::{InputFeedback, InputSender, Pacer, REDUNDANCY_MAX};
use crate::prediction::interpolate::{Path, PlaybackClock};
use crate::prediction::predict::{PredictionCounts, Predictor};
use std::collections::BTreeMap;
use std::time::Duration;
use vsekai_schema::id::EntityId;
use vsekai_schema::wire::MoveInput;
use vsekai_schema::wire::motion::widen;
use vsekai_sim::port::{Gait, Ground, Pose, Terrain, TickRate};

/// A silence longer than this between two poses, milliseconds, means standing still, not walking slowly.
const STANDING_MS: u64 = 400;

/// The own player: each step moves it at once, and what the shard says puts it right.
#[derive(Debug)]
pub(super) struct OwnPlayer {
    predictor: Predictor,
    sender: InputSender,
    pacer: Pacer,
    last: u32,
}

impl OwnPlayer {
    /// It stands at `pose`; its next step has the number `first`.
    pub(super) fn new(welcome: &super::Welcome, pose: Pose, first: u32) -> Self {
        let ground = Ground { terrain: Terrain::new(welcome.seed), half_mm: welcome.world_half_mm };
        let rate = TickRate(u32::from(welcome.tick_hz));
        OwnPlayer {
            predictor: Predictor::new(ground, Gait::from(&welcome.catalogue), rate, pose),
            sender: InputSender::new(first),
            pacer: Pacer::new(welcome.tick_hz),
            last: first.wrapping_sub(1),
        }
    }

    /// Makes the steps that are due, and gives how many.
    pub(super) fn advance(&mut self, now: Duration, wish: MoveInput) -> u32 {
        let due = self.pacer.due(now);
        for _ in 0..due {
            let step = self.sender.push(wish);
            self.last = step.sequence;
            self.predictor.advance(step);
        }
        due
    }

    /// What a datagram carries when `fresh` steps were made since the last one: these, and as many before them as fit.
    pub(super) fn newest(&self, fresh: u32, redundancy: usize) -> Vec<MoveInput> {
        let count = (fresh as usize + redundancy.saturating_sub(1)).min(REDUNDANCY_MAX);
        self.sender.newest(count).collect()
    }

    /// The shard has it at `pose` after the step whose number has these lowest bits.
    pub(super) fn reconcile(&mut self, newest_input: u16, pose: Pose) {
        self.predictor.reconcile(widen(newest_input, u64::from(self.last)) as u32, pose);
    }

    pub(super) fn feedback(&mut self, now: Duration, feedback: InputFeedback) {
        self.pacer.feedback(now, feedback);
    }

    /// Number of the newest step.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// Where to draw it.
    pub(super) fn shown(&self) -> Pose {
        Pose { position: self.predictor.shown(), ..self.predictor.pose() }
    }

    pub(super) fn counts(&self) -> PredictionCounts {
        self.predictor.counts()
    }
}

/// Others: the ways they took of late, and which moment of them is shown. As many as are in view.
#[derive(Debug)]
pub(super) struct Playback {
    clock: PlaybackClock,
    paths: BTreeMap<EntityId, Path>,
    standing_ticks: u64,
    /// What is drawn now, in thousandths of a tick.
    moment: Option<u64>,
}

impl Playback {
    pub(super) fn new(tick_hz: u8) -> Self {
        Playback {
            clock: PlaybackClock::new(tick_hz),
            paths: BTreeMap::new(),
            standing_ticks: (STANDING_MS * u64::from(tick_hz) / 1_000).max(2),
            moment: None,
        }
    }

    /// A packet about `tick` came.
    pub(super) fn arrived(&mut self, now: Duration, tick: u64) {
        self.clock.arrived(now, tick);
    }

    /// Somebody was at `pose` in `tick`.
    pub(super) fn moved(&mut self, id: EntityId, tick: u64, pose: Pose) {
        let path = self.paths.entry(id).or_default();
        // Who stood does not set out in the tick in which it was last heard of.
        if let Some((last, standing)) = path.newest().filter(|(last, _)| last + self.standing_ticks < tick) {
            path.push((tick - 2).max(last), standing);
        }
        path.push(tick, pose);
    }

    /// It is out of view.
    pub(super) fn left(&mut self, id: EntityId) {
        self.paths.remove(&id);
    }

    /// A picture is drawn at `now`.
    pub(super) fn frame(&mut self, now: Duration) {
        self.moment = self.clock.tick_thousandths(now);
    }

    /// Where to draw somebody; `None` when nothing was heard of its way.
    pub(super) fn shown(&self, id: EntityId) -> Option<Pose> {
        self.paths.get(&id)?.at(self.moment?)
    }

    /// By how much others are shown late.
    pub(super) fn delay(&self) -> Duration {
        self.clock.delay()
    }
}
