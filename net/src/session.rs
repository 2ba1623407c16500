//! One client's conversation, without I/O: what it may say when, how much of it, and what is answered.
//!
//! Bytes and time come in as arguments; a [`Verdict`] per message goes out. The session knows nothing of the world.

use crate::flood::{Class, Measured, Meter, Rates};
use std::time::Duration;
use vsekai_schema::codec::{DecodeError, from_bytes};
use vsekai_schema::id::EntityId;
use vsekai_schema::wire::motion::Acks;
use vsekai_schema::wire::pose::client_pose;
use vsekai_schema::wire::steps::decode_steps;
use vsekai_schema::wire::{
    CHANNEL_COMMAND, CHANNEL_STATE, CLIENT_MESSAGE_BYTES_MAX, ClientDatagram, ClientMessage, Command, MoveInput,
    NAME_CHARS_MAX, Refusal, ResumeSecret, TOKEN_BYTES_MAX, decode_client_datagram, decode_client_message,
};

/// How much a client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages per second.
    pub rates: Rates,
    /// A client that was silent for this long is gone.
    pub silence: Duration,
    /// A hello must come within this time.
    pub hello: Duration,
}

/// What a session is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The hello.
    Hello,
    /// The player to be in the world, and that to be durable.
    Entering,
    /// Nothing: the player plays.
    Playing(EntityId),
}

/// What to do about one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Ignore,
    /// Bring the player of this token into the world.
    Enter {
        /// Not checked yet.
        token: String,
        /// Under which name.
        name: String,
    },
    /// Go on with a session.
    Resume {
        /// Which.
        secret: ResumeSecret,
        /// Results that arrived in it.
        results: u32,
    },
    /// So many results arrived: they need not be kept.
    Seen {
        /// In the whole session.
        results: u32,
    },
    /// Pass a movement on.
    Move {
        /// Whose.
        player: EntityId,
        /// Which.
        step: MoveInput,
        /// Which motion packets arrived.
        acks: Option<Acks>,
    },
    /// Put movements into the player's buffer, which gives one a tick.
    Steps {
        /// Whose.
        player: EntityId,
        /// The newest ones, the oldest first.
        steps: Vec<MoveInput>,
        /// Which motion packets arrived.
        acks: Option<Acks>,
    },
    /// Hand head and hands on to those near.
    Pose {
        /// Whose.
        player: EntityId,
        /// The pose, not read yet.
        pose: Vec<u8>,
    },
    /// Pass a command on.
    Command {
        /// Whose.
        player: EntityId,
        /// Its number.
        sequence: u32,
        /// Which.
        command: Command,
    },
    /// Refuse a command at the door, without effect.
    TooFrequent {
        /// Its number.
        sequence: u32,
    },
    /// Answer a ping.
    Pong {
        /// From the ping.
        nonce: u32,
        /// Which motion packets arrived.
        acks: Option<Acks>,
    },
    /// The client leaves.
    Leave,
    /// Tell the client why, and end the connection.
    Refuse {
        /// Which kind.
        reason: Refusal,
        /// One sentence for the player.
        message: String,
    },
}

/// The conversation.
#[derive(Debug)]
pub struct Session {
    stage: Stage,
    tick_hz: u8,
    limits: Limits,
    meter: Meter,
    since: Duration,
    heard: Duration,
}

impl Session {
    /// A fresh connection, at time `now`, to a shard that runs at `tick_hz`.
    pub fn new(limits: Limits, tick_hz: u8, now: Duration) -> Self {
        Session { stage: Stage::Hello, tick_hz, limits, meter: Meter::new(limits.rates, now), since: now, heard: now }
    }

    /// What it is waiting for.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The player stands in the world, and that is durable.
    pub fn entered(&mut self, player: EntityId) {
        self.stage = Stage::Playing(player);
    }

    /// Judges one message.
    pub fn receive(&mut self, now: Duration, channel: usize, bytes: &[u8]) -> Verdict {
        self.heard = now;
        if bytes.len() > CLIENT_MESSAGE_BYTES_MAX {
            let message = format!("a message of {} bytes; at most {CLIENT_MESSAGE_BYTES_MAX} are allowed", bytes.len());
            return Verdict::Refuse { reason: Refusal::TooLarge, message };
        }
        match channel {
            CHANNEL_COMMAND => match decode_client_message(bytes) {
                Ok(message) => self.receive_message(now, message),
                Err(DecodeError::UnknownVersion { found, newest, .. }) => Verdict::Refuse {
                    reason: Refusal::WrongProtocol,
                    message: format!("this shard speaks protocol version {newest}, the client speaks {found}"),
                },
                Err(error) => malformed(&error),
            },
            CHANNEL_STATE => self.receive_state(now, bytes),
            _ => Verdict::Refuse { reason: Refusal::Malformed, message: format!("there is no channel {channel}") },
        }
    }

