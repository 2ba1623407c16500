//! Locks that outlive a panic, and threads that give way.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. A panic of another holder does not matter here: every structure behind these locks is changed in
/// steps that each leave it whole, and a worker that panics poisons the storage by its own means.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets other threads of the process go first from now on: for work that has seconds, beside a tick that has milliseconds.
/// Where that can't be had nothing changes.
pub(crate) fn give_way() {
    /// As `nice` counts: -20 goes first, 19 last.
    const NICE: i32 = 10;
    // On Linux the priority of a thread's id is that thread's alone.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!(%error, "this thread keeps its priority");
    }
}
