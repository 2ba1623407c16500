use super::*;

fn key(name: &str) -> Vec<u8> {
    name.into()
}

fn stamp(version: u64, order: u16) -> Versionstamp {
    let mut stamp = [0; VERSIONSTAMP_BYTES];
    stamp[..8].copy_from_slice(&version.to_be_bytes());
    stamp[8..].copy_from_slice(&order.to_be_bytes());
    stamp
}

fn read(name: &str, found: Option<&str>) -> Deed {
    let pairs = found.map(|value| (key(name), value.into())).into_iter().collect();
    let (begin, end) = (key(name), key(&format!("{name}\0")));
    Deed::Read(Read { begin, end, limit: usize::MAX, reverse: false, snapshot: false, found: Some(pairs) })
}

fn set(name: &str, value: &str) -> Deed {
    Deed::Write(Mutation::Set(key(name), value.into()))
}

/// One that takes the times `from`, `from + 1` and `from + 2`.
fn attempt(id: u32, from: u64, read_version: Option<u64>, committed: Option<(u64, u16)>, deeds: Vec<Deed>) -> Attempt {
    let has_writes = deeds.iter().any(|deed| matches!(deed, Deed::Write(_)));
    let outcome = committed.map_or(Outcome::Conflict, |(version, order)| {
        Outcome::Committed(Committed { version, versionstamp: has_writes.then(|| stamp(version, order)) })
    });
    Attempt { id, deeds, has_writes, read_at: from, read_version, commit_at: from + 1, ended_at: from + 2, outcome }
}

/// The markers are what the commits say; `stored` is what is left.
fn check(attempts: Vec<Attempt>, stored: &[(&str, &str)]) -> Result<Checked, String> {
    let markers = attempts.iter().filter_map(|attempt| match &attempt.outcome {
        Outcome::Committed(committed) => committed.versionstamp.map(|stamp| (attempt.id, stamp)),
        _ => None,
    });
    let stored = stored.iter().map(|(name, value)| (key(name), (*value).into())).collect();
    History { markers: markers.collect(), attempts, stored }.check()
}

/// `a` is set to 1 at version 1, and read and changed by two others.
fn two_updates(second_read: (u64, &str), second_commit: (u64, u16)) -> Vec<Attempt> {
    vec![
        attempt(1, 0, None, Some((1, 0)), vec![set("a", "1")]),
        attempt(2, 10, Some(1), Some((2, 0)), vec![read("a", Some("1")), set("a", "2")]),
        attempt(3, 11, Some(second_read.0), Some(second_commit), vec![read("a", Some(second_read.1)), set("a", "3")]),
    ]
}

#[test]
fn what_one_order_explains_passes_and_is_counted() {
    let mut attempts = two_updates((2, "2"), (3, 0));
    attempts.push(attempt(4, 20, Some(3), Some((3, 0)), vec![read("a", Some("3")), read("b", None)]));
    attempts.push(attempt(5, 20, Some(2), None, vec![read("a", Some("2")), set("a", "never")]));
    attempts[4].read_at = 1;
    let checked = check(attempts, &[("a", "3")]).unwrap();
    // Those of the two that commit with writes twice.
    assert_eq!((checked.reads, checked.grouped), (2 * 2 + 2 + 1, 0));
    let blind = vec![
        attempt(1, 0, None, Some((1, 0)), vec![set("a", "1")]),
        attempt(2, 0, None, Some((1, 1)), vec![set("a", "2")]),
    ];
    assert_eq!(check(blind, &[("a", "2")]).unwrap().grouped, 2);
}

#[test]
fn what_no_order_explains_is_told() {
    let cases: [(&str, Vec<Attempt>, &[(&str, &str)], &str); 8] = [
        ("a lost update", two_updates((1, "1"), (3, 0)), &[("a", "3")], "at its commit"),
        ("a dirty read", two_updates((1, "2"), (3, 0)), &[("a", "3")], "at its read version"),
        ("the wrong end", two_updates((2, "2"), (3, 0)), &[("a", "2")], "in the end"),
        ("something left", two_updates((2, "2"), (3, 0)), &[("a", "3"), ("b", "0")], "in the end"),
        ("a commit before its read", two_updates((2, "2"), (2, 1)), &[("a", "3")], "before it has read"),
        ("one place for two", two_updates((1, "1"), (2, 0)), &[("a", "3")], "one stamp"),
        (
            "a stale read",
            vec![
                attempt(1, 0, None, Some((1, 0)), vec![set("a", "1")]),
                attempt(2, 10, Some(0), Some((0, 0)), vec![read("a", None)]),
            ],
            &[("a", "1")],
            "does not see",
        ),
        (
            "a commit before one that had returned",
            vec![
                attempt(1, 0, None, Some((2, 0)), vec![set("a", "1")]),
                attempt(2, 10, None, Some((1, 0)), vec![set("a", "2")]),
            ],
            &[("a", "1")],
            "before one that had returned",
        ),
    ];
    for (what, attempts, stored, expected) in cases {
        match check(attempts, stored) {
            Ok(_) => panic!("{what} passes"),
            Err(reason) => assert!(reason.contains(expected), "{what}: {reason}"),
        }
    }
}

#[test]
fn markers_tell_what_happened() {
    let unknown = |marker: Option<Versionstamp>, stored: &[(&str, &str)]| {
        let mut one = attempt(1, 0, None, None, vec![set("a", "1")]);
        one.outcome = Outcome::Unknown;
        let stored = stored.iter().map(|(name, value)| (key(name), (*value).into())).collect();
        History { attempts: vec![one], markers: marker.map(|stamp| (1, stamp)).into_iter().collect(), stored }.check()
    };
    assert!(unknown(Some(stamp(1, 0)), &[("a", "1")]).is_ok());
    assert!(unknown(None, &[]).is_ok());
    assert!(unknown(Some(stamp(1, 0)), &[]).is_err(), "its write is lost");
    assert!(unknown(None, &[("a", "1")]).is_err(), "half of it is stored");
    let refused = attempt(1, 0, None, None, vec![set("a", "1")]);
    let markers = [(1, stamp(1, 0))].into();
    let reason = History { attempts: vec![refused], markers, stored: vec![] }.check().unwrap_err();
    assert!(reason.contains("did not happen, but is stored"), "{reason}");
}
