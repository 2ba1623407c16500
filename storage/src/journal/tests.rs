use super::append::cut_tail;
use super::segments::segment_path;
use super::*;
use crate::disk::{Disk, LockedDirectory, RealDisk};
use crate::error::Error;
use proptest::prelude::*;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

fn real_disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

/// A journal in a directory of its own.
struct Scenario {
    directory: TempDir,
    segment_bytes: u64,
}

impl Scenario {
    fn new(segment_bytes: u64) -> Self {
        Scenario { directory: TempDir::new().unwrap(), segment_bytes }
    }

    /// Opens as a shard does, appends the groups, and gives back what a flusher needs.
    fn append(&self, groups: &[&[&[u8]]]) -> Arc<Segments> {
        let lock = LockedDirectory::open(&real_disk(), self.directory.path()).unwrap();
        let mut found = scan(&RealDisk, self.directory.path(), |_| Ok(())).unwrap();
        let segments = Arc::new(Segments::new(lock, found.segments.iter().copied()));
        cut_tail(&segments, &mut found).unwrap();
        let (next_lsn, crc) = found.last.map_or((1, 0), |last| (last.header.lsn + 1, last.header.crc));
        let mut appender = Appender::new(segments.clone(), self.segment_bytes, 1, next_lsn, crc);
        for group in groups {
            appender.append_group(group.iter().copied()).unwrap();
        }
        segments
    }

    fn scan(&self) -> Result<Scan, Error> {
        scan(&RealDisk, self.directory.path(), |_| Ok(()))
    }

    fn last_lsn(&self) -> u64 {
        self.scan().unwrap().last.map_or(0, |last| last.header.lsn)
    }

    fn path(&self, first_lsn: u64) -> PathBuf {
        segment_path(self.directory.path(), first_lsn)
    }

    /// The error of a scan after `change` to one segment; the segment is then as before.
    fn scan_changed(&self, first_lsn: u64, change: impl FnOnce(&mut Vec<u8>)) -> Result<Scan, Error> {
        let path = self.path(first_lsn);
        let good = fs::read(&path).unwrap();
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let found = self.scan();
        fs::write(&path, good).unwrap();
        found
    }

    /// The change must be found, and the error must name segment and offset.
    fn check_corrupt(&self, first_lsn: u64, offset: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let error = self.scan_changed(first_lsn, change).expect_err("damage was accepted").to_string();
        assert!(error.contains(&format!("{first_lsn:020}.seg")), "{error}");
        assert!(error.contains(&format!("offset {offset} ")), "{error}");
    }
}

const RECORD: usize = HEADER_BYTES + 5;
const THREE: [&[&[u8]]; 3] = [&[b"first"], &[b"secnd"], &[b"third"]];

#[test]
fn records_come_back_across_segments_and_starts() {
    let scenario = Scenario::new(4 << 10);
    let payload = |index: usize| vec![index as u8; if index == 7 { 20_000 } else { index * 113 % 2000 }];
    let mut segments = None;
    for start in 0..3 {
        drop(segments.take());
        let payloads: Vec<_> = (start * 10..start * 10 + 10).map(payload).collect();
        let groups: Vec<Vec<&[u8]>> =
            payloads.chunks(3).map(|group| group.iter().map(Vec::as_slice).collect()).collect();
        let groups: Vec<&[&[u8]]> = groups.iter().map(Vec::as_slice).collect();
        segments = Some(scenario.append(&groups));
    }
    let segments = segments.unwrap();
    assert!(segments.count() > 6);
    assert_eq!(scenario.last_lsn(), 30);
    for from in [1, 8, 9, 30] {
        let mut tail = Tail::new(segments.clone(), from);
        let mut read = Vec::new();
        while tail.next_lsn() <= 30 {
            read.extend(tail.read_batch(30, 3000).unwrap());
        }
        assert_eq!(read.len() as u64, 31 - from);
        for (record, lsn) in read.iter().zip(from..) {
            assert_eq!((record.lsn, record.epoch), (lsn, 1));
            assert_eq!(record.payload, payload(lsn as usize - 1));
        }
    }
}

