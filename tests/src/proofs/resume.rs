//! Connections break all the time while bots build, half of them without a word, and the bots come back to their sessions: every
//! command is executed once and answered once, nobody is left behind in the world, and what the world holds is what the bots
//! were told.

use super::seed;
use crate::harness::{Stored, check_lives, wait_for};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use vsekai_bench::bot::{Bot, Style};
use vsekai_bench::process::ShardProcess;
use vsekai_bench::webrtc::{Breaks, Library, run_broken};

/// A bot breaks off every 1.7 s on average, half a second of which it is away.
const BREAK_INTERVAL: Duration = Duration::from_millis(1_800);
/// For the last bots to settle what they have begun.
const MARGIN: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(20);

/// 500 breaks under 50 bots; short: 40 under 10.
pub fn run(short: bool) -> Result<String> {
    let (players, breaks_each) = if short { (10, 4) } else { (50, 10) };
    let seed = seed(7_000);
    prove(seed, players, breaks_each).with_context(|| format!("seed {seed} (VSEKAI_SEED replays it)"))
}

fn prove(seed: u64, players: usize, breaks_each: usize) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let shard = ShardProcess::start(&data, &[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let bot = |number: usize| {
        let breaks = Breaks::new(breaks_each, seed.wrapping_mul(1_000).wrapping_add(number as u64));
        (Bot::new(seed, number, Style::Builder), breaks)
    };
    let wanted = (players * breaks_each) as u64;
    let (begin, longest) = (Instant::now(), BREAK_INTERVAL * breaks_each as u32 * 3 + Duration::from_secs(30));
    let until_all_broke = async {
        loop {
            let resumed = shard.status().ok().and_then(|status| status["net"]["resumed"].as_u64()).unwrap_or(0);
            if resumed >= wanted || begin.elapsed() > longest {
                break tokio::time::sleep(MARGIN).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let url = shard.signalling_url();
    let bots = (0..players).map(bot).collect();
    let (lives, played) = runtime.block_on(run_broken(&url, Library::Str0m, bots, until_all_broke));
    check_lives(&lives)?;

    // Nobody is left in the world, not even for the minute that who is away is waited for.
    let status = wait_for("everybody to have left", PATIENCE, || {
        shard.status().ok().filter(|status| status["players"] == 0 && status["entities"]["present"] == 0)
    });
    let net = &status["net"];
    let resumed = net["resumed"].as_u64().context("no count of resumed sessions")?;
    ensure!(resumed >= wanted, "only {resumed} of {wanted} breaks were resumed");
    ensure!(net["away"] == 0 && net["not_resumed"] == 0, "players did not come back: {net}");
    ensure!(shard.stop()?.success(), "the shard did not stop cleanly");

    let mut accounts = Vec::new();
    let (mut done, mut slowest) = (0, Duration::ZERO);
    for life in lives {
        done += life.bot.account.done;
        slowest = life.bot.counts.latencies.iter().map(|(_, latency)| *latency).fold(slowest, Duration::max);
        accounts.push(life.bot.account);
    }
    let (checked, faults) = Stored::read(&data).check(&accounts);
    ensure!(faults.is_empty(), "{faults:?}");
    Ok(format!(
        "{resumed} breaks resumed of {players} players in {:.0} s, {done} commands done, {checked} held against the world: none \
         lost, none doubled, no ghost; slowest answer {} ms, over a break",
        played.as_secs_f64(),
        slowest.as_millis()
    ))
}
