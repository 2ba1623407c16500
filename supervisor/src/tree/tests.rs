//! The machine against a naive model, and its promises one by one.

mod bounds;
mod model;
mod random;

use super::change_log::Batch;
use super::command::{
    At, Cause, Change, ChangeKind, Command, Contents, Effect, NodeView, Operation, Put, Refusal, Reply, Revision,
    Target, Transaction, Write,
};
use super::condition::{Compare, Condition, Payload};
use super::limits::Limits;
use super::machine::{Machine, Outcome};
use super::path::{NodePath, Pattern};
use super::snapshot::read_export;
use model::{Model, reason};
use random::{Random, for_seeds};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a store would hold.
#[derive(Default, Clone)]
struct Disk {
    head: Vec<u8>,
    nodes: BTreeMap<NodePath, Vec<u8>>,
    sessions: BTreeMap<u64, Vec<u8>>,
    changes: BTreeMap<(u64, u32), Vec<u8>>,
}

impl Disk {
    fn write(&mut self, effects: &[Effect]) {
        for write in effects.iter().filter_map(|effect| match effect {
            Effect::Persist(writes) => Some(writes),
            Effect::Notify(_) => None,
        }) {
            for write in write.clone() {
                match write {
                    Write::Head(head) => self.head = head,
                    Write::Node(path, Some(record)) => drop(self.nodes.insert(path, record)),
                    Write::Node(path, None) => drop(self.nodes.remove(&path).unwrap()),
                    Write::Session(number, Some(record)) => drop(self.sessions.insert(number, record)),
                    Write::Session(number, None) => drop(self.sessions.remove(&number).unwrap()),
                    Write::Change { revision, place, bytes } => drop(self.changes.insert((revision, place), bytes)),
                    Write::TrimLog(through) => self.changes.retain(|(revision, _), _| *revision > through),
                    Write::ClearAll => *self = Disk::default(),
                }
            }
        }
    }

    fn restore(&self, limits: Limits) -> Machine {
        let changes = self.changes.iter().map(|((revision, _), bytes)| (*revision, bytes.clone()));
        Machine::restore(limits, &self.head, self.nodes.clone(), self.sessions.clone(), changes).unwrap()
    }
}

/// A machine with the log and the clock that it lacks.
struct Bench {
    machine: Machine,
    disk: Disk,
    index: u64,
    now_ms: u64,
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Bench { machine: Machine::new(limits), disk: Disk::default(), index: 0, now_ms: 1_000 }
    }

    fn outcome(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let outcome = self.machine.apply(At { index: self.index, now_ms: self.now_ms }, command);
        self.disk.write(&outcome.effects);
        outcome
    }

    fn apply(&mut self, command: Command) -> Result<Reply, Refusal> {
        self.outcome(command).reply
    }

    fn operate(&mut self, operation: Operation) -> Result<Reply, Refusal> {
        self.apply(Command::Transaction(operation.into()))
    }

    fn put(&mut self, path: &str) {
        self.operate(Operation::Put(put(path))).unwrap();
    }

    fn kept(&mut self, path: &str, keep_while: Condition) {
        self.operate(Operation::Put(Put { keep_while: Some(keep_while), ..put(path) })).unwrap();
    }

    fn delete(&mut self, path: &str) {
        self.operate(Operation::Delete(target(path))).unwrap();
    }

    fn paths(&self) -> Vec<String> {
        let listing = self.machine.list(&Pattern::all(), None, usize::MAX);
        listing.nodes.into_iter().map(|node| node.path.to_string()).filter(|path| path != "/").collect()
    }

    fn last_changes(&self) -> Vec<(String, ChangeKind, Option<Cause>)> {
        let batch = self.machine.changes_after(self.machine.revision() - 1, &Pattern::all()).unwrap();
        let [revision] = &batch.revisions[..] else { panic!("not one revision: {batch:?}") };
        revision.changes.iter().map(|change| (change.path.to_string(), change.kind, change.cause)).collect()
    }
}

fn path(text: &str) -> NodePath {
    text.parse().unwrap()
}

