//! One snapshot, and the transaction's own writes over it.

use super::{Case, Ground, case, texts};
use crate::kv::{Atomic, RangeRead};
use std::collections::BTreeMap;

pub(super) const CASES: &[Case] = &[
    case("the_snapshot_is_taken_at_the_first_read", the_snapshot_is_taken_at_the_first_read),
    case("the_snapshot_stays_as_it_is", the_snapshot_stays_as_it_is),
    case("own_writes_lie_over_the_snapshot", own_writes_lie_over_the_snapshot),
    case("own_clears_hide_what_is_stored", own_clears_hide_what_is_stored),
    case("own_writes_are_seen_by_nobody_else", own_writes_are_seen_by_nobody_else),
    case("writes_of_one_key_count_in_their_order", writes_of_one_key_count_in_their_order),
    case("ranges_with_limit_and_reverse", ranges_with_limit_and_reverse),
    case("ranges_past_many_own_clears", ranges_past_many_own_clears),
    case("ranges_of_nothing", ranges_of_nothing),
    case("keys_are_ordered_as_bytes", keys_are_ordered_as_bytes),
    case("empty_keys_and_values", empty_keys_and_values),
    case("large_ranges_in_batches", large_ranges_in_batches),
];

fn the_snapshot_is_taken_at_the_first_read(ground: &Ground<'_>) {
    let mut transaction = ground.begin();
    let committed = ground.put(&[("a", "1"), ("b", "1")]);
    assert_eq!(ground.text_in(&mut transaction, "a").as_deref(), Some("1"), "a commit before the first read");
    let version = transaction.read_version().unwrap();
    assert!(version >= committed.version, "read at {version}, before the commit at {}", committed.version);
    ground.put(&[("a", "2"), ("b", "2")]);
    assert_eq!(ground.text_in(&mut transaction, "b").as_deref(), Some("1"), "a commit after the first read");
    assert_eq!(transaction.read_version().unwrap(), version, "the read version changes");
}

fn the_snapshot_stays_as_it_is(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("c", "1"), ("e", "1")]);
    let mut transaction = ground.begin();
    transaction.read_version().unwrap();
    let before = texts(&[("a", "1"), ("c", "1"), ("e", "1")]);
    ground.put(&[("a", "2"), ("b", "new"), ("f", "new")]);
    assert_eq!(ground.texts_in(&mut transaction, "", "z"), before);
    ground.write(|other| other.clear_range(&ground.key("b"), &ground.key("d")));
    assert_eq!(ground.texts_in(&mut transaction, "", "z"), before);
    ground.write(|other| {
        other.atomic(Atomic::CompareAndClear, &ground.key("e"), b"1");
        other.atomic(Atomic::ByteMax, &ground.key("a"), b"3");
    });
    assert_eq!(ground.texts_in(&mut transaction, "", "z"), before);
    for name in ["a", "c", "e"] {
        assert_eq!(ground.text_in(&mut transaction, name).as_deref(), Some("1"));
    }
    assert_eq!(ground.text_in(&mut transaction, "b"), None);
    let mut reverse = before;
    reverse.reverse();
    let (begin, end) = (ground.key(""), ground.end());
    let found = transaction.get_range(&RangeRead::new(&begin, &end).reverse().snapshot()).unwrap();
    assert_eq!(ground.texts(found), reverse);
    assert_eq!(ground.all(), texts(&[("a", "3"), ("f", "new")]));
}

