use super::*;
use crate::config::Config;
use crate::disk::{Disk, LockedDirectory, RealDisk};
use crate::home::Encoded;
use crate::keys::{HomeId, part};
use crate::kv::Fault;
use crate::storage::{Event, EventSink, NewWorld, Opened, Storage};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use tempfile::TempDir;
use vsekai_schema::record::{ChangeRecord, EntitiesWriter, FrameWriter, Home, LeaseRecord, OwnRecord};
use vsekai_schema::units::ChunkKey;
use xxhash_rust::xxh3::xxh3_64_with_seed;

mod salvage;

const REGION: Region = Region::WHOLE;

fn hash(id: EntityId, tag: Tag, record: &[u8]) -> u64 {
    xxh3_64_with_seed(record, id.0 << 16 | u64::from(tag.0))
}

fn silent() -> impl FnMut(Progress) {
    |_| {}
}

/// A world in plain maps, and the frames that made it: what every tool is compared with.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    /// Home and component bytes of each entity; one component each, tag 7.
    entities: BTreeMap<u64, (Home, Vec<u8>)>,
    frame: u64,
    random: u64,
}

impl Model {
    /// Entity 1 and `chunks` chunks with `each` entities of about `bytes` bytes that can't be packed, and as many lone ones.
    fn new(seed: u64, chunks: i32, each: u64, bytes: usize) -> Model {
        let mut model = Model { random: seed | 1, ..Model::default() };
        let record = model.record(40);
        model.entities.insert(1, (Home::Alone, record));
        let mut id = 1_024;
        for at in 0..chunks {
            for _ in 0..each {
                for home in [Home::Chunk(ChunkKey { x: at % 20 - 10, z: at / 20 - 5 }), Home::Alone] {
                    let record = model.record(bytes);
                    model.entities.insert(id, (home, record));
                    id += 1;
                }
            }
        }
        model
    }

    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn record(&mut self, bytes: usize) -> Vec<u8> {
        let mut record = vec![1];
        while record.len() < bytes {
            record.extend_from_slice(&self.next().to_le_bytes());
        }
        record
    }

    fn state_hash(&self) -> u64 {
        self.entities.iter().fold(0, |sum, (id, (_, record))| sum.wrapping_add(hash(EntityId(*id), Tag(7), record)))
    }

    /// The next frame: rewrites `count` entities, of which some move and some go.
    fn tick(&mut self, count: usize) -> Vec<u8> {
        let mut writer = FrameWriter::new();
        let ids: Vec<u64> = self.entities.keys().copied().collect();
        let mut touched = std::collections::BTreeSet::new();
        for _ in 0..count {
            let id = ids[1 + self.next() as usize % (ids.len() - 1)];
            if !touched.insert(id) {
                continue;
            }
            let (home, old) = self.entities[&id].clone();
            match self.next() % 12 {
                0 => {
                    writer.despawn(EntityId(id), home);
                    self.entities.remove(&id);
                }
                1 => {
                    let to = Home::Chunk(ChunkKey { x: (self.next() % 20) as i32 - 10, z: 7 });
                    if to != home {
                        writer.despawn(EntityId(id), home);
                        writer.write(EntityId(id), to, [(Tag(7), &old[..])].into_iter());
                        self.entities.insert(id, (to, old));
                    }
                }
                _ => {
                    let record = self.record(old.len());
                    writer.write(EntityId(id), home, [(Tag(7), &record[..])].into_iter());
                    self.entities.insert(id, (home, record));
                }
            }
        }
        self.frame += 1;
        writer.finish(self.frame, self.state_hash(), &[])
    }

    fn homes(&self) -> Vec<(HomeId, Vec<u8>)> {
        let mut homes: BTreeMap<Vec<u8>, (HomeId, EntitiesWriter)> = BTreeMap::new();
        for (id, (home, record)) in &self.entities {
            let home = match home {
                Home::Chunk(chunk) => HomeId::Chunk(*chunk),
                Home::Alone => HomeId::Entity(EntityId(*id)),
            };
            let (_, writer) = homes.entry(REGION.home(home)).or_insert_with(|| (home, EntitiesWriter::new()));
            writer.push(EntityId(*id), [(Tag(7), &record[..])].into_iter());
        }
        homes.into_values().map(|(home, writer)| (home, writer.finish())).collect()
    }

