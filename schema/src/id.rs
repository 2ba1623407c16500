//! Identifiers. All are opaque numbers: never reused, never derived from one another.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

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

/// Who a player is, for ever. Whoever issues join tokens decides; where the shard does, it is 16 bytes of the BLAKE3 hash of
/// the player's secret, which is never stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlayerKey(pub [u8; 16]);

impl PlayerKey {
    /// The key of the player who knows `secret`.
    pub fn from_secret(secret: &str) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(secret.as_bytes()).as_bytes()[..16]);
        PlayerKey(key)
    }
}

/// All 32 hexadecimal digits, as operators name players.
impl fmt::Display for PlayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for PlayerKey {
    type Err = NotAPlayerKey;

    fn from_str(text: &str) -> Result<Self, NotAPlayerKey> {
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NotAPlayerKey);
        }
        u128::from_str_radix(text, 16).map(|key| PlayerKey(key.to_be_bytes())).map_err(|_| NotAPlayerKey)
    }
}

/// A text is no [`PlayerKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a player's key has 32 hexadecimal digits")]
pub struct NotAPlayerKey;

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
