//! What the state tree takes: memory of a node, commands a second, and how long a cascade lasts.
//!
//! `cargo run --release --example tree_figures -p vsekai-supervisor`
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use serde_json::json;
use std::path::Path;
use std::time::Instant;
use tempfile::TempDir;
use vsekai_storage::kv::Database;
use vsekai_supervisor::tree::command::{At, Command, Operation, Put, Transaction};
use vsekai_supervisor::tree::condition::{Condition, Payload};
use vsekai_supervisor::tree::machine::Machine;
use vsekai_supervisor::tree::path::NodePath;
use vsekai_supervisor::tree::{Limits, TreeHandle};

fn path(text: &str) -> NodePath {
    text.parse().unwrap()
}

fn put(at: &str, payload: &str) -> Operation {
    Operation::Put(Put::new(path(at), Some(Payload::from(payload))))
}

fn transaction(operations: Vec<Operation>) -> Command {
    Command::Transaction(Transaction { checks: Vec::new(), operations })
}

fn open(directory: &Path) -> TreeHandle {
    let database = Database::open(&format!("local:{}", directory.display())).unwrap();
    TreeHandle::open(database, Limits::default()).unwrap()
}

/// Resident bytes of this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("Rss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn main() {
    // The change log is no part of a node. What one tree gives back, the next must not take: all of them stay.
    let limits = Limits { node_count_max: 200_000, log_revisions_max: 0, ..Limits::default() };
    let mut machines = Vec::new();
    for payload_bytes in [0, 32, 256] {
        let before = resident();
        let mut machine = Machine::new(limits);
        let text = "x".repeat(payload_bytes);
        for number in 0..100_000u64 {
            let at = format!("/shards/{:04}/players/{number:08}", number / 100);
            let command = transaction(vec![put(&at, &text)]);
            machine.apply(At { index: number + 1, now_ms: 0 }, command).reply.unwrap();
        }
        let facts = machine.facts();
        let per_node = (resident() - before) / facts.node_count;
        let own = facts.bytes / facts.node_count;
        println!(
            "{} nodes of {payload_bytes} B: {per_node} B resident each, of them path and payload {own} B",
            facts.node_count
        );
        machines.push(machine);
    }
    let mut machine = Machine::new(limits);
    let began = Instant::now();
    for number in 0..100_000u64 {
        let command = transaction(vec![put(&format!("/n/{}", number % 1_000), "payload of some bytes")]);
        machine.apply(At { index: number + 1, now_ms: 0 }, command).reply.unwrap();
    }
    println!("machine alone: {:.0} puts/s", 100_000.0 / began.elapsed().as_secs_f64());

    let directory = TempDir::new_in(std::env::current_dir().unwrap()).unwrap();
    let tree = open(directory.path());
    for (writers, each) in [(1, 500), (8, 500), (64, 300)] {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let tree = &tree;
                scope.spawn(move || {
                    for number in 0..each {
                        let at = format!("/w/{writer}/{}", number % 50);
                        tree.apply_blocking(transaction(vec![put(&at, "payload of some bytes")])).unwrap();
                    }
                });
            }
        });
        let rate = f64::from(writers * each) / began.elapsed().as_secs_f64();
        println!("embedded store, {writers} writers: {rate:.0} durable commands/s");
    }
    let keep_while = Some(Condition::At(path("/gate"), Box::new(Condition::Exists(true))));
    tree.apply_blocking(transaction(vec![put("/gate", "")])).unwrap();
    for number in 0..10_000 {
        let kept = Put { keep_while: keep_while.clone(), ..Put::new(path(&format!("/kept/{number}")), None) };
        let began = Instant::now();
        tree.apply_blocking(transaction(vec![Operation::Put(kept)])).unwrap();
        if number == 9_999 {
            println!("the 10,000th kept node: {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
        }
        if number == 999 {
            println!("the 1,000th kept node: {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
        }
    }
    let began = Instant::now();
    let gate = Operation::Delete(serde_json::from_value(json!({ "path": "/gate" })).unwrap());
    tree.apply_blocking(transaction(vec![gate])).unwrap();
    println!("a cascade over 10,000 nodes: {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
}
