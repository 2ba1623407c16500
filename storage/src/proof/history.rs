//! What transactions did and saw, and whether one order explains it: that of their commits.
//!
//! Each commit has a place, its versionstamp. All commits are replayed in that order over an ordered map. Then
//! - what a transaction read must be what the map holds at its read version, with its own writes over it, whether it was
//!   committed or not;
//! - what a committed transaction read and had tracked must also be what the map holds just before its own place;
//! - the places must agree with time: who began after a commit had returned sees it, and is committed behind it;
//! - at the end the store must hold what the map holds: what was refused has left nothing.
//!
//! That is strict serialisability (P. Bernstein, V. Hadzilacos, N. Goodman, "Concurrency Control and Recovery in Database
//! Systems", 1987; M. Herlihy, J. Wing, "Linearizability", 1990), checked in linear time because the order is given.

use crate::keys::readable;
use crate::kv::{Atomic, Committed, KeyRange, Mutation, Pair, VERSIONSTAMP_BYTES, Versionstamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What the store holds.
type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// One transaction from its first action to its end.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) id: u32,
    /// What it did and saw, in order.
    pub(super) deeds: Vec<Deed>,
    /// It has written, or counts as if it had, and so leaves a marker.
    pub(super) has_writes: bool,
    /// When it asked for its first read, on the clock of the history.
    pub(super) read_at: u64,
    pub(super) read_version: Option<u64>,
    /// When it asked for its commit.
    pub(super) commit_at: u64,
    /// When it had its answer.
    pub(super) ended_at: u64,
    pub(super) outcome: Outcome,
}

/// One thing that a transaction did.
#[derive(Debug)]
pub(super) enum Deed {
    Write(Mutation),
    Read(Read),
}

/// What a transaction asked for, and saw.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) begin: Vec<u8>,
    pub(super) end: Vec<u8>,
    pub(super) limit: usize,
    pub(super) reverse: bool,
    /// Not tracked for conflicts.
    pub(super) snapshot: bool,
    /// The pairs; `None` when the store said that they can't be known before the commit.
    pub(super) found: Option<Vec<Pair>>,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Committed(Committed),
    /// The marker tells.
    Unknown,
    Conflict,
    /// Any other retryable error.
    Refused,
    Abandoned,
}

/// All that happened to the keys of one case.
#[derive(Debug)]
pub(super) struct History {
    pub(super) attempts: Vec<Attempt>,
    /// The stamp that each attempt with writes has left, by its id, if it was committed.
    pub(super) markers: BTreeMap<u32, Versionstamp>,
    /// What the store holds in the end.
    pub(super) stored: Vec<Pair>,
}

/// What a check of a history has counted.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// Reads that were compared with the map.
    pub(super) reads: u64,
    /// Commits that shared their version with others.
    pub(super) grouped: u64,
}

impl Attempt {
    fn mutations(&self) -> impl Iterator<Item = &Mutation> {
        self.deeds.iter().filter_map(|deed| match deed {
            Deed::Write(mutation) => Some(mutation),
            Deed::Read(_) => None,
        })
    }

    /// What it did, one line each, for whoever has to find the bug.
    fn story(&self) -> String {
        let mut story =
            format!("transaction {}, read at version {:?}, {:?}\n", self.id, self.read_version, self.outcome);
        for deed in &self.deeds {
            // Writing to a string cannot fail.
            let _ = match deed {
                Deed::Write(mutation) => writeln!(story, "  {}", told(mutation)),
                Deed::Read(read) => {
                    let kind = if read.snapshot { "snapshot read" } else { "read" };
                    let found = read.found.as_ref().map(|pairs| pairs_told(pairs));
                    let found = found.unwrap_or_else(|| "can't be known yet".to_owned());
                    let (begin, end) = (readable(&read.begin), readable(&read.end));
                    let (limit, reverse) = (read.limit, read.reverse);
                    writeln!(story, "  {kind} {begin}..{end}, limit {limit}, reverse {reverse}: {found}")
                }
            };
        }
        story
    }
}

