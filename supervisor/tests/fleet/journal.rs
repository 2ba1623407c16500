//! `[store]` and `[child.journal]`: what a dead child leaves in its journal reaches the store without its help. The test itself plays the
//! shard: it writes the journal, and "dies" when the storage is dropped.

use super::supervised::{Supervised, child, id, is_running, signal, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::sync::Arc;
use vsekai_schema::id::{EntityId, Tag};
use vsekai_schema::record::{FrameWriter, Home};
use vsekai_storage::{Config, NewWorld, Storage};

/// Frames in the journal that the store lacks.
const FRAMES: u64 = 100;

/// A supervisor with a store and a child `shard` with a journal, which does nothing.
fn supervised(wait_s: f64, group: &str) -> Supervised {
    let journal = format!("journal = {{ data = \"world\", wait_s = {wait_s} }}");
    let shard = child("shard", "exec sleep 1000", &journal);
    let supervised = Supervised::start(&format!("[store]\nurl = \"local:db\"\n{group}{shard}"));
    supervised.wait_for("store", "running");
    supervised.wait_for("shard", "running");
    supervised
}

/// The shard's storage, or that of another machine with a journal in `data`.
fn config(supervised: &Supervised, data: &str) -> Config {
    let store = format!("unix:{}", supervised.path("state/store.sock").display());
    Config {
        flush_interval_ms: 3_600_000,
        min_free_bytes: 0,
        ..Config::new(store, supervised.path(data).join("journal"))
    }
}

/// Writes a world with frames that are only in the journal, and dies.
fn live_and_die(supervised: &Supervised) {
    let opened = Storage::open(config(supervised, "world"), Arc::new(|_| ())).unwrap();
    let world = NewWorld { frame: 0, state_hash: 1, chunks: Vec::new(), alone: Vec::new(), ids_used_to: 5_000 };
    opened.storage.create(world).unwrap();
    for number in 1..=FRAMES {
        let mut writer = FrameWriter::new();
        writer.write(EntityId(number), Home::Alone, [(Tag(1), &[7; 300][..])].into_iter());
        opened.storage.append(number, writer.finish(number, number * 1_000, &[])).unwrap();
    }
    wait_until("durable frames", || opened.storage.durable_frame() == FRAMES);
    assert_eq!(opened.storage.status().flushed_frame, 0);
}

/// The store alone has the world: another machine, without the journal, starts on it.
fn check_world(supervised: &Supervised) {
    let opened = Storage::open(config(supervised, "elsewhere"), Arc::new(|_| ())).unwrap();
    let world = opened.world.unwrap();
    assert_eq!((world.frame, world.state_hash, world.alone.len()), (FRAMES, FRAMES * 1_000, FRAMES as usize));
}

fn kill(supervised: &Supervised) -> Value {
    let before = supervised.wait_for("shard", "running");
    signal(id(&before["pid"]), Signal::KILL);
    before
}

fn wait_for_journal(supervised: &Supervised, state: &str) -> Value {
    let mut child = Value::Null;
    wait_until(&format!("a journal that is {state}"), || {
        child = supervised.child("shard");
        child["journal"]["state"] == state
    });
    child
}

/// Processes that bring a journal of this test in.
fn drains(supervised: &Supervised) -> Vec<i32> {
    let journal = supervised.path("world/journal").display().to_string();
    let ids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
        words.contains(&&b"drain-journal"[..]) && words.contains(&journal.as_bytes()) && is_running(*pid)
    })
    .collect()
}

#[test]
fn a_killed_childs_journal_is_in_the_store_before_it_is_started_again() {
    let supervised = supervised(30.0, "");
    live_and_die(&supervised);
    let before = kill(&supervised);
    wait_until("the next run", || supervised.child("shard")["run"].as_u64() > before["run"].as_u64());
    let child = supervised.wait_for("shard", "running");
    assert_eq!((&child["journal"]["frames"], &child["journal"]["frame"]), (&FRAMES.into(), &FRAMES.into()), "{child}");
    check_world(&supervised);
    let board: Value = serde_json::from_str(&supervised.done(&["status", "--json"])).unwrap();
    let happened = board["recent"].as_array().unwrap();
    let at = |wanted: &str| happened.iter().rposition(|event| event["child"] == "shard" && event["kind"] == wanted);
    assert!(at("journal").unwrap() < at("started").unwrap(), "{happened:?}");
}

