//! The tree as a state machine: commands in, with their place in the log and the time as arguments; a reply and effects out.
//! No I/O, no clock, no randomness: the same log gives the same state everywhere, which [`Machine::hash`] tells.
//!
//! A command is applied in a draft (`state`): operations first, then whatever must go because a condition that kept it no
//! longer holds ([`Machine::settle`]). A refusal takes the draft back; otherwise it becomes records to persist and a
//! [`Revision`] for subscribers.

use super::change_log::{Batch, ChangeLog, Compacted};
use super::command::{
    At, Cause, Change, ChangeKind, Command, Contents, Effect, NodeView, Operation, OperationResult, Put, Refusal,
    Reply, Revision, SessionView, Target, Transaction, Write,
};
use super::condition::Condition;
use super::limits::Limits;
use super::path::{NodePath, Pattern};
use super::snapshot::Snapshot;
use super::state::{Draft, Due, Lifetime, Node, Session, State, decode, encode, node_hash, session_hash};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What came of a command: the answer, and what to do before it may be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The answer.
    pub reply: Result<Reply, Refusal>,
    /// To be done in this order.
    pub effects: Vec<Effect>,
}

/// A part of the nodes that a pattern means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The revision at which the tree was so: changes after it are what is missing here.
    pub revision: u64,
    /// In the order of their paths.
    pub nodes: Vec<NodeView>,
    /// Where to go on, when there is more: list again after this path.
    pub next: Option<NodePath>,
}

/// How the tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The log index of the last command that changed something.
    pub revision: u64,
    /// Nodes, the root included.
    pub node_count: usize,
    /// Bytes of paths, payloads and conditions.
    pub bytes: usize,
    /// Open sessions.
    pub session_count: usize,
    /// The oldest cursor that a subscriber can resume from.
    pub oldest_cursor: u64,
    /// Revisions in the change log.
    pub log_revisions: usize,
    /// Bytes in the change log.
    pub log_bytes: usize,
}

/// The register beside the records. Encoded by the order of its fields.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    revision: u64,
    hash: u128,
    compacted: u64,
}

/// A record of the store that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place} of the state tree is damaged: {detail}")]
pub struct Damaged {
    /// Which record.
    pub place: String,
    /// What is wrong with it.
    pub detail: String,
}

/// The tree.
#[derive(Debug)]
pub struct Machine {
    limits: Limits,
    state: State,
    log: ChangeLog,
    revision: u64,
    hash: u128,
}

impl Machine {
    /// An empty tree, at revision 0.
    pub fn new(limits: Limits) -> Self {
        let state = State::new();
        Machine { limits, hash: state.hash(), state, log: ChangeLog::new(0), revision: 0 }
    }

    /// The tree that [`Write`]s have left: the register, records of nodes and sessions, and changes in order.
    ///
    /// # Errors
    /// When a record can't be read, or all of them together are not what the register tells.
    pub fn restore(
        limits: Limits,
        head: &[u8],
        nodes: impl IntoIterator<Item = (NodePath, Vec<u8>)>,
        sessions: impl IntoIterator<Item = (u64, Vec<u8>)>,
        changes: impl IntoIterator<Item = (u64, Vec<u8>)>,
    ) -> Result<Self, Damaged> {
        let damaged = |place: &str, detail: String| Damaged { place: place.to_owned(), detail };
        let head: Head = decode(head).map_err(|detail| damaged("the register", detail))?;
        let mut state = State::new();
        for (path, record) in nodes {
            let node = Node::decode(&record).map_err(|detail| damaged(&format!("node {path}"), detail))?;
            state.set(&path, Some(node));
        }
        for (number, record) in sessions {
            let session = decode(&record).map_err(|detail| damaged(&format!("session {number}"), detail))?;
            state.set_session(number, Some(session));
        }
        state.take_draft();
        let hash = state.hash();
        if hash != head.hash {
            let detail = format!("its hash is {hash:032x}, the register says {:032x}", head.hash);
            return Err(damaged("the whole", detail));
        }
        if let Some(detail) = state.fault() {
            return Err(damaged("the whole", detail));
        }
        let mut machine = Machine { limits, state, log: ChangeLog::new(head.compacted), revision: head.revision, hash };
        let mut last: Option<Revision> = None;
        for (revision, record) in changes {
            let change = decode(&record).map_err(|detail| damaged(&format!("a change of {revision}"), detail))?;
            match &mut last {
                Some(last) if last.revision == revision => last.changes.push(change),
                _ => {
                    let whole = last.replace(Revision { revision, changes: vec![change] });
                    machine.remember(whole);
                }
            }
        }
        machine.remember(last);
        Ok(machine)
    }

