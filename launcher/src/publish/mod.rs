//! From a build's folder to a repository's: manifest, packs, deltas from the versions before, catalogue.
//!
//! The build is read twice: to cut and digest it, then to compress what no earlier pack has. Only digests are held, so that memory
//! grows with a five-hundredth of the build. The same folder gives the same files, byte for byte.

mod repository;
mod scan;
#[cfg(test)]
mod tests;

use crate::catalogue::{is_channel, is_client_id, is_version};
use crate::delta::build::{BuildError, build, find_runs};
use crate::delta::run_size;
use crate::error::{Exit, TaskError, shown};
use crate::manifest::{Chunk, ChunkSizes, Entry, Id, Kind, MANIFEST_SIZE_MAX, Manifest, Pack};
use crate::pack::{self, digest};
use crate::release::{Catalogue, Channel, Delta, Release};
use rayon::prelude::*;
use repository::{BlobWriter, Published, Repository, Source, blob};
use scan::Scanned;
pub(crate) use scan::{Found, list};
use serde::Serialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// A pack is closed when it has this many bytes: some 70 requests for a gigabyte, and little lost if one breaks off.
const PACK_SIZE: u64 = 16 << 20;
/// Plain bytes that are read, compressed on all cores, and written, at a time.
const BATCH_SIZE: usize = 8 << 20;
/// An earlier pack is used again if at least this part of it is needed; else what is needed is packed anew, so that old versions do not
/// scatter new ones over ever more requests.
const REUSE_PERCENT: u64 = 50;

/// What to publish, and how.
#[derive(Debug, Clone)]
pub struct Job {
    /// The build's folder.
    pub source: PathBuf,
    /// The repository's folder; made if it is not there.
    pub repository: PathBuf,
    /// Which build.
    pub client_id: String,
    /// What this version is called.
    pub version: String,
    /// For players.
    pub notes: String,
    /// Seconds since 1970.
    pub published: u64,
    /// The channel that offers it from now on, and to how many per cent of the installations.
    pub channel: Option<(String, u8)>,
    /// From so many versions before, there will be deltas.
    pub deltas: usize,
    /// How files are cut; as in the version before if not given.
    pub sizes: Option<ChunkSizes>,
    /// zstd's, 1 to 19.
    pub level: i32,
    /// Globs of what belongs to the player.
    pub keep: Vec<String>,
}

/// What was published. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What it is called.
    pub version: String,
    /// The manifest's digest.
    pub manifest: String,
    /// Of the manifest.
    pub manifest_size: u64,
    /// Files, folders and links.
    pub entries: usize,
    /// Of all files.
    pub total_size: u64,
    /// Different chunks.
    pub chunks: usize,
    /// Chunks that no earlier pack had.
    pub new_chunks: usize,
    /// Packs of the whole version, earlier ones included.
    pub packs: usize,
    /// Packs that were written.
    pub new_packs: usize,
    /// Of the packs that were written.
    pub new_packs_size: u64,
    /// Version it starts from, and size.
    pub deltas: Vec<(String, u64)>,
}

