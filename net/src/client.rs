//! The client's side of the protocol, without I/O: what synthetic players and native extensions are built on.
//!
//! Bytes in by [`Client::receive`], bytes out by [`Client::take_outgoing`], what happened by [`Client::poll_event`]; the world as
//! the client knows it is in [`Client::entity`] and [`Client::entities`]. Who draws walks with [`Client::advance`], asks for smooth
//! movement once ([`Client::smooth`]), and then in each picture: [`Client::frame`], [`Client::own_shown`], [`Client::shown`].

mod history;
mod player;
mod world;

pub use world::KnownEntity;

use crate::prediction::clock::ClockSync;
use crate::prediction::input::{InputFeedback, REDUNDANCY};
use crate::prediction::predict::PredictionCounts;
use crate::token::to_hex;
use player::{OwnPlayer, Playback};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use thiserror::Error;
use vsekai_schema::codec::DecodeError;
use vsekai_schema::content::Catalogue;
use vsekai_schema::id::EntityId;
use vsekai_schema::wire::motion::{MOTION_KIND, decode_motion_head};
use vsekai_schema::wire::pose::{
    BodyPose, PoseDecoder, PoseEncoder, PoseError, ReceivedPose, SERVER_POSES, decode_poses, write_client_pose,
};
use vsekai_schema::wire::steps::{decode_steps_feedback, write_steps};
use vsekai_schema::wire::view::{ServerDatagram, decode_server_datagram, decode_view};
use vsekai_schema::wire::{
    CHANNEL_COMMAND, CHANNEL_STATE, ClientDatagram, ClientMessage, Command, MoveInput, Outcome, PROTOCOL_VERSION,
    Refusal, ResumeSecret, ServerMessage, decode_server_message, encode,
};
use vsekai_sim::port::{Pose, Terrain};
use world::KnownWorld;

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
    /// The session goes on over a new connection. The world comes anew; results that were missed follow.
    Resumed,
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
    /// How the steps that were sent come. [`Client::advance`] minds it; who sends steps by hand needs it for a
    /// `prediction::input::Pacer`.
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

/// The client.
#[derive(Debug)]
pub struct Client {
    token: String,
    /// By which the session is found again, once there is one.
    secret: Option<ResumeSecret>,
    /// False between [`Client::resume`] and the answer: commands wait.
    attached: bool,
    /// Results that came in this session, and how many of them the shard knows of.
    results: u32,
    results_told: u32,
    welcome: Option<Box<Welcome>>,
    world: KnownWorld,
    is_blind: bool,
    next_command: u32,
    next_step: u32,
    pending: BTreeMap<u32, (Command, Duration)>,
    pings: BTreeMap<u32, Duration>,
    next_nonce: u32,
    /// The shard's clock, from the welcome on.
    clock: Option<ClockSync>,
    /// Ahead of the shard, once it was asked to walk by itself.
    own_player: Option<OwnPlayer>,
    pose_encoder: PoseEncoder,
    pose_decoders: BTreeMap<EntityId, PoseDecoder>,
    events: VecDeque<ClientEvent>,
    outgoing: Vec<(usize, Vec<u8>)>,
}

/// The shard is told what arrived each time that so many results came.
const RESULTS_UNTOLD_MAX: u32 = 16;
/// Pings that are waited for.
const PINGS_MAX: usize = 16;
/// Players whose poses are followed; the shard has fewer in one place.
const POSES_MAX: usize = 1_024;

impl Client {
    /// A client that says hello with the join token `token`.
    pub fn new(token: &str, name: &str) -> Self {
        let hello =
            ClientMessage::Hello { protocol: PROTOCOL_VERSION, token: token.into(), name: name.into(), tick_hz: 0 };
        Client {
            token: token.into(),
            secret: None,
            attached: true,
            results: 0,
            results_told: 0,
            welcome: None,
            world: KnownWorld::default(),
            is_blind: false,
            next_command: 1,
            next_step: 1,
            pending: BTreeMap::new(),
            pings: BTreeMap::new(),
            next_nonce: 0,
            clock: None,
            own_player: None,
            pose_encoder: PoseEncoder::default(),
            pose_decoders: BTreeMap::new(),
            events: VecDeque::new(),
            outgoing: vec![(CHANNEL_COMMAND, encode(&hello))],
        }
    }

