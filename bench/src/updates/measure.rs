//! What a child process costs: time, processor time of all its threads, peak memory.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often a running child's memory is looked at; its own high-water mark is read, so peaks between are not lost but at the very
/// end.
const LOOK: Duration = Duration::from_millis(4);

/// One run of a tool.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Seconds by the clock.
    pub seconds: f64,
    /// Seconds of processor time, in hundredths.
    pub cpu_seconds: f64,
    /// The most memory that was resident, bytes.
    pub peak_bytes: u64,
}

/// Runs `program` in `folder` until it ends, which must be well.
///
/// # Errors
/// When it cannot be started or fails; its last words are told.
pub fn run(program: &Path, arguments: &[&str], folder: &Path) -> Result<Cost> {
    let said = tempfile::tempfile()?;
    let begin = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let mut cost = until_ended(&mut child)?;
    cost.seconds = begin.elapsed().as_secs_f64();
    let status = child.wait()?;
    if !status.success() {
        use std::io::{Read, Seek};
        let mut said = said;
        said.rewind()?;
        let mut text = String::new();
        said.take(2_000).read_to_string(&mut text)?;
        bail!("`{} {}`: {status}: {}", program.display(), arguments.join(" "), text.trim());
    }
    Ok(cost)
}

/// Waits for a child's end without reaping it, and reads what it cost; its time by the clock is the caller's to tell.
pub fn until_ended(child: &mut Child) -> Result<Cost> {
    let id = Pid::from_child(child);
    let mut cost = Cost::default();
    loop {
        cost.peak_bytes = cost.peak_bytes.max(peak(child.id()));
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        if waitid(WaitId::Pid(id), options)?.is_some() {
            break;
        }
        std::thread::sleep(LOOK);
    }
    cost.cpu_seconds = cpu_seconds(child.id())?;
    Ok(cost)
}

/// Processor seconds so far, of all threads, those of a child that has ended but was not reaped as well.
pub fn cpu_seconds(id: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name may have spaces and brackets; after its last bracket comes field 3. 14 and 15 are user and system time.
    let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    let ticks = |field: usize| -> Result<u64> { Ok(fields.get(field - 3).context("too few fields")?.parse()?) };
    Ok((ticks(14)? + ticks(15)?) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The high-water mark of its resident memory, bytes; 0 once it has ended.
pub fn peak(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1_024
}
