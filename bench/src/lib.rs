//! Load with synthetic players, and the measurements made with it.
//!
//! - [`bot`]: one synthetic player's mind: what it sees in, what it does out; no I/O.
//! - [`webrtc`] and [`loopback`]: what carries many of them; `matchbox`: the third-party client for it, behind a feature.
//! - [`report`]: what came of it, as a table and as JSON.
//! - [`bodies`]: what rigid bodies cost on the wire.
//! - [`replication`] and [`live`]: what replication costs, over loopback and over WebRTC; [`latency`]: how soon others see what one does;
//!   [`peers`]: the same beside others' replication.
//! - [`store`]: what the store costs, beside its peers.
//! - [`updates`]: what making, extracting and updating a big build costs, beside desync and casync; [`debian`]: where those come from.
//! - [`world`]: large worlds for measurements; [`process`]: a shard in a process of its own; [`threads`]: what its
//!   threads used.

pub mod bodies;
pub mod bot;
pub mod debian;
pub mod latency;
pub mod live;
pub mod loopback;
#[cfg(feature = "matchbox")]
pub mod matchbox;
pub mod peers;
pub mod process;
pub mod replication;
pub mod report;
pub mod store;
pub mod threads;
pub mod updates;
pub mod webrtc;
pub mod world;