    /// From now on keeps no picture of the world: what comes is acknowledged and thrown away. For load generators.
    pub fn go_blind(&mut self) {
        self.is_blind = true;
    }

    /// The address of signalling to connect to: `shard` (`ws://host:port/path`) and what lets this client in.
    pub fn signalling_url(&self, shard: &str) -> String {
        match &self.secret {
            Some(secret) if !self.attached => format!("{shard}?resume={}", to_hex(secret)),
            _ => format!("{shard}?token={}", self.token),
        }
    }

    /// The connection was lost: makes ready for the next one, to which the session goes on. Commands sent from here on, and
    /// those that did not arrive, go out once the shard has answered. False when the shard has not given a session yet.
    pub fn resume(&mut self) -> bool {
        let Some(secret) = self.secret else { return false };
        self.attached = false;
        self.pings.clear();
        // The body may stand elsewhere by then; the numbers go on.
        self.own_player = None;
        let resume = ClientMessage::Resume { protocol: PROTOCOL_VERSION, secret, results: self.results };
        self.outgoing = vec![(CHANNEL_COMMAND, encode(&resume))];
        true
    }

    /// What the welcome said, once it came.
    pub fn welcome(&self) -> Option<&Welcome> {
        self.welcome.as_deref()
    }

    /// An entity in view.
    pub fn entity(&self, id: EntityId) -> Option<KnownEntity<'_>> {
        let (ground, player) = self.land();
        self.world.entity(id, &ground, player)
    }

    /// Everything in view.
    pub fn entities(&self) -> impl Iterator<Item = (EntityId, KnownEntity<'_>)> {
        let (ground, player) = self.land();
        self.world.entities(ground, player)
    }

    /// The player's own entity, once it is known.
    pub fn own(&self) -> Option<KnownEntity<'_>> {
        self.entity(self.welcome.as_ref()?.player)
    }

    /// The land and whose eyes these are. Before the welcome nothing is in view.
    fn land(&self) -> (Terrain, EntityId) {
        self.welcome.as_ref().map_or((Terrain::new(0), EntityId::WORLD), |w| (Terrain::new(w.seed), w.player))
    }

    /// Tick of the newest message about the world.
    pub fn newest_tick(&self) -> u64 {
        self.world.newest_tick
    }

    /// Motion that could not be understood for want of the state that it builds on: never, unless shard and client disagree.
    pub fn undecodable_count(&self) -> u64 {
        self.world.undecodable
    }

    /// Commands without a result yet.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Number of the last command that was sent; before the first, of the last one executed in the player's life.
    pub fn last_sequence(&self) -> u32 {
        self.next_command - 1
    }

    /// Number of the last step that was sent, by whichever way.
    pub fn last_step(&self) -> u32 {
        self.next_step.wrapping_sub(1)
    }

    /// Walks: the direction, where to look, and whether to run. Also acknowledges motion packets, so send it regularly.
    pub fn walk(&mut self, direction_x: i8, direction_z: i8, yaw: u16, sprint: bool) {
        if !self.attached {
            return;
        }
        let step = MoveInput { sequence: self.next_step, direction_x, direction_z, yaw, sprint };
        self.next_step += 1;
        let datagram = ClientDatagram::Move { step, acks: self.world.acks };
        self.outgoing.push((CHANNEL_STATE, encode(&datagram)));
    }

    /// Walks one step per tick: the newest steps, the oldest first, as a `prediction::input::InputSender` keeps them. Instead of
    /// [`Client::walk`], not beside it.
    ///
    /// # Panics
    /// When there are none, or more than `REDUNDANCY_MAX`.
    pub fn steps(&mut self, newest: &[MoveInput]) {
        let mut datagram = write_steps(newest);
        datagram.extend_from_slice(&encode(&self.world.acks));
        self.outgoing.push((CHANNEL_STATE, datagram));
    }

    /// Walks ahead of the shard: makes the steps that are due at `now`, moves the own player by them at once, and sends them. Call it as
    /// often as pictures are drawn; the shard's beat decides how many steps that makes, mostly one or none. 0 until the own body is in
    /// view. Instead of [`Client::walk`] and [`Client::steps`], not beside them.
    pub fn advance(&mut self, now: Duration, direction_x: i8, direction_z: i8, yaw: u16, sprint: bool) -> u32 {
        if !self.attached {
            return 0;
        }
        if self.own_player.is_none()
            && let Some(pose) = self.own().and_then(|own| own.get::<Pose>())
            && let Some(welcome) = &self.welcome
        {
            self.own_player = Some(OwnPlayer::new(welcome, pose, self.next_step));
        }
        let Some(own) = &mut self.own_player else { return 0 };
        let fresh = own.advance(now, MoveInput { sequence: 0, direction_x, direction_z, yaw, sprint });
        if fresh > 0 {
            self.next_step = own.last().wrapping_add(1);
            let newest = own.newest(fresh, REDUNDANCY);
            self.steps(&newest);
        }
        fresh
    }

    /// Where to draw the own player: ahead of the shard by all steps made, and gliding to where the shard put it right. `None` before the
    /// first [`Client::advance`].
    pub fn own_shown(&self) -> Option<Pose> {
        self.own_player.as_ref().map(OwnPlayer::shown)
    }

    /// How often the shard had the own player elsewhere than [`Client::advance`], and by how much, in this connection.
    pub fn prediction(&self) -> Option<PredictionCounts> {
        self.own_player.as_ref().map(OwnPlayer::counts)
    }

    /// From now on keeps the ways of others, to show them smoothly: [`Client::frame`], [`Client::shown`].
    pub fn smooth(&mut self) {
        if self.world.playback.is_none() {
            self.world.playback = Some(Playback::new(self.welcome.as_ref().map_or(1, |welcome| welcome.tick_hz)));
        }
    }

    /// A picture is drawn at `now`: chooses the moment of the shard's past at which others are shown in it.
    pub fn frame(&mut self, now: Duration) {
        if let Some(playback) = &mut self.world.playback {
            playback.frame(now);
        }
    }

    /// Where to draw somebody in this picture: between two snapshots, or where it is known to be when it has not moved since it came into
    /// view.
    pub fn shown(&self, id: EntityId) -> Option<Pose> {
        let smooth = self.world.playback.as_ref().and_then(|playback| playback.shown(id));
        smooth.or_else(|| self.entity(id)?.get::<Pose>())
    }

    /// By how much others are shown later than they were seen: as much as the network's jitter asks for.
    pub fn shown_late_by(&self) -> Option<Duration> {
        self.world.playback.as_ref().map(Playback::delay)
    }

    /// The tick that the shard is probably at, in thousandths, by the pings of late ([`Client::ping`]).
    pub fn shard_tick_thousandths(&mut self, now: Duration) -> Option<u64> {
        self.clock.as_mut()?.tick_thousandths(now)
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
        if !self.attached {
            return;
        }
        let nonce = self.next_nonce;
        self.next_nonce = nonce.wrapping_add(1);
        self.pings.insert(nonce, now);
        while self.pings.len() > PINGS_MAX {
            self.pings.pop_first();
        }
        let datagram = ClientDatagram::Ping { nonce, acks: self.world.acks };
        self.outgoing.push((CHANNEL_STATE, encode(&datagram)));
    }

    /// Sends a command; its number comes back with the result.
    pub fn command(&mut self, now: Duration, command: Command) -> u32 {
        let sequence = self.next_command;
        self.next_command += 1;
        if self.attached {
            self.send(&ClientMessage::Command { sequence, command: command.clone() });
        }
        self.pending.insert(sequence, (command, now));
        sequence
    }

    /// Says goodbye.
    pub fn leave(&mut self) {
        self.send(&ClientMessage::Goodbye);
    }

    fn send(&mut self, message: &ClientMessage) {
        self.outgoing.push((CHANNEL_COMMAND, encode(message)));
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
            ServerMessage::Welcome { tick_hz, tick, player, seed, world_half_mm, last_command, content, .. } => {
                let catalogue =
                    serde_json::from_str(&content).map_err(|error| ClientError::Catalogue(error.to_string()))?;
                let welcome = Box::new(Welcome { player, tick_hz, seed, world_half_mm, last_command, catalogue });
                self.next_command = last_command.saturating_add(1);
                self.clock = Some(ClockSync::new(tick_hz));
                self.welcome = Some(welcome.clone());
                self.begin_world(tick);
                self.events.push_back(ClientEvent::Welcome(welcome));
            }
            ServerMessage::Refused { reason, message } => {
                self.events.push_back(ClientEvent::Refused { reason, message });
            }
            ServerMessage::Resumable { secret, .. } => self.secret = Some(secret),
            ServerMessage::Resumed { tick, received } => self.take_up_again(tick, received),
            ServerMessage::Result { sequence, frame, outcome } => {
                self.results = self.results.wrapping_add(1);
                if self.results.wrapping_sub(self.results_told) >= RESULTS_UNTOLD_MAX {
                    self.results_told = self.results;
                    self.send(&ClientMessage::Seen { results: self.results });
                }
                let (command, sent) = self.pending.remove(&sequence).map_or((None, now), |(c, at)| (Some(c), at));
                let latency = now.saturating_sub(sent);
                self.events.push_back(ClientEvent::Result { sequence, command, frame, outcome, latency });
            }
            ServerMessage::View(_) if self.is_blind => {}
            ServerMessage::View(payload) => {
                let view = decode_view(&payload)?;
                // A view before the welcome could not be understood: it does not say what land this is.
                if self.welcome.is_some() {
                    self.world.take_view(&view);
                }
            }
        }
        Ok(())
    }

    /// Nothing is known of the world, but whether somebody draws it.
    fn begin_world(&mut self, tick: u64) {
        let is_drawn = self.world.playback.is_some();
        self.world = KnownWorld::at(tick);
        if is_drawn {
            self.smooth();
        }
    }

    /// The session goes on: what is known of the world is forgotten, and commands behind `received` are sent again.
    fn take_up_again(&mut self, tick: u64, received: u32) {
        self.attached = true;
        self.results_told = self.results;
        self.begin_world(tick);
        let lost: Vec<_> =
            self.pending.range(received.saturating_add(1)..).map(|(n, (c, _))| (*n, c.clone())).collect();
        for (sequence, command) in lost {
            self.send(&ClientMessage::Command { sequence, command });
        }
        self.events.push_back(ClientEvent::Resumed);
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
            if let Some(own) = &mut self.own_player {
                own.feedback(now, InputFeedback { taken, slack });
            }
            self.events.push_back(ClientEvent::Steps { taken, slack });
            return Ok(());
        }
        if bytes.first() == Some(&SERVER_POSES) {
            return self.receive_poses(now, bytes);
        }
        if self.is_blind && bytes.first() == Some(&MOTION_KIND) {
            self.world.note_packet(&decode_motion_head(bytes)?);
            return Ok(());
        }
        match decode_server_datagram(bytes)? {
            ServerDatagram::Pong { nonce, tick } => {
                if let Some(sent) = self.pings.remove(&nonce) {
                    if let Some(clock) = &mut self.clock {
                        clock.pong(sent, now, tick);
                    }
                    self.events.push_back(ClientEvent::Pong { round_trip: now.saturating_sub(sent) });
                }
            }
            ServerDatagram::Motion { head, updates } => {
                if let Some(welcome) = &self.welcome {
                    let ground = Terrain::new(welcome.seed);
                    self.world.take_motion(now, &ground, &head, &updates);
                    if let (Some(own), Some(pose)) = (&mut self.own_player, head.own) {
                        own.reconcile(head.newest_input, world::own_pose(pose, &ground));
                    }
                }
            }
        }
        Ok(())
    }
}
