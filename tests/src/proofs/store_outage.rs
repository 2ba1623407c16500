//! The store of a supervised shard is stopped under load, and its disk made nearly full: the game goes on as long as it may, stands still
//! with a reason when it may not, catches up by itself, and in the end shard, store and players agree about everything.
//!
//! Compared is what cannot agree by chance: the state hash of the shard's last frame with the one of the world loaded from the store (the
//! shard refuses to start on another), items minted, consumed and alive, and every account of every bot. Part of the load comes after the
//! fault, so that what was written during it is built upon. And against an undisturbed run: the same players do the same with and
//! without the faults, and leave the same world (`same_end`).

mod same_end;

use super::seed;
use super::shard_crash::{await_running, free_port};
use super::supervise::Supervisor;
use crate::harness::{Bots, MemoryDisk, Stored};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use vsekai_bench::bot::{Account, Style};
use vsekai_bench::process::program;
use vsekai_bench::webrtc::Life;

/// How long anything may take that is expected.
const LONG: Duration = Duration::from_secs(60);
/// The shard stands still below this.
const MIN_FREE_MIB: u64 = 24;
const DISK_MIB: u32 = 160;

/// A minute without the store under 100 bots, then a nearly full disk; short: 4 s under 15.
pub fn run(short: bool) -> Result<String> {
    let (players, outage) = if short { (15, Duration::from_secs(4)) } else { (100, Duration::from_secs(60)) };
    let seed = seed(6_000);
    let replay = || format!("seed {seed} (VSEKAI_SEED replays it)");
    let stopped = without_store(players, outage, seed).with_context(replay)?;
    let full = nearly_full(players, seed + 1).with_context(replay)?;
    let (ticks, bots) = if short { (800, 20) } else { (6_000, 100) };
    let same = same_end::run(ticks, bots, seed + 2).with_context(replay)?;
    Ok(format!("{stopped}; {full}; {same}"))
}

/// What runs: the store, the shard, and players.
struct Scene {
    supervisor: Supervisor,
    http: String,
    bots: Bots,
}

impl Scene {
    /// The shard's data is below `data`; `store` is a child of its own, or none.
    fn start(folder: &Path, data: &Path, has_store: bool, players: usize, seed: u64) -> Result<Scene> {
        let http = format!("127.0.0.1:{}", free_port()?);
        let config = folder.join("shard.toml");
        std::fs::write(&config, format!("[storage]\nflush_interval_ms = 250\nmin_free_mib = {MIN_FREE_MIB}\n"))?;
        let mut children = "[http]\naddress = \"127.0.0.1:0\"\n".to_string();
        let mut more = String::new();
        if has_store {
            let socket = folder.join("store.sock");
            std::fs::create_dir_all(data)?;
            children += &format!(
                "[[child]]\nname = \"store\"\ncommand = [{:?}, \"store\", \"--store\", \"local:{}\", \"--socket\", {:?}]\n\
                 health = {{ kind = \"none\" }}\n",
                program("vsekai-supervisor")?,
                data.join("store").display(),
                socket
            );
            more = format!(", \"--store\", \"unix:{}\"", socket.display());
        }
        children += &format!(
            "[[child]]\nname = \"shard\"\ncommand = [{:?}, \"run\", \"--data\", {data:?}, \"--http\", {http:?}, \"--config\", {config:?}{more}]\n\
             grace_s = 30\nhealth = {{ kind = \"notify\", timeout_s = 5 }}\n",
            program("vsekai-shard")?
        );
        let supervisor = Supervisor::start(folder, &children)?;
        await_running(&supervisor, "shard")?;
        let bots = Bots::play(&format!("ws://{http}/"), vec![None; players], seed, Style::Builder);
        Ok(Scene { supervisor, http, bots })
    }

    fn status(&self) -> Result<Value> {
        status_of(&self.http)
    }