fn put(text: &str) -> Put {
    Put::new(path(text), Some(Payload::from("x")))
}

fn target(text: &str) -> Target {
    Target { path: path(text), condition: None }
}

fn exists(text: &str) -> Condition {
    Condition::At(path(text), Box::new(Condition::Exists(true)))
}

fn all_nodes(machine: &Machine) -> Vec<NodeView> {
    machine.list(&Pattern::all(), None, usize::MAX).nodes
}

/// Few enough nodes that the tree is full now and then, and a log that forgets.
fn small() -> Limits {
    Limits { node_count_max: 12, log_revisions_max: 25, ..Limits::default() }
}

#[test]
fn machine_and_model_agree() {
    let mut refusals: BTreeMap<&str, u32> = BTreeMap::new();
    let mut causes: BTreeSet<String> = BTreeSet::new();
    let counted = std::cell::RefCell::new((&mut refusals, &mut causes));
    for_seeds(100, |random| {
        let limits = Limits { node_count_max: 10 + random.below(40) as usize, ..small() };
        let mut bench = Bench::with(limits);
        let mut model = Model::new(limits);
        for step in 0..150 {
            // Commands that are refused take their place in the log as well.
            bench.now_ms += random.below(30);
            let mut sessions: Vec<u64> = model.sessions().iter().map(|session| session.session).collect();
            sessions.extend(random.below(2).checked_sub(1));
            let command = random.command(&sessions);
            let at = At { index: bench.index + 1, now_ms: bench.now_ms };
            let (expected, changes) = model.apply(at, &command);
            let before = (bench.machine.hash(), bench.machine.facts());
            let outcome = bench.outcome(command.clone());
            let shown = || format!("step {step}: {command:?}");
            assert_eq!(outcome.reply.as_ref().ok(), expected.as_ref(), "{} → {:?}", shown(), outcome.reply);
            if let Err(refusal) = &outcome.reply {
                *counted.borrow_mut().0.entry(reason(refusal)).or_default() += 1;
                assert_eq!(outcome.effects, [], "{}", shown());
                assert_eq!((bench.machine.hash(), bench.machine.facts()), before, "{}", shown());
            }
            assert_eq!(all_nodes(&bench.machine), model.nodes(), "{}", shown());
            assert_eq!(bench.machine.sessions(), model.sessions(), "{}", shown());
            assert_eq!(bench.machine.revision(), model.revision, "{}", shown());
            assert_eq!(bench.machine.audit(), (bench.machine.hash(), None), "{}", shown());
            let told = outcome.effects.iter().find_map(|effect| match effect {
                Effect::Notify(revision) => revision.clone(),
                Effect::Persist(_) => None,
            });
            assert_eq!(told.map_or(Vec::new(), |revision| revision.changes.clone()), changes, "{}", shown());
            counted.borrow_mut().1.extend(changes.iter().filter_map(|change| Some(format!("{:?}", change.cause?))));
        }
    });
    if std::env::var("VSEKAI_TREE_SEED").is_err() {
        // What does not occur is not tested.
        for reason in
            ["check failed", "condition failed", "missing", "exists", "keep-while unmet", "no session", "full"]
        {
            assert!(refusals.contains_key(reason), "{reason} did not occur: {refusals:?}");
        }
        let expected = ["Delete", "Empty", "KeepWhile", "Session", "Ttl"].map(str::to_owned);
        assert_eq!(causes, expected.into());
    }
}

/// Some commands, and the machine after them.
fn worked(random: &mut Random, limits: Limits, steps: u64) -> (Bench, Vec<(At, Command)>, Vec<Arc<Revision>>) {
    let mut bench = Bench::with(limits);
    let (mut log, mut history) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        bench.now_ms += random.below(30);
        let sessions: Vec<u64> = bench.machine.sessions().iter().map(|session| session.session).collect();
        let command = random.command(&sessions);
        log.push((At { index: bench.index + 1, now_ms: bench.now_ms }, command.clone()));
        for effect in bench.outcome(command).effects {
            if let Effect::Notify(Some(revision)) = effect {
                history.push(revision);
            }
        }
    }
    (bench, log, history)
}

