use super::*;
use crate::disk::LockedDirectory;
use crate::error::Error;
use crate::journal::segments::list;
use crate::kv::{Fault, serve};
use crate::register::{ID_BLOCK, read_own};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Condvar;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vsekai_schema::id::{EntityId, Tag};
use vsekai_schema::record::{EntitiesReader, EntitiesWriter, FrameWriter, Home};
use vsekai_schema::units::ChunkKey;

/// Takes events, and waits for the one that a test needs.
#[derive(Default)]
struct Events {
    seen: Mutex<Vec<Event>>,
    changed: Condvar,
}

impl Events {
    fn sink() -> (Arc<Events>, EventSink) {
        let events = Arc::new(Events::default());
        let sink = events.clone();
        let sink: EventSink = Arc::new(move |event| {
            sink.seen.lock().unwrap().push(event);
            sink.changed.notify_all();
        });
        (events, sink)
    }

    fn wait_for(&self, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        let give_up = Instant::now() + Duration::from_secs(60);
        let mut seen = self.seen.lock().unwrap();
        loop {
            if let Some(event) = seen.iter().find(|event| wanted(event)) {
                return event.clone();
            }
            assert!(Instant::now() < give_up, "never came; seen: {seen:?}");
            seen = self.changed.wait_timeout(seen, Duration::from_millis(100)).unwrap().0;
        }
    }

    fn wait_durable(&self, wanted: u64) {
        self.wait_for(|event| match event {
            Event::Durable { frame } => *frame >= wanted,
            Event::Failed(text) => panic!("failed: {text}"),
            Event::IdsGranted(_) => false,
        });
    }

    fn wait_failed(&self) -> String {
        match self.wait_for(|event| matches!(event, Event::Failed(_))) {
            Event::Failed(text) => text,
            _ => unreachable!(),
        }
    }
}

/// A store that flushes only when asked.
fn config(directory: &Path) -> Config {
    Config {
        flush_interval_ms: 3_600_000,
        segment_bytes: 4 << 10,
        ..Config::new(format!("local:{}", directory.join("store").display()), directory.join("journal"))
    }
}

fn real_disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

fn open(config: &Config) -> (Opened, Arc<Events>) {
    let (events, sink) = Events::sink();
    (Storage::open(config.clone(), sink).unwrap(), events)
}

fn open_error(config: &Config) -> Error {
    Storage::open(config.clone(), Events::sink().1).map(|_| ()).unwrap_err()
}

/// A storage with an empty world in it.
fn created(config: &Config) -> (Storage, Arc<Events>) {
    let (opened, events) = open(config);
    assert_eq!(opened.world, None);
    opened.storage.create(empty_world()).unwrap();
    (opened.storage, events)
}

fn empty_world() -> NewWorld {
    NewWorld { frame: 0, state_hash: 77, chunks: Vec::new(), alone: Vec::new(), ids_used_to: 5000 }
}

