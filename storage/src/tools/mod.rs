//! What operators do with a store: look whether it is whole, count, dump, export, import, copy and repair it. Works on every
//! store that [`Database`] opens, in transactions that keep FoundationDB's limits, also while a shard runs on the store.
//!
//! - `snapshot`: a region as it was after one frame, read in as many transactions as that takes.
//! - [`check`], [`stats`]: look only. [`export`], [`import`]: the whole world as one file (`storage/docs/export.md`).
//! - [`repair`]: what is intact, into a fresh store; `carve`: out of a file that the engine refuses.
//!
//! A component means nothing to storage. Who knows what it means passes that in: see [`ComponentHash`] and [`Judge`].

mod carve;
pub mod check;
pub mod export;
pub mod import;
pub mod repair;
mod snapshot;
pub mod stats;

use crate::error::Error;
use crate::keys::{Region, readable};
use crate::kv::{Database, StoreUrl, store_file};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;
use vsekai_schema::id::{EntityId, Tag};
use vsekai_schema::record::{EntitiesReader, EntityRecord};

pub use check::{CheckOptions, CheckReport, JournalReport, Problem, check};
pub use export::{ExportSummary, World, export_file, export_to, read_changes_tail, read_world, verify_file};
pub use import::{ImportOptions, copy, import_file};
pub use repair::{Lost, RepairReport, repair};
pub use stats::{LargestChunk, Space, StoreStats, stats};

/// The hash of one component record of one entity. The state hash is the wrapping sum over all of them.
pub type ComponentHash = fn(EntityId, Tag, &[u8]) -> u64;

/// Says what is wrong with a component record, if anything: a tag or version that this build does not know.
pub type Judge<'j> = &'j mut dyn FnMut(EntityId, Tag, &[u8]) -> Result<(), String>;

/// How far a long run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, as a verb phrase.
    pub stage: &'static str,
    /// How much of it is done.
    pub done: u64,
    /// How much there is to do, where that is known.
    pub total: Option<u64>,
    /// Of what.
    pub unit: &'static str,
}

/// Takes progress; called often, so it must be cheap.
pub type Report<'r> = &'r mut dyn FnMut(Progress);

/// Why a tool gave up. Nothing that was there before was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ToolError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// There is no such store: tools do not make one by looking.
    #[error("there is no store in {}", .0.display())]
    NoStore(PathBuf),
    /// A process holds the store. Ask that shard for an export, or stop it.
    #[error(
        "{} is in use by another process, probably a shard: have it export by `curl -X POST http://ADDRESS/api/export`, or \
         stop it first",
        .0.display()
    )]
    InUse(PathBuf),
    /// The world changed while it was read, and the change log did not say how. Try again, or stop the shard.
    #[error("the world changes faster than it can be read: {0}")]
    Changing(String),
    /// The store is not whole. `check` lists everything, `repair` takes out what is intact.
    #[error("the store is not whole: {count} problems, the first at {place}: {detail}")]
    NotWhole {
        /// How many problems.
        count: usize,
        /// Where the first is.
        place: String,
        /// What the first is.
        detail: String,
    },
    /// A world is never written over anything.
    #[error("the target is not empty, it holds key {key}{}", if *.has_world { "" } else { LEFTOVERS })]
    NotEmpty {
        /// The first key found.
        key: String,
        /// False when there is no world: what is there was left by an import or a start that was cut short.
        has_world: bool,
    },
    /// Somebody else writes into the same store. Have one of the two stop, and begin anew.
    #[error("somebody else writes into the target at the same time: {0}")]
    Disturbed(String),
    /// A file is not a whole export. Nothing was written.
    #[error("{} is no whole export: {detail}", .path.display())]
    BadExport {
        /// Which file.
        path: PathBuf,
        /// Where in it, and what was found.
        detail: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: io::Error,
    },
}

const LEFTOVERS: &str =
    " but no world: an import or a first start was cut short there; clear that with --clear-leftovers";

impl ToolError {
    fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        ToolError::File { action, path: path.to_owned(), source }
    }
}

/// Opens the store at `url` for a tool: like [`Database::open`], but never makes a `local:` store that is not there.
pub fn open_existing(url: &str) -> Result<Database, ToolError> {
    if let StoreUrl::Local(directory) = StoreUrl::parse(url)?
        && !store_file(&directory).is_file()
    {
        return Err(ToolError::NoStore(directory));
    }
    match Database::open(url) {
        Err(Error::InUse(path)) => Err(ToolError::InUse(path)),
        other => Ok(other?),
    }
}

/// True for an error that stays when the same is read again: the bytes are bad.
fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Store { .. } | Error::Decode { .. })
}

/// The entities of a list, as far as it can be read: ids, and what `visit` makes of their components.
fn visit_list(
    list: &[u8],
    mut visit: impl FnMut(EntityId, &[(Tag, &[u8])]),
) -> Result<(), vsekai_schema::codec::DecodeError> {
    let mut reader = EntitiesReader::new(list)?;
    let mut record = EntityRecord { id: EntityId(0), components: Vec::new() };
    while reader.next_into(&mut record)? {
        visit(record.id, &record.components);
    }
    Ok(())
}

/// The part of the state hash that a list stands for.
fn list_hash(list: &[u8], hash: ComponentHash) -> Result<u64, vsekai_schema::codec::DecodeError> {
    let mut sum = 0u64;
    visit_list(list, |id, components| {
        for (tag, record) in components {
            sum = sum.wrapping_add(hash(id, *tag, record));
        }
    })?;
    Ok(sum)
}

/// All that this build keeps of `region`: the first key and the key behind the last of each kind, in key order.
fn known_ranges(region: Region) -> [(Vec<u8>, Vec<u8>); 5] {
    let one = |key: Vec<u8>| {
        let behind = [&key[..], &[0]].concat();
        (key, behind)
    };
    [region.chunks(), region.changes(), region.entities(), one(region.lease()), one(region.own())]
}

fn place(key: &[u8]) -> String {
    format!("key {}", readable(key))
}

#[cfg(test)]
mod tests;
