//! Server and client against each other over the loopback transport, with a real simulation between.

mod poses;
mod steps;

use super::*;
use crate::client::{Client, ClientEvent};
use crate::flood::Rates;
use crate::loopback::{Faults, Loopback};
use crate::token::TokenKey;
use std::collections::BTreeSet;
use vsekai_schema::content::ContentFiles;
use vsekai_schema::record::IdBlock;
use vsekai_schema::wire::Command;
use vsekai_schema::wire::motion::Motion;
use vsekai_sim::inventory::Inventory;
use vsekai_sim::port::{Declared, Wanted};
use vsekai_sim::resource::ResourceNode;
use vsekai_sim::space::{Placement, Pose, Space};
use vsekai_sim::{SimConfig, Simulation};

const INTEREST_MM: i32 = 60_000;
const TICK: Duration = Duration::from_nanos(1_000_000_000 / 60);

/// A shard on a network with faults. Frames become durable when the test says so.
struct Scene {
    simulation: Simulation,
    server: Server,
    porter: Arc<Porter>,
    tokens: u128,
    network: Loopback,
    clients: Vec<(PeerId, Client)>,
    events: Vec<(usize, ClientEvent)>,
    now: Duration,
    /// How many frames behind durability is; `u64::MAX` for never.
    durability_lag: u64,
}

impl Scene {
    fn new(faults: Faults) -> Self {
        Self::with_players_max(faults, 100)
    }

    fn with_players_max(faults: Faults, players_max: usize) -> Self {
        let content = ContentFiles::parse(vsekai_sim::SHIPPED_CONTENT).unwrap();
        let mut simulation = Simulation::create(&SimConfig { half_m: 256, ..SimConfig::default() }, &content);
        assert!(simulation.grant_ids(IdBlock { next: 1 << 20, end: 1 << 21 }));
        let facts = WorldFacts {
            seed: simulation.seed(),
            half_mm: simulation.half_mm(),
            content: serde_json::to_string(&simulation.catalogue()).unwrap(),
        };
        let second = Duration::from_secs(1);
        let limits = Limits { rates: Rates::default(), silence: 5 * second, hello: 5 * second };
        let replication = ReplicationConfig {
            tick_hz: 60,
            view_radius_chunks: 2,
            interest_mm: INTEREST_MM,
            snapshot_interval_ticks: 3,
            motion_kbit_s: 256,
            bulk_kbit_s: 4_000,
        };
        let poses = PoseRelayConfig::default();
        let config = ServerConfig { tick_hz: 60, players_max, limits, resume: 3 * second, replication, poses };
        let porter = Arc::new(Porter::new(TokenKey::new(&[7; 32]), Duration::ZERO));
        Scene {
            simulation,
            server: Server::new(config, facts, Arc::clone(&porter)),
            porter,
            tokens: 0,
            network: Loopback::new(5, faults),
            clients: Vec::new(),
            events: Vec::new(),
            now: Duration::ZERO,
            durability_lag: 0,
        }
    }

    /// A new client of the player who is called `player`.
    fn connect(&mut self, player: &str) -> usize {
        let token = self.token(player);
        self.clients.push((self.network.connect(), Client::new(&token, player)));
        self.clients.len() - 1
    }

    fn token(&mut self, player: &str) -> String {
        self.tokens += 1;
        let (key, minute) = (PlayerKey::from_secret(player), Duration::from_secs(60));
        self.porter.issue(self.now, key, self.tokens.to_le_bytes(), minute)
    }

    /// The client's connection breaks, and it comes back on another.
    fn come_back(&mut self, number: usize) {
        assert!(self.clients[number].1.resume(), "there is no session");
        self.clients[number].0 = self.network.connect();
    }

    fn break_off(&mut self, number: usize) {
        self.network.lose(self.clients[number].0);
    }

    /// All results that a client got, by number.
    fn results(&self, number: usize) -> Vec<u32> {
        let of = |(to, event): &(usize, ClientEvent)| match event {
            ClientEvent::Result { sequence, .. } if *to == number => Some(*sequence),
            _ => None,
        };
        self.events.iter().filter_map(of).collect()
    }