    /// The verdict on a client that has not spoken for too long.
    pub fn check_silence(&self, now: Duration) -> Verdict {
        let late = self.stage == Stage::Hello && now.saturating_sub(self.since) > self.limits.hello;
        if late || now.saturating_sub(self.heard) > self.limits.silence {
            return refuse(Refusal::TimedOut);
        }
        Verdict::Ignore
    }

    fn receive_message(&mut self, now: Duration, message: ClientMessage) -> Verdict {
        let class = if matches!(message, ClientMessage::Command { .. }) { Class::Command } else { Class::Other };
        let measured = self.meter.take(now, class);
        if measured == Measured::Flooding || measured == Measured::Over && class == Class::Other {
            return refuse(Refusal::Flooding);
        }
        match (self.stage, message) {
            (_, ClientMessage::Goodbye) => Verdict::Leave,
            // Decoding refuses every other protocol version.
            (Stage::Hello, ClientMessage::Hello { token, name, tick_hz, protocol: _ }) => {
                self.receive_hello(token, name, tick_hz)
            }
            (Stage::Hello, ClientMessage::Resume { secret, results, protocol: _ }) => {
                Verdict::Resume { secret, results }
            }
            (Stage::Hello, _) => refuse(Refusal::NotJoined),
            (_, ClientMessage::Hello { .. } | ClientMessage::Resume { .. }) => refuse(Refusal::AlreadyJoined),
            (Stage::Entering, ClientMessage::Seen { .. }) => refuse(Refusal::NotJoined),
            (Stage::Playing(_), ClientMessage::Seen { results }) => Verdict::Seen { results },
            // A command before the welcome cannot know its number.
            (Stage::Entering, ClientMessage::Command { .. }) => refuse(Refusal::NotJoined),
            (Stage::Playing(player), ClientMessage::Command { sequence, command }) => {
                if measured == Measured::Over {
                    return Verdict::TooFrequent { sequence };
                }
                Verdict::Command { player, sequence, command }
            }
        }
    }

    fn receive_hello(&mut self, token: String, name: String, tick_hz: u8) -> Verdict {
        if tick_hz != 0 && tick_hz != self.tick_hz {
            let message =
                format!("this shard runs at {} ticks per second, the client asks for {tick_hz}", self.tick_hz);
            return Verdict::Refuse { reason: Refusal::WrongTickRate, message };
        }
        if token.len() > TOKEN_BYTES_MAX {
            let message = format!("a token has at most {TOKEN_BYTES_MAX} bytes, this one {}", token.len());
            return Verdict::Refuse { reason: Refusal::BadToken, message };
        }
        let shown = name.trim() == name && !name.is_empty() && !name.chars().any(char::is_control);
        if !shown || name.chars().count() > NAME_CHARS_MAX {
            let message = format!("a name has 1 to {NAME_CHARS_MAX} characters, without spaces around it");
            return Verdict::Refuse { reason: Refusal::BadName, message };
        }
        self.stage = Stage::Entering;
        Verdict::Enter { token, name }
    }

    fn receive_state(&mut self, now: Duration, bytes: &[u8]) -> Verdict {
        if let Some(pose) = client_pose(bytes) {
            return self.receive_pose(now, pose);
        }
        if let Some(steps) = decode_steps(bytes) {
            return match steps.and_then(|(steps, rest)| Ok((steps, from_bytes(rest)?))) {
                Ok((steps, acks)) => self.receive_steps(now, steps, acks),
                Err(error) => malformed(&error),
            };
        }
        match decode_client_datagram(bytes) {
            Ok(datagram) => self.receive_datagram(now, datagram),
            Err(error) => malformed(&error),
        }
    }

    fn receive_steps(&mut self, now: Duration, steps: Vec<MoveInput>, acks: Option<Acks>) -> Verdict {
        if let Some(refused) = self.measure_move(now) {
            return refused;
        }
        match self.stage {
            Stage::Playing(player) => Verdict::Steps { player, steps, acks },
            _ => Verdict::Ignore,
        }
    }

