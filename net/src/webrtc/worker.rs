//! The thread that serves all peers of one UDP port.
//!
//! Each turn it receives some packets, acts on some commands and on due timers, then sleeps until one of them has more; the
//! amounts are bounded so that a burst of one does not starve the others. Only this thread touches the connections, so
//! nothing here is locked.
//!
//! Invariants: `by_fragment` and `by_address` name living peers only; a source address is entered only after the peer's
//! connection verified a STUN check from it; every peer that was reported connected is reported disconnected, once, last.

use super::error::StartError;
use super::link::{Link, LinkEvent, Outbox};
use super::server::{Counters, WebRtcConfig};
use super::signalling::{Admission, PeerEvent, PeerSignal};
use crate::flood::{Class, Intake, IntakeRates, Measured, Meter, Rates};
use crate::porter::Ticket;
use crate::transport::{EventSink, Offence, PeerId, RECEIVE_BYTES_MAX, TransportCommand, TransportEvent};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use str0m::config::DtlsCert;
use str0m::crypto::from_feature_flags;
use str0m::ice::{IceCreds, StunMessage};
use str0m::{Rtc, RtcConfig};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep_until;
use uuid::Uuid;
use vsekai_schema::wire::CHANNEL_STATE;

/// Packets received in one turn.
const PACKETS_PER_TURN: usize = 64;
/// Commands done in one turn: about a millisecond.
const COMMANDS_PER_TURN: usize = 64;
/// Signalling messages handled in one turn; a handshake is the dearest of all.
const CONTROLS_PER_TURN: usize = 4;
/// Between two turns that found nothing left passes at least this time, so that packets are taken by the dozen: waking for each one costs
/// about as much as serving it.
const TURN_MIN: Duration = Duration::from_micros(250);
/// Largest UDP packet that is read whole; WebRTC stays below 1,500 bytes.
const PACKET_BYTES_MAX: usize = 2_048;
/// Addresses that one peer may be seen at: a phone changes its network now and then, and browsers try all their interfaces.
const ADDRESSES_PER_PEER_MAX: usize = 8;
/// How long a peer that is being disconnected may take to acknowledge what was sent before.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a connection stays after that: a matchbox client that learns of the end while the last message still passes
/// through its queues loses it (seen once in a hundred), and the last message is often the reason for the end.
const LINGER: Duration = Duration::from_millis(250);
/// No timer fires earlier than this after it was set: a connection can ask for "now" again and again.
const TIMER_MIN: Duration = Duration::from_millis(1);
/// Timers further away are not set; the library says "never" that way.
const TIMER_MAX: Duration = Duration::from_secs(3_600);
/// How soon an event is offered again that the sink could not take.
const RETRY: Duration = Duration::from_millis(5);

/// Reason of the connections that end with the server.
const STOPPED: &str = "the server stopped";

/// From signalling to the worker.
#[derive(Debug)]
pub(super) enum Control {
    /// A client came: make it an offer.
    Open {
        /// Its connection.
        peer: PeerId,
        /// What it showed at the door.
        ticket: Option<Ticket>,
        /// When it came.
        since: Instant,
        /// Into its WebSocket, which closes when this is dropped.
        to_socket: mpsc::Sender<PeerEvent>,
        /// Its place among the connections.
        admission: Arc<Admission>,
    },
    /// The client answered.
    Answer {
        /// Its connection.
        peer: PeerId,
        /// Its SDP.
        sdp: String,
    },
    /// The client's WebSocket closed.
    SocketClosed {
        /// Its connection.
        peer: PeerId,
    },
}

impl Control {
    pub(super) fn peer(&self) -> PeerId {
        match *self {
            Control::Open { peer, .. } | Control::Answer { peer, .. } | Control::SocketClosed { peer } => peer,
        }
    }
}

/// Where clients are told to find the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    /// The usual one.
    pub(super) main: SocketAddr,
    /// For clients on the same machine.
    pub(super) loopback: Option<SocketAddr>,
}

impl Addresses {
    fn all(&self) -> Vec<SocketAddr> {
        [Some(self.main), self.loopback].into_iter().flatten().collect()
    }

    /// The address that a packet from `source` came to, as the peer knows it. The socket does not tell; any that was
    /// advertised serves.
    fn towards(&self, source: SocketAddr) -> SocketAddr {
        match self.loopback {
            Some(loopback) if source.ip().is_loopback() => loopback,
            _ => self.main,
        }
    }
}

