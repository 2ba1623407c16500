//! Reads kept logs: the last lines, and those that come.

use super::{Line, files};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Most lines of one answer.
pub const LINES_MAX: usize = 10_000;
/// Most bytes that are looked at for one answer.
const BYTES_MAX: u64 = 8 << 20;
/// Most bytes that a follower reads at once.
const STEP_BYTES: u64 = 256 * 1_024;

/// The last lines with numbers below `before`, oldest first; at most `count`, which is at most [`LINES_MAX`].
pub fn tail(folder: &Path, count: usize, before: u64) -> Vec<Line> {
    let count = count.min(LINES_MAX);
    let mut found: VecDeque<Line> = VecDeque::new();
    let mut bytes_left = BYTES_MAX;
    for (first, path) in files(folder).into_iter().rev() {
        if found.len() >= count || bytes_left == 0 {
            break;
        }
        if first >= before {
            continue;
        }
        // A file may be removed while it is looked for: then there is nothing older either.
        let Ok(mut lines) = last_lines(&path, count - found.len(), before, &mut bytes_left) else { break };
        lines.append(&mut found);
        found = lines;
    }
    found.into()
}

fn last_lines(path: &Path, count: usize, before: u64, bytes_left: &mut u64) -> io::Result<VecDeque<Line>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    // From the end in growing steps, until there are enough lines or the file begins.
    let mut want = 64 * 1_024;
    loop {
        let part = size.min(want).min(*bytes_left);
        file.seek(SeekFrom::Start(size - part))?;
        let mut reader = BufReader::new(Read::by_ref(&mut file).take(part));
        let mut line = Vec::new();
        if part < size {
            // Probably the end of a line only.
            reader.read_until(b'\n', &mut line)?;
        }
        let mut found = VecDeque::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 || line.pop() != Some(b'\n') {
                break;
            }
            if let Some(line) = Line::parse(&line).filter(|line| line.number < before) {
                found.push_back(line);
                if found.len() > count {
                    found.pop_front();
                }
            }
        }
        if found.len() >= count || part == size || part == *bytes_left {
            *bytes_left -= part;
            return Ok(found);
        }
        want *= 8;
    }
}

/// Reads on from where it was.
#[derive(Debug)]
pub struct Follower {
    folder: PathBuf,
    /// The next line that is wanted.
    next: u64,
    open: Option<(u64, File, u64)>,
}

impl Follower {
    /// Gives lines with numbers from `next` on.
    pub fn new(folder: &Path, next: u64) -> Follower {
        Follower { folder: folder.to_owned(), next, open: None }
    }

    /// What has come since the last time; a bounded part of it, so an empty answer means that there is no more for now.
    ///
    /// # Errors
    /// When a file cannot be read that is there.
    pub fn read(&mut self) -> io::Result<Vec<Line>> {
        let files = files(&self.folder);
        loop {
            if self.open.is_none() {
                // The last file that begins at or before the wanted line, or the oldest that is left.
                let wanted = files.iter().rev().find(|(first, _)| *first <= self.next).or(files.first());
                let Some((first, path)) = wanted else { return Ok(Vec::new()) };
                self.open = Some((*first, File::open(path)?, 0));
            }
            let Some((first, file, offset)) = &mut self.open else { return Ok(Vec::new()) };
            file.seek(SeekFrom::Start(*offset))?;
            let mut bytes = Vec::new();
            file.take(STEP_BYTES).read_to_end(&mut bytes)?;
            let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
            *offset += whole as u64;
            let lines: Vec<Line> = bytes[..whole].split(|&byte| byte == b'\n').filter_map(Line::parse).collect();
            let lines: Vec<Line> = lines.into_iter().filter(|line| line.number >= self.next).collect();
            if let Some(last) = lines.last() {
                self.next = last.number + 1;
                return Ok(lines);
            }
            if whole > 0 {
                continue;
            }
            // This file is at its end: is there a later one?
            let first = *first;
            if !files.iter().any(|(other, _)| *other > first) {
                return Ok(Vec::new());
            }
            self.next = self.next.max(files.iter().find(|(other, _)| *other > first).map_or(0, |(other, _)| *other));
            self.open = None;
        }
    }
}
