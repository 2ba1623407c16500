//! The journal on trial: a script of appends, new segments, starts and removals on a simulated disk, whose power fails, that
//! rots, or that another process takes over, at every place where it can.
//!
//! What the journal promises: whatever was reported durable is found again, in order, and nothing but what was appended;
//! or the journal is refused, with the place of the damage. Never is there silently less.

use super::append::cut_tail;
use super::{Appender, Scan, Segments, Tail, scan};
use crate::disk::{CrashChoice, Disk, LockedDirectory, Moment, SimulatedDisk};
use crate::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const SEGMENT_BYTES: u64 = 2_048;
const STARTS: u64 = 3;
const GROUPS: u64 = 5;
/// What a record of the process that takes over holds.
const THEIRS: &[u8] = b"of the one who took over";

/// What [`check_journal_crashes`] came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JournalCrashes {
    /// Operations of the disk, at each of which the power failed once.
    pub crash_points: u64,
    /// Syncs that failed, each once.
    pub failed_syncs: u64,
    /// Disks that were found afterwards.
    pub images: u64,
    /// Records on them that had been reported durable. All were there.
    pub reported: u64,
    /// Records on them that had not, as may be.
    pub unreported: u64,
    /// Disks whose journal ended in something to be cut.
    pub torn: u64,
}

/// What [`check_journal_rot`] came to. The journal was that of a killed process, or of one whose machine lost its power.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JournalRot {
    /// Flipped bytes, zeroed sectors and removed files, each on a disk of its own.
    pub damages: u64,
    /// How many of them were refused, by segment and offset or by the records that are missing.
    pub refused: u64,
    /// How many harmed nothing that had been reported.
    pub harmless: u64,
    /// How many cost the last group, silently: only after a power failure.
    pub last_group_lost: u64,
}

/// What [`check_journal_takeovers`] came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JournalTakeovers {
    /// Moments at which the process was stopped and another took over.
    pub moments: u64,
    /// How often the stopped one was told so; otherwise it had nothing to report any more.
    pub noticed: u64,
    /// Records reported by the stopped one. All were seen by the other.
    pub reported: u64,
}

impl fmt::Display for JournalCrashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JournalCrashes { crash_points, failed_syncs, images, reported, unreported, torn } = self;
        write!(
            f,
            "power failed at each of {crash_points} operations, {failed_syncs} syncs failed, {images} disks opened after it: \
             {reported} records reported durable, all found; {unreported} unreported ones found; {torn} torn ends cut"
        )
    }
}

impl fmt::Display for JournalRot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JournalRot { damages, refused, harmless, last_group_lost } = self;
        write!(
            f,
            "{damages} damages: {refused} refused with their place, {harmless} harmless, {last_group_lost} taken for a torn \
             last group"
        )
    }
}

impl fmt::Display for JournalTakeovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JournalTakeovers { moments, noticed, reported } = self;
        write!(
            f,
            "taken over at each of {moments} moments: the stopped process noticed in {noticed}, and all {reported} records \
             that it reported were seen"
        )
    }
}

/// Runs the script once for each of its operations, with the power failing there, and once for each sync, with that one
/// failing. Each crash is tried with a disk that kept nothing, one that kept all, and `random_choices` others.
///
/// # Errors
/// The first broken promise, with operation and choice.
pub fn check_journal_crashes(seed: u64, random_choices: u64) -> Result<JournalCrashes, String> {
    let whole = Script::run(SimulatedDisk::new())?;
    let mut report = JournalCrashes::default();
    for operation in 1..=whole.disk.operation_count() + 1 {
        report.crash_points += 1;
        let disk = SimulatedDisk::new();
        disk.crash_at(operation);
        Script::stopped(disk).check(operation, seed, random_choices, &mut report)?;

        let disk = SimulatedDisk::new();
        let failing = disk.clone();
        disk.interrupt(Moment::Before(operation), move || failing.fail_next_sync());
        let script = Script::stopped(disk);
        report.failed_syncs += u64::from(script.ended_by.is_some());
        script.check(operation, seed, random_choices, &mut report)?;
    }
    Ok(report)
}

