//! What the store costs: durable commits beside a raw sync and beside fjall, flushes, loads, bytes on disk.

use crate::bot::Style;
use crate::loopback::LoopbackShard;
use crate::report::Latency;
use crate::world;
use anyhow::{Context, Result, ensure};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use vsekai_net::loopback::Faults;
use vsekai_schema::id::{EntityId, Tag};
use vsekai_schema::record::{EntitiesReader, FrameWriter, Home};
use vsekai_schema::units::ChunkKey;
use vsekai_storage::keys::{HomeId, Region};
use vsekai_storage::kv::Database;
use vsekai_storage::{Config, Event, NewWorld, Storage, read_home};

/// Bytes of the value that each commit writes.
const VALUE_BYTES: usize = 1_000;

/// One series of commits.
struct Commits {
    rate: f64,
    latency: Latency,
}

/// Runs `commit` on `writers` threads for `time`; each is given its writer's number and its own count.
fn commits(writers: usize, time: Duration, commit: impl Fn(usize, u64) -> Result<()> + Sync) -> Result<Commits> {
    let begin = Instant::now();
    let all: Result<Vec<Vec<Duration>>> = std::thread::scope(|scope| {
        let threads = (0..writers).map(|writer| {
            let commit = &commit;
            scope.spawn(move || {
                let mut latencies = Vec::new();
                for count in 0.. {
                    let began = Instant::now();
                    if begin.elapsed() > time {
                        break;
                    }
                    commit(writer, count)?;
                    latencies.push(began.elapsed());
                }
                anyhow::Ok(latencies)
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().expect("a writer does not panic")).collect()
    });
    let elapsed = begin.elapsed().as_secs_f64();
    let all = all?;
    let latency = Latency::of(all.iter().flatten().copied());
    Ok(Commits { rate: latency.count as f64 / elapsed, latency })
}

fn key(writer: usize, count: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&(writer as u64).to_be_bytes());
    key[8..].copy_from_slice(&count.to_be_bytes());
    key
}

/// Durable commits a second: ours, fjall's, and what the disk gives at best.
///
/// # Errors
/// When a store fails.
pub fn commit_rates(seconds: u32) -> Result<()> {
    let time = Duration::from_secs(seconds.into());
    let mut value = vec![0; VALUE_BYTES];
    ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut value);
    println!("| writers | store | commits/s | p50 ms | p99 ms | p50 ÷ raw p50 | commits/s ÷ fjall's |");
    println!("|---|---|---|---|---|---|---|");
    for writers in [1, 8, 64] {
        let folder = tempfile::tempdir()?;
        let raw = raw_syncs(&folder.path().join("raw"), &value, time)?;
        let fjall = {
            let database = fjall::Database::builder(folder.path().join("fjall")).open()?;
            let keyspace = database.keyspace("kv", fjall::KeyspaceCreateOptions::default)?;
            commits(writers, time, |writer, count| {
                keyspace.insert(key(writer, count), &value)?;
                database.persist(fjall::PersistMode::SyncData)?;
                Ok(())
            })?
        };
        let database = Database::open(&format!("local:{}", folder.path().join("ours").display()))?;
        let ours = commits(writers, time, |writer, count| {
            let mut transaction = database.begin()?;
            transaction.set(&key(writer, count), value.as_slice());
            transaction.commit()?;
            Ok(())
        })?;
        for (name, found) in [("raw pwrite + fdatasync, 1 thread", &raw), ("fjall 3", &fjall), ("local:", &ours)] {
            println!(
                "| {writers} | {name} | {:.0} | {:.3} | {:.3} | {:.2} | {:.2} |",
                found.rate,
                found.latency.p50_ms,
                found.latency.p99_ms,
                found.latency.p50_ms / raw.latency.p50_ms,
                found.rate / fjall.rate
            );
        }
    }
    Ok(())
}

/// The physical limit: the same bytes behind each other in a preallocated file, synced one by one.
fn raw_syncs(path: &Path, value: &[u8], time: Duration) -> Result<Commits> {
    let file = File::create(path)?;
    file.write_all_at(&vec![0; 64 << 20], 0)?;
    file.sync_all()?;
    let room = (64 << 20) / value.len() as u64;
    commits(1, time, |_, count| {
        file.write_all_at(value, count % room * value.len() as u64)?;
        file.sync_data()?;
        Ok(())
    })
}

/// Bytes that this process has caused to be written to disks.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

/// An entity of the large world: where it is kept, and its last component with its bytes.
struct Known {
    id: EntityId,
    chunk: ChunkKey,
    component: (Tag, Vec<u8>),
}

fn open(config: Config) -> Result<(Storage, mpsc::Receiver<Event>)> {
    let (sender, events) = mpsc::channel();
    let opened = Storage::open(config, Arc::new(move |event| drop(sender.send(event))))?;
    Ok((opened.storage, events))
}

/// Makes the store of a world with `entities`, and returns what stands in it.
fn make(entities: usize, data: &Path) -> Result<Vec<Known>> {
    let mut simulation = world::large(entities, 60, 1, true);
    let payloads = simulation.payloads();
    let mut known = Vec::new();
    for (chunk, list) in &payloads.chunks {
        for entity in EntitiesReader::new(list)?.collect()? {
            let (tag, bytes) = entity.components.last().context("an entity without components")?;
            known.push(Known { id: entity.id, chunk: *chunk, component: (*tag, bytes.to_vec()) });
        }
    }
    let (storage, _) = open(world::storage_config(data))?;
    storage.create(NewWorld {
        frame: payloads.frame,
        state_hash: payloads.state_hash,
        chunks: payloads.chunks,
        alone: payloads.alone,
        ids_used_to: payloads.ids_used_to,
    })?;
    storage.close()?;
    Ok(known)
}

/// Folding changed entities into the store: how many a second, and how many bytes each.
///
/// # Errors
/// When the store refuses.
pub fn flushes(entities: usize) -> Result<()> {
    println!(
        "| changed entities | of | in chunks | entities/s | store bytes each | disk bytes each | journal bytes each |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (share, name) in [(1, "all"), (10, "every 10th"), (1_000, "every 1000th")] {
        let folder = tempfile::tempdir()?;
        let known = make(entities, folder.path())?;
        let config = Config { flush_interval_ms: 3_600_000, ..world::storage_config(folder.path()) };
        let (storage, events) = open(config)?;
        let mut frame = storage.durable_frame();
        let (mut changed, mut seconds, mut homes) = (0u64, 0.0, 0);
        let (mut store_bytes, mut disk_bytes, mut journal_bytes) = (0, 0, 0);
        for round in 0..3u8 {
            let before = storage.status();
            for some in known.iter().step_by(share).collect::<Vec<_>>().chunks(5_000) {
                let mut writer = FrameWriter::new();
                let mut some: Vec<&&Known> = some.iter().collect();
                some.sort_unstable_by_key(|known| known.id);
                for Known { id, chunk, component: (tag, bytes) } in some {
                    let mut bytes = bytes.clone();
                    if let Some(last) = bytes.last_mut() {
                        *last = last.wrapping_add(round + 1);
                    }
                    writer.write(*id, Home::Chunk(*chunk), [(*tag, &bytes[..])].into_iter());
                    changed += 1;
                }
                frame += 1;
                storage.append(frame, writer.finish(frame, u64::from(round), &[]))?;
            }
            while !matches!(events.recv()?, Event::Durable { frame: durable } if durable == frame) {}
            journal_bytes += storage.status().journal_bytes;
            let (disk_before, began) = (written_bytes(), Instant::now());
            storage.flush_now()?;
            seconds += began.elapsed().as_secs_f64();
            disk_bytes += written_bytes() - disk_before;
            let after = storage.status();
            store_bytes += after.flushed_bytes - before.flushed_bytes;
            homes = after.flushed_homes - before.flushed_homes;
        }
        storage.close()?;
        let each = |bytes: u64| bytes as f64 / changed as f64;
        println!(
            "| {} ({name}) | {} | {homes} | {:.0} | {:.0} | {:.0} | {:.0} |",
            changed / 3,
            known.len(),
            changed as f64 / seconds,
            each(store_bytes),
            each(disk_bytes),
            each(journal_bytes)
        );
    }
    Ok(())
}

/// Loading a world, reading single cold chunks, and what an idle entity takes on disk.
///
/// # Errors
/// When the store refuses.
pub fn loads(entities: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let known = make(entities, folder.path())?;
    let file = folder.path().join("store/store.redb");
    let mut seconds = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let opened = Storage::open(world::storage_config(folder.path()), Arc::new(|_| {}))?;
        ensure!(opened.world.is_some_and(|world| !world.chunks.is_empty()), "the world did not come back");
        seconds.push(began.elapsed().as_secs_f64());
        opened.storage.close()?;
    }
    seconds.sort_by(f64::total_cmp);
    // The physical limit: the same file, read in one go from the page cache.
    let began = Instant::now();
    let bytes = std::fs::read(&file)?;
    let raw = began.elapsed().as_secs_f64();
    println!(
        "{entities} entities: loaded in {:.3} s (median of 5), {:.1} × reading the file's {:.1} MB",
        seconds[2],
        seconds[2] / raw,
        bytes.len() as f64 / 1e6
    );
    let metadata = std::fs::metadata(&file)?;
    let stored: u64 = metadata.blocks() * 512;
    println!(
        "on disk: {:.1} B an entity ({} entities in chunks; file {:.1} MB, of that allocated {:.1} MB)",
        stored as f64 / known.len() as f64,
        known.len(),
        metadata.len() as f64 / 1e6,
        stored as f64 / 1e6
    );

    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut chunks: Vec<ChunkKey> = known.iter().map(|known| known.chunk).collect();
    chunks.dedup();
    let database = Database::open(&format!("local:{}", folder.path().join("store").display()))?;
    let cached = File::open(&file)?;
    let mut latencies = Vec::new();
    for _ in 0..2_000 {
        let chunk = chunks.swap_remove(random.random_range(0..chunks.len()));
        cached.sync_all()?;
        rustix::fs::fadvise(&cached, 0, None, rustix::fs::Advice::DontNeed)?;
        let began = Instant::now();
        let mut transaction = database.begin()?;
        ensure!(read_home(&mut transaction, Region::WHOLE, HomeId::Chunk(chunk))?.is_some(), "a chunk is missing");
        latencies.push(began.elapsed());
    }
    let Latency { p50_ms, p99_ms, .. } = Latency::of(latencies.into_iter());
    println!("one cold chunk (page cache dropped before each): p50 {p50_ms:.3} ms, p99 {p99_ms:.3} ms");
    Ok(())
}

