//! How commands say what they found: text for people, one JSON object for programs.

use crate::error::TaskError;
use serde::Serialize;
use std::io::{self, Write};

/// Prints text. A reader that closed the output early (`| head`) is no failure.
pub fn print(text: &str) -> Result<(), TaskError> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(TaskError::output),
    }
}

/// Prints `value` as JSON on one line if `json`, else `text`, with one line end.
pub fn say(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), TaskError> {
    let line = if json { to_json(value)? } else { text() };
    print(&format!("{}\n", line.trim_end_matches('\n')))
}

/// One JSON object, without a line end.
pub fn to_json(value: &impl Serialize) -> Result<String, TaskError> {
    serde_json::to_string(value).map_err(|error| TaskError::output(error.into()))
}

/// A size for people.
pub fn bytes(size: u64) -> String {
    match size {
        0..1_000 => format!("{size} B"),
        1_000..1_000_000 => format!("{:.1} kB", size as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", size as f64 / 1e6),
        _ => format!("{:.2} GB", size as f64 / 1e9),
    }
}

/// Rows of text in columns, two blanks between them.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect::<Vec<_>>();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
