//! One small process per running child: its parent, the guardian of everybody it leaves behind, and the writer of its log.
//!
//! A keeper outlives its supervisor, so a child does not notice when that is killed and started again. It is a subreaper: whoever the
//! child starts stays below it, whatever sessions and double forks are made, and is killed before the keeper ends. It
//! runs on one thread and never waits for the supervisor: what that does not take in is dropped with the connection.
//!
//! The child is started through [`launch`], a step in the child's own process before its program takes its place: there it asks to die
//! with its keeper and sets its limits, which cannot be done for it from outside.

mod launch;
mod peer;

pub use launch::{MARK, launch, mark};

use crate::link::{Ending, Exit, FromKeeper, LOCK, LOGS, NOTIFY_SOCKET, Record, SOCKET, Spec, ToKeeper};
use crate::log::unix_ms;
use crate::log::write::{Lines, LogWriter};
use crate::notify::{DATAGRAM_BYTES_MAX, Notice, Said};
use crate::procfs::{self, Process};
use anyhow::{Context, Result, bail};
use peer::Peer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process_group, waitid};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Most bytes that are read from a pipe at once, so that a flood does not keep the keeper from anything else.
const PIPE_BYTES: usize = 16 * 1_024;
/// A pipe holds 64 KiB unless its owner makes it larger (1 MiB at most, without privileges).
const LEFT_READS_MAX: usize = 64;
/// What a child says is passed on this often at most, but for what changes its state.
const SAID_INTERVAL: Duration = Duration::from_millis(100);
/// Lines are counted for the supervisor this often.
const LOG_INTERVAL: Duration = Duration::from_millis(500);
/// Whoever cannot be killed at once (in a system call that cannot be interrupted) is tried again this often.
const KILL_INTERVAL: Duration = Duration::from_millis(20);
/// How long others may outlive the child's process when nothing else is said: they are killed at once.
const NO_GRACE: Duration = Duration::ZERO;
/// Beyond the supervisor's own time to follow up.
const GRACE_BACKSTOP: Duration = Duration::from_secs(2);

/// Keeps the child that standard input describes, in the current folder, which is the child's own. Ends with it.
///
/// # Errors
/// When another keeper has this folder, or the operating system refuses what keeping needs.
pub fn run() -> Result<()> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).context("cannot read what to keep")?;
    let spec: Spec = serde_json::from_slice(&text).context("cannot understand what to keep")?;
    let lock = OpenOptions::new().create(true).append(true).open(LOCK).context("cannot open the lock")?;
    if lock.try_lock().is_err() {
        bail!("another keeper has this child");
    }
    // A session of its own: what is typed at the supervisor's terminal is not meant for the child.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(getpid())).context("cannot become a subreaper")?;
    Keeper::begin(spec, lock)?.keep()
}

/// Microseconds since 1970.
fn unix_us() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

struct Keeper {
    record: Record,
    grace: Duration,
    listener: UnixListener,
    notify: Option<UnixDatagram>,
    signals: Signals,
    peer: Option<Peer>,
    child: Option<launch::Launched>,
    pidfd: Option<OwnedFd>,
    pipes: [Pipe; 2],
    log: LogWriter,
    /// When those who have outlived the child's process are killed.
    kill_at: Option<Instant>,
    strangers_told: bool,
    said_told: (Said, Instant),
    log_told: ((u64, u64), Instant),
    _lock: File,
}

/// An output of the child and the line that was begun on it.
struct Pipe {
    from: Option<OwnedFd>,
    lines: Lines,
}

struct Signals {
    child: UnixStream,
    stop: UnixStream,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        let (child, wake_child) = UnixStream::pair()?;
        let (stop, wake_stop) = UnixStream::pair()?;
        child.set_nonblocking(true)?;
        stop.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, wake_child)?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::pipe::register(signal, wake_stop.try_clone()?)?;
        }
        Ok(Signals { child, stop })
    }
}

/// Takes away what has come; true when something has.
fn came(mut wake: &UnixStream) -> bool {
    let mut came = false;
    while let Ok(count) = wake.read(&mut [0; 64]) {
        if count == 0 {
            break;
        }
        came = true;
    }
    came
}

