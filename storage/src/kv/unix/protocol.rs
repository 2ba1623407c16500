//! What is said over the socket, as plain data and its bytes. `storage/docs/unix.md` describes it for other languages.
//!
//! Whatever comes from the other side is checked before it is believed: no input panics, and none makes this side
//! allocate more than a small multiple of the bytes that did arrive.

use crate::error::Error;
use crate::kv::operation::{
    Atomic, CommitRequest, Committed, KeyRange, Mutation, Pair, TRANSACTION_BYTES_MAX, VERSIONSTAMP_BYTES, check_bound,
};
use std::io::{self, Read};
use vsekai_schema::codec::{DecodeError, Reader, write_bytes, write_varint};

/// The version of the protocol. A server speaks this one and no other.
pub(super) const PROTOCOL_VERSION: u32 = 1;
/// How both sides begin.
const MAGIC: [u8; 4] = *b"VKVU";
/// Most bytes of one message, its length not counted.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Most mutations, and most ranges of either kind, in one commit: what they take in memory is bounded by this, and not
/// by the few bytes that each may have on the wire.
pub(super) const COMMIT_ITEMS_MAX: usize = 1_000_000;
/// A range answer is cut once it holds so many bytes of keys and values.
pub(super) const RANGE_BYTES_MAX: usize = 1 << 20;
/// The client's first bytes: magic, version, session.
pub(super) const CLIENT_HELLO_BYTES: usize = 4 + 4 + 16;
/// The server's first bytes: magic, version, verdict, instance.
pub(super) const SERVER_HELLO_BYTES: usize = 4 + 4 + 1 + 16;

/// Names one connection of one client; drawn at random, since to know it is to be allowed to end it.
pub(super) type Session = [u8; 16];
/// Names one run of one server; drawn at random.
pub(super) type Instance = [u8; 16];

/// What the client says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientHello {
    pub(super) version: u32,
    pub(super) session: Session,
}

/// Whether the server takes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Verdict {
    Accepted = 0,
    /// The client speaks another version.
    OtherVersion = 1,
    /// There are as many connections as the server takes.
    TooMany = 2,
}

/// What the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerHello {
    pub(super) version: u32,
    pub(super) verdict: Verdict,
    pub(super) instance: Instance,
}

impl ClientHello {
    pub(super) fn encode(&self) -> [u8; CLIENT_HELLO_BYTES] {
        let mut bytes = [0; CLIENT_HELLO_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..].copy_from_slice(&self.session);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; CLIENT_HELLO_BYTES]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(ClientHello { version: preamble(&mut reader)?, session: sixteen(&mut reader)? })
    }
}

impl ServerHello {
    pub(super) fn encode(&self) -> [u8; SERVER_HELLO_BYTES] {
        let mut bytes = [0; SERVER_HELLO_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8] = self.verdict as u8;
        bytes[9..].copy_from_slice(&self.instance);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; SERVER_HELLO_BYTES]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = preamble(&mut reader)?;
        let verdict = match reader.byte()? {
            0 => Verdict::Accepted,
            1 => Verdict::OtherVersion,
            2 => Verdict::TooMany,
            _ => return Err(DecodeError::Invalid("verdict")),
        };
        Ok(ServerHello { version, verdict, instance: sixteen(&mut reader)? })
    }
}

fn preamble(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    if reader.take(4)? != MAGIC {
        return Err(DecodeError::Invalid("beginning"));
    }
    let mut version = [0; 4];
    version.copy_from_slice(reader.take(4)?);
    Ok(u32::from_le_bytes(version))
}

fn sixteen(reader: &mut Reader<'_>) -> Result<[u8; 16], DecodeError> {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(reader.take(16)?);
    Ok(bytes)
}