    fn new_world(&self) -> NewWorld {
        let (mut chunks, mut alone) = (Vec::new(), Vec::new());
        for (home, list) in self.homes() {
            match home {
                HomeId::Chunk(chunk) => chunks.push((chunk, list)),
                HomeId::Entity(id) => alone.push((id, list)),
            }
        }
        let ids_used_to = self.entities.keys().last().map_or(1_024, |last| last + 1);
        NewWorld { frame: self.frame, state_hash: self.state_hash(), chunks, alone, ids_used_to }
    }
}

fn real_disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

/// A running storage, and what it should hold.
struct Scene {
    database: Database,
    storage: Storage,
    model: Model,
    durable: Arc<(Mutex<u64>, Condvar)>,
    folder: TempDir,
}

impl Scene {
    fn new(model: Model, database: Database, change: impl FnOnce(&mut Config)) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config { flush_interval_ms: 3_600_000, ..Config::new("mem:", folder.path().join("journal")) };
        change(&mut config);
        let durable = Arc::new((Mutex::new(0), Condvar::new()));
        let told = durable.clone();
        let sink: EventSink = Arc::new(move |event| match event {
            Event::Durable { frame } => {
                *told.0.lock().unwrap() = frame;
                told.1.notify_all();
            }
            Event::IdsGranted(_) => {}
            Event::Failed(why) => panic!("{why}"),
        });
        let Opened { storage, world } = Storage::open_on(database.clone(), config, &real_disk(), sink).unwrap();
        if world.is_none() {
            storage.create(model.new_world()).unwrap();
        }
        Scene { database, storage, model, durable, folder }
    }

    fn in_memory(model: Model) -> Scene {
        Scene::new(model, Database::open("mem:").unwrap(), |_| {})
    }

    fn tick(&mut self, count: usize) {
        let record = self.model.tick(count);
        self.storage.append(self.model.frame, record).unwrap();
    }

    fn tick_and_flush(&mut self, count: usize) {
        self.tick(count);
        let frame = self.model.frame;
        let durable = self.durable.0.lock().unwrap();
        drop(self.durable.1.wait_while(durable, |durable| *durable < frame).unwrap());
        self.storage.flush_now().unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn export(&self, name: &str) -> ExportSummary {
        export_file(&self.database, REGION, Some(hash), &self.path(name), &mut silent()).unwrap()
    }
}

fn checked(database: &Database) -> CheckReport {
    let options = CheckOptions { component_hash: Some(hash), ..CheckOptions::default() };
    check(database, REGION, options, &mut silent()).unwrap()
}

fn all_pairs(database: &Database) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let read =
        |transaction: &mut crate::kv::Transaction| transaction.get_range(&crate::kv::RangeRead::new(&[], &[0xff]));
    database.run(read).unwrap().into_iter().collect()
}

fn set(database: &Database, key: &[u8], value: &[u8]) {
    database
        .run_idempotent(|transaction| {
            transaction.set(key, value);
            Ok(())
        })
        .unwrap();
}

fn clear(database: &Database, key: &[u8]) {
    database
        .run_idempotent(|transaction| {
            transaction.clear(key);
            Ok(())
        })
        .unwrap();
}

// ---- One frame -------------------------------------------------------------------------------------------------------

/// After every page that is read, a flush rewrites some homes: what comes out is still one frame.
#[test]
fn a_world_that_is_rewritten_between_all_pages_is_read_as_it_was_after_one_frame() {
    let mut scene = Scene::in_memory(Model::new(11, 190, 4, 2_500));
    let database = scene.database.clone();
    let mut pages = 0;
    let world = read_world(&database, REGION, Some(hash), &mut |progress| {
        assert_eq!(progress.stage, "reading");
        pages += 1;
        scene.tick_and_flush(5);
    })
    .unwrap();
    assert!(pages > 3, "the world fits one page: {pages}");
    assert_eq!((world.frame, world.state_hash), (scene.model.frame, scene.model.state_hash()));
    assert_eq!(world.homes, scene.model.homes());
}