/// Publishes a build.
///
/// # Errors
/// When the folder has what cannot be published, changes meanwhile, the version exists already, or a file cannot be read or written.
pub fn publish(job: &Job) -> Result<Report, TaskError> {
    check(job)?;
    let repository = Repository::open(&job.repository)?;
    let mut catalogue = repository.catalogue(&job.client_id)?;
    if catalogue.release(&job.version).is_some() {
        let what =
            format!("version {} of {} is published already; a version never changes", job.version, job.client_id);
        return Err(TaskError::new(Exit::Usage, what));
    }
    let earlier: Vec<&Release> = catalogue.releases.iter().rev().take(job.deltas.max(1)).collect();
    let earlier: Vec<(Release, Manifest)> = earlier
        .into_iter()
        .map(|release| Ok((release.clone(), repository.manifest(release)?)))
        .collect::<Result<_, TaskError>>()?;

    let found = list(&job.source)?;
    let sizes =
        job.sizes.or(earlier.first().map(|(_, manifest)| manifest.sizes)).unwrap_or_else(|| usual_sizes(&found));
    let scanned = scan_all(&job.source, &found, sizes)?;
    let mut draft = Draft::new(&scanned, earlier.iter().map(|(_, manifest)| manifest));
    let written = write_packs(job, &repository, &found, &scanned, &mut draft)?;
    let manifest = draft.manifest(sizes, job.keep.clone(), found, scanned);

    let bytes = manifest.encode();
    let too_large = || {
        let what = format!(
            "{}: the manifest would have {} bytes, at most {MANIFEST_SIZE_MAX} are allowed; take larger chunks with --chunk_size",
            shown(&job.source),
            bytes.len()
        );
        TaskError::new(Exit::Usage, what)
    };
    if bytes.len() as u64 > MANIFEST_SIZE_MAX {
        return Err(too_large());
    }
    // What clients would refuse is not published.
    let again = Manifest::decode(&bytes)
        .map_err(|error| TaskError::because(Exit::Damaged, "the manifest would be refused", error))?;
    assert!(again == manifest, "a manifest reads as it was written");
    drop(again);
    let manifest_blob = repository.put("manifests", &bytes)?;

    let mut deltas = vec![];
    for (release, old) in earlier.iter().take(job.deltas) {
        let new = (&manifest_blob.0, &manifest, &Source { folder: &job.source, manifest: &manifest });
        if let Some(pack) = write_delta(job, &repository, (release, old), new)? {
            deltas.push(Delta { from: release.version.clone(), pack });
        }
    }
    let report = Report {
        version: job.version.clone(),
        manifest: crate::hex::hex(&manifest_blob.0),
        manifest_size: manifest_blob.1,
        entries: manifest.entries.len(),
        total_size: manifest.total_size(),
        chunks: manifest.chunks.len(),
        new_chunks: written.chunks,
        packs: manifest.packs.len(),
        new_packs: written.packs,
        new_packs_size: written.size,
        deltas: deltas.iter().map(|delta| (delta.from.clone(), delta.pack.size)).collect(),
    };
    catalogue.releases.push(Release {
        version: job.version.clone(),
        published: job.published,
        notes: job.notes.clone(),
        manifest: blob(manifest_blob),
        deltas,
    });
    if let Some((name, rollout_percent)) = &job.channel {
        offer(&mut catalogue, name, &job.version, *rollout_percent);
    }
    repository.put_catalogue(&job.client_id, &catalogue)?;
    Ok(report)
}

fn check(job: &Job) -> Result<(), TaskError> {
    let usage = |what: String| Err(TaskError::new(Exit::Usage, what));
    if !is_client_id(&job.client_id) {
        return usage(format!("client id {:?}: must be 1 to 64 of a-z 0-9 -", job.client_id));
    }
    if !is_version(&job.version) {
        return usage(format!(
            "version {:?}: must be 1 to 64 of A-Z a-z 0-9 . _ + -, not beginning with a dot",
            job.version
        ));
    }
    if let Some((name, percent)) = &job.channel
        && (!is_channel(name) || *percent > 100)
    {
        return usage(format!("channel {name:?} at {percent} %: must be 1 to 32 of a-z 0-9 -, at 0 to 100 %"));
    }
    if job.notes.len() > 16 << 10 || job.deltas > 16 || !(1..=19).contains(&job.level) {
        return usage("notes of more than 16 KiB, more than 16 deltas, or a level outside 1 to 19".into());
    }
    if let Some(sizes) = job.sizes {
        sizes.check().map_err(|why| TaskError::new(Exit::Usage, why))?;
    }
    if !job.source.is_dir() {
        return Err(TaskError::new(Exit::Unreadable, format!("{}: not a folder", shown(&job.source))));
    }
    Ok(())
}

