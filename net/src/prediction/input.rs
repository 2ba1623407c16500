//! One input a tick, whatever the network does.
//!
//! Each datagram of a client carries its newest inputs, so that a lost one is made good by the next ([`InputSender`]). The shard
//! keeps what came early and takes one a tick ([`InputBuffer`]); when the one that is due has not come, it repeats the last. It
//! reports how early inputs come; the client then runs a little faster or slower ([`Pacer`]), so that they come just early
//! enough for the jitter of late: the buffer is as deep as the network asks for, and no deeper.
//!
//! Invariants: numbers are taken in order, each once, one per tick; at most [`BUFFER_MAX`] wait.

use std::collections::VecDeque;
use std::time::Duration;
use thiserror::Error;
use vsekai_schema::wire::MoveInput;

/// Most inputs in one datagram.
pub const REDUNDANCY_MAX: usize = 8;
/// Inputs in one datagram when nothing else is asked for: three losses in a row do no harm.
pub const REDUNDANCY: usize = 4;
/// Most inputs that wait for their tick; at 60 a second about a second's worth.
pub const BUFFER_MAX: u32 = 64;
/// Inputs of late by which the buffer judges the network.
const JUDGED: usize = 128;
/// Of those, so many may have come too late.
const FORGIVEN: usize = 1;
/// How early the latest shall come, ticks.
pub const SLACK_WANTED: i32 = 1;
/// How often the last input is repeated before the player stands.
const REPEATED_MAX: u32 = 30;
/// An input that comes this late restarts the buffer: the client's numbers fell behind for good.
const LATE_MAX: u32 = 600;

/// Why a datagram's inputs were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InputRefusal {
    /// None in it.
    #[error("a datagram without inputs")]
    Empty,
    /// Too many in it.
    #[error("{0} inputs in a datagram, at most {REDUNDANCY_MAX} are allowed")]
    TooMany(usize),
    /// They are not numbered without gaps.
    #[error("input {found} where {expected} was expected")]
    NotInRow {
        /// The number found.
        found: u32,
        /// The number expected.
        expected: u32,
    },
}

/// What the shard does in one tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// This input came in time.
    Arrived(MoveInput),
    /// It did not: the one before, under the number that was due.
    Repeated(MoveInput),
    /// The player has not begun, or was silent for too long.
    Nothing,
}

/// What the shard tells the client about its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InputFeedback {
    /// The number that was taken last.
    pub taken: u32,
    /// How many ticks before their turn the latest inputs of late came; below 0: too late.
    pub slack: i8,
}

/// The shard's side, one for each player.
#[derive(Debug, Clone, Default)]
pub struct InputBuffer {
    /// What waits, by number; `next` is the number of the first place.
    waiting: VecDeque<Option<MoveInput>>,
    next: u32,
    started: bool,
    /// Ticks until the first input is taken.
    hold: u32,
    last: Option<MoveInput>,
    repeated: u32,
    /// How early each number's first copy came, ticks.
    slacks: VecDeque<i8>,
    newest: u32,
    repeats_total: u64,
}

impl InputBuffer {
    /// Takes a datagram's inputs, the oldest first. Numbers that were taken or came already are passed over. The answer is how many
    /// were new.
    ///
    /// # Errors
    /// When they are not what a client may send; the buffer is then as it was.
    pub fn receive(&mut self, inputs: &[MoveInput]) -> Result<usize, InputRefusal> {
        let newest = inputs.last().ok_or(InputRefusal::Empty)?.sequence;
        if inputs.len() > REDUNDANCY_MAX {
            return Err(InputRefusal::TooMany(inputs.len()));
        }
        let first = newest.wrapping_sub(inputs.len() as u32 - 1);
        for (input, expected) in inputs.iter().zip((0..).map(|n: u32| first.wrapping_add(n))) {
            if input.sequence != expected {
                return Err(InputRefusal::NotInRow { found: input.sequence, expected });
            }
        }
        let ahead = newest.wrapping_sub(self.next) as i32;
        if !self.started || ahead >= BUFFER_MAX as i32 || ahead < -(LATE_MAX as i32) {
            self.restart(newest);
        }
        let mut fresh = 0;
        for input in inputs {
            let slack = input.sequence.wrapping_sub(self.next) as i32;
            // Only first copies are judged: what comes again comes late by design.
            if (input.sequence.wrapping_sub(self.newest) as i32) > 0 {
                self.newest = input.sequence;
                self.judge(slack);
            }
            if slack < 0 {
                continue;
            }
            let place = slack as usize;
            while self.waiting.len() <= place {
                self.waiting.push_back(None);
            }
            fresh += usize::from(self.waiting[place].is_none());
            self.waiting[place].get_or_insert(*input);
        }
        Ok(fresh)
    }

    /// The input of the tick that begins. Call it once per tick.
    pub fn due(&mut self) -> Due {
        if !self.started {
            return Due::Nothing;
        }
        if self.hold > 0 {
            self.hold -= 1;
            return Due::Nothing;
        }
        let number = self.next;
        self.next = number.wrapping_add(1);
        if let Some(input) = self.waiting.pop_front().flatten() {
            self.last = Some(input);
            self.repeated = 0;
            return Due::Arrived(input);
        }
        self.repeated += 1;
        let Some(last) = self.last.filter(|_| self.repeated <= REPEATED_MAX || !self.waiting.is_empty()) else {
            self.started = false;
            return Due::Nothing;
        };
        self.repeats_total += 1;
        Due::Repeated(MoveInput { sequence: number, ..last })
    }

