//! A transaction of the embedded stores, in this process or behind a socket: reads at one version with its own writes on top, and a commit that happens whole
//! or not at all. What each method promises stands at [`super::Transaction`].

use super::engine::TRANSACTION_AGE_MAX;
use super::operation::{
    Atomic, CommitRequest, Committed, ConflictKind, KeyRange, Mutation, Pair, RangeRead, TRANSACTION_BYTES_MAX,
    check_bound, check_key, key_behind,
};
use super::overlay::{Known, Overlay};
use super::source::{Source, SourceSnapshot};
use super::watch::WatchState;
use crate::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many pairs a range read asks the store for at a time.
const RANGE_BATCH: usize = 4_096;
/// The longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_millis(100);

/// A watch of an embedded store. Dropped, it is forgotten.
#[derive(Debug)]
pub(super) struct EmbeddedWatch(Arc<WatchState>);

impl EmbeddedWatch {
    pub(super) fn wait(&self, timeout: Duration) -> Result<bool, Error> {
        self.0.wait(timeout)
    }
}

/// A transaction of an embedded store.
#[derive(Debug)]
pub(super) struct EmbeddedTransaction {
    source: Source,
    began: Instant,
    snapshot: Option<SourceSnapshot>,
    reads: Vec<KeyRange>,
    write_conflicts: Vec<KeyRange>,
    overlay: Overlay,
    /// Watches to begin with the commit.
    watched: Vec<(Vec<u8>, Arc<WatchState>)>,
    retries: u32,
}

impl EmbeddedTransaction {
    pub(super) fn new(source: Source) -> Self {
        EmbeddedTransaction {
            source,
            began: Instant::now(),
            snapshot: None,
            reads: Vec::new(),
            write_conflicts: Vec::new(),
            overlay: Overlay::default(),
            watched: Vec::new(),
            retries: 0,
        }
    }

    pub(super) fn read_version(&mut self) -> Result<u64, Error> {
        Ok(self.snapshot()?.version())
    }

    pub(super) fn set_read_version(&mut self, version: u64) -> Result<(), Error> {
        if self.snapshot.is_some() {
            return Err(Error::Config("the read version is set after the first read".into()));
        }
        self.began = Instant::now();
        self.snapshot = Some(self.source.snapshot_at(version)?);
        Ok(())
    }

    fn snapshot(&mut self) -> Result<&SourceSnapshot, Error> {
        if self.snapshot.is_none() {
            self.began = Instant::now();
            self.snapshot = Some(self.source.snapshot()?);
        }
        if self.began.elapsed() > TRANSACTION_AGE_MAX {
            return Err(Error::TooOld);
        }
        self.snapshot.as_ref().ok_or(Error::TooOld)
    }

