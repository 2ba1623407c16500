//! A world into an empty store: from a file, or from another store.
//!
//! The register is written last: until then there is no world. What an import that was cut short has left is in the way of
//! the next one, until that is told to clear it.

use super::export::{ExportReader, read_world, verify_file};
use super::{ComponentHash, ExportSummary, Progress, Report, ToolError, list_hash};
use crate::error::Error;
use crate::home::{Encoded, PART_BYTES};
use crate::keys::{HomeId, KEY_VERSION, Region, readable};
use crate::kv::{Database, RangeRead, Transaction};
use crate::lease::{host, read_lease};
use crate::register::read_own;
use std::path::Path;
use vsekai_schema::record::{LeaseRecord, OwnRecord};

/// The generation of the parts that an imported world's homes have.
const FIRST_GENERATION: u64 = 1;
/// No journal has a record of this epoch: worlds that are made count from 1, and an imported world is taken over, which
/// raises the epoch, before its first record. So a journal of the world's former life is never taken for this one's.
pub(super) const IMPORT_EPOCH: u64 = 1 << 32;
/// Most bytes of keys and values in one transaction (FoundationDB: "over 1 MB, modify your design").
const TRANSACTION_BYTES: usize = 900_000;
/// What a key and its conflict range come to in a transaction, about.
const KEY_BYTES: usize = 128;

/// How an import goes about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportOptions {
    /// Clear what an import or a first start that was cut short has left. Never clears a world.
    pub clear_leftovers: bool,
    /// With it, the state hash is computed anew, and a world that has another one is refused.
    pub component_hash: Option<ComponentHash>,
}

/// Writes the world in the file at `path` into `database`, which must be empty. All of the file is checked before the first
/// key is written.
///
/// # Errors
/// When the file is not whole, the target not empty, or the store fails.
pub fn import_file(
    database: &Database,
    path: &Path,
    options: ImportOptions,
    report: Report<'_>,
) -> Result<ExportSummary, ToolError> {
    let summary = verify_file(path, report)?;
    if let Some(hash) = options.component_hash {
        verify_hash(path, hash)?;
    }
    let mut reader = ExportReader::open(path)?;
    let mut writer = WorldWriter::begin(database, summary.region, options.clear_leftovers)?;
    let (mut done, total) = (0, Some(summary.chunks + summary.alone));
    while let Some((home, list)) = reader.next_home()? {
        writer.put(home, &list, summary.frame)?;
        done += 1;
        report(Progress { stage: "writing", done, total, unit: "homes" });
    }
    if *reader.summary() != summary {
        let detail = "it was changed while it was read".into();
        return Err(ToolError::BadExport { path: path.to_owned(), detail });
    }
    writer.finish(&imported(summary.frame, summary.state_hash, summary.ids_reserved_to))?;
    Ok(summary)
}

fn verify_hash(path: &Path, hash: ComponentHash) -> Result<(), ToolError> {
    let mut reader = ExportReader::open(path)?;
    let mut sum = 0u64;
    while let Some((home, list)) = reader.next_home()? {
        let part = list_hash(&list, hash).map_err(|e| Error::decode(home.to_string(), e))?;
        sum = sum.wrapping_add(part);
    }
    let expected = reader.summary().state_hash;
    if sum != expected {
        let detail = format!("the state hash is {sum:016x}, but {expected:016x} was stored");
        return Err(ToolError::BadExport { path: path.to_owned(), detail });
    }
    Ok(())
}

/// Writes the world in `from` into `to`, which must be empty; returns its frame and how many homes it has.
///
/// # Errors
/// As [`read_world`] and [`import_file`].
pub fn copy(
    from: &Database,
    to: &Database,
    region: Region,
    options: ImportOptions,
    report: Report<'_>,
) -> Result<(u64, u64), ToolError> {
    let world = read_world(from, region, options.component_hash, report)?;
    let mut writer = WorldWriter::begin(to, region, options.clear_leftovers)?;
    let total = world.homes.len() as u64;
    for (done, (home, list)) in (1..).zip(&world.homes) {
        writer.put(*home, list, world.frame)?;
        report(Progress { stage: "writing", done, total: Some(total), unit: "homes" });
    }
    writer.finish(&imported(world.frame, world.state_hash, world.ids_reserved_to))?;
    Ok((world.frame, total))
}

