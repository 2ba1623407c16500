use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use tempfile::TempDir;

/// Runs `check` on an empty store of each kind.
fn on_each_store(check: impl Fn(&Database)) {
    check(&Database::open("mem:").unwrap());
    let directory = TempDir::new().unwrap();
    check(&Database::open(&local_url(&directory)).unwrap());
}

fn local_url(directory: &TempDir) -> String {
    format!("local:{}", directory.path().display())
}

fn put(database: &Database, pairs: &[(&str, &str)]) {
    let mut transaction = database.begin().unwrap();
    for (key, value) in pairs {
        transaction.set(key.as_bytes(), value.as_bytes());
    }
    transaction.commit().unwrap();
}

fn range(transaction: &mut Transaction, begin: &str, end: &str, limit: usize) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let pairs = transaction.get_range(&RangeRead::new(begin.as_bytes(), end.as_bytes()).limit(limit)).unwrap();
    pairs.into_iter().map(|(key, value)| (text(key), text(value))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

#[test]
fn a_transaction_reads_its_own_writes_over_its_snapshot() {
    on_each_store(|database| {
        put(database, &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]);
        let mut transaction = database.begin().unwrap();
        transaction.read_version().unwrap();
        put(database, &[("a", "later"), ("bb", "later")]);
        assert_eq!(transaction.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
        transaction.clear_range(b"b", b"d");
        transaction.set(b"c", "own");
        transaction.set(b"aa", "own");
        transaction.set(b"e", "own");
        transaction.clear(b"d");
        assert_eq!(transaction.get(b"b").unwrap(), None);
        assert_eq!(transaction.get(b"d").unwrap(), None);
        assert_eq!(
            range(&mut transaction, "a", "z", 99),
            pairs(&[("a", "1"), ("aa", "own"), ("c", "own"), ("e", "own")])
        );
        assert_eq!(range(&mut transaction, "a", "z", 2), pairs(&[("a", "1"), ("aa", "own")]));
        assert_eq!(range(&mut transaction, "aa", "e", 99), pairs(&[("aa", "own"), ("c", "own")]));
        assert_eq!(range(&mut transaction, "z", "a", 99), pairs(&[]));
    });
}

#[test]
fn a_changed_read_is_a_conflict_and_an_unread_one_is_not() {
    // What is read, what another transaction then does, and whether that is a conflict.
    type Step = fn(&mut Transaction);
    let read_b: Step = |t| drop(t.get(b"b").unwrap());
    let read_missing: Step = |t| drop(t.get(b"bx").unwrap());
    let read_range: Step = |t| drop(t.get_range(&RangeRead::new(b"b", b"d").limit(99)).unwrap());
    let read_first_of_range: Step = |t| drop(t.get_range(&RangeRead::new(b"b", b"z").limit(1)).unwrap());
    let read_nothing: Step = |_| {};
    let read_own_write: Step = |t| {
        t.set(b"b", "own");
        t.get(b"b").unwrap();
    };
    let set_b: Step = |t| t.set(b"b", "other");
    let set_bx: Step = |t| t.set(b"bx", "other");
    let set_d: Step = |t| t.set(b"d", "other");
    let clear_b: Step = |t| t.clear(b"b");
    let clear_all: Step = |t| t.clear_range(b"a", b"z");
    let cases = [
        (read_b, set_b, true),
        (read_b, set_bx, false),
        (read_b, clear_b, true),
        (read_b, clear_all, true),
        (read_missing, set_bx, true),
        (read_range, set_bx, true),
        (read_range, set_d, false),
        (read_range, clear_all, true),
        (read_first_of_range, set_bx, false),
        (read_first_of_range, set_b, true),
        (read_nothing, clear_all, false),
        (read_own_write, set_b, false),
    ];
    on_each_store(|database| {
        for (index, (read, change, is_conflict)) in cases.iter().enumerate() {
            put(database, &[("a", "1"), ("b", "2"), ("c", "3")]);
            let mut reader = database.begin().unwrap();
            read(&mut reader);
            reader.set(b"written", "by the reader");
            let mut other = database.begin().unwrap();
            change(&mut other);
            other.commit().unwrap();
            match reader.commit() {
                Ok(_) => assert!(!is_conflict, "case {index} was committed"),
                Err(error) => assert!(*is_conflict && matches!(error, Error::Conflict), "case {index}: {error}"),
            }
        }
    });
}

#[test]
fn run_repeats_after_a_conflict() {
    on_each_store(|database| {
        let mut attempts = 0;
        database
            .run(|transaction| {
                attempts += 1;
                let before = transaction.get(b"a")?.unwrap_or_default();
                if attempts == 1 {
                    put(database, &[("a", "x")]);
                }
                transaction.set(b"a", [before, b"y".to_vec()].concat());
                Ok(())
            })
            .unwrap();
        assert_eq!(attempts, 2);
        assert_eq!(database.begin().unwrap().get(b"a").unwrap().unwrap(), b"xy");
    });
}

#[test]
fn an_oversize_key_is_refused() {
    on_each_store(|database| {
        let mut transaction = database.begin().unwrap();
        transaction.set(&[7; KEY_BYTES_MAX + 1], "");
        assert!(matches!(transaction.commit(), Err(Error::TooLarge { what: "key", .. })));
    });
}

#[test]
fn an_unknown_url_is_told_what_is_allowed() {
    for url in ["", "fdb:x", "local", "local:", "/some/path"] {
        let error = Database::open(url).unwrap_err().to_string();
        assert!(error.contains("`local:DIR` and `mem:`"), "{url}: {error}");
    }
}

#[test]
fn a_local_store_outlives_its_handle_and_has_only_one() {
    let directory = TempDir::new().unwrap();
    let url = local_url(&directory);
    let first = Database::open(&url).unwrap();
    put(&first, &[("a", "1")]);
    let error = Database::open(&url).unwrap_err();
    assert!(matches!(error, Error::InUse(_)), "{error}");
    assert!(error.to_string().contains("already in use by another process"));
    drop(first);
    assert_eq!(Database::open(&url).unwrap().begin().unwrap().get(b"a").unwrap().unwrap(), b"1");
}

#[test]
fn a_path_that_cannot_be_a_directory_is_named() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let error = Database::open(&format!("local:{}/file/inside", directory.path().display())).unwrap_err();
    assert!(error.to_string().contains("file/inside"), "{error}");
}

