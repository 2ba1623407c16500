//! What children say over their `NOTIFY_SOCKET`: the protocol of sd_notify(3), with extensions for game servers.
//!
//! Lines of `KEY=VALUE` in a datagram. Taken: `READY=1`, `STOPPING=1`, `WATCHDOG=1`, `STATUS=…`, `EXTEND_TIMEOUT_USEC=…`, and ours:
//! `X_VSEKAI_TICK=<u64>`, `X_VSEKAI_PLAYERS=<u32>`, `X_VSEKAI_BACKLOG=<bytes>`, and of a store `X_VSEKAI_COMMITS=<u64>`,
//! `X_VSEKAI_COMMIT_US=<last> <p99>`, `X_VSEKAI_CLIENTS=<u32>`. Everything else is ignored, as systemd does:
//! `MAINPID` too, since the supervisor knows whom it started.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Most bytes of a datagram; what is longer is cut off.
pub const DATAGRAM_BYTES_MAX: usize = 4_096;
/// Most characters of a status text that are kept.
pub const STATUS_CHARS_MAX: usize = 256;
/// A child may ask for so much more time at once.
const EXTEND_MAX: Duration = Duration::from_secs(3_600);

/// What one datagram says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notice {
    /// It serves.
    pub ready: bool,
    /// It is about to end by itself.
    pub stopping: bool,
    /// It lives.
    pub watchdog: bool,
    /// What it does, for people.
    pub status: Option<String>,
    /// It needs so much more time to start, stop, or answer.
    pub extend: Option<Duration>,
    /// The tick that it has done.
    pub tick: Option<u64>,
    /// Players in it.
    pub players: Option<u32>,
    /// Bytes in its journal that are not in the database yet.
    pub backlog_bytes: Option<u64>,
    /// Commits that it has answered.
    pub commits: Option<u64>,
    /// How long the last commit took, and the 99th percentile, microseconds.
    pub commit_us: Option<(u64, u64)>,
    /// Who uses it.
    pub clients: Option<u32>,
}

impl Notice {
    /// Reads a datagram. Nothing in it is an error: what is not understood is not said.
    pub fn parse(datagram: &[u8]) -> Notice {
        let mut notice = Notice::default();
        for line in String::from_utf8_lossy(datagram).lines() {
            let Some((key, value)) = line.split_once('=') else { continue };
            match key {
                "READY" => notice.ready |= value == "1",
                "STOPPING" => notice.stopping |= value == "1",
                "WATCHDOG" => notice.watchdog |= value == "1",
                "STATUS" => notice.status = Some(printable(value, STATUS_CHARS_MAX)),
                "EXTEND_TIMEOUT_USEC" => {
                    notice.extend = value.parse().ok().map(|us| Duration::from_micros(us).min(EXTEND_MAX));
                }
                "X_VSEKAI_TICK" => notice.tick = value.parse().ok(),
                "X_VSEKAI_PLAYERS" => notice.players = value.parse().ok(),
                "X_VSEKAI_BACKLOG" => notice.backlog_bytes = value.parse().ok(),
                "X_VSEKAI_COMMITS" => notice.commits = value.parse().ok(),
                "X_VSEKAI_COMMIT_US" => {
                    notice.commit_us =
                        value.split_once(' ').and_then(|(last, p99)| Some((last.parse().ok()?, p99.parse().ok()?)));
                }
                "X_VSEKAI_CLIENTS" => notice.clients = value.parse().ok(),
                _ => {}
            }
        }
        notice
    }
}

/// The beginning of a text without control characters, which could write over an operator's terminal.
pub fn printable(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// All that a child has said so far; what a keeper tells the supervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// It said `READY=1`.
    pub ready: bool,
    /// It said `STOPPING=1`.
    pub stopping: bool,
    /// How often it said `WATCHDOG=1`.
    pub watchdogs: u64,
    /// The newest status text.
    pub status: String,
    /// How often it asked for more time, and how much the last time, microseconds.
    pub extended: (u64, u64),
    /// The newest tick.
    pub tick: Option<u64>,
    /// The newest number of players.
    pub players: Option<u32>,
    /// The newest backlog.
    pub backlog_bytes: Option<u64>,
    /// What it said as a store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<SaidOfStore>,
}

