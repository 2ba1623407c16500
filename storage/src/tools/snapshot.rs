//! A region as it was after one frame, however large it is and whoever writes to it meanwhile.
//!
//! All homes are read in many transactions, each home whole in one of them. The store's change log says which homes flushes
//! rewrote since the first of them; those are read again, until the few that are left fit one transaction together with
//! `own`. A home that no flush has touched since it was read is the same at that transaction's version, so what comes out
//! is exactly the world after `own.last_frame`.

use super::{Progress, Report, ToolError, is_damage, known_ranges};
use crate::change_log::read_changes;
use crate::error::Error;
use crate::home::Assembler;
use crate::keys::{HomeId, Region};
use crate::kv::{Database, Pair, RangeRead, Transaction};
use crate::register::read_own;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use vsekai_schema::id::EntityId;
use vsekai_schema::record::{ChangeRecord, HomeRecord, OwnRecord};
use vsekai_schema::units::ChunkKey;

/// Pairs asked for at a time.
const BATCH_PAIRS: usize = 256;
/// One transaction reads about so many bytes at most, as a matter of manners towards a cluster.
const PAGE_BYTES: usize = 900_000;
/// One transaction reads for so long at most, well below the age that FoundationDB allows.
const PAGE_TIME_MAX: Duration = Duration::from_secs(2);
/// How many entries of the change log one look takes in: half a day of flushes.
const CHANGES_MAX: usize = 20_000;
/// How often what was rewritten is read again before the whole reading starts anew, and how often that.
const ROUNDS_MAX: usize = 50;
const ATTEMPTS_MAX: usize = 3;

/// Keys and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// How many keys.
    pub keys: u64,
    /// Their bytes.
    pub key_bytes: u64,
    /// The bytes of their values.
    pub value_bytes: u64,
}

impl Size {
    pub(super) fn of(pair: &Pair) -> Size {
        Size { keys: 1, key_bytes: pair.0.len() as u64, value_bytes: pair.1.len() as u64 }
    }

    pub(super) fn add(&mut self, other: Size) {
        self.keys += other.keys;
        self.key_bytes += other.key_bytes;
        self.value_bytes += other.value_bytes;
    }
}

/// One home as it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) home: HomeId,
    pub(super) key: Vec<u8>,
    /// Its list, or why there is none; `None` when there are only parts that nothing refers to.
    pub(super) list: Option<Result<Vec<u8>, Error>>,
    /// The last frame folded into it, if it says so: version 1 did not.
    pub(super) frame: Option<u64>,
    pub(super) record: Size,
    pub(super) parts: Size,
    pub(super) unreferenced: Size,
}

/// The register as it was found.
pub(super) type FoundOwn = Option<Result<OwnRecord, Error>>;

/// A region after one frame.
#[derive(Debug)]
pub(super) struct Snapshot<T> {
    pub(super) own: FoundOwn,
    /// What was made of each home, in key order.
    pub(super) homes: BTreeMap<Vec<u8>, T>,
    /// Keys among those of homes that are no keys of homes.
    pub(super) strays: Vec<Vec<u8>>,
}

/// What a change is measured against.
#[derive(Debug)]
struct Stand {
    own: FoundOwn,
    /// The last entry of the change log.
    cursor: Option<Vec<u8>>,
}

/// What became of what was read.
enum Settled {
    /// Nothing else was rewritten, or it was read again in the very transaction that says so.
    Whole(FoundOwn, Vec<(Vec<u8>, Option<Found>)>),
    /// So much was rewritten that it takes more than one transaction.
    Many(Stand, BTreeSet<Vec<u8>>),
    /// What was rewritten can't be told: all may have changed.
    Unknown(String),
}

