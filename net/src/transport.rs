//! The seam between the I/O-free server ([`crate::server`]) and whatever carries its bytes. Both transports, WebRTC
//! ([`crate::webrtc`]) and the in-process loopback ([`crate::loopback`]), speak these types.

use crate::porter::Ticket;
use std::sync::Arc;
use vsekai_schema::wire::CHANNEL_STATE;
use vsekai_schema::wire::steps::is_movement;

/// One connection, for as long as it lasts. Never reused by a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

/// What a transport reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportEvent {
    /// All channels of the peer are open.
    Connected {
        /// Who.
        peer: PeerId,
        /// What it showed before; `None` where a transport has no door.
        ticket: Option<Ticket>,
    },
    /// A whole message arrived.
    Message {
        /// From whom.
        peer: PeerId,
        /// On which channel: `CHANNEL_STATE` or `CHANNEL_COMMAND` of `vsekai_schema::wire`.
        channel: usize,
        /// The message, no longer than [`RECEIVE_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// The peer does what ends a connection. Nothing more of it is passed on but its end.
    Offence {
        /// Who.
        peer: PeerId,
        /// What it does.
        offence: Offence,
    },
    /// The connection is over; nothing more comes of this peer.
    Disconnected {
        /// Who.
        peer: PeerId,
        /// Why, for the log.
        reason: String,
    },
}

impl TransportEvent {
    /// True when nothing comes of it before the next tick, so that nobody has to be woken for it.
    pub fn can_wait(&self) -> bool {
        matches!(self, TransportEvent::Message { channel: CHANNEL_STATE, bytes, .. } if is_movement(bytes))
    }
}

/// What a transport stops before it costs the tick anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// Far more messages than allowed.
    Flooding,
    /// A message of so many bytes.
    TooLarge(usize),
}

/// Longest message that a server transport passes on; the session refuses what is longer than its own, smaller limit.
pub const RECEIVE_BYTES_MAX: usize = 64 * 1024;

/// Where a server transport puts its events. Returns false when the queue behind it is full: the transport then drops a
/// datagram, and disconnects a peer whose connect, disconnect or reliable message could not be taken.
pub type EventSink = Arc<dyn Fn(TransportEvent) -> bool + Send + Sync>;

/// What the server wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportCommand {
    /// Send one message. On the state channel it may be dropped. On the command channel it must arrive, or the peer is
    /// disconnected: a peer with more than [`RELIABLE_BACKLOG_BYTES_MAX`] unsent is too slow to stay.
    Send {
        /// To whom.
        peer: PeerId,
        /// On which channel.
        channel: usize,
        /// The message.
        bytes: Vec<u8>,
    },
    /// End the connection once what was sent on the command channel is out (or after four seconds).
    Disconnect {
        /// Whose.
        peer: PeerId,
    },
}

/// Most bytes of reliable messages that wait for one peer.
pub const RELIABLE_BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;