/// So much is rewritten at once that it takes several transactions to read that again, and another flush comes then.
#[test]
fn a_rewrite_larger_than_one_transaction_is_read_again_in_several() {
    let mut scene = Scene::in_memory(Model::new(12, 150, 4, 2_000));
    let database = scene.database.clone();
    let mut pages = 0;
    let world = read_world(&database, REGION, Some(hash), &mut |_| {
        pages += 1;
        if pages == 2 {
            scene.tick_and_flush(2_000);
        }
    })
    .unwrap();
    assert_eq!(world.frame, 1);
    assert_eq!(world.homes, scene.model.homes());
}

#[test]
fn a_change_log_with_holes_costs_another_reading_and_a_world_that_never_rests_is_told() {
    let mut scene = Scene::new(Model::new(13, 60, 4, 2_000), Database::open("mem:").unwrap(), |config| {
        config.change_log_frames = 0;
    });
    let database = scene.database.clone();
    let mut pages = 0;
    let world = read_world(&database, REGION, Some(hash), &mut |_| {
        pages += 1;
        if pages == 1 {
            scene.tick_and_flush(50);
        }
    });
    assert_eq!(world.unwrap().homes, scene.model.homes());
    let error = read_world(&database, REGION, Some(hash), &mut |_| scene.tick_and_flush(5)).unwrap_err();
    assert!(matches!(error, ToolError::Changing(_)), "{error}");
    assert!(error.to_string().contains("its change log does not say what changed from frame"), "{error}");
}

/// A running storage flushes every millisecond while the world is exported again and again.
#[test]
fn exports_beside_a_running_shard_are_whole_frames() {
    let model = Model::new(14, 100, 4, 1_000);
    let mut scene = Scene::new(model, Database::open("mem:").unwrap(), |config| config.flush_interval_ms = 1);
    let (database, exporter) = (scene.database.clone(), scene.storage.exporter());
    let mut histories = BTreeMap::from([(0, scene.model.clone())]);
    let exports = Arc::new(AtomicU64::new(0));
    let counted = exports.clone();
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_owned();
    let thread = std::thread::spawn(move || {
        let mut frames = Vec::new();
        for number in 0..12 {
            let world = read_world(&database, REGION, Some(hash), &mut silent()).unwrap();
            let path = directory.join(format!("{number}.vsx"));
            let summary = exporter.export(&path, Some(hash), &mut silent()).unwrap();
            assert_eq!(verify_file(&path, &mut silent()).unwrap(), summary);
            assert!(summary.frame >= world.frame);
            frames.push(world);
            counted.fetch_add(1, Ordering::Relaxed);
        }
        frames
    });
    while exports.load(Ordering::Relaxed) < 12 && !thread.is_finished() {
        scene.tick_and_flush(3);
        histories.insert(scene.model.frame, scene.model.clone());
    }
    let worlds = thread.join().unwrap();
    let frames: std::collections::BTreeSet<u64> = worlds.iter().map(|world| world.frame).collect();
    assert!(frames.len() > 3, "nothing went on meanwhile: {frames:?}");
    for world in worlds {
        let model = &histories[&world.frame];
        assert_eq!(world.state_hash, model.state_hash());
        assert!(world.homes == model.homes(), "the world after frame {} is another one", world.frame);
    }
}

// ---- Export, import, copy --------------------------------------------------------------------------------------------

