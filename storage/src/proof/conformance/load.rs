//! Many threads at once.

use super::{Case, Ground, Needs, case};
use crate::error::Error;
use crate::kv::{Atomic, Committed, RangeRead, Transaction};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) const CASES: &[Case] = &[
    case("increments_of_many_threads_add_up", increments_of_many_threads_add_up),
    case("atomic_increments_of_many_threads_add_up", atomic_increments_of_many_threads_add_up),
    case("threads_with_keys_of_their_own_never_conflict", threads_with_keys_of_their_own_never_conflict),
    case("each_commit_of_many_is_seen_whole", each_commit_of_many_is_seen_whole),
    Case { name: "of_updates_in_one_group_one_wins", needs: Needs::Faults, check: of_updates_in_one_group_one_wins },
    Case { name: "the_last_of_a_group_is_what_stays", needs: Needs::Faults, check: the_last_of_a_group_is_what_stays },
];

/// Threads, and commits of each: a store that syncs has 3,200 commits to spare in the long form only.
fn size(ground: &Ground<'_>) -> (usize, usize) {
    if ground.is_long() { (64, 50) } else { (64, 5) }
}

/// Runs `body` in threads that begin at once, with their numbers.
fn in_threads(count: usize, body: impl Fn(usize) + Sync) {
    let barrier = Barrier::new(count);
    std::thread::scope(|scope| {
        for index in 0..count {
            let (barrier, body) = (&barrier, &body);
            scope.spawn(move || {
                barrier.wait();
                body(index);
            });
        }
    });
}

/// `run` gives up after many conflicts in a row; with all threads at one key that may happen, and is no fault.
fn run_until_committed(ground: &Ground<'_>, body: impl Fn(&mut Transaction) -> Result<(), Error>) {
    for _ in 0..50 {
        match ground.database().run(&body) {
            Ok(()) => return,
            Err(error) => assert!(matches!(error, Error::Conflict), "{error:?}"),
        }
    }
    panic!("it conflicts for ever");
}

fn number(value: Option<Vec<u8>>) -> u64 {
    value.map_or(0, |value| u64::from_le_bytes(value.try_into().unwrap()))
}

fn increments_of_many_threads_add_up(ground: &Ground<'_>) {
    let (threads, commits) = size(ground);
    let counter = ground.key("counter");
    in_threads(threads, |_| {
        for _ in 0..commits {
            run_until_committed(ground, |transaction| {
                let before = number(transaction.get(&counter)?);
                transaction.set(&counter, (before + 1).to_le_bytes());
                Ok(())
            });
        }
    });
    assert_eq!(number(ground.value("counter")), (threads * commits) as u64);
}

fn atomic_increments_of_many_threads_add_up(ground: &Ground<'_>) {
    let (threads, commits) = size(ground);
    in_threads(threads, |index| {
        for _ in 0..commits {
            let mut transaction = ground.begin();
            transaction.atomic(Atomic::Add, &ground.key("counter"), &1u64.to_le_bytes());
            transaction.atomic(Atomic::Max, &ground.key("largest"), &(index as u64).to_le_bytes());
            transaction.commit().expect("an atomic operation conflicts with no other one");
        }
    });
    assert_eq!(number(ground.value("counter")), (threads * commits) as u64);
    assert_eq!(number(ground.value("largest")), threads as u64 - 1);
}

fn threads_with_keys_of_their_own_never_conflict(ground: &Ground<'_>) {
    let (threads, commits) = size(ground);
    in_threads(threads, |index| {
        let (key, end) = (ground.key(format!("{index:03}/")), ground.key(format!("{index:03}0")));
        for commit in 0..commits {
            let mut transaction = ground.begin();
            assert_eq!(number(transaction.get(&key).unwrap()), commit as u64);
            let found = transaction.get_range(&RangeRead::new(&key, &end)).unwrap();
            assert_eq!(found.len(), commit.min(1), "thread {index}");
            transaction.set(&key, (commit as u64 + 1).to_le_bytes());
            transaction.commit().expect("nobody else touches these keys");
        }
    });
}

/// Writers set two keys to the same value; whoever reads sees two equal ones, at each version.
fn each_commit_of_many_is_seen_whole(ground: &Ground<'_>) {
    let (threads, commits) = size(ground);
    let keys = [ground.key("left"), ground.key("right")];
    let writing = AtomicBool::new(true);
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            let mut last = 0;
            while writing.load(Ordering::Relaxed) || seen == 0 {
                let mut transaction = ground.begin();
                let version = transaction.read_version().unwrap();
                assert!(version >= last, "version {version} is read after {last}");
                last = version;
                let [left, right] = keys.each_ref().map(|key| transaction.get(key).unwrap());
                assert_eq!(left, right, "half of a commit is seen at version {version}");
                seen += 1;
            }
            seen
        });
        in_threads(threads, |index| {
            for commit in 0..commits {
                ground.write(|transaction| {
                    for key in &keys {
                        transaction.set(key, format!("{index} {commit}"));
                    }
                });
            }
        });
        writing.store(false, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(seen > 0);
    assert_eq!(ground.value("left"), ground.value("right"));
    assert!(ground.value("left").is_some());
}

/// Commits that are held and then let go at once, so that they are written in groups, round by round.
fn commit_together(
    ground: &Ground<'_>,
    prepare: impl Fn(usize) -> Transaction + Sync,
    check: impl Fn(Vec<Result<Committed, Error>>),
) {
    const THREADS: usize = 8;
    for _ in 0..if ground.is_long() { 1_000 } else { 40 } {
        ground.clear_all();
        ground.put(&[("a", "before")]);
        ground.engine().hold_commits(true);
        let prepared = Barrier::new(THREADS + 1);
        let outcomes = std::thread::scope(|scope| {
            let (prepare, prepared) = (&prepare, &prepared);
            let run = move |index| {
                let mut transaction = prepare(index);
                prepared.wait();
                transaction.commit()
            };
            let running: Vec<_> = (0..THREADS).map(|index| scope.spawn(move || run(index))).collect();
            prepared.wait();
            // Some of them are on their way by then, and go in one group.
            (0..10).for_each(|_| std::thread::yield_now());
            ground.engine().hold_commits(false);
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        check(outcomes);
    }
}

fn of_updates_in_one_group_one_wins(ground: &Ground<'_>) {
    let prepare = |index: usize| {
        let mut transaction = ground.begin();
        assert_eq!(ground.text_in(&mut transaction, "a").as_deref(), Some("before"));
        transaction.set(&ground.key("a"), index.to_string());
        transaction
    };
    commit_together(ground, prepare, |outcomes| {
        let winners: Vec<usize> = (0..outcomes.len()).filter(|index| outcomes[*index].is_ok()).collect();
        assert_eq!(winners.len(), 1, "all have read the same value, and each has changed it: {outcomes:?}");
        assert_eq!(ground.text("a"), Some(winners[0].to_string()));
        assert!(outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|e| matches!(e, Error::Conflict)));
    });
}

fn the_last_of_a_group_is_what_stays(ground: &Ground<'_>) {
    let prepare = |index: usize| {
        let mut transaction = ground.begin();
        transaction.set(&ground.key("a"), index.to_string());
        transaction
    };
    commit_together(ground, prepare, |outcomes| {
        let stamp = |index: &usize| outcomes[*index].as_ref().unwrap().versionstamp;
        let last = (0..outcomes.len()).max_by_key(stamp).unwrap();
        assert_eq!(ground.text("a"), Some(last.to_string()), "{outcomes:?}");
    });
}
