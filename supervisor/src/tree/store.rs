//! Makes the tree durable: a command's writes are one transaction of the key-value store.
//!
//! Keys begin with `tree/1/`, then `h` the register · `n` path · `s` session · `l` revision, place: a change · `t` number: a
//! staged write · `T` the register to come. Numbers are big-endian, so that key order is number order.
//!
//! What is too large for one transaction (an import, the end of a node that many are kept by) is staged: written aside in
//! several, decided by one that sets `T`, then carried out in several. Carrying out does no harm twice, so that a crash
//! anywhere leaves either the tree before or, once the stage has been carried out at the next start, the one after.

use super::command::Write;
use super::error::StoreError;
use super::limits::Limits;
use super::machine::{Damaged, Machine};
use super::state::{decode, encode};
use serde::{Deserialize, Serialize};
use vsekai_storage::Error;
use vsekai_storage::kv::{Database, Pair, RangeRead, Transaction};

const PREFIX: &[u8] = b"tree/1/";
/// Most bytes of writes in one transaction: well below what the store takes.
pub(super) const COMMIT_BYTES: usize = 4 << 20;
/// Most pairs that are read at a time.
const PAGE_PAIRS: usize = 128;

/// The store of one tree.
#[derive(Debug)]
pub struct TreeStore {
    database: Database,
    /// The register as this process wrote it last.
    head: Option<Vec<u8>>,
    commit_bytes: usize,
}

/// A write by its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Raw {
    Set(Vec<u8>, Vec<u8>),
    Clear(Vec<u8>),
    ClearRange(Vec<u8>, Vec<u8>),
}

impl Raw {
    fn bytes(&self) -> usize {
        match self {
            Raw::Set(key, value) => key.len() + value.len(),
            // A cleared key is a range of two keys to the store.
            Raw::Clear(key) => 2 * key.len() + 1,
            Raw::ClearRange(begin, end) => begin.len() + end.len(),
        }
    }

    fn apply(&self, transaction: &mut Transaction) {
        match self {
            Raw::Set(key, value) => transaction.set(key, value.clone()),
            Raw::Clear(key) => transaction.clear(key),
            Raw::ClearRange(begin, end) => transaction.clear_range(begin, end),
        }
    }
}

fn key(kind: u8, rest: &[u8]) -> Vec<u8> {
    [PREFIX, &[kind], rest].concat()
}

/// All keys of one kind: first, and behind the last.
fn range(kind: u8) -> (Vec<u8>, Vec<u8>) {
    (key(kind, b""), key(kind + 1, b""))
}

fn raws(write: &Write) -> Vec<Raw> {
    let record = |key: Vec<u8>, record: &Option<Vec<u8>>| match record {
        Some(record) => Raw::Set(key, record.clone()),
        None => Raw::Clear(key),
    };
    let all = |kind| {
        let (begin, end) = range(kind);
        Raw::ClearRange(begin, end)
    };
    match write {
        Write::Head(head) => vec![Raw::Set(key(b'h', b""), head.clone())],
        Write::Node(path, node) => vec![record(key(b'n', path.as_str().as_bytes()), node)],
        Write::Session(number, session) => vec![record(key(b's', &number.to_be_bytes()), session)],
        Write::Change { revision, place, bytes } => {
            let place = [&revision.to_be_bytes()[..], &place.to_be_bytes()].concat();
            vec![Raw::Set(key(b'l', &place), bytes.clone())]
        }
        Write::TrimLog(through) => {
            vec![Raw::ClearRange(key(b'l', b""), key(b'l', &(through + 1).to_be_bytes()))]
        }
        Write::ClearAll => vec![all(b'n'), all(b's'), all(b'l')],
    }
}

/// About the bytes that these take in a transaction.
pub(super) fn bytes_of(writes: &[Write]) -> usize {
    writes
        .iter()
        .map(|write| match write {
            Write::Head(bytes) | Write::Change { bytes, .. } => 32 + bytes.len(),
            Write::Node(path, record) => 32 + 2 * path.as_str().len() + record.as_ref().map_or(0, Vec::len),
            Write::Session(..) | Write::TrimLog(_) | Write::ClearAll => 96,
        })
        .sum()
}

impl TreeStore {
    /// Reads the tree that is in the store; an empty one if there is none.
    ///
    /// # Errors
    /// When the store fails, or what is in it is damaged.
    pub fn load(database: Database, limits: Limits) -> Result<(TreeStore, Machine), StoreError> {
        if !limits.fit_the_store() {
            return Err(StoreError::Limits);
        }
        let mut store = TreeStore { database, head: None, commit_bytes: COMMIT_BYTES };
        if let Some(head) = store.database.run(|transaction| transaction.get(&key(b'T', b"")))? {
            store.carry_out(&head)?;
        }
        store.head = store.database.run(|transaction| transaction.get(&key(b'h', b"")))?;
        let Some(head) = &store.head else { return Ok((store, Machine::new(limits))) };

        let mut nodes = Vec::new();
        store.read(b'n', |rest, record| {
            let path = std::str::from_utf8(rest).ok().and_then(|path| path.parse().ok());
            nodes.push((path?, record));
            Some(())
        })?;
        let mut sessions = Vec::new();
        store.read(b's', |rest, record| {
            sessions.push((u64::from_be_bytes(rest.try_into().ok()?), record));
            Some(())
        })?;
        let mut changes = Vec::new();
        store.read(b'l', |rest, record| {
            changes.push((u64::from_be_bytes(*rest.first_chunk()?), record));
            Some(())
        })?;
        let machine = Machine::restore(limits, head, nodes, sessions, changes)?;
        Ok((store, machine))
    }

