//! A progress bar on standard error, if that is a terminal.

use crate::output::bytes;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const WIDTH: usize = 30;
const REDRAW: Duration = Duration::from_millis(100);

/// Draws until it is dropped.
pub struct Bar {
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Bar {
    /// Shows what `look` gives, ten times a second; `None` leaves what is there.
    pub fn show(look: impl Fn() -> Option<String> + Send + 'static) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { thread: None };
        }
        let (sender, over) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            while over.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
                if let Some(line) = look() {
                    // A terminal that is gone is no reason to stop.
                    let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
                }
            }
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        });
        Self { thread: Some((sender, thread)) }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.thread.take() {
            drop(sender);
            // It panicked if at all while drawing, and the task is done.
            let _ = thread.join();
        }
    }
}

/// One line, without its end: what is done, and bytes of how many, 0 if that is not known.
pub fn line(what: &str, done: u64, total: u64) -> String {
    if total == 0 {
        return format!("{what:<12} {}", bytes(done));
    }
    let part = done.min(total) as f64 / total as f64;
    let full = (part * WIDTH as f64) as usize;
    format!(
        "{what:<12} [{}{}] {:>3} % {} of {}",
        "#".repeat(full),
        ".".repeat(WIDTH - full),
        (part * 100.0) as u32,
        bytes(done.min(total)),
        bytes(total)
    )
}

/// Counts the bytes of a task that has but one; many threads may tell it. Shown until it is dropped.
pub struct Counter {
    done: Arc<AtomicU64>,
    _bar: Bar,
}

impl Counter {
    /// `total` is 0 while it is not known.
    pub fn new(what: &'static str, total: u64) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let (began, seen) = (Instant::now(), done.clone());
        let look = move || {
            let done = seen.load(Ordering::Relaxed);
            let speed = done as f64 / began.elapsed().as_secs_f64().max(0.001);
            Some(format!("{}, {}/s", line(what, done, total), bytes(speed as u64)))
        };
        Self { done, _bar: Bar::show(look) }
    }

    /// So many bytes more are done.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        assert_eq!(
            line("Downloading", 41_200_000, 82_400_000),
            "Downloading  [###############...............]  50 % 41.2 MB of 82.4 MB"
        );
        assert_eq!(
            line("extracting", u64::MAX, 2_000_000),
            "extracting   [##############################] 100 % 2.0 MB of 2.0 MB"
        );
        assert_eq!(line("archiving", 7, 0), "archiving    7 B");
    }
}