#[test]
fn the_same_log_gives_the_same_hash_and_effects() {
    for_seeds(10, |random| {
        let (bench, log, _) = worked(random, small(), 200);
        let mut again = Machine::new(small());
        let mut disk = Disk::default();
        for (at, command) in &log {
            // Through what a replicated log would carry.
            let carried = serde_json::to_vec(command).unwrap();
            let outcome = again.apply(*at, serde_json::from_slice(&carried).unwrap());
            disk.write(&outcome.effects);
        }
        assert_eq!(again.hash(), bench.machine.hash());
        assert_eq!(disk.head, bench.disk.head);
        assert_eq!(disk.changes, bench.disk.changes);
        // Another log gives another hash.
        let (at, _) = log.last().unwrap();
        let put = Operation::Put(Put::new(NodePath::root(), Some(Payload::from("other"))));
        again.apply(At { index: at.index + 1, ..*at }, Command::Transaction(put.into()));
        assert_ne!(again.hash(), bench.machine.hash());
    });
}

#[test]
fn what_was_persisted_is_the_machine() {
    for_seeds(10, |random| {
        let mut limits = small();
        for _ in 0..4 {
            let (mut bench, ..) = worked(random, limits, 60);
            let mut restored = bench.disk.restore(limits);
            assert_eq!(restored.facts(), bench.machine.facts());
            assert_eq!(restored.hash(), bench.machine.hash());
            assert_eq!(all_nodes(&restored), all_nodes(&bench.machine));
            let oldest = bench.machine.facts().oldest_cursor;
            let changes = |machine: &Machine| machine.changes_after(oldest, &Pattern::all()).unwrap();
            assert_eq!(changes(&restored), changes(&bench.machine));
            // And goes on as it would have.
            let command = Command::Transaction(random.command(&[]).into_transaction());
            let at = At { index: bench.index + 1, now_ms: bench.now_ms };
            assert_eq!(restored.apply(at, command.clone()), bench.outcome(command));
            limits.log_bytes_max = 500;
        }
    });
}

impl Command {
    fn into_transaction(self) -> Transaction {
        match self {
            Command::Transaction(transaction) => transaction,
            _ => Transaction::from(Operation::Put(put("/a"))),
        }
    }
}

#[test]
fn damage_is_refused() {
    let mut bench = Bench::new();
    bench.put("/a/b");
    bench.operate(Operation::Put(Put::new(path("/z"), Some(Payload::from("twelve bytes"))))).unwrap();
    let refused = |damage: &dyn Fn(&mut Disk)| {
        let mut disk = bench.disk.clone();
        damage(&mut disk);
        let changes = disk.changes.iter().map(|((revision, _), bytes)| (*revision, bytes.clone()));
        let limits = Limits::default();
        Machine::restore(limits, &disk.head, disk.nodes.clone(), disk.sessions.clone(), changes).is_err()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|disk| drop(disk.nodes.pop_last())));
    assert!(refused(&|disk| disk.nodes.last_entry().unwrap().get_mut()[1] ^= 1));
    // A letter of a payload: only the hash can tell.
    assert!(refused(&|disk| disk.nodes.last_entry().unwrap().get_mut()[6] ^= 1));
    assert!(refused(&|disk| disk.nodes.last_entry().unwrap().get_mut()[0] = 2));
    assert!(refused(&|disk| disk.nodes.last_entry().unwrap().get_mut().push(0)));
    assert!(refused(&|disk| disk.head.truncate(3)));
}

