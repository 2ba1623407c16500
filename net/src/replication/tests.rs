//! Replication against clients, without sessions and network: what arrives is what the test lets through.

use super::*;
use crate::client::Client;
use std::collections::BTreeMap;
use std::time::Duration;
use vsekai_schema::content::ContentFiles;
use vsekai_schema::id::{EntityId, PlayerKey};
use vsekai_schema::record::IdBlock;
use vsekai_schema::units::Position;
use vsekai_schema::wire::motion::Motion;
use vsekai_schema::wire::{
    CHANNEL_COMMAND, CHANNEL_STATE, ClientDatagram, Input, MoveInput, PROTOCOL_VERSION, PlayerInput, ServerMessage,
    decode_client_datagram, encode,
};
use vsekai_sim::port::Pose;
use vsekai_sim::resource::ResourceNode;
use vsekai_sim::space::{Placement, Space};
use vsekai_sim::{SimConfig, Simulation};

const CONFIG: ReplicationConfig = ReplicationConfig {
    tick_hz: 20,
    view_radius_chunks: 1,
    interest_mm: 60_000,
    snapshot_interval_ticks: 1,
    motion_kbit_s: 256,
    bulk_kbit_s: 8_000,
};

/// A world whose players walk as the test says, and one client.
struct Scene {
    simulation: Simulation,
    players: Vec<EntityId>,
    replication: Replication,
    viewer: Viewer,
    client: Client,
    steps: u32,
    /// What the client got in the last tick.
    datagrams: Vec<Vec<u8>>,
    reliable_bytes: usize,
    random: u32,
}

impl Scene {
    fn new(players: usize, config: ReplicationConfig) -> Self {
        let content = ContentFiles::parse(vsekai_sim::SHIPPED_CONTENT).unwrap();
        let world =
            SimConfig { half_m: 256, tick_hz: u32::from(config.tick_hz), spawn_radius_m: 10, ..SimConfig::default() };
        let mut simulation = Simulation::create(&world, &content);
        assert!(simulation.grant_ids(IdBlock { next: 1 << 20, end: 1 << 21 }));
        for number in 0..players {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&(number as u64).to_le_bytes());
            let input = Input::Join { key: PlayerKey(key), name: format!("player {number}") };
            simulation.submit(PlayerInput { player: EntityId::WORLD, input }).unwrap();
        }
        let output = simulation.tick();
        let players: Vec<EntityId> = output.joined.iter().filter_map(|joined| joined.player).collect();
        let mut client = Client::new("a-token-of-some-length", "player 0");
        let welcome = ServerMessage::Welcome {
            protocol: PROTOCOL_VERSION,
            tick_hz: config.tick_hz,
            tick: output.frame,
            player: players[0],
            seed: simulation.seed(),
            world_half_mm: simulation.half_mm(),
            last_command: 0,
            content: serde_json::to_string(&simulation.catalogue()).unwrap(),
        };
        client.receive(Duration::ZERO, CHANNEL_COMMAND, &encode(&welcome)).unwrap();
        let mut replication = Replication::new(config);
        replication.begin_tick(&simulation.view(), &output);
        let viewer = Viewer::new(players[0], &config);
        Scene {
            simulation,
            players,
            replication,
            viewer,
            client,
            steps: 0,
            datagrams: Vec::new(),
            reliable_bytes: 0,
            random: 1,
        }
    }

    fn random(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.random >> 8
    }

    fn walk(&mut self, number: usize, direction_x: i8, direction_z: i8) {
        self.steps += 1;
        let step = MoveInput { sequence: self.steps, direction_x, direction_z, yaw: 0, sprint: false };
        self.simulation.submit(PlayerInput { player: self.players[number], input: Input::Move(step) }).unwrap();
    }

    /// Everybody turns now and then.
    fn walk_all(&mut self) {
        for number in 0..self.players.len() {
            if self.steps < self.players.len() as u32 || self.random().is_multiple_of(8) {
                let (x, z) = (self.random() as i8, self.random() as i8);
                self.walk(number, x, z);
            }
        }
    }

    /// One tick; `arrives` says of each datagram whether it arrives.
    fn tick(&mut self, mut arrives: impl FnMut() -> bool) {
        let output = self.simulation.tick();
        let view = self.simulation.view();
        self.replication.begin_tick(&view, &output);
        self.datagrams.clear();
        let mut messages = Vec::new();
        self.replication.update(&view, &output, &mut self.viewer, self.steps, &mut |delivery, bytes| {
            messages.push((delivery, bytes));
        });
        for (delivery, bytes) in messages {
            let channel = if delivery == Delivery::Datagram { CHANNEL_STATE } else { CHANNEL_COMMAND };
            if channel == CHANNEL_STATE && !arrives() {
                continue;
            }
            self.client.receive(Duration::ZERO, channel, &bytes).unwrap();
            if channel == CHANNEL_STATE {
                self.datagrams.push(bytes);
            } else {
                self.reliable_bytes += bytes.len();
            }
        }
        self.client.ping(Duration::ZERO);
        for (channel, bytes) in self.client.take_outgoing() {
            if channel == CHANNEL_STATE
                && let ClientDatagram::Ping { acks: Some(acks), .. } = decode_client_datagram(&bytes).unwrap()
            {
                self.replication.acknowledge(&mut self.viewer, acks);
            }
        }
    }

    fn place(&self, id: EntityId) -> Position {
        self.simulation.view().position(id).unwrap()
    }

    /// True when the client knows where `id` is now.
    fn is_fresh(&self, id: EntityId) -> bool {
        let pose = self.client.entity(id).and_then(|entity| entity.get::<Pose>());
        pose.map(|pose| Motion { y: None, ..Motion::of(pose.position, pose.yaw, true) })
            == self.simulation.view().motion(id)
    }
}

