use super::*;
use std::io::ErrorKind;
use std::sync::Arc;
use tempfile::TempDir;

/// A directory on each kind of disk.
fn check(test: impl Fn(&Arc<dyn Disk>, &Path)) {
    let directory = TempDir::new().unwrap();
    let real: Arc<dyn Disk> = Arc::new(RealDisk);
    test(&real, directory.path());
    let simulated: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
    simulated.create_directory(Path::new("/disk")).unwrap();
    test(&simulated, Path::new("/disk"));
}

/// A simulated disk with a settled file `a` in `/`.
fn with_file(content: &[u8]) -> (SimulatedDisk, Box<dyn DiskFile>) {
    let disk = SimulatedDisk::new();
    disk.create_directory(Path::new("/")).unwrap();
    let file = disk.open(Path::new("/a"), OpenMode::CreateNew).unwrap();
    file.write_all_at(content, 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_directory(Path::new("/")).unwrap();
    (disk, file)
}

fn names(disk: &SimulatedDisk) -> String {
    let names: Vec<_> = disk.files().iter().map(|(path, _)| path.to_str().unwrap()[1..].to_owned()).collect();
    names.join(" ")
}

/// All outcomes of `read` over many random disks.
fn outcomes<T: Ord>(disk: &SimulatedDisk, read: impl Fn(&SimulatedDisk) -> T) -> std::collections::BTreeSet<T> {
    (0..2000).map(|seed| read(&disk.after_crash(CrashChoice::Random(seed)))).collect()
}

#[test]
fn files_do_the_same_on_both_disks() {
    check(|disk, directory| {
        let path = directory.join("a");
        let kind = |result: io::Result<Box<dyn DiskFile>>| result.unwrap_err().kind();
        assert_eq!(kind(disk.open(&path, OpenMode::Read)), ErrorKind::NotFound);
        assert_eq!(kind(disk.open(&path, OpenMode::Existing)), ErrorKind::NotFound);
        assert_eq!(kind(disk.open(&directory.join("none/a"), OpenMode::CreateNew)), ErrorKind::NotFound);
        let file = disk.open(&path, OpenMode::CreateNew).unwrap();
        assert_eq!(kind(disk.open(&path, OpenMode::CreateNew)), ErrorKind::AlreadyExists);
        assert!(file.is_empty().unwrap());
        file.write_all_at(b"abc", 2).unwrap();
        file.preallocate(2).unwrap();
        assert_eq!(disk.read(&path).unwrap(), b"\0\0abc");
        file.preallocate(8).unwrap();
        file.set_len(7).unwrap();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        let mut bytes = [9; 4];
        let again = disk.open(&path, OpenMode::Read).unwrap();
        again.read_exact_at(&mut bytes, 3).unwrap();
        assert_eq!(&bytes, b"bc\0\0");
        assert_eq!(again.read_exact_at(&mut bytes, 4).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert!(again.write_all_at(b"x", 0).is_err());
        assert_eq!(disk.open(&path, OpenMode::OpenOrCreate).unwrap().len().unwrap(), 7);

        let other = directory.join("b");
        disk.open(&other, OpenMode::OpenOrCreate).unwrap().write_all_at(b"b", 0).unwrap();
        assert_ne!(disk.identity(&path).unwrap(), disk.identity(&other).unwrap());
        disk.rename(&path, &other).unwrap();
        disk.sync_directory(directory).unwrap();
        assert_eq!(disk.list(directory).unwrap(), std::slice::from_ref(&other));
        assert_eq!(disk.identity(&other).unwrap(), file.identity().unwrap());
        assert!(!disk.exists(&path).unwrap() && disk.exists(&other).unwrap());
        disk.remove(&other).unwrap();
        assert_eq!(disk.remove(&other).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(disk.read(&other).unwrap_err().kind(), ErrorKind::NotFound);
        // Open files live on without a name.
        assert_eq!(file.len().unwrap(), 7);
        assert!(disk.free_bytes(directory).unwrap() > 0);
    });
}

#[test]
fn a_lock_has_one_holder_and_goes_with_it() {
    check(|disk, directory| {
        let open = || disk.open(&directory.join("a"), OpenMode::OpenOrCreate).unwrap();
        let [one, two] = [open(), open()];
        assert!(one.try_lock().unwrap());
        assert!(!two.try_lock().unwrap());
        one.unlock().unwrap();
        assert!(two.try_lock().unwrap());
        assert!(!one.try_lock().unwrap());
        drop(two);
        assert!(one.try_lock().unwrap());
    });
}

#[test]
fn a_seized_directory_is_no_more_the_old_holders() {
    check(|disk, directory| {
        let path = directory.join("journal");
        let first = LockedDirectory::open(disk, &path).unwrap();
        assert!(matches!(LockedDirectory::open(disk, &path), Err(crate::Error::InUse(_))));
        let identity = first.identity().unwrap();
        first.check_held().unwrap();
        let second = LockedDirectory::seize(disk, &path).unwrap();
        assert!(!first.still_held().unwrap());
        assert!(matches!(first.check_held(), Err(crate::Error::Seized(found)) if found == path));
        second.check_held().unwrap();
        assert_eq!(second.identity().unwrap(), identity);
        assert!(matches!(LockedDirectory::open(disk, &path), Err(crate::Error::InUse(_))));
        drop(first);
        assert!(matches!(LockedDirectory::open(disk, &path), Err(crate::Error::InUse(_))));
        let third = LockedDirectory::seize(disk, &path).unwrap();
        assert!(!second.still_held().unwrap());
        drop((second, third));
        LockedDirectory::open(disk, &path).unwrap().check_held().unwrap();
        disk.remove(&path.join("lock")).unwrap();
    });
}

#[test]
fn redb_lives_on_both_disks() {
    check(|disk, directory| {
        const TABLE: redb::TableDefinition<u64, u64> = redb::TableDefinition::new("t");
        let open = || {
            let file = disk.open(&directory.join("db"), OpenMode::OpenOrCreate).unwrap();
            redb::Builder::new().create_with_backend(RedbBackend::new(file))
        };
        let database = open().unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(TABLE).unwrap().insert(1, 2).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let transaction = redb::ReadableDatabase::begin_read(&open().unwrap()).unwrap();
        assert_eq!(transaction.open_table(TABLE).unwrap().get(1).unwrap().unwrap().value(), 2);
    });
}

#[test]
fn what_was_not_synced_may_be_lost() {
    let (disk, file) = with_file(b"old");
    file.write_all_at(b"new", 0).unwrap();
    let read = |disk: &SimulatedDisk| disk.read(Path::new("/a")).unwrap();
    assert_eq!(read(&disk), b"new");
    assert_eq!(read(&disk.after_crash(CrashChoice::NoneKept)), b"old");
    assert_eq!(read(&disk.after_crash(CrashChoice::AllKept)), b"new");
    let found: Vec<_> = outcomes(&disk, read).into_iter().collect();
    assert_eq!(found, [b"ned", b"new", b"nld", b"old"]);
    let garbage: std::collections::BTreeSet<_> =
        (0..2000).map(|seed| read(&disk.after_crash(CrashChoice::Garbage(seed)))).collect();
    assert!(garbage.len() > 100 && garbage.iter().all(|content| content.len() == 3));
    file.sync_data().unwrap();
    assert_eq!(outcomes(&disk, read).into_iter().collect::<Vec<_>>(), [b"new"]);
}

#[test]
fn a_torn_write_harms_nothing_around_it_and_comes_in_sectors() {
    let (disk, file) = with_file(&[1; 2000]);
    file.write_all_at(&[2; 1500], 100).unwrap();
    let mut mixed = 0;
    for content in outcomes(&disk, |disk| disk.read(Path::new("/a")).unwrap()) {
        assert_eq!(content.len(), 2000);
        assert!(content[..100].iter().chain(&content[1600..]).all(|byte| *byte == 1));
        let sectors = content[100..1600].chunk_by(|one, two| one == two);
        mixed += u32::from(sectors.count() > 1);
    }
    assert!(mixed > 10);
}

#[test]
fn entries_survive_only_when_their_directory_was_synced() {
    let (disk, file) = with_file(b"one");
    let new = disk.open(Path::new("/b"), OpenMode::CreateNew).unwrap();
    new.write_all_at(b"two", 0).unwrap();
    new.sync_all().unwrap();
    disk.rename(Path::new("/a"), Path::new("/c")).unwrap();
    assert_eq!(names(&disk), "b c");
    assert_eq!(names(&disk.after_crash(CrashChoice::NoneKept)), "a");
    assert_eq!(names(&disk.after_crash(CrashChoice::AllKept)), "b c");
    let found: Vec<_> = outcomes(&disk, names).into_iter().collect();
    assert_eq!(found, ["a", "a b", "b c", "c"]);
    disk.sync_directory(Path::new("/")).unwrap();
    assert_eq!(outcomes(&disk, names).len(), 1);
    disk.remove(Path::new("/c")).unwrap();
    assert_eq!(outcomes(&disk, names).into_iter().collect::<Vec<_>>(), ["b", "b c"]);
    assert_eq!(file.len().unwrap(), 3);
}

#[test]
fn a_sync_that_failed_is_not_made_good_by_the_next() {
    let (disk, file) = with_file(b"old");
    file.write_all_at(b"n", 0).unwrap();
    disk.fail_next_sync();
    file.sync_data().unwrap_err();
    file.write_all_at(b"w", 2).unwrap();
    file.sync_data().unwrap();
    let read = |disk: &SimulatedDisk| disk.read(Path::new("/a")).unwrap();
    assert_eq!(read(&disk), b"nlw");
    assert_eq!(read(&disk.after_crash(CrashChoice::NoneKept)), b"olw");
    assert_eq!(read(&disk.after_crash(CrashChoice::AllKept)), b"nlw");
}

#[test]
fn after_the_crash_nothing_works_and_a_new_start_does() {
    let (disk, file) = with_file(b"old");
    assert_eq!(disk.operation_count(), 4);
    disk.crash_at(6);
    file.write_all_at(b"one", 0).unwrap();
    assert!(!disk.is_off());
    file.write_all_at(b"two", 0).unwrap_err();
    assert!(disk.is_off());
    file.sync_data().unwrap_err();
    file.len().unwrap_err();
    disk.read(Path::new("/a")).unwrap_err();
    disk.open(Path::new("/a"), OpenMode::Read).unwrap_err();
    let after = disk.after_crash(CrashChoice::AllKept);
    assert_eq!((after.read(Path::new("/a")).unwrap(), after.operation_count()), (b"two".to_vec(), 0));
    assert_eq!(disk.after_crash(CrashChoice::NoneKept).read(Path::new("/a")).unwrap(), b"old");
    // A sync in which the power goes off has settled nothing for certain.
    let (disk, file) = with_file(b"old");
    file.write_all_at(b"new", 0).unwrap();
    disk.crash_at(disk.operation_count() + 1);
    file.sync_data().unwrap_err();
    assert_eq!(disk.after_crash(CrashChoice::NoneKept).read(Path::new("/a")).unwrap(), b"old");
}

#[test]
fn a_full_disk_takes_what_fits() {
    let (disk, file) = with_file(b"old");
    disk.fill(2);
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 2);
    assert_eq!(file.write_all_at(b"longer", 0).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.read(Path::new("/a")).unwrap(), b"longe");
    assert_eq!(file.preallocate(6).unwrap_err().kind(), ErrorKind::StorageFull);
    file.write_all_at(b"short", 0).unwrap();
    disk.set_free_bytes(77);
    assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 77);
}

#[test]
fn rot_changes_what_is_on_the_disk() {
    let (disk, _) = with_file(&[1; 1030]);
    disk.flip_byte(Path::new("/a"), 1029).unwrap();
    disk.zero_sector(Path::new("/a"), 600).unwrap();
    let content = disk.after_crash(CrashChoice::NoneKept).read(Path::new("/a")).unwrap();
    assert!(content[..512].iter().all(|byte| *byte == 1) && content[512..1024].iter().all(|byte| *byte == 0));
    assert_eq!(content[1024..], [1, 1, 1, 1, 1, 0xfe]);
    assert_eq!(disk.flip_byte(Path::new("/b"), 0).unwrap_err().kind(), ErrorKind::NotFound);
}
