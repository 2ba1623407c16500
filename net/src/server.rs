//! All clients of one shard, without I/O: transport events and time in, inputs for the simulation and transport commands out.
//!
//! Once per tick the shard calls, in this order: [`Server::take_inputs`], the tick, [`Server::after_tick`]; whenever storage
//! says so, [`Server::frames_durable`]; and after any of them [`Server::take_commands`].
//!
//! A player who loses the connection stays in the world for a while and can come back to it: what outlives a connection is the
//! player's `Seat`.
//!
//! Invariants: a player has at most one connection (the newest wins); a session's results are told exactly once, in the order in
//! which they became known, over however many connections; results and a player's belongings are told only once
//! they are durable (what stands in the world is shown to those near at once); a
//! client that breaks the protocol is told why and costs nobody else anything.

use crate::gate::OutputGate;
use crate::porter::{Porter, Ticket};
use crate::pose_relay::{PoseRelay, PoseRelayConfig};
use crate::prediction::input::{Due, InputBuffer};
use crate::replication::{Counts, Delivery, Replication, ReplicationConfig, Viewer};
use crate::session::{Limits, Session, Stage, Verdict};
use crate::transport::{Offence, PeerId, TransportCommand, TransportEvent};
use seat::{Results, Seat};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use vsekai_schema::id::{EntityId, PlayerKey};
use vsekai_schema::wire::motion::Acks;
use vsekai_schema::wire::steps::write_steps_feedback;
use vsekai_schema::wire::view::write_pong;
use vsekai_schema::wire::{
    CHANNEL_COMMAND, CHANNEL_STATE, CLIENT_MESSAGE_BYTES_MAX, Input, Outcome, PROTOCOL_VERSION, PlayerInput, Refusal,
    Rejection, ResumeSecret, ServerMessage, encode,
};
use vsekai_sim::port::{QueueFull, TickOutput, WorldView};

mod seat;
pub use seat::RESULTS_KEPT_MAX;

/// What the server must know of the shard.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Ticks per second.
    pub tick_hz: u8,
    /// Most players at once.
    pub players_max: usize,
    /// How much a client may send.
    pub limits: Limits,
    /// For how long a player whose connection was lost stays in the world. Zero: not at all.
    pub resume: Duration,
    /// How far and how often clients are told.
    pub replication: ReplicationConfig,
    /// How far heads and hands are told, and how much of them.
    pub poses: PoseRelayConfig,
}

/// What every welcome carries.
#[derive(Debug, Clone)]
pub struct WorldFacts {
    /// Seed of the terrain.
    pub seed: u64,
    /// Half of the world's side, millimetres.
    pub half_mm: i32,
    /// The catalogue as JSON.
    pub content: String,
}

/// Counts since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerCounts {
    /// Connections refused or ended by the server, for any reason.
    pub refused: u64,
    /// Commands refused at the door.
    pub too_frequent: u64,
    /// Commands that were executed.
    pub commands_done: u64,
    /// Commands that the simulation rejected.
    pub commands_rejected: u64,
    /// Movements dropped because the queue was full.
    pub moves_dropped: u64,
    /// Sessions that went on over another connection.
    pub resumed: u64,
    /// Players who did not come back in time.
    pub not_resumed: u64,
    /// Connections ended for flooding.
    pub flooded: u64,
    /// Players removed by operators.
    pub kicked: u64,
    /// Poses handed on, to anybody.
    pub poses_relayed: u64,
    /// Poses that were not believed, could not be read, or came too fast.
    pub poses_dropped: u64,
    /// Bytes handed to the transport on the state channel.
    pub state_bytes: u64,
    /// Bytes handed to the transport on the command channel.
    pub command_bytes: u64,
    /// What replication told.
    pub replication: Counts,
}

#[derive(Debug)]
struct Connection {
    session: Session,
    ticket: Option<Ticket>,
    key: Option<PlayerKey>,
    viewer: Option<Viewer>,
    newest_input: u32,
    /// Views that wait for durability. The first one does, since it shows belongings; what comes behind must not overtake it.
    held_views: u32,
    viewed: bool,
    /// Movements of a client that makes one per tick.
    steps: InputBuffer,
}

/// A player, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlayerLine {
    /// Who.
    pub key: PlayerKey,
    /// Display name.
    pub name: String,
    /// The body, once it is in the world.
    pub player: Option<EntityId>,
    /// Lost the connection, and may come back.
    pub away: bool,
}

