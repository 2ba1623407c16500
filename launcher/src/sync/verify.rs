//! `vsekai sync verify`: whether a store's chunks are whole, or an index's chunks all there, or a file what its index says.

use super::assemble::is_whole;
use super::files::{Index, stores};
use super::{Access, Job, Printed, fault};
use crate::bar::Counter;
use crate::caibx::CHUNK_SIZE_MAX;
use crate::castr::http::is_url;
use crate::castr::{ChunkReader, Entry, LocalStore, StoreError, check_packed, packed_max};
use crate::digest::{Digest, Id};
use crate::error::{Exit, TaskError, shown};
use crate::hex::hex;
use serde::Serialize;
use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

/// Damage is counted beyond this, but not listed: a report stays readable, and memory bounded.
const LISTED_MAX: usize = 10_000;

/// `vsekai sync verify`
#[derive(Debug, Clone, clap::Args)]
pub struct Verify {
    /// The store: all chunks in its folder are checked. With --index, only the index's, and it may be an address and be repeated.
    #[arg(long, value_name = "DIR|URL", required_unless_present = "index")]
    pub store: Vec<String>,
    /// Check the chunks of this index instead: that each is there and whole.
    #[arg(long, value_name = "FILE|URL")]
    pub index: Option<String>,
    /// Check a file against the index, and no store.
    #[arg(long, visible_alias = "output", value_name = "FILE", requires = "index", conflicts_with_all = ["store", "repair"])]
    pub blob: Option<PathBuf>,
    /// Remove damaged chunks: the next `make` then writes them anew, and nobody extracts them.
    #[arg(long, conflicts_with = "index")]
    pub repair: bool,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Serialize)]
struct Damage {
    id: String,
    why: String,
}

#[derive(Serialize, Default)]
struct Report {
    /// Chunks checked.
    chunk_count: u64,
    damaged_count: u64,
    missing_count: u64,
    removed_count: u64,
    /// The first 10,000 of them.
    damaged: Vec<Damage>,
}

impl Report {
    fn add(&mut self, id: &Id, why: String) {
        if self.damaged.len() < LISTED_MAX {
            self.damaged.push(Damage { id: hex(id), why });
        }
    }

    fn print(&self, what: &str) -> Result<Printed, TaskError> {
        let mut text: String = self.damaged.iter().map(|Damage { id, why }| format!("{id}  {why}\n")).collect();
        let Self { chunk_count, damaged_count, missing_count, removed_count, .. } = self;
        let summary =
            format!("{chunk_count} chunks, {damaged_count} damaged ({removed_count} removed), {missing_count} missing");
        text += &format!("{what}: {summary}\n");
        let mut printed = Printed::new(self, text)?;
        if damaged_count + missing_count > 0 {
            printed.failed = Some(TaskError::new(Exit::Damaged, format!("{what}: {summary}")));
        }
        Ok(printed)
    }
}

impl Job for Verify {
    fn run(&self) -> Result<Printed, TaskError> {
        let authorization = self.access.authorization.as_deref();
        let Some(index) = &self.index else {
            let [store] = self.store.as_slice() else {
                return Err(TaskError::new(Exit::Usage, "one store is verified at a time, unless an index is named"));
            };
            if is_url(store) {
                let what = format!("{store}: a server does not list its chunks: name an --index");
                return Err(TaskError::new(Exit::Usage, what));
            }
            return self.verify_store(Path::new(store));
        };
        let opened = Index::open(index, authorization)?;
        match &self.blob {
            Some(blob) => verify_blob(&opened, blob),
            None => {
                let stores = stores(&self.store, index, authorization)?;
                verify_index(&opened, &stores)
            }
        }
    }
}

