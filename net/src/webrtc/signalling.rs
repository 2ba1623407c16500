//! matchbox's signalling: WebSocket text frames of one JSON each. The server is a peer like any other to its clients: it
//! assigns the client's id and at once offers; the client answers and is connected. Format: `schema/docs/wire.md` and
//! matchbox_protocol 0.15.
//!
//! A client that breaks the protocol loses its WebSocket, and with it the connection when that did not stand yet. Pings are
//! never sent: native matchbox takes any frame but text for an error.

use super::server::WebRtcServer;
use super::worker::Control;
use crate::transport::PeerId;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// Longest signalling message that is read, bytes.
pub const SIGNAL_BYTES_MAX: usize = 64 * 1024;
/// Bytes that a WebSocket buffers while reading: allocated for each, so small.
pub(super) const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Signalling messages that a client may send at once; one per second is added. A handshake takes about ten.
const MESSAGES_MAX: u64 = 200;
/// How long a WebSocket may take to accept what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after the connection the WebSocket ends: what came by the connection shall be read first.
const FAREWELL_DELAY: Duration = Duration::from_millis(500);
/// Messages from the transport that wait for one WebSocket: an offer and a farewell are all there is.
pub(super) const EVENTS_WAITING_MAX: usize = 4;

/// From the signalling server to a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerEvent {
    /// The client's own id; the first message.
    IdAssigned(Uuid),
    /// Asks the client to send that peer an offer. Never sent by this server.
    NewPeer(Uuid),
    /// That peer is gone.
    PeerLeft(Uuid),
    /// What another peer said.
    Signal {
        /// Which peer.
        sender: Uuid,
        /// What it said.
        data: PeerSignal,
    },
}

/// From a client to the signalling server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerRequest {
    /// To be passed on.
    Signal {
        /// To which peer.
        receiver: Uuid,
        /// What it says.
        data: PeerSignal,
    },
    /// Keeps proxies from closing the WebSocket; every 10 s.
    KeepAlive,
}

/// What peers say to each other while they connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerSignal {
    /// JSON of `RTCIceCandidateInit`, or `null` after the last one.
    IceCandidate(String),
    /// SDP.
    Offer(String),
    /// SDP.
    Answer(String),
}

/// Axum handler for any path. The service must be made with `into_make_service_with_connect_info::<SocketAddr>()`.
///
/// Refuses with 503 when the server is full or stopped, and with 429 when too many come from the same address. To serve a
/// page on the same path, take `Result<WebSocketUpgrade, WebSocketUpgradeRejection>` and call this with the `Ok`.
pub async fn upgrade(
    upgrade: WebSocketUpgrade,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    State(server): State<WebRtcServer>,
) -> Response {
    let admission = match server.admit(address.ip()) {
        Ok(admission) => Arc::new(admission),
        Err(refused @ Refused::Full) => {
            return (StatusCode::SERVICE_UNAVAILABLE, refused.to_string()).into_response();
        }
        Err(refused @ Refused::TooManyFromAddress) => {
            return (StatusCode::TOO_MANY_REQUESTS, refused.to_string()).into_response();
        }
        Err(refused @ Refused::Stopped) => {
            return (StatusCode::SERVICE_UNAVAILABLE, refused.to_string()).into_response();
        }
    };
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(SIGNAL_BYTES_MAX)
        .max_frame_size(SIGNAL_BYTES_MAX)
        .on_upgrade(move |socket| serve(socket, server, admission))
}