/// What a peer may send before it is passed on.
#[derive(Debug, Clone, Copy)]
struct MessageLimits {
    bytes_max: usize,
    rates: Option<Rates>,
    intake: Option<IntakeRates>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not all channels are open; the connection fails at `deadline`.
    Handshake { deadline: Instant },
    /// Reported as connected.
    Open,
    /// Was connected and is to be ended [`LINGER`] after all is acknowledged, at `deadline` at the latest.
    Closing { deadline: Instant, flushed: bool },
}

struct Peer {
    link: Link,
    stage: Stage,
    fragment: String,
    addresses: Vec<SocketAddr>,
    to_socket: mpsc::Sender<PeerEvent>,
    /// Time of the earliest of its entries in `timers`.
    timer: Option<Instant>,
    ticket: Option<Ticket>,
    admission: Arc<Admission>,
    meter: Option<Meter>,
    intake: Option<Intake>,
    /// It did what ends a connection: nothing of it is passed on any more.
    muted: bool,
}

/// All peers of one UDP port.
pub(super) struct Worker {
    id: Uuid,
    socket: UdpSocket,
    addresses: Addresses,
    handshake_timeout: Duration,
    limits: MessageLimits,
    started: Instant,
    rtc_config: RtcConfig,
    sink: EventSink,
    counters: Arc<Counters>,
    peers: HashMap<PeerId, Peer>,
    by_fragment: HashMap<String, PeerId>,
    by_address: HashMap<SocketAddr, PeerId>,
    /// May hold entries that are not valid any more: those that are not the peer's `timer`.
    timers: BinaryHeap<Reverse<(Instant, PeerId)>>,
    commands: VecDeque<TransportCommand>,
    /// Disconnects that the sink could not take: at most one per connection that ever stood.
    unreported: VecDeque<TransportEvent>,
    outbox: Outbox,
}

impl Worker {
    pub(super) fn new(
        id: Uuid,
        socket: UdpSocket,
        addresses: Addresses,
        config: &WebRtcConfig,
        sink: EventSink,
        counters: Arc<Counters>,
    ) -> Result<Worker, StartError> {
        let certificate = make_certificate().ok_or(StartError::Certificate)?;
        let rtc_config = Rtc::builder()
            .set_ice_lite(true)
            .set_dtls_cert(certificate)
            // SCTP's greeting goes with offer and answer (draft-hancke-tsvwg-snap), for clients that know how: ours do. Two round
            // trips less, of which each packet that is lost takes the library three seconds to send again.
            .set_snap_enabled(true)
            .set_sctp_max_message_size(RECEIVE_BYTES_MAX as u32)
            .clear_codecs();
        Ok(Worker {
            id,
            socket,
            addresses,
            handshake_timeout: config.handshake_timeout,
            limits: MessageLimits {
                bytes_max: config.message_bytes_max.min(RECEIVE_BYTES_MAX),
                rates: config.rates,
                intake: config.intake,
            },
            started: Instant::now(),
            rtc_config,
            sink,
            counters,
            peers: HashMap::new(),
            by_fragment: HashMap::new(),
            by_address: HashMap::new(),
            timers: BinaryHeap::new(),
            commands: VecDeque::new(),
            unreported: VecDeque::new(),
            outbox: Outbox::default(),
        })
    }

