//! How soon others see what one does: from sending an input, or a pose of head and hands, to another client that shows it.
//!
//! All clients are in this process, so that one clock tells both ends. Some of them, the actors, turn round at random moments,
//! and some of those move their hands all the time; everybody watches everybody. What is measured has both clients' own work in it.

use crate::bot::{Bot, Style};
use crate::live;
use crate::loopback::THINK_INTERVAL;
use crate::process::ShardProcess;
use crate::report::Latency;
use crate::webrtc::{Library, come_in};
use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use vsekai_schema::id::EntityId;
use vsekai_schema::wire::pose::{BodyPose, Part, Rotation, SLOTS_PER_S, Tracked};
use vsekai_sim::space::Pose;

/// How many turn round.
const ACTORS: usize = 20;
/// How many of them move their hands, sixty times a second: each such pose is a packet to everybody near, and one core carries some
/// ten thousand packets a second.
const HANDS: usize = 2;
/// How many of the others show what they get, where only few do.
const WATCHERS: usize = 8;
/// Ticks a second.
const HZ: u32 = 60;
/// Viewers so near see every step.
const NEAR_MM: i32 = 30_000;
/// Who has not seen a turn after so long will not.
const GIVEN_UP: Duration = Duration::from_secs(3);
/// Poses are remembered until they must have come.
const SLOTS_REMEMBERED: usize = 120;

/// What an actor did last.
#[derive(Debug, Default)]
struct Act {
    /// The highest eight bits of where it looks now, and since when.
    turned: Option<(u8, Instant)>,
    seen_by: BTreeSet<usize>,
    /// When the pose of a slot was sent.
    poses: BTreeMap<u16, Instant>,
}

/// What everybody knows of the actors, and what was measured.
#[derive(Debug, Default)]
struct Stage {
    acts: BTreeMap<EntityId, Act>,
    is_measuring: bool,
    turns: u64,
    near: Vec<Duration>,
    all: Vec<Duration>,
    poses: Vec<Duration>,
}

impl Stage {
    /// What `bot`, number `number`, shows now.
    fn look(&mut self, number: usize, bot: &mut Bot) {
        let now = Instant::now();
        let own = bot.client.welcome().map(|welcome| welcome.player);
        let here = bot.client.own().and_then(|own| own.get::<Pose>());
        for (id, act) in &mut self.acts {
            let Some((yaw, since)) = act.turned else { continue };
            if Some(*id) == own || act.seen_by.contains(&number) || now - since > GIVEN_UP {
                continue;
            }
            let Some(pose) = bot.client.entity(*id).and_then(|entity| entity.get::<Pose>()) else { continue };
            if (pose.yaw >> 8) as u8 != yaw {
                continue;
            }
            act.seen_by.insert(number);
            if self.is_measuring {
                self.all.push(now - since);
                if here.is_some_and(|here| here.position.within(pose.position, NEAR_MM)) {
                    self.near.push(now - since);
                }
            }
        }
        for (player, slot) in bot.poses.iter_mut().flat_map(|poses| poses.drain(..)) {
            let sent = self.acts.get(&player).and_then(|act| act.poses.get(&slot));
            if let Some(sent) = sent.filter(|_| self.is_measuring) {
                self.poses.push(now - *sent);
            }
        }
    }
}

/// Plays `players` for `seconds` on a shard with its store, and prints what was measured.
///
/// # Errors
/// When somebody cannot come in, or the shard fails.
pub fn run(players: usize, seconds: u32, spawn_radius_m: u32) -> Result<()> {
    println!(
        "| {players} players over WebRTC, {HZ} Hz, within {spawn_radius_m} m | input → seen within 30 m p50 ms | p99 | → seen by anybody p50 | p99 | \
         hands → seen p50 ms | p99 | ping p50 ms | p99 | action, durable p50 ms | p99 | tick p50 ms | p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for snapshot_hz in [60, 20] {
        let (shard, _folder) = live::shard(&format!(
            "[simulation]\ntick_hz = {HZ}\nhalf_m = 512\nspawn_radius_m = {spawn_radius_m}\n[net]\nsnapshot_hz = {snapshot_hz}\n\
             tokens_per_address_per_s = 1000\n"
        ))?;
        let everybody = Cast { hands: HANDS, style: |_| Style::Mixed };
        print_row(&format!("{snapshot_hz} packets a second"), &measure(&shard, everybody, players, seconds)?);
        shard.stop()?;
    }
    Ok(())
}

