//! Waiting for a key to change.

use super::{Case, Ground, Needs, case};
use crate::error::Error;
use crate::kv::{Atomic, Transaction, VERSIONSTAMP_BYTES, WATCHES_MAX, Watch};
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    case("a_watch_fires_on_each_kind_of_change", a_watch_fires_on_each_kind_of_change),
    case("a_watch_does_not_fire_on_the_same_value", a_watch_does_not_fire_on_the_same_value),
    case("a_watch_wakes_who_waits", a_watch_wakes_who_waits),
    case("a_watch_begins_with_its_commit", a_watch_begins_with_its_commit),
    case("a_watch_knows_of_a_change_before_its_commit", a_watch_knows_of_a_change_before_its_commit),
    case("a_watch_compares_with_own_writes", a_watch_compares_with_own_writes),
    case("a_watch_conflicts_with_nobody", a_watch_conflicts_with_nobody),
    case("a_watch_ends_with_its_transaction", a_watch_ends_with_its_transaction),
    Case { name: "there_are_only_so_many_watches", needs: Needs::Faults, check: there_are_only_so_many_watches },
];

/// Longer than any change takes to be told.
const LONG: Duration = Duration::from_secs(20);

fn watch(ground: &Ground<'_>, name: &str) -> Watch {
    let mut transaction = ground.begin();
    let watch = transaction.watch(&ground.key(name)).unwrap();
    transaction.commit().unwrap();
    watch
}

/// Returns when the store tells of changes that were made before: another watch, begun later, has fired.
fn told_of_everything(ground: &Ground<'_>) {
    let barrier = watch(ground, "barrier");
    let before = ground.text("barrier").unwrap_or_default();
    ground.put(&[("barrier", &(before + "x"))]);
    assert!(barrier.wait(LONG).unwrap(), "a watch does not fire");
}

fn a_watch_fires_on_each_kind_of_change(ground: &Ground<'_>) {
    type Change = fn(&mut Transaction, &[u8]);
    let changes: [(&str, Option<&str>, Change); 8] = [
        ("another value", Some("1"), |t, key| t.set(key, "2")),
        ("an empty value", Some("1"), |t, key| t.set(key, "")),
        ("a first value", None, |t, key| t.set(key, "1")),
        ("an empty first value", None, |t, key| t.set(key, "")),
        ("a clear", Some("1"), |t, key| t.clear(key)),
        ("a clear of a range", Some("1"), |t, key| t.clear_range(key, &[key, b"~"].concat())),
        ("an atomic operation", Some("1"), |t, key| t.atomic(Atomic::Add, key, &[1])),
        ("a stamp", Some("1"), |t, key| t.set_versionstamped_value(key, &[0; VERSIONSTAMP_BYTES], 0)),
    ];
    for (what, before, change) in changes {
        ground.clear_all();
        if let Some(before) = before {
            ground.put(&[("a", before)]);
        }
        let [watched, neighbour] = ["a", "b"].map(|name| watch(ground, name));
        assert!(!watched.wait(Duration::ZERO).unwrap(), "{what}: fires before it");
        ground.write(|transaction| change(transaction, &ground.key("a")));
        assert!(watched.wait(LONG).unwrap(), "{what}: does not fire");
        assert!(watched.wait(LONG).unwrap(), "{what}: it stays so");
        told_of_everything(ground);
        assert!(!neighbour.wait(Duration::ZERO).unwrap(), "{what}: the watch of another key fires");
    }
}

fn a_watch_does_not_fire_on_the_same_value(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("b", "2")]);
    let watched = ["a", "missing"].map(|name| watch(ground, name));
    ground.put(&[("a", "1"), ("b", "3")]);
    ground.write(|transaction| {
        transaction.clear(&ground.key("missing"));
        transaction.atomic(Atomic::CompareAndClear, &ground.key("a"), b"2");
        transaction.atomic(Atomic::ByteMax, &ground.key("a"), b"0");
    });
    ground.write(|transaction| {
        transaction.clear_range(&ground.key("a"), &ground.key("z"));
        transaction.set(&ground.key("a"), "1");
    });
    told_of_everything(ground);
    for watch in &watched {
        assert!(!watch.wait(Duration::ZERO).unwrap(), "it fires though the value is the same");
    }
    ground.put(&[("a", "2"), ("missing", "1")]);
    for watch in &watched {
        assert!(watch.wait(LONG).unwrap(), "it has been forgotten");
    }
}

fn a_watch_wakes_who_waits(ground: &Ground<'_>) {
    let watched = watch(ground, "a");
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| watched.wait(LONG))).collect();
        assert!(!watched.wait(Duration::from_millis(20)).unwrap(), "nothing has changed yet");
        ground.put(&[("a", "1")]);
        for thread in waiting {
            assert!(thread.join().unwrap().unwrap(), "it waits for something else");
        }
    });
}