/// Reads `region`, and keeps what `take` makes of each home. A home may be seen more than once: the last time counts.
pub(super) fn read_region<T>(
    database: &Database,
    region: Region,
    mut take: impl FnMut(Found) -> T,
    report: Report<'_>,
) -> Result<Snapshot<T>, ToolError> {
    let mut why = String::new();
    for _ in 0..ATTEMPTS_MAX {
        let mut stand = database.run(|transaction| stand(transaction, region))?;
        let mut snapshot = Snapshot { own: None, homes: BTreeMap::new(), strays: Vec::new() };
        for range in [region.chunks(), region.entities()] {
            read_homes(database, region, range, &mut snapshot, &mut take, report)?;
        }
        for _ in 0..ROUNDS_MAX {
            match database.run(|transaction| settle(transaction, region, &stand))? {
                Settled::Whole(own, again) => {
                    for (key, found) in again {
                        replace(&mut snapshot.homes, key, found, &mut take);
                    }
                    snapshot.own = own;
                    return Ok(snapshot);
                }
                Settled::Many(next, keys) => {
                    read_again(database, region, keys, &mut snapshot, &mut take)?;
                    stand = next;
                    why = "each time that the rewritten homes were read again, as many were rewritten".into();
                }
                Settled::Unknown(gap) => {
                    why = gap;
                    break;
                }
            }
        }
    }
    Err(ToolError::Changing(why))
}

fn replace<T>(homes: &mut BTreeMap<Vec<u8>, T>, key: Vec<u8>, found: Option<Found>, take: &mut impl FnMut(Found) -> T) {
    match found {
        Some(found) => homes.insert(key, take(found)),
        None => homes.remove(&key),
    };
}

/// The register; that it can't be read is an answer, too.
pub(super) fn find_own(transaction: &mut Transaction, region: Region) -> Result<FoundOwn, Error> {
    match read_own(transaction, region) {
        Ok(own) => Ok(own.map(Ok)),
        Err(error) if is_damage(&error) => Ok(Some(Err(error))),
        Err(error) => Err(error),
    }
}

fn stand(transaction: &mut Transaction, region: Region) -> Result<Stand, Error> {
    let own = find_own(transaction, region)?;
    let (begin, end) = region.changes();
    let last = match transaction.get_range(&RangeRead::new(&begin, &end).limit(1).reverse().snapshot()) {
        Ok(last) => last,
        // A log that can't be read tells nothing: whatever changes is then an unknown change.
        Err(error) if is_damage(&error) => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(Stand { own, cursor: last.into_iter().next().map(|(key, _)| key) })
}

fn settle(transaction: &mut Transaction, region: Region, stand: &Stand) -> Result<Settled, Error> {
    let began = Instant::now();
    let own = find_own(transaction, region)?;
    let (before, now) = match (&stand.own, &own) {
        (Some(Ok(before)), Some(Ok(now))) => (before, now),
        // A register that can't be read stays that way, as nobody can write behind it.
        (None, None) | (Some(Err(_)), Some(Err(_))) => return Ok(Settled::Whole(own, Vec::new())),
        _ => return Ok(Settled::Unknown("a world was made or taken away meanwhile".into())),
    };
    if before == now {
        return Ok(Settled::Whole(own, Vec::new()));
    }
    let entries = match read_changes(transaction, region, stand.cursor.as_deref(), CHANGES_MAX) {
        Ok(entries) => entries,
        Err(error) if is_damage(&error) => return Ok(Settled::Unknown(error.chain())),
        Err(error) => return Err(error),
    };
    let keys = match rewritten(region, before, now, entries.iter().map(|(_, entry)| entry)) {
        Ok(keys) => keys,
        Err(gap) => return Ok(Settled::Unknown(gap)),
    };
    let mut again = Vec::with_capacity(keys.len());
    let mut bytes = 0;
    for key in &keys {
        if began.elapsed() > PAGE_TIME_MAX || bytes > PAGE_BYTES {
            let cursor = entries.last().map(|(key, _)| key.clone()).or_else(|| stand.cursor.clone());
            return Ok(Settled::Many(Stand { own, cursor }, keys));
        }
        let (found, more) = read_one(transaction, region, key)?;
        bytes += more;
        again.push((key.clone(), found));
    }
    Ok(Settled::Whole(own, again))
}

/// The keys of the homes that flushes rewrote between two values of the register, or why that can't be told.
fn rewritten<'e>(
    region: Region,
    before: &OwnRecord,
    now: &OwnRecord,
    entries: impl Iterator<Item = &'e ChangeRecord>,
) -> Result<BTreeSet<Vec<u8>>, String> {
    let mut keys = BTreeSet::new();
    let mut last_frame = before.last_frame;
    for entry in entries {
        if entry.first_frame != last_frame + 1 {
            break;
        }
        if !entry.complete {
            return Err(format!("the flush of frame {} rewrote too much to be listed", entry.last_frame));
        }
        keys.extend(entry.chunks.iter().map(|code| region.chunk(ChunkKey::from_morton(*code))));
        keys.extend(entry.entities.iter().map(|id| region.entity(EntityId(*id))));
        last_frame = entry.last_frame;
    }
    if last_frame == now.last_frame {
        return Ok(keys);
    }
    Err(format!("its change log does not say what changed from frame {last_frame} to {}", now.last_frame))
}