#[test]
fn an_exported_world_is_imported_and_exported_again_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let url = |name: &str| format!("local:{}", folder.path().join(name).display());
    let mut scene = Scene::new(Model::new(21, 40, 4, 900), Database::open(&url("first")).unwrap(), |_| {});
    for _ in 0..20 {
        scene.tick_and_flush(30);
    }
    let first = scene.export("first.vsx");
    assert_eq!((first.frame, first.state_hash), (20, scene.model.state_hash()));
    assert_eq!(first.entities, scene.model.entities.len() as u64);
    let bytes = std::fs::read(scene.path("first.vsx")).unwrap();
    assert_eq!(first.file_bytes, bytes.len() as u64);
    let options = ImportOptions { component_hash: Some(hash), ..ImportOptions::default() };
    for target in ["mem:".to_string(), url("second")] {
        let database = Database::open(&target).unwrap();
        let imported = import_file(&database, &scene.path("first.vsx"), options, &mut silent()).unwrap();
        assert_eq!(imported, first);
        assert_eq!(checked(&database).problems, []);
        let mut again = Vec::new();
        assert_eq!(export_to(&database, REGION, Some(hash), &mut again, &mut silent()).unwrap(), first);
        assert!(again == bytes, "the export of {target} differs");
        // And a shard runs on it, behind a journal of its own.
        let model = scene.model.clone();
        let mut second = Scene::new(model, database, |_| {});
        second.tick_and_flush(10);
        assert_eq!(checked(&second.database).problems, []);
    }
    let third = Database::open("mem:").unwrap();
    assert_eq!(copy(&scene.database, &third, REGION, options, &mut silent()).unwrap().0, 20);
    let mut again = Vec::new();
    export_to(&third, REGION, Some(hash), &mut again, &mut silent()).unwrap();
    assert!(again == bytes, "the export of the copy differs");
}

/// The journal of the world's former life is refused in front of its import: its frames may use ids that were reserved later.
#[test]
fn the_journal_of_the_exported_world_is_refused_in_front_of_the_imported_one() {
    let mut scene = Scene::in_memory(Model::new(22, 2, 1, 50));
    scene.export("born.vsx");
    scene.tick_and_flush(2);
    scene.export("later.vsx");
    let Scene { storage, folder, .. } = scene;
    drop(storage);
    for name in ["born.vsx", "later.vsx"] {
        let database = Database::open("mem:").unwrap();
        let path = folder.path().join(name);
        import_file(&database, &path, ImportOptions::default(), &mut silent()).unwrap();
        let config = Config::new("mem:", folder.path().join("journal"));
        let error = Storage::open_on(database, config, &real_disk(), Arc::new(|_| {})).unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{name}: {error}");
    }
}

#[test]
fn every_changed_byte_and_every_cut_of_an_export_is_found_before_the_first_write() {
    let scene = Scene::in_memory(Model::new(23, 3, 2, 30));
    scene.export("whole.vsx");
    let bytes = std::fs::read(scene.path("whole.vsx")).unwrap();
    let path = scene.path("bad.vsx");
    let target = Database::open("mem:").unwrap();
    let refuse = |bad: &[u8], what: &str| {
        std::fs::write(&path, bad).unwrap();
        let error = import_file(&target, &path, ImportOptions::default(), &mut silent()).unwrap_err();
        assert!(matches!(error, ToolError::BadExport { .. }), "{what}: {error}");
        assert!(error.to_string().contains("bad.vsx"), "{error}");
        error.to_string()
    };
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        refuse(&bad, &format!("byte {at}"));
        refuse(&bytes[..at], &format!("cut at {at}"));
    }
    let mut newer = bytes.clone();
    newer[7] = b'2';
    assert!(refuse(&newer, "newer").ends_with("it has format version 2, this build knows 1"));
    refuse(&[&bytes[..], &[0]].concat(), "more");
    assert_eq!(all_pairs(&target), BTreeMap::new());
    std::fs::write(&path, &bytes).unwrap();
    import_file(&target, &path, ImportOptions::default(), &mut silent()).unwrap();
}

