//! `kill -9` of the supervisor, again and again, while a child ticks: the child keeps its process and does not miss a tick, none of its
//! lines is lost, and the next supervisor has it again within a second. Once with a child that does nothing else, whose every line and
//! tick is checked, and once with a shard under building bots, whose ticks take no longer than before.

use super::seed;
use super::shard_crash::{await_running, free_port, shard};
use super::supervise::{Supervisor, marked};
use crate::harness::Bots;
use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use vsekai_bench::bot::Style;

/// Longer than anything takes that is expected.
const LONG: Duration = Duration::from_secs(30);
/// From the start of the new supervisor to its knowing the child; the short form runs beside anything else.
const READOPTED_MAX: Duration = Duration::from_secs(1);
const READOPTED_MAX_SHORT: Duration = Duration::from_secs(5);

/// 50 kills, of each kind, the shard under 50 bots; short: 5 under 10.
pub fn run(short: bool) -> Result<String> {
    let (kills, players, limit) = if short { (5, 10, READOPTED_MAX_SHORT) } else { (50, 50, READOPTED_MAX) };
    let seed = seed(3);
    let replay = || format!("seed {seed} (VSEKAI_SEED replays it)");
    let ticker = ticker(kills, limit, seed).with_context(replay)?;
    let loaded = loaded(kills, players, limit, seed).with_context(replay)?;
    Ok(format!("{ticker}; {loaded}"))
}

/// Supervisors of one configuration, one after the other.
struct Line<'f> {
    folder: &'f Path,
    config: String,
    supervisor: Supervisor,
    rng: ChaCha8Rng,
    /// From the start of a supervisor to its knowing the child.
    slowest: Duration,
    /// Ticks that the child did while none was there to see.
    while_away: u64,
}

impl Line<'_> {
    fn start(folder: &Path, config: String, seed: u64) -> Result<Line<'_>> {
        let supervisor = Supervisor::start(folder, &config)?;
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Ok(Line { folder, config, supervisor, rng, slowest: Duration::ZERO, while_away: 0 })
    }

    /// Kills so many of them; `meanwhile` is called when the next one knows the child. Returns the child as it was first.
    fn kill(&mut self, kills: usize, mut meanwhile: impl FnMut() -> Result<()>) -> Result<Value> {
        let first = running(&self.supervisor)?;
        for kill in 0..kills {
            // It lives for a while, and the child is alone for a while, sometimes for none.
            spend(self.rng.random_range(20..300));
            let tick_before = running(&self.supervisor)?["tick"].as_u64().unwrap_or(0);
            self.supervisor.kill()?;
            spend(self.rng.random_range(0..200));
            let begun = Instant::now();
            self.supervisor = Supervisor::start(self.folder, &self.config).with_context(|| format!("kill {kill}"))?;
            let child = running(&self.supervisor).with_context(|| format!("kill {kill}"))?;
            self.slowest = self.slowest.max(begun.elapsed());
            for key in ["pid", "run", "keeper_pid"] {
                ensure!(child[key] == first[key], "kill {kill}: {key} {} became {}", first[key], child[key]);
            }
            self.while_away += child["tick"].as_u64().unwrap_or(0).saturating_sub(tick_before);
            meanwhile()?;
        }
        Ok(first)
    }
}

fn spend(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn ticker(kills: usize, limit: Duration, seed: u64) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let own = std::env::current_exe()?;
    let config = format!(
        "[http]\naddress = \"127.0.0.1:0\"\n[[child]]\nname = \"ticker\"\ncommand = [{own:?}, \"--child\", \"tick\"]\n\
         health = {{ kind = \"notify\", timeout_s = 5 }}\nlog = {{ file_mib = 1, files = 1000 }}\n"
    );
    let mut line = Line::start(folder.path(), config, seed)?;
    let first = line.kill(kills, || Ok(()))?;
    let Line { mut supervisor, slowest, while_away, .. } = line;
    // The newest one can still do everything.
    ureq::post(format!("{}/api/children/ticker/restart", supervisor.url)).send_empty()?;
    let begun = Instant::now();
    let second = loop {
        let child = running(&supervisor)?;
        if child["pid"] != first["pid"] {
            break child;
        }
        ensure!(begun.elapsed() < LONG, "an adopted child cannot be restarted");
    };
    ensure!(second["run"].as_u64() == first["run"].as_u64().map(|run| run + 1), "restarted as run {}", second["run"]);
    let status = supervisor.stop()?;
    ensure!(status == Some(0), "the last supervisor ended with {status:?}: {}", supervisor.log());
    let state = folder.path().join("state");
    let left = marked(&state.display().to_string());
    ensure!(left.is_empty(), "processes are left: {left:?}");

    let (lines, mut gaps_us) = check_lines(&state.join("children/ticker/logs"))?;
    gaps_us.sort_unstable();
    let p99 = gaps_us[(gaps_us.len() - 1) * 99 / 100];
    let figures = format!(
        "{kills} kills, process {} all along, slowest re-adoption {:.0} ms, {lines} lines without a gap, {while_away} ticks without a \
         supervisor, tick interval p99 {:.1} ms max {:.1} ms",
        first["pid"],
        slowest.as_secs_f64() * 1_000.0,
        Duration::from_micros(p99).as_secs_f64() * 1_000.0,
        Duration::from_micros(gaps_us[gaps_us.len() - 1]).as_secs_f64() * 1_000.0,
    );
    ensure!(slowest <= limit, "re-adopted too late: {figures}");
    Ok(figures)
}

