//! Brings what a dead shard has left in its journal into the store, for whoever looks after it.
//!
//! It is the first half of what the next start would do, by the same code, and as safe to interrupt: each batch is a
//! transaction with the cursor in it. The lock comes first, then the frames, then the epoch; in every crash in between the
//! journal and `own` still fit each other.

use super::recover::{Pair, pair};
use crate::config::Config;
use crate::disk::{Disk, LockedDirectory, RealDisk};
use crate::error::Error;
use crate::flush::Flusher;
use crate::journal::segments::list;
use crate::journal::{Header, scan};
use crate::keys::Region;
use crate::kv::Database;
use crate::register::{Register, read_own};
use std::sync::Arc;

/// How far a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Frames brought into the store.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of frames that the store does not have yet.
    pub backlog_bytes: u64,
    /// The last frame in the store; 0 when there is nothing in the journal, or no world.
    pub frame: u64,
    /// The hash of the state after it.
    pub state_hash: u64,
}

/// Brings all frames of the journal into the store, raises the epoch there, which fences the dead owner for good, and says
/// there that the journal holds nothing more: from then on a shard may go on from the store alone. `tell` hears how far
/// it is. When nothing is missing, nothing is written; a journal that never was is not made.
///
/// # Errors
/// [`Error::InUse`] when somebody holds the journal, or the store; [`Error::may_pass`] when another try may succeed. What was
/// brought in by then stays.
pub fn drain_journal(config: &Config, mut tell: impl FnMut(&Drained)) -> Result<Drained, Error> {
    config.validate()?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut drained = Drained::default();
    if list(&*disk, &config.journal_dir)?.is_empty() {
        return Ok(drained);
    }
    let directory = LockedDirectory::open(&disk, &config.journal_dir)?;
    let database = Database::open_on_disk(&config.store_url, &disk)?;
    let own = database.run(|transaction| read_own(transaction, Region::WHOLE))?;
    if let Some(own) = &own {
        (drained.frame, drained.state_hash) = (own.last_frame, own.state_hash);
        // What a clean stop leaves, or a drain: nobody has written since.
        if own.journal == 0 {
            return Ok(drained);
        }
    }
    let stored_lsn = own.map_or(0, |own| own.last_lsn);
    let count = |header: &Header| {
        drained.backlog_bytes += if header.lsn > stored_lsn { u64::from(header.length) } else { 0 };
        Ok(())
    };
    let Pair { segments, own, last_lsn, .. } = pair(&database, directory, false, count)?;
    let Some(own) = own else { return Ok(drained) };
    if last_lsn <= own.last_lsn {
        drained.backlog_bytes = 0;
    }
    tell(&drained);
    let mut flusher = Flusher::new(Register::new(database, Region::WHOLE, own), segments, config);
    while !flusher.has(last_lsn) {
        let flushed = flusher.flush_batch(last_lsn)?;
        drained.frames += flushed.frames;
        drained.bytes += flushed.payload_bytes;
        drained.backlog_bytes = drained.backlog_bytes.saturating_sub(flushed.payload_bytes);
        (drained.frame, drained.state_hash) = (flusher.own().last_frame, flusher.own().state_hash);
        tell(&drained);
    }
    flusher.into_register().retire()?;
    drained.backlog_bytes = 0;
    Ok(drained)
}

/// Bytes of all frames in a journal, of which the store may have some; 0 when there is none. Changes nothing.
///
/// # Errors
/// When the journal cannot be read, or is damaged.
pub fn journal_bytes(config: &Config) -> Result<u64, Error> {
    let mut bytes = 0;
    if !list(&RealDisk, &config.journal_dir)?.is_empty() {
        scan(&RealDisk, &config.journal_dir, |header| {
            bytes += u64::from(header.length);
            Ok(())
        })?;
    }
    Ok(bytes)
}
