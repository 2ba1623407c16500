//! The `own` register, and the only way to write to a region: with a compare-and-set of that register.

use crate::error::Error;
use crate::keys::Region;
use crate::kv::{Database, Transaction};
use vsekai_schema::record::{IdBlock, OwnRecord};

/// How many entity ids are reserved at a time.
pub const ID_BLOCK: u64 = 1 << 20;

/// This writer's view of the register. Every transaction checks that the store still holds exactly this value; any
/// difference means that somebody else has written, and that this writer is fenced for good.
#[derive(Debug)]
pub(crate) struct Register {
    database: Database,
    region: Region,
    own: OwnRecord,
}

/// What the store says about the owner of `region`, or `None` when it holds no world.
pub(crate) fn read_own(transaction: &mut Transaction, region: Region) -> Result<Option<OwnRecord>, Error> {
    match transaction.get(&region.own())? {
        Some(bytes) => {
            OwnRecord::decode(&bytes).map(Some).map_err(|e| Error::decode("the register `own` of the store", e))
        }
        None => Ok(None),
    }
}

impl Register {
    /// Takes up a register as it was read or written.
    pub(crate) fn new(database: Database, region: Region, own: OwnRecord) -> Self {
        Register { database, region, own }
    }

    pub(crate) fn own(&self) -> &OwnRecord {
        &self.own
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    pub(crate) fn region(&self) -> Region {
        self.region
    }

    /// Writes `next` as the register, and whatever `body` writes, in one transaction.
    pub(crate) fn update(
        &mut self,
        mut next: OwnRecord,
        mut body: impl FnMut(&mut Transaction) -> Result<(), Error>,
    ) -> Result<(), Error> {
        next.last_commit_id = self.own.last_commit_id + 1;
        self.database.run(|transaction| {
            let found = read_own(transaction, self.region)?;
            if found.as_ref() != Some(&self.own) {
                return Err(Error::Fenced { ours: self.own.epoch, found: found.map_or(0, |own| own.epoch) });
            }
            body(transaction)?;
            transaction.set(&self.region.own(), next.encode());
            Ok(())
        })?;
        self.own = next;
        Ok(())
    }

    /// Raises the epoch, which fences every other writer, and reserves the first block of ids.
    pub(crate) fn take_over(&mut self) -> Result<IdBlock, Error> {
        let (mut next, block) = self.reserved(ID_BLOCK)?;
        next.epoch += 1;
        self.update(next, |_| Ok(()))?;
        Ok(block)
    }

    /// Reserves `count` more ids.
    pub(crate) fn reserve_ids(&mut self, count: u64) -> Result<IdBlock, Error> {
        let (next, block) = self.reserved(count)?;
        self.update(next, |_| Ok(()))?;
        Ok(block)
    }

    fn reserved(&self, count: u64) -> Result<(OwnRecord, IdBlock), Error> {
        let next = self.own.ids_reserved_to;
        let end =
            next.checked_add(count).ok_or_else(|| Error::corrupt("the register `own`", "entity ids are used up"))?;
        Ok((OwnRecord { ids_reserved_to: end, ..self.own.clone() }, IdBlock { next, end }))
    }
}
