//! Which transactions conflict, and which must not.

use super::{Case, Ground, case, texts};
use crate::error::Error;
use crate::kv::{Atomic, ConflictKind, RangeRead, Transaction};

pub(super) const CASES: &[Case] = &[
    case(
        "a_changed_read_is_a_conflict_and_an_unread_one_is_not",
        a_changed_read_is_a_conflict_and_an_unread_one_is_not,
    ),
    case("a_transaction_without_writes_never_conflicts", a_transaction_without_writes_never_conflicts),
    case("only_later_commits_conflict", only_later_commits_conflict),
    case("an_update_is_never_lost", an_update_is_never_lost),
    case("writes_do_not_skew", writes_do_not_skew),
    case("a_transaction_that_conflicts_leaves_nothing", a_transaction_that_conflicts_leaves_nothing),
];

/// What one of two transactions does.
type Step = fn(&Ground<'_>, &mut Transaction);

/// Stored are `b`, `d` and `f`. The first transaction reads, the second writes and commits; does the first one conflict?
struct Pairing {
    reads: &'static str,
    read: Step,
    /// What the second one does, and whether that is a conflict.
    writes: &'static [(&'static str, Step, bool)],
}

fn get(ground: &Ground<'_>, transaction: &mut Transaction, name: &str) {
    transaction.get(&ground.key(name)).unwrap();
}

fn set(ground: &Ground<'_>, transaction: &mut Transaction, name: &str) {
    transaction.set(&ground.key(name), "other");
}

fn clear_range(ground: &Ground<'_>, transaction: &mut Transaction, begin: &str, end: &str) {
    transaction.clear_range(&ground.key(begin), &ground.key(end));
}

fn conflict(ground: &Ground<'_>, transaction: &mut Transaction, kind: ConflictKind, begin: &str, end: &str) {
    transaction.add_conflict_range(kind, &ground.key(begin), &ground.key(end)).unwrap();
}