fn own_writes_lie_over_the_snapshot(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]);
    let mut transaction = ground.begin();
    transaction.set(&ground.key("aa"), "own");
    transaction.set(&ground.key("b"), "own");
    transaction.clear(&ground.key("c"));
    transaction.clear(&ground.key("missing"));
    transaction.atomic(Atomic::ByteMax, &ground.key("d"), b"5");
    transaction.atomic(Atomic::ByteMax, &ground.key("e"), b"own");
    let expected =
        [("a", Some("1")), ("aa", Some("own")), ("b", Some("own")), ("c", None), ("d", Some("5")), ("e", Some("own"))];
    for (name, value) in expected {
        assert_eq!(ground.text_in(&mut transaction, name).as_deref(), value, "key {name}");
        let untracked = transaction.get_snapshot(&ground.key(name)).unwrap();
        assert_eq!(untracked.as_deref(), value.map(str::as_bytes), "key {name} in a snapshot read");
    }
    let all = texts(&[("a", "1"), ("aa", "own"), ("b", "own"), ("d", "5"), ("e", "own")]);
    assert_eq!(ground.texts_in(&mut transaction, "", "z"), all);
    let (begin, end) = (ground.key(""), ground.end());
    let untracked = transaction.get_range(&RangeRead::new(&begin, &end).snapshot()).unwrap();
    assert_eq!(ground.texts(untracked), all);
    transaction.commit().unwrap();
    assert_eq!(ground.all(), all);
}

fn own_clears_hide_what_is_stored(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1")]);
    let mut transaction = ground.begin();
    transaction.set(&ground.key("bb"), "cleared again");
    transaction.atomic(Atomic::ByteMax, &ground.key("c"), b"cleared again");
    transaction.clear_range(&ground.key("b"), &ground.key("d"));
    assert_eq!(ground.texts_in(&mut transaction, "", "z"), texts(&[("a", "1"), ("d", "1"), ("e", "1")]));
    for name in ["b", "bb", "c"] {
        assert_eq!(ground.text_in(&mut transaction, name), None, "key {name}");
    }
    transaction.set(&ground.key("bb"), "own");
    transaction.atomic(Atomic::ByteMin, &ground.key("c"), b"9");
    assert_eq!(
        ground.texts_in(&mut transaction, "", "z"),
        texts(&[("a", "1"), ("bb", "own"), ("c", "9"), ("d", "1"), ("e", "1")])
    );
    transaction.clear_range(&ground.key("a"), &ground.key("bc"));
    let all = texts(&[("c", "9"), ("d", "1"), ("e", "1")]);
    assert_eq!(ground.texts_in(&mut transaction, "", "z"), all);
    transaction.commit().unwrap();
    assert_eq!(ground.all(), all);
}

fn own_writes_are_seen_by_nobody_else(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("b", "1")]);
    let mut writer = ground.begin();
    ground.text_in(&mut writer, "a");
    writer.set(&ground.key("a"), "2");
    writer.set(&ground.key("new"), "2");
    writer.clear(&ground.key("b"));
    let before = texts(&[("a", "1"), ("b", "1")]);
    assert_eq!(ground.all(), before, "before the commit");
    let mut reader = ground.begin();
    reader.read_version().unwrap();
    writer.commit().unwrap();
    assert_eq!(ground.texts_in(&mut reader, "", "z"), before, "of a commit after the read version");
    assert_eq!(ground.all(), texts(&[("a", "2"), ("new", "2")]), "after the commit");
    let mut dropped = ground.begin();
    dropped.clear_range(&ground.key(""), &ground.end());
    drop(dropped);
    assert_eq!(ground.all(), texts(&[("a", "2"), ("new", "2")]), "of a dropped transaction");
}

fn writes_of_one_key_count_in_their_order(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]);
    ground.write(|transaction| {
        let key = |name: &str| ground.key(name);
        transaction.set(&key("a"), "2");
        transaction.set(&key("a"), "3");
        transaction.set(&key("b"), "2");
        transaction.clear(&key("b"));
        transaction.clear(&key("c"));
        transaction.set(&key("c"), "2");
        transaction.clear_range(&key("d"), &key("f"));
        transaction.atomic(Atomic::ByteMin, &key("d"), b"9");
        transaction.set(&key("e"), "2");
        transaction.set(&key("f"), "2");
        transaction.clear_range(&key("f"), &key("g"));
    });
    assert_eq!(ground.all(), texts(&[("a", "3"), ("c", "2"), ("d", "9"), ("e", "2")]));
}

