//! A stream of poses as a client sends it. The input is cut into datagrams: a byte of length, then so many bytes. What is
//! understood keeps to the limits' arithmetic, and its encoding can be read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use vsekai_schema::wire::pose::{PoseDecoder, PoseEncoder, check_reach, client_pose};

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = PoseDecoder::default();
    let mut encoder = PoseEncoder::default();
    let mut again = PoseDecoder::default();
    let mut now = Duration::ZERO;
    let mut rest = bytes;
    while let Some((length, behind)) = rest.split_first() {
        let (datagram, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = behind;
        now += Duration::from_millis(16);
        let _ = client_pose(datagram);
        let Ok(received) = decoder.decode(now, datagram) else { continue };
        let _ = check_reach(&received.pose);
        if let Ok(encoded) = encoder.encode(received.slot, &received.pose) {
            let _ = again.decode(now, &encoded);
        }
    }
});