#[test]
fn a_world_with_another_state_hash_is_neither_exported_nor_imported() {
    let scene = Scene::in_memory(Model::new(24, 3, 2, 30));
    scene.export("whole.vsx");
    let other: ComponentHash = |id, tag, record| hash(id, tag, record) ^ 1;
    let target = Database::open("mem:").unwrap();
    let options = ImportOptions { component_hash: Some(other), ..ImportOptions::default() };
    let error = import_file(&target, &scene.path("whole.vsx"), options, &mut silent()).unwrap_err();
    assert!(error.to_string().contains("the state hash is"), "{error}");
    assert_eq!(all_pairs(&target), BTreeMap::new());
    let path = scene.path("other.vsx");
    let error = export_file(&scene.database, REGION, Some(other), &path, &mut silent()).unwrap_err();
    assert!(matches!(&error, ToolError::NotWhole { place, .. } if place == "the world"), "{error}");
    assert!(!path.exists());
    let error = export_file(&scene.database, REGION, None, &scene.path("whole.vsx"), &mut silent()).unwrap_err();
    assert!(matches!(error, ToolError::File { action: "write the export", .. }), "{error}");
}

#[test]
fn an_import_goes_into_an_empty_store_only_and_one_that_is_cut_short_leaves_no_world() {
    let scene = Scene::in_memory(Model::new(25, 40, 8, 2_000));
    let whole = scene.export("whole.vsx");
    let path = scene.path("whole.vsx");
    let import = |database: &Database, clear_leftovers| {
        let options = ImportOptions { clear_leftovers, ..ImportOptions::default() };
        import_file(database, &path, options, &mut silent())
    };
    let target = Database::open("mem:").unwrap();
    // That the store does not know what became of a commit changes nothing.
    target.fail_next_commits([Fault::UnknownButCommitted, Fault::UnknownAndLost, Fault::UnknownButCommitted]);
    let mut writes = 0;
    let error = import_file(&target, &path, ImportOptions::default(), &mut |progress| {
        if progress.stage == "writing" {
            writes += 1;
            if writes + 1 == whole.chunks + whole.alone {
                // Somebody takes the claim away.
                clear(&target, &REGION.lease());
            }
        }
    })
    .unwrap_err();
    assert!(matches!(error, ToolError::Disturbed(_)), "{error}");
    assert!(!all_pairs(&target).is_empty());
    assert!(matches!(read_world(&target, REGION, None, &mut silent()), Err(ToolError::NotWhole { .. })));
    let error = import(&target, false).unwrap_err();
    assert!(matches!(&error, ToolError::NotEmpty { has_world: false, key } if key.contains("c/")), "{error}");
    assert_eq!(import(&target, true).unwrap(), whole);
    assert_eq!(checked(&target).problems, []);
    let before = all_pairs(&target);
    for clear_leftovers in [false, true] {
        let error = import(&target, clear_leftovers).unwrap_err();
        assert!(matches!(error, ToolError::NotEmpty { has_world: true, .. }), "{error}");
    }
    assert_eq!(all_pairs(&target), before);
    // Another region's key is in the way, too, and is not cleared.
    let target = Database::open("mem:").unwrap();
    set(&target, &Region(9).own(), b"other");
    assert!(matches!(import(&target, true).unwrap_err(), ToolError::NotEmpty { has_world: false, .. }));
    assert_eq!(all_pairs(&target).len(), 1);
}

// ---- Check and stats -------------------------------------------------------------------------------------------------

fn list_of(ids: &[u64]) -> Vec<u8> {
    let mut writer = EntitiesWriter::new();
    ids.iter().for_each(|id| writer.push(EntityId(*id), [(Tag(7), &[1u8, 2][..])].into_iter()));
    writer.finish()
}

