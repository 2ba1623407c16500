//! `vsekai sync mount-index`: an index as a file that is fetched as it is read.
//!
//! The folder holds one read-only file, named like the index without its ending. What is read comes from a small cache of chunks; behind
//! a reader that goes forward, the chunks ahead are fetched before they are asked for.

use super::files::{Index, stores};
use super::stream::{Fetchers, StreamError};
use super::{Access, Job, Printed, fault};
use crate::caibx::Chunk;
use crate::castr::http::is_url;
use crate::error::{Exit, TaskError, shown};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, Request, Session,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of chunks that are kept, unless four of the largest are more.
const CACHE: usize = 24 << 20;
/// Nothing changes while it is mounted.
const VALID: Duration = Duration::from_secs(3_600);
const FILE: INodeNo = INodeNo(2);
/// An index of more chunks would take more memory than it is worth: 40 bytes each.
const CHUNKS_MAX: u64 = 8 << 20;

/// `vsekai sync mount-index`
#[derive(Debug, Clone, clap::Args)]
pub struct MountIndex {
    /// The index, a file or an address.
    #[arg(long, value_name = "FILE|URL")]
    pub index: String,
    /// An empty folder.
    #[arg(long, value_name = "DIR")]
    pub mountpoint: PathBuf,
    /// Where chunks are, a folder or an address; may be repeated. Usually `default.castr` beside the index.
    #[arg(long, value_name = "DIR|URL")]
    pub store: Vec<String>,
    #[command(flatten)]
    pub access: Access,
}

#[derive(serde::Serialize)]
struct Report<'a> {
    mountpoint: &'a str,
    unmounted: bool,
}

impl Job for MountIndex {
    /// Returns when it is unmounted: by SIGINT, SIGTERM, SIGHUP, or from outside (`umount`).
    fn run(&self) -> Result<Printed, TaskError> {
        let authorization = self.access.authorization.as_deref();
        let index = Index::open(&self.index, authorization)?;
        if index.header.chunk_count > CHUNKS_MAX {
            let what = format!("{}: has more than {CHUNKS_MAX} chunks, which is too many to mount", index.name);
            return Err(TaskError::new(Exit::Usage, what));
        }
        let stores = Arc::new(stores(&self.store, &self.index, authorization)?);
        let blob = Blob::new(&index, file_name(&self.index), Fetchers::new(stores, index.header.digest))?;
        let unmountable = |source| {
            let what =
                format!("{}: cannot be mounted on; is it an empty folder, and FUSE there?", shown(&self.mountpoint));
            TaskError::because(Exit::Unwritable, what, source)
        };
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::RO,
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::DefaultPermissions,
            MountOption::FSName("vsekai".into()),
        ];
        config.n_threads = Some(2);
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(unmountable)?;
        let mut session = Session::new(blob, &self.mountpoint, &config).map_err(unmountable)?;
        let mut unmounter = session.unmount_callable();
        let handle = signals.handle();
        let mountpoint = self.mountpoint.clone();
        let waiter = std::thread::spawn(move || {
            // Where a file is still open the mount goes out of sight now, and ends when the file is closed.
            let detach = || rustix::mount::unmount(&mountpoint, rustix::mount::UnmountFlags::DETACH);
            if signals.forever().next().is_some()
                && unmounter.unmount().is_err()
                && let Err(error) = detach()
            {
                eprintln!("vsekai: {}: cannot be unmounted: {error}", shown(&mountpoint));
            }
        });
        let served = session.run();
        handle.close();
        let _ = waiter.join();
        served.map_err(|source| TaskError::because(Exit::Failed, "serving the mounted file failed", source))?;
        let mountpoint = shown(&self.mountpoint);
        Printed::new(&Report { mountpoint: &mountpoint, unmounted: true }, format!("{mountpoint}: unmounted\n"))
    }
}

/// The index's own name without `.caibx`; of a tree's index the archive's name.
fn file_name(index: &str) -> OsString {
    let name = if is_url(index) {
        OsStr::new(index.rsplit('/').next().unwrap_or("blob"))
    } else {
        Path::new(index).file_name().unwrap_or(OsStr::new("blob"))
    };
    match name.to_str() {
        Some(text) if text.ends_with(".caidx") => text.replace(".caidx", ".catar").into(),
        Some(text) => text.strip_suffix(".caibx").filter(|stem| !stem.is_empty()).unwrap_or(text).into(),
        None => name.to_owned(),
    }
}

/// A chunk that was asked for.
enum Slot {
    Coming(Receiver<Result<Vec<u8>, StreamError>>),
    There(Vec<u8>),
    /// It cannot be had; it may be asked for again.
    Failed,
}

struct Cache {
    slots: HashMap<usize, Arc<Mutex<Slot>>>,
    /// In the order in which they were asked for.
    order: VecDeque<usize>,
    /// The chunk that was read last.
    last: usize,
}

