//! The nodes and sessions, with all that is derived from them, and the draft of the command at hand.
//!
//! Every change of a node goes through [`State::set`] and every one of a session through [`State::set_session`]: they keep
//! the indexes right and remember what was before, so that a command can be taken back, and what it changed be told.

use super::command::{Cause, NodeView, SessionView};
use super::condition::{Condition, Payload, Seen};
use super::path::NodePath;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// The version of the records that this build writes.
const RECORD_VERSION: u8 = 1;

/// A node, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub payload: Option<Payload>,
    pub payload_version: u64,
    pub child_list_version: u64,
    pub created: u64,
    pub modified: u64,
    /// Few nodes have one.
    pub lifetime: Option<Arc<Lifetime>>,
    pub child_list_length: u32,
    pub intermediate: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Lifetime {
    pub keep_while: Option<Condition>,
    pub session: Option<u64>,
    pub expires_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    pub ttl_ms: u64,
    pub expires_ms: u64,
}

/// A node's record. Encoded by the order of its fields.
#[derive(Serialize, Deserialize)]
struct NodeRecord {
    payload: Option<Payload>,
    payload_version: u64,
    child_list_version: u64,
    child_list_length: u32,
    created: u64,
    modified: u64,
    intermediate: bool,
    keep_while: Option<Condition>,
    session: Option<u64>,
    expires_ms: Option<u64>,
}

impl Node {
    /// One that came to be at `index`.
    pub fn new(index: u64) -> Self {
        Node {
            payload: None,
            payload_version: 1,
            child_list_version: 1,
            created: index,
            modified: index,
            lifetime: None,
            child_list_length: 0,
            intermediate: false,
        }
    }

    pub fn keep_while(&self) -> Option<&Condition> {
        self.lifetime.as_ref()?.keep_while.as_ref()
    }

    fn session(&self) -> Option<u64> {
        self.lifetime.as_ref()?.session
    }

    fn expires_ms(&self) -> Option<u64> {
        self.lifetime.as_ref()?.expires_ms
    }

    pub fn seen(&self) -> Seen<'_> {
        Seen {
            payload: self.payload.as_ref(),
            payload_version: self.payload_version,
            child_list_version: self.child_list_version,
            child_list_length: self.child_list_length.into(),
            created: self.created,
        }
    }

    pub fn view(&self, path: &NodePath) -> NodeView {
        NodeView {
            path: path.clone(),
            payload: self.payload.clone(),
            payload_version: self.payload_version,
            child_list_version: self.child_list_version,
            child_list_length: self.child_list_length.into(),
            created: self.created,
            modified: self.modified,
            intermediate: self.intermediate,
            keep_while: self.keep_while().cloned(),
            session: self.session(),
            expires_ms: self.expires_ms(),
        }
    }

    /// What counts against the bound on all bytes.
    fn bytes(&self, path: &NodePath) -> usize {
        let payload = self.payload.as_ref().map_or(0, Payload::len);
        path.as_str().len() + payload + self.keep_while().map_or(0, Condition::bytes)
    }

    pub fn encode(&self) -> Vec<u8> {
        encode(&NodeRecord {
            payload: self.payload.clone(),
            payload_version: self.payload_version,
            child_list_version: self.child_list_version,
            child_list_length: self.child_list_length,
            created: self.created,
            modified: self.modified,
            intermediate: self.intermediate,
            keep_while: self.keep_while().cloned(),
            session: self.session(),
            expires_ms: self.expires_ms(),
        })
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let record: NodeRecord = decode(bytes)?;
        let NodeRecord { keep_while, session, expires_ms, .. } = record;
        let lifetime = Lifetime { keep_while, session, expires_ms };
        Ok(Node {
            payload: record.payload,
            payload_version: record.payload_version,
            child_list_version: record.child_list_version,
            created: record.created,
            modified: record.modified,
            lifetime: (lifetime != Lifetime::default()).then(|| Arc::new(lifetime)),
            child_list_length: record.child_list_length,
            intermediate: record.intermediate,
        })
    }
}

/// A record with its version in front.
pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    let encoded = postcard::to_extend(record, vec![RECORD_VERSION]);
    // Plain data into memory: there is nothing that could fail.
    debug_assert!(encoded.is_ok());
    encoded.unwrap_or_default()
}

/// A record of this version, and nothing behind it.
pub(super) fn decode<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&RECORD_VERSION, bytes)) => match postcard::take_from_bytes(bytes) {
            Ok((record, [])) => Ok(record),
            Ok((_, rest)) => Err(format!("{} bytes too many", rest.len())),
            Err(error) => Err(error.to_string()),
        },
        Some((version, _)) => Err(format!("it has version {version}, this build reads {RECORD_VERSION}")),
        None => Err("it is empty".into()),
    }
}

