//! Operations that the store computes.

use super::{Case, Ground, case};
use crate::kv::Atomic;

pub(super) const CASES: &[Case] = &[
    case("each_operation_on_each_kind_of_value", each_operation_on_each_kind_of_value),
    case("operations_follow_each_other", operations_follow_each_other),
    case("operations_of_several_transactions_add_up", operations_of_several_transactions_add_up),
    case("an_operation_is_computed_at_the_commit", an_operation_is_computed_at_the_commit),
];

type Row = (Atomic, Option<&'static [u8]>, &'static [u8], Option<&'static [u8]>);

/// Operation, stored value, operand, and what becomes of it (FoundationDB, "Atomic operations" and `fdbclient/Atomic.h`).
const TABLE: &[Row] = &[
    (Atomic::Add, None, &[5, 0], Some(&[5, 0])),
    (Atomic::Add, Some(&[]), &[5, 0], Some(&[5, 0])),
    (Atomic::Add, Some(&[1, 0]), &[2, 0], Some(&[3, 0])),
    // Little-endian: the carry goes to the right.
    (Atomic::Add, Some(&[0xff, 0]), &[1, 0], Some(&[0, 1])),
    (Atomic::Add, Some(&[0, 1]), &[0, 1], Some(&[0, 2])),
    (Atomic::Add, Some(&[0xff, 0xff]), &[1, 0], Some(&[0, 0])),
    (Atomic::Add, Some(&[0xff, 0xff]), &[0xff, 0xff], Some(&[0xfe, 0xff])),
    (Atomic::Add, Some(&[1]), &[0xff, 0, 0], Some(&[0, 1, 0])),
    (Atomic::Add, Some(&[1, 2, 3, 4]), &[1, 1], Some(&[2, 3])),
    (Atomic::Add, Some(&[0xff, 2]), &[1], Some(&[0])),
    (Atomic::Add, Some(&[1, 2]), &[], Some(&[])),
    (
        Atomic::Add,
        Some(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]),
        &[1, 0, 0, 0, 0, 0, 0, 0, 0],
        Some(&[0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ),
    (Atomic::Max, None, &[3, 0], Some(&[3, 0])),
    (Atomic::Max, None, &[0, 0], Some(&[0, 0])),
    (Atomic::Max, Some(&[]), &[3, 0], Some(&[3, 0])),
    (Atomic::Max, Some(&[4, 0]), &[3, 0], Some(&[4, 0])),
    (Atomic::Max, Some(&[2, 0]), &[3, 0], Some(&[3, 0])),
    (Atomic::Max, Some(&[3, 0]), &[3, 0], Some(&[3, 0])),
    // The last byte counts most, and there is no sign.
    (Atomic::Max, Some(&[0, 1]), &[0xff, 0], Some(&[0, 1])),
    (Atomic::Max, Some(&[0x80]), &[0x7f], Some(&[0x80])),
    (Atomic::Max, Some(&[9]), &[3, 0, 0], Some(&[9, 0, 0])),
    (Atomic::Max, Some(&[9]), &[0, 1], Some(&[0, 1])),
    (Atomic::Max, Some(&[2, 0, 9]), &[3, 0], Some(&[3, 0])),
    (Atomic::Max, Some(&[4, 0, 9]), &[3, 0], Some(&[4, 0])),
    (Atomic::Min, None, &[3, 0], Some(&[3, 0])),
    (Atomic::Min, Some(&[]), &[3, 0], Some(&[0, 0])),
    (Atomic::Min, Some(&[4, 0]), &[3, 0], Some(&[3, 0])),
    (Atomic::Min, Some(&[2, 0]), &[3, 0], Some(&[2, 0])),
    (Atomic::Min, Some(&[3, 0]), &[3, 0], Some(&[3, 0])),
    (Atomic::Min, Some(&[0, 1]), &[0xff, 0], Some(&[0xff, 0])),
    (Atomic::Min, Some(&[0x80]), &[0x7f], Some(&[0x7f])),
    (Atomic::Min, Some(&[9]), &[3, 0, 0], Some(&[3, 0, 0])),
    (Atomic::Min, Some(&[9]), &[0, 1], Some(&[9, 0])),
    (Atomic::Min, Some(&[2, 0, 9]), &[3, 0], Some(&[2, 0])),
    (Atomic::Min, Some(&[4, 0, 9]), &[3, 0], Some(&[3, 0])),
    (Atomic::ByteMax, None, b"b", Some(b"b")),
    (Atomic::ByteMax, None, b"", Some(b"")),
    (Atomic::ByteMax, Some(b""), b"b", Some(b"b")),
    (Atomic::ByteMax, Some(b"a"), b"b", Some(b"b")),
    (Atomic::ByteMax, Some(b"c"), b"b", Some(b"c")),
    (Atomic::ByteMax, Some(b"b"), b"b", Some(b"b")),
    // The first byte counts most; of two with the same beginning the longer one is the larger.
    (Atomic::ByteMax, Some(b"b"), b"aaa", Some(b"b")),
    (Atomic::ByteMax, Some(b"ba"), b"b", Some(b"ba")),
    (Atomic::ByteMax, Some(b"b"), b"ba", Some(b"ba")),
    (Atomic::ByteMax, Some(b"\x80"), b"\x7f\xff", Some(b"\x80")),
    (Atomic::ByteMin, None, b"b", Some(b"b")),
    (Atomic::ByteMin, Some(b""), b"b", Some(b"")),
    (Atomic::ByteMin, Some(b"a"), b"b", Some(b"a")),
    (Atomic::ByteMin, Some(b"c"), b"b", Some(b"b")),
    (Atomic::ByteMin, Some(b"b"), b"b", Some(b"b")),
    (Atomic::ByteMin, Some(b"b"), b"aaa", Some(b"aaa")),
    (Atomic::ByteMin, Some(b"ba"), b"b", Some(b"b")),
    (Atomic::ByteMin, Some(b"b"), b"ba", Some(b"b")),
    (Atomic::CompareAndClear, None, b"a", None),
    (Atomic::CompareAndClear, None, b"", None),
    (Atomic::CompareAndClear, Some(b"a"), b"a", None),
    (Atomic::CompareAndClear, Some(b""), b"", None),
    (Atomic::CompareAndClear, Some(b"a"), b"b", Some(b"a")),
    (Atomic::CompareAndClear, Some(b"a"), b"", Some(b"a")),
    (Atomic::CompareAndClear, Some(b""), b"a", Some(b"")),
    (Atomic::CompareAndClear, Some(b"ab"), b"a", Some(b"ab")),
    (Atomic::CompareAndClear, Some(b"a"), b"ab", Some(b"a")),
];

/// Every row four times: on what is stored, on what the same transaction has set, on what it has cleared before, and seen by
/// the transaction itself before its commit.
fn each_operation_on_each_kind_of_value(ground: &Ground<'_>) {
    let key = |place: &str, index: usize| ground.key(format!("{place}{index:03}"));
    ground.write(|transaction| {
        for (index, (_, stored, ..)) in TABLE.iter().enumerate() {
            transaction.set(&key("cleared", index), "x");
            for place in ["stored", "seen"] {
                if let Some(stored) = stored {
                    transaction.set(&key(place, index), *stored);
                }
            }
        }
    });
    ground.write(|transaction| {
        transaction.clear_range(&key("cleared", 0), &key("cleared", 999));
        for (index, (atomic, stored, operand, expected)) in TABLE.iter().enumerate() {
            transaction.atomic(*atomic, &key("stored", index), operand);
            for place in ["own", "cleared"] {
                if let Some(stored) = stored {
                    transaction.set(&key(place, index), *stored);
                }
                transaction.atomic(*atomic, &key(place, index), operand);
            }
            transaction.atomic(*atomic, &key("seen", index), operand);
            for place in ["seen", "own", "cleared"] {
                let seen = transaction.get(&key(place, index)).unwrap();
                assert_eq!(
                    seen.as_deref(),
                    *expected,
                    "{atomic:?} of {operand:?} on {stored:?}, {place}, in its transaction"
                );
            }
        }
    });
    for (index, (atomic, stored, operand, expected)) in TABLE.iter().enumerate() {
        for place in ["stored", "own", "cleared", "seen"] {
            let found = ground.value(format!("{place}{index:03}"));
            assert_eq!(found.as_deref(), *expected, "{atomic:?} of {operand:?} on {stored:?}, {place}");
        }
    }
    for atomic in Atomic::ALL {
        assert!(TABLE.iter().any(|row| row.0 == atomic), "{atomic:?} has no case");
    }
}

fn operations_follow_each_other(ground: &Ground<'_>) {
    ground.write(|transaction| {
        for name in ["a", "c", "d"] {
            transaction.set(&ground.key(name), [10]);
        }
    });
    let mut transaction = ground.begin();
    // (10 + 5) max 20, then + 1.
    transaction.atomic(Atomic::Add, &ground.key("a"), &[5]);
    transaction.atomic(Atomic::Max, &ground.key("a"), &[20]);
    transaction.atomic(Atomic::Add, &ground.key("a"), &[1]);
    transaction.atomic(Atomic::Add, &ground.key("b"), &[7, 0]);
    transaction.atomic(Atomic::Add, &ground.key("b"), &[0xff, 0]);
    transaction.atomic(Atomic::CompareAndClear, &ground.key("c"), &[10]);
    transaction.atomic(Atomic::Min, &ground.key("c"), &[3]);
    transaction.atomic(Atomic::Add, &ground.key("d"), &[1]);
    transaction.atomic(Atomic::CompareAndClear, &ground.key("d"), &[11]);
    let expected = [("a", Some(vec![21])), ("b", Some(vec![6, 1])), ("c", Some(vec![3])), ("d", None)];
    for (name, value) in &expected {
        assert_eq!(transaction.get(&ground.key(name)).unwrap(), *value, "key {name} in its transaction");
    }
    transaction.commit().unwrap();
    for (name, value) in &expected {
        assert_eq!(ground.value(name), *value, "key {name}");
    }
}

fn operations_of_several_transactions_add_up(ground: &Ground<'_>) {
    let (sum, largest) = (ground.key("sum"), ground.key("largest"));
    let mut transactions: Vec<_> = (0..20u64).map(|_| ground.begin()).collect();
    for (index, transaction) in (0..20u64).zip(&mut transactions) {
        // All of them read at the same version, but not what they operate on.
        transaction.read_version().unwrap();
        transaction.atomic(Atomic::Add, &sum, &index.to_le_bytes());
        transaction.atomic(Atomic::Max, &largest, &(index * 7 % 20).to_le_bytes());
    }
    for mut transaction in transactions {
        transaction.commit().expect("an operation conflicts with no other one");
    }
    assert_eq!(ground.value("sum"), Some(190u64.to_le_bytes().to_vec()));
    assert_eq!(ground.value("largest"), Some(19u64.to_le_bytes().to_vec()));
}

fn an_operation_is_computed_at_the_commit(ground: &Ground<'_>) {
    let counter = ground.key("counter");
    ground.write(|transaction| transaction.set(&counter, [1]));
    let mut transaction = ground.begin();
    transaction.atomic(Atomic::Add, &counter, &[1]);
    assert_eq!(transaction.get_snapshot(&counter).unwrap(), Some(vec![2]), "over the snapshot");
    ground.write(|other| other.atomic(Atomic::Add, &counter, &[40]));
    assert_eq!(transaction.get_snapshot(&counter).unwrap(), Some(vec![2]), "the snapshot does not change");
    transaction.commit().expect("a snapshot read does not conflict");
    assert_eq!(ground.value("counter"), Some(vec![42]));
}
