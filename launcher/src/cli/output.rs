//! How commands say what they found: text for people, one JSON object for programs.

use crate::error::TaskError;
use serde::Serialize;
use std::io::{self, Write};

/// Prints `value` as JSON on one line if `json`, else `text`, with a line end. A reader that has gone is no failure.
pub fn say(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), TaskError> {
    let line =
        if json { serde_json::to_string(value).map_err(|error| TaskError::output(error.into()))? } else { text() };
    let line = line.trim_end_matches('\n');
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(TaskError::output(error)),
        _ => Ok(()),
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