    fn receive_pose(&mut self, now: Duration, pose: &[u8]) -> Verdict {
        if let Some(refused) = self.measure_move(now) {
            return refused;
        }
        match self.stage {
            Stage::Playing(player) => Verdict::Pose { player, pose: pose.to_vec() },
            _ => Verdict::Ignore,
        }
    }

    /// What to do with a datagram that counts as movement, if it is one too many.
    fn measure_move(&mut self, now: Duration) -> Option<Verdict> {
        match self.meter.take(now, Class::Move) {
            Measured::Within => None,
            Measured::Over => Some(Verdict::Ignore),
            Measured::Flooding => Some(refuse(Refusal::Flooding)),
        }
    }

    fn receive_datagram(&mut self, now: Duration, datagram: ClientDatagram) -> Verdict {
        let class = if matches!(datagram, ClientDatagram::Ping { .. }) { Class::Ping } else { Class::Move };
        match self.meter.take(now, class) {
            Measured::Within => {}
            Measured::Over => return Verdict::Ignore,
            Measured::Flooding => return refuse(Refusal::Flooding),
        }
        match (self.stage, datagram) {
            (_, ClientDatagram::Ping { nonce, acks }) => Verdict::Pong { nonce, acks },
            (Stage::Playing(player), ClientDatagram::Move { step, acks }) => Verdict::Move { player, step, acks },
            // Datagrams overtake reliable messages: an early one is no offence.
            (_, ClientDatagram::Move { .. }) => Verdict::Ignore,
        }
    }
}

fn refuse(reason: Refusal) -> Verdict {
    Verdict::Refuse { reason, message: reason.to_string() }
}

