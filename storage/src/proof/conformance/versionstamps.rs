//! Keys and values that the commit completes.

use super::{Case, Ground, Needs, case};
use crate::error::Error;
use crate::kv::{RangeRead, VERSIONSTAMP_BYTES, Versionstamp};
use std::collections::BTreeMap;
use std::sync::Barrier;

pub(super) const CASES: &[Case] = &[
    case("the_stamp_stands_at_its_offset", the_stamp_stands_at_its_offset),
    case("stamps_grow_from_commit_to_commit", stamps_grow_from_commit_to_commit),
    case("a_stamp_that_does_not_fit_is_refused", a_stamp_that_does_not_fit_is_refused),
    case("what_will_have_a_stamp_cannot_be_read", what_will_have_a_stamp_cannot_be_read),
    case("the_last_write_wins_over_a_stamp", the_last_write_wins_over_a_stamp),
    case("stamps_of_concurrent_commits_differ", stamps_of_concurrent_commits_differ),
    Case { name: "stamps_grow_within_a_group", needs: Needs::Faults, check: stamps_grow_within_a_group },
];

fn offset(key: &[u8]) -> u32 {
    u32::try_from(key.len()).unwrap()
}

fn is_big_endian_of(version: u64, stamp: Versionstamp) -> bool {
    stamp[..8] == version.to_be_bytes()
}

fn the_stamp_stands_at_its_offset(ground: &Ground<'_>) {
    let template = [b"<".as_slice(), &[b'.'; VERSIONSTAMP_BYTES], b">"].concat();
    let mut transaction = ground.begin();
    let behind = ground.key("behind/");
    transaction.set_versionstamped_key(&[&behind[..], &[0; VERSIONSTAMP_BYTES]].concat(), offset(&behind), b"1");
    let between = ground.key("between/");
    transaction.set_versionstamped_key(
        &[&between[..], &[9; VERSIONSTAMP_BYTES], b"/x"].concat(),
        offset(&between),
        b"2",
    );
    transaction.set_versionstamped_value(&ground.key("begin"), &[&[7; VERSIONSTAMP_BYTES][..], b">"].concat(), 0);
    transaction.set_versionstamped_value(&ground.key("middle"), &template, 1);
    transaction.set_versionstamped_value(&ground.key("end"), &template[..=VERSIONSTAMP_BYTES], 1);
    transaction.set_versionstamped_value(&ground.key("whole"), &[0; VERSIONSTAMP_BYTES], 0);
    transaction.set(&ground.key("plain"), "plain");
    let committed = transaction.commit().unwrap();
    let stamp = committed.versionstamp.expect("a commit with writes has a versionstamp");
    assert!(is_big_endian_of(committed.version, stamp), "version {}, stamp {stamp:?}", committed.version);
    let stamp = stamp.as_slice();
    let expected: BTreeMap<Vec<u8>, Vec<u8>> = [
        ([&behind[..], stamp].concat(), b"1".to_vec()),
        ([&between[..], stamp, b"/x"].concat(), b"2".to_vec()),
        (ground.key("begin"), [stamp, b">"].concat()),
        (ground.key("middle"), [b"<", stamp, b">"].concat()),
        (ground.key("end"), [b"<", stamp].concat()),
        (ground.key("whole"), stamp.to_vec()),
        (ground.key("plain"), b"plain".to_vec()),
    ]
    .into();
    let found = ground.begin().get_range(&RangeRead::new(&ground.key(""), &ground.end())).unwrap();
    assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
}

