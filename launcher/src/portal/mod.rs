//! The portal: the game client of an installation, started beside the launcher and kept.
//!
//! ```text
//! vsekai portal launch ──starts──▶ keeper (vsekai portal keep) ──▶ game
//!                                   holds `lock`, writes `run.json`, `ended.json`, `logs/`
//! ```
//!
//! The keeper is a process of its own, in a session of its own, and outlives the terminal. It treats the game as
//! `vsekai-supervisor run` treats a command (the same code): a process group, restarts with backoff and a limit if they were asked for, and
//! a stop that first asks and then, when the grace time is over, kills the whole group.
//!
//! Whether a keeper lives is told by its lock alone. Who it is, is told by process id *and* start time; what is left of a game whose
//! keeper was killed is told by the mark in its environment.

mod keep;
mod record;

pub use keep::keep;

use crate::error::{Exit, TaskError, shown};
use crate::settings::{self, Purpose};
use crate::whole;
use record::{ENDED_FILE, Ended, LOCK_FILE, Program, RUN_FILE, Run};
use rustix::process::Signal;
use serde::Serialize;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vsekai_supervisor::policy::Outcome;
use vsekai_supervisor::procfs::{self, Process};

/// What a build says of how it is started: this file at its root, in TOML: `program = "bin/game"`, and `arguments = ["…"]`.
pub const LAUNCH_FILE: &str = "vsekai-launch.toml";
const LAUNCH_FILE_BYTES_MAX: u64 = 64 << 10;
/// In the environment of the game and of all that it starts, the run's id: that is how they are found when their keeper is gone.
const MARK: &str = "VSEKAI_PORTAL_RUN";
/// How long a keeper may take until it holds its lock.
const KEEPER_START_MAX: Duration = Duration::from_secs(10);
/// How much longer than the grace time a keeper may take to end.
const KEEPER_STOP_MAX: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What is to be launched.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The folder of the installation, whose `current` version is launched.
    pub root: PathBuf,
    /// Instead of what the build's [`LAUNCH_FILE`] says: a program, beneath the version's folder unless it is absolute, and its arguments.
    pub command: Vec<OsString>,
    /// Added to the arguments that the build's file gives.
    pub arguments: Vec<String>,
    /// Address of the shard to join, for the game as `VSEKAI_ADDRESS`.
    pub address: Option<String>,
    /// The session's token, for the game as `VSEKAI_SESSION`: in the environment, which other users cannot see.
    pub session: Option<String>,
    /// Start it again when it crashes, at most five times in a minute.
    pub restart: bool,
    /// Between the request to close and the kill.
    pub grace: Duration,
}

/// How a profile's game is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Status {
    /// Its keeper is at work.
    Running {
        /// What runs.
        program: String,
        /// The version that was current when it was launched.
        version: Option<String>,
        /// The game's process; none while it waits to be started again.
        pid: Option<i32>,
        /// The process that keeps it.
        keeper: i32,
        /// When it was launched, seconds since 1970.
        since: u64,
        /// How often it was started again after a crash.
        restarts: u32,
        /// The shard it was told to join.
        address: Option<String>,
        /// The folder of what it says.
        logs: PathBuf,
    },
    /// It ended, or was never launched.
    Stopped {
        /// How it ended.
        outcome: Option<String>,
        /// When, seconds since 1970.
        at: Option<u64>,
    },
    /// Its keeper was killed, it runs on: nobody restarts it. `portal close` ends it.
    Adrift {
        /// The processes.
        pids: Vec<i32>,
    },
}

/// A profile's portal: the folder in which its run is remembered.
#[derive(Debug, Clone)]
pub struct Portal {
    folder: PathBuf,
}

impl Portal {
    /// Of the profile of this name.
    pub fn of(profile: &str) -> Result<Self, TaskError> {
        Ok(Self { folder: settings::folder(Purpose::State)?.join("portal").join(profile) })
    }

    /// How the game is.
    pub fn status(&self) -> Result<Status, TaskError> {
        let run: Option<Run> = record::load(&self.folder.join(RUN_FILE))?;
        if let Some(run) = &run
            && self.is_kept()?
        {
            let keeper = run.keeper.map_or(0, |keeper| keeper.pid);
            let game =
                procfs::children(keeper).into_iter().find(|&pid| procfs::stat(pid).is_some_and(|s| !s.is_over()));
            return Ok(Status::Running {
                program: run.program.program.display().to_string(),
                version: run.version.clone(),
                pid: game,
                keeper,
                since: run.since,
                restarts: run.starts.saturating_sub(1),
                address: run.address.clone(),
                logs: self.folder.join(record::LOG_FOLDER),
            });
        }
        let adrift = run.as_ref().map(|run| marked(&run.id)).unwrap_or_default();
        if !adrift.is_empty() {
            return Ok(Status::Adrift { pids: adrift.iter().map(|process| process.pid).collect() });
        }
        let ended: Option<Ended> = record::load(&self.folder.join(ENDED_FILE))?;
        Ok(match ended {
            Some(ended) => Status::Stopped { outcome: Some(ended.outcome), at: Some(ended.at) },
            // Killed together with its keeper, by a power cut for example.
            None => Status::Stopped { outcome: run.map(|_| "it ended unseen".into()), at: None },
        })
    }