/// The tick of a shard with `players` while frames are being flushed, and while they are not.
///
/// # Errors
/// When the store refuses.
pub fn ticks(entities: usize, players: usize, seconds: u32) -> Result<()> {
    const TICK_HZ: u32 = 60;
    let folder = tempfile::tempdir()?;
    let mut simulation = world::large(entities, TICK_HZ, 1, true);
    let payloads = simulation.payloads();
    let config = Config { flush_interval_ms: 250, ..world::storage_config(folder.path()) };
    let (storage, _events) = open(config)?;
    storage.create(NewWorld {
        frame: payloads.frame,
        state_hash: payloads.state_hash,
        chunks: payloads.chunks,
        alone: payloads.alone,
        ids_used_to: payloads.ids_used_to,
    })?;
    let mut shard = LoopbackShard::new(simulation, players, 1, Style::Mixed, Faults::default());
    let mut next = Instant::now();
    let (mut idle, mut flushing) = (Vec::new(), Vec::new());
    for tick in 0..(5 + seconds) * TICK_HZ {
        let before = storage.status();
        shard.tick();
        let (frame, record) = std::mem::take(&mut shard.last_frame);
        storage.append(frame, record)?;
        let after = storage.status();
        if tick >= 5 * TICK_HZ {
            let took = shard.tick_times.pop().context("a tick without a time")?;
            let overlaps = before.is_flushing || after.is_flushing || before.flush_count != after.flush_count;
            if overlaps { flushing.push(took) } else { idle.push(took) }
        }
        next += Duration::from_secs(1) / TICK_HZ;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let status = storage.status();
    storage.close()?;
    let (idle, flushing) = (Latency::of(idle.into_iter()), Latency::of(flushing.into_iter()));
    println!(
        "{entities} entities, {players} players, {TICK_HZ} Hz, a flush every 250 ms ({} flushes, the last took {:.1} ms): \
         tick p50 {:.3} / p99 {:.3} ms in {} ticks beside a flush, {:.3} / {:.3} ms in {} others: p99 × {:.2}",
        status.flush_count,
        status.last_flush_micros as f64 / 1_000.0,
        flushing.p50_ms,
        flushing.p99_ms,
        flushing.count,
        idle.p50_ms,
        idle.p99_ms,
        idle.count,
        flushing.p99_ms / idle.p99_ms
    );
    Ok(())
}
