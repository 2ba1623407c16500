//! What a catalogue may hold: checked whether it is signed or not, since a studio, too, can err.

use crate::hex::unhex;
use crate::manifest::MANIFEST_SIZE_MAX;
use crate::release::{Blob, Catalogue};
use std::collections::BTreeSet;

/// The longest catalogue that is read, bytes.
pub const BYTES_MAX: u64 = 16 << 20;
/// The largest delta, bytes.
pub const DELTA_BYTES_MAX: u64 = 64 << 30;

const RELEASES_MAX: usize = 10_000;
const CHANNELS_MAX: usize = 64;
const DELTAS_MAX: usize = 16;
const NOTES_BYTES_MAX: usize = 16 << 10;

/// True for the name of a version: 1 to 64 of `[A-Za-z0-9._+-]`, not beginning with a dot.
pub fn is_version(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(letter)
}

/// True for the name of a build: 1 to 64 of `[a-z0-9-]`.
pub fn is_client_id(name: &str) -> bool {
    is_label(name, 64)
}

/// True for the name of a channel: 1 to 32 of `[a-z0-9-]`.
pub fn is_channel(name: &str) -> bool {
    is_label(name, 32)
}

fn is_label(name: &str, longest: usize) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=longest).contains(&name.len()) && name.bytes().all(letter)
}

/// True for the name of a file that is named by its content: 64 lower-case hexadecimal digits.
pub fn is_hash(name: &str) -> bool {
    unhex::<32>(name).is_some()
}

/// Reads one, and checks every name, digest, size and count in it. `Err` says what is wrong, for people.
pub fn parse(bytes: &[u8]) -> Result<Catalogue, String> {
    let catalogue = serde_json::from_slice(bytes).map_err(|error| format!("not a catalogue: {error}"))?;
    check(&catalogue).map(|()| catalogue)
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
        let blob = |blob: &Blob, what: &str, max: u64| {
            if !is_hash(&blob.blake3) {
                return Err(format!("version {version}: {what} {:?} is no BLAKE3", blob.blake3));
            }
            if !(1..=max).contains(&blob.size) {
                return Err(format!("version {version}: {what} of {} bytes; 1 to {max} are allowed", blob.size));
            }
            Ok(())
        };
        blob(&release.manifest, "manifest", MANIFEST_SIZE_MAX)?;
        for delta in &release.deltas {
            blob(&delta.pack, "delta pack", DELTA_BYTES_MAX)?;
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
        if !is_channel(name) || !names.insert(name) {
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
