//! What is asked of the tree, and what it answers, as data: the log that replication would carry.

use super::condition::{Condition, Payload};
use super::path::NodePath;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where a command stands in the log, and when it was put there. The machine has no clock and counts nothing itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The log index: greater than that of every command before.
    pub index: u64,
    /// The time in milliseconds since 1970, of whoever wrote the log.
    pub now_ms: u64,
}

/// Something to do. A command happens whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Operations one after the other, if all checks hold.
    Transaction(Transaction),
    /// Begins a session: nodes can be bound to it, and go with it.
    OpenSession {
        /// How long it lives when it is not renewed.
        ttl_ms: u64,
    },
    /// Lets a session live for its whole time again.
    RenewSession {
        /// Which.
        session: u64,
    },
    /// The same for all: after an outage, in which nobody could renew.
    RenewAllSessions,
    /// Ends a session, and the nodes bound to it.
    CloseSession {
        /// Which.
        session: u64,
    },
    /// Ends whatever has outlived its time.
    Expire,
    /// Puts this in the place of everything.
    Import(Box<Contents>),
}

/// Checks and operations. See [`Command::Transaction`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transaction {
    /// What must hold before the first operation.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// What is done, in order. Each sees what those before it did.
    #[serde(default)]
    pub operations: Vec<Operation>,
}

impl From<Operation> for Transaction {
    fn from(operation: Operation) -> Self {
        Transaction { checks: Vec::new(), operations: vec![operation] }
    }
}

/// A condition on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Which node.
    pub path: NodePath,
    /// What must hold.
    #[serde(rename = "if")]
    pub condition: Condition,
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Sets the payload, of a new node or of one that is there.
    Put(Put),
    /// The same, refused when the node is there.
    Create(Put),
    /// The same, refused when the node is missing.
    Update(Put),
    /// The same, refused unless the payload has this version.
    CompareAndSwap {
        /// The expected payload version.
        payload_version: u64,
        /// What to put.
        put: Put,
    },
    /// Takes a node and all below it away. Nothing happens when it is missing.
    Delete(Target),
    /// Gives the node as it is at this step.
    Get(Target),
}

/// A node to do something with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Which.
    pub path: NodePath,
    /// What must hold, else the whole transaction is refused.
    #[serde(default, rename = "if")]
    pub condition: Option<Condition>,
}

/// A payload for a node, and how long the node is to live. Missing nodes above it are made, and go again when the last
/// node below them goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// Which node.
    pub path: NodePath,
    /// Its new payload, or none.
    #[serde(default)]
    pub payload: Option<Payload>,
    /// What must hold, else the whole transaction is refused.
    #[serde(default, rename = "if")]
    pub condition: Option<Condition>,
    /// The node lives while this holds. It goes, with all below it, as soon as one of the three ends; a put without any
    /// of them makes it stay.
    #[serde(default)]
    pub keep_while: Option<Condition>,
    /// The node lives while this session is open.
    #[serde(default)]
    pub session: Option<u64>,
    /// The node lives this long.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
}

impl Put {
    /// Without conditions and for good.
    pub fn new(path: NodePath, payload: Option<Payload>) -> Self {
        Put { path, payload, condition: None, keep_while: None, session: None, ttl_ms: None }
    }
}

/// A node, as it is told to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Where it is.
    pub path: NodePath,
    /// Its payload.
    pub payload: Option<Payload>,
    /// 1 with the first payload (or none) that the node had, and one more with each put.
    pub payload_version: u64,
    /// 1 when the node came to be, and one more with each child that came or went.
    pub child_list_version: u64,
    /// How many children it has.
    pub child_list_length: u64,
    /// The revision at which the node came to be.
    pub created: u64,
    /// The revision of its last put.
    pub modified: u64,
    /// True for a node that was only made for those below it, and goes with the last of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub intermediate: bool,
    /// It lives while this holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_while: Option<Condition>,
    /// It lives while this session is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// It lives until then, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// A session, as it is told to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionView {
    /// Its number.
    pub session: u64,
    /// How long it lives when it is not renewed.
    pub ttl_ms: u64,
    /// It lives until then unless it is renewed, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// What came of a command that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Of a transaction.
    Transaction {
        /// The tree's revision after it; that of the command when it changed anything.
        revision: u64,
        /// One for each operation.
        results: Vec<OperationResult>,
    },
    /// Of a session that was opened or renewed.
    Session(SessionView),
    /// What was ended, or imported.
    Count {
        /// The tree's revision after it.
        revision: u64,
        /// Sessions or nodes that the command was about, those that went along not counted.
        count: u64,
    },
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationResult {
    /// Of a put in all its kinds.
    Put {
        /// The version that the payload has now.
        payload_version: u64,
        /// The revision at which the node came to be.
        created: u64,
        /// True when that was now.
        is_new: bool,
    },
    /// Of a delete.
    Deleted {
        /// How many nodes went, those above it that became empty not counted.
        count: u64,
    },
    /// Of a get.
    Node(Option<NodeView>),
}