/// What a client asks. The snapshot and the watch of a request are named by the number of the request that made them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Pins the newest version. Answered by [`Answer::Version`].
    Begin,
    /// Pins a version that is still held by somebody, or the newest.
    BeginAt { version: u64 },
    /// Lets a snapshot go. Not answered.
    Release { snapshot: u64 },
    /// One key. Answered by [`Answer::Value`].
    Get { snapshot: u64, key: Vec<u8> },
    /// Several keys in order. Answered by [`Answer::Pairs`].
    Range { snapshot: u64, begin: Vec<u8>, end: Vec<u8>, limit: u64, reverse: bool },
    /// Answered by [`Answer::Committed`].
    Commit(CommitRequest),
    /// Answered when it has begun, and by [`Answer::Fired`] when the key has another value than this, which may come first.
    Watch { key: Vec<u8>, value: Option<Vec<u8>> },
    /// Forgets a watch. Not answered.
    Unwatch { watch: u64 },
    /// Ends another connection; answered when no commit of it is in flight any more.
    EndSession { session: Session },
    /// Answered at once.
    Ping,
    /// Answered by [`Answer::Facts`].
    Facts,
}

/// What the server answers.
#[derive(Debug)]
pub(super) enum Answer {
    Failed(Error),
    Done,
    Version(u64),
    Value(Option<Vec<u8>>),
    /// `more` when the answer was cut before it had all that was asked for.
    Pairs {
        pairs: Vec<Pair>,
        more: bool,
    },
    Committed(Committed),
    Facts(Facts),
    /// A watch has fired, or why it never will.
    Fired(Result<(), String>),
}

/// What is served, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) store: String,
    pub(super) process: u32,
    pub(super) program_version: String,
}

impl Request {
    /// The whole message, with its length in front.
    pub(super) fn encode(&self, number: u64) -> Result<Vec<u8>, Error> {
        match self {
            Request::Begin => message(number, 1, |_| {}),
            Request::BeginAt { version } => message(number, 2, |out| write_varint(out, *version)),
            Request::Release { snapshot } => message(number, 3, |out| write_varint(out, *snapshot)),
            Request::Get { snapshot, key } => message(number, 4, |out| {
                write_varint(out, *snapshot);
                write_bytes(out, key);
            }),
            Request::Range { snapshot, begin, end, limit, reverse } => message(number, 5, |out| {
                write_varint(out, *snapshot);
                write_bytes(out, begin);
                write_bytes(out, end);
                write_varint(out, *limit);
                out.push(u8::from(*reverse));
            }),
            Request::Commit(commit) => message(number, 6, |out| write_commit(out, commit)),
            Request::Watch { key, value } => message(number, 7, |out| {
                write_bytes(out, key);
                write_value(out, value.as_deref());
            }),
            Request::Unwatch { watch } => message(number, 8, |out| write_varint(out, *watch)),
            Request::EndSession { session } => message(number, 9, |out| out.extend_from_slice(session)),
            Request::Ping => message(number, 10, |_| {}),
            Request::Facts => message(number, 11, |_| {}),
        }
    }

    /// From a message without its length: its number and what it asks.
    pub(super) fn decode(bytes: &[u8]) -> Result<(u64, Self), DecodeError> {
        let mut reader = Reader::new(bytes);
        let number = reader.u64_le()?;
        let request = match reader.byte()? {
            1 => Request::Begin,
            2 => Request::BeginAt { version: reader.varint()? },
            3 => Request::Release { snapshot: reader.varint()? },
            4 => Request::Get { snapshot: reader.varint()?, key: reader.bytes()?.to_vec() },
            5 => Request::Range {
                snapshot: reader.varint()?,
                begin: reader.bytes()?.to_vec(),
                end: reader.bytes()?.to_vec(),
                limit: reader.varint()?,
                reverse: read_bool(&mut reader)?,
            },
            6 => Request::Commit(read_commit(&mut reader)?),
            7 => Request::Watch { key: reader.bytes()?.to_vec(), value: read_value(&mut reader)? },
            8 => Request::Unwatch { watch: reader.varint()? },
            9 => Request::EndSession { session: sixteen(&mut reader)? },
            10 => Request::Ping,
            11 => Request::Facts,
            _ => return Err(DecodeError::Invalid("kind of request")),
        };
        reader.finish()?;
        Ok((number, request))
    }
}

