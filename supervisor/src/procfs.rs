//! What Linux says about processes (proc(5)): who they are, who their children are, what they hold.
//!
//! A process is meant by its id *and* its start time: ids are given to others, start times tell them apart.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::fd::OwnedFd;

/// Deeper or wider than this, a tree of processes is looked at in several rounds.
const TREE_MAX: usize = 65_536;

/// One process, never to be mixed up with a later one of the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// When it was started, in clock ticks since the machine was.
    pub start: u64,
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `Z`…
    pub state: char,
    /// Whose child it is.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// When it was started, in clock ticks since the machine was.
    pub start: u64,
}

impl Stat {
    /// Has it ended, and only waits to be collected?
    pub fn is_over(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// The fields behind the last bracket: the name may hold anything, brackets and spaces included.
    fn parse(stat: &str) -> Option<Stat> {
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        // Of proc(5), these were fields 3 to 5; the start time is field 22.
        let start = fields.nth(16)?.parse().ok()?;
        Some(Stat { state, parent, group, start })
    }
}

/// What Linux says about this process; `None` when there is none.
pub fn stat(pid: i32) -> Option<Stat> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    Stat::parse(&String::from_utf8_lossy(&stat))
}

impl Process {
    /// The process that has this id now.
    pub fn now(pid: i32) -> Option<Process> {
        Some(Process { pid, start: stat(pid)?.start })
    }

    /// A descriptor of exactly this process; `None` when it is gone.
    pub fn open(self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // The descriptor holds whoever had the id when it was made; only now it is known who that was.
        (stat(self.pid)?.start == self.start).then_some(pidfd)
    }

    /// Sends a signal to exactly this process. False when it is gone.
    pub fn signal(self, signal: Signal) -> bool {
        self.open().is_some_and(|pidfd| !matches!(pidfd_send_signal(&pidfd, signal), Err(Errno::SRCH)))
    }
}

/// The ids of a process's children, ended ones included.
pub fn children(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    // A thread's children are the process's.
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return found };
    for thread in threads.flatten() {
        let listed = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(listed.split_ascii_whitespace().filter_map(|child| child.parse::<i32>().ok()));
    }
    found
}

/// Everybody below a process, parents before their children, ended ones left out.
pub fn descendants(pid: i32) -> Vec<Process> {
    let mut waiting = children(pid);
    let mut found = Vec::new();
    while let Some(pid) = waiting.pop() {
        if found.len() >= TREE_MAX {
            break;
        }
        if let Some(stat) = stat(pid)
            && !stat.is_over()
        {
            found.push(Process { pid, start: stat.start });
            waiting.extend(children(pid));
        }
    }
    found
}

/// Memory that a process holds now, bytes; 0 when it is gone.
pub fn resident_bytes(pid: i32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

/// How many descriptors a process has open; 0 when it is gone or somebody else's.
pub fn open_files(pid: i32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |descriptors| descriptors.count() as u64)
}

/// Which start of the machine this is: start times of another mean nothing.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_count_from_the_last_bracket() {
        let rest = "S 1 40 39 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 9000 10";
        let stat = Stat { state: 'S', parent: 1, group: 40, start: 777 };
        for name in ["sh", "a) Z 1 99 (b", "with space"] {
            assert_eq!(Stat::parse(&format!("41 ({name}) {rest}")), Some(stat), "{name}");
        }
        for text in ["", "41 (sh", "41 (sh) S 1", "41 (sh) S x 40 39"] {
            assert_eq!(Stat::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_process_is_meant_by_its_start_time_too() {
        let own = Process::now(std::process::id().cast_signed()).unwrap();
        assert!(own.open().is_some());
        assert!(Process { start: own.start + 1, ..own }.open().is_none(), "a reused id must not be opened");
        assert!(resident_bytes(own.pid) > 100_000 && open_files(own.pid) > 2);
    }

    #[test]
    fn descendants_are_found_however_deep() {
        let mut shell =
            std::process::Command::new("sh").args(["-c", "sh -c 'sleep 60 & wait' & wait"]).spawn().unwrap();
        let pid = shell.id().cast_signed();
        let begun = std::time::Instant::now();
        while descendants(pid).len() < 2 {
            assert!(begun.elapsed().as_secs() < 20, "found only {:?}", descendants(pid));
            std::thread::yield_now();
        }
        for process in descendants(pid) {
            assert!(process.signal(Signal::KILL));
        }
        shell.wait().unwrap();
        assert_eq!(descendants(pid), []);
    }
}
