//! Logs written and read back: numbers without gap, bounds, a disk that refuses.

use super::read::{Follower, tail};
use super::write::{Lines, LogWriter};
use super::*;
use std::fs;

fn limits(file_bytes: u64, files: u32) -> LogLimits {
    LogLimits { file_bytes, files, line_bytes: 100, lines_per_s: 1_000_000, ..LogLimits::default() }
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| &line.text[..]).collect()
}

fn write(writer: &mut LogWriter, texts: impl Iterator<Item = String>) {
    for text in texts {
        writer.line('o', text.as_bytes());
        writer.flush();
    }
}

#[test]
fn what_is_written_is_read_over_rotation_and_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut follower = Follower::new(folder.path(), 1);
    assert_eq!(follower.read().unwrap(), []);
    let mut followed = Vec::new();
    for start in [0, 500] {
        // Each half by another keeper.
        let mut writer = LogWriter::open(folder.path(), limits(2_000, 5));
        for number in start..start + 500 {
            write(&mut writer, std::iter::once(format!("line {number}")));
            followed.extend(follower.read().unwrap());
        }
    }
    let numbers: Vec<u64> = followed.iter().map(|line| line.number).collect();
    assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
    assert!(followed.iter().enumerate().all(|(number, line)| line.text == format!("line {number}")));
    let kept = files(folder.path());
    assert_eq!(kept.len(), 5);
    assert!(kept.iter().all(|(_, path)| fs::metadata(path).unwrap().len() < 2_100));

    assert_eq!(texts(&tail(folder.path(), 2, u64::MAX)), ["line 998", "line 999"]);
    assert_eq!(texts(&tail(folder.path(), 2, 999)), ["line 996", "line 997"]);
    let all = tail(folder.path(), LINES, u64::MAX);
    assert_eq!(all[0].number, kept[0].0);
    assert_eq!(all.len() as u64, 1_001 - kept[0].0);
    // Who comes late gets what is left.
    assert_eq!(Follower::new(folder.path(), 1).read().unwrap()[0].number, kept[0].0);
}

const LINES: usize = read::LINES_MAX;

#[test]
fn a_torn_line_is_cut_off_and_its_number_used_again() {
    let folder = tempfile::tempdir().unwrap();
    write(&mut LogWriter::open(folder.path(), limits(9_999, 5)), (0..3).map(|n| n.to_string()));
    let path = files(folder.path())[0].1.clone();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    write(&mut LogWriter::open(folder.path(), limits(9_999, 5)), std::iter::once("after".to_owned()));
    let lines = tail(folder.path(), 10, u64::MAX);
    assert_eq!(texts(&lines), ["0", "1", "after"]);
    assert_eq!(lines[2].number, 3);
}

#[test]
fn lines_are_cut_at_their_bound_wherever_reads_end() {
    let text = format!("{}\n\nshort\n{}", "a".repeat(250), "b".repeat(100));
    for step in [1, 7, 100, 1_000] {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(folder.path(), limits(99_999, 5));
        let mut lines = Lines::new('e', 100);
        text.as_bytes().chunks(step).for_each(|bytes| lines.take(bytes, &mut writer));
        lines.end(&mut writer);
        writer.flush();
        let found: Vec<(char, usize)> =
            tail(folder.path(), 10, u64::MAX).iter().map(|line| (line.stream, line.text.len())).collect();
        assert_eq!(found, [('e', 100), ('e', 100), ('e', 50), ('e', 0), ('e', 5), ('e', 100)], "step {step}");
    }
}

#[test]
fn a_flood_is_dropped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(folder.path(), LogLimits { lines_per_s: 50, ..limits(99_999, 5) });
    let mut lines = Lines::new('o', 100);
    lines.take(&b"flood\n".repeat(5_000), &mut writer);
    writer.flush();
    writer.tell_losses();
    let (written, lost) = writer.counts();
    // The clock went on a little while the lines came.
    assert!((50..100).contains(&(5_000 - lost)), "{lost} lost");
    let last = tail(folder.path(), 1, u64::MAX).remove(0);
    assert_eq!((last.number, last.stream), (written, 's'));
    assert_eq!(last.text, format!("{lost} lines were lost: more lines in a second than are kept"));
}

#[test]
fn a_disk_that_refuses_costs_lines_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder should be.
    let place = folder.path().join("logs");
    fs::write(&place, "").unwrap();
    let mut writer = LogWriter::open(&place, limits(9_999, 5));
    write(&mut writer, (0..10).map(|n| n.to_string()));
    assert_eq!(writer.counts(), (0, 10));
    fs::remove_file(&place).unwrap();
    fs::create_dir(&place).unwrap();
    let begun = std::time::Instant::now();
    while writer.counts().0 == 0 {
        assert!(begun.elapsed().as_secs() < 20, "never tried again");
        write(&mut writer, std::iter::once("again".to_owned()));
    }
    let lines = tail(&place, 10, u64::MAX);
    assert_eq!(lines[1].text, "again");
    assert!(lines[0].stream == 's' && lines[0].text.contains("lines were lost: "), "{lines:?}");
}

#[test]
fn json_lines_are_parsed_and_others_are_not() {
    let line = |text: &str| Line::parse(format!("7 2026-01-01T00:00:00.000Z o {text}").as_bytes()).unwrap();
    let tracing = line(r#"{"level":"WARN","fields":{"message":"x"}}"#);
    assert_eq!(tracing.level.as_deref(), Some("warn"));
    assert_eq!(tracing.fields.unwrap()["fields"]["message"], "x");
    assert_eq!(line(r#"{"lvl":30}"#).level.as_deref(), Some("30"));
    for text in ["{", "[1]", "plain", "", "{\"a\": }"] {
        let line = line(text);
        assert_eq!((line.level, line.fields, &line.text[..]), (None, None, text));
    }
    assert_eq!(line("a\u{1b}[31m").text, "a\u{fffd}[31m");
    assert_eq!(Line::parse(b"no number"), None);
}

#[test]
fn the_calendar_is_right() {
    for (unix_ms, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
        (1_735_689_600_001, "2025-01-01T00:00:00.001Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
    ] {
        assert_eq!(utc(unix_ms), text);
    }
}
