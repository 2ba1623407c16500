//! Keepers: started, found again after the supervisor was killed, and cleared up after when they were killed themselves.

use super::{DOWN, Engine};
use crate::fleet::{Event, Why};
use crate::keeper::MARK;
use crate::link::{Ending, LOCK, LOGS, Record, SOCKET, Spec};
use crate::procfs::{self, Process};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::time::timeout_at;
use tracing::{info, warn};

/// How long live keepers have to answer a new supervisor.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long those who outlived both supervisor and keeper may take to die.
const CLEAR_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of an environment that are looked at.
const ENVIRONMENT_BYTES_MAX: u64 = 256 * 1_024;
/// Most bytes of what a keeper said on its way out.
const LAST_WORDS_BYTES_MAX: u64 = 1_024;
/// In a child's folder: what its keeper said on its way out.
const KEEPER_ERRORS: &str = "keeper.err";

/// Makes the state directory and takes its lock.
pub fn take_state(folder: &Path) -> Result<File> {
    private_folder(folder).with_context(|| format!("cannot make the state directory {}", folder.display()))?;
    let path = folder.join(LOCK);
    let lock = OpenOptions::new().create(true).append(true).open(&path);
    let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
    if lock.try_lock().is_err() {
        bail!("another supervisor has the state directory {}", folder.display());
    }
    Ok(lock)
}

fn private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Starts a keeper for a run of a child.
pub fn spawn_keeper(folder: &Path, spec: &Spec) -> io::Result<Process> {
    private_folder(folder)?;
    // A dead keeper's: the new one must not be mistaken for it.
    let _ = fs::remove_file(folder.join(SOCKET));
    let errors = File::create(folder.join(KEEPER_ERRORS))?;
    // The same program, even when its file has been replaced meanwhile.
    let mut keeper = Command::new("/proc/self/exe")
        .arg("keep")
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()?;
    let process = Process::now(keeper.id().cast_signed()).ok_or(io::ErrorKind::NotFound)?;
    if let Some(mut stdin) = keeper.stdin.take() {
        stdin.write_all(&serde_json::to_vec(spec)?)?;
    }
    Ok(process)
}

/// Why a keeper ended before it kept anything.
pub fn keepers_last_words(folder: &Path) -> String {
    let mut words = String::new();
    let read =
        File::open(folder.join(KEEPER_ERRORS)).map(|file| file.take(LAST_WORDS_BYTES_MAX).read_to_string(&mut words));
    let last = words.lines().rev().find(|line| !line.trim().is_empty());
    match (read, last) {
        (Ok(_), Some(line)) => format!("its keeper ended: {}", crate::notify::printable(line, 300)),
        _ => "its keeper ended".to_owned(),
    }
}

/// Kills whoever a keeper left: everybody with its mark, those that were known to be below it, and whom the supervisor inherited.
/// True when nobody is left.
pub fn kill_left_behind(mark: &str, known: &[Process], keepers: &[i32]) -> bool {
    let own = std::process::id().cast_signed();
    let lives = |process: &Process| {
        procfs::stat(process.pid).is_some_and(|stat| stat.start == process.start && !stat.is_over())
    };
    let strangers = procfs::children(own).into_iter().filter(|pid| !keepers.contains(pid));
    let mut left: Vec<Process> = strangers.filter_map(Process::now).filter(lives).collect();
    left.extend(known.iter().copied().filter(lives));
    left.extend(marked(|value| value == mark).into_iter().filter(lives));
    let below: Vec<Process> = left.iter().flat_map(|process| procfs::descendants(process.pid)).collect();
    left.extend(below);
    for process in &left {
        process.signal(Signal::KILL);
    }
    left.is_empty()
}

/// Processes whose environment has a mark like that; only those of whom this may be known.
fn marked(is: impl Fn(&str) -> bool) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| {
        let mut environment = Vec::new();
        let read = File::open(format!("/proc/{pid}/environ"))
            .and_then(|file| file.take(ENVIRONMENT_BYTES_MAX).read_to_end(&mut environment));
        read.is_ok()
            && environment.split(|&byte| byte == 0).any(|variable| {
                let value =
                    std::str::from_utf8(variable).ok().and_then(|text| text.strip_prefix(MARK)?.strip_prefix('='));
                value.is_some_and(&is)
            })
    };
    ids.filter(has).filter_map(Process::now).collect()
}

/// What a former supervisor left of a child.
enum Left {
    /// A keeper that lives.
    Keeper(Box<Record>),
    /// A run that ended while nobody was there.
    Ended(Box<Record>),
    Nothing,
}