/// Every kind of damage is found, named with its key, and nothing else is.
#[test]
fn every_kind_of_damage_is_reported_with_its_place() {
    let chunk = ChunkKey { x: 100, z: -100 };
    let key = REGION.chunk(chunk);
    let own = |change: fn(&mut OwnRecord)| {
        move |database: &Database| {
            let mut own = database.run(|t| crate::register::read_own(t, REGION)).unwrap().unwrap();
            change(&mut own);
            set(database, &REGION.own(), &own.encode());
        }
    };
    let home = |list: Vec<u8>, frame: u64| {
        let key = key.clone();
        move |database: &Database| set(database, &key, &Encoded::new(&list, frame).whole())
    };
    type Damage<'d> = Box<dyn Fn(&Database) + 'd>;
    let long: Vec<u8> = {
        let mut model = Model { random: 77, ..Model::default() };
        let mut writer = EntitiesWriter::new();
        let record = model.record(70_000);
        writer.push(EntityId(1_030), [(Tag(7), &record[..])].into_iter());
        writer.finish()
    };
    let entity_key = REGION.entity(EntityId(1_025));
    let last_change = |database: &Database| {
        all_pairs(database).keys().rfind(|key| key.starts_with(&REGION.changes().0)).unwrap().clone()
    };
    let no_hash = "the state hash is";
    let cases: Vec<(&str, Damage<'_>, Vec<&str>)> = vec![
        ("stray", Box::new(|d| set(d, b"\x01zz", b"")), vec!["key \\x01zz: it is no key of region 0"]),
        ("other region", Box::new(|d| set(d, &Region(3).own(), b"")), vec!["it is no key of region 0"]),
        ("odd home key", Box::new(|d| set(d, &[&key[..], b"!"].concat(), b"")), vec!["it is no key of region 0"]),
        ("own gone", Box::new(|d| clear(d, &REGION.own())), vec!["own/\\x00\\x00\\x00\\x00: there is none"]),
        ("own newer", Box::new(|d| set(d, &REGION.own(), &[9, 9])), vec!["own record has version 9"]),
        ("lsn ahead", Box::new(own(|own| own.last_lsn = 99)), vec!["its journal record 99 is ahead of its frame"]),
        ("hash", Box::new(own(|own| own.state_hash += 1)), vec![no_hash, "it ends with frame 30"]),
        (
            "home newer",
            Box::new(|d| set(d, &entity_key, &[9, 9])),
            vec!["(entity 1025): key", "home record has version 9", no_hash],
        ),
        (
            "list newer",
            Box::new(home(vec![9, 0], 1)),
            vec!["(chunk 100,-100): its entity list: entity list has version 9"],
        ),
        (
            "hash of a home",
            Box::new(|d| {
                let mut bytes = Encoded::new(&list_of(&[1_030]), 1).whole();
                *bytes.last_mut().unwrap() ^= 1;
                set(d, &key, &bytes);
            }),
            vec!["its list does not match its hash"],
        ),
        (
            "part gone",
            Box::new(|d| clear(d, &part(&REGION.chunk(ChunkKey { x: -10, z: -5 }), 1, 1))),
            vec!["(chunk -10,-5): key", "parts of its generation 1 are missing", no_hash],
        ),
        ("too long", Box::new(home(long, 1)), vec!["a chunk may have 65536", no_hash, "entity 1030: it is in"]),
        ("from the future", Box::new(home(list_of(&[1 << 20]), 31)), vec!["it was written by frame 31", no_hash]),
        ("id", Box::new(home(list_of(&[1 << 40]), 1)), vec!["entity 1099511627776 is not below", no_hash]),
        (
            "twice",
            Box::new(home(list_of(&[1_024, 1_025]), 1)),
            vec![no_hash, "entity 1024: it is in", "entity 1025: it is in"],
        ),
        ("empty", Box::new(home(list_of(&[]), 1)), vec!["it holds no entity"]),
        (
            "not alone",
            Box::new(|d| set(d, &entity_key, &Encoded::new(&list_of(&[1 << 20]), 1).whole())),
            vec!["it must hold entity 1025 alone, but holds [1048576]", no_hash],
        ),
        (
            "lease",
            Box::new(|d| {
                let lease = LeaseRecord { epoch: 7, beat: 0, ttl_ms: 0, holder: String::new() };
                set(d, &REGION.lease(), &lease.encode());
            }),
            vec!["key \\x01ls/\\x00\\x00\\x00\\x00: it is of epoch 7"],
        ),
        ("lease newer", Box::new(|d| set(d, &REGION.lease(), &[9])), vec!["lease record has version 9"]),
        ("log cut", Box::new(|d| clear(d, &last_change(d))), vec!["it ends with frame 29, the store is at frame 30"]),
        (
            "log hole",
            Box::new(|d| {
                let all = all_pairs(d);
                let keys: Vec<_> = all.keys().filter(|key| key.starts_with(&REGION.changes().0)).collect();
                clear(d, keys[10]);
            }),
            vec!["it begins at frame 12, the one before ends at 10"],
        ),
        ("log newer", Box::new(|d| set(d, &last_change(d), &[9])), vec!["change record has version 9"]),
        (
            "log backwards",
            Box::new(|d| {
                let entry = ChangeRecord {
                    first_frame: 30,
                    last_frame: 29,
                    state_hash: 0,
                    chunks: Vec::new(),
                    entities: Vec::new(),
                    complete: true,
                };
                set(d, &last_change(d), &entry.encode());
            }),
            vec!["it is of frames 30 to 29", "it ends with frame 29"],
        ),
    ];
    let mut scene = Scene::in_memory(Model::new(31, 12, 6, 4_000));
    for _ in 0..30 {
        scene.tick_and_flush(1);
    }
    // Entities 1,024 and 1,025 are still where they were.
    assert_eq!(scene.model.entities[&1_024].0, Home::Chunk(ChunkKey { x: -10, z: -5 }));
    assert_eq!(scene.model.entities[&1_025].0, Home::Alone);
    let found = checked(&scene.database);
    assert_eq!(found.problems, []);
    assert_eq!((found.frame, found.computed_hash), (30, Some(scene.model.state_hash())));
    assert_eq!((found.entities, found.changes), (scene.model.entities.len() as u64, 30));
    let whole = all_pairs(&scene.database);
    for (what, damage, expected) in cases {
        let database = Database::open("mem:").unwrap();
        whole.iter().for_each(|(key, value)| set(&database, key, value));
        damage(&database);
        let problems = checked(&database).problems;
        let lines: Vec<String> =
            problems.iter().map(|problem| format!("{}: {}", problem.place, problem.detail)).collect();
        for text in &expected {
            assert!(lines.iter().any(|line| line.contains(text)), "{what}: no `{text}` in {lines:#?}");
        }
        let unexpected: Vec<_> = lines.iter().filter(|line| !expected.iter().any(|text| line.contains(text))).collect();
        assert!(unexpected.len() <= usize::from(what != "stray"), "{what}: {unexpected:#?}");
    }
}

