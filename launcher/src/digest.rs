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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex::hex;

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
}