fn left_in(folder: &Path) -> Left {
    let record = Record::read(folder).filter(|record| record.boot_id == procfs::boot_id());
    let Some(record) = record else { return Left::Nothing };
    // The lock tells better than the process: a keeper that is just ending holds it, too.
    let held = File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_err());
    if held && record.keeper.open().is_some() { Left::Keeper(Box::new(record)) } else { Left::Ended(Box::new(record)) }
}

impl Engine {
    /// Finds what former supervisors left: live keepers are taken over, others' runs accounted for.
    pub(super) async fn adopt_all(&mut self) {
        self.stop_strays();
        let mut waiting = Vec::new();
        for index in 0..self.children.len() {
            let folder = self.children[index].folder.clone();
            self.children[index].run = last_run(&folder);
            self.children[index].log.0 = last_line(&folder);
            match left_in(&folder) {
                Left::Keeper(record) => {
                    self.hold(index, record.run, record.keeper);
                    waiting.push(index);
                }
                Left::Ended(record) => self.account_for(index, &record).await,
                Left::Nothing => {}
            }
            // Who was told to end, and still lives, is told again when things begin.
            if let Some(why) = kept_down(&folder, index, self.children.len()) {
                self.children[index].kept_down = Some(why.clone());
                self.step(Event::KeptDown(index, why));
            }
        }
        // Who was kept is running until it is known otherwise: nobody else may be started in its place.
        for &index in &waiting {
            self.step(Event::Adopted(index, false));
        }
        let until = tokio::time::Instant::now() + ADOPT_TIMEOUT;
        let known = |engine: &Engine, index: usize| {
            let child = &engine.children[index];
            child.process.is_some() || child.exit.is_some()
        };
        while !waiting.iter().all(|&index| known(self, index)) {
            let Ok(Some(word)) = timeout_at(until, self.words.1.recv()).await else { break };
            self.hear(word);
        }
        for index in waiting {
            if !known(self, index) {
                warn!("{}: its keeper does not answer and is killed", self.children[index].config.name);
                if let Some(keeper) = self.children[index].keeper {
                    keeper.signal(Signal::KILL);
                }
                continue;
            }
            let (pid, run) = (self.children[index].process.map_or(0, |process| process.pid), self.children[index].run);
            self.tell(Some(index), "adopted", format!("was found running as process {pid}, run {run}"));
        }
    }

    /// A run ended while no supervisor was there.
    async fn account_for(&mut self, index: usize, record: &Record) {
        let mark = crate::keeper::mark(&self.children[index].folder, record.run);
        let begun = Instant::now();
        while !record.gone && !kill_left_behind(&mark, &[], &[]) && begun.elapsed() < CLEAR_TIMEOUT {
            super::collect();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let ending = record.exit.as_ref().map_or(Ending::Unknown, |exit| exit.ending.clone());
        self.children[index].run = record.run;
        self.children[index].adopt(record);
        self.children[index].exit.clone_from(&record.exit);
        self.children[index].last_exit = Some(ending.to_string());
        self.tell(Some(index), "ended", format!("{ending}, while no supervisor was there"));
        // It counts as any other end, when things begin.
        self.step(Event::Adopted(index, true));
        self.step(Event::Ended(index, ending));
        self.saw_all_gone(index);
    }

    /// Children of a former configuration are stopped: nobody would ever look after them.
    fn stop_strays(&mut self) {
        let folder = self.config.state_dir.join("children");
        let Ok(entries) = fs::read_dir(&folder) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if self.children.iter().any(|child| child.folder == path) {
                continue;
            }
            if let Left::Keeper(record) = left_in(&path) {
                info!("{}: is not configured any more and is stopped", record.name);
                // A keeper that gets SIGTERM stops its child, with the grace it was given.
                record.keeper.signal(Signal::TERM);
            }
        }
    }
}

fn last_run(folder: &Path) -> u64 {
    let last = |name: &str| -> Option<u64> {
        let text = fs::read(folder.join(name)).ok()?;
        Some(serde_json::from_slice::<Record>(&text).ok()?.run)
    };
    last(crate::link::RECORD).max(last("last.json")).unwrap_or(0)
}

fn last_line(folder: &Path) -> u64 {
    crate::log::read::tail(&folder.join(LOGS), 1, u64::MAX).last().map_or(0, |line| line.number)
}

fn kept_down(folder: &Path, index: usize, count: usize) -> Option<Why> {
    let path: PathBuf = folder.join(DOWN);
    let why: Why = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    Some(match why {
        // Children have other numbers after a change of the configuration.
        Why::Quarantined { by, cause, recent, window_s } => {
            Why::Quarantined { by: if by < count { by } else { index }, cause, recent, window_s }
        }
        why => why,
    })
}
