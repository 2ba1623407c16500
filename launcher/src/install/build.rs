//! Building a version in `incoming/`: what of it is there, what the installed version has, what must be fetched; and doing all three.

use super::Context;
use super::beneath::Folder;
use super::download::{self, Frame, Request, coalesce, cost};
use super::progress::Counted;
use super::tree::{Link, Staging, copy, mode, sound_chunks};
use crate::delta::build::Whereabouts;
use crate::delta::{Run, run_size};
use crate::error::{Exit, TaskError};
use crate::hex::hex;
use crate::manifest::{Chunk, Kind, Manifest};
use crate::pack::{Unpacker, decompress_after, digest};
use rayon::prelude::*;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is kept free beside what is written.
const MARGIN: u64 = 16 << 20;

/// The installed version as a source of bytes.
pub(crate) struct Source<'a> {
    pub folder: Folder,
    pub manifest: &'a Manifest,
    /// For each entry: whether it is what the manifest says, as far as is known.
    pub sound: Vec<bool>,
}

/// A delta from the source to the version that is built.
pub(crate) struct Delta {
    /// In the repository.
    pub path: String,
    pub runs: Vec<Run>,
}

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Neither file nor anything to do before the end.
    None,
    /// The same as this entry of the source.
    Same(u32),
    /// The player's own, which will be carried over.
    Carried,
    /// Put together from chunks.
    Assemble,
}

/// What has to be done.
pub(crate) struct Plan {
    ways: Vec<Way>,
    /// For each position: whether its bytes are in place.
    done: Vec<bool>,
    /// For each chunk: whether it must be fetched.
    fetch: Vec<bool>,
    /// Bytes to be copied from the source or from within.
    local: u64,
    /// Bytes that will be written to the disk.
    space: u64,
}

pub(crate) struct Builder<'a> {
    pub context: &'a Context<'a>,
    pub manifest: &'a Manifest,
    pub source: Option<&'a Source<'a>>,
    pub delta: Option<&'a Delta>,
    pub link: Link,
    target_places: Whereabouts<'a>,
    source_places: Option<Whereabouts<'a>>,
}

impl<'a> Builder<'a> {
    pub fn new(
        context: &'a Context<'a>,
        manifest: &'a Manifest,
        source: Option<&'a Source<'a>>,
        delta: Option<&'a Delta>,
        link: Link,
    ) -> Self {
        let source_places = source.map(|source| Whereabouts::new(source.manifest));
        Self { context, manifest, source, delta, link, target_places: Whereabouts::new(manifest), source_places }
    }

