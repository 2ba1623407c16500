//! What a cluster can do to its callers, made to happen.

use super::{Case, Ground, Needs, texts};
use crate::error::Error;
use crate::kv::{Fault, RandomFaults, Transaction};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub(super) const CASES: &[Case] = &[
    case("each_fault_is_its_error", each_fault_is_its_error),
    case("a_fault_strikes_once", a_fault_strikes_once),
    case("an_unknown_result_is_given_to_the_caller", an_unknown_result_is_given_to_the_caller),
    case("an_idempotent_run_happens_exactly_once", an_idempotent_run_happens_exactly_once),
    case("without_a_commit_id_it_may_happen_twice", without_a_commit_id_it_may_happen_twice),
    case("a_slow_commit_happens", a_slow_commit_happens),
    case("held_commits_wait", held_commits_wait),
];

const fn case(name: &'static str, check: fn(&Ground<'_>)) -> Case {
    Case { name, needs: Needs::Faults, check }
}

type IsError = fn(&Error) -> bool;

const IS_CONFLICT: IsError = |error| matches!(error, Error::Conflict);
const IS_UNKNOWN: IsError = |error| matches!(error, Error::CommitUnknownResult);
const IS_TOO_OLD: IsError = |error| matches!(error, Error::TooOld);
const IS_FUTURE: IsError = |error| matches!(error, Error::FutureVersion);
const IS_BEHIND: IsError = |error| matches!(error, Error::ProcessBehind);

fn each_fault_is_its_error(ground: &Ground<'_>) {
    let on_commit: [(Fault, IsError, bool); 6] = [
        (Fault::Conflict, IS_CONFLICT, false),
        (Fault::UnknownButCommitted, IS_UNKNOWN, true),
        (Fault::UnknownAndLost, IS_UNKNOWN, false),
        (Fault::TooOld, IS_TOO_OLD, false),
        (Fault::FutureVersion, IS_FUTURE, false),
        (Fault::ProcessBehind, IS_BEHIND, false),
    ];
    for (fault, is_expected, is_stored) in on_commit {
        let name = format!("{fault:?}");
        ground.engine().fail_next_commits([fault]);
        let mut transaction = ground.begin();
        transaction.set(&ground.key(&name), "1");
        let error = transaction.commit().expect_err("the fault strikes");
        assert!(is_expected(&error), "{fault:?}: {error:?}");
        assert_eq!(ground.value(&name).is_some(), is_stored, "{fault:?}");
    }
    // A commit that conflicts is known not to have happened.
    ground.put(&[("a", "1")]);
    let mut transaction = ground.begin();
    ground.text_in(&mut transaction, "a");
    transaction.set(&ground.key("b"), "1");
    ground.put(&[("a", "2")]);
    ground.engine().fail_next_commits([Fault::UnknownButCommitted]);
    let error = transaction.commit().expect_err("it conflicts");
    assert!(IS_CONFLICT(&error), "{error:?}");
    let on_read: [(Fault, IsError); 3] =
        [(Fault::TooOld, IS_TOO_OLD), (Fault::FutureVersion, IS_FUTURE), (Fault::ProcessBehind, IS_BEHIND)];
    for (fault, is_expected) in on_read {
        ground.engine().fail_next_reads([fault]);
        let error = ground.begin().get(&ground.key("a")).expect_err("the fault strikes");
        assert!(is_expected(&error), "{fault:?}: {error:?}");
    }
}

fn a_fault_strikes_once(ground: &Ground<'_>) {
    ground.engine().fail_next_commits([Fault::Conflict, Fault::TooOld]);
    ground.engine().fail_next_reads([Fault::ProcessBehind]);
    let mut attempts = 0;
    let returned = ground.database().run(|transaction| {
        attempts += 1;
        transaction.get(&ground.key("a"))?;
        transaction.set(&ground.key("a"), attempts.to_string());
        Ok(attempts)
    });
    assert_eq!(returned.unwrap(), 4, "one read fails, then two commits");
    assert_eq!(ground.all(), texts(&[("a", "4")]));
    ground.put(&[("a", "5")]);
}