    /// What to tell the client; `None` while nothing was taken.
    pub fn feedback(&self) -> Option<InputFeedback> {
        self.last?;
        Some(InputFeedback { taken: self.next.wrapping_sub(1), slack: self.slack()? })
    }

    /// Inputs that wait for their tick.
    pub fn depth(&self) -> usize {
        self.waiting.len()
    }

    /// Inputs that did not come in time, since the beginning.
    pub fn repeats(&self) -> u64 {
        self.repeats_total
    }

    /// How early the latest came, but for those that are forgiven.
    fn slack(&self) -> Option<i8> {
        let mut slacks: Vec<i8> = self.slacks.iter().copied().collect();
        slacks.sort_unstable();
        slacks.get(FORGIVEN.min(slacks.len().saturating_sub(1))).copied()
    }

    fn judge(&mut self, slack: i32) {
        if self.slacks.len() == JUDGED {
            self.slacks.pop_front();
        }
        self.slacks.push_back(slack.clamp(-127, 127) as i8);
    }

    fn restart(&mut self, first: u32) {
        let InputBuffer { last, repeats_total, .. } = *self;
        // Two ticks for the jitter; the feedback finds what is needed.
        *self = InputBuffer {
            next: first,
            newest: first.wrapping_sub(1),
            started: true,
            hold: 2,
            repeats_total,
            ..Self::default()
        };
        self.last = last;
    }
}

/// The client's side: numbers inputs, and repeats the newest in each datagram.
#[derive(Debug, Clone)]
pub struct InputSender {
    next: u32,
    recent: VecDeque<MoveInput>,
}

impl InputSender {
    /// Numbers from `first` on; the first is not 0, which stands for none.
    pub fn new(first: u32) -> Self {
        InputSender { next: first.max(1), recent: VecDeque::new() }
    }

    /// The next input, with its number.
    pub fn push(&mut self, input: MoveInput) -> MoveInput {
        let input = MoveInput { sequence: self.next, ..input };
        self.next = self.next.wrapping_add(1);
        if self.recent.len() == REDUNDANCY_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(input);
        input
    }

    /// The newest `count` inputs, the oldest first: what a datagram carries.
    pub fn newest(&self, count: usize) -> impl Iterator<Item = MoveInput> + '_ {
        self.recent.iter().skip(self.recent.len().saturating_sub(count)).copied()
    }
}

/// Slower or faster by so many thousandths while inputs come too early or too late.
const SLEW_PERMILLE: i64 = 30;
/// So many ticks too late are made good at once.
const LEAP_TICKS: i32 = 3;
/// Most ticks that are due at once; after a longer pause the rest is left out.
const TICKS_AT_ONCE_MAX: u32 = 16;
/// After a leap, feedback of before it is not listened to.
const DEAF: Duration = Duration::from_millis(1_000);

/// When the client makes its inputs: one per tick, a little faster or slower than the shard as the feedback asks.
#[derive(Debug, Clone)]
pub struct Pacer {
    tick_ns: i64,
    permille: i64,
    at: Option<Duration>,
    /// Time that is not used up yet.
    left_ns: i64,
    leap: u32,
    deaf_until: Duration,
}

impl Pacer {
    /// For a shard with `tick_hz` ticks a second, at least 1.
    pub fn new(tick_hz: u8) -> Self {
        Pacer {
            tick_ns: 1_000_000_000 / i64::from(tick_hz.max(1)),
            permille: 0,
            at: None,
            left_ns: 0,
            leap: 0,
            deaf_until: Duration::ZERO,
        }
    }

    /// What the shard said about the inputs.
    pub fn feedback(&mut self, now: Duration, feedback: InputFeedback) {
        if now < self.deaf_until {
            return;
        }
        let short = SLACK_WANTED - i32::from(feedback.slack);
        if short > LEAP_TICKS {
            self.leap = (short as u32).min(TICKS_AT_ONCE_MAX);
            self.permille = 0;
            self.deaf_until = now + DEAF;
        } else {
            // The buffer remembers late inputs for two seconds: small steps, or it would swing.
            self.permille = match short {
                1.. => SLEW_PERMILLE,
                0 => 0,
                -1 => -SLEW_PERMILLE / 6,
                _ => -SLEW_PERMILLE,
            };
        }
    }

    /// How many inputs are to be made now.
    pub fn due(&mut self, now: Duration) -> u32 {
        let since =
            self.at.map_or(0, |at| i64::try_from(now.saturating_sub(at).as_nanos()).unwrap_or(i64::MAX / 4_000));
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        let since = since.min(self.tick_ns * i64::from(TICKS_AT_ONCE_MAX));
        self.left_ns += since + since * self.permille / 1_000;
        let ticks = self.left_ns / self.tick_ns;
        self.left_ns -= ticks * self.tick_ns;
        (ticks as u32 + std::mem::take(&mut self.leap)).min(TICKS_AT_ONCE_MAX)
    }
}
