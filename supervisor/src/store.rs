//! Owns an embedded store and serves it to the shards and tools of this machine; and brings what a dead shard left in its journal into
//! a store.

use crate::notify::tell;
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tracing::info;
use vsekai_storage::kv::{Database, StoreServer, serve, stop_network};
use vsekai_storage::{Config, Drained, Error, drain_journal, journal_bytes};

/// How often a supervisor hears how the store is.
const BEAT_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// The first pause after a drain that the store interrupted, doubling to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves `store` at `socket` until SIGTERM or SIGINT comes. One line on standard output says when it is ready; whoever supervises it
/// hears how it is (sd_notify(3)).
///
/// # Errors
/// When the store can't be opened, the socket is another server's, or a write failed: then the store must be opened anew.
pub fn run(store: &str, socket: &Path) -> Result<()> {
    // Before anything is served: a signal that comes early must still end it cleanly.
    let (wait, wake) = UnixStream::pair().context("cannot make a pipe for signals")?;
    for signal in [SIGTERM, SIGINT] {
        let wake = wake.try_clone().context("cannot make a pipe for signals")?;
        signal_hook::low_level::pipe::register(signal, wake).context("cannot listen for signals")?;
    }
    let database = Database::open(store).with_context(|| format!("cannot open the store {store}"))?;
    let server = serve(database.clone(), socket).with_context(|| format!("cannot serve at {}", socket.display()))?;
    info!(store, socket = %socket.display(), pid = std::process::id(), "serving");
    println!("Serving {store} as unix:{}", socket.display());
    tell("READY=1");
    let poisoned = loop {
        let mut fds = [PollFd::new(&wait, PollFlags::IN)];
        // An interrupted wait is as good as one that is over.
        let _ = poll(&mut fds, Some(&BEAT_INTERVAL));
        if !fds[0].revents().is_empty() {
            break None;
        }
        if let Some(reason) = server.status().poisoned {
            break Some(reason);
        }
        beat(&database, &server);
    };
    tell("STOPPING=1");
    let status = server.status();
    info!(connections = status.connections, requests = status.requests, commits = status.commits, "stopping");
    server.stop();
    drop(database);
    stop_network();
    match poisoned {
        Some(reason) => bail!("a write failed, the store has to be opened anew: {reason}"),
        None => Ok(()),
    }
}

/// Says how the store is. It lives if it can be read.
fn beat(database: &Database, server: &StoreServer) {
    let status = server.status();
    let read = database.run(|transaction| transaction.get(b"\0"));
    let (alive, text) = match read {
        Ok(_) => ("WATCHDOG=1\n", format!("{} connections, {} commits", status.connections, status.commits)),
        Err(error) => ("", format!("cannot be read: {error}")),
    };
    tell(&format!(
        "{alive}X_VSEKAI_COMMITS={}\nX_VSEKAI_COMMIT_US={} {}\nX_VSEKAI_CLIENTS={}\nSTATUS={}",
        status.commits,
        status.last_commit_micros,
        status.p99_commit_micros,
        status.connections,
        text.replace('\n', " ")
    ));
}

/// One line of what `drain-journal` says with `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainSaid {
    /// The store does not answer, or somebody still holds the journal; it is tried again.
    Waiting {
        /// What they say.
        reason: String,
        /// Bytes in the journal, some of which the store may have.
        backlog_bytes: u64,
    },
    /// So far it is.
    Draining {
        /// Frames brought in.
        frames: u64,
        /// Bytes that are left.
        backlog_bytes: u64,
    },
    /// The store has everything.
    Done {
        /// Frames brought in.
        frames: u64,
        /// Bytes brought in.
        bytes: u64,
        /// The last frame in the store; 0 when there was no journal.
        frame: u64,
        /// The hash of the state after it, 16 hexadecimal digits.
        state_hash: String,
    },
    /// It can't be done, now or later.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What `drain-journal` is to do.
#[derive(Debug, Clone)]
pub struct DrainTask {
    /// The journal's directory, and the store that it belongs to.
    pub storage: Config,
    /// Try again while the store does not answer, or somebody holds the journal.
    pub patient: bool,
    /// End with this process, which must be the parent.
    pub parent: Option<i32>,
    /// A line of JSON for everything that is said.
    pub json: bool,
}

/// Brings what a dead shard left in its journal into its store. Killed at any moment, nothing is lost, and the next goes on.
///
/// # Errors
/// When it can't be done; when it could be done later, and `patient` is not set.
pub fn drain(task: &DrainTask) -> Result<()> {
    if let Some(parent) = task.parent {
        set_parent_process_death_signal(Some(Signal::KILL)).context("cannot ask to die with the supervisor")?;
        if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
            bail!("the supervisor is gone already");
        }
    }
    let mut pause = PAUSE_MIN;
    // Frames of the attempts before count, too.
    let (mut frames, mut bytes) = (0, 0);
    // Looked at once: it may be long.
    let mut left = None;
    loop {
        let mut so_far = Drained::default();
        let attempt = drain_journal(&task.storage, |drained| {
            so_far = *drained;
            let frames = frames + drained.frames;
            say(task, &DrainSaid::Draining { frames, backlog_bytes: drained.backlog_bytes });
        });
        match attempt {
            Ok(Drained { frame, state_hash, frames: last, bytes: last_bytes, .. }) => {
                let state_hash = format!("{state_hash:016x}");
                say(task, &DrainSaid::Done { frames: frames + last, bytes: bytes + last_bytes, frame, state_hash });
                stop_network();
                return Ok(());
            }
            Err(error) if task.patient && (error.may_pass() || matches!(error, Error::InUse(_) | Error::Io { .. })) => {
                frames += so_far.frames;
                bytes += so_far.bytes;
                if so_far.frames > 0 {
                    pause = PAUSE_MIN;
                    left = Some(so_far.backlog_bytes);
                }
                let backlog_bytes = *left.get_or_insert_with(|| journal_bytes(&task.storage).unwrap_or(0));
                let reason = format!("{:#}", anyhow::Error::new(error));
                say(task, &DrainSaid::Waiting { reason, backlog_bytes });
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                say(task, &DrainSaid::Failed { reason: format!("{error:#}") });
                return Err(error.context("the journal is not in the store"));
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn say(task: &DrainTask, said: &DrainSaid) {
    let text = match said {
        said if task.json => serde_json::to_string(said).unwrap_or_default(),
        DrainSaid::Waiting { reason, backlog_bytes } => {
            format!("Waiting, {backlog_bytes} bytes in the journal: {reason}")
        }
        DrainSaid::Draining { frames, backlog_bytes } => {
            format!("{frames} frames are in, {backlog_bytes} bytes are left")
        }
        DrainSaid::Done { frames: 0, frame, .. } => format!("Nothing was missing; the store has frame {frame}"),
        DrainSaid::Done { frames, bytes, frame, state_hash } => {
            format!("{frames} frames ({bytes} bytes) are in; the store has frame {frame}, state hash {state_hash}")
        }
        // The error itself goes to stderr.
        DrainSaid::Failed { .. } => return,
    };
    // Whoever does not listen any more is gone, and this is about to end, too.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
