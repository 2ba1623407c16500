//! What every store must do, case by case. FoundationDB is the measure: where it promises less than the embedded engine
//! does, the cases ask for what it promises.
//!
//! A case gets a [`Ground`]: a database, and keys that no other case uses, so that a cluster may be shared. It panics when
//! the store is wrong.

#![expect(clippy::unwrap_used, reason = "a step that fails is a case that fails")]

mod atomics;
mod conflicts;
mod faults;
mod limits;
mod load;
mod reads;
mod versions;
mod versionstamps;
mod watches;

use super::Subject;
use crate::error::Error;
use crate::keys::readable;
use crate::kv::{Committed, Database, Pair, RangeRead, Transaction};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One thing that a store must do.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What it is, as a sentence without spaces.
    pub name: &'static str,
    /// What it takes.
    pub needs: Needs,
    /// Panics when the store does something else.
    pub check: fn(&Ground<'_>),
}

/// What a case takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Any store.
    Store,
    /// A store behind which faults can be injected.
    Faults,
    /// Seconds of real time: part of the long form only.
    Time,
}

/// Cases that belong together.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// What they are about.
    pub name: &'static str,
    /// The cases.
    pub cases: &'static [Case],
}

/// All cases.
pub const GROUPS: &[Group] = &[
    Group { name: "reads", cases: reads::CASES },
    Group { name: "versions", cases: versions::CASES },
    Group { name: "conflicts", cases: conflicts::CASES },
    Group { name: "atomics", cases: atomics::CASES },
    Group { name: "versionstamps", cases: versionstamps::CASES },
    Group { name: "watches", cases: watches::CASES },
    Group { name: "limits", cases: limits::CASES },
    Group { name: "load", cases: load::CASES },
    Group { name: "faults", cases: faults::CASES },
];

/// How many cases were run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Cases that the store passed.
    pub passed: u32,
    /// Cases that it can't be asked, or not in the short form.
    pub left_out: u32,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cases passed, {} left out", self.passed, self.left_out)
    }
}

/// Runs the cases of `groups` one after the other, and panics with the names of those that failed.
pub fn run(subject: Subject<'_>, groups: &[Group]) -> Report {
    let mut report = Report::default();
    let mut failed = Vec::new();
    for (group, case) in groups.iter().flat_map(|group| group.cases.iter().map(move |case| (group, case))) {
        let is_left_out = match case.needs {
            Needs::Store => false,
            Needs::Faults => subject.engine.is_none(),
            Needs::Time => !subject.long,
        };
        if is_left_out {
            report.left_out += 1;
            continue;
        }
        let ground = Ground { subject, prefix: [subject.prefix, case.name.as_bytes(), b"/"].concat() };
        ground.clear_all();
        match catch_unwind(AssertUnwindSafe(|| (case.check)(&ground))) {
            Ok(()) => report.passed += 1,
            Err(_) => failed.push(format!("{}: {}", group.name, case.name)),
        }
        ground.clear_all();
    }
    assert!(failed.is_empty(), "{} cases failed, see above for the reasons: {}", failed.len(), failed.join(", "));
    report
}

/// A store, and the keys of one case in it.
#[derive(Debug)]
pub struct Ground<'d> {
    subject: Subject<'d>,
    prefix: Vec<u8>,
}

/// Pairs whose keys are without the prefix.
type Texts = Vec<(String, String)>;

impl Ground<'_> {
    fn database(&self) -> &Database {
        self.subject.database
    }

    fn is_long(&self) -> bool {
        self.subject.long
    }

    /// The engine behind the store. For cases that need faults.
    fn engine(&self) -> &Database {
        self.subject.engine.expect("the case is left out where there is no engine")
    }

    fn begin(&self) -> Transaction {
        self.database().begin().unwrap()
    }

    fn key(&self, name: impl AsRef<[u8]>) -> Vec<u8> {
        [&self.prefix, name.as_ref()].concat()
    }

    /// The key behind all of this case's.
    fn end(&self) -> Vec<u8> {
        self.key([0xff])
    }

    /// Commits what `body` writes.
    fn write(&self, body: impl FnOnce(&mut Transaction)) -> Committed {
        let mut transaction = self.begin();
        body(&mut transaction);
        transaction.commit().unwrap()
    }

    fn put(&self, pairs: &[(&str, &str)]) -> Committed {
        self.write(|transaction| {
            for (key, value) in pairs {
                transaction.set(&self.key(key), *value);
            }
        })
    }

    fn clear_all(&self) {
        self.database()
            .run_idempotent(|transaction| {
                transaction.clear_range(&self.prefix, &self.end());
                Ok(())
            })
            .unwrap();
    }

    /// The stored value, as another transaction sees it.
    fn value(&self, name: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        self.begin().get(&self.key(name)).unwrap()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name).map(|value| String::from_utf8(value).unwrap())
    }

    /// What `transaction` sees at `name`.
    fn text_in(&self, transaction: &mut Transaction, name: &str) -> Option<String> {
        transaction.get(&self.key(name)).unwrap().map(|value| String::from_utf8(value).unwrap())
    }

    /// What `transaction` sees of `begin..end`.
    fn texts_in(&self, transaction: &mut Transaction, begin: &str, end: &str) -> Texts {
        self.texts(transaction.get_range(&RangeRead::new(&self.key(begin), &self.key(end))).unwrap())
    }

    /// All that is stored.
    fn all(&self) -> Texts {
        self.texts(self.begin().get_range(&RangeRead::new(&self.prefix, &self.end())).unwrap())
    }

    fn texts(&self, pairs: Vec<Pair>) -> Texts {
        let name = |key: Vec<u8>| {
            let name = key.strip_prefix(self.prefix.as_slice());
            let name = name.unwrap_or_else(|| panic!("key {} is none of this case", readable(&key)));
            String::from_utf8(name.to_vec()).unwrap()
        };
        pairs.into_iter().map(|(key, value)| (name(key), String::from_utf8(value).unwrap())).collect()
    }

    /// Does `body` and commits, which must fail with an error that `is_expected`; nothing of it may be stored.
    fn refused(
        &self,
        what: &str,
        body: impl FnOnce(&mut Transaction) -> Result<(), Error>,
        is_expected: impl FnOnce(&Error) -> bool,
    ) {
        let before = self.begin().get_range(&RangeRead::new(&self.prefix, &self.end())).unwrap();
        let mut transaction = self.begin();
        transaction.set(&self.key("bystander"), what);
        match body(&mut transaction).and_then(|()| transaction.commit()) {
            Ok(_) => panic!("{what} was not refused"),
            Err(error) => assert!(is_expected(&error), "{what}: {error:?}"),
        }
        let after = self.begin().get_range(&RangeRead::new(&self.prefix, &self.end())).unwrap();
        assert!(before == after, "{what} was refused, but something is stored");
    }
}

/// Pairs to compare with.
fn texts(expected: &[(&str, &str)]) -> Texts {
    expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A case for any store.
const fn case(name: &'static str, check: fn(&Ground<'_>)) -> Case {
    Case { name, needs: Needs::Store, check }
}
