//! Appends whole lines to a file that other processes append to, too, and rotates it.

use super::{FILES, rotated};
use crate::whole;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Mutex;
use tracing_subscriber::fmt::MakeWriter;

/// The file, opened at the first line.
pub struct Writer {
    file: PathBuf,
    /// Bytes from which on the next file is begun.
    full: u64,
    opened: Mutex<Option<File>>,
}

impl Writer {
    pub fn new(file: PathBuf, full: u64) -> Self {
        Self { file, full, opened: Mutex::new(None) }
    }

    /// Appends one line in one write, so that lines of several processes do not mix.
    fn append(&self, line: &[u8]) -> io::Result<()> {
        let Ok(mut opened) = self.opened.lock() else { return Ok(()) };
        if self.has_gone(opened.as_ref()) {
            *opened = Some(self.open()?);
        }
        if let Some(file) = opened.as_mut() {
            file.write_all(line)?;
            if file.metadata()?.len() >= self.full {
                self.rotate()?;
                *opened = None;
            }
        }
        Ok(())
    }

    /// True when it is not the opened file that stands at the path: another process has rotated it.
    fn has_gone(&self, opened: Option<&File>) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let here = opened.and_then(|file| file.metadata().ok()).map(identity);
        here.is_none() || here != fs::metadata(&self.file).ok().map(identity)
    }

    fn open(&self) -> io::Result<File> {
        if let Some(folder) = self.file.parent() {
            whole::make_folder(folder, 0o700)?;
        }
        OpenOptions::new().create(true).append(true).mode(whole::PRIVATE).open(&self.file)
    }

    /// Whoever has the lock rotates, if it is still needed.
    fn rotate(&self) -> io::Result<()> {
        let Some(_held) = whole::try_lock(&self.file.with_extension("lock"))? else { return Ok(()) };
        if fs::metadata(&self.file)?.len() < self.full {
            return Ok(());
        }
        for age in (0..FILES - 1).rev() {
            match fs::rename(rotated(&self.file, age), rotated(&self.file, age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// One entry: the formatter writes it in one piece.
pub struct Line<'a>(&'a Writer);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A full disk must not stop what is being logged.
        let _ = self.0.append(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_rotated_and_only_so_many_are_kept_even_with_two_writers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log").join("vsekai.log");
        // Four lines of ten bytes fill a file.
        let writers = [Writer::new(file.clone(), 40), Writer::new(file.clone(), 40)];
        for line in 0..30 {
            writers[line % 2].append(format!("line {line:04}\n").as_bytes()).unwrap();
        }
        let text = |age| fs::read_to_string(rotated(&file, age)).unwrap_or_default();
        let all: String = (0..=FILES).rev().map(text).collect();
        // Lines 28 and 29 in the present file, 12 to 27 in the four before; 0 to 11 are gone.
        let expected: String = (12..30).map(|line| format!("line {line:04}\n")).collect();
        assert_eq!(all, expected);
        assert_eq!(text(FILES), "");
        assert_eq!(text(0), "line 0028\nline 0029\n");
    }
}
