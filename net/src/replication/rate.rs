//! How much one client is told of motion: a byte budget that shrinks when packets are lost or come late, and grows back.

use std::collections::VecDeque;

/// A budget is never less than this part of the configured one.
const LEAST_PART: f64 = 1.0 / 8.0;
/// Of a second's packets, this part may be lost without consequence.
const LOSS_MAX: f64 = 0.05;
/// Round trips may be so much longer than the shortest one, milliseconds on top of twice that.
const QUEUE_MS: f64 = 100.0;
/// What is left over of a budget is good for so long, seconds.
const BURST_S: f64 = 0.1;
/// So much of a second's budget is kept for views, or one that comes after that second's motion would be beyond it.
const VIEWS_KEPT: f64 = 1.0 / 32.0;
/// Views may take so much of a second's budget from motion; what they have beyond comes on top, since neither may stop the other.
const VIEWS_PART: f64 = 1.0 / 4.0;

/// One client's budget. Time is in ticks.
///
/// Invariant: no second, wherever it begins, has more bytes than the configured budget, as long as nobody spends more than
/// [`Rate::earn`] said and views take no more than a quarter.
#[derive(Debug)]
pub(super) struct Rate {
    tick_ms: f64,
    most: f64,
    bytes_per_s: f64,
    /// Bytes that may go out now; negative after a burst.
    tokens: f64,
    /// What went out in the last second: tick and bytes; and their sum.
    spent: VecDeque<(u32, u32)>,
    spent_sum: u32,
    /// The same of views.
    views: VecDeque<(u32, u32)>,
    views_sum: u32,
    round_trip: f64,
    shortest: f64,
    acked: u32,
    lost: u32,
    second_began: u32,
}

impl Rate {
    /// With at most `bytes_per_s`, at so many ticks a second.
    pub(super) fn new(bytes_per_s: f64, tick_hz: u8) -> Self {
        let tick_ms = 1_000.0 / f64::from(tick_hz.max(1));
        Rate {
            tick_ms,
            most: bytes_per_s,
            bytes_per_s,
            tokens: 0.0,
            spent: VecDeque::new(),
            spent_sum: 0,
            views: VecDeque::new(),
            views_sum: 0,
            round_trip: 0.0,
            shortest: f64::INFINITY,
            acked: 0,
            lost: 0,
            second_began: 0,
        }
    }

    /// `ticks` more have passed, it is tick `now`; returns the bytes that may go out.
    pub(super) fn earn(&mut self, ticks: u32, now: u32) -> f64 {
        let per_tick = self.bytes_per_s * self.tick_ms / 1_000.0;
        let most = (self.bytes_per_s * BURST_S).max(per_tick * f64::from(ticks));
        self.tokens = (self.tokens + per_tick * f64::from(ticks)).min(most);
        let second = self.second();
        for (list, sum) in [(&mut self.spent, &mut self.spent_sum), (&mut self.views, &mut self.views_sum)] {
            while let Some((_, bytes)) = list.pop_front_if(|(tick, _)| *tick + second <= now) {
                *sum -= bytes;
            }
        }
        let views = f64::from(self.views_sum).clamp(self.most * VIEWS_KEPT, self.most * VIEWS_PART);
        self.tokens.min(self.most - views - f64::from(self.spent_sum))
    }

    /// So many bytes of views went out in tick `now`: they share the line with motion.
    pub(super) fn spend_views(&mut self, bytes: usize, now: u32) {
        self.views_sum += bytes as u32;
        match self.views.back_mut() {
            Some((tick, sum)) if *tick == now => *sum += bytes as u32,
            _ => self.views.push_back((now, bytes as u32)),
        }
    }

    /// So many went out in tick `now`.
    pub(super) fn spend(&mut self, bytes: usize, now: u32) {
        self.tokens -= bytes as f64;
        self.spent.push_back((now, bytes as u32));
        self.spent_sum += bytes as u32;
    }

    fn second(&self) -> u32 {
        (1_000.0 / self.tick_ms).round() as u32
    }

    /// A packet arrived, acknowledged `ticks` after it was sent.
    pub(super) fn arrived(&mut self, ticks: u32) {
        let sample = f64::from(ticks) * self.tick_ms;
        self.acked += 1;
        self.shortest = self.shortest.min(sample);
        self.round_trip =
            if self.round_trip == 0.0 { sample } else { self.round_trip + (sample - self.round_trip) / 8.0 };
    }

