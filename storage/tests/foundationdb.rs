//! `fdb:` as it is called by the rest of storage, with a stand-in for the client library (`vsekai_fdb_double`), which is
//! loaded and called as the real one is.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic where it stands")]

use std::time::{Duration, Instant};
use tempfile::TempDir;
use vsekai_storage::Error;
use vsekai_storage::kv::{Atomic, ConflictKind, Database, KEY_BYTES_MAX, RangeRead, TRANSACTION_BYTES_MAX};

/// A cluster of its own. The description asks the double for trouble.
struct Cluster(TempDir);

impl Cluster {
    fn described(description: &str) -> Self {
        assert!(vsekai_fdb::use_library(&vsekai_fdb_double::library_path().unwrap()));
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("fdb.cluster"), format!("{description}:id@127.0.0.1:4500\n")).unwrap();
        Cluster(directory)
    }

    fn url(&self) -> String {
        format!("fdb:{}/fdb.cluster", self.0.path().display())
    }

    fn open(&self) -> Database {
        Database::open(&self.url()).unwrap()
    }

    /// Below the store, with a bound of 100 ms.
    fn open_native(&self) -> Result<vsekai_fdb::Database, vsekai_fdb::Error> {
        vsekai_fdb::Database::open_with(&self.0.path().join("fdb.cluster"), Duration::from_millis(100))
    }
}

fn put(database: &Database, key: &[u8], value: &[u8]) {
    let mut transaction = database.begin().unwrap();
    transaction.set(key, value);
    transaction.commit().unwrap();
}

fn value(database: &Database, key: &[u8]) -> Option<Vec<u8>> {
    database.begin().unwrap().get(key).unwrap()
}

#[test]
fn a_commit_is_read_by_others_and_conflicts_with_them() {
    let database = Cluster::described("plain").open();
    put(&database, b"a", b"1");
    let mut reader = database.begin().unwrap();
    assert_eq!(reader.get(b"a").unwrap().unwrap(), b"1");
    assert_eq!(reader.get(b"missing").unwrap(), None);
    reader.set(b"b", "own");
    assert_eq!(reader.get(b"b").unwrap().unwrap(), b"own");
    put(&database, b"a", b"");
    assert!(matches!(reader.commit(), Err(Error::Conflict)));
    assert_eq!(value(&database, b"a").unwrap(), b"");

    let mut snapshot = database.begin().unwrap();
    snapshot.get_snapshot(b"a").unwrap();
    snapshot.set(b"b", "2");
    put(&database, b"a", b"3");
    snapshot.commit().unwrap();
    assert_eq!(value(&database, b"b").unwrap(), b"2");

    let mut ranged = database.begin().unwrap();
    ranged.add_conflict_range(ConflictKind::Read, b"a", b"b").unwrap();
    ranged.set(b"c", "");
    put(&database, b"a", b"4");
    assert!(matches!(ranged.commit(), Err(Error::Conflict)));
    assert!(!database.is_exclusive());
}

#[test]
fn a_long_range_is_read_in_pages_without_loss_or_repetition() {
    let database = Cluster::described("pages").open();
    let pairs: Vec<(Vec<u8>, Vec<u8>)> =
        (0..1_234u32).map(|number| (number.to_be_bytes().to_vec(), vec![7; number as usize % 5])).collect();
    let mut transaction = database.begin().unwrap();
    pairs.iter().for_each(|(key, value)| transaction.set(key, value.as_slice()));
    transaction.commit().unwrap();
    let mut transaction = database.begin().unwrap();
    let all = RangeRead::new(b"", b"\xff");
    assert_eq!(transaction.get_range(&all).unwrap(), pairs);
    assert_eq!(transaction.get_range(&all.limit(1_100)).unwrap(), pairs[..1_100]);
    assert_eq!(transaction.get_range(&all.limit(3)).unwrap(), pairs[..3]);
    let mut down = pairs.clone();
    down.reverse();
    assert_eq!(transaction.get_range(&all.reverse()).unwrap(), down);
    assert_eq!(transaction.get_range(&all.reverse().limit(2)).unwrap(), down[..2]);
    assert_eq!(transaction.get_range(&RangeRead::new(b"b", b"a")).unwrap(), []);
    transaction.clear_range(&pairs[10].0, &pairs[1_230].0);
    transaction.clear(&pairs[0].0);
    let left = [&pairs[1..10], &pairs[1_230..]].concat();
    assert_eq!(transaction.get_range(&all).unwrap(), left);
    transaction.commit().unwrap();
    assert_eq!(database.begin().unwrap().get_range(&all).unwrap(), left);
}

