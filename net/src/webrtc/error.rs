//! What can go wrong with WebRTC, by what the caller does about it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use str0m::RtcError;

/// Why a server did not start. The shard stops.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The UDP port is taken, not allowed, or not of this machine.
    #[error("cannot bind UDP {address}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The crypto library could not make a certificate.
    #[error("cannot make a DTLS certificate")]
    Certificate,
    /// The system gave no thread or no event queue.
    #[error("cannot start the transport's thread")]
    Thread(#[source] io::Error),
}

/// Why a client did not connect. Trying again is sensible after all but [`ClientError::Url`].
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not a `ws://host:port/path`.
    #[error("{url} is not a ws:// address")]
    Url {
        /// What was given.
        url: String,
    },
    /// Nobody listens there, or the network is down.
    #[error("cannot reach {url}")]
    Unreachable {
        /// The signalling address.
        url: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server answered with an HTTP error: 503 when it is full, 429 when too many come from this address.
    #[error("the server refused the connection with HTTP {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// The server does not speak the protocol, or closed the WebSocket before the connection stood.
    #[error("signalling failed: {0}")]
    Signalling(String),
    /// WebRTC failed on this side.
    #[error("WebRTC failed")]
    Rtc(#[from] RtcError),
    /// The connection was made and lost again before all channels were open.
    #[error("the connection failed: {0}")]
    Connection(String),
    /// No socket could be opened here.
    #[error("cannot open a UDP socket")]
    Socket(#[source] io::Error),
    /// It took too long.
    #[error("not connected after {deadline:?}, while {waiting_for}")]
    Deadline {
        /// How long was waited.
        deadline: Duration,
        /// Which step did not end.
        waiting_for: &'static str,
    },
}
