//! A shard that is drained, and what it tells its supervisor.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use vsekai_bench::bot::Style;
use vsekai_bench::process::ShardProcess;
use vsekai_bench::webrtc::token;
use vsekai_net::webrtc::{ClientError, connect};
use vsekai_tests::harness::{Bots, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

/// The next thing that the shard says which has `key`, and its value.
fn hear(supervisor: &UnixDatagram, key: &str) -> String {
    let mut bytes = [0; 4_096];
    wait_for(key, PATIENCE, || {
        let length = supervisor.recv(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        text.lines().find_map(|line| Some(line.split_once('=').filter(|(found, _)| *found == key)?.1.to_string()))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_shard_lets_nobody_in_tells_its_supervisor_and_ends_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify.sock");
    let supervisor = UnixDatagram::bind(&socket).unwrap();
    supervisor.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let data = folder.path().join("data");
    let mut shard = ShardProcess::start_in("127.0.0.1:0", &data, &[], &[("NOTIFY_SOCKET", &socket)]).unwrap();
    assert_eq!(hear(&supervisor, "READY"), "1");
    let first: u64 = hear(&supervisor, "X_VSEKAI_TICK").parse().unwrap();
    let second: u64 = hear(&supervisor, "X_VSEKAI_TICK").parse().unwrap();
    assert!(second > first, "tick {second} after {first}");

    let bots = Bots::start(&shard, 4, 7, Style::Builder);
    wait_for("the players in the heartbeat", PATIENCE, || (hear(&supervisor, "X_VSEKAI_PLAYERS") == "4").then_some(()));
    let late = token(&shard.signalling_url(), "comes too late").await.unwrap();
    let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
    let drain = |body: &str| {
        let mut answer = agent.post(format!("{}api/drain", shard.url)).send(body).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    };
    assert_eq!(drain("{\"after_s\": 3601}").0, 400);
    assert!(drain("{\"later\": 1}").1.contains("unknown field `later`"));
    let from_page = agent.post(format!("{}api/drain", shard.url)).header("origin", "http://example.org").send_empty();
    assert_eq!(from_page.unwrap().status(), 403);
    assert_eq!(shard.status().unwrap()["players"], 4, "what was refused drained nobody");

    assert_eq!(drain("{\"after_s\": 2, \"reason\": \"moving house\"}").0, 202);
    match connect(&format!("{}?token={late}", shard.signalling_url()), PATIENCE).await {
        Err(ClientError::Refused { status, message }) => {
            assert_eq!((status, message.trim()), (503, "the shard lets nobody in any more: moving house"));
        }
        other => panic!("{other:?}"),
    }
    assert!(shard.is_running(), "players may go on for two seconds");
    assert_eq!(hear(&supervisor, "STOPPING"), "1");
    assert_eq!(shard.await_end(PATIENCE).unwrap().code(), Some(0));
    assert!(shard.log().contains("drained"), "{}", shard.log());
    let lives = bots.stop();
    let (mut told, mut done) = (0, 0);
    for life in &lives {
        told += usize::from(life.lost.as_deref().is_some_and(|lost| lost.contains("shutting down")));
        done += life.bot.account.done;
    }
    assert_eq!((told, lives.len()), (4, 4), "{:?}", lives.iter().map(|life| &life.lost).collect::<Vec<_>>());
    assert!(done > 0);
}
