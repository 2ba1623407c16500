//! What a repository offers for one build: its releases, and which of them each channel stands for.
//!
//! A repository is a tree of files that any static web server can serve:
//!
//! ```text
//! metadata/…                      signed metadata (TUF: root, timestamp, snapshot, targets)
//! catalogue/CLIENT_ID.json        one [`Catalogue`], a target of the signed metadata
//! manifests/BLAKE3                a release's native manifest: files, chunks, packs
//! packs/BLAKE3                    chunks, in the order in which they are installed
//! deltas/BLAKE3                   gap-delta pack from one earlier manifest to this one
//! ```
//!
//! Everything but `metadata/` and `catalogue/` is named by its content and never changes.

use serde::{Deserialize, Serialize};

/// A file named by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// 64 lower-case hexadecimal digits: BLAKE3 of the file, and its name.
    pub blake3: String,
    /// Bytes.
    pub size: u64,
}

/// How to get from one earlier release to this one in few bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delta {
    /// The version it starts from.
    pub from: String,
    /// The delta pack, under `deltas/`.
    pub pack: Blob,
}

/// One version of the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// As the studio names it: 1 to 64 of `[A-Za-z0-9._+-]`, not beginning with a dot. Unique in the catalogue.
    pub version: String,
    /// When it was published, seconds since 1970 (UTC).
    pub published: u64,
    /// For players; plain text, at most 16 KiB.
    pub notes: String,
    /// The native manifest, under `manifests/`.
    pub manifest: Blob,
    /// From earlier releases, at most 16.
    pub deltas: Vec<Delta>,
}

/// What a channel stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// `stable`, `beta`, …: 1 to 32 of `[a-z0-9-]`.
    pub name: String,
    /// The release it offers.
    pub version: String,
    /// For who is not yet in the rollout; `None` while there was none before.
    pub previous: Option<String>,
    /// Of all installations, how many are offered `version`: 0 to 100. Which ones is decided by [`Channel::offered`].
    pub rollout_percent: u8,
}

impl Channel {
    /// The version that the installation with this random id is offered. The same installation stays in as the percentage
    /// grows, and another version draws other installations first.
    pub fn offered(&self, installation: &str) -> Option<&str> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.version.as_bytes()).update(&[0]).update(installation.as_bytes());
        let drawn = u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("eight bytes")) % 100;
        if drawn < u64::from(self.rollout_percent) { Some(&self.version) } else { self.previous.as_deref() }
    }
}

/// All that a repository offers for one build, the file `catalogue/CLIENT_ID.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Newest last.
    pub releases: Vec<Release>,
    /// In order of their names.
    pub channels: Vec<Channel>,
}

impl Catalogue {
    /// The release of this name.
    pub fn release(&self, version: &str) -> Option<&Release> {
        self.releases.iter().find(|release| release.version == version)
    }

    /// The channel of this name.
    pub fn channel(&self, name: &str) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_grows_without_taking_anyone_out() {
        let channel = |rollout_percent| Channel {
            name: "stable".into(),
            version: "2".into(),
            previous: Some("1".into()),
            rollout_percent,
        };
        let offered = |percent| -> Vec<bool> {
            (0..1_000).map(|n| channel(percent).offered(&format!("installation {n}")) == Some("2")).collect()
        };
        let (tenth, half) = (offered(10), offered(50));
        let count = |drawn: &[bool]| drawn.iter().filter(|&&in_it| in_it).count();
        assert!((60..=140).contains(&count(&tenth)), "{} of 1,000 at 10 %", count(&tenth));
        assert!((430..=570).contains(&count(&half)), "{} of 1,000 at 50 %", count(&half));
        assert!(tenth.iter().zip(&half).all(|(&before, &after)| after || !before));
        assert_eq!((count(&offered(0)), count(&offered(100))), (0, 1_000));
    }
}
