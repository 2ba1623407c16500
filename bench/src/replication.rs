//! What replication costs and gives: server time above the transport, bytes, and how fresh what clients see is.

use crate::bot::Style;
use crate::loopback::{LoopbackShard, server_config};
use crate::report::Latency;
use crate::world;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::time::Duration;
use vsekai_net::client::Client;
use vsekai_net::loopback::Faults;
use vsekai_net::replication::ReplicationConfig;
use vsekai_schema::id::EntityId;
use vsekai_schema::wire::motion::Motion;
use vsekai_sim::port::Pose;
use vsekai_sim::{SimConfig, Simulation};

/// Ticks and packets a second: that of the peers.
pub(crate) const HZ: u32 = 20;
/// As much as anybody could want.
pub(crate) const UNLIMITED_KBIT_S: u32 = 100_000;
/// Seconds until everybody knows everybody.
const SETTLE_S: u32 = 5;

/// Where walking clients are, and how much of each other they see.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene {
    pub name: &'static str,
    /// They begin within this distance of the origin.
    pub spawn_radius_m: u32,
    pub interest_m: u32,
    pub motion_kbit_s: u32,
}

pub(crate) const ALL_VISIBLE: Scene =
    Scene { name: "all visible, no budget", spawn_radius_m: 40, interest_m: 2_000, motion_kbit_s: UNLIMITED_KBIT_S };
pub(crate) const NEAR_VISIBLE: Scene =
    Scene { name: "50 m interest", spawn_radius_m: 200, interest_m: 50, motion_kbit_s: 256 };
pub(crate) const SCENES: [Scene; 3] =
    [ALL_VISIBLE, Scene { name: "all visible, 256 kbit/s", motion_kbit_s: 256, ..ALL_VISIBLE }, NEAR_VISIBLE];

/// What replication over loopback came to.
#[derive(Debug)]
pub(crate) struct Figures {
    pub times: Latency,
    /// Of a client and tick, microseconds: by the clock, and of the processor.
    pub wall_us: f64,
    pub cpu_us: f64,
    /// Of each other by each client; not known of clients that keep no picture.
    pub in_view: Option<f64>,
    /// To each client, a second.
    pub updates_per_s: f64,
    pub bytes_per_update: f64,
    pub motion_bytes_per_s: f64,
    pub down_bytes_per_s: f64,
}

/// Plays walking clients over loopback, in virtual time.
pub(crate) fn measure(scene: &Scene, players: usize, seconds: u32, blind: bool) -> Figures {
    let style = if blind { Style::Blind } else { Style::Walker };
    let mut shard = walkers(players, style, scene.spawn_radius_m, |config| {
        config.interest_mm = scene.interest_m as i32 * 1_000;
        config.motion_kbit_s = scene.motion_kbit_s;
        config.bulk_kbit_s = UNLIMITED_KBIT_S;
    });
    for _ in 0..SETTLE_S * HZ {
        shard.tick();
    }
    shard.tick_times.clear();
    shard.cpu_time = Duration::ZERO;
    let (before, bytes_before) = (shard.server_counts(), shard.down_bytes());
    let ticks = seconds * HZ;
    for _ in 0..ticks {
        shard.tick();
    }
    let (after, bytes_after) = (shard.server_counts(), shard.down_bytes());
    let wall: Duration = shard.tick_times.iter().sum();
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / (players as f64 * f64::from(ticks));
    let each = |count: u64| count as f64 / (players as f64 * f64::from(seconds));
    let updates = after.replication.motion_updates - before.replication.motion_updates;
    let motion_bytes = after.replication.motion_bytes - before.replication.motion_bytes;
    let known = |client: &Client| client.entities().filter(|(_, e)| e.chunk().is_none()).count();
    let known: usize = shard.bots.iter().map(|(_, bot)| known(&bot.client)).sum();
    Figures {
        times: Latency::of(shard.tick_times.iter().copied()),
        wall_us: micros(wall),
        cpu_us: micros(shard.cpu_time),
        in_view: (!blind).then_some(known as f64 / players as f64 - 1.0),
        updates_per_s: each(updates),
        bytes_per_update: motion_bytes as f64 / updates.max(1) as f64,
        motion_bytes_per_s: each(motion_bytes),
        down_bytes_per_s: each(bytes_after - bytes_before),
    }
}

fn walkers(
    players: usize,
    style: Style,
    spawn_radius_m: u32,
    change: impl FnOnce(&mut ReplicationConfig),
) -> LoopbackShard {
    let config = SimConfig { tick_hz: HZ, half_m: 512, spawn_radius_m, ..SimConfig::default() };
    let mut simulation = Simulation::create(&config, &world::content());
    world::grant_ids(&mut simulation);
    let mut server = server_config(HZ);
    change(&mut server.replication);
    LoopbackShard::with_server(simulation, players, 1, style, Faults::default(), server)
}