    /// A packet did not arrive.
    pub(super) fn lost(&mut self) {
        self.lost += 1;
    }

    /// Once a second, adapts.
    pub(super) fn adapt(&mut self, now: u32) {
        if now < self.second_began + self.second() {
            return;
        }
        self.second_began = now;
        let told = self.acked + self.lost;
        let loss = f64::from(self.lost) / f64::from(told.max(1));
        let queued = self.round_trip > self.shortest * 2.0 + QUEUE_MS;
        if told >= 5 && (loss > LOSS_MAX || queued) {
            self.bytes_per_s = (self.bytes_per_s * 0.8).max(self.most * LEAST_PART);
        } else {
            self.bytes_per_s = (self.bytes_per_s + self.most / 16.0).min(self.most);
        }
        (self.acked, self.lost) = (0, 0);
        // The way may have become longer for good.
        self.shortest *= 1.02;
    }

    /// How long an acknowledgement takes, in ticks.
    pub(super) fn round_trip_ticks(&self) -> u32 {
        (self.round_trip / self.tick_ms).ceil() as u32
    }

    /// What may go out in a second now.
    pub(super) fn bytes_per_s(&self) -> f64 {
        self.bytes_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `seconds` at 20 Hz, one packet a tick of which one in `lost_every` is lost; each takes `ticks`.
    fn run(rate: &mut Rate, from: u32, seconds: u32, lost_every: u32, ticks: u32) -> u32 {
        let end = from + seconds * 20;
        for now in from..end {
            if lost_every > 0 && now % lost_every == 0 {
                rate.lost()
            } else {
                rate.arrived(ticks)
            }
            rate.adapt(now);
        }
        end
    }

    #[test]
    fn it_shrinks_under_loss_and_under_delay_and_grows_back() {
        let mut rate = Rate::new(32_000.0, 20);
        let now = run(&mut rate, 20, 10, 50, 2);
        assert_eq!(rate.bytes_per_s(), 32_000.0, "two in a hundred are no congestion");
        let now = run(&mut rate, now, 3, 5, 2);
        assert!((14_000.0..22_000.0).contains(&rate.bytes_per_s()), "{}", rate.bytes_per_s());
        let now = run(&mut rate, now, 60, 5, 2);
        assert_eq!(rate.bytes_per_s(), 4_000.0, "there is a least");
        let now = run(&mut rate, now, 20, 0, 2);
        assert_eq!(rate.bytes_per_s(), 32_000.0);
        run(&mut rate, now, 8, 0, 12);
        assert!(rate.bytes_per_s() < 16_000.0, "{}", rate.bytes_per_s());
        assert_eq!(rate.round_trip_ticks(), 12);
    }

    #[test]
    fn what_was_not_used_is_good_for_a_moment_only() {
        let mut rate = Rate::new(20_000.0, 20);
        assert_eq!(rate.earn(1, 1), 1_000.0);
        rate.spend(1_500, 1);
        assert_eq!(rate.earn(1, 2), 500.0);
        for now in 3..53 {
            rate.earn(1, now);
        }
        assert_eq!(rate.earn(1, 53), 2_000.0);
    }

    #[test]
    fn views_take_up_to_a_quarter_from_motion() {
        let second = |views: usize| {
            let mut rate = Rate::new(20_000.0, 20);
            let mut spent = 0;
            for now in 1..=100 {
                rate.spend_views(views, now);
                let room = rate.earn(1, now).max(0.0) as usize;
                rate.spend(room, now);
                spent += if now > 80 { room } else { 0 };
            }
            spent
        };
        assert_eq!([second(0), second(100), second(250), second(100_000)], [19_375, 18_000, 15_000, 15_000]);
    }

    #[test]
    fn no_second_has_more_than_the_budget() {
        let mut rate = Rate::new(20_000.0, 20);
        let mut spent = Vec::new();
        for now in 1..400 {
            let room = rate.earn(1, now) as usize;
            // Now and then a pause, after which there is more to say than usual.
            let bytes = if now % 40 < 5 { 0 } else { room };
            rate.spend(bytes, now);
            spent.push(bytes);
        }
        let fullest = spent.windows(20).map(|second| second.iter().sum::<usize>()).max().unwrap();
        // The rest is kept for views.
        assert_eq!(fullest, 19_375);
        assert!(spent.contains(&2_000), "a burst was possible");
    }
}