/// Flips each byte of a small journal, zeroes each sector, removes each file, and opens it. `killed` says whose journal: that
/// of a killed process, or of one whose machine lost its power.
///
/// # Errors
/// The first damage that was neither refused nor harmless, nor, after a power failure, in the last group.
pub fn check_journal_rot(killed: bool) -> Result<JournalRot, String> {
    let script = Script::run(SimulatedDisk::new())?;
    let choice = if killed { CrashChoice::AllKept } else { CrashChoice::NoneKept };
    let mut report = JournalRot::default();
    for (path, length) in script.disk.after_crash(choice).files() {
        let mut damage = |what: String, apply: &dyn Fn(&SimulatedDisk) -> std::io::Result<()>| {
            let disk = script.disk.after_crash(choice);
            apply(&disk).map_err(|e| e.to_string())?;
            report.damages += 1;
            let place = || format!("{what} {}, killed: {killed}", path.display());
            match script.judge(&disk).map_err(|broken| format!("{}: {broken}", place()))? {
                Verdict::Refused => report.refused += 1,
                Verdict::Harmless => report.harmless += 1,
                Verdict::LastGroupLost if !killed => report.last_group_lost += 1,
                Verdict::LastGroupLost => return Err(format!("{}: the last group is lost", place())),
            }
            Ok(())
        };
        for offset in 0..length {
            damage(format!("flipped byte {offset} of"), &|disk| disk.flip_byte(&path, offset))?;
        }
        for offset in (0..length).step_by(crate::disk::SECTOR_BYTES as usize) {
            damage(format!("zeroed the sector at {offset} of"), &|disk| disk.zero_sector(&path, offset))?;
        }
        damage("removed".into(), &|disk| disk.remove(&path))?;
    }
    Ok(report)
}

/// Stops the process before and after each of its operations, lets another one take over, bring what it finds to safety and
/// append its own, and lets the first go on.
///
/// # Errors
/// The first moment after which the stopped process reported a record that the other one had not seen, or at which the
/// journal was harmed.
pub fn check_journal_takeovers() -> Result<JournalTakeovers, String> {
    let whole = Script::run(SimulatedDisk::new())?;
    let mut report = JournalTakeovers::default();
    // The first operations make the directory's lock: before there is one there is nothing to take.
    for operation in 2..=whole.disk.operation_count() {
        for moment in [Moment::Before(operation), Moment::After(operation)] {
            let disk = SimulatedDisk::new();
            let taken: Arc<Mutex<Option<Result<(u64, Arc<Segments>), Error>>>> = Arc::default();
            let (their_disk, theirs) = (disk.clone(), taken.clone());
            disk.interrupt(moment, move || *crate::sync::locked(&theirs) = Some(take_over(&their_disk)));
            let script = Script::stopped(disk);
            let at = |broken: String| format!("{moment:?}: {broken}");
            let Some(taken) = crate::sync::locked(&taken).take() else { return Err(at("nobody took over".into())) };
            let (seen, held) = taken.map_err(|error| at(format!("the takeover failed: {}", error.chain())))?;
            drop(held);
            report.moments += 1;
            report.noticed += u64::from(matches!(script.ended_by, Some(Error::Seized(_))));
            report.reported += script.reported;
            if script.reported > seen {
                return Err(at(format!("record {} was reported, the other has seen {seen}", script.reported)));
            }
            script.check_taken(seen).map_err(at)?;
        }
    }
    Ok(report)
}

/// One run, until its end or until it was stopped.
struct Script {
    disk: SimulatedDisk,
    /// The last record given to the journal.
    appended: u64,
    /// The last record reported durable, and the last before its group.
    reported: u64,
    reported_before: u64,
    /// The last record that the store has, as the journal was told.
    stored: u64,
    ended_by: Option<Error>,
}

/// What became of a damaged journal.
enum Verdict {
    Refused,
    Harmless,
    LastGroupLost,
}

