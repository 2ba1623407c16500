//! All clients of one shard, without I/O: transport events and time in, inputs for the simulation and transport commands out.
//!
//! Once per tick the shard calls, in this order: [`Server::take_inputs`], the tick, [`Server::after_tick`]; whenever storage
//! says so, [`Server::frames_durable`]; and after any of them [`Server::take_commands`].
//!
//! Invariants: a player has at most one connection (the newest wins); results and a player's belongings are told only once
//! they are durable (what stands in the world is shown to those near at once); a
//! client that breaks the protocol is told why and costs nobody else anything.

use crate::gate::OutputGate;
use crate::pose_relay::{PoseRelay, PoseRelayConfig};
use crate::prediction::input::{Due, InputBuffer};
use crate::replication::{Delivery, Replication, ReplicationConfig, Viewer};
use crate::session::{Limits, Session, Stage, Verdict};
use crate::transport::{PeerId, TransportCommand, TransportEvent};
use std::collections::BTreeMap;
use std::time::Duration;
use vsekai_schema::id::{EntityId, PlayerKey};
use vsekai_schema::wire::steps::write_steps_feedback;
use vsekai_schema::wire::view::write_pong;
use vsekai_schema::wire::{
    CHANNEL_COMMAND, CHANNEL_STATE, Input, Outcome, PROTOCOL_VERSION, PlayerInput, Refusal, Rejection, ServerMessage,
    encode,
};
use vsekai_sim::port::{QueueFull, TickOutput, WorldView};

/// What the server must know of the shard.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Ticks per second.
    pub tick_hz: u8,
    /// Most players at once.
    pub players_max: usize,
    /// How much a client may send.
    pub limits: Limits,
    /// How far and how often clients are told.
    pub replication: ReplicationConfig,
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
    /// Poses handed on, to anybody.
    pub poses_relayed: u64,
    /// Poses that were not believed, could not be read, or came too fast.
    pub poses_dropped: u64,
    /// Bytes handed to the transport on the state channel.
    pub state_bytes: u64,
    /// Bytes handed to the transport on the command channel.
    pub command_bytes: u64,
}

