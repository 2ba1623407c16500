//! What a dead child left in its journal: brought into the store by a process of its own, before the child is started again.
//!
//! That process (`vsekai-supervisor drain-journal`) takes the journal's lock, so there is never another beside it, and ends with the
//! supervisor. It is a process because it needs memory for a moment that the supervisor does not want to keep, and may have to wait
//! for a store that hangs. Cut short at any moment, it has lost nothing: the next one goes on, or the child itself.

use super::{Engine, HelperWord};
use crate::config::JournalConfig;
use crate::fleet::{Event, Phase};
use crate::link::{Ending, LINE_BYTES_MAX};
use crate::procfs::Process;
use crate::store::DrainSaid;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;

/// What could not be brought in is tried again so much later, while the child is down.
const RETRY: Duration = Duration::from_secs(30);

/// A child's journal, as far as the supervisor knows: it looks into it only while the child is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalView {
    /// `draining`, `waiting` (for the store), `drained`, `failed`; `busy` while the child has it.
    pub state: String,
    /// Bytes that the store does not have; while it is waited for, those of the journal, some of which it may have.
    pub backlog_bytes: u64,
    /// Frames that were brought in after the newest end of the child.
    pub frames: u64,
    /// The last frame in the store, when that is known.
    pub frame: Option<u64>,
    /// What was waited for, or why it could not be done.
    pub reason: Option<String>,
}

impl JournalView {
    /// Nothing is known but that.
    pub(super) fn new(state: &str) -> JournalView {
        JournalView { state: state.to_owned(), backlog_bytes: 0, frames: 0, frame: None, reason: None }
    }

    /// What of it an operator should know while the child is down.
    pub(super) fn words(&self) -> Option<String> {
        let kib = self.backlog_bytes.div_ceil(1_024);
        match (&self.state[..], &self.reason) {
            ("draining", _) => Some(format!("its journal is being brought into the store, {kib} KiB are left")),
            ("waiting", Some(reason)) => Some(format!("its journal, up to {kib} KiB, waits for the store: {reason}")),
            ("failed", Some(reason)) => Some(format!("its journal could not be brought into the store: {reason}")),
            _ => None,
        }
    }

    fn hear(&mut self, said: DrainSaid) {
        match said {
            DrainSaid::Waiting { reason, backlog_bytes } => {
                "waiting".clone_into(&mut self.state);
                (self.backlog_bytes, self.reason) = (backlog_bytes, Some(reason));
            }
            DrainSaid::Draining { frames, backlog_bytes } => {
                "draining".clone_into(&mut self.state);
                (self.frames, self.backlog_bytes, self.reason) = (frames, backlog_bytes, None);
            }
            DrainSaid::Done { frames, frame, .. } => {
                "drained".clone_into(&mut self.state);
                (self.frames, self.frame) = (frames, Some(frame));
                (self.backlog_bytes, self.reason) = (0, None);
            }
            DrainSaid::Failed { reason } => {
                "failed".clone_into(&mut self.state);
                self.reason = Some(reason);
            }
        }
    }
}

/// A drain under way.
#[derive(Debug)]
pub struct Drain {
    /// Tells its words from those of one before.
    number: u64,
    process: Process,
    /// The child is started as soon as it has ended.
    start_waits: bool,
}

impl Engine {
    /// Begins to bring in what the child left, if it has a journal. To be called when nobody of it is left.
    pub(super) fn begin_drain(&mut self, index: usize) {
        let child = &self.children[index];
        let Some(journal) = child.config.journal.clone() else { return };
        // Who stops everybody wants an end; the next supervisor begins with this.
        if child.drain.is_some() || self.finishing {
            return;
        }
        let until = self.now().saturating_add(journal.wait);
        self.drains += 1;
        let number = self.drains;
        match spawn(&journal) {
            Ok((process, stdout)) => {
                let child = &mut self.children[index];
                child.drain = Some(Drain { number, process, start_waits: false });
                child.journal = Some(JournalView::new("draining"));
                child.drain_again_at = None;
                tokio::spawn(listen(index, number, process, stdout, self.helpers.0.clone()));
                self.step(Event::Journal(index, Some(until)));
            }
            Err(error) => {
                let reason = format!("nobody could be started to bring it in: {error}");
                self.children[index].journal =
                    Some(JournalView { reason: Some(reason.clone()), ..JournalView::new("failed") });
                self.drain_failed(index, &reason);
            }
        }
    }

    fn drain_failed(&mut self, index: usize, reason: &str) {
        self.children[index].drain_again_at = Some(self.now().saturating_add(RETRY));
        self.tell(Some(index), "journal", format!("its journal could not be brought into the store: {reason}"));
    }