/// Each range between few keys, with each limit, in both directions, over several sets of own writes.
fn ranges_with_limit_and_reverse(ground: &Ground<'_>) {
    const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let stored = ["b", "c", "e", "g", "h"];
    /// Sets, clears and cleared ranges.
    type Own<'n> = (&'n [&'n str], &'n [&'n str], &'n [(&'n str, &'n str)]);
    let owns: [Own<'_>; 6] = [
        (&[], &[], &[]),
        (&["a", "d", "i"], &[], &[]),
        (&["b", "c", "h"], &["e"], &[]),
        (&["f"], &["b", "h"], &[("c", "f")]),
        (&["e"], &[], &[("a", "d"), ("f", "i")]),
        (&[], &["b", "c", "e", "g", "h"], &[]),
    ];
    for (index, (sets, clears, cleared)) in owns.iter().enumerate() {
        ground.clear_all();
        ground.put(&stored.map(|name| (name, "stored")));
        let mut model: BTreeMap<&str, &str> = stored.iter().map(|name| (*name, "stored")).collect();
        let mut transaction = ground.begin();
        for (begin, end) in *cleared {
            transaction.clear_range(&ground.key(begin), &ground.key(end));
            model.retain(|name, _| !(*begin..*end).contains(name));
        }
        for name in *sets {
            transaction.set(&ground.key(name), "own");
            model.insert(name, "own");
        }
        for name in *clears {
            transaction.clear(&ground.key(name));
            model.remove(name);
        }
        for (begin, end) in NAMES.iter().flat_map(|begin| NAMES.iter().map(move |end| (*begin, *end))) {
            let mut within: Vec<_> = model.iter().map(|(name, value)| (*name, *value)).collect();
            within.retain(|(name, _)| (begin..end).contains(name));
            for reverse in [false, true] {
                for limit in 0..=within.len() + 1 {
                    let (low, high) = (ground.key(begin), ground.key(end));
                    let read = RangeRead { reverse, ..RangeRead::new(&low, &high).limit(limit) };
                    let found = ground.texts(transaction.get_range(&read).unwrap());
                    let expected: Vec<_> = within.iter().copied().take(limit).collect();
                    assert_eq!(
                        found,
                        texts(&expected),
                        "own writes {index}, range {begin}..{end}, limit {limit}, reverse {reverse}"
                    );
                }
                within.reverse();
            }
        }
    }
}

fn ranges_past_many_own_clears(ground: &Ground<'_>) {
    let name = |index: u32| format!("{index:05}");
    ground.write(|transaction| {
        for index in 0..500 {
            transaction.set(&ground.key(name(index)), "stored");
        }
    });
    let mut transaction = ground.begin();
    for index in 0..200 {
        transaction.clear(&ground.key(name(index)));
    }
    transaction.clear_range(&ground.key(name(201)), &ground.key(name(499)));
    let (begin, end) = (ground.key(""), ground.end());
    let mut first = |limit: usize, reverse: bool| {
        let read = RangeRead { reverse, ..RangeRead::new(&begin, &end).limit(limit) };
        ground.texts(transaction.get_range(&read).unwrap()).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(first(1, false), ["00200"]);
    assert_eq!(first(2, false), ["00200", "00499"]);
    assert_eq!(first(3, false), ["00200", "00499"]);
    assert_eq!(first(1, true), ["00499"]);
    assert_eq!(first(2, true), ["00499", "00200"]);
}

fn ranges_of_nothing(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("b", "2"), ("c", "3")]);
    let mut transaction = ground.begin();
    for (begin, end) in [("b", "b"), ("c", "a"), ("aa", "b"), ("d", "z")] {
        assert_eq!(ground.texts_in(&mut transaction, begin, end), [], "range {begin}..{end}");
    }
    let (begin, end) = (ground.key("a"), ground.key("z"));
    assert_eq!(transaction.get_range(&RangeRead::new(&begin, &end).limit(0)).unwrap(), []);
    assert_eq!(transaction.get_range(&RangeRead::new(&begin, &end).limit(0).reverse()).unwrap(), []);
    transaction.clear_range(&ground.key("b"), &ground.key("b"));
    transaction.clear_range(&ground.key("c"), &ground.key("a"));
    transaction.clear_range(&ground.key("bb"), &ground.key("bc"));
    transaction.set(&ground.key("d"), "4");
    transaction.commit().unwrap();
    assert_eq!(ground.all(), texts(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]));
}

