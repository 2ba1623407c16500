//! Is the store whole? Looks at every key of the region and says everything that is wrong.

use super::snapshot::{Found, Snapshot, read_region, read_strays};
use super::{ComponentHash, Judge, Progress, Report, ToolError, is_damage, place, visit_list};
use crate::disk::RealDisk;
use crate::error::Error;
use crate::journal::scan;
use crate::keys::{HomeId, Region};
use crate::kv::{Database, RangeRead, Transaction};
use crate::lease::read_lease;
use std::path::Path;
use vsekai_schema::record::{ChangeRecord, FrameReader, OwnRecord};
use vsekai_schema::units::CHUNK_BYTES_MAX;

/// Most keys of no known kind that are listed.
const STRAYS_MAX: usize = 1_000;
/// Entries of the change log read at a time.
const CHANGES_PAGE: usize = 64;

/// What is looked at beyond the store itself.
#[derive(Default)]
pub struct CheckOptions<'c> {
    /// With it, the state hash is computed anew and compared.
    pub component_hash: Option<ComponentHash>,
    /// With it, every component is judged.
    pub judge: Option<Judge<'c>>,
    /// The directory of the journal in front of the store, to be looked at, too.
    pub journal_dir: Option<&'c Path>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: a key, or a file.
    pub place: String,
    /// What.
    pub detail: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// Everything that is wrong; a store without any is whole.
    pub problems: Vec<Problem>,
    /// The world is that after this frame.
    pub frame: u64,
    /// Its hash, as the store says.
    pub state_hash: u64,
    /// Its hash, computed anew if that was asked for.
    pub computed_hash: Option<u64>,
    /// Chunks that hold anything.
    pub chunks: u64,
    /// Entities kept by themselves.
    pub alone: u64,
    /// All entities.
    pub entities: u64,
    /// Homes still in the form of version 1, which are rewritten when they change.
    pub version_1_homes: u64,
    /// Parts that no home refers to: a flush was cut short. No problem: the next start takes them away.
    pub unreferenced_parts: u64,
    /// Entries of the change log.
    pub changes: u64,
    /// About the journal, when it was looked at.
    pub journal: Option<JournalReport>,
}

/// What a journal holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JournalReport {
    /// Whole records.
    pub records: u64,
    /// Records that the store does not have yet.
    pub behind_store: u64,
    /// True when the last write was torn, which the next start cuts off: no problem.
    pub torn: bool,
}

impl CheckReport {
    fn say(&mut self, place: impl Into<String>, detail: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), detail: detail.into() });
    }
}

/// What is kept of a home until all are seen.
struct Seen {
    home: HomeId,
    problems: Vec<String>,
    ids: Vec<u64>,
    hash: u64,
    frame: Option<u64>,
    has_list: bool,
    unreferenced: u64,
}

/// Looks at all of `region`.
///
/// # Errors
/// When the store can't be read at all, or holds no world. What is wrong in what can be read is no error but reported.
pub fn check(
    database: &Database,
    region: Region,
    mut options: CheckOptions<'_>,
    report: Report<'_>,
) -> Result<CheckReport, ToolError> {
    let mut checked = CheckReport::default();
    let hash = options.component_hash;
    let snapshot = read_region(database, region, |found| look_at(found, hash, &mut options.judge), report)?;
    let strays = read_strays(database, region, STRAYS_MAX)?;
    if snapshot.own.is_none() && snapshot.homes.is_empty() && strays.is_empty() {
        return Err(Error::NoWorld.into());
    }
    for key in snapshot.strays.iter().chain(&strays) {
        let detail = format!("it is no key of region {}: another region's, or of a newer version", region.0);
        checked.say(place(key), detail);
    }
    let own = match &snapshot.own {
        Some(Ok(own)) => Some(own),
        Some(Err(error)) => {
            checked.say(place(&region.own()), error.chain());
            None
        }
        None => {
            checked
                .say(place(&region.own()), "there is none, but other keys: an import or a first start was cut short");
            None
        }
    };
    check_homes(&snapshot, own, hash, &mut checked);
    if let Some(own) = own {
        checked.frame = own.last_frame;
        checked.state_hash = own.state_hash;
        if own.last_lsn > own.last_frame {
            let detail = format!("its journal record {} is ahead of its frame {}", own.last_lsn, own.last_frame);
            checked.say(place(&region.own()), detail);
        }
    }
    check_lease(database, region, own, &mut checked)?;
    check_changes(database, region, &mut checked, report)?;
    if let Some(directory) = options.journal_dir {
        check_journal(directory, own, &mut checked);
    }
    Ok(checked)
}

