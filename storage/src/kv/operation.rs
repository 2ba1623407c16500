//! What a transaction asks of a store, as plain data: the same in every store, and what `unix:` sends over its socket.

use crate::error::Error;
use crate::keys::readable;

/// Longest key in bytes, as in FoundationDB.
pub const KEY_BYTES_MAX: usize = 10_000;
/// Longest value in bytes, as in FoundationDB.
pub const VALUE_BYTES_MAX: usize = 100_000;
/// Most bytes of keys, values and conflict ranges in one transaction, as in FoundationDB.
pub const TRANSACTION_BYTES_MAX: usize = 10_000_000;
/// The first key that may not be written: FoundationDB keeps those from `\xff` on for itself.
pub const KEYS_END: &[u8] = b"\xff";

/// One key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The keys from the first to before the second.
pub type KeyRange = (Vec<u8>, Vec<u8>);

/// The 10 bytes that a commit writes in the place of each versionstamp: 8 of the commit's version and 2 of its place among
/// the commits of that version, big-endian, so that byte order is commit order.
pub type Versionstamp = [u8; 10];

/// The length of a [`Versionstamp`].
pub const VERSIONSTAMP_BYTES: usize = 10;

/// A read of several keys in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeRead<'k> {
    /// The first key.
    pub begin: &'k [u8],
    /// The key behind the last.
    pub end: &'k [u8],
    /// Most pairs returned.
    pub limit: usize,
    /// From the last key down instead of from the first up.
    pub reverse: bool,
    /// A snapshot read: what it finds may be changed by others without a conflict.
    pub snapshot: bool,
}

impl<'k> RangeRead<'k> {
    /// All of `begin..end`, upwards, tracked for conflicts.
    pub fn new(begin: &'k [u8], end: &'k [u8]) -> Self {
        RangeRead { begin, end, limit: usize::MAX, reverse: false, snapshot: false }
    }

    /// At most `limit` pairs.
    pub fn limit(self, limit: usize) -> Self {
        RangeRead { limit, ..self }
    }

    /// Downwards.
    pub fn reverse(self) -> Self {
        RangeRead { reverse: true, ..self }
    }

    /// Untracked.
    pub fn snapshot(self) -> Self {
        RangeRead { snapshot: true, ..self }
    }
}

/// A change that the store itself computes from the value it finds at commit, so that it needs no read and no conflict.
/// Numbers are little-endian, of the length of the operand; a missing value counts as zeros (FoundationDB `MutationType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Atomic {
    /// The sum, wrapping.
    Add = 0,
    /// The larger of two unsigned numbers; a missing value takes the operand.
    Max = 1,
    /// The smaller of two unsigned numbers; a missing value takes the operand.
    Min = 2,
    /// The later of two byte strings; a missing value takes the operand.
    ByteMax = 3,
    /// The earlier of two byte strings; a missing value takes the operand.
    ByteMin = 4,
    /// Takes the key away when its value equals the operand.
    CompareAndClear = 5,
}

impl Atomic {
    /// All of them, in order of their numbers.
    pub const ALL: [Atomic; 6] =
        [Atomic::Add, Atomic::Max, Atomic::Min, Atomic::ByteMax, Atomic::ByteMin, Atomic::CompareAndClear];

    /// What becomes of `stored` with this `operand`; `None` is no value.
    pub fn apply(self, stored: Option<&[u8]>, operand: &[u8]) -> Option<Vec<u8>> {
        let Some(stored) = stored else {
            return if self == Atomic::CompareAndClear { None } else { Some(operand.to_vec()) };
        };
        // A stored number of another length is cut, or filled up with zeros.
        let sized = || {
            let mut sized = stored.to_vec();
            sized.resize(operand.len(), 0);
            sized
        };
        let larger = |stored: &[u8]| stored.iter().rev().gt(operand.iter().rev());
        Some(match self {
            Atomic::Add => {
                let mut sum = sized();
                let mut carry = 0;
                for (digit, added) in sum.iter_mut().zip(operand) {
                    let total = u16::from(*digit) + u16::from(*added) + carry;
                    *digit = total.to_le_bytes()[0];
                    carry = total >> 8;
                }
                sum
            }
            Atomic::Max => Some(sized()).filter(|stored| larger(stored)).unwrap_or_else(|| operand.to_vec()),
            Atomic::Min => Some(sized()).filter(|stored| !larger(stored)).unwrap_or_else(|| operand.to_vec()),
            Atomic::ByteMax => stored.max(operand).to_vec(),
            Atomic::ByteMin => stored.min(operand).to_vec(),
            Atomic::CompareAndClear if stored == operand => return None,
            Atomic::CompareAndClear => stored.to_vec(),
        })
    }
}

