//! `vsekai-bench`: synthetic players, and the measurements made with them.

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use vsekai_bench::bot::Style;
use vsekai_bench::loopback::LoopbackShard;
use vsekai_bench::process::ShardProcess;
use vsekai_bench::report::{Latency, Report};
use vsekai_bench::webrtc::Library;
use vsekai_bench::{bodies, latency, live, peers, replication, store, updates, webrtc, world};
use vsekai_net::loopback::Faults;
use vsekai_sim::{SimConfig, Simulation};

/// Counts what is allocated, so that memory per entity is a count and not a guess from resident pages.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes on the heap now.
fn live_bytes() -> u64 {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated) as u64
}

/// Load and measurements with synthetic players.
#[derive(Debug, Parser)]
#[command(name = "vsekai-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drive synthetic players that walk, harvest, craft and build, and report
    Bots(Bots),
    /// Time of a tick, and memory, in a large world with players over loopback
    Tick(Tick),
    /// How many players over WebRTC a shard on this machine holds below a p99 action latency
    Capacity(Capacity),
    /// Time from starting a shard's process to its being ready with a large world
    Restart(Restart),
    /// What replication costs the server above the transport, and bytes per update, by number of walking clients
    Replication {
        /// Numbers of clients
        #[arg(long, value_delimiter = ',', default_values_t = [100, 300, 600, 1_000])]
        players: Vec<usize>,
        /// Seconds to measure, each: of virtual time over loopback
        #[arg(long, default_value_t = 10)]
        seconds: u32,
        /// What carries them
        #[arg(long, value_enum, default_value_t = Transport::Loopback)]
        transport: Transport,
        /// Clients keep no picture of the world (over WebRTC they never do): the server's caches stay its own
        #[arg(long)]
        blind: bool,
    },
    /// From one player's input, or head and hands, to another player who sees it, over WebRTC
    Latency {
        /// Players
        #[arg(long, default_value_t = 300)]
        players: usize,
        /// Seconds to measure
        #[arg(long, default_value_t = 30)]
        seconds: u32,
        /// New players appear within this distance of the origin, metres
        #[arg(long, default_value_t = 150)]
        spawn_radius_m: u32,
    },
    /// Making, extracting, updating and mounting a generated build, beside desync and casync, which are fetched when needed
    Updates {
        /// Part of the whole build of 1.6 GB
        #[arg(long, default_value_t = 1.0)]
        scale: f64,
        /// Where to work; a RAM disk, so that no disk is measured
        #[arg(long, default_value = "/dev/shm")]
        scratch: PathBuf,
        /// Other seeds give other builds
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Replication beside Colyseus and bevy_replicon, which are built or installed when needed (Node.js with npm must be there)
    Peers {
        /// Numbers of clients
        #[arg(long, value_delimiter = ',', default_values_t = [100, 300])]
        players: Vec<usize>,
        /// Seconds to measure, each
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
        seconds: u32,
    },
    /// Many avatars in one small venue: bytes, and how fresh each one's picture of the others is
    Crowd {
        /// Avatars
        #[arg(long, default_value_t = 1_000)]
        players: usize,
        /// Size of the venue, metres
        #[arg(long, default_value_t = 50)]
        venue_m: u32,
        /// Seconds of virtual time to measure
        #[arg(long, default_value_t = 20)]
        seconds: u32,
    },
    /// Rigid bodies on the wire, without a shard: bytes, and how right the client's picture is
    Bodies {
        /// Bodies
        #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u16).range(1..=1_000))]
        bodies: u16,
        /// Seconds to measure
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=600))]
        seconds: u32,
        /// Seed of bodies and losses
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// The store: durable commits, flushes, loads, bytes on disk
    #[command(subcommand)]
    Store(Store),
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Store {
    /// Durable commits a second at 1, 8 and 64 writers, beside a raw sync and fjall
    Commits {
        /// For how long each, seconds
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
        seconds: u32,
    },
    /// Folding changed entities into the store
    Flush {
        /// Things that stand in the world
        #[arg(long, default_value_t = 200_000)]
        entities: usize,
    },
    /// Loading a world and single chunks; bytes on disk
    Load {
        /// Things that stand in the world
        #[arg(long, default_value_t = 1_000_000)]
        entities: usize,
    },
    /// The tick beside a flush and without
    Tick {
        /// Things that stand in the world
        #[arg(long, default_value_t = 100_000)]
        entities: usize,
        /// Players
        #[arg(long, default_value_t = 500)]
        players: usize,
        /// Seconds to measure
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Transport {
    /// Real WebRTC to a shard in a process of its own
    Webrtc,
    /// A whole shard in this process, in virtual time
    Loopback,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Behaviour {
    /// Walk all the time, act about once a second
    Mixed,
    /// Act as soon as the last result is there
    Builder,
    /// Only walk
    Walker,
}

impl From<Behaviour> for Style {
    fn from(behaviour: Behaviour) -> Style {
        match behaviour {
            Behaviour::Mixed => Style::Mixed,
            Behaviour::Builder => Style::Builder,
            Behaviour::Walker => Style::Walker,
        }
    }
}

#[derive(Debug, Args)]
struct Bots {
    /// How many players
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    players: u32,
    /// For how long, seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Seed of the players (and, over loopback, of the world)
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What carries them
    #[arg(long, value_enum, default_value_t = Transport::Webrtc)]
    transport: Transport,
    /// WebRTC only: the client library; matchbox is there when this program was built with `--features matchbox`
    #[arg(long, value_enum, default_value_t)]
    client: Library,
    /// How they spend their time
    #[arg(long, value_enum, default_value_t = Behaviour::Mixed)]
    behaviour: Behaviour,
    /// A running shard's page, such as http://127.0.0.1:8080/; without it a shard is started for the run
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Loopback only: datagrams lost, per thousand
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=999))]
    loss_permille: u16,
    /// Loopback only: delay each way, milliseconds
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=5_000))]
    delay_ms: u32,
    /// Also write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Tick {
    /// Things that stand in the world: half nodes, half structures
    #[arg(long, default_value_t = 100_000)]
    entities: usize,
    /// Players
    #[arg(long, default_value_t = 500)]
    players: usize,
    /// Seconds of virtual time to measure
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Ticks per second
    #[arg(long, default_value_t = 60)]
    tick_hz: u32,
    /// Seed of world and players
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// All players near the origin instead of all over the world
    #[arg(long)]
    crowd: bool,
}

