//! matchbox's signalling: WebSocket text frames of one JSON each. The server is a peer like any other to its clients: it
//! assigns the client's id and at once offers; the client answers and is connected. Format: `schema/docs/wire.md` and
//! matchbox_protocol 0.15.
//!
//! A client that breaks the protocol loses its WebSocket, and with it the connection when that did not stand yet. Pings are
//! never sent: native matchbox takes any frame but text for an error.

use super::server::{WebRtcConfig, WebRtcServer};
use super::worker::Control;
use crate::porter::Ticket;
use crate::transport::PeerId;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// Answers a request of `address` to upgrade to a WebSocket. Who may come is decided before: what was shown is the `ticket`.
///
/// Refuses with 503 when the server is full or stopped, and with 429 when too many come from the same address.
pub async fn upgrade(
    upgrade: WebSocketUpgrade,
    address: IpAddr,
    ticket: Option<Ticket>,
    server: WebRtcServer,
) -> Response {
    let admission = match server.admit(address) {
        Ok(admission) => Arc::new(admission),
        Err(refused) => {
            let code = match refused {
                Refused::Full | Refused::Stopped => StatusCode::SERVICE_UNAVAILABLE,
                Refused::TooManyFromAddress | Refused::TooManyHandshakes => StatusCode::TOO_MANY_REQUESTS,
            };
            return (code, format!("{refused}\n")).into_response();
        }
    };
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(SIGNAL_BYTES_MAX)
        .max_frame_size(SIGNAL_BYTES_MAX)
        .on_upgrade(move |socket| serve(socket, server, ticket, admission))
}

/// One client's WebSocket from beginning to end.
async fn serve(mut socket: WebSocket, server: WebRtcServer, ticket: Option<Ticket>, admission: Arc<Admission>) {
    let peer = server.next_peer();
    let (to_socket, mut from_worker) = mpsc::channel(EVENTS_WAITING_MAX);
    if !write(&mut socket, &PeerEvent::IdAssigned(Uuid::new_v4())).await {
        return;
    }
    let since = Instant::now();
    let admission_of_peer = Arc::clone(&admission);
    if !server.control(Control::Open { peer, ticket, since, to_socket, admission: admission_of_peer }).await {
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

/// Counts connections and unfinished handshakes, and how many of them each address has.
#[derive(Debug)]
pub(super) struct Door {
    connections_max: usize,
    connections_per_address_max: usize,
    handshakes_per_address_max: usize,
    refused: AtomicU64,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    total: usize,
    handshakes: usize,
    by_address: HashMap<IpAddr, OfAddress>,
}

#[derive(Debug, Default)]
struct OfAddress {
    total: usize,
    handshakes: usize,
}

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the shard is full")]
    Full,
    #[error("too many connections from this address")]
    TooManyFromAddress,
    #[error("too many unfinished handshakes from this address")]
    TooManyHandshakes,
    #[error("the shard is shutting down")]
    Stopped,
}

impl Door {
    pub(super) fn new(config: &WebRtcConfig) -> Door {
        Door {
            connections_max: config.connections_max,
            connections_per_address_max: config.connections_per_address_max,
            handshakes_per_address_max: config.handshakes_per_address_max,
            refused: AtomicU64::new(0),
            inside: Mutex::default(),
        }
    }

    /// Lets a connection in for as long as the admission lives.
    pub(super) fn admit(self: &Arc<Door>, address: IpAddr) -> Result<Admission, Refused> {
        let address = subscriber(address);
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = inside.by_address.get(&address);
        let (total, handshakes) = of_address.map_or((0, 0), |count| (count.total, count.handshakes));
        let refused = if inside.total >= self.connections_max {
            Some(Refused::Full)
        } else if total >= self.connections_per_address_max {
            Some(Refused::TooManyFromAddress)
        } else if handshakes >= self.handshakes_per_address_max {
            Some(Refused::TooManyHandshakes)
        } else {
            None
        };
        if let Some(refused) = refused {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(refused);
        }
        let count = inside.by_address.entry(address).or_default();
        count.total += 1;
        count.handshakes += 1;
        inside.total += 1;
        inside.handshakes += 1;
        Ok(Admission { door: Arc::clone(self), address, shaking: AtomicBool::new(true) })
    }

    /// Unfinished handshakes now, and how many were ever refused for want of room.
    pub(super) fn counts(&self) -> (u64, u64) {
        let handshakes = self.inside.lock().unwrap_or_else(PoisonError::into_inner).handshakes;
        (handshakes as u64, self.refused.load(Ordering::Relaxed))
    }
}

/// What counts as one address: of IPv6 the 64 bits that a subscriber has at least.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// A place among the connections, given back when dropped. Held by the WebSocket and by the connection.
#[derive(Debug)]
pub(super) struct Admission {
    door: Arc<Door>,
    address: IpAddr,
    shaking: AtomicBool,
}

impl Admission {
    /// The channels are open.
    pub(super) fn handshake_done(&self) {
        if self.shaking.swap(false, Ordering::Relaxed) {
            let mut inside = self.door.inside.lock().unwrap_or_else(PoisonError::into_inner);
            inside.handshakes -= 1;
            if let Some(count) = inside.by_address.get_mut(&self.address) {
                count.handshakes -= 1;
            }
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.handshake_done();
        let mut inside = self.door.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.total -= 1;
        if let Some(count) = inside.by_address.get_mut(&self.address) {
            count.total -= 1;
            if count.total == 0 {
                inside.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_share() {
        let config = WebRtcConfig {
            connections_max: 5,
            connections_per_address_max: 3,
            handshakes_per_address_max: 2,
            ..WebRtcConfig::default()
        };
        let door = Arc::new(Door::new(&config));
        let admit = |address: &str| door.admit(address.parse().unwrap());
        let first = admit("10.0.0.1").unwrap();
        let second = admit("::ffff:10.0.0.1").unwrap();
        assert_eq!(admit("10.0.0.1").err(), Some(Refused::TooManyHandshakes));
        first.handshake_done();
        first.handshake_done();
        assert_eq!(door.counts(), (1, 1));
        let third = admit("10.0.0.1").unwrap();
        second.handshake_done();
        assert_eq!(admit("10.0.0.1").err(), Some(Refused::TooManyFromAddress));
        // One subscriber of IPv6, whatever stands in the lower half.
        let _sixth = [admit("2001:db8::1").unwrap(), admit("2001:db8::ffff:2").unwrap()];
        assert_eq!(admit("2001:db8::3").err(), Some(Refused::Full));
        drop((first, third));
        assert_eq!(admit("2001:db8::3").err(), Some(Refused::TooManyHandshakes));
        assert!(admit("2001:db8:0:1::3").is_ok());
        drop(second);
        assert_eq!(door.counts(), (2, 4));
        assert_eq!(door.inside.lock().unwrap().by_address.len(), 1);
    }
}
