//! What clients and the shard say to each other. Version [`PROTOCOL_VERSION`]; see `schema/docs/wire.md` for the prose.
//!
//! Two channels: [`CHANNEL_STATE`] is unreliable and unordered (movement up, snapshots down), [`CHANNEL_COMMAND`] reliable and
//! ordered (hello, commands and their results, what comes into view). Messages are postcard; the bulk messages have
//! layouts of their own: [`view`] (what comes, changes and goes), [`motion`] (how movers move, bit-packed) and [`body`] (the same for rigid
//! bodies, which no shard sends yet); [`slots`] is what the last two have in common.

pub mod body;
pub mod described;
pub mod motion;
pub mod pose;
pub mod slots;
pub mod steps;
pub mod view;

use crate::codec::{DecodeError, Reader, from_bytes, write_postcard};
use crate::id::{EntityId, ItemId, PieceId, PlayerKey, RecipeId};
use crate::record::IdBlock;
use crate::units::Yaw;
use motion::Acks;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The protocol this build speaks. A client with another one is refused with a message that names this number.
pub const PROTOCOL_VERSION: u16 = 2;

/// Index of the unreliable, unordered channel.
pub const CHANNEL_STATE: usize = 0;
/// Index of the reliable, ordered channel.
pub const CHANNEL_COMMAND: usize = 1;

/// Longest message that a client may send, bytes. A longer one costs the client its connection.
pub const CLIENT_MESSAGE_BYTES_MAX: usize = 512;
/// Longest token in a hello, bytes of UTF-8.
pub const TOKEN_BYTES_MAX: usize = 160;
/// Longest secret by which a player is known where tokens are issued, bytes of UTF-8.
pub const PLAYER_SECRET_BYTES_MAX: usize = 128;
/// Shortest such secret: a shorter one could be guessed.
pub const PLAYER_SECRET_BYTES_MIN: usize = 8;
/// Longest player name, characters.
pub const NAME_CHARS_MAX: usize = 24;
/// Longest datagram of state that the shard sends, bytes: fits one UDP packet with DTLS and SCTP around it.
pub const MOTION_BYTES_MAX: usize = 1_000;
/// Longest reliable message that the shard sends, bytes.
pub const RELIABLE_BYTES_MAX: usize = 16 * 1024;

/// One step of walking. Directions are −127…127 along each axis (−128 counts as −127), taken as a vector no longer than 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveInput {
    /// Grows by one or more with each input; an older one than the newest is dropped.
    pub sequence: u32,
    /// East.
    pub direction_x: i8,
    /// South.
    pub direction_z: i8,
    /// Where the player looks.
    pub yaw: Yaw,
    /// Run instead of walk.
    pub sprint: bool,
}

/// Something of value that a player wants done. Each gets exactly one result, once it is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Take from the resource node `node`.
    Harvest {
        /// Which node.
        node: EntityId,
    },
    /// Make `recipe` by hand.
    Craft {
        /// Which recipe.
        recipe: RecipeId,
    },
    /// Put a structure piece into the building grid.
    Build {
        /// Which piece.
        piece: PieceId,
        /// Grid column eastwards.
        column: i32,
        /// Grid row southwards.
        row: i32,
        /// Storey, 0 on the ground.
        level: u8,
        /// Quarter turns clockwise, 0–3.
        turn: u8,
    },
    /// Take the structure `structure` down.
    Demolish {
        /// Which structure.
        structure: EntityId,
    },
    /// Move items between two slots: onto an equal stack it merges, onto an empty slot it moves or splits, else it swaps.
    MoveItems {
        /// Slot to take from.
        from: u8,
        /// Slot to put into.
        to: u8,
        /// How many; 0 means all.
        count: u16,
    },
}

/// An input as the simulation takes it and the frame record keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlayerInput {
    /// Whose input; [`EntityId::WORLD`] for those that no player sent.
    pub player: EntityId,
    /// What to do.
    pub input: Input,
}

