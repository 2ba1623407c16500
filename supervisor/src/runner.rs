//! Does what the policy says: starts the command in a process group of its own, sees its end, passes signals on, kills.
//!
//! A process id is never used after its number could have been given to somebody else: the leader is watched by a pidfd and
//! stays uncollected (a zombie, which keeps the number of the process and of the group taken) until the group has been
//! cleared. Whoever leaves the process group (`setsid`) is out of reach.

use crate::error::RunError;
use crate::policy::{Action, Cause, Event, Limits, Outcome, Policy, StopSignal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, test_kill_process_group, waitid,
};
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tracing::{debug, error, info, warn};

/// How often a group whose leader has ended is looked at, while others of it may still be finishing.
const LINGER_CHECK_INTERVAL: Duration = Duration::from_millis(25);

/// Runs what `command` makes (it is asked for each start) until the policy is finished, and says how it ended.
///
/// The command reads from `/dev/null`; it writes to the supervisor's own stdout and stderr, unless `command` says otherwise. For the
/// duration of the call, SIGTERM and SIGINT of this process are taken as requests to stop. The seed decides the restarts' jitter.
///
/// # Errors
/// [`RunError`] when the operating system refuses to let us supervise; the command's group has been killed then.
pub fn run(mut command: impl FnMut() -> io::Result<Command>, limits: Limits, seed: u64) -> Result<Outcome, RunError> {
    let mut signals = StopSignals::install().map_err(RunError::Signals)?;
    let clock = Instant::now();
    let mut policy = Policy::new(limits, seed);
    let mut group: Option<Group> = None;
    let mut events = VecDeque::from([Event::Begin]);

    loop {
        while let Some(event) = events.pop_front() {
            debug!(?event);
            for action in policy.step(clock.elapsed(), event) {
                match action {
                    Action::Start => match command().and_then(spawn) {
                        Ok(leader) => group = Some(Group::watch(leader).map_err(RunError::Watch)?),
                        Err(error) => events.push_back(Event::Ended(Cause::NotStarted(error.to_string()))),
                    },
                    Action::Signal(signal) => {
                        info!("passing {} on to the command", name(signal));
                        if let Some(group) = &group {
                            group.signal(number(signal)).map_err(RunError::Signal)?;
                        }
                    }
                    Action::KillGroup => {
                        warn!("the grace time is over, killing the command");
                        if let Some(group) = &group {
                            group.signal(Signal::KILL).map_err(RunError::Signal)?;
                        }
                    }
                    Action::ClearGroup => {
                        if let Some(mut group) = group.take() {
                            group.clear().map_err(RunError::Collect)?;
                        }
                    }
                    Action::AnnounceRestart { cause, delay, recent_restarts } => warn!(
                        "the command {cause}; starting it again in {} ms ({recent_restarts} restarts in the last {} s, limit {})",
                        delay.as_millis(),
                        limits.window.as_secs_f64(),
                        limits.restarts_max,
                    ),
                    Action::Finish(outcome) => {
                        match outcome {
                            Outcome::Quarantined { .. } => error!("{outcome}"),
                            Outcome::Killed => warn!("{outcome}"),
                            Outcome::Succeeded | Outcome::Stopped => info!("{outcome}"),
                        }
                        return Ok(outcome);
                    }
                }
            }
        }
        let timeout = policy.wakes_at().map(|at| at.saturating_sub(clock.elapsed()));
        wait(timeout, &mut signals, &mut group, &mut events)?;
    }
}

fn spawn(mut command: Command) -> io::Result<Child> {
    let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
    info!("started {} as process {}", command.get_program().display(), child.id());
    Ok(child)
}

/// Sleeps until something happens or the time is over, and adds what happened: requests to stop before the end of the
/// process, so that it is not restarted after one, and that before the time, so that who is in time is not killed.
fn wait(
    timeout: Option<Duration>,
    signals: &mut StopSignals,
    group: &mut Option<Group>,
    events: &mut VecDeque<Event>,
) -> Result<(), RunError> {
    {
        let mut fds =
            vec![PollFd::new(&signals.terminate, PollFlags::IN), PollFd::new(&signals.interrupt, PollFlags::IN)];
        let mut timeout = timeout;
        match group {
            Some(group) if group.leader_ended => {
                timeout = Some(timeout.map_or(LINGER_CHECK_INTERVAL, |timeout| timeout.min(LINGER_CHECK_INTERVAL)));
            }
            Some(group) => fds.push(PollFd::new(&group.pidfd, PollFlags::IN)),
            None => {}
        }
        // A time too long for the kernel is as good as none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(RunError::Poll(errno.into())),
        }
    }

    signals.drain(events).map_err(RunError::Signals)?;
    if let Some(group) = group {
        if !group.leader_ended {
            if let Some(cause) = group.leader_end().map_err(RunError::Collect)? {
                events.push_back(Event::Ended(cause));
            }
        } else if group.is_empty() {
            events.push_back(Event::GroupEmpty);
        }
    }
    events.push_back(Event::TimePassed);
    Ok(())
}