#[test]
fn components_are_judged_and_leftover_parts_are_no_problem() {
    let scene = Scene::in_memory(Model::new(32, 2, 1, 30));
    set(&scene.database, &part(&REGION.entity(EntityId(1_025)), 99, 0), b"left by a flush");
    set(&scene.database, &part(&REGION.entity(EntityId(5)), 99, 0), b"left by a flush");
    let mut judge = |id: EntityId, _: Tag, _: &[u8]| if id.0 == 1_026 { Err("it is odd".into()) } else { Ok(()) };
    let options = CheckOptions { judge: Some(&mut judge), ..CheckOptions::default() };
    let found = check(&scene.database, REGION, options, &mut silent()).unwrap();
    assert_eq!((found.unreferenced_parts, found.computed_hash), (2, None));
    assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
    assert!(found.problems[0].place.ends_with("(chunk -9,-5)") && found.problems[0].detail == "it is odd");
    let nothing = Database::open("mem:").unwrap();
    let error = check(&nothing, REGION, CheckOptions::default(), &mut silent()).unwrap_err();
    assert!(matches!(error, ToolError::Store(Error::NoWorld)), "{error}");
}

#[test]
fn the_journal_in_front_is_checked_too() {
    let mut scene = Scene::in_memory(Model::new(33, 2, 1, 30));
    scene.tick_and_flush(1);
    scene.tick(1);
    let directory = scene.path("journal");
    let Scene { database, storage, durable, folder, .. } = scene;
    let told = durable.0.lock().unwrap();
    drop(durable.1.wait_while(told, |durable| *durable < 2).unwrap());
    drop(storage);
    let look = |directory: &Path| {
        let options = CheckOptions { journal_dir: Some(directory), ..CheckOptions::default() };
        check(&database, REGION, options, &mut silent()).unwrap()
    };
    let found = look(&directory);
    assert_eq!(found.problems, []);
    assert_eq!(found.journal, Some(JournalReport { records: 2, behind_store: 1, torn: false }));
    // Another journal.
    let other = folder.path().join("other");
    LockedDirectory::open(&real_disk(), &other).unwrap().identity().unwrap();
    let found = look(&other);
    assert!(found.problems[0].detail.starts_with("the store's last frames may be in another one: "));
    let segment = crate::journal::segments::segment_path(&directory, 1);
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let found = look(&directory);
    assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
    assert!(found.problems[0].detail.contains("is corrupt"), "{:?}", found.problems);
    assert_eq!(look(&folder.path().join("none")).problems[0].detail, "there is no such directory");
}

