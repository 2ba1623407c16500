//! The supervisor's page in a real browser, while a real shard under it is killed and restarted.

use fantoccini::Locator;
use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;
use vsekai_bench::bot::Style;
use vsekai_bench::process::program;
use vsekai_tests::browser::Browser;
use vsekai_tests::harness::{Bots, eventually};
use vsekai_tests::proofs::supervise::Supervisor;

const PATIENCE: Duration = Duration::from_secs(30);
const SCREENSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/artefacts/supervisor.png");

/// Notes each state that the shard's row shows, from now on. A reload would forget them.
const WATCH: &str = "(() => { const row = document.querySelector('[data-testid=child-shard]'), shown = () => \
    row.querySelector('.state').textContent; window.seen = [shown()]; \
    new MutationObserver(() => { if (window.seen.at(-1) !== shown()) window.seen.push(shown()); }) \
    .observe(row, { attributes: true, subtree: true, childList: true, characterData: true }); return 'watching'; })()";

fn pid(supervisor: &Supervisor) -> Option<i64> {
    supervisor.child("shard").unwrap()["pid"].as_i64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shard_is_seen_restarting_and_running_again_without_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        "[http]\naddress = \"127.0.0.1:0\"\n[store]\nurl = \"local:db\"\n[[child]]\nname = \"shard\"\n\
         command = [{:?}, \"run\", \"--data\", \"data\", \"--http\", \"{http}\", \"--store\", \"unix:state/store.sock\"]\n\
         health = {{ kind = \"notify\", timeout_s = 5 }}\njournal = {{ data = \"data\" }}\n",
        program("vsekai-shard").unwrap()
    );
    let mut supervisor = Supervisor::start(folder.path(), &config).unwrap();
    let page = Browser::start().await;
    page.client.goto(&format!("{}/#shard", supervisor.url)).await.unwrap();
    let state = "document.querySelector('[data-testid=child-shard]')?.dataset.state";
    let running = async || (page.evaluate(state).await == "running").then_some(());
    eventually("the shard on the page", PATIENCE, running).await;
    let bots = Bots::play(&format!("ws://{http}/"), vec![None; 5], 11, Style::Mixed);
    let text = "document.querySelector('[data-testid=child-shard]').innerText";
    let ticks = async || page.evaluate(text).await.as_str()?.contains("60.").then_some(());
    eventually("its tick rate", PATIENCE, ticks).await;
    assert_eq!(page.evaluate(WATCH).await, "watching");

    let first = pid(&supervisor).unwrap();
    kill_process(Pid::from_raw(i32::try_from(first).unwrap()).unwrap(), Signal::KILL).unwrap();
    let seen = eventually("the page to show it running again", PATIENCE, async || {
        let seen = page.evaluate("window.seen").await;
        let seen: Vec<String> = serde_json::from_value(seen).ok()?;
        (seen.len() > 1 && seen.last().is_some_and(|state| state == "running")).then_some(seen)
    })
    .await;
    assert!(seen[0] == "running" && seen.iter().any(|state| state == "restarting"), "{seen:?}");
    let second = pid(&supervisor).unwrap();
    assert_ne!(second, first);
    let shown = page.evaluate(text).await;
    assert!(shown.as_str().unwrap().contains(&second.to_string()), "{shown}");
    let happened = page.evaluate("document.querySelector('[data-testid=happened]').innerText").await;
    assert!(happened.as_str().unwrap().contains("SIGKILL"), "{happened}");
    let log = "document.querySelector('[data-testid=log]').innerText";
    eventually("the log of the second run", PATIENCE, async || {
        page.evaluate(log).await.as_str()?.contains("world loaded").then_some(())
    })
    .await;

    let store = page.evaluate("document.querySelector('[data-testid=store]').innerText").await;
    assert!(store.as_str().unwrap().contains("answers") && store.as_str().unwrap().contains("commit p99"), "{store}");

    // By hand, and only after a question.
    let find = async |id: &str| page.client.find(Locator::Css(&format!("[data-testid='{id}']"))).await.unwrap();
    find("restart-shard").await.click().await.unwrap();
    assert_eq!(pid(&supervisor), Some(second), "restarted without a question");
    find("confirm").await.click().await.unwrap();
    eventually("another process", PATIENCE, async || pid(&supervisor).filter(|third| *third != second)).await;
    eventually("the shard to run again", PATIENCE, running).await;
    eventually("its tick rate again", PATIENCE, ticks).await;
    let picture = page.client.screenshot().await.unwrap();
    std::fs::create_dir_all(Path::new(SCREENSHOT).parent().unwrap()).unwrap();
    std::fs::write(SCREENSHOT, picture).unwrap();
    let severe: Vec<_> = page.console().into_iter().filter(|(level, _)| level == "SEVERE").collect();
    assert!(severe.is_empty(), "{severe:?}");
    drop(bots.stop());
    assert_eq!(supervisor.stop().unwrap(), Some(0));
}
