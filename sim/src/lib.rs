//! The game: fixed-tick, data-oriented systems on `bevy_ecs`, without I/O, clocks, threads or ambient randomness.
//!
//! A [`Simulation`] takes inputs through [`port`], runs one tick when its owner says so, and gives back a frame: the record
//! that storage keeps, and the changes that net replicates. Each gameplay feature is a folder with a `plugin`; what a
//! component means to disk, wire, hash and tools is declared once, beside it ([`registry`]).

pub mod build;
pub mod command;
pub mod craft;
pub mod inventory;
pub mod ledger;
pub mod movement;
pub mod player;
pub mod port;
mod random;
pub mod record;
pub mod registry;
pub mod resource;
#[cfg(test)]
mod scenario;
pub mod schedule;
mod shipped;
mod simulation;
pub mod space;
pub mod terrain;
pub mod world;

pub use random::TickRandom;
pub use shipped::SHIPPED_CONTENT;
pub use simulation::{ConfigError, RestoreError, SimConfig, Simulation};
