//! Entrances to decoders that are private, for fuzzing: each takes any bytes and says whether they were understood.

use crate::disk::{Disk, OpenMode, SimulatedDisk};
use crate::home;
use crate::journal::{HEADER_BYTES, record, scan};
use crate::kv::unix;
use std::path::Path;

/// Scans `segment` as the only segment of a journal, and says how many records it holds; `None` when the scan refuses it.
pub fn journal(segment: &[u8]) -> Option<u64> {
    let disk = SimulatedDisk::new();
    let directory = Path::new("/journal");
    disk.create_directory(directory).ok()?;
    let file = disk.open(&crate::journal::segments::segment_path(directory, 1), OpenMode::CreateNew).ok()?;
    file.write_all_at(segment, 0).ok()?;
    let mut records = 0;
    let visit = |_: &record::Header| {
        records += 1;
        Ok(())
    };
    scan(&disk, directory, visit).ok()?;
    Some(records)
}

/// Makes a run of journal records out of any bytes, each cut from them with a true checksum and linked to the one before: without that
/// a scan ends at the first.
pub fn sealed_journal(bytes: &[u8]) -> Vec<u8> {
    let mut segment = Vec::with_capacity(bytes.len() * 2);
    let (mut previous_crc, mut lsn) = (0, 1);
    let mut rest = bytes;
    while let Some(([length, epoch, fault], behind)) = rest.split_first_chunk() {
        let (payload, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = behind;
        let header = record::Header {
            length: 0,
            // A fault in a few of them: the number, the link or a bit anywhere.
            lsn: if *fault == 1 { lsn + 1 } else { lsn },
            epoch: u64::from(*epoch),
            synced_lsn: lsn - 1,
            previous_crc: if *fault == 2 { 7 } else { previous_crc },
            crc: 0,
        };
        let begin = segment.len();
        previous_crc = header.write(payload, &mut segment);
        lsn += 1;
        if *fault >= 128 {
            let at = begin + usize::from(*fault) % (HEADER_BYTES + payload.len());
            segment[at] ^= 1 << (fault % 8);
        }
    }
    segment
}

/// Unpacks the value of a home that is kept whole.
pub fn home(value: &[u8]) -> bool {
    home::unpack_value(value).is_ok()
}

/// A request of the protocol of `unix:` stores, without its length.
pub fn unix_request(bytes: &[u8]) -> bool {
    unix::is_request(bytes)
}

/// An answer of it.
pub fn unix_answer(bytes: &[u8]) -> bool {
    unix::is_answer(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_records_are_found_and_faults_end_the_scan() {
        assert_eq!(journal(&[]), Some(0));
        assert_eq!(journal(&sealed_journal(&[2, 1, 0, 8, 9, 0, 1, 0])), Some(2));
        assert_eq!(journal(&sealed_journal(&[0, 1, 0, 0, 1, 1])), None, "a number was left out");
        assert_eq!(journal(&sealed_journal(&[0, 1, 0, 0, 1, 2])), None, "a link is wrong");
        assert_eq!(journal(&sealed_journal(&[0, 1, 0, 0, 1, 136])), Some(1), "the last one is torn");
        assert_eq!(journal(b"no journal at all"), Some(0));
    }

    #[test]
    fn the_other_entrances_lead_to_their_decoders() {
        assert!(home(&[1, 0]), "an empty list of version 1");
        assert!(!home(&[9, 0]));
        assert!(unix_request(&[1, 0, 0, 0, 0, 0, 0, 0, 10]) && !unix_request(&[1]));
        assert!(unix_answer(&[1, 0, 0, 0, 0, 0, 0, 0, 1]) && !unix_answer(&[1]));
    }
}
