//! The client's side of the protocol, without I/O: what synthetic players and native extensions are built on.
//!
//! Bytes in by [`Client::receive`], bytes out by [`Client::take_outgoing`], what happened by [`Client::poll_event`]; the world as
//! the client knows it is in [`Client::entity`] and [`Client::entities`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use thiserror::Error;
use vsekai_schema::codec::DecodeError;
use vsekai_schema::content::Catalogue;
use vsekai_schema::id::{EntityId, Tag};
use vsekai_schema::wire::pose::{
    BodyPose, PoseDecoder, PoseEncoder, PoseError, ReceivedPose, SERVER_POSES, decode_poses, write_client_pose,
};
use vsekai_schema::wire::steps::{decode_steps_feedback, write_steps};
use vsekai_schema::wire::view::{EntityView, ServerDatagram, decode_server_datagram, decode_view};
use vsekai_schema::wire::{
    CHANNEL_COMMAND, CHANNEL_STATE, ClientDatagram, ClientMessage, Command, MoveInput, Outcome, PROTOCOL_VERSION,
    Refusal, ServerMessage, decode_server_message, encode,
};
use vsekai_sim::port::Declared;

/// What the shard sent cannot be understood; the client ends the connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClientError {
    /// A message cannot be read.
    #[error("a message from the shard")]
    Message(#[from] DecodeError),
    /// The catalogue in the welcome is not JSON of a catalogue.
    #[error("the catalogue in the welcome cannot be read: {0}")]
    Catalogue(String),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// The player stands in the world.
    Welcome(Box<Welcome>),
    /// The shard ended the connection.
    Refused {
        /// Which kind.
        reason: Refusal,
        /// One sentence.
        message: String,
    },
    /// A command has its result.
    Result {
        /// Its number.
        sequence: u32,
        /// What it was.
        command: Option<Command>,
        /// The frame that executed it; 0 when none did.
        frame: u64,
        /// What came of it.
        outcome: Outcome,
        /// From sending to the result.
        latency: Duration,
    },
    /// How the steps that were sent come: for a `prediction::input::Pacer`.
    Steps {
        /// The number taken last.
        taken: u32,
        /// How many ticks before their turn the latest come.
        slack: i8,
    },
    /// Head and hands of somebody near. They come out of order now and then: compare the slots.
    Pose {
        /// Whose.
        player: EntityId,
        /// What, and when.
        received: Box<ReceivedPose>,
    },
    /// A ping came back.
    Pong {
        /// Round-trip time.
        round_trip: Duration,
    },
}

/// What the welcome said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The player's entity.
    pub player: EntityId,
    /// Ticks per second.
    pub tick_hz: u8,
    /// Seed of the terrain.
    pub seed: u64,
    /// Half of the world's side, millimetres.
    pub world_half_mm: i32,
    /// Last command executed in the player's life.
    pub last_command: u32,
    /// What there is in the world.
    pub catalogue: Catalogue,
}

/// One entity as the client knows it: wire bytes by tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownEntity {
    components: BTreeMap<u16, (u64, Vec<u8>)>,
}

impl KnownEntity {
    /// A component, decoded. `None` when it has none, or it cannot be read.
    pub fn get<C: Declared>(&self) -> Option<C> {
        C::read_wire(&self.components.get(&C::TAG)?.1).ok()
    }

    /// The wire bytes of a component.
    pub fn bytes(&self, tag: Tag) -> Option<&[u8]> {
        self.components.get(&tag.0).map(|(_, bytes)| &bytes[..])
    }

    /// Newer values win: a view may arrive behind a snapshot that is younger.
    fn take(&mut self, tick: u64, view: &EntityView<'_>) {
        for (tag, bytes) in &view.components {
            let known = self.components.entry(tag.0).or_default();
            if known.0 <= tick {
                known.0 = tick;
                known.1.clear();
                known.1.extend_from_slice(bytes);
            }
        }
    }
}

/// Parts of a snapshot that have arrived, one bit each.
#[derive(Debug, Default)]
struct Parts {
    tick: u64,
    seen: [u128; 2],
    left: u8,
}

/// The client.
#[derive(Debug)]
pub struct Client {
    welcome: Option<Box<Welcome>>,
    entities: BTreeMap<EntityId, KnownEntity>,
    next_command: u32,
    next_step: u32,
    pending: BTreeMap<u32, (Command, Duration)>,
    pings: BTreeMap<u32, Duration>,
    next_nonce: u32,
    assembling: VecDeque<Parts>,
    acknowledged: u64,
    newest_tick: u64,
    pose_encoder: PoseEncoder,
    pose_decoders: BTreeMap<EntityId, PoseDecoder>,
    events: VecDeque<ClientEvent>,
    outgoing: Vec<(usize, Vec<u8>)>,
}