    fn remember(&mut self, revision: Option<Revision>) {
        if let Some(revision) = revision {
            self.log.push(Arc::new(revision), &self.limits);
        }
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The log index of the last command that changed something: the cursor of who has seen everything.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The hash of all nodes and sessions, kept up by what changes.
    pub fn hash(&self) -> u128 {
        self.hash
    }

    /// The hash computed from the whole tree, and what is wrong with its own promises, if anything. For tests.
    pub fn audit(&self) -> (u128, Option<String>) {
        (self.state.hash(), self.state.fault())
    }

    /// How the tree is.
    pub fn facts(&self) -> Facts {
        Facts {
            revision: self.revision,
            node_count: self.state.nodes().len(),
            bytes: self.state.bytes(),
            session_count: self.state.sessions().len(),
            oldest_cursor: self.log.compacted(),
            log_revisions: self.log.len(),
            log_bytes: self.log.bytes(),
        }
    }

    /// The node there.
    pub fn get(&self, path: &NodePath) -> Option<NodeView> {
        Some(self.state.node(path)?.view(path))
    }

    /// Whether a condition on the node there holds.
    pub fn holds(&self, condition: &Condition, path: &NodePath) -> bool {
        self.state.holds(condition, path)
    }

    /// The first `limit` nodes that the pattern means, in the order of their paths, behind `after`. Fewer when the limits
    /// say so.
    pub fn list(&self, pattern: &Pattern, after: Option<&NodePath>, limit: usize) -> Listing {
        let mut listing = Listing { revision: self.revision, nodes: Vec::new(), next: None };
        let mut bytes = 0;
        for (path, node) in self.matching(pattern, after) {
            if listing.nodes.len() >= limit.clamp(1, self.limits.list_count_max) || bytes > self.limits.answer_bytes_max
            {
                listing.next = listing.nodes.last().map(|node: &NodeView| node.path.clone());
                break;
            }
            bytes += path.as_str().len() + node.payload.as_ref().map_or(0, |payload| payload.len());
            listing.nodes.push(node.view(path));
        }
        listing
    }

    /// How many nodes the pattern means.
    pub fn count(&self, pattern: &Pattern) -> u64 {
        self.matching(pattern, None).count() as u64
    }

    fn matching<'m>(
        &'m self,
        pattern: &'m Pattern,
        after: Option<&NodePath>,
    ) -> impl Iterator<Item = (&'m NodePath, &'m Node)> {
        let one = pattern.is_literal().then(|| pattern.prefix());
        self.state
            .subtree(pattern.prefix(), after)
            .take_while(move |(path, _)| one.is_none_or(|one| *path == one))
            .filter(|(path, _)| pattern.matches(path))
    }

    /// The open sessions.
    pub fn sessions(&self) -> Vec<SessionView> {
        self.state.session_views()
    }

    /// The changes of nodes that the pattern means, behind a cursor.
    ///
    /// # Errors
    /// When the log does not reach back that far, or the tree has never been there.
    pub fn changes_after(&self, cursor: u64, pattern: &Pattern) -> Result<Batch, Compacted> {
        self.log.after(cursor, pattern, self.revision, self.limits.answer_bytes_max)
    }