    /// Serves until `stop`, then disconnects everybody.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Vec<TransportCommand>>,
        mut controls: mpsc::Receiver<Control>,
        stop: Arc<Notify>,
    ) {
        let mut stop_deadline = None;
        loop {
            let turned = Instant::now();
            let mut busy = self.receive();
            for _ in 0..CONTROLS_PER_TURN {
                let Ok(control) = controls.try_recv() else {
                    break;
                };
                if stop_deadline.is_none() {
                    self.control(control);
                }
            }
            busy |= !controls.is_empty();
            while self.commands.len() < COMMANDS_PER_TURN
                && let Ok(batch) = commands.try_recv()
            {
                self.commands.extend(batch);
            }
            for _ in 0..COMMANDS_PER_TURN {
                let Some(command) = self.commands.pop_front() else {
                    break;
                };
                self.command(command);
            }
            busy |= !self.commands.is_empty() || !commands.is_empty();
            self.fire_timers();
            self.report_again();
            if let Some(deadline) = stop_deadline {
                if Instant::now() >= deadline {
                    self.for_all_peers(|worker, peer| worker.end(peer, STOPPED));
                }
                if self.peers.is_empty() {
                    // What the sink still cannot take, nobody reads any more.
                    return;
                }
            }
            if busy {
                // Lets the runtime look at the socket.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                _ = self.socket.readable() => {}
                Some(batch) = commands.recv() => self.commands.extend(batch),
                Some(control) = controls.recv() => if stop_deadline.is_none() {
                    self.control(control);
                },
                () = stop.notified(), if stop_deadline.is_none() => {
                    stop_deadline = Some(Instant::now() + FLUSH_TIMEOUT);
                    // Nobody comes in any more; who waits at the door is sent away.
                    controls.close();
                    // What was to be said before the stop is said: why it ends, among other things.
                    while let Ok(batch) = commands.try_recv() {
                        self.commands.extend(batch);
                    }
                    while let Some(command) = self.commands.pop_front() {
                        self.command(command);
                    }
                    self.for_all_peers(|worker, peer| worker.disconnect(peer, STOPPED));
                }
                () = sleep_until(self.next_wake(stop_deadline).into()) => {}
            }
            // Nobody else lives on this thread, and the runtime's own timer knows whole milliseconds only.
            std::thread::sleep((turned + TURN_MIN).saturating_duration_since(Instant::now()));
        }
    }

    fn next_wake(&self, stop_deadline: Option<Instant>) -> Instant {
        let now = Instant::now();
        let retry = (!self.unreported.is_empty()).then(|| now + RETRY);
        let timer = self.timers.peek().map(|&Reverse((at, _))| at);
        [timer, retry, stop_deadline].into_iter().flatten().min().unwrap_or(now + TIMER_MAX)
    }

    fn for_all_peers(&mut self, act: impl Fn(&mut Worker, PeerId)) {
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            act(self, peer);
        }
    }

    /// Receives up to a turn's packets; true when there may be more.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; PACKET_BYTES_MAX];
        for _ in 0..PACKETS_PER_TURN {
            match self.socket.try_recv_from(&mut buffer) {
                Ok((length, source)) => self.packet(source, &buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    // Some systems report here that an earlier packet could not be delivered.
                    tracing::debug!(%error, "receiving failed");
                    return true;
                }
            }
        }
        true
    }

    /// Finds the connection that a packet belongs to and gives it to it; what belongs to none is dropped without an answer.
    fn packet(&mut self, source: SocketAddr, packet: &[u8]) {
        Counters::add(&self.counters.packets_in, 1);
        Counters::add(&self.counters.bytes_in, packet.len());
        if !self.pass_on(source, packet) {
            Counters::add(&self.counters.packets_refused, 1);
        }
    }

    fn pass_on(&mut self, source: SocketAddr, packet: &[u8]) -> bool {
        let known = self.by_address.get(&source).copied();
        // Before anything is spent on it. Who is not known yet has no rate of its own, and all that it can have read are checks.
        if let Some(intake) = known.and_then(|id| self.peers.get_mut(&id)).and_then(|peer| peer.intake.as_mut())
            && !intake.take(self.started.elapsed(), packet.len())
        {
            Counters::add(&self.counters.packets_flooded, 1);
            return true;
        }
        // A check names its connection. That goes before the address: a client may have got the port of one that is gone.
        let is_stun = packet.first().is_some_and(|&first| first < 4);
        let peer_id = match is_stun {
            true => stun_fragment(packet).and_then(|fragment| self.by_fragment.get(&fragment).copied()),
            false => known,
        };
        let Some(peer_id) = peer_id else {
            return false;
        };
        let Some(peer) = self.peers.get_mut(&peer_id) else {
            return false;
        };
        let now = Instant::now();
        let destination = self.addresses.towards(source);
        if known != Some(peer_id) {
            if !peer.link.accepts(now, source, destination, packet) {
                return false;
            }
            if !peer.addresses.contains(&source) {
                if peer.addresses.len() >= ADDRESSES_PER_PEER_MAX {
                    return false;
                }
                peer.addresses.push(source);
            }
            self.by_address.insert(source, peer_id);
        }
        peer.link.receive(now, source, destination, packet, &mut self.outbox);
        self.settle(peer_id);
        true
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Open { peer, ticket, since, to_socket, admission } => {
                self.open(peer, ticket, since, to_socket, admission);
            }
            Control::Answer { peer: id, sdp } => {
                let Some(peer) = self.peers.get_mut(&id) else {
                    return;
                };
                peer.link.accept_answer(&sdp, &mut self.outbox);
                self.settle(id);
            }
            Control::SocketClosed { peer: id } => {
                if self.peers.get(&id).is_some_and(|peer| peer.link.awaits_answer()) {
                    self.end(id, "the WebSocket closed");
                }
            }
        }
    }

    fn open(
        &mut self,
        id: PeerId,
        ticket: Option<Ticket>,
        since: Instant,
        to_socket: mpsc::Sender<PeerEvent>,
        admission: Arc<Admission>,
    ) {
        let credentials = IceCreds::new();
        let fragment = credentials.ufrag.clone();
        let config = self.rtc_config.clone().set_local_ice_credentials(credentials);
        let (link, offer) = match Link::offer(config, &self.addresses.all(), Instant::now()) {
            Ok(made) => made,
            Err(error) => {
                tracing::error!(%error, "cannot make an offer");
                Counters::add(&self.counters.handshakes_failed, 1);
                return;
            }
        };
        let event = PeerEvent::Signal { sender: self.id, data: PeerSignal::Offer(offer) };
        if to_socket.try_send(event).is_err() {
            Counters::add(&self.counters.handshakes_failed, 1);
            return;
        }
        self.by_fragment.insert(fragment.clone(), id);
        self.peers.insert(
            id,
            Peer {
                link,
                stage: Stage::Handshake { deadline: since + self.handshake_timeout },
                fragment,
                addresses: Vec::new(),
                to_socket,
                timer: None,
                ticket,
                admission,
                meter: None,
                intake: self.limits.intake.map(|rates| Intake::new(rates, self.started.elapsed())),
                muted: false,
            },
        );
        self.settle(id);
    }

    fn command(&mut self, command: TransportCommand) {
        match command {
            TransportCommand::Send { peer: id, channel, bytes } => {
                let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.stage == Stage::Open) else {
                    Counters::add(&self.counters.messages_dropped, 1);
                    return;
                };
                if !peer.link.send(channel, bytes, &mut self.outbox) {
                    Counters::add(&self.counters.messages_dropped, 1);
                }
                self.settle(id);
            }
            TransportCommand::Disconnect { peer } => self.disconnect(peer, "disconnected by the server"),
        }
    }

    /// Ends a connection once everything is acknowledged.
    fn disconnect(&mut self, id: PeerId, reason: &str) {
        match self.peers.get_mut(&id) {
            Some(peer) if peer.stage == Stage::Open => {
                peer.stage = Stage::Closing { deadline: Instant::now() + FLUSH_TIMEOUT, flushed: false };
                self.settle(id);
            }
            Some(peer) if matches!(peer.stage, Stage::Handshake { .. }) => self.end(id, reason),
            _ => {}
        }
    }

    /// Ends a connection now.
    fn end(&mut self, id: PeerId, reason: &str) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.link.end(reason.into(), &mut self.outbox);
            self.settle(id);
        }
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((at, id))) = self.timers.peek() {
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.timer == Some(at)) else {
                continue;
            };
            peer.timer = None;
            match peer.stage {
                Stage::Handshake { deadline } if deadline <= now => {
                    self.end(id, "the handshake took too long");
                    continue;
                }
                Stage::Closing { deadline, .. } if deadline <= now => {
                    self.end(id, "disconnected by the server");
                    continue;
                }
                _ => {}
            }
            if peer.link.timeout() <= now {
                peer.link.tick(now, &mut self.outbox);
            }
            self.settle(id);
        }
    }

    /// Carries out what a call to the peer's connection left in the outbox, and sets its timer.
    fn settle(&mut self, id: PeerId) {
        let mut outbox = mem::take(&mut self.outbox);
        self.transmit(&mut outbox);
        for event in outbox.events.drain(..) {
            self.link_event(id, event);
        }
        // Reusing it saves two allocations a message.
        self.outbox = outbox;

        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let now = Instant::now();
        if let Stage::Closing { deadline, flushed: false } = peer.stage
            && peer.link.is_flushed()
        {
            peer.stage = Stage::Closing { deadline: deadline.min(now + LINGER), flushed: true };
        }
        let deadline = match peer.stage {
            Stage::Open => None,
            Stage::Handshake { deadline } | Stage::Closing { deadline, .. } => Some(deadline),
        };
        let wanted = deadline.map_or(peer.link.timeout(), |deadline| deadline.min(peer.link.timeout()));
        let wanted = wanted.max(now + TIMER_MIN);
        // A timer that fires too early sets itself again; only an earlier one needs an entry of its own.
        if wanted < now + TIMER_MAX && peer.timer.is_none_or(|timer| wanted < timer) {
            peer.timer = Some(wanted);
            self.timers.push(Reverse((wanted, id)));
        }
    }

    fn transmit(&mut self, outbox: &mut Outbox) {
        for packet in outbox.packets.drain(..) {
            match self.socket.try_send_to(&packet.contents, packet.destination) {
                Ok(length) => {
                    Counters::add(&self.counters.packets_out, 1);
                    Counters::add(&self.counters.bytes_out, length);
                }
                // Lost like any other packet: what must arrive is sent again.
                Err(error) => {
                    Counters::add(&self.counters.packets_refused, 1);
                    tracing::debug!(%error, "a packet was not sent");
                }
            }
        }
    }

    fn link_event(&mut self, id: PeerId, event: LinkEvent) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        match event {
            LinkEvent::Open => {
                peer.stage = Stage::Open;
                peer.admission.handshake_done();
                peer.meter = self.limits.rates.map(|rates| Meter::new(rates, self.started.elapsed()));
                let ticket = peer.ticket;
                self.counters.connections_open.fetch_add(1, Ordering::Relaxed);
                Counters::add(&self.counters.connections_total, 1);
                if !(self.sink)(TransportEvent::Connected { peer: id, ticket }) {
                    self.remove(id, None);
                }
            }
            // Nothing is expected of a peer that is being sent away.
            LinkEvent::Message { .. } if peer.stage != Stage::Open => {}
            LinkEvent::Message { channel, bytes } => {
                let measured = match &mut peer.meter {
                    Some(meter) => meter.take(self.started.elapsed(), Class::of(channel, &bytes)),
                    None => Measured::Within,
                };
                let offence = if bytes.len() > self.limits.bytes_max {
                    Some(Offence::TooLarge(bytes.len()))
                } else {
                    (measured == Measured::Flooding).then_some(Offence::Flooding)
                };
                if peer.muted || measured == Measured::Over && channel == CHANNEL_STATE {
                    return Counters::add(&self.counters.messages_flooded, 1);
                }
                if let Some(offence) = offence {
                    Counters::add(&self.counters.messages_flooded, 1);
                    peer.muted = true;
                    if !(self.sink)(TransportEvent::Offence { peer: id, offence }) {
                        self.remove(id, Some("the server's queue is full".into()));
                    }
                    return;
                }
                if !(self.sink)(TransportEvent::Message { peer: id, channel, bytes }) {
                    Counters::add(&self.counters.messages_dropped, 1);
                    if channel != CHANNEL_STATE {
                        self.remove(id, Some("the server's queue is full".into()));
                    }
                }
            }
            LinkEvent::Ended(reason) => self.remove(id, Some(reason)),
        }
    }

    /// Forgets a peer, and reports it for `reason` unless there is none or it was never reported connected.
    fn remove(&mut self, id: PeerId, reason: Option<String>) {
        let Some(mut peer) = self.peers.remove(&id) else {
            return;
        };
        self.by_fragment.remove(&peer.fragment);
        for address in &peer.addresses {
            if self.by_address.get(address) == Some(&id) {
                self.by_address.remove(address);
            }
        }
        let mut farewell = Outbox::default();
        peer.link.end("removed".into(), &mut farewell);
        self.transmit(&mut farewell);
        if matches!(peer.stage, Stage::Handshake { .. }) {
            tracing::debug!(peer = id.0, ?reason, "a handshake failed");
            Counters::add(&self.counters.handshakes_failed, 1);
            return;
        }
        self.counters.connections_open.fetch_sub(1, Ordering::Relaxed);
        // The WebSocket closes some time after this; a matchbox client that misses the closing packet knows by it.
        let _ = peer.to_socket.try_send(PeerEvent::PeerLeft(self.id));
        if let Some(reason) = reason {
            self.unreported.push_back(TransportEvent::Disconnected { peer: id, reason });
            self.report_again();
        }
    }

    fn report_again(&mut self) {
        while let Some(event) = self.unreported.front() {
            if !(self.sink)(event.clone()) {
                return;
            }
            self.unreported.pop_front();
        }
    }
}

/// The local fragment of the user name of a STUN binding request.
fn stun_fragment(packet: &[u8]) -> Option<String> {
    // Anybody can send anything here, before any connection vouches for it: a fault in the parser must not end the worker.
    catch_unwind(|| {
        let message = StunMessage::parse(packet).ok()?;
        if !message.is_binding_request() {
            return None;
        }
        message.split_username().map(|(local, _)| local.to_string())
    })
    .ok()?
}

/// A fresh certificate for DTLS.
pub(super) fn make_certificate() -> Option<DtlsCert> {
    from_feature_flags().dtls_provider.generate_certificate()
}
