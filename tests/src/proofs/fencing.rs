//! A shard that hangs while another takes its region over, and goes on afterwards: nothing that it does then may count.
//!
//! Real processes on a store that a supervisor serves (`unix:`). A *writer* (this program, started again) does to the storage what
//! a shard does: opens, appends frames, and tells what became durable, which is its acknowledgement. It is stopped (SIGSTOP) in
//! the middle, a successor takes over and writes, and the stopped one is let go (SIGCONT). Each frame says who wrote it, so that
//! at the end the store itself shows whether a late write came through.

use super::seed;
use anyhow::{Context, Result, bail, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use vsekai_bench::process::{ShardProcess, program};
use vsekai_bench::report::Latency;
use vsekai_schema::id::{EntityId, Tag};
use vsekai_schema::record::{EntitiesReader, FrameWriter, Home};
use vsekai_schema::units::ChunkKey;
use vsekai_storage::{Config, Event, NewWorld, Storage};

/// How many entities the frames write to, one each in turn.
const ENTITIES: u64 = 500;
/// Goals for the defaults of a shard.
const GOALS: Goals = Goals { after_exit: Duration::from_millis(500), after_hang: Duration::from_secs(3) };
/// What the short form allows, which runs beside anything else: only a takeover that gets stuck is a fault there.
const UNSTUCK: Goals = Goals { after_exit: Duration::from_secs(10), after_hang: Duration::from_secs(30) };

/// How long takeovers may take.
#[derive(Clone, Copy)]
struct Goals {
    after_exit: Duration,
    after_hang: Duration,
}

/// 200 zombies and 50 deaths of writers, 5 of each of shards; short: 2 and 3, 1 of each.
pub fn run(short: bool) -> Result<String> {
    let (zombies, deaths, shards) = if short { (2, 3, 1) } else { (200, 50, 5) };
    let seed = seed(7);
    let goals = if short { UNSTUCK } else { GOALS };
    trial(seed, zombies, deaths, shards, goals).with_context(|| format!("seed {seed} (VSEKAI_SEED replays it)"))
}

fn trial(seed: u64, zombies: usize, deaths: usize, shard_rounds: usize, goals: Goals) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let store = StoreProcess::start(&folder.path().join("store"), &folder.path().join("store.sock"))?;
    let journal = folder.path().join("journal");
    let mut chain = Chain::default();
    let mut current = Writer::start(&store.url(), &journal, 0)?;
    chain.begin(&current)?;
    let (mut after_hang, mut after_exit, mut answered_late) = (Vec::new(), Vec::new(), 0);
    for round in 0..zombies + deaths {
        let context = || format!("round {round}");
        current.write_for(Duration::from_millis(rng.random_range(20..200))).with_context(context)?;
        let is_hang = round < zombies;
        let began = Instant::now();
        if is_hang {
            current.signal(Signal::STOP)?;
        } else {
            current.child.kill()?;
        }
        let next = Writer::start(&store.url(), &journal, round as u64 + 1).with_context(context)?;
        let took = began.elapsed();
        if is_hang { &mut after_hang } else { &mut after_exit }.push(took);
        let mut late = std::mem::replace(&mut current, next);
        if is_hang {
            // Sometimes at once, sometimes in the middle of the successor's work.
            current.write_for(Duration::from_millis(rng.random_range(0..60))).with_context(context)?;
            late.signal(Signal::CONT)?;
        }
        // What it acknowledged, before or after the takeover, must be what the successor found.
        let told = late.drain().with_context(context)?;
        ensure!(
            told <= current.first_frame,
            "round {round}: frame {told} was acknowledged by the one taken over, but the successor began behind {}",
            current.first_frame
        );
        answered_late += late.durable_after_stop;
        let status = late.child.wait()?;
        if is_hang {
            ensure!(
                status.code() == Some(FENCED),
                "round {round}: the zombie ended with {status}, said {:?}",
                late.failed
            );
        }
        chain.begin(&current)?;
    }
    current.write_for(Duration::from_millis(50))?;
    current.signal(Signal::TERM)?;
    let last = current.drain()?;
    ensure!(current.child.wait()?.success(), "the last writer did not stop cleanly: {:?}", current.failed);
    let frames = chain.check(&store.url(), last)?;
    let shards = shard_takeovers(folder.path(), shard_rounds, goals)?;
    let status = store.stop()?;
    ensure!(status.success(), "the store's server did not stop cleanly: {status}");

    let hang = Latency::of(after_hang.iter().copied());
    let exit = Latency::of(after_exit.iter().copied());
    ensure!(
        after_hang.iter().all(|took| *took <= goals.after_hang),
        "a takeover after a hang took {:.0} ms",
        hang.max_ms
    );
    ensure!(
        after_exit.iter().all(|took| *took <= goals.after_exit),
        "a takeover after an exit took {:.0} ms",
        exit.max_ms
    );
    Ok(format!(
        "{zombies} zombies stopped through a takeover and let go: 0 late commits, 0 late acknowledgements ({answered_late} of \
         frames that the successor had drained), {frames} frames each by the writer whose turn it was; takeover after a hang \
         p50 {:.0}, max {:.0} ms, after {deaths} kills p50 {:.0}, max {:.0} ms; {shards}",
        hang.p50_ms, hang.max_ms, exit.p50_ms, exit.max_ms
    ))
}

