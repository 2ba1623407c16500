//! The network: sessions and replication as state machines without I/O, the transports that carry their bytes, and the
//! client's side of the protocol.
//!
//! - [`session`], [`server`], [`replication`], [`gate`]: the shard's side; bytes and time in, bytes and inputs out.
//! - [`token`], [`porter`], [`flood`]: who may come in, and how much anybody may send.
//! - [`pose_relay`]: head and hands, past the tick.
//! - [`prediction`]: the own player ahead, others smooth.
//! - [`client`]: the client's side, for synthetic players and native extensions.
//! - [`web`]: the browser client's files.
//! - [`transport`]: the seam; [`webrtc`] and [`loopback`]: what is behind it.

pub mod client;
pub mod flood;
pub mod gate;
pub mod loopback;
pub mod porter;
pub mod pose_relay;
pub mod prediction;
pub mod replication;
pub mod server;
pub mod session;
pub mod token;
pub mod transport;
pub mod web;
pub mod webrtc;
