//! A disk in memory that does what disks do when the power fails, the room ends or a sector rots.
//!
//! Every file has what is settled on the disk and, in order, what was done to it since; so has every directory. A sync
//! settles. When the power fails each change that is not settled may have happened or not, whatever happened to those
//! around it, and a write may have happened in part. This is more than ext4 does, and no more than POSIX allows:
//!
//! - A file's content survives only if the file was synced, its name only if the directory was: a file that was synced may
//!   be gone, and a name may lead to an empty file.
//! - Changes of a directory survive independently of each other; a rename happens wholly or not at all.
//! - A torn write reaches the disk in any of its sectors, or up to some byte. Each byte is the old one or the new one, and
//!   those around are never harmed (SQLite calls it powersafe overwrite; redb asks for both, `docs/design.md` there). For
//!   what should stand more, [`CrashChoice::Garbage`] leaves neither in the sector where the write broke off.
//! - After a sync that failed, what it was to settle may be on the disk or not, and no later sync makes it so (as on Linux,
//!   where a failed sync leaves the pages clean).
//!
//! Left out: directories are made durably at once, and can be neither removed nor renamed.

use super::{Disk, DiskFile, FileIdentity, OpenMode};
use crate::sync::locked;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a disk writes at once.
pub const SECTOR_BYTES: u64 = 512;

/// What [`Disk::free_bytes`] says as long as no test has said otherwise.
const FREE_BYTES: u64 = 1 << 40;

/// What becomes of the changes that no sync has settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashChoice {
    /// None of them happened: the disk wrote nothing before it had to.
    NoneKept,
    /// All of them happened: the disk wrote everything at once. This is also what a killed process leaves, as the operating
    /// system lives on.
    AllKept,
    /// Each happened, did not happen, or happened in part, as this seed says.
    Random(u64),
    /// The same, and the sector in which a write broke off holds anything where it was to be written. Few disks do that, and
    /// redb may lose its file by it; our journal must not.
    Garbage(u64),
}

/// Just before or just after one operation, counted from 1 since the disk was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It has not happened yet, but all that its process did before has.
    Before(u64),
    /// It has happened, and its process has not yet been told.
    After(u64),
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    directories: BTreeMap<PathBuf, OnDisk<Entries, EntryChange>>,
    files: Vec<Inode>,
    handle_count: u64,
    operation_count: u64,
    crash_at: Option<u64>,
    /// The power is off.
    is_off: bool,
    interruption: Option<(Moment, Interruption)>,
    fails_next_sync: bool,
    /// Syncs say that they worked, and settle nothing.
    skips_syncs: bool,
    /// Most bytes that all files together may have.
    capacity: Option<u64>,
    free_bytes: Option<u64>,
}

type Interruption = Box<dyn FnOnce() + Send>;

/// Names in a directory, and the index of the file that each leads to.
type Entries = BTreeMap<OsString, usize>;

#[derive(Default)]
struct Inode {
    content: OnDisk<Arc<Vec<u8>>, FileChange>,
    /// The handle that holds the lock.
    locked_by: Option<u64>,
}

/// Something as it is now, as it is settled, and what was done in between.
struct OnDisk<T, C> {
    now: T,
    settled: T,
    changes: Vec<(C, Fate)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// No sync yet.
    Pending,
    /// On the disk, though a change before it is not for certain.
    Synced,
    /// The sync failed: nobody knows, ever.
    Doubtful,
}

trait Change<T> {
    fn apply(&self, to: &mut T);

    /// Happens in part.
    fn apply_torn(&self, to: &mut T, random: &mut Random);
}

enum FileChange {
    Write { offset: usize, bytes: Vec<u8> },
    SetLength(usize),
}

enum EntryChange {
    Create { name: OsString, file: usize },
    Remove { name: OsString, file: usize },
    Rename { from: OsString, to: OsString, file: usize },
}

