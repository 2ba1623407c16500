//! `vsekai sync prune`: removes from a store what no live index names.

use super::files::{Index, folder_of};
use super::{Access, Job, Printed};
use crate::castr::{Entry, LocalStore};
use crate::digest::Id;
use crate::error::{Exit, TaskError, shown};
use serde::Serialize;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// `vsekai sync prune`
#[derive(Debug, Clone, clap::Args)]
pub struct Prune {
    /// The store, a folder.
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
    /// An index whose chunks stay; may be repeated. Usually all .caibx and .caidx in the store's folder and beside it.
    #[arg(long, value_name = "FILE|URL")]
    pub index: Vec<String>,
    /// Chunks that are younger stay, whatever the indexes say: an upload may be under way whose index is not there yet. Seconds, or
    /// with s, m, h, d.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = super::duration)]
    pub grace: Duration,
    /// When there is no index at all: remove everything.
    #[arg(long)]
    pub everything: bool,
    /// Only say what would be removed.
    #[arg(long = "dry_run", alias = "dry-run")]
    pub dry_run: bool,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    index_count: usize,
    kept_count: u64,
    /// Named by no index, but younger than the grace time.
    young_count: u64,
    removed_count: u64,
    /// Bytes, packed.
    removed_size: u64,
    dry_run: bool,
}

impl Job for Prune {
    fn run(&self) -> Result<Printed, TaskError> {
        let unreadable = |source| TaskError::unreadable(&self.store, source);
        fs::read_dir(&self.store).map_err(unreadable)?;
        let indexes = if self.index.is_empty() { self.usual_indexes()? } else { self.index.clone() };
        if indexes.is_empty() && !self.everything {
            let what = format!(
                "{}: no index is named, and none is in it or beside it: all chunks would go; --everything allows that",
                shown(&self.store)
            );
            return Err(TaskError::new(Exit::Usage, what));
        }
        // Before anything is removed all indexes are read whole: one that is damaged or gone keeps everything.
        let mut live = HashSet::<Id>::new();
        for location in &indexes {
            let index = Index::open(location, self.access.authorization.as_deref())?;
            let mut reader = index.reader()?;
            while let Some(chunk) = reader.next_chunk().map_err(|error| super::fault::index(&index.name, error))? {
                live.insert(chunk.id);
            }
        }

        let mut report = Report { index_count: indexes.len(), dry_run: self.dry_run, ..Report::default() };
        let now = SystemTime::now();
        let store = LocalStore::new(&self.store);
        let pruned = store.each(|path, entry| {
            let metadata = fs::metadata(path)?;
            let age = metadata.modified().ok().and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
            match entry {
                Entry::Chunk(id) if live.contains(&id) => report.kept_count += 1,
                _ if age < self.grace => report.young_count += 1,
                _ => {
                    if !self.dry_run {
                        fs::remove_file(path)?;
                    }
                    report.removed_count += 1;
                    report.removed_size += metadata.len();
                }
            }
            Ok(())
        });
        pruned.map_err(|source| TaskError::unwritable(&self.store, source))?;
        let text = format!(
            "{}: {} {} chunks, {} bytes; {} stay for {} indexes, {} because they are young\n",
            shown(&self.store),
            if self.dry_run { "would remove" } else { "removed" },
            report.removed_count,
            report.removed_size,
            report.kept_count,
            report.index_count,
            report.young_count
        );
        Printed::new(&report, text)
    }
}

impl Prune {
    fn usual_indexes(&self) -> Result<Vec<String>, TaskError> {
        let mut found = Vec::new();
        // `store/..` would be another folder if the store is a link.
        for folder in [self.store.clone(), folder_of(&self.store)] {
            let entries = fs::read_dir(&folder).map_err(|source| TaskError::unreadable(&folder, source))?;
            for entry in entries {
                let path = entry.map_err(|source| TaskError::unreadable(&folder, source))?.path();
                if is_index(&path) {
                    found.push(path.to_string_lossy().into_owned());
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "caibx" || extension == "caidx") && path.is_file()
}
