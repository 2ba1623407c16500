//! Tells whoever supervises this process how it is, in the protocol of sd_notify(3): ready, stopping, and four times a second which tick
//! is done, so that a shard which answers but does not tick is seen as hung.
//!
//! A thread of its own, since a supervisor that does not read must not stop the tick. Without `NOTIFY_SOCKET` in the environment nothing
//! happens.

use crate::status::Status;
use sd_notify::NotifyState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Time between two beats.
const INTERVAL: Duration = Duration::from_millis(250);

/// The last thing said. From here on no tick advances: bringing the last frames into the store may take a while, and must not be taken for
/// a hang.
const FAREWELL: &str = "STOPPING=1\nEXTEND_TIMEOUT_USEC=60000000";

/// The number of the last tick, for the heartbeat; the tick loop writes it.
pub type TickNumber = Arc<AtomicU64>;

/// Beats until it is stopped or dropped.
#[derive(Debug)]
pub struct Heartbeat {
    stop: Option<SyncSender<()>>,
}

impl Heartbeat {
    /// Says that the shard is ready, and goes on to say how it is.
    pub fn start(tick: TickNumber, status: Arc<RwLock<Arc<Status>>>) -> Heartbeat {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Heartbeat { stop: None };
        }
        let (stop, stopped) = sync_channel::<()>(1);
        let beat = move || {
            tell("READY=1");
            loop {
                let status = Arc::clone(&status.read().unwrap_or_else(PoisonError::into_inner));
                tell(&text(tick.load(Ordering::Relaxed), &status));
                match stopped.recv_timeout(INTERVAL) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) => return tell(FAREWELL),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        match std::thread::Builder::new().name("heartbeat".into()).spawn(beat) {
            Ok(_) => Heartbeat { stop: Some(stop) },
            Err(error) => {
                tracing::warn!(%error, "no thread for the heartbeat: a supervisor will take this shard for hung");
                Heartbeat { stop: None }
            }
        }
    }

    /// Says that the shard ends by itself.
    pub fn stop(self) {
        if let Some(stop) = self.stop {
            // It may have ended.
            let _ = stop.try_send(());
        }
    }
}

/// What a beat says.
fn text(tick: u64, status: &Status) -> String {
    let standing = status.standing.as_ref().map_or_else(String::new, |reason| format!(", stands still: {reason}"));
    let line: String = standing.chars().filter(|character| !character.is_control()).collect();
    format!(
        "WATCHDOG=1\nX_VSEKAI_TICK={tick}\nX_VSEKAI_PLAYERS={}\nX_VSEKAI_BACKLOG={}\nSTATUS=tick {tick}, {} players{line}",
        status.players, status.journal.bytes, status.players
    )
}

fn tell(state: &str) {
    if let Err(error) = sd_notify::notify(&[NotifyState::Custom(state)]) {
        tracing::debug!(%error, "the supervisor does not listen");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_says_tick_players_and_backlog_in_one_line_each() {
        let mut status = Status { players: 3, standing: Some("no\nroom".into()), ..Status::default() };
        status.journal.bytes = 12;
        assert_eq!(
            text(9, &status),
            "WATCHDOG=1\nX_VSEKAI_TICK=9\nX_VSEKAI_PLAYERS=3\nX_VSEKAI_BACKLOG=12\nSTATUS=tick 9, 3 players, stands still: noroom"
        );
    }
}
