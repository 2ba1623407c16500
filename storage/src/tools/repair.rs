//! What is intact in a damaged store, into a fresh one. The damaged store is never written to.

use super::carve::carve;
use super::export::read_changes_tail;
use super::import::{IMPORT_EPOCH, WorldWriter, imported};
use super::snapshot::{Found, read_region, read_strays};
use super::{ComponentHash, Progress, Report, ToolError, is_damage, list_hash, open_existing, place, visit_list};
use crate::disk::{OpenMode, RealDisk, open_locked};
use crate::error::Error;
use crate::keys::{HomeId, Region};
use crate::kv::{Database, StoreUrl, store_file};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use vsekai_schema::id::EntityId;
use vsekai_schema::record::{EntitiesReader, EntitiesWriter, OwnRecord};

/// When the register is lost, nobody knows up to where ids were reserved; items have ids, too, that are not looked for. So
/// many are skipped behind the largest entity: more than any world mints between two of its entities, and ids have 64 bits.
const IDS_SKIPPED: u64 = 1 << 32;
/// Most keys of no known kind that are listed.
const STRAYS_MAX: usize = 1_000;

/// Something that is not in the fresh store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// What: a key, a home, an entity.
    pub place: String,
    /// Why.
    pub detail: String,
}

/// What was repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairReport {
    /// What is not in the fresh store. A store of which nothing is lost was whole, or could be made so.
    pub lost: Vec<Lost>,
    /// Why the store could not be opened, when its file was searched instead.
    pub refused: Option<String>,
    /// True when the register was made anew.
    pub own_rebuilt: bool,
    /// Parts that nothing referred to, left out; no loss.
    pub unreferenced_parts: u64,
    /// The fresh store is at this frame.
    pub frame: u64,
    /// The hash of what it holds.
    pub state_hash: u64,
    /// Its next ids.
    pub ids_reserved_to: u64,
    /// Its chunks.
    pub chunks: u64,
    /// Its entities kept by themselves.
    pub alone: u64,
    /// All of its entities.
    pub entities: u64,
}

impl RepairReport {
    /// True when nothing is lost: the fresh store is the old one, and goes on with the same journal.
    pub fn is_whole(&self) -> bool {
        self.lost.is_empty() && !self.own_rebuilt
    }
}

/// A home that verifies.
struct Kept {
    home: HomeId,
    list: Vec<u8>,
    ids: BTreeSet<u64>,
    frame: Option<u64>,
}

/// What the fresh store will hold.
struct Plan {
    own: OwnRecord,
    own_rebuilt: bool,
    homes: BTreeMap<Vec<u8>, Kept>,
    lost: Vec<Lost>,
    unreferenced_parts: u64,
    state_hash: u64,
    entities: u64,
}

/// Brings what is intact in the store at `url` into `target`, which must be empty. `hash` is needed for the state hash of
/// what is left. The file of a `local:` store that can't be opened is searched for what is intact in it; it is read into memory.
///
/// # Errors
/// When there is nothing to be found, when the world's own entity is lost, or when `target` refuses.
pub fn repair(
    url: &str,
    target: &Database,
    region: Region,
    hash: ComponentHash,
    report: Report<'_>,
) -> Result<RepairReport, ToolError> {
    let StoreUrl::Local(directory) = StoreUrl::parse(url)? else {
        return repair_open(&open_existing(url)?, target, region, hash, report);
    };
    let path = store_file(&directory);
    if !path.is_file() {
        return Err(ToolError::NoStore(directory));
    }
    // Held until the end, so that no shard starts on it meanwhile.
    let _lock = open_locked(&RealDisk, &path, OpenMode::Existing)?.ok_or(ToolError::InUse(path))?;
    // A private copy: whatever opening does to a damaged file is not lasting.
    let opened = match Database::open_copy(url) {
        Ok(Some(database)) => plan(&database, region, hash, Vec::new(), report),
        Ok(None) => return Err(ToolError::NoStore(directory)),
        Err(error) => Err(error.into()),
    };
    match opened {
        Err(ToolError::Store(refused)) if is_damage(&refused) => {
            let plan = search(&directory, region, hash, report)?;
            write(plan, Some(refused.chain()), target, region, report)
        }
        other => write(other?, None, target, region, report),
    }
}

/// The same for a store that is open.
pub(super) fn repair_open(
    source: &Database,
    target: &Database,
    region: Region,
    hash: ComponentHash,
    report: Report<'_>,
) -> Result<RepairReport, ToolError> {
    let plan = plan(source, region, hash, Vec::new(), report)?;
    write(plan, None, target, region, report)
}