impl Script {
    fn run(disk: SimulatedDisk) -> Result<Self, String> {
        let script = Self::stopped(disk);
        match &script.ended_by {
            Some(error) => Err(format!("the script fails on a good disk: {}", error.chain())),
            None => Ok(script),
        }
    }

    fn stopped(disk: SimulatedDisk) -> Self {
        let mut script = Script { disk, appended: 0, reported: 0, reported_before: 0, stored: 0, ended_by: None };
        script.ended_by = script.play().err();
        script
    }

    fn play(&mut self) -> Result<(), Error> {
        for start in 0..STARTS {
            let (segments, found) = recover(&self.disk, self.stored)?;
            let mut appender = appender(&segments, &found, 1);
            for group in 0..GROUPS {
                let first = self.appended + 1;
                self.appended += 1 + (start + group) % 3;
                let payloads: Vec<_> = (first..=self.appended).map(payload).collect();
                let reported = appender.append_group(payloads.iter().map(Vec::as_slice))?;
                (self.reported_before, self.reported) = (self.reported, reported);
                if group == 3 {
                    self.stored = reported - 2;
                    segments.remove_stored(self.stored)?;
                }
            }
        }
        Ok(())
    }

    fn check(&self, operation: u64, seed: u64, random_choices: u64, report: &mut JournalCrashes) -> Result<(), String> {
        let number = |choice: u64| seed ^ operation << 20 ^ choice;
        let random = (0..random_choices).map(|choice| {
            if choice % 2 == 0 { CrashChoice::Random(number(choice)) } else { CrashChoice::Garbage(number(choice)) }
        });
        for choice in [CrashChoice::NoneKept, CrashChoice::AllKept].into_iter().chain(random) {
            let at = |broken: String| format!("seed {seed}, operation {operation}, {choice:?}: {broken}");
            let disk = self.disk.after_crash(choice);
            report.images += 1;
            let torn = scan(&disk, directory(), |_| Ok(())).map_err(|error| at(error.chain()))?.torn;
            report.torn += u64::from(torn);
            let last_lsn = self.read_back(&disk).map_err(|error| at(error.chain()))?.map_err(at)?;
            if last_lsn < self.reported || last_lsn > self.appended {
                return Err(at(format!("{last_lsn} records, {} reported, {} appended", self.reported, self.appended)));
            }
            report.reported += self.reported;
            report.unreported += last_lsn - self.reported;
            go_on(&disk, self.stored).map_err(|error| at(error.chain()))?;
        }
        Ok(())
    }

    /// Opens as a shard does and compares each record. The outer error is the journal's refusal. Returns the last lsn.
    fn read_back(&self, disk: &SimulatedDisk) -> Result<Result<u64, String>, Error> {
        let (segments, found) = recover(disk, self.stored)?;
        let last_lsn = found.last_lsn();
        let first_lsn = found.first_lsn().unwrap_or(last_lsn + 1);
        for record in Tail::new(segments, first_lsn).read_batch(last_lsn, usize::MAX)? {
            if record.payload != payload(record.lsn) {
                return Ok(Err(format!("record {} is not what was appended", record.lsn)));
            }
        }
        Ok(Ok(last_lsn))
    }

    fn judge(&self, disk: &SimulatedDisk) -> Result<Verdict, String> {
        match self.read_back(disk) {
            Ok(last_lsn) => match last_lsn? {
                last_lsn if last_lsn >= self.reported => Ok(Verdict::Harmless),
                last_lsn if last_lsn >= self.reported_before => Ok(Verdict::LastGroupLost),
                last_lsn => Err(format!("it ends at record {last_lsn}, {} were reported", self.reported)),
            },
            Err(error @ Error::Corrupt { .. }) => {
                let text = error.to_string();
                let says_where = text.contains(".seg") && (text.contains(" at offset ") || text.contains(" missing"));
                let says_where = says_where || text.contains(" at the end of ") || text.contains("begins at record");
                if says_where { Ok(Verdict::Refused) } else { Err(format!("the refusal does not say where: {text}")) }
            }
            Err(error) => Err(format!("it can't be opened: {}", error.chain())),
        }
    }

