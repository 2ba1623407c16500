//! A frame record of the journal.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_schema::record::FrameReader;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut reader) = FrameReader::new(bytes) {
        while let Ok(Some(_)) = reader.next_change() {}
    }
});