#[test]
fn statistics_count_every_key_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("local:{}", folder.path().join("store").display());
    let mut scene = Scene::new(Model::new(34, 10, 5, 2_500), Database::open(&url).unwrap(), |_| {});
    scene.tick_and_flush(3);
    set(&scene.database, &part(&REGION.entity(EntityId(5)), 99, 0), b"left by a flush");
    let counted = stats(&scene.database, &url, REGION, &mut silent()).unwrap();
    let pairs = all_pairs(&scene.database);
    let total = counted.total();
    assert_eq!(total.keys, pairs.len() as u64);
    assert_eq!(total.key_bytes, pairs.keys().map(|key| key.len() as u64).sum::<u64>());
    assert_eq!(total.value_bytes, pairs.values().map(|value| value.len() as u64).sum::<u64>());
    assert_eq!((counted.own.keys, counted.changes.keys, counted.unreferenced_parts.keys), (1, 1, 1));
    assert_eq!((counted.lease.keys, counted.strays, counted.unreadable_homes, counted.version_1_homes), (0, 0, 0, 0));
    let homes = scene.model.homes();
    let is_chunk = |home: &HomeId| matches!(home, HomeId::Chunk(_));
    assert_eq!(counted.chunk_records.keys, homes.iter().filter(|(home, _)| is_chunk(home)).count() as u64);
    assert_eq!(counted.entity_records.keys, homes.iter().filter(|(home, _)| !is_chunk(home)).count() as u64);
    assert!(counted.chunk_parts.keys >= 2 * counted.chunk_records.keys - 4, "{counted:?}");
    assert_eq!(counted.entities(), scene.model.entities.len() as u64);
    assert_eq!(counted.list_bytes, homes.iter().map(|(_, list)| list.len() as u64).sum::<u64>());
    let largest = homes.iter().filter(|(home, _)| is_chunk(home)).map(|(_, list)| list.len() as u64).max();
    assert_eq!(counted.largest_chunk.map(|largest| largest.bytes), largest);
    let file = std::fs::metadata(folder.path().join("store/store.redb")).unwrap().len();
    assert_eq!((counted.file_bytes, counted.frame), (Some(file), Some(1)));
    let per_entity = counted.bytes_per_entity();
    assert!((2_500.0..3_000.0).contains(&per_entity), "{per_entity}");
}

#[test]
fn tools_never_make_a_store_and_say_who_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("local:{}", folder.path().join("store").display());
    let error = open_existing(&url).unwrap_err();
    assert!(matches!(error, ToolError::NoStore(_)), "{error}");
    assert!(!folder.path().join("store").exists());
    let _held = Database::open(&url).unwrap();
    let error = open_existing(&url).unwrap_err();
    assert!(error.to_string().contains("curl -X POST http://ADDRESS/api/export"), "{error}");
    let target = Database::open("mem:").unwrap();
    assert!(matches!(repair(&url, &target, REGION, hash, &mut silent()), Err(ToolError::InUse(_))));
}
