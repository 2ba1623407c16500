//! Crash reports: one file for each failure, with what is known of how it came.

use crate::fleet::Cause;
use crate::link::{CRASHES, LOGS, write_whole};
use crate::log::Line;
use crate::log::read::tail;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Lines of the log that a report keeps.
const LINES: usize = 100;
/// Lines of a backtrace that a report keeps.
const BACKTRACE_LINES_MAX: usize = 200;
/// Between a panic and its backtrace stand so many lines of its message.
const PANIC_LINES_MAX: usize = 4;
/// Most bytes of a report that are read.
const REPORT_BYTES_MAX: u64 = 8 << 20;

/// One failure of a child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CrashReport {
    /// `CHILD-RUN`, which is its file's name, too.
    pub id: String,
    /// Which child.
    pub child: String,
    /// Which of its runs.
    pub run: u64,
    /// Its process.
    pub pid: Option<i32>,
    /// Why, in words.
    pub cause: String,
    /// Why.
    pub detail: Cause,
    /// When its end was seen, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// How long it ran.
    pub uptime_ms: u64,
    /// Its newest tick.
    pub tick: Option<u64>,
    /// What it last said of itself.
    pub status: String,
    /// What was run.
    pub command: Vec<String>,
    /// Those of the last lines that are a backtrace.
    #[serde(default)]
    pub backtrace: Vec<String>,
    /// Its last lines.
    #[serde(default)]
    pub lines: Vec<Line>,
}

/// Completes a report with the last lines and keeps it; only the newest are kept.
///
/// # Errors
/// When the disk refuses.
pub fn keep(folder: &Path, mut report: CrashReport, keep: usize) -> io::Result<()> {
    let lines = tail(&folder.join(LOGS), LINES.max(BACKTRACE_LINES_MAX), u64::MAX);
    report.backtrace = backtrace(&lines);
    let skip = lines.len().saturating_sub(LINES);
    report.lines = lines.into_iter().skip(skip).collect();
    let reports = folder.join(CRASHES);
    fs::create_dir_all(&reports)?;
    for (_, path) in files(&reports).into_iter().rev().skip(keep.saturating_sub(1)) {
        fs::remove_file(path)?;
    }
    write_whole(&reports.join(format!("{:020}.json", report.run)), &serde_json::to_vec_pretty(&report)?)
}

/// The reports of a child, newest first, as many as asked for.
pub fn list(folder: &Path, most: usize) -> Vec<CrashReport> {
    files(&folder.join(CRASHES)).into_iter().rev().take(most).filter_map(|(_, path)| read(&path)).collect()
}

/// One report of a child.
pub fn one(folder: &Path, run: u64) -> Option<CrashReport> {
    read(&folder.join(CRASHES).join(format!("{run:020}.json")))
}

fn read(path: &Path) -> Option<CrashReport> {
    if fs::metadata(path).ok()?.len() > REPORT_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn files(folder: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let numbered = entries.flatten().filter_map(|entry| {
        let path = entry.path();
        let run = path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()?;
        Some((run, path))
    });
    let mut files: Vec<_> = numbered.collect();
    files.sort_unstable();
    files
}

/// The last backtrace in the lines: from a line that announces one, or a panic, as long as lines look like its frames.
fn backtrace(lines: &[Line]) -> Vec<String> {
    let begins = |text: &str| {
        let text = text.to_lowercase();
        text.contains("panicked at")
            || text.contains("stack backtrace")
            || text.contains("dumping the backtrace")
            || text.contains("handle_crash")
            || text.starts_with("traceback (most recent")
    };
    let goes_on = |text: &str| {
        let text = text.trim_start();
        begins(text)
            || text.starts_with("at ")
            || text.starts_with('[')
            || text.starts_with("note:")
            || text.starts_with("File \"")
            || text
                .split_once(':')
                .is_some_and(|(number, _)| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
    };
    let Some(mut begin) = lines.iter().rposition(|line| begins(&line.text)) else { return Vec::new() };
    // The panic's own words stand before the frames.
    if let Some(earlier) = (begin.saturating_sub(PANIC_LINES_MAX)..begin).find(|&index| begins(&lines[index].text)) {
        begin = earlier;
    }
    let mut found: Vec<String> = Vec::new();
    for (index, line) in lines[begin..].iter().enumerate() {
        // Between a panic and its frames stand its message's lines.
        if index > PANIC_LINES_MAX && !goes_on(&line.text) || found.len() == BACKTRACE_LINES_MAX {
            break;
        }
        if line.stream != 's' {
            found.push(line.text.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Ending;
    use crate::log::LogLimits;
    use crate::log::write::LogWriter;

    fn report(run: u64) -> CrashReport {
        let detail = Cause::Ended(Ending::Signalled(6));
        CrashReport {
            id: format!("a-{run}"),
            child: "a".into(),
            run,
            pid: Some(7),
            cause: detail.to_string(),
            detail,
            at_unix_ms: 1,
            uptime_ms: 2,
            tick: Some(3),
            status: String::new(),
            command: vec!["x".into()],
            backtrace: vec![],
            lines: vec![],
        }
    }

    #[test]
    fn reports_keep_the_last_lines_and_the_backtrace_and_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(&folder.path().join(LOGS), LogLimits::default());
        for number in 0..300 {
            log.line('o', format!("line {number}").as_bytes());
        }
        for text in [
            "thread 'main' panicked at src/main.rs:3:5:",
            "boom",
            "stack backtrace:",
            "   0: std::panicking",
            "             at ./x.rs:7",
            "   1: main",
            "bye",
        ] {
            log.line('e', text.as_bytes());
        }
        log.flush();
        for run in 1..=5 {
            keep(folder.path(), report(run), 3).unwrap();
        }
        let kept = list(folder.path(), 10);
        assert_eq!(kept.iter().map(|report| report.run).collect::<Vec<_>>(), [5, 4, 3]);
        assert_eq!(kept[0].lines.len(), 100);
        assert_eq!(kept[0].lines[99].text, "bye");
        assert_eq!(kept[0].backtrace[0], "thread 'main' panicked at src/main.rs:3:5:");
        assert_eq!(kept[0].backtrace.len(), 6, "{:?}", kept[0].backtrace);
        assert_eq!(kept[0].cause, "was ended by signal 6 (SIGABRT)");
        assert_eq!(one(folder.path(), 4).unwrap().id, "a-4");
        assert!(one(folder.path(), 1).is_none());
    }
}
