//! Trust in a repository: signed metadata with the roles and protections of The Update Framework (TUF), so that neither a
//! mirror, nor the network, nor the update service can make an installation take anything but what the studio signed, newest
//! version first.
//!
//! - `client`: the specification's client workflow ([`refresh`]), and where the root of trust comes from ([`pin`]).
//! - `sign`, `keys`: the studio's side: keys, metadata, rotation.
//! - `metadata`, `canonical`, `time`: the formats; `refusal`: why something is not trusted.
//!
//! Time comes in as an argument, seconds since 1970 (UTC). Formats and threats: `launcher/docs/trust.md`.

mod canonical;
mod client;
mod keys;
mod metadata;
mod refusal;
mod sign;
pub(crate) mod time;

pub(crate) use canonical::sha256;
pub(crate) use client::check_upload;
pub use client::{Pin, agrees, pin, pinned, refresh};
pub use keys::{KeyFile, KeyRing, Passphrase};
pub use metadata::Role;
pub use sign::{Lifetimes, SignedMetadata, Thresholds, create, rotate, sign, sign_online, sign_targets};
pub(crate) use sign::{latest_version, remove_old};

use crate::error::TaskError;
use crate::fetch::Fetch;
use crate::offers::Offers;
use crate::release::Catalogue;
use std::path::PathBuf;

#[cfg(test)]
mod tests;

/// The metadata files' place in a repository.
pub(crate) const METADATA: &str = "metadata";
/// The longest root that is read, bytes.
pub(crate) const ROOT_BYTES_MAX: u64 = 64 << 10;
/// The longest timestamp that is read, bytes.
pub(crate) const TIMESTAMP_BYTES_MAX: u64 = 16 << 10;
/// The longest snapshot that is read, bytes.
pub(crate) const SNAPSHOT_BYTES_MAX: u64 = 64 << 10;
/// The longest list of catalogues that is read, bytes.
pub(crate) const TARGETS_BYTES_MAX: u64 = 1 << 20;

/// What a studio has signed, as an installation asks for it.
pub struct Signed {
    /// The repository.
    pub fetch: Box<dyn Fetch>,
    /// Where trust in it is remembered.
    pub state: PathBuf,
    /// Which build.
    pub client_id: String,
}

impl Offers for Signed {
    fn catalogue(&self) -> Result<Catalogue, TaskError> {
        refresh(&*self.fetch, &self.state, &self.client_id, now())
    }
}

/// Seconds since 1970 (UTC) by this machine's clock.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
