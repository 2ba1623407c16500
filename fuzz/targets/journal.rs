//! A segment of the journal: as it is, and as a run of records with true checksums.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_storage::proof::decoders::{journal, sealed_journal};

fuzz_target!(|bytes: &[u8]| {
    let _ = journal(bytes);
    let _ = journal(&sealed_journal(bytes));
});