/// A started command and everybody in its process group. Dropping it kills them.
struct Group {
    leader: Child,
    /// The leader's process id, which is the group's, too.
    id: Pid,
    pidfd: OwnedFd,
    leader_ended: bool,
    cleared: bool,
}

impl Group {
    fn watch(mut leader: Child) -> io::Result<Self> {
        let id = Pid::from_child(&leader);
        match pidfd_open(id, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { leader, id, pidfd, leader_ended: false, cleared: false }),
            Err(errno) => {
                // Nobody must be left running unwatched; the first error is the one to tell.
                let _ = kill_process_group(id, Signal::KILL);
                let _ = leader.wait();
                Err(errno.into())
            }
        }
    }

    /// Sends a signal to the whole group. The uncollected leader makes sure that there is one.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process_group(self.id, signal)?)
    }

    /// How the leader ended, if it has; it stays uncollected.
    fn leader_end(&mut self) -> io::Result<Option<Cause>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(Some(status)) => status,
            Ok(None) | Err(Errno::INTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let cause = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Cause::Exited(code),
            (None, Some(signal)) => Cause::Signalled(signal),
            (None, None) => return Ok(None),
        };
        info!("process {} {cause}", self.id.as_raw_nonzero());
        self.leader_ended = true;
        Ok(Some(cause))
    }

    /// Whether nobody but the ended leader is left. When that cannot be told, somebody is: the grace time bounds it.
    fn is_empty(&self) -> bool {
        debug_assert!(test_kill_process_group(self.id).is_ok(), "the uncollected leader holds the group");
        let Ok(processes) = std::fs::read_dir("/proc") else { return false };
        let leader = self.id.as_raw_nonzero().get();
        !processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).any(|process| {
            process != leader
                // A process that is gone before it could be read is not left.
                && std::fs::read(format!("/proc/{process}/stat")).is_ok_and(|stat| is_live_member(&stat, leader))
        })
    }

    /// Kills whoever is left and collects the leader. The process ids are given back here, and only here.
    fn clear(&mut self) -> io::Result<()> {
        self.signal(Signal::KILL)?;
        self.leader.wait()?;
        self.cleared = true;
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.cleared
            && let Err(error) = self.clear()
        {
            error!("process group {} may be left behind: {error}", self.id.as_raw_nonzero());
        }
    }
}

/// Whether this `/proc/<process>/stat` (proc(5): `id (name) state parent group …`) is of a member of the group that has
/// not ended. The name may hold anything, brackets and spaces included, so the fields count from the last bracket.
fn is_live_member(stat: &[u8], group: i32) -> bool {
    let Some(name_end) = stat.iter().rposition(|&byte| byte == b')') else { return false };
    let Ok(fields) = std::str::from_utf8(&stat[name_end + 1..]) else { return false };
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next();
    let member_of = fields.nth(1).and_then(|field| field.parse::<i32>().ok());
    member_of == Some(group) && !matches!(state, Some("Z" | "X"))
}

/// Turns SIGTERM and SIGINT into readable bytes for as long as it lives.
struct StopSignals {
    terminate: UnixStream,
    interrupt: UnixStream,
    handlers: Vec<SigId>,
}

impl StopSignals {
    fn install() -> io::Result<Self> {
        let (terminate, terminate_sender) = UnixStream::pair()?;
        let (interrupt, interrupt_sender) = UnixStream::pair()?;
        terminate.set_nonblocking(true)?;
        interrupt.set_nonblocking(true)?;
        let mut signals = Self { terminate, interrupt, handlers: vec![] };
        signals.handlers.push(signal_hook::low_level::pipe::register(SIGTERM, terminate_sender)?);
        signals.handlers.push(signal_hook::low_level::pipe::register(SIGINT, interrupt_sender)?);
        Ok(signals)
    }

    /// One event per kind of signal that came, however often it came.
    fn drain(&mut self, events: &mut VecDeque<Event>) -> io::Result<()> {
        for (stream, signal) in
            [(&mut self.terminate, StopSignal::Terminate), (&mut self.interrupt, StopSignal::Interrupt)]
        {
            let mut came = false;
            let mut bytes = [0; 64];
            loop {
                match stream.read(&mut bytes) {
                    Ok(0) => break,
                    Ok(_) => came = true,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if came {
                events.push_back(Event::Stop(signal));
            }
        }
        Ok(())
    }
}

impl Drop for StopSignals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}

fn number(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::Terminate => Signal::TERM,
        StopSignal::Interrupt => Signal::INT,
    }
}

fn name(signal: StopSignal) -> &'static str {
    match signal {
        StopSignal::Terminate => "SIGTERM",
        StopSignal::Interrupt => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_told_by_group_and_state_whatever_their_name() {
        for (stat, member) in [
            ("41 (sh) S 1 40 40 0 -1", true),
            ("41 (a) Z 1 99 (b) c) R 7 40 40 0 -1", true),
            ("41 (sh) Z 1 40 40 0 -1", false),
            ("41 (sh) S 40 39 40 0 -1", false),
            ("41 (sh) S 1", false),
            ("", false),
        ] {
            assert_eq!(is_live_member(stat.as_bytes(), 40), member, "{stat}");
        }
    }
}
