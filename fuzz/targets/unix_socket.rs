//! Requests and answers of the protocol of `unix:` stores.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_storage::proof::decoders::{unix_answer, unix_request};

fuzz_target!(|bytes: &[u8]| {
    let _ = unix_request(bytes);
    let _ = unix_answer(bytes);
});