/// Every how many ticks a client is told how its steps come.
const STEPS_FEEDBACK_TICKS: u64 = 6;

/// What waits for durability.
#[derive(Debug)]
enum Held {
    Welcome { peer: PeerId, player: EntityId, last_command: u32 },
    Result { player: EntityId, sequence: u32, outcome: Outcome },
    View { peer: PeerId, bytes: Vec<u8> },
}

/// The clients.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    facts: WorldFacts,
    porter: Arc<Porter>,
    connections: BTreeMap<PeerId, Connection>,
    seats: BTreeMap<PlayerKey, Seat>,
    by_player: BTreeMap<EntityId, PlayerKey>,
    replication: Replication,
    poses: PoseRelay,
    gate: OutputGate<Held>,
    inputs: Vec<PlayerInput>,
    commands: Vec<TransportCommand>,
    counts: ServerCounts,
    tick: u64,
    /// Time of the newest event.
    now: Duration,
}

impl Server {
    /// Without clients. Asks `porter` about those who come.
    pub fn new(config: ServerConfig, facts: WorldFacts, porter: Arc<Porter>) -> Self {
        let replication = Replication::new(config.replication);
        let poses = PoseRelay::new(config.poses);
        Server {
            config,
            facts,
            porter,
            connections: BTreeMap::new(),
            seats: BTreeMap::new(),
            by_player: BTreeMap::new(),
            replication,
            poses,
            gate: OutputGate::default(),
            inputs: Vec::new(),
            commands: Vec::new(),
            counts: ServerCounts::default(),
            tick: 0,
            now: Duration::ZERO,
        }
    }

    /// Counts since the start.
    pub fn counts(&self) -> ServerCounts {
        ServerCounts { replication: self.replication.counts(), ..self.counts }
    }

    /// Players in the world or entering it, those included that lost their connection and may come back.
    pub fn player_count(&self) -> usize {
        self.seats.len()
    }

    /// Players that lost their connection and may come back.
    pub fn away_count(&self) -> usize {
        self.seats.values().filter(|seat| seat.away_since.is_some()).count()
    }

    /// All players, for operators.
    pub fn players(&self) -> Vec<PlayerLine> {
        let line = |(key, seat): (&PlayerKey, &Seat)| PlayerLine {
            key: *key,
            name: seat.name.clone(),
            player: seat.player,
            away: seat.away_since.is_some(),
        };
        self.seats.iter().map(line).collect()
    }

    /// Removes a player and says why; false when there is none. Nothing keeps the player from coming again but the porter.
    pub fn remove(&mut self, key: PlayerKey, reason: Refusal, message: &str) -> bool {
        let Some(seat) = self.seats.get(&key) else { return false };
        self.counts.kicked += 1;
        match seat.peer {
            Some(peer) => self.refuse(peer, reason, message.to_string()),
            None => self.vacate(key),
        }
        true
    }

    /// Takes one event of the transport.
    pub fn receive(&mut self, now: Duration, event: TransportEvent) {
        self.now = self.now.max(now);
        match event {
            TransportEvent::Connected { peer, ticket } => {
                let session = Session::new(self.config.limits, self.config.tick_hz, now);
                let connection = Connection {
                    session,
                    ticket,
                    key: None,
                    viewer: None,
                    newest_input: 0,
                    held_views: 0,
                    viewed: false,
                    steps: InputBuffer::default(),
                };
                self.connections.insert(peer, connection);
            }
            TransportEvent::Disconnected { peer, .. } => self.lose(now, peer),
            TransportEvent::Offence { peer, offence: Offence::Flooding } => {
                self.refuse(peer, Refusal::Flooding, Refusal::Flooding.to_string());
            }
            TransportEvent::Offence { peer, offence: Offence::TooLarge(length) } => {
                let message = format!("a message of {length} bytes; at most {CLIENT_MESSAGE_BYTES_MAX} are allowed");
                self.refuse(peer, Refusal::TooLarge, message);
            }
            TransportEvent::Message { peer, channel, bytes } => {
                if let Some(connection) = self.connections.get_mut(&peer) {
                    let verdict = connection.session.receive(now, channel, &bytes);
                    self.carry_out(now, peer, verdict);
                }
            }
        }
    }

