//! Who waits for a key to change.

use super::engine::Snapshot;
use super::operation::key_behind;
use super::resolver::Ranges;
use super::unix::{ClientWatch, RemoteWatch};
use crate::error::Error;
use crate::sync::locked;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Most watches of one store, as in FoundationDB of one connection.
pub const WATCHES_MAX: usize = 10_000;

/// One key being watched: fires once.
#[derive(Debug)]
pub(super) struct WatchState {
    value: Option<Vec<u8>>,
    fired: Mutex<Option<Result<(), String>>>,
    changed: Condvar,
    link: OnceLock<WatchLink>,
}

/// The other end of a watch that goes through a socket.
#[derive(Debug)]
pub(super) enum WatchLink {
    /// Here is the server: the client is told when it fires.
    ToClient(ClientWatch),
    /// Here is the client: the server is told when nobody waits any more.
    ToServer(#[expect(dead_code, reason = "it is dropped with the watch, which tells the server")] RemoteWatch),
}

impl WatchState {
    /// A watch of a key that has `value`.
    pub(super) fn new(value: Option<Vec<u8>>) -> Self {
        WatchState { value, fired: Mutex::new(None), changed: Condvar::new(), link: OnceLock::new() }
    }

    /// The same with another end.
    pub(super) fn linked(value: Option<Vec<u8>>, link: WatchLink) -> Self {
        WatchState { link: link.into(), ..WatchState::new(value) }
    }

    /// Gives it another end; it has one at most.
    pub(super) fn link(&self, link: WatchLink) {
        // A second one is dropped, which ends it.
        let _ = self.link.set(link);
    }

    /// The value that the watcher knows.
    pub(super) fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// Ends the waiting: the key has changed, or why that can't be told any more.
    pub(super) fn fire(&self, outcome: Result<(), String>) {
        let mut fired = locked(&self.fired);
        if fired.is_some() {
            return;
        }
        if let Some(WatchLink::ToClient(client)) = self.link.get() {
            client.tell(&outcome);
        }
        *fired = Some(outcome);
        self.changed.notify_all();
    }

    /// True when the key has changed, false when `timeout` went by.
    pub(super) fn wait(&self, timeout: Duration) -> Result<bool, Error> {
        let deadline = Instant::now() + timeout;
        let mut fired = locked(&self.fired);
        loop {
            match &*fired {
                Some(Ok(())) => return Ok(true),
                Some(Err(text)) => return Err(Error::Unavailable(text.clone())),
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            fired = self.changed.wait_timeout(fired, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// All watches of one store. A dropped watch is forgotten.
#[derive(Debug, Default)]
pub(super) struct Watches(Mutex<BTreeMap<Vec<u8>, Vec<Weak<WatchState>>>>);

impl Watches {
    /// Takes up a watch whose key has the value it knows.
    pub(super) fn add(&self, key: Vec<u8>, state: &Arc<WatchState>) -> Result<(), Error> {
        let mut watches = locked(&self.0);
        let count = |watches: &BTreeMap<Vec<u8>, Vec<Weak<WatchState>>>| watches.values().map(Vec::len).sum::<usize>();
        if count(&watches) >= WATCHES_MAX {
            watches.retain(|_, waiting| {
                waiting.retain(|watch| watch.strong_count() > 0);
                !waiting.is_empty()
            });
            if count(&watches) >= WATCHES_MAX {
                return Err(Error::TooLarge { what: "list of watches", found: WATCHES_MAX + 1, limit: WATCHES_MAX });
            }
        }
        watches.entry(key).or_default().push(Arc::downgrade(state));
        Ok(())
    }

    /// Fires those whose key has another value in `snapshot` than the one they know.
    pub(super) fn notify(&self, written: &Ranges, snapshot: &Snapshot) {
        let mut watches = locked(&self.0);
        watches.retain(|key, waiting| {
            waiting.retain(|watch| watch.strong_count() > 0);
            if !waiting.is_empty() && written.overlap(&Ranges::new(vec![(key.clone(), key_behind(key))])) {
                match snapshot.get(key) {
                    Ok(value) => waiting.retain(|watch| {
                        let Some(watch) = watch.upgrade() else { return false };
                        let is_changed = watch.value != value;
                        if is_changed {
                            watch.fire(Ok(()));
                        }
                        !is_changed
                    }),
                    Err(error) => {
                        let text = error.chain();
                        waiting
                            .drain(..)
                            .filter_map(|watch| watch.upgrade())
                            .for_each(|watch| watch.fire(Err(text.clone())));
                    }
                }
            }
            !waiting.is_empty()
        });
    }
}
