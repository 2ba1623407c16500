//! How the store of this machine is: what it says itself, and whether it answers.

use super::{Engine, HelperWord, JournalView};
use crate::config::STORE;
use serde::{Deserialize, Serialize};
use std::time::Instant;
use vsekai_storage::kv::server_facts;

/// The store, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreView {
    /// What is served.
    pub url: String,
    /// Others use it as `unix:` and this.
    pub socket: String,
    /// It answered when it was asked last, within the last seconds.
    pub reachable: bool,
    /// How long that took, microseconds, with the connection.
    pub answer_us: Option<u64>,
    /// Why it did not answer the last time that it did not.
    pub last_error: Option<String>,
    /// When that was, milliseconds since 1970.
    pub last_error_unix_ms: Option<u64>,
    /// Connections.
    pub clients: u32,
    /// Commits answered since its start.
    pub commits: u64,
    /// How long the last group of commits took, microseconds.
    pub commit_last_us: u64,
    /// The 99th percentile of that over the last 256 groups.
    pub commit_p99_us: u64,
    /// Bytes in the journals of all children that it does not have yet.
    pub backlog_bytes: u64,
}

/// What the engine knows of it beyond what it said.
#[derive(Debug, Default)]
pub struct StoreState {
    asking: bool,
    answer: Option<u64>,
    last_error: Option<(String, u64)>,
}

impl Engine {
    /// Has the store asked whether it is there, on another thread: one that hangs answers late.
    pub(super) fn ask_store(&mut self) {
        let Some(store) = &self.config.store else { return };
        if std::mem::replace(&mut self.store.asking, true) {
            return;
        }
        let (socket, helpers) = (store.socket.clone(), self.helpers.0.clone());
        tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let answer = server_facts(&socket).map(|_| u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
            let answer = answer.map_err(|error| format!("{:#}", anyhow::Error::new(error)));
            let _ = helpers.blocking_send(HelperWord::Store(answer));
        });
    }

    pub(super) fn hear_store(&mut self, answer: Result<u64, String>) {
        self.store.asking = false;
        self.shown = false;
        self.store.answer = answer.as_ref().ok().copied();
        if let Err(reason) = answer {
            self.store.last_error = Some((reason, crate::log::unix_ms()));
        }
    }

    pub(super) fn store_view(&self) -> Option<StoreView> {
        let store = self.config.store.as_ref()?;
        let child = self.children.iter().find(|child| child.config.name == STORE)?;
        let said = child.said.store.unwrap_or_default();
        let lives = child.process.is_some() && child.exit.is_none();
        Some(StoreView {
            url: store.url.clone(),
            socket: store.socket.display().to_string(),
            reachable: lives && self.store.answer.is_some(),
            answer_us: self.store.answer.filter(|_| lives),
            last_error: self.store.last_error.as_ref().map(|(reason, _)| reason.clone()),
            last_error_unix_ms: self.store.last_error.as_ref().map(|(_, at)| *at),
            clients: if lives { said.clients } else { 0 },
            commits: said.commits,
            commit_last_us: said.commit_last_us,
            commit_p99_us: said.commit_p99_us,
            backlog_bytes: self.children.iter().filter_map(super::Child::backlog_bytes).sum(),
        })
    }
}

impl super::Child {
    /// Bytes that are not in the database: as it says itself while it runs, and then as it is found in its journal.
    pub fn backlog_bytes(&self) -> Option<u64> {
        match &self.journal {
            Some(JournalView { state, backlog_bytes, .. }) if self.process.is_none() && state != "busy" => {
                Some(*backlog_bytes)
            }
            _ => self.said.backlog_bytes,
        }
    }
}