    /// Ends the connections that were silent for too long, and lets those players go that did not come back. Cheap; call it
    /// about once a second.
    pub fn check_silence(&mut self, now: Duration) {
        let verdicts: Vec<_> = self
            .connections
            .iter()
            .map(|(peer, connection)| (*peer, connection.session.check_silence(now)))
            .filter(|(_, verdict)| *verdict != Verdict::Ignore)
            .collect();
        for (peer, verdict) in verdicts {
            self.carry_out(now, peer, verdict);
        }
        let too_long = |since: Duration| now.saturating_sub(since) > self.config.resume;
        let gone = self.seats.iter().filter(|(_, seat)| seat.away_since.is_some_and(too_long));
        for key in gone.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.counts.not_resumed += 1;
            self.vacate(key);
        }
    }

    /// Tells everybody why and ends all connections.
    pub fn refuse_all(&mut self, reason: Refusal) {
        let peers: Vec<PeerId> = self.connections.keys().copied().collect();
        for peer in peers {
            self.refuse(peer, reason, reason.to_string());
        }
    }

    /// Hands the inputs that arrived to the simulation.
    pub fn take_inputs(&mut self, mut submit: impl FnMut(PlayerInput) -> Result<(), QueueFull>) {
        for connection in self.connections.values_mut() {
            let Stage::Playing(player) = connection.session.stage() else { continue };
            if let Due::Arrived(step) | Due::Repeated(step) = connection.steps.due() {
                connection.newest_input = step.sequence;
                self.inputs.push(PlayerInput { player, input: Input::Move(step) });
            }
        }
        for input in std::mem::take(&mut self.inputs) {
            let command = match &input.input {
                Input::Command { sequence, .. } => Some((input.player, *sequence)),
                _ => None,
            };
            if submit(input).is_ok() {
                continue;
            }
            match command {
                Some((player, sequence)) => {
                    let outcome = Outcome::Rejected(Rejection::Busy);
                    self.tell_result(player, sequence, 0, outcome);
                }
                None => self.counts.moves_dropped += 1,
            }
        }
    }

    /// Takes what a tick gave: who entered, results, and what everybody is to be told.
    pub fn after_tick(&mut self, view: &WorldView<'_>, output: &TickOutput) {
        self.tick = output.frame;
        for joined in &output.joined {
            let Some(seat) = self.seats.get_mut(&joined.key) else {
                // Gone again before the tick: the body must not stay.
                let leave = |player| PlayerInput { player, input: Input::Leave };
                self.inputs.extend(joined.player.map(leave));
                continue;
            };
            let Some(peer) = seat.peer else { continue };
            match joined.player {
                Some(player) => {
                    seat.player = Some(player);
                    self.by_player.insert(player, joined.key);
                    self.gate.hold(output.frame, Held::Welcome { peer, player, last_command: joined.last_command });
                }
                None => self.refuse(peer, Refusal::ServerFull, "the shard has no room for a new player now".into()),
            }
        }
        for result in &output.results {
            let count = match result.outcome {
                Outcome::Done { .. } => &mut self.counts.commands_done,
                Outcome::Rejected(_) => &mut self.counts.commands_rejected,
            };
            *count += 1;
            let outcome = result.outcome.clone();
            self.gate.hold(output.frame, Held::Result { player: result.player, sequence: result.sequence, outcome });
        }
        let places = self.by_player.keys().filter_map(|player| Some((*player, view.position(*player)?)));
        self.poses.set_places(self.now, places);
        self.replication.begin_tick(view, output);
        let Server { connections, replication, commands, counts, gate, .. } = self;
        for (peer, connection) in connections {
            let Some(viewer) = &mut connection.viewer else { continue };
            // As often as a round trip or so: the client changes its pace in seconds.
            let due = (output.frame + peer.0).is_multiple_of(STEPS_FEEDBACK_TICKS);
            if let Some(feedback) = connection.steps.feedback().filter(|_| due) {
                let bytes = write_steps_feedback(feedback.taken, feedback.slack);
                push_send(commands, counts, *peer, CHANNEL_STATE, bytes);
            }
            let newest_input = connection.newest_input;
            let wait = !connection.viewed || connection.held_views > 0;
            let held_views = &mut connection.held_views;
            connection.viewed = true;
            replication.update(view, output, viewer, newest_input, &mut |delivery, bytes| {
                let channel = match delivery {
                    Delivery::Reliable if !wait => CHANNEL_COMMAND,
                    Delivery::WhenDurable | Delivery::Reliable => {
                        *held_views += 1;
                        return gate.hold(output.frame, Held::View { peer: *peer, bytes });
                    }
                    Delivery::Datagram => CHANNEL_STATE,
                };
                push_send(commands, counts, *peer, channel, bytes);
            });
        }
    }

    /// Every frame up to `frame` is durable: what waited for it goes out.
    pub fn frames_durable(&mut self, frame: u64) {
        self.gate.durable(frame);
        while let Some((frame, held)) = self.gate.release() {
            match held {
                Held::Welcome { peer, player, last_command } => self.welcome(peer, player, last_command),
                Held::View { peer, bytes } => {
                    if let Some(connection) = self.connections.get_mut(&peer) {
                        connection.held_views -= 1;
                        self.send(peer, CHANNEL_COMMAND, bytes);
                    }
                }
                Held::Result { player, sequence, outcome } => {
                    self.tell_result(player, sequence, frame, outcome);
                }
            }
        }
    }

    /// What the transport is to do.
    pub fn take_commands(&mut self) -> Vec<TransportCommand> {
        for (player, bytes) in self.poses.take_datagrams() {
            let seat = self.by_player.get(&player).and_then(|key| self.seats.get(key));
            if let Some(peer) = seat.and_then(|seat| seat.peer) {
                push_send(&mut self.commands, &mut self.counts, peer, CHANNEL_STATE, bytes);
            }
        }
        std::mem::take(&mut self.commands)
    }

    fn carry_out(&mut self, now: Duration, peer: PeerId, verdict: Verdict) {
        match verdict {
            Verdict::Ignore => {}
            Verdict::Enter { token, name } => self.enter(now, peer, &token, name),
            Verdict::Resume { secret, results } => self.resume(peer, secret, results),
            Verdict::Seen { results } => {
                if let Some(seat) = self.seat_of(peer) {
                    seat.results.arrived(results);
                }
            }
            Verdict::Move { player, step, acks } => {
                if let Some(connection) = self.connections.get_mut(&peer) {
                    connection.newest_input = connection.newest_input.max(step.sequence);
                }
                self.acknowledge(peer, acks);
                self.inputs.push(PlayerInput { player, input: Input::Move(step) });
            }
            Verdict::Steps { player: _, steps, acks } => {
                self.acknowledge(peer, acks);
                let Some(connection) = self.connections.get_mut(&peer) else { return };
                if let Err(refused) = connection.steps.receive(&steps) {
                    self.refuse(peer, Refusal::Malformed, refused.to_string());
                }
            }
            Verdict::Pose { player, pose } => match self.poses.receive(self.now, player, &pose) {
                Ok(_) => self.counts.poses_relayed += 1,
                Err(dropped) => {
                    self.counts.poses_dropped += 1;
                    tracing::trace!(player = player.0, %dropped, "a pose was dropped");
                }
            },
            Verdict::Command { player, sequence, command } => {
                if let Some(seat) = self.seat_of(peer) {
                    seat.received = sequence;
                }
                self.inputs.push(PlayerInput { player, input: Input::Command { sequence, command } });
            }
            Verdict::TooFrequent { sequence } => {
                self.counts.too_frequent += 1;
                if let Some(seat) = self.seat_of(peer) {
                    seat.received = sequence;
                    if let Some(player) = seat.player {
                        self.tell_result(player, sequence, 0, Outcome::Rejected(Rejection::TooFrequent));
                    }
                }
            }
            Verdict::Pong { nonce, acks } => {
                self.acknowledge(peer, acks);
                self.send(peer, CHANNEL_STATE, write_pong(nonce, self.tick));
            }
            Verdict::Leave => {
                self.commands.push(TransportCommand::Disconnect { peer });
                self.forget(peer);
            }
            // The network may be to blame: the player may come back.
            Verdict::Refuse { reason: Refusal::TimedOut, message } => {
                self.say_refused(peer, Refusal::TimedOut, message);
                self.lose(now, peer);
            }
            Verdict::Refuse { reason, message } => self.refuse(peer, reason, message),
        }
    }

    fn acknowledge(&mut self, peer: PeerId, acks: Option<Acks>) {
        let viewer = self.connections.get_mut(&peer).and_then(|connection| connection.viewer.as_mut());
        if let (Some(viewer), Some(acks)) = (viewer, acks) {
            self.replication.acknowledge(viewer, acks);
        }
    }

    fn enter(&mut self, now: Duration, peer: PeerId, token: &str, name: String) {
        let Some(connection) = self.connections.get(&peer) else { return };
        let claims = match self.porter.read(now, connection.ticket, token) {
            Ok(claims) => claims,
            Err(turned) => return self.refuse(peer, turned.refusal(), turned.to_string()),
        };
        let key = claims.player;
        if !self.seats.contains_key(&key) && self.seats.len() >= self.config.players_max && !self.make_room() {
            let message = format!("the shard holds its {} players already", self.config.players_max);
            return self.refuse(peer, Refusal::ServerFull, message);
        }
        if let Err(turned) = self.porter.spend(now, &claims) {
            return self.refuse(peer, turned.refusal(), turned.to_string());
        }
        if let Some(connection) = self.connections.get_mut(&peer) {
            connection.key = Some(key);
        }
        let older = self.seats.remove(&key);
        let seat = Seat {
            peer: Some(peer),
            away_since: None,
            // The body stays in the world: only the connection changes.
            player: older.as_ref().and_then(|older| older.player),
            name: name.clone(),
            secret: self.porter.open_session(key),
            received: 0,
            newest_input: 0,
            results: Results::default(),
        };
        self.seats.insert(key, seat);
        if let Some(older) = older {
            self.porter.close_session(older.secret);
            if let Some(older) = older.peer {
                self.refuse(older, Refusal::JoinedElsewhere, Refusal::JoinedElsewhere.to_string());
            }
        }
        self.inputs.push(PlayerInput { player: EntityId::WORLD, input: Input::Join { key, name } });
    }

    /// Lets the player go who has been away for longest, if any is.
    fn make_room(&mut self) -> bool {
        let away = self.seats.iter().filter_map(|(key, seat)| Some((seat.away_since?, *key)));
        let Some((_, key)) = away.min() else { return false };
        self.counts.not_resumed += 1;
        self.vacate(key);
        true
    }

    fn welcome(&mut self, peer: PeerId, player: EntityId, last_command: u32) {
        // The connection may have ended, or a newer one have taken over, while the frame became durable.
        let Some(connection) = self.connections.get_mut(&peer) else { return };
        let seat = self.by_player.get(&player).and_then(|key| self.seats.get_mut(key));
        let Some(seat) = seat.filter(|seat| seat.peer == Some(peer)) else { return };
        if connection.session.stage() != Stage::Entering {
            return;
        }
        connection.session.entered(player);
        connection.viewer = Some(Viewer::new(player, self.replication.config()));
        seat.received = last_command;
        let secret = seat.secret;
        let welcome = ServerMessage::Welcome {
            protocol: PROTOCOL_VERSION,
            tick_hz: self.config.tick_hz,
            tick: self.tick,
            player,
            seed: self.facts.seed,
            world_half_mm: self.facts.half_mm,
            last_command,
            content: self.facts.content.clone(),
        };
        self.send(peer, CHANNEL_COMMAND, encode(&welcome));
        let seconds = self.config.resume.as_secs().try_into().unwrap_or(u16::MAX);
        self.send(peer, CHANNEL_COMMAND, encode(&ServerMessage::Resumable { secret, seconds }));
    }

    fn resume(&mut self, peer: PeerId, secret: ResumeSecret, results: u32) {
        let Some(connection) = self.connections.get_mut(&peer) else { return };
        let key = match self.porter.find(connection.ticket, secret) {
            Ok(key) => key,
            Err(turned) => return self.refuse(peer, turned.refusal(), turned.to_string()),
        };
        let Some(seat) = self.seats.get_mut(&key) else {
            return self.refuse(peer, Refusal::NotResumable, Refusal::NotResumable.to_string());
        };
        let (Some(player), Some(missed)) = (seat.player, seat.results.since(results)) else {
            let message = "the session cannot be resumed: its results are not known any more".into();
            return self.refuse(peer, Refusal::NotResumable, message);
        };
        let missed: Vec<Vec<u8>> = missed.cloned().collect();
        connection.key = Some(key);
        connection.newest_input = seat.newest_input;
        connection.session.entered(player);
        // Who comes back is told everything anew.
        connection.viewer = Some(Viewer::new(player, self.replication.config()));
        let older = seat.peer.replace(peer);
        seat.away_since = None;
        let received = seat.received;
        self.counts.resumed += 1;
        if let Some(older) = older {
            if let Some(newest_input) = self.connections.get(&older).map(|connection| connection.newest_input)
                && let Some(connection) = self.connections.get_mut(&peer)
            {
                connection.newest_input = newest_input;
            }
            self.refuse(older, Refusal::JoinedElsewhere, Refusal::JoinedElsewhere.to_string());
        }
        self.send(peer, CHANNEL_COMMAND, encode(&ServerMessage::Resumed { tick: self.tick, received }));
        for message in missed {
            self.send(peer, CHANNEL_COMMAND, message);
        }
    }

    fn refuse(&mut self, peer: PeerId, reason: Refusal, message: String) {
        self.say_refused(peer, reason, message);
        self.forget(peer);
    }

    fn say_refused(&mut self, peer: PeerId, reason: Refusal, message: String) {
        if !self.connections.contains_key(&peer) {
            return;
        }
        self.counts.refused += 1;
        self.counts.flooded += u64::from(reason == Refusal::Flooding);
        tracing::debug!(peer = peer.0, ?reason, message, "connection refused");
        self.send(peer, CHANNEL_COMMAND, encode(&ServerMessage::Refused { reason, message }));
        self.commands.push(TransportCommand::Disconnect { peer });
    }

    /// The connection is over; its player leaves the world, unless a newer connection plays it.
    fn forget(&mut self, peer: PeerId) {
        let key = self.seat_of(peer).is_some().then(|| self.connections.get(&peer)?.key).flatten();
        self.connections.remove(&peer);
        if let Some(key) = key {
            self.vacate(key);
        }
    }

    /// The connection broke; its player stays in the world for a while, unless a newer connection plays it.
    fn lose(&mut self, now: Duration, peer: PeerId) {
        let playing = self.connections.get(&peer).filter(|c| matches!(c.session.stage(), Stage::Playing(_)));
        let Some(newest_input) = playing.map(|connection| connection.newest_input) else {
            return self.forget(peer);
        };
        if self.config.resume.is_zero() {
            return self.forget(peer);
        }
        if let Some(seat) = self.seat_of(peer) {
            seat.peer = None;
            seat.away_since = Some(now);
            seat.newest_input = newest_input;
        }
        self.connections.remove(&peer);
    }

    /// The player leaves the world. A connection that still stands is not touched.
    fn vacate(&mut self, key: PlayerKey) {
        let Some(seat) = self.seats.remove(&key) else { return };
        self.porter.close_session(seat.secret);
        if let Some(player) = seat.player {
            self.by_player.remove(&player);
            self.inputs.push(PlayerInput { player, input: Input::Leave });
        }
    }

    /// The seat that `peer` plays.
    fn seat_of(&mut self, peer: PeerId) -> Option<&mut Seat> {
        let key = self.connections.get(&peer)?.key?;
        self.seats.get_mut(&key).filter(|seat| seat.peer == Some(peer))
    }

    /// Tells a player a result: now, and again after a lost connection if it did not arrive.
    fn tell_result(&mut self, player: EntityId, sequence: u32, frame: u64, outcome: Outcome) {
        let Some(seat) = self.by_player.get(&player).and_then(|key| self.seats.get_mut(key)) else { return };
        let message = encode(&ServerMessage::Result { sequence, frame, outcome });
        seat.results.push(message.clone());
        if let Some(peer) = seat.peer {
            self.send(peer, CHANNEL_COMMAND, message);
        }
    }

    fn send(&mut self, peer: PeerId, channel: usize, bytes: Vec<u8>) {
        push_send(&mut self.commands, &mut self.counts, peer, channel, bytes);
    }
}

fn push_send(
    commands: &mut Vec<TransportCommand>,
    counts: &mut ServerCounts,
    peer: PeerId,
    channel: usize,
    bytes: Vec<u8>,
) {
    let count = if channel == CHANNEL_STATE { &mut counts.state_bytes } else { &mut counts.command_bytes };
    *count += bytes.len() as u64;
    commands.push(TransportCommand::Send { peer, channel, bytes });
}

#[cfg(test)]
mod tests;
