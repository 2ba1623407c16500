//! `unix:SOCKET`: one process owns a `local:` or `mem:` store and serves it to others on the machine, with the semantics of
//! the same store in-process.
//!
//! A transaction keeps its own writes, conflict ranges and limits on the client's side, as always; the server holds
//! snapshots, decides on commits and watches keys. `storage/docs/unix.md` describes the protocol.
//!
//! - `protocol`: messages and their bytes. `socket`: the file, and who may serve at it.
//! - `server`: accepts, stops, counts; `connection`: one client of it. `client`: the other end.

mod client;
mod connection;
mod protocol;
mod server;
mod socket;

pub(super) use client::{RemoteSnapshot, RemoteStore, RemoteWatch};
pub use client::{ServerFacts, server_facts};
pub(super) use connection::ClientWatch;
pub use server::{ServerStatus, StoreServer, serve};

/// Most commits of one connection that may be in flight; a client waits before it sends more.
const COMMITS_IN_FLIGHT_MAX: usize = 1_024;
/// Most bytes of commit messages of one connection in flight. One commit may always be.
const COMMIT_BYTES_IN_FLIGHT_MAX: usize = 32 << 20;

/// Is this a request, without its length?
pub(crate) fn is_request(bytes: &[u8]) -> bool {
    protocol::Request::decode(bytes).is_ok()
}

/// Is this an answer, without its length?
pub(crate) fn is_answer(bytes: &[u8]) -> bool {
    protocol::Answer::decode(bytes).is_ok()
}

#[cfg(test)]
mod tests;