/// What a store says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SaidOfStore {
    /// Commits that it has answered.
    pub commits: u64,
    /// How long the last group of commits took, microseconds.
    pub commit_last_us: u64,
    /// The 99th percentile of that.
    pub commit_p99_us: u64,
    /// Who uses it.
    pub clients: u32,
}

impl Said {
    /// Takes in one more datagram.
    pub fn hear(&mut self, notice: Notice) {
        self.ready |= notice.ready;
        self.stopping |= notice.stopping;
        self.watchdogs += u64::from(notice.watchdog);
        if let Some(status) = notice.status {
            self.status = status;
        }
        if let Some(extend) = notice.extend {
            self.extended = (self.extended.0 + 1, u64::try_from(extend.as_micros()).unwrap_or(u64::MAX));
        }
        self.tick = notice.tick.or(self.tick);
        self.players = notice.players.or(self.players);
        self.backlog_bytes = notice.backlog_bytes.or(self.backlog_bytes);
        if notice.commits.is_some() || notice.commit_us.is_some() || notice.clients.is_some() {
            let store = self.store.get_or_insert_default();
            store.commits = notice.commits.unwrap_or(store.commits);
            (store.commit_last_us, store.commit_p99_us) =
                notice.commit_us.unwrap_or((store.commit_last_us, store.commit_p99_us));
            store.clients = notice.clients.unwrap_or(store.clients);
        }
    }
}

/// Tells whoever supervises this process, if it listens: systemd, or a supervisor of ours.
pub fn tell(text: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address));
    if let Err(error) = told {
        tracing::warn!("whoever supervises this cannot be told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_says_what_it_says_and_no_more() {
        let text = "READY=1\nSTATUS=up\x1b[2J\nMAINPID=1\nX_VSEKAI_TICK=9\nX_VSEKAI_PLAYERS=3\nX_VSEKAI_BACKLOG=12\nEXTEND_TIMEOUT_USEC=5000000";
        let notice = Notice::parse(text.as_bytes());
        let expected = Notice {
            ready: true,
            status: Some("up\u{fffd}[2J".into()),
            extend: Some(Duration::from_secs(5)),
            tick: Some(9),
            players: Some(3),
            backlog_bytes: Some(12),
            ..Notice::default()
        };
        assert_eq!(notice, expected);
        for nonsense in
            [&b""[..], b"READY", b"READY=0", b"=", b"\xff\xfe=1", b"X_VSEKAI_TICK=-1", b"X_VSEKAI_PLAYERS=5000000000"]
        {
            assert_eq!(Notice::parse(nonsense), Notice::default(), "{nonsense:?}");
        }
    }

    #[test]
    fn what_was_said_stays_said() {
        let mut said = Said::default();
        for text in ["READY=1\nX_VSEKAI_TICK=5", "WATCHDOG=1", "WATCHDOG=1\nSTATUS=well", "X_VSEKAI_TICK=6"] {
            said.hear(Notice::parse(text.as_bytes()));
        }
        assert!(said.ready && !said.stopping);
        assert_eq!((said.watchdogs, &said.status[..], said.tick, said.players), (2, "well", Some(6), None));
        assert_eq!(said.store, None);
        said.hear(Notice::parse(b"X_VSEKAI_COMMITS=7\nX_VSEKAI_COMMIT_US=40 90"));
        said.hear(Notice::parse(b"X_VSEKAI_CLIENTS=2\nX_VSEKAI_COMMIT_US=4"));
        let store = SaidOfStore { commits: 7, commit_last_us: 40, commit_p99_us: 90, clients: 2 };
        assert_eq!(said.store, Some(store));
        said.hear(Notice::parse(format!("STATUS={}", "x".repeat(9_999)).as_bytes()));
        assert_eq!(said.status.len(), STATUS_CHARS_MAX);
    }
}
