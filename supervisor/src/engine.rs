//! Does what the fleet says, with real processes: starts keepers, listens to them, asks after children's health, keeps crash reports,
//! and tells whoever looks.
//!
//! One task owns everything here and never waits for anybody: keepers, probes, disks and clients are other tasks, which talk to it over
//! bounded channels. A child's exit comes by its keeper's word; what a keeper could not say any more is in its record.

mod adopt;
mod asks;
mod child;
pub mod crash;
mod journal;
mod probe;
mod pulse;
mod store;
mod tether;

pub use asks::{Ask, Asked, Refused};
pub use child::{ChildView, Point, Sample};
pub use journal::JournalView;
pub use store::StoreView;

use crate::config::{Config, Health};
use crate::fleet::{Action, Cause, Event, Fleet, Phase, Why};
use crate::link::{Ending, Exit, FromKeeper, LOGS, RECORD, Record, ToKeeper, write_whole};
use crate::log::unix_ms;
use crate::notify::{self, Said};
use crate::procfs::{self, Process};
use crate::store::DrainSaid;
use anyhow::{Context, Result};
use child::Child;
use crash::CrashReport;
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use store::StoreState;
use tether::{FromTether, Word};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{error, info, warn};

/// Words of keepers that may wait for the engine.
const WORDS_MAX: usize = 256;
/// Requests that may wait for the engine.
const ASKS_MAX: usize = 64;
/// Events that a slow listener may be behind; then it misses some and is told so.
const EVENTS_MAX: usize = 256;
/// Events that the board shows.
const RECENT_MAX: usize = 60;
/// Children are looked at this often.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Those that a lost keeper left behind are hunted this often.
const HUNT_INTERVAL: Duration = Duration::from_millis(20);
/// After so many kills in vain, the keeper itself is killed: it hangs.
const KILLS_MAX: u32 = 5;
/// Until a foreign program is ready, it is asked this often.
const FIRST_PROBES: Duration = Duration::from_millis(100);
/// In a child's folder: why it is down, if it is.
const DOWN: &str = "down.json";
/// How long a request to drain may take to be answered.
const DRAIN_ANSWER: Duration = Duration::from_secs(5);

/// Something that operators should know of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// Counts the events of this supervisor.
    pub number: u64,
    /// When, microseconds since 1970.
    pub at_unix_us: u64,
    /// Which child, if it is one's.
    pub child: Option<String>,
    /// Which of its runs.
    pub run: u64,
    /// `started`, `ready`, `ended`, `gone`, `failed`, `finished`, `quarantined`, `stopping`, `killing`, `draining`, `adopted`, `lost`, `journal`, `asked`, `note`.
    pub kind: String,
    /// In words.
    pub text: String,
    /// The process, if there is one.
    pub pid: Option<i32>,
}

/// The supervisor as it shows itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorView {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// How long it has been running.
    pub uptime_ms: u64,
    /// Memory, resident.
    pub rss_bytes: u64,
    /// Open descriptors.
    pub open_files: u64,
    /// The machine's name.
    pub host: String,
    /// Everybody is being stopped.
    pub finishing: bool,
}

/// A group as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    /// What it is called.
    pub name: String,
    /// Who is restarted with whom.
    pub strategy: crate::fleet::Strategy,
    /// Most restarts in a window.
    pub restarts_max: u32,
}

/// All that is shown, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Board {
    /// When, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// The supervisor.
    pub supervisor: SupervisorView,
    /// In order.
    pub groups: Vec<GroupView>,
    /// In order.
    pub children: Vec<ChildView>,
    /// The store of this machine, if this supervisor has one.
    #[serde(default)]
    pub store: Option<StoreView>,
    /// The newest events, oldest first.
    pub recent: Vec<Happened>,
}

/// What the API knows the engine by.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Requests.
    pub asks: mpsc::Sender<Asked>,
    /// How things stand.
    pub board: watch::Receiver<Arc<Board>>,
    /// What happens.
    pub events: broadcast::Sender<Arc<Happened>>,
    /// Where each child's logs and crash reports lie.
    pub folders: Arc<BTreeMap<String, PathBuf>>,
}