#[test]
fn a_value_that_is_not_the_one_written_is_found() {
    const RAW: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("kv");
    let directory = TempDir::new().unwrap();
    let url = local_url(&directory);
    put(
        &Database::open(&url).unwrap(),
        &[("good", "value"), ("like", "value"), ("rotten", "value"), ("short", "value")],
    );
    {
        use redb::ReadableTable;
        let raw = redb::Database::open(store_file(directory.path())).unwrap();
        let transaction = raw.begin_write().unwrap();
        {
            let mut table = transaction.open_table(RAW).unwrap();
            let good = table.get(&b"good"[..]).unwrap().unwrap().value().to_vec();
            let mut rotten = table.get(&b"rotten"[..]).unwrap().unwrap().value().to_vec();
            *rotten.last_mut().unwrap() ^= 1;
            table.insert(&b"rotten"[..], &rotten[..]).unwrap();
            table.insert(&b"like"[..], &good[..]).unwrap();
            table.insert(&b"short"[..], &[1u8][..]).unwrap();
        }
        transaction.commit().unwrap();
    }
    let database = Database::open(&url).unwrap();
    let mut transaction = database.begin().unwrap();
    assert_eq!(transaction.get(b"good").unwrap().unwrap(), b"value");
    for key in ["like", "rotten", "short"] {
        let error = transaction.get(key.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains(key), "{error}");
    }
    assert!(matches!(transaction.get_range(&RangeRead::new(b"a", b"z")), Err(Error::Corrupt { .. })));
    assert_eq!(transaction.get_range(&RangeRead::new(b"a", b"h")).unwrap().len(), 1);
}

