//! The whole storage on a disk whose power fails, at every single operation of a scripted run.
//!
//! The script makes a world, appends frames, waits for some to become durable, flushes (small batches whole, large ones in
//! parts with a flip), asks for ids, closes and opens again. Whatever was reported must be there after the crash, whatever
//! the disk made of the writes that were not synced: every durable frame, every id taken, and nothing that never was.

use crate::config::Config;
use crate::disk::{CrashChoice, Disk, SimulatedDisk};
use crate::error::Error;
use crate::kv::Database;
use crate::storage::{Event, NewWorld, Opened, SavedWorld, Storage};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vsekai_schema::id::{EntityId, Tag};
use vsekai_schema::record::{EntitiesReader, EntitiesWriter, FrameWriter, Home, IdBlock};
use vsekai_schema::units::ChunkKey;

/// What [`check_every_crash`] came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrashReport {
    /// Operations of the disk in the script, at each of which the power failed once.
    pub crash_points: u64,
    /// Disks that were found after a crash and opened.
    pub images: u64,
    /// Frames that had been reported durable before the crashes, all of which were found again.
    pub durable_frames: u64,
    /// Frames found that nobody had been told of, as they may be.
    pub unreported_frames: u64,
    /// Images on which there was no world yet.
    pub without_world: u64,
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "power failed at each of {} disk operations, {} disks opened after it, {} frames reported durable all found, \
             {} unreported ones found, {} disks before the world was made",
            self.crash_points, self.images, self.durable_frames, self.unreported_frames, self.without_world
        )
    }
}

/// How much of it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashPlan {
    /// Decides on what the frames hold and on what the disk does.
    pub seed: u64,
    /// How many frames the script appends.
    pub frames: u64,
    /// Random disks per crash, besides the one that kept nothing and the one that kept all.
    pub random_choices: u64,
    /// Only every so-many-th operation fails.
    pub every: u64,
}

/// Runs the script once for each of its operations, with the power failing there.
///
/// # Errors
/// The first promise that was not kept, with seed, operation and choice.
pub fn check_every_crash(plan: CrashPlan) -> Result<CrashReport, String> {
    let whole = Script::run(plan, None);
    if let Some(error) = whole.ended_by {
        return Err(format!("the script fails on a good disk: {error}"));
    }
    let operations = whole.disk.operation_count();
    let mut report = CrashReport::default();
    let at = |operation: u64, choice: CrashChoice| format!("seed {}, operation {operation}, {choice:?}", plan.seed);
    for operation in (1..=operations + 1).step_by(usize::try_from(plan.every.max(1)).unwrap_or(1)) {
        let script = Script::run(plan, Some(operation));
        report.crash_points += 1;
        let random = (0..plan.random_choices).map(|number| CrashChoice::Random(plan.seed ^ operation << 20 ^ number));
        for choice in [CrashChoice::NoneKept, CrashChoice::AllKept].into_iter().chain(random) {
            let found = script.check_after(choice).map_err(|broken| format!("{}: {broken}", at(operation, choice)))?;
            report.images += 1;
            report.durable_frames += script.told.durable_frame;
            match found {
                None => report.without_world += 1,
                Some(frame) => report.unreported_frames += frame - script.told.durable_frame,
            }
        }
    }
    Ok(report)
}

/// What was reported from the storage's threads.
#[derive(Debug, Clone, Default)]
struct Told {
    created: bool,
    durable_frame: u64,
    granted: Vec<IdBlock>,
    failed: Option<String>,
}

#[derive(Default)]
struct Ear {
    told: Mutex<Told>,
    changed: Condvar,
}

