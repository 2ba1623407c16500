//! Salvage from damaged stores.

use super::*;

/// A `local:` store that was closed, and what it holds.
struct Closed {
    folder: TempDir,
    model: Model,
    own: OwnRecord,
}

impl Closed {
    fn new(seed: u64, model: impl FnOnce(Model) -> Model) -> Closed {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("local:{}", folder.path().join("store").display());
        let scene = Scene::new(model(Model::new(seed, 30, 4, 600)), Database::open(&url).unwrap(), |_| {});
        let mut scene = scene;
        for _ in 0..4 {
            scene.tick_and_flush(20);
        }
        let own = scene.database.run(|t| crate::register::read_own(t, REGION)).unwrap().unwrap();
        let Scene { storage, database, model, .. } = scene;
        storage.close().unwrap();
        drop(database);
        Closed { folder, model, own }
    }

    fn url(&self) -> String {
        format!("local:{}", self.folder.path().join("store").display())
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("store/store.redb")
    }

    /// Changes the file; only the copy that a tool opens is then used.
    fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.file()).unwrap();
        change(&mut bytes);
        std::fs::write(self.file(), bytes).unwrap();
    }

    fn repair(&self) -> (Database, Result<RepairReport, ToolError>) {
        let before = std::fs::read(self.file()).unwrap();
        let target = Database::open("mem:").unwrap();
        let repaired = repair(&self.url(), &target, REGION, hash, &mut silent());
        assert!(std::fs::read(self.file()).unwrap() == before, "the damaged store was written to");
        (target, repaired)
    }
}

fn places_of(needle: &[u8], bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len().saturating_sub(needle.len())).filter(|at| bytes[*at..].starts_with(needle)).collect()
}

#[test]
fn a_whole_store_is_taken_over_as_it_is() {
    let closed = Closed::new(41, |model| model);
    let (target, repaired) = closed.repair();
    let repaired = repaired.unwrap();
    assert!(repaired.is_whole(), "{repaired:?}");
    assert_eq!((repaired.frame, repaired.entities), (4, closed.model.entities.len() as u64));
    let own = target.run(|t| crate::register::read_own(t, REGION)).unwrap().unwrap();
    let left = OwnRecord { journal: 0, journal_place: String::new(), last_commit_id: own.last_commit_id, ..closed.own };
    assert_eq!(own, left, "the journal in front must fit still");
    let world = read_world(&target, REGION, Some(hash), &mut silent()).unwrap();
    assert!(world.homes == closed.model.homes());
}

/// One value rots: exactly that home is lost, and it is named.
#[test]
fn a_rotten_value_costs_its_home_only() {
    let closed = Closed::new(42, |model| model);
    let victims: Vec<u64> = closed
        .model
        .entities
        .iter()
        .filter(|(id, (home, _))| **id > 1 && *home == Home::Alone)
        .map(|(id, _)| *id)
        .step_by(9)
        .collect();
    assert!(victims.len() > 3);
    closed.damage(|bytes| {
        for id in &victims {
            let places = places_of(&closed.model.entities[id].1[100..140], bytes);
            assert!(!places.is_empty());
            places.into_iter().for_each(|at| bytes[at] ^= 1);
        }
    });
    let (target, repaired) = closed.repair();
    let repaired = repaired.unwrap();
    assert!(repaired.refused.is_some());
    let at = |id: u64| format!("{} (entity {id})", place(&REGION.entity(EntityId(id))));
    let mut expected: Vec<String> = victims.iter().map(|id| at(*id)).collect();
    let (rotten, emptied): (Vec<_>, Vec<_>) =
        repaired.lost.iter().partition(|lost| lost.detail == "its record does not match its checksum");
    let mut lost: Vec<String> = rotten.iter().map(|lost| lost.place.clone()).collect();
    lost.sort();
    expected.sort();
    assert_eq!(lost, expected);
    // That a home was emptied can't be told from its loss: all others are such.
    let homes: Vec<String> = closed.model.homes().iter().map(|(home, _)| format!("({home})")).collect();
    for lost in emptied {
        assert!(lost.detail.ends_with("it was emptied then, or is lost"), "{lost:?}");
        assert!(!homes.iter().any(|home| lost.place.ends_with(home)), "{lost:?}");
    }
    assert!(!repaired.is_whole() && !repaired.own_rebuilt);
    let mut left = closed.model.clone();
    victims.iter().for_each(|id| drop(left.entities.remove(id)));
    assert_eq!(checked(&target).problems, []);
    let world = read_world(&target, REGION, Some(hash), &mut silent()).unwrap();
    assert_eq!((world.frame, world.ids_reserved_to), (4, closed.own.ids_reserved_to));
    assert!(world.homes == left.homes());
}

