//! Why children fail, and why they are down; in words for people, and kept over a restart of the supervisor.

use crate::link::Ending;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is wrong with a child whose process lives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Illness {
    /// It was not ready in time.
    NotReady {
        /// How long it had.
        within_s: f64,
    },
    /// It was not heard of, or its tick stood still.
    Hung {
        /// How long.
        for_s: f64,
        /// Where its tick stands, if it has one.
        tick: Option<u64>,
    },
    /// Its probe failed, so often in a row.
    Probe {
        /// How often.
        times: u32,
        /// The newest reason.
        reason: String,
    },
    /// It and those it started hold too much memory.
    Memory {
        /// What it holds.
        bytes: u64,
        /// What it may.
        max: u64,
    },
}

// Times are never NaN.
impl Eq for Illness {}

impl Illness {
    /// Is it worth knowing where the process stood? Then it is ended with SIGABRT.
    pub fn leaves_a_trace(&self) -> bool {
        !matches!(self, Illness::Memory { .. })
    }
}

impl fmt::Display for Illness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Illness::NotReady { within_s } => write!(f, "was not ready within {within_s} s"),
            Illness::Hung { for_s, tick: Some(tick) } => write!(f, "hung: its tick stood at {tick} for {for_s:.1} s"),
            Illness::Hung { for_s, tick: None } => write!(f, "hung: it was not heard of for {for_s:.1} s"),
            Illness::Probe { times, reason } => write!(f, "failed its probe {times} times: {reason}"),
            Illness::Memory { bytes, max } => {
                write!(f, "held {} MiB of memory, more than {} MiB", bytes >> 20, max >> 20)
            }
        }
    }
}

/// Why a child failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its process ended by itself.
    Ended(Ending),
    /// It was ended for this.
    Unwell(Illness),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Ended(ending) => ending.fmt(f),
            Cause::Unwell(illness) => illness.fmt(f),
        }
    }
}

/// Why a child is not to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Somebody asked.
    Asked,
    /// It is held for maintenance.
    Maintenance,
    /// It has ended, and is not one that is started again.
    Finished(Cause),
    /// It was stopped with its group, and is not one that is started again.
    WithGroup,
    /// A child failed too often: this one, or one whose fate it shares.
    Quarantined {
        /// Which.
        by: usize,
        /// The last failure.
        cause: Cause,
        /// Restarts in the window that ended with it.
        recent: usize,
        /// Length of the window.
        window_s: f64,
    },
    /// The supervisor stops.
    Shutdown,
}

// Times are never NaN.
impl Eq for Why {}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Asked => write!(f, "stopped on request"),
            Why::Maintenance => write!(f, "held for maintenance"),
            Why::Finished(cause) => write!(f, "{cause}"),
            Why::WithGroup => write!(f, "stopped with its group"),
            Why::Quarantined { cause, recent, window_s, .. } => {
                write!(f, "{cause}, with {recent} restarts in the last {window_s} s already")
            }
            Why::Shutdown => write!(f, "the supervisor stops"),
        }
    }
}
