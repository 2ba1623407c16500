//! What is about files, damage and handles. What every store must do is in `proof::conformance`.

use super::*;
use std::fs;
use tempfile::TempDir;

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

#[test]
fn an_unknown_url_is_told_what_is_allowed() {
    for url in ["", "foundation:x", "fdb:", "local", "local:", "unix:", "/some/path"] {
        let error = Database::open(url).unwrap_err().to_string();
        assert!(error.contains(ALLOWED), "{url}: {error}");
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