/// One client's WebSocket from beginning to end.
async fn serve(mut socket: WebSocket, server: WebRtcServer, admission: Arc<Admission>) {
    let peer = server.next_peer();
    let (to_socket, mut from_worker) = mpsc::channel(EVENTS_WAITING_MAX);
    if !write(&mut socket, &PeerEvent::IdAssigned(Uuid::new_v4())).await {
        return;
    }
    let since = Instant::now();
    let admission_of_peer = Arc::clone(&admission);
    if !server.control(Control::Open { peer, since, to_socket, _admission: admission_of_peer }).await {
        return;
    }
    let mut message_count = 0;
    let farewell = loop {
        tokio::select! {
            event = from_worker.recv() => match event {
                Some(event) => {
                    if matches!(event, PeerEvent::PeerLeft(_)) {
                        sleep(FAREWELL_DELAY).await;
                    }
                    if !write(&mut socket, &event).await {
                        break None;
                    }
                }
                // The connection is over.
                None => break Some((close_code::NORMAL, "the connection is over")),
            },
            message = socket.recv() => {
                message_count += 1;
                if message_count > MESSAGES_MAX + since.elapsed().as_secs() {
                    break Some((close_code::POLICY, "too many signalling messages"));
                }
                match message {
                    Some(Ok(Message::Text(text))) => match handle(&server, peer, &text).await {
                        Ok(()) => {}
                        Err(fault) => break Some((close_code::POLICY, fault)),
                    },
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Binary(_))) => break Some((close_code::UNSUPPORTED, "signalling is text")),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break None,
                }
            }
        }
    };
    server.control(Control::SocketClosed { peer }).await;
    if let Some((code, reason)) = farewell {
        tracing::debug!(?peer, reason, "signalling closed");
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        // Whether the client still reads it does not matter.
        let _ = timeout(WRITE_TIMEOUT, socket.send(close)).await;
    }
    drop(admission);
}

/// Acts on one message of a client; an error is what it did wrong.
async fn handle(server: &WebRtcServer, peer: PeerId, text: &str) -> Result<(), &'static str> {
    let request = serde_json::from_str(text).map_err(|_| "a signalling message could not be read")?;
    match request {
        PeerRequest::KeepAlive => Ok(()),
        PeerRequest::Signal { receiver, .. } if receiver != server.id() => Err("there is no such peer"),
        PeerRequest::Signal { data: PeerSignal::Answer(sdp), .. } => {
            server.control(Control::Answer { peer, sdp }).await;
            Ok(())
        }
        // An ICE-lite server learns the client's address from its checks.
        PeerRequest::Signal { data: PeerSignal::IceCandidate(_), .. } => Ok(()),
        PeerRequest::Signal { data: PeerSignal::Offer(_), .. } => Err("the server makes the offer"),
    }
}

/// False when the socket is of no more use.
async fn write(socket: &mut WebSocket, event: &PeerEvent) -> bool {
    let text = serde_json::to_string(event).expect("strings and ids are always JSON");
    matches!(timeout(WRITE_TIMEOUT, socket.send(Message::text(text))).await, Ok(Ok(())))
}

/// Counts connections, and how many of them each address has.
#[derive(Debug)]
pub(super) struct Door {
    connections_max: usize,
    connections_per_address_max: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the shard is full")]
    Full,
    #[error("too many connections from this address")]
    TooManyFromAddress,
    #[error("the shard is shutting down")]
    Stopped,
}

impl Door {
    pub(super) fn new(connections_max: usize, connections_per_address_max: usize) -> Door {
        Door { connections_max, connections_per_address_max, inside: Mutex::default() }
    }

    /// Lets a connection in for as long as the admission lives.
    pub(super) fn admit(self: &Arc<Door>, address: IpAddr) -> Result<Admission, Refused> {
        let address = address.to_canonical();
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.total >= self.connections_max {
            return Err(Refused::Full);
        }
        let count = inside.by_address.entry(address).or_default();
        if *count >= self.connections_per_address_max {
            return Err(Refused::TooManyFromAddress);
        }
        *count += 1;
        inside.total += 1;
        Ok(Admission { door: Arc::clone(self), address })
    }
}

/// A place among the connections, given back when dropped. Held by the WebSocket and by the connection.
#[derive(Debug)]
pub(super) struct Admission {
    door: Arc<Door>,
    address: IpAddr,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut inside = self.door.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.total -= 1;
        if let Some(count) = inside.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                inside.by_address.remove(&self.address);
            }
        }
    }
}