    /// What a drain says; `None` when its process has ended.
    pub(super) fn hear_drain(&mut self, index: usize, number: u64, said: Option<DrainSaid>) {
        let child = &mut self.children[index];
        if child.drain.as_ref().is_none_or(|drain| drain.number != number) {
            return;
        }
        self.shown = false;
        let view = child.journal.get_or_insert_with(|| JournalView::new("draining"));
        if let Some(said) = said {
            let waited = view.state == "waiting";
            view.hear(said);
            let text = match (&view.state[..], &view.reason, view.frames) {
                ("waiting", Some(reason), _) if !waited => format!(
                    "its journal waits for the store, with up to {} KiB: {reason}",
                    view.backlog_bytes.div_ceil(1_024)
                ),
                ("drained", _, frames) if frames > 0 || waited => format!(
                    "its journal is in the store, with {frames} frames that were missing, up to frame {}",
                    view.frame.unwrap_or_default()
                ),
                _ => return,
            };
            return self.tell(Some(index), "journal", text);
        }
        let Some(drain) = child.drain.take() else { return };
        let failed = match (&view.state[..], drain.start_waits) {
            ("failed", _) => view.reason.clone(),
            ("drained", _) => None,
            (_, true) => {
                // It was ended for the start: the child brings the rest in itself.
                "busy".clone_into(&mut view.state);
                None
            }
            (_, false) => {
                let reason = "whoever brought it in has ended without a word".to_owned();
                view.hear(DrainSaid::Failed { reason: reason.clone() });
                Some(reason)
            }
        };
        if let Some(reason) = failed {
            self.drain_failed(index, &reason);
        }
        if !drain.start_waits {
            return self.step(Event::Journal(index, None));
        }
        if let Phase::Starting { .. } = self.fleet.members()[index].phase {
            self.start(index);
        } else {
            // It was stopped before it was there.
            let ending = Ending::NotStarted("it was stopped before".to_owned());
            self.step(Event::Ended(index, ending));
            self.step(Event::Gone(index));
        }
    }

    /// Ends the drain for a start whose time has come. True when the start has to wait for that end.
    pub(super) fn end_drain_for_start(&mut self, index: usize) -> bool {
        let Some(drain) = &mut self.children[index].drain else { return false };
        drain.start_waits = true;
        drain.process.signal(Signal::KILL);
        true
    }

    /// Tries those again that failed, while their children are down.
    pub(super) fn drain_again(&mut self) {
        let now = self.now();
        for index in 0..self.children.len() {
            let due = self.children[index].drain_again_at.is_some_and(|at| now >= at);
            if due && self.fleet.members()[index].phase == Phase::Idle {
                self.begin_drain(index);
            }
        }
    }
}

/// Starts the process. It must be this thread that does: the process ends with the thread that started it.
fn spawn(journal: &JournalConfig) -> io::Result<(Process, OwnedFd)> {
    // The same program, even when its file has been replaced meanwhile.
    let mut drain = Command::new("/proc/self/exe")
        .args(["drain-journal", "--json", "--patient", "--journal"])
        .arg(&journal.directory)
        .args(["--store", &journal.store, "--parent", &std::process::id().to_string()])
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let process = Process::now(drain.id().cast_signed()).ok_or(io::ErrorKind::NotFound)?;
    let stdout = drain.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((process, stdout.into()))
}

/// Hands on what it says, and then that it has ended.
async fn listen(child: usize, number: u64, process: Process, stdout: OwnedFd, words: mpsc::Sender<HelperWord>) {
    if let Ok(pipe) = tokio::net::unix::pipe::Receiver::from_owned_fd(stdout) {
        read(child, number, pipe, &words).await;
    }
    // Only then is the journal free. Who is gone already cannot be opened.
    #[expect(
        deprecated,
        reason = "its successor is unsafe to call; an `OwnedFd` keeps the descriptor that it is, which is what that wants"
    )]
    if let Some(pidfd) = process.open().and_then(|pidfd| AsyncFd::new(pidfd).ok()) {
        let _ = pidfd.readable().await;
    }
    let _ = words.send(HelperWord::Drain { child, number, said: None }).await;
}

async fn read(child: usize, number: u64, pipe: impl AsyncRead + Unpin, words: &mpsc::Sender<HelperWord>) {
    let mut lines = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut lines).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line).await {
            Ok(count) if count > 0 => {}
            _ => return,
        }
        if let Ok(said) = serde_json::from_slice(&line) {
            let _ = words.send(HelperWord::Drain { child, number, said: Some(said) }).await;
        }
    }
}