/// Snapshots that are put together at once; older ones are given up.
const ASSEMBLING_MAX: usize = 8;
/// Pings that are waited for.
const PINGS_MAX: usize = 16;
/// Players whose poses are followed; the shard has fewer in one place.
const POSES_MAX: usize = 1_024;

impl Client {
    /// A client that says hello as the player of `token`.
    pub fn new(token: &str, name: &str) -> Self {
        let hello =
            ClientMessage::Hello { protocol: PROTOCOL_VERSION, token: token.into(), name: name.into(), tick_hz: 0 };
        Client {
            welcome: None,
            entities: BTreeMap::new(),
            next_command: 1,
            next_step: 1,
            pending: BTreeMap::new(),
            pings: BTreeMap::new(),
            next_nonce: 0,
            assembling: VecDeque::new(),
            acknowledged: 0,
            newest_tick: 0,
            pose_encoder: PoseEncoder::default(),
            pose_decoders: BTreeMap::new(),
            events: VecDeque::new(),
            outgoing: vec![(CHANNEL_COMMAND, encode(&hello))],
        }
    }

    /// What the welcome said, once it came.
    pub fn welcome(&self) -> Option<&Welcome> {
        self.welcome.as_deref()
    }

    /// An entity in view.
    pub fn entity(&self, id: EntityId) -> Option<&KnownEntity> {
        self.entities.get(&id)
    }

    /// Everything in view.
    pub fn entities(&self) -> impl Iterator<Item = (EntityId, &KnownEntity)> {
        self.entities.iter().map(|(id, entity)| (*id, entity))
    }

    /// The player's own entity, once it is known.
    pub fn own(&self) -> Option<&KnownEntity> {
        self.entities.get(&self.welcome.as_ref()?.player)
    }

    /// Tick of the newest message about the world.
    pub fn newest_tick(&self) -> u64 {
        self.newest_tick
    }

    /// Commands without a result yet.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Number of the last command that was sent; before the first, of the last one executed in the player's life.
    pub fn last_sequence(&self) -> u32 {
        self.next_command - 1
    }

    /// Walks: the direction, where to look, and whether to run. Also acknowledges snapshots, so send it regularly.
    pub fn walk(&mut self, direction_x: i8, direction_z: i8, yaw: u16, sprint: bool) {
        let step = MoveInput { sequence: self.next_step, direction_x, direction_z, yaw, sprint };
        self.next_step += 1;
        let datagram = ClientDatagram::Move { step, acknowledged: self.acknowledged };
        self.outgoing.push((CHANNEL_STATE, encode(&datagram)));
    }

    /// Walks one step per tick: the newest steps, the oldest first, as a `prediction::input::InputSender` keeps them. Instead of
    /// [`Client::walk`], not beside it.
    ///
    /// # Panics
    /// When there are none, or more than `REDUNDANCY_MAX`.
    pub fn steps(&mut self, newest: &[MoveInput]) {
        let mut datagram = write_steps(newest);
        datagram.extend_from_slice(&encode(&self.acknowledged));
        self.outgoing.push((CHANNEL_STATE, datagram));
    }

    /// Tells where head and hands are in a slot: sixtieths of a second since any beginning. At most one a slot.
    ///
    /// # Errors
    /// When the slot is not new, or the pose is beyond what can be told.
    pub fn pose(&mut self, slot: u16, pose: &BodyPose) -> Result<(), PoseError> {
        let bytes = self.pose_encoder.encode(slot, pose)?;
        self.outgoing.push((CHANNEL_STATE, write_client_pose(&bytes)));
        Ok(())
    }

    /// Measures the round trip.
    pub fn ping(&mut self, now: Duration) {
        let nonce = self.next_nonce;
        self.next_nonce = nonce.wrapping_add(1);
        self.pings.insert(nonce, now);
        while self.pings.len() > PINGS_MAX {
            self.pings.pop_first();
        }
        let datagram = ClientDatagram::Ping { nonce, acknowledged: self.acknowledged };
        self.outgoing.push((CHANNEL_STATE, encode(&datagram)));
    }

    /// Sends a command; its number comes back with the result.
    pub fn command(&mut self, now: Duration, command: Command) -> u32 {
        let sequence = self.next_command;
        self.next_command += 1;
        self.outgoing.push((CHANNEL_COMMAND, encode(&ClientMessage::Command { sequence, command: command.clone() })));
        self.pending.insert(sequence, (command, now));
        sequence
    }