struct Blob {
    chunks: Vec<Chunk>,
    name: OsString,
    size: u64,
    mounted: SystemTime,
    owner: (u32, u32),
    fetchers: Fetchers,
    cache: Mutex<Cache>,
    slots_max: usize,
    ahead: usize,
}

impl Blob {
    fn new(index: &Index, name: OsString, fetchers: Fetchers) -> Result<Self, TaskError> {
        let mut reader = index.reader()?;
        let mut chunks = Vec::with_capacity(index.header.chunk_count as usize);
        while let Some(chunk) = reader.next_chunk().map_err(|error| fault::index(&index.name, error))? {
            chunks.push(chunk);
        }
        let slots_max = (CACHE / index.header.chunk_size_max as usize).clamp(4, 512);
        Ok(Self {
            chunks,
            name,
            size: index.total_size,
            mounted: SystemTime::now(),
            owner: (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
            ahead: (slots_max / 2).min(4 * fetchers.count()),
            fetchers,
            cache: Mutex::new(Cache { slots: HashMap::new(), order: VecDeque::new(), last: usize::MAX }),
            slots_max,
        })
    }

    fn attributes(&self, node: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match node {
            INodeNo::ROOT => (FileType::Directory, 0o555, 0),
            FILE => (FileType::RegularFile, 0o444, self.size),
            _ => return None,
        };
        Some(FileAttr {
            ino: node,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: self.mounted,
            ctime: self.mounted,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            flags: 0,
            blksize: 64 << 10,
        })
    }

    /// The chunk's slot, asked for if it was not, and the next ones as well where the reader goes forward.
    fn slot(&self, number: usize) -> Arc<Mutex<Slot>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let forward = number == 0 || cache.last == number || cache.last.wrapping_add(1) == number;
        cache.last = number;
        let slot = self.asked(&mut cache, number);
        if forward {
            let end = self.chunks.len().min(number + 1 + self.ahead);
            for next in number + 1..end {
                self.asked(&mut cache, next);
            }
        }
        slot
    }

    fn asked(&self, cache: &mut Cache, number: usize) -> Arc<Mutex<Slot>> {
        if let Some(slot) = cache.slots.get(&number) {
            return Arc::clone(slot);
        }
        let mut buffer = Vec::new();
        while cache.order.len() >= self.slots_max
            && let Some(oldest) = cache.order.pop_front()
        {
            // Its memory is used again if nobody reads it just now.
            if let Some(slot) = cache.slots.remove(&oldest).and_then(Arc::into_inner)
                && let Slot::There(bytes) = slot.into_inner().unwrap_or_else(PoisonError::into_inner)
            {
                buffer = bytes;
            }
        }
        let slot = Arc::new(Mutex::new(Slot::Coming(self.fetchers.fetch(self.chunks[number], buffer))));
        cache.slots.insert(number, Arc::clone(&slot));
        cache.order.push_back(number);
        slot
    }

    fn forget(&self, number: usize) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.slots.remove(&number);
        cache.order.retain(|&other| other != number);
    }

    fn bytes(&self, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::with_capacity(size);
        let mut number = self.chunks.partition_point(|chunk| chunk.offset + chunk.size <= offset);
        let mut within = match self.chunks.get(number) {
            Some(chunk) => (offset - chunk.offset) as usize,
            None => return Ok(bytes),
        };
        while bytes.len() < size && number < self.chunks.len() {
            let slot = self.slot(number);
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if let Slot::Coming(coming) = &*slot {
                *slot = match coming.recv() {
                    Ok(Ok(chunk)) => Slot::There(chunk),
                    Ok(Err(error)) => {
                        eprintln!("vsekai: {}", crate::error::one_line(fault::stream("a read failed", error)));
                        Slot::Failed
                    }
                    Err(_) => Slot::Failed,
                };
            }
            let Slot::There(chunk) = &*slot else {
                drop(slot);
                self.forget(number);
                return Err(Errno::EIO);
            };
            let rest = &chunk[within..];
            bytes.extend_from_slice(&rest[..rest.len().min(size - bytes.len())]);
            within = 0;
            number += 1;
        }
        Ok(bytes)
    }
}

impl Filesystem for Blob {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The kernel's own limit is taken where it is lower.
        if let Err(lower) = config.set_max_readahead(1 << 20) {
            let _ = config.set_max_readahead(lower);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(FILE) {
            Some(file) if parent == INodeNo::ROOT && name == self.name => reply.entry(&VALID, &file, Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(node) {
            Some(attributes) => reply.attr(&VALID, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if node != FILE {
            return reply.error(Errno::EISDIR);
        }
        match self.bytes(offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _request: &Request, node: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if node != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let entries = [
            (INodeNo::ROOT, FileType::Directory, OsStr::new(".")),
            (INodeNo::ROOT, FileType::Directory, OsStr::new("..")),
            (FILE, FileType::RegularFile, self.name.as_os_str()),
        ];
        for (number, (node, kind, name)) in (1..).zip(entries).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if reply.add(node, number, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