impl History {
    /// Checks all of it; an error says what can't be explained.
    pub(super) fn check(&self) -> Result<Checked, String> {
        let commits = self.commits()?;
        let mut checked = Checked::default();
        for (index, (stamp, _)) in commits.iter().enumerate() {
            let shares =
                |other: Option<&(Versionstamp, &Attempt)>| other.is_some_and(|(other, _)| other[..8] == stamp[..8]);
            let before = index.checked_sub(1).and_then(|before| commits.get(before));
            checked.grouped += u64::from(shares(before) || shares(commits.get(index + 1)));
        }
        self.check_time(&commits)?;
        self.replay(&commits, &mut checked)?;
        Ok(checked)
    }

    /// Those with writes that happened, in order of their stamps.
    fn commits(&self) -> Result<Vec<(Versionstamp, &Attempt)>, String> {
        let mut commits = Vec::new();
        for attempt in &self.attempts {
            let marker = self.markers.get(&attempt.id).copied();
            let stamp = match &attempt.outcome {
                Outcome::Committed(committed) if attempt.has_writes => {
                    let stamp =
                        committed.versionstamp.ok_or_else(|| format!("no versionstamp: {}", attempt.story()))?;
                    if marker != Some(stamp) {
                        return Err(format!("the stamp that was stored is {marker:?}: {}", attempt.story()));
                    }
                    if stamp[..8] != committed.version.to_be_bytes() {
                        return Err(format!("the stamp is not of the version: {}", attempt.story()));
                    }
                    Some(stamp)
                }
                Outcome::Committed(committed) => {
                    let has_no_stamp = committed.versionstamp.is_none();
                    if has_no_stamp && attempt.read_version.is_some_and(|version| version != committed.version) {
                        return Err(format!("a commit without writes is at another version: {}", attempt.story()));
                    }
                    None
                }
                Outcome::Unknown => marker,
                Outcome::Conflict | Outcome::Refused | Outcome::Abandoned if marker.is_none() => None,
                _ => return Err(format!("it did not happen, but is stored: {}", attempt.story())),
            };
            commits.extend(stamp.map(|stamp| (stamp, attempt)));
        }
        commits.sort_unstable_by_key(|(stamp, _)| *stamp);
        match commits.windows(2).find(|two| two[0].0 == two[1].0) {
            Some(two) => Err(format!("two commits have one stamp: {}{}", two[0].1.story(), two[1].1.story())),
            None => Ok(commits),
        }
    }

    /// Whoever began, or asked for its commit, after another commit had returned comes behind that one.
    fn check_time(&self, commits: &[(Versionstamp, &Attempt)]) -> Result<(), String> {
        let mut returned: Vec<_> = commits.iter().map(|(stamp, attempt)| (attempt.ended_at, *stamp)).collect();
        returned.sort_unstable();
        // The latest place of those that had returned by each time.
        let mut latest = [0; VERSIONSTAMP_BYTES];
        for (_, stamp) in &mut returned {
            latest = latest.max(*stamp);
            *stamp = latest;
        }
        let known_at = |time: u64| {
            let count = returned.partition_point(|(ended_at, _)| *ended_at < time);
            count.checked_sub(1).map(|last| returned[last].1)
        };
        for attempt in &self.attempts {
            let (Some(version), Some(known)) = (attempt.read_version, known_at(attempt.read_at)) else { continue };
            if version.to_be_bytes().as_slice() < &known[..8] {
                return Err(format!("it does not see the commit {known:?}, which had returned: {}", attempt.story()));
            }
        }
        for (stamp, attempt) in commits {
            if known_at(attempt.commit_at).is_some_and(|known| *stamp <= known) {
                return Err(format!("it is committed at {stamp:?}, before one that had returned: {}", attempt.story()));
            }
            if attempt.read_version.is_some_and(|version| stamp[..8] <= version.to_be_bytes()[..]) {
                return Err(format!("it is committed at {stamp:?}, before it has read: {}", attempt.story()));
            }
        }
        Ok(())
    }

