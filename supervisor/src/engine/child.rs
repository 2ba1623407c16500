//! One child as the engine knows it: configuration, run, what it said, what it holds; and how it is shown.

use super::crash::CrashReport;
use super::journal::{Drain, JournalView};
use super::pulse::Pulse;
use crate::config::{ChildConfig, Health};
use crate::fleet::{Member, Phase, Why};
use crate::link::{Exit, NOTIFY_SOCKET, Record, Spec, ToKeeper};
use crate::log::unix_ms;
use crate::notify::Said;
use crate::procfs::Process;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Samples that are kept for the page, one a second.
pub const HISTORY_MAX: usize = 180;

/// What the engine holds of a child.
#[derive(Debug)]
pub struct Child {
    /// As configured.
    pub config: ChildConfig,
    /// Its folder in the state directory.
    pub folder: PathBuf,
    /// Counts its runs.
    pub run: u64,
    /// To its keeper, while there is one.
    pub orders: Option<mpsc::Sender<ToKeeper>>,
    /// Its keeper, while there is one.
    pub keeper: Option<Process>,
    /// Its process, while there is one.
    pub process: Option<Process>,
    /// When that was started.
    pub started_unix_ms: u64,
    /// What it has said in this run.
    pub said: Said,
    /// The watch over that.
    pub pulse: Pulse,
    /// Lines written and lost.
    pub log: (u64, u64),
    /// The end of this run, once it was told.
    pub exit: Option<Exit>,
    /// The end of the newest run that has ended.
    pub last_exit: Option<String>,
    /// What it and those it started hold.
    pub sample: Sample,
    /// Who was below its keeper when that was looked at last.
    pub known: Vec<Process>,
    /// One a second.
    pub history: VecDeque<Point>,
    /// Asks it whether it is well.
    pub probe: Option<JoinHandle<()>>,
    /// What is brought in of its journal, while that is under way.
    pub drain: Option<Drain>,
    /// When that is tried again.
    pub drain_again_at: Option<Duration>,
    /// Its journal, if it has one that we look after.
    pub journal: Option<JournalView>,
    /// To be completed when everybody is gone.
    pub crash: Option<CrashReport>,
    /// Why it is down, as it is written in its folder.
    pub kept_down: Option<Why>,
    /// Kills that were in vain.
    pub kills: u32,
    /// Tick and time of the last sample.
    pub tick_before: Option<(u64, Duration)>,
    /// Ticks a second.
    pub tick_hz: Option<f32>,
}

/// What a child and those it started hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Memory, resident, of all of them.
    pub rss_bytes: u64,
    /// Open descriptors of its own process.
    pub open_files: u64,
    /// How many processes they are.
    pub processes: u64,
    /// Memory of the keeper, resident.
    pub keeper_rss_bytes: u64,
}

/// One second of the page's curves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Ticks a second.
    pub tick_hz: Option<f32>,
    /// Players.
    pub players: Option<u32>,
    /// Bytes not in the database yet.
    pub backlog_bytes: Option<u64>,
    /// Memory, resident.
    pub rss_bytes: Option<u64>,
}

/// A child as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildView {
    /// What it is called.
    pub name: String,
    /// Its group.
    pub group: String,
    /// `running`, `starting`, `waiting`, `recovering` (its journal is brought into the store first), `queued`, `stopping`, `draining`, `clearing`, `stopped`, `finished`, `held`, `quarantined`.
    pub state: String,
    /// Why it is in that state, if there is a reason.
    pub reason: Option<String>,
    /// Its process.
    pub pid: Option<i32>,
    /// Its keeper's process.
    pub keeper_pid: Option<i32>,
    /// Counts its runs.
    pub run: u64,
    /// How long it has been running.
    pub uptime_ms: Option<u64>,
    /// How long until it is started again.
    pub starts_in_ms: Option<u64>,
    /// How often it was started again after a failure, as far as this supervisor knows.
    pub restarts: u64,
    /// How its last run ended.
    pub last_exit: Option<String>,
    /// What it says of itself.
    pub status: String,
    /// Its tick.
    pub tick: Option<u64>,
    /// Ticks a second.
    pub tick_hz: Option<f32>,
    /// Players.
    pub players: Option<u32>,
    /// Bytes not in the database yet: as it says, or as they are found in its journal when it is down.
    pub backlog_bytes: Option<u64>,
    /// Its journal, if it has one that the supervisor looks after.
    #[serde(default)]
    pub journal: Option<JournalView>,
    /// What it holds.
    #[serde(flatten)]
    pub sample: Sample,
    /// Lines that were kept, over all its runs.
    pub log_lines: u64,
    /// Lines of this run that were lost.
    pub log_lost: u64,
    /// What is run.
    pub command: Vec<String>,
}

impl Child {
    /// Down, as its folder says.
    pub fn new(config: ChildConfig, folder: PathBuf) -> Child {
        Child {
            config,
            folder,
            run: 0,
            orders: None,
            keeper: None,
            process: None,
            started_unix_ms: 0,
            said: Said::default(),
            pulse: Pulse::default(),
            log: (0, 0),
            exit: None,
            last_exit: None,
            sample: Sample::default(),
            known: Vec::new(),
            history: VecDeque::new(),
            probe: None,
            drain: None,
            drain_again_at: None,
            journal: None,
            crash: None,
            kept_down: None,
            kills: 0,
            tick_before: None,
            tick_hz: None,
        }
    }