impl Ear {
    fn hear(&self, event: Event) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Durable { frame } => told.durable_frame = told.durable_frame.max(frame),
            Event::IdsGranted(block) => told.granted.push(block),
            Event::Failed(text) => told.failed = Some(text),
        }
        self.changed.notify_all();
    }

    /// Waits until `done`; the storage's failure ends it, too. A minute without either is a failure of its own.
    fn wait(&self, done: impl Fn(&Told) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(text) = &told.failed {
                return Err(text.clone());
            }
            if done(&told) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("nothing was heard for a minute".into());
            }
            told = self.changed.wait_timeout(told, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn told(&self) -> Told {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All entities: where each is kept, and its components.
type World = BTreeMap<EntityId, (Home, BTreeMap<Tag, Vec<u8>>)>;

/// A frame: number, hash and the world after it.
struct Frame {
    record: Vec<u8>,
    world: World,
}

/// One run of the script, until its end or until the power failed.
struct Script {
    disk: SimulatedDisk,
    /// By number; the first is the world as it was made, frame 0.
    frames: Vec<Frame>,
    told: Told,
    /// Frames given to the storage.
    appended: u64,
    ended_by: Option<String>,
}

fn config() -> Config {
    Config {
        // Flushes come only when the script asks, so that its operations come in the same order every time.
        flush_interval_ms: 3_600_000,
        segment_bytes: 16 << 10,
        transaction_bytes: 12_000,
        min_free_bytes: 0,
        ..Config::new("local:/store", "/journal")
    }
}

impl Script {
    fn run(plan: CrashPlan, crash_at: Option<u64>) -> Script {
        let disk = SimulatedDisk::new();
        if let Some(operation) = crash_at {
            disk.crash_at(operation);
        }
        let ear = Arc::new(Ear::default());
        let mut script = Script { disk, frames: frames(plan), told: Told::default(), appended: 0, ended_by: None };
        script.ended_by = script.play(plan, &ear).err();
        let created = script.told.created;
        script.told = Told { created, ..ear.told() };
        script
    }

    fn play(&mut self, plan: CrashPlan, ear: &Arc<Ear>) -> Result<(), String> {
        let said = |error: Error| error.chain();
        let mut storage = open(&self.disk, ear).map_err(said)?.storage;
        let (chunks, alone) = lists(&self.frames[0].world);
        let world = NewWorld { frame: 0, state_hash: 0, chunks, alone, ids_used_to: 1_000_000 };
        let block = storage.create(world).map_err(said)?;
        self.told.created = true;
        ear.hear(Event::IdsGranted(block));
        for number in 1..=plan.frames {
            let record = self.frames[usize::try_from(number).unwrap_or_default()].record.clone();
            storage.append(number, record).map_err(said)?;
            self.appended = number;
            // Some frames share a group, some have one of their own.
            if number % 3 != 1 {
                ear.wait(|told| told.durable_frame >= number)?;
            }
            if number % 4 == 0 {
                let granted = ear.told().granted.len();
                storage.reserve_ids(10);
                ear.wait(|told| told.granted.len() > granted)?;
            }
            if number % 5 == 0 {
                ear.wait(|told| told.durable_frame >= number)?;
                storage.flush_now().map_err(said)?;
            }
            if number == plan.frames / 2 {
                storage.close().map_err(said)?;
                let opened = open(&self.disk, ear).map_err(said)?;
                ear.hear(Event::IdsGranted(opened.world.ok_or("the world is gone after a close")?.ids));
                storage = opened.storage;
            }
        }
        storage.close().map_err(said)
    }

    /// Opens what the crash left, and returns the last frame found. `Err` says what was promised and not kept.
    fn check_after(&self, choice: CrashChoice) -> Result<Option<u64>, String> {
        let disk = self.disk.after_crash(choice);
        let ear = Arc::new(Ear::default());
        let opened = open(&disk, &ear).map_err(|error| format!("cannot be opened: {}", error.chain()))?;
        let Some(world) = opened.world else {
            return if self.told.created { Err("the world is gone".into()) } else { Ok(None) };
        };
        let frame = world.frame;
        if frame < self.told.durable_frame {
            return Err(format!("ends at frame {frame}, but {} was reported durable", self.told.durable_frame));
        }
        if frame > self.appended {
            return Err(format!("ends at frame {frame}, but only {} was appended", self.appended));
        }
        if world.state_hash != frame {
            return Err(format!("frame {frame} has the hash of frame {}", world.state_hash));
        }
        let found = read(&world)?;
        let expected = &self.frames[usize::try_from(frame).unwrap_or_default()].world;
        if found != *expected {
            return Err(format!("the world after frame {frame} is another one: {}", difference(expected, &found)));
        }
        if let Some(block) = self.told.granted.iter().find(|block| block.end > world.ids.next) {
            return Err(format!("ids up to {} were granted, and now again from {}", block.end, world.ids.next));
        }
        // It must also go on from there.
        let next = frame + 1;
        let said = |error: Error| format!("cannot go on: {}", error.chain());
        opened.storage.append(next, FrameWriter::new().finish(next, next, &[])).map_err(said)?;
        ear.wait(|told| told.durable_frame >= next)?;
        opened.storage.close().map_err(said)?;
        let again = open(&disk, &Arc::default()).map_err(said)?;
        match again.world {
            Some(world) if world.frame == next && read(&world)? == *expected => Ok(Some(frame)),
            Some(world) => Err(format!("went on to frame {next}, and came back at {}", world.frame)),
            None => Err("the world is gone after it went on".into()),
        }
    }
}

fn open(disk: &SimulatedDisk, ear: &Arc<Ear>) -> Result<Opened, Error> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let config = config();
    let ear = ear.clone();
    let database = Database::open_on_disk(&config.store_url, &disk)?;
    Storage::open_on(database, config, &disk, Arc::new(move |event| ear.hear(event)))
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The world as it is made, and what each frame makes of it.
fn frames(plan: CrashPlan) -> Vec<Frame> {
    let mut random = Random(plan.seed);
    let mut world = World::new();
    for id in 1..=6 {
        world.insert(EntityId(id), (home(&mut random), components(&mut random, 0)));
    }
    let mut frames = vec![Frame { record: Vec::new(), world: world.clone() }];
    for number in 1..=plan.frames {
        let mut writer = FrameWriter::new();
        // Every seventh frame is so large that its flush needs a flip.
        let (count, bytes) = if number % 7 == 0 { (8, 3_000) } else { (1 + random.below(3), random.below(200)) };
        let mut touched: Vec<u64> = (0..count).map(|_| 1 + random.below(20)).collect();
        touched.sort_unstable();
        touched.dedup();
        for id in touched.into_iter().map(EntityId) {
            let before = world.get(&id).cloned();
            match (before, random.below(6)) {
                (Some((home, _)), 0) => {
                    writer.despawn(id, home);
                    world.remove(&id);
                }
                (Some((old, kept)), 1) => {
                    let new = home(&mut random);
                    if new != old {
                        writer.despawn(id, old);
                        write(&mut writer, id, new, &kept);
                        world.insert(id, (new, kept));
                    }
                }
                (Some((home, mut kept)), _) => {
                    let changed = components(&mut random, bytes);
                    write(&mut writer, id, home, &changed);
                    kept.extend(changed);
                    world.insert(id, (home, kept));
                }
                (None, _) => {
                    let (home, new) = (home(&mut random), components(&mut random, bytes));
                    write(&mut writer, id, home, &new);
                    world.insert(id, (home, new));
                }
            }
        }
        frames.push(Frame { record: writer.finish(number, number, &[]), world: world.clone() });
    }
    frames
}

fn write(writer: &mut FrameWriter, id: EntityId, home: Home, components: &BTreeMap<Tag, Vec<u8>>) {
    writer.write(id, home, components.iter().map(|(tag, bytes)| (*tag, bytes.as_slice())));
}

fn home(random: &mut Random) -> Home {
    match random.below(4) {
        0 => Home::Alone,
        x => Home::Chunk(ChunkKey { x: i32::try_from(x).unwrap_or_default(), z: -1 }),
    }
}

/// One or two components; bytes that can't be packed.
fn components(random: &mut Random, bytes: u64) -> BTreeMap<Tag, Vec<u8>> {
    let mut component = || (0..=bytes).map(|_| random.next().to_le_bytes()[0]).collect::<Vec<u8>>();
    let (first, second) = (component(), component());
    if first[0].is_multiple_of(2) { [(Tag(1), first)].into() } else { [(Tag(1), first), (Tag(7), second)].into() }
}

type Lists = (Vec<(ChunkKey, Vec<u8>)>, Vec<(EntityId, Vec<u8>)>);

fn lists(world: &World) -> Lists {
    let mut chunks: BTreeMap<(i32, i32), EntitiesWriter> = BTreeMap::new();
    let mut alone = Vec::new();
    for (id, (home, components)) in world {
        let components = components.iter().map(|(tag, bytes)| (*tag, bytes.as_slice()));
        match home {
            Home::Chunk(chunk) => chunks.entry((chunk.x, chunk.z)).or_default().push(*id, components),
            Home::Alone => {
                let mut writer = EntitiesWriter::new();
                writer.push(*id, components);
                alone.push((*id, writer.finish()));
            }
        }
    }
    (chunks.into_iter().map(|((x, z), writer)| (ChunkKey { x, z }, writer.finish())).collect(), alone)
}

fn read(saved: &SavedWorld) -> Result<World, String> {
    let mut world = World::new();
    let chunks = saved.chunks.iter().map(|(chunk, list)| (Home::Chunk(*chunk), list));
    for (home, list) in chunks.chain(saved.alone.iter().map(|list| (Home::Alone, list))) {
        let entities = EntitiesReader::new(list).and_then(EntitiesReader::collect).map_err(|e| e.to_string())?;
        for entity in entities {
            let components = entity.components.iter().map(|(tag, bytes)| (*tag, bytes.to_vec())).collect();
            if world.insert(entity.id, (home, components)).is_some() {
                return Err(format!("entity {} is in two homes", entity.id));
            }
        }
    }
    Ok(world)
}

fn difference(expected: &World, found: &World) -> String {
    let differs = |id: &&EntityId| expected.get(*id) != found.get(*id);
    match expected.keys().chain(found.keys()).find(differs) {
        Some(id) => {
            let text = |world: &World| {
                world.get(id).map_or("missing".into(), |(home, components)| {
                    let sizes: Vec<_> = components.iter().map(|(tag, bytes)| (tag.0, bytes.len())).collect();
                    format!("in {home:?} with {sizes:?}")
                })
            };
            format!("entity {id} should be {}, is {}", text(expected), text(found))
        }
        None => "in nothing".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The long form is `prove disk-faults`.
    #[test]
    fn nothing_reported_is_lost_whenever_the_power_fails() {
        let report = check_every_crash(CrashPlan { seed: 1, frames: 22, random_choices: 2, every: 5 }).unwrap();
        assert!(report.crash_points > 30 && report.durable_frames > 100, "{report}");
    }
}