fn stamps_grow_from_commit_to_commit(ground: &Ground<'_>) {
    let log = ground.key("log/");
    let mut stamps = Vec::new();
    for index in 0..20u8 {
        let committed = ground.write(|transaction| {
            transaction.set_versionstamped_key(
                &[&log[..], &[0xff; VERSIONSTAMP_BYTES]].concat(),
                offset(&log),
                &[index],
            );
            transaction.set_versionstamped_value(&ground.key([index]), &[0; VERSIONSTAMP_BYTES], 0);
        });
        stamps.push(committed.versionstamp.unwrap());
        assert_eq!(ground.value([index]), Some(stamps.last().unwrap().to_vec()));
    }
    assert!(stamps.is_sorted_by(|one, next| one < next), "{stamps:?}");
    let found = ground.begin().get_range(&RangeRead::new(&log, &ground.key("log0"))).unwrap();
    let order: Vec<Vec<u8>> = found.into_iter().map(|(_, value)| value).collect();
    assert_eq!(
        order,
        (0..20u8).map(|index| vec![index]).collect::<Vec<_>>(),
        "a log reads in the order of its commits"
    );
}

fn a_stamp_that_does_not_fit_is_refused(ground: &Ground<'_>) {
    let key = ground.key("0123456789");
    let begin = offset(&ground.key(""));
    let is_refusal = |error: &Error| !error.is_retryable() && !matches!(error, Error::CommitUnknownResult);
    for misfit in [begin + 1, offset(&key), u32::MAX - 20, u32::MAX] {
        ground.refused(
            &format!("a stamp at {misfit} of a key of {}", key.len()),
            |transaction| {
                transaction.set_versionstamped_key(&key, misfit, b"");
                Ok(())
            },
            is_refusal,
        );
    }
    for (bytes, misfit) in [(10, 1), (11, 2), (9, 0), (0, 0), (10, 10), (10, u32::MAX)] {
        ground.refused(
            &format!("a stamp at {misfit} of a value of {bytes}"),
            |transaction| {
                transaction.set_versionstamped_value(&ground.key("a"), &vec![0; bytes], misfit);
                Ok(())
            },
            is_refusal,
        );
    }
}

fn what_will_have_a_stamp_cannot_be_read(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("value", "1"), ("z", "1")]);
    let mut transaction = ground.begin();
    transaction.set_versionstamped_value(&ground.key("value"), &[0; VERSIONSTAMP_BYTES], 0);
    let log = ground.key("log/");
    transaction.set_versionstamped_key(&[&log[..], &[0; VERSIONSTAMP_BYTES]].concat(), offset(&log), b"");
    let error = transaction.get(&ground.key("value")).expect_err("the value is not known before the commit");
    assert!(matches!(error, Error::Unreadable), "{error:?}");
    let error = transaction.get_snapshot(&ground.key("value")).expect_err("nor by a snapshot read");
    assert!(matches!(error, Error::Unreadable), "{error:?}");
    for (begin, end) in [("log/", "log0"), ("m", "w"), ("", "~")] {
        for reverse in [false, true] {
            let (low, high) = (ground.key(begin), ground.key(end));
            let read = RangeRead { reverse, ..RangeRead::new(&low, &high) };
            let error = transaction.get_range(&read).expect_err("what a range holds is not known before the commit");
            assert!(matches!(error, Error::Unreadable), "{begin}..{end}: {error:?}");
        }
    }
    for name in ["a", "z"] {
        assert_eq!(ground.text_in(&mut transaction, name).as_deref(), Some("1"), "another key can be read");
    }
    assert_eq!(ground.texts_in(&mut transaction, "", "b").len(), 1, "a range without it can be read");
    transaction.commit().expect("it can be committed all the same");
    assert_eq!(ground.value("value").map(|value| value.len()), Some(VERSIONSTAMP_BYTES));
}