fn write(
    plan: Plan,
    refused: Option<String>,
    target: &Database,
    region: Region,
    report: Report<'_>,
) -> Result<RepairReport, ToolError> {
    let mut writer = WorldWriter::begin(target, region, false)?;
    let total = Some(plan.homes.len() as u64);
    for (done, kept) in (1..).zip(plan.homes.values()) {
        writer.put(kept.home, &kept.list, kept.frame.unwrap_or(0))?;
        report(Progress { stage: "writing", done, total, unit: "homes" });
    }
    writer.finish(&plan.own)?;
    let chunks = plan.homes.values().filter(|kept| matches!(kept.home, HomeId::Chunk(_))).count() as u64;
    Ok(RepairReport {
        lost: plan.lost,
        refused,
        own_rebuilt: plan.own_rebuilt,
        unreferenced_parts: plan.unreferenced_parts,
        frame: plan.own.last_frame,
        state_hash: plan.state_hash,
        ids_reserved_to: plan.own.ids_reserved_to,
        chunks,
        alone: plan.homes.len() as u64 - chunks,
        entities: plan.entities,
    })
}

/// Makes a plan of what is found in a file that can't be opened.
fn search(directory: &Path, region: Region, hash: ComponentHash, report: Report<'_>) -> Result<Plan, ToolError> {
    let carved = carve(directory, region)?;
    if let Some(own) = carved.own() {
        let chosen = carved.newest(own.last_frame)?;
        // Damage may have hit nothing that counts: the state hash tells.
        if let Ok(plan) = plan(&chosen.database, region, hash, Vec::new(), report)
            && plan.lost.is_empty()
        {
            return Ok(plan);
        }
    }
    let chosen = carved.newest(u64::MAX)?;
    let rotten = chosen.rotten.iter().map(|home| (home, "its record does not match its checksum".to_string()));
    let outdated = chosen.outdated.iter().map(|(home, frame)| {
        (home, format!("nothing was found of what frame {frame} made of it: it was emptied then, or is lost"))
    });
    let at = |home: &HomeId| format!("{} ({home})", place(&region.home(*home)));
    let mut known: Vec<Lost> = rotten.chain(outdated).map(|(home, detail)| Lost { place: at(home), detail }).collect();
    if known.is_empty() {
        let detail = "the file had to be searched, and nothing says that all was found".into();
        known.push(Lost { place: "the world".into(), detail });
    }
    let mut plan = plan(&chosen.database, region, hash, known, report)?;
    let OwnRecord { last_frame, ids_reserved_to, epoch, .. } = plan.own;
    let left = imported(last_frame, plan.state_hash, ids_reserved_to);
    plan.own = OwnRecord { epoch: epoch.max(IMPORT_EPOCH) + 1, ..left };
    Ok(plan)
}

/// Decides what to keep of a store of which `known` is lost already, and what register that gets.
fn plan(
    database: &Database,
    region: Region,
    hash: ComponentHash,
    known: Vec<Lost>,
    report: Report<'_>,
) -> Result<Plan, ToolError> {
    let Salvaged { own, mut homes, mut lost, unreferenced_parts, logged_frame } = salvage(database, region, report)?;
    lost.splice(..0, known);
    part_doubles(&mut homes, &mut lost);
    let (mut state_hash, mut entities, mut largest_id, mut largest_frame) = (0u64, 0, 0, logged_frame);
    for kept in homes.values() {
        let part = list_hash(&kept.list, hash).map_err(|e| Error::decode(kept.home.to_string(), e))?;
        state_hash = state_hash.wrapping_add(part);
        entities += kept.ids.len() as u64;
        largest_id = largest_id.max(kept.ids.last().copied().unwrap_or(0));
        largest_frame = largest_frame.max(kept.frame.unwrap_or(0));
    }
    if !homes.contains_key(&region.entity(EntityId::WORLD)) {
        let detail = "the world's own record is lost: without it no shard can start".into();
        let place = format!("entity {}", EntityId::WORLD);
        return Err(ToolError::NotWhole { count: lost.len().max(1), place, detail });
    }
    let own_rebuilt = own.is_none();
    let own = match own {
        Some(own) => {
            let mut ids = own.ids_reserved_to;
            if largest_id >= ids {
                let detail = format!("it reserved ids up to {ids}, but entity {largest_id} is there");
                lost.push(Lost { place: place(&region.own()), detail });
                ids = largest_id.saturating_add(IDS_SKIPPED);
            }
            if lost.is_empty() && own.state_hash != state_hash {
                let detail = format!(
                    "its state hash was {:016x}, that of what is there is {state_hash:016x}: something is missing or \
                     changed that cannot be named",
                    own.state_hash
                );
                lost.push(Lost { place: "the world".into(), detail });
            }
            if lost.is_empty() {
                // As it was: the journal in front of the old store fits the fresh one.
                own
            } else {
                let left = imported(own.last_frame.max(largest_frame), state_hash, ids);
                // The journal's frames are those of the whole world: they must never be put onto what is left of it.
                OwnRecord { epoch: own.epoch.max(IMPORT_EPOCH) + 1, ..left }
            }
        }
        None => imported(largest_frame, state_hash, largest_id.saturating_add(IDS_SKIPPED)),
    };
    Ok(Plan { own, own_rebuilt, homes, lost, unreferenced_parts, state_hash, entities })
}

