//! A keeper's connection to the supervisor. It never waits: who does not read is let go of.

use crate::link::{FromKeeper, LINE_BYTES_MAX, ToKeeper};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

pub struct Peer {
    stream: UnixStream,
    /// What has come of a line.
    begun: Vec<u8>,
    /// What the socket did not take yet.
    pending: Vec<u8>,
}

impl Peer {
    pub fn new(stream: UnixStream) -> io::Result<Peer> {
        stream.set_nonblocking(true)?;
        Ok(Peer { stream, begun: Vec::new(), pending: Vec::new() })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// False when the connection is no good any more.
    pub fn send(&mut self, message: &FromKeeper) -> bool {
        let Ok(mut line) = serde_json::to_vec(message) else { return false };
        line.push(b'\n');
        if self.pending.len() + line.len() > 2 * LINE_BYTES_MAX {
            return false;
        }
        self.pending.append(&mut line);
        self.flush()
    }

    /// False when the connection is no good any more.
    pub fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(0) => return false,
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Orders that have come; `None` when the other side is gone or says what cannot be understood.
    pub fn read(&mut self) -> Option<Vec<ToKeeper>> {
        let mut orders = Vec::new();
        let mut bytes = [0; 4_096];
        loop {
            match self.stream.read(&mut bytes) {
                // Orders that came before the end still count.
                Ok(0) => return (!orders.is_empty()).then_some(orders),
                Ok(count) => self.begun.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(orders),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return None,
            }
            while let Some(end) = self.begun.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.begun.drain(..=end).collect();
                orders.push(serde_json::from_slice(&line).ok()?);
            }
            if self.begun.len() > LINE_BYTES_MAX {
                return None;
            }
        }
    }
}
