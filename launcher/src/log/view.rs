//! Shows the log: all kept files, oldest first, then what is added while following.

use super::{FILES, rotated};
use crate::error::TaskError;
use crate::trust::time;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// How long a follower waits before it looks again.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);
/// Longer lines are shown in pieces, as text that is no entry.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// From the least to the most severe.
const LEVELS: [&str; 5] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];

/// Which entries are shown.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// This level and more severe ones, as in [`LEVELS`], in any case.
    pub level: Option<String>,
    /// Entries whose message, target or fields contain it, whatever the case.
    pub text: Option<String>,
    /// Entries from then on, seconds since 1970.
    pub since: Option<u64>,
}

impl Filter {
    fn passes(&self, line: &str, entry: &Value) -> bool {
        let rank = |name: &str| LEVELS.iter().position(|level| level.eq_ignore_ascii_case(name));
        let of = |name: &str| entry.get(name).and_then(Value::as_str);
        let severe = self.level.as_deref().and_then(rank).is_none_or(|least| of("level").and_then(rank) >= Some(least));
        let contains = self.text.as_deref().is_none_or(|text| line.to_lowercase().contains(&text.to_lowercase()));
        let seconds = of("timestamp").and_then(|at| time::parse(&format!("{}Z", at.get(..19)?)));
        severe && contains && self.since.is_none_or(|since| seconds.is_some_and(|at| at >= since))
    }
}

/// Shows the log in `file` on `output`: as it is if `json`, else in columns. If `follow`, goes on until the reader has gone.
pub fn view(file: &Path, filter: &Filter, json: bool, follow: bool, output: &mut dyn Write) -> Result<(), TaskError> {
    for age in (1..FILES).rev() {
        if let Some(mut older) = open(&rotated(file, age))?
            && !show(&mut older, filter, json, output)?
        {
            return Ok(());
        }
    }
    let mut present = open(file)?;
    loop {
        if let Some(reader) = present.as_mut()
            && !show(reader, filter, json, output)?
        {
            return Ok(());
        }
        if !follow {
            return Ok(());
        }
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let here = present.as_ref().and_then(|reader| reader.get_ref().metadata().ok()).map(identity);
        if std::fs::metadata(file).ok().map(identity) != here {
            // What was written to the old file between the last look and the rotation comes first.
            if let Some(reader) = present.as_mut()
                && !show(reader, filter, json, output)?
            {
                return Ok(());
            }
            present = open(file)?;
            continue;
        }
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}

fn open(file: &Path) -> Result<Option<BufReader<File>>, TaskError> {
    match File::open(file) {
        Ok(opened) => Ok(Some(BufReader::new(opened))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TaskError::unreadable(file, error)),
    }
}

/// False when nobody reads the output any more.
fn show(reader: &mut BufReader<File>, filter: &Filter, json: bool, output: &mut dyn Write) -> Result<bool, TaskError> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = io::Read::take(&mut *reader, LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if read.map_err(TaskError::output)? == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        // A line that a full disk has cut off is passed over.
        let Ok(entry) = serde_json::from_str::<Value>(text) else { continue };
        if filter.passes(text, &entry) {
            let written = if json { writeln!(output, "{text}") } else { writeln!(output, "{}", columns(&entry)) };
            match written {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                other => other.map_err(TaskError::output)?,
            }
        }
    }
    match output.flush() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true).map_err(TaskError::output),
    }
}

/// Time, level, message and further fields, with nothing in it that could move a terminal's cursor.
fn columns(entry: &Value) -> String {
    let of = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or("");
    let mut line = format!("{} {:5} ", of("timestamp").get(..19).unwrap_or(""), of("level"));
    let fields = entry.get("fields").and_then(Value::as_object);
    line += fields.and_then(|fields| fields.get("message")).and_then(Value::as_str).unwrap_or("");
    for (name, value) in fields.into_iter().flatten().filter(|(name, _)| *name != "message") {
        line += &match value {
            Value::String(text) => format!(" {name}={text}"),
            other => format!(" {name}={other}"),
        };
    }
    crate::error::shown(Path::new(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(filter: &Filter, json: bool) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vsekai.log");
        let entry = |at: &str, level: &str, message: &str| {
            format!(
                "{{\"timestamp\":\"{at}.5Z\",\"level\":\"{level}\",\"fields\":{{\"message\":\"{message}\",\"n\":1}}}}\n"
            )
        };
        std::fs::write(rotated(&file, 1), entry("2026-01-01T00:00:00", "ERROR", "Old \\u001b[2J")).unwrap();
        std::fs::write(&file, entry("2026-01-02T00:00:00", "INFO", "new") + "{\"cut of").unwrap();
        let mut output = Vec::new();
        view(&file, filter, json, false, &mut output).unwrap();
        String::from_utf8(output).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn entries_are_filtered_by_level_text_and_time() {
        let [old, new] = ["2026-01-01T00:00:00 ERROR Old \\u{1b}[2J n=1", "2026-01-02T00:00:00 INFO  new n=1"];
        assert_eq!(shown(&Filter::default(), false), [old, new]);
        assert_eq!(shown(&Filter { level: Some("warn".into()), ..Filter::default() }, false), [old]);
        assert_eq!(shown(&Filter { text: Some("NEW".into()), ..Filter::default() }, false), [new]);
        assert_eq!(shown(&Filter { since: time::parse("2026-01-02T00:00:00Z"), ..Filter::default() }, false), [new]);
        let json = shown(&Filter { level: Some("error".into()), ..Filter::default() }, true);
        assert_eq!(serde_json::from_str::<Value>(&json[0]).unwrap()["fields"]["message"], "Old \u{1b}[2J");
        assert_eq!(json.len(), 1);
    }
}
