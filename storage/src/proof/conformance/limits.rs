//! How much a store takes, and that more is refused whole.

use super::{Case, Ground, case};
use crate::error::Error;
use crate::kv::{
    Atomic, ConflictKind, KEY_BYTES_MAX, RangeRead, TRANSACTION_BYTES_MAX, Transaction, VALUE_BYTES_MAX,
    VERSIONSTAMP_BYTES,
};

pub(super) const CASES: &[Case] = &[
    case("longest_keys", longest_keys),
    case("longest_values", longest_values),
    case("largest_transactions", largest_transactions),
    case("conflict_ranges_count_as_bytes", conflict_ranges_count_as_bytes),
    case("the_store_keeps_some_keys_for_itself", the_store_keeps_some_keys_for_itself),
];

fn key_of(ground: &Ground<'_>, bytes: usize) -> Vec<u8> {
    let mut key = ground.key("long/");
    key.resize(bytes, b'x');
    key
}

fn is_too_large(error: &Error) -> bool {
    matches!(error, Error::TooLarge { .. })
}

fn longest_keys(ground: &Ground<'_>) {
    let longest = key_of(ground, KEY_BYTES_MAX);
    ground.write(|transaction| transaction.set(&longest, "1"));
    assert_eq!(ground.begin().get(&longest).unwrap().as_deref(), Some(&b"1"[..]));
    let found = ground.begin().get_range(&RangeRead::new(&longest, &ground.end()).limit(1)).unwrap();
    assert_eq!(found, [(longest.clone(), b"1".to_vec())]);
    ground.write(|transaction| transaction.atomic(Atomic::Add, &longest, &[1]));
    assert_eq!(ground.begin().get(&longest).unwrap().as_deref(), Some(&b"2"[..]));
    // It can also be read for conflicts, and cleared.
    let mut transaction = ground.begin();
    transaction.get(&longest).unwrap();
    transaction.clear(&longest);
    transaction.commit().unwrap();
    assert_eq!(ground.begin().get(&longest).unwrap(), None);

    type Write = fn(&mut Transaction, &[u8]);
    let writes: [(&str, Write); 3] = [
        ("set", |t, key| t.set(key, "1")),
        ("atomic", |t, key| t.atomic(Atomic::Add, key, &[1])),
        ("stamped value", |t, key| t.set_versionstamped_value(key, &[0; VERSIONSTAMP_BYTES], 0)),
    ];
    let too_long = key_of(ground, KEY_BYTES_MAX + 1);
    for (what, write) in writes {
        ground.refused(
            &format!("{what} of a key of {} bytes", too_long.len()),
            |transaction| {
                write(transaction, &too_long);
                Ok(())
            },
            is_too_large,
        );
    }
}

fn longest_values(ground: &Ground<'_>) {
    let longest = vec![7; VALUE_BYTES_MAX];
    ground.write(|transaction| transaction.set(&ground.key("a"), longest.clone()));
    assert_eq!(ground.value("a").as_ref(), Some(&longest));
    ground.write(|transaction| transaction.atomic(Atomic::ByteMax, &ground.key("b"), &longest));
    assert_eq!(ground.value("b").as_ref(), Some(&longest));
    let too_long = vec![8; VALUE_BYTES_MAX + 1];
    let refused = |what: &str, write: &dyn Fn(&mut Transaction)| {
        ground.refused(
            &format!("{what} of {} bytes", too_long.len()),
            |transaction| {
                write(transaction);
                Ok(())
            },
            is_too_large,
        );
    };
    refused("a value", &|transaction| transaction.set(&ground.key("a"), too_long.clone()));
    refused("an operand", &|transaction| transaction.atomic(Atomic::ByteMax, &ground.key("a"), &too_long));
    refused("a stamped value", &|transaction| transaction.set_versionstamped_value(&ground.key("a"), &too_long, 0));
    assert_eq!(ground.value("a").as_ref(), Some(&longest));
}