    /// After a takeover that has seen the records up to `seen`: those are there, then those of the one who took over.
    fn check_taken(&self, seen: u64) -> Result<(), String> {
        let said = |error: Error| error.chain();
        let (segments, found) = recover(&self.disk, self.stored).map_err(said)?;
        if found.last_lsn() != seen + 1 {
            return Err(format!("it ends at record {}, not at {}", found.last_lsn(), seen + 1));
        }
        let first_lsn = found.first_lsn().unwrap_or(1);
        for record in Tail::new(segments, first_lsn).read_batch(seen + 1, usize::MAX).map_err(said)? {
            let expected = if record.lsn > seen { (2, THEIRS.to_vec()) } else { (1, payload(record.lsn)) };
            if (record.epoch, &record.payload) != (expected.0, &expected.1) {
                return Err(format!("record {} of epoch {} is not what was seen", record.lsn, record.epoch));
            }
        }
        Ok(())
    }
}

fn directory() -> &'static Path {
    Path::new("/journal")
}

/// What record `lsn` holds: lengths from nothing to more than a segment.
fn payload(lsn: u64) -> Vec<u8> {
    let length = if lsn % 11 == 7 { SEGMENT_BYTES + 100 } else { lsn * 331 % 600 };
    (0..length).map(|index| (index * 7 + lsn * 13) as u8).collect()
}

fn shared(disk: &SimulatedDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

/// Opens a journal in front of a store that has the records up to `stored`.
fn recover(disk: &SimulatedDisk, stored: u64) -> Result<(Arc<Segments>, Scan), Error> {
    cleared(LockedDirectory::open(&shared(disk), directory())?, stored)
}

fn cleared(locked: LockedDirectory, stored: u64) -> Result<(Arc<Segments>, Scan), Error> {
    let mut found = scan(locked.disk(), locked.path(), |_| Ok(()))?;
    found.check_end(stored)?;
    // As the storage does, which knows where its store ends.
    if let Some(first) = found.first_lsn().filter(|first| *first > stored + 1) {
        let place: PathBuf = locked.path().into();
        return Err(Error::corrupt(place.display().to_string(), format!("it begins at record {first}")));
    }
    let segments = Arc::new(Segments::new(locked, found.segments.iter().copied()));
    cut_tail(&segments, &mut found)?;
    Ok((segments, found))
}

fn appender(segments: &Arc<Segments>, found: &Scan, epoch: u64) -> Appender {
    let (next_lsn, crc) = found.last.as_ref().map_or((1, 0), |last| (last.header.lsn + 1, last.header.crc));
    Appender::new(segments.clone(), SEGMENT_BYTES, epoch, next_lsn, crc)
}

/// A journal must take more after whatever has happened, and have it.
fn go_on(disk: &SimulatedDisk, stored: u64) -> Result<(), Error> {
    let (segments, found) = recover(disk, stored)?;
    let last_lsn = appender(&segments, &found, 1).append_group([&b"more"[..]].into_iter())?;
    drop(segments);
    let found = recover(&disk.after_crash(CrashChoice::NoneKept), stored)?.1;
    match found.last {
        Some(last) if last.header.lsn == last_lsn && last.payload == b"more" => Ok(()),
        _ => Err(Error::corrupt("the journal", format!("record {last_lsn} was reported and is not there"))),
    }
}

/// What another process does that takes over: it reads all there is, and appends a record of its own. Returns the last
/// record that it has seen, and the journal, which it holds.
fn take_over(disk: &SimulatedDisk) -> Result<(u64, Arc<Segments>), Error> {
    let locked = LockedDirectory::seize(&shared(disk), directory())?;
    // How far the store is does not matter to what is tried here.
    let (segments, found) = cleared(locked, u64::MAX - 1)?;
    let seen = found.last_lsn();
    appender(&segments, &found, 2).append_group([THEIRS].into_iter())?;
    Ok((seen, segments))
}