fn print_row(name: &str, seen: &Seen) {
    let Seen { turns, near, all, poses, pings, actions, tick_p50_ms, tick_p99_ms } = seen;
    println!(
        "| {name}; {turns} turns, seen {} times near and {} in all, {} poses seen, {} actions | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | \
         {:.1} | {:.1} | {:.1} | {:.1} | {tick_p50_ms:.2} | {tick_p99_ms:.2} |",
        near.count,
        all.count,
        poses.count,
        actions.count,
        near.p50_ms,
        near.p99_ms,
        all.p50_ms,
        all.p99_ms,
        poses.p50_ms,
        poses.p99_ms,
        pings.p50_ms,
        pings.p99_ms,
        actions.p50_ms,
        actions.p99_ms,
    );
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Seen {
    turns: u64,
    near: Latency,
    /// From an actor's input to another client that shows it.
    pub all: Latency,
    poses: Latency,
    pings: Latency,
    actions: Latency,
    tick_p50_ms: f64,
    tick_p99_ms: f64,
}

/// How everybody plays, and how many of the actors move their hands.
#[derive(Clone, Copy)]
pub(crate) struct Cast {
    pub hands: usize,
    /// By number. An actor turns round whatever its style.
    pub style: fn(usize) -> Style,
}

/// Nobody moves hands, and few watch: the machine is left to the server.
pub(crate) const FEW_WATCH: Cast = Cast {
    hands: 0,
    style: |number| if (ACTORS..ACTORS + WATCHERS).contains(&number) { Style::Walker } else { Style::Blind },
};

/// Plays `players` on a shard that runs.
///
/// # Errors
/// When somebody cannot come in, or the shard fails.
pub(crate) fn measure(shard: &ShardProcess, cast: Cast, players: usize, seconds: u32) -> Result<Seen> {
    ensure!(players > ACTORS, "at least {} players are needed", ACTORS + 1);
    let stage = Arc::new(Mutex::new(Stage::default()));
    let url = shard.signalling_url();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (bots, status) = runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        for number in 0..players {
            let (url, stage, stopped) = (url.clone(), Arc::clone(&stage), stopped.clone());
            tasks.push(tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(10) * number as u32).await;
                play(&url, number, cast, &stage, stopped).await
            }));
        }
        tokio::time::sleep(Duration::from_millis(10) * players as u32 + live::SETTLE).await;
        let switch = |on| stage.lock().unwrap_or_else(PoisonError::into_inner).is_measuring = on;
        switch(true);
        tokio::time::sleep(Duration::from_secs(seconds.into())).await;
        switch(false);
        let address = format!("{}api/status", shard.url);
        let ask = move || -> Result<serde_json::Value> { Ok(ureq::get(address).call()?.body_mut().read_json()?) };
        let status = tokio::task::spawn_blocking(ask).await.context("nobody asks for the status")??;
        let _ = stop.send(true);
        let mut bots = Vec::new();
        for task in tasks {
            bots.push(task.await.context("a player's task failed")??);
        }
        anyhow::Ok((bots, status))
    })?;
    let stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
    let of = |durations: &[Duration]| Latency::of(durations.iter().copied());
    let tick = |what: &str| status["tick_ms"][what].as_f64().unwrap_or_default();
    Ok(Seen {
        turns: stage.turns,
        near: of(&stage.near),
        all: of(&stage.all),
        poses: of(&stage.poses),
        pings: Latency::of(bots.iter().flat_map(|bot| bot.counts.round_trips.iter().copied())),
        actions: Latency::of(bots.iter().flat_map(|bot| bot.counts.latencies.iter().map(|(_, latency)| *latency))),
        tick_p50_ms: tick("p50"),
        tick_p99_ms: tick("p99"),
    })
}