    /// Everything as it is now, to be exported at leisure: payloads are shared, not copied.
    pub fn snapshot(&self) -> Snapshot {
        let nodes = self.state.nodes().iter().map(|(path, node)| (path.clone(), node.clone())).collect();
        Snapshot::new(self.revision, self.hash, self.state.session_views(), nodes)
    }

    /// When [`Command::Expire`] has something to do, in milliseconds since 1970.
    pub fn next_deadline(&self) -> Option<u64> {
        self.state.next_deadline()
    }

    /// Applies the next command of the log.
    pub fn apply(&mut self, at: At, command: Command) -> Outcome {
        if at.index <= self.revision {
            let refusal = Refusal::IndexOrder { index: at.index, last: self.revision };
            return Outcome { reply: Err(refusal), effects: Vec::new() };
        }
        let applied = match command {
            Command::Import(contents) => return self.import(at, *contents),
            Command::Transaction(transaction) => self.transaction(at, transaction),
            Command::OpenSession { ttl_ms } => self.open_session(at, ttl_ms),
            Command::RenewSession { session } => self.renew(at, session),
            Command::RenewAllSessions => {
                let numbers: Vec<u64> = self.state.sessions().keys().copied().collect();
                numbers.iter().try_for_each(|number| self.renew(at, *number).map(drop)).map(|()| count(numbers.len()))
            }
            Command::CloseSession { session } => match self.state.session(session) {
                Some(_) => {
                    self.end_session(session);
                    Ok(count(1))
                }
                None => Err(Refusal::NoSession { session }),
            },
            Command::Expire => {
                let due = self.state.due(at.now_ms);
                for due in &due {
                    match due {
                        Due::Session(number) => self.end_session(*number),
                        Due::Node(path) => drop(self.remove(path, Cause::Ttl)),
                    }
                }
                Ok(count(due.len()))
            }
        };
        match applied {
            Ok(mut reply) => {
                self.settle();
                let effects = self.finish(at);
                if let Reply::Transaction { revision, .. } | Reply::Count { revision, .. } = &mut reply {
                    *revision = self.revision;
                }
                Outcome { reply: Ok(reply), effects }
            }
            Err(refusal) => {
                self.state.roll_back();
                Outcome { reply: Err(refusal), effects: Vec::new() }
            }
        }
    }

    fn transaction(&mut self, at: At, transaction: Transaction) -> Result<Reply, Refusal> {
        let Transaction { checks, operations } = transaction;
        within("number of checks", checks.len(), self.limits.checks_max)?;
        within("number of operations", operations.len(), self.limits.operations_max)?;
        for (check, over) in checks.iter().enumerate() {
            self.measure(&over.condition)?;
            if !self.state.holds(&over.condition, &over.path) {
                let found = self.get(&over.path).map(Box::new);
                return Err(Refusal::CheckFailed { check, path: over.path.clone(), found });
            }
        }
        let mut kept = BTreeSet::new();
        let mut results = Vec::with_capacity(operations.len());
        for (number, operation) in operations.into_iter().enumerate() {
            results.push(self.operate(at, number, operation, &mut kept)?);
        }
        for path in kept {
            let keep_while = self.state.node(&path).and_then(Node::keep_while);
            if keep_while.is_some_and(|condition| !self.state.holds(condition, &path)) {
                return Err(Refusal::KeepWhileUnmet { path });
            }
        }
        Ok(Reply::Transaction { revision: 0, results })
    }

