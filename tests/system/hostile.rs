//! Clients that break every rule, while ordinary players play: each gets its typed answer, and nobody else notices.

use futures_util::{SinkExt, StreamExt};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use vsekai_bench::bot::Style;
use vsekai_bench::process::ShardProcess;
use vsekai_bench::webrtc::token;
use vsekai_net::client::{Client, ClientEvent};
use vsekai_net::webrtc::{ClientError, Connection, connect};
use vsekai_schema::id::{EntityId, ItemId, PieceId, PlayerKey, RecipeId};
use vsekai_schema::units::Position;
use vsekai_schema::wire::pose::client_pose;
use vsekai_schema::wire::steps::decode_steps;
use vsekai_schema::wire::{
    CHANNEL_COMMAND, CHANNEL_STATE, ClientDatagram, ClientMessage, Command, MoveInput, Outcome, Refusal, Rejection,
    decode_client_datagram, decode_client_message, encode,
};
use vsekai_sim::inventory::Inventory;
use vsekai_sim::movement::{Ground, step};
use vsekai_sim::resource::ResourceNode;
use vsekai_sim::space::{Placement, Pose};
use vsekai_sim::terrain::Terrain;
use vsekai_sim::world::TickRate;
use vsekai_tests::harness::{Bots, Stored, eventually, resident_bytes, udp_address, udp_socket};

const PATIENCE: Duration = Duration::from_secs(30);
const PLAYERS: usize = 20;
/// How many of the players' commands are timed before and after.
const COMMANDS: u64 = 60;
const MEMORY_GROWTH_MAX: u64 = 64 << 20;
const HALF_M: i32 = 64;

/// Lets twenty ordinary players play, carries out `attack` meanwhile, and asserts that it cost them nothing.
async fn among_players(seed: u64, attack: impl AsyncFnOnce(&ShardProcess)) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("shard.toml");
    std::fs::write(&config, format!("[simulation]\nhalf_m = {HALF_M}\n")).unwrap();
    let data = folder.path().join("data");
    let mut shard = ShardProcess::start(&data, &["--config", &config.display().to_string()]).unwrap();
    let bots = Bots::start(&shard, PLAYERS, seed, Style::Mixed);
    let done = || shard.status().unwrap()["net"]["commands_done"].as_u64().unwrap();
    let play_on = async |when: &str| {
        let (begin, before) = (Instant::now(), done());
        eventually(&format!("players' commands {when}"), PATIENCE, async || {
            (done() >= before + COMMANDS).then_some(())
        })
        .await;
        begin.elapsed()
    };
    eventually("the players", PATIENCE, async || (shard.status().unwrap()["players"] == PLAYERS).then_some(())).await;
    let undisturbed = play_on("before the attack").await;
    let memory = resident_bytes(shard.id());

    attack(&shard).await;

    let afterwards = play_on("after the attack").await;
    let growth = resident_bytes(shard.id()).saturating_sub(memory);
    assert!(growth < MEMORY_GROWTH_MAX, "the shard holds {growth} bytes more");
    // They act about once a second each, by their own clocks: twice as long would be somebody's doing.
    assert!(afterwards < undisturbed * 2 + Duration::from_secs(2), "{undisturbed:?} before, {afterwards:?} after");
    let lives = bots.stop();
    let lost: Vec<_> = lives.iter().filter_map(|life| life.lost.clone()).collect();
    assert_eq!(lost, Vec::<String>::new(), "seed {seed}: players were lost");
    for life in &lives {
        assert_eq!(life.bot.counts.failed, 0, "seed {seed}: a command had no result");
        assert!(life.bot.account.done > 0, "seed {seed}: a player did nothing");
    }
    assert!(shard.is_running());
    let log = shard.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    assert_eq!(shard.stop().unwrap().code(), Some(0));
    let accounts: Vec<_> = lives.into_iter().map(|life| life.bot.account).collect();
    let (checked, faults) = Stored::read(&data).check(&accounts);
    assert_eq!(faults, Vec::<String>::new(), "seed {seed}, of {checked} actions");
}

/// A client that says whatever it is told to say.
struct Intruder {
    connection: Connection,
    client: Client,
    begin: Instant,
}

impl Intruder {
    /// Connects as the player who knows `secret`, and says nothing.
    async fn arrive(shard: &ShardProcess, secret: &str) -> Intruder {
        let url = shard.signalling_url();
        let client = Client::new(&token(&url, secret).await.unwrap(), "Intruder");
        let connection = match connect(&client.signalling_url(&url), PATIENCE).await {
            Ok(connection) => connection,
            Err(error) => panic!("the shard let nobody in: {error}"),
        };
        Intruder { connection, client, begin: Instant::now() }
    }

