//! The whole tree as JSON, one node a line: written piece by piece from a snapshot, and read back.
//!
//! What is exported, imported and exported again is the same to the byte: revisions are not in it, since an import is one
//! of its own.

use super::command::{ContentNode, Contents, SessionView};
use super::path::NodePath;
use super::state::Node;
use serde::{Deserialize, Serialize};

/// The name of the format, first in every export.
const FORMAT: &str = "vsekai-state-tree";
/// The version of the format that this build writes and reads.
const VERSION: u32 = 1;
/// About the bytes of one piece.
const PIECE_BYTES: usize = 64 * 1024;

/// Everything in the tree, as it was at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The revision.
    pub revision: u64,
    /// The machine's hash at it.
    pub hash: u128,
    sessions: Vec<SessionView>,
    nodes: Vec<(NodePath, Node)>,
}

impl Snapshot {
    pub(super) fn new(revision: u64, hash: u128, sessions: Vec<SessionView>, nodes: Vec<(NodePath, Node)>) -> Self {
        Snapshot { revision, hash, sessions, nodes }
    }

    /// How many nodes there are, the root included.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The export in pieces.
    pub fn into_pieces(self) -> Pieces {
        Pieces { snapshot: self, stage: Stage::Head }
    }

    /// The export as one text.
    pub fn to_text(&self) -> String {
        self.clone().into_pieces().collect()
    }
}

/// The pieces of an export, in order.
#[derive(Debug)]
pub struct Pieces {
    snapshot: Snapshot,
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Head,
    Sessions(usize),
    Nodes(usize),
    Done,
}

impl Iterator for Pieces {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut piece = String::new();
        while piece.len() < PIECE_BYTES {
            self.stage = match self.stage {
                Stage::Head => {
                    piece.push_str(&format!("{{\"format\":\"{FORMAT}\",\"version\":{VERSION},\n\"sessions\":["));
                    Stage::Sessions(0)
                }
                Stage::Sessions(at) => match self.snapshot.sessions.get(at) {
                    Some(session) => {
                        push_line(&mut piece, at, session);
                        Stage::Sessions(at + 1)
                    }
                    None => {
                        piece.push_str("],\n\"nodes\":[");
                        Stage::Nodes(0)
                    }
                },
                Stage::Nodes(at) => match self.snapshot.nodes.get(at) {
                    Some((path, node)) => {
                        push_line(&mut piece, at, &content(path, node));
                        Stage::Nodes(at + 1)
                    }
                    None => {
                        piece.push_str("]}\n");
                        Stage::Done
                    }
                },
                Stage::Done => break,
            };
        }
        (!piece.is_empty()).then_some(piece)
    }
}

fn push_line(piece: &mut String, at: usize, line: &impl Serialize) {
    piece.push_str(if at == 0 { "\n" } else { ",\n" });
    let text = serde_json::to_string(line);
    // Plain data with text keys: there is nothing that could fail.
    debug_assert!(text.is_ok());
    piece.push_str(&text.unwrap_or_default());
}

fn content(path: &NodePath, node: &Node) -> ContentNode {
    let view = node.view(path);
    ContentNode {
        path: view.path,
        payload: view.payload,
        payload_version: view.payload_version,
        child_list_version: view.child_list_version,
        intermediate: view.intermediate,
        keep_while: view.keep_while,
        session: view.session,
        expires_ms: view.expires_ms,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    version: u32,
    sessions: Vec<SessionView>,
    nodes: Vec<ContentNode>,
}

/// Reads an export.
///
/// # Errors
/// Says what is wrong with it, and where. Whether it is a whole tree is seen when it is imported.
pub fn read_export(bytes: &[u8]) -> Result<Contents, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if document.format != FORMAT || document.version != VERSION {
        let Document { format, version, .. } = document;
        return Err(format!("it is `{format}` version {version}, this build reads `{FORMAT}` version {VERSION}"));
    }
    Ok(Contents { sessions: document.sessions, nodes: document.nodes })
}