    /// Stages what is larger than this, so that tests need no large trees for it.
    pub fn stage_beyond(&mut self, bytes: usize) {
        self.commit_bytes = bytes;
    }

    fn read(&self, kind: u8, mut each: impl FnMut(&[u8], Vec<u8>) -> Option<()>) -> Result<(), StoreError> {
        let (mut begin, end) = range(kind);
        loop {
            let pairs = self.page(&begin, &end)?;
            let is_last = pairs.len() < PAGE_PAIRS;
            for (key, value) in pairs {
                begin = [&key[..], &[0]].concat();
                if each(&key[PREFIX.len() + 1..], value).is_none() {
                    let place = format!("the key {}", String::from_utf8_lossy(&key));
                    return Err(Damaged { place, detail: "it is no key of this format".into() }.into());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    fn page(&self, begin: &[u8], end: &[u8]) -> Result<Vec<Pair>, Error> {
        self.database.run(|transaction| transaction.get_range(&RangeRead::new(begin, end).limit(PAGE_PAIRS)))
    }

    /// Makes all of these durable, or none. The last of them is the register, as from [`Machine::apply`].
    ///
    /// # Errors
    /// Then it is not known which. The tree must be opened anew.
    pub fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let Some(head) = writes.iter().rev().find_map(|write| match write {
            Write::Head(head) => Some(head.clone()),
            _ => None,
        }) else {
            return Ok(());
        };
        let raws: Vec<Raw> = writes.iter().flat_map(raws).collect();
        if raws.iter().map(Raw::bytes).sum::<usize>() <= self.commit_bytes {
            self.decide(&head, |transaction| raws.iter().for_each(|raw| raw.apply(transaction)))?;
        } else {
            self.stage(&raws)?;
            self.decide(&head, |transaction| transaction.set(&key(b'T', b""), head.clone()))?;
            self.carry_out(&head)?;
        }
        self.head = Some(head);
        Ok(())
    }

    /// Runs the transaction that a commit happens by, unless another process has written the tree. It may be tried again
    /// when it is not known whether it happened: then it finds its own register.
    fn decide(&self, head: &[u8], write: impl Fn(&mut Transaction)) -> Result<(), StoreError> {
        let is_ours = self.database.run_idempotent(|transaction| {
            let found = transaction.get(&key(b'h', b""))?;
            let is_ours = found == self.head || found.as_deref() == Some(head);
            if is_ours {
                write(transaction);
            }
            Ok(is_ours)
        })?;
        if is_ours { Ok(()) } else { Err(StoreError::Fenced) }
    }

    fn stage(&self, raws: &[Raw]) -> Result<(), StoreError> {
        let (begin, end) = range(b't');
        self.database.run_idempotent(|transaction| {
            transaction.clear_range(&begin, &end);
            Ok(())
        })?;
        let staged: Vec<Pair> =
            raws.iter().zip(0u64..).map(|(raw, number)| (key(b't', &number.to_be_bytes()), encode(raw))).collect();
        for pairs in self.batches(&staged, |(key, value)| key.len() + value.len()) {
            self.database.run_idempotent(|transaction| {
                pairs.iter().for_each(|(key, value)| transaction.set(key, value.clone()));
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Carries out what is staged, in order, and takes the stage away.
    fn carry_out(&self, head: &[u8]) -> Result<(), StoreError> {
        let mut failed = Ok(());
        let mut raws: Vec<Raw> = Vec::new();
        self.read(b't', |_, record| {
            match decode(&record) {
                Ok(raw) => raws.push(raw),
                Err(detail) => failed = Err(Damaged { place: "a staged write".into(), detail }),
            }
            Some(())
        })?;
        failed?;
        for raws in self.batches(&raws, Raw::bytes) {
            self.database.run_idempotent(|transaction| {
                raws.iter().for_each(|raw| raw.apply(transaction));
                Ok(())
            })?;
        }
        let (begin, end) = range(b't');
        self.database.run_idempotent(|transaction| {
            transaction.set(&key(b'h', b""), head.to_vec());
            transaction.clear(&key(b'T', b""));
            transaction.clear_range(&begin, &end);
            Ok(())
        })?;
        Ok(())
    }

    /// Cuts into parts that fit into a transaction each.
    fn batches<'a, T>(&self, items: &'a [T], bytes: impl Fn(&T) -> usize) -> Vec<&'a [T]> {
        let mut batches = Vec::new();
        let (mut begin, mut sum) = (0, 0);
        for (at, item) in items.iter().enumerate() {
            let more = bytes(item);
            if sum + more > self.commit_bytes && at > begin {
                batches.push(&items[begin..at]);
                (begin, sum) = (at, 0);
            }
            sum += more;
        }
        batches.push(&items[begin..]);
        batches
    }
}
