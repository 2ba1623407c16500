//! Random transactions from several threads, and in every interleaving that a seed makes, on each store: every read must be
//! explained by the commits in their order, and that order by real time (strict serialisability).

use super::seed;
use anyhow::{Context, Result};
use std::path::Path;
use vsekai_storage::kv::{Database, serve};
use vsekai_storage::proof::{Subject, model};

/// 2,000 cases on each embedded store and 400 on others; short: 40 and 20.
pub fn run(short: bool) -> Result<String> {
    let (embedded, others) = if short { (40, 20) } else { (2_000, 400) };
    let seed = seed(11);
    let folder = tempfile::tempdir()?;
    let mut figures = Vec::new();
    let mut check = |name: &str, database: &Database, engine: Option<&Database>, cases: u32| {
        let prefix = format!("vsekai-model/{}/", std::process::id()).into_bytes();
        let subject = Subject { database, engine, prefix: &prefix, long: !short };
        let report = model::run(subject, cases, seed);
        println!("{name}: {report}");
        figures.push(format!("{name} {report}"));
    };
    let memory = Database::open("mem:")?;
    check("mem:", &memory, Some(&memory), embedded);
    let local = Database::open(&format!("local:{}", folder.path().join("local").display()))?;
    check("local:", &local, Some(&local), others);
    let served = Database::open(&format!("local:{}", folder.path().join("served").display()))?;
    let socket = folder.path().join("store.sock");
    let server = serve(served.clone(), &socket)?;
    let unix = Database::open(&format!("unix:{}", socket.display()))?;
    check("unix:", &unix, Some(&served), others);
    drop(unix);
    server.stop();
    let (name, fdb) = foundationdb(folder.path())?;
    check(name, &fdb, None, others);
    drop(fdb);
    vsekai_storage::kv::stop_network();
    Ok(figures.join("; "))
}

/// A real cluster where one is named, else the adaptor over the stand-in for FoundationDB's library.
fn foundationdb(folder: &Path) -> Result<(&'static str, Database)> {
    if let Ok(file) = std::env::var("VSEKAI_FDB_CLUSTER_FILE") {
        return Ok(("fdb: (cluster)", Database::open(&format!("fdb:{file}"))?));
    }
    println!("NOT TESTED: a real FoundationDB cluster (VSEKAI_FDB_CLUSTER_FILE is not set)");
    let library = vsekai_fdb_double::library_path().context("the stand-in for FoundationDB's library is not built")?;
    vsekai_fdb::use_library(&library);
    let file = folder.join("fdb.cluster");
    std::fs::write(&file, "model:id@127.0.0.1:4500\n")?;
    Ok(("fdb: (stand-in)", Database::open(&format!("fdb:{}", file.display()))?))
}