/// A shard under bots, which must not notice.
fn loaded(kills: usize, players: usize, limit: Duration, seed: u64) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let http = format!("127.0.0.1:{}", free_port()?);
    let config = format!("[http]\naddress = \"127.0.0.1:0\"\n{}", shard(&data, &http)?);
    let mut line = Line::start(folder.path(), config, seed)?;
    await_running(&line.supervisor, "shard")?;
    let bots = Bots::play(&format!("ws://{http}/"), vec![None; players], seed, Style::Builder);
    let status = || -> Result<Value> {
        let mut answer = ureq::get(format!("http://{http}/api/status")).call().context("the shard does not answer")?;
        Ok(answer.body_mut().read_json()?)
    };
    let begun = Instant::now();
    while status()?["players"] != players {
        ensure!(begun.elapsed() < LONG, "not all bots came in: {}", status()?);
        spend(50);
    }
    // Its percentiles are those of the last ten seconds: these shall not know the bots' coming in.
    spend(11_000);
    let before = status()?;
    let p99 = |status: &Value| status["tick_ms"]["p99"].as_f64().unwrap_or(f64::NAN);
    let mut during = 0.0f64;
    let first = line.kill(kills, || {
        during = during.max(p99(&status()?));
        Ok(())
    })?;
    let after = status()?;
    let lives = bots.stop();
    let lost = lives.iter().filter(|life| life.lost.is_some()).count();
    ensure!(lost == 0, "{lost} of {players} bots lost their connection");
    let actions = |status: &Value| status["net"]["commands_done"].as_u64().unwrap_or_default();
    ensure!(actions(&after) > actions(&before), "nobody did anything meanwhile");
    let late = |status: &Value| status["late_ticks"].as_u64().unwrap_or_default();
    let Line { mut supervisor, slowest, .. } = line;
    let status = supervisor.stop()?;
    ensure!(status == Some(0), "the last supervisor ended with {status:?}: {}", supervisor.log());
    let figures = format!(
        "a shard under {players} building bots: {kills} kills, process {} all along, slowest re-adoption {:.0} ms, tick p99 {:.2} ms \
         before and at most {during:.2} ms during them (ratio {:.2}), {} late ticks, {} actions done meanwhile",
        first["pid"],
        slowest.as_secs_f64() * 1_000.0,
        p99(&before),
        during / p99(&before),
        late(&after) - late(&before),
        actions(&after) - actions(&before)
    );
    ensure!(slowest <= limit, "re-adopted too late: {figures}");
    Ok(figures)
}

/// The child, once it runs.
fn running(supervisor: &Supervisor) -> Result<Value> {
    let begun = Instant::now();
    loop {
        let child = supervisor.get("/api/children")?[0].clone();
        if child["state"] == "running" && child["pid"].is_number() {
            return Ok(child);
        }
        ensure!(begun.elapsed() < LONG, "it does not run: {child}\n{}", supervisor.log());
        std::thread::yield_now();
    }
}

/// Each kept line has the number after the one before; so has each tick of the first run. Returns how many, and the ticks' intervals.
fn check_lines(folder: &Path) -> Result<(usize, Vec<u64>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let (mut lines, mut tick, mut gaps_us) = (0, 0, Vec::new());
    for file in files {
        for line in std::fs::read_to_string(&file)?.lines() {
            let parts: Vec<&str> = line.split(' ').collect();
            lines += 1;
            ensure!(parts[0].parse() == Ok(lines), "line {lines} is {line:?}");
            if let [_, _, "o", "tick", number, gap_us] = parts[..] {
                let number: u64 = number.parse()?;
                // The run that was restarted at the end counts from one again.
                ensure!(number == tick + 1 || number == 1, "after tick {tick} comes {number}");
                tick = number;
                gaps_us.push(gap_us.parse()?);
            }
        }
    }
    ensure!(gaps_us.len() > 100, "only {} ticks", gaps_us.len());
    Ok((lines, gaps_us))
}