    /// Waits until the shard's status is so.
    fn until(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let status = self.status()?;
            if holds(&status) {
                return Ok(status);
            }
            if begun.elapsed() > LONG {
                bail!("after {} s still not {what}: {status}", LONG.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// So many more actions are done.
    fn play_on(&self, actions: u64) -> Result<()> {
        let before = done(&self.status()?);
        self.until(&format!("{actions} more actions done"), |status| done(status) >= before + actions).map(drop)
    }

    fn order(&self, child: &str, what: &str) -> Result<()> {
        ureq::post(format!("{}/api/children/{child}/{what}", self.supervisor.url)).send_empty()?;
        Ok(())
    }

    /// Ends everything in order, and holds what is stored against what was told. Returns how many actions were checked.
    fn end(self, data: &Path) -> Result<u64> {
        let Scene { mut supervisor, http, bots } = self;
        let lives = bots.stop();
        let restarts = supervisor.child("shard")?["restarts"].as_u64();
        ensure!(restarts == Some(0), "the shard was restarted: {restarts:?}");
        let last = status_of(&http)?;
        let status = supervisor.stop()?;
        ensure!(status == Some(0), "the supervisor ended with {status:?}: {}", supervisor.log());
        ensure!(add_up(&last), "items do not add up: {}", last["items"]);
        // Refuses a world whose state hash is not the one that its last frame was recorded with.
        let accounts: Vec<Account> = lives.into_iter().map(|life: Life| life.bot.account).collect();
        let (checked, faults) = Stored::read(data).check(&accounts);
        ensure!(faults.is_empty(), "{} of {checked} actions: {}", faults.len(), faults.join("; "));
        ensure!(checked > 0, "the bots did nothing");
        Ok(checked)
    }
}

fn status_of(http: &str) -> Result<Value> {
    let mut answer = ureq::get(format!("http://{http}/api/status")).call().context("no status")?;
    Ok(answer.body_mut().read_json()?)
}

fn done(status: &Value) -> u64 {
    status["net"]["commands_done"].as_u64().unwrap_or_default()
}

fn add_up(status: &Value) -> bool {
    let total = |key: &str| status["items"][key].as_u64().unwrap_or(u64::MAX);
    total("minted") == total("consumed") + total("live")
}

fn without_store(players: usize, outage: Duration, seed: u64) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let scene = Scene::start(folder.path(), &data, true, players, seed)?;
    scene.until("all in", |status| status["players"] == players)?;
    scene.play_on(players as u64)?;

    scene.order("store", "stop")?;
    let noticed = scene.until("an outage", |status| !status["store"]["outage"].is_null())?;
    let begun = Instant::now();
    let late_before = noticed["late_ticks"].as_u64().unwrap_or_default();
    while begun.elapsed() < outage {
        std::thread::sleep(Duration::from_millis(100));
    }
    let at_end = scene.status()?;
    let during = done(&at_end) - done(&noticed);
    ensure!(during > 0 && at_end["standing"].is_null(), "the game did not go on without the store: {at_end}");
    let backlog_frames =
        at_end["tick"].as_u64().unwrap_or(0) - at_end["journal"]["flushed_frame"].as_u64().unwrap_or(0);
    let shown = scene.supervisor.child("shard")?["backlog_bytes"].as_u64().unwrap_or_default();
    ensure!(shown > 0, "the supervisor shows no backlog");
    let late = at_end["late_ticks"].as_u64().unwrap_or_default() - late_before;

    scene.order("store", "start")?;
    let back = Instant::now();
    let target = at_end["tick"].as_u64().unwrap_or_default();
    scene.until("caught up", |status| {
        status["store"]["outage"].is_null() && status["journal"]["flushed_frame"].as_u64() >= Some(target)
    })?;
    let caught_up = back.elapsed();
    scene.play_on(players as u64)?;
    let checked = scene.end(&data)?;
    Ok(format!(
        "{:.0} s without the store under {players} builders: {during} actions done meanwhile, {late} late ticks, a backlog of {backlog_frames} \
         frames ({:.1} MiB) caught up in {:.1} s, {checked} actions checked: none lost, none doubled",
        outage.as_secs_f64(),
        shown as f64 / f64::from(1 << 20),
        caught_up.as_secs_f64()
    ))
}

fn nearly_full(players: usize, seed: u64) -> Result<String> {
    let disk = MemoryDisk::mount(DISK_MIB, false);
    let folder = tempfile::tempdir()?;
    let data = disk.path().join("data");
    let scene = Scene::start(folder.path(), &data, false, players, seed)?;
    scene.until("all in", |status| status["players"] == players)?;
    scene.play_on(players as u64)?;

    let filler = same_end::nearly_fill(disk.path(), MIN_FREE_MIB - 4)?;
    let stands = scene.until("standing still", |status| status["standing"].is_string())?;
    let reason = stands["standing"].as_str().unwrap_or_default().to_string();
    let health = ureq::get(format!("http://{}/healthz", scene.http))
        .config()
        .http_status_as_error(false)
        .build()
        .call()
        .context("no health")?;
    ensure!(health.status() == 503, "a world that stands still says {}", health.status());
    // For longer than the supervisor would let a hung one live.
    std::thread::sleep(Duration::from_secs(6));
    let child = scene.supervisor.child("shard")?;
    ensure!(child["state"] == "running", "the supervisor takes it for hung: {child}");
    ensure!(child["status"].as_str().is_some_and(|status| status.contains("stands still")), "it is not said: {child}");
    let same = scene.status()?;
    ensure!(
        same["tick"] == stands["tick"] || same["tick"].as_u64() == stands["tick"].as_u64().map(|tick| tick + 1),
        "it moved"
    );

    std::fs::remove_file(&filler)?;
    scene.until("going on", |status| status["standing"].is_null())?;
    scene.play_on(players as u64)?;
    let checked = scene.end(&data)?;
    Ok(format!("disk nearly full: stands still and says \"{reason}\", goes on by itself, {checked} actions checked"))
}