    fn plank(&self, number: usize) -> Command {
        let recipes = &self.clients[number].1.welcome().unwrap().catalogue.recipes;
        Command::Craft { recipe: vsekai_schema::id::RecipeId(recipes.iter().find(|r| r.key == "plank").unwrap().id) }
    }

    fn tick(&mut self) {
        self.now += TICK;
        for (peer, client) in &mut self.clients {
            for (channel, bytes) in client.take_outgoing() {
                self.network.client_send(*peer, channel, bytes);
            }
        }
        self.network.advance(self.now);
        while let Some(event) = self.network.poll_server() {
            self.server.receive(self.now, event);
        }
        self.server.check_silence(self.now);
        let simulation = &mut self.simulation;
        self.server.take_inputs(|input| simulation.submit(input));
        let output = self.simulation.tick();
        self.server.after_tick(&self.simulation.view(), &output);
        self.server.frames_durable(output.frame.saturating_sub(self.durability_lag));
        for command in self.server.take_commands() {
            self.network.server_command(command);
        }
        self.network.advance(self.now);
        for (number, (peer, client)) in self.clients.iter_mut().enumerate() {
            while let Some((channel, bytes)) = self.network.poll_client(*peer) {
                client.receive(self.now, channel, &bytes).unwrap();
            }
            while let Some(event) = client.poll_event() {
                self.events.push((number, event));
            }
        }
    }

    /// Ticks until `done`, for ten seconds at most.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..600 {
            self.tick();
            if done(self) {
                return;
            }
        }
        panic!("waited in vain for {what}; events: {:?}", self.events);
    }

    fn join(&mut self, token: &str) -> usize {
        let number = self.connect(token);
        self.until("the own body", |scene| scene.clients[number].1.own().is_some());
        number
    }

    fn player(&self, number: usize) -> EntityId {
        self.clients[number].1.welcome().unwrap().player
    }

    fn refusal(&self, number: usize) -> Option<Refusal> {
        self.events.iter().find_map(|(to, event)| match event {
            ClientEvent::Refused { reason, .. } if *to == number => Some(*reason),
            _ => None,
        })
    }

    fn result(&self, number: usize) -> Option<Outcome> {
        self.events.iter().find_map(|(to, event)| match event {
            ClientEvent::Result { outcome, .. } if *to == number => Some(outcome.clone()),
            _ => None,
        })
    }

    /// Nodes around the first player change, and some go, all the time.
    fn change_standing(&mut self, tick: u32) {
        let view = self.simulation.view();
        let centre = view.position(self.player(0)).unwrap().chunk();
        let mut near: Vec<EntityId> = centre.around(4).flat_map(|key| view.standing(key)).collect();
        near.sort_unstable();
        let world = self.simulation.world_mut();
        for (place, id) in near.into_iter().enumerate() {
            let entity = world.resource::<Space>().entity(id).unwrap();
            let Some(node) = world.get::<ResourceNode>(entity).cloned() else { continue };
            match (place as u32 + tick) % 97 {
                0..10 => drop(world.entity_mut(entity).insert(ResourceNode { left: (tick % 7) as u16 + 1, ..node })),
                50 if tick.is_multiple_of(40) => drop(world.despawn(entity)),
                _ => {}
            }
        }
    }

    /// What client `number` should know: every entity of its chunks and every mover near it, with the components it may see.
    fn check_view(&self, number: usize) {
        let view = self.simulation.view();
        let (player, client) = (self.player(number), &self.clients[number].1);
        let here = view.position(player).unwrap();
        // Chunks leave the view one column later than they come in, movers a fifth further away.
        let around = |radius| here.chunk().around(radius);
        let must: BTreeSet<EntityId> = around(2).flat_map(|key| view.standing(key)).collect();
        let may: BTreeSet<EntityId> = around(3).flat_map(|key| view.standing(key)).collect();
        let movers = around(4).flat_map(|key| view.movers(key));
        let far = |id: EntityId| view.position(id).unwrap().horizontal_distance_squared(here);
        let square = |mm: i32| i64::from(mm).pow(2);
        let mut known: BTreeSet<EntityId> = client.entities().map(|(id, _)| id).collect();
        for id in movers {
            let knows = known.remove(&id);
            assert!(knows || far(id) > square(INTEREST_MM - 8), "client {number} does not see {id}");
            assert!(!knows || far(id) <= square(INTEREST_MM * 6 / 5 + 8), "client {number} still sees {id}");
        }
        let missing: Vec<_> = must.difference(&known).collect();
        assert!(missing.is_empty(), "client {number} misses {missing:?}");
        let extra: Vec<_> = known.difference(&may).collect();
        assert!(extra.is_empty(), "client {number} still knows {extra:?}");
        assert_eq!(client.undecodable_count(), 0);
        for (id, entity) in client.entities() {
            let wanted = if id == player { Wanted::OWN } else { Wanted::ENTERING };
            view.for_each(id, wanted, |tag, bytes| {
                if tag.0 == Pose::TAG && id != player {
                    let pose: Pose = entity.get().unwrap();
                    let found = Motion { y: None, ..Motion::of(pose.position, pose.yaw, true) };
                    assert_eq!(Some(found), view.motion(id), "client {number}, mover {id}");
                } else {
                    assert_eq!(
                        entity.bytes(tag).as_deref(),
                        Some(bytes),
                        "client {number}, entity {id}, component {}",
                        tag.0
                    );
                }
            });
        }
    }
}

