//! How much a client may send, by class of message. Used twice: by the transport's worker, so that excess never reaches the
//! tick's queue, and by the session, for transports without a worker. In front of that, [`Intake`] holds back raw packets, before anything
//! is spent on deciphering and reassembling them.

use std::time::Duration;
use vsekai_schema::wire::CHANNEL_COMMAND;

/// Messages per second on average, by class; twice as many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Movement, and whatever else goes by datagram but pings.
    pub moves_per_s: u32,
    /// Commands.
    pub commands_per_s: u32,
    /// Pings.
    pub pings_per_s: u32,
    /// Hellos, goodbyes, acknowledgements of results.
    pub others_per_s: u32,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates { moves_per_s: 200, commands_per_s: 20, pings_per_s: 20, others_per_s: 20 }
    }
}

/// The classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// By datagram.
    Move,
    /// Reliable.
    Command,
    /// By datagram.
    Ping,
    /// Reliable.
    Other,
}

impl Class {
    /// Of a message that nobody has decoded yet: by its first byte, the number of its kind.
    pub fn of(channel: usize, bytes: &[u8]) -> Class {
        let is_second_kind = bytes.first() == Some(&1);
        match (channel == CHANNEL_COMMAND, is_second_kind) {
            (true, true) => Class::Command,
            (true, false) => Class::Other,
            (false, true) => Class::Ping,
            (false, false) => Class::Move,
        }
    }
}

/// What is to be done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// It is within the rate.
    Within,
    /// It is one too many.
    Over,
    /// It is one too many of very many: the connection is to end.
    Flooding,
}

/// So many messages over the rate end the connection; they are forgiven at [`STRIKES_FORGIVEN_PER_S`].
const STRIKES_MAX: f64 = 200.0;
const STRIKES_FORGIVEN_PER_S: f64 = 2.0;

/// A leaky bucket: so many per second on average, a burst of twice as many.
#[derive(Debug, Clone)]
struct Bucket {
    per_s: f64,
    level: f64,
    at: Duration,
}

impl Bucket {
    fn new(per_s: u32, now: Duration) -> Self {
        Bucket { per_s: per_s.into(), level: f64::from(per_s) * 2.0, at: now }
    }

    fn take(&mut self, now: Duration) -> bool {
        let enough = self.holds(now, 1.0);
        if enough {
            self.level -= 1.0;
        }
        enough
    }

    /// Is there so much in it?
    fn holds(&mut self, now: Duration, amount: f64) -> bool {
        let gained = now.saturating_sub(self.at).as_secs_f64() * self.per_s;
        self.level = (self.level + gained).min(self.per_s * 2.0);
        self.at = now;
        self.level >= amount
    }
}

/// UDP packets and bytes that one peer may send per second on average, whatever is in them; twice as many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntakeRates {
    /// Packets.
    pub packets_per_s: u32,
    /// Bytes of UDP payload.
    pub bytes_per_s: u32,
}

impl Default for IntakeRates {
    /// A player sends some 100 packets and 5 kB a second; one that walks, gestures and builds as fast as [`Rates`] let it and acknowledges a
    /// full stream of chunks, some 500 packets.
    fn default() -> IntakeRates {
        IntakeRates { packets_per_s: 800, bytes_per_s: 64_000 }
    }
}

/// Measures the packets of one peer. What goes over the rate is to be dropped as if the network had lost it: congestion control then
/// slows an honest sender down, and a flood costs its sender's own messages.
///
/// Whoever can forge a peer's address and port can use up its rate: it is then as if the network between them were full.
#[derive(Debug)]
pub struct Intake {
    packets: Bucket,
    bytes: Bucket,
}

impl Intake {
    /// From `now` on, with full buckets.
    pub fn new(rates: IntakeRates, now: Duration) -> Intake {
        Intake { packets: Bucket::new(rates.packets_per_s, now), bytes: Bucket::new(rates.bytes_per_s, now) }
    }

    /// Is a packet of so many bytes within the rate? Only then is it counted: what is dropped delays nothing that comes later.
    pub fn take(&mut self, now: Duration, bytes: usize) -> bool {
        let bytes = bytes as f64;
        let within = self.packets.holds(now, 1.0) && self.bytes.holds(now, bytes);
        if within {
            self.packets.level -= 1.0;
            self.bytes.level -= bytes;
        }
        within
    }
}