#[test]
fn any_cursor_resumes_to_the_whole_history() {
    for_seeds(15, |random| {
        let limits = Limits { answer_bytes_max: 1 + random.below(2_000) as usize, node_count_max: 30, ..small() };
        let (bench, _, history) = worked(random, limits, 500);
        let facts = bench.machine.facts();
        assert!(facts.oldest_cursor > 0 && facts.log_revisions == limits.log_revisions_max);
        for pattern in [Pattern::all(), random.pattern(), random.pattern()] {
            let cursor = facts.oldest_cursor + random.below(facts.revision - facts.oldest_cursor + 1);
            let of = |revisions: &[Arc<Revision>]| -> Vec<(u64, Change)> {
                let changes = revisions.iter().flat_map(|one| one.changes.iter().map(|c| (one.revision, c.clone())));
                changes.filter(|(revision, change)| *revision > cursor && pattern.matches(&change.path)).collect()
            };
            let (mut at, mut found, mut more) = (cursor, Vec::new(), true);
            while more {
                let batch: Batch = bench.machine.changes_after(at, &pattern).unwrap();
                found.extend(batch.revisions);
                (at, more) = (batch.cursor, batch.more);
            }
            assert_eq!(of(&found), of(&history), "{pattern} after {cursor}");
            assert!(found.iter().all(|revision| !revision.changes.is_empty()));
            assert_eq!(at, facts.revision);
        }
        let compacted = bench.machine.changes_after(facts.oldest_cursor - 1, &Pattern::all()).unwrap_err();
        assert_eq!((compacted.oldest, compacted.newest), (facts.oldest_cursor, facts.revision));
        // One that this tree has never given.
        assert!(bench.machine.changes_after(facts.revision + 1, &Pattern::all()).is_err());
    });
}

#[test]
fn an_export_comes_back_to_the_byte() {
    for_seeds(20, |random| {
        let (bench, ..) = worked(random, Limits::default(), 150);
        let text = bench.machine.snapshot().to_text();
        let mut other = Bench::new();
        other.put("/something/else");
        let contents = read_export(text.as_bytes()).unwrap();
        let reply = other.apply(Command::Import(Box::new(contents))).unwrap();
        assert_eq!(reply, Reply::Count { revision: 2, count: all_nodes(&bench.machine).len() as u64 });
        assert_eq!(other.machine.snapshot().to_text(), text);
        // It is the same tree, but for the revisions.
        let timeless = |machine: &Machine| -> Vec<NodeView> {
            let nodes = all_nodes(machine).into_iter();
            nodes.map(|node| NodeView { created: 0, modified: 0, ..node }).collect()
        };
        assert_eq!(timeless(&other.machine), timeless(&bench.machine));
        assert_eq!(other.machine.sessions(), bench.machine.sessions());
        assert_eq!(other.machine.audit(), (other.machine.hash(), None));
        assert_eq!(other.disk.restore(Limits::default()).snapshot().to_text(), text);
        // Who followed must read the tree again.
        assert!(other.machine.changes_after(1, &Pattern::all()).is_err());
        assert!(other.machine.changes_after(2, &Pattern::all()).is_ok());
        // A session that is opened now has a number of its own.
        let Reply::Session(session) = other.apply(Command::OpenSession { ttl_ms: 1_000 }).unwrap() else { panic!() };
        assert!(bench.machine.sessions().iter().all(|known| known.session != session.session));
    });
}

#[test]
fn an_import_is_a_whole_tree() {
    let mut bench = Bench::new();
    bench.put("/a/b");
    bench.kept("/k", exists("/a"));
    let good = read_export(bench.machine.snapshot().to_text().as_bytes()).unwrap();
    let mut refused = |spoil: &dyn Fn(&mut Contents)| {
        let mut contents = good.clone();
        spoil(&mut contents);
        let before = bench.machine.hash();
        let reply = bench.apply(Command::Import(Box::new(contents)));
        assert!(reply.is_ok() || bench.machine.hash() == before);
        reply.err()
    };
    assert_eq!(refused(&|_| {}), None);
    let bad = |refusal: Option<Refusal>| matches!(refusal, Some(Refusal::BadImport { .. }));
    assert!(bad(refused(&|contents| drop(contents.nodes.remove(1)))), "no parent");
    assert!(bad(refused(&|contents| contents.nodes.swap(1, 2))), "order");
    assert!(bad(refused(&|contents| contents.nodes.truncate(2))), "an intermediate node without children");
    assert!(bad(refused(&|contents| contents.nodes[2].session = Some(9))), "a session that is not there");
    assert!(bad(refused(&|contents| contents.nodes[3].keep_while = Some(exists("/b")))), "keep-while");
    assert!(bad(refused(&|contents| contents.nodes[2].payload_version = 0)), "version");
    assert!(read_export(b"{}").is_err() && read_export(b"").is_err());
    let other = bench.machine.snapshot().to_text().replace("\"version\":1,\n", "\"version\":2,\n");
    assert!(read_export(other.as_bytes()).unwrap_err().contains("version 2"));
}

