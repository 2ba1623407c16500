//! Join tokens: who a player is, said by whoever holds the key. Pure functions of bytes and time.
//!
//! A token is 73 bytes in lower-case hexadecimal: `version u8 = 1 · player key 16 · token id 16 · expires u64 (Unix seconds,
//! little-endian) · keyed BLAKE3 of all before it, 32`. The MAC's key is derived from the secret that issuers and shards share,
//! so that the secret can serve other purposes, too. That a token serves once only is the business of [`crate::porter`].

use std::fmt;
use thiserror::Error;
use vsekai_schema::id::PlayerKey;

/// Longest time from now to a token's expiry that is accepted: whoever checks must remember used ones that long.
pub const LIFETIME_S_MAX: u64 = 3_600;

/// Characters of a token.
pub const TOKEN_CHARS: usize = 2 * (CLAIM_BYTES + MAC_BYTES);

const VERSION: u8 = 1;
const CLAIM_BYTES: usize = 1 + 16 + 16 + 8;
const MAC_BYTES: usize = 32;
/// Separates these keys from any other that is made of the same secret.
const CONTEXT: &str = "V-Sekai 2026-11 join token";

/// Names one token.
pub type TokenId = [u8; 16];

/// The right to issue and to check tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenKey([u8; 32]);

/// Shows nothing.
impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claims {
    /// Unix time in seconds at which it is no longer accepted. First, so that claims are ordered by it.
    pub expires_s: u64,
    /// The token's own name: random, never used twice.
    pub id: TokenId,
    /// Who the player is.
    pub player: PlayerKey,
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not the form of a token.
    #[error("the token is not {TOKEN_CHARS} hexadecimal digits of version {VERSION}")]
    Unreadable,
    /// Signed by another key, or changed.
    #[error("the token was not issued for this shard")]
    Forged,
    /// Too late.
    #[error("the token has expired")]
    Expired,
    /// Whoever issued it allowed more than shards accept.
    #[error("the token is valid for more than {LIFETIME_S_MAX} s")]
    ValidTooLong,
}

impl TokenKey {
    /// From the secret that issuers and shards share.
    pub fn new(secret: &[u8; 32]) -> TokenKey {
        TokenKey(blake3::derive_key(CONTEXT, secret))
    }

    /// From a secret as key files hold it: 64 hexadecimal digits, and white space around them.
    pub fn from_hex(text: &str) -> Option<TokenKey> {
        Some(TokenKey::new(&from_hex(text.trim().as_bytes())?))
    }

    /// Signs.
    pub fn issue(&self, claims: &Claims) -> String {
        let mut bytes = [0; CLAIM_BYTES];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(&claims.player.0);
        bytes[17..33].copy_from_slice(&claims.id);
        bytes[33..].copy_from_slice(&claims.expires_s.to_le_bytes());
        let mac = blake3::keyed_hash(&self.0, &bytes);
        let mut text = String::with_capacity(TOKEN_CHARS);
        for byte in bytes.iter().chain(mac.as_bytes()) {
            push_hex(&mut text, *byte);
        }
        text
    }

    /// Checks signature and time.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, unix_s: u64, token: &str) -> Result<Claims, TokenError> {
        let bytes: [u8; CLAIM_BYTES + MAC_BYTES] = from_hex(token.as_bytes()).ok_or(TokenError::Unreadable)?;
        let (claimed, mac) = bytes.split_first_chunk::<CLAIM_BYTES>().ok_or(TokenError::Unreadable)?;
        if claimed[0] != VERSION {
            return Err(TokenError::Unreadable);
        }
        let mac: [u8; MAC_BYTES] = mac.try_into().map_err(|_| TokenError::Unreadable)?;
        // Compares in constant time.
        if blake3::keyed_hash(&self.0, claimed) != blake3::Hash::from_bytes(mac) {
            return Err(TokenError::Forged);
        }
        let part = |from: usize| {
            let mut part = [0; 16];
            part.copy_from_slice(&claimed[from..from + 16]);
            part
        };
        let mut expires = [0; 8];
        expires.copy_from_slice(&claimed[33..]);
        let claims = Claims { player: PlayerKey(part(1)), id: part(17), expires_s: u64::from_le_bytes(expires) };
        if claims.expires_s <= unix_s {
            return Err(TokenError::Expired);
        }
        if claims.expires_s > unix_s.saturating_add(LIFETIME_S_MAX) {
            return Err(TokenError::ValidTooLong);
        }
        Ok(claims)
    }

    /// Sixteen bytes that nobody without the key can guess, other ones for each `number` of each `purpose`.
    pub fn unguessable(&self, purpose: &str, number: u128) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(purpose.as_bytes()).update(&[0]).update(&number.to_le_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        bytes
    }
}