    fn replay(&self, commits: &[(Versionstamp, &Attempt)], checked: &mut Checked) -> Result<(), String> {
        let mut readers: Vec<_> =
            self.attempts.iter().filter_map(|attempt| Some((attempt.read_version?, attempt))).collect();
        readers.sort_unstable_by_key(|(version, _)| *version);
        let mut readers = readers.into_iter().peekable();
        let mut map = Map::new();
        for (stamp, attempt) in commits {
            while let Some((_, reader)) = readers.next_if(|(version, _)| version.to_be_bytes()[..] < stamp[..8]) {
                checked.reads += check_reads(reader, &map, false)?;
            }
            checked.reads += check_reads(attempt, &map, true)?;
            attempt.mutations().for_each(|mutation| apply(&mut map, mutation, stamp));
        }
        for (_, reader) in readers {
            checked.reads += check_reads(reader, &map, false)?;
        }
        if self.stored.iter().map(|(key, value)| (key, value)).eq(&map) {
            return Ok(());
        }
        let expected: Vec<Pair> = map.into_iter().collect();
        let (stored, expected) = (pairs_told(&self.stored), pairs_told(&expected));
        Err(format!("in the end the store holds {stored}, its commits in their order make {expected}"))
    }
}

/// Compares what a transaction has read, or only what it had tracked, with `map` and its own writes.
fn check_reads(attempt: &Attempt, map: &Map, at_commit: bool) -> Result<u64, String> {
    if !attempt.deeds.iter().any(|deed| matches!(deed, Deed::Read(_))) {
        return Ok(0);
    }
    let mut map = map.clone();
    // Keys whose value the transaction can't know, and what it might not know according to how fine the store looks.
    let mut unknown = BTreeSet::new();
    let mut doubtful: Vec<KeyRange> = Vec::new();
    let mut checked = 0;
    for deed in &attempt.deeds {
        let read = match deed {
            Deed::Write(mutation) => {
                match mutation {
                    Mutation::SetVersionstampedValue(key, ..) => {
                        unknown.insert(key.clone());
                        doubtful.push((key.clone(), [key.as_slice(), &[0]].concat()));
                    }
                    Mutation::SetVersionstampedKey(template, offset, _) => {
                        let stamp = *offset as usize..*offset as usize + VERSIONSTAMP_BYTES;
                        let mut range = (template.clone(), [template.as_slice(), &[0]].concat());
                        range.0[stamp.clone()].fill(0);
                        range.1[stamp].fill(0xff);
                        doubtful.push(range);
                    }
                    Mutation::Clear((begin, end)) => unknown.retain(|key| key < begin || key >= end),
                    _ => {}
                }
                apply(&mut map, mutation, &[0; VERSIONSTAMP_BYTES]);
                continue;
            }
            Deed::Read(read) => read,
        };
        let is_doubtful = doubtful.iter().any(|(begin, end)| *begin < read.end && read.begin < *end);
        let is_within = |key: &Vec<u8>| read.begin <= *key && *key < read.end;
        // One with a limit may end before it.
        let is_unknown = read.limit == usize::MAX && unknown.iter().any(is_within);
        let Some(found) = &read.found else {
            if is_doubtful {
                continue;
            }
            return Err(format!("a key can't be read though it has no versionstamp: {}", attempt.story()));
        };
        if is_unknown {
            return Err(format!("a key with a versionstamp was read before the commit: {}", attempt.story()));
        }
        if is_doubtful || (at_commit && read.snapshot) {
            continue;
        }
        let expected = expected(&map, read);
        if *found != expected {
            let place = if at_commit { "its commit" } else { "its read version" };
            return Err(format!(
                "a read of {}..{} should find {} at {place}: {}",
                readable(&read.begin),
                readable(&read.end),
                pairs_told(&expected),
                attempt.story()
            ));
        }
        checked += 1;
    }
    Ok(checked)
}