    fn operate(
        &mut self,
        at: At,
        number: usize,
        operation: Operation,
        kept: &mut BTreeSet<NodePath>,
    ) -> Result<OperationResult, Refusal> {
        match operation {
            Operation::Put(put) => self.put(at, number, put, kept),
            Operation::Create(put) => match self.state.node(&put.path) {
                Some(_) => Err(Refusal::Exists { path: put.path }),
                None => self.put(at, number, put, kept),
            },
            Operation::Update(put) => match self.state.node(&put.path) {
                Some(_) => self.put(at, number, put, kept),
                None => Err(Refusal::Missing { path: put.path }),
            },
            Operation::CompareAndSwap { payload_version, put } => match self.state.node(&put.path) {
                Some(node) if node.payload_version == payload_version => self.put(at, number, put, kept),
                Some(node) => {
                    let found = Some(Box::new(node.view(&put.path)));
                    Err(Refusal::ConditionFailed { operation: number, path: put.path, found })
                }
                None => Err(Refusal::Missing { path: put.path }),
            },
            Operation::Delete(target) => {
                self.require(number, &target.path, target.condition.as_ref())?;
                if target.path.is_root() {
                    return Err(Refusal::Root);
                }
                Ok(OperationResult::Deleted { count: self.remove(&target.path, Cause::Delete) })
            }
            Operation::Get(Target { path, condition }) => {
                self.require(number, &path, condition.as_ref())?;
                Ok(OperationResult::Node(self.get(&path)))
            }
        }
    }

    fn require(&self, operation: usize, path: &NodePath, condition: Option<&Condition>) -> Result<(), Refusal> {
        let Some(condition) = condition else { return Ok(()) };
        self.measure(condition)?;
        if self.state.holds(condition, path) {
            return Ok(());
        }
        Err(Refusal::ConditionFailed { operation, path: path.clone(), found: self.get(path).map(Box::new) })
    }

    fn measure(&self, condition: &Condition) -> Result<(), Refusal> {
        condition.oversize(&self.limits).map_or(Ok(()), |(what, found, limit)| within(what, found, limit))
    }

    fn measure_path(&self, path: &NodePath) -> Result<(), Refusal> {
        let component = path.components().map(str::len).max().unwrap_or(0);
        within("length of a path", path.as_str().len(), self.limits.path_bytes_max)?;
        within("length of a path's component", component, self.limits.component_bytes_max)?;
        within("depth of a path", path.depth(), self.limits.depth_max)
    }

    fn put(
        &mut self,
        at: At,
        number: usize,
        put: Put,
        kept: &mut BTreeSet<NodePath>,
    ) -> Result<OperationResult, Refusal> {
        let Put { path, payload, condition, keep_while, session, ttl_ms } = put;
        self.measure_path(&path)?;
        within("payload", payload.as_ref().map_or(0, |payload| payload.len()), self.limits.payload_bytes_max)?;
        self.require(number, &path, condition.as_ref())?;
        let expires_ms = ttl_ms.map(|ttl_ms| self.deadline(at, ttl_ms)).transpose()?;
        if let Some(session) = session.filter(|session| self.state.session(*session).is_none()) {
            return Err(Refusal::NoSession { session });
        }
        if let Some(condition) = &keep_while {
            self.measure(condition)?;
            self.measure_dependents(condition, &path)?;
            kept.insert(path.clone());
        }
        let lifetime = Lifetime { keep_while, session, expires_ms };
        let lifetime = (lifetime != Lifetime::default()).then(|| Arc::new(lifetime));
        if path.is_root() && lifetime.is_some() {
            return Err(Refusal::Root);
        }

        let (count_before, bytes_before) = (self.state.nodes().len(), self.state.bytes());
        let is_new = self.state.node(&path).is_none();
        let mut node = match self.state.node(&path) {
            Some(node) => Node { payload_version: node.payload_version + 1, modified: at.index, ..node.clone() },
            None => Node::new(at.index),
        };
        node.payload = payload;
        node.lifetime = lifetime;
        node.intermediate = false;
        let (payload_version, created) = (node.payload_version, node.created);
        self.state.set(&path, Some(node));
        if is_new {
            self.link(at, &path);
        }
        let (count, bytes) = (self.state.nodes().len(), self.state.bytes());
        self.room("number of nodes", count_before, count, self.limits.node_count_max)?;
        self.room("number of bytes", bytes_before, bytes, self.limits.total_bytes_max)?;
        Ok(OperationResult::Put { payload_version, created, is_new })
    }

