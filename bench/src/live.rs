//! What replication costs a real shard, with clients over WebRTC: the shard's thread, the transport's and the kernel's share
//! apart.

use crate::bot::{Bot, Style};
use crate::process::ShardProcess;
use crate::replication::{HZ, SCENES, Scene};
use crate::threads::{self, Used};
use crate::webrtc;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long everybody may take to come in.
const JOIN_MAX: Duration = Duration::from_secs(120);
/// Seconds until everybody knows everybody.
pub(crate) const SETTLE: Duration = Duration::from_secs(8);

/// A shard with these settings in a process of its own. The folder must live as long as it.
///
/// # Errors
/// When it does not start.
pub fn shard(settings: &str) -> Result<(ShardProcess, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("shard.toml");
    std::fs::write(&config, settings)?;
    let shard = ShardProcess::start(&folder.path().join("data"), &["--config", &config.display().to_string()])?;
    Ok((shard, folder))
}

/// What a shard used and did until now.
struct Account {
    at: Instant,
    threads: BTreeMap<String, Used>,
    status: Value,
}

impl Account {
    fn of(shard: &ShardProcess) -> Result<Account> {
        // Once a second the shard tells its counts: right after it told new ones they fit the times.
        let told = |status: &Value| status["uptime_s"].as_f64();
        let first = shard.status()?;
        let begin = Instant::now();
        loop {
            let status = shard.status()?;
            if told(&status) != told(&first) {
                return Ok(Account { at: Instant::now(), threads: threads::of_process(shard.id())?, status });
            }
            ensure!(begin.elapsed() < Duration::from_secs(10), "the shard's status stands still");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn count(&self, name: &str) -> f64 {
        self.status["net"][name].as_f64().unwrap_or_default()
    }
}

/// A table: processor time for a client and tick, and bytes, by number of walking clients.
///
/// # Errors
/// When somebody cannot come in, or the shard fails.
pub fn clients(players: &[usize], seconds: u32) -> Result<()> {
    println!(
        "| walking clients over WebRTC, {HZ} Hz | ticks/s | µs per client-tick above the transport | of that in the kernel | DTLS, SCTP, ICE | UDP in the kernel | tick p50 ms | \
         p99 ms | updates/s each | B per update, headers included | motion B/s each | UDP B/s each |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for scene in SCENES {
        for players in players {
            let figures = clients_of(&scene, *players, seconds)?;
            println!(
                "| {players}, {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {:.0} | {:.2} | {:.0} | {:.0} |",
                scene.name,
                figures.ticks_per_s,
                figures.above_us,
                figures.above_kernel_us,
                figures.transport_us,
                figures.transport_kernel_us,
                figures.tick_p50_ms,
                figures.tick_p99_ms,
                figures.updates_per_s,
                figures.bytes_per_update,
                figures.motion_bytes_per_s,
                figures.udp_bytes_per_s,
            );
        }
    }
    Ok(())
}

/// What replication over WebRTC came to.
#[derive(Debug)]
pub(crate) struct Figures {
    pub ticks_per_s: f64,
    /// The shard's own thread for a client and tick, microseconds of the processor, and what the kernel has of that.
    pub above_us: f64,
    pub above_kernel_us: f64,
    /// The transport's thread, in the program and in the kernel.
    pub transport_us: f64,
    pub transport_kernel_us: f64,
    pub tick_p50_ms: f64,
    pub tick_p99_ms: f64,
    /// To each client, a second.
    pub updates_per_s: f64,
    pub bytes_per_update: f64,
    pub motion_bytes_per_s: f64,
    pub udp_bytes_per_s: f64,
}

/// The settings of a shard for walking clients.
pub(crate) fn settings(scene: &Scene) -> String {
    let Scene { spawn_radius_m, interest_m, motion_kbit_s, .. } = scene;
    format!(
        "[simulation]\ntick_hz = {HZ}\nhalf_m = 512\nspawn_radius_m = {spawn_radius_m}\n\
         [net]\nplayers_max = 10000\ninterest_m = {interest_m}\nmotion_kbit_s = {motion_kbit_s}\n\
         bulk_kbit_s = 100000\ntokens_per_address_per_s = 1000\n\
         [webrtc]\nconnections_per_address_max = 10000\nhandshakes_per_address_max = 10000\n"
    )
}

/// Plays walking clients that keep no picture on a shard of its own.
///
/// # Errors
/// When somebody cannot come in, or the shard fails.
pub(crate) fn clients_of(scene: &Scene, players: usize, seconds: u32) -> Result<Figures> {
    let (shard, _folder) = shard(&settings(scene))?;
    let figures = play(&shard, players, seconds)?;
    shard.stop()?;
    Ok(figures)
}

fn play(shard: &ShardProcess, players: usize, seconds: u32) -> Result<Figures> {
    let url = shard.signalling_url();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bots = (0..players).map(|number| Bot::new(1, number, Style::Blind)).collect();
    let (sender, measured) = tokio::sync::oneshot::channel();
    let (lives, measured) = std::thread::scope(|scope| {
        // The bots have gone before their time when nobody takes it.
        scope.spawn(|| drop(sender.send(measure(shard, players, seconds))));
        runtime.block_on(async {
            let mut accounts = None;
            let (lives, _) = webrtc::run_bots(&url, bots, async { accounts = measured.await.ok() }).await;
            (lives, accounts)
        })
    });
    let (before, after) = measured.context("nothing was measured")??;
    let lost: Vec<_> = lives.iter().filter_map(|life| life.lost.as_ref()).collect();
    ensure!(lost.is_empty(), "{} of {players} players were lost, the first: {}", lost.len(), lost[0]);
    let passed = after.at.duration_since(before.at).as_secs_f64();
    let told =
        |what: &str| after.status[what].as_f64().unwrap_or_default() - before.status[what].as_f64().unwrap_or_default();
    let ticks = told("tick");
    let used = |thread: &str| {
        let at = |account: &Account| account.threads.get(thread).copied().unwrap_or_default();
        at(&after) - at(&before)
    };
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / (ticks * players as f64);
    let (above, transport) = (used("vsekai-shard"), used("webrtc"));
    let counted = |what: &str| after.count(what) - before.count(what);
    let each = |sum: f64| sum / passed / players as f64;
    let tick = |what: &str| after.status["tick_ms"][what].as_f64().unwrap_or_default();
    Ok(Figures {
        ticks_per_s: ticks / passed,
        above_us: micros(above.whole()),
        above_kernel_us: micros(above.kernel),
        transport_us: micros(transport.user),
        transport_kernel_us: micros(transport.kernel),
        tick_p50_ms: tick("p50"),
        tick_p99_ms: tick("p99"),
        updates_per_s: each(counted("motion_updates")),
        bytes_per_update: counted("motion_bytes") / counted("motion_updates").max(1.0),
        motion_bytes_per_s: each(counted("motion_bytes")),
        udp_bytes_per_s: each(counted("bytes_out")),
    })
}

fn measure(shard: &ShardProcess, players: usize, seconds: u32) -> Result<(Account, Account)> {
    let begin = Instant::now();
    while shard.status()?["players"] != players {
        ensure!(begin.elapsed() < JOIN_MAX, "only {} of {players} players came in", shard.status()?["players"]);
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(SETTLE);
    let before = Account::of(shard)?;
    std::thread::sleep(Duration::from_secs(seconds.into()));
    Ok((before, Account::of(shard)?))
}
