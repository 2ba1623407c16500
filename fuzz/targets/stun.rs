//! STUN, as the worker reads it of whoever sends it: the library's parser.

#![no_main]

use libfuzzer_sys::fuzz_target;
use str0m::crypto::from_feature_flags;
use str0m::ice::StunMessage;
use str0m::net::DatagramRecv;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = StunMessage::parse(bytes) {
        let _ = (message.is_binding_request(), message.split_username().is_some());
        let hmac = from_feature_flags().sha1_hmac_provider;
        let _ = message.verify(b"a password", |key, parts| hmac.sha1_hmac(key, parts));
    }
    let _ = DatagramRecv::try_from(bytes);
});
