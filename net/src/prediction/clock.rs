//! Which tick the shard is at.
//!
//! A pong says the tick at which the shard answered. Half the round trip later it arrives, if both ways take as long; what is
//! delayed on one of them makes the estimate wrong by up to half of that delay, so that only the quickest pings of late count
//! (D. Mills, RFC 5905, section 10: the clock filter), and of these the median.

use std::collections::VecDeque;
use std::time::Duration;

/// Pings that are remembered.
pub const SAMPLES_MAX: usize = 16;
/// A ping counts when it took no longer than the quickest by this part, and this time.
const SLACK_PART: u32 = 4;
const SLACK: Duration = Duration::from_millis(2);
/// A difference up to this is taken up slowly, so that nothing on the screen jumps.
const JUMP_US: i64 = 250_000;
/// Microseconds that the clock is put right per second.
const SLEW_US_PER_S: i64 = 50_000;

#[derive(Debug, Clone, Copy)]
struct Sample {
    round_trip: Duration,
    offset_us: i64,
}

/// The shard's time as the client estimates it. The shard's time is its tick divided by its rate.
#[derive(Debug, Clone)]
pub struct ClockSync {
    tick_hz: u32,
    samples: VecDeque<Sample>,
    /// What was shown last, and when.
    shown: Option<(i64, Duration)>,
}

impl ClockSync {
    /// For a shard with `tick_hz` ticks a second, at least 1.
    pub fn new(tick_hz: u8) -> Self {
        ClockSync { tick_hz: u32::from(tick_hz.max(1)), samples: VecDeque::new(), shown: None }
    }

    /// A ping that was sent at `sent` came back at `now`; the shard answered at `tick`.
    pub fn pong(&mut self, sent: Duration, now: Duration, tick: u64) {
        let round_trip = now.saturating_sub(sent);
        // The shard was somewhere within the tick.
        let shard_us = micros_of_ticks(tick, self.tick_hz) + 500_000 / i64::from(self.tick_hz);
        let offset_us = shard_us + micros(round_trip) / 2 - micros(now);
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { round_trip, offset_us });
    }

    /// The quickest round trip of late.
    pub fn round_trip(&self) -> Option<Duration> {
        self.samples.iter().map(|sample| sample.round_trip).min()
    }

    /// The shard's time minus the client's, by the pings that count, microseconds.
    pub fn offset_us(&self) -> Option<i64> {
        let quickest = self.round_trip()?;
        let limit = quickest + quickest / SLACK_PART + SLACK;
        let counting = self.samples.iter().filter(|sample| sample.round_trip <= limit);
        let mut offsets: Vec<i64> = counting.map(|sample| sample.offset_us).collect();
        offsets.sort_unstable();
        offsets.get(offsets.len() / 2).copied()
    }

    /// The tick the shard is at, in thousandths. Does not run back, except when it was wrong by more than a quarter of a second.
    pub fn tick_thousandths(&mut self, now: Duration) -> Option<u64> {
        let wanted = self.offset_us()?;
        let offset = match self.shown {
            None => wanted,
            Some((shown, _)) if (wanted - shown).abs() > JUMP_US => wanted,
            Some((shown, at)) => {
                let most = micros(now.saturating_sub(at)) * SLEW_US_PER_S / 1_000_000;
                shown + (wanted - shown).clamp(-most, most)
            }
        };
        self.shown = Some((offset, now));
        let shard_us = u64::try_from(micros(now) + offset).unwrap_or(0);
        Some((u128::from(shard_us) * u128::from(self.tick_hz) / 1_000) as u64)
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

fn micros_of_ticks(tick: u64, tick_hz: u32) -> i64 {
    i64::try_from(u128::from(tick) * 1_000_000 / u128::from(tick_hz)).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}