impl std::fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("SimulatedDisk")
            .field("operation_count", &state.operation_count)
            .field("is_off", &state.is_off)
            .finish_non_exhaustive()
    }
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new() -> Self {
        SimulatedDisk::default()
    }

    /// How many operations there were that change something or settle it: writes, changes of length, syncs, creations,
    /// renamings and removals of files. Reading, locking and making directories don't count.
    pub fn operation_count(&self) -> u64 {
        self.state().operation_count
    }

    /// Turns the power off in the `operation`-th operation since the disk was made, counted from 1: that one fails, and all
    /// that follow, and reading, too. What that operation was to change may have happened.
    pub fn crash_at(&self, operation: u64) {
        self.state().crash_at = Some(operation);
    }

    /// Stops the process that uses the disk at that moment and lets `other` act, as another process would while the first is
    /// stopped by the machine.
    pub fn interrupt(&self, at: Moment, other: impl FnOnce() + Send + 'static) {
        self.state().interruption = Some((at, Box::new(other)));
    }

    /// Turns the power off now.
    pub fn crash(&self) {
        self.state().is_off = true;
    }

    /// True once the power is off.
    pub fn is_off(&self) -> bool {
        self.state().is_off
    }

    /// The disk as it is found after the power failed, at the moment of the crash or, when it is still on, now. This one
    /// stays as it is, so that one crash can be tried with many choices. Nothing is locked on the new one, it has no faults,
    /// and counts from 0.
    pub fn after_crash(&self, choice: CrashChoice) -> SimulatedDisk {
        let state = self.state();
        let mut chooser = Chooser::new(choice);
        let mut after = State::default();
        for inode in &state.files {
            let content = OnDisk::new(inode.content.after_crash(&mut chooser));
            after.files.push(Inode { content, locked_by: None });
        }
        for (path, directory) in &state.directories {
            after.directories.insert(path.clone(), OnDisk::new(directory.after_crash(&mut chooser)));
        }
        SimulatedDisk { state: Arc::new(Mutex::new(after)) }
    }

    /// The next sync, of a file or a directory, fails with an I/O error.
    pub fn fail_next_sync(&self) {
        self.state().fails_next_sync = true;
    }

    /// A planted bug: as long as this is on, syncs succeed and settle nothing.
    pub fn skip_syncs(&self, skips: bool) {
        self.state().skips_syncs = skips;
    }

    /// What [`Disk::free_bytes`] says from now on.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.state().free_bytes = Some(bytes);
    }

    /// Leaves room for `bytes` more in all files together; beyond it the disk is full.
    pub fn fill(&self, bytes: u64) {
        let mut state = self.state();
        state.capacity = Some(state.used_bytes() + bytes);
    }

    /// Rot: settles the file and changes what is on the disk.
    pub fn rot(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut state = self.state();
        let file = state.find(path)?;
        let content = &mut state.files[file].content;
        change(Arc::make_mut(&mut content.now));
        *content = OnDisk::new(content.now.clone());
        Ok(())
    }

    /// Rot: all bits of one byte turn over.
    pub fn flip_byte(&self, path: &Path, offset: u64) -> io::Result<()> {
        self.rot(path, |bytes| bytes[offset as usize] ^= 0xff)
    }

    /// Rot: the sector that holds `offset` is all zeros.
    pub fn zero_sector(&self, path: &Path, offset: u64) -> io::Result<()> {
        self.rot(path, |bytes| {
            let start = (offset - offset % SECTOR_BYTES) as usize;
            let end = bytes.len().min(start + SECTOR_BYTES as usize);
            bytes[start..end].fill(0);
        })
    }

    /// All files by path, with their lengths.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state();
        let entries = state.directories.iter().flat_map(|(directory, entries)| {
            entries.now.iter().map(|(name, file)| (directory.join(name), state.files[*file].length()))
        });
        entries.collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Runs one operation, and what is to interrupt it.
    fn operation<T>(&self, operate: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        let number = state.operation_count + 1;
        if let Some(other) = state.interruption_at(Moment::Before(number)) {
            drop(state);
            other();
            state = self.state();
        }
        let done = operate(&mut state);
        let other = state.interruption_at(Moment::After(number));
        drop(state);
        if let Some(other) = other {
            other();
        }
        done
    }
}

