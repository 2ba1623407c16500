//! The in-process transport: a network of its own in virtual time, with seeded faults. No threads, no I/O; equal seed and
//! equal calls give equal results.
//!
//! Datagrams (the state channel) are delayed, lost, duplicated and reordered. Reliable messages (the command channel) are
//! delayed, the longer the more often they were lost, and keep their order; a connection's end keeps its place among them.
//!
//! Bounds, for each peer and direction, counting what is under way and what was not taken out yet: a datagram beyond
//! [`DATAGRAMS_WAITING_MAX`] is dropped; a reliable message that would make it more than `RELIABLE_BACKLOG_BYTES_MAX` ends the
//! connection, as it does with WebRTC.

use crate::transport::{PeerId, RELIABLE_BACKLOG_BYTES_MAX, TransportCommand, TransportEvent};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;
use vsekai_schema::wire::CHANNEL_COMMAND;

#[cfg(test)]
mod tests;

/// Most datagrams that wait for one receiver from one sender.
pub const DATAGRAMS_WAITING_MAX: usize = 1_024;
/// A reliable message is lost at most this often in a row.
const LOSSES_MAX: u32 = 8;
/// What a sender waits for an acknowledgement beyond the round trip before it sends again.
const RETRANSMIT_MARGIN_MS: u32 = 50;

/// What the network does to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Shortest and longest time from one end to the other, milliseconds; evenly distributed. A longest below the shortest
    /// counts as equal to it.
    pub delay_ms: (u32, u32),
    /// Of a thousand messages, how many are lost.
    pub loss_permille: u16,
    /// Of a thousand datagrams, how many arrive twice.
    pub duplicate_permille: u16,
    /// Of a thousand datagrams, how many are held back so that later ones overtake them. The others keep their order.
    pub reorder_permille: u16,
}

/// The network with its server end and all its client ends.
#[derive(Debug)]
pub struct Loopback {
    faults: Faults,
    random: ChaCha8Rng,
    now: Duration,
    next_peer: u64,
    next_sequence: u64,
    peers: BTreeMap<PeerId, Peer>,
    under_way: BinaryHeap<Parcel>,
    server_events: VecDeque<TransportEvent>,
}

#[derive(Debug, Default)]
struct Peer {
    /// What the client may still do and get; false once the connection's end reached it.
    client_open: bool,
    /// The same for the server.
    server_open: bool,
    /// Was the end of the connection sent already, by either side?
    ending: bool,
    to_server: Lane,
    to_client: Lane,
    client_inbox: VecDeque<(usize, Vec<u8>)>,
}

/// One direction of one peer.
#[derive(Debug, Default)]
struct Lane {
    datagrams_waiting: usize,
    reliable_bytes_waiting: usize,
    last_datagram_at: Duration,
    last_reliable_at: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Message { channel: usize, bytes: Vec<u8> },
    End { reason: String },
}

/// Something under way. Ordered so that the heap gives the one that arrives first, and of those the one sent first.
#[derive(Debug, PartialEq, Eq)]
struct Parcel {
    arrives: Duration,
    sequence: u64,
    peer: PeerId,
    direction: Direction,
    content: Content,
}

impl Ord for Parcel {
    fn cmp(&self, other: &Parcel) -> Ordering {
        (other.arrives, other.sequence).cmp(&(self.arrives, self.sequence))
    }
}

impl PartialOrd for Parcel {
    fn partial_cmp(&self, other: &Parcel) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Loopback {
    /// A network at time zero with nobody on it.
    pub fn new(seed: u64, faults: Faults) -> Loopback {
        Loopback {
            faults,
            random: ChaCha8Rng::seed_from_u64(seed),
            now: Duration::ZERO,
            next_peer: 1,
            next_sequence: 0,
            peers: BTreeMap::new(),
            under_way: BinaryHeap::new(),
            server_events: VecDeque::new(),
        }
    }

    /// Changes what happens to messages sent from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Connects a client, at once.
    pub fn connect(&mut self) -> PeerId {
        let peer = PeerId(self.next_peer);
        self.next_peer += 1;
        self.peers.insert(peer, Peer { client_open: true, server_open: true, ..Peer::default() });
        self.server_events.push_back(TransportEvent::Connected { peer, ticket: None });
        peer
    }

    /// The client sends one message; nothing happens when it is not connected any more.
    pub fn client_send(&mut self, peer: PeerId, channel: usize, bytes: Vec<u8>) {
        if self.peers.get(&peer).is_some_and(|peer| peer.client_open && !peer.ending) {
            self.send(peer, Direction::ToServer, channel, bytes);
        }
    }

    /// The connection breaks at both ends at once, with all that was under way.
    pub fn lose(&mut self, peer: PeerId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.client_inbox.clear();
        }
        self.cut(peer, "the peer does not answer any more");
    }