/// A frame that writes `bytes` of one component to entity 1.
fn frame(number: u64, bytes: usize) -> Vec<u8> {
    let mut writer = FrameWriter::new();
    writer.write(EntityId(1), Home::Alone, [(Tag(1), &vec![number as u8; bytes][..])].into_iter());
    writer.finish(number, number * 1000, &[])
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut entries: Vec<_> = fs::read_dir(from).unwrap().map(Result::unwrap).collect();
    // How far the journal was synced must not be newer than what was.
    entries.sort_by_key(|entry| entry.file_name() != "synced");
    for entry in entries {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file below `directory` with its content.
fn contents(directory: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

// The whole pipeline against a simple model.

type Components = BTreeMap<u16, Vec<u8>>;
type Entities = BTreeMap<u64, Components>;

/// All entities by the home that holds them, and nothing else.
#[derive(Debug, Clone, PartialEq, Default)]
struct Model {
    homes: BTreeMap<Home, Entities>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { entity: u64, components: Vec<(u16, Vec<u8>)> },
    Move { entity: u64, home: usize },
    Despawn { entity: u64 },
}

#[derive(Debug, Clone)]
enum Step {
    Frame(Vec<Change>),
    Flush,
    /// Without closing, as soon as all is durable.
    Crash,
    CloseAndOpen,
}

const HOMES: [Home; 4] = [
    Home::Alone,
    Home::Chunk(ChunkKey { x: 0, z: 0 }),
    Home::Chunk(ChunkKey { x: -1, z: 0 }),
    Home::Chunk(ChunkKey { x: 70_000, z: -70_000 }),
];

impl Model {
    fn home_of(&self, entity: u64) -> Option<Home> {
        self.homes.iter().find(|(_, entities)| entities.contains_key(&entity)).map(|(home, _)| *home)
    }

    fn take(&mut self, entity: u64, home: Home) -> Components {
        let entities = self.homes.get_mut(&home).unwrap();
        let components = entities.remove(&entity).unwrap();
        if entities.is_empty() {
            self.homes.remove(&home);
        }
        components
    }

    /// Applies one change here and writes it into the frame.
    fn apply(&mut self, change: &Change, writer: &mut FrameWriter) {
        let tagged = |components: &Components| -> Vec<(Tag, Vec<u8>)> {
            components.iter().map(|(tag, bytes)| (Tag(*tag), bytes.clone())).collect()
        };
        let write = |writer: &mut FrameWriter, entity: u64, home: Home, components: &[(Tag, Vec<u8>)]| {
            writer.write(EntityId(entity), home, components.iter().map(|(tag, bytes)| (*tag, bytes.as_slice())));
        };
        match change {
            Change::Write { entity, components } => {
                let home = self.home_of(*entity).unwrap_or(HOMES[*entity as usize % HOMES.len()]);
                let held = self.homes.entry(home).or_default().entry(*entity).or_default();
                for (tag, bytes) in components {
                    if bytes.is_empty() {
                        held.remove(tag);
                    } else {
                        held.insert(*tag, bytes.clone());
                    }
                }
                let components: Vec<_> = components.iter().map(|(tag, bytes)| (Tag(*tag), bytes.clone())).collect();
                write(writer, *entity, home, &components);
            }
            Change::Move { entity, home } => {
                let Some(old) = self.home_of(*entity) else { return };
                let new = HOMES[*home];
                let components = self.take(*entity, old);
                writer.despawn(EntityId(*entity), old);
                write(writer, *entity, new, &tagged(&components));
                self.homes.entry(new).or_default().insert(*entity, components);
            }
            Change::Despawn { entity } => {
                let Some(home) = self.home_of(*entity) else { return };
                self.take(*entity, home);
                writer.despawn(EntityId(*entity), home);
            }
        }
    }

    fn of(world: &SavedWorld) -> Model {
        let entities = |payload: &[u8]| -> Entities {
            let records = EntitiesReader::new(payload).unwrap().collect().unwrap();
            let components = |all: &[(Tag, &[u8])]| all.iter().map(|(tag, bytes)| (tag.0, bytes.to_vec())).collect();
            records.iter().map(|record| (record.id.0, components(&record.components))).collect()
        };
        let mut homes = BTreeMap::new();
        for (chunk, payload) in &world.chunks {
            assert!(homes.insert(Home::Chunk(*chunk), entities(payload)).is_none());
        }
        for payload in &world.alone {
            let one = entities(payload);
            assert_eq!(one.len(), 1);
            homes.entry(Home::Alone).or_insert_with(Entities::new).extend(one);
        }
        Model { homes }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let components = prop::collection::vec((1..5u16, prop::collection::vec(any::<u8>(), 0..40)), 0..4);
    prop_oneof![
        6 => (1..9u64, components).prop_map(|(entity, components)| Change::Write { entity, components }),
        2 => (1..9u64, 0..HOMES.len()).prop_map(|(entity, home)| Change::Move { entity, home }),
        1 => (1..9u64).prop_map(|entity| Change::Despawn { entity }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(change(), 0..8).prop_map(Step::Frame),
        2 => Just(Step::Flush),
        1 => Just(Step::Crash),
        1 => Just(Step::CloseAndOpen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_loaded_is_the_fold_of_the_frames(steps in prop::collection::vec(step(), 1..60)) {
        let directory = TempDir::new().unwrap();
        let config = config(directory.path());
        let (mut storage, mut events) = created(&config);
        let mut model = Model::default();
        let mut number = 0;
        let mut ids_to = 5000 + ID_BLOCK;
        for step in steps.iter().chain([&Step::Crash, &Step::CloseAndOpen]) {
            match step {
                Step::Frame(changes) => {
                    number += 1;
                    let mut writer = FrameWriter::new();
                    for change in changes {
                        model.apply(change, &mut writer);
                    }
                    storage.append(number, writer.finish(number, number * 1000, &[])).unwrap();
                    continue;
                }
                Step::Flush => {
                    storage.flush_now().unwrap();
                    continue;
                }
                Step::Crash => {
                    if storage.status().appended_frame > storage.durable_frame() {
                        events.wait_durable(number);
                    }
                    drop(storage);
                }
                Step::CloseAndOpen => storage.close().unwrap(),
            }
            let hash = if number == 0 { 77 } else { number * 1000 };
            prop_assert_eq!(last_durable_frame(&config).unwrap(), Some((number, hash)));
            let (opened, new_events) = open(&config);
            let world = opened.world.unwrap();
            prop_assert_eq!((world.frame, world.state_hash), (number, hash));
            prop_assert_eq!(world.ids, IdBlock { next: ids_to, end: ids_to + ID_BLOCK });
            ids_to += ID_BLOCK;
            prop_assert_eq!(Model::of(&world), model.clone());
            storage = opened.storage;
            events = new_events;
        }
    }
}

#[test]
fn a_created_world_comes_back_whole() {
    let directory = TempDir::new().unwrap();
    let config = config(directory.path());
    let list = |id: u64, bytes: usize| {
        let mut writer = EntitiesWriter::new();
        writer.push(EntityId(id), [(Tag(1), &vec![id as u8; bytes][..])].into_iter());
        writer.finish()
    };
    // More than two transactions' worth.
    let chunks: Vec<_> = (0..40).map(|x| (ChunkKey { x, z: 0 }, list(x as u64 + 1, 60_000))).collect();
    let alone: Vec<_> = (100..110).map(|id| (EntityId(id), list(id, 100))).collect();
    let world = NewWorld { frame: 3, state_hash: 9, chunks: chunks.clone(), alone: alone.clone(), ids_used_to: 2000 };
    let (opened, events) = open(&config);
    let block = opened.storage.create(world.clone()).unwrap();
    assert_eq!(block, IdBlock { next: 2000, end: 2000 + ID_BLOCK });
    assert!(matches!(opened.storage.create(world), Err(Error::WorldExists)));
    assert!(matches!(opened.storage.append(3, frame(3, 1)), Err(Error::FrameOrder { expected: 4, found: 3 })));
    opened.storage.append(4, frame(4, 1)).unwrap();
    events.wait_durable(4);
    drop(opened);
    let world = open(&config).0.world.unwrap();
    assert_eq!((world.frame, world.state_hash), (4, 4000));
    assert_eq!(world.chunks.len(), 40);
    for chunk in &chunks {
        assert!(world.chunks.contains(chunk));
    }
    assert_eq!(world.alone.len(), 11);
    assert_eq!(world.alone[1..], alone.into_iter().map(|(_, payload)| payload).collect::<Vec<_>>());
}

#[test]
fn a_creation_cut_short_leaves_no_world_and_no_trace() {
    let database = Database::open("mem:").unwrap();
    let directory = TempDir::new().unwrap();
    let config = Config { store_url: "mem:".into(), ..config(directory.path()) };
    database
        .run(|transaction| {
            transaction.set(&Region::WHOLE.chunk(ChunkKey { x: 1, z: 1 }), "half a world");
            transaction.set(&Region::WHOLE.entity(EntityId(8)), "half a world");
            Ok(())
        })
        .unwrap();
    let opened = Storage::open_on(database.clone(), config.clone(), &real_disk(), Events::sink().1).unwrap();
    assert_eq!(opened.world, None);
    opened.storage.create(empty_world()).unwrap();
    opened.storage.close().unwrap();
    let world = Storage::open_on(database, config, &real_disk(), Events::sink().1).unwrap().world.unwrap();
    assert_eq!((world.chunks, world.alone), (Vec::new(), Vec::new()));
}

#[test]
fn without_a_world_nothing_can_be_appended() {
    let directory = TempDir::new().unwrap();
    let config = config(directory.path());
    let (opened, _) = open(&config);
    assert!(matches!(opened.storage.append(1, frame(1, 1)), Err(Error::NoWorld)));
    assert_eq!(opened.storage.durable_frame(), 0);
    opened.storage.flush_now().unwrap();
    opened.storage.close().unwrap();
    assert_eq!(last_durable_frame(&config).unwrap(), None);
}

#[test]
fn a_frame_out_of_order_or_under_a_wrong_number_is_refused() {
    let directory = TempDir::new().unwrap();
    let (storage, _) = created(&config(directory.path()));
    storage.append(1, frame(1, 1)).unwrap();
    assert!(matches!(storage.append(1, frame(1, 1)), Err(Error::FrameOrder { expected: 2, found: 1 })));
    assert!(matches!(storage.append(3, frame(3, 1)), Err(Error::FrameOrder { expected: 2, found: 3 })));
    assert!(matches!(storage.append(2, frame(3, 1)), Err(Error::FrameOrder { .. })));
    storage.append(2, frame(2, 1)).unwrap();
    storage.close().unwrap();
}

#[test]
fn a_copy_made_while_the_shard_runs_has_all_that_was_reported_durable() {
    let directory = TempDir::new().unwrap();
    let config_here = config(directory.path());
    let (storage, events) = created(&config_here);
    for number in 1..=100 {
        storage.append(number, frame(number, 200)).unwrap();
        if number == 60 {
            events.wait_durable(60);
            storage.flush_now().unwrap();
        }
        if number % 25 == 0 {
            // The appends go on behind the one waited for.
            events.wait_durable(number - 20);
            let reported = storage.durable_frame();
            let copy = TempDir::new().unwrap();
            copy_directory(directory.path(), copy.path());
            let config = config(copy.path());
            let (found, hash) = last_durable_frame(&config).unwrap().unwrap();
            assert!(found >= reported, "{found} < {reported}");
            let world = open(&config).0.world.unwrap();
            assert_eq!((world.frame, world.state_hash), (found, hash));
        }
    }
    storage.close().unwrap();
}

#[test]
fn looking_for_the_last_durable_frame_changes_nothing() {
    let directory = TempDir::new().unwrap();
    let config = config(directory.path());
    assert_eq!(last_durable_frame(&config).unwrap(), None);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let (storage, events) = created(&config);
    // A copy of a running shard is what a kill leaves: the store was not closed.
    let copy = TempDir::new().unwrap();
    copy_directory(directory.path(), copy.path());
    let copied = Config {
        store_url: format!("local:{}", copy.path().join("store").display()),
        journal_dir: copy.path().join("journal"),
        ..config.clone()
    };
    let before = contents(copy.path());
    assert_eq!(last_durable_frame(&copied).unwrap(), Some((0, 77)));
    assert!(contents(copy.path()) == before);
    storage.append(1, frame(1, 10)).unwrap();
    events.wait_durable(1);
    let before = contents(directory.path());
    assert_eq!(last_durable_frame(&config).unwrap(), Some((1, 1000)));
    assert!(contents(directory.path()) == before);
}

#[test]
fn a_second_opener_fences_the_first() {
    let database = Database::open("mem:").unwrap();
    let [one, two] = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let config_in = |directory: &TempDir| Config { store_url: "mem:".into(), ..config(directory.path()) };
    let (events, sink) = Events::sink();
    let first = Storage::open_on(database.clone(), config_in(&one), &real_disk(), sink).unwrap().storage;
    first.create(empty_world()).unwrap();
    first.append(1, frame(1, 10)).unwrap();
    events.wait_durable(1);
    first.flush_now().unwrap();
    first.append(2, frame(2, 10)).unwrap();
    first.append(3, frame(3, 10)).unwrap();
    events.wait_durable(3);

    // Without the journal that holds frames 2 and 3 nobody may go on, but by saying so.
    let error =
        Storage::open_on(database.clone(), config_in(&two), &real_disk(), Events::sink().1).map(|_| ()).unwrap_err();
    let place = config_in(&one).journal_dir.display().to_string();
    assert!(
        matches!(&error, Error::OtherJournal { last_frame: 1, place: found } if found.ends_with(&place)),
        "{error}"
    );
    let abandoning = Config { abandon_journal: true, ..config_in(&two) };
    let second = Storage::open_on(database.clone(), abandoning, &real_disk(), Events::sink().1).unwrap();
    assert_eq!(second.world.unwrap().frame, 1);
    let error = first.flush_now().unwrap_err();
    assert!(matches!(&error, Error::Poisoned(text) if text.contains("another shard owns the region")), "{error}");
    assert!(events.wait_failed().contains("epoch 1"));
    assert!(matches!(first.append(4, frame(4, 10)), Err(Error::Poisoned(_))));
    assert!(matches!(first.close(), Err(Error::Poisoned(_))));

    // The second goes on, and the frames that only the first had are refused, not mixed in.
    second.storage.append(2, frame(2, 20)).unwrap();
    second.storage.close().unwrap();
    let error =
        Storage::open_on(database.clone(), config_in(&one), &real_disk(), Events::sink().1).map(|_| ()).unwrap_err();
    assert!(matches!(&error, Error::Mismatch { detail, .. } if detail.contains("of epoch 1")), "{error}");
    let again = Storage::open_on(database.clone(), config_in(&two), &real_disk(), Events::sink().1).unwrap();
    assert_eq!(again.world.unwrap().frame, 2);

    // Once the second is as far, what the first had is history that never was.
    let other_hash = {
        let mut writer = FrameWriter::new();
        writer.finish(3, 3333, &[])
    };
    again.storage.append(3, other_hash).unwrap();
    again.storage.close().unwrap();
    let back = Storage::open_on(database, config_in(&one), &real_disk(), Events::sink().1).unwrap();
    assert!(list(&RealDisk, &config_in(&one).journal_dir).unwrap().is_empty());
    let world = back.world.unwrap();
    assert_eq!((world.frame, world.state_hash), (3, 3333));
    back.storage.append(4, frame(4, 10)).unwrap();
    back.storage.close().unwrap();
    assert_eq!(last_durable_frame(&config_in(&one)).unwrap(), Some((4, 4000)));
}

/// A shard that hangs between its sync and its report must not report what its successor did not drain.
#[test]
fn a_shard_whose_journal_was_seized_acknowledges_nothing_more() {
    let directory = TempDir::new().unwrap();
    let config = config(directory.path());
    let (storage, events) = created(&config);
    storage.append(1, frame(1, 10)).unwrap();
    events.wait_durable(1);
    let seized = LockedDirectory::seize(&real_disk(), &config.journal_dir).unwrap();
    storage.append(2, frame(2, 10)).unwrap();
    let failed = events.wait_failed();
    assert!(failed.contains("has taken the journal"), "{failed}");
    assert_eq!(storage.durable_frame(), 1);
    assert!(matches!(storage.append(3, frame(3, 10)), Err(Error::Poisoned(_))));
    drop((storage, seized));
}

/// A process that was stopped and taken over may still make the segment that its successor is about to make.
#[test]
fn a_segment_that_a_stopped_process_made_meanwhile_is_replaced() {
    let directory = TempDir::new().unwrap();
    let config = config(directory.path());
    let (storage, events) = created(&config);
    let stray = crate::journal::segments::segment_path(&config.journal_dir, 1);
    fs::write(&stray, [0; 5_000]).unwrap();
    storage.append(1, frame(1, 10)).unwrap();
    events.wait_durable(1);
    storage.close().unwrap();
    assert_eq!(open(&config).0.world.unwrap().frame, 1);
}

/// What a killed shard left in its journal is brought into the store by somebody else: then the store alone has the world, the
/// dead one can't write any more, and the shard goes on with the same journal or another.
#[test]
fn a_dead_shards_journal_is_drained_and_its_owner_fenced() {
    let directory = TempDir::new().unwrap();
    let config = config(directory.path());
    assert_eq!(drain_journal(&config, |_| ()).unwrap(), Drained::default());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "something was made");
    let (storage, events) = created(&config);
    for number in 1..=20 {
        storage.append(number, frame(number, 500)).unwrap();
    }
    events.wait_durable(20);
    assert!(matches!(drain_journal(&config, |_| ()), Err(Error::InUse(_))), "somebody lives");
    drop(storage);

    let before = journal_bytes(&config).unwrap();
    assert!(before > 20 * 500, "{before}");
    let mut told = Vec::new();
    let drained = drain_journal(&config, |so_far| told.push(*so_far)).unwrap();
    assert_eq!((drained.frames, drained.frame, drained.state_hash), (20, 20, 20_000));
    assert_eq!((drained.bytes, drained.backlog_bytes), (before, 0));
    assert_eq!((told[0].frames, told[0].backlog_bytes), (0, before));
    let again = drain_journal(&config, |_| panic!("there is nothing to do")).unwrap();
    assert_eq!((again.frames, again.frame), (0, 20));
    let own = Database::open(&config.store_url).unwrap().run(|t| read_own(t, Region::WHOLE));
    let own = own.unwrap().unwrap();
    assert_eq!((own.epoch, own.journal, own.last_frame), (2, 0, 20));

    // Without its journal, as on another machine.
    let elsewhere = TempDir::new().unwrap();
    copy_directory(&directory.path().join("store"), &elsewhere.path().join("store"));
    let (opened, _) = open(&self::config(elsewhere.path()));
    let world = opened.world.unwrap();
    assert_eq!((world.frame, world.state_hash, world.alone.len()), (20, 20_000, 1));
    drop(opened.storage);
    // With it, twice over.
    for first in [21, 24] {
        let (opened, events) = open(&config);
        assert_eq!(opened.world.unwrap().frame, first - 1);
        for number in first..first + 3 {
            opened.storage.append(number, frame(number, 500)).unwrap();
        }
        events.wait_durable(first + 2);
        drop(opened.storage);
        assert_eq!(drain_journal(&config, |_| ()).unwrap().frames, 3);
    }
    // A clean stop leaves nothing to do.
    let (opened, _) = open(&config);
    opened.storage.append(27, frame(27, 10)).unwrap();
    opened.storage.close().unwrap();
    assert_eq!(drain_journal(&config, |_| panic!("there is nothing to do")).unwrap().frame, 27);
}

/// A drain that is cut short anywhere, as by `kill -9`, is gone on with.
#[test]
fn a_drain_that_the_store_interrupts_goes_on_where_it_was() {
    let directory = TempDir::new().unwrap();
    let store = Database::open(&format!("local:{}", directory.path().join("store").display())).unwrap();
    let socket = directory.path().join("socket");
    let server = serve(store.clone(), &socket).unwrap();
    let url = format!("unix:{}", socket.display());
    let config = Config { store_url: url.clone(), ..config(directory.path()) };
    let (storage, events) = created(&config);
    for number in 1..=50 {
        storage.append(number, frame(number, 500)).unwrap();
    }
    events.wait_durable(50);
    drop(storage);
    server.stop();
    let error = drain_journal(&config, |_| ()).unwrap_err();
    assert!(error.may_pass(), "{error}");
    let server = serve(store.clone(), &socket).unwrap();
    // The frames are in, and then the store is gone: nobody has said yet that the journal holds nothing more.
    let mut server = Some(server);
    let cut_short = drain_journal(&config, |so_far| {
        if so_far.frames > 0
            && let Some(server) = server.take()
        {
            server.stop();
        }
    });
    assert!(cut_short.unwrap_err().may_pass());
    let own = || store.run(|t| read_own(t, Region::WHOLE)).unwrap().unwrap();
    assert_eq!((own().epoch, own().last_frame), (1, 50));
    assert_ne!(own().journal, 0);
    let server = serve(store.clone(), &socket).unwrap();
    // Its answers are lost, too: it happens once.
    store.fail_next_commits([Fault::UnknownButCommitted, Fault::UnknownAndLost]);
    let drained = drain_journal(&config, |_| ()).unwrap();
    assert_eq!((drained.frames, drained.frame, drained.state_hash), (0, 50, 50_000));
    server.stop();
    assert_eq!((own().epoch, own().journal, own().last_frame), (2, 0, 50));
}

#[test]
fn ids_are_granted_once_each_and_survive() {
    let directory = TempDir::new().unwrap();
    let config = config(directory.path());
    let (storage, events) = created(&config);
    storage.reserve_ids(10);
    storage.reserve_ids(20);
    let next = 5000 + ID_BLOCK;
    for block in [IdBlock { next, end: next + 10 }, IdBlock { next: next + 10, end: next + 30 }] {
        events.wait_for(|event| *event == Event::IdsGranted(block));
    }
    drop(storage);
    assert_eq!(open(&config).0.world.unwrap().ids.next, next + 30);
}

#[test]
fn a_backlog_is_refused_until_it_is_flushed() {
    let directory = TempDir::new().unwrap();
    let config = Config { backlog_bytes_max: 1 << 20, segment_bytes: 1 << 20, ..config(directory.path()) };
    let (storage, events) = created(&config);
    storage.append(1, frame(1, 400_000)).unwrap();
    events.wait_durable(1);
    let refused = storage.append(2, frame(2, 700_000)).unwrap_err();
    assert!(matches!(refused, Error::Backlogged { limit, .. } if limit == 1 << 20), "{refused}");
    storage.flush_now().unwrap();
    assert_eq!(storage.status().journal_bytes, 0);
    storage.append(2, frame(2, 700_000)).unwrap();
    events.wait_durable(2);
    let status = storage.status();
    assert_eq!((status.appended_frame, status.durable_frame, status.queued_records), (2, 2, 0));
    assert!(status.sync_count == 2 && status.p99_sync_micros >= status.last_sync_micros.min(1));
    storage.close().unwrap();
}

#[test]
fn a_backlog_beyond_half_is_flushed_unasked() {
    let directory = TempDir::new().unwrap();
    let config = Config { backlog_bytes_max: 64 << 10, ..config(directory.path()) };
    let (storage, events) = created(&config);
    for number in 1..=200 {
        let mut attempt = storage.append(number, frame(number, 3000));
        while matches!(attempt, Err(Error::Backlogged { .. })) {
            std::thread::yield_now();
            attempt = storage.append(number, frame(number, 3000));
        }
        attempt.unwrap();
    }
    events.wait_durable(200);
    assert!(storage.status().flushed_frame > 100);
    storage.close().unwrap();
    // What the store has is not kept twice.
    assert!(list(&RealDisk, &config.journal_dir).unwrap().len() <= 2);
}

/// The store server goes away under a writer, for longer than a request waits, and again at once.
#[test]
fn an_outage_of_the_store_is_sat_out() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("store.socket");
    let served = Database::open("mem:").unwrap();
    let server = serve(served.clone(), &socket).unwrap();
    let url = format!("unix:{}", socket.display());
    let config = Config { store_url: url, flush_interval_ms: 5, ..config(directory.path()) };
    let (storage, events) = created(&config);
    let mut number = 0;
    let mut frames = |count: u64| {
        for _ in 0..count {
            number += 1;
            storage.append(number, frame(number, 100)).unwrap();
        }
        events.wait_durable(number);
        number
    };
    frames(50);
    storage.flush_now().unwrap();
    assert_eq!(storage.status().outage, None);

    drop(server);
    frames(50);
    storage.reserve_ids(30);
    let deadline = Instant::now() + Duration::from_secs(60);
    while storage.status().outage.is_none() {
        assert!(Instant::now() < deadline, "the outage is not told");
        std::thread::yield_now();
    }
    let last = frames(50);
    let status = storage.status();
    let (reason, _) = status.outage.unwrap();
    assert!(reason.contains("store.socket"), "{reason}");
    assert_eq!((status.durable_frame, status.flushed_frame < last, status.failed), (last, true, None));

    let server = serve(served.clone(), &socket).unwrap();
    storage.flush_now().unwrap();
    events.wait_for(|event| matches!(event, Event::IdsGranted(block) if block.end - block.next == 30));
    drop(server);
    let server = serve(served.clone(), &socket).unwrap();
    let last = frames(50);
    storage.flush_now().unwrap();
    let status = storage.status();
    assert_eq!((status.flushed_frame, status.outage, status.failed), (last, None, None));

    // Asked to stop while the store is away, it says where the frames are.
    drop(server);
    let last = frames(10);
    let error = storage.close().unwrap_err().to_string();
    assert!(error.ends_with("are in the journal, and the next start brings them in"), "{error}");
    let _server = serve(served, &socket).unwrap();
    assert_eq!(open(&config).0.world.unwrap().frame, last);
}

#[test]
fn a_failed_write_poisons_for_good() {
    let directory = TempDir::new().unwrap();
    let config = config(directory.path());
    let (storage, events) = created(&config);
    storage.append(1, frame(1, 100)).unwrap();
    events.wait_durable(1);
    // The next segment can't be made where the journal was.
    let moved = directory.path().join("moved");
    fs::rename(&config.journal_dir, &moved).unwrap();
    storage.append(2, frame(2, 6000)).unwrap();
    let text = events.wait_failed();
    assert!(text.contains("cannot create the segment") && text.contains("No such file"), "{text}");
    assert!(matches!(storage.append(3, frame(3, 1)), Err(Error::Poisoned(_))));
    assert_eq!(storage.durable_frame(), 1);
    assert_eq!(storage.status().failed, Some(text));
    assert!(matches!(storage.flush_now(), Err(Error::Poisoned(_))));
    assert!(storage.close().is_err());
    let failures = events.seen.lock().unwrap().iter().filter(|event| matches!(event, Event::Failed(_))).count();
    assert_eq!(failures, 1);
    // What was acknowledged is there.
    fs::rename(&moved, &config.journal_dir).unwrap();
    assert_eq!(open(&config).0.world.unwrap().frame, 1);
}

#[test]
fn a_journal_and_a_store_that_do_not_belong_together_are_refused() {
    let directory = TempDir::new().unwrap();
    let config = config(directory.path());
    let (storage, events) = created(&config);
    for number in 1..=50 {
        storage.append(number, frame(number, 1000)).unwrap();
        events.wait_durable(number);
    }
    drop(storage);
    let without_store = Config { store_url: "mem:".into(), ..config.clone() };
    assert!(matches!(open_error(&without_store), Error::Mismatch { .. }));
    // The first segment lost before the store had it.
    let first = config.journal_dir.join("00000000000000000001.seg");
    fs::rename(&first, directory.path().join("first")).unwrap();
    let error = open_error(&config);
    assert!(error.to_string().contains("the store ends at record 0"), "{error}");
    fs::rename(directory.path().join("first"), &first).unwrap();
    assert_eq!(open(&config).0.world.unwrap().frame, 50);
}

#[test]
fn a_store_ahead_of_an_old_journal_goes_on_without_a_hole() {
    let directory = TempDir::new().unwrap();
    let config = config(directory.path());
    let (storage, events) = created(&config);
    storage.append(1, frame(1, 10)).unwrap();
    events.wait_durable(1);
    let old = TempDir::new().unwrap();
    copy_directory(&config.journal_dir, old.path());
    storage.append(2, frame(2, 10)).unwrap();
    storage.close().unwrap();
    let with_old = Config { journal_dir: old.path().to_owned(), ..config };
    let (opened, events) = open(&with_old);
    assert_eq!(opened.world.unwrap().frame, 2);
    opened.storage.append(3, frame(3, 10)).unwrap();
    events.wait_durable(3);
    drop(opened.storage);
    assert_eq!(open(&with_old).0.world.unwrap().frame, 3);
}

#[test]
fn a_damaged_chunk_stops_the_start_and_names_the_key() {
    let database = Database::open("mem:").unwrap();
    let directory = TempDir::new().unwrap();
    let config = Config { store_url: "mem:".into(), ..config(directory.path()) };
    let (events, sink) = Events::sink();
    let storage = Storage::open_on(database.clone(), config.clone(), &real_disk(), sink).unwrap().storage;
    storage.create(empty_world()).unwrap();
    let key = Region::WHOLE.entity(EntityId(1));
    let mut transaction = database.begin().unwrap();
    transaction.set(&key, [99, 0]);
    transaction.commit().unwrap();
    storage.append(1, frame(1, 10)).unwrap();
    events.wait_durable(1);
    assert!(storage.flush_now().is_err());
    let text = events.wait_failed();
    assert!(text.contains("\\x01e/") && text.contains("version 99"), "{text}");
    drop(storage);
    assert!(matches!(Storage::open_on(database, config, &real_disk(), Events::sink().1), Err(Error::Decode { .. })));
}

#[test]
fn a_second_handle_on_the_same_paths_is_refused() {
    let directory = TempDir::new().unwrap();
    let config = config(directory.path());
    let (_storage, _) = created(&config);
    assert!(matches!(open_error(&config), Error::InUse(_)));
    assert!(matches!(open_error(&Config { store_url: "mem:".into(), ..config }), Error::InUse(_)));
}

#[test]
fn a_setting_out_of_range_is_named_with_its_range() {
    let good = Config::new("mem:", "journal");
    good.validate().unwrap();
    let cases = [
        (Config { flush_interval_ms: 0, ..good.clone() }, "flush_interval_ms is 0, it must be 1 to 3600000"),
        (Config { segment_bytes: 1, ..good.clone() }, "segment_bytes is 1"),
        (Config { backlog_bytes_max: 1, ..good.clone() }, "backlog_bytes_max is 1"),
        (Config { journal_dir: "".into(), ..good.clone() }, "journal_dir is empty"),
        (Config { store_url: "redis:x".into(), ..good }, "`redis:x`"),
    ];
    for (config, expected) in cases {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