/// Larger builds get larger chunks, so that their manifests stay as small as clients want them.
fn usual_sizes(found: &[(String, Found)]) -> ChunkSizes {
    let total: u64 = found.iter().map(|(_, what)| if let Found::File { size, .. } = what { *size } else { 0 }).sum();
    let mut sizes = ChunkSizes::USUAL;
    while total / u64::from(sizes.avg) > 300_000 && sizes.max < crate::manifest::CHUNK_SIZE_MAX {
        sizes = ChunkSizes { min: sizes.min * 2, avg: sizes.avg * 2, max: sizes.max * 2 };
    }
    sizes
}

fn scan_all(source: &Path, found: &[(String, Found)], sizes: ChunkSizes) -> Result<Vec<Option<Scanned>>, TaskError> {
    let scan = |(path, what): &(String, Found)| match what {
        Found::File { .. } => {
            let full = source.join(path);
            scan::scan_file(&full, sizes).map(Some).map_err(|error| TaskError::unreadable(&full, error))
        }
        _ => Ok(None),
    };
    found.par_iter().map(scan).collect()
}

/// Where a chunk comes from.
#[derive(Debug, Clone, Copy)]
struct Stored {
    pack: Id,
    offset: u32,
    stored: u32,
}

/// The chunks of the version, as they get their places.
struct Draft {
    /// Every different chunk, in the order in which it is first needed.
    chunks: Vec<(Id, u32, Option<Stored>)>,
    numbers: HashMap<Id, u32>,
    pack_sizes: HashMap<Id, u32>,
}

impl Draft {
    fn new<'a>(scanned: &[Option<Scanned>], earlier: impl Iterator<Item = &'a Manifest>) -> Self {
        let (mut chunks, mut numbers) = (vec![], HashMap::new());
        for (id, size) in scanned.iter().flatten().flat_map(|file| &file.chunks) {
            numbers.entry(*id).or_insert_with(|| {
                chunks.push((*id, *size, None));
                chunks.len() as u32 - 1
            });
        }
        let mut draft = Self { chunks, numbers, pack_sizes: HashMap::new() };
        for manifest in earlier {
            draft.reuse(manifest);
        }
        draft
    }

    /// Takes chunks from an earlier version's packs, unless too little of a pack would be needed.
    fn reuse(&mut self, manifest: &Manifest) {
        let mut needed = vec![0u64; manifest.packs.len()];
        for chunk in &manifest.chunks {
            needed[chunk.pack as usize] +=
                if self.numbers.contains_key(&chunk.id) { u64::from(chunk.stored) } else { 0 };
        }
        for chunk in &manifest.chunks {
            let pack = &manifest.packs[chunk.pack as usize];
            let worth = needed[chunk.pack as usize] * 100 >= u64::from(pack.size) * REUSE_PERCENT;
            if let Some(&number) = self.numbers.get(&chunk.id)
                && worth
                && self.chunks[number as usize].2.is_none()
            {
                self.pack_sizes.insert(pack.id, pack.size);
                self.chunks[number as usize].2 =
                    Some(Stored { pack: pack.id, offset: chunk.offset, stored: chunk.stored });
            }
        }
    }

    /// Whether the chunk has no place in any pack yet, nor is on its way into one.
    fn is_new(&self, id: &Id, done: &[bool]) -> bool {
        let number = self.numbers[id] as usize;
        self.chunks[number].2.is_none() && !done[number]
    }

    fn manifest(
        self,
        sizes: ChunkSizes,
        keep: Vec<String>,
        found: Vec<(String, Found)>,
        scanned: Vec<Option<Scanned>>,
    ) -> Manifest {
        let mut packs: Vec<Pack> = vec![];
        let mut pack_numbers = HashMap::new();
        let mut chunks: Vec<(u32, Chunk)> = vec![];
        for (number, (id, size, stored)) in self.chunks.into_iter().enumerate() {
            let stored = stored.expect("every chunk has got its place");
            let pack = *pack_numbers.entry(stored.pack).or_insert_with(|| {
                packs.push(Pack { id: stored.pack, size: self.pack_sizes[&stored.pack] });
                packs.len() as u32 - 1
            });
            chunks.push((number as u32, Chunk { id, size, pack, offset: stored.offset, stored: stored.stored }));
        }
        chunks.sort_by_key(|(_, chunk)| (chunk.pack, chunk.offset));
        let mut order = vec![0; chunks.len()];
        for (place, (number, _)) in chunks.iter().enumerate() {
            order[*number as usize] = place as u32;
        }
        let mut positions = vec![];
        let mut entries = vec![];
        for ((path, what), scanned) in found.into_iter().zip(scanned) {
            let kind = match (what, scanned) {
                (Found::File { executable, .. }, Some(Scanned { blake3, chunks })) => {
                    let begin = positions.len() as u32;
                    positions.extend(chunks.iter().map(|(id, _)| order[self.numbers[id] as usize]));
                    let size = chunks.iter().map(|(_, size)| u64::from(*size)).sum();
                    Kind::File { size, executable, blake3, positions: begin..positions.len() as u32 }
                }
                (Found::Link { target }, _) => Kind::Link { target },
                _ => Kind::Folder,
            };
            entries.push(Entry { path, kind });
        }
        let chunks = chunks.into_iter().map(|(_, chunk)| chunk).collect();
        Manifest { sizes, keep, packs, chunks, entries, positions }
    }
}