impl Disk for SimulatedDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.check_power()?;
        for directory in path.ancestors() {
            state.directories.entry(directory.to_owned()).or_insert_with(|| OnDisk::new(Entries::new()));
        }
        Ok(())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let found = self.state().find(path);
        let file = match (found, mode) {
            (Ok(file), OpenMode::Read | OpenMode::Existing | OpenMode::OpenOrCreate) => file,
            (Err(e), OpenMode::Read | OpenMode::Existing) => return Err(e),
            (_, OpenMode::CreateNew | OpenMode::OpenOrCreate) => self.operation(|state| match state.find(path) {
                Ok(_) if mode == OpenMode::CreateNew => Err(ErrorKind::AlreadyExists.into()),
                Ok(file) => Ok(file),
                Err(_) => state.create(path),
            })?,
        };
        let mut state = self.state();
        state.check_power()?;
        state.handle_count += 1;
        let handle = state.handle_count;
        Ok(Box::new(SimulatedFile { disk: self.clone(), file, handle, is_writable: mode != OpenMode::Read }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if from.parent() != to.parent() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the simulation renames within a directory only"));
        }
        self.operation(|state| {
            let file = state.find(from)?;
            let dies = state.operate()?;
            let change = EntryChange::Rename { from: name(from)?, to: name(to)?, file };
            state.directory(from)?.change(change);
            power(dies)
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operation(|state| {
            let file = state.find(path)?;
            let dies = state.operate()?;
            state.directory(path)?.change(EntryChange::Remove { name: name(path)?, file });
            power(dies)
        })
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state();
        state.check_power()?;
        let entries = state.directories.get(directory).ok_or(ErrorKind::NotFound)?;
        let files = entries.now.keys().map(|name| directory.join(name));
        let below = state.directories.keys().filter(|path| path.parent() == Some(directory)).cloned();
        Ok(files.chain(below).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        state.check_power()?;
        Ok(state.directories.contains_key(path) || state.find(path).is_ok())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.state();
        state.check_power()?;
        Ok(state.files[state.find(path)?].content.now.to_vec())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.operation(|state| {
            if !state.directories.contains_key(path) {
                return Err(ErrorKind::NotFound.into());
            }
            let Some(succeeds) = state.sync()? else { return Ok(()) };
            let directory = state.directories.get_mut(path).ok_or(ErrorKind::NotFound)?;
            directory.sync(succeeds)
        })
    }

    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        let state = self.state();
        state.check_power()?;
        Ok(FileIdentity { device: 0, inode: state.find(path)? as u64 })
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.state();
        state.check_power()?;
        let left = state.capacity.map(|capacity| capacity.saturating_sub(state.used_bytes()));
        Ok(state.free_bytes.or(left).unwrap_or(FREE_BYTES))
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    file: usize,
    handle: u64,
    is_writable: bool,
}

impl SimulatedFile {
    fn change(&self, make: impl FnOnce(&mut State) -> io::Result<FileChange>) -> io::Result<()> {
        if !self.is_writable {
            return Err(ErrorKind::PermissionDenied.into());
        }
        self.disk.operation(|state| {
            let dies = state.operate()?;
            let change = make(state)?;
            state.files[self.file].content.change(change);
            power(dies)
        })
    }

    fn release(&self) {
        let locked_by = &mut self.disk.state().files[self.file].locked_by;
        if *locked_by == Some(self.handle) {
            *locked_by = None;
        }
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        self.release();
    }
}

impl DiskFile for SimulatedFile {
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.state();
        state.check_power()?;
        let content = &state.files[self.file].content.now;
        let start = offset as usize;
        let found = start.checked_add(bytes.len()).and_then(|end| content.get(start..end));
        bytes.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut fits = true;
        self.change(|state| {
            let end = state.room_for(self.file, offset + bytes.len() as u64);
            let written = (end.saturating_sub(offset) as usize).min(bytes.len());
            fits = written == bytes.len();
            Ok(FileChange::Write { offset: offset as usize, bytes: bytes[..written].to_vec() })
        })?;
        if fits { Ok(()) } else { Err(ErrorKind::StorageFull.into()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.disk.operation(|state| {
            let Some(succeeds) = state.sync()? else { return Ok(()) };
            state.files[self.file].content.sync(succeeds)
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(|state| {
            if state.room_for(self.file, length) < length {
                return Err(ErrorKind::StorageFull.into());
            }
            Ok(FileChange::SetLength(length as usize))
        })
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.check_power()?;
        Ok(state.files[self.file].length())
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        let longest = length.max(self.len()?);
        self.set_len(longest)
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut state = self.disk.state();
        state.check_power()?;
        let locked_by = &mut state.files[self.file].locked_by;
        Ok(*locked_by.get_or_insert(self.handle) == self.handle)
    }

    fn unlock(&self) -> io::Result<()> {
        self.release();
        Ok(())
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(FileIdentity { device: 0, inode: self.file as u64 })
    }
}

impl State {
    fn check_power(&self) -> io::Result<()> {
        power(self.is_off)
    }

    fn interruption_at(&mut self, moment: Moment) -> Option<Interruption> {
        self.interruption.take_if(|(at, _)| *at == moment).map(|(_, other)| other)
    }

    /// Counts an operation. True when the power goes off in it.
    fn operate(&mut self) -> io::Result<bool> {
        self.check_power()?;
        self.operation_count += 1;
        self.is_off = self.crash_at.is_some_and(|crash_at| self.operation_count >= crash_at);
        Ok(self.is_off)
    }

    /// Counts a sync. False when the disk fails it, `None` when it does nothing; with the power off all stays as it was.
    fn sync(&mut self) -> io::Result<Option<bool>> {
        power(self.operate()?)?;
        let fails = std::mem::take(&mut self.fails_next_sync);
        Ok(if self.skips_syncs { None } else { Some(!fails) })
    }

    fn directory(&mut self, of: &Path) -> io::Result<&mut OnDisk<Entries, EntryChange>> {
        let parent = of.parent().ok_or(ErrorKind::InvalidInput)?;
        self.directories.get_mut(parent).ok_or(ErrorKind::NotFound.into())
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.check_power()?;
        let directory = path.parent().and_then(|parent| self.directories.get(parent));
        let file = directory.and_then(|directory| directory.now.get(path.file_name()?));
        file.copied().ok_or(ErrorKind::NotFound.into())
    }

    fn create(&mut self, path: &Path) -> io::Result<usize> {
        let file = self.files.len();
        let name = name(path)?;
        self.directory(path)?;
        let dies = self.operate()?;
        self.files.push(Inode::default());
        self.directory(path)?.change(EntryChange::Create { name, file });
        power(dies)?;
        Ok(file)
    }

    fn used_bytes(&self) -> u64 {
        let entries = self.directories.values().flat_map(|directory| directory.now.values());
        entries.map(|file| self.files[*file].length()).sum()
    }

    /// How long the file can be, if it is to be `length` long.
    fn room_for(&self, file: usize, length: u64) -> u64 {
        let Some(capacity) = self.capacity else { return length };
        let longest = self.files[file].length() + capacity.saturating_sub(self.used_bytes());
        length.min(longest)
    }
}

impl Inode {
    fn length(&self) -> u64 {
        self.content.now.len() as u64
    }
}

impl<T: Clone + Default, C> Default for OnDisk<T, C> {
    fn default() -> Self {
        OnDisk::new(T::default())
    }
}

impl<T: Clone, C> OnDisk<T, C> {
    fn new(settled: T) -> Self {
        OnDisk { now: settled.clone(), settled, changes: Vec::new() }
    }
}

impl<T: Clone, C: Change<T>> OnDisk<T, C> {
    fn change(&mut self, change: C) {
        change.apply(&mut self.now);
        self.changes.push((change, Fate::Pending));
    }

    fn sync(&mut self, succeeds: bool) -> io::Result<()> {
        let fate = if succeeds { Fate::Synced } else { Fate::Doubtful };
        for (_, known) in self.changes.iter_mut().filter(|(_, known)| *known == Fate::Pending) {
            *known = fate;
        }
        let settled = self.changes.iter().take_while(|(_, fate)| *fate == Fate::Synced).count();
        for (change, _) in self.changes.drain(..settled) {
            change.apply(&mut self.settled);
        }
        if succeeds { Ok(()) } else { Err(io::Error::other("the simulated disk failed to sync")) }
    }

    fn after_crash(&self, chooser: &mut Chooser) -> T {
        let mut left = self.settled.clone();
        for (change, fate) in &self.changes {
            match chooser.choose(*fate) {
                Happened::Wholly => change.apply(&mut left),
                Happened::InPart(random) => change.apply_torn(&mut left, random),
                Happened::Not => {}
            }
        }
        left
    }
}

impl Change<Arc<Vec<u8>>> for FileChange {
    fn apply(&self, to: &mut Arc<Vec<u8>>) {
        let to = Arc::make_mut(to);
        match self {
            FileChange::Write { offset, bytes } => overwrite(to, *offset, bytes),
            FileChange::SetLength(length) => to.resize(*length, 0),
        }
    }

    fn apply_torn(&self, to: &mut Arc<Vec<u8>>, random: &mut Random) {
        let FileChange::Write { offset, bytes } = self else {
            return if random.below(2) == 0 {
                self.apply(to)
            };
        };
        let to = Arc::make_mut(to);
        let sector = SECTOR_BYTES as usize;
        let torn_at = offset + random.below(bytes.len() as u64 + 1) as usize;
        let in_one_sector = random.below(2) == 0;
        let mut start = *offset;
        while start < offset + bytes.len() {
            let end = (start - start % sector + sector).min(offset + bytes.len());
            let new = &bytes[start - offset..end - offset];
            if !in_one_sector {
                if random.below(2) == 0 {
                    overwrite(to, start, new);
                }
            } else if end <= torn_at {
                overwrite(to, start, new);
            } else if start < torn_at {
                overwrite(to, start, &bytes[start - offset..torn_at - offset]);
                if random.leaves_garbage {
                    let garbage: Vec<_> = (torn_at..end).map(|_| random.below(256) as u8).collect();
                    overwrite(to, torn_at, &garbage);
                }
            }
            start = end;
        }
        // The new length may be there without the new bytes.
        if random.below(2) == 0 {
            let length = to.len().max(offset + bytes.len());
            to.resize(length, 0);
        }
    }
}

impl Change<Entries> for EntryChange {
    fn apply(&self, to: &mut Entries) {
        let take = |to: &mut Entries, name: &OsString, file: usize| {
            if to.get(name) == Some(&file) {
                to.remove(name);
            }
        };
        match self {
            EntryChange::Create { name, file } => {
                to.insert(name.clone(), *file);
            }
            EntryChange::Remove { name, file } => take(to, name, *file),
            EntryChange::Rename { from, to: new, file } => {
                take(to, from, *file);
                to.insert(new.clone(), *file);
            }
        }
    }

    fn apply_torn(&self, to: &mut Entries, random: &mut Random) {
        if random.below(2) == 0 {
            self.apply(to);
        }
    }
}

enum Happened<'r> {
    Wholly,
    InPart(&'r mut Random),
    Not,
}

enum Chooser {
    None,
    All,
    /// Of 16 changes so many happened.
    Some(Random, u64),
}

impl Chooser {
    fn new(choice: CrashChoice) -> Self {
        match choice {
            CrashChoice::NoneKept => Chooser::None,
            CrashChoice::AllKept => Chooser::All,
            CrashChoice::Random(seed) | CrashChoice::Garbage(seed) => {
                let leaves_garbage = matches!(choice, CrashChoice::Garbage(_));
                let mut random = Random { state: seed, leaves_garbage };
                // A disk that did nearly all, one that did half, one that did next to nothing.
                let share = [1, 8, 15][random.below(3) as usize];
                Chooser::Some(random, share)
            }
        }
    }

    fn choose(&mut self, fate: Fate) -> Happened<'_> {
        match self {
            _ if fate == Fate::Synced => Happened::Wholly,
            Chooser::None => Happened::Not,
            Chooser::All => Happened::Wholly,
            Chooser::Some(random, share) => match (random.below(4), random.below(16)) {
                (0, _) => Happened::InPart(random),
                (_, of_16) if of_16 < *share => Happened::Wholly,
                _ => Happened::Not,
            },
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same for the same seed, for ever.
struct Random {
    state: u64,
    leaves_garbage: bool,
}

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn overwrite(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

fn name(path: &Path) -> io::Result<OsString> {
    path.file_name().map(ToOwned::to_owned).ok_or(ErrorKind::InvalidInput.into())
}

fn power(is_off: bool) -> io::Result<()> {
    if is_off { Err(io::Error::other("the power of the simulated disk is off")) } else { Ok(()) }
}
