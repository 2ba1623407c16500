//! A game's build that nobody owns: files like textures, meshes, sounds, scripts, and a next version of it.

use anyhow::Result;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Of the whole build, at scale 1.
const SIZE: f64 = 1.6e9;
const FILES: f64 = 3_033.0;
/// Bytes of the next version that the first has not, and in how many places they are.
const NEW_BYTES: f64 = 82.1e6;
const EDITS: f64 = 480.0;

/// Two versions of a build, as folders.
#[derive(Debug, Clone)]
pub struct Build {
    /// The first version.
    pub v1: PathBuf,
    /// The next.
    pub v2: PathBuf,
    /// Files of the first version.
    pub file_count: usize,
    /// Their bytes.
    pub size: u64,
    /// Bytes that only the next version has.
    pub new_bytes: u64,
    /// In how many places those are: half of them inserted, half written over what was there.
    pub edit_count: usize,
}

impl Build {
    /// Writes both versions below `folder`; the same `scale` and `seed` always give the same bytes.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn generate(folder: &Path, scale: f64, seed: u64) -> Result<Build> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let file_count = ((FILES * scale) as usize).max(20);
        let sizes = sizes(&mut random, file_count, SIZE * scale);
        let edit_count = ((EDITS * scale) as usize).max(4);
        let edit_size = (NEW_BYTES * scale / edit_count as f64) as usize;
        // Which files are edited, and how often: large ones rather than small ones, as it is with packs.
        let mut edits = vec![0; file_count];
        let total: u64 = sizes.iter().sum();
        for _ in 0..edit_count {
            let mut at = random.random_range(0..total);
            let file = sizes.iter().position(|&size| {
                let within = at < size;
                at = at.saturating_sub(size);
                within
            });
            edits[file.unwrap_or(0)] += 1;
        }
        let build = Build {
            v1: folder.join("v1"),
            v2: folder.join("v2"),
            file_count,
            size: total,
            new_bytes: (edit_count * edit_size) as u64,
            edit_count,
        };
        for (number, (&size, &edits)) in sizes.iter().zip(&edits).enumerate() {
            let mut random = ChaCha8Rng::seed_from_u64(seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let name = format!("data/{}/{:02}/asset-{number:05}.bin", KINDS[number % KINDS.len()], number % 37);
            let before = content(&mut random, size as usize, number);
            write(&build.v1.join(&name), &before)?;
            let mut after = before;
            for edit in 0..edits {
                let new = content(&mut random, edit_size, number);
                let at = random.random_range(0..=after.len());
                if edit % 2 == 0 {
                    after.splice(at..at, new);
                } else {
                    let end = after.len().min(at + new.len());
                    after.splice(at..end, new);
                }
            }
            write(&build.v2.join(&name), &after)?;
        }
        Ok(build)
    }
}

const KINDS: [&str; 4] = ["textures", "meshes", "sounds", "scripts"];

/// A few large files have most of the bytes.
fn sizes(random: &mut ChaCha8Rng, count: usize, total: f64) -> Vec<u64> {
    let weights: Vec<f64> = (0..count).map(|_| random.random_range(0.001_f64..1.0).powi(-1).min(120.0)).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| (weight / sum * total) as u64 + 100).collect()
}

/// Bytes that pack to about two thirds: textures are packed already, scripts are text.
fn content(random: &mut ChaCha8Rng, size: usize, kind: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    random.fill_bytes(&mut bytes);
    match kind % KINDS.len() {
        0 | 2 => {}
        // Numbers whose high bytes say little.
        1 => bytes.chunks_exact_mut(4).for_each(|number| {
            number[2] &= 0x07;
            number[3] = 0x3f;
        }),
        _ => bytes.iter_mut().for_each(|byte| *byte = b"etaoin shrdlu\n{}"[usize::from(*byte & 15)]),
    }
    bytes
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::File::create(path)?.write_all(bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_build_and_the_next_version_grows_by_its_insertions() {
        let folders =
            [tempfile::tempdir(), tempfile::tempdir(), tempfile::tempdir()].map(|folder| folder.expect("a folder"));
        let build = |folder: &tempfile::TempDir, seed| Build::generate(folder.path(), 0.002, seed).expect("written");
        let (one, other, another) = (build(&folders[0], 1), build(&folders[1], 1), build(&folders[2], 2));
        let size = |folder: &Path| -> u64 {
            let mut folders = vec![folder.to_owned()];
            let mut size = 0;
            while let Some(next) = folders.pop() {
                for entry in fs::read_dir(next).expect("a folder") {
                    let entry = entry.expect("an entry");
                    let metadata = entry.metadata().expect("there");
                    if metadata.is_dir() { folders.push(entry.path()) } else { size += metadata.len() }
                }
            }
            size
        };
        let first = |build: &Build| fs::read(build.v2.join("data/textures/00/asset-00000.bin")).expect("there");
        assert_eq!((first(&one), size(&one.v2)), (first(&other), size(&other.v2)));
        assert_ne!(first(&one), first(&another));
        assert_eq!(size(&one.v1), one.size);
        assert!((3_000_000..3_500_000).contains(&one.size), "{}", one.size);
        assert!(size(&one.v2) > one.size && size(&one.v2) <= one.size + one.new_bytes);
    }
}