/// What was written.
#[derive(Default)]
struct Written {
    chunks: usize,
    packs: usize,
    size: u64,
}

fn write_packs(
    job: &Job,
    repository: &Repository,
    found: &[(String, Found)],
    scanned: &[Option<Scanned>],
    draft: &mut Draft,
) -> Result<Written, TaskError> {
    let mut writer = PackWriter {
        repository,
        level: job.level,
        batch: vec![],
        batch_size: 0,
        pack: None,
        members: vec![],
        written: Written::default(),
    };
    let mut done = vec![false; draft.chunks.len()];
    for ((path, _), scanned) in found.iter().zip(scanned) {
        let Some(scanned) = scanned else { continue };
        if !scanned.chunks.iter().any(|(id, _)| draft.is_new(id, &done)) {
            continue;
        }
        let full = job.source.join(path);
        let unreadable = |source| TaskError::unreadable(&full, source);
        let mut file = std::io::BufReader::with_capacity(1 << 20, File::open(&full).map_err(unreadable)?);
        for (id, size) in &scanned.chunks {
            if !draft.is_new(id, &done) {
                file.seek_relative(i64::from(*size)).map_err(unreadable)?;
                continue;
            }
            let mut plain = vec![0; *size as usize];
            file.read_exact(&mut plain).map_err(unreadable)?;
            if digest(&plain) != *id {
                return Err(TaskError::new(
                    Exit::Damaged,
                    format!("{}: was changed while it was being published", shown(&full)),
                ));
            }
            done[draft.numbers[id] as usize] = true;
            writer.push(draft.numbers[id], plain, draft)?;
        }
    }
    writer.finish(draft)
}

/// Compresses chunks in batches and fills packs with them.
struct PackWriter<'a> {
    repository: &'a Repository,
    level: i32,
    batch: Vec<(u32, Vec<u8>)>,
    batch_size: usize,
    pack: Option<BlobWriter>,
    /// Of the pack that is being written: chunk, offset, stored size.
    members: Vec<(u32, u32, u32)>,
    written: Written,
}