/// Lower-case hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    bytes.iter().for_each(|byte| push_hex(&mut text, *byte));
    text
}

fn push_hex(text: &mut String, byte: u8) {
    for digit in [byte >> 4, byte & 15] {
        text.extend(char::from_digit(digit.into(), 16));
    }
}

/// Exactly `N` bytes in hexadecimal.
pub fn from_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let digit = |sign: u8| char::from(sign).to_digit(16);
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;

    fn key() -> TokenKey {
        TokenKey::new(&[7; 32])
    }

    fn claims() -> Claims {
        Claims { player: PlayerKey([1; 16]), id: [2; 16], expires_s: NOW + 60 }
    }

    #[test]
    fn what_is_issued_is_accepted_until_it_expires() {
        let token = key().issue(&claims());
        assert_eq!(token.len(), TOKEN_CHARS);
        const { assert!(TOKEN_CHARS <= vsekai_schema::wire::TOKEN_BYTES_MAX) };
        assert_eq!(key().check(NOW, &token), Ok(claims()));
        assert_eq!(key().check(NOW + 59, &token), Ok(claims()));
        assert_eq!(key().check(NOW + 60, &token), Err(TokenError::Expired));
        let long = Claims { expires_s: NOW + LIFETIME_S_MAX + 1, ..claims() };
        assert_eq!(key().check(NOW, &key().issue(&long)), Err(TokenError::ValidTooLong));
        assert_eq!(key().check(NOW + 1, &key().issue(&long)), Ok(long));
    }

    #[test]
    fn any_change_and_any_other_key_is_noticed() {
        let token = key().issue(&claims());
        for at in 0..TOKEN_CHARS {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let wanted = if at < 2 { TokenError::Unreadable } else { TokenError::Forged };
            assert_eq!(key().check(NOW, &String::from_utf8(changed).unwrap()), Err(wanted), "digit {at}");
        }
        assert_eq!(TokenKey::new(&[8; 32]).check(NOW, &token), Err(TokenError::Forged));
        for bad in ["", "a-token-of-old-days", &token[1..], &format!("{token}00"), &token.replace('0', "g")] {
            assert_eq!(key().check(NOW, bad), Err(TokenError::Unreadable), "{bad}");
        }
    }

    /// Issuers in other languages go by this.
    #[test]
    fn the_form_of_version_1_is_fixed() {
        let token = key().issue(&Claims { player: PlayerKey([0x11; 16]), id: [0x22; 16], expires_s: 0x0102_0304 });
        let claimed = format!("01{}{}0403020100000000", "11".repeat(16), "22".repeat(16));
        assert_eq!(&token[..2 * CLAIM_BYTES], claimed);
        assert_eq!(&token[2 * CLAIM_BYTES..], "7ca0352080e909f32f13788f0ac7d02d177b9192c2f0927efc8dbb0b1f79c471");
    }

    #[test]
    fn a_key_file_is_64_digits() {
        let digits = "07".repeat(32);
        assert_eq!(TokenKey::from_hex(&format!("{digits}\n")), Some(key()));
        assert_eq!(TokenKey::from_hex(&digits[1..]), None);
        assert_eq!(format!("{:?}", key()), "TokenKey(…)");
        assert_ne!(key().unguessable("a", 1), key().unguessable("a", 2));
        assert_ne!(key().unguessable("a", 1), key().unguessable("b", 1));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}", digits in "[0-9a-f]{146}") {
            prop_assert!(key().check(NOW, &text).is_err());
            prop_assert!(key().check(NOW, &digits).is_err());
        }
    }
}
