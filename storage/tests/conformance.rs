//! Every store against the same cases and the same model. A real FoundationDB cluster is tested, too, when
//! `VSEKAI_FDB_CLUSTER_FILE` names its cluster file. `VSEKAI_LONG=1` runs the long form; the proof `store-model` does, too.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic where it stands")]

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use std::any::Any;
use std::io::{self, Write};
use std::sync::Once;
use tempfile::TempDir;
use vsekai_storage::kv::{Atomic, ConflictKind, Database, RandomFaults, serve};
use vsekai_storage::proof::Subject;
use vsekai_storage::proof::conformance::{self, GROUPS};
use vsekai_storage::proof::model::{self, Action, KEYS, OPEN, Step};

/// A kind of store, and how an empty one is opened.
struct Kind {
    name: &'static str,
    /// `None` when this machine has none.
    open: fn() -> Option<Opened>,
}

/// An open store. Fields are dropped in their order.
struct Opened {
    database: Database,
    /// The embedded engine behind it.
    engine: Option<Database>,
    /// What it needs as long as it is open: a directory, a server.
    _kept: Box<dyn Any>,
}

/// Names the cluster file of a real cluster.
const CLUSTER_FILE: &str = "VSEKAI_FDB_CLUSTER_FILE";

/// All stores.
const STORES: &[Kind] = &[
    Kind { name: "mem:", open: memory },
    Kind { name: "local:", open: local },
    Kind { name: "unix:", open: served },
    Kind { name: "fdb: (double)", open: double },
    Kind { name: "fdb: (cluster)", open: cluster },
];

fn memory() -> Option<Opened> {
    let database = Database::open("mem:").unwrap();
    Some(Opened { engine: Some(database.clone()), database, _kept: Box::new(()) })
}

fn local() -> Option<Opened> {
    let directory = TempDir::new().unwrap();
    let database = Database::open(&format!("local:{}", directory.path().display())).unwrap();
    Some(Opened { engine: Some(database.clone()), database, _kept: Box::new(directory) })
}

/// A `local:` store behind a server.
fn served() -> Option<Opened> {
    let directory = TempDir::new().unwrap();
    let engine = Database::open(&format!("local:{}", directory.path().display())).unwrap();
    let socket = directory.path().join("socket");
    let server = serve(engine.clone(), &socket).unwrap();
    let database = Database::open(&format!("unix:{}", socket.display())).unwrap();
    Some(Opened { database, engine: Some(engine), _kept: Box::new((server, directory)) })
}

/// A stand-in for FoundationDB's library. A process loads one of them only: with a real cluster this one is left out.
fn double() -> Option<Opened> {
    if std::env::var_os(CLUSTER_FILE).is_some() {
        return None;
    }
    assert!(vsekai_fdb::use_library(&vsekai_fdb_double::library_path().unwrap()));
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("fdb.cluster");
    std::fs::write(&file, "conformance:id@127.0.0.1:4500\n").unwrap();
    let database = Database::open(&format!("fdb:{}", file.display())).unwrap();
    Some(Opened { engine: None, database, _kept: Box::new(directory) })
}

fn cluster() -> Option<Opened> {
    static TOLD: Once = Once::new();
    let Ok(file) = std::env::var(CLUSTER_FILE) else {
        TOLD.call_once(|| {
            // Past the test harness, which swallows what a test that passes prints.
            let told = writeln!(io::stderr(), "NOT TESTED: a real FoundationDB cluster ({CLUSTER_FILE} is not set)");
            told.expect("stderr takes a line");
        });
        return None;
    };
    let database = Database::open(&format!("fdb:{file}")).unwrap_or_else(|error| panic!("fdb:{file}: {error}"));
    Some(Opened { database, engine: None, _kept: Box::new(()) })
}

/// `VSEKAI_SEED` replays a failure.
fn given_seed() -> Option<u64> {
    std::env::var("VSEKAI_SEED").ok().and_then(|seed| seed.parse().ok())
}

/// Keys of this run, whoever else uses the cluster.
fn prefix(test: &str) -> Vec<u8> {
    format!("vsekai-conformance/{}/{test}/", std::process::id()).into_bytes()
}

