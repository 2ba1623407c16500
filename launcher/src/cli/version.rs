//! `vsekai version …`

use crate::cli::release;
use crate::error::{EXIT_CODES, TaskError};
use crate::manifest::ChunkSizes;
use crate::output::{bytes, say};
use crate::publish::{Job, publish};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// The tasks of `vsekai version`.
#[derive(Debug, Subcommand)]
pub enum Version {
    /// Turn a build's folder into files that any static web server can hand out.
    ///
    /// Writes manifest, packs, deltas from the versions before, and the catalogue into the repository's folder. The same folder gives the
    /// same files. The catalogue still wants signing.
    #[command(after_help = EXIT_CODES)]
    Pack(Pack),
    /// Sign a repository's catalogues: clients take nothing that is not signed.
    #[command(after_help = EXIT_CODES)]
    Sign(release::Sign),
    /// Let a channel stand for a version, for everyone or for a part. It still wants signing.
    #[command(after_help = EXIT_CODES)]
    Channel(release::ChannelArguments),
    /// Bring a build to the update service: packed and signed here, or a repository that is so already. Resumes what broke off.
    #[command(after_help = EXIT_CODES)]
    Upload(Box<release::Upload>),
    /// Print the versions that the studio has signed.
    #[command(after_help = EXIT_CODES)]
    List(release::Followed),
    /// Download a version beside the installation.
    #[command(after_help = EXIT_CODES)]
    Download(release::Download),
    /// Take a version away. Clients that are downloading it have time to finish.
    #[command(after_help = EXIT_CODES)]
    Delete(release::Delete),
}

impl Version {
    /// Does the task.
    pub fn run(self, json: bool) -> Result<(), TaskError> {
        match self {
            Self::Pack(pack) => pack.run(json),
            Self::Sign(sign) => sign.run(json),
            Self::Channel(channel) => channel.run(json),
            Self::Upload(upload) => upload.run(json),
            Self::List(followed) => followed.list(json),
            Self::Download(download) => download.run(json),
            Self::Delete(delete) => delete.run(json),
        }
    }
}

/// The flags of `vsekai version pack`.
#[derive(Debug, Args)]
pub struct Pack {
    /// The build's folder.
    #[arg(long, value_name = "FOLDER")]
    source: PathBuf,
    /// The repository's folder; made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    repository: PathBuf,
    /// Which build.
    #[arg(long = "client_id", alias = "client-id", value_name = "NAME")]
    client_id: String,
    /// What this version is called.
    #[arg(long, value_name = "NAME")]
    version: String,
    /// The channel that offers it from now on.
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// To how many per cent of the installations the channel offers it.
    #[arg(
        long = "rollout_percent",
        alias = "rollout-percent",
        value_name = "PERCENT",
        default_value_t = 100,
        requires = "channel"
    )]
    rollout_percent: u8,
    /// A text file for players.
    #[arg(long, value_name = "FILE")]
    notes: Option<PathBuf>,
    /// Make deltas from so many versions before.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    deltas: usize,
    /// How files are cut, in KiB; as in the version before, else by the build's size.
    #[arg(long = "chunk_size", alias = "chunk-size", value_name = "MIN:AVG:MAX", value_parser = chunk_sizes)]
    sizes: Option<ChunkSizes>,
    /// zstd's level, 1 to 19.
    #[arg(long, default_value_t = 3)]
    level: i32,
    /// Paths that belong to the player (saves, mods): never damage, never deleted. Globs with *, ? and **; may be repeated.
    #[arg(long, value_name = "GLOB")]
    keep: Vec<String>,
    /// When it was published, seconds since 1970; now if not given.
    #[arg(long, value_name = "SECONDS")]
    published: Option<u64>,
}

fn chunk_sizes(text: &str) -> Result<ChunkSizes, String> {
    let numbers: Option<Vec<u32>> =
        text.split(':').map(|number| number.parse::<u32>().ok()?.checked_mul(1_024)).collect();
    match numbers.as_deref() {
        Some(&[min, avg, max]) => ChunkSizes { min, avg, max }.check(),
        _ => Err("must be three numbers of KiB, MIN:AVG:MAX, such as 4:16:64".into()),
    }
}

impl Pack {
    fn run(self, json: bool) -> Result<(), TaskError> {
        let notes = match &self.notes {
            None => String::new(),
            Some(file) => std::fs::read_to_string(file).map_err(|source| TaskError::unreadable(file, source))?,
        };
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let report = publish(&Job {
            source: self.source,
            repository: self.repository,
            client_id: self.client_id,
            version: self.version,
            notes,
            published: self.published.unwrap_or_else(now),
            channel: self.channel.map(|channel| (channel, self.rollout_percent)),
            deltas: self.deltas,
            sizes: self.sizes,
            level: self.level,
            keep: self.keep,
        })?;
        say(json, &report, || {
            let mut text = format!(
                "version {}: {} in {} entries\nmanifest {} ({})\n{} of {} chunks are new, in {} new packs ({}); {} packs in all\n",
                report.version,
                bytes(report.total_size),
                report.entries,
                report.manifest,
                bytes(report.manifest_size),
                report.new_chunks,
                report.chunks,
                report.new_packs,
                bytes(report.new_packs_size),
                report.packs,
            );
            for (from, size) in &report.deltas {
                text += &format!("delta from {from}: {}\n", bytes(*size));
            }
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_three_rising_numbers() {
        assert_eq!(chunk_sizes("4:16:64"), Ok(ChunkSizes::USUAL));
        for bad in ["", "16", "4:16", "64:16:4", "4:16:64:128", "a:b:c", "4:16:4194304", "0:16:64"] {
            assert!(chunk_sizes(bad).is_err(), "{bad}");
        }
    }
}
