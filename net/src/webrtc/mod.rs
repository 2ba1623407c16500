//! The WebRTC transport, in the protocol of matchbox: a server that any unmodified matchbox client (native or browser) can
//! join ([`server`], its WebSocket half in [`signalling`]), and a light client for synthetic players ([`client`]).
//!
//! Both run str0m, which does no I/O: [`link`] is one connection with the two channels of `vsekai_schema::wire`, packets and
//! time in, packets and events out. The server is ICE-lite: clients find it, never the other way round, and one UDP port
//! carries all of them.

pub mod client;
pub mod error;
mod link;
pub mod server;
pub mod signalling;
#[cfg(test)]
mod tests;
mod worker;

pub use client::{Connection, Outgoing, connect};
pub use error::{ClientError, StartError};
pub use server::{Commands, Counters, Metrics, WebRtcConfig, WebRtcServer};
pub use signalling::upgrade;