#[test]
fn keep_while_cascades_within_the_command() {
    let mut bench = Bench::new();
    bench.put("/0/x");
    for number in 1..50 {
        bench.kept(&format!("/{number}/x"), exists(&format!("/{}/x", number - 1)));
    }
    bench.kept("/last", Condition::At(path("/"), Box::new(Condition::ChildListLength(Compare::Ge(50)))));
    bench.put("/stays");
    bench.delete("/0/x");
    assert_eq!(bench.paths(), ["/stays"]);
    let changes = bench.last_changes();
    // Each with the node above that was made for it.
    assert_eq!(changes.len(), 101);
    let cause = |of: &str| changes.iter().find(|(path, ..)| path == of).unwrap().2;
    assert_eq!(cause("/0/x"), Some(Cause::Delete));
    assert_eq!(cause("/0"), Some(Cause::Empty));
    assert_eq!(cause("/49/x"), Some(Cause::KeepWhile));
    assert_eq!(cause("/last"), Some(Cause::KeepWhile));
}

#[test]
fn keep_while_in_a_circle_lives_until_it_is_broken() {
    let mut bench = Bench::new();
    let kept = |at: &str, by: &str| Operation::Put(Put { keep_while: Some(exists(by)), ..put(at) });
    let operations = vec![kept("/a", "/b"), kept("/b", "/c"), kept("/c", "/a")];
    bench.apply(Command::Transaction(Transaction { checks: Vec::new(), operations })).unwrap();
    bench.put("/d");
    assert_eq!(bench.paths(), ["/a", "/b", "/c", "/d"]);
    bench.delete("/b");
    assert_eq!(bench.paths(), ["/d"]);
}

#[test]
fn keep_while_must_hold_at_first() {
    let mut bench = Bench::new();
    let reply = bench.operate(Operation::Put(Put { keep_while: Some(exists("/b")), ..put("/a") }));
    assert_eq!(reply, Err(Refusal::KeepWhileUnmet { path: path("/a") }));
    assert_eq!(bench.paths(), Vec::<String>::new());
    // A payload may be what a node is kept by; a put without it makes the node stay.
    bench.put("/b");
    let is_x = Condition::At(path("/b"), Box::new(Condition::PayloadIs(Payload::from("x"))));
    bench.kept("/a", is_x.clone());
    bench.kept("/c", is_x);
    bench.put("/c");
    bench.operate(Operation::Put(Put::new(path("/b"), None))).unwrap();
    assert_eq!(bench.paths(), ["/b", "/c"]);
}

#[test]
fn nodes_go_with_their_session_or_time() {
    let mut bench = Bench::new();
    let Reply::Session(session) = bench.apply(Command::OpenSession { ttl_ms: 100 }).unwrap() else { panic!() };
    bench.operate(Operation::Put(Put { session: Some(session.session), ..put("/s/one") })).unwrap();
    bench.put("/s/one/below");
    bench.operate(Operation::Put(Put { ttl_ms: Some(150), ..put("/t") })).unwrap();
    bench.kept("/by", exists("/s"));
    assert_eq!(bench.machine.next_deadline(), Some(1_100));
    bench.now_ms = 1_099;
    assert_eq!(bench.apply(Command::Expire), Ok(Reply::Count { revision: bench.machine.revision(), count: 0 }));
    bench.apply(Command::RenewSession { session: session.session }).unwrap();
    assert_eq!(bench.machine.next_deadline(), Some(1_150));
    bench.now_ms = 1_150;
    bench.apply(Command::Expire).unwrap();
    assert_eq!(bench.paths(), ["/by", "/s", "/s/one", "/s/one/below"]);
    assert_eq!(bench.last_changes(), [("/t".into(), ChangeKind::Deleted, Some(Cause::Ttl))]);
    bench.now_ms = 1_199;
    bench.apply(Command::Expire).unwrap();
    assert_eq!(bench.paths(), Vec::<String>::new());
    let causes =
        [("/by", Cause::KeepWhile), ("/s", Cause::Empty), ("/s/one", Cause::Session), ("/s/one/below", Cause::Session)];
    assert_eq!(bench.last_changes(), causes.map(|(path, cause)| (path.to_owned(), ChangeKind::Deleted, Some(cause))));
    assert_eq!(
        bench.apply(Command::RenewSession { session: session.session }),
        Err(Refusal::NoSession { session: session.session })
    );
}

