//! The two digests that name chunks.

use aws_lc_rs::digest;

/// A chunk's name: the digest of its plain bytes.
pub type Id = [u8; 32];

/// The function that gives chunks their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Digest {
    /// What casync and desync use unless told otherwise.
    #[value(name = "sha512-256", alias = "sha512_256")]
    Sha512_256,
    /// Faster where the processor has instructions for it.
    #[value(name = "sha256")]
    Sha256,
}

impl Digest {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha512_256 => "SHA-512/256",
            Self::Sha256 => "SHA-256",
        }
    }

    /// The other of the two.
    pub fn other(self) -> Self {
        match self {
            Self::Sha512_256 => Self::Sha256,
            Self::Sha256 => Self::Sha512_256,
        }
    }

    /// The id of a chunk of these bytes.
    pub fn of(self, bytes: &[u8]) -> Id {
        id(&digest::digest(self.algorithm(), bytes))
    }

    /// For bytes that come piece by piece.
    pub fn begin(self) -> Running {
        Running(digest::Context::new(self.algorithm()))
    }

    fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha512_256 => &digest::SHA512_256,
            Self::Sha256 => &digest::SHA256,
        }
    }
}

/// A digest under way.
pub struct Running(digest::Context);

impl Running {
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Id {
        id(&self.0.finish())
    }
}

fn id(digest: &digest::Digest) -> Id {
    digest.as_ref().try_into().expect("both digests have 32 bytes")
}

/// 64 lower-case hexadecimal digits.
pub fn hex(id: &Id) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(64);
    for byte in id {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// The id that [`hex`] writes so; `None` of anything else, upper case included.
pub fn parse_hex(text: &str) -> Option<Id> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut id = [0; 32];
    for (byte, pair) in id.iter_mut().zip(bytes.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// FIPS 180-4's examples for "abc".
    #[test]
    fn the_standard_s_examples() {
        for (digest, wanted) in [
            (Digest::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (Digest::Sha512_256, "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"),
        ] {
            assert_eq!(hex(&digest.of(b"abc")), wanted);
            let mut running = digest.begin();
            running.add(b"a");
            running.add(b"bc");
            assert_eq!(hex(&running.finish()), wanted);
            assert_ne!(digest.other().of(b"abc"), digest.of(b"abc"));
        }
    }

    #[test]
    fn other_spellings_of_an_id_are_none() {
        let id = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(parse_hex(id).is_some());
        for bad in [&id[1..], &id.to_uppercase(), &id.replace('b', "g"), &format!("{id}0"), ""] {
            assert_eq!(parse_hex(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn ids_come_back_from_their_text(id: Id) {
            prop_assert_eq!(parse_hex(&hex(&id)), Some(id));
        }
    }
}
