//! Journal and store, each with every byte turned over and every sector zeroed.

use super::{DamageCounts, journal, kind, store};
use crate::disk::{CrashChoice, Disk, SECTOR_BYTES, SimulatedDisk};
use crate::journal::scan;
use std::path::PathBuf;

/// How the journal ended before it was damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Closed, or killed, or the power failed some time after the last sync: the mark of how far it was synced is there.
    Marked,
    /// The power failed at once after the last sync: of the last group nothing says that it had been synced.
    PowerLost,
}

/// What came of one change.
enum Outcome {
    Harmless,
    Refused(&'static str),
    TakenForTorn,
}

/// Damages every place of every file of `disk`, one at a time, and counts what `judge` makes of it.
fn damage_all(
    disk: &SimulatedDisk,
    every: u64,
    judge: impl Fn(&SimulatedDisk) -> Result<Outcome, String>,
) -> Result<DamageCounts, String> {
    let mut counts = DamageCounts::default();
    let mut try_one = |what: &str, path: &PathBuf, offset: u64, change: &dyn Fn(&mut Vec<u8>)| {
        let image = disk.after_crash(CrashChoice::AllKept);
        image.rot(path, change).map_err(|error| error.to_string())?;
        counts.changes += 1;
        match judge(&image).map_err(|wrong| format!("{what} at offset {offset} of {}: {wrong}", path.display()))? {
            Outcome::Harmless => counts.harmless += 1,
            Outcome::Refused(kind) => *counts.refused.entry(kind).or_default() += 1,
            Outcome::TakenForTorn => counts.taken_for_torn += 1,
        }
        Ok::<(), String>(())
    };
    for (path, length) in disk.files() {
        for offset in (0..length).filter(|offset| offset % every == 0) {
            for mask in [0x01, 0xff] {
                let place = offset as usize;
                try_one("a flipped byte", &path, offset, &|bytes| bytes[place] ^= mask)?;
            }
        }
        for offset in (0..length).step_by(SECTOR_BYTES as usize) {
            let sector = offset as usize..(offset + SECTOR_BYTES).min(length) as usize;
            try_one("a zeroed sector", &path, offset, &|bytes| bytes[sector.clone()].fill(0))?;
        }
    }
    Ok(counts)
}

/// Damages a small journal of several segments that ended as said. Only [`Ending::PowerLost`] may make it shorter, by no
/// more than the last group.
pub fn journal_damage(ending: Ending) -> Result<DamageCounts, String> {
    let disk = SimulatedDisk::new();
    let mut reached = journal::Reached::default();
    let before = journal::script(&disk, &mut reached).map_err(|error| error.chain());
    before?;
    let kept = if ending == Ending::PowerLost { CrashChoice::NoneKept } else { CrashChoice::AllKept };
    let disk = disk.after_crash(kept);
    let last = scan(&disk, journal::directory(), |_| Ok(())).map_err(|error| error.chain())?.last;
    let whole = last.ok_or("the journal is empty")?;
    damage_all(&disk, 1, |image| {
        let scanned = scan(image as &dyn Disk, journal::directory(), |_| Ok(()));
        let found = match scanned.and_then(|found| found.check_end(reached.stored).map(|()| found)) {
            Ok(found) => found,
            Err(error) => return Ok(Outcome::Refused(kind(&error))),
        };
        let last_lsn = found.last.map_or(0, |last| last.header.lsn);
        if last_lsn == whole.header.lsn {
            return journal::check(image, reached).map(|_| Outcome::Harmless);
        }
        // What had been synced when the last record was written must be there.
        if ending == Ending::PowerLost && last_lsn >= whole.header.synced_lsn {
            return Ok(Outcome::TakenForTorn);
        }
        Err(format!("it ends at record {last_lsn} and nobody says why"))
    })
}

/// Damages a small store that was closed: its file at each `every`-th byte, and in every sector.
pub fn store_damage(every: u64) -> Result<DamageCounts, String> {
    let (disk, pairs) = store::closed().map_err(|error| error.chain())?;
    damage_all(&disk, every, |image| {
        let read = || {
            let database = store::open(image)?;
            // One by one, too: a damaged branch leads only those astray who look for a key.
            Ok((store::read(&database)?, store::read_each(&database, pairs.keys())?))
        };
        match read() {
            Ok((all, each)) if all == pairs && each == pairs => Ok(Outcome::Harmless),
            Ok((all, each)) => {
                Err(format!("of {} pairs {} are read at once, and {} one by one", pairs.len(), all.len(), each.len()))
            }
            Err(error) => Ok(Outcome::Refused(kind(&error))),
        }
    })
}
