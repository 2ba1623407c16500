//! The same seeded players do the same in three worlds, tick by tick: one undisturbed, one whose store is killed for half of the time, one
//! whose disk is nearly full for a while. In the end the three stores hold the same world to the last byte.
//!
//! Nothing here depends on time but the storage: simulation, server, network and bots run in lockstep in this process, so equal seeds
//! give equal frames, and what differs in the end was done by journal, flusher or recovery.

use super::LONG;
use crate::harness::{Killed, MemoryDisk, Stored};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::statvfs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vsekai_bench::bot::Style;
use vsekai_bench::loopback::LoopbackShard;
use vsekai_bench::process::program;
use vsekai_bench::world;
use vsekai_net::loopback::Faults;
use vsekai_sim::{SimConfig, Simulation};
use vsekai_storage::{Config, Error, NewWorld, SavedWorld, Storage, drain_journal};

const DISK_MIB: u32 = 96;
/// Below this no frame is taken.
const MIN_FREE_MIB: u64 = 24;

/// What goes wrong in the second half of a world's first half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    None,
    /// The process that serves the store is killed, and another started later.
    StoreKilled,
    /// Somebody else fills the journal's disk, and makes room later.
    DiskFull,
}

/// How a world ended.
struct End {
    stored: Stored,
    world: SavedWorld,
    actions: u64,
    /// Frames that the store lacked when the disturbance was over.
    backlog_frames: u64,
    /// How often a frame was not taken, and then was.
    refusals: u64,
}

/// So many ticks with so many bots, three times.
pub fn run(ticks: u64, players: usize, seed: u64) -> Result<String> {
    let undisturbed = play(ticks, players, seed, Disturbance::None)?;
    ensure!(undisturbed.actions > 0, "no bot did anything");
    let mut backlog_frames = 0;
    let mut refusals = 0;
    for disturbance in [Disturbance::StoreKilled, Disturbance::DiskFull] {
        let end = play(ticks, players, seed, disturbance).with_context(|| format!("{disturbance:?}"))?;
        backlog_frames += end.backlog_frames;
        refusals += end.refusals;
        let hashes = (end.world.frame, end.world.state_hash);
        let expected = (undisturbed.world.frame, undisturbed.world.state_hash);
        ensure!(hashes == expected, "{disturbance:?}: frame and hash are {hashes:x?}, undisturbed {expected:x?}");
        ensure!(end.stored == undisturbed.stored, "{disturbance:?}: players hold, did or own something else");
        ensure!(
            end.world.chunks == undisturbed.world.chunks && end.world.alone == undisturbed.world.alone,
            "{disturbance:?}: the world is another"
        );
    }
    let items: i64 = undisturbed.stored.items.values().flat_map(|held| held.values()).sum();
    Ok(format!(
        "the same {} actions of {players} bots in {ticks} ticks, undisturbed, with the store killed ({backlog_frames} frames waited) and \
         with the disk nearly full (a frame refused {refusals} times, then taken): the same {items} items, {} structures, {} chunks and \
         state hash {:016x}",
        undisturbed.actions,
        undisturbed.stored.structures.len(),
        undisturbed.world.chunks.len(),
        undisturbed.world.state_hash
    ))
}

