//! What an update is doing: written by its threads, read by a progress bar, the daemon, a test.

use super::machine::State;
use crate::fetch::{Fetch, FetchError};
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Shared between who works and who watches.
#[derive(Debug)]
pub struct Progress {
    state: Mutex<State>,
    done: AtomicU64,
    total: AtomicU64,
    fetched: AtomicU64,
    requests: AtomicU64,
    stop: AtomicBool,
}

/// One look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Where the update is.
    pub state: State,
    /// Bytes done in this state, of `total`.
    pub done: u64,
    /// 0 when it is not known.
    pub total: u64,
    /// Bytes that came from the repository, since the beginning.
    pub fetched: u64,
    /// Requests to the repository, since the beginning.
    pub requests: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            state: Mutex::new(State::Idle),
            done: 0.into(),
            total: 0.into(),
            fetched: 0.into(),
            requests: 0.into(),
            stop: false.into(),
        }
    }
}

impl Progress {
    /// How far it is.
    pub fn look(&self) -> Look {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Look {
            state,
            done: read(&self.done),
            total: read(&self.total),
            fetched: read(&self.fetched),
            requests: read(&self.requests),
        }
    }

    /// Asks the threads to stop as soon as they can; what was done stays done.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self, state: State, total: u64) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.expect(total);
    }

    pub(crate) fn expect(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Counts what passes, and lets nothing pass any more after a stop.
pub(crate) struct Counted<'a> {
    pub fetch: &'a dyn Fetch,
    pub progress: &'a Progress,
}

/// What a stopped transfer ends with.
pub(crate) fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "stopped on request")
}

impl Fetch for Counted<'_> {
    fn connections(&self) -> usize {
        self.fetch.connections()
    }

    fn whole(&self, path: &str, max: u64) -> Result<Vec<u8>, FetchError> {
        self.progress.requests.fetch_add(1, Ordering::Relaxed);
        let bytes = self.fetch.whole(path, max)?;
        self.progress.fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    fn range(
        &self,
        path: &str,
        range: Range<u64>,
        into: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), FetchError> {
        self.progress.requests.fetch_add(1, Ordering::Relaxed);
        self.fetch.range(path, range, &mut |bytes| {
            if self.progress.is_stopped() {
                return Err(stopped());
            }
            self.progress.fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.progress.advance(bytes.len() as u64);
            into(bytes)
        })
    }
}