#[test]
fn nothing_of_value_is_told_before_it_is_durable() {
    let mut scene = Scene::new(Faults::default());
    scene.durability_lag = u64::MAX;
    let anna = scene.connect("anna-token");
    for _ in 0..60 {
        scene.tick();
    }
    assert_eq!(scene.clients[anna].1.welcome(), None, "welcomed although nothing is durable");
    scene.durability_lag = 0;
    scene.until("the welcome", |scene| scene.clients[anna].1.own().is_some());
    scene.durability_lag = u64::MAX;
    let recipe =
        scene.clients[anna].1.welcome().unwrap().catalogue.recipes.iter().find(|r| r.key == "plank").unwrap().id;
    let command = Command::Craft { recipe: vsekai_schema::id::RecipeId(recipe) };
    let now = scene.now;
    scene.clients[anna].1.command(now, command);
    for _ in 0..60 {
        scene.tick();
    }
    assert_eq!(scene.server.counts().commands_done, 1, "the command was not executed");
    let planks =
        |scene: &Scene| scene.clients[anna].1.own().unwrap().get::<Inventory>().unwrap().slots.stacks().count();
    assert_eq!(planks(&scene), 2, "new items were shown although nothing is durable");
    assert_eq!(scene.result(anna), None, "the result was told although nothing is durable");
    scene.durability_lag = 0;
    scene.until("the result", |scene| scene.result(anna).is_some());
    assert!(matches!(scene.result(anna), Some(Outcome::Done { .. })));
    assert_eq!(planks(&scene), 3);
}

#[test]
fn every_client_sees_exactly_its_surroundings_whatever_the_network_does() {
    for seed in 1..=8 {
        run_about(seed);
    }
}

