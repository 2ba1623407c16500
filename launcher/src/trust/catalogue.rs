//! What a catalogue may hold: checked after its signature, since a studio, too, can err.

use crate::release::{Blob, Catalogue};
use std::collections::BTreeSet;

const RELEASES_MAX: usize = 10_000;
const CHANNELS_MAX: usize = 64;
const DELTAS_MAX: usize = 16;
const NOTES_BYTES_MAX: usize = 16 << 10;

/// True for the name of a version: 1 to 64 of `[A-Za-z0-9._+-]`, not beginning with a dot.
pub fn is_version(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(letter)
}

/// True for the name of a build (64) or channel (32): 1 to `longest` of `[a-z0-9-]`.
pub fn is_label(name: &str, longest: usize) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=longest).contains(&name.len()) && name.bytes().all(letter)
}

/// True for the name of a file that is named by its content: 64 lower-case hexadecimal digits.
pub fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// What is wrong with it, for people.
pub fn check(catalogue: &Catalogue) -> Result<(), String> {
    if catalogue.releases.len() > RELEASES_MAX || catalogue.channels.len() > CHANNELS_MAX {
        return Err(format!("more than {RELEASES_MAX} releases or {CHANNELS_MAX} channels"));
    }
    let mut versions = BTreeSet::new();
    for release in &catalogue.releases {
        let version = &release.version;
        if !is_version(version) {
            return Err(format!(
                "version {version:?}: it must be 1 to 64 of A-Z, a-z, 0-9, . _ + and -, and not begin with a dot"
            ));
        }
        let blob = |blob: &Blob, what: &str| {
            is_hash(&blob.blake3)
                .then_some(())
                .ok_or_else(|| format!("version {version}: {what} {:?} is no BLAKE3", blob.blake3))
        };
        blob(&release.manifest, "manifest")?;
        for delta in &release.deltas {
            blob(&delta.pack, "delta pack")?;
            if !is_version(&delta.from) {
                return Err(format!("version {version}: a delta comes from {:?}, which is no version", delta.from));
            }
        }
        if release.deltas.len() > DELTAS_MAX {
            return Err(format!("version {version}: {} deltas; at most {DELTAS_MAX}", release.deltas.len()));
        }
        if release.notes.len() > NOTES_BYTES_MAX {
            return Err(format!(
                "version {version}: notes of {} bytes; at most {NOTES_BYTES_MAX}",
                release.notes.len()
            ));
        }
        if !versions.insert(version) {
            return Err(format!("version {version} stands there twice"));
        }
    }
    let mut names = BTreeSet::new();
    for channel in &catalogue.channels {
        let name = &channel.name;
        if !is_label(name, 32) || !names.insert(name) {
            return Err(format!("channel {name:?}: names are 1 to 32 of a-z, 0-9 and -, each once"));
        }
        for version in channel.previous.iter().chain([&channel.version]) {
            if !versions.contains(version) {
                return Err(format!("channel {name} stands for version {version:?}, which is not there"));
            }
        }
        if channel.rollout_percent > 100 {
            return Err(format!("channel {name}: a rollout of {} %", channel.rollout_percent));
        }
    }
    Ok(())
}