/// The register of a world that begins a new life: no journal is in front of it.
pub(super) fn imported(frame: u64, state_hash: u64, ids_reserved_to: u64) -> OwnRecord {
    OwnRecord {
        epoch: IMPORT_EPOCH,
        last_frame: frame,
        last_lsn: 0,
        state_hash,
        ids_reserved_to,
        last_commit_id: FIRST_GENERATION,
        journal: 0,
        journal_place: String::new(),
    }
}

/// Writes a world into an empty store, in transactions of which each finds that nobody else does.
pub(super) struct WorldWriter {
    database: Database,
    region: Region,
    /// Stands in the place of the lease meanwhile.
    claim: Vec<u8>,
    batch: Vec<(Vec<u8>, Vec<u8>)>,
    batch_bytes: usize,
}

impl WorldWriter {
    /// Claims the store, if it is empty.
    pub(super) fn begin(database: &Database, region: Region, clear_leftovers: bool) -> Result<Self, ToolError> {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        let holder = format!("import by {}:{}", host(), std::process::id());
        let claim = LeaseRecord { epoch: high ^ low, beat: 0, ttl_ms: 0, holder }.encode();
        let refused = database.run_idempotent(|transaction| {
            if transaction.get(&region.lease())?.as_ref() == Some(&claim) {
                // The answer to the last attempt was lost.
                return Ok(None);
            }
            let has_world = transaction.get(&region.own())?.is_some();
            if clear_leftovers && !has_world {
                for (begin, end) in super::known_ranges(region) {
                    transaction.clear_range(&begin, &end);
                }
            }
            let first = transaction.get_range(&RangeRead::new(&[KEY_VERSION], &[KEY_VERSION + 1]).limit(1))?;
            if let Some((key, _)) = first.first() {
                return Ok(Some(ToolError::NotEmpty { key: readable(key), has_world }));
            }
            transaction.set(&region.lease(), claim.as_slice());
            Ok(None)
        })?;
        match refused {
            Some(refused) => Err(refused),
            None => Ok(WorldWriter { database: database.clone(), region, claim, batch: Vec::new(), batch_bytes: 0 }),
        }
    }

    /// Takes the next home.
    pub(super) fn put(&mut self, home: HomeId, list: &[u8], frame: u64) -> Result<(), ToolError> {
        let key = self.region.home(home);
        let encoded = Encoded::new(list, frame);
        if encoded.bytes() <= PART_BYTES {
            return self.push(key, encoded.whole());
        }
        for (key, bytes) in encoded.parts(&key, FIRST_GENERATION) {
            self.push(key, bytes.to_vec())?;
        }
        self.push(key, encoded.reference(FIRST_GENERATION))
    }

    fn push(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), ToolError> {
        let more = KEY_BYTES + value.len();
        if self.batch_bytes + more > TRANSACTION_BYTES {
            self.write()?;
        }
        self.batch_bytes += more;
        self.batch.push((key, value));
        Ok(())
    }

    fn write(&mut self) -> Result<(), ToolError> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let done = self.database.run_idempotent(|transaction| {
            if !self.is_ours(transaction)? {
                return Ok(false);
            }
            batch.iter().for_each(|(key, value)| transaction.set(key, value.as_slice()));
            Ok(true)
        })?;
        if done { Ok(()) } else { Err(self.disturbed()) }
    }

    /// Makes a world of what was put.
    pub(super) fn finish(mut self, own: &OwnRecord) -> Result<(), ToolError> {
        self.write()?;
        let done = self.database.run_idempotent(|transaction| {
            if read_own(transaction, self.region)?.as_ref() == Some(own) {
                // The answer to the last attempt was lost.
                return Ok(true);
            }
            if !self.is_ours(transaction)? {
                return Ok(false);
            }
            transaction.clear(&self.region.lease());
            transaction.set(&self.region.own(), own.encode());
            Ok(true)
        })?;
        if done { Ok(()) } else { Err(self.disturbed()) }
    }

    /// True while the claim stands and nobody has made a world.
    fn is_ours(&self, transaction: &mut Transaction) -> Result<bool, Error> {
        let claim = transaction.get(&self.region.lease())?;
        Ok(claim.as_ref() == Some(&self.claim) && transaction.get(&self.region.own())?.is_none())
    }

    fn disturbed(&self) -> ToolError {
        let lease = self.database.run(|transaction| read_lease(transaction, self.region)).ok().flatten();
        ToolError::Disturbed(lease.map_or_else(|| "its name is not known".into(), |lease| lease.holder))
    }
}