#[test]
fn a_tail_reads_no_further_than_what_is_durable() {
    let scenario = Scenario::new(4 << 10);
    let mut tail = Tail::new(scenario.append(&THREE), 1);
    assert_eq!(tail.read_batch(2, 1 << 20).unwrap().len(), 2);
    assert_eq!(tail.read_batch(2, 1 << 20).unwrap().len(), 0);
    assert_eq!(tail.read_batch(3, 1 << 20).unwrap()[0].payload, b"third");
}

#[test]
fn a_torn_last_record_is_cut_wherever_it_was_torn() {
    for torn_at in 0..RECORD {
        for fill in [None, Some(0), Some(0xff)] {
            let scenario = Scenario::new(4 << 10);
            drop(scenario.append(&THREE));
            let path = scenario.path(1);
            let mut bytes = fs::read(&path).unwrap();
            match fill {
                None => bytes.truncate(2 * RECORD + torn_at),
                Some(fill) => bytes[2 * RECORD + torn_at..3 * RECORD].fill(fill),
            }
            fs::write(&path, bytes).unwrap();
            assert_eq!(scenario.last_lsn(), 2, "torn at {torn_at}, filled with {fill:?}");
            // And the journal goes on behind it.
            drop(scenario.append(&[&[b"again"]]));
            assert_eq!(scenario.scan().unwrap().last.unwrap().payload, b"again");
            assert_eq!(scenario.last_lsn(), 3);
        }
    }
}

#[test]
fn a_zeroed_tail_is_cut() {
    let scenario = Scenario::new(4 << 10);
    drop(scenario.append(&THREE));
    for from in [RECORD, RECORD + 1, RECORD + HEADER_BYTES] {
        let found = scenario.scan_changed(1, |bytes| bytes[from..].fill(0)).unwrap();
        assert_eq!(found.last.unwrap().header.lsn, 1);
        assert_eq!(found.torn, from > RECORD);
    }
}

#[test]
fn any_flipped_byte_of_a_middle_record_is_damage() {
    let scenario = Scenario::new(4 << 10);
    drop(scenario.append(&THREE));
    for at in RECORD..2 * RECORD {
        for flip in [1, 0x80, 0xff] {
            scenario.check_corrupt(1, RECORD, |bytes| bytes[at] ^= flip);
        }
    }
    scenario.check_corrupt(1, RECORD, |bytes| bytes[RECORD..2 * RECORD].fill(0));
    scenario.check_corrupt(1, 0, |bytes| bytes[..RECORD].fill(0));
    assert_eq!(scenario.last_lsn(), 3);
}

#[test]
fn a_record_taken_out_or_put_twice_is_damage() {
    let scenario = Scenario::new(4 << 10);
    drop(scenario.append(&THREE));
    scenario.check_corrupt(1, RECORD, |bytes| drop(bytes.drain(RECORD..2 * RECORD)));
    scenario.check_corrupt(1, RECORD, |bytes| bytes.copy_within(..RECORD, RECORD));
}

#[test]
fn a_record_of_another_history_is_damage() {
    let [scenario, other] = [Scenario::new(4 << 10), Scenario::new(4 << 10)];
    drop(scenario.append(&THREE));
    drop(other.append(&[&[b"first"], &[b"2.nd."], &[b"third"]]));
    let theirs = fs::read(other.path(1)).unwrap();
    let second = RECORD..2 * RECORD;
    scenario.check_corrupt(1, 2 * RECORD, |bytes| bytes[second.clone()].copy_from_slice(&theirs[second]));
}

#[test]
fn a_group_torn_before_its_sync_is_cut_even_if_its_end_reached_the_disk() {
    let scenario = Scenario::new(4 << 10);
    drop(scenario.append(&[&[b"first"], &[b"secnd", b"third", b"forth"]]));
    let found = scenario.scan_changed(1, |bytes| bytes[RECORD + 20] ^= 1).unwrap();
    assert_eq!(found.last.unwrap().header.lsn, 1);
    assert!(found.torn);
    // With a group behind it, it had been synced: now it is damage.
    let scenario = Scenario::new(4 << 10);
    drop(scenario.append(&[&[b"first"], &[b"secnd", b"third", b"forth"], &[b"fifth"]]));
    scenario.check_corrupt(1, RECORD, |bytes| bytes[RECORD + 20] ^= 1);
}

