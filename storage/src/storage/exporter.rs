//! Exports of a running shard's world: the embedded store is held by the shard, so nobody else can read it.

use super::workers::Shared;
use crate::keys::Region;
use crate::kv::Database;
use crate::tools::{ComponentHash, ExportSummary, Report, ToolError, export_file};
use std::path::Path;
use std::sync::Arc;

/// Writes the world of a [`super::Storage`] into files.
#[derive(Debug, Clone)]
pub struct Exporter {
    database: Database,
    /// `None` when there was no world.
    shared: Option<Arc<Shared>>,
}

impl Exporter {
    pub(super) fn new(database: Database, shared: Option<Arc<Shared>>) -> Self {
        Exporter { database, shared }
    }

    /// Writes the world to the file at `path`: as it was after some frame no older than the last one that is durable now.
    /// Blocks until that is done; frames go on meanwhile.
    ///
    /// # Errors
    /// As [`export_file`], and when the storage has failed.
    pub fn export(
        &self,
        path: &Path,
        hash: Option<ComponentHash>,
        report: Report<'_>,
    ) -> Result<ExportSummary, ToolError> {
        if let Some(shared) = &self.shared {
            shared.flush_now()?;
        }
        export_file(&self.database, Region::WHOLE, hash, path, report)
    }
}