/// One home with its parts, and how many bytes that was.
fn read_one(transaction: &mut Transaction, region: Region, key: &[u8]) -> Result<(Option<Found>, usize), Error> {
    // Parts lie behind `/`, and `0` is the byte behind that.
    let end = [key, b"0"].concat();
    let pairs = transaction.get_range(&RangeRead::new(key, &end).snapshot())?;
    let bytes = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
    let found = region.home_key(key).filter(|_| !pairs.is_empty()).map(|key| found(region, key.home, &pairs));
    Ok((found, bytes))
}

fn read_again<T>(
    database: &Database,
    region: Region,
    keys: BTreeSet<Vec<u8>>,
    snapshot: &mut Snapshot<T>,
    take: &mut impl FnMut(Found) -> T,
) -> Result<(), ToolError> {
    let mut keys: Vec<Vec<u8>> = keys.into_iter().collect();
    while !keys.is_empty() {
        let again = database.run(|transaction| {
            let (began, mut bytes, mut again) = (Instant::now(), 0, Vec::new());
            for key in keys.iter().rev() {
                let (found, more) = read_one(transaction, region, key)?;
                bytes += more;
                again.push((key.clone(), found));
                if began.elapsed() > PAGE_TIME_MAX || bytes > PAGE_BYTES {
                    break;
                }
            }
            Ok(again)
        })?;
        keys.truncate(keys.len() - again.len());
        for (key, found) in again {
            replace(&mut snapshot.homes, key, found, take);
        }
    }
    Ok(())
}

/// Reads all homes of a range, each whole in one transaction.
fn read_homes<T>(
    database: &Database,
    region: Region,
    (mut begin, end): (Vec<u8>, Vec<u8>),
    snapshot: &mut Snapshot<T>,
    take: &mut impl FnMut(Found) -> T,
    report: Report<'_>,
) -> Result<(), ToolError> {
    loop {
        let page = database.run(|transaction| read_page(transaction, region, &begin, &end))?;
        group(region, &page.pairs, snapshot, take);
        report(Progress { stage: "reading", done: snapshot.homes.len() as u64, total: None, unit: "homes" });
        match page.next {
            Some(next) => begin = next,
            None => return Ok(()),
        }
    }
}

struct Page {
    pairs: Vec<Pair>,
    /// Where the next page begins, if there is one.
    next: Option<Vec<u8>>,
}

