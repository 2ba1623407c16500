//! Read versions, retries, and what `Database::run` makes of errors.

use super::{Case, Ground, Needs, case, texts};
use crate::error::Error;
use crate::kv::ConflictKind;
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    case("versions_grow_with_commits", versions_grow_with_commits),
    case("a_read_version_can_be_set", a_read_version_can_be_set),
    case("a_version_that_is_not_there_is_refused", a_version_that_is_not_there_is_refused),
    case("retryable_are_those_that_did_not_happen", retryable_are_those_that_did_not_happen),
    case("another_attempt_begins_anew", another_attempt_begins_anew),
    case("run_repeats_after_a_conflict", run_repeats_after_a_conflict),
    case("run_gives_up_on_other_errors", run_gives_up_on_other_errors),
    Case {
        name: "after_five_seconds_a_transaction_is_too_old",
        needs: Needs::Time,
        check: after_five_seconds_a_transaction_is_too_old,
    },
];

fn versions_grow_with_commits(ground: &Ground<'_>) {
    let mut last = 0;
    for round in 0..5 {
        let read = ground.begin().read_version().unwrap();
        assert!(read >= last, "round {round}: version {read} is read after {last} was committed");
        let committed = ground.put(&[("a", "1")]);
        assert!(committed.version > read, "round {round}: {} is committed after {read} was read", committed.version);
        last = committed.version;
    }
    let mut reader = ground.begin();
    let version = reader.read_version().unwrap();
    let committed = reader.commit().unwrap();
    assert_eq!((committed.version, committed.versionstamp), (version, None), "of a transaction without writes");
}

fn a_read_version_can_be_set(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("b", "1")]);
    // Whoever reads at a version keeps it readable.
    let mut holder = ground.begin();
    let past = holder.read_version().unwrap();
    let committed = ground.put(&[("a", "2")]);
    let mut transaction = ground.begin();
    transaction.set_read_version(past).unwrap();
    assert_eq!(ground.text_in(&mut transaction, "a").as_deref(), Some("1"), "at a past version");
    assert_eq!(transaction.read_version().unwrap(), past);
    transaction.set(&ground.key("c"), "1");
    assert!(matches!(transaction.commit(), Err(Error::Conflict)), "a change since the set version is a conflict");
    let mut transaction = ground.begin();
    transaction.set_read_version(past).unwrap();
    assert_eq!(ground.text_in(&mut transaction, "b").as_deref(), Some("1"));
    transaction.set(&ground.key("c"), "2");
    let later = transaction.commit().unwrap();
    assert!(later.version > committed.version);
    let mut transaction = ground.begin();
    transaction.set_read_version(later.version).unwrap();
    assert_eq!(
        ground.texts_in(&mut transaction, "", "z"),
        texts(&[("a", "2"), ("b", "1"), ("c", "2")]),
        "at the version of a commit"
    );
    assert!(transaction.set_read_version(later.version).is_err(), "a version set after the first read");
    assert_eq!(ground.text_in(&mut holder, "a").as_deref(), Some("1"));
}

fn a_version_that_is_not_there_is_refused(ground: &Ground<'_>) {
    for value in ["1", "2", "3"] {
        ground.put(&[("a", value)]);
    }
    let current = ground.begin().read_version().unwrap();
    let read_at = |version: u64| {
        let mut transaction = ground.begin();
        transaction.set_read_version(version).and_then(|()| transaction.get(&ground.key("a")))
    };
    // A cluster's version runs ahead by a million in a second.
    match read_at(current + 10_000_000_000) {
        Err(Error::FutureVersion) => {}
        other => panic!("a future version: {other:?}"),
    }
    match read_at(1) {
        Err(Error::TooOld) => {}
        other => panic!("the first version: {other:?}"),
    }
    assert_eq!(read_at(current).unwrap().as_deref(), Some(&b"3"[..]));
}

fn retryable_are_those_that_did_not_happen(ground: &Ground<'_>) {
    let retryable = [Error::Conflict, Error::TooOld, Error::FutureVersion, Error::ProcessBehind];
    let others = [
        Error::CommitUnknownResult,
        Error::Unreadable,
        Error::KeyOutside(String::new()),
        Error::TooLarge { what: "key", found: 2, limit: 1 },
        Error::Config(String::new()),
        Error::Unavailable(String::new()),
    ];
    for error in &retryable {
        assert!(error.is_retryable(), "{error:?}");
    }
    for error in &others {
        assert!(!error.is_retryable(), "{error:?}");
    }
    for error in retryable.into_iter().chain([Error::CommitUnknownResult]) {
        let text = error.to_string();
        assert!(ground.begin().on_error(error).is_ok(), "no other attempt after: {text}");
    }
    for error in others.into_iter().filter(|error| !matches!(error, Error::CommitUnknownResult)) {
        let text = error.to_string();
        let returned = ground.begin().on_error(error).expect_err("another attempt");
        assert_eq!(returned.to_string(), text, "another error comes back");
    }
}

