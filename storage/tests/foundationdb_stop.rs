//! The end of a program that used `fdb:`. A process of its own: the network can't be started again.

use vsekai_storage::Error;
use vsekai_storage::kv::Database;

#[test]
fn after_the_network_is_stopped_nothing_is_begun_or_opened() {
    // Before the first use it does nothing.
    vsekai_fdb::stop_network();
    assert!(vsekai_fdb::use_library(&vsekai_fdb_double::library_path().unwrap()));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fdb.cluster");
    std::fs::write(&path, "name:id@127.0.0.1:4500").unwrap();
    let url = format!("fdb:{}", path.display());
    let database = Database::open(&url).unwrap();
    database.run(|transaction| transaction.get(b"key")).unwrap();
    vsekai_fdb::stop_network();
    vsekai_fdb::stop_network();
    for error in [database.begin().map(drop).unwrap_err(), Database::open(&url).map(drop).unwrap_err()] {
        assert!(matches!(&error, Error::Unavailable(text) if text.contains("was stopped")), "{error}");
    }
}