impl Keeper {
    fn begin(spec: Spec, lock: File) -> Result<Keeper> {
        let signals = Signals::listen().context("cannot listen for signals")?;
        let own = getpid().as_raw_nonzero().get();
        let record = Record {
            name: spec.name.clone(),
            run: spec.run,
            boot_id: procfs::boot_id(),
            keeper: Process::now(own).context("cannot see myself in /proc")?,
            process: None,
            started_unix_ms: unix_ms(),
            command: spec.command.clone(),
            said: Said::default(),
            exit: None,
            gone: false,
        };
        // Before there is anybody to keep: a supervisor that comes later must find out.
        record.write(Path::new(".")).context("cannot write the record")?;
        let _ = fs::remove_file(SOCKET);
        let listener = UnixListener::bind(SOCKET).context("cannot listen for the supervisor")?;
        listener.set_nonblocking(true)?;
        let _ = fs::remove_file(NOTIFY_SOCKET);
        let notify = match &spec.notify_socket {
            Some(_) => {
                let notify = UnixDatagram::bind(NOTIFY_SOCKET).context("cannot listen for the child")?;
                notify.set_nonblocking(true)?;
                Some(notify)
            }
            None => None,
        };
        let log = LogWriter::open(Path::new(LOGS), spec.log.clone());
        let now = Instant::now();
        let mut keeper = Keeper {
            record,
            grace: Duration::from_millis(spec.grace_ms),
            listener,
            notify,
            signals,
            peer: None,
            child: None,
            pidfd: None,
            pipes: ['o', 'e'].map(|stream| Pipe { from: None, lines: Lines::new(stream, spec.log.line_bytes) }),
            log_told: (log.counts(), now),
            log,
            kill_at: None,
            strangers_told: false,
            said_told: (Said::default(), now),
            _lock: lock,
        };
        keeper.start(&spec);
        Ok(keeper)
    }

    fn start(&mut self, spec: &Spec) {
        match launch::start(spec) {
            Ok(mut launched) => {
                let pid = launched.child.id().cast_signed();
                self.record.process = Process::now(pid);
                self.record.started_unix_ms = unix_ms();
                self.pidfd = self.record.process.and_then(Process::open);
                self.pipes[0].from = launched.child.stdout.take().map(Into::into);
                self.pipes[1].from = launched.child.stderr.take().map(Into::into);
                for from in self.pipes.iter().filter_map(|pipe| pipe.from.as_ref()) {
                    let _ = rustix::io::ioctl_fionbio(from, true);
                }
                self.child = Some(launched);
                if let Err(error) = self.record.write(Path::new(".")) {
                    self.note(&format!("the record cannot be written: {error}"));
                }
                if let Some(process) = self.record.process {
                    self.tell(&FromKeeper::Started(process));
                }
            }
            Err(error) => self.ended(Ending::NotStarted(format!("{error}"))),
        }
    }