#[test]
fn a_quarantined_childs_journal_reaches_a_store_that_was_down() {
    let supervised = supervised(30.0, "[[group]]\nname = \"main\"\nrestarts_max = 0\n");
    live_and_die(&supervised);
    supervised.done(&["stop", "store"]);
    supervised.wait_for("store", "stopped");
    kill(&supervised);
    let waiting = wait_for_journal(&supervised, "waiting");
    assert_eq!(waiting["state"], "quarantined");
    assert!(waiting["backlog_bytes"].as_u64().unwrap() > FRAMES * 300, "{waiting}");
    assert!(waiting["reason"].as_str().unwrap().contains("waits for the store"), "{waiting}");
    let store = || -> Value {
        serde_json::from_str::<Value>(&supervised.done(&["status", "--json"])).unwrap()["store"].clone()
    };
    wait_until("an unreachable store", || store()["reachable"] == false && store()["last_error"].is_string());
    assert!(store()["backlog_bytes"].as_u64().unwrap() > FRAMES * 300);
    let answer = supervised.http("/api/store");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"reachable\":false"), "{answer}");
    let metrics = supervised.http("/metrics");
    let waits = "vsekai_child_journal_waits{child=\"shard\",group=\"main\"} 1\n";
    assert!(metrics.contains("\nvsekai_store_up 0\n") && metrics.contains(waits), "{metrics}");

    supervised.done(&["start", "store"]);
    let child = wait_for_journal(&supervised, "drained");
    assert_eq!((&child["state"], &child["journal"]["frames"]), (&"quarantined".into(), &FRAMES.into()), "{child}");
    assert_eq!(child["run"], 1, "it was started for that");
    check_world(&supervised);
    wait_until("a reachable store", || store()["reachable"] == true && store()["commits"].as_u64() > Some(0));
    assert_eq!(store()["backlog_bytes"], 0);
    let metrics = supervised.http("/metrics");
    assert!(metrics.contains("\nvsekai_store_up 1\n") && metrics.contains(&waits.replace("} 1", "} 0")), "{metrics}");
}

#[test]
fn a_drain_ends_with_its_supervisor_and_the_next_one_goes_on() {
    let mut supervised = supervised(600.0, "");
    live_and_die(&supervised);
    let store = id(&supervised.child("store")["pid"]);
    // It hangs: whoever asks it waits.
    signal(store, Signal::STOP);
    kill(&supervised);
    wait_until("a drain", || drains(&supervised).len() == 1);
    let first = drains(&supervised)[0];
    supervised.kill_supervisor();
    wait_until("the drain's end", || !is_running(first));
    supervised.again();
    wait_until("another drain", || drains(&supervised).len() == 1);
    assert_eq!(supervised.child("shard")["state"], "recovering");
    assert_eq!(id(&supervised.child("store")["pid"]), store, "the store did not outlive the supervisor");
    signal(store, Signal::CONT);
    let child = supervised.wait_for("shard", "running");
    assert_eq!((&child["journal"]["frames"], &child["journal"]["frame"]), (&FRAMES.into(), &FRAMES.into()), "{child}");
    check_world(&supervised);
    assert_eq!(supervised.stop(), Some(0));
}

#[test]
fn a_restart_does_not_wait_for_the_store_for_ever() {
    let supervised = supervised(0.3, "");
    live_and_die(&supervised);
    supervised.done(&["stop", "store"]);
    supervised.wait_for("store", "stopped");
    let before = kill(&supervised);
    wait_until("the next run", || supervised.child("shard")["run"].as_u64() > before["run"].as_u64());
    let child = supervised.wait_for("shard", "running");
    assert_eq!((&child["journal"]["state"], drains(&supervised).len()), (&"busy".into(), 0), "{child}");
    // It goes down for good: then there is nobody but us.
    supervised.done(&["stop", "shard"]);
    wait_for_journal(&supervised, "waiting");
    supervised.done(&["start", "store"]);
    wait_for_journal(&supervised, "drained");
    check_world(&supervised);
}
