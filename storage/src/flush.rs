//! Brings durable frames from the journal into the store, batch by batch, each in one transaction with the register that
//! says so.

use crate::error::Error;
use crate::fold::{Change, Fold, merge};
use crate::journal::{Segments, Tail};
use crate::keys::readable;
use crate::kv::Transaction;
use crate::register::Register;
use std::sync::Arc;
use vsekai_schema::id::EntityId;
use vsekai_schema::record::OwnRecord;

/// How much of the journal one transaction takes in: bounds the memory that a large backlog needs.
const BATCH_BYTES_MAX: usize = 64 << 20;

/// The only writer of the store once the world exists.
#[derive(Debug)]
pub(crate) struct Flusher {
    register: Register,
    segments: Arc<Segments>,
    tail: Tail,
}

/// What one transaction took in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flushed {
    pub(crate) frames: u64,
    pub(crate) payload_bytes: u64,
}

impl Flusher {
    /// Begins behind the last record that the store has.
    pub(crate) fn new(register: Register, segments: Arc<Segments>) -> Self {
        let tail = Tail::new(segments.clone(), register.own().last_lsn + 1);
        Flusher { register, segments, tail }
    }

    pub(crate) fn register(&mut self) -> &mut Register {
        &mut self.register
    }

    /// Ends the flusher and gives the register back.
    pub(crate) fn into_register(self) -> Register {
        self.register
    }

    pub(crate) fn own(&self) -> &OwnRecord {
        self.register.own()
    }

    /// True when the store has all records up to `lsn`.
    pub(crate) fn has(&self, lsn: u64) -> bool {
        self.tail.next_lsn() > lsn
    }

    /// Folds the next records, up to `durable_lsn`, into the store. Segments that are done with go away.
    pub(crate) fn flush_batch(&mut self, durable_lsn: u64) -> Result<Flushed, Error> {
        let records = self.tail.read_batch(durable_lsn, BATCH_BYTES_MAX)?;
        let mut next = self.register.own().clone();
        let mut fold = Fold::default();
        let mut payload_bytes = 0;
        for record in &records {
            if record.epoch != next.epoch {
                return Err(Error::Fenced { ours: record.epoch, found: next.epoch });
            }
            let place = || format!("the frame in journal record {}", record.lsn);
            let head = fold.add(&record.payload).map_err(|e| Error::decode(place(), e))?;
            if head.frame != next.last_frame + 1 {
                let detail = format!("it is frame {}, {} is next", head.frame, next.last_frame + 1);
                return Err(Error::corrupt(place(), detail));
            }
            next.last_frame = head.frame;
            next.last_lsn = record.lsn;
            next.state_hash = head.state_hash;
            payload_bytes += record.payload.len() as u64;
        }
        let flushed = Flushed { frames: records.len() as u64, payload_bytes };
        if flushed.frames > 0 {
            self.commit(next, &fold)?;
            self.segments.remove_stored(self.register.own().last_lsn)?;
            let (chunks, alone) = (fold.chunks.len(), fold.alone.len());
            tracing::debug!(frames = flushed.frames, chunks, alone, payload_bytes, "flushed");
        }
        Ok(flushed)
    }

    fn commit(&mut self, next: OwnRecord, fold: &Fold<'_>) -> Result<(), Error> {
        let region = self.register.region();
        self.register.update(next, |transaction| {
            for (chunk, changes) in &fold.chunks {
                rewrite(transaction, &region.chunk(*chunk), changes.iter())?;
            }
            for (id, change) in &fold.alone {
                rewrite(transaction, &region.entity(*id), std::iter::once((id, change)))?;
            }
            Ok(())
        })
    }
}

/// Applies the changes of one home to the entity list under `key`. The key of an emptied home goes away.
fn rewrite<'c, 'f: 'c>(
    transaction: &mut Transaction,
    key: &[u8],
    changes: impl Iterator<Item = (&'c EntityId, &'c Change<'f>)>,
) -> Result<(), Error> {
    let stored = transaction.get(key)?;
    let merged = merge(stored.as_deref(), changes);
    match merged.map_err(|e| Error::decode(format!("the value of key {} of the store", readable(key)), e))? {
        Some(list) => transaction.set(key, list),
        None if stored.is_some() => transaction.clear(key),
        None => {}
    }
    Ok(())
}