fn play(ticks: u64, players: usize, seed: u64, disturbance: Disturbance) -> Result<End> {
    let folder = tempfile::tempdir()?;
    let disk = MemoryDisk::mount(DISK_MIB, false);
    let (store, socket) = (folder.path().join("store"), folder.path().join("store.sock"));
    let config = Config {
        flush_interval_ms: 20,
        min_free_bytes: MIN_FREE_MIB << 20,
        segment_bytes: 1 << 20,
        ..Config::new(format!("unix:{}", socket.display()), disk.path().join("journal"))
    };
    let mut server = Some(serve(&store, &socket)?);
    let storage = Storage::open(config.clone(), Arc::new(|_| ()))?.storage;
    let sim = SimConfig { seed, half_m: 128, ..SimConfig::default() };
    let mut simulation = Simulation::create(&sim, &world::content());
    let new = simulation.payloads();
    let ids = storage.create(NewWorld {
        frame: new.frame,
        state_hash: new.state_hash,
        chunks: new.chunks,
        alone: new.alone,
        ids_used_to: new.ids_used_to,
    })?;
    ensure!(simulation.grant_ids(ids), "the world does not take its ids");
    let faults = Faults { delay_ms: (5, 40), loss_permille: 20, duplicate_permille: 10, reorder_permille: 10 };
    let mut shard = LoopbackShard::new(simulation, players, seed, Style::Builder, faults);
    let (mut refusals, mut backlog_frames, mut filler) = (0, 0, None);
    for tick in 0..ticks {
        if tick == ticks / 4 {
            match disturbance {
                Disturbance::None => {}
                // Dropped, it is killed.
                Disturbance::StoreKilled => drop(server.take()),
                Disturbance::DiskFull => filler = Some(nearly_fill(disk.path(), MIN_FREE_MIB - 8)?),
            }
        }
        if tick == ticks / 2 && disturbance == Disturbance::StoreKilled {
            until("an outage", || Ok(storage.status().outage.is_some()))?;
            let status = storage.status();
            backlog_frames = status.appended_frame - status.flushed_frame;
            ensure!(backlog_frames >= ticks / 4, "only {backlog_frames} frames wait");
            server = Some(serve(&store, &socket)?);
        }
        shard.tick();
        let (frame, record) = shard.last_frame.clone();
        let mut taken = storage.append(frame, record.clone());
        while let Err(error @ (Error::DiskNearlyFull { .. } | Error::Backlogged { .. })) = taken {
            refusals += 1;
            if let Some(filler) = filler.take_if(|_| refusals == 20) {
                ensure!(storage.status().read_only, "it is refused, but not said: {error}");
                std::fs::remove_file(&filler)?;
            }
            ensure!(u128::from(refusals) * 5 < LONG.as_millis(), "no frame is taken any more: {error}");
            std::thread::sleep(Duration::from_millis(5));
            taken = storage.append(frame, record.clone());
        }
        taken.with_context(|| format!("frame {frame}"))?;
        // The disk is looked at when a group is flushed: frames must not all be taken before.
        if disturbance == Disturbance::DiskFull && (ticks / 4..ticks / 2).contains(&tick) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    ensure!(filler.is_none(), "the disk was full, and nothing was refused");
    let last = shard.last_frame.0;
    until("the last frame durable", || Ok(storage.durable_frame() == last))?;
    let actions = shard.report(seed).done;
    // As a crash would.
    drop(storage);
    let drained = drain_journal(&config, |_| ())?;
    ensure!(drained.frame == last, "the store has frame {}, not {last}", drained.frame);
    drop(server);
    let local = format!("local:{}", store.display());
    let opened = Storage::open(Config::new(local, folder.path().join("journal")), Arc::new(|_| ()))?;
    let world = opened.world.context("there is no world")?;
    opened.storage.close()?;
    let stored = Stored::read(folder.path());
    Ok(End { stored, world, actions, backlog_frames, refusals })
}

/// Fills a disk with a file, but for so many MiB.
pub(super) fn nearly_fill(disk: &Path, free_mib: u64) -> Result<PathBuf> {
    let free = statvfs(disk).map(|room| room.f_bavail * room.f_frsize)?;
    let path = disk.join("filler");
    // Real blocks: an empty file of that length would take no room.
    let length = free.saturating_sub(free_mib << 20);
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0xee), length), &mut File::create(&path)?)?;
    Ok(path)
}

/// The store, served by a process of its own.
fn serve(store: &Path, socket: &Path) -> Result<Killed> {
    let mut command = Command::new(program("vsekai-supervisor")?);
    command.arg("store").arg("--store").arg(format!("local:{}", store.display())).arg("--socket").arg(socket);
    let server = Killed(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    until("the store", || {
        Ok(vsekai_storage::kv::server_facts(socket).is_ok_and(|facts| facts.process == server.0.id()))
    })?;
    Ok(server)
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        if begun.elapsed() > LONG {
            bail!("waited in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