    fn measure_dependents(&self, condition: &Condition, path: &NodePath) -> Result<(), Refusal> {
        let mut result = Ok(());
        condition.watched(path, &mut |watched| {
            let others = self.state.dependents(watched).filter(|paths| !paths.contains(path)).map_or(0, BTreeSet::len);
            let what = || format!("number of nodes that are kept while something holds of {watched}");
            if others >= self.limits.dependents_max {
                result = within(&what(), others + 1, self.limits.dependents_max);
            }
        });
        result
    }

    fn room(&self, what: &str, before: usize, after: usize, limit: usize) -> Result<(), Refusal> {
        if after <= limit || after <= before {
            return Ok(());
        }
        Err(Refusal::Full { what: what.to_owned(), found: after as u64, limit: limit as u64 })
    }

    /// Tells the node above of a child that came, and makes those above that are missing.
    fn link(&mut self, at: At, path: &NodePath) {
        let mut child = path.clone();
        while let Some(parent) = child.parent() {
            let known = self.state.node(&parent).cloned();
            let is_known = known.is_some();
            let mut node = known.unwrap_or_else(|| Node { intermediate: true, ..Node::new(at.index) });
            node.child_list_length += 1;
            node.child_list_version += 1;
            self.state.set(&parent, Some(node));
            if is_known {
                return;
            }
            child = parent;
        }
    }

    /// Takes the node there and all below it away, and those above that were made for it alone. How many there were.
    fn remove(&mut self, path: &NodePath, cause: Cause) -> u64 {
        if self.state.node(path).is_none() {
            return 0;
        }
        let mut gone: Vec<NodePath> = self.state.below(path).map(|(path, _)| path.clone()).collect();
        gone.push(path.clone());
        for path in &gone {
            self.state.set(path, None);
            self.state.because(path, cause);
        }
        let mut child = path.clone();
        while let Some(parent) = child.parent() {
            let Some(mut node) = self.state.node(&parent).cloned() else { break };
            node.child_list_length -= 1;
            node.child_list_version += 1;
            if node.intermediate && node.child_list_length == 0 {
                self.state.set(&parent, None);
                self.state.because(&parent, Cause::Empty);
                child = parent;
            } else {
                self.state.set(&parent, Some(node));
                break;
            }
        }
        gone.len() as u64
    }

    /// Takes away what is kept while something holds that no longer does, in rounds: all that fail as the tree is go
    /// together, then those that fail as it is without them. Each round has fewer nodes, so there is a last one.
    fn settle(&mut self) {
        loop {
            let touched = self.state.take_fresh();
            let holders: BTreeSet<NodePath> =
                touched.iter().filter_map(|path| self.state.dependents(path)).flatten().cloned().collect();
            let failing: Vec<NodePath> = holders
                .into_iter()
                .filter(|path| {
                    let keep_while = self.state.node(path).and_then(Node::keep_while);
                    keep_while.is_some_and(|condition| !self.state.holds(condition, path))
                })
                .collect();
            if failing.is_empty() {
                return;
            }
            for path in failing {
                self.remove(&path, Cause::KeepWhile);
            }
        }
    }

    fn deadline(&self, at: At, ttl_ms: u64) -> Result<u64, Refusal> {
        let (min, max) = (self.limits.ttl_ms_min, self.limits.ttl_ms_max);
        if (min..=max).contains(&ttl_ms) {
            Ok(at.now_ms.saturating_add(ttl_ms))
        } else {
            Err(Refusal::TtlOutOfRange { ttl_ms, min, max })
        }
    }

    fn open_session(&mut self, at: At, ttl_ms: u64) -> Result<Reply, Refusal> {
        let expires_ms = self.deadline(at, ttl_ms)?;
        let count = self.state.sessions().len();
        self.room("number of sessions", count, count + 1, self.limits.session_count_max)?;
        // An imported session may have a number that the log has not reached.
        let after_last = self.state.sessions().last_key_value().map_or(0, |(last, _)| last + 1);
        let number = at.index.max(after_last);
        let session = Session { ttl_ms, expires_ms };
        self.state.set_session(number, Some(session));
        Ok(Reply::Session(session.view(number)))
    }