/// Measures one client.
#[derive(Debug)]
pub struct Meter {
    moves: Bucket,
    commands: Bucket,
    pings: Bucket,
    others: Bucket,
    strikes: f64,
    struck_at: Duration,
}

impl Meter {
    /// From `now` on, with full buckets.
    pub fn new(rates: Rates, now: Duration) -> Meter {
        Meter {
            moves: Bucket::new(rates.moves_per_s, now),
            commands: Bucket::new(rates.commands_per_s, now),
            pings: Bucket::new(rates.pings_per_s, now),
            others: Bucket::new(rates.others_per_s, now),
            strikes: 0.0,
            struck_at: now,
        }
    }

    /// Counts one message.
    pub fn take(&mut self, now: Duration, class: Class) -> Measured {
        let bucket = match class {
            Class::Move => &mut self.moves,
            Class::Command => &mut self.commands,
            Class::Ping => &mut self.pings,
            Class::Other => &mut self.others,
        };
        if bucket.take(now) {
            return Measured::Within;
        }
        let forgiven = now.saturating_sub(self.struck_at).as_secs_f64() * STRIKES_FORGIVEN_PER_S;
        self.strikes = (self.strikes - forgiven).max(0.0) + 1.0;
        self.struck_at = now;
        if self.strikes > STRIKES_MAX { Measured::Flooding } else { Measured::Over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_do_not_take_from_each_other() {
        let rates = Rates { moves_per_s: 4, commands_per_s: 3, pings_per_s: 2, others_per_s: 1 };
        let mut meter = Meter::new(rates, Duration::ZERO);
        for (class, burst) in [(Class::Move, 8), (Class::Command, 6), (Class::Ping, 4), (Class::Other, 2)] {
            for _ in 0..burst {
                assert_eq!(meter.take(Duration::ZERO, class), Measured::Within, "{class:?}");
            }
            assert_eq!(meter.take(Duration::ZERO, class), Measured::Over, "{class:?}");
        }
        assert_eq!(meter.take(Duration::from_millis(500), Class::Ping), Measured::Within);
        assert_eq!(meter.take(Duration::from_millis(500), Class::Ping), Measured::Over);
    }

    #[test]
    fn intake_is_held_by_packets_and_by_bytes_and_what_is_dropped_is_not_counted() {
        let rates = IntakeRates { packets_per_s: 10, bytes_per_s: 1_000 };
        let taken = |sizes: &[usize]| {
            let mut intake = Intake::new(rates, Duration::ZERO);
            sizes.iter().filter(|&&size| intake.take(Duration::ZERO, size)).count()
        };
        assert_eq!(taken(&[1; 30]), 20, "packets");
        assert_eq!(taken(&[500; 30]), 4, "bytes");
        // The large ones that find no room leave it to the small one.
        assert_eq!(taken(&[1_990, 500, 500, 10]), 2);

        let mut intake = Intake::new(rates, Duration::ZERO);
        let passed = (0..10_000).filter(|&ms| intake.take(Duration::from_millis(ms), 10)).count();
        assert_eq!(passed, 20 + 99, "ten a second after the burst, for ten seconds");
    }

    #[test]
    fn strikes_add_up_and_are_forgiven() {
        let mut meter = Meter::new(Rates { pings_per_s: 1, ..Rates::default() }, Duration::ZERO);
        let mut strike = |now: Duration| {
            while meter.take(now, Class::Ping) == Measured::Within {}
            meter.take(now, Class::Ping)
        };
        // Two strikes a second and one in between are what is forgiven, and a little more.
        for second in 0..300 {
            assert_eq!(strike(Duration::from_secs(second)), Measured::Over);
        }
        let end = Duration::from_secs(300);
        let measured = std::iter::repeat_with(|| strike(end)).take(201).last();
        assert_eq!(measured, Some(Measured::Flooding));
    }

    #[test]
    fn classes_go_by_channel_and_first_byte() {
        let found = [(1, &[1][..]), (1, &[0]), (1, &[]), (0, &[1]), (0, &[0]), (0, &[])].map(|(c, b)| Class::of(c, b));
        assert_eq!(found, [Class::Command, Class::Other, Class::Other, Class::Ping, Class::Move, Class::Move]);
    }
}
