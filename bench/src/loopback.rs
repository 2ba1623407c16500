//! A whole shard in this process, in virtual time: simulation, server, loopback network and bots in lockstep. No threads, no
//! sockets, no clock in what it does: equal seeds give equal worlds.

use crate::bot::{Bot, Style};
use crate::report::{Latency, Report};
use crate::threads;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vsekai_net::flood::Rates;
use vsekai_net::loopback::{Faults, Loopback};
use vsekai_net::porter::Porter;
use vsekai_net::pose_relay::PoseRelayConfig;
use vsekai_net::replication::ReplicationConfig;
use vsekai_net::server::{Server, ServerConfig, ServerCounts, WorldFacts};
use vsekai_net::session::Limits;
use vsekai_net::token::TokenKey;
use vsekai_net::transport::PeerId;
use vsekai_schema::id::{EntityId, PlayerKey};
use vsekai_schema::wire::{Input, PlayerInput};
use vsekai_sim::Simulation;

/// Bots think this often.
pub const THINK_INTERVAL: Duration = Duration::from_millis(50);

/// A shard and its players.
pub struct LoopbackShard {
    /// The world.
    pub simulation: Simulation,
    /// The players.
    pub bots: Vec<(PeerId, Bot)>,
    /// Hash of the state after each tick.
    pub hashes: Vec<u64>,
    /// What each tick took: everything that a shard's thread does, without network and disk.
    pub tick_times: Vec<Duration>,
    /// Processor time of all ticks together, measured as `tick_times`: without what else ran on the machine meanwhile.
    pub cpu_time: Duration,
    /// Bytes of frame records.
    pub record_bytes: u64,
    /// The last tick's frame: its number and its record.
    pub last_frame: (u64, Vec<u8>),
    server: Server,
    network: Loopback,
    now: Duration,
    connected_at: Duration,
    join_times: Vec<Option<Duration>>,
    up_bytes: u64,
    /// Bytes that each player got.
    down_bytes: Vec<u64>,
}

/// Bots present their tokens in the first ticks.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

/// The limits of an ordinary shard.
pub fn server_config(tick_hz: u32) -> ServerConfig {
    ServerConfig {
        tick_hz: tick_hz as u8,
        players_max: 10_000,
        limits: Limits {
            rates: Rates { commands_per_s: 40, ..Rates::default() },
            silence: Duration::from_secs(5),
            hello: Duration::from_secs(5),
        },
        resume: Duration::from_secs(60),
        replication: ReplicationConfig {
            tick_hz: tick_hz as u8,
            view_radius_chunks: 3,
            interest_mm: 100_000,
            snapshot_interval_ticks: u64::from((tick_hz / 20).max(1)),
            motion_kbit_s: 256,
            bulk_kbit_s: 4_000,
        },
        poses: PoseRelayConfig::default(),
    }
}

impl LoopbackShard {
    /// `players` bots of `seed` in `simulation`.
    pub fn new(simulation: Simulation, players: usize, seed: u64, style: Style, faults: Faults) -> Self {
        let server = server_config(simulation.tick_hz());
        Self::with_server(simulation, players, seed, style, faults, server)
    }

    /// The same with other settings of the server.
    pub fn with_server(
        simulation: Simulation,
        players: usize,
        seed: u64,
        style: Style,
        faults: Faults,
        server: ServerConfig,
    ) -> Self {
        let content = serde_json::to_string(&simulation.catalogue()).expect("a catalogue is plain data");
        let facts = WorldFacts { seed: simulation.seed(), half_mm: simulation.half_mm(), content };
        let porter = Arc::new(Porter::new(TokenKey::new(&[0; 32]), Duration::ZERO));
        let server = Server::new(server, facts, Arc::clone(&porter));
        let mut network = Loopback::new(seed, faults);
        let bots = (0..players).map(|number| {
            let mut bot = Bot::new(seed, number, style);
            let (player, id) = (PlayerKey::from_secret(bot.own_secret()), (number as u128).to_le_bytes());
            bot.present(&porter.issue(Duration::ZERO, player, id, TOKEN_LIFETIME));
            (network.connect(), bot)
        });
        let bots = bots.collect();
        LoopbackShard {
            simulation,
            bots,
            hashes: Vec::new(),
            tick_times: Vec::new(),
            cpu_time: Duration::ZERO,
            record_bytes: 0,
            last_frame: (0, Vec::new()),
            server,
            network,
            now: Duration::ZERO,
            connected_at: Duration::ZERO,
            join_times: vec![None; players],
            up_bytes: 0,
            down_bytes: vec![0; players],
        }
    }

