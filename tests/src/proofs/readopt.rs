//! `kill -9` of the supervisor, again and again, while a child ticks: the child keeps its process and does not miss a tick, none of its
//! lines is lost, and the next supervisor has it again within a second.

use super::seed;
use super::supervise::{Supervisor, marked};
use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longer than anything takes that is expected.
const LONG: Duration = Duration::from_secs(30);
/// From the start of the new supervisor to its knowing the child; the short form runs beside anything else.
const READOPTED_MAX: Duration = Duration::from_secs(1);
const READOPTED_MAX_SHORT: Duration = Duration::from_secs(5);

/// 50 kills; short: 5.
pub fn run(short: bool) -> Result<String> {
    let (kills, limit) = if short { (5, READOPTED_MAX_SHORT) } else { (50, READOPTED_MAX) };
    let seed = seed(3);
    trial(kills, limit, seed).with_context(|| format!("seed {seed} (VSEKAI_SEED replays it)"))
}

fn trial(kills: usize, limit: Duration, seed: u64) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let own = std::env::current_exe()?;
    let config = format!(
        "[http]\naddress = \"127.0.0.1:0\"\n[[child]]\nname = \"ticker\"\ncommand = [{own:?}, \"--child\", \"tick\"]\n\
         health = {{ kind = \"notify\", timeout_s = 5 }}\nlog = {{ file_mib = 1, files = 1000 }}\n"
    );
    let mut supervisor = Supervisor::start(folder.path(), &config)?;
    let first = running(&supervisor)?;
    let (mut slowest, mut while_away) = (Duration::ZERO, 0);
    let mut keeper = first["keeper_pid"].clone();
    for kill in 0..kills {
        // It lives for a while, and the child is alone for a while, sometimes for none.
        let until = Instant::now() + Duration::from_millis(rng.random_range(20..300));
        while Instant::now() < until {
            std::thread::yield_now();
        }
        let tick_before = running(&supervisor)?["tick"].as_u64().unwrap_or(0);
        supervisor.kill()?;
        let until = Instant::now() + Duration::from_millis(rng.random_range(0..200));
        while Instant::now() < until {
            std::thread::yield_now();
        }
        let begun = Instant::now();
        supervisor = Supervisor::start(folder.path(), &config).with_context(|| format!("kill {kill}"))?;
        let child = running(&supervisor).with_context(|| format!("kill {kill}"))?;
        slowest = slowest.max(begun.elapsed());
        ensure!(child["pid"] == first["pid"], "kill {kill}: process {} became {}", first["pid"], child["pid"]);
        ensure!(child["run"] == first["run"], "kill {kill}: run {} became {}", first["run"], child["run"]);
        ensure!(child["keeper_pid"] == keeper, "kill {kill}: its keeper changed");
        keeper = child["keeper_pid"].clone();
        while_away += child["tick"].as_u64().unwrap_or(0).saturating_sub(tick_before);
    }
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
