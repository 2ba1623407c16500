//! An unmodified matchbox client, as third parties use it: what the shard serves is matchbox's protocol, not only ours.

use std::time::{Duration, Instant};
use vsekai_bench::process::ShardProcess;
use vsekai_bench::webrtc::{Library, token};
use vsekai_net::client::{Client, ClientEvent};
use vsekai_net::webrtc::Connection;
use vsekai_schema::id::{ItemId, RecipeId};
use vsekai_schema::wire::{CHANNEL_COMMAND, CHANNEL_STATE, Command, ItemChange, Outcome, Refusal};
use vsekai_sim::inventory::Inventory;
use vsekai_sim::space::Pose;
use vsekai_tests::harness::eventually;

/// At 2 % loss four of 360 clients of matchbox never connect, and even here one handshake may fail: once more, then.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_TRIES: usize = 2;
const PATIENCE: Duration = Duration::from_secs(20);

/// Our protocol carried by matchbox's socket.
struct Player {
    connection: Connection,
    client: Client,
    begin: Instant,
}

impl Player {
    async fn connect(url: &str) -> Player {
        let token = token(url, "a-matchbox-player").await.unwrap();
        let client = Client::new(&token, "Matchbox");
        // All that an unmodified client can do is to be given an address.
        let address = client.signalling_url(url);
        for attempt in 1..=CONNECT_TRIES {
            match Library::Matchbox.connect(&address, CONNECT_DEADLINE).await {
                Ok(connection) => return Player { connection, client, begin: Instant::now() },
                Err(error) => eprintln!("attempt {attempt}: {error}"),
            }
        }
        panic!("matchbox did not connect within {CONNECT_TRIES} × {CONNECT_DEADLINE:?}");
    }

    /// Passes on what waits in both directions, and returns what happened.
    fn pump(&mut self) -> Vec<ClientEvent> {
        for (channel, bytes) in self.client.take_outgoing() {
            assert!(self.connection.outgoing.try_send(channel, bytes), "the connection is over");
        }
        while let Ok((channel, bytes)) = self.connection.incoming.try_recv() {
            self.client.receive(self.begin.elapsed(), channel, &bytes).unwrap();
        }
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    fn pose(&self) -> Option<Pose> {
        self.client.own()?.get::<Pose>()
    }

    fn held(&self, item: ItemId) -> Option<u32> {
        Some(self.client.own()?.get::<Inventory>()?.slots.count(item))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmodified_matchbox_client_joins_walks_and_crafts() {
    let folder = tempfile::tempdir().unwrap();
    let shard = ShardProcess::start(folder.path(), &[]).unwrap();
    let mut player = Player::connect(&shard.signalling_url()).await;

    let welcome = eventually("the welcome", PATIENCE, async || {
        player.pump().into_iter().next().map(|event| match event {
            ClientEvent::Welcome(welcome) => welcome,
            other => panic!("not a welcome: {other:?}"),
        })
    })
    .await;
    assert_eq!((welcome.tick_hz, welcome.last_command), (60, 0));

    let start = eventually("the own body", PATIENCE, async || {
        player.pump();
        player.pose()
    })
    .await;
    // Eastwards and a little southwards, at four metres a second: both must show.
    let walked = eventually("a walk of five metres", PATIENCE, async || {
        player.client.walk(120, 40, 16_384, false);
        player.pump();
        let pose = player.pose()?;
        (pose.position.x - start.position.x > 5_000).then_some(pose)
    })
    .await;
    assert!(walked.position.z > start.position.z, "from {start:?} to {walked:?}");
    assert_eq!(walked.yaw, 16_384);

    let recipe = welcome.catalogue.recipes.iter().find(|recipe| recipe.key == "plank").unwrap();
    let (wood, planks) = (recipe.inputs[0], recipe.outputs[0]);
    let wood_before = player.held(wood.0).unwrap();
    let sequence = player.client.command(player.begin.elapsed(), Command::Craft { recipe: RecipeId(recipe.id) });
    let (number, frame, outcome) = eventually("the result", PATIENCE, async || {
        player.pump().into_iter().find_map(|event| match event {
            ClientEvent::Result { sequence, frame, outcome, .. } => Some((sequence, frame, outcome)),
            _ => None,
        })
    })
    .await;
    assert_eq!(number, sequence);
    assert!(frame > 0);
    let Outcome::Done { mut items, .. } = outcome else { panic!("{outcome:?}") };
    items.sort_by_key(|change| change.item);
    let mut wanted = [
        ItemChange { item: wood.0, count: -i32::from(wood.1) },
        ItemChange { item: planks.0, count: i32::from(planks.1) },
    ];
    wanted.sort_by_key(|change| change.item);
    assert_eq!(items, wanted);
    eventually("the planks in the inventory", PATIENCE, async || {
        player.pump();
        let held = (player.held(wood.0)?, player.held(planks.0)?);
        (held == (wood_before - u32::from(wood.1), u32::from(planks.1))).then_some(())
    })
    .await;

    player.client.leave();
    player.pump();
    eventually("the shard to notice that the player left", PATIENCE, async || {
        (shard.status().unwrap()["players"] == 0).then_some(())
    })
    .await;
    player.connection.close().await;
    assert_eq!(shard.stop().unwrap().code(), Some(0));
}

/// WebRTC knows empty messages; our own client cannot send them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_message_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let shard = ShardProcess::start(folder.path(), &[]).unwrap();
    for channel in [CHANNEL_STATE, CHANNEL_COMMAND] {
        let mut player = Player::connect(&shard.signalling_url()).await;
        player.client.take_outgoing();
        let event = eventually("the refusal", PATIENCE, async || {
            // Again and again: one of the channels may lose it.
            player.connection.outgoing.try_send(channel, Vec::new());
            player.pump().into_iter().next()
        })
        .await;
        let ClientEvent::Refused { reason, message } = event else { panic!("channel {channel}: {event:?}") };
        assert_eq!(
            (reason, &message[..]),
            (Refusal::Malformed, "a message ends too early, 1 more bytes expected"),
            "channel {channel}"
        );
        player.connection.close().await;
    }
    assert_eq!(shard.stop().unwrap().code(), Some(0));
}
