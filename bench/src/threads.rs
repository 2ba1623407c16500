//! What the threads of a process used of the processors, by the kernel's own account.

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::ops::Sub;
use std::time::Duration;

/// The kernel tells times in hundredths of a second, on every Linux (`USER_HZ`).
const TICKS_PER_S: u32 = 100;

/// Processor time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// In the program.
    pub user: Duration,
    /// In the kernel, on its behalf.
    pub kernel: Duration,
}

impl Used {
    /// Both.
    pub fn whole(self) -> Duration {
        self.user + self.kernel
    }
}

impl Sub for Used {
    type Output = Used;

    fn sub(self, before: Used) -> Used {
        Used { user: self.user.saturating_sub(before.user), kernel: self.kernel.saturating_sub(before.kernel) }
    }
}

/// Processor time of this process's threads together until now, to the nanosecond.
pub fn own_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // Counted from the process's start, so both are positive.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Times of all threads of process `pid`, by name; those of one name together.
///
/// # Errors
/// When there is no such process, or this is not Linux.
pub fn of_process(pid: u32) -> Result<BTreeMap<String, Used>> {
    let mut found: BTreeMap<String, Used> = BTreeMap::new();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).context("no threads can be seen")?;
    for task in tasks {
        // A thread may have ended since.
        let Ok(text) = std::fs::read_to_string(task?.path().join("stat")) else { continue };
        let (name, used) = parse(&text).with_context(|| format!("not understood: {text}"))?;
        let sum = found.entry(name).or_default();
        *sum = Used { user: sum.user + used.user, kernel: sum.kernel + used.kernel };
    }
    Ok(found)
}

/// A line of `/proc/PID/task/TID/stat`, proc(5): the name in brackets, and the 14th and 15th field.
fn parse(text: &str) -> Option<(String, Used)> {
    let (front, back) = text.rsplit_once(')')?;
    let name = front.split_once('(')?.1.to_string();
    let mut fields = back.split_ascii_whitespace().skip(11);
    let mut time = || Some(Duration::from_secs(1) / TICKS_PER_S * fields.next()?.parse().ok()?);
    Some((name, Used { user: time()?, kernel: time()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_understood() {
        let line = "71 (a (b) c) S 1 71 71 0 -1 4194560 1 0 0 0 250 31 0 0 20 0 9 0 33 1000 10 18446744073709551615";
        let used = Used { user: Duration::from_millis(2_500), kernel: Duration::from_millis(310) };
        assert_eq!(parse(line), Some(("a (b) c".into(), used)));
        assert_eq!(parse("71 (x) S 1"), None);
    }

    #[test]
    fn own_time_passes_with_work_and_not_with_sleep() {
        let spin = |time: Duration| {
            let begin = std::time::Instant::now();
            while begin.elapsed() < time {
                std::hint::spin_loop();
            }
        };
        let begin = own_cpu_time();
        spin(Duration::from_millis(50));
        assert!(own_cpu_time() > begin, "50 ms of work took no processor time");
        assert!(own_cpu_time() < begin + Duration::from_secs(60));
    }

    #[test]
    fn own_threads_are_seen() {
        let threads = of_process(std::process::id()).unwrap();
        assert!(!threads.is_empty());
        assert!(of_process(u32::MAX).is_err());
    }
}
