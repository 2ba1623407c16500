//! Conditions on nodes, and payloads.

use super::limits::Limits;
use super::path::NodePath;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// The bytes of a node. In JSON a text when they are UTF-8, else `{"base64": "…"}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Arc<[u8]>);

impl Payload {
    /// How many bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is not one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        Payload(bytes.into())
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Payload(text.as_bytes().into())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if text.len() <= 64 => write!(f, "{text:?}"),
            _ => write!(f, "({} bytes)", self.0.len()),
        }
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_bytes(&self.0);
        }
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_map([("base64", STANDARD.encode(&self.0))]),
        }
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(PayloadVisitor)
        } else {
            deserializer.deserialize_bytes(PayloadVisitor)
        }
    }
}

struct PayloadVisitor;

impl<'de> Visitor<'de> for PayloadVisitor {
    type Value = Payload;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or {\"base64\": …}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Payload, E> {
        Ok(Payload::from(text))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Payload, E> {
        Ok(Payload::from(bytes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Payload, A::Error> {
        let Some((key, text)) = map.next_entry::<String, String>()? else {
            return Err(de::Error::custom("a payload that is no text is {\"base64\": …}"));
        };
        if key != "base64" || map.next_entry::<String, String>()?.is_some() {
            return Err(de::Error::unknown_field(&key, &["base64"]));
        }
        let bytes = STANDARD.decode(text).map_err(de::Error::custom)?;
        Ok(Payload(bytes.into()))
    }
}

/// How a number must compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// Equal.
    Eq(u64),
    /// Not equal.
    Ne(u64),
    /// Less.
    Lt(u64),
    /// Less or equal.
    Le(u64),
    /// Greater.
    Gt(u64),
    /// Greater or equal.
    Ge(u64),
}

impl Compare {
    fn holds(self, found: u64) -> bool {
        match self {
            Compare::Eq(other) => found == other,
            Compare::Ne(other) => found != other,
            Compare::Lt(other) => found < other,
            Compare::Le(other) => found <= other,
            Compare::Gt(other) => found > other,
            Compare::Ge(other) => found >= other,
        }
    }
}

/// What must be so. It is about the node that an operation, check or keep-while stands at, but for what is within
/// [`Condition::At`]. Of a node that is not there only `exists: false` holds, and what is made of it.
///
/// Encoded by the order of its variants: new ones go to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The node is there, or is not.
    Exists(bool),
    /// The node is there, with a payload or without.
    HasPayload(bool),
    /// The node is there and has exactly this payload.
    PayloadIs(Payload),
    /// The node's payload version.
    PayloadVersion(Compare),
    /// The node's child list version.
    ChildListVersion(Compare),
    /// How many children the node has.
    ChildListLength(Compare),
    /// The revision at which the node came to be: no two nodes that had the same path one after the other share it.
    Created(Compare),
    /// All of them hold (also when there are none).
    All(Vec<Condition>),
    /// One of them holds at least.
    Any(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
    /// The condition is about the node at another path.
    At(NodePath, Box<Condition>),
}

/// What conditions see of a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'n> {
    pub payload: Option<&'n Payload>,
    pub payload_version: u64,
    pub child_list_version: u64,
    pub child_list_length: u64,
    pub created: u64,
}

impl Condition {
    /// Whether it holds for the node at `target`.
    pub(super) fn holds<'n>(&self, target: &NodePath, look: &impl Fn(&NodePath) -> Option<Seen<'n>>) -> bool {
        let seen = |test: &dyn Fn(Seen<'n>) -> bool| look(target).is_some_and(test);
        match self {
            Condition::Exists(wanted) => look(target).is_some() == *wanted,
            Condition::HasPayload(wanted) => seen(&|node| node.payload.is_some() == *wanted),
            Condition::PayloadIs(wanted) => seen(&|node| node.payload == Some(wanted)),
            Condition::PayloadVersion(compare) => seen(&|node| compare.holds(node.payload_version)),
            Condition::ChildListVersion(compare) => seen(&|node| compare.holds(node.child_list_version)),
            Condition::ChildListLength(compare) => seen(&|node| compare.holds(node.child_list_length)),
            Condition::Created(compare) => seen(&|node| compare.holds(node.created)),
            Condition::All(terms) => terms.iter().all(|term| term.holds(target, look)),
            Condition::Any(terms) => terms.iter().any(|term| term.holds(target, look)),
            Condition::Not(term) => !term.holds(target, look),
            Condition::At(path, term) => term.holds(path, look),
        }
    }

    /// Gives every path that the condition is about to `each`, that of its own node included if it is.
    pub(super) fn watched(&self, target: &NodePath, each: &mut impl FnMut(&NodePath)) {
        match self {
            Condition::All(terms) | Condition::Any(terms) => terms.iter().for_each(|term| term.watched(target, each)),
            Condition::Not(term) => term.watched(target, each),
            Condition::At(path, term) => term.watched(path, each),
            _ => each(target),
        }
    }

    /// What is wrong with its size, if anything: what, found and allowed.
    pub(super) fn oversize(&self, limits: &Limits) -> Option<(&'static str, usize, usize)> {
        let (mut terms, mut bytes) = (0, 0);
        let depth = self.measure(&mut terms, &mut bytes);
        [
            ("nesting of a condition", depth, limits.condition_depth_max),
            ("number of terms of a condition", terms, limits.condition_terms_max),
            ("size of a condition", bytes, limits.condition_bytes_max),
        ]
        .into_iter()
        .find(|(_, found, allowed)| found > allowed)
    }

    /// About the bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        let (mut terms, mut bytes) = (0, 0);
        self.measure(&mut terms, &mut bytes);
        bytes
    }

    /// Gives the depth, and adds up the others.
    fn measure(&self, terms: &mut usize, bytes: &mut usize) -> usize {
        *terms += 1;
        *bytes += 12;
        1 + match self {
            Condition::All(inner) | Condition::Any(inner) => {
                inner.iter().map(|term| term.measure(terms, bytes)).max().unwrap_or(0)
            }
            Condition::Not(term) => term.measure(terms, bytes),
            Condition::At(path, term) => {
                *bytes += path.as_str().len();
                term.measure(terms, bytes)
            }
            Condition::PayloadIs(payload) => {
                *bytes += payload.len();
                0
            }
            _ => 0,
        }
    }
}