/// Why the engine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everybody was stopped.
    Stopped,
    /// The children go on; another supervisor will find them.
    Detached,
}

/// From the engine's own helpers.
#[derive(Debug)]
enum HelperWord {
    Sampled(Vec<(usize, u64, Sample, Vec<Process>)>),
    Well {
        child: usize,
        run: u64,
    },
    Ill {
        child: usize,
        run: u64,
        times: u32,
        reason: String,
    },
    DrainRefused {
        child: usize,
        run: u64,
        reason: String,
    },
    /// Of the drain of a journal; nothing when it has ended.
    Drain {
        child: usize,
        number: u64,
        said: Option<DrainSaid>,
    },
    /// How long the store took to answer, microseconds, or why it did not.
    Store(Result<u64, String>),
}

/// The engine; see the module.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    path: PathBuf,
    fleet: Fleet,
    children: Vec<Child>,
    clock: Instant,
    words: (mpsc::Sender<FromTether>, mpsc::Receiver<FromTether>),
    helpers: (mpsc::Sender<HelperWord>, mpsc::Receiver<HelperWord>),
    asks: mpsc::Receiver<Asked>,
    board: watch::Sender<Arc<Board>>,
    events: broadcast::Sender<Arc<Happened>>,
    recent: VecDeque<Happened>,
    happened: u64,
    /// Children whose keeper is lost, and whose processes are hunted.
    lost: Vec<usize>,
    sampling: bool,
    shown: bool,
    store: StoreState,
    /// Drains of journals begun.
    drains: u64,
    /// What the supervisor itself holds.
    own: Sample,
    /// Those that run already are not told to have been started.
    adopting: bool,
    host: String,
    outcome: Option<Outcome>,
    finishing: bool,
    _lock: File,
}

impl Engine {
    /// Takes the state directory; nothing is started yet.
    ///
    /// # Errors
    /// When another supervisor has it, or it cannot be used.
    pub fn new(config: Config, path: &Path, seed: u64) -> Result<(Engine, Handle)> {
        let lock = adopt::take_state(&config.state_dir)?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("cannot become a subreaper")?;
        let folder = |name: &str| config.state_dir.join("children").join(name);
        let children: Vec<Child> =
            config.children.iter().map(|child| Child::new(child.clone(), folder(&child.name))).collect();
        let folders: BTreeMap<String, PathBuf> =
            children.iter().map(|child| (child.config.name.clone(), child.folder.clone())).collect();
        let fleet = Fleet::new(
            config.children.iter().map(|child| child.rules.clone()).collect(),
            config.groups.iter().map(|(_, rules)| rules.clone()).collect(),
            seed,
        );
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let board = Board {
            at_unix_ms: unix_ms(),
            supervisor: SupervisorView {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_ms: 0,
                rss_bytes: 0,
                open_files: 0,
                host: host.clone(),
                finishing: false,
            },
            groups: Vec::new(),
            children: Vec::new(),
            store: None,
            recent: Vec::new(),
        };
        let (board, shown) = watch::channel(Arc::new(board));
        let handle = Handle { asks, board: shown, events: events.clone(), folders: Arc::new(folders) };
        let mut engine = Engine {
            config,
            path: path.to_owned(),
            fleet,
            children,
            clock: Instant::now(),
            words: mpsc::channel(WORDS_MAX),
            helpers: mpsc::channel(ASKS_MAX),
            asks: asked,
            board,
            events,
            recent: VecDeque::new(),
            happened: 0,
            lost: Vec::new(),
            sampling: false,
            shown: false,
            store: StoreState::default(),
            drains: 0,
            own: Sample::default(),
            adopting: true,
            host,
            outcome: None,
            finishing: false,
            _lock: lock,
        };
        engine.show();
        Ok((engine, handle))
    }

