//! Writes what a child says into its files. Nothing the child does makes this fail, grow or wait: lines are cut, files are bounded
//! and rotated, and what the disk does not take, or what is too much, is dropped and counted.

use super::{LogLimits, files, unix_ms, utc};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A last line is looked for in so many bytes at a file's end.
const LAST_LINE_WITHIN: u64 = 256 * 1_024;
/// After the disk refused, it is asked again this often at most.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Where a child's lines go.
#[derive(Debug)]
pub struct LogWriter {
    folder: PathBuf,
    limits: LogLimits,
    file: Option<File>,
    file_bytes: u64,
    file_since: SystemTime,
    /// The number that the next line gets.
    next: u64,
    /// Lines that are about to be written, and how many.
    buffer: Vec<u8>,
    buffered: u64,
    /// The time of the newest line, written out: a flood has many lines of one time.
    time: (u64, String),
    lost: u64,
    /// Lost lines that no line in the log tells of yet, and why they are.
    untold: u64,
    /// As many of them the buffer tells of.
    telling: u64,
    reason: String,
    retry_at: Option<Instant>,
    /// How many lines there may still be, and when that was so.
    allowance: (f64, Instant),
}

impl LogWriter {
    /// Goes on after the last line in the folder.
    pub fn open(folder: &Path, limits: LogLimits) -> LogWriter {
        let mut writer = LogWriter {
            folder: folder.to_owned(),
            allowance: (f64::from(limits.lines_per_s), Instant::now()),
            limits,
            file: None,
            file_bytes: 0,
            file_since: SystemTime::now(),
            next: 1,
            buffer: Vec::new(),
            buffered: 0,
            time: (0, utc(0)),
            lost: 0,
            untold: 0,
            telling: 0,
            reason: String::new(),
            retry_at: None,
        };
        if let Err(error) = fs::create_dir_all(folder).and_then(|()| writer.resume()) {
            writer.refused(&error);
        }
        writer
    }

    /// Lines written and lines lost. The former counts those of earlier runs, too.
    pub fn counts(&self) -> (u64, u64) {
        (self.next - 1, self.lost)
    }

    /// Adds a line; it is cut if need be. It reaches the file with [`Self::flush`].
    pub fn line(&mut self, stream: char, text: &[u8]) {
        if stream != 's' && !self.allowed() {
            self.lose(1, "more lines in a second than are kept");
            return;
        }
        self.tell();
        self.push(stream, text);
    }

    /// The losses count as told when the buffer is written.
    fn tell(&mut self) {
        if self.buffer.is_empty() && self.untold > 0 {
            self.telling = self.untold;
            let text = format!("{} lines were lost: {}", self.untold, self.reason);
            self.push('s', text.as_bytes());
        }
    }

    fn push(&mut self, stream: char, text: &[u8]) {
        let number = self.next + self.buffered;
        self.buffered += 1;
        let now_ms = unix_ms();
        if self.time.0 != now_ms {
            self.time = (now_ms, utc(now_ms));
        }
        self.buffer.extend_from_slice(format!("{number} {} {stream} ", self.time.1).as_bytes());
        self.buffer.extend_from_slice(text);
        self.buffer.push(b'\n');
    }

    fn allowed(&mut self) -> bool {
        let (left, at) = self.allowance;
        let per_s = f64::from(self.limits.lines_per_s);
        let now = Instant::now();
        let left = (left + now.duration_since(at).as_secs_f64() * per_s).min(per_s);
        self.allowance = ((left - 1.0).max(0.0), now);
        left >= 1.0
    }

    fn lose(&mut self, lines: u64, reason: &str) {
        self.lost += lines;
        self.untold += lines;
        if self.reason != reason {
            reason.clone_into(&mut self.reason);
        }
    }

    fn refused(&mut self, error: &io::Error) {
        self.lose(self.buffered - u64::from(self.telling > 0), &error.to_string());
        self.retry_at = Some(Instant::now() + RETRY_INTERVAL);
    }

