//! Join tokens. The first half of the inputs is taken as it is; the others get a true signature, so that what they claim is
//! looked at.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_net::token::{Claims, LIFETIME_S_MAX, TokenError, TokenKey};
use vsekai_schema::id::PlayerKey;

fuzz_target!(|bytes: &[u8]| {
    let key = TokenKey::new(&[7; 32]);
    let now = 1_800_000_000;
    if let Ok(text) = str::from_utf8(bytes) {
        assert!(key.check(now, text).is_err(), "nobody guesses a signature");
        let _ = TokenKey::from_hex(text);
    }
    let Some((player, rest)) = bytes.split_first_chunk() else { return };
    let Some((id, rest)) = rest.split_first_chunk() else { return };
    let Some((expires, _)) = rest.split_first_chunk() else { return };
    let claims = Claims { player: PlayerKey(*player), id: *id, expires_s: u64::from_le_bytes(*expires) };
    match key.check(now, &key.issue(&claims)) {
        Ok(read) => assert_eq!(read, claims),
        Err(TokenError::Expired) => assert!(claims.expires_s <= now),
        Err(TokenError::ValidTooLong) => assert!(claims.expires_s > now + LIFETIME_S_MAX),
        Err(error) => panic!("{error}"),
    }
});