/// A table: server time for a client and tick, and bytes, by number of walking clients.
pub fn clients(players: &[usize], seconds: u32, blind: bool) -> Result<()> {
    println!(
        "| walking clients{}, {HZ} Hz | in view of each | µs per client-tick | tick p99 ms | updates/s each | B per update, headers included | \
         motion B/s each | all B/s each |",
        if blind { " that keep no picture" } else { "" }
    );
    println!("|---|---|---|---|---|---|---|---|");
    for scene in SCENES {
        for players in players {
            let figures = measure(&scene, *players, seconds, blind);
            println!(
                "| {players}, {} | {} | {:.1} | {:.2} | {:.0} | {:.2} | {:.0} | {:.0} |",
                scene.name,
                figures.in_view.map_or("–".into(), |count| format!("{count:.0}")),
                figures.wall_us,
                figures.times.p99_ms,
                figures.updates_per_s,
                figures.bytes_per_update,
                figures.motion_bytes_per_s,
                figures.down_bytes_per_s,
            );
        }
    }
    Ok(())
}

/// Many avatars in one venue: bytes, and how fresh each client's picture of the others is.
pub fn crowd(players: usize, venue_m: u32, seconds: u32) -> Result<()> {
    let mut shard = walkers(players, Style::Walker, venue_m / 2, |config| config.interest_mm = 500_000);
    let mut settled = 0;
    let knows_all = |shard: &LoopbackShard| {
        let known = |client: &Client| client.entities().filter(|(_, e)| e.chunk().is_none()).count();
        shard.bots.iter().all(|(_, bot)| known(&bot.client) == players)
    };
    while !knows_all(&shard) {
        shard.tick();
        settled += 1;
        ensure!(settled < 300 * HZ, "after 300 s somebody still does not know everybody");
    }
    shard.tick_times.clear();
    let samples: Vec<usize> = (0..players).step_by((players / 16).max(1)).collect();
    let mut fresh_at: Vec<BTreeMap<EntityId, u32>> = vec![BTreeMap::new(); samples.len()];
    let (mut near_seen, mut near_fresh, mut stalest) = (0u64, 0u64, 0);
    let mut ages: Vec<u32> = Vec::new();
    let before = shard.server_counts();
    let mut seconds_bytes: Vec<Vec<u64>> = vec![Vec::new(); players];
    let mut bytes_at = shard.down_bytes_each().to_vec();
    for tick in 0..seconds * HZ {
        shard.tick();
        let view = shard.simulation.view();
        for (number, fresh_at) in samples.iter().zip(&mut fresh_at) {
            let client = &shard.bots[*number].1.client;
            let Some(player) = client.welcome().map(|welcome| welcome.player) else { continue };
            let Some(here) = view.position(player) else { continue };
            let mut others: Vec<(i64, bool)> = Vec::with_capacity(players);
            for (id, entity) in client.entities().filter(|(id, entity)| entity.chunk().is_none() && *id != player) {
                let (Some(pose), Some(at)) = (entity.get::<Pose>(), view.position(id)) else { continue };
                let seen = Motion { y: None, ..Motion::of(pose.position, pose.yaw, true) };
                let fresh = view.motion(id) == Some(seen);
                if fresh {
                    fresh_at.insert(id, tick);
                }
                let age = tick - fresh_at.get(&id).copied().unwrap_or(0);
                ages.push(age);
                stalest = stalest.max(age);
                others.push((at.horizontal_distance_squared(here), fresh));
            }
            others.sort_unstable();
            near_seen += others.iter().take(8).count() as u64;
            near_fresh += others.iter().take(8).filter(|(_, fresh)| *fresh).count() as u64;
        }
        if (tick + 1) % HZ == 0 {
            for (number, bytes) in shard.down_bytes_each().iter().enumerate() {
                seconds_bytes[number].push(bytes - bytes_at[number]);
                bytes_at[number] = *bytes;
            }
        }
    }
    let after = shard.server_counts();
    ages.sort_unstable();
    let ms = |ticks: u32| ticks * 1_000 / HZ;
    let each: Vec<u64> = seconds_bytes.iter().flatten().copied().collect();
    let mean = each.iter().sum::<u64>() as f64 / each.len().max(1) as f64;
    let most = each.iter().max().copied().unwrap_or_default() as f64;
    let updates = after.replication.motion_updates - before.replication.motion_updates;
    let motion_bytes = after.replication.motion_bytes - before.replication.motion_bytes;
    let times = Latency::of(shard.tick_times.iter().copied());
    println!(
        "crowd: {players} avatars walk in a venue of {venue_m} m, {HZ} Hz, {seconds} s: everybody knew everybody after {:.1} s; \
         all bytes {:.0} kbit/s a client on average, {:.0} in the fullest second of any; {:.2} B per update; \
         the nearest 8 were up to date in {:.2} % of the ticks ({:.1} Hz); others are p50 {} ms, p99 {} ms old, the stalest {} ms; \
         tick p50 {:.1} ms, p99 {:.1} ms ({:.1} µs per client-tick)",
        f64::from(settled) / f64::from(HZ),
        mean * 8.0 / 1_000.0,
        most * 8.0 / 1_000.0,
        motion_bytes as f64 / updates.max(1) as f64,
        near_fresh as f64 * 100.0 / near_seen.max(1) as f64,
        near_fresh as f64 * f64::from(HZ) / near_seen.max(1) as f64,
        ms(ages[ages.len() / 2]),
        ms(ages[ages.len() * 99 / 100]),
        ms(stalest),
        times.p50_ms,
        times.p99_ms,
        times.p50_ms * 1_000.0 / players as f64,
    );
    Ok(())
}
