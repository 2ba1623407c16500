//! Identifiers. All are opaque numbers: never reused, never derived from one another.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Names one entity of the world for ever. 64 bits, handed out from durably reserved blocks and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct EntityId(pub u64);

impl EntityId {
    /// The entity that carries what belongs to the world as a whole (ledger, palette, id blocks).
    pub const WORLD: EntityId = EntityId(1);
    /// The first id that a generated or built entity can have.
    pub const FIRST_FREE: EntityId = EntityId(1 << 10);
}

impl fmt::Debug for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What the server keeps of a player's token: 16 bytes of its BLAKE3 hash. The token itself is never stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlayerKey(pub [u8; 16]);

impl PlayerKey {
    /// The key of the player who presents `token`.
    pub fn from_token(token: &str) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(token.as_bytes()).as_bytes()[..16]);
        PlayerKey(key)
    }
}

impl fmt::Debug for PlayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..4] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…")
    }
}

/// A component's stable number on disk and on the wire. A number that was released is never given to another component.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tag(pub u16);

macro_rules! content_index {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u16);

        impl $name {
            /// As an index into the content's list.
            pub fn index(self) -> usize {
                usize::from(self.0)
            }
        }
    )*};
}

content_index! {
    /// An item kind: its place in the world's palette of items.
    ItemId,
    /// A resource node kind: its place in the world's palette of nodes.
    NodeId,
    /// A structure piece kind: its place in the world's palette of pieces.
    PieceId,
    /// A recipe: its place in the world's palette of recipes.
    RecipeId,
}