    pub(super) fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.get_as(key, false)
    }

    pub(super) fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.get_as(key, true)
    }

    fn get_as(&mut self, key: &[u8], snapshot_read: bool) -> Result<Option<Vec<u8>>, Error> {
        check_key(key)?;
        if let Known::Value(value) = self.overlay.known(key)? {
            return Ok(value);
        }
        let stored = self.snapshot()?.get(key)?;
        if !snapshot_read {
            self.reads.push((key.to_owned(), key_behind(key)));
        }
        Ok(self.overlay.over(key, stored))
    }

    pub(super) fn get_range(&mut self, read: &RangeRead<'_>) -> Result<Vec<Pair>, Error> {
        let RangeRead { begin, end, limit, reverse, snapshot: snapshot_read } = *read;
        check_bound(begin)?;
        check_bound(end)?;
        if begin >= end || limit == 0 {
            return Ok(Vec::new());
        }
        let snapshot = self.snapshot()?.clone();
        let mut own: Vec<&[u8]> = self.overlay.keys_in(begin, end)?.collect();
        if reverse {
            own.reverse();
        }
        let mut own = own.into_iter().peekable();
        let comes_first = |left: &[u8], right: &[u8]| if reverse { left > right } else { left < right };
        let mut pairs = Vec::new();
        let (mut low, mut high) = (begin.to_owned(), end.to_owned());
        'batches: loop {
            // Own clears may hide what is stored: then another batch is needed.
            let wanted = limit.saturating_sub(pairs.len()).saturating_add(own.len()).clamp(1, RANGE_BATCH);
            let stored = snapshot.range(&low, &high, wanted, reverse)?;
            let is_last = stored.len() < wanted;
            if let Some((last, _)) = stored.last() {
                if reverse {
                    high.clone_from(last);
                } else {
                    low = key_behind(last);
                }
            }
            for (key, value) in stored {
                while let Some(own_key) = own.next_if(|own_key| comes_first(own_key, &key)) {
                    push(&mut pairs, own_key.to_owned(), self.overlay.over(own_key, None));
                    if pairs.len() == limit {
                        break 'batches;
                    }
                }
                own.next_if(|own_key| *own_key == key);
                let value = self.overlay.over(&key, Some(value));
                push(&mut pairs, key, value);
                if pairs.len() == limit {
                    break 'batches;
                }
            }
            if is_last {
                break;
            }
            if self.began.elapsed() > TRANSACTION_AGE_MAX {
                return Err(Error::TooOld);
            }
        }
        for own_key in own {
            if pairs.len() == limit {
                break;
            }
            push(&mut pairs, own_key.to_owned(), self.overlay.over(own_key, None));
        }
        if !snapshot_read {
            self.reads.push(match pairs.last() {
                Some((last, _)) if pairs.len() == limit && reverse => (last.clone(), end.to_owned()),
                Some((last, _)) if pairs.len() == limit => (begin.to_owned(), key_behind(last)),
                _ => (begin.to_owned(), end.to_owned()),
            });
        }
        Ok(pairs)
    }

    pub(super) fn set(&mut self, key: &[u8], value: Vec<u8>) {
        self.overlay.push(Mutation::Set(key.to_owned(), value));
    }

    pub(super) fn clear(&mut self, key: &[u8]) {
        self.overlay.push(Mutation::Clear((key.to_owned(), key_behind(key))));
    }

    pub(super) fn clear_range(&mut self, begin: &[u8], end: &[u8]) {
        if begin < end {
            self.overlay.push(Mutation::Clear((begin.to_owned(), end.to_owned())));
        }
    }

    pub(super) fn atomic(&mut self, atomic: Atomic, key: &[u8], operand: &[u8]) {
        self.overlay.push(Mutation::Atomic(atomic, key.to_owned(), operand.to_owned()));
    }

    pub(super) fn set_versionstamped_key(&mut self, template: &[u8], offset: u32, value: &[u8]) {
        self.overlay.push(Mutation::SetVersionstampedKey(template.to_owned(), offset, value.to_owned()));
    }

    pub(super) fn set_versionstamped_value(&mut self, key: &[u8], template: &[u8], offset: u32) {
        self.overlay.push(Mutation::SetVersionstampedValue(key.to_owned(), template.to_owned(), offset));
    }

    pub(super) fn add_conflict_range(&mut self, kind: ConflictKind, begin: &[u8], end: &[u8]) -> Result<(), Error> {
        check_bound(begin)?;
        check_bound(end)?;
        let range = (begin.to_owned(), end.to_owned());
        match kind {
            ConflictKind::Read => {
                self.snapshot()?;
                self.reads.push(range);
            }
            ConflictKind::Write => self.write_conflicts.push(range),
        }
        Ok(())
    }

    pub(super) fn watch(&mut self, key: &[u8]) -> Result<EmbeddedWatch, Error> {
        let state = Arc::new(WatchState::new(self.get_snapshot(key)?));
        self.watched.push((key.to_owned(), state.clone()));
        Ok(EmbeddedWatch(state))
    }

    pub(super) fn commit(&mut self) -> Result<Committed, Error> {
        if self.overlay.is_empty() && self.write_conflicts.is_empty() {
            let version = self.read_version()?;
            self.begin_watches();
            return Ok(Committed { version, versionstamp: None });
        }
        let snapshot = match &self.snapshot {
            Some(snapshot) => snapshot.clone(),
            // Without reads any version does.
            None => self.snapshot()?.clone(),
        };
        if self.began.elapsed() > TRANSACTION_AGE_MAX {
            return Err(Error::TooOld);
        }
        let range_bytes =
            |ranges: &[KeyRange]| ranges.iter().map(|(begin, end)| begin.len() + end.len()).sum::<usize>();
        let bytes = self.overlay.bytes() + range_bytes(&self.reads) + range_bytes(&self.write_conflicts);
        if bytes > TRANSACTION_BYTES_MAX {
            return Err(Error::TooLarge { what: "transaction", found: bytes, limit: TRANSACTION_BYTES_MAX });
        }
        let mutations = std::mem::take(&mut self.overlay).into_mutations();
        mutations.iter().try_for_each(Mutation::check)?;
        let request = CommitRequest {
            read_version: snapshot.version(),
            read_conflicts: std::mem::take(&mut self.reads),
            write_conflicts: std::mem::take(&mut self.write_conflicts),
            mutations,
        };
        let committed = self.source.commit(&snapshot, request)?;
        self.begin_watches();
        Ok(committed)
    }

    fn begin_watches(&mut self) {
        std::mem::take(&mut self.watched).into_iter().for_each(|(key, state)| self.source.watch(key, &state));
    }

    pub(super) fn on_error(&mut self, error: Error) -> Result<(), Error> {
        if !error.is_retryable() && !matches!(error, Error::CommitUnknownResult) {
            return Err(error);
        }
        let retries = self.retries;
        *self = EmbeddedTransaction::new(self.source.clone());
        self.retries = retries + 1;
        // The first retry comes at once: most conflicts are over by then.
        let pause = Duration::from_micros(100) * 2u32.saturating_pow(retries.min(16));
        if retries > 0 {
            std::thread::sleep(pause.min(BACKOFF_MAX));
        }
        Ok(())
    }
}

impl Drop for EmbeddedTransaction {
    fn drop(&mut self) {
        for (_, watch) in &self.watched {
            watch.fire(Err("the transaction of the watch was not committed".into()));
        }
    }
}

fn push(pairs: &mut Vec<Pair>, key: Vec<u8>, value: Option<Vec<u8>>) {
    if let Some(value) = value {
        pairs.push((key, value));
    }
}