    /// The client leaves: it gets nothing more, the server what was sent before and then the end.
    pub fn disconnect(&mut self, peer: PeerId) {
        let Some(state) = self.peers.get_mut(&peer).filter(|peer| peer.client_open) else {
            return;
        };
        state.client_open = false;
        state.client_inbox.clear();
        state.to_client = Lane::default();
        if !state.ending {
            state.ending = true;
            self.send_end(peer, Direction::ToServer, "the peer closed the connection");
        }
    }

    /// The server sends or disconnects. What names an unknown peer does nothing.
    pub fn server_command(&mut self, command: TransportCommand) {
        match command {
            TransportCommand::Send { peer, channel, bytes } => {
                if self.peers.get(&peer).is_some_and(|peer| peer.server_open && !peer.ending) {
                    self.send(peer, Direction::ToClient, channel, bytes);
                }
            }
            TransportCommand::Disconnect { peer } => {
                if let Some(state) = self.peers.get_mut(&peer)
                    && state.server_open
                    && !state.ending
                {
                    state.ending = true;
                    self.send_end(peer, Direction::ToClient, "disconnected by the server");
                }
            }
        }
    }

    /// Moves the time on (never back) and delivers what arrives up to `now`.
    pub fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        while self.under_way.peek().is_some_and(|parcel| parcel.arrives <= self.now) {
            let parcel = self.under_way.pop().expect("it was just peeked at");
            self.deliver(parcel);
        }
    }

    /// When the next message arrives, if one is under way.
    pub fn next_arrival(&self) -> Option<Duration> {
        self.under_way.peek().map(|parcel| parcel.arrives)
    }

    /// The oldest event that the server has not seen.
    pub fn poll_server(&mut self) -> Option<TransportEvent> {
        let event = self.server_events.pop_front()?;
        if let TransportEvent::Message { peer, channel, bytes } = &event
            && let Some(state) = self.peers.get_mut(peer)
        {
            state.to_server.release(*channel, bytes.len());
        }
        Some(event)
    }

    /// The oldest message that the client has not seen. What arrived before the server ended the connection can still be read.
    pub fn poll_client(&mut self, peer: PeerId) -> Option<(usize, Vec<u8>)> {
        let state = self.peers.get_mut(&peer)?;
        let (channel, bytes) = state.client_inbox.pop_front()?;
        state.to_client.release(channel, bytes.len());
        self.forget_if_over(peer);
        Some((channel, bytes))
    }

    /// Does the client think that it is connected?
    pub fn is_connected(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.client_open)
    }

    fn send(&mut self, peer: PeerId, direction: Direction, channel: usize, bytes: Vec<u8>) {
        if channel == CHANNEL_COMMAND {
            self.send_reliable(peer, direction, bytes);
        } else {
            self.send_datagram(peer, direction, channel, bytes);
        }
    }

    fn send_datagram(&mut self, peer: PeerId, direction: Direction, channel: usize, bytes: Vec<u8>) {
        // All chances are drawn for each datagram, so that one fault does not shift the others' luck.
        let delay = self.delay();
        let lost = self.chance(self.faults.loss_permille);
        let held_back = self.chance(self.faults.reorder_permille);
        let hold = self.random.random_range(1..=2 * self.longest_delay_ms() + 20);
        let doubled = self.chance(self.faults.duplicate_permille);
        let second_delay = self.delay();
        if lost {
            return;
        }
        let now = self.now;
        let lane = self.lane(peer, direction);
        let arrives = match held_back {
            true => lane.last_datagram_at.max(now + delay) + milliseconds(hold),
            false => {
                lane.last_datagram_at = lane.last_datagram_at.max(now + delay);
                lane.last_datagram_at
            }
        };
        let copies: &[Duration] = if doubled { &[arrives, arrives + second_delay] } else { &[arrives] };
        for &arrives in copies {
            let lane = self.lane(peer, direction);
            if lane.datagrams_waiting >= DATAGRAMS_WAITING_MAX {
                return;
            }
            lane.datagrams_waiting += 1;
            self.post(peer, direction, arrives, Content::Message { channel, bytes: bytes.clone() });
        }
    }

    fn send_reliable(&mut self, peer: PeerId, direction: Direction, bytes: Vec<u8>) {
        let lane = self.lane(peer, direction);
        if lane.reliable_bytes_waiting + bytes.len() > RELIABLE_BACKLOG_BYTES_MAX {
            return self.cut(peer, "messages were not read fast enough");
        }
        lane.reliable_bytes_waiting += bytes.len();
        let arrives = self.reliable_arrival(peer, direction);
        self.post(peer, direction, arrives, Content::Message { channel: CHANNEL_COMMAND, bytes });
    }

    fn send_end(&mut self, peer: PeerId, direction: Direction, reason: &str) {
        let arrives = self.reliable_arrival(peer, direction);
        self.post(peer, direction, arrives, Content::End { reason: reason.into() });
    }

    /// When a reliable message sent now arrives: after its delay, as often again as it is lost, and not before an older one.
    fn reliable_arrival(&mut self, peer: PeerId, direction: Direction) -> Duration {
        let mut delay = self.delay();
        for _ in 0..LOSSES_MAX {
            if !self.chance(self.faults.loss_permille) {
                break;
            }
            delay += milliseconds(2 * self.longest_delay_ms() + RETRANSMIT_MARGIN_MS);
        }
        let arrives = self.now + delay;
        let lane = self.lane(peer, direction);
        lane.last_reliable_at = lane.last_reliable_at.max(arrives);
        lane.last_reliable_at
    }

    /// Ends a connection at both ends at once.
    fn cut(&mut self, peer: PeerId, reason: &str) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        state.client_open = false;
        state.ending = true;
        if state.server_open {
            state.server_open = false;
            self.server_events.push_back(TransportEvent::Disconnected { peer, reason: reason.into() });
        }
        self.forget_if_over(peer);
    }

    fn post(&mut self, peer: PeerId, direction: Direction, arrives: Duration, content: Content) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.under_way.push(Parcel { arrives, sequence, peer, direction, content });
    }

    fn deliver(&mut self, parcel: Parcel) {
        let Parcel { peer, direction, content, .. } = parcel;
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        match (direction, content) {
            // What the client sent before it left still counts; the server that ends the connection wants nothing more.
            (Direction::ToServer, Content::Message { channel, bytes }) => {
                if state.server_open && !(state.ending && state.client_open) {
                    self.server_events.push_back(TransportEvent::Message { peer, channel, bytes });
                } else {
                    state.to_server.release(channel, bytes.len());
                }
            }
            (Direction::ToClient, Content::Message { channel, bytes }) => {
                if state.client_open {
                    state.client_inbox.push_back((channel, bytes));
                }
            }
            (_, Content::End { reason }) => {
                state.client_open = false;
                if state.server_open {
                    state.server_open = false;
                    self.server_events.push_back(TransportEvent::Disconnected { peer, reason });
                }
                self.forget_if_over(peer);
            }
        }
    }

    fn forget_if_over(&mut self, peer: PeerId) {
        if self.peers.get(&peer).is_some_and(|p| !p.client_open && !p.server_open && p.client_inbox.is_empty()) {
            self.peers.remove(&peer);
        }
    }

    fn lane(&mut self, peer: PeerId, direction: Direction) -> &mut Lane {
        let state = self.peers.get_mut(&peer).expect("messages are sent for living peers only");
        match direction {
            Direction::ToServer => &mut state.to_server,
            Direction::ToClient => &mut state.to_client,
        }
    }

    fn longest_delay_ms(&self) -> u32 {
        self.faults.delay_ms.1.max(self.faults.delay_ms.0)
    }

    fn delay(&mut self) -> Duration {
        let longest = self.longest_delay_ms();
        milliseconds(self.random.random_range(self.faults.delay_ms.0..=longest))
    }

    fn chance(&mut self, permille: u16) -> bool {
        self.random.random_range(0..1_000) < permille
    }
}

impl Lane {
    /// A message was taken out, or will never be.
    fn release(&mut self, channel: usize, length: usize) {
        if channel == CHANNEL_COMMAND {
            self.reliable_bytes_waiting = self.reliable_bytes_waiting.saturating_sub(length);
        } else {
            self.datagrams_waiting = self.datagrams_waiting.saturating_sub(1);
        }
    }
}

fn milliseconds(count: u32) -> Duration {
    Duration::from_millis(count.into())
}