fn keys_are_ordered_as_bytes(ground: &Ground<'_>) {
    let names: [&[u8]; 12] =
        [b"", b"\0", b"\0\0", b"\0\x01", b"\x01", b"a", b"a\0", b"aa", b"a\xfe", b"\x7f\xfe", b"\x80", b"\xfe\xff\xff"];
    ground.write(|transaction| {
        // Neither in order nor in the opposite one.
        for index in 0..names.len() {
            let name = names[index * 5 % names.len()];
            transaction.set(&ground.key(name), name);
        }
    });
    let (begin, end) = (ground.key(""), ground.end());
    let mut transaction = ground.begin();
    // Each value is the name of its key.
    let mut found = |begin: &[u8], end: &[u8], reverse: bool| {
        let read = RangeRead { reverse, ..RangeRead::new(begin, end) };
        transaction.get_range(&read).unwrap().into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    assert_eq!(found(&begin, &end, false), names);
    let mut downwards = found(&begin, &end, true);
    downwards.reverse();
    assert_eq!(downwards, names);
    for (index, name) in names.iter().enumerate() {
        let bound = ground.key(name);
        assert_eq!(found(&bound, &end, false), names[index..], "from {name:?}");
        assert_eq!(found(&begin, &bound, false), names[..index], "to {name:?}");
    }
}

fn empty_keys_and_values(ground: &Ground<'_>) {
    ground.put(&[("", ""), ("a", "")]);
    assert_eq!(ground.value(""), Some(Vec::new()));
    assert_eq!(ground.value("a"), Some(Vec::new()));
    assert_eq!(ground.value("b"), None, "no value is not an empty value");
    assert_eq!(ground.all(), texts(&[("", ""), ("a", "")]));
    // The empty key itself belongs to whoever has the store for itself.
    if ground.subject.engine.is_some() {
        ground.write(|transaction| transaction.set(b"", ""));
        assert_eq!(ground.begin().get(b"").unwrap(), Some(Vec::new()));
        let first = ground.begin().get_range(&RangeRead::new(b"", b"\xff").limit(1)).unwrap();
        assert_eq!(first, [(Vec::new(), Vec::new())]);
        ground.write(|transaction| transaction.clear(b""));
        assert_eq!(ground.begin().get(b"").unwrap(), None);
    }
}

fn large_ranges_in_batches(ground: &Ground<'_>) {
    let count: usize = if ground.is_long() { 100_000 } else { 20_000 };
    const PER_TRANSACTION: usize = 10_000;
    const BATCH: usize = 3_000;
    let pair = |index: usize| (ground.key(format!("{index:08}")), index.to_le_bytes().to_vec());
    for first in (0..count).step_by(PER_TRANSACTION) {
        ground.write(|transaction| {
            for index in first..first + PER_TRANSACTION {
                let (key, value) = pair(index);
                transaction.set(&key, value);
            }
        });
    }
    let mut transaction = ground.begin();
    let (mut begin, end) = (ground.key(""), ground.end());
    let mut next = 0;
    loop {
        let found = transaction.get_range(&RangeRead::new(&begin, &end).limit(BATCH)).unwrap();
        assert_eq!(found.len(), BATCH.min(count - next));
        let Some((last, _)) = found.last() else { break };
        begin = [last.as_slice(), &[0]].concat();
        for found in found {
            assert_eq!(found, pair(next));
            next += 1;
        }
    }
    let all = ground.begin().get_range(&RangeRead::new(&ground.key(""), &end).reverse()).unwrap();
    assert_eq!(all.len(), count);
    for (index, found) in all.into_iter().rev().enumerate() {
        assert_eq!(found, pair(index));
    }
    let half = count / 2;
    ground.write(|transaction| transaction.clear_range(&ground.key(""), &pair(half).0));
    let left = ground.begin().get_range(&RangeRead::new(&ground.key(""), &end)).unwrap();
    assert_eq!((left.len(), left.first()), (count - half, Some(&pair(half))));
}
