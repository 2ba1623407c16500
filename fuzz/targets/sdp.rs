//! A client's answer in SDP: the library's parser.

#![no_main]

use libfuzzer_sys::fuzz_target;
use str0m::change::SdpAnswer;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = SdpAnswer::from_sdp_string(text);
    }
});