    /// Says goodbye.
    pub fn leave(&mut self) {
        self.outgoing.push((CHANNEL_COMMAND, encode(&ClientMessage::Goodbye)));
    }

    /// Messages to send: channel and bytes.
    pub fn take_outgoing(&mut self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.outgoing)
    }

    /// What happened since the last call.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Takes one message of the shard.
    ///
    /// # Errors
    /// When it cannot be understood.
    pub fn receive(&mut self, now: Duration, channel: usize, bytes: &[u8]) -> Result<(), ClientError> {
        if channel == CHANNEL_STATE { self.receive_datagram(now, bytes) } else { self.receive_message(now, bytes) }
    }

    fn receive_message(&mut self, now: Duration, bytes: &[u8]) -> Result<(), ClientError> {
        match decode_server_message(bytes)? {
            ServerMessage::Welcome { tick_hz, player, seed, world_half_mm, last_command, content, .. } => {
                let catalogue =
                    serde_json::from_str(&content).map_err(|error| ClientError::Catalogue(error.to_string()))?;
                let welcome = Box::new(Welcome { player, tick_hz, seed, world_half_mm, last_command, catalogue });
                self.next_command = last_command.saturating_add(1);
                self.welcome = Some(welcome.clone());
                self.events.push_back(ClientEvent::Welcome(welcome));
            }
            ServerMessage::Refused { reason, message } => {
                self.events.push_back(ClientEvent::Refused { reason, message });
            }
            ServerMessage::Result { sequence, frame, outcome } => {
                let (command, sent) = self.pending.remove(&sequence).map_or((None, now), |(c, at)| (Some(c), at));
                let latency = now.saturating_sub(sent);
                self.events.push_back(ClientEvent::Result { sequence, command, frame, outcome, latency });
            }
            ServerMessage::View(payload) => {
                let view = decode_view(&payload)?;
                self.newest_tick = self.newest_tick.max(view.tick);
                for id in &view.left {
                    self.entities.remove(id);
                }
                for entity in &view.entities {
                    self.entities.entry(entity.id).or_default().take(view.tick, entity);
                }
            }
        }
        Ok(())
    }

    fn receive_poses(&mut self, now: Duration, bytes: &[u8]) -> Result<(), ClientError> {
        for (player, pose) in decode_poses(bytes)? {
            if self.pose_decoders.len() == POSES_MAX && !self.pose_decoders.contains_key(&player) {
                self.pose_decoders.pop_first();
            }
            match self.pose_decoders.entry(player).or_default().decode(now, pose) {
                Ok(received) => self.events.push_back(ClientEvent::Pose { player, received: Box::new(received) }),
                Err(PoseError::Malformed(error)) => return Err(error.into()),
                // One that it refers to was lost; the next key pose mends it.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn receive_datagram(&mut self, now: Duration, bytes: &[u8]) -> Result<(), ClientError> {
        if let Some(feedback) = decode_steps_feedback(bytes) {
            let (taken, slack) = feedback?;
            self.events.push_back(ClientEvent::Steps { taken, slack });
            return Ok(());
        }
        if bytes.first() == Some(&SERVER_POSES) {
            return self.receive_poses(now, bytes);
        }
        match decode_server_datagram(bytes)? {
            ServerDatagram::Pong { nonce, .. } => {
                if let Some(sent) = self.pings.remove(&nonce) {
                    self.events.push_back(ClientEvent::Pong { round_trip: now.saturating_sub(sent) });
                }
            }
            ServerDatagram::Snapshot { tick, part, parts, entities, .. } => {
                self.newest_tick = self.newest_tick.max(tick);
                for entity in &entities {
                    // Only views introduce: a late snapshot must not bring back what has left.
                    if let Some(known) = self.entities.get_mut(&entity.id) {
                        known.take(tick, entity);
                    }
                }
                self.assemble(tick, part, parts);
            }
        }
        Ok(())
    }

    fn assemble(&mut self, tick: u64, part: u8, parts: u8) {
        if tick <= self.acknowledged {
            return;
        }
        let at = self.assembling.iter().position(|one| one.tick == tick).unwrap_or_else(|| {
            if self.assembling.len() == ASSEMBLING_MAX {
                self.assembling.pop_front();
            }
            self.assembling.push_back(Parts { tick, seen: [0; 2], left: parts });
            self.assembling.len() - 1
        });
        let one = &mut self.assembling[at];
        let bit = 1u128 << (part % 128);
        let word = &mut one.seen[usize::from(part / 128)];
        if *word & bit == 0 {
            *word |= bit;
            one.left = one.left.saturating_sub(1);
        }
        if one.left == 0 {
            self.acknowledged = tick;
            self.assembling.retain(|one| one.tick > tick);
        }
    }
}