    fn renew(&mut self, at: At, number: u64) -> Result<Reply, Refusal> {
        let Some(session) = self.state.session(number) else {
            return Err(Refusal::NoSession { session: number });
        };
        // A clock that was set back does not shorten a life.
        let expires_ms = at.now_ms.saturating_add(session.ttl_ms).max(session.expires_ms);
        let session = Session { expires_ms, ..*session };
        self.state.set_session(number, Some(session));
        Ok(Reply::Session(session.view(number)))
    }

    fn end_session(&mut self, number: u64) {
        for path in self.state.owned(number) {
            self.remove(&path, Cause::Session);
        }
        self.state.set_session(number, None);
    }

    /// Turns the draft into effects; nothing when it comes to nothing.
    fn finish(&mut self, at: At) -> Vec<Effect> {
        let Draft { nodes, sessions, causes, .. } = self.state.take_draft();
        let mut writes = Vec::new();
        let mut changes = Vec::new();
        for (path, before) in nodes {
            let now = self.state.node(&path);
            if before.as_ref() == now {
                continue;
            }
            let record = now.map(Node::encode);
            let hash = |record: &[u8]| node_hash(&path, record);
            let gone = before.as_ref().map_or(0, |node| hash(&node.encode()));
            self.hash = self.hash.wrapping_sub(gone).wrapping_add(record.as_deref().map_or(0, hash));
            changes.extend(change(&path, before.as_ref(), now, causes.get(&path).copied(), at.index));
            writes.push(Write::Node(path, record));
        }
        for (number, before) in sessions {
            let now = self.state.session(number);
            if before.as_ref() == now {
                continue;
            }
            let record = now.map(encode);
            let hash = |record: &[u8]| session_hash(number, record);
            let gone = before.as_ref().map_or(0, |session| hash(&encode(session)));
            self.hash = self.hash.wrapping_sub(gone).wrapping_add(record.as_deref().map_or(0, hash));
            writes.push(Write::Session(number, record));
        }
        if writes.is_empty() {
            return Vec::new();
        }
        self.revision = at.index;
        let mut notify = None;
        if !changes.is_empty() {
            let revision = Arc::new(Revision { revision: at.index, changes });
            let is_trimmed = self.log.push(revision.clone(), &self.limits);
            if self.log.compacted() < at.index {
                writes.extend(revision.changes.iter().zip(0..).map(|(change, place)| Write::Change {
                    revision: at.index,
                    place,
                    bytes: encode(change),
                }));
            }
            if is_trimmed {
                writes.push(Write::TrimLog(self.log.compacted()));
            }
            notify = Some(revision);
        }
        writes.push(self.head());
        let notify = notify.map(|revision| Effect::Notify(Some(revision)));
        [Effect::Persist(writes)].into_iter().chain(notify).collect()
    }

    fn head(&self) -> Write {
        let Machine { revision, hash, .. } = *self;
        Write::Head(encode(&Head { revision, hash, compacted: self.log.compacted() }))
    }

    fn import(&mut self, at: At, contents: Contents) -> Outcome {
        let state = match self.state_of(at, contents) {
            Ok(state) => state,
            Err(refusal) => return Outcome { reply: Err(refusal), effects: Vec::new() },
        };
        self.state = state;
        self.hash = self.state.hash();
        self.revision = at.index;
        // What changed is everything: whoever follows must read the tree again.
        self.log = ChangeLog::new(at.index);
        let mut writes = vec![Write::ClearAll];
        writes.extend(self.state.nodes().iter().map(|(path, node)| Write::Node(path.clone(), Some(node.encode()))));
        writes.extend(
            self.state.sessions().iter().map(|(number, session)| Write::Session(*number, Some(encode(session)))),
        );
        writes.push(self.head());
        let reply = Reply::Count { revision: at.index, count: self.state.nodes().len() as u64 };
        Outcome { reply: Ok(reply), effects: vec![Effect::Persist(writes), Effect::Notify(None)] }
    }