fn run_about(seed: u64) {
    let faults = Faults { delay_ms: (5, 60), loss_permille: 150, duplicate_permille: 100, reorder_permille: 100 };
    let mut scene = Scene::new(faults);
    scene.network = Loopback::new(seed, faults);
    let players: Vec<usize> = (0..6).map(|number| scene.join(&format!("player-{number}"))).collect();
    // Everybody runs about for twenty seconds, in and out of each other's sight; one leaves.
    for tick in 0..900u32 {
        for number in &players[..5] {
            let turn = tick / 150 + *number as u32 + seed as u32;
            let direction = [(127, 0), (0, 127), (-127, 60), (90, -90), (-127, -127)][(turn % 5) as usize];
            scene.clients[*number].1.walk(direction.0, direction.1, turn as u16, true);
        }
        if tick == 600 {
            scene.clients[5].1.leave();
        }
        scene.change_standing(tick);
        scene.tick();
    }
    let moved = scene.simulation.view().position(scene.player(0)).unwrap();
    assert!(
        moved.horizontal_distance_squared(Default::default()) > 10_000i64.pow(2),
        "nobody went anywhere: {moved:?}"
    );
    // Everybody stands still, then the network calms down: all that is under way arrives.
    for tick in 0..360 {
        if tick == 120 {
            scene.network.set_faults(Faults::default());
        }
        for number in &players[..5] {
            // A ping acknowledges, but changes nobody's pose: what was missed would stay missed.
            let now = scene.now;
            scene.clients[*number].1.ping(now);
        }
        scene.tick();
    }
    for number in &players[..5] {
        scene.check_view(*number);
    }
    let gone = scene.player(5);
    assert!(!scene.simulation.view().is_visible(gone));
    assert!(scene.clients[0].1.entity(gone).is_none());
}

#[test]
fn others_see_what_is_public_and_only_the_owner_sees_the_inventory() {
    let mut scene = Scene::new(Faults::default());
    let (anna, bert) = (scene.join("anna-token"), scene.join("bert-token"));
    let anna_id = scene.player(anna);
    scene.until("bert to see anna", |scene| scene.clients[bert].1.entity(anna_id).is_some());
    assert!(scene.clients[anna].1.own().unwrap().get::<Inventory>().is_some());
    let seen = scene.clients[bert].1.entity(anna_id).unwrap();
    assert!(seen.get::<Pose>().is_some());
    assert_eq!(seen.get::<vsekai_sim::player::Player>().unwrap().name, "anna-token");
    assert!(seen.get::<Inventory>().is_none(), "an inventory is nobody else's business");
    let standing = scene.clients[anna].1.entities().filter(|(_, entity)| entity.get::<Placement>().is_some()).count();
    assert!(standing > 50, "only {standing} standing things in view");
}

#[test]
fn the_newest_connection_of_a_player_wins_and_the_body_stays() {
    let mut scene = Scene::new(Faults::default());
    let first = scene.join("anna-token");
    let body = scene.player(first);
    let second = scene.join("anna-token");
    assert_eq!(scene.player(second), body);
    assert_eq!(scene.refusal(first), Some(Refusal::JoinedElsewhere));
    for _ in 0..30 {
        scene.tick();
    }
    assert!(scene.simulation.view().is_visible(body));
    assert_eq!(scene.server.player_count(), 1);
}

#[test]
fn a_silent_client_is_told_and_its_body_leaves() {
    let mut scene = Scene::new(Faults::default());
    let anna = scene.join("anna-token");
    let body = scene.player(anna);
    scene.until("the refusal", |scene| scene.refusal(anna) == Some(Refusal::TimedOut));
    scene.until("the body to leave", |scene| !scene.simulation.view().is_visible(body));
    assert_eq!(scene.server.player_count(), 0);
}

#[test]
fn who_disconnects_before_entering_leaves_no_ghost() {
    let mut scene = Scene::new(Faults::default());
    scene.durability_lag = u64::MAX;
    let anna = scene.connect("anna-token");
    scene.until("the join to reach the world", |scene| scene.simulation.entity_counts()["present"] == 1);
    let peer = scene.clients[anna].0;
    scene.network.disconnect(peer);
    scene.until("the body to leave", |scene| scene.simulation.entity_counts()["present"] == 0);
    assert_eq!(scene.server.player_count(), 0);
}

#[test]
fn a_full_shard_says_so() {
    let mut scene = Scene::with_players_max(Faults::default(), 1);
    scene.join("anna-token");
    let bert = scene.connect("bert-token");
    scene.until("the refusal", |scene| scene.refusal(bert) == Some(Refusal::ServerFull));
    assert_eq!(scene.server.player_count(), 1);
}

