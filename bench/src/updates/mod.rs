//! Installing and updating big builds: our `vsekai` beside desync and casync, in one run, on a generated build.
//!
//! `compatible.rs` measures the formats that all three share. The native half (bytes and requests from one version to the next, a full
//! install, both at 40 ms per request) takes the same [`build::Build`] and adds its lines to the same table.

pub mod build;
mod compatible;
mod measure;
mod native;

use anyhow::Result;
use std::path::Path;

/// Runs all of it in a folder below `scratch` (best a RAM disk) and prints a table. `scale` 1 is the whole build, 1.6 GB.
///
/// # Errors
/// When a tool is missing or fails, or its result is not what went in.
pub fn run(scratch: &Path, scale: f64, seed: u64) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("vsekai-updates-").tempdir_in(scratch)?;
    let build = build::Build::generate(folder.path(), scale, seed)?;
    println!(
        "A generated build (seed {seed}, scale {scale}): v1 {} files, {:.1} MB; v2 has {:.1} MB of new bytes in {} places.",
        build.file_count,
        build.size as f64 / 1e6,
        build.new_bytes as f64 / 1e6,
        build.edit_count
    );
    compatible::run(folder.path())?;
    native::run(folder.path(), &build)
}