/// What outlives its time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    Session(u64),
    Node(NodePath),
}

#[derive(Debug, Default)]
pub(super) struct State {
    nodes: BTreeMap<NodePath, Node>,
    sessions: BTreeMap<u64, Session>,
    /// Which nodes are kept while something holds of this one.
    dependents: BTreeMap<NodePath, BTreeSet<NodePath>>,
    /// Which nodes are bound to a session.
    owned: BTreeMap<u64, BTreeSet<NodePath>>,
    deadlines: BTreeSet<(u64, Due)>,
    bytes: usize,
    draft: Draft,
}

/// What the command at hand did so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Nodes that it touched, as they were before it.
    pub nodes: BTreeMap<NodePath, Option<Node>>,
    pub sessions: BTreeMap<u64, Option<Session>>,
    pub causes: BTreeMap<NodePath, Cause>,
    /// Nodes touched since this was last taken.
    pub fresh: BTreeSet<NodePath>,
}

impl State {
    /// An empty tree: a root.
    pub fn new() -> Self {
        let mut state = State::default();
        state.set(&NodePath::root(), Some(Node::new(0)));
        state.draft = Draft::default();
        state
    }

    pub fn node(&self, path: &NodePath) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub fn nodes(&self) -> &BTreeMap<NodePath, Node> {
        &self.nodes
    }

    /// The paths below that one.
    pub fn below(&self, path: &NodePath) -> impl Iterator<Item = (&NodePath, &Node)> {
        let (from, to) = path.below();
        self.nodes.range::<str, _>((Bound::Included(&*from), Bound::Excluded(&*to)))
    }