struct Salvaged {
    own: Option<OwnRecord>,
    homes: BTreeMap<Vec<u8>, Kept>,
    lost: Vec<Lost>,
    unreferenced_parts: u64,
    /// The last frame in the change log, as far as that can be read.
    logged_frame: u64,
}

fn salvage(database: &Database, region: Region, report: Report<'_>) -> Result<Salvaged, ToolError> {
    let snapshot = read_region(database, region, |found: Found| found, report)?;
    if snapshot.own.is_none() && snapshot.homes.is_empty() {
        return Err(Error::NoWorld.into());
    }
    let mut lost = Vec::new();
    let mut lose = |place: String, detail: String| lost.push(Lost { place, detail });
    let strays = read_strays(database, region, STRAYS_MAX)?;
    for key in snapshot.strays.iter().chain(&strays) {
        lose(place(key), format!("it is no key of region {}", region.0));
    }
    let own = match snapshot.own {
        Some(Ok(own)) => Some(own),
        Some(Err(error)) => {
            lose(place(&region.own()), error.chain());
            None
        }
        None => {
            lose(place(&region.own()), "it is missing".into());
            None
        }
    };
    let mut homes = BTreeMap::new();
    let mut unreferenced_parts = 0;
    for (key, found) in snapshot.homes {
        unreferenced_parts += found.unreferenced.keys;
        let at = format!("{} ({})", place(&key), found.home);
        let list = match found.list {
            Some(Ok(list)) => list,
            Some(Err(error)) => {
                lose(at, error.chain());
                continue;
            }
            None => continue,
        };
        let mut ids = BTreeSet::new();
        let read = visit_list(&list, |id, _| {
            ids.insert(id.0);
        });
        match (read, found.home) {
            (Err(error), _) => lose(at, format!("its entity list: {error}")),
            (Ok(()), HomeId::Entity(id)) if !ids.iter().eq([&id.0]) => {
                lose(at, format!("it must hold entity {id} alone, but holds {ids:?}"));
            }
            (Ok(()), _) if ids.is_empty() => lose(at, "it holds no entity".into()),
            (Ok(()), home) => {
                homes.insert(key, Kept { home, list, ids, frame: found.frame });
            }
        }
    }
    // A log that can't be read says nothing; the fresh store begins a new one anyway.
    let logged = read_changes_tail(database, region, 1).unwrap_or_default();
    let logged_frame = logged.last().map_or(0, |entry| entry.last_frame);
    Ok(Salvaged { own, homes, lost, unreferenced_parts, logged_frame })
}

/// Leaves every entity in one home only: the one written last.
fn part_doubles(homes: &mut BTreeMap<Vec<u8>, Kept>, lost: &mut Vec<Lost>) {
    let mut places: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for (key, kept) in homes.iter() {
        for id in &kept.ids {
            places.entry(*id).or_default().push(key.clone());
        }
    }
    places.retain(|_, keys| keys.len() > 1);
    for (id, mut keys) in places {
        keys.sort_by_key(|key| homes.get(key).and_then(|kept| kept.frame));
        let Some(newest) = keys.pop().and_then(|key| Some(homes.get(&key)?.home)) else { continue };
        for key in keys {
            let Some(kept) = homes.get_mut(&key) else { continue };
            let detail = format!("it was in {} and in {newest}, which was written later and keeps it", kept.home);
            lost.push(Lost { place: format!("entity {id}"), detail });
            kept.ids.remove(&id);
            kept.list = without(&kept.list, EntityId(id));
            if kept.ids.is_empty() {
                homes.remove(&key);
            }
        }
    }
}

/// The list without one entity; it has been read before.
fn without(list: &[u8], id: EntityId) -> Vec<u8> {
    let mut writer = EntitiesWriter::new();
    for record in EntitiesReader::new(list).and_then(EntitiesReader::collect).unwrap_or_default() {
        if record.id != id {
            writer.push(record.id, record.components.iter().copied());
        }
    }
    writer.finish()
}