/// The kinds of [`PlayerInput`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A player enters the world (world input). A known key gets its old body back.
    Join {
        /// Who.
        key: PlayerKey,
        /// Under which name.
        name: String,
    },
    /// The player's session ended; the body leaves the world, the record stays.
    Leave,
    /// Walk.
    Move(MoveInput),
    /// Do something of value.
    Command {
        /// Number of the command, rising through each player's life.
        sequence: u32,
        /// What.
        command: Command,
    },
    /// The store reserved ids (world input).
    GrantIds(IdBlock),
}

/// From the client on [`CHANNEL_COMMAND`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientMessage {
    /// Must be the first message. The version stands first for ever, so that any build can refuse any other by name.
    Hello {
        /// [`PROTOCOL_VERSION`] of the client.
        protocol: u16,
        /// The join token that signalling was reached with.
        token: String,
        /// Display name, 1–24 characters.
        name: String,
        /// Ticks per second the client wants to run at; 0 = as the server. Any other than the server's is refused.
        tick_hz: u8,
    },
    /// Do something of value.
    Command {
        /// Larger than the one before, by no more than 1,024; the first is one more than `Welcome::last_command`.
        sequence: u32,
        /// What.
        command: Command,
    },
    /// The client leaves of its own accord.
    Goodbye,
    /// Instead of a hello: goes on with a session whose connection was lost. The version stands where it stands in a hello.
    Resume {
        /// [`PROTOCOL_VERSION`] of the client.
        protocol: u16,
        /// From [`ServerMessage::Resumable`].
        secret: ResumeSecret,
        /// How many results came in this session, over all its connections.
        results: u32,
    },
    /// So many results came in this session; the shard need not keep them any more. Send it every 16 results or so.
    Seen {
        /// Over all connections of the session.
        results: u32,
    },
}

/// By which a lost session is found again. 16 unguessable bytes.
pub type ResumeSecret = [u8; 16];

/// From the client on [`CHANNEL_STATE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientDatagram {
    /// Walk, and say which motion packets arrived.
    Move {
        /// The step.
        step: MoveInput,
        /// `None` before the first packet.
        acks: Option<Acks>,
    },
    /// Asks for a pong at once ([`view::PONG_KIND`]).
    Ping {
        /// Comes back in the answer.
        nonce: u32,
        /// As in `Move`.
        acks: Option<Acks>,
    },
}

/// From the shard on [`CHANNEL_COMMAND`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerMessage {
    /// The hello was accepted and the player stands in the world.
    Welcome {
        /// [`PROTOCOL_VERSION`] of the shard.
        protocol: u16,
        /// Ticks per second.
        tick_hz: u8,
        /// The tick in which the player entered.
        tick: u64,
        /// The player's own entity.
        player: EntityId,
        /// Seed of the terrain.
        seed: u64,
        /// Half of the world's side in millimetres.
        world_half_mm: i32,
        /// Sequence of the last command that was executed in this player's life.
        last_command: u32,
        /// The content as JSON, see `content::Catalogue`.
        content: String,
    },
    /// The shard ends the connection after this.
    Refused {
        /// Which kind of refusal.
        reason: Refusal,
        /// One sentence for the player.
        message: String,
    },
    /// The outcome of one command; of a done one: durable.
    Result {
        /// Of which command.
        sequence: u32,
        /// The frame that executed it; 0 when it never reached one.
        frame: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// What came into view, changed slowly, or left: the flat layout of [`view::ViewWriter`].
    View(Vec<u8>),
    /// Follows the welcome: should the connection be lost, the session can be resumed.
    Resumable {
        /// What to come back with, in the address of signalling and in [`ClientMessage::Resume`].
        secret: ResumeSecret,
        /// For how long the shard keeps the player in the world meanwhile.
        seconds: u16,
    },
    /// The session goes on. All views are sent anew: forget what was known of the world. The results that did not arrive follow.
    Resumed {
        /// The tick in which this was said.
        tick: u64,
        /// Number of the last command that arrived: send those behind it again.
        received: u32,
    },
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Executed, and durable by the time the client reads this.
    Done {
        /// What the player's inventory gained and lost.
        items: Vec<ItemChange>,
        /// The node harvested, the structure built or demolished; 0 for none.
        entity: EntityId,
    },
    /// Not executed; nothing changed.
    Rejected(Rejection),
}