/// Reads `begin..end` and finds as many pairs as expected.
fn range(
    ground: &Ground<'_>,
    transaction: &mut Transaction,
    (begin, end): (&str, &str),
    asked: fn(RangeRead<'_>) -> RangeRead<'_>,
    found: usize,
) {
    let (begin, end) = (ground.key(begin), ground.key(end));
    assert_eq!(transaction.get_range(&asked(RangeRead::new(&begin, &end))).unwrap().len(), found);
}

const PAIRINGS: &[Pairing] = &[
    Pairing {
        reads: "a key",
        read: |g, t| get(g, t, "b"),
        writes: &[
            ("another value", |g, t| set(g, t, "b"), true),
            ("the same value", |g, t| t.set(&g.key("b"), "stored"), true),
            ("a clear", |g, t| t.clear(&g.key("b")), true),
            ("a clear of all", |g, t| clear_range(g, t, "", "z"), true),
            ("a clear that begins with it", |g, t| clear_range(g, t, "b", "c"), true),
            ("a clear that ends with it", |g, t| clear_range(g, t, "a", "b\0"), true),
            ("a clear that ends before it", |g, t| clear_range(g, t, "a", "b"), false),
            ("a clear that begins behind it", |g, t| clear_range(g, t, "b\0", "z"), false),
            ("an atomic operation", |g, t| t.atomic(Atomic::Add, &g.key("b"), &[1]), true),
            ("a compare-and-clear", |g, t| t.atomic(Atomic::CompareAndClear, &g.key("b"), b"stored"), true),
            ("a versionstamped value", |g, t| t.set_versionstamped_value(&g.key("b"), &[0; 10], 0), true),
            ("a write conflict range", |g, t| conflict(g, t, ConflictKind::Write, "b", "c"), true),
            ("a write conflict range before it", |g, t| conflict(g, t, ConflictKind::Write, "a", "b"), false),
            ("the key behind", |g, t| set(g, t, "b\0"), false),
            ("the key before", |g, t| set(g, t, "a"), false),
        ],
    },
    Pairing {
        reads: "a missing key",
        read: |g, t| get(g, t, "c"),
        writes: &[
            ("a value", |g, t| set(g, t, "c"), true),
            ("a clear of nothing", |g, t| t.clear(&g.key("c")), true),
            ("a clear around it", |g, t| clear_range(g, t, "b", "d"), true),
            ("an atomic operation", |g, t| t.atomic(Atomic::Max, &g.key("c"), &[1]), true),
            ("its neighbours", |g, t| ["b", "c\0", "d"].into_iter().for_each(|name| set(g, t, name)), false),
        ],
    },
    Pairing {
        reads: "a range",
        read: |g, t| range(g, t, ("b", "f"), |read| read, 2),
        writes: &[
            ("the first key", |g, t| set(g, t, "b"), true),
            ("a new key", |g, t| set(g, t, "c"), true),
            ("the last key", |g, t| t.clear(&g.key("d")), true),
            ("a new key at the end", |g, t| set(g, t, "e"), true),
            ("an atomic operation on a new key", |g, t| t.atomic(Atomic::Add, &g.key("bb"), &[1]), true),
            ("a clear of a part", |g, t| clear_range(g, t, "c", "cc"), true),
            ("a clear over the beginning", |g, t| clear_range(g, t, "a", "c"), true),
            ("a clear over the end", |g, t| clear_range(g, t, "e", "z"), true),
            ("a write conflict range", |g, t| conflict(g, t, ConflictKind::Write, "e", "z"), true),
            ("the key at the end", |g, t| set(g, t, "f"), false),
            ("a clear before", |g, t| clear_range(g, t, "", "b"), false),
            ("a clear behind", |g, t| clear_range(g, t, "f", "z"), false),
        ],
    },
    Pairing {
        reads: "an empty range",
        read: |g, t| range(g, t, ("x", "z"), |read| read, 0),
        writes: &[("a new key", |g, t| set(g, t, "y"), true), ("a key behind", |g, t| set(g, t, "z"), false)],
    },
    Pairing {
        reads: "a range with a reverse read",
        read: |g, t| range(g, t, ("b", "f"), |read| read.reverse(), 2),
        writes: &[
            ("the first key", |g, t| set(g, t, "b"), true),
            ("a new key at the end", |g, t| set(g, t, "e"), true),
            ("the key at the end", |g, t| set(g, t, "f"), false),
        ],
    },
    Pairing {
        reads: "the first key of a range",
        read: |g, t| range(g, t, ("a", "z"), |read| read.limit(1), 1),
        writes: &[
            ("a new key before it", |g, t| set(g, t, "aa"), true),
            ("that key", |g, t| set(g, t, "b"), true),
            ("the key behind", |g, t| set(g, t, "b\0"), false),
            ("the next key", |g, t| t.clear(&g.key("d")), false),
            ("a clear of the rest", |g, t| clear_range(g, t, "b\0", "z"), false),
            ("a clear of all", |g, t| clear_range(g, t, "a", "z"), true),
        ],
    },
    Pairing {
        reads: "two keys of a range",
        read: |g, t| range(g, t, ("a", "z"), |read| read.limit(2), 2),
        writes: &[
            ("a new key between", |g, t| set(g, t, "c"), true),
            ("the second", |g, t| set(g, t, "d"), true),
            ("a new key behind", |g, t| set(g, t, "e"), false),
        ],
    },
    Pairing {
        reads: "as many keys of a range as there are",
        read: |g, t| range(g, t, ("a", "z"), |read| read.limit(3), 3),
        writes: &[("the last", |g, t| set(g, t, "f"), true), ("a new key behind", |g, t| set(g, t, "g"), false)],
    },
    Pairing {
        reads: "fewer keys of a range than the limit",
        read: |g, t| range(g, t, ("a", "z"), |read| read.limit(4), 3),
        writes: &[("a new key behind", |g, t| set(g, t, "g"), true), ("the end", |g, t| set(g, t, "z"), false)],
    },
    Pairing {
        reads: "the last key of a range",
        read: |g, t| range(g, t, ("a", "z"), |read| read.limit(1).reverse(), 1),
        writes: &[
            ("a new key behind it", |g, t| set(g, t, "g"), true),
            ("that key", |g, t| set(g, t, "f"), true),
            ("a new key before it", |g, t| set(g, t, "e\0"), false),
            ("the key before", |g, t| t.clear(&g.key("d")), false),
            ("a clear of the rest", |g, t| clear_range(g, t, "a", "f"), false),
        ],
    },
    Pairing {
        reads: "the last two keys of a range",
        read: |g, t| range(g, t, ("a", "z"), |read| read.limit(2).reverse(), 2),
        writes: &[
            ("a new key between", |g, t| set(g, t, "e"), true),
            ("the second", |g, t| set(g, t, "d"), true),
            ("a new key before", |g, t| set(g, t, "c"), false),
        ],
    },
    Pairing {
        reads: "the first keys of a range, with its own key among them",
        read: |g, t| {
            set(g, t, "c");
            range(g, t, ("a", "z"), |read| read.limit(3), 3);
        },
        writes: &[
            ("a stored one", |g, t| set(g, t, "d"), true),
            ("a new one", |g, t| set(g, t, "cc"), true),
            ("one behind", |g, t| set(g, t, "e"), false),
        ],
    },
    Pairing {
        reads: "past its own clear",
        read: |g, t| {
            clear_range(g, t, "a", "e");
            range(g, t, ("a", "z"), |read| read.limit(1), 1);
        },
        writes: &[
            ("what it found", |g, t| set(g, t, "f"), true),
            ("a new key before that", |g, t| set(g, t, "ee"), true),
            ("a key behind", |g, t| set(g, t, "g"), false),
        ],
    },
    Pairing {
        reads: "a limit of nothing",
        read: |g, t| range(g, t, ("a", "z"), |read| read.limit(0), 0),
        writes: &[("a clear of all", |g, t| clear_range(g, t, "", "z"), false)],
    },
    Pairing {
        reads: "snapshots only",
        read: |g, t| {
            t.get_snapshot(&g.key("b")).unwrap();
            range(g, t, ("a", "z"), |read| read.snapshot(), 3);
            range(g, t, ("a", "z"), |read| read.snapshot().reverse().limit(1), 1);
        },
        writes: &[
            ("a clear of all", |g, t| clear_range(g, t, "", "z"), false),
            ("a key", |g, t| set(g, t, "b"), false),
        ],
    },
    Pairing {
        reads: "a snapshot and then tracked",
        read: |g, t| {
            t.get_snapshot(&g.key("b")).unwrap();
            get(g, t, "b");
        },
        writes: &[("the key", |g, t| set(g, t, "b"), true)],
    },
    Pairing {
        reads: "nothing",
        read: |_, t| assert!(t.read_version().unwrap() > 0),
        writes: &[("a clear of all", |g, t| clear_range(g, t, "", "z"), false)],
    },
    Pairing {
        reads: "its own writes only",
        read: |g, t| {
            set(g, t, "b");
            get(g, t, "b");
            t.clear(&g.key("d"));
            get(g, t, "d");
            clear_range(g, t, "e", "g");
            get(g, t, "f");
        },
        writes: &[
            ("a set key", |g, t| set(g, t, "b"), false),
            ("a cleared key", |g, t| set(g, t, "d"), false),
            ("a key of the cleared range", |g, t| set(g, t, "f"), false),
        ],
    },
    Pairing {
        reads: "its own atomic operation on what is stored",
        read: |g, t| {
            t.atomic(Atomic::Add, &g.key("b"), &[1]);
            get(g, t, "b");
        },
        writes: &[("the key", |g, t| set(g, t, "b"), true), ("another", |g, t| set(g, t, "d"), false)],
    },
    Pairing {
        reads: "nothing, and operates on a key",
        read: |g, t| t.atomic(Atomic::Add, &g.key("b"), &[1]),
        writes: &[
            ("the key", |g, t| set(g, t, "b"), false),
            ("an atomic operation", |g, t| t.atomic(Atomic::Add, &g.key("b"), &[1]), false),
            ("a clear", |g, t| clear_range(g, t, "a", "z"), false),
        ],
    },
    Pairing {
        reads: "a read conflict range",
        read: |g, t| conflict(g, t, ConflictKind::Read, "c", "e"),
        writes: &[
            ("a stored key", |g, t| set(g, t, "d"), true),
            ("a new key", |g, t| set(g, t, "c"), true),
            ("the end", |g, t| set(g, t, "e"), false),
            ("a write conflict range", |g, t| conflict(g, t, ConflictKind::Write, "b", "c\0"), true),
            ("a write conflict range before", |g, t| conflict(g, t, ConflictKind::Write, "b", "c"), false),
        ],
    },
    Pairing {
        reads: "nothing, and has a write conflict range",
        read: |g, t| conflict(g, t, ConflictKind::Write, "a", "z"),
        writes: &[
            ("a key", |g, t| set(g, t, "b"), false),
            ("a read of all", |g, t| range(g, t, ("", "z"), |r| r, 3), false),
        ],
    },
    Pairing {
        reads: "where keys with versionstamps will lie",
        read: |g, t| range(g, t, ("log/", "log0"), |read| read, 0),
        writes: &[
            (
                "a key with a versionstamp there",
                |g, t| {
                    t.set_versionstamped_key(&g.key("log/0123456789"), u32::try_from(g.key("log/").len()).unwrap(), b"")
                },
                true,
            ),
            (
                "a key with a versionstamp elsewhere",
                |g, t| {
                    t.set_versionstamped_key(&g.key("lag/0123456789"), u32::try_from(g.key("lag/").len()).unwrap(), b"")
                },
                false,
            ),
        ],
    },
];

fn a_changed_read_is_a_conflict_and_an_unread_one_is_not(ground: &Ground<'_>) {
    for pairing in PAIRINGS {
        for (write_name, write, is_conflict) in pairing.writes {
            ground.clear_all();
            ground.put(&[("b", "stored"), ("d", "stored"), ("f", "stored")]);
            let mut reader = ground.begin();
            reader.read_version().unwrap();
            (pairing.read)(ground, &mut reader);
            reader.set(&ground.key("~written"), "by the reader");
            let mut writer = ground.begin();
            write(ground, &mut writer);
            writer.commit().unwrap_or_else(|error| panic!("{write_name} is not committed: {error}"));
            let what = format!("one reads {}, another writes {write_name}", pairing.reads);
            match reader.commit() {
                Ok(_) => assert!(!is_conflict, "{what}: no conflict"),
                Err(error) => assert!(*is_conflict && matches!(error, Error::Conflict), "{what}: {error:?}"),
            }
            assert_eq!(ground.text("~written").is_some(), !is_conflict, "{what}: what is stored");
        }
    }
}

fn a_transaction_without_writes_never_conflicts(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("b", "1")]);
    let mut reader = ground.begin();
    ground.texts_in(&mut reader, "", "z");
    let mut conflict_range_only = ground.begin();
    conflict(ground, &mut conflict_range_only, ConflictKind::Read, "", "z");
    let mut writes_range = ground.begin();
    get(ground, &mut writes_range, "a");
    conflict(ground, &mut writes_range, ConflictKind::Write, "x", "y");
    ground.put(&[("a", "2")]);
    reader.commit().expect("without writes nothing conflicts");
    conflict_range_only.commit().expect("without writes nothing conflicts");
    let error = writes_range.commit().expect_err("a write conflict range counts as a write");
    assert!(matches!(error, Error::Conflict), "{error:?}");
}