    /// Connects and joins properly.
    async fn join(shard: &ShardProcess, secret: &str) -> Intruder {
        let mut intruder = Intruder::arrive(shard, secret).await;
        intruder.flush();
        match intruder.event().await {
            Some(ClientEvent::Welcome(_)) => intruder,
            other => panic!("not welcome: {other:?}"),
        }
    }

    fn send(&self, channel: usize, bytes: Vec<u8>) {
        assert!(self.connection.outgoing.try_send(channel, bytes), "the connection is over");
    }

    fn flush(&mut self) {
        for (channel, bytes) in self.client.take_outgoing() {
            self.send(channel, bytes);
        }
    }

    /// What happens next; `None` when the connection ends.
    async fn event(&mut self) -> Option<ClientEvent> {
        loop {
            if let Some(event) = self.client.poll_event() {
                return Some(event);
            }
            let message = tokio::time::timeout(PATIENCE, self.connection.incoming.recv()).await;
            let (channel, bytes) = message.expect("the shard answers in time")?;
            self.client.receive(self.begin.elapsed(), channel, &bytes).unwrap();
        }
    }

    /// Takes in what the shard says until `look` finds something.
    async fn see<T>(&mut self, what: &str, mut look: impl FnMut(&Client) -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = look(&self.client) {
                return found;
            }
            assert!(begin.elapsed() < PATIENCE, "waited in vain for {what}");
            let message = tokio::time::timeout(PATIENCE, self.connection.incoming.recv()).await;
            let (channel, bytes) = message.expect("the shard speaks").expect("the connection stands");
            self.client.receive(self.begin.elapsed(), channel, &bytes).unwrap();
        }
    }

    /// The next command's result.
    async fn result(&mut self) -> (u32, u64, Outcome) {
        match self.event().await {
            Some(ClientEvent::Result { sequence, frame, outcome, .. }) => (sequence, frame, outcome),
            other => panic!("not a result: {other:?}"),
        }
    }

    /// Why the connection was refused; returns once it ended. `None` when it ended without a word.
    async fn refusal(mut self) -> Option<(Refusal, String)> {
        let mut refusal = None;
        while let Some(event) = self.event().await {
            if let ClientEvent::Refused { reason, message } = event {
                assert_eq!(refusal, None, "refused twice");
                refusal = Some((reason, message));
            }
        }
        refusal
    }

    /// Says `bytes` on `channel`, again and again where the network may lose them, and returns why they were refused.
    async fn refusal_of(self, channel: usize, bytes: Vec<u8>) -> Option<(Refusal, String)> {
        self.send(channel, bytes.clone());
        let outgoing = self.connection.outgoing.clone();
        let again = async {
            if channel != CHANNEL_STATE {
                return std::future::pending().await;
            }
            let mut clock = tokio::time::interval(Duration::from_millis(200));
            loop {
                clock.tick().await;
                outgoing.try_send(channel, bytes.clone());
            }
        };
        tokio::select! {
            refusal = self.refusal() => refusal,
            never = again => never,
        }
    }
}

fn hello(protocol: u16, token: &str, name: &str, tick_hz: u8) -> Vec<u8> {
    encode(&ClientMessage::Hello { protocol, token: token.into(), name: name.into(), tick_hz })
}

fn resume(protocol: u16, secret: [u8; 16]) -> Vec<u8> {
    encode(&ClientMessage::Resume { protocol, secret, results: 0 })
}

fn craft(sequence: u32, recipe: RecipeId) -> Vec<u8> {
    encode(&ClientMessage::Command { sequence, command: Command::Craft { recipe } })
}

fn movement(sequence: u32, direction_x: i8, direction_z: i8, yaw: u16, sprint: bool) -> Vec<u8> {
    let step = MoveInput { sequence, direction_x, direction_z, yaw, sprint };
    encode(&ClientDatagram::Move { step, acks: None })
}