#[test]
fn a_file_of_something_else_is_refused() {
    for content in [&b"not a store, but long enough to be one"[..], b"red", &[0; 10_000]] {
        let directory = TempDir::new().unwrap();
        fs::write(store_file(directory.path()), content).unwrap();
        let error = Database::open(&local_url(&directory)).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains("store.redb"), "{error}");
    }
}

#[test]
fn a_damaged_file_is_an_error_or_reads_right_but_never_a_panic() {
    let directory = TempDir::new().unwrap();
    put(&Database::open(&local_url(&directory)).unwrap(), &[("a", "1"), ("b", "2")]);
    let good = fs::read(store_file(directory.path())).unwrap();
    let check = |bytes: &[u8]| -> Result<(), Error> {
        let directory = TempDir::new().unwrap();
        fs::write(store_file(directory.path()), bytes).unwrap();
        let database = Database::open(&local_url(&directory))?;
        let found = range_or(&mut database.begin()?)?;
        assert!(
            found.is_empty() || found == [(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"2".to_vec())],
            "{found:?}"
        );
        Ok(())
    };
    let mut refused = 0;
    for at in (0..320).step_by(11).chain((4096..good.len()).step_by(good.len() / 24 + 1)) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x5a;
        refused += u32::from(check(&bytes).is_err());
        refused += u32::from(check(&good[..at]).is_err());
    }
    assert!(refused > 10, "only {refused} were refused");
}

fn range_or(transaction: &mut Transaction) -> Result<Vec<Pair>, Error> {
    transaction.get_range(&RangeRead::new(b"", b"z"))
}

#[derive(Debug, Clone)]
enum Action {
    Set(u8, u8),
    Clear(u8),
    ClearRange(u8, u8),
    Range(u8, u8, usize),
    Commit,
    Abandon,
}

fn action() -> impl Strategy<Value = Action> {
    let key = 0..12u8;
    prop_oneof![
        4 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Action::Set(key, value)),
        1 => key.clone().prop_map(Action::Clear),
        1 => (key.clone(), key.clone()).prop_map(|(begin, end)| Action::ClearRange(begin, end)),
        3 => (key.clone(), key, 0..6usize).prop_map(|(begin, end, limit)| Action::Range(begin, end, limit)),
        1 => Just(Action::Commit),
        1 => Just(Action::Abandon),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn every_store_does_what_an_ordered_map_does(actions in prop::collection::vec(action(), 1..40)) {
        on_each_store(|database| {
            let mut committed: BTreeMap<u8, u8> = BTreeMap::new();
            let mut current = committed.clone();
            let mut transaction = database.begin().unwrap();
            for action in &actions {
                match *action {
                    Action::Set(key, value) => {
                        transaction.set(&[key], [value]);
                        current.insert(key, value);
                    }
                    Action::Clear(key) => {
                        transaction.clear(&[key]);
                        current.remove(&key);
                    }
                    Action::ClearRange(begin, end) => {
                        transaction.clear_range(&[begin], &[end]);
                        current.retain(|key, _| !(begin..end).contains(key));
                    }
                    Action::Range(begin, end, limit) => {
                        let expected: Vec<Pair> = current
                            .iter()
                            .filter(|(key, _)| (begin..end).contains(key))
                            .take(limit)
                            .map(|(key, value)| (vec![*key], vec![*value]))
                            .collect();
                        assert_eq!(transaction.get_range(&RangeRead::new(&[begin], &[end]).limit(limit)).unwrap(), expected);
                        assert_eq!(transaction.get(&[begin]).unwrap(), current.get(&begin).map(|value| vec![*value]));
                    }
                    Action::Commit => {
                        transaction.commit().unwrap();
                        committed = current.clone();
                        transaction = database.begin().unwrap();
                    }
                    Action::Abandon => {
                        current = committed.clone();
                        transaction = database.begin().unwrap();
                    }
                }
            }
        });
    }
}
