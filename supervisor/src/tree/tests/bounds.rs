//! What is driven from outside is bounded, and refused with the bound.

use super::*;

#[test]
fn everything_has_a_bound() {
    let limits = Limits {
        depth_max: 4,
        component_bytes_max: 8,
        path_bytes_max: 20,
        payload_bytes_max: 100,
        node_count_max: 12,
        total_bytes_max: 400,
        checks_max: 2,
        operations_max: 3,
        condition_terms_max: 6,
        condition_depth_max: 3,
        condition_bytes_max: 90,
        dependents_max: 2,
        session_count_max: 1,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits);
    bench.put("/base");
    let before = bench.machine.hash();
    let mut what = |operation: Operation| match bench.operate(operation) {
        Err(Refusal::TooLarge { what, found, limit } | Refusal::Full { what, found, limit }) => {
            assert!(found > limit, "{what}");
            assert_eq!(bench.machine.hash(), before, "{what}");
            what
        }
        other => panic!("{other:?}"),
    };
    let on = |condition: Condition| Operation::Get(Target { path: path("/"), condition: Some(condition) });
    let payload = |bytes: usize| Some(Payload::from(&vec![0; bytes][..]));
    assert_eq!(what(Operation::Put(put("/1/2/3/4/5"))), "depth of a path");
    assert_eq!(what(Operation::Put(put("/123456789"))), "length of a path's component");
    assert_eq!(what(Operation::Put(put("/1234567/1234567/1234567"))), "length of a path");
    assert_eq!(what(Operation::Put(Put::new(path("/a"), payload(101)))), "payload");
    let many = Condition::All(vec![Condition::Exists(true); 6]);
    assert_eq!(what(on(many)), "number of terms of a condition");
    let deep = (0..3).fold(Condition::Exists(true), |inner, _| Condition::Not(Box::new(inner)));
    assert_eq!(what(on(deep)), "nesting of a condition");
    assert_eq!(what(on(Condition::PayloadIs(payload(90).unwrap()))), "size of a condition");

    let get = || Operation::Get(target("/"));
    let transaction = Transaction { checks: Vec::new(), operations: vec![get(), get(), get(), get()] };
    let refusal = bench.apply(Command::Transaction(transaction)).unwrap_err();
    assert!(refusal.to_string().contains("number of operations"), "{refusal}");

    bench.kept("/d/1", exists("/base"));
    bench.kept("/d/2", exists("/base"));
    // One that is kept by it already is no more of them.
    bench.kept("/d/2", exists("/base"));
    let refusal = bench.operate(Operation::Put(Put { keep_while: Some(exists("/base")), ..put("/d/3") })).unwrap_err();
    assert!(refusal.to_string().contains("kept while something holds of /base"), "{refusal}");

    bench.apply(Command::OpenSession { ttl_ms: 1_000 }).unwrap();
    let refusal = bench.apply(Command::OpenSession { ttl_ms: 1_000 }).unwrap_err();
    assert!(refusal.to_string().contains("number of sessions"), "{refusal}");
    for ttl_ms in [0, u64::MAX] {
        let refusal = bench.apply(Command::OpenSession { ttl_ms }).unwrap_err();
        assert_eq!(reason(&refusal), "ttl out of range");
        let refusal = bench.operate(Operation::Put(Put { ttl_ms: Some(ttl_ms), ..put("/t") })).unwrap_err();
        assert_eq!(reason(&refusal), "ttl out of range");
    }

    let fill = |bench: &mut Bench, bytes: usize| {
        (0..)
            .map(|n| bench.operate(Operation::Put(Put::new(path(&format!("/f/{n}")), payload(bytes)))))
            .find_map(Result::err)
    };
    let refusal = fill(&mut bench, 90).unwrap();
    assert!(refusal.to_string().contains("number of bytes"), "{refusal}");
    assert!(bench.machine.facts().bytes <= 400);
    bench.delete("/f");
    let refusal = fill(&mut bench, 0).unwrap();
    assert!(refusal.to_string().contains("number of nodes"), "{refusal}");
    assert_eq!(bench.machine.facts().node_count, 12);
    // What is full can be emptied, and what is there be put again.
    bench.operate(Operation::Put(Put::new(path("/f/0"), None))).unwrap();
    bench.delete("/f");
    bench.put("/g");
}

#[test]
fn a_root_cannot_go() {
    let mut bench = Bench::new();
    assert_eq!(bench.operate(Operation::Delete(target("/"))), Err(Refusal::Root));
    assert_eq!(bench.operate(Operation::Put(Put { ttl_ms: Some(100), ..put("/") })), Err(Refusal::Root));
    bench.put("/");
    assert_eq!(bench.machine.get(&NodePath::root()).unwrap().payload, Some(Payload::from("x")));
}

#[test]
fn the_change_log_is_bounded_in_memory_and_in_the_store() {
    let limits = Limits { log_revisions_max: 8, log_bytes_max: 3_000, ..Limits::default() };
    let mut bench = Bench::with(limits);
    for round in 0..100 {
        let payload = Payload::from(&vec![b'x'; round * 10][..]);
        bench.operate(Operation::Put(Put::new(path("/a/b"), Some(payload)))).unwrap();
        let facts = bench.machine.facts();
        assert!(facts.log_revisions <= 8 && facts.log_bytes <= 3_000, "{facts:?}");
        let kept: BTreeSet<u64> = bench.disk.changes.keys().map(|(revision, _)| *revision).collect();
        assert_eq!(kept.len(), facts.log_revisions);
        assert!(kept.iter().all(|revision| *revision > facts.oldest_cursor));
    }
    // A revision larger than the whole log is not kept, and cuts everybody off.
    bench.operate(Operation::Put(Put::new(path("/large"), Some(Payload::from(&vec![b'x'; 5_000][..]))))).unwrap();
    let facts = bench.machine.facts();
    assert_eq!((facts.log_revisions, facts.log_bytes, facts.oldest_cursor), (0, 0, facts.revision));
    assert!(bench.disk.changes.is_empty());
    assert!(bench.machine.changes_after(facts.revision - 1, &Pattern::all()).is_err());
    assert_eq!(bench.disk.restore(limits).facts(), facts);
}

#[test]
fn a_list_is_bounded_by_bytes_and_count() {
    let limits = Limits { list_count_max: 50, answer_bytes_max: 1_000, ..Limits::default() };
    let mut bench = Bench::with(limits);
    for number in 0..100 {
        bench.put(&format!("/{number}"));
    }
    assert_eq!(bench.machine.list(&Pattern::all(), None, usize::MAX).nodes.len(), 50);
    for number in 0..100 {
        let payload = Payload::from(&[b'x'; 400][..]);
        bench.operate(Operation::Put(Put::new(path(&format!("/{number}")), Some(payload)))).unwrap();
    }
    let listing = bench.machine.list(&Pattern::all(), None, usize::MAX);
    assert!(listing.nodes.len() <= 4 && listing.next.is_some(), "{}", listing.nodes.len());
}
