//! What a client sends on the command channel. What is understood comes back from its own encoding.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_schema::wire::{decode_client_message, encode};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = decode_client_message(bytes) {
        assert_eq!(decode_client_message(&encode(&message)), Ok(message));
    }
});