/// Why a command did not happen. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A check of the transaction does not hold.
    #[error("check {check}, on {path}, does not hold")]
    CheckFailed {
        /// Which, from 0.
        check: usize,
        /// Its node.
        path: NodePath,
        /// The node as it is.
        found: Option<Box<NodeView>>,
    },
    /// The condition of an operation does not hold.
    #[error("the condition of operation {operation}, on {path}, does not hold")]
    ConditionFailed {
        /// Which, from 0.
        operation: usize,
        /// Its node.
        path: NodePath,
        /// The node as the operation found it.
        found: Option<Box<NodeView>>,
    },
    /// What was to be updated is missing.
    #[error("there is no node {path}")]
    Missing {
        /// Where.
        path: NodePath,
    },
    /// What was to be created is there.
    #[error("there is a node {path} already")]
    Exists {
        /// Where.
        path: NodePath,
    },
    /// The condition that the new node is to be kept while does not hold when the transaction is over.
    #[error("{path} is to be kept while a condition holds that does not hold")]
    KeepWhileUnmet {
        /// Which node.
        path: NodePath,
    },
    /// No such session is open.
    #[error("session {session} is not open")]
    NoSession {
        /// Its number.
        session: u64,
    },
    /// The root always is.
    #[error("the root can't be deleted, nor have a lifetime; delete what is below it")]
    Root,
    /// A single thing is too large.
    #[error("the {what} is {found}, at most {limit} is allowed")]
    TooLarge {
        /// What.
        what: String,
        /// How large it is.
        found: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The tree is full.
    #[error("the tree is full: {what} would be {found}, at most {limit} is allowed")]
    Full {
        /// Of what.
        what: String,
        /// What it would come to.
        found: u64,
        /// How much may be.
        limit: u64,
    },
    /// A time to live out of range.
    #[error("a time to live of {ttl_ms} ms is out of range: {min} to {max} ms are allowed")]
    TtlOutOfRange {
        /// The time asked for.
        ttl_ms: u64,
        /// The shortest.
        min: u64,
        /// The longest.
        max: u64,
    },
    /// What is to be imported is no whole tree.
    #[error("the import is no valid tree: {detail}")]
    BadImport {
        /// What is wrong where.
        detail: String,
    },
    /// The command's log index is not greater than the last: a fault of whoever keeps the log.
    #[error("log index {index} comes after {last}")]
    IndexOrder {
        /// Of the command.
        index: u64,
        /// Of the last one.
        last: u64,
    },
}

/// What happened to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It came to be.
    Created,
    /// It was put again.
    Updated,
    /// It went. One that went and came to be again in one revision is reported as created.
    Deleted,
}

/// Why a node went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It, or one above it, was deleted.
    Delete,
    /// Its keep-while condition, or that of one above it, no longer held.
    KeepWhile,
    /// The session of it, or of one above it, ended.
    Session,
    /// The time of it, or of one above it, was over.
    Ttl,
    /// It was made for those below it, and the last of them went.
    Empty,
}

/// One node's change in one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which node.
    pub path: NodePath,
    /// What happened to it.
    pub kind: ChangeKind,
    /// Its payload now.
    pub payload: Option<Payload>,
    /// The version of its payload; of a node that went, the last it had.
    pub payload_version: u64,
    /// The revision at which the node came to be.
    pub created: u64,
    /// Why it went.
    pub cause: Option<Cause>,
}

/// All changes of one revision, in the order of the paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// The log index of the command.
    pub revision: u64,
    /// At most one for each node.
    pub changes: Vec<Change>,
}

/// Everything in a tree but its revision: what an export has in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Contents {
    /// In the order of their numbers.
    pub sessions: Vec<SessionView>,
    /// In the order of their paths.
    pub nodes: Vec<ContentNode>,
}

/// A node in an export. Its revisions are left out: an import is a revision of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentNode {
    /// Where it is.
    pub path: NodePath,
    /// Its payload.
    pub payload: Option<Payload>,
    /// See [`NodeView::payload_version`].
    pub payload_version: u64,
    /// See [`NodeView::child_list_version`].
    pub child_list_version: u64,
    /// See [`NodeView::intermediate`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub intermediate: bool,
    /// See [`NodeView::keep_while`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_while: Option<Condition>,
    /// See [`NodeView::session`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// See [`NodeView::expires_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// What must be done outside of the machine before the reply may be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make these durable, all or none, together with what other commands before it asked for.
    Persist(Vec<Write>),
    /// Then tell subscribers that there is a new revision. `None` when what changed can't be told: they are cut off.
    Notify(Option<Arc<Revision>>),
}

/// A durable write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The machine's register: the last of every command's writes.
    Head(Vec<u8>),
    /// A node's record, or that it is gone.
    Node(NodePath, Option<Vec<u8>>),
    /// A session's record, or that it is gone.
    Session(u64, Option<Vec<u8>>),
    /// A change of a revision.
    Change {
        /// The revision.
        revision: u64,
        /// Its place in it.
        place: u32,
        /// The encoded [`Change`].
        bytes: Vec<u8>,
    },
    /// The change log up to this revision is no longer needed.
    TrimLog(u64),
    /// Nothing that was written before counts any more.
    ClearAll,
}