fn only_later_commits_conflict(ground: &Ground<'_>) {
    ground.put(&[("a", "1")]);
    let mut early = ground.begin();
    early.read_version().unwrap();
    ground.put(&[("a", "2")]);
    let mut late = ground.begin();
    get(ground, &mut late, "a");
    late.set(&ground.key("b"), "late");
    late.commit().expect("a commit before the first read is no conflict");
    ground.put(&[("b", "3")]);
    get(ground, &mut early, "a");
    early.set(&ground.key("c"), "early");
    let error = early.commit().expect_err("a read at a version is a read since that version");
    assert!(matches!(error, Error::Conflict), "{error:?}");
    // One that waits while many others commit still knows what they wrote.
    let mut patient = ground.begin();
    get(ground, &mut patient, "a");
    patient.set(&ground.key("c"), "patient");
    for index in 0..20 {
        ground.put(&[(if index == 3 { "a" } else { "b" }, "x")]);
    }
    let error = patient.commit().expect_err("the fourth of twenty commits changed what it read");
    assert!(matches!(error, Error::Conflict), "{error:?}");
}

fn an_update_is_never_lost(ground: &Ground<'_>) {
    ground.put(&[("counter", "1")]);
    let mut both = [ground.begin(), ground.begin()];
    for transaction in &mut both {
        assert_eq!(ground.text_in(transaction, "counter").as_deref(), Some("1"));
        transaction.set(&ground.key("counter"), "2");
    }
    let outcomes = both.map(|mut transaction| transaction.commit());
    assert!(outcomes[0].is_ok() && matches!(outcomes[1], Err(Error::Conflict)), "{outcomes:?}");
}