fn expected(map: &Map, read: &Read) -> Vec<Pair> {
    if read.begin >= read.end {
        return Vec::new();
    }
    let within = map.range(read.begin.clone()..read.end.clone()).map(|(key, value)| (key.clone(), value.clone()));
    if read.reverse { within.rev().take(read.limit).collect() } else { within.take(read.limit).collect() }
}

fn apply(map: &mut Map, mutation: &Mutation, stamp: &Versionstamp) {
    let stamped = |template: &[u8], offset: u32| {
        let mut bytes = template.to_vec();
        bytes[offset as usize..offset as usize + VERSIONSTAMP_BYTES].copy_from_slice(stamp);
        bytes
    };
    match mutation {
        Mutation::Set(key, value) => drop(map.insert(key.clone(), value.clone())),
        Mutation::Clear((begin, end)) => map.retain(|key, _| key < begin || key >= end),
        Mutation::Atomic(atomic, key, operand) => {
            match computed(*atomic, map.get(key).map(Vec::as_slice), operand) {
                Some(value) => map.insert(key.clone(), value),
                None => map.remove(key),
            };
        }
        Mutation::SetVersionstampedKey(key, offset, value) => drop(map.insert(stamped(key, *offset), value.clone())),
        Mutation::SetVersionstampedValue(key, value, offset) => drop(map.insert(key.clone(), stamped(value, *offset))),
    }
}

/// What `Atomic::apply` should do, said once more in numbers: operands here have at most eight bytes.
fn computed(atomic: Atomic, stored: Option<&[u8]>, operand: &[u8]) -> Option<Vec<u8>> {
    let number = |bytes: &[u8]| {
        let mut wide = [0; 8];
        let length = bytes.len().min(operand.len());
        wide[..length].copy_from_slice(&bytes[..length]);
        u64::from_le_bytes(wide)
    };
    let bytes = |number: u64| number.to_le_bytes()[..operand.len()].to_vec();
    match (atomic, stored) {
        (Atomic::CompareAndClear, Some(stored)) if stored != operand => Some(stored.to_vec()),
        (Atomic::CompareAndClear, _) => None,
        (_, None) => Some(operand.to_vec()),
        (Atomic::Add, Some(stored)) => Some(bytes(number(stored).wrapping_add(number(operand)))),
        (Atomic::Max, Some(stored)) => Some(bytes(number(stored).max(number(operand)))),
        (Atomic::Min, Some(stored)) => Some(bytes(number(stored).min(number(operand)))),
        (Atomic::ByteMax, Some(stored)) => Some(if stored > operand { stored } else { operand }.to_vec()),
        (Atomic::ByteMin, Some(stored)) => Some(if stored < operand { stored } else { operand }.to_vec()),
    }
}

fn told(mutation: &Mutation) -> String {
    match mutation {
        Mutation::Set(key, value) => format!("set {} to {value:?}", readable(key)),
        Mutation::Clear((begin, end)) => format!("clear {}..{}", readable(begin), readable(end)),
        Mutation::Atomic(atomic, key, operand) => format!("{atomic:?} {operand:?} to {}", readable(key)),
        Mutation::SetVersionstampedKey(key, ..) => format!("set a key with a versionstamp, {}", readable(key)),
        Mutation::SetVersionstampedValue(key, ..) => format!("set {} to a versionstamp", readable(key)),
    }
}

fn pairs_told(pairs: &[Pair]) -> String {
    let told: Vec<String> = pairs.iter().map(|(key, value)| format!("{}={value:?}", readable(key))).collect();
    format!("[{}]", told.join(", "))
}

#[cfg(test)]
mod tests;