#[test]
fn a_token_serves_one_hello() {
    let mut scene = Scene::new(Faults::default());
    let token = scene.token("anna");
    for round in 0..3 {
        let token = if round == 2 { "a-token-of-old-days".to_string() } else { token.clone() };
        scene.clients.push((scene.network.connect(), Client::new(&token, "Anna")));
    }
    scene.until("two refusals", |scene| (1..3).all(|n| scene.refusal(n) == Some(Refusal::BadToken)));
    scene.until("the own body", |scene| scene.clients[0].1.own().is_some());
    assert_eq!(scene.refusal(0), None);
}

#[test]
fn a_lost_connection_is_resumed_and_every_result_comes_once() {
    for seed in 1..=20 {
        let faults = Faults { delay_ms: (5, 60), loss_permille: 100, duplicate_permille: 50, reorder_permille: 50 };
        let mut scene = Scene::new(faults);
        scene.network = Loopback::new(seed, faults);
        scene.durability_lag = seed % 10;
        let (anna, bert) = (scene.join("anna"), scene.join("bert"));
        let body = scene.player(anna);
        let plank = scene.plank(anna);
        let mut sent = 0;
        for round in 0..6 {
            for tick in 0..60 {
                if tick % 9 == 0 {
                    let now = scene.now;
                    scene.clients[anna].1.command(now, plank.clone());
                    sent += 1;
                }
                let now = scene.now;
                scene.clients[anna].1.walk(100, 0, 0, false);
                scene.clients[bert].1.ping(now);
                // In the middle of everything, somewhere else each time.
                if tick == (seed as u32 * 7 + round * 11) % 60 {
                    scene.break_off(anna);
                    scene.come_back(anna);
                }
                scene.tick();
                assert!(scene.simulation.view().is_visible(body), "seed {seed}: the body left");
            }
        }
        scene.until("all results", |scene| {
            let now = scene.now;
            scene.clients[anna].1.ping(now);
            scene.clients[bert].1.ping(now);
            scene.clients[anna].1.pending_count() == 0
        });
        assert_eq!(scene.results(anna), (1..=sent).collect::<Vec<_>>(), "seed {seed}: each once and in order");
        // A connection that breaks before the shard heard anything by it resumes nothing.
        assert!((4..=6).contains(&scene.server.counts().resumed), "seed {seed}: {:?}", scene.server.counts());
        assert_eq!((scene.server.player_count(), scene.server.away_count()), (2, 0), "seed {seed}");
        // What it sees is what is there: nothing of before the break is left.
        scene.network.set_faults(Faults::default());
        for _ in 0..240 {
            let now = scene.now;
            scene.clients[anna].1.ping(now);
            scene.clients[bert].1.ping(now);
            scene.tick();
        }
        scene.check_view(anna);
    }
}

#[test]
fn belongings_are_not_shown_to_who_comes_back_before_they_are_durable() {
    let mut scene = Scene::new(Faults::default());
    let anna = scene.join("anna");
    let planks = |scene: &Scene| {
        let own = scene.clients[anna].1.own().and_then(|own| own.get::<Inventory>());
        own.map(|inventory| inventory.slots.stacks().count())
    };
    let before = planks(&scene);
    scene.durability_lag = u64::MAX;
    let (plank, now) = (scene.plank(anna), scene.now);
    scene.clients[anna].1.command(now, plank);
    (0..5).for_each(|_| scene.tick());
    assert_eq!(scene.server.counts().commands_done, 1);
    scene.break_off(anna);
    scene.come_back(anna);
    (0..60).for_each(|_| scene.tick());
    assert!(scene.events.iter().any(|(_, event)| *event == ClientEvent::Resumed), "{:?}", scene.events);
    assert_eq!(planks(&scene), None, "shown although not durable");
    assert!(scene.results(anna).is_empty());
    scene.durability_lag = 0;
    scene.until("the result", |scene| scene.results(anna) == [1]);
    scene.until("the planks", |scene| planks(scene).is_some_and(|count| Some(count) > before));
}