/// A gain or loss of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemChange {
    /// Which item.
    pub item: ItemId,
    /// How many more (or, negative, fewer).
    pub count: i32,
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($variant:ident => $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $(#[doc = concat!("“", $text, "”")] $variant,)*
        }

        impl $name {
            /// All of them, in the order of their numbers on the wire.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $text,)* })
            }
        }
    };
}

reasons! {
    /// Why a command was not executed. The number on the wire is the position; append only.
    Rejection {
        NoSuchEntity => "there is no such thing",
        NotHarvestable => "that cannot be harvested",
        TooFar => "too far away",
        Depleted => "nothing is left of it for now",
        TooSoon => "too soon after the last one",
        InventoryFull => "the inventory is full",
        MissingItems => "items are missing",
        UnknownRecipe => "there is no such recipe",
        UnknownPiece => "there is no such structure piece",
        OutOfRange => "a value is out of range",
        OutsideWorld => "outside the world",
        SpaceTaken => "the space is taken",
        NotSupported => "it would stand on nothing",
        SupportsOthers => "other pieces stand on it",
        NotYours => "it belongs to somebody else",
        ChunkFull => "too much was built here already",
        EmptySlot => "the slot is empty",
        OutOfTurn => "the command's number is out of turn",
        TooFrequent => "commands come too fast",
        Busy => "the shard is too busy",
        GroundTooSteep => "the ground is too steep",
    }
}

reasons! {
    /// Why a connection was refused or ended. The number on the wire is the position; append only.
    Refusal {
        WrongProtocol => "another protocol version is needed",
        WrongTickRate => "another tick rate is needed",
        BadToken => "the token is not acceptable",
        BadName => "the name is not acceptable",
        Malformed => "a message could not be read",
        TooLarge => "a message was too large",
        Flooding => "too many messages",
        NotJoined => "a hello must come first",
        AlreadyJoined => "a hello was sent twice",
        ServerFull => "the shard is full",
        JoinedElsewhere => "the player joined from elsewhere",
        TimedOut => "nothing was heard for too long",
        TooSlow => "messages were not read fast enough",
        ShuttingDown => "the shard is shutting down",
        Kicked => "removed by an operator",
        Banned => "banned by an operator",
        NotResumable => "the session cannot be resumed any more",
    }
}

/// Variants of [`ClientMessage`] that begin with the protocol's version.
const WITH_VERSION: [u64; 2] = [0, 3];

/// Decodes what a client sent on [`CHANNEL_COMMAND`]. A hello or resume of another protocol version is reported as
/// `DecodeError::UnknownVersion`, whatever stands behind its version.
pub fn decode_client_message(bytes: &[u8]) -> Result<ClientMessage, DecodeError> {
    let other = |found: u16| DecodeError::UnknownVersion {
        what: "protocol".into(),
        found: found.into(),
        newest: PROTOCOL_VERSION.into(),
    };
    let mut reader = Reader::new(bytes);
    if WITH_VERSION.contains(&reader.varint()?) {
        let found = reader.varint_u16()?;
        if found != PROTOCOL_VERSION {
            return Err(other(found));
        }
    }
    // Postcard reads the variant's number more leniently than we do: what it found is what counts.
    match from_bytes(bytes)? {
        ClientMessage::Hello { protocol, .. } | ClientMessage::Resume { protocol, .. }
            if protocol != PROTOCOL_VERSION =>
        {
            Err(other(protocol))
        }
        message => Ok(message),
    }
}

/// Decodes what a client sent on [`CHANNEL_STATE`].
pub fn decode_client_datagram(bytes: &[u8]) -> Result<ClientDatagram, DecodeError> {
    from_bytes(bytes)
}

/// Decodes what the shard sent on [`CHANNEL_COMMAND`].
pub fn decode_server_message(bytes: &[u8]) -> Result<ServerMessage, DecodeError> {
    from_bytes(bytes)
}

/// The bytes of any message.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut out = Vec::new();
    write_postcard(&mut out, message);
    out
}