/// The next pairs, cut between two homes.
fn read_page(transaction: &mut Transaction, region: Region, begin: &[u8], end: &[u8]) -> Result<Page, Error> {
    let began = Instant::now();
    let (mut pairs, mut bytes, mut from): (Vec<Pair>, usize, Vec<u8>) = (Vec::new(), 0, begin.to_vec());
    loop {
        let some = transaction.get_range(&RangeRead::new(&from, end).limit(BATCH_PAIRS).snapshot())?;
        let is_last = some.len() < BATCH_PAIRS;
        bytes += some.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        pairs.extend(some);
        let Some((last, _)) = pairs.last().filter(|_| !is_last) else { return Ok(Page { pairs, next: None }) };
        from = [&last[..], &[0]].concat();
        if bytes < PAGE_BYTES && began.elapsed() < PAGE_TIME_MAX {
            continue;
        }
        let home = |pair: &Pair| region.home_key(&pair.0).map(|key| key.home);
        let last_home = pairs.last().and_then(home);
        let cut = pairs.iter().rposition(|pair| home(pair) != last_home).map_or(0, |before| before + 1);
        // A page that holds nothing but part of one home goes on until that is whole.
        if cut > 0 {
            let next = Some(pairs[cut].0.clone());
            pairs.truncate(cut);
            return Ok(Page { pairs, next });
        }
    }
}

fn group<T>(region: Region, pairs: &[Pair], snapshot: &mut Snapshot<T>, take: &mut impl FnMut(Found) -> T) {
    let home = |pair: &Pair| region.home_key(&pair.0).map(|key| key.home);
    for pairs in pairs.chunk_by(|left, right| home(left) == home(right)) {
        match home(&pairs[0]) {
            Some(id) => {
                let found = found(region, id, pairs);
                let key = found.key.clone();
                snapshot.homes.insert(key, take(found));
            }
            None => snapshot.strays.extend(pairs.iter().map(|(key, _)| key.clone())),
        }
    }
}

/// Puts one home together of all its pairs.
fn found(region: Region, home: HomeId, pairs: &[Pair]) -> Found {
    let key = region.home(home);
    let mut assembler = Assembler::new(region);
    let mut found = Found {
        home,
        list: None,
        frame: None,
        record: Size::default(),
        parts: Size::default(),
        unreferenced: Size::default(),
        key,
    };
    for pair in pairs {
        let is_record = pair.0 == found.key;
        let before = assembler.unreferenced.len();
        let pushed = assembler.push(&pair.0, &pair.1);
        if is_record {
            found.record = Size::of(pair);
            // What can't be decoded, the assembler has said.
            found.frame = match HomeRecord::decode(&pair.1) {
                Ok(HomeRecord::Whole { head, .. } | HomeRecord::Parts { head, .. }) => Some(head.frame),
                _ => None,
            };
        } else if assembler.unreferenced.len() > before {
            found.unreferenced.add(Size::of(pair));
        } else {
            found.parts.add(Size::of(pair));
        }
        match pushed {
            Ok(Some((_, list))) => found.list = Some(Ok(list)),
            Err(error) if !matches!(found.list, Some(Err(_))) => found.list = Some(Err(error)),
            Ok(None) | Err(_) => {}
        }
    }
    if let Err(error) = assembler.finish()
        && !matches!(found.list, Some(Err(_)))
    {
        found.list = Some(Err(error));
    }
    found
}

/// What lies in the key space of this format, but is nothing that this build keeps of `region`: the first `limit` keys.
pub(super) fn read_strays(database: &Database, region: Region, limit: usize) -> Result<Vec<Vec<u8>>, ToolError> {
    let (space, space_end) = ([crate::keys::KEY_VERSION], [crate::keys::KEY_VERSION + 1]);
    let mut begin = space.to_vec();
    let mut strays = Vec::new();
    let known = known_ranges(region).into_iter().chain([(space_end.to_vec(), space_end.to_vec())]);
    for (known_begin, known_end) in known {
        let left = limit.saturating_sub(strays.len());
        let read = database
            .run(|transaction| transaction.get_range(&RangeRead::new(&begin, &known_begin).limit(left).snapshot()))?;
        strays.extend(read.into_iter().map(|(key, _)| key));
        begin = known_end;
    }
    Ok(strays)
}