    /// Adopts who lives, starts who does not, and keeps them running until it is told to stop.
    ///
    /// # Errors
    /// When signals cannot be received.
    pub async fn run(mut self) -> Result<Outcome> {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let mut child_ended = signal(SignalKind::child()).context("cannot listen for SIGCHLD")?;
        let mut second = interval(SAMPLE_INTERVAL);
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watchdog = interval(notify_interval());
        watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);

        self.adopt_all().await;
        self.adopting = false;
        for index in 0..self.children.len() {
            // Whoever was there before us, and this in the middle, may have been killed.
            if self.fleet.members()[index].phase == Phase::Idle {
                self.begin_drain(index);
            }
        }
        self.step(Event::Begin);
        notify::tell("READY=1\nSTATUS=supervising");
        while self.outcome.is_none() {
            self.show();
            let wakes_at = self.fleet.wakes_at().map(|at| tokio::time::Instant::from_std(self.clock + at));
            let wake = async {
                match wakes_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let hunting = !self.lost.is_empty();
            tokio::select! {
                biased;
                Some(word) = self.words.1.recv() => self.hear(word),
                _ = child_ended.recv() => collect(),
                _ = terminate.recv() => self.stop_all("SIGTERM"),
                _ = interrupt.recv() => self.stop_all("SIGINT"),
                _ = hangup.recv() => drop(self.reload()),
                Some(asked) = self.asks.recv() => self.answer(asked),
                Some(word) = self.helpers.1.recv() => self.hear_helper(word),
                () = wake => self.step(Event::TimePassed),
                () = sleep(HUNT_INTERVAL), if hunting => self.hunt(),
                _ = second.tick() => self.sample(),
                _ = watchdog.tick() => notify::tell("WATCHDOG=1"),
            }
        }
        self.show();
        notify::tell("STOPPING=1");
        if self.outcome == Some(Outcome::Stopped) {
            for child in &self.children {
                // Whoever starts the supervisor again wants all of them.
                let _ = fs::remove_file(child.folder.join(DOWN));
            }
        }
        Ok(self.outcome.unwrap_or(Outcome::Stopped))
    }

    fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    fn stop_all(&mut self, asked_by: &str) {
        if self.finishing {
            // Asked again: nobody waits any longer.
            self.tell(None, "note", format!("{asked_by} again: killing everybody"));
            for child in 0..self.children.len() {
                self.order(child, ToKeeper::Kill);
            }
            return;
        }
        self.finishing = true;
        self.tell(None, "asked", format!("{asked_by}: stopping everybody"));
        self.step(Event::StopAll);
    }

    /// Tells the fleet, does what it says, and keeps what must survive.
    fn step(&mut self, event: Event) {
        self.shown = false;
        let actions = self.fleet.step(self.clock.elapsed(), event);
        for action in actions {
            self.act(action);
        }
        for index in 0..self.children.len() {
            let down = &self.fleet.members()[index].down;
            let child = &mut self.children[index];
            if child.kept_down != *down && *down != Some(Why::Shutdown) {
                child.kept_down.clone_from(down);
                keep_down(&child.folder, down.as_ref());
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start(child) if self.end_drain_for_start(child) => {}
            Action::Start(child) => self.start(child),
            Action::Stop(child) => {
                let grace = self.children[child].config.rules.grace;
                self.order(child, ToKeeper::Stop { grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) });
                self.tell(Some(child), "stopping", "is asked to end".to_owned());
            }
            Action::Abort(child) => {
                let illness = match &self.fleet.members()[child].phase {
                    Phase::Stopping { illness: Some(illness), .. } => illness.to_string(),
                    _ => String::new(),
                };
                self.order(child, ToKeeper::Abort);
                self.tell(Some(child), "stopping", format!("{illness}; it is ended with SIGABRT"));
            }
            Action::Kill(child) => self.kill(child),
            Action::Drain(child) => self.drain(child),
            Action::Failed { child, cause, delay } => {
                let text = match delay {
                    Some(delay) => format!("{cause}; it is started again in {} ms", delay.as_millis()),
                    None => format!("{cause}; it is not started again"),
                };
                let finished = delay.is_none() && cause == Cause::Ended(Ending::Exited(0));
                self.tell(Some(child), if finished { "finished" } else { "failed" }, text);
                self.begin_report(child, cause);
            }
            Action::Quarantined(child, why) => {
                self.tell(Some(child), "quarantined", why.to_string());
                if let Why::Quarantined { cause, .. } = why {
                    self.begin_report(child, cause);
                }
            }
            Action::Finish => self.outcome = Some(Outcome::Stopped),
        }
    }