/// Real shards: one is stopped or killed, another started on the same data. Returns the figures.
fn shard_takeovers(folder: &Path, rounds: usize, goals: Goals) -> Result<String> {
    let data = folder.join("shard");
    std::fs::create_dir_all(&data)?;
    let own_store = StoreProcess::start(&data.join("store"), &data.join("store.sock"))?;
    let url = own_store.url();
    let start = || ShardProcess::start(&data, &["--store", &url]);
    let (mut hangs, mut exits) = (Vec::new(), Vec::new());
    let mut shard = start()?;
    for round in 0..rounds {
        let pid = Pid::from_raw(i32::try_from(shard.id())?).context("no process id")?;
        kill_process(pid, Signal::STOP)?;
        let began = Instant::now();
        let next = start().with_context(|| format!("shard round {round}: no takeover of a hung shard"))?;
        hangs.push(began.elapsed());
        kill_process(pid, Signal::CONT)?;
        let status = shard.await_end(Duration::from_secs(10))?;
        ensure!(!status.success(), "the shard that was taken over ended as if nothing had happened");
        let log = shard.log();
        ensure!(
            log.contains("has taken the journal") || log.contains("another shard owns the region"),
            "the shard that was taken over does not say so: {}",
            log.lines().last().unwrap_or_default()
        );
        let began = Instant::now();
        next.kill()?;
        shard = start().with_context(|| format!("shard round {round}: no takeover of a dead shard"))?;
        exits.push(began.elapsed());
    }
    ensure!(shard.stop()?.success(), "the last shard did not stop cleanly");
    own_store.stop()?;
    let (hang, exit) = (Latency::of(hangs.iter().copied()), Latency::of(exits.iter().copied()));
    ensure!(
        hangs.iter().all(|took| *took <= goals.after_hang),
        "a shard's takeover after a hang took {:.0} ms",
        hang.max_ms
    );
    ensure!(
        exits.iter().all(|took| *took <= goals.after_exit),
        "a shard's takeover after an exit took {:.0} ms",
        exit.max_ms
    );
    Ok(format!(
        "shards: {rounds} after a hang, max {:.0} ms, {rounds} after a kill, max {:.0} ms",
        hang.max_ms, exit.max_ms
    ))
}

/// A supervisor that serves a store. Killed when dropped.
pub struct StoreProcess {
    child: Child,
    socket: PathBuf,
}

impl StoreProcess {
    /// Serves `local:{directory}` at `socket`.
    pub fn start(directory: &Path, socket: &Path) -> Result<Self> {
        let mut child = Command::new(program("vsekai-supervisor")?)
            .args(["store", "--store", &format!("local:{}", directory.display()), "--socket"])
            .arg(socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start vsekai-supervisor")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("it has no output")?).read_line(&mut line)?;
        ensure!(line.contains("unix:"), "the store's server said {line:?}");
        Ok(StoreProcess { child, socket: socket.to_owned() })
    }

    /// What shards are given.
    pub fn url(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    /// Asks it to stop, and waits.
    pub fn stop(mut self) -> Result<std::process::ExitStatus> {
        kill_process(pid_of(&self.child)?, Signal::TERM)?;
        Ok(self.child.wait()?)
    }
}

impl Drop for StoreProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid_of(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process id")
}

/// Which writer wrote which frames.
#[derive(Default)]
struct Chain {
    /// First frame behind which each began, in order of their numbers.
    began_behind: Vec<u64>,
}

impl Chain {
    fn begin(&mut self, writer: &Writer) -> Result<()> {
        let last = self.began_behind.last().copied().unwrap_or(0);
        ensure!(writer.first_frame >= last, "a writer began behind frame {}, before {last}", writer.first_frame);
        self.began_behind.push(writer.first_frame);
        Ok(())
    }

    /// Holds the store against it: every entity must have been written last by the frame, and so by the writer, that was
    /// to write it last.
    fn check(&self, url: &str, last: u64) -> Result<u64> {
        let folder = tempfile::tempdir()?;
        let opened = Storage::open(Config::new(url, folder.path().join("journal")), std::sync::Arc::new(|_| {}))?;
        let world = opened.world.context("the world is gone")?;
        ensure!(world.frame == last, "the store ends at frame {}, {last} was acknowledged last", world.frame);
        let mut found = BTreeMap::new();
        for (_, list) in &world.chunks {
            for entity in EntitiesReader::new(list)?.collect()? {
                let (_, bytes) = entity.components.first().context("an entity without components")?;
                found.insert(entity.id.0, Mark::read(bytes)?);
            }
        }
        for entity in 1..=ENTITIES {
            // On a busy machine there may be fewer frames than entities.
            let Some(frame) = (1..=last).rev().find(|frame| entity_of(*frame) == entity) else { continue };
            let writer = self.began_behind.iter().rposition(|began| *began < frame).context("nobody wrote it")? as u64;
            let mark = found.get(&entity).with_context(|| format!("entity {entity} is gone"))?;
            ensure!(
                *mark == Mark { writer, frame },
                "entity {entity} was written by writer {} in frame {}, but frame {frame} was writer {writer}'s",
                mark.writer,
                mark.frame
            );
        }
        Ok(last)
    }
}

fn entity_of(frame: u64) -> u64 {
    1 + frame % ENTITIES
}

/// What a frame writes to its entity.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    writer: u64,
    frame: u64,
}

impl Mark {
    fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.writer.to_le_bytes());
        bytes[8..].copy_from_slice(&self.frame.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Mark> {
        let (writer, frame) = bytes.split_first_chunk::<8>().context("too short")?;
        Ok(Mark { writer: u64::from_le_bytes(*writer), frame: u64::from_le_bytes(frame.try_into()?) })
    }
}

/// A writer's process, seen from outside.
struct Writer {
    child: Child,
    lines: Receiver<String>,
    /// The last frame that it found.
    first_frame: u64,
    durable: u64,
    durable_after_stop: u64,
    failed: Option<String>,
}

impl Writer {
    fn start(url: &str, journal: &Path, number: u64) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--writer", url])
            .arg(journal)
            .arg(number.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a writer")?;
        let stdout = child.stdout.take().context("the writer has no output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut writer = Writer { child, lines, first_frame: 0, durable: 0, durable_after_stop: 0, failed: None };
        let line = writer.lines.recv_timeout(Duration::from_secs(30)).context("the writer says nothing")?;
        let Some(frame) = line.strip_prefix("ready ") else { bail!("the writer said {line:?}") };
        writer.first_frame = frame.parse()?;
        Ok(writer)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(pid_of(&self.child)?, signal)?)
    }

