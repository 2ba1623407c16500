//! What a client says to signalling, and a shard to its clients there.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_net::webrtc::signalling::{PeerEvent, PeerRequest};

fuzz_target!(|bytes: &[u8]| {
    let _ = serde_json::from_slice::<PeerEvent>(bytes);
    if let Ok(request) = serde_json::from_slice::<PeerRequest>(bytes) {
        let text = serde_json::to_string(&request).unwrap_or_default();
        assert_eq!(serde_json::from_str::<PeerRequest>(&text).ok(), Some(request));
    }
});
