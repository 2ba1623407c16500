//! The store's change feed: one entry per flush, under versionstamped keys, so that whoever follows it sees every flush once
//! and in order. Entries are kept for a number of frames.

use crate::error::Error;
use crate::keys::Region;
use crate::kv::{Pair, RangeRead, Transaction};
use vsekai_schema::record::ChangeRecord;

/// An entry that would be longer lists nothing and says so.
const ENTRY_BYTES_MAX: usize = 60_000;
/// How many old entries one flush removes: twice what it adds would do.
const REMOVED_MAX: usize = 16;

/// Adds `change`, and removes old entries that end more than `keep_frames` before it.
pub(crate) fn append(
    transaction: &mut Transaction,
    region: Region,
    change: &ChangeRecord,
    keep_frames: u64,
) -> Result<(), Error> {
    let (begin, end) = region.changes();
    for (key, value) in transaction.get_range(&RangeRead::new(&begin, &end).limit(REMOVED_MAX).snapshot())? {
        if decode(&value)?.last_frame.saturating_add(keep_frames) >= change.last_frame {
            break;
        }
        transaction.clear(&key);
    }
    if keep_frames == 0 {
        return Ok(());
    }
    let mut value = change.encode();
    if value.len() > ENTRY_BYTES_MAX {
        value = ChangeRecord { chunks: Vec::new(), entities: Vec::new(), complete: false, ..change.clone() }.encode();
    }
    let (template, offset) = region.change_template();
    transaction.set_versionstamped_key(&template, offset, &value);
    Ok(())
}

/// The entries behind `cursor` (all, when it is `None`), at most `limit`: each with the cursor that continues behind it.
/// A follower whose cursor is older than the oldest entry has missed some: compare the first entry's `first_frame`.
pub fn read_changes(
    transaction: &mut Transaction,
    region: Region,
    cursor: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(Vec<u8>, ChangeRecord)>, Error> {
    let (first, end) = region.changes();
    let begin = cursor.map_or(first, |cursor| [cursor, &[0]].concat());
    let entry = |(key, value): Pair| Ok((key, decode(&value)?));
    transaction.get_range(&RangeRead::new(&begin, &end).limit(limit).snapshot())?.into_iter().map(entry).collect()
}

fn decode(value: &[u8]) -> Result<ChangeRecord, Error> {
    ChangeRecord::decode(value).map_err(|e| Error::decode("an entry of the store's change log", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Database;

    #[test]
    fn entries_are_read_in_order_once_and_go_when_they_are_old() {
        let database = Database::open("mem:").unwrap();
        let region = Region::WHOLE;
        let change = |frame: u64, count: u64| ChangeRecord {
            first_frame: frame,
            last_frame: frame + 9,
            state_hash: frame,
            chunks: (0..count).map(|at| u64::MAX - at).collect(),
            entities: vec![frame],
            complete: true,
        };
        for number in 0..30 {
            let count = if number == 29 { 100_000 } else { 2 };
            database.run(|transaction| append(transaction, region, &change(number * 10, count), 100)).unwrap();
        }
        let mut transaction = database.begin().unwrap();
        let first = read_changes(&mut transaction, region, None, 4).unwrap();
        assert_eq!(first.iter().map(|(_, change)| change.first_frame).collect::<Vec<_>>(), [190, 200, 210, 220]);
        assert_eq!(first[0].1, change(190, 2));
        let rest = read_changes(&mut transaction, region, Some(&first[3].0), 99).unwrap();
        assert_eq!(rest.len(), 7);
        let last = &rest[6].1;
        assert!(!last.complete && last.chunks.is_empty() && last.last_frame == 299);
        assert!(read_changes(&mut transaction, region, Some(&rest[6].0), 99).unwrap().is_empty());
    }
}
