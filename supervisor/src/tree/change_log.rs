//! The last changes, for subscribers that resume: a bounded window of revisions behind the current one.

use super::command::{Change, Revision};
use super::limits::Limits;
use super::path::Pattern;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// About what a change costs beyond path and payload.
const CHANGE_BYTES: usize = 96;
/// Most revisions that one call looks through: a watcher of little must not hold up the others.
const SCAN_MAX: usize = 2_000;

/// A cursor from which changes can't be told any more. The subscriber must read the tree again, and go on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("changes after revision {cursor} can't be told, only those after {oldest} up to {newest}: read the tree again")]
pub struct Compacted {
    /// What was asked for.
    pub cursor: u64,
    /// The oldest cursor that would do.
    pub oldest: u64,
    /// The newest: the tree's revision.
    pub newest: u64,
}

/// Changes behind a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Those that match, oldest first.
    pub revisions: Vec<Arc<Revision>>,
    /// Where to go on.
    pub cursor: u64,
    /// True when there are more already.
    pub more: bool,
}

#[derive(Debug, Default)]
pub(super) struct ChangeLog {
    revisions: VecDeque<(Arc<Revision>, usize)>,
    bytes: usize,
    compacted: u64,
}

fn bytes_of(change: &Change) -> usize {
    CHANGE_BYTES + change.path.as_str().len() + change.payload.as_ref().map_or(0, |payload| payload.len())
}

impl ChangeLog {
    /// One without revisions, that can be resumed from `compacted` on.
    pub fn new(compacted: u64) -> Self {
        ChangeLog { compacted, ..ChangeLog::default() }
    }

    /// The oldest cursor that can be resumed from.
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    pub fn len(&self) -> usize {
        self.revisions.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a revision, and forgets the oldest beyond the bounds. True when it forgot any.
    pub fn push(&mut self, revision: Arc<Revision>, limits: &Limits) -> bool {
        let bytes = revision.changes.iter().map(bytes_of).sum();
        self.bytes += bytes;
        self.revisions.push_back((revision, bytes));
        let before = self.compacted;
        while self.revisions.len() > limits.log_revisions_max || self.bytes > limits.log_bytes_max {
            let Some((oldest, bytes)) = self.revisions.pop_front() else { break };
            self.bytes -= bytes;
            self.compacted = oldest.revision;
        }
        self.compacted != before
    }

    /// The changes of nodes that `pattern` means, after `cursor` up to `newest`.
    pub fn after(&self, cursor: u64, pattern: &Pattern, newest: u64, bytes_max: usize) -> Result<Batch, Compacted> {
        if cursor < self.compacted || cursor > newest {
            return Err(Compacted { cursor, oldest: self.compacted, newest });
        }
        let begin = self.revisions.partition_point(|(revision, _)| revision.revision <= cursor);
        let mut batch = Batch { revisions: Vec::new(), cursor: newest, more: false };
        let mut bytes = 0;
        for (scanned, (revision, _)) in self.revisions.range(begin..).enumerate() {
            let matching: Vec<&Change> =
                revision.changes.iter().filter(|change| pattern.matches(&change.path)).collect();
            bytes += matching.iter().map(|change| bytes_of(change)).sum::<usize>();
            if scanned == SCAN_MAX || bytes > bytes_max && !batch.revisions.is_empty() {
                batch.more = true;
                // Nothing lies between this revision and the one before it.
                batch.cursor = revision.revision - 1;
                break;
            }
            if matching.len() == revision.changes.len() {
                batch.revisions.push(revision.clone());
            } else if !matching.is_empty() {
                let changes = matching.into_iter().cloned().collect();
                batch.revisions.push(Arc::new(Revision { revision: revision.revision, changes }));
            }
        }
        Ok(batch)
    }
}