#[derive(Debug)]
struct Connection {
    session: Session,
    key: Option<PlayerKey>,
    viewer: Option<Viewer>,
    newest_input: u32,
    /// Movements of a client that makes one per tick.
    steps: InputBuffer,
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
    connections: BTreeMap<PeerId, Connection>,
    by_key: BTreeMap<PlayerKey, PeerId>,
    by_player: BTreeMap<EntityId, PeerId>,
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
    /// Without clients.
    pub fn new(config: ServerConfig, facts: WorldFacts) -> Self {
        let replication = Replication::new(config.replication);
        Server {
            config,
            facts,
            connections: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_player: BTreeMap::new(),
            replication,
            poses: PoseRelay::new(PoseRelayConfig::default()),
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
        self.counts
    }

    /// Players in the world or entering it.
    pub fn player_count(&self) -> usize {
        self.by_key.len()
    }

    /// Takes one event of the transport.
    pub fn receive(&mut self, now: Duration, event: TransportEvent) {
        self.now = self.now.max(now);
        match event {
            TransportEvent::Connected { peer } => {
                let session = Session::new(self.config.limits, self.config.tick_hz, now);
                self.connections.insert(
                    peer,
                    Connection { session, key: None, viewer: None, newest_input: 0, steps: InputBuffer::default() },
                );
            }
            TransportEvent::Disconnected { peer, .. } => self.forget(peer),
            TransportEvent::Message { peer, channel, bytes } => {
                if let Some(connection) = self.connections.get_mut(&peer) {
                    let verdict = connection.session.receive(now, channel, &bytes);
                    self.carry_out(peer, verdict);
                }
            }
        }
    }

    /// Ends the connections that were silent for too long. Cheap; call it about once a second.
    pub fn check_silence(&mut self, now: Duration) {
        let verdicts: Vec<_> = self
            .connections
            .iter()
            .map(|(peer, connection)| (*peer, connection.session.check_silence(now)))
            .filter(|(_, verdict)| *verdict != Verdict::Ignore)
            .collect();
        for (peer, verdict) in verdicts {
            self.carry_out(peer, verdict);
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
                    self.send_to(player, &ServerMessage::Result { sequence, frame: 0, outcome });
                }
                None => self.counts.moves_dropped += 1,
            }
        }
    }

    /// Takes what a tick gave: who entered, results, and what everybody is to be told.
    pub fn after_tick(&mut self, view: &WorldView<'_>, output: &TickOutput) {
        self.tick = output.frame;
        for joined in &output.joined {
            let Some(peer) = self.by_key.get(&joined.key).copied() else {
                // Gone again before the tick: the body must not stay.
                let leave = |player| PlayerInput { player, input: Input::Leave };
                self.inputs.extend(joined.player.map(leave));
                continue;
            };
            match joined.player {
                Some(player) => {
                    self.by_player.insert(player, peer);
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
            replication.update(view, output, viewer, newest_input, &mut |delivery, bytes| {
                let channel = match delivery {
                    Delivery::WhenDurable => {
                        return gate.hold(output.frame, Held::View { peer: *peer, bytes });
                    }
                    Delivery::Reliable => CHANNEL_COMMAND,
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
                    if self.connections.contains_key(&peer) {
                        self.send(peer, CHANNEL_COMMAND, bytes);
                    }
                }
                Held::Result { player, sequence, outcome } => {
                    self.send_to(player, &ServerMessage::Result { sequence, frame, outcome });
                }
            }
        }
    }

    /// What the transport is to do.
    pub fn take_commands(&mut self) -> Vec<TransportCommand> {
        for (player, bytes) in self.poses.take_datagrams() {
            if let Some(peer) = self.by_player.get(&player) {
                push_send(&mut self.commands, &mut self.counts, *peer, CHANNEL_STATE, bytes);
            }
        }
        std::mem::take(&mut self.commands)
    }

    fn carry_out(&mut self, peer: PeerId, verdict: Verdict) {
        match verdict {
            Verdict::Ignore => {}
            Verdict::Enter { key, name } => self.enter(peer, key, name),
            Verdict::Move { player, step, acknowledged } => {
                if let Some(connection) = self.connections.get_mut(&peer) {
                    connection.newest_input = connection.newest_input.max(step.sequence);
                    if let Some(viewer) = &mut connection.viewer {
                        viewer.acknowledge(acknowledged);
                    }
                }
                self.inputs.push(PlayerInput { player, input: Input::Move(step) });
            }
            Verdict::Steps { player: _, steps, acknowledged } => {
                let Some(connection) = self.connections.get_mut(&peer) else { return };
                if let Some(viewer) = &mut connection.viewer {
                    viewer.acknowledge(acknowledged);
                }
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
                self.inputs.push(PlayerInput { player, input: Input::Command { sequence, command } });
            }
            Verdict::TooFrequent { sequence } => {
                self.counts.too_frequent += 1;
                let outcome = Outcome::Rejected(Rejection::TooFrequent);
                self.send(peer, CHANNEL_COMMAND, encode(&ServerMessage::Result { sequence, frame: 0, outcome }));
            }
            Verdict::Pong { nonce, acknowledged } => {
                if let Some(viewer) = self.connections.get_mut(&peer).and_then(|c| c.viewer.as_mut()) {
                    viewer.acknowledge(acknowledged);
                }
                self.send(peer, CHANNEL_STATE, write_pong(nonce, self.tick));
            }
            Verdict::Leave => {
                self.commands.push(TransportCommand::Disconnect { peer });
                self.forget(peer);
            }
            Verdict::Refuse { reason, message } => self.refuse(peer, reason, message),
        }
    }

    fn enter(&mut self, peer: PeerId, key: PlayerKey, name: String) {
        if let Some(older) = self.by_key.get(&key).copied() {
            // The newest connection wins. The body stays in the world: only the connection changes.
            let player = self.by_player.iter().find(|(_, p)| **p == older).map(|(player, _)| *player);
            if let Some(player) = player {
                self.by_player.remove(&player);
            }
            self.by_key.remove(&key);
            self.refuse(older, Refusal::JoinedElsewhere, Refusal::JoinedElsewhere.to_string());
        } else if self.by_key.len() >= self.config.players_max {
            let message = format!("the shard holds its {} players already", self.config.players_max);
            return self.refuse(peer, Refusal::ServerFull, message);
        }
        if let Some(connection) = self.connections.get_mut(&peer) {
            connection.key = Some(key);
        }
        self.by_key.insert(key, peer);
        self.inputs.push(PlayerInput { player: EntityId::WORLD, input: Input::Join { key, name } });
    }

    fn welcome(&mut self, peer: PeerId, player: EntityId, last_command: u32) {
        // The connection may have ended, or a newer one have taken over, while the frame became durable.
        if self.by_player.get(&player) != Some(&peer) {
            return;
        }
        let Some(connection) = self.connections.get_mut(&peer) else { return };
        connection.session.entered(player);
        connection.viewer = Some(Viewer::new(player));
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
    }

    fn refuse(&mut self, peer: PeerId, reason: Refusal, message: String) {
        self.counts.refused += 1;
        tracing::debug!(peer = peer.0, ?reason, message, "connection refused");
        self.send(peer, CHANNEL_COMMAND, encode(&ServerMessage::Refused { reason, message }));
        self.commands.push(TransportCommand::Disconnect { peer });
        self.forget(peer);
    }

    /// The connection is over; its player leaves the world, unless a newer connection plays it.
    fn forget(&mut self, peer: PeerId) {
        let Some(connection) = self.connections.remove(&peer) else { return };
        if let Some(key) = connection.key.filter(|key| self.by_key.get(key) == Some(&peer)) {
            self.by_key.remove(&key);
        }
        let player = match connection.session.stage() {
            Stage::Playing(player) => Some(player),
            _ => self.by_player.iter().find(|(_, p)| **p == peer).map(|(player, _)| *player),
        };
        if let Some(player) = player.filter(|player| self.by_player.get(player) == Some(&peer)) {
            self.by_player.remove(&player);
            self.inputs.push(PlayerInput { player, input: Input::Leave });
        }
    }

    fn send_to(&mut self, player: EntityId, message: &ServerMessage) {
        if let Some(peer) = self.by_player.get(&player).copied() {
            self.send(peer, CHANNEL_COMMAND, encode(message));
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
