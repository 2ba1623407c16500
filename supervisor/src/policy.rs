//! What a supervisor does about its command, as a pure state machine: events and time in, actions out.
//!
//! ```text
//!  New ──Begin──▶ Running ──failed──▶ Waiting ──time──▶ Running
//!                   │  └──failed too often──▶ Finished (quarantined)
//!                   ├──exited with 0──▶ Finished (succeeded)
//!                   └──Stop──▶ Stopping ──ended──▶ Lingering ──group empty──▶ Finished (stopped)
//!                                 └──grace over: kill──────────┴──grace over──▶ Finished (killed)
//! ```
//!
//! Time is the duration since any fixed moment, and never goes back. The limits are Erlang/OTP's restart intensity: a
//! failure with already `restarts_max` restarts in the window that ends now is the last one. A failure is any end but
//! exit code 0, and a command that could not be started.
//!
//! Invariants: in no window of the given length are there more than `restarts_max` restarts (the first start is not one);
//! a process is started only when none is alive; whatever is left of a group is cleared before the next start and before
//! the finish; nothing follows [`Action::Finish`].

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// The first wait before a restart; each further failure doubles it.
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait before a restart.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How much of a wait the jitter may take off, so that commands that fell together do not rise together.
pub const JITTER_PERCENT: u32 = 20;

/// How often and how fast a command may fail, and how long it may take to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most restarts in any window; the failure after that is quarantined. With 0, the first failure is.
    pub restarts_max: u32,
    /// Length of that window. A command that ran at least this long has proved itself: its backoff begins anew.
    pub window: Duration,
    /// Time between the stop signal and the kill.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { restarts_max: 5, window: Duration::from_secs(10), grace: Duration::from_secs(5) }
    }
}

impl Limits {
    /// Whether a command that always fails at once is ever quarantined. It is not when the backoff alone spreads the
    /// restarts wider than the window: such a command is tried every [`BACKOFF_MAX`] for ever.
    pub fn quarantine_reachable(&self) -> bool {
        let waits: Duration = (0..self.restarts_max).map(backoff).sum();
        waits < self.window
    }
}

/// A request to stop; it is passed on as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
}

/// How the command ended, or why it never began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It exited by itself with this code.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
    /// It could not be started, with the operating system's reason.
    NotStarted(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signalled(signal) => match signal_hook::low_level::signal_name(*signal) {
                Some(name) => write!(f, "was ended by signal {signal} ({name})"),
                None => write!(f, "was ended by signal {signal}"),
            },
            Self::NotStarted(reason) => write!(f, "could not be started: {reason}"),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The supervisor is ready; comes once, first.
    Begin,
    /// The process that [`Action::Start`] asked for has ended, or could not be started.
    Ended(Cause),
    /// After the end of the process, nobody else of its group is left.
    GroupEmpty,
    /// Someone asks the supervisor to stop.
    Stop(StopSignal),
    /// Time has passed; too early or too often does no harm.
    TimePassed,
}

/// What to do, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the command as the leader of a new process group.
    Start,
    /// Send this signal to the whole group.
    Signal(StopSignal),
    /// Kill the whole group; its end is reported as [`Event::Ended`].
    KillGroup,
    /// The process has ended: kill whoever is left of its group and let go of it.
    ClearGroup,
    /// Tell people: the command failed and will be started again; nothing else to do.
    AnnounceRestart {
        /// What went wrong.
        cause: Cause,
        /// How long until the restart.
        delay: Duration,
        /// How many restarts the window already holds.
        recent_restarts: u32,
    },
    /// Report this and leave; nothing follows.
    Finish(Outcome),
}

/// How it all ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The command exited with code 0.
    Succeeded,
    /// Stopped on request, within the grace time.
    Stopped,
    /// Stopped on request, but somebody of the group had to be killed when the grace time was over.
    Killed,
    /// The command failed too often.
    Quarantined {
        /// The last failure.
        cause: Cause,
        /// Restarts in the window that ended with it.
        recent_restarts: u32,
        /// Length of the window.
        window: Duration,
    },
}

impl Outcome {
    /// The exit code of `vsekai-supervisor run`. The command's own code is never passed on, so the codes cannot be mixed up.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Succeeded | Self::Stopped => 0,
            Self::Quarantined { .. } => 3,
            Self::Killed => 4,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => write!(f, "the command exited with code 0"),
            Self::Stopped => write!(f, "stopped on request"),
            Self::Killed => write!(f, "stopped on request, but had to be killed when the grace time was over"),
            Self::Quarantined { cause, recent_restarts, window } => {
                write!(
                    f,
                    "quarantined: the command {cause}, with {recent_restarts} restarts in the last {} s already",
                    window.as_secs_f64()
                )
            }
        }
    }
}

/// The state machine. One instance supervises one command until it is finished.
#[derive(Debug, Clone)]
pub struct Policy {
    limits: Limits,
    jitter: Jitter,
    state: State,
    /// When the restarts of the current window were; at most `restarts_max`.
    restarts: VecDeque<Duration>,
    /// Failures since the command last ran for a whole window.
    failure_streak: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Running {
        since: Duration,
    },
    Waiting {
        until: Duration,
    },
    /// Asked to stop, the process still lives; `None` once it was killed.
    Stopping {
        kill_at: Option<Duration>,
    },
    /// Asked to stop, the process has ended, others of its group may still be finishing their work.
    Lingering {
        kill_at: Duration,
    },
    Finished,
}