fn the_last_write_wins_over_a_stamp(ground: &Ground<'_>) {
    let mut transaction = ground.begin();
    for name in ["set", "cleared", "cleared range", "stays"] {
        transaction.set_versionstamped_value(&ground.key(name), &[0; VERSIONSTAMP_BYTES], 0);
    }
    transaction.set(&ground.key("set"), "own");
    // Only a clear makes a key readable again (FoundationDB `fdbclient/WriteMap.cpp`, `mutate` and `clear`).
    let error = transaction.get(&ground.key("set")).expect_err("a set key stays unreadable");
    assert!(matches!(error, Error::Unreadable), "{error:?}");
    transaction.clear(&ground.key("cleared"));
    assert_eq!(ground.text_in(&mut transaction, "cleared"), None);
    transaction.clear_range(&ground.key("cleared r"), &ground.key("cleared s"));
    assert_eq!(ground.text_in(&mut transaction, "cleared range"), None);
    transaction.set(&ground.key("cleared"), "own");
    assert_eq!(ground.text_in(&mut transaction, "cleared").as_deref(), Some("own"));
    let stamp = transaction.commit().unwrap().versionstamp.unwrap();
    assert_eq!(ground.text("set").as_deref(), Some("own"));
    assert_eq!(ground.text("cleared").as_deref(), Some("own"));
    assert_eq!(ground.value("cleared range"), None);
    assert_eq!(ground.value("stays"), Some(stamp.to_vec()));
}

/// Has threads commit stamped keys at once; returns the stamps as the commits gave them, with each thread's in its order.
fn stamps_of_threads(ground: &Ground<'_>, threads: usize, commits: usize, log: &[u8]) -> Vec<Vec<Versionstamp>> {
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        let run = || {
            barrier.wait();
            let stamp = |_| {
                let committed = ground.write(|transaction| {
                    transaction.set_versionstamped_key(&[log, &[0; VERSIONSTAMP_BYTES]].concat(), offset(log), b"");
                });
                committed.versionstamp.unwrap()
            };
            (0..commits).map(stamp).collect::<Vec<_>>()
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn stored_stamps(ground: &Ground<'_>, log: &[u8]) -> Vec<Vec<u8>> {
    let end = [log, &[0xff]].concat();
    let found = ground.begin().get_range(&RangeRead::new(log, &end)).unwrap();
    found.into_iter().map(|(key, _)| key[log.len()..].to_vec()).collect()
}

fn stamps_of_concurrent_commits_differ(ground: &Ground<'_>) {
    let log = ground.key("log/");
    let by_thread = stamps_of_threads(ground, 8, 10, &log);
    for stamps in &by_thread {
        assert!(stamps.is_sorted_by(|one, next| one < next), "of one thread: {stamps:?}");
    }
    let mut all: Vec<Vec<u8>> = by_thread.into_iter().flatten().map(|stamp| stamp.to_vec()).collect();
    all.sort_unstable();
    assert_eq!(stored_stamps(ground, &log), all);
    all.dedup();
    assert_eq!(all.len(), 80, "two commits have the same stamp");
}

/// Commits that were held and let go at once are written together: one version, and different ends of the stamp.
fn stamps_grow_within_a_group(ground: &Ground<'_>) {
    for round in 0..500 {
        let log = ground.key(format!("log{round}/"));
        ground.engine().hold_commits(true);
        let by_thread = std::thread::scope(|scope| {
            let committing = scope.spawn(|| stamps_of_threads(ground, 16, 1, &log));
            std::thread::yield_now();
            ground.engine().hold_commits(false);
            committing.join().unwrap()
        });
        let mut groups: BTreeMap<[u8; 8], Vec<[u8; 2]>> = BTreeMap::new();
        let mut all: Vec<Versionstamp> = by_thread.into_iter().flatten().collect();
        all.sort_unstable();
        for stamp in &all {
            groups.entry(stamp[..8].try_into().unwrap()).or_default().push(stamp[8..].try_into().unwrap());
        }
        assert_eq!(stored_stamps(ground, &log), all);
        let Some(orders) = groups.values().find(|orders| orders.len() > 1) else { continue };
        assert!(orders.is_sorted_by(|one, next| one < next), "{orders:?}");
        return;
    }
    panic!("of 500 times 16 concurrent commits no two were grouped");
}