impl PackWriter<'_> {
    fn push(&mut self, number: u32, plain: Vec<u8>, draft: &mut Draft) -> Result<(), TaskError> {
        self.batch_size += plain.len();
        self.batch.push((number, plain));
        if self.batch_size >= BATCH_SIZE { self.flush(draft) } else { Ok(()) }
    }

    fn flush(&mut self, draft: &mut Draft) -> Result<(), TaskError> {
        let level = self.level;
        let batch = std::mem::take(&mut self.batch);
        self.batch_size = 0;
        let stored: Vec<_> =
            batch.into_par_iter().map(|(number, plain)| (number, pack::compress(&plain, level))).collect();
        for (number, stored) in stored {
            let stored =
                stored.map_err(|error| TaskError::because(Exit::Failed, "a chunk cannot be compressed", error))?;
            let pack = match &mut self.pack {
                Some(pack) => pack,
                None => self.pack.insert(self.repository.writer("packs")?),
            };
            self.members.push((number, pack.size as u32, stored.len() as u32));
            pack.write_all(&stored).map_err(|source| TaskError::unwritable(&pack.path, source))?;
            self.written.chunks += 1;
            if pack.size >= PACK_SIZE {
                self.close(draft)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, draft: &mut Draft) -> Result<(), TaskError> {
        let Some(pack) = self.pack.take() else { return Ok(()) };
        let (id, size) = pack.finish()?;
        draft.pack_sizes.insert(id, size as u32);
        for (number, offset, stored) in self.members.drain(..) {
            draft.chunks[number as usize].2 = Some(Stored { pack: id, offset, stored });
        }
        self.written.packs += 1;
        self.written.size += size;
        Ok(())
    }

    fn finish(mut self, draft: &mut Draft) -> Result<Written, TaskError> {
        self.flush(draft)?;
        self.close(draft)?;
        Ok(self.written)
    }
}

/// Writes the delta between two versions, unless there is nothing new or packs serve as well.
fn write_delta(
    job: &Job,
    repository: &Repository,
    (release, old): (&Release, &Manifest),
    (id, manifest, source): (&Id, &Manifest, &Source<'_>),
) -> Result<Option<crate::release::Blob>, TaskError> {
    let runs = find_runs(old, manifest);
    let new: u64 = runs.iter().map(|run| run_size(manifest, run.first, run.count)).sum();
    // Most of it is new: a client does better with the packs.
    if new * 2 > manifest.total_size() {
        return Ok(None);
    }
    drop(runs);
    let old_id = crate::hex::unhex(&release.manifest.blake3).expect("the catalogue was checked");
    let failed = |error: BuildError| {
        let what = format!("the delta from version {} cannot be made", release.version);
        match error {
            BuildError::Io(source) => TaskError::because(Exit::Unreadable, what, source),
            BuildError::Zstd(source) => TaskError::because(Exit::Failed, what, source),
        }
    };
    // The list of runs stands before the frames, but is known after them.
    let path = repository.folder.join("deltas").join(format!(".new-frames-{}", std::process::id()));
    let unwritable = |source| TaskError::unwritable(&path, source);
    let mut frames = std::io::BufWriter::with_capacity(256 << 10, File::create_new(&path).map_err(unwritable)?);
    let published = Published::new(repository, old);
    let head = build((&old_id, old, &published), (id, manifest, source), job.level.max(DELTA_LEVEL), &mut frames)
        .map_err(failed)?;
    frames.flush().map_err(unwritable)?;
    drop(frames);
    let mut delta = repository.writer("deltas")?;
    let copied = delta.write_all(&head).and_then(|()| std::io::copy(&mut File::open(&path)?, &mut delta));
    copied.map_err(|source| TaskError::unwritable(&delta.path, source))?;
    std::fs::remove_file(&path).map_err(unwritable)?;
    delta.finish().map(|made| Some(blob(made)))
}

/// Deltas are made once and fetched by every player.
const DELTA_LEVEL: i32 = 3;

/// Lets a channel stand for a version; who is not in the rollout keeps what everyone had.
fn offer(catalogue: &mut Catalogue, name: &str, version: &str, rollout_percent: u8) {
    let before =
        catalogue.channels.iter().position(|channel| channel.name == name).map(|at| catalogue.channels.remove(at));
    // A rollout that is not through yet goes back to what everyone had.
    let previous = before
        .and_then(|channel| if channel.rollout_percent == 100 { Some(channel.version) } else { channel.previous });
    catalogue.channels.push(Channel { name: name.into(), version: version.into(), previous, rollout_percent });
    catalogue.channels.sort_by(|a, b| a.name.cmp(&b.name));
}
