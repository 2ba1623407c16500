//! What a shard sends on the state channel: motion packets and pongs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_schema::wire::motion::decode_motion;
use vsekai_schema::wire::view::decode_server_datagram;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_server_datagram(bytes);
    let _ = decode_motion(bytes);
});