    fn order(&mut self, child: usize, order: ToKeeper) {
        if let Some(orders) = &self.children[child].orders
            && orders.try_send(order).is_err()
        {
            warn!(child = self.children[child].config.name, ?order, "the keeper does not take orders");
        }
    }

    fn kill(&mut self, child: usize) {
        self.order(child, ToKeeper::Kill);
        let kept = &mut self.children[child];
        kept.kills += 1;
        if kept.kills > KILLS_MAX
            && let Some(keeper) = kept.keeper
        {
            keeper.signal(Signal::KILL);
            self.tell(Some(child), "killing", "its keeper does not answer and is killed, too".to_owned());
        } else {
            self.tell(Some(child), "killing", "everybody of it is killed".to_owned());
        }
    }

    fn drain(&mut self, child: usize) {
        let kept = &self.children[child];
        let (run, helpers) = (kept.run, self.helpers.0.clone());
        match kept.config.drain_url.clone() {
            Some(url) => {
                tokio::spawn(async move {
                    if let Err(reason) = probe::post(&url, DRAIN_ANSWER).await {
                        let _ = helpers.send(HelperWord::DrainRefused { child, run, reason }).await;
                    }
                });
                self.tell(Some(child), "draining", "is asked to finish".to_owned());
            }
            None => self.drain_by_signal(child),
        }
    }

