//! The value of a home in the store, unpacked.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_storage::proof::decoders::home;

fuzz_target!(|bytes: &[u8]| {
    let _ = home(bytes);
});