#[test]
fn walkers_cost_few_bytes() {
    let mut scene = Scene::new(40, CONFIG);
    for _ in 0..40 {
        scene.walk_all();
        scene.tick(|| true);
    }
    assert_eq!(scene.viewer.known_count(), 39);
    let before = scene.replication.counts();
    for _ in 0..200 {
        scene.walk_all();
        scene.tick(|| true);
    }
    let counts = scene.replication.counts();
    let updates = counts.motion_updates - before.motion_updates;
    let bytes = counts.motion_bytes - before.motion_bytes;
    assert!(updates > 5_000, "only {updates} updates");
    let each = bytes as f64 / updates as f64;
    assert!(each < 3.5, "{each} bytes for each update");
    assert!(scene.players[1..].iter().all(|id| scene.is_fresh(*id)));
}

#[test]
fn with_too_small_a_budget_the_nearest_come_first_and_nobody_is_forgotten() {
    let mut scene = Scene::new(300, ReplicationConfig { motion_kbit_s: 64, ..CONFIG });
    for _ in 0..60 {
        scene.walk_all();
        scene.tick(|| true);
    }
    assert_eq!(scene.viewer.known_count(), 299);
    let mut fresh_at = BTreeMap::new();
    let (mut bytes, mut oldest) = (0, 0);
    let ticks = 200;
    for tick in 0..ticks {
        scene.walk_all();
        scene.tick(|| true);
        bytes += scene.datagrams.iter().map(Vec::len).sum::<usize>();
        let here = scene.place(scene.players[0]);
        let mut others: Vec<EntityId> = scene.players[1..].to_vec();
        others.sort_by_key(|id| scene.place(*id).horizontal_distance_squared(here));
        let near = others[..8].iter().filter(|id| !scene.is_fresh(**id)).count();
        assert_eq!(near, 0, "tick {tick}: {near} of the nearest eight are not told");
        for id in others {
            if scene.is_fresh(id) {
                fresh_at.insert(id, tick);
            }
            oldest = oldest.max(tick - fresh_at.get(&id).copied().unwrap_or(0));
        }
    }
    let per_s = bytes * 20 / ticks as usize;
    assert!((7_000..=8_400).contains(&per_s), "{per_s} bytes a second; 8,000 are allowed");
    assert!(oldest <= 20, "somebody was not told of for {oldest} ticks of 50 ms");
}

