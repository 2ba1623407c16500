//! The journal alone, under crashes.

use super::{CrashCounts, choices, doomed};
use crate::disk::{CrashChoice, Disk, LockedDirectory, SimulatedDisk};
use crate::error::Error;
use crate::journal::append::cut_tail;
use crate::journal::{Appender, Scan, Segments, Tail, scan};
use std::path::Path;
use std::sync::Arc;

pub(super) const SEGMENT_BYTES: u64 = 4 << 10;
const GROUPS_PER_START: u64 = 6;
const STARTS: u64 = 3;

/// What a script had reached when it ended or the power went off.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Reached {
    /// Up to here reported durable.
    pub(super) acknowledged: u64,
    /// Up to here given to the journal.
    asked: u64,
    /// Up to here given free for removal.
    pub(super) stored: u64,
}

/// What lies in record `lsn`: of many lengths, some larger than a segment.
pub(super) fn payload(lsn: u64) -> Vec<u8> {
    let length = if lsn % 23 == 11 { 6_000 } else { lsn * 331 % 1_400 };
    (0..length).map(|index| (index * 7 + lsn * 13) as u8).collect()
}

pub(super) fn directory() -> &'static Path {
    Path::new("/journal")
}

/// Opens as a shard does: lock, scan, cut.
fn recover(disk: &Arc<dyn Disk>, stored_lsn: u64) -> Result<(Arc<Segments>, Scan), Error> {
    let locked = LockedDirectory::open(disk, directory())?;
    let mut found = scan(&**disk, directory(), |_| Ok(()))?;
    found.check_end(stored_lsn)?;
    let segments = Arc::new(Segments::new(locked, found.segments.iter().copied()));
    cut_tail(&segments, &mut found)?;
    Ok((segments, found))
}

fn appender(segments: &Arc<Segments>, found: &Scan) -> (Appender, u64) {
    let (last_lsn, crc) = found.last.as_ref().map_or((0, 0), |last| (last.header.lsn, last.header.crc));
    (Appender::new(segments.clone(), SEGMENT_BYTES, 1, last_lsn + 1, crc), last_lsn)
}

/// Several starts of several groups each, with removals.
pub(super) fn script(disk: &SimulatedDisk, reached: &mut Reached) -> Result<(), Error> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    for start in 0..STARTS {
        let (segments, found) = recover(&disk, reached.stored)?;
        let (mut appender, mut last_lsn) = appender(&segments, &found);
        for group in 0..GROUPS_PER_START {
            let count = 1 + (start + group) % 3;
            let payloads: Vec<_> = (last_lsn + 1..=last_lsn + count).map(payload).collect();
            last_lsn += count;
            reached.asked = last_lsn;
            reached.acknowledged = appender.append_group(payloads.iter().map(Vec::as_slice))?;
            if group % 4 == 3 {
                reached.stored = reached.acknowledged - 3;
                segments.remove_stored(reached.stored)?;
            }
        }
    }
    Ok(())
}

/// Reads everything back and compares. Returns the last lsn.
pub(super) fn check(disk: &SimulatedDisk, reached: Reached) -> Result<u64, String> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (segments, found) = recover(&shared, reached.stored).map_err(|error| error.chain())?;
    let last_lsn = found.last.as_ref().map_or(0, |last| last.header.lsn);
    if last_lsn < reached.acknowledged || last_lsn > reached.asked {
        return Err(format!("it ends at record {last_lsn}: {reached:?}"));
    }
    let first_lsn = found.first_lsn().unwrap_or(1);
    if first_lsn > reached.stored.max(1) {
        return Err(format!("it begins at record {first_lsn}: {reached:?}"));
    }
    read_all(segments, first_lsn, last_lsn)?;
    Ok(last_lsn)
}

fn read_all(segments: Arc<Segments>, first_lsn: u64, last_lsn: u64) -> Result<(), String> {
    let records = Tail::new(segments, first_lsn).read_batch(last_lsn, usize::MAX).map_err(|error| error.chain())?;
    for (record, lsn) in records.iter().zip(first_lsn..) {
        if record.lsn != lsn || record.payload != payload(lsn) {
            return Err(format!("record {lsn} is not the one that was written"));
        }
    }
    if records.len() as u64 == last_lsn + 1 - first_lsn { Ok(()) } else { Err("records are missing".into()) }
}

/// Goes on behind what was recovered: the recovery itself must be durable.
fn go_on(disk: &SimulatedDisk, mut reached: Reached) -> Result<(), String> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let append = || -> Result<u64, Error> {
        let (segments, found) = recover(&shared, reached.stored)?;
        let (mut appender, last_lsn) = appender(&segments, &found);
        appender.append_group([payload(last_lsn + 1).as_slice()].into_iter())
    };
    reached.acknowledged = append().map_err(|error| error.chain())?;
    reached.asked = reached.acknowledged;
    check(&disk.after_crash(CrashChoice::NoneKept), reached).map(drop)
}

/// Runs a script of appends, rolls and removals, with the power going off in each of its operations, and recovers from what
/// the crash may leave: nothing unsynced, all of it, and `random` mixtures from `seed` on. `plant` runs on each disk before
/// the script, to plant a bug.
pub fn journal_crashes(random: u64, seed: u64, plant: impl Fn(&SimulatedDisk)) -> Result<CrashCounts, String> {
    let whole = SimulatedDisk::new();
    script(&whole, &mut Reached::default()).map_err(|error| error.chain())?;
    let mut counts = CrashCounts { operations: whole.operation_count(), ..CrashCounts::default() };
    for operation in 1..=counts.operations {
        let disk = doomed(operation);
        plant(&disk);
        let mut reached = Reached::default();
        if script(&disk, &mut reached).is_ok() {
            return Err(format!("operation {operation} failed, and nobody noticed"));
        }
        for choice in choices(random, seed, operation) {
            let failed = |what: String| format!("crash in operation {operation}, {choice:?}: {what}");
            let left = disk.after_crash(choice);
            let image = left.after_crash(CrashChoice::AllKept);
            let last_lsn = check(&left, reached).map_err(failed)?;
            counts.recoveries += 1;
            counts.acknowledged_found += reached.acknowledged;
            counts.unacknowledged_found += last_lsn - reached.acknowledged;
            for again in 1..=left.operation_count() {
                let failed = |what: String| failed(format!("and in operation {again} of the recovery: {what}"));
                let doomed = image.after_crash(CrashChoice::AllKept);
                doomed.crash_at(again);
                let shared: Arc<dyn Disk> = Arc::new(doomed.clone());
                if recover(&shared, reached.stored).is_ok() {
                    return Err(failed("nobody noticed".into()));
                }
                for choice in choices(1, seed, again) {
                    check(&doomed.after_crash(choice), reached).map_err(failed)?;
                }
                counts.crashes_in_recovery += 1;
            }
            go_on(&left, reached).map_err(failed)?;
        }
    }
    Ok(counts)
}
