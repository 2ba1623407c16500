//! A sign of life in the store, for stores that several processes use: it says when a takeover may be tried. That a takeover
//! is safe does not depend on it: the epoch decides in the store, and the journal's lock on the machine.
//!
//! Clocks of two machines are never compared: who waits for a lease to end watches on its own clock that no beat comes.

use crate::error::Error;
use crate::keys::Region;
use crate::kv::{Database, Transaction};
use crate::register::read_own;
use std::time::{Duration, Instant};
use vsekai_schema::record::LeaseRecord;

/// How many beats an owner makes in the time after which it would count as gone.
pub(crate) const BEATS: u32 = 4;

/// The owner's side.
#[derive(Debug)]
pub(crate) struct Lease {
    database: Database,
    region: Region,
    record: LeaseRecord,
}

impl Lease {
    pub(crate) fn new(database: Database, region: Region, epoch: u64, ttl: Duration) -> Self {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Lease { database, region, record: LeaseRecord { epoch, beat: 0, ttl_ms, holder: holder() } }
    }

    /// Shows a sign of life, unless another epoch owns the region.
    pub(crate) fn beat(&mut self) -> Result<(), Error> {
        self.record.beat += 1;
        self.write()
    }

    /// Says that nobody is there any more.
    pub(crate) fn leave(&mut self) -> Result<(), Error> {
        self.record.ttl_ms = 0;
        self.beat()
    }

    fn write(&self) -> Result<(), Error> {
        // Twice does no harm.
        self.database.run_idempotent(|transaction| {
            let found = read_own(transaction, self.region)?.map_or(0, |own| own.epoch);
            if found != self.record.epoch {
                return Err(Error::Fenced { ours: self.record.epoch, found });
            }
            transaction.set(&self.region.lease(), self.record.encode());
            Ok(())
        })
    }
}

/// The lease of `region`, if there ever was one.
pub(crate) fn read_lease(transaction: &mut Transaction, region: Region) -> Result<Option<LeaseRecord>, Error> {
    let Some(value) = transaction.get_snapshot(&region.lease())? else { return Ok(None) };
    LeaseRecord::decode(&value).map(Some).map_err(|e| Error::decode("the lease in the store", e))
}

/// What an observer finds out about the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It shows signs of life.
    Alive(String),
    /// It has not for as long as it said, or it said that it is gone.
    Gone,
    /// There never was one that shows any.
    Unknown,
}

/// How often an observer looks whether the owner has ended meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Beats that show that somebody is there. One may have been on its way to the store when its sender stopped for good.
const BEATS_OF_THE_LIVING: u32 = 2;

/// Watches the lease until it is known whether somebody is there: for one time to live behind the last beat at most, and no
/// longer than until `has_ended` says that the owner has ended meanwhile.
pub(crate) fn observe(
    database: &Database,
    region: Region,
    mut has_ended: impl FnMut() -> bool,
) -> Result<Owner, Error> {
    let mut beats = 0;
    loop {
        let (lease, watch) = database.run(|transaction| {
            let lease = read_lease(transaction, region)?;
            let watch = transaction.watch(&region.lease())?;
            Ok((lease, watch))
        })?;
        let Some(lease) = lease else { return Ok(Owner::Unknown) };
        if lease.ttl_ms == 0 {
            return Ok(Owner::Gone);
        }
        if beats == BEATS_OF_THE_LIVING {
            return Ok(Owner::Alive(lease.holder));
        }
        let began = Instant::now();
        loop {
            let left = Duration::from_millis(lease.ttl_ms).saturating_sub(began.elapsed());
            if has_ended() || left.is_zero() {
                return Ok(Owner::Gone);
            }
            if watch.wait(left.min(LOOK_INTERVAL))? {
                beats += 1;
                break;
            }
        }
    }
}

/// This process, for people: `host:pid`.
fn holder() -> String {
    format!("{}:{}", host(), std::process::id())
}

/// This machine's name.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use vsekai_schema::record::OwnRecord;

    #[test]
    fn an_observer_tells_the_living_from_the_gone() {
        let database = Database::open("mem:").unwrap();
        let region = Region::WHOLE;
        assert_eq!(observe(&database, region, || false).unwrap(), Owner::Unknown);
        let own = |epoch| OwnRecord {
            epoch,
            last_frame: 0,
            last_lsn: 0,
            state_hash: 0,
            ids_reserved_to: 0,
            last_commit_id: 0,
            journal: 0,
            journal_place: String::new(),
        };
        let take = |epoch| {
            database.run(|transaction| {
                transaction.set(&region.own(), own(epoch).encode());
                Ok(())
            })
        };
        take(1).unwrap();
        let mut lease = Lease::new(database.clone(), region, 1, Duration::from_millis(60));
        lease.beat().unwrap();
        assert_eq!(observe(&database, region, || false).unwrap(), Owner::Gone, "no second beat came");
        let mut looks = 0;
        let mut patient = Lease::new(database.clone(), region, 1, Duration::from_secs(600));
        patient.beat().unwrap();
        let ends = || {
            looks += 1;
            looks == 3
        };
        assert_eq!(observe(&database, region, ends).unwrap(), Owner::Gone, "it ended before its lease did");
        // A beat that was on its way when its sender stopped.
        let mut stopped = Lease::new(database.clone(), region, 1, Duration::from_millis(60));
        stopped.beat().unwrap();
        let mut straggler = Some(stopped);
        let arrives = || {
            if let Some(mut stopped) = straggler.take() {
                stopped.beat().unwrap();
            }
            false
        };
        assert_eq!(observe(&database, region, arrives).unwrap(), Owner::Gone, "one late beat is no life");
        let beating = database.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut lease = Lease::new(beating, region, 1, Duration::from_secs(600));
            while !stopped.load(Ordering::Relaxed) {
                lease.beat().unwrap();
                std::thread::yield_now();
            }
        });
        while read_lease(&mut database.begin().unwrap(), region).unwrap().unwrap().ttl_ms < 600_000 {
            std::thread::yield_now();
        }
        let found = observe(&database, region, || false).unwrap();
        assert!(matches!(&found, Owner::Alive(who) if who.ends_with(&std::process::id().to_string())), "{found:?}");
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        lease.leave().unwrap();
        assert_eq!(observe(&database, region, || false).unwrap(), Owner::Gone);
        take(2).unwrap();
        assert!(matches!(lease.beat(), Err(Error::Fenced { ours: 1, found: 2 })));
    }
}
