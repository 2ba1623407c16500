//! `kill -9` of a supervised shard under building bots: the supervisor starts it again, it ticks again within a second, the bots come
//! back to their bodies, and in the end every account that any of them had is held against the stored world.

use super::seed;
use super::supervise::Supervisor;
use crate::harness::Stored;
use anyhow::{Context, Result, bail, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vsekai_bench::bot::{Account, Bot, Style};
use vsekai_bench::report::Latency;
use vsekai_bench::webrtc::run_bots;
use vsekai_bench::world;

/// A shard that ticks later than this after its end was not restarted, it was repaired by hand.
const BACK_MAX: Duration = Duration::from_secs(30);

/// 50 kills under 200 bots in a world of 100,000 entities; short: 3 under 20 in 5,000.
pub fn run(short: bool) -> Result<String> {
    let (kills, players, entities) = if short { (3, 20, 5_000) } else { (50, 200, 100_000) };
    let seed = seed(5_000);
    trial(kills, players, entities, seed).with_context(|| format!("seed {seed} (VSEKAI_SEED replays it)"))
}

fn trial(kills: usize, players: usize, entities: usize, seed: u64) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    world::store(entities, seed, &data)?;
    let http = format!("127.0.0.1:{}", free_port()?);
    let config = format!("[http]\naddress = \"127.0.0.1:0\"\n{}", shard(&data, &http)?);
    let mut supervisor = Supervisor::start(folder.path(), &config)?;
    await_running(&supervisor, "shard")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let url = format!("ws://{http}/");
    let mut accounts: Vec<Option<Account>> = vec![None; players];
    let (mut back, mut came_back, mut actions) = (Vec::with_capacity(kills), 0, 0);
    for round in 0..=kills {
        let bots = accounts.iter().enumerate().map(|(number, account)| match account {
            Some(account) => Bot::rejoin(account.clone(), seed, number, Style::Builder),
            None => Bot::new(seed, number, Style::Builder),
        });
        let bots: Vec<_> = bots.collect();
        let wait = Duration::from_millis(rng.random_range(3_000..5_000));
        let mut watch = Ok(None);
        let (lives, _) = runtime.block_on(run_bots(&url, bots, async {
            tokio::time::sleep(wait).await;
            if round < kills {
                watch = kill(&supervisor, &http).map(Some);
            }
        }));
        let watch = watch.with_context(|| format!("kill {round}"))?;
        let mut done = 0;
        for (account, life) in accounts.iter_mut().zip(lives) {
            let before = account.as_ref().map_or(0, |account| account.done);
            came_back += usize::from(account.is_some() && life.bot.is_playing());
            done += life.bot.account.done - before;
            // Who did not come in this time knows what it knew.
            if life.bot.is_playing() || account.is_none() {
                *account = Some(life.bot.account);
            }
        }
        ensure!(done > 0, "round {round}: the bots did nothing in {wait:?}");
        actions += done;
        if let Some(watch) = watch {
            let ticking = watch.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?;
            back.push(ticking.with_context(|| format!("after kill {round}"))?);
        }
    }
    let restarts = supervisor.child("shard")?["restarts"].as_u64().unwrap_or_default();
    ensure!(restarts == kills as u64, "{restarts} restarts for {kills} kills");
    let status = supervisor.stop()?;
    ensure!(status == Some(0), "the supervisor ended with {status:?}: {}", supervisor.log());

    let accounts: Vec<Account> = accounts.into_iter().flatten().collect();
    let (checked, faults) = Stored::read(&data).check(&accounts);
    ensure!(faults.is_empty(), "{} of {checked} actions: {}", faults.len(), faults.join("; "));
    let wanted = kills * players;
    ensure!(came_back * 100 >= wanted * 99, "{came_back} of {wanted} came back");
    let times = Latency::of(back.into_iter());
    Ok(format!(
        "{kills} kills under {players} building bots, {entities} entities: ticking again p50 {:.0}, p99 {:.0}, max {:.0} ms after the \
         kill; {came_back} of {wanted} players came back, {actions} acknowledged actions: none lost, none doubled",
        times.p50_ms, times.p99_ms, times.max_ms
    ))
}

/// The shard as a child. One that has run for two seconds has proved itself: killed later, it is started again after the shortest wait.
pub(super) fn shard(data: &Path, http: &str) -> Result<String> {
    let program = vsekai_bench::process::program("vsekai-shard")?;
    Ok(format!(
        "[[group]]\nname = \"main\"\nrestarts_max = 1000\nwindow_s = 2\n\
         [[child]]\nname = \"shard\"\ncommand = [{:?}, \"run\", \"--data\", {:?}, \"--http\", {http:?}]\n\
         drain_url = \"http://{http}/api/drain\"\n\
         [child.health]\nkind = \"notify\"\ntimeout_s = 5\n",
        program.display(),
        data.display()
    ))
}

/// Waits until a child runs.
pub(super) fn await_running(supervisor: &Supervisor, name: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let child = supervisor.child(name)?;
        if child["state"] == "running" {
            return Ok(());
        }
        ensure!(begun.elapsed() < BACK_MAX, "{name} does not run: {child}\n{}", supervisor.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port of 127.0.0.1 that nobody has at this moment.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port")?.local_addr()?.port())
}

/// Kills the shard, and watches on a thread of its own for the next one: the bots take a while to see that theirs is gone.
fn kill(supervisor: &Supervisor, http: &str) -> Result<JoinHandle<Result<Duration>>> {
    let child = supervisor.child("shard")?;
    let pid = child["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let pid = pid.with_context(|| format!("the shard does not run: {child}"))?;
    let now = Instant::now();
    kill_process(pid, Signal::KILL).context("cannot kill the shard")?;
    let http = http.to_string();
    Ok(std::thread::spawn(move || ticking_since(&http, now)))
}

/// How long after `killed` the next shard had done a tick.
fn ticking_since(http: &str, killed: Instant) -> Result<Duration> {
    while killed.elapsed() < BACK_MAX {
        if let Ok(mut answer) = ureq::get(format!("http://{http}/healthz")).call() {
            let text = answer.body_mut().read_to_string().unwrap_or_default();
            let turns = text.trim().rsplit_once(' ').and_then(|(_, turns)| turns.parse::<u64>().ok());
            if turns.is_some_and(|turns| turns > 0) {
                return Ok(killed.elapsed());
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    bail!("the shard does not tick again")
}