    /// The tree that has these contents, if that is a whole one within the bounds.
    fn state_of(&self, at: At, contents: Contents) -> Result<State, Refusal> {
        let bad = |detail: String| Refusal::BadImport { detail };
        let mut state = State::new();
        within("number of nodes", contents.nodes.len(), self.limits.node_count_max)?;
        within("number of sessions", contents.sessions.len(), self.limits.session_count_max)?;
        for view in contents.sessions {
            let SessionView { session: number, ttl_ms, expires_ms } = view;
            self.deadline(at, ttl_ms)?;
            if number >= u64::MAX / 2 || state.session(number).is_some() {
                return Err(bad(format!("session {number} is there twice, or its number is too large")));
            }
            state.set_session(number, Some(Session { ttl_ms, expires_ms }));
        }
        let mut last: Option<NodePath> = None;
        for node in contents.nodes {
            let path = node.path;
            if last.as_ref().is_some_and(|last| *last >= path) {
                return Err(bad(format!("{path} is not behind the path before it")));
            }
            self.measure_path(&path)?;
            within("payload", node.payload.as_ref().map_or(0, |payload| payload.len()), self.limits.payload_bytes_max)?;
            if let Some(condition) = &node.keep_while {
                self.measure(condition)?;
            }
            let lifetime = Lifetime { keep_while: node.keep_while, session: node.session, expires_ms: node.expires_ms };
            let lifetime = (lifetime != Lifetime::default()).then(|| Arc::new(lifetime));
            if path.is_root() && (lifetime.is_some() || node.intermediate) {
                return Err(Refusal::Root);
            }
            if node.intermediate && (lifetime.is_some() || node.payload.is_some()) {
                return Err(bad(format!("{path} is intermediate, but has a payload or a lifetime")));
            }
            // Far from where counting up could end.
            if !(1..u64::MAX / 2).contains(&node.payload_version)
                || !(1..u64::MAX / 2).contains(&node.child_list_version)
            {
                return Err(bad(format!("{path} has a version that is out of range")));
            }
            if let Some(parent) = path.parent() {
                let Some(above) = state.node(&parent) else {
                    return Err(bad(format!("{path} has no parent")));
                };
                let above = Node { child_list_length: above.child_list_length + 1, ..above.clone() };
                state.set(&parent, Some(above));
            }
            let kept = Node {
                payload: node.payload,
                payload_version: node.payload_version,
                child_list_version: node.child_list_version,
                lifetime,
                intermediate: node.intermediate,
                ..Node::new(at.index)
            };
            state.set(&path, Some(kept));
            last = Some(path);
        }
        state.take_draft();
        within("number of bytes", state.bytes(), self.limits.total_bytes_max)?;
        if let Some(fault) = state.fault() {
            return Err(bad(fault));
        }
        let most = state.most_dependents();
        within("number of nodes that are kept while something holds of one", most, self.limits.dependents_max)?;
        Ok(state)
    }
}

fn count(number: usize) -> Reply {
    Reply::Count { revision: 0, count: number as u64 }
}

fn within(what: &str, found: usize, limit: usize) -> Result<(), Refusal> {
    if found <= limit {
        return Ok(());
    }
    Err(Refusal::TooLarge { what: what.to_owned(), found: found as u64, limit: limit as u64 })
}

/// What subscribers are told of a node, if anything: that a child came or went they see from the child.
fn change(
    path: &NodePath,
    before: Option<&Node>,
    now: Option<&Node>,
    cause: Option<Cause>,
    index: u64,
) -> Option<Change> {
    let (kind, node) = match (before, now) {
        (Some(before), None) => (ChangeKind::Deleted, before),
        (_, Some(now)) if now.created == index => (ChangeKind::Created, now),
        (_, Some(now)) if now.modified == index => (ChangeKind::Updated, now),
        _ => return None,
    };
    let is_gone = kind == ChangeKind::Deleted;
    Some(Change {
        path: path.clone(),
        kind,
        payload: node.payload.clone().filter(|_| !is_gone),
        payload_version: node.payload_version,
        created: node.created,
        cause: cause.filter(|_| is_gone),
    })
}