    /// Writes what was added. What the disk refuses is lost, and said to be as soon as it takes something again.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            let reason = self.reason.clone();
            self.lose(self.buffered - u64::from(self.telling > 0), &reason);
        } else {
            match self.write() {
                Ok(()) => {
                    self.next += self.buffered;
                    self.untold -= self.telling;
                    self.retry_at = None;
                }
                Err(error) => self.refused(&error),
            }
        }
        self.buffer.clear();
        self.buffered = 0;
        self.telling = 0;
    }

    /// Lines that were lost in a flood after which nothing more is said are told, too.
    pub fn tell_losses(&mut self) {
        self.tell();
        self.flush();
    }

    fn write(&mut self) -> io::Result<()> {
        let age = self.file_since.elapsed().unwrap_or_default();
        let full = self.file_bytes >= self.limits.file_bytes || age.as_secs() >= self.limits.file_age_s;
        if self.file.is_none() || full && self.file_bytes > 0 {
            self.begin_file()?;
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        match file.write_all(&self.buffer) {
            Ok(()) => {
                self.file_bytes += self.buffer.len() as u64;
                Ok(())
            }
            Err(error) => {
                // No half line may stay before the next whole one.
                if file.set_len(self.file_bytes).is_err() {
                    self.file = None;
                }
                Err(error)
            }
        }
    }

    fn begin_file(&mut self) -> io::Result<()> {
        self.file = None;
        // Room first: on a full disk this is what makes some.
        let old = files(&self.folder);
        let keep = self.limits.files.max(1) as usize - 1;
        for (_, path) in &old[..old.len().saturating_sub(keep)] {
            fs::remove_file(path)?;
        }
        let path = self.folder.join(format!("{:020}.log", self.next));
        self.file = Some(OpenOptions::new().create(true).append(true).open(path)?);
        self.file_bytes = 0;
        self.file_since = SystemTime::now();
        Ok(())
    }

    /// Finds the number of the next line, and the file that it goes to; a line that is not whole is cut off.
    fn resume(&mut self) -> io::Result<()> {
        let Some((first, path)) = files(&self.folder).pop() else { return Ok(()) };
        self.next = self.next.max(first);
        let mut file = OpenOptions::new().read(true).append(true).open(&path)?;
        let size = file.seek(SeekFrom::End(0))?;
        let from = size.saturating_sub(LAST_LINE_WITHIN);
        file.seek(SeekFrom::Start(from))?;
        let mut end = Vec::new();
        Read::by_ref(&mut file).take(LAST_LINE_WITHIN).read_to_end(&mut end)?;
        let whole = end.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let number = end[..whole]
            .split(|&byte| byte == b'\n')
            .rev()
            .find_map(|line| std::str::from_utf8(line.split(|&byte| byte == b' ').next()?).ok()?.parse::<u64>().ok());
        if let Some(number) = number {
            self.next = number + 1;
        }
        self.file_bytes = from + whole as u64;
        file.set_len(self.file_bytes)?;
        self.file_since = file.metadata()?.created().unwrap_or_else(|_| SystemTime::now());
        self.file = Some(file);
        Ok(())
    }
}

/// Cuts what comes out of a pipe into lines.
#[derive(Debug)]
pub struct Lines {
    stream: char,
    line_bytes: usize,
    /// The beginning of a line whose end has not come yet, shorter than a longest line.
    begun: Vec<u8>,
}

impl Lines {
    /// For what comes from this stream.
    pub fn new(stream: char, line_bytes: usize) -> Lines {
        Lines { stream, line_bytes: line_bytes.max(1), begun: Vec::new() }
    }

    /// Takes what came, and gives whole lines on.
    pub fn take(&mut self, mut bytes: &[u8], log: &mut LogWriter) {
        while !bytes.is_empty() {
            let room = self.line_bytes - self.begun.len();
            let part = &bytes[..bytes.len().min(room + 1)];
            match part.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    self.begun.extend_from_slice(&part[..end]);
                    self.give(log);
                    bytes = &bytes[end + 1..];
                }
                None if part.len() > room => {
                    self.begun.extend_from_slice(&part[..room]);
                    self.give(log);
                    bytes = &bytes[room..];
                }
                None => {
                    self.begun.extend_from_slice(part);
                    bytes = &bytes[part.len()..];
                }
            }
        }
    }

    /// Nothing more comes: what was begun is a line.
    pub fn end(&mut self, log: &mut LogWriter) {
        if !self.begun.is_empty() {
            self.give(log);
        }
    }

    fn give(&mut self, log: &mut LogWriter) {
        log.line(self.stream, &self.begun);
        self.begun.clear();
    }
}
