//! Where the catalogue of a build comes from, and what it must keep to before anything is done with it.

use crate::error::{Exit, TaskError, shown};
use crate::manifest::MANIFEST_SIZE_MAX;
use crate::manifest::codec::unhex;
use crate::release::{Blob, Catalogue};
use std::path::PathBuf;

/// Largest catalogue, bytes.
pub const CATALOGUE_SIZE_MAX: u64 = 16 << 20;
/// Largest delta, bytes.
pub const DELTA_SIZE_MAX: u64 = 64 << 30;

/// Says what a repository offers for one build.
pub trait Offers: Send + Sync {
    /// The catalogue, checked and as new as can be had.
    ///
    /// # Errors
    /// When it cannot be had, is refused, or is not one.
    fn catalogue(&self) -> Result<Catalogue, TaskError>;
}

/// The catalogue of a folder on this machine, taken as it is: nothing proves who wrote it. For trials, and for folders that only their owner
/// can write.
#[derive(Debug, Clone)]
pub struct Unsigned {
    /// The repository.
    pub folder: PathBuf,
    /// Which build.
    pub client_id: String,
}

impl Offers for Unsigned {
    fn catalogue(&self) -> Result<Catalogue, TaskError> {
        if !is_client_id(&self.client_id) {
            return Err(TaskError::new(
                Exit::Usage,
                format!("client id {:?}: must be 1 to 64 of a-z 0-9 -", self.client_id),
            ));
        }
        let file = self.folder.join("catalogue").join(format!("{}.json", self.client_id));
        let bytes = match std::fs::metadata(&file) {
            Ok(found) if found.len() > CATALOGUE_SIZE_MAX => {
                return Err(TaskError::new(Exit::Damaged, format!("{}: larger than a catalogue may be", shown(&file))));
            }
            Ok(_) => std::fs::read(&file).map_err(|source| TaskError::unreadable(&file, source))?,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
                let what = format!(
                    "{}: no such catalogue; is {} a repository that has this build?",
                    shown(&file),
                    shown(&self.folder)
                );
                return Err(TaskError::new(Exit::NotFound, what));
            }
            Err(source) => return Err(TaskError::unreadable(&file, source)),
        };
        parse(&bytes).map_err(|why| TaskError::new(Exit::Damaged, format!("{}: {why}", shown(&file))))
    }
}

/// Whether a build may be called so.
pub fn is_client_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// Whether a version may be called so.
pub fn is_version(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    (1..=64).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed)
}

/// Whether a channel may be called so.
pub fn is_channel(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// Reads a catalogue and checks every name, digest and size in it.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse(bytes: &[u8]) -> Result<Catalogue, String> {
    let catalogue: Catalogue = serde_json::from_slice(bytes).map_err(|error| format!("not a catalogue: {error}"))?;
    let blob = |blob: &Blob, max: u64| {
        if unhex(&blob.blake3).is_none() {
            return Err(format!("{:?} is not a digest", blob.blake3));
        }
        if blob.size == 0 || blob.size > max { Err(format!("{} has {} bytes", blob.blake3, blob.size)) } else { Ok(()) }
    };
    let mut versions = std::collections::HashSet::new();
    for release in &catalogue.releases {
        if !is_version(&release.version) || !versions.insert(&release.version) {
            return Err(format!("version {:?} has a name that is not allowed, or is there twice", release.version));
        }
        if release.notes.len() > 16 << 10 || release.deltas.len() > 16 {
            return Err(format!("version {}: notes or deltas are more than allowed", release.version));
        }
        blob(&release.manifest, MANIFEST_SIZE_MAX)?;
        for delta in &release.deltas {
            blob(&delta.pack, DELTA_SIZE_MAX)?;
        }
    }
    for channel in &catalogue.channels {
        if !is_channel(&channel.name) || channel.rollout_percent > 100 {
            return Err(format!("channel {:?} has a name or a rollout that is not allowed", channel.name));
        }
        for version in [Some(&channel.version), channel.previous.as_ref()].into_iter().flatten() {
            if !versions.contains(version) {
                return Err(format!("channel {:?} stands for version {version:?}, which is not there", channel.name));
            }
        }
    }
    Ok(catalogue)
}