fn malformed(error: &DecodeError) -> Verdict {
    Verdict::Refuse { reason: Refusal::Malformed, message: format!("a message {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vsekai_schema::wire::{ClientMessage, PROTOCOL_VERSION, encode};

    const LIMITS: Limits = Limits {
        rates: Rates { moves_per_s: 60, commands_per_s: 10, pings_per_s: 10, others_per_s: 10 },
        silence: Duration::from_secs(5),
        hello: Duration::from_secs(3),
    };
    const PLAYER: EntityId = EntityId(5000);

    fn hello(protocol: u16, token: &str, name: &str, tick_hz: u8) -> Vec<u8> {
        encode(&ClientMessage::Hello { protocol, token: token.into(), name: name.into(), tick_hz })
    }

    fn command(sequence: u32) -> Vec<u8> {
        encode(&ClientMessage::Command { sequence, command: Command::Harvest { node: PLAYER } })
    }

    fn refusal(verdict: Verdict) -> (Refusal, String) {
        match verdict {
            Verdict::Refuse { reason, message } => (reason, message),
            other => panic!("not refused: {other:?}"),
        }
    }

    fn playing() -> Session {
        let mut session = Session::new(LIMITS, 60, Duration::ZERO);
        let verdict = session.receive(Duration::ZERO, CHANNEL_COMMAND, &hello(2, "a-good-token", "Anna", 60));
        assert_eq!(verdict, Verdict::Enter { token: "a-good-token".into(), name: "Anna".into() });
        session.entered(PLAYER);
        session
    }

    #[test]
    fn a_hello_is_refused_with_what_is_needed() {
        let cases = [
            (hello(3, "a-good-token", "Anna", 0), Refusal::WrongProtocol, "protocol version 2, the client speaks 3"),
            (vec![0, 0xff, 0xff, 3, 77, 88], Refusal::WrongProtocol, "the client speaks 65535"),
            (
                [&[0x80, 0][..], &hello(3, "a-good-token", "Anna", 0)[1..]].concat(),
                Refusal::WrongProtocol,
                "the client speaks 3",
            ),
            (hello(2, "a-good-token", "Anna", 30), Refusal::WrongTickRate, "at 60 ticks per second"),
            (hello(2, &"t".repeat(161), "Anna", 0), Refusal::BadToken, "at most 160 bytes, this one 161"),
            (hello(2, "a-good-token", "", 0), Refusal::BadName, "1 to 24 characters"),
            (hello(2, "a-good-token", "a\u{7}b", 0), Refusal::BadName, "1 to 24 characters"),
            (hello(2, "a-good-token", &"x".repeat(25), 0), Refusal::BadName, "1 to 24 characters"),
            (command(1), Refusal::NotJoined, "a hello must come first"),
            (vec![9], Refusal::Malformed, "invalid value"),
            (vec![], Refusal::Malformed, "ends too early"),
            (vec![0; 513], Refusal::TooLarge, "513 bytes; at most 512"),
        ];
        for (bytes, reason, words) in cases {
            let mut session = Session::new(LIMITS, 60, Duration::ZERO);
            let (found, message) = refusal(session.receive(Duration::ZERO, CHANNEL_COMMAND, &bytes));
            assert_eq!(found, reason, "{message}");
            assert!(message.contains(words), "{message:?} does not say {words:?}");
        }
    }

    #[test]
    fn a_second_hello_and_trailing_bytes_are_refused() {
        let mut session = playing();
        assert_eq!(
            refusal(session.receive(Duration::ZERO, CHANNEL_COMMAND, &hello(2, "a-good-token", "A", 0))).0,
            Refusal::AlreadyJoined
        );
        let mut long = command(1);
        long.push(0);
        assert_eq!(refusal(playing().receive(Duration::ZERO, CHANNEL_COMMAND, &long)).0, Refusal::Malformed);
        assert_eq!(refusal(playing().receive(Duration::ZERO, 7, &[])).0, Refusal::Malformed);
    }

    #[test]
    fn commands_beyond_the_rate_are_refused_at_the_door_and_a_flood_ends_the_connection() {
        let mut session = playing();
        let mut verdicts = (1..=400).map(|n| session.receive(Duration::ZERO, CHANNEL_COMMAND, &command(n)));
        assert!(verdicts.by_ref().take(20).all(|verdict| matches!(verdict, Verdict::Command { .. })));
        assert_eq!(verdicts.next(), Some(Verdict::TooFrequent { sequence: 21 }));
        assert_eq!(refusal(verdicts.last().unwrap()).0, Refusal::Flooding);
        let mut patient = playing();
        for n in 1..500 {
            let verdict = patient.receive(Duration::from_millis(101) * n, CHANNEL_COMMAND, &command(n));
            assert!(matches!(verdict, Verdict::Command { .. }), "command {n}: {verdict:?}");
        }
    }

    #[test]
    fn a_resume_takes_the_place_of_a_hello() {
        let resume = |protocol| encode(&ClientMessage::Resume { protocol, secret: [7; 16], results: 5 });
        let mut session = Session::new(LIMITS, 60, Duration::ZERO);
        let verdict = session.receive(Duration::ZERO, CHANNEL_COMMAND, &resume(PROTOCOL_VERSION));
        assert_eq!(verdict, Verdict::Resume { secret: [7; 16], results: 5 });
        let mut other = Session::new(LIMITS, 60, Duration::ZERO);
        let refused = refusal(other.receive(Duration::ZERO, CHANNEL_COMMAND, &resume(PROTOCOL_VERSION + 1)));
        assert_eq!(refused.0, Refusal::WrongProtocol);
        let refused = refusal(playing().receive(Duration::ZERO, CHANNEL_COMMAND, &resume(PROTOCOL_VERSION)));
        assert_eq!(refused.0, Refusal::AlreadyJoined);
        let seen = encode(&ClientMessage::Seen { results: 9 });
        assert_eq!(playing().receive(Duration::ZERO, CHANNEL_COMMAND, &seen), Verdict::Seen { results: 9 });
        assert_eq!(refusal(other.receive(Duration::ZERO, CHANNEL_COMMAND, &seen)).0, Refusal::NotJoined);
    }

    #[test]
    fn silence_is_noticed() {
        let session = playing();
        assert_eq!(session.check_silence(Duration::from_secs(5)), Verdict::Ignore);
        assert_eq!(refusal(session.check_silence(Duration::from_millis(5_001))).0, Refusal::TimedOut);
        let dumb = Session::new(LIMITS, 60, Duration::ZERO);
        assert_eq!(refusal(dumb.check_silence(Duration::from_millis(3_001))).0, Refusal::TimedOut);
    }

    proptest! {
        /// Whatever bytes come, on whatever channel, in whatever stage: a verdict, never a panic.
        #[test]
        fn random_bytes_never_panic(messages in proptest::collection::vec((0usize..3, proptest::collection::vec(any::<u8>(), 0..64)), 0..40), joined: bool) {
            let mut session = if joined { playing() } else { Session::new(LIMITS, 60, Duration::ZERO) };
            for (channel, bytes) in messages {
                session.receive(Duration::ZERO, channel, &bytes);
            }
        }
    }
}