fn an_unknown_result_is_given_to_the_caller(ground: &Ground<'_>) {
    for (fault, is_stored) in [(Fault::UnknownButCommitted, true), (Fault::UnknownAndLost, false)] {
        ground.clear_all();
        let mut attempts = 0;
        ground.engine().fail_next_commits([fault]);
        let returned = ground.database().run(|transaction| {
            attempts += 1;
            transaction.set(&ground.key("a"), "1");
            Ok(())
        });
        assert!(matches!(returned, Err(Error::CommitUnknownResult)), "{fault:?}: {returned:?}");
        assert_eq!((attempts, ground.text("a").is_some()), (1, is_stored), "{fault:?}");
        attempts = 0;
        ground.engine().fail_next_commits([fault]);
        let returned = ground.database().run_idempotent(|transaction| {
            attempts += 1;
            transaction.set(&ground.key("b"), "1");
            Ok(())
        });
        assert!(returned.is_ok(), "{fault:?}: {returned:?}");
        assert_eq!((attempts, ground.text("b").as_deref()), (2, Some("1")), "{fault:?}");
    }
}

/// Adds one to the counter, unless the id says that this has happened.
fn increment_once(ground: &Ground<'_>, transaction: &mut Transaction, id: u32) -> Result<(), Error> {
    let marker = ground.key(format!("done/{id:05}"));
    if transaction.get(&marker)?.is_some() {
        return Ok(());
    }
    transaction.set(&marker, "");
    increment(ground, transaction)
}

fn increment(ground: &Ground<'_>, transaction: &mut Transaction) -> Result<(), Error> {
    let counter = ground.key("counter");
    let before = transaction.get(&counter)?.map_or(0, |value| u32::from_le_bytes(value.try_into().unwrap()));
    transaction.set(&counter, (before + 1).to_le_bytes());
    Ok(())
}

fn counted(ground: &Ground<'_>) -> u32 {
    ground.value("counter").map_or(0, |value| u32::from_le_bytes(value.try_into().unwrap()))
}

fn an_idempotent_run_happens_exactly_once(ground: &Ground<'_>) {
    let count: u32 = if ground.is_long() { 1_000 } else { 60 };
    let mut attempts = 0;
    // Six kinds of a hundred each: more than half of the commits fail.
    let faults = RandomFaults { seed: 7, commits_per_mille: 100, reads_per_mille: 100 };
    ground.engine().fail_at_random(Some(faults));
    for id in 0..count {
        let returned = ground.database().run_idempotent(|transaction| {
            attempts += 1;
            increment_once(ground, transaction, id)
        });
        returned.expect("retried until it happens");
    }
    ground.engine().fail_at_random(None);
    assert!(attempts > 2 * count, "{attempts} attempts for {count}: hardly a fault struck");
    assert_eq!(counted(ground), count, "in {attempts} attempts");
    ground.put(&[("without", "faults")]);
}

/// That the case above can fail.
fn without_a_commit_id_it_may_happen_twice(ground: &Ground<'_>) {
    ground.engine().fail_next_commits([Fault::UnknownButCommitted]);
    ground.database().run_idempotent(|transaction| increment(ground, transaction)).unwrap();
    assert_eq!(counted(ground), 2);
}

fn a_slow_commit_happens(ground: &Ground<'_>) {
    const SLOW: Duration = Duration::from_millis(50);
    ground.engine().fail_next_commits([Fault::Slow(SLOW)]);
    let began = Instant::now();
    ground.put(&[("a", "1")]);
    assert!(began.elapsed() >= SLOW, "it took {:?}", began.elapsed());
    assert_eq!(ground.text("a").as_deref(), Some("1"));
    ground.engine().fail_next_reads([Fault::Slow(SLOW)]);
    let began = Instant::now();
    assert_eq!(ground.text("a").as_deref(), Some("1"));
    assert!(began.elapsed() >= SLOW, "it took {:?}", began.elapsed());
}

fn held_commits_wait(ground: &Ground<'_>) {
    ground.put(&[("a", "1")]);
    ground.engine().hold_commits(true);
    std::thread::scope(|scope| {
        let (told, committed) = mpsc::channel();
        for value in ["2", "3"] {
            let told = told.clone();
            scope.spawn(move || {
                ground.put(&[("a", value)]);
                told.send(value).unwrap();
            });
        }
        let early = committed.recv_timeout(Duration::from_millis(50));
        let meanwhile = ground.text("a");
        // Let go first: a failed assertion must not leave the threads waiting.
        ground.engine().hold_commits(false);
        assert!(early.is_err(), "committed {early:?} while held");
        assert_eq!(meanwhile.as_deref(), Some("1"), "reads go on");
        let mut both = [committed.recv().unwrap(), committed.recv().unwrap()];
        both.sort_unstable();
        assert_eq!(both, ["2", "3"]);
    });
    assert!(["2", "3"].map(Some).contains(&ground.text("a").as_deref()));
}