    fn hear(&mut self, line: &str) -> Result<()> {
        match line.split_once(' ') {
            Some(("durable", frame)) => self.durable = frame.parse()?,
            Some(("failed", text)) => self.failed = Some(text.to_owned()),
            _ => bail!("the writer said {line:?}"),
        }
        Ok(())
    }

    /// Listens for `time`, and until it has acknowledged something.
    fn write_for(&mut self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline || self.durable == 0 {
            match self.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => self.hear(&line)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the writer has ended: {:?}", self.failed),
            }
        }
        Ok(())
    }

    /// Everything that it still says until it ends; returns the last frame it ever acknowledged.
    fn drain(&mut self) -> Result<u64> {
        let before = self.durable;
        loop {
            match self.lines.recv_timeout(Duration::from_secs(20)) {
                Ok(line) => self.hear(&line)?,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!("it neither ends nor says anything"),
            }
        }
        self.durable_after_stop = self.durable - before;
        Ok(self.durable.max(self.first_frame))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a writer ends that was taken over.
const FENCED: i32 = 3;

/// The writer itself: `prove --writer URL JOURNAL NUMBER`.
pub fn writer(arguments: &[String]) -> Result<i32> {
    let [url, journal, number] = arguments else { bail!("a writer needs a store, a journal and a number") };
    let number: u64 = number.parse()?;
    let (sender, events) = mpsc::channel();
    let config = Config { flush_interval_ms: 40, ..Config::new(url.as_str(), journal.as_str()) };
    let opened = Storage::open(config, std::sync::Arc::new(move |event| drop(sender.send(event))))?;
    let storage = opened.storage;
    let mut frame = match opened.world {
        Some(world) => world.frame,
        None => {
            let (chunks, alone) = (Vec::new(), Vec::new());
            storage.create(NewWorld { frame: 0, state_hash: 0, chunks, alone, ids_used_to: 1_024 })?;
            0
        }
    };
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, stop.clone())?;
    println!("ready {frame}");
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        frame += 1;
        let mut record = FrameWriter::new();
        let mark = Mark { writer: number, frame }.bytes();
        let chunk = ChunkKey { x: i32::try_from(entity_of(frame) % 16)?, z: 0 };
        record.write(EntityId(entity_of(frame)), Home::Chunk(chunk), [(Tag(1), &mark[..])].into_iter());
        if storage.append(frame, record.finish(frame, frame, &[])).is_err() {
            break;
        }
        // A tick is as long as its frame takes to become durable.
        loop {
            match events.recv()? {
                Event::Durable { frame: durable } => {
                    println!("durable {durable}");
                    if durable >= frame {
                        break;
                    }
                }
                Event::Failed(text) => {
                    println!("failed {text}");
                    return Ok(FENCED);
                }
                Event::IdsGranted(_) => {}
            }
        }
    }
    while let Ok(event) = events.try_recv() {
        if let Event::Failed(text) = event {
            println!("failed {text}");
            return Ok(FENCED);
        }
    }
    storage.close()?;
    Ok(0)
}