impl Verify {
    fn verify_store(&self, folder: &Path) -> Result<Printed, TaskError> {
        let store = LocalStore::new(folder);
        let unreadable = |source| TaskError::unreadable(folder, source);
        fs::read_dir(folder).map_err(unreadable)?;
        let progress = Counter::new("verifying", 0);
        let report = Mutex::new(Report::default());
        let threads = std::thread::available_parallelism().map_or(2, usize::from).min(16);
        let (ids, receiver) = sync_channel::<Id>(256);
        let receiver = Mutex::new(receiver);
        let walked = std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut packed = Vec::new();
                    // Chunks of one store are named by one digest, nearly always.
                    let mut digest = Digest::Sha512_256;
                    loop {
                        let id = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(id) = id else { return };
                        let checked = match store.read(&id, packed_max(CHUNK_SIZE_MAX), &mut packed) {
                            Ok(()) => check_packed(&packed, &id, digest, CHUNK_SIZE_MAX).map(|(_, used)| digest = used),
                            Err(StoreError::Missing { .. }) => Err("the file has no bytes".into()),
                            Err(StoreError::Damaged { why, .. }) => Err(why),
                            Err(error) => Err(error.to_string()),
                        };
                        progress.add(packed.len() as u64);
                        // A large chunk is no reason to keep its memory.
                        packed.shrink_to(1 << 20);
                        let removed = checked.is_err() && self.repair && fs::remove_file(store.path(&id)).is_ok();
                        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                        report.chunk_count += 1;
                        if let Err(why) = checked {
                            report.damaged_count += 1;
                            report.removed_count += u64::from(removed);
                            report.add(&id, why);
                        }
                    }
                });
            }
            let walked = store.each(|_, entry| {
                if let Entry::Chunk(id) = entry {
                    // Receivers live as long as there are chunks.
                    let _ = ids.send(id);
                }
                Ok(())
            });
            drop(ids);
            walked
        });
        walked.map_err(unreadable)?;
        drop(progress);
        let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.damaged.sort_by(|one, other| one.id.cmp(&other.id));
        report.print(&shown(folder))
    }
}

fn verify_index(index: &Index, stores: &[crate::castr::Store]) -> Result<Printed, TaskError> {
    let bad = |error| fault::index(&index.name, error);
    let progress = Counter::new("verifying", index.total_size);
    let digest = index.header.digest;
    let threads = stores.iter().map(crate::castr::Store::threads).max().unwrap_or(1);
    let (chunks, receiver) = sync_channel(256);
    let (receiver, report, network) = (Mutex::new(receiver), Mutex::new(Report::default()), Mutex::new(None));
    let mut reader = index.reader()?;
    let read = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut reader = None;
                let mut buffer = Vec::new();
                loop {
                    let chunk = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(chunk): Result<crate::caibx::Chunk, _> = chunk else { return };
                    buffer.resize(usize::try_from(chunk.size).expect("at most 128 MiB"), 0);
                    let found = match &mut reader {
                        Some(reader) => Ok(reader),
                        None => ChunkReader::new().map(|new| reader.insert(new)),
                    };
                    let result = match found {
                        Ok(reader) => reader.read(stores, digest, &chunk.id, &mut buffer),
                        Err(source) => Err(StoreError::Read { id: hex(&chunk.id), file: "zstd".into(), source }),
                    };
                    progress.add(chunk.size);
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    report.chunk_count += 1;
                    match result {
                        Ok(_) => {}
                        Err(error @ StoreError::Missing { .. }) => {
                            report.missing_count += 1;
                            report.add(&chunk.id, error.to_string());
                        }
                        Err(error @ (StoreError::Network { .. } | StoreError::Denied { .. })) => {
                            network.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                        Err(error) => {
                            report.damaged_count += 1;
                            report.add(&chunk.id, error.to_string());
                        }
                    }
                }
            });
        }
        // The same chunk twice is checked once, as long as that does not cost much memory.
        let mut seen = HashSet::new();
        let mut send = || -> Result<(), TaskError> {
            while let Some(chunk) = reader.next_chunk().map_err(bad)? {
                let unreachable = network.lock().unwrap_or_else(PoisonError::into_inner).is_some();
                if unreachable {
                    break;
                }
                if seen.len() > 1 << 18 || seen.insert(chunk.id) {
                    let _ = chunks.send(chunk);
                }
            }
            Ok(())
        };
        let sent = send();
        drop(chunks);
        sent
    });
    read?;
    drop(progress);
    if let Some(error) = network.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(fault::store("verifying broke off", error));
    }
    report.into_inner().unwrap_or_else(PoisonError::into_inner).print(&index.name)
}

#[derive(Serialize)]
struct BlobReport<'a> {
    blob: &'a str,
    whole: bool,
}

fn verify_blob(index: &Index, blob: &Path) -> Result<Printed, TaskError> {
    let file = File::open(blob).map_err(|source| TaskError::unreadable(blob, source))?;
    let whole = is_whole(index.reader()?, &file).map_err(|error| fault::stream(&index.name, error))?;
    let name = shown(blob);
    let text = format!("{name}: {}\n", if whole { "is what the index says" } else { "is not what the index says" });
    let mut printed = Printed::new(&BlobReport { blob: &name, whole }, text)?;
    if !whole {
        printed.failed = Some(TaskError::new(Exit::Damaged, format!("{name}: is not what {} says", index.name)));
    }
    Ok(printed)
}