    /// What its next keeper is told.
    pub fn spec(&self) -> Spec {
        let (notify, watchdog) = match self.config.health {
            Health::Notify(timeout) => (true, timeout),
            Health::None | Health::Probe { .. } => (false, None),
        };
        Spec {
            name: self.config.name.clone(),
            run: self.run,
            command: self.config.command.clone(),
            environment: self.config.environment.clone(),
            directory: self.config.directory.clone(),
            open_files: self.config.open_files,
            notify_socket: notify.then(|| self.folder.join(NOTIFY_SOCKET)),
            watchdog_us: watchdog.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            grace_ms: u64::try_from(self.config.rules.grace.as_millis()).unwrap_or(u64::MAX),
            log: self.config.log.clone(),
        }
    }

    /// Forgets what belonged to the run before.
    pub fn begin_run(&mut self, run: u64, keeper: Process, orders: mpsc::Sender<ToKeeper>) {
        self.run = run;
        self.keeper = Some(keeper);
        self.orders = Some(orders);
        self.process = None;
        self.started_unix_ms = unix_ms();
        self.said = Said::default();
        self.pulse = Pulse::new(match self.config.health {
            Health::Notify(timeout) => timeout,
            Health::None | Health::Probe { .. } => None,
        });
        self.log.1 = 0;
        self.exit = None;
        self.known.clear();
        self.kills = 0;
        self.tick_before = None;
        self.tick_hz = None;
    }

    /// The run is over.
    pub fn end_run(&mut self) {
        self.keeper = None;
        self.orders = None;
        self.process = None;
        self.sample = Sample::default();
        self.tick_hz = None;
        self.tick_before = None;
        self.known.clear();
        self.stop_probe();
    }

    /// It has its journal for itself from now on.
    pub fn forget_drain(&mut self) {
        self.drain_again_at = None;
        if let Some(journal) = &mut self.journal {
            "busy".clone_into(&mut journal.state);
        }
    }

    /// Nobody asks it any more.
    pub fn stop_probe(&mut self) {
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
    }

    /// Takes over what a keeper's record says.
    pub fn adopt(&mut self, record: &Record) {
        self.process = record.process;
        self.started_unix_ms = record.started_unix_ms;
        self.said = record.said.clone();
    }

    /// Takes in what was sampled, and counts its ticks.
    pub fn sampled(&mut self, now: Duration, sample: Sample, known: Vec<Process>) {
        self.sample = sample;
        self.known = known;
        if let Some(tick) = self.said.tick {
            match self.tick_before {
                Some((before, at)) if tick >= before && now > at => {
                    let hz = (tick - before) as f32 / (now - at).as_secs_f32();
                    self.tick_hz = Some(hz);
                }
                _ => {}
            }
            self.tick_before = Some((tick, now));
        }
    }

    /// One more second of the page's curves.
    pub fn remember(&mut self) {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        let lives = self.process.is_some();
        self.history.push_back(Point {
            tick_hz: self.tick_hz.filter(|_| lives),
            players: self.said.players.filter(|_| lives),
            backlog_bytes: self.backlog_bytes().filter(|_| lives || self.journal.is_some()),
            rss_bytes: Some(self.sample.rss_bytes).filter(|_| lives),
        });
    }

    /// As the API shows it.
    pub fn view(&self, group: &str, member: &Member, now: Duration) -> ChildView {
        let state = match (&member.phase, &member.down) {
            (Phase::Starting { .. }, _) => "starting",
            (Phase::Running { .. }, _) => "running",
            (Phase::Draining { .. }, _) => "draining",
            (Phase::Stopping { .. }, _) => "stopping",
            (Phase::Clearing { .. }, _) => "clearing",
            (Phase::Idle, None) if member.held_until.is_some_and(|until| until > now) => "recovering",
            (Phase::Idle, None) if member.not_before > now => "waiting",
            (Phase::Idle, None) => "queued",
            (Phase::Idle, Some(Why::Quarantined { .. })) => "quarantined",
            (Phase::Idle, Some(Why::Maintenance)) => "held",
            (Phase::Idle, Some(Why::Finished(_))) => "finished",
            (Phase::Idle, Some(Why::Asked | Why::WithGroup | Why::Shutdown)) => "stopped",
        };
        let reason = match (&member.phase, &member.down) {
            (Phase::Stopping { illness: Some(illness), .. }, _) => Some(illness.to_string()),
            (_, Some(why)) => Some(why.to_string()),
            (Phase::Idle, None) => member.last_failure.as_ref().map(ToString::to_string),
            _ => None,
        };
        let reason = match self.journal.as_ref().filter(|_| member.phase == Phase::Idle).and_then(JournalView::words) {
            Some(words) => Some(reason.map_or_else(|| words.clone(), |reason| format!("{reason}; {words}"))),
            None => reason,
        };
        let lives = self.process.is_some() && self.exit.is_none();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        ChildView {
            name: self.config.name.clone(),
            group: group.to_owned(),
            state: state.to_owned(),
            reason,
            pid: self.process.filter(|_| lives).map(|process| process.pid),
            keeper_pid: self.keeper.map(|keeper| keeper.pid),
            run: self.run,
            uptime_ms: lives.then(|| unix_ms().saturating_sub(self.started_unix_ms)),
            starts_in_ms: (state == "waiting").then(|| ms(member.not_before.saturating_sub(now))),
            restarts: member.restarts,
            last_exit: self.last_exit.clone(),
            status: self.said.status.clone(),
            tick: self.said.tick,
            tick_hz: self.tick_hz,
            players: self.said.players.filter(|_| lives),
            backlog_bytes: self.backlog_bytes(),
            journal: self.journal.clone().or_else(|| self.config.journal.as_ref().map(|_| JournalView::new("busy"))),
            sample: self.sample,
            log_lines: self.log.0,
            log_lost: self.log.1,
            command: self.config.command.clone(),
        }
    }
}
