//! The whole world as one file, and as one value in memory. The format stands in `storage/docs/export.md`.
//!
//! What an export holds follows from the world alone, not from the store: two exports of the same frame are the same bytes,
//! wherever the world lies and however often it was moved.

use super::snapshot::{Found, read_region};
use super::{ComponentHash, Progress, Report, ToolError, list_hash, place};
use crate::change_log::read_changes;
use crate::disk::{Disk, RealDisk};
use crate::error::Error;
use crate::keys::{HomeId, Region};
use crate::kv::{Database, RangeRead};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use vsekai_schema::id::EntityId;
use vsekai_schema::record::home::PAYLOAD_BYTES_MAX;
use vsekai_schema::record::{ChangeRecord, EntitiesReader};
use vsekai_schema::units::ChunkKey;
use xxhash_rust::xxh3::Xxh3;

/// How a file begins; the digit is the version of the format.
const MAGIC: &[u8; 8] = b"VSEKAIX1";

const KIND_HEADER: u8 = 1;
const KIND_HOME: u8 = 2;
const KIND_TRAILER: u8 = 3;
const HOME_CHUNK: u8 = 0;
const HOME_ENTITY: u8 = 1;
/// Kind of home, and chunk code or entity id.
const HOME_HEAD_BYTES: usize = 9;
const HEADER_BYTES: usize = 28;
const TRAILER_BYTES: usize = 48;

/// A world after one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// Which region of it.
    pub region: Region,
    /// The frame.
    pub frame: u64,
    /// The hash of the state after it.
    pub state_hash: u64,
    /// Every id below this one was reserved at that time.
    pub ids_reserved_to: u64,
    /// The entity list of each home, chunks in Morton order and then lone entities in order of id.
    pub homes: Vec<(HomeId, Vec<u8>)>,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSummary {
    /// Which region.
    pub region: Region,
    /// After which frame.
    pub frame: u64,
    /// The hash of the state after it.
    pub state_hash: u64,
    /// Every id below this one was reserved at that time.
    pub ids_reserved_to: u64,
    /// Chunks that hold anything.
    pub chunks: u64,
    /// Entities kept by themselves.
    pub alone: u64,
    /// All entities.
    pub entities: u64,
    /// Bytes of all entity lists.
    pub list_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// XXH3-128 of all that stands before the trailer: the same for the same world.
    pub digest: u128,
}

/// Reads the whole world out of a store, as it was after one frame, also while a shard writes to it.
///
/// # Errors
/// When anything in it can't be read, when there is no world, or when it changes too fast. With `hash`, the state hash is
/// computed anew, and a world that has another one is refused.
pub fn read_world(
    database: &Database,
    region: Region,
    hash: Option<ComponentHash>,
    report: Report<'_>,
) -> Result<World, ToolError> {
    let snapshot = read_region(database, region, |found: Found| found.list, report)?;
    let own = match snapshot.own {
        Some(own) => own?,
        None if snapshot.homes.is_empty() => return Err(Error::NoWorld.into()),
        None => return Err(not_whole(1, place(&region.own()), "there is none, but other keys".into())),
    };
    let mut world = World {
        region,
        frame: own.last_frame,
        state_hash: own.state_hash,
        ids_reserved_to: own.ids_reserved_to,
        homes: Vec::with_capacity(snapshot.homes.len()),
    };
    let mut problems: Vec<(String, String)> = Vec::new();
    let mut sum = 0u64;
    for (key, list) in snapshot.homes {
        let Some(id) = region.home_key(&key).map(|key| key.home) else { continue };
        let Some(list) = list else { continue };
        let read = list.map_err(|error| error.chain()).and_then(|list| {
            let read = match hash {
                Some(hash) => list_hash(&list, hash),
                None => EntitiesReader::new(&list).and_then(EntitiesReader::collect).map(|_| 0),
            };
            read.map(|hash| (list, hash)).map_err(|error| format!("its entity list: {error}"))
        });
        match read {
            Ok((list, hash)) => {
                sum = sum.wrapping_add(hash);
                world.homes.push((id, list));
            }
            Err(detail) => problems.push((place(&key), detail)),
        }
    }
    if hash.is_some() && problems.is_empty() && sum != own.state_hash {
        let detail = format!("the state hash is {sum:016x}, but frame {} had {:016x}", own.last_frame, own.state_hash);
        problems.push(("the world".into(), detail));
    }
    match problems.first() {
        Some((place, detail)) => Err(not_whole(problems.len(), place.clone(), detail.clone())),
        None => Ok(world),
    }
}