#[test]
fn versions_and_versionstamps_of_a_commit_are_told() {
    let database = Cluster::described("stamps").open();
    let mut transaction = database.begin().unwrap();
    transaction.set_versionstamped_key(b"key/..........", 4, b"value");
    transaction.set_versionstamped_value(b"stamped", b"..........tail", 0);
    assert!(matches!(transaction.get(b"stamped"), Err(Error::Unreadable)));
    let committed = transaction.commit().unwrap();
    let stamp = committed.versionstamp.unwrap();
    assert_eq!(stamp[..8], committed.version.to_be_bytes());
    assert_eq!(value(&database, &[&b"key/"[..], &stamp].concat()).unwrap(), b"value");
    assert_eq!(value(&database, b"stamped").unwrap(), [&stamp[..], b"tail"].concat());

    let mut reader = database.begin().unwrap();
    let version = reader.read_version().unwrap();
    assert!(version >= committed.version);
    let read = reader.commit().unwrap();
    assert_eq!((read.version, read.versionstamp), (version, None));
    let mut same = database.begin().unwrap();
    same.set_read_version(version).unwrap();
    assert_eq!(same.read_version().unwrap(), version);
    assert!(matches!(same.set_read_version(version), Err(Error::Config(_))));
}

#[test]
fn each_atomic_operation_is_the_one_that_the_library_calls_so() {
    let database = Cluster::described("atomics").open();
    let stored = [5, 1];
    let operand = [4, 2];
    for atomic in Atomic::ALL {
        put(&database, b"number", &stored);
        let mut transaction = database.begin().unwrap();
        transaction.atomic(atomic, b"number", &operand);
        transaction.commit().unwrap();
        assert_eq!(value(&database, b"number"), atomic.apply(Some(&stored), &operand), "{atomic:?}");
    }
}

#[test]
fn what_no_store_takes_is_refused_at_commit_in_the_same_words() {
    let database = Cluster::described("refused").open();
    let refused = |write: fn(&mut vsekai_storage::kv::Transaction)| {
        let mut transaction = database.begin().unwrap();
        write(&mut transaction);
        assert_eq!(transaction.get(b"a").unwrap(), None);
        transaction.commit().unwrap_err()
    };
    assert!(matches!(refused(|t| t.set(&[7; KEY_BYTES_MAX + 1], "")), Error::TooLarge { what: "key", .. }));
    assert!(matches!(refused(|t| t.set(b"\xffsystem", "")), Error::KeyOutside(_)));
    assert!(matches!(refused(|t| t.clear(b"\xffsystem")), Error::KeyOutside(_)));
    assert!(matches!(refused(|t| t.set_versionstamped_key(b"short", 0, b"")), Error::Config(_)));
    let large = refused(|t| (0..200u8).for_each(|number| t.set(&[7, number], vec![0; 60_000])));
    assert!(matches!(large, Error::TooLarge { what: "transaction", found: 12_000_400, limit: TRANSACTION_BYTES_MAX }));
}

#[test]
fn a_watch_fires_for_another_value_and_ends_with_an_uncommitted_transaction() {
    let database = Cluster::described("watches").open();
    let mut transaction = database.begin().unwrap();
    let watch = transaction.watch(b"key").unwrap();
    transaction.commit().unwrap();
    drop(transaction);
    assert!(!watch.wait(Duration::from_millis(30)).unwrap());
    put(&database, b"key", b"new");
    assert!(watch.wait(Duration::from_secs(10)).unwrap());
    assert!(watch.wait(Duration::ZERO).unwrap());

    let mut abandoned = database.begin().unwrap();
    let watch = abandoned.watch(b"key").unwrap();
    drop(abandoned);
    assert!(matches!(watch.wait(Duration::from_secs(10)), Err(Error::Unavailable(_))));
}