// ---- Messages ---------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_against_the_protocol_are_refused_by_name() {
    // 65,536 bytes are the most that WebRTC lets anybody send: what is longer fails in the sender.
    const NEW: bool = false;
    const JOINED: bool = true;
    let long_name = "n".repeat(25);
    let mut trailing = craft(1, RecipeId(0));
    trailing.push(0);
    let cases = [
        (NEW, CHANNEL_COMMAND, vec![0], Refusal::Malformed, "a message ends too early"),
        (NEW, CHANNEL_STATE, vec![0], Refusal::Malformed, "a message ends too early"),
        (NEW, CHANNEL_COMMAND, vec![77; 8], Refusal::Malformed, "a message "),
        (NEW, CHANNEL_STATE, vec![77; 8], Refusal::Malformed, "a message "),
        (NEW, CHANNEL_COMMAND, vec![0; 513], Refusal::TooLarge, "a message of 513 bytes; at most 512 are allowed"),
        (NEW, CHANNEL_STATE, vec![0; 513], Refusal::TooLarge, "a message of 513 bytes; at most 512 are allowed"),
        (NEW, CHANNEL_COMMAND, vec![0; 65_536], Refusal::TooLarge, "a message of 65536 bytes; at most 512 are allowed"),
        (NEW, CHANNEL_COMMAND, craft(1, RecipeId(0)), Refusal::NotJoined, "a hello must come first"),
        (
            NEW,
            CHANNEL_COMMAND,
            hello(3, "a-good-token", "A", 0),
            Refusal::WrongProtocol,
            "speaks protocol version 2, the client speaks 3",
        ),
        // A hello of a future version, of which only the version is known.
        (
            NEW,
            CHANNEL_COMMAND,
            vec![0, 0xff, 0xff, 3, 1, 2, 3],
            Refusal::WrongProtocol,
            "speaks protocol version 2, the client speaks 65535",
        ),
        (
            NEW,
            CHANNEL_COMMAND,
            hello(2, "a-good-token", "A", 30),
            Refusal::WrongTickRate,
            "at 60 ticks per second, the client asks for 30",
        ),
        (NEW, CHANNEL_COMMAND, hello(2, "a-good-token", "A", 0), Refusal::BadToken, "not 146 hexadecimal digits"),
        (NEW, CHANNEL_COMMAND, hello(2, &"0".repeat(146), "A", 0), Refusal::BadToken, "not 146 hexadecimal digits"),
        (
            NEW,
            CHANNEL_COMMAND,
            hello(2, &"t".repeat(161), "A", 0),
            Refusal::BadToken,
            "at most 160 bytes, this one 161",
        ),
        (
            NEW,
            CHANNEL_COMMAND,
            resume(2, [7; 16]),
            Refusal::BadToken,
            "another token than the connection was made with",
        ),
        (NEW, CHANNEL_COMMAND, resume(3, [7; 16]), Refusal::WrongProtocol, "the client speaks 3"),
        (JOINED, CHANNEL_COMMAND, resume(2, [7; 16]), Refusal::AlreadyJoined, "a hello was sent twice"),
        (NEW, CHANNEL_COMMAND, hello(2, "a-good-token", "", 0), Refusal::BadName, "1 to 24 characters"),
        (NEW, CHANNEL_COMMAND, hello(2, "a-good-token", &long_name, 0), Refusal::BadName, "1 to 24 characters"),
        (NEW, CHANNEL_COMMAND, hello(2, "a-good-token", "a\u{7}b", 0), Refusal::BadName, "1 to 24 characters"),
        (JOINED, CHANNEL_COMMAND, vec![0], Refusal::Malformed, "a message ends too early"),
        (JOINED, CHANNEL_STATE, vec![0], Refusal::Malformed, "a message ends too early"),
        (JOINED, CHANNEL_COMMAND, vec![255; 40], Refusal::Malformed, "a message "),
        (JOINED, CHANNEL_STATE, vec![255; 40], Refusal::Malformed, "a message "),
        (JOINED, CHANNEL_COMMAND, trailing, Refusal::Malformed, "a message "),
        (JOINED, CHANNEL_COMMAND, vec![1; 513], Refusal::TooLarge, "a message of 513 bytes; at most 512 are allowed"),
        (JOINED, CHANNEL_STATE, vec![1; 600], Refusal::TooLarge, "a message of 600 bytes; at most 512 are allowed"),
        (
            JOINED,
            CHANNEL_COMMAND,
            vec![1; 65_536],
            Refusal::TooLarge,
            "a message of 65536 bytes; at most 512 are allowed",
        ),
        (
            JOINED,
            CHANNEL_COMMAND,
            hello(2, "the-token-of-a-case", "A", 0),
            Refusal::AlreadyJoined,
            "a hello was sent twice",
        ),
    ];
    among_players(31, async |shard| {
        for (joined, channel, bytes, reason, words) in cases {
            let what = format!("{} bytes on channel {channel}, joined: {joined}, want {reason:?}", bytes.len());
            let intruder = match joined {
                JOINED => Intruder::join(shard, "the-token-of-a-case").await,
                NEW => Intruder::arrive(shard, "an-intruder").await,
            };
            let refusal = intruder.refusal_of(channel, bytes).await;
            let Some((found, message)) = refusal else { panic!("{what}: ended without a word") };
            assert_eq!(found, reason, "{what}: {message}");
            assert!(message.contains(words), "{what}: {message:?} does not say {words:?}");
        }
        // A goodbye before the hello ends the connection, and is no offence.
        let intruder = Intruder::arrive(shard, "an-intruder").await;
        intruder.send(CHANNEL_COMMAND, encode(&ClientMessage::Goodbye));
        assert_eq!(intruder.refusal().await, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_are_refused_as_what_they_are() {
    let seed = std::env::var("VSEKAI_SEED").ok().map_or(32, |seed| seed.parse().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    among_players(seed, async |shard| {
        for round in 0..40 {
            let channel = if rng.random() { CHANNEL_COMMAND } else { CHANNEL_STATE };
            let (bytes, reason) = loop {
                let mut bytes = vec![0; rng.random_range(1..512)];
                rng.fill_bytes(&mut bytes);
                // Small numbers name the kinds of messages: without them all would end at the first byte.
                bytes[0] %= 6;
                let found = match channel {
                    CHANNEL_COMMAND => decode_client_message(&bytes).err(),
                    // A pose that nobody can read is dropped: what it refers to may have been lost on the way.
                    _ if client_pose(&bytes).is_some() => continue,
                    _ => match decode_steps(&bytes) {
                        Some(steps) => steps.err(),
                        None => decode_client_datagram(&bytes).err(),
                    },
                };
                match found {
                    Some(vsekai_schema::codec::DecodeError::UnknownVersion { .. }) => {
                        break (bytes, Refusal::WrongProtocol);
                    }
                    Some(_) => break (bytes, Refusal::Malformed),
                    // Chance made a proper message.
                    None => {}
                }
            };
            let intruder = match round % 2 {
                0 => Intruder::arrive(shard, "an-intruder").await,
                _ => Intruder::join(shard, "a-token-of-chance").await,
            };
            let refusal = intruder.refusal_of(channel, bytes).await;
            assert_eq!(refusal.map(|(reason, _)| reason), Some(reason), "seed {seed}, round {round}");
        }
    })
    .await;
}

// ---- Commands ---------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_out_of_range_or_turn_are_rejected_by_name() {
    among_players(33, async |shard| {
        let mut intruder = Intruder::join(shard, "a-commander").await;
        let position = intruder.see("the own body", |c| c.own()?.get::<Pose>().map(|pose| pose.position)).await;
        let inventory = intruder.see("the inventory", |client| client.own()?.get::<Inventory>()).await;
        let (far, near) = intruder
            .see("nodes far and near", |client| {
                let nodes = client.entities().filter(|(_, entity)| entity.get::<ResourceNode>().is_some());
                let placed = nodes.filter_map(|(id, entity)| Some((id, entity.get::<Placement>()?.position)));
                let mut placed: Vec<_> =
                    placed.map(|(id, at)| (position.horizontal_distance_squared(at), id)).collect();
                placed.sort();
                let far = placed.last().filter(|(distance, _)| *distance > 20_000 * 20_000)?;
                Some((far.1, placed.first()?.1))
            })
            .await;
        let welcome = intruder.client.welcome().unwrap().clone();
        let recipe =
            |key: &str| RecipeId(welcome.catalogue.recipes.iter().find(|recipe| recipe.key == key).unwrap().id);
        let piece = PieceId(welcome.catalogue.pieces.iter().find(|piece| piece.key == "foundation").unwrap().id);
        let grid = welcome.catalogue.grid_mm;
        let (column, row) = (position.x.div_euclid(grid), position.z.div_euclid(grid));
        let build = |piece, column, row, level, turn| Command::Build { piece, column, row, level, turn };
        let nobody = EntityId(u64::MAX);
        let cases = [
            (Command::Harvest { node: nobody }, Rejection::NoSuchEntity),
            (Command::Harvest { node: EntityId::WORLD }, Rejection::NotHarvestable),
            (Command::Harvest { node: welcome.player }, Rejection::NotHarvestable),
            (Command::Harvest { node: far }, Rejection::TooFar),
            (Command::Craft { recipe: RecipeId(u16::MAX) }, Rejection::UnknownRecipe),
            (Command::Craft { recipe: recipe("brick") }, Rejection::MissingItems),
            (build(PieceId(u16::MAX), column, row, 0, 0), Rejection::UnknownPiece),
            (build(piece, column, row, 0, 4), Rejection::OutOfRange),
            (build(piece, column, row, 255, 0), Rejection::OutOfRange),
            (build(piece, i32::MAX, i32::MIN, 0, 0), Rejection::OutsideWorld),
            (build(piece, HALF_M * 1_000 / grid, row, 0, 0), Rejection::OutsideWorld),
            (build(piece, column + 8 * if column > 0 { -1 } else { 1 }, row, 0, 0), Rejection::TooFar),
            (Command::Demolish { structure: nobody }, Rejection::NoSuchEntity),
            (Command::Demolish { structure: near }, Rejection::NoSuchEntity),
            (Command::Demolish { structure: welcome.player }, Rejection::NoSuchEntity),
            (Command::MoveItems { from: 255, to: 0, count: 1 }, Rejection::OutOfRange),
            (Command::MoveItems { from: 0, to: 255, count: 1 }, Rejection::OutOfRange),
            (Command::MoveItems { from: 20, to: 0, count: 1 }, Rejection::EmptySlot),
            (Command::MoveItems { from: 0, to: 20, count: u16::MAX }, Rejection::MissingItems),
        ];
        for (command, rejection) in cases {
            let sequence = intruder.client.command(intruder.begin.elapsed(), command.clone());
            intruder.flush();
            let (number, frame, outcome) = intruder.result().await;
            assert_eq!((number, outcome), (sequence, Outcome::Rejected(rejection)), "{command:?}");
            assert!(frame > 0, "{command:?} did not reach the world");
        }
        let last = intruder.client.last_sequence();
        for sequence in [0, 1, last, last + 1_025, u32::MAX] {
            intruder.send(CHANNEL_COMMAND, craft(sequence, recipe("plank")));
            let (number, _, outcome) = intruder.result().await;
            assert_eq!((number, outcome), (sequence, Outcome::Rejected(Rejection::OutOfTurn)), "behind {last}");
        }
        // Nothing of all that changed anything, and what is proper is still done.
        let same = intruder.see("the inventory", |client| client.own()?.get::<Inventory>()).await;
        assert_eq!(same, inventory);
        intruder.client.command(intruder.begin.elapsed(), Command::Craft { recipe: recipe("plank") });
        intruder.flush();
        let (number, _, outcome) = intruder.result().await;
        assert_eq!(number, last + 1);
        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_messages_are_rejected_and_a_flood_ends_the_connection() {
    among_players(34, async |shard| {
        let mut hasty = Intruder::join(shard, "a-hasty-one").await;
        let welcome = hasty.client.welcome().unwrap().clone();
        let recipe = welcome.catalogue.recipes.iter().find(|recipe| recipe.key == "plank").unwrap();
        let wood: ItemId = recipe.inputs[0].0;
        let plank = RecipeId(recipe.id);
        let held = hasty.see("the inventory", |c| Some(c.own()?.get::<Inventory>()?.slots.count(wood))).await;
        const SENT: u32 = 60;
        for sequence in 1..=SENT {
            hasty.send(CHANNEL_COMMAND, craft(sequence, plank));
        }
        let mut done = 0;
        let mut missing = 0;
        let mut too_frequent = Vec::new();
        for _ in 0..SENT {
            match hasty.result().await {
                (_, _, Outcome::Done { .. }) => done += 1,
                (_, _, Outcome::Rejected(Rejection::MissingItems)) => missing += 1,
                (sequence, 0, Outcome::Rejected(Rejection::TooFrequent)) => too_frequent.push(sequence),
                other => panic!("{other:?}"),
            }
        }
        // Forty at once and twenty a second: what came first was executed, as far as the wood went.
        assert_eq!(done, held, "{missing} without wood, too frequent: {too_frequent:?}");
        assert!(too_frequent.len() >= 15 && too_frequent.iter().all(|sequence| *sequence > 40), "{too_frequent:?}");

        for sequence in SENT + 1..=SENT + 400 {
            hasty.send(CHANNEL_COMMAND, craft(sequence, plank));
        }
        assert_eq!(hasty.refusal().await, Some((Refusal::Flooding, "too many messages".into())));

        let flooder = Intruder::join(shard, "a-flooder-by-datagram").await;
        let ping = encode(&ClientDatagram::Ping { nonce: 7, acks: None });
        let outgoing = flooder.connection.outgoing.clone();
        let flood = tokio::spawn(async move {
            while outgoing.try_send(CHANNEL_STATE, ping.clone()) {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        });
        assert_eq!(flooder.refusal().await, Some((Refusal::Flooding, "too many messages".into())));
        flood.abort();
        // They may come back, and behave.
        Intruder::join(shard, "a-hasty-one").await;
    })
    .await;
}

// ---- Movement ---------------------------------------------------------------------------------------------------------

/// Every direction from every corner: there is no value for "not a number" or "infinite", and none leads out.
#[test]
fn no_step_leads_out_of_the_world() {
    let content = vsekai_bench::world::content();
    let half_mm = HALF_M * 1_000;
    let ground = Ground { terrain: Terrain::new(122), half_mm };
    let mut steps = 0;
    let mut moved = 0;
    for (x, z) in [(-half_mm, -half_mm), (-half_mm, half_mm), (half_mm, -half_mm), (half_mm, half_mm), (0, half_mm)] {
        let pose = Pose { position: ground.at(x, z), yaw: 0 };
        for direction_x in i8::MIN..=i8::MAX {
            for direction_z in i8::MIN..=i8::MAX {
                let input = MoveInput { sequence: 1, direction_x, direction_z, yaw: u16::MAX, sprint: true };
                let Position { x: to_x, y, z: to_z } =
                    step(&ground, (&content.tuning).into(), TickRate(10), pose, &input).position;
                assert!(to_x.abs() <= half_mm && to_z.abs() <= half_mm, "{input:?} leads to {to_x}, {to_z}");
                assert!(
                    (to_x - x).abs() <= 700 && (to_z - z).abs() <= 700,
                    "{input:?} leads too far, to {to_x}, {to_z}"
                );
                assert_eq!(y, ground.terrain.height(to_x, to_z), "{input:?} leads off the ground");
                steps += 1;
                moved += u32::from((to_x, to_z) != (x, z));
            }
        }
    }
    assert_eq!(steps, 5 * 65_536);
    assert!(moved > steps / 4, "only {moved} of {steps} moved at all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bytes_of_a_movement_lead_out_of_the_world() {
    let seed = std::env::var("VSEKAI_SEED").ok().map_or(35, |seed| seed.parse().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    among_players(seed, async |shard| {
        let mut intruder = Intruder::join(shard, "a-runner-to-the-edge").await;
        let half_mm = HALF_M * 1_000;
        let ground = Ground { terrain: Terrain::new(intruder.client.welcome().unwrap().seed), half_mm };
        let mut at = intruder.see("the own body", |client| client.own()?.get::<Pose>()).await.position;
        let mut sequence = 0;
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let mut tread = async |intruder: &mut Intruder, direction: (i8, i8), yaw, sprint| {
            ticks.tick().await;
            sequence += 1;
            intruder.send(CHANNEL_STATE, movement(sequence, direction.0, direction.1, yaw, sprint));
            while let Ok((channel, bytes)) = intruder.connection.incoming.try_recv() {
                intruder.client.receive(intruder.begin.elapsed(), channel, &bytes).unwrap();
            }
            let at = intruder.client.own().unwrap().get::<Pose>().unwrap().position;
            assert!(at.x.abs() <= half_mm && at.z.abs() <= half_mm, "seed {seed}: {at:?} is outside the world");
            assert_eq!(at.y, ground.terrain.height(at.x, at.z), "seed {seed}: {at:?} is off the ground");
            at
        };
        for _ in 0..100 {
            tread(&mut intruder, (rng.random(), rng.random()), rng.random(), rng.random()).await;
        }
        // Runs till it is stopped: by a slope, then another way, or by the edge, and there against it all the same.
        let is_at_edge = |at: Position| at.x.abs().max(at.z.abs()) > half_mm - 200;
        for direction in [(-128, -128), (127, -128), (127, 127), (-128, 127), (0, -128), (-128, 0), (0, 127), (127, 0)]
        {
            let mut stood = 0;
            while stood < 25 {
                let (before, tick) = (at, intruder.client.newest_tick());
                at = tread(&mut intruder, direction, u16::MAX, true).await;
                // A shard that said nothing meanwhile did not say that the player stands.
                let spoke = intruder.client.newest_tick() > tick;
                stood = if at == before { stood + u32::from(spoke) } else { 0 };
            }
            if is_at_edge(at) {
                break;
            }
        }
        assert!(is_at_edge(at), "seed {seed}: every way ended at a slope, the last at {at:?}");
        // The largest number there is, and then an older one: late datagrams lead nowhere.
        let outgoing = intruder.connection.outgoing.clone();
        let mut looks = 0;
        let halted = |client: &Client| {
            // Again and again: a datagram may be lost.
            if looks % 16 == 0 {
                outgoing.try_send(CHANNEL_STATE, movement(u32::MAX, 0, 0, 1, false));
            }
            looks += 1;
            client.own()?.get::<Pose>().filter(|pose| pose.yaw == 1)
        };
        intruder.see("the halt", halted).await;
        intruder.send(CHANNEL_STATE, movement(u32::MAX - 1, 127, 127, 2, true));
        let tick = intruder.client.newest_tick();
        intruder.see("half a second more", |client| (client.newest_tick() > tick + 30).then_some(())).await;
        assert_eq!(intruder.client.own().unwrap().get::<Pose>().unwrap().yaw, 1, "an older movement was taken");
    })
    .await;
}

// ---- At the door ------------------------------------------------------------------------------------------------------

/// What signalling answers to `query` instead of an upgrade.
async fn answer_to(shard: &ShardProcess, query: &str) -> (u16, String) {
    match connect(&format!("{}{query}", shard.signalling_url()), PATIENCE).await {
        Err(ClientError::Refused { status, message }) => (status, message.trim().to_string()),
        other => panic!("{query}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_good_token_is_turned_away_before_the_upgrade() {
    let folder = tempfile::tempdir().unwrap();
    let shard = ShardProcess::start(folder.path(), &[]).unwrap();
    let url = shard.signalling_url();
    let used = token(&url, "a-player").await.unwrap();
    let player = Intruder::join(&shard, "a-player-of-two").await;
    let mut intruder = Intruder::arrive(&shard, "a-player").await;
    intruder.flush();
    assert!(matches!(intruder.event().await, Some(ClientEvent::Welcome(_))));
    let mut forged = used.clone();
    forged.replace_range(100..101, if &used[100..101] == "0" { "1" } else { "0" });
    let spent = intruder.client.signalling_url("");
    let cases = [
        (String::new(), 401, "a join token is needed: ?token=…"),
        ("?token=".into(), 401, "the token is not 146 hexadecimal digits of version 1"),
        ("?token=a-token-of-old-days".into(), 401, "the token is not 146 hexadecimal digits of version 1"),
        (format!("?token={forged}"), 401, "the token was not issued for this shard"),
        (spent, 401, "the token was used already"),
        ("?resume=00112233445566778899aabbccddeeff".into(), 401, "the session cannot be resumed any more"),
    ];
    for (query, status, message) in cases {
        assert_eq!(answer_to(&shard, &query).await, (status, message.to_string()), "{query}");
    }
    // The status is as old as a second.
    let turned_away = || shard.status().unwrap()["net"]["turned_away"].as_u64();
    eventually("the count of those turned away", PATIENCE, async || (turned_away() == Some(6)).then_some(())).await;
    // Banned by name of the player, with the reason, whatever is shown; and back again.
    let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
    let post = |path: &str, body: serde_json::Value| {
        let mut answer = agent.post(format!("{}{path}", shard.url)).send_json(body).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    };
    let key = PlayerKey::from_secret("a-player-of-two").to_string();
    let (status, _) = post("api/ban", serde_json::json!({ "player": key, "reason": "griefing" }));
    assert_eq!(status, 200);
    assert_eq!(player.refusal().await, Some((Refusal::Banned, "banned: griefing".into())));
    let (status, body) = post("api/token", serde_json::json!({ "secret": "a-player-of-two" }));
    assert_eq!((status, body.trim()), (403, "banned: griefing"));
    let kept: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("bans.json")).unwrap()).unwrap();
    assert_eq!(kept, serde_json::json!({ key.as_str(): "griefing" }));
    assert_eq!(agent.delete(format!("{}api/ban/{key}", shard.url)).call().unwrap().status(), 200);
    let back = Intruder::join(&shard, "a-player-of-two").await;
    let (status, _) = post("api/kick", serde_json::json!({ "player": key, "reason": "mind the gap" }));
    assert_eq!(status, 200);
    assert_eq!(back.refusal().await, Some((Refusal::Kicked, "mind the gap".into())));
    let cases = [
        ("api/kick", serde_json::json!({ "player": key }), 404),
        ("api/kick", serde_json::json!({ "player": "nobody" }), 400),
        ("api/ban", serde_json::json!({ "player": key, "reason": "x".repeat(201) }), 400),
        ("api/token", serde_json::json!({ "secret": "short" }), 400),
        ("api/token", serde_json::json!({ "secret": "x".repeat(5_000) }), 413),
    ];
    for (path, body, wanted) in cases {
        assert_eq!(post(path, body.clone()).0, wanted, "{path} {body:.60}");
    }
    let mut answer = agent.get(format!("{}api/players", shard.url)).call().unwrap();
    let players: serde_json::Value = answer.body_mut().read_json().unwrap();
    assert_eq!(players[0]["player"], PlayerKey::from_secret("a-player").to_string());
    assert_eq!((players[0]["away"].clone(), players.as_array().map(Vec::len)), (false.into(), Some(1)));
    for path in ["api/players", "api/bans"] {
        let answer = agent.get(format!("{}{path}", shard.url)).header("x-forwarded-for", "10.0.0.1").call().unwrap();
        assert_eq!(answer.status(), 403, "{path}");
    }
    assert_eq!(shard.stop().unwrap().code(), Some(0));
}

// ---- Signalling and UDP -----------------------------------------------------------------------------------------------

/// A WebSocket to signalling, by a fresh token.
async fn call(shard: &ShardProcess) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let url = shard.signalling_url();
    let token = token(&url, "a-caller").await.unwrap();
    tokio_tungstenite::connect_async(format!("{url}?token={token}")).await.unwrap().0
}

/// Says `messages` to signalling and returns with which code and words it closed; `None` when it closed without.
async fn close_of(shard: &ShardProcess, messages: Vec<Message>) -> Option<(u16, String)> {
    let mut socket = call(shard).await;
    for message in messages {
        // A server that has closed already does not take the rest.
        if socket.send(message).await.is_err() {
            break;
        }
    }
    loop {
        match tokio::time::timeout(PATIENCE, socket.next()).await.expect("signalling closes in time") {
            Some(Ok(Message::Close(frame))) => return frame.map(|frame| (frame.code.into(), frame.reason.to_string())),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

/// The id under which the shard makes its offers.
async fn id_of(shard: &ShardProcess) -> String {
    let mut socket = call(shard).await;
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        let event: serde_json::Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        if let Some(id) = event["Signal"]["sender"].as_str() {
            return id.to_string();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_to_signalling_ends_that_socket_only() {
    let text = |text: &str| vec![Message::text(text)];
    const UNREADABLE: Option<(u16, &str)> = Some((1008, "a signalling message could not be read"));
    among_players(36, async |shard| {
        let id = id_of(shard).await;
        let signal = |receiver: &str, kind: &str, data: &str| {
            serde_json::json!({ "Signal": { "receiver": receiver, "data": { kind: data } } }).to_string()
        };
        let stranger = "00000000-0000-4000-8000-000000000000";
        let cases = [
            (text("garbage"), UNREADABLE),
            (text(""), UNREADABLE),
            (text("null"), UNREADABLE),
            (text(r#"{"Signal":{"receiver":17,"data":{"Answer":"x"}}}"#), UNREADABLE),
            (text(&signal("not an id", "Answer", "x")), UNREADABLE),
            (text(&signal(&id, "Surprise", "x")), UNREADABLE),
            (text(&"[".repeat(60_000)), UNREADABLE),
            (text(&signal(stranger, "Answer", "x")), Some((1008, "there is no such peer"))),
            (text(&signal(&id, "Offer", "x")), Some((1008, "the server makes the offer"))),
            (vec![Message::binary(vec![0xff; 2_000])], Some((1003, "signalling is text"))),
            (vec![Message::text("\"KeepAlive\""); 400], Some((1008, "too many signalling messages"))),
            (text(&signal(&id, "Answer", "garbage")), Some((1000, "the connection is over"))),
            (
                text(&signal(&id, "Answer", "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n")),
                Some((1000, "the connection is over")),
            ),
            // Longer than the longest allowed: nothing of it is kept, and nothing said.
            (text(&"x".repeat(1 << 20)), None),
        ];
        for (messages, close) in cases {
            let what = format!("{:.80?}", messages[0]);
            let found = close_of(shard, messages).await;
            assert_eq!(found.as_ref().map(|(code, reason)| (*code, &reason[..])), close, "{what}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_to_the_udp_port_is_ignored() {
    const PACKETS: usize = 20_000;
    let seed = std::env::var("VSEKAI_SEED").ok().map_or(37, |seed| seed.parse().unwrap());
    among_players(seed, async |shard| {
        let target = udp_address(shard);
        let before = shard.status().unwrap()["net"]["bytes_in"].as_u64().unwrap();
        let send = move || {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let sockets = [udp_socket(), udp_socket(), udp_socket()];
            let mut sent = 0;
            for number in 0..PACKETS {
                let mut packet = vec![0; rng.random_range(0..1_400)];
                rng.fill_bytes(&mut packet);
                match (number % 4, packet.first_chunk_mut::<20>()) {
                    // What begins as STUN does, with its magic cookie and a length that may be true.
                    (0, Some(head)) => head[..8].copy_from_slice(&[0, 1, 0, 48, 0x21, 0x12, 0xa4, 0x42]),
                    // As a DTLS client's hello does.
                    (1, Some(head)) => head[..3].copy_from_slice(&[22, 0xfe, 0xfd]),
                    // As RTP does.
                    (2, Some(head)) => head[0] = 0x80,
                    _ => {}
                }
                sent += packet.len() as u64;
                sockets[number % 3].send_to(&packet, target).unwrap();
                if number % 100 == 0 {
                    // Not all at once: what the kernel drops teaches the shard nothing.
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            sent
        };
        let sent = tokio::task::spawn_blocking(send).await.unwrap();
        eventually("the shard to read the garbage", PATIENCE, async || {
            let read = shard.status().unwrap()["net"]["bytes_in"].as_u64().unwrap() - before;
            (read > sent / 2).then_some(())
        })
        .await;
        // Whoever comes by the rules is still let in.
        Intruder::join(shard, "after-the-garbage").await;
    })
    .await;
}