#[test]
fn the_end_of_a_segment_that_has_a_successor_cannot_be_torn() {
    let scenario = Scenario::new(4 << 10);
    drop(scenario.append(&[&[b"first"], &[b"secnd"]]));
    drop(scenario.append(&[&[b"third"]]));
    scenario.check_corrupt(1, RECORD, |bytes| bytes.truncate(2 * RECORD - 1));
    scenario.check_corrupt(1, RECORD, |bytes| bytes[2 * RECORD - 1] ^= 1);
    scenario.check_corrupt(1, RECORD, |bytes| bytes[RECORD..].fill(0));
    for whole_records in 0..2 {
        let error = scenario.scan_changed(1, |bytes| bytes.truncate(whole_records * RECORD)).unwrap_err().to_string();
        assert!(error.contains(&format!("records {} to 2 behind it are missing", whole_records + 1)), "{error}");
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let scenario = Scenario::new(4 << 10);
    for _ in 0..3 {
        drop(scenario.append(&[&[b"first"], &[b"secnd"]]));
    }
    fs::remove_file(scenario.path(3)).unwrap();
    let error = scenario.scan().unwrap_err().to_string();
    assert!(error.contains("records 3 to 4 behind it are missing"), "{error}");
}

#[test]
fn a_record_of_a_newer_version_is_refused_even_at_the_end() {
    let scenario = Scenario::new(4 << 10);
    drop(scenario.append(&THREE));
    let error = scenario.scan_changed(1, |bytes| bytes[2 * RECORD + 3] = b'2').unwrap_err().to_string();
    assert!(error.contains("format version 2"), "{error}");
}

#[test]
fn a_journal_has_one_writer() {
    let scenario = Scenario::new(4 << 10);
    let _held = scenario.append(&THREE);
    assert!(matches!(LockedDirectory::open(&real_disk(), scenario.directory.path()), Err(Error::InUse(_))));
}

#[test]
fn stored_segments_go_but_the_last_record_stays() {
    let scenario = Scenario::new(4 << 10);
    for _ in 0..3 {
        drop(scenario.append(&[&[b"first"], &[b"secnd"]]));
    }
    let segments = scenario.append(&[]);
    for (stored_lsn, left) in [(0, 3), (2, 3), (3, 2), (4, 2), (6, 1), (6, 1)] {
        segments.remove_stored(stored_lsn).unwrap();
        assert_eq!(segments.count(), left, "after {stored_lsn}");
    }
    assert_eq!(scenario.last_lsn(), 6);
}

#[test]
fn a_start_without_appends_leaves_no_segment_behind() {
    let scenario = Scenario::new(4 << 10);
    drop(scenario.append(&[]));
    fs::write(scenario.path(1), [0; 4096]).unwrap();
    assert_eq!(scenario.append(&[]).count(), 0);
    assert!(!scenario.path(1).exists());
}

proptest! {
    #[test]
    fn random_segments_never_panic(bytes in prop::collection::vec(prop_oneof![Just(b'V'), Just(b'J'), Just(b'R'), Just(b'1'), any::<u8>()], 0..300)) {
        let scenario = Scenario::new(4 << 10);
        fs::write(scenario.path(1), &bytes).unwrap();
        let found = scenario.scan();
        prop_assert!(found.is_err() || found.unwrap().last.is_none());
    }
}

#[test]
fn what_was_reported_survives_a_crash_at_any_operation() {
    let report = trial::check_journal_crashes(1, 20).unwrap();
    assert!(report.crash_points > 100 && report.failed_syncs > 20 && report.torn > 100, "{report}");
    assert!(report.reported > 10_000 && report.unreported > 1_000, "{report}");
    println!("{report}");
}

#[test]
fn no_damage_to_a_killed_process_journal_goes_unseen() {
    let report = trial::check_journal_rot(true).unwrap();
    assert!(report.damages > 5_000 && report.refused > 3_000, "{report}");
    assert_eq!(report.last_group_lost, 0);
    println!("{report}");
}

#[test]
fn damage_after_a_power_failure_costs_the_last_group_at_most() {
    let report = trial::check_journal_rot(false).unwrap();
    assert!(report.damages > 5_000 && report.refused > 3_000 && report.last_group_lost > 0, "{report}");
    println!("{report}");
}

#[test]
fn what_a_stopped_process_reports_was_seen_by_the_one_who_took_over() {
    let report = trial::check_journal_takeovers().unwrap();
    assert!(report.moments > 200 && report.noticed > 50, "{report}");
    println!("{report}");
}