#[test]
fn each_number_of_the_library_becomes_the_error_for_its_caller() {
    let commit = |code: i32| {
        let mut transaction = Cluster::described(&format!("fails_{code}")).open().begin().unwrap();
        transaction.set(b"key", "value");
        transaction.commit().unwrap_err()
    };
    assert!(matches!(commit(1_007), Error::TooOld));
    assert!(matches!(commit(1_009), Error::FutureVersion));
    assert!(matches!(commit(1_020), Error::Conflict));
    assert!(matches!(commit(1_021), Error::CommitUnknownResult));
    // A cluster that changes its version may have committed, too.
    assert!(matches!(commit(1_039), Error::CommitUnknownResult));
    assert!(matches!(commit(1_036), Error::Unreadable));
    assert!(matches!(commit(1_037), Error::ProcessBehind));
    assert!(matches!(commit(2_004), Error::KeyOutside(_)));
    assert!(matches!(commit(2_101), Error::TooLarge { what: "transaction", .. }));
    assert!(matches!(commit(2_102), Error::TooLarge { what: "key", .. }));
    assert!(matches!(commit(2_103), Error::TooLarge { what: "value", .. }));
    let other = commit(2_000);
    assert!(matches!(&other, Error::Foundation { code: 2_000, retryable: false, .. }), "{other:?}");
    assert_eq!(other.to_string(), "FoundationDB error 2000: Invalid API call");
}

#[test]
fn what_may_be_tried_again_is_and_an_unknown_result_only_by_who_allows_it() {
    let put = |code: i32, idempotent: bool| {
        let database = Cluster::described(&format!("fails_{code}")).open();
        let mut attempts = 0;
        let body = |transaction: &mut vsekai_storage::kv::Transaction| {
            attempts += 1;
            transaction.set(b"key", "value");
            Ok(())
        };
        let outcome = if idempotent { database.run_idempotent(body) } else { database.run(body) };
        (outcome.map(|()| value(&database, b"key").unwrap()), attempts)
    };
    for code in [1_007, 1_009, 1_020, 1_037] {
        assert!(matches!(put(code, false), (Ok(value), 2) if value == b"value"), "{code}");
    }
    for code in [1_021, 1_039] {
        assert!(matches!(put(code, false), (Err(Error::CommitUnknownResult), 1)), "{code}");
        assert!(matches!(put(code, true), (Ok(value), 2) if value == b"value"), "{code}");
    }
    assert!(matches!(put(2_000, true), (Err(Error::Foundation { .. }), 1)));
}

#[test]
fn a_cluster_out_of_reach_is_told_within_the_bound_and_by_address() {
    let began = Instant::now();
    let error = Cluster::described("unreachable").open_native().unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let text = error.to_string();
    assert!(matches!(error, vsekai_fdb::Error::Unreachable { .. }), "{text}");
    for part in ["127.0.0.1:4500", "unreachable", "100 ms", "fdb.cluster"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains('\n'), "{text}");
}

#[test]
fn a_commit_is_waited_for_beyond_the_bound_of_reads() {
    let database = Cluster::described("slow").open_native().unwrap();
    let began = Instant::now();
    let mut transaction = database.begin().unwrap();
    transaction.set(b"key", b"value");
    assert!(transaction.commit().unwrap().version.is_some());
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    assert_eq!(database.begin().unwrap().get(b"key", false).unwrap().unwrap(), b"value");
}

#[test]
fn a_cancelled_transaction_refuses_until_it_is_reset() {
    let mut transaction = Cluster::described("cancelled").open_native().unwrap().begin().unwrap();
    transaction.cancel();
    assert_eq!(transaction.get(b"key", false).unwrap_err().code(), Some(1_025));
    transaction.reset();
    assert_eq!(transaction.get(b"key", false).unwrap(), None);
}

#[test]
fn a_cluster_file_that_is_none_is_told_in_one_line() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("fdb.cluster");
    let url = format!("fdb:{}", path.display());
    let error = Database::open(&url).unwrap_err().to_string();
    assert!(error.contains("fdb.cluster cannot be read"), "{error}");
    std::fs::write(&path, "nonsense").unwrap();
    let error = Database::open(&url).unwrap_err();
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("description:id@address:port")), "{error}");
}