impl Policy {
    /// A policy before its [`Event::Begin`]. The same seed and events give the same actions.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self { limits, jitter: Jitter(seed), state: State::New, restarts: VecDeque::new(), failure_streak: 0 }
    }

    /// When [`Event::TimePassed`] is wanted at the latest; `None` when only other events matter.
    pub fn wakes_at(&self) -> Option<Duration> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Stopping { kill_at } => kill_at,
            State::Lingering { kill_at } => Some(kill_at),
            State::New | State::Running { .. } | State::Finished => None,
        }
    }

    /// Takes what happened at `now` and says what to do. Events that mean nothing in the current state do nothing.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        match (self.state, event) {
            (State::New, Event::Begin) => self.start(now),
            (State::Waiting { until }, Event::TimePassed) if now >= until => {
                self.restarts.push_back(now);
                self.start(now)
            }

            (State::Running { .. }, Event::Ended(Cause::Exited(0))) => self.clear_and_finish(Outcome::Succeeded),
            (State::Running { since }, Event::Ended(cause)) => self.fail(now, since, cause),

            (State::New | State::Waiting { .. }, Event::Stop(_)) => self.finish(Outcome::Stopped),
            (State::Running { .. }, Event::Stop(signal)) => {
                self.state = State::Stopping { kill_at: Some(now.saturating_add(self.limits.grace)) };
                vec![Action::Signal(signal)]
            }
            // Asked again: the grace time is not begun anew.
            (State::Stopping { kill_at: Some(_) } | State::Lingering { .. }, Event::Stop(signal)) => {
                vec![Action::Signal(signal)]
            }

            // Nothing was started, so nothing can linger.
            (State::Stopping { .. }, Event::Ended(Cause::NotStarted(_))) => self.finish(Outcome::Stopped),
            (State::Stopping { kill_at: Some(kill_at) }, Event::Ended(_)) => {
                self.state = State::Lingering { kill_at };
                vec![]
            }
            (State::Stopping { kill_at: None }, Event::Ended(_)) => self.clear_and_finish(Outcome::Killed),
            (State::Stopping { kill_at: Some(kill_at) }, Event::TimePassed) if now >= kill_at => {
                self.state = State::Stopping { kill_at: None };
                vec![Action::KillGroup]
            }

            (State::Lingering { .. }, Event::GroupEmpty) => self.clear_and_finish(Outcome::Stopped),
            (State::Lingering { kill_at }, Event::TimePassed) if now >= kill_at => {
                self.clear_and_finish(Outcome::Killed)
            }

            _ => vec![],
        }
    }

    fn start(&mut self, now: Duration) -> Vec<Action> {
        self.state = State::Running { since: now };
        vec![Action::Start]
    }

    fn fail(&mut self, now: Duration, since: Duration, cause: Cause) -> Vec<Action> {
        let mut actions = match cause {
            Cause::NotStarted(_) => vec![],
            Cause::Exited(_) | Cause::Signalled(_) => vec![Action::ClearGroup],
        };

        // The restart comes later than now, so whatever left the window by now is not in the restart's window either.
        while self.restarts.front().is_some_and(|&restart| now.saturating_sub(restart) >= self.limits.window) {
            self.restarts.pop_front();
        }
        let recent_restarts = u32::try_from(self.restarts.len()).expect("never more than restarts_max");
        if recent_restarts >= self.limits.restarts_max {
            let window = self.limits.window;
            actions.extend(self.finish(Outcome::Quarantined { cause, recent_restarts, window }));
            return actions;
        }

        if now.saturating_sub(since) >= self.limits.window {
            self.failure_streak = 0;
        }
        let delay = self.jitter.shorten(backoff(self.failure_streak));
        self.failure_streak = self.failure_streak.saturating_add(1);
        self.state = State::Waiting { until: now.saturating_add(delay) };
        actions.push(Action::AnnounceRestart { cause, delay, recent_restarts });
        actions
    }

    fn clear_and_finish(&mut self, outcome: Outcome) -> Vec<Action> {
        let mut actions = vec![Action::ClearGroup];
        actions.extend(self.finish(outcome));
        actions
    }

    fn finish(&mut self, outcome: Outcome) -> Vec<Action> {
        self.state = State::Finished;
        vec![Action::Finish(outcome)]
    }
}

/// The wait after this many failures in a row before this one, before jitter.
pub(crate) fn backoff(failure_streak: u32) -> Duration {
    let factor = 2u32.checked_pow(failure_streak).unwrap_or(u32::MAX);
    BACKOFF_MIN.saturating_mul(factor).min(BACKOFF_MAX)
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014); enough to spread restarts.
#[derive(Debug, Clone)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Takes up to [`JITTER_PERCENT`] off.
    pub(crate) fn shorten(&mut self, delay: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // 0 ..= 1023 thousand-and-twenty-fourths of the most that may go.
        let share = u32::try_from(bits >> 54).expect("ten bits");
        delay - delay * JITTER_PERCENT / 100 * share / 1024
    }
}
