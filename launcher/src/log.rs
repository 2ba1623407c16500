//! The launcher's own log: one JSON object a line, in files that are rotated, for `vsekai log view` and for bug reports.
//!
//! - `writer`: several processes append to the same file, and whoever finds it full begins the next.
//! - `view`: filters and follows.
//!
//! Entries have `timestamp` (UTC), `level`, `target`, `fields.message` and further fields. Secrets are never logged.

mod view;
mod writer;

use crate::error::TaskError;
use crate::settings::{Purpose, Settings, folder};
use std::path::PathBuf;
use std::str::FromStr;
use tracing::level_filters::LevelFilter;
pub use view::{Filter, view};

/// Files that are kept: the present one and four older ones.
const FILES: u32 = 5;

/// The present file's place; older ones have `.1` to `.4` behind it.
pub fn file() -> Result<PathBuf, TaskError> {
    Ok(folder(Purpose::State)?.join("log").join("vsekai.log"))
}

/// Sends this process's log entries to the file. A log that cannot be written stops no command: it is left out.
pub fn begin() {
    let settings = Settings::load().unwrap_or_default();
    let Ok(file) = file() else { return };
    let Ok(level) = LevelFilter::from_str(&settings.log_level) else { return };
    let writer = writer::Writer::new(file, settings.log_size << 20);
    let subscriber = tracing_subscriber::fmt().json().with_max_level(level).with_writer(writer).finish();
    // A program that uses this library may have its own.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// A rotated file's place; 0 is the present one.
fn rotated(file: &std::path::Path, age: u32) -> PathBuf {
    if age == 0 { file.to_owned() } else { PathBuf::from(format!("{}.{age}", file.display())) }
}
