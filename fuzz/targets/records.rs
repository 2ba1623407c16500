//! The small records of a store: owner, lease, log of changes, head of a home. What is understood comes back from its own encoding.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_schema::record::{ChangeRecord, HomeRecord, LeaseRecord, OwnRecord};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = OwnRecord::decode(bytes) {
        assert_eq!(OwnRecord::decode(&record.encode()), Ok(record));
    }
    if let Ok(record) = LeaseRecord::decode(bytes) {
        assert_eq!(LeaseRecord::decode(&record.encode()), Ok(record));
    }
    if let Ok(record) = ChangeRecord::decode(bytes) {
        assert_eq!(ChangeRecord::decode(&record.encode()), Ok(record));
    }
    if let Ok(record) = HomeRecord::decode(bytes) {
        assert_eq!(HomeRecord::decode(&record.encode()).as_ref(), Ok(&record));
    }
});