fn a_watch_begins_with_its_commit(ground: &Ground<'_>) {
    ground.put(&[("a", "1")]);
    let mut transaction = ground.begin();
    let watched = transaction.watch(&ground.key("a")).unwrap();
    ground.put(&[("a", "2")]);
    told_of_everything(ground);
    assert!(!watched.wait(Duration::ZERO).unwrap(), "it fires before its transaction is committed");
    transaction.commit().unwrap();
    assert!(watched.wait(LONG).unwrap(), "the change was before the commit, but behind the read");
}

fn a_watch_knows_of_a_change_before_its_commit(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("b", "1")]);
    let mut transaction = ground.begin();
    transaction.read_version().unwrap();
    ground.put(&[("a", "2"), ("b", "2")]);
    ground.put(&[("b", "1")]);
    // It compares with what its transaction sees, not with what is there when it begins.
    let [changed, changed_back] = ["a", "b"].map(|name| transaction.watch(&ground.key(name)).unwrap());
    transaction.set(&ground.key("c"), "1");
    transaction.commit().unwrap();
    assert!(changed.wait(LONG).unwrap(), "the value is not the one that the transaction saw");
    ground.put(&[("b", "3")]);
    assert!(changed_back.wait(LONG).unwrap());
}

fn a_watch_compares_with_own_writes(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("b", "1")]);
    let mut transaction = ground.begin();
    transaction.set(&ground.key("a"), "own");
    transaction.clear(&ground.key("b"));
    let watched = ["a", "b"].map(|name| transaction.watch(&ground.key(name)).unwrap());
    transaction.commit().unwrap();
    told_of_everything(ground);
    for watch in &watched {
        assert!(!watch.wait(Duration::ZERO).unwrap(), "its own write is no change");
    }
    ground.put(&[("a", "1"), ("b", "1")]);
    for watch in &watched {
        assert!(watch.wait(LONG).unwrap(), "back to what it was before is a change");
    }
}

fn a_watch_conflicts_with_nobody(ground: &Ground<'_>) {
    let mut transaction = ground.begin();
    let watched = transaction.watch(&ground.key("a")).unwrap();
    transaction.set(&ground.key("b"), "1");
    ground.put(&[("a", "1")]);
    transaction.commit().expect("what is watched is not read");
    assert!(watched.wait(LONG).unwrap());
}

fn a_watch_ends_with_its_transaction(ground: &Ground<'_>) {
    ground.put(&[("a", "1")]);
    let mut transaction = ground.begin();
    let dropped = transaction.watch(&ground.key("a")).unwrap();
    drop(transaction);
    assert!(dropped.wait(LONG).is_err(), "of a dropped transaction");

    let mut transaction = ground.begin();
    ground.text_in(&mut transaction, "a");
    transaction.set(&ground.key("b"), "1");
    let failed = transaction.watch(&ground.key("b")).unwrap();
    ground.put(&[("a", "2")]);
    let error = transaction.commit().unwrap_err();
    assert!(matches!(error, Error::Conflict), "{error:?}");
    transaction.on_error(error).unwrap();
    assert!(failed.wait(LONG).is_err(), "of an attempt that conflicted");

    let kept = watch(ground, "a");
    let forgotten = watch(ground, "a");
    drop(forgotten);
    ground.put(&[("a", "3")]);
    assert!(kept.wait(LONG).unwrap(), "a dropped watch takes others with it");
}

/// One more than the limit is an error of that watch, and of nothing else.
fn there_are_only_so_many_watches(ground: &Ground<'_>) {
    let watched = ground.key("a");
    // Others may have some, too.
    let mut watches = Vec::new();
    let mut refusals = Vec::new();
    let mut transaction = ground.begin();
    transaction.set(&ground.key("committed"), "1");
    for _ in 0..=WATCHES_MAX {
        match transaction.watch(&watched) {
            Ok(watch) => watches.push(watch),
            Err(error) => refusals.push(error),
        }
    }
    transaction.commit().expect("a watch that can't begin is no reason not to commit");
    assert_eq!(ground.text("committed").as_deref(), Some("1"));
    refusals.extend(
        watches
            .extract_if(.., |watch| watch.wait(Duration::ZERO).is_err())
            .map(|watch| watch.wait(Duration::ZERO).expect_err("it has ended")),
    );
    assert!(!refusals.is_empty(), "all of {} watches were begun", WATCHES_MAX + 1);
    assert!(refusals.len() < 100, "{} of {} watches were refused", refusals.len(), WATCHES_MAX + 1);
    assert!(refusals.iter().all(|error| !error.is_retryable()), "{refusals:?}");
    ground.put(&[("a", "1")]);
    assert!(watches.iter().all(|watch| watch.wait(LONG).unwrap()), "one of those begun did not fire");
    drop(watches);
    let another = watch(ground, "a");
    ground.put(&[("a", "2")]);
    assert!(another.wait(LONG).unwrap(), "what dropped watches took is not given back");
}