    /// Looks at what is there. Writes nothing.
    pub fn plan(&self, incoming: Option<&Folder>) -> Result<Plan, TaskError> {
        let same: HashMap<_, u32> = match self.source {
            None => HashMap::new(),
            Some(source) => {
                let sound = source.manifest.entries.iter().enumerate().filter(|(number, _)| source.sound[*number]);
                let files = sound.filter_map(|(number, entry)| match &entry.kind {
                    Kind::File { blake3, size, .. } => Some(((*blake3, *size), number as u32)),
                    _ => None,
                });
                files.collect()
            }
        };
        let versions = |dir: &String| self.context.installation.root.folder(&format!("versions/{dir}")).ok();
        let carry = self.context.carry.as_ref().and_then(versions);
        let is_carried = |path: &str| {
            let stat =
                carry.as_ref().filter(|_| self.context.keep.has(path)).and_then(|folder| folder.stat(path).ok()?);
            stat.is_some_and(|stat| {
                rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile
            })
        };
        let way = |entry: &crate::manifest::Entry| match &entry.kind {
            Kind::File { .. } if is_carried(&entry.path) => Way::Carried,
            Kind::File { blake3, size, .. } => {
                same.get(&(*blake3, *size)).map_or(Way::Assemble, |&from| Way::Same(from))
            }
            _ => Way::None,
        };
        let ways: Vec<Way> = self.manifest.entries.iter().map(way).collect();
        let mut plan = Plan {
            done: vec![false; self.manifest.positions.len()],
            fetch: vec![false; self.manifest.chunks.len()],
            local: 0,
            space: MARGIN,
            ways,
        };
        if let Some(incoming) = incoming {
            self.look(incoming, &mut plan)?;
        }
        for (entry, way) in self.manifest.entries.iter().zip(&plan.ways) {
            let Kind::File { size, positions, .. } = &entry.kind else { continue };
            match way {
                Way::Same(_) if self.link == Link::Copy || self.context.keep.has(&entry.path) => plan.space += size,
                Way::Assemble => {
                    for position in positions.clone().filter(|&position| !plan.done[position as usize]) {
                        let chunk = self.manifest.chunk_at(position);
                        plan.space += u64::from(chunk.size);
                        if self.local(chunk, &plan.done).is_some() {
                            plan.local += u64::from(chunk.size);
                        } else {
                            plan.fetch[self.manifest.positions[position as usize] as usize] = true;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(plan)
    }

    /// Which positions of files that were begun before are in place already. Their digests say it, nothing else is believed.
    fn look(&self, incoming: &Folder, plan: &mut Plan) -> Result<(), TaskError> {
        let files = self.manifest.entries.par_iter().zip(&plan.ways).filter(|(_, way)| **way == Way::Assemble);
        let found: Vec<(u32, Vec<bool>)> = files
            .filter_map(|(entry, _)| {
                let Kind::File { positions, .. } = &entry.kind else { return None };
                let file = incoming.read(&entry.path).ok()?;
                let chunks = positions.clone().map(|position| self.manifest.chunk_at(position));
                Some((positions.start, sound_chunks(&file, chunks)))
            })
            .collect();
        for (begin, sound) in found {
            plan.done[begin as usize..begin as usize + sound.len()].copy_from_slice(&sound);
        }
        Ok(())
    }

    /// Where on this disk a chunk's bytes are: in the source, or in what is built.
    fn local(&self, chunk: &Chunk, done: &[bool]) -> Option<Place> {
        let in_source = self.source.zip(self.source_places.as_ref()).and_then(|(source, places)| {
            let positions = places.positions(&chunk.id).iter().map(|&position| places.place(position));
            positions.into_iter().find(|place| source.sound[place.entry as usize])
        });
        if let Some(place) = in_source {
            return Some(Place { built: false, entry: place.entry, offset: place.offset });
        }
        let here = self.target_places.positions(&chunk.id).iter().find(|&&position| done[position as usize])?;
        let place = self.target_places.place(*here);
        Some(Place { built: true, entry: place.entry, offset: place.offset })
    }

    /// The requests for all that must be fetched: by the delta if that takes fewer bytes, by packs what it does not have.
    pub fn requests(&self, plan: &Plan) -> Vec<Request> {
        let by_packs = self.pack_requests(&plan.fetch);
        let Some(delta) = self.delta else { return by_packs };
        let mut rest = plan.fetch.clone();
        let mut frames = vec![];
        for (number, run) in delta.runs.iter().enumerate() {
            let chunks = &self.manifest.positions[run.first as usize..(run.first + run.count) as usize];
            let prefix_sound = match (run.prefix, self.source) {
                (None, _) => true,
                (Some(prefix), Some(source)) => source.sound[prefix.entry as usize],
                (Some(_), None) => false,
            };
            if prefix_sound && chunks.iter().any(|&chunk| plan.fetch[chunk as usize]) {
                frames.push(Frame { offset: run.offset, size: run.stored, number: number as u32 });
                chunks.iter().for_each(|&chunk| rest[chunk as usize] = false);
            }
        }
        let mut requests = vec![];
        coalesce(&delta.path, frames, &mut requests);
        requests.extend(self.pack_requests(&rest));
        if cost(&requests).1 < cost(&by_packs).1 { requests } else { by_packs }
    }

    fn pack_requests(&self, fetch: &[bool]) -> Vec<Request> {
        let mut requests = vec![];
        let wanted = self.manifest.chunks.iter().enumerate().filter(|(number, _)| fetch[*number]).peekable();
        let frames: Vec<(u32, Frame)> = wanted
            .map(|(number, chunk)| {
                (chunk.pack, Frame { offset: u64::from(chunk.offset), size: chunk.stored, number: number as u32 })
            })
            .collect();
        for frames in frames.chunk_by(|a, b| a.0 == b.0) {
            let path = format!("packs/{}", hex(&self.manifest.packs[frames[0].0 as usize].id));
            coalesce(&path, frames.iter().map(|(_, frame)| *frame), &mut requests);
        }
        requests
    }

    /// Refuses to begin when the disk would be full before the end.
    pub fn check_space(&self, plan: &Plan, kept: u64, folder: &Folder) -> Result<(), TaskError> {
        let free = folder.free().map_err(|source| self.context.installation.unreadable(source))?;
        let needed = plan.space + kept;
        if needed <= free {
            return Ok(());
        }
        let mb = |bytes: u64| bytes.div_ceil(1_000_000);
        let what = format!(
            "{}: {} MB are needed and {} MB are free; nothing was written",
            crate::error::shown(&self.context.installation.path),
            mb(needed),
            mb(free)
        );
        Err(TaskError::new(Exit::NoSpace, what))
    }

    /// Makes the files that are put together, and takes from this disk what is there. What turns out to be otherwise than expected is
    /// fetched.
    pub fn prepare(&self, plan: &mut Plan, staging: &Staging<'_>) -> Result<(), TaskError> {
        let progress = self.context.progress;
        progress.expect(plan.local);
        let unwritable = |source| self.context.installation.unwritable(source);
        let assembled: Vec<u32> =
            (0..plan.ways.len() as u32).filter(|&n| plan.ways[n as usize] == Way::Assemble).collect();
        let failed = Mutex::new(vec![]);
        let done = &plan.done;
        let fetch = &plan.fetch;
        let one = |&number: &u32| -> io::Result<()> {
            if progress.is_stopped() {
                return Err(super::progress::stopped());
            }
            let entry = &self.manifest.entries[number as usize];
            let Kind::File { size, positions, .. } = &entry.kind else { return Ok(()) };
            make_room(staging.folder, &entry.path)?;
            let file = staging.folder.write(&entry.path)?;
            if file.metadata()?.len() != *size {
                file.set_len(*size)?;
            }
            let mut buffer = vec![];
            let mut open: Option<(bool, u32, std::fs::File)> = None;
            for position in positions.clone() {
                let chunk = self.manifest.chunk_at(position);
                let index = self.manifest.positions[position as usize] as usize;
                if done[position as usize] || fetch[index] {
                    continue;
                }
                let read = self.local(chunk, done).is_some_and(|place| {
                    buffer.resize(chunk.size as usize, 0);
                    if open.as_ref().is_none_or(|(built, entry, _)| (*built, *entry) != (place.built, place.entry)) {
                        open = self.open(&place, staging).ok().map(|file| (place.built, place.entry, file));
                    }
                    let Some((_, _, from)) = &open else { return false };
                    from.read_exact_at(&mut buffer, place.offset).is_ok() && digest(&buffer) == chunk.id
                });
                if read {
                    file.write_all_at(&buffer, self.target_places.place(position).offset)?;
                } else {
                    failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(index);
                }
                progress.advance(u64::from(chunk.size));
            }
            Ok(())
        };
        assembled.par_iter().try_for_each(one).map_err(|source| self.io(source, unwritable))?;
        for index in failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            plan.fetch[index] = true;
        }
        Ok(())
    }

    fn io(&self, source: io::Error, otherwise: impl Fn(io::Error) -> TaskError) -> TaskError {
        if source.kind() == io::ErrorKind::Interrupted {
            return TaskError::new(Exit::Stopped, "stopped on request; going on later does nothing twice");
        }
        otherwise(source)
    }

    fn open(&self, place: &Place, staging: &Staging<'_>) -> io::Result<std::fs::File> {
        match (place.built, self.source) {
            (false, Some(source)) => source.folder.read(&source.manifest.entries[place.entry as usize].path),
            _ => staging.folder.read(&self.manifest.entries[place.entry as usize].path),
        }
    }

    /// Fetches what is missing, and puts it in its places.
    pub fn download(&self, plan: &Plan, staging: &Staging<'_>) -> Result<(), TaskError> {
        let fetch = Counted { fetch: self.context.fetch, progress: self.context.progress };
        let requests = self.requests(plan);
        self.context.progress.expect(cost(&requests).1);
        let arrived: Vec<AtomicBool> = plan.fetch.iter().map(|fetch| AtomicBool::new(!fetch)).collect();
        let scratch = Mutex::new(Scratch::default());
        let take = |request: &Request, frame: &Frame, stored: &[u8]| match self.delta {
            Some(delta) if request.path == delta.path => {
                self.take_run(&delta.runs[frame.number as usize], stored, &scratch, staging, &arrived)
            }
            _ => self.take_chunk(frame.number, stored, staging, &arrived),
        };
        download::run(&fetch, &requests, &take)?;
        // A delta is not believed; what it did not bring is in the packs. What a pack does not bring is damaged.
        let missing =
            |arrived: &[AtomicBool]| arrived.iter().map(|arrived| !arrived.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let rest = missing(&arrived);
        if rest.contains(&true) {
            let requests = self.pack_requests(&rest);
            self.context.progress.expect(cost(&requests).1);
            download::run(&fetch, &requests, &|_, frame, stored| {
                self.take_chunk(frame.number, stored, staging, &arrived)
            })?;
        }
        if let Some(number) = missing(&arrived).iter().position(|&missing| missing) {
            let chunk = &self.manifest.chunks[number];
            let pack = hex(&self.manifest.packs[chunk.pack as usize].id);
            let what = format!(
                "packs/{pack}: its bytes at {} are not the chunk {}; the repository is damaged",
                chunk.offset,
                hex(&chunk.id)
            );
            return Err(TaskError::new(Exit::Damaged, what));
        }
        Ok(())
    }

    fn take_chunk(&self, number: u32, stored: &[u8], staging: &Staging<'_>, arrived: &[AtomicBool]) -> io::Result<()> {
        thread_local! {
            static UNPACKER: std::cell::RefCell<Unpacker> = std::cell::RefCell::new(Unpacker::new());
        }
        let chunk = &self.manifest.chunks[number as usize];
        UNPACKER.with_borrow_mut(|unpacker| match unpacker.unpack(chunk, stored) {
            Ok(plain) => self.place(number, plain, staging, arrived),
            Err(_) => Ok(()),
        })
    }

    /// Turns a run's frame into chunks. One at a time: its buffers are the largest there are.
    fn take_run(
        &self,
        run: &Run,
        stored: &[u8],
        scratch: &Mutex<Scratch>,
        staging: &Staging<'_>,
        arrived: &[AtomicBool],
    ) -> io::Result<()> {
        let mut scratch = scratch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Scratch { prefix, plain } = &mut *scratch;
        prefix.clear();
        if let Some(from) = run.prefix {
            let Some(source) = self.source else { return Ok(()) };
            prefix.resize(from.size as usize, 0);
            let file = source.folder.read(&source.manifest.entries[from.entry as usize].path);
            if file.and_then(|file| file.read_exact_at(prefix, from.offset)).is_err() {
                return Ok(());
            }
        }
        let size = run_size(self.manifest, run.first, run.count) as usize;
        if decompress_after(prefix, stored, size, plain).is_err() {
            return Ok(());
        }
        let mut begin = 0;
        for position in run.first..run.first + run.count {
            let number = self.manifest.positions[position as usize];
            let chunk = &self.manifest.chunks[number as usize];
            let bytes = &plain[begin..begin + chunk.size as usize];
            if !arrived[number as usize].load(Ordering::Relaxed) && digest(bytes) == chunk.id {
                self.place(number, bytes, staging, arrived)?;
            }
            begin += chunk.size as usize;
        }
        Ok(())
    }

    /// Writes a chunk wherever a file that is put together has it.
    fn place(&self, number: u32, plain: &[u8], staging: &Staging<'_>, arrived: &[AtomicBool]) -> io::Result<()> {
        for &position in self.target_places.positions(&self.manifest.chunks[number as usize].id) {
            let place = self.target_places.place(position);
            // Files that are linked have no place in `incoming` yet, and may be links to the installed version's.
            if staging.assembled(place.entry) {
                staging.write(place.entry, place.offset, plain)?;
            }
        }
        arrived[number as usize].store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Links what did not change, makes folders and links, checks what was put together, sets modes.
    pub fn apply(&self, plan: &Plan, folder: &Folder) -> Result<(), TaskError> {
        let progress = self.context.progress;
        progress.expect(self.manifest.total_size());
        let one = |number: usize| -> io::Result<Result<(), TaskError>> {
            if progress.is_stopped() {
                return Err(super::progress::stopped());
            }
            let entry = &self.manifest.entries[number];
            match &entry.kind {
                Kind::Folder => {
                    make_room(folder, &entry.path)?;
                    folder.make_folders(&entry.path)?;
                }
                Kind::Link { target } => {
                    make_room(folder, &entry.path)?;
                    folder.remove(&entry.path)?;
                    folder.symlink(&entry.path, target)?;
                }
                Kind::File { size, executable, blake3, .. } => {
                    let kept = self.context.keep.has(&entry.path);
                    match plan.ways[number] {
                        Way::Carried => {}
                        Way::Same(from) => self.take_over(from, &entry.path, *executable, kept, folder)?,
                        _ => {
                            let file = folder.read(&entry.path)?;
                            if super::tree::file_digest(file.try_clone()?, &|_| {})? != *blake3 {
                                folder.remove(&entry.path)?;
                                let what = format!(
                                    "{}: was damaged while it was written, or its manifest is wrong; try again",
                                    entry.path
                                );
                                return Ok(Err(TaskError::new(Exit::Damaged, what)));
                            }
                            file.set_permissions(std::fs::Permissions::from_mode(mode(*executable, kept)))?;
                        }
                    }
                    progress.advance(*size);
                }
            }
            Ok(Ok(()))
        };
        let outcomes = (0..self.manifest.entries.len()).into_par_iter().map(one);
        let outcome: io::Result<Result<Vec<()>, TaskError>> = outcomes.collect();
        outcome.map_err(|source| self.io(source, |source| self.context.installation.unwritable(source)))?.map(|_| ())
    }

    fn take_over(&self, from: u32, path: &str, executable: bool, kept: bool, folder: &Folder) -> io::Result<()> {
        let Some(source) = self.source else { return Err(io::Error::other("no source")) };
        let old = &source.manifest.entries[from as usize];
        let same_mode = matches!(old.kind, Kind::File { executable: before, .. } if before == executable);
        make_room(folder, path)?;
        folder.remove(path)?;
        if self.link == Link::Hard && same_mode && !kept && !self.context.keep.has(&old.path) {
            let file = source.folder.read(&old.path)?;
            if file.metadata()?.permissions().mode() & 0o222 != 0 {
                file.set_permissions(std::fs::Permissions::from_mode(mode(executable, false)))?;
            }
            return source.folder.hard_link(&old.path, folder, path);
        }
        copy(&source.folder, &old.path, folder, path, self.link == Link::Reflink)?;
        let file = folder.read(path)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode(executable, kept)))
    }

    /// Marks which files are put together, for `Staging`.
    pub fn assembled(plan: &Plan) -> Vec<bool> {
        plan.ways.iter().map(|way| *way == Way::Assemble).collect()
    }
}

/// Bytes on this disk.
struct Place {
    built: bool,
    entry: u32,
    offset: u64,
}

#[derive(Default)]
struct Scratch {
    prefix: Vec<u8>,
    plain: Vec<u8>,
}

/// Lets a file stand at `path`: folders above it, and nothing in its place that is not a file of `incoming` alone.
fn make_room(folder: &Folder, path: &str) -> io::Result<()> {
    for (at, _) in path.match_indices('/').chain(std::iter::once((path.len(), ""))) {
        let step = &path[..at];
        let Some(stat) = folder.stat(step)? else { break };
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        let is_folder = kind == rustix::fs::FileType::Directory;
        if at < path.len() && !is_folder {
            folder.remove(step)?;
        } else if at == path.len() && is_folder {
            // An empty folder may be wanted; one that is not empty is of an attempt at another version.
            folder.folder(step)?.clear()?;
            folder.remove_folder(step)?;
        } else if at == path.len() {
            let alone = kind == rustix::fs::FileType::RegularFile && stat.st_nlink == 1;
            if !alone {
                folder.remove(step)?;
            } else if stat.st_mode & 0o200 == 0 {
                folder.read(step)?.set_permissions(std::fs::Permissions::from_mode(0o644))?;
            }
        }
    }
    folder.make_folders_above(path)
}