    /// Until nobody of the child is left.
    fn keep(mut self) -> Result<()> {
        loop {
            if self.record.exit.is_some() && self.clear() {
                return self.finish();
            }
            self.wait()?;
            // First of all: its end is what others wait for.
            self.see_end();
            if came(&self.signals.child) {
                self.collect_strangers();
            }
            if came(&self.signals.stop) {
                self.order(ToKeeper::Stop { grace_ms: u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX) });
            }
            self.accept();
            self.hear_supervisor();
            self.hear_child();
            self.read_pipes();
            self.report();
            if self.record.exit.is_none() && self.kill_at.is_some_and(|at| Instant::now() >= at) {
                self.kill_all();
                self.kill_at = Some(Instant::now() + KILL_INTERVAL);
            }
        }
    }

    fn wait(&self) -> Result<()> {
        let mut fds = vec![
            PollFd::new(&self.signals.child, PollFlags::IN),
            PollFd::new(&self.signals.stop, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        if let Some(peer) = &self.peer {
            let wanted = if peer.has_pending() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            fds.push(PollFd::from_borrowed_fd(peer.as_fd(), wanted));
        }
        if let Some(notify) = &self.notify {
            fds.push(PollFd::new(notify, PollFlags::IN));
        }
        if let (Some(pidfd), None) = (&self.pidfd, &self.record.exit) {
            fds.push(PollFd::new(pidfd, PollFlags::IN));
        }
        for pipe in &self.pipes {
            fds.extend(pipe.from.as_ref().map(|from| PollFd::new(from, PollFlags::IN)));
        }
        let mut timeout = None;
        let mut within = |time: Duration| timeout = Some(timeout.map_or(time, |other: Duration| other.min(time)));
        let now = Instant::now();
        if let Some(at) = self.kill_at {
            within(at.saturating_duration_since(now));
        }
        if self.record.exit.is_some() {
            within(KILL_INTERVAL);
        }
        if self.peer.is_some() && self.record.said != self.said_told.0 {
            within((self.said_told.1 + SAID_INTERVAL).saturating_duration_since(now));
        }
        if self.peer.is_some() && self.log.counts() != self.log_told.0 {
            within((self.log_told.1 + LOG_INTERVAL).saturating_duration_since(now));
        }
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno).context("cannot wait for events"),
        }
    }

    /// Sees whether the child's process has ended. It stays uncollected, so that its id and its group's stay taken.
    fn see_end(&mut self) {
        let (Some(child), None) = (&self.child, &self.record.exit) else { return };
        let Some(pid) = Pid::from_raw(child.child.id().cast_signed()) else { return };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let Ok(Some(status)) = waitid(WaitId::Pid(pid), options) else { return };
        let ending = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ending::Exited(code),
            (None, Some(signal)) => Ending::Signalled(signal),
            (None, None) => return,
        };
        // A program that could not take the launcher's place is not a program that failed.
        let ending = self.child.as_mut().and_then(launch::Launched::refusal).map_or(ending, Ending::NotStarted);
        self.ended(ending);
    }

    fn ended(&mut self, ending: Ending) {
        let exit = Exit { ending, at_unix_us: unix_us() };
        self.tell(&FromKeeper::Ended(exit.clone()));
        self.record.exit = Some(exit);
        if let Err(error) = self.record.write(Path::new(".")) {
            self.note(&format!("the record cannot be written: {error}"));
        }
    }

    /// After the end of the child's process: true when nobody else is left. Whoever is has the grace time, if there is one.
    fn clear(&mut self) -> bool {
        let own = self.record.keeper.pid;
        let others = procfs::descendants(own);
        if others.is_empty() {
            return true;
        }
        if self.kill_at.is_some() && !std::mem::replace(&mut self.strangers_told, true) {
            // Those who left the process group have not heard of the stop.
            let group = self.record.process.map(|process| process.pid);
            for process in &others {
                if procfs::stat(process.pid).is_some_and(|stat| Some(stat.group) != group) {
                    process.signal(Signal::TERM);
                }
            }
        }
        if self.kill_at.is_none_or(|at| Instant::now() >= at) {
            for process in others {
                process.signal(Signal::KILL);
            }
            self.collect_strangers();
            return procfs::descendants(own).is_empty();
        }
        false
    }

    fn kill_all(&self) {
        for process in procfs::descendants(self.record.keeper.pid) {
            process.signal(Signal::KILL);
        }
    }

    /// Collects ended descendants that became ours, but not the child's process.
    fn collect_strangers(&self) {
        let own = self.child.as_ref().map(|child| child.child.id().cast_signed());
        for pid in procfs::children(self.record.keeper.pid).into_iter().filter(|pid| Some(*pid) != own) {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            // The newest supervisor is the one.
            let Ok(mut peer) = Peer::new(stream) else { continue };
            peer.send(&FromKeeper::Record(Box::new(self.record.clone())));
            let (written, lost) = self.log.counts();
            peer.send(&FromKeeper::Log(written, lost));
            self.peer = Some(peer);
        }
    }

    fn tell(&mut self, message: &FromKeeper) {
        if let Some(peer) = &mut self.peer
            && !peer.send(message)
        {
            self.peer = None;
        }
    }

    fn hear_supervisor(&mut self) {
        let Some(peer) = &mut self.peer else { return };
        let orders = peer.read();
        if !peer.flush() || orders.is_none() {
            self.peer = None;
        }
        for order in orders.into_iter().flatten() {
            self.order(order);
        }
    }

    fn order(&mut self, order: ToKeeper) {
        match order {
            ToKeeper::Stop { grace_ms } => {
                let grace = Duration::from_millis(grace_ms) + GRACE_BACKSTOP;
                self.kill_at.get_or_insert_with(|| Instant::now() + grace);
                if let Some(group) = self.child.as_ref().and_then(|child| Pid::from_raw(child.child.id().cast_signed()))
                {
                    // The uncollected child holds the group's number.
                    let _ = kill_process_group(group, Signal::TERM);
                }
            }
            ToKeeper::Abort => {
                if let (Some(process), None) = (self.record.process, &self.record.exit) {
                    process.signal(Signal::ABORT);
                }
            }
            ToKeeper::Kill => {
                self.kill_all();
                self.kill_at = Some(Instant::now() + NO_GRACE);
            }
        }
    }

    fn hear_child(&mut self) {
        let Some(notify) = &self.notify else { return };
        let mut bytes = [0; DATAGRAM_BYTES_MAX];
        // A bounded number at once: a flood of datagrams must not keep the keeper from anything else.
        for _ in 0..64 {
            let Ok(count) = notify.recv(&mut bytes) else { break };
            self.record.said.hear(Notice::parse(&bytes[..count]));
        }
    }

    fn read_pipes(&mut self) {
        for pipe in &mut self.pipes {
            if let Some(from) = &pipe.from
                && !read_some(from, &mut pipe.lines, &mut self.log)
            {
                pipe.lines.end(&mut self.log);
                pipe.from = None;
            }
        }
        self.log.flush();
    }

    /// Passes on what is new, not too often.
    fn report(&mut self) {
        if self.peer.is_none() {
            return;
        }
        let now = Instant::now();
        let (said, told) = (&self.record.said, &self.said_told);
        let urgent = (said.ready, said.stopping) != (told.0.ready, told.0.stopping);
        if *said != told.0 && (urgent || now >= told.1 + SAID_INTERVAL) {
            let said = said.clone();
            self.said_told = (said.clone(), now);
            self.tell(&FromKeeper::Said(said));
        }
        if now >= self.log_told.1 + LOG_INTERVAL {
            self.log.tell_losses();
            let counts = self.log.counts();
            if counts != self.log_told.0 {
                self.tell(&FromKeeper::Log(counts.0, counts.1));
            }
            self.log_told = (counts, now);
        }
    }

    /// A word of the keeper in the child's log.
    fn note(&mut self, text: &str) {
        self.log.line('s', text.as_bytes());
        self.log.flush();
    }

    fn finish(mut self) -> Result<()> {
        // What the dead have left in the pipes; bounded, should somebody else hold them.
        for pipe in &mut self.pipes {
            if let Some(from) = pipe.from.take() {
                for _ in 0..LEFT_READS_MAX {
                    if !read_some(&from, &mut pipe.lines, &mut self.log) || !has_more(&from) {
                        break;
                    }
                }
                pipe.lines.end(&mut self.log);
            }
        }
        self.log.flush();
        if let Some(exit) = &self.record.exit {
            let text = format!("run {} {}", self.record.run, exit.ending);
            self.note(&text);
        }
        self.log.tell_losses();
        if let Some(mut launched) = self.child.take() {
            launched.child.wait().context("cannot collect the child")?;
        }
        let (written, lost) = self.log.counts();
        let said = self.record.said.clone();
        self.tell(&FromKeeper::Said(said));
        self.tell(&FromKeeper::Log(written, lost));
        self.record.gone = true;
        let kept = self.record.write(Path::new(".")).context("cannot write the record");
        let _ = fs::remove_file(SOCKET);
        let _ = fs::remove_file(NOTIFY_SOCKET);
        self.tell(&FromKeeper::Gone);
        kept
    }
}

/// Reads a bounded part of what is there. False at the end.
fn read_some(from: &OwnedFd, lines: &mut Lines, log: &mut LogWriter) -> bool {
    let mut bytes = [0; PIPE_BYTES];
    match rustix::io::read(from, &mut bytes) {
        Ok(0) => false,
        Ok(count) => {
            lines.take(&bytes[..count], log);
            log.flush();
            true
        }
        Err(Errno::AGAIN | Errno::INTR) => true,
        Err(_) => false,
    }
}

fn has_more(from: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(from, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(1)) && fds[0].revents().contains(PollFlags::IN)
}