fn another_attempt_begins_anew(ground: &Ground<'_>) {
    ground.put(&[("a", "1")]);
    let mut transaction = ground.begin();
    ground.text_in(&mut transaction, "a");
    transaction.set(&ground.key("first"), "x");
    transaction.add_conflict_range(ConflictKind::Read, &ground.key("p"), &ground.key("q")).unwrap();
    let watch = transaction.watch(&ground.key("a")).unwrap();
    ground.put(&[("a", "2"), ("p", "2")]);
    let error = transaction.commit().unwrap_err();
    assert!(matches!(error, Error::Conflict), "{error:?}");
    transaction.on_error(error).unwrap();
    assert!(watch.wait(Duration::ZERO).is_err(), "the watch of the attempt that failed goes on");
    transaction.set(&ground.key("second"), "x");
    assert_eq!(ground.text_in(&mut transaction, "a").as_deref(), Some("2"), "the snapshot is the old one");
    assert_eq!(ground.text_in(&mut transaction, "first"), None, "a write of the first attempt is left");
    transaction.commit().unwrap();
    let all = texts(&[("a", "2"), ("p", "2"), ("second", "x")]);
    assert_eq!(ground.all(), all);
    // Also when the first attempt never came to its commit.
    let mut transaction = ground.begin();
    ground.text_in(&mut transaction, "a");
    transaction.set(&ground.key("third"), "x");
    transaction.add_conflict_range(ConflictKind::Write, &ground.key("p"), &ground.key("q")).unwrap();
    transaction.on_error(Error::TooOld).unwrap();
    assert_eq!(ground.text_in(&mut transaction, "third"), None, "a write of the first attempt is left");
    ground.put(&[("a", "2")]);
    transaction.commit().expect("nothing is left to conflict");
    assert_eq!(ground.all(), all);
}

fn run_repeats_after_a_conflict(ground: &Ground<'_>) {
    let mut attempts = 0;
    let returned = ground.database().run(|transaction| {
        attempts += 1;
        let before = transaction.get(&ground.key("a"))?.unwrap_or_default();
        if attempts == 1 {
            ground.put(&[("a", "x")]);
        }
        transaction.set(&ground.key("a"), [before, b"y".to_vec()].concat());
        Ok(attempts)
    });
    assert_eq!((returned.unwrap(), attempts), (2, 2));
    assert_eq!(ground.text("a").as_deref(), Some("xy"));
}

fn run_gives_up_on_other_errors(ground: &Ground<'_>) {
    let mut attempts = 0;
    let returned: Result<(), Error> = ground.database().run(|transaction| {
        attempts += 1;
        transaction.set(&ground.key("a"), "x");
        Err(Error::Config("no".into()))
    });
    assert!(matches!(returned, Err(Error::Config(text)) if text == "no"));
    assert_eq!((attempts, ground.all()), (1, texts(&[])), "what it wrote before the error");
}

fn after_five_seconds_a_transaction_is_too_old(ground: &Ground<'_>) {
    ground.put(&[("a", "1"), ("quiet", "1")]);
    let mut reader = ground.begin();
    ground.text_in(&mut reader, "a");
    let mut writer = ground.begin();
    ground.text_in(&mut writer, "a");
    writer.set(&ground.key("b"), "1");
    let mut blind = ground.begin();
    blind.set(&ground.key("c"), "1");
    let mut quiet = ground.begin();
    let watch = quiet.watch(&ground.key("quiet")).unwrap();
    quiet.commit().unwrap();
    // Nobody changes that key: this is how the time goes by.
    assert!(!watch.wait(Duration::from_millis(6_000)).unwrap());
    ground.put(&[("d", "1")]);
    let error = reader.get(&ground.key("other")).unwrap_err();
    assert!(matches!(error, Error::TooOld), "{error:?}");
    let error = writer.commit().unwrap_err();
    assert!(matches!(error, Error::TooOld), "{error:?}");
    assert_eq!(ground.text("b"), None);
    blind.commit().expect("a transaction is as old as its first read");
    assert_eq!(ground.text("c").as_deref(), Some("1"));
}
