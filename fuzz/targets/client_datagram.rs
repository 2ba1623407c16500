//! What a client sends on the state channel: movement and pings.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_schema::wire::{decode_client_datagram, encode};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(datagram) = decode_client_datagram(bytes) {
        assert_eq!(decode_client_datagram(&encode(&datagram)), Ok(datagram));
    }
});