fn look_at(found: Found, hash: Option<ComponentHash>, judge: &mut Option<Judge<'_>>) -> Seen {
    let mut seen = Seen {
        home: found.home,
        problems: Vec::new(),
        ids: Vec::new(),
        hash: 0,
        frame: found.frame,
        has_list: found.list.is_some(),
        unreferenced: found.unreferenced.keys,
    };
    let list = match found.list {
        Some(Ok(list)) => list,
        Some(Err(error)) => {
            seen.problems.push(error.chain());
            return seen;
        }
        None => return seen,
    };
    let Seen { problems, ids, hash: sum, .. } = &mut seen;
    let read = visit_list(&list, |id, components| {
        ids.push(id.0);
        for (tag, record) in components {
            if let Some(hash) = hash {
                *sum = sum.wrapping_add(hash(id, *tag, record));
            }
            if let Some(Err(detail)) = judge.as_mut().map(|judge| judge(id, *tag, record)) {
                problems.push(detail);
            }
        }
    });
    if let Err(error) = read {
        problems.push(format!("its entity list: {error}"));
    }
    match found.home {
        HomeId::Chunk(_) if list.len() > CHUNK_BYTES_MAX => {
            problems.push(format!("it has {} bytes, a chunk may have {CHUNK_BYTES_MAX}", list.len()));
        }
        HomeId::Entity(id) if *ids != [id.0] => {
            problems.push(format!("it must hold entity {id} alone, but holds {ids:?}"));
        }
        _ if ids.is_empty() => problems.push("it holds no entity, so it should not be there".into()),
        _ => {}
    }
    seen
}

fn check_homes(
    snapshot: &Snapshot<Seen>,
    own: Option<&OwnRecord>,
    hash: Option<ComponentHash>,
    checked: &mut CheckReport,
) {
    let mut all = Vec::new();
    let mut sum = 0u64;
    for (key, seen) in &snapshot.homes {
        let at = || format!("{} ({})", place(key), seen.home);
        for problem in &seen.problems {
            checked.say(at(), problem.as_str());
        }
        checked.unreferenced_parts += seen.unreferenced;
        if !seen.has_list {
            continue;
        }
        match seen.home {
            HomeId::Chunk(_) => checked.chunks += 1,
            HomeId::Entity(_) => checked.alone += 1,
        }
        checked.entities += seen.ids.len() as u64;
        checked.version_1_homes += u64::from(seen.frame.is_none() && seen.problems.is_empty());
        sum = sum.wrapping_add(seen.hash);
        all.extend(seen.ids.iter().map(|id| (*id, seen.home)));
        let Some(own) = own else { continue };
        if let Some(frame) = seen.frame.filter(|frame| *frame > own.last_frame) {
            checked.say(at(), format!("it was written by frame {frame}, the store is at frame {}", own.last_frame));
        }
        if let Some(id) = seen.ids.iter().find(|id| **id >= own.ids_reserved_to) {
            let detail = format!("entity {id} is not below {}, up to which ids are reserved", own.ids_reserved_to);
            checked.say(at(), detail);
        }
    }
    all.sort_unstable();
    for pair in all.windows(2) {
        if let [(id, first), (again, second)] = pair
            && id == again
        {
            checked.say(format!("entity {id}"), format!("it is in {first} and in {second}"));
        }
    }
    if hash.is_some() {
        checked.computed_hash = Some(sum);
        if let Some(own) = own.filter(|own| own.state_hash != sum) {
            let detail =
                format!("the state hash is {sum:016x}, but frame {} had {:016x}", own.last_frame, own.state_hash);
            checked.say("the world", detail);
        }
    }
}

