//! The poses of others, as a shard hands them on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use vsekai_schema::wire::pose::{PoseDecoder, decode_poses};

fuzz_target!(|bytes: &[u8]| {
    let Ok(poses) = decode_poses(bytes) else { return };
    for (_, pose) in poses {
        let _ = PoseDecoder::default().decode(Duration::ZERO, pose);
    }
});