#[test]
fn who_does_not_come_back_in_time_leaves() {
    let mut scene = Scene::new(Faults::default());
    let anna = scene.join("anna");
    let body = scene.player(anna);
    scene.break_off(anna);
    for _ in 0..170 {
        scene.tick();
    }
    assert!(scene.simulation.view().is_visible(body), "left too early");
    assert_eq!((scene.server.player_count(), scene.server.away_count()), (1, 1));
    scene.until("the body to leave", |scene| !scene.simulation.view().is_visible(body));
    scene.come_back(anna);
    scene.until("the refusal", |scene| scene.refusal(anna) == Some(Refusal::NotResumable));
    assert_eq!((scene.server.player_count(), scene.server.counts().not_resumed), (0, 1));
}

#[test]
fn who_says_goodbye_or_misbehaves_leaves_at_once() {
    let mut scene = Scene::new(Faults::default());
    for (name, bytes) in [("anna", encode(&vsekai_schema::wire::ClientMessage::Goodbye)), ("bert", vec![77])] {
        let number = scene.join(name);
        let body = scene.player(number);
        scene.network.client_send(scene.clients[number].0, CHANNEL_COMMAND, bytes);
        (0..4).for_each(|_| scene.tick());
        assert!(!scene.simulation.view().is_visible(body), "{name} stays");
        assert_eq!(scene.server.player_count(), 0);
        scene.come_back(number);
        scene.until("the refusal", |scene| scene.refusal(number).is_some());
    }
}

#[test]
fn who_is_away_gives_place_to_who_is_there() {
    let mut scene = Scene::with_players_max(Faults::default(), 1);
    let anna = scene.join("anna");
    scene.break_off(anna);
    (0..4).for_each(|_| scene.tick());
    let bert = scene.join("bert");
    assert_eq!(scene.server.player_count(), 1);
    // And who is away may also come anew, to the same body.
    scene.clients[bert].1.leave();
    scene.until("bert to leave", |scene| scene.server.player_count() == 0);
    let again = scene.join("anna");
    assert_eq!(scene.player(again), scene.player(anna));
    scene.break_off(again);
    (0..4).for_each(|_| scene.tick());
    let third = scene.join("anna");
    assert_eq!((scene.player(third), scene.server.player_count()), (scene.player(anna), 1));
    scene.come_back(again);
    scene.until("the older session's refusal", |scene| scene.refusal(again) == Some(Refusal::NotResumable));
}

#[test]
fn an_operator_removes_and_bans() {
    let mut scene = Scene::new(Faults::default());
    let key = PlayerKey::from_secret("anna");
    assert!(!scene.server.remove(key, Refusal::Kicked, "nobody there"));
    let anna = scene.join("anna");
    let line = PlayerLine { key, name: "anna".into(), player: Some(scene.player(anna)), away: false };
    assert_eq!(scene.server.players(), [line]);
    assert!(scene.server.remove(key, Refusal::Kicked, "mind the gap"));
    let told = ClientEvent::Refused { reason: Refusal::Kicked, message: "mind the gap".into() };
    scene.until("the words", |scene| scene.events.iter().any(|(_, event)| *event == told));
    assert_eq!(scene.server.player_count(), 0);
    let again = scene.join("anna");
    let spare = scene.token("anna");
    scene.porter.ban(key, "griefing").unwrap();
    scene.break_off(again);
    (0..4).for_each(|_| scene.tick());
    assert!(scene.server.remove(key, Refusal::Banned, "griefing"));
    for _ in 0..2 {
        scene.clients.push((scene.network.connect(), Client::new(&spare, "Anna")));
    }
    let told = ClientEvent::Refused { reason: Refusal::Banned, message: "banned: griefing".into() };
    scene.until("the words", |scene| scene.events.iter().any(|(_, event)| *event == told));
    assert_eq!((scene.server.player_count(), scene.server.counts().kicked), (0, 2));
}
