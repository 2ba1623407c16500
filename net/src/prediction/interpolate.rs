//! Others, between two snapshots.
//!
//! Snapshots come at intervals, some late, some never. Others are shown a little in the past, so that there is nearly always a
//! later pose to move towards: by the usual time between two snapshots and what the latest of late were late
//! ([`PlaybackClock`]). What is shown runs a little slower or faster when that changes, so that nobody stutters.

use std::collections::VecDeque;
use std::time::Duration;
use vsekai_schema::units::{Position, Yaw};
use vsekai_sim::port::Pose;

/// Arrivals by which the delay is judged.
const ARRIVALS: usize = 64;
/// Of those, so many may have been later still.
const FORGIVEN: usize = 1;
/// The delay is at least this, and at most.
const DELAY_MIN: Duration = Duration::from_millis(20);
/// See `DELAY_MIN`.
pub const DELAY_MAX: Duration = Duration::from_millis(500);
/// Thousandths that playback runs faster or slower while the delay is put right.
const SLEW_PERMILLE: i64 = 50;
/// A delay that is wrong by more is put right at once.
const JUMP_US: i64 = 300_000;
/// Poses that are kept of one entity.
pub const SAMPLES_MAX: usize = 32;

/// Which moment of the shard's past is shown.
#[derive(Debug, Clone)]
pub struct PlaybackClock {
    tick_us: i64,
    /// How late each snapshot came, measured on a clock of which only the differences matter; with its tick.
    arrivals: VecDeque<(u64, i64)>,
    /// What is shown, and when that was asked: microseconds of the shard's time.
    shown: Option<(i64, Duration)>,
}

impl PlaybackClock {
    /// For a shard with `tick_hz` ticks a second, at least 1.
    pub fn new(tick_hz: u8) -> Self {
        PlaybackClock { tick_us: 1_000_000 / i64::from(tick_hz.max(1)), arrivals: VecDeque::new(), shown: None }
    }

    /// A snapshot of `tick` came at `now`. Of a snapshot in parts, tell the last.
    pub fn arrived(&mut self, now: Duration, tick: u64) {
        if self.arrivals.len() == ARRIVALS {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back((tick, micros(now) - self.of_tick(tick)));
    }

    /// By how much others are shown later than the quickest snapshot of late says.
    pub fn delay(&self) -> Duration {
        let mut lateness: Vec<i64> = self.arrivals.iter().map(|(_, late)| *late).collect();
        lateness.sort_unstable();
        let (Some(quickest), Some(latest)) =
            (lateness.first(), lateness.get(lateness.len().saturating_sub(1 + FORGIVEN)))
        else {
            return DELAY_MIN;
        };
        let jitter = Duration::from_micros((latest - quickest).max(0) as u64);
        (jitter + self.interval()).clamp(DELAY_MIN, DELAY_MAX)
    }

    /// The moment to show, in thousandths of a tick.
    pub fn tick_thousandths(&mut self, now: Duration) -> Option<u64> {
        let quickest = self.arrivals.iter().map(|(_, late)| *late).min()?;
        let wanted = micros(now) - quickest - micros(self.delay());
        let time = match self.shown {
            None => wanted,
            Some((shown, at)) => {
                let since = micros(now.saturating_sub(at));
                let (on, most) = (shown + since, since * SLEW_PERMILLE / 1_000);
                if (wanted - on).abs() > JUMP_US { wanted } else { on + (wanted - on).clamp(-most, most) }
            }
        };
        self.shown = Some((time, now));
        Some((time.max(0) as u128 * 1_000 / self.tick_us as u128) as u64)
    }

    /// The usual time between two snapshots: the median.
    fn interval(&self) -> Duration {
        let mut ticks: Vec<u64> = self.arrivals.iter().map(|(tick, _)| *tick).collect();
        ticks.sort_unstable();
        ticks.dedup();
        let mut steps: Vec<u64> = ticks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        steps.sort_unstable();
        let ticks = steps.get(steps.len() / 2).copied().unwrap_or(1).min(1_000);
        Duration::from_micros(ticks * self.tick_us as u64)
    }

    fn of_tick(&self, tick: u64) -> i64 {
        i64::try_from(tick).unwrap_or(i64::MAX).saturating_mul(self.tick_us).min(i64::MAX / 4)
    }
}

/// The way of one entity.
#[derive(Debug, Clone, Default)]
pub struct Path {
    samples: VecDeque<(u64, Pose)>,
}

impl Path {
    /// The entity was at `pose` in `tick`. Ticks may come in any order; one that is too old is not kept.
    pub fn push(&mut self, tick: u64, pose: Pose) {
        let place = self.samples.partition_point(|(at, _)| *at < tick);
        let full = self.samples.len() >= SAMPLES_MAX;
        match self.samples.get_mut(place).filter(|(at, _)| *at == tick) {
            Some(sample) => sample.1 = pose,
            None if place == 0 && full => {}
            None => {
                self.samples.insert(place, (tick, pose));
                if self.samples.len() > SAMPLES_MAX {
                    self.samples.pop_front();
                }
            }
        }
    }

    /// The youngest pose, and of which tick.
    pub fn newest(&self) -> Option<(u64, Pose)> {
        self.samples.back().copied()
    }

    /// The snapshot of `tick` came, and the entity had not moved since the one before: without this a standing entity would set out
    /// too early.
    pub fn unchanged(&mut self, tick: u64) {
        if let Some((at, pose)) = self.samples.back().copied().filter(|(at, _)| *at < tick) {
            // Two samples of the same pose are enough: the last one moves on.
            let standing = self.samples.len() >= 2 && self.samples[self.samples.len() - 2].1 == pose;
            match self.samples.back_mut().filter(|_| standing) {
                Some(last) => last.0 = tick,
                None => self.push(at.max(tick), pose),
            }
        }
    }

    /// Where it is shown at a moment, in thousandths of a tick: before the first and after the last sample it stands.
    pub fn at(&self, tick_thousandths: u64) -> Option<Pose> {
        let tick = tick_thousandths / 1_000;
        let after = self.samples.partition_point(|(at, _)| *at <= tick);
        let Some((from_tick, from)) = after.checked_sub(1).and_then(|place| self.samples.get(place)) else {
            return self.samples.front().map(|(_, pose)| *pose);
        };
        let Some((to_tick, to)) = self.samples.get(after) else { return Some(*from) };
        let whole = i64::try_from((to_tick - from_tick).saturating_mul(1_000)).unwrap_or(i64::MAX);
        let part = i64::try_from(tick_thousandths - from_tick * 1_000).unwrap_or(0);
        let between = |a: i32, b: i32| {
            let moved = (i128::from(b) - i128::from(a)) * i128::from(part) / i128::from(whole);
            (i128::from(a) + moved) as i32
        };
        let position = Position::new(
            between(from.position.x, to.position.x),
            between(from.position.y, to.position.y),
            between(from.position.z, to.position.z),
        );
        // The shorter way round.
        let turn = i32::from(to.yaw.wrapping_sub(from.yaw) as i16);
        let yaw: Yaw = from.yaw.wrapping_add(between(0, turn) as u16);
        Some(Pose { position, yaw })
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}
