//! A progress bar on standard error, if that is a terminal.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WIDTH: usize = 30;
const REDRAW: Duration = Duration::from_millis(100);

/// Counts bytes; many threads may tell it.
pub struct Progress {
    what: &'static str,
    /// Bytes in all, 0 while that is not known.
    total: u64,
    done: AtomicU64,
    /// When it was drawn last; `None` where nobody looks.
    drawn: Option<Mutex<Instant>>,
    began: Instant,
}

impl Progress {
    pub fn new(what: &'static str, total: u64) -> Self {
        let began = Instant::now();
        let drawn = std::io::stderr().is_terminal().then(|| Mutex::new(began));
        Self { what, total, done: AtomicU64::new(0), drawn, began }
    }

    /// So many bytes more are done.
    pub fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let Some(drawn) = &self.drawn else { return };
        if let Ok(mut drawn) = drawn.try_lock()
            && drawn.elapsed() >= REDRAW
        {
            *drawn = Instant::now();
            // A terminal that is gone is no reason to stop.
            let _ = write!(std::io::stderr(), "\r{}\x1b[K", self.line(done));
        }
    }

    fn line(&self, done: u64) -> String {
        let mega = |bytes: u64| bytes as f64 / 1e6;
        let speed = mega(done) / self.began.elapsed().as_secs_f64().max(0.001);
        if self.total == 0 {
            return format!("{} {:.1} MB, {speed:.0} MB/s", self.what, mega(done));
        }
        let part = (done as f64 / self.total as f64).min(1.0);
        let full = (part * WIDTH as f64) as usize;
        let bar = "=".repeat(full) + &" ".repeat(WIDTH - full);
        format!(
            "{} [{bar}] {:3.0} %  {:.1} of {:.1} MB, {speed:.0} MB/s",
            self.what,
            part * 100.0,
            mega(done),
            mega(self.total)
        )
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_long_as_what_is_done() {
        let progress = Progress::new("extracting", 2_000_000);
        progress.add(500_000);
        progress.add(500_000);
        let line = progress.line(progress.done.load(Ordering::Relaxed));
        assert!(
            line.starts_with(&format!("extracting [{}{}]  50 %  1.0 of 2.0 MB", "=".repeat(15), " ".repeat(15))),
            "{line}"
        );
        assert!(progress.line(9_000_000).contains("100 %"));
    }
}
