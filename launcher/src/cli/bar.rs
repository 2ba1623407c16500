//! A progress bar on the terminal, if there is one.

use super::bytes;
use crate::install::{Look, Progress};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

const WIDTH: usize = 30;

/// Draws until it is dropped.
pub(super) struct Bar {
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Bar {
    /// Shows `progress` on stderr if that is a terminal.
    pub fn show(progress: Arc<Progress>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { thread: None };
        }
        let (sender, over) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            while over.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
                let look = progress.look();
                if look.state.is_at_work() || look.total > 0 {
                    let _ = write!(std::io::stderr(), "\r\x1b[K{}", line(&look));
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
            let _ = thread.join();
        }
    }
}

/// One line, without its end.
pub(super) fn line(look: &Look) -> String {
    let state = look.state.to_string();
    if look.total == 0 {
        return format!("{state:<12} {}", bytes(look.done));
    }
    let part = look.done.min(look.total) as f64 / look.total as f64;
    let full = (part * WIDTH as f64) as usize;
    format!(
        "{state:<12} [{}{}] {:>3} % {} of {}",
        "#".repeat(full),
        ".".repeat(WIDTH - full),
        (part * 100.0) as u32,
        bytes(look.done.min(look.total)),
        bytes(look.total)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::machine::State;

    #[test]
    fn a_line_says_how_far_it_is() {
        let look = Look { state: State::Downloading, done: 41_200_000, total: 82_400_000, fetched: 0, requests: 0 };
        assert_eq!(line(&look), "Downloading  [###############...............]  50 % 41.2 MB of 82.4 MB");
        assert_eq!(
            line(&Look { done: u64::MAX, ..look }),
            "Downloading  [##############################] 100 % 82.4 MB of 82.4 MB"
        );
        assert_eq!(line(&Look { total: 0, done: 7, ..look }), "Downloading  7 B");
    }
}
