//! What a shard sends on the command channel; clients, bots and tools read it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_schema::wire::{decode_server_message, encode};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = decode_server_message(bytes) {
        assert_eq!(decode_server_message(&encode(&message)), Ok(message));
    }
});