fn check_lease(
    database: &Database,
    region: Region,
    own: Option<&OwnRecord>,
    checked: &mut CheckReport,
) -> Result<(), ToolError> {
    match database.run(|transaction| read_lease(transaction, region)) {
        Ok(None) => {}
        Ok(Some(lease)) => {
            // While a shard takes over, the lease may be behind; never ahead.
            if let Some(own) = own.filter(|own| lease.epoch > own.epoch) {
                let detail = format!("it is of epoch {}, the register of {}", lease.epoch, own.epoch);
                checked.say(place(&region.lease()), detail);
            }
        }
        Err(error) if is_damage(&error) => checked.say(place(&region.lease()), error.chain()),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The log must have an entry for each frame from its first to the last one in the store.
fn check_changes(
    database: &Database,
    region: Region,
    checked: &mut CheckReport,
    report: Report<'_>,
) -> Result<(), ToolError> {
    let (mut begin, end) = region.changes();
    let mut last: Option<ChangeRecord> = None;
    // The register at the version of the last page: flushes go on while this is read.
    let mut own = None;
    loop {
        let page = database.run(|transaction| changes_page(transaction, region, &begin, &end));
        let (pairs, own_now) = match page {
            Err(error) if is_damage(&error) => {
                checked.say("the change log", error.chain());
                return Ok(());
            }
            other => other?,
        };
        own = own_now.or(own);
        let is_last = pairs.len() < CHANGES_PAGE;
        for (key, value) in &pairs {
            checked.changes += 1;
            let entry = match ChangeRecord::decode(value) {
                Ok(entry) => entry,
                Err(error) => {
                    checked.say(place(key), error.to_string());
                    last = None;
                    continue;
                }
            };
            if key.len() != region.change_template().0.len() {
                checked.say(place(key), "it is not the key of an entry of the change log");
            }
            if entry.first_frame > entry.last_frame {
                checked.say(place(key), format!("it is of frames {} to {}", entry.first_frame, entry.last_frame));
            }
            if let Some(before) = last.as_ref().filter(|before| before.last_frame + 1 != entry.first_frame) {
                let detail =
                    format!("it begins at frame {}, the one before ends at {}", entry.first_frame, before.last_frame);
                checked.say(place(key), detail);
            }
            last = Some(entry);
        }
        if let Some((key, _)) = pairs.last() {
            begin = [&key[..], &[0]].concat();
        }
        report(Progress { stage: "reading the change log", done: checked.changes, total: None, unit: "entries" });
        if is_last {
            break;
        }
    }
    if let (Some(last), Some(own)) = (last, own)
        && (last.last_frame, last.state_hash) != (own.last_frame, own.state_hash)
    {
        let detail = format!("it ends with frame {}, the store is at frame {}", last.last_frame, own.last_frame);
        checked.say("the change log", detail);
    }
    Ok(())
}

type ChangesPage = (Vec<crate::kv::Pair>, Option<OwnRecord>);

fn changes_page(transaction: &mut Transaction, region: Region, begin: &[u8], end: &[u8]) -> Result<ChangesPage, Error> {
    let pairs = transaction.get_range(&RangeRead::new(begin, end).limit(CHANGES_PAGE).snapshot())?;
    // That it can't be read has been said.
    let own = super::snapshot::find_own(transaction, region)?.and_then(Result::ok);
    Ok((pairs, own))
}

fn check_journal(directory: &Path, own: Option<&OwnRecord>, checked: &mut CheckReport) {
    let at = format!("journal {}", directory.display());
    if !directory.is_dir() {
        return checked.say(at, "there is no such directory");
    }
    let mut found = JournalReport::default();
    let stored_lsn = own.map_or(0, |own| own.last_lsn);
    let scanned = scan(&RealDisk, directory, |header| {
        found.records += 1;
        found.behind_store += u64::from(header.lsn > stored_lsn);
        Ok(())
    });
    let scan = match scanned {
        Ok(scan) => scan,
        Err(error) => {
            checked.journal = Some(found);
            return checked.say(at, error.chain());
        }
    };
    found.torn = scan.torn;
    checked.journal = Some(found);
    if let Err(error) = scan.check_end(stored_lsn) {
        checked.say(at.as_str(), error.chain());
    }
    let Some(own) = own else { return };
    if let Some(first) = scan.first_lsn().filter(|first| *first > stored_lsn + 1) {
        checked.say(at.as_str(), format!("it begins at record {first}, and the store ends at record {stored_lsn}"));
    }
    let identity = std::fs::read_to_string(directory.join("id")).ok();
    let identity = identity.and_then(|text| u64::from_str_radix(text.trim_end(), 16).ok());
    if own.journal != 0 && identity != Some(own.journal) {
        let detail = format!("the store's last frames may be in another one: {}", own.journal_place);
        checked.say(at.as_str(), detail);
    }
    let Some(last) = &scan.last else { return };
    let lsn = last.header.lsn;
    // A shard that was fenced may have left records of its epoch: the next start takes those away.
    let is_late = identity == Some(own.journal) && last.header.epoch < own.epoch;
    if lsn > stored_lsn && last.header.epoch != own.epoch && !is_late {
        let detail = format!("record {lsn} is of epoch {}, the store of epoch {}", last.header.epoch, own.epoch);
        checked.say(at.as_str(), detail);
    }
    match FrameReader::new(&last.payload) {
        Err(error) => checked.say(at.as_str(), format!("the frame in record {lsn}: {error}")),
        Ok(reader) if lsn >= stored_lsn && !is_late => {
            let head = reader.head;
            let expected = own.last_frame + (lsn - stored_lsn);
            if head.frame != expected {
                checked.say(at.as_str(), format!("record {lsn} holds frame {}, not {expected}", head.frame));
            } else if lsn == stored_lsn && head.state_hash != own.state_hash {
                let detail = format!("its frame {} is not the store's: another state hash", head.frame);
                checked.say(at.as_str(), detail);
            }
        }
        Ok(_) => {}
    }
}