#[derive(Debug, Args)]
struct Capacity {
    /// Numbers of players to try, rising; ends at the first that is too slow
    #[arg(long, value_delimiter = ',', default_values_t = [100, 200, 300, 400, 500, 600, 700, 800, 1_000])]
    players: Vec<usize>,
    /// Seconds for each
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// p99 action latency that must be kept, milliseconds
    #[arg(long, default_value_t = 50.0)]
    limit_ms: f64,
    /// New players appear within this distance of the origin, metres
    #[arg(long, default_value_t = 400)]
    spawn_radius_m: u32,
    /// Seed of the players
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
struct Restart {
    /// Things that stand in the world
    #[arg(long, default_value_t = 1_000_000)]
    entities: usize,
    /// How often to start
    #[arg(long, default_value_t = 5)]
    times: usize,
    /// Seed of the world
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Bots(arguments) => bots(&arguments),
        Command::Tick(arguments) => tick(&arguments),
        Command::Capacity(arguments) => capacity(&arguments),
        Command::Restart(arguments) => restart(&arguments),
        Command::Replication { players, seconds, transport: Transport::Loopback, blind } => {
            replication::clients(&players, seconds, blind)
        }
        Command::Replication { players, seconds, transport: Transport::Webrtc, .. } => live::clients(&players, seconds),
        Command::Latency { players, seconds, spawn_radius_m } => latency::run(players, seconds, spawn_radius_m),
        Command::Peers { players, seconds } => peers::run(&players, seconds),
        Command::Updates { scale, scratch, seed } => updates::run(&scratch, scale, seed),
        Command::Crowd { players, venue_m, seconds } => replication::crowd(players, venue_m, seconds),
        Command::Bodies { bodies: count, seconds, seed } => bodies::run(count.into(), seconds, seed),
        Command::Store(Store::Commits { seconds }) => store::commit_rates(seconds),
        Command::Store(Store::Flush { entities }) => store::flushes(entities),
        Command::Store(Store::Load { entities }) => store::loads(entities),
        Command::Store(Store::Tick { entities, players, seconds }) => store::ticks(entities, players, seconds),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vsekai-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bots(arguments: &Bots) -> Result<()> {
    let report = match arguments.transport {
        Transport::Loopback => bots_loopback(arguments)?,
        Transport::Webrtc => bots_webrtc(arguments)?,
    };
    println!("{report}");
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    if report.joined < report.players {
        bail!("{} of {} players could not join", report.players - report.joined, report.players);
    }
    Ok(())
}

fn bots_loopback(arguments: &Bots) -> Result<Report> {
    if arguments.url.is_some() {
        bail!("--url goes with --transport webrtc: a loopback shard is in this process");
    }
    let config = SimConfig { seed: arguments.seed, ..SimConfig::default() };
    let mut simulation = Simulation::create(&config, &world::content());
    world::grant_ids(&mut simulation);
    let delay = arguments.delay_ms;
    let faults = Faults { delay_ms: (delay, delay), loss_permille: arguments.loss_permille, ..Faults::default() };
    let mut shard =
        LoopbackShard::new(simulation, arguments.players as usize, arguments.seed, arguments.behaviour.into(), faults);
    for _ in 0..u64::from(arguments.seconds) * u64::from(config.tick_hz) {
        shard.tick();
    }
    Ok(shard.report(arguments.seed))
}

fn bots_webrtc(arguments: &Bots) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let (shard, url) = match &arguments.url {
        Some(url) => (None, url.clone()),
        None => {
            let shard = ShardProcess::start(folder.path(), &[])?;
            let url = shard.url.clone();
            (Some(shard), url)
        }
    };
    let players = arguments.players as usize;
    let duration = Duration::from_secs(arguments.seconds.into());
    let report = measure(&url, arguments.client, players, arguments.seed, arguments.behaviour.into(), duration)?;
    if let Some(shard) = shard {
        shard.stop()?;
    }
    Ok(report)
}

/// Plays bots on the shard whose page is at `url`, and asks it for its tick while they play.
fn measure(url: &str, library: Library, players: usize, seed: u64, style: Style, duration: Duration) -> Result<Report> {
    let signalling = url.replacen("http", "ws", 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status_url = format!("{}/api/status", url.trim_end_matches('/'));
    let status: serde_json::Value = std::thread::scope(|scope| {
        let status = scope.spawn(|| {
            // Just before the end: the percentiles are of the last ten seconds.
            std::thread::sleep(duration.saturating_sub(Duration::from_millis(500)));
            Ok::<_, anyhow::Error>(ureq::get(&status_url).call()?.body_mut().read_json()?)
        });
        let (report, _) = runtime.block_on(webrtc::run(&signalling, library, players, seed, style, duration));
        let status =
            status.join().expect("asking for the status does not panic").context("the shard gives no status")?;
        Ok::<_, anyhow::Error>((report, status))
    })
    .map(|(report, status): (Report, serde_json::Value)| json!({ "report": report, "status": status }))?;
    let mut report: Report = serde_json::from_value(status["report"].clone())?;
    report.tick_p50_ms = status["status"]["tick_ms"]["p50"].as_f64().unwrap_or_default();
    report.tick_p99_ms = status["status"]["tick_ms"]["p99"].as_f64().unwrap_or_default();
    Ok(report)
}

fn tick(arguments: &Tick) -> Result<()> {
    let Tick { entities, players, seconds, tick_hz, seed, crowd } = *arguments;
    let before = (live_bytes(), world::resident_bytes());
    let begin = Instant::now();
    let simulation = world::large(entities, tick_hz, seed, !crowd);
    let made_s = begin.elapsed().as_secs_f64();
    let per_entity = |bytes: u64, before: u64| bytes.saturating_sub(before) as f64 / entities as f64;
    let heap = per_entity(live_bytes(), before.0);
    let resident = per_entity(world::resident_bytes(), before.1);
    let mut shard = LoopbackShard::new(simulation, players, seed, Style::Mixed, Faults::default());
    // Five seconds to join and to be shown around; not measured.
    for _ in 0..5 * tick_hz {
        shard.tick();
    }
    shard.tick_times.clear();
    shard.record_bytes = 0;
    for _ in 0..seconds * tick_hz {
        shard.tick();
    }
    let ticks = Latency::of(shard.tick_times.iter().copied());
    let report = shard.report(seed);
    let counts = shard.simulation.entity_counts();
    println!(
        "{} nodes + {} structures, {players} players{}, {tick_hz} Hz: tick p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms; \
         an idle entity takes {heap:.0} B of heap ({resident:.0} B resident); made in {made_s:.1} s; {:.1} kB of frame record a tick; \
         {} of {players} joined, {} actions done, {:.0} B/s down per player",
        counts["resource"],
        counts["structure"],
        if crowd { " in one place" } else { " spread out" },
        ticks.p50_ms,
        ticks.p99_ms,
        ticks.max_ms,
        shard.record_bytes as f64 / 1_000.0 / f64::from(seconds * tick_hz),
        report.joined,
        report.done,
        report.down_bytes_per_s,
    );
    Ok(())
}

fn capacity(arguments: &Capacity) -> Result<()> {
    let Capacity { seconds, limit_ms, spawn_radius_m, seed, .. } = *arguments;
    println!(
        "| players | joined | actions | action p50 ms | action p99 ms | round trip p50 ms | tick p50 ms | tick p99 ms | down B/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut held = 0;
    for players in &arguments.players {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("shard.toml");
        std::fs::write(&config, format!("[simulation]\nspawn_radius_m = {spawn_radius_m}\n"))?;
        let config = config.display().to_string();
        let shard = ShardProcess::start(folder.path(), &["--config", &config])?;
        let duration = Duration::from_secs(seconds.into());
        let report = measure(&shard.url, Library::Str0m, *players, seed, Style::Mixed, duration)?;
        shard.stop()?;
        let Report { joined, lost, all_actions, round_trip, tick_p50_ms, tick_p99_ms, down_bytes_per_s, .. } = report;
        let Latency { count, p50_ms, p99_ms, .. } = all_actions;
        println!(
            "| {players} | {joined} | {count} | {p50_ms:.1} | {p99_ms:.1} | {:.1} | {tick_p50_ms:.2} | {tick_p99_ms:.2} | {down_bytes_per_s:.0} |",
            round_trip.p50_ms
        );
        if joined < *players || lost > 0 || p99_ms > limit_ms {
            break;
        }
        held = *players;
    }
    println!("\nheld with p99 action latency ≤ {limit_ms} ms: {held} players");
    Ok(())
}

fn restart(arguments: &Restart) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (frame, state_hash) = world::store(arguments.entities, arguments.seed, folder.path())?;
    let expected = format!("{state_hash:016x}");
    let mut ready = Vec::new();
    let mut whole = Vec::new();
    for _ in 0..arguments.times {
        let shard = ShardProcess::start(folder.path(), &[])?;
        let status = shard.status()?;
        let recovered = &status["recovered"];
        if ready.is_empty() && (recovered["frame"] != json!(frame) || recovered["state_hash"] != json!(expected)) {
            bail!("the shard recovered {recovered}, not frame {frame} with {expected}");
        }
        ready.push(recovered["ready_ms"].as_f64().context("no ready_ms")? / 1_000.0);
        whole.push(shard.started_in.as_secs_f64());
        shard.kill()?;
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "{} entities: process start to ready, median of {}: {:.2} s (fastest {:.2} s); of that inside the process {:.2} s",
        arguments.entities,
        arguments.times,
        median(&mut whole),
        whole[0],
        median(&mut ready),
    );
    Ok(())
}