    /// The node there and those below it, from behind `after` on.
    pub fn subtree<'s>(
        &'s self,
        top: &NodePath,
        after: Option<&NodePath>,
    ) -> impl Iterator<Item = (&'s NodePath, &'s Node)> {
        let (from, to) = top.below();
        let head = self.nodes.get_key_value(top).filter(|(path, _)| after.is_none_or(|after| after < *path));
        let begin = match after {
            Some(after) if after.as_str() >= &*from => Bound::Excluded(after.as_str().min(&*to)),
            _ => Bound::Included(&*from),
        };
        let end = Bound::Excluded(&*to);
        // A range from behind its end would panic.
        let is_empty = matches!(begin, Bound::Excluded(begin) if begin >= &*to);
        let below = (!is_empty).then(|| self.nodes.range::<str, _>((begin, end)));
        head.into_iter().chain(below.into_iter().flatten())
    }

    pub fn session(&self, session: u64) -> Option<&Session> {
        self.sessions.get(&session)
    }

    pub fn sessions(&self) -> &BTreeMap<u64, Session> {
        &self.sessions
    }

    pub fn session_views(&self) -> Vec<SessionView> {
        self.sessions.iter().map(|(number, session)| session.view(*number)).collect()
    }

    pub fn dependents(&self, path: &NodePath) -> Option<&BTreeSet<NodePath>> {
        self.dependents.get(path)
    }

    /// The largest number of nodes that are kept while something holds of one.
    pub fn most_dependents(&self) -> usize {
        self.dependents.values().map(BTreeSet::len).max().unwrap_or(0)
    }

    pub fn owned(&self, session: u64) -> Vec<NodePath> {
        self.owned.get(&session).into_iter().flatten().cloned().collect()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the next thing outlives its time.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub fn due(&self, now_ms: u64) -> Vec<Due> {
        self.deadlines.iter().take_while(|(at, _)| *at <= now_ms).map(|(_, due)| due.clone()).collect()
    }

    pub fn holds(&self, condition: &Condition, target: &NodePath) -> bool {
        condition.holds(target, &|path| self.nodes.get(path).map(Node::seen))
    }

    /// Makes the node there this one, or none.
    pub fn set(&mut self, path: &NodePath, node: Option<Node>) {
        let before = self.replace(path, node);
        self.draft.fresh.insert(path.clone());
        self.draft.nodes.entry(path.clone()).or_insert(before);
    }

    fn replace(&mut self, path: &NodePath, node: Option<Node>) -> Option<Node> {
        let before = self.nodes.remove(path);
        if let Some(before) = &before {
            self.index(path, before, false);
        }
        if let Some(node) = node {
            self.index(path, &node, true);
            self.nodes.insert(path.clone(), node);
        }
        before
    }

    fn index(&mut self, path: &NodePath, node: &Node, add: bool) {
        let bytes = node.bytes(path);
        self.bytes = if add { self.bytes + bytes } else { self.bytes - bytes };
        let Some(lifetime) = &node.lifetime else { return };
        if let Some(condition) = &lifetime.keep_while {
            condition.watched(path, &mut |watched| link(&mut self.dependents, watched.clone(), path, add));
        }
        if let Some(session) = lifetime.session {
            link(&mut self.owned, session, path, add);
        }
        if let Some(at) = lifetime.expires_ms {
            let due = (at, Due::Node(path.clone()));
            if add {
                self.deadlines.insert(due)
            } else {
                self.deadlines.remove(&due)
            };
        }
    }

    /// Makes the session with that number this one, or none.
    pub fn set_session(&mut self, number: u64, session: Option<Session>) {
        let before = self.replace_session(number, session);
        self.draft.sessions.entry(number).or_insert(before);
    }

    fn replace_session(&mut self, number: u64, session: Option<Session>) -> Option<Session> {
        let before = match session {
            Some(session) => self.sessions.insert(number, session),
            None => self.sessions.remove(&number),
        };
        if let Some(before) = before {
            self.deadlines.remove(&(before.expires_ms, Due::Session(number)));
        }
        if let Some(session) = session {
            self.deadlines.insert((session.expires_ms, Due::Session(number)));
        }
        before
    }

    /// Why the node at that path went, in the command at hand.
    pub fn because(&mut self, path: &NodePath, cause: Cause) {
        self.draft.causes.insert(path.clone(), cause);
    }

    /// The nodes touched since this was last asked.
    pub fn take_fresh(&mut self) -> BTreeSet<NodePath> {
        std::mem::take(&mut self.draft.fresh)
    }

    /// Ends the draft.
    pub fn take_draft(&mut self) -> Draft {
        std::mem::take(&mut self.draft)
    }

    /// Takes back all that was done since the draft began.
    pub fn roll_back(&mut self) {
        let Draft { nodes, sessions, .. } = self.take_draft();
        for (path, node) in nodes {
            self.replace(&path, node);
        }
        for (number, session) in sessions {
            self.replace_session(number, session);
        }
    }

    /// The sum of the hashes of all records.
    pub fn hash(&self) -> u128 {
        let nodes = self.nodes.iter().map(|(path, node)| node_hash(path, &node.encode()));
        let sessions = self.sessions.iter().map(|(number, session)| session_hash(*number, &encode(session)));
        nodes.chain(sessions).fold(0, u128::wrapping_add)
    }

    /// What is wrong with the tree's own promises, if anything: children counted, no node without its parent, indexes as if
    /// they were built anew.
    pub fn fault(&self) -> Option<String> {
        let mut anew = State::default();
        let mut children: BTreeMap<NodePath, u32> = BTreeMap::new();
        for (path, node) in &self.nodes {
            anew.set(path, Some(node.clone()));
            if let Some(parent) = path.parent() {
                if !self.nodes.contains_key(&parent) {
                    return Some(format!("{path} has no parent"));
                }
                *children.entry(parent).or_default() += 1;
            }
            if node.session().is_some_and(|session| !self.sessions.contains_key(&session)) {
                return Some(format!("{path} is bound to a session that is not open"));
            }
            if node.keep_while().is_some_and(|condition| !self.holds(condition, path)) {
                return Some(format!("{path} is kept though its condition does not hold"));
            }
        }
        for (number, session) in &self.sessions {
            anew.set_session(*number, Some(*session));
        }
        for (path, node) in &self.nodes {
            let counted = children.get(path).copied().unwrap_or(0);
            if node.child_list_length != counted {
                return Some(format!("{path} has {counted} children, not {}", node.child_list_length));
            }
            if node.intermediate && counted == 0 {
                return Some(format!("{path} is there for children that are not"));
            }
        }
        let pairs = [
            ("dependents", self.dependents == anew.dependents),
            ("sessions' nodes", self.owned == anew.owned),
            ("deadlines", self.deadlines == anew.deadlines),
            ("bytes", self.bytes == anew.bytes),
            ("root", self.nodes.contains_key(&NodePath::root())),
        ];
        pairs.iter().find(|(_, right)| !right).map(|(what, _)| format!("the {what} are wrong"))
    }
}

impl Session {
    pub fn view(&self, number: u64) -> SessionView {
        SessionView { session: number, ttl_ms: self.ttl_ms, expires_ms: self.expires_ms }
    }
}

fn link<K: Ord>(index: &mut BTreeMap<K, BTreeSet<NodePath>>, key: K, path: &NodePath, add: bool) {
    if add {
        index.entry(key).or_default().insert(path.clone());
    } else if let Some(paths) = index.get_mut(&key) {
        paths.remove(path);
        if paths.is_empty() {
            index.remove(&key);
        }
    }
}

pub(super) fn node_hash(path: &NodePath, record: &[u8]) -> u128 {
    xxh3_128(&[b"n", path.as_str().as_bytes(), &[0], record].concat())
}

pub(super) fn session_hash(number: u64, record: &[u8]) -> u128 {
    xxh3_128(&[b"s", &number.to_be_bytes()[..], record].concat())
}