fn not_whole(count: usize, place: String, detail: String) -> ToolError {
    ToolError::NotWhole { count, place, detail }
}

/// The last `limit` entries of the change log, oldest first.
pub fn read_changes_tail(database: &Database, region: Region, limit: usize) -> Result<Vec<ChangeRecord>, ToolError> {
    let tail = database.run(|transaction| {
        let (begin, end) = region.changes();
        let read = RangeRead::new(&begin, &end).limit(limit + 1).reverse().snapshot();
        let keys = transaction.get_range(&read)?;
        // The one before the first wanted is the cursor.
        let cursor = keys.get(limit).map(|(key, _)| key.clone());
        read_changes(transaction, region, cursor.as_deref(), limit)
    })?;
    Ok(tail.into_iter().map(|(_, entry)| entry).collect())
}

/// Writes the world in `database` to the file at `path`, which is there whole or not at all.
///
/// # Errors
/// As [`read_world`]; when the file is there already or can't be written.
pub fn export_file(
    database: &Database,
    region: Region,
    hash: Option<ComponentHash>,
    path: &Path,
    report: Report<'_>,
) -> Result<ExportSummary, ToolError> {
    if path.exists() {
        let source = io::Error::from(io::ErrorKind::AlreadyExists);
        return Err(ToolError::file("write the export", path, source));
    }
    let world = read_world(database, region, hash, report)?;
    let unfinished = unfinished(path);
    let written = write_synced(&world, &unfinished, report)
        .and_then(|summary| std::fs::rename(&unfinished, path).map(|()| summary));
    let summary = written.map_err(|source| {
        // Half an export is of no use, and may be what fills the disk.
        let _ = std::fs::remove_file(&unfinished);
        ToolError::file("write the export", path, source)
    })?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    RealDisk.sync_directory(directory).map_err(|source| ToolError::file("sync the directory", directory, source))?;
    Ok(summary)
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn write_synced(world: &World, path: &Path, report: Report<'_>) -> io::Result<ExportSummary> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let summary = write_world(world, &mut out, report)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(summary)
}

/// Writes the world in `database` to `out`, for instance a pipe.
///
/// # Errors
/// As [`read_world`]; when `out` takes no more.
pub fn export_to(
    database: &Database,
    region: Region,
    hash: Option<ComponentHash>,
    mut out: impl Write,
    report: Report<'_>,
) -> Result<ExportSummary, ToolError> {
    let world = read_world(database, region, hash, report)?;
    write_world(&world, &mut out, report)
        .and_then(|summary| out.flush().map(|()| summary))
        .map_err(|source| ToolError::file("write to", Path::new("standard output"), source))
}

/// Counts, and hashes what was written or read so far.
struct Sum {
    hash: Xxh3,
    bytes: u64,
}

impl Sum {
    fn new() -> Self {
        Sum { hash: Xxh3::new(), bytes: 0 }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

fn write_world(world: &World, out: &mut impl Write, report: Report<'_>) -> io::Result<ExportSummary> {
    let mut sum = Sum::new();
    let mut put = |bytes: &[u8]| {
        sum.add(bytes);
        out.write_all(bytes)
    };
    put(MAGIC)?;
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&world.region.0.to_le_bytes());
    for number in [world.frame, world.state_hash, world.ids_reserved_to] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    put(&framed(KIND_HEADER, &header))?;
    let mut counts = Counts::default();
    for (at, (home, list)) in world.homes.iter().enumerate() {
        let mut payload = Vec::with_capacity(HOME_HEAD_BYTES + list.len());
        let (kind, number) = match home {
            HomeId::Chunk(chunk) => (HOME_CHUNK, chunk.morton()),
            HomeId::Entity(id) => (HOME_ENTITY, id.0),
        };
        payload.push(kind);
        payload.extend_from_slice(&number.to_le_bytes());
        payload.extend_from_slice(list);
        put(&framed(KIND_HOME, &payload))?;
        let entities = EntitiesReader::new(list).and_then(EntitiesReader::collect).map_err(io::Error::other)?.len();
        counts.add(*home, entities, list.len());
        let total = Some(world.homes.len() as u64);
        report(Progress { stage: "writing", done: at as u64 + 1, total, unit: "homes" });
    }
    let digest = sum.hash.digest128();
    let trailer = framed(KIND_TRAILER, &counts.trailer(digest));
    out.write_all(&trailer)?;
    Ok(ExportSummary {
        region: world.region,
        frame: world.frame,
        state_hash: world.state_hash,
        ids_reserved_to: world.ids_reserved_to,
        chunks: counts.chunks,
        alone: counts.alone,
        entities: counts.entities,
        list_bytes: counts.list_bytes,
        file_bytes: sum.bytes + trailer.len() as u64,
        digest,
    })
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    chunks: u64,
    alone: u64,
    entities: u64,
    list_bytes: u64,
}

impl Counts {
    fn add(&mut self, home: HomeId, entities: usize, list_bytes: usize) {
        match home {
            HomeId::Chunk(_) => self.chunks += 1,
            HomeId::Entity(_) => self.alone += 1,
        }
        self.entities += entities as u64;
        self.list_bytes += list_bytes as u64;
    }

    fn trailer(&self, digest: u128) -> Vec<u8> {
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        for number in [self.chunks, self.alone, self.entities, self.list_bytes] {
            trailer.extend_from_slice(&number.to_le_bytes());
        }
        trailer.extend_from_slice(&digest.to_le_bytes());
        trailer
    }
}

/// A record of the file: kind, length, payload, and the CRC-32C of all that.
fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(payload.len() + 9);
    record.push(kind);
    record.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend_from_slice(payload);
    let crc = crc32c::crc32c(&record);
    record.extend_from_slice(&crc.to_le_bytes());
    record
}

/// Reads a file and checks everything about it, home by home.
pub(super) struct ExportReader<R> {
    path: PathBuf,
    input: R,
    sum: Sum,
    /// What the header says; the counts are those so far.
    summary: ExportSummary,
    counts: Counts,
    last_key: Vec<u8>,
}

impl ExportReader<BufReader<File>> {
    pub(super) fn open(path: &Path) -> Result<Self, ToolError> {
        let file = File::open(path).map_err(|source| ToolError::file("open the export", path, source))?;
        ExportReader::new(path, BufReader::with_capacity(1 << 20, file))
    }
}

impl<R: Read> ExportReader<R> {
    /// Reads the header. `path` names the input in errors.
    pub(super) fn new(path: &Path, input: R) -> Result<Self, ToolError> {
        let summary = ExportSummary {
            region: Region::WHOLE,
            frame: 0,
            state_hash: 0,
            ids_reserved_to: 0,
            chunks: 0,
            alone: 0,
            entities: 0,
            list_bytes: 0,
            file_bytes: 0,
            digest: 0,
        };
        let (sum, counts) = (Sum::new(), Counts::default());
        let mut reader = ExportReader { path: path.to_owned(), input, sum, summary, counts, last_key: Vec::new() };
        let magic: [u8; 8] = reader.fixed()?;
        if magic != *MAGIC {
            let is_newer = magic[..7] == MAGIC[..7] && magic[7].is_ascii_digit();
            return Err(reader.bad(if is_newer {
                format!("it has format version {}, this build knows 1", char::from(magic[7]))
            } else {
                "it does not begin as one".into()
            }));
        }
        reader.sum.add(&magic);
        let (kind, header) = reader.record()?;
        if kind != KIND_HEADER || header.len() != HEADER_BYTES {
            return Err(reader.bad("it has no header".into()));
        }
        let number = |at: usize| header[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        reader.summary.region = Region(header[..4].try_into().map_or(0, u32::from_le_bytes));
        (reader.summary.frame, reader.summary.state_hash) = (number(4), number(12));
        reader.summary.ids_reserved_to = number(20);
        Ok(reader)
    }

    /// What is known so far; complete once [`ExportReader::next_home`] has returned `None`.
    pub(super) fn summary(&self) -> &ExportSummary {
        &self.summary
    }

    /// The next home, or `None` behind the last, when the trailer has confirmed everything.
    pub(super) fn next_home(&mut self) -> Result<Option<(HomeId, Vec<u8>)>, ToolError> {
        let before = (self.sum.hash.digest128(), self.sum.bytes);
        let (kind, mut payload) = self.record()?;
        match kind {
            KIND_HOME if payload.len() >= HOME_HEAD_BYTES => {}
            KIND_TRAILER => return self.finish(before.0, &payload).map(|()| None),
            _ => return Err(self.bad(format!("record of kind {kind} at byte {} is unknown", before.1))),
        }
        let number = payload[1..HOME_HEAD_BYTES].try_into().map_or(0, u64::from_le_bytes);
        let home = match payload[0] {
            HOME_CHUNK => HomeId::Chunk(ChunkKey::from_morton(number)),
            HOME_ENTITY => HomeId::Entity(EntityId(number)),
            kind => return Err(self.bad(format!("home of kind {kind} at byte {} is unknown", before.1))),
        };
        let list = payload.split_off(HOME_HEAD_BYTES);
        let key = self.summary.region.home(home);
        if key <= self.last_key {
            return Err(self.bad(format!("{home} at byte {} is out of order", before.1)));
        }
        self.last_key = key;
        let entities = EntitiesReader::new(&list)
            .and_then(EntitiesReader::collect)
            .map(|entities| entities.len())
            .map_err(|error| self.bad(format!("the entity list of {home} at byte {}: {error}", before.1)))?;
        self.counts.add(home, entities, list.len());
        Ok(Some((home, list)))
    }

    fn finish(&mut self, digest: u128, trailer: &[u8]) -> Result<(), ToolError> {
        if trailer != self.counts.trailer(digest) {
            return Err(self.bad("its trailer does not match what stands before it".into()));
        }
        let mut more = [0];
        match self.input.read(&mut more) {
            Ok(0) => {}
            Ok(_) => return Err(self.bad("something stands behind its trailer".into())),
            Err(source) => return Err(ToolError::file("read", &self.path, source)),
        }
        let Counts { chunks, alone, entities, list_bytes } = self.counts;
        let summary = &mut self.summary;
        (summary.chunks, summary.alone, summary.entities, summary.list_bytes) = (chunks, alone, entities, list_bytes);
        (summary.file_bytes, summary.digest) = (self.sum.bytes, digest);
        Ok(())
    }

    /// The next record, checked.
    fn record(&mut self) -> Result<(u8, Vec<u8>), ToolError> {
        let at = self.sum.bytes;
        let head: [u8; 5] = self.fixed()?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length as u64 > PAYLOAD_BYTES_MAX + HOME_HEAD_BYTES as u64 {
            return Err(self.bad(format!("the record at byte {at} has {length} bytes, more than any may have")));
        }
        let mut payload = vec![0; length];
        self.fill(&mut payload)?;
        let crc: [u8; 4] = self.fixed()?;
        if u32::from_le_bytes(crc) != crc32c::crc32c_append(crc32c::crc32c(&head), &payload) {
            return Err(self.bad(format!("the record at byte {at} does not match its checksum")));
        }
        self.sum.add(&head);
        self.sum.add(&payload);
        self.sum.add(&crc);
        Ok((head[0], payload))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], ToolError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ToolError> {
        match self.input.read_exact(bytes) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.bad(format!("it ends within the record at byte {}", self.sum.bytes)))
            }
            Err(source) => Err(ToolError::file("read", &self.path, source)),
        }
    }

    fn bad(&self, detail: String) -> ToolError {
        ToolError::BadExport { path: self.path.clone(), detail }
    }
}

/// Reads the whole file at `path` and checks everything about it.
///
/// # Errors
/// What is wrong, and where.
pub fn verify_file(path: &Path, report: Report<'_>) -> Result<ExportSummary, ToolError> {
    let total = std::fs::metadata(path).map_err(|source| ToolError::file("open the export", path, source))?.len();
    let mut reader = ExportReader::open(path)?;
    while reader.next_home()?.is_some() {
        report(Progress { stage: "verifying", done: reader.sum.bytes, total: Some(total), unit: "bytes" });
    }
    Ok(reader.summary.clone())
}