/// One change, in the order in which the transaction made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// Gives the key a value.
    Set(Vec<u8>, Vec<u8>),
    /// Takes all keys of the range away.
    Clear(KeyRange),
    /// Computes the key's value from the one it has.
    Atomic(Atomic, Vec<u8>, Vec<u8>),
    /// Sets a key in which the versionstamp stands at the offset.
    SetVersionstampedKey(Vec<u8>, u32, Vec<u8>),
    /// Sets a value in which the versionstamp stands at the offset.
    SetVersionstampedValue(Vec<u8>, Vec<u8>, u32),
}

impl Mutation {
    /// Key and operand bytes, as they count against [`TRANSACTION_BYTES_MAX`].
    pub fn bytes(&self) -> usize {
        match self {
            Mutation::Set(key, value)
            | Mutation::Atomic(_, key, value)
            | Mutation::SetVersionstampedKey(key, _, value)
            | Mutation::SetVersionstampedValue(key, value, _) => key.len() + value.len(),
            Mutation::Clear((begin, end)) => begin.len() + end.len(),
        }
    }

    /// Refuses what no store may take: keys and values beyond the limits, system keys, a versionstamp that does not fit.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Mutation::Set(key, value) | Mutation::Atomic(_, key, value) => {
                check_key(key)?;
                check_value(value)
            }
            Mutation::Clear((begin, end)) => {
                check_bound(begin)?;
                check_bound(end)
            }
            Mutation::SetVersionstampedKey(key, offset, value) => {
                check_key(key)?;
                check_stamp("key", key, *offset)?;
                check_value(value)
            }
            Mutation::SetVersionstampedValue(key, value, offset) => {
                check_key(key)?;
                check_stamp("value", value, *offset)?;
                check_value(value)
            }
        }
    }
}

/// Everything a store needs to decide on a transaction and to apply it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitRequest {
    /// The version of the reads.
    pub read_version: u64,
    /// What was read and must not have changed since.
    pub read_conflicts: Vec<KeyRange>,
    /// What others may not have read since they began.
    pub write_conflicts: Vec<KeyRange>,
    /// The changes, in order.
    pub mutations: Vec<Mutation>,
}

/// A commit that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The version at which its writes can be read; of a transaction without writes that of its reads.
    pub version: u64,
    /// What stands where it asked for a versionstamp; `None` without writes.
    pub versionstamp: Option<Versionstamp>,
}

/// Which side of a conflict a range is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictKind {
    /// As if the range had been read.
    Read,
    /// As if the range had been written.
    Write,
}

/// The stamp of the `order`-th transaction of a version.
pub(crate) fn versionstamp(version: u64, order: u16) -> Versionstamp {
    let mut stamp = [0; VERSIONSTAMP_BYTES];
    stamp[..8].copy_from_slice(&version.to_be_bytes());
    stamp[8..].copy_from_slice(&order.to_be_bytes());
    stamp
}

/// The key right behind `key`.
pub(crate) fn key_behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

pub(crate) fn check_key(key: &[u8]) -> Result<(), Error> {
    if key >= KEYS_END {
        return Err(Error::KeyOutside(readable(key)));
    }
    check_bytes("key", key.len(), KEY_BYTES_MAX)
}

/// A bound of a range may be the end of all keys.
pub(crate) fn check_bound(key: &[u8]) -> Result<(), Error> {
    if key > KEYS_END {
        return Err(Error::KeyOutside(readable(key)));
    }
    // The key behind a longest key is a bound, too.
    check_bytes("key", key.len(), KEY_BYTES_MAX + 1)
}

fn check_value(value: &[u8]) -> Result<(), Error> {
    check_bytes("value", value.len(), VALUE_BYTES_MAX)
}

fn check_stamp(what: &'static str, template: &[u8], offset: u32) -> Result<(), Error> {
    if offset as usize + VERSIONSTAMP_BYTES > template.len() {
        let bytes = template.len();
        return Err(Error::Config(format!(
            "a versionstamp at byte {offset} does not fit into a {what} of {bytes} bytes"
        )));
    }
    Ok(())
}

fn check_bytes(what: &'static str, found: usize, limit: usize) -> Result<(), Error> {
    if found > limit { Err(Error::TooLarge { what, found, limit }) } else { Ok(()) }
}
