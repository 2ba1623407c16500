//! The `own` register, and the only way to write to a region: with a check or a compare-and-set of that register.

use crate::error::Error;
use crate::keys::Region;
use crate::kv::{Database, Transaction};
use crate::planted::{Bug, is_planted};
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
    let found = if is_planted(Bug::FenceReadUntracked) {
        transaction.get_snapshot(&region.own())?
    } else {
        transaction.get(&region.own())?
    };
    match found {
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

    pub(crate) fn region(&self) -> Region {
        self.region
    }

    /// The number that the next [`Register::update`] will have: no other transaction of the region ever has the same.
    pub(crate) fn next_commit_id(&self) -> u64 {
        self.own.last_commit_id + 1
    }

    /// Writes `next` as the register, and whatever `body` writes, in one transaction.
    ///
    /// When the store can't say whether it happened, the next attempt finds out: the register then holds `next`, whose
    /// commit id no other transaction has.
    pub(crate) fn update(
        &mut self,
        mut next: OwnRecord,
        mut body: impl FnMut(&mut Transaction) -> Result<(), Error>,
    ) -> Result<(), Error> {
        next.last_commit_id = self.next_commit_id();
        self.database.run_idempotent(|transaction| {
            let found = read_own(transaction, self.region)?;
            if found.as_ref() == Some(&next) && !is_planted(Bug::UnknownRetriedBlindly) {
                return Ok(());
            }
            self.check(found.as_ref())?;
            body(transaction)?;
            transaction.set(&self.region.own(), next.encode());
            Ok(())
        })?;
        self.own = next;
        Ok(())
    }

    /// Writes what changes no state, in one transaction: what nothing refers to yet, or no more. `body` may run twice.
    pub(crate) fn write_aside(&self, mut body: impl FnMut(&mut Transaction) -> Result<(), Error>) -> Result<(), Error> {
        self.database.run_idempotent(|transaction| {
            self.check(read_own(transaction, self.region)?.as_ref())?;
            body(transaction)
        })
    }

    /// Reads at one version at which this writer still owns the region.
    pub(crate) fn read<T>(&self, body: impl FnMut(&mut Transaction) -> Result<T, Error>) -> Result<T, Error> {
        let mut body = body;
        self.database.run(|transaction| {
            self.check(read_own(transaction, self.region)?.as_ref())?;
            body(transaction)
        })
    }

    fn check(&self, found: Option<&OwnRecord>) -> Result<(), Error> {
        if found == Some(&self.own) || is_planted(Bug::FenceSkipped) {
            return Ok(());
        }
        Err(Error::Fenced { ours: self.own.epoch, found: found.map_or(0, |own| own.epoch) })
    }

    /// Raises the epoch, which fences every other writer, reserves the first block of ids, and says which journal is in
    /// front of the store from now on.
    pub(crate) fn take_over(&mut self, journal: u64, journal_place: &str) -> Result<IdBlock, Error> {
        let (mut next, block) = self.reserved(ID_BLOCK)?;
        next.epoch += 1;
        next.journal = journal;
        journal_place.clone_into(&mut next.journal_place);
        self.update(next, |_| Ok(()))?;
        Ok(block)
    }

    /// Says that no frame is in the journal that the store lacks. The last thing that an owner writes.
    pub(crate) fn leave(&mut self) -> Result<(), Error> {
        let next = OwnRecord { journal: 0, journal_place: String::new(), ..self.own.clone() };
        self.update(next, |_| Ok(()))
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