impl Answer {
    /// The whole message, with its length in front. One that turns out too long becomes an error that says so.
    pub(super) fn encode(&self, number: u64) -> Vec<u8> {
        let encoded = match self {
            Answer::Failed(error) => message(number, 0, |out| write_error(out, error)),
            Answer::Done => message(number, 1, |_| {}),
            Answer::Version(version) => message(number, 2, |out| write_varint(out, *version)),
            Answer::Value(value) => message(number, 3, |out| write_value(out, value.as_deref())),
            Answer::Pairs { pairs, more } => message(number, 4, |out| {
                out.push(u8::from(*more));
                write_varint(out, pairs.len() as u64);
                for (key, value) in pairs {
                    write_bytes(out, key);
                    write_bytes(out, value);
                }
            }),
            Answer::Committed(committed) => message(number, 5, |out| {
                write_varint(out, committed.version);
                write_value(out, committed.versionstamp.as_ref().map(|stamp| &stamp[..]));
            }),
            Answer::Facts(facts) => message(number, 6, |out| {
                write_bytes(out, facts.store.as_bytes());
                write_varint(out, u64::from(facts.process));
                write_bytes(out, facts.program_version.as_bytes());
            }),
            Answer::Fired(outcome) => message(number, 7, |out| match outcome {
                Ok(()) => out.push(0),
                Err(text) => {
                    out.push(1);
                    write_bytes(out, text.as_bytes());
                }
            }),
        };
        // An error is short: the second attempt cannot fail.
        encoded.unwrap_or_else(|error| Answer::Failed(error).encode(number))
    }

    /// From a message without its length: the number of the request and the answer.
    pub(super) fn decode(bytes: &[u8]) -> Result<(u64, Self), DecodeError> {
        let mut reader = Reader::new(bytes);
        let number = reader.u64_le()?;
        let answer = match reader.byte()? {
            0 => Answer::Failed(read_error(&mut reader)?),
            1 => Answer::Done,
            2 => Answer::Version(reader.varint()?),
            3 => Answer::Value(read_value(&mut reader)?),
            4 => {
                let more = read_bool(&mut reader)?;
                let count = reader.count()?;
                let mut pairs = Vec::new();
                for _ in 0..count {
                    pairs.push((reader.bytes()?.to_vec(), reader.bytes()?.to_vec()));
                }
                Answer::Pairs { pairs, more }
            }
            5 => {
                let version = reader.varint()?;
                let stamp = read_value(&mut reader)?;
                let versionstamp = stamp
                    .map(<[u8; VERSIONSTAMP_BYTES]>::try_from)
                    .transpose()
                    .map_err(|_| DecodeError::Invalid("versionstamp"))?;
                Answer::Committed(Committed { version, versionstamp })
            }
            6 => Answer::Facts(Facts {
                store: read_text(&mut reader)?,
                process: u32::try_from(reader.varint()?).map_err(|_| DecodeError::IntegerRange)?,
                program_version: read_text(&mut reader)?,
            }),
            7 if read_bool(&mut reader)? => Answer::Fired(Err(read_text(&mut reader)?)),
            7 => Answer::Fired(Ok(())),
            _ => return Err(DecodeError::Invalid("kind of answer")),
        };
        reader.finish()?;
        Ok((number, answer))
    }
}

/// Length, number, kind, body.
fn message(number: u64, kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; 4];
    out.extend_from_slice(&number.to_le_bytes());
    out.push(kind);
    body(&mut out);
    let length = out.len() - 4;
    if length > MESSAGE_BYTES_MAX {
        return Err(Error::TooLarge { what: "message", found: length, limit: MESSAGE_BYTES_MAX });
    }
    // It fits: 16 MiB is far below 4 GiB.
    out[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(out)
}

