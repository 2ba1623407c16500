//! The tree as one would write it without a care: a map that is copied for each command and looked through whole for each
//! question. It shares no code with the machine but the data.

use crate::tree::command::{
    At, Cause, Change, ChangeKind, Command, NodeView, Operation, OperationResult, Put, Refusal, Reply, SessionView,
    Transaction,
};
use crate::tree::condition::{Compare, Condition};
use crate::tree::limits::Limits;
use crate::tree::path::NodePath;
use std::collections::BTreeMap;

type Key = Vec<String>;

#[derive(Debug, Clone)]
pub struct Model {
    limits: Limits,
    nodes: BTreeMap<Key, NodeView>,
    sessions: BTreeMap<u64, SessionView>,
    pub revision: u64,
}

fn key(path: &NodePath) -> Key {
    path.as_str().split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn path(key: &[String]) -> NodePath {
    format!("/{}", key.join("/")).parse().unwrap()
}

fn bare(key: &[String], index: u64) -> NodeView {
    NodeView {
        path: path(key),
        payload: None,
        payload_version: 1,
        child_list_version: 1,
        child_list_length: 0,
        created: index,
        modified: index,
        intermediate: false,
        keep_while: None,
        session: None,
        expires_ms: None,
    }
}

impl Model {
    pub fn new(limits: Limits) -> Self {
        Model { limits, nodes: [(Key::new(), bare(&[], 0))].into(), sessions: BTreeMap::new(), revision: 0 }
    }

    pub fn nodes(&self) -> Vec<NodeView> {
        let mut nodes: Vec<NodeView> = self.nodes.values().cloned().collect();
        nodes.sort_by(|left, right| left.path.as_str().cmp(right.path.as_str()));
        nodes
    }

    pub fn sessions(&self) -> Vec<SessionView> {
        self.sessions.values().copied().collect()
    }

    /// What the command changes, and its reply; of a refusal only whether it is one.
    pub fn apply(&mut self, at: At, command: &Command) -> (Option<Reply>, Vec<Change>) {
        let before = self.clone();
        let mut causes = BTreeMap::new();
        let Some(mut reply) = self.attempt(at, command, &mut causes) else {
            *self = before;
            return (None, Vec::new());
        };
        loop {
            let failing: Vec<Key> = self
                .nodes
                .iter()
                .filter(|(key, node)| node.keep_while.as_ref().is_some_and(|condition| !self.holds(condition, key)))
                .map(|(key, _)| key.clone())
                .collect();
            if failing.is_empty() {
                break;
            }
            for key in &failing {
                self.remove(key, Cause::KeepWhile, &mut causes);
            }
        }
        if self.nodes != before.nodes || self.sessions != before.sessions {
            self.revision = at.index;
        }
        if let Reply::Transaction { revision, .. } | Reply::Count { revision, .. } = &mut reply {
            *revision = self.revision;
        }
        (Some(reply), self.changes_since(&before, &causes, at.index))
    }

    fn changes_since(&self, before: &Model, causes: &BTreeMap<Key, Cause>, index: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for (key, node) in &self.nodes {
            let is_new = before.nodes.get(key).is_none_or(|before| before.created != node.created);
            if is_new || node.modified == index {
                let kind = if is_new { ChangeKind::Created } else { ChangeKind::Updated };
                changes.push(change(node, kind, None));
            }
        }
        for (key, node) in before.nodes.iter().filter(|(key, _)| !self.nodes.contains_key(*key)) {
            changes.push(Change { payload: None, ..change(node, ChangeKind::Deleted, causes.get(key).copied()) });
        }
        changes.sort_by(|left, right| left.path.as_str().cmp(right.path.as_str()));
        changes
    }

    fn holds(&self, condition: &Condition, key: &[String]) -> bool {
        let node = self.nodes.get(key);
        let number = |compare: &Compare, of: fn(&NodeView) -> u64| {
            node.is_some_and(|node| match (of(node), *compare) {
                (found, Compare::Eq(other)) => found == other,
                (found, Compare::Ne(other)) => found != other,
                (found, Compare::Lt(other)) => found < other,
                (found, Compare::Le(other)) => found <= other,
                (found, Compare::Gt(other)) => found > other,
                (found, Compare::Ge(other)) => found >= other,
            })
        };
        match condition {
            Condition::Exists(wanted) => node.is_some() == *wanted,
            Condition::HasPayload(wanted) => node.is_some_and(|node| node.payload.is_some() == *wanted),
            Condition::PayloadIs(payload) => node.is_some_and(|node| node.payload.as_ref() == Some(payload)),
            Condition::PayloadVersion(compare) => number(compare, |node| node.payload_version),
            Condition::ChildListVersion(compare) => number(compare, |node| node.child_list_version),
            Condition::ChildListLength(compare) => number(compare, |node| node.child_list_length),
            Condition::Created(compare) => number(compare, |node| node.created),
            Condition::All(terms) => !terms.iter().any(|term| !self.holds(term, key)),
            Condition::Any(terms) => terms.iter().any(|term| self.holds(term, key)),
            Condition::Not(term) => !self.holds(term, key),
            Condition::At(other, term) => self.holds(term, &super::model::key(other)),
        }
    }

    fn attempt(&mut self, at: At, command: &Command, causes: &mut BTreeMap<Key, Cause>) -> Option<Reply> {
        let counted = |count: usize| Some(Reply::Count { revision: 0, count: count as u64 });
        match command {
            Command::Transaction(Transaction { checks, operations }) => {
                if !checks.iter().all(|check| self.holds(&check.condition, &key(&check.path))) {
                    return None;
                }
                let mut results = Vec::new();
                let mut kept = Vec::new();
                for operation in operations {
                    results.push(self.operate(at, operation, causes, &mut kept)?);
                }
                let unmet = |key: &Key| {
                    let condition = self.nodes.get(key).and_then(|node| node.keep_while.as_ref());
                    condition.is_some_and(|condition| !self.holds(condition, key))
                };
                if kept.iter().any(unmet) {
                    return None;
                }
                Some(Reply::Transaction { revision: 0, results })
            }
            Command::OpenSession { ttl_ms } => {
                let session = SessionView { session: at.index, ttl_ms: *ttl_ms, expires_ms: at.now_ms + ttl_ms };
                self.sessions.insert(at.index, session);
                Some(Reply::Session(session))
            }
            Command::RenewSession { session } => {
                let session = self.sessions.get_mut(session)?;
                session.expires_ms = session.expires_ms.max(at.now_ms + session.ttl_ms);
                Some(Reply::Session(*session))
            }
            Command::RenewAllSessions => {
                for session in self.sessions.values_mut() {
                    session.expires_ms = session.expires_ms.max(at.now_ms + session.ttl_ms);
                }
                counted(self.sessions.len())
            }
            Command::CloseSession { session } => {
                self.sessions.remove(session)?;
                self.end(|node| node.session == Some(*session), Cause::Session, causes);
                counted(1)
            }
            Command::Expire => {
                let over: Vec<u64> =
                    self.sessions.values().filter(|s| s.expires_ms <= at.now_ms).map(|s| s.session).collect();
                let is_due = |node: &NodeView| node.expires_ms.is_some_and(|expires| expires <= at.now_ms);
                let due = self.nodes.values().filter(|node| is_due(node)).count();
                // In the order of the times, as they are told by causes.
                let mut ends: Vec<(u64, u8, u64, Key)> = Vec::new();
                for number in &over {
                    ends.push((self.sessions[number].expires_ms, 0, *number, Key::new()));
                }
                for (key, node) in self.nodes.iter().filter(|(_, node)| is_due(node)) {
                    ends.push((node.expires_ms.unwrap(), 1, 0, key.clone()));
                }
                ends.sort_by_key(|(at, kind, number, key)| (*at, *kind, *number, path(key).as_str().to_owned()));
                for (_, kind, number, key) in ends {
                    if kind == 0 {
                        self.sessions.remove(&number);
                        self.end(|node| node.session == Some(number), Cause::Session, causes);
                    } else {
                        self.remove(&key, Cause::Ttl, causes);
                    }
                }
                counted(over.len() + due)
            }
            Command::Import(_) => None,
        }
    }

    fn end(&mut self, is_over: impl Fn(&NodeView) -> bool, cause: Cause, causes: &mut BTreeMap<Key, Cause>) {
        let over: Vec<Key> = self.nodes.iter().filter(|(_, node)| is_over(node)).map(|(key, _)| key.clone()).collect();
        for key in &over {
            self.remove(key, cause, causes);
        }
    }

    fn operate(
        &mut self,
        at: At,
        operation: &Operation,
        causes: &mut BTreeMap<Key, Cause>,
        kept: &mut Vec<Key>,
    ) -> Option<OperationResult> {
        let version = |put: &Put| self.nodes.get(&key(&put.path)).map(|node| node.payload_version);
        match operation {
            Operation::Put(put) => self.put(at, put, kept),
            Operation::Create(put) if version(put).is_none() => self.put(at, put, kept),
            Operation::Update(put) if version(put).is_some() => self.put(at, put, kept),
            Operation::CompareAndSwap { payload_version, put } if version(put) == Some(*payload_version) => {
                self.put(at, put, kept)
            }
            Operation::Delete(target) if !target.path.is_root() => {
                let key = key(&target.path);
                let may = target.condition.as_ref().is_none_or(|condition| self.holds(condition, &key));
                may.then(|| OperationResult::Deleted { count: self.remove(&key, Cause::Delete, causes) })
            }
            Operation::Get(target) => {
                let key = key(&target.path);
                let may = target.condition.as_ref().is_none_or(|condition| self.holds(condition, &key));
                may.then(|| OperationResult::Node(self.nodes.get(&key).cloned()))
            }
            _ => None,
        }
    }

    fn put(&mut self, at: At, put: &Put, kept: &mut Vec<Key>) -> Option<OperationResult> {
        let key = key(&put.path);
        let may = put.condition.as_ref().is_none_or(|condition| self.holds(condition, &key));
        let has_lifetime = put.keep_while.is_some() || put.session.is_some() || put.ttl_ms.is_some();
        let is_open = put.session.is_none_or(|session| self.sessions.contains_key(&session));
        if !may || !is_open || has_lifetime && key.is_empty() {
            return None;
        }
        let count = self.nodes.len();
        let is_new = !self.nodes.contains_key(&key);
        for length in 0..key.len() {
            if !self.nodes.contains_key(&key[..length + 1]) {
                let parent = self.nodes.get_mut(&key[..length]).unwrap();
                parent.child_list_length += 1;
                parent.child_list_version += 1;
                let node = NodeView { intermediate: true, ..bare(&key[..length + 1], at.index) };
                self.nodes.insert(key[..length + 1].to_vec(), node);
            }
        }
        let node = self.nodes.get_mut(&key).unwrap();
        node.payload_version += u64::from(!is_new);
        node.payload = put.payload.clone();
        node.intermediate = false;
        node.modified = at.index;
        node.keep_while = put.keep_while.clone();
        node.session = put.session;
        node.expires_ms = put.ttl_ms.map(|ttl_ms| at.now_ms + ttl_ms);
        let result = OperationResult::Put { payload_version: node.payload_version, created: node.created, is_new };
        kept.extend(put.keep_while.is_some().then_some(key));
        let is_full = self.nodes.len() > self.limits.node_count_max && self.nodes.len() > count;
        (!is_full).then_some(result)
    }

    fn remove(&mut self, key: &Key, cause: Cause, causes: &mut BTreeMap<Key, Cause>) -> u64 {
        if !self.nodes.contains_key(key) {
            return 0;
        }
        let gone: Vec<Key> = self.nodes.keys().filter(|other| other.starts_with(key)).cloned().collect();
        for key in &gone {
            self.nodes.remove(key);
            causes.insert(key.clone(), cause);
        }
        let mut child = &key[..];
        while let Some((_, parent)) = child.split_last() {
            let node = self.nodes.get_mut(parent).unwrap();
            node.child_list_length -= 1;
            node.child_list_version += 1;
            if !node.intermediate || node.child_list_length > 0 {
                break;
            }
            self.nodes.remove(parent);
            causes.insert(parent.to_vec(), Cause::Empty);
            child = parent;
        }
        gone.len() as u64
    }
}

fn change(node: &NodeView, kind: ChangeKind, cause: Option<Cause>) -> Change {
    Change {
        path: node.path.clone(),
        kind,
        payload: node.payload.clone(),
        payload_version: node.payload_version,
        created: node.created,
        cause,
    }
}

/// A refusal is refused for the same reason whenever it is.
pub fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::CheckFailed { .. } => "check failed",
        Refusal::ConditionFailed { .. } => "condition failed",
        Refusal::Missing { .. } => "missing",
        Refusal::Exists { .. } => "exists",
        Refusal::KeepWhileUnmet { .. } => "keep-while unmet",
        Refusal::NoSession { .. } => "no session",
        Refusal::Root => "root",
        Refusal::TooLarge { .. } => "too large",
        Refusal::Full { .. } => "full",
        Refusal::TtlOutOfRange { .. } => "ttl out of range",
        Refusal::BadImport { .. } => "bad import",
        Refusal::IndexOrder { .. } => "index order",
    }
}