    /// Starts the game, and returns once its keeper has. [`Exit::Busy`] when it runs already.
    pub fn launch(&self, launch: &Launch) -> Result<Status, TaskError> {
        match self.status()? {
            Status::Running { keeper, .. } => {
                return Err(TaskError::new(
                    Exit::Busy,
                    format!("it runs already, kept by process {keeper}: `vsekai portal restart` or `close`"),
                ));
            }
            Status::Adrift { pids } => {
                let what = format!(
                    "the game of an earlier run is still there (process {pids:?}), its keeper is not: `vsekai portal close` ends it"
                );
                return Err(TaskError::new(Exit::Busy, what));
            }
            Status::Stopped { .. } => {}
        }
        let (folder, version) = current(&launch.root)?;
        let program = program(&folder, launch)?;
        let run = Run {
            id: format!("{:032x}", rand::random::<u128>()),
            keeper: None,
            starts: 0,
            program,
            folder,
            version,
            address: launch.address.clone(),
            session: launch.session.clone(),
            restart: launch.restart,
            grace_ms: u64::try_from(launch.grace.as_millis()).unwrap_or(u64::MAX),
            since: record::now(),
        };
        self.start(&run)
    }

    /// Closes the game if it runs, and launches it again as it was launched last. What is current by then is what is launched.
    pub fn restart(&self) -> Result<Status, TaskError> {
        let Some(mut run) = record::load::<Run>(&self.folder.join(RUN_FILE))? else {
            return Err(TaskError::new(Exit::NotFound, "it was never launched: `vsekai portal launch`"));
        };
        if !matches!(self.status()?, Status::Stopped { .. }) {
            self.close(None)?;
        }
        if let Some(root) = run.folder.parent().filter(|_| run.version.is_some()) {
            // The program is where it was in the version before.
            let old = run.folder.clone();
            (run.folder, run.version) = current(root.parent().unwrap_or(root))?;
            if let Ok(inside) = run.program.program.strip_prefix(&old) {
                run.program.program = run.folder.join(inside);
            }
        }
        run.id = format!("{:032x}", rand::random::<u128>());
        (run.keeper, run.starts, run.since) = (None, 0, record::now());
        self.start(&run)
    }

    /// Asks the game to end, and kills it with all it started when its grace time (or this one) is over. [`Exit::NotFound`] when it does not run.
    pub fn close(&self, grace: Option<Duration>) -> Result<Status, TaskError> {
        let run: Option<Run> = record::load(&self.folder.join(RUN_FILE))?;
        let (Some(run), before) = (run, self.status()?) else {
            return Err(TaskError::new(Exit::NotFound, "it does not run: it was never launched"));
        };
        let grace = grace.unwrap_or(Duration::from_millis(run.grace_ms));
        match before {
            Status::Stopped { .. } => Err(TaskError::new(Exit::NotFound, "it does not run")),
            Status::Running { .. } => {
                let keeper = run.keeper.unwrap_or(Process { pid: 0, start: 0 });
                keeper.signal(Signal::TERM);
                let begun = Instant::now();
                let mut killed = false;
                while self.is_kept()? {
                    // The keeper kills when the grace time is over that it was launched with; this one may be shorter.
                    if begun.elapsed() >= grace {
                        for game in marked(&run.id) {
                            killed |= game.signal(Signal::KILL);
                        }
                    }
                    if begun.elapsed() >= grace + KEEPER_STOP_MAX {
                        return Err(TaskError::new(
                            Exit::Failed,
                            format!("its keeper, process {}, does not end", keeper.pid),
                        ));
                    }
                    std::thread::sleep(LOOK_INTERVAL);
                }
                if killed {
                    let outcome = Outcome::Killed.to_string();
                    record::store(&self.folder.join(ENDED_FILE), &Ended { outcome, at: record::now() })?;
                }
                self.status()
            }
            Status::Adrift { .. } => {
                for signal in [Signal::TERM, Signal::KILL] {
                    for process in marked(&run.id) {
                        process.signal(signal);
                    }
                    let begun = Instant::now();
                    while !marked(&run.id).is_empty() && begun.elapsed() < grace {
                        std::thread::sleep(LOOK_INTERVAL);
                    }
                }
                let left = marked(&run.id);
                if !left.is_empty() {
                    return Err(TaskError::new(Exit::Failed, format!("these processes do not end: {left:?}")));
                }
                let ended = Ended { outcome: "closed, after its keeper was killed".into(), at: record::now() };
                record::store(&self.folder.join(ENDED_FILE), &ended)?;
                self.status()
            }
        }
    }