/// Reads one message without its length into `buffer`; false at the end of the stream. Memory grows with what arrives,
/// not with the length that the other side claims.
pub(super) fn read_message(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1])? == 0 {
        return Ok(false);
    }
    stream.read_exact(&mut length[1..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    buffer.clear();
    // One large message must not cost its memory for the life of the connection.
    buffer.shrink_to(RANGE_BYTES_MAX);
    if stream.take(length as u64).read_to_end(buffer)? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(true)
}

fn write_value(out: &mut Vec<u8>, value: Option<&[u8]>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        write_bytes(out, value);
    }
}

fn read_value(reader: &mut Reader<'_>) -> Result<Option<Vec<u8>>, DecodeError> {
    Ok(if read_bool(reader)? { Some(reader.bytes()?.to_vec()) } else { None })
}

fn read_bool(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid("bool")),
    }
}

fn read_text(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    String::from_utf8(reader.bytes()?.to_vec()).map_err(|_| DecodeError::Invalid("UTF-8 text"))
}

fn write_commit(out: &mut Vec<u8>, commit: &CommitRequest) {
    write_varint(out, commit.read_version);
    for ranges in [&commit.read_conflicts, &commit.write_conflicts] {
        write_varint(out, ranges.len() as u64);
        for (begin, end) in ranges {
            write_bytes(out, begin);
            write_bytes(out, end);
        }
    }
    write_varint(out, commit.mutations.len() as u64);
    for mutation in &commit.mutations {
        let (kind, key, value) = match mutation {
            Mutation::Set(key, value) => (0, key, value),
            Mutation::Clear((begin, end)) => (1, begin, end),
            Mutation::Atomic(atomic, key, operand) => (16 + *atomic as u8, key, operand),
            Mutation::SetVersionstampedKey(key, _, value) => (2, key, value),
            Mutation::SetVersionstampedValue(key, value, _) => (3, key, value),
        };
        out.push(kind);
        write_bytes(out, key);
        write_bytes(out, value);
        if let Mutation::SetVersionstampedKey(_, offset, _) | Mutation::SetVersionstampedValue(_, _, offset) = mutation
        {
            write_varint(out, u64::from(*offset));
        }
    }
}

fn read_commit(reader: &mut Reader<'_>) -> Result<CommitRequest, DecodeError> {
    let read_version = reader.varint()?;
    let read_conflicts = read_ranges(reader)?;
    let write_conflicts = read_ranges(reader)?;
    let mut mutations = Vec::new();
    for _ in 0..read_items(reader)? {
        let kind = reader.byte()?;
        let (key, value) = (reader.bytes()?.to_vec(), reader.bytes()?.to_vec());
        mutations.push(match kind {
            0 => Mutation::Set(key, value),
            1 => Mutation::Clear((key, value)),
            2 | 3 => {
                let offset = u32::try_from(reader.varint()?).map_err(|_| DecodeError::IntegerRange)?;
                if kind == 2 {
                    Mutation::SetVersionstampedKey(key, offset, value)
                } else {
                    Mutation::SetVersionstampedValue(key, value, offset)
                }
            }
            _ => {
                let atomic = kind.checked_sub(16).and_then(|number| Atomic::ALL.get(usize::from(number)));
                Mutation::Atomic(*atomic.ok_or(DecodeError::Invalid("kind of mutation"))?, key, value)
            }
        });
    }
    Ok(CommitRequest { read_version, read_conflicts, write_conflicts, mutations })
}

fn read_ranges(reader: &mut Reader<'_>) -> Result<Vec<KeyRange>, DecodeError> {
    let mut ranges = Vec::new();
    for _ in 0..read_items(reader)? {
        ranges.push((reader.bytes()?.to_vec(), reader.bytes()?.to_vec()));
    }
    Ok(ranges)
}

