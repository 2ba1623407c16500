//! The kept logs of children: files of lines, each with its number, its time and where it came from.
//!
//! A file is named by the number of its first line (`00000000000000000001.log`), so that nothing is ever renamed and a reader needs to
//! remember one number only. A line is `NUMBER TIME STREAM TEXT`; the stream is `o` (stdout), `e` (stderr) or `s` (a word of the
//! supervisor itself). Keepers write ([`write`]), the supervisor reads ([`read`]).

pub mod read;
pub mod write;

#[cfg(test)]
mod tests;

use crate::notify::printable;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// How much of its logs a child may keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLimits {
    /// A file is closed when it is this large.
    pub file_bytes: u64,
    /// A file is closed when it is this old.
    pub file_age_s: u64,
    /// So many files are kept.
    pub files: u32,
    /// A longer line is cut into several.
    pub line_bytes: usize,
    /// More lines than that in a second are dropped and counted.
    pub lines_per_s: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        LogLimits { file_bytes: 16 << 20, file_age_s: 86_400, files: 5, line_bytes: 8_192, lines_per_s: 5_000 }
    }
}

/// One line as readers get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Counts the child's lines, over all its runs.
    pub number: u64,
    /// When it was captured, UTC.
    pub time: String,
    /// `o`, `e` or `s`.
    pub stream: char,
    /// What was written, without control characters.
    pub text: String,
    /// Of a line that is a JSON object: how grave it is, in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// Of a line that is a JSON object: the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Value>,
}

impl Line {
    /// Reads a kept line; `None` for what no keeper wrote whole.
    pub fn parse(line: &[u8]) -> Option<Line> {
        let line = String::from_utf8_lossy(line);
        let mut parts = line.splitn(4, ' ');
        let number = parts.next()?.parse().ok()?;
        let time = parts.next()?.to_owned();
        let stream = parts.next()?.chars().next()?;
        let text = parts.next().unwrap_or_default();
        let fields = if text.starts_with('{') { serde_json::from_str::<Value>(text).ok() } else { None };
        let fields = fields.filter(Value::is_object);
        let level = fields.as_ref().and_then(level).map(|level| level.to_lowercase());
        Some(Line { number, time, stream, text: printable(text, usize::MAX), level, fields })
    }
}

/// What the usual loggers call it: tracing, slog, pino, zap, and those that number it.
fn level(fields: &Value) -> Option<String> {
    ["level", "lvl", "severity", "PRIORITY"].iter().find_map(|key| match fields.get(key)? {
        Value::String(level) => Some(level.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

/// The kept files of a child by the number of their first line, oldest first.
pub fn files(folder: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let numbered = entries.flatten().filter_map(|entry| {
        let path = entry.path();
        let number = path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok()?;
        Some((number, path))
    });
    let mut files: Vec<_> = numbered.collect();
    files.sort_unstable();
    files
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time in UTC as RFC 3339 has it, with milliseconds. The calendar is Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>), good from 1970 on.
pub fn utc(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}
