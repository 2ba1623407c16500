//! Where a transaction reads and commits: an engine in this process, or a server's over a socket.

use super::engine::{Engine, Snapshot};
use super::operation::{CommitRequest, Committed, Pair};
use super::unix::{RemoteSnapshot, RemoteStore};
use super::watch::WatchState;
use crate::error::Error;
use std::sync::Arc;

/// A store of embedded semantics.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Engine(Arc<Engine>),
    Remote(Arc<RemoteStore>),
}

/// One version of it.
#[derive(Debug, Clone)]
pub(super) enum SourceSnapshot {
    Engine(Arc<Snapshot>),
    Remote(Arc<RemoteSnapshot>),
}

impl Source {
    /// The newest version.
    pub(super) fn snapshot(&self) -> Result<SourceSnapshot, Error> {
        match self {
            Source::Engine(engine) => Ok(SourceSnapshot::Engine(engine.snapshot()?)),
            Source::Remote(store) => Ok(SourceSnapshot::Remote(Arc::new(store.snapshot()?))),
        }
    }

    /// The store as it was at `version`, if somebody still holds it.
    pub(super) fn snapshot_at(&self, version: u64) -> Result<SourceSnapshot, Error> {
        match self {
            Source::Engine(engine) => Ok(SourceSnapshot::Engine(engine.snapshot_at(version)?)),
            Source::Remote(store) => Ok(SourceSnapshot::Remote(Arc::new(store.snapshot_at(version)?))),
        }
    }

    /// Decides on a transaction that read `snapshot`, and makes it durable.
    pub(super) fn commit(&self, snapshot: &SourceSnapshot, request: CommitRequest) -> Result<Committed, Error> {
        match (self, snapshot) {
            (Source::Remote(store), SourceSnapshot::Remote(snapshot)) => store.commit(snapshot, request),
            (Source::Engine(engine), _) => engine.commit(request),
            (Source::Remote(_), SourceSnapshot::Engine(_)) => Err(Error::TooOld),
        }
    }

    /// Begins a watch. If it can't begin, that is for its holder to hear.
    pub(super) fn watch(&self, key: Vec<u8>, state: &Arc<WatchState>) {
        match self {
            Source::Engine(engine) => engine.watch(key, state),
            Source::Remote(store) => store.watch(key, state),
        }
    }
}

impl SourceSnapshot {
    pub(super) fn version(&self) -> u64 {
        match self {
            SourceSnapshot::Engine(snapshot) => snapshot.version,
            SourceSnapshot::Remote(snapshot) => snapshot.version(),
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self {
            SourceSnapshot::Engine(snapshot) => snapshot.get(key),
            SourceSnapshot::Remote(snapshot) => snapshot.get(key),
        }
    }

    /// Up to `limit` pairs of `begin..end`; fewer only when there are no more.
    pub(super) fn range(&self, begin: &[u8], end: &[u8], limit: usize, reverse: bool) -> Result<Vec<Pair>, Error> {
        match self {
            SourceSnapshot::Engine(snapshot) => snapshot.range(begin, end, limit, reverse),
            SourceSnapshot::Remote(snapshot) => snapshot.range(begin, end, limit, reverse),
        }
    }
}