fn writes_do_not_skew(ground: &Ground<'_>) {
    ground.put(&[("left", "1"), ("right", "1")]);
    let mut first = ground.begin();
    let mut second = ground.begin();
    get(ground, &mut first, "left");
    get(ground, &mut second, "right");
    first.clear(&ground.key("right"));
    second.clear(&ground.key("left"));
    second.commit().unwrap();
    let error = first.commit().expect_err("both saw what the other one cleared");
    assert!(matches!(error, Error::Conflict), "{error:?}");
    assert_eq!(ground.all(), texts(&[("right", "1")]));
}

fn a_transaction_that_conflicts_leaves_nothing(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("b", "1"), ("counter", "1")]);
    let mut transaction = ground.begin();
    get(ground, &mut transaction, "a");
    transaction.set(&ground.key("new"), "x");
    transaction.clear(&ground.key("b"));
    transaction.clear_range(&ground.key("c"), &ground.key("d"));
    transaction.atomic(Atomic::ByteMax, &ground.key("counter"), b"2");
    transaction.set_versionstamped_value(&ground.key("stamped"), &[0; 10], 0);
    ground.put(&[("a", "2")]);
    assert!(matches!(transaction.commit(), Err(Error::Conflict)));
    let expected = texts(&[("a", "2"), ("b", "1"), ("counter", "1")]);
    assert_eq!(ground.all(), expected);
    drop(transaction);
    assert_eq!(ground.all(), expected);
    let mut reader = ground.begin();
    get(ground, &mut reader, "new");
    get(ground, &mut reader, "b");
    reader.set(&ground.key("after"), "x");
    reader.commit().expect("what was never written conflicts with nobody");
}
