//! What each client is told of the world, and when. The one place that decides it.
//!
//! - **What stands** is told reliably, by chunks: those within a radius of the player's come into view nearest first, at a
//!   bulk rate of their own; each chunk's content is encoded once for all clients. A chunk that leaves the view is kept in
//!   mind by the client and costs nothing when it comes back unchanged.
//! - **What moves** is introduced reliably when it comes near, under a slot. Its motion goes by unreliable packets: the
//!   quantised difference from what the client acknowledged last, encoded once per mover and difference, not per client.
//! - **Budget**: a client's packets stay within a rate that adapts to loss and round trip; when it does not reach for all, the
//!   nearest few are always told, and the others in turns, near ones more often.
//! - A player's own belongings are told once their frame is durable; what everybody sees is told at once.
//!
//! Invariant: a client knows exactly the entities of its chunks and the movers near it, as of the last view message it read.

mod chunks;
mod movers;
mod rate;
#[cfg(test)]
mod tests;
mod viewer;

pub use viewer::Viewer;

use chunks::Chunks;
use movers::Movers;
use viewer::{Candidate, Shared};
use vsekai_schema::wire::motion::Acks;
use vsekai_sim::port::{TickOutput, WorldView};

/// How a message is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// At once, and it may be lost.
    Datagram,
    /// At once, and it arrives.
    Reliable,
    /// Reliably, once the tick's frame is durable.
    WhenDurable,
}

/// How far, how often and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicationConfig {
    /// Ticks per second.
    pub tick_hz: u8,
    /// Chunks seen in each direction, 1–16.
    pub view_radius_chunks: i32,
    /// Movers are seen from so near, millimetres; they are lost from sight a fifth further away.
    pub interest_mm: i32,
    /// Every how many ticks a client is told of motion, at least 1.
    pub snapshot_interval_ticks: u64,
    /// Most motion that one client is told, kbit/s.
    pub motion_kbit_s: u32,
    /// How fast chunks and movers come into view, kbit/s.
    pub bulk_kbit_s: u32,
}

/// What was told since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets of motion.
    pub motion_packets: u64,
    /// States of movers in them.
    pub motion_updates: u64,
    /// Their bytes.
    pub motion_bytes: u64,
    /// Bytes of chunks that came into view.
    pub bulk_bytes: u64,
}

/// What is shared by all clients.
#[derive(Debug)]
pub struct Replication {
    config: ReplicationConfig,
    movers: Movers,
    chunks: Chunks,
    counts: Counts,
    /// Room for one client's candidates, used by all in turn.
    candidates: Vec<Candidate>,
    /// The first tick that was seen, less one: ticks are counted from there, so that they fit 32 bits.
    before: Option<u64>,
    now: u32,
}

impl Replication {
    /// Nothing seen yet.
    pub fn new(config: ReplicationConfig) -> Self {
        Replication {
            config,
            movers: Movers::default(),
            chunks: Chunks::default(),
            counts: Counts::default(),
            candidates: Vec::new(),
            before: None,
            now: 0,
        }
    }

    /// The settings.
    pub fn config(&self) -> &ReplicationConfig {
        &self.config
    }

    /// What was told since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes in what a tick changed. Call once per tick, before [`Replication::update`].
    pub fn begin_tick(&mut self, view: &WorldView<'_>, output: &TickOutput) {
        let before = *self.before.get_or_insert(output.frame.saturating_sub(1));
        self.now = u32::try_from(output.frame - before).unwrap_or(u32::MAX);
        self.movers.begin_tick(view, output, self.now);
        self.chunks.begin_tick(view, output);
    }

    /// Tells one client what this tick changed for it, message by message. `newest_input`: the newest movement input of
    /// its player that this tick had processed.
    pub fn update(
        &mut self,
        view: &WorldView<'_>,
        output: &TickOutput,
        viewer: &mut Viewer,
        newest_input: u32,
        send: &mut dyn FnMut(Delivery, Vec<u8>),
    ) {
        let Replication { config, movers, chunks, counts, candidates, now, .. } = self;
        let mut shared = Shared { config, view, output, now: *now, movers, chunks, counts, candidates };
        viewer.update(&mut shared, newest_input, send);
    }

    /// The client has these packets.
    pub fn acknowledge(&self, viewer: &mut Viewer, acks: Acks) {
        viewer.acknowledge(acks, self.now);
    }
}
