//! The `local:` store alone, under crashes.

use super::{CrashCounts, choices, doomed};
use crate::disk::{CrashChoice, Disk, SimulatedDisk};
use crate::error::Error;
use crate::kv::{Database, Pair, RangeRead};
use std::collections::BTreeMap;
use std::sync::Arc;

const COMMITS_PER_START: u64 = 4;
const STARTS: u64 = 3;

pub(super) type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a script had reached.
#[derive(Debug, Default, Clone, Copy)]
struct Reached {
    acknowledged: u64,
    asked: u64,
}

pub(super) fn open(disk: &SimulatedDisk) -> Result<Database, Error> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Database::open_on_disk("local:/store", &disk)
}

/// What commit `number` writes: several keys, one of them in every commit, one of some size, one of them removed.
fn writes(number: u64) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let value = |length: u64| (0..length).map(|index| (index * 3 + number * 29) as u8).collect::<Vec<u8>>();
    vec![
        (b"first".to_vec(), Some(number.to_le_bytes().to_vec())),
        (format!("key {}", number % 5).into_bytes(), Some(value(number * 977 % 3_000))),
        (format!("key {}", (number + 2) % 5).into_bytes(), None),
        (b"second".to_vec(), Some(number.to_le_bytes().to_vec())),
        // So many that the tree has branches.
        (format!("small {number}").into_bytes(), Some(value(400))),
    ]
}

/// The pairs after that commit.
fn after(number: u64) -> Pairs {
    let mut pairs = Pairs::new();
    for (key, value) in (1..=number).flat_map(writes) {
        match value {
            Some(value) => drop(pairs.insert(key, value)),
            None => drop(pairs.remove(&key)),
        }
    }
    pairs
}

fn commit(database: &Database, number: u64) -> Result<(), Error> {
    let mut transaction = database.begin()?;
    for (key, value) in writes(number) {
        match value {
            Some(value) => transaction.set(&key, value),
            None => transaction.clear(&key),
        }
    }
    transaction.commit().map(drop)
}

pub(super) fn read(database: &Database) -> Result<Pairs, Error> {
    let pairs: Vec<Pair> = database.begin()?.get_range(&RangeRead::new(b"", b"\xff"))?;
    Ok(pairs.into_iter().collect())
}

/// The same, key by key.
pub(super) fn read_each<'k>(database: &Database, keys: impl Iterator<Item = &'k Vec<u8>>) -> Result<Pairs, Error> {
    let mut transaction = database.begin()?;
    let mut pairs = Pairs::new();
    for key in keys {
        if let Some(value) = transaction.get(key)? {
            pairs.insert(key.clone(), value);
        }
    }
    Ok(pairs)
}

/// Several starts of several commits each, every one closed.
fn script(disk: &SimulatedDisk, reached: &mut Reached) -> Result<(), Error> {
    for _ in 0..STARTS {
        let database = open(disk)?;
        for _ in 0..COMMITS_PER_START {
            reached.asked += 1;
            commit(&database, reached.asked)?;
            reached.acknowledged = reached.asked;
        }
    }
    Ok(())
}

/// A store that was closed, and what is in it.
pub(super) fn closed() -> Result<(SimulatedDisk, Pairs), Error> {
    let disk = SimulatedDisk::new();
    script(&disk, &mut Reached::default())?;
    Ok((disk, after(STARTS * COMMITS_PER_START)))
}

/// The number of the last commit found, if the store is as it was after one of those that may be the last.
fn check(disk: &SimulatedDisk, reached: Reached) -> Result<u64, String> {
    let found = open(disk).and_then(|database| read(&database)).map_err(|error| error.chain())?;
    let number = (reached.acknowledged..=reached.asked).find(|number| after(*number) == found);
    number.ok_or_else(|| {
        let first = found.get(&b"first"[..]).map(|value| value.first().copied().unwrap_or_default());
        format!("the store is not as after a commit that may be the last ({reached:?}), `first` is {first:?}")
    })
}

/// Goes on where the store was found: the recovery itself must be durable.
fn go_on(disk: &SimulatedDisk, found: u64) -> Result<(), String> {
    let next = found + 1;
    let database = open(disk).map_err(|error| error.chain())?;
    commit(&database, next).map_err(|error| error.chain())?;
    // The process is killed, so to say: what it would do when it ends happens on a disk that nobody looks at.
    let left = disk.after_crash(CrashChoice::NoneKept);
    check(&left, Reached { acknowledged: next, asked: next }).map(drop)
}

/// Runs a script of commits and clean ends, with the power going off in each of its operations, and opens what the crash
/// may leave: nothing unsynced, all of it, and `random` mixtures from `seed` on. `plant` runs on each disk before the
/// script, to plant a bug.
pub fn store_crashes(random: u64, seed: u64, plant: impl Fn(&SimulatedDisk)) -> Result<CrashCounts, String> {
    let (whole, _) = closed().map_err(|error| error.chain())?;
    let mut counts = CrashCounts { operations: whole.operation_count(), ..CrashCounts::default() };
    for operation in 1..=counts.operations {
        let disk = doomed(operation);
        plant(&disk);
        let mut reached = Reached::default();
        // An end that goes wrong is not reported: everything was durable before.
        let _ = script(&disk, &mut reached);
        for choice in choices(random, seed, operation) {
            let failed = |what: String| format!("crash in operation {operation}, {choice:?}: {what}");
            let left = disk.after_crash(choice);
            let found = check(&left, reached).map_err(failed)?;
            counts.recoveries += 1;
            counts.acknowledged_found += reached.acknowledged;
            counts.unacknowledged_found += found - reached.acknowledged;
            // Somewhere in the recovery, another place each time.
            let doomed = disk.after_crash(choice);
            doomed.crash_at(1 + operation % left.operation_count().max(1));
            let _ = open(&doomed);
            for choice in choices(1, seed, operation) {
                let failed = |what: String| failed(format!("and in its recovery, {choice:?}: {what}"));
                check(&doomed.after_crash(choice), Reached { acknowledged: found, asked: found }).map_err(failed)?;
            }
            counts.crashes_in_recovery += 1;
            go_on(&left, found).map_err(failed)?;
        }
    }
    Ok(counts)
}