#[test]
fn a_version_is_never_met_twice() {
    let mut bench = Bench::new();
    bench.put("/a");
    let first = bench.machine.get(&path("/a")).unwrap();
    bench.delete("/a");
    bench.put("/a");
    let second = bench.machine.get(&path("/a")).unwrap();
    assert_eq!(first.payload_version, second.payload_version);
    assert_ne!(first.created, second.created);
}

#[test]
fn the_log_index_only_grows() {
    let mut bench = Bench::new();
    bench.put("/a");
    bench.index = 0;
    assert_eq!(bench.operate(Operation::Put(put("/b"))), Err(Refusal::IndexOrder { index: 1, last: 1 }));
}

/// By its meaning, one part after the other.
fn matches(parts: &[&str], components: &[&str]) -> bool {
    match (parts.split_first(), components.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), None) => matches(rest, components),
        (Some((&"**", rest)), Some((_, others))) => matches(rest, components) || matches(parts, others),
        (Some((part, rest)), Some((component, others))) => (*part == "*" || part == component) && matches(rest, others),
        _ => false,
    }
}

#[test]
fn patterns_mean_what_they_say() {
    for_seeds(4, |random| {
        let (mut yes, mut no) = (0, 0);
        for _ in 0..4_000 {
            let (path, pattern) = (random.path(), random.pattern());
            let text = pattern.to_string();
            let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
            let components: Vec<&str> = path.components().collect();
            let expected = matches(&parts, &components);
            assert_eq!(pattern.matches(&path), expected, "{pattern} and {path}");
            if expected { yes += 1 } else { no += 1 }
        }
        assert!(yes > 300 && no > 300, "{yes} {no}");
    });
}

#[test]
fn lists_are_pages_of_what_matches() {
    for_seeds(10, |random| {
        let (bench, ..) = worked(random, Limits::default(), 120);
        let everything = all_nodes(&bench.machine);
        for _ in 0..20 {
            let pattern = random.pattern();
            let expected: Vec<&NodeView> = everything.iter().filter(|node| pattern.matches(&node.path)).collect();
            assert_eq!(bench.machine.count(&pattern), expected.len() as u64, "{pattern}");
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let listing = bench.machine.list(&pattern, after.as_ref(), 3);
                assert!(listing.nodes.len() <= 3 && listing.revision == bench.machine.revision());
                found.extend(listing.nodes);
                assert!(found.len() <= expected.len(), "{pattern}: no end");
                after = listing.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{pattern}");
        }
    });
}

#[test]
fn texts_that_are_no_paths_are_refused() {
    for text in ["", "a", "a/b", "//", "/a/", "/a//b", "/.", "/a/..", "/a\n", "/a\u{0}b", "/*", "/a/**", "/a*"] {
        assert!(text.parse::<NodePath>().is_err(), "{text:?}");
    }
    for text in ["", "a", "/a/", "/a*", "/***", "/.", "/\u{7}"] {
        assert!(text.parse::<Pattern>().is_err(), "{text:?}");
    }
    for text in ["/", "/a", "/a b/ü/-.x", "/...", "/a/b/c/d"] {
        assert_eq!(path(text).as_str(), text);
        let json = serde_json::to_string(&path(text)).unwrap();
        assert_eq!(serde_json::from_str::<NodePath>(&json).unwrap(), path(text));
    }
    assert!(serde_json::from_str::<NodePath>("\"a\"").is_err());
}
