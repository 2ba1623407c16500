//! A shard under the supervisor gets a new program, and later dies, while people are in it: they come back to what they were.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::net::TcpListener;
use std::time::Duration;
use vsekai_bench::bot::{Account, Style};
use vsekai_bench::process::program;
use vsekai_tests::browser::Browser;
use vsekai_tests::harness::{Bots, Stored, eventually};
use vsekai_tests::proofs::supervise::Supervisor;

const PATIENCE: Duration = Duration::from_secs(30);
const BOTS: usize = 5;

/// What the page knows once it is in the world: of the `run` of the shard, or of any other than it.
async fn in_the_world(page: &Browser, other_than: &Value) -> Value {
    eventually("the page in the world", PATIENCE, async || {
        let debug = page.evaluate("window.vsekai?.debug()").await;
        let there = debug["connected"] == true
            && debug["position"] != Value::Null
            && debug["inventory"] != serde_json::json!({});
        (there && debug["run"] != *other_than).then_some(debug)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn players_come_back_by_themselves_after_an_upgrade_and_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (program("vsekai-shard").unwrap(), folder.path().join("the-next-version"));
    std::os::unix::fs::symlink(&old, &new).unwrap();
    let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        "[http]\naddress = \"127.0.0.1:0\"\n[[child]]\nname = \"shard\"\n\
         command = [{old:?}, \"run\", \"--data\", \"data\", \"--http\", \"{http}\"]\n\
         drain_url = \"http://{http}/api/drain\"\nhealth = {{ kind = \"notify\", timeout_s = 5 }}\n"
    );
    let mut supervisor = Supervisor::start(folder.path(), &config).unwrap();
    let shard = || supervisor.child("shard").unwrap();
    let running = async |program: &std::path::Path| {
        let runs = |shard: &Value| shard["state"] == "running" && shard["command"][0] == program.to_str().unwrap();
        eventually("the shard to run", PATIENCE, async || Some(shard()).filter(runs)).await
    };
    let first = running(&old).await;
    let page = Browser::start().await;
    page.client.goto(&format!("http://{http}/?name=Ada&autojoin=1")).await.unwrap();
    let before = in_the_world(&page, &Value::Null).await;
    let url = format!("ws://{http}/");
    let play = |accounts: Vec<Option<Account>>| Bots::play(&url, accounts, 23, Style::Builder);
    let done = async |least: u64| {
        eventually("bots that have done something", PATIENCE, async || {
            let status: Value =
                ureq::get(format!("http://{http}/api/status")).call().ok()?.body_mut().read_json().ok()?;
            status["net"]["commands_done"].as_u64().filter(|done| *done >= least)
        })
        .await;
    };
    let bots = play(vec![None; BOTS]);
    done(20).await;

    let body = serde_json::json!({ "program": new.to_str().unwrap() });
    ureq::post(format!("{}/api/children/shard/upgrade", supervisor.url)).send_json(body).unwrap();
    let second = running(&new).await;
    assert_ne!(second["pid"], first["pid"]);
    let after = in_the_world(&page, &before["run"]).await;
    for what in ["player", "inventory", "position"] {
        assert_eq!(after[what], before[what], "{what}");
    }
    let accounts: Vec<Account> = bots.stop().into_iter().map(|life| life.bot.account).collect();
    assert!(accounts.iter().all(|account| account.done > 0), "{accounts:?}");

    let bots = play(accounts.into_iter().map(Some).collect());
    done(20).await;
    let pid = Pid::from_raw(i32::try_from(second["pid"].as_i64().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let again = in_the_world(&page, &after["run"]).await;
    assert_eq!((&again["player"], &again["inventory"]), (&before["player"], &before["inventory"]));
    assert_eq!(shard()["restarts"], 1, "an upgrade is no restart");
    let accounts: Vec<Account> = bots.stop().into_iter().map(|life| life.bot.account).collect();
    assert_eq!(supervisor.stop().unwrap(), Some(0));
    let (checked, faults) = Stored::read(&folder.path().join("data")).check(&accounts);
    assert!(checked > 40 && faults.is_empty(), "{checked} actions: {faults:?}");
}