    fn drain_by_signal(&mut self, child: usize) {
        let time = self.children[child].config.rules.drain_timeout;
        self.order(child, ToKeeper::Stop { grace_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX) });
        self.tell(Some(child), "draining", "is asked to finish, with SIGTERM".to_owned());
    }

    fn start(&mut self, index: usize) {
        let run = self.children[index].run + 1;
        self.children[index].run = run;
        self.children[index].forget_drain();
        let (folder, spec) = (self.children[index].folder.clone(), self.children[index].spec());
        match adopt::spawn_keeper(&folder, &spec) {
            Ok(keeper) => self.hold(index, run, keeper),
            Err(error) => {
                let ending = Ending::NotStarted(format!("its keeper could not be started: {error}"));
                self.tell(Some(index), "ended", ending.to_string());
                self.step(Event::Ended(index, ending));
                self.step(Event::Gone(index));
            }
        }
    }

    fn hold(&mut self, index: usize, run: u64, keeper: Process) {
        let (orders, given) = mpsc::channel(tether::ORDERS_MAX);
        let child = &mut self.children[index];
        child.begin_run(run, keeper, orders);
        tokio::spawn(tether::hold(index, run, child.folder.clone(), keeper, given, self.words.0.clone()));
    }

    fn hear(&mut self, FromTether { child: index, run, word }: FromTether) {
        if self.children[index].run != run || self.children[index].keeper.is_none() {
            return;
        }
        match word {
            Word::Said(FromKeeper::Record(record)) => self.saw_record(index, &record),
            Word::Said(FromKeeper::Started(process)) => self.saw_process(index, process),
            Word::Said(FromKeeper::Said(said)) => self.saw_said(index, said),
            Word::Said(FromKeeper::Ended(exit)) => self.saw_exit(index, exit),
            Word::Said(FromKeeper::Log(lines, lost)) => self.children[index].log = (lines, lost),
            // The keeper's own end follows, and only then its lock is free.
            Word::Said(FromKeeper::Gone) => {}
            Word::Ended => self.saw_keeper_end(index),
        }
    }

    fn saw_record(&mut self, index: usize, record: &Record) {
        if record.run != self.children[index].run {
            return;
        }
        if let Some(process) = record.process {
            self.saw_process(index, process);
            self.children[index].started_unix_ms = record.started_unix_ms;
        }
        self.saw_said(index, record.said.clone());
        if let Some(exit) = &record.exit {
            self.saw_exit(index, exit.clone());
        }
    }

    fn saw_process(&mut self, index: usize, process: Process) {
        let child = &mut self.children[index];
        if child.process.is_some() || child.exit.is_some() {
            return;
        }
        child.process = Some(process);
        child.started_unix_ms = unix_ms();
        if !self.adopting {
            self.tell(Some(index), "started", format!("runs as process {}", process.pid));
        }
        match self.children[index].config.health.clone() {
            Health::None => self.ready(index),
            Health::Notify(_) => {}
            Health::Probe { target, interval, timeout, failures } => {
                let (helpers, run) = (self.helpers.0.clone(), self.children[index].run);
                self.children[index].stop_probe();
                self.children[index].probe = Some(tokio::spawn(async move {
                    while probe::probe(&target, timeout).await.is_err() {
                        sleep(FIRST_PROBES.min(interval)).await;
                    }
                    let _ = helpers.send(HelperWord::Well { child: index, run }).await;
                    let mut times = 0;
                    loop {
                        sleep(interval).await;
                        match probe::probe(&target, timeout).await {
                            Ok(()) => times = 0,
                            Err(reason) => {
                                times += 1;
                                if times >= failures {
                                    let _ = helpers.send(HelperWord::Ill { child: index, run, times, reason }).await;
                                }
                            }
                        }
                    }
                }));
            }
        }
    }

    fn ready(&mut self, index: usize) {
        let is_news = !matches!(self.children[index].config.health, Health::None);
        if is_news && !self.adopting && matches!(self.fleet.members()[index].phase, Phase::Starting { .. }) {
            let after = unix_ms().saturating_sub(self.children[index].started_unix_ms);
            self.tell(Some(index), "ready", format!("is ready after {after} ms"));
        }
        self.step(Event::Ready(index));
    }

    fn saw_said(&mut self, index: usize, said: Said) {
        let now = self.now();
        let child = &mut self.children[index];
        child.pulse.hear(now, &said);
        let extended = said.extended.0 > child.said.extended.0;
        let until = child.pulse.extended_until();
        let ready = said.ready && matches!(child.config.health, Health::Notify(_));
        child.said = said;
        if extended {
            self.step(Event::MoreTime(index, until));
        }
        if ready && matches!(self.fleet.members()[index].phase, Phase::Starting { .. }) {
            self.ready(index);
        }
    }

    fn saw_exit(&mut self, index: usize, exit: Exit) {
        let child = &mut self.children[index];
        if child.exit.is_some() {
            return;
        }
        child.stop_probe();
        child.last_exit = Some(exit.ending.to_string());
        child.exit = Some(exit.clone());
        self.tell(Some(index), "ended", exit.ending.to_string());
        self.step(Event::Ended(index, exit.ending));
    }

    /// The keeper's process has ended: what it did not say is in its record, and whom it left is hunted.
    fn saw_keeper_end(&mut self, index: usize) {
        let record = Record::read(&self.children[index].folder).filter(|record| record.run == self.children[index].run);
        if let Some(record) = &record {
            self.saw_record(index, record);
        }
        if self.children[index].exit.is_none() {
            let why = adopt::keepers_last_words(&self.children[index].folder);
            let ending = if record.is_some() { Ending::Unknown } else { Ending::NotStarted(why) };
            let at_unix_us = unix_us();
            self.saw_exit(index, Exit { ending, at_unix_us });
        }
        if record.is_some_and(|record| record.gone) {
            self.saw_all_gone(index);
        } else {
            self.tell(Some(index), "lost", "its keeper is gone; whoever it left behind is killed".to_owned());
            self.lost.push(index);
            self.hunt();
        }
    }

    fn saw_all_gone(&mut self, index: usize) {
        let child = &mut self.children[index];
        // A supervisor that comes later need not hear of this run again.
        let _ = fs::rename(child.folder.join(RECORD), child.folder.join("last.json"));
        if let Some(report) = child.crash.take() {
            let (folder, keep) = (child.folder.clone(), child.config.crashes);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = crash::keep(&folder, report, keep) {
                    warn!("a crash report cannot be kept: {error}");
                }
            });
        }
        child.end_run();
        self.tell(Some(index), "gone", "everybody of it is gone".to_owned());
        // Before that the restart could be due.
        self.begin_drain(index);
        self.step(Event::Gone(index));
    }

    fn hunt(&mut self) {
        let keepers: Vec<i32> = self.children.iter().filter_map(|child| Some(child.keeper?.pid)).collect();
        for index in std::mem::take(&mut self.lost) {
            let child = &self.children[index];
            let mark = crate::keeper::mark(&child.folder, child.run);
            if adopt::kill_left_behind(&mark, &child.known, &keepers) {
                self.saw_all_gone(index);
            } else {
                self.lost.push(index);
            }
        }
        collect();
    }

    fn begin_report(&mut self, index: usize, cause: Cause) {
        if cause == Cause::Ended(Ending::Exited(0)) {
            return;
        }
        let child = &mut self.children[index];
        let at_unix_ms = child.exit.as_ref().map_or_else(unix_ms, |exit| exit.at_unix_us / 1_000);
        child.crash = Some(CrashReport {
            id: format!("{}-{}", child.config.name, child.run),
            child: child.config.name.clone(),
            run: child.run,
            pid: child.process.map(|process| process.pid),
            cause: cause.to_string(),
            detail: cause,
            at_unix_ms,
            uptime_ms: at_unix_ms.saturating_sub(child.started_unix_ms),
            tick: child.said.tick,
            status: child.said.status.clone(),
            command: child.config.command.clone(),
            backtrace: Vec::new(),
            lines: Vec::new(),
        });
    }

    fn hear_helper(&mut self, word: HelperWord) {
        match word {
            HelperWord::Sampled(samples) => self.sampled(samples),
            HelperWord::Well { child, run } if self.children[child].run == run => self.ready(child),
            HelperWord::Ill { child, run, times, reason } if self.children[child].run == run => {
                self.step(Event::Unwell(child, crate::fleet::Illness::Probe { times, reason }));
            }
            HelperWord::DrainRefused { child, run, reason } if self.children[child].run == run => {
                self.tell(Some(child), "note", format!("did not take the request to finish: {reason}"));
                if let Phase::Draining { .. } = self.fleet.members()[child].phase {
                    self.drain_by_signal(child);
                }
            }
            HelperWord::Drain { child, number, said } => self.hear_drain(child, number, said),
            HelperWord::Store(answer) => self.hear_store(answer),
            HelperWord::Well { .. } | HelperWord::Ill { .. } | HelperWord::DrainRefused { .. } => {}
        }
    }

    /// Has children looked at, on another thread: a machine under load answers slowly.
    fn sample(&mut self) {
        self.check_pulses();
        self.ask_store();
        self.drain_again();
        if std::mem::replace(&mut self.sampling, true) {
            return;
        }
        let whom: Vec<(usize, u64, i32, Option<i32>)> = self
            .children
            .iter()
            .enumerate()
            .filter_map(|(index, child)| Some((index, child.run, child.keeper?.pid, child.process.map(|p| p.pid))))
            .collect();
        let helpers = self.helpers.0.clone();
        tokio::task::spawn_blocking(move || {
            let look = |(index, run, keeper, process): (usize, u64, i32, Option<i32>)| {
                let below = procfs::descendants(keeper);
                let sample = Sample {
                    rss_bytes: below.iter().map(|process| procfs::resident_bytes(process.pid)).sum(),
                    open_files: process.map_or(0, procfs::open_files),
                    processes: below.len() as u64,
                    keeper_rss_bytes: procfs::resident_bytes(keeper),
                };
                (index, run, sample, below)
            };
            let _ = helpers.blocking_send(HelperWord::Sampled(whom.into_iter().map(look).collect()));
        });
    }

    fn check_pulses(&mut self) {
        let now = self.now();
        for index in 0..self.children.len() {
            if let Some(illness) = self.children[index].pulse.check(now)
                && self.children[index].exit.is_none()
            {
                self.step(Event::Unwell(index, illness));
            }
        }
    }

    fn sampled(&mut self, samples: Vec<(usize, u64, Sample, Vec<Process>)>) {
        self.sampling = false;
        self.shown = false;
        let own = std::process::id().cast_signed();
        self.own.rss_bytes = procfs::resident_bytes(own);
        self.own.open_files = procfs::open_files(own);
        let now = self.now();
        for (index, run, sample, known) in samples {
            let child = &mut self.children[index];
            if child.run != run || child.keeper.is_none() {
                continue;
            }
            child.sampled(now, sample, known);
            if let Some(max) = child.config.memory_bytes
                && sample.rss_bytes > max
            {
                let illness = crate::fleet::Illness::Memory { bytes: sample.rss_bytes, max };
                self.step(Event::Unwell(index, illness));
            }
        }
        self.children.iter_mut().for_each(Child::remember);
    }

    /// Tells whoever listens, and the supervisor's own log.
    fn tell(&mut self, child: Option<usize>, kind: &str, text: String) {
        self.happened += 1;
        let kept = child.map(|index| &self.children[index]);
        let happened = Happened {
            number: self.happened,
            at_unix_us: unix_us(),
            child: kept.map(|child| child.config.name.clone()),
            run: kept.map_or(0, |child| child.run),
            kind: kind.to_owned(),
            text,
            pid: kept.and_then(|child| Some(child.process?.pid)),
        };
        let name = happened.child.as_deref().unwrap_or("supervisor");
        match kind {
            "quarantined" | "lost" => error!("{name}: {kind}: {}", happened.text),
            "failed" | "killing" => warn!("{name}: {kind}: {}", happened.text),
            _ => info!("{name}: {kind}: {}", happened.text),
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(happened.clone());
        // Nobody may be listening.
        let _ = self.events.send(Arc::new(happened));
    }

    /// Puts how things stand where everybody can see it.
    fn show(&mut self) {
        if std::mem::replace(&mut self.shown, true) {
            return;
        }
        let own = std::process::id();
        let now = self.now();
        let group = |index: usize| &self.config.groups[index].0[..];
        let views = self.children.iter().zip(self.fleet.members());
        let board = Board {
            at_unix_ms: unix_ms(),
            supervisor: SupervisorView {
                pid: own,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
                rss_bytes: self.own.rss_bytes,
                open_files: self.own.open_files,
                host: self.host.clone(),
                finishing: self.finishing,
            },
            groups: self
                .config
                .groups
                .iter()
                .map(|(name, rules)| GroupView {
                    name: name.clone(),
                    strategy: rules.strategy,
                    restarts_max: rules.restarts_max,
                })
                .collect(),
            children: views.map(|(child, member)| child.view(group(child.config.rules.group), member, now)).collect(),
            store: self.store_view(),
            recent: self.recent.iter().cloned().collect(),
        };
        self.board.send_replace(Arc::new(board));
    }
}

/// Collects all that has ended below the supervisor: keepers, and whoever lost ones left.
fn collect() {
    while let Ok(Some(_)) = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {}
}

/// Writes down why a child is down, or that it is not.
fn keep_down(folder: &Path, why: Option<&Why>) {
    let path = folder.join(DOWN);
    let done = match why.map(serde_json::to_vec) {
        Some(Ok(text)) => fs::create_dir_all(folder).and_then(|()| write_whole(&path, &text)),
        _ => match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    };
    if let Err(error) = done {
        warn!("{} cannot be written: {error}", path.display());
    }
}

/// Where a child's lines lie.
pub fn logs_folder(folder: &Path) -> PathBuf {
    folder.join(LOGS)
}

fn unix_us() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// Half of what systemd wants, or long.
fn notify_interval() -> Duration {
    let wanted = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse::<u64>().ok());
    wanted.map_or(Duration::from_secs(3_600), |us| Duration::from_micros((us / 2).max(1_000)))
}