/// Whole pages of the file are gone. Whatever that hits: what comes out is whole in itself, or nothing comes out at all, and
/// what is missing is told.
#[test]
fn zeroed_pages_never_pass_for_a_whole_world() {
    let closed = Closed::new(43, |model| model);
    let whole = std::fs::read(closed.file()).unwrap();
    let (mut repaired_count, mut failed) = (0, 0);
    for page in 0..whole.len() / 4_096 {
        if whole[page * 4_096..(page + 1) * 4_096].iter().all(|byte| *byte == 0) {
            continue;
        }
        closed.damage(|bytes| {
            bytes.clone_from(&whole);
            bytes[page * 4_096..(page + 1) * 4_096].fill(0);
        });
        let (target, repaired) = closed.repair();
        match repaired {
            Ok(repaired) => {
                let world = read_world(&target, REGION, Some(hash), &mut silent()).unwrap();
                assert_eq!(checked(&target).problems, [], "page {page}");
                let is_all = world.homes == closed.model.homes();
                assert_eq!(repaired.lost.is_empty(), is_all, "page {page}: {:?}", repaired.lost);
                repaired_count += usize::from(!is_all);
            }
            Err(_) => {
                assert_eq!(all_pairs(&target), BTreeMap::new(), "page {page}");
                failed += 1;
            }
        }
    }
    assert!(repaired_count > 3, "{repaired_count} were repaired, {failed} could not be");
}

#[test]
fn a_lost_register_is_made_anew_above_all_ids() {
    let scene = Scene::in_memory(Model::new(44, 5, 2, 50));
    let database = scene.database.clone();
    let before = scene.model.state_hash();
    drop(scene);
    for damage in [None, Some([9u8, 9])] {
        match damage {
            None => clear(&database, &REGION.own()),
            Some(bytes) => set(&database, &REGION.own(), &bytes),
        }
        let salvaged = repair::repair_open(&database, &Database::open("mem:").unwrap(), REGION, hash, &mut silent());
        let repaired = salvaged.unwrap();
        assert!(repaired.own_rebuilt && !repaired.is_whole());
        assert_eq!(repaired.state_hash, before);
        assert_eq!(repaired.ids_reserved_to, 1_024 + 5 * 2 * 2 - 1 + (1 << 32));
        assert_eq!(repaired.lost.len(), 1, "{:?}", repaired.lost);
    }
    clear(&database, &REGION.entity(EntityId::WORLD));
    let target = Database::open("mem:").unwrap();
    let error = repair::repair_open(&database, &target, REGION, hash, &mut silent()).unwrap_err();
    assert!(error.to_string().contains("without it no shard can start"), "{error}");
    assert_eq!(all_pairs(&target), BTreeMap::new());
}

#[test]
fn a_doubled_entity_stays_where_it_was_written_last() {
    let mut scene = Scene::in_memory(Model::new(45, 5, 2, 50));
    scene.tick_and_flush(1);
    let database = scene.database.clone();
    let (newer, older) = (ChunkKey { x: 90, z: 1 }, ChunkKey { x: 91, z: 1 });
    set(&database, &REGION.chunk(newer), &Encoded::new(&list_of(&[1 << 19, (1 << 19) + 1]), 1).whole());
    set(&database, &REGION.chunk(older), &Encoded::new(&list_of(&[1 << 19, (1 << 19) + 2]), 0).whole());
    let target = Database::open("mem:").unwrap();
    let repaired = repair::repair_open(&database, &target, REGION, hash, &mut silent()).unwrap();
    assert_eq!(repaired.lost.len(), 1);
    assert_eq!(repaired.lost[0].detail, "it was in chunk 91,1 and in chunk 90,1, which was written later and keeps it");
    assert_eq!(checked(&target).problems, []);
    let homes: BTreeMap<_, _> = read_world(&target, REGION, None, &mut silent()).unwrap().homes.into_iter().collect();
    assert_eq!(homes[&HomeId::Chunk(newer)], list_of(&[1 << 19, (1 << 19) + 1]));
    assert_eq!(homes[&HomeId::Chunk(older)], list_of(&[(1 << 19) + 2]));
}

/// A shard can start on what was repaired, but never with the old journal.
#[test]
fn what_is_left_refuses_the_old_journal_and_runs_with_a_new_one() {
    let mut scene = Scene::in_memory(Model::new(46, 5, 2, 50));
    scene.tick_and_flush(5);
    scene.tick_and_flush(5);
    let database = scene.database.clone();
    let Scene { storage, mut model, folder, .. } = scene;
    drop(storage);
    model.entities.retain(|id, (home, _)| *id == 1 || *home != Home::Alone);
    for key in all_pairs(&database).into_keys().filter(|key| key.starts_with(&REGION.entities().0)) {
        if key != REGION.entity(EntityId::WORLD) {
            set(&database, &key, &[9]);
        }
    }
    let target = Database::open("mem:").unwrap();
    let repaired = repair::repair_open(&database, &target, REGION, hash, &mut silent()).unwrap();
    assert_eq!((repaired.state_hash, repaired.frame), (model.state_hash(), 2));
    let config = Config::new("mem:", folder.path().join("journal"));
    let error = Storage::open_on(target.clone(), config, &real_disk(), Arc::new(|_| {})).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    let mut again = Scene::new(model, target, |_| {});
    again.tick_and_flush(5);
    let world = read_world(&again.database, REGION, Some(hash), &mut silent()).unwrap();
    assert_eq!(world.frame, 3);
    assert!(world.homes == again.model.homes());
}