/// Runs `check` on an empty store of each kind.
fn on_each_store(test: &str, check: impl Fn(&Kind, &Subject<'_>)) {
    for kind in STORES {
        let Some(opened) = (kind.open)() else { continue };
        let prefix = prefix(test);
        let subject = Subject {
            database: &opened.database,
            engine: opened.engine.as_ref(),
            prefix: &prefix,
            long: std::env::var_os("VSEKAI_LONG").is_some(),
        };
        // Part of what a failed test prints.
        println!("store {}", kind.name);
        check(kind, &subject);
    }
}

fn group(name: &str) {
    let groups: Vec<_> = GROUPS.iter().copied().filter(|group| group.name == name).collect();
    assert_eq!(groups.len(), 1, "there is no group {name}");
    on_each_store(name, |kind, subject| {
        let began = std::time::Instant::now();
        let report = conformance::run(*subject, &groups);
        println!("{}: {name}: {report} in {:?}", kind.name, began.elapsed());
        let faults_needed = groups[0].cases.iter().all(|case| case.needs == conformance::Needs::Faults);
        assert!(report.passed > 0 || (faults_needed && subject.engine.is_none()), "{}: {report}", kind.name);
    });
}

#[test]
fn reads() {
    group("reads");
}

#[test]
fn versions() {
    group("versions");
}

#[test]
fn conflicts() {
    group("conflicts");
}

#[test]
fn atomics() {
    group("atomics");
}

#[test]
fn versionstamps() {
    group("versionstamps");
}

#[test]
fn watches() {
    group("watches");
}

#[test]
fn limits() {
    group("limits");
}

#[test]
fn load() {
    group("load");
}

#[test]
fn faults() {
    group("faults");
}

#[test]
fn every_group_has_its_test() {
    let source = include_str!("conformance.rs");
    for group in GROUPS {
        assert!(source.contains(&format!("group(\"{}\");", group.name)), "group {} is not run", group.name);
    }
}

#[test]
fn one_order_explains_what_random_transactions_see() {
    let (seed, cases) = given_seed().map_or((7, 40), |seed| (seed, 1));
    on_each_store("model", |kind, subject| {
        let began = std::time::Instant::now();
        let report = model::run(*subject, cases, seed);
        println!("{}: {report} in {:?}", kind.name, began.elapsed());
    });
}

fn action() -> impl Strategy<Value = Action> {
    let key = || 0..KEYS;
    let bound = || 0..=KEYS;
    let kind = prop_oneof![Just(ConflictKind::Read), Just(ConflictKind::Write)];
    let range = (bound(), bound(), prop::option::of(0..6u8), any::<bool>(), any::<bool>());
    let operand =
        prop_oneof![any::<u64>().prop_map(|n| n.to_le_bytes().to_vec()), prop::collection::vec(any::<u8>(), 0..8)];
    prop_oneof![
        5 => (key(), any::<bool>()).prop_map(|(key, snapshot)| Action::Get { key, snapshot }),
        5 => range.prop_map(|(begin, end, limit, reverse, snapshot)| Action::Range { begin, end, limit, reverse, snapshot }),
        5 => key().prop_map(Action::Set),
        2 => key().prop_map(Action::Clear),
        2 => (bound(), bound()).prop_map(|(begin, end)| Action::ClearRange(begin, end)),
        4 => (prop::sample::select(&Atomic::ALL[..]), key(), operand).prop_map(|(atomic, key, operand)| {
            Action::Atomic(atomic, key, operand)
        }),
        1 => key().prop_map(Action::SetVersionstampedKey),
        1 => key().prop_map(Action::SetVersionstampedValue),
        1 => (kind, bound(), bound()).prop_map(|(kind, begin, end)| Action::Conflict(kind, begin, end)),
        4 => Just(Action::Commit),
        1 => Just(Action::Abandon),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..OPEN, action()).prop_map(|(transaction, action)| Step { transaction, action });
    prop::collection::vec(step, 1..80)
}

/// The same again in one thread, so that what fails is made as small as can be.
#[test]
fn one_order_explains_interleaved_transactions() {
    let seed = given_seed().unwrap_or(7);
    on_each_store("interleaved", |kind, subject| {
        let config = Config {
            cases: if subject.long { 2_000 } else { 60 },
            rng_seed: RngSeed::Fixed(seed),
            failure_persistence: None,
            ..Config::default()
        };
        let faults = prop::option::weighted(0.3, any::<u64>());
        let outcome = TestRunner::new(config).run(&(steps(), faults), |(steps, faults)| {
            let faults = faults.map(|seed| RandomFaults { seed, commits_per_mille: 30, reads_per_mille: 20 });
            model::interleaved(*subject, &steps, faults).map(drop).map_err(TestCaseError::fail)
        });
        outcome.unwrap_or_else(|error| panic!("{}: {error}\nVSEKAI_SEED={seed} replays it", kind.name));
    });
}
