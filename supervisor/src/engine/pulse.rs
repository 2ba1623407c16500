//! Whether a child that speaks over its `NOTIFY_SOCKET` still lives: what it said and time in, illness out.

use crate::fleet::Illness;
use crate::notify::Said;
use std::time::Duration;

/// The watch over one run of a child. A child that names its tick is alive as long as that advances, whatever else it says: a shard
/// that answers but does not tick is hung. Any other is alive as long as it says `WATCHDOG=1`.
#[derive(Debug, Clone, Default)]
pub struct Pulse {
    timeout: Option<Duration>,
    /// When it last showed that it lives; `None` until it is ready.
    last: Option<Duration>,
    /// It asked for time until then.
    extended_until: Duration,
    heard: Said,
}

impl Pulse {
    /// Not armed before the child is ready. Without a timeout, never.
    pub fn new(timeout: Option<Duration>) -> Pulse {
        Pulse { timeout, ..Pulse::default() }
    }

    /// Takes what the child has said so far.
    pub fn hear(&mut self, now: Duration, said: &Said) {
        let alive = match (said.tick, self.heard.tick) {
            (Some(tick), Some(before)) => tick > before,
            (Some(_), None) => true,
            (None, _) => said.watchdogs > self.heard.watchdogs,
        };
        if said.ready && (alive || self.last.is_none()) {
            self.last = Some(now);
        }
        if said.extended.0 > self.heard.extended.0 {
            self.extended_until = now.saturating_add(Duration::from_micros(said.extended.1));
        }
        self.heard = said.clone();
    }

    /// Until when the child asked to be left alone.
    pub fn extended_until(&self) -> Duration {
        self.extended_until
    }

    /// What is wrong, if something is.
    pub fn check(&self, now: Duration) -> Option<Illness> {
        let (timeout, last) = (self.timeout?, self.last?);
        let silent = now.saturating_sub(last);
        if silent <= timeout || now < self.extended_until {
            return None;
        }
        Some(Illness::Hung { for_s: silent.as_secs_f64(), tick: self.heard.tick })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn said(ready: bool, watchdogs: u64, tick: Option<u64>) -> Said {
        Said { ready, watchdogs, tick, ..Said::default() }
    }

    #[test]
    fn who_answers_but_does_not_tick_is_hung() {
        let mut pulse = Pulse::new(Some(5 * S));
        for second in 0..10 {
            pulse.hear(second * S, &said(true, second.into(), Some(u64::from(second.min(3)))));
        }
        assert_eq!(pulse.check(8 * S), None);
        assert_eq!(pulse.check(9 * S), Some(Illness::Hung { for_s: 6.0, tick: Some(3) }));
    }

    #[test]
    fn without_a_tick_the_watchdog_counts() {
        let mut pulse = Pulse::new(Some(5 * S));
        pulse.hear(S, &said(false, 1, None));
        assert_eq!(pulse.check(100 * S), None, "not ready yet: the start has its own time");
        pulse.hear(100 * S, &said(true, 1, None));
        pulse.hear(104 * S, &said(true, 2, None));
        pulse.hear(108 * S, &Said { status: "busy".into(), ..said(true, 2, None) });
        assert_eq!(pulse.check(109 * S), None);
        assert_eq!(pulse.check(110 * S), Some(Illness::Hung { for_s: 6.0, tick: None }));
    }

    #[test]
    fn more_time_is_given_once_for_each_time_it_is_asked_for() {
        let mut pulse = Pulse::new(Some(S));
        pulse.hear(S, &said(true, 1, None));
        let asked = Said { extended: (1, 10_000_000), ..said(true, 1, None) };
        pulse.hear(S, &asked);
        pulse.hear(5 * S, &asked);
        assert_eq!(pulse.check(10 * S), None);
        assert!(pulse.check(11 * S).is_some());
    }

    #[test]
    fn without_a_timeout_nobody_is_hung() {
        let mut pulse = Pulse::new(None);
        pulse.hear(S, &said(true, 1, Some(1)));
        assert_eq!(pulse.check(Duration::MAX), None);
    }
}
