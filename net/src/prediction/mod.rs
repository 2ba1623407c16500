//! What makes the own player's steps immediate and others' movement smooth, without I/O: bytes, ticks and time in, values out.
//!
//! - [`clock`]: which tick the shard is at, from pings.
//! - [`input`]: the shard's buffer, which takes one input a tick from what arrives with gaps and jitter, and the client's pacing by
//!   what the buffer reports.
//! - [`predict`]: the own player, a step ahead of the shard, put right when the shard disagrees.
//! - [`interpolate`]: others, between two snapshots, as late as the network's jitter asks for.
//! - [`rewind`]: where others were when a player aimed at them, for the shard.
//!
//! The step is `sim`'s, so that client and shard agree to the millimetre; `schema/docs/movement.md` specifies it for other languages,
//! and `net/web/prediction.js` is the same kit in JavaScript.

pub mod clock;
pub mod input;
pub mod interpolate;
pub mod predict;
pub mod rewind;
#[cfg(test)]
mod tests;
