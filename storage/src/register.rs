//! The `own` register, and the only way to write to a region: with a check or a compare-and-set of that register.

use crate::error::Error;
use crate::keys::Region;
use crate::kv::{Database, Transaction};
use crate::planted::{Bug, is_planted};
use std::sync::Arc;
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
    /// `None`: what fails is told at once.
    patience: Option<Arc<dyn Patience>>,
}

/// Sits out an outage of the store.
pub(crate) trait Patience: std::fmt::Debug + Send + Sync {
    /// Waits before the next attempt, the last one having failed so; false when there shall be none.
    fn wait(&self, error: &Error, attempt: u32) -> bool;
    /// The store has answered.
    fn answered(&self);
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
        Register { database, region, own, patience: None }
    }

    /// From now on an outage of the store is sat out with `patience`.
    pub(crate) fn be_patient(&mut self, patience: Arc<dyn Patience>) {
        self.patience = Some(patience);
    }

    /// Tries until the store has answered. The very same is tried again, so that an attempt whose answer was lost is
    /// recognised.
    fn sit_out<T>(&self, mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        let Some(patience) = &self.patience else { return attempt() };
        for number in 0.. {
            match attempt() {
                Err(error) if error.may_pass() && patience.wait(&error, number) => {}
                other => {
                    if other.is_ok() {
                        patience.answered();
                    }
                    return other;
                }
            }
        }
        unreachable!("there is always a next attempt")
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
        self.sit_out(|| {
            self.database.run_idempotent(|transaction| {
                let found = read_own(transaction, self.region)?;
                if found.as_ref() == Some(&next) && !is_planted(Bug::UnknownRetriedBlindly) {
                    return Ok(());
                }
                self.check(found.as_ref())?;
                body(transaction)?;
                transaction.set(&self.region.own(), next.encode());
                Ok(())
            })
        })?;
        self.own = next;
        Ok(())
    }

    /// Writes what changes no state, in one transaction: what nothing refers to yet, or no more. `body` may run twice.
    pub(crate) fn write_aside(&self, mut body: impl FnMut(&mut Transaction) -> Result<(), Error>) -> Result<(), Error> {
        self.sit_out(|| {
            self.database.run_idempotent(|transaction| {
                self.check(read_own(transaction, self.region)?.as_ref())?;
                body(transaction)
            })
        })
    }

    /// Reads at one version at which this writer still owns the region.
    pub(crate) fn read<T>(&self, body: impl FnMut(&mut Transaction) -> Result<T, Error>) -> Result<T, Error> {
        let mut body = body;
        self.sit_out(|| {
            self.database.run(|transaction| {
                self.check(read_own(transaction, self.region)?.as_ref())?;
                body(transaction)
            })
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

    /// For an owner that is dead and whose journal is in the store: raises the epoch, so that it can't write wherever it may
    /// still be, and says that no frame is missing.
    pub(crate) fn retire(&mut self) -> Result<(), Error> {
        let next =
            OwnRecord { epoch: self.own.epoch + 1, journal: 0, journal_place: String::new(), ..self.own.clone() };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Fault, RandomFaults};

    const HOME: &[u8] = b"a home";

    fn owned(database: &Database) -> Register {
        let own = OwnRecord {
            epoch: 1,
            last_frame: 0,
            last_lsn: 0,
            state_hash: 0,
            ids_reserved_to: 100,
            last_commit_id: 1,
            journal: 7,
            journal_place: "here".into(),
        };
        database
            .run(|transaction| {
                transaction.set(&Region::WHOLE.own(), own.encode());
                Ok(())
            })
            .unwrap();
        Register::new(database.clone(), Region::WHOLE, own)
    }

    fn again(register: &Register) -> Register {
        Register::new(register.database.clone(), register.region, register.own.clone())
    }

    fn home(database: &Database) -> Option<Vec<u8>> {
        database.begin().unwrap().get(HOME).unwrap()
    }

    fn flush(register: &mut Register, value: &[u8], mut meanwhile: impl FnMut()) -> Result<(), Error> {
        let next = OwnRecord { last_frame: register.own.last_frame + 1, ..register.own.clone() };
        register.update(next, |transaction| {
            transaction.set(HOME, value);
            meanwhile();
            Ok(())
        })
    }

    /// What a shard that was taken over writes later must not arrive, at whatever moment the takeover came.
    #[test]
    fn fence() {
        let database = Database::open("mem:").unwrap();
        let mut zombie = owned(&database);
        let mut successor = again(&zombie);
        flush(&mut zombie, b"before", || ()).unwrap();
        successor.own = zombie.own.clone();

        // The takeover comes in the middle of a transaction of the zombie's.
        let mut taken_over = false;
        let error = flush(&mut zombie, b"late", || {
            if !std::mem::replace(&mut taken_over, true) {
                successor.take_over(8, "there").unwrap();
            }
        });
        assert!(matches!(error, Err(Error::Fenced { ours: 1, found: 2 })), "{error:?}");
        assert_eq!(home(&database).unwrap(), b"before");

        // It comes before one.
        assert!(matches!(flush(&mut zombie, b"late", || ()), Err(Error::Fenced { .. })));
        assert!(matches!(zombie.reserve_ids(5), Err(Error::Fenced { .. })));
        let aside = zombie.write_aside(|transaction| {
            transaction.set(HOME, "late");
            Ok(())
        });
        assert!(matches!(aside, Err(Error::Fenced { .. })));
        assert!(matches!(zombie.read(|transaction| transaction.get(HOME)), Err(Error::Fenced { .. })));
        assert_eq!(home(&database).unwrap(), b"before");

        flush(&mut successor, b"after", || ()).unwrap();
        assert_eq!(home(&database).unwrap(), b"after");
        let own = database.run(|transaction| read_own(transaction, Region::WHOLE)).unwrap().unwrap();
        assert_eq!((own.epoch, own.journal, own.journal_place.as_str(), own.last_frame), (2, 8, "there", 2));
    }

    /// A commit whose answer is lost happens once, whether it had happened or not.
    #[test]
    fn unknown() {
        for fault in [Fault::UnknownButCommitted, Fault::UnknownAndLost] {
            let database = Database::open("mem:").unwrap();
            let mut register = owned(&database);
            database.fail_next_commits([fault, fault, fault]);
            flush(&mut register, b"once", || ()).unwrap();
            let found = database.run(|transaction| read_own(transaction, Region::WHOLE)).unwrap().unwrap();
            assert_eq!((&found, found.last_commit_id, found.last_frame), (register.own(), 2, 1));
            database.fail_next_commits([fault]);
            let first = register.reserve_ids(10).unwrap();
            let second = register.reserve_ids(10).unwrap();
            assert_eq!((first, second), (IdBlock { next: 100, end: 110 }, IdBlock { next: 110, end: 120 }));
        }
    }

    #[test]
    fn all_kinds_of_trouble_at_random_change_nothing_in_the_outcome() {
        let database = Database::open("mem:").unwrap();
        let mut register = owned(&database);
        database.fail_at_random(Some(RandomFaults { seed: 5, commits_per_mille: 60, reads_per_mille: 60 }));
        for number in 0..200u64 {
            flush(&mut register, &number.to_be_bytes(), || ()).unwrap();
        }
        database.fail_at_random(None);
        assert_eq!(home(&database).unwrap(), 199u64.to_be_bytes());
        assert_eq!((register.own().last_frame, register.own().last_commit_id), (200, 201));
    }
}