/// One client's life. The first [`ACTORS`] stand and turn, the first of them move their hands; the others live as players do.
async fn play(
    url: &str,
    number: usize,
    cast: Cast,
    stage: &Mutex<Stage>,
    mut stop: watch::Receiver<bool>,
) -> Result<Bot> {
    let stage = || stage.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bot = Bot::new(3, number, (cast.style)(number));
    bot.poses = Some(Vec::new());
    let mut connection = match come_in(url, Library::Str0m, &mut bot, &mut stop).await {
        Ok(connection) => connection,
        Err(lost) => anyhow::bail!("player {number} could not come in: {}", lost.unwrap_or_default()),
    };
    let begin = Instant::now();
    let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
    let clock = |interval| {
        let mut clock = tokio::time::interval(interval);
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        clock
    };
    let (mut think, mut hands) = (clock(THINK_INTERVAL), clock(Duration::from_secs(1) / SLOTS_PER_S));
    let (mut yaw, mut turn_at) = (0u16, Duration::from_secs(2));
    let acts = number < ACTORS;
    loop {
        for (channel, bytes) in bot.client.take_outgoing() {
            connection.outgoing.try_send(channel, bytes);
        }
        let turn = tokio::time::sleep_until((begin + turn_at).into());
        tokio::select! {
            biased;
            message = connection.incoming.recv() => {
                let (channel, bytes) = message.with_context(|| format!("player {number} was lost: {:?}", bot.refused))?;
                bot.receive(begin.elapsed(), channel, &bytes)?;
                stage().look(number, &mut bot);
            }
            () = turn, if acts => {
                turn_at = begin.elapsed() + Duration::from_millis(rng.random_range(300..700));
                if let Some(player) = bot.client.welcome().map(|welcome| welcome.player) {
                    // Another than now, in the bits that others get.
                    yaw = (yaw >> 8).wrapping_add(rng.random_range(1..256)) << 8;
                    bot.client.walk(0, 0, yaw, false);
                    let mut stage = stage();
                    stage.turns += u64::from(stage.is_measuring);
                    let act = stage.acts.entry(player).or_default();
                    act.turned = Some(((yaw >> 8) as u8, Instant::now()));
                    act.seen_by.clear();
                }
            }
            _ = hands.tick(), if number < cast.hands => {
                let slot = (begin.elapsed().as_micros() * u128::from(SLOTS_PER_S) / 1_000_000) as u16;
                if let Some(player) = bot.client.welcome().map(|welcome| welcome.player)
                    && bot.client.pose(slot, &waving(begin.elapsed())).is_ok()
                {
                    let mut stage = stage();
                    let poses = &mut stage.acts.entry(player).or_default().poses;
                    poses.insert(slot, Instant::now());
                    while poses.len() > SLOTS_REMEMBERED {
                        poses.pop_first();
                    }
                }
            }
            _ = think.tick() => {
                if !acts {
                    bot.step(begin.elapsed());
                } else if bot.is_playing() {
                    // The same again, with what arrived.
                    bot.client.walk(0, 0, yaw, false);
                }
            }
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    bot.client.leave();
    for (channel, bytes) in bot.client.take_outgoing() {
        connection.outgoing.try_send(channel, bytes);
    }
    connection.close().await;
    Ok(bot)
}

/// A head that nods and hands that wave, a turn of three seconds.
fn waving(at: Duration) -> BodyPose {
    let angle = at.as_secs_f64() / 3.0 * std::f64::consts::TAU;
    let swing = (angle.sin() * 200.0) as i16;
    let part = |x, y, z| Tracked { position: [x, y, z], rotation: Rotation::default() };
    BodyPose::new(part(0, 1_700 + swing / 10, 0))
        .with(Part::LeftHand, part(-300, 1_000 + swing, -300))
        .with(Part::RightHand, part(300, 1_000 - swing, -300))
}
