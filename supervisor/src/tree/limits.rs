//! What bounds the tree.

use serde::Serialize;
use vsekai_storage::kv::VALUE_BYTES_MAX;

/// Bounds of everything that is driven from outside. What is beyond them is refused with a [`super::Refusal`] that names
/// the bound; what is in a tree already stays when a bound is lowered, but may not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Most components of a path or pattern.
    pub depth_max: usize,
    /// Most bytes of one component.
    pub component_bytes_max: usize,
    /// Most bytes of a path.
    pub path_bytes_max: usize,
    /// Most bytes of one payload.
    pub payload_bytes_max: usize,
    /// Most nodes, intermediate ones included.
    pub node_count_max: usize,
    /// Most bytes of all paths, payloads and keep-while conditions.
    pub total_bytes_max: usize,
    /// Most checks of a transaction.
    pub checks_max: usize,
    /// Most operations of a transaction.
    pub operations_max: usize,
    /// Most terms of a condition, its combinations included.
    pub condition_terms_max: usize,
    /// How deep conditions may be nested.
    pub condition_depth_max: usize,
    /// Most bytes of an encoded condition.
    pub condition_bytes_max: usize,
    /// Most nodes that may be kept while conditions on one and the same node hold: each of its changes looks at all.
    pub dependents_max: usize,
    /// Most open sessions.
    pub session_count_max: usize,
    /// Shortest time to live, of nodes and sessions, in milliseconds.
    pub ttl_ms_min: u64,
    /// Longest time to live, of nodes and sessions, in milliseconds.
    pub ttl_ms_max: u64,
    /// Most revisions in the change log.
    pub log_revisions_max: usize,
    /// Most bytes of paths and payloads in the change log. A revision that is larger alone can't be resumed over.
    pub log_bytes_max: usize,
    /// Most nodes of one answer to a list.
    pub list_count_max: usize,
    /// Most bytes of paths and payloads of one answer to a list or of one batch for a watcher; a single one may be larger.
    pub answer_bytes_max: usize,
    /// Most watchers at the same time.
    pub watchers_max: usize,
    /// As long as a watcher's or an export's connection may take nothing that is there for it, in milliseconds.
    pub stall_ms_max: u64,
    /// Most requests that wait for the tree's thread.
    pub queue_max: usize,
    /// Most bytes of an import.
    pub import_bytes_max: usize,
    /// Most bytes of the body of any other request.
    pub body_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            depth_max: 32,
            component_bytes_max: 255,
            path_bytes_max: 1_024,
            payload_bytes_max: 64 * 1024,
            node_count_max: 100_000,
            total_bytes_max: 64 << 20,
            checks_max: 128,
            operations_max: 128,
            condition_terms_max: 64,
            condition_depth_max: 8,
            condition_bytes_max: 8 * 1024,
            dependents_max: 10_000,
            session_count_max: 10_000,
            ttl_ms_min: 10,
            ttl_ms_max: 30 * 24 * 3600 * 1000,
            log_revisions_max: 10_000,
            log_bytes_max: 16 << 20,
            list_count_max: 10_000,
            answer_bytes_max: 8 << 20,
            watchers_max: 256,
            stall_ms_max: 30_000,
            queue_max: 256,
            import_bytes_max: 128 << 20,
            body_bytes_max: 1 << 20,
        }
    }
}

impl Limits {
    /// Whether a node of the largest size fits into one value of the store, with its versions.
    pub fn fit_the_store(&self) -> bool {
        self.payload_bytes_max + self.condition_bytes_max + self.path_bytes_max + 1_000 <= VALUE_BYTES_MAX
    }
}
