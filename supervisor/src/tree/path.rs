//! Paths of nodes, and patterns of paths.
//!
//! A path is written `/component/component`; `/` alone is the root. It is kept as that text, so that the nodes of a subtree
//! are neighbours in the order of the text: those that begin with `/a/` lie between `/a/` and `/a0`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The character behind `/`.
const BEHIND_SLASH: char = '0';

/// A text that is no path or pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It must begin with a slash.
    #[error("`{0}` does not begin with `/`")]
    NoSlash(String),
    /// Two slashes in a row, or one at the end.
    #[error("`{0}` has an empty component")]
    Empty(String),
    /// What browsers and HTTP clients take away.
    #[error("`{0}` has a component `.` or `..`, which HTTP clients resolve")]
    Dots(String),
    /// Control characters would break logs and event streams.
    #[error("{0:?} has a control character")]
    Control(String),
    /// Asterisks are for patterns: `*` and `**`, as whole components.
    #[error("`{0}` has an asterisk: only patterns may, as `*` (one component) or `**` (any number)")]
    Asterisk(String),
}

/// The path of a node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePath(Arc<str>);

impl NodePath {
    /// `/`.
    pub fn root() -> Self {
        NodePath("/".into())
    }

    /// The text, with its slash in front.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for `/`.
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The components from the root down; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|component| !component.is_empty())
    }

    /// How many components there are.
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// The path above; `None` for the root.
    pub fn parent(&self) -> Option<NodePath> {
        let (above, last) = self.0.rsplit_once('/')?;
        if last.is_empty() {
            None
        } else if above.is_empty() {
            Some(NodePath::root())
        } else {
            Some(NodePath(above.into()))
        }
    }

    /// The texts between which the paths below this one lie: from the first to before the second.
    pub fn below(&self) -> (String, String) {
        let base = if self.is_root() { "" } else { &self.0 };
        // The root itself is `/`, which is in its own range: its descendants have one more character at least.
        let first = if self.is_root() { "/\u{1}".to_owned() } else { format!("{base}/") };
        (first, format!("{base}{BEHIND_SLASH}"))
    }
}

impl FromStr for NodePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        if text == "/" {
            return Ok(NodePath::root());
        }
        for component in split(text)? {
            if component.contains('*') {
                return Err(PathError::Asterisk(text.to_owned()));
            }
        }
        Ok(NodePath(text.into()))
    }
}

fn split(text: &str) -> Result<impl Iterator<Item = &str>, PathError> {
    let Some(rest) = text.strip_prefix('/') else {
        return Err(PathError::NoSlash(text.to_owned()));
    };
    if text.chars().any(char::is_control) {
        return Err(PathError::Control(text.to_owned()));
    }
    for component in rest.split('/') {
        match component {
            "" => return Err(PathError::Empty(text.to_owned())),
            "." | ".." => return Err(PathError::Dots(text.to_owned())),
            _ => {}
        }
    }
    Ok(rest.split('/'))
}

impl Borrow<str> for NodePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for NodePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    /// `*`: exactly one component.
    One,
    /// `**`: any number of components, none included.
    Any,
}

/// Which paths are meant: components as they are, `*` for exactly one component and `**` for any number of them, none
/// included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
    /// The components before the first asterisk.
    prefix: NodePath,
}

impl Pattern {
    /// `/**`: every node.
    pub fn all() -> Self {
        Pattern { parts: vec![Part::Any], prefix: NodePath::root() }
    }

    /// The path that all matching ones begin with.
    pub fn prefix(&self) -> &NodePath {
        &self.prefix
    }

    /// True when only [`Pattern::prefix`] matches.
    pub fn is_literal(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Literal(_)))
    }

    /// Length of the pattern in components.
    pub fn depth(&self) -> usize {
        self.parts.len()
    }

    /// Whether the path is one of those meant. Takes at most components × parts steps, whatever the pattern.
    pub fn matches(&self, path: &NodePath) -> bool {
        let components: Vec<&str> = path.components().collect();
        let (mut at, mut part) = (0, 0);
        // Where the last `**` stands, and how far it reached when what came behind it was tried last.
        let mut retry: Option<(usize, usize)> = None;
        while at < components.len() {
            let fits = match self.parts.get(part) {
                Some(Part::Any) => {
                    retry = Some((part, at));
                    part += 1;
                    continue;
                }
                Some(Part::One) => true,
                Some(Part::Literal(literal)) => **literal == *components[at],
                None => false,
            };
            if fits {
                at += 1;
                part += 1;
            } else if let Some((any, reached)) = &mut retry {
                *reached += 1;
                at = *reached;
                part = *any + 1;
            } else {
                return false;
            }
        }
        self.parts[part..].iter().all(|part| *part == Part::Any)
    }
}

impl FromStr for Pattern {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        if text == "/" {
            return Ok(Pattern { parts: Vec::new(), prefix: NodePath::root() });
        }
        let mut parts = Vec::new();
        let mut prefix = String::new();
        for component in split(text)? {
            let part = match component {
                "*" => Part::One,
                "**" => Part::Any,
                _ if component.contains('*') => return Err(PathError::Asterisk(text.to_owned())),
                _ => Part::Literal(component.into()),
            };
            // Two in a row mean the same as one.
            if part == Part::Any && parts.last() == Some(&Part::Any) {
                continue;
            }
            if parts.iter().chain([&part]).all(|part| matches!(part, Part::Literal(_))) {
                prefix.push('/');
                prefix.push_str(component);
            }
            parts.push(part);
        }
        let prefix = if prefix.is_empty() { NodePath::root() } else { NodePath(prefix.into()) };
        Ok(Pattern { parts, prefix })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.parts.is_empty() {
            return f.write_str("/");
        }
        for part in &self.parts {
            match part {
                Part::Literal(literal) => write!(f, "/{literal}")?,
                Part::One => f.write_str("/*")?,
                Part::Any => f.write_str("/**")?,
            }
        }
        Ok(())
    }
}