#[test]
fn what_is_lost_is_told_again() {
    let mut scene = Scene::new(30, CONFIG);
    let mut seed = 9u32;
    let mut lossy = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed >> 24 > 100
    };
    for _ in 0..300 {
        scene.walk_all();
        scene.tick(&mut lossy);
    }
    assert_eq!(scene.client.undecodable_count(), 0);
    // They stop where they are; then it is quiet.
    for number in 0..30 {
        scene.walk(number, 0, 0);
    }
    for _ in 0..40 {
        scene.tick(&mut lossy);
    }
    assert!(scene.players[1..].iter().all(|id| scene.is_fresh(*id)));
    let before = scene.replication.counts();
    for _ in 0..100 {
        scene.tick(|| true);
    }
    let counts = scene.replication.counts();
    assert_eq!(counts.motion_updates, before.motion_updates, "what the client knows is not told again");
    assert!(counts.motion_packets - before.motion_packets <= 20, "an idle scene needs few packets");
}

#[test]
fn a_chunk_that_did_not_change_comes_back_for_nothing() {
    let mut scene = Scene::new(1, ReplicationConfig { bulk_kbit_s: 1_000_000, ..CONFIG });
    let start = scene.place(scene.players[0]);
    let walk_to = |scene: &mut Scene, x: i32| {
        for _ in 0..20_000 {
            let here = scene.place(scene.players[0]).x;
            if here.abs_diff(x) < 1_000 {
                return;
            }
            scene.walk(0, if here < x { 127 } else { -127 }, 0);
            scene.tick(|| true);
        }
        panic!("it did not get to {x}");
    };
    let standing = |scene: &Scene| {
        let all = scene.client.entities().filter(|(_, entity)| entity.chunk().is_some());
        all.map(|(id, entity)| (id, (entity.chunk(), entity.get::<Placement>(), entity.get::<ResourceNode>())))
            .collect::<BTreeMap<_, _>>()
    };
    // The land is flat enough on some way; the far end is three chunks off.
    let far = start.x + 3 * 32_000;
    walk_to(&mut scene, far);
    walk_to(&mut scene, start.x);
    let first = scene.replication.counts().bulk_bytes;
    let known = standing(&scene);
    assert!(known.len() > 50);
    let reliable = scene.reliable_bytes;
    walk_to(&mut scene, far);
    walk_to(&mut scene, start.x);
    assert_eq!(scene.replication.counts().bulk_bytes, first, "chunks were sent again");
    assert!(
        scene.reliable_bytes - reliable < 400,
        "{} bytes for chunks that the client had",
        scene.reliable_bytes - reliable
    );
    assert_eq!(standing(&scene), known);

    // What changed meanwhile comes anew.
    walk_to(&mut scene, far);
    let (id, _) = known.iter().find(|(_, (_, _, node))| node.is_some()).unwrap();
    assert!(scene.client.entity(*id).is_none(), "it is still in view");
    let world = scene.simulation.world_mut();
    let entity = world.resource::<Space>().entity(*id).unwrap();
    world.despawn(entity);
    walk_to(&mut scene, start.x);
    assert!(scene.replication.counts().bulk_bytes > first);
    assert!(scene.client.entity(*id).is_none(), "it is gone from the world");
    assert_eq!(standing(&scene).len(), known.len() - 1);
}

#[test]
fn who_leaves_the_world_and_comes_again_is_seen_where_it_is() {
    let mut scene = Scene::new(3, CONFIG);
    for _ in 0..20 {
        scene.walk_all();
        scene.tick(|| true);
    }
    let other = scene.players[1];
    assert!(scene.is_fresh(other));
    scene.simulation.submit(PlayerInput { player: other, input: Input::Leave }).unwrap();
    for _ in 0..5 {
        scene.tick(|| true);
    }
    assert!(scene.client.entity(other).is_none());
    let mut key = [0; 16];
    key[..8].copy_from_slice(&1u64.to_le_bytes());
    let input = Input::Join { key: PlayerKey(key), name: "player 1".into() };
    scene.simulation.submit(PlayerInput { player: EntityId::WORLD, input }).unwrap();
    for _ in 0..5 {
        scene.tick(|| true);
    }
    assert!(scene.is_fresh(other));
    assert_eq!(scene.client.undecodable_count(), 0);
}