/// Sets 100 keys so that keys and values together have `bytes`.
fn fill(ground: &Ground<'_>, transaction: &mut Transaction, bytes: usize) {
    let key = |index: usize| ground.key(format!("{index:03}"));
    let values = bytes - 100 * key(0).len();
    for index in 0..100 {
        transaction.set(&key(index), vec![1; values / 100 + usize::from(index < values % 100)]);
    }
}

fn largest_transactions(ground: &Ground<'_>) {
    // The embedded engine counts what is written. A cluster also counts what it adds to that by itself: some hundred bytes per
    // key, so it takes a little less.
    let taken = TRANSACTION_BYTES_MAX - if ground.subject.engine.is_some() { 0 } else { 100_000 };
    ground.write(|transaction| fill(ground, transaction, taken));
    let found = ground.begin().get_range(&RangeRead::new(&ground.key(""), &ground.end())).unwrap();
    assert_eq!(found.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>(), taken);
    ground.clear_all();
    ground.refused(
        &format!("a transaction of {} bytes", TRANSACTION_BYTES_MAX + 1),
        |transaction| {
            // What `refused` itself writes counts, too.
            transaction.clear(&ground.key("bystander"));
            fill(ground, transaction, TRANSACTION_BYTES_MAX + 1);
            Ok(())
        },
        is_too_large,
    );
    ground.put(&[("a", "1")]);
    assert_eq!(ground.text("a").as_deref(), Some("1"), "a store that has refused goes on");
}

fn conflict_ranges_count_as_bytes(ground: &Ground<'_>) {
    let bound = |index: usize| {
        key_of(ground, KEY_BYTES_MAX - 10).into_iter().chain(format!("{index:08}").into_bytes()).collect::<Vec<u8>>()
    };
    let ranges = |transaction: &mut Transaction, kind: ConflictKind, count: usize| {
        (0..count).try_for_each(|index| transaction.add_conflict_range(kind, &bound(2 * index), &bound(2 * index + 1)))
    };
    for kind in [ConflictKind::Read, ConflictKind::Write] {
        let mut transaction = ground.begin();
        ranges(&mut transaction, kind, 400).unwrap();
        transaction.set(&ground.key("a"), "1");
        transaction.commit().expect("conflict ranges of eight million bytes");
        ground.refused(
            &format!("{kind:?} conflict ranges of more than ten million bytes"),
            |transaction| ranges(transaction, kind, 505),
            is_too_large,
        );
    }
}

fn the_store_keeps_some_keys_for_itself(ground: &Ground<'_>) {
    let is_outside = |error: &Error| matches!(error, Error::KeyOutside(_));
    type Access = fn(&mut Transaction, &[u8]) -> Result<(), Error>;
    let accesses: [(&str, Access); 6] = [
        ("set", |t, key| {
            t.set(key, "1");
            Ok(())
        }),
        ("clear", |t, key| {
            t.clear(key);
            Ok(())
        }),
        ("clear_range", |t, key| {
            t.clear_range(key, &[key, b"\x01"].concat());
            Ok(())
        }),
        ("atomic", |t, key| {
            t.atomic(Atomic::Add, key, &[1]);
            Ok(())
        }),
        ("stamped value", |t, key| {
            t.set_versionstamped_value(key, &[0; VERSIONSTAMP_BYTES], 0);
            Ok(())
        }),
        ("get", |t, key| t.get(key).map(drop)),
    ];
    for (what, access) in accesses {
        for key in [&b"\xff"[..], b"\xff\x02/vsekai", b"\xff\xff/vsekai"] {
            ground.refused(&format!("{what} of {key:?}"), |transaction| access(transaction, key), is_outside);
        }
    }
    let read = RangeRead::new(b"\xff", b"\xff\xff").limit(1);
    ground.refused("get_range", |transaction| transaction.get_range(&read).map(drop), is_outside);
    // The end of a range may be the end of all keys.
    ground.put(&[("a", "1")]);
    let begin = ground.key("");
    let found = ground.begin().get_range(&RangeRead::new(&begin, b"\xff").limit(1)).unwrap();
    assert_eq!(found, [(ground.key("a"), b"1".to_vec())]);
}