    /// Is somebody keeping it?
    fn is_kept(&self) -> Result<bool, TaskError> {
        let file = self.folder.join(LOCK_FILE);
        whole::try_lock(&file).map(|held| held.is_none()).map_err(|source| TaskError::unwritable(&file, source))
    }

    fn start(&self, run: &Run) -> Result<Status, TaskError> {
        let ended = self.folder.join(ENDED_FILE);
        record::store(&self.folder.join(RUN_FILE), run)?;
        match std::fs::remove_file(&ended) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(TaskError::unwritable(&ended, error));
            }
            _ => {}
        }
        let own =
            std::env::current_exe().map_err(|error| TaskError::because(Exit::Failed, "the own program", error))?;
        let words_file = self.folder.join(record::WORDS_FILE);
        let words = File::create(&words_file).map_err(|source| TaskError::unwritable(&words_file, source))?;
        let mut keeper = Command::new(own)
            .args(["portal", "keep", "--folder"])
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(words)
            // A signal to the terminal's foreground group is not meant for it.
            .process_group(0)
            .spawn()
            .map_err(|error| TaskError::because(Exit::Failed, "the keeper cannot be started", error))?;
        let begun = Instant::now();
        loop {
            let status = self.status()?;
            // Until the game was started once, nothing is known. A start is counted before there is a process; between two starts there is none.
            let starts = record::load::<Run>(&self.folder.join(RUN_FILE))?.map_or(0, |run| run.starts);
            if matches!(status, Status::Running { pid, .. } if starts > u32::from(pid.is_none())) {
                return Ok(status);
            }
            if let Ok(Some(ended)) = keeper.try_wait() {
                return match self.status()? {
                    // A short run is a run, if it ended well.
                    status @ Status::Stopped { .. } if ended.success() => Ok(status),
                    Status::Stopped { outcome: Some(outcome), .. } => {
                        Err(TaskError::new(Exit::Failed, format!("the game {outcome}")))
                    }
                    _ => {
                        let words = std::fs::read_to_string(&words_file).unwrap_or_default();
                        let last = words.lines().last().unwrap_or("it said nothing").to_owned();
                        Err(TaskError::new(Exit::Failed, format!("the keeper ended with {ended}: {last}")))
                    }
                };
            }
            if begun.elapsed() >= KEEPER_START_MAX {
                return Err(TaskError::new(Exit::Failed, "the keeper does not begin"));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

/// The folder of the current version, all links followed, and its name.
fn current(root: &Path) -> Result<(PathBuf, Option<String>), TaskError> {
    let pointer = root.join("current");
    let folder = std::fs::canonicalize(&pointer).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => TaskError::new(
            Exit::NotFound,
            format!("{}: nothing is installed: `vsekai system update` does it", shown(root)),
        ),
        _ => TaskError::unreadable(&pointer, source),
    })?;
    let version = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok((folder, version))
}

/// What is to be started, from the command line or from the build's own file.
fn program(folder: &Path, launch: &Launch) -> Result<Program, TaskError> {
    let (program, mut arguments) = match launch.command.split_first() {
        Some((program, arguments)) => {
            let text = |word: &OsString| word.to_str().map(str::to_owned);
            let arguments: Option<Vec<String>> = arguments.iter().map(text).collect();
            let arguments = arguments.ok_or_else(|| TaskError::new(Exit::Usage, "an argument is not Unicode"))?;
            (PathBuf::from(program), arguments)
        }
        None => {
            let file = folder.join(LAUNCH_FILE);
            let Some(bytes) = whole::read(&file, LAUNCH_FILE_BYTES_MAX)? else {
                let what = format!(
                    "{}: the build does not say what to start; `vsekai portal launch -- PROGRAM` does",
                    shown(&file)
                );
                return Err(TaskError::new(Exit::NotFound, what));
            };
            let damaged = |why: String| TaskError::new(Exit::Damaged, format!("{}: {why}", shown(&file)));
            let text = String::from_utf8(bytes).map_err(|_| damaged("not UTF-8".into()))?;
            let stated: Program = toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
            // What a build says stays inside of it.
            if !stated.program.components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(damaged("`program` must be a path beneath the build".into()));
            }
            (stated.program, stated.arguments)
        }
    };
    arguments.extend(launch.arguments.iter().cloned());
    let program = folder.join(program);
    let whole = std::fs::canonicalize(&program).map_err(|source| TaskError::unreadable(&program, source))?;
    if launch.command.is_empty() && !whole.starts_with(folder) {
        return Err(TaskError::new(Exit::Damaged, format!("{}: a link that leads out of the build", shown(&program))));
    }
    Ok(Program { program, arguments })
}

/// The living processes of this user that carry a run's mark.
fn marked(id: &str) -> Vec<Process> {
    let mark = format!("{MARK}={id}");
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(Process::now)
        .filter(|process| {
            let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes())
                && procfs::stat(process.pid).is_some_and(|stat| !stat.is_over())
        })
        .collect()
}