    /// What the server counted so far.
    pub fn server_counts(&self) -> ServerCounts {
        self.server.counts()
    }

    /// Bytes that all players got so far.
    pub fn down_bytes(&self) -> u64 {
        self.down_bytes.iter().sum()
    }

    /// Bytes that each player got so far.
    pub fn down_bytes_each(&self) -> &[u64] {
        &self.down_bytes
    }

    /// Puts one more input into the next tick, as if a player had sent it.
    pub fn inject(&mut self, player: EntityId, input: Input) {
        let _ = self.simulation.submit(PlayerInput { player, input });
    }

    /// Runs one tick, and lets the bots think when it is time.
    pub fn tick(&mut self) {
        let interval = Duration::from_secs(1) / self.simulation.tick_hz();
        self.now += interval;
        self.network.advance(self.now);

        let (begin, cpu_begin) = (Instant::now(), threads::own_cpu_time());
        while let Some(event) = self.network.poll_server() {
            self.server.receive(self.now, event);
        }
        let simulation = &mut self.simulation;
        self.server.take_inputs(|input| simulation.submit(input));
        let output = self.simulation.tick();
        self.server.after_tick(&self.simulation.view(), &output);
        // Without a disk, a frame is as durable as it will ever be.
        self.server.frames_durable(output.frame);
        self.tick_times.push(begin.elapsed());
        self.cpu_time += threads::own_cpu_time().saturating_sub(cpu_begin);

        self.hashes.push(output.state_hash);
        self.record_bytes += output.record.len() as u64;
        self.last_frame = (output.frame, output.record.to_vec());
        for command in self.server.take_commands() {
            self.network.server_command(command);
        }
        self.network.advance(self.now);
        let thinking = self.now.as_millis() / THINK_INTERVAL.as_millis()
            != (self.now - interval).as_millis() / THINK_INTERVAL.as_millis();
        for (number, (peer, bot)) in self.bots.iter_mut().enumerate() {
            while let Some((channel, bytes)) = self.network.poll_client(*peer) {
                self.down_bytes[number] += bytes.len() as u64;
                if let Err(error) = bot.receive(self.now, channel, &bytes) {
                    bot.refused = Some(error.to_string());
                }
            }
            if bot.is_playing() && self.join_times[number].is_none() {
                self.join_times[number] = Some(self.now - self.connected_at);
            }
            if thinking {
                bot.step(self.now);
            }
            for (channel, bytes) in bot.client.take_outgoing() {
                self.up_bytes += bytes.len() as u64;
                self.network.client_send(*peer, channel, bytes);
            }
        }
    }

    /// What came of it so far.
    pub fn report(&self, seed: u64) -> Report {
        let seconds = self.now.as_secs_f64();
        let per_player_second = self.bots.len().max(1) as f64 * seconds.max(0.001);
        let ticks = Latency::of(self.tick_times.iter().copied());
        let lost: Vec<&String> = self.bots.iter().filter_map(|(_, bot)| bot.refused.as_ref()).collect();
        let mut report = Report {
            players: self.bots.len(),
            lost: lost.len(),
            first_loss: lost.first().map(ToString::to_string),
            seconds,
            seed,
            transport: "loopback (virtual time)".into(),
            join: Latency::of(self.join_times.iter().flatten().copied()),
            up_bytes_per_s: self.up_bytes as f64 / per_player_second,
            down_bytes_per_s: self.down_bytes() as f64 / per_player_second,
            tick_p50_ms: ticks.p50_ms,
            tick_p99_ms: ticks.p99_ms,
            ..Report::default()
        };
        report.add_bots(self.bots.iter().map(|(_, bot)| bot));
        report
    }
}