fn read_items(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let count = reader.count()?;
    if count > COMMIT_ITEMS_MAX {
        let (found, limit) = (count as u64, COMMIT_ITEMS_MAX as u64);
        return Err(DecodeError::TooLarge { what: "count", found, limit });
    }
    Ok(count)
}

/// Refuses what a transaction of our own never asks: the engine relies on it, and not every client need be ours.
pub(super) fn check_commit(commit: &CommitRequest) -> Result<(), Error> {
    let ranges = || commit.read_conflicts.iter().chain(&commit.write_conflicts);
    ranges().try_for_each(|(begin, end)| check_bound(begin).and_then(|()| check_bound(end)))?;
    commit.mutations.iter().try_for_each(Mutation::check)?;
    let range_bytes = ranges().map(|(begin, end)| begin.len() + end.len()).sum::<usize>();
    let found = range_bytes + commit.mutations.iter().map(Mutation::bytes).sum::<usize>();
    if found > TRANSACTION_BYTES_MAX {
        return Err(Error::TooLarge { what: "transaction", found, limit: TRANSACTION_BYTES_MAX });
    }
    Ok(())
}

/// Refuses a commit with more items than a message may have.
pub(super) fn check_items(commit: &CommitRequest) -> Result<(), Error> {
    let most = commit.mutations.len().max(commit.read_conflicts.len()).max(commit.write_conflicts.len());
    if most > COMMIT_ITEMS_MAX {
        return Err(Error::TooLarge { what: "list of mutations", found: most, limit: COMMIT_ITEMS_MAX });
    }
    Ok(())
}

/// The names of things that can be too large, so that the client's error is the server's.
const TOO_LARGE: [&str; 6] = ["key", "value", "transaction", "list of watches", "message", "list of mutations"];

fn write_error(out: &mut Vec<u8>, error: &Error) {
    let mut text = |code: u8, text: &str| {
        out.push(code);
        write_bytes(out, text.as_bytes());
    };
    match error {
        Error::Conflict => out.push(1),
        Error::TooOld => out.push(2),
        Error::CommitUnknownResult => out.push(3),
        Error::FutureVersion => out.push(4),
        Error::ProcessBehind => out.push(5),
        Error::Unreadable => out.push(6),
        Error::KeyOutside(key) => text(7, key),
        Error::Poisoned(why) => text(8, why),
        Error::Config(why) => text(9, why),
        Error::TooLarge { what, found, limit } => {
            text(10, what);
            write_varint(out, *found as u64);
            write_varint(out, *limit as u64);
        }
        Error::Corrupt { place, detail } => {
            text(11, place);
            write_bytes(out, detail.as_bytes());
        }
        // All others are the server's own affair, of which the caller can do nothing here: the whole chain, as text.
        other => text(0, &other.chain()),
    }
}

fn read_error(reader: &mut Reader<'_>) -> Result<Error, DecodeError> {
    Ok(match reader.byte()? {
        0 => Error::Unavailable(read_text(reader)?),
        1 => Error::Conflict,
        2 => Error::TooOld,
        3 => Error::CommitUnknownResult,
        4 => Error::FutureVersion,
        5 => Error::ProcessBehind,
        6 => Error::Unreadable,
        7 => Error::KeyOutside(read_text(reader)?),
        8 => Error::Poisoned(read_text(reader)?),
        9 => Error::Config(read_text(reader)?),
        10 => {
            let what = read_text(reader)?;
            let what = TOO_LARGE.iter().find(|known| **known == what).copied().unwrap_or("part of the request");
            let mut size = || usize::try_from(reader.varint()?).map_err(|_| DecodeError::IntegerRange);
            Error::TooLarge { what, found: size()?, limit: size()? }
        }
        11 => Error::corrupt(read_text(reader)?, read_text(reader)?),
        _ => return Err(DecodeError::Invalid("kind of error")),
    })
}
